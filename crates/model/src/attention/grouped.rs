//! Grouped-query attention (arXiv 2305.13245) over cached keys and values, with norms, biases and windows where a model has them.

use std::any::Any;

use kernels::{Queries, Shape};

use super::paged::{Query, SeenPositions, attend_paged, rows_together};
use super::{AttentionKind, AttentionLayer, Buffers, Call, Heads, each_row, places, project_input, sized};
use crate::cache::{Cache, CacheFormat, RowKind};
use crate::error::CheckpointError;
use crate::identity::IdentityFields;
use crate::loader::Names;
use crate::parameters::{sum, times};
use crate::rope::Rope;
use crate::weight::{Linear, Weight};

/// Grouped-query attention (multi-head when `kv_heads == heads`). Caches keys and values.
#[derive(Clone, Debug, PartialEq)]
pub struct Gqa {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// RMS norm on each head of q and k before rotation.
    pub qk_norm: bool,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the output projection.
    pub out_bias: bool,
    /// Keys a token may see, itself included; `None` = all.
    pub window: Option<usize>,
    /// Rotary embedding over the whole head.
    pub rope: Rope,
    /// Whether heads are rotated at all; without it only the score scale of `rope` counts.
    pub rotates: bool,
}

impl AttentionKind for Gqa {
    fn heads(&self) -> Heads<'_> {
        Heads { count: self.heads, widths: vec![self.head_dim], cache_width: 2 * self.head_dim, rope: &self.rope }
    }

    /// A key and a value of every head.
    fn cache(&self, format: CacheFormat) -> Vec<RowKind> {
        vec![RowKind::each_token(2 * self.kv_heads * self.head_dim, self.head_dim, format)]
    }

    fn parameters(&self, hidden: usize) -> u64 {
        let Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, .. } = *self;
        sum(&[
            times(&[2, hidden, head_dim, heads + kv_heads]),
            if qk_norm { times(&[2, head_dim]) } else { 0 },
            if qkv_bias { times(&[head_dim, heads + 2 * kv_heads]) } else { 0 },
            if out_bias { hidden as u64 } else { 0 },
        ])
    }

    fn identify(&self, fields: &mut IdentityFields) {
        let Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, window, rope, rotates } = self;
        fields.size("gqa.heads", *heads);
        fields.size("gqa.kv_heads", *kv_heads);
        fields.size("gqa.head_dim", *head_dim);
        fields.flag("gqa.qk_norm", *qk_norm);
        fields.flag("gqa.qkv_bias", *qkv_bias);
        fields.flag("gqa.out_bias", *out_bias);
        fields.optional("gqa.window", *window);
        fields.optional("gqa.unrotated", (!rotates).then_some(1));
        fields.rope(rope);
    }

    fn describe(&self) -> String {
        let name = if self.heads == self.kv_heads { "MHA" } else { "GQA" };
        let mut text = format!("{name}, {} heads over {} of {}", self.heads, self.kv_heads, self.head_dim);
        for (on, what) in [(self.qk_norm, ", norms on q and k"), (self.qkv_bias, ", biases")] {
            text.push_str(if on { what } else { "" });
        }
        text.push_str(if self.rotates { "" } else { ", no rotary embedding" });
        self.window.map_or(text.clone(), |w| format!("{text}, window {w}"))
    }

    fn load(&self, names: &Names, i: usize, hidden: usize) -> Result<Box<dyn AttentionLayer>, CheckpointError> {
        let Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, .. } = *self;
        let norm = |part| qk_norm.then(|| names.norm(i, part, head_dim)).transpose();
        Ok(Box::new(GqaLayer {
            shape: self.clone(),
            q: names.linear(i, "self_attn.q_proj", heads * head_dim, hidden, qkv_bias)?,
            k: names.linear(i, "self_attn.k_proj", kv_heads * head_dim, hidden, qkv_bias)?,
            v: names.linear(i, "self_attn.v_proj", kv_heads * head_dim, hidden, qkv_bias)?,
            out: names.linear(i, "self_attn.o_proj", hidden, heads * head_dim, out_bias)?,
            q_norm: norm("self_attn.q_norm")?,
            k_norm: norm("self_attn.k_norm")?,
        }))
    }
}

