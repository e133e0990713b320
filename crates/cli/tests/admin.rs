//! The admin API of a server with a ledger: every route, every refusal, and what nobody may read. What a deleted account leaves, and what a choice and a
//! request that cannot be paid cost.

mod started;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use started::{MODEL, Server};

const PRICES: &str = "currency = \"EUR\"\n[[models]]\nname = \"*\"\nhit = 1\nmiss = 2\noutput = 5\n";

/// Books of a test, in a directory of their own.
struct Books {
    directory: tempfile::TempDir,
}

impl Books {
    fn new() -> Books {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("prices.toml"), PRICES).unwrap();
        Books { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_string()
    }

    /// What a command on the ledger prints.
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        let output = command.args(args).env("FARTHING_LEDGER", self.path("ledger.db")).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat())).unwrap()
    }

    /// The secret of a new key.
    fn key(&self, name: &str, args: &[&str]) -> String {
        self.run(&[&["keys", "create", name, "--currency", "EUR", "--quiet"], args].concat()).trim().to_string()
    }

    fn server(&self, args: &[&str]) -> Server {
        let (ledger, prices) = (self.path("ledger.db"), self.path("prices.toml"));
        let own = ["--ledger", &ledger, "--prices", &prices, "--server-name", "one"];
        Server::start(&[&own[..], args].concat())
    }
}

