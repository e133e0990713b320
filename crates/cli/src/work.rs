//! What a benchmark measures.

pub use farthing::pace::median;

/// What a row of figures measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Prefill of a prompt: tokens.
    Prefill(usize),
    /// Decoding one sequence: tokens in its context.
    Decode(usize),
    /// Decoding several sequences at once: how many.
    Together(usize),
}

impl Work {
    /// In words.
    pub fn name(self) -> String {
        match self {
            Work::Prefill(n) => format!("prefill {n}"),
            Work::Decode(0) => "decode".to_string(),
            Work::Decode(depth) => format!("decode at depth {depth}"),
            Work::Together(1) => "1 sequence".to_string(),
            Work::Together(n) => format!("{n} sequences at once"),
        }
    }
}

/// Tokens of the prompt that sequences decoded at once share.
pub const SHARED: usize = 512;
