//! Rows of activations in 8-bit blocks, as products read them: in panels of rows, block of 32 columns after block, a block's rows side
//! by side. Sums that a weight format needs come with them, so that an inner loop only multiplies.

use std::cell::Cell;
use std::ops::Range;

use crate::dequantize::with_format;
use crate::scratch::sized;
use crate::{Format, Pool, Rows};

/// Rows of a panel at most: what they have should stay in the second cache while weights pass.
pub const PANEL_ROWS: usize = 96;

/// Numbers that share a scale.
pub const BLOCK: usize = 32;

/// Rows of activations in 8-bit blocks of 32; a buffer to be used again.
#[derive(Default)]
pub struct Quantized {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// First rows of the panels, and the number of rows.
    pub(crate) bounds: Vec<usize>,
    /// By panel `[block][row][32]`.
    pub(crate) x: Vec<i8>,
    /// By panel `[block][row]`.
    pub(crate) scales: Vec<f32>,
    /// Of sixteen quants each; by panel `[block][row][2]`.
    pub(crate) sums: Vec<i32>,
}

/// Where a row's numbers are: block b is number `b * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    x: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    stride: usize,
}

impl<'a> Row<'a> {
    #[inline(always)]
    pub fn block(&self, block: usize) -> &'a [i8] {
        &self.x[BLOCK * block * self.stride..][..BLOCK]
    }

    #[inline(always)]
    pub fn scale(&self, block: usize) -> f32 {
        self.scales[block * self.stride]
    }

    /// Sum of a group of 16 or 32 quants.
    #[inline(always)]
    pub fn sum(&self, group: usize, of: usize) -> i32 {
        let pair = &self.sums[2 * (group * of / BLOCK) * self.stride..][..2];
        if of == 16 { pair[group % 2] } else { pair[0] + pair[1] }
    }
}

/// Sizes of the panels of `rows` rows: about equal.
pub(crate) fn split(rows: usize) -> impl Iterator<Item = usize> {
    let count = rows.div_ceil(PANEL_ROWS);
    (0..count).map(move |p| rows * (p + 1) / count - rows * p / count)
}

impl Quantized {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Make room for groups of so many rows, `cols` columns each, a multiple of 32. Panels do not reach over groups, so a product with the
    /// rows of a group takes them as they are. What the rows hold is left open.
    pub fn shape(&mut self, groups: impl IntoIterator<Item = usize>, cols: usize) {
        assert!(cols.is_multiple_of(BLOCK), "whole blocks");
        (self.rows, self.cols) = (0, cols);
        self.bounds.clear();
        self.bounds.push(0);
        for panel in groups.into_iter().flat_map(split) {
            self.rows += panel;
            self.bounds.push(self.rows);
        }
        let all = self.rows * cols;
        sized(&mut self.x, all);
        sized(&mut self.scales, all / BLOCK);
        sized(&mut self.sums, all / 16);
    }

    /// Row `r` decoded again: what products with quantised weights see.
    pub fn decode_row(&self, r: usize) -> Vec<f32> {
        let row = self.row(r);
        (0..self.cols).map(|k| row.block(k / BLOCK)[k % BLOCK] as f32 * row.scale(k / BLOCK)).collect()
    }

    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> Row<'_> {
        assert!(r < self.rows);
        let panel = self.bounds.partition_point(|&first| first <= r) - 1;
        let (first, blocks) = (self.bounds[panel], self.cols / BLOCK);
        let (n, r) = (self.bounds[panel + 1] - first, r - first);
        let x = &self.x[first * self.cols..][..n * self.cols];
        let scales = &self.scales[first * blocks..][..n * blocks];
        let sums = &self.sums[2 * first * blocks..][..2 * n * blocks];
        Row {
            x: &x[(BLOCK * r).min(x.len())..],
            scales: &scales[r.min(scales.len())..],
            sums: &sums[(2 * r).min(sums.len())..],
            stride: n,
        }
    }
}

/// Numbers that are treated without waking other threads.
pub(crate) const ALONE: usize = 16 << 10;

/// What a weight format asks of its input.
#[derive(Clone, Copy, PartialEq)]
struct InputKind {
    /// Columns that share a scale of the weight: 16 or 32.
    group: usize,
    /// What is subtracted from unsigned quants of the weight.
    offset: i32,
    /// Whether the weight has minima.
    weighs: bool,
}

impl InputKind {
    fn of(format: Format) -> InputKind {
        use crate::dequantize::Block;
        with_format!(format, B, InputKind { group: B::GROUP, offset: B::OFFSET, weighs: B::HAS_MIN })
    }
}

/// Up to `PANEL_ROWS` rows.
pub struct Panel<'a> {
    rows: usize,
    kind: InputKind,
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
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.x.len() / self.rows
    }

    /// Whether it was made for groups of so many columns, such an offset, and minima or none.
    pub fn suits(&self, group: usize, offset: i32, minima: bool) -> bool {
        self.kind == InputKind { group, offset, weighs: minima }
    }
}

