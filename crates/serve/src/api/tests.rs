//! Tests of validation: what is refused, in every dialect, and what is made of what is accepted.

use engine::Sampling;
use serde_json::{Map, Value, json};

use crate::api::tokenize::{TokenizeRequest, parse_detokenize, parse_tokenize};
use crate::api::{
    ApiError, Fields, ModelDefaults, batches, chat, completions, embeddings, llama_cpp, message_batches, messages,
    ollama, rerank, responses,
};
use crate::request::{GenerateRequest, Prompt, RequestInput, ResponseFormat, ToolChoice};

mod agents;
mod edges;
mod ollama_requests;
mod streams;

type Validate = fn(&mut Fields, ModelDefaults<'_>) -> Result<GenerateRequest, ApiError>;

/// With a vocabulary of a hundred.
fn asked(validate: Validate, bytes: &[u8]) -> Result<GenerateRequest, ApiError> {
    let defaults = Sampling::default();
    validate(&mut Fields::parse(bytes)?, ModelDefaults { defaults: &defaults, vocab: 100 })
}

fn with(mut body: Value, changes: Value) -> String {
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body.to_string()
}

fn chatted(changes: Value) -> Result<GenerateRequest, ApiError> {
    asked(chat::parse, with(json!({"messages": [{"role": "user", "content": "Hi"}]}), changes).as_bytes())
}

fn completed(body: Value) -> Result<GenerateRequest, ApiError> {
    asked(completions::parse, body.to_string().as_bytes())
}

fn messaged(changes: Value) -> Result<GenerateRequest, ApiError> {
    let body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
    asked(messages::parse, with(body, changes).as_bytes())
}

fn responded(changes: Value) -> Result<GenerateRequest, ApiError> {
    asked(responses::parse, with(json!({"input": "Hi"}), changes).as_bytes())
}

/// Messages as a template takes them.
fn said(request: &GenerateRequest) -> Vec<Value> {
    match &request.input {
        RequestInput::Conversation { messages, .. } => messages.iter().map(|m| m.clone().into_json(false)).collect(),
        RequestInput::Prompts { .. } => panic!("no conversation"),
    }
}

fn continues(request: &GenerateRequest) -> bool {
    matches!(request.input, RequestInput::Conversation { continues: true, .. })
}

fn prompts(request: &GenerateRequest) -> &[Prompt] {
    match &request.input {
        RequestInput::Prompts { prompts, .. } => prompts,
        RequestInput::Conversation { .. } => panic!("a conversation"),
    }
}

#[test]
fn every_refusal_names_the_field_the_value_and_what_is_allowed() {
    for (changes, param, said) in [
        (json!({"temperature": 3}), "temperature", "temperature is 3; it must be a number from 0 to 2"),
        (json!({"temperature": "hot"}), "temperature", "temperature is \"hot\""),
        (json!({"top_p": -0.1}), "top_p", "top_p is -0.1; it must be a number from 0 to 1"),
        (json!({"top_k": -2}), "top_k", "top_k is -2"),
        (json!({"max_tokens": 0}), "max_tokens", "max_tokens is 0; it must be a whole number from 1 on"),
        (json!({"max_completion_tokens": 1.5}), "max_completion_tokens", "is 1.5"),
        (json!({"stream": "yes"}), "stream", "stream is \"yes\"; it must be true or false"),
        (json!({"stream_options": {}}), "stream_options", "absent unless stream is true"),
        (json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage", "is 1"),
        (json!({"stop": ["a", 1]}), "stop", "stop is 1; it must be a string, or at most 16 strings"),
        (json!({"stop": ""}), "stop", "stop is \"\""),
        (json!({"stop": vec!["x"; 17]}), "stop", "an array of 17 items"),
        (json!({"seed": 1.5}), "seed", "seed is 1.5"),
        (json!({"n": 17}), "n", "n is 17; it must be a whole number from 1 to 16"),
        (json!({"logprobs": 3}), "logprobs", "true or false"),
        (json!({"top_logprobs": 3}), "top_logprobs", "absent unless logprobs is true"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
        (json!({"logit_bias": {"100": 1}}), "logit_bias[\"100\"]", "a token id below 100"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias[\"1\"]", "from -100 to 100"),
        (json!({"logit_bias": {"5": 1, "05": 2}}), "logit_bias[\"05\"]", "in digits without a sign"),
        (json!({"logit_bias": {"+5": 1}}), "logit_bias[\"+5\"]", "a token id below 100"),
        (json!({"logit_bias": [1]}), "logit_bias", "an object"),
        (json!({"messages": []}), "messages", "an array of 1 to"),
        (json!({"messages": null}), "messages", "messages is null"),
        (json!({"messages": [5]}), "messages[0]", "an object with role and content"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role", "is \"king\""),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "is null; it must be a string"),
        (json!({"messages": [{"role": "assistant", "content": null}]}), "messages[0].content", "is null"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
            "only parts of type \"text\"",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", "an object with a name"),
        (json!({"tools": [{"name": "a"}]}), "tools[0].type", "tools of other types are left out"),
        (json!({"tools": [{"type": "custom"}], "tool_choice": {"type": "custom"}}), "tool_choice", "only functions"),
        (json!({"tools": [{"type": "web_search"}], "tool_choice": "required"}), "tool_choice", "without tools"),
        (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "tools[0].function.name", "is \"a b\""),
        (json!({"tools": [tool("a"), tool("a")]}), "tools[1].function.name", "that no other tool has"),
        (json!({"tool_choice": "required"}), "tool_choice", "none or auto without tools"),
        (
            json!({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}}),
            "tool_choice",
            "one of the tools (a)",
        ),
        (json!({"tool_choice": 5}), "tool_choice", "tool_choice is 5"),
        (json!({"parallel_tool_calls": "no"}), "parallel_tool_calls", "true or false"),
        (json!({"service_tier": "gold"}), "service_tier", "auto, default"),
        (json!({"priority": 1000}), "priority", "from -100 to 100"),
        (json!({"user_id": "x".repeat(513)}), "user_id", "at most 512 bytes"),
        (json!({"thinking": true}), "thinking", "{\"type\": \"enabled\"}"),
        (json!({"reasoning_effort": "much"}), "reasoning_effort", "none, minimal, low"),
        (json!({"add_generation_prompt": false}), "add_generation_prompt", "continue_final_message"),
        (json!({"continue_final_message": true}), "continue_final_message", "the last message is the assistant's"),
        (
            json!({"messages": [{"role": "user", "content": "a", "prefix": true}]}),
            "messages[0].prefix",
            "in a last message of the assistant",
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": 5}}]}]}),
            "messages[0].tool_calls[0].function.arguments",
            "a string of JSON",
        ),
        (json!({"response_format": {"type": "xml"}}), "response_format.type", "text, json_object or json_schema"),
        (json!({"response_format": "json_object"}), "response_format", "{\"type\": \"json_object\"}"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
            "response_format.json_schema.schema",
            "a JSON schema",
        ),
        (json!({"structured_outputs": {"regex": 1}}), "structured_outputs.regex", "a string"),
        (json!({"model": 3}), "model", "model is 3; it must be a string"),
        (json!({"chat_template_kwargs": {"messages": 1}}), "chat_template_kwargs", "without messages"),
    ] {
        let refused = chatted(changes.clone()).expect_err(&changes.to_string());
        assert_eq!(refused.param.as_deref(), Some(param), "{refused:?}");
        assert!(refused.message.contains(said) && refused.message.contains(param), "{refused:?}");
    }
    for (body, said) in [
        (json!({}), "prompt is null; it must be a string, an array of token ids"),
        (json!({"prompt": []}), "prompt is []"),
        (json!({"prompt": [1, 100]}), "prompt[1] is 100; it must be a token id below 100"),
        (json!({"prompt": [1, "a"]}), "prompt[1] is \"a\"; it must be a token id below 100"),
        (json!({"prompt": [1, [2]]}), "prompt[1] is [2]; it must be a token id below 100"),
        (json!({"prompt": [{}, "a"]}), "prompt is [{},\"a\"]; it must be a string, an array"),
        (json!({"prompt": [[1, "a"]]}), "prompt[0][1] is \"a\"; it must be a token id below 100"),
        (json!({"prompt": ["a", 5]}), "prompt[1] is 5; it must be a string"),
        (json!({"prompt": [[1, 100]]}), "prompt[0][1] is 100; it must be a token id below 100"),
        (json!({"prompt": "a", "echo": 1}), "echo is 1; it must be true or false"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens is 0; it must be a whole number from 1 on (0 with echo"),
        (json!({"prompt": vec!["a"; 257]}), "at most 256 prompts"),
        (json!({"prompt": vec!["a"; 100], "n": 3}), "n is 3; it must be such that 100 prompts"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs is 21; it must be a whole number from 0 to 20"),
        (json!({"prompt": "a", "best_of": 1, "n": 2}), "best_of is 1; it must be at least n, which is 2"),
        (json!({"prompt": "a", "best_of": 2, "stream": true}), "leave out stream"),
        (json!({"prompt": "a", "suffix": 5}), "suffix is 5; it must be a string"),
        (json!({"prompt": [1], "suffix": "b"}), "it goes with prompts that are text"),
        (json!({"prompt": "a", "suffix": "b", "echo": true}), "with echo there is none"),
    ] {
        let refused = completed(body.clone()).expect_err(&body.to_string());
        assert!(refused.message.contains(said), "{refused:?}");
    }
    assert!(asked(chat::parse, b"{").unwrap_err().message.contains("not JSON"));
    let far = asked(chat::parse, br#"{"messages": [], "temperature": 1e999}"#).unwrap_err();
    assert_eq!((far.param.as_deref(), far.code), (Some("temperature"), "invalid_value"));
    assert!(far.message.starts_with("temperature is a number out of range; "), "{far:?}");
    assert!(asked(chat::parse, b"[]").unwrap_err().message.contains("a JSON object"));
    let long = json!({"messages": [{"role": "x".repeat(10_000), "content": ""}]});
    assert!(chatted(long).unwrap_err().message.len() < 300);
}

/// Which of two values is meant is not guessed, in any dialect and at any depth.
#[test]
fn a_key_is_given_once() {
    let dialects: [Validate; 6] = [
        chat::parse,
        completions::parse,
        messages::parse,
        responses::parse,
        llama_cpp::parse_completion,
        llama_cpp::parse_infill,
    ];
    for (body, param) in [
        (r#"{"model": "a", "model": "b"}"#, "model"),
        (r#"{"max_tokens": 5, "prompt": "x", "max_tokens": 50}"#, "max_tokens"),
        (r#"{"messages": [{"role": "user", "content": "a", "content": "b"}]}"#, "messages[0].content"),
        (
            r#"{"tools": [{"function": {"parameters": {"type": "object", "type": "array"}}}]}"#,
            "tools[0].function.parameters.type",
        ),
        (r#"{"unknown": {"a": 1, "a": 1}}"#, "unknown.a"),
    ] {
        for validate in dialects {
            let refused = asked(validate, body.as_bytes()).expect_err(body);
            assert_eq!((refused.param.as_deref(), refused.code), (Some(param), "duplicate_field"));
            assert!(refused.message.contains(param) && refused.message.contains("more than once"), "{refused:?}");
        }
    }
}

/// What the fuzzer starts from, and everything it found.
#[test]
fn seeds_and_findings_of_the_fuzzer() {
    let mut count = 0;
    for kind in ["seeds", "findings"] {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(kind).join("request");
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            count += 1;
            let dialects: [Validate; 6] = [
                chat::parse,
                completions::parse,
                messages::parse,
                responses::parse,
                llama_cpp::parse_completion,
                llama_cpp::parse_infill,
            ];
            let refusals = dialects.into_iter().filter_map(|validate| asked(validate, &bytes).err());
            assert!(refusals.into_iter().all(|r| r.message.len() < 4096 && !r.message.contains('\n')));
        }
    }
    assert!(count >= 5);
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

#[test]
fn what_is_given_is_taken() {
    let request = chatted(json!({
        "model": "m", "temperature": 0.5, "top_k": -1, "stop": "x", "seed": -1, "stream": true, "max_tokens": 9,
        "max_completion_tokens": 5, "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 4,
        "logit_bias": {"7": -100}, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "u",
        "colour": 1, "frequency_penalty": null, "n": 3, "service_tier": "flex", "user_id": "me",
        "thinking": {"type": "disabled"}, "reasoning_effort": "high", "chat_template_kwargs": {"own": 1}
    }))
    .unwrap();
    let w = &request.params;
    assert_eq!((w.model.as_deref(), w.tokens_max, w.stream, w.include_usage), (Some("m"), Some(5), true, true));
    assert_eq!((w.sampling.temperature, w.sampling.seed, w.sampling.top_k), (0.5, Some(u64::MAX), 0));
    assert_eq!(
        (w.log_probabilities, &w.stop[..], &w.unknown[..]),
        (Some(4), &["x".to_string()][..], &["colour".to_string()][..])
    );
    assert_eq!(w.sampling.logit_bias, [(7, -100.0)]);
    assert_eq!((w.choices, w.best_of, w.priority, w.user.as_deref()), (3, 3, -1, Some("me")));
    let variables = json!({"thinking": false, "enable_thinking": false, "reasoning_effort": "high", "own": 1});
    assert_eq!(Value::Object(request.template), variables);
    let parts = json!({"messages": [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
        {"role": "assistant", "content": "So", "prefix": true}]});
    let request = chatted(parts).unwrap();
    assert!(continues(&request));
    let messages = said(&request);
    assert_eq!(messages[0], json!({"role": "system", "content": "ab"}));
    assert_eq!((&messages[1]["tool_calls"][0]["id"], &messages[1]["reasoning_content"]), (&json!("1"), &json!("hm")));
    assert_eq!(messages[2], json!({"role": "tool", "content": "42", "tool_call_id": "1"}));
}

#[test]
fn prompts_of_all_kinds() {
    let request =
        completed(json!({"prompt": [[1, 2], [3]], "n": 2, "best_of": 4, "echo": true, "max_tokens": 0})).unwrap();
    assert_eq!(prompts(&request), [Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]);
    assert_eq!((request.params.choices, request.params.best_of, request.params.tokens_max), (2, 4, Some(0)));
    assert_eq!(prompts(&completed(json!({"prompt": [1, 2]})).unwrap()), [Prompt::Tokens(vec![1, 2])]);
    let plain = completed(json!({"prompt": ["a", "b"], "logprobs": 0, "suffix": "c"})).unwrap();
    assert_eq!(prompts(&plain), [Prompt::Text("a".to_string()), Prompt::Text("b".to_string())]);
    assert_eq!((plain.params.log_probabilities, plain.params.tokens_max), (Some(0), Some(16)));
    assert!(matches!(&plain.input, RequestInput::Prompts { gap: Some(gap), echo: false, .. } if gap.suffix == "c"));
}

#[test]
fn tools_and_shapes() {
    let named = json!({"type": "function", "function": {"name": "b"}});
    let request =
        chatted(json!({"tools": [tool("a"), tool("b")], "tool_choice": named, "parallel_tool_calls": false})).unwrap();
    assert_eq!((request.tools.list.len(), &request.tools.choice), (2, &ToolChoice::Named("b".to_string())));
    assert!(!request.tools.parallel && !request.tools.older);
    assert_eq!(request.tools.list[0].json(), tool("a"));
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("b")]}});
    let request = chatted(json!({"tools": [tool("a"), tool("b")], "tool_choice": allowed})).unwrap();
    assert_eq!((request.tools.list.len(), &request.tools.choice), (1, &ToolChoice::Required));
    let older = chatted(json!({"functions": [{"name": "a"}], "function_call": {"name": "a"}})).unwrap();
    assert_eq!((older.tools.choice, older.tools.older), (ToolChoice::Named("a".to_string()), true));
    let form =
        json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": {"type": "array"}}});
    let request = chatted(json!({"response_format": form})).unwrap();
    assert_eq!(request.response_format, ResponseFormat::Schema { schema: json!({"type": "array"}), strict: true });
    assert_eq!(
        chatted(json!({"response_format": {"type": "json_object"}})).unwrap().response_format,
        ResponseFormat::Object
    );
    let choice =
        completed(json!({"prompt": "a", "structured_outputs": {"choice": ["x", "y"]}})).unwrap().response_format;
    assert_eq!(choice, ResponseFormat::Choice(vec!["x".to_string(), "y".to_string()]));
    let deep = (0..100).fold(json!({}), |inner, _| json!({ "not": inner }));
    let form = json!({"type": "json_schema", "json_schema": {"schema": deep}});
    assert!(chatted(json!({"response_format": form})).unwrap_err().message.contains("64 levels deep"));
}

#[test]
fn messages_become_the_same_conversation() {
    let request = messaged(json!({
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": "s"}, {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                {"type": "text", "text": "And?"}]},
            {"role": "assistant", "content": "It is"}],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "stop_sequences": ["x"], "top_k": 5, "metadata": {"user_id": "u"}
    }))
    .unwrap();
    assert_eq!(
        Value::from(said(&request).to_vec()),
        json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}}], "reasoning_content": "Ask."},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "It is"}])
    );
    assert!(continues(&request) && !request.tools.parallel && request.tools.choice == ToolChoice::Required);
    assert_eq!(
        (request.params.stop.len(), request.params.sampling.top_k, request.params.user.as_deref()),
        (1, 5, None)
    );
    // Who does not ask for thinking gets none.
    assert_eq!(request.template["thinking"], false);
    let thinking =
        messaged(json!({"max_tokens": 2001, "thinking": {"type": "enabled", "budget_tokens": 2000}})).unwrap();
    assert_eq!(thinking.params.thinking_max, Some(2000));
    let off = messaged(json!({"thinking": {"type": "disabled", "budget_tokens": 8}})).unwrap();
    assert_eq!(off.params.thinking_max, None);
    assert_eq!(thinking.template["thinking"], true);
    for (changes, param) in [
        (json!({"messages": []}), "messages"),
        (json!({"messages": ["a"]}), "messages[0]"),
        (json!({"messages": [{"role": "tool", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image"}]}]}), "messages[0].content[0].type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}),
            "messages[0].content[0].tool_use_id",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "a"}]}]}),
            "messages[0].content[0].input",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "a", "input": {}}]}]}),
            "messages[0].content",
        ),
        (json!({"system": 5}), "system"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop_sequences": 5}), "stop_sequences"),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "tool", "name": "web_search"}}),
            "tool_choice",
        ),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"}}),
            "tool_choice",
        ),
        (json!({"tool_choice": "any"}), "tool_choice"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 0}}), "thinking.budget_tokens"),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 9}}), "thinking.budget_tokens"),
        (json!({"output_config": {"format": {"type": "xml"}}}), "output_config.format"),
    ] {
        let refused = messaged(changes.clone()).expect_err(&changes.to_string());
        assert_eq!(refused.param.as_deref(), Some(param), "{refused:?}");
        assert!(refused.message.starts_with(param), "{refused:?}");
    }
}

