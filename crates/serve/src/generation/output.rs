//! Decoding of a choice's output: tokens to text, reasoning, tool calls, stop strings and log-probabilities. Runs on the engine's thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use engine::{Event, EventSink, Finish as Ended, Scores, Timing};
use text::reply::{Delta, Parser};
use text::{Detokenizer, StopStrings, Tokenizer};
use tokio::sync::mpsc::UnboundedSender;

use crate::generation::events::{ChoiceEnd, FinishReason, OutputEvent, TokenLogprob};

/// Tokens of a choice so far. Sent with each event, so that tokens count when their event is taken out of the channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCount {
    /// Generated tokens.
    pub tokens: usize,
    /// Reasoning tokens among them.
    pub reasoning: usize,
}

/// An event, with the index of its choice and the tokens up to it.
pub type TaggedEvent = (usize, TokenCount, OutputEvent);

/// Options of an `OutputDecoder`.
pub struct OutputOptions {
    /// Number of prompt tokens.
    pub prompt: usize,
    /// Stop strings.
    pub stops: Vec<String>,
    /// End-of-text ids that the engine was not told of, so that they arrive as tokens.
    pub ends: Vec<u32>,
    /// Trim leading spaces: some templates end without the space that the answer then begins with.
    pub trim: bool,
    /// Parser of reasoning and tool calls; without it all output is text.
    pub parser: Option<Parser>,
    /// Special tokens that are passed to the parser.
    pub markers: Vec<&'static str>,
    /// Prompt to return before the output.
    pub echo: Option<Echo>,
    /// A timeout is the server's, not the client's.
    pub bounded: bool,
    /// The prompt was cut to fit.
    pub truncated: bool,
}

/// Whether more output follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Not,
    /// End of text.
    Ended,
    /// A limit was reached.
    Cut,
}

/// A prompt that is returned before the output, with scores if `scored`.
pub struct Echo {
    pub ids: Vec<u32>,
    pub text: String,
    pub scored: bool,
}

/// Turns the engine's events of one choice into output events: at most one a token and a few more, so the channel is bounded by the context.
pub struct OutputDecoder {
    tokenizer: Arc<Tokenizer>,
    stream: Detokenizer<Arc<Tokenizer>>,
    options: OutputOptions,
    stops: StopStrings,
    choice: usize,
    parts: UnboundedSender<TaggedEvent>,
    /// Scores of tokens whose text is held back, each with the byte offset of that text.
    held: Vec<(usize, TokenLogprob)>,
    /// Bytes of text decoded, bytes sent, characters decoded.
    decoded: usize,
    given: usize,
    characters: usize,
    /// Scores of the prompt's tokens.
    prompt: Vec<Scores>,
    calls: usize,
    in_reasoning: bool,
    count: TokenCount,
    /// Sum and number of log-probabilities.
    sum: (f64, usize),
    /// One of `ends` arrived.
    ended: bool,
}

