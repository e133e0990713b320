//! The loop: read a prompt in chunks, then decode token by token. An engine owns the model, the cache and the threads; a sequence owns its pages.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use kernels::Pool;
use model::cache::PAGE;
use model::{Batch, Cache, CacheFormat, Scratch, Span, Trace, Transformer, Wanted};
use thiserror::Error;

use crate::identity::FileHash;
use crate::pages::{Free, Pages};
use crate::sampler::{Sampler, log_probabilities};

/// Bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest sequence.
    pub context: usize,
    /// Positions the cache holds in all.
    pub cached: usize,
}

/// Tokens of a prompt that are computed together. A multiple of the blocks that latent attention expands.
const CHUNK: usize = 512;

/// Names the order of sums in the forward: raise it whenever the same weights and tokens give other bits than before, so that pages kept
/// on disk by an earlier version are not found. `tests/arithmetic.rs` fails when that was forgotten.
pub const ARITHMETIC: u64 = 2;

/// What a sequence can be refused for.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum EngineError {
    /// More tokens than a sequence may have.
    #[error("the prompt has {tokens} tokens, {over} more than the context of {context}; shorten it or raise --context")]
    TooLong {
        /// Tokens.
        tokens: usize,
        /// How many too many.
        over: usize,
        /// Limit.
        context: usize,
    },
    /// Nothing to read.
    #[error("the prompt is empty; give at least one token")]
    Empty,
    /// A token that the model does not have.
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Vocabulary {
        /// Token.
        token: u32,
        /// Vocabulary.
        vocab: usize,
    },
    /// All pages are taken.
    #[error("the cache is full: {needed} pages are needed, {free} are free")]
    Full {
        /// Needed.
        needed: usize,
        /// Free.
        free: usize,
    },
    /// A file of the weights is not what it was when it was opened.
    #[error("{file} was changed while it was in use; start again to read it as it is now")]
    Changed {
        /// The file.
        file: String,
    },
    /// The model's answer is no number: weights are damaged.
    #[error(
        "the model computed {value} for token {token}: some weight is damaged; `farthing show MODEL --check` names the tensor"
    )]
    NotFinite {
        /// First id whose logit is none.
        token: usize,
        /// What it is.
        value: f32,
    },
    /// It waited longer than it wanted to.
    #[error("the request waited {seconds:.1} s for its turn; send it again later, or raise its limit")]
    Waited {
        /// So long.
        seconds: f64,
    },
    /// The text cannot go on as it must.
    #[error("the text cannot go on within its constraint: {0}")]
    Constraint(String),
    /// Its constraint took too long over one token. That budget is the clock's; those of the constraint's own work end in `Constraint`.
    #[error(
        "the constraint took more than {seconds:.0} s to say what may come next; make the schema or grammar simpler"
    )]
    ConstraintLate {
        /// So long.
        seconds: f64,
    },
    /// A mistake in this program, caught.
    #[error("a fault inside: {0}; please report it")]
    Fault(String),
}

/// A model that runs.
pub struct Engine {
    model: Transformer,
    pool: Pool,
    cache: Cache,
    scratch: Scratch,
    free: Free,
    limits: Limits,
}

/// Tokens whose entries are in the cache, and the pages that hold them. Dropping it gives the pages back.
pub struct Sequence {
    tokens: Vec<u32>,
    pages: Pages,
}

/// What a forward reads of one sequence.
pub struct Part<'a> {
    /// It.
    pub sequence: &'a mut Sequence,
    /// Its next tokens: a chunk of its prompt, or one that was generated.
    pub tokens: &'a [u32],
    /// Tokens of its prompt, all chunks together; 0 for a generated token.
    pub prompt: usize,
    /// Whether the logits after its last token are wanted.
    pub logits: bool,
}

impl Sequence {
    /// Tokens read or generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forget all but the first `len` tokens.
    pub fn rewind(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.pages.resize(self.tokens.len().div_ceil(PAGE));
    }
}

impl Engine {
    /// An engine with a cache of `limits.cached` positions.
    pub fn new(model: Transformer, pool: Pool, format: CacheFormat, limits: Limits) -> Engine {
        let pages = limits.cached.div_ceil(PAGE);
        let cache = Cache::new(&model.structure, format, pages);
        Engine { model, pool, cache, scratch: Scratch::new(), free: Free::new(pages), limits }
    }

    /// The model.
    pub fn model(&self) -> &Transformer {
        &self.model
    }

