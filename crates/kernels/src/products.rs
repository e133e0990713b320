//! Matrix products over stored weights, written once over `Vectors`. The order of every sum follows from format and width alone:
//! quantised groups are exact integers added in order by fused multiply-add; `floats` has that of floats.

use std::cell::Cell;
use std::ops::Range;

use crate::dequantize::{Block, decode_blocks, decode_floats, with_format};
use crate::operands::Sides;
use crate::panels::Row;
use crate::scratch::sized;
use crate::vectors::{Vectors, array};
use crate::{Matrix, Out};

/// Weight rows that a quantised tile holds: the lanes of a vector.
pub const TILE: usize = 16;

/// Columns of a weight row that are unpacked before they are multiplied, where no tile is interleaved.
const STEP: usize = 256;

/// From how many input rows on a tile is interleaved before use.
const INTERLEAVE_FROM: usize = 4;

#[derive(Default)]
pub struct ProductScratch {
    quants: Vec<u8>,
    input: Vec<i16>,
    starts: Vec<i32>,
    dots: Vec<i32>,
    interleaved: Vec<u8>,
    scales: Vec<f32>,
    minima: Vec<f32>,
    decoded: Vec<f32>,
}

thread_local! {
    // Taken out while in use: a closure around a kernel would be compiled without its instruction set.
    pub static SCRATCH: Cell<ProductScratch> = Cell::default();
}

/// Outputs `range` (rows of the weight) of one product with a block format.
#[inline(always)]
pub fn quantised<V: Vectors, B: Block>(
    isa: V,
    x: Sides,
    range: Range<usize>,
    out: &mut Out,
    scratch: &mut ProductScratch,
) {
    let (w, cols, n) = (x.w, x.w.cols, x.inputs());
    if n < INTERLEAVE_FROM {
        return few_rows::<V, B>(isa, x, range, out, scratch);
    }
    let groups = cols / B::GROUP;
    let s = sized(&mut scratch.scales, TILE * groups);
    let m = sized(&mut scratch.minima, if B::HAS_MIN { TILE * groups } else { 0 });
    let u = sized(&mut scratch.quants, TILE * cols);
    let t = sized(&mut scratch.interleaved, TILE * cols.next_multiple_of(64));
    for first in range.clone().step_by(TILE) {
        let count = TILE.min(range.end - first);
        for r in 0..count {
            unpack_row::<B>(w.row(first + r), r, &mut u[r * cols..(r + 1) * cols], s, m);
        }
        let mut k = 0;
        while k + 64 <= cols {
            isa.interleave(&u[k..], cols, &mut t[TILE * k..TILE * k + 1024]);
            k += 64;
        }
        if k < cols {
            let mut last = [0u8; TILE * 64];
            for r in 0..TILE {
                last[r * 64..r * 64 + cols - k].copy_from_slice(&u[r * cols + k..(r + 1) * cols]);
            }
            isa.interleave(&last, 64, &mut t[TILE * k..TILE * k + 1024]);
        }
        let tile = Tile { quants: t, s, m, first, count };
        let mut i = 0;
        while i + 8 <= n {
            tile_rows::<V, B, 8>(isa, &tile, x, i, out);
            i += 8;
        }
        if i + 4 <= n {
            tile_rows::<V, B, 4>(isa, &tile, x, i, out);
            i += 4;
        }
        while i < n {
            tile_rows::<V, B, 1>(isa, &tile, x, i, out);
            i += 1;
        }
    }
}

/// Row `r` of a tile: its quants, and its scales and minima to lane r.
#[inline(always)]
fn unpack_row<B: Block>(bytes: &[u8], r: usize, quants: &mut [u8], s: &mut [f32], m: &mut [f32]) {
    let (mut block_s, mut block_m) = ([0f32; 16], [0f32; 16]);
    let per_block = B::ELEMS / B::GROUP;
    for (b, block) in bytes.chunks_exact(B::BYTES).enumerate() {
        B::unpack(block, &mut quants[b * B::ELEMS..(b + 1) * B::ELEMS], &mut block_s, &mut block_m);
        for g in 0..per_block {
            s[(b * per_block + g) * TILE + r] = block_s[g];
            if B::HAS_MIN {
                m[(b * per_block + g) * TILE + r] = block_m[g];
            }
        }
    }
}

