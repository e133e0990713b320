//! Pages of what attention remembers: latents, or keys and values. It knows the layout; who owns a page is the engine's business.

use kernels::{Numbers, SIX_BYTES, SMALL};

use crate::structure::{Attention, Structure};

/// Positions per page.
pub const PAGE: usize = 64;

/// How the cache stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Exact.
    F32,
    /// Half the bytes.
    Bf16,
    /// 8 bits and a scale for 16 numbers: 9 bits a number.
    Eight,
    /// 6 bits and a scale for 16 numbers: 7 bits a number.
    Six,
}

impl CacheFormat {
    /// All of them, and their names.
    pub const ALL: [(CacheFormat, &'static str); 4] =
        [(CacheFormat::F32, "f32"), (CacheFormat::Bf16, "bf16"), (CacheFormat::Eight, "q8"), (CacheFormat::Six, "q6")];

    /// Bytes of so many numbers.
    pub const fn bytes_of(self, numbers: usize) -> usize {
        match self {
            CacheFormat::F32 => numbers.saturating_mul(4),
            CacheFormat::Bf16 => numbers.saturating_mul(2),
            CacheFormat::Eight => numbers.saturating_add(numbers / SMALL * 2),
            CacheFormat::Six => numbers / SMALL * (SIX_BYTES + 2),
        }
    }

    /// Whether a structure's entries can be stored so: scales are shared by 16 numbers of one part of an entry.
    pub fn suits(self, structure: &Structure) -> bool {
        let parts = |layer: &crate::structure::Layer| match layer.attention {
            Attention::Gqa { head_dim, .. } => [head_dim, head_dim],
            Attention::Mla { kv_rank, rope_dim, .. } => [kv_rank, rope_dim],
        };
        matches!(self, CacheFormat::F32 | CacheFormat::Bf16)
            || structure.layers.iter().flat_map(parts).all(|n| n.is_multiple_of(SMALL))
    }
}

enum Store {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Eight(Vec<i8>, Vec<u16>),
    Six(Vec<u8>, Vec<u16>),
}

/// All pages of all layers. Memory is touched only as pages are written.
pub struct Cache {
    store: Store,
    pages: usize,
    /// Width of each layer's rows, and where its part of a page starts.
    layers: Vec<(usize, usize)>,
    page_len: usize,
}

impl Cache {
    /// `pages` pages for this structure.
    pub fn new(structure: &Structure, format: CacheFormat, pages: usize) -> Cache {
        assert!(format.suits(structure), "{format:?} wants entries of whole blocks");
        let mut start = 0;
        let layers = structure
            .layers
            .iter()
            .map(|layer| {
                let width = layer.attention.cache_width();
                start += width * PAGE;
                (width, start - width * PAGE)
            })
            .collect();
        let mut store = match format {
            CacheFormat::F32 => Store::F32(vec![0.0; pages * start]),
            CacheFormat::Bf16 => Store::Bf16(vec![0; pages * start]),
            CacheFormat::Eight => Store::Eight(vec![0; pages * start], vec![0; pages * start / SMALL]),
            CacheFormat::Six => Store::Six(vec![0; pages * start / SMALL * SIX_BYTES], vec![0; pages * start / SMALL]),
        };
        match &mut store {
            Store::F32(store) => kernels::prefer_large_pages(store),
            Store::Bf16(store) => kernels::prefer_large_pages(store),
            Store::Eight(store, _) => kernels::prefer_large_pages(store),
            Store::Six(store, _) => kernels::prefer_large_pages(store),
        }
        Cache { store, pages, layers, page_len: start }
    }

    /// Bytes of a page, all layers.
    pub fn bytes_per_page(structure: &Structure, format: CacheFormat) -> usize {
        format.bytes_of(structure.cache_width() * PAGE)
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Width of a row of `layer`.
    pub fn width(&self, layer: usize) -> usize {
        self.layers[layer].0
    }

    /// Write the row of `slot` (0..64) in `page`.
    pub fn write(&mut self, layer: usize, page: u32, slot: usize, row: &[f32]) {
        let (width, start) = self.layers[layer];
        assert!(row.len() == width && slot < PAGE);
        let at = page as usize * self.page_len + start + slot * width;
        match &mut self.store {
            Store::F32(store) => store[at..at + width].copy_from_slice(row),
            Store::Bf16(store) => kernels::f32_to_bf16(row, &mut store[at..at + width]),
            Store::Eight(store, scales) => {
                kernels::to_eight(row, &mut store[at..at + width], &mut scales[at / SMALL..(at + width) / SMALL]);
            }
            Store::Six(store, scales) => {
                let blocks = at / SMALL..(at + width) / SMALL;
                let bytes = blocks.start * SIX_BYTES..blocks.end * SIX_BYTES;
                kernels::to_six(row, &mut store[bytes], &mut scales[blocks]);
            }
        }
    }

    /// Give page `to` what page `from` holds.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to, len) = (from as usize * self.page_len, to as usize * self.page_len, self.page_len);
        match &mut self.store {
            Store::F32(store) => store.copy_within(from..from + len, to),
            Store::Bf16(store) => store.copy_within(from..from + len, to),
            Store::Eight(store, scales) => {
                store.copy_within(from..from + len, to);
                scales.copy_within(from / SMALL..(from + len) / SMALL, to / SMALL);
            }
            Store::Six(store, scales) => {
                let (from, to, len) = (from / SMALL, to / SMALL, len / SMALL);
                store.copy_within(from * SIX_BYTES..(from + len) * SIX_BYTES, to * SIX_BYTES);
                scales.copy_within(from..from + len, to);
            }
        }
    }

    /// The `[64, width]` rows of a page.
    pub fn page(&self, layer: usize, page: u32) -> Numbers<'_> {
        let (width, start) = self.layers[layer];
        let at = page as usize * self.page_len + start;
        let all = match &self.store {
            Store::F32(store) => Numbers::F32(store),
            Store::Bf16(store) => Numbers::Bf16(store),
            Store::Eight(store, scales) => Numbers::Eight(store, scales),
            Store::Six(store, scales) => Numbers::Six(store, scales),
        };
        all.part(at, width * PAGE)
    }
}
