//! The `farthing` command: one file a subcommand. Data goes to stdout, everything else to stderr.
//!
//! Exit codes: 0 done, 1 failed (one line on stderr says why and what to do), 2 wrong arguments.

mod bench;
mod chat;
mod generate;
mod loading;
mod show;
mod terminal;
mod tokenize;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run language models of the DeepSeek and Llama structures on one ordinary machine.
///
/// MODEL is a Hugging Face directory (config.json, tokenizer.json, *.safetensors) or a GGUF file.
/// Weights are mapped and used as stored; a memory plan is printed before anything is loaded.
///
/// The environment variable FARTHING_ISA=scalar|avx2|avx512 pins an instruction set.
/// Exit codes: 0 done, 1 failed (stderr says why and what to do), 2 wrong arguments.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = "Try: farthing chat")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Chat(chat::Arguments),
    Generate(generate::Arguments),
    Show(show::Arguments),
    Bench(bench::Arguments),
    Tokenize(tokenize::Arguments),
    Trace(trace::Arguments),
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
    let arguments = Arguments::parse();
    let json = match &arguments.command {
        Command::Generate(a) => a.json,
        Command::Show(a) => a.json,
        Command::Bench(a) => a.json,
        Command::Tokenize(a) => a.json,
        Command::Chat(_) | Command::Trace(_) => false,
    };
    let outcome = kernels::instruction_set_from_env().map_err(Failure).and_then(|()| match arguments.command {
        Command::Chat(a) => chat::run(a),
        Command::Generate(a) => generate::run(a),
        Command::Show(a) => show::run(a),
        Command::Bench(a) => bench::run(a),
        Command::Tokenize(a) => tokenize::run(a),
        Command::Trace(a) => trace::run(a),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has left; there is nobody to tell.
        Err(Failure(message)) if message == terminal::CLOSED => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            let line = message.replace(['\n', '\r'], " ");
            if json {
                eprintln!("{}", serde_json::json!({"error": {"message": line}}));
            } else {
                eprintln!("farthing: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
