//! Preference records: a prompt with an answer that is preferred and one that is not, checked and brought to one form
//!
//! Answers are strings, or lists of messages as TRL takes them: the new turn alone, or the whole conversation, whose beginning both share.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Made, Settings, Surroundings};
use crate::Document;
use crate::step::{Step, Verdict};

/// The label with the record: `{"prompt": ..., "chosen": ..., "rejected": ...}`, all strings or all lists of messages.
const LABEL: &str = "preference";

/// Settings: the labels that hold the record, by TRL's names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preferences {
    prompt: String,
    chosen: String,
    rejected: String,
}

impl Default for Preferences {
    fn default() -> Preferences {
        Preferences { prompt: "prompt".into(), chosen: "chosen".into(), rejected: "rejected".into() }
    }
}

impl Settings for Preferences {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        let Preferences { prompt, chosen, rejected } = &self;
        if prompt == chosen || chosen == rejected || prompt == rejected {
            return Err(format!(
                "prompt {prompt:?}, chosen {chosen:?} and rejected {rejected:?} are three different labels"
            ));
        }
        Ok(Made::Alone(Box::new(self)))
    }
}

impl Step for Preferences {
    /// A document without text gets prompt and chosen answer as its text.
    fn apply(&self, document: &mut Document) -> Verdict {
        let label = |name: &str| document.labels.get(name).cloned();
        let record = match (label(&self.chosen), label(&self.rejected)) {
            (Some(chosen), Some(rejected)) => record(label(&self.prompt), chosen, rejected),
            (None, _) => Err(drop_fields(format!("no label {}", self.chosen))),
            (_, None) => Err(drop_fields(format!("no label {}", self.rejected))),
        };
        let record = match record {
            Ok(record) => record,
            Err(verdict) => return verdict,
        };
        if document.text().trim().is_empty() {
            let text = format!("{}\n{}", plain(&record["prompt"]), plain(&record["chosen"]));
            if text.len() > crate::document::TEXT_BYTES_MAX {
                return Verdict::drop("preferences.length", format!("{} bytes", text.len()));
            }
            document.set_text(text);
        }
        for name in [&self.prompt, &self.chosen, &self.rejected] {
            document.labels.remove(name);
        }
        document.labels.insert(LABEL.into(), record);
        Verdict::Keep
    }
}

fn drop_fields(detail: String) -> Verdict {
    Verdict::drop("preferences.fields", detail)
}

/// The record in one form. Two conversations that begin alike have their common prompt taken out.
fn record(prompt: Option<Value>, chosen: Value, rejected: Value) -> Result<Value, Verdict> {
    let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
        (Some(prompt @ Value::String(_)), chosen @ Value::String(_), rejected @ Value::String(_)) => {
            (prompt, chosen, rejected)
        }
        (prompt, Value::Array(chosen), Value::Array(rejected)) => conversations(prompt, chosen, rejected)?,
        (None, ..) => return Err(drop_fields("no prompt, and the answers are no lists of messages".into())),
        _ => return Err(drop_fields("prompt and answers are neither all strings nor lists of messages".into())),
    };
    for (name, value) in [("prompt", &prompt), ("chosen", &chosen), ("rejected", &rejected)] {
        if plain(value).trim().is_empty() {
            return Err(Verdict::drop("preferences.empty", format!("{name} is empty")));
        }
    }
    if plain(&chosen).trim() == plain(&rejected).trim() {
        return Err(Verdict::drop("preferences.equal", "chosen and rejected are the same"));
    }
    Ok(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}))
}

/// Prompt, chosen and rejected turn as lists of messages.
fn conversations(
    prompt: Option<Value>,
    mut chosen: Vec<Value>,
    mut rejected: Vec<Value>,
) -> Result<(Value, Value, Value), Verdict> {
    let message = |message: &Value| message["role"].is_string() && message["content"].is_string();
    let given = match prompt {
        None => None,
        Some(Value::Array(messages)) => Some(messages),
        Some(Value::String(text)) => Some(vec![json!({"role": "user", "content": text})]),
        Some(_) => return Err(drop_fields("the prompt is neither a string nor a list of messages".into())),
    };
    if !chosen.iter().chain(&rejected).chain(given.iter().flatten()).all(message) {
        return Err(drop_fields("a message has no string role or no string content".into()));
    }
    let (Some(good), Some(bad)) = (chosen.pop(), rejected.pop()) else {
        return Err(Verdict::drop("preferences.empty", "an answer has no messages"));
    };
    if good["role"] != "assistant" || bad["role"] != "assistant" {
        return Err(drop_fields("the last message of an answer is not of the assistant".into()));
    }
    if chosen != rejected {
        return Err(Verdict::drop("preferences.prompt", "chosen and rejected do not answer the same prompt"));
    }
    let prompt = match given {
        None => chosen,
        Some(given) if chosen.is_empty() || chosen == given => given,
        // A system message may stand before the prompt that the record names.
        Some(given) if chosen.ends_with(&given) => chosen,
        Some(_) => return Err(Verdict::drop("preferences.prompt", "the answers do not begin with the prompt")),
    };
    Ok((prompt.into(), vec![good].into(), vec![bad].into()))
}

