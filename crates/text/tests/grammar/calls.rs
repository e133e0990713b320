//! Tool calls as each family of models writes them.

use super::*;

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
    // Arguments are an object: a schema that takes something else alone takes none.
    let told = with(vec![tool("f", json!({"enum": [null]}), true)], None).map(|_| ()).unwrap_err().to_string();
    assert!(told.starts_with("tool f: #"), "{told}");
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

/// Published tools leave out the type, or give other types beside it: what is generated is an object all the same.
#[test]
fn arguments_are_an_object_whatever_their_schema_leaves_open() {
    let (tokenizer, grammars) = bundled();
    let syntax = CallSyntax {
        begin: String::new(),
        before_call: "call ".to_string(),
        body: CallBody::NameThenArguments(" with ".to_string()),
        after_call: ";".to_string(),
        between: String::new(),
        end: String::new(),
    };
    let open = "call f with ";
    for (parameters, strict, object) in [
        (json!({}), false, "{}"),
        (json!({"properties": {"a": {"type": "integer"}}}), false, "{\"a\":1"),
        (json!({"type": ["object", "null"], "properties": {"a": {"type": "integer"}}}), false, "{\"a\":1"),
        (json!({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}), false, "{\"x\":1"),
        (json!({"enum": ["x"]}), false, "{\"x\":1"),
        (
            json!({"$ref": "#/$defs/o", "$defs": {"o": {"type": "object", "properties": {"a": {"type": "integer"}}}}}),
            false,
            "{\"a\":1",
        ),
    ] {
        let tool = Tool { name: "f".to_string(), parameters: parameters.clone(), strict };
        let calls = Constraint::Calls {
            tools: vec![tool],
            required: true,
            one_only: true,
            named: None,
            syntax: syntax.clone(),
        };
        let begin = || {
            let mut matcher = grammars.compile(&calls).unwrap();
            follow(&mut matcher, &tokenizer, open);
            matcher
        };
        follow(&mut begin(), &tokenizer, object);
        for other in ["5", "n", "\"", "["] {
            assert!(!may(&mut begin(), &tokenizer, other), "{parameters}: {other}");
        }
    }
    let impossible = Tool { name: "f".to_string(), parameters: json!({"type": "integer"}), strict: true };
    let calls = Constraint::Calls { tools: vec![impossible], required: true, one_only: true, named: None, syntax };
    let said = grammars.compile(&calls).map(|_| ()).unwrap_err().to_string();
    assert!(said.starts_with("tool f: "), "{said}");
}
