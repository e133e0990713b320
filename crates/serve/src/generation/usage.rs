//! Token counts and times of a request, for its response, the access log and the metrics.

use std::time::Duration;

use serde_json::{Value, json};

/// Tokens of a request. Its prompt counts once, however many answers it gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: usize,
    /// Of the prompt, those that were in the cache.
    pub cached: usize,
    /// Of the prompt, those that were added to the cache.
    pub written: usize,
    /// Tokens that were given: of a choice that goes on, those so far.
    pub completion: usize,
    /// Of the completion, those of reasoning.
    pub reasoning: usize,
    /// Where the prompt first differs from one that was served before, where that is known.
    pub differs_at: Option<usize>,
}

impl Usage {
    /// As OpenAI has it, with DeepSeek's fields.
    pub fn json(&self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
            "prompt_cache_hit_tokens": self.cached,
            "prompt_cache_miss_tokens": self.prompt.saturating_sub(self.cached),
        });
        if let Some(at) = self.differs_at {
            usage["prompt_cache_differs_at"] = at.into();
        }
        usage
    }
}

/// What routes tell.
#[derive(Clone, Debug, Default)]
pub struct RequestStats {
    /// Id of the model that answers.
    pub model: Option<String>,
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: Option<usize>,
    /// Tokens generated.
    pub completion_tokens: Option<usize>,
    /// Tokens of the prompt that were not computed again.
    pub cached_tokens: Option<usize>,
    /// Time in the queue.
    pub queued: Option<Duration>,
    /// Time for the prompt.
    pub prefill: Option<Duration>,
    /// Time for the tokens generated.
    pub decode: Option<Duration>,
    /// From the request's head to its first token; `RequestLog::first_token` sets it.
    pub first_token: Option<Duration>,
    /// Why the text ended: `stop`, `length`, `tool_calls`, ...
    pub finish: Option<&'static str>,
    /// Code of the error, where it is one. No message: it may quote the request.
    pub error: Option<&'static str>,
    /// Names of fields that were not known; told at the level `debug`.
    pub unknown: Vec<String>,
}