/// As `quantised`, of fewer input rows than pay for an interleaved tile.
#[inline(always)]
fn few_rows<V: Vectors, B: Block>(isa: V, x: Sides, range: Range<usize>, out: &mut Out, scratch: &mut ProductScratch) {
    let (Sides { w, rows, .. }, q) = (x, x.quantized());
    let (cols, groups, n) = (w.cols, w.cols / B::GROUP, x.inputs());
    let s = sized(&mut scratch.scales, TILE * groups);
    let m = sized(&mut scratch.minima, if B::HAS_MIN { TILE * groups } else { 0 });
    let input = sized(&mut scratch.input, n * cols);
    let starts = sized(&mut scratch.starts, n * groups);
    for i in 0..n {
        let row = q.row(rows.at(i));
        for (g, start) in starts[i * groups..][..groups].iter_mut().enumerate() {
            *start = -B::OFFSET * row.sum(g, B::GROUP);
        }
        for (b, input) in input[i * cols..][..cols].chunks_exact_mut(32).enumerate() {
            input.iter_mut().zip(row.block(b)).for_each(|(wide, &x)| *wide = i16::from(x));
        }
    }
    let dots = sized(&mut scratch.dots, n * TILE * groups);
    for first in range.clone().step_by(TILE) {
        let count = TILE.min(range.end - first);
        for r in 0..count {
            row_dots::<B>(w.row(first + r), (input, starts), r, &mut Dots { dots, s, m, groups });
        }
        for i in 0..n {
            let x = q.row(rows.at(i));
            let mut acc = isa.splat(0.0);
            for g in 0..groups {
                let (sum, d) = (x.sum(g, B::GROUP), x.scale(g * B::GROUP / 32));
                let dot = isa.load_i(&dots[(i * groups + g) * TILE..]);
                acc = group::<V, B>(isa, acc, dot, (s, m), g, (d, sum));
            }
            write(isa, acc, out, i, first, count);
        }
    }
}

/// Sums of products, N at a time, of as many quants as there are numbers `x`. Apart from all else, or the compiler would not use vectors.
#[inline(never)]
fn group_dots<const N: usize>(quants: &[u8; STEP], x: &[i16], dots: &mut [i32; 16]) {
    let pairs = quants.as_chunks::<N>().0.iter().zip(x.as_chunks::<N>().0);
    for ((quants, x), dot) in pairs.zip(dots) {
        *dot = quants.iter().zip(x).map(|(&u, &x)| i32::from(u) * i32::from(x)).sum();
    }
}

/// What `row_dots` fills in: dot products `[row][group][TILE]`, scales and minima `[group][TILE]`, of `groups` groups.
struct Dots<'a> {
    dots: &'a mut [i32],
    s: &'a mut [f32],
    m: &'a mut [f32],
    groups: usize,
}

/// Up to 256 columns of a weight row, unpacked.
struct UnpackedStep {
    quants: [u8; STEP],
    s: [f32; 16],
    m: [f32; 16],
}

/// Row `r` of a tile: its groups of unsigned quants with each row of `input`, from what each sum starts with (`[row][group]`). Columns
/// are multiplied as soon as they are unpacked.
#[inline(always)]
fn row_dots<B: Block>(bytes: &[u8], (input, starts): (&[i16], &[i32]), r: usize, to: &mut Dots) {
    let mut step = UnpackedStep { quants: [0; STEP], s: [0.0; 16], m: [0.0; 16] };
    let per_block = B::ELEMS / B::GROUP;
    if B::ELEMS == STEP {
        for (b, block) in bytes.chunks_exact(B::BYTES).enumerate() {
            B::unpack(block, &mut step.quants, &mut step.s, &mut step.m);
            step_dots::<B>(&step, b * per_block, per_block, (input, starts), r, to);
        }
        return;
    }
    let mut first = 0;
    for blocks in bytes.chunks(STEP / B::ELEMS * B::BYTES) {
        let mut count = 0;
        for block in blocks.chunks_exact(B::BYTES) {
            B::unpack(block, &mut step.quants[count * B::GROUP..], &mut step.s[count..], &mut step.m[count..]);
            count += per_block;
        }
        step_dots::<B>(&step, first, count, (input, starts), r, to);
        first += count;
    }
}

