//! The twin's reading of one block of calls: the bytes that it takes from the start of a text.

use super::twin::Call;

/// Calls, and the bytes that they and what belongs to them took.
pub type Block = (Vec<Call>, usize);

const CALLS: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const SEP: &str = "<｜tool▁sep｜>";
const KIMI: [&str; 5] = [
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
];

/// Ends that may be left over behind a call.
pub fn left_over(name: &str) -> &'static [&'static str] {
    match name {
        "deepseek-v3" | "deepseek-v3.1" => &[CALL_END, CALLS_END],
        "kimi-k2" => &[KIMI[3], KIMI[1]],
        "hermes" => &["</tool_call>"],
        "deepseek-v3.2" | "deepseek-v4" => &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"],
        _ => &[],
    }
}

/// A block at the start of a text; `start` is where a reply may begin with a bare object.
pub fn block(name: &str, text: &str, start: bool) -> Option<Block> {
    match name {
        "deepseek-v3" | "deepseek-v3.1" => named(text, &[CALLS, CALLS_END, CALL, CALL_END, SEP], "", name),
        "kimi-k2" => named(text, &KIMI, "", name),
        "mistral-v11" => named(text, &["", "", "[TOOL_CALLS]", "", "[ARGS]"], "[CALL_ID]", name),
        "hermes" => objects(text, "<tool_call>", "</tool_call>", &[], false),
        "llama3" => objects(text, "<|python_tag|>", "", &[';', ','], start),
        "mistral" => objects(text, "[TOOL_CALLS]", "", &[','], false),
        "deepseek-v3.2" | "deepseek-v4" => dsml(text),
        _ => None,
    }
}

fn starts(text: &str, mark: &str) -> bool {
    !mark.is_empty() && text.starts_with(mark)
}

/// A JSON value at the start of a text, up to its end or to a mark outside of its strings: what it gives, bytes, whether whole.
fn value(text: &str, marks: &[&str]) -> (String, usize, bool) {
    let (mut depth, mut string, mut end) = (0usize, false, text.len());
    let mut whole = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if !string && marks.iter().any(|m| starts(&text[at..], m)) {
            end = at;
            break;
        }
        if string && c == '\\' {
            chars.next();
            continue;
        }
        let word = c.is_ascii_alphanumeric() || "+-.".contains(c);
        if depth == 0 && !string && at > 0 && !word {
            // Behind a number or a word.
            (end, whole) = (at, true);
            break;
        }
        match c {
            '"' => string = !string,
            '{' | '[' if !string => depth += 1,
            '}' | ']' if !string && depth > 0 => depth -= 1,
            _ => continue,
        }
        if depth == 0 && !string {
            (end, whole) = (at + c.len_utf8(), true);
            break;
        }
    }
    let raw = &text[..end];
    let said = match raw.strip_prefix('"') {
        Some(inner) => string_of(if whole { &inner[..inner.len() - 1] } else { inner }, whole),
        None => raw.to_string(),
    };
    (said, end, whole)
}

