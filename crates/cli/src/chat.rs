//! `farthing chat`: a conversation in the terminal, or through a pipe.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use engine::{EngineError, Finish, Sampling, SubmitError, Timing};
use farthing::{Error, GenerateOptions, Message, Model, PlannedModel, Role, bundled, xdg};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use crate::answering::follow;
use crate::arguments::{LoadArguments, SamplingArguments};
use crate::generate::{reason, statistics};
use crate::terminal::{Wrap, catch_interrupts_of_answers, interrupted, piped_line, put, say, several};
use crate::{Failure, Outcome};

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
    /// System prompt
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of an answer
    #[arg(long, short = 'n', default_value_t = 1024, value_parser = crate::terminal::whole::<usize>)]
    max_tokens: usize,
    #[command(flatten)]
    choose: SamplingArguments,
    #[command(flatten)]
    load: LoadArguments,
}

const HELP: &str = "\
/help            this list
/system [TEXT]   set the system prompt (without TEXT: remove it), and start over
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
fn set(options: &mut GenerateOptions, vocab: usize, name: &str, value: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
        value.parse().map_err(|_| format!("{name} {value}: give a number"))
    }
    let mut changed: Sampling = options.sampling.clone();
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
        "max_tokens" => options.max_tokens = number(name, value)?,
        other => return Err(format!("{other} is no setting; /help lists them")),
    }
    changed.validate(vocab).map_err(|e| e.to_string())?;
    options.sampling = changed;
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
                Err(e) => Err(Failure::failed(format!("cannot read from the terminal: {e}"))),
            },
            Lines::Pipe => Ok(piped_line()?.map_or(Line::End, Line::Text)),
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
    model: Model,
    messages: Vec<Message>,
    options: GenerateOptions,
    stats: bool,
}

impl Chat {
    fn start_over(&mut self, system: Option<String>) {
        self.messages = system.map(Message::system).into_iter().collect();
    }

    fn system(&self) -> Option<String> {
        self.messages.first().filter(|m| m.role == Role::System).map(|m| m.text().to_string())
    }

    /// Answer the last message, streaming; how the answer ended.
    fn answer(&mut self) -> Result<Finish, Failure> {
        let prompt = self.model.encode_messages(&self.messages)?;
        let prompt_tokens = prompt.len();
        let mut answer = self.model.generate(prompt, &self.options).map_err(|e| match e {
            Error::Submit(SubmitError::Prompt(EngineError::TooLong { tokens, over, context })) => Failure::failed(format!(
                "the conversation has {tokens} tokens, {over} more than the context of {context}; /reset starts over, or start with a larger --context"
            )),
            other => other.into(),
        })?;
        let (mut text, mut screen) = (String::new(), Wrap::new());
        follow(&mut answer, prompt_tokens, &mut |piece| {
            // Templates that end without a space get their answers with one.
            let piece = if text.is_empty() { piece.trim_start() } else { piece };
            text.push_str(piece);
            if piece.is_empty() { Ok(()) } else { screen.put(piece) }
        })?;
        let (finish, timing) = answer.ended().unwrap_or((Finish::Cancelled, Timing::default()));
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
                self.model.context(),
                reason(finish)
            ));
        }
        self.messages.push(Message::assistant(text.trim_end()));
        Ok(finish)
    }

    fn settings(&self) -> String {
        let s = &self.options.sampling;
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
            self.options.max_tokens
        )
    }
}

pub fn run(a: Arguments) -> Outcome {
    let loaded = match &a.model {
        Some(model) => a.load.load(model)?,
        None => a.load.fitting(PlannedModel::open(&bundled()?, &a.load.options()?)?)?.load()?,
    };
    let sampling = a.choose.sampling(&loaded.generation, loaded.runner.model().structure.vocab)?;
    let stop = text::families::user_marks().map(str::to_string).collect();
    let options = GenerateOptions { sampling, max_tokens: a.max_tokens, stop };
    let mut chat = Chat { model: Model::new(loaded), messages: Vec::new(), options, stats: false };
    let vocab = chat.model.vocab();
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
            Input::Set(name, value) => match set(&mut chat.options, vocab, name, value) {
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
                chat.messages.push(Message::user(text));
                match chat.answer() {
                    // Nobody is there to go on with another message.
                    Ok(Finish::Cancelled) if matches!(lines, Lines::Pipe) => {
                        return Err(Failure::stopped("stopped in an answer"));
                    }
                    Ok(_) => {}
                    Err(Failure::Closed) => return Err(Failure::Closed),
                    // A script learns of it by the exit code.
                    Err(failure) if matches!(lines, Lines::Pipe) => return Err(failure),
                    Err(failure) => {
                        chat.messages.pop();
                        say(&format!("({failure})"));
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
        let mut options = GenerateOptions { sampling: Sampling::default(), max_tokens: 5, stop: Vec::new() };
        assert!(set(&mut options, 10, "temperature", "0.7").is_ok());
        assert_eq!(options.sampling.temperature, 0.7);
        assert!(set(&mut options, 10, "top_p", "7").unwrap_err().contains("from 0 to 1"));
        assert!(set(&mut options, 10, "top_p", "x").is_err());
        assert!(set(&mut options, 10, "colour", "1").is_err());
        assert!(set(&mut options, 10, "max_tokens", "9").is_ok() && options.max_tokens == 9);
        assert_eq!(options.sampling.top_p, 1.0);
    }
}
