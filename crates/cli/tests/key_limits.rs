//! What a key cannot have: work that nobody pays for, work before it is refused, what is behind paths that it is not for, and what others do.

mod started;

use std::io::Write;

use serde_json::{Value, json};
use started::Server;
use started::books::{Books, ask, body, cost, request, story};

fn refused(answer: &str, status: u16, code: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && body(answer)["error"]["code"] == code, "{answer}");
}

/// A sum of the engine's, which is open to all here.
fn counted(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics");
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |number| number.parse().unwrap())
}

#[test]
fn a_prompt_that_was_read_is_paid_for_whatever_becomes_of_its_answer() {
    let books = Books::new();
    let anna = books.key("anna", &["--top-up", "1"]);
    let server = books.server_with(&["--open-metrics", "--context", "2048", "--disk-cache", "off"]);
    let prompt: Vec<u32> = (0..1050).map(|n| 300 + n * 7 % 500).collect();
    let asked = json!({"prompt": prompt, "max_tokens": 900, "logit_bias": {"1": -100}});
    let mut client = server.connect();
    client.write_all(request(&anna, "POST", "/v1/completions", &asked).as_bytes()).unwrap();
    while counted(&server, "farthing_forward_rows_total") < 1060 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(client);
    let row = books.ended("anna", 1);
    assert_eq!((&row["status"], &row["output"]), (&json!("client_disconnected"), &json!(0)));
    assert_eq!((&row["hit"], &row["miss"]), (&json!(0), &json!(1050)), "{row}");
    assert_eq!(row["cost"].as_u64().unwrap(), cost(&row));
    // It is in the cache, and was paid for.
    let again = json!({"prompt": prompt, "max_tokens": 1});
    assert!(ask(&server, &anna, "POST", "/v1/completions", &again).starts_with("HTTP/1.1 200"));
    let row = books.ended("anna", 2);
    assert_eq!((&row["hit"], &row["miss"]), (&json!(1024), &json!(26)), "{row}");
    books.check();
}

#[test]
fn what_is_refused_is_refused_before_it_is_worked_on() {
    let books = Books::new();
    let slow = books.key("slow", &["--requests-per-minute", "1"]);
    let spent = books.key("spent", &["--account", "poor"]);
    books.run(&["accounts", "create", "broke", "--prepaid"]);
    let broke = books.key("broke", &["--account", "broke"]);
    let other = books.key("other", &["--model", "another", "--endpoint", "/v1/embeddings"]);
    let server = books.server();
    assert!(ask(&server, &slow, "POST", "/v1/chat/completions", &story(false, Some(1))).starts_with("HTTP/1.1 200"));
    // The body would be found to be wrong by who looks at it.
    let mut wrong = story(false, Some(1));
    wrong["temperature"] = json!("warm");
    refused(&ask(&server, &spent, "POST", "/v1/chat/completions", &wrong), 400, "invalid_value");
    refused(&ask(&server, &slow, "POST", "/v1/chat/completions", &wrong), 429, "rate_limit_exceeded");
    refused(&ask(&server, &broke, "POST", "/v1/chat/completions", &wrong), 402, "insufficient_quota");
    // These load the first model.
    for path in ["/props", "/tokenizer_info"] {
        assert!(ask(&server, &spent, "GET", path, &Value::Null).starts_with("HTTP/1.1 200"), "{path}");
        refused(&ask(&server, &broke, "GET", path, &Value::Null), 402, "insufficient_quota");
        refused(&ask(&server, &other, "GET", path, &Value::Null), 403, "model_not_allowed");
    }
}

#[test]
fn a_key_reaches_files_and_batches_only_where_it_is_for_them() {
    let books = Books::new();
    let (whole, files) = (books.key("whole", &[]), books.key("files", &["--endpoint", "/v1/files"]));
    let other = books.key("other", &["--endpoint", "/v1/embeddings"]);
    let directory = books.path("batches");
    let server = books.server_with(&["--batches", &directory]);
    let mut seen = 0;
    let described = body(&ask(&server, &whole, "GET", "/openapi.json", &Value::Null));
    for (path, methods) in described["paths"].as_object().unwrap() {
        let is = |base: &str| path == base || path.starts_with(&format!("{base}/"));
        if !["/v1/files", "/v1/batches", "/v1/messages/batches", "/anthropic/v1/messages/batches"].into_iter().any(is) {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let (method, path) =
                (method.to_uppercase(), path.replace("{file}", "file-x").replace("{batch}", "batch_x"));
            let denied = |key: &str| ask(&server, key, &method, &path, &json!({})).starts_with("HTTP/1.1 403 ");
            assert_eq!(
                [&whole, &files, &other].map(|key| denied(key)),
                [false, !is("/v1/files"), true],
                "{method} {path}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
    // What tells a key of itself is for every key.
    assert!(ask(&server, &other, "GET", "/user/key", &Value::Null).starts_with("HTTP/1.1 200"));
}

#[test]
fn what_others_use_is_not_told() {
    let books = Books::new();
    let (anna, admin) = (books.key("anna", &[]), books.key("operator", &["--admin"]));
    let server = books.server();
    refused(&ask(&server, &anna, "GET", "/metrics", &Value::Null), 403, "admin_key_needed");
    assert!(ask(&server, &admin, "GET", "/metrics", &Value::Null).starts_with("HTTP/1.1 200"));
    let server = books.server_with(&["--open-metrics"]);
    assert!(ask(&server, &anna, "GET", "/metrics", &Value::Null).starts_with("HTTP/1.1 200"));
    // Each key of the command line is an account.
    let keys = |keys: &[&str]| Server::start(&keys.iter().flat_map(|key| ["--api-key", key]).collect::<Vec<_>>());
    assert!(ask(&keys(&["sk-one"]), "sk-one", "GET", "/metrics", &Value::Null).starts_with("HTTP/1.1 200"));
    refused(&ask(&keys(&["sk-one", "sk-two"]), "sk-one", "GET", "/metrics", &Value::Null), 403, "admin_key_needed");
}

fn names_with_a_nul(books: &Books) {
    let admin = books.key("operator", &["--admin"]);
    let server = books.server();
    for path in ["/admin/keys/%00", "/admin/accounts/a%00b", "/admin/usage?key=%00", "/admin/usage?account=a%00"] {
        let answer = ask(&server, &admin, "GET", path, &Value::Null);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    assert!(ask(&server, "", "GET", "/ready", &Value::Null).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_nul_is_no_name_of_a_file_nor_of_postgresql() {
    names_with_a_nul(&Books::new());
    if let Some(books) = Books::postgres() {
        names_with_a_nul(&books);
    }
}