#[test]
fn items_become_the_same_conversation() {
    let request = responded(json!({
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "What is it?"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Ask."}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"}],
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
        "tool_choice": {"type": "function", "name": "look"}, "max_output_tokens": 7, "temperature": 0.7,
        "text": {"format": {"type": "json_object"}}, "reasoning": {"effort": "low"}, "store": true, "metadata": {"a": "b"}
    }))
    .unwrap();
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}});
    assert_eq!(
        Value::from(said(&request).to_vec()),
        json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "", "reasoning_content": "Ask.", "tool_calls": [call("c1"), call("c2")]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"}])
    );
    assert_eq!((request.params.tokens_max, &request.response_format), (Some(7), &ResponseFormat::Object));
    assert_eq!(
        (&request.tools.choice, &request.template["reasoning_effort"]),
        (&ToolChoice::Named("look".to_string()), &json!("low"))
    );
    let r = &request.repeated;
    assert_eq!(
        (&r["temperature"], &r["max_output_tokens"], &r["metadata"]),
        (&json!(0.7), &json!(7), &json!({"a": "b"}))
    );
    assert_eq!((&r["store"], &r["previous_response_id"]), (&json!(false), &Value::Null));
    for (changes, param) in [
        (json!({"input": null}), "input"),
        (json!({"store": "yes"}), "store"),
        (json!({"input": [{"type": "web_search_call", "id": "x"}]}), "input"),
        (json!({"input": [{"type": "mesage", "id": "x"}]}), "input[0].type"),
        (json!({"input": [{"role": "king", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0].type"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"conversation": "c"}), "conversation"),
        (json!({"background": true}), "background"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}), "tool_choice"),
        (json!({"tools": [{"type": "web_search"}], "tool_choice": "required"}), "tool_choice"),
        (json!({"text": {"format": {"type": "grammar"}}}), "text.format"),
        (json!({"metadata": 5}), "metadata"),
        (json!({"include": "all"}), "include"),
    ] {
        let refused = responded(changes.clone()).expect_err(&changes.to_string());
        assert_eq!(refused.param.as_deref(), Some(param), "{refused:?}");
        assert!(refused.message.starts_with(param), "{refused:?}");
    }
}

/// Values of every kind in every field, deep and shallow.
fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z<>_|]{0,8}".prop_map(Value::from),
        proptest::sample::select(vec![
            "function",
            "text",
            "user",
            "assistant",
            "tool_use",
            "tool_result",
            "auto",
            "json_schema"
        ])
        .prop_map(Value::from),
    ];
    let key = proptest::sample::select(vec![
        "type",
        "role",
        "content",
        "text",
        "name",
        "function",
        "tools",
        "messages",
        "schema",
        "json_schema",
        "input",
        "id",
        "tool_calls",
        "arguments",
        "effort",
        "format",
        "prefix",
        "output",
    ]);
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..5).prop_map(|pairs| pairs
                .into_iter()
                .map(|(k, v)| (k.to_string(), v))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]

    /// Whatever comes is taken or refused in a short line.
    #[test]
    fn no_body_hurts(
        pairs in proptest::collection::vec((0usize..KEYS.len(), anything()), 0..6), messages_too in proptest::prelude::any::<bool>()
    ) {
        let mut body = json!({"input": "Hi", "prompt": "Hi", "input_prefix": "a", "input_suffix": "b"});
        if messages_too {
            body["messages"] = json!([{"role": "user", "content": "Hi"}]);
        }
        for (key, value) in pairs {
            body[KEYS[key]] = value;
        }
        let dialects: [Validate; 6] = [
            chat::parse,
            completions::parse,
            messages::parse,
            responses::parse,
            llama_cpp::parse_completion,
            llama_cpp::parse_infill,
        ];
        for validate in dialects {
            match asked(validate, body.to_string().as_bytes()) {
                Ok(request) => proptest::prop_assert!(request.params.sampling.validate(100).is_ok()),
                Err(refused) => proptest::prop_assert!(refused.message.len() < 4096 && !refused.message.contains('\n')),
            }
        }
        let defaults = Sampling::default();
        let model = ModelDefaults { defaults: &defaults, vocab: 100 };
        let _ = parse_tokenize(&mut Fields::parse(body.to_string().as_bytes()).unwrap(), model);
    }
}

