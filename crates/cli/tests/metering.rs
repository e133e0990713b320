//! A server with a ledger: who may use it, what is charged, and what a kill leaves.

mod started;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use started::books::{Books, PRICES, ask, body, cost, request, story};
use started::{MODEL, Server};

#[test]
fn a_key_pays_for_what_it_gets_and_no_more_than_it_has() {
    let books = Books::new();
    let anna = books.key("anna", &["--top-up", "0.002", "--requests-per-minute", "5"]);
    let server = books.server();
    for (path, key, status) in [
        ("/v1/models", "sk-ft-nothing", 401),
        ("/v1/models", anna.as_str(), 200),
        ("/health", "", 200),
        ("/metrics", "", 401),
        ("/openapi.json", "", 401),
    ] {
        let answer = ask(&server, key, "GET", path, &Value::Null);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    // Paid by the answer's own numbers.
    let answer = ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, Some(20)));
    let usage = body(&answer)["usage"].clone();
    assert!(
        answer.contains("x-ratelimit-limit-requests: 5\r\n")
            && answer.contains("x-ratelimit-remaining-requests: 4\r\n"),
        "{answer}"
    );
    let row = &books.ended("anna", 1);
    assert_eq!((&row["output"], &row["status"]), (&usage["completion_tokens"], &json!("done")));
    assert_eq!(row["hit"].as_u64().unwrap() + row["miss"].as_u64().unwrap(), usage["prompt_tokens"].as_u64().unwrap());
    assert_eq!(row["cost"].as_u64().unwrap(), cost(row));
    assert!((usage["cost"].as_f64().unwrap() * 1e6 - cost(row) as f64).abs() < 1e-6, "{usage}");
    let balance = body(&ask(&server, &anna, "GET", "/user/balance", &Value::Null));
    let left = 2000 - cost(row);
    assert_eq!(balance["balance_infos"][0]["total_balance"], format!("0.{left:06}").trim_end_matches('0'));
    assert_eq!((&balance["is_available"], &balance["balance_infos"][0]["currency"]), (&json!(true), &json!("EUR")));
    // More than there is, by name; without a name as much as there is.
    let refused = ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, Some(1000)));
    assert!(
        refused.starts_with("HTTP/1.1 402") && body(&refused)["error"]["code"] == "insufficient_quota",
        "{refused}"
    );
    assert!(body(&refused)["error"]["message"].as_str().unwrap().contains("top it up"), "{refused}");
    let capped = ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, None));
    let row = books.ended("anna", 2);
    assert_eq!(body(&capped)["choices"][0]["finish_reason"], "length");
    assert!(cost(&row) <= left && cost(&row) + 5 > left - row["hit"].as_u64().unwrap(), "{left}: {row}");
    // Nothing is left, then it is too fast.
    let spent = ask(
        &server,
        &anna,
        "POST",
        "/v1/messages",
        &json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}),
    );
    assert!(spent.starts_with("HTTP/1.1 402") && body(&spent)["error"]["type"] == "billing_error", "{spent}");
    books.run(&["accounts", "top-up", "anna", "1"]);
    let tokenized = || ask(&server, &anna, "POST", "/tokenize", &json!({"prompt": "Hi"}));
    assert!(tokenized().starts_with("HTTP/1.1 200"));
    assert!((0..30).any(|_| tokenized().starts_with("HTTP/1.1 429")));
    let fast = ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, Some(1)));
    assert!(fast.starts_with("HTTP/1.1 429") && fast.contains("x-ratelimit-remaining-requests: 0\r\n"), "{fast}");
    let retry = fast.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse::<u64>().unwrap();
    assert!((1..=12).contains(&retry), "{retry}");
    // Revoked while the server runs.
    books.run(&["keys", "revoke", "anna"]);
    assert!(ask(&server, &anna, "GET", "/v1/models", &Value::Null).starts_with("HTTP/1.1 401"));
    books.check();
}

