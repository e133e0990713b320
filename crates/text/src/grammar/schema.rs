//! JSON Schemas screened before they are compiled: limits, references, and every keyword that would not be kept.
//!
//! What comes out is a schema of the newest draft that has only keywords which llguidance keeps, in an order in which it keeps them
//! (it forgets `additionalItems` that an `allOf` divides from its `items`), with every reference pointing at `$defs` of the root.

use std::collections::{HashMap, HashSet};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::bounds::{BOUNDS, beyond, bounded, clamped, exact, few_digits, one_zero};
use super::multiples::{also, members};
use super::{
    GrammarError, SCHEMA_BRANCHES_MAX, SCHEMA_BREADTH_MAX, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_REACH_MAX,
    at_most, multiples, regex,
};

/// Keywords of schemas that are kept as they are.
const PLAIN: [&str; 5] = ["type", "minItems", "minLength", "required", "minProperties"];
/// Keywords that are kept up to a length that no output has.
const MOST: [&str; 3] = ["maxItems", "maxLength", "maxProperties"];
const MOST_MAX: u64 = 1_000_000;
/// Keywords that llguidance keeps in some company only: see `doubts`.
pub(super) const DOUBTED: [&str; 3] = ["oneOf", "minProperties", "maxProperties"];
/// Keywords that say nothing about whether a value is valid.
const NOTES: [&str; 19] = [
    "$schema",
    "$id",
    "id",
    "$anchor",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$vocabulary",
    "$comment",
    "$defs",
    "definitions",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "examples",
    "example",
    "x-guidance",
];
/// Keywords of JSON Schema, of any draft, that are not kept.
const NOT_KEPT: [&str; 22] = [
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "extends",
    "disallow",
    "divisibleBy",
];
/// Formats that llguidance knows and keeps. For others see `spelled`.
const FORMATS: [&str; 5] = ["duration", "ipv4", "ipv6", "uuid", "uri"];
/// A schema that can be compiled, and what of the original it does not keep.
pub(super) struct Screened {
    pub schema: Value,
    pub warnings: Vec<String>,
    /// Of the original.
    pub bytes: usize,
    /// Where each of its `$defs` was, as a JSON pointer into the original.
    pub places: HashMap<String, String>,
    /// Keywords that llguidance keeps in some company only.
    pub doubts: Vec<Doubt>,
}

/// A keyword of a schema that may not be kept.
pub(super) struct Doubt {
    /// JSON pointer of the schema that has it.
    pub path: String,
    /// The same in what is compiled.
    pub compiled: String,
    pub keyword: &'static str,
}

pub(super) fn screen(schema: &Value, strict: bool) -> Result<Screened, GrammarError> {
    let (bytes, divided) = measure(schema)?;
    let mut screen = Screen {
        root: schema,
        strict,
        warnings: Vec::new(),
        names: HashMap::new(),
        waiting: Vec::new(),
        reach: Vec::new(),
        anchors: None,
        divided,
        doubts: Vec::new(),
    };
    let mut refs = Refs::default();
    let mut out = screen.schema(schema, &At::default(), &mut refs)?;
    let mut reach = vec![refs];
    let mut definitions = Map::new();
    while definitions.len() < screen.names.len() {
        let Some((name, path)) = screen.waiting.pop() else { break };
        let target =
            screen.resolve(&path).ok_or_else(|| GrammarError::invalid(format!("#{path}"), "no schema is there"))?;
        let mut refs = Refs { name: name.clone(), ..Refs::default() };
        let at = At { path, compiled: format!("/$defs/{name}"), ..At::default() };
        definitions.insert(name, screen.schema(target, &at, &mut refs)?);
        reach.push(refs);
        at_most("schema: references to different places", definitions.len(), SCHEMA_REACH_MAX)?;
    }
    screen.reach = reach;
    at_most("schema: nesting through references", screen.farthest(), SCHEMA_REACH_MAX)?;
    if out == Value::Bool(true) {
        out = json!({});
    }
    match out.as_object_mut() {
        Some(object) if !definitions.is_empty() => {
            object.insert("$defs".to_string(), Value::Object(definitions));
        }
        Some(_) => {}
        None => return Err(GrammarError::invalid("#", "no value is valid")),
    }
    let places = screen.names.into_iter().map(|(pointer, name)| (name, pointer)).collect();
    Ok(Screened { schema: out, warnings: screen.warnings, bytes, places, doubts: screen.doubts })
}

