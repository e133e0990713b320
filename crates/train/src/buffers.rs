//! Buffers that are used again from layer to layer and step to step: fresh memory costs more than many a kernel.

use std::ops::{Deref, DerefMut};

/// Numbers that begin on a line of the cache, since vectors that cross lines are read and written twice.
#[derive(Default)]
pub(crate) struct Buffer {
    /// All that there is room for, and what comes before the first line.
    room: Vec<f32>,
    start: usize,
    len: usize,
}

/// Numbers of a line: 64 bytes.
const LINE: usize = 16;

impl Buffer {
    fn new(len: usize) -> Buffer {
        let room = vec![0.0f32; len + LINE];
        let start = room.as_ptr().align_offset(4 * LINE).min(LINE);
        Buffer { room, start, len }
    }

    /// Numbers that it has room for.
    fn capacity(&self) -> usize {
        self.room.len().saturating_sub(LINE)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.room[self.start..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.start..][..self.len]
    }
}

/// Buffers that are free, by capacity, the smallest first.
#[derive(Default)]
pub(crate) struct Buffers {
    free: Vec<Buffer>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of this length; what it holds is of no account.
    pub fn take(&mut self, len: usize) -> Buffer {
        let at = self.free.partition_point(|b| b.capacity() < len);
        // One that is far too large is left to those who need it.
        if self.free.get(at).is_none_or(|b| b.capacity() / 2 > len + 1024) {
            // An eighth more, since batches are not all of one size.
            let room = len + len / 8;
            self.bytes += 4 * room;
            return Buffer { len, ..Buffer::new(room) };
        }
        Buffer { len, ..self.free.remove(at) }
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// No longer needed.
    pub fn give(&mut self, buffer: Buffer) {
        if buffer.capacity() > 0 {
            let at = self.free.partition_point(|b| b.capacity() < buffer.capacity());
            self.free.insert(at, buffer);
        }
    }

    /// Bytes of all, free or not.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
