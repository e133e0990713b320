//! Batches on a started server: from the upload to the results, beside other requests, over kills, and what they are charged.

mod started;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use started::Server;
use started::books::{Books, PRICES, cost};

/// A client of a server, with a key or without.
struct Client<'a> {
    server: &'a Server,
    key: &'a str,
}

impl Client<'_> {
    /// Status and body of a response.
    fn send(&self, method: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
        let answer = self.server.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        ));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        assert!(!chunked, "{head}");
        (head[9..12].parse().unwrap(), body.to_string())
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.send(method, path, "application/json", &body);
        (status, serde_json::from_str(&text).unwrap_or_else(|e| panic!("{method} {path}: {e}: {text}")))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.json("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn form(&self, parts: &[(&str, &str)]) -> (u16, Value) {
        let part = |(name, text): &(&str, &str)| {
            let file = if *name == "file" { "; filename=\"in.jsonl\"" } else { "" };
            format!("--b0undary\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{text}\r\n")
        };
        let body = parts.iter().map(part).collect::<String>() + "--b0undary--\r\n";
        let (status, text) = self.send("POST", "/v1/files", "multipart/form-data; boundary=b0undary", &body);
        (status, serde_json::from_str(&text).unwrap())
    }

    fn upload(&self, lines: &str) -> String {
        let (status, file) = self.form(&[("purpose", "batch"), ("file", lines)]);
        assert_eq!((status, &file["bytes"]), (200, &json!(lines.len())), "{file}");
        file["id"].as_str().unwrap().to_string()
    }

    fn batch(&self, lines: &str, window: &str) -> String {
        let new = json!({"input_file_id": self.upload(lines), "endpoint": "/v1/chat/completions", "completion_window": window});
        let (status, batch) = self.json("POST", "/v1/batches", &new);
        assert_eq!(status, 200, "{batch}");
        batch["id"].as_str().unwrap().to_string()
    }

    /// The batch once it is as wanted.
    fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let batch = self.get(path);
            if wanted(&batch) {
                return batch;
            }
            assert!(started.elapsed() < Duration::from_secs(300), "never as wanted: {batch}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(&self, id: &str) -> Value {
        self.until(&format!("/v1/batches/{id}"), |batch| {
            ["completed", "failed", "expired", "cancelled"].iter().any(|status| batch["status"] == *status)
        })
    }

    /// Lines of a file by `custom_id`, each of which is there once.
    fn lines(&self, id: &Value) -> BTreeMap<String, Value> {
        let Some(id) = id.as_str() else { return BTreeMap::new() };
        let (status, text) = self.send("GET", &format!("/v1/files/{id}/content"), "text/plain", "");
        assert_eq!(status, 200);
        by_custom_id(&text)
    }
}

fn by_custom_id(text: &str) -> BTreeMap<String, Value> {
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let all: BTreeMap<String, Value> =
        lines.iter().map(|line| (line["custom_id"].as_str().unwrap().to_string(), line.clone())).collect();
    assert_eq!(all.len(), lines.len(), "each line once: {text}");
    all
}

/// A line that asks for a story of so many tokens, which does not end by itself.
fn line(custom_id: &str, max_tokens: usize) -> String {
    let body = json!({
        "messages": [{"role": "user", "content": format!("Tell me story {custom_id}.")}],
        "max_tokens": max_tokens, "temperature": 1, "seed": 1, "logit_bias": {"1": -100},
    });
    json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string() + "\n"
}

fn lines(count: usize, max_tokens: usize) -> String {
    (0..count).map(|n| line(&n.to_string(), max_tokens)).collect()
}

fn codes(lines: &BTreeMap<String, Value>) -> BTreeSet<String> {
    lines.values().map(|line| line["error"]["code"].as_str().unwrap_or_default().to_string()).collect()
}

