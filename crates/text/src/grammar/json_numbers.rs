//! Numbers of JSON output stay numbers elsewhere: exponents of two digits and forty digits before them. Only a number that could not end
//! there (above zero, and forty zeros so far) may have more.
//!
//! JSON's own grammar lets a number be `1E526`, or digits without end, which other readers take for infinity or refuse. llguidance has no
//! word for that, so bytes are followed here: what is a string and what a number.

/// Most digits of a number, without its exponent.
const DIGITS_MAX: u8 = 40;
const EXPONENT_MAX: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum NumberPart {
    Outside,
    /// A string, and whether a backslash came just now.
    Text(bool),
    /// Digits so far.
    Mantissa(u8),
    /// Digits so far.
    Exponent(u8),
}

/// Where in a JSON text an output is. A line break or a marker ends whatever was open: no string of JSON has one in it, so text before
/// the JSON confuses nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NumberTracker(NumberPart);

/// Tokens that can make a number too long, by where they come.
pub(super) struct Risky {
    /// Anywhere.
    alone: Vec<u32>,
    /// After a digit.
    after_digit: Vec<u32>,
    /// In an exponent, or after many digits: a point is among them.
    digits: Vec<u32>,
    single: Vec<u32>,
    /// What may follow a number: signs of JSON, and the end of the text.
    ends: Vec<u32>,
}

impl NumberTracker {
    pub fn new() -> NumberTracker {
        NumberTracker(NumberPart::Outside)
    }

    pub fn reset(&mut self) {
        self.0 = NumberPart::Outside;
    }

    /// Go on by the bytes of a token. False when a number in it is too long, or has no room for the digits that must follow.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let mut fits = true;
        for &byte in bytes {
            fits &= !matches!((self.0, byte), (NumberPart::Mantissa(DIGITS_MAX..), b'.'));
            self.0 = match (self.0, byte) {
                (_, b'\n') => NumberPart::Outside,
                (NumberPart::Text(true), _) => NumberPart::Text(false),
                (NumberPart::Text(false), b'\\') => NumberPart::Text(true),
                (NumberPart::Text(false), b'"') => NumberPart::Outside,
                (NumberPart::Text(false), _) => NumberPart::Text(false),
                (_, b'"') => NumberPart::Text(false),
                (NumberPart::Outside, b'0'..=b'9') => NumberPart::Mantissa(1),
                (NumberPart::Mantissa(digits), b'0'..=b'9') => NumberPart::Mantissa(digits.saturating_add(1)),
                (NumberPart::Mantissa(digits), b'.') => NumberPart::Mantissa(digits),
                (NumberPart::Mantissa(_), b'e' | b'E') => NumberPart::Exponent(0),
                (NumberPart::Exponent(0), b'+' | b'-') => NumberPart::Exponent(0),
                (NumberPart::Exponent(digits), b'0'..=b'9') => NumberPart::Exponent(digits.saturating_add(1)),
                _ => NumberPart::Outside,
            };
            fits &= match self.0 {
                NumberPart::Mantissa(digits) => digits <= DIGITS_MAX,
                NumberPart::Exponent(digits) => digits <= EXPONENT_MAX,
                _ => true,
            };
        }
        fits
    }

    /// Take from a mask what would make a number too long.
    pub fn restrict<'a>(&self, risky: &Risky, bits: &mut [u32], bytes: impl Fn(u32) -> &'a [u8]) {
        let lists: &[&Vec<u32>] = match self.0 {
            NumberPart::Outside | NumberPart::Text(_) => &[&risky.alone],
            NumberPart::Mantissa(digits) if digits < DIGITS_MAX / 2 => &[&risky.after_digit],
            NumberPart::Mantissa(_) | NumberPart::Exponent(_) => &[&risky.after_digit, &risky.digits],
        };
        for &id in lists.iter().flat_map(|list| list.iter()) {
            let (word, bit) = (id as usize / 32, 1 << (id % 32));
            if bits[word] & bit != 0 && !self.clone().push(bytes(id)) {
                bits[word] &= !bit;
            }
        }
    }
}

