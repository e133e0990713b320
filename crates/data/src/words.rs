//! Words of a text, the units that quality rules count and near-duplicates are compared by

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// Words and punctuation marks by Unicode's default word boundaries (UAX #29), without white space: byte ranges in order.
///
/// Apart from the standard, as spaCy's English tokenizer has it, by which datatrove counts: a run of full stops is one mark, as is a run of hyphens (an
/// ellipsis, a dash, a rule across the page); contractions and possessives are two words (`do` `n't`, `dog` `'s`).
pub fn split(text: &str) -> Vec<Range<u32>> {
    let bytes = text.as_bytes();
    let mut words = Words { text, ranges: Vec::with_capacity(text.len() / 6) };
    let mut at = 0;
    while at < bytes.len() {
        let end = ascii_token(bytes, at);
        if !is_ascii_around(bytes, at, end) {
            at = words.unicode(at);
            continue;
        }
        if !is_space(bytes[at]) {
            words.push(at, end);
        }
        at = end;
    }
    words.ranges
}

/// At most as many as [`split`] finds, in a fraction of the time: ASCII characters that white space comes before, where a word begins whatever follows.
pub fn count_min(text: &str) -> usize {
    let bytes = text.as_bytes();
    let Some(first) = bytes.first() else { return 0 };
    let begins = |before: &u8, byte: &u8| u8::from(before.is_ascii_whitespace() & byte.is_ascii_graphic());
    // Counts of as many as fit a byte, so that many are added at a time.
    let pairs = bytes.chunks(255).zip(bytes[1..].chunks(255));
    let counts = pairs.map(|(before, at)| before.iter().zip(at).map(|(before, byte)| begins(before, byte)).sum::<u8>());
    usize::from(first.is_ascii_graphic()) + counts.map(usize::from).sum::<usize>()
}

struct Words<'a> {
    text: &'a str,
    ranges: Vec<Range<u32>>,
}

impl Words<'_> {
    /// Splits by the standard's own rules from `start`, where a word begins, to white space that ASCII follows, where one ends.
    fn unicode(&mut self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let first = start + run(&bytes[start..], is_space);
        // White space is one token with other white space before it, such as an ideographic space.
        let ends = |at: &usize| {
            is_space(bytes[*at])
                && bytes.get(at + 1).is_some_and(u8::is_ascii)
                && !self.text[..*at].ends_with(char::is_whitespace)
        };
        let end = (first..bytes.len()).find(ends).unwrap_or(bytes.len());
        self.by_the_standard(start, end);
        end
    }

    fn by_the_standard(&mut self, start: usize, end: usize) {
        for (offset, word) in self.text[start..end].split_word_bound_indices() {
            let start = start + offset;
            match self.ranges.last_mut() {
                Some(last)
                    if matches!(word, "." | "-")
                        && last.end == start as u32
                        && self.text[last.start as usize..start].trim_start_matches(word).is_empty() =>
                {
                    last.end += 1;
                }
                _ if word.chars().all(char::is_whitespace) => {}
                _ => self.push(start, start + word.len()),
            }
        }
    }

    fn push(&mut self, start: usize, end: usize) {
        let bytes = &self.text.as_bytes()[start..end];
        if let [.., second, _] = *bytes
            && (is_apostrophe(second) || matches!(*bytes, [.., third, _, _] if is_apostrophe(third)))
        {
            return self.push_contraction(start, end);
        }
        self.ranges.push(start as u32..end as u32);
    }

    #[cold]
    fn push_contraction(&mut self, start: usize, end: usize) {
        let middle = start + contraction(&self.text[start..end]).unwrap_or(0);
        if middle > start {
            self.ranges.push(start as u32..middle as u32);
        }
        self.ranges.push(middle as u32..end as u32);
    }
}

/// Whether a byte is the last of an apostrophe, straight or curled.
fn is_apostrophe(byte: u8) -> bool {
    matches!(byte, b'\'' | 0x99)
}

