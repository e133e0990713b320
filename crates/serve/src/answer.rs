//! Events of the engine to pieces of text: whole characters, stop strings, log-probabilities. Runs on the engine's thread.

use std::ops::ControlFlow;
use std::sync::Arc;

use engine::service::{Event, Sink};
use engine::{EngineError, Finish, Timing};
use text::{Stops, Stream, Tokenizer};
use tokio::sync::mpsc::UnboundedSender;

use crate::wire::Scored;

/// Text that can be given, with the tokens that made it.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    pub text: String,
    pub scored: Vec<Scored>,
}

/// What goes to the connection. As many as tokens at most, so the channel is bounded by the context.
#[derive(Debug)]
pub enum Part {
    Piece(Piece),
    End { finish: &'static str, timing: Timing },
    Failed(EngineError),
}

/// Makes text of one request's events.
pub struct Answer {
    tokenizer: Arc<Tokenizer>,
    stream: Stream<Arc<Tokenizer>>,
    stops: Stops,
    parts: UnboundedSender<Part>,
    /// Scores of tokens whose text is held back, each with where its text begins in bytes.
    held: Vec<(usize, Scored)>,
    /// Bytes decoded, bytes given, characters decoded.
    decoded: usize,
    given: usize,
    characters: usize,
    /// Templates that end without a space get their answers with one: it is dropped.
    trim: bool,
}

impl Answer {
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>, trim: bool, parts: UnboundedSender<Part>) -> Answer {
        let stream = Stream::continuing(Arc::clone(&tokenizer), true);
        let stops = Stops::new(stops);
        Answer { tokenizer, stream, stops, parts, held: Vec::new(), decoded: 0, given: 0, characters: 0, trim }
    }

    fn spelled(&self, id: u32) -> (String, Vec<u8>) {
        let bytes = self.tokenizer.bytes(id).unwrap_or_default();
        (String::from_utf8_lossy(&bytes).into_owned(), bytes)
    }

    /// Text that came, to text that can be given.
    fn give(&mut self, mut text: String, last: bool) -> ControlFlow<()> {
        if self.trim && !text.is_empty() {
            let rest = text.trim_start();
            if rest.len() != text.len() {
                // Offsets count what is given.
                self.held.iter_mut().for_each(|(at, s)| (*at, s.offset) = (0, 0));
            }
            text = rest.to_string();
            self.trim = text.is_empty();
        }
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
        let scored: Vec<Scored> = self.held.drain(..ready).map(|(_, s)| s).collect();
        if out.is_empty() && scored.is_empty() {
            return if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        // Nobody listens any more: end it.
        let gone = self.parts.send(Part::Piece(Piece { text: out, scored })).is_err();
        if gone || stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Sink for Answer {
    fn take(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Started { .. } | Event::Prompt(_) => ControlFlow::Continue(()),
            Event::Token { id, log_probabilities } => {
                if let Some((value, top)) = log_probabilities {
                    let (token, bytes) = self.spelled(id);
                    let top =
                        top.into_iter().map(|(id, v)| (self.spelled(id), v)).map(|((t, b), v)| (t, b, v)).collect();
                    self.held.push((self.decoded, Scored { token, bytes, value, top, offset: self.characters }));
                }
                let text = self.stream.push(id);
                self.give(text, false)
            }
            Event::End { finish, timing } => {
                if self.stops.hit().is_none() {
                    let rest = self.stream.finish();
                    let _ = self.give(rest, true);
                }
                let finish = match finish {
                    Finish::Length | Finish::Context | Finish::Time => "length",
                    Finish::Stop(_) | Finish::Complete | Finish::Cancelled => "stop",
                };
                let _ = self.parts.send(Part::End { finish, timing });
                ControlFlow::Continue(())
            }
            Event::Failed(error) => {
                let _ = self.parts.send(Part::Failed(error));
                ControlFlow::Continue(())
            }
        }
    }
}
