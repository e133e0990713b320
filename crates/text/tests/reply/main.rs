//! Replies of models: golden cases, and the law that cuts do not matter.

mod blocks;
mod edges;
mod templates;
mod twin;

use farthing_text::chat::{self, Role, ToolCall};
use farthing_text::reply::{Delta, Format, Options, Parser};
use proptest::prelude::*;
use serde_json::Value;
use twin::{Call, Message};

/// A message by its JSON in OpenAI's API.
fn typed(message: &Value) -> chat::Message {
    let string = |value: &Value| value.as_str().map(str::to_string);
    let role =
        [Role::System, Role::User, Role::Assistant, Role::Tool].into_iter().find(|r| message["role"] == r.word());
    let call = |call: &Value| ToolCall {
        id: string(&call["id"]).unwrap_or_default(),
        name: string(&call["function"]["name"]).unwrap(),
        arguments: string(&call["function"]["arguments"]).unwrap_or_default(),
    };
    chat::Message {
        role: role.unwrap(),
        content: string(&message["content"]),
        name: string(&message["name"]),
        tool_call_id: string(&message["tool_call_id"]),
        tool_calls: message["tool_calls"].as_array().into_iter().flatten().map(call).collect(),
        reasoning_content: string(&message["reasoning_content"]),
    }
}

/// Messages as templates of a format get them.
fn for_template(format: &Format, messages: &[Value]) -> Vec<Value> {
    farthing_text::reply::for_template(format, messages.iter().map(typed).collect())
}

/// All deltas joined.
fn join(deltas: impl IntoIterator<Item = Delta>) -> Message {
    let mut message = Message::default();
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => message.reasoning += &text,
            Delta::Content(text) => message.content += &text,
            Delta::CallStart { index, name, id } => {
                assert_eq!(index, message.calls.len());
                message.calls.push(Call { name, id, arguments: String::new() });
            }
            Delta::Arguments { index, text } => {
                assert_eq!(index + 1, message.calls.len(), "arguments come behind their call's start");
                message.calls[index].arguments += &text;
            }
        }
    }
    message
}

fn stream<'t>(format: &Format, opened: bool, tools: bool, pieces: impl IntoIterator<Item = &'t str>) -> Message {
    let mut parser = Parser::new(*format, Options { reasoning_opened: opened, tools });
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    assert!(parser.finish().is_empty());
    join(deltas)
}

struct Case {
    format: Format,
    title: String,
    opened: bool,
    text: String,
    expected: Message,
}

/// The cases in `tests/data/replies`: text, then what it means, one file a format.
fn cases() -> Vec<Case> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/replies");
    let mut cases = Vec::new();
    for name in Format::names() {
        let format = Format::by_name(name).unwrap();
        let file = std::fs::read_to_string(directory.join(format!("{name}.txt"))).unwrap();
        let before = cases.len();
        for part in format!("\n{file}").split("\n=== ").skip(1) {
            let (title, body) = part.strip_suffix('\n').unwrap_or(part).split_once('\n').unwrap();
            let mut sections = body.split("\n--- ");
            let text = sections.next().unwrap();
            let (opened, text) = text.strip_prefix("opened\n").map_or((false, text), |text| (true, text));
            let mut expected = Message::default();
            for section in sections {
                let (heading, text) = section.split_once('\n').unwrap();
                match *heading.split(' ').collect::<Vec<_>>() {
                    ["reasoning"] => expected.reasoning = text.to_string(),
                    ["content"] => expected.content = text.to_string(),
                    ["call", name, ref id @ ..] => expected.calls.push(Call {
                        name: name.to_string(),
                        id: id.first().map(|id| id.to_string()),
                        arguments: text.to_string(),
                    }),
                    _ => panic!("{name}: {heading}"),
                }
            }
            cases.push(Case { format, title: format!("{name}: {title}"), opened, text: text.to_string(), expected });
        }
        assert!(cases.len() >= before + 8, "{name}");
    }
    cases
}