/// What the inside of a JSON string says.
fn string_of(inner: &str, whole: bool) -> String {
    if let Ok(said) = serde_json::from_str::<String>(&format!("\"{inner}\"")) {
        return said;
    }
    let units = |hex: &str| u16::from_str_radix(hex, 16).ok();
    let (mut out, mut rest, mut high) = (String::new(), inner, None::<u16>);
    while let Some(c) = rest.chars().next() {
        let hex =
            rest.strip_prefix("\\u").map(|r| r.chars().take(4).take_while(char::is_ascii_hexdigit).collect::<String>());
        if let Some(hex) = hex {
            let all = hex.len() == 4;
            if !all && rest.len() == 2 + hex.len() {
                break;
            }
            rest = &rest[2 + hex.len()..];
            let unit = if all { units(&hex).unwrap() } else { 0xfffd };
            if let Some(h) = high.take() {
                if (0xdc00..0xe000).contains(&unit) {
                    out += &String::from_utf16_lossy(&[h, unit]);
                    continue;
                }
                out.push('\u{fffd}');
            }
            if (0xd800..0xdc00).contains(&unit) {
                high = Some(unit)
            } else {
                out += &String::from_utf16_lossy(&[unit])
            }
            continue;
        }
        if c == '\\' && rest.len() == 1 {
            break;
        }
        if high.take().is_some() {
            out.push('\u{fffd}');
        }
        if c != '\\' {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let next = rest[1..].chars().next().unwrap();
        match "nrtbf\"\\/".find(next) {
            Some(i) => out.push(['\n', '\r', '\t', '\u{8}', '\u{c}', '"', '\\', '/'][i]),
            None => out.extend(['\\', next]),
        }
        rest = &rest[1 + next.len_utf8()..];
    }
    if whole && high.is_some() {
        out.push('\u{fffd}');
    }
    out
}

fn named(text: &str, [begin, finish, open, close, separator]: &[&str; 5], id: &str, format: &str) -> Option<Block> {
    let marks = [*begin, *finish, *open, *close, *separator, id];
    let mut calls = Vec::new();
    let (mut at, mut used) = (0, 0);
    if starts(text, begin) {
        at = begin.len();
    } else if !starts(text, open) {
        return None;
    }
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if starts(&text[at..], finish) {
            return Some((calls, at + finish.len()));
        }
        if !starts(&text[at..], open) {
            // White space at the end of all goes with the calls.
            return Some((calls, if used > 0 && text[at..].is_empty() { at } else { used }));
        }
        let mut head = at + open.len();
        let mut call = Call::default();
        let mut parts = Vec::new();
        let found = loop {
            let rest = &text[head..];
            let stop = rest
                .char_indices()
                .find(|(i, c)| *c == '\n' || marks.iter().any(|m| starts(&rest[*i..], m)))
                .map(|(i, _)| i);
            let Some(stop) = stop else { break false };
            parts.push(&rest[..stop]);
            head += stop;
            if starts(&text[head..], separator) {
                head += separator.len();
                break true;
            }
            if !starts(&text[head..], id) || parts.len() > 1 {
                break false;
            }
            head += id.len();
        };
        if !found {
            return Some((calls, used));
        }
        let own_line = format == "deepseek-v3" || (format == "deepseek-v3.1" && parts[0].trim() == "function");
        call.name = parts[0].trim().to_string();
        if format == "kimi-k2" {
            call.id = Some(call.name.clone());
            let name = call.name.strip_prefix("functions.").unwrap_or(&call.name);
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let name = name[..name.len() - digits].strip_suffix(':').unwrap_or(name);
            call.name = name.trim().to_string();
        }
        call.id = call.id.or(parts.get(1).map(|p| p.trim().to_string()));
        let mut body = &text[head..];
        let mut alone = false;
        if own_line {
            let skipped = body.len() - body.trim_start().len();
            let stop = body.char_indices().position(|(i, c)| {
                matches!(c, '{' | '`') || (c == '\n' && i >= skipped) || marks.iter().any(|m| starts(&body[i..], m))
            });
            let Some(stop) = stop.map(|n| body.char_indices().nth(n).unwrap().0) else { return Some((calls, used)) };
            let line = body[..stop].trim();
            body = &body[stop..];
            if body.starts_with('<') {
                // The name alone.
                if line.is_empty() || line.contains(char::is_control) || !starts(body, close) {
                    return Some((calls, used));
                }
                (call.name, alone) = (line.to_string(), true);
            } else if !line.is_empty() {
                call.name = line.to_string();
            }
        }
        if call.name.is_empty() || call.name.contains(char::is_control) {
            return Some((calls, used));
        }
        if !alone {
            body = fence(body);
        }
        let mut broken = false;
        if body.starts_with(['{', '[', '"']) && !marks.iter().any(|m| starts(body, m)) {
            let (said, end, whole) = value(body, &marks);
            call.arguments = said;
            body = &body[end..];
            used = text.len() - body.len();
            if whole {
                let ticks = |c: char| c.is_whitespace() || (c == '`' && format != "mistral-v11");
                body = body.trim_start_matches(ticks);
                broken = !body.is_empty() && !marks.iter().any(|m| starts(body, m));
            }
        } else {
            let end = body
                .char_indices()
                .find(|(i, _)| marks.iter().any(|m| starts(&body[*i..], m)))
                .map_or(body.len(), |(i, _)| i);
            call.arguments = body[..end].to_string();
            body = &body[end..];
            // The fence and what is empty belongs to the call.
            used = text.len() - body.len();
        }
        at = text.len() - body.len();
        let empty = call.arguments.is_empty();
        if starts(body, close) || starts(body, finish) || starts(body, open) {
            if empty {
                call.arguments = "{}".to_string();
            }
            used = at;
        }
        calls.push(call);
        if body.is_empty() {
            return Some((calls, text.len()));
        }
        if starts(body, close) {
            at += close.len();
            used = at;
        } else if broken || !(starts(body, finish) || starts(body, open)) {
            return Some((calls, used));
        }
    }
}

