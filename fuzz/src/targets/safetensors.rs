//! Safetensors files: the header, and every number of what it names.
use std::sync::Arc;

use model::mmap::Mapping;
use model::tensors::Tensors;

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let mut tensors = Tensors::default();
    if tensors.add_mapped(Arc::new(Mapping::held("f.safetensors", data.to_vec()))).is_ok() {
        for name in tensors.by_name.keys() {
            let _ = tensors.not_finite(name);
        }
    }
}
