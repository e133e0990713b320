//! The two forms of a conversation: messages, as chat templates and servers take them, and plain text, as a base model reads it

use serde_json::{Map, Value, json};

use super::Generated;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions or material given beforehand.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    /// The name in plain text.
    fn speaker(self) -> &'static str {
        match self {
            Role::System => "System",
            Role::User => "User",
            Role::Assistant => "Assistant",
        }
    }
}

/// Messages in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    messages: Vec<(Role, String)>,
}

impl Conversation {
    /// One question and its answer.
    pub fn exchange(user: impl Into<String>, assistant: impl Into<String>) -> Conversation {
        Conversation::default().then(Role::User, user).then(Role::Assistant, assistant)
    }

    /// With one more message.
    #[must_use]
    pub fn then(mut self, role: Role, content: impl Into<String>) -> Conversation {
        self.messages.push((role, content.into()));
        self
    }

    /// Plain text: `User: ...`, a line break, `Assistant: ...`, without a line break at the end.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(self.messages.iter().map(|(_, content)| content.len() + 12).sum());
        for (i, (role, content)) in self.messages.iter().enumerate() {
            if i > 0 {
                text.push('\n');
            }
            text.push_str(role.speaker());
            text.push_str(": ");
            text.push_str(content);
        }
        text
    }

    /// A list of `{"role": ..., "content": ...}`.
    pub fn messages(&self) -> Value {
        self.messages.iter().map(|(role, content)| json!({"role": role.name(), "content": content})).collect()
    }

    /// The plain text, with the messages as the label `messages` before the other labels.
    pub fn generated(&self, labels: Map<String, Value>) -> Generated {
        let mut all = Map::new();
        all.insert("messages".to_owned(), self.messages());
        all.extend(labels);
        Generated { text: self.text(), labels: all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let conversation = Conversation::exchange("2 + 2 =", "4").then(Role::User, "Thanks!");
        assert_eq!(conversation.text(), "User: 2 + 2 =\nAssistant: 4\nUser: Thanks!");
        let labels = Map::from_iter([("answer".to_owned(), json!("4"))]);
        let expected = json!({
            "messages": [
                {"role": "user", "content": "2 + 2 ="},
                {"role": "assistant", "content": "4"},
                {"role": "user", "content": "Thanks!"},
            ],
            "answer": "4",
        });
        assert_eq!(Value::Object(conversation.generated(labels).labels), expected);
    }
}
