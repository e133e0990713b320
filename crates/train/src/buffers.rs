//! Buffers that are used again from layer to layer and step to step: fresh memory costs more than many a kernel.

/// Buffers that are free, by capacity, the smallest first.
#[derive(Default)]
pub(crate) struct Buffers {
    free: Vec<Vec<f32>>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of this length; what it holds is of no account.
    pub fn take(&mut self, len: usize) -> Vec<f32> {
        let at = self.free.partition_point(|b| b.capacity() < len);
        // One that is far too large is left to those who need it.
        if self.free.get(at).is_none_or(|b| b.capacity() / 2 > len + 1024) {
            // An eighth more, since batches are not all of one size.
            let room = len + len / 8;
            self.bytes += 4 * room;
            let mut buffer = Vec::with_capacity(room);
            buffer.resize(len, 0.0);
            return buffer;
        }
        let mut buffer = self.free.remove(at);
        buffer.resize(len, 0.0);
        buffer
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// No longer needed.
    pub fn give(&mut self, buffer: Vec<f32>) {
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
