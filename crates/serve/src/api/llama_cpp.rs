//! `/completion`, `/infill` and `/props`: llama.cpp's own API, which editor plugins use

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use engine::{Sampling, Timing};
use serde_json::{Map, Value, json};

use crate::api::completions::{PROMPTS_MAX, prompts};
use crate::api::fields::{Field, Fields, ModelDefaults, empty, whole, wrong};
use crate::api::generate::first;
use crate::api::params::{TOP_MAX, params};
use crate::api::response::{Event, ResponseWriter, decimal, event, scores};
use crate::api::response_format;
use crate::error::{ApiError, refused};
use crate::generation::events::{ChoiceEnd, ChoiceOutput, FinishReason, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::request::{Gap, GenerateRequest, Params, Prompt, RequestInput};
use crate::state::AppState;

/// Most files around a gap.
const FILES_MAX: usize = 1024;

/// Parses a body of `/completion`.
///
/// # Errors
/// The first invalid field.
pub fn parse_completion(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let prompts = prompts("prompt", fields.take("prompt").unwrap_or_default(), (PROMPTS_MAX, "prompts"), model.vocab)?;
    request(fields, model, prompts, None)
}

/// Parses a body of `/infill`. What does not fit into the context is cut, as editors expect.
///
/// # Errors
/// The first invalid field.
pub fn parse_infill(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    const NEEDED: &str = "a string; /infill takes input_prefix and input_suffix";
    let [prefix, suffix] =
        ["input_prefix", "input_suffix"].map(|key| fields.text(key)?.ok_or_else(|| wrong(key, &Value::Null, NEEDED)));
    let (prefix, suffix) = (prefix?, suffix?);
    let given = fields.take("input_extra").unwrap_or_default();
    let extra = Field::new("input_extra", &given);
    if !given.is_null() && given.as_array().is_none_or(|files| files.len() > FILES_MAX) {
        return Err(extra.wrong(&format!("an array of at most {FILES_MAX} objects with filename and text")));
    }
    let file = |file: Field| {
        let name = file.get("filename").text()?.unwrap_or("file").to_string();
        Ok((name, file.get("text").string()?.to_string()))
    };
    let files = extra.items().map(file).collect::<Result<_, ApiError>>()?;
    let begun = fields.text("prompt")?.unwrap_or_default();
    let gap = Gap { suffix, files, begun, room: Some(usize::MAX), field: "input_suffix" };
    let mut request = request(fields, model, vec![Prompt::Text(prefix)], Some(gap))?;
    if let (RequestInput::Prompts { gap: Some(gap), .. }, Some(most)) = (&mut request.input, request.params.tokens_max)
    {
        gap.room = Some(most);
    }
    Ok(request)
}

/// What both paths take.
fn request(
    fields: &mut Fields,
    model: ModelDefaults<'_>,
    prompts: Vec<Prompt>,
    gap: Option<Gap>,
) -> Result<GenerateRequest, ApiError> {
    let mut repeated = Map::new();
    let only = strings(fields, "response_fields")?;
    let mut params = parameters(fields, model)?;
    let (response_format, format_field) = response_format::parse(fields)?;
    fields.unused("return_tokens", |v| *v == false, "the ids of a text are at /tokenize")?;
    fields.unused("lora", empty, "no adapters are loaded here")?;
    for key in ["image_data", "multimodal_data"] {
        fields.unused(key, empty, "only text is read")?;
    }
    fields.unused("ignore_eos", |v| *v == false, "what follows the end of a text is no text")?;
    params.unknown = fields.unknown();
    if let ([Prompt::Text(text)], None) = (prompts.as_slice(), &gap) {
        repeated.insert("prompt".to_string(), text.as_str().into());
    }
    let Params { sampling: s, tokens_max, stop, stream, .. } = &params;
    let mut settings = json!({
        "n_predict": tokens_max.map_or(json!(-1), |n| json!(n)), "seed": s.seed, "stop": stop, "stream": stream,
        "repeat_last_n": if s.penalty_window == 0 { json!(-1) } else { json!(s.penalty_window) },
        "presence_penalty": decimal(s.presence_penalty),
        "frequency_penalty": decimal(s.frequency_penalty),
    });
    settings.as_object_mut().into_iter().for_each(|all| all.extend(advised(s)));
    repeated.insert("generation_settings".to_string(), settings);
    repeated.insert("response_fields".to_string(), only.into());
    let input = RequestInput::Prompts { prompts, gap, echo: false };
    Ok(GenerateRequest { response_format, format_field, repeated, ..GenerateRequest::new(input, params) })
}

/// Parameters that a model may advise.
fn advised(s: &Sampling) -> Map<String, Value> {
    let numbers = [
        ("temperature", s.temperature),
        ("top_p", s.top_p),
        ("min_p", s.min_p),
        ("typical_p", s.typical_p),
        ("repeat_penalty", s.repetition_penalty),
    ];
    let all = numbers.into_iter().map(|(name, value)| (name.to_string(), decimal(value)));
    all.chain([("top_k".to_string(), s.top_k.into())]).collect()
}

fn strings(fields: &mut Fields, key: &'static str) -> Result<Vec<String>, ApiError> {
    let Some(value) = fields.take(key) else { return Ok(Vec::new()) };
    let list = value.as_array().filter(|list| list.len() <= 64);
    let texts = list.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_string)).collect());
    texts.ok_or_else(|| wrong(key, &value, "an array of at most 64 strings"))
}

