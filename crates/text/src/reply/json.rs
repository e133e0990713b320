//! JSON followed character by character: where a value ends, and what a string says.

/// Place of a character relative to the value that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Inside,
    /// The last character of the value.
    Last,
    /// Behind the value: numbers and words end where something else begins.
    Behind,
    /// No value can begin so.
    Wrong,
}

/// Follows one value. Brackets are counted outside of strings; they are not matched by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Follow {
    depth: usize,
    string: bool,
    escaped: bool,
    begun: bool,
}

impl Follow {
    /// Whether the next character is inside a string.
    pub fn in_string(&self) -> bool {
        self.string
    }

    pub fn take(&mut self, c: char) -> Place {
        if self.string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.string = false;
                    return if self.depth == 0 { Place::Last } else { Place::Inside };
                }
                _ => (),
            }
            return Place::Inside;
        }
        if self.begun && self.depth == 0 {
            // A number or a word.
            return if word(c) { Place::Inside } else { Place::Behind };
        }
        match c {
            '"' => self.string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' if self.begun => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Place::Last;
                }
            }
            _ if !self.begun && !word(c) => return Place::Wrong,
            _ => (),
        }
        self.begun = true;
        Place::Inside
    }
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')
}

/// Characters of a JSON string, between its quotes, to what they say. Escapes that mean nothing stand for themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Unescape {
    state: Escape,
    /// The first half of a surrogate pair.
    high: Option<u16>,
}

#[derive(Clone, Debug, Default)]
enum Escape {
    #[default]
    None,
    Slash,
    Hex(u16, u8),
}

impl Unescape {
    /// Whether a quote ends the string here.
    pub fn open(&self) -> bool {
        matches!(self.state, Escape::None)
    }

    pub fn take(&mut self, c: char, out: &mut String) {
        match &mut self.state {
            Escape::None if c == '\\' => self.state = Escape::Slash,
            Escape::None => self.put(c, out),
            Escape::Slash if c == 'u' => self.state = Escape::Hex(0, 0),
            Escape::Slash => {
                self.state = Escape::None;
                let said = match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    '"' | '\\' | '/' => c,
                    _ => {
                        self.put('\\', out);
                        c
                    }
                };
                self.put(said, out);
            }
            Escape::Hex(value, digits) => match c.to_digit(16) {
                Some(digit) => {
                    (*value, *digits) = (*value << 4 | digit as u16, *digits + 1);
                    if *digits == 4 {
                        let value = *value;
                        self.state = Escape::None;
                        self.unit(value, out);
                    }
                }
                None => {
                    self.state = Escape::None;
                    self.put(char::REPLACEMENT_CHARACTER, out);
                    self.take(c, out);
                }
            },
        }
    }

    fn unit(&mut self, unit: u16, out: &mut String) {
        match (self.high.take(), unit) {
            (Some(high), 0xdc00..=0xdfff) => {
                out.extend(char::decode_utf16([high, unit]).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
            }
            (high, unit) => {
                out.extend(high.map(|_| char::REPLACEMENT_CHARACTER));
                match unit {
                    0xd800..=0xdbff => self.high = Some(unit),
                    _ => out.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
        }
    }

    fn put(&mut self, c: char, out: &mut String) {
        self.finish(out);
        out.push(c);
    }

    /// The string has ended: half of a pair is no character.
    pub fn finish(&mut self, out: &mut String) {
        out.extend(self.high.take().map(|_| char::REPLACEMENT_CHARACTER));
    }
}

/// One character as it stands inside a JSON string.
pub(super) fn escape(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push(c),
    }
}

/// The arguments of a call as they come: the raw text of a JSON value, or what a JSON string says (some models write their
/// arguments as JSON inside a string).
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    follow: Follow,
    said: Option<Unescape>,
}

impl Arguments {
    /// See `Follow::in_string`.
    pub fn in_string(&self) -> bool {
        self.follow.in_string()
    }

    pub fn take(&mut self, c: char, out: &mut String) -> Place {
        let first = !self.follow.begun;
        let place = self.follow.take(c);
        match (&mut self.said, place) {
            (_, Place::Behind | Place::Wrong) => (),
            (None, Place::Inside) if first && c == '"' => self.said = Some(Unescape::default()),
            (None, _) => out.push(c),
            (Some(said), Place::Inside) => said.take(c, out),
            (Some(said), Place::Last) => said.finish(out),
        }
        place
    }
}
