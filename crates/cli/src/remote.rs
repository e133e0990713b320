//! `farthing ps`, `load` and `stop`: the models of a server that runs.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::StatusCode;

use crate::terminal::{bytes, harmless, put, say};
use crate::{Failure, Outcome};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A large model takes a while to be loaded.
const TIME_MAX: Duration = Duration::from_secs(3600);

const ANOTHER: &str = "this is not a Farthing server; `farthing serve` prints the address of one";

/// Where the server is, and who asks.
#[derive(Args)]
struct ServerArguments {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
    /// Its administrator's key, or for `ps` any key [default: none, which a server without keys accepts]
    #[arg(long, value_name = "KEY", env = "FARTHING_ADMIN_KEY", hide_env_values = true)]
    key: Option<String>,
}

impl ServerArguments {
    /// Ask the server: GET without a body, POST with one.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        if self.url.contains(['?', '#']) {
            return Err(Failure::usage(format!("--url {}: give the address alone, without ? and #", self.url)));
        }
        let scheme = if self.url.contains("://") { "" } else { "http://" };
        let url = format!("{scheme}{}{path}", self.url.trim_end_matches('/').trim_end_matches("/v1"));
        // A client library takes a port that is none for the usual one.
        let given = url.parse::<ureq::http::Uri>().ok().and_then(|uri| uri.into_parts().authority);
        let port = given.as_ref().filter(|a| a.as_str().rsplit(['@', ']']).next().is_some_and(|end| end.contains(':')));
        if port.is_some_and(|a| a.port_u16().is_none_or(|port| port == 0)) {
            return Err(Failure::usage(format!("--url {}: a port is a number from 1 to 65535", self.url)));
        }
        let failed = |why: String| Failure::failed(format!("{url}: {why}"));
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_global(Some(TIME_MAX))
            .build()
            .into();
        let bearer = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = match body {
            None => {
                let request = agent.get(&url);
                bearer.iter().fold(request, |r, key| r.header("Authorization", key)).call()
            }
            Some(body) => {
                let request = agent.post(&url).header("Content-Type", "application/json");
                bearer.iter().fold(request, |r, key| r.header("Authorization", key)).send(body.to_string())
            }
        };
        let mut answer =
            sent.map_err(|e| if let ureq::Error::Io(e) = e { e.to_string() } else { e.to_string() }).map_err(
                |why| failed(format!("{why}; `farthing serve` prints the address of a server: give it with --url")),
            )?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let json: Value = text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        if answer.status() == StatusCode::OK && json.is_object() {
            return Ok(json);
        }
        let said = json["error"]["message"].as_str().unwrap_or(ANOTHER);
        let hint = match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; give it with --key or FARTHING_ADMIN_KEY",
            _ => "",
        };
        Err(failed(format!("{said}{hint}")))
    }

    /// Load or unload a model: it is in `state` then.
    fn change(&self, path: &str, model: &str, state: &str) -> Outcome {
        match self.ask(path, Some(&json!({ "model": model })))? {
            answer if answer["state"] == state => Ok(()),
            _ => Err(Failure::failed(format!("{}: {ANOTHER}", self.url))),
        }
    }
}

/// List the models of a running server: which are loaded, their memory and context
#[derive(Args)]
pub struct List {
    /// A JSON array, as `/v1/models` describes them
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

/// Load a model of a running server before a request needs it
#[derive(Args)]
pub struct Load {
    /// Id of the model, as `farthing ps` lists it
    model: String,
    #[command(flatten)]
    server: ServerArguments,
}

/// Unload a model of a running server; the next request loads it again
#[derive(Args)]
pub struct Stop {
    /// Id of the model, as `farthing ps` lists it
    model: String,
    #[command(flatten)]
    server: ServerArguments,
}

pub fn list(a: List) -> Outcome {
    let mut answer = a.server.ask("/v1/models", None)?;
    let models = answer["data"].take();
    if !models.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| row["state"].is_string())) {
        return Err(Failure::failed(format!("{}: {ANOTHER}", a.server.url)));
    }
    if a.json {
        return put(&format!("{models}\n"));
    }
    let text = |model: &Value, field: &str| harmless(model[field].as_str().unwrap_or("?"));
    let rows = models.as_array().map(Vec::as_slice).unwrap_or_default();
    let width = rows.iter().map(|model| text(model, "id").chars().count()).max().unwrap_or(0);
    let line = |model: &Value| {
        let (size, context) =
            (model["bytes"].as_u64().map_or_else(String::new, bytes), model["context_length"].clone());
        format!("{:<width$} {:>10}  context {context:<8} {}\n", text(model, "id"), size, text(model, "state"))
    };
    put(&rows.iter().map(line).collect::<String>())
}

pub fn load(a: Load) -> Outcome {
    a.server.change("/models/load", &a.model, "ready")?;
    say(&format!("{} is loaded", a.model));
    Ok(())
}

pub fn stop(a: Stop) -> Outcome {
    a.server.change("/models/unload", &a.model, "absent")?;
    say(&format!("{} is unloaded", a.model));
    Ok(())
}