    /// Threads and machine.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Pages that no sequence owns.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// An empty sequence.
    pub fn sequence(&self) -> Sequence {
        Sequence { tokens: Vec::new(), pages: self.free.list() }
    }

    fn admit(&self, sequence: &mut Sequence, tokens: &[u32]) -> Result<(), EngineError> {
        check(tokens, sequence.tokens.len(), self.model.structure.vocab, self.limits.context)?;
        let needed = (sequence.tokens.len() + tokens.len()).div_ceil(PAGE);
        if !sequence.pages.resize(needed) {
            return Err(EngineError::Full { needed, free: self.free.len() });
        }
        Ok(())
    }

    /// Read tokens into a sequence, chunk by chunk; logits of the last. `progress(done, total)` may stop between chunks:
    /// then `None`, and the sequence holds what was read.
    ///
    /// # Errors
    /// A prompt that does not fit, or is empty, or holds an unknown token: nothing is read.
    pub fn prefill(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>, EngineError> {
        if let Some(file) = self.model.changed() {
            return Err(EngineError::Changed { file: file.display().to_string() });
        }
        self.admit(sequence, tokens)?;
        let prompt = sequence.tokens.len() + tokens.len();
        let mut done = 0;
        while done < tokens.len() {
            // Chunks end at multiples of CHUNK, so that expanded blocks are whole.
            let position = sequence.tokens.len();
            let len = (CHUNK - position % CHUNK).min(tokens.len() - done);
            let last = done + len == tokens.len();
            let tokens_now = &tokens[done..done + len];
            self.run(&mut [Part { sequence: &mut *sequence, tokens: tokens_now, prompt, logits: last }]);
            done += len;
            if progress(done, tokens.len()).is_break() && !last {
                sequence.rewind(sequence.tokens.len());
                return Ok(None);
            }
        }
        self.believable()?;
        Ok(Some(self.scratch.logits()))
    }

    /// One forward over parts of several sequences: chunks of prompts and decoding sequences together. Logits of the parts that want
    /// them, after their last token, `[wanting, vocab]`. No part's bits depend on the others, nor on how its prompt was cut; chunks
    /// that end at multiples of 128 positions are the fastest.
    ///
    /// # Errors
    /// As `prefill`; then nothing is read.
    pub fn step(&mut self, parts: &mut [Part]) -> Result<&[f32], EngineError> {
        for part in parts.iter_mut() {
            self.admit(part.sequence, part.tokens)?;
        }
        self.run(parts);
        self.believable()?;
        Ok(self.scratch.logits())
    }

    /// Admitted parts through the model.
    fn run(&mut self, parts: &mut [Part]) {
        let tokens: Vec<u32> = parts.iter().flat_map(|p| p.tokens.iter().copied()).collect();
        let mut first = 0;
        let spans: Vec<Span> = parts
            .iter()
            .map(|part| {
                let (len, position) = (part.tokens.len(), part.sequence.tokens.len());
                first += len;
                let logits = if part.logits { Wanted::Last } else { Wanted::None };
                Span {
                    first: first - len,
                    len,
                    position,
                    prompt: part.prompt,
                    pages: part.sequence.pages.ids(),
                    logits,
                }
            })
            .collect();
        let batch = Batch { tokens: &tokens, spans: &spans };
        self.model.forward(&self.pool, &batch, &mut self.cache, &mut self.scratch, None);
        for part in parts {
            part.sequence.tokens.extend_from_slice(part.tokens);
        }
    }

    /// One forward over pages that the caller keeps account of: a schedule's, in place of sequences. Logits of the rows that are wanted,
    /// in order, numbers or not.
    ///
    /// # Errors
    /// Weights that are not what they were.
    pub(crate) fn compute(&mut self, batch: &Batch) -> Result<&[f32], EngineError> {
        if let Some(file) = self.model.changed() {
            return Err(EngineError::Changed { file: file.display().to_string() });
        }
        self.model.forward(&self.pool, batch, &mut self.cache, &mut self.scratch, None);
        match self.model.lost() {
            Some(file) => Err(EngineError::Changed { file: file.display().to_string() }),
            None => Ok(self.scratch.logits()),
        }
    }

    /// The cache, for what moves pages about.
    pub(crate) fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Pages of the cache.
    pub(crate) fn pages(&self) -> usize {
        self.cache.pages()
    }

    /// How the cache stores numbers.
    pub fn format(&self) -> CacheFormat {
        self.cache.format()
    }

    /// Of each layer, how often each of its experts was chosen.
    pub(crate) fn expert_counts(&self) -> &[Vec<u64>] {
        self.scratch.picks()
    }

    /// What the numbers of a page follow from, apart from the tokens: the arithmetic, the cache's format, the structure of the model, and its
    /// files, whose hashes are still to come.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("Farthing, model and arithmetic, version 2");
        hasher.update(&ARITHMETIC.to_le_bytes());
        let name =
            CacheFormat::ALL.iter().find(|(format, _)| *format == self.cache.format()).map_or("", |(_, name)| name);
        hasher.update(name.as_bytes()).update(&[0]);
        self.model.structure.identify(&mut |bytes| {
            hasher.update(bytes);
        });
        Fingerprint(hasher)
    }