/// Where the second word of a contraction or possessive begins.
fn contraction(word: &str) -> Option<usize> {
    let (stem, end) = word.rsplit_once(['\'', '\u{2019}'])?;
    let cut = match end {
        "s" | "S" | "m" | "d" | "ll" | "re" | "ve" => stem.len(),
        "t" => stem.strip_suffix('n')?.len(),
        _ => return None,
    };
    (cut > 0).then_some(cut)
}

/// End of the token, or of the run of white space, that begins at `start`, as if the text were ASCII.
fn ascii_token(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    match bytes[start] {
        byte @ (b'.' | b'-') => at += run(&bytes[at..], |next| next == byte),
        byte if is_space(byte) => at += run(&bytes[at..], is_space),
        byte if is_word(byte) => loop {
            at += word_run(&bytes[at..]);
            match bytes.get(at - 1..at + 2) {
                Some([left, mark, right]) if joins(*left, *mark, *right) => at += 2,
                _ => break,
            }
        },
        _ => {}
    }
    at
}

/// Whether other characters cannot change where an ASCII token ends: neither it nor what follows is one, nor what follows a mark that may join.
fn is_ascii_around(bytes: &[u8], start: usize, end: usize) -> bool {
    bytes[start].is_ascii()
        && match bytes[end..] {
            [mark, next, ..] if !is_space(mark) => mark.is_ascii() && next.is_ascii(),
            [next, ..] => next.is_ascii(),
            [] => true,
        }
}

fn run(bytes: &[u8], test: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|&byte| !test(byte)).unwrap_or(bytes.len())
}

/// Length of the run of letters, digits and underscores at the start: eight bytes at a time, since where words end is hard to predict.
fn word_run(bytes: &[u8]) -> usize {
    let mut length = 0;
    for eight in bytes.chunks_exact(8) {
        match others(u64::from_le_bytes(eight.try_into().expect("eight bytes"))) {
            0 => length += 8,
            others => return length + others.trailing_zeros() as usize / 8,
        }
    }
    length + run(&bytes[length..], is_word)
}

