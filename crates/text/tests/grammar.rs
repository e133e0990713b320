//! Constrained output: what finishes is what was asked for, judged by others; what cannot be kept is refused; nothing takes long.

mod sampler;

use std::time::{Duration, Instant};

use sampler::{Random, sample, text_of};
use serde_json::{Value, json};
use text::Tokenizer;
use text::grammar::{CallBody, CallSyntax, Constraint, GrammarError, Grammars, Matcher, Tool};

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

#[test]
fn strict_outputs_validate() {
    let (tokenizer, grammars) = bundled();
    let mut finished = 0;
    for (index, schema) in schemas().into_iter().enumerate() {
        let matcher = grammars.compile(&strict(schema.clone())).unwrap_or_else(|e| panic!("{schema}: {e}"));
        let mut mine = 0;
        for seed in 0..30 {
            let mut random = Random(seed * 1000 + index as u64);
            let output = sample(&mut matcher.clone(), &tokenizer, EOS, &mut random, 300, &[]).unwrap();
            if output.finished {
                mine += 1;
                let text = text_of(&tokenizer, &output.ids);
                validates(&schema, &text).unwrap_or_else(|e| panic!("{schema}: {e}"));
                assert!(!text.contains('\n') && !text.contains("  :") && !text.starts_with(' '), "{text}");
            }
        }
        assert!(mine >= 20, "{schema}: {mine} of 30 came to an end");
        finished += mine;
    }
    assert!(finished > 800, "{finished}");
}

#[test]
fn json_objects_parse() {
    let (tokenizer, grammars) = bundled();
    for seed in 0..60 {
        let mut matcher = grammars.compile(&Constraint::JsonObject).unwrap();
        let output = sample(&mut matcher, &tokenizer, EOS, &mut Random(seed), 400, &[]).unwrap();
        if output.finished {
            let text = text_of(&tokenizer, &output.ids);
            assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
            assert!(matcher.may_end());
        }
    }
}

/// A declared name spelled with an escape would be read as that name, with a value of any type: escapes of letters are not allowed.
#[test]
fn a_name_has_one_spelling() {
    let (tokenizer, grammars) = bundled();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let mut matcher = grammars.compile(&strict(schema)).unwrap();
    for id in tokenizer.encode("{\"b", false).unwrap() {
        matcher.accept(id).unwrap();
    }
    let backslash = tokenizer.encode("\\", false).unwrap();
    matcher.accept(backslash[0]).unwrap();
    let u = tokenizer.encode("u", false).unwrap()[0];
    assert!(matches!(matcher.accept(u), Err(GrammarError::NotAllowed(id)) if id == u));
    matcher.accept(tokenizer.encode("n", false).unwrap()[0]).unwrap();
}

/// How far the tokens of a text are accepted under a schema: whole, or up to the one that is refused.
fn goes(grammars: &Grammars, tokenizer: &Tokenizer, schema: Value, text: &str) -> bool {
    let mut matcher = grammars.compile(&strict(schema)).unwrap();
    let one = |c: char| tokenizer.encode(&c.to_string(), false).unwrap()[0];
    text.chars().map(one).all(|id| matcher.accept(id).is_ok()) && matcher.may_end()
}

#[test]
fn numbers_are_ones_that_every_reader_takes() {
    let (tokenizer, grammars) = bundled();
    let goes = |schema: Value, text: &str| goes(&grammars, &tokenizer, schema, text);
    for schema in [json!({"type": "integer"}), json!({"type": "integer", "minimum": -3, "maximum": 3})] {
        assert!(goes(schema.clone(), "-2") && goes(schema.clone(), "0") && !goes(schema.clone(), "-0"), "{schema}");
    }
    for schema in [json!({"type": "number"}), json!({})] {
        assert!(goes(schema.clone(), "-1.5E+99") && !goes(schema.clone(), "1e100"), "{schema}");
        assert!(goes(schema.clone(), &"7".repeat(40)) && !goes(schema.clone(), &"7".repeat(41)), "{schema}");
    }
    assert!(goes(json!({"type": "string"}), "\"1e100\""));
}

#[test]
fn what_is_not_kept_is_named_with_its_place() {
    let (_, grammars) = bundled();
    let cases = [
        (json!({"not": {"type": "null"}}), "#", "not"),
        (json!({"properties": {"a/b": {"type": "array", "uniqueItems": true}}}), "#/properties/a~1b", "uniqueItems"),
        (json!({"type": "array", "items": {"contains": {"const": 1}}}), "#/items", "contains"),
        (json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}), "#", "if"),
        (json!({"dependentRequired": {"a": ["b"]}}), "#", "dependentRequired"),
        (json!({"dependencies": {"a": ["b"]}}), "#", "dependencies"),
        (json!({"dependentSchemas": {"a": {"required": ["b"]}}}), "#", "dependentSchemas"),
        (json!({"propertyNames": {"maxLength": 3}}), "#", "propertyNames"),
        (json!({"unevaluatedProperties": false}), "#", "unevaluatedProperties"),
        (json!({"unevaluatedItems": false}), "#", "unevaluatedItems"),
        (json!({"anyOf": [{"type": "string", "format": "idn-email"}]}), "#/anyOf/0", "format"),
        (json!({"$dynamicRef": "#node"}), "#", "$dynamicRef"),
        (json!({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}), "#/$defs/a", "not"),
        (json!({"type": "array", "uniqueItems": true, "maxItems": 2}), "#", "uniqueItems"),
        (json!({"minProperties": 3}), "#", "minProperties"),
        (json!({"minProperties": 3, "required": ["a"]}), "#", "minProperties"),
        (json!({"const": 9007199254740993u64}), "#", "const"),
        (json!({"enum": [1, {"a": [9007199254740993u64]}]}), "#", "enum"),
        (json!({"minimum": 1e300}), "#", "minimum"),
        (json!({"$ref": "https://example.org/other.json"}), "#", "$ref"),
        (json!({"$ref": "other.json#/a"}), "#", "$ref"),
        (
            json!({"properties": {"p": {"$id": "other", "items": {"$ref": "#/x"}}}, "x": {}}),
            "#/properties/p/items",
            "$ref",
        ),
        (json!({"prefixItems": [{}], "additionalItems": false}), "#", "prefixItems"),
        (json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]}), "#", "oneOf"),
    ];
    for (schema, path, keyword) in cases {
        match grammars.compile(&strict(schema.clone())).map(|_| ()) {
            Err(GrammarError::Unsupported { path: p, keyword: k, .. }) => {
                assert_eq!((p.as_str(), k.as_str()), (path, keyword), "{schema}")
            }
            other => panic!("{schema}: {other:?}"),
        }
    }
    // Without `strict` it goes, and the rest stays.
    let few = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
        "additionalProperties": false, "minProperties": 2});
    let kept = grammars.compile(&Constraint::JsonSchema { schema: few, strict: false }).unwrap();
    assert!(kept.warnings()[0].starts_with("#: `minProperties`"), "{:?}", kept.warnings());
    // What is no longer used is not looked at; what demands nothing is let be.
    for fine in [
        json!({"$defs": {"a": {"not": {}}}, "type": "null"}),
        json!({"type": "array", "uniqueItems": false, "unevaluatedItems": true, "if": {"type": "array"}}),
    ] {
        assert!(grammars.compile(&strict(fine)).unwrap().warnings().is_empty());
    }
}