/// Bytes and depth, before anything recurses, and whether `multipleOf` is in it.
fn measure(schema: &Value) -> Result<(usize, bool), GrammarError> {
    let mut waiting = vec![(schema, 1)];
    let (mut bytes, mut divided) = (0, false);
    while let Some((value, depth)) = waiting.pop() {
        at_most("schema: nested levels", depth, SCHEMA_DEPTH_MAX)?;
        match value {
            Value::Array(items) => {
                bytes += 2 + items.len();
                waiting.extend(items.iter().map(|v| (v, depth + 1)));
            }
            Value::Object(map) => {
                bytes += 2 + map.keys().map(|k| k.len() + 4).sum::<usize>();
                divided |= map.contains_key("multipleOf");
                waiting.extend(map.values().map(|v| (v, depth + 1)));
            }
            Value::String(text) => bytes += text.len() + 2,
            _ => bytes += 4,
        }
        at_most("schema: bytes", bytes, SCHEMA_BYTES_MAX)?;
    }
    Ok((bytes, divided))
}

/// Where the walk is.
#[derive(Clone, Default)]
struct At {
    /// JSON pointer.
    path: String,
    /// JSON pointer into what comes out.
    compiled: String,
    /// Levels of schemas below the root or the definition.
    depth: usize,
    /// An `$id` above changed what references mean.
    rebased: bool,
    /// It stands in an `allOf`, whose own schema looks at its numbers.
    within: bool,
}

impl At {
    /// A schema inside this one.
    fn below(&self, step: &str) -> At {
        let (path, compiled) = (format!("{}/{step}", self.path), format!("{}/{step}", self.compiled));
        At { path, compiled, depth: self.depth + 1, ..*self }
    }
}

/// The references of one definition, in order, with the depth at which each stands.
#[derive(Default)]
struct Refs {
    name: String,
    to: Vec<(String, usize)>,
    deepest: usize,
}

/// What divisors hold for a value by other places.
#[derive(Clone)]
enum Elsewhere {
    /// As one.
    One(Value),
    /// More than can be kept.
    Many,
}

impl Elsewhere {
    /// Both hold.
    fn with(one: Option<Elsewhere>, other: Option<Elsewhere>) -> Option<Elsewhere> {
        match (one, other) {
            (None, only) | (only, None) => only,
            (Some(Elsewhere::One(one)), Some(Elsewhere::One(other))) => {
                Some(multiples::followed(&one, &other).map_or(Elsewhere::Many, Elsewhere::One))
            }
            _ => Some(Elsewhere::Many),
        }
    }

    /// The one that is more of a burden.
    fn worse(one: Option<Elsewhere>, other: Option<Elsewhere>) -> Option<Elsewhere> {
        match (&one, &other) {
            (Some(Elsewhere::Many), _) | (_, None) => one,
            (_, Some(Elsewhere::Many)) | (None, _) => other,
            (Some(Elsewhere::One(a)), Some(Elsewhere::One(b))) => {
                if a.as_f64() >= b.as_f64() {
                    one
                } else {
                    other
                }
            }
        }
    }
}

struct Screen<'a> {
    root: &'a Value,
    strict: bool,
    warnings: Vec<String>,
    /// Pointer of a referenced place to its name in `$defs`.
    names: HashMap<String, String>,
    waiting: Vec<(String, String)>,
    reach: Vec<Refs>,
    /// Anchors and where they are, once one is asked for.
    anchors: Option<HashMap<String, String>>,
    /// There is a `multipleOf` somewhere.
    divided: bool,
    doubts: Vec<Doubt>,
}

impl<'a> Screen<'a> {
    /// A keyword that is not kept: an error, or a warning.
    fn unkept(&mut self, at: &At, keyword: &str, reason: &str) -> Result<(), GrammarError> {
        if self.strict {
            return Err(unsupported(at, keyword, reason));
        }
        if self.warnings.len() < 100 {
            self.warnings.push(format!("#{}: `{keyword}` {reason}", at.path));
        }
        Ok(())
    }

