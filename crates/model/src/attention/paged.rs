//! Queries against the pages of the cache. Pages are grouped in splits; a split's part is computed from scratch, and parts are merged
//! in order, so that one long sequence can use all threads and still get the bits that one thread would give.

use kernels::{Attended, Keys, Pool, Shape, attend, attend_finish, attend_merge};

use crate::cache::{Cache, PAGE, skip};

/// Positions in a split.
const SPLIT: usize = 8 * PAGE;

/// A row's query heads that share their keys.
pub struct Query<'a> {
    /// `[heads * key]`
    pub q: &'a [f32],
    /// `[heads * value]`
    pub out: &'a mut [f32],
    /// The sequence's pages.
    pub pages: &'a [u32],
    /// First position seen.
    pub first: usize,
    /// One past the last position seen.
    pub end: usize,
    /// Where in a cache row the key starts.
    pub key_at: usize,
    /// Where in a cache row the value starts.
    pub value_at: usize,
}

/// A split's part of one query.
struct Part {
    query: usize,
    split: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
    acc: Vec<f32>,
}

impl Part {
    fn new(shape: Shape) -> Part {
        let (max, sum) = (vec![f32::NEG_INFINITY; shape.heads], vec![0.0; shape.heads]);
        Part { query: 0, split: 0, max, sum, acc: vec![0.0; shape.heads * shape.value] }
    }

    fn state(&mut self) -> Attended<'_> {
        Attended { max: &mut self.max, sum: &mut self.sum, acc: &mut self.acc }
    }
}

fn attend_split(query: &Query, split: usize, shape: Shape, cache: &Cache, layer: usize, part: &mut Part) {
    let mut state = part.state();
    state.reset();
    let (from, to) = ((split * SPLIT).max(query.first), ((split + 1) * SPLIT).min(query.end));
    let width = cache.width(layer);
    let mut position = from;
    while position < to {
        let (page, slot) = (position / PAGE, position % PAGE);
        let count = (PAGE - slot).min(to - position);
        let numbers = cache.page(layer, query.pages[page]);
        let keys = Keys {
            keys: skip(numbers, slot * width + query.key_at),
            key_stride: width,
            values: skip(numbers, slot * width + query.value_at),
            value_stride: width,
            count,
        };
        attend(query.q, shape, keys, &mut state);
        position += count;
    }
}

fn merge(part: &Part, shape: Shape, into: &mut Part) {
    attend_merge(shape.heads, shape.value, (&part.max, &part.sum, &part.acc), &mut into.state());
}

/// Fill every query's `out`.
pub fn attend_paged(pool: &Pool, queries: &mut [Query], shape: Shape, cache: &Cache, layer: usize) {
    let splits = |q: &Query| q.first / SPLIT..q.end.div_ceil(SPLIT);
    if queries.len() >= 4 * pool.threads() || queries.iter().all(|q| splits(q).len() <= 1) {
        pool.each(queries, |query| {
            let (mut part, mut total) = (Part::new(shape), Part::new(shape));
            for split in splits(query) {
                attend_split(query, split, shape, cache, layer, &mut part);
                merge(&part, shape, &mut total);
            }
            attend_finish(shape.heads, shape.value, &mut total.state());
            query.out.copy_from_slice(&total.acc);
        });
        return;
    }
    let part = |query, split| Part { query, split, ..Part::new(shape) };
    let mut parts: Vec<Part> = queries
        .iter()
        .enumerate()
        .flat_map(|(i, q)| splits(q).map(move |split| (i, split)))
        .map(|(query, split)| part(query, split))
        .collect();
    {
        let queries = &*queries;
        pool.each(&mut parts, |part| attend_split(&queries[part.query], part.split, shape, cache, layer, part));
    }
    let mut parts = parts.iter().peekable();
    for (i, query) in queries.iter_mut().enumerate() {
        let mut total = Part::new(shape);
        while let Some(part) = parts.next_if(|p| p.query == i) {
            merge(part, shape, &mut total);
        }
        attend_finish(shape.heads, shape.value, &mut total.state());
        query.out.copy_from_slice(&total.acc);
    }
}
