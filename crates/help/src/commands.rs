//! Commands and flags in an answer: only those that the program has

use std::collections::HashMap;

use data::generators::manual::Manual;

/// Commands of a program with their flags.
#[derive(Debug)]
pub struct Commands {
    /// The word before every command: `farthing`.
    program: String,
    commands: Vec<String>,
    /// Which commands have a flag, one bit each.
    flags: HashMap<String, u128>,
}

/// A command or flag that an answer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `serve` of `farthing serve`, or `--port`.
    pub word: String,
    /// Whether the program has it, and the command that is spoken of has that flag.
    pub exists: bool,
}

/// Reads an answer byte by byte.
///
/// A word behind `farthing ` is a command. A flag belongs to the command named before it in its sentence; if none was, to one that has all flags of the
/// sentence so far, and a command named later in the sentence must have them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scanner {
    /// The word so far.
    word: Vec<u8>,
    /// The word before was the program's name, with spaces behind it. Names are lower case: `Farthing` begins a sentence about it.
    after_program: bool,
    /// Commands that may be spoken of, one bit each.
    candidates: u128,
    /// A command was named in this sentence.
    named: bool,
    /// The byte before ended a sentence, if white space follows.
    full_stop: bool,
}

impl Commands {
    /// Takes names out of a manual.
    ///
    /// # Panics
    /// If the manual has more than 128 commands.
    pub fn new(manual: &Manual) -> Commands {
        assert!(manual.commands.len() <= 128, "{} commands", manual.commands.len());
        let mut flags: HashMap<String, u128> = HashMap::new();
        for (number, command) in manual.commands.iter().enumerate() {
            for flag in &command.flags {
                for name in std::iter::once(flag.name.clone()).chain(flag.short.map(|letter| format!("-{letter}"))) {
                    *flags.entry(name).or_default() |= 1 << number;
                }
            }
        }
        let parts = manual.commands.iter().filter_map(|command| command.name.split_once(' '));
        let program = parts.clone().next().map(|(program, _)| program.to_owned()).unwrap_or_default();
        Commands { program, commands: parts.map(|(_, name)| name.to_owned()).collect(), flags }
    }

