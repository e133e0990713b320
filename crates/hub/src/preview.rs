//! A model without its weights: small files whole, of weight files the headers, as sparse files of the true size.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::download::{Progress, hasher_of, hex};
use crate::error::HubError;
use crate::name::{Name, is_gguf};
use crate::pull::check;
use crate::remote::{Asked, Hub};
use crate::select::{Listing, RemoteFile, Selection};

/// Fetched of a safetensors file at first; most headers are smaller.
const FIRST: u64 = 256 << 10;
const HEADER_MAX: u64 = 32 << 20;
/// Fetched of a GGUF file: metadata and vocabulary lie at its start.
const GGUF_HEADER: u64 = 16 << 20;
const SMALL_MAX: u64 = 256 << 20;

impl Hub {
    /// Fetch what a loader reads before the weights, into the directory `into`, and give the path for the loader. Weight
    /// files are sparse: true in size, empty behind the header.
    pub fn preview(
        &self,
        name: &Name,
        listing: &Listing,
        selection: &Selection,
        into: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, HubError> {
        check(name, listing, selection)?;
        self.online(|| name.to_string())?;
        self.share(&selection.files, &|| progress.cancelled(), |session, file| {
            let fetch = |bytes: u64| {
                let url = self.file_url(name, &listing.commit, &file.path);
                session.fetch(&url, Asked::File(name, &file.path), (bytes, Some(bytes)), progress)
            };
            let bytes = head(name, file, &fetch)?;
            let at = into.join(&file.path);
            let failed = |e| HubError::write(&at, e, bytes.len() as u64);
            if let Some(parent) = at.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            let mut written = File::create(&at).map_err(failed)?;
            written.write_all(&bytes).map_err(failed)?;
            written.set_len(file.size).map_err(failed)
        })?;
        Ok(if selection.model.is_empty() { into.to_path_buf() } else { into.join(&selection.model) })
    }
}

/// The bytes of a file that a preview has; `prefix` fetches so many from its start.
fn head(
    name: &Name,
    file: &RemoteFile,
    prefix: &dyn Fn(u64) -> Result<Vec<u8>, HubError>,
) -> Result<Vec<u8>, HubError> {
    let refused = |why: String| HubError::Listing { repository: name.repository.clone(), why };
    if file.size == 0 {
        return Ok(Vec::new());
    }
    if is_gguf(&file.path) {
        return prefix(file.size.min(GGUF_HEADER));
    }
    if file.path.ends_with(".safetensors") {
        let bytes = prefix(file.size.min(FIRST))?;
        let Some(header) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length)) else {
            return Err(refused(format!("{} has {} bytes and no header", file.path, file.size)));
        };
        if header > HEADER_MAX || header.saturating_add(8) > file.size {
            return Err(refused(format!("{} announces a header of {header} bytes", file.path)));
        }
        let end = header + 8;
        return if end <= bytes.len() as u64 { Ok(bytes) } else { prefix(end) };
    }
    if file.size > SMALL_MAX {
        return Err(refused(format!("{} has {} bytes and at most {SMALL_MAX} are read", file.path, file.size)));
    }
    let (bytes, found) = checked(file, prefix(file.size)?);
    let (bytes, found) = if found == file.blob() { (bytes, found) } else { checked(file, prefix(file.size)?) };
    if found != file.blob() {
        return Err(HubError::Checksum { file: file.path.clone(), expected: file.blob().to_string(), found });
    }
    Ok(bytes)
}

fn checked(file: &RemoteFile, bytes: Vec<u8>) -> (Vec<u8>, String) {
    let mut hasher = hasher_of(file);
    hasher.update(&bytes);
    (bytes, hex(hasher))
}
