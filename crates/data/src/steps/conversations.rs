//! Conversations as training text: messages between marks or behind names, checked for their order, with the parts that the model is to learn from
//!
//! The label `messages` (a list of `{"role": ..., "content": ...}`) becomes the text. The label `spans` has the byte ranges of the assistant's words
//! with the mark that ends its turn, from which a loss mask follows; the label `marks` those of special tokens, so that the same spelling elsewhere
//! in the text stays text.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

use super::{Made, Settings, Surroundings};
use crate::Document;
use crate::step::{Step, Verdict};
use crate::steps::marks::{self, MARKS, SPANS};

/// Marks or names around messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    /// Special tokens: `<｜User｜>...<｜Assistant｜>...<｜end▁of▁sentence｜>`, as DeepSeek-V3's chat template has them.
    #[default]
    Marks,
    /// Names: `User: ...`, a line break, `Assistant: ...`, the form in which generators write conversations.
    Names,
}

/// What becomes of documents without messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Others {
    /// They go on as they are.
    #[default]
    Keep,
    /// They are dropped.
    Drop,
}

/// Settings. The marks are those of DeepSeek-V3 (`chat_template` of its `tokenizer_config.json`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conversations {
    form: Form,
    /// Before a message of the user; only for marks.
    user: String,
    /// Before a message of the assistant; only for marks.
    assistant: String,
    /// Behind a message of the assistant; only for marks.
    turn_end: String,
    without_messages: Others,
}

impl Default for Conversations {
    fn default() -> Conversations {
        Conversations {
            form: Form::Marks,
            user: "<｜User｜>".into(),
            assistant: "<｜Assistant｜>".into(),
            turn_end: "<｜end▁of▁sentence｜>".into(),
            without_messages: Others::Keep,
        }
    }
}

impl Settings for Conversations {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        for (name, mark) in [("user", &self.user), ("assistant", &self.assistant)] {
            if self.form == Form::Marks && mark.is_empty() {
                return Err(format!("{name} is empty; give a mark, or take form = \"names\""));
            }
        }
        if self.form == Form::Marks && self.user == self.assistant {
            return Err(format!("user and assistant have the same mark {:?}", self.user));
        }
        Ok(Made::Alone(Box::new(self)))
    }
}