/// Groups `first .. first + count` of `row_dots`.
#[inline(always)]
fn step_dots<B: Block>(
    step: &UnpackedStep,
    first: usize,
    count: usize,
    (input, starts): (&[i16], &[i32]),
    r: usize,
    to: &mut Dots,
) {
    for g in 0..count {
        to.s[(first + g) * TILE + r] = step.s[g];
        if B::HAS_MIN {
            to.m[(first + g) * TILE + r] = step.m[g];
        }
    }
    let mut of_step = [0; 16];
    let cols = to.groups * B::GROUP;
    let (mut row, mut at) = (first * B::GROUP, first);
    while row < input.len() {
        let x = &input[row..][..count * B::GROUP];
        if B::GROUP == 16 {
            group_dots::<16>(&step.quants, x, &mut of_step);
        } else {
            group_dots::<32>(&step.quants, x, &mut of_step);
        }
        for g in 0..count {
            to.dots[(at + g) * TILE + r] = starts[at + g] + of_step[g];
        }
        (row, at) = (row + cols, at + to.groups);
    }
}

/// One step of the chain: `acc += dot * (s * d)`, then `acc -= m * (d * sum)`.
#[inline(always)]
fn group<V: Vectors, B: Block>(
    isa: V,
    acc: V::F,
    dot: V::I,
    (s, m): (&[f32], &[f32]),
    g: usize,
    (d, sum): (f32, i32),
) -> V::F {
    let acc = isa.fma(isa.to_f(dot), isa.mul(isa.load(&s[g * TILE..]), isa.splat(d)), acc);
    if B::HAS_MIN { isa.fnma(isa.load(&m[g * TILE..]), isa.splat(d * sum as f32), acc) } else { acc }
}

#[inline(always)]
fn write<V: Vectors>(isa: V, acc: V::F, out: &mut Out, row: usize, first: usize, count: usize) {
    let mut lanes = [0f32; TILE];
    isa.store(acc, &mut lanes);
    out.write(row, first, &lanes[..count]);
}

/// A tile of weight rows, interleaved.
struct Tile<'a> {
    /// `[four columns][weight row][4]`
    quants: &'a [u8],
    /// Scales `[group][TILE]`.
    s: &'a [f32],
    /// Minima `[group][TILE]`.
    m: &'a [f32],
    /// Its first weight row.
    first: usize,
    /// How many of its rows there are.
    count: usize,
}

#[inline(always)]
fn tile_rows<V: Vectors, B: Block, const R: usize>(isa: V, tile: &Tile, sides: Sides, i: usize, out: &mut Out) {
    let (q, rows) = (sides.quantized(), sides.rows);
    let x: [Row; R] = array!(R, r, q.row(rows.at(i + r)));
    let mut acc = [isa.splat(0.0); R];
    for g in 0..q.cols() / B::GROUP {
        let sums: [i32; R] = array!(R, r, x[r].sum(g, B::GROUP));
        let xs: [&[i8]; R] = array!(R, r, &x[r].block(g * B::GROUP / 32)[g * B::GROUP % 32..]);
        let mut dots: [V::I; R] = array!(R, r, isa.splat_i(sums[r].wrapping_mul(-B::OFFSET)));
        let quants = &tile.quants[g * B::GROUP * TILE..(g + 1) * B::GROUP * TILE];
        for (step, tile) in quants.chunks_exact(64).enumerate() {
            for r in 0..R {
                dots[r] = isa.dot_step(dots[r], tile, &xs[r][4 * step..4 * step + 4]);
            }
        }
        for r in 0..R {
            let d = x[r].scale(g * B::GROUP / 32);
            acc[r] = group::<V, B>(isa, acc[r], dots[r], (tile.s, tile.m), g, (d, sums[r]));
        }
    }
    for r in 0..R {
        write(isa, acc[r], out, i + r, tile.first, tile.count);
    }
}

/// Weight rows decoded at a time by `transposed`.
const DECODED: usize = 32;

/// `out[r][c] = sum_j x[r][j] * w[j][c]` for rows `range` of x, in f32 over decoded rows, j in order.
#[inline(always)]
pub fn transposed<V: Vectors>(isa: V, w: &Matrix, x: &[f32], range: Range<usize>, out: &mut Out) {
    let cols = w.cols;
    let mut scratch = SCRATCH.take();
    let decoded = sized(&mut scratch.decoded, DECODED * cols.next_multiple_of(16));
    let width = cols.next_multiple_of(16);
    for first in (0..w.rows.max(1)).step_by(DECODED) {
        let count = DECODED.min(w.rows - first.min(w.rows));
        for j in 0..count {
            decoded[j * width + cols..(j + 1) * width].fill(0.0);
            decode_row(w, first + j, &mut decoded[j * width..j * width + cols]);
        }
        let decoded = &decoded[..count * width];
        let part = Decoded { rows: decoded, width, first, x, all: w.rows };
        let mut r = range.start;
        while r < range.end {
            let four = r + 4 <= range.end;
            let mut c = 0;
            while c + 64 <= cols {
                if four && V::MANY_REGISTERS {
                    transposed_tile::<V, 4, 4>(isa, &part, (r, r - range.start), c..c + 64, out);
                } else if four {
                    for c in (c..c + 64).step_by(16) {
                        transposed_tile::<V, 4, 1>(isa, &part, (r, r - range.start), c..c + 16, out);
                    }
                } else {
                    transposed_tile::<V, 1, 4>(isa, &part, (r, r - range.start), c..c + 64, out);
                }
                c += 64;
            }
            let rows = if four { 4 } else { 1 };
            for r in r..r + rows {
                for c in (c..cols).step_by(16) {
                    transposed_tile::<V, 1, 1>(isa, &part, (r, r - range.start), c..cols.min(c + 16), out);
                }
            }
            r += rows;
        }
    }
    SCRATCH.set(scratch);
}

