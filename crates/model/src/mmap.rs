//! The one file-mapping wrapper, and the only `unsafe` outside the kernels crate.
//!
//! A mapped file that another process shortens raises SIGBUS where its pages were. A handler puts zeros there and notes it, so
//! that the program goes on, and whoever runs the model can say what happened (`Mapping::lost`).
#![allow(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

/// What the system says of a file. `changed` moves whenever the file's bytes, names or rights do, and nobody can put it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The file system it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Bytes.
    pub length: u64,
    /// When it was last written, as seconds and nanoseconds since 1970. Anybody who may write to it can set this.
    pub written: (i64, i64),
    /// When it last changed, likewise.
    pub changed: (i64, i64),
}

impl Stamp {
    #[cfg(unix)]
    fn of(about: &Metadata) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        Some(Stamp {
            device: about.dev(),
            inode: about.ino(),
            length: about.len(),
            written: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        })
    }

    #[cfg(not(unix))]
    fn of(_: &Metadata) -> Option<Stamp> {
        None
    }
}

/// A whole file, mapped read-only (or bytes held in memory, for tests).
pub struct Mapping {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped {
        // Fields drop in this order: the guard lets go before the pages do.
        guard: guard::Guard,
        map: memmap2::Mmap,
        file: File,
        about: Metadata,
    },
    Held(Vec<u8>),
}

impl Mapping {
    /// Map a file. An empty file maps to no bytes.
    ///
    /// # Errors
    /// What the system says; anything but a plain file (a pipe would wait for ever).
    pub fn open(path: &Path) -> io::Result<Mapping> {
        plain(&std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        let about = file.metadata()?;
        plain(&about)?;
        let bytes = if about.len() == 0 {
            Bytes::Held(Vec::new())
        } else {
            // SAFETY: the mapping is private and read-only, and read as plain numbers only. A file that is shortened while mapped
            // reads as zeros from there on (see the guard); one that is rewritten gives other numbers.
            let map = unsafe { memmap2::Mmap::map(&file)? };
            // Large pages where the system keeps files in them: a hint, to be given before the first touch.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            let guard = guard::Guard::new(map.as_ptr() as usize, map.len())?;
            Bytes::Mapped { guard, map, file, about }
        };
        Ok(Mapping { path: path.to_path_buf(), bytes })
    }

    /// Bytes that are already in memory.
    pub fn held(name: &str, bytes: Vec<u8>) -> Mapping {
        Mapping { path: PathBuf::from(name), bytes: Bytes::Held(bytes) }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped { map, .. } => map,
            Bytes::Held(held) => held,
        }
    }

    /// Have the whole file in memory and in this process's page table: read what is not there, and spare the run its faults. It takes as
    /// long as that takes; what goes wrong here shows when the bytes are used.
    pub fn bring_in(&self) {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped { map, .. } = &self.bytes {
            // Parts, so that others who change the address space wait but briefly.
            const PART: usize = 32 << 20;
            for from in (0..map.len()).step_by(PART) {
                if map.advise_range(memmap2::Advice::PopulateRead, from, PART.min(map.len() - from)).is_err() {
                    return;
                }
            }
        }
    }

    /// What the system said of the file when it was opened; `None` for bytes in memory, and where the system tells no time of change.
    pub fn opened(&self) -> Option<Stamp> {
        match &self.bytes {
            Bytes::Mapped { about, .. } => Stamp::of(about),
            Bytes::Held(_) => None,
        }
    }

    /// What the system says of the file now. One system call.
    pub fn stamp(&self) -> Option<Stamp> {
        match &self.bytes {
            Bytes::Mapped { file, .. } => file.metadata().ok().as_ref().and_then(Stamp::of),
            Bytes::Held(_) => None,
        }
    }

