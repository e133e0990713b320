//! Reasoning and tool-call parser: a reply as reasoning, content and tool calls, while it comes.
//!
//! Every character goes through one state machine, so the message is the same wherever the text is cut. What cannot be a call
//! after all is given back as the text it was found in, as long as no part of the call was given; later than that the call
//! ends as it stands, and what follows is content.

mod dsml;
mod history;
mod json;
mod named;
mod object;

pub use history::{fit_history, for_template};

use dsml::DsmlCalls;
use named::NamedCalls;
use object::ObjectCalls;

use crate::families::Calls;
pub use crate::families::{Format, Syntax, THINK, THINK_END};

/// Longest name of a tool, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Most calls in one reply; more are content.
pub const CALLS_MAX: usize = 128;
/// Characters that may be read twice because they were no call; after that calls are no longer looked for.
const REREAD_BYTES_MAX: usize = 4 << 20;

/// A part of the message. Parts of one kind join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Reasoning.
    Reasoning(String),
    /// Text for the user.
    Content(String),
    /// A call begins.
    CallStart {
        /// Number of the call, from 0.
        index: usize,
        /// Name of the tool.
        name: String,
        /// Id of the call, if the model wrote one before the arguments.
        id: Option<String>,
    },
    /// A piece of the arguments of a call: JSON, as the model wrote it.
    Arguments {
        /// Number of the call.
        index: usize,
        /// The piece.
        text: String,
    },
}

/// Parser options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The prompt ended inside reasoning: see `Format::opened_by`.
    pub reasoning_opened: bool,
    /// Parse tool calls; otherwise their markers are content.
    pub tools: bool,
}

/// Input of the block parsers: a character, or a marker.
#[derive(Clone, Copy, Debug)]
enum Token {
    Char(char),
    Mark(&'static str),
}

/// Effect of a token on a block of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Part of the block.
    More,
    /// The last token of a call, or of its arguments.
    Ended,
    /// The first token of the next call.
    Next,
    /// The last token of the block.
    Done,
    /// Not a call: this token and all since the last output of the block are text.
    Not,
}

/// Output of a block: the start of a call, and a piece of its arguments.
#[derive(Debug, Default)]
struct Said {
    start: Option<(String, Option<String>)>,
    arguments: String,
}

