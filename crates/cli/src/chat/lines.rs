//! Lines of `farthing chat`: from a terminal, with history and completion, or from a pipe.

use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;

use farthing::known::KNOWN;
use farthing::xdg;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Context, Editor, Helper};

use super::commands::{COMMANDS, SETTINGS};
use crate::Failure;
use crate::fetch::pulled;
use crate::terminal::{LINE_BYTES_MAX, piped_line, say};

/// Completes commands, settings, names of models and files.
pub struct Completion;

/// Files and directories whose paths begin with `typed`; hidden ones only where the dot is typed.
fn paths(typed: &str) -> Vec<String> {
    let (directory, begun) = typed.split_at(typed.rfind('/').map_or(0, |at| at + 1));
    let entries = std::fs::read_dir(if directory.is_empty() { "." } else { directory });
    let named = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let shown = name.starts_with(begun) && (begun.starts_with('.') || !name.starts_with('.'));
        let end = if entry.path().is_dir() { "/" } else { "" };
        shown.then(|| format!("{directory}{name}{end}"))
    });
    let mut found: Vec<String> = named.collect();
    found.sort();
    found
}

/// Where the word that is completed begins, and what it may become.
fn candidates(typed: &str, models: impl FnOnce() -> Vec<String>) -> (usize, Vec<String>) {
    let Some((command, rest)) = typed.split_once(' ') else {
        let known = COMMANDS.iter().filter(|command| typed.starts_with('/') && command.starts_with(typed));
        return (0, known.map(ToString::to_string).collect());
    };
    let known: Vec<String> = match command {
        "/set" => SETTINGS.map(str::to_string).to_vec(),
        "/model" => models(),
        "/load" | "/save" => paths(rest),
        _ => Vec::new(),
    };
    (command.len() + 1, known.into_iter().filter(|known| known.starts_with(rest)).collect())
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let known = KNOWN.iter().map(|known| known.name.to_string());
        Ok(candidates(line.get(..at).unwrap_or_default(), || pulled().into_iter().chain(known).collect()))
    }
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

/// Lines from a person at a terminal, or from a pipe.
pub enum Lines {
    Terminal(Box<Editor<Completion, DefaultHistory>>, Option<PathBuf>),
    Pipe,
}

/// What came of asking for a line.
enum Line {
    Text(String),
    Taken,
    End,
}

impl Lines {
    /// Stdin.
    pub fn open() -> Lines {
        if !std::io::stdin().is_terminal() {
            return Lines::Pipe;
        }
        let Ok(mut editor) = Editor::new() else { return Lines::Pipe };
        editor.set_helper(Some(Completion));
        let history = xdg("XDG_STATE_HOME", ".local/state").map(|d| d.join("history"));
        if let Some(file) = &history {
            let _ = file.parent().map(std::fs::create_dir_all);
            let _ = editor.load_history(file);
        }
        Lines::Terminal(Box::new(editor), history)
    }

    /// One line. Ctrl-c takes back what was typed of the whole message.
    fn line(&mut self, prompt: &str, initial: &str) -> Result<Line, Failure> {
        match self {
            Lines::Terminal(editor, _) => match editor.readline_with_initial(prompt, (initial, "")) {
                Ok(line) => Ok(Line::Text(line)),
                Err(ReadlineError::Interrupted) => {
                    say("(ctrl-d or /quit leaves)");
                    Ok(Line::Taken)
                }
                Err(ReadlineError::Eof) => Ok(Line::End),
                Err(ReadlineError::Io(e)) if e.kind() == ErrorKind::InvalidData => {
                    say("(not UTF-8, and so not read; type the message again)");
                    Ok(Line::Taken)
                }
                Err(e) => Err(Failure::failed(format!("cannot read from the terminal: {e}"))),
            },
            Lines::Pipe => Ok(piped_line()?.map_or(Line::End, Line::Text)),
        }
    }

    /// A message: one line, or several between `"""` or with `\` at their ends.
    /// At a terminal, `initial` stands there already.
    pub fn message(&mut self, initial: &str) -> Result<Option<String>, Failure> {
        let mut text = match self.line("> ", initial)? {
            Line::Text(text) => text,
            Line::Taken => return Ok(Some(String::new())),
            Line::End => return Ok(None),
        };
        if let Some(rest) = text.trim_start().strip_prefix("\"\"\"") {
            let mut whole = rest.to_string();
            while !whole.trim_end().ends_with("\"\"\"") {
                match self.line(". ", "")? {
                    Line::Text(next) => {
                        whole = whole + "\n" + &next;
                        bounded(&whole)?;
                    }
                    Line::Taken => return Ok(Some(String::new())),
                    Line::End => break,
                }
            }
            let whole = whole.trim_end();
            text = whole.strip_suffix("\"\"\"").unwrap_or(whole).trim_matches('\n').to_string();
        } else {
            while let Some(start) = text.strip_suffix('\\') {
                let start = start.to_string();
                match self.line(". ", "")? {
                    Line::Text(next) => {
                        text = start + "\n" + &next;
                        bounded(&text)?;
                    }
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

/// Refuses a message without an end.
fn bounded(text: &str) -> Result<(), Failure> {
    match text.len() as u64 {
        0..=LINE_BYTES_MAX => Ok(()),
        _ => Err(Failure::failed(format!("a message of more than {LINE_BYTES_MAX} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn words_are_completed_where_something_is_known() {
        let models = || vec!["org/a".to_string(), "org/b".to_string(), "other/c".to_string()];
        let found = |typed: &str| candidates(typed, models);
        assert_eq!(found("/re"), (0, vec!["/reset".to_string(), "/retry".to_string()]));
        assert_eq!(found("/set top"), (5, vec!["top_k".to_string(), "top_p".to_string()]));
        assert_eq!(found("/model org/"), (7, vec!["org/a".to_string(), "org/b".to_string()]));
        let (source, models) =
            (env!("CARGO_MANIFEST_DIR").to_string() + "/src/chat/", env!("CARGO_MANIFEST_DIR").to_string());
        assert_eq!(found(&format!("/load {source}comm")), (6, vec![format!("{source}commands.rs")]));
        assert_eq!(found(&format!("/save {models}/te")), (6, vec![format!("{models}/tests/")]));
        assert!(found("/load /nowhere/at/all").1.is_empty());
        assert!(found("").1.is_empty() && found("re").1.is_empty() && found("say /re").1.is_empty());
    }
}
