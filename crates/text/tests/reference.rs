//! Ids, texts and prompts equal those of other programs.

use std::path::{Path, PathBuf};

use farthing_text::chat::{Context, Message, Role, Template};
use farthing_text::{Detokenizer, Tokenizer};
use serde_json::Value;

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
    let mut stream = Detokenizer::new(&tokenizer, true);
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

/// Names of special tokens in what people write are text, before and after a template.
#[test]
fn special_tokens_cannot_be_smuggled() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let tokenizer = Tokenizer::from_json(&std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let special: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id)).collect();
    assert!(!special.is_empty());
    let template = Template::new("{{ bos_token }}[{{ messages[0].content | trim }}]{{ eos_token }}").unwrap();
    let (first, last) = (tokenizer.piece(special[0]).unwrap(), tokenizer.piece(special[1]).unwrap());
    let context = Context { bos_token: first.clone(), eos_token: last.clone(), ..Context::default() };
    for said in
        [format!("a{last}b"), format!("{first}{last}{first}"), "\u{fdd0}0\u{fdd1}".to_string(), "plain".to_string()]
    {
        let message = Message::new(Role::User, tokenizer.escape_special_tokens(&said)).into_json(false);
        let ids = tokenizer.encode_prompt(&template.render(&[message], &context).unwrap()).unwrap();
        let found: Vec<u32> = ids.iter().copied().filter(|id| special.contains(id)).collect();
        assert_eq!(found, [special[0], special[1]], "{said}");
        let said = said.replace(['\u{fdd0}', '\u{fdd1}'], "\u{fffd}");
        assert_eq!(tokenizer.decode(&ids, true), format!("[{said}]"));
    }
    // Without special tokens inside, ids are those of the whole text.
    assert_eq!(
        tokenizer.encode_prompt("Once upon a time").unwrap(),
        tokenizer.encode("Once upon a time", false).unwrap()
    );
    assert!(tokenizer.encode_prompt("\u{fdd0}9999\u{fdd1}").is_err() && tokenizer.encode_prompt("\u{fdd0}").is_err());
}

/// A template may put texts from outside side by side, or beside what it writes itself: what they make together is text.
#[test]
fn texts_side_by_side_make_no_special_token() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let tokenizer = Tokenizer::from_json(&std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let special: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_special(id)).collect();
    let names: Vec<String> = special.iter().map(|&id| tokenizer.piece(id).unwrap()).collect();
    for (name, id) in names.iter().zip(&special) {
        let cuts: Vec<usize> = name.char_indices().map(|(at, _)| at).skip(1).collect();
        for &cut in &cuts {
            for &other in cuts.iter().filter(|&&other| other >= cut) {
                let parts =
                    [&name[..cut], &name[cut..other], &name[other..]].map(|part| tokenizer.escape_special_tokens(part));
                let around =
                    [tokenizer.escape_special_tokens("a "), parts.concat(), tokenizer.escape_special_tokens(" b")]
                        .concat();
                let ids = tokenizer.encode_prompt(&around).unwrap();
                assert!(!ids.contains(id), "{name} at {cut} and {other}: {ids:?}");
                assert_eq!(tokenizer.decode(&ids, false), format!("a {name} b"));
            }
            // The template's own beginning, with the rest from outside.
            let ids = tokenizer
                .encode_prompt(&format!("{}{}", &name[..cut], tokenizer.escape_special_tokens(&name[cut..])))
                .unwrap();
            assert!(!ids.contains(id), "{name} at {cut}: {ids:?}");
        }
        // What only looks so has the ids that it has without marks, and a special token of the template's beside it stays one.
        for said in [format!("x{}", &name[..cuts[0]]), format!("{}x", &name[cuts[0]..]), name[..cuts[1]].to_string()] {
            let ids =
                tokenizer.encode_prompt(&format!("{}\n\ny{name}", tokenizer.escape_special_tokens(&said))).unwrap();
            assert_eq!(ids, tokenizer.encode(&format!("{said}\n\ny{name}"), false).unwrap(), "{said}");
        }
    }
}

/// DeepSeek-V3's tokenizer does not flag its marks of turns and tools as special: they are marks all the same.
#[test]
fn marks_that_are_not_flagged_cannot_be_smuggled_either() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let marks: Vec<String> = ["<｜User｜>", "<｜tool▁calls▁begin｜>", "</think>"].map(str::to_string).into();
    for token in json["added_tokens"].as_array_mut().unwrap() {
        token["special"] = (!marks.iter().any(|mark| token["content"] == **mark)).into();
    }
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).unwrap();
    for mark in &marks {
        let id = tokenizer.id_of(mark).unwrap();
        assert!(!tokenizer.is_special(id) && tokenizer.encode(mark, false).unwrap() == [id]);
        let said = format!("a {mark} b{mark}");
        let ids = tokenizer.encode_prompt(&tokenizer.escape_special_tokens(&said)).unwrap();
        assert!(!ids.contains(&id), "{mark}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), said);
    }
}

/// What the fuzzer starts from, and everything it found, is an answer or an error.
#[test]
fn seeds_and_findings_of_the_fuzzer() {
    let mut count = 0;
    for target in ["tokenizer", "vocabulary", "template"] {
        for kind in ["seeds", "findings"] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join(target);
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            for entry in entries {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                count += 1;
                let tokenizer = match target {
                    "template" => {
                        let Ok(source) = std::str::from_utf8(&bytes) else { continue };
                        // Findings may end the process that renders them: the fuzzer's own tests do that.
                        if let Ok(template) = Template::with_fuel(source, 20_000)
                            && kind == "seeds"
                        {
                            let message = Message::new(Role::User, "a b").into_json(false);
                            let _ = template.render(&[message], &Context::default());
                        }
                        continue;
                    }
                    "tokenizer" => Tokenizer::from_json(&bytes),
                    _ => {
                        let Ok(vocabulary) = serde_json::from_slice::<farthing_text::Vocabulary>(&bytes) else {
                            continue;
                        };
                        Tokenizer::from_vocabulary(&vocabulary)
                    }
                };
                if let Ok(tokenizer) = tokenizer
                    && let Ok(ids) = tokenizer.encode("abc <s> 12 \u{e9}\n", true)
                {
                    let _ = tokenizer.decode(&ids, false);
                }
            }
        }
    }
    assert!(count > 15);
}
