//! Hugging Face directories of several safetensors files.

mod running;

use std::path::{Path, PathBuf};

use running::{Runner, case};
use safetensors::SafeTensors;

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("farthing-directory-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A case in three files with an index.
fn sharded(name: &str, to: &Path) {
    let from = case("oracle").join(name);
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let mut map = serde_json::Map::new();
    for i in 0..3 {
        let file = format!("model-{:05}-of-00003.safetensors", i + 1);
        let part: Vec<_> = tensors.iter().skip(i).step_by(3).map(|(n, t)| (n.clone(), t.clone())).collect();
        map.extend(part.iter().map(|(n, _)| (n.clone(), file.clone().into())));
        safetensors::serialize_to_file(part, None, &to.join(file)).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn several_files_are_one_model() {
    for name in ["deepseek-v3-fp8", "llama-gqa"] {
        let directory = Directory::new(name);
        sharded(name, &directory.0);
        let tokens: Vec<u32> = (0..60).collect();
        let (a, b) =
            (Runner::open(&directory.0).whole(&tokens).0, Runner::open(&case("oracle").join(name)).whole(&tokens).0);
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn a_missing_file_and_an_index_that_points_elsewhere_are_named() {
    let directory = Directory::new("spoilt");
    sharded("llama-gqa", &directory.0);
    let refused = || farthing_model::Checkpoint::open(&directory.0).err().expect("refused").to_string();
    let index = directory.0.join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    for elsewhere in ["../model.safetensors", "/etc/passwd", "a/b.safetensors"] {
        std::fs::write(&index, text.replacen("model-00001-of-00003.safetensors", elsewhere, 1)).unwrap();
        let error = refused();
        assert!(error.contains("outside the directory") && error.contains(elsewhere), "{error}");
    }
    std::fs::write(&index, text).unwrap();
    std::fs::remove_file(directory.0.join("model-00002-of-00003.safetensors")).unwrap();
    let error = refused();
    assert!(error.contains("model-00002-of-00003.safetensors: not there, but "), "{error}");
    assert!(error.contains("model.safetensors.index.json names it; fetch it"), "{error}");
}