    /// Read from byte `at` on, past the mapping: how many bytes came, 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        #[cfg(unix)]
        if let Bytes::Mapped { file, .. } = &self.bytes {
            return std::os::unix::fs::FileExt::read_at(file, to, at);
        }
        let bytes = usize::try_from(at).ok().and_then(|at| self.bytes().get(at..)).unwrap_or_default();
        let count = bytes.len().min(to.len());
        to[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// Where the bytes come from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether bytes that were there have gone while the file was mapped: some that were read since are zeros.
    pub fn lost(&self) -> bool {
        matches!(&self.bytes, Bytes::Mapped { guard, .. } if guard.lost())
    }

    /// Whether the file is no longer what was opened: shortened or written to. One system call.
    pub fn changed(&self) -> bool {
        match &self.bytes {
            Bytes::Mapped { guard, file, about, .. } => {
                let differs = |now: Metadata| now.len() != about.len() || now.modified().ok() != about.modified().ok();
                guard.lost() || file.metadata().is_ok_and(differs)
            }
            Bytes::Held(_) => false,
        }
    }
}

/// Ask the system to back a large buffer with large pages, where it can: attention reads all of a cache, a little everywhere.
/// No more than a hint.
pub(crate) fn prefer_large_pages<T>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let bytes = std::mem::size_of_val(buffer);
        let start = buffer.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(PAGE);
        if bytes > skip {
            // SAFETY: the range lies within the buffer; this advice changes no contents, and an error leaves things as they are.
            unsafe { libc::madvise(start.add(skip).cast(), (bytes - skip) / PAGE * PAGE, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

fn plain(about: &Metadata) -> io::Result<()> {
    if about.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file; weights are read from files on disk only"))
}

#[cfg(unix)]
mod guard {
    //! Which addresses are mapped files, for the handler of SIGBUS. It may run at any moment, so it only looks at atomics.

    use std::io;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Files mapped at once. The largest published checkpoint has 163.
    const FILES_MAX: usize = 8192;

    struct GuardSlot {
        taken: AtomicBool,
        start: AtomicUsize,
        end: AtomicUsize,
        lost: AtomicBool,
    }

    static SLOTS: [GuardSlot; FILES_MAX] = [const {
        GuardSlot {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }; FILES_MAX];

    /// Slots ever taken are below this.
    static USED: AtomicUsize = AtomicUsize::new(0);

    pub struct Guard(usize);

    impl Guard {
        pub fn new(start: usize, len: usize) -> io::Result<Guard> {
            static INSTALLED: Once = Once::new();
            INSTALLED.call_once(install);
            let free =
                |s: &GuardSlot| s.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            let Some(slot) = SLOTS.iter().position(free) else {
                return Err(io::Error::other(format!("more than {FILES_MAX} files are mapped at once")));
            };
            let s = &SLOTS[slot];
            s.lost.store(false, Ordering::Release);
            s.start.store(start, Ordering::Release);
            s.end.store(start + len, Ordering::Release);
            USED.fetch_max(slot + 1, Ordering::AcqRel);
            Ok(Guard(slot))
        }

        pub fn lost(&self) -> bool {
            SLOTS[self.0].lost.load(Ordering::Acquire)
        }
    }

    impl Drop for Guard {
        fn drop(&mut self) {
            let s = &SLOTS[self.0];
            s.end.store(0, Ordering::Release);
            s.start.store(0, Ordering::Release);
            s.taken.store(false, Ordering::Release);
        }
    }

    fn install() {
        // SAFETY: the structure is plain data, filled before it is given; the handler keeps to what signals allow.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    /// Zeros for the rest of a mapping whose file has become shorter; any other SIGBUS ends the program as it would have.
    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system gives a valid `siginfo_t`.
        let address = unsafe { (*info).si_addr() } as usize;
        for slot in &SLOTS[..USED.load(Ordering::Acquire).min(FILES_MAX)] {
            let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
            if address < start || address >= end {
                continue;
            }
            // SAFETY: `sysconf` and `mmap` are system calls; the pages replaced are the mapping's own, which lost its file there.
            unsafe {
                let page = libc::sysconf(libc::_SC_PAGESIZE).max(1) as usize;
                let from = address - address % page;
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                let put = libc::mmap(from as *mut libc::c_void, end - from, libc::PROT_READ, flags, -1, 0);
                if put != libc::MAP_FAILED {
                    slot.lost.store(true, Ordering::Release);
                    return;
                }
            }
        }
        // SAFETY: the default action is put back; the fault comes again and takes it.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

#[cfg(not(unix))]
mod guard {
    //! Where files cannot be shortened while mapped there is nothing to guard.

    pub struct Guard;

    impl Guard {
        pub fn new(_: usize, _: usize) -> std::io::Result<Guard> {
            Ok(Guard)
        }

        pub fn lost(&self) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("farthing-mmap-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_file_that_shrinks_reads_as_zeros() {
        let path = scratch("shrinks");
        std::fs::write(&path, vec![7u8; 1 << 20]).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        assert!(!mapping.changed() && mapping.bytes()[900_000] == 7);
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        assert!(mapping.changed() && !mapping.lost());
        assert_eq!(mapping.bytes()[900_000], 0);
        assert_eq!(mapping.bytes()[100], 7);
        assert!(mapping.lost());
        // Another mapping is not blamed.
        let other = scratch("whole");
        std::fs::write(&other, [1u8; 10]).unwrap();
        let whole = Mapping::open(&other).unwrap();
        assert!(whole.bytes()[9] == 1 && !whole.lost() && !whole.changed());
        let _ = (std::fs::remove_file(path), std::fs::remove_file(other));
    }

    #[test]
    fn a_file_that_is_brought_in_is_unchanged_and_may_shrink() {
        let path = scratch("brought");
        std::fs::write(&path, vec![5u8; 3 << 20]).unwrap();
        let mapping = Mapping::open(&path).unwrap();
        mapping.bring_in();
        assert!(mapping.bytes().iter().all(|&b| b == 5) && !mapping.lost() && !mapping.changed());
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        mapping.bring_in();
        assert!(mapping.bytes()[2 << 20] == 0 && mapping.bytes()[100] == 5 && mapping.lost());
        Mapping::held("held", vec![1]).bring_in();
        let _ = std::fs::remove_file(path);
    }

    #[test]
    fn only_plain_files_are_mapped() {
        assert!(Mapping::open(&std::env::temp_dir()).is_err());
        #[cfg(unix)]
        assert!(Mapping::open(Path::new("/dev/zero")).err().unwrap().to_string().contains("plain file"));
        let empty = scratch("empty");
        std::fs::write(&empty, []).unwrap();
        assert!(Mapping::open(&empty).unwrap().bytes().is_empty());
        let _ = std::fs::remove_file(empty);
    }
}
