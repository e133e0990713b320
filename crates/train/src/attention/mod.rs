//! Attention over packed documents: queries, keys and values are made as `model` makes them, and kept for the backward.

mod grouped;
mod latent;

use grouped::{GroupedNet, GroupedSaved};
use kernels::training::{Packed, Shape, attention, attention_backward};
use latent::{LatentNet, LatentSaved};
use model::structure::Attention;

use crate::buffers::Buffer;
use crate::error::Error;
use crate::parameters::Parameters;
use crate::pass::{Pass, Values};

/// An attention's parameters.
pub(crate) enum AttentionNet {
    Grouped(GroupedNet),
    Latent(LatentNet),
}

/// What a forward leaves for its backward.
pub(crate) enum AttentionSaved {
    Grouped(GroupedSaved),
    Latent(LatentSaved),
}

impl AttentionNet {
    pub fn new(all: &mut Parameters, prefix: &str, hidden: usize, attention: &Attention) -> Result<Self, Error> {
        Ok(match attention {
            Attention::Gqa(shape) => AttentionNet::Grouped(GroupedNet::new(all, prefix, hidden, shape)),
            Attention::Mla(shape) => AttentionNet::Latent(LatentNet::new(all, prefix, hidden, shape)),
        })
    }

    /// `out[tokens, hidden]` from normed rows `x`.
    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> AttentionSaved {
        match self {
            AttentionNet::Grouped(net) => AttentionSaved::Grouped(net.forward(pass, x, out)),
            AttentionNet::Latent(net) => AttentionSaved::Latent(net.forward(pass, x, out)),
        }
    }

    /// `dx =` the gradient of the normed rows, from that of `out`.
    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], AttentionSaved),
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Values,
    ) {
        match (self, saved) {
            (AttentionNet::Grouped(net), AttentionSaved::Grouped(saved)) => {
                net.backward(pass, (x, saved), dy, dx, gradients);
            }
            (AttentionNet::Latent(net), AttentionSaved::Latent(saved)) => {
                net.backward(pass, (x, saved), dy, dx, gradients);
            }
            _ => unreachable!("what a layer saved is of its kind"),
        }
    }

    /// Let go of what a forward saved.
    pub fn discard(&self, pass: &mut Pass, saved: AttentionSaved) {
        let buffers: Vec<Buffer> = match saved {
            AttentionSaved::Grouped(saved) => saved.buffers(),
            AttentionSaved::Latent(saved) => saved.buffers(),
        };
        buffers.into_iter().for_each(|b| pass.buffers.give(b));
    }
}

/// Heads of all tokens: what goes into their attention, and what comes out.
struct Heads {
    /// `[heads, key]`
    q: Buffer,
    /// `[kv_heads, key]`
    k: Buffer,
    /// `[kv_heads, value]`
    v: Buffer,
    /// Outputs, `[heads, value]`.
    mixed: Buffer,
    /// Logarithms of sums of exponentials, `[heads]`.
    log_sums: Buffer,
}

impl Heads {
    /// Attention within each document.
    fn attend(pass: &mut Pass, shape: Shape, [q, k, v]: [Buffer; 3]) -> Heads {
        let tokens = pass.tokens();
        let mut mixed = pass.buffers.take(tokens * shape.heads * shape.value);
        let mut log_sums = pass.buffers.take(tokens * shape.heads);
        let packed = Packed { q: &q, k: &k, v: &v, documents: &pass.batch.documents };
        pass.timed(|| attention(pass.pool, pass.precision, shape, packed, (&mut mixed, &mut log_sums)));
        Heads { q, k, v, mixed, log_sums }
    }

    /// Gradients of queries, keys and values from that of the outputs.
    fn backward(self, pass: &mut Pass, shape: Shape, d_mixed: Buffer) -> [Buffer; 3] {
        let Heads { q, k, v, mixed, log_sums } = self;
        let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| pass.buffers.take(len));
        let packed = Packed { q: &q, k: &k, v: &v, documents: &pass.batch.documents };
        let outputs = (&mixed[..], &log_sums[..]);
        let to = (&mut dq[..], &mut dk[..], &mut dv[..]);
        pass.timed(|| attention_backward(pass.pool, pass.precision, shape, packed, outputs, &d_mixed, to));
        [q, k, v, mixed, log_sums, d_mixed].into_iter().for_each(|b| pass.buffers.give(b));
        [dq, dk, dv]
    }

    fn buffers(self) -> [Buffer; 5] {
        [self.q, self.k, self.v, self.mixed, self.log_sums]
    }
}
