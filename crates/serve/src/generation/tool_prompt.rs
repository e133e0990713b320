//! Tool calls in the prompt: how tools are described, which syntax the reply must use, and the plain-text fallback for templates without tools.

use serde_json::Value;
use text::chat::{Message, Role};
use text::grammar::{self, CallBody, CallSyntax};
use text::reply::Format;

use crate::error::ApiError;
use crate::request::{ResponseFormat, Tool, ToolChoice, Tools};

/// How tool calls are written in one conversation.
pub struct ToolPrompt {
    pub format: Format,
    /// Tools and calls are described in plain text.
    template_lacks_tools: bool,
    /// There are tools, and they may be called.
    pub enabled: bool,
}

impl ToolPrompt {
    pub fn new(format: Format, tools: &Tools) -> ToolPrompt {
        let enabled = !tools.list.is_empty() && tools.choice != ToolChoice::None;
        let template_lacks_tools = !format.calls();
        let format = if template_lacks_tools && enabled { Format::fallback() } else { format };
        ToolPrompt { format, template_lacks_tools, enabled }
    }

    /// Tools for the template, if it supports them.
    pub fn template_tools(&self, tools: &Tools) -> Option<Value> {
        (self.enabled && !self.template_lacks_tools).then(|| tools.list.iter().map(Tool::json).collect())
    }

    /// Describes tools, calls and results in plain text, if the template does not support tools.
    pub fn describe_tools(&self, tools: &Tools, messages: &mut Vec<Message>) {
        if !self.template_lacks_tools {
            return;
        }
        messages.iter_mut().for_each(to_plain_text);
        if self.enabled {
            let tool_description = tool_description(tools);
            match messages.first_mut().filter(|m| m.role == Role::System) {
                Some(system) => {
                    let text = format!("{}\n\n{tool_description}", system.text());
                    system.content = Some(text.trim_start().to_string());
                }
                None => messages.insert(0, Message::new(Role::System, tool_description)),
            }
        }
    }

    /// Grammar of the calls, if they are required or must match their schemas.
    ///
    /// # Errors
    /// Required calls in a format that cannot be enforced.
    fn calls_constraint(&self, tools: &Tools, always: bool) -> Result<Option<grammar::Constraint>, ApiError> {
        let required = matches!(tools.choice, ToolChoice::Required | ToolChoice::Named(_));
        let bound = always || required || !tools.parallel || tools.list.iter().any(|t| t.strict);
        if !self.enabled || !bound {
            return Ok(None);
        }
        let Some(syntax) = self.format.syntax().filter(|s| s.json) else {
            if !required {
                return Ok(None);
            }
            let message = format!(
                "tool_choice asks for a call; how this model writes calls ({}) cannot be forced: send auto",
                self.format.name()
            );
            return Err(ApiError::bad("unsupported_value", message).of("tool_choice"));
        };
        let one = |t: &Tool| grammar::Tool { name: t.name.clone(), parameters: t.parameters.clone(), strict: t.strict };
        Ok(Some(grammar::Constraint::Calls {
            tools: tools.list.iter().map(one).collect(),
            required: required || always,
            one_only: !tools.parallel,
            named: if let ToolChoice::Named(name) = &tools.choice { Some(name.clone()) } else { None },
            syntax: CallSyntax {
                begin: syntax.open.to_string(),
                before_call: syntax.begin.to_string(),
                body: CallBody::NameThenArguments(syntax.middle.to_string()),
                after_call: syntax.end.to_string(),
                between: syntax.between.to_string(),
                end: syntax.close.to_string(),
            },
        }))
    }

    /// Constraint of the output. With tools and a response format it is either calls or such text, and only calls if they are
    /// required.
    ///
    /// # Errors
    /// Required calls in a format that cannot be enforced.
    pub fn constraint(
        &self,
        tools: &Tools,
        response_format: &ResponseFormat,
    ) -> Result<Option<grammar::Constraint>, ApiError> {
        let response_format = format_constraint(response_format);
        let forced = matches!(tools.choice, ToolChoice::Required | ToolChoice::Named(_));
        let calls = self.calls_constraint(tools, response_format.is_some())?;
        Ok(match (calls, response_format) {
            (Some(calls), Some(response_format)) if !forced => {
                Some(grammar::Constraint::Either(Box::new(calls), Box::new(response_format)))
            }
            (calls, response_format) => calls.or(response_format),
        })
    }
}

