//! GGUF files: header, structure and weights; then every tensor's first row is read.
use std::path::Path;
use std::sync::Arc;

use model::mmap::Mapping;
use model::tensors::Tensors;
use model::{Checkpoint, gguf};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let mut tensors = Tensors::default();
    let mapping = Arc::new(Mapping::held("f.gguf", data.to_vec()));
    let Ok(metadata) = gguf::read_mapped(&mapping, &mut tensors) else { return };
    for name in tensors.by_name.keys() {
        let _ = tensors.not_finite(name);
    }
    let Ok(checkpoint) = Checkpoint::of_gguf(Path::new("f.gguf"), metadata, tensors) else { return };
    let _ = checkpoint.structure.parameters();
    let _ = checkpoint.bytes_per_token();
    let _ = checkpoint.weights();
}