    /// Another sequence that has read what this one has. Its entries are copied, page by page.
    ///
    /// # Errors
    /// Too few free pages.
    pub fn fork(&mut self, sequence: &Sequence) -> Result<Sequence, EngineError> {
        let mut pages = self.free.list();
        let needed = sequence.pages.ids().len();
        if !pages.resize(needed) {
            return Err(EngineError::Full { needed, free: self.free.len() });
        }
        for (&from, &to) in sequence.pages.ids().iter().zip(pages.ids()) {
            self.cache.copy_page(from, to);
        }
        Ok(Sequence { tokens: sequence.tokens.clone(), pages })
    }

    /// Whether the last forward computed with the weights that were opened, and came to numbers.
    fn believable(&self) -> Result<(), EngineError> {
        if let Some(file) = self.model.lost() {
            return Err(EngineError::Changed { file: file.display().to_string() });
        }
        self.scratch.logits().chunks(self.model.structure.vocab).try_for_each(numbers)
    }

    /// Whether a prompt can be read at all: not empty, known tokens, within the context.
    ///
    /// # Errors
    /// What `prefill` would refuse, but for pages that others own.
    pub fn check(&self, tokens: &[u32]) -> Result<(), EngineError> {
        check(tokens, 0, self.model.structure.vocab, self.limits.context)
    }

    /// Read one generated token; logits after it. Several sequences go together: `[sequences, vocab]`.
    ///
    /// # Errors
    /// As `prefill`.
    pub fn decode(&mut self, sequences: &mut [(&mut Sequence, u32)]) -> Result<&[f32], EngineError> {
        let tokens: Vec<u32> = sequences.iter().map(|(_, token)| *token).collect();
        let mut parts: Vec<Part> = sequences
            .iter_mut()
            .zip(&tokens)
            .map(|((sequence, _), token)| Part {
                sequence,
                tokens: std::slice::from_ref(token),
                prompt: 0,
                logits: true,
            })
            .collect();
        self.step(&mut parts)
    }

    /// Logits of every token of a prompt, `[tokens, vocab]`. Nothing is kept.
    ///
    /// # Errors
    /// As `prefill`.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        let mut sequence = self.sequence();
        self.admit(&mut sequence, tokens)?;
        let len = tokens.len();
        let pages = sequence.pages.ids();
        let span = Span { first: 0, len, position: 0, prompt: len, pages, logits: Wanted::All };
        self.model.forward(&self.pool, &Batch { tokens, spans: &[span] }, &mut self.cache, &mut self.scratch, None);
        self.believable()?;
        Ok(self.scratch.logits())
    }

    /// Logits of every token of a prompt, and what went on inside, for comparing implementations. Nothing is kept.
    ///
    /// # Errors
    /// As `prefill`.
    pub fn trace(&mut self, tokens: &[u32]) -> Result<(Vec<f32>, Trace), EngineError> {
        let mut sequence = self.sequence();
        self.admit(&mut sequence, tokens)?;
        let mut trace = Trace::default();
        let (len, pages) = (tokens.len(), sequence.pages.ids());
        let span = Span { first: 0, len, position: 0, prompt: len, pages, logits: Wanted::All };
        let batch = Batch { tokens, spans: &[span] };
        self.model.forward(&self.pool, &batch, &mut self.cache, &mut self.scratch, Some(&mut trace));
        Ok((self.scratch.logits().to_vec(), trace))
    }
}

/// A fingerprint that lacks the hashes of the model's files.
pub(crate) struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// The whole of it, with the files in the order of `Transformer::files`.
    pub fn with(mut self, files: &[FileHash]) -> [u8; 32] {
        for hash in files {
            self.0.update(hash);
        }
        *self.0.finalize().as_bytes()
    }
}

