//! The dialects as a network sees them: every route, malformed bodies, streams, batches, deadlines and the cache.

mod started;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use started::{Server, post};

/// Status and body of an answer.
fn asked(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    answered(&server.post(path, &body.to_string()))
}

fn answered(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {answer}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

fn fine(server: &Server, path: &str, body: Value) -> Value {
    let (status, answer) = asked(server, path, &body);
    assert_eq!(status, 200, "{path}: {body}: {answer}");
    answer
}

/// Data of a stream's events, in order.
fn events(answer: &str) -> Vec<Value> {
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    let data = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|d| *d != "[DONE]").map(|d| serde_json::from_str(d).unwrap_or_else(|e| panic!("{e}: {d}"))).collect()
}

fn chat() -> Value {
    json!({"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 4, "temperature": 0})
}

fn with(mut body: Value, changes: Value) -> Value {
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body
}

#[test]
fn every_route_answers() {
    let server = Server::start(&[]);
    for path in ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions"] {
        assert_eq!(fine(&server, path, chat())["choices"][0]["message"]["role"], "assistant");
    }
    for path in ["/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions"] {
        let answer = fine(&server, path, json!({"prompt": "Once", "max_tokens": 3}));
        assert_eq!((&answer["object"], &answer["usage"]["completion_tokens"]), (&json!("text_completion"), &json!(3)));
    }
    for path in ["/v1/responses", "/responses"] {
        let answer = fine(&server, path, json!({"input": "Hi", "max_output_tokens": 2}));
        assert_eq!((&answer["object"], &answer["status"]), (&json!("response"), &json!("incomplete")));
    }
    for path in ["/v1/messages", "/anthropic/v1/messages"] {
        assert_eq!(fine(&server, path, chat())["stop_reason"], "max_tokens");
        let counted = fine(&server, &format!("{path}/count_tokens"), chat())["input_tokens"].as_u64();
        assert_eq!(counted, fine(&server, path, chat())["usage"]["input_tokens"].as_u64());
    }
    for path in ["/v1/models", "/models", "/anthropic/v1/models"] {
        let (status, list) = answered(&server.get(path));
        assert_eq!((status, &list["data"][0]["id"]), (200, &json!("seed-5.7m")));
        assert_eq!(answered(&server.get(&format!("{path}/seed-5.7m"))).1["lifecycle"], "active");
    }
    let tokens = fine(&server, "/tokenize", json!({"prompt": "Once upon a time", "add_special_tokens": false}));
    assert_eq!((&tokens["tokens"], &tokens["count"]), (&json!([655, 561, 267, 468]), &json!(4)));
    let text = fine(&server, "/detokenize", json!({"tokens": tokens["tokens"]}));
    assert_eq!(text, json!({"prompt": "Once upon a time", "content": "Once upon a time"}));
    let prompt = fine(&server, "/apply-template", json!({"messages": chat()["messages"]}))["prompt"].clone();
    assert!(prompt.as_str().unwrap().contains("Tell me a story."), "{prompt}");
    // As llama.cpp's clients ask, in their shapes.
    let content = |body: Value| fine(&server, "/tokenize", body);
    assert_eq!(content(json!({"content": "Once upon a time"})), json!({"tokens": [655, 561, 267, 468]}));
    assert_eq!(
        content(json!({"content": "Once", "add_special": true, "with_pieces": true})),
        json!({"tokens": [{"id": 0, "piece": "<｜begin▁of▁sentence｜>"}, {"id": 655, "piece": "Once"}]})
    );
    let name = fine(&server, "/detokenize", json!({"tokens": [0]}));
    assert_eq!(name["content"], name["prompt"]);
    let named = |parse: bool| content(json!({"content": name["content"], "parse_special": parse}))["tokens"].clone();
    assert_eq!(named(true), json!([0]));
    assert!(named(false).as_array().unwrap().iter().all(|id| *id != 0) && named(false) != json!([]));
    let halves = content(json!({"content": "\u{1f600}", "with_pieces": true}));
    assert!(halves["tokens"][0]["piece"].is_array(), "{halves}");
    let tokens = fine(&server, "/tokenize", json!({"messages": chat()["messages"]}));
    assert_eq!(tokens["count"], fine(&server, "/v1/chat/completions", chat())["usage"]["prompt_tokens"]);
    let info = answered(&server.get("/tokenizer_info")).1;
    assert_eq!(info["eos_token"], "<｜end▁of▁sentence｜>");
    assert!(info["chat_template"].as_str().unwrap().contains("messages"));
    let described = answered(&server.get("/openapi.json")).1;
    assert_eq!(described["openapi"], "3.1.0");
    let (status, none) = asked(&server, "/v1/embeddings", &json!({"input": "x"}));
    assert_eq!((status, &none["error"]["code"]), (400, &json!("embeddings_unsupported")));
    let (status, none) = asked(&server, "/v1/rerank", &json!({"query": "x", "documents": ["x"]}));
    assert_eq!((status, &none["error"]["code"]), (400, &json!("rerank_unsupported")));
}

/// Bodies that cannot be, at every route: a 4xx in the shape of its dialect, and nothing else.
#[test]
fn malformed_bodies_are_refused_everywhere() {
    let server = Server::start(&[]);
    let described: Value = serde_json::from_str(server.get("/openapi.json").split_once("\r\n\r\n").unwrap().1).unwrap();
    let posts = described["paths"].as_object().unwrap().iter().filter(|(_, o)| o.get("post").is_some());
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let mut refused = 0;
    for (path, operations) in posts {
        let bodies = [
            "",
            "{",
            "[]",
            "5",
            "null",
            "\"x\"",
            "{\"messages\": 5, \"prompt\": 5, \"input\": 5, \"tokens\": 5}",
            "{\"messages\": [[]], \"prompt\": {}, \"input\": [[]], \"tokens\": [-1]}",
            "{\"model\": 7}",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
            "{\"model\": \"none\"}",
            "\u{fffd}",
            deep.as_str(),
        ];
        for body in bodies {
            let (status, answer) = answered(&server.post(path, body));
            assert!((400..500).contains(&status), "{path} {body}: {status}");
            assert!(
                operations["post"]["responses"].get(status.to_string()).is_some(),
                "{path}: {status} is not described"
            );
            let told = if path.starts_with("/api/") { &answer["error"] } else { &answer["error"]["message"] };
            assert!(told.is_string(), "{answer}");
            let anthropic = path.contains("messages");
            assert_eq!(answer["type"] == "error" && answer["request_id"].is_string(), anthropic, "{path}: {answer}");
            refused += 1;
        }
    }
    assert!(refused > 200);
    // DeepSeek's paths tell what is no JSON from what is a wrong value.
    assert_eq!(asked(&server, "/chat/completions", &with(chat(), json!({"temperature": 3}))).0, 422);
    assert_eq!(asked(&server, "/v1/chat/completions", &with(chat(), json!({"temperature": 3}))).0, 400);
    assert_eq!(answered(&server.post("/chat/completions", "{")).0, 400);
}

#[test]
fn streams_have_the_events_of_their_dialect() {
    let server = Server::start(&[]);
    let stream = |path: &str, body: Value| server.post(path, &with(body, json!({"stream": true})).to_string());
    let answer = stream("/v1/messages", chat());
    let named: Vec<&str> = answer.lines().filter_map(|l| l.strip_prefix("event: ")).collect();
    let data = events(&answer);
    assert_eq!(named, data.iter().map(|d| d["type"].as_str().unwrap()).collect::<Vec<_>>());
    assert_eq!(named[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(named[named.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let answer = stream("/v1/responses", json!({"input": "Hi", "max_output_tokens": 3, "temperature": 0}));
    let data = events(&answer);
    assert!(data.iter().enumerate().all(|(i, d)| d["sequence_number"] == i), "{answer}");
    assert_eq!(data.last().unwrap()["type"], "response.incomplete");
    let answer = stream("/chat/completions", with(chat(), json!({"n": 3, "stream_options": {"include_usage": true}})));
    let data = events(&answer);
    assert!(answer.contains("data: [DONE]"));
    for index in 0..3 {
        let of = data.iter().filter_map(|d| d["choices"].get(0)).filter(|c| c["index"] == index);
        assert_eq!(of.filter(|c| c["finish_reason"] == "length").count(), 1, "{answer}");
    }
    assert_eq!(data.last().unwrap()["usage"]["completion_tokens"], 12);
}

/// More prompts than the queue takes: those that were not taken go on as others end.
#[test]
fn a_batch_is_larger_than_the_queue() {
    let server = Server::start(&["--queue", "1"]);
    let prompts: Vec<Value> = (0..80).map(|i| json!(format!("Once upon a time {i}"))).collect();
    let body = json!({"prompt": prompts, "max_tokens": 4, "temperature": 0, "logit_bias": {"1": -100}, "echo": true, "logprobs": 0});
    let answer = fine(&server, "/v1/completions", body);
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!((choices.len(), &answer["usage"]["completion_tokens"]), (80, &json!(320)));
    for (i, choice) in choices.iter().enumerate() {
        assert!(
            choice["index"] == i && choice["text"].as_str().unwrap().starts_with(&format!("Once upon a time {i}")),
            "{choice}"
        );
        let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        assert!(scores[0].is_null() && scores[1..].iter().all(|s| s.as_f64().unwrap() <= 0.0), "{choice}");
        assert_eq!(choice["logprobs"]["tokens"].as_array().unwrap().len(), scores.len());
    }
}

#[test]
fn a_request_may_say_how_long_it_waits() {
    let server = Server::start(&[]);
    let body = json!({"prompt": "Once", "max_tokens": 1900, "logit_bias": {"1": -100}}).to_string();
    let request = post("/v1/completions", &body);
    let started = Instant::now();
    let (status, answer) =
        answered(&server.raw(&request.replacen("Host: localhost", "Host: localhost\r\nx-request-timeout: 0.2", 1)));
    assert!(started.elapsed() < Duration::from_secs(20));
    let made = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(status == 200 && made < 1900 && answer["choices"][0]["finish_reason"] == "length", "{answer}");
    let (status, refused) =
        answered(&server.raw(&request.replacen("Host: localhost", "Host: localhost\r\nx-request-timeout: soon", 1)));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("x-request-timeout")));
}

/// What one user's prompts left in the cache is found by the same user only.
#[test]
fn the_cache_is_told_and_kept_apart() {
    let server = Server::start(&[]);
    // Nobody asked this before, not even in an earlier run of this test: prompts are kept on disk.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let story = "Once upon a time there was a little cat who lived in a big house with a garden. ".repeat(12);
    let story = format!("{now} {story}");
    let of = |user: &str, question: &str| {
        let body = json!({"messages": [{"role": "user", "content": format!("{story}{question}")}], "user_id": user, "max_tokens": 1, "n": 2});
        let usage = fine(&server, "/chat/completions", body)["usage"].clone();
        let count = |key: &str| usage[key].as_u64().unwrap();
        assert_eq!(count("prompt_tokens"), count("prompt_cache_hit_tokens") + count("prompt_cache_miss_tokens"));
        count("prompt_cache_hit_tokens")
    };
    assert_eq!(of("a", "Who?"), 0);
    assert!(of("a", "Where?") >= 64);
    assert_eq!(of("b", "Where?"), 0);
}

/// A model that was never taught to call does, and obeys the schema, when it must.
#[test]
fn calls_and_shapes_can_be_forced() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {"place": {"enum": ["park", "house"]}}, "required": ["place"], "additionalProperties": false});
    let tool = json!({"type": "function", "function": {"name": "go", "parameters": schema, "strict": true}});
    let ask = with(
        chat(),
        json!({"tools": [tool], "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 100}),
    );
    let choice = fine(&server, "/v1/chat/completions", ask.clone())["choices"][0].clone();
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = &choice["message"]["tool_calls"][0];
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(["park", "house"].contains(&arguments["place"].as_str().unwrap()), "{call}");
    // With a shape and tools that may be called, it is either the one or the other.
    let form = json!({"type": "json_schema", "json_schema": {"name": "trip", "schema": schema}});
    let either = with(ask, json!({"tool_choice": "auto", "response_format": form}));
    let choice = fine(&server, "/v1/chat/completions", either)["choices"][0].clone();
    match choice["message"]["tool_calls"].get(0) {
        Some(call) => assert_eq!(call["function"]["name"], "go"),
        None => {
            let text = choice["message"]["content"].as_str().unwrap();
            assert!(serde_json::from_str::<Value>(text).is_ok_and(|v| v["place"].is_string()), "{choice}");
        }
    }
}

/// What is wrong with a schema is told of the field that holds it, in every dialect.
#[test]
fn errors_about_schemas_name_their_field() {
    let server = Server::start(&[]);
    let bad = json!({"type": "object", "properties": {"a": {"type": "string", "format": "no-such"}}});
    let named = json!({"name": "x", "strict": true, "schema": bad});
    let typed = with(named.clone(), json!({"type": "json_schema"}));
    let function = |name: &str, schema: &Value| json!({"name": name, "parameters": schema, "strict": true});
    let nested = |name: &str, schema: &Value| json!({"type": "function", "function": function(name, schema)});
    let (fine, broken) = (json!({"type": "object"}), json!({"properties": 5}));
    let either =
        json!({"tools": [nested("a", &fine)], "response_format": {"type": "json_schema", "json_schema": named}});
    let late = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5}}, "required": ["a"]});
    let last = json!({"tools": [nested("a", &fine), nested("b", &late)], "structured_outputs": {"json": fine}});
    for (path, body, changes, field) in [
        (
            "/v1/chat/completions",
            chat(),
            json!({"response_format": {"type": "json_schema", "json_schema": named}}),
            "response_format.json_schema.schema",
        ),
        ("/v1/chat/completions", chat(), json!({"structured_outputs": {"json": broken}}), "structured_outputs.json"),
        ("/v1/chat/completions", chat(), json!({"structured_outputs": {"regex": "("}}), "structured_outputs.regex"),
        ("/v1/chat/completions", chat(), json!({"guided_json": broken}), "guided_json"),
        ("/v1/chat/completions", chat(), json!({"regex": "("}), "regex"),
        (
            "/v1/completions",
            json!({"prompt": "a"}),
            json!({"structured_outputs": {"grammar": "start: ("}}),
            "structured_outputs.grammar",
        ),
        (
            "/v1/completions",
            json!({"prompt": "a"}),
            json!({"structured_outputs": {"choice": [""]}}),
            "structured_outputs.choice",
        ),
        (
            "/v1/chat/completions",
            chat(),
            json!({"tools": [nested("a", &fine), nested("b", &bad)]}),
            "tools[1].function.parameters",
        ),
        ("/v1/chat/completions", chat(), either, "response_format.json_schema.schema"),
        ("/v1/chat/completions", chat(), last, "tools[1].function.parameters"),
        ("/v1/chat/completions", chat(), json!({"functions": [function("a", &bad)]}), "functions[0].parameters"),
        ("/v1/responses", json!({"input": "a"}), json!({"text": {"format": typed}}), "text.format.schema"),
        (
            "/v1/responses",
            json!({"input": "a"}),
            json!({"tools": [with(function("a", &bad), json!({"type": "function"}))]}),
            "tools[0].parameters",
        ),
        (
            "/v1/messages",
            chat(),
            json!({"output_config": {"format": {"type": "json_schema", "schema": broken}}}),
            "output_config.format.schema",
        ),
        (
            "/v1/messages",
            chat(),
            json!({"output_format": {"type": "json_schema", "schema": broken}}),
            "output_format.schema",
        ),
        (
            "/v1/messages",
            chat(),
            json!({"tools": [{"name": "a", "input_schema": bad, "strict": true}]}),
            "tools[0].input_schema",
        ),
    ] {
        let (status, refused) = asked(&server, path, &with(body, changes));
        let error = &refused["error"];
        assert_eq!(status, 400, "{field}: {refused}");
        assert!(error["message"].as_str().unwrap().starts_with(&format!("{field}: ")), "{field}: {refused}");
        assert!(path == "/v1/messages" || error["param"] == field, "{field}: {refused}");
    }
}

