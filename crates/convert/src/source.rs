//! Where the numbers of a tensor that is written come from: rows of stored tensors, in the order of the output.

use kernels::Pool;
use model::weight::Weight;

/// Numbers of an output tensor.
#[derive(Clone)]
pub enum Source {
    /// Numbers that are made: biases that are permuted, rotary factors.
    Numbers(Vec<f32>),
    /// Rows of these, one after the other.
    Rows(Vec<Weight>),
    /// Rows of a matrix of so many heads, permuted within each head so that the channels that rotate together are neighbours.
    Permuted(Weight, usize),
    /// As `Permuted`, back again.
    Unpermuted(Weight, usize),
    /// Columns of these, one matrix after the other.
    Transposed(Vec<Weight>),
    /// The sum of these, each multiplied by its share.
    Mean(Vec<(f32, Weight)>),
}

/// The row of an unpermuted head of `width` rows that comes at `row`: pairs `(i, i + width / 2)` become neighbours.
pub(crate) fn permuted_row(row: usize, width: usize) -> usize {
    let (head, at) = (row / width, row % width);
    head * width + at % 2 * (width / 2) + at / 2
}

/// The inverse of `permuted_row`.
pub(crate) fn unpermuted_row(row: usize, width: usize) -> usize {
    let (head, at) = (row / width, row % width);
    head * width + at % (width / 2) * 2 + at / (width / 2)
}

impl Source {
    /// Rows `first..` to `out[rows, cols]`.
    pub(crate) fn read(&self, pool: &Pool, first: usize, cols: usize, out: &mut [f32]) {
        let mut tasks: Vec<_> = out.chunks_mut(cols).enumerate().map(|(i, row)| (first + i, row)).collect();
        match self {
            Source::Numbers(numbers) => {
                tasks.iter_mut().for_each(|(row, out)| out.copy_from_slice(&numbers[*row * cols..(*row + 1) * cols]));
            }
            Source::Rows(parts) => pool.each(&mut tasks, |(row, out)| {
                // Parts have the same number of rows.
                let rows = parts[0].rows;
                parts[*row / rows].matrix().decode_row(*row % rows, out);
            }),
            Source::Permuted(weight, heads) => pool.each(&mut tasks, |(row, out)| {
                weight.matrix().decode_row(permuted_row(*row, weight.rows / heads), out);
            }),
            Source::Unpermuted(weight, heads) => pool.each(&mut tasks, |(row, out)| {
                weight.matrix().decode_row(unpermuted_row(*row, weight.rows / heads), out);
            }),
            Source::Transposed(parts) => {
                // All rows of one part, whole parts only.
                let rows = parts[0].cols;
                let mut parts: Vec<_> = out.chunks_mut(rows * cols).zip(&parts[first / rows..]).collect();
                pool.each(&mut parts, |(out, part)| {
                    let mut column = vec![0f32; rows];
                    for c in 0..cols {
                        part.matrix().decode_row(c, &mut column);
                        for (r, x) in column.iter().enumerate() {
                            out[r * cols + c] = *x;
                        }
                    }
                });
            }
            Source::Mean(parts) => pool.each(&mut tasks, |(row, out)| {
                let mut part_row = vec![0f32; cols];
                out.fill(0.0);
                for (share, part) in parts {
                    part.matrix().decode_row(*row, &mut part_row);
                    out.iter_mut().zip(&part_row).for_each(|(sum, x)| *sum += share * x);
                }
            }),
        }
    }

    /// Rows that must be read together.
    pub(crate) fn rows_together(&self) -> usize {
        match self {
            Source::Transposed(parts) => parts[0].cols,
            _ => 1,
        }
    }

    /// The bytes themselves, where they are in one format without factors and in the output's order.
    pub(crate) fn stored(&self) -> Option<&[Weight]> {
        match self {
            Source::Rows(parts) if parts.iter().all(|part| part.scales.is_none() && part.format == parts[0].format) => {
                Some(parts)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_inverse() {
        let rows: Vec<usize> = (0..16).map(|row| permuted_row(row, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
        assert!((0..16).all(|row| unpermuted_row(permuted_row(row, 8), 8) == row));
    }
}
