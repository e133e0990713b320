//! Pages of what attention remembers: latents, or keys and values. It knows the layout; who owns a page is the engine's business.

use kernels::{Numbers, SIX_BYTES, SMALL};

use crate::mmap::prefer_large_pages;
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
        matches!(self, CacheFormat::F32 | CacheFormat::Bf16)
            || structure.layers.iter().flat_map(|l| l.attention.cache_unit()).all(|n| n.is_multiple_of(SMALL))
    }
}

enum Store {
    F32(Vec<f32>),
    Bf16(Vec<u16>),
    Eight(Vec<i8>, Vec<u16>),
    Six(Vec<u8>, Vec<u16>),
}

/// A token's row of one layer, to be written.
pub enum CacheRow<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Halves.
    Bf16(&'a mut [u16]),
    /// Quants and scales.
    Eight(&'a mut [i8], &'a mut [u16]),
    /// Packed quants and scales.
    Six(&'a mut [u8], &'a mut [u16]),
}

impl CacheRow<'_> {
    /// Write numbers from number `at` on; of 8 and 6 bits whole blocks.
    pub fn write(&mut self, at: usize, x: &[f32]) {
        let (all, blocks) = (at..at + x.len(), at / SMALL..(at + x.len()) / SMALL);
        match self {
            CacheRow::F32(row) => row[all].copy_from_slice(x),
            CacheRow::Bf16(row) => kernels::f32_to_bf16(x, &mut row[all]),
            CacheRow::Eight(row, scales) => kernels::to_eight(x, &mut row[all], &mut scales[blocks]),
            CacheRow::Six(row, scales) => {
                let bytes = blocks.start * SIX_BYTES..blocks.end * SIX_BYTES;
                kernels::to_six(x, &mut row[bytes], &mut scales[blocks]);
            }
        }
    }
}