/// What stands behind a fence of Markdown, or without one.
fn fence(text: &str) -> &str {
    let mut rest = text;
    let mut ticked = false;
    while let Some(c) = rest.chars().next() {
        match c {
            _ if c.is_whitespace() => ticked = false,
            '`' => ticked = true,
            _ if ticked && c.is_alphabetic() => (),
            _ => break,
        }
        rest = &rest[c.len_utf8()..];
    }
    rest
}

fn objects(text: &str, open: &str, close: &str, separators: &[char], bare: bool) -> Option<Block> {
    let mut calls = Vec::new();
    let (mut rest, mut used, mut list) = (text, 0, false);
    let mut bare = bare && text.starts_with('{');
    if !bare {
        rest = text.strip_prefix(open)?;
    }
    let mut behind = bare;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some((calls, if behind && used > 0 { text.len() } else { used }));
        }
        if starts(rest, close) && !calls.is_empty() {
            return Some((calls, text.len() - rest.len() + close.len()));
        }
        if starts(rest, open) && behind && used > 0 {
            (rest, list, bare, behind) = (&rest[open.len()..], false, false, false);
            continue;
        }
        if rest.starts_with('[') && !behind && !list && !starts(rest, open) {
            (rest, list) = (&rest[1..], true);
            continue;
        }
        if behind && rest.starts_with(separators) {
            rest = &rest[1..];
            continue;
        }
        if behind && list && rest.starts_with(']') {
            (rest, list) = (&rest[1..], false);
            if close.is_empty() {
                return Some((calls, text.len() - rest.len()));
            }
            continue;
        }
        if !rest.starts_with('{') {
            return Some((calls, used));
        }
        let Some((call, took, end)) = object(rest, &[open, close], bare) else { return Some((calls, used)) };
        calls.push(call);
        used = text.len() - rest.len() + took;
        rest = &rest[took..];
        behind = true;
        match end {
            End::Whole => (),
            // It ends as it stands, at a mark.
            End::Mark => (),
            End::Cut => return Some((calls, text.len())),
            End::Broken => return Some((calls, used)),
        }
    }
}

enum End {
    Whole,
    Mark,
    Cut,
    Broken,
}

