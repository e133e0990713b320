//! Tensors by their published names: those of Hugging Face checkpoints, and those of GGUF.

use std::cell::RefCell;
use std::collections::BTreeSet;

use kernels::Format;

use crate::error::CheckpointError;
use crate::families::names::NAMES;
use crate::tensors::{Depth, Kind, Stored, Tensors};
use crate::weight::{GatedBlock, Linear, Weight};

/// Tensors by the names that their kind of checkpoint has for them.
pub struct Names<'a> {
    pub(crate) tensors: &'a Tensors,
    pub(crate) kind: Kind,
    pub(crate) depth: Depth,
    pub(crate) norm_offset: f32,
    /// Tensors that became weights; `complete` names the others.
    pub(crate) used: RefCell<BTreeSet<String>>,
}

impl Names<'_> {
    fn note(&self, name: &str) {
        let mut used = self.used.borrow_mut();
        if self.tensors.by_name.get(name).is_some_and(|t| t.stored == Stored::As(Format::F8E4M3)) {
            used.insert(format!("{name}_scale_inv"));
        }
        used.insert(name.to_string());
    }

    pub fn whole(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.note(name);
        self.tensors.matrix(name, rows, cols, self.depth)
    }

    pub fn stack(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<Weight>, CheckpointError> {
        self.note(name);
        self.tensors.stack(name, [count, rows, cols], self.depth)
    }

    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.note(name);
        self.tensors.numbers(name, &[len], self.depth)
    }

    /// The stored name of a layer's part (by its Hugging Face name), with its ending.
    fn of(&self, layer: usize, part: &str, ending: &str) -> String {
        match self.kind {
            Kind::Safetensors => format!("model.layers.{layer}.{part}.{ending}"),
            Kind::Gguf => {
                let (_, name) = NAMES.iter().find(|(hf, _)| *hf == part).expect("every part has a name");
                format!("blk.{layer}.{name}.{ending}")
            }
        }
    }

    pub fn norm(&self, layer: usize, part: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        self.norm_named(&self.of(layer, part, "weight"), len)
    }

    pub fn norm_named(&self, name: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        let mut weight = self.vector(name, len)?;
        weight.iter_mut().for_each(|w| *w += self.norm_offset);
        Ok(weight)
    }

    pub fn matrix(&self, layer: usize, part: &str, rows: usize, cols: usize) -> Result<Weight, CheckpointError> {
        self.whole(&self.of(layer, part, "weight"), rows, cols)
    }

    pub fn bias(&self, layer: usize, part: &str, rows: usize) -> Result<Vec<f32>, CheckpointError> {
        self.vector(&self.of(layer, part, "bias"), rows)
    }

    pub fn linear(
        &self,
        layer: usize,
        part: &str,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<Linear, CheckpointError> {
        let weight = self.matrix(layer, part, rows, cols)?;
        let bias = bias.then(|| self.bias(layer, part, rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    pub fn block(
        &self,
        layer: usize,
        prefix: &str,
        inner: usize,
        hidden: usize,
    ) -> Result<GatedBlock, CheckpointError> {
        let of = |part: &str| self.of(layer, &format!("{prefix}.{part}"), "weight");
        self.block_named(["gate_proj", "up_proj", "down_proj"].map(of), inner, hidden)
    }

    pub fn block_named(&self, names: [String; 3], inner: usize, hidden: usize) -> Result<GatedBlock, CheckpointError> {
        let [gate, up, down] = names;
        let (gate, up) = (self.whole(&gate, inner, hidden)?, self.whole(&up, inner, hidden)?);
        Ok(GatedBlock { gate, up, down: self.whole(&down, hidden, inner)? })
    }
}
