//! What happens to each token alone: a gated block (SwiGLU), or a mixture of them behind a router.

mod balance;
mod dense;
mod mixture;

pub(crate) use balance::move_bias;
pub use balance::{Balance, Load};
use dense::{DenseNet, DenseSaved};
use mixture::{MixtureNet, MixtureSaved};
use model::structure::{Activation, FeedForward};

use crate::error::Error;
use crate::parameters::Parameters;
use crate::pass::{Pass, Values};

/// A feed-forward's parameters.
pub(crate) enum FeedForwardNet {
    Dense(DenseNet),
    Mixture(Box<MixtureNet>),
}

/// What a forward leaves for its backward.
pub(crate) enum FeedForwardSaved {
    Dense(DenseSaved),
    Mixture(Box<MixtureSaved>),
}

impl FeedForwardNet {
    pub fn new(
        all: &mut Parameters,
        (layer, prefix): (usize, &str),
        hidden: usize,
        kind: &FeedForward,
    ) -> Result<Self, Error> {
        Ok(match kind {
            FeedForward::Dense(shape) => {
                if shape.activation != Activation::Silu {
                    return Err(Error::Structure { layer, what: "a feed-forward with another activation than SiLU" });
                }
                FeedForwardNet::Dense(DenseNet::new(all, &format!("{prefix}.mlp"), hidden, shape.hidden, shape.bias))
            }
            FeedForward::Moe(shape) => FeedForwardNet::Mixture(Box::new(MixtureNet::new(all, prefix, hidden, shape))),
        })
    }

    /// `out[tokens, hidden]` from normed rows `x`.
    pub fn forward(&self, pass: &mut Pass, x: &[f32], out: &mut [f32]) -> FeedForwardSaved {
        match self {
            FeedForwardNet::Dense(net) => FeedForwardSaved::Dense(net.forward(pass, x, out)),
            FeedForwardNet::Mixture(net) => FeedForwardSaved::Mixture(Box::new(net.forward(pass, x, out))),
        }
    }

    /// `dx =` the gradient of the normed rows, from that of `out`; and the balance loss, whose gradient is in it.
    pub fn backward(
        &self,
        pass: &mut Pass,
        (x, saved): (&[f32], FeedForwardSaved),
        (dy, balance): (&[f32], Balance),
        dx: &mut [f32],
        gradients: &mut Values,
    ) -> Option<Load> {
        match (self, saved) {
            (FeedForwardNet::Dense(net), FeedForwardSaved::Dense(saved)) => {
                net.backward(pass, (x, saved), dy, (dx, false), gradients);
                None
            }
            (FeedForwardNet::Mixture(net), FeedForwardSaved::Mixture(saved)) => {
                Some(net.backward(pass, (x, *saved), (dy, balance), dx, gradients))
            }
            _ => unreachable!("what a layer saved is of its kind"),
        }
    }
}

impl FeedForwardSaved {
    /// Let go of what no backward will use.
    pub fn give(self, pass: &mut Pass) {
        match self {
            FeedForwardSaved::Mixture(saved) => saved.give(pass),
            FeedForwardSaved::Dense(saved) => saved.give(pass),
        }
    }
}
