//! The log of the server, on stderr: lines for people, or JSON objects for programs.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Faults.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a request.
    Info,
    /// Names of unknown fields too.
    Debug,
}

/// Log from now on.
pub fn start(format: Format, level: Level) {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(colours);
    let layer = match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).with_span_list(false).with_current_span(false).boxed(),
    };
    // Libraries have their own targets: their lines may hold what is not ours to tell.
    let ours = Targets::new().with_target("farthing", level);
    if format == Format::Json {
        // A fault of ours is an object too.
        std::panic::set_hook(Box::new(|fault| {
            if text::panic_is_caught() || ::data::panics::is_caught() {
                return;
            }
            let line: String = fault.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            tracing::error!(target: "farthing", "fault: {line}");
        }));
    }
    // Only fails when there is a log already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours)).try_init();
}