/// A layer of it.
pub struct GqaLayer {
    /// Its sizes.
    pub shape: Gqa,
    /// `[heads * head_dim, hidden]`
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`
    pub v: Linear,
    /// `[hidden, heads * head_dim]`
    pub out: Linear,
    /// `[head_dim]` each, when `qk_norm`.
    pub q_norm: Option<Vec<f32>>,
    /// See `q_norm`.
    pub k_norm: Option<Vec<f32>>,
}

impl AttentionLayer for GqaLayer {
    fn is_of(&self, kind: &dyn Any) -> bool {
        kind.downcast_ref() == Some(&self.shape)
    }

    fn inputs(&self) -> Vec<&Weight> {
        vec![&self.q.weight, &self.k.weight, &self.v.weight]
    }

    fn out(&self) -> &Linear {
        &self.out
    }

    fn matrices(&mut self) -> Vec<&mut Weight> {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.out].into_iter().map(|l| &mut l.weight).collect()
    }

    fn attend(&self, call: &Call, cache: &mut Cache, buffers: &mut Buffers) {
        let GqaLayer { shape, q, k, v, q_norm, k_norm, .. } = self;
        let Gqa { heads, kv_heads, head_dim: d, window, ref rope, rotates, .. } = *shape;
        let Buffers { angles, parts, queries: qs, keys: ks, values: vs, mixed, .. } = buffers;
        let (n, width) = (call.input.rows, kv_heads * d);
        let (qs, ks, vs) = (sized(qs, n * heads * d), sized(ks, n * width), sized(vs, n * width));
        project_input(call.pool, &mut [(q, &mut *qs), (k, &mut *ks), (v, &mut *vs)], call.input);
        angles.update(rope, call.batch);
        let turn = |row: usize, xs: &mut [f32], norm: &Option<Vec<f32>>| {
            if let Some(norm) = norm {
                let mut normed = vec![0f32; d];
                for head in xs.chunks_mut(d) {
                    kernels::rms_norm(head, norm, call.norm_eps, &mut normed);
                    head.copy_from_slice(&normed);
                }
            }
            if rotates {
                angles.rotate(row, rope.pairing, xs, d);
            }
        };
        let rows = places(call.batch, cache.layout().page());
        let cached = cache.rows_mut(call.layer, 0, &rows);
        let by_row = qs.chunks_mut(heads * d).zip(ks.chunks_mut(width)).zip(vs.chunks(width)).zip(cached);
        let mut tasks: Vec<_> = by_row.enumerate().collect();
        each_row(call.pool, &mut tasks, |(row, (((q, k), v), cached))| {
            turn(*row, q, q_norm);
            turn(*row, k, k_norm);
            cached.write(0, k);
            cached.write(width, v);
        });
        drop(tasks);
        let qs = &*qs;
        let mixed = sized(mixed, n * heads * d);
        let group = heads / kv_heads;
        let mut queries: Vec<Query> = Vec::new();
        let mut outs: Vec<_> = mixed.chunks_mut(d).map(Some).collect();
        for span in call.batch.spans {
            let together = rows_together(group, kv_heads, span.len, call.pool.threads());
            let mut i = 0;
            while i < span.len {
                // Rows that run together see the same first key.
                let position = span.position + i;
                let slides = window.is_some_and(|w| position + together > w);
                let count = if slides { 1 } else { together.min(span.len - i) };
                for head in 0..kv_heads {
                    let at = |row: usize| (span.first + i + row) * heads + head * group;
                    let places = (0..count).flat_map(|row| at(row)..at(row) + group);
                    queries.push(Query {
                        queries: Queries { q: &qs[at(0) * d..], heads: group, stride: heads * d },
                        outs: places.map(|place| outs[place].take().expect("every place once")).collect(),
                        pages: span.pages,
                        seen: SeenPositions::Range {
                            first: window.map_or(0, |w| (position + 1).saturating_sub(w)),
                            end: position + 1,
                        },
                        key_at: head * d,
                        value_at: width + head * d,
                    });
                }
                i += count;
            }
        }
        let shape = Shape { heads, key: d, value: d, scale: rope.score_scale };
        attend_paged(call.pool, &mut queries, shape, cache.rows(call.layer, 0), parts);
    }
}
