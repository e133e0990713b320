//! Safetensors files: the header, and every number of what it names.
#![no_main]

use std::sync::Arc;

use model::mmap::Mapping;
use model::tensors::Tensors;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut tensors = Tensors::default();
    if tensors.add_mapped(Arc::new(Mapping::held("f.safetensors", data.to_vec()))).is_ok() {
        for name in tensors.by_name.keys() {
            let _ = tensors.not_finite(name);
        }
    }
});
