//! What agents and clients of other servers send beside what this server has: left out, told in a note, or refused by name.

use serde_json::{Value, json};

use super::{chatted, completed, messaged, responded, said, tool};
use crate::request::{GenerateRequest, ResponseFormat, ToolChoice};

fn names(request: &GenerateRequest) -> Vec<&str> {
    request.tools.list.iter().map(|tool| tool.name.as_str()).collect()
}

#[test]
fn tools_that_cannot_be_called_are_left_out_and_named() {
    let patch = json!({"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark"}});
    let shell = json!({"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": false});
    let search = json!({"type": "web_search", "external_web_access": false});
    let mcp = json!({"type": "mcp", "server_label": "docs", "server_url": "https://example.com"});
    let inner = json!({"type": "function", "name": "find", "parameters": {"type": "object"}});
    let space = json!({"type": "namespace", "name": "mcp__files", "description": "x", "tools": [inner, search]});
    let given = json!([shell, {"type": "local_shell"}, patch, search, search, mcp, space, {"type": "computer_use"}]);
    let request = responded(json!({ "tools": given })).unwrap();
    assert_eq!(names(&request), ["shell", "mcp__files__find"]);
    assert_eq!(request.tools.list[1].field, "tools[6].tools[0].parameters");
    let left_out = ["local_shell", "custom:apply_patch", "web_search", "mcp", "computer_use"];
    assert_eq!(request.params.ignored, left_out);
    assert!(request.params.unknown.is_empty());
    assert_eq!(request.repeated["tools"][1], json!({"type": "local_shell"}));
    let allowed =
        json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "shell"}, search]});
    let request = responded(json!({ "tools": given, "tool_choice": allowed })).unwrap();
    assert_eq!((names(&request), &request.tools.choice), (vec!["shell"], &ToolChoice::Required));
    let request = chatted(json!({"tools": [tool("a"), patch], "tool_choice": "required"})).unwrap();
    assert_eq!((names(&request), &request.params.ignored[..]), (vec!["a"], &["custom:apply_patch".to_string()][..]));
    let server = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 5});
    let own = json!({"name": "look", "input_schema": {"type": "object"}});
    let body = json!({"tools": [server, own], "tool_choice": {"type": "any"}, "mcp_servers": [{"type": "url"}]});
    let request = messaged(body).unwrap();
    assert_eq!(names(&request), ["look"]);
    assert_eq!(request.params.ignored, ["web_search_20250305:web_search", "mcp_servers"]);
    // Two functions that would have one name.
    let twice = json!({"tools": [tool("s__a"), {"type": "namespace", "name": "s", "tools": [tool("a")]}]});
    assert_eq!(chatted(twice).unwrap_err().param.as_deref(), Some("tools[1].tools[0].function.name"));
    // A bound holds for namespaces too.
    let many: Vec<Value> = (0..513).map(|i| tool(&format!("t{i}"))).collect();
    let many = json!({"tools": [{"type": "namespace", "name": "s", "tools": many}]});
    assert!(chatted(many).unwrap_err().message.contains("at most 512 tools"));
    let long: Vec<Value> = (0..100).map(|i| json!({"type": format!("{i}{}", "x".repeat(1000))})).collect();
    let ignored = chatted(json!({ "tools": long })).unwrap().params.ignored;
    assert!(ignored.len() == 32 && ignored.iter().all(|name| name.len() == 64));
}

#[test]
fn items_of_other_tools_do_not_end_a_conversation() {
    let request = responded(json!({"input": [
        {"role": "user", "content": "Go."},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": null, "encrypted_content": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
        {"type": "local_shell_call", "call_id": "c2", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "c2", "output": "a.txt"},
        {"type": "shell_call_output", "call_id": "c3", "output": [{"stdout": "b", "stderr": "c", "outcome": {"type": "exit"}}]},
        {"type": "mcp_call", "id": "m1", "server_label": "s", "name": "find", "arguments": "{\"a\":1}", "output": "found"},
        {"type": "mcp_list_tools", "id": "l1", "server_label": "s", "tools": []},
        {"type": "code_interpreter_call", "id": "i1", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
        {"type": "computer_call_output", "call_id": "c4", "output": {"type": "computer_screenshot", "image_url": "data:"}},
        {"type": "function_call", "call_id": "c5", "namespace": "mcp__files__", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c5", "output": [
            {"type": "input_text", "text": "see "}, {"type": "input_image", "image_url": "data:"}]}
    ]}))
    .unwrap();
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let calls = |calls: Value| json!({"role": "assistant", "content": "", "tool_calls": calls});
    let result = |id: &str, text: &str| json!({"role": "tool", "content": text, "tool_call_id": id});
    let shell = "{\"action\":{\"type\":\"exec\",\"command\":[\"ls\"]}}";
    let note = |what: &str| format!("[{what} left out: this model reads text only]");
    let expected = json!([
        {"role": "user", "content": "Go."},
        calls(json!([call("c1", "apply_patch", "{\"input\":\"*** Begin\"}")])),
        result("c1", "Done"),
        calls(json!([call("c2", "local_shell", shell)])),
        result("c2", "a.txt"),
        result("c3", "b\nc"),
        calls(json!([call("m1", "find", "{\"a\":1}")])),
        result("m1", "found"),
        {"role": "assistant", "content": "[code_interpreter_call: 2]"},
        result("c4", &note("screenshot")),
        calls(json!([call("c5", "mcp__files__find", "{}")])),
        result("c5", &format!("see {}", note("image")))
    ]);
    assert_eq!(Value::from(said(&request)), expected);
    assert_eq!(request.params.ignored, ["web_search_call", "mcp_list_tools"]);
    let request = messaged(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, {"type": "text", "text": "b"}]}]}))
    .unwrap();
    assert_eq!(said(&request)[1], json!({"role": "assistant", "content": "b"}));
    assert_eq!(request.params.ignored, ["server_tool_use", "web_search_tool_result"]);
}

