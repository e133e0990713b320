//! Quantised input rows as products read them: in panels of rows, block of 32 columns after block, a block's rows side by side.
//! Sums that a weight format needs come with them, so that an inner loop only multiplies.

use std::cell::Cell;

use crate::{Format, Pool, Quantized, Rows, with_block};

/// Rows of a panel at most: what they have should stay in the second cache while weights pass.
pub const PANEL_ROWS: usize = 96;

/// What a weight format asks of its input.
#[derive(Clone, Copy, PartialEq)]
struct Kind {
    /// Columns that share a scale of the weight: 16 or 32.
    group: usize,
    /// What is subtracted from unsigned quants of the weight.
    offset: i32,
    /// Whether the weight has minima.
    weighs: bool,
}

impl Kind {
    fn of(format: Format) -> Kind {
        use crate::blocks::Block;
        with_block!(format, B, Kind { group: B::GROUP, offset: B::OFFSET, weighs: B::HAS_MIN })
    }
}

/// Up to `PANEL_ROWS` rows.
pub struct Panel<'a> {
    rows: usize,
    kind: Kind,
    /// `[block][row][32]`
    x: &'a [i8],
    /// `[block][row]`
    scales: &'a [f32],
    /// `[group][row]`: what a dot product starts from, `-offset` times the sum of the group's quants. None where the offset is zero.
    starts: &'a [i32],
    /// `[group][row]`: scale times sum. None where the weight has no minima.
    weighted: &'a [f32],
}

impl Panel<'_> {
    /// Rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.x.len() / self.rows
    }

    /// Whether it was made for groups of so many columns, such an offset, and minima or none.
    pub fn suits(&self, group: usize, offset: i32, minima: bool) -> bool {
        self.kind == Kind { group, offset, weighs: minima }
    }

    /// Numbers of the first row from a column that starts a block of 32: quants, scales, starts and weighted sums. What the weight format
    /// does not ask for is not to be read.
    #[inline(always)]
    pub fn at(&self, column: usize) -> (*const i8, *const f32, *const i32, *const f32) {
        let (block, group) = (column / 32 * self.rows, column / self.kind.group * self.rows);
        assert!(column.is_multiple_of(32) && block < self.scales.len());
        let starts = if self.starts.is_empty() { self.starts.as_ptr() } else { self.starts[group..].as_ptr() };
        let weighted = if self.weighted.is_empty() { self.weighted.as_ptr() } else { self.weighted[group..].as_ptr() };
        (self.x[32 * block..].as_ptr(), self.scales[block..].as_ptr(), starts, weighted)
    }
}

/// What a product may use: its quantised input in panels, and the bytes that the thread will read next.
pub type Hints<'a> = (&'a [Panel<'a>], &'a [u8]);

/// A panel that is being filled.
struct Filling<'a> {
    from: &'a Quantized,
    /// Places in `rows` that it takes.
    places: std::ops::Range<usize>,
    rows: Rows<'a>,
    kind: Kind,
    x: &'a mut [i8],
    scales: &'a mut [f32],
    starts: &'a mut [i32],
    weighted: &'a mut [f32],
}

impl Filling<'_> {
    fn fill(&mut self) {
        let (n, blocks) = (self.places.len(), self.from.cols / 32);
        for (r, place) in self.places.clone().enumerate() {
            let row = self.rows.at(place);
            let (x, scales, sums) = self.from.parts(row);
            for (b, (x, &scale)) in x.as_chunks::<32>().0.iter().zip(scales).enumerate() {
                self.x[32 * (b * n + r)..][..32].copy_from_slice(x);
                self.scales[b * n + r] = scale;
            }
            let per_block = 32 / self.kind.group;
            for g in 0..blocks * per_block {
                let sum = if per_block == 2 { sums[g] } else { sums[2 * g] + sums[2 * g + 1] };
                if self.kind.offset != 0 {
                    self.starts[g * n + r] = sum.wrapping_mul(-self.kind.offset);
                }
                if self.kind.weighs {
                    self.weighted[g * n + r] = scales[g / per_block] * sum as f32;
                }
            }
        }
    }
}

/// Room for panels, used again.
#[derive(Default)]
struct Room {
    x: Vec<i8>,
    scales: Vec<f32>,
    starts: Vec<i32>,
    weighted: Vec<f32>,
}

thread_local! {
    static ROOM: Cell<Room> = Cell::default();
}

