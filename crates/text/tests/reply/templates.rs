//! Earlier calls in prompts, and markers between vocabulary and parser.

use std::path::{Path, PathBuf};

use farthing_text::chat::{Context, Template};
use farthing_text::reply::{Format, fit_history};
use farthing_text::{Detokenizer, Tokenizer};
use serde_json::{Value, json};

use super::{for_template, join, stream};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn template(name: &str) -> String {
    std::fs::read_to_string(data("templates").join(format!("{name}.jinja"))).unwrap()
}

/// What Llama 3.1's template does with calls.
const LLAMA: &str = "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% if 'tool_calls' in m %}{% if m.tool_calls|length != 1 %}{{ raise_exception('one call at once') }}{% endif %}{\"name\": \"{{ m.tool_calls[0].function.name }}\", \"parameters\": {{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}";

/// What DeepSeek's encoding of V3.2 does with calls.
const DSML: &str = "{% for m in messages %}{{ '<｜User｜>' if m.role == 'user' else '' }}{{ m.content }}{% for c in m.tool_calls or [] %}{{ '\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"' + c.function.name + '\">\n' }}{% for k, v in c.function.arguments.items() %}{{ '<｜DSML｜parameter name=\"' + k + '\" string=\"' + ('true' if v is string else 'false') + '\">' + (v if v is string else v | tojson) + '</｜DSML｜parameter>\n' }}{% endfor %}{{ '</｜DSML｜invoke>\n</｜DSML｜function_calls>' }}{% endfor %}{% endfor %}";

fn conversation(content: Value, calls: &[(&str, &str)]) -> Vec<Value> {
    let id = |i: usize| format!("call_{i}_of_many");
    let function =
        |i: usize| json!({"id": id(i), "type": "function", "function": {"name": calls[i].0, "arguments": calls[i].1}});
    let mut messages = vec![
        json!({"role": "user", "content": "Weather?"}),
        json!({"role": "assistant", "content": content, "tool_calls": (0..calls.len()).map(function).collect::<Vec<_>>()}),
    ];
    messages.extend(
        (0..calls.len()).map(|i| json!({"role": "tool", "tool_call_id": id(i), "content": format!("result {i}")})),
    );
    messages.push(json!({"role": "assistant", "content": "Sunny.", "tool_calls": null}));
    messages
}

fn render(source: &str, messages: Vec<Value>) -> String {
    let template = Template::new(source).unwrap();
    let context = Context { eos_token: "<eos>".to_string(), ..Context::default() };
    let format = fit_history(Format::of_template(source), |messages| template.render(messages, &context).ok());
    template.render(&for_template(&format, &messages), &context).unwrap()
}

#[test]
fn formats_are_recognised_by_templates() {
    for (name, format, reasons) in [
        ("deepseek-ai-DeepSeek-V3.1", "deepseek-v3.1", true),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-v3", true),
        ("deepseek-ai-DeepSeek-V3", "deepseek-v3", false),
        ("deepseek-ai-DeepSeek-R1", "deepseek-v3", true),
        ("deepseek-ai-DeepSeek-V2", "plain", false),
        ("Qwen-Qwen2.5-7B-Instruct", "hermes", false),
        ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", false),
        ("microsoft-Phi-3.5-mini-instruct", "plain", false),
    ] {
        let found = Format::of_template(&template(name));
        assert_eq!((found.name(), found.reasons()), (format, reasons), "{name}");
    }
    assert_eq!(Format::of_template(LLAMA).name(), "llama3");
    assert_eq!(Format::of_template(DSML).name(), "deepseek-v3.2");
    assert_eq!(Format::of_template("<tool_call>\n<function=").name(), "plain");
    assert!(Format::by_name("hermes").is_some_and(|f| f.calls()) && Format::by_name("Hermes").is_none());
    let r1 = Format::of_template(&template("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"));
    assert!(r1.opened_by("<｜Assistant｜><think>\n") && !r1.opened_by("<｜Assistant｜></think>"));
}

