//! `farthing chat`: a conversation in the terminal, or through a pipe.

mod built_in_help;
mod commands;
mod conversation;
mod lines;

use std::path::{Path, PathBuf};

use clap::Args;
use engine::{EngineError, Finish, Sampling, SubmitError, Timing};
use farthing::{Error, GenerateOptions, Message, Model, PlannedModel, Role, bundled, xdg};

use built_in_help::BuiltInHelp;
use commands::{HELP, Input, parse, set};
use lines::Lines;

use crate::answering::follow;
use crate::arguments::{LoadArguments, SamplingArguments};
use crate::generate::{reason, statistics};
use crate::terminal::{Wrap, catch_interrupts_of_answers, harmless, interrupted, put, say, several};
use crate::{Failure, Outcome};

/// Chat with a model
///
/// Without MODEL the small bundled model answers: stories to order, sums worked out, answers from a
/// passage. It is often wrong and knows nothing beyond. To a question on Farthing it gets the paragraphs
/// of this help that fit, and it can name only commands and flags that exist.
/// Ctrl-c stops an answer (through a pipe, the conversation: exit code 130), ctrl-d leaves.
/// /help lists the commands.
///
/// Examples:
///   farthing chat
///   farthing chat model.gguf --system "Answer briefly." --context 8192
#[derive(Args)]
#[command(allow_negative_numbers = true)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Path, org/name or short name [default: the bundled model]
    #[arg(add = crate::completions::models())]
    model: Option<String>,
    /// MODEL, as an option
    #[arg(long = "model", short = 'm', value_name = "MODEL", id = "model_option", conflicts_with = "model")]
    also: Option<String>,
    /// System prompt
    #[arg(long)]
    system: Option<String>,
    /// Maximum tokens of an answer
    #[arg(long, short = 'n', default_value_t = 1024, value_parser = crate::terminal::whole::<usize>)]
    max_tokens: usize,
    /// Continue the last conversation
    #[arg(long, conflicts_with = "system")]
    resume: bool,
    /// Show a line of statistics after each answer
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    choose: SamplingArguments,
    #[command(flatten)]
    load: LoadArguments,
}

/// What the bundled model is, and how a larger one is named.
const BUNDLED_MODEL: &str = "Small model, often wrong: stories, sums, help. Larger: farthing chat qwen3-4b";

struct Chat<'a> {
    arguments: &'a Arguments,
    model: Model,
    messages: Vec<Message>,
    options: GenerateOptions,
    stats: bool,
    /// Of the bundled model, as long as there is no system prompt.
    help: Option<BuiltInHelp>,
    /// Not at a terminal: nobody is there to go on after a failure.
    piped: bool,
}

