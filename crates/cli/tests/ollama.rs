//! Ollama's API as its clients use it: chat, generate, streams, tools, lists of models and errors.

mod started;

use serde_json::{Value, json};
use started::Server;

fn answered(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

fn asked(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    answered(&server.post(path, &body.to_string()))
}

fn lines(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let answer = server.post(path, &body.to_string());
    assert!(answer.contains("content-type: application/x-ndjson"), "{answer}");
    let lines = answer.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn chat_and_generate() {
    let server = Server::start(&[]);
    let chat = json!({
        "model": "seed-5.7m:latest", "stream": false, "options": {"temperature": 0, "num_predict": 6},
        "messages": [{"role": "user", "content": "Tell me a story."}],
    });
    let generate = json!({
        "prompt": "Once upon a time", "raw": true, "stream": false, "options": {"temperature": 0, "num_predict": 6},
    });
    for (path, body, text) in [("/api/chat", &chat, "/message/content"), ("/api/generate", &generate, "/response")] {
        let (status, whole) = asked(&server, path, body);
        assert_eq!((status, &whole["model"], &whole["done"]), (200, &json!("seed-5.7m"), &json!(true)), "{whole}");
        assert_eq!((&whole["done_reason"], &whole["eval_count"]), (&json!("length"), &json!(6)));
        assert!(whole["eval_duration"].as_u64() > Some(0) && whole["prompt_eval_count"].as_u64() > Some(0), "{whole}");
        let mut streamed = body.clone();
        streamed.as_object_mut().unwrap().remove("stream");
        let parts = lines(&server, path, &streamed);
        let told: String = parts.iter().map(|p| p.pointer(text).unwrap().as_str().unwrap()).collect();
        assert_eq!(json!(told), *whole.pointer(text).unwrap());
        let (last, others) = parts.split_last().unwrap();
        assert!(others.len() > 1 && others.iter().all(|p| p["done"] == false) && last["done"] == true, "{parts:?}");
        assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("length"), &json!(6)));
    }
    // The same text as on OpenAI's path.
    let theirs = json!({"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0});
    let theirs = asked(&server, "/v1/completions", &theirs).1["choices"][0]["text"].clone();
    assert_eq!(asked(&server, "/api/generate", &generate).1["response"], theirs);
    for (path, body) in [("/api/chat", json!({"messages": []})), ("/api/generate", json!({"model": "seed-5.7m"}))] {
        let (status, loaded) = asked(&server, path, &body);
        assert_eq!((status, &loaded["done_reason"], &loaded["done"]), (200, &json!("load"), &json!(true)), "{loaded}");
    }
    // A schema, and a tool: the call's arguments are an object.
    let mut shaped = chat.clone();
    shaped["format"] = json!({"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": false});
    shaped["options"]["num_predict"] = 40.into();
    let text = asked(&server, "/api/chat", &shaped).1["message"]["content"].clone();
    assert_eq!(serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap(), json!({"a": "b"}));
    let mut tooled = chat.clone();
    let parameters = json!({"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"], "additionalProperties": false});
    tooled["tools"] =
        json!([{"type": "function", "function": {"name": "go", "parameters": parameters, "strict": true}}]);
    tooled["tool_choice"] = "required".into();
    tooled["options"]["num_predict"] = 200.into();
    let message = asked(&server, "/api/chat", &tooled).1["message"].clone();
    assert_eq!(
        message["tool_calls"][0]["function"],
        json!({"index": 0, "name": "go", "arguments": {"a": "b"}}),
        "{message}"
    );
}

#[test]
fn models_and_errors() {
    let server = Server::start(&[]);
    for path in ["/api/tags", "/api/ps"] {
        let (status, list) = answered(&server.get(path));
        let model = &list["models"][0];
        assert_eq!(
            (status, &model["name"], &model["model"]),
            (200, &json!("seed-5.7m"), &json!("seed-5.7m")),
            "{list}"
        );
        assert!(model["size"].as_u64() > Some(0) && model["digest"].as_str().map(str::len) == Some(64), "{list}");
    }
    // The files as they are, and in memory more.
    let (tags, ps) = (answered(&server.get("/api/tags")).1, answered(&server.get("/api/ps")).1);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/seed-5.7m/model.safetensors");
    let bytes = std::fs::metadata(file).unwrap().len();
    assert_eq!(tags["models"][0]["size"], bytes);
    assert!(ps["models"][0]["size"].as_u64() > Some(bytes), "{ps}");
    let details = &tags["models"][0]["details"];
    assert_eq!(
        (&details["format"], &details["family"], &details["parameter_size"], &details["quantization_level"]),
        (&json!("safetensors"), &json!("deepseek_v2"), &json!("5.73M"), &json!("BF16")),
        "{details}"
    );
    assert!(answered(&server.get("/api/version")).1["version"].is_string());
    let (status, shown) = asked(&server, "/api/show", &json!({"model": "", "name": "seed-5.7m:latest"}));
    assert_eq!(shown["details"], *details);
    assert_eq!((status, &shown["capabilities"][0]), (200, &json!("completion")), "{shown}");
    assert!(shown["template"].as_str().is_some_and(|t| !t.is_empty()), "{shown}");
    let user = json!([{"role": "user", "content": "a"}]);
    for (path, body, wanted, said) in [
        ("/api/chat", json!({"model": "nobody", "messages": user}), 404, "nobody"),
        ("/api/show", json!({"model": "nobody"}), 404, "nobody"),
        ("/api/chat", json!({"messages": user, "options": {"top_p": 2}}), 400, "options.top_p"),
        ("/api/generate", json!({"prompt": "a", "images": ["aGk="]}), 400, "images"),
        ("/api/embed", json!({"input": "a"}), 400, "embeddings"),
        ("/api/embeddings", json!({"prompt": "a"}), 400, "embeddings"),
        ("/api/pull", json!({"model": "a"}), 403, "--admin-key-file"),
        ("/api/nothing", json!({}), 404, "/api/nothing"),
    ] {
        let (status, error) = asked(&server, path, &body);
        assert_eq!((status, error.as_object().map(serde_json::Map::len)), (wanted, Some(1)), "{path}: {error}");
        assert!(error["error"].as_str().is_some_and(|text| text.contains(said)), "{path}: {error}");
    }
}

/// LiteLLM sends no content type, and curl one of forms. What a browser sends for any web page without asking first is refused.
#[test]
fn a_body_may_have_any_type_unless_a_browser_sent_it() {
    let server = Server::start(&[]);
    let body = r#"{"model": "seed-5.7m"}"#;
    let asked = |path: &str, headers: &str| {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}");
        server.raw(&format!("{head}\r\n{headers}\r\n{body}")).split(' ').nth(1).map(str::to_string)
    };
    for (path, headers, status) in [
        ("/api/show", "", "200"),
        ("/api/show", "Content-Type: application/x-www-form-urlencoded\r\n", "200"),
        ("/api/show", "Origin: https://a.example\r\n", "415"),
        ("/api/show", "Content-Type: text/plain\r\nReferer: https://a.example/\r\n", "415"),
        ("/api/show", "Content-Type: text/plain\r\nSec-Fetch-Site: cross-site\r\n", "415"),
        ("/api/show", "Content-Type: application/json\r\nOrigin: https://a.example\r\n", "200"),
        ("/v1/completions", "", "415"),
    ] {
        assert_eq!(asked(path, headers).as_deref(), Some(status), "{path} {headers}");
    }
}
