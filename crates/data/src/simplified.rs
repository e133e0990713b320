//! Words as near-duplicates and contaminations are found by: lower case, without accents and punctuation, every number the same
//!
//! After `simplify_text` of datatrove (`utils/text.py`, 0.10.1): in lower case, a number (digits, with decimals) is `0`, punctuation is a space, and accents
//! go. Other than there, every character that is no letter, digit or mark is punctuation; only marks of a combining class are accents, so that vowel signs
//! stay; soft hyphens and characters of no width are nothing; and in scripts that are written without spaces each character is a word.

use std::ops::Range;

use unicode_normalization::char::{canonical_combining_class, decompose_canonical, is_combining_mark};

/// Calls `each` with every word and the bytes of the text that it comes from, in order. Memory is that of the longest word.
pub fn each_word(text: &str, mut each: impl FnMut(&str, Range<usize>)) {
    let mut word = String::new();
    let (mut at, mut start) = (0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        if bytes[at].is_ascii_alphabetic() {
            let letters = bytes[at..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            if word.is_empty() {
                start = at;
            }
            let from = word.len();
            word.push_str(&text[at..at + letters]);
            word[from..].make_ascii_lowercase();
            at += letters;
            continue;
        }
        let rest = &text[at..];
        let c = rest.chars().next().expect("a character");
        let next = at + if c.is_numeric() { number(rest) } else { c.len_utf8() };
        let part = kind(c);
        if !word.is_empty() && (part == Part::Border || part == Part::Alone) {
            each(&word, start..at);
            word.clear();
        }
        if word.is_empty() {
            start = at;
        }
        match part {
            Part::Border | Part::Nothing => {}
            Part::Number => word.push('0'),
            Part::Letter => push_letter(c, &mut word),
            Part::Alone => {
                push_letter(c, &mut word);
                // Of a vowel sign that is a mark nothing is left.
                if !word.is_empty() {
                    each(&word, at..next);
                    word.clear();
                }
            }
        }
        at = next;
    }
    if !word.is_empty() {
        each(&word, start..at);
    }
}

/// The last words of a text that is read, joined by spaces.
pub struct Runs {
    words: String,
    /// Where each of the last words begins in `words`, and its bytes of the text; a ring.
    ring: Vec<(usize, Range<usize>)>,
    number: usize,
}

impl Runs {
    /// Words so far.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The last `count` words, and the bytes of the text that they come from; nothing if there are not so many.
    ///
    /// # Panics
    /// For no words, or more than [`each_run`] was asked for.
    pub fn last(&self, count: usize) -> Option<(&str, Range<usize>)> {
        assert!((1..=self.ring.len()).contains(&count), "{count} words");
        let first = self.number.checked_sub(count)?;
        let mask = self.ring.len() - 1;
        let (start, first) = &self.ring[first & mask];
        let (_, last) = &self.ring[(self.number - 1) & mask];
        Some((&self.words[*start..], first.start..last.end))
    }

    fn push(&mut self, word: &str, range: Range<usize>) {
        let mask = self.ring.len() - 1;
        let oldest = self.ring[self.number & mask].0;
        // Words that nobody can ask for any more, once they are most of it.
        if oldest > 1 << 14 && oldest > self.words.len() / 2 {
            self.words.drain(..oldest);
            self.ring.iter_mut().for_each(|(start, _)| *start = start.saturating_sub(oldest));
        }
        if !self.words.is_empty() {
            self.words.push(' ');
        }
        self.ring[self.number & mask] = (self.words.len(), range);
        self.words.push_str(word);
        self.number += 1;
    }
}

/// Calls `each` after every word with the last words, of which at most `count_max` are asked for; returns how it is at the end.
pub fn each_run(text: &str, count_max: usize, mut each: impl FnMut(&Runs)) -> Runs {
    let ring = vec![(0, 0..0); count_max.next_power_of_two()];
    let mut runs = Runs { words: String::new(), ring, number: 0 };
    each_word(text, |word, range| {
        runs.push(word, range);
        each(&runs);
    });
    runs
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// It ends a word.
    Border,
    /// It is part of a word, but leaves nothing.
    Nothing,
    Number,
    Letter,
    /// It is a word.
    Alone,
}

fn kind(c: char) -> Part {
    match c {
        '\0'..='\x7f' if !c.is_ascii_alphanumeric() => Part::Border,
        // Soft hyphen, zero width space, non-joiner and joiner, byte order mark.
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{feff}' => Part::Nothing,
        _ if c.is_numeric() => Part::Number,
        _ if is_unspaced(c) && c.is_alphabetic() => Part::Alone,
        _ if c.is_alphanumeric() || is_combining_mark(c) => Part::Letter,
        _ => Part::Border,
    }
}

/// Characters of scripts without spaces between words: Thai, Lao, Myanmar, Khmer, Han, Hiragana, Katakana.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{3ffff}')
}

