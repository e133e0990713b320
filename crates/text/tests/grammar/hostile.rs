//! Schemas, expressions and grammars made to take long: each is refused, or its masks come in bounded time and can be stopped.

use super::*;

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
        let trial = farthing_text::grammar::Trial {
            outline: grammars.outline(),
            marker: Some("</think>".to_string()),
            constraint: constraint.clone(),
        };
        let sent: farthing_text::grammar::Trial =
            serde_json::from_value(serde_json::to_value(&trial).unwrap()).unwrap();
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
