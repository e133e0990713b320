//! A request prepared for the engine: rendered and tokenized prompts, constraints, and how the output is decoded.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use engine::{Constraint, EngineError, Request};
use serde_json::{Map, Value};
use text::TextError;
use text::chat::Context;
use text::grammar::Matcher;
use text::reply::{Format, Options, Parser};
use text::tokenizer::Within;
use tokio::sync::mpsc::UnboundedSender;

use crate::api::validate::Invalid;
use crate::error::ApiError;
use crate::generation::fim;
use crate::generation::output::{Echo, OutputDecoder, OutputOptions, TaggedEvent};
use crate::generation::reasoning_budget::ReasoningBudget;
use crate::generation::served_model::{GrammarConstraint, ServedModel};
use crate::generation::tool_prompt::ToolPrompt;
use crate::http::work_slots::WorkSlot;
use crate::request::{GenerateRequest, Input, Params, Prompt};

/// What a connection adds to a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestContext {
    /// Who asks.
    pub account: u64,
    /// Whose cache it is.
    pub salt: [u8; 32],
    /// Longest wait for the first step.
    pub wait_max: Option<Duration>,
    /// Longest time in all, and whether it was the client who said so.
    pub time_max: Option<Duration>,
    pub time_asked: bool,
}

/// A prompt as the engine takes it.
struct TokenizedPrompt {
    ids: Vec<u32>,
    /// Its text, where it is to be given back.
    echo: Option<String>,
}

/// Everything that is known of a request's choices before they are computed. Choices are numbered: those of the first prompt, then
/// those of the second.
pub struct PreparedRequest {
    served: Arc<ServedModel>,
    prompts: Vec<TokenizedPrompt>,
    pub params: Params,
    ctx: RequestContext,
    salt: [u8; 32],
    trim: bool,
    /// How replies are parsed, where they are more than text.
    reply: Option<(Format, Options)>,
    /// What the text must obey, at its start.
    matcher: Option<Matcher>,
    /// What closes reasoning at the end of its budget.
    closing: Vec<u32>,
}

impl PreparedRequest {
    /// Bytes of a request are a `GenerateRequest` already; here it becomes tokens. May take a while: not for the threads that wait for the network.
    ///
    /// # Errors
    /// What the template, the tokenizer or the engine would refuse.
    pub fn new(
        served: &Arc<ServedModel>,
        request: GenerateRequest,
        ctx: RequestContext,
        slot: &WorkSlot,
    ) -> Result<PreparedRequest, ApiError> {
        let left = || slot.cancelled();
        let within = Within { tokens_max: served.engine.limits().context, left: &left };
        let tool_prompt = ToolPrompt::new(served.format, &request.tools);
        let constraint = tool_prompt.constraint(&request.tools, &request.response_format)?;
        let (prompts, trim, reply) = match &request.input {
            Input::Conversation { messages, continues } => {
                let (text, trim) = render_conversation(served, &request, messages, *continues, slot)?;
                let format = tool_prompt.format;
                let options = Options { reasoning_opened: served.format.opened_by(&text), tools: tool_prompt.enabled };
                let reply = (format.reasons() || tool_prompt.enabled).then_some((format, options));
                (
                    vec![TokenizedPrompt { ids: served.tokenizer.encode_prompt_within(&text, within)?, echo: None }],
                    trim,
                    reply,
                )
            }
            Input::Prompts { prompts, suffix, echo } => {
                let ready = |p: &Prompt| text(served, p, suffix.as_deref(), *echo, within);
                (prompts.iter().map(ready).collect::<Result<Vec<_>, _>>()?, false, None)
            }
        };
        // A reply that begins with reasoning obeys behind it.
        let thinks = reply.is_some_and(|(_, options)| options.reasoning_opened);
        if slot.cancelled() {
            return Err(TextError::Left.into());
        }
        let matcher = constraint
            .map(|constraint| served.matcher(constraint, thinks.then_some("</think>"), &request, slot))
            .transpose()?;
        let context = served.engine.limits().context;
        for prompt in &prompts {
            let tokens = prompt.ids.len();
            if tokens == 0 {
                return Err(ApiError::from(&EngineError::Empty));
            }
            if tokens > context {
                return Err(ApiError::from(&EngineError::TooLong { tokens, over: tokens - context, context }));
            }
        }
        let closing = match (request.params.thinking_max, served.format.reasons()) {
            (Some(_), true) => {
                served.tokenizer.encode(&served.format.reasoning_end(served.template.source()), false)?
            }
            _ => Vec::new(),
        };
        let salt = user_salt(ctx.salt, request.params.user.as_deref());
        Ok(PreparedRequest {
            served: Arc::clone(served),
            prompts,
            params: request.params,
            ctx,
            salt,
            trim,
            reply,
            matcher,
            closing,
        })
    }

