//! What the tests of this crate share: a model that runs sequences, and readers of reference tensors.
#![allow(dead_code)] // each test uses its part

#[path = "../twins/mod.rs"]
pub mod twins;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farthing_model::attention::Form;
use farthing_model::cache::PAGE;
use farthing_model::mmap::Mapping;
use farthing_model::weight::Weight;
use farthing_model::{Batch, Cache, CacheFormat, Checkpoint, Scratch, Span, Trace, Transformer, Wanted};
use kernels::{Format, Pool};
use safetensors::tensor::TensorView;

pub fn case(name: &str) -> PathBuf {
    twins::reference(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), name)
}

pub fn tensors(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub fn floats(tensor: &TensorView) -> Vec<f32> {
    let data = tensor.data();
    match tensor.dtype() {
        safetensors::Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        safetensors::Dtype::BF16 => data.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn ids(tensor: &TensorView) -> Vec<u32> {
    match tensor.dtype() {
        safetensors::Dtype::I64 => {
            tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
        }
        safetensors::Dtype::I32 => {
            tensor.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u32).collect()
        }
        other => panic!("{other:?}"),
    }
}

pub struct Runner {
    pub model: Transformer,
    pub pool: Pool,
    pub format: CacheFormat,
    pub form: Form,
}

impl Runner {
    pub fn open(path: &Path) -> Runner {
        let checkpoint = Checkpoint::open(path).unwrap();
        let weights = checkpoint.weights().unwrap();
        Runner::of(Transformer::new(checkpoint.structure, weights))
    }

    pub fn of(model: Transformer) -> Runner {
        Runner { model, pool: Pool::new(2), format: CacheFormat::F32, form: Form::ByPlace }
    }

    pub fn sequence(&self, length: usize) -> Sequence<'_> {
        let pages = length.div_ceil(PAGE);
        // Pages in an order that is not their number's.
        let list = (0..pages as u32).rev().collect();
        let cache = Cache::new(self.model.structure.cache_layout(self.format), pages);
        Sequence {
            runner: self,
            cache: RefCell::new(cache),
            scratch: RefCell::new(Scratch::with_form(self.form)),
            pages: list,
            position: 0,
        }
    }

    /// Logits of every position, and the trace, of a prompt taken whole.
    pub fn whole(&self, tokens: &[u32]) -> (Vec<f32>, Trace) {
        let sequence = self.sequence(tokens.len());
        let mut trace = Trace::default();
        let span = Span {
            first: 0,
            len: tokens.len(),
            position: 0,
            prompt: tokens.len(),
            pages: &sequence.pages,
            logits: Wanted::All,
        };
        let batch = Batch { tokens, spans: &[span] };
        let mut scratch = sequence.scratch.borrow_mut();
        let logits = self
            .model
            .forward(&self.pool, &batch, &mut sequence.cache.borrow_mut(), &mut scratch, Some(&mut trace))
            .to_vec();
        (logits, trace)
    }
}

pub struct Sequence<'a> {
    runner: &'a Runner,
    pub cache: RefCell<Cache>,
    scratch: RefCell<Scratch>,
    pub pages: Vec<u32>,
    pub position: usize,
}

impl Sequence<'_> {
    /// Take the next tokens of a sequence whose first `prompt` tokens are its prompt; logits of the last.
    pub fn feed(&mut self, tokens: &[u32], prompt: usize) -> Vec<f32> {
        let span = Span {
            first: 0,
            len: tokens.len(),
            position: self.position,
            prompt,
            pages: &self.pages,
            logits: Wanted::Last,
        };
        let batch = Batch { tokens, spans: &[span] };
        self.position += tokens.len();
        let (model, pool) = (&self.runner.model, &self.runner.pool);
        model.forward(pool, &batch, &mut self.cache.borrow_mut(), &mut self.scratch.borrow_mut(), None).to_vec()
    }
}

pub fn tokens(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729 + i * i) % 500) as u32).collect()
}

/// The largest difference of two rows; infinite where either holds what is no number.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

#[test]
fn what_is_no_number_differs() {
    assert_eq!(largest_difference(&[1.0, f32::NAN, 2.0], &[1.0, 0.0, 2.5]), f32::INFINITY);
    assert_eq!(largest_difference(&[f32::NAN], &[f32::NAN]), f32::INFINITY);
    assert_eq!(largest_difference(&[1.0, 2.0], &[1.0, 2.5]), 0.5);
}

/// Bits of numbers: two rows of NaN would be equal, and are refused.
pub fn bits(x: &[f32]) -> Vec<u32> {
    assert!(x.iter().all(|x| !x.is_nan()), "not a number");
    x.iter().map(|x| x.to_bits()).collect()
}

