//! Queries against the pages of the cache. Pages are grouped in splits; a split's part is computed from scratch, and parts are merged
//! in order, so that one long sequence can use all threads and still get the bits that one thread would give.

use std::cell::Cell;

use kernels::{Attended, Keys, Pool, Queries, Shape, attend, attend_finish, attend_fixed, attend_merge};

use crate::cache::{Cache, PAGE};

/// Positions in a split.
pub const SPLIT: usize = 8 * PAGE;

/// Query heads that a page is packed for at once, about.
const TOGETHER: usize = 128;

/// Query heads that share their keys, of one row or of consecutive rows of a sequence.
pub struct Query<'a> {
    /// Where the heads' numbers are.
    pub queries: Queries<'a>,
    /// `[value]` of every head of every row.
    pub outs: Vec<&'a mut [f32]>,
    /// The sequence's pages.
    pub pages: &'a [u32],
    /// First position seen, by all rows.
    pub first: usize,
    /// One past the last position that the first row sees; the next rows see one more each.
    pub end: usize,
    /// Where in a cache row the key starts.
    pub key_at: usize,
    /// Where in a cache row the value starts.
    pub value_at: usize,
}

impl Query<'_> {
    /// One past the last position that any row sees.
    fn last(&self) -> usize {
        self.end + self.outs.len() / self.queries.heads - 1
    }

    fn splits(&self) -> std::ops::Range<usize> {
        self.first / SPLIT..self.last().div_ceil(SPLIT)
    }
}

/// Widths and the factor on scores that all queries share, and whether to take the kernel in fixed point.
#[derive(Clone, Copy)]
pub struct Widths {
    pub key: usize,
    pub value: usize,
    pub scale: f32,
    pub fixed: bool,
}

impl Widths {
    fn of(self, heads: usize) -> Shape {
        Shape { heads, key: self.key, value: self.value, scale: self.scale }
    }
}

/// How many of `rows` rows, each of `groups` times `heads` query heads, run together: enough that packing a page is little work,
/// few enough that all threads have some. Nobody's bits depend on it.
pub fn rows_together(heads: usize, groups: usize, rows: usize, threads: usize) -> usize {
    (TOGETHER / heads).min((rows * groups).div_ceil(2 * threads)).clamp(1, rows.max(1))
}

/// A split's part of one query; a buffer to be used again.
#[derive(Default)]
pub struct Part {
    query: usize,
    split: usize,
    heads: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
    acc: Vec<f32>,
}

thread_local! {
    /// The whole and a part of a query that one thread takes alone.
    static PARTS: Cell<[Part; 2]> = Cell::default();
}

impl Part {
    /// The state before any key.
    fn start(&mut self, query: usize, split: usize, heads: usize, value: usize) {
        (self.query, self.split, self.heads) = (query, split, heads);
        self.max.resize(heads, 0.0);
        self.sum.resize(heads, 0.0);
        self.acc.resize(heads * value, 0.0);
        self.state().reset();
    }

    fn state(&mut self) -> Attended<'_> {
        Attended { max: &mut self.max, sum: &mut self.sum, acc: &mut self.acc }
    }
}

fn attend_split(query: &Query, widths: Widths, cache: &Cache, layer: usize, part: &mut Part) {
    let shape = widths.of(part.heads);
    let (from, to) = ((part.split * SPLIT).max(query.first), ((part.split + 1) * SPLIT).min(query.last()));
    let mut state = part.state();
    let width = cache.width(layer);
    let numbers = |page: usize, slot: usize| {
        let numbers = cache.page(layer, query.pages[page]);
        (numbers.skip(slot * width + query.key_at), numbers.skip(slot * width + query.value_at))
    };
    let mut position = from;
    let pages = std::iter::from_fn(|| {
        if position >= to {
            return None;
        }
        let (page, slot) = (position / PAGE, position % PAGE);
        let count = (PAGE - slot).min(to - position);
        let (keys, values) = numbers(page, slot);
        let first_sees = query.end as isize - position as isize;
        position += count;
        let next = (position < to).then(|| numbers(page + 1, 0));
        Some(Keys { keys, key_stride: width, values, value_stride: width, count, first_sees, next })
    });
    if widths.fixed {
        attend_fixed(query.queries, shape, pages, &mut state);
    } else {
        pages.for_each(|keys| attend(query.queries, shape, keys, &mut state));
    }
}

fn merge(part: &Part, value: usize, into: &mut Part) {
    attend_merge(part.heads, value, (&part.max, &part.sum, &part.acc), &mut into.state());
}

fn finish(total: &mut Part, value: usize, query: &mut Query) {
    attend_finish(total.heads, value, &mut total.state());
    for (out, acc) in query.outs.iter_mut().zip(total.acc.chunks(value)) {
        out.copy_from_slice(acc);
    }
}

/// Fill every query's `outs`; `parts` are buffers.
pub fn attend_paged(
    pool: &Pool,
    queries: &mut [Query],
    widths: Widths,
    cache: &Cache,
    layer: usize,
    parts: &mut Vec<Part>,
) {
    let value = widths.value;
    if queries.len() >= 4 * pool.threads() || queries.iter().all(|q| q.splits().len() <= 1) {
        pool.each(queries, |query| {
            let [mut total, mut part] = PARTS.take();
            total.start(0, 0, query.outs.len(), value);
            for split in query.splits() {
                part.start(0, split, query.outs.len(), value);
                attend_split(query, widths, cache, layer, &mut part);
                merge(&part, value, &mut total);
            }
            finish(&mut total, value, query);
            PARTS.set([total, part]);
        });
        return;
    }
    let pieces = queries.iter().enumerate().flat_map(|(i, q)| q.splits().map(move |split| (i, split)));
    let mut count = 0;
    for (query, split) in pieces {
        if parts.len() == count {
            parts.push(Part::default());
        }
        parts[count].start(query, split, queries[query].outs.len(), value);
        count += 1;
    }
    let parts = &mut parts[..count];
    {
        let queries = &*queries;
        pool.each(parts, |part| attend_split(&queries[part.query], widths, cache, layer, part));
    }
    let mut parts = parts.iter().peekable();
    let [mut total, unused] = PARTS.take();
    for (i, query) in queries.iter_mut().enumerate() {
        total.start(i, 0, query.outs.len(), value);
        while let Some(part) = parts.next_if(|p| p.query == i) {
            merge(part, value, &mut total);
        }
        finish(&mut total, value, query);
    }
    PARTS.set([total, unused]);
}