impl OutputDecoder {
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        mut options: OutputOptions,
        choice: usize,
        parts: UnboundedSender<TaggedEvent>,
    ) -> OutputDecoder {
        // Special tokens are skipped, except those that the parser needs.
        let stream = Detokenizer::continuing(Arc::clone(&tokenizer), false);
        let stops = StopStrings::new(std::mem::take(&mut options.stops));
        OutputDecoder {
            tokenizer,
            stream,
            options,
            stops,
            choice,
            parts,
            held: Vec::new(),
            decoded: 0,
            given: 0,
            characters: 0,
            prompt: Vec::new(),
            calls: 0,
            in_reasoning: false,
            count: TokenCount::default(),
            sum: (0.0, 0),
            ended: false,
        }
    }

    /// Sends an event; `Break` when the receiver is gone.
    fn send(&self, part: OutputEvent) -> ControlFlow<()> {
        self.parts.send((self.choice, self.count, part)).map_or(ControlFlow::Break(()), ControlFlow::Continue)
    }

    fn scored(&self, id: u32, scores: Option<Scores>, offset: usize) -> TokenLogprob {
        let spelled = |id: u32| {
            let bytes = self.tokenizer.bytes(id).unwrap_or_default();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        let (token, bytes) = spelled(id);
        let (value, top) = scores.map_or((None, Vec::new()), |(value, top)| (Some(value), top));
        let top = top.into_iter().map(|(id, v)| (spelled(id), v)).map(|((t, b), v)| (t, b, v)).collect();
        TokenLogprob { token, bytes, value, top, offset }
    }

    /// Sends the echoed prompt, before any output.
    fn echo(&mut self) -> ControlFlow<()> {
        let Some(echo) = self.options.echo.take() else { return ControlFlow::Continue(()) };
        let mut scored = Vec::new();
        if echo.scored {
            let mut stream = Detokenizer::new(Arc::clone(&self.tokenizer), true);
            let mut scores = std::mem::take(&mut self.prompt).into_iter();
            let mut offset = 0;
            for (i, &id) in echo.ids.iter().enumerate() {
                let of_this = if i == 0 { None } else { scores.next() };
                scored.push(self.scored(id, of_this, offset));
                offset += stream.push(id).chars().count();
            }
        }
        self.characters = echo.text.chars().count();
        self.send(OutputEvent::Text { text: echo.text, scored })
    }

    /// Whether a token is text or a marker for the parser.
    fn is_seen(&self, id: u32) -> bool {
        !self.tokenizer.is_special(id)
            || self.tokenizer.piece(id).is_some_and(|piece| self.options.markers.iter().any(|m| piece.contains(m)))
    }

    fn token(&mut self, id: u32, scores: Option<Scores>) -> ControlFlow<()> {
        self.count.tokens += 1;
        if let Some(scores) = scores {
            self.sum = (self.sum.0 + f64::from(scores.0), self.sum.1 + 1);
            let scored = self.scored(id, Some(scores), self.characters);
            self.held.push((self.decoded, scored));
        }
        if self.options.ends.contains(&id) {
            self.ended = true;
            return ControlFlow::Continue(());
        }
        let text = if self.is_seen(id) { self.stream.push(id) } else { String::new() };
        let flow = self.read(text, Ending::Not);
        self.count.reasoning += usize::from(self.in_reasoning);
        flow
    }

    /// Parses decoded text and sends what is complete.
    fn read(&mut self, mut text: String, last: Ending) -> ControlFlow<()> {
        if self.options.trim && !text.is_empty() {
            let rest = text.trim_start();
            if rest.len() != text.len() {
                // Offsets count the text that is sent.
                self.held.iter_mut().for_each(|(at, s)| (*at, s.offset) = (0, 0));
            }
            text = rest.to_string();
            self.options.trim = text.is_empty();
        }
        let Some(parser) = &mut self.options.parser else { return self.content(text, last != Ending::Not) };
        let mut deltas = parser.push(&text);
        deltas.extend(match last {
            Ending::Not => Vec::new(),
            Ending::Ended => parser.finish(),
            Ending::Cut => parser.cut(),
        });
        for delta in deltas {
            self.in_reasoning = matches!(delta, Delta::Reasoning(_));
            match delta {
                Delta::Content(text) => self.content(text, false)?,
                Delta::Reasoning(text) => {
                    let scored = self.held.drain(..).map(|(_, s)| s).collect();
                    self.send(OutputEvent::Reasoning { text, scored })?;
                }
                Delta::CallStart { index, name, id } => {
                    // What was held back was not the beginning of a stop string.
                    let rest = self.stops.finish();
                    if !rest.is_empty() {
                        self.given += rest.len();
                        self.send(OutputEvent::Text { text: rest, scored: Vec::new() })?;
                    }
                    self.held.clear();
                    self.calls = index + 1;
                    let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| crate::ids::fresh_id("call_"));
                    self.send(OutputEvent::Call { index, id, name })?;
                }
                Delta::Arguments { index, text } => {
                    self.held.clear();
                    self.send(OutputEvent::Arguments { index, text })?;
                }
            }
        }
        if last == Ending::Not { ControlFlow::Continue(()) } else { self.content(String::new(), true) }
    }

    /// Sends text up to a stop string.
    fn content(&mut self, text: String, last: bool) -> ControlFlow<()> {
        self.decoded += text.len();
        self.characters += text.chars().count();
        let mut out = self.stops.push(&text);
        if last {
            out.push_str(&self.stops.finish());
        }
        self.given += out.len();
        let stopped = self.stops.hit().is_some();
        let all = last && !stopped;
        let given = self.given;
        let ready = self.held.iter().take_while(|(at, _)| all || *at < given).count();
        let scored: Vec<TokenLogprob> = self.held.drain(..ready).map(|(_, s)| s).collect();
        if !out.is_empty() || !scored.is_empty() {
            self.send(OutputEvent::Text { text: out, scored })?;
        }
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn end(&mut self, finish: Ended, timing: Timing) {
        let _ = self.echo();
        if self.stops.hit().is_none() {
            let rest = self.stream.finish();
            let cut = matches!(finish, Ended::Length | Ended::Context | Ended::Time) && !self.ended;
            let _ = self.read(rest, if cut { Ending::Cut } else { Ending::Ended });
        }
        let stop = self.stops.hit().map(str::to_string);
        let finish = match finish {
            _ if stop.is_some() => FinishReason::Stop,
            Ended::Time if self.options.bounded => FinishReason::Resource,
            Ended::Length if self.ended => FinishReason::Stop,
            Ended::Length | Ended::Context | Ended::Time => FinishReason::Length,
            Ended::Stop(_) | Ended::Complete | Ended::Cancelled if self.calls > 0 => FinishReason::Calls,
            Ended::Stop(_) | Ended::Complete | Ended::Cancelled => FinishReason::Stop,
        };
        let (sum, count) = self.sum;
        let mean = if count == 0 { 0.0 } else { sum / count as f64 };
        let end = ChoiceEnd { finish, stop, timing, truncated: self.options.truncated, mean };
        let _ = self.send(OutputEvent::End(end));
    }
}

