//! Incremental detokenizer: tokens to text while they come, whole characters only, and stop strings.

use std::ops::Deref;

use crate::tokenizer::Tokenizer;

/// Incremental detokenizer. What `push` gives, joined with `finish`, is the text of all ids.
/// The tokenizer is borrowed or shared (`&Tokenizer`, `Arc<Tokenizer>`).
pub struct Detokenizer<T> {
    tokenizer: T,
    skip_special: bool,
    /// Special tokens that are shown all the same.
    shown: Vec<u32>,
    held: Vec<u8>,
    started: bool,
}

impl<T: Deref<Target = Tokenizer>> Detokenizer<T> {
    /// A detokenizer at the start of a text.
    pub fn new(tokenizer: T, skip_special: bool) -> Self {
        Detokenizer { tokenizer, skip_special, shown: Vec::new(), held: Vec::new(), started: false }
    }

    /// A detokenizer that goes on after other text: a leading space is text here.
    pub fn continuing(tokenizer: T, skip_special: bool) -> Self {
        Detokenizer { started: true, ..Self::new(tokenizer, skip_special) }
    }

    /// Show tokens with these spellings even if special ones are skipped: what reads the text needs them (see
    /// `reply::Format::markers`). Spellings that are no single token are passed over: they come as text.
    pub fn showing<'a>(mut self, spellings: impl IntoIterator<Item = &'a str>) -> Self {
        self.shown.extend(spellings.into_iter().filter_map(|s| self.tokenizer.id_of(s)));
        self
    }

    /// The characters that this token completes.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_special && self.tokenizer.is_special(id) && !self.shown.contains(&id) {
            return String::new();
        }
        let Some(bytes) = self.tokenizer.bytes(id) else { return String::new() };
        let mut bytes = bytes.as_slice();
        if !self.started && !bytes.is_empty() {
            self.started = true;
            if self.tokenizer.drops_first_space() && bytes[0] == b' ' {
                bytes = &bytes[1..];
            }
        }
        self.held.extend_from_slice(bytes);
        self.take(false)
    }

    /// What is left: bytes that never became a character are U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, end: bool) -> String {
        let mut text = String::new();
        let mut begun = Vec::new();
        let mut chunks = self.held.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let bad = chunk.invalid();
            let last = chunks.peek().is_none();
            if last && !end && std::str::from_utf8(bad).is_err_and(|error| error.error_len().is_none()) {
                begun = bad.to_vec();
            } else if !bad.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.held = begun;
        text
    }
}

impl Tokenizer {
    /// Text of ids. Ids without a token are passed over.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut detokenizer = Detokenizer::new(self, skip_special);
        let text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        text + &detokenizer.finish()
    }
}

/// Stop strings: they end a text. Text that may be the start of one is held back; the string itself is never given.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopStrings {
    /// Stop at any of these; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        StopStrings { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), ..StopStrings::default() }
    }

    /// Text that can be given now.
    pub fn push(&mut self, text: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        // From here on the text could still become a stop.
        let alive = self.held.len() - self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        match self.first() {
            // A match waits while one that began earlier may still come.
            Some((at, which)) if at <= alive => self.end(at, which),
            _ => {
                let rest = self.held.split_off(alive);
                std::mem::replace(&mut self.held, rest)
            }
        }
    }

    /// The earliest stop in what is held; of two at one place, the one listed first.
    fn first(&self) -> Option<(usize, usize)> {
        self.stops.iter().enumerate().filter_map(|(i, s)| Some((self.held.find(s.as_str())?, i))).min()
    }

    fn end(&mut self, at: usize, which: usize) -> String {
        self.hit = Some(which);
        self.held.truncate(at);
        std::mem::take(&mut self.held)
    }

    /// Text held back, when no more comes.
    pub fn finish(&mut self) -> String {
        match self.first() {
            _ if self.hit.is_some() => String::new(),
            Some((at, which)) => self.end(at, which),
            None => std::mem::take(&mut self.held),
        }
    }

    /// The string that ended the text.
    pub fn hit(&self) -> Option<&str> {
        self.hit.map(|i| self.stops[i].as_str())
    }
}

/// Bytes at the end of `text` that could begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(i, _)| i).filter(|&n| n > 0 && text.ends_with(&stop[..n])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stops_across_pieces() {
        let mut stops = StopStrings::new(["\n\nUser".to_string(), "END".to_string()]);
        assert_eq!(stops.push("Hello\n"), "Hello");
        assert_eq!(stops.push("\nWorld E"), "\n\nWorld ");
        assert_eq!(stops.push("N"), "");
        assert_eq!(stops.push("D more"), "");
        assert_eq!(stops.finish(), "");
        assert_eq!(stops.hit(), Some("END"));
        let mut stops = StopStrings::new(["abcde".to_string(), "bc".to_string()]);
        assert_eq!(stops.push("abc") + &stops.push("de"), "");
        assert_eq!(stops.hit(), Some("abcde"));
    }

    proptest! {
        /// Wherever the text is cut, what is given is the text up to the first stop.
        #[test]
        fn cuts_do_not_matter(
            text in "[abc]{0,30}", cuts in proptest::collection::vec(0usize..30, 0..6), listed in proptest::collection::vec("[abc]{1,5}", 1..4)
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut stops = StopStrings::new(listed.clone());
            let mut given: String = cuts.windows(2).map(|w| stops.push(&text[w[0]..w[1]])).collect();
            given += &stops.finish();
            let first = listed.iter().filter_map(|s| text.find(s.as_str())).min();
            prop_assert_eq!(given, &text[..first.unwrap_or(text.len())]);
            prop_assert_eq!(stops.hit().is_some(), first.is_some());
        }
    }
}