impl Risky {
    /// Leave of a mask what leads to the end of a number in the fewest digits, up to three; `goes` says whether tokens may come one
    /// after the other. A mask that none of them is in stays.
    pub fn end_soon(&self, bits: &mut [u32], mut goes: impl FnMut(&[u32]) -> bool) {
        let mut ways = vec![Vec::new()];
        for _ in 0..3 {
            ways = ways
                .iter()
                .flat_map(|way| self.single.iter().map(move |&id| [way.as_slice(), &[id]].concat()))
                .collect();
            let mut firsts = vec![0; bits.len()];
            for way in &ways {
                let (word, bit) = (way[0] as usize / 32, 1 << (way[0] % 32));
                let mut ends = self.ends.iter().map(|&end| [way.as_slice(), &[end]].concat());
                if firsts[word] & bit == 0 && bits[word] & bit != 0 && ends.any(|way| goes(&way)) {
                    firsts[word] |= bit;
                }
            }
            if firsts.iter().any(|&word| word != 0) {
                bits.copy_from_slice(&firsts);
                return;
            }
        }
    }

    /// Of a vocabulary of plain tokens, and one that ends a text.
    pub fn of<'a>(tokens: impl Iterator<Item = (u32, &'a [u8])>, eos: u32) -> Risky {
        let mut risky = Risky {
            alone: Vec::new(),
            after_digit: Vec::new(),
            digits: Vec::new(),
            single: Vec::new(),
            ends: vec![eos],
        };
        for (id, bytes) in tokens {
            match bytes {
                [b'0'..=b'9'] => risky.single.push(id),
                [b',' | b'}' | b']'] => risky.ends.push(id),
                _ => {}
            }
            if bytes.first() != Some(&b'.') && !bytes.iter().any(u8::is_ascii_digit) {
                continue;
            }
            let breaks = |part| !NumberTracker(part).push(bytes);
            if breaks(NumberPart::Outside) || breaks(NumberPart::Text(false)) || breaks(NumberPart::Text(true)) {
                risky.alone.push(id);
            }
            if breaks(NumberPart::Mantissa(DIGITS_MAX / 2)) {
                risky.after_digit.push(id);
            }
            if matches!(bytes[0], b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') {
                risky.digits.push(id);
            }
        }
        risky
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_followed_through_strings() {
        let fits = |text: &str| NumberTracker::new().push(text.as_bytes());
        assert!(fits(r#"{"1e5555": "3E999 \" 1e999", "a": [1e12, -2.5E-30, 0.5]}"#));
        assert!(!fits("[1e123"));
        assert!(!fits(r#"{"a":-1.0E+123"#));
        assert!(fits(&"1".repeat(40)) && !fits(&"1".repeat(41)));
        assert!(fits(&format!("{}.", "1".repeat(39))) && !fits(&format!("{}.", "1".repeat(40))));
        assert!(fits("said \"so\n1e12") && !fits("said \"so\n1e123"));
    }

    #[test]
    fn a_mask_loses_what_is_too_long_there() {
        let tokens: [&[u8]; 6] = [b"1", b"123", b"e5", b"e500", b",", b"7e999"];
        let risky = Risky::of(tokens.iter().enumerate().map(|(id, bytes)| (id as u32, *bytes)), 9);
        let mask = |text: &str| {
            let mut numbers = NumberTracker::new();
            assert!(numbers.push(text.as_bytes()));
            let mut bits = [0b11_1111];
            numbers.restrict(&risky, &mut bits, |id| tokens[id as usize]);
            bits[0]
        };
        assert_eq!(mask("["), 0b01_1111);
        assert_eq!(mask("[4"), 0b01_0111);
        // What no number goes on by is the grammar's business: `4e7e999`.
        assert_eq!(mask("[4e"), 0b11_1101);
        assert_eq!(mask("[4e1"), 0b11_1101);
        assert_eq!(mask("[4e12"), 0b01_1100);
        assert_eq!(mask(&"4".repeat(39)), 0b01_0101);
        assert_eq!(mask("\"4e12"), 0b11_1111);
    }
}
