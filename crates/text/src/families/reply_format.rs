//! A reply format as data: how a family of models writes reasoning and tool calls.

/// How a family of models writes reasoning and tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub(crate) name: &'static str,
    /// Texts in a chat template that show this format: one of these is enough.
    pub(crate) shown_by: &'static [Signs],
    /// Whether `<think>` and `</think>` are tags of reasoning.
    pub(crate) reasons: bool,
    /// Newlines around reasoning belong to the format, not to the text.
    pub(crate) padded: bool,
    /// What templates write between content and the first call.
    pub(crate) gap: &'static str,
    pub(crate) calls: Calls,
    pub(crate) syntax: Option<Syntax>,
    /// Whether templates take the arguments of earlier calls as an object (else as the text that the model wrote).
    pub(crate) objects: bool,
    /// Whether templates take ids of nine letters and digits only.
    pub(crate) short_ids: bool,
    /// Whether templates write either the content of a message or its calls.
    pub(crate) apart: bool,
    /// Whether calls without content stand beside an empty text; else beside null.
    pub(crate) blank: bool,
}

/// What a chat template contains, and what it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signs {
    pub all: &'static [&'static str],
    pub none: &'static [&'static str],
}

/// The opening tag of reasoning.
pub const THINK: &str = "<think>";
/// The closing tag of reasoning.
pub const THINK_END: &str = "</think>";

/// The kinds of syntax that calls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    None,
    Named(&'static NamedSyntax),
    Object(&'static ObjectSyntax),
    Dsml,
}

/// Markers around the name and the arguments of each call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedSyntax {
    /// Before all calls, and after them.
    pub block: Option<(&'static str, &'static str)>,
    /// Before a call.
    pub open: &'static str,
    /// Between the name and what identifies the call.
    pub id: Option<&'static str>,
    /// Between the head and the rest.
    pub separator: &'static str,
    /// After a call.
    pub close: Option<&'static str>,
    pub head: Head,
}

impl NamedSyntax {
    /// Everything that is looked for inside.
    pub fn marks(&self) -> Vec<&'static str> {
        let (begin, end) = self.block.unzip();
        [begin, Some(self.open), self.id, Some(self.separator), self.close, end].into_iter().flatten().collect()
    }
}

/// What stands before the separator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The name.
    Name,
    /// The call's type; the name and a fence of Markdown around the arguments follow.
    Type,
    /// `functions.NAME:NUMBER`, which is the call's id too.
    Path,
}

/// One JSON object a call: `{"name": ..., "arguments": ...}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ObjectSyntax {
    /// Before a call, or a list of calls.
    pub open: &'static str,
    /// After a call.
    pub close: Option<&'static str>,
    /// A reply that begins with such an object is a call even without a marker.
    pub bare: bool,
    /// What may stand between objects besides whitespace.
    pub separators: &'static [char],
}

impl ObjectSyntax {
    /// Everything that is looked for inside.
    pub fn marks(&self) -> Vec<&'static str> {
        [self.open].into_iter().chain(self.close).collect()
    }
}

/// How calls are written: `open`, then `begin` NAME `middle` ARGUMENTS `end` with `between` between calls, then `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// Before the first call.
    pub open: &'static str,
    /// Before the name.
    pub begin: &'static str,
    /// Between the name and the arguments.
    pub middle: &'static str,
    /// After the arguments.
    pub end: &'static str,
    /// Between calls.
    pub between: &'static str,
    /// After the last call.
    pub close: &'static str,
    /// Whether arguments are one JSON object; else they are DSML parameters.
    pub json: bool,
}