/// Sampling parameters under llama.cpp's names.
fn parameters(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<Params, ApiError> {
    let key = if fields.peek("n_predict").is_some() { "n_predict" } else { "max_tokens" };
    let limit = ["n_predict", "max_tokens"].map(|key| fields.take(key));
    let limit = limit.into_iter().flatten().next().unwrap_or_default();
    let tokens_max = match whole(&limit) {
        None if limit.is_null() => None,
        Some(-2 | -1) => None,
        Some(n @ 0..) => Some(usize::try_from(n).unwrap_or(usize::MAX)),
        _ => return Err(wrong(key, &limit, "a whole number from 0 to 9223372036854775807, or -1 = no limit")),
    };
    let window = fields.take("repeat_last_n").unwrap_or_default();
    let penalty_window = match whole(&window) {
        None if window.is_null() => None,
        Some(-1) => Some(0),
        Some(n @ 0..) => Some(usize::try_from(n).unwrap_or(usize::MAX)),
        _ => {
            return Err(wrong(
                "repeat_last_n",
                &window,
                "a whole number from 0 on (0 = no penalties), or -1 = all tokens",
            ));
        }
    };
    let no_penalties = whole(&window) == Some(0);
    let repeat_penalty = fields.number("repeat_penalty", 0.01, 100.0)?;
    // llama.cpp's word for a random one.
    if fields.peek("seed").as_ref().and_then(whole) == Some(-1) {
        fields.take("seed");
    }
    if let Some(list) = fields.get_mut("logit_bias").filter(|value| value.is_array()) {
        *list = biases(list)?;
    }
    let log_probabilities = fields.count("n_probs", 0, TOP_MAX)?.filter(|n| *n > 0).map(|n| n as usize);
    let mut params = Params { tokens_max, log_probabilities, ..params(fields, model, "stop")? };
    params.sampling.penalty_window = penalty_window.unwrap_or(params.sampling.penalty_window);
    params.sampling.repetition_penalty = repeat_penalty.unwrap_or(params.sampling.repetition_penalty);
    if no_penalties {
        let (repetition_penalty, presence_penalty, frequency_penalty) = (1.0, 0.0, 0.0);
        params.sampling = Sampling { repetition_penalty, presence_penalty, frequency_penalty, ..params.sampling };
    }
    Ok(params)
}

/// A list of pairs of a token id and a number as OpenAI's object; `false` bans the token.
fn biases(list: &Value) -> Result<Value, ApiError> {
    let pair = |pair: &Field| {
        let id = pair.value.get(0).and_then(whole).filter(|_| pair.value.as_array().is_some_and(|p| p.len() == 2));
        let id = id.ok_or_else(|| pair.wrong("a pair of a token id and a number, or false"))?;
        Ok::<_, ApiError>((id.to_string(), if pair.value[1] == false { json!(-100) } else { pair.value[1].clone() }))
    };
    let mut map = Map::new();
    for item in Field::new("logit_bias", list).items() {
        let (id, bias) = pair(&item)?;
        if map.insert(id, bias).is_some() {
            return Err(item.wrong("a pair for a token that was not named before"));
        }
    }
    Ok(map.into())
}

/// Writes answers of `/completion` and `/infill`.
pub(crate) struct LlamaCppWriter {
    pub model: String,
    pub log_probabilities: bool,
    /// `prompt`, `generation_settings` and `response_fields`.
    pub repeated: Map<String, Value>,
}

impl LlamaCppWriter {
    fn part(&self, choice: usize, text: &str, scored: &[TokenLogprob]) -> Value {
        let mut part = json!({"index": choice, "content": text, "tokens": [], "stop": false, "id_slot": -1});
        if self.log_probabilities && !scored.is_empty() {
            part["completion_probabilities"] = scores(scored).into();
        }
        part
    }

    /// The last part of a choice, or its whole.
    fn last(&self, choice: usize, text: &str, scored: &[TokenLogprob], end: &ChoiceEnd) -> Value {
        let mut last = self.part(choice, text, scored);
        let timing = &end.timing;
        let limited = matches!(end.finish, FinishReason::Length | FinishReason::Resource);
        let kind = match &end.stop {
            Some(_) => "word",
            None if limited => "limit",
            None => "eos",
        };
        last["stop"] = true.into();
        last["stop_type"] = kind.into();
        last["stopping_word"] = end.stop.as_deref().unwrap_or_default().into();
        last["model"] = self.model.as_str().into();
        last["tokens_predicted"] = timing.generated.into();
        last["tokens_evaluated"] = (timing.cached_tokens + timing.prompt_tokens).into();
        last["tokens_cached"] = timing.cached_tokens.into();
        last["truncated"] = end.truncated.into();
        last["timings"] = timings(timing);
        for key in ["prompt", "generation_settings"] {
            last[key] = self.repeated.get(key).cloned().unwrap_or_default();
        }
        let only = self.repeated.get("response_fields").and_then(Value::as_array).filter(|only| !only.is_empty());
        let Some(only) = only else { return last };
        // A path such as timings/predicted_ms is the name of its value.
        let chosen = only.iter().filter_map(Value::as_str).filter_map(|path| {
            let value = last.pointer(&format!("/{path}"))?;
            Some((path.to_string(), value.clone()))
        });
        Value::Object(chosen.collect())
    }
}

fn timings(timing: &Timing) -> Value {
    let rates = |count: usize, time: Duration| {
        let ms = time.as_secs_f64() * 1e3;
        (ms, ms / count.max(1) as f64, if ms > 0.0 { count as f64 / ms * 1e3 } else { 0.0 })
    };
    let (prompt_ms, prompt_per_token_ms, prompt_per_second) = rates(timing.prompt_tokens, timing.prefill);
    let (predicted_ms, predicted_per_token_ms, predicted_per_second) = rates(timing.generated, timing.decode);
    json!({
        "cache_n": timing.cached_tokens, "prompt_n": timing.prompt_tokens, "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_per_token_ms, "prompt_per_second": prompt_per_second,
        "predicted_n": timing.generated, "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_per_token_ms, "predicted_per_second": predicted_per_second,
    })
}

impl ResponseWriter for LlamaCppWriter {
    fn event(&mut self, choice: usize, output: &OutputEvent) -> Vec<Event> {
        match output {
            OutputEvent::Text { text, scored } => vec![event(&self.part(choice, text, scored))],
            OutputEvent::End(end) => vec![event(&self.last(choice, "", &[], end))],
            // No reasoning, no calls.
            _ => Vec::new(),
        }
    }

    fn closing(&mut self, _usage: &Usage) -> Vec<Event> {
        Vec::new()
    }

    fn whole(&mut self, choices: &[ChoiceOutput], _usage: &Usage) -> Value {
        let choice = |(index, one): (usize, &ChoiceOutput)| {
            one.end.as_ref().map(|end| self.last(index, &one.text, &one.scored, end))
        };
        let mut all: Vec<Value> = choices.iter().enumerate().filter_map(choice).collect();
        if all.len() == 1 { all.swap_remove(0) } else { all.into() }
    }
}

/// `GET /props`: of the first model.
pub async fn props(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let served = match first(&state, &head).await {
        Ok(served) => served,
        Err(error) => return refused(error, &head),
    };
    let props = json!({
        "default_generation_settings": {"n_ctx": served.engine.limits().context, "params": advised(&served.defaults)},
        "total_slots": served.engine.running_max(),
        "model_alias": served.name,
        // The path of the model is nobody's business.
        "model_path": served.name,
        "modalities": {"vision": false, "audio": false},
        "chat_template": served.template.source(),
        "bos_token": served.bos,
        "eos_token": served.eos,
        "build_info": concat!("farthing-", env!("CARGO_PKG_VERSION")),
    });
    axum::Json(props).into_response()
}
