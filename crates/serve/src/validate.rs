//! Bytes of a request to a type that cannot be wrong. Every refusal names the field, its value and what is allowed.

use engine::Sampling;
use serde_json::{Map, Value};

/// Most messages of a conversation.
const MESSAGES_MAX: usize = 1 << 14;
/// Most stop strings, and the longest.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1 << 10;
/// Most entries of logit_bias.
const BIASES_MAX: usize = 1 << 12;
/// Most alternatives whose log-probabilities are given.
const TOP_MAX: u64 = 20;
/// Longest value that an error repeats.
const SHOWN_MAX: usize = 100;

/// A refusal, for a 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as a path: `messages[2].content`.
    pub param: Option<String>,
    /// One line: the field, its value, what is allowed.
    pub message: String,
    /// A word for programs.
    pub code: &'static str,
}

/// What every kind of request says of its answer.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The model, where one is named.
    pub model: Option<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens at most, where given.
    pub tokens_max: Option<usize>,
    /// Strings that end the text.
    pub stop: Vec<String>,
    /// Give the text as it comes.
    pub stream: bool,
    /// End the stream with the usage.
    pub include_usage: bool,
    /// Give log-probabilities, with this many of the likeliest.
    pub log_probabilities: Option<usize>,
    /// Fields that were not known.
    pub unknown: Vec<String>,
}

/// A conversation to be answered.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Messages, contents as text. Fields that templates know (`name`, `tool_calls`, ...) are kept.
    pub messages: Vec<Value>,
    /// Further variables of the template.
    pub template: Map<String, Value>,
    /// The rest.
    pub wanted: Wanted,
}

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Completion {
    /// It.
    pub prompt: Prompt,
    /// The rest.
    pub wanted: Wanted,
}

/// Text, or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Ids.
    Tokens(Vec<u32>),
}

/// A value as an error repeats it: short, on one line.
fn shown(value: &Value) -> String {
    let kind = match value {
        Value::Array(items) if items.len() > 8 => return format!("an array of {} items", items.len()),
        Value::Object(fields) if fields.len() > 8 => return format!("an object of {} fields", fields.len()),
        Value::String(text) => serde_json::to_string(&text.chars().take(SHOWN_MAX + 1).collect::<String>()),
        other => serde_json::to_string(other),
    };
    let mut text = kind.unwrap_or_default();
    if let Some((at, _)) = text.char_indices().nth(SHOWN_MAX) {
        text.truncate(at);
        text.push('…');
    }
    text
}

fn wrong(param: &str, value: &Value, allowed: &str) -> Invalid {
    let message = format!("{param} is {}; it must be {allowed}", shown(value));
    Invalid { param: Some(param.to_string()), message, code: "invalid_value" }
}

fn unsupported(param: &str, value: &Value, instead: &str) -> Invalid {
    let message = format!("{param} is {}, which is not supported; {instead}", shown(value));
    Invalid { param: Some(param.to_string()), message, code: "unsupported_value" }
}

/// The fields of a request; what is taken is known, `null` is absent.
struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Fields, Invalid> {
        let plain = |message: String| Invalid { param: None, message, code: "invalid_json" };
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|e| plain(format!("the body is not JSON: {e}; send an object such as {{\"model\": ...}}")))?;
        match value {
            Value::Object(map) => Ok(Fields { map }),
            other => Err(plain(format!("the body is {}; it must be a JSON object", shown(&other)))),
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|v| !v.is_null())
    }

    fn number(&mut self, key: &str, low: f64, high: f64) -> Result<Option<f32>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().filter(|x| x.is_finite() && *x >= low && *x <= high);
        number.map(|x| Some(x as f32)).ok_or_else(|| wrong(key, &value, &format!("a number from {low} to {high}")))
    }

    fn count(&mut self, key: &str, low: u64, high: u64) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let whole =
            value.as_u64().or(value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0 && *x < 1e15).map(|x| x as u64));
        let allowed = || {
            if high == u64::MAX {
                format!("a whole number from {low} on")
            } else {
                format!("a whole number from {low} to {high}")
            }
        };
        whole.filter(|n| *n >= low && *n <= high).map(Some).ok_or_else(|| wrong(key, &value, &allowed()))
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, Invalid> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| wrong(key, &value, "true or false"))
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Invalid> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(key, &other, "a string")),
        }
    }

    /// A field whose only accepted values mean that it is not used.
    fn unused(&mut self, key: &str, none: impl Fn(&Value) -> bool, instead: &str) -> Result<(), Invalid> {
        match self.take(key) {
            Some(value) if !none(&value) => Err(unsupported(key, &value, instead)),
            _ => Ok(()),
        }
    }
}

fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Strings that end a text: one, or a list.
fn stops(fields: &mut Fields) -> Result<Vec<String>, Invalid> {
    let allowed = format!("a string, or at most {STOPS_MAX} strings, of 1 to {STOP_BYTES_MAX} bytes");
    let list = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    if list.len() > STOPS_MAX {
        return Err(wrong("stop", &Value::Array(list), &allowed));
    }
    let one = |value: Value| match value {
        Value::String(text) if !text.is_empty() && text.len() <= STOP_BYTES_MAX => Ok(text),
        other => Err(wrong("stop", &other, &allowed)),
    };
    list.into_iter().map(one).collect()
}

fn biases(fields: &mut Fields, vocab: usize) -> Result<Vec<(u32, f32)>, Invalid> {
    let Some(value) = fields.take("logit_bias") else { return Ok(Vec::new()) };
    let Some(map) = value.as_object().filter(|m| m.len() <= BIASES_MAX) else {
        return Err(wrong("logit_bias", &value, &format!("an object of at most {BIASES_MAX} token ids with numbers")));
    };
    map.iter()
        .map(|(id, bias)| {
            let param = format!("logit_bias[{:?}]", id.chars().take(20).collect::<String>());
            let number = bias.as_f64().filter(|x| (-100.0..=100.0).contains(x));
            let number = number.ok_or_else(|| wrong(&param, bias, "a number from -100 to 100"))?;
            let known = id.parse::<u32>().ok().filter(|&id| (id as usize) < vocab);
            let id = known.ok_or_else(|| wrong(&param, bias, &format!("for a token id below {vocab}")))?;
            Ok((id, number as f32))
        })
        .collect()
}

impl Wanted {
    /// The fields that both kinds of request share. `defaults` are the model's.
    fn take(fields: &mut Fields, defaults: &Sampling, vocab: usize) -> Result<Wanted, Invalid> {
        let model = fields.text("model")?;
        let d = defaults;
        let seed = match fields.take("seed") {
            None => d.seed,
            Some(value) => {
                let seed = value.as_u64().or(value.as_i64().map(|s| s as u64));
                Some(seed.ok_or_else(|| wrong("seed", &value, "a whole number of 64 bits"))?)
            }
        };
        let top_k = match fields.take("top_k") {
            None => d.top_k,
            // -1 is what some clients send for "all".
            Some(value) if value.as_i64() == Some(-1) => 0,
            Some(value) => {
                let k = value.as_u64().and_then(|k| usize::try_from(k).ok());
                k.ok_or_else(|| wrong("top_k", &value, "a whole number from 0 on (0 or -1 = all)"))?
            }
        };
        let sampling = Sampling {
            temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(d.temperature),
            top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(d.top_p),
            min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(d.min_p),
            typical_p: fields.number("typical_p", 0.0, 1.0)?.unwrap_or(d.typical_p),
            repetition_penalty: fields.number("repetition_penalty", 0.01, 100.0)?.unwrap_or(d.repetition_penalty),
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?.unwrap_or(d.presence_penalty),
            frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(d.frequency_penalty),
            penalty_window: d.penalty_window,
            logit_bias: biases(fields, vocab)?,
            top_k,
            seed,
        };
        let stop = stops(fields)?;
        let stream = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.take("stream_options") {
            None => false,
            Some(options) => {
                if !stream {
                    return Err(wrong("stream_options", &options, "absent unless stream is true"));
                }
                let Some(map) = options.as_object() else {
                    return Err(wrong("stream_options", &options, "an object such as {\"include_usage\": true}"));
                };
                match map.get("include_usage") {
                    None | Some(Value::Null) => false,
                    Some(Value::Bool(on)) => *on,
                    Some(other) => return Err(wrong("stream_options.include_usage", other, "true or false")),
                }
            }
        };
        if let Some(n) = fields.take("n").filter(|n| n.as_u64() != Some(1)) {
            return Err(unsupported("n", &n, "send 1, or one request for each answer"));
        }
        Ok(Wanted {
            model,
            sampling,
            tokens_max: None,
            stop,
            stream,
            include_usage,
            log_probabilities: None,
            unknown: Vec::new(),
        })
    }
}

/// Fields that say nothing about the answer: who asks, where to keep it.
const ABOUT: [&str; 8] =
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity", "prediction"];

fn finish(mut fields: Fields, wanted: &mut Wanted) {
    ABOUT.iter().for_each(|key| drop(fields.map.remove(*key)));
    wanted.unknown = fields.map.keys().take(64).map(|k| k.chars().take(64).collect()).collect();
}

