//! Queries against the pages of the cache. Pages are grouped in splits; a split's part is computed from scratch, and parts are merged
//! in order, so that one long sequence can use all threads and still get the bits that one thread would give.

use kernels::{Attended, Keys, Pool, Queries, Shape, attend, attend_finish, attend_merge};

use crate::cache::{Cache, PAGE};

/// Positions in a split.
pub const SPLIT: usize = 8 * PAGE;

/// Query heads that a page is packed for at once, about.
const TOGETHER: usize = 64;

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

/// Widths and the factor on scores that all queries share.
#[derive(Clone, Copy)]
pub struct Widths {
    pub key: usize,
    pub value: usize,
    pub scale: f32,
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

/// A split's part of one query.
struct Part {
    query: usize,
    split: usize,
    heads: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
    acc: Vec<f32>,
}

impl Part {
    fn new(query: usize, split: usize, heads: usize, value: usize) -> Part {
        let (max, sum) = (vec![f32::NEG_INFINITY; heads], vec![0.0; heads]);
        Part { query, split, heads, max, sum, acc: vec![0.0; heads * value] }
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
    while position < to {
        let (page, slot) = (position / PAGE, position % PAGE);
        let count = (PAGE - slot).min(to - position);
        let (keys, values) = numbers(page, slot);
        let keys = Keys {
            keys,
            key_stride: width,
            values,
            value_stride: width,
            count,
            first_sees: query.end as isize - position as isize,
            next: (position + count < to).then(|| numbers(page + 1, 0)),
        };
        attend(query.queries, shape, keys, &mut state);
        position += count;
    }
}

fn merge(part: &Part, value: usize, into: &mut Part) {
    attend_merge(part.heads, value, (&part.max, &part.sum, &part.acc), &mut into.state());
}

fn finish(mut total: Part, value: usize, query: &mut Query) {
    attend_finish(total.heads, value, &mut total.state());
    for (out, acc) in query.outs.iter_mut().zip(total.acc.chunks(value)) {
        out.copy_from_slice(acc);
    }
}

/// Fill every query's `outs`.
pub fn attend_paged(pool: &Pool, queries: &mut [Query], widths: Widths, cache: &Cache, layer: usize) {
    let value = widths.value;
    let part = |query: &Query, index, split| Part::new(index, split, query.outs.len(), value);
    if queries.len() >= 4 * pool.threads() || queries.iter().all(|q| q.splits().len() <= 1) {
        pool.each(queries, |query| {
            let mut total = part(query, 0, 0);
            for split in query.splits() {
                let mut part = part(query, 0, split);
                attend_split(query, widths, cache, layer, &mut part);
                merge(&part, value, &mut total);
            }
            finish(total, value, query);
        });
        return;
    }
    let mut parts: Vec<Part> = queries
        .iter()
        .enumerate()
        .flat_map(|(i, q)| q.splits().map(move |split| (i, q, split)))
        .map(|(i, query, split)| part(query, i, split))
        .collect();
    {
        let queries = &*queries;
        pool.each(&mut parts, |part| attend_split(&queries[part.query], widths, cache, layer, part));
    }
    let mut parts = parts.iter().peekable();
    for (i, query) in queries.iter_mut().enumerate() {
        let mut total = part(query, i, 0);
        while let Some(part) = parts.next_if(|p| p.query == i) {
            merge(part, value, &mut total);
        }
        finish(total, value, query);
    }
}
