//! Embeddings and scores over HTTP: the numbers of transformers, in every form, and what is refused.

mod started;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use started::Server;
use started::books::{Books, ask, cost};

const TOLERANCE: f64 = 1e-4;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/embedding")
}

fn reference() -> Value {
    serde_json::from_slice(&std::fs::read(source().join("reference.json")).unwrap()).unwrap()
}

/// A directory of this name with the reference's weights, and other files. Removed when it is dropped.
struct Model {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

impl Model {
    fn new(name: &str, files: &[(&str, Value)]) -> Model {
        let _temporary = tempfile::tempdir().unwrap();
        let path = _temporary.path().join(name);
        std::fs::create_dir(&path).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(source().join(file), path.join(file)).unwrap();
        }
        for (file, json) in files {
            let file = path.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, json.to_string()).unwrap();
        }
        Model { _temporary, path }
    }

    /// With mean pooling, not normalized.
    fn mean() -> Model {
        let modules = json!([{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}]);
        Model::new("mean", &[("modules.json", modules), ("1_Pooling/config.json", json!({"pooling_mode": "mean"}))])
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

fn answered(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

fn asked(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    answered(&server.post(path, &body.to_string()))
}

fn fine(server: &Server, path: &str, body: Value) -> Value {
    let (status, answer) = asked(server, path, &body);
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

fn refused(server: &Server, path: &str, body: Value, said: &str) -> Value {
    let (status, answer) = asked(server, path, &body);
    let message = if path.starts_with("/api") { &answer["error"] } else { &answer["error"]["message"] };
    assert!(status == 400 && message.as_str().unwrap().contains(said), "{path} {body}: {answer}");
    answer
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(|x| x.as_f64().unwrap()).collect()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter().map(|x| x / length).collect()
}

fn assert_close(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    let difference = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference <= TOLERANCE, "{difference}");
}

#[test]
fn embeddings_in_every_form() {
    let (server, reference) = (Server::start(&[source().to_str().unwrap()]), reference());
    let entries = reference["embedded"].as_array().unwrap();
    let texts: Vec<&Value> = entries.iter().map(|entry| &entry["text"]).collect();
    let embed = |body: Value| fine(&server, "/v1/embeddings", body);
    let all = embed(json!({"model": "embedding", "input": texts, "user": "me"}));
    let tokens: usize = entries.iter().map(|entry| entry["ids"].as_array().unwrap().len()).sum();
    assert_eq!((&all["object"], &all["model"]), (&json!("list"), &json!("embedding")));
    assert_eq!(all["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    let line = server.logged("/v1/embeddings");
    assert!(line.contains(&format!(" prompt_tokens={tokens} ")) && line.contains(" completion_tokens=0 "), "{line}");
    let counted = server.get("/metrics");
    assert!(counted.contains(&format!("farthing_prompt_tokens_total{{model=\"embedding\"}} {tokens}\n")), "{counted}");
    for (i, entry) in entries.iter().enumerate() {
        let data = &all["data"][i];
        assert_eq!((&data["object"], &data["index"]), (&json!("embedding"), &json!(i)));
        let together = numbers(&data["embedding"]);
        assert_close(&together, &numbers(&entry["last"]));
        // One by one, and as ids: the same numbers.
        for input in [entry["text"].clone(), entry["ids"].clone(), json!([entry["ids"]])] {
            assert_eq!(embed(json!({ "input": input }))["data"][0]["embedding"], data["embedding"]);
        }
        // Fewer dimensions are the leading ones, of length 1.
        let few = embed(json!({"input": entry["text"], "dimensions": 8}));
        assert_close(&numbers(&few["data"][0]["embedding"]), &unit(&together[..8]));
        let coded = embed(json!({"input": entry["text"], "encoding_format": "base64"}));
        let bytes = base64_bytes(coded["data"][0]["embedding"].as_str().unwrap());
        let floats = bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        assert_close(&floats.collect::<Vec<_>>(), &together);
        let ollama = fine(&server, "/api/embed", json!({"model": "embedding:latest", "input": entry["text"]}));
        assert_eq!(ollama["embeddings"], json!([data["embedding"]]));
        assert_eq!(ollama["prompt_eval_count"].as_u64(), entry["ids"].as_array().map(|ids| ids.len() as u64));
        let older = fine(&server, "/api/embeddings", json!({"prompt": entry["text"], "keep_alive": "5m"}));
        assert_eq!(older, json!({"embedding": data["embedding"]}));
    }
    let query = embed(json!({"input": reference["query"], "prompt_name": "query"}));
    assert_close(&numbers(&query["data"][0]["embedding"]), &numbers(&reference["prompted"]));
    assert_eq!(embed(json!({"input": "a", "prompt_name": "document"})), embed(json!({"input": "a"})));
    // Nothing to embed only loads the model.
    assert_eq!(fine(&server, "/api/embed", json!({"model": "embedding"}))["embeddings"], json!([]));
    assert_eq!(fine(&server, "/api/embeddings", json!({"prompt": ""})), json!({"embedding": []}));
    let shown = fine(&server, "/api/show", json!({"model": "embedding"}));
    assert_eq!(shown["capabilities"], json!(["embedding"]));
}

fn base64_bytes(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> =
        text.bytes().filter_map(|c| ALPHABET.iter().position(|&a| a == c)).map(|digit| digit as u32).collect();
    let bytes = |group: &[u32]| {
        let whole = group.iter().fold(0, |sum, digit| sum << 6 | digit) << (6 * (4 - group.len()));
        whole.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(bytes).collect()
}

#[test]
fn means_of_all_states() {
    let (model, reference) = (Model::mean(), reference());
    let server = Server::start(&[model.path()]);
    for entry in reference["embedded"].as_array().unwrap() {
        let embed = |path: &str| fine(&server, path, json!({"input": entry["text"]}));
        // The model's own are of any length, Ollama's of length 1.
        let ours = numbers(&embed("/v1/embeddings")["data"][0]["embedding"]);
        assert!((ours.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() > 1e-3);
        assert_close(&unit(&ours), &numbers(&entry["mean"]));
        assert_close(&numbers(&embed("/api/embed")["embeddings"][0]), &numbers(&entry["mean"]));
    }
}

/// More inputs than the queue takes.
#[test]
fn many_inputs() {
    let server = Server::start(&[source().to_str().unwrap(), "--parallel", "3", "--queue", "2"]);
    let texts: Vec<String> = (0..200).map(|i| format!("{i} is a number")).collect();
    let all = fine(&server, "/v1/embeddings", json!({ "input": texts }));
    for i in [0, 57, 199] {
        let alone = fine(&server, "/v1/embeddings", json!({"input": texts[i]}));
        assert_eq!(all["data"][i]["embedding"], alone["data"][0]["embedding"]);
        assert_eq!(all["data"][i]["index"], i);
    }
}

#[test]
fn what_cannot_be_embedded() {
    let server = Server::start(&[source().to_str().unwrap(), "--context", "64"]);
    let long = "word ".repeat(100);
    for (body, said) in [
        (json!({}), "input is null; it must be a string, an array of token ids"),
        (json!({"input": []}), "input is []"),
        (json!({"input": [1, 267]}), "input[1] is 267; it must be a token id below 267"),
        (json!({"input": ["a", 5]}), "input[1] is 5"),
        (json!({"input": vec!["a"; 2049]}), "input is an array of 2049 items; it must be at most 2048 inputs"),
        (json!({"input": long}), "maximum context length is 64 tokens"),
        (json!({"input": [vec![1; 65]]}), "maximum context length is 64 tokens and the prompt is too long: it has 65"),
        (json!({"input": "a", "dimensions": 33}), "dimensions is 33; it must be at most 32"),
        (json!({"input": "a", "dimensions": 0}), "dimensions is 0"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format is \"int8\"; it must be float or base64"),
        (json!({"input": "a", "prompt_name": "none"}), "one of the model's prompts: document, query"),
    ] {
        refused(&server, "/v1/embeddings", body, said);
    }
    let body = json!({"input": long, "truncate": false});
    refused(&server, "/api/embed", body, "maximum context length is 64 tokens");
    // The text that is too long is named.
    let error = refused(&server, "/v1/embeddings", json!({"input": ["a", long]}), "context length");
    assert_eq!(error["error"]["param"], "input[1]", "{error}");
    refused(
        &server,
        "/api/embed",
        json!({"input": [1, 2]}),
        "input is [1,2]; it must be a string, or an array of strings",
    );
    // Cut: the leading tokens and what ends every text.
    let cut = fine(&server, "/api/embed", json!({"input": long}));
    assert_eq!(cut["prompt_eval_count"], 64);
    let mut ids: Vec<Value> =
        fine(&server, "/tokenize", json!({"prompt": "word ".repeat(12), "add_special_tokens": false}))["tokens"]
            .as_array()
            .unwrap()[..60]
            .to_vec();
    while ids.len() < 63 {
        ids.push(ids[ids.len() % 5].clone());
    }
    ids.push(264.into());
    let alone = fine(&server, "/v1/embeddings", json!({ "input": ids }));
    assert_eq!(cut["embeddings"][0], alone["data"][0]["embedding"]);
    // It generates no text and scores nothing.
    let user = json!([{"role": "user", "content": "a"}]);
    for path in ["/v1/chat/completions", "/v1/messages", "/api/chat"] {
        refused(&server, path, json!({"messages": user, "max_tokens": 1}), "embeds or scores texts and generates none");
    }
    let error = refused(&server, "/v1/rerank", json!({"query": "a", "documents": ["b"]}), "scores no documents");
    assert_eq!(error["error"]["code"], "rerank_unsupported");
}

/// Numbers that are not all there when the time is over are of no use: the request ends, and nothing runs on.
#[test]
fn a_timeout_ends_embeddings_that_have_begun() {
    let server = Server::start(&[source().to_str().unwrap(), "--threads", "1"]);
    let inputs = vec!["word ".repeat(100); 2000];
    let request = started::post("/v1/embeddings", &json!({ "input": inputs }).to_string());
    let (status, error) =
        answered(&server.raw(&request.replacen("Content-Type:", "x-request-timeout: 0.1\r\nContent-Type:", 1)));
    assert_eq!((status, &error["error"]["code"]), (408, &json!("request_timeout")), "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("x-request-timeout bounds it"), "{error}");
    server.until("\"running\":0");
}

/// The text is longer than what is tokenized of it.
#[test]
fn a_text_that_is_far_too_long_is_cut_as_one_that_is_a_little_too_long() {
    let server = Server::start(&[source().to_str().unwrap(), "--context", "64"]);
    let of = |text: String| fine(&server, "/api/embed", json!({ "input": text }))["embeddings"].clone();
    let line = |i: usize| format!("{i} is a word, and another.\n");
    assert_eq!(of((0..100_000).map(line).collect()), of((0..50).map(line).collect()));
}

#[test]
fn scores_of_documents() {
    let reference = reference();
    let mut config: Value = serde_json::from_slice(&std::fs::read(source().join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["Qwen3ForSequenceClassification"]);
    config["id2label"] = json!({"0": "LABEL_0"});
    let causal = Model::new("tiny-qwen3-reranker", &[]);
    let classes = Model::new("classes", &[("config.json", config)]);
    add_labels(&classes.path.join("model.safetensors"), &source().join("score.safetensors"));
    let server = Server::start(&[causal.path(), classes.path()]);
    let scored = reference["scored"].as_array().unwrap();
    for (model, key) in [("tiny-qwen3-reranker", "causal"), ("classes", "class")] {
        for scored in scored.chunks(scored.len() / 2) {
            let documents: Vec<Value> = scored.iter().map(|s| s["document"].clone()).collect();
            let mut body = json!({"model": model, "query": reference["query"], "documents": documents});
            // The default one is not sent.
            if scored[0] != reference["scored"][0] {
                body["instruction"] = scored[0]["instruction"].clone();
            }
            let answer = fine(&server, "/v1/rerank", body.clone());
            let results = answer["results"].as_array().unwrap();
            assert_eq!((results.len(), &answer["model"]), (documents.len(), &json!(model)));
            let scores: Vec<f64> = results.iter().map(|r| r["relevance_score"].as_f64().unwrap()).collect();
            assert!(scores.is_sorted_by(|a, b| a >= b), "{answer}");
            for result in results {
                let theirs = &scored[result["index"].as_u64().unwrap() as usize];
                assert_close(&[result["relevance_score"].as_f64().unwrap()], &[theirs[key].as_f64().unwrap()]);
                assert!(result.get("document").is_none());
            }
            assert!(answer["usage"]["total_tokens"].as_u64() > Some(0));
            body["top_n"] = 1.into();
            body["return_documents"] = true.into();
            body["documents"] = documents.iter().map(|text| json!({ "text": text })).collect();
            let top = fine(&server, "/rerank", body);
            assert_eq!(top["results"].as_array().unwrap().len(), 1);
            assert_eq!(top["results"][0]["index"], results[0]["index"]);
            let best = &documents[results[0]["index"].as_u64().unwrap() as usize];
            assert_eq!(top["results"][0]["document"], json!({ "text": best }));
        }
    }
    for (body, said) in [
        (json!({"documents": ["a"]}), "query is null; it must be a string"),
        (json!({"query": "a", "documents": []}), "documents is []; it must be an array of 1 to 2048 documents"),
        (json!({"query": "a", "documents": [5]}), "documents[0] is 5; it must be a string, or an object with a text"),
        (json!({"query": "a", "documents": ["b"], "top_n": 0}), "top_n is 0"),
        (json!({"query": "a", "documents": ["b", "c ".repeat(2000)]}), "maximum context length is 1024 tokens"),
    ] {
        refused(&server, "/v1/rerank", body, said);
    }
    // What is too long is named: the query, the instruction or a document.
    let long = "c ".repeat(2000);
    for (body, param) in [
        (json!({"query": long, "documents": ["b"]}), "query"),
        (json!({"query": "a", "documents": ["b"], "instruction": long}), "instruction"),
        (json!({"query": "a", "documents": ["b", long]}), "documents[1]"),
    ] {
        assert_eq!(refused(&server, "/v1/rerank", body, "1024 tokens")["error"]["param"], param);
    }
    // Names of special tokens and of places in the prompt are text.
    let score = |query: &str, document: &str| {
        let body = json!({"query": query, "documents": [document]});
        fine(&server, "/v1/rerank", body)["usage"]["total_tokens"].as_u64().unwrap()
    };
    let (plain, named) = (score("a", "b"), score("a", "b<|im_end|>"));
    assert!(named > plain + 5, "{plain} {named}");
    assert!(score("{document}", "a long document") < score("a", "a long document") + 10);
    let error = refused(&server, "/v1/embeddings", json!({"input": "a"}), "makes no embeddings");
    assert_eq!(error["error"]["code"], "embeddings_unsupported");
    assert_eq!(fine(&server, "/api/show", json!({"model": "classes"}))["capabilities"], json!(["rerank"]));
}

/// Adds the tensors of another file, and names the model's as they are beside such.
fn add_labels(to: &Path, from: &Path) {
    let parts: [(Value, Vec<u8>); 2] = [to, from].map(|path| {
        let bytes = std::fs::read(path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&bytes[8..8 + header]).unwrap(), bytes[8 + header..].to_vec())
    });
    let [(header, mut data), (others, more)] = parts;
    let named = header.as_object().unwrap().iter().map(|(name, tensor)| (format!("model.{name}"), tensor.clone()));
    let mut header: Value = named.filter(|(name, _)| !name.ends_with("__metadata__")).collect();
    for (name, tensor) in others.as_object().unwrap() {
        let mut tensor = tensor.clone();
        for end in 0..2 {
            tensor["data_offsets"][end] = (tensor["data_offsets"][end].as_u64().unwrap() + data.len() as u64).into();
        }
        header[name] = tensor;
    }
    data.extend(more);
    let header = header.to_string().into_bytes();
    let whole = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(to, whole).unwrap();
}

#[test]
fn a_key_is_needed_as_on_every_route() {
    let server = Server::start(&[source().to_str().unwrap(), "--api-key", "a-secret-of-the-test"]);
    for path in ["/v1/embeddings", "/api/embed", "/api/embeddings", "/v1/rerank", "/rerank"] {
        assert_eq!(asked(&server, path, &json!({"input": "a"})).0, 401, "{path}");
    }
}

#[test]
fn show_says_what_it_is_for() {
    let show = |args: &[&str]| {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_farthing")).args(args).output().unwrap();
        assert!(program.status.success(), "{program:?}");
        String::from_utf8(program.stdout).unwrap()
    };
    let path = source();
    let path = path.to_str().unwrap();
    let shown = show(&["show", path, "--no-speed"]);
    let line =
        "purpose     embeddings of 32 numbers: last token pooling, normalized, prompts \"document\", \"query\"\n";
    assert!(shown.contains(line), "{shown}");
    let shown: Value = serde_json::from_str(&show(&["show", path, "--no-speed", "--json"])).unwrap();
    assert!(shown["purpose"].as_str().unwrap().starts_with("embeddings of 32 numbers"), "{shown}");
    // It is no model to talk with.
    let program = std::process::Command::new(env!("CARGO_BIN_EXE_farthing"))
        .args(["generate", path, "-p", "Hi", "-n", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&program.stderr).into_owned();
    assert!(!program.status.success() && said.contains("embeds or scores texts and generates none"), "{said}");
}

#[test]
fn embeddings_are_metered_on_every_path() {
    let (books, model) = (Books::new(), Model::mean());
    let anna = books.key("anna", &["--top-up", "1"]);
    let prices = books.path("prices.toml");
    let server = Server::start(&[model.path(), "--ledger", &books.address, "--prices", &prices]);
    let forms = [
        ("/v1/embeddings", "input"),
        ("/api/embed", "input"),
        ("/api/embeddings", "prompt"),
        ("/v1/embeddings", "input"),
    ];
    for (count, (path, field)) in (1..).zip(forms) {
        let answer = ask(&server, &anna, "POST", path, &json!({field: "a b c"}));
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let row = books.ended("anna", count);
        assert_eq!((&row["endpoint"], &row["output"], &row["status"]), (&json!(path), &json!(0), &json!("done")));
        assert!(row["hit"].as_u64().unwrap() + row["miss"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(row["cost"], cost(&row));
    }
    books.check();
}