/// A request of `/v1/chat/completions`.
///
/// # Errors
/// The first field that cannot be.
pub fn chat(bytes: &[u8], defaults: &Sampling, vocab: usize) -> Result<Chat, Invalid> {
    let mut fields = Fields::parse(bytes)?;
    let messages = messages(&mut fields)?;
    let mut wanted = Wanted::take(&mut fields, defaults, vocab)?;
    let (old, new) = (fields.count("max_tokens", 1, u64::MAX)?, fields.count("max_completion_tokens", 1, u64::MAX)?);
    wanted.tokens_max = new.or(old).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let on = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, TOP_MAX)?;
    if let Some(top) = top.filter(|_| !on) {
        return Err(wrong("top_logprobs", &Value::from(top), "absent unless logprobs is true"));
    }
    wanted.log_probabilities = on.then(|| top.unwrap_or(0) as usize);
    let later = "leave it out";
    fields.unused("tools", empty, later)?;
    fields.unused("functions", empty, later)?;
    fields.unused("tool_choice", |v| v == "none" || v == "auto", later)?;
    fields.unused("function_call", |v| v == "none" || v == "auto", later)?;
    fields.unused("response_format", |v| v["type"] == "text", "leave it out or send {\"type\": \"text\"}")?;
    fields.unused("modalities", |v| *v == serde_json::json!(["text"]), "text is all there is")?;
    fields.unused("audio", |_| false, later)?;
    fields.unused("web_search_options", |_| false, later)?;
    drop(fields.take("parallel_tool_calls"));
    let mut template = Map::new();
    match fields.take("chat_template_kwargs") {
        None => {}
        Some(Value::Object(map)) => {
            const OURS: [&str; 5] = ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"];
            if let Some(key) = map.keys().find(|k| OURS.contains(&k.as_str())) {
                let what = format!("without {key}, which is set by the server");
                return Err(wrong("chat_template_kwargs", &Value::Object(map.clone()), &what));
            }
            template = map;
        }
        Some(other) => return Err(wrong("chat_template_kwargs", &other, "an object")),
    }
    finish(fields, &mut wanted);
    Ok(Chat { messages, template, wanted })
}

fn messages(fields: &mut Fields) -> Result<Vec<Value>, Invalid> {
    let allowed = format!("an array of 1 to {MESSAGES_MAX} messages");
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MESSAGES_MAX => list,
        other => return Err(wrong("messages", &other.unwrap_or(Value::Null), &allowed)),
    };
    list.into_iter().enumerate().map(|(i, message)| one_message(i, message)).collect()
}

fn one_message(i: usize, message: Value) -> Result<Value, Invalid> {
    let at = |field: &str| format!("messages[{i}].{field}");
    let mut map = match message {
        Value::Object(map) => map,
        other => return Err(wrong(&format!("messages[{i}]"), &other, "an object with role and content")),
    };
    let role = match map.get("role") {
        Some(Value::String(role)) if ["system", "user", "assistant", "tool"].contains(&role.as_str()) => role.clone(),
        // OpenAI's newer name for the same.
        Some(Value::String(role)) if role == "developer" => "system".to_string(),
        other => {
            let value = other.cloned().unwrap_or(Value::Null);
            return Err(wrong(&at("role"), &value, "system, developer, user, assistant or tool"));
        }
    };
    let calls = map.get("tool_calls").is_some_and(|c| !c.is_null() && !empty(c));
    let content = match map.remove("content") {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) if role == "assistant" && calls => String::new(),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for (p, part) in parts.into_iter().enumerate() {
                match (part["type"].as_str(), part["text"].as_str()) {
                    (Some("text"), Some(piece)) => text.push_str(piece),
                    (Some("text"), None) => {
                        return Err(wrong(&at(&format!("content[{p}].text")), &part["text"], "a string"));
                    }
                    _ => {
                        let param = at(&format!("content[{p}].type"));
                        return Err(unsupported(&param, &part["type"], "only parts of type \"text\" are read"));
                    }
                }
            }
            text
        }
        other => {
            let value = other.unwrap_or(Value::Null);
            return Err(wrong(&at("content"), &value, "a string, or an array of {\"type\": \"text\", \"text\": ...}"));
        }
    };
    let mut out = Map::new();
    out.insert("role".to_string(), role.into());
    out.insert("content".to_string(), content.into());
    for key in ["name", "tool_calls", "tool_call_id", "reasoning_content"] {
        if let Some(value) = map.remove(key).filter(|v| !v.is_null()) {
            out.insert(key.to_string(), value);
        }
    }
    Ok(Value::Object(out))
}

