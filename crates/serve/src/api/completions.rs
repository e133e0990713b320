//! `/v1/completions`: texts or token ids and their continuations, with echo, suffix and several answers.

use serde_json::{Map, Value, json};

use crate::api::fields::{Fields, ModelDefaults, unsupported, whole, wrong};
use crate::api::params::{CHOICES_MAX, TOP_MAX, params, tokens};
use crate::api::response::{Event, ResponseInfo, ResponseWriter, event, finite, openai_closing};
use crate::api::response_format;
use crate::error::ApiError;
use crate::generation::events::{ChoiceOutput, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::request::{Gap, GenerateRequest, Params, Prompt, RequestInput};

/// Most prompts of one request, and most answers in all.
pub(super) const PROMPTS_MAX: usize = 256;

/// Parses a body of `/v1/completions`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let prompts =
        prompts("prompt", fields.take("prompt").unwrap_or(Value::Null), (PROMPTS_MAX, "prompts"), model.vocab)?;
    let mut params = params(fields, model, "stop")?;
    // The API's default.
    let named = tokens(fields, "max_tokens", 0)?;
    (params.tokens_max, params.tokens_default) = (named.or(Some(16)), named.is_none());
    params.log_probabilities = fields.count("logprobs", 0, TOP_MAX)?.map(|n| n as usize);
    let echo = fields.flag("echo")?.unwrap_or(false);
    if params.tokens_max == Some(0) && !echo {
        return Err(wrong("max_tokens", &Value::from(0), "a whole number from 1 on (0 with echo only)"));
    }
    let suffix = fields.text("suffix")?.filter(|s| !s.is_empty());
    if let Some(suffix) = suffix.as_ref().filter(|_| echo) {
        return Err(unsupported("suffix", &suffix.as_str().into(), "with echo there is none"));
    }
    if let Some(suffix) = suffix.as_ref().filter(|_| !prompts.iter().all(|p| matches!(p, Prompt::Text(_)))) {
        return Err(unsupported("suffix", &suffix.as_str().into(), "it goes with prompts that are text"));
    }
    several(fields, &mut params, prompts.len())?;
    let (response_format, format_field) = response_format::parse(fields)?;
    fields.about(&["user", "metadata"]);
    params.unknown = fields.unknown();
    let input = RequestInput::Prompts { prompts, gap: suffix.map(Gap::before), echo };
    Ok(GenerateRequest { response_format, format_field, ..GenerateRequest::new(input, params) })
}

/// `n` and `best_of`.
fn several(fields: &mut Fields, params: &mut Params, prompts: usize) -> Result<(), ApiError> {
    params.choices = fields.count("n", 1, CHOICES_MAX)?.unwrap_or(1) as usize;
    let best_of = fields.count("best_of", 1, CHOICES_MAX)?.map(|n| n as usize);
    params.best_of = best_of.unwrap_or(params.choices);
    if params.best_of < params.choices {
        let allowed = format!("at least n, which is {}", params.choices);
        return Err(wrong("best_of", &Value::from(params.best_of), &allowed));
    }
    if params.best_of > params.choices && params.stream {
        let instead = "which answers are best is known at the end: leave out stream";
        return Err(unsupported("best_of", &Value::from(params.best_of), instead));
    }
    if params.best_of * prompts > PROMPTS_MAX {
        let key = if best_of.is_some() { "best_of" } else { "n" };
        let allowed = format!("such that {prompts} prompts have at most {PROMPTS_MAX} answers");
        return Err(wrong(key, &Value::from(params.best_of), &allowed));
    }
    Ok(())
}

const ALLOWED: &str = "a string, an array of token ids, or an array of these";

/// Texts or lists of ids, or one of these: at most so many, which are called so.
pub(super) fn prompts(
    param: &str,
    value: Value,
    (most, called): (usize, &str),
    vocab: usize,
) -> Result<Vec<Prompt>, ApiError> {
    match value {
        // What the first item is, the others must be.
        Value::Array(items) if items.first().is_some_and(|v| v.is_string() || v.is_array()) => {
            if items.len() > most {
                return Err(wrong(param, &Value::Array(items), &format!("at most {most} {called}")));
            }
            items.into_iter().enumerate().map(|(i, v)| prompt(&format!("{param}[{i}]"), v, vocab)).collect()
        }
        other => Ok(vec![prompt(param, other, vocab)?]),
    }
}

fn prompt(param: &str, value: Value, vocab: usize) -> Result<Prompt, ApiError> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            ids(param, &items, vocab).map(Prompt::Tokens)
        }
        other => Err(wrong(param, &other, ALLOWED)),
    }
}

/// A list of token ids.
pub fn ids(param: &str, items: &[Value], vocab: usize) -> Result<Vec<u32>, ApiError> {
    let id = |(i, v): (usize, &Value)| {
        let id = whole(v).and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab);
        id.ok_or_else(|| wrong(&format!("{param}[{i}]"), v, &format!("a token id below {vocab}")))
    };
    items.iter().enumerate().map(id).collect()
}

pub(crate) struct CompletionWriter {
    pub head: ResponseInfo,
    pub log_probabilities: bool,
    pub include_usage: bool,
}

/// Four arrays with an entry for each token; the first token of a prompt has no scores.
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
    fn chunk(&self, choices: Vec<Value>) -> Value {
        self.head.json("text_completion", choices)
    }

    fn choice(&self, index: usize, text: &str, scores: Value, finish: Option<&str>) -> Value {
        json!({"index": index, "text": text, "logprobs": scores, "finish_reason": finish})
    }
}

impl ResponseWriter for CompletionWriter {
    fn event(&mut self, choice: usize, output: &OutputEvent) -> Vec<Event> {
        let choice = match output {
            OutputEvent::Text { text, scored } => {
                let none = !self.log_probabilities || scored.is_empty();
                self.choice(choice, text, if none { Value::Null } else { logprobs(scored) }, None)
            }
            OutputEvent::End(end) => self.choice(choice, "", Value::Null, Some(end.finish.word())),
            // No reasoning, no calls.
            _ => return Vec::new(),
        };
        vec![event(&self.chunk(vec![choice]))]
    }

    fn closing(&mut self, usage: &Usage) -> Vec<Event> {
        openai_closing(self.include_usage.then(|| self.chunk(Vec::new())), usage)
    }

    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value {
        let choice = |(index, w): (usize, &ChoiceOutput)| {
            let scores = if self.log_probabilities { logprobs(&w.scored) } else { Value::Null };
            self.choice(index, &w.text, scores, Some(w.finish().word()))
        };
        let mut whole = self.chunk(choices.iter().enumerate().map(choice).collect());
        whole["usage"] = usage.json();
        whole
    }
}