#[test]
fn golden_cases_wherever_they_are_cut() {
    let mut wrong = Vec::new();
    let mut compare = |what: String, found: Message, expected: &Message| {
        if found != *expected {
            wrong.push(format!("{what}\n  {found:?}\n  expected {expected:?}"));
        }
    };
    for Case { format, title, opened, text, expected } in cases() {
        compare(format!("{title}, by the twin"), twin::parse(&format, &text, opened, true), &expected);
        compare(title.clone(), stream(&format, opened, true, [text.as_str()]), &expected);
        let at: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        let singly = at.iter().map(|&i| &text[i..i + text[i..].chars().next().unwrap().len_utf8()]);
        compare(format!("{title}, character by character"), stream(&format, opened, true, singly), &expected);
        for &cut in &at {
            let (before, behind) = text.split_at(cut);
            compare(format!("{title}, cut at {cut}"), stream(&format, opened, true, [before, behind]), &expected);
            // Every beginning of it is a reply that was cut off.
            let whole = twin::parse(&format, before, opened, true);
            compare(format!("{title}, up to {cut}: {before:?}"), stream(&format, opened, true, [before]), &whole);
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

/// What a reply says that a limit cut off behind `text`, which came in these pieces.
fn cut<'t>(format: &Format, opened: bool, pieces: impl IntoIterator<Item = &'t str>) -> Message {
    let mut parser = Parser::new(*format, Options { reasoning_opened: opened, tools: true });
    let mut deltas: Vec<Delta> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.cut());
    assert!(parser.finish().is_empty());
    join(deltas)
}

#[test]
fn a_reply_cut_anywhere_says_a_beginning_of_the_whole() {
    for Case { format, title, opened, text, .. } in cases() {
        let whole = stream(&format, opened, true, [text.as_str()]);
        for at in text.char_indices().map(|(i, _)| i) {
            let before = &text[..at];
            let said = cut(&format, opened, [before]);
            let singly = before.char_indices().map(|(i, c)| &before[i..i + c.len_utf8()]);
            assert_eq!(cut(&format, opened, singly), said, "{title}, cut at {at}, in pieces");
            let fits = whole.content.starts_with(said.content.trim_end())
                && whole.reasoning.starts_with(said.reasoning.trim_end())
                && said.calls.len() <= whole.calls.len()
                && said
                    .calls
                    .iter()
                    .zip(&whole.calls)
                    .all(|(said, whole)| said.name == whole.name && whole.arguments.starts_with(&said.arguments));
            assert!(fits, "{title}, cut at {at}: {before:?}\n  {said:?}\n  {whole:?}");
        }
    }
}

/// The plainest call of each format, written as its grammar has it: no part of it is ever content.
#[test]
fn the_markup_of_a_call_that_was_cut_is_never_content() {
    for format in Format::names().filter_map(Format::by_name) {
        let Some(syntax) = format.syntax() else { continue };
        let arguments = if syntax.json { "{\"a\": [1, \"<x>\"]}" } else { "" };
        let call = format!("{}add{}{arguments}{}", syntax.begin, syntax.middle, syntax.end);
        let calls = format!("{}{call}{}{call}{}", syntax.open, syntax.between, syntax.close);
        let said = if format.name() == "llama3" { "" } else { "Adding. " };
        let text = format!("{said}{calls}");
        for at in said.len()..=text.len() {
            let Some(before) = text.get(..at) else { continue };
            let message = cut(&format, false, [before]);
            assert_eq!(message.content.trim_end(), said.trim_end(), "{}: {before:?}", format.name());
            assert!(message.calls.iter().all(|c| c.name == "add"), "{message:?}");
        }
    }
}

/// Pieces from which broken replies are made.
fn fragments(format: &Format) -> Vec<String> {
    let mut pieces: Vec<String> = [
        "<think>",
        "</think>",
        "\n",
        " ",
        "text",
        "é猫",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        ";",
        "\"",
        "\\",
        "\\\"",
        "\\u00e9",
        "\\ud83e",
        "<",
        "`",
        "```json\n",
        "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
        "\"name\": \"g\"",
        "{\"name\": \"h\"",
        "\"parameters\": ",
        "\"arguments\"",
        "\"id\": \"i\"",
        "\"x\": [1, \"}\"]",
        "{\"a\": \"b\"}",
        "{}",
        "true",
        "12",
        "\"s\"",
        "function",
        ">",
        "name=\"n\"",
        " string=\"false\"",
        " string=\"true\"",
    ]
    .map(str::to_string)
    .to_vec();
    let mut marks: Vec<String> = format.triggers().iter().map(|t| t.to_string()).collect();
    if let Some(syntax) = format.syntax() {
        let written = [syntax.open, syntax.begin, syntax.middle, syntax.end, syntax.between, syntax.close];
        marks.extend(written.map(str::to_string));
        marks.push(format!("{}f{}{{\"k\": \"v\"}}{}", syntax.begin, syntax.middle, syntax.end));
        if !syntax.json {
            for tag in [
                "<｜DSML｜parameter name=\"p\" string=\"true\">",
                "<｜DSML｜parameter name=\"q\" string=\"false\">",
                "</｜DSML｜parameter>",
                "</｜DSML｜invoke>",
                "<｜DSML｜invoke",
            ] {
                marks.push(tag.to_string());
            }
        }
    }
    marks.extend(format.markers(true).iter().map(|m| m.to_string()));
    // Markers are as frequent as all the rest.
    while marks.len() < pieces.len() {
        marks.extend_from_within(..);
    }
    pieces.extend(marks);
    pieces
}

fn formats() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::names().map(|n| Format::by_name(n).unwrap()).collect::<Vec<_>>())
}

