//! Pages of what attention remembers, laid out as a `CacheLayout` says. Who owns a page is the engine's business.

mod layout;
mod numbers;

use kernels::Numbers;

pub(crate) use layout::common;
pub use layout::{CacheFormat, CacheLayout, Every, PAGE, RowKind};
pub use numbers::NumbersMut;
use numbers::{NumberStore, to_bytes};

/// Where the rows of one kind lie.
#[derive(Clone, Copy)]
struct RowsPlace {
    /// Index of their format's store.
    store: usize,
    /// Number of a page's part at which they begin.
    start: usize,
    width: usize,
    rows_of_page: usize,
}

/// Numbers of all pages in one format, page after page: in each the layers' rows, kind after kind.
struct Pages {
    store: NumberStore,
    page_len: usize,
}

/// All pages of all layers. Memory is touched only as pages are written.
pub struct Cache {
    layout: CacheLayout,
    pages: usize,
    /// One for each format that some row has, in the order of `CacheFormat::ALL`.
    stores: Vec<Pages>,
    /// Of each layer its kinds of rows.
    layers: Vec<Vec<RowsPlace>>,
}

impl Cache {
    /// So many pages.
    ///
    /// # Panics
    /// When the layout is not sound.
    pub fn new(layout: CacheLayout, pages: usize) -> Cache {
        assert!(layout.is_sound(), "8 and 6 bits want rows of whole blocks");
        let formats = CacheFormat::ALL.map(|(format, _)| format);
        let formats: Vec<_> =
            formats.into_iter().filter(|f| layout.layers().iter().flatten().any(|rows| rows.format == *f)).collect();
        let mut page_lens = vec![0; formats.len()];
        let mut place = |rows: &RowKind| {
            let store = formats.iter().position(|f| *f == rows.format).expect("its store was made");
            let (rows_of_page, start) = (layout.rows_of_page(rows), page_lens[store]);
            page_lens[store] += rows_of_page * rows.width;
            RowsPlace { store, start, width: rows.width, rows_of_page }
        };
        let layers = layout.layers().iter().map(|layer| layer.iter().map(&mut place).collect()).collect();
        let mut stores = Vec::new();
        for (&format, page_len) in formats.iter().zip(page_lens) {
            let mut store = NumberStore::new(format, pages * page_len);
            store.prefer_large_pages();
            stores.push(Pages { store, page_len });
        }
        Cache { layout, pages, stores, layers }
    }

    /// What is kept, and how.
    pub fn layout(&self) -> &CacheLayout {
        &self.layout
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Rows of kind `kind` of a layer, in the order asked for, for several threads to write; each is a page and the row's number in it.
    ///
    /// # Panics
    /// When a row comes twice.
    pub fn rows_mut(&mut self, layer: usize, kind: usize, rows: &[(u32, usize)]) -> Vec<NumbersMut<'_>> {
        let RowsPlace { store, start, width, rows_of_page } = self.layers[layer][kind];
        let Pages { store, page_len } = &mut self.stores[store];
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| rows[i]);
        let (mut rest, mut passed) = (store.numbers_mut(), 0);
        let mut cut: Vec<(usize, NumbersMut)> = Vec::with_capacity(rows.len());
        for i in order {
            let (page, row) = rows[i];
            assert!(row < rows_of_page);
            let at = page as usize * *page_len + start + row * width;
            let (_, from) = rest.split(at.checked_sub(passed).expect("no place twice"));
            let (row, after) = from.split(width);
            (rest, passed) = (after, at + width);
            cut.push((i, row));
        }
        cut.sort_unstable_by_key(|(i, _)| *i);
        cut.into_iter().map(|(_, row)| row).collect()
    }

    /// Rows of kind `kind` of a layer, to be read.
    pub fn rows(&self, layer: usize, kind: usize) -> RowsOf<'_> {
        let RowsPlace { store, start, width, rows_of_page } = self.layers[layer][kind];
        let Pages { store, page_len } = &self.stores[store];
        RowsOf { numbers: store.numbers(), page_len: *page_len, start, rows_of_page, width }
    }

    /// Give page `to` what page `from` holds.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let bytes = self.page_bytes(from);
        self.set_page(to, &bytes);
    }

    /// What a page holds, all layers, to be kept elsewhere: little-endian, format after format.
    pub fn page_bytes(&self, page: u32) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.layout.page_bytes());
        for Pages { store, page_len } in &self.stores {
            to_bytes(store.numbers().part(page as usize * page_len, *page_len), &mut bytes);
        }
        bytes
    }

    /// Give a page what `page_bytes` gave. False, and nothing is changed, when these are not as many bytes as a page has.
    pub fn set_page(&mut self, page: u32, bytes: &[u8]) -> bool {
        if bytes.len() != self.layout.page_bytes() {
            return false;
        }
        let mut rest = bytes;
        for Pages { store, page_len } in &mut self.stores {
            let (now, later) = rest.split_at(CacheFormat::of(&store.numbers()).bytes_of(*page_len));
            let (_, from) = store.numbers_mut().split(page as usize * *page_len);
            from.split(*page_len).0.set_bytes(now);
            rest = later;
        }
        true
    }
}