/// Elements `at..at + len` of a store whose first `rest.1` elements have been cut off.
fn cut<'a, T>(rest: &mut (&'a mut [T], usize), at: usize, len: usize) -> &'a mut [T] {
    let skipped = at.checked_sub(rest.1).expect("no place twice");
    let (row, after) = std::mem::take(&mut rest.0)[skipped..].split_at_mut(len);
    *rest = (after, at + len);
    row
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
            Store::F32(store) => prefer_large_pages(store),
            Store::Bf16(store) => prefer_large_pages(store),
            Store::Eight(store, _) => prefer_large_pages(store),
            Store::Six(store, _) => prefer_large_pages(store),
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

    /// How numbers are stored.
    pub fn format(&self) -> CacheFormat {
        match &self.store {
            Store::F32(_) => CacheFormat::F32,
            Store::Bf16(_) => CacheFormat::Bf16,
            Store::Eight(..) => CacheFormat::Eight,
            Store::Six(..) => CacheFormat::Six,
        }
    }

    /// Width of a row of `layer`.
    pub fn width(&self, layer: usize) -> usize {
        self.layers[layer].0
    }

    /// Whether numbers are kept as they are.
    pub fn is_exact(&self) -> bool {
        matches!(self.store, Store::F32(_))
    }

    /// The rows of these pages' slots (0..64), in the order asked for, for several threads to write.
    ///
    /// # Panics
    /// When a place comes twice.
    pub fn rows(&mut self, layer: usize, places: &[(u32, usize)]) -> Vec<CacheRow<'_>> {
        let (width, start) = self.layers[layer];
        let page_len = self.page_len;
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by_key(|&i| places[i]);
        let ats = order.iter().map(|&i| {
            let (page, slot) = places[i];
            assert!(slot < PAGE);
            page as usize * page_len + start + slot * width
        });
        let mut rows: Vec<CacheRow> = match &mut self.store {
            Store::F32(store) => {
                let mut rest = (&mut store[..], 0);
                ats.map(|at| CacheRow::F32(cut(&mut rest, at, width))).collect()
            }
            Store::Bf16(store) => {
                let mut rest = (&mut store[..], 0);
                ats.map(|at| CacheRow::Bf16(cut(&mut rest, at, width))).collect()
            }
            Store::Eight(store, scales) => {
                let (mut rest, mut scales) = ((&mut store[..], 0), (&mut scales[..], 0));
                let row = |at| (cut(&mut rest, at, width), cut(&mut scales, at / SMALL, width / SMALL));
                ats.map(row).map(|(quants, scales)| CacheRow::Eight(quants, scales)).collect()
            }
            Store::Six(store, scales) => {
                let (mut rest, mut scales) = ((&mut store[..], 0), (&mut scales[..], 0));
                let bytes = |numbers: usize| numbers / SMALL * SIX_BYTES;
                let row = |at| (cut(&mut rest, bytes(at), bytes(width)), cut(&mut scales, at / SMALL, width / SMALL));
                ats.map(row).map(|(bytes, scales)| CacheRow::Six(bytes, scales)).collect()
            }
        };
        // Back from the order of their places.
        for i in 0..order.len() {
            while order[i] != i {
                let at = order[i];
                rows.swap(i, at);
                order.swap(i, at);
            }
        }
        rows
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

    /// What a page holds, all layers, to be kept elsewhere: little-endian.
    pub fn page_bytes(&self, page: u32) -> Vec<u8> {
        let (at, len) = (page as usize * self.page_len, self.page_len);
        let scales = |scales: &[u16]| -> Vec<u8> {
            scales[at / SMALL..(at + len) / SMALL].iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        match &self.store {
            Store::F32(store) => store[at..at + len].iter().flat_map(|x| x.to_le_bytes()).collect(),
            Store::Bf16(store) => store[at..at + len].iter().flat_map(|x| x.to_le_bytes()).collect(),
            Store::Eight(store, s) => {
                let quants = store[at..at + len].iter().map(|&x| x as u8);
                quants.chain(scales(s)).collect()
            }
            Store::Six(store, s) => {
                let quants = &store[at / SMALL * SIX_BYTES..(at + len) / SMALL * SIX_BYTES];
                [quants, &scales(s)].concat()
            }
        }
    }

    /// Give a page what `page_bytes` gave. False, and nothing is changed, when these are not as many bytes as a page has.
    pub fn set_page(&mut self, page: u32, bytes: &[u8]) -> bool {
        let (at, len) = (page as usize * self.page_len, self.page_len);
        let set = |to: &mut [u16], from: &[u8]| {
            to.iter_mut().zip(from.as_chunks().0).for_each(|(x, &b)| *x = u16::from_le_bytes(b));
        };
        let blocks = at / SMALL..(at + len) / SMALL;
        let whole = match &self.store {
            Store::F32(_) => len * 4,
            Store::Bf16(_) => len * 2,
            Store::Eight(..) => len + len / SMALL * 2,
            Store::Six(..) => len / SMALL * (SIX_BYTES + 2),
        };
        if bytes.len() != whole {
            return false;
        }
        match &mut self.store {
            Store::F32(store) => {
                let to = store[at..at + len].iter_mut();
                to.zip(bytes.as_chunks().0).for_each(|(x, &b)| *x = f32::from_le_bytes(b));
            }
            Store::Bf16(store) => set(&mut store[at..at + len], bytes),
            Store::Eight(store, scales) => {
                let (quants, rest) = bytes.split_at(len);
                store[at..at + len].iter_mut().zip(quants).for_each(|(x, &b)| *x = b as i8);
                set(&mut scales[blocks], rest);
            }
            Store::Six(store, scales) => {
                let (quants, rest) = bytes.split_at(len / SMALL * SIX_BYTES);
                store[blocks.start * SIX_BYTES..blocks.end * SIX_BYTES].copy_from_slice(quants);
                set(&mut scales[blocks], rest);
            }
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let store = Store::F32(vec![0.0; 3 * 2 * PAGE * 4]);
        let mut cache = Cache { store, pages: 3, layers: vec![(4, 0), (4, PAGE * 4)], page_len: 2 * PAGE * 4 };
        let places = [(2, 5), (0, 63), (2, 4), (1, 0), (0, 62)];
        for (i, mut row) in cache.rows(1, &places).into_iter().enumerate() {
            row.write(0, &[i as f32 + 1.0; 4]);
        }
        for (i, &(page, slot)) in places.iter().enumerate() {
            let Numbers::F32(numbers) = cache.page(1, page) else { panic!("as it was made") };
            assert_eq!(numbers[4 * slot..4 * slot + 4], [i as f32 + 1.0; 4]);
        }
        let Store::F32(store) = &cache.store else { panic!("as it was made") };
        assert_eq!(store.iter().filter(|&&x| x != 0.0).count(), 4 * places.len());
    }

    #[test]
    fn a_page_goes_out_and_comes_back() {
        let (len, pages) = (2 * PAGE * 16, 3);
        let n = len * pages;
        let six = n / SMALL * SIX_BYTES;
        let halves = |n: usize| (0..n).map(|i| (i * 7919) as u16).collect::<Vec<u16>>();
        let stores = || {
            [
                Store::F32((0..n).map(|i| i as f32 - 0.5).collect()),
                Store::Bf16(halves(n)),
                Store::Eight((0..n).map(|i| (i * 31) as i8).collect(), halves(n / SMALL)),
                Store::Six((0..six).map(|i| (i * 31) as u8).collect(), halves(n / SMALL)),
            ]
        };
        for store in stores() {
            let mut cache = Cache { store, pages, layers: vec![(16, 0), (16, PAGE * 16)], page_len: len };
            let before: Vec<Vec<u8>> = (0..3).map(|page| cache.page_bytes(page)).collect();
            assert!(before[0] != before[1] && before[1] != before[2]);
            assert!(cache.set_page(0, &before[2]) && !cache.set_page(1, &before[2][1..]));
            let mut twin = cache.page_bytes(0);
            assert_eq!((&twin, cache.page_bytes(1)), (&before[2], before[1].clone()));
            cache.copy_page(1, 0);
            twin = cache.page_bytes(0);
            assert_eq!(twin, before[1]);
        }
    }

    #[test]
    #[should_panic(expected = "no place twice")]
    fn a_place_is_one_row() {
        let store = Store::F32(vec![0.0; PAGE]);
        let mut cache = Cache { store, pages: 1, layers: vec![(1, 0)], page_len: PAGE };
        cache.rows(0, &[(0, 3), (0, 3)]);
    }
}
