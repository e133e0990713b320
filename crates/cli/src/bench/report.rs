//! A benchmark's report: JSON, or a table.

use serde_json::{Value, json};

use super::Arguments;
use crate::external_bench::Rates;
use crate::terminal::{bytes, several};
use crate::work::{SHARED, Work, median};

/// What was measured. Rates are tokens per second.
pub struct Report {
    /// Rows, in order.
    pub work: Vec<Work>,
    /// Of each row, a rate a repetition.
    pub rates: Vec<Vec<f64>>,
    /// Of each row, other programs' rates.
    pub theirs: Vec<Option<Rates>>,
    /// Of each row, bytes of weights that a step reads.
    pub step_bytes: Vec<f64>,
    /// Tokens decoded for each figure.
    pub decode: usize,
    /// Threads.
    pub threads: usize,
    /// Most weights are multiplied in 8 bits.
    pub in_bytes: bool,
    /// Operations that a token of a prompt takes.
    pub operations: f64,
    /// Bytes of KV cache a token.
    pub cache_row: f64,
    /// Bytes of weights that a decoded token reads.
    pub bytes_per_token: f64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// From the start to a model that can run.
    pub load_seconds: f64,
    /// From the start to the first token.
    pub first_token_seconds: f64,
    /// Largest memory of this process, bytes.
    pub peak_memory: u64,
    /// Bytes per second that memory gives.
    pub bandwidth: f64,
    /// Operations per second, in 8 bits or f32 as most weights are.
    pub peak: f64,
}

impl Report {
    /// Rows and their median rates.
    pub fn ours(&self) -> Vec<(Work, f64)> {
        self.work.iter().zip(&self.rates).map(|(w, r)| (*w, median(r))).collect()
    }

    /// Rows that others measured too, and their median rates.
    pub fn others(&self) -> Vec<(Work, f64)> {
        self.work.iter().zip(&self.theirs).filter_map(|(w, t)| Some((*w, t.as_ref()?.median))).collect()
    }

    /// The larger share of a limit, which is nearer, and its name.
    fn share(&self, w: usize) -> (f64, &'static str) {
        let rate = median(&self.rates[w]);
        let half = self.decode / 2;
        let (steps, rows, depth) = match self.work[w] {
            Work::Prefill(_) => return (rate * self.operations / self.peak, "arithmetic"),
            Work::Decode(depth) => (rate, 1.0, (depth + half) as f64),
            Work::Together(n) => (rate / n as f64, n as f64, (SHARED + half) as f64),
        };
        let read = steps * (self.step_bytes[w] + rows * depth * self.cache_row) / self.bandwidth;
        let computed = rate * self.operations / self.peak;
        if read >= computed { (read, "bandwidth") } else { (computed, "arithmetic") }
    }

    /// Kind of arithmetic.
    fn kind(&self) -> &'static str {
        if self.in_bytes { "int8" } else { "f32" }
    }

    /// A JSON object.
    pub fn json(&self, a: &Arguments) -> Value {
        let row = |w: usize| {
            let ours = Rates::of(&self.rates[w]);
            let (share, of) = self.share(w);
            let mut row =
                json!({"name": self.work[w].name(), "tokens_per_second": ours.json(), "share": share, "of": of});
            if let Some(theirs) = &self.theirs[w] {
                row["against"] = theirs.json();
                row["ratio"] = (ours.median / theirs.median).into();
            }
            row
        };
        json!({
            "model": &*a.model,
            "instruction_set": kernels::instruction_set(),
            "threads": self.threads,
            "repetitions": a.repetitions,
            "load_seconds": self.load_seconds,
            "first_token_seconds": self.first_token_seconds,
            "peak_memory_bytes": self.peak_memory,
            "file_bytes": self.file_bytes,
            "bandwidth_bytes_per_second": self.bandwidth,
            "arithmetic_peak": {"kind": self.kind(), "operations_per_second": self.peak},
            "bytes_per_decoded_token": self.bytes_per_token,
            "cache_bytes_per_position": self.cache_row,
            "operations_per_prefilled_token": self.operations,
            "against": a.against,
            "rows": (0..self.work.len()).map(row).collect::<Vec<_>>(),
        })
    }

    /// A table.
    pub fn text(&self, a: &Arguments) -> String {
        let beside = if a.against.is_empty() { "" } else { "   other: min   median      max    ratio" };
        let mut out = format!(
            "{}, {}, {}; loaded in {:.2} s, first token after {:.2} s\n\
             measured: memory {:.1} GB/s, {} {:.0} GOP/s; a decoded token reads {}, a prompt's token takes {:.4} GOP\n\n\
             {:<24} {:>8} {:>8} {:>8}   share of measured limit{beside}\n",
            &*a.model,
            several(self.threads, "thread"),
            kernels::instruction_set(),
            self.load_seconds,
            self.first_token_seconds,
            self.bandwidth / 1e9,
            self.kind(),
            self.peak / 1e9,
            bytes(self.bytes_per_token as u64),
            self.operations / 1e9,
            "tokens/s",
            "min",
            "median",
            "max"
        );
        for w in 0..self.work.len() {
            let Rates { min, median, max, .. } = Rates::of(&self.rates[w]);
            let (share, of) = self.share(w);
            let share = format!("{:.0} % of {of}", share * 100.0);
            let mut line = format!("{:<24} {min:>8.2} {median:>8.2} {max:>8.2}   {share:<23}", self.work[w].name());
            if let Some(t) = &self.theirs[w] {
                line += &format!("   {:>10.2} {:>8.2} {:>8.2} {:>8.2}", t.min, t.median, t.max, median / t.median);
            }
            out += line.trim_end();
            out.push('\n');
        }
        out + &format!("\npeak memory {} (files {})\n", bytes(self.peak_memory), bytes(self.file_bytes))
    }
}
