//! A model as it is served, with what is made of it once: the format of its replies, and the tables that constraints need.

use std::ops::Deref;
use std::sync::OnceLock;

use axum::http::StatusCode;
use text::grammar::{Constraint, GrammarError, Grammars, Matcher, Trial};
use text::reply::Format;

use crate::ask::Ask;
use crate::problem::Problem;
use crate::turns::Turn;
use crate::{NotTried, Served};

/// A model that is served.
pub struct Loaded {
    served: Served,
    /// How it writes reasoning and calls.
    pub format: Format,
    /// Made when the first request needs it: it takes a while.
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Deref for Loaded {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Loaded {
    /// What follows from a model.
    pub fn new(served: Served) -> Loaded {
        let format = Format::of_template(served.template.source());
        Loaded { served, format, grammars: OnceLock::new() }
    }

    /// What is allowed, token by token, after `marker` where there is one.
    ///
    /// # Errors
    /// A constraint that cannot be kept, in the words of the grammar, with the field of what was asked that holds it.
    pub fn matcher(
        &self,
        wanted: Constraint,
        marker: Option<&str>,
        ask: &Ask,
        turn: &Turn,
    ) -> Result<Matcher, Problem> {
        let make = || Grammars::new(&self.tokenizer, &self.stops, self.engine.vocab()).map_err(|e| e.to_string());
        let grammars = self.grammars.get_or_init(make).as_ref();
        let grammars =
            grammars.map_err(|e| Problem::bad("unsupported_value", format!("this model takes no constraint: {e}")))?;
        let whole = match wanted {
            Constraint::Calls { .. } => ask.tools.field().to_string(),
            _ => ask.shape_field.clone(),
        };
        let bad = |field: String, why: String| {
            let problem = Problem::bad("invalid_schema", format!("{field}: {why}"));
            Problem { param: Some(field), ..problem }
        };
        let refused = |error: GrammarError| {
            let (field, error) = place(error, ask, &whole);
            match error {
                GrammarError::Fault(_) => Problem::fault(error.to_string()),
                _ => bad(field, error.to_string()),
            }
        };
        let trial = Trial { outline: grammars.outline(), marker: marker.map(str::to_string), constraint: wanted };
        if !trial.constraint.is_small() {
            let tried = turn.compiling(|| self.trials.attempt(&trial, &|| turn.left()));
            match tried.unwrap_or_else(|why| Err(NotTried { why, by_request: false })) {
                Ok(outcome) => outcome.map_err(refused)?,
                Err(NotTried { why, by_request: true }) => {
                    return Err(bad(whole, format!("compiling it takes too much: {why}; make it smaller")));
                }
                Err(NotTried { why, .. }) => {
                    let message = format!("{whole} was not compiled: {why}");
                    return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "constraint_not_compiled", message));
                }
            }
        }
        // Nothing stops this, and nothing has to: it is the same work by the same count of steps that just ended in time there, but for
        // the first mask, whose steps are bounded too.
        grammars.compile_after(marker, &trial.constraint).map_err(refused)
    }
}

/// The field that an error is about, and the error there. Where it is not about a part, that is `whole`.
fn place(error: GrammarError, ask: &Ask, whole: &str) -> (String, GrammarError) {
    match error {
        // Calls come first.
        GrammarError::Part { first: true, error } => place(*error, ask, ask.tools.field()),
        GrammarError::Part { first: false, error } => place(*error, ask, &ask.shape_field),
        GrammarError::Tool { name, error } => {
            let tool = ask.tools.list.iter().find(|tool| tool.name == name);
            (tool.map_or(whole, |tool| &tool.field).to_string(), *error)
        }
        other => (whole.to_string(), other),
    }
}

/// A matcher, as the engine asks it.
pub struct Obeys(pub Matcher);

impl engine::Constraint for Obeys {
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
