//! Batches through the model: weights, cache, buffers and threads. It knows positions and pages, not requests; who owns which page is the
//! scheduler's affair, or that of the one caller who measures.

use std::sync::Arc;

use kernels::Pool;
use model::cache::PAGE;
use model::{Batch, Cache, CacheFormat, CacheLayout, ExpertCounts, Scratch, Span, Trace, Transformer, Wanted};

use crate::error::EngineError;
use crate::identity::FileHash;

/// Bounds of a runner.
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

/// A model with a cache, ready to compute.
pub struct Runner {
    model: Transformer,
    pool: Pool,
    format: CacheFormat,
    cache: Cache,
    scratch: Scratch,
    limits: Limits,
}

/// Positions of one sequence that are in the cache, for callers who use a runner alone: they say which pages it has, and give no page to two.
#[derive(Clone, Debug)]
pub struct Positions {
    pages: Vec<u32>,
    len: usize,
}

impl Positions {
    /// No position yet, in pages from `first` on that hold `most` of them.
    pub fn new(first: usize, most: usize) -> Positions {
        let end = first + most.div_ceil(PAGE);
        Positions { pages: (first as u32..end as u32).collect(), len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forget all but the first `len`.
    pub fn rewind(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Runner {
    /// A runner with a cache of `limits.cached` positions.
    pub fn new(model: Transformer, pool: Pool, format: CacheFormat, limits: Limits) -> Runner {
        let layout = model.structure.cache_layout(format);
        let pages = limits.cached.div_ceil(layout.page());
        Runner { model, pool, format, cache: Cache::new(layout, pages), scratch: Scratch::new(), limits }
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

    /// How the cache stores numbers.
    pub fn format(&self) -> CacheFormat {
        self.format
    }

    /// What the cache keeps.
    pub fn layout(&self) -> &CacheLayout {
        self.cache.layout()
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.cache.pages()
    }

    /// The cache, for what moves pages about.
    pub(crate) fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// How often each expert was chosen; it goes on counting.
    pub(crate) fn expert_counts(&self) -> Arc<ExpertCounts> {
        Arc::clone(self.model.expert_counts())
    }

    /// Logits of the rows that are wanted, in order, numbers or not. No sequence's bits depend on the others of the batch, nor on how its
    /// prompt was cut into chunks.
    ///
    /// # Errors
    /// Weights that are not what they were.
    pub fn forward(&mut self, batch: &Batch) -> Result<&[f32], EngineError> {
        self.traced(batch, None)
    }

    /// Final hidden states of the rows of the last forward that were wanted, in order.
    pub(crate) fn states(&self) -> &[f32] {
        self.scratch.states()
    }

    /// Whether logits of tokens can be had.
    fn generates(&self) -> Result<(), EngineError> {
        if self.model.structure.generates() { Ok(()) } else { Err(EngineError::NoText) }
    }

    fn traced(&mut self, batch: &Batch, trace: Option<&mut Trace>) -> Result<&[f32], EngineError> {
        if let Some(file) = self.model.changed() {
            return Err(EngineError::Changed { file: file.display().to_string() });
        }
        self.model.forward(&self.pool, batch, &mut self.cache, &mut self.scratch, trace);
        match self.model.lost() {
            Some(file) => Err(EngineError::Changed { file: file.display().to_string() }),
            None => Ok(self.scratch.logits()),
        }
    }

    /// Read tokens after those that are there, in chunks; logits after the last.
    ///
    /// # Errors
    /// Tokens that do not fit, or none, or an unknown one: nothing is read. Weights that changed, or that lead to no number.
    pub fn read(&mut self, to: &mut Positions, tokens: &[u32]) -> Result<&[f32], EngineError> {
        self.generates()?;
        check(tokens, to.len, self.model.structure.vocab, self.limits.context)?;
        let prompt = to.len + tokens.len();
        let mut rest = tokens;
        while !rest.is_empty() {
            // Chunks end at multiples of CHUNK, so that expanded blocks are whole.
            let (now, later) = rest.split_at((CHUNK - to.len % CHUNK).min(rest.len()));
            let logits = if later.is_empty() { Wanted::Last } else { Wanted::None };
            let span = Span { first: 0, len: now.len(), position: to.len, prompt, pages: &to.pages, logits };
            self.forward(&Batch { tokens: now, spans: &[span] })?;
            (to.len, rest) = (to.len + now.len(), later);
        }
        self.checked()
    }

    /// Read one generated token of each; logits after them, `[sequences, vocab]`.
    ///
    /// # Errors
    /// As `read`.
    pub fn decode(&mut self, sequences: &mut [(&mut Positions, u32)]) -> Result<&[f32], EngineError> {
        self.generates()?;
        for (to, token) in &*sequences {
            check(&[*token], to.len, self.model.structure.vocab, self.limits.context)?;
        }
        let tokens: Vec<u32> = sequences.iter().map(|(_, token)| *token).collect();
        let mut spans = Vec::with_capacity(sequences.len());
        for (first, (to, _)) in sequences.iter().enumerate() {
            spans.push(Span { first, len: 1, position: to.len, prompt: 0, pages: &to.pages, logits: Wanted::Last });
        }
        self.forward(&Batch { tokens: &tokens, spans: &spans })?;
        sequences.iter_mut().for_each(|(to, _)| to.len += 1);
        self.checked()
    }

    /// Copy the positions of one sequence to another's pages.
    pub fn copy(&mut self, from: &Positions, to: &mut Positions) {
        let pages = from.len.div_ceil(self.layout().page());
        for (&from, &to) in from.pages[..pages].iter().zip(&to.pages) {
            self.cache.copy_page(from, to);
        }
        to.len = from.len;
    }

    /// Logits of every token of a prompt, `[tokens, vocab]`. It takes the first pages and keeps nothing.
    ///
    /// # Errors
    /// As `read`.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], EngineError> {
        self.whole(tokens, None)?;
        self.checked()
    }

    /// Logits of every token of a prompt, and what went on inside, for comparing implementations. It takes the first pages and keeps nothing.
    ///
    /// # Errors
    /// As `read`, but for what is no number.
    pub fn trace(&mut self, tokens: &[u32]) -> Result<(Vec<f32>, Trace), EngineError> {
        let mut trace = Trace::default();
        let logits = self.whole(tokens, Some(&mut trace))?.to_vec();
        Ok((logits, trace))
    }

    fn whole(&mut self, tokens: &[u32], trace: Option<&mut Trace>) -> Result<&[f32], EngineError> {
        self.generates()?;
        check(tokens, 0, self.model.structure.vocab, self.limits.context)?;
        let (len, Positions { pages, .. }) = (tokens.len(), Positions::new(0, tokens.len()));
        let span = Span { first: 0, len, position: 0, prompt: len, pages: &pages, logits: Wanted::All };
        self.traced(&Batch { tokens, spans: &[span] }, trace)
    }

    /// The logits of the last forward, where they are numbers.
    fn checked(&self) -> Result<&[f32], EngineError> {
        let logits = self.scratch.logits();
        logits.chunks(self.model.structure.vocab).try_for_each(numbers)?;
        Ok(logits)
    }

    /// What the numbers of a page follow from, apart from the tokens: the arithmetic, the cache's format, the structure of the model, and its
    /// files, whose hashes are still to come.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("Farthing, model and arithmetic, version 2");
        hasher.update(&ARITHMETIC.to_le_bytes());
        let name = CacheFormat::ALL.iter().find(|(format, _)| *format == self.format).map_or("", |(_, name)| name);
        hasher.update(name.as_bytes()).update(&[0]);
        self.model.structure.identify(&mut |bytes| {
            hasher.update(bytes);
        });
        Fingerprint(hasher)
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