    /// What of a schema is not kept, a line each with its path.
    pub fn schema_warnings(&self) -> &[String] {
        self.matcher.as_ref().map(Matcher::warnings).unwrap_or_default()
    }

    /// Choices in all.
    pub fn choices(&self) -> usize {
        self.prompts.len() * self.params.best_of
    }

    /// Tokens of all prompts, each counted once.
    pub fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|p| p.ids.len()).sum()
    }

    /// What went wrong with a choice. A wait that the client itself cut short is no fault of the server.
    pub fn error(&self, cause: &EngineError) -> ApiError {
        let error = ApiError::from(cause);
        if self.ctx.time_asked && matches!(cause, EngineError::Waited { .. }) {
            let message = format!("{}; x-request-timeout bounds it", error.message);
            return ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message);
        }
        error
    }

    /// What a choice must obey: a grammar, a budget for its reasoning, or both.
    fn constraint(&self) -> Option<Box<dyn Constraint>> {
        let obeys = self.matcher.clone().map(|m| Box::new(GrammarConstraint(m)) as Box<dyn Constraint>);
        let budget = self.params.thinking_max.filter(|_| !self.closing.is_empty());
        let (Some(budget), Some((_, options))) = (budget, self.reply) else { return obeys };
        let (served, closing) = (&self.served, self.closing.clone());
        let (tokenizer, vocab) = (Arc::clone(&served.tokenizer), served.engine.vocab());
        Some(Box::new(ReasoningBudget::new(obeys, tokenizer, (budget, options.reasoning_opened), closing, vocab)))
    }

    /// One choice: what the engine does, and what is made of its events.
    pub fn choice(&self, choice: usize, parts: UnboundedSender<TaggedEvent>) -> (Request, OutputDecoder) {
        let (w, served) = (&self.params, &self.served);
        let prompt = &self.prompts[choice / w.best_of];
        let room = served.engine.limits().context.saturating_sub(prompt.ids.len());
        let tokens_max = w.tokens_max.unwrap_or(usize::MAX).min(room + 1);
        let mut sampling = w.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add((choice % w.best_of) as u64));
        let scores = w.log_probabilities.or((w.best_of > w.choices).then_some(0));
        let echo_scores = w.log_probabilities.filter(|_| prompt.echo.is_some());
        // Who asks for the scores of a prompt and one token more counts on that token's scores, whatever it is.
        let ends = if echo_scores.is_some() && tokens_max == 1 { served.stops.clone() } else { Vec::new() };
        let request = Request {
            prompt: prompt.ids.clone(),
            sampling,
            stops: if ends.is_empty() { served.stops.clone() } else { Vec::new() },
            tokens_max,
            log_probabilities: scores,
            prompt_log_probabilities: echo_scores,
            constraint: self.constraint(),
            account: self.ctx.account,
            salt: self.salt,
            priority: w.priority,
            wait_max: self.ctx.wait_max,
            time_max: self.ctx.time_max,
        };
        let echo = |text: &String| Echo { ids: prompt.ids.clone(), text: text.clone(), scored: echo_scores.is_some() };
        let options = OutputOptions {
            prompt: prompt.ids.len(),
            stops: w.stop.clone(),
            ends,
            trim: self.trim,
            parser: self.reply.map(|(format, options)| Parser::new(format, options)),
            markers: self.reply.map(|(format, options)| format.markers(options.tools)).unwrap_or_default(),
            echo: prompt.echo.as_ref().map(echo),
            bounded: !self.ctx.time_asked,
        };
        (request, OutputDecoder::new(Arc::clone(&served.tokenizer), options, choice, parts))
    }
}

