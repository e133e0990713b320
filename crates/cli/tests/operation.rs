//! Running the server: keys, several models, the configuration file, the log, metrics, and those who watch over it.

mod started;

use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use started::Server;

const SECRET: &str = "sk-very-secret-1";
const SMALL: &str = r#"{"prompt": "Once upon a purple time", "max_tokens": 4, "nonsense": 1}"#;

fn farthing(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
    command.args(args).env("XDG_CACHE_HOME", &*started::STATE).env_remove("FARTHING_API_KEY").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}")).1;
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

fn with_key(method: &str, path: &str, key: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\r\nContent-Type: application/json\r\nX-Request-Id: mine-1\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn keys_open_the_routes_and_are_nowhere_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, format!("\n{SECRET}\n  sk-other-2  \n")).unwrap();
    let admins = directory.path().join("admins");
    std::fs::write(&admins, "sk-admin\n").unwrap();
    let files = [&file, &admins].map(|path| path.to_str().unwrap());
    let args = ["--api-key-file", files[0], "--admin-key-file", files[1], "--log-level", "debug"];
    let server = Server::start_with(&args, &[("FARTHING_API_KEY", "sk-of-environment")]);
    let refused = server.post("/v1/completions", SMALL);
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("www-authenticate: Bearer"), "{refused}");
    assert_eq!(body(&refused)["error"]["code"], "invalid_api_key");
    assert_eq!(body(&server.post("/v1/messages", "{}"))["error"]["type"], "authentication_error");
    assert!(server.get("/metrics").starts_with("HTTP/1.1 401"));
    assert!(server.get("/ready").starts_with("HTTP/1.1 200"));
    let mut lines = Vec::new();
    for key in [SECRET, "sk-other-2", "sk-of-environment"] {
        for header in [format!("Authorization: Bearer {key}"), format!("x-api-key: {key}")] {
            let answer = server.raw(&with_key("POST", "/v1/completions", &header, SMALL));
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-request-id: mine-1"), "{answer}");
        }
        lines.push(server.logged("mine-1"));
    }
    assert!(server.raw(&with_key("POST", "/v1/completions", "api-key: sk-very-secret-2", SMALL)).contains(" 401 "));
    server.until_with("\"running\":0", "x-api-key: sk-admin");
    let metrics = server.raw(&with_key("GET", "/metrics", "x-api-key: sk-admin", ""));
    assert!(
        metrics.contains("farthing_requests_total{route=\"/v1/completions\",status=\"200\",finish=\"length\"} 6"),
        "{metrics}"
    );
    assert!(metrics.contains("farthing_generation_tokens_total{model=\"seed-5.7m\"} 24"), "{metrics}");
    assert!(metrics.contains("vllm:num_requests_running{model_name=\"seed-5.7m\"} 0"), "{metrics}");
    server.signal("-TERM");
    lines.extend(server.log.iter());
    lines.extend(server.started.iter().cloned());
    let log = lines.join("\n");
    assert!(log.contains("account=\"") && log.contains("nonsense") && log.contains("completion_tokens=4"), "{log}");
    for secret in ["sk-", "secret", "purple"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
fn a_log_of_objects_has_nothing_else() {
    let server = Server::start(&["--log-format", "json"]);
    assert!(server.post("/v1/completions", SMALL).contains("200 OK"));
    assert!(server.post("/v1/completions", "{").contains("400 Bad"));
    server.signal("-TERM");
    let lines: Vec<String> = server.started.iter().cloned().chain(server.log.iter()).collect();
    let parsed: Vec<Value> =
        lines.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let requests: Vec<&Value> = parsed.iter().filter(|l| l["message"] == "request").collect();
    assert_eq!(requests.len(), 2, "{lines:?}");
    let told = requests[0];
    assert_eq!([&told["status"], &told["finish"], &told["outcome"]], [&json!(200), &json!("length"), &json!("done")]);
    assert_eq!([&told["completion_tokens"], &told["model"]], [&json!(4), &json!("seed-5.7m")]);
    assert!(told["prompt_tokens"].as_u64() > Some(2) && told["total_s"].as_f64() >= told["first_token_s"].as_f64());
    assert!(requests[1]["status"] == 400 && requests[1].get("finish").is_none(), "{}", requests[1]);
    assert!(parsed.iter().any(|l| l["message"].as_str().is_some_and(|m| m.starts_with("plan: seed-5.7m: weights "))));
}

fn copied(directory: &Path) -> String {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m");
    std::fs::create_dir_all(directory).unwrap();
    for entry in std::fs::read_dir(bundled).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, directory.join(from.file_name().unwrap())).unwrap();
    }
    directory.to_str().unwrap().to_string()
}

