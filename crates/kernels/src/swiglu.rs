//! Gated blocks: `silu(gate x) * up x`, the first half of a feed-forward. Some columns of a block are one piece of work from the weights to
//! the numbers that the second half multiplies with; nothing goes through memory between.

use std::cell::Cell;
use std::ops::Range;

use crate::dispatch::table;
use crate::observe::show;
use crate::panels::{BLOCK, Panel, split, with_panels};
use crate::quantize::BlockWriter;
use crate::scratch::sized;
use crate::{Input, Matrix, Out, PIECE_BYTES, Pool, Quantized, Rows, SharedOut, checked, rows_a_piece, selection};

/// One block.
pub struct Gated<'a> {
    /// `[width, inputs]`
    pub gate: Matrix<'a>,
    /// `[width, inputs]`
    pub up: Matrix<'a>,
    /// The activations.
    pub input: Input<'a>,
    /// Which of them.
    pub rows: Rows<'a>,
    /// Which of the buffers takes its output, after the rows of the blocks before it.
    pub hidden: usize,
}

/// What comes of blocks of one width: rows for their second halves. A buffer to be used again.
#[derive(Default)]
pub struct Hidden {
    rows: usize,
    width: usize,
    /// Whether rows are kept in 8 bits.
    in_bytes: bool,
    quantized: Quantized,
    floats: Vec<f32>,
}

impl Hidden {
    /// Make room for blocks of so many rows; in 8 bits for weights that want it.
    pub fn shape(&mut self, rows: &[usize], width: usize, in_bytes: bool) {
        (self.rows, self.width, self.in_bytes) = (rows.iter().sum(), width, in_bytes);
        if in_bytes {
            self.quantized.shape(rows.iter().copied(), width);
        } else {
            sized(&mut self.floats, self.rows * width);
        }
    }

    /// All rows, for products.
    pub fn input(&self) -> Input<'_> {
        let x = if self.in_bytes { &[][..] } else { &self.floats[..self.rows * self.width] };
        Input { x, rows: self.rows, cols: self.width, quantized: self.in_bytes.then_some(&self.quantized) }
    }

    fn target(&mut self) -> Target<'_> {
        if self.in_bytes {
            Target::Bytes(self.quantized.writer())
        } else {
            Target::Floats(SharedOut::new(&mut self.floats[..self.rows * self.width], self.rows, self.width))
        }
    }
}

enum Target<'a> {
    Bytes(BlockWriter<'a>),
    Floats(SharedOut<'a>),
}

/// Bytes of gate and up that a thread claims at a time for one input row, at most: it reads the one, then the other.
const LONG_PIECE_BYTES: usize = 8 * PIECE_BYTES;

thread_local! {
    static SCRATCH: Cell<[Vec<f32>; 2]> = Cell::default();
}

/// A block, and where its rows go.
struct BlockRows<'a, 'b> {
    block: &'b Gated<'a>,
    /// Rows.
    n: usize,
    /// Its first row in the buffer.
    first: usize,
}

/// Compute all blocks in one parallel section.
///
/// # Panics
/// When shapes do not agree, or the buffers were not shaped for these blocks.
pub fn gated(pool: &Pool, blocks: &[Gated], hidden: &mut [Hidden]) {
    let mut filled = vec![0; hidden.len()];
    let mut parts = Vec::with_capacity(blocks.len());
    let mut selections = Vec::with_capacity(2 * blocks.len());
    let mut pieces: Vec<(usize, Range<usize>)> = Vec::new();
    let bytes: usize = blocks.iter().map(|block| block.gate.bytes.len() + block.up.bytes.len()).sum();
    let long = (bytes / (16 * pool.threads())).clamp(PIECE_BYTES, LONG_PIECE_BYTES);
    for block in blocks {
        let Gated { gate, up, input, rows, hidden: to } = block;
        let n = checked(gate, input, *rows);
        assert_eq!(n, checked(up, input, *rows));
        [gate, up].into_iter().for_each(|weight| show(*weight, *input, *rows));
        assert_eq!(gate.rows, up.rows, "gate and up");
        let width = gate.rows;
        assert!(hidden[*to].width == width, "the buffer's width");
        selections.extend([selection(gate, input, *rows), selection(up, input, *rows)]);
        if n > 0 && width > 0 {
            let piece = if n == 1 { long } else { PIECE_BYTES };
            let step = rows_a_piece((gate.bytes.len() + up.bytes.len()) / width, piece);
            pieces.extend((0..width).step_by(step).map(|from| (parts.len(), from..(from + step).min(width))));
        }
        parts.push(BlockRows { block, n, first: filled[*to] });
        filled[*to] += n;
    }
    assert!(hidden.iter().zip(&filled).all(|(hidden, &rows)| hidden.rows == rows), "the buffers' rows");
    let targets: Vec<Target> = hidden.iter_mut().map(Hidden::target).collect();
    with_panels(pool, &selections, |panels, ranges| {
        pool.run_ahead(pieces.len(), |i, next| {
            let (part, range) = &pieces[i];
            let ahead = next.map_or(&[][..], |next| {
                let (part, range) = &pieces[next];
                parts[*part].block.gate.rows_from(range.start)
            });
            let panels = [2 * part, 2 * part + 1].map(|half| &panels[ranges[half].clone()]);
            columns(&parts[*part], range.clone(), panels, ahead, &targets[parts[*part].block.hidden]);
        });
    });
}

/// Columns `range` of one block.
fn columns(part: &BlockRows, range: Range<usize>, panels: [&[Panel]; 2], ahead: &[u8], target: &Target) {
    let (Gated { gate, up, input, rows, .. }, n) = (part.block, part.n);
    let mut scratch = SCRATCH.take();
    // Of many rows, what passes between the halves stays in a near cache; with one, each weight is read in one stream.
    let step = if n == 1 { range.len().next_multiple_of(BLOCK).max(BLOCK) } else { BLOCK };
    for from in range.clone().step_by(step) {
        let columns = from..(from + step).min(range.end);
        let width = columns.len();
        let [g, u] = &mut scratch;
        let (g, u) = (sized(g, n * width), sized(u, n * width));
        let after = if columns.end < range.end { gate.rows_from(columns.end) } else { ahead };
        let halves = [(gate, &mut *g, panels[0], up.rows_from(from)), (up, &mut *u, panels[1], after)];
        for (w, out, panels, next) in halves {
            let mut out = Out::new(out, n, columns.clone());
            // SAFETY: the table holds only functions whose instruction set this processor has.
            unsafe { (table().product)(w, columns.clone(), input, *rows, (panels, next), &mut out) }
        }
        crate::silu_mul(g, u);
        match target {
            Target::Floats(out) => {
                // SAFETY: these columns of the block's rows are this piece's alone.
                let mut out = unsafe { out.part(part.first..part.first + n, columns) };
                for (i, row) in g.chunks_exact(width).enumerate() {
                    out.write(i, from, row);
                }
            }
            Target::Bytes(writer) => {
                // Several blocks of one row, or one of several.
                for (i, mut values) in g.chunks_exact(n * BLOCK).enumerate() {
                    let mut first = part.first;
                    for rows in split(n) {
                        let (now, rest) = values.split_at(rows * BLOCK);
                        // SAFETY: these columns of the block are this piece's alone.
                        unsafe { writer.block(first, rows, from / BLOCK + i, now) };
                        (first, values) = (first + rows, rest);
                    }
                }
            }
        }
    }
    SCRATCH.set(scratch);
}
