//! The `farthing` command: one file a subcommand. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr says why and what to do), 2 wrong arguments, 130 stopped by ctrl-c.

mod answering;
mod arguments;
mod average;
mod bench;
mod chat;
mod completions;
mod config;
mod data;
mod doctor;
#[cfg(test)]
mod documents;
mod eval;
mod external_bench;
mod facts;
mod fetch;
mod generate;
mod health_check;
mod ledger;
mod logging;
mod loss;
mod manual;
mod models;
mod notify;
mod plot;
mod price;
mod publish;
mod pull;
mod quantize;
mod remote;
mod serve;
mod show;
mod signals;
mod terminal;
mod tokenize;
mod trace;
mod train;
mod work;

use std::fmt::Display;
use std::process::ExitCode;

use clap::error::ContextKind;
use clap::{CommandFactory, Parser, Subcommand};

/// Run language models (DeepSeek, Llama, Qwen, Mistral, Gemma and others) on one ordinary machine.
#[derive(Parser)]
#[command(
    name = "farthing",
    version,
    arg_required_else_help = true,
    after_help = "Start with `farthing chat` (a small model is built in) or `farthing models`. `farthing --help` says more.",
    after_long_help = "\
MODEL is one of
  a path          a Hugging Face directory (with config.json) or a GGUF file
  a name          org/name, org/name:file.gguf, org/name:Q4_K_M, org/name@revision
  a short name    one of `farthing models`, or the last part of a downloaded model's name
A model that is not here is downloaded first.

The first hour:
  farthing doctor              what this machine can do
  farthing models              downloaded models, and well-known ones that fit here
  farthing chat                talk to the small built-in model
  farthing show qwen3-4b       structure, memory and expected speed, before it is downloaded
  farthing chat qwen3-4b       download it and talk to it
  farthing serve qwen3-4b      serve it to OpenAI's clients at http://127.0.0.1:8080/v1
  farthing bench qwen3-4b      its speed beside the machine's limits

Weights are memory-mapped and used in the format they are stored in. A memory plan is printed
before anything is loaded, and a model that does not fit is refused. Data goes to stdout, everything
else to stderr. Every command that reports takes --json; errors are JSON then too.

Environment:
  FARTHING_ISA=scalar|avx2|avx512   pin an instruction set
  HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE   as for other tools of the Hugging Face hub
  NO_COLOR                          no colours (none carries a meaning)

Exit codes: 0 done; 1 failed (one line on stderr says why and what to do); 2 wrong arguments;
130 stopped by ctrl-c."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(visible_alias = "run")]
    Chat(chat::Arguments),
    Generate(generate::Arguments),
    Serve(Box<serve::Arguments>),
    Show(show::Arguments),
    Pull(pull::Pull),
    #[command(visible_alias = "ls")]
    List(pull::List),
    Rm(pull::Remove),
    Models(models::Arguments),
    Ps(remote::List),
    Load(remote::Load),
    Stop(remote::Stop),
    Doctor(doctor::Arguments),
    Bench(bench::Arguments),
    Price(Box<price::Arguments>),
    #[command(visible_alias = "perplexity")]
    Loss(loss::Arguments),
    Eval(eval::Arguments),
    Average(average::Arguments),
    Quantize(quantize::Arguments),
    Publish(publish::Arguments),
    Data(data::Arguments),
    Train(train::Arguments),
    Tokenize(tokenize::Arguments),
    Trace(trace::Arguments),
    Keys(ledger::keys::Arguments),
    Accounts(ledger::accounts::Arguments),
    Invitations(ledger::invitations::Arguments),
    Usage(ledger::usage::Arguments),
    Ledger(ledger::books::Arguments),
    Completions(completions::Arguments),
}

impl Command {
    /// Whether it gives JSON, and so its errors are JSON.
    fn reports_json(&self) -> bool {
        match self {
            Command::Generate(a) => a.json,
            Command::Show(a) => a.json,
            Command::Pull(a) => a.json,
            Command::List(a) => a.json,
            Command::Rm(a) => a.json,
            Command::Models(a) => a.json,
            Command::Ps(a) => a.json,
            Command::Doctor(a) => a.json,
            Command::Bench(a) => a.json(),
            Command::Price(a) => a.json,
            Command::Loss(a) => a.json,
            Command::Eval(a) => a.json,
            Command::Average(a) => a.json,
            Command::Quantize(a) => a.json,
            Command::Publish(a) => a.json,
            Command::Data(a) => a.json,
            Command::Train(a) => a.json,
            Command::Tokenize(a) => a.json,
            Command::Keys(a) => a.ledger.json,
            Command::Accounts(a) => a.ledger.json,
            Command::Invitations(a) => a.ledger.json,
            Command::Usage(a) => a.ledger.json,
            Command::Ledger(a) => a.ledger.json,
            Command::Serve(a) => a.logs_json(),
            Command::Chat(_) | Command::Load(_) | Command::Stop(_) | Command::Trace(_) | Command::Completions(_) => {
                false
            }
        }
    }
}

/// Why a command failed, in one line.
#[derive(Debug)]
pub enum Failure {
    /// It could not be done: exit code 1.
    Failed(String),
    /// A wrong argument: exit code 2.
    Usage(String),
    /// A person stopped it: exit code 130.
    Stopped(String),
    /// The reader of the output has closed it: exit code 0, no message.
    Closed,
}

