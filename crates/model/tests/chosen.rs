//! Attention over chosen positions and over rows that stand for several tokens, beside sums written out in f64.

use farthing_model::attention::paged::{Query, SeenPositions, attend_paged};
use farthing_model::cache::{Every, RowKind};
use farthing_model::{Cache, CacheFormat, CacheLayout};
use kernels::{Pool, Queries};

/// How keys and values lie in a row: heads of queries, width of a key and of a value, and where both begin.
struct Shape {
    name: &'static str,
    heads: usize,
    key: usize,
    value: usize,
    key_at: usize,
    value_at: usize,
    width: usize,
}

/// Latent attention, whose values are the first numbers of its keys; and the second of two groups of heads.
const SHAPES: [Shape; 2] = [
    Shape { name: "MLA", heads: 6, key: 96, value: 64, key_at: 0, value_at: 0, width: 96 },
    Shape { name: "GQA", heads: 4, key: 32, value: 32, key_at: 32, value_at: 96, width: 128 },
];

const SCALE: f32 = 0.3;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(20001) as f32 / 10000.0 - 1.0).collect()
    }
}

/// A sequence whose rows are `every` tokens apart, in pages that lie in any order.
struct Sequence {
    cache: Cache,
    pages: Vec<u32>,
    rows: usize,
}

fn sequence(shape: &Shape, format: CacheFormat, every: usize, rows: usize, random: &mut Random) -> Sequence {
    let kind = RowKind { every: Every::Tokens(every), width: shape.width, part: 32, format };
    let layout = CacheLayout::new(vec![vec![RowKind::each_token(16, 16, format), kind]]);
    let of_page = layout.rows_of_page(&kind);
    let mut free: Vec<u32> = (0..rows.div_ceil(of_page) as u32 + 1).collect();
    let mut cache = Cache::new(layout, free.len());
    let pages: Vec<u32> = (0..rows.div_ceil(of_page)).map(|_| free.swap_remove(random.below(free.len()))).collect();
    let places: Vec<_> = (0..rows).map(|row| (pages[row / of_page], row % of_page)).collect();
    for mut row in cache.rows_mut(0, 1, &places) {
        row.write(0, &random.numbers(shape.width));
    }
    Sequence { cache, pages, rows }
}

/// Outputs `[queries, heads, value]` of as many queries of one row.
fn attended(shape: &Shape, sequence: &Sequence, q: &[f32], seen: &[SeenPositions], threads: usize) -> Vec<f32> {
    let mut out = vec![0f32; seen.len() * shape.heads * shape.value];
    let mut outs: Vec<&mut [f32]> = out.chunks_mut(shape.value).collect();
    let mut queries: Vec<Query> = Vec::new();
    for (q, &seen) in q.chunks(shape.heads * shape.key).zip(seen) {
        let (pages, &Shape { key_at, value_at, .. }) = (&sequence.pages[..], shape);
        let queries_of = Queries::one(q, shape.heads);
        queries.push(Query {
            queries: queries_of,
            outs: outs.drain(..shape.heads).collect(),
            pages,
            seen,
            key_at,
            value_at,
        });
    }
    let widths = kernels::Shape { heads: shape.heads, key: shape.key, value: shape.value, scale: SCALE };
    attend_paged(&Pool::new(threads), &mut queries, widths, sequence.cache.rows(0, 1), &mut Vec::new());
    drop(queries);
    out
}