/// Parser of a block of calls in one syntax.
trait CallParser: std::fmt::Debug + Send {
    /// Markers that mean something here.
    fn watched(&self) -> &[&'static str];

    /// Whether what was held since the last part of a call is text, should the reply end here.
    fn leaves_text(&self) -> bool;

    fn char(&mut self, c: char, said: &mut Said) -> Step;

    fn mark(&mut self, mark: &'static str, said: &mut Said) -> Step;
}

/// Parses one reply.
#[derive(Debug)]
pub struct Parser {
    format: Format,
    tools: bool,
    reasoning: bool,
    /// Characters still to parse, in reverse.
    todo: Vec<char>,
    /// Text that may become a marker.
    held: String,
    /// White space that may belong to the format.
    space: String,
    block: Option<Box<dyn CallParser>>,
    /// Text of the block that would go back if it were no call; how many bytes began the block, if they are among it.
    candidate: String,
    first: usize,
    reread: usize,
    calls: usize,
    reasoned: bool,
    reasoning_given: bool,
    content_given: bool,
    /// Nothing but white space came since a call.
    behind_call: bool,
    out: Vec<Delta>,
}

impl Parser {
    /// A parser at the start of a reply.
    pub fn new(format: Format, options: Options) -> Parser {
        Parser {
            format,
            tools: options.tools,
            reasoning: options.reasoning_opened,
            todo: Vec::new(),
            held: String::new(),
            space: String::new(),
            block: None,
            candidate: String::new(),
            first: 0,
            reread: 0,
            calls: 0,
            reasoned: options.reasoning_opened,
            reasoning_given: false,
            content_given: false,
            behind_call: false,
            out: Vec::new(),
        }
    }

    /// Parses more text. Only what may still be markup is held back.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.todo.extend(text.chars().rev());
        self.drain();
        std::mem::take(&mut self.out)
    }

    /// What was held back, when no more comes because a limit cut the reply. The beginning of a marker or of a call is dropped: it is
    /// markup, whatever would have followed.
    pub fn cut(&mut self) -> Vec<Delta> {
        self.drain();
        let (held, block) = (std::mem::take(&mut self.held), self.block.take());
        let begun = !held.is_empty() || block.is_some();
        self.candidate.clear();
        if begun && self.space.ends_with(self.format.gap) {
            self.space.truncate(self.space.len() - self.format.gap.len());
        }
        self.finish()
    }

    /// The rest, at the end of the reply.
    pub fn finish(&mut self) -> Vec<Delta> {
        loop {
            self.drain();
            if !self.held.is_empty() {
                self.not_a_marker();
            } else if self.block.as_ref().is_some_and(|block| block.leaves_text()) {
                self.give_back();
            } else {
                break;
            }
        }
        self.block = None;
        let padding = self.format.padded && self.reasoned;
        let drop = if self.reasoning { padding } else { self.behind_call || (padding && !self.content_given) };
        let space = std::mem::take(&mut self.space);
        if !drop {
            self.give(&space);
        }
        std::mem::take(&mut self.out)
    }

    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    fn drain(&mut self) {
        while let Some(c) = self.todo.pop() {
            self.take(c);
        }
    }

    fn take(&mut self, c: char) {
        // All markers begin so.
        if self.held.is_empty() && !matches!(c, '<' | '[') {
            return self.dispatch(Token::Char(c));
        }
        self.held.push(c);
        let of_text;
        let watched = match &self.block {
            Some(block) => block.watched(),
            None => {
                of_text = self.watched();
                &of_text[..]
            }
        };
        if let Some(&mark) = watched.iter().find(|m| **m == self.held) {
            self.held.clear();
            self.dispatch(Token::Mark(mark));
        } else if !watched.iter().any(|m| m.starts_with(&self.held)) {
            self.not_a_marker();
        }
    }

    /// The first held character is only itself; the others are read again.
    fn not_a_marker(&mut self) {
        let held = std::mem::take(&mut self.held);
        let mut chars = held.chars();
        let first = chars.next().expect("something is held");
        self.todo.extend(chars.rev());
        self.dispatch(Token::Char(first));
    }

    /// Markers that mean something in text, here.
    fn watched(&self) -> Vec<&'static str> {
        let mut marks = Vec::with_capacity(8);
        if self.format.reasons {
            let given = if self.reasoning { self.reasoning_given } else { self.content_given };
            if !given && self.calls == 0 {
                marks.push(THINK);
            }
            if self.reasoning || !given {
                marks.push(THINK_END);
            }
        }
        if self.tools {
            marks.extend(self.format.triggers());
            if self.calls > 0 {
                marks.extend(self.format.ends());
            }
        }
        marks
    }

    fn dispatch(&mut self, token: Token) {
        let Some(block) = &mut self.block else { return self.text(token) };
        let mut said = Said::default();
        let step = match token {
            Token::Char(c) => block.char(c, &mut said),
            Token::Mark(mark) => block.mark(mark, &mut said),
        };
        if said.start.is_some() && self.calls == CALLS_MAX {
            self.tools = false;
            self.keep(token);
            return self.give_back();
        }
        let before = if step == Step::Not { std::mem::take(&mut self.candidate) } else { String::new() };
        let given = self.say(said);
        match step {
            Step::More if given => (),
            Step::More => self.keep(token),
            Step::Ended => self.candidate.clear(),
            Step::Next => {
                self.candidate.clear();
                self.keep(token);
            }
            Step::Done => {
                self.candidate.clear();
                self.block = None;
            }
            Step::Not => {
                // Where the call was closed for what came, the white space before that is the call's.
                self.candidate = if given { before.trim_start().to_string() } else { before };
                self.keep(token);
                self.give_back();
            }
        }
    }

