//! Numbers in words.

pub use serve::words::bytes;

/// A count with its noun: 1 file, 2 files.
pub fn several(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A rate for people: as exact as an estimate can be.
pub fn rounded(rate: f64) -> String {
    match rate {
        r if r >= 100.0 => format!("{}", (r / 10.0).round() * 10.0),
        r if r >= 10.0 => format!("{r:.0}"),
        r => format!("{r:.1}"),
    }
}
