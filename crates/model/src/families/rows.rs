//! A row a family: what its configuration leaves unsaid, and which parts its layers have. Values are those of the published configuration classes.

use AttentionOf::{Grouped, Latent};

pub struct Family {
    /// `model_type` of a Hugging Face configuration.
    pub hf: &'static str,
    /// `general.architecture` of its GGUF files, where they are read. Several families may share one.
    pub gguf: Option<Gguf>,
    pub attention: AttentionOf,
    pub experts: ExpertsOf,
    /// Whether `mlp_bias` may be true.
    pub mlp_bias: bool,
    /// Granite's factors on embedding, scores, residuals and logits.
    pub scaled: bool,
    /// Gemma's parts, which are described where they are read.
    pub gemma: bool,
    /// Some layers do not rotate their heads.
    pub rotates_some: bool,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// Base of the rotary embedding.
    pub theta: f64,
    pub norm_eps: f64,
}

/// What GGUF files of an architecture are like.
pub struct Gguf {
    pub name: &'static str,
    /// Rows of q and k are permuted, so that neighbours are pairs; and a window is of all layers.
    pub permuted: bool,
}

pub enum AttentionOf {
    Grouped {
        /// Key/value heads; `None`: as many as heads.
        kv_heads: Option<usize>,
        /// Width of a head; `None`: the stream's share.
        head_dim: Option<usize>,
        qk_norm: bool,
        /// q, k and v always have biases, the output never; else `attention_bias` tells of all four.
        qkv_bias: bool,
        windows: Windows,
    },
    Latent {
        /// Rank of the query compression; 0: none.
        q_rank: usize,
    },
}

/// Which layers have windows.
#[derive(Clone, Copy)]
pub enum Windows {
    /// None; a listed kind may only agree.
    Never,
    /// All, of so many keys where nothing is said; 0: none.
    All(usize),
    /// From layer `max_window_layers` on, which is so many by default.
    From(usize),
    /// All but each nth, by `sliding_window_pattern` or by default.
    ButEach(usize),
    /// Where `use_sliding_window` asks for them: from layer `max_window_layers` on, which is `first` by default.
    Asked {
        first: usize,
        /// Whether `layer_types` decides where it is given.
        listed: bool,
    },
}

pub enum ExpertsOf {
    /// None.
    Dense,
    /// Mixtral's keys: every layer.
    Mixtral,
    Qwen,
    DeepSeek(DeepSeekMoe),
}

/// What is so where DeepSeek's keys are absent.
pub struct DeepSeekMoe {
    /// Leading layers without a mixture.
    pub dense_layers: usize,
    pub experts: usize,
    pub shared: usize,
    /// Experts per token; `None`: it must be given.
    pub active: Option<usize>,
    /// Groups, and those that may be chosen from.
    pub groups: [usize; 2],
    /// `topk_method`.
    pub method: &'static str,
    /// `scoring_func`.
    pub score: &'static str,
    /// `norm_topk_prob`.
    pub normalize: bool,
    /// `routed_scaling_factor`.
    pub scale: f64,
    /// Weights are scaled whether they were normalised or not.
    pub always_scaled: bool,
}

const V2: DeepSeekMoe = DeepSeekMoe {
    dense_layers: 0,
    experts: 64,
    shared: 2,
    active: None,
    groups: [1, 1],
    method: "greedy",
    score: "softmax",
    normalize: false,
    scale: 1.0,
    always_scaled: false,
};

const V3: DeepSeekMoe = DeepSeekMoe {
    dense_layers: 3,
    experts: 256,
    shared: 1,
    active: Some(8),
    groups: [8, 4],
    method: "noaux_tc",
    score: "sigmoid",
    normalize: true,
    scale: 2.5,
    always_scaled: true,
};

const LLAMA: Family = Family {
    hf: "llama",
    gguf: Some(Gguf { name: "llama", permuted: true }),
    attention: Grouped { kv_heads: None, head_dim: None, qk_norm: false, qkv_bias: false, windows: Windows::Never },
    experts: ExpertsOf::Dense,
    mlp_bias: true,
    scaled: false,
    gemma: false,
    rotates_some: false,
    tied: false,
    theta: 1e4,
    norm_eps: 1e-6,
};

const DEEPSEEK_V3: Family = Family {
    hf: "deepseek_v3",
    gguf: None,
    attention: Latent { q_rank: 1536 },
    experts: ExpertsOf::DeepSeek(V3),
    mlp_bias: false,
    ..LLAMA
};

const fn grouped(kv_heads: usize, head_dim: Option<usize>, qk_norm: bool, windows: Windows) -> AttentionOf {
    Grouped { kv_heads: Some(kv_heads), head_dim, qk_norm, qkv_bias: false, windows }
}

/// All families, in the order that messages name them.
pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family { hf: "mistral", attention: grouped(8, None, false, Windows::All(4096)), mlp_bias: false, ..LLAMA },
    Family {
        hf: "qwen2",
        gguf: Some(Gguf { name: "qwen2", permuted: false }),
        attention: Grouped {
            kv_heads: Some(32),
            head_dim: None,
            qk_norm: false,
            qkv_bias: true,
            windows: Windows::Asked { first: 28, listed: true },
        },
        mlp_bias: false,
        ..LLAMA
    },
    Family {
        hf: "qwen3",
        gguf: Some(Gguf { name: "qwen3", permuted: false }),
        attention: grouped(32, Some(128), true, Windows::Asked { first: 28, listed: true }),
        mlp_bias: false,
        ..LLAMA
    },
    Family {
        hf: "mixtral",
        attention: grouped(8, None, false, Windows::All(0)),
        experts: ExpertsOf::Mixtral,
        mlp_bias: false,
        theta: 1e6,
        norm_eps: 1e-5,
        ..LLAMA
    },
    Family {
        hf: "qwen3_moe",
        gguf: Some(Gguf { name: "qwen3moe", permuted: false }),
        attention: grouped(4, None, true, Windows::Asked { first: 0, listed: false }),
        experts: ExpertsOf::Qwen,
        mlp_bias: false,
        ..LLAMA
    },
    Family {
        hf: "deepseek_v2",
        gguf: Some(Gguf { name: "deepseek2", permuted: false }),
        attention: Latent { q_rank: 0 },
        experts: ExpertsOf::DeepSeek(V2),
        mlp_bias: false,
        ..LLAMA
    },
    DEEPSEEK_V3,
    Family { hf: "kimi_k2", ..DEEPSEEK_V3 },
    Family {
        hf: "dots1",
        gguf: None,
        attention: grouped(32, None, true, Windows::From(62)),
        experts: ExpertsOf::DeepSeek(DeepSeekMoe {
            dense_layers: 0,
            experts: 0,
            shared: 0,
            active: None,
            groups: [1, 1],
            normalize: false,
            scale: 1.0,
            ..V3
        }),
        mlp_bias: false,
        ..LLAMA
    },
    Family { hf: "granite", gguf: None, scaled: true, ..LLAMA },
    Family {
        hf: "smollm3",
        gguf: None,
        attention: grouped(4, None, false, Windows::Never),
        rotates_some: true,
        tied: true,
        theta: 2e6,
        ..LLAMA
    },
    Family {
        hf: "gemma3_text",
        gguf: None,
        attention: grouped(4, Some(256), true, Windows::ButEach(6)),
        mlp_bias: false,
        gemma: true,
        tied: true,
        theta: 1e6,
        ..LLAMA
    },
];

/// Families that are known by name and not read yet.
pub const COMING: [&str; 3] = ["deepseek_v32", "deepseek_v4", "deepseek_v41"];
