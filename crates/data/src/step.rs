//! A step that looks at one document: it keeps it, changed or not, or drops it with a reason

use std::borrow::Cow;

use crate::Document;

/// What becomes of a document.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It is counted, and a sample is kept aside.
    Drop(Reason),
}

/// Why a document is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// The rule, such as `gopher_quality.words_min`: reports count by it.
    pub rule: &'static str,
    /// The value that broke it and its limit, such as `12 words, fewer than 50`.
    pub detail: Cow<'static, str>,
}

impl Verdict {
    /// Drops a document.
    pub fn drop(rule: &'static str, detail: impl Into<Cow<'static, str>>) -> Verdict {
        Verdict::Drop(Reason { rule, detail: detail.into() })
    }
}

/// Why a document is dropped that has no text, before its first step or after its last.
pub fn empty(document: &Document) -> Option<Reason> {
    let detail = match document.text() {
        "" => "no text",
        text if text.trim().is_empty() => "only white space",
        _ => return None,
    };
    Some(Reason { rule: "empty", detail: detail.into() })
}

/// A step that looks at each document alone. What it does follows from the document and its own settings.
pub trait Step: Send + Sync {
    /// What can be expected of it, a line each, to be printed before it runs.
    fn describe(&self) -> Vec<String> {
        Vec::new()
    }

    /// A hash of what it read from files, if it did: with the settings it tells one step from another.
    fn identity(&self) -> Option<blake3::Hash> {
        None
    }

    /// Keeps the document, changed or not, or drops it.
    fn apply(&self, document: &mut Document) -> Verdict;
}