fn replies() -> impl Strategy<Value = (Format, String)> {
    formats().prop_flat_map(|format| {
        let piece = proptest::sample::select(fragments(&format));
        (Just(format), proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8 * ProptestConfig::default().cases, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was written, and wherever it is cut, the message is the twin's.
    #[test]
    fn cuts_do_not_matter((format, text) in replies(), opened: bool, tools in proptest::bool::weighted(0.9), cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8)) {
        let mut at: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
        at.push(text.len());
        let mut cuts: Vec<usize> = cuts.iter().map(|c| *c.get(&at)).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        let expected = twin::parse(&format, &text, opened, tools);
        prop_assert_eq!(stream(&format, opened, tools, [text.as_str()]), expected.clone(), "{} whole {:?}", format.name(), &text);
        prop_assert_eq!(stream(&format, opened, tools, pieces), expected, "{} cut {:?}", format.name(), &text);
    }

    /// Without calls and reasoning everything that was written is content, white space included.
    #[test]
    fn without_tools_markers_are_content(format in formats(), text in "[ a-z\\n]{0,8}[a-z]", place in 0usize..9) {
        let Some(&trigger) = format.triggers().first() else { return Ok(()) };
        let at = place.min(text.len());
        let text = format!("{}{trigger}{}", &text[..at], &text[at..]);
        prop_assert_eq!(stream(&format, false, false, [text.as_str()]).content, text);
    }
}

/// JSON values as a model could write them.
fn values() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~]{0,6}".prop_map(Value::from),
        proptest::sample::select(vec![
            "</tool_call>",
            "[ARGS]",
            "<｜tool▁call▁end｜>",
            "<|tool_call_end|>",
            "é\n\t猫\u{7}\"\\",
            "{\"a\":"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z\"{}]{1,4}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A call as `Format::syntax` says that it is written.
fn written(format: &Format, content: &str, calls: &[(String, serde_json::Map<String, serde_json::Value>)]) -> String {
    let syntax = format.syntax().unwrap();
    let calls: Vec<String> = calls
        .iter()
        .map(|(name, arguments)| {
            let arguments = if syntax.json {
                serde_json::to_string(arguments).unwrap()
            } else {
                let parameter = |(name, value): (&String, &serde_json::Value)| match value.as_str() {
                    Some(text) => {
                        format!("<｜DSML｜parameter name=\"{name}\" string=\"true\">{text}</｜DSML｜parameter>")
                    }
                    None => format!("<｜DSML｜parameter name=\"{name}\" string=\"false\">{value}</｜DSML｜parameter>"),
                };
                arguments.iter().map(parameter).collect::<Vec<_>>().join("\n")
            };
            format!("{}{name}{}{arguments}{}", syntax.begin, syntax.middle, syntax.end)
        })
        .collect();
    format!("{content}{}{}{}", syntax.open, calls.join(syntax.between), syntax.close)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written by a format's syntax is read back.
    #[test]
    fn written_calls_are_read_back(
        format in formats(), content in proptest::sample::select(vec!["", "Let me look.", "é 猫"]),
        calls in proptest::collection::vec(("[a-z_]{1,8}", proptest::collection::hash_map("[a-z]{1,4}", values(), 0..4)), 1..4)
    ) {
        if !format.calls() {
            return Ok(());
        }
        // Llama's calls are the whole reply.
        let content = if format.name() == "llama3" { "" } else { content };
        let calls: Vec<_> = calls.into_iter().map(|(name, m)| (name, m.into_iter().collect::<serde_json::Map<_, _>>())).collect();
        let gap = if format.syntax().unwrap().json { "" } else { "\n\n" };
        let text = written(&format, &format!("{content}{gap}"), &calls);
        let message = stream(&format, false, true, [text.as_str()]);
        prop_assert_eq!(message.content, content);
        let found: Vec<_> = message.calls.iter().map(|c| (c.name.clone(), serde_json::from_str(&c.arguments).unwrap())).collect();
        prop_assert_eq!(found, calls);
        prop_assert!(format.triggers().iter().any(|t| text.contains(t)) || format.name() == "llama3");
    }
}

/// What can be given is given at once.
#[test]
fn deltas_come_early() {
    let text = |deltas: Vec<Delta>| format!("{deltas:?}");
    for (name, opening) in [
        ("deepseek-v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"),
        ("kimi-k2", "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {"),
        ("llama3", "{\"name\": \"f\", \"parameters\": {"),
        ("mistral", "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {"),
        ("mistral-v11", "[TOOL_CALLS]f[ARGS]{"),
    ] {
        let mut parser = Parser::new(Format::by_name(name).unwrap(), Options { tools: true, ..Options::default() });
        let first = text(parser.push(opening));
        assert!(first.contains("CallStart") && first.contains("text: \"{\""), "{name}: {first}");
        for piece in ["\"", "a", "é", "\"", ":", "[1"] {
            assert_eq!(parser.push(piece), [Delta::Arguments { index: 0, text: piece.to_string() }], "{name}");
        }
    }
    let mut parser =
        Parser::new(Format::by_name("deepseek-v4").unwrap(), Options { tools: true, reasoning_opened: true });
    assert_eq!(parser.push("Hm <"), [Delta::Reasoning("Hm".to_string())]);
    assert_eq!(parser.push("b"), [Delta::Reasoning(" <b".to_string())]);
    assert_eq!(parser.push("</think>Hi"), [Delta::Content("Hi".to_string())]);
    let call = text(parser.push("<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\">"));
    assert!(call.contains("CallStart"), "{call}");
    assert!(text(parser.push("<｜DSML｜parameter name=\"x\" string=\"true\">ab")).contains(r#"{\"x\": \"ab"#));
    assert_eq!(parser.calls(), 1);
}

/// What models write now and then: each is read as it stands.
#[test]
fn odd_calls_are_read_as_they_stand() {
    let read = |name: &str, text: &str| stream(&Format::by_name(name).unwrap(), false, true, [text]);
    let hermes = |name: &str| format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {{}}}}</tool_call>");
    // Half of a surrogate pair.
    assert_eq!(read("hermes", &hermes("f\\ud83d\\u0041")).calls[0].name, "f\u{fffd}A");
    // White space between two calls is nobody's.
    let message = read("hermes", &format!("Hi{}\n \n \n{}", hermes("f"), hermes("g")));
    assert_eq!((message.content.as_str(), message.calls.len()), ("Hi", 2));
    // What stands behind a colon and is no number belongs to the name.
    let kimi = "<|tool_calls_section_begin|><|tool_call_begin|>functions.a:b<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";
    assert_eq!(read("kimi-k2", kimi).calls[0].name, "a:b");
    // Control characters are escaped, to the last.
    let open = "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" string=";
    let dsml = format!("{open}\"true\">a\u{1f}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>");
    assert_eq!(read("deepseek-v3.2", &dsml).calls[0].arguments, "{\"x\": \"a\\u001f\"}");
    // A word is held back until it is known what it is, but not without end.
    let mut parser =
        Parser::new(Format::by_name("deepseek-v3.2").unwrap(), Options { tools: true, ..Options::default() });
    parser.push(&format!("{open}\"false\">"));
    assert_eq!(parser.push(&"w".repeat(200)), []);
    assert!(matches!(&parser.push(&"w".repeat(200))[..], [Delta::Arguments { text, .. }] if text.len() > 256));
    // The gap before a call goes with the call that a limit cut.
    assert_eq!(cut(&Format::by_name("deepseek-v3.2").unwrap(), false, ["Hello\n\n<｜DSML｜func"]).content, "Hello");
}

/// Names, calls and time are bounded; nothing is lost beyond the bounds.
#[test]
fn bounds() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let hermes = Format::by_name("hermes").unwrap();
    let message = stream(&hermes, false, true, [call.repeat(farthing_text::reply::CALLS_MAX + 2).as_str()]);
    assert_eq!(message.calls.len(), farthing_text::reply::CALLS_MAX);
    assert_eq!(message.content, call.repeat(2));
    for name in Format::names().filter(|n| *n != "plain") {
        let format = Format::by_name(name).unwrap();
        let syntax = format.syntax().unwrap();
        let long = format!(
            "{}{}{}{}{{}}{}{}",
            syntax.open,
            syntax.begin,
            "n".repeat(600),
            syntax.middle,
            syntax.end,
            syntax.close
        );
        let message = stream(&format, false, true, [long.as_str()]);
        assert_eq!((message.content, message.calls.len()), (long, 0), "{name}");
    }
    // Candidates inside candidates, none of which ends: read again a bounded number of times.
    let nested = "<tool_call>{\"a\": [".repeat(100_000);
    let begun = std::time::Instant::now();
    assert_eq!(stream(&hermes, false, true, [nested.as_str()]).content, nested);
    let strings = format!("{}{}", "<tool_call>{\"a\": ".repeat(3000), "\"".repeat(1_000_000));
    assert_eq!(stream(&hermes, false, true, [strings.as_str()]).content, strings);
    // After four MiB of what was no call after all, calls are no longer looked for.
    for (times, calls) in [(3, 1), (5, 0)] {
        let none = format!("<tool_call>{{\"a\": [{}] ?", "1,".repeat(500_000)).repeat(times);
        assert_eq!(stream(&hermes, false, true, [none.as_str(), call]).calls.len(), calls, "{times}");
    }
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