const KEYS: [&str; 40] = [
    "n_predict",
    "repeat_last_n",
    "n_probs",
    "response_fields",
    "input_extra",
    "input_prefix",
    "messages",
    "prompt",
    "input",
    "system",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "structured_outputs",
    "text",
    "reasoning",
    "thinking",
    "output_config",
    "stop",
    "stop_sequences",
    "temperature",
    "top_k",
    "seed",
    "logit_bias",
    "n",
    "best_of",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "max_tokens",
    "suffix",
    "echo",
    "chat_template_kwargs",
    "metadata",
    "include",
    "user_id",
    "model",
];

/// `3.0` is a whole number to JSON Schema, and so to clients that are checked by the description.
#[test]
fn whole_numbers_may_be_written_with_a_point() {
    let request =
        completed(json!({"prompt": [1.0, 2], "seed": -2.0, "top_k": 5.0, "priority": -3.0, "n": 2.0})).unwrap();
    let RequestInput::Prompts { prompts, .. } = &request.input else { panic!("{request:?}") };
    assert_eq!(prompts, &[Prompt::Tokens(vec![1, 2])]);
    let w = &request.params;
    assert_eq!((w.sampling.seed, w.sampling.top_k, w.priority, w.choices), (Some(-2_i64 as u64), 5, -3, 2));
    for (changes, param) in [
        (json!({"prompt": [1.5]}), "prompt[0]"),
        (json!({"prompt": [-1.0]}), "prompt[0]"),
        (json!({"prompt": "a", "seed": 0.5}), "seed"),
        (json!({"prompt": "a", "top_k": 1e300}), "top_k"),
        (json!({"prompt": "a", "priority": 1.5}), "priority"),
    ] {
        assert_eq!(completed(changes.clone()).expect_err(&changes.to_string()).param.as_deref(), Some(param));
    }
}

