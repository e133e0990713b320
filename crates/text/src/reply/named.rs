//! Calls whose name and arguments stand between markers.

use super::json::{Arguments, Place};
use super::{CallParser, NAME_BYTES_MAX, Said, Step};
use crate::families::{Head, NamedSyntax};

/// A block of calls.
#[derive(Debug)]
pub(super) struct NamedCalls {
    named: &'static NamedSyntax,
    marks: Vec<&'static str>,
    state: NamedState,
    id: Option<String>,
    /// Arguments were given for this call; a call was given at all.
    argued: bool,
    called: bool,
}

#[derive(Debug)]
enum NamedState {
    /// Before the first call, and after a call's end.
    Between,
    /// What stands before the separator, and whether it is the id already.
    Head(String, Option<String>),
    /// A name on a line of its own, behind a head that should be the type.
    Name(String, String),
    /// Before the arguments, where a fence may stand; whether it has begun.
    Fence(bool),
    Arguments(Arguments),
    /// Arguments that are no JSON: everything up to the end of the call.
    Raw,
    /// Behind the arguments.
    Tail,
}

impl CallParser for NamedCalls {
    fn watched(&self) -> &[&'static str] {
        match &self.state {
            NamedState::Arguments(arguments) if arguments.in_string() => &[],
            _ => &self.marks,
        }
    }

    fn leaves_text(&self) -> bool {
        match self.state {
            NamedState::Between => !self.called,
            NamedState::Head(..) | NamedState::Name(..) => true,
            _ => false,
        }
    }

    fn mark(&mut self, mark: &'static str, said: &mut Said) -> Step {
        let named = self.named;
        let begun =
            matches!(self.state, NamedState::Fence(_) | NamedState::Arguments(_) | NamedState::Raw | NamedState::Tail);
        if let NamedState::Name(_, name) = &mut self.state {
            // The name alone: a call without arguments.
            let name = std::mem::take(name);
            return if Some(mark) == named.close && self.start(&name, said) { self.end(said) } else { Step::Not };
        }
        if let NamedState::Head(head, id) = &mut self.state {
            let head = std::mem::take(head);
            if Some(mark) == named.id && id.is_none() {
                *id = Some(head);
                return Step::More;
            }
            let id = id.take();
            return if mark == named.separator { self.headed(head, id, said) } else { Step::Not };
        }
        if !begun && !matches!(self.state, NamedState::Between) {
            return Step::Not;
        }
        if mark == named.open {
            self.finish_arguments(begun, said);
            self.state = NamedState::Head(String::new(), None);
            return if begun { Step::Next } else { Step::More };
        }
        if Some(mark) == named.close && begun {
            return self.end(said);
        }
        if named.block.is_some_and(|(_, close)| mark == close) {
            self.finish_arguments(begun, said);
            return Step::Done;
        }
        Step::Not
    }

    fn char(&mut self, c: char, said: &mut Said) -> Step {
        match &mut self.state {
            NamedState::Between if c.is_whitespace() => Step::More,
            NamedState::Between => Step::Not,
            NamedState::Head(text, _) if c != '\n' && text.len() < NAME_BYTES_MAX => {
                text.push(c);
                Step::More
            }
            NamedState::Head(..) => Step::Not,
            NamedState::Name(head, name) if c == '{' || c == '`' || (c == '\n' && !name.trim().is_empty()) => {
                // Without a name on its line the head was the name.
                let name = std::mem::take(if name.trim().is_empty() { head } else { name });
                if self.start(&name, said) { self.char(c, said) } else { Step::Not }
            }
            NamedState::Name(_, name) if name.len() < NAME_BYTES_MAX => {
                name.push(c);
                Step::More
            }
            NamedState::Name(..) => Step::Not,
            NamedState::Fence(ticked) => {
                if c.is_whitespace() {
                    *ticked = false;
                } else if c == '`' {
                    *ticked = true;
                } else if !(*ticked && c.is_alphabetic()) {
                    self.state = if matches!(c, '{' | '[' | '"') {
                        NamedState::Arguments(Arguments::default())
                    } else {
                        NamedState::Raw
                    };
                    return self.char(c, said);
                }
                // It belongs to the call that was given.
                Step::Ended
            }
            NamedState::Arguments(arguments) => {
                let place = arguments.take(c, &mut said.arguments);
                self.argued |= !said.arguments.is_empty();
                if place != Place::Inside {
                    self.state = NamedState::Tail;
                    return Step::Ended;
                }
                Step::More
            }
            NamedState::Raw => {
                self.argued = true;
                said.arguments.push(c);
                Step::More
            }
            NamedState::Tail if c.is_whitespace() || (c == '`' && self.named.close.is_some()) => Step::More,
            NamedState::Tail => Step::Not,
        }
    }
}

impl NamedCalls {
    /// A block that begins with `mark`.
    pub fn new(named: &'static NamedSyntax, mark: &'static str) -> NamedCalls {
        let state = if mark == named.open { NamedState::Head(String::new(), None) } else { NamedState::Between };
        NamedCalls { named, marks: named.marks(), state, id: None, argued: false, called: false }
    }

    /// The head is complete.
    fn headed(&mut self, head: String, name: Option<String>, said: &mut Said) -> Step {
        let started = match (self.named.head, name) {
            (Head::Path, _) => {
                let path = head.trim();
                self.id = Some(path.to_string());
                let name = path.strip_prefix("functions.").unwrap_or(path);
                let number = |n: &str| n.bytes().all(|b| b.is_ascii_digit());
                self.start(name.rsplit_once(':').filter(|(_, n)| number(n)).map_or(name, |(name, _)| name), said)
            }
            (Head::Name, Some(name)) => {
                self.id = Some(head.trim().to_string());
                self.start(&name, said)
            }
            // Newer models of the family write as the older ones did now and then.
            (Head::Name, None) if head.trim() != "function" || self.named.close.is_none() => self.start(&head, said),
            _ => {
                self.state = NamedState::Name(head, String::new());
                true
            }
        };
        if started { Step::More } else { Step::Not }
    }

    fn start(&mut self, name: &str, said: &mut Said) -> bool {
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_control) {
            return false;
        }
        said.start = Some((name.to_string(), self.id.take()));
        self.state = NamedState::Fence(false);
        (self.argued, self.called) = (false, true);
        true
    }

    fn finish_arguments(&mut self, begun: bool, said: &mut Said) {
        if begun && !self.argued {
            said.arguments.push_str("{}");
            self.argued = true;
        }
    }

    fn end(&mut self, said: &mut Said) -> Step {
        self.finish_arguments(true, said);
        self.state = NamedState::Between;
        Step::Ended
    }
}
