//! The table of kernels, filled once with what the processor has. `FARTHING_ISA` (scalar, avx2, avx512) pins a lower one.

use std::ops::Range;
use std::sync::OnceLock;

use crate::attend::Shape;
use crate::panels::Hints;
use crate::{Attended, Input, Keys, Matrix, Out, Queries, Rows};

/// Kernels of one instruction set, all compiled from the same source. Calling one is safe where the set exists.
pub struct Table {
    /// The set's name.
    pub name: &'static str,
    /// Outputs of one product, a range of the weight's rows.
    pub(crate) product: unsafe fn(&Matrix, Range<usize>, &Input, Rows, Hints, &mut Out),
    /// Whether `product` takes quantised input in panels.
    pub(crate) panels: bool,
    pub(crate) transposed: unsafe fn(&Matrix, &[f32], Range<usize>, &mut Out),
    pub(crate) decode_row: unsafe fn(&Matrix, usize, &mut [f32]),
    pub(crate) quantize: unsafe fn(&[f32], (usize, usize), &mut [i8], &mut [f32], &mut [i32]),
    pub(crate) attend: unsafe fn(&Queries, Shape, &Keys, &mut Attended),
    pub(crate) attend_fixed: unsafe fn(&Queries, Shape, &mut dyn Iterator<Item = Keys>, &mut Attended),
    pub(crate) merge: unsafe fn(usize, usize, (&[f32], &[f32], &[f32]), &mut Attended),
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub(crate) silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub(crate) sigmoid: unsafe fn(&mut [f32]),
    pub(crate) softmax: unsafe fn(&mut [f32]),
    pub(crate) add_scaled: unsafe fn(&mut [f32], &[f32], f32),
    /// Dot products of bytes as fast as they go; returns a number that depends on all.
    pub(crate) spin_int8: unsafe fn(u64) -> i64,
    /// Multiply-adds of f32 as fast as they go.
    pub(crate) spin_f32: unsafe fn(u64) -> f32,
}

/// A table of kernels over `$isa`, each compiled with `$feature`s.
macro_rules! kernels {
    ($name:expr, $isa:expr $(, $feature:literal)?) => {{
        use $crate::attend::Shape;
        use $crate::panels::Hints;
        use $crate::{Attended, Input, Keys, Matrix, Out, Queries, Rows};
        use std::ops::Range;
        $(#[target_feature(enable = $feature)])?
        fn product(w: &Matrix, range: Range<usize>, input: &Input, rows: Rows, hints: Hints, out: &mut Out) {
            $crate::products::product($isa, w, range, input, rows, hints.1, out)
        }
        $(#[target_feature(enable = $feature)])?
        fn transposed(w: &Matrix, x: &[f32], range: Range<usize>, out: &mut Out) {
            $crate::products::transposed($isa, w, x, range, out)
        }
        $(#[target_feature(enable = $feature)])?
        fn decode_row(w: &Matrix, row: usize, out: &mut [f32]) {
            $crate::products::decode_row(w, row, out)
        }
        $(#[target_feature(enable = $feature)])?
        fn quantize(x: &[f32], rows: (usize, usize), q: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
            $crate::products::quantize($isa, x, rows, q, scales, sums)
        }
        $(#[target_feature(enable = $feature)])?
        fn attend(q: &Queries, shape: Shape, keys: &Keys, state: &mut Attended) {
            $crate::attend::attend($isa, q, shape, keys, state)
        }
        $(#[target_feature(enable = $feature)])?
        fn attend_fixed(q: &Queries, shape: Shape, pages: &mut dyn Iterator<Item = Keys>, state: &mut Attended) {
            $crate::fixed::attend($isa, q, shape, pages, state)
        }
        $(#[target_feature(enable = $feature)])?
        fn merge(heads: usize, value: usize, from: (&[f32], &[f32], &[f32]), state: &mut Attended) {
            $crate::attend::merge($isa, heads, value, from, state)
        }
        $(#[target_feature(enable = $feature)])?
        fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
            $crate::elements::rms_norm($isa, x, weight, eps, out)
        }
        $(#[target_feature(enable = $feature)])?
        fn silu_mul(gate: &mut [f32], up: &[f32]) {
            $crate::elements::silu_mul($isa, gate, up)
        }
        $(#[target_feature(enable = $feature)])?
        fn sigmoid(x: &mut [f32]) {
            $crate::elements::sigmoid($isa, x)
        }
        $(#[target_feature(enable = $feature)])?
        fn softmax(x: &mut [f32]) {
            $crate::elements::softmax($isa, x)
        }
        $(#[target_feature(enable = $feature)])?
        fn add_scaled(out: &mut [f32], x: &[f32], a: f32) {
            $crate::elements::add_scaled($isa, out, x, a)
        }
        $(#[target_feature(enable = $feature)])?
        fn spin_int8(rounds: u64) -> i64 {
            $crate::measure::spin_int8($isa, rounds)
        }
        $(#[target_feature(enable = $feature)])?
        fn spin_f32(rounds: u64) -> f32 {
            $crate::measure::spin_f32($isa, rounds)
        }
        $crate::dispatch::Table {
            name: $name,
            product,
            panels: false,
            transposed,
            decode_row,
            quantize,
            attend,
            attend_fixed,
            merge,
            rms_norm,
            silu_mul,
            sigmoid,
            softmax,
            add_scaled,
            spin_int8,
            spin_f32,
        }
    }};
}
pub(crate) use kernels;

static SCALAR: Table = kernels!("scalar", crate::vectors::Scalar);

/// The tables this processor can run, best first. The last is the plain one.
pub fn tables() -> Vec<&'static Table> {
    #[allow(unused_mut)] // only x86 adds to it
    let mut tables = vec![&SCALAR];
    #[cfg(target_arch = "x86_64")]
    {
        if crate::avx2::available() {
            tables.insert(0, &crate::avx2::TABLE);
        }
        if crate::avx512::available() {
            tables.insert(0, &crate::avx512::TABLE);
        }
    }
    tables
}

static CHOSEN: OnceLock<&'static Table> = OnceLock::new();

thread_local! {
    static FORCED: std::cell::Cell<Option<&'static Table>> = const { std::cell::Cell::new(None) };
}

#[inline]
pub(crate) fn table() -> &'static Table {
    FORCED.get().unwrap_or_else(|| CHOSEN.get_or_init(|| tables()[0]))
}

/// Run `f` with another table on this thread (tests compare them; a pool of one thread stays on it).
pub fn with_table<T>(table: &'static Table, f: impl FnOnce() -> T) -> T {
    let before = FORCED.replace(Some(table));
    let result = f();
    FORCED.set(before);
    result
}

/// Names of all sets that this processor has, best first; the last is the plain one.
pub fn instruction_sets() -> Vec<&'static str> {
    tables().iter().map(|t| t.name).collect()
}

/// The instruction set in use.
pub fn instruction_set() -> &'static str {
    table().name
}

/// Obey `FARTHING_ISA`; to be called once, before any kernel.
///
/// # Errors
/// A name that this processor does not have.
pub fn instruction_set_from_env() -> Result<(), String> {
    let Some(wanted) = std::env::var_os("FARTHING_ISA") else { return Ok(()) };
    let tables = tables();
    match tables.iter().find(|t| wanted == t.name) {
        Some(table) => {
            let _ = CHOSEN.set(table);
            Ok(())
        }
        None => {
            let names: Vec<_> = tables.iter().map(|t| t.name).collect();
            let wanted = wanted.to_string_lossy();
            Err(format!("FARTHING_ISA={wanted}: this processor has {}; set one of them or none", names.join(", ")))
        }
    }
}
