//! The small bundled model: its file, which the program carries.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::paths::xdg;

/// The bundled model's id in the API.
pub const NAME: &str = "pocket";

const FILE: &str = "pocket-Q8_0.gguf";
const CONTENTS: &[u8] = include_bytes!("../../../models/pocket/pocket-Q8_0.gguf");
const TEMPLATE: &str = include_str!("../../../models/pocket/chat_template.jinja");

/// Whether this is the bundled model's chat template.
pub(crate) fn is_bundled_template(source: &str) -> bool {
    source == TEMPLATE
}

/// The bundled model. Its file is written once, to `farthing/pocket` in the user's cache directory.
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
    let path = directory.join(FILE);
    if !std::fs::read(&path).is_ok_and(|bytes| bytes == CONTENTS) {
        let part = directory.join(format!("{FILE}.{}.part", std::process::id()));
        std::fs::write(&part, CONTENTS).and_then(|()| std::fs::rename(&part, &path)).map_err(|e| {
            let _ = std::fs::remove_file(&part);
            failed(&path, e)
        })?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template beside the file is the one in it, so that it is rendered without a process of its own.
    #[test]
    fn the_template_is_the_files() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pocket").join(FILE);
        let parts = crate::tokenizer::tokenizer(&model::Checkpoint::open(&file).unwrap()).unwrap();
        assert!(is_bundled_template(&parts.template.unwrap()));
    }
}