pub fn argmax(x: &[f32]) -> usize {
    (0..x.len()).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap()
}

/// Median KL divergence of rows of logits.
pub fn median_divergence(a: &[f32], b: &[f32], vocab: usize) -> f64 {
    assert!(a.len() == b.len() && a.iter().chain(b).all(|x| x.is_finite()));
    let mut divergences: Vec<f64> = a
        .chunks(vocab)
        .zip(b.chunks(vocab))
        .map(|(a, b)| {
            let normal = |x: &[f32]| x.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
            let (na, nb) = (normal(a), normal(b));
            a.iter().zip(b).map(|(&a, &b)| (a as f64 - na).exp() * ((a as f64 - na) - (b as f64 - nb))).sum()
        })
        .collect();
    divergences.sort_by(f64::total_cmp);
    divergences[divergences.len() / 2]
}

/// A matrix decoded to f32.
pub fn decode(w: &mut Weight) {
    let mut values = vec![0f32; w.rows * w.cols];
    for (r, row) in values.chunks_mut(w.cols).enumerate() {
        w.matrix().decode_row(r, row);
    }
    let file = Arc::new(Mapping::held("decoded", values.iter().flat_map(|v| v.to_le_bytes()).collect()));
    *w = Weight { format: Format::F32, file, offset: 0, scales: None, scale_row: 0, ..*w };
}

/// The same model with every matrix decoded to f32.
pub fn decoded_twin(path: &Path) -> Runner {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut weights = checkpoint.weights().unwrap();
    weights.each_matrix(&mut decode);
    Runner::of(Transformer::new(checkpoint.structure, weights))
}

/// A small generator, so that a failing case repeats from its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..n`
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// `-1..1`
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Three sequences, prompts and answers, in random chunks and random company; every row has the bits of its sequence taken whole and alone.
pub fn any_schedule_gives_the_same_bits(runner: &Runner, what: &str, random: &mut Random) {
    let (pool, model) = (&runner.pool, &runner.model);
    let vocab = model.structure.vocab;
    let lengths: Vec<(usize, usize)> = (0..3).map(|_| (1 + random.below(330), random.below(5))).collect();
    let all: Vec<Vec<u32>> = lengths
        .iter()
        .map(|&(prompt, answer)| (0..prompt + answer).map(|_| random.below(vocab) as u32).collect())
        .collect();
    let whole: Vec<Vec<f32>> = all
        .iter()
        .zip(&lengths)
        .map(|(tokens, &(prompt, _))| {
            let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE) as u32).collect();
            let mut cache = Cache::new(model.structure.cache_layout(runner.format), pages.len());
            let spans = [Span { first: 0, len: tokens.len(), position: 0, prompt, pages: &pages, logits: Wanted::All }];
            model.forward(pool, &Batch { tokens, spans: &spans }, &mut cache, &mut Scratch::new(), None).to_vec()
        })
        .collect();

    let mut free: Vec<u32> = (0..all.iter().map(|t| t.len().div_ceil(PAGE) as u32).sum()).collect();
    let mut cache = Cache::new(model.structure.cache_layout(runner.format), free.len());
    let pages: Vec<Vec<u32>> = all
        .iter()
        .map(|t| (0..t.len().div_ceil(PAGE)).map(|_| free.swap_remove(random.below(free.len()))).collect())
        .collect();
    let (mut scratch, mut done) = (Scratch::new(), [0; 3]);
    while (0..3).any(|i| done[i] < all[i].len()) {
        let (mut tokens, mut spans) = (Vec::new(), Vec::new());
        for i in 0..3 {
            let left = all[i].len() - done[i];
            if left == 0 || random.below(4) == 0 {
                continue;
            }
            let len = if random.below(2) == 0 { 1 } else { 1 + random.below(left.min(200)) };
            let logits = if random.below(4) == 0 { Wanted::None } else { Wanted::All };
            let (first, position, prompt) = (tokens.len(), done[i], lengths[i].0);
            tokens.extend(&all[i][position..position + len]);
            spans.push((i, Span { first, len, position, prompt, pages: &pages[i], logits }));
        }
        let batch: Vec<Span> = spans.iter().map(|s| s.1).collect();
        let rows = model.forward(pool, &Batch { tokens: &tokens, spans: &batch }, &mut cache, &mut scratch, None);
        let mut rows = rows.chunks(vocab);
        for (i, span) in spans {
            for position in done[i]..done[i] + span.len {
                if span.logits == Wanted::All {
                    let expected = &whole[i][position * vocab..(position + 1) * vocab];
                    assert_eq!(bits(rows.next().unwrap()), bits(expected), "{what} {lengths:?} {i} {position}");
                }
            }
            done[i] += span.len;
        }
        assert!(rows.next().is_none());
    }
}
