//! `farthing chat`: a conversation in the terminal, or through a pipe.

use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use engine::{Engine, EngineError, Finish, Request, Sampling, SubmitError};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use text::chat::{Context, Message, Render, Role};
use text::{Detokenizer, StopStrings, Tokenizer};

use crate::answering::{Ended, Unanswered, answer, engine};
use crate::generate::{reason, statistics};
use crate::loading::{Choose, Load, Loaded, bundled, load, xdg};
use crate::terminal::{STOPPED, Wrap, catch_interrupts_of_answers, interrupted, put, say, several};
use crate::{Failure, Outcome, pulling};

/// Talk with a model
///
/// Without MODEL, with the small bundled one (it tells children's stories and knows nothing).
/// Ctrl-c stops an answer (through a pipe, the conversation: exit code 130), ctrl-d leaves. /help lists the commands.
///
/// Examples:
///   farthing chat
///   farthing chat model.gguf --system "Answer briefly." --context 8192
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Path, org/name or the short name of a pulled model [default: the bundled model]
    model: Option<String>,
    /// What the model is told before the conversation
    #[arg(long)]
    system: Option<String>,
    /// Tokens of an answer at most
    #[arg(long, short = 'n', default_value_t = 1024, value_parser = crate::terminal::whole::<usize>)]
    max_tokens: usize,
    #[command(flatten)]
    choose: Choose,
    #[command(flatten)]
    load: Load,
}

const HELP: &str = "\
/help            this list
/system [TEXT]   set what the model is told first (nothing: take it away), and start over
/reset           start over
/set             show the settings
/set NAME VALUE  temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty, seed, max_tokens
/save FILE       write the conversation as JSON
/stats           show or hide a line of statistics after each answer
/quit            leave (or ctrl-d)
A message of several lines: begin and end it with \"\"\", or end a line with \\. Ctrl-c stops an answer.
";

/// What a person typed.
#[derive(Debug, PartialEq)]
enum Input<'a> {
    Nothing,
    Say(&'a str),
    Help,
    System(Option<&'a str>),
    Reset,
    Show,
    Set(&'a str, &'a str),
    Save(&'a str),
    Stats,
    Quit,
    Wrong(String),
}

fn parse(text: &str) -> Input<'_> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Input::Nothing;
    }
    if !trimmed.starts_with('/') || trimmed.contains('\n') {
        return Input::Say(text.trim_end_matches('\n'));
    }
    let (command, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    let rest = rest.trim();
    match command {
        "/help" | "/?" => Input::Help,
        "/system" => Input::System(Some(rest).filter(|r| !r.is_empty())),
        "/reset" | "/clear" => Input::Reset,
        "/set" if rest.is_empty() => Input::Show,
        "/set" => match rest.split_once(char::is_whitespace) {
            Some((name, value)) => Input::Set(name, value.trim()),
            None => Input::Wrong(format!("/set {rest}: give a value too, such as /set temperature 0.7")),
        },
        "/save" if rest.is_empty() => Input::Wrong("/save: give a file name".to_string()),
        "/save" => Input::Save(rest),
        "/stats" => Input::Stats,
        "/quit" | "/exit" | "/bye" => Input::Quit,
        other => Input::Wrong(format!("{other} is no command; /help lists them")),
    }
}

/// Change one setting.
fn set(sampling: &mut Sampling, max_tokens: &mut usize, vocab: usize, name: &str, value: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("{name} {value}: give a number"))
    }
    let mut changed = sampling.clone();
    match name {
        "temperature" => changed.temperature = number(name, value)?,
        "top_k" => changed.top_k = number(name, value)?,
        "top_p" => changed.top_p = number(name, value)?,
        "min_p" => changed.min_p = number(name, value)?,
        "typical_p" => changed.typical_p = number(name, value)?,
        "repetition_penalty" => changed.repetition_penalty = number(name, value)?,
        "presence_penalty" => changed.presence_penalty = number(name, value)?,
        "frequency_penalty" => changed.frequency_penalty = number(name, value)?,
        "seed" => changed.seed = Some(number(name, value)?),
        "max_tokens" => *max_tokens = number(name, value)?,
        other => return Err(format!("{other} is no setting; /help lists them")),
    }
    changed.validate(vocab).map_err(|e| e.to_string())?;
    *sampling = changed;
    Ok(())
}