/// A request with a key, or without one where it is empty: its status, its headers, and its body.
fn ask(server: &Server, key: &str, line: &str, body: &Value) -> (u16, String, Value) {
    let (method, path) = line.split_once(' ').unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let key = if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let answer = server.raw(&format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}{kind}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: {answer}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

/// The body of what is done.
fn done(server: &Server, key: &str, line: &str, body: &Value) -> Value {
    let (status, head, answer) = ask(server, key, line, body);
    assert!(status == 200 && head.contains("cache-control: no-store"), "{line}: {head} {answer}");
    answer
}

/// Status and code of what is refused.
fn refused(server: &Server, key: &str, line: &str, body: &Value) -> (u16, String) {
    let (status, _, answer) = ask(server, key, line, body);
    (status, answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{line}: {status} {answer}")).to_string())
}

fn without(mut answer: Value, field: &str) -> Value {
    answer.as_object_mut().unwrap().remove(field).unwrap();
    answer
}

fn without_secret(answer: Value) -> Value {
    without(answer, "secret")
}

const NONE: Value = Value::Null;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every route of administrators.
const ROUTES: [&str; 16] = [
    "GET /admin/keys",
    "POST /admin/keys",
    "GET /admin/keys/anna",
    "POST /admin/keys/anna/limits",
    "POST /admin/keys/anna/rotate",
    "POST /admin/keys/anna/revoke",
    "GET /admin/accounts",
    "POST /admin/accounts",
    "GET /admin/accounts/anna",
    "DELETE /admin/accounts/anna",
    "POST /admin/accounts/anna/credit",
    "GET /admin/invitations",
    "POST /admin/invitations",
    "POST /admin/invitations/class/revoke",
    "GET /admin/usage",
    "GET /admin/prices",
];

#[test]
fn administrators_do_over_http_what_the_commands_do() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let server = books.server(&[]);
    // A key, with its account and money.
    let limits = json!({"requests_per_minute": 60, "models": ["*a/b"], "money": {"day": 5_000_000}});
    let new = json!({"name": "ci bot", "account": "anna", "top_up": 10_000_000, "grant": 1, "limits": limits});
    let made = done(&server, &admin, "POST /admin/keys", &new);
    let (id, secret) = (made["key"]["id"].as_str().unwrap(), made["secret"].as_str().unwrap().to_string());
    assert!(secret.starts_with("sk-ft-"));
    assert_eq!(without_secret(made.clone()), without(books.json(&["keys", "show", id]), "left"));
    assert_eq!((&made["account"]["balance"], &made["account"]["prepaid"]), (&json!(10_000_001), &json!(true)));
    assert_eq!(made["key"]["admin"], false);
    let named = |name: &str| format!("GET /admin/keys/{name}");
    let shown = done(&server, &admin, &named("ci%20bot"), &NONE);
    assert_eq!(shown, books.json(&["keys", "show", "ci bot"]));
    assert_eq!((&shown["left"]["money"]["day"], &shown["left"]["balance"]), (&json!(5_000_000), &json!(10_000_001)));
    assert_eq!(ask(&server, &secret, "GET /v1/models", &NONE).0, 200);
    // Limits: those that are given, null removes one.
    let change = json!({"limits": {"requests_per_minute": null, "concurrency": 3, "money": {"month": 7}}, "expires_at": 9_999_999_999_999_u64});
    let limited = done(&server, &admin, &format!("POST /admin/keys/{id}/limits"), &change);
    let wanted = json!({"models": ["*a/b"], "concurrency": 3, "money": {"day": 5_000_000, "month": 7}, "tokens": {}});
    assert_eq!((&limited["key"]["limits"], &limited["key"]["expires_at"]), (&wanted, &json!(9_999_999_999_999_u64)));
    assert_eq!(limited, without(books.json(&["keys", "show", id]), "left"));
    // A new secret, the old one for a while.
    let rotated = done(&server, &admin, &format!("POST /admin/keys/{id}/rotate"), &json!({"grace_ms": 600_000}));
    let newer = rotated["secret"].as_str().unwrap();
    assert!(
        newer != secret
            && [newer, secret.as_str()].iter().all(|key| ask(&server, key, "GET /v1/models", &NONE).0 == 200)
    );
    let newest = done(&server, &admin, &format!("POST /admin/keys/{id}/rotate"), &NONE)["secret"].clone();
    assert_eq!([newest.as_str().unwrap(), newer].map(|key| ask(&server, key, "GET /v1/models", &NONE).0), [200, 401]);
    let revoked = done(&server, &admin, &format!("POST /admin/keys/{id}/revoke"), &json!({}));
    assert_eq!(revoked["key"]["state"], "revoked");
    assert_eq!(refused(&server, newest.as_str().unwrap(), "GET /v1/models", &NONE), (401, "invalid_api_key".into()));
    assert_eq!(done(&server, &admin, "GET /admin/keys", &NONE), books.json(&["keys", "list"]));
    // Accounts.
    let bob = done(&server, &admin, "POST /admin/accounts", &json!({"name": "bob", "prepaid": true}));
    assert_eq!(bob["account"]["balance"], 0);
    let credit = json!({"kind": "grant", "amount": 250, "note": "welcome"});
    let credited = done(&server, &admin, "POST /admin/accounts/bob/credit", &credit);
    assert_eq!((&credited["account"]["granted"], &credited["account"]["topped_up"]), (&json!(250), &json!(0)));
    let back = json!({"amount": 50, "note": "it was 200"});
    let deducted = done(&server, &admin, "POST /admin/accounts/bob/deduct", &back);
    assert_eq!(deducted["account"]["granted"], 200);
    let entries = done(&server, &admin, "GET /admin/accounts/bob/entries?most=1", &NONE);
    assert_eq!(entries, books.json(&["accounts", "entries", "bob", "--most", "1"]));
    let newest = &entries["entries"][0];
    assert_eq!((&newest["kind"], &newest["amount"]), (&json!("correction"), &json!(-50)));
    assert_eq!(done(&server, &admin, "GET /admin/accounts", &NONE), books.json(&["accounts", "list"]));
    assert_eq!(done(&server, &admin, "GET /admin/accounts/anna", &NONE), books.json(&["accounts", "show", "anna"]));
    // Administrators by name only.
    let operator = done(&server, &admin, "POST /admin/keys", &json!({"name": "second", "admin": true}));
    let second = operator["secret"].as_str().unwrap();
    assert_eq!(operator["key"]["state"], "admin");
    // Usage and prices.
    for (query, args) in [
        ("", &[][..]),
        (
            "?by=account&from=2026-01-01&until=2026-12-31",
            &["--by", "account", "--from", "2026-01-01", "--until", "2026-12-31"],
        ),
        ("?requests=true&most=5", &["--requests", "--most", "5"]),
        ("?by=key&key=second&account=deleted", &["--by", "key", "--key", "second", "--account", "deleted"]),
    ] {
        let told = done(&server, second, &format!("GET /admin/usage{query}"), &NONE);
        assert_eq!(told, books.json(&[&["usage"], args].concat()), "{query}");
    }
    let (_, head, table) = ask(&server, &admin, "GET /admin/usage?by=model&format=csv", &NONE);
    assert!(head.contains("content-type: text/csv"), "{head}");
    assert_eq!(table, books.run(&["usage", "--by", "model", "--csv"]));
    let prices = done(&server, &admin, "GET /admin/prices", &NONE);
    let model = json!({"name": "*", "hit": 1_000_000, "miss": 2_000_000, "output": 5_000_000});
    assert_eq!(prices, json!({"currency": "EUR", "models": [model], "hours": [], "batch": 1.0, "factor": 1.0}));
    // Deleted for good.
    let gone = done(&server, &admin, "DELETE /admin/accounts/bob", &NONE);
    assert_eq!(gone["account"]["name"], "bob");
    assert_eq!(refused(&server, &admin, "GET /admin/accounts/bob", &NONE), (404, "account_not_found".into()));
    assert_eq!(books.run(&["ledger", "check", "--quiet"]).trim(), "");
}

#[test]
fn nobody_else_administers() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let anna = books.key("anna", &[]);
    let file = books.path("admins");
    std::fs::write(&file, "file-admin-key\n").unwrap();
    let server = books.server(&["--admin-key-file", &file]);
    for line in ROUTES {
        assert_eq!(refused(&server, "", line, &NONE), (401, "invalid_api_key".into()), "{line}");
        assert_eq!(refused(&server, "sk-ft-wrong", line, &NONE), (401, "invalid_api_key".into()), "{line}");
        assert_eq!(refused(&server, &anna, line, &json!({})), (403, "admin_key_needed".into()), "{line}");
    }
    // Nothing of this was done; those of the file do what the ledger's do.
    for key in [admin.as_str(), "file-admin-key"] {
        assert_eq!(done(&server, key, "GET /admin/accounts", &NONE)["accounts"].as_array().unwrap().len(), 2);
        assert_eq!(done(&server, key, "GET /admin/keys/anna", &NONE)["key"]["state"], "valid");
        assert_eq!(refused(&server, key, "GET /user/key", &NONE), (403, "admin_key".into()));
        assert_eq!(refused(&server, key, "GET /admin/nothing", &NONE).0, 404);
        assert_eq!(refused(&server, key, "PUT /admin/keys", &NONE).0, 405);
    }
    let said = ask(&server, &admin, "POST /v1/chat/completions", &json!({"messages": []}));
    assert_eq!(said.0, 403, "{}", said.2);
    // Without a ledger there is nothing to administer.
    let open = Server::start(&[]);
    for line in ROUTES.into_iter().chain(["GET /user/key", "GET /user/usage", "POST /invitations/redeem"]) {
        assert_eq!(refused(&open, "", line, &NONE), (404, "no_ledger".into()), "{line}");
    }
    let keyed = Server::start(&["--api-key", "some-key", "--admin-key-file", &file]);
    assert_eq!(refused(&keyed, "", "POST /invitations/redeem", &NONE).0, 401);
    assert_eq!(refused(&keyed, "file-admin-key", "GET /admin/keys", &NONE), (404, "no_ledger".into()));
}

