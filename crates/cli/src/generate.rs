//! `farthing generate`: a prompt and its continuation.

use std::io::IsTerminal;
use std::ops::ControlFlow;

use clap::Args;
use engine::{Finish, Request, Timing};
use serde_json::json;
use text::chat::{Context, Message, Role};
use text::{Detokenizer, StopStrings};

use crate::answering::{Ended, answer, engine};
use crate::loading::{Choose, Load, load, not_empty};
use crate::terminal::{STOPPED, catch_interrupts, put, read_text, say, several};
use crate::{Failure, Outcome, pulling};

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
    /// Path, org/name or the short name of a pulled model
    model: String,
    /// The prompt; without it, stdin is read to its end
    #[arg(long, short)]
    prompt: Option<String>,
    /// Treat the prompt as a user's message and apply the model's chat template
    #[arg(long)]
    chat: bool,
    /// Tokens at most
    #[arg(long, short = 'n', default_value_t = 256, value_parser = crate::terminal::whole::<usize>)]
    max_tokens: usize,
    /// End before this text; may be given again
    #[arg(long)]
    stop: Vec<String>,
    /// One JSON object at the end: text, tokens, why it ended, timings
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    choose: Choose,
    #[command(flatten)]
    load: Load,
}

/// Why a text ended, in the words of the APIs.
pub fn reason(finish: Finish, stopped: bool) -> &'static str {
    match finish {
        _ if stopped => "stop",
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

pub fn run(a: Arguments) -> Outcome {
    let prompt = a.prompt.map_or_else(typed, Ok)?;
    not_empty(&prompt)?;
    let m = load(&pulling::find(&a.model, &a.load)?, &a.load)?;
    let sampling = a.choose.sampling(&m.generation, m.runner.model().structure.vocab)?;
    let ids = if a.chat {
        let context = Context {
            add_generation_prompt: true,
            bos_token: m.bos.clone(),
            eos_token: m.eos.clone(),
            ..Context::default()
        };
        let message = Message::new(Role::User, m.tokenizer.escape_special_tokens(&prompt)).into_json(false);
        m.tokenizer.encode_prompt(&m.template.render(&[message], &context, &|| false)?)?
    } else {
        m.tokenizer.encode(&prompt, true)?
    };
    catch_interrupts();
    let engine = engine(m.runner);
    let (mut stream, mut stops) = (Detokenizer::continuing(&m.tokenizer, true), StopStrings::new(a.stop));
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let mut give = |piece: String| -> Outcome {
        text.push_str(&piece);
        if a.json || piece.is_empty() { Ok(()) } else { put(&piece) }
    };
    let prompt_tokens = ids.len();
    let request = Request { prompt: ids, sampling, stops: m.stops, tokens_max: a.max_tokens, ..Request::default() };
    let Ended { finish, timing, seed } = answer(&engine, request, &mut |id| {
        tokens.push(id);
        give(stops.push(&stream.push(id)))?;
        Ok(if stops.hit().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    give(stops.push(&stream.finish()))?;
    give(stops.finish())?;
    if a.json {
        let report = json!({
            "text": text,
            "tokens": tokens,
            "prompt_tokens": prompt_tokens,
            "finish_reason": reason(finish, stops.hit().is_some()),
            "seed": seed,
            "timings": {
                "prefill_seconds": timing.prefill.as_secs_f64(),
                "prefill_tokens_per_second": rate(timing.prompt_tokens, timing.prefill),
                "decode_seconds": timing.decode.as_secs_f64(),
                "decode_tokens_per_second": rate(timing.generated, timing.decode),
            }
        });
        put(&format!("{report}\n"))?;
    } else {
        put("\n")?;
        if !a.load.quiet {
            say(&format!("{}; seed {seed}; ended by {}", statistics(timing), reason(finish, stops.hit().is_some())));
        }
    }
    match finish {
        Finish::Cancelled if stops.hit().is_none() => {
            Err(Failure(format!("{STOPPED}stopped after {}", several(tokens.len(), "token"))))
        }
        _ => Ok(()),
    }
}