/// Begins a stream and reads `chunks` of it; the tokens in them, each with a piece of text.
fn begin(server: &Server, key: &str, chunks: usize) -> BufReader<std::net::TcpStream> {
    let mut stream = server.connect();
    stream.write_all(request(key, "POST", "/v1/chat/completions", &story(true, Some(1500))).as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    assert_eq!(pieces(&mut stream, chunks), chunks);
    stream
}

/// Reads pieces of text, `most` at most, or to the end.
fn pieces(stream: &mut BufReader<std::net::TcpStream>, most: usize) -> usize {
    let filled = |line: &String| line.contains("\"content\":\"") && !line.contains("\"content\":\"\"");
    stream.by_ref().lines().map_while(Result::ok).filter(filled).take(most).count()
}

#[test]
fn a_stream_that_is_cut_is_charged_for_what_was_written() {
    let books = Books::new();
    let anna = books.key("anna", &["--top-up", "1"]);
    let mut server = books.server();
    // The client leaves.
    drop(begin(&server, &anna, 40));
    let row = books.ended("anna", 1);
    assert_eq!(row["status"], "client_disconnected");
    assert!((40..1500).contains(&row["output"].as_u64().unwrap()), "{row}");
    let log = server.logged("/v1/chat/completions");
    assert!(log.contains(&format!("completion_tokens={} ", row["output"])), "{log}: {row}");
    // The server is killed in the middle, and starts again.
    let mut stream = begin(&server, &anna, 60);
    server.child.kill().unwrap();
    let received = 60 + pieces(&mut stream, usize::MAX) as u64;
    server.child.wait().unwrap();
    assert_eq!(books.requests("anna").len(), 1);
    let server = books.server();
    let row = books.ended("anna", 2);
    let charged = row["output"].as_u64().unwrap();
    assert_eq!(row["status"], "interrupted");
    // A token may be no piece of text of its own, so fewer pieces than tokens were received.
    assert!(charged + 80 >= received && charged <= received + 8, "received {received}: {row}");
    assert_eq!(row["cost"].as_u64().unwrap(), cost(&row));
    drop(server);
    books.check();
}

#[test]
fn a_ledger_that_cannot_be_meant_is_told_before_the_server_starts() {
    let books = Books::new();
    let key = books.key("anna", &[]);
    let serve = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_farthing"))
            .args(["serve", "--port", "0"])
            .args(args)
            .env("XDG_STATE_HOME", books.directory.path())
            .env_remove("FARTHING_LEDGER")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (file, sheet) = (books.path("ledger.db"), books.path("prices.toml"));
    let other = books.path("other.toml");
    std::fs::write(&other, PRICES.replace("EUR", "CNY")).unwrap();
    let text = books.path("text.db");
    std::fs::write(&text, "not a database, and more than a hundred bytes, so that nobody could take it for the beginning of one that was cut").unwrap();
    for (args, status, said) in [
        (&["--ledger", &file, "--api-key", &key][..], 2, "--ledger has keys of its own"),
        (&["--prices", &sheet], 2, "--prices are for a ledger"),
        (&["--ledger", &file, "--check", "http://127.0.0.1:9"], 1, "127.0.0.1:9"),
        (&["--ledger", &file, "--prices", &other], 1, "--prices are in CNY, and the ledger is in EUR"),
        (&["--ledger", &text], 1, "not a database"),
        (&["--ledger", &file, "--prices", &books.path("none.toml")], 1, "none.toml"),
        (&["--ledger", "mysql://a:secret@b/c"], 1, "a ledger is a file, or postgres://"),
    ] {
        let (code, text) = serve(args);
        assert!(code == Some(status) && text.contains(said) && !text.contains("secret"), "{args:?}: {text}");
    }
    assert!(Path::new(&file).exists());
    // The ledger that is there by default is one, too.
    std::fs::create_dir(books.path("farthing")).unwrap();
    std::fs::copy(&file, books.path("farthing/ledger.db")).unwrap();
    let (code, text) = serve(&["--api-key", "secret-of-mine"]);
    assert!(code == Some(2) && text.contains("farthing/ledger.db, which has keys of its own"), "{text}");
    assert!(!text.contains("secret-of-mine"), "{text}");
}

#[test]
fn a_server_says_what_is_free_and_whose_name_it_takes() {
    let books = Books::new();
    books.key("anna", &[]);
    std::fs::write(books.path("prices.toml"), PRICES.replace('*', "another")).unwrap();
    let said = |server: &Server, text: &str| server.started.iter().any(|line| line.contains(text));
    let mut server = books.server_with(&["--name", "mine"]);
    assert!(said(&server, "warning: --prices have no price for mine, and it is free"));
    assert!(said(&server, "ledger.db, in EUR; every request needs one of its keys; this server is \"one\" there"));
    assert!(!said(&server, "was there a moment ago"));
    // One that ends says so; one that is killed does not.
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    std::fs::write(books.path("prices.toml"), PRICES).unwrap();
    let server = books.server();
    assert!(!said(&server, "was there a moment ago") && !said(&server, "no price for"));
    drop(server);
    let server = books.server();
    assert!(said(&server, "warning: a server \"one\" was there a moment ago"));
}

/// Every route of the description, with a method and a path that names something.
fn routes(server: &Server, key: &str) -> Vec<(String, String)> {
    let described = body(&ask(server, key, "GET", "/openapi.json", &Value::Null));
    let mut routes = Vec::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        let part = |part: &str| match part {
            "{file}" if path.starts_with("/page/") => "app.js".to_string(),
            part if part.starts_with('{') => "x".to_string(),
            part => part.to_string(),
        };
        let path = path.split('/').map(part).collect::<Vec<_>>().join("/");
        routes.extend(methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    assert!(routes.len() > 40, "{routes:?}");
    routes
}

#[test]
fn what_is_open_is_a_short_list() {
    let books = Books::new();
    let anna = books.key("anna", &[]);
    let server = books.server();
    // Keys of other forms, and statements, are wrong keys: one answer to all of them.
    let wrong =
        ["", "x", "sk-ft-", "' OR '1'='1", "x'; DROP TABLE key; --", &"k".repeat(3000), &anna[..anna.len() - 1]];
    for (method, path) in routes(&server, &anna) {
        // An invitation is turned into a key by whoever has its code.
        let open = ["/", "/health", "/ready", "/page/app.js", "/invitations/redeem"].contains(&path.as_str());
        let answer = ask(&server, wrong[1], &method, &path, &json!({}));
        let refused = answer.starts_with("HTTP/1.1 401") || answer.contains("too many keys that are not known");
        assert_ne!(open, refused, "{method} {path}");
    }
    drop(server);
    let server = books.server();
    let said: std::collections::BTreeSet<String> =
        wrong.iter().map(|key| body(&ask(&server, key, "GET", "/v1/models", &Value::Null)).to_string()).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(ask(&server, &anna, "GET", "/v1/models", &Value::Null).starts_with("HTTP/1.1 200"));
}

#[test]
fn too_many_wrong_keys_are_told_to_wait_and_right_ones_are_served() {
    let books = Books::new();
    let anna = books.key("anna", &[]);
    let server = books.server();
    let models = |key: &str| ask(&server, key, "GET", "/v1/models", &Value::Null);
    let wrong: Vec<String> = (0..70).map(|n| models(&format!("sk-ft-{n}"))).collect();
    assert!(wrong[..60].iter().all(|answer| answer.starts_with("HTTP/1.1 401")), "{wrong:?}");
    let late = wrong.iter().find(|answer| answer.starts_with("HTTP/1.1 429")).expect("a 429");
    assert!(late.contains("retry-after: ") && body(late)["error"]["code"] == "too_many_keys", "{late}");
    assert!(models(&anna).starts_with("HTTP/1.1 200"));
    // Who sends no key is told to send one.
    assert!(server.get("/v1/models").starts_with("HTTP/1.1 401"));
}

#[test]
fn every_route_that_computes_is_metered() {
    let books = Books::new();
    let anna = books.key("anna", &[]);
    let server = books.server();
    let conversation = json!([{"role": "user", "content": "Hi"}]);
    let mut metered = 0;
    for (method, path) in routes(&server, &anna) {
        let body = match path.as_str() {
            _ if method != "POST" => continue,
            "/tokenize" => json!({"prompt": "Hi"}),
            "/detokenize" => json!({"tokens": [5]}),
            "/infill" => json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 1}),
            "/completion" => json!({"prompt": "Hi", "n_predict": 1}),
            "/api/generate" => json!({"prompt": "Hi", "stream": false, "options": {"num_predict": 1}}),
            "/api/chat" => json!({"messages": conversation, "stream": false, "options": {"num_predict": 1}}),
            path if path.ends_with("count_tokens") => json!({"messages": conversation}),
            path if path.ends_with("rerank") => json!({"query": "a", "documents": ["b"]}),
            path if path.ends_with("/api/embeddings") => json!({"prompt": "Hi"}),
            path if path.contains("embed") => json!({"input": "Hi"}),
            path if path.ends_with("/responses") => json!({"input": "Hi", "max_output_tokens": 1}),
            path if path.ends_with("/chat/completions") || path.ends_with("/messages") || path == "/apply-template" => {
                json!({"messages": conversation, "max_tokens": 1})
            }
            path if path.ends_with("/completions") => json!({"prompt": "Hi", "max_tokens": 1}),
            _ => continue,
        };
        let answer = ask(&server, &anna, "POST", &path, &body);
        // This model has no token for a gap, no embeddings and no scores: their requests are metered in embeddings.rs.
        if answer.starts_with("HTTP/1.1 200") {
            metered += 1;
            assert_eq!(books.ended("anna", metered)["endpoint"], path.as_str(), "{answer}");
        } else {
            assert!(path == "/infill" || path.contains("embed") || path.ends_with("/rerank"), "{path}: {answer}");
        }
    }
    assert!(metered >= 18, "{metered}");
}