#[test]
fn a_batch_is_uploaded_answered_and_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let server = Server::start(&["--batches", path]);
    let client = Client { server: &server, key: "none" };
    let wrong = line("wrong", 5).replace("\"temperature\":1", "\"temperature\":3");
    let text = lines(5, 10) + "\n" + &wrong;
    let file = client.upload(&text);
    let (_, bytes) = client.send("GET", &format!("/v1/files/{file}/content"), "text/plain", "");
    assert_eq!(bytes, text);
    let new = json!({"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", "metadata": {"for": "tests"}});
    let (_, made) = client.json("POST", "/v1/batches", &new);
    assert_eq!((&made["status"], &made["metadata"]), (&json!("validating"), &json!({"for": "tests"})));
    // What is deleted meanwhile is kept by the batch.
    assert_eq!(client.json("DELETE", &format!("/v1/files/{file}"), &Value::Null).0, 200);
    let batch = client.ended(made["id"].as_str().unwrap());
    assert_eq!(batch["status"], "completed", "{batch}");
    assert_eq!(batch["request_counts"], json!({"total": 6, "completed": 5, "failed": 1}));
    let (answers, errors) = (client.lines(&batch["output_file_id"]), client.lines(&batch["error_file_id"]));
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    // The same as without a batch.
    let body: Value = serde_json::from_str(&line("3", 10)).unwrap();
    let (_, direct) = client.json("POST", "/v1/chat/completions", &body["body"]);
    assert_eq!(answers["3"]["response"]["body"]["choices"], direct["choices"]);
    assert_eq!(answers["3"]["response"]["body"]["usage"]["completion_tokens"], 10);
    let refused = &errors["wrong"]["response"];
    assert_eq!((&refused["status_code"], &refused["body"]["error"]["param"]), (&json!(400), &json!("temperature")));
    // What cannot be a batch, by number of its line.
    let failed = client.ended(&client.batch(&(lines(2, 5) + &line("1", 5) + "{\n"), "24h"));
    let found: Vec<(&Value, &Value)> =
        failed["errors"]["data"].as_array().unwrap().iter().map(|e| (&e["code"], &e["line"])).collect();
    assert_eq!(found, [(&json!("duplicate_custom_id"), &json!(3)), (&json!("invalid_json_line"), &json!(4))]);
    assert!(failed["status"] == "failed" && failed["output_file_id"].is_null() && failed["error_file_id"].is_null());
    for (new, status, param) in [
        (
            json!({"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}),
            404,
            "input_file_id",
        ),
        (
            json!({"input_file_id": "../../x", "endpoint": "/v1/completions", "completion_window": "1h"}),
            404,
            "input_file_id",
        ),
        (json!({"input_file_id": file, "endpoint": "/v1/models", "completion_window": "24h"}), 400, "endpoint"),
    ] {
        let (given, body) = client.json("POST", "/v1/batches", &new);
        assert_eq!((given, &body["error"]["param"]), (status, &json!(param)), "{body}");
    }
    for (parts, status) in [
        (&[("purpose", "assistants"), ("file", "x")][..], 400),
        (&[("purpose", "batch")], 400),
        (&[("file", "x")], 400),
        (
            &[
                ("purpose", "batch"),
                ("expires_after[anchor]", "created_at"),
                ("expires_after[seconds]", "5"),
                ("file", "x"),
            ],
            400,
        ),
    ] {
        assert_eq!(client.form(parts).0, status, "{parts:?}");
    }
    // Lists, in pages.
    let list = client.get("/v1/batches?limit=1");
    assert!(list["has_more"] == true && list["data"][0]["id"] == failed["id"], "{list}");
    let rest = client.get(&format!("/v1/batches?after={}", failed["id"].as_str().unwrap()));
    assert!(rest["has_more"] == false && rest["data"][0] == batch, "{rest}");
    let outputs = client.get("/v1/files?purpose=batch_output");
    assert_eq!(outputs["data"].as_array().unwrap().len(), 2);
    for path in ["/v1/files/..%2flock", "/v1/files/file-0", "/v1/files/%ff", "/v1/batches/x"] {
        assert_eq!(client.json("GET", path, &Value::Null).0, 404, "{path}");
    }
    // The log and the metrics tell batches from others.
    assert!(server.get("/metrics").contains("route=\"/v1/batches\",status=\"400\""));
    // It is all there after a restart, and the directory is one server's.
    let other = Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(["serve", "--port", "0", "--batches", path])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&other.stderr).contains("another server keeps its batches there"), "{other:?}");
    drop(server);
    let server = Server::start(&["--batches", path]);
    let client = Client { server: &server, key: "none" };
    assert_eq!(client.get(&format!("/v1/batches/{}", batch["id"].as_str().unwrap())), batch);
    let off = Server::start(&["--batches", "off"]);
    let (status, body) = Client { server: &off, key: "none" }.json("GET", "/v1/batches", &Value::Null);
    assert_eq!((status, &body["error"]["code"]), (404, &json!("batches_off")));
}