/// A string, or the contents of messages, a line each.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(messages) => {
            messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(labels: Value) -> Result<Document, &'static str> {
        let around = Surroundings { directory: std::path::Path::new("."), seed: 0 };
        let Ok(Made::Alone(step)) = crate::steps::make::<Preferences>(toml::Table::new(), around) else {
            unreachable!()
        };
        let mut document = Document::new("a#0", "");
        document.labels = labels.as_object().unwrap().clone();
        match step.apply(&mut document) {
            Verdict::Keep => Ok(document),
            Verdict::Drop(reason) => Err(reason.rule),
        }
    }

    #[test]
    fn records_of_both_forms_come_to_one() {
        let document = applied(json!({"prompt": "2 + 2 =", "chosen": "4", "rejected": "5", "n": 1})).unwrap();
        assert_eq!(document.text(), "2 + 2 =\n4");
        let expected = json!({"n": 1, "preference": {"prompt": "2 + 2 =", "chosen": "4", "rejected": "5"}});
        assert_eq!(Value::Object(document.labels), expected);

        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let (user, good, bad) = (said("user", "2 + 2 ="), said("assistant", "4"), said("assistant", "5"));
        let record = json!({"prompt": [user], "chosen": [good], "rejected": [bad]});
        for labels in [
            json!({"prompt": [user], "chosen": [good], "rejected": [bad]}),
            json!({"prompt": "2 + 2 =", "chosen": [user, good], "rejected": [user, bad]}),
            json!({"chosen": [user, good], "rejected": [user, bad]}),
        ] {
            assert_eq!(applied(labels).unwrap().labels["preference"], record);
        }
        let system = said("system", "Be brief.");
        let labels = json!({"prompt": "2 + 2 =", "chosen": [system, user, good], "rejected": [system, user, bad]});
        assert_eq!(applied(labels).unwrap().labels["preference"]["prompt"], json!([system, user]));
    }

    #[test]
    fn what_is_no_preference_is_dropped_with_its_reason() {
        let said = |role: &str, content: &str| json!({"role": role, "content": content});
        let (user, good, bad) = (said("user", "a"), said("assistant", "4"), said("assistant", "5"));
        for (labels, rule) in [
            (json!({"prompt": "a", "chosen": "4"}), "preferences.fields"),
            (json!({"prompt": "a", "rejected": "4"}), "preferences.fields"),
            (json!({"chosen": "4", "rejected": "5"}), "preferences.fields"),
            (json!({"prompt": 3, "chosen": "4", "rejected": "5"}), "preferences.fields"),
            (json!({"prompt": 3, "chosen": [good], "rejected": [bad]}), "preferences.fields"),
            (json!({"prompt": "a", "chosen": [good], "rejected": "5"}), "preferences.fields"),
            (json!({"prompt": "a", "chosen": [{"role": "assistant"}], "rejected": [bad]}), "preferences.fields"),
            (json!({"prompt": "a", "chosen": [user], "rejected": [bad]}), "preferences.fields"),
            (json!({"prompt": " ", "chosen": "4", "rejected": "5"}), "preferences.empty"),
            (json!({"prompt": "a", "chosen": "", "rejected": "5"}), "preferences.empty"),
            (json!({"prompt": "a", "chosen": "4", "rejected": "\n"}), "preferences.empty"),
            (json!({"prompt": "a", "chosen": [], "rejected": [bad]}), "preferences.empty"),
            (json!({"chosen": [good], "rejected": [bad]}), "preferences.empty"),
            (json!({"prompt": "a", "chosen": "4", "rejected": " 4\n"}), "preferences.equal"),
            (json!({"prompt": "a", "chosen": [good], "rejected": [good]}), "preferences.equal"),
            (json!({"chosen": [user, good], "rejected": [said("user", "b"), bad]}), "preferences.prompt"),
            (json!({"prompt": "b", "chosen": [user, good], "rejected": [user, bad]}), "preferences.prompt"),
        ] {
            assert_eq!(applied(labels.clone()).err(), Some(rule), "{labels}");
        }
    }
}