/// Softmax of scaled products over the numbers that the cache has, weighted values, all in f64.
fn reference(shape: &Shape, sequence: &Sequence, q: &[f32], positions: &[u32]) -> Vec<f64> {
    let rows = sequence.cache.rows(0, 1);
    let rows: Vec<Vec<f64>> = positions
        .iter()
        .map(|&p| {
            let mut wide = vec![0f32; shape.width];
            kernels::widen(rows.from(&sequence.pages, p as usize).0, &mut wide);
            wide.into_iter().map(f64::from).collect()
        })
        .collect();
    let mut out = Vec::new();
    for q in q.chunks(shape.key) {
        let score =
            |row: &Vec<f64>| -> f64 { q.iter().zip(&row[shape.key_at..]).map(|(&q, k)| f64::from(q) * k).sum() };
        let weights: Vec<f64> = rows.iter().map(|row| (f64::from(SCALE) * score(row)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for i in 0..shape.value {
            let mixed: f64 = weights.iter().zip(&rows).map(|(w, row)| w * row[shape.value_at + i]).sum();
            out.push(mixed / sum);
        }
    }
    out
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn apart(x: &[f32], reference: &[f64]) -> f64 {
    assert_eq!(x.len(), reference.len());
    x.iter().zip(reference).map(|(&x, r)| (f64::from(x) - r).abs()).fold(0.0, f64::max)
}

/// What rounding explains: f32, or 16-bit fixed point.
fn allowed(format: CacheFormat) -> f64 {
    if format == CacheFormat::F32 { 1e-6 } else { 4e-4 }
}

#[test]
fn all_positions_of_a_range_give_the_bits_of_the_range() {
    let mut random = Random(3);
    for shape in &SHAPES {
        for (format, _) in CacheFormat::ALL {
            let sequence = sequence(shape, format, 1, 1300, &mut random);
            let q = random.numbers(shape.heads * shape.key);
            for (first, count) in [(0, 1), (0, 64), (0, 700), (37, 500), (100, 1200), (511, 2), (1299, 1)] {
                let chosen: Vec<u32> = (first..first + count).map(|p| p as u32).collect();
                let range = SeenPositions::Range { first, end: first + count };
                let expected = bits(&attended(shape, &sequence, &q, &[range], 1));
                // One query, whose splits the threads share, and many, of which each has its own.
                for threads in [1, 3] {
                    let alone = attended(shape, &sequence, &q, &[SeenPositions::Chosen(&chosen)], threads);
                    assert_eq!(bits(&alone), expected, "{} {format:?} {first} {count}", shape.name);
                    let many =
                        attended(shape, &sequence, &q.repeat(12), &[SeenPositions::Chosen(&chosen); 12], threads);
                    assert_eq!(bits(&many), expected.repeat(12), "{} {format:?} {first} {count}", shape.name);
                }
            }
        }
    }
}

#[test]
fn chosen_positions_alone_are_seen() {
    let mut random = Random(5);
    for shape in &SHAPES {
        for (format, _) in CacheFormat::ALL {
            let sequence = sequence(shape, format, 1, 1300, &mut random);
            for share in [1, 2, 20, 400] {
                // Each query has positions of its own, as each token's index scores choose them.
                let mut sets: Vec<Vec<u32>> = Vec::new();
                for query in 0..5 {
                    let mut set: Vec<u32> = (0..1300).filter(|_| random.below(share) == 0).collect();
                    set.push(1290 + query);
                    set.dedup();
                    set.sort_unstable();
                    set.dedup();
                    sets.push(set);
                }
                let q = random.numbers(5 * shape.heads * shape.key);
                let seen: Vec<SeenPositions> = sets.iter().map(|set| SeenPositions::Chosen(set)).collect();
                let out = attended(shape, &sequence, &q, &seen, 3);
                let (q_len, out_len) = (shape.heads * shape.key, shape.heads * shape.value);
                for (i, set) in sets.iter().enumerate() {
                    let expected = reference(shape, &sequence, &q[i * q_len..(i + 1) * q_len], set);
                    let far = apart(&out[i * out_len..(i + 1) * out_len], &expected);
                    assert!(
                        far < allowed(format),
                        "{} {format:?} 1/{share}, {} positions: {far:.1e}",
                        shape.name,
                        set.len()
                    );
                }
            }
        }
    }
}

/// Entries for 4 and for 128 tokens, of which a page has 16 and 1: ranges and choices count entries.
#[test]
fn rows_for_several_tokens_are_seen_by_their_number() {
    let mut random = Random(7);
    for shape in &SHAPES {
        for (format, _) in CacheFormat::ALL {
            for (every, rows) in [(4, 300), (128, 70)] {
                let sequence = sequence(shape, format, every, rows, &mut random);
                let q = random.numbers(shape.heads * shape.key);
                let all: Vec<u32> = (5..sequence.rows as u32).collect();
                let some: Vec<u32> = all.iter().copied().filter(|p| p % 3 == 1).collect();
                let range = SeenPositions::Range { first: 5, end: sequence.rows };
                for (seen, positions) in
                    [(range, &all), (SeenPositions::Chosen(&all), &all), (SeenPositions::Chosen(&some), &some)]
                {
                    let out = attended(shape, &sequence, &q, &[seen], 2);
                    let far = apart(&out, &reference(shape, &sequence, &q, positions));
                    assert!(far < allowed(format), "{} {format:?} every {every}: {far:.1e}", shape.name);
                }
            }
        }
    }
}