/// The high bit of each byte that is not a letter, digit or underscore.
fn others(bytes: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let low = bytes & (0x7f * ONES);
    // The high bit of bytes of at least `limit`: none carries into the next.
    let at_least = |bytes: u64, limit: u8| bytes + u64::from(0x80 - limit) * ONES;
    let between = |bytes: u64, first: u8, last: u8| at_least(bytes, first) & !at_least(bytes, last + 1);
    let word = between(low | (0x20 * ONES), b'a', b'z') | between(low, b'0', b'9') | between(low, b'_', b'_');
    !(word & !bytes) & (0x80 * ONES)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Rules WB6, WB7, WB11 and WB12: a mark inside a word or a number.
fn joins(left: u8, mark: u8, right: u8) -> bool {
    match mark {
        b'.' | b'\'' => {
            (left.is_ascii_alphabetic() && right.is_ascii_alphabetic())
                || (left.is_ascii_digit() && right.is_ascii_digit())
        }
        b':' => left.is_ascii_alphabetic() && right.is_ascii_alphabetic(),
        b',' | b';' => left.is_ascii_digit() && right.is_ascii_digit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<&str> {
        split(text).iter().map(|range| &text[range.start as usize..range.end as usize]).collect()
    }

    /// The definition: all of the text by the standard's rules.
    fn plain(text: &str) -> Vec<Range<u32>> {
        let mut words = Words { text, ranges: Vec::new() };
        words.by_the_standard(0, text.len());
        words.ranges
    }

    #[test]
    fn words_and_marks() {
        assert_eq!(words("Don't stop, O'Brien_2!"), ["Do", "n't", "stop", ",", "O'Brien_2", "!"]);
        assert_eq!(
            words("3.14 and 1,000; 12:30, x:y."),
            "3.14 and 1,000 ; 12 : 30 , x:y .".split(' ').collect::<Vec<_>>()
        );
        assert_eq!(words("Well... no -- ===\n"), ["Well", "...", "no", "--", "=", "=", "="]);
        assert_eq!(
            words("\u{201c}Caf\u{e9}s\u{201d} don\u{2019}t\u{2014}ever"),
            ["\u{201c}", "Caf\u{e9}s", "\u{201d}", "do", "n\u{2019}t", "\u{2014}", "ever"]
        );
        assert_eq!(words("  \u{301}x"), ["  \u{301}", "x"]);
        assert_eq!(words("a.\u{301}b.. .-"), ["a.\u{301}b", "..", ".", "-"]);
        assert_eq!(words(" \n\t\u{3000}"), [""; 0]);
        assert_eq!(split("\u{3000}  \u{ad}"), plain("\u{3000}  \u{ad}"));
    }

    /// Values of spaCy 3.8.18.
    #[test]
    fn contractions_are_two_words() {
        for (text, expected) in [
            ("I'm can't WON'T we've", "I 'm ca n't WON'T we 've"),
            (
                "the dog's, the dogs' it'll they'd you\u{2019}re",
                "the dog 's , the dogs ' it 'll they 'd you \u{2019}re",
            ),
            ("o'clock ma'am 't n't rock'n'roll", "o'clock ma'am ' t n't rock'n'roll"),
        ] {
            assert_eq!(words(text), expected.split(' ').collect::<Vec<_>>());
        }
    }

    /// The example under the table of section 4.2.1 of UAX #29: a flag, an emoji of several characters, Hebrew with its quotation mark.
    #[test]
    fn words_of_other_scripts() {
        assert_eq!(words("\u{1f1eb}\u{1f1f7}\u{1f1e9}\u{1f1ea}"), ["\u{1f1eb}\u{1f1f7}", "\u{1f1e9}\u{1f1ea}"]);
        assert_eq!(words("a \u{1f469}\u{200d}\u{1f52c} b"), ["a", "\u{1f469}\u{200d}\u{1f52c}", "b"]);
        assert_eq!(words("\u{5e6}\u{5d4}\"\u{5dc} x"), ["\u{5e6}\u{5d4}\"\u{5dc}", "x"]);
        assert_eq!(words("\u{43f}\u{440}\u{438} \u{4f60}\u{597d}"), ["\u{43f}\u{440}\u{438}", "\u{4f60}", "\u{597d}"]);
    }

    #[test]
    fn words_after_white_space_are_as_many_at_least() {
        for (text, min, words) in
            [("", 0, 0), (" one,  two\nthree ", 3, 4), ("\u{3000} \u{e9} a\u{202f}b", 1, 2), (" \u{e9}a b", 1, 2)]
        {
            assert_eq!((count_min(text), split(text).len()), (min, words), "{text}");
        }
    }

    #[test]
    fn eight_bytes_at_a_time() {
        for byte in 0..=255_u8 {
            for at in 0..8 {
                let mut bytes = *b"aZ_09xyz";
                bytes[at] = byte;
                let expected = if is_word(byte) { 8 } else { at };
                assert_eq!(word_run(&bytes), expected, "{byte} at {at}");
                assert_eq!(word_run(&[&bytes[..], b"a"].concat()), if expected == 8 { 9 } else { at });
            }
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_splits_as_the_standard(text in "[a-cs-tn-nA-C0-2 .,;:'\"_\\-\n\r\t!\u{301}\u{2019}\u{e9}\u{200d}\u{1f1e6}\u{1f469}\u{3000}\u{5d0}\u{ad}]{0,40}") {
            prop_assert_eq!(split(&text), plain(&text));
            prop_assert!(count_min(&text) <= split(&text).len());
        }

        #[test]
        fn any_text_splits_as_the_standard(text in "\\PC{0,60}") {
            prop_assert_eq!(split(&text), plain(&text));
        }
    }
}
