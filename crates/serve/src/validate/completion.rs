//! `/v1/completions`: texts or token ids to their continuations, with echo, suffix and several answers.

use serde_json::{Map, Value};

use super::sampling::{CHOICES_MAX, TOP_MAX, tokens, wanted};
use super::{Fields, Invalid, Model, unsupported, whole, wrong};
use crate::ask::{Ask, Input, Prompt, Tools, Wanted};
use crate::validate::format;

/// Most prompts of one request, and most answers in all.
const PROMPTS_MAX: usize = 256;

/// A request of `/v1/completions`.
///
/// # Errors
/// The first field that cannot be.
pub fn completion(fields: &mut Fields, model: Model<'_>) -> Result<Ask, Invalid> {
    let prompts = prompts(fields.take("prompt").unwrap_or(Value::Null), model.vocab)?;
    let mut wanted = wanted(fields, model, "stop")?;
    // Sixteen, where nothing is said: as the API has always had it.
    wanted.tokens_max = Some(tokens(fields, "max_tokens", 0)?.unwrap_or(16));
    wanted.log_probabilities = fields.count("logprobs", 0, TOP_MAX)?.map(|n| n as usize);
    let echo = fields.flag("echo")?.unwrap_or(false);
    if wanted.tokens_max == Some(0) && !echo {
        return Err(wrong("max_tokens", &Value::from(0), "a whole number from 1 on (0 with echo only)"));
    }
    let suffix = fields.text("suffix")?.filter(|s| !s.is_empty());
    if let Some(suffix) = suffix.as_ref().filter(|_| echo) {
        return Err(unsupported("suffix", &suffix.as_str().into(), "with echo there is none"));
    }
    if let Some(suffix) = suffix.as_ref().filter(|_| !prompts.iter().all(|p| matches!(p, Prompt::Text(_)))) {
        return Err(unsupported("suffix", &suffix.as_str().into(), "it goes with prompts that are text"));
    }
    several(fields, &mut wanted, prompts.len())?;
    let (shape, shape_field) = format::response_format(fields)?;
    fields.about(&["user", "metadata"]);
    wanted.unknown = fields.unknown();
    let input = Input::Prompts { prompts, suffix, echo };
    Ok(Ask { input, tools: Tools::default(), template: Map::new(), shape, shape_field, wanted, repeated: Map::new() })
}

/// Answers to each prompt, and how many are made to choose from.
fn several(fields: &mut Fields, wanted: &mut Wanted, prompts: usize) -> Result<(), Invalid> {
    wanted.choices = fields.count("n", 1, CHOICES_MAX)?.unwrap_or(1) as usize;
    let best_of = fields.count("best_of", 1, CHOICES_MAX)?.map(|n| n as usize);
    wanted.best_of = best_of.unwrap_or(wanted.choices);
    if wanted.best_of < wanted.choices {
        let allowed = format!("at least n, which is {}", wanted.choices);
        return Err(wrong("best_of", &Value::from(wanted.best_of), &allowed));
    }
    if wanted.best_of > wanted.choices && wanted.stream {
        let instead = "which answers are best is known at the end: leave out stream";
        return Err(unsupported("best_of", &Value::from(wanted.best_of), instead));
    }
    if wanted.best_of * prompts > PROMPTS_MAX {
        let key = if best_of.is_some() { "best_of" } else { "n" };
        let allowed = format!("such that {prompts} prompts have at most {PROMPTS_MAX} answers");
        return Err(wrong(key, &Value::from(wanted.best_of), &allowed));
    }
    Ok(())
}

const ALLOWED: &str = "a string, an array of token ids, or an array of these";

fn prompts(value: Value, vocab: usize) -> Result<Vec<Prompt>, Invalid> {
    match value {
        // What the first item is, the others must be.
        Value::Array(items) if items.first().is_some_and(|v| v.is_string() || v.is_array()) => {
            if items.len() > PROMPTS_MAX {
                return Err(wrong("prompt", &Value::Array(items), &format!("at most {PROMPTS_MAX} prompts")));
            }
            items.into_iter().enumerate().map(|(i, v)| prompt(&format!("prompt[{i}]"), v, vocab)).collect()
        }
        other => Ok(vec![prompt("prompt", other, vocab)?]),
    }
}

fn prompt(param: &str, value: Value, vocab: usize) -> Result<Prompt, Invalid> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(items) if items.first().is_some_and(Value::is_number) => {
            ids(param, &items, vocab).map(Prompt::Tokens)
        }
        other => Err(wrong(param, &other, ALLOWED)),
    }
}

/// Token ids.
pub fn ids(param: &str, items: &[Value], vocab: usize) -> Result<Vec<u32>, Invalid> {
    let id = |(i, v): (usize, &Value)| {
        let id = whole(v).and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab);
        id.ok_or_else(|| wrong(&format!("{param}[{i}]"), v, &format!("a token id below {vocab}")))
    };
    items.iter().enumerate().map(id).collect()
}
