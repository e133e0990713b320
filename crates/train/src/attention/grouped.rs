//! Grouped-query attention (arXiv 2305.13245), with norms, biases and windows where a model has them.

use kernels::training::Shape;
use model::structure::Gqa;

use super::Heads;
use crate::buffers::Buffer;
use crate::linear::Linear;
use crate::parameters::{Id, Parameters, Role};
use crate::pass::{Pass, ROWS, Values};

pub(crate) struct GroupedNet {
    shape: Gqa,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// Norms of heads of q and k, `[head_dim]`.
    norms: Option<[Id; 2]>,
}

/// Of all tokens.
pub(crate) struct GroupedSaved {
    /// q and k before their norms, where they have them.
    raw: Option<[Buffer; 2]>,
    /// Queries and keys are rotated.
    heads: Heads,
}

impl GroupedSaved {
    pub fn buffers(self) -> Vec<Buffer> {
        self.heads.buffers().into_iter().chain(self.raw.into_iter().flatten()).collect()
    }
}

impl GroupedNet {
    pub fn new(all: &mut Parameters, prefix: &str, hidden: usize, shape: &Gqa) -> GroupedNet {
        let Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, .. } = *shape;
        let name = |part: &str| format!("{prefix}.self_attn.{part}");
        let mut linear = |part: &str, heads: usize| {
            let shape = (heads * head_dim, hidden);
            Linear::new(all, &name(part), shape, qkv_bias, Role::Matrix).stacking(all, &[head_dim])
        };
        let (q, k, v) = (linear("q_proj", heads), linear("k_proj", kv_heads), linear("v_proj", kv_heads));
        let out = Linear::new(all, &name("o_proj"), (hidden, heads * head_dim), out_bias, Role::Output);
        let norms = qk_norm.then(|| {
            ["q_norm", "k_norm"].map(|part| all.add(format!("{}.weight", name(part)), &[head_dim], Role::Norm))
        });
        GroupedNet { shape: shape.clone(), q, k, v, out, norms }
    }

    fn kernel(&self) -> Shape {
        let Gqa { heads, kv_heads, head_dim, window, ref rope, .. } = self.shape;
        Shape { heads, kv_heads, key: head_dim, value: head_dim, scale: rope.score_scale, window }
    }

    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> GroupedSaved {
        let (d, tokens) = (self.shape.head_dim, pass.tokens());
        let [mut q, mut k, mut v] = [&self.q, &self.k, &self.v].map(|l| pass.buffers.take(tokens * l.outputs));
        Linear::forward_all(pass, x, &mut [(&self.q, &mut q), (&self.k, &mut k), (&self.v, &mut v)]);
        let raw = self.norms.map(|norms| {
            [(&mut q, norms[0]), (&mut k, norms[1])].map(|(heads, norm)| {
                let mut normed = pass.buffers.take(heads.len());
                crate::norm::forward(pass.pool, heads, &pass.weights[norm], pass.norm_eps, &mut normed);
                std::mem::replace(heads, normed)
            })
        });
        if self.shape.rotates {
            assert_eq!(d, 2 * self.shape.rope.frequencies.len(), "a head is as wide as its rope");
            let angles = pass.angles(&self.shape.rope);
            for heads in [&mut q, &mut k] {
                let width = heads.len() / tokens;
                each_row(pass, heads, width, |token, row| angles.rotate(token, row, d));
            }
        }
        let heads = Heads::attend(pass, self.kernel(), [q, k, v]);
        self.out.forward(pass, &heads.mixed, out);
        GroupedSaved { raw, heads }
    }

    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], GroupedSaved),
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Values,
    ) {
        let (d, tokens) = (self.shape.head_dim, pass.tokens());
        let GroupedSaved { raw, heads } = saved;
        let mut d_mixed = pass.buffers.take(heads.mixed.len());
        self.out.backward(pass, &heads.mixed, dy, (&mut d_mixed, false), gradients);
        let [mut dq, mut dk, dv] = heads.backward(pass, self.kernel(), d_mixed);
        if self.shape.rotates {
            let angles = pass.angles(&self.shape.rope);
            for heads in [&mut dq, &mut dk] {
                let width = heads.len() / tokens;
                each_row(pass, heads, width, |token, row| angles.rotate_back(token, row, d));
            }
        }
        if let (Some(norms), Some(raw)) = (self.norms, raw) {
            for ((heads, norm), raw) in [(&mut dq, norms[0]), (&mut dk, norms[1])].into_iter().zip(raw) {
                let mut d_raw = pass.buffers.zeros(raw.len());
                let weight = &pass.weights[norm];
                crate::norm::backward(pass.pool, &raw, weight, pass.norm_eps, heads, &mut d_raw, &mut gradients[norm]);
                pass.buffers.give(std::mem::replace(heads, d_raw));
                pass.buffers.give(raw);
            }
        }
        self.q.backward(pass, x, &dq, (dx, false), gradients);
        self.k.backward(pass, x, &dk, (dx, true), gradients);
        self.v.backward(pass, x, &dv, (dx, true), gradients);
        [dq, dk, dv].into_iter().for_each(|b| pass.buffers.give(b));
    }
}

fn each_row(pass: &Pass, x: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let mut parts: Vec<_> = x.chunks_mut(ROWS * width).enumerate().collect();
    pass.pool.each(&mut parts, |(part, rows)| {
        rows.chunks_mut(width).enumerate().for_each(|(i, row)| f(*part * ROWS + i, row));
    });
}
