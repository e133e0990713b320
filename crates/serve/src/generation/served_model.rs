//! A served model with what is derived from it once: its reply format and the tables of its grammars.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use engine::{Engine, Purpose, Sampling};
use serde_json::{Map, Value, json};
use text::Tokenizer;
use text::chat::{Context, Message, Render};
use text::grammar::{Constraint, GrammarError, Grammars, Matcher, Trial};
use text::reply::{Format, fit_history};

use crate::error::ApiError;
use crate::http::work_slots::WorkSlot;
use crate::request::Tools;

/// Trial compilation of constraints with limits on time and memory.
pub trait TryConstraint: Send + Sync {
    /// The outcome of compiling a constraint. Stopped at its limits, and once `left` returns true.
    ///
    /// # Errors
    /// The compilation did not end.
    fn attempt(&self, trial: &Trial, left: &dyn Fn() -> bool) -> Result<Result<(), GrammarError>, NotTried>;
}

/// Why a trial compilation did not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTried {
    /// The reason, for the error message.
    pub why: String,
    /// The constraint is to blame, not the machine.
    pub by_request: bool,
}

/// What a served model is made of.
pub struct ModelParts {
    /// Model id in the API.
    pub name: String,
    /// The engine that runs it.
    pub engine: Engine,
    /// What the model is for.
    pub purpose: Purpose,
    /// Numbers of a hidden state, and so of an embedding.
    pub width: usize,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template.
    pub template: Box<dyn Render>,
    /// The chat template for conversations with tools, if the model has another one for them.
    pub tool_template: Option<Box<dyn Render>>,
    /// Text of the beginning-of-text token.
    pub bos: String,
    /// Text of the end-of-text token.
    pub eos: String,
    /// Default sampling parameters.
    pub defaults: Sampling,
    /// End-of-text ids.
    pub stops: Vec<u32>,
    /// Where large constraints are compiled before this process compiles them.
    pub trials: Arc<dyn TryConstraint>,
}

/// A model that is served.
pub struct ServedModel {
    served: ModelParts,
    /// Format of its reasoning and tool calls.
    pub format: Format,
    /// Whether the chat template tells the model of tools.
    takes_tools: bool,
    /// The same two of the template for conversations with tools.
    with_tools: Option<(Format, bool)>,
    /// Tables for grammars, slow to build: built by the first request that needs them.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Deref for ServedModel {
    type Target = ModelParts;

    fn deref(&self) -> &ModelParts {
        &self.served
    }
}

impl ServedModel {
    /// Derives the reply format from the chat template.
    pub fn new(served: ModelParts) -> ServedModel {
        let about = |template: &dyn Render| {
            let probe = Probe { template, bos: &served.bos, eos: &served.eos };
            let format = Format::of_template(template.source());
            let format = fit_history(format, |messages| probe.render(messages, None));
            (format, format.calls() && probe.takes_tools())
        };
        let (format, takes_tools) = about(&*served.template);
        let with_tools = served.tool_template.as_deref().map(about);
        ServedModel { served, format, takes_tools, with_tools, grammars: OnceLock::new() }
    }

