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

/// A count for people: 15.7 B, 5.73 M.
pub fn count(n: u64) -> String {
    let x = n as f64;
    match n {
        1_000_000_000.. => format!("{:.2} B", x / 1e9),
        1_000_000.. => format!("{:.2} M", x / 1e6),
        _ => n.to_string(),
    }
}
