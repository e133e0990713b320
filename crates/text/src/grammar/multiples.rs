//! `multipleOf` and bounds of numbers, brought together exactly before they are compiled
//!
//! llguidance intersects the digits of a range with those of multiples: where a bound has more decimals than the multiples it finds none,
//! and two divisors in two places of an `allOf` become one that is too large to follow between bounds. Here what holds for one value is
//! gathered from its `allOf`, divisors become their least common multiple, and bounds move inward to multiples.

use serde_json::{Map, Value, json};

/// Keywords that say which numbers are valid.
const BOUNDS: [&str; 4] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];
/// Most decimals of a divisor.
const DECIMALS_MAX: u32 = 4;
/// Largest whole number that floating point tells from its neighbours.
const EXACT_MAX: i128 = 9_007_199_254_740_991;

/// A decimal number: `coefficient / 10^decimals`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decimal {
    coefficient: i128,
    decimals: u32,
}

impl Decimal {
    /// A number as it is written. None: it has too many digits.
    fn of(value: &Value) -> Option<Decimal> {
        let text = value.as_number()?.to_string();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let coefficient: i128 = format!("{whole}{part}").parse().ok()?;
        let decimals = i32::try_from(part.len()).ok()?.checked_sub(exponent.parse().ok()?)?;
        if decimals >= 0 {
            return Some(Decimal { coefficient, decimals: decimals as u32 }.short());
        }
        let scale = 10_i128.checked_pow(decimals.unsigned_abs())?;
        Some(Decimal { coefficient: coefficient.checked_mul(scale)?, decimals: 0 })
    }

    /// Without zeros at its end.
    fn short(mut self) -> Decimal {
        while self.decimals > 0 && self.coefficient % 10 == 0 {
            (self.coefficient, self.decimals) = (self.coefficient / 10, self.decimals - 1);
        }
        self
    }

    fn with_decimals(self, decimals: u32) -> Option<i128> {
        self.coefficient.checked_mul(10_i128.checked_pow(decimals.checked_sub(self.decimals)?)?)
    }

