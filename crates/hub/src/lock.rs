//! Locks between processes: `flock` on files under `.locks`, as the Python tools have them.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::HubError;

/// A held lock; dropping it lets go. The file stays.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Take the lock, or `None` where another process or call holds it.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Lock>, HubError> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| HubError::write(parent, e, 0))?;
        }
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = opened.map_err(|e| HubError::write(path, e, 0))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            // Some network disks have no locks. A pull alone on such a disk is better than none.
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(Some(Lock { _file: file })),
            Err(error) => Err(HubError::disk(path, error.into())),
        }
    }
}
