//! `/api/chat` and `/api/generate`: Ollama's dialect, with streams of newline-delimited JSON

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use text::chat::{Message, Role, ToolCall};

use crate::api::chat::{log_probabilities, message_list, one_message};
use crate::api::fields::{Field, Fields, ModelDefaults, empty, unsupported, whole, wrong};
use crate::api::params::{effort, params, think};
use crate::api::response::{Event, ResponseWriter, event, scores};
use crate::api::response_format::{FormatField, schema};
use crate::api::tools;
use crate::error::{ApiError, Dialect};
use crate::generation::events::{ChoiceEnd, ChoiceOutput, FinishReason, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::request::{Gap, GenerateRequest, Params, Prompt, RequestInput, ResponseFormat, Tools};
use crate::words::{date, now};

/// What an answer is in: a message, or a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
}

impl Form {
    /// The answer to a request without any input, which only loads the model.
    pub(super) fn loads(
        self,
        fields: &mut Fields,
        (model, defaults): (&str, ModelDefaults<'_>),
        (begun, loaded): (Instant, Duration),
    ) -> Result<Option<Value>, ApiError> {
        let none = match self {
            Form::Chat => fields.is_empty("messages"),
            Form::Generate => ["prompt", "suffix", "images"].iter().all(|key| fields.is_empty(key)),
        };
        if !none {
            return Ok(None);
        }
        // What else is there is held to the same rules.
        match self {
            Form::Chat => {
                fields.take("messages");
                let input = RequestInput::Conversation { messages: Vec::new(), continues: false };
                let tools = tools::openai(fields)?;
                request(fields, defaults, input, tools)?;
            }
            Form::Generate => drop(parse_generate(fields, defaults)?),
        }
        let mut answer = self.part(model, "", "", &[]);
        answer["done"] = true.into();
        answer["done_reason"] = "load".into();
        answer["total_duration"] = nanoseconds(begun.elapsed());
        answer["load_duration"] = nanoseconds(loaded);
        Ok(Some(answer))
    }

    /// A part of an answer, not the last one.
    fn part(self, model: &str, text: &str, thinking: &str, calls: &[ToolCall]) -> Value {
        let mut part = json!({"model": model, "created_at": date(now())});
        let holder = match self {
            Form::Chat => {
                part["message"] = json!({"role": "assistant", "content": text});
                &mut part["message"]
            }
            Form::Generate => {
                part["response"] = text.into();
                &mut part
            }
        };
        if !thinking.is_empty() {
            holder["thinking"] = thinking.into();
        }
        // A call that the limit cut off has no object of arguments.
        let call = |(index, call): (usize, &ToolCall)| {
            let arguments: Map<String, Value> = serde_json::from_str(&call.arguments).ok()?;
            Some(json!({"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}))
        };
        let calls: Vec<Value> = calls.iter().enumerate().filter_map(call).collect();
        if !calls.is_empty() {
            holder["tool_calls"] = calls.into();
        }
        part["done"] = false.into();
        part
    }
}

/// Parses a body of `/api/chat`.
///
/// # Errors
/// The first invalid field.
pub fn parse_chat(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let mut list = Value::Array(message_list(fields)?);
    let mut messages = Vec::new();
    for (i, value) in list.as_array_mut().into_iter().flatten().enumerate() {
        messages.push(message(i, value)?);
    }
    let begun = |m: &Message| m.role == Role::Assistant && m.tool_calls.is_empty() && !m.text().is_empty();
    let continues = messages.last().is_some_and(begun);
    let tools = tools::openai(fields)?;
    request(fields, model, RequestInput::Conversation { messages, continues }, tools)
}

/// A message, with Ollama's names of its members changed to OpenAI's.
fn message(i: usize, value: &mut Value) -> Result<Message, ApiError> {
    let path = format!("messages[{i}]");
    images(&Field::new(path.as_str(), value).get("images"))?;
    if let Some(members) = value.as_object_mut() {
        for (theirs, ours) in [("thinking", "reasoning_content"), ("tool_name", "name")] {
            if let Some(value) = members.shift_remove(theirs) {
                members.entry(ours).or_insert(value);
            }
        }
        let content = members.entry("content").or_insert(Value::Null);
        if content.is_null() {
            *content = "".into();
        }
    }
    one_message(&Field::new(path, value))
}

fn images(field: &Field) -> Result<(), ApiError> {
    if field.value.is_null() || empty(field.value) { Ok(()) } else { Err(field.unsupported("only text is read")) }
}

/// Parses a body of `/api/generate`.
///
/// # Errors
/// The first invalid field.
pub fn parse_generate(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let prompt = fields.text("prompt")?.unwrap_or_default();
    let system = fields.text("system")?.filter(|s| !s.is_empty());
    let suffix = fields.text("suffix")?.filter(|s| !s.is_empty());
    let raw = fields.flag("raw")?.unwrap_or(false);
    images(&Field::new("images", &fields.take("images").unwrap_or_default()))?;
    fields.unused("template", |v| *v == "", "the model's own is used; to render the prompt yourself send raw")?;
    fields.unused("context", empty, "send the conversation to /api/chat")?;
    if let Some(system) = system.as_ref().filter(|_| raw || suffix.is_some()) {
        return Err(unsupported("system", &system.as_str().into(), "with raw or suffix there is none"));
    }
    let input = if raw || suffix.is_some() {
        RequestInput::Prompts { prompts: vec![Prompt::Text(prompt)], gap: suffix.map(Gap::before), echo: false }
    } else {
        let system = system.map(|text| Message::new(Role::System, text));
        let messages = system.into_iter().chain([Message::new(Role::User, prompt)]).collect();
        RequestInput::Conversation { messages, continues: false }
    };
    request(fields, model, input, Tools::default())
}

/// What both paths take.
fn request(
    fields: &mut Fields,
    model: ModelDefaults<'_>,
    input: RequestInput,
    tools: Tools,
) -> Result<GenerateRequest, ApiError> {
    let mut params = options(fields, model)?;
    params.model = fields.text("model")?;
    params.stream = fields.flag("stream")?.unwrap_or(true);
    params.log_probabilities = log_probabilities(fields)?;
    let (response_format, format_field) = format(fields)?;
    let mut template = Map::new();
    match fields.take("think") {
        None => {}
        Some(Value::Bool(on)) => think(&mut template, on),
        Some(word) => {
            effort(&mut template, "think", &word)?;
        }
    }
    fields.about(&["keep_alive"]);
    params.ignored = fields.ignored();
    params.unknown.extend(fields.unknown());
    Ok(GenerateRequest { tools, template, response_format, format_field, ..GenerateRequest::new(input, params) })
}

/// `format`: `"json"`, or a schema.
fn format(fields: &mut Fields) -> Result<FormatField, ApiError> {
    let value = fields.take("format").unwrap_or_default();
    let field = Field::new("format", &value);
    let format = match &value {
        Value::Null => ResponseFormat::Text,
        Value::String(word) if word.is_empty() => ResponseFormat::Text,
        Value::String(word) if word == "json" => ResponseFormat::Object,
        Value::Object(_) => ResponseFormat::Schema { schema: schema(&field)?, strict: false },
        _ => return Err(field.wrong("\"json\" or a JSON schema")),
    };
    Ok((format, field.path))
}

/// `options`: sampling parameters and limits.
fn options(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<Params, ApiError> {
    const PENALTY: (&str, &str) = ("repeat_penalty", "repetition_penalty");
    let mut map = fields.object("options", "an object such as {\"temperature\": 0.7}")?.unwrap_or_default();
    if let Some(value) = map.shift_remove(PENALTY.0) {
        map.insert(PENALTY.1.to_string(), value);
    }
    // Ollama's word for a random one.
    if map.get("seed").and_then(whole) == Some(-1) {
        map.shift_remove("seed");
    }
    let limit = map.shift_remove("num_predict").unwrap_or_default();
    let tokens_max = match whole(&limit) {
        None if limit.is_null() => None,
        Some(n @ 1..) => Some(usize::try_from(n).unwrap_or(usize::MAX)),
        Some(-2..=0) => None,
        _ => return Err(wrong("options.num_predict", &limit, "a whole number from 1 on, or -1 = no limit")),
    };
    let mut inner = Fields::of(map);
    let named = |error: ApiError| match &error.param {
        None => error,
        Some(param) => {
            let ours = format!("options.{}", param.replace(PENALTY.1, PENALTY.0));
            let message = error.message.replacen(param.as_str(), &ours, 1);
            ApiError { param: Some(ours), message, ..error }
        }
    };
    let params = params(&mut inner, model, "stop").map_err(named)?;
    inner.about(&["num_ctx"]);
    let unknown = inner.unknown().into_iter().map(|name| format!("options.{name}")).collect();
    Ok(Params { tokens_max, unknown, ..params })
}

fn nanoseconds(time: Duration) -> Value {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into()
}

/// Writes answers of `/api/chat` and `/api/generate`.
pub(crate) struct OllamaWriter {
    form: Form,
    model: String,
    begun: Instant,
    loaded: Duration,
    log_probabilities: bool,
    /// Calls so far: they are written whole.
    output: ChoiceOutput,
}

impl OllamaWriter {
    /// `times`: when the request began, and how long its model took to be there.
    pub fn new(
        form: Form,
        model: String,
        log_probabilities: bool,
        (begun, loaded): (Instant, Duration),
    ) -> OllamaWriter {
        OllamaWriter { form, model, begun, loaded, log_probabilities, output: ChoiceOutput::default() }
    }

    fn scored<'s>(&self, mut part: Value, scored: impl Iterator<Item = &'s TokenLogprob>) -> Value {
        if self.log_probabilities {
            part["logprobs"] = scores(scored).into();
        }
        part
    }

    /// Makes a part the last one.
    fn finish(&self, part: &mut Value, end: Option<&ChoiceEnd>, usage: &Usage) {
        let cut = end.is_some_and(|end| matches!(end.finish, FinishReason::Length | FinishReason::Resource));
        let (read, made) = end.map_or_else(Default::default, |end| (end.timing.prefill, end.timing.decode));
        part["done"] = true.into();
        part["done_reason"] = if cut { "length" } else { "stop" }.into();
        part["total_duration"] = nanoseconds(self.begun.elapsed());
        part["load_duration"] = nanoseconds(self.loaded);
        part["prompt_eval_count"] = usage.prompt.into();
        part["prompt_eval_duration"] = nanoseconds(read);
        part["eval_count"] = usage.completion.into();
        part["eval_duration"] = nanoseconds(made);
    }
}

impl ResponseWriter for OllamaWriter {
    fn lines(&self) -> bool {
        true
    }

    fn event(&mut self, _choice: usize, output: &OutputEvent) -> Vec<Event> {
        let part = match output {
            OutputEvent::Text { text, scored } => {
                self.scored(self.form.part(&self.model, text, "", &[]), scored.iter())
            }
            OutputEvent::Reasoning { text, scored } => {
                self.scored(self.form.part(&self.model, "", text, &[]), scored.iter())
            }
            OutputEvent::Call { .. } | OutputEvent::Arguments { .. } => {
                self.output.add(output.clone());
                return Vec::new();
            }
            OutputEvent::End(_) => {
                self.output.add(output.clone());
                let calls = std::mem::take(&mut self.output.calls);
                if calls.is_empty() {
                    return Vec::new();
                }
                self.form.part(&self.model, "", "", &calls)
            }
            OutputEvent::Started { .. } | OutputEvent::Read { .. } | OutputEvent::Failed(_) => return Vec::new(),
        };
        vec![event(&part)]
    }

    fn closing(&mut self, usage: &Usage) -> Vec<Event> {
        let mut last = self.form.part(&self.model, "", "", &[]);
        self.finish(&mut last, self.output.end.as_ref(), usage);
        vec![event(&last)]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        vec![event(&error.json(Dialect::Ollama, None))]
    }

    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value {
        let none = ChoiceOutput::default();
        let one = choices.first().unwrap_or(&none);
        let whole = self.form.part(&self.model, &one.text, &one.reasoning, &one.calls);
        let mut whole = self.scored(whole, one.reasoning_scored.iter().chain(&one.scored));
        self.finish(&mut whole, one.end.as_ref(), usage);
        whole
    }
}
