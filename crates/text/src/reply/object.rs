//! Calls that are JSON objects with a name and arguments, behind a marker or bare.

use super::json::{Arguments, Follow, Place, Unescape};
use super::{CallParser, NAME_BYTES_MAX, Said, Step};
use crate::families::ObjectSyntax;

/// One call, or a list of calls.
#[derive(Debug)]
pub(super) struct ObjectCalls {
    object: &'static ObjectSyntax,
    marks: Vec<&'static str>,
    /// It began without a marker: objects that are no calls are what the model says.
    bare: bool,
    list: bool,
    state: ObjectState,
    name: Option<String>,
    id: Option<String>,
    /// Arguments that came before the name.
    kept: Option<String>,
    /// The call was given; one was given before this block's marker.
    started: bool,
    called: bool,
}

#[derive(Debug)]
enum ObjectState {
    /// Behind the marker.
    Before,
    /// Where a key must come; whether the object may end instead.
    Key(bool),
    /// Inside a string: a key, or the value of one.
    Text {
        text: String,
        unescape: Unescape,
        value_of: Option<Member>,
    },
    Colon(Member),
    Value(Member),
    Skip(Follow),
    Arguments(Arguments),
    /// Behind a value.
    Comma,
    /// Behind the object.
    After,
}

/// A member of a call's object, by what its value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Name,
    Id,
    Arguments,
    Other,
}

impl CallParser for ObjectCalls {
    fn watched(&self) -> &[&'static str] {
        match &self.state {
            ObjectState::Text { .. } => &[],
            ObjectState::Skip(follow) if follow.in_string() => &[],
            ObjectState::Arguments(arguments) if arguments.in_string() => &[],
            _ => &self.marks,
        }
    }

    fn leaves_text(&self) -> bool {
        match self.state {
            ObjectState::After => false,
            ObjectState::Before => true,
            _ => !self.started,
        }
    }

    fn mark(&mut self, mark: &'static str, _said: &mut Said) -> Step {
        let before = matches!(self.state, ObjectState::Before);
        let after = matches!(self.state, ObjectState::After);
        // Inside an object the call ends as it stands.
        let ended = after || (!before && self.started);
        if Some(mark) == self.object.close && (ended || (before && self.called)) {
            return Step::Done;
        }
        if mark == self.object.open && ended {
            *self = ObjectCalls { called: true, ..ObjectCalls::new(self.object) };
            return if after { Step::More } else { Step::Next };
        }
        Step::Not
    }

    fn char(&mut self, c: char, said: &mut Said) -> Step {
        match &mut self.state {
            ObjectState::Text { text, unescape, value_of } => {
                if c != '"' || !unescape.open() {
                    unescape.take(c, text);
                    // Names and ids are short; so are the keys that matter. Other values are skipped, not read.
                    return if text.len() <= NAME_BYTES_MAX { Step::More } else { Step::Not };
                }
                unescape.finish(text);
                let (text, value_of) = (std::mem::take(text), *value_of);
                self.text(text, value_of, said)
            }
            ObjectState::Skip(follow) => match follow.take(c) {
                Place::Inside => Step::More,
                Place::Last => self.after_value(),
                Place::Behind | Place::Wrong => {
                    self.state = ObjectState::Comma;
                    self.char(c, said)
                }
            },
            ObjectState::Arguments(arguments) => {
                let place = match &mut self.kept {
                    Some(kept) => arguments.take(c, kept),
                    None => arguments.take(c, &mut said.arguments),
                };
                match place {
                    Place::Inside => Step::More,
                    Place::Last => {
                        self.state = ObjectState::Comma;
                        if self.started { Step::Ended } else { Step::More }
                    }
                    Place::Behind | Place::Wrong => {
                        self.state = ObjectState::Comma;
                        self.char(c, said)
                    }
                }
            }
            _ if c.is_whitespace() => Step::More,
            ObjectState::Before if c == '[' && !self.list => {
                self.list = true;
                Step::More
            }
            ObjectState::Before | ObjectState::After if c == '{' => {
                (self.name, self.id, self.kept, self.started) = (None, None, None, false);
                self.state = ObjectState::Key(true);
                Step::More
            }
            ObjectState::After if self.object.separators.contains(&c) => Step::More,
            ObjectState::After if c == ']' && self.list => {
                self.list = false;
                if self.object.close.is_none() { Step::Done } else { Step::More }
            }
            ObjectState::Key(_) if c == '"' => self.open_text(None),
            ObjectState::Key(true) if c == '}' => self.close(said),
            ObjectState::Colon(role) if c == ':' => {
                self.state = ObjectState::Value(*role);
                Step::More
            }
            ObjectState::Value(role) => {
                let role = *role;
                self.value(role, c, said)
            }
            ObjectState::Comma if c == ',' => {
                self.state = ObjectState::Key(false);
                Step::More
            }
            ObjectState::Comma if c == '}' => self.close(said),
            _ => Step::Not,
        }
    }
}

