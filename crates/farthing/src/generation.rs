//! A model to generate with.

use std::path::Path;

use engine::{Constraint, Engine, Request, Sampling, Settings};
use text::Tokenizer;
use text::chat::{Context, Message, Render};

use crate::answer::Answer;
use crate::bundled::bundled;
use crate::error::Error;
use crate::loading::{LoadOptions, LoadedModel, PlannedModel, advised_sampling};
use crate::names::find;
use crate::scoring::Scoring;

/// How a text is generated.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens.
    pub max_tokens: usize,
    /// The text ends before one of these.
    pub stop: Vec<String>,
}

/// A model to generate with. Its engine keeps the KV cache of what it has read, so that a conversation that goes on is not read again.
pub struct Model {
    engine: Engine,
    tokenizer: Tokenizer,
    template: Box<dyn Render>,
    bos: String,
    eos: String,
    stops: Vec<u32>,
    sampling: Sampling,
}

impl Model {
    /// Opens MODEL: a path, `org/name`, `org/name:Q4_K_M` or the short name of a pulled model. It is fetched where it is not here.
    ///
    /// # Errors
    /// A name that nothing has, a checkpoint that cannot be run, a model that does not fit.
    pub fn open(model: &str) -> Result<Model, Error> {
        Model::open_with(model, &LoadOptions::default())
    }

    /// As `open`, with options.
    ///
    /// # Errors
    /// As `open`, and options that do not suit the model.
    pub fn open_with(model: &str, options: &LoadOptions) -> Result<Model, Error> {
        Model::load(&find(model, options)?, options)
    }

    /// The small bundled model.
    ///
    /// # Errors
    /// A cache directory that cannot be written.
    pub fn bundled() -> Result<Model, Error> {
        Model::load(&bundled()?, &LoadOptions::default())
    }

    fn load(path: &Path, options: &LoadOptions) -> Result<Model, Error> {
        Ok(Model::new(PlannedModel::open(path, options)?.fitting()?.load()?))
    }

    /// A model that was loaded. Requests run one at a time; another one waits.
    pub fn new(loaded: LoadedModel) -> Model {
        Model::batched(loaded, 1)
    }

    /// A model that was loaded, for so many requests at once; as many wait. The KV cache must hold them: `LoadOptions::cached`.
    pub fn batched(loaded: LoadedModel, requests: usize) -> Model {
        let LoadedModel { runner, tokenizer, template, bos, eos, generation, stops, .. } = loaded;
        let settings = Settings { running: requests, waiting: requests.max(1), ..Settings::default() };
        let engine = Engine::start(runner, settings);
        Model { engine, tokenizer, template, bos, eos, stops, sampling: advised_sampling(&generation) }
    }

    /// The sampling that the model's files advise, 256 tokens, no stop strings.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions { sampling: self.sampling.clone(), max_tokens: 256, stop: Vec::new() }
    }

    /// Most tokens of a text, prompt included.
    pub fn context(&self) -> usize {
        self.engine.limits().context
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.engine.vocab()
    }

    /// Requests that run at once.
    pub fn requests(&self) -> usize {
        self.engine.running_max()
    }

    /// The token that stands before a text: what the model calls the beginning, or the end where it has no beginning.
    pub fn first_token(&self) -> Option<u32> {
        [&self.bos, &self.eos]
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .find_map(|piece| self.tokenizer.id_of(piece))
    }

    /// Ids that end a text.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// Text to ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tokens that a prompt of plain text is read as.
    ///
    /// # Errors
    /// A text that is too long to tokenize.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        Ok(self.tokenizer.encode(prompt, true)?)
    }

    /// The tokens that messages are read as: the chat template's text, in which special tokens spelled in a message are text.
    ///
    /// # Errors
    /// The template refused the messages, or they are too long.
    pub fn encode_messages(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let context = Context {
            add_generation_prompt: true,
            bos_token: self.bos.clone(),
            eos_token: self.eos.clone(),
            ..Context::default()
        };
        let escaped = |m: &Message| {
            let content = Some(self.tokenizer.escape_special_tokens(m.text()));
            Message { content, ..m.clone() }.into_json(false)
        };
        let messages: Vec<_> = messages.iter().map(escaped).collect();
        Ok(self.tokenizer.encode_prompt(&self.template.render(&messages, &context, &|| false)?)?)
    }

    /// Continues a text.
    ///
    /// # Errors
    /// A prompt that is empty or too long, sampling values out of range.
    pub fn complete(&self, prompt: &str, options: &GenerateOptions) -> Result<Answer<'_>, Error> {
        self.generate(self.encode(prompt)?, options)
    }

    /// Answers the last of some messages.
    ///
    /// # Errors
    /// As `complete`, and messages that the chat template refuses.
    pub fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<Answer<'_>, Error> {
        self.generate(self.encode_messages(messages)?, options)
    }

    /// Continues tokens.
    ///
    /// # Errors
    /// As `complete`.
    pub fn generate(&self, prompt: Vec<u32>, options: &GenerateOptions) -> Result<Answer<'_>, Error> {
        self.generate_within(prompt, options, None)
    }

    /// Continues tokens with a text that obeys a constraint.
    ///
    /// # Errors
    /// As `complete`.
    pub fn generate_within(
        &self,
        prompt: Vec<u32>,
        options: &GenerateOptions,
        constraint: Option<Box<dyn Constraint>>,
    ) -> Result<Answer<'_>, Error> {
        options.sampling.validate(self.vocab())?;
        let request = Request {
            constraint,
            prompt,
            sampling: options.sampling.clone(),
            stops: self.stops.clone(),
            tokens_max: options.max_tokens,
            ..Request::default()
        };
        Ok(Answer::new(self.engine.generate(request)?, &self.tokenizer, options.stop.clone()))
    }

    /// Scores tokens: how likely each is after those before it.
    ///
    /// # Errors
    /// No token, more than the context holds, an unknown one.
    pub fn score(&self, tokens: Vec<u32>) -> Result<Scoring, Error> {
        let request = Request { prompt: tokens, prompt_log_probabilities: Some(0), ..Request::default() };
        Ok(Scoring::new(self.engine.generate(request)?))
    }
}