#[test]
fn a_batch_stops_when_it_is_told_or_its_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let server =
        Server::start(&["--batches", directory.path().to_str().unwrap(), "--batch-lines", "2", "--context", "2048"]);
    let client = Client { server: &server, key: "none" };
    let total = |batch: &Value| ["output_file_id", "error_file_id"].map(|id| client.lines(&batch[id]));
    let id = client.batch(&(line("short", 1) + &lines(400, 1500)), "24h");
    let path = format!("/v1/batches/{id}");
    client.until(&path, |batch| batch["request_counts"]["completed"].as_u64() > Some(0));
    let (status, batch) = client.json("POST", &format!("{path}/cancel"), &Value::Null);
    assert!(status == 200 && batch["status"] == "cancelling" && batch["cancelling_at"].is_u64(), "{batch}");
    let batch = client.ended(&id);
    let [answers, errors] = total(&batch);
    assert!(batch["status"] == "cancelled" && answers.contains_key("short") && answers.len() + errors.len() == 401);
    assert_eq!(codes(&errors), BTreeSet::from(["batch_cancelled".to_string()]));
    server.until("\"running\":0");
    assert_eq!(client.json("POST", &format!("{path}/cancel"), &Value::Null).0, 409);
    // Its time is over; the next one of the same client waits for it meanwhile.
    let (late, next) = (client.batch(&lines(400, 1500), "2s"), client.batch(&lines(2, 3), "24h"));
    let batch = client.ended(&late);
    let [answers, errors] = total(&batch);
    assert!(
        batch["status"] == "expired" && batch["expired_at"].is_u64() && answers.len() + errors.len() == 400,
        "{batch}"
    );
    assert_eq!(codes(&errors), BTreeSet::from(["batch_expired".to_string()]));
    assert_eq!(client.ended(&next)["status"], "completed");
}

#[test]
fn others_are_served_while_a_batch_fills_every_place() {
    let directory = tempfile::tempdir().unwrap();
    let batches = directory.path().to_str().unwrap();
    let server = Server::start(&["--batches", batches, "--parallel", "1", "--queue", "1", "--context", "2048"]);
    let client = Client { server: &server, key: "none" };
    let id = client.batch(&lines(8, 700), "24h");
    client.until(&format!("/v1/batches/{id}"), |batch| batch["status"] == "in_progress");
    server.until("\"running\":1");
    for n in 0..5 {
        let body: Value = serde_json::from_str(&line(&n.to_string(), 5)).unwrap();
        let (status, answer) = client.json("POST", "/v1/chat/completions", &body["body"]);
        assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(5)), "{answer}");
    }
    assert_eq!(client.get(&format!("/v1/batches/{id}"))["status"], "in_progress");
    // Shutdown finishes the lines in flight and leaves the others; here all are in flight.
    let mut server = server;
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    let server = Server::start(&["--batches", batches, "--context", "2048"]);
    let client = Client { server: &server, key: "none" };
    let batch = client.ended(&id);
    assert_eq!((&batch["status"], client.lines(&batch["output_file_id"]).len()), (&json!("completed"), 8));
}

