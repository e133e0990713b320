//! This machine: its cores, and the tokens per second to expect of a model here.

use kernels::measure::{self, ProductRates};
use kernels::{Format, Pool};
use model::Checkpoint;
use model::tensors::Stored;

/// Shares that products take of the time of a token, of an answer and of a prompt, with models larger than the caches: the rest is
/// attention, experts with few rows and what threads wait for (LOG.md). `farthing bench` measures.
const DECODE_SHARE: f64 = 0.8;
const PREFILL_SHARE: f64 = 0.6;

/// Formats that hold less of what a token reads than this are not measured.
const SHARE_MIN: f64 = 0.02;

/// Cores, not counting a core's second thread.
pub fn cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    let mut cores: Vec<String> = (0..4096).map_while(siblings).collect();
    cores.sort();
    cores.dedup();
    if cores.is_empty() { logical } else { logical.min(cores.len()) }
}

/// What a machine shows in a moment.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes per second read from memory, all threads together.
    pub bandwidth: f64,
    /// 8-bit operations per second.
    pub int8: f64,
    /// 32-bit floating-point operations per second.
    pub f32: f64,
}

impl Machine {
    /// Measure: about a second.
    pub fn measure(pool: &Pool) -> Machine {
        Machine {
            bandwidth: measure::read_bandwidth(pool, 256 << 20),
            int8: measure::int8_peak(pool),
            f32: measure::f32_peak(pool),
        }
    }
}

/// Tokens per second to expect.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Expected {
    /// Of an answer, while the context is short.
    pub decode: f64,
    /// Of a prompt.
    pub prefill: f64,
}

/// Whether most of a model's bytes are multiplied in 8 bits.
pub fn in_bytes(checkpoint: &Checkpoint) -> bool {
    let quantised = |stored: &Stored| matches!(stored, Stored::As(f) if f.wants_quantized_input() && *f != Format::F32);
    let tensors = checkpoint.tensors.by_name.values();
    tensors.filter(|t| quantised(&t.stored)).map(|t| t.bytes as u64).sum::<u64>() * 2 > checkpoint.file_bytes()
}

/// Operations that a token of a prompt takes: every active matrix but the head, which only the last token needs.
pub fn prefill_operations(checkpoint: &Checkpoint) -> f64 {
    let s = &checkpoint.structure;
    2.0 * s.parameters().active.saturating_sub((s.outputs() * s.hidden) as u64) as f64
}

/// What to expect of a model here, from products with weights of its formats that are run now; nothing where
/// kernels know none of its formats.
pub fn expected(checkpoint: &Checkpoint, pool: &Pool) -> Option<Expected> {
    let formats = checkpoint.bytes_per_token_by_format();
    let all: f64 = formats.iter().map(|(_, bytes)| bytes).sum();
    let measured: Vec<(Format, f64, ProductRates)> = formats
        .into_iter()
        .filter(|(_, bytes)| *bytes >= SHARE_MIN * all)
        .map(|(format, bytes)| (format, bytes, measure::product_rates(pool, format)))
        .collect();
    let weights = |format: Format, bytes: f64| bytes / format.block_bytes() as f64 * format.block_elems() as f64;
    let (mut reading, mut arithmetic, mut known, mut numbers) = (0.0, 0.0, 0.0, 0.0);
    for &(format, bytes, rates) in &measured {
        reading += bytes / rates.bytes;
        arithmetic += weights(format, bytes) / rates.operations;
        known += bytes;
        numbers += weights(format, bytes);
    }
    if measured.is_empty() {
        return None;
    }
    // What was not measured is taken for the mean of what was.
    let a_token = reading / known * checkpoint.bytes_per_token() as f64;
    let a_prompts = arithmetic / numbers * prefill_operations(checkpoint);
    Some(Expected { decode: DECODE_SHARE / a_token, prefill: PREFILL_SHARE / a_prompts })
}

/// Bytes of 4-bit weights that answers read per second.
pub fn decoding_rate(pool: &Pool) -> f64 {
    DECODE_SHARE * measure::product_rates(pool, Format::Q4K).bytes
}
