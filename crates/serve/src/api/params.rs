//! Parameters that all dialects share: sampling, stop strings, streaming, priority.

use engine::Sampling;
use serde_json::{Map, Value};

use crate::api::fields::{Field, Fields, ModelDefaults, counted_value, whole, wrong};
use crate::error::ApiError;
use crate::request::Params;

/// Most stop strings, and bytes of one.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1 << 10;
const BIASES_MAX: usize = 1 << 12;
/// Most bytes of a user's name (DeepSeek's limit).
const USER_BYTES_MAX: usize = 512;
/// Most alternatives with log-probabilities.
pub const TOP_MAX: u64 = 20;
/// Most answers to one prompt.
pub const CHOICES_MAX: u64 = 16;

/// Stop strings: one, or a list.
pub fn stops(fields: &mut Fields, key: &'static str) -> Result<Vec<String>, ApiError> {
    let allowed = format!("a string, or at most {STOPS_MAX} strings, of 1 to {STOP_BYTES_MAX} bytes");
    let list = match fields.take(key) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    if list.len() > STOPS_MAX {
        return Err(wrong(key, &Value::Array(list), &allowed));
    }
    let one = |value: Value| match value {
        Value::String(text) if !text.is_empty() && text.len() <= STOP_BYTES_MAX => Ok(text),
        other => Err(wrong(key, &other, &allowed)),
    };
    list.into_iter().map(one).collect()
}

fn biases(fields: &mut Fields, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.take("logit_bias") else { return Ok(Vec::new()) };
    let Some(map) = value.as_object().filter(|m| m.len() <= BIASES_MAX) else {
        return Err(wrong("logit_bias", &value, &format!("an object of at most {BIASES_MAX} token ids with numbers")));
    };
    map.iter()
        .map(|(id, bias)| {
            let param = format!("logit_bias[{:?}]", id.chars().take(20).collect::<String>());
            let number = bias.as_f64().filter(|x| (-100.0..=100.0).contains(x));
            let number = number.ok_or_else(|| wrong(&param, bias, "a number from -100 to 100"))?;
            // As it is written, or one id could be given twice.
            let known = id.parse::<u32>().ok().filter(|known| (*known as usize) < vocab && known.to_string() == *id);
            let allowed = || format!("for a token id below {vocab}, in digits without a sign and zeros before them");
            let id = known.ok_or_else(|| wrong(&param, bias, &allowed()))?;
            Ok((id, number as f32))
        })
        .collect()
}

fn sampling(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<Sampling, ApiError> {
    let d = model.defaults;
    let seed = match fields.take("seed") {
        None => d.seed,
        Some(value) => {
            let seed = value.as_u64().or(whole(&value).map(|s| s as u64));
            Some(seed.ok_or_else(|| wrong("seed", &value, "a whole number of 64 bits"))?)
        }
    };
    let top_k = match fields.take("top_k") {
        None => d.top_k,
        // -1 is what some clients send for "all".
        Some(value) if whole(&value) == Some(-1) => 0,
        Some(value) => {
            let k = whole(&value).and_then(|k| usize::try_from(k).ok());
            k.ok_or_else(|| wrong("top_k", &value, "a whole number from 0 on (0 or -1 = all)"))?
        }
    };
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(d.temperature),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(d.top_p),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(d.min_p),
        typical_p: fields.number("typical_p", 0.0, 1.0)?.unwrap_or(d.typical_p),
        repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.unwrap_or(d.repetition_penalty),
        presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(d.presence_penalty),
        frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(d.frequency_penalty),
        penalty_window: d.penalty_window,
        logit_bias: biases(fields, model.vocab)?,
        top_k,
        seed,
    })
}

/// The user whose prefix cache it is: DeepSeek's `user_id`, vLLM's `cache_salt`.
fn user(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let mut both = Vec::new();
    for key in ["user_id", "cache_salt"] {
        if let Some(text) = fields.text(key)? {
            if text.len() > USER_BYTES_MAX {
                return Err(wrong(key, &text.into(), &format!("a string of at most {USER_BYTES_MAX} bytes")));
            }
            both.push(text);
        }
    }
    Ok((!both.is_empty()).then(|| both.join("\0")))
}

