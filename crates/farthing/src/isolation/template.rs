//! Chat templates from elsewhere, rendered in a process of their own.
//!
//! A template is a program that came with a model. It cannot reach anything but its inputs, but it can compute without end and
//! build lists without bound. In its own process it has a bounded memory and a bounded time; when it passes them it is ended, and
//! the caller gets an error.

use std::time::Duration;

use serde_json::{Value, json};
use text::TextError;
use text::chat::{Context, Render, Template};

use super::process::{self, Pool};
use crate::error::Error;

/// The first argument of such a process.
pub const COMMAND: &str = "render-template";
/// Time for one render.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Renders of one model at once.
const PROCESSES_MAX: usize = 4;

/// The process's side: a template, then requests until its input ends.
pub fn work() -> std::io::Result<()> {
    let frames = process::enter()?;
    let Ok(source) = frames.recv() else { return Ok(()) };
    let template = Template::new(source.as_str().unwrap_or_default());
    for mut request in frames {
        let rendered = template.as_ref().map_err(ToString::to_string).and_then(|template| {
            let messages = request["messages"].take();
            let context: Context = serde_json::from_value(request["context"].take()).map_err(|e| e.to_string())?;
            let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(template.render(messages, &context))
        });
        let answer = match rendered {
            Ok(Ok(text)) => json!({ "text": text }),
            Ok(Err(TextError::EndlessTemplate)) => json!({ "endless": true }),
            Ok(Err(e)) => json!({ "error": e.to_string() }),
            Err(message) => json!({ "error": message }),
        };
        if process::answer(&answer).is_err() {
            break;
        }
    }
    Ok(())
}

/// A template in processes of its own, which are started when they are needed and again when they were ended.
pub struct IsolatedTemplate {
    source: String,
    pool: Pool,
}

impl IsolatedTemplate {
    /// A template; refused at once when it is none, or where no process can be started.
    ///
    /// # Errors
    /// A template that does not compile; a system that lets this program start no process.
    pub fn new(source: &str) -> Result<IsolatedTemplate, Error> {
        Template::new(source)?;
        let pool = Pool::new(COMMAND, Some(Value::from(source)), PROCESSES_MAX, TIME_MAX);
        pool.warm().map_err(|e| Error::Isolation(e.to_string()))?;
        Ok(IsolatedTemplate { source: source.to_string(), pool })
    }
}

impl Render for IsolatedTemplate {
    fn source(&self) -> &str {
        &self.source
    }

    fn render(&self, messages: &[Value], context: &Context, left: &dyn Fn() -> bool) -> Result<String, TextError> {
        let request = json!({"messages": messages, "context": context});
        let answer = self.pool.ask(request, left).map_err(|e| TextError::Template(e.to_string()))?;
        match (answer["text"].as_str(), answer["error"].as_str()) {
            (Some(text), _) => Ok(text.to_string()),
            _ if answer["endless"] == true => Err(TextError::EndlessTemplate),
            (_, error) => {
                let error = error.unwrap_or_default();
                Err(TextError::Template(error.strip_prefix("chat template: ").unwrap_or(error).to_string()))
            }
        }
    }
}