fn push_letter(c: char, word: &mut String) {
    for lower in c.to_lowercase() {
        decompose_canonical(lower, |part| {
            if canonical_combining_class(part) == 0 {
                word.push(part);
            }
        });
    }
}

/// Bytes of the number that a text begins with: digits, and a decimal separator with digits after it.
fn number(text: &str) -> usize {
    let digits = |text: &str| text.find(|c: char| !c.is_numeric()).unwrap_or(text.len());
    let whole = digits(text);
    let separator = text[whole..].chars().next();
    match separator.filter(|c| matches!(c, '.' | ',' | '\u{60c}' | '\u{66b}' | '\u{2396}'..='\u{2398}')) {
        Some(c) => match digits(&text[whole + c.len_utf8()..]) {
            0 => whole,
            decimals => whole + c.len_utf8() + decimals,
        },
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        each_word(text, |word, _| words.push(word.to_string()));
        words
    }

    /// Values of `simplify_text`, datatrove 0.10.1, split at its spaces.
    #[test]
    fn words_as_in_datatrove() {
        for (text, expected) in [
            ("The  Cat\u{2019}s paw, isn't it?\n", "the cat s paw isn t it"),
            ("In 1984 it was 3.14, or 1.2.3; 1,234,567!", "in 0 it was 0 or 0 0 0 0"),
            ("A1b2 x-y_z \u{2026}end", "a0b0 x y z end"),
            ("\u{c9}cole na\u{ef}ve \u{c5}ngstr\u{f6}m e\u{301}t\u{e9}", "ecole naive angstrom ete"),
            (
                "\u{41f}\u{440}\u{438}\u{432}\u{435}\u{442}, \u{439}\u{43e}\u{433}",
                "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{438}\u{43e}\u{433}",
            ),
            ("\u{663}\u{66b}\u{661}\u{664} \u{664}", "0 0"),
            ("5.x ,7 8,", "0 x 0 0"),
            ("", ""),
            ("?!", ""),
        ] {
            assert_eq!(words(text).join(" "), expected, "{text:?}");
        }
    }

    #[test]
    fn runs_are_the_last_words() {
        // Longer than what is held at once.
        let letters = |n: u32| (0..3).map(move |i| char::from_u32(0x430 + n / 16u32.pow(i) % 16).unwrap());
        let text: String = (0..20_000).flat_map(|n| letters(n).chain([' '])).collect();
        let (mut ranges, mut plain) = (Vec::new(), Vec::new());
        each_word(&text, |word, range| {
            plain.push(word.to_string());
            ranges.push(range);
        });
        for count in [1, 3, 8, 13] {
            let mut at = 0;
            let end = each_run(&text, count, |runs| {
                at += 1;
                assert_eq!(runs.number(), at);
                let expected = (at >= count)
                    .then(|| (plain[at - count..at].join(" "), ranges[at - count].start..ranges[at - 1].end));
                assert_eq!(runs.last(count).map(|(run, range)| (run.to_string(), range)), expected);
            });
            assert_eq!((at, end.last(1).unwrap().0), (20_000, plain[19_999].as_str()));
        }
    }

    #[test]
    fn scripts_without_spaces_marks_and_characters_of_no_width() {
        assert_eq!(words("\u{6211}\u{7231}A\u{4f60}\u{3002}"), ["\u{6211}", "\u{7231}", "a", "\u{4f60}"]);
        // A vowel sign is part of the word; Hangul syllables stay one word.
        assert_eq!(words("\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}"), ["\u{939}\u{93f}\u{928}\u{926}\u{940}"]);
        assert_eq!(words("\u{d55c}\u{ad6d} \u{c5b4}").len(), 2);
        assert_eq!(words("co\u{ad}op\u{200b}er\u{feff}ate"), ["cooperate"]);
        assert_eq!(words("\u{301} \u{301}a"), ["a"]);
    }

    proptest! {
        #[test]
        fn ranges_hold_their_words_and_come_in_order(text in "([a-zA-Z0-9 .,\u{e9}\u{301}\u{4e00}\u{130}\u{ad}]|\\PC){0,60}") {
            let mut last = 0;
            each_word(&text, |word, range| {
                assert!(!word.is_empty() && last <= range.start && range.start < range.end);
                last = range.end;
                assert_eq!(words(&text[range]), [word]);
            });
            assert!(last <= text.len());
        }
    }
}
