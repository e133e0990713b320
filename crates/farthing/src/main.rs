//! The `farthing` command: one file a subcommand. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr says why and what to do), 2 wrong arguments, 130 stopped by ctrl-c.

mod bench;
mod chat;
mod completions;
mod config;
mod doctor;
mod generate;
mod loading;
mod logging;
mod loss;
mod notify;
mod plot;
mod probe;
mod pull;
mod pulling;
mod rendering;
mod rival;
mod sandbox;
mod serve;
mod show;
mod speed;
mod terminal;
mod tokenize;
mod trace;
mod trying;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run language models of the DeepSeek and Llama structures on one ordinary machine.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Start with `farthing chat` (a small model is built in) or `farthing doctor`. `farthing --help` says more.",
    after_long_help = "\
MODEL is one of
  a path          a Hugging Face directory (config.json, tokenizer.json, *.safetensors) or a GGUF file
  a name          org/name, org/name:file.gguf, org/name:Q4_K_M, org/name@revision; fetched when it is not here
  a short name    the last part of the name of a pulled model (`farthing list`)

The first hour:
  farthing doctor                       what this machine can do
  farthing chat                         talk to the small built-in model
  farthing show org/name                what a model is, takes and will do here, before anything is fetched
  farthing chat org/name:Q4_K_M         fetch it and talk to it
  farthing serve org/name:Q4_K_M        serve it to OpenAI's clients at http://127.0.0.1:8080/v1
  farthing bench org/name:Q4_K_M        its speed beside the machine's limits

Weights are mapped and used as they are stored; a memory plan is printed before anything is loaded, and what does not fit is
refused. Data goes to stdout, everything else to stderr. Every command that reports takes --json; errors are JSON then too.

Environment:
  FARTHING_ISA=scalar|avx2|avx512   pin an instruction set
  HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE   as for other tools of the Hugging Face hub
  NO_COLOR                          no colours (none carries a meaning)

Exit codes: 0 done; 1 failed (one line on stderr says why and what to do); 2 wrong arguments; 130 stopped by ctrl-c."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Chat(chat::Arguments),
    Generate(generate::Arguments),
    Serve(Box<serve::Arguments>),
    Show(show::Arguments),
    Pull(pull::Pull),
    #[command(visible_alias = "ls")]
    List(pull::List),
    Rm(pull::Remove),
    Doctor(doctor::Arguments),
    Bench(bench::Arguments),
    Loss(loss::Arguments),
    Tokenize(tokenize::Arguments),
    Trace(trace::Arguments),
    Completions(completions::Arguments),
    #[command(name = rendering::COMMAND, hide = true)]
    RenderTemplate,
    #[command(name = trying::COMMAND, hide = true)]
    TryConstraint,
}

/// A failure, in one line for people.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// What a command ends with.
pub type Outcome = Result<(), Failure>;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && std::env::args_os().any(|a| a == "--json") => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            report(line.strip_prefix("error: ").unwrap_or(line), "arguments", true);
            return ExitCode::from(2);
        }
        Err(error) => error.exit(),
    };
    let json = match &arguments.command {
        Command::Generate(a) => a.json,
        Command::Show(a) => a.json,
        Command::Pull(a) => a.json,
        Command::List(a) => a.json,
        Command::Rm(a) => a.json,
        Command::Doctor(a) => a.json,
        Command::Bench(a) => a.json,
        Command::Loss(a) => a.json,
        Command::Tokenize(a) => a.json,
        Command::Chat(_)
        | Command::Serve(_)
        | Command::Trace(_)
        | Command::Completions(_)
        | Command::RenderTemplate
        | Command::TryConstraint => false,
    };
    let outcome = kernels::instruction_set_from_env().map_err(Failure).and_then(|()| match arguments.command {
        Command::Chat(a) => chat::run(a),
        Command::Generate(a) => generate::run(a),
        Command::Serve(a) => serve::run(*a),
        Command::Show(a) => show::run(a),
        Command::Pull(a) => pull::pull(a),
        Command::List(a) => pull::list(a),
        Command::Rm(a) => pull::remove(a),
        Command::Doctor(a) => doctor::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Loss(a) => loss::run(a),
        Command::Tokenize(a) => tokenize::run(a),
        Command::Trace(a) => trace::run(a),
        Command::Completions(a) => completions::run(a),
        Command::RenderTemplate => rendering::run(),
        Command::TryConstraint => trying::run(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has left; there is nobody to tell.
        Err(Failure(message)) if message == terminal::CLOSED => ExitCode::SUCCESS,
        Err(Failure(message)) => match message.strip_prefix(terminal::STOPPED) {
            Some(message) => {
                report(message, "stopped", json);
                ExitCode::from(130)
            }
            None => {
                report(&message, "failed", json);
                ExitCode::FAILURE
            }
        },
    }
}

/// The one line of a failure, for people or for machines.
fn report(message: &str, kind: &str, json: bool) {
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if json {
        eprintln!("{}", serde_json::json!({"error": {"message": line, "kind": kind}}));
    } else {
        eprintln!("farthing: {line}");
    }
}