/// A server whose ledger lies on a disk of two megabytes, and that disk as it is seen from here; `None` where none can be mounted, which
/// FARTHING_MOUNT=required forbids.
fn on_a_small_disk(books: &Books) -> Option<(Server, PathBuf)> {
    let (disk, ledger) = (books.path("disk"), books.path("disk/ledger.db"));
    std::fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size=2m,mode=700 tmpfs {disk}");
    let unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"];
    let mounted = Command::new(unshare[0]).args(&unshare[1..]).arg(&mount).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("FARTHING_MOUNT").as_deref() != Ok("required"), "no small disk: {mounted:?}");
        eprintln!("SKIPPED a small disk: none can be mounted here");
        return None;
    }
    let script = format!("{mount} && cp {} {ledger} && exec \"$0\" \"$@\"", books.address);
    let arguments = [MODEL, "--ledger", &ledger, "--prices", &books.path("prices.toml")];
    let server = Server::start_under(&[&unshare[..], &[&script]].concat(), &arguments, &[]);
    let seen = format!("/proc/{}/root{disk}", server.child.id());
    Some((server, PathBuf::from(seen)))
}

#[test]
fn nothing_is_served_while_the_books_cannot_be_written() {
    let books = Books::new();
    let anna = books.key("anna", &["--top-up", "1"]);
    let Some((server, disk)) = on_a_small_disk(&books) else { return };
    let mut stream = begin(&server, &anna, 20);
    // The rest of the disk is filled: what is asked for from then on is refused, and the stream waits.
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let refused = (0..200).map(|_| ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, Some(1))));
    let mut refused = refused.skip_while(|answer| answer.starts_with("HTTP/1.1 200"));
    let refused = refused.next().expect("nothing was refused");
    assert!(
        refused.starts_with("HTTP/1.1 503") && body(&refused)["error"]["code"] == "ledger_unavailable",
        "{refused}"
    );
    let unready = ask(&server, "", "GET", "/ready", &Value::Null);
    assert!(
        unready.starts_with("HTTP/1.1 503") && body(&unready)["error"]["code"] == "ledger_unavailable",
        "{unready}"
    );
    assert!(ask(&server, "", "GET", "/health", &Value::Null).starts_with("HTTP/1.1 200"));
    // There is room again: all goes on, and nothing is lost.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let ready = || ask(&server, "", "GET", "/ready", &Value::Null).starts_with("HTTP/1.1 200");
    assert!((0..600).any(|_| ready() || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        false
    }));
    let received = 20 + pieces(&mut stream, usize::MAX) as u64;
    assert!(received > 1000, "the stream ended after {received} tokens");
    let served = ask(&server, &anna, "POST", "/v1/chat/completions", &story(false, Some(1)));
    assert!(served.starts_with("HTTP/1.1 200"), "{served}");
    // SQLite would look for the file's true name, so a copy is read.
    let whole = || {
        for name in ["ledger.db", "ledger.db-wal"] {
            std::fs::copy(disk.join(name), books.path(name)).unwrap();
        }
        let is = |row: &Value| row["output"] == 1500 && row["status"] == "done" && row["cost"] == cost(row);
        books.requests("anna").iter().any(is)
    };
    assert!((0..100).any(|_| whole()), "{:?}", books.requests("anna"));
    books.check();
}
