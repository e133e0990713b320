//! Token counts and times of a request, for its response, the access log and the metrics.

use std::time::Duration;

use ledger::Money;
use serde_json::{Value, json};

/// Token counts of a request. Its prompt counts once, however many choices it has: the first one that begins computes it, and the others read its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: usize,
    /// Prompt tokens found in the prefix cache.
    pub cached: usize,
    /// Prompt tokens added to the prefix cache.
    pub written: usize,
    /// Tokens generated so far.
    pub completion: usize,
    /// Reasoning tokens among `completion`.
    pub reasoning: usize,
    /// Token index at which the prompt first differs from a cached one, if known.
    pub differs_at: Option<usize>,
    /// What they cost, where there are prices.
    pub cost: Option<Money>,
}

impl Usage {
    /// OpenAI's `usage`, with DeepSeek's fields.
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
        self.add_cost(&mut usage);
        usage
    }

    /// Adds what the tokens cost, in units of the ledger's currency.
    pub(crate) fn add_cost(&self, usage: &mut Value) {
        if let Some(Money(micros)) = self.cost {
            usage["cost"] = (micros as f64 / 1e6).into();
        }
    }
}

/// Numbers of a request for the access log and the metrics.
#[derive(Clone, Debug, Default)]
pub struct RequestStats {
    /// Id of the model.
    pub model: Option<String>,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: Option<usize>,
    /// Tokens delivered: handed to the socket with the piece of the response that they complete.
    pub completion_tokens: Option<usize>,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: Option<usize>,
    /// Time in the engine's queue.
    pub queued: Option<Duration>,
    /// Time to compute the prompt.
    pub prefill: Option<Duration>,
    /// Time to generate the tokens.
    pub decode: Option<Duration>,
    /// Time from the request's head to its first token.
    pub first_token: Option<Duration>,
    /// Finish reason: `stop`, `length`, `tool_calls`, ...
    pub finish: Option<&'static str>,
    /// Code of the error. Its message is left out: it may quote the request.
    pub error: Option<&'static str>,
    /// A line of a batch: its tokens are counted, its times are not, as it rests while others are served.
    pub background: bool,
    /// Names of fields that were ignored, logged at the level `debug`.
    pub unknown: Vec<String>,
    /// Tools and items that were left out.
    pub ignored: Vec<String>,
}