    fn schema(&mut self, schema: &Value, at: &At, refs: &mut Refs) -> Result<Value, GrammarError> {
        refs.deepest = refs.deepest.max(at.depth);
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(GrammarError::invalid(format!("#{}", at.path), "a schema is an object or a boolean")),
        };
        let id = map.get("$id").or_else(|| map.get("id")).and_then(Value::as_str);
        let rebased = at.rebased || (!at.path.is_empty() && id.is_some_and(|id| !id.starts_with('#')));
        let at = &At { rebased, ..at.clone() };
        let mut out = Map::new();
        // What narrows a value where it stands goes last: see the head of this file.
        for keyword in map.keys().filter(|k| !applies(k)).chain(map.keys().filter(|k| applies(k))) {
            if let Some(value) = self.keyword(map, keyword, at, refs)? {
                out.insert(keyword.clone(), value);
            }
        }
        self.numbers(map, &mut out, at)?;
        if !at.within {
            bounded(&mut out);
            one_zero(&mut out);
        }
        if let Some(pattern) = map.get("format").and_then(Value::as_str).and_then(spelled) {
            also(&mut out, json!({"pattern": pattern}));
        }
        self.together(map, &mut out, at)?;
        for keyword in DOUBTED.into_iter().filter(|keyword| out.contains_key(*keyword)) {
            self.doubts.push(Doubt { path: at.path.clone(), compiled: at.compiled.clone(), keyword });
        }
        Ok(Value::Object(out))
    }

    /// One keyword as it is compiled; nothing where it is left out.
    fn keyword(
        &mut self,
        map: &Map<String, Value>,
        keyword: &str,
        at: &At,
        refs: &mut Refs,
    ) -> Result<Option<Value>, GrammarError> {
        let value = &map[keyword];
        let invalid = |reason: &str| GrammarError::invalid(format!("#{}/{keyword}", at.path), reason);
        Ok(Some(match keyword {
            "properties" | "patternProperties" => {
                let given = value.as_object().ok_or_else(|| invalid("it is an object"))?;
                Value::Object(self.properties(keyword, given, at, refs)?)
            }
            "additionalProperties" | "additionalItems" | "items" if !value.is_array() => {
                self.schema(value, &At { within: false, ..at.below(keyword) }, refs)?
            }
            "prefixItems" | "items" | "allOf" | "anyOf" | "oneOf" => {
                let given = value.as_array().ok_or_else(|| invalid("it is an array"))?;
                let within = keyword == "allOf" && (at.within || self.divided && multiples::are_in(map));
                Value::Array(self.branches(keyword, given, &At { within, ..at.clone() }, refs)?)
            }
            "$ref" => Value::String(self.reference(value, at, refs)?),
            "pattern" => {
                let text = value.as_str().ok_or_else(|| invalid("it is a string"))?;
                Value::String(ecma(text, &format!("{}/pattern", at.path))?)
            }
            "format" if value.as_str().is_some_and(|f| FORMATS.contains(&f)) => value.clone(),
            "enum" => {
                let given = value.as_array().ok_or_else(|| invalid("it is an array"))?;
                at_most(format!("#{}/{keyword}", at.path), given.len(), SCHEMA_BREADTH_MAX)?;
                exact(value).map_err(|number| unsupported(at, keyword, &number))?;
                value.clone()
            }
            "const" => {
                exact(value).map_err(|number| unsupported(at, keyword, &number))?;
                value.clone()
            }
            bound if BOUNDS.contains(&bound) && !beyond(map, bound) => clamped(value, bound, &at.path)?,
            most if MOST.contains(&most) => value.as_u64().map_or_else(|| value.clone(), |n| json!(n.min(MOST_MAX))),
            "multipleOf" => {
                let given = value.as_f64().filter(|&f| f > 0.0);
                let given = given.ok_or_else(|| unsupported(at, keyword, "is a number above zero"))?;
                if !few_digits(given) {
                    self.unkept(at, keyword, "has more than four decimals or is beyond 2^53")?;
                    return Ok(None);
                }
                value.clone()
            }
            plain if PLAIN.contains(&plain) => value.clone(),
            other => {
                self.left_out(map, other, at)?;
                return Ok(None);
            }
        }))
    }

    /// Schemas by name.
    fn properties(
        &mut self,
        keyword: &str,
        given: &Map<String, Value>,
        at: &At,
        refs: &mut Refs,
    ) -> Result<Map<String, Value>, GrammarError> {
        at_most(format!("#{}/{keyword}", at.path), given.len(), SCHEMA_BRANCHES_MAX)?;
        let mut out = Map::new();
        for (name, schema) in given {
            let inner = at.below(&format!("{keyword}/{}", escaped(name)));
            let name = if keyword == "properties" { name.clone() } else { ecma(name, &inner.path)? };
            let compiled = format!("{}/{keyword}/{}", at.compiled, escaped(&name));
            let inner = self.schema(schema, &At { compiled, within: false, ..inner }, refs)?;
            out.insert(name, inner);
        }
        Ok(out)
    }

    /// Schemas in an array.
    fn branches(
        &mut self,
        keyword: &str,
        given: &[Value],
        at: &At,
        refs: &mut Refs,
    ) -> Result<Vec<Value>, GrammarError> {
        at_most(format!("#{}/{keyword}", at.path), given.len(), SCHEMA_BRANCHES_MAX)?;
        let branch =
            |(index, schema): (usize, &Value)| self.schema(schema, &at.below(&format!("{keyword}/{index}")), refs);
        given.iter().enumerate().map(branch).collect()
    }

    /// A keyword that is not compiled: it says nothing about a value, or is not kept.
    fn left_out(&mut self, map: &Map<String, Value>, keyword: &str, at: &At) -> Result<(), GrammarError> {
        let value = &map[keyword];
        match keyword {
            // Compiled as a pattern.
            "format" if value.as_str().and_then(spelled).is_some() => Ok(()),
            "format" => {
                let known = FORMATS.join(", ");
                let reason = format!("{value} is not kept; known are date-time, date, time, email, hostname, {known}");
                self.unkept(at, keyword, &reason)
            }
            bound if BOUNDS.contains(&bound) && !value.is_number() => Ok(()),
            bound if BOUNDS.contains(&bound) => self.unkept(at, bound, "beyond 2^53 is not supported"),
            note if NOTES.contains(&note) => Ok(()),
            other if NOT_KEPT.contains(&other) && harmless(map, other, value) => Ok(()),
            other if NOT_KEPT.contains(&other) => self.unkept(at, other, "is not supported"),
            _ => {
                // To JSON Schema any other word is a note. It may be a slip of the pen, so it is told.
                if !keyword.starts_with("x-") && self.warnings.len() < 100 {
                    self.warnings.push(format!("#{}: `{keyword}` is no keyword of JSON Schema", at.path));
                }
                Ok(())
            }
        }
    }

    /// Bring what is said of numbers together, and see whether its multiples are kept. Members of `allOf` (`at.within`) are gathered where
    /// that stands.
    fn numbers(&mut self, map: &Map<String, Value>, out: &mut Map<String, Value>, at: &At) -> Result<(), GrammarError> {
        if !self.divided {
            return Ok(());
        }
        let kept = multiples::gather(out);
        if at.within && kept {
            return Ok(());
        }
        multiples::inward(out);
        if !kept || !multiples::keep(out) {
            let reason = "above 1000 times its last decimal is kept only between bounds with at most 1000 multiples";
            self.unkept(at, "multipleOf", reason)?;
            let members = out.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten();
            members.filter_map(Value::as_object_mut).for_each(|member| drop(member.shift_remove("multipleOf")));
            out.shift_remove("multipleOf");
        }
        let Some(elsewhere) = self.divisor_elsewhere(map, &mut HashSet::new()) else { return Ok(()) };
        let together = match (elsewhere, out.get("multipleOf")) {
            (Elsewhere::Many, _) => None,
            (Elsewhere::One(divisor), Some(own)) => multiples::followed(&divisor, own),
            (Elsewhere::One(divisor), None) => Some(divisor),
        };
        if together.is_none() {
            let reason = "comes together with others whose least common multiple is too large: write it in one place";
            if out.shift_remove("multipleOf").is_none() {
                return Err(unsupported(at, "multipleOf", reason));
            }
            self.unkept(at, "multipleOf", reason)?;
        }
        Ok(())
    }

    /// The divisor that holds for a value of this schema by its references and alternatives, beside what it says itself.
    fn divisor_elsewhere(&self, map: &Map<String, Value>, followed: &mut HashSet<String>) -> Option<Elsewhere> {
        let mut found: Option<Elsewhere> = None;
        for member in members(map, "allOf") {
            found = Elsewhere::with(found, self.divisor_elsewhere(member, followed));
        }
        let target = map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
        if let Some(target) = target.map(percent_decoded)
            && followed.insert(target.clone())
            && let Some(target) = self.resolve(&target).and_then(Value::as_object)
        {
            found = Elsewhere::with(found, self.divisor(target, followed));
        }
        for keyword in ["anyOf", "oneOf"] {
            let mut worst = found.clone();
            for branch in members(map, keyword) {
                let branch = Elsewhere::with(found.clone(), self.divisor(branch, followed));
                worst = Elsewhere::worse(worst, branch);
            }
            found = worst;
        }
        found
    }

    /// The same with what it says itself.
    fn divisor(&self, map: &Map<String, Value>, followed: &mut HashSet<String>) -> Option<Elsewhere> {
        let divisor = |map: &Map<String, Value>| {
            map.get("multipleOf").filter(|v| v.as_f64().is_some_and(few_digits)).cloned().map(Elsewhere::One)
        };
        let own = divisor(map);
        let own = members(map, "allOf").fold(own, |own, member| Elsewhere::with(own, divisor(member)));
        Elsewhere::with(own, self.divisor_elsewhere(map, followed))
    }

    /// Keywords that are kept alone but not in company; what is not kept goes from `out`.
    fn together(
        &mut self,
        map: &Map<String, Value>,
        out: &mut Map<String, Value>,
        at: &At,
    ) -> Result<(), GrammarError> {
        if map.contains_key("prefixItems")
            && (map.contains_key("additionalItems") || map.get("items").is_some_and(Value::is_array))
        {
            return Err(unsupported(
                at,
                "prefixItems",
                "beside additionalItems or an array of items belongs to no draft",
            ));
        }
        let count = |keyword: &str| map.get(keyword).and_then(Value::as_u64).unwrap_or(0);
        let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
        if count("minProperties") > required + 1 {
            // A name may come twice, and counts once.
            self.unkept(at, "minProperties", "of more than one beyond those required is not supported")?;
            out.remove("minProperties");
        }
        for keyword in ["minItems", "minProperties", "minLength"] {
            at_most(
                format!("#{}/{keyword}", at.path),
                usize::try_from(count(keyword)).unwrap_or(usize::MAX),
                10 * SCHEMA_BREADTH_MAX,
            )?;
        }
        Ok(())
    }

    /// A reference's new text.
    fn reference(&mut self, value: &Value, at: &At, refs: &mut Refs) -> Result<String, GrammarError> {
        let text =
            value.as_str().ok_or_else(|| GrammarError::invalid(format!("#{}/$ref", at.path), "it is a string"))?;
        let own = self.root.get("$id").or_else(|| self.root.get("id")).and_then(Value::as_str).unwrap_or_default();
        let local = text
            .strip_prefix(own.trim_end_matches('#'))
            .filter(|rest| rest.is_empty() || rest.starts_with('#'))
            .unwrap_or(text);
        if !(local.starts_with('#') || (local.is_empty() && !text.is_empty())) {
            return Err(unsupported(at, "$ref", &format!("{text:?} points out of the schema: only #/... is followed")));
        }
        if at.rebased {
            return Err(unsupported(at, "$ref", "below an `$id` of its own is not supported"));
        }
        let fragment = percent_decoded(local.strip_prefix('#').unwrap_or_default());
        let pointer = match fragment.as_str() {
            "" => String::new(),
            pointer if pointer.starts_with('/') => pointer.to_string(),
            anchor => {
                let anchors = self.anchors.get_or_insert_with(|| anchors(self.root));
                let found = anchors.get(anchor).cloned();
                found.ok_or_else(|| {
                    GrammarError::invalid(format!("#{}/$ref", at.path), format!("no anchor {anchor:?}"))
                })?
            }
        };
        if self.resolve(&pointer).is_none() {
            return Err(GrammarError::invalid(format!("#{}/$ref", at.path), format!("{text:?}: no schema is there")));
        }
        if pointer.is_empty() {
            return Ok("#".to_string());
        }
        let next = format!("r{}", self.names.len());
        let name = self.names.entry(pointer.clone()).or_insert_with(|| {
            self.waiting.push((next.clone(), pointer));
            next
        });
        refs.to.push((name.clone(), at.depth));
        Ok(format!("#/$defs/{name}"))
    }

    fn resolve(&self, pointer: &str) -> Option<&'a Value> {
        let root: &'a Value = self.root;
        root.pointer(pointer)
    }

    /// Levels of the deepest descent that follows each reference the first time it is met, as the compiler does.
    fn farthest(&self) -> usize {
        let of: HashMap<&str, &Refs> = self.reach.iter().map(|r| (r.name.as_str(), r)).collect();
        let mut seen = HashSet::new();
        let mut farthest = 0;
        let mut stack = vec![("", 0, 0)];
        while let Some((name, base, next)) = stack.pop() {
            let Some(refs) = of.get(name) else { continue };
            farthest = farthest.max(base + refs.deepest);
            if let Some((to, depth)) = refs.to.get(next) {
                stack.push((name, base, next + 1));
                if seen.insert(to.as_str()) {
                    stack.push((to.as_str(), base + depth + 1, 0));
                }
            }
        }
        farthest
    }
}

