//! Bounds of requests: the last value that is taken and the first that is refused, and which of two fields counts.

use super::*;
use crate::api::fields::shown;

fn taken_and_refused(validate: fn(Value) -> Result<GenerateRequest, ApiError>, cases: Vec<(Value, Value, &str)>) {
    for (taken, refused, param) in cases {
        if let Err(error) = validate(taken) {
            panic!("{param}: {error:?}");
        }
        let error = validate(refused).expect_err(param);
        assert_eq!(error.param.as_deref(), Some(param), "{error:?}");
    }
}

#[test]
fn the_last_value_is_taken_and_the_next_is_refused() {
    let user = json!({"role": "user", "content": "a"});
    let many = |n: usize| json!({ "messages": vec![user.clone(); n] });
    let tools = |n: usize| json!({"tools": (0..n).map(|i| tool(&format!("t{i}"))).collect::<Vec<_>>()});
    let named = |n: usize| json!({"tools": [tool(&"n".repeat(n))]});
    let budget = |tokens: u64| json!({"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": tokens}});
    taken_and_refused(
        chatted,
        vec![
            (json!({"temperature": 2}), json!({"temperature": 2.01}), "temperature"),
            (json!({"temperature": 0}), json!({"temperature": -0.01}), "temperature"),
            (json!({"n": 16}), json!({"n": 17}), "n"),
            (json!({"n": 1}), json!({"n": 0}), "n"),
            (json!({"n": 1}), json!({"n": 1e15}), "n"),
            (json!({"priority": -100}), json!({"priority": -101}), "priority"),
            (json!({"priority": 100}), json!({"priority": 101}), "priority"),
            (json!({"user_id": "x".repeat(512)}), json!({"user_id": "x".repeat(513)}), "user_id"),
            (many(1 << 14), many((1 << 14) + 1), "messages"),
            (tools(512), tools(513), "tools"),
            (named(128), named(129), "tools[0].function.name"),
            (budget(8), budget(9), "thinking.budget_tokens"),
        ],
    );
    taken_and_refused(messaged, vec![(many(1 << 14), many((1 << 14) + 1), "messages")]);
    let data = |fields: usize, bytes: usize| {
        let fields = (0..fields).map(|i| (i.to_string(), Value::from("x".repeat(bytes))));
        json!({"metadata": fields.collect::<Map<_, _>>()})
    };
    let input = |n: usize| json!({ "input": vec![user.clone(); n] });
    taken_and_refused(
        responded,
        vec![
            (data(16, 512), data(16, 513), "metadata"),
            (data(16, 512), data(17, 512), "metadata"),
            (input(1), input(0), "input"),
            (input(1 << 14), input((1 << 14) + 1), "input"),
        ],
    );
    let prompts = |n: usize, each: usize| json!({"prompt": vec!["a"; n], "n": each});
    taken_and_refused(
        completed,
        vec![(prompts(256, 1), prompts(257, 1), "prompt"), (prompts(64, 4), prompts(65, 4), "n")],
    );
    let same = json!({"prompt": "a", "n": 2, "best_of": 2, "stream": true});
    assert!(completed(same).is_ok());
    let defaults = Sampling::default();
    let ids = |n: usize| {
        let body = json!({"tokens": vec![1; n]}).to_string();
        parse_detokenize(
            &mut Fields::parse(body.as_bytes()).unwrap(),
            ModelDefaults { defaults: &defaults, vocab: 100 },
            9,
        )
    };
    assert_eq!(ids(9).unwrap().len(), 9);
    assert_eq!(ids(10).unwrap_err().param.as_deref(), Some("tokens"));
}

/// Errors repeat what is short and count what is long.
#[test]
fn values_are_shown_up_to_a_length() {
    assert_eq!(shown(&json!(vec![1; 8])), "[1,1,1,1,1,1,1,1]");
    assert_eq!(shown(&json!(vec![1; 9])), "an array of 9 items");
    let fields = |n: usize| Value::from((0..n).map(|i| (i.to_string(), 1.into())).collect::<Map<_, _>>());
    assert!(shown(&fields(8)).starts_with("{\"0\":1,"));
    assert_eq!(shown(&fields(9)), "an object of 9 fields");
    assert_eq!(shown(&"x".repeat(98).into()), format!("\"{}\"", "x".repeat(98)));
    assert_eq!(shown(&"x".repeat(99).into()), format!("\"{}…", "x".repeat(99)));
    let unknown: Map<_, _> = (0..70).map(|i| (format!("u{i}"), 1.into())).collect();
    assert_eq!(chatted(Value::Object(unknown)).unwrap().params.unknown.len(), 64);
}

#[test]
fn what_goes_with_what() {
    let turns = |first: Value, more: Value| {
        let messages = json!([first, {"role": "assistant", "content": "b"}]);
        chatted(json!({ "messages": messages }).as_object().cloned().map_or(Value::Null, |mut map| {
            map.extend(more.as_object().cloned().unwrap_or_default());
            map.into()
        }))
    };
    let (user, begun) =
        (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "a", "prefix": true}));
    let refused = turns(begun.clone(), json!({})).unwrap_err();
    assert_eq!(refused.param.as_deref(), Some("messages[0].prefix"));
    let go_on = json!({"continue_final_message": true, "add_generation_prompt": true});
    assert_eq!(turns(user.clone(), go_on).unwrap_err().param.as_deref(), Some("add_generation_prompt"));
    assert!(continues(&turns(user, json!({"continue_final_message": true, "add_generation_prompt": false})).unwrap()));
    assert!(continues(&chatted(json!({"messages": [begun], "add_generation_prompt": false})).unwrap()));
    let thinking = json!({"max_completion_tokens": 5, "thinking": {"type": "enabled", "budget_tokens": 5}});
    assert!(chatted(thinking).unwrap_err().message.contains("less than max_completion_tokens, which is 5"));
    // The template decides.
    assert!(!messaged(json!({"thinking": {"type": "adaptive"}})).unwrap().template.contains_key("thinking"));
    let empty = messaged(json!({"messages": [{"role": "user", "content": []}]})).unwrap();
    assert_eq!(said(&empty), [json!({"role": "user", "content": ""})]);
    assert_eq!(responded(json!({"top_logprobs": 0})).unwrap().params.log_probabilities, None);
    assert_eq!(responded(json!({"top_logprobs": 1})).unwrap().params.log_probabilities, Some(1));
    let call = json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"});
    let thought = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]});
    let answer = json!({"role": "assistant", "content": "b"});
    let items = responded(json!({"input": [answer, thought, call]})).unwrap();
    assert_eq!(said(&items)[0], json!({"role": "assistant", "content": "b"}));
    assert_eq!((said(&items).len(), &said(&items)[1]["reasoning_content"]), (2, &json!("Hm.")));
    let unused = messaged(json!({"mcp_servers": {"a": 1}})).unwrap_err();
    assert_eq!(unused.param.as_deref(), Some("mcp_servers"));
}

#[test]
fn texts_to_tokens_have_their_defaults() {
    let defaults = Sampling::default();
    let read = |body: Value| {
        let model = ModelDefaults { defaults: &defaults, vocab: 100 };
        parse_tokenize(&mut Fields::parse(body.to_string().as_bytes()).unwrap(), model).unwrap()
    };
    assert!(matches!(
        read(json!({"content": "a"})),
        TokenizeRequest::Content { special: false, named: true, spelled: false, .. }
    ));
    let begun = json!({"messages": [{"role": "assistant", "content": "a", "prefix": true}]});
    assert!(matches!(read(begun), TokenizeRequest::Conversation { request, .. } if continues(&request)));
}
