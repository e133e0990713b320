//! Multi-head latent attention (arXiv 2405.04434, section 2.1) in its expanded form: keys and values are rebuilt from latents for all heads.

use kernels::training::Shape;
use model::structure::Mla;

use super::Heads;
use crate::buffers::Buffer;
use crate::linear::Linear;
use crate::norm;
use crate::parameters::{Id, Parameters, Role};
use crate::pass::{Pass, ROWS, Values};

pub(crate) struct LatentNet {
    shape: Mla,
    query: Query,
    kv_a: Linear,
    kv_a_norm: Id,
    kv_b: Linear,
    out: Linear,
}

enum Query {
    Direct(Linear),
    Compressed { a: Linear, norm: Id, b: Linear },
}

/// Of all tokens.
pub(crate) struct LatentSaved {
    /// Compressed queries before their norm, `[q_rank]`, where queries are compressed.
    low: Option<Buffer>,
    /// Latents before their norm, and rotary keys before rotation, `[kv_rank + rope]`.
    entries: Buffer,
    /// Queries and keys are rotated.
    heads: Heads,
}

impl LatentSaved {
    pub fn buffers(self) -> Vec<Buffer> {
        let LatentSaved { low, entries, heads } = self;
        heads.buffers().into_iter().chain([entries]).chain(low).collect()
    }
}