/// White space included.
#[test]
fn constraints_of_other_servers_hold() {
    let server = Server::start(&[]);
    for (field, value, answer) in [
        ("guided_choice", json!([" maybe"]), " maybe"),
        ("guided_regex", json!("\\n(42|42)"), "\n42"),
        ("grammar", json!("start: \"four\""), "four"),
        ("guided_json", json!({"const": 7}), "7"),
        ("json_schema", json!("{\"enum\": [true]}"), "true"),
    ] {
        let body = with(chat(), json!({ (field): value, "max_tokens": 20 }));
        let got = fine(&server, "/v1/chat/completions", body);
        assert_eq!(got["choices"][0]["message"]["content"], answer, "{field}");
    }
}

/// As Codex and Claude Code send them.
#[test]
fn a_request_is_served_without_tools_that_cannot_be_called() {
    let server = Server::start(&["--cors-origin", "*"]);
    let inner = json!({"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}});
    let tools = json!([{"type": "web_search"}, {"type": "custom", "name": "a, b\u{e9}"},
        {"type": "namespace", "name": "mcp__files", "tools": [inner]}]);
    let body =
        json!({"input": "Hi", "max_output_tokens": 200, "tools": tools, "tool_choice": "required", "temperature": 0});
    let answer = server.post("/v1/responses", &body.to_string());
    let (status, whole) = answered(&answer);
    assert_eq!(status, 200, "{whole}");
    assert!(answer.contains("x-tools-ignored: web_search, custom:a? b?\r\n"), "{answer}");
    let call = &whole["output"][0];
    assert_eq!((&call["namespace"], &call["name"]), (&json!("mcp__files"), &json!("find")), "{whole}");
    let streamed = events(&server.post("/v1/responses", &with(body, json!({"stream": true})).to_string()));
    let items: Vec<&Value> = streamed.iter().filter(|event| event["type"] == "response.output_item.done").collect();
    assert_eq!((&items[0]["item"]["namespace"], &items[0]["item"]["name"]), (&json!("mcp__files"), &json!("find")));
    let search = json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    assert!(
        server
            .post("/v1/messages", &with(chat(), search).to_string())
            .contains("x-tools-ignored: web_search_20250305:web_search\r\n")
    );
}

/// As the AI SDK's default provider sends its second step.
#[test]
fn an_item_of_an_earlier_answer_may_be_a_reference() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "sk-one\nsk-two\n").unwrap();
    let server = Server::start(&["--api-key-file", keys.to_str().unwrap()]);
    let keyed = |key: &str, body: &Value| {
        let header = format!("Authorization: Bearer {key}\r\nContent-Type:");
        answered(&server.raw(&post("/v1/responses", &body.to_string()).replacen("Content-Type:", &header, 1)))
    };
    let tool = json!({"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}});
    let first = json!({"input": "Hi", "max_output_tokens": 200, "tools": [tool], "tool_choice": "required"});
    let (status, whole) = keyed("sk-one", &first);
    assert_eq!(status, 200, "{whole}");
    let call = &whole["output"][0];
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "a blue hat"});
    let next = |item: &Value| json!({"input": [{"role": "user", "content": "Hi"}, item, result], "max_output_tokens": 1, "tools": [tool]});
    let reference = json!({"type": "item_reference", "id": call["id"]});
    let (status, referred) = keyed("sk-one", &next(&reference));
    assert_eq!(status, 200, "{referred}");
    let (_, sent) = keyed("sk-one", &next(call));
    assert_eq!(referred["usage"]["input_tokens"], sent["usage"]["input_tokens"]);
    let (status, refused) = keyed("sk-two", &next(&reference));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("input[1].id")), "another account's item");
    let (_, whole) = keyed("sk-one", &with(first.clone(), json!({"store": false})));
    let (status, _) = keyed("sk-one", &next(&json!({"type": "item_reference", "id": whole["output"][0]["id"]})));
    assert_eq!(status, 400, "nothing was to be kept");
}

