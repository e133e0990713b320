//! The structure of a model as plain data, parsed once by `families` and checked there; nothing here names a brand.

use crate::cache::{CacheFormat, CacheLayout};
use crate::identity::IdentityFields;
use crate::parameters::{Parameters, sum, times};

pub use crate::attention::{Attention, AttentionKind, Gqa, Heads, Mla};
pub use crate::feed_forward::{Activation, Dense, FeedForward, FeedForwardKind, GroupScore, Moe, Router, Score};
pub use crate::rope::{Pairing, Rope};

/// Everything about a model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// The architecture as its checkpoint names it (`deepseek_v2`, `llama`, ...), for people to read.
    pub architecture: String,
    /// Rows of the embedding, and of an output head for tokens.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// One entry per decoder layer.
    pub layers: Vec<Layer>,
    /// Positions the model was made for.
    pub context: usize,
    /// Epsilon of the layers' and the final RMS norm.
    pub norm_eps: f32,
    /// What turns the last hidden state into logits.
    pub head: Head,
    /// Factors on the stream.
    pub scales: Scales,
    /// Norms beside those before attention and feed-forward.
    pub norms: Norms,
}

/// The output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A row for each token.
    Own,
    /// The embedding's rows.
    Tied,
    /// A row for each of so many labels: the model scores texts.
    Labels(usize),
    /// None: the model embeds texts.
    None,
}

/// What norms a layer has besides, and how their weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// What attention and feed-forward give is normed before it is added to the stream.
    pub after: bool,
    /// What is added to every stored weight of a norm.
    pub offset: f32,
}

/// Factors on the stream, all 1 in most families.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// On an embedding.
    pub embedding: f32,
    /// On what a layer's two halves add.
    pub residual: f32,
    /// On logits.
    pub logits: f32,
}

impl Default for Scales {
    fn default() -> Scales {
        Scales { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// One decoder layer: `x += attention(norm(x)); x += feed_forward(norm(x))`, where `Norms::after` with a norm around both.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// How tokens look at each other.
    pub attention: Attention,
    /// What happens to each token alone.
    pub feed_forward: FeedForward,
}

impl Structure {
    /// Parameters, total and active per token.
    pub fn parameters(&self) -> Parameters {
        let (table, row) = (times(&[self.vocab, self.hidden]), self.hidden as u64);
        let norm = row;
        // Of a table a token reads one row, or all rows where it is the output's too.
        let (total, active) = match self.head {
            Head::Tied => (table, table),
            Head::Own => (sum(&[table, table]), sum(&[table, row])),
            Head::Labels(_) | Head::None => {
                let labels = times(&[self.outputs(), self.hidden]);
                (sum(&[table, labels]), sum(&[row, labels]))
            }
        };
        let mut all = Parameters { total: sum(&[total, norm]), active: sum(&[active, norm]) };
        let norms = times(&[if self.norms.after { 4 } else { 2 }, self.hidden]);
        for Layer { attention, feed_forward } in &self.layers {
            let attention = attention.parameters(self.hidden);
            let Parameters { total, active } = feed_forward.parameters(self.hidden);
            all.total = sum(&[all.total, attention, norms, total]);
            all.active = sum(&[all.active, attention, norms, active]);
        }
        all
    }

    /// Rows of the output head.
    pub fn outputs(&self) -> usize {
        match self.head {
            Head::Own | Head::Tied => self.vocab,
            Head::Labels(labels) => labels,
            Head::None => 0,
        }
    }

    /// Whether the head's rows are tokens: the model can generate text.
    pub fn generates(&self) -> bool {
        matches!(self.head, Head::Own | Head::Tied)
    }

    /// Numbers per token that a cache of expanded keys and values for every head would hold.
    pub fn cache_width_multi_head(&self) -> usize {
        self.layers.iter().map(|l| l.attention.heads()).map(|heads| heads.count * heads.cache_width).sum()
    }

    /// Numbers per token with grouped queries, eight heads to a key (or one key for all where there are fewer).
    pub fn cache_width_grouped(&self) -> usize {
        self.layers.iter().map(|l| l.attention.heads()).map(|heads| heads.count.div_ceil(8) * heads.cache_width).sum()
    }

    /// Give `take` all that the numbers of the forward follow from besides the weights.
    pub fn identify(&self, take: &mut dyn FnMut(&[u8])) {
        // What it is called and the positions it was made for change no number: rotary frequencies are below.
        let Structure { architecture: _, vocab, hidden, layers, context: _, norm_eps, head, scales, norms } = self;
        let fields = &mut IdentityFields(take);
        fields.size("vocab", *vocab);
        fields.size("hidden", *hidden);
        fields.float("norm_eps", *norm_eps);
        fields.flag("tied", *head == Head::Tied);
        // Written where they are there, so that what is on disk of other models stays found.
        let Scales { embedding, residual, logits } = *scales;
        for (name, scale) in [("scale.embedding", embedding), ("scale.residual", residual), ("scale.logits", logits)] {
            if scale != 1.0 {
                fields.float(name, scale);
            }
        }
        let Norms { after, offset } = *norms;
        fields.optional("norms.after", after.then_some(1));
        fields.optional("norms.offset", (offset != 0.0).then_some(offset.to_bits() as usize));
        fields.size("layers", layers.len());
        for Layer { attention, feed_forward } in layers {
            attention.identify(fields);
            feed_forward.identify(fields);
        }
    }

    /// What a cache keeps of a sequence, with numbers in this format.
    pub fn cache_layout(&self, format: CacheFormat) -> CacheLayout {
        CacheLayout::new(self.layers.iter().map(|layer| layer.attention.cache(format)).collect())
    }
}
