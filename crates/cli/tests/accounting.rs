//! What a request used, told the same way everywhere: in its answer, in the log and in the metrics, whatever ends it.

mod started;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use started::{Server, post};

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}")).1;
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

/// A number in a line of the log.
fn told(line: &str, name: &str) -> Option<u64> {
    let rest = line.split_once(&format!(" {name}="))?.1;
    rest.split(' ').next()?.trim().parse().ok()
}

/// A counter of the model.
fn counter(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics");
    let line = metrics.lines().find(|l| l.starts_with(&format!("{name}{{model=\"seed-5.7m\"}}")));
    line.and_then(|l| l.rsplit(' ').next()).map_or(0, |n| n.parse().unwrap())
}

/// A long story that does not end by itself.
fn story(stream: bool, tokens_max: usize) -> String {
    json!({
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "stream": stream, "max_tokens": tokens_max, "temperature": 1, "seed": 1, "logit_bias": {"1": -100},
    })
    .to_string()
}

/// The log's line of the request that generated something and has gone; the metrics say the same.
fn settled(server: &Server, before: u64) -> u64 {
    let line = server.logged("/v1/chat/completions");
    let tokens = told(&line, "completion_tokens").unwrap_or_else(|| panic!("no tokens: {line}"));
    assert_eq!(counter(server, "farthing_generation_tokens_total") - before, tokens, "{line}");
    tokens
}

const LONG: [&str; 4] = ["--disk-cache", "off", "--context", "2048"];

