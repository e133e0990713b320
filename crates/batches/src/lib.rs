//! Files that clients upload, and batches over them, on disk: bytes with what is known of them, and a journal of each batch's results that a kill does not tear.
//!
//! [`Store`] owns a directory. Whatever is in it belongs to an owner, which is a name that the caller gives, and nobody else finds it. Ids come from the caller
//! too; what clients name never becomes a path. Nothing here knows HTTP, a model, or what a line says.

mod batch;
mod disk;
mod error;
mod file;
mod journal;
mod lines;
mod store;

pub use batch::{Batch, BatchError, Counts, Form, Input, Status};
pub use error::StoreError;
pub use file::{Content, Purpose, StoredFile, Upload};
pub use journal::{Charge, Journal, Record, Written};
pub use lines::{LINE_BYTES_MAX, Line, Lines};
pub use store::{Limits, Store};

/// Whether it can be an id: letters, `-` or `_`, and 32 hexadecimal digits, as `batch_0123456789abcdef0123456789abcdef`.
pub fn is_id(text: &str) -> bool {
    let Some((prefix, digits)) = text.split_once(['-', '_']) else { return false };
    let letters = (1..=16).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_lowercase());
    letters && digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::is_id;

    #[test]
    fn what_is_no_id_is_no_path_either() {
        let digits = "0123456789abcdef0123456789abcdef";
        for id in ["file-", "batch_", "msgbatch_"] {
            assert!(is_id(&format!("{id}{digits}")), "{id}");
        }
        let long = "a".repeat(17);
        for bad in ["", "file-", "../", "file-..", "-", "File-", "file-/", &long, "file-0", "batch_%2e"] {
            assert!(!is_id(bad), "{bad}");
            assert!(bad.is_empty() || bad == "file-" || !is_id(&format!("{bad}{digits}")), "{bad}");
        }
        assert!(
            !is_id(digits) && !is_id(&format!("file-{}", digits.to_uppercase())) && !is_id(&format!("file-{digits}\0"))
        );
    }
}