impl LatentNet {
    pub fn new(all: &mut Parameters, prefix: &str, hidden: usize, shape: &Mla) -> LatentNet {
        let Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, .. } = *shape;
        let name = |part: &str| format!("{prefix}.self_attn.{part}");
        // Two projections for each head.
        let expand = |all: &mut Parameters, part: &str, rows: [usize; 2], inputs: usize| {
            let shape = (heads * (rows[0] + rows[1]), inputs);
            Linear::new(all, &name(part), shape, false, Role::Matrix).stacking(all, &rows)
        };
        let query = match q_rank {
            None => Query::Direct(expand(all, "q_proj", [nope_dim, rope_dim], hidden)),
            Some(rank) => Query::Compressed {
                a: Linear::new(all, &name("q_a_proj"), (rank, hidden), bias, Role::Matrix),
                norm: all.add(format!("{}.weight", name("q_a_layernorm")), &[rank], Role::Norm),
                b: expand(all, "q_b_proj", [nope_dim, rope_dim], rank),
            },
        };
        let entry = (kv_rank + rope_dim, hidden);
        LatentNet {
            shape: shape.clone(),
            query,
            kv_a: Linear::new(all, &name("kv_a_proj_with_mqa"), entry, bias, Role::Matrix)
                .stacking(all, &[kv_rank, rope_dim]),
            kv_a_norm: all.add(format!("{}.weight", name("kv_a_layernorm")), &[kv_rank], Role::Norm),
            kv_b: expand(all, "kv_b_proj", [nope_dim, value_dim], kv_rank),
            out: Linear::new(all, &name("o_proj"), (hidden, heads * value_dim), bias, Role::Output),
        }
    }

    fn kernel(&self) -> Shape {
        let Mla { heads, nope_dim, rope_dim, value_dim, ref rope, .. } = self.shape;
        let key = nope_dim + rope_dim;
        Shape { heads, kv_heads: heads, key, value: value_dim, scale: rope.score_scale, window: None }
    }

    /// Normed latents, `[tokens, kv_rank]`.
    fn latents(&self, pass: &mut Pass, entries: &[f32]) -> Buffer {
        let Mla { kv_rank, rope_dim, latent_eps, .. } = self.shape;
        let weight = &pass.weights[self.kv_a_norm];
        let mut latents = pass.buffers.take(pass.tokens() * kv_rank);
        let width = kv_rank + rope_dim;
        let mut parts: Vec<_> = entries.chunks(ROWS * width).zip(latents.chunks_mut(ROWS * kv_rank)).collect();
        pass.pool.each(&mut parts, |(entries, latents)| {
            for (entry, latent) in entries.chunks(width).zip(latents.chunks_mut(kv_rank)) {
                kernels::rms_norm(&entry[..kv_rank], weight, latent_eps, latent);
            }
        });
        drop(parts);
        latents
    }

    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> LatentSaved {
        let Mla { heads, kv_rank, nope_dim, rope_dim, value_dim, latent_eps, ref rope, .. } = self.shape;
        let (tokens, key, width) = (pass.tokens(), nope_dim + rope_dim, kv_rank + rope_dim);
        let mut entries = pass.buffers.take(tokens * width);
        let mut q = pass.buffers.take(tokens * heads * key);
        let low = match &self.query {
            Query::Direct(query) => {
                Linear::forward_all(pass, x, &mut [(query, &mut q), (&self.kv_a, &mut entries)]);
                None
            }
            Query::Compressed { a, norm, b } => {
                let mut low = pass.buffers.take(tokens * a.outputs);
                Linear::forward_all(pass, x, &mut [(a, &mut low), (&self.kv_a, &mut entries)]);
                let mut normed = pass.buffers.take(low.len());
                norm::forward(pass.pool, &low, &pass.weights[*norm], latent_eps, &mut normed);
                b.forward(pass, &normed, &mut q);
                pass.buffers.give(normed);
                Some(low)
            }
        };
        let latents = self.latents(pass, &entries);
        let mut expanded = pass.buffers.take(tokens * self.kv_b.outputs);
        self.kv_b.forward(pass, &latents, &mut expanded);
        pass.buffers.give(latents);

        let mut k = pass.buffers.take(tokens * heads * key);
        let mut v = pass.buffers.take(tokens * heads * value_dim);
        let angles = pass.angles(rope);
        let rows = q.chunks_mut(ROWS * heads * key).zip(k.chunks_mut(ROWS * heads * key));
        let mut parts: Vec<_> = rows.zip(v.chunks_mut(ROWS * heads * value_dim)).enumerate().collect();
        pass.pool.each(&mut parts, |(part, ((q, k), v))| {
            let mut rotary = vec![0f32; rope_dim];
            let rows = q.chunks_mut(heads * key).zip(k.chunks_mut(heads * key)).zip(v.chunks_mut(heads * value_dim));
            for (i, ((q, k), v)) in rows.enumerate() {
                let token = *part * ROWS + i;
                rotary.copy_from_slice(&entries[token * width + kv_rank..(token + 1) * width]);
                angles.rotate(token, &mut rotary, rope_dim);
                angles.rotate(token, &mut q[nope_dim..], key);
                let head = nope_dim + value_dim;
                let expanded = &expanded[token * heads * head..(token + 1) * heads * head];
                for h in 0..heads {
                    let (nope, value) = expanded[h * head..(h + 1) * head].split_at(nope_dim);
                    k[h * key..h * key + nope_dim].copy_from_slice(nope);
                    k[h * key + nope_dim..(h + 1) * key].copy_from_slice(&rotary);
                    v[h * value_dim..(h + 1) * value_dim].copy_from_slice(value);
                }
            }
        });
        drop(parts);
        pass.buffers.give(expanded);
        let heads = Heads::attend(pass, self.kernel(), [q, k, v]);
        self.out.forward(pass, &heads.mixed, out);
        LatentSaved { low, entries, heads }
    }

    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], LatentSaved),
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Values,
    ) {
        let latent_eps = self.shape.latent_eps;
        let LatentSaved { low, entries, heads } = saved;
        let mut d_mixed = pass.buffers.take(heads.mixed.len());
        self.out.backward(pass, &heads.mixed, dy, (&mut d_mixed, false), gradients);
        let [mut dq, dk, dv] = heads.backward(pass, self.kernel(), d_mixed);

        let (d_expanded, mut d_entries) = self.heads_backward(pass, &mut dq, &dk, &dv);
        [dk, dv].into_iter().for_each(|b| pass.buffers.give(b));

        let latents = self.latents(pass, &entries);
        let mut d_latents = pass.buffers.take(latents.len());
        self.kv_b.backward(pass, &latents, &d_expanded, (&mut d_latents, false), gradients);
        self.latents_backward(pass, (&entries, latent_eps), &d_latents, &mut d_entries, gradients);
        [latents, d_latents, d_expanded, entries].into_iter().for_each(|b| pass.buffers.give(b));

        match (&self.query, low) {
            (Query::Compressed { a, norm, b }, Some(low)) => {
                let mut normed = pass.buffers.take(low.len());
                norm::forward(pass.pool, &low, &pass.weights[*norm], latent_eps, &mut normed);
                let mut d_normed = pass.buffers.take(low.len());
                b.backward(pass, &normed, &dq, (&mut d_normed, false), gradients);
                let mut d_low = pass.buffers.zeros(low.len());
                let weight = &pass.weights[*norm];
                norm::backward(pass.pool, &low, weight, latent_eps, &d_normed, &mut d_low, &mut gradients[*norm]);
                a.backward(pass, x, &d_low, (dx, false), gradients);
                [low, normed, d_normed, d_low].into_iter().for_each(|b| pass.buffers.give(b));
            }
            (Query::Direct(query), _) => query.backward(pass, x, &dq, (dx, false), gradients),
            _ => unreachable!("compressed queries are saved"),
        }
        self.kv_a.backward(pass, x, &d_entries, (dx, true), gradients);
        [dq, d_entries].into_iter().for_each(|b| pass.buffers.give(b));
    }

    /// From gradients of heads to those of what they were put together from: `dq` is turned back in its place; returns the gradients of
    /// expanded latents and, for their rotary parts, of entries.
    fn heads_backward(&self, pass: &mut Pass, dq: &mut [f32], dk: &[f32], dv: &[f32]) -> (Buffer, Buffer) {
        let Mla { heads, kv_rank, nope_dim, rope_dim, value_dim, ref rope, .. } = self.shape;
        let (tokens, key, width) = (pass.tokens(), nope_dim + rope_dim, kv_rank + rope_dim);
        let mut d_expanded = pass.buffers.take(tokens * self.kv_b.outputs);
        let mut d_entries = pass.buffers.zeros(tokens * width);
        let angles = pass.angles(rope);
        let head = nope_dim + value_dim;
        let rows = dq.chunks_mut(ROWS * heads * key).zip(d_expanded.chunks_mut(ROWS * heads * head));
        let mut parts: Vec<_> = rows.zip(d_entries.chunks_mut(ROWS * width)).enumerate().collect();
        pass.pool.each(&mut parts, |(part, ((dq, d_expanded), d_entries))| {
            let rows = dq.chunks_mut(heads * key).zip(d_expanded.chunks_mut(heads * head));
            for (i, ((dq, d_expanded), d_entry)) in rows.zip(d_entries.chunks_mut(width)).enumerate() {
                let token = *part * ROWS + i;
                let dk = &dk[token * heads * key..(token + 1) * heads * key];
                let dv = &dv[token * heads * value_dim..(token + 1) * heads * value_dim];
                let rotary = &mut d_entry[kv_rank..];
                angles.rotate_back(token, &mut dq[nope_dim..], key);
                for h in 0..heads {
                    let (nope, turned) = dk[h * key..(h + 1) * key].split_at(nope_dim);
                    kernels::add(rotary, turned);
                    d_expanded[h * head..h * head + nope_dim].copy_from_slice(nope);
                    let value = &dv[h * value_dim..(h + 1) * value_dim];
                    d_expanded[h * head + nope_dim..(h + 1) * head].copy_from_slice(value);
                }
                angles.rotate_back(token, rotary, rope_dim);
            }
        });
        drop(parts);
        (d_expanded, d_entries)
    }

    /// The backward of `latents`, to the leading parts of `d_entries`, which are zeros.
    fn latents_backward(
        &self,
        pass: &Pass,
        (entries, eps): (&[f32], f32),
        d_latents: &[f32],
        d_entries: &mut [f32],
        gradients: &mut Values,
    ) {
        let (rank, width) = (self.shape.kv_rank, self.kv_a.outputs);
        let weight = &pass.weights[self.kv_a_norm];
        let mut sums = vec![0f32; pass.tokens().div_ceil(ROWS) * rank];
        let rows = entries.chunks(ROWS * width).zip(d_latents.chunks(ROWS * rank));
        let mut parts: Vec<_> = rows.zip(d_entries.chunks_mut(ROWS * width)).zip(sums.chunks_mut(rank)).collect();
        pass.pool.each(&mut parts, |(((entries, d_latents), d_entries), d_weight)| {
            let rows = entries.chunks(width).zip(d_latents.chunks(rank)).zip(d_entries.chunks_mut(width));
            for ((entry, d_latent), d_entry) in rows {
                let d_entry = &mut d_entry[..rank];
                kernels::training::rms_norm_backward(&entry[..rank], weight, eps, d_latent, d_entry, d_weight);
            }
        });
        drop(parts);
        sums.chunks(rank).for_each(|part| kernels::add(&mut gradients[self.kv_a_norm], part));
    }
}
