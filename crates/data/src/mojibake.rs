//! UTF-8 that was decoded as Windows-1252 or Latin-1, found by what it looks like and decoded again
//!
//! A sequence of characters whose bytes are one character of UTF-8 is rare in honest text, where no letter with an accent stands before signs; those that do occur are
//! left: `CAFÉ”`, `« voilà »` with its hard spaces. So this repairs less than Python's ftfy, whose judgement needs tables of letters by language.

use std::sync::LazyLock;

use encoding_rs::WINDOWS_1252;

/// How often a text may have been decoded wrongly.
const ROUNDS_MAX: usize = 4;

/// The text decoded again; nothing where none of it was decoded wrongly.
pub fn repaired(text: &str) -> Option<String> {
    let mut repaired: Option<String> = None;
    for _ in 0..ROUNDS_MAX {
        match round(repaired.as_deref().unwrap_or(text)) {
            Some(next) => repaired = Some(next),
            None => break,
        }
    }
    repaired
}

/// A sequence of characters that is one character of UTF-8.
#[derive(Clone, Copy)]
struct Sequence {
    character: char,
    /// Characters and bytes that it takes in the text.
    characters: usize,
    bytes: usize,
    /// Whether it needs no neighbours of its kind.
    sure: bool,
}

fn round(text: &str) -> Option<String> {
    let mut decoded = String::new();
    // What of the text is in `decoded`.
    let mut done = 0;
    let mut at = 0;
    while let Some(found) = next_lead(&text.as_bytes()[at..]) {
        at += found;
        let run = run(text, at);
        let bytes: usize = run.iter().map(|sequence| sequence.bytes).sum();
        // Three of two characters, two of three: chance does not make them.
        let neighbours = run.iter().map(|sequence| sequence.characters).sum::<usize>() >= 6 && run.len() >= 2;
        for sequence in run {
            if sequence.sure || neighbours {
                decoded.push_str(&text[done..at]);
                decoded.push(sequence.character);
                done = at + sequence.bytes;
            }
            at += sequence.bytes;
        }
        at += if bytes == 0 { 2 } else { 0 };
    }
    (done > 0).then(|| decoded + &text[done..])
}

/// The next character from U+00C2 to U+00F4, the bytes that begin a sequence, that a character follows which is not ASCII.
fn next_lead(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(0xc3, bytes).find(|&at| matches!(bytes[at..], [_, 0x82..=0xb4, 0xc2..=0xf4, ..]))
}

/// Sequences that follow each other from here.
fn run(text: &str, mut at: usize) -> Vec<Sequence> {
    let mut run = Vec::new();
    let mut before = text[..at].chars().next_back().unwrap_or(' ');
    while let Some(sequence) = sequence(&text[at..], before) {
        at += sequence.bytes;
        before = sequence.character;
        run.push(sequence);
    }
    run
}

fn sequence(text: &str, before: char) -> Option<Sequence> {
    let mut bytes = [0; 4];
    let mut length = 0;
    let mut taken = 0;
    let mut needed = 1;
    for c in text.chars().take(4) {
        bytes[length] = byte(c)?;
        if length == 0 {
            needed = match bytes[0] {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                _ => return None,
            };
        }
        length += 1;
        taken += c.len_utf8();
        if length == needed {
            break;
        }
    }
    let character = std::str::from_utf8(&bytes[..length]).ok()?.chars().next().filter(|_| length == needed)?;
    Some(Sequence { character, characters: length, bytes: taken, sure: is_sure(&bytes, before) })
}

/// Whether these bytes are hardly ever written as letters and signs. `before` is the character before them.
fn is_sure(bytes: &[u8; 4], before: char) -> bool {
    // In Windows-1252 an ellipsis, quotation marks and dashes, which stand after any letter; a hard space stands before some of them.
    let quotation = matches!(bytes[1], 0x82 | 0x84 | 0x85 | 0x8b | 0x91..=0x97 | 0x9b | 0xa0 | 0xab | 0xbb);
    match bytes[0] {
        0xf0.. | 0xe2 => true,
        0xef => bytes[1] == 0xbb && bytes[2] == 0xbf,
        0xc2 if bytes[1] < 0xa0 => false,
        0xc2 | 0xc3 => !quotation || !before.is_uppercase(),
        0xc4 | 0xc5 => !quotation,
        _ => false,
    }
}

