//! Labels with byte ranges of a text: where special tokens stand, and what a loss is taken of

use std::ops::Range;

use serde_json::Value;

use crate::Document;

/// The label with the byte ranges at which special tokens stand. Tokenizing takes no other spelling of one for a special token.
pub const MARKS: &str = "marks";

/// The label with the byte ranges that a model is to learn to write.
pub const SPANS: &str = "spans";

/// Ranges as a label.
pub(super) fn to_value(ranges: &[Range<usize>]) -> Value {
    ranges.iter().map(|range| Value::from(vec![range.start, range.end])).collect()
}

/// The ranges of a label, in order; none where it is not there.
///
/// # Errors
/// In words: ranges that are no part of the text or not in order, as they are once a step has changed the text behind the one that made them.
pub fn of(document: &Document, label: &str) -> Result<Vec<Range<usize>>, String> {
    let Some(value) = document.labels.get(label) else {
        return Ok(Vec::new());
    };
    let wrong = || {
        format!(
            "the label {label} of document {:?} does not fit its text; steps that change texts come before those that set this label",
            document.id
        )
    };
    let list = value.as_array().ok_or_else(wrong)?;
    let mut at = 0;
    let mut ranges = Vec::with_capacity(list.len());
    for range in list {
        let bound = |i: usize| range.get(i).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        let (start, end) = bound(0).zip(bound(1)).ok_or_else(wrong)?;
        if start < at || document.text().get(start..end).is_none_or(str::is_empty) {
            return Err(wrong());
        }
        at = end;
        ranges.push(start..end);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ranges_that_do_not_fit_the_text_are_refused() {
        let mut document = Document::new("a#0", "é one two");
        assert_eq!(of(&document, MARKS), Ok(vec![]));
        document.labels.insert(MARKS.into(), to_value(&[0..2, 3..6]));
        assert_eq!(of(&document, MARKS), Ok(vec![0..2, 3..6]));
        for wrong in [
            json!([[0, 1]]),
            json!([[3, 11]]),
            json!([[6, 3]]),
            json!([[3, 6], [0, 2]]),
            json!([[3, 3]]),
            json!([3]),
            json!(3),
            json!([[-1, 2]]),
        ] {
            document.labels.insert(MARKS.into(), wrong);
            assert!(of(&document, MARKS).unwrap_err().contains("does not fit"), "{:?}", document.labels);
        }
    }
}