/// As llama.cpp's clients and editor plugins ask.
#[test]
fn llama_cpps_own_paths_answer_in_its_shapes() {
    let server = Server::start(&["--name", "small"]);
    let body = json!({"prompt": "Once upon", "n_predict": 4, "temperature": 0, "seed": -1, "logit_bias": [[1, false]], "cache_prompt": true});
    let whole = fine(&server, "/completion", body.clone());
    let plain = fine(
        &server,
        "/v1/completions",
        json!({"prompt": "Once upon", "max_tokens": 4, "temperature": 0, "logit_bias": {"1": -100}}),
    );
    assert_eq!((&whole["content"], &whole["stop"]), (&plain["choices"][0]["text"], &json!(true)), "{whole}");
    assert_eq!(
        (&whole["stop_type"], &whole["tokens_predicted"], &whole["prompt"]),
        (&json!("limit"), &json!(4), &json!("Once upon"))
    );
    assert_eq!((&whole["model"], &whole["timings"]["predicted_n"]), (&json!("small"), &json!(4)));
    assert_eq!(
        (&whole["tokens_evaluated"], &whole["generation_settings"]["n_predict"]),
        (&plain["usage"]["prompt_tokens"], &json!(4))
    );
    let streamed = events(&server.post("/completion", &with(body.clone(), json!({"stream": true})).to_string()));
    let (last, parts) = streamed.split_last().unwrap();
    let text: String = parts.iter().map(|part| part["content"].as_str().unwrap()).collect();
    assert!(
        text == whole["content"].as_str().unwrap() && parts.iter().all(|part| part["stop"] == false),
        "{streamed:?}"
    );
    assert_eq!((&last["stop"], &last["stop_type"]), (&json!(true), &json!("limit")));
    let some = fine(
        &server,
        "/completion",
        with(body.clone(), json!({"response_fields": ["content", "timings/predicted_n", "none"]})),
    );
    assert_eq!(some, json!({"content": whole["content"], "timings/predicted_n": 4}));
    let word = fine(
        &server,
        "/completion",
        with(body.clone(), json!({"prompt": ["Once upon", "There was"], "stop": ["e"], "n_predict": 99})),
    );
    assert!(
        word.as_array().unwrap().iter().enumerate().all(|(i, one)| one["index"] == i && one["stop_type"] == "word"),
        "{word}"
    );
    let scored = fine(&server, "/completion", with(body.clone(), json!({"n_probs": 2})));
    assert_eq!(scored["completion_probabilities"][0]["top_logprobs"].as_array().unwrap().len(), 2, "{scored}");
    // Reads the prompt, so that the next request finds it in the cache.
    let long = "Once upon a time there was a little girl. ".repeat(20);
    let read = fine(&server, "/completion", json!({"prompt": long, "n_predict": 0}));
    assert_eq!(
        (&read["content"], &read["tokens_predicted"], &read["tokens_cached"]),
        (&json!(""), &json!(0), &json!(0))
    );
    let next = fine(&server, "/completion", json!({"prompt": long, "n_predict": 1}));
    assert!(next["tokens_cached"].as_u64().unwrap() >= 64, "{next}");
    let penalized = json!({"repeat_penalty": 1.5, "presence_penalty": 1, "repeat_last_n": 0, "n_predict": 4});
    let none = fine(&server, "/completion", with(body.clone(), penalized));
    assert_eq!((&none["content"], &none["generation_settings"]["repeat_penalty"]), (&whole["content"], &json!(1.0)));
    assert_eq!(none["generation_settings"]["repeat_last_n"], -1);
    let endless = fine(&server, "/completion", with(body.clone(), json!({"n_predict": 1e18, "stop": ["e"]})));
    assert_eq!(endless["stop_type"], "word");
    for (change, param) in [
        (json!({"n_predict": -3}), "n_predict"),
        (json!({"repeat_last_n": -2}), "repeat_last_n"),
        (json!({"n_predict": 1e19}), "n_predict"),
        (json!({"logit_bias": [["Once", 1]]}), "logit_bias[0]"),
        (json!({"logit_bias": [[1, 1], [1, 2]]}), "logit_bias[1]"),
        (json!({"image_data": [{"data": "aGk=", "id": 1}]}), "image_data"),
        (json!({"n_predict": null, "max_tokens": -5}), "max_tokens"),
        (json!({"return_tokens": true}), "return_tokens"),
        (json!({"ignore_eos": true}), "ignore_eos"),
        (json!({"response_fields": [1]}), "response_fields"),
    ] {
        let (status, refused) = asked(&server, "/completion", &with(body.clone(), change));
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(param)), "{refused}");
    }
    let gap = json!({"input_prefix": "Once upon", "input_suffix": "time.", "input_extra": [{"text": "A story."}]});
    let (status, refused) = asked(&server, "/infill", &gap);
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(status == 400 && said.contains("this model has no tokens for filling a gap"), "{said}");
    for (change, param) in [
        (json!({"input_prefix": null}), "input_prefix"),
        (json!({"input_suffix": null}), "input_suffix"),
        (json!({"input_extra": {}}), "input_extra"),
        (json!({"input_extra": [{"filename": "a"}]}), "input_extra[0].text"),
    ] {
        let (status, refused) = asked(&server, "/infill", &with(gap.clone(), change));
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(param)), "{refused}");
    }
    let coder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let from = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/");
        let bytes = std::fs::read(format!("{from}{name}")).unwrap();
        std::fs::write(coder.path().join(name), bytes).unwrap();
    }
    let tokenizer = coder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    let marks = [
        ("<｜▁pad▁｜>", "<｜fim▁begin｜>"),
        ("<|EOT|>", "<｜fim▁hole｜>"),
        ("<｜tool▁calls▁begin｜>", "<｜fim▁end｜>"),
    ];
    std::fs::write(tokenizer, marks.iter().fold(text, |text, (old, new)| text.replace(old, new))).unwrap();
    let coding = Server::start(&[coder.path().to_str().unwrap()]);
    let filled = fine(&coding, "/infill", with(gap.clone(), json!({"n_predict": 3, "prompt": " a"})));
    assert_eq!((&filled["tokens_predicted"], &filled["truncated"]), (&json!(3), &json!(false)), "{filled}");
    let long =
        fine(&coding, "/infill", with(gap, json!({"input_prefix": "Once upon a time. ".repeat(5000), "n_predict": 3})));
    assert_eq!(long["truncated"], true);
    let evaluated = long["tokens_evaluated"].as_u64().unwrap();
    let (_, props) = answered(&coding.get("/props"));
    let context = props["default_generation_settings"]["n_ctx"].as_u64().unwrap();
    assert!((context - 16..=context - 3).contains(&evaluated), "{evaluated} of {context}");
    let (_, props) = answered(&server.get("/props"));
    assert_eq!((&props["model_alias"], &props["modalities"]["vision"]), (&json!("small"), &json!(false)));
    assert!(
        props["default_generation_settings"]["n_ctx"].as_u64().unwrap() > 0
            && props["total_slots"].as_u64().unwrap() > 0
    );
}

