//! Frames: sentences with slots, kept as plain text in sections, and the filling of slots with agreement
//!
//! A file of frames has sections, `[name]`, and lines that begin with a mark: `- {Name} has {x things}.` Blank lines and those that begin with `#` are
//! for the reader. `{slot}` is a value, `{Slot}` the same with a capital, `{x|is|are}` the first form if the number x is one and the second if not.

use super::split::Split;

/// What slots hold.
pub trait Values {
    /// Appends what the slot holds.
    fn write(&self, slot: &str, out: &mut String);

    /// The number that a slot holds, where a frame agrees with it.
    fn number(&self, slot: &str) -> i64;
}

/// Slots that hold text.
impl Values for [(&str, &str)] {
    fn write(&self, slot: &str, out: &mut String) {
        let value = self.iter().find(|(name, _)| *name == slot).unwrap_or_else(|| panic!("no slot {slot}"));
        out.push_str(value.1);
    }

    fn number(&self, slot: &str) -> i64 {
        panic!("slot {slot} holds no number")
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(&'static str),
    Slot { name: String, capital: bool },
    Agrees { number: &'static str, one: &'static str, many: &'static str },
}

/// A sentence with slots.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Its line in the file, from 1: names the frame in labels.
    pub line: u32,
    /// As it is written in the file.
    pub source: &'static str,
    pieces: Vec<Piece>,
}

impl Frame {
    /// Reads a frame.
    ///
    /// # Panics
    /// If a brace is not closed.
    pub fn new(line: u32, source: &'static str) -> Frame {
        let mut pieces = Vec::new();
        let mut rest = source;
        while let Some((text, after)) = rest.split_once('{') {
            if !text.is_empty() {
                pieces.push(Piece::Text(text));
            }
            let (slot, after) = after.split_once('}').unwrap_or_else(|| panic!("line {line}: {source}"));
            let mut forms = slot.split('|');
            let name = forms.next().unwrap_or_default();
            pieces.push(match (forms.next(), forms.next()) {
                (Some(one), Some(many)) => Piece::Agrees { number: name, one, many },
                _ => Piece::Slot {
                    name: name.to_ascii_lowercase(),
                    capital: name.starts_with(|c: char| c.is_ascii_uppercase()),
                },
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        Frame { line, source, pieces }
    }

    /// Appends the frame with its slots filled.
    pub fn write(&self, values: &(impl Values + ?Sized), out: &mut String) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Slot { name, capital } => {
                    let start = out.len();
                    values.write(name, out);
                    if *capital && out[start..].starts_with(|c: char| c.is_ascii_lowercase()) {
                        let first = out[start..start + 1].to_ascii_uppercase();
                        out.replace_range(start..start + 1, &first);
                    }
                }
                Piece::Agrees { number, one, many } => {
                    out.push_str(if values.number(number) == 1 { one } else { many });
                }
            }
        }
    }

    /// The frame with its slots filled.
    pub fn fill(&self, values: &(impl Values + ?Sized)) -> String {
        let mut out = String::with_capacity(self.source.len() + 32);
        self.write(values, &mut out);
        out
    }

    /// Whether the frame has a slot of this name.
    pub fn has(&self, slot: &str) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Slot { name, .. } if name == slot))
    }
}

/// A line of a section.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Its place in the file, from 1.
    pub number: u32,
    /// Its first character.
    pub mark: char,
    /// What comes after the mark.
    pub text: &'static str,
}

/// A part of a file of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// What stands in brackets.
    pub name: &'static str,
    /// Its lines.
    pub lines: Vec<Line>,
}

impl Section {
    /// The texts of the lines with this mark.
    pub fn texts(&self, mark: char) -> impl Iterator<Item = &'static str> {
        self.lines.iter().filter(move |line| line.mark == mark).map(|line| line.text)
    }

    /// The frames with this mark.
    pub fn frames(&self, mark: char) -> Vec<Frame> {
        let lines = self.lines.iter().filter(|line| line.mark == mark);
        lines.map(|line| Frame::new(line.number, line.text)).collect()
    }

    /// The frames with this mark, split by their text.
    pub fn split(&self, mark: char) -> Split<Frame> {
        Split::new(self.frames(mark), |frame| frame.source.to_owned())
    }
}

/// The sections of a file of frames.
///
/// # Panics
/// If a line stands before the first section or has no mark: these files are our own.
pub fn sections(text: &'static str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').unwrap_or_else(|| panic!("line {number}: {line}"));
            sections.push(Section { name, lines: Vec::new() });
            continue;
        }
        let (mark, text) = line.split_once(' ').unwrap_or_else(|| panic!("line {number}: {line}"));
        let section = sections.last_mut().unwrap_or_else(|| panic!("line {number}: no section"));
        section.lines.push(Line { number, mark: mark.chars().next().unwrap_or(' '), text });
    }
    sections
}

/// The section of this name.
///
/// # Panics
/// If there is none.
pub fn section<'a>(sections: &'a [Section], name: &str) -> &'a Section {
    sections.iter().find(|section| section.name == name).unwrap_or_else(|| panic!("no section {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Apples(i64);

    impl Values for Apples {
        fn write(&self, slot: &str, out: &mut String) {
            match slot {
                "he" => out.push_str("he"),
                _ => out.push_str(&self.0.to_string()),
            }
        }

        fn number(&self, _: &str) -> i64 {
            self.0
        }
    }

    #[test]
    fn slots_are_filled_and_verbs_agree() {
        let frame = Frame::new(1, "There {x|is|are} {x} here. {He} saw {x}, {he} did.");
        assert_eq!(frame.fill(&Apples(1)), "There is 1 here. He saw 1, he did.");
        assert_eq!(frame.fill(&Apples(2)), "There are 2 here. He saw 2, he did.");
        assert!(frame.has("he") && !frame.has("she"));
    }

    #[test]
    fn sections_have_lines_with_marks() {
        let sections = sections("# for the reader\n[one]\n- a\n? b c\n\n[two]\n- d\n");
        assert_eq!(section(&sections, "one").texts('?').collect::<Vec<_>>(), ["b c"]);
        assert_eq!(section(&sections, "one").lines[1], Line { number: 4, mark: '?', text: "b c" });
        assert_eq!(section(&sections, "two").frames('-')[0].line, 7);
    }
}