fn unsupported(at: &At, keyword: &str, reason: &str) -> GrammarError {
    GrammarError::Unsupported {
        path: format!("#{}", at.path),
        keyword: keyword.to_string(),
        reason: reason.to_string(),
    }
}

/// Whether a keyword narrows the value where it stands.
fn applies(keyword: &str) -> bool {
    matches!(keyword, "const" | "enum" | "allOf" | "anyOf" | "oneOf" | "$ref")
}

/// Formats as patterns of ours, where llguidance's own let through what a strict validator does not: dates of RFC 3339 without leap seconds
/// and with the 29th of February in leap years only; names of hosts and mailboxes that are not too long.
fn spelled(format: &str) -> Option<String> {
    let leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29";
    let months = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])";
    let date = format!("(?:[0-9]{{4}}-(?:{months})|{leap})");
    let clock = "(?:[01][0-9]|2[0-3]):[0-5][0-9]";
    let time = format!("{clock}:[0-5][0-9](?:\\.[0-9]{{1,9}})?(?:Z|[+-]{clock})");
    let label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?";
    let atom = "[A-Za-z0-9_+-]{1,20}";
    match format {
        "hostname" => Some(format!("^{label}(?:\\.{label}){{0,4}}$")),
        "email" => Some(format!("^{atom}(?:\\.{atom}){{0,2}}@{label}(?:\\.{label}){{0,3}}\\.[A-Za-z]{{2,12}}$")),
        "date" => Some(format!("^{date}$")),
        "time" => Some(format!("^{time}$")),
        "date-time" => Some(format!("^{date}T{time}$")),
        _ => None,
    }
}

