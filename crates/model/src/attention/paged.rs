//! Queries against rows of the cache: those of a range, or some that were chosen. Rows are grouped in splits; a split's part is computed from
//! scratch, and parts are merged in order, so that one long sequence can use all threads and still get the bits that one thread would give.

use std::cell::Cell;
use std::ops::Range;

use kernels::{Attended, Keys, Pool, Queries, Shape, attend, attend_finish, attend_fixed, attend_merge};

use crate::cache::{Gathered, PAGE, RowsOf};

/// Positions in a split.
pub const SPLIT: usize = 8 * PAGE;

/// Query heads that a page is packed for at once, about.
const TOGETHER: usize = 128;

/// What a query sees of its sequence: rows of the cache by number, which are positions where every token has a row.
#[derive(Clone, Copy)]
pub enum SeenPositions<'a> {
    /// All from `first` to before `end`; each further row of the query sees one more.
    Range {
        /// The first.
        first: usize,
        /// One past the last.
        end: usize,
    },
    /// These alone, in ascending order, and the query is of one row. They are copied side by side and give the bits that as many positions from the first
    /// of them on would give, so all of a range are that range.
    ///
    /// An indexer (DeepSeek-V3.2) scores the cached index keys against a token's, keeps the positions of the best, and attends to them: a `Query` for
    /// each token and group of heads with `seen: Positions::Chosen(&best)` over the rows of latents, in the absorbed form.
    Chosen(&'a [u32]),
}

/// Query heads that share their keys, of one row or of consecutive rows of a sequence.
pub struct Query<'a> {
    /// Where the heads' numbers are.
    pub queries: Queries<'a>,
    /// `[value]` of every head of every row.
    pub outs: Vec<&'a mut [f32]>,
    /// The sequence's pages.
    pub pages: &'a [u32],
    /// What it sees; at least one position.
    pub seen: SeenPositions<'a>,
    /// Where in a cache row the key starts.
    pub key_at: usize,
    /// Where in a cache row the value starts.
    pub value_at: usize,
}

impl Query<'_> {
    /// Positions that any row sees; of chosen ones, those that they stand side by side at.
    fn range(&self) -> Range<usize> {
        match self.seen {
            SeenPositions::Range { first, end } => first..end + self.outs.len() / self.queries.heads - 1,
            SeenPositions::Chosen(chosen) => {
                assert_eq!(self.outs.len(), self.queries.heads, "positions are chosen for one row");
                let first = chosen[0] as usize;
                first..first + chosen.len()
            }
        }
    }

    fn splits(&self) -> Range<usize> {
        let range = self.range();
        range.start / SPLIT..range.end.div_ceil(SPLIT)
    }
}

/// How many of `rows` rows, each of `groups` times `heads` query heads, run together: enough that packing a page is little work,
/// few enough that all threads have some. Nobody's bits depend on it.
pub fn rows_together(heads: usize, groups: usize, rows: usize, threads: usize) -> usize {
    (TOGETHER / heads).min((rows * groups).div_ceil(2 * threads)).clamp(1, rows.max(1))
}

/// A split's part of one query; a buffer to be used again.
#[derive(Default)]
pub struct SplitPart {
    query: usize,
    split: usize,
    heads: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
    acc: Vec<f32>,
    gathered: Gathered,
}

thread_local! {
    /// The whole and a part of a query that one thread takes alone.
    static PARTS: Cell<[SplitPart; 2]> = Cell::default();
}

impl SplitPart {
    /// The state before any key.
    fn start(&mut self, query: usize, split: usize, heads: usize, value: usize) {
        (self.query, self.split, self.heads) = (query, split, heads);
        self.max.resize(heads, 0.0);
        self.sum.resize(heads, 0.0);
        self.acc.resize(heads * value, 0.0);
        self.state().0.reset();
    }

    fn state(&mut self) -> (Attended<'_>, &mut Gathered) {
        (Attended { max: &mut self.max, sum: &mut self.sum, acc: &mut self.acc }, &mut self.gathered)
    }
}

fn attend_split(query: &Query, shape: Shape, rows: RowsOf, part: &mut SplitPart) {
    let shape = Shape { heads: part.heads, ..shape };
    let (range, width) = (query.range(), rows.width);
    let (from, to) = ((part.split * SPLIT).max(range.start), ((part.split + 1) * SPLIT).min(range.end));
    let (mut state, gathered) = part.state();
    let first_sees = match query.seen {
        SeenPositions::Range { end, .. } => end as isize,
        SeenPositions::Chosen(chosen) => {
            rows.gather(query.pages, &chosen[from - range.start..to - range.start], gathered);
            range.end as isize
        }
    };
    // Numbers from a position on, and how many positions these are.
    let numbers = |position: usize| {
        let (numbers, count) = match query.seen {
            SeenPositions::Range { .. } => rows.from(query.pages, position),
            SeenPositions::Chosen(_) => (gathered.from(position - from, width), to - position),
        };
        (numbers.skip(query.key_at), numbers.skip(query.value_at), count)
    };
    let mut position = from;
    let mut now = (from < to).then(|| numbers(from));
    let pieces = std::iter::from_fn(|| {
        let (keys, values, there) = now?;
        let count = (PAGE - position % PAGE).min(to - position).min(there);
        let first_sees = first_sees - position as isize;
        position += count;
        now = (position < to).then(|| numbers(position));
        let next = now.map(|(keys, values, _)| (keys, values));
        Some(Keys { keys, key_stride: width, values, value_stride: width, count, first_sees, next })
    });
    if rows.is_exact() {
        pieces.for_each(|keys| attend(query.queries, shape, keys, &mut state));
    } else {
        attend_fixed(query.queries, shape, pieces, &mut state);
    }
}

fn merge(part: &SplitPart, value: usize, into: &mut SplitPart) {
    attend_merge(part.heads, value, (&part.max, &part.sum, &part.acc), &mut into.state().0);
}

fn finish(total: &mut SplitPart, value: usize, query: &mut Query) {
    attend_finish(total.heads, value, &mut total.state().0);
    for (out, acc) in query.outs.iter_mut().zip(total.acc.chunks(value)) {
        out.copy_from_slice(acc);
    }
}

/// Fill every query's `outs`; `parts` are buffers. Heads are those of each query, whatever the shape says.
pub fn attend_paged(pool: &Pool, queries: &mut [Query], shape: Shape, rows: RowsOf, parts: &mut Vec<SplitPart>) {
    let value = shape.value;
    if queries.len() >= 4 * pool.threads() || queries.iter().all(|q| q.splits().len() <= 1) {
        pool.each(queries, |query| {
            let [mut total, mut part] = PARTS.take();
            total.start(0, 0, query.outs.len(), value);
            for split in query.splits() {
                part.start(0, split, query.outs.len(), value);
                attend_split(query, shape, rows, &mut part);
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
            parts.push(SplitPart::default());
        }
        parts[count].start(query, split, queries[query].outs.len(), value);
        count += 1;
    }
    let parts = &mut parts[..count];
    {
        let queries = &*queries;
        pool.each(parts, |part| attend_split(&queries[part.query], shape, rows, part));
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