    /// Remember a token of something that may not be a call.
    fn keep(&mut self, token: Token) {
        match token {
            Token::Char(c) => self.candidate.push(c),
            Token::Mark(mark) => self.candidate.push_str(mark),
        }
    }

    /// It was no call: it is read again, as text. What began a block without any call stands for itself.
    fn give_back(&mut self) {
        self.block = None;
        let text = std::mem::take(&mut self.candidate);
        let (first, rest) = text.split_at(self.first);
        first.chars().for_each(|c| self.put(c));
        self.todo.extend(rest.chars().rev());
        self.reread += rest.len();
        self.tools &= self.reread <= REREAD_BYTES_MAX;
    }

    /// A block begins with this token.
    fn open(&mut self, block: impl CallParser + 'static, token: Token) {
        self.block = Some(Box::new(block));
        self.keep(token);
        self.first = self.candidate.len();
    }

    fn say(&mut self, said: Said) -> bool {
        let given = said.start.is_some() || !said.arguments.is_empty();
        if let Some((name, id)) = said.start {
            self.before_call();
            self.out.push(Delta::CallStart { index: self.calls, name, id });
            self.calls += 1;
            self.behind_call = true;
        }
        if !said.arguments.is_empty() {
            let index = self.calls - 1;
            match self.out.last_mut() {
                Some(Delta::Arguments { index: last, text }) if *last == index => text.push_str(&said.arguments),
                _ => self.out.push(Delta::Arguments { index, text: said.arguments }),
            }
        }
        if given {
            self.candidate.clear();
            self.first = 0;
        }
        given
    }

    /// White space before a call is the format's; a call ends reasoning.
    fn before_call(&mut self) {
        let space = std::mem::take(&mut self.space);
        let given = if self.reasoning { self.reasoning_given && !self.format.padded } else { self.content_given };
        if given && !self.behind_call {
            self.give(space.strip_suffix(self.format.gap).unwrap_or(&space));
        }
        self.reasoning = false;
    }

    fn text(&mut self, token: Token) {
        match token {
            Token::Char('{') if self.tools && !self.reasoning && !self.content_given => match self.format.calls {
                Calls::Object(object) if object.bare => self.open(ObjectCalls::bare(object), token),
                _ => self.put('{'),
            },
            Token::Char(c) => self.put(c),
            Token::Mark(THINK) => {
                self.space.clear();
                (self.reasoning, self.reasoned) = (true, true);
            }
            Token::Mark(THINK_END) => {
                let space = std::mem::take(&mut self.space);
                if self.reasoning && !self.format.padded {
                    self.give(&space);
                }
                self.reasoning = false;
            }
            Token::Mark(mark) if self.format.triggers().contains(&mark) => match self.format.calls {
                Calls::Named(named) => self.open(NamedCalls::new(named, mark), token),
                Calls::Object(object) => self.open(ObjectCalls::new(object), token),
                Calls::Dsml => self.open(DsmlCalls::default(), token),
                Calls::None => (),
            },
            // The end of a call that has ended.
            Token::Mark(_) => (),
        }
    }

    /// A character of text. White space waits for what follows.
    fn put(&mut self, c: char) {
        if c.is_whitespace() {
            return self.space.push(c);
        }
        let mut text = std::mem::take(&mut self.space);
        let padding = self.format.padded && self.reasoned;
        let drop = if self.reasoning {
            padding && !self.reasoning_given
        } else {
            !self.content_given && (padding || self.calls > 0)
        };
        if drop {
            text.clear();
        }
        text.push(c);
        if self.reasoning {
            self.reasoning_given = true;
        } else {
            (self.content_given, self.behind_call) = (true, false);
        }
        self.give(&text);
    }

    fn give(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match (self.out.last_mut(), self.reasoning) {
            (Some(Delta::Reasoning(last)), true) | (Some(Delta::Content(last)), false) => last.push_str(text),
            (_, true) => self.out.push(Delta::Reasoning(text.to_string())),
            (_, false) => self.out.push(Delta::Content(text.to_string())),
        }
    }
}