#[test]
fn what_cannot_be_meant_is_refused_and_nothing_is_done() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    books.key("anna", &[]);
    books.key("twin", &["--account", "anna"]);
    books.key("twin", &["--account", "anna"]);
    books.key("gone", &["--account", "anna"]);
    books.run(&["keys", "revoke", "gone"]);
    let server = books.server(&[]);
    let before = (books.json(&["keys", "list"]), books.json(&["accounts", "list"]));
    let bad = |line: &str, body: Value, param: &str| {
        let (status, _, answer) = ask(&server, &admin, line, &body);
        let error = &answer["error"];
        assert_eq!((status, error["param"].as_str().unwrap_or_default()), (400, param), "{line} {body}: {answer}");
    };
    for (body, param) in [
        (json!({}), "name"),
        (json!({"name": 5}), "name"),
        (json!({"name": " "}), ""),
        (json!({"name": "x", "admin": "yes"}), "admin"),
        (json!({"name": "x", "admin": 1}), "admin"),
        (json!({"name": "x", "admin": true, "limits": {"concurrency": 1}}), "limits"),
        (json!({"name": "x", "administrator": true}), "administrator"),
        (json!({"name": "x", "limits": {"request_per_minute": 1}}), ""),
        (json!({"name": "x", "limits": {"requests_per_minute": 0}}), ""),
        (json!({"name": "x", "limits": {"requests_per_minute": -1}}), ""),
        (json!({"name": "x", "limits": {"money": {"day": -1}}}), ""),
        (json!({"name": "x", "limits": [1]}), "limits"),
        (json!({"name": "x", "top_up": 0}), "top_up"),
        (json!({"name": "x", "top_up": 2.5}), "top_up"),
        (json!({"name": "x", "grant": 2_000_000_000_000_000_u64}), "grant"),
        (json!({"name": "x", "account": "new", "top_up": 1, "limits": {"concurrency": 0}}), ""),
        (json!({"name": "x", "expires_at": -1}), "expires_at"),
    ] {
        bad("POST /admin/keys", body, param);
    }
    bad("POST /admin/keys?name=x", json!({"name": "x"}), "name");
    bad("POST /admin/keys/anna/limits", json!({}), "limits");
    bad("POST /admin/keys/anna/limits", json!({"limit": {}}), "limit");
    bad("POST /admin/keys/twin/revoke", json!({}), "");
    bad("POST /admin/keys/anna/rotate", json!({"grace_ms": "1d"}), "grace_ms");
    bad("POST /admin/accounts", json!({"name": "anna"}), "");
    bad("POST /admin/accounts", json!({"name": "deleted"}), "");
    bad("POST /admin/accounts/anna/credit", json!({"kind": "gift", "amount": 1}), "kind");
    bad("POST /admin/accounts/anna/credit", json!({"kind": "grant"}), "amount");
    bad("POST /admin/accounts/anna/credit", json!({"kind": "grant", "amount": 1, "note": "x".repeat(501)}), "");
    bad("POST /admin/accounts/anna/deduct", json!({"amount": 1}), "note");
    bad("POST /admin/accounts/anna/deduct", json!({"note": "x"}), "amount");
    bad("POST /admin/accounts/anna/deduct", json!({"amount": 1, "note": "nothing is there"}), "");
    bad("GET /admin/accounts/anna/entries?most=0", NONE, "most");
    bad("GET /admin/accounts/anna/entries?least=1", NONE, "least");
    bad("POST /admin/keys", json!({"name": "x", "limits": {"endpoints": ["/v1/nosuch"]}}), "limits");
    bad("POST /admin/keys", json!({"name": "x", "limits": {"money": {"day": 0}}}), "");
    bad("POST /admin/keys/anna/limits", json!({"limits": {"endpoints": ["/v1/messages", "/health"]}}), "limits");
    bad("POST /admin/invitations", json!({"name": "x", "uses": 1, "limits": {"endpoints": ["/nosuch"]}}), "limits");
    bad("POST /admin/invitations", json!({"name": "x"}), "uses");
    bad("POST /admin/invitations", json!({"name": "x", "uses": 0}), "uses");
    for (query, param) in [
        ("by=week", "by"),
        ("from=yesterday", "from"),
        ("from=2026-11-30&until=2026-11-29", "from"),
        ("from=1970-01-01", "from"),
        ("most=5", "most"),
        ("requests=true&most=10001", "most"),
        ("format=xml", "format"),
        ("by=day&by=key", "by"),
        ("group=day", "group"),
    ] {
        bad(&format!("GET /admin/usage?{query}"), NONE, param);
    }
    for (line, code) in [
        ("GET /admin/keys/nothing", "key_not_found"),
        ("POST /admin/keys/nothing/rotate", "key_not_found"),
        ("GET /admin/accounts/nothing", "account_not_found"),
        ("DELETE /admin/accounts/nothing", "account_not_found"),
        ("GET /admin/usage?account=nothing", "account_not_found"),
        ("GET /admin/usage?model=nothing", "model_not_found"),
        ("GET /admin/accounts/nothing/entries", "account_not_found"),
        ("POST /admin/keys/gone/revoke", "key_not_found"),
        ("POST /admin/invitations/nothing/revoke", "invitation_not_found"),
    ] {
        assert_eq!(refused(&server, &admin, line, &NONE), (404, code.to_string()), "{line}");
    }
    let large = json!({"name": "x".repeat(70_000)});
    assert_eq!(refused(&server, &admin, "POST /admin/accounts", &large), (413, "body_too_large".into()));
    assert_eq!((books.json(&["keys", "list"]), books.json(&["accounts", "list"])), before);
}

