//! Earlier calls in a conversation, in the shape that a model's template takes.

use serde_json::{Map, Value};

use super::format::{Calls, Format, Head};

/// Bring OpenAI's messages into the shape that templates of this format take; call it once before rendering. Arguments become
/// objects or text; calls that are absent lose their keys; what a template would refuse or drop is put another way.
pub fn for_template(format: &Format, messages: &mut Vec<Value>) {
    for message in messages.iter_mut().filter_map(Value::as_object_mut) {
        if message.get("tool_calls").is_some_and(|calls| calls.as_array().is_none_or(Vec::is_empty)) {
            // Templates ask whether it is there.
            message.remove("tool_calls");
        }
        let calling = message.contains_key("tool_calls");
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            calls.iter_mut().filter_map(Value::as_object_mut).for_each(|call| one_call(format, call));
        }
        // Without calls there must be text; with them DeepSeek's templates look whether there is none.
        match message.get("content").and_then(Value::as_str) {
            None if !calling && message.get("content").is_none_or(Value::is_null) => {
                message.insert("content".to_string(), Value::from(""));
            }
            None if calling && !message.contains_key("content") => {
                message.insert("content".to_string(), Value::Null);
            }
            Some("") if calling && matches!(format.calls, Calls::Named(_)) => {
                message.insert("content".to_string(), Value::Null);
            }
            _ => (),
        }
        if format.calls == Calls::Dsml && calling && message["content"].is_null() {
            message.insert("content".to_string(), Value::from(""));
        }
    }
    match format.calls {
        Calls::Named(named) if named.head == Head::Type => *messages = apart(std::mem::take(messages)),
        Calls::Object(object) if object.bare => *messages = one_by_one(std::mem::take(messages)),
        Calls::Named(_) | Calls::Object(_) if format.name().starts_with("mistral") => short_ids(messages),
        _ => (),
    }
}

fn one_call(format: &Format, call: &mut Map<String, Value>) {
    call.entry("type").or_insert_with(|| Value::from("function"));
    let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else { return };
    let arguments = function.entry("arguments").or_insert_with(|| Value::from("{}"));
    if format.objects {
        // What is no object stays as it is: a template writes what the model wrote, in quotes.
        let parsed = match arguments.as_str().map(str::trim) {
            Some("") => Value::Object(Map::new()),
            Some(text) => serde_json::from_str(text).unwrap_or_default(),
            None => Value::Null,
        };
        if parsed.is_object() {
            *arguments = parsed;
        }
    } else if !arguments.is_string() {
        *arguments = Value::from(crate::chat::python_json(arguments));
    }
}

/// Templates of DeepSeek V3 and R1 write either content or calls: a message with both becomes two.
fn apart(messages: Vec<Value>) -> Vec<Value> {
    let mut out = Vec::with_capacity(messages.len());
    for message in messages {
        if message.get("tool_calls").is_some() && message["content"].is_string() {
            let (mut said, mut calls) = (message.clone(), message);
            said.as_object_mut().expect("it has keys").remove("tool_calls");
            calls["content"] = Value::Null;
            out.extend([said, calls]);
        } else {
            out.push(message);
        }
    }
    out
}

/// Templates of Llama 3 take one call a message: calls stand apart, each before its result.
fn one_by_one(messages: Vec<Value>) -> Vec<Value> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        let calls =
            message.get_mut("tool_calls").and_then(Value::as_array_mut).filter(|c| c.len() > 1).map(std::mem::take);
        let Some(calls) = calls else {
            out.push(message);
            continue;
        };
        let mut results: Vec<Value> =
            std::iter::from_fn(|| rest.next_if(|m| m.get("role").and_then(Value::as_str) == Some("tool"))).collect();
        for call in calls {
            let id = call.get("id").cloned();
            message["tool_calls"] = Value::Array(vec![call]);
            out.push(message.clone());
            let own = results.iter().position(|r| id.is_some() && r.get("tool_call_id") == id.as_ref());
            out.extend(own.map(|at| results.remove(at)));
        }
        out.extend(results);
    }
    out
}

/// Mistral's templates take ids of nine letters and digits only: others are replaced, the same ones by the same.
fn short_ids(messages: &mut [Value]) {
    let shorten = |id: &mut Value| {
        let Some(text) = id.as_str() else { return };
        if text.len() == 9 && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return;
        }
        // FNV-1a.
        let mut hash =
            text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut short = String::with_capacity(9);
        for _ in 0..9 {
            short.push(char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(hash % 36) as usize]));
            hash /= 36;
        }
        *id = Value::from(short);
    };
    for message in messages.iter_mut().filter_map(Value::as_object_mut) {
        message.get_mut("tool_call_id").into_iter().for_each(shorten);
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        calls.into_iter().flatten().filter_map(|call| call.get_mut("id")).for_each(shorten);
    }
}
