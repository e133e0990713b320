//! Files that are there whole or not at all: written under a temporary name, synced, then renamed.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::ConvertError;

/// Writes a file in the place of what is there, which stays where the system refuses.
///
/// # Errors
/// Where the system refuses.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ConvertError> {
    let (mut file, place) = temporary(path)?;
    file.write_all(bytes).map_err(ConvertError::write(path))?;
    finish(file, &place)
}

/// A file beside `path` that removes itself unless it is finished, and the place that it will have: where a link is there, what that leads to.
pub(crate) fn temporary(path: &Path) -> Result<(NamedTempFile, PathBuf), ConvertError> {
    let place = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(ConvertError::write(folder))?;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let (prefix, mut builder) = (format!(".{name}."), tempfile::Builder::new());
    builder.prefix(&prefix).suffix(".part");
    // Those of a file that is made anew, not those of a secret.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    Ok((builder.tempfile_in(folder).map_err(ConvertError::write(path))?, place))
}

/// Synced, then renamed. A file that is replaced leaves its permissions.
pub(crate) fn finish(file: NamedTempFile, path: &Path) -> Result<(), ConvertError> {
    let wrong = || ConvertError::write(path);
    if let Ok(before) = std::fs::metadata(path) {
        file.as_file().set_permissions(before.permissions()).map_err(wrong())?;
    }
    file.as_file().sync_all().map_err(wrong())?;
    file.persist(path).map_err(|e| ConvertError::Write { path: path.to_path_buf(), source: e.error })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_replaced_leaves_its_name_and_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [file, link, fresh] = ["file", "link", "fresh"].map(|name| folder.path().join(name));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        write_whole(&fresh, b"one").unwrap();
        std::fs::write(&file, "zero").unwrap();
        assert_eq!(mode(&fresh), mode(&file), "those of a new file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&file, &link).unwrap();
        write_whole(&link, b"two").unwrap();
        assert!(link.is_symlink() && std::fs::read(&file).unwrap() == b"two");
        assert_eq!((mode(&file), std::fs::read_dir(folder.path()).unwrap().count()), (0o600, 3));
    }
}