#[test]
fn invalid_schemas_are_refused() {
    let (_, grammars) = bundled();
    for schema in [
        json!(3),
        json!({"type": "any"}),
        json!({"properties": []}),
        json!({"properties": {"a": 3}}),
        json!({"$ref": "#/nowhere"}),
        json!({"$ref": "#nowhere"}),
        json!({"$ref": 3}),
        json!({"enum": []}),
        json!({"required": true}),
        json!({"pattern": "(?=a)b", "type": "string"}),
        json!({"pattern": "(a", "type": "string"}),
        json!({"minLength": 4, "maxLength": 3, "type": "string"}),
        json!({"type": "string", "minLength": -1}),
        json!({"minimum": "3"}),
        json!(false),
        json!({"type": "integer", "minimum": 5, "maximum": 4}),
        json!({"type": "string", "pattern": "^a$", "minLength": 2}),
    ] {
        match grammars.compile(&strict(schema.clone())).map(|_| ()) {
            Err(GrammarError::Invalid { .. } | GrammarError::Unsatisfiable { .. }) => {}
            other => panic!("{schema}: {other:?}"),
        }
    }
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

#[test]
fn a_long_number_can_always_end() {
    let (tokenizer, grammars) = bundled();
    let after = |schema: Value, text: &str| {
        let schema =
            json!({"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": false});
        let mut matcher = grammars.compile(&strict(schema)).unwrap();
        follow(&mut matcher, &tokenizer, &format!("{{\"a\":{text}"));
        matcher
    };
    // A point needs a digit after it, for which there is no room.
    let mut full = after(json!({"type": "number"}), &"1".repeat(40));
    assert!(may(&mut full, &tokenizer, "}") && !may(&mut full, &tokenizer, ".") && !may(&mut full, &tokenizer, "1"));
    // Zeros only are not above zero: one more digit, which makes it so.
    let mut zeros = after(json!({"type": "number", "exclusiveMinimum": 0}), &format!("0.{}", "0".repeat(39)));
    assert!(may(&mut zeros, &tokenizer, "7") && !may(&mut zeros, &tokenizer, "0") && !may(&mut zeros, &tokenizer, "}"));
    follow(&mut zeros, &tokenizer, "7");
    assert!(may(&mut zeros, &tokenizer, "}") && !may(&mut zeros, &tokenizer, "7"));
    // Three more digits at most, where there is room for them, and no way to go on after those.
    for (kind, divisor, text) in [
        ("integer", 97, "80071992547401"),
        ("number", 97, "80071992547401"),
        ("integer", 997, &"8007199254740".repeat(3)),
        ("integer", 1000, &format!("{}1", "0123456789".repeat(4).trim_start_matches('0'))),
    ] {
        let mut multiple = after(json!({"type": kind, "multipleOf": divisor}), text);
        let next = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "}"];
        let mut steps = (0..5).filter(|_| {
            let next = next.into_iter().find(|next| may(&mut multiple, &tokenizer, next)).unwrap();
            follow(&mut multiple, &tokenizer, next);
            next == "}"
        });
        assert!(steps.next().is_some(), "{kind} {divisor}");
    }
    let mut small = after(json!({"const": 1e-45}), &format!("0.{}", "0".repeat(44)));
    follow(&mut small, &tokenizer, "1}");
    assert!(small.may_end());
}

