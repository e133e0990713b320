//! JSON to a small schema, without a grammar

use data::generators::json_records::{Json, Settings};
use serde_json::Value;

use crate::asking::{Asking, Question, Reply, asked, wrong};
use crate::figures::Measure;
use crate::{EvalError, Measured};

/// Tokens of an answer, at most.
const TOKENS_MAX: usize = 400;

/// The whole answer as JSON; models of other makers put it into a block of Markdown.
fn parsed(answer: &str) -> Option<Value> {
    let answer = answer.trim();
    let block = answer.strip_prefix("```json").or_else(|| answer.strip_prefix("```"));
    let inner = block.and_then(|block| block.trim_end().strip_suffix("```")).unwrap_or(answer);
    serde_json::from_str(inner).ok()
}

fn is_valid(schema: &Value, reply: &Reply) -> bool {
    parsed(&reply.text).is_some_and(|value| jsonschema::draft202012::is_valid(schema, &value))
}

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let generator = Json::new(Settings::default()).expect("sound settings");
    let documents = asking.held_out(&generator).take(asking.settings.samples);
    let questions: Vec<Question<Value>> = documents
        .map(|document| Question { messages: asked(&document), expected: document.labels["schema"].clone() })
        .collect();
    let replies = asking.answers(&questions, TOKENS_MAX, &|| None)?;
    let count = |holds: &dyn Fn(&Value, &Reply) -> bool| {
        questions.iter().zip(&replies).filter(|(question, reply)| holds(&question.expected, reply)).count()
    };
    let of = replies.len();
    Ok(Measured {
        measures: vec![
            Measure::of("valid", count(&is_valid), of),
            Measure::of("is JSON", count(&|_, reply| parsed(&reply.text).is_some()), of),
        ],
        too_long: asking.too_long,
        wrong: wrong(asking.settings.wrong, &questions, &replies, is_valid, Value::to_string),
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_valid_as_a_whole() {
        let schema = json!({
            "type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"], "additionalProperties": false,
        });
        let valid = |text: &str| is_valid(&schema, &Reply { text: text.into(), given: true, ended: true });
        let good = r#"{"name": "Mira", "age": 7}"#;
        assert!(valid(good) && valid(&format!(" {good}\n")) && valid(&format!("```json\n{good}\n```")));
        assert!(!valid(r#"{"name": "Mira"}"#) && !valid(r#"{"name": "Mira", "age": "7"}"#));
        // Cut short, with something before it, twice, with a key too many, nothing.
        assert!(!valid(&good[..20]) && !valid(&format!("Here: {good}")) && !valid(&format!("{good}{good}")));
        assert!(!valid(r#"{"name": "Mira", "age": 7, "x": 1}"#) && !valid("") && !valid("```json\n```"));
        // Deeper than anything is read.
        assert!(!valid(&"[".repeat(100_000)));
    }
}