#[test]
fn an_invitation_is_redeemed_without_a_key_and_codes_cannot_be_tried() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let server = books.server(&["--trusted-proxy", "127.0.0.1"]);
    let limits = json!({"concurrency": 2});
    let invite = |name: &str, uses: u64, expires_at: u64| {
        let new = json!({"name": name, "uses": uses, "grant": 700, "limits": limits, "expires_at": expires_at});
        let made = done(&server, &admin, "POST /admin/invitations", &new);
        assert_eq!(made["invitation"]["name"], name);
        made["secret"].as_str().unwrap().to_string()
    };
    let (code, spent) = (invite("class", 20, 0), invite("spent", 1, 0));
    let (revoked, expired) = (invite("revoked", 5, 0), invite("expired", 5, 1));
    done(&server, &admin, "POST /admin/invitations/revoked/revoke", &NONE);
    assert_eq!(done(&server, &admin, "GET /admin/invitations", &NONE), books.json(&["invitations", "list"]));
    let redeem = |from: &str, body: &Value| {
        let body = body.to_string();
        let head = format!(
            "Host: localhost\r\nConnection: close\r\nX-Forwarded-For: {from}\r\nContent-Type: application/json"
        );
        let length = body.len();
        let answer = server
            .raw(&format!("POST /invitations/redeem HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), head.to_lowercase(), body)
    };
    let of = |code: &str, name: &str| json!({"code": code, "name": name});
    // More than ten that succeed are no tries. The account, its grant, its limits.
    for n in 0..12 {
        let (status, head, made) = redeem("10.0.0.1", &of(&code, &format!("guest {n}")));
        assert!(status == 200 && head.contains("cache-control: no-store"), "{made}");
        assert_eq!((&made["account"]["granted"], &made["key"]["limits"]["concurrency"]), (&json!(700), &json!(2)));
        let secret = made["secret"].as_str().unwrap();
        assert_eq!(done(&server, secret, "GET /user/key", &NONE)["key"], made["key"]);
    }
    assert_eq!(redeem("10.0.0.1", &of(&spent, "first")).0, 200);
    // One answer, whatever is wrong with a code.
    let answers: Vec<_> = [spent.as_str(), &revoked, &expired, "inv-nothing", "", &admin]
        .map(|code| redeem("10.0.0.2", &of(code, "eve")))
        .into_iter()
        .map(|(status, _, body)| (status, body))
        .collect();
    assert_eq!((answers[0].0, &answers[0].1["error"]["code"]), (403, &json!("invitation_refused")));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    for body in [json!({"code": code}), json!({"name": "eve"}), of(&code, " "), of(&code, &"x".repeat(5000))] {
        assert!([400, 413].contains(&redeem("10.0.0.2", &body).0), "{body}");
    }
    // Wrong codes are counted, and one that is right is taken all the same.
    let wrong: Vec<_> = (0..6).map(|_| redeem("10.0.0.2", &of("inv-nothing", "eve"))).collect();
    let late = wrong.into_iter().find(|(status, ..)| *status != 403).expect("too many tries");
    let (status, head, body) = late;
    assert_eq!((status, &body["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert_eq!(redeem("10.0.0.2", &of(&code, "late")).0, 200);
    let retry: u64 = head.split("retry-after: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert!((1..=7).contains(&retry), "{retry}");
    // Another address goes on, until all together have tried too often.
    assert_eq!(redeem("10.0.0.3", &of("inv-nothing", "eve")).0, 403);
    let statuses: Vec<u16> = (0..110).map(|n| redeem(&format!("10.0.1.{n}"), &of("inv-nothing", "eve")).0).collect();
    assert!(statuses[..60].iter().all(|status| *status == 403) && statuses.contains(&429), "{statuses:?}");
    // Nor are they a reason to turn anybody away who has a right one.
    assert_eq!(redeem("10.0.9.9", &of(&code, "fresh")).0, 200);
    assert_eq!(done(&server, &admin, "GET /admin/accounts", &NONE)["accounts"].as_array().unwrap().len(), 16);
}

#[test]
fn the_owner_of_a_key_sees_what_is_left_and_what_was_used() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let limits = ["--top-up", "1", "--requests-per-minute", "5", "--tokens-per-day", "10000", "--money-total", "0.5"];
    let anna = books.key("anna", &limits);
    let other = books.key("other", &["--account", "anna"]);
    let server = books.server(&[]);
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5});
    let (status, _, answer) = ask(&server, &anna, "POST /v1/chat/completions", &chat);
    assert_eq!(status, 200, "{answer}");
    let tokens = answer["usage"]["total_tokens"].as_u64().unwrap();
    let used = |key: &str, query: &str| done(&server, key, &format!("GET /user/usage{query}"), &NONE);
    until("the request is in the books", || used(&anna, "")["sum"]["requests"] == 1);
    let (mine, cost) = (done(&server, &anna, "GET /user/key", &NONE), used(&anna, "")["sum"]["cost"].as_i64().unwrap());
    let left = &mine["left"];
    assert_eq!(
        (&left["tokens"], &left["money"]),
        (&json!({"day": 10_000 - tokens}), &json!({"total": 500_000 - cost}))
    );
    assert_eq!((&left["balance"], &left["requests_per_minute"]["limit"]), (&json!(1_000_000 - cost), &json!(5)));
    assert!(left["requests_per_minute"]["remaining"].as_u64().unwrap() >= 4 && left["concurrency"].is_null(), "{left}");
    assert!(!mine.to_string().contains(&anna[6..]), "no secret");
    // Its own, or its account's; by day or by model.
    assert_eq!(used(&other, "")["sum"]["requests"], 0);
    let all = used(&other, "?of=account&by=model");
    assert_eq!(
        (&all["sum"]["requests"], &all["by"], &all["rows"][0]["requests"]),
        (&json!(1), &json!("model"), &json!(1))
    );
    let (_, head, table) = ask(&server, &anna, "GET /user/usage?format=csv", &NONE);
    assert!(head.contains("text/csv") && table.as_str().unwrap().starts_with("day,requests,"), "{table}");
    for wrong in ["?by=key", "?of=all", "?from=2020-01-01", "?key=other", "?account=operator"] {
        assert_eq!(ask(&server, &anna, &format!("GET /user/usage{wrong}"), &NONE).0, 400, "{wrong}");
    }
    for line in ["GET /user/usage", "GET /user/key"] {
        assert_eq!(refused(&server, "", line, &NONE).0, 401);
        assert_eq!(refused(&server, &admin, line, &NONE).0, 403);
    }
}

#[test]
fn changes_are_in_the_log_and_secrets_are_not() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let file = books.path("admins");
    std::fs::write(&file, "file-admin-key\n").unwrap();
    let mut server = books.server(&["--log-level", "debug", "--admin-key-file", &file]);
    let operator = books.json(&["keys", "show", "operator"])["key"]["id"].as_str().unwrap().to_string();
    let made = done(&server, &admin, "POST /admin/keys", &json!({"name": "anna", "top_up": 5}));
    let id = made["key"]["id"].as_str().unwrap().to_string();
    let rotated = done(&server, "file-admin-key", "POST /admin/keys/anna/rotate", &NONE);
    let invited = done(&server, &admin, "POST /admin/invitations", &json!({"name": "class", "uses": 1}));
    let redeem = json!({"code": invited["secret"], "name": "bob"});
    let redeemed = done(&server, "", "POST /invitations/redeem", &redeem);
    let wrong = json!({"code": "inv-a-wrong-code", "name": "eve"});
    assert_eq!(refused(&server, "", "POST /invitations/redeem", &wrong).0, 403);
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2});
    assert_eq!(ask(&server, rotated["secret"].as_str().unwrap(), "POST /v1/chat/completions", &chat).0, 402);
    done(&server, &admin, "DELETE /admin/accounts/bob", &NONE);
    server.signal("-TERM");
    server.child.wait().unwrap();
    let log: Vec<String> = server.started.iter().cloned().chain(server.log.iter()).collect();
    let log = log.join("\n");
    let salts = books.run(&["ledger", "export"]);
    assert!(!salts.contains("salt"));
    let secrets = [&made, &rotated, &invited, &redeemed].map(|answer| answer["secret"].as_str().unwrap().to_string());
    for secret in secrets.iter().map(String::as_str).chain([admin.as_str(), "file-admin-key", "inv-a-wrong-code"]) {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    let logged = |what: &str, by: &str, on: &str| {
        let found = |line: &&str| line.contains(what) && line.contains(by) && line.contains(on);
        assert!(log.lines().any(|line| found(&line)), "{what} {by} {on}: {log}");
    };
    logged("key created", &operator, &id);
    logged("account created", &operator, made["account"]["id"].as_str().unwrap());
    logged("credited (top_up)", &operator, made["account"]["id"].as_str().unwrap());
    logged("new secret", "admin key ", &id);
    logged("invitation created", &operator, invited["invitation"]["id"].as_str().unwrap());
    logged("invitation redeemed", redeemed["account"]["id"].as_str().unwrap(), redeemed["key"]["id"].as_str().unwrap());
    logged("account deleted", &operator, redeemed["account"]["id"].as_str().unwrap());
}

