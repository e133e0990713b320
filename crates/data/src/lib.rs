//! Corpus to shards: documents are read, kept or dropped with a reason, deduplicated, tokenized, mixed and packed, as a recipe says
//!
//! A [`recipe`] is a list of sources and of steps in order. Every source is cut into [`parts`](part), the unit of work: a part goes through the
//! steps alone, in memory of its own, so that results do not depend on the number of threads or machines, and what is finished is not done again.
//! Steps that compare documents with all others ([`join`]) leave records beside each part; these are sorted, merged and decided for all parts together.

pub mod atomic;
pub mod document;
pub mod documents;
pub mod error;
pub mod generators;
pub mod ids;
pub mod join;
pub mod lines;
pub mod lock;
pub mod mojibake;
pub mod options;
pub mod origin;
pub mod packing;
pub mod panics;
pub mod part;
pub mod phase;
pub mod preview;
pub mod progress;
pub mod publish;
pub mod punctuation;
pub mod readers;
pub mod recipe;
pub mod report;
pub mod run;
pub mod sealed;
pub mod sentences;
pub mod shards;
pub mod shared;
pub mod simplified;
pub mod source;
pub mod step;
pub mod steps;
pub mod store;
pub mod tally;
pub mod tokenizer;
pub mod words;

pub use document::Document;
pub use error::Error;
pub use step::{Reason, Step, Verdict};
