//! Bounds, divisors and constants of numbers, in the range in which floating point is exact

use serde_json::{Map, Value, json};

use super::GrammarError;
use super::multiples::also;

pub(super) const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
/// Largest whole number that 64-bit floating point tells from its neighbours.
const EXACT_MAX: f64 = 9_007_199_254_740_991.0;

/// Largest divisor whose multiples the lexer follows between bounds in little time.
const DIVISOR_SMALL: f64 = 100.0;

/// Multiples are looked for among numbers that floating point holds exactly: beyond, a number could have to go on for many digits until
/// it is one.
pub(super) fn bounded(out: &mut Map<String, Value>) {
    if out
        .get("multipleOf")
        .and_then(Value::as_f64)
        .is_none_or(|divisor| divisor > DIVISOR_SMALL || divisor.fract() != 0.0)
    {
        return;
    }
    for (bound, exclusive, most) in
        [("minimum", "exclusiveMinimum", -EXACT_MAX), ("maximum", "exclusiveMaximum", EXACT_MAX)]
    {
        if !out.contains_key(bound) && !out.get(exclusive).is_some_and(Value::is_number) {
            out.insert(bound.to_string(), json!(most));
        }
    }
}

/// llguidance lets an integer be `-0` where its range crosses zero between two bounds or has none; some read that as a fraction.
pub(super) fn one_zero(out: &mut Map<String, Value>) {
    let types = out.get("type").cloned().unwrap_or_default();
    let types = types.as_array().cloned().unwrap_or_else(|| vec![types]);
    if !types.iter().any(|t| t == "integer") || types.iter().any(|t| t == "number") {
        return;
    }
    let has = |keyword: &str, exclusive: &str| out.contains_key(keyword) || out.contains_key(exclusive);
    match (has("minimum", "exclusiveMinimum"), has("maximum", "exclusiveMaximum")) {
        (false, false) => {
            out.insert("minimum".to_string(), json!(-EXACT_MAX));
        }
        (true, true) => {
            let mut halves = vec![json!({"type": "integer", "maximum": -1}), json!({"type": "integer", "minimum": 0})];
            halves.extend(types.iter().filter(|t| *t != "integer").map(|t| json!({"type": t})));
            also(out, json!({"anyOf": halves}));
        }
        _ => {}
    }
}

/// Numbers of a constant must be ones that floating point holds.
pub(super) fn exact(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(exact),
        Value::Object(map) => map.values().try_for_each(exact),
        Value::Number(n) if n.as_f64().is_none_or(|f| f.abs() > EXACT_MAX) => {
            Err(format!("{n}: numbers beyond 2^53 are not told apart"))
        }
        _ => Ok(()),
    }
}

/// Whether a divisor has so few digits that its multiples are followed.
pub(super) fn few_digits(divisor: f64) -> bool {
    divisor <= EXACT_MAX && [1.0, 10.0, 100.0, 1000.0, 1e4].iter().any(|scale| (divisor * scale).fract() == 0.0)
}

/// Whether a bound excludes every number that floating point tells from its neighbours. To draft 4 an exclusive bound is a word about the
/// plain one, and goes with it.
pub(super) fn beyond(map: &Map<String, Value>, keyword: &str) -> bool {
    let upper = keyword.ends_with("aximum");
    let plain = if upper { "maximum" } else { "minimum" };
    let keyword = if map.get(keyword).is_some_and(Value::is_boolean) { plain } else { keyword };
    let bound = map.get(keyword).and_then(Value::as_f64);
    bound.is_some_and(|f| if upper { f < -EXACT_MAX } else { f > EXACT_MAX })
}

/// A bound that is not `beyond`, moved inward to where floating point is exact.
pub(super) fn clamped(value: &Value, keyword: &str, path: &str) -> Result<Value, GrammarError> {
    match value.as_f64() {
        None if value.is_boolean() => Ok(value.clone()),
        None => Err(GrammarError::invalid(format!("#{path}/{keyword}"), "it is a number")),
        Some(f) if f.abs() <= EXACT_MAX => Ok(value.clone()),
        Some(f) => Ok(json!(if f > 0.0 { EXACT_MAX as i64 } else { -(EXACT_MAX as i64) })),
    }
}
