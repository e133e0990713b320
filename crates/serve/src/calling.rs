//! Calls of functions: what the model is told of them, how it must write them, and how that is done with models whose template knows none.

use serde_json::{Value, json};
use text::grammar::{self, CallBody, CallSyntax};
use text::reply::{Format, for_template};

use crate::ask::{Choice, Shape, Tools};
use crate::problem::Problem;
use crate::validate::Invalid;

/// The format that is used where a template knows none.
const FALLBACK: &str = "hermes";

/// How calls are written in one conversation.
pub struct Calling {
    pub format: Format,
    /// The template knows no calls: they are told and given back as text.
    untaught: bool,
    /// There are tools, and the model may use them.
    pub on: bool,
}

impl Calling {
    pub fn new(format: Format, tools: &Tools) -> Calling {
        let on = !tools.list.is_empty() && tools.choice != Choice::None;
        let untaught = !format.calls();
        let format = if untaught && on { Format::by_name(FALLBACK).unwrap_or(format) } else { format };
        Calling { format, untaught, on }
    }

    /// Tools for the template, where it knows of them.
    pub fn tools(&self, tools: &Tools) -> Option<Value> {
        (self.on && !self.untaught).then(|| tools.list.iter().map(crate::ask::Tool::json).collect())
    }

    /// The history as the template takes it.
    pub fn history(&self, messages: &mut Vec<Value>) {
        if !self.untaught {
            for_template(&self.format, messages);
        }
    }

    /// Tools, calls and results as plain text in the messages, where the template knows of none.
    pub fn told(&self, tools: &Tools, messages: &mut Vec<Value>) {
        if !self.untaught {
            return;
        }
        messages.iter_mut().for_each(as_text);
        if self.on {
            let told = told(tools);
            match messages.first_mut().filter(|m| m["role"] == "system") {
                Some(system) => {
                    let text = system["content"].as_str().unwrap_or_default();
                    system["content"] = format!("{text}\n\n{told}").trim_start().into();
                }
                None => messages.insert(0, json!({"role": "system", "content": told})),
            }
        }
    }

