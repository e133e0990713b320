//! Where blocks lie: `ab/abcd….unit` under one directory, by the digits of a block's key and owner; other names are not ours and stay untouched.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Key, Owner};

/// More names than this in one of 256 folders are no work of ours; the rest of them is not looked at.
const NAMES_MAX: usize = 1 << 16;
/// A file is written within seconds. One that is still unfinished after this time was left behind by a process that is gone.
const UNFINISHED: Duration = Duration::from_secs(600);

pub(super) struct Directory(pub PathBuf);

/// What is in one folder.
#[derive(Default)]
pub(super) struct FolderListing {
    /// Blocks that were known before.
    pub known: BTreeSet<Key>,
    /// Blocks that were not, with the length of their files and the time of their last use.
    pub new: Vec<(Key, u64, u64)>,
    /// Something is there that must be looked at again even if the folder does not change.
    pub unfinished: bool,
}

impl Directory {
    /// The folder of all keys that begin with a byte.
    pub fn folder(&self, byte: u8) -> PathBuf {
        self.0.join(format!("{byte:02x}"))
    }

    pub fn file(&self, key: &Key) -> PathBuf {
        self.folder(key.hash[0]).join(format!("{key}.unit"))
    }

    /// The folder of all keys that begin with a byte is a folder, not a link to one, and nobody else can put files there.
    pub fn check_folder(&self, byte: u8) -> io::Result<()> {
        let folder = self.folder(byte);
        if fs::symlink_metadata(&folder)?.is_symlink() {
            return Err(refusal(&folder, "is a link, which others may lead elsewhere; remove it"));
        }
        private(&folder)
    }

    /// Make the folder of a key.
    pub fn prepare_for(&self, key: &Key) -> io::Result<PathBuf> {
        let folder = self.folder(key.hash[0]);
        create(&folder)?;
        self.check_folder(key.hash[0])?;
        Ok(folder)
    }

    /// Read the names in a folder. Removes what a killed process or a lost block left behind: unfinished files of long ago, and files too short to
    /// be a block.
    pub fn list(&self, byte: u8, known: impl Fn(&Key) -> bool) -> io::Result<FolderListing> {
        self.check_folder(byte)?;
        let (mut listing, now) = (FolderListing::default(), SystemTime::now());
        for entry in fs::read_dir(self.folder(byte))?.take(NAMES_MAX) {
            let entry = entry?;
            let name = entry.file_name();
            let Some((key, finished)) = name.to_str().and_then(parse).filter(|(key, _)| key.hash[0] == byte) else {
                continue;
            };
            if finished && known(&key) {
                listing.known.insert(key);
                continue;
            }
            // Links are not followed. What has gone meanwhile has gone.
            let Ok(metadata) = entry.metadata() else { continue };
            let changed = metadata.modified().unwrap_or(now);
            if !finished {
                let age = now.duration_since(changed).unwrap_or_else(|early| early.duration());
                if age > UNFINISHED {
                    let _ = fs::remove_file(entry.path());
                } else {
                    listing.unfinished = true;
                }
            } else if metadata.is_file() && metadata.len() < super::block::HEADER as u64 {
                let _ = fs::remove_file(entry.path());
            } else if metadata.is_file() {
                listing.new.push((key, metadata.len(), nanoseconds(changed.min(now))));
            }
        }
        Ok(listing)
    }

    /// Remove the blocks of owners that are gone; how many there were. One that is being written now is found the next time.
    pub fn remove_owned(&self, gone: impl Fn(&Owner) -> bool) -> io::Result<u64> {
        let mut removed = 0;
        for byte in 0..=255 {
            match self.check_folder(byte) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                checked => checked?,
            }
            for entry in fs::read_dir(self.folder(byte))?.take(NAMES_MAX) {
                let entry = entry?;
                let name = entry.file_name();
                let Some((key, true)) = name.to_str().and_then(parse) else { continue };
                if key.hash[0] != byte || key.owner == Owner::NOBODY || !gone(&key.owner) {
                    continue;
                }
                match fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(removed)
    }

    /// Remove what lies where a block should be, whatever it is, but nothing inside or behind it.
    pub fn remove(&self, key: &Key) {
        let path = self.file(key);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
}

fn refusal(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {what}", path.display()))
}

/// It is a directory, and nobody but its owner, who is this process's user or root, can put files there: whoever can, chooses what the model
/// remembers.
pub(crate) fn private(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
        if owner != own && owner != 0 {
            return Err(refusal(
                path,
                &format!("belongs to user {owner}, who may write there; give another directory"),
            ));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refusal(path, "may be written to by others than its owner (chmod go-w helps)"));
        }
    }
    Ok(())
}

/// Make a directory where it is missing, and see that it is private.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    create(path)?;
    private(path)
}

/// A directory that only its owner may enter, and all above it that are missing.
fn create(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The key in the name of a file, and whether the file is finished.
fn parse(name: &str) -> Option<(Key, bool)> {
    let (key, rest) = name.split_once('.')?;
    let number = rest.strip_suffix(".part");
    let unfinished = number.is_some_and(|n| n.len() == 32 && n.bytes().all(|b| b.is_ascii_hexdigit()));
    (rest == "unit" || unfinished).then_some((Key::parse(key)?, !unfinished))
}

/// Since 1970; what is before, or centuries ahead, becomes the nearest that a `u64` holds.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().try_into().unwrap_or(u64::MAX))
}
