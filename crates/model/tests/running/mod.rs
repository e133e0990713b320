//! What the tests of this crate share: a model that runs sequences, and readers of reference tensors.
#![allow(dead_code)] // each test uses its part

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use kernels::Pool;
use model::attention::Form;
use model::cache::PAGE;
use model::{Batch, Cache, CacheFormat, Checkpoint, Scratch, Span, Trace, Transformer, Wanted};
use safetensors::tensor::TensorView;

pub fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub fn tensors(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub fn floats(tensor: &TensorView) -> Vec<f32> {
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
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
        let cache = Cache::new(&self.model.structure, self.format, pages);
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