#[test]
fn anthropics_batches_come_in_one_body_and_end_with_their_results() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&["--batches", directory.path().to_str().unwrap(), "--context", "2048"]);
    let client = Client { server: &server, key: "none" };
    let request = |id: &str, most: usize, temperature: f64| {
        let messages = json!([{"role": "user", "content": "Tell me a story."}]);
        json!({"custom_id": id, "params": {"model": "seed-5.7m", "max_tokens": most, "messages": messages, "temperature": temperature}})
    };
    for base in ["/v1/messages/batches", "/anthropic/v1/messages/batches"] {
        let (status, batch) =
            client.json("POST", base, &json!({"requests": [request("a", 4, 1.0), request("b", 4, 7.0)]}));
        assert!(
            status == 200 && batch["processing_status"] == "in_progress" && batch["results_url"].is_null(),
            "{batch}"
        );
        assert_eq!(batch["request_counts"]["processing"], 2);
        let path = format!("{base}/{}", batch["id"].as_str().unwrap());
        let batch = client.until(&path, |batch| batch["processing_status"] == "ended");
        let counts = json!({"processing": 0, "succeeded": 1, "errored": 1, "canceled": 0, "expired": 0});
        assert_eq!(batch["request_counts"], counts);
        assert!(format!("/anthropic{}", batch["results_url"].as_str().unwrap()).ends_with(&format!("{path}/results")));
        let (status, text) = client.send("GET", &format!("{path}/results"), "text/plain", "");
        let results = by_custom_id(&text);
        assert_eq!(status, 200);
        let (good, bad) = (&results["a"]["result"], &results["b"]["result"]);
        let tokens = good["message"]["usage"]["output_tokens"].as_u64().unwrap_or_default();
        assert!(good["type"] == "succeeded" && (1..=4).contains(&tokens), "{good}");
        assert!(bad["type"] == "errored" && bad["error"]["error"]["type"] == "invalid_request_error", "{bad}");
        assert_eq!(client.get(&format!("{base}?limit=1"))["data"][0], batch);
        let (_, deleted) = client.json("DELETE", &path, &Value::Null);
        assert_eq!(deleted["type"], "message_batch_deleted");
        assert_eq!(client.json("GET", &path, &Value::Null).0, 404);
        // One that is under way has no results and stays, until it is stopped.
        let many: Vec<Value> = (0..100).map(|n| request(&n.to_string(), 1500, 1.0)).collect();
        let (_, batch) = client.json("POST", base, &json!({ "requests": many }));
        let path = format!("{base}/{}", batch["id"].as_str().unwrap());
        let (status, refused) = client.json("GET", &format!("{path}/results"), &Value::Null);
        assert!(status == 409 && refused["type"] == "error", "{refused}");
        assert_eq!(client.json("DELETE", &path, &Value::Null).0, 409);
        let (_, batch) = client.json("POST", &format!("{path}/cancel"), &Value::Null);
        assert_eq!(batch["processing_status"], "canceling");
        let batch = client.until(&path, |batch| batch["processing_status"] == "ended");
        let counts: Vec<u64> =
            ["succeeded", "canceled"].map(|key| batch["request_counts"][key].as_u64().unwrap()).into();
        assert!(counts.iter().sum::<u64>() == 100 && counts[1] > 0, "{batch}");
        let (_, text) = client.send("GET", &format!("{path}/results"), "text/plain", "");
        assert_eq!(by_custom_id(&text).len(), 100);
    }
    for (requests, words) in [(json!([]), "requests"), (json!([request("a b", 1, 1.0)]), "requests[0].custom_id")] {
        let (status, body) = client.json("POST", "/v1/messages/batches", &json!({ "requests": requests }));
        assert!(status == 400 && body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
    assert_eq!(client.get("/v1/batches")["data"], json!([]), "each API has its own");
}

/// A server with a ledger, at half the price for batches.
fn metered(books: &Books) -> Server {
    std::fs::write(books.path("prices.toml"), PRICES.replacen('\n', "\nbatch = 0.5\n", 1)).unwrap();
    books.server_with(&["--batches", &books.path("batches")])
}

#[test]
fn a_deleted_account_leaves_no_files() {
    let books = Books::new();
    let [anna, bob, carl] = ["anna", "bob", "carl"].map(|name| books.key(name, &[]));
    let text = lines(2, 2);
    let server = metered(&books);
    let clients = [&anna, &bob, &carl].map(|key| Client { server: &server, key });
    let ids = clients.each_ref().map(|client| client.batch(&text, "24h"));
    clients.iter().zip(&ids).for_each(|(client, id)| assert_eq!(client.ended(id)["status"], "completed"));
    // Uploads, answers and what is known of batches, each in a directory of its own.
    let kept = || {
        let inside = |name: &str| std::fs::read_dir(books.path(&format!("batches/{name}"))).unwrap().count();
        (inside("files"), inside("batches"))
    };
    assert_eq!(kept(), (6, 3));
    let until = |wanted: (usize, usize)| {
        let started = Instant::now();
        while kept() != wanted {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?} are kept", kept());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Over HTTP: at once.
    let operator = books.key("operator", &["--admin"]);
    let answer = Client { server: &server, key: &operator }.json("DELETE", "/admin/accounts/anna", &Value::Null);
    assert_eq!(answer.0, 200, "{}", answer.1);
    until((4, 2));
    drop(server);
    // By a command while no server runs: when the next one starts.
    books.run(&["accounts", "delete", "bob", "--yes"]);
    let server = metered(&books);
    until((2, 1));
    assert_eq!(Client { server: &server, key: &carl }.get("/v1/files")["data"].as_array().unwrap().len(), 2);
}

#[test]
fn a_batch_that_is_killed_goes_on_and_each_line_is_charged_once() {
    kill(&Books::new());
}

#[test]
fn the_same_over_postgresql() {
    if let Some(books) = Books::postgres() {
        kill(&books);
    }
}

fn kill(books: &Books) {
    let (anna, ben) = (books.key("anna", &["--top-up", "10"]), books.key("ben", &[]));
    const LINES: usize = 500;
    let mut server = metered(books);
    let id = Client { server: &server, key: &anna }.batch(&lines(LINES, 20), "24h");
    let path = format!("/v1/batches/{id}");
    // Killed again and again in the middle.
    for part in 1..=3 {
        let enough = |batch: &Value| batch["request_counts"]["completed"].as_u64() >= Some(100 * part);
        Client { server: &server, key: &anna }.until(&path, enough);
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        server = metered(books);
    }
    let client = Client { server: &server, key: &anna };
    let batch = client.ended(&id);
    assert_eq!(batch["request_counts"], json!({"total": LINES, "completed": LINES, "failed": 0}));
    let answers = client.lines(&batch["output_file_id"]);
    assert_eq!(answers.keys().cloned().collect::<BTreeSet<_>>(), (0..LINES).map(|n| n.to_string()).collect());
    // The books have what the client got, at a batch's price.
    let of = |value: &Value, name: &str| value[name].as_u64().unwrap_or_else(|| panic!("{name}: {value}"));
    let got = |name: &str| answers.values().map(|line| of(&line["response"]["body"]["usage"], name)).sum::<u64>();
    let rows = books.requests("anna");
    let booked = |name: &str| rows.iter().map(|row| of(row, name)).sum::<u64>();
    assert_eq!(booked("output"), got("completion_tokens"));
    assert_eq!(booked("hit"), got("prompt_cache_hit_tokens"));
    assert_eq!(booked("miss"), got("prompt_cache_miss_tokens"));
    let done: Vec<&Value> = rows.iter().filter(|row| row["status"] == "done").collect();
    assert_eq!(done.len(), LINES);
    assert!(rows.iter().all(|row| row["status"] == "done" || of(row, "cost") == 0 && of(row, "output") == 0));
    for row in &done {
        assert!(of(row, "cost").abs_diff(cost(row).div_ceil(2)) <= 1, "half of the price: {row}");
        assert!(row["request"].as_str().unwrap().starts_with(&id), "{row}");
    }
    books.check();
    // It is nobody else's.
    let other = Client { server: &server, key: &ben };
    for path in [path.clone(), format!("/v1/files/{}/content", batch["output_file_id"].as_str().unwrap())] {
        assert_eq!(other.json("GET", &path, &Value::Null).0, 404, "{path}");
    }
    assert_eq!(other.json("POST", &format!("{path}/cancel"), &Value::Null).0, 404);
    assert_eq!((&other.get("/v1/batches")["data"], &other.get("/v1/files")["data"]), (&json!([]), &json!([])));
}

#[test]
fn a_batch_keeps_to_what_its_key_may() {
    let books = Books::new();
    let poor = books.key("poor", &["--top-up", "0.0005"]);
    let slow = books.key("slow", &["--requests-per-minute", "60"]);
    let gone = books.key("gone", &[]);
    let server = metered(&books);
    let of = |key| Client { server: &server, key };
    // What the balance does not hold is an error of its line, and the others go on.
    let id = of(&poor).batch(&(lines(3, 20) + &line("dear", 1000) + &line("last", 20)), "24h");
    let batch = of(&poor).ended(&id);
    let errors = of(&poor).lines(&batch["error_file_id"]);
    assert_eq!(batch["request_counts"], json!({"total": 5, "completed": 4, "failed": 1}), "{errors:?}");
    let refused = &errors["dear"]["response"];
    assert_eq!(
        (&refused["status_code"], &refused["body"]["error"]["code"]),
        (&json!(402), &json!("insufficient_quota"))
    );
    // What comes too fast waits.
    let batch = of(&slow).ended(&of(&slow).batch(&lines(62, 1), "24h"));
    assert_eq!(batch["request_counts"], json!({"total": 62, "completed": 62, "failed": 0}));
    // A key that is revoked answers no more.
    let keep = books.key("keep", &["--account", "gone"]);
    let id = of(&gone).batch(&lines(2000, 20), "24h");
    of(&gone).until(&format!("/v1/batches/{id}"), |batch| batch["request_counts"]["completed"].as_u64() > Some(3));
    books.run(&["keys", "revoke", "gone"]);
    let batch = of(&keep).ended(&id);
    assert!(batch["status"] == "failed" && batch["errors"]["data"][0]["code"] == "invalid_api_key", "{batch}");
    let (answers, errors) = (of(&keep).lines(&batch["output_file_id"]), of(&keep).lines(&batch["error_file_id"]));
    assert_eq!((answers.len() + errors.len(), codes(&errors)), (2000, BTreeSet::from(["batch_failed".to_string()])));
    let rows: Value =
        serde_json::from_str(&books.run(&["usage", "--requests", "--most", "100000", "--account", "gone", "--json"]))
            .unwrap();
    assert_eq!(
        rows["requests"].as_array().unwrap().iter().filter(|row| row["status"] == "done").count(),
        answers.len()
    );
    books.check();
}
