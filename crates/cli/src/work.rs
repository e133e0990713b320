//! What a benchmark measures.

/// What a row of figures measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Prefill of a prompt: tokens.
    Prefill(usize),
    /// Decoding one sequence: tokens in its context.
    Decode(usize),
    /// Decoding several sequences at once: how many.
    Together(usize),
}

impl Work {
    /// In words.
    pub fn name(self) -> String {
        match self {
            Work::Prefill(n) => format!("prefill {n}"),
            Work::Decode(0) => "decode".to_string(),
            Work::Decode(depth) => format!("decode at depth {depth}"),
            Work::Together(1) => "1 sequence".to_string(),
            Work::Together(n) => format!("{n} sequences at once"),
        }
    }
}

/// Median: of an even number, the mean of the two in the middle.
pub fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    if x.is_empty() { f64::NAN } else { (x[(x.len() - 1) / 2] + x[x.len() / 2]) / 2.0 }
}

/// Tokens of the prompt that sequences decoded at once share.
pub const SHARED: usize = 512;

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }
}
