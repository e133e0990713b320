//! Limits that rules compare with: the reason where a value is outside, and the check that settings make sense

use crate::Verdict;
use crate::step::Reason;

/// What one rule or several found: a document passes, or is dropped for the first rule that it breaks.
pub type Passed = Result<(), Reason>;

impl From<Passed> for Verdict {
    fn from(passed: Passed) -> Verdict {
        match passed {
            Ok(()) => Verdict::Keep,
            Err(reason) => Verdict::Drop(reason),
        }
    }
}

/// A value that must not be above its limit.
pub fn at_most(rule: &'static str, what: &str, value: f64, max: f64) -> Passed {
    if value > max { Err(reason(rule, what, value, "more", max)) } else { Ok(()) }
}

/// A value that must not be below its limit.
pub fn at_least(rule: &'static str, what: &str, value: f64, min: f64) -> Passed {
    if value < min { Err(reason(rule, what, value, "less", min)) } else { Ok(()) }
}

fn reason(rule: &'static str, what: &str, value: f64, compared: &str, limit: f64) -> Reason {
    let what = if value == 1.0 && !what.starts_with("of ") { what.strip_suffix('s').unwrap_or(what) } else { what };
    let shown = if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") };
    Reason { rule, detail: format!("{shown} {what}, {compared} than {limit}").into() }
}

/// Part of a whole, of which there may be nothing.
pub fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Settings that are shares of a whole.
///
/// # Errors
/// In words: the first that is not between 0 and 1.
pub fn check_shares(settings: &[(&str, f64)]) -> Result<(), String> {
    match settings.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
        Some((name, value)) => Err(format!("{name} {value} is a share, from 0 to 1")),
        None => Ok(()),
    }
}

/// Two settings that bound the same value.
///
/// # Errors
/// In words: where no value is between them.
pub fn check_order(min: (&str, f64), max: (&str, f64)) -> Result<(), String> {
    if min.1 <= max.1 { Ok(()) } else { Err(format!("{} {} is above {} {}", min.0, min.1, max.0, max.1)) }
}
