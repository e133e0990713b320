//! What a model will take, computed from its structure and file headers before anything is loaded.

use kernels::Format;

use crate::cache::CacheFormat;
use crate::checkpoint::Checkpoint;
pub use crate::parameters::Parameters;
use crate::parameters::sum;
use crate::structure::{Head, Structure};
use crate::tensors::Stored;

/// Room for buffers and the program itself, besides weights and cache.
const SCRATCH_BYTES: u64 = 384 << 20;

/// Bytes a model takes at a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The files, mapped; all of them are read while running.
    pub weights: u64,
    /// Pages for `context` tokens.
    pub cache: u64,
    /// Buffers, at most.
    pub scratch: u64,
    /// Memory that the system can give now, as far as it says.
    pub available: Option<u64>,
    /// Context planned for.
    pub context: usize,
    /// Longest context that fits, at most the model's; 0 = not even the weights fit.
    pub longest_context: usize,
}

impl MemoryPlan {
    /// Plan for `context` tokens.
    pub fn new(checkpoint: &Checkpoint, context: usize, format: CacheFormat) -> MemoryPlan {
        Self::of(&checkpoint.structure, checkpoint.file_bytes(), context, format, available())
    }

    /// Plan from sizes.
    pub fn of(
        structure: &Structure,
        weights: u64,
        context: usize,
        format: CacheFormat,
        available: Option<u64>,
    ) -> MemoryPlan {
        let layout = structure.cache_layout(format);
        // Small models need few buffers; a quarter of the weights bounds them.
        let scratch = SCRATCH_BYTES.min(weights / 4 + (16 << 20));
        let left = available.map(|a| a.saturating_sub(weights.saturating_add(scratch)));
        let longest_context = left.map_or(structure.context, |left| layout.tokens_within(left).min(structure.context));
        let cache = layout.bytes_of(context);
        MemoryPlan { weights, cache, scratch, available, context, longest_context }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        sum(&[self.weights, self.cache, self.scratch])
    }

    /// Bytes of the largest files that would fit beside their buffers, and beside this cache or a tenth of what is available, whichever is less.
    pub fn largest_weights(&self) -> Option<u64> {
        let available = self.available?;
        let left = available - self.cache.min(available / 10);
        // The two sides of the buffers' bound.
        Some(left.saturating_sub(SCRATCH_BYTES).max(left.saturating_sub(16 << 20) / 5 * 4))
    }

    /// Whether it fits, as far as the system says.
    pub fn fits(&self) -> bool {
        self.available.is_none_or(|available| self.total() <= available)
    }
}

/// Bytes the system can give: the memory it calls available, within the limit of this process's control group.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse::<u64>().ok());
    Some(limit.map_or(free, |limit| free.min(limit)))
}

impl Checkpoint {
    /// Bytes of weights that one decoded token reads: every active matrix once, one row of the embedding.
    pub fn bytes_per_token(&self) -> u64 {
        self.bytes_per_step(1)
    }

    /// Bytes of weights that one step of `rows` tokens reads: dense matrices once, and of each mixture the experts that so many
    /// tokens reach between them when each chooses evenly, `experts (1 - (1 - active / experts)^rows)`.
    pub fn bytes_per_step(&self, rows: usize) -> u64 {
        self.reads_per_step(rows).map(|(_, bytes)| bytes).sum::<f64>() as u64
    }

    /// Bytes of each format that kernels know, of those that one decoded token reads.
    pub fn bytes_per_token_by_format(&self) -> Vec<(Format, f64)> {
        let mut sums: Vec<(Format, f64)> = Vec::new();
        for (stored, bytes) in self.reads_per_step(1) {
            let Stored::As(format) = stored else { continue };
            match sums.iter_mut().find(|(f, _)| f == format) {
                Some((_, sum)) => *sum += bytes,
                None => sums.push((*format, bytes)),
            }
        }
        sums
    }

    /// Every tensor's format and the bytes that a step of `rows` tokens reads of it.
    fn reads_per_step(&self, rows: usize) -> impl Iterator<Item = (&Stored, f64)> {
        let structure = &self.structure;
        let reached = move |layer: usize| match structure.layers.get(layer).and_then(|l| l.feed_forward.experts()) {
            Some((experts, active)) => 1.0 - (1.0 - active as f64 / experts as f64).powf(rows as f64),
            None => 1.0,
        };
        self.tensors.by_name.iter().map(move |(name, tensor)| {
            let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
            let embedding = name == "model.embed_tokens.weight" || name == "token_embd.weight";
            let routed = name.contains("_exps") || (name.contains(".experts.") && !name.contains("shared"));
            let share = match layer {
                Some(layer) if layer >= structure.layers.len() => 0.0,
                Some(layer) if routed => reached(layer),
                _ if embedding && structure.head != Head::Tied => (rows as f64 / structure.vocab as f64).min(1.0),
                _ => 1.0,
            };
            (&tensor.stored, tensor.bytes as f64 * share)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The published sizes of DeepSeek-V2-Lite: 15.7 B parameters, 2.4 B of them active (with one table), 15,552 numbers a token.
    #[test]
    fn sizes_of_deepseek_v2_lite() {
        let json = serde_json::json!({
            "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
            "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16, "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
            "num_experts_per_tok": 6, "q_lora_rank": null, "first_k_dense_replace": 1, "max_position_embeddings": 163840
        });
        let (s, _) = crate::families::from_config(Path::new("config.json"), &json).unwrap();
        let p = s.parameters();
        assert_eq!(p.total, 15_706_484_224);
        assert!((2.44e9..2.46e9).contains(&(p.active as f64)));
        assert_eq!(s.cache_layout(CacheFormat::Bf16).bytes_per_token(), 2 * 15_552);
        assert_eq!(s.cache_width_multi_head(), 138_240);
        let plan = MemoryPlan::of(&s, 10 << 30, 4096, CacheFormat::Bf16, Some(12 << 30));
        assert!(plan.fits() && plan.cache == 4096 * 15_552 * 2);
        assert!(plan.longest_context > 40_000 && plan.longest_context < 60_000);
        assert!(!MemoryPlan::of(&s, 10 << 30, 4096, CacheFormat::Bf16, Some(9 << 30)).fits());
    }

    /// What a refusal names would fit, and little more would not.
    #[test]
    fn largest_weights_fit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
        let structure = crate::Checkpoint::open(&path).unwrap().structure;
        for available in [100 << 20, 1 << 30, 3 << 30, 64 << 30] {
            let of = |weights| MemoryPlan::of(&structure, weights, 256, CacheFormat::Bf16, Some(available));
            let room = of(1 << 40).largest_weights().unwrap();
            assert!(!of(1 << 40).fits() && of(room).fits(), "{available}");
            assert!(!of(room + available / 50).fits(), "{available}");
        }
        let unknown = MemoryPlan::of(&structure, 1, 256, CacheFormat::Bf16, None);
        assert_eq!(unknown.largest_weights(), None);
    }
}