#[test]
fn a_part_that_has_no_value_is_refused_by_its_path() {
    let (tokenizer, grammars) = bundled();
    let object =
        |part: Value, required: &[&str]| json!({"type": "object", "properties": {"a": part}, "required": required});
    // JSON could say this character only by its number, which is not taken.
    let never = json!({"const": "\u{1}"});
    for (schema, path) in [
        (object(never.clone(), &["a"]), "#/properties/a"),
        (object(never.clone(), &[]), "#/properties/a"),
        (object(json!({"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5}), &["a"]), "#/properties/a"),
        (object(json!({"type": "string", "pattern": "^\\x01$"}), &[]), "#/properties/a"),
        (json!({"type": "array", "items": never}), "#/items"),
        (json!({"type": "array", "prefixItems": [{"type": "null"}, never], "minItems": 2}), "#/prefixItems/1"),
        (json!({"type": "object", "additionalProperties": never}), "#/additionalProperties"),
        (
            json!({"type": "object", "patternProperties": {"^x": never}, "additionalProperties": false}),
            "#/patternProperties/^x",
        ),
        (
            object(json!({"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/n"}}), &[])
                .as_object()
                .map(|o| {
                    let mut o = o.clone();
                    o.insert("$defs".into(), json!({"n": never}));
                    Value::Object(o)
                })
                .unwrap(),
            "#/$defs/n",
        ),
        (
            object(json!({"anyOf": [{"type": "null"}, {"type": "array", "minItems": 1, "items": never}]}), &["a"]),
            "#/properties/a/anyOf/1/items",
        ),
        // Each has one inside it, without end.
        (object(json!({"$ref": "#"}), &["a"]), "#"),
        (
            json!({"$defs": {"n": object(json!({"$ref": "#/$defs/n"}), &["a"])}, "type": "array", "items": {"$ref": "#/$defs/n"}}),
            "#/$defs/n/properties/a",
        ),
    ] {
        for strict in [true, false] {
            match grammars.compile(&Constraint::JsonSchema { schema: schema.clone(), strict }).map(|_| ()) {
                Err(GrammarError::Unsatisfiable { path: found, .. }) => assert_eq!(found, path, "{schema}"),
                other => panic!("{schema}: {other:?}"),
            }
        }
    }
    // What has an end is taken.
    for fine in [
        object(json!({"$ref": "#"}), &[]),
        object(json!(false), &[]),
        object(json!({"type": "number", "minimum": 1, "maximum": 2, "multipleOf": 5}), &[]),
        object(json!({"anyOf": [{"$ref": "#"}, {"type": "null"}]}), &["a"]),
        object(json!({"anyOf": [never, {"type": "null"}]}), &["a"]),
        object(json!({"type": "array", "items": {"$ref": "#"}}), &["a"]),
        object(json!({"enum": ["\u{1}", "b"]}), &["a"]),
    ] {
        let mut matcher = grammars.compile(&strict(fine.clone())).unwrap_or_else(|e| panic!("{fine}: {e}"));
        sample(&mut matcher, &tokenizer, EOS, &mut Random(1), 300, &[]).unwrap_or_else(|e| panic!("{fine}: {e}"));
    }
}

#[test]
fn lenient_keeps_what_it_can_and_lists_the_rest() {
    let (tokenizer, grammars) = bundled();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 3}, "maxlenght": 3}, "b": {"type": "string", "format": "phone"}},
        "required": ["a", "b"], "additionalProperties": false});
    let matcher = grammars.compile(&Constraint::JsonSchema { schema: schema.clone(), strict: false }).unwrap();
    let warnings = matcher.warnings().join("\n");
    assert_eq!(matcher.warnings().len(), 3, "{warnings}");
    for part in ["#/properties/a: `not`", "#/properties/a: `maxlenght` is no keyword", "#/properties/b: `format`"] {
        assert!(warnings.contains(part), "{warnings}");
    }
    let mut kept = schema;
    kept["properties"]["a"].as_object_mut().unwrap().shift_remove("not");
    let output = sample(&mut matcher.clone(), &tokenizer, EOS, &mut Random(5), 200, &[]).unwrap();
    assert!(output.finished);
    validates(&kept, &text_of(&tokenizer, &output.ids)).unwrap();
    let loose =
        Constraint::JsonSchema { schema: json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]}), strict: false };
    let told = grammars.compile(&loose).unwrap().warnings().to_vec();
    assert_eq!(told, ["#: `oneOf` has branches that may both hold, and is read as anyOf"]);
}

/// Divisors and bounds are brought together exactly: what has a value is written, what would need too much is refused before.
#[test]
fn multiples_between_bounds_are_found_or_refused_before() {
    let (tokenizer, grammars) = bundled();
    for (schema, value) in [
        (json!({"type": "number", "multipleOf": 0.1, "minimum": 0.05, "maximum": 0.15}), "0.1"),
        (json!({"type": "number", "allOf": [{"multipleOf": 0.1}, {"minimum": 0.05, "exclusiveMaximum": 0.15}]}), "0.1"),
        (json!({"type": "number", "multipleOf": 0.1, "exclusiveMinimum": 0.1, "maximum": 25.55}), "25.5"),
        (json!({"type": "integer", "multipleOf": 9797, "minimum": 0, "maximum": 1_000_000}), "9797"),
        (
            json!({"allOf": [{"type": "integer", "multipleOf": 97}, {"multipleOf": 101}], "minimum": 1, "maximum": 100_000}),
            "19594",
        ),
        (json!({"type": "integer", "allOf": [{"multipleOf": 7}, {"multipleOf": 11}]}), "154"),
        (json!({"type": "integer", "multipleOf": 997, "minimum": 0, "maximum": 9_007_199_254_740_991_i64}), "1994"),
    ] {
        assert!(goes(&grammars, &tokenizer, schema.clone(), value), "{schema}");
        let matcher = grammars.compile(&strict(schema.clone())).unwrap();
        for seed in 0..10 {
            let output = sample(&mut matcher.clone(), &tokenizer, EOS, &mut Random(seed), 60, &[]);
            let output = output.unwrap_or_else(|e| panic!("{e}: {schema}"));
            assert!(output.finished);
            validates(&schema, &text_of(&tokenizer, &output.ids)).unwrap();
        }
    }
    for schema in [
        json!({"type": "integer", "multipleOf": 9797}),
        json!({"type": "integer", "multipleOf": 9797, "minimum": 0, "maximum": 1_000_000_000_000_000_i64}),
        json!({"allOf": [{"multipleOf": 97}, {"multipleOf": 101}]}),
        json!({"$ref": "#/$defs/a", "multipleOf": 101, "$defs": {"a": {"multipleOf": 97}}}),
    ] {
        let refused = grammars.compile(&strict(schema.clone())).map(|_| ()).unwrap_err();
        assert!(matches!(&refused, GrammarError::Unsupported { keyword, .. } if keyword == "multipleOf"), "{refused}");
        let loose = grammars.compile(&Constraint::JsonSchema { schema, strict: false }).unwrap();
        assert!(loose.warnings()[0].starts_with("#: `multipleOf` "), "{:?}", loose.warnings());
    }
}

