//! One gated block for every token: `down(silu(gate(x)) * up(x))`.

use kernels::Pool;
use kernels::training::silu_mul_backward;

use crate::buffers::Buffer;
use crate::linear::Linear;
use crate::parameters::{Parameters, Role};
use crate::pass::{Pass, ROWS, Values};

pub(crate) struct DenseNet {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// `[tokens, inner]` each, before the activation.
pub(crate) struct DenseSaved {
    gate: Buffer,
    up: Buffer,
}

impl DenseSaved {
    pub fn give(self, pass: &mut Pass) {
        pass.buffers.give(self.gate);
        pass.buffers.give(self.up);
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
        let [mut gate, mut up, mut inner] = [(); 3].map(|()| pass.buffers.take(len));
        Linear::forward_all(pass, x, &mut [(&self.gate, &mut gate), (&self.up, &mut up)]);
        activated(pass.pool, (&gate, &up), self.gate.outputs, &mut inner);
        self.down.forward(pass, &inner, out);
        pass.buffers.give(inner);
        DenseSaved { gate, up }
    }

    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], DenseSaved),
        dy: &[f32],
        (dx, add): (&mut [f32], bool),
        gradients: &mut Values,
    ) {
        let DenseSaved { mut gate, mut up } = saved;
        let width = self.gate.outputs;
        let [mut inner, mut d_inner] = [(); 2].map(|()| pass.buffers.take(gate.len()));
        activated(pass.pool, (&gate, &up), width, &mut inner);
        self.down.backward(pass, &inner, dy, (&mut d_inner, false), gradients);
        let rows = gate.chunks_mut(ROWS * width).zip(up.chunks_mut(ROWS * width));
        let mut parts: Vec<_> = rows.zip(d_inner.chunks(ROWS * width)).collect();
        pass.pool.each(&mut parts, |((gate, up), d_inner)| silu_mul_backward(gate, up, d_inner));
        drop(parts);
        self.gate.backward(pass, x, &gate, (dx, add), gradients);
        self.up.backward(pass, x, &up, (dx, true), gradients);
        [gate, up, inner, d_inner].into_iter().for_each(|b| pass.buffers.give(b));
    }
}

/// `out = silu(gate) * up`
pub(crate) fn activated(pool: &Pool, (gate, up): (&[f32], &[f32]), width: usize, out: &mut [f32]) {
    let rows = gate.chunks(ROWS * width).zip(up.chunks(ROWS * width));
    let mut parts: Vec<_> = rows.zip(out.chunks_mut(ROWS * width)).collect();
    pool.each(&mut parts, |((gate, up), out)| {
        out.copy_from_slice(gate);
        kernels::silu_mul(out, up);
    });
}
