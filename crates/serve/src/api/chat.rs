//! `/v1/chat/completions`: the dialect of OpenAI's and DeepSeek's clients.

use serde_json::{Value, json};
use text::chat::{Message, Role, ToolCall};

use crate::api::fields::{Field, Fields, ModelDefaults, TextForm, empty, unsupported, wrong};
use crate::api::params::{CHOICES_MAX, TOP_MAX, params, thinking_max, tokens, variables};
use crate::api::response::{Event, ResponseInfo, ResponseWriter, event, openai_closing, scores};
use crate::api::{response_format, tools};
use crate::error::ApiError;
use crate::generation::events::{ChoiceOutput, FinishReason, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::request::{GenerateRequest, RequestInput};

/// Most messages of a conversation.
pub const MESSAGES_MAX: usize = 1 << 14;

/// Parses a body of `/v1/chat/completions`.
///
/// # Errors
/// The first invalid field.
pub fn parse(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<GenerateRequest, ApiError> {
    let (messages, prefixed) = conversation(fields)?;
    let mut params = params(fields, model, "stop")?;
    let (old, new) = (tokens(fields, "max_tokens", 1)?, tokens(fields, "max_completion_tokens", 1)?);
    params.tokens_max = new.or(old);
    params.log_probabilities = log_probabilities(fields)?;
    params.choices = fields.count("n", 1, CHOICES_MAX)?.unwrap_or(1) as usize;
    params.best_of = params.choices;
    let tools = tools::openai(fields)?;
    let (response_format, format_field) = response_format::parse(fields)?;
    let later = "leave it out";
    fields.unused("modalities", |v| *v == json!(["text"]), "text is all there is")?;
    fields.unused("audio", |_| false, later)?;
    fields.unused("web_search_options", |_| false, later)?;
    let limit = if new.is_some() { "max_completion_tokens" } else { "max_tokens" };
    params.thinking_max = thinking_max(fields, params.tokens_max, limit)?;
    let template = variables(fields)?;
    let continues = continued(fields, &messages, prefixed)?;
    fields.about(&[
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "verbosity",
        "prediction",
    ]);
    params.unknown = fields.unknown();
    params.ignored = fields.ignored();
    let input = RequestInput::Conversation { messages, continues };
    Ok(GenerateRequest { tools, template, response_format, format_field, ..GenerateRequest::new(input, params) })
}

/// `logprobs` and `top_logprobs`: how many alternatives to each token are wanted.
pub fn log_probabilities(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let on = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs", 0, TOP_MAX)?;
    if let Some(top) = top.filter(|_| !on) {
        return Err(wrong("top_logprobs", &Value::from(top), "absent unless logprobs is true"));
    }
    Ok(on.then(|| top.unwrap_or(0) as usize))
}

/// Whether the answer continues the last message: by DeepSeek's `prefix` or by vLLM's pair of flags.
fn continued(fields: &mut Fields, messages: &[Message], prefixed: bool) -> Result<bool, ApiError> {
    let continues = fields.flag("continue_final_message")?.unwrap_or(false);
    let generation = fields.flag("add_generation_prompt")?;
    let assistant = messages.last().is_some_and(|m| m.role == Role::Assistant);
    if continues && !assistant {
        return Err(wrong("continue_final_message", &true.into(), "false unless the last message is the assistant's"));
    }
    if continues && generation == Some(true) {
        return Err(wrong("add_generation_prompt", &true.into(), "false with continue_final_message"));
    }
    if generation == Some(false) && !continues && !prefixed {
        let instead = "an answer begins with it; to go on with the last message send continue_final_message";
        return Err(unsupported("add_generation_prompt", &false.into(), instead));
    }
    Ok(continues || prefixed)
}

/// The field `messages`.
pub fn message_list(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MESSAGES_MAX => Ok(list),
        other => {
            let allowed = format!("an array of 1 to {MESSAGES_MAX} messages");
            Err(wrong("messages", &other.unwrap_or(Value::Null), &allowed))
        }
    }
}

/// Messages, and whether the last one has `prefix`.
pub fn conversation(fields: &mut Fields) -> Result<(Vec<Message>, bool), ApiError> {
    let list = message_list(fields)?;
    let last = list.len() - 1;
    let list = Value::Array(list);
    let mut prefixed = false;
    let mut messages = Vec::with_capacity(last + 1);
    for (i, message) in Field::new("messages", &list).items().enumerate() {
        let prefix = message.get("prefix");
        if !prefix.value.is_null() && *prefix.value != false {
            if *prefix.value != true || i != last || message.value["role"] != "assistant" {
                return Err(prefix.wrong("true, in a last message of the assistant"));
            }
            prefixed = true;
        }
        messages.push(one_message(&message)?);
    }
    Ok((messages, prefixed))
}

const CONTENT: TextForm = TextForm {
    allowed: "a string, or an array of {\"type\": \"text\", \"text\": ...}",
    parts: &[("text", "text"), ("refusal", "refusal")],
    instead: "only parts of type \"text\" are read",
};

pub(super) fn one_message(message: &Field) -> Result<Message, ApiError> {
    if !message.value.is_object() {
        return Err(message.wrong("an object with role and content"));
    }
    let role = match message.get("role").value.as_str() {
        // OpenAI's newer name of `system`, and the deprecated name of `tool`.
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => return Err(message.get("role").wrong("system, developer, user, assistant or tool")),
    };
    let assistant = role == Role::Assistant;
    // Fields of assistant messages are validated in others too, then dropped.
    let (calls, call) = (message.get("tool_calls"), message.get("function_call"));
    let mut tool_calls = Vec::new();
    if !calls.value.is_null() && *calls.value != json!([]) {
        tool_calls = tools::calls(&calls)?;
    } else if !call.value.is_null() && !empty(call.value) {
        tool_calls = tools::calls(&Field::new(call.path, &json!([{ "function": call.value }])))?;
    }
    let mut reasoning_content = None;
    for key in ["reasoning_content", "reasoning"] {
        if let Some(text) = message.get(key).text()? {
            reasoning_content = reasoning_content.or(Some(text)).filter(|s| assistant && !s.is_empty());
        }
    }
    let reasoning_content = reasoning_content.map(str::to_string);
    let refusal = message.get("refusal").value.as_str().filter(|_| assistant);
    let name = message.get("name").text()?.map(str::to_string);
    let tool_call_id = message.get("tool_call_id").text()?.map(str::to_string);
    if !assistant {
        tool_calls.clear();
    }
    let absent = assistant && (!tool_calls.is_empty() || reasoning_content.is_some() || refusal.is_some());
    let content = message.get("content");
    let text = match content.value {
        Value::Null if absent => refusal.unwrap_or_default().to_string(),
        _ if role == Role::Tool => CONTENT.result(&content)?,
        _ => CONTENT.text(&content)?,
    };
    Ok(Message { role, content: Some(text), name, tool_call_id, tool_calls, reasoning_content })
}

pub(crate) struct ChatWriter {
    pub head: ResponseInfo,
    pub log_probabilities: bool,
    pub include_usage: bool,
    /// Calls are written as `function_call`.
    pub older: bool,
}

fn logprobs(content: &[TokenLogprob], reasoning: &[TokenLogprob]) -> Value {
    let mut all = json!({"content": scores(content), "refusal": null});
    if !reasoning.is_empty() {
        all["reasoning_content"] = scores(reasoning).into();
    }
    all
}

impl ChatWriter {
    fn chunk(&self, choices: Vec<Value>) -> Value {
        self.head.json("chat.completion.chunk", choices)
    }

    fn delta(&self, choice: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> Vec<Event> {
        let choice = json!({"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        vec![event(&self.chunk(vec![choice]))]
    }

    fn finish(&self, finish: FinishReason) -> &'static str {
        if self.older && finish == FinishReason::Calls { "function_call" } else { finish.word() }
    }

    fn message(&self, whole: &ChoiceOutput) -> Value {
        let content =
            if whole.text.is_empty() && !whole.calls.is_empty() { Value::Null } else { whole.text.as_str().into() };
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !whole.reasoning.is_empty() {
            message["reasoning_content"] = whole.reasoning.as_str().into();
        }
        let function = |c: &ToolCall| json!({"name": c.name, "arguments": c.arguments});
        match whole.calls.first() {
            None => {}
            Some(call) if self.older => message["function_call"] = function(call),
            Some(_) => {
                let call = |c: &ToolCall| json!({"id": c.id, "type": "function", "function": function(c)});
                message["tool_calls"] = whole.calls.iter().map(call).collect();
            }
        }
        message
    }
}

impl ResponseWriter for ChatWriter {
    fn event(&mut self, choice: usize, output: &OutputEvent) -> Vec<Event> {
        let scored = |content: &[TokenLogprob], reasoning: &[TokenLogprob]| {
            let none = !self.log_probabilities || (content.is_empty() && reasoning.is_empty());
            if none { Value::Null } else { logprobs(content, reasoning) }
        };
        match output {
            OutputEvent::Started { .. } => {
                let delta = json!({"role": "assistant", "content": "", "refusal": null});
                self.delta(choice, delta, Value::Null, None)
            }
            OutputEvent::Text { text, scored: s } => {
                self.delta(choice, json!({ "content": text }), scored(s, &[]), None)
            }
            OutputEvent::Reasoning { text, scored: s } => {
                self.delta(choice, json!({ "reasoning_content": text }), scored(&[], s), None)
            }
            OutputEvent::Call { name, .. } if self.older => {
                self.delta(choice, json!({"function_call": {"name": name, "arguments": ""}}), Value::Null, None)
            }
            OutputEvent::Call { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                self.delta(choice, json!({ "tool_calls": [call] }), Value::Null, None)
            }
            OutputEvent::Arguments { text, .. } if self.older => {
                self.delta(choice, json!({"function_call": {"arguments": text}}), Value::Null, None)
            }
            OutputEvent::Arguments { index, text } => {
                let call = json!({"index": index, "function": {"arguments": text}});
                self.delta(choice, json!({ "tool_calls": [call] }), Value::Null, None)
            }
            OutputEvent::End(end) => self.delta(choice, json!({}), Value::Null, Some(self.finish(end.finish))),
            OutputEvent::Read { .. } | OutputEvent::Failed(_) => Vec::new(),
        }
    }

    fn closing(&mut self, usage: &Usage) -> Vec<Event> {
        openai_closing(self.include_usage.then(|| self.chunk(Vec::new())), usage)
    }

    fn whole(&mut self, choices: &[ChoiceOutput], usage: &Usage) -> Value {
        let choice = |(index, w): (usize, &ChoiceOutput)| {
            let scores = if self.log_probabilities { logprobs(&w.scored, &w.reasoning_scored) } else { Value::Null };
            let finish = self.finish(w.finish());
            json!({"index": index, "message": self.message(w), "logprobs": scores, "finish_reason": finish})
        };
        let mut whole = self.head.json("chat.completion", choices.iter().enumerate().map(choice).collect());
        whole["usage"] = usage.json();
        whole
    }
}
