//! Importance matrices in both formats: no tensor has more numbers than the file has bytes for.
use std::path::Path;

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(importance) = convert::importance_of(Path::new("f.imatrix"), data.to_vec()) else { return };
    assert!(importance.values().all(|columns| 4 * columns.len() <= data.len()));
}
