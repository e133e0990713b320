//! Tool calls in the prompt: how tools are described, which syntax the reply must use, and the plain-text fallback for templates without tools.

use serde_json::{Value, json};
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
    /// The template writes calls and results, but not which tools there are.
    untold: bool,
    /// There are tools, and they may be called.
    pub enabled: bool,
}

/// Whether there are tools that may be called.
pub fn enabled(tools: &Tools) -> bool {
    !tools.list.is_empty() && tools.choice != ToolChoice::None
}

impl ToolPrompt {
    /// `takes_tools`: the template tells the model of tools.
    pub fn new(format: Format, takes_tools: bool, tools: &Tools) -> ToolPrompt {
        let enabled = enabled(tools);
        let template_lacks_tools = !format.calls();
        let tells = template_lacks_tools || takes_tools;
        let format = if template_lacks_tools && enabled { Format::fallback() } else { format };
        ToolPrompt { format, template_lacks_tools, untold: enabled && !tells, enabled }
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

    /// Tells the model of its tools in the system message, in the words of DeepSeek's model cards and with the markers of this format, where the
    /// template says nothing of them. `escape` makes the client's own texts harmless; the markers stay what they are.
    pub fn tell_untold_tools(&self, tools: &Tools, messages: &mut Vec<Value>, escape: &dyn Fn(&mut Value)) {
        let Some(syntax) = self.format.syntax().filter(|_| self.untold) else { return };
        let mut text = String::from("## Tools\nYou have access to the following tools:\n");
        for tool in &tools.list {
            let mut said =
                json!([tool.name, tool.description.as_deref().unwrap_or_default(), tool.parameters.to_string()]);
            escape(&mut said);
            let part = |i: usize| said[i].as_str().unwrap_or_default();
            text.push_str(&format!("\n### {}\nDescription: {}\n\nParameters: {}\n", part(0), part(1), part(2)));
        }
        let (open, begin, middle, end, close) = (syntax.open, syntax.begin, syntax.middle, syntax.end, syntax.close);
        text.push_str(&format!(
            "\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n\
             {open}{begin}tool_call_name{middle}tool_call_arguments{end}{close}\n\n\
             Where:\n\n- `tool_call_name` must be an exact match to one of the available tools\n\
             - `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        ));
        match messages.first_mut().filter(|m| m["role"] == "system") {
            Some(system) => {
                let before = system["content"].as_str().unwrap_or_default();
                system["content"] = format!("{before}\n\n{text}").trim_start().into();
            }
            None => messages.insert(0, json!({"role": "system", "content": text})),
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
        ToolPrompt::new(Format::by_name(name).unwrap(), true, tools)
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
    fn tools_that_a_template_keeps_to_itself_are_told_in_the_familys_own_form() {
        let tools = tools(ToolChoice::Auto, false);
        let format = Format::by_name("deepseek-v3.1").unwrap();
        let tell = |takes_tools: bool, mut messages: Vec<Value>| {
            let escape = |value: &mut Value| {
                value
                    .as_array_mut()
                    .unwrap()
                    .iter_mut()
                    .for_each(|text| *text = format!("~{}", text.as_str().unwrap()).into());
            };
            ToolPrompt::new(format, takes_tools, &tools).tell_untold_tools(&tools, &mut messages, &escape);
            messages
        };
        let asked = || json!({"role": "user", "content": "Go."});
        assert_eq!(tell(true, vec![asked()]), [asked()]);
        let told = tell(false, vec![asked()]);
        let system = told[0]["content"].as_str().unwrap();
        assert!(system.starts_with("## Tools\nYou have") && system.contains("### ~go\nDescription: ~\n"), "{system}");
        let form = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
        assert!(system.contains(form), "{system}");
        let told = tell(false, vec![json!({"role": "system", "content": "Be brief."}), asked()]);
        assert!(told.len() == 2 && told[0]["content"].as_str().unwrap().starts_with("Be brief.\n\n## Tools"));
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
