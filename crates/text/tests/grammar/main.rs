//! Constrained output: what finishes is what was asked for, judged by others; what cannot be kept is refused; nothing takes long.

mod boundaries;
mod calls;
mod hostile;
mod json_schema;
mod masks;
#[path = "../sampler/mod.rs"]
mod sampler;

use std::time::{Duration, Instant};

use farthing_text::Tokenizer;
use farthing_text::grammar::{CallBody, CallSyntax, Constraint, GrammarError, Grammars, Matcher, Tool};
use sampler::{Random, sample, text_of};
use serde_json::{Value, json};

const EOS: u32 = 1;

/// The bundled model's vocabulary of 2,048, of which 16 more ids have no token.
fn bundled() -> (Tokenizer, Grammars) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer, &[EOS], 2064).unwrap();
    (tokenizer, grammars)
}

fn strict(schema: Value) -> Constraint {
    Constraint::JsonSchema { schema, strict: true }
}

fn validates(schema: &Value, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))?;
    let validator = jsonschema::options().should_validate_formats(true).build(schema).map_err(|e| e.to_string())?;
    validator.validate(&value).map_err(|e| format!("{e}: {text}"))
}

/// Schemas made for this test: each keyword that is kept, alone and in company.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "boolean"}, "c": {"type": "null"}}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}),
        json!({"type": "array", "items": {"type": "integer", "minimum": -3, "exclusiveMaximum": 120}, "minItems": 1, "maxItems": 4}),
        json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false, "minItems": 2}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "null"}, {"const": 7}], "additionalItems": false, "minItems": 2}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "additionalItems": {"type": "boolean"}, "allOf": [{"minItems": 2}], "items": [{"type": "null"}], "type": "array"}),
        json!({"enum": ["red", "green", 3, null, {"x": [1, 2.5]}, "a\"\\\n\u{e9}\u{1f600}"]}),
        json!({"type": "integer", "minimum": -2, "maximum": 2}),
        json!({"type": "integer"}),
        json!({"type": "string", "minLength": 2, "maxLength": 5}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}(\\.[\\w-]+)?$"}),
        json!({"type": "string", "pattern": "^.\\s\\S$"}),
        json!({"type": "string", "pattern": "^[^a-z]{1,3}$"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "ipv4"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "time", "maxLength": 12, "allOf": [{"pattern": "^1"}]}),
        json!({"type": "string", "format": "duration"}),
        json!({"type": "string", "format": "email"}),
        json!({"type": "string", "format": "hostname"}),
        json!({"type": "string", "format": "ipv6"}),
        json!({"type": "string", "format": "uri"}),
        json!({"type": "number", "minimum": 0.5, "maximum": 2.25}),
        json!({"type": "integer", "minimum": 3, "maximum": 9223372036854775807u64, "multipleOf": 7}),
        json!({"type": ["string", "null"], "maxLength": 3}),
        json!({"anyOf": [{"type": "integer"}, {"type": "object", "properties": {"k": {"const": "v"}}, "required": ["k"]}]}),
        json!({"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["kind", "n"]},
            {"type": "object", "properties": {"kind": {"const": "b"}, "s": {"type": "string"}}, "required": ["kind", "s"]}]}),
        json!({"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}, "required": ["b"]}], "type": "object"}),
        json!({"type": "object", "patternProperties": {"^x_": {"type": "integer"}}, "additionalProperties": false, "minProperties": 1}),
        json!({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a~1b%20c"}]}}, "required": ["next"]}}}),
        json!({"$defs": {"n": {"$anchor": "num", "type": "integer", "minimum": 5}}, "type": "array", "items": {"$ref": "#num"}, "minItems": 1}),
        json!({"$id": "https://example.org/tree", "type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "https://example.org/tree#"}}}, "required": ["v"], "additionalProperties": false}),
        json!({"type": "object", "properties": {"$ref": {"type": "string"}, "x-guidance": {"type": "integer"}}, "required": ["$ref", "x-guidance"], "x-guidance": {"whitespace_flexible": true, "lenient": true}}),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "minProperties": 1, "additionalProperties": false}),
        json!({"type": "array", "items": {"type": "string"}, "maxItems": 1, "uniqueItems": true}),
        json!(true),
    ]
}

/// How far the tokens of a text are accepted under a schema: whole, or up to the one that is refused.
fn goes(grammars: &Grammars, tokenizer: &Tokenizer, schema: Value, text: &str) -> bool {
    let mut matcher = grammars.compile(&strict(schema)).unwrap();
    let one = |c: char| tokenizer.encode(&c.to_string(), false).unwrap()[0];
    text.chars().map(one).all(|id| matcher.accept(id).is_ok()) && matcher.may_end()
}

/// Take this text as far as the grammar goes, byte for byte.
fn follow(matcher: &mut Matcher, tokenizer: &Tokenizer, text: &str) {
    for (at, byte) in text.bytes().enumerate() {
        let id = (0..2048).find(|&id| tokenizer.bytes(id).is_some_and(|bytes| bytes == [byte])).unwrap();
        let allowed = matcher.allowed().unwrap_or_else(|e| panic!("after {}: {e}", &text[..at]));
        assert!(allowed[id as usize / 32] >> (id % 32) & 1 == 1, "{:?} after {}", byte as char, &text[..at]);
        matcher.accept(id).unwrap();
    }
}

/// Whether this text may come next.
fn may(matcher: &mut Matcher, tokenizer: &Tokenizer, text: &str) -> bool {
    let id = (0..2048).find(|&id| tokenizer.bytes(id).is_some_and(|bytes| bytes == text.as_bytes())).unwrap();
    matcher.allowed().unwrap()[id as usize / 32] >> (id % 32) & 1 == 1
}
