//! The small bundled model: its files, which the program carries.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::paths::xdg;

/// The bundled model's id in the API.
pub const NAME: &str = "seed-5.7m";

const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../models/seed-5.7m/config.json")),
    ("generation_config.json", include_bytes!("../../../models/seed-5.7m/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../models/seed-5.7m/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../models/seed-5.7m/tokenizer_config.json")),
    ("model.safetensors", include_bytes!("../../../models/seed-5.7m/model.safetensors")),
];

/// Whether this is the bundled model's chat template.
pub(crate) fn is_bundled_template(source: &str) -> bool {
    let config = FILES.iter().find(|(name, _)| *name == "tokenizer_config.json");
    let config: Option<serde_json::Value> = config.and_then(|(_, config)| serde_json::from_slice(config).ok());
    config.is_some_and(|config| config["chat_template"].as_str() == Some(source))
}

/// The bundled model's directory. Its files are written once, to `farthing/seed-5.7m` in the user's cache directory.
///
/// # Errors
/// A cache directory that cannot be written.
pub fn bundled() -> Result<PathBuf, Error> {
    let directory = xdg("XDG_CACHE_HOME", ".cache").unwrap_or_else(std::env::temp_dir).join(NAME);
    let failed = |path: &Path, source| Error::File {
        file: path.display().to_string(),
        source,
        step: "; set XDG_CACHE_HOME to a directory that can be written",
    };
    std::fs::create_dir_all(&directory).map_err(|e| failed(&directory, e))?;
    for (name, contents) in FILES {
        let path = directory.join(name);
        if !std::fs::read(&path).is_ok_and(|bytes| bytes == contents) {
            let part = directory.join(format!("{name}.{}.part", std::process::id()));
            std::fs::write(&part, contents).and_then(|()| std::fs::rename(&part, &path)).map_err(|e| {
                let _ = std::fs::remove_file(&part);
                failed(&path, e)
            })?;
        }
    }
    Ok(directory)
}
