//! Ollama's bodies: what they become, and what is refused in its own words.

use text::chat::Role;

use super::*;

fn chatted(body: Value) -> Result<GenerateRequest, ApiError> {
    asked(ollama::parse_chat, body.to_string().as_bytes())
}

fn generated(body: Value) -> Result<GenerateRequest, ApiError> {
    asked(ollama::parse_generate, body.to_string().as_bytes())
}

#[test]
fn a_conversation_with_options() {
    let call = json!({"function": {"name": "go", "arguments": {"a": 1}}});
    let request = chatted(json!({
        "model": "m:latest",
        "messages": [
            {"role": "user", "content": "Hi", "images": []},
            {"role": "assistant", "thinking": "Hm", "tool_calls": [call]},
            {"role": "tool", "content": "3", "tool_name": "go"},
        ],
        "options": {
            "temperature": 0.5, "top_k": 7, "repeat_penalty": 1.5, "num_predict": 9, "stop": ["x"], "seed": 3, "num_ctx": 4096, "mirostat": 0,
        },
        "format": {"type": "object"}, "think": false, "keep_alive": "5m",
        "tools": [{"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}],
    }))
    .unwrap();
    let params = &request.params;
    assert!(params.stream, "streams are the default");
    let sampling = &params.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.repetition_penalty), (0.5, 7, 1.5));
    assert_eq!((params.tokens_max, sampling.seed, &params.stop), (Some(9), Some(3), &vec!["x".to_string()]));
    assert_eq!(
        (params.model.as_deref(), &params.unknown[..]),
        (Some("m:latest"), &["options.mirostat".to_string()][..])
    );
    assert_eq!(request.response_format, ResponseFormat::Schema { schema: json!({"type": "object"}), strict: false });
    assert_eq!((&request.template["enable_thinking"], request.tools.list.len()), (&json!(false), 1));
    let RequestInput::Conversation { messages, continues } = request.input else { panic!("a conversation") };
    assert!(!continues);
    assert_eq!(
        (messages[1].reasoning_content.as_deref(), messages[1].tool_calls[0].arguments.as_str()),
        (Some("Hm"), r#"{"a":1}"#)
    );
    assert_eq!((messages[2].role, messages[2].name.as_deref()), (Role::Tool, Some("go")));
}

#[test]
fn a_prompt_in_its_forms() {
    let input = |body: Value| generated(body).unwrap().input;
    let RequestInput::Conversation { messages, .. } = input(json!({"prompt": "Hi", "system": "Be kind."})) else {
        panic!("a conversation")
    };
    assert_eq!(messages.iter().map(|m| m.text()).collect::<Vec<_>>(), ["Be kind.", "Hi"]);
    for (body, wanted) in
        [(json!({"prompt": "a", "raw": true}), None), (json!({"prompt": "a", "suffix": "b"}), Some("b"))]
    {
        let RequestInput::Prompts { prompts, gap, echo: false } = input(body) else { panic!("a prompt") };
        assert_eq!(
            (prompts, gap.as_ref().map(|gap| gap.suffix.as_str())),
            (vec![Prompt::Text("a".to_string())], wanted)
        );
    }
    for limit in [-2, -1, 0] {
        let request =
            generated(json!({"prompt": "a", "options": {"num_predict": limit, "seed": -1}, "format": ""})).unwrap();
        assert_eq!((request.params.tokens_max, request.params.sampling.seed), (None, None));
    }
    assert_eq!(generated(json!({"prompt": "a", "format": "json"})).unwrap().response_format, ResponseFormat::Object);
    let whole = generated(json!({"prompt": "a", "stream": false, "think": "low"})).unwrap();
    assert!(!whole.params.stream && whole.template["reasoning_effort"] == "low");
}

#[test]
fn an_error_names_the_field_that_was_sent() {
    let user = json!([{"role": "user", "content": "a"}]);
    for (body, param) in [
        (json!({"messages": [{"role": "user", "content": "a", "images": ["aGk="]}]}), "messages[0].images"),
        (json!({"messages": [{"role": "bot", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": [5]}), "messages[0]"),
        (json!({"messages": user, "options": {"temperature": 9}}), "options.temperature"),
        (json!({"messages": user, "options": {"repeat_penalty": 0}}), "options.repeat_penalty"),
        (json!({"messages": user, "options": {"num_predict": "many"}}), "options.num_predict"),
        (json!({"messages": user, "options": []}), "options"),
        (json!({"messages": user, "format": "xml"}), "format"),
        (json!({"messages": user, "think": 3}), "think"),
    ] {
        let error = chatted(body.clone()).expect_err(&body.to_string());
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert!(error.message.starts_with(param), "{}", error.message);
    }
    for (body, param) in [
        (json!({"prompt": "a", "images": ["aGk="]}), "images"),
        (json!({"prompt": "a", "template": "{{ .Prompt }}"}), "template"),
        (json!({"prompt": "a", "context": [1]}), "context"),
        (json!({"prompt": "a", "system": "b", "raw": true}), "system"),
    ] {
        assert_eq!(generated(body.clone()).expect_err(&body.to_string()).param.as_deref(), Some(param), "{body}");
    }
}