/// The byte that Windows-1252 decodes to this character, or Latin-1 where that has a control character.
fn byte(c: char) -> Option<u8> {
    static SIGNS: LazyLock<Vec<char>> = LazyLock::new(|| {
        let bytes: Vec<u8> = (0x80..0xa0).collect();
        WINDOWS_1252.decode_without_bom_handling(&bytes).0.chars().collect()
    });
    match u32::from(c) {
        code @ 0x80..=0xff => Some(code as u8),
        0x152..=0x2122 => SIGNS.iter().position(|&sign| sign == c).map(|at| 0x80 + at as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `ftfy.fix_encoding` of ftfy 6.3.1 says the same.
    #[test]
    fn texts_as_ftfy_repairs_them() {
        for (text, expected) in [
            ("It\u{e2}\u{20ac}\u{2122}s fine", "It\u{2019}s fine"),
            ("\u{e2}\u{20ac}\u{153}Yes\u{e2}\u{20ac}\u{9d}", "\u{201c}Yes\u{201d}"),
            ("caf\u{c3}\u{a9} cr\u{c3}\u{a8}me", "caf\u{e9} cr\u{e8}me"),
            ("\u{c2}\u{a3}5 \u{c2}\u{a9} 20\u{c2}\u{b0}", "\u{a3}5 \u{a9} 20\u{b0}"),
            ("\u{c3}\u{a2}\u{e2}\u{201a}\u{ac}\u{e2}\u{201e}\u{a2} twice", "\u{2019} twice"),
            ("\u{f0}\u{178}\u{2dc}\u{20ac}", "\u{1f600}"),
            (
                "\u{d0}\u{bf}\u{d1}\u{20ac}\u{d0}\u{b8}\u{d0}\u{b2}\u{d0}\u{b5}\u{d1}\u{201a}",
                "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}",
            ),
            ("\u{e4}\u{bd}\u{a0}\u{e5}\u{a5}\u{bd}", "\u{4f60}\u{597d}"),
            ("\u{c5}\u{a1}to", "\u{161}to"),
            ("\u{e2}\u{20ac}\u{201c} dash \u{e2}\u{20ac}\u{201d}", "\u{2013} dash \u{2014}"),
            ("\u{ef}\u{bb}\u{bf}BOM", "\u{feff}BOM"),
            ("\u{e2}\u{80}\u{99} latin", "\u{2019} latin"),
            ("M\u{c3}\u{bc}ller \u{c3}\u{2013}l \u{c3}\u{2030}tat", "M\u{fc}ller \u{d6}l \u{c9}tat"),
            (
                "r\u{c3}\u{a9}sum\u{c3}\u{a9} \u{e2}\u{2013}\u{ba} \u{e2}\u{2030}\u{a5}",
                "r\u{e9}sum\u{e9} \u{25ba} \u{2265}",
            ),
            ("\u{c2}\u{bf}Qu\u{c3}\u{a9}?", "\u{bf}Qu\u{e9}?"),
        ] {
            assert_eq!(repaired(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn honest_text_stays() {
        for text in [
            "\u{ab}\u{a0}voil\u{e0}\u{a0}\u{bb}",
            "\u{201c}CAF\u{c9}\u{201d}",
            "d\u{e9}j\u{e0} vu \u{2014} \u{201c}na\u{ef}ve\u{201d}",
            "\u{c9}t\u{e9}\u{2026} \u{c3}",
            "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}, \u{4f60}\u{597d}",
            "plain",
            "",
        ] {
            assert_eq!(repaired(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn letters_of_western_languages_come_back(text in "([a-z]{1,5}[\\u{e0}-\\u{f6}\\u{2019}\\u{201c}\\u{2014}]? ?){1,12}") {
            let wrong = WINDOWS_1252.decode_without_bom_handling(text.as_bytes()).0;
            prop_assert_eq!(repaired(&wrong).unwrap_or(wrong.into_owned()), text);
        }
    }
}