    /// The template of a conversation, by whether there are tools in it.
    pub fn chat_template(&self, tools: bool) -> ChatTemplate<'_> {
        match (&self.served.tool_template, self.with_tools) {
            (Some(render), Some((format, takes_tools))) if tools => {
                ChatTemplate { render: &**render, format, takes_tools }
            }
            _ => ChatTemplate { render: &*self.served.template, format: self.format, takes_tools: self.takes_tools },
        }
    }

    /// Compiles a constraint that applies after `marker`, or from the start.
    ///
    /// # Errors
    /// A constraint that cannot be enforced, with the field that gave it.
    pub fn matcher(
        &self,
        wanted: Constraint,
        marker: Option<&str>,
        fields: ConstraintFields<'_>,
        slot: &WorkSlot,
    ) -> Result<Matcher, ApiError> {
        let make = || Grammars::new(&self.tokenizer, &self.stops, self.engine.vocab()).map_err(|e| e.to_string());
        let grammars = self.grammars.get_or_init(make).as_ref();
        let grammars =
            grammars.map_err(|e| ApiError::bad("unsupported_value", format!("this model takes no constraint: {e}")))?;
        let whole = match wanted {
            Constraint::Calls { .. } => fields.tools.field(),
            _ => fields.format,
        };
        let bad = |field: &str, why: String| ApiError::bad("invalid_schema", format!("{field}: {why}")).of(field);
        let refused = |error: GrammarError| {
            let (field, error) = blamed_field(error, fields, whole);
            match error {
                GrammarError::Fault(_) => ApiError::fault(error.to_string()),
                _ => bad(field, error.to_string()),
            }
        };
        let trial = Trial { outline: grammars.outline(), marker: marker.map(str::to_string), constraint: wanted };
        if !trial.constraint.is_small() {
            let tried = slot.compile(|| self.trials.attempt(&trial, &|| slot.cancelled()));
            match tried.unwrap_or_else(|why| Err(NotTried { why, by_request: false })) {
                Ok(outcome) => outcome.map_err(refused)?,
                Err(NotTried { why, by_request: true }) => {
                    return Err(bad(whole, format!("compiling it takes too much: {why}; make it smaller")));
                }
                Err(NotTried { why, .. }) => {
                    let message = format!("{whole} was not compiled: {why}");
                    return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "constraint_not_compiled", message));
                }
            }
        }
        // Not stoppable, and it need not be: the same work, by the same count of steps, has just ended in time in the trial, except for
        // the first mask, whose steps are limited too.
        grammars.compile_after(marker, &trial.constraint).map_err(refused)
    }
}

/// A chat template with what it is known to do.
#[derive(Clone, Copy)]
pub struct ChatTemplate<'a> {
    pub render: &'a dyn Render,
    /// Format of reasoning and tool calls.
    pub format: Format,
    /// It tells the model of tools.
    pub takes_tools: bool,
}

/// Renders of a chat template that show what it does.
struct Probe<'a> {
    template: &'a dyn Render,
    bos: &'a str,
    eos: &'a str,
}

impl Probe<'_> {
    fn render(&self, messages: &[Value], tools: Option<Value>) -> Option<String> {
        let (bos_token, eos_token) = (self.bos.to_string(), self.eos.to_string());
        let context = Context { add_generation_prompt: true, bos_token, eos_token, tools, extra: Map::new() };
        self.template.render(messages, &context, &|| false).ok()
    }

    /// Whether the template looks at `tools`: a prompt with one differs from a prompt with none. Some templates write calls and results, and
    /// never say what can be called (DeepSeek V3.1's).
    fn takes_tools(&self) -> bool {
        let messages = [Message::user("hello").into_json(false)];
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "description": "City"}}});
        let function = json!({"name": "probe", "description": "Nothing.", "parameters": parameters});
        let tools = json!([{"type": "function", "function": function}]);
        match (self.render(&messages, None), self.render(&messages, Some(tools))) {
            (Some(without), Some(with)) => without != with,
            // It does look, and takes another form of them, or another conversation.
            _ => self.template.source().contains("tools"),
        }
    }
}

/// Fields of a request that give constraints, for errors.
#[derive(Clone, Copy)]
pub struct ConstraintFields<'a> {
    pub tools: &'a Tools,
    /// Path of the field that gave the response format.
    pub format: &'a str,
}

/// The field that an error is about, `whole` unless the error names a part, and the error itself.
fn blamed_field<'a>(error: GrammarError, fields: ConstraintFields<'a>, whole: &'a str) -> (&'a str, GrammarError) {
    match error {
        // Calls come first.
        GrammarError::Part { first: true, error } => blamed_field(*error, fields, fields.tools.field()),
        GrammarError::Part { first: false, error } => blamed_field(*error, fields, fields.format),
        GrammarError::Tool { name, error } => {
            let tool = fields.tools.list.iter().find(|tool| tool.name == name);
            (tool.map_or(whole, |tool| &tool.field), *error)
        }
        other => (whole, other),
    }
}

/// Adapts a grammar matcher to `engine::Constraint`.
pub struct GrammarConstraint(pub Matcher);

impl engine::Constraint for GrammarConstraint {
    fn allowed(&mut self) -> Result<&[u32], String> {
        self.0.allowed().map_err(|e| e.to_string())
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.0.accept(id).map_err(|e| e.to_string())
    }

    fn is_done(&self) -> bool {
        self.0.is_done()
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        Box::new(self.0.stopper())
    }
}