/// Where a panel has its rows' numbers for a run of columns that starts a block of 32. What the weight format does not ask for is not to
/// be read.
#[derive(Clone, Copy)]
pub(crate) struct PanelPlace {
    /// Rows of the panel.
    pub rows: usize,
    /// `[block][row][32]`
    pub x: *const i8,
    /// `[block][row]`
    pub scales: *const f32,
    /// `[group][row]`
    pub starts: *const i32,
    /// `[group][row]`
    pub weighted: *const f32,
}

impl PanelPlace {
    #[inline(always)]
    pub fn of(panel: &Panel, column: usize) -> PanelPlace {
        let Panel { rows, kind, x, scales, starts, weighted } = panel;
        let (block, group) = (column / BLOCK * rows, column / kind.group * rows);
        assert!(column.is_multiple_of(BLOCK) && block < scales.len());
        PanelPlace {
            rows: *rows,
            x: x[BLOCK * block..].as_ptr(),
            scales: scales[block..].as_ptr(),
            starts: if starts.is_empty() { starts.as_ptr() } else { starts[group..].as_ptr() },
            weighted: if weighted.is_empty() { weighted.as_ptr() } else { weighted[group..].as_ptr() },
        }
    }
}

/// What a product may use: its quantised input in panels, and the bytes that the thread will read next.
pub type Hints<'a> = (&'a [Panel<'a>], &'a [u8]);

/// Each panel with the number of its first row, and what is read after the weight: `weight` once more for the next panel, at last what the
/// thread reads then.
pub(crate) fn in_turn<'a>(
    (panels, ahead): Hints<'a>,
    weight: &'a [u8],
) -> impl Iterator<Item = (usize, &'a Panel<'a>, &'a [u8])> {
    let mut from = 0;
    panels.iter().enumerate().map(move |(i, panel)| {
        from += panel.rows;
        (from - panel.rows, panel, if i + 1 == panels.len() { ahead } else { weight })
    })
}

/// A panel that is being filled.
struct Filling<'a> {
    rows: usize,
    kind: InputKind,
    /// Rows as they lie, or rows to be gathered.
    x: From<'a>,
    starts: &'a mut [i32],
    weighted: &'a mut [f32],
}

enum From<'a> {
    There { x: &'a [i8], scales: &'a [f32], sums: &'a [i32] },
    Gathered { rows: Vec<Row<'a>>, x: &'a mut [i8], scales: &'a mut [f32] },
}

impl<'a> Filling<'a> {
    fn fill(&mut self) {
        let (n, group) = (self.rows, self.kind.group);
        let blocks = match &mut self.x {
            From::There { scales, .. } => scales.len() / n,
            From::Gathered { rows, x, scales } => {
                let blocks = scales.len() / n;
                for b in 0..blocks {
                    for (r, row) in rows.iter().enumerate() {
                        x[BLOCK * (b * n + r)..][..BLOCK].copy_from_slice(row.block(b));
                        scales[b * n + r] = row.scale(b);
                    }
                }
                blocks
            }
        };
        if self.kind.offset == 0 && !self.kind.weighs {
            return;
        }
        let per_block = BLOCK / group;
        for g in 0..blocks * per_block {
            for r in 0..n {
                let b = g / per_block;
                let (sum, scale) = match &self.x {
                    From::There { scales, sums, .. } => {
                        let pair = &sums[2 * (b * n + r)..][..2];
                        (if per_block == 2 { pair[g % 2] } else { pair[0] + pair[1] }, scales[b * n + r])
                    }
                    From::Gathered { rows, scales, .. } => (rows[r].sum(g, group), scales[b * n + r]),
                };
                if self.kind.offset != 0 {
                    self.starts[g * n + r] = sum.wrapping_mul(-self.kind.offset);
                }
                if self.kind.weighs {
                    self.weighted[g * n + r] = scale * sum as f32;
                }
            }
        }
    }

    fn done(self) -> Panel<'a> {
        let (x, scales): (&[i8], &[f32]) = match self.x {
            From::There { x, scales, .. } => (x, scales),
            From::Gathered { x, scales, .. } => (x, scales),
        };
        Panel { rows: self.rows, kind: self.kind, x, scales, starts: self.starts, weighted: self.weighted }
    }
}

/// Room for panels, used again.
#[derive(Default)]
struct PanelBuffers {
    x: Vec<i8>,
    scales: Vec<f32>,
    starts: Vec<i32>,
    weighted: Vec<f32>,
}

thread_local! {
    static ROOM: Cell<PanelBuffers> = Cell::default();
}

/// Rows of one input that a weight format wants.
#[derive(Clone, Copy)]
pub struct RowSelection<'a> {
    quantized: &'a Quantized,
    rows: Rows<'a>,
    kind: InputKind,
}