fn format_constraint(response_format: &ResponseFormat) -> Option<grammar::Constraint> {
    match response_format {
        ResponseFormat::Text => None,
        ResponseFormat::Object => Some(grammar::Constraint::JsonObject),
        ResponseFormat::Schema { schema, strict } => {
            Some(grammar::Constraint::JsonSchema { schema: schema.clone(), strict: *strict })
        }
        ResponseFormat::Regex(regex) => Some(grammar::Constraint::Regex(regex.clone())),
        ResponseFormat::Choice(choices) => Some(grammar::Constraint::Choice(choices.clone())),
        ResponseFormat::Grammar(lark) => Some(grammar::Constraint::Lark(lark.clone())),
    }
}

fn tool_description(tools: &Tools) -> String {
    let list: Vec<String> = tools.list.iter().map(|t| t.json()["function"].to_string()).collect();
    format!(
        "You can call these functions, each given by name, description and the JSON schema of its arguments:\n{}\n\n\
         To call one, write:\n<tool_call>\n{{\"name\": NAME, \"arguments\": {{...}}}}\n</tool_call>",
        list.join("\n")
    )
}

/// Rewrites a message with calls, or a tool result, to plain text.
fn to_plain_text(message: &mut Message) {
    if message.role == Role::Tool {
        let text = format!("<tool_response>\n{}\n</tool_response>", message.text());
        *message = Message::new(Role::User, text);
        return;
    }
    let mut parts: Vec<String> = message.content.take().into_iter().filter(|text| !text.is_empty()).collect();
    for call in std::mem::take(&mut message.tool_calls) {
        let (name, arguments) = (Value::String(call.name), call.arguments);
        parts.push(format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"));
    }
    message.content = Some(parts.join("\n"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use text::chat::ToolCall;

    use super::*;

    fn tools(choice: ToolChoice, strict: bool) -> Tools {
        let tool = Tool {
            name: "go".to_string(),
            description: None,
            parameters: json!({"type": "object"}),
            field: String::new(),
            strict,
            namespace: None,
        };
        Tools { list: vec![tool], choice, parallel: true, older: false }
    }

    fn of(name: &str, tools: &Tools) -> ToolPrompt {
        ToolPrompt::new(Format::by_name(name).unwrap(), tools)
    }

    #[test]
    fn a_template_that_knows_no_calls_gets_them_as_text() {
        let tools = tools(ToolChoice::Auto, false);
        let tool_prompt = of("plain", &tools);
        assert!(tool_prompt.enabled && tool_prompt.template_tools(&tools).is_none());
        let call = ToolCall { id: "1".to_string(), name: "go".to_string(), arguments: "{\"a\": 1}".to_string() };
        let mut messages = vec![
            Message::new(Role::User, "Go."),
            Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
            Message { tool_call_id: Some("1".to_string()), ..Message::new(Role::Tool, "Gone.") },
        ];
        tool_prompt.describe_tools(&tools, &mut messages);
        assert_eq!(messages[0].role, Role::System);
        assert!(messages[0].text().contains("{\"name\":\"go\""));
        let said = "<tool_call>\n{\"name\": \"go\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        assert_eq!(messages[2], Message::new(Role::Assistant, said));
        assert_eq!(messages[3], Message::new(Role::User, "<tool_response>\nGone.\n</tool_response>"));
    }

    #[test]
    fn what_is_forced_follows_from_the_choice_and_the_shape() {
        let text = ResponseFormat::Text;
        let auto = tools(ToolChoice::Auto, false);
        assert_eq!(of("hermes", &auto).constraint(&auto, &text).unwrap(), None);
        let strict = tools(ToolChoice::Auto, true);
        let forced = |tools: &Tools, response_format: &ResponseFormat| {
            of("hermes", tools).constraint(tools, response_format).unwrap()
        };
        assert!(matches!(forced(&strict, &text), Some(grammar::Constraint::Calls { required: false, .. })));
        let required = tools(ToolChoice::Required, false);
        assert!(matches!(
            forced(&required, &ResponseFormat::Object),
            Some(grammar::Constraint::Calls { required: true, .. })
        ));
        assert!(matches!(forced(&auto, &ResponseFormat::Object), Some(grammar::Constraint::Either(..))));
        let none = tools(ToolChoice::None, true);
        assert_eq!(forced(&none, &ResponseFormat::Object), Some(grammar::Constraint::JsonObject));
        assert!(!of("hermes", &none).enabled);
        // Calls in DSML have no grammar.
        let refused = of("deepseek-v4", &required).constraint(&required, &text).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("tool_choice"));
        assert_eq!(of("deepseek-v4", &strict).constraint(&strict, &text).unwrap(), None);
    }
}
