//! A structure as bytes that stay the same from one version of this program to the next, for keys of what is kept on disk.
//!
//! Every field that the forward's numbers follow from is written with a name of its own and a fixed length; names that people read are not. The
//! patterns name all fields, so that a new one is not forgotten: give it a line here, written only where it differs from what was meant before it
//! came, and what is on disk stays found.

use crate::structure::{Attention, FeedForward, GroupScore, Layer, Pairing, Rope, Router, Score, Structure};

/// Takes named values.
struct Fields<'a>(&'a mut dyn FnMut(&[u8]));

impl Fields<'_> {
    /// Names hold no zero byte and values have eight bytes, so no two lists of fields give the same bytes.
    fn number(&mut self, name: &str, value: u64) {
        (self.0)(name.as_bytes());
        (self.0)(&[0]);
        (self.0)(&value.to_le_bytes());
    }

    fn size(&mut self, name: &str, value: usize) {
        self.number(name, value as u64);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.number(name, u64::from(value));
    }

    fn float(&mut self, name: &str, value: f32) {
        self.number(name, u64::from(value.to_bits()));
    }

    /// Nothing where there is nothing.
    fn optional(&mut self, name: &str, value: Option<usize>) {
        if let Some(value) = value {
            self.size(name, value);
        }
    }
}

impl Structure {
    /// Give `take` all that the numbers of the forward follow from besides the weights.
    pub fn identify(&self, take: &mut dyn FnMut(&[u8])) {
        // What it is called and the positions it was made for change no number: rotary frequencies are below.
        let Structure { architecture: _, vocab, hidden, layers, context: _, norm_eps, tied } = self;
        let fields = &mut Fields(take);
        fields.size("vocab", *vocab);
        fields.size("hidden", *hidden);
        fields.float("norm_eps", *norm_eps);
        fields.flag("tied", *tied);
        fields.size("layers", layers.len());
        for Layer { attention, feed_forward } in layers {
            self::attention(attention, fields);
            self::feed_forward(feed_forward, fields);
        }
    }
}

fn attention(attention: &Attention, fields: &mut Fields) {
    match attention {
        Attention::Gqa { heads, kv_heads, head_dim, qk_norm, qkv_bias, out_bias, window, rope } => {
            fields.size("gqa.heads", *heads);
            fields.size("gqa.kv_heads", *kv_heads);
            fields.size("gqa.head_dim", *head_dim);
            fields.flag("gqa.qk_norm", *qk_norm);
            fields.flag("gqa.qkv_bias", *qkv_bias);
            fields.flag("gqa.out_bias", *out_bias);
            fields.optional("gqa.window", *window);
            self::rope(rope, fields);
        }
        Attention::Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, value_dim, bias, latent_eps, rope } => {
            fields.size("mla.heads", *heads);
            fields.optional("mla.q_rank", *q_rank);
            fields.size("mla.kv_rank", *kv_rank);
            fields.size("mla.nope_dim", *nope_dim);
            fields.size("mla.rope_dim", *rope_dim);
            fields.size("mla.value_dim", *value_dim);
            fields.flag("mla.bias", *bias);
            fields.float("mla.latent_eps", *latent_eps);
            self::rope(rope, fields);
        }
    }
}

fn rope(rope: &Rope, fields: &mut Fields) {
    let Rope { frequencies, pairing, amplitude, score_scale } = rope;
    fields.size("rope.frequencies", frequencies.len());
    frequencies.iter().for_each(|&f| fields.float("f", f));
    fields.flag("rope.halves", matches!(pairing, Pairing::Halves));
    fields.float("rope.amplitude", *amplitude);
    fields.float("rope.score_scale", *score_scale);
}

fn feed_forward(feed_forward: &FeedForward, fields: &mut Fields) {
    match feed_forward {
        FeedForward::Dense { hidden, bias } => {
            fields.size("dense.hidden", *hidden);
            fields.flag("dense.bias", *bias);
        }
        FeedForward::Moe { experts, active, hidden, shared_hidden, router } => {
            fields.size("moe.experts", *experts);
            fields.size("moe.active", *active);
            fields.size("moe.hidden", *hidden);
            fields.size("moe.shared_hidden", *shared_hidden);
            let Router { score, groups, groups_active, group_score, bias, normalize, scale } = router;
            fields.flag("router.sigmoid", matches!(score, Score::Sigmoid));
            fields.size("router.groups", *groups);
            fields.size("router.groups_active", *groups_active);
            fields.flag("router.top_two", matches!(group_score, GroupScore::TopTwo));
            fields.flag("router.bias", *bias);
            fields.flag("router.normalize", *normalize);
            fields.float("router.scale", *scale);
        }
    }
}