    /// What calls must look like, where the request leaves no choice or wants schemas obeyed.
    ///
    /// # Errors
    /// Calls that must be made in a format that cannot be forced.
    fn constraint(&self, tools: &Tools, always: bool) -> Result<Option<grammar::Constraint>, Problem> {
        let required = matches!(tools.choice, Choice::Required | Choice::Named(_));
        let bound = always || required || !tools.parallel || tools.list.iter().any(|t| t.strict);
        if !self.on || !bound {
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
            let invalid = Invalid { param: Some("tool_choice".into()), message, code: "unsupported_value" };
            return Err(invalid.into());
        };
        let one = |t: &crate::ask::Tool| grammar::Tool {
            name: t.name.clone(),
            parameters: t.parameters.clone(),
            strict: t.strict,
        };
        Ok(Some(grammar::Constraint::Calls {
            tools: tools.list.iter().map(one).collect(),
            required: required || always,
            one_only: !tools.parallel,
            named: if let Choice::Named(name) = &tools.choice { Some(name.clone()) } else { None },
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

    /// All that the answer must obey. With tools and a shape it is either calls or text of that shape, and calls only where one is
    /// asked for.
    ///
    /// # Errors
    /// What cannot be forced.
    pub fn obeyed(&self, tools: &Tools, shape: &Shape) -> Result<Option<grammar::Constraint>, Problem> {
        let shape = shaped(shape);
        let forced = matches!(tools.choice, Choice::Required | Choice::Named(_));
        let calls = self.constraint(tools, shape.is_some())?;
        Ok(match (calls, shape) {
            (Some(calls), Some(shape)) if !forced => {
                Some(grammar::Constraint::Either(Box::new(calls), Box::new(shape)))
            }
            (calls, shape) => calls.or(shape),
        })
    }
}

/// The text's own constraint.
fn shaped(shape: &Shape) -> Option<grammar::Constraint> {
    match shape {
        Shape::Text => None,
        Shape::Object => Some(grammar::Constraint::JsonObject),
        Shape::Schema { schema, strict } => {
            Some(grammar::Constraint::JsonSchema { schema: schema.clone(), strict: *strict })
        }
        Shape::Regex(regex) => Some(grammar::Constraint::Regex(regex.clone())),
        Shape::Choice(choices) => Some(grammar::Constraint::Choice(choices.clone())),
        Shape::Grammar(lark) => Some(grammar::Constraint::Lark(lark.clone())),
    }
}

/// What a model that was taught no calls is told of them.
fn told(tools: &Tools) -> String {
    let list: Vec<String> = tools.list.iter().map(|t| t.json()["function"].to_string()).collect();
    format!(
        "You can call these functions, each given by name, description and the JSON schema of its arguments:\n{}\n\n\
         To call one, write:\n<tool_call>\n{{\"name\": NAME, \"arguments\": {{...}}}}\n</tool_call>",
        list.join("\n")
    )
}

/// A message with calls, or the result of one, as plain text.
fn as_text(message: &mut Value) {
    let text = message["content"].as_str().unwrap_or_default().to_string();
    if message["role"] == "tool" {
        *message = json!({"role": "user", "content": format!("<tool_response>\n{text}\n</tool_response>")});
        return;
    }
    let calls = message.as_object_mut().and_then(|m| m.shift_remove("tool_calls"));
    let mut parts = if text.is_empty() { Vec::new() } else { vec![text] };
    for call in calls.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let (name, arguments) = (&call["function"]["name"], call["function"]["arguments"].as_str().unwrap_or("{}"));
        parts.push(format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"));
    }
    message["content"] = parts.join("\n").into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Tool;

    fn tools(choice: Choice, strict: bool) -> Tools {
        let tool = Tool {
            name: "go".to_string(),
            description: None,
            parameters: json!({"type": "object"}),
            field: String::new(),
            strict,
        };
        Tools { list: vec![tool], choice, parallel: true, older: false }
    }

    fn of(name: &str, tools: &Tools) -> Calling {
        Calling::new(Format::by_name(name).unwrap(), tools)
    }

    #[test]
    fn a_template_that_knows_no_calls_gets_them_as_text() {
        let tools = tools(Choice::Auto, false);
        let calling = of("plain", &tools);
        assert!(calling.on && calling.tools(&tools).is_none());
        let call = json!({"id": "1", "type": "function", "function": {"name": "go", "arguments": "{\"a\": 1}"}});
        let mut messages = vec![
            json!({"role": "user", "content": "Go."}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "1", "content": "Gone."}),
        ];
        calling.told(&tools, &mut messages);
        assert_eq!(messages[0]["role"], "system");
        assert!(messages[0]["content"].as_str().unwrap().contains("{\"name\":\"go\""));
        let said = "<tool_call>\n{\"name\": \"go\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        assert_eq!(messages[2], json!({"role": "assistant", "content": said}));
        assert_eq!(messages[3], json!({"role": "user", "content": "<tool_response>\nGone.\n</tool_response>"}));
    }

    #[test]
    fn what_is_forced_follows_from_the_choice_and_the_shape() {
        let text = Shape::Text;
        let auto = tools(Choice::Auto, false);
        assert_eq!(of("hermes", &auto).obeyed(&auto, &text).unwrap(), None);
        let strict = tools(Choice::Auto, true);
        let forced = |tools: &Tools, shape: &Shape| of("hermes", tools).obeyed(tools, shape).unwrap();
        assert!(matches!(forced(&strict, &text), Some(grammar::Constraint::Calls { required: false, .. })));
        let required = tools(Choice::Required, false);
        assert!(matches!(forced(&required, &Shape::Object), Some(grammar::Constraint::Calls { required: true, .. })));
        assert!(matches!(forced(&auto, &Shape::Object), Some(grammar::Constraint::Either(..))));
        let none = tools(Choice::None, true);
        assert_eq!(forced(&none, &Shape::Object), Some(grammar::Constraint::JsonObject));
        assert!(!of("hermes", &none).on);
        // Calls in DSML have no grammar.
        let refused = of("deepseek-v4", &required).obeyed(&required, &text).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("tool_choice"));
        assert_eq!(of("deepseek-v4", &strict).obeyed(&strict, &text).unwrap(), None);
    }
}
