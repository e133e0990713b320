//! The shapes that OpenAI's clients know, as JSON.

use serde_json::{Value, json};

use crate::answer::Piece;

/// Which of the two APIs an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// What all parts of one answer share.
#[derive(Clone, Debug)]
pub struct Head {
    pub kind: Kind,
    pub id: String,
    pub created: u64,
    pub model: String,
    pub log_probabilities: bool,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub prompt: usize,
    pub completion: usize,
}

impl Usage {
    pub fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        })
    }
}

/// A token with its log-probability, spelled.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    pub token: String,
    pub bytes: Vec<u8>,
    pub value: f32,
    pub top: Vec<(String, Vec<u8>, f32)>,
    /// Characters of the answer before it.
    pub offset: usize,
}

/// JSON has no infinity: what is less likely than anything gets the number that OpenAI uses.
fn finite(value: f32) -> f64 {
    f64::from(value).max(-9999.0)
}

fn logprobs(kind: Kind, scored: &[Scored]) -> Value {
    let entry =
        |token: &str, bytes: &[u8], value: f32| json!({"token": token, "logprob": finite(value), "bytes": bytes});
    match kind {
        Kind::Chat => {
            let content: Vec<Value> = scored
                .iter()
                .map(|s| {
                    let mut one = entry(&s.token, &s.bytes, s.value);
                    one["top_logprobs"] = s.top.iter().map(|(t, b, v)| entry(t, b, *v)).collect();
                    one
                })
                .collect();
            json!({"content": content, "refusal": null})
        }
        Kind::Text => {
            let top = |s: &Scored| -> Value {
                let mut map: serde_json::Map<String, Value> =
                    s.top.iter().rev().map(|(t, _, v)| (t.clone(), finite(*v).into())).collect();
                map.insert(s.token.clone(), finite(s.value).into());
                map.into()
            };
            json!({
                "tokens": scored.iter().map(|s| s.token.as_str()).collect::<Vec<_>>(),
                "token_logprobs": scored.iter().map(|s| finite(s.value)).collect::<Vec<_>>(),
                "top_logprobs": scored.iter().map(top).collect::<Vec<_>>(),
                "text_offset": scored.iter().map(|s| s.offset).collect::<Vec<_>>(),
            })
        }
    }
}

impl Head {
    fn around(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": concat!("farthing-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
        })
    }

    fn scores(&self, scored: &[Scored]) -> Value {
        if self.log_probabilities { logprobs(self.kind, scored) } else { Value::Null }
    }

    /// A whole answer.
    pub fn whole(&self, text: &str, scored: &[Scored], finish: &str, usage: Usage) -> Value {
        let scores = self.scores(scored);
        let (object, choice) = match self.kind {
            Kind::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": scores, "finish_reason": finish}),
            ),
            Kind::Text => {
                ("text_completion", json!({"index": 0, "text": text, "logprobs": scores, "finish_reason": finish}))
            }
        };
        let mut whole = self.around(object, vec![choice]);
        whole["usage"] = usage.json();
        whole
    }

    fn object(&self) -> &'static str {
        if self.kind == Kind::Chat { "chat.completion.chunk" } else { "text_completion" }
    }

    /// The first event of a streamed conversation.
    pub fn opening(&self) -> Option<Value> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
        (self.kind == Kind::Chat).then(|| self.around(self.object(), vec![choice]))
    }

    /// Text that came.
    pub fn delta(&self, piece: &Piece) -> Value {
        let scores = if piece.scored.is_empty() { Value::Null } else { self.scores(&piece.scored) };
        let choice = match self.kind {
            Kind::Chat => {
                json!({"index": 0, "delta": {"content": piece.text}, "logprobs": scores, "finish_reason": null})
            }
            Kind::Text => json!({"index": 0, "text": piece.text, "logprobs": scores, "finish_reason": null}),
        };
        self.around(self.object(), vec![choice])
    }

    /// The end of a streamed text.
    pub fn closing(&self, finish: &str) -> Value {
        let choice = match self.kind {
            Kind::Chat => json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": finish}),
            Kind::Text => json!({"index": 0, "text": "", "logprobs": null, "finish_reason": finish}),
        };
        self.around(self.object(), vec![choice])
    }

    /// The usage, after the end.
    pub fn usage(&self, usage: Usage) -> Value {
        let mut event = self.around(self.object(), Vec::new());
        event["usage"] = usage.json();
        event
    }
}

/// An error, in OpenAI's shape.
pub fn error(kind: &str, code: &str, param: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}