/// Keywords that are kept in some company only: where they are not, their place is told.
#[test]
fn keywords_that_are_kept_in_some_company_have_their_place() {
    let (_, grammars) = bundled();
    let told = |schema: &Value| -> Vec<String> {
        let loose = Constraint::JsonSchema { schema: schema.clone(), strict: false };
        let told = grammars.compile(&loose).unwrap_or_else(|e| panic!("{e}: {schema}")).warnings().to_vec();
        let strictly = grammars.compile(&strict(schema.clone())).map(|_| ());
        match (told.first(), &strictly) {
            (None, Ok(())) => {}
            (Some(line), Err(GrammarError::Unsupported { path, keyword, .. })) => {
                assert!(line.starts_with(&format!("{path}: `{keyword}`")), "{line} {strictly:?}")
            }
            other => panic!("{other:?}: {schema}"),
        }
        told.iter().map(|line| line.split_once("` ").unwrap().0.replace('`', "")).collect()
    };
    let (vague, clear) = (
        json!({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]}),
        json!({"oneOf": [{"type": "integer"}, {"type": "string"}]}),
    );
    let some = |counts: Value| {
        let mut object = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]});
        object.as_object_mut().unwrap().extend(counts.as_object().unwrap().clone());
        object
    };
    let in_all = |parts: Vec<(&str, Value)>| {
        let parts: serde_json::Map<String, Value> = parts.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        json!({"type": "object", "properties": parts})
    };
    for (schema, places) in [
        (in_all(vec![("x", clear.clone()), ("y", vague.clone())]), vec!["#/properties/y: oneOf"]),
        (
            in_all(vec![("x", vague.clone()), ("y", vague.clone())]),
            vec!["#/properties/x: oneOf", "#/properties/y: oneOf"],
        ),
        (json!({"type": "array", "items": {"anyOf": [{"type": "null"}, vague]}}), vec!["#/items/anyOf/1: oneOf"]),
        (json!({"$ref": "#/definitions/v", "definitions": {"v": vague}}), vec!["#/definitions/v: oneOf"]),
        (
            json!({"oneOf": [{"type": "null"}, {"type": "object", "patternProperties": {"^\\d/": vague}}]}),
            vec!["#/oneOf/1/patternProperties/^\\d~1: oneOf"],
        ),
        (some(json!({"maxProperties": 2})), vec!["#: maxProperties"]),
        (some(json!({"minProperties": 2})), vec!["#: minProperties"]),
        (
            in_all(vec![("x", some(json!({"minProperties": 1}))), ("y", some(json!({"maxProperties": 3})))]),
            vec!["#/properties/y: maxProperties"],
        ),
        (some(json!({"minProperties": 2, "maxProperties": 2, "additionalProperties": false})), vec![]),
        (in_all(vec![("x", clear)]), vec![]),
    ] {
        assert_eq!(told(&schema), places, "{schema}");
    }
}

/// Fifty tokens of whatever comes, each mask in bounded time.
fn wander(matcher: &mut Matcher, tokenizer: &Tokenizer, what: &str) {
    let begin = Instant::now();
    let outcome = sample(matcher, tokenizer, EOS, &mut Random(1), 50, &[]);
    assert!(begin.elapsed() < Duration::from_secs(10), "{what}: {:?}", begin.elapsed());
    if let Err(error) = outcome {
        assert!(matches!(error, GrammarError::TooComplex(_) | GrammarError::DeadEnd), "{what}: {error}");
    }
}

fn nested(levels: usize, outer: impl Fn(Value) -> Value) -> Value {
    (0..levels).fold(json!({"type": "null"}), |inner, _| outer(inner))
}