impl Chat<'_> {
    fn start_over(&mut self, system: Option<String>) {
        self.messages = system.map(Message::system).into_iter().collect();
    }

    fn system(&self) -> Option<String> {
        self.messages.first().filter(|m| m.role == Role::System).map(|m| m.text().to_string())
    }

    /// Answer the last message, streaming; how the answer ended.
    fn answer(&mut self) -> Result<Finish, Failure> {
        let help = self.help.as_ref().filter(|_| self.system().is_none());
        let about_farthing = help.and_then(|help| help.messages(&self.messages));
        let prompt = self.model.encode_messages(about_farthing.as_deref().unwrap_or(&self.messages))?;
        let prompt_tokens = prompt.len();
        let guide = help.map(BuiltInHelp::guide);
        let mut answer = self.model.generate_within(prompt, &self.options, guide).map_err(|e| match e {
            Error::Submit(SubmitError::Prompt(EngineError::TooLong { tokens, over, context })) => Failure::failed(format!(
                "the conversation has {tokens} tokens, {over} more than the context of {context}; /reset starts over, or start with a larger --context"
            )),
            other => other.into(),
        })?;
        let (mut text, mut screen) = (String::new(), Wrap::new());
        follow(&mut answer, prompt_tokens, &mut |piece| {
            // Templates that end without a space get their answers with one.
            let piece = if text.is_empty() { piece.trim_start() } else { piece };
            text.push_str(piece);
            if piece.is_empty() { Ok(()) } else { screen.put(piece) }
        })?;
        let (finish, timing) = answer.ended().unwrap_or((Finish::Cancelled, Timing::default()));
        screen.finish()?;
        put("\n")?;
        match finish {
            Finish::Cancelled => say("(stopped)"),
            Finish::Context => say("(the context is full: /reset starts over)"),
            Finish::Length => {
                say(&format!("(cut after {}: /set max_tokens allows more)", several(timing.generated, "token")))
            }
            Finish::Stop(_) | Finish::Complete | Finish::Time => {}
        }
        if self.stats {
            say(&format!(
                "{}; {} of {} positions; ended by {}",
                statistics(timing),
                prompt_tokens + timing.generated,
                self.model.context(),
                reason(finish)
            ));
        }
        self.messages.push(Message::assistant(text.trim_end()));
        Ok(finish)
    }

    fn settings(&self) -> String {
        let s = &self.options.sampling;
        let seed = s.seed.map_or_else(|| "random".to_string(), |s| s.to_string());
        format!(
            "temperature {}, top_k {}, top_p {}, min_p {}, typical_p {}, repetition_penalty {}, presence_penalty {}, frequency_penalty {}, seed {seed}, max_tokens {}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.typical_p,
            s.repetition_penalty,
            s.presence_penalty,
            s.frequency_penalty,
            self.options.max_tokens
        )
    }
}

/// The model of the command line or of /model, and how its texts are sampled; says what the sampling is based on where nobody chose it.
fn open(a: &Arguments, model: Option<&str>) -> Result<(Model, Sampling), Failure> {
    let loaded = match model {
        Some(model) => a.load.load(model)?,
        None => a.load.fitting(PlannedModel::open(&bundled()?, &a.load.options()?)?)?.load()?,
    };
    let sampling = a.choose.sampling(&loaded.generation, loaded.runner.model().structure.vocab)?;
    if !a.load.quiet {
        say(&format!(
            "sampling: temperature {}, top-k {}, top-p {}, min-p {}{}",
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            if loaded.generation.advises_sampling() { "" } else { " (the model advises nothing)" }
        ));
    }
    Ok((Model::new(loaded), sampling))
}

/// Where the last conversation at a terminal is kept.
fn last_conversation() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state").map(|directory| directory.join("last-chat.json"))
}

