//! Pages of what attention remembers: latents, or keys and values. It knows the layout; who owns a page is the engine's business.

use kernels::Numbers;

use crate::structure::Structure;

/// Positions per page.
pub const PAGE: usize = 64;

/// How the cache stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Exact.
    F32,
    /// Half the bytes.
    Bf16,
}

impl CacheFormat {
    /// Bytes per number.
    pub const fn bytes(self) -> usize {
        match self {
            CacheFormat::F32 => 4,
            CacheFormat::Bf16 => 2,
        }
    }
}

enum Store {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
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
        };
        match &mut store {
            Store::F32(store) => kernels::prefer_large_pages(store),
            Store::Bf16(store) => kernels::prefer_large_pages(store),
        }
        Cache { store, pages, layers, page_len: start }
    }

    /// Bytes of a page, all layers.
    pub fn bytes_per_page(structure: &Structure, format: CacheFormat) -> usize {
        structure.cache_width() * PAGE * format.bytes()
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
        }
    }

    /// Give page `to` what page `from` holds.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to, len) = (from as usize * self.page_len, to as usize * self.page_len, self.page_len);
        match &mut self.store {
            Store::F32(store) => store.copy_within(from..from + len, to),
            Store::Bf16(store) => store.copy_within(from..from + len, to),
        }
    }

    /// The `[64, width]` rows of a page.
    pub fn page(&self, layer: usize, page: u32) -> Numbers<'_> {
        let (width, start) = self.layers[layer];
        let at = page as usize * self.page_len + start;
        match &self.store {
            Store::F32(store) => Numbers::F32(&store[at..at + width * PAGE]),
            Store::Bf16(store) => Numbers::Bf16(&store[at..at + width * PAGE]),
        }
    }
}

/// Numbers from `from` on.
pub fn skip(x: Numbers<'_>, from: usize) -> Numbers<'_> {
    match x {
        Numbers::F32(x) => Numbers::F32(&x[from..]),
        Numbers::Bf16(x) => Numbers::Bf16(&x[from..]),
    }
}