impl ObjectCalls {
    /// Behind a marker.
    pub fn new(object: &'static ObjectSyntax) -> ObjectCalls {
        let state = ObjectState::Before;
        let (name, id, kept) = (None, None, None);
        ObjectCalls {
            object,
            marks: object.marks(),
            bare: false,
            list: false,
            state,
            name,
            id,
            kept,
            started: false,
            called: false,
        }
    }

    /// Behind the brace with which a reply began.
    pub fn bare(object: &'static ObjectSyntax) -> ObjectCalls {
        ObjectCalls { bare: true, state: ObjectState::Key(true), ..ObjectCalls::new(object) }
    }

    fn open_text(&mut self, value_of: Option<Member>) -> Step {
        self.state = ObjectState::Text { text: String::new(), unescape: Unescape::default(), value_of };
        Step::More
    }

    fn after_value(&mut self) -> Step {
        self.state = ObjectState::Comma;
        Step::More
    }

    /// A string has ended.
    fn text(&mut self, text: String, value_of: Option<Member>, said: &mut Said) -> Step {
        match value_of {
            None => {
                let role = match text.as_str() {
                    "name" | "function" if self.name.is_none() => Member::Name,
                    "arguments" | "parameters" if !self.started && self.kept.is_none() => Member::Arguments,
                    "id" => Member::Id,
                    "type" => Member::Other,
                    _ if self.bare && !self.started => return Step::Not,
                    _ => Member::Other,
                };
                self.state = ObjectState::Colon(role);
                return Step::More;
            }
            Some(Member::Name) if !self.started => {
                if text.trim().is_empty() || text.contains(char::is_control) {
                    return Step::Not;
                }
                self.name = Some(text.trim().to_string());
                if let Some(kept) = self.kept.take() {
                    self.start(said);
                    said.arguments = kept;
                }
            }
            Some(Member::Id) => self.id = Some(text),
            _ => (),
        }
        self.after_value()
    }

    /// The first character of a value.
    fn value(&mut self, role: Member, c: char, said: &mut Said) -> Step {
        match role {
            Member::Name if c != '"' => Step::Not,
            Member::Name => self.open_text(Some(role)),
            Member::Id if c == '"' => self.open_text(Some(role)),
            Member::Arguments => {
                let mut arguments = Arguments::default();
                let mut text = String::new();
                if arguments.take(c, &mut text) != Place::Inside {
                    return Step::Not;
                }
                self.state = ObjectState::Arguments(arguments);
                if self.name.is_some() {
                    self.start(said);
                    said.arguments = text;
                } else {
                    self.kept = Some(text);
                }
                Step::More
            }
            _ => {
                let mut follow = Follow::default();
                if follow.take(c) != Place::Inside {
                    return Step::Not;
                }
                self.state = ObjectState::Skip(follow);
                Step::More
            }
        }
    }

    fn start(&mut self, said: &mut Said) {
        said.start = self.name.clone().map(|name| (name, self.id.take()));
        self.started = true;
    }

    /// The object has ended.
    fn close(&mut self, said: &mut Said) -> Step {
        if !self.started {
            if self.bare || self.name.is_none() {
                return Step::Not;
            }
            self.start(said);
            said.arguments.push_str("{}");
        }
        self.state = ObjectState::After;
        Step::Ended
    }
}