/// Rows of one kind of a layer. A sequence's rows are numbered from its beginning on: with a row for every token they are its positions.
#[derive(Clone, Copy)]
pub struct RowsOf<'a> {
    numbers: Numbers<'a>,
    page_len: usize,
    start: usize,
    rows_of_page: usize,
    /// Numbers of a row.
    pub width: usize,
}

/// Rows that were gathered; a buffer to be used again.
pub struct Gathered(NumberStore);

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered(NumberStore::F32(Vec::new()))
    }
}

impl Gathered {
    /// From row `row` on.
    pub fn from(&self, row: usize, width: usize) -> Numbers<'_> {
        self.0.numbers().skip(row * width)
    }
}

impl<'a> RowsOf<'a> {
    /// The rows of a sequence with these pages from row `row` to the end of its page, one after the other; and how many these are.
    pub fn from(&self, pages: &[u32], row: usize) -> (Numbers<'a>, usize) {
        let (page, row) = (pages[row / self.rows_of_page], row % self.rows_of_page);
        let (at, count) = (page as usize * self.page_len + self.start + row * self.width, self.rows_of_page - row);
        (self.numbers.part(at, count * self.width), count)
    }

    /// Rows of a sequence with these pages, one after the other as they are stored.
    pub fn gather(&self, pages: &[u32], rows: &[u32], to: &mut Gathered) {
        let (format, numbers) = (CacheFormat::of(&self.numbers), rows.len() * self.width);
        if CacheFormat::of(&to.0.numbers()) != format || to.0.numbers().len() < numbers {
            to.0 = NumberStore::new(format, numbers);
        }
        let mut rest = to.0.numbers_mut();
        for &row in rows {
            let (mut place, after) = rest.split(self.width);
            place.copy(self.from(pages, row as usize).0.part(0, self.width));
            rest = after;
        }
    }

