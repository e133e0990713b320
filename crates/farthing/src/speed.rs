//! Tokens per second to expect, from what this machine shows and what a model needs.

use kernels::{Format, Pool, measure};
use model::Checkpoint;
use model::tensors::Stored;

/// Shares of the measured limits that the engine reaches with models larger than the caches (LOG.md). `farthing bench` measures.
pub const DECODE_SHARE: f64 = 0.8;
const PREFILL_SHARE: f64 = 0.33;

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
#[derive(Clone, Copy, Debug)]
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
    2.0 * s.parameters().active.saturating_sub((s.vocab * s.hidden) as u64) as f64
}

/// What to expect of a model on a machine.
pub fn expected(checkpoint: &Checkpoint, machine: &Machine) -> Expected {
    let peak = if in_bytes(checkpoint) { machine.int8 } else { machine.f32 };
    Expected {
        decode: DECODE_SHARE * machine.bandwidth / (checkpoint.bytes_per_token() as f64).max(1.0),
        prefill: PREFILL_SHARE * peak / prefill_operations(checkpoint).max(1.0),
    }
}

/// A rate for people: as exact as an estimate can be.
pub fn rounded(rate: f64) -> String {
    match rate {
        r if r >= 100.0 => format!("{}", (r / 10.0).round() * 10.0),
        r if r >= 10.0 => format!("{r:.0}"),
        r => format!("{r:.1}"),
    }
}