impl<'a> RowSelection<'a> {
    /// `rows` of `quantized` for a weight of that format.
    pub fn new(format: Format, quantized: &'a Quantized, rows: Rows<'a>) -> Self {
        let rows = match rows {
            Rows::All => Rows::Range(0, quantized.rows),
            Rows::List(&[one]) => Rows::Range(one as usize, 1),
            other => other,
        };
        RowSelection { quantized, rows, kind: InputKind::of(format) }
    }

    fn len(&self) -> usize {
        self.rows.len(self.quantized.rows)
    }

    /// Whether the same panels serve both.
    fn same(&self, other: &RowSelection) -> bool {
        let rows = match (self.rows, other.rows) {
            (Rows::Range(a, n), Rows::Range(b, m)) => (a, n) == (b, m),
            (Rows::List(a), Rows::List(b)) => a == b,
            _ => false,
        };
        rows && self.kind == other.kind && std::ptr::eq(self.quantized, other.quantized)
    }

    /// The panels that hold these rows and no others.
    fn there(&self) -> Option<Range<usize>> {
        let Rows::Range(from, n) = self.rows else { return None };
        let bounds = &self.quantized.bounds;
        Some(bounds.binary_search(&from).ok()?..bounds.binary_search(&(from + n)).ok()?)
    }

    /// Panels by their rows: as they lie, or to be gathered in room that is taken off `x` and `scales`.
    fn parts(&self, x: &mut &'a mut [i8], scales: &mut &'a mut [f32]) -> Vec<(usize, From<'a>)> {
        let q = self.quantized;
        let Some(panels) = self.there() else {
            let mut from = 0;
            return split(self.len())
                .map(|n| {
                    let rows = (from..from + n).map(|place| q.row(self.rows.at(place))).collect();
                    from += n;
                    let x = x.split_off_mut(..n * q.cols).expect("room for all");
                    let scales = scales.split_off_mut(..n * q.cols / BLOCK).expect("room for all");
                    (n, From::Gathered { rows, x, scales })
                })
                .collect();
        };
        panels
            .map(|panel| {
                let (first, n, blocks) = (q.bounds[panel], q.bounds[panel + 1] - q.bounds[panel], q.cols / BLOCK);
                let sums = &q.sums[2 * first * blocks..][..2 * n * blocks];
                let scales = &q.scales[first * blocks..][..n * blocks];
                (n, From::There { x: &q.x[first * q.cols..][..n * q.cols], scales, sums })
            })
            .collect()
    }
}

/// Fill panels for all selections, and run `then` with them: the panels of selection i are `panels[ranges[i]]`.
pub fn with_panels<T>(
    pool: &Pool,
    selections: &[Option<RowSelection>],
    then: impl FnOnce(&[Panel], &[Range<usize>]) -> T,
) -> T {
    // Gate and up of a block follow each other and take the same rows.
    let fresh = |i: usize, s: &RowSelection| i == 0 || !selections[i - 1].is_some_and(|before| before.same(s));
    let (mut gathered, mut groups) = (0, [0usize; 2]);
    for (i, s) in selections.iter().enumerate() {
        if let Some(s) = s.as_ref().filter(|s| fresh(i, s)) {
            let all = s.len() * s.quantized.cols;
            gathered += if s.there().is_none() { all } else { 0 };
            groups[0] += if s.kind.offset != 0 { all / s.kind.group } else { 0 };
            groups[1] += if s.kind.weighs { all / s.kind.group } else { 0 };
        }
    }
    let mut room = ROOM.take();
    let (mut x, mut scales) = (sized(&mut room.x, gathered), sized(&mut room.scales, gathered / BLOCK));
    let (mut starts, mut weighted) = (sized(&mut room.starts, groups[0]), sized(&mut room.weighted, groups[1]));
    let mut fillings: Vec<Filling> = Vec::new();
    let mut ranges: Vec<Range<usize>> = Vec::with_capacity(selections.len());
    for (i, s) in selections.iter().enumerate() {
        let Some(s) = s else {
            ranges.push(0..0);
            continue;
        };
        if !fresh(i, s) {
            ranges.push(ranges[i - 1].clone());
            continue;
        }
        let first = fillings.len();
        for (rows, x) in s.parts(&mut x, &mut scales) {
            let groups = rows * s.quantized.cols / s.kind.group;
            let per_group = |wanted: bool| if wanted { groups } else { 0 };
            let starts = starts.split_off_mut(..per_group(s.kind.offset != 0)).expect("room for all");
            let weighted = weighted.split_off_mut(..per_group(s.kind.weighs)).expect("room for all");
            fillings.push(Filling { rows, kind: s.kind, x, starts, weighted });
        }
        ranges.push(first..fillings.len());
    }
    if gathered + groups[0] + groups[1] < 2 * ALONE {
        fillings.iter_mut().for_each(Filling::fill);
    } else {
        pool.each(&mut fillings, Filling::fill);
    }
    let panels: Vec<Panel> = fillings.into_iter().map(Filling::done).collect();
    let result = then(&panels, &ranges);
    drop(panels);
    ROOM.set(room);
    result
}