impl Failure {
    /// A failure in words.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed(message.into())
    }

    /// An argument that is wrong for a reason that only the command itself sees.
    pub fn usage(message: impl Display) -> Failure {
        Failure::Usage(message.to_string())
    }

    /// A person's wish.
    pub fn stopped(message: impl Into<String>) -> Failure {
        Failure::Stopped(message.into())
    }

    /// Wrong arguments as clap tells them, but for the words that stand before them.
    fn arguments(error: &clap::Error) -> (String, String) {
        let text = error.render().to_string();
        let mut parts = text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let message = parts.next().unwrap_or_default();
        let hint: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
        (message.strip_prefix("error: ").unwrap_or(&message).to_string(), hint.join("; "))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Failed(message) | Failure::Usage(message) | Failure::Stopped(message) => f.write_str(message),
            Failure::Closed => f.write_str("the output was closed"),
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        let message = error.to_string();
        let error = &error as &dyn std::error::Error;
        if let Some(error) = error.downcast_ref() {
            return ledger::failure(error);
        }
        match error.downcast_ref() {
            Some(farthing::Error::Argument(_)) => Failure::Usage(message),
            Some(farthing::Error::Stopped { .. }) => Failure::Stopped(message),
            _ => Failure::Failed(message),
        }
    }
}

/// What a command ends with.
pub type Outcome = Result<(), Failure>;

fn main() -> ExitCode {
    // A shell asks what may stand at the cursor; the process ends here then.
    clap_complete::CompleteEnv::with_factory(Arguments::command).complete();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !text::panic_is_caught() && !::data::panics::is_caught() {
            print(panic);
        }
    }));
    farthing::isolate();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(error),
    };
    if arguments.command.reports_json() {
        terminal::json_only();
    }
    let outcome = kernels::instruction_set_from_env().map_err(Failure::Failed).and_then(|()| match arguments.command {
        Command::Chat(a) => chat::run(a),
        Command::Generate(a) => generate::run(a),
        Command::Serve(a) => serve::run(*a),
        Command::Show(a) => show::run(a),
        Command::Pull(a) => pull::pull(a),
        Command::List(a) => pull::list(a),
        Command::Rm(a) => pull::remove(a),
        Command::Models(a) => models::run(a),
        Command::Ps(a) => remote::list(a),
        Command::Load(a) => remote::load(a),
        Command::Stop(a) => remote::stop(a),
        Command::Doctor(a) => doctor::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Price(a) => price::run(*a),
        Command::Loss(a) => loss::run(a),
        Command::Eval(a) => eval::run(a),
        Command::Average(a) => average::run(a),
        Command::Quantize(a) => quantize::run(a),
        Command::Publish(a) => publish::run(a),
        Command::Data(a) => data::run(a),
        Command::Train(a) => train::run(a),
        Command::Tokenize(a) => tokenize::run(a),
        Command::Trace(a) => trace::run(a),
        Command::Keys(a) => ledger::keys::run(a),
        Command::Accounts(a) => ledger::accounts::run(a),
        Command::Invitations(a) => ledger::invitations::run(a),
        Command::Usage(a) => ledger::usage::run(a),
        Command::Ledger(a) => ledger::books::run(a),
        Command::Completions(a) => completions::run(a),
    });
    let (kind, code) = match &outcome {
        Ok(()) | Err(Failure::Closed) => return ExitCode::SUCCESS,
        Err(Failure::Stopped(_)) => ("stopped", 130),
        Err(Failure::Usage(_)) => ("arguments", 2),
        Err(Failure::Failed(_)) => ("failed", 1),
    };
    if let Err(failure) = outcome {
        report(&failure.to_string(), kind, None);
    }
    ExitCode::from(code)
}

/// Help and the version, or arguments that are wrong, for people or for machines; the exit code.
fn unparsed(mut error: clap::Error) -> ExitCode {
    // "to pass '-1' as a value, use '-- -1'" is about texts that begin with a dash, which nobody means here.
    if error.get(ContextKind::SuggestedArg).is_none() {
        error.remove(ContextKind::Suggested);
    }
    let error = &error;
    let wrong = error.use_stderr();
    if wrong && wants_json() {
        let (message, hint) = Failure::arguments(error);
        terminal::json_only();
        report(&message, "arguments", Some(&hint));
        return ExitCode::from(2);
    }
    match error.print().map_err(terminal::unwritten) {
        Err(failure) if !wrong && !matches!(failure, Failure::Closed) => {
            report(&failure.to_string(), "failed", None);
            ExitCode::from(1)
        }
        _ => ExitCode::from(if wrong { 2 } else { 0 }),
    }
}

/// Whether the command line asks for JSON, as far as can be told of one that is wrong.
fn wants_json() -> bool {
    let all: Vec<_> = std::env::args_os().collect();
    all.iter().any(|a| a == "--json" || a == "--log-format=json")
        || all.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json")
}

/// The one line of a failure, for people or for machines, who get what clap adds to it as a hint.
fn report(message: &str, kind: &str, hint: Option<&str>) {
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if terminal::is_json_only() {
        let mut error = serde_json::json!({"message": line, "kind": kind});
        if let Some(hint) = hint {
            error["hint"] = hint.into();
        }
        terminal::say(&serde_json::json!({ "error": error }).to_string());
    } else {
        terminal::say(&format!("farthing: {line}"));
    }
}
