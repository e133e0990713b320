//! Message history in the shape that a chat template takes: contents, arguments and ids of earlier tool calls.

use serde_json::Value;

use crate::chat::{Message, Role, ToolCall};
use crate::families::{Calls, Format};

/// The format as its own template takes earlier calls: templates of one family differ in what may stand beside calls, which is found by
/// rendering.
pub fn fit_history(format: Format, render: impl Fn(&[Value]) -> Option<String>) -> Format {
    let shows = |format: &Format, content: Option<&str>| {
        let id = "000000000".to_string();
        let call = ToolCall { id: id.clone(), name: "probe".to_string(), arguments: "{}".to_string() };
        let messages = vec![
            Message::user("?"),
            Message { tool_calls: vec![call], content: content.map(str::to_string), ..Message::assistant("") },
            Message { tool_call_id: Some(id), ..Message::new(Role::Tool, "Done.") },
        ];
        let text = render(&for_template(format, messages)).unwrap_or_default();
        text.split_once("probe").is_some_and(|(before, _)| content.is_none_or(|content| before.contains(content)))
    };
    let together = Format { apart: false, ..format };
    let format = if format.apart && shows(&together, Some("beside the call")) { together } else { format };
    let blank = Format { blank: true, ..format };
    if format.calls() && !shows(&format, None) && shows(&blank, None) { blank } else { format }
}

/// Messages as JSON in the shape that templates of this format take. Arguments become objects or text; what a template would refuse or
/// drop is put another way.
pub fn for_template(format: &Format, mut messages: Vec<Message>) -> Vec<Value> {
    for message in &mut messages {
        let calling = !message.tool_calls.is_empty();
        // Without calls there must be text; with them some templates look whether there is none.
        message.content = match message.content.take() {
            None if !calling || format.blank => Some(String::new()),
            Some(text) if text.is_empty() && calling && !format.blank && matches!(format.calls, Calls::Named(_)) => {
                None
            }
            content => content,
        };
    }
    match format.calls {
        _ if format.apart => messages = apart(messages),
        Calls::Object(object) if object.bare => messages = one_by_one(messages),
        _ if format.short_ids => short_ids(&mut messages),
        _ => (),
    }
    messages.into_iter().map(|message| message.into_json(format.objects)).collect()
}

/// For templates that write either content or calls: a message with both becomes two.
fn apart(messages: Vec<Message>) -> Vec<Message> {
    let mut out = Vec::with_capacity(messages.len());
    for mut message in messages {
        if !message.tool_calls.is_empty()
            && let Some(content) = message.content.take()
        {
            let tool_calls = std::mem::take(&mut message.tool_calls);
            out.push(Message { content: Some(content), ..message.clone() });
            message.tool_calls = tool_calls;
        }
        out.push(message);
    }
    out
}

/// For templates that take one call a message: calls stand apart, each before its result.
fn one_by_one(messages: Vec<Message>) -> Vec<Message> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        if message.tool_calls.len() < 2 {
            out.push(message);
            continue;
        }
        let mut results: Vec<Message> = std::iter::from_fn(|| rest.next_if(|m| m.role == Role::Tool)).collect();
        for call in std::mem::take(&mut message.tool_calls) {
            let own = results.iter().position(|r| r.tool_call_id.as_ref() == Some(&call.id));
            out.push(Message { tool_calls: vec![call], ..message.clone() });
            out.extend(own.map(|at| results.remove(at)));
        }
        out.extend(results);
    }
    out
}

/// Ids of nine letters and digits: others are replaced, the same ones by the same.
fn short_ids(messages: &mut [Message]) {
    let shorten = |id: &mut String| {
        if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return;
        }
        // FNV-1a.
        let mut hash =
            id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        id.clear();
        for _ in 0..9 {
            id.push(char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[(hash % 36) as usize]));
            hash /= 36;
        }
    };
    for message in messages {
        message.tool_call_id.iter_mut().for_each(shorten);
        message.tool_calls.iter_mut().for_each(|call| shorten(&mut call.id));
    }
}