#[test]
fn tokens_count_when_they_are_delivered_whatever_ends_the_request() {
    let server = Server::start(&LONG);
    // A client that leaves its stream.
    let mut stream = server.connect();
    stream.write_all(post("/v1/chat/completions", &story(true, 1900)).as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let chunks =
        lines.by_ref().filter(|l| l.contains("\"content\":\"") && !l.contains("\"content\":\"\"")).take(40).count();
    assert_eq!(chunks, 40);
    drop(lines);
    let tokens = settled(&server, 0);
    assert!((40..=1900).contains(&tokens), "{tokens}");
    // One that leaves before its whole answer is there: nothing was delivered.
    let (rows, mut stream) = (counter(&server, "farthing_forward_rows_total"), server.connect());
    stream.write_all(post("/v1/chat/completions", &story(false, 1900)).as_bytes()).unwrap();
    let started = Instant::now();
    while counter(&server, "farthing_forward_rows_total") < rows + 50 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing is computed");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stream);
    let more = settled(&server, tokens);
    assert_eq!(more, 0);
    // A deadline: what there is by then is the answer, and what it counts.
    let request = post("/v1/chat/completions", &story(false, 1900));
    let answer = server.raw(&request.replacen("\r\n", "\r\nx-request-timeout: 2\r\n", 1));
    let usage = body(&answer)["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(settled(&server, tokens + more), usage);
    // One that the queue does not take counts nothing.
    let small = Server::start(&[&LONG[..], &["--parallel", "1", "--queue", "0"]].concat());
    let mut first = small.connect();
    first.write_all(post("/v1/chat/completions", &story(true, 1900)).as_bytes()).unwrap();
    first.read_exact(&mut [0]).unwrap();
    let refused = small.post("/v1/chat/completions", &story(false, 5));
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    let line = small.logged("status=429");
    assert_eq!((told(&line, "prompt_tokens"), told(&line, "completion_tokens")), (None, None), "{line}");
}

/// A tool with one argument, a string of so many characters.
fn tool(length: usize) -> Value {
    let text = json!({"type": "string", "minLength": length, "maxLength": length});
    let parameters =
        json!({"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": false});
    json!([{"type": "function", "function": {"name": "write", "parameters": parameters, "strict": true}}])
}

fn with(body: &str, changes: Value) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body.to_string()
}

/// Every choice counts, those that `best_of` makes and throws away too, and so does a call of a tool.
#[test]
fn tokens_of_all_choices_and_of_calls_count() {
    let server = Server::start(&LONG);
    let mut total = 0;
    // Whole answers: the answer, the log and the metrics say one number.
    let usage =
        |answer: &str| body(answer)["usage"]["completion_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    let used = usage(&server.post("/v1/chat/completions", &with(&story(false, 20), json!({"n": 3}))));
    assert_eq!((used, settled(&server, total)), (60, 60));
    total += used;
    let prompts = json!({"prompt": ["Once upon a time", "The cat"], "n": 1, "best_of": 2, "max_tokens": 10, "logit_bias": {"1": -100}});
    let used = usage(&server.post("/v1/completions", &prompts.to_string()));
    let line = server.logged("/v1/completions");
    assert_eq!((used, told(&line, "completion_tokens")), (40, Some(40)), "{line}");
    total += used;
    let call = json!({"tools": tool(20), "tool_choice": "required", "parallel_tool_calls": false});
    let answer = server.post("/v1/chat/completions", &with(&story(false, 400), call));
    assert!(body(&answer)["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "write", "{answer}");
    let used = usage(&answer);
    assert_eq!(settled(&server, total), used);
    total += used;
    // A client that leaves while several choices are written: what it got of each is counted, and no choice goes on.
    let leave = |body: &str, field: &str, chunks: usize| {
        let mut stream = server.connect();
        stream.write_all(post("/v1/chat/completions", body).as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let filled = format!("{field}\":\"");
        let empty = format!("{filled}\"");
        assert_eq!(lines.filter(|l| l.contains(&filled) && !l.contains(&empty)).take(chunks).count(), chunks);
    };
    leave(&with(&story(true, 900), json!({"n": 2})), "content", 40);
    let used = settled(&server, total);
    assert!((40..1800).contains(&used), "{used}");
    total += used;
    // One that leaves in the middle of a call's arguments.
    leave(&with(&story(true, 1900), json!({"tools": tool(2000), "tool_choice": "required"})), "arguments", 20);
    let used = settled(&server, total);
    assert!((20..1900).contains(&used), "{used}");
}

#[test]
#[cfg(debug_assertions)] // the fault is planted in such builds only
fn an_engine_that_panics_ends_the_server_with_an_error() {
    let mut server = Server::start_with(&LONG, &[("FARTHING_PLANTED_PANIC", "300")]);
    // A request that is not whole yet keeps the server from ending at once.
    let mut slow = server.connect();
    let whole = post("/v1/completions", "{\"prompt\": \"x\"}");
    slow.write_all(&whole.as_bytes()[..whole.len() - 3]).unwrap();
    let answer = server.post("/v1/chat/completions", &story(true, 1900));
    assert!(answer.contains("data: {\"error\"") && answer.contains("planted"), "{answer}");
    let chunks =
        answer.lines().filter(|l| l.contains("\"content\":\"") && !l.contains("\"content\":\"\"")).count() as u64;
    assert!(chunks > 0);
    let line = server.logged("/v1/chat/completions");
    assert!(told(&line, "completion_tokens").unwrap() >= chunks, "{line}");
    let health = server.get("/health");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("failed") && !health.contains("planted"), "{health}");
    assert!(server.get("/ready").starts_with("HTTP/1.1 503"));
    drop(slow);
    let status = server.child.wait().unwrap();
    assert!(!status.success() && status.code().is_some(), "a service manager restarts what fails: {status}");
    let log: Vec<String> = server.log.iter().collect();
    assert!(log.iter().any(|l| l.contains("the engine of seed-5.7m has stopped")), "{log:?}");
}

fn units(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    let all = entries.flat_map(|p| if p.is_dir() { units(&p) } else { vec![p] });
    let mut all: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == "unit")).collect();
    all.sort();
    all
}

/// Wait until the cache on disk is in use and knows so many units.
fn hashed(server: &Server, units: u64) {
    let started = Instant::now();
    while counter(server, "farthing_disk_cache_in_use") == 0 || counter(server, "farthing_disk_cache_blocks") < units {
        assert!(started.elapsed() < Duration::from_secs(60), "the cache on disk is not used");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_the_cache_had_is_one_number_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--disk-cache", "100M", "--disk-cache-dir", directory.path().to_str().unwrap()];
    let words = "once upon a time there was a little girl who went to the park with her dog and ".repeat(24);
    let chat = json!({"messages": [{"role": "user", "content": words}], "max_tokens": 3, "temperature": 0});
    let server = Server::start(&args);
    hashed(&server, 0);
    let asked = |server: &Server, path: &str, body_: &Value| -> (Value, u64, u64) {
        let names = ["farthing_cached_tokens_total", "farthing_prefix_cache_hit_tokens_total"];
        let before = names.map(|name| counter(server, name));
        let usage = body(&server.post(path, &body_.to_string()))["usage"].clone();
        let line = server.logged(path);
        let after = names.map(|name| counter(server, name));
        let now = [after[0] - before[0], after[1] - before[1]];
        assert_eq!((now[0], Some(now[0])), (now[1], told(&line, "cached_tokens")), "{line}");
        (usage, now[0], told(&line, "prompt_tokens").unwrap())
    };
    let (usage, cached, prompt) = asked(&server, "/v1/chat/completions", &chat);
    assert!(cached == 0 && prompt > 400, "{usage}");
    server.signal("-TERM");
    server.log.iter().for_each(drop);
    drop(server);
    // One unit of all is damaged; the server starts again.
    let all = units(directory.path());
    assert!(all.len() as u64 >= prompt / 64, "{all:?}");
    let mut bytes = std::fs::read(&all[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&all[1], bytes).unwrap();
    let server = Server::start(&args);
    hashed(&server, all.len() as u64);
    let (usage, cached, _) = asked(&server, "/v1/chat/completions", &chat);
    assert!(cached < prompt / 64 * 64 && cached % 64 == 0, "{cached}");
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], cached);
    assert_eq!(usage["prompt_cache_hit_tokens"], cached);
    assert_eq!(usage["prompt_cache_miss_tokens"], prompt - cached);
    // In the other dialects, each with a prompt that shares half of it.
    let half = |salt: &str| {
        let mut other = chat.clone();
        other["messages"][0]["content"] =
            format!("{}{salt}{}", &words[..words.len() / 2], &words[words.len() / 2..]).into();
        other
    };
    let (usage, cached, prompt) = asked(&server, "/v1/messages", &half("A big cat sat. "));
    let of = |usage: &Value, name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name}: {usage}"));
    assert!(cached > 0 && of(&usage, "cache_read_input_tokens") == cached, "{usage}");
    let written = of(&usage, "cache_creation_input_tokens");
    assert!(written > 0 && (cached + written) == prompt / 64 * 64, "{usage}");
    assert_eq!(of(&usage, "input_tokens"), prompt - cached - written);
    // A stream tells it at its beginning and at its end.
    let mut streamed = half("A red ball fell. ");
    streamed["stream"] = true.into();
    let events = server.post("/v1/messages", &streamed.to_string());
    let line = server.logged("/v1/messages");
    let data = events.lines().filter_map(|l| l.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap());
    let data: Vec<Value> = data.collect();
    let start = data.iter().find(|e| e["type"] == "message_start").unwrap()["message"]["usage"].clone();
    let end = data.iter().find(|e| e["type"] == "message_delta").unwrap()["usage"].clone();
    for name in ["cache_read_input_tokens", "cache_creation_input_tokens", "input_tokens"] {
        assert_eq!(start[name], end[name], "{name}");
    }
    assert_eq!(Some(of(&start, "cache_read_input_tokens")), told(&line, "cached_tokens"));
    assert!(of(&start, "cache_creation_input_tokens") > 0);
    let mut items =
        json!({"input": half("A tall tree grew. ")["messages"][0]["content"], "max_output_tokens": 3, "store": false});
    items["temperature"] = 0.into();
    let (usage, cached, prompt) = asked(&server, "/v1/responses", &items);
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], cached);
    let written = usage["input_tokens_details"]["cache_write_tokens"].as_u64().unwrap();
    assert_eq!(cached + written, prompt / 64 * 64, "{usage}");
}