/// A call at the brace with which it begins, the bytes of it that count, and how it ended.
fn object(text: &str, marks: &[&str], bare: bool) -> Option<(Call, usize, End)> {
    let mut name = None::<String>;
    let mut call = Call::default();
    let mut arguments = None::<String>;
    // Where the last part of the call ended that was certain.
    let mut given = None::<usize>;
    let mut rest = text[1..].trim_start();
    let mut first = true;
    let at = |rest: &str| text.len() - rest.len();
    let result = loop {
        if first && rest.starts_with('}') {
            break (End::Whole, &rest[1..]);
        }
        first = false;
        if !rest.starts_with('"') {
            break (broken(rest, marks), rest);
        }
        let (key, end, whole) = value(rest, &[]);
        if !whole {
            break (End::Cut, rest);
        }
        let role = match key.as_str() {
            "name" | "function" if name.is_none() => "name",
            "arguments" | "parameters" if given.is_none() && arguments.is_none() => "arguments",
            "id" => "id",
            "type" => "",
            _ if bare && given.is_none() => return None,
            _ => "",
        };
        rest = rest[end..].trim_start();
        let Some(behind) = rest.strip_prefix(':') else { break (broken(rest, marks), rest) };
        rest = behind.trim_start();
        let c = rest.chars().next().unwrap_or(' ');
        let begins = c.is_ascii_alphanumeric() || "\"{[+-.".contains(c);
        if marks.iter().any(|m| starts(rest, m)) || !begins || (role == "name" && c != '"') {
            break (broken(rest, marks), rest);
        }
        let strict: &[&str] = if c == '"' { &[] } else { marks };
        let (said, end, whole) = value(rest, strict);
        let stop = &rest[end..];
        match role {
            "name" if !whole => return None,
            "name" if given.is_none() => {
                if said.trim().is_empty() || said.contains(char::is_control) {
                    return None;
                }
                name = Some(said.trim().to_string());
                if arguments.is_some() {
                    given = Some(at(stop));
                }
            }
            "id" if c == '"' && whole && given.is_none() => call.id = Some(said),
            "arguments" => {
                arguments = Some(said);
                if name.is_some() {
                    given = Some(at(stop));
                }
            }
            _ => (),
        }
        rest = stop;
        if !whole {
            break (broken(rest, marks), rest);
        }
        rest = rest.trim_start();
        match rest.chars().next() {
            Some(',') => rest = rest[1..].trim_start(),
            Some('}') => break (End::Whole, &rest[1..]),
            _ => break (broken(rest, marks), rest),
        }
    };
    let (end, rest) = result;
    let started = given.is_some();
    call.name = name?;
    call.arguments = match (arguments, &end) {
        (Some(arguments), _) => arguments,
        (None, End::Whole) if !bare => "{}".to_string(),
        _ => return None,
    };
    match end {
        End::Whole => Some((call, at(rest), End::Whole)),
        _ if !started => None,
        End::Mark => Some((call, at(rest), End::Mark)),
        End::Cut => Some((call, text.len(), End::Cut)),
        End::Broken => Some((call, given.unwrap_or(0), End::Broken)),
    }
}

fn broken(rest: &str, marks: &[&str]) -> End {
    if rest.is_empty() {
        End::Cut
    } else if marks.iter().any(|m| starts(rest, m)) {
        End::Mark
    } else {
        End::Broken
    }
}

