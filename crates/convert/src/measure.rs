//! The importance of a weight's columns, measured: the mean of the squares of what they are multiplied with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use kernels::{Format, Pool, Seen};
use model::gguf::TypedValue;
use model::weight::Weight;

use crate::error::ConvertError;
use crate::gguf_file::{text, write_gguf};
use crate::plan::{GgufPlan, Planned};
use crate::source::Source;

/// Bytes of a mapped file that hold rows of one matrix of a tensor.
struct Part {
    bytes: std::ops::Range<usize>,
    tensor: usize,
    matrix: usize,
}

/// What was seen of a tensor.
struct Sums {
    name: String,
    cols: usize,
    /// Of squares, for each column of each matrix.
    squares: Vec<f64>,
    /// Rows that each matrix was multiplied with.
    counts: Vec<u64>,
}

/// Sums over what the tensors of a file that is planned are multiplied with.
pub struct Measure {
    /// By their first bytes.
    parts: Vec<Part>,
    sums: RefCell<Vec<Sums>>,
}

impl Measure {
    /// Nothing was seen yet. The model that computes must have its weights from the checkpoint of this plan.
    ///
    /// # Errors
    /// A model whose numbers are rounded to blocks: what they are multiplied with is rounded too.
    pub fn new(plan: &GgufPlan) -> Result<Measure, ConvertError> {
        let (mut parts, mut sums) = (Vec::new(), Vec::new());
        for planned in plan.tensors.iter().filter(|planned| planned.shape.len() > 1) {
            let Some(weights) = weights_of(&planned.source) else { continue };
            if let Some(weight) = weights.iter().find(|weight| weight.format.wants_quantized_input()) {
                let what = format!(
                    "tensor {} is stored in {}, and importance is measured before anything is rounded: take the original",
                    planned.name,
                    weight.format.name()
                );
                return Err(ConvertError::refused(&plan.from, what));
            }
            parts_of(planned, weights, sums.len(), &mut parts);
            let (rows, cols) = planned.matrix();
            let matrices = rows / planned.rows_of_a_matrix().max(1);
            sums.push(Sums {
                name: planned.name.clone(),
                cols,
                squares: vec![0.0; matrices * cols],
                counts: vec![0; matrices],
            });
        }
        parts.sort_by_key(|part: &Part| part.bytes.start);
        Ok(Measure { parts, sums: RefCell::new(sums) })
    }

    /// Takes a product into account.
    pub fn see(&self, seen: &Seen<'_>) {
        let Seen { weight, input, rows } = *seen;
        let start = weight.bytes.as_ptr() as usize;
        let end = start + weight.bytes.len();
        let first = self.parts.partition_point(|part| part.bytes.end <= start);
        let mut sums = self.sums.borrow_mut();
        for part in self.parts[first..].iter().take_while(|part| part.bytes.start < end) {
            let Sums { cols, squares, counts, .. } = &mut sums[part.tensor];
            if *cols != input.cols {
                continue;
            }
            let squares = &mut squares[part.matrix * *cols..][..*cols];
            for row in 0..rows.len(input.rows) {
                let x = &input.x[rows.at(row) * *cols..][..*cols];
                squares.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
            }
            counts[part.matrix] += rows.len(input.rows) as u64;
        }
    }

    /// Importance of each column, by tensor, as [`crate::read_importance`] gives it.
    pub fn importance(&self) -> BTreeMap<String, Vec<f32>> {
        let sums = self.sums.borrow();
        let seen = sums.iter().filter(|sums| sums.counts.iter().any(|count| *count > 0));
        let importance = |sums: &Sums| {
            let matrices = sums.squares.chunks(sums.cols).zip(&sums.counts);
            // As whoever reads the file divides. Of an expert that no token chose nothing is known: all columns count alike.
            let columns = matrices.flat_map(|(squares, &count)| {
                squares.iter().map(move |sum| if count > 0 { *sum as f32 / count as f32 } else { 1.0 })
            });
            (sums.name.clone(), columns.collect())
        };
        seen.map(importance).collect()
    }

    /// Writes the sums as llama.cpp's `llama-imatrix` does, from a text of this name in so many windows of so many tokens.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn save(&self, path: &Path, (name, windows, window): (&str, u32, u32)) -> Result<(), ConvertError> {
        let sums = self.sums.borrow();
        let tensor = |name: String, cols: usize, numbers: Vec<f32>| Planned {
            name,
            shape: vec![numbers.len() / cols, cols],
            format: Format::F32,
            source: Source::Numbers(numbers),
        };
        let seen = sums.iter().filter(|sums| sums.counts.iter().any(|count| *count > 0));
        let tensors = seen.flat_map(|sums| {
            let squares = sums.squares.iter().map(|&sum| sum as f32).collect();
            let counts = sums.counts.iter().map(|&count| count as f32).collect();
            [
                tensor(format!("{}.counts", sums.name), 1, counts),
                tensor(format!("{}.in_sum2", sums.name), sums.cols, squares),
            ]
        });
        let keys = vec![
            text("general.type", "imatrix"),
            ("imatrix.datasets".to_string(), TypedValue::Texts(vec![name.to_string()])),
            ("imatrix.chunk_count".to_string(), TypedValue::U32(windows)),
            ("imatrix.chunk_size".to_string(), TypedValue::U32(window)),
        ];
        let plan = GgufPlan::of_numbers(path, keys, tensors.collect());
        write_gguf(&plan, path, &Pool::new(1), &(), |_| Ok(())).map(drop)
    }
}

/// The weights of a source that keeps their columns.
fn weights_of(source: &Source) -> Option<&[Weight]> {
    match source {
        Source::Rows(weights) => Some(weights),
        Source::Permuted(weight, _) | Source::Unpermuted(weight, _) => Some(std::slice::from_ref(weight)),
        Source::Numbers(_) | Source::Transposed(_) | Source::Mean(_) => None,
    }
}

/// The bytes of the weights that a tensor is made of, cut where its matrices end.
fn parts_of(planned: &Planned, weights: &[Weight], tensor: usize, parts: &mut Vec<Part>) {
    let (height, mut row) = (planned.rows_of_a_matrix().max(1), 0);
    for weight in weights {
        let bytes = weight.matrix().bytes;
        let (start, wide) = (bytes.as_ptr() as usize, bytes.len() / weight.rows.max(1));
        let mut done = 0;
        while done < weight.rows {
            let rows = (height - row % height).min(weight.rows - done);
            let bytes = start + done * wide..start + (done + rows) * wide;
            parts.push(Part { bytes, tensor, matrix: row / height });
            (done, row) = (done + rows, row + rows);
        }
    }
}
