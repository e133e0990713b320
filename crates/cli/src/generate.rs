//! `farthing generate`: a prompt and its continuation.

use std::io::IsTerminal;

use clap::Args;
use engine::{Finish, Timing};
use farthing::{GenerateOptions, Message, Model};
use serde_json::{Value, json};

use crate::answering::follow;
use crate::arguments::{LoadArguments, ModelArgument, SamplingArguments};
use crate::terminal::{catch_interrupts, harmless, put, read_text, say, several};
use crate::{Failure, Outcome};

/// Continue a text
///
/// The prompt is continued as it is; with --chat it is a user's message, and the answer is given.
/// Text streams to stdout. Ctrl-c ends it early (exit code 130).
///
/// Examples:
///   farthing generate models/seed-5.7m -p "Once upon a time" --seed 1
///   echo "The little fox" | farthing generate model.gguf --temperature 0 --max-tokens 50
///   farthing generate model.gguf --chat -p "Why is the sky blue?" --json
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArgument,
    /// The prompt; without it, stdin is read to its end
    #[arg(long, short)]
    prompt: Option<String>,
    /// Treat the prompt as a user's message and apply the model's chat template
    #[arg(long)]
    chat: bool,
    /// Maximum tokens to generate
    #[arg(long, short = 'n', default_value_t = 256, value_parser = crate::terminal::whole::<usize>)]
    max_tokens: usize,
    /// Stop before this text; repeatable
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Print one JSON object at the end: text, tokens, finish reason, timings
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    choose: SamplingArguments,
    #[command(flatten)]
    load: LoadArguments,
}

/// Why a text ended, in the words of the APIs.
pub fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop(_) | Finish::Complete => "stop",
        Finish::Length => "length",
        Finish::Context => "context",
        Finish::Time => "time",
        Finish::Cancelled => "cancelled",
    }
}

/// Tokens per second, or 0 when nothing was timed.
pub fn rate(tokens: usize, time: std::time::Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A line of statistics.
pub fn statistics(t: Timing) -> String {
    format!(
        "{} in {:.2} s ({:.1}/s), {} in {:.2} s ({:.1}/s)",
        several(t.prompt_tokens, "prompt token"),
        t.prefill.as_secs_f64(),
        rate(t.prompt_tokens, t.prefill),
        several(t.generated, "token"),
        t.decode.as_secs_f64(),
        rate(t.generated, t.decode)
    )
}

/// The prompt on stdin, without the line break that ends it.
fn typed() -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        crate::terminal::note("reading the prompt from the terminal; end it with ctrl-d");
    }
    let text = read_text(std::io::stdin(), "the prompt on stdin")?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_string())
}

/// A text and how it came about.
struct Generated {
    text: String,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    finish: Finish,
    seed: u64,
    timing: Timing,
}

impl Generated {
    fn json(&self) -> Value {
        let t = self.timing;
        json!({
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "finish_reason": reason(self.finish),
            "seed": self.seed,
            "timings": {
                "prefill_seconds": t.prefill.as_secs_f64(),
                "prefill_tokens_per_second": rate(t.prompt_tokens, t.prefill),
                "decode_seconds": t.decode.as_secs_f64(),
                "decode_tokens_per_second": rate(t.generated, t.decode),
            }
        })
    }
}

/// Generate; `give` gets the text as it comes.
fn generated(a: &Arguments, prompt: &str, give: &mut dyn FnMut(&str) -> Outcome) -> Result<Generated, Failure> {
    let loaded = a.load.load(&a.model)?;
    let sampling = a.choose.sampling(&loaded.generation, loaded.runner.model().structure.vocab)?;
    let model = Model::new(loaded);
    let ids = if a.chat { model.encode_messages(&[Message::user(prompt)])? } else { model.encode(prompt)? };
    catch_interrupts();
    let (prompt_tokens, mut text) = (ids.len(), String::new());
    let options = GenerateOptions { sampling, max_tokens: a.max_tokens, stop: a.stop.clone() };
    let mut answer = model.generate(ids, &options)?;
    follow(&mut answer, prompt_tokens, &mut |piece| {
        text.push_str(piece);
        give(piece)
    })?;
    let (finish, timing) = answer.ended().unwrap_or((Finish::Cancelled, Timing::default()));
    Ok(Generated { text, tokens: answer.tokens().to_vec(), prompt_tokens, finish, seed: answer.seed(), timing })
}

pub fn run(a: Arguments) -> Outcome {
    // Before anything is loaded.
    a.choose.check()?;
    let prompt = a.prompt.clone().map_or_else(typed, Ok)?;
    if prompt.is_empty() {
        return Err(Failure::usage("the prompt is empty; give text with -p or on stdin"));
    }
    let (silent, terminal) = (a.json, std::io::stdout().is_terminal());
    let made = generated(&a, &prompt, &mut |piece| match piece {
        _ if silent || piece.is_empty() => Ok(()),
        _ if terminal => put(&harmless(piece)),
        _ => put(piece),
    })?;
    if a.json {
        put(&format!("{}\n", made.json()))?;
    } else {
        put("\n")?;
        if !a.load.quiet {
            say(&format!("{}; seed {}; ended by {}", statistics(made.timing), made.seed, reason(made.finish)));
        }
    }
    match made.finish {
        Finish::Cancelled => Err(Failure::stopped(format!("stopped after {}", several(made.tokens.len(), "token")))),
        _ => Ok(()),
    }
}
