//! Bodies of `/tokenize`, `/detokenize` and `/apply-template`, in the forms of vLLM and llama.cpp.

use serde_json::{Map, Value};

use super::chat::{conversation, thinking_max, variables};
use super::completion::ids;
use super::{Fields, Invalid, ModelDefaults, tools, unsupported, wrong};
use crate::request::{GenerateRequest, Input, Params, ResponseFormat};

/// What is to become tokens.
#[derive(Debug)]
pub enum TokenizeRequest {
    /// A text, with what the model wants around it or without.
    Text {
        /// It.
        text: String,
        /// With what the model wants around a text.
        special: bool,
        /// Give the tokens' spellings too.
        spelled: bool,
    },
    /// A text as llama.cpp's clients send it, who are answered in their shape.
    Content {
        /// It.
        text: String,
        /// With what the model wants around a text.
        special: bool,
        /// Names of special tokens in it are these tokens.
        named: bool,
        /// Give the tokens' spellings too.
        spelled: bool,
    },
    /// A conversation, by the model's template.
    Conversation {
        /// It, as for `/v1/chat/completions`.
        request: Box<GenerateRequest>,
        /// Give the tokens' spellings too.
        spelled: bool,
    },
}

/// A request of `/tokenize`, or of `/apply-template`.
///
/// # Errors
/// The first field that cannot be.
pub fn tokenize(fields: &mut Fields, model: ModelDefaults<'_>) -> Result<TokenizeRequest, Invalid> {
    let spelled = fields.flag("return_token_strs")?.unwrap_or(false);
    let special = fields.flag("add_special_tokens")?;
    let name = fields.text("model")?;
    let continued = fields.flag("continue_final_message")?.unwrap_or(false);
    fields.flag("add_generation_prompt")?;
    thinking_max(fields, None, "max_tokens")?;
    let (tools, template) = (tools::openai(fields)?, variables(fields)?);
    if let Some(content) = content(fields)? {
        return Ok(content);
    }
    if let Some(text) = fields.text("prompt")? {
        if let Some(messages) = fields.take("messages") {
            return Err(wrong("messages", &messages, "absent where prompt is given"));
        }
        return Ok(TokenizeRequest::Text { text, special: special.unwrap_or(true), spelled });
    }
    let (messages, prefixed) =
        conversation(fields).map_err(|invalid| match invalid.message.starts_with("messages is null") {
            true => wrong("prompt", &Value::Null, "a string, unless messages are given"),
            false => invalid,
        })?;
    let continues = continued || prefixed;
    let params = Params {
        model: name,
        sampling: model.defaults.clone(),
        tokens_max: None,
        thinking_max: None,
        stop: Vec::new(),
        stream: false,
        include_usage: false,
        log_probabilities: None,
        choices: 1,
        best_of: 1,
        user: None,
        priority: 0,
        unknown: fields.unknown(),
    };
    let input = Input::Conversation { messages, continues };
    let request = GenerateRequest {
        input,
        tools,
        template,
        response_format: ResponseFormat::Text,
        format_field: String::new(),
        params,
        repeated: Map::new(),
    };
    Ok(TokenizeRequest::Conversation { request: Box::new(request), spelled })
}

/// llama.cpp's body, where it is one.
fn content(fields: &mut Fields) -> Result<Option<TokenizeRequest>, Invalid> {
    const FLAGS: [&str; 3] = ["add_special", "parse_special", "with_pieces"];
    let mut flags = [None; 3];
    for (flag, key) in flags.iter_mut().zip(FLAGS) {
        *flag = fields.flag(key)?;
    }
    let Some(text) = fields.text("content")? else {
        return match flags.into_iter().zip(FLAGS).find_map(|(flag, key)| Some((flag?, key))) {
            Some((flag, key)) => Err(wrong(key, &flag.into(), "absent unless content is given")),
            None => Ok(None),
        };
    };
    for key in ["prompt", "messages"] {
        if let Some(value) = fields.peek(key) {
            return Err(wrong(key, &value, "absent where content is given"));
        }
    }
    let [special, named, spelled] = flags;
    let (special, named) = (special.unwrap_or(false), named.unwrap_or(true));
    if special && !named {
        let instead = "with add_special names of special tokens are these tokens: leave out one of the two";
        return Err(unsupported("parse_special", &false.into(), instead));
    }
    Ok(Some(TokenizeRequest::Content { text, special, named, spelled: spelled.unwrap_or(false) }))
}

/// A request of `/detokenize`: ids, at most `most`.
///
/// # Errors
/// What is no list of ids.
pub fn detokenize(fields: &mut Fields, model: ModelDefaults<'_>, most: usize) -> Result<Vec<u32>, Invalid> {
    fields.text("model")?;
    match fields.take("tokens") {
        Some(Value::Array(items)) if items.len() <= most => ids("tokens", &items, model.vocab),
        other => {
            let allowed = format!("an array of at most {most} token ids (the context length)");
            Err(wrong("tokens", &other.unwrap_or(Value::Null), &allowed))
        }
    }
}
