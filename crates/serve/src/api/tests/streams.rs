//! One law for all dialects: what is streamed, put together, is what would have been returned whole.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use engine::Timing;
use futures_util::Stream;
use serde_json::{Map, Value, json};

use crate::api::chat::ChatWriter;
use crate::api::completions::CompletionWriter;
use crate::api::kept_items::KeptItems;
use crate::api::llama_cpp::LlamaCppWriter;
use crate::api::messages::MessagesWriter;
use crate::api::ollama::{Form, OllamaWriter};
use crate::api::response::{self, ResponseInfo, ResponseWriter};
use crate::api::responses::ResponsesWriter;
use crate::generation::events::{ChoiceEnd, ChoiceOutput, FinishReason, OutputEvent, TokenLogprob};
use crate::generation::usage::Usage;
use crate::http::response_body::sse;

fn head() -> ResponseInfo {
    ResponseInfo { id: "x".to_string(), created: 7, model: "m".to_string() }
}

fn parts() -> Vec<OutputEvent> {
    let scored = |token: &str| {
        let bytes = token.as_bytes().to_vec();
        vec![TokenLogprob { token: token.to_string(), bytes, value: Some(-0.5), top: Vec::new(), offset: 0 }]
    };
    let none = Duration::ZERO;
    let timing = Timing { prompt_tokens: 9, prefill: none, generated: 5, decode: none, cached_tokens: 0, waited: none };
    let call = |index, name: &str| OutputEvent::Call { index, id: format!("call_{index}"), name: name.to_string() };
    let arguments = |index, text: &str| OutputEvent::Arguments { index, text: text.to_string() };
    vec![
        OutputEvent::Started { prompt: 9, cached: 4, differs_at: Some(6), waited: none },
        OutputEvent::Read { written: 3 },
        OutputEvent::Reasoning { text: "Hm".to_string(), scored: scored("Hm") },
        OutputEvent::Reasoning { text: ", so.".to_string(), scored: scored(", so.") },
        OutputEvent::Text { text: "I ".to_string(), scored: scored("I ") },
        OutputEvent::Text { text: "go.".to_string(), scored: scored("go.") },
        call(0, "go"),
        arguments(0, "{\"a\":"),
        arguments(0, "1}"),
        call(1, "stay"),
        arguments(1, "{}"),
        OutputEvent::End(ChoiceEnd { finish: FinishReason::Calls, stop: None, timing, truncated: false, mean: -0.5 }),
    ]
}

const USAGE: Usage =
    Usage { prompt: 9, cached: 4, written: 3, completion: 5, reasoning: 2, differs_at: Some(6), cost: None };

struct Ready(std::vec::IntoIter<Event>);