fn chain(length: usize) -> Value {
    let mut defs = serde_json::Map::new();
    for index in 0..length {
        defs.insert(
            format!("d{index}"),
            json!({"type": "object", "properties": {"x": {"$ref": format!("#/$defs/d{}", index + 1)}}}),
        );
    }
    defs.insert(format!("d{length}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

fn many_properties(count: usize, required: bool) -> Value {
    let properties: serde_json::Map<String, Value> =
        (0..count).map(|i| (format!("property_{i}"), json!({"type": "string"}))).collect();
    let names: Vec<&String> = if required { properties.keys().collect() } else { Vec::new() };
    json!({"type": "object", "required": names, "properties": properties})
}

#[test]
fn nasty_schemas_take_bounded_time() {
    let (tokenizer, grammars) = bundled();
    let branches: Vec<Value> =
        (0..10).map(|i| json!({"type": "object", "properties": {format!("p{i}"): {"type": "integer"}}})).collect();
    let cross: Vec<Value> = (0..8).map(|_| json!({"anyOf": branches})).collect();
    let patterns: serde_json::Map<String, Value> =
        (0..60).map(|i| (format!("^(a|b)*c{{{i},}}x{i}$"), json!({}))).collect();
    let cases: Vec<(&str, Value)> = vec![
        ("deep", nested(31, |inner| json!({"items": inner}))),
        ("too deep", nested(500, |inner| json!({"items": inner}))),
        ("deep anyOf", nested(15, |inner| json!({"anyOf": [inner, {"type": "array", "items": inner}]}))),
        ("reference to itself", json!({"$ref": "#"})),
        (
            "references in a circle",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        (
            "circle with company",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "$ref": "#/$defs/b"}, "b": {"maxProperties": 3, "$ref": "#/$defs/a"}}}),
        ),
        ("no finite value", json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})),
        (
            "intersected recursion",
            json!({"allOf": [{"$ref": "#/$defs/t1"}, {"$ref": "#/$defs/t2"}], "$defs": {
            "t1": {"type": "object", "properties": {"c": {"$ref": "#/$defs/t1"}}}, "t2": {"type": "object", "properties": {"c": {"$ref": "#/$defs/t2"}}}}}),
        ),
        ("chain of references", chain(250)),
        ("too long a chain", chain(600)),
        ("500 properties", many_properties(500, false)),
        ("500 required properties", many_properties(500, true)),
        ("10,000 properties", many_properties(10_000, false)),
        ("2,000 values", json!({"enum": (0..2_000).map(|i| format!("value {i} of many")).collect::<Vec<_>>()})),
        ("20,000 values", json!({"enum": (0..20_000).collect::<Vec<_>>()})),
        ("product of alternatives", json!({"allOf": cross})),
        ("patterns of names", json!({"patternProperties": patterns})),
        ("long strings", json!({"type": "string", "minLength": 9_000, "maxLength": 20_000})),
        ("length without end", json!({"type": "string", "minLength": 4_000_000_000u64})),
        ("longest string", json!({"type": "string", "maxLength": 4_000_000_000u64})),
        ("huge array", json!({"type": "array", "items": {"type": "integer"}, "minItems": 10_000, "maxItems": 20_000})),
        (
            "nested arrays",
            nested(8, |inner| json!({"type": "array", "items": inner, "minItems": 900, "maxItems": 1000})),
        ),
        ("repetition of repetition", json!({"type": "string", "pattern": "^(a{1,1000}){1,1000}$"})),
        ("long repetition", json!({"type": "string", "pattern": "^((a|b)*a(a|b){1000}){0,10}$"})),
        ("exponential automaton", json!({"type": "string", "pattern": "(a|b|cc)*a(a|b|c){16}d"})),
        (
            "unicode repetition",
            json!({"type": "string", "pattern": "^(\\p{L}\\p{N}?){1,500}$", "minLength": 3, "maxLength": 700}),
        ),
        (
            "multiple of a prime",
            json!({"type": "integer", "multipleOf": 999_983, "minimum": 5, "maximum": 9007199254740991u64}),
        ),
        ("multiple of little", json!({"type": "number", "multipleOf": 1e-9, "minimum": 0.1, "maximum": 1e15})),
    ];
    for (what, schema) in cases {
        let begin = Instant::now();
        let outcome = grammars.compile(&strict(schema));
        let took = begin.elapsed();
        println!("{what}: {took:?}, {}", outcome.as_ref().map_or_else(|e| e.to_string(), |_| "compiled".to_string()));
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        match outcome {
            Ok(mut matcher) => wander(&mut matcher, &tokenizer, what),
            Err(GrammarError::Fault(why)) => panic!("{what}: {why}"),
            Err(error) => assert!(error.to_string().len() < 500 && !error.to_string().contains('\n'), "{error}"),
        }
    }
}

#[test]
fn nasty_expressions_take_bounded_time() {
    let (tokenizer, grammars) = bundled();
    let long = "a|".repeat(4_000);
    let parens = format!("{}a{}", "(".repeat(2_000), ")".repeat(2_000));
    let cases = [
        "(a{1,1000}){1,1000}",
        "((((a{1,20}){1,20}){1,20}){1,20})",
        "(a|b)*a(a|b){18}c",
        "(.*)*(.*)*x",
        "[",
        "a{2,1}",
        "(?=a)b",
        "\\1(a)",
        "a**",
        "",
        "\\p{Foo}",
        &long,
        &parens,
        "(?i)(straße|ſ){1,900}",
        "(?s:.{0,20000})",
        "(x+x+)+y",
        "a{99999999999999999999}",
    ];
    for regex in cases {
        for wanted in [Constraint::Regex(regex.to_string()), Constraint::Lark(format!("start: X\nX: /{regex}/"))] {
            let begin = Instant::now();
            let outcome = grammars.compile(&wanted);
            assert!(begin.elapsed() < Duration::from_secs(10), "{regex:.40}: {:?}", begin.elapsed());
            match outcome {
                Ok(mut matcher) => wander(&mut matcher, &tokenizer, regex),
                Err(GrammarError::Fault(why)) => panic!("{regex:.40}: {why}"),
                Err(_) => {}
            }
        }
    }
    let deep = format!("start: {}\"a\"{}", "(".repeat(5_000), ")".repeat(5_000));
    for lark in [
        "",
        "start: start",
        "start: a\na: b\nb: a",
        "start: start start | \"\"",
        "nothing",
        "start: %json {}",
        "start: <[5000]>",
        &deep,
        "start: \"a\"{1,100000}",
        "start: a{9999}\na: b{9999}\nb: \"x\"?",
        "start: X\nX: Y\nY: X",
        "start: <none>",
        "%import common.FOO\nstart: FOO",
    ] {
        let begin = Instant::now();
        let outcome = grammars.compile(&Constraint::Lark(lark.to_string()));
        assert!(begin.elapsed() < Duration::from_secs(10), "{lark:.40}: {:?}", begin.elapsed());
        match outcome {
            Ok(mut matcher) => wander(&mut matcher, &tokenizer, lark),
            Err(GrammarError::Fault(why)) => panic!("{lark:.40}: {why}"),
            Err(_) => {}
        }
    }
}

