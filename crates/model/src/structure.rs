//! The structure of a model as plain data, parsed once by `families` and checked there; nothing here names a brand.

/// Everything about a model that is not a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// The architecture as its checkpoint names it (`deepseek_v2`, `llama`, ...), for people to read.
    pub architecture: String,
    /// Rows of the embedding and of the output head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// One entry per decoder layer.
    pub layers: Vec<Layer>,
    /// Positions the model was made for.
    pub context: usize,
    /// Epsilon of the layers' and the final RMS norm.
    pub norm_eps: f32,
    /// The output head is the embedding.
    pub tied: bool,
}

/// One decoder layer: `x += attention(norm(x)); x += feed_forward(norm(x))`.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// How tokens look at each other.
    pub attention: Attention,
    /// What happens to each token alone.
    pub feed_forward: FeedForward,
}

/// Kinds of attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Attention {
    /// Grouped-query attention (multi-head when `kv_heads == heads`). Caches keys and values.
    Gqa {
        /// Query heads.
        heads: usize,
        /// Key/value heads; divides `heads`.
        kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
        /// RMS norm on each head of q and k before rotation.
        qk_norm: bool,
        /// Biases on q, k, v.
        qkv_bias: bool,
        /// Bias on the output projection.
        out_bias: bool,
        /// Keys a token may see, itself included; `None` = all.
        window: Option<usize>,
        /// Rotary embedding over the whole head.
        rope: Rope,
    },
    /// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Caches `kv_rank + rope_dim` numbers.
    Mla {
        /// Query heads.
        heads: usize,
        /// Rank of the query compression; `None` = queries straight from the stream.
        q_rank: Option<usize>,
        /// Width of the cached latent.
        kv_rank: usize,
        /// Width of the unrotated part of a head's q and k.
        nope_dim: usize,
        /// Width of the rotated part, one key for all heads.
        rope_dim: usize,
        /// Width of a head's value.
        value_dim: usize,
        /// Biases on the compressions and the output projection (not on q_b, kv_b).
        bias: bool,
        /// Epsilon of the norms on the latents (1e-6 whatever `norm_eps` says).
        latent_eps: f32,
        /// Rotary embedding over `rope_dim`.
        rope: Rope,
    },
}

/// Rotary embedding, ready to use.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Angle per position of each pair (half as many as rotated channels), scaling applied.
    pub frequencies: Vec<f32>,
    /// Which channels make a pair.
    pub pairing: Pairing,
    /// Factor on cos and sin.
    pub amplitude: f32,
    /// Factor of scores before the softmax, `dim^-0.5` and YaRN's correction included.
    pub score_scale: f32,
}

/// Which channels rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(x0, x1), (x2, x3), ...`
    Interleaved,
    /// `(x_i, x_{i + d/2})`
    Halves,
}

/// Kinds of feed-forward. All are SwiGLU: `down(silu(gate(x)) * up(x))`.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedForward {
    /// One block for every token.
    Dense {
        /// Inner width.
        hidden: usize,
        /// Biases on the three projections.
        bias: bool,
    },
    /// Routed experts, and an always-active shared block when `shared_hidden > 0` (DeepSeekMoE).
    Moe {
        /// Routed experts.
        experts: usize,
        /// Experts per token.
        active: usize,
        /// Inner width of a routed expert.
        hidden: usize,
        /// Inner width of the shared block (all shared experts together); 0 = none.
        shared_hidden: usize,
        /// How experts are chosen and weighed.
        router: Router,
    },
}

/// How a token's experts are chosen and weighed. Routers compute in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// Affinity from router logits.
    pub score: Score,
    /// Groups the experts are divided into; 1 = no grouping.
    pub groups: usize,
    /// Groups that may be chosen from; the others count as minus infinity.
    pub groups_active: usize,
    /// How a group is scored.
    pub group_score: GroupScore,
    /// A per-expert bias added for the choice only (noaux_tc, arXiv 2412.19437 section 2.1.2).
    pub bias: bool,
    /// Divide the chosen weights by their sum (+ 1e-20).
    pub normalize: bool,
    /// Factor on the weights after that.
    pub scale: f32,
}

/// Router affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
}

/// Score of a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Largest member (V2).
    Max,
    /// Sum of the two largest members (V3).
    TopTwo,
}

impl Attention {
    /// Numbers kept per token and layer.
    pub fn cache_width(&self) -> usize {
        match *self {
            Attention::Gqa { kv_heads, head_dim, .. } => 2 * kv_heads * head_dim,
            Attention::Mla { kv_rank, rope_dim, .. } => kv_rank + rope_dim,
        }
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        match *self {
            Attention::Gqa { heads, .. } | Attention::Mla { heads, .. } => heads,
        }
    }
}

impl Structure {
    /// Numbers kept per token, all layers.
    pub fn cache_width(&self) -> usize {
        self.layers.iter().map(|l| l.attention.cache_width()).sum()
    }
}