impl EventSink for OutputDecoder {
    fn take(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Started { cached, differs_at, waited, .. } => {
                self.send(OutputEvent::Started { prompt: self.options.prompt, cached, differs_at, waited })?;
                if self.options.echo.as_ref().is_some_and(|e| !e.scored) {
                    self.echo()
                } else {
                    ControlFlow::Continue(())
                }
            }
            Event::Read { written } => self.send(OutputEvent::Read { written }),
            // Nobody who decodes text asks for it.
            Event::Pooled(_) => ControlFlow::Continue(()),
            Event::Prompt(scores) => {
                self.prompt.extend(scores);
                ControlFlow::Continue(())
            }
            Event::Token { id, log_probabilities } => {
                self.echo()?;
                self.token(id, log_probabilities)
            }
            Event::End { finish, timing } => {
                self.end(finish, timing);
                ControlFlow::Continue(())
            }
            Event::Failed(error) => self.send(OutputEvent::Failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use text::reply::{Format, Options};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::generation::events::ChoiceOutput;

    fn tokenizer() -> Arc<Tokenizer> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/tokenizer.json");
        Arc::new(Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap())
    }

    fn plain() -> OutputOptions {
        OutputOptions {
            prompt: 1,
            stops: Vec::new(),
            ends: Vec::new(),
            trim: false,
            parser: None,
            markers: Vec::new(),
            echo: None,
            bounded: true,
            truncated: false,
        }
    }

    fn parsed(name: &str, reasoning_opened: bool) -> OutputOptions {
        let format = Format::by_name(name).unwrap();
        let parser = Some(Parser::new(format, Options { reasoning_opened, tools: true }));
        OutputOptions { parser, markers: format.markers(true), ..plain() }
    }

    fn timing() -> Timing {
        let none = std::time::Duration::ZERO;
        Timing { prompt_tokens: 1, prefill: none, generated: 0, decode: none, cached_tokens: 0, waited: none }
    }

    /// The parts of an answer whose tokens are these, with their counts; the engine is told to stop where a sink says so.
    fn given(options: OutputOptions, ids: &[u32], finish: Ended) -> Vec<TaggedEvent> {
        let (sender, mut parts) = unbounded_channel();
        let mut answer = OutputDecoder::new(tokenizer(), options, 0, sender);
        assert!(
            answer
                .take(Event::Started { seed: 1, cached: 0, differs_at: None, waited: std::time::Duration::ZERO })
                .is_continue()
        );
        let mut finish = finish;
        for &id in ids {
            let log_probabilities = Some((-1.0, vec![(id, -1.0)]));
            if answer.take(Event::Token { id, log_probabilities }).is_break() {
                finish = Ended::Cancelled;
                break;
            }
        }
        assert!(answer.take(Event::End { finish, timing: timing() }).is_continue());
        std::iter::from_fn(|| parts.try_recv().ok()).collect()
    }

    fn parts(options: OutputOptions, ids: &[u32], finish: Ended) -> Vec<OutputEvent> {
        given(options, ids, finish).into_iter().map(|(_, _, part)| part).collect()
    }

    fn whole(options: OutputOptions, text: &str) -> ChoiceOutput {
        let ids = tokenizer().encode(text, false).unwrap();
        let mut whole = ChoiceOutput::default();
        parts(options, &ids, Ended::Stop(1)).into_iter().for_each(|part| whole.add(part));
        whole
    }

    #[test]
    fn text_ends_at_a_stop_string_and_scores_follow_it() {
        let options = OutputOptions { stops: vec!["zzz".to_string(), " little girl".to_string()], ..plain() };
        let got = whole(options, "There was a little girl named Lily.");
        assert_eq!(
            (got.text.as_str(), got.stop(), got.finish()),
            ("There was a", Some(" little girl"), FinishReason::Stop)
        );
        assert_eq!(got.scored.iter().map(|s| s.token.as_str()).collect::<String>(), "There was a");
        let all = whole(plain(), "There was a cat.");
        assert_eq!((all.text.as_str(), all.stop()), ("There was a cat.", None));
        assert_eq!(all.scored.iter().map(|s| s.offset).collect::<Vec<_>>()[..2], [0, all.scored[0].token.len()]);
        let trimmed = whole(OutputOptions { trim: true, ..plain() }, " Hi there");
        assert_eq!(trimmed.text, "Hi there");
    }

    #[test]
    fn reasoning_comes_first_and_never_with_text() {
        let options = OutputOptions { stops: vec!["cat".to_string()], ..parsed("hermes", true) };
        let ids = tokenizer().encode("A cat?</think>\n\nThe dog and the cat", false).unwrap();
        let given = given(options, &ids, Ended::Length);
        // A part counts the tokens up to it, so that it can be the last; the end counts all, those of the stop string too.
        assert!(given.windows(2).all(|w| w[0].1.tokens <= w[1].1.tokens));
        let Some((_, TokenCount { tokens, reasoning }, OutputEvent::End(_))) = given.last() else {
            panic!("{given:?}")
        };
        assert!(*tokens == ids.len() && (3..ids.len()).contains(reasoning));
        let parts: Vec<OutputEvent> = given.into_iter().map(|(_, _, part)| part).collect();
        let reasoned = parts.iter().rposition(|p| matches!(p, OutputEvent::Reasoning { .. })).unwrap();
        let said = parts.iter().position(|p| matches!(p, OutputEvent::Text { .. })).unwrap();
        assert!(reasoned < said, "{parts:?}");
        let mut whole = ChoiceOutput::default();
        parts.into_iter().for_each(|part| whole.add(part));
        // A stop string ends the text, not the reasoning.
        assert_eq!((whole.reasoning.as_str(), whole.text.as_str()), ("A cat?", "The dog and the "));
        let end = whole.end.as_ref().unwrap();
        assert!(end.finish == FinishReason::Stop && end.mean == -1.0);
        assert!(!whole.reasoning_scored.is_empty());
    }

    #[test]
    fn calls_are_told_as_they_come() {
        let text = "Going.\n<tool_call>\n{\"name\": \"go\", \"arguments\": {\"place\": \"park\"}}\n</tool_call>";
        let got = whole(parsed("hermes", false), text);
        assert_eq!((got.text.trim(), got.finish()), ("Going.", FinishReason::Calls));
        let call = &got.calls[0];
        assert_eq!((call.name.as_str(), call.arguments.as_str()), ("go", "{\"place\": \"park\"}"));
        assert!(call.id.starts_with("call_"));
        let ids = tokenizer().encode(text, false).unwrap();
        let pieces = parts(parsed("hermes", false), &ids, Ended::Stop(1));
        assert!(pieces.iter().filter(|p| matches!(p, OutputEvent::Arguments { .. })).count() > 3, "{pieces:?}");
        // What is cut off was not finished by the model.
        let mut cut = ChoiceOutput::default();
        parts(parsed("hermes", false), &ids[..ids.len() - 4], Ended::Length).into_iter().for_each(|p| cut.add(p));
        assert_eq!(cut.finish(), FinishReason::Length);
        // Nor is the beginning of its markup what the model said.
        for end in 1..ids.len() {
            let mut cut = ChoiceOutput::default();
            parts(parsed("hermes", false), &ids[..end], Ended::Length).into_iter().for_each(|p| cut.add(p));
            assert!("Going.\n".starts_with(&cut.text), "{end}: {:?}", cut.text);
        }
    }

    #[test]
    fn a_prompt_is_given_back_with_its_scores() {
        let ids = tokenizer().encode("Once upon", false).unwrap();
        let echo = Echo { ids: ids.clone(), text: "Once upon".to_string(), scored: true };
        let (sender, mut parts) = unbounded_channel();
        let options = OutputOptions { echo: Some(echo), ends: vec![1], ..plain() };
        let mut answer = OutputDecoder::new(tokenizer(), options, 3, sender);
        for event in [
            Event::Started { seed: 1, cached: 0, differs_at: None, waited: std::time::Duration::ZERO },
            Event::Prompt(vec![(-0.5, vec![(7, -0.1)])]),
            // The end of the text, as a token: its score counts, its text does not.
            Event::Token { id: 1, log_probabilities: Some((-2.0, Vec::new())) },
            Event::End { finish: Ended::Length, timing: timing() },
        ] {
            let _ = answer.take(event);
        }
        let mut whole = ChoiceOutput::default();
        while let Ok((choice, _, part)) = parts.try_recv() {
            assert_eq!(choice, 3);
            whole.add(part);
        }
        assert_eq!((whole.text.as_str(), whole.finish()), ("Once upon", FinishReason::Stop));
        assert_eq!(whole.scored.iter().map(|s| s.value).collect::<Vec<_>>(), [None, Some(-0.5), Some(-2.0)]);
        assert_eq!(whole.scored[1].top.len(), 1);
    }

    #[test]
    fn who_cut_an_answer_is_told() {
        let end = |bounded| {
            let mut whole = ChoiceOutput::default();
            parts(OutputOptions { bounded, ..plain() }, &[655], Ended::Time)
                .into_iter()
                .for_each(|part| whole.add(part));
            whole.finish()
        };
        assert_eq!((end(true), end(false)), (FinishReason::Resource, FinishReason::Length));
    }
}