/// Fields that are of no use beside a text are looked at all the same.
#[test]
fn a_text_to_tokens_has_no_wrong_fields_beside_it() {
    let defaults = Sampling::default();
    let model = ModelDefaults { defaults: &defaults, vocab: 100 };
    let read = |body: Value| parse_tokenize(&mut Fields::parse(body.to_string().as_bytes()).unwrap(), model);
    assert!(matches!(read(json!({"prompt": "a", "tools": []})).unwrap(), TokenizeRequest::Text { special: true, .. }));
    for (body, param) in [
        (json!({"prompt": "a", "continue_final_message": {}}), "continue_final_message"),
        (json!({"prompt": "a", "function_call": 5}), "function_call"),
        (json!({"prompt": "a", "thinking": {"type": "enabled", "budget_tokens": "x"}}), "thinking.budget_tokens"),
        (json!({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}), "messages"),
        (json!({}), "prompt"),
        (json!({"content": 5}), "content"),
        (json!({"content": "a", "prompt": "a"}), "prompt"),
        (json!({"content": "a", "messages": [{"role": "user", "content": "a"}]}), "messages"),
        (json!({"content": "a", "with_pieces": 1}), "with_pieces"),
        (json!({"prompt": "a", "add_special": true}), "add_special"),
        (json!({"content": "a", "add_special": true, "parse_special": false}), "parse_special"),
    ] {
        assert_eq!(read(body.clone()).expect_err(&body.to_string()).param.as_deref(), Some(param), "{body}");
    }
}