/// No marker begins another one: the parser takes the first that fits.
#[test]
fn markers_are_told_apart() {
    for name in Format::names() {
        let format = Format::by_name(name).unwrap();
        let markers = format.markers(true);
        for (i, a) in markers.iter().enumerate() {
            assert!(markers.iter().enumerate().all(|(j, b)| i == j || !a.starts_with(b)), "{name}: {a}");
        }
        assert_eq!(format.triggers().is_empty(), !format.calls());
        assert_eq!(format.syntax().is_none(), !format.calls());
    }
}

#[test]
fn arguments_are_encoded_once() {
    let arguments = r#"{"city": "Paris \"é\"", "n": [1, 2.5]}"#;
    let calls = [("weather", arguments)];
    for (source, expected) in [
        (
            template("deepseek-ai-DeepSeek-V3.1"),
            format!("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ),
        (
            template("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"),
            format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{arguments}\n```<｜tool▁call▁end｜>"),
        ),
        (
            template("Qwen-Qwen2.5-7B-Instruct"),
            format!("\n<tool_call>\n{{\"name\": \"weather\", \"arguments\": {arguments}}}\n</tool_call><|im_end|>"),
        ),
        (template("mistralai-Mistral-Nemo-Instruct-2407"), format!("[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {arguments}, \"id\": \"")),
        (LLAMA.to_string(), format!("{{\"name\": \"weather\", \"parameters\": {arguments}}}<|eot_id|>")),
        (DSML.to_string(), "string=\"true\">Paris \"é\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">[1, 2.5]</｜DSML｜parameter>".to_string()),
    ] {
        for content in [Value::Null, json!("")] {
            let prompt = render(&source, conversation(content, &calls));
            assert!(prompt.contains(&expected), "{prompt}\nlacks\n{expected}");
            assert!(prompt.contains("result 0") && prompt.contains("Sunny.") && !prompt.contains("{\\\""), "{prompt}");
        }
        // Beside text, and without arguments.
        let prompt = render(&source, conversation(json!("I look."), &calls));
        assert!(prompt.contains(&expected), "{prompt}\nlacks\n{expected}");
        let prompt = render(&source, conversation(json!(""), &[("now", "")]));
        assert!(prompt.contains("now") && !prompt.contains("\"\""), "{prompt}");
    }
}

/// DeepSeek's own templates of one format differ in what may stand beside calls: null (V3), an empty text (R1-0528), content (R1, V3-0324).
#[test]
fn earlier_calls_fit_the_template() {
    for (name, together) in [
        ("deepseek-ai-DeepSeek-V3", false),
        ("deepseek-ai-DeepSeek-V3-0324", true),
        ("deepseek-ai-DeepSeek-R1", true),
        ("deepseek-ai-DeepSeek-R1-0528", true),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", false),
        ("deepseek-ai-DeepSeek-V3.1", true),
    ] {
        for content in [Value::Null, json!(""), json!("I look.")] {
            let prompt =
                render(&template(name), conversation(content.clone(), &[("weather", "{\"city\": \"Paris\"}")]));
            let calls = format!(
                "{}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
                content.as_str().filter(|_| together).unwrap_or_default()
            );
            let counts = [calls.as_str(), "{\"city\": \"Paris\"}", "result 0", "Sunny."]
                .map(|part| prompt.matches(part).count());
            assert_eq!(counts, [1; 4], "{name} {content}: {prompt}");
            assert!(prompt.contains(content.as_str().unwrap_or_default()), "{name}: {prompt}");
        }
    }
}

/// Parsed replies, put back into the conversation, render as the model wrote them.
#[test]
fn replies_render_as_they_were_written() {
    for (name, replies) in [
        (
            "deepseek-ai-DeepSeek-V3.1",
            vec![
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": 1.0}<｜tool▁call▁end｜><｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                "I look.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{ }<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ],
        ),
        (
            "Qwen-Qwen2.5-7B-Instruct",
            vec![
                "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": \"é\", \"y\": 1.5}}\n</tool_call>\n<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>",
                "I look.\n\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": [1, {\"y\": null}]}}\n</tool_call>",
            ],
        ),
        (
            "mistralai-Mistral-Nemo-Instruct-2407",
            vec!["[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {\"x\": 1}, \"id\": \""],
        ),
    ] {
        let source = template(name);
        for written in replies {
            let message = stream(&Format::of_template(&source), false, true, [written]);
            let calls: Vec<_> = message.calls.iter().map(|c| (c.name.as_str(), c.arguments.as_str())).collect();
            assert!(!calls.is_empty());
            let prompt = render(&source, conversation(json!(message.content), &calls));
            assert!(prompt.contains(written), "{prompt}\nlacks\n{written}");
        }
    }
}

/// What a template of one call a message, or of ids of nine letters, or of either content or calls would refuse or drop.
#[test]
fn limits_of_templates_are_met() {
    let calls = [("a", "{\"x\": 1}"), ("b", "{}")];
    let prompt = render(LLAMA, conversation(Value::Null, &calls));
    let order: Vec<usize> = ["\"name\": \"a\"", "result 0", "\"name\": \"b\"", "result 1", "Sunny."]
        .iter()
        .map(|s| prompt.find(s).unwrap())
        .collect();
    assert!(order.is_sorted(), "{prompt}");
    let prompt = render(&template("mistralai-Mistral-Nemo-Instruct-2407"), conversation(Value::Null, &calls));
    for part in prompt.split("\"id\": \"").skip(1) {
        let id = &part[..9];
        assert!(prompt.contains(&format!("\"call_id\": \"{id}\"")), "{prompt}");
    }
    assert!(prompt.matches("\"id\": \"").count() == 2);
    let prompt = render(&template("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"), conversation(json!("I look."), &calls));
    assert!(prompt.contains("I look.") && prompt.contains("function<｜tool▁sep｜>b"), "{prompt}");
    // Little here is what it should be, and nothing panics or is lost.
    let odd = [
        json!({"role": "tool", "content": "r", "tool_calls": [{"function": {"name": ""}}, {"function": {"name": "f"}}]}),
        json!({"role": "user", "tool_calls": [{"id": "", "function": {"name": "f", "arguments": "no"}}], "tool_call_id": ""}),
        json!({"role": "assistant", "reasoning_content": "", "name": ""}),
    ];
    for name in Format::names() {
        assert!(for_template(&Format::by_name(name).unwrap(), &odd).len() >= odd.len(), "{name}");
    }
}

/// Markers that are special tokens reach the parser; the end of the text does not.
#[test]
fn markers_of_the_vocabulary_are_shown() {
    let tokenizer =
        Tokenizer::from_json(&std::fs::read(data("oracle/deepseek-v3-shape/tokenizer.json")).unwrap()).unwrap();
    let format = Format::by_name("deepseek-v3.1").unwrap();
    let text = "Hm</think>Hi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"é\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>";
    let ids = tokenizer.encode(text, false).unwrap();
    let special = |piece: &str| tokenizer.id_of(piece).is_some_and(|id| tokenizer.is_special(id) && ids.contains(&id));
    assert!(special("</think>") && special("<｜tool▁calls▁begin｜>") && special("<｜end▁of▁sentence｜>"));
    let read = |markers: Vec<&str>| {
        let mut shown = Detokenizer::continuing(&tokenizer, true).showing(markers);
        let options = farthing_text::reply::Options { reasoning_opened: true, tools: true };
        let mut parser = farthing_text::reply::Parser::new(format, options);
        let mut deltas: Vec<_> = ids.iter().flat_map(|&id| parser.push(&shown.push(id))).collect();
        deltas.extend(parser.push(&shown.finish()));
        deltas.extend(parser.finish());
        join(deltas)
    };
    let message = read(format.markers(true));
    assert_eq!((message.reasoning.as_str(), message.content.as_str()), ("Hm", "Hi"));
    assert_eq!((message.calls[0].name.as_str(), message.calls[0].arguments.as_str()), ("f", "{\"a\": \"é\"}"));
    assert!(read(vec![]).reasoning.starts_with("HmHi"));
}