#[test]
fn expressions_choices_and_grammars_are_kept() {
    let (tokenizer, grammars) = bundled();
    let run = |wanted: &Constraint, seed| {
        let mut matcher = grammars.compile(wanted).unwrap();
        let output = sample(&mut matcher, &tokenizer, EOS, &mut Random(seed), 300, &[]).unwrap();
        assert!(output.finished);
        text_of(&tokenizer, &output.ids)
    };
    let choices: Vec<String> =
        ["yes", "yes, but", "no", "a \"quoted\"\nline\\", "\u{4e2d}\u{6587}"].map(String::from).into();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..80 {
        let text = run(&Constraint::Choice(choices.clone()), seed);
        assert!(choices.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), choices.len());
    for seed in 0..30 {
        let text = run(&Constraint::Regex(r"[a-f]{2,4}/\d+(\.\d)?".to_string()), seed);
        let (word, number) = text.split_once('/').unwrap();
        assert!((2..=4).contains(&word.len()) && word.bytes().all(|b| (b'a'..=b'f').contains(&b)), "{text}");
        assert!(number.parse::<f64>().is_ok(), "{text}");
        let sum = run(&Constraint::Lark("start: N (\"+\" N)*\nN: /[0-9]{1,3}/".to_string()), seed);
        assert!(sum.split('+').all(|n| n.len() <= 3 && n.parse::<u32>().is_ok()), "{sum}");
    }
    let marked = Constraint::Lark("start: \"a\" <think> \"b\"".to_string());
    assert_eq!(run(&marked, 1), "a<think>b");
    assert!(grammars.compile(&Constraint::Lark("start: <[2060]>".to_string())).is_err());
    for none in [vec![], vec![String::new()], vec!["a".repeat(70_000)], vec!["a".to_string(); 3_000]] {
        assert!(grammars.compile(&Constraint::Choice(none)).is_err());
    }
}

#[test]
fn masks_hold_no_foreign_id_and_end_only_at_the_end() {
    let (tokenizer, grammars) = bundled();
    let mut matcher = grammars.compile(&Constraint::Choice(vec!["ab".to_string()])).unwrap();
    let set = |bits: &[u32]| -> Vec<u32> {
        (0..bits.len() as u32 * 32).filter(|&id| bits[id as usize / 32] >> (id % 32) & 1 == 1).collect()
    };
    let first = set(matcher.allowed().unwrap());
    assert_eq!(matcher.allowed().unwrap().len(), 2064usize.div_ceil(32));
    assert!(
        !first.is_empty()
            && first.iter().all(|&id| b"ab".starts_with(&tokenizer.bytes(id).unwrap()) && !tokenizer.is_special(id)),
        "{first:?}"
    );
    // Refused tokens leave it where it was.
    for id in [EOS, 0, 7, 2047, 2050, 2063, 2064, u32::MAX] {
        assert!(matches!(matcher.accept(id), Err(GrammarError::NotAllowed(_))), "{id}");
    }
    assert!(!matcher.is_done() && !matcher.may_end());
    for id in tokenizer.encode("ab", false).unwrap() {
        matcher.accept(id).unwrap();
    }
    assert!(matcher.may_end() && matcher.is_done());
    assert_eq!(set(matcher.allowed().unwrap()), [EOS]);
    // Everything text may be is in a free mask: each byte, and nothing without a token.
    let mut free = grammars.compile(&Constraint::Regex("(?s:.*)".to_string())).unwrap();
    let all = set(free.allowed().unwrap());
    assert!(
        all.len() > 1_800 && all.contains(&EOS) && all.iter().all(|&id| id == EOS || !tokenizer.is_special(id)),
        "{}",
        all.len()
    );
    assert!(all.iter().all(|&id| id < 2048));
}

/// SentencePiece vocabularies have two ids for one text, a piece and a byte: both may come.
#[test]
fn two_ids_of_one_text_are_both_allowed() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stories260K.tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer, &[2], 512).unwrap();
    let mut matcher = grammars.compile(&Constraint::Choice(vec!["e".to_string()])).unwrap();
    let bits = matcher.allowed().unwrap().to_vec();
    let found: Vec<u32> = (0..512).filter(|&id| bits[id as usize / 32] >> (id % 32) & 1 == 1).collect();
    let same: Vec<u32> =
        (0..512).filter(|&id| !tokenizer.is_special(id) && tokenizer.bytes(id).is_some_and(|b| b == b"e")).collect();
    assert_eq!(same.len(), 2);
    assert_eq!(found, same);
    for id in same {
        let mut one = matcher.clone();
        one.accept(id).unwrap();
        assert!(one.is_done());
    }
}

#[test]
fn vocabularies_that_contradict_are_refused() {
    let (tokenizer, _) = bundled();
    assert!(Grammars::new(&tokenizer, &[], 2048).is_err());
    assert!(Grammars::new(&tokenizer, &[2048], 2048).is_err());
}

#[test]
fn reasoning_is_free_until_its_marker() {
    let (tokenizer, grammars) = bundled();
    let wanted = strict(
        json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}),
    );
    for marker in ["</think>", "[/THINK]"] {
        let wish = tokenizer.encode(marker, false).unwrap();
        assert_eq!(wish.len() == 1, marker == "</think>");
        let mut finished = 0;
        for seed in 0..40 {
            let mut matcher = grammars.compile_after(Some(marker), &wanted).unwrap();
            assert!(!matcher.may_end());
            let output = sample(&mut matcher, &tokenizer, EOS, &mut Random(seed), 200, &wish).unwrap();
            if output.finished {
                finished += 1;
                let text = text_of(&tokenizer, &output.ids);
                let (_, answer) = text.split_once(marker).unwrap_or_else(|| panic!("{text}"));
                let value: Value = serde_json::from_str(answer).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(value["n"].is_i64() || value["n"].is_u64() || value["n"].is_number(), "{text}");
            }
        }
        assert!(finished > 10, "{marker}: {finished}");
    }
}

