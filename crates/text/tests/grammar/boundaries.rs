//! Schemas at the last value that is taken and the first that is not; references, numbers and keywords where two readings are near.

use super::*;

fn compiled(grammars: &Grammars, schema: &Value) -> Result<Vec<String>, GrammarError> {
    grammars.compile(&strict(schema.clone())).map(|matcher| matcher.warnings().to_vec())
}

fn lenient(grammars: &Grammars, schema: &Value) -> Vec<String> {
    let loose = Constraint::JsonSchema { schema: schema.clone(), strict: false };
    grammars.compile(&loose).unwrap_or_else(|e| panic!("{e}")).warnings().to_vec()
}

/// What is counted of a schema that is refused by a limit, and how far it got.
fn limit(grammars: &Grammars, schema: &Value) -> (String, u64) {
    match compiled(grammars, schema) {
        Err(GrammarError::TooLarge { what, found, .. }) => (what, found),
        other => panic!("{other:?}"),
    }
}

fn unsupported(grammars: &Grammars, schema: &Value) -> (String, String) {
    match compiled(grammars, schema) {
        Err(GrammarError::Unsupported { path, keyword, .. }) => (path, keyword),
        other => panic!("{schema}: {other:?}"),
    }
}

fn taken(grammars: &Grammars, schema: &Value) {
    let told = compiled(grammars, schema).unwrap_or_else(|e| panic!("{e}: {schema}"));
    assert!(told.is_empty(), "{told:?}: {schema}");
}

#[test]
fn depth_counts_every_array_and_object() {
    let (_, grammars) = bundled();
    // One level for an object, two for an array of schemas in one.
    let items = |levels: usize, inner: Value| (0..levels).fold(inner, |inner, _| json!({"items": inner}));
    let branches = |levels: usize, inner: Value| (0..levels).fold(inner, |inner, _| json!({"anyOf": [inner]}));
    for (last, first) in [
        (items(63, json!(true)), items(64, json!(true))),
        (items(62, json!({"type": "null"})), items(63, json!({"type": "null"}))),
        (branches(31, json!({"items": true})), branches(31, json!({"items": {"items": true}}))),
        (items(62, json!({"enum": []})), items(62, json!({"enum": [1]}))),
    ] {
        if last.to_string().contains("enum") {
            assert!(!matches!(compiled(&grammars, &last), Err(GrammarError::TooLarge { .. })));
        } else {
            taken(&grammars, &last);
        }
        assert_eq!(limit(&grammars, &first), ("schema: nested levels".to_string(), 65));
    }
}

#[test]
fn bytes_count_keys_strings_and_everything_else() {
    let (_, grammars) = bundled();
    let text = |bytes: usize| "x".repeat(bytes);
    const MAX: usize = 256 << 10;
    let (string, key, short): (_, _, _) = (
        |bytes: usize| json!({"description": text(bytes - 19)}),
        |bytes: usize| json!({"$defs": {text(bytes - 21): true}}),
        |bytes: usize| json!({"description": text(bytes - 5037), "examples": vec![Value::Null; 1000]}),
    );
    // {} 2, the key 15, the string 2; {} 2, the key 9, {} 2, the key 4, true 4; both keys 27, [] 2, each null 5.
    let short = |bytes: usize| short(bytes + 4);
    for schema in [string(MAX), key(MAX), short(MAX)] {
        taken(&grammars, &schema);
    }
    for schema in [string(MAX + 1), key(MAX + 1), short(MAX + 1)] {
        assert_eq!(limit(&grammars, &schema), ("schema: bytes".to_string(), MAX as u64 + 1));
    }
}

#[test]
fn places_that_are_referred_to_are_counted() {
    let (_, grammars) = bundled();
    let schema = |places: usize| {
        let defs: serde_json::Map<String, Value> =
            (0..places).map(|i| (format!("d{i}"), json!({"const": i}))).collect();
        let refs: Vec<Value> = (0..places).map(|i| json!({"$ref": format!("#/$defs/d{i}")})).collect();
        let (some, others) = refs.split_at(300);
        json!({"type": "object", "properties": {"a": {"anyOf": some}, "b": {"anyOf": others}}, "$defs": defs})
    };
    taken(&grammars, &schema(512));
    assert_eq!(limit(&grammars, &schema(513)), ("schema: references to different places".to_string(), 513));
}