/// Words of DSML, a markup of calls with a tag for each parameter. The block has one of two names; both are read.
pub(crate) mod dsml {
    /// What every tag contains.
    pub const TAG: &str = "｜DSML｜";
    pub const OPENS: &[&str] = &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"];
    pub const CLOSES: &[&str] = &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"];
    pub const INVOKE: &str = "<｜DSML｜invoke";
    pub const INVOKE_END: &str = "</｜DSML｜invoke>";
    pub const PARAMETER: &str = "<｜DSML｜parameter";
    pub const PARAMETER_END: &str = "</｜DSML｜parameter>";
    pub const MARKS: &[&str] = &[INVOKE, INVOKE_END, PARAMETER, OPENS[0], OPENS[1], CLOSES[0], CLOSES[1]];
}

impl Format {
    pub(super) fn is_shown_by(&self, source: &str) -> bool {
        let has = |text: &&str| source.contains(*text);
        self.shown_by.iter().any(|signs| signs.all.iter().all(has) && !signs.none.iter().any(has))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether replies may hold reasoning between tags.
    pub fn reasons(&self) -> bool {
        self.reasons
    }

    /// Whether replies may hold calls.
    pub fn calls(&self) -> bool {
        self.calls != Calls::None
    }

    /// Whether a prompt ends inside reasoning, so that the reply begins there.
    pub fn opened_by(&self, prompt: &str) -> bool {
        self.reasons && prompt.trim_end().ends_with(THINK)
    }

    /// How reasoning is closed: as the template writes it in earlier turns, with the newlines around the tag, or as the format's
    /// models write it.
    pub fn reasoning_end(&self, template: &str) -> String {
        const NEWLINE: &str = "\\n";
        let around = |(at, tag): (usize, &str)| {
            let (mut before, mut behind) = (0, 0);
            let (mut left, mut right) = (&template[..at], &template[at + tag.len()..]);
            while let Some(rest) = left.strip_suffix(NEWLINE) {
                (left, before) = (rest, before + 1);
            }
            while let Some(rest) = right.strip_prefix(NEWLINE) {
                (right, behind) = (rest, behind + 1);
            }
            (before, behind)
        };
        let written = template.match_indices(THINK_END).map(around).max_by_key(|(before, behind)| before + behind);
        let usual = if self.padded { (1, 2) } else { (0, 0) };
        let (before, behind) = written.filter(|around| *around != (0, 0)).unwrap_or(usual);
        format!("{}{THINK_END}{}", "\n".repeat(before), "\n".repeat(behind))
    }

    /// Strings that begin a call, or a block of calls. In formats of bare objects, calls may also begin with `{` at the start of the reply.
    pub fn triggers(&self) -> Vec<&'static str> {
        match self.calls {
            Calls::None => vec![],
            Calls::Named(named) => named.block.map(|(begin, _)| begin).into_iter().chain([named.open]).collect(),
            Calls::Object(object) => vec![object.open],
            Calls::Dsml => dsml::OPENS.to_vec(),
        }
    }

    /// How calls are written in full, for constraining what a model writes. `None` if there are no calls.
    pub fn syntax(&self) -> Option<Syntax> {
        self.syntax
    }

    /// Strings that the parser must see: tokens of these spellings are to be shown even where they count as special. `tools`
    /// as in `Options`: without tools the markers of calls are not asked for.
    pub fn markers(&self, tools: bool) -> Vec<&'static str> {
        let mut markers = if self.reasons { vec![THINK, THINK_END] } else { vec![] };
        if tools {
            markers.extend(match self.calls {
                Calls::None => vec![],
                Calls::Named(named) => named.marks(),
                Calls::Object(object) => object.marks(),
                Calls::Dsml => vec![dsml::TAG],
            });
        }
        markers
    }

    /// Ends of calls, which may be left over behind one.
    pub(crate) fn ends(&self) -> Vec<&'static str> {
        match self.calls {
            Calls::None => vec![],
            Calls::Named(named) => named.close.into_iter().chain(named.block.map(|(_, close)| close)).collect(),
            Calls::Object(object) => object.close.into_iter().collect(),
            Calls::Dsml => dsml::CLOSES.to_vec(),
        }
    }
}
