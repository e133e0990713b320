//! Writing to people and to pipes.

use std::borrow::Cow;
use std::io::{BufRead, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use rustix::termios::OptionalActions;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use unicode_width::UnicodeWidthChar;

pub use farthing::words::{bytes, count, rounded, several};

use crate::Failure;
use crate::signals::{EXIT_STOPPED, is_ignored};

/// Write to stdout and flush.
pub fn put(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(unwritten)
}

/// Output that could not be written.
pub fn unwritten(error: std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::Closed,
        _ => Failure::failed(format!("cannot write the output: {error}; give another place for it")),
    }
}

/// The text of a file: see `read_text`.
pub fn read_text_file(path: &Path) -> Result<String, Failure> {
    let name = path.display().to_string();
    let file =
        std::fs::File::open(path).map_err(|e| Failure::failed(format!("{name}: {e}; give a file of UTF-8 text")))?;
    read_text(file, &name)
}

/// Text from outside: at most as much as is tokenized at once, whatever gives it.
pub fn read_text(from: impl std::io::Read, name: &str) -> Result<String, Failure> {
    use std::io::Read;
    let most = text::tokenizer::TEXT_BYTES_MAX;
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|e| Failure::failed(format!("{name}: {e}")))?;
    if bytes.len() > most {
        return Err(Failure::failed(format!(
            "{name}: more than {most} bytes of text are not taken at once: give a part of it"
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::failed(format!("{name}: not UTF-8 text")))
}

/// A whole number of the command line.
pub fn whole<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let said = if digits { "the number is too large" } else { "give a whole number from 0 on" };
    text.parse().map_err(|_| said.to_string())
}

/// A number of the command line.
pub fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "give a number, such as 0.7".to_string())
}

/// Threads of the command line.
pub fn threads(text: &str) -> Result<u16, String> {
    let threads = text.parse().ok().filter(|n| (1..=1024).contains(n));
    threads.ok_or_else(|| "give a whole number from 1 to 1024".to_string())
}

/// Set where stderr is for programs: it holds JSON only, one object a line.
static JSON: AtomicBool = AtomicBool::new(false);

/// What is written to stderr from now on is JSON.
pub fn json_only() {
    JSON.store(true, Ordering::Relaxed);
}

/// Whether stderr holds JSON only.
pub fn is_json_only() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// A line on stderr: as it is for people, as an object for programs.
pub fn note(text: &str) {
    if is_json_only() {
        say(&serde_json::json!({ "note": text }).to_string());
    } else {
        say(text);
    }
}

/// A line on stderr as it is. Where stderr is full or closed, the work goes on.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Set by ctrl-c; whoever generates looks at it between tokens.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Set while a conversation waits for a line from a pipe: ctrl-c then ends the program, which has nothing to finish.
static WAITING: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Bytes of a line of a conversation, and of lines that are taken together.
pub const LINE_BYTES_MAX: u64 = 16 << 20;

/// A line from stdin that is no terminal; `None` at its end.
pub fn piped_line() -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    WAITING.store(true, Ordering::SeqCst);
    let read = std::io::stdin().lock().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
    WAITING.store(false, Ordering::SeqCst);
    let bytes = read.map_err(|e| Failure::failed(format!("cannot read the conversation from stdin: {e}")))?;
    if bytes as u64 > LINE_BYTES_MAX {
        return Err(Failure::failed(format!(
            "a line of the conversation on stdin has more than {LINE_BYTES_MAX} bytes"
        )));
    }
    let text = String::from_utf8_lossy(&line);
    if matches!(text, Cow::Owned(_)) {
        say("(bytes that are not UTF-8 were replaced by \u{fffd})");
    }
    Ok((bytes > 0).then(|| text.trim_end_matches(['\n', '\r']).to_string()))
}

/// From now on ctrl-c, SIGTERM and SIGHUP set a flag instead of ending the program; a second one before the flag is looked at
/// ends it.
pub fn catch_interrupts() {
    catch(&[SIGINT, SIGTERM, SIGHUP]);
}

/// SIGUSR1, as ctrl-c: launchers of several processes hand it on to all, and batch systems send it ahead of the end of their time.
pub fn catch_signals_of_launchers() {
    catch(&[SIGUSR1]);
}

/// As `catch_interrupts` for a conversation, which waits for a person between answers: SIGTERM and SIGHUP end the program
/// there too, and leave the terminal as it was.
pub fn catch_interrupts_of_answers() {
    // Only signals that cannot be caught fail.
    let _ = flag::register_conditional_shutdown(SIGINT, EXIT_STOPPED, Arc::clone(&WAITING));
    catch(&[SIGINT]);
    let before = rustix::termios::tcgetattr(std::io::stdin()).ok();
    before_the_end_by(&[SIGTERM, SIGHUP], move || {
        if let Some(before) = &before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    });
}

/// What is done when ctrl-c, SIGTERM or SIGHUP ends the program.
pub fn before_the_end(work: impl FnOnce() + Send + 'static) {
    before_the_end_by(&[SIGINT, SIGTERM, SIGHUP], work);
}

fn before_the_end_by(numbers: &[i32], work: impl FnOnce() + Send + 'static) {
    let Ok(mut signals) = Signals::new(not_ignored(numbers)) else { return };
    std::thread::spawn(move || {
        let Some(number) = signals.forever().next() else { return };
        work();
        let _ = signal_hook::low_level::emulate_default_handler(number);
    });
}

fn catch(numbers: &[i32]) {
    for number in not_ignored(numbers) {
        // In this order: the signal that sets the flag does not see it set. Only signals that cannot be caught fail.
        let _ = flag::register_conditional_shutdown(number, EXIT_STOPPED, Arc::clone(&INTERRUPTED));
        let _ = flag::register(number, Arc::clone(&INTERRUPTED));
    }
}

