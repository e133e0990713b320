//! The server as a network sees it: raw bytes, slow and rude clients, signals.

mod started;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use started::{Server, post};

const LONG: &str =
    r#"{"prompt": "Once", "max_tokens": 1900, "temperature": 0, "logit_bias": {"1": -100}, "stream": true}"#;

/// What is under way until it is read, on any machine: an answer with so many scores that it does not fit into the system's buffers (some 10 MB at most).
fn huge() -> String {
    let prompts = serde_json::to_string(&["Once"; 6]).unwrap();
    LONG.replace("\"Once\"", &prompts).replace("\"stream\"", "\"logprobs\": 20, \"stream\"")
}

#[test]
fn every_refusal_is_json_with_its_status() {
    let server = Server::start(&["--patience", "2"]);
    let refused = |answer: String, status: &str, said: &str| {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default())
            .unwrap_or_else(|e| panic!("{e}: {answer}"));
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        for key in ["type", "param", "code"] {
            assert!(body["error"].get(key).is_some(), "{answer}");
        }
    };
    refused(
        server.get("/v1/nothing"),
        "404",
        "/v1/nothing is not served; none is like it; GET /openapi.json lists all",
    );
    refused(server.get("/v1/chat/completions"), "405", "does not take GET, it takes POST");
    refused(server.get("/v1/models/a/b"), "404", "model is \"a/b\"");
    refused(server.get("/v1/models/%ff"), "400", "/v1/models/%ff is not UTF-8");
    refused(server.post("/v1/completions", "{"), "400", "not JSON");
    refused(server.post("/v1/completions", &"[".repeat(100_000)), "400", "not JSON");
    refused(server.post("/v1/completions", r#"{"prompt": ""}"#.replace("\"\"", "[]").as_str()), "400", "prompt is []");
    let no_type =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
    refused(server.raw(no_type), "415", "application/json");
    let large = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n{";
    refused(server.raw(large), "413", "99999999 bytes; at most 4194304");
    let many = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{}",
        format!("100000\r\n{}\r\n", "x".repeat(1 << 20)).repeat(5)
    );
    refused(server.raw(&many), "413", "more than 4194304");
    let coded = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    refused(server.raw(coded), "501", "Transfer-Encoding is \"gzip, chunked\"");
    let encoded = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    refused(
        server.raw(encoded),
        "415",
        "the content encoding is \"gzip\"; no encoding is understood: send the body as it is",
    );
    refused(server.raw(&encoded.replace("gzip", "Identity")), "400", "prompt is null");
    // Chunks that are none.
    let chunked = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let trailers = format!("2\r\n{{}}\r\n0\r\n{}\r\n", "A: b\r\n".repeat(5000));
    for chunks in ["zz\r\n{}\r\n0\r\n\r\n", "fffffffffffffffff\r\n", "2\r\n{}}}\r\n", trailers.as_str()] {
        refused(server.raw(&format!("{chunked}{chunks}")), "400", "the chunked body is malformed");
    }
    // A body that does not come.
    let slow = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"prompt\"";
    refused(server.raw(slow), "408", "did not come within 2s");
    // A head that does not come, or never ends, or is none: the connection is closed, nobody waits.
    let started = Instant::now();
    assert!(server.raw("GET /health HTTP/1.1\r\nHost").is_empty() || started.elapsed() < Duration::from_secs(10));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!server.raw(&format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(1 << 20))).contains("200 OK"));
    assert!(!server.raw(&format!("GET /health HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000))).contains("200 OK"));
    assert!(!server.raw("\u{16}\u{3}\u{1} this is TLS\r\n\r\n").contains("200 OK"));
    assert!(server.get("/health").contains("{\"status\":\"ok\"}"));
    assert!(server.get("/ready").contains("\"status\":\"ready\""));
    assert!(server.post("/completions", r#"{"prompt": "Once", "max_tokens": 2}"#).contains("\"completion_tokens\":2"));
}

#[test]
fn a_client_that_leaves_frees_the_engine() {
    let server = Server::start(&["--parallel", "1", "--queue", "1"]);
    let mut stream = server.connect();
    stream.write_all(post("/v1/completions", LONG).as_bytes()).unwrap();
    let mut some = [0; 200];
    stream.read_exact(&mut some).unwrap();
    // One that waits for a whole answer, and leaves while it waits in the queue.
    let mut waits = server.connect();
    waits.write_all(post("/v1/completions", &LONG.replace("true", "false")).as_bytes()).unwrap();
    server.until("\"waiting\":1");
    let busy = server.post("/v1/completions", r#"{"prompt": "x"}"#);
    assert!(busy.contains("429 Too Many") && busy.contains("retry-after: ") && busy.contains("queue_full"), "{busy}");
    drop(waits);
    server.until("\"waiting\":0");
    drop(stream);
    server.until("\"running\":0");
    server.logged("path=\"/v1/completions\" outcome=\"client_disconnected\"");
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let server = Server::start(&["--patience", "1"]);
    // The scores of so many prompts do not fit into the system's buffers (some 10 MB at most).
    let prompts = vec![[655, 561, 267, 468].repeat(450); 24];
    let body = serde_json::json!({"prompt": prompts, "echo": true, "logprobs": 20, "max_tokens": 0});
    let mut stream = server.connect();
    stream.write_all(post("/v1/completions", &body.to_string()).as_bytes()).unwrap();
    let line = server.logged("/v1/completions");
    assert!(line.contains("outcome=\"client_disconnected\""), "{line}");
    server.until("\"running\":0");
    drop(stream);
}

#[test]
fn the_first_sigterm_waits_and_the_second_does_not() {
    let mut server = Server::start(&[]);
    let mut stream = server.connect();
    let body = LONG.replace("\"stream\"", "\"logprobs\": 20, \"stream\"");
    stream.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
    let mut some = [0; 200];
    stream.read_exact(&mut some).unwrap();
    server.signal("-TERM");
    server.logged("shutting down");
    for refused in [server.get("/ready"), server.get("/v1/models"), server.post("/v1/completions", "{}")] {
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
        assert!(refused.contains("\"code\":\"ending\""), "{refused}");
    }
    assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]") && rest.contains("\"finish_reason\":\"length\""));
    assert!(server.child.wait().unwrap().success());
    assert!(TcpStream::connect(&server.address).is_err(), "nobody listens any more");

    let mut server = Server::start(&[]);
    let mut stream = server.connect();
    stream.write_all(post("/v1/completions", LONG).as_bytes()).unwrap();
    stream.read_exact(&mut some).unwrap();
    server.signal("-INT");
    server.logged("shutting down");
    server.signal("-INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[test]
fn what_cannot_start_says_why() {
    let server = Server::start(&[]);
    let port = server.address.rsplit(':').next().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_farthing")).args(["serve", "--port", port]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("is in use; give another --port"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_farthing")).args(["serve", "./nowhere.gguf"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("./nowhere.gguf: No such file"));
}

/// A copy of the bundled model with another template.
fn with_template(name: &str, template: &str) -> std::path::PathBuf {
    let bundled = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let directory = std::env::temp_dir().join(format!("farthing-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for entry in std::fs::read_dir(bundled).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, directory.join(from.file_name().unwrap())).unwrap();
    }
    std::fs::write(directory.join("chat_template.jinja"), template).unwrap();
    directory
}

/// Processes that the server started and that still run.
fn children(server: &Server) -> Vec<u32> {
    let path = format!("/proc/{}/task", server.child.id());
    let tasks = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Templates of a stranger's model: one that never ends, one that eats memory, one whose value holds itself, one that is fine. The server outlives them, and others
/// are served meanwhile.
#[test]
fn templates_that_do_not_end_are_ended() {
    let template = "{% if messages[0].content == 'time' %}{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}\
        {% elif messages[0].content == 'itself' %}{% set n = namespace() %}{% set n.x = n %}{{ n }}\
        {% elif messages[0].content == 'memory' %}{{ (['x' * 1000000] * 100000)|join|length }}{% elif messages[0].content == 'no' %}{{ raise_exception('not so') }}\
        {% else %}{{ bos_token }}{{ messages[0].content }}{% endif %}";
    let directory = with_template("template", template);
    let server = Server::start(&[directory.to_str().unwrap()]);
    let body = |said: &str| format!(r#"{{"messages": [{{"role": "user", "content": "{said}"}}], "max_tokens": 3}}"#);
    let ask = |said: &str| server.post("/v1/chat/completions", &body(said));
    assert!(ask("Once upon").contains("200 OK"));
    let memory = ask("memory");
    assert!(memory.contains("400 Bad Request") && memory.contains("more than 1024 MiB of memory"), "{memory}");
    assert!(ask("Once upon").contains("200 OK"));
    let itself = ask("itself");
    assert!(itself.contains("400 Bad Request") && itself.contains("stack overflow"), "{itself}");
    assert!(ask("Once upon").contains("200 OK"));
    let refused = ask("no");
    assert!(refused.contains("400 Bad Request") && refused.contains("chat template: not so (line 1)"), "{refused}");
    // Three that do not end, in the two places that requests are read in.
    let mut slow: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(post("/v1/chat/completions", &body("time")).as_bytes()).unwrap();
    }
    let started = Instant::now();
    while children(&server).len() < 3 {
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", children(&server));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ask("Once upon").contains("200 OK"));
    // One that something else ends is told so: one that is at work for the three. Others wait, or have just done little.
    let ticks = |id: &u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
    };
    let before: Vec<(u32, u64)> = children(&server).into_iter().map(|id| (id, ticks(&id))).collect();
    let id = loop {
        assert!(started.elapsed() < Duration::from_secs(9), "{before:?}");
        if let Some((id, _)) = before.iter().find(|(id, from)| ticks(id) >= from + 20) {
            break *id;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(Command::new("kill").args(["-ILL", &id.to_string()]).status().unwrap().success());
    let mut ends: Vec<String> = slow
        .iter_mut()
        .map(|stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .collect();
    ends.sort_by_key(|answer| answer.contains("did not end within"));
    assert!(ends[0].contains("its process ended: signal 4"), "{ends:?}");
    assert!(ends[1..].iter().all(|answer| answer.contains("did not end within 10 s")), "{ends:?}");
    assert!(ask("Once upon").contains("200 OK"));
    let _ = std::fs::remove_dir_all(directory);
}

/// What is not done in time is left, not much later, and is told as such.
#[test]
fn what_is_not_done_in_time_is_left_and_told() {
    let mut server = Server::start(&["--drain", "1"]);
    let mut stream = server.connect();
    stream.write_all(post("/v1/completions", &huge()).as_bytes()).unwrap();
    let mut some = [0; 200];
    stream.read_exact(&mut some).unwrap();
    let told = Instant::now();
    server.signal("-TERM");
    let line = server.logged("/v1/completions");
    assert!(line.contains("outcome=\"client_disconnected\"") && line.contains("completion_tokens="), "{line}");
    assert_eq!(server.child.wait().unwrap().code(), Some(1));
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
}

/// Work that nobody waits for any more does not keep the process.
#[test]
fn the_end_does_not_wait_for_work_of_those_who_left() {
    let bundled = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    let directory = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundled).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, directory.path().join(from.file_name().unwrap())).unwrap();
    }
    let slow = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}";
    std::fs::write(directory.path().join("chat_template.jinja"), slow).unwrap();
    let mut server = Server::start(&[directory.path().to_str().unwrap()]);
    let mut stream = server.connect();
    let body = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
    stream.write_all(post("/v1/chat/completions", body).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(stream);
    server.logged("outcome=\"client_disconnected\"");
    server.signal("-TERM");
    let told = Instant::now();
    assert!(server.child.wait().unwrap().success());
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
}

/// Schemas whose compilation doubles with each pattern: a refusal, others are served meanwhile, and who leaves ends it.
#[test]
fn a_constraint_that_compiles_without_end_is_ended() {
    let server = Server::start(&[]);
    let pattern = |i: usize| format!(r#"{{"pattern": "(a|b)*{}(a|b){{{}}}"}}"#, ["a", "b"][i % 2], 20 + i);
    let all = (0..20).map(pattern).collect::<Vec<_>>().join(", ");
    let schema = format!(r#"{{"type": "object", "properties": {{"x": {{"type": "string", "allOf": [{all}]}}}}}}"#);
    let format = format!(r#"{{"type": "json_schema", "json_schema": {{"name": "a", "schema": {schema}}}}}"#);
    let chat = format!(r#"{{"messages": [{{"role": "user", "content": "Go"}}], "response_format": {format}}}"#);
    let tool = format!(r#"{{"type": "function", "name": "f", "parameters": {schema}}}"#);
    let responses = format!(r#"{{"input": "Go", "tools": [{tool}], "tool_choice": "required"}}"#);
    let asked = [("/v1/chat/completions", &chat), ("/v1/responses", &responses)];
    let until = |fits: &dyn Fn(&[u32]) -> bool| {
        let started = Instant::now();
        while !fits(&children(&server)) {
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", children(&server));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let ask = |(path, body): (&str, &String)| {
        let mut stream = server.connect();
        stream.write_all(post(path, body).as_bytes()).unwrap();
        stream
    };
    let leaves = ask(asked[0]);
    until(&|ids| ids.len() == 1);
    let its_process = children(&server)[0];
    // One address has two places: the third waits for one.
    let mut slow = asked.map(ask);
    until(&|ids| ids.len() == 2);
    let answered = server.post("/v1/completions", r#"{"prompt": "Once", "max_tokens": 2}"#);
    assert!(answered.contains("200 OK"), "{answered}");
    drop(leaves);
    until(&|ids| !ids.contains(&its_process));
    for stream in &mut slow {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("400 Bad Request") && answer.contains("compiling it takes too much"), "{answer}");
    }
    let fine = chat
        .replace(&all, r#"{"pattern": "^a"}"#)
        .replace("\"response_format\"", "\"max_tokens\": 5, \"response_format\"");
    let answered = server.post("/v1/chat/completions", &fine);
    assert!(answered.contains("200 OK"), "{answered}");
}

/// Streams an answer until `enough`, again and again; the longest time between two of its pieces.
fn longest_gap(server: &Server, enough: impl Fn() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    loop {
        let mut stream = server.connect();
        let body =
            r#"{"prompt": "Once", "max_tokens": 500, "stream": true, "temperature": 0, "logit_bias": {"1": -100}}"#;
        stream.write_all(post("/v1/completions", body).as_bytes()).unwrap();
        let mut last = None;
        for line in BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with("data: {")) {
            assert!(!line.contains("\"error\""), "{line}");
            longest = longest.max(last.replace(Instant::now()).map_or(Duration::ZERO, |last: Instant| last.elapsed()));
        }
        assert!(last.is_some(), "no piece came");
        if enough() {
            return longest;
        }
    }
}

/// Twenty thousand parts, each of which may be nothing or divided in ever more ways: each mask takes long, until the limits end it.
#[test]
fn a_grammar_of_slow_masks_holds_nobody_up() {
    let server = Server::start(&[]);
    let alone = longest_gap(&server, || true);
    let grammar = "start: x{0,20000}\nx: y{0,1}\ny: y y y | /[a-zA-Z ]/\n";
    let body =
        serde_json::json!({"prompt": "Once", "max_tokens": 6, "structured_outputs": {"grammar": grammar}}).to_string();
    // A machine that others use may stop everything once, but not each time.
    let mut gaps = Vec::new();
    while gaps.len() < 3 {
        let (begun, mut stranger) = (Instant::now(), server.connect());
        stranger.write_all(post("/v1/completions", &body).as_bytes()).unwrap();
        let stranger = std::thread::spawn(move || {
            let mut answer = String::new();
            stranger.read_to_string(&mut answer).unwrap();
            (answer, begun.elapsed())
        });
        let beside = longest_gap(&server, || stranger.is_finished());
        let (answer, took) = stranger.join().unwrap();
        let status = answer.lines().next().unwrap_or_default();
        println!("longest gap {alone:?} alone, {beside:?} beside a stranger whose answer took {took:?}: {status}");
        assert!(status.contains("200 OK") || answer.contains("constraint_failed"), "{answer}");
        // Where each mask was waited for it was half a second, beside others too it is some tens of milliseconds.
        if beside < Duration::from_millis(300) {
            return;
        }
        gaps.push(beside);
    }
    panic!("{gaps:?}");
}

/// Names of special tokens are text wherever a client can put them: names of properties, keys of schemas, escapes in arguments,
/// variables of the template.
#[test]
fn special_tokens_in_names_are_text() {
    let template = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}\
        {{ tools | tojson }}{{ own | tojson }}<tool_call>{{ m.tool_calls[0].function.arguments | tojson if false }}";
    let directory = with_template("names", template);
    let server = Server::start(&[directory.to_str().unwrap()]);
    let info: serde_json::Value =
        serde_json::from_str(server.get("/tokenizer_info").split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let name = info["eos_token"].as_str().unwrap();
    let escaped: String = name.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    let arguments = format!(r#"{{"{escaped}": {{"{name}": "{escaped}"}}}}"#);
    let parameters = serde_json::json!({
        "type": "object", name: 1, "properties": {name: {"description": "x", "enum": [name]}}, "required": [name],
    });
    let function = serde_json::json!({"name": "f", "description": name, "parameters": parameters});
    let call = serde_json::json!({"id": name, "function": {"name": "f", "arguments": arguments}});
    let request = serde_json::json!({
        "messages": [{"role": "user", "content": name}, {"role": "assistant", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": function}],
        "chat_template_kwargs": {"own": {name: [name]}},
    });
    let answer = server.post("/tokenize", &request.to_string());
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let ids = body["tokens"].as_array().unwrap_or_else(|| panic!("{body}"));
    assert!(ids.len() > 200 && !ids.contains(&1.into()), "{name} came through: {ids:?}");
    let said = server.post("/apply-template", &request.to_string());
    let times = said.matches(name).count();
    assert!(times >= 10, "all places are in the prompt, as text: {times} in {said}");
    let _ = std::fs::remove_dir_all(directory);
}

/// DeepSeek's published templates write calls and never say which tools there are: the server says it. Others take a description to be there.
#[test]
fn tools_reach_the_model_whatever_its_template_does_with_them() {
    let prompt = |name: &str, template: &str| {
        let directory = with_template(name, template);
        let server = Server::start(&[directory.to_str().unwrap()]);
        let function = serde_json::json!({"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
        let request = serde_json::json!({
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}],
            "tools": [{"type": "function", "function": function}],
        });
        let answer = server.post("/apply-template", &request.to_string());
        let _ = std::fs::remove_dir_all(directory);
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        body["prompt"].as_str().unwrap_or_else(|| panic!("{answer}")).to_string()
    };
    let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let untold = prompt("untold", &format!("{plain}{{# <｜tool▁call▁begin｜> #}}"));
    assert!(untold.starts_with("system: Be brief.\n\n## Tools\n") && untold.contains("### weather"), "{untold}");
    assert!(
        untold.contains("<｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>"),
        "{untold}"
    );
    let loud = "{% for t in tools %}{{ t.function.name + ' - ' + t.function.description }}\n{% endfor %}<tool_call>";
    let told = prompt("loud", &format!("{loud}{plain}"));
    assert!(told.starts_with("weather - \n<tool_call>system: Be brief.\nuser: Hi."), "{told}");
}
