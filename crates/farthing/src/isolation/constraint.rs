//! Constraints of requests, compiled first in a process of their own: only what is done there in time and memory is compiled in the server.

use std::time::Duration;

use serde_json::{Value, json};
use serve::{NotTried, TryConstraint};
use text::grammar::{GrammarError, Trial};

use super::process::{self, Pool, Stopped};

/// The first argument of such a process.
pub const COMMAND: &str = "try-constraint";
/// Time for one constraint.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Constraints that are tried at once.
const PROCESSES_MAX: usize = 4;

/// The process's side: constraints until its input ends.
pub fn work() -> std::io::Result<()> {
    for request in process::enter()? {
        let outcome = match serde_json::from_value::<Trial>(request) {
            Ok(trial) => trial.run(),
            Err(e) => Err(GrammarError::Fault(e.to_string())),
        };
        let error = outcome.err().map(|error| serde_json::to_value(&error)).transpose();
        let answer = error.unwrap_or_else(|e| Some(Value::String(e.to_string())));
        if process::answer(&json!({ "error": answer })).is_err() {
            break;
        }
    }
    Ok(())
}

/// Processes that try constraints, for all models of a server.
pub struct IsolatedTrials(Pool);

impl IsolatedTrials {
    /// None is started yet.
    pub fn new() -> IsolatedTrials {
        IsolatedTrials(Pool::new(COMMAND, None, PROCESSES_MAX, TIME_MAX))
    }
}

impl TryConstraint for IsolatedTrials {
    fn attempt(&self, trial: &Trial, left: &dyn Fn() -> bool) -> Result<Result<(), GrammarError>, NotTried> {
        let failed = |why: String| NotTried { why, by_request: false };
        let request = serde_json::to_value(trial).map_err(|e| failed(e.to_string()))?;
        match self.0.ask(request, left) {
            Ok(mut answer) => match answer["error"].take() {
                Value::Null => Ok(Ok(())),
                error => serde_json::from_value(error).map(Err).map_err(|e| failed(e.to_string())),
            },
            Err(stopped @ Stopped::Ended(_)) => Err(NotTried { why: stopped.to_string(), by_request: true }),
            Err(stopped) => Err(NotTried { by_request: stopped.by_request(), why: stopped.to_string() }),
        }
    }
}
