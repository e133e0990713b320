//! Calls at their edges: names of the greatest length, keys that come twice or late, marks within marks, objects that end too early.

use farthing_text::reply::Format;
use serde_json::{Value, json};

use super::twin::{self, Call, Message};
use super::{cut, for_template, stream};

/// What is called, and the content around it.
fn message(content: &str, calls: &[(&str, &str)]) -> Message {
    let call =
        |&(name, arguments): &(&str, &str)| Call { name: name.to_string(), id: None, arguments: arguments.to_string() };
    Message { content: content.to_string(), calls: calls.iter().map(call).collect(), ..Message::default() }
}

/// A reply whole, character by character, and by the twin where that has the limit too.
fn reads(format: &str, text: &str, expected: &Message, by_twin: bool) {
    let format = Format::by_name(format).unwrap();
    assert_eq!(stream(&format, false, true, [text]), *expected, "{text}");
    let singly = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(stream(&format, false, true, singly), *expected, "{text}, character by character");
    if by_twin {
        assert_eq!(twin::parse(&format, text, false, true), *expected, "{text}, by the twin");
    }
}

#[test]
fn objects_that_are_nearly_calls() {
    let cases: [(&str, &str, &str, &[(&str, &str)]); 24] = [
        // Marks within a block.
        ("hermes", r#"<tool_call>{"name":"a","arguments":{}}<tool_call></tool_call>"#, "", &[("a", "{}")]),
        ("hermes", r#"<tool_call>{"name":"a","arguments":{}<tool_call></tool_call>"#, "", &[("a", "{}")]),
        (
            "hermes",
            r#"<tool_call>{"name":"a","arguments":{"x":1}<tool_call>{"name":"b","arguments":{}}</tool_call>"#,
            "",
            &[("a", r#"{"x":1}"#), ("b", "{}")],
        ),
        ("hermes", "<tool_call></tool_call>", "<tool_call></tool_call>", &[]),
        (
            "hermes",
            "Hi <tool_call>{\"name\":\"a\",\"arguments\":{}}\n\n<tool_call>zz",
            "Hi \n\n<tool_call>zz",
            &[("a", "{}")],
        ),
        ("hermes", r#"<tool_call>{"name":"a","arguments":{}, <tool_call>zz"#, "<tool_call>zz", &[("a", "{}")]),
        ("hermes", r#"<tool_call>{"name":"a","more":"</tool_call>","arguments":{}}</tool_call>"#, "", &[("a", "{}")]),
        // Lists.
        (
            "mistral",
            r#"[TOOL_CALLS][[{"name":"a","arguments":{}}]]"#,
            r#"[TOOL_CALLS][[{"name":"a","arguments":{}}]]"#,
            &[],
        ),
        ("mistral", r#"[TOOL_CALLS][{"name":"a","arguments":{}}] b"#, "b", &[("a", "{}")]),
        ("mistral", r#"[TOOL_CALLS][{"name":"a","arguments":{}}, {"name":"b"}]"#, "", &[("a", "{}"), ("b", "{}")]),
        ("hermes", r#"<tool_call>[{"name":"a","arguments":{}}]]</tool_call>"#, "]]", &[("a", "{}")]),
        (
            "hermes",
            r#"<tool_call>[{"name":"a","arguments":{}}] {"name":"b","arguments":{}}</tool_call>"#,
            "",
            &[("a", "{}"), ("b", "{}")],
        ),
        // Keys.
        ("hermes", r#"<tool_call>{"name":"a","arguments":{},}</tool_call>"#, ",}", &[("a", "{}")]),
        ("hermes", r#"<tool_call>{"name":"a","function":"b","arguments":{}}</tool_call>"#, "", &[("a", "{}")]),
        ("hermes", r#"<tool_call>{"name":"a","arguments":{},"name":"b"}</tool_call>"#, "", &[("a", "{}")]),
        (
            "hermes",
            r#"<tool_call>{"arguments":{"x":1},"parameters":{"y":2},"name":"a"}</tool_call>"#,
            "",
            &[("a", r#"{"x":1}"#)],
        ),
        (
            "hermes",
            r#"<tool_call>{"name":"a","arguments":{"x":1},"parameters":{"y":2}}</tool_call>"#,
            "",
            &[("a", r#"{"x":1}"#)],
        ),
        ("llama3", r#"{"name":"a","parameters":{},"more":1}"#, "", &[("a", "{}")]),
        ("llama3", r#"{"more":1,"name":"a","parameters":{}}"#, r#"{"more":1,"name":"a","parameters":{}}"#, &[]),
        ("llama3", r#"{"name":"a"}"#, r#"{"name":"a"}"#, &[]),
        // Values.
        ("llama3", r#"{"name":"  ","parameters":{}}"#, r#"{"name":"  ","parameters":{}}"#, &[]),
        ("llama3", r#"{"name":"a\nb","parameters":{}}"#, r#"{"name":"a\nb","parameters":{}}"#, &[]),
        ("llama3", r#"{"name": 5, "parameters":{}}"#, r#"{"name": 5, "parameters":{}}"#, &[]),
        ("hermes", r#"<tool_call>{"id": 12, "name":" a ","arguments":{}}</tool_call>"#, "", &[("a", "{}")]),
    ];
    for (format, text, content, calls) in cases {
        reads(format, text, &message(content, calls), true);
    }
    // An id belongs to its own call, and comes before the call is given or not at all.
    let mut expected = message("", &[("a", "{}"), ("b", "{}"), ("c", "{}")]);
    expected.calls[2].id = Some("y".to_string());
    let text = r#"[TOOL_CALLS][{"name":"a","arguments":{},"id":"x"},{"name":"b","arguments":{}},{"id":"y","name":"c","arguments":{}}]"#;
    reads("mistral", text, &expected, true);
}

#[test]
fn names_and_keys_have_256_bytes() {
    let longest = ["n".repeat(256), "\u{e9}".repeat(128), format!("{}\\n{}", "n".repeat(200), "n".repeat(55))];
    for name in &longest {
        for (key, value) in [("name", name.as_str()), ("id", name.as_str())] {
            let object = |value: &str| match key {
                "name" => format!("<tool_call>{{\"name\":\"{value}\",\"arguments\":{{}}}}</tool_call>"),
                _ => format!("<tool_call>{{\"id\":\"{value}\",\"name\":\"a\",\"arguments\":{{}}}}</tool_call>"),
            };
            let said: String = serde_json::from_str(&format!("\"{value}\"")).unwrap();
            assert_eq!(said.len(), 256);
            let mut expected = message("", &[("a", "{}")]);
            match key {
                "name" => expected.calls[0].name = said.clone(),
                _ => expected.calls[0].id = Some(said.clone()),
            }
            if key == "name" && said.contains('\n') {
                expected = message(&object(value), &[]);
            }
            reads("hermes", &object(value), &expected, true);
            let longer = object(&format!("{value}n"));
            reads("hermes", &longer, &message(&longer, &[]), false);
        }
    }
    let key = |bytes: usize| {
        format!("<tool_call>{{\"name\":\"a\",\"{}\":1,\"arguments\":{{}}}}</tool_call>", "k".repeat(bytes))
    };
    reads("hermes", &key(256), &message("", &[("a", "{}")]), true);
    reads("hermes", &key(257), &message(&key(257), &[]), false);
    // A value that does not matter may have any length.
    let text =
        format!("<tool_call>{{\"more\":\"{}\",\"name\":\"a\",\"arguments\":{{}}}}</tool_call>", "v".repeat(3000));
    reads("hermes", &text, &message("", &[("a", "{}")]), true);
}

const OPEN: &str = "<\u{ff5c}DSML\u{ff5c}function_calls>";
const CLOSE: &str = "</\u{ff5c}DSML\u{ff5c}function_calls>";
const END: &str = "</\u{ff5c}DSML\u{ff5c}invoke>";

fn invoke(name: &str, body: &str) -> String {
    format!("<\u{ff5c}DSML\u{ff5c}invoke name=\"{name}\">{body}{END}")
}

fn parameter(attributes: &str, value: &str) -> String {
    format!("<\u{ff5c}DSML\u{ff5c}parameter {attributes}>{value}</\u{ff5c}DSML\u{ff5c}parameter>")
}

fn block(calls: &str) -> String {
    format!("{OPEN}{calls}{CLOSE}")
}

#[test]
fn markup_that_is_nearly_a_call() {
    let x = parameter("name=\"x\" string=\"false\"", "1");
    let whole = r#"{"y":2}"#;
    let unended = |body: &str| invoke("a", body).replace(END, "");
    let long = format!("{{\"a\": \"{}\"}}", "v".repeat(300));
    let cases: Vec<(String, String, Vec<(&str, String)>)> = vec![
        // One object and parameters exclude each other, in each call anew.
        (invoke("a", &format!("{whole}{x}")), format!("{x}{END}"), vec![("a", whole.to_string())]),
        (invoke("a", &format!("{whole}{whole}")), format!("{whole}{END}"), vec![("a", whole.to_string())]),
        (invoke("a", &format!("{x}{whole}")), format!("{whole}{END}"), vec![("a", "{\"x\": 1}".to_string())]),
        (
            invoke("a", whole) + &invoke("b", &x) + &invoke("c", &format!("{x}{x}")) + &invoke("d", ""),
            String::new(),
            vec![
                ("a", whole.to_string()),
                ("b", "{\"x\": 1}".to_string()),
                ("c", "{\"x\": 1, \"x\": 1}".to_string()),
                ("d", "{}".to_string()),
            ],
        ),
        // Ends that were forgotten.
        (
            unended("{\"y\":2") + &invoke("b", ""),
            String::new(),
            vec![("a", "{\"y\":2".to_string()), ("b", "{}".to_string())],
        ),
        (unended(&x) + &invoke("b", &x), String::new(), ["a", "b"].map(|n| (n, "{\"x\": 1}".to_string())).into()),
        (unended(""), String::new(), vec![("a", "{}".to_string())]),
        // What a value is, where nothing says that it is a string.
        (
            invoke("a", &(parameter("name=\"p\"", "5") + &parameter("name=\"q\" string=\"no\"", "5"))),
            String::new(),
            vec![("a", "{\"p\": \"5\", \"q\": \"5\"}".to_string())],
        ),
        (
            invoke("a", &parameter("name=\"p\" string=\"false\"", "[1, oops")),
            String::new(),
            vec![("a", "{\"p\": [1, oops}".to_string())],
        ),
        (
            invoke("a", &parameter("string=\"false\" name=\"p\"", &format!(" \n{long}"))),
            String::new(),
            vec![("a", format!("{{\"p\": {long}}}"))],
        ),
    ];
    for (calls, content, expected) in cases {
        let calls_of: Vec<(&str, &str)> = expected.iter().map(|(name, said)| (*name, said.as_str())).collect();
        // The end of a block behind a call is no content.
        reads("deepseek-v3.2", &block(&calls), &message(&content, &calls_of), true);
    }
    // A parameter without a name ends the call, and is itself text.
    for name in ["a\nb", "  ", ""] {
        let nameless = parameter(&format!("name=\"{name}\""), "v");
        for (before, said) in [("", "{}"), (x.as_str(), "{\"x\": 1}")] {
            let text = block(&invoke("a", &format!("{before}\n{nameless}")));
            reads("deepseek-v3.2", &text, &message(&format!("{nameless}{END}"), &[("a", said)]), true);
        }
        let json = parameter("name=\"x\" string=\"false\"", "[1]");
        let text = format!("So: {}", block(&invoke("a", &format!("{json} \n{nameless}"))));
        reads("deepseek-v3.2", &text, &message(&format!("So: {nameless}{END}"), &[("a", "{\"x\": [1]}")]), true);
        let text = block(&invoke(name, ""));
        reads("deepseek-v3.2", &text, &message(&text, &[]), true);
    }
}

#[test]
fn markup_has_limits_of_its_own() {
    // 512 bytes of attributes: ` name="` and `"` are 8 of them.
    for name in ["n".repeat(256), "n".repeat(504)] {
        reads("deepseek-v3.2", &block(&invoke(&name, "")), &message("", &[(name.as_str(), "{}")]), true);
    }
    let text = block(&invoke(&"n".repeat(505), ""));
    reads("deepseek-v3.2", &text, &message(&text, &[]), false);
    // Behind a call that has begun the braces are closed, and the rest is content.
    let inner = |bytes: usize| parameter(&format!("name=\"{}\"", "n".repeat(bytes)), "v");
    let said = format!("{{\"{}\": \"v\"}}", "n".repeat(504));
    reads("deepseek-v3.2", &block(&invoke("a", &inner(504))), &message("", &[("a", said.as_str())]), true);
    let content = block(&inner(505)).replacen(OPEN, "", 1).replace(CLOSE, "") + END;
    reads("deepseek-v3.2", &block(&invoke("a", &inner(505))), &message(&content, &[("a", "{}")]), false);
    // A word is looked at up to 256 bytes, then it is a string.
    for (digits, quote) in [(256, ""), (257, "\"")] {
        let word = "1".repeat(digits);
        let text = block(&invoke("a", &parameter("name=\"p\" string=\"false\"", &word)));
        let said = format!("{{\"p\": {quote}{word}{quote}}}");
        reads("deepseek-v3.2", &text, &message("", &[("a", said.as_str())]), false);
    }
    // What is cut in the middle of a word says nothing of it.
    let format = Format::by_name("deepseek-v3.2").unwrap();
    let text = format!(
        "{}12",
        block(&invoke("a", "")).split("</").next().unwrap().to_string()
            + "<\u{ff5c}DSML\u{ff5c}parameter name=\"p\" string=\"false\">"
    );
    assert_eq!(cut(&format, false, [text.as_str()]), message("", &[("a", "{\"p\": ")]));
}

/// One message as templates of a format get it.
fn shaped(format: &str, message: Value) -> Value {
    let mut messages = for_template(&Format::by_name(format).unwrap(), &[message]);
    assert_eq!(messages.len(), 1);
    messages.remove(0)
}

#[test]
fn content_beside_calls_is_what_templates_take() {
    let call = || json!([{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    for format in Format::names() {
        for none in [json!([]), json!(null)] {
            let found = shaped(format, json!({"role": "assistant", "content": "Hi", "tool_calls": none}));
            assert_eq!(found, json!({"role": "assistant", "content": "Hi"}), "{format}");
        }
        for without in [json!({"role": "assistant"}), json!({"role": "assistant", "content": null})] {
            assert_eq!(shaped(format, without)["content"], "", "{format}");
        }
        for kept in [json!("Hi"), json!("")] {
            assert_eq!(shaped(format, json!({"role": "user", "content": kept}))["content"], kept, "{format}");
        }
        // Beside calls: nothing is null, or "" for DSML; an empty text is null where calls are named by marks.
        let with = |content: Option<Value>| {
            let mut message = json!({"role": "assistant", "tool_calls": call()});
            if let Some(content) = content {
                message["content"] = content;
            }
            shaped(format, message)["content"].clone()
        };
        let dsml = matches!(format, "deepseek-v3.2" | "deepseek-v4");
        let named = matches!(format, "deepseek-v3" | "deepseek-v3.1" | "kimi-k2" | "mistral-v11");
        let nothing = if dsml { json!("") } else { json!(null) };
        assert_eq!((with(None), with(Some(json!(null)))), (nothing.clone(), nothing), "{format}");
        assert_eq!(with(Some(json!(""))), if named { json!(null) } else { json!("") }, "{format}");
        // deepseek-v3 makes two messages of it.
        if format != "deepseek-v3" {
            assert_eq!(with(Some(json!("Hi"))), "Hi", "{format}");
        }
    }
}

#[test]
fn arguments_are_objects_or_text_as_templates_take_them() {
    let given = |format: &str, arguments: Option<Value>| {
        let mut function = json!({"name": "f"});
        if let Some(arguments) = arguments {
            function["arguments"] = arguments;
        }
        let found =
            shaped(format, json!({"role": "assistant", "content": null, "tool_calls": [{"function": function}]}));
        assert_eq!(found["tool_calls"][0]["type"], "function", "{format}");
        found["tool_calls"][0]["function"]["arguments"].clone()
    };
    // Hermes' templates write objects: what is none stays as the model wrote it.
    assert_eq!(given("hermes", None), json!({}));
    assert_eq!(given("hermes", Some(json!(" "))), json!({}));
    assert_eq!(given("hermes", Some(json!(" {\"x\": 1.0} "))), json!({"x": 1.0}));
    for odd in [json!("[1]"), json!("5"), json!("null"), json!("{\"x\""), json!("words")] {
        assert_eq!(given("hermes", Some(odd.clone())), odd);
    }
    // DeepSeek's write text.
    assert_eq!(given("deepseek-v3.1", Some(json!(" {\"x\":1}"))), " {\"x\":1}");
}

#[test]
fn messages_are_divided_where_a_template_takes_less() {
    let call =
        |id: Value, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
    let shaped = |format: &str, messages: Vec<Value>| for_template(&Format::by_name(format).unwrap(), &messages);
    // DeepSeek-V3: text and calls apart; a message of calls alone stays one.
    let both = json!({"role": "assistant", "content": "Hi", "tool_calls": [call(json!("i"), "f")]});
    let found = shaped("deepseek-v3", vec![both]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], json!({"role": "assistant", "content": "Hi"}));
    assert!(found[1]["content"].is_null() && found[1]["tool_calls"].as_array().unwrap().len() == 1);
    let alone = json!({"role": "assistant", "content": null, "tool_calls": [call(json!("i"), "f")]});
    assert_eq!(shaped("deepseek-v3", vec![alone.clone()]), [alone]);
    // Llama 3: one call a message, each before its own result; results of nobody come last, in order.
    let calls = json!([call(json!("i"), "f"), call(json!(null), "g"), call(json!("k"), "h")]);
    let result = |id: Value| json!({"role": "tool", "tool_call_id": id, "content": "r"});
    let nameless = json!({"role": "tool", "content": "r"});
    let mut no_id = call(json!("x"), "g");
    no_id.as_object_mut().unwrap().remove("id");
    let mut messages = json!([{"role": "assistant", "content": null, "tool_calls": calls}]);
    messages[0]["tool_calls"][1] = no_id;
    let mut messages = messages.as_array().unwrap().clone();
    messages.extend([result(json!("z")), result(json!("k")), nameless.clone(), result(json!("i"))]);
    messages.push(json!({"role": "user", "content": "u"}));
    let found = shaped("llama3", messages);
    let told: Vec<String> = found
        .iter()
        .map(|m| match m["tool_calls"][0]["function"]["name"].as_str() {
            Some(name) => name.to_string(),
            None => format!("{} {}", m["role"].as_str().unwrap(), m["tool_call_id"].as_str().unwrap_or("-")),
        })
        .collect();
    assert_eq!(told, ["f", "tool i", "g", "h", "tool k", "tool z", "tool -", "user -"]);
    assert!(found.iter().all(|m| m["tool_calls"].as_array().is_none_or(|calls| calls.len() == 1)));
    let two =
        json!({"role": "assistant", "content": null, "tool_calls": [call(json!("i"), "f"), call(json!("k"), "h")]});
    assert_eq!(shaped("llama3", vec![two]).len(), 2);
}

#[test]
fn mistrals_ids_are_nine_letters_and_digits() {
    for format in ["mistral", "mistral-v11"] {
        let ids = |id: &str| {
            let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
            let messages = [
                json!({"role": "assistant", "content": null, "tool_calls": [call]}),
                json!({"role": "tool", "tool_call_id": id, "content": "r"}),
            ];
            let messages = for_template(&Format::by_name(format).unwrap(), &messages);
            let id = messages[0]["tool_calls"][0]["id"].as_str().unwrap().to_string();
            assert_eq!(messages[1]["tool_call_id"], id.as_str());
            id
        };
        assert_eq!(ids("abcDEF019"), "abcDEF019");
        let odd = ["abcDEF01", "abcDEF0190", "abcDEF01-", "abcDEF01\u{e9}", "", "call_1", "call_2"];
        let short: Vec<String> = odd.iter().map(|id| ids(id)).collect();
        for (id, short) in odd.iter().zip(&short) {
            assert!(short.len() == 9 && short.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}: {short}");
        }
        let distinct: std::collections::HashSet<&String> = short.iter().collect();
        assert_eq!(distinct.len(), odd.len());
    }
}