impl Stream for Ready {
    type Item = Result<Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

/// Events as they go out.
fn written(events: Vec<response::Event>) -> String {
    let body = Sse::new(Ready(events.into_iter().map(sse).collect::<Vec<_>>().into_iter())).into_response().into_body();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bytes = runtime.block_on(axum::body::to_bytes(body, 1 << 20)).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A stream's events, as (name, data).
fn streamed(wire: &mut dyn ResponseWriter) -> Vec<(Option<String>, Value)> {
    let mut events = wire.opening();
    events.extend(parts().iter().flat_map(|part| wire.event(0, part)));
    events.extend(wire.closing(&USAGE));
    let text = written(events);
    let events = text.split_terminator("\n\n").filter(|e| *e != "data: [DONE]");
    events
        .map(|event| {
            let (name, data) = match event.split_once('\n') {
                Some((name, data)) => (Some(name.strip_prefix("event: ").unwrap().to_string()), data),
                None => (None, event),
            };
            (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
        })
        .collect()
}

fn whole(wire: &mut dyn ResponseWriter) -> Value {
    let mut whole = ChoiceOutput::default();
    parts().into_iter().for_each(|part| whole.add(part));
    wire.whole(&[whole], &USAGE)
}

#[test]
fn chat() {
    let make = || ChatWriter { head: head(), log_probabilities: true, include_usage: true, older: false };
    let mut message = json!({"content": "", "reasoning_content": "", "tool_calls": []});
    let (mut finish, mut usage, mut scored) = (Value::Null, Value::Null, 0);
    for (name, chunk) in streamed(&mut make()) {
        assert!(name.is_none() && chunk["object"] == "chat.completion.chunk");
        usage = chunk["usage"].clone();
        let Some(choice) = chunk["choices"].get(0) else { continue };
        let delta = &choice["delta"];
        let reasons = delta.get("reasoning_content").is_some();
        assert!(!(reasons && delta.get("content").is_some()), "never both: {delta}");
        for key in ["content", "reasoning_content"] {
            let more = delta[key].as_str().unwrap_or_default();
            message[key] = format!("{}{more}", message[key].as_str().unwrap()).into();
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let all = message["tool_calls"].as_array_mut().unwrap();
            match all.get_mut(call["index"].as_u64().unwrap() as usize) {
                None => all.push(json!({"id": call["id"], "type": call["type"], "function": call["function"]})),
                Some(known) => {
                    let text = known["function"]["arguments"].as_str().unwrap().to_string();
                    known["function"]["arguments"] = (text + call["function"]["arguments"].as_str().unwrap()).into();
                }
            }
        }
        for key in ["content", "reasoning_content"] {
            scored += choice["logprobs"][key].as_array().map_or(0, Vec::len);
        }
        finish = choice["finish_reason"].clone();
    }
    let whole = whole(&mut make());
    let choice = &whole["choices"][0];
    for key in ["content", "reasoning_content", "tool_calls"] {
        assert_eq!(choice["message"][key], message[key], "{key}");
    }
    assert_eq!((&choice["finish_reason"], &whole["usage"], scored), (&finish, &usage, 4));
    assert_eq!((&finish, &usage["prompt_cache_miss_tokens"]), (&json!("tool_calls"), &json!(5)));
    let mut older = ChatWriter { older: true, ..make() };
    let message = &self::whole(&mut older)["choices"][0];
    assert_eq!(message["message"]["function_call"], json!({"name": "go", "arguments": "{\"a\":1}"}));
    assert_eq!(message["finish_reason"], "function_call");
}

#[test]
fn messages() {
    let (mut blocks, mut last, mut kinds, mut started) = (Vec::<Value>::new(), Value::Null, Vec::new(), Value::Null);
    for (name, event) in streamed(&mut MessagesWriter::new(head())) {
        let kind = event["type"].as_str().unwrap().to_string();
        assert_eq!(name.as_deref(), Some(kind.as_str()));
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match kind.as_str() {
            "message_start" => started = event["message"]["usage"].clone(),
            "content_block_start" => {
                assert_eq!(index, blocks.len());
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let delta = event["delta"].as_object().unwrap();
                let (key, more) = delta.iter().find(|(k, _)| *k != "type").unwrap();
                let known = blocks[index].get(key).and_then(Value::as_str).unwrap_or_default();
                blocks[index][key] = format!("{known}{}", more.as_str().unwrap()).into();
            }
            "message_delta" => last = event.clone(),
            _ => {}
        }
        kinds.push(kind);
    }
    for block in &mut blocks {
        if let Some(json) = block.as_object_mut().unwrap().shift_remove("partial_json") {
            block["input"] = serde_json::from_str(json.as_str().unwrap()).unwrap();
        }
    }
    let whole = whole(&mut MessagesWriter::new(head()));
    assert_eq!(whole["content"], Value::from(blocks));
    assert_eq!((&whole["stop_reason"], &whole["usage"]), (&last["delta"]["stop_reason"], &last["usage"]));
    // The beginning tells of the prompt what the end tells; nothing was generated then.
    started["output_tokens"] = 5.into();
    assert_eq!(started, last["usage"]);
    let told =
        json!({"input_tokens": 2, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5});
    assert_eq!(started, told);
    assert_eq!((kinds[0].as_str(), kinds.last().unwrap().as_str()), ("message_start", "message_stop"));
    let (started, stopped) = ("content_block_start", "content_block_stop");
    assert_eq!(kinds.iter().filter(|k| *k == started).count(), 4);
    assert_eq!(kinds.iter().filter(|k| *k == stopped).count(), 4);
}

#[test]
fn responses() {
    let mut request = super::responded(json!({"include": ["message.output_text.logprobs"]})).unwrap();
    request.repeated = Map::new();
    let kept = Arc::new(KeptItems::default());
    let make = || ResponsesWriter::new(head(), &request, (Arc::clone(&kept), 7));
    let events = streamed(&mut make());
    let mut items: Vec<Value> = Vec::new();
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!((name.as_deref(), &event["sequence_number"]), (event["type"].as_str(), &json!(number)));
        if event["type"] == "response.output_item.done" {
            assert_eq!(event["output_index"], items.len());
            items.push(event["item"].clone());
        }
    }
    let last = &events.last().unwrap().1;
    assert_eq!((&last["type"], &last["response"]["output"]), (&json!("response.completed"), &Value::from(items)));
    // Ids of items are new each time.
    let named = |mut value: Value| {
        value["output"].as_array_mut().unwrap().iter_mut().for_each(|item| item["id"] = Value::Null);
        value
    };
    assert_eq!(named(last["response"].clone()), named(whole(&mut make())));
    let deltas = |kind: &str| {
        let of = events.iter().filter(|(name, _)| name.as_deref() == Some(kind));
        of.map(|(_, e)| e["delta"].as_str().unwrap()).collect::<String>()
    };
    assert_eq!(deltas("response.output_text.delta"), "I go.");
    assert_eq!(deltas("response.reasoning_text.delta"), "Hm, so.");
    assert_eq!(deltas("response.function_call_arguments.delta"), "{\"a\":1}{}");
}

#[test]
fn llama_cpp() {
    let make = || LlamaCppWriter { model: "m".to_string(), log_probabilities: true, repeated: Map::new() };
    let events = streamed(&mut make());
    let (last, parts) = events.split_last().unwrap();
    let joined: String = parts.iter().map(|(_, part)| part["content"].as_str().unwrap()).collect();
    let whole = whole(&mut make());
    assert_eq!((&whole["content"], &whole["timings"]), (&joined.into(), &last.1["timings"]));
    let probabilities: Vec<&Value> =
        parts.iter().filter_map(|(_, p)| p["completion_probabilities"].as_array()).flatten().collect();
    assert_eq!(whole["completion_probabilities"].as_array().unwrap().iter().collect::<Vec<_>>(), probabilities);
}

#[test]
fn completion() {
    let make = || CompletionWriter { head: head(), log_probabilities: true, include_usage: false };
    let texts = streamed(&mut make());
    let joined: String = texts.iter().map(|(_, c)| c["choices"][0]["text"].as_str().unwrap()).collect();
    let whole = whole(&mut make());
    assert_eq!(whole["choices"][0]["text"], joined);
    assert_eq!(whole["choices"][0]["logprobs"]["token_logprobs"], json!([-0.5, -0.5]));
}

/// An answer that ends before its prompt was read (its time was over, say) has a beginning all the same.
#[test]
fn a_message_begins_before_it_ends() {
    let mut wire = MessagesWriter::new(head());
    let begun = OutputEvent::Started { prompt: 9, cached: 4, differs_at: None, waited: Duration::ZERO };
    assert!(wire.event(0, &begun).is_empty(), "what the prompt adds to the cache is not known yet");
    let mut events = wire.event(0, parts().last().unwrap());
    events.extend(wire.closing(&USAGE));
    let text = written(events);
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(names, ["message_start", "ping", "message_delta", "message_stop"]);
}

#[test]
fn ollama() {
    let make =
        |form| OllamaWriter::new(form, "m".to_string(), true, (std::time::Instant::now(), Duration::from_nanos(5)));
    let numbers = |last: &Value| {
        assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
        assert_eq!((&last["prompt_eval_count"], &last["eval_count"]), (&json!(9), &json!(5)));
        assert_eq!((&last["prompt_eval_duration"], &last["load_duration"]), (&json!(0), &json!(5)));
        assert!(last["total_duration"].is_u64() && last["created_at"].as_str().unwrap().ends_with('Z'), "{last}");
    };
    for (form, holder) in [(Form::Chat, "/message"), (Form::Generate, "")] {
        let text_of = if form == Form::Chat { "content" } else { "response" };
        let (mut text, mut thinking, mut calls) = (String::new(), String::new(), Value::Null);
        let mut scored = Vec::new();
        let lines = streamed(&mut make(form));
        let (last, parts) = lines.split_last().unwrap();
        for (name, part) in parts {
            assert!(name.is_none() && part["done"] == false && part["model"] == "m", "{part}");
            let held = part.pointer(holder).unwrap();
            text += held[text_of].as_str().unwrap();
            thinking += held["thinking"].as_str().unwrap_or_default();
            scored.extend(part["logprobs"].as_array().into_iter().flatten().cloned());
            if let Some(all) = held.get("tool_calls") {
                calls = all.clone();
            }
        }
        let whole = whole(&mut make(form));
        numbers(&last.1);
        numbers(&whole);
        let held = whole.pointer(holder).unwrap();
        assert_eq!((&held[text_of], &held["thinking"]), (&json!(text), &json!(thinking)));
        assert_eq!((text.as_str(), thinking.as_str(), &held["tool_calls"]), ("I go.", "Hm, so.", &calls));
        assert_eq!((&whole["logprobs"], scored[0]["token"].is_string()), (&json!(scored), true));
        assert_eq!(calls[0]["function"], json!({"index": 0, "name": "go", "arguments": {"a": 1}}));
    }
    // A call that was cut off is left out.
    let call = text::chat::ToolCall { id: "c".to_string(), name: "go".to_string(), arguments: "{\"a".to_string() };
    let cut = ChoiceOutput { calls: vec![call], ..ChoiceOutput::default() };
    assert!(make(Form::Chat).whole(&[cut], &USAGE)["message"].get("tool_calls").is_none());
}
