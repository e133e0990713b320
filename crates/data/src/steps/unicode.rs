//! Repairs characters: text decoded with the wrong encoding, line borders, control and invisible characters, composed forms

use serde::Deserialize;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::{Made, Settings, Surroundings};
use crate::{Document, Step, Verdict, mojibake};

/// What is repaired, in this order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repair {
    /// UTF-8 that was decoded as Windows-1252 or Latin-1, once or more often: `itâ€™s`.
    pub mojibake: bool,
    /// `\r\n`, `\r`, next line and the separators of lines and paragraphs become `\n`.
    pub line_borders: bool,
    /// Control characters other than tab and line feed, and characters that nobody sees, are removed: marks of byte order and of direction, soft hyphens,
    /// spaces and joiners without width. Joiners that shape letters and emoji stay.
    pub invisible: bool,
    /// Unicode's normalization form C.
    pub nfc: bool,
}

impl Default for Repair {
    fn default() -> Repair {
        Repair { mojibake: true, line_borders: true, invisible: true, nfc: true }
    }
}

impl Settings for Repair {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        Ok(Made::Alone(Box::new(self)))
    }
}

fn is_line_border(c: char) -> bool {
    matches!(c, '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// By `\n` alone.
fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace(is_line_border, "\n")
}

fn is_invisible(c: char) -> bool {
    match c {
        '\t' | '\n' => false,
        _ if is_line_border(c) => false,
        '\0'..'\u{20}' | '\u{7f}'..'\u{a0}' => true,
        '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => true,
        _ => false,
    }
}

/// Whether the text is ASCII without anything that is repaired.
fn is_plain(text: &str) -> bool {
    // Without an early end: the compiler makes vectors of it.
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) || byte == b'\n' || byte == b'\t';
    text.as_bytes().chunks(1024).all(|block| block.iter().fold(true, |all, &byte| all & plain(byte)))
}

impl Repair {
    /// The text, repaired; nothing where it is as it should be.
    pub fn repaired(&self, text: &str) -> Option<String> {
        if is_plain(text) {
            return None;
        }
        let mut repaired: Option<String> = None;
        let steps: [(bool, fn(&str) -> Option<String>); 4] = [
            (self.mojibake, mojibake::repaired),
            (self.line_borders, |text| text.contains(is_line_border).then(|| with_line_feeds(text))),
            (self.invisible, |text| text.contains(is_invisible).then(|| text.replace(is_invisible, ""))),
            (self.nfc, |text| (is_nfc_quick(text.chars()) != IsNormalized::Yes).then(|| text.nfc().collect())),
        ];
        for (wanted, step) in steps {
            if let Some(next) = wanted.then(|| step(repaired.as_deref().unwrap_or(text))).flatten() {
                repaired = Some(next);
            }
        }
        repaired
    }
}

impl Step for Repair {
    fn apply(&self, document: &mut Document) -> Verdict {
        if let Some(text) = self.repaired(document.text())
            && text != document.text()
        {
            // Composed forms of a few characters are longer.
            if text.len() > crate::document::TEXT_BYTES_MAX {
                return Verdict::drop("unicode.too_long", format!("{} bytes once repaired", text.len()));
            }
            document.set_text(text);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repaired(text: &str) -> String {
        Repair::default().repaired(text).unwrap_or(text.to_owned())
    }

    #[test]
    fn each_repair() {
        assert_eq!(repaired("it\u{e2}\u{20ac}\u{2122}s"), "it\u{2019}s");
        assert_eq!(repaired("a\r\nb\rc\u{2028}d\u{85}e\n\r\n"), "a\nb\nc\nd\ne\n\n");
        assert_eq!(repaired("\u{feff}a\u{0}b\u{200b}c\u{ad}d\u{202e}e\u{7f}\u{9b}\tf\u{2060}"), "abcde\tf");
        assert_eq!(
            repaired("\u{1f469}\u{200d}\u{1f52c} \u{645}\u{6cc}\u{200c}\u{62e}"),
            "\u{1f469}\u{200d}\u{1f52c} \u{645}\u{6cc}\u{200c}\u{62e}"
        );
        assert_eq!(repaired("cafe\u{301} \u{1112}\u{1161}\u{11ab} \u{212b}"), "caf\u{e9} \u{d55c} \u{c5}");
        assert_eq!(Repair::default().repaired("Plain text.\n\tIndented.\n"), None);
    }

    #[test]
    fn each_repair_can_be_left_out() {
        let text = "e\u{301}\u{200b}\r\u{c3}\u{a9}";
        let nothing = Repair { mojibake: false, line_borders: false, invisible: false, nfc: false };
        assert_eq!(nothing.repaired(text), None);
        assert_eq!(Repair { nfc: true, ..nothing.clone() }.repaired(text).unwrap(), "\u{e9}\u{200b}\r\u{c3}\u{a9}");
        assert_eq!(
            Repair { line_borders: true, ..nothing.clone() }.repaired(text).unwrap(),
            "e\u{301}\u{200b}\n\u{c3}\u{a9}"
        );
        assert_eq!(Repair { invisible: true, ..nothing }.repaired(text).unwrap(), "e\u{301}\r\u{c3}\u{a9}");
    }

    proptest! {
        #[test]
        fn what_is_repaired_needs_no_repair(text in "([a-e\\r\\n\\t\\u{0}\\u{301}\\u{200b}\\u{85}]|\\PC){0,40}") {
            let plain = Repair { mojibake: false, ..Repair::default() };
            let once = plain.repaired(&text).unwrap_or(text);
            prop_assert_eq!(plain.repaired(&once).unwrap_or(once.clone()), once);
        }
    }
}
