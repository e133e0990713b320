//! Numbers of the cache in one of its formats, to be written: the other side of `kernels::Numbers`.

use kernels::{Numbers, SIX_BYTES, SMALL};

use super::layout::CacheFormat;

/// Numbers in one format.
pub(super) enum NumberStore {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Eight(Vec<i8>, Vec<u16>),
    Six(Vec<u8>, Vec<u16>),
}

impl NumberStore {
    /// So many zeros. Memory is touched only as they are written.
    pub fn new(format: CacheFormat, numbers: usize) -> NumberStore {
        let blocks = numbers / SMALL;
        match format {
            CacheFormat::F32 => NumberStore::F32(vec![0.0; numbers]),
            CacheFormat::Bf16 => NumberStore::Bf16(vec![0; numbers]),
            CacheFormat::Eight => NumberStore::Eight(vec![0; numbers], vec![0; blocks]),
            CacheFormat::Six => NumberStore::Six(vec![0; blocks * SIX_BYTES], vec![0; blocks]),
        }
    }

    /// In large pages of the system's, where it has them.
    pub fn prefer_large_pages(&mut self) {
        match self {
            NumberStore::F32(x) => crate::mmap::prefer_large_pages(x),
            NumberStore::Bf16(x) => crate::mmap::prefer_large_pages(x),
            NumberStore::Eight(x, _) => crate::mmap::prefer_large_pages(x),
            NumberStore::Six(x, _) => crate::mmap::prefer_large_pages(x),
        }
    }

    pub fn numbers(&self) -> Numbers<'_> {
        match self {
            NumberStore::F32(x) => Numbers::F32(x),
            NumberStore::Bf16(x) => Numbers::Bf16(x),
            NumberStore::Eight(x, scales) => Numbers::Eight(x, scales),
            NumberStore::Six(x, scales) => Numbers::Six(x, scales),
        }
    }

    pub fn numbers_mut(&mut self) -> NumbersMut<'_> {
        match self {
            NumberStore::F32(x) => NumbersMut::F32(x),
            NumberStore::Bf16(x) => NumbersMut::Bf16(x),
            NumberStore::Eight(x, scales) => NumbersMut::Eight(x, scales),
            NumberStore::Six(x, scales) => NumbersMut::Six(x, scales),
        }
    }
}

/// Numbers of a cache, to be written.
pub enum NumbersMut<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Halves.
    Bf16(&'a mut [u16]),
    /// Quants and scales.
    Eight(&'a mut [i8], &'a mut [u16]),
    /// Packed quants and scales.
    Six(&'a mut [u8], &'a mut [u16]),
}

impl<'a> NumbersMut<'a> {
    /// The first `at` and the others; of 8 and 6 bits whole blocks.
    pub(super) fn split(self, at: usize) -> (NumbersMut<'a>, NumbersMut<'a>) {
        let blocks = at / SMALL;
        match self {
            NumbersMut::F32(x) => {
                let (a, b) = x.split_at_mut(at);
                (NumbersMut::F32(a), NumbersMut::F32(b))
            }
            NumbersMut::Bf16(x) => {
                let (a, b) = x.split_at_mut(at);
                (NumbersMut::Bf16(a), NumbersMut::Bf16(b))
            }
            NumbersMut::Eight(x, scales) => {
                let ((a, b), (s, t)) = (x.split_at_mut(at), scales.split_at_mut(blocks));
                (NumbersMut::Eight(a, s), NumbersMut::Eight(b, t))
            }
            NumbersMut::Six(x, scales) => {
                let ((a, b), (s, t)) = (x.split_at_mut(blocks * SIX_BYTES), scales.split_at_mut(blocks));
                (NumbersMut::Six(a, s), NumbersMut::Six(b, t))
            }
        }
    }

    /// Write numbers from number `at` on; of 8 and 6 bits whole blocks.
    pub fn write(&mut self, at: usize, x: &[f32]) {
        let (all, blocks) = (at..at + x.len(), at / SMALL..(at + x.len()) / SMALL);
        match self {
            NumbersMut::F32(row) => row[all].copy_from_slice(x),
            NumbersMut::Bf16(row) => kernels::f32_to_bf16(x, &mut row[all]),
            NumbersMut::Eight(row, scales) => kernels::to_eight(x, &mut row[all], &mut scales[blocks]),
            NumbersMut::Six(row, scales) => {
                let bytes = blocks.start * SIX_BYTES..blocks.end * SIX_BYTES;
                kernels::to_six(x, &mut row[bytes], &mut scales[blocks]);
            }
        }
    }

    /// Be what `from` is: as many numbers of the same format.
    pub(super) fn copy(&mut self, from: Numbers) {
        match (self, from) {
            (NumbersMut::F32(to), Numbers::F32(from)) => to.copy_from_slice(from),
            (NumbersMut::Bf16(to), Numbers::Bf16(from)) => to.copy_from_slice(from),
            (NumbersMut::Eight(to, scales), Numbers::Eight(from, s)) => {
                to.copy_from_slice(from);
                scales.copy_from_slice(s);
            }
            (NumbersMut::Six(to, scales), Numbers::Six(from, s)) => {
                to.copy_from_slice(from);
                scales.copy_from_slice(s);
            }
            _ => panic!("numbers are copied within a format"),
        }
    }

    /// Take what `to_bytes` gave of as many numbers of this format.
    pub(super) fn set_bytes(self, bytes: &[u8]) {
        let halves = |to: &mut [u16], from: &[u8]| {
            to.iter_mut().zip(from.as_chunks().0).for_each(|(x, &b)| *x = u16::from_le_bytes(b));
        };
        match self {
            NumbersMut::F32(to) => {
                to.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, &b)| *x = f32::from_le_bytes(b))
            }
            NumbersMut::Bf16(to) => halves(to, bytes),
            NumbersMut::Eight(to, scales) => {
                let (quants, rest) = bytes.split_at(to.len());
                to.iter_mut().zip(quants).for_each(|(x, &b)| *x = b as i8);
                halves(scales, rest);
            }
            NumbersMut::Six(to, scales) => {
                let (quants, rest) = bytes.split_at(to.len());
                to.copy_from_slice(quants);
                halves(scales, rest);
            }
        }
    }
}

/// Numbers as little-endian bytes, quants before scales, after what is in `out`.
pub(super) fn to_bytes(x: Numbers, out: &mut Vec<u8>) {
    let halves = |x: &[u16], out: &mut Vec<u8>| out.extend(x.iter().flat_map(|x| x.to_le_bytes()));
    match x {
        Numbers::F32(x) => out.extend(x.iter().flat_map(|x| x.to_le_bytes())),
        Numbers::Bf16(x) => halves(x, out),
        Numbers::Eight(x, scales) => {
            out.extend(x.iter().map(|&x| x as u8));
            halves(scales, out);
        }
        Numbers::Six(x, scales) => {
            out.extend_from_slice(x);
            halves(scales, out);
        }
    }
}