/// Ids and states of the models.
fn states(server: &Server) -> Vec<(String, String)> {
    let listed = body(&server.get("/v1/models"));
    let text = |v: &Value| v.as_str().unwrap().to_string();
    listed["data"].as_array().unwrap().iter().map(|m| (text(&m["id"]), text(&m["state"]))).collect()
}

fn of(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn two_models_take_turns_in_the_memory_of_one() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (copied(&directory.path().join("one")), copied(&directory.path().join("two")));
    let server = Server::start(&[&one, &two, "--cached", "2048"]);
    assert_eq!(states(&server), of(&[("one", "ready"), ("two", "absent")]));
    let bytes = body(&server.get("/v1/models"))["data"][1]["bytes"].as_u64().unwrap();
    let ask = |server: &Server, model: &str| {
        server.post("/v1/completions", &format!(r#"{{"model": "{model}", "prompt": "Once", "max_tokens": 3}}"#))
    };
    assert_eq!(body(&ask(&server, "two"))["model"], "two");
    assert_eq!(states(&server), of(&[("one", "ready"), ("two", "ready")]));
    assert_eq!(body(&server.post("/v1/completions", SMALL))["model"], "one");
    let unknown = ask(&server, "three");
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains(r#"\"three\"; this server has \"one\", \"two\""#),
        "{unknown}"
    );
    drop(server);

    let memory = (bytes * 3 / 2).to_string();
    let server = Server::start(&[
        &one,
        &two,
        "--name",
        "first",
        "--memory",
        &memory,
        "--cached",
        "2048",
        "--idle-unload",
        "1",
        "--drain",
        "60",
    ]);
    for (model, expected) in
        [("two", [("first", "absent"), ("two", "ready")]), ("first", [("first", "ready"), ("two", "absent")])]
    {
        assert_eq!(body(&ask(&server, model))["model"], model);
        assert_eq!(states(&server), of(&expected));
    }
    // A model that answers stays; the other has no room.
    let mut stream = server.connect();
    let long = r#"{"prompt": "Once", "max_tokens": 1900, "logit_bias": {"1": -100}, "stream": true, "logprobs": 20}"#;
    std::io::Write::write_all(&mut stream, started::post("/v1/completions", long).as_bytes()).unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 200]).unwrap();
    let no_room = ask(&server, "two");
    assert!(
        no_room.starts_with("HTTP/1.1 503") && no_room.contains("retry-after") && no_room.contains("while first runs"),
        "{no_room}"
    );
    drop(stream);
    server.until("\"running\":0");
    // Nobody asks: it goes, comes back when asked, and the server is ready all the time.
    let since = Instant::now();
    while states(&server) != of(&[("first", "absent"), ("two", "absent")]) {
        assert!(since.elapsed() < Duration::from_secs(30), "never put away: {:?}", states(&server));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(server.get("/ready").contains("\"status\":\"ready\""));
    // What is spoilt meanwhile says so, the log says why, and it is fine again when it is.
    let config = directory.path().join("two/config.json");
    let kept = std::fs::read(&config).unwrap();
    std::fs::write(&config, "{").unwrap();
    let failed = ask(&server, "two");
    assert!(
        failed.starts_with("HTTP/1.1 503")
            && failed.contains("two could not be loaded; the server's log says why")
            && !failed.contains("config.json"),
        "{failed}"
    );
    let logged = server.logged("could not be loaded: ");
    assert!(logged.contains("two/config.json"), "{logged}");
    std::fs::write(&config, kept).unwrap();
    assert_eq!(body(&ask(&server, "two"))["model"], "two");
}

#[test]
fn what_cannot_be_served_together_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (copied(&directory.path().join("a/same")), copied(&directory.path().join("b/same")));
    let refused_with = |code: i32, args: &[&str]| {
        let output = farthing(&[&["serve", "--port", "0"], args].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        said(&output)
    };
    let refused = |args: &[&str]| refused_with(2, args);
    assert!(refused(&[&one, &two]).contains("would both be \"same\" in the API; give each a --name"));
    assert!(
        refused(&[&one, "--name", "x", "--name", "y"])
            .contains("--name was given for 2 models and there are 1: give at most one a model")
    );
    assert!(
        refused_with(1, &[&one, "--memory", "1M"])
            .contains("all models together have 1.0 MiB; give the server more --memory")
    );
    assert!(refused(&["--api-key", "two words"]).contains("key 1 of 1 has 9 bytes"));
    assert!(refused(&["--tls-cert", "x.pem"]).contains("--tls-cert and --tls-key belong together"));
    assert!(refused_with(1, &["--tls-cert", "x.pem", "--tls-key", "y.pem"]).contains("x.pem: No such file"));
    assert!(refused(&["--cors-origin", "*", "--cors-origin", "https://a.example"]).contains("give it alone"));
}

#[test]
fn a_configuration_file_says_what_options_say() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farthing.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "name = [\"stories\"]\ncontext = 512\nport = 70000\napi-key = \"sk-in-file\"\n").unwrap();
    let wrong = farthing(&["serve", "--config", file]);
    assert!(said(&wrong).contains("farthing.toml: ") && said(&wrong).contains("70000"), "{}", said(&wrong));
    let server = Server::start(&["--config", file]);
    let listed = server.raw(&with_key("GET", "/v1/models", "api-key: sk-in-file", ""));
    assert_eq!(body(&listed)["data"][0]["id"], "stories");
    assert_eq!(body(&listed)["data"][0]["context_length"], 512);
    let printed = farthing(&["serve", "--config", file, "--port", "81", "--patience", "7", "--print-config"]);
    let text = String::from_utf8(printed.stdout.clone()).unwrap();
    assert!(printed.status.success(), "{}", said(&printed));
    assert!(!said(&printed).contains("--memory"), "{}", said(&printed));
    let more = farthing(&["serve", "--config", file, "--port", "81", "--memory", "4096T", "--print-config"]);
    let warned = said(&more);
    assert!(
        more.status.success() && warned.contains("warning: --memory is ") && warned.contains("this machine has"),
        "{warned}"
    );
    for line in ["name = [\"stories\"]", "context = 512", "port = 81", "patience = 7", "queue = 64"] {
        assert!(text.lines().any(|l| l == line), "{line}: {text}");
    }
    assert!(
        text.contains("# plan: stories: weights ") && text.contains("# limits: ") && !text.contains("sk-in"),
        "{text}"
    );
    std::fs::write(&path, "contxt = 512\n").unwrap();
    let unknown = farthing(&["serve", "--config", file]);
    assert!(said(&unknown).contains("\"contxt\" is no option of `farthing serve`; the nearest is \"context\""));
}