/// Lines from a person at a terminal, or from a pipe.
enum Lines {
    Terminal(Box<DefaultEditor>, Option<PathBuf>),
    Pipe,
}

/// What came of asking for a line.
enum Line {
    Text(String),
    Taken,
    End,
}

impl Lines {
    fn open() -> Lines {
        if !std::io::stdin().is_terminal() {
            return Lines::Pipe;
        }
        let Ok(mut editor) = DefaultEditor::new() else { return Lines::Pipe };
        let history = xdg("XDG_STATE_HOME", ".local/state").map(|d| d.join("history"));
        if let Some(file) = &history {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = editor.load_history(file);
        }
        Lines::Terminal(Box::new(editor), history)
    }

    /// One line. Ctrl-c takes back what was typed of the whole message.
    fn line(&mut self, prompt: &str) -> Result<Line, Failure> {
        match self {
            Lines::Terminal(editor, _) => match editor.readline(prompt) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => {
                    say("(ctrl-d or /quit leaves)");
                    Ok(Line::Taken)
                }
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(e) => Err(Failure(format!("cannot read from the terminal: {e}"))),
            },
            Lines::Pipe => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                let n = read.map_err(|e| Failure(format!("cannot read the conversation from stdin: {e}")))?;
                Ok(if n == 0 { Line::End } else { Line::Text(line.trim_end_matches(['\n', '\r']).to_string()) })
            }
        }
    }

    /// A message: one line, or several between `"""` or with `\` at their ends.
    fn message(&mut self) -> Result<Option<String>, Failure> {
        let mut text = match self.line("> ")? {
            Line::Text(text) => text,
            Line::Taken => return Ok(Some(String::new())),
            Line::End => return Ok(None),
        };
        if let Some(rest) = text.trim_start().strip_prefix("\"\"\"") {
            let mut whole = rest.to_string();
            while !whole.trim_end().ends_with("\"\"\"") {
                match self.line(". ")? {
                    Line::Text(next) => whole = whole + "\n" + &next,
                    Line::Taken => return Ok(Some(String::new())),
                    Line::End => break,
                }
            }
            let whole = whole.trim_end();
            text = whole.strip_suffix("\"\"\"").unwrap_or(whole).trim_matches('\n').to_string();
        } else {
            while let Some(start) = text.strip_suffix('\\') {
                let start = start.to_string();
                match self.line(". ")? {
                    Line::Text(next) => text = start + "\n" + &next,
                    Line::Taken => return Ok(Some(String::new())),
                    Line::End => break,
                }
            }
        }
        if let Lines::Terminal(editor, history) = self
            && !text.trim().is_empty()
        {
            let _ = editor.add_history_entry(&text);
            if let Some(file) = history {
                let _ = editor.save_history(file);
            }
        }
        Ok(Some(text))
    }
}

struct Chat {
    engine: Engine,
    tokenizer: Tokenizer,
    template: Box<dyn Render>,
    bos: String,
    eos: String,
    stop_ids: Vec<u32>,
    messages: Vec<Message>,
    sampling: Sampling,
    max_tokens: usize,
    stats: bool,
}

impl Chat {
    fn start_over(&mut self, system: Option<String>) {
        self.messages = system.map(|s| Message::new(Role::System, s)).into_iter().collect();
    }

    fn system(&self) -> Option<String> {
        self.messages.first().filter(|m| m.role == Role::System).map(|m| m.text().to_string())
    }