    /// Commands and flags that a text names, in order.
    pub fn named(&self, text: &str) -> Vec<Named> {
        let mut scanner = Scanner::new();
        let mut found = Vec::new();
        for byte in text.bytes().chain([b'\n']) {
            scanner.push(self, byte, &mut |word, exists| {
                found.push(Named { word: String::from_utf8_lossy(word).into_owned(), exists });
            });
        }
        found
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Whether a word is a flag: two dashes and something behind them, or one dash and a letter.
fn is_flag(word: &[u8]) -> bool {
    match word {
        [b'-', letter] => letter.is_ascii_alphabetic(),
        _ => word.starts_with(b"--") && word.iter().any(|&byte| byte != b'-'),
    }
}

impl Scanner {
    pub fn new() -> Scanner {
        Scanner { word: Vec::new(), after_program: false, candidates: u128::MAX, named: false, full_stop: false }
    }

    /// Takes a byte; `found` gets each command and flag as it ends.
    pub fn push(&mut self, commands: &Commands, byte: u8, found: &mut dyn FnMut(&[u8], bool)) {
        if is_word(byte) {
            self.word.push(byte);
            self.full_stop = false;
            let matters = self.after_program
                || self.word.starts_with(b"-")
                || commands.program.as_bytes().starts_with(&self.word);
            if !matters {
                // All other words are one, so that few states differ.
                self.word.clear();
                self.word.push(b'X');
            }
            return;
        }
        let word = std::mem::take(&mut self.word);
        if is_flag(&word) {
            let have = std::str::from_utf8(&word).ok().and_then(|word| commands.flags.get(word)).copied();
            let left = have.unwrap_or(0) & self.candidates;
            found(&word, left != 0);
            if left != 0 {
                self.candidates = left;
            }
        } else if self.after_program && word.first().is_some_and(u8::is_ascii_lowercase) {
            let number = commands.commands.iter().position(|name| name.as_bytes() == word);
            let exists = number.is_some_and(|number| self.named || self.candidates & (1 << number) != 0);
            found(&word, exists);
            if let Some(number) = number {
                (self.candidates, self.named) = (1 << number, true);
            }
        }
        let is_program = !word.is_empty() && word == commands.program.as_bytes();
        self.after_program = byte == b' ' && (is_program || (self.after_program && word.is_empty()));
        if byte == b'\n' || (self.full_stop && byte.is_ascii_whitespace()) {
            (self.candidates, self.named) = (u128::MAX, false);
        }
        self.full_stop = matches!(byte, b'.' | b'?' | b'!') || (self.full_stop && !byte.is_ascii_whitespace());
    }

    /// Whether what was read can go on without a command or flag that does not exist.
    fn can_be(&self, commands: &Commands) -> bool {
        if self.word.starts_with(b"-") {
            let fits = |name: &str, have: u128| name.as_bytes().starts_with(&self.word) && have & self.candidates != 0;
            return !is_flag(&self.word) || commands.flags.iter().any(|(name, have)| fits(name, *have));
        }
        if self.after_program && self.word.first().is_some_and(u8::is_ascii_lowercase) {
            let mut names = commands.commands.iter().enumerate();
            return names.any(|(number, name)| {
                name.as_bytes().starts_with(&self.word) && (self.named || self.candidates & (1 << number) != 0)
            });
        }
        true
    }

    /// The scanner behind some more bytes; none if they name a command or flag that does not exist, or begin one.
    pub fn after(&self, commands: &Commands, bytes: &[u8]) -> Option<Scanner> {
        let mut scanner = self.clone();
        let mut sound = true;
        for &byte in bytes {
            scanner.push(commands, byte, &mut |_, exists| sound &= exists);
            if !sound {
                return None;
            }
        }
        scanner.can_be(commands).then_some(scanner)
    }

    /// Whether the text may end here.
    pub fn may_end(&self, commands: &Commands) -> bool {
        self.after(commands, b"\n").is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::manual;

    /// Names that do not exist.
    fn invented(text: &str) -> Vec<String> {
        let named = Commands::new(&manual()).named(text);
        named.into_iter().filter(|named| !named.exists).map(|named| named.word).collect()
    }

    #[test]
    fn flags_belong_to_the_command_of_their_sentence() {
        assert!(invented("Use `farthing serve --port PORT`.").is_empty());
        assert!(invented("Add `--port` to `farthing serve`.").is_empty());
        assert!(
            invented("The flag is `--json`: `farthing pull --json`. Use `--port` with `farthing serve`.").is_empty()
        );
        assert_eq!(invented("Use `farthing serve --frobnicate`."), ["--frobnicate"]);
        assert_eq!(invented("Use `farthing pull --port 80`."), ["--port"]);
        // No command has both, and `pull` has no port.
        assert_eq!(invented("Add `--port` to `farthing pull`."), ["pull"]);
        assert_eq!(invented("farthing frob and farthing serve"), ["frob"]);
        assert_eq!(invented("Use `farthing serve -z` or `farthing  frob`."), ["-z", "frob"]);
        assert!(invented("Use `farthing chat -n 80`: -5 or - is none, and x-y neither.").is_empty());
        assert_eq!(invented("Use `farthing pull -n`."), ["-n"]);
        assert_eq!(invented("---port --port_x --PORT --p"), ["---port", "--port_x", "--PORT", "--p"]);
    }

    #[test]
    fn prose_names_nothing() {
        assert!(
            invented(
                "Farthing serves models -- well, most - to a `farthing`. --- x--y, farthing/models and farthing:list"
            )
            .is_empty()
        );
        assert!(Commands::new(&manual()).named("").is_empty());
        let named = Commands::new(&manual()).named("farthing serve --port=8080");
        let words: Vec<&str> = named.iter().map(|named| named.word.as_str()).collect();
        assert_eq!(words, ["serve", "--port"]);
    }

    #[test]
    fn beginnings_are_let_through() {
        let commands = Commands::new(&manual());
        let allows = |before: &str, next: &str| {
            let scanner = Scanner::new().after(&commands, before.as_bytes()).expect("a sound beginning");
            scanner.after(&commands, next.as_bytes()).is_some()
        };
        assert!(allows("Use `farthing serve --po", "rt") && allows("Use `farthing serve --po", "r"));
        assert!(!allows("Use `farthing serve --po", "ol") && !allows("Use `farthing serve --po", "`"));
        assert!(!allows("Use `farthing serve --po", "rt2`") && allows("Use `farthing serve --po", "rt` 2"));
        assert!(allows("Use `farthing ", "ser") && !allows("Use `farthing ", "sers") && allows("Use farthing", "s"));
        assert!(!allows("Add `--port` to `farthing ", "pull`"));
        let ends = |text: &str| Scanner::new().after(&commands, text.as_bytes()).unwrap().may_end(&commands);
        assert!(
            ends("Use `farthing serve") && !ends("Use `farthing serv") && !ends("--po") && ends("--port") && ends("")
        );
    }
}