/// A chain of references, two levels each, with so many levels in its last place; `first` and `last` stand beside it.
fn reaching(levels: usize, before: bool, behind: bool) -> Value {
    // Each link stands one level deep in its place, which is one level below it.
    let links = levels.saturating_sub(4) / 2;
    let rest = levels - (2 * links + 2);
    let mut defs = serde_json::Map::new();
    for index in 0..links {
        defs.insert(format!("d{index}"), json!({"items": {"$ref": format!("#/$defs/d{}", index + 1)}}));
    }
    defs.insert(format!("d{links}"), (0..rest).fold(json!({"type": "null"}), |inner, _| json!({"items": inner})));
    defs.insert("flat".to_string(), json!({"type": "null"}));
    let mut properties = serde_json::Map::new();
    if before {
        properties.insert("a".to_string(), json!({"$ref": "#/$defs/flat"}));
    }
    properties.insert("b".to_string(), json!({"$ref": "#/$defs/d0"}));
    if behind {
        properties.insert("c".to_string(), json!({"$ref": "#/$defs/flat"}));
    }
    json!({"type": "object", "properties": properties, "$defs": defs})
}

#[test]
fn nesting_through_references_counts_each_part_of_the_way() {
    let (_, grammars) = bundled();
    for (before, behind) in [(false, false), (true, false), (false, true), (true, true)] {
        taken(&grammars, &reaching(512, before, behind));
        for levels in [513, 514] {
            let refused = limit(&grammars, &reaching(levels, before, behind));
            assert_eq!(refused, ("schema: nesting through references".to_string(), levels as u64));
        }
    }
    // A place that was met is not entered again, from wherever: the compiler knows it by then.
    let mut again = reaching(512, false, false);
    again["properties"]["c"] = json!({"items": {"items": {"$ref": "#/$defs/d0"}}});
    taken(&grammars, &again);
}

#[test]
fn a_hundred_warnings_are_enough() {
    let (_, grammars) = bundled();
    let many = |keyword: &str, value: Value, count: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|i| (format!("p{i}"), json!({keyword: value.clone()}))).collect();
        json!({"type": "object", "properties": properties})
    };
    for (keyword, value) in [("not", json!({"type": "null"})), ("maxlenght", json!(3))] {
        for (count, told) in [(99, 99), (100, 100), (101, 100), (150, 100)] {
            let warnings = lenient(&grammars, &many(keyword, value.clone(), count));
            assert_eq!(warnings.len(), told, "{keyword}, {count}");
            assert!(
                warnings[told - 1].starts_with(&format!("#/properties/p{}: `{keyword}` ", told - 1)),
                "{warnings:?}"
            );
        }
    }
}

/// A length that no output reaches is as none; a length that one reaches is kept.
#[test]
fn lengths_beyond_every_output_are_taken() {
    let (tokenizer, grammars) = bundled();
    for most in [1_000_000_u64, 1_000_001, 1 << 32, u64::MAX] {
        let string = json!({"type": "string", "maxLength": most});
        assert!(goes(&grammars, &tokenizer, string, &format!("\"{}\"", "a".repeat(1500))), "{most}");
        let array = json!({"type": "array", "items": {"type": "null"}, "maxItems": most});
        assert!(goes(&grammars, &tokenizer, array, "[null, null, null]"), "{most}");
        let object = json!({"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": most});
        assert!(goes(&grammars, &tokenizer, object, "{\"a\": null, \"b\": null}"), "{most}");
    }
    assert!(!goes(
        &grammars,
        &tokenizer,
        json!({"type": "string", "maxLength": 30}),
        &format!("\"{}\"", "a".repeat(31))
    ));
}

