//! One gated block for every token: `down(silu(gate(x)) * up(x))`.

use kernels::Pool;
use kernels::training::{silu_mul_backward, silu_mul_rows};

use crate::buffers::Buffer;
use crate::linear::Linear;
use crate::parameters::{Parameters, Role};
use crate::pass::{Pass, ROWS, Values};

pub(crate) struct DenseNet {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Gates and ups of every token side by side, `[tokens, 2, inner]`, before the activation.
pub(crate) struct DenseSaved(Buffer);

impl DenseSaved {
    pub fn give(self, pass: &mut Pass) {
        pass.buffers.give(self.0);
    }
}

impl DenseNet {
    pub fn new(all: &mut Parameters, prefix: &str, hidden: usize, inner: usize, bias: bool) -> DenseNet {
        DenseNet {
            gate: Linear::new(all, &format!("{prefix}.gate_proj"), (inner, hidden), bias, Role::Matrix),
            up: Linear::new(all, &format!("{prefix}.up_proj"), (inner, hidden), bias, Role::Matrix),
            down: Linear::new(all, &format!("{prefix}.down_proj"), (hidden, inner), bias, Role::Output),
        }
    }

    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> DenseSaved {
        let len = pass.tokens() * self.gate.outputs;
        let (mut gate_up, mut inner) = (pass.buffers.take(2 * len), pass.buffers.take(len));
        Linear::forward_beside(pass, [&self.gate, &self.up], x, &mut gate_up);
        activated(pass.pool, &gate_up, self.gate.outputs, &mut inner);
        self.down.forward(pass, &inner, out);
        pass.buffers.give(inner);
        DenseSaved(gate_up)
    }

    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], DenseSaved),
        dy: &[f32],
        (dx, add): (&mut [f32], bool),
        gradients: &mut Values,
    ) {
        let (DenseSaved(mut gate_up), width) = (saved, self.gate.outputs);
        let [mut inner, mut d_inner] = [(); 2].map(|()| pass.buffers.take(gate_up.len() / 2));
        activated(pass.pool, &gate_up, width, &mut inner);
        self.down.backward(pass, &inner, dy, (&mut d_inner, false), gradients);
        let mut parts: Vec<_> = gate_up.chunks_mut(2 * ROWS * width).zip(d_inner.chunks(ROWS * width)).collect();
        pass.pool.each(&mut parts, |(gate_up, d_inner)| silu_mul_backward(gate_up, width, d_inner));
        drop(parts);
        Linear::backward_beside(pass, [&self.gate, &self.up], x, &gate_up, (dx, add), gradients);
        [gate_up, inner, d_inner].into_iter().for_each(|b| pass.buffers.give(b));
    }
}

/// `out = silu(gate) * up`, from rows of both side by side.
pub(crate) fn activated(pool: &Pool, gate_up: &[f32], width: usize, out: &mut [f32]) {
    let mut parts: Vec<_> = gate_up.chunks(2 * ROWS * width).zip(out.chunks_mut(ROWS * width)).collect();
    pool.each(&mut parts, |(gate_up, out)| silu_mul_rows(gate_up, width, out));
}