/// Blocks on disk, of everybody.
fn blocks(dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "unit")).collect()
}

/// A prompt of some blocks.
fn long_prompt(topic: &str) -> Value {
    let text = format!("Once upon a time there was a {topic}. ").repeat(30);
    json!({"messages": [{"role": "user", "content": text}], "max_tokens": 2, "seed": 1})
}

#[test]
fn a_deleted_account_leaves_no_blocks_on_disk() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    let names = ["anna", "bob", "carl"];
    let keys = names.map(|name| books.key(name, &[]));
    let units = books.path("units");
    let (dir, args) = (Path::new(&units), ["--disk-cache-dir", &units, "--disk-cache", "1G"]);
    let server = books.server(&args);
    // The blocks that come with each account.
    let mut owned: Vec<Vec<PathBuf>> = Vec::new();
    for (name, key) in names.iter().zip(&keys) {
        let before = blocks(dir);
        let (status, _, answer) = ask(&server, key, "POST /v1/chat/completions", &long_prompt(name));
        let count = answer["usage"]["prompt_tokens"].as_u64().unwrap() as usize / 64;
        assert!(status == 200 && count > 1, "{answer}");
        until("blocks are on disk", || blocks(dir).len() >= before.len() + count);
        owned.push(blocks(dir).into_iter().filter(|path| !before.contains(path)).collect());
    }
    let left = |owned: &[PathBuf]| owned.iter().filter(|path| path.exists()).count();
    // Over HTTP: at once.
    done(&server, &admin, "DELETE /admin/accounts/anna", &NONE);
    until("anna's blocks are gone", || left(&owned[0]) == 0);
    assert!(left(&owned[1]) > 0 && left(&owned[2]) > 0);
    drop(server);
    // By a command while no server runs: when the next one starts. Another ledger's server takes none of them.
    books.run(&["accounts", "delete", "bob", "--yes"]);
    let others = Books::new();
    let (their_admin, dora) = (others.key("operator", &["--admin"]), others.key("dora", &[]));
    let (other, before) = (others.server(&args), blocks(dir));
    assert_eq!(ask(&other, &dora, "POST /v1/chat/completions", &long_prompt("dora")).0, 200);
    let hers = || blocks(dir).into_iter().filter(|path| !before.contains(path)).count();
    until("dora's blocks are on disk", || hers() > 0);
    done(&other, &their_admin, "DELETE /admin/accounts/dora", &NONE);
    until("dora's blocks are gone", || hers() == 0);
    assert!(left(&owned[1]) > 0 && left(&owned[2]) > 0);
    drop(other);
    let server = books.server(&args);
    until("bob's blocks are gone", || left(&owned[1]) == 0);
    assert!(left(&owned[2]) > 0);
    let (_, _, answer) = ask(&server, &keys[2], "POST /v1/chat/completions", &long_prompt("carl"));
    assert!(answer["usage"]["prompt_cache_hit_tokens"].as_u64().unwrap() >= 64, "{answer}");
}