#[test]
fn references_by_every_name_of_a_place() {
    let (_, grammars) = bundled();
    let tree = "https://example.org/tree";
    for schema in [
        // An `$id` that is a name only changes nothing for the references below it.
        json!({"properties": {"p": {"$id": "#name", "items": {"$ref": "#/$defs/a"}}}, "$defs": {"a": {"type": "null"}}}),
        json!({"properties": {"p": {"id": "#name", "items": {"$ref": "#name"}}}}),
        // The root's own address, with and without `#`, under the old draft's name too.
        json!({"$id": tree, "items": {"$ref": tree}}),
        json!({"$id": format!("{tree}#"), "items": {"$ref": format!("{tree}#/$defs/a")}, "$defs": {"a": {"type": "null"}}}),
        json!({"id": tree, "items": {"$ref": format!("{tree}#/definitions/a")}, "definitions": {"a": {"type": "null"}}}),
        json!({"id": format!("{tree}#"), "items": {"$ref": "#/definitions/a"}, "definitions": {"a": {"type": "null"}}}),
        // A name that begins as the root's own does.
        json!({"$id": "#root", "items": {"$ref": "#rooted"}, "$defs": {"a": {"$anchor": "rooted", "type": "null"}}}),
        // `~` and `/` in names of places, found by pointer and by anchor.
        json!({"items": {"$ref": "#/$defs/a~0b"}, "$defs": {"a~b": {"type": "null"}}}),
        json!({"items": {"$ref": "#/$defs/~01"}, "$defs": {"~1": {"type": "null"}, "/": {"not": {}}}}),
        json!({"items": {"$ref": "#here"}, "$defs": {"~1/": {"$anchor": "here", "type": "null"}, "//": {"not": {}}}}),
    ] {
        taken(&grammars, &schema);
    }
    for (schema, path) in [
        (json!({"properties": {"p": {"id": "other", "items": {"$ref": "#/x"}}}, "x": {}}), "#/properties/p/items"),
        (json!({"$id": tree, "items": {"$ref": format!("{tree}2#/$defs/a")}, "$defs": {"a": {}}}), "#/items"),
        (json!({"$id": tree, "items": {"$ref": format!("{tree}/$defs/a")}, "$defs": {"a": {}}}), "#/items"),
        (json!({"items": {"$ref": ""}}), "#/items"),
    ] {
        assert_eq!(unsupported(&grammars, &schema), (path.to_string(), "$ref".to_string()), "{schema}");
    }
    for (name, escaped) in [("a~b", "a~0b"), ("~1", "~01"), ("~/", "~0~1"), ("/~", "~1~0")] {
        let schema = json!({"properties": {name: {"not": {"type": "null"}}}});
        assert_eq!(unsupported(&grammars, &schema).0, format!("#/properties/{escaped}"));
    }
}

#[test]
fn numbers_at_the_edges() {
    let (tokenizer, grammars) = bundled();
    let goes = |schema: Value, text: &str| goes(&grammars, &tokenizer, schema, text);
    for divisor in [json!(0), json!(0.0), json!(-1), json!("2"), json!(0.00001)] {
        let schema = json!({"type": "number", "multipleOf": divisor});
        assert_eq!(unsupported(&grammars, &schema), ("#".to_string(), "multipleOf".to_string()));
    }
    for keyword in ["const", "enum"] {
        let of = |number: Value| if keyword == "const" { json!({"const": number}) } else { json!({"enum": [number]}) };
        for number in [json!(9_007_199_254_740_991_i64), json!(-9_007_199_254_740_991_i64)] {
            taken(&grammars, &of(number));
        }
        for number in [
            json!(9_007_199_254_740_992_i64),
            json!(-9_007_199_254_740_992_i64),
            json!(-9_007_199_254_740_993_i64),
            json!(i64::MIN),
            json!(-1e300),
        ] {
            assert_eq!(unsupported(&grammars, &of(number)), ("#".to_string(), keyword.to_string()));
        }
    }
    // Multiples of what is followed are among the numbers that floating point holds; 4503599627370496 is 2^52.
    for (divisor, within, beyond) in [(100, "9007199254740900", "9007199254741000"), (7, "7", "9007199254740998")] {
        for kind in ["integer", "number"] {
            let schema = || json!({"type": kind, "multipleOf": divisor});
            assert!(goes(schema(), within) && !goes(schema(), beyond), "{divisor}");
            assert!(goes(schema(), &format!("-{within}")) && !goes(schema(), &format!("-{beyond}")), "{divisor}");
        }
    }
    assert!(goes(json!({"type": "integer", "multipleOf": 101}), "101000000000000000"));
    // Draft 4's word about a bound that is not there excludes nothing and bounds nothing.
    for word in [true, false] {
        let schema = || json!({"type": "integer", "multipleOf": 3, "exclusiveMinimum": word, "exclusiveMaximum": word});
        assert!(goes(schema(), "-3") && goes(schema(), "9"));
        assert!(!goes(schema(), "-9007199254740993") && !goes(schema(), "9007199254740993"));
    }
    // An exclusive bound with more digits than can be moved stays, and no other takes its place.
    let small = || json!({"type": "number", "multipleOf": 5, "exclusiveMinimum": 1e-40, "maximum": 20});
    assert!(goes(small(), "5") && !goes(small(), "0") && !goes(small(), "-5"));
    // An integer and a number together is a number.
    for bounds in [json!({"minimum": -3, "maximum": 3}), json!({})] {
        let mut schema = json!({"type": ["integer", "number"]});
        schema.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        assert!(goes(schema.clone(), "-1.5") && goes(schema.clone(), "1.5") && goes(schema.clone(), "2"), "{schema}");
    }
    assert!(goes(json!({"type": ["integer", "number"]}), &format!("-{}", "7".repeat(30))));
}