/// The description of the API names every field that is asked for, and no other.
#[test]
fn every_field_is_described() {
    let described: Value = serde_json::from_str(crate::OPENAPI).unwrap();
    let defaults = Sampling::default();
    let model = ModelDefaults { defaults: &defaults, vocab: 100 };
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi", "tokens": [1],
        "query": "Hi", "documents": ["Hi"], "input_file_id": "f", "endpoint": "/v1/completions", "completion_window": "24h", "input_prefix": "a", "input_suffix": "b"});
    let taken = |mut body: Value, absent: &str, validate: &dyn Fn(&mut Fields)| {
        body.as_object_mut().unwrap().remove(absent);
        let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
        validate(&mut fields);
        fields.taken.into_iter().map(str::to_string).collect::<std::collections::BTreeSet<String>>()
    };
    let request = |validate: Validate| move |fields: &mut Fields| drop(validate(fields, model).unwrap());
    for (schema, absent, validate) in [
        ("Chat", "", &request(chat::parse) as &dyn Fn(&mut Fields)),
        ("Completion", "", &request(completions::parse)),
        ("Responses", "prompt", &request(responses::parse)),
        ("Messages", "", &request(messages::parse)),
        ("OllamaChat", "", &request(ollama::parse_chat)),
        ("OllamaGenerate", "", &request(ollama::parse_generate)),
        ("LlamaCompletion", "", &request(llama_cpp::parse_completion)),
        ("Infill", "", &request(llama_cpp::parse_infill)),
        ("Tokenize", "prompt", &|fields| drop(parse_tokenize(fields, model).unwrap())),
        ("Embeddings", "", &|fields| drop(embeddings::parse(fields, embeddings::Form::OpenAi, model).unwrap())),
        ("OllamaEmbed", "", &|fields| drop(embeddings::parse(fields, embeddings::Form::Ollama, model).unwrap())),
        ("OllamaEmbedOne", "", &|fields| drop(embeddings::parse(fields, embeddings::Form::OllamaOne, model).unwrap())),
        ("Rerank", "", &|fields| drop(rerank::parse(fields).unwrap())),
        ("NewBatch", "", &|fields| drop(batches::parse(fields).unwrap())),
        ("NewMessageBatch", "", &|fields| drop(message_batches::parse(fields))),
        ("Detokenize", "", &|fields| drop(parse_detokenize(fields, model, 9).unwrap())),
    ] {
        let properties = described["components"]["schemas"][schema]["properties"].as_object().unwrap();
        let named: std::collections::BTreeSet<String> = properties.keys().cloned().collect();
        assert_eq!(taken(body.clone(), absent, validate), named, "{schema}");
    }
}