#[test]
fn media_in_results_are_told_and_in_messages_refused() {
    let note = "[image left out: this model reads text only]";
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
    let document = json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}});
    let pdf = json!({"type": "document", "source": {"type": "base64", "data": "AAAA"}});
    let found = json!({"type": "search_result", "source": "u", "content": [{"type": "text", "text": "found"}]});
    let content = json!([{"type": "text", "text": "a "}, image, document, pdf, found, {"type": "tool_reference"}]);
    let result = json!([{"type": "tool_result", "tool_use_id": "t", "content": content}]);
    let request = messaged(json!({"messages": [{"role": "user", "content": result}]})).unwrap();
    let pdf = note.replace("image", "document");
    let other = note.replace("image", "attachment");
    assert_eq!(said(&request)[0]["content"], format!("a {note}plain{pdf}found{other}"));
    let url = json!({"type": "image_url", "image_url": {"url": "data:"}});
    let user = json!({"role": "user", "content": "a"});
    let request =
        chatted(json!({"messages": [user, {"role": "tool", "tool_call_id": "t", "content": [url]}]})).unwrap();
    assert_eq!(said(&request)[1]["content"], note);
    let bad = chatted(json!({"messages": [user, {"role": "tool", "tool_call_id": "t", "content": [5]}]})).unwrap_err();
    assert_eq!(bad.param.as_deref(), Some("messages[1].content[0].type"));
    let shown = chatted(json!({"messages": [{"role": "user", "content": [url]}]})).unwrap_err();
    assert_eq!(shown.param.as_deref(), Some("messages[0].content[0].type"));
}

#[test]
fn constraints_of_other_servers_are_taken_or_refused_by_their_names() {
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    let of = |schema: &Value| ResponseFormat::Schema { schema: schema.clone(), strict: false };
    let text = |text: &str| text.to_string();
    for (field, value, expected) in [
        ("guided_json", schema.clone(), of(&schema)),
        ("guided_json", schema.to_string().into(), of(&schema)),
        ("json_schema", schema.to_string().into(), of(&schema)),
        ("guided_choice", json!(["a", "b"]), ResponseFormat::Choice(vec![text("a"), text("b")])),
        ("guided_regex", "a+".into(), ResponseFormat::Regex(text("a+"))),
        ("regex", "a+".into(), ResponseFormat::Regex(text("a+"))),
        ("guided_grammar", "start: \"a\"".into(), ResponseFormat::Grammar(text("start: \"a\""))),
        ("grammar", "start: \"a\"".into(), ResponseFormat::Grammar(text("start: \"a\""))),
    ] {
        for request in [chatted(json!({ (field): value })), completed(json!({"prompt": "a", (field): value}))] {
            let request = request.unwrap();
            assert_eq!((&request.response_format, request.format_field.as_str()), (&expected, field));
        }
    }
    let request = chatted(json!({"response_format": {"type": "json_object", "schema": schema}})).unwrap();
    assert_eq!((&request.response_format, request.format_field.as_str()), (&of(&schema), "response_format.schema"));
    for (body, param, code) in [
        (json!({"grammar": "root ::= \"a\""}), "grammar", "unsupported_field"),
        (json!({"guided_grammar": "root ::= \"a\""}), "guided_grammar", "unsupported_field"),
        (json!({"ebnf": "root ::= \"a\""}), "ebnf", "unsupported_field"),
        (json!({"structured_outputs": {"grammar": "root ::= x"}}), "structured_outputs.grammar", "unsupported_field"),
        (json!({"guided_json": "{"}), "guided_json", "invalid_value"),
        (json!({"guided_json": 5}), "guided_json", "invalid_value"),
        (json!({"guided_choice": []}), "guided_choice", "invalid_value"),
        (json!({"guided_choice": [1]}), "guided_choice", "invalid_value"),
        (json!({"regex": ["a"]}), "regex", "invalid_value"),
        (json!({"guided_json": {}, "regex": "a"}), "regex", "invalid_value"),
        (json!({"response_format": {"type": "json_object"}, "guided_json": {}}), "guided_json", "invalid_value"),
    ] {
        let refused = chatted(body.clone()).expect_err(&body.to_string());
        assert_eq!((refused.param.as_deref(), refused.code), (Some(param), code), "{refused:?}");
    }
}

/// The first system block of Claude Code differs from session to session: no prompt behind it would be found in the cache.
#[test]
fn the_billing_header_of_claude_code_is_not_part_of_the_prompt() {
    let header = "x-anthropic-billing-header: cc_version=2.1.197.84c; cc_entrypoint=sdk-cli;";
    let rest = "You are a Claude agent. x-anthropic-billing-header: stays here.";
    let blocks = json!([{"type": "text", "text": header}, {"type": "text", "text": rest}]);
    for system in [blocks, json!(format!("{header}\n{rest}")), json!(rest)] {
        let request = messaged(json!({ "system": system })).unwrap();
        assert_eq!(said(&request)[0]["content"], rest, "{system}");
    }
    assert_eq!(messaged(json!({"system": [{"text": 5}]})).unwrap_err().param.as_deref(), Some("system[0].type"));
}
