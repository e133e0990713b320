//! The tokenizer of a checkpoint, with its chat template and the spelling of bos and eos.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::Checkpoint;
use model::checkpoint::TokenizerSource;
use model::gguf::Value;
use text::{Tokenizer, Vocabulary};

use crate::error::Error;

fn vocabulary(path: &Path, keys: &BTreeMap<String, Value>) -> Result<Vocabulary, Error> {
    /// A key's value by `read`, nothing where the key is absent, or an error that names it.
    fn of<'a, T>(
        path: &Path,
        keys: &'a BTreeMap<String, Value>,
        name: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let name = format!("tokenizer.ggml.{name}");
        let Some(value) = keys.get(&name) else { return Ok(None) };
        let wrong =
            || Error::Tokenizer(format!("{}: {name} is {}; it must be {expected}", path.display(), value.shown()));
        read(value).map(Some).ok_or_else(wrong)
    }
    let id = |name: &str| of(path, keys, name, "a token's id, or -1 for none", Value::token_id).map(Option::flatten);
    let flag = |name: &str| of(path, keys, name, "true or false", Value::boolean);
    let text = |name: &str| of(path, keys, name, "a text", |v| v.text().map(str::to_string));
    let texts = |name: &str| {
        let read = |v: &Value| if let Value::Texts(texts) = v { Some(texts.clone()) } else { None };
        of(path, keys, name, "a list of texts", read).map(Option::unwrap_or_default)
    };
    let floats = |v: &Value| if let Value::Floats(scores) = v { Some(scores.clone()) } else { None };
    let integers = |v: &Value| if let Value::Integers(types) = v { Some(types.clone()) } else { None };
    Ok(Vocabulary {
        model: text("model")?.unwrap_or_default(),
        pre: text("pre")?,
        tokens: texts("tokens")?,
        scores: of(path, keys, "scores", "a list of numbers", floats)?.unwrap_or_default(),
        types: of(path, keys, "token_type", "a list of whole numbers", integers)?.unwrap_or_default(),
        merges: texts("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unknown: id("unknown_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// A tokenizer and what stands beside it.
pub struct TokenizerParts {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Source of the chat template, where there is one.
    pub template: Option<String>,
    /// Source of the template for conversations with tools, where that is another one.
    pub tool_template: Option<String>,
    /// Spelling of the token that starts a text; empty where there is none.
    pub bos: String,
    /// Spelling of the token that ends one; empty where there is none.
    pub eos: String,
}

/// Reads the tokenizer of a checkpoint, its chat template and the spelling of bos and eos.
///
/// # Errors
/// Files that are missing or of the wrong form; each is named.
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<TokenizerParts, Error> {
    let (tokenizer, mut templates, mut bos, mut eos) = match &checkpoint.tokenizer {
        TokenizerSource::HuggingFace { tokenizer, config, template } => {
            let read = |path: &Path| model::tensors::read_bounded(path, BESIDE_BYTES_MAX);
            let named = |e: text::TextError| Error::Tokenizer(format!("{}: {e}", tokenizer.display()));
            let parsed = Tokenizer::from_json(&read(tokenizer)?).map_err(named)?;
            let Beside { mut templates, bos, eos, begins } = match config {
                Some(path) => beside(path, &read(path)?)?,
                None => Beside::default(),
            };
            let file = |path: &Path| -> Result<String, Error> {
                let not_text = |_| Error::Tokenizer(format!("{}: not UTF-8 text", path.display()));
                String::from_utf8(read(path)?).map_err(not_text)
            };
            // Files are newer than what stands in the configuration, and replace it.
            if let Some(path) = template {
                templates = Templates { default: Some(file(path)?), with_tools: None };
            }
            let named = tokenizer.with_file_name("additional_chat_templates").join("tool_use.jinja");
            if named.is_file() {
                templates.with_tools = Some(file(&named)?);
            }
            let parsed = if begins { parsed.beginning_with(&bos) } else { parsed };
            (parsed, templates, bos, eos)
        }
        TokenizerSource::Gguf(keys) => {
            let named = |e: text::TextError| Error::Tokenizer(format!("{}: {e}", checkpoint.path.display()));
            let parsed = Tokenizer::from_vocabulary(&vocabulary(&checkpoint.path, keys)?).map_err(named)?;
            let template = match keys.get("tokenizer.chat_template") {
                None => None,
                Some(Value::Text(template)) => Some(template.clone()),
                Some(other) => {
                    let (path, given) = (checkpoint.path.display(), other.shown());
                    return Err(Error::Tokenizer(format!(
                        "{path}: tokenizer.chat_template is {given}; it must be a text"
                    )));
                }
            };
            let named = keys.get("tokenizer.chat_template.tool_use").and_then(|value| match value {
                Value::Text(template) => Some(template.clone()),
                _ => None,
            });
            (parsed, Templates { default: template, with_tools: named }, String::new(), String::new())
        }
        TokenizerSource::None => {
            return Err(Error::Tokenizer(format!(
                "{}: no tokenizer.json in it; put the model's own beside its weights",
                checkpoint.path.display()
            )));
        }
    };
    let piece = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
    if bos.is_empty() {
        bos = piece(checkpoint.generation.bos);
    }
    if eos.is_empty() {
        eos = piece(checkpoint.generation.eos.first().copied());
    }
    for template in [&mut templates.default, &mut templates.with_tools] {
        template.take_if(|text| text.trim().is_empty());
    }
    let Templates { default: template, with_tools: tool_template } = templates;
    Ok(TokenizerParts { tokenizer, template, tool_template, bos, eos })
}

/// Writes the tokenizer of a checkpoint into a folder as `tokenizer.json` and `tokenizer_config.json`, which other software reads too.
///
/// # Errors
/// A checkpoint without a tokenizer, one that is damaged, a folder with another tokenizer unless that is to be replaced, or a system that refuses.
pub fn save_tokenizer(checkpoint: &Checkpoint, folder: &Path, replace: bool) -> Result<(), Error> {
    let files = tokenizer_files(checkpoint)?;
    // A template that is there would be taken for this tokenizer's.
    let others = TOKENIZER_FILES.into_iter().filter(|name| !files.iter().any(|(other, _)| name == other));
    let others: Vec<PathBuf> = others.map(|name| folder.join(name)).filter(|path| path.exists()).collect();
    let changed = files.iter().map(|(name, bytes)| (folder.join(name), bytes));
    let changed = changed.filter(|(path, bytes)| path.exists() && std::fs::read(path).ok().as_ref() != Some(*bytes));
    if let Some(path) = changed.map(|(path, _)| path).chain(others.iter().cloned()).next().filter(|_| !replace) {
        let problem = "it is of another tokenizer: give --replace, or another folder";
        return Err(Error::Tokenizer(format!("{}: {problem}", path.display())));
    }
    for path in others {
        std::fs::remove_file(&path).map_err(|e| Error::Tokenizer(format!("{}: {e}", path.display())))?;
    }
    files.iter().try_for_each(|(name, bytes)| Ok(convert::write_whole(&folder.join(name), bytes)?))
}

/// Files of a tokenizer in a model's directory.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// Names and bytes of a tokenizer's files.
fn tokenizer_files(checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let pretty = |value: &serde_json::Value| serde_json::to_vec_pretty(value).expect("JSON is text");
    let parts = tokenizer(checkpoint)?;
    match &checkpoint.tokenizer {
        TokenizerSource::HuggingFace { tokenizer, config, template } => {
            let files = [Some(tokenizer), config.as_ref(), template.as_ref()].into_iter().flatten();
            let read = |file: &PathBuf| {
                let name = file.file_name().and_then(|name| name.to_str()).expect("files of known names");
                Ok((name.to_string(), model::tensors::read_bounded(file, BESIDE_BYTES_MAX)?))
            };
            files.map(read).collect()
        }
        TokenizerSource::Gguf(keys) => {
            let named = |e: text::TextError| Error::Tokenizer(format!("{}: {e}", checkpoint.path.display()));
            let vocabulary = vocabulary(&checkpoint.path, keys)?;
            let TokenizerParts { template, bos, eos, .. } = parts;
            let token = |token: String| Some(token).filter(|token| !token.is_empty());
            let mut config = serde_json::json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": token(bos),
                "eos_token": token(eos),
                "clean_up_tokenization_spaces": false,
            });
            let padding = keys.get("tokenizer.ggml.padding_token_id").and_then(Value::token_id).flatten();
            if let Some(padding) = padding.and_then(|id| vocabulary.tokens.get(id as usize)) {
                config["pad_token"] = padding.as_str().into();
            }
            if let Some(template) = template {
                config["chat_template"] = template.into();
            }
            Ok(vec![
                ("tokenizer.json".to_string(), pretty(&vocabulary.describe().map_err(named)?)),
                ("tokenizer_config.json".to_string(), pretty(&config)),
            ])
        }
        TokenizerSource::None => unreachable!("a tokenizer was read"),
    }
}

/// Longest file beside the weights.
pub(crate) const BESIDE_BYTES_MAX: u64 = 128 << 20;

/// Sources of chat templates.
#[derive(Debug, Default, PartialEq)]
struct Templates {
    default: Option<String>,
    /// For conversations with tools.
    with_tools: Option<String>,
}

/// What `tokenizer_config.json` says. What is absent or null is empty.
#[derive(Debug, Default, PartialEq)]
struct Beside {
    templates: Templates,
    /// Spelling of the token that starts a text.
    bos: String,
    /// Spelling of the token that ends one.
    eos: String,
    /// A text begins with bos even where the tokenizer's own post-processor adds nothing: `add_bos_token`.
    begins: bool,
}

fn beside(path: &Path, bytes: &[u8]) -> Result<Beside, Error> {
    let wrong = |what: String| Error::Tokenizer(format!("{}: {what}", path.display()));
    let config: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| wrong(format!("not JSON: {e}")))?;
    if !config.is_object() {
        return Err(wrong("it must be a JSON object".to_string()));
    }
    let spelled = |key: &str| match &config[key] {
        serde_json::Value::Null => Ok(String::new()),
        given => given.as_str().or(given["content"].as_str()).map(str::to_string).ok_or_else(|| {
            let given: String = given.to_string().chars().take(80).collect();
            wrong(format!("{key} is {given}; it must be a text, or an object with the text as content"))
        }),
    };
    Ok(Beside {
        templates: chosen_templates(&config["chat_template"]).map_err(wrong)?,
        bos: spelled("bos_token")?,
        eos: spelled("eos_token")?,
        begins: config["add_bos_token"] == true,
    })
}

