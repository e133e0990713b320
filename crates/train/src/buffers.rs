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
///
/// Each has room for a batch of the most tokens, so that a batch of any size takes the same ones: buffers fitted to every batch would be joined
/// by others for hundreds of steps, and a plan made after the first ones would not be true.
#[derive(Default)]
pub(crate) struct Buffers {
    free: Vec<Buffer>,
    bytes: usize,
    /// Of the batch that is computed, and of the largest.
    tokens: usize,
    most: usize,
}

impl Buffers {
    /// Batches have up to so many tokens.
    pub fn reserve(&mut self, tokens: usize) {
        self.most = self.most.max(tokens);
    }

    /// A batch of so many tokens is computed from here on.
    pub fn begin(&mut self, tokens: usize) {
        self.tokens = tokens;
        self.reserve(tokens);
    }

    /// A buffer of this length, so many numbers for every token of the batch; what it holds is of no account.
    pub fn take(&mut self, len: usize) -> Buffer {
        self.fitting(len, len.div_ceil(self.tokens.max(1)) * self.most)
    }

    /// A buffer of zeros, so many for every token.
    pub fn zeros(&mut self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// A buffer whose length does not follow from the batch's.
    pub fn take_fixed(&mut self, len: usize) -> Buffer {
        self.fitting(len, len)
    }

    fn fitting(&mut self, len: usize, room: usize) -> Buffer {
        let at = self.free.partition_point(|b| b.capacity() < room);
        // One that is far too large is left to those who need it.
        if self.free.get(at).is_none_or(|b| b.capacity() / 2 > room + 1024) {
            self.bytes += 4 * room;
            return Buffer { len, ..Buffer::new(room) };
        }
        Buffer { len, ..self.free.remove(at) }
    }

    /// No longer needed.
    pub fn give(&mut self, buffer: Buffer) {
        if buffer.capacity() > 0 {
            let at = self.free.partition_point(|b| b.capacity() < buffer.capacity());
            self.free.insert(at, buffer);
        }
    }

    /// Bytes of all, free or not, at the most tokens.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass that keeps two buffers and uses a third for a moment.
    fn pass(buffers: &mut Buffers, tokens: usize) {
        buffers.begin(tokens);
        let kept = [buffers.take(tokens * 96), buffers.take(tokens * 128)];
        let moment = buffers.take_fixed(5000);
        assert_eq!(moment.len(), 5000);
        buffers.give(moment);
        let moment = buffers.zeros(tokens * 64);
        assert!(moment.iter().all(|x| *x == 0.0) && moment.len() == tokens * 64);
        buffers.give(moment);
        kept.into_iter().for_each(|b| buffers.give(b));
    }

    #[test]
    fn batches_of_all_sizes_share_the_buffers_of_the_largest() {
        let mut buffers = Buffers::default();
        buffers.reserve(1000);
        pass(&mut buffers, 400);
        let bytes = buffers.bytes();
        assert_eq!(bytes, 4 * (1000 * (96 + 128 + 64) + 5000));
        for tokens in [1000, 37, 999, 512, 1, 700] {
            pass(&mut buffers, tokens);
            assert_eq!(buffers.bytes(), bytes, "{tokens} tokens");
        }
    }
}
