//! A served model with what is derived from it once: its reply format and the tables of its grammars.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use engine::{Engine, Sampling};
use serde_json::Value;
use text::chat::{Context, Template};
use text::grammar::{Constraint, GrammarError, Grammars, Matcher, Trial};
use text::reply::Format;
use text::{TextError, Tokenizer};

use crate::error::ApiError;
use crate::http::work_slots::WorkSlot;
use crate::request::GenerateRequest;

/// A chat template that renders, wherever it does so.
pub trait Render: Send + Sync {
    /// The prompt of these messages. Where rendering can be stopped it is, once `left` says that nobody waits for it.
    ///
    /// # Errors
    /// What the template refuses.
    fn render(&self, messages: &[Value], context: &Context, left: &dyn Fn() -> bool) -> Result<String, TextError>;

    /// The template itself.
    fn source(&self) -> &str;
}

impl Render for Template {
    fn render(&self, messages: &[Value], context: &Context, _left: &dyn Fn() -> bool) -> Result<String, TextError> {
        Template::render(self, messages, context)
    }

    fn source(&self) -> &str {
        Template::source(self)
    }
}

/// Where constraints are compiled for the first time, with bounds on time and memory.
pub trait TryConstraint: Send + Sync {
    /// What compiling it says. It is stopped when it passes its bounds, and once `left` says that nobody waits for it.
    ///
    /// # Errors
    /// It could not be tried to the end.
    fn attempt(&self, trial: &Trial, left: &dyn Fn() -> bool) -> Result<Result<(), GrammarError>, NotTried>;
}

/// Why a constraint was not compiled to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTried {
    /// In words.
    pub why: String,
    /// The constraint is to blame, not the machine.
    pub by_request: bool,
}

/// A model as it is served.
pub struct ModelParts {
    /// Its id in the API.
    pub name: String,
    /// The engine and its queue.
    pub engine: Engine,
    /// Text to ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Messages to a prompt.
    pub template: Box<dyn Render>,
    /// Spelling of the token that starts a text.
    pub bos: String,
    /// Spelling of the token that ends one.
    pub eos: String,
    /// How tokens are chosen where a request does not say.
    pub defaults: Sampling,
    /// Ids that end a text.
    pub stops: Vec<u32>,
    /// Where its constraints are tried before they are compiled here.
    pub trials: Arc<dyn TryConstraint>,
}

/// A model that is served.
pub struct ServedModel {
    served: ModelParts,
    /// How it writes reasoning and calls.
    pub format: Format,
    /// Made when the first request needs it: it takes a while.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Deref for ServedModel {
    type Target = ModelParts;

    fn deref(&self) -> &ModelParts {
        &self.served
    }
}

impl ServedModel {
    /// What follows from a model.
    pub fn new(served: ModelParts) -> ServedModel {
        let format = Format::of_template(served.template.source());
        ServedModel { served, format, grammars: OnceLock::new() }
    }

    /// What is allowed, token by token, after `marker` where there is one.
    ///
    /// # Errors
    /// A constraint that cannot be kept, in the words of the grammar, with the field of what was asked that holds it.
    pub fn matcher(
        &self,
        wanted: Constraint,
        marker: Option<&str>,
        request: &GenerateRequest,
        slot: &WorkSlot,
    ) -> Result<Matcher, ApiError> {
        let make = || Grammars::new(&self.tokenizer, &self.stops, self.engine.vocab()).map_err(|e| e.to_string());
        let grammars = self.grammars.get_or_init(make).as_ref();
        let grammars =
            grammars.map_err(|e| ApiError::bad("unsupported_value", format!("this model takes no constraint: {e}")))?;
        let whole = match wanted {
            Constraint::Calls { .. } => request.tools.field().to_string(),
            _ => request.format_field.clone(),
        };
        let bad = |field: String, why: String| {
            let error = ApiError::bad("invalid_schema", format!("{field}: {why}"));
            ApiError { param: Some(field), ..error }
        };
        let refused = |error: GrammarError| {
            let (field, error) = blamed_field(error, request, &whole);
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
        // Nothing stops this, and nothing has to: it is the same work by the same count of steps that just ended in time there, but for
        // the first mask, whose steps are bounded too.
        grammars.compile_after(marker, &trial.constraint).map_err(refused)
    }
}

/// The field that an error is about, and the error there. Where it is not about a part, that is `whole`.
fn blamed_field(error: GrammarError, request: &GenerateRequest, whole: &str) -> (String, GrammarError) {
    match error {
        // Calls come first.
        GrammarError::Part { first: true, error } => blamed_field(*error, request, request.tools.field()),
        GrammarError::Part { first: false, error } => blamed_field(*error, request, &request.format_field),
        GrammarError::Tool { name, error } => {
            let tool = request.tools.list.iter().find(|tool| tool.name == name);
            (tool.map_or(whole, |tool| &tool.field).to_string(), *error)
        }
        other => (whole.to_string(), other),
    }
}

/// A matcher, as the engine asks it.
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
