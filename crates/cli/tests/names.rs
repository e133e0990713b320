//! Models by name, as a person uses them: before, while and after they are fetched from a hub on loopback.

mod started;

#[path = "../../hub/tests/loopback/server/mod.rs"]
#[allow(dead_code)] // the hub's own tests use the rest
mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use server::{Reply, Repository, Server};

/// A machine with an empty cache that knows this hub.
struct Machine {
    home: tempfile::TempDir,
    endpoint: String,
}

impl Machine {
    fn new(endpoint: &str) -> Machine {
        Machine { home: tempfile::tempdir().unwrap(), endpoint: endpoint.to_string() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farthing"));
        command.args(args).env("HF_HOME", self.home.path()).env("HF_ENDPOINT", &self.endpoint);
        for variable in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "FARTHING_ISA"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A server whose administrator is "boss".
    fn serve(&self) -> started::Server {
        let keys = self.home.path().join("admins");
        std::fs::write(&keys, "boss\n").unwrap();
        let args = ["--admin-key-file", keys.to_str().unwrap(), "--any-name", "--threads", "1"];
        let home = self.home.path().to_str().unwrap();
        let environment = [("HF_HOME", home), ("HF_ENDPOINT", &self.endpoint), ("HF_HUB_CACHE", ""), ("TMPDIR", home)];
        started::Server::start_with(&args, &environment)
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn succeed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.succeed(args)).unwrap()
    }

    /// The last line of a failure.
    fn fail(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        said.lines().last().unwrap_or_default().to_string()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The bundled model as a repository.
fn bundled() -> Repository {
    let names =
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let file = |name: &'static str| (name, std::fs::read(root().join("models/seed-5.7m").join(name)).unwrap());
    Repository::new(names.map(file).to_vec())
}

fn hub(repository: &Repository) -> Server {
    let repository = repository.clone();
    Server::start(move |request| repository.answer(request))
}

const ONCE: [&str; 8] = ["-p", "Once upon a time", "-t", "0", "-n", "9", "-q", "--threads=1"];

#[test]
fn a_price_is_estimated_without_a_download() {
    let repository = bundled();
    let server = hub(&repository);
    let machine = Machine::new(&server.url());
    let short = ["--prompt", "64", "--decode", "2", "--sequences", "1", "--repetitions", "1", "--threads=1"];
    let report = machine.json(&[&["price", "org/model", "-q", "--json"], &short[..]].concat());
    assert_eq!((&report["estimated"], &report["name"]), (&true.into(), &"org/model".into()));
    assert_eq!(report["tokens_per_second"]["output"]["from"], "estimated");
    assert!(server.requests_for("model.safetensors").iter().all(|r| r.headers.contains_key("range")));
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    let said = machine.fail(&["price", "org/none", "-q"]);
    assert!(!said.contains("farthing-headers") && !said.contains("farthing-stand-in"), "{said}");
}

#[test]
fn a_name_is_shown_fetched_run_listed_and_removed() {
    let repository = bundled();
    let server = hub(&repository);
    let machine = Machine::new(&server.url());
    // Before: headers only, and nothing is kept.
    let shown = machine.json(&["show", "org/model", "--json", "--no-speed"]);
    let sizes: usize = repository.files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(shown["to_fetch"]["bytes"].as_u64(), Some(sizes as u64));
    assert_eq!(shown["plan"]["fits"], true);
    assert!(server.requests_for("model.safetensors").iter().all(|r| r.headers.contains_key("range")));
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    let people = machine.succeed(&["show", "org/model"]);
    assert!(people.contains("to fetch    ") && people.contains("speed       about "), "{people}");
    // The first run fetches it, the second needs no network.
    let text = machine.succeed(&[&["generate", "org/model"], &ONCE[..]].concat());
    assert!(text.contains("there was a little girl"), "{text}");
    let asked = server.requests().len();
    assert_eq!(machine.succeed(&[&["generate", "org/model"], &ONCE[..]].concat()), text);
    assert_eq!(server.requests().len(), asked);
    drop(server);
    assert_eq!(machine.succeed(&[&["generate", "Model"], &ONCE[..]].concat()), text);
    let offline = machine.command(&["pull", "org/model"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(offline.status.success());
    // It is there, and goes.
    let listed = machine.json(&["list", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["complete"]), (&"org/model".into(), &true.into()));
    assert!(machine.succeed(&["ls"]).contains("org/model"));
    let removed = machine.json(&["rm", "model", "--json"]);
    // The file of the branch's commit goes too.
    assert_eq!(removed[0]["bytes"].as_u64(), Some(sizes as u64 + 40));
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    assert!(machine.fail(&["generate", "model", "-p", "x"]).contains("no such file, and no pulled model of that name"));
    assert!(machine.fail(&["rm", "model"]).contains("no pulled model has that name"));
    assert!(machine.fail(&["rm", "org/model"]).contains("org/model"));
}

#[test]
fn names_of_well_known_models_are_understood_and_told() {
    let file = std::fs::read(root().join("crates/model/tests/data/stories260K/model-q8_0.gguf")).unwrap();
    let repository = Repository::new(vec![("Qwen3-0.6B-Q8_0.gguf", file)]);
    let server = Server::start(move |request| {
        let mut request = request.clone();
        request.path = request.path.replace("Qwen/Qwen3-0.6B-GGUF", "org/model");
        repository.answer(&request)
    });
    let machine = Machine::new(&server.url());
    let empty = machine.json(&["models", "--json"]);
    assert_eq!(empty["pulled"], serde_json::json!([]));
    let first = &empty["known"][0];
    assert!(first["id"].is_string() && first["fits"] == true && first["memory"].as_u64() > first["bytes"].as_u64());
    let pulled = machine.run(&["pull", "qwen3-0.6b"]);
    let said = String::from_utf8(pulled.stderr).unwrap();
    assert!(said.starts_with("qwen3-0.6b is Qwen/Qwen3-0.6B-GGUF:Q8_0\n") && pulled.status.success(), "{said}");
    assert_eq!(machine.json(&["models", "--json"])["pulled"], machine.json(&["list", "--json"]));
    let people = machine.succeed(&["models"]);
    let (here, known) = people.split_once("well-known models that run").unwrap();
    assert!(here.contains("Qwen/Qwen3-0.6B-GGUF") && known.contains("deepseek-v2-lite"), "{people}");
    // It runs by that name, and goes by the address of its page.
    machine.succeed(&[&["generate", "qwen3-0.6b"], &ONCE[..]].concat());
    machine.succeed(&["rm", "https://huggingface.co/Qwen/Qwen3-0.6B-GGUF"]);
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    let meant = machine.fail(&["chat", "llama3"]);
    assert!(
        meant.contains("did you mean llama-3.2-1b, llama-3.2-3b, llama-3.1-8b? `farthing models` lists"),
        "{meant}"
    );
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_its_first_byte() {
    let data = root().join("crates/model/tests/data/stories260K/model-q8_0.gguf");
    let small = std::fs::read(data).unwrap();
    // Headers are read from the first 16 MiB; of the rest nothing is asked.
    let mut big = small.clone();
    big.resize(16 << 20, 0);
    let size = big.len();
    let repository = Repository::new(vec![("big-Q8_0.gguf", big), ("small-Q4_K_M.gguf", small)]);
    let listed = repository.listing().replacen(&format!("\"size\":{size}"), "\"size\":1099511627776", 2);
    let answering = repository.clone();
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") { Reply::new(200, listed.clone()) } else { answering.answer(request) }
    });
    let machine = Machine::new(&server.url());
    let refused = machine.fail(&["pull", "org/model:Q8_0"]);
    assert!(refused.contains("not fetched, it would not run here: it needs weights 1024.00 GiB"), "{refused}");
    assert!(refused.contains("org/model:small-Q4_K_M.gguf") && refused.contains("would fit"), "{refused}");
    assert!(machine.fail(&["chat", "org/model:Q8_0"]).contains("would fit"));
    assert!(server.requests_for("big-Q8_0.gguf").iter().all(|r| r.headers.contains_key("range")));
    let shown = machine.json(&["show", "org/model:Q8_0", "--json", "--no-speed"]);
    assert_eq!((&shown["plan"]["fits"], &shown["to_fetch"]["bytes"]), (&false.into(), &(1u64 << 40).into()));
    // The disk is asked too.
    assert!(machine.fail(&["pull", "org/model:Q8_0", "--anyway"]).contains("bytes are needed and"));
    // What fits is taken, and found by its file.
    let text = machine.succeed(&[&["generate", "org/model:Q4_K_M"], &ONCE[..]].concat());
    assert!(!text.trim().is_empty());
    assert_eq!(machine.json(&["list", "--json"])[0]["name"], "org/model:small-Q4_K_M.gguf");
    assert!(machine.succeed(&["pull", "model:small-Q4_K_M.gguf"]).trim().ends_with("small-Q4_K_M.gguf"));
}

#[test]
fn a_stopped_pull_goes_on_and_never_counts_as_there() {
    let repository = bundled();
    let slow = repository.clone();
    let server = Server::start(move |request| {
        let reply = slow.answer(request);
        // Weights (but not their headers) come in a hundred pieces.
        let weights = request.path.ends_with(".safetensors") && reply.body.len() > 1 << 20;
        Reply { pieces: weights.then_some((100, Duration::from_millis(50))), ..reply }
    });
    let machine = Machine::new(&server.url());
    let child = machine.command(&["pull", "org/model"]).spawn().unwrap();
    let blobs = machine.home.path().join("hub/models--org--model/blobs");
    let grown = || {
        let entries = std::fs::read_dir(&blobs).ok()?;
        entries
            .flatten()
            .filter(|e| e.path().extension().is_some_and(|x| x == "incomplete"))
            .map(|e| e.metadata().map_or(0, |m| m.len()))
            .max()
    };
    while grown().unwrap_or(0) < 1 << 20 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("org/model: stopped; `farthing pull org/model` goes on from here"), "{said}");
    assert_eq!(machine.json(&["list", "--json"])[0]["complete"], false);
    assert!(machine.succeed(&["list"]).contains("incomplete"));
    // Killed outright it is no different.
    let mut child = machine.command(&["pull", "org/model"]).spawn().unwrap();
    let before = grown().unwrap();
    while grown().unwrap_or(0) <= before {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(machine.json(&["list", "--json"])[0]["complete"], false);
    drop(server);
    let server = hub(&repository);
    let machine = Machine { endpoint: server.url(), ..machine };
    let pulled = machine.json(&["pull", "org/model", "--json", "-q"]);
    assert_eq!(pulled["fetched"], true);
    let asked = server.requests_for("model.safetensors");
    assert!(asked.iter().any(|r| r.from().is_some_and(|from| from > 1 << 20)), "it goes on from where it was");
    let stored = std::fs::read(Path::new(pulled["path"].as_str().unwrap()).join("model.safetensors")).unwrap();
    assert!(stored == repository.bytes("model.safetensors"));
}

#[test]
fn what_the_hub_refuses_is_said_in_one_line() {
    let server = Server::start(|request| match request.path.split('/').nth(4) {
        Some("gated") => Reply::new(403, "").header("X-Error-Code", "GatedRepo"),
        Some("private") => Reply::new(401, ""),
        _ => Reply::new(404, "").header("X-Error-Code", "RepoNotFound"),
    });
    let machine = Machine::new(&server.url());
    for (name, said) in [("org/gated", "HF_TOKEN"), ("org/private", "HF_TOKEN"), ("org/none", "org/none")] {
        for command in ["pull", "show", "chat", "bench"] {
            let line = machine.fail(&[command, name]);
            assert!(line.starts_with("farthing: ") && line.contains(said) && line.contains(name), "{line}");
        }
    }
    assert!(machine.fail(&["chat", "models/typo"]).contains("models/typo is no file here; as a name at the hub"));
    let json: serde_json::Value = serde_json::from_str(&machine.fail(&["pull", "org/gated", "--json"])).unwrap();
    assert!(json["error"]["message"].as_str().unwrap().contains("HF_TOKEN"));
    assert!(machine.fail(&["pull", "org/a/b"]).contains("org/a/b"));
    assert!(machine.fail(&["pull", "../x"]).contains("../x"));
    let offline = machine.command(&["pull", "org/none"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&offline.stderr).contains("HF_HUB_OFFLINE is set"));
}

/// No answer names a file of the server.
fn ask(server: &started::Server, method: &str, path: &str, key: &str, body: &serde_json::Value) -> (u16, String) {
    let request = started::post(path, &body.to_string()).replacen("POST", method, 1);
    let header = format!("Authorization: Bearer {key}\r\nContent-Type:");
    let answer = server.raw(&request.replacen("Content-Type:", &header, 1));
    let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(!answer.contains(std::env::temp_dir().to_str().unwrap()), "{answer}");
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_string())
}

/// As Ollama's clients do it, with an administrator's key.
#[test]
fn a_running_server_fetches_serves_and_deletes_models() {
    let repository = bundled();
    let hub = hub(&repository);
    let machine = Machine::new(&hub.url());
    let server = machine.serve();
    let ask = |method: &str, path: &str, key: &str, body| ask(&server, method, path, key, &body);
    let model = serde_json::json!({"model": "hf.co/org/model:latest"});
    for (method, path) in [("POST", "/api/pull"), ("DELETE", "/api/delete")] {
        let (status, said) = ask(method, path, "nobody", model.clone());
        assert!(status == 403 && said.contains("--admin-key-file"), "{path}: {status} {said}");
        for stream in [false, true] {
            let body = serde_json::json!({"model": "/etc/passwd", "stream": stream});
            let (status, said) = ask(method, path, "boss", body);
            assert!(status == 400 && said.contains("no model name"), "{path}: {status} {said}");
        }
        let (status, said) = ask(method, path, "boss", serde_json::json!({"model": "org/nothing", "stream": false}));
        assert!(status == 404 && said.contains("org/nothing"), "{path}: {status} {said}");
    }
    let (status, told) = ask("POST", "/api/pull", "boss", model.clone());
    // Chunks stand between the lines.
    let lines: Vec<serde_json::Value> =
        told.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(serde_json::Value::is_object).collect();
    assert!(status == 200 && lines[0]["status"] == "pulling manifest", "{told}");
    assert_eq!(lines.last().unwrap(), &serde_json::json!({"status": "success"}), "{told}");
    let whole = |line: &&serde_json::Value| line["digest"] == "model.safetensors" && line["completed"] == line["total"];
    assert_eq!(lines.iter().filter(whole).count(), 1, "{told}");
    let chat = serde_json::json!({"model": "org/model", "prompt": "Once upon", "max_tokens": 2});
    let (status, said) = ask("POST", "/v1/completions", "", chat.clone());
    assert!(status == 200 && said.contains("\"model\":\"org/model\""), "{said}");
    // It is there already.
    let (status, said) = ask("POST", "/api/pull", "boss", serde_json::json!({"model": "org/model", "stream": false}));
    assert_eq!((status, said.trim()), (200, "{\"status\":\"success\"}"));
    assert_eq!(server.get("/api/tags").matches("\"name\"").count(), 2);
    // The same files under another name: with the one the other goes.
    let main = serde_json::json!({"model": "org/model@main", "stream": false});
    assert_eq!(ask("POST", "/api/pull", "boss", main).0, 200);
    let (status, said) = ask(
        "POST",
        "/v1/completions",
        "",
        serde_json::json!({"model": "hf.co/org/model:latest", "prompt": "Once", "max_tokens": 1}),
    );
    assert!(status == 200 && said.contains("\"model\":\"org/model\""), "{said}");
    assert_eq!(server.get("/api/tags").matches("\"name\"").count(), 3);
    let (status, said) = ask("DELETE", "/api/delete", "boss", model);
    assert_eq!((status, said.as_str()), (200, ""));
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    assert_eq!(server.get("/api/tags").matches("\"name\"").count(), 1);
    // The bundled model is no model of the hub. An empty name is none.
    let (status, said) = ask("DELETE", "/api/delete", "boss", serde_json::json!({"model": "", "name": "seed-5.7m"}));
    assert!(status == 400 && said.contains("seed-5.7m was not downloaded from a hub"), "{said}");
    assert_eq!(ask("POST", "/v1/completions", "", serde_json::json!({"prompt": "Once", "max_tokens": 1})).0, 200);
}

/// Each refusal of the hub has a status of its own, streamed or not, and what a failed pull left can be deleted.
#[test]
fn a_running_server_says_what_a_hub_refuses() {
    let repository = bundled();
    let broken = repository.clone();
    let server = Server::start(move |request| {
        let path = request.path.clone();
        let of = |name: &str| path.contains(name);
        let mut as_model = request.clone();
        as_model.path = path.replace("org/cut", "org/model").replace("org/slow", "org/model");
        if of("org/slow") && of("model.safetensors") && request.from().is_none() {
            std::thread::sleep(Duration::from_secs(2));
        }
        match () {
            () if of("org/gated") => Reply::new(403, "").header("X-Error-Code", "GatedRepo"),
            () if of("org/odd") => Reply::new(200, "[]"),
            () if of("org/cut") && of("model.safetensors") && request.from().is_none() => Reply::new(404, ""),
            () => broken.answer(&as_model),
        }
    });
    let machine = Machine::new(&server.url());
    let serving = machine.serve();
    let pull = |name: &str, stream: bool| {
        ask(&serving, "POST", "/api/pull", "boss", &serde_json::json!({"model": name, "stream": stream}))
    };
    for (name, wanted, said) in
        [("org/gated", 403, "HF_TOKEN"), ("org/odd", 502, "listing"), ("org/cut", 404, "model.safetensors")]
    {
        let (status, text) = pull(name, false);
        assert!(status == wanted && text.contains(said), "{name}: {status} {text}");
        let (status, text) = pull(name, true);
        assert!(status == 200 && text.contains("{\"error\":") && text.contains(said), "{name}: {status} {text}");
    }
    // What came of it before it failed is there, and goes.
    assert_eq!(machine.json(&["list", "--json"])[0]["name"], "org/cut");
    let delete = |name: &str| ask(&serving, "DELETE", "/api/delete", "boss", &serde_json::json!({ "model": name }));
    assert_eq!(delete("org/cut").0, 200);
    assert_eq!(machine.json(&["list", "--json"]), serde_json::json!([]));
    assert_eq!(delete("org/cut").0, 404);
    // While it is fetched it is not deleted.
    let mut client = serving.connect();
    let request = started::post("/api/pull", "{\"model\": \"org/slow\", \"stream\": false}");
    let request = request.replacen("Content-Type:", "Authorization: Bearer boss\r\nContent-Type:", 1);
    std::io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    let whole = |r: &server::Request| r.path.contains("org/slow") && r.from().is_none();
    while !server.requests_for("model.safetensors").iter().any(whole) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (status, text) = delete("org/slow");
    assert!(status == 409 && text.contains("is being pulled by another process"), "{status} {text}");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut client, &mut answer).unwrap();
    assert!(answer.contains("200 OK") && answer.ends_with("{\"status\":\"success\"}"), "{answer}");
    assert_eq!(delete("org/slow").0, 200);
    drop(server);
    let (status, text) = pull("org/model", false);
    assert!(status == 502 && text.contains("cannot be reached"), "{status} {text}");
    let left = std::fs::read_dir(machine.home.path()).unwrap().flatten();
    assert!(left.map(|e| e.file_name()).all(|name| !name.to_string_lossy().starts_with("farthing-headers")));
}

/// A tokenizer that cannot be used is found before the weights are fetched.
#[test]
fn a_model_whose_tokenizer_is_damaged_is_not_fetched() {
    let mut repository = bundled();
    let tokenizer = repository.files.iter_mut().find(|(name, _)| name == "tokenizer.json").unwrap();
    tokenizer.1 = b"{}".to_vec();
    let server = hub(&repository);
    let machine = Machine::new(&server.url());
    let refused = machine.fail(&["pull", "org/model"]);
    assert!(refused.contains("it would not load: org/model/tokenizer.json"), "{refused}");
    assert!(server.requests_for("model.safetensors").iter().all(|r| r.headers.contains_key("range")));
    let serving = machine.serve();
    let body = serde_json::json!({"model": "org/model", "stream": false});
    let (status, said) = ask(&serving, "POST", "/api/pull", "boss", &body);
    assert!(status == 400 && said.contains("it would not load"), "{said}");
    // Where another program has put it here, it is said too.
    machine.succeed(&["pull", "org/model", "--anyway"]);
    let (status, said) = ask(&serving, "POST", "/api/pull", "boss", &body);
    assert!(status == 400 && said.contains("org/model is here, but it would not load: org/model/snapshots/"), "{said}");
    // A cache that cannot be used is the operator's to mend: the log has the path, the client has not.
    let repository = machine.home.path().join("hub/models--org--model");
    std::fs::remove_dir_all(&repository).unwrap();
    std::os::unix::fs::symlink(machine.home.path(), &repository).unwrap();
    let (status, said) = ask(&serving, "DELETE", "/api/delete", "boss", &body);
    assert!(status == 500 && said.contains("its log says why"), "{said}");
    let logged = serving.logged("a deletion failed");
    assert!(logged.contains("hub/models--org--model: it is a link"), "{logged}");
}

/// Who leaves while the hub is asked ends that; so does one ctrl-c at the command line.
#[test]
fn who_leaves_ends_the_questions_to_the_hub() {
    let repository = bundled();
    let server = Server::start(move |request| match request.path.starts_with("/api/models/org/steps/") {
        true => Reply::new(200, repository.listing()),
        false => Reply::new(500, "").header("Retry-After", "10"),
    });
    let machine = Machine::new(&server.url());
    let serving = machine.serve();
    let mut client = serving.connect();
    let request = started::post("/api/pull", "{\"model\": \"org/model\"}");
    let request = request.replacen("Content-Type:", "Authorization: Bearer boss\r\nContent-Type:", 1);
    std::io::Write::write_all(&mut client, request.as_bytes()).unwrap();
    while server.requests().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(client);
    let logged = serving.logged("a pull failed");
    assert!(logged.contains("org/model: stopped"), "{logged}");
    let child = machine.command(&["pull", "org/model"]).spawn().unwrap();
    while server.requests().len() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    // The first answer has come, and the next attempt is ten seconds away.
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("(org/model: the hub answers 500 Internal Server Error; trying again in 10.0 s)"), "{said}");
    assert_eq!(server.requests().len(), 2);
    // A server that is told to end waits for no download, and leaves nothing of it.
    let mut serving = serving;
    let mut client = serving.connect();
    std::io::Write::write_all(&mut client, request.replace("org/model", "org/steps").as_bytes()).unwrap();
    let headers = || {
        let all = std::fs::read_dir(machine.home.path()).unwrap().flatten();
        all.filter(|e| e.file_name().to_string_lossy().starts_with("farthing-headers")).count()
    };
    while server.requests().len() < 6 {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(headers(), 1);
    serving.signal("-TERM");
    assert!(serving.child.wait().unwrap().success());
    assert_eq!(headers(), 0);
}