    /// Whether numbers are kept as they are.
    pub fn is_exact(&self) -> bool {
        matches!(self.numbers, Numbers::F32(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_token(width: usize, format: CacheFormat) -> RowKind {
        RowKind::each_token(width, width, format)
    }

    /// A cache whose numbers follow from their places.
    fn filled(layout: CacheLayout, pages: usize) -> Cache {
        let mut cache = Cache::new(layout, pages);
        for Pages { store, .. } in &mut cache.stores {
            match store.numbers_mut() {
                NumbersMut::F32(x) => x.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 - 0.5),
                NumbersMut::Bf16(x) => x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919) as u16),
                NumbersMut::Eight(x, s) => {
                    x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 31) as i8);
                    s.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919) as u16);
                }
                NumbersMut::Six(x, s) => {
                    x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 31) as u8);
                    s.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919) as u16);
                }
            }
        }
        cache
    }

    /// Row `row` of a page.
    fn row<'a>(cache: &'a Cache, layer: usize, kind: usize, page: u32, row: usize) -> Numbers<'a> {
        let rows = cache.rows(layer, kind);
        rows.from(&[page], row).0.part(0, rows.width)
    }

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let layer = vec![each_token(4, CacheFormat::F32)];
        let mut cache = Cache::new(CacheLayout::new(vec![layer; 2]), 3);
        let places = [(2, 5), (0, 63), (2, 4), (1, 0), (0, 62)];
        for (i, mut row) in cache.rows_mut(1, 0, &places).into_iter().enumerate() {
            row.write(0, &[i as f32 + 1.0; 4]);
        }
        for (i, &(page, slot)) in places.iter().enumerate() {
            let Numbers::F32(numbers) = row(&cache, 1, 0, page, slot) else { panic!("as it was made") };
            assert_eq!(numbers, [i as f32 + 1.0; 4]);
        }
        let NumberStore::F32(store) = &cache.stores[0].store else { panic!("as it was made") };
        assert_eq!(store.iter().filter(|&&x| x != 0.0).count(), 4 * places.len());
    }

    #[test]
    fn a_page_goes_out_and_comes_back() {
        for (format, _) in CacheFormat::ALL {
            let mut cache = filled(CacheLayout::new(vec![vec![each_token(16, format)]; 2]), 3);
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
        let mut cache = Cache::new(CacheLayout::new(vec![vec![each_token(1, CacheFormat::F32)]]), 1);
        cache.rows_mut(0, 0, &[(0, 3), (0, 3)]);
    }

    /// Rows of kinds that no structure has yet: beside a latent an index key, as DeepSeek-V3.2 has them; a window, an entry for every 4 or 128 tokens and a
    /// state, as V4 has them.
    fn to_come() -> CacheLayout {
        let every = |tokens| Every::Tokens(tokens);
        let latent = RowKind { every: every(1), width: 576, part: 64, format: CacheFormat::Bf16 };
        let index = RowKind { every: every(1), width: 128, part: 128, format: CacheFormat::Eight };
        let compressed = RowKind { every: every(4), width: 512, part: 64, format: CacheFormat::Bf16 };
        let index_compressed = RowKind { every: every(4), width: 128, part: 128, format: CacheFormat::Six };
        let heavily = RowKind { every: every(128), width: 512, part: 64, format: CacheFormat::Bf16 };
        let window = RowKind { every: Every::Page, width: 128 * 512, part: 64, format: CacheFormat::Bf16 };
        let tail = RowKind { every: Every::Page, width: 8 * 1024, part: 1, format: CacheFormat::F32 };
        CacheLayout::new(vec![
            vec![latent, index],
            vec![compressed, index_compressed, window, tail],
            vec![heavily, window],
        ])
    }

    #[test]
    fn rows_of_other_kinds_fold_into_bytes() {
        let layout = to_come();
        assert_eq!((layout.page(), layout.is_sound()), (128, true));
        let window = 128 * 512 * 2;
        let state = 2 * window + 8 * 1024 * 4;
        let each_token = 576 * 2 + (128 + 128 / 16 * 2);
        let entries = 32 * 512 * 2 + 32 * (128 / 16 * 14) + 512 * 2;
        assert_eq!(layout.state_bytes(), state);
        assert_eq!(layout.page_bytes(), 128 * each_token + entries + state);
        // A plan counts whole pages.
        let page = layout.page_bytes() as u64;
        assert_eq!([0, 1, 128, 129, 1000].map(|tokens| layout.bytes_of(tokens) / page), [0, 1, 1, 2, 8]);
        assert_eq!([page - 1, page, 5 * page + 7].map(|bytes| layout.tokens_within(bytes)), [0, 128, 640]);
        assert_eq!(layout.bytes_per_token(), layout.page_bytes().div_ceil(128));
        // Pages four times as long have a fourth of the states.
        let longer = to_come().in_longer_pages(4);
        assert_eq!((longer.page(), longer.page_bytes()), (512, 4 * (layout.page_bytes() - state) + state));
        assert_eq!(longer.state_bytes(), state);
        // Rows every 3 tokens want pages of a multiple of 64 and 3; a scale over 16 numbers wants parts of as many.
        let odd = |every, part, format| CacheLayout::new(vec![vec![RowKind { every, width: 48, part, format }]]);
        assert_eq!(odd(Every::Tokens(3), 16, CacheFormat::F32).page(), 192);
        assert!(
            odd(Every::Page, 16, CacheFormat::Six).is_sound() && !odd(Every::Page, 24, CacheFormat::Six).is_sound()
        );
        assert!(odd(Every::Page, 24, CacheFormat::Bf16).is_sound());
    }

    #[test]
    fn pages_of_rows_of_other_kinds_go_out_and_come_back() {
        for layout in [to_come(), to_come().in_longer_pages(2)] {
            let mut cache = filled(layout.clone(), 3);
            let pages: Vec<Vec<u8>> = (0..3).map(|page| cache.page_bytes(page)).collect();
            assert!(pages.iter().all(|bytes| bytes.len() == layout.page_bytes()));
            let mut other = Cache::new(layout.clone(), 2);
            assert!(other.set_page(1, &pages[2]) && other.set_page(0, &pages[0]));
            for (layer, kinds) in layout.layers().iter().enumerate() {
                for (kind, rows) in kinds.iter().enumerate() {
                    for at in 0..layout.rows_of_page(rows) {
                        let (mut a, mut b) = (Vec::new(), Vec::new());
                        to_bytes(row(&cache, layer, kind, 2, at), &mut a);
                        to_bytes(row(&other, layer, kind, 1, at), &mut b);
                        assert_eq!(a, b, "layer {layer}, kind {kind}, row {at}");
                    }
                }
            }
            // A row that is written is one row of one page, and nothing else changes.
            cache.rows_mut(1, 0, &[(1, 31)])[0].write(0, &[1.5; 512]);
            let mut wide = vec![0f32; 512];
            kernels::widen(row(&cache, 1, 0, 1, 31), &mut wide);
            assert_eq!(wide, [1.5; 512]);
            let now = cache.page_bytes(1);
            let changed = now.iter().zip(&pages[1]).filter(|(a, b)| a != b).count();
            assert!(
                (1..=1024).contains(&changed) && cache.page_bytes(0) == pages[0] && cache.page_bytes(2) == pages[2]
            );
        }
    }
}
