//! Ids, texts and prompts equal those of other programs.

use std::path::{Path, PathBuf};

use serde_json::Value;
use text::chat::{Context, Template};
use text::{Stream, Tokenizer};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn small_tokenizers_equal_the_reference() {
    let mut strings = 0;
    for entry in std::fs::read_dir(data("oracle")).unwrap() {
        let case = entry.unwrap().path();
        let tokenizer = Tokenizer::from_json(&std::fs::read(case.join("tokenizer.json")).unwrap()).unwrap();
        let config = json(&case.join("tokenizer_config.json"));
        let oracle = json(&case.join("tokenizer_oracle.json"));
        for s in oracle["strings"].as_array().unwrap() {
            let text = s["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids(&s["ids"]), "{} {text:?}", case.display());
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                ids(&s["ids_with_special"]),
                "{} {text:?}",
                case.display()
            );
            assert_eq!(tokenizer.decode(&ids(&s["ids"]), false), s["decoded"].as_str().unwrap());
            assert_eq!(
                tokenizer.decode(&ids(&s["ids_with_special"]), true),
                s["decoded_skip_special"].as_str().unwrap()
            );
            strings += 1;
        }
        let template = Template::new(config["chat_template"].as_str().unwrap()).unwrap();
        let name = |key: &str| config[key].as_str().unwrap_or_default().to_string();
        for chat in oracle["chats"].as_array().unwrap() {
            let context = Context {
                add_generation_prompt: chat["add_generation_prompt"].as_bool().unwrap(),
                bos_token: name("bos_token"),
                eos_token: name("eos_token"),
                ..Context::default()
            };
            let text = template.render(chat["messages"].as_array().unwrap(), &context).unwrap();
            assert_eq!(text, chat["text"].as_str().unwrap(), "{}", case.display());
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids(&chat["ids"]), "{}", case.display());
        }
    }
    assert_eq!(strings, 5 * 40);
}

/// Every render in a file like `templates/expected.json`; how many were compared, and those that differ.
fn renders(expected: &Path, templates: &Path) -> (usize, Vec<String>) {
    let cases = json(expected);
    let mut differing = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template =
            Template::new(&std::fs::read_to_string(templates.join(format!("{name}.jinja"))).unwrap()).unwrap();
        let word = |key: &str| case[key].as_str().unwrap_or_default().to_string();
        let mut extra = serde_json::Map::new();
        extra.insert("date_string".to_string(), case["date_string"].clone());
        let context = Context {
            add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
            bos_token: word("bos_token"),
            eos_token: word("eos_token"),
            tools: case.get("tools").filter(|t| !t.is_null()).cloned(),
            extra,
        };
        let rendered = template.render(case["messages"].as_array().unwrap(), &context);
        let equal = match (&rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) => text == expected,
            (Err(_), None) => true,
            _ => false,
        };
        if !equal {
            differing.push(format!(
                "{name} {}: {rendered:?}, expected {} {}",
                case["conversation"], case["text"], case["error"]
            ));
        }
    }
    (cases.as_array().unwrap().len(), differing)
}

#[test]
fn published_templates_render_the_same_bytes() {
    let (compared, differing) = renders(&data("templates/expected.json"), &data("templates"));
    assert!(
        compared >= 60 && differing.is_empty(),
        "{} of {compared} differ: {}",
        differing.len(),
        differing.join("\n")
    );
}

#[test]
fn a_sentencepiece_vocabulary_spells_words() {
    let tokenizer = Tokenizer::from_json(&std::fs::read(data("stories260K.tokenizer.json")).unwrap()).unwrap();
    let text = "Once upon a time, there was a 猫.";
    let ids = tokenizer.encode(text, true).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, true), text);
    let mut stream = Stream::new(&tokenizer, true);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces.concat() + &stream.finish(), text);
    assert!(pieces.iter().filter(|p| p.contains('猫')).count() == 1 && !pieces.concat().contains('\u{fffd}'));
}

#[test]
fn hostile_descriptions_are_errors() {
    for bytes in [
        &b""[..],
        b"{}",
        b"[]",
        b"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"x\",\"y\"]]}}",
        b"\xff\xfe",
    ] {
        let error = Tokenizer::from_json(bytes).err().expect("refused").to_string();
        assert!(error.starts_with("tokenizer: ") && !error.contains('\n'), "{error}");
    }
    let tokenizer = Tokenizer::from_json(&std::fs::read(data("stories260K.tokenizer.json")).unwrap()).unwrap();
    assert_eq!(tokenizer.decode(&[1, 4_000_000, 7], true), "\u{4}");
    assert!(tokenizer.bytes(u32::MAX).is_none());
}

mod streams {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Joined pieces are the text of all ids, whatever the ids; only whole characters are given.
        #[test]
        fn pieces_join_to_the_text(ids in proptest::collection::vec(0u32..660, 0..60), skip: bool) {
            thread_local! {
                static TOKENIZER: Tokenizer =
                    Tokenizer::from_json(&std::fs::read(data("oracle/deepseek-v3-shape/tokenizer.json")).unwrap()).unwrap();
            }
            TOKENIZER.with(|tokenizer| {
                let bytes: Vec<u8> = ids
                    .iter()
                    .filter(|&&id| !(skip && tokenizer.is_special(id)))
                    .flat_map(|&id| tokenizer.bytes(id).unwrap_or_default())
                    .collect();
                prop_assert_eq!(tokenizer.decode(&ids, skip), String::from_utf8_lossy(&bytes));
                Ok(())
            })?;
        }
    }
}