/// Priority: `priority`, or what `service_tier` means.
fn priority(fields: &mut Fields) -> Result<i8, ApiError> {
    const TIERS: &str = "auto, default, flex, priority, scale or standard_only";
    let tier = match fields.take("service_tier") {
        None => 0,
        Some(value) => match value.as_str() {
            Some("auto" | "default" | "scale" | "standard_only") => 0,
            Some("flex") => -1,
            Some("priority") => 1,
            _ => return Err(wrong("service_tier", &value, TIERS)),
        },
    };
    match fields.take("priority") {
        None => Ok(tier),
        Some(value) => {
            let number = whole(&value).filter(|p| (-100..=100).contains(p)).and_then(|p| i8::try_from(p).ok());
            number.ok_or_else(|| wrong("priority", &value, "a whole number from -100 to 100 (higher goes first)"))
        }
    }
}

/// `stream_options.include_usage`.
fn usage_wanted(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(wrong("stream_options", &options, "absent unless stream is true"));
    }
    let options = Field::new("stream_options", &options);
    if !options.value.is_object() {
        return Err(options.wrong("an object such as {\"include_usage\": true}"));
    }
    Ok(options.get("include_usage").flag()?.unwrap_or(false))
}

/// The common parameters. `stop` is the dialect's name of the stop strings.
pub fn params(fields: &mut Fields, model: ModelDefaults<'_>, stop: &'static str) -> Result<Params, ApiError> {
    let name = fields.text("model")?;
    let sampling = sampling(fields, model)?;
    let stop = stops(fields, stop)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = usage_wanted(fields, stream)?;
    Ok(Params {
        model: name,
        stop,
        stream,
        include_usage,
        user: user(fields)?,
        priority: priority(fields)?,
        ..Params::new(sampling)
    })
}

/// A token limit.
pub fn tokens(fields: &mut Fields, key: &'static str, low: u64) -> Result<Option<usize>, ApiError> {
    Ok(fields.count(key, low, u64::MAX)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

/// Template variables: the request's own, and the switches of thinking.
pub fn variables(fields: &mut Fields) -> Result<Map<String, Value>, ApiError> {
    const OURS: [&str; 5] = ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"];
    const THINKING: &str = "{\"type\": \"enabled\"} or {\"type\": \"disabled\"}";
    let mut template = Map::new();
    if let Some(value) = fields.take("thinking") {
        match value.get("type").and_then(Value::as_str) {
            Some("enabled") => think(&mut template, true),
            Some("disabled") => think(&mut template, false),
            Some("adaptive") => {}
            _ => return Err(wrong("thinking", &value, THINKING)),
        }
    }
    if let Some(value) = fields.take("reasoning_effort") {
        effort(&mut template, "reasoning_effort", &value)?;
    }
    if let Some(own) = fields.object("chat_template_kwargs", "an object")? {
        if let Some(key) = own.keys().find(|k| OURS.contains(&k.as_str())) {
            let what = format!("without {key}, which is set by the server");
            return Err(wrong("chat_template_kwargs", &Value::Object(own.clone()), &what));
        }
        template.extend(own);
    }
    Ok(template)
}

/// `thinking.budget_tokens`: less than the token limit. To be read before `variables`.
pub fn thinking_max(fields: &Fields, tokens_max: Option<usize>, limit: &str) -> Result<Option<usize>, ApiError> {
    const NAME: &str = "thinking.budget_tokens";
    let thinking = fields.peek("thinking").unwrap_or_default();
    let Some(budget) = thinking.get("budget_tokens").filter(|b| !b.is_null()) else { return Ok(None) };
    let tokens = usize::try_from(counted_value(NAME, budget, 1, u64::MAX)?).unwrap_or(usize::MAX);
    match tokens_max.filter(|&most| tokens >= most) {
        Some(most) => Err(wrong(NAME, budget, &format!("less than {limit}, which is {most}"))),
        None => Ok(Some(tokens).filter(|_| thinking["type"] != "disabled")),
    }
}

/// Switches thinking, by both names that templates use.
pub fn think(template: &mut Map<String, Value>, on: bool) {
    template.insert("thinking".to_string(), on.into());
    template.insert("enable_thinking".to_string(), on.into());
}

/// Reasoning effort. `none` switches thinking off; the other words are passed to the template.
pub fn effort(template: &mut Map<String, Value>, param: &str, value: &Value) -> Result<(), ApiError> {
    match value.as_str() {
        Some("none") => think(template, false),
        Some(word @ ("minimal" | "low" | "medium" | "high" | "xhigh" | "max" | "ultra")) => {
            template.insert("reasoning_effort".to_string(), word.into());
        }
        _ => return Err(wrong(param, value, "none, minimal, low, medium, high, xhigh, max or ultra")),
    }
    Ok(())
}