/// A template, or of a list those that conversations with and without tools use, as `transformers` chooses: `tool_use` and `default`, or
/// where none is called default the first.
fn chosen_templates(value: &serde_json::Value) -> Result<Templates, String> {
    let wrong = || {
        let given: String = value.to_string().chars().take(80).collect();
        format!("chat_template is {given}; it must be a text, or a list of objects with name and template")
    };
    let list = match value {
        serde_json::Value::Null => return Ok(Templates::default()),
        serde_json::Value::Array(list) if list.is_empty() => return Ok(Templates::default()),
        serde_json::Value::Array(list) => list,
        other => {
            return Ok(Templates { default: Some(other.as_str().ok_or_else(wrong)?.to_string()), with_tools: None });
        }
    };
    let named = |name: &str| list.iter().find(|t| t["name"] == name).map(|t| &t["template"]);
    let text = |t: &serde_json::Value| t.as_str().map(str::to_string).ok_or_else(wrong);
    let default = text(named("default").unwrap_or(&list[0]["template"]))?;
    Ok(Templates { default: Some(default), with_tools: named("tool_use").map(text).transpose()? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str, value: Value) -> Result<Vocabulary, String> {
        let keys = BTreeMap::from([(format!("tokenizer.ggml.{name}"), value)]);
        vocabulary(Path::new("m.gguf"), &keys).map_err(|e| e.to_string())
    }

    #[test]
    fn vocabularies_of_the_wrong_type_are_named() {
        let (text, texts) = (Value::Text("x".to_string()), Value::Texts(vec!["x".to_string(); 3]));
        for (name, value, given) in [
            ("model", Value::U64(1), "1; it must be a text"),
            ("pre", Value::Bool(true), "true; it must be a text"),
            ("tokens", text.clone(), "\"x\"; it must be a list of texts"),
            ("tokens", Value::Integers(vec![1, 2]), "a list of 2 whole numbers; it must be a list of texts"),
            ("merges", Value::Floats(vec![1.0]), "a list of 1 numbers; it must be a list of texts"),
            ("scores", texts.clone(), "a list of 3 texts; it must be a list of numbers"),
            ("scores", Value::Integers(vec![1]), "a list of 1 whole numbers; it must be a list of numbers"),
            ("token_type", Value::Floats(vec![]), "a list of 0 numbers; it must be a list of whole numbers"),
            ("token_type", Value::U64(1), "1; it must be a list of whole numbers"),
            ("bos_token_id", text.clone(), "\"x\"; it must be a token's id, or -1"),
            ("eos_token_id", Value::I64(-2), "-2; it must be a token's id"),
            ("unknown_token_id", Value::F64(1.5), "1.5; it must be a token's id"),
            ("unknown_token_id", Value::U64(1 << 40), "1099511627776; it must be a token's id"),
            ("unknown_token_id", Value::F64(f64::NAN), "NaN; it must be a token's id"),
            ("add_bos_token", Value::U64(1), "1; it must be true or false"),
            ("add_eos_token", text, "\"x\"; it must be true or false"),
            ("add_space_prefix", texts, "a list of 3 texts; it must be true or false"),
        ] {
            let said = key(name, value).err().unwrap_or_else(|| panic!("{name} is taken"));
            assert!(said.starts_with(&format!("m.gguf: tokenizer.ggml.{name} is {given}")), "{said}");
        }
        for none in [Value::I64(-1), Value::U64(u32::MAX.into()), Value::F64(-1.0)] {
            assert_eq!(key("unknown_token_id", none).unwrap().unknown, None);
        }
        assert_eq!(key("unknown_token_id", Value::U64(7)).unwrap().unknown, Some(7));
    }

    #[test]
    fn what_stands_beside_a_tokenizer_has_its_type() {
        let of = |json: serde_json::Value| {
            beside(Path::new("c.json"), json.to_string().as_bytes()).map_err(|e| e.to_string())
        };
        for (given, said) in [
            (json!([]), "it must be a JSON object"),
            (json!({"bos_token": 7}), "bos_token is 7; it must be a text"),
            (json!({"eos_token": false}), "eos_token is false; it must be a text"),
            (json!({"eos_token": {"content": 7}}), "eos_token is {\"content\":7}; it must be a text"),
            (json!({"chat_template": 7}), "chat_template is 7; it must be a text, or a list"),
            (json!({"chat_template": {"default": "x"}}), "chat_template is {\"default\":\"x\"}"),
            (json!({"chat_template": ["x"]}), "chat_template is [\"x\"]"),
            (json!({"chat_template": [{"name": "default"}]}), "chat_template is [{\"name\":\"default\"}]"),
            (
                json!({"chat_template": [{"name": "a", "template": "x"}, {"name": "default", "template": 7}]}),
                "7}]; it must",
            ),
        ] {
            let error = of(given).unwrap_err();
            assert!(error.starts_with("c.json: ") && error.contains(said), "{error}");
        }
        let given = of(json!({
            "chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}],
            "bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>", "add_bos_token": true
        }))
        .unwrap();
        assert_eq!((&*given.bos, &*given.eos, given.begins), ("<s>", "</s>", true));
        assert_eq!((given.templates.default.as_deref(), given.templates.with_tools.as_deref()), (Some("b"), Some("a")));
        let first = of(json!({"chat_template": [{"name": "rag", "template": "a"}], "bos_token": null})).unwrap();
        let templates = Templates { default: Some("a".to_string()), with_tools: None };
        assert_eq!(first, Beside { templates, ..Beside::default() });
        assert_eq!(of(json!({"chat_template": []})).unwrap().templates, Templates::default());
    }
}