/// The salt of an account, told apart by its users.
fn user_salt(account: [u8; 32], user: Option<&str>) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    match user {
        None => account,
        Some(user) => Sha256::new().chain_update("user").chain_update(account).chain_update(user).finalize().into(),
    }
}

/// Every text of a value, names of members too, so that no name of a special token in it is one.
fn escape(served: &ServedModel, value: &mut Value) {
    match value {
        Value::String(text) => *text = served.tokenizer.shield(text),
        Value::Array(items) => items.iter_mut().for_each(|v| escape(served, v)),
        Value::Object(map) => escape_members(served, map),
        _ => {}
    }
}

fn escape_members(served: &ServedModel, map: &mut Map<String, Value>) {
    let members = std::mem::take(map).into_iter();
    map.extend(members.map(|(name, mut value)| {
        escape(served, &mut value);
        (served.tokenizer.shield(&name), value)
    }));
}

/// The prompt of a conversation, and whether a space at the beginning of its answer is the template's.
pub fn render_conversation(
    served: &ServedModel,
    request: &GenerateRequest,
    messages: &[Value],
    continues: bool,
    slot: &WorkSlot,
) -> Result<(String, bool), ApiError> {
    let mut messages = messages.to_vec();
    let tool_prompt = ToolPrompt::new(served.format, &request.tools);
    tool_prompt.describe_tools(&request.tools, &mut messages);
    tool_prompt.rewrite_history(&mut messages);
    // Only now: what arguments say is known when they are parsed.
    messages.iter_mut().for_each(|m| escape(served, m));
    let mut tools = tool_prompt.template_tools(&request.tools);
    if let Some(tools) = &mut tools {
        escape(served, tools);
    }
    let mut variables = request.template.clone();
    escape_members(served, &mut variables);
    let context = |opens: bool| Context {
        add_generation_prompt: opens,
        bos_token: served.bos.clone(),
        eos_token: served.eos.clone(),
        tools: tools.clone(),
        extra: variables.clone(),
    };
    let render = |messages: &[Value], opens| {
        slot.released_while(|| served.template.render(messages, &context(opens), &|| slot.cancelled()))
    };
    let begun = messages.last().and_then(|m| m["content"].as_str()).unwrap_or_default().trim_end().to_string();
    if !continues {
        return Ok((render(&messages, true)?, true));
    }
    if begun.trim().is_empty() {
        // An answer that begins with nothing begins as every other.
        messages.pop();
        return Ok((render(&messages, true)?, true));
    }
    // Templates write what follows an answer: it is cut off where the answer's text ends.
    let whole = render(&messages, false)?;
    match whole.rfind(begun.trim()) {
        Some(at) => Ok((whole[..at + begun.trim().len()].to_string(), false)),
        None => {
            let message = "the model's template does not repeat the last message, so there is nothing to go on from";
            let invalid = Invalid { param: Some("messages".into()), message: message.into(), code: "prompt_refused" };
            Err(invalid.into())
        }
    }
}

/// A text or ids, as the engine takes them.
fn text(
    served: &ServedModel,
    prompt: &Prompt,
    suffix: Option<&str>,
    echo: bool,
    within: Within<'_>,
) -> Result<TokenizedPrompt, ApiError> {
    if (within.left)() {
        return Err(TextError::Left.into());
    }
    let ids = match (prompt, suffix) {
        (Prompt::Tokens(ids), _) => ids.clone(),
        (Prompt::Text(text), None) => served.tokenizer.encode_within(text, true, within)?,
        (Prompt::Text(text), Some(suffix)) => {
            fim::prompt(&served.tokenizer, text, suffix, within)?.ok_or_else(|| {
                let message = "suffix is given; this model has no tokens for filling a gap: leave it out";
                Invalid { param: Some("suffix".into()), message: message.into(), code: "unsupported_value" }
            })?
        }
    };
    let given = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => served.tokenizer.decode(ids, true),
    };
    Ok(TokenizedPrompt { echo: echo.then(|| given(prompt)), ids })
}