impl Step for Conversations {
    fn apply(&self, document: &mut Document) -> Verdict {
        let messages = match document.labels.get("messages") {
            Some(messages) => messages,
            None if self.without_messages == Others::Keep => return Verdict::Keep,
            None => return Verdict::drop("conversations.messages", "no label messages"),
        };
        let turns = match turns(messages) {
            Ok(turns) => turns,
            Err(verdict) => return verdict,
        };
        let Rendered { text, marks, spans } = self.render(&turns);
        if text.len() > crate::document::TEXT_BYTES_MAX {
            return Verdict::drop("conversations.length", format!("{} bytes", text.len()));
        }
        document.set_text(text);
        document.labels.insert(MARKS.into(), marks::to_value(&marks));
        document.labels.insert(SPANS.into(), marks::to_value(&spans));
        Verdict::Keep
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

/// The messages: a system message at most, at the beginning; then user and assistant in turns; none of them empty.
fn turns(messages: &Value) -> Result<Vec<(Role, &str)>, Verdict> {
    let wrong = |problem: String| Verdict::drop("conversations.messages", problem);
    let list = messages.as_array().ok_or_else(|| wrong("messages is no list".into()))?;
    let mut turns: Vec<(Role, &str)> = Vec::with_capacity(list.len());
    for (i, message) in list.iter().enumerate() {
        let field = |name: &str| {
            let value = message.get(name).and_then(Value::as_str);
            value.ok_or_else(|| wrong(format!("message {i} has no string {name}")))
        };
        let (role, content) = (field("role")?, field("content")?);
        let role = match role {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            other => {
                let other = &other[..other.floor_char_boundary(40)];
                return Err(Verdict::drop("conversations.role", format!("message {i} is of {other:?}")));
            }
        };
        let before = turns.last().map(|(role, _)| *role);
        let expected = match role {
            Role::System => before.is_none(),
            Role::User => before != Some(Role::User),
            Role::Assistant => before == Some(Role::User),
        };
        if !expected {
            return Err(Verdict::drop("conversations.order", format!("message {i} of {role:?} behind {before:?}")));
        }
        if content.trim().is_empty() {
            return Err(Verdict::drop("conversations.empty", format!("message {i} has no content")));
        }
        turns.push((role, content));
    }
    match turns.last() {
        Some((Role::Assistant, _)) => Ok(turns),
        Some((role, _)) => Err(Verdict::drop("conversations.order", format!("the last message is of {role:?}"))),
        None => Err(wrong("messages is empty".into())),
    }
}

struct Rendered {
    text: String,
    marks: Vec<Range<usize>>,
    spans: Vec<Range<usize>>,
}

impl Conversations {
    fn render(&self, turns: &[(Role, &str)]) -> Rendered {
        let mut to = Rendered { text: String::new(), marks: Vec::new(), spans: Vec::new() };
        for (i, &(role, content)) in turns.iter().enumerate() {
            match self.form {
                Form::Marks => {
                    match role {
                        Role::System => {}
                        Role::User => to.mark(&self.user),
                        Role::Assistant => to.mark(&self.assistant),
                    }
                    let start = to.text.len();
                    to.text.push_str(content);
                    if role == Role::Assistant {
                        to.mark(&self.turn_end);
                        to.spans.push(start..to.text.len());
                    }
                }
                Form::Names => {
                    if i > 0 {
                        to.text.push('\n');
                    }
                    to.text.push_str(match role {
                        Role::System => "System: ",
                        Role::User => "User: ",
                        Role::Assistant => "Assistant: ",
                    });
                    let start = to.text.len();
                    to.text.push_str(content);
                    if role == Role::Assistant {
                        to.spans.push(start..to.text.len());
                    }
                }
            }
        }
        to
    }
}

impl Rendered {
    fn mark(&mut self, mark: &str) {
        if !mark.is_empty() {
            let start = self.text.len();
            self.text.push_str(mark);
            self.marks.push(start..self.text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generators::conversation::{self, Conversation};

    fn step(settings: &str) -> Result<Box<dyn Step>, String> {
        let around = Surroundings { directory: std::path::Path::new("."), seed: 0 };
        match crate::steps::make::<Conversations>(settings.parse().unwrap(), around)? {
            Made::Alone(step) => Ok(step),
            Made::Joined(_) => unreachable!(),
        }
    }

    fn document(messages: Value) -> Document {
        let mut document = Document::new("a#0", "as it was");
        document.labels.insert("messages".into(), messages);
        document
    }

    fn spans(document: &Document) -> Vec<&str> {
        marks::of(document, SPANS).unwrap().into_iter().map(|range| &document.text()[range]).collect()
    }

    #[test]
    fn marks_are_those_of_the_chat_template_and_spans_are_the_assistants_words() {
        let mut document = document(json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2 + 2 = <｜Assistant｜>?"},
            {"role": "assistant", "content": "4 \u{1f600}"},
            {"role": "user", "content": "Thanks"},
            {"role": "assistant", "content": "Bye"},
        ]));
        assert_eq!(step("").unwrap().apply(&mut document), Verdict::Keep);
        let text = "Be brief.<｜User｜>2 + 2 = <｜Assistant｜>?<｜Assistant｜>4 \u{1f600}<｜end▁of▁sentence｜><｜User｜>Thanks<｜Assistant｜>Bye<｜end▁of▁sentence｜>";
        assert_eq!(document.text(), text);
        assert_eq!(spans(&document), ["4 \u{1f600}<｜end▁of▁sentence｜>", "Bye<｜end▁of▁sentence｜>"]);
        // What a user wrote is not a mark.
        let marks = marks::of(&document, MARKS).unwrap();
        assert_eq!(marks.len(), 6);
        assert_eq!(marks[1].start, text.find("?<｜Assistant｜>").unwrap() + 1);
    }

    #[test]
    fn names_give_the_text_of_generators() {
        let generated = Conversation::exchange("Who?", "Ann.").then(conversation::Role::User, "And?");
        let generated = generated.then(conversation::Role::Assistant, "Bob.").generated(Default::default());
        let mut document = document(generated.labels["messages"].clone());
        assert_eq!(step("form = \"names\"").unwrap().apply(&mut document), Verdict::Keep);
        assert_eq!(document.text(), generated.text);
        assert_eq!(spans(&document), ["Ann.", "Bob."]);
        assert!(marks::of(&document, MARKS).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_conversation_is_dropped_with_its_reason() {
        let user = json!({"role": "user", "content": "a"});
        let assistant = json!({"role": "assistant", "content": "b"});
        let system = json!({"role": "system", "content": "c"});
        for (messages, rule) in [
            (json!([]), "conversations.messages"),
            (json!("a"), "conversations.messages"),
            (json!([{"role": "user"}]), "conversations.messages"),
            (json!([{"role": "user", "content": 3}, assistant]), "conversations.messages"),
            (json!([{"role": "tool", "content": "a"}, assistant]), "conversations.role"),
            (json!([user, user, assistant]), "conversations.order"),
            (json!([assistant]), "conversations.order"),
            (json!([system, assistant]), "conversations.order"),
            (json!([user, system, assistant]), "conversations.order"),
            (json!([user, assistant, assistant]), "conversations.order"),
            (json!([user, assistant, user]), "conversations.order"),
            (json!([user, {"role": "assistant", "content": " \n"}]), "conversations.empty"),
        ] {
            let mut document = document(messages);
            match step("").unwrap().apply(&mut document) {
                Verdict::Drop(reason) => assert_eq!(reason.rule, rule, "{:?}", document.labels),
                Verdict::Keep => panic!("kept {:?}", document.labels),
            }
        }
        let mut plain = Document::new("a#1", "A story.");
        assert_eq!(step("").unwrap().apply(&mut plain), Verdict::Keep);
        assert_eq!(plain.text(), "A story.");
        assert!(matches!(step("without_messages = \"drop\"").unwrap().apply(&mut plain), Verdict::Drop(_)));
        assert!(step("user = \"\"").err().unwrap().contains("names"));
        assert!(step("assistant = \"<｜User｜>\"").err().unwrap().contains("same mark"));
        assert!(step("users = \"\"").err().unwrap().contains("users"));
    }
}