/// What cannot fit is refused before it is encoded, at every route that reads texts.
#[test]
fn texts_that_cannot_fit_cost_nothing() {
    let server = Server::start(&[]);
    let digits = "0123456789".repeat(400_000);
    let started = Instant::now();
    for (path, body) in [
        ("/tokenize", json!({"prompt": digits})),
        ("/tokenize", json!({"messages": [{"role": "user", "content": digits}]})),
        ("/v1/completions", json!({"prompt": digits})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": digits}]})),
        ("/v1/messages/count_tokens", json!({"messages": [{"role": "user", "content": digits}]})),
    ] {
        let (status, refused) = asked(&server, path, &body);
        let message = refused["error"]["message"].as_str().unwrap();
        let before =
            if path.contains("messages") { "prompt is too long: " } else { "the prompt is too long: it has at least " };
        let least =
            message.split_once(before).and_then(|(_, rest)| rest.split([' ', ',']).next()?.parse::<usize>().ok());
        let least = least.unwrap_or_else(|| panic!("{path}: {status} {message}"));
        assert_eq!(status, 400, "{path}: {message}");
        assert!(least > 100_000, "{message}");
    }
    let (status, refused) = asked(&server, "/detokenize", &json!({"tokens": vec![655; 1_000_000]}));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("tokens")));
    assert!(refused["error"]["message"].as_str().unwrap().contains("(the context length)"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}
