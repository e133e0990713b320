//! JSON Schemas: what finishes validates, and what cannot be kept is refused by keyword and path.

use super::*;

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
    // So do numbers that cannot be kept exactly.
    for (schema, told) in [
        (json!({"type": "integer", "minimum": 1e300}), vec!["#: `minimum` "]),
        (
            json!({"type": "number", "exclusiveMinimum": 9007199254740993u64, "maximum": 1e300}),
            vec!["#: `exclusiveMinimum` "],
        ),
        (json!({"type": "number", "maximum": -1e17, "exclusiveMaximum": true}), vec!["#: `maximum` "]),
        (json!({"type": "number", "exclusiveMaximum": -1e17}), vec!["#: `exclusiveMaximum` "]),
        (json!({"type": "number", "multipleOf": 1e-300}), vec!["#: `multipleOf` "]),
        (json!({"type": "integer", "multipleOf": 1e300}), vec!["#: `multipleOf` "]),
        (
            json!({"$ref": "#/$defs/a", "multipleOf": 2, "$defs": {"a": {"type": "integer", "multipleOf": 0.000_01}}}),
            vec!["#/$defs/a: `multipleOf` "],
        ),
        (
            json!({"allOf": [{"type": "integer", "multipleOf": 1e-9}, {"minimum": 1e18}]}),
            vec!["#/allOf/0: `multipleOf` ", "#/allOf/1: `minimum` "],
        ),
    ] {
        let refused = grammars.compile(&strict(schema.clone())).map(|_| ()).unwrap_err();
        assert!(matches!(refused, GrammarError::Unsupported { .. }), "{schema}: {refused}");
        let loose = Constraint::JsonSchema { schema: schema.clone(), strict: false };
        let loose = grammars.compile(&loose).unwrap_or_else(|e| panic!("{schema}: {e}"));
        let warnings = loose.warnings();
        assert!(warnings.len() == told.len(), "{schema}: {warnings:?}");
        assert!(warnings.iter().zip(told).all(|(line, begin)| line.starts_with(begin)), "{schema}: {warnings:?}");
    }
    let empty = json!({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]});
    let refused = grammars.compile(&strict(empty)).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "#/properties/a: no value is valid: `enum` is empty; list at least one value");
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
