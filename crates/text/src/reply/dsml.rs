//! Calls in DSML, a markup with a tag for each parameter: parameters become one JSON object.

use super::json::{Arguments, Place, escape};
use super::{CallParser, NAME_BYTES_MAX, Said, Step};
use crate::families::dsml;

/// Longest value that is looked at whole before it is given: numbers and words.
const WORD_BYTES_MAX: usize = 256;

/// A block of calls.
#[derive(Debug, Default)]
pub(super) struct DsmlCalls {
    state: DsmlState,
    /// Parameters given for this call; a call was given at all.
    parameters: usize,
    called: bool,
    /// The arguments are one JSON object, written without parameters.
    whole: bool,
}

#[derive(Debug, Default)]
enum DsmlState {
    #[default]
    Between,
    /// Attributes of `invoke`, or of `parameter`; whether inside quotes.
    Tag { text: String, quoted: bool, invoke: bool },
    /// Inside a call, between parameters.
    Body,
    /// A parameter's text, as a JSON string.
    Text,
    /// A parameter's JSON, of which nothing is known yet.
    Word(String),
    /// A parameter's JSON.
    Json,
    /// The arguments as one object.
    Whole(Arguments),
}

impl CallParser for DsmlCalls {
    fn watched(&self) -> &[&'static str] {
        match &self.state {
            DsmlState::Tag { .. } => &[],
            DsmlState::Text | DsmlState::Word(_) | DsmlState::Json => &[dsml::PARAMETER_END],
            DsmlState::Whole(arguments) if arguments.in_string() => &[],
            _ => dsml::MARKS,
        }
    }

    fn leaves_text(&self) -> bool {
        match self.state {
            DsmlState::Between => !self.called,
            DsmlState::Tag { invoke, .. } => invoke,
            _ => false,
        }
    }

    fn mark(&mut self, mark: &'static str, said: &mut Said) -> Step {
        let tag = |invoke| DsmlState::Tag { text: String::new(), quoted: false, invoke };
        match (&mut self.state, mark) {
            (DsmlState::Between, dsml::INVOKE) => self.state = tag(true),
            (DsmlState::Between, _) if dsml::CLOSES.contains(&mark) => return Step::Done,
            (DsmlState::Body, dsml::PARAMETER) if !self.whole => self.state = tag(false),
            (DsmlState::Body | DsmlState::Whole(_), dsml::INVOKE_END) => {
                self.end(said);
                return Step::Ended;
            }
            // The end of a call was forgotten.
            (DsmlState::Body | DsmlState::Whole(_), dsml::INVOKE) => {
                self.end(said);
                self.state = tag(true);
                return Step::Next;
            }
            (DsmlState::Body | DsmlState::Whole(_), _) if dsml::CLOSES.contains(&mark) => {
                self.end(said);
                return Step::Done;
            }
            (DsmlState::Text, dsml::PARAMETER_END) => {
                said.arguments.push('"');
                self.state = DsmlState::Body;
            }
            (DsmlState::Word(word), dsml::PARAMETER_END) => {
                let word = std::mem::take(word);
                said.arguments = as_json(&word);
                self.state = DsmlState::Body;
            }
            (DsmlState::Json, dsml::PARAMETER_END) => {
                self.state = DsmlState::Body;
                return Step::Ended;
            }
            _ => return self.broken(said),
        }
        Step::More
    }

    fn char(&mut self, c: char, said: &mut Said) -> Step {
        match &mut self.state {
            DsmlState::Tag { quoted: false, .. } if c == '>' => return self.tag(said),
            DsmlState::Tag { text, .. } if text.len() >= 2 * NAME_BYTES_MAX => return self.broken(said),
            DsmlState::Tag { text, quoted, .. } => {
                text.push(c);
                *quoted ^= c == '"';
            }
            DsmlState::Body if c == '{' && self.parameters == 0 && !self.whole => {
                self.whole = true;
                let mut arguments = Arguments::default();
                arguments.take(c, &mut said.arguments);
                self.state = DsmlState::Whole(arguments);
            }
            DsmlState::Between | DsmlState::Body if c.is_whitespace() => (),
            DsmlState::Between | DsmlState::Body => return self.broken(said),
            DsmlState::Text => escape(c, &mut said.arguments),
            DsmlState::Word(word) => {
                word.push(c);
                let text = word.trim_start();
                if text.starts_with(['{', '[']) {
                    said.arguments = text.to_string();
                    self.state = DsmlState::Json;
                } else if text.len() > WORD_BYTES_MAX {
                    said.arguments.push('"');
                    word.chars().for_each(|c| escape(c, &mut said.arguments));
                    self.state = DsmlState::Text;
                }
            }
            DsmlState::Json => said.arguments.push(c),
            DsmlState::Whole(arguments) => {
                if arguments.take(c, &mut said.arguments) == Place::Last {
                    self.state = DsmlState::Body;
                }
            }
        }
        Step::More
    }
}

impl DsmlCalls {
    /// A tag is complete.
    fn tag(&mut self, said: &mut Said) -> Step {
        let DsmlState::Tag { text, invoke, .. } = std::mem::take(&mut self.state) else { unreachable!("inside a tag") };
        let name = attribute(&text, "name").map(str::trim).filter(|n| !n.is_empty() && !n.contains(char::is_control));
        match name {
            None => {
                self.state = if invoke { DsmlState::Between } else { DsmlState::Body };
                return self.broken(said);
            }
            Some(name) if invoke => {
                said.start = Some((name.to_string(), None));
                (self.parameters, self.whole, self.called) = (0, false, true);
                self.state = DsmlState::Body;
            }
            Some(name) => {
                said.arguments.push_str(if self.parameters == 0 { "{\"" } else { ", \"" });
                name.chars().for_each(|c| escape(c, &mut said.arguments));
                said.arguments.push_str("\": ");
                self.parameters += 1;
                if attribute(&text, "string") == Some("false") {
                    self.state = DsmlState::Word(String::new());
                } else {
                    said.arguments.push('"');
                    self.state = DsmlState::Text;
                }
            }
        }
        Step::More
    }

    /// What comes does not belong here. The braces are ours, so they are closed.
    fn broken(&mut self, said: &mut Said) -> Step {
        if matches!(self.state, DsmlState::Body | DsmlState::Tag { invoke: false, .. }) {
            self.end(said);
        }
        Step::Not
    }

    fn end(&mut self, said: &mut Said) {
        if !self.whole {
            said.arguments.push_str(if self.parameters == 0 { "{}" } else { "}" });
        }
        self.state = DsmlState::Between;
    }
}

/// The value of an attribute.
fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    let mut rest = tag;
    loop {
        let (key, value) = rest.split_once("=\"")?;
        let (value, behind) = value.split_once('"')?;
        if key.trim() == name {
            return Some(value);
        }
        rest = behind;
    }
}

/// A short value: as it is if it is JSON, else as a string.
fn as_json(word: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(word) {
        Ok(_) => word.trim().to_string(),
        Err(_) => {
            let mut out = String::from('"');
            word.chars().for_each(|c| escape(c, &mut out));
            out + "\""
        }
    }
}