#[test]
fn a_manager_is_told_and_a_probe_asks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut server = Server::start_with(&[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let told = || {
        let mut bytes = [0; 100];
        let n = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    assert_eq!(told(), "READY=1");
    let url = format!("http://{}", server.address);
    assert!(farthing(&["serve", "--check", &url]).status.success());
    assert!(farthing(&["serve", "--check", &format!("{url}/health")]).status.success());
    let nothing = farthing(&["serve", "--check", &format!("{url}/nothing")]);
    assert!(nothing.status.code() == Some(1) && said(&nothing).contains("HTTP/1.1 404"), "{}", said(&nothing));
    server.signal("-TERM");
    assert_eq!(told(), "STOPPING=1");
    assert!(server.child.wait().unwrap().success());
    assert_eq!(farthing(&["serve", "--check", &url]).status.code(), Some(1));
    assert!(said(&farthing(&["serve", "--check", "https://x"])).contains("give http://HOST:PORT"));
}

#[test]
fn a_hangup_reads_the_certificate_anew_and_does_not_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut server = Server::start(&["--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem")]);
    assert!(server.started.last().unwrap().contains("at https://127.0.0.1:"), "{:?}", server.started);
    server.signal("-HUP");
    let line = server.logged("the certificate was read anew");
    let time = line.split_whitespace().next().unwrap_or_default();
    assert!(time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{line}");
    std::fs::write(path("cert.pem"), "no more").unwrap();
    server.signal("-HUP");
    assert!(server.logged("the certificate stays as it was").contains("cert.pem: no certificate in it"));
    assert!(!server.get("/health").contains("200 OK"), "plain HTTP has no place there");
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn only_names_of_this_machine_are_answered_without_keys() {
    let named = |server: &Server, host: &str| {
        server.raw(&format!("GET /v1/models HTTP/1.1\r\n{host}Connection: close\r\n\r\n"))
    };
    let server = Server::start(&["--allowed-host", "models.example"]);
    for host in ["Host: localhost:1\r\n", "Host: 127.0.0.1\r\n", "Host: models.example\r\n"] {
        assert!(named(&server, host).starts_with("HTTP/1.1 200"), "{host}");
    }
    let refused = named(&server, "Host: evil.example\r\n");
    assert!(refused.starts_with("HTTP/1.1 421") && refused.contains("--allowed-host evil.example"), "{refused}");
    for host in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        let refused = named(&server, host);
        assert!(refused.starts_with("HTTP/1.1 400") && refused.contains("invalid_host"), "{refused}");
    }
    // An address may be given by its name.
    let server = Server::start(&["--host", "localhost"]);
    assert!(named(&server, "Host: localhost\r\n").starts_with("HTTP/1.1 200"));
    // Who needs a key to ask is safe from pages of others.
    let server = Server::start(&["--api-key", SECRET]);
    assert!(named(&server, &format!("Host: models.example\r\nx-api-key: {SECRET}\r\n")).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_hangup_without_a_certificate_ends_only_what_has_a_terminal() {
    let health = |server: &Server| assert!(server.get("/health").starts_with("HTTP/1.1 200"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let mut managed = Server::start_with(&[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    managed.signal("-HUP");
    managed.logged("SIGHUP: there is no certificate to read anew");
    health(&managed);
    managed.signal("-TERM");
    assert!(managed.child.wait().unwrap().success());

    let mut alone = Server::start_under(&["nohup"], &[], &[]);
    alone.signal("-HUP");
    std::thread::sleep(Duration::from_millis(300));
    health(&alone);
    alone.signal("-TERM");
    assert!(alone.child.wait().unwrap().success());

    let mut server = Server::start(&[]);
    server.signal("-HUP");
    server.logged("shutting down");
    assert!(server.child.wait().unwrap().success());
}

/// Which experts a prompt chose is told to those who run the server.
#[test]
fn what_would_tell_accounts_of_each_other_needs_an_administrators_key() {
    let directory = tempfile::tempdir().unwrap();
    let admins = directory.path().join("admins");
    std::fs::write(&admins, "sk-admin\n").unwrap();
    let metrics = |server: &Server, key: &str| server.raw(&with_key("GET", "/metrics", key, ""));
    let detailed = |text: &str| text.contains("farthing_expert_tokens");
    let shown = |text: &str| text.starts_with("HTTP/1.1 200") && text.contains("farthing_requests_running");
    let server = Server::start(&["--api-key", SECRET, "--admin-key-file", admins.to_str().unwrap()]);
    let answer = server.raw(&with_key("POST", "/v1/completions", &format!("x-api-key: {SECRET}"), SMALL));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (own, admin) = (metrics(&server, &format!("x-api-key: {SECRET}")), metrics(&server, "x-api-key: sk-admin"));
    assert!(shown(&own) && !detailed(&own) && shown(&admin) && detailed(&admin), "{own}\n{admin}");
    assert!(metrics(&server, "x-api-key: none").starts_with("HTTP/1.1 401"));
    let asked = server.raw(&with_key("POST", "/v1/completions", "x-api-key: sk-admin", SMALL));
    assert!(asked.starts_with("HTTP/1.1 403") && asked.contains("send an API key"), "it is no account: {asked}");
    assert_eq!(body(&server.get("/ready")), json!({"status": "ready"}));
    let server = Server::start(&["--api-key", SECRET, "--open-metrics"]);
    let (open, own) = (metrics(&server, "a: b"), metrics(&server, &format!("x-api-key: {SECRET}")));
    assert!(shown(&open) && !detailed(&open) && shown(&own) && !detailed(&own), "{open}");
    let server = Server::start(&[]);
    assert!(server.post("/v1/completions", SMALL).starts_with("HTTP/1.1 200"));
    assert!(detailed(&metrics(&server, "a: b")));
}

/// `ps`, `load` and `stop` as an operator uses them, with names as clients hard-code them.
#[test]
fn a_running_server_lists_loads_and_unloads_its_models() {
    let directory = tempfile::tempdir().unwrap();
    let admins = directory.path().join("admins");
    std::fs::write(&admins, "# for operators\nadmin-1\n").unwrap();
    let server =
        Server::start(&["--api-key", SECRET, "--admin-key-file", admins.to_str().unwrap(), "--name", "tiny,gpt-4o"]);
    let url = format!("http://{}/v1", server.address);
    let command = |args: &[&str]| farthing(&[args, &["--url", &url]].concat());
    let ps = command(&["ps", "--json", "--key", "admin-1"]);
    let models: Value = serde_json::from_slice(&ps.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&ps)));
    assert_eq!((&models[0]["id"], &models[0]["state"]), (&"tiny".into(), &"ready".into()));
    assert_eq!((&models[1]["id"], models.as_array().unwrap().len()), (&"gpt-4o".into(), 2));
    for (args, wanted) in [
        (&["stop", "gpt-4o", "--key", "admin-1"][..], "gpt-4o is unloaded"),
        (&["load", "tiny", "--key", "admin-1"], "tiny is loaded"),
        (&["ps", "--key", "wrong"], "give it with --key or FARTHING_ADMIN_KEY"),
        (&["stop", "none", "--key", "admin-1"], "model is \"none\"; this server has \"tiny\""),
        (&["stop", "tiny", "--key", SECRET], "with a key of --admin-key-file; give it with --key"),
    ] {
        let output = command(args);
        assert!(said(&output).contains(wanted), "{args:?}: {}", said(&output));
        assert_eq!(output.status.success(), wanted.ends_with("loaded"), "{args:?}");
        let text = String::from_utf8(command(&["ps", "--key", SECRET]).stdout).unwrap();
        assert_eq!(text.contains("absent"), wanted.ends_with("unloaded"), "{args:?}: {text}");
    }
    let plain = farthing(&["ps", "--key", SECRET, "--url", &server.address.to_string()]);
    assert!(String::from_utf8_lossy(&plain.stdout).contains("tiny"), "{}", said(&plain));
    let nowhere = farthing(&["ps", "--url", "http://127.0.0.1:9"]);
    assert!(said(&nowhere).contains("give it with --url"), "{}", said(&nowhere));
    for odd in ["http://127.0.0.1:9/?a=b", "http://127.0.0.1:9/#x"] {
        let refused = farthing(&["ps", "--url", odd]);
        assert!(said(&refused).contains("without ? and #") && refused.status.code() == Some(2), "{}", said(&refused));
    }
    // An administrator's key is no account.
    let asked = server.raw(&with_key("POST", "/v1/completions", "x-api-key: admin-1", SMALL));
    assert!(asked.starts_with("HTTP/1.1 403"), "{asked}");
    // A browser is told that it is at the right place, and no names.
    let root = server.get("/");
    assert!(root.contains("is running") && root.contains("text/plain") && !root.contains("tiny"), "{root}");
}

#[test]
fn another_programs_server_is_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let body = r#"{"data": [{"id": "x"}]}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    for args in [&["ps"][..], &["load", "x"], &["stop", "x"]] {
        let output = farthing(&[args, &["--url", &address]].concat());
        assert!(said(&output).contains("this is not a Farthing server"), "{args:?}: {}", said(&output));
        assert_eq!(output.status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn one_model_answers_to_any_name_where_that_is_wished() {
    let server = Server::start(&["--any-name"]);
    let asked = server.post("/v1/completions", r#"{"model": "gpt-4o", "prompt": "Once", "max_tokens": 2}"#);
    assert!(asked.starts_with("HTTP/1.1 200"), "{asked}");
    let wrong = farthing(&["serve", "--any-name", "models/seed-5.7m", "models/seed-5.7m"]);
    assert!(said(&wrong).contains("--any-name is for one model, and 2 were given"), "{}", said(&wrong));
    // Prometheus's older text, where that is what is accepted.
    let plain =
        server.raw("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n");
    assert!(
        plain.contains("text/plain; version=0.0.4") && plain.contains("# TYPE farthing_build_info gauge"),
        "{plain}"
    );
    assert!(!plain.contains("# EOF"), "{plain}");
}