    /// The nearest JSON number.
    fn value(self) -> Option<Value> {
        let Decimal { coefficient, decimals } = self.short();
        if decimals == 0 {
            return Some(json!(i64::try_from(coefficient).ok()?));
        }
        format!("{coefficient}e-{decimals}").parse::<f64>().ok().map(|x| json!(x))
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The least number that is a multiple of both. None: too large, or with too many decimals.
fn least_common(one: &Value, other: &Value) -> Option<Value> {
    let (one, other) = (Decimal::of(one)?, Decimal::of(other)?);
    let decimals = one.decimals.max(other.decimals);
    let (a, b) = (one.with_decimals(decimals)?, other.with_decimals(decimals)?);
    if a <= 0 || b <= 0 || decimals > DECIMALS_MAX {
        return None;
    }
    let least = (a / gcd(a, b)).checked_mul(b)?;
    (least <= EXACT_MAX).then_some(Decimal { coefficient: least, decimals }.value()?)
}

/// The bound of one side: where it is, and whether it is excluded itself.
#[derive(Clone, Copy)]
struct Bound {
    at: Decimal,
    excluded: bool,
}

/// Whether `one` is the narrower lower bound.
fn narrower(one: Bound, other: Bound) -> Option<bool> {
    let decimals = one.at.decimals.max(other.at.decimals);
    let (a, b) = (one.at.with_decimals(decimals)?, other.at.with_decimals(decimals)?);
    Some(a > b || a == b && one.excluded)
}

fn negated(bound: Bound) -> Bound {
    let Bound { at, excluded } = bound;
    Bound { at: Decimal { coefficient: -at.coefficient, ..at }, excluded }
}

/// The narrowest lower bound of a schema, or its upper one negated. The inner None: it has none.
fn bound(map: &Map<String, Value>, upper: bool) -> Option<Option<Bound>> {
    let (plain, exclusive) = if upper { (BOUNDS[2], BOUNDS[3]) } else { (BOUNDS[0], BOUNDS[1]) };
    // Before draft 6 it says of the plain one that it is excluded.
    let older = map.get(exclusive) == Some(&Value::Bool(true));
    let mut narrowest: Option<Bound> = None;
    for (keyword, excluded) in [(plain, older), (exclusive, true)] {
        let Some(value) = map.get(keyword).filter(|v| v.is_number()) else { continue };
        let bound = Bound { at: Decimal::of(value)?, excluded };
        let bound = if upper { negated(bound) } else { bound };
        narrowest = match narrowest {
            Some(there) if !narrower(bound, there)? => Some(there),
            _ => Some(bound),
        };
    }
    Some(narrowest)
}

/// The least multiple of `step` that a lower bound lets in.
fn least_multiple(bound: Bound, step: Decimal) -> Option<Decimal> {
    let decimals = bound.at.decimals.max(step.decimals);
    let (at, size) = (bound.at.with_decimals(decimals)?, step.with_decimals(decimals)?);
    let (whole, rest) = (at.div_euclid(size), at.rem_euclid(size));
    let count = if rest > 0 || bound.excluded { whole.checked_add(1)? } else { whole };
    Some(Decimal { coefficient: count.checked_mul(step.coefficient)?, decimals: step.decimals })
}

/// Move bounds inward to multiples of the divisor, where there is one.
pub(super) fn inward(map: &mut Map<String, Value>) {
    let Some(step) = map.get("multipleOf").and_then(Decimal::of).filter(|step| step.coefficient > 0) else { return };
    for upper in [false, true] {
        let moved = bound(map, upper).flatten().and_then(|bound| least_multiple(bound, step));
        let moved = moved.map(|at| if upper { Decimal { coefficient: -at.coefficient, ..at } } else { at });
        let Some(value) = moved.filter(|at| at.coefficient.abs() <= EXACT_MAX).and_then(Decimal::value) else {
            continue;
        };
        let (plain, exclusive) = if upper { (BOUNDS[2], BOUNDS[3]) } else { (BOUNDS[0], BOUNDS[1]) };
        map.shift_remove(exclusive);
        map.insert(plain.to_string(), value);
    }
}

/// Largest divisor, as a whole number of its last decimal, whose multiples are followed digit by digit.
const DIVISOR_MAX: i128 = 1_000;
/// Most multiples of larger ones that are listed instead.
const LISTED_MAX: i128 = 1_000;

/// Whether a divisor stands in a schema or in its `allOf`.
pub(super) fn are_in(map: &Map<String, Value>) -> bool {
    map.contains_key("multipleOf") || members(map, "allOf").any(are_in)
}

/// The schemas in an array.
pub(super) fn members<'v>(
    map: &'v Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = &'v Map<String, Value>> + use<'v> {
    map.get(keyword).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

/// Makes a schema hold as well.
pub(super) fn also(map: &mut Map<String, Value>, schema: Value) {
    if let Value::Array(all) = map.entry("allOf").or_insert_with(|| json!([])) {
        all.push(schema);
    }
}

/// Gather divisors and bounds of the members of `allOf` where there is a divisor among them: all hold for the same value. False: they do
/// not come together exactly.
pub(super) fn gather(map: &mut Map<String, Value>) -> bool {
    let Some(Value::Array(mut members)) = map.get("allOf").cloned() else { return true };
    let divided = |map: &Map<String, Value>| map.contains_key("multipleOf");
    if !divided(map) && !members.iter().filter_map(Value::as_object).any(divided) {
        return true;
    }
    let mut gathered = map.clone();
    if members.iter_mut().filter_map(Value::as_object_mut).any(|member| take(&mut gathered, member).is_none()) {
        return false;
    }
    if let Some(all) = gathered.get_mut("allOf") {
        *all = Value::Array(members);
    }
    *map = gathered;
    true
}

/// Whether the multiples of a schema's divisor are kept. Those of a large one are listed where they are few.
pub(super) fn keep(map: &mut Map<String, Value>) -> bool {
    let Some(step) = map.get("multipleOf").and_then(Decimal::of).filter(|step| step.coefficient > DIVISOR_MAX) else {
        return true;
    };
    let Some(listed) = listed(map, step) else { return false };
    if listed.is_empty() {
        // The bounds say so themselves.
        return true;
    }
    for keyword in BOUNDS.into_iter().chain(["multipleOf"]) {
        map.shift_remove(keyword);
    }
    let others = ["null", "boolean", "string", "array", "object"];
    also(map, json!({"anyOf": [{"type": others}, {"enum": listed}]}));
    true
}

/// The multiples between bounds, where there are few.
fn listed(map: &Map<String, Value>, step: Decimal) -> Option<Vec<Value>> {
    let low = least_multiple(bound(map, false)??, step)?.coefficient / step.coefficient;
    let high = -(least_multiple(bound(map, true)??, step)?.coefficient / step.coefficient);
    if high.checked_sub(low)? >= LISTED_MAX {
        return None;
    }
    let multiple = |count: i128| Decimal { coefficient: count.checked_mul(step.coefficient)?, ..step }.value();
    (low..=high).map(multiple).collect()
}

/// The divisor of values that two hold for, where llguidance, which multiplies in 32 bits without looking, can bring them together and
/// follow its multiples.
pub(super) fn followed(one: &Value, other: &Value) -> Option<Value> {
    let (a, b) = (Decimal::of(one)?, Decimal::of(other)?);
    let decimals = a.decimals.max(b.decimals);
    let product = a.with_decimals(decimals)?.checked_mul(b.with_decimals(decimals)?)?;
    let least = least_common(one, other).filter(|_| product <= i128::from(u32::MAX))?;
    Some(least).filter(|least| Decimal::of(least).is_some_and(|step| step.coefficient <= DIVISOR_MAX))
}

/// Move what a schema says of numbers, and its type, to another that holds for the same value.
fn take(to: &mut Map<String, Value>, from: &mut Map<String, Value>) -> Option<()> {
    if !to.contains_key("type")
        && let Some(kind) = from.shift_remove("type")
    {
        to.insert("type".to_string(), kind);
    }
    if let Some(divisor) = from.shift_remove("multipleOf") {
        let least = to.get("multipleOf").map_or(Some(divisor.clone()), |there| least_common(there, &divisor))?;
        to.insert("multipleOf".to_string(), least);
    }
    for upper in [false, true] {
        let (plain, exclusive) = if upper { (BOUNDS[2], BOUNDS[3]) } else { (BOUNDS[0], BOUNDS[1]) };
        let Some(other) = bound(from, upper)? else { continue };
        let narrowest = match bound(to, upper)? {
            Some(there) if !narrower(other, there)? => there,
            _ => other,
        };
        for map in [&mut *to, &mut *from] {
            map.shift_remove(plain);
            map.shift_remove(exclusive);
        }
        let Bound { at, excluded } = if upper { negated(narrowest) } else { narrowest };
        to.insert(if excluded { exclusive } else { plain }.to_string(), at.value()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mut schema: Value) -> Value {
        let map = schema.as_object_mut().unwrap();
        assert!(gather(map));
        inward(map);
        schema
    }

    #[test]
    fn bounds_move_inward_to_multiples() {
        for (schema, moved) in [
            (
                json!({"multipleOf": 0.1, "minimum": 0.05, "maximum": 0.15}),
                json!({"multipleOf": 0.1, "minimum": 0.1, "maximum": 0.1}),
            ),
            (
                json!({"multipleOf": 0.1, "minimum": 0.3, "exclusiveMaximum": 0.5}),
                json!({"multipleOf": 0.1, "minimum": 0.3, "maximum": 0.4}),
            ),
            (
                json!({"multipleOf": 7, "exclusiveMinimum": -7, "maximum": -1}),
                json!({"multipleOf": 7, "minimum": 0, "maximum": -7}),
            ),
            (json!({"multipleOf": 0.25, "minimum": 1e-7}), json!({"multipleOf": 0.25, "minimum": 0.25})),
            (json!({"multipleOf": 3, "minimum": 3, "exclusiveMinimum": true}), json!({"multipleOf": 3, "minimum": 6})),
            (json!({"multipleOf": 3, "minimum": 5, "exclusiveMinimum": 2}), json!({"multipleOf": 3, "minimum": 6})),
            (
                json!({"multipleOf": 5, "maximum": 9007199254740991_i64}),
                json!({"multipleOf": 5, "maximum": 9007199254740990_i64}),
            ),
            (json!({"minimum": 0.05}), json!({"minimum": 0.05})),
        ] {
            assert_eq!(of(schema.clone()), moved, "{schema}");
        }
    }

    #[test]
    fn what_holds_for_one_value_is_gathered() {
        let gathered = of(
            json!({"allOf": [{"multipleOf": 97, "type": "integer"}, {"multipleOf": 101, "minimum": 1}], "maximum": 20000}),
        );
        let wanted =
            json!({"allOf": [{}, {}], "type": "integer", "multipleOf": 9797, "minimum": 9797, "maximum": 19594});
        assert_eq!(gathered, wanted);
        let decimal = of(json!({"allOf": [{"multipleOf": 0.1}, {"minimum": 0.05, "exclusiveMaximum": 0.15}]}));
        assert_eq!(decimal, json!({"allOf": [{}, {}], "multipleOf": 0.1, "minimum": 0.1, "maximum": 0.1}));
        for apart in [
            json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}),
            json!({"anyOf": [{"multipleOf": 2}, {"multipleOf": 3}]}),
        ] {
            assert_eq!(of(apart.clone()), apart);
        }
        let mut apart = json!({"allOf": [{"multipleOf": 9007199254740881_i64}, {"multipleOf": 9007199254740847_i64}]});
        assert!(!gather(apart.as_object_mut().unwrap()));
        assert_eq!(least_common(&json!(0.25), &json!(0.1)), Some(json!(0.5)));
        assert_eq!(least_common(&json!(2.5), &json!(1)), Some(json!(5)));
    }

    #[test]
    fn multiples_of_large_divisors_are_listed_where_they_are_few() {
        let kept = |mut schema: Value| keep(schema.as_object_mut().unwrap()).then_some(schema);
        let listed =
            kept(json!({"type": "integer", "multipleOf": 9797, "minimum": -1, "exclusiveMaximum": 19594})).unwrap();
        let others = json!({"type": ["null", "boolean", "string", "array", "object"]});
        assert_eq!(listed, json!({"type": "integer", "allOf": [{"anyOf": [others, {"enum": [0, 9797]}]}]}));
        let decimal = kept(json!({"multipleOf": 12.345, "minimum": 12, "maximum": 30})).unwrap();
        assert_eq!(decimal["allOf"][0]["anyOf"][1], json!({"enum": [12.345, 24.69]}));
        for small in [json!({"multipleOf": 1000}), json!({"multipleOf": 0.001, "minimum": 5}), json!({"minimum": 5})] {
            assert_eq!(kept(small.clone()), Some(small));
        }
        for large in [json!({"multipleOf": 1001}), json!({"multipleOf": 1001, "minimum": 0, "maximum": 1_001_000})] {
            assert_eq!(kept(large), None);
        }
        assert!(kept(json!({"multipleOf": 1001, "minimum": 0, "maximum": 1_000_000})).is_some());
    }
}