/// Keywords that happen to demand nothing.
fn harmless(map: &Map<String, Value>, keyword: &str, value: &Value) -> bool {
    let everything = |v: &Value| v == &Value::Bool(true) || v.as_object().is_some_and(Map::is_empty);
    match keyword {
        "uniqueItems" => {
            value == &Value::Bool(false) || map.get("maxItems").and_then(Value::as_u64).is_some_and(|max| max <= 1)
        }
        "if" => !map.contains_key("then") && !map.contains_key("else"),
        "then" | "else" => !map.contains_key("if") || everything(value),
        "minContains" | "maxContains" => !map.contains_key("contains"),
        "unevaluatedItems" | "unevaluatedProperties" | "propertyNames" => everything(value),
        "dependencies" | "dependentRequired" | "dependentSchemas" => value.as_object().is_some_and(Map::is_empty),
        // Notes, by the newest draft.
        "contentEncoding" | "contentMediaType" | "contentSchema" => true,
        _ => false,
    }
}

/// A pattern in Rust's words that also compiles.
fn ecma(text: &str, path: &str) -> Result<String, GrammarError> {
    let refused = |reason| regex::refusal(&format!("#{path}"), reason);
    let rust = regex::from_ecma(text).map_err(refused)?;
    let parsed = llguidance::derivre::RegexBuilder::new().mk_regex_for_serach(&llguidance::regex_to_lark(&rust, ""));
    parsed.map_err(|e| refused(regex::RegexError::Syntax(super::one_line(&e.to_string()))))?;
    Ok(rust)
}

/// A name as it stands in a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn percent_decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Anchors of a schema to pointers: `$anchor`, or before 2019 an `$id` of `#` and the name.
fn anchors(root: &Value) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut waiting = vec![(root, String::new())];
    while let Some((value, path)) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items.iter().enumerate().map(|(i, v)| (v, format!("{path}/{i}")))),
            Value::Object(map) => {
                let named = |keyword: &str| map.get(keyword).and_then(Value::as_str);
                let ids = ["$id", "id"].iter().filter_map(|k| named(k)?.strip_prefix('#'));
                for name in named("$anchor").into_iter().chain(ids) {
                    found.insert(name.to_string(), path.clone());
                }
                waiting.extend(map.iter().map(|(k, v)| (v, format!("{path}/{}", escaped(k)))));
            }
            _ => {}
        }
    }
    found
}