/// A request of `/v1/completions`.
///
/// # Errors
/// The first field that cannot be.
pub fn completion(bytes: &[u8], defaults: &Sampling, vocab: usize) -> Result<Completion, Invalid> {
    let mut fields = Fields::parse(bytes)?;
    let prompt = prompt(fields.take("prompt").unwrap_or(Value::Null), vocab)?;
    let mut wanted = Wanted::take(&mut fields, defaults, vocab)?;
    // Sixteen, where nothing is said: as the API has always had it.
    let most = fields.count("max_tokens", 1, u64::MAX)?.unwrap_or(16);
    wanted.tokens_max = Some(usize::try_from(most).unwrap_or(usize::MAX));
    wanted.log_probabilities = fields.count("logprobs", 0, TOP_MAX)?.map(|n| n as usize);
    fields.unused("echo", |v| *v == false, "leave it out")?;
    fields.unused("best_of", |v| *v == 1, "send 1 or leave it out")?;
    fields.unused("suffix", |v| v == "", "leave it out")?;
    finish(fields, &mut wanted);
    Ok(Completion { prompt, wanted })
}

fn prompt(value: Value, vocab: usize) -> Result<Prompt, Invalid> {
    const ALLOWED: &str = "a string, an array of token ids, or an array of one of these";
    match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(mut items) if items.len() == 1 && (items[0].is_string() || items[0].is_array()) => {
            prompt(items.remove(0), vocab)
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => {
            let id = |(i, v): (usize, &Value)| {
                let id = v.as_u64().filter(|&id| id < vocab as u64).map(|id| id as u32);
                id.ok_or_else(|| wrong(&format!("prompt[{i}]"), v, &format!("a token id below {vocab}")))
            };
            Ok(Prompt::Tokens(items.iter().enumerate().map(id).collect::<Result<_, _>>()?))
        }
        Value::Array(items) if items.len() > 1 && items.iter().all(|v| v.is_string() || v.is_array()) => {
            let n = items.len();
            Err(unsupported("prompt", &Value::Array(items), &format!("send {n} requests of one prompt each")))
        }
        other => Err(wrong("prompt", &other, ALLOWED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chatted(changes: Value) -> Result<Chat, Invalid> {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        chat(body.to_string().as_bytes(), &Sampling::default(), 100)
    }

    fn completed(body: Value) -> Result<Completion, Invalid> {
        completion(body.to_string().as_bytes(), &Sampling::default(), 100)
    }

    #[test]
    fn every_refusal_names_the_field_the_value_and_what_is_allowed() {
        for (changes, param, said) in [
            (json!({"temperature": 3}), "temperature", "temperature is 3; it must be a number from 0 to 2"),
            (json!({"temperature": "hot"}), "temperature", "temperature is \"hot\""),
            (json!({"top_p": -0.1}), "top_p", "top_p is -0.1; it must be a number from 0 to 1"),
            (json!({"top_k": -2}), "top_k", "top_k is -2"),
            (json!({"max_tokens": 0}), "max_tokens", "max_tokens is 0; it must be a whole number from 1 on"),
            (json!({"max_completion_tokens": 1.5}), "max_completion_tokens", "is 1.5"),
            (json!({"stream": "yes"}), "stream", "stream is \"yes\"; it must be true or false"),
            (json!({"stream_options": {}}), "stream_options", "absent unless stream is true"),
            (json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage", "is 1"),
            (json!({"stop": ["a", 1]}), "stop", "stop is 1; it must be a string, or at most 16 strings"),
            (json!({"stop": ""}), "stop", "stop is \"\""),
            (json!({"stop": vec!["x"; 17]}), "stop", "an array of 17 items"),
            (json!({"seed": 1.5}), "seed", "seed is 1.5"),
            (json!({"n": 2}), "n", "n is 2, which is not supported; send 1"),
            (json!({"logprobs": 3}), "logprobs", "true or false"),
            (json!({"top_logprobs": 3}), "top_logprobs", "absent unless logprobs is true"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
            (json!({"logit_bias": {"100": 1}}), "logit_bias[\"100\"]", "a token id below 100"),
            (json!({"logit_bias": {"1": 101}}), "logit_bias[\"1\"]", "from -100 to 100"),
            (json!({"logit_bias": [1]}), "logit_bias", "an object"),
            (json!({"messages": []}), "messages", "an array of 1 to"),
            (json!({"messages": null}), "messages", "messages is null"),
            (json!({"messages": [5]}), "messages[0]", "an object with role and content"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role", "is \"king\""),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content", "is null; it must be a string"),
            (json!({"messages": [{"role": "assistant", "content": null}]}), "messages[0].content", "is null"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0].type",
                "only parts of type \"text\"",
            ),
            (json!({"tools": [{"type": "function"}]}), "tools", "not supported"),
            (json!({"response_format": {"type": "json_object"}}), "response_format", "not supported"),
            (json!({"model": 3}), "model", "model is 3; it must be a string"),
            (json!({"chat_template_kwargs": {"messages": 1}}), "chat_template_kwargs", "without messages"),
        ] {
            let refused = chatted(changes.clone()).expect_err(&changes.to_string());
            assert_eq!(refused.param.as_deref(), Some(param), "{refused:?}");
            assert!(refused.message.contains(said) && refused.message.contains(param), "{refused:?}");
        }
        for (body, said) in [
            (json!({}), "prompt is null; it must be a string, an array of token ids"),
            (json!({"prompt": []}), "prompt is []"),
            (json!({"prompt": [1, 100]}), "prompt[1] is 100; it must be a token id below 100"),
            (json!({"prompt": [1, "a"]}), "prompt is [1,\"a\"]"),
            (json!({"prompt": ["a", "b"]}), "send 2 requests of one prompt each"),
            (json!({"prompt": "a", "echo": true}), "echo is true, which is not supported"),
            (json!({"prompt": "a", "logprobs": 21}), "logprobs is 21; it must be a whole number from 0 to 20"),
            (json!({"prompt": "a", "best_of": 3}), "best_of is 3"),
            (json!({"prompt": "a", "suffix": "b"}), "suffix is \"b\""),
        ] {
            let refused = completed(body.clone()).expect_err(&body.to_string());
            assert!(refused.message.contains(said), "{refused:?}");
        }
        assert!(chat(b"{", &Sampling::default(), 9).unwrap_err().message.contains("not JSON"));
        assert!(chat(b"[]", &Sampling::default(), 9).unwrap_err().message.contains("a JSON object"));
        let long = json!({"messages": [{"role": "x".repeat(10_000), "content": ""}]});
        assert!(chatted(long).unwrap_err().message.len() < 300);
    }

    /// What the fuzzer starts from, and everything it found.
    #[test]
    fn seeds_and_findings_of_the_fuzzer() {
        let mut count = 0;
        for kind in ["seeds", "findings"] {
            let directory =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join("request");
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                count += 1;
                let refusals = [
                    chat(&bytes, &Sampling::default(), 1000).err(),
                    completion(&bytes, &Sampling::default(), 1000).err(),
                ];
                assert!(refusals.into_iter().flatten().all(|r| r.message.len() < 4096 && !r.message.contains('\n')));
            }
        }
        assert!(count >= 5);
    }

    #[test]
    fn what_is_given_is_taken() {
        let chat = chatted(json!({
            "model": "m", "temperature": 0.5, "top_k": -1, "stop": "x", "seed": -1, "stream": true, "max_tokens": 9,
            "max_completion_tokens": 5, "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 4,
            "logit_bias": {"7": -100}, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "u",
            "colour": 1, "frequency_penalty": null
        }))
        .unwrap();
        let w = &chat.wanted;
        assert_eq!((w.model.as_deref(), w.tokens_max, w.stream, w.include_usage), (Some("m"), Some(5), true, true));
        assert_eq!((w.sampling.temperature, w.sampling.seed, w.sampling.top_k), (0.5, Some(u64::MAX), 0));
        assert_eq!(
            (w.log_probabilities, &w.stop[..], &w.unknown[..]),
            (Some(4), &["x".to_string()][..], &["colour".to_string()][..])
        );
        assert_eq!(w.sampling.logit_bias, [(7, -100.0)]);
        let parts = json!({"messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]});
        let messages = chatted(parts).unwrap().messages;
        assert_eq!(messages[0], json!({"role": "system", "content": "ab"}));
        assert_eq!(messages[1]["tool_calls"][0]["id"], "1");
        assert_eq!(completed(json!({"prompt": [[1, 2]]})).unwrap().prompt, Prompt::Tokens(vec![1, 2]));
        let plain = completed(json!({"prompt": ["a"], "logprobs": 0})).unwrap();
        assert_eq!((plain.prompt, plain.wanted.tokens_max), (Prompt::Text("a".to_string()), Some(16)));
        assert_eq!(plain.wanted.log_probabilities, Some(0));
    }
}