#[test]
fn the_prompt_of_several_choices_is_paid_once() {
    let books = Books::new();
    let anna = books.key("anna", &["--top-up", "1"]);
    let server = books.server(&["--disk-cache", "off"]);
    let rows = || books.json(&["usage", "--requests"])["requests"].as_array().unwrap().clone();
    let mut body = long_prompt("dragon");
    body["n"] = 2.into();
    for (ended, cached) in [(1, false), (2, true)] {
        let (status, _, answer) = ask(&server, &anna, "POST /v1/chat/completions", &body);
        assert_eq!((status, answer["choices"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
        until("it is in the books", || rows().len() == ended);
        let (row, usage) = (rows()[0].clone(), &answer["usage"]);
        let of = |name: &str| row[name].as_u64().unwrap();
        let prompt = usage["prompt_tokens"].as_u64().unwrap();
        assert!(prompt > 128 && of("hit") + of("miss") == prompt, "{row} {usage}");
        // What the second choice found of the first one's computation is no hit of the request.
        assert_eq!((of("hit") > 0, of("hit")), (cached, usage["prompt_cache_hit_tokens"].as_u64().unwrap()), "{row}");
        assert!(!cached || of("miss") < 64, "{row}");
        assert_eq!(of("output"), usage["completion_tokens"].as_u64().unwrap());
        assert_eq!(of("cost"), of("hit") + 2 * of("miss") + 5 * of("output"));
    }
}

#[test]
fn what_cannot_be_paid_loads_no_model_and_a_default_length_gives_way() {
    let books = Books::new();
    let admin = books.key("operator", &["--admin"]);
    books.run(&["accounts", "create", "poor", "--prepaid"]);
    let poor = books.key("poor", &["--account", "poor"]);
    let (ledger, prices) = (books.path("ledger.db"), books.path("prices.toml"));
    let server =
        Server::start(&[MODEL, MODEL, "--name", "first", "--name", "second", "--ledger", &ledger, "--prices", &prices]);
    let state = || {
        let models = ask(&server, &admin, "GET /v1/models", &NONE).2;
        models["data"].as_array().unwrap().iter().find(|model| model["id"] == "second").unwrap()["state"].clone()
    };
    let text = |model: &str| json!({"model": model, "prompt": "Hi", "logit_bias": {"1": -100}});
    for model in ["second", "first"] {
        assert_eq!(refused(&server, &poor, "POST /v1/completions", &text(model)), (402, "insufficient_quota".into()));
        let embeds = json!({"model": model, "input": "Hi"});
        assert_eq!(refused(&server, &poor, "POST /v1/embeddings", &embeds).0, 402);
    }
    assert_eq!(state(), "absent");
    // Less than the 16 tokens that are the default: a shorter answer. Not where the client names them.
    books.run(&["accounts", "top-up", "poor", "0.00005"]);
    let mut named = text("second");
    named["max_tokens"] = 16.into();
    assert_eq!(refused(&server, &poor, "POST /v1/completions", &named), (402, "insufficient_quota".into()));
    let (status, _, answer) = ask(&server, &poor, "POST /v1/completions", &text("second"));
    assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("length")), "{answer}");
    assert!((1..16).contains(&answer["usage"]["completion_tokens"].as_u64().unwrap()), "{answer}");
    assert_eq!(state(), "ready");
}

#[test]
fn a_ledger_that_is_not_there_is_not_made_by_a_server() {
    let books = Books::new();
    let file = books.path("typo.db");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    let output = command.args(["serve", MODEL, "--port", "0", "--ledger", &file]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("typo.db: there is no ledger"), "{said}");
    assert!(!Path::new(&file).exists());
}