    /// Answer the last message, streaming; how the answer ended.
    fn answer(&mut self) -> Result<Finish, Failure> {
        let context = Context {
            add_generation_prompt: true,
            bos_token: self.bos.clone(),
            eos_token: self.eos.clone(),
            ..Context::default()
        };
        let said = |message: &Message| {
            Message::new(message.role, self.tokenizer.escape_special_tokens(message.text())).into_json(false)
        };
        let messages: Vec<_> = self.messages.iter().map(said).collect();
        let rendered = self.template.render(&messages, &context, &|| false)?;
        let prompt = self.tokenizer.encode_prompt(&rendered)?;
        let prompt_tokens = prompt.len();
        let (mut stream, mut stops) = (
            Detokenizer::continuing(&self.tokenizer, true),
            StopStrings::new(text::families::user_marks().map(str::to_string)),
        );
        let mut text = String::new();
        let mut screen = Wrap::new();
        let mut give = |piece: String| -> Outcome {
            // Templates that end without a space get their answers with one.
            let piece = if text.is_empty() { piece.trim_start().to_string() } else { piece };
            text.push_str(&piece);
            if piece.is_empty() { Ok(()) } else { screen.put(&piece) }
        };
        let request = Request {
            prompt,
            sampling: self.sampling.clone(),
            stops: self.stop_ids.clone(),
            tokens_max: self.max_tokens,
            ..Request::default()
        };
        let answered = answer(&self.engine, request, &mut |id| {
            give(stops.push(&stream.push(id)))?;
            Ok(if stops.hit().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        let Ended { finish, timing, .. } = match answered {
            Err(Unanswered::Refused(SubmitError::Prompt(EngineError::TooLong { tokens, over, context }))) => {
                return Err(Failure(format!(
                    "the conversation has {tokens} tokens, {over} more than the context of {context}; /reset starts over, or start with a larger --context"
                )));
            }
            other => other?,
        };
        let finish = if stops.hit().is_some() { Finish::Complete } else { finish };
        give(stops.push(&stream.finish()))?;
        give(stops.finish())?;
        screen.finish()?;
        put("\n")?;
        match finish {
            Finish::Cancelled => say("(stopped)"),
            Finish::Context => say("(the context is full: /reset starts over)"),
            Finish::Length => {
                say(&format!("(cut after {}: /set max_tokens allows more)", several(timing.generated, "token")))
            }
            Finish::Stop(_) | Finish::Complete | Finish::Time => {}
        }
        if self.stats {
            say(&format!(
                "{}; {} of {} positions; ended by {}",
                statistics(timing),
                prompt_tokens + timing.generated,
                self.engine.limits().context,
                reason(finish, false)
            ));
        }
        self.messages.push(Message::new(Role::Assistant, text.trim_end()));
        Ok(finish)
    }

    fn settings(&self) -> String {
        let s = &self.sampling;
        let seed = s.seed.map_or_else(|| "random".to_string(), |s| s.to_string());
        format!(
            "temperature {}, top_k {}, top_p {}, min_p {}, typical_p {}, repetition_penalty {}, presence_penalty {}, frequency_penalty {}, seed {seed}, max_tokens {}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.typical_p,
            s.repetition_penalty,
            s.presence_penalty,
            s.frequency_penalty,
            self.max_tokens
        )
    }
}

pub fn run(a: Arguments) -> Outcome {
    let path = match a.model {
        Some(model) => pulling::find(&model, &a.load)?,
        None => bundled()?,
    };
    let Loaded { runner, tokenizer, template, bos, eos, generation, stops: stop_ids } = load(&path, &a.load)?;
    let sampling = a.choose.sampling(&generation, runner.model().structure.vocab)?;
    let engine = engine(runner);
    let vocab = engine.vocab();
    let (messages, max_tokens, stats) = (Vec::new(), a.max_tokens, false);
    let mut chat = Chat { engine, tokenizer, template, bos, eos, stop_ids, messages, sampling, max_tokens, stats };
    chat.start_over(a.system);
    catch_interrupts_of_answers();
    let mut lines = Lines::open();
    if matches!(lines, Lines::Terminal(..)) {
        say("/help lists the commands; ctrl-c stops an answer, ctrl-d leaves");
    }
    while let Some(text) = lines.message()? {
        interrupted();
        match parse(&text) {
            Input::Nothing => {}
            Input::Help => put(HELP)?,
            Input::System(system) => {
                chat.start_over(system.map(str::to_string));
                say("(started over)");
            }
            Input::Reset => {
                chat.start_over(chat.system());
                say("(started over)");
            }
            Input::Show => put(&(chat.settings() + "\n"))?,
            Input::Set(name, value) => match set(&mut chat.sampling, &mut chat.max_tokens, vocab, name, value) {
                Ok(()) => say(&format!("({name} is {value})")),
                Err(message) => say(&format!("({message})")),
            },
            Input::Save(file) => {
                let messages: Value = chat.messages.iter().map(|m| m.clone().into_json(false)).collect();
                let json = serde_json::to_string_pretty(&json!({ "messages": messages }))?;
                match std::fs::write(file, json + "\n") {
                    Ok(()) => say(&format!("(wrote {file})")),
                    Err(e) => say(&format!("({file}: {e})")),
                }
            }
            Input::Stats => {
                chat.stats = !chat.stats;
                say(&format!("(statistics {})", if chat.stats { "on" } else { "off" }));
            }
            Input::Quit => break,
            Input::Wrong(message) => say(&format!("({message})")),
            Input::Say(text) => {
                chat.messages.push(Message::new(Role::User, text));
                match chat.answer() {
                    // Nobody is there to go on with another message.
                    Ok(Finish::Cancelled) if matches!(lines, Lines::Pipe) => {
                        return Err(Failure(format!("{STOPPED}stopped in an answer")));
                    }
                    Ok(_) => {}
                    Err(Failure(message)) => {
                        chat.messages.pop();
                        if message == crate::terminal::CLOSED {
                            return Err(Failure(message));
                        }
                        say(&format!("({message})"));
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed() {
        assert_eq!(parse("  "), Input::Nothing);
        assert_eq!(parse("hello /there"), Input::Say("hello /there"));
        assert_eq!(parse("/help"), Input::Help);
        assert_eq!(parse("/system Be brief."), Input::System(Some("Be brief.")));
        assert_eq!(parse("/system"), Input::System(None));
        assert_eq!(parse("/set"), Input::Show);
        assert_eq!(parse("/set top_p  0.5 "), Input::Set("top_p", "0.5"));
        assert_eq!(parse("/save a b.json"), Input::Save("a b.json"));
        assert!(matches!(parse("/set top_p"), Input::Wrong(_)));
        assert!(matches!(parse("/what"), Input::Wrong(_)));
        // Pasted text of several lines is text, whatever it begins with.
        assert_eq!(parse("/usr/bin\nls"), Input::Say("/usr/bin\nls"));
        assert_eq!(parse("/quit"), Input::Quit);
    }

    #[test]
    fn settings_are_checked() {
        let (mut sampling, mut most) = (Sampling::default(), 5);
        assert!(set(&mut sampling, &mut most, 10, "temperature", "0.7").is_ok());
        assert_eq!(sampling.temperature, 0.7);
        assert!(set(&mut sampling, &mut most, 10, "top_p", "7").unwrap_err().contains("from 0 to 1"));
        assert!(set(&mut sampling, &mut most, 10, "top_p", "x").is_err());
        assert!(set(&mut sampling, &mut most, 10, "colour", "1").is_err());
        assert!(set(&mut sampling, &mut most, 10, "max_tokens", "9").is_ok() && most == 9);
        assert_eq!(sampling.top_p, 1.0);
    }
}
