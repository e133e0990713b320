//! Directories of the user's.

use std::path::{Path, PathBuf};

/// `farthing` in a directory of the user's, by the XDG rules: `variable`, or `fallback` under the home directory.
pub fn xdg(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    set.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(fallback))).map(|p| p.join("farthing"))
}
