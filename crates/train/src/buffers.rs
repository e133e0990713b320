//! Buffers that are used again from layer to layer and step to step: fresh memory costs more than many a kernel.

use std::collections::HashMap;

/// Buffers that are free, by length.
#[derive(Default)]
pub(crate) struct Buffers {
    free: HashMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

impl Buffers {
    /// A buffer of this length; what it holds is of no account.
    pub fn take(&mut self, len: usize) -> Vec<f32> {
        self.free.get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| {
            self.bytes += 4 * len;
            vec![0.0; len]
        })
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self, len: usize) -> Vec<f32> {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }

    /// No longer needed.
    pub fn give(&mut self, buffer: Vec<f32>) {
        self.free.entry(buffer.len()).or_default().push(buffer);
    }

    /// Bytes that were ever taken at once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Let go of all that is free. Batches of other sizes than before leave buffers behind that none will ask for.
    pub fn clear(&mut self) {
        let free: usize = self.free.values().flatten().map(|b| 4 * b.len()).sum();
        self.bytes -= free;
        self.free.clear();
    }
}