fn syntaxes() -> Vec<(&'static str, CallSyntax)> {
    let s = |text: &str| text.to_string();
    let object = |arguments: &str| CallBody::Object { name: s("name"), arguments: s(arguments) };
    vec![
        (
            "v3",
            CallSyntax {
                begin: s("<｜tool▁calls▁begin｜>"),
                before_call: s("<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
                body: CallBody::NameThenArguments(s("\n```json\n")),
                after_call: s("\n```<｜tool▁call▁end｜>"),
                between: s("\n"),
                end: s("<｜tool▁calls▁end｜>"),
            },
        ),
        (
            "v3.1 without markers",
            CallSyntax {
                begin: s("[CALLS]"),
                before_call: s("[CALL]"),
                body: CallBody::NameThenArguments(s("[SEP]")),
                after_call: s("[/CALL]"),
                between: s(""),
                end: s("[/CALLS]"),
            },
        ),
        (
            "hermes",
            CallSyntax {
                begin: s(""),
                before_call: s("<tool_call>\n"),
                body: object("arguments"),
                after_call: s("\n</tool_call>"),
                between: s("\n"),
                end: s(""),
            },
        ),
        (
            "llama 3",
            CallSyntax {
                begin: s(""),
                before_call: s(""),
                body: object("parameters"),
                after_call: s(""),
                between: s(""),
                end: s(""),
            },
        ),
    ]
}

fn tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 7}}, "required": ["city"], "additionalProperties": false});
    let tool = |name: &str, parameters: Value| Tool { name: name.to_string(), parameters, strict: true };
    vec![
        tool("get", weather),
        tool(
            "get_time",
            json!({"type": "object", "properties": {"zone": {"enum": ["utc", "cet"]}}, "required": ["zone"]}),
        ),
        tool("ping", Value::Null),
    ]
}

/// Read calls by a reader that shares nothing with the grammar: the text before, and each call's name and arguments.
fn read(syntax: &CallSyntax, text: &str) -> (String, Vec<(String, Value)>) {
    let opening = format!("{}{}", syntax.begin, syntax.before_call);
    let bare = opening.is_empty();
    let at = if bare {
        text.starts_with("{\"name\"").then_some(0).or(text.starts_with("{ \"name\"").then_some(0))
    } else {
        text.find(opening.trim_end())
    };
    let Some(at) = at else { return (text.to_string(), Vec::new()) };
    let mut rest = text[at..].strip_prefix(syntax.begin.as_str()).unwrap();
    let mut calls = Vec::new();
    loop {
        rest = rest.strip_prefix(syntax.before_call.as_str()).unwrap_or_else(|| panic!("{text}"));
        let (name, arguments, used) = match &syntax.body {
            CallBody::NameThenArguments(piece) => {
                let (name, json) = rest.split_once(piece.as_str()).unwrap_or_else(|| panic!("{text}"));
                let mut stream = serde_json::Deserializer::from_str(json).into_iter::<Value>();
                let value = stream.next().unwrap().unwrap_or_else(|e| panic!("{e}: {text}"));
                (name.to_string(), value, name.len() + piece.len() + stream.byte_offset())
            }
            CallBody::Object { name, arguments } => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
                let value = stream.next().unwrap().unwrap_or_else(|e| panic!("{e}: {text}"));
                assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
                (value[name].as_str().unwrap().to_string(), value[arguments].clone(), stream.byte_offset())
            }
        };
        calls.push((name, arguments));
        rest = rest[used..].strip_prefix(syntax.after_call.as_str()).unwrap_or_else(|| panic!("{text}"));
        let more = format!("{}{}", syntax.between, syntax.before_call);
        if more.is_empty() || !rest.starts_with(&more) {
            break;
        }
        rest = &rest[syntax.between.len()..];
    }
    assert_eq!(rest, syntax.end, "{text}");
    (text[..at].to_string(), calls)
}

#[test]
fn calls_parse_and_validate_in_every_syntax() {
    let (tokenizer, grammars) = bundled();
    let modes = [(false, false, None), (true, false, None), (true, true, None), (false, false, Some("get"))];
    for (family, syntax) in syntaxes() {
        let wish = tokenizer.encode(format!("{}{}", syntax.begin, syntax.before_call).trim_end(), false).unwrap();
        let wish = if wish.is_empty() { tokenizer.encode("{\"name\"", false).unwrap() } else { wish };
        for (required, one_only, named) in modes {
            let wanted = Constraint::Calls {
                tools: tools(),
                required,
                one_only,
                named: named.map(String::from),
                syntax: syntax.clone(),
            };
            let matcher = grammars.compile(&wanted).unwrap_or_else(|e| panic!("{family}: {e}"));
            let (mut finished, mut called, mut silent, mut several, mut names) =
                (0, 0, 0, 0, std::collections::BTreeSet::new());
            for seed in 0..60 {
                let output = sample(&mut matcher.clone(), &tokenizer, EOS, &mut Random(seed), 500, &wish).unwrap();
                if !output.finished {
                    continue;
                }
                finished += 1;
                let text = text_of(&tokenizer, &output.ids);
                let (before, calls) = read(&syntax, &text);
                let must = required || named.is_some();
                assert!(!must || (before.is_empty() && !calls.is_empty()), "{family}: {text}");
                assert!(!one_only || calls.len() == 1, "{family}: {text}");
                called += usize::from(!calls.is_empty());
                silent += usize::from(calls.is_empty());
                several += usize::from(calls.len() > 1);
                for (name, arguments) in calls {
                    let tool =
                        tools().into_iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{family}: {text}"));
                    assert!(named.is_none_or(|n| n == name), "{family}: {text}");
                    assert!(arguments.is_object(), "{text}");
                    let schema = if tool.parameters.is_null() { json!({}) } else { tool.parameters };
                    validates(&schema, &arguments.to_string()).unwrap();
                    names.insert(name);
                }
            }
            println!(
                "{family} {required} {one_only} {named:?}: {finished} finished, {called} called, {silent} did not, {several} several, {names:?}"
            );
            assert!(finished >= 20 && called >= 5, "{family}: {finished} finished, {called} called");
            assert!(required || named.is_some() || silent > 0, "{family}");
            assert!(one_only || family == "llama 3" || !required || several > 0, "{family}");
            assert!(named.is_some() || !required || names.len() == 3, "{family} {names:?}");
        }
    }
}

