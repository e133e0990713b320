//! What a program says about itself: its commands with their flags, and its documents; the caller fills it, since this crate knows no command line

use serde::Deserialize;

/// Help of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Manual {
    /// Commands in the order in which help lists them.
    pub commands: Vec<CommandHelp>,
    /// Documents.
    pub documents: Vec<ManualDocument>,
}

/// Help of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct CommandHelp {
    /// As it is typed, with the program: `farthing serve`.
    pub name: String,
    /// What it does, in one line.
    pub about: String,
    /// Its flags.
    pub flags: Vec<Flag>,
    /// Whole command lines.
    pub examples: Vec<String>,
}

/// A flag of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Flag {
    /// As it is typed: `--port`.
    pub name: String,
    /// Its letter, where it has one: `p` of `-p`.
    #[serde(default)]
    pub short: Option<char>,
    /// The placeholder of its value, such as `PORT`; none for a switch.
    pub value: Option<String>,
    /// What it does.
    pub help: String,
}

/// A document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ManualDocument {
    /// Its file name: `SERVING.md`.
    pub name: String,
    /// Its text, Markdown.
    pub markdown: String,
}