/// Some weight rows decoded, and the input.
struct Decoded<'a> {
    /// `[row][width]`
    rows: &'a [f32],
    width: usize,
    /// The first of them.
    first: usize,
    /// `[input row][all]`
    x: &'a [f32],
    /// Weight rows in all.
    all: usize,
}

/// `P` vectors of columns, of which those in `columns` are there, of `R` rows from r on, rows of `out` from `to` on: decoded rows, whose
/// first is number `first`, are added in order.
#[inline(always)]
fn transposed_tile<V: Vectors, const R: usize, const P: usize>(
    isa: V,
    x: &Decoded,
    (r, to): (usize, usize),
    columns: Range<usize>,
    out: &mut Out,
) {
    let (c, there) = (columns.start, columns.len());
    let Decoded { rows: decoded, width, first, x, all } = *x;
    let count = decoded.len() / width;
    let xs: [&[f32]; R] = array!(R, a, &x[(r + a) * all + first..][..count]);
    let (mut v, mut lanes) = ([[isa.splat(0.0); P]; R], [0f32; 64]);
    if first > 0 {
        for a in 0..R {
            out.read(to + a, c, &mut lanes[..there]);
            v[a] = array!(P, p, isa.load(&lanes[16 * p..16 * p + 16]));
        }
    }
    for (j, row) in decoded.chunks_exact(width).enumerate() {
        let row = &row[c..c + 16 * P];
        let row: [V::F; P] = array!(P, p, isa.load(&row[16 * p..16 * p + 16]));
        for a in 0..R {
            let xj = isa.splat(xs[a][j]);
            for p in 0..P {
                v[a][p] = isa.fma(xj, row[p], v[a][p]);
            }
        }
    }
    for a in 0..R {
        for p in 0..P {
            isa.store(v[a][p], &mut lanes[16 * p..16 * p + 16]);
        }
        out.write(to + a, c, &lanes[..there]);
    }
}

#[inline(always)]
pub fn decode_row(w: &Matrix, row: usize, out: &mut [f32]) {
    let bytes = w.row(row);
    if w.format.wants_quantized_input() {
        with_format!(w.format, B, decode_blocks::<B>(bytes, out))
    } else {
        decode_floats(w.format, bytes, w.scales_of_row(row), out)
    }
}

/// Blocks of 32 numbers to 8 bits: `d = amax / 127`, `q = round(x * 127 / amax)`; and sums of 16 quants. `rows` rows, `stride` numbers
/// from one to the next; block b of row r goes to place `b * rows + r`.
#[inline(always)]
pub fn quantize<V: Vectors>(
    isa: V,
    x: &[f32],
    (rows, stride): (usize, usize),
    q: &mut [i8],
    scales: &mut [f32],
    sums: &mut [i32],
) {
    let places = q.as_chunks_mut::<32>().0.iter_mut().zip(scales.iter_mut()).zip(sums.as_chunks_mut::<2>().0);
    for (i, ((q, scale), sums)) in places.enumerate() {
        let x = &x[i % rows * stride + 32 * (i / rows)..][..32];
        let (a, b) = (isa.load(&x[..16]), isa.load(&x[16..]));
        // Magnitudes are ordered as their bits are, NaN above all: a NaN makes the scale one, and so every product.
        let largest = isa.largest(a, b);
        *scale = largest / 127.0;
        let inverse = isa.splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let (low, high) = q.split_at_mut(16);
        *sums = [isa.to_bytes(isa.mul(a, inverse), low), isa.to_bytes(isa.mul(b, inverse), high)];
    }
}