#[test]
fn calls_that_cannot_be_are_refused() {
    let (_, grammars) = bundled();
    let syntax = syntaxes().remove(0).1;
    let with = |tools: Vec<Tool>, named: Option<&str>| {
        grammars.compile(&Constraint::Calls {
            tools,
            required: true,
            one_only: false,
            named: named.map(String::from),
            syntax: syntax.clone(),
        })
    };
    let tool = |name: &str, parameters: Value, strict| Tool { name: name.to_string(), parameters, strict };
    assert!(matches!(with(vec![], None), Err(GrammarError::Invalid { .. })));
    assert!(matches!(with(tools(), Some("absent")), Err(GrammarError::Invalid { .. })));
    assert!(matches!(with(vec![tool("a b", Value::Null, true)], None), Err(GrammarError::Invalid { .. })));
    assert!(matches!(
        with(vec![tool("a", Value::Null, true), tool("a", Value::Null, true)], None),
        Err(GrammarError::Invalid { .. })
    ));
    let unkept = json!({"type": "object", "properties": {"a": {"not": {}}}});
    match with(vec![tool("f", unkept.clone(), true)], None).map(|_| ()) {
        Err(GrammarError::Tool { name, error }) => {
            let GrammarError::Unsupported { path, keyword, .. } = *error else { panic!("{error:?}") };
            assert_eq!((name.as_str(), path.as_str(), keyword.as_str()), ("f", "#/properties/a", "not"))
        }
        other => panic!("{other:?}"),
    }
    // Also where only the compiler sees it.
    let may = json!({"type": "object", "properties": {"a": {"oneOf": [{"type": "integer"}, {"minimum": 3}]}}});
    let both = || vec![tool("f", json!({"type": "object"}), true), tool("g", may.clone(), true)];
    let told = with(both(), None).map(|_| ()).unwrap_err().to_string();
    assert!(told.starts_with("tool g: #/properties/a: `oneOf` has branches that may both hold"), "{told}");
    let calls =
        Constraint::Calls { tools: both(), required: true, one_only: false, named: None, syntax: syntax.clone() };
    for (first, one, other) in [(true, &calls, &Constraint::JsonObject), (false, &Constraint::JsonObject, &calls)] {
        let either = Constraint::Either(Box::new(one.clone()), Box::new(other.clone()));
        match grammars.compile(&either).map(|_| ()) {
            Err(GrammarError::Part { first: part, error }) => {
                assert!(part == first && matches!(&*error, GrammarError::Tool { name, .. } if name == "g"), "{error:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    let matcher = with(vec![tool("f", unkept, false), tool("g", json!({"type": "strange"}), false)], None).unwrap();
    assert_eq!(matcher.warnings().len(), 2, "{:?}", matcher.warnings());
    assert!(matcher.warnings().iter().any(|w| w.starts_with("tool g: any arguments")));
}

#[test]
fn matchers_move_between_threads() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    sent::<Matcher>();
    shared::<Grammars>();
}

/// `count` patterns that hold at once. Each has an easy text, so compiling looks no further than it, and one behind which an
/// intersection of them has two to the power of `count` pieces.
fn crossed(count: usize) -> Value {
    let pattern = |i: usize| json!({"pattern": format!("^(c|dddd(a|b)*{}(a|b){{{}}})$", ["a", "b"][i % 2], 20 + i)});
    json!({"type": "string", "allOf": (0..count).map(pattern).collect::<Vec<_>>()})
}

#[test]
fn intersections_that_multiply_are_refused_before_they_are_followed() {
    let (_, grammars) = bundled();
    assert!(grammars.compile(&strict(crossed(2))).is_ok());
    let refused = |wanted: &Constraint| grammars.compile(wanted).err().map(|e| e.to_string()).unwrap_or_default();
    let said = refused(&strict(crossed(20)));
    assert!(said.contains("regular expressions (pattern, format) hold at once and have"), "{said}");
}

#[test]
fn a_trial_says_what_compiling_says() {
    let (_, grammars) = bundled();
    let trial = |constraint: &Constraint| {
        let trial = text::grammar::Trial {
            outline: grammars.outline(),
            marker: Some("</think>".to_string()),
            constraint: constraint.clone(),
        };
        let sent: text::grammar::Trial = serde_json::from_value(serde_json::to_value(&trial).unwrap()).unwrap();
        sent.run().err().map(|e| e.to_string())
    };
    for schema in schemas() {
        assert_eq!(trial(&strict(schema.clone())), None, "{schema}");
    }
    for wrong in
        [json!({"not": {}}), json!({"type": "integer", "minimum": 3, "maximum": 2}), json!({"type": 3}), crossed(20)]
    {
        let here = grammars.compile(&strict(wrong.clone())).err().map(|e| e.to_string());
        assert!(here.is_some(), "{wrong}");
        assert_eq!(trial(&strict(wrong)), here);
    }
}

/// A mask may take long within its limits: who no longer waits for it stops it from another thread, and other matchers go on.
#[test]
fn work_on_an_output_can_be_stopped() {
    let (_, grammars) = bundled();
    let compiled = grammars.compile(&Constraint::JsonObject).unwrap();
    let (mut one, mut other) = (compiled.clone(), compiled.clone());
    let stop = one.stopper();
    assert!(one.allowed().is_ok());
    std::thread::spawn(stop).join().unwrap();
    assert!(one.allowed().is_err() && one.accept(5).is_err());
    assert!(other.allowed().is_ok() && compiled.clone().allowed().is_ok());
}