/// Signals without a SIGHUP that was ignored at the start (nohup), which stays so. An ignored SIGINT is what a script's `&` does, and
/// nobody's wish.
fn not_ignored(numbers: &[i32]) -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    numbers.iter().copied().filter(|&number| number != SIGHUP || !is_ignored(&status, number)).collect()
}

/// Whether ctrl-c came since the last time this was asked.
pub fn interrupted() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Whether ctrl-c came and nobody has asked yet.
pub fn interrupt_pending() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A bar for reading a prompt of this many tokens; hidden where stderr is no terminal or the prompt is short.
pub fn prompt_bar(tokens: usize) -> indicatif::ProgressBar {
    if tokens < 512 {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("reading the prompt {bar:30} {pos}/{len} tokens{left}");
    let left = |state: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
        // Nothing is known of the speed at first.
        let _ =
            if state.pos() == 0 { Ok(()) } else { write!(to, ", {:#} left", indicatif::HumanDuration(state.eta())) };
    };
    let style = style.expect("a sound template").with_key("left", left);
    indicatif::ProgressBar::new(tokens as u64).with_style(style)
}

/// Text that streams to a person: words are kept whole at the edge of the terminal. Through a pipe nothing is changed.
pub struct Wrap {
    /// Columns; `None` through a pipe.
    columns: Option<usize>,
    column: usize,
    /// A word that is not yet whole, and its width.
    word: String,
    wide: usize,
}

impl Wrap {
    /// Text that begins at the left edge.
    pub fn new() -> Wrap {
        let terminal = std::io::stdout().is_terminal();
        Wrap { columns: terminal.then(columns).flatten(), column: 0, word: String::new(), wide: 0 }
    }

    /// Write what is whole. Control characters of a model are not for the terminal to obey.
    pub fn put(&mut self, text: &str) -> Result<(), Failure> {
        if self.columns.is_none() {
            return put(text);
        }
        let text = &harmless(text);
        // The window may have been resized.
        self.columns = columns().or(self.columns);
        let out = self.wrapped(text);
        if out.is_empty() { Ok(()) } else { put(&out) }
    }

    /// Write the rest.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let mut out = String::new();
        self.flush(&mut out);
        if out.is_empty() { Ok(()) } else { put(&out) }
    }

    fn flush(&mut self, out: &mut String) {
        let columns = self.columns.unwrap_or(usize::MAX);
        if self.column > 0 && self.column.saturating_add(self.wide) > columns {
            out.push('\n');
            self.column = 0;
        }
        out.push_str(&std::mem::take(&mut self.word));
        self.column += self.wide;
        if self.column > columns {
            self.column %= columns;
        }
        self.wide = 0;
    }

    fn wrapped(&mut self, text: &str) -> String {
        let columns = self.columns.unwrap_or(usize::MAX);
        let mut out = String::new();
        for c in text.chars() {
            let width = c.width().unwrap_or(0);
            match c {
                '\n' => {
                    self.flush(&mut out);
                    out.push(c);
                    self.column = 0;
                }
                ' ' => {
                    self.flush(&mut out);
                    // A space at the edge is the line's end.
                    if self.column + 1 < columns {
                        out.push(c);
                        self.column += 1;
                    } else {
                        out.push('\n');
                        self.column = 0;
                    }
                }
                _ => {
                    // Scripts of wide characters break anywhere, and so does a word longer than the line.
                    if width > 1 || self.wide + width > columns {
                        self.flush(&mut out);
                    }
                    self.word.push(c);
                    self.wide += width;
                    if width > 1 {
                        self.flush(&mut out);
                    }
                }
            }
        }
        out
    }
}

/// A text from outside for a terminal: control characters but for line breaks and tabs are replaced.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

/// Columns of the terminal.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|&n| n >= 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(columns: usize, pieces: &[&str]) -> String {
        let mut wrap = Wrap { columns: Some(columns), column: 0, word: String::new(), wide: 0 };
        let mut out: String = pieces.iter().map(|p| wrap.wrapped(p)).collect();
        wrap.flush(&mut out);
        out
    }

    #[test]
    fn a_terminal_obeys_no_model() {
        assert_eq!(harmless("a\u{1b}[2J\tb\n\u{7}\0\u{9b}"), "a\u{fffd}[2J\tb\n\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(wrapped(20, &["plain"]), "plain");
    }

    #[test]
    fn words_stay_whole_at_the_edge() {
        assert_eq!(wrapped(10, &["one two", " three", " four"]), "one two \nthree four");
        assert_eq!(wrapped(10, &["little fox was"]), "little fox\nwas");
        assert_eq!(wrapped(10, &["one two th", "ree"]), "one two \nthree");
        assert_eq!(wrapped(10, &["0123456789", "0123 x"]), "0123456789\n0123 x");
        assert_eq!(wrapped(10, &["a\n\nb c"]), "a\n\nb c");
        assert_eq!(wrapped(10, &["\u{4e2d}\u{6587}\u{4e2d}\u{6587} \u{4e2d}\u{6587}"]).matches('\u{4e2d}').count(), 3);
        assert_eq!(wrapped(10, &["abcdefghij k"]), "abcdefghij\nk");
        for columns in 10..40 {
            let text =
                "It was a long day and the little fox was very very tired of counting everything twice over again.";
            let out = wrapped(columns, &[text]);
            assert!(out.lines().all(|l| l.trim_end().len() <= columns), "{columns}: {out}");
            assert_eq!(out.split_whitespace().collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        }
    }
}
