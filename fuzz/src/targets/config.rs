//! config.json: structure, sums of its sizes, and the plan.
use std::path::Path;

use model::plan::MemoryPlan;
use model::tensors::Tensors;
use model::{CacheFormat, Checkpoint};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(json) = serde_json::from_slice(data) else { return };
    let Ok(checkpoint) = Checkpoint::of_parts(Path::new("config.json"), &json, Tensors::default()) else { return };
    let s = &checkpoint.structure;
    let _ = (s.parameters(), s.cache_layout(CacheFormat::F32).page_bytes());
    let _ = (s.cache_width_multi_head(), s.cache_width_grouped());
    let plan = MemoryPlan::of(s, u64::MAX / 2, s.context, CacheFormat::F32, Some(1 << 40));
    let _ = (plan.total(), plan.fits());
    assert!(checkpoint.weights().is_err());
}