fn dsml(text: &str) -> Option<Block> {
    let words = ["function_calls>", "tool_calls>"];
    let opens = words.map(|w| format!("<｜DSML｜{w}"));
    let closes = words.map(|w| format!("</｜DSML｜{w}"));
    let close = |rest: &str| closes.iter().find(|c| rest.starts_with(c.as_str())).map(String::len);
    let open = opens.iter().find(|o| text.starts_with(o.as_str()))?;
    let mut calls: Vec<Call> = Vec::new();
    let (mut rest, mut used) = (&text[open.len()..], 0);
    loop {
        rest = rest.trim_start();
        if let Some(length) = close(rest) {
            return Some((calls, text.len() - rest.len() + length));
        }
        if rest.is_empty() && used > 0 {
            return Some((calls, text.len()));
        }
        let Some((name, _, body)) = tag(rest, "<｜DSML｜invoke") else { return Some((calls, used)) };
        let Some(name) = name else { return Some((calls, used)) };
        let mut call = Call { name, ..Call::default() };
        rest = body;
        used = text.len() - rest.len();
        let (mut whole, mut count) = (false, 0);
        let cut = loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                break true;
            }
            if rest.starts_with('{') && count == 0 && !whole {
                let marks: Vec<&str> = MARKS.to_vec();
                let (said, end, complete) = value(rest, &marks);
                (call.arguments, whole) = (said, true);
                rest = &rest[end..];
                used = text.len() - rest.len();
                if !complete {
                    // It ends as it stands.
                    break rest.is_empty();
                }
                continue;
            }
            if rest.starts_with("<｜DSML｜parameter") && !whole {
                let found = tag(rest, "<｜DSML｜parameter");
                let Some((name, string, body)) = found else { break true };
                let Some(name) = name else { break false };
                let quoted = serde_json::to_string(&name).unwrap();
                call.arguments += &format!("{}{quoted}: ", if count == 0 { "{" } else { ", " });
                count += 1;
                let end = body.find("</｜DSML｜parameter>");
                let inner = &body[..end.unwrap_or(body.len())];
                // Half an end at the end of all is text too: nothing is lost.
                let trimmed = inner.trim_start();
                call.arguments += &match () {
                    () if string => {
                        let escaped = escaped(inner);
                        if end.is_some() { format!("\"{escaped}\"") } else { format!("\"{escaped}") }
                    }
                    () if trimmed.starts_with(['{', '[']) => trimmed.to_string(),
                    () if end.is_none() => String::new(),
                    () if serde_json::from_str::<serde_json::Value>(inner).is_ok() => inner.trim().to_string(),
                    () => format!("\"{}\"", escaped(inner)),
                };
                let Some(end) = end else {
                    rest = "";
                    break true;
                };
                rest = &body[end + "</｜DSML｜parameter>".len()..];
                used = text.len() - rest.len();
                continue;
            }
            break false;
        };
        let ended =
            rest.starts_with("</｜DSML｜invoke>") || rest.starts_with("<｜DSML｜invoke") || close(rest).is_some();
        let unread = !whole || (!ended && !cut);
        if !cut && !whole {
            call.arguments += if count == 0 { "{}" } else { "}" };
        }
        calls.push(call);
        if cut {
            return Some((calls, text.len()));
        }
        if let Some(behind) = rest.strip_prefix("</｜DSML｜invoke>") {
            rest = behind;
            used = text.len() - rest.len();
        } else if ended {
            used = text.len() - rest.len();
        } else {
            // The closing brace was given here.
            if unread && !whole {
                used = text.len() - rest.len();
            }
            return Some((calls, used));
        }
    }
}

const MARKS: [&str; 7] = [
    "<｜DSML｜invoke",
    "</｜DSML｜invoke>",
    "<｜DSML｜parameter",
    "<｜DSML｜function_calls>",
    "<｜DSML｜tool_calls>",
    "</｜DSML｜function_calls>",
    "</｜DSML｜tool_calls>",
];

fn escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap();
    quoted[1..quoted.len() - 1].replace("\\b", "\\u0008").replace("\\f", "\\u000c")
}

/// A tag's name, whether its value is a string, and what follows.
fn tag<'t>(text: &'t str, begin: &str) -> Option<(Option<String>, bool, &'t str)> {
    let rest = text.strip_prefix(begin)?;
    let mut quoted = false;
    let end = rest.find(|c| {
        quoted ^= c == '"';
        c == '>' && !quoted
    })?;
    let fields: Vec<&str> = rest[..end].split('"').collect();
    let find =
        |name: &str| fields.chunks(2).take(fields.len() / 2).find(|f| f[0].trim() == format!("{name}=")).map(|f| f[1]);
    let name = find("name").map(str::trim).filter(|n| !n.is_empty() && !n.contains(char::is_control));
    Some((name.map(str::to_string), find("string") != Some("false"), &rest[end + 1..]))
}
