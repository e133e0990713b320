//! OpenAI's text completions.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::{DONE, FINGERPRINT, ResponseInfo, ResponseWriter, event, finite};
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceOutput, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;

/// An answer of `/v1/completions`.
pub struct CompletionWriter {
    pub head: ResponseInfo,
    pub log_probabilities: bool,
    pub include_usage: bool,
}

/// Four lists of one entry a token; the first token of a prompt has no scores.
fn logprobs(scored: &[TokenLogprob]) -> Value {
    let top = |s: &TokenLogprob| -> Value {
        let Some(value) = s.value else { return Value::Null };
        let mut map: Map<String, Value> = s.top.iter().rev().map(|(t, _, v)| (t.clone(), finite(*v).into())).collect();
        map.insert(s.token.clone(), finite(value).into());
        map.into()
    };
    json!({
        "tokens": scored.iter().map(|s| s.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": scored.iter().map(|s| s.value.map(finite)).collect::<Vec<_>>(),
        "top_logprobs": scored.iter().map(top).collect::<Vec<_>>(),
        "text_offset": scored.iter().map(|s| s.offset).collect::<Vec<_>>(),
    })
}

impl CompletionWriter {
    fn around(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.head.id,
            "object": "text_completion",
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    fn choice(&self, index: usize, text: &str, scores: Value, finish: Option<&str>) -> Value {
        json!({"index": index, "text": text, "logprobs": scores, "finish_reason": finish})
    }
}

impl ResponseWriter for CompletionWriter {
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    fn part(&mut self, choice: usize, part: &OutputEvent) -> Vec<Bytes> {
        let choice = match part {
            OutputEvent::Text { text, scored } => {
                let none = !self.log_probabilities || scored.is_empty();
                self.choice(choice, text, if none { Value::Null } else { logprobs(scored) }, None)
            }
            OutputEvent::End(end) => self.choice(choice, "", Value::Null, Some(end.finish.word())),
            // Continuations are text only.
            _ => return Vec::new(),
        };
        vec![event(&self.around(vec![choice]))]
    }

    fn closing(&mut self, usage: &Usage) -> Vec<Bytes> {
        let mut events = Vec::new();
        if self.include_usage {
            let mut last = self.around(Vec::new());
            last["usage"] = usage.json();
            events.push(event(&last));
        }
        events.push(DONE);
        events
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![event(&error.json(Dialect::OpenAi, None))]
    }

    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value {
        let choice = |(index, w): (usize, &ChoiceOutput)| {
            let scores = if self.log_probabilities { logprobs(&w.scored) } else { Value::Null };
            self.choice(index, &w.text, scores, Some(w.finish().word()))
        };
        let mut whole = self.around(choices.iter().enumerate().map(choice).collect());
        whole["usage"] = usage.json();
        whole
    }
}
