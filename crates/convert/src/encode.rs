//! One tensor in a format, a piece at a time.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::encode::{FP8_BLOCK, encode_fp8, encode_row};
use kernels::{Format, Matrix, Pool};

use crate::error::ConvertError;
use crate::plan::Planned;

/// Numbers that are read before they are encoded.
const PIECE: usize = 4 << 20;

/// A row whose largest number is above this may not fit the 16-bit scale of its blocks.
const SURE: f32 = 30_000.0;

/// Who is told how far the work is, and asked whether it goes on.
pub trait Progress {
    /// Another tensor begins: its name, its format, its number and how many there are.
    fn tensor(&self, _name: &str, _format: Format, _number: usize, _all: usize) {}
    /// So many numbers more are written.
    fn advance(&self, _numbers: usize) {}
    /// Whether to go on.
    fn goes_on(&self) -> bool {
        true
    }
}

impl Progress for () {}

/// What a tensor is encoded with.
pub(crate) struct Encoder<'a> {
    pub pool: &'a Pool,
    pub progress: &'a dyn Progress,
    /// Source and output, for messages.
    pub from: &'a Path,
    pub to: &'a Path,
}

/// Bytes of a piece that is read, and where they are from: none where they are a copy.
struct Piece<'a> {
    tensor: &'a Planned,
    first: usize,
    cols: usize,
}

impl Encoder<'_> {
    /// A tensor's bytes to `out`. `importance` has a number for each column, or for each column of each of its matrices. Factors of FP8 are returned.
    pub fn encode(
        &self,
        tensor: &Planned,
        importance: Option<&[f32]>,
        out: &mut dyn Write,
    ) -> Result<Vec<f32>, ConvertError> {
        let written = ConvertError::write(self.to);
        let (rows, cols) = tensor.matrix();
        let row_bytes = tensor.format.row_bytes(cols).expect("whole blocks, as planned");
        if let Some(parts) = tensor.source.stored().filter(|parts| parts[0].format == tensor.format) {
            return self.copy(parts, row_bytes, out).map(|()| Vec::new());
        }
        let together = match tensor.format {
            Format::F8E4M3 => FP8_BLOCK,
            _ => tensor.source.rows_together(),
        };
        let step = (PIECE / cols.max(1) / together).max(1) * together;
        let (mut x, mut bytes, mut factors) = (Vec::new(), Vec::new(), Vec::new());
        let mut result = Ok(());
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            self.go_on()?;
            x.resize(count * cols, 0f32);
            bytes.resize(count * row_bytes, 0u8);
            tensor.source.read(self.pool, first, cols, &mut x);
            let piece = Piece { tensor, first, cols };
            self.check(&piece, &x, |x| x.is_finite(), "the model is damaged: fetch it again")?;
            if tensor.format == Format::F8E4M3 {
                self.fp8(&x, cols, &mut bytes, &mut factors);
            } else {
                self.rows(&piece, &x, importance, row_bytes, &mut bytes)?;
            }
            result = out.write_all(&bytes);
            if result.is_err() {
                break;
            }
            self.progress.advance(count * cols);
        }
        result.map_err(written)?;
        Ok(factors)
    }

    fn go_on(&self) -> Result<(), ConvertError> {
        match self.progress.goes_on() {
            true => Ok(()),
            false => Err(ConvertError::Stopped { path: self.to.to_path_buf() }),
        }
    }

    fn copy(&self, parts: &[model::weight::Weight], row_bytes: usize, out: &mut dyn Write) -> Result<(), ConvertError> {
        for part in parts {
            let bytes = &part.file.bytes()[part.offset..part.offset + part.rows * row_bytes];
            for piece in bytes.chunks(PIECE) {
                self.go_on()?;
                out.write_all(piece).map_err(ConvertError::write(self.to))?;
            }
            self.progress.advance(part.rows * part.cols);
        }
        Ok(())
    }

    /// The first number for which `sound` is false is an error.
    fn check(
        &self,
        piece: &Piece,
        x: &[f32],
        sound: impl Fn(f32) -> bool + Sync,
        next: &'static str,
    ) -> Result<(), ConvertError> {
        let bad = AtomicUsize::new(usize::MAX);
        let mut tasks: Vec<_> = x.chunks(1 << 16).enumerate().collect();
        self.pool.each(&mut tasks, |(i, part)| {
            if let Some(at) = part.iter().position(|&x| !sound(x)) {
                bad.fetch_min((*i << 16) + at, Ordering::Relaxed);
            }
        });
        let Some(&value) = x.get(bad.into_inner()) else { return Ok(()) };
        let at = x.iter().position(|&x| !sound(x)).unwrap_or_default();
        Err(ConvertError::Number {
            path: self.from.to_path_buf(),
            tensor: piece.tensor.name.clone(),
            row: piece.first + at / piece.cols,
            column: at % piece.cols,
            value,
            format: piece.tensor.format.name(),
            next,
        })
    }

    fn rows(
        &self,
        piece: &Piece,
        x: &[f32],
        importance: Option<&[f32]>,
        row_bytes: usize,
        bytes: &mut [u8],
    ) -> Result<(), ConvertError> {
        let Piece { tensor, first, cols } = *piece;
        let format = tensor.format;
        let matrix_rows = tensor.rows_of_a_matrix();
        let mut tasks: Vec<_> = x.chunks(cols).zip(bytes.chunks_mut(row_bytes)).enumerate().collect();
        self.pool.each(&mut tasks, |(i, (x, bytes))| {
            let matrix = (first + *i) / matrix_rows;
            let importance = importance.map(|all| {
                let at = if all.len() == cols { 0 } else { matrix * cols };
                &all[at..at + cols]
            });
            encode_row(format, x, importance, bytes);
        });
        drop(tasks);
        // What a scale of 16 bits cannot hold shows in what is decoded.
        if format == Format::F32 || format == Format::Bf16 || x.iter().all(|x| x.abs() < SURE) {
            return Ok(());
        }
        let mut decoded = vec![0f32; x.len()];
        let matrix = Matrix::new(format, x.len() / cols, cols, bytes);
        decoded.chunks_mut(cols).enumerate().for_each(|(r, out)| matrix.decode_row(r, out));
        let at = decoded.iter().position(|x| !x.is_finite());
        let shown: Vec<f32> = match at {
            Some(_) => x.iter().zip(&decoded).map(|(x, d)| if d.is_finite() { 0.0 } else { *x }).collect(),
            None => return Ok(()),
        };
        self.check(piece, &shown, |x| x == 0.0, "choose BF16, F32 or another model")
    }

    fn fp8(&self, x: &[f32], cols: usize, bytes: &mut [u8], factors: &mut Vec<f32>) {
        let blocks = cols.div_ceil(FP8_BLOCK);
        let start = factors.len();
        factors.resize(start + x.len().div_ceil(cols * FP8_BLOCK) * blocks, 0.0);
        let pieces = x.chunks(FP8_BLOCK * cols).zip(bytes.chunks_mut(FP8_BLOCK * cols));
        let mut tasks: Vec<_> = pieces.zip(factors[start..].chunks_mut(blocks)).collect();
        self.pool.each(&mut tasks, |((x, bytes), factors)| encode_fp8(x, cols, bytes, factors));
    }
}