impl Chat<'_> {
    /// Answer the last message; through a pipe, where nobody is there to go on, whatever ends the answer ends the conversation.
    fn answer_or_say(&mut self) -> Outcome {
        match self.answer() {
            Ok(Finish::Cancelled) if self.piped => Err(Failure::stopped("stopped in an answer")),
            Ok(_) => {
                if let Some(file) = last_conversation().filter(|_| !self.piped) {
                    // It is a convenience: a conversation goes on where it cannot be kept.
                    let _ = conversation::write(&file, &self.messages);
                }
                Ok(())
            }
            Err(Failure::Closed) => Err(Failure::Closed),
            // A script learns of it by the exit code.
            Err(failure) if self.piped => Err(failure),
            Err(failure) => {
                self.messages.pop();
                say(&format!("({failure})"));
                Ok(())
            }
        }
    }

    /// Say where answering again gives the same answer.
    fn tell_same_answer(&self) {
        match self.options.sampling.seed {
            _ if self.options.sampling.temperature == 0.0 => say("(at temperature 0 the answer is always the same)"),
            Some(seed) => say(&format!("(with seed {seed} the answer is the same: /set seed random gives another)")),
            None => {}
        }
    }

    /// Take back the last message of the user and what followed it.
    fn take_back(&mut self) -> Option<String> {
        let last = self.messages.iter().rposition(|m| m.role == Role::User)?;
        let text = self.messages[last].text().to_string();
        self.messages.truncate(last);
        Some(text)
    }

    fn load(&mut self, file: &Path) -> Outcome {
        self.messages = conversation::read(file)?;
        say(&format!("({} of {})", several(self.messages.len(), "message"), file.display()));
        Ok(())
    }

    /// What a line asks for; `None` ends the conversation. The text is what the next line begins with.
    fn handle(&mut self, input: Input<'_>) -> Result<Option<String>, Failure> {
        let mut next = String::new();
        match input {
            Input::Nothing => {}
            Input::Help => put(HELP)?,
            Input::System(system) => {
                self.start_over(system.map(str::to_string));
                say("(started over)");
            }
            Input::Reset => {
                self.start_over(self.system());
                say("(started over)");
            }
            Input::Retry | Input::Edit(_) if self.messages.iter().all(|m| m.role != Role::User) => {
                say("(there is no message yet)");
            }
            Input::Edit(None) if !self.piped => next = harmless(&self.take_back().unwrap_or_default()),
            Input::Retry | Input::Edit(_) => {
                let last = self.take_back().unwrap_or_default();
                let text = if let Input::Edit(Some(text)) = input { text.to_string() } else { last };
                if input == Input::Retry {
                    self.tell_same_answer();
                }
                self.messages.push(Message::user(text));
                self.answer_or_say()?;
            }
            Input::Model(name) => match open(self.arguments, Some(name)) {
                Ok((model, sampling)) => {
                    (self.model, self.options.sampling, self.help) = (model, sampling, None);
                }
                Err(failure) => say(&format!("({failure})")),
            },
            Input::Show => put(&(self.settings() + "\n"))?,
            Input::Set(name, value) => match set(&mut self.options, self.model.vocab(), name, value) {
                Ok(()) => say(&format!("({name} is {value})")),
                Err(message) => say(&format!("({message})")),
            },
            Input::Save(file) => match conversation::save(Path::new(file), &self.messages) {
                Ok(()) => say(&format!("(wrote {file})")),
                Err(failure) => say(&format!("({failure})")),
            },
            Input::Load(file) => {
                if let Err(failure) = self.load(Path::new(file)) {
                    say(&format!("({failure})"));
                }
            }
            Input::Stats => {
                self.stats = !self.stats;
                say(&format!("(statistics {})", if self.stats { "on" } else { "off" }));
            }
            Input::Quit => return Ok(None),
            Input::Wrong(message) => say(&format!("({message})")),
            Input::Say(text) => {
                self.messages.push(Message::user(text));
                self.answer_or_say()?;
            }
        }
        Ok(Some(next))
    }
}

pub fn run(a: Arguments) -> Outcome {
    // Before anything is loaded.
    a.choose.check()?;
    let named = a.model.as_deref().or(a.also.as_deref());
    let (model, sampling) = open(&a, named)?;
    let stop = text::families::user_marks().map(str::to_string).collect();
    let options = GenerateOptions { sampling, max_tokens: a.max_tokens, stop };
    let mut lines = Lines::open();
    let piped = matches!(lines, Lines::Pipe);
    let help = named.is_none().then(|| BuiltInHelp::new(&model));
    let mut chat = Chat { arguments: &a, model, messages: Vec::new(), options, stats: a.verbose, help, piped };
    chat.start_over(a.system.clone());
    if a.resume {
        let file = last_conversation().filter(|file| file.exists());
        chat.load(
            &file.ok_or_else(|| Failure::failed("--resume: no conversation was kept yet; start one without it"))?,
        )?;
    }
    catch_interrupts_of_answers();
    if !piped {
        if named.is_none() {
            say(BUNDLED_MODEL);
        }
        say("/help lists the commands; ctrl-c stops an answer, ctrl-d leaves");
    }
    let mut begun = String::new();
    while let Some(text) = lines.message(&begun)? {
        interrupted();
        match chat.handle(parse(&text))? {
            Some(next) => begun = next,
            None => break,
        }
    }
    Ok(())
}
