//! Keywords that llguidance keeps in some company only, and where they stand
//!
//! They are `oneOf` whose branches it cannot tell apart, and counts of properties beside properties that may be left out. It says so
//! without a place; here the place is found.

use llguidance::{GrammarBuilder, JsonCompileOptions};
use serde_json::{Value, json};

use super::multiples::also;
use super::schema::{DOUBTED, Doubt, Screened};
use super::{GrammarError, deep, json_grammar, limits};

/// Most keywords of a schema that are tried one by one; where there are more, all of them are named.
const TRIED_MAX: usize = 16;
/// Largest schema for which that is done, in bytes of JSON.
const TRIED_BYTES_MAX: usize = 32 << 10;

/// llguidance's words for a keyword that it does not keep.
fn said_of(keyword: &str) -> [&'static str; 2] {
    match keyword {
        // The latter where it must be kept.
        "oneOf" => ["oneOf not fully supported", "oneOf constraints are not supported"],
        _ => ["min/maxProperties only supported"; 2],
    }
}

fn is_told(keyword: &str, said: &str) -> bool {
    said_of(keyword).iter().any(|words| said.contains(words))
}

/// Whether llguidance speaks of one of these keywords.
pub(super) fn are_told(said: &str) -> bool {
    DOUBTED.iter().any(|keyword| is_told(keyword, said))
}

/// What is not kept of a schema without `strict`, a line each with its path.
pub(super) fn warnings(screened: &Screened) -> Vec<String> {
    let line = |doubt: &Doubt| match doubt.keyword {
        "oneOf" => format!("#{}: `oneOf` has branches that may both hold, and is read as anyOf", doubt.path),
        keyword => format!("#{}: `{keyword}` beside properties that are not required is not supported", doubt.path),
    };
    found(screened).into_iter().map(line).collect()
}

/// The first of them in a schema that must be kept.
pub(super) fn refused(screened: &Screened) -> Option<GrammarError> {
    let doubt = found(screened).into_iter().next()?;
    let reason = match doubt.keyword {
        "oneOf" => "has branches that may both hold: let each require a property with another `const`, or use anyOf",
        _ => "beside properties that are not required is not supported: require all of them",
    };
    Some(GrammarError::Unsupported {
        path: format!("#{}", doubt.path),
        keyword: doubt.keyword.to_string(),
        reason: reason.to_string(),
    })
}

/// The keywords that are not kept.
fn found(screened: &Screened) -> Vec<&Doubt> {
    if screened.doubts.is_empty() {
        return Vec::new();
    }
    let of =
        |keyword: &'static str| screened.doubts.iter().filter(move |doubt| is_told(doubt.keyword, said_of(keyword)[0]));
    let search = || {
        let whole = complaints(screened.schema.clone());
        let mut found = Vec::new();
        for keyword in ["oneOf", "minProperties"] {
            if !whole.iter().any(|said| is_told(keyword, said)) {
                continue;
            }
            let all: Vec<&Doubt> = of(keyword).collect();
            let few = all.len() <= TRIED_MAX && screened.bytes <= TRIED_BYTES_MAX;
            let alone = |doubt: &&&Doubt| {
                let others = all.iter().filter(|other| !std::ptr::eq(**other, **doubt));
                complaints(without(&screened.schema, others)).iter().any(|said| is_told(keyword, said))
            };
            let at_fault: Vec<&Doubt> =
                if few && all.len() > 1 { all.iter().filter(alone).copied().collect() } else { Vec::new() };
            // What only two of them do together is told of all.
            found.extend(if at_fault.is_empty() { all.clone() } else { at_fault });
        }
        found
    };
    // Where it fails the compiler itself will too.
    deep(search).unwrap_or_default()
}

/// A schema in which these keywords say less.
fn without<'a>(schema: &Value, doubts: impl Iterator<Item = &'a &'a Doubt>) -> Value {
    let mut schema = schema.clone();
    for doubt in doubts {
        let Some(map) = schema.pointer_mut(&doubt.compiled).and_then(Value::as_object_mut) else { continue };
        // Its place among the others stays, for the pointers into it.
        if let Some(branches) = map.shift_remove(doubt.keyword).filter(|_| doubt.keyword == "oneOf") {
            also(map, json!({ "anyOf": branches }));
        }
    }
    schema
}

/// What llguidance says of a schema that it is not to refuse.
fn complaints(schema: Value) -> Vec<String> {
    let grammar = json_grammar("doubted", schema, true);
    let builder = GrammarBuilder::new(None, limits());
    let built =
        JsonCompileOptions::default().json_to_llg_with_overrides(builder, grammar.json_schema.unwrap_or_default());
    built.map(|built| built.builder.get_warnings().into_iter().map(|(said, _)| said).collect()).unwrap_or_default()
}