#[test]
fn keywords_that_mean_something_in_company() {
    let (_, grammars) = bundled();
    for fine in [
        json!({"if": {"type": "array"}}),
        json!({"then": {"required": ["b"]}}),
        json!({"else": {"required": ["b"]}}),
        json!({"minContains": 2}),
        json!({"maxContains": 2}),
        json!({"propertyNames": true, "unevaluatedItems": {}, "dependentRequired": {}}),
        json!({"type": "array", "uniqueItems": true, "maxItems": 1}),
        json!({"contentEncoding": "base64", "contentMediaType": "image/png"}),
    ] {
        taken(&grammars, &fine);
    }
    for (schema, keywords) in [
        (json!({"if": {"type": "array"}, "else": {"type": "null"}}), vec!["if", "else"]),
        (json!({"if": {"type": "array"}, "then": {"type": "array"}}), vec!["if", "then"]),
        (json!({"if": {"type": "array"}, "then": true}), vec!["if"]),
        (json!({"if": {"type": "array"}, "else": {}}), vec!["if"]),
        (json!({"if": {"type": "array"}, "then": true, "else": false}), vec!["if", "else"]),
        (json!({"contains": {"type": "null"}, "minContains": 2}), vec!["contains", "minContains"]),
        (json!({"contains": {"type": "null"}, "maxContains": 2}), vec!["contains", "maxContains"]),
        (json!({"uniqueItems": true}), vec!["uniqueItems"]),
        (json!({"propertyNames": {"maxLength": 3}}), vec!["propertyNames"]),
        (json!({"unevaluatedProperties": false}), vec!["unevaluatedProperties"]),
    ] {
        let told: Vec<String> = keywords.iter().map(|keyword| format!("#: `{keyword}` is not supported")).collect();
        assert_eq!(lenient(&grammars, &schema), told, "{schema}");
        assert_eq!(unsupported(&grammars, &schema), ("#".to_string(), keywords[0].to_string()));
    }
    for nothing in [json!(false), json!({"$ref": "#/$defs/a", "$defs": {"a": false}})] {
        for strict in [true, false] {
            let refused = grammars.compile(&Constraint::JsonSchema { schema: nothing.clone(), strict }).map(|_| ());
            let said = refused.unwrap_err().to_string();
            assert!(said.starts_with('#') && said.contains("no value is valid"), "{nothing}: {said}");
        }
    }
    assert_eq!(compiled(&grammars, &json!(false)).unwrap_err().to_string(), "#: no value is valid");
}

/// Keywords that only the library can tell are tried one by one while they and the schema are few and small, else all are named.
#[test]
fn doubts_are_tried_one_by_one_up_to_a_limit() {
    let (_, grammars) = bundled();
    let clear = json!({"oneOf": [{"type": "integer"}, {"type": "string"}]});
    let vague = json!({"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 3}]});
    let schema = |clears: usize, pad: usize| {
        let mut properties: serde_json::Map<String, Value> =
            (0..clears).map(|i| (format!("p{i:02}"), clear.clone())).collect();
        properties.insert("last".to_string(), vague.clone());
        json!({"description": "x".repeat(pad), "type": "object", "properties": properties})
    };
    let told = |clears: usize, pad: usize| lenient(&grammars, &schema(clears, pad)).len();
    assert_eq!((told(1, 0), told(15, 0), told(16, 0)), (1, 1, 17));
    // The size of all else, by the same count as the limit on bytes: `{}` and `[]` 2, a key 4 more than its bytes, an item of an array 1,
    // a string 2 more, a number 4.
    fn size(value: &Value) -> usize {
        match value {
            Value::Array(items) => 2 + items.iter().map(|v| 1 + size(v)).sum::<usize>(),
            Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
            Value::String(text) => text.len() + 2,
            _ => 4,
        }
    }
    let pad = (32 << 10) - size(&schema(1, 0));
    assert_eq!((told(1, pad), told(1, pad + 1)), (1, 2));
}
