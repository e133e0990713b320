//! Places in a compiled grammar that a text can come to and never leave: what must follow there matches no text.
//!
//! llguidance refuses a part of a schema that it sees to be empty; it does not see all: an integer of 1 to 2 that is a multiple of 5, a
//! string of characters that JSON writes in no way taken here, an object that must hold one like itself. The parser would walk into
//! such a part and find nothing to go on by.

use std::collections::HashSet;

use llguidance::api::ParserLimits;
use llguidance::earley::lexerspec::LexemeIdx;
use llguidance::earley::{CGrammar, CSymIdx};
use serde_json::{Map, Value, json};

use super::schema::{Screened, escaped};

/// Whether the grammar has such a place, or matches nothing at all.
pub(super) fn any(grammar: &CGrammar, limits: &ParserLimits) -> Result<bool, String> {
    let ends = Ends::of(grammar, limits)?;
    let (mut seen, mut waiting) = (HashSet::from([grammar.start()]), vec![grammar.start()]);
    if !ends.can_end(grammar.start()) {
        return Ok(true);
    }
    while let Some(symbol) = waiting.pop() {
        for &rule in grammar.rules_of(symbol) {
            for (place, &part) in grammar.rule_rhs(rule).0.iter().enumerate() {
                if seen.insert(part) {
                    waiting.push(part);
                }
                if !ends.can_end(part) {
                    // At the beginning of a rule nothing was written yet that another rule would not go on from.
                    if place > 0 {
                        return Ok(true);
                    }
                    break;
                }
            }
        }
    }
    Ok(false)
}

/// Which symbols of a grammar match any text, by their index.
struct Ends(Vec<bool>);

impl Ends {
    fn of(grammar: &CGrammar, limits: &ParserLimits) -> Result<Ends, String> {
        let spec = grammar.lexer_spec();
        let mut lexer = spec.to_regex_vec(&mut limits.clone()).map_err(|e| e.to_string())?;
        let begin = lexer.initial_state(&spec.all_lexemes());
        let lexemes = lexer.state_desc(begin).possible.clone();
        let matches = |lexeme: Option<LexemeIdx>| lexeme.is_none_or(|lexeme| lexemes.contains(lexeme));

        let symbols = symbols(grammar);
        let size = symbols.iter().map(|symbol| symbol.as_index() + 1).max().unwrap_or(0);
        let mut ends = Ends(vec![false; size]);
        // Where each symbol stands in a rule, and how many symbols of that rule are not known to match anything.
        let mut missing = Vec::new();
        let mut uses = vec![Vec::new(); size];
        let mut known = Vec::new();
        for &symbol in &symbols {
            let data = grammar.sym_data(symbol);
            let plain = data.is_terminal || data.rules.is_empty();
            if data.is_nullable || !data.cond_nullable.is_empty() || plain && matches(data.lexeme) {
                known.push(symbol);
            }
            for &rule in &data.rules {
                let parts = grammar.rule_rhs(rule).0;
                parts.iter().for_each(|part| uses[part.as_index()].push(missing.len()));
                missing.push((symbol, parts.len()));
            }
        }
        while let Some(symbol) = known.pop() {
            if std::mem::replace(&mut ends.0[symbol.as_index()], true) {
                continue;
            }
            for &rule in &uses[symbol.as_index()] {
                missing[rule].1 -= 1;
                if missing[rule].1 == 0 {
                    known.push(missing[rule].0);
                }
            }
        }
        Ok(ends)
    }

    fn can_end(&self, symbol: CSymIdx) -> bool {
        self.0[symbol.as_index()]
    }
}

/// All symbols that the start leads to.
fn symbols(grammar: &CGrammar) -> Vec<CSymIdx> {
    let (mut seen, mut found) = (HashSet::from([grammar.start()]), vec![grammar.start()]);
    let mut next = 0;
    while let Some(&symbol) = found.get(next) {
        next += 1;
        for &rule in grammar.rules_of(symbol) {
            found.extend(grammar.rule_rhs(rule).0.iter().copied().filter(|&part| seen.insert(part)));
        }
    }
    found
}

/// Most parts of a schema that are compiled to find the one to name.
const PARTS_MAX: usize = 200;
/// Name of the whole schema among the definitions of a part.
const WHOLE: &str = "whole";

/// The path of the innermost part of a screened schema for which `empty` has a reason, with that; or of the whole, with `reason`.
pub(super) fn innermost(
    screened: &Screened,
    mut reason: String,
    empty: impl Fn(Value) -> Option<String>,
) -> (String, String) {
    let schema = &screened.schema;
    let place = |name: &str| screened.places.get(name).cloned().unwrap_or_default();
    let mut definitions = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut whole = schema.clone();
    if let Some(object) = whole.as_object_mut() {
        object.remove("$defs");
    }
    definitions.insert(WHOLE.to_string(), whole.clone());
    definitions.values_mut().for_each(rooted);
    rooted(&mut whole);

    let mut left = PARTS_MAX;
    let mut seen = HashSet::new();
    let (mut at, mut path) = (&whole, String::new());
    'inward: loop {
        for (inner, part) in parts(at, &definitions, place, &path) {
            if !seen.insert(inner.clone()) || left == 0 {
                continue;
            }
            left -= 1;
            let mut alone =
                part.as_object().cloned().unwrap_or_else(|| Map::from_iter([("allOf".into(), json!([part]))]));
            alone.insert("$defs".to_string(), Value::Object(definitions.clone()));
            if let Some(why) = empty(Value::Object(alone)) {
                (at, path, reason) = (part, inner, why);
                continue 'inward;
            }
        }
        return (format!("#{path}"), reason);
    }
}

/// References to the root, as references to the definition that holds it.
fn rooted(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(rooted),
        Value::Object(map) => {
            if map.get("$ref").is_some_and(|to| to == "#") {
                map.insert("$ref".to_string(), Value::String(format!("#/$defs/{WHOLE}")));
            }
            map.values_mut().for_each(rooted);
        }
        _ => {}
    }
}

/// The schemas directly in one, each with its path. `place` has the paths of definitions.
fn parts<'a>(
    schema: &'a Value,
    definitions: &'a Map<String, Value>,
    place: impl Fn(&str) -> String,
    path: &str,
) -> Vec<(String, &'a Value)> {
    let mut found = Vec::new();
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties", Value::Object(map)) => {
                found.extend(map.iter().map(|(name, part)| (format!("{path}/{keyword}/{}", escaped(name)), part)));
            }
            ("additionalProperties" | "additionalItems" | "items", Value::Object(_)) => {
                found.push((format!("{path}/{keyword}"), value));
            }
            ("prefixItems" | "items" | "allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                found.extend(list.iter().enumerate().map(|(index, part)| (format!("{path}/{keyword}/{index}"), part)));
            }
            ("$ref", Value::String(to)) => {
                let name = to.strip_prefix("#/$defs/");
                found.extend(name.and_then(|name| Some((place(name), definitions.get(name)?))));
            }
            _ => {}
        }
    }
    found
}
