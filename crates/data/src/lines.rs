//! Lines and white space of a text as Python counts them: the published quality rules are programs in Python

/// Lines by any of Python's line borders (`str.splitlines`): also a form feed, a next line, a paragraph separator. The last line may lack its border.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').flat_map(|piece| {
        // Most pieces are a line each. The compiler makes vectors of this.
        let several = piece.bytes().fold(false, |any, byte| any | starts_rare_border(byte));
        let mut rest = piece;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (end, border) = if several { border(rest.as_bytes()) } else { line_feed(rest.as_bytes()) };
            let line = &rest[..end];
            rest = &rest[end + border..];
            Some(line)
        })
    })
}

/// Where a line ends, and the bytes of its border, if that is a line feed at the end of the piece or nothing.
fn line_feed(piece: &[u8]) -> (usize, usize) {
    match piece {
        [line @ .., b'\n'] => (line.len(), 1),
        line => (line.len(), 0),
    }
}

/// As above, by all borders.
fn border(piece: &[u8]) -> (usize, usize) {
    let mut from = 0;
    while let Some(found) = piece[from..].iter().position(|&byte| starts_rare_border(byte)) {
        let at = from + found;
        match piece[at..] {
            [b'\r', b'\n', ..] | [0xc2, 0x85, ..] => return (at, 2),
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => return (at, 3),
            [0xc2 | 0xe2, ..] => from = at + 1,
            _ => return (at, 1),
        }
    }
    line_feed(piece)
}

fn starts_rare_border(byte: u8) -> bool {
    matches!(byte, 0x0b..=b'\r' | 0x1c..=0x1e | 0xc2 | 0xe2)
}

/// White space by `str.isspace`: the property White_Space and four separators among the control characters.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text without white space at both ends (`str.strip`).
pub fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Python 3.11.
    #[test]
    fn lines_as_in_python() {
        let split = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split("\n"), [""]);
        assert_eq!(split("a\r\nb\rc\n\nd"), ["a", "b", "c", "", "d"]);
        assert_eq!(
            split("a\u{b}b\u{c}c\u{1c}d\u{1d}e\u{1e}f\u{85}g\u{2028}h\u{2029}"),
            ["a", "b", "c", "d", "e", "f", "g", "h"]
        );
        assert_eq!(split("\u{c3}\u{85}\u{2014}\u{a0}x\u{1f}y"), ["\u{c3}", "\u{2014}\u{a0}x\u{1f}y"]);
        assert_eq!(trim("\u{1f}\u{3000} a\u{200b}\u{a0}\u{85}"), "a\u{200b}");
    }
}