/// Rows of one input that a weight format wants.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    quantized: &'a Quantized,
    rows: Rows<'a>,
    kind: Kind,
}

impl<'a> Selection<'a> {
    /// `rows` of `quantized` for a weight of that format.
    pub fn new(format: Format, quantized: &'a Quantized, rows: Rows<'a>) -> Self {
        let rows = match rows {
            Rows::All => Rows::Range(0, quantized.rows),
            Rows::List(&[one]) => Rows::Range(one as usize, 1),
            other => other,
        };
        Selection { quantized, rows, kind: Kind::of(format) }
    }

    fn len(&self) -> usize {
        self.rows.len(self.quantized.rows)
    }

    /// Whether the same panels serve both.
    fn same(&self, other: &Selection) -> bool {
        let rows = match (self.rows, other.rows) {
            (Rows::Range(a, n), Rows::Range(b, m)) => (a, n) == (b, m),
            (Rows::List(a), Rows::List(b)) => a == b,
            _ => false,
        };
        rows && self.kind == other.kind && std::ptr::eq(self.quantized, other.quantized)
    }
}

/// Bytes of input below which panels are filled without waking other threads.
const ALONE_BYTES: usize = 32 << 10;

/// Fill panels for all selections, and run `then` with them: the panels of selection i are `panels[ranges[i]]`.
pub fn with_panels<T>(
    pool: &Pool,
    selections: &[Option<Selection>],
    then: impl FnOnce(&[Panel], &[std::ops::Range<usize>]) -> T,
) -> T {
    let mut fillings: Vec<Filling> = Vec::new();
    let mut ranges: Vec<std::ops::Range<usize>> = Vec::with_capacity(selections.len());
    // Gate and up of a block follow each other and take the same rows.
    let fresh = |i: usize, s: &Selection| i == 0 || !selections[i - 1].is_some_and(|before| before.same(s));
    let (mut bytes, mut groups) = (0, [0usize; 2]);
    for (i, s) in selections.iter().enumerate() {
        if let Some(s) = s.as_ref().filter(|s| fresh(i, s)) {
            let all = s.len() * s.quantized.cols;
            bytes += all;
            groups[0] += if s.kind.offset != 0 { all / s.kind.group } else { 0 };
            groups[1] += if s.kind.weighs { all / s.kind.group } else { 0 };
        }
    }
    let mut room = ROOM.take();
    room.x.resize(bytes.max(room.x.len()), 0);
    room.scales.resize((bytes / 32).max(room.scales.len()), 0.0);
    room.starts.resize(groups[0].max(room.starts.len()), 0);
    room.weighted.resize(groups[1].max(room.weighted.len()), 0.0);
    let (mut x, mut scales, mut starts, mut weighted) =
        (&mut room.x[..], &mut room.scales[..], &mut room.starts[..], &mut room.weighted[..]);
    for (i, s) in selections.iter().enumerate() {
        let Some(s) = s else {
            ranges.push(0..0);
            continue;
        };
        if !fresh(i, s) {
            ranges.push(ranges[i - 1].clone());
            continue;
        }
        let (n, first) = (s.len(), fillings.len());
        // Panels of about equal size.
        let count = n.div_ceil(PANEL_ROWS);
        for p in 0..count {
            let places = n * p / count..n * (p + 1) / count;
            let all = places.len() * s.quantized.cols;
            let per_group = |wanted: bool| if wanted { all / s.kind.group } else { 0 };
            fillings.push(Filling {
                from: s.quantized,
                places,
                rows: s.rows,
                kind: s.kind,
                x: x.split_off_mut(..all).expect("room for all"),
                scales: scales.split_off_mut(..all / 32).expect("room for all"),
                starts: starts.split_off_mut(..per_group(s.kind.offset != 0)).expect("room for all"),
                weighted: weighted.split_off_mut(..per_group(s.kind.weighs)).expect("room for all"),
            });
        }
        ranges.push(first..fillings.len());
    }
    if bytes < ALONE_BYTES {
        fillings.iter_mut().for_each(Filling::fill);
    } else {
        pool.each(&mut fillings, Filling::fill);
    }
    let panels: Vec<Panel> = fillings
        .into_iter()
        .map(|f| Panel {
            rows: f.places.len(),
            kind: f.kind,
            x: f.x,
            scales: f.scales,
            starts: f.starts,
            weighted: f.weighted,
        })
        .collect();
    let result = then(&panels, &ranges);
    drop(panels);
    ROOM.set(room);
    result
}