/// Whether a row of logits holds numbers.
pub(crate) fn numbers(row: &[f32]) -> Result<(), EngineError> {
    match row.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(token) => Err(EngineError::NotFinite { token, value: row[token] }),
    }
}

/// Whether `tokens` can follow `there` others.
pub(crate) fn check(tokens: &[u32], there: usize, vocab: usize, context: usize) -> Result<(), EngineError> {
    if tokens.is_empty() {
        return Err(EngineError::Empty);
    }
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab) {
        return Err(EngineError::Vocabulary { token, vocab });
    }
    let total = there + tokens.len();
    if total > context {
        return Err(EngineError::TooLong { tokens: total, over: total - context, context });
    }
    Ok(())
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the stop ids was chosen.
    Stop(u32),
    /// As many tokens as were asked for.
    Length,
    /// The context is full.
    Context,
    /// What the text had to obey allows nothing further.
    Complete,
    /// The time it was given is over.
    Time,
    /// The caller stopped it.
    Cancelled,
}

/// What a generation does next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// A token.
    Token(u32),
    /// The end; it is given again and again.
    End(Finish),
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Prompt tokens computed (not those that were there).
    pub prompt_tokens: usize,
    /// Time for them.
    pub prefill: Duration,
    /// Tokens generated.
    pub generated: usize,
    /// Time for them, the first apart from its prompt included.
    pub decode: Duration,
    /// Prompt tokens that were in the cache.
    pub cached_tokens: usize,
    /// Time in the queue.
    pub waited: Duration,
}

/// A prompt and its continuation, token by token.
pub struct Generation<'a> {
    engine: &'a mut Engine,
    sequence: &'a mut Sequence,
    sampler: Sampler,
    stops: Vec<u32>,
    tokens_max: usize,
    logits: Vec<f32>,
    pending: Option<u32>,
    finish: Option<Finish>,
    timing: Timing,
}

impl<'a> Generation<'a> {
    /// Read `prompt` after what the sequence holds.
    ///
    /// # Errors
    /// As `Engine::prefill`.
    pub fn start(
        engine: &'a mut Engine,
        sequence: &'a mut Sequence,
        prompt: &[u32],
        sampler: Sampler,
        stops: Vec<u32>,
        tokens_max: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Self, EngineError> {
        let started = Instant::now();
        let logits = engine.prefill(sequence, prompt, progress)?.map(<[f32]>::to_vec);
        let finish = if logits.is_none() { Some(Finish::Cancelled) } else { None };
        let timing = Timing { prompt_tokens: prompt.len(), prefill: started.elapsed(), ..Timing::default() };
        let logits = logits.unwrap_or_default();
        Ok(Generation { engine, sequence, sampler, stops, tokens_max, logits, pending: None, finish, timing })
    }

    /// The next token, or the end. A token is read into the sequence when the next one is asked for.
    ///
    /// # Errors
    /// Weights that changed under the run, or that lead to no number.
    pub fn step(&mut self) -> Result<Step, EngineError> {
        if let Some(finish) = self.finish {
            return Ok(Step::End(finish));
        }
        let started = Instant::now();
        let step = self.advance()?;
        self.timing.decode += started.elapsed();
        if let Step::End(finish) = step {
            self.finish = Some(finish);
        }
        Ok(step)
    }

    fn advance(&mut self) -> Result<Step, EngineError> {
        if self.timing.generated >= self.tokens_max {
            return Ok(Step::End(Finish::Length));
        }
        if let Some(token) = self.pending.take() {
            match self.engine.decode(&mut [(self.sequence, token)]) {
                Ok(logits) => self.logits.copy_from_slice(logits),
                Err(EngineError::TooLong { .. } | EngineError::Full { .. }) => return Ok(Step::End(Finish::Context)),
                Err(other) => return Err(other),
            }
        }
        let token = self.sampler.sample(&self.logits, self.sequence.tokens());
        if self.stops.contains(&token) {
            return Ok(Step::End(Finish::Stop(token)));
        }
        self.pending = Some(token);
        self.timing.generated += 1;
        Ok(Step::Token(token))
    }

    /// Log-probability of `token` at the place of the last step, and the `most` likeliest ids with theirs.
    pub fn log_probabilities(&self, token: u32, most: usize) -> (f32, Vec<(u32, f32)>) {
        log_probabilities(&self.logits, token, most)
    }

    /// End it here.
    pub fn cancel(&mut self) {
        self.finish.get_or_insert(Finish::Cancelled);
    }

    /// What it took so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }
}
