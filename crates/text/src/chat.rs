//! Messages to a prompt, by the model's own template (Jinja, with Hugging Face's conventions), within limits.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value as Json, json};

use crate::TextError;

const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Steps a render may take.
const FUEL: u64 = 2_000_000;
/// Longest prompt that a template may write.
const RENDERED_BYTES_MAX: usize = 64 << 20;

/// Author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// The person, or the program that speaks for them.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// Name in templates.
    pub fn word(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A tool call of the assistant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Id that the result refers to; empty if the client gave none.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// Arguments as the model wrote them: usually JSON, and perhaps not valid.
    pub arguments: String,
}

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Author.
    pub role: Role,
    /// Text; `None` is null to templates.
    pub content: Option<String>,
    /// Name of the author or function.
    pub name: Option<String>,
    /// Id of the call that this message is the result of.
    pub tool_call_id: Option<String>,
    /// Tool calls of an assistant message.
    pub tool_calls: Vec<ToolCall>,
    /// Reasoning of an assistant message.
    pub reasoning_content: Option<String>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message {
            role,
            content: Some(content.into()),
            name: None,
            tool_call_id: None,
            tool_calls: Vec::new(),
            reasoning_content: None,
        }
    }

    /// Instructions.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new(Role::System, text)
    }

    /// A message of the user.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new(Role::User, text)
    }

    /// A message of the model.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new(Role::Assistant, text)
    }

    /// The content, empty if there is none.
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }

    /// JSON as templates take it: absent fields have no key. Arguments that are a JSON object become one if `objects` is set, and are
    /// text otherwise.
    pub fn into_json(self, objects: bool) -> Json {
        let call = |ToolCall { id, name, arguments }: ToolCall| {
            let arguments = if objects { parsed_arguments(arguments) } else { arguments.into() };
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        };
        let calls: Vec<Json> = self.tool_calls.into_iter().map(call).collect();
        let mut message = json!({
            "role": self.role.word(),
            "content": self.content,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "tool_calls": Some(calls).filter(|calls| !calls.is_empty()),
            "reasoning_content": self.reasoning_content,
        });
        if let Some(members) = message.as_object_mut() {
            members.retain(|key, value| key == "content" || !value.is_null());
        }
        message
    }
}

/// Arguments as an object. Text that is no object stays text: templates write what the model wrote, in quotes.
fn parsed_arguments(text: String) -> Json {
    match text.trim() {
        "" => Json::Object(Map::new()),
        trimmed => serde_json::from_str(trimmed).map_or(Json::String(text), Json::Object),
    }
}

/// A chat template, rendered in this process or in another.
pub trait Render: Send + Sync {
    /// Renders the prompt. Rendering that can be stopped is, once `left` returns true.
    ///
    /// # Errors
    /// The template refused the messages, or took too long.
    fn render(&self, messages: &[Json], context: &Context, left: &dyn Fn() -> bool) -> Result<String, TextError>;

    /// Source text of the template.
    fn source(&self) -> &str;
}

impl Render for Template {
    fn render(&self, messages: &[Json], context: &Context, _left: &dyn Fn() -> bool) -> Result<String, TextError> {
        Template::render(self, messages, context)
    }

    fn source(&self) -> &str {
        Template::source(self)
    }
}

/// A compiled chat template.
pub struct Template {
    environment: Environment<'static>,
    source: String,
}

/// Variables of a template besides the messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Context {
    /// End the prompt with the opening of an answer.
    pub add_generation_prompt: bool,
    /// Text of the beginning-of-text token.
    pub bos_token: String,
    /// Text of the end-of-text token.
    pub eos_token: String,
    /// Tools, as JSON.
    pub tools: Option<Json>,
    /// Further variables.
    pub extra: Map<String, Json>,
}

impl Template {
    /// Compile a template.
    ///
    /// # Errors
    /// One that is too long, or is not a template.
    pub fn new(source: &str) -> Result<Template, TextError> {
        Template::with_fuel(source, FUEL)
    }

    /// As `new`, with another bound on the steps of a render. Text that is made costs steps too (one for 64 bytes). Lists that
    /// grow by doubling escape this count: templates that nobody vouches for are rendered in a process of their own.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_fuel(source: &str, fuel: u64) -> Result<Template, TextError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TextError::Template(format!("{} bytes; at most {SOURCE_BYTES_MAX} are taken", source.len())));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(explain)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(fuel));
        environment.set_recursion_limit(64);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            use std::fmt::Write;
            let mut text = String::new();
            let written = write!(text, "{}", chrono::Local::now().format(&format));
            written
                .map(|()| text)
                .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("date format {format:?}")))
        });
        environment.add_template_owned("chat", without_generation(source)).map_err(explain)?;
        Ok(Template { environment, source: source.to_string() })
    }

    /// Source text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt of a conversation (`messages` as `Message::into_json` writes them).
    ///
    /// # Errors
    /// The template's own refusals, and a render without end.
    pub fn render(&self, messages: &[Json], context: &Context) -> Result<String, TextError> {
        let Context { add_generation_prompt, bos_token, eos_token, tools, extra } = context;
        let base = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => add_generation_prompt,
            bos_token => bos_token,
            eos_token => eos_token,
        };
        let tools = tools.as_ref().map_or_else(|| context! {}, |tools| context! { tools => Value::from(Serde(tools)) });
        let template = self.environment.get_template("chat").map_err(explain)?;
        let text = template.render(context! { ..base, ..tools, ..Value::from(Serde(extra)) }).map_err(explain)?;
        if text.len() > RENDERED_BYTES_MAX {
            return Err(TextError::Template(format!(
                "it wrote {} bytes; at most {RENDERED_BYTES_MAX} are taken",
                text.len()
            )));
        }
        Ok(text)
    }
}

fn explain(error: Error) -> TextError {
    if error.kind() == ErrorKind::OutOfFuel {
        return TextError::EndlessTemplate;
    }
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    TextError::Template(format!("{}{line}", what.lines().next().unwrap_or_default()))
}

/// `{% generation %}` and `{% endgeneration %}` mark text for training; they render as nothing.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start + 2..].find("%}").map(|n| n + 2) else { break };
        let inner = rest[start + 2..start + length].trim_matches(['-', '+', ' ', '\n', '\t']);
        if inner == "generation" || inner == "endgeneration" {
            // A comment of the same trimming does what the tag's own would have done.
            let (open, close) = (&rest[start + 2..start + 3], &rest[start + length - 1..start + length]);
            out.push_str(&rest[..start]);
            out.push_str(if open == "-" { "{#-" } else { "{#" });
            out.push_str(if close == "-" { "-#}" } else { "#}" });
        } else {
            out.push_str(&rest[..start + length + 2]);
        }
        rest = &rest[start + length + 2..];
    }
    out + rest
}

/// JSON as Python writes it: `, ` and `: ` between, characters as they are, keys in their order.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let mut writer =
                serde_json::Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(spaces.as_bytes()));
            value.serialize(&mut writer).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(failed)?,
    }
    Ok(Value::from_safe_string(String::from_utf8(out).expect("JSON is UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, TextError> {
        Template::new(source)?.render(&[Message::new(Role::User, "Hi <b> é").into_json(false)], &Context::default())
    }

    #[test]
    fn conventions() {
        assert_eq!(render("{{ messages | tojson }}").unwrap(), r#"[{"role": "user", "content": "Hi <b> é"}]"#);
        assert_eq!(render("{% generation %}\nx{% endgeneration %}").unwrap(), "x");
        assert_eq!(render("{{ messages[0].content.split(' ')[0].upper() }}").unwrap(), "HI");
        assert_eq!(
            render("{% for m in [1,2,3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}").unwrap(),
            "1"
        );
        assert!(render("{{ strftime_now('%Y') }}").unwrap().starts_with("20"));
        assert_eq!(
            render("a {{ raise_exception('no tools here') }}").unwrap_err().to_string(),
            "chat template: no tools here (line 1)"
        );
    }

    #[test]
    fn hostile_templates_end() {
        assert!(render("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}").is_err());
        assert!(render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").is_err());
        assert!(render("{% if %}").is_err());
        assert!(render("{%}").is_err());
        assert!(render("{%%}").is_err());
        assert!(Template::new(&"x".repeat(2 << 20)).is_err());
        assert!(render("{{ 'x' * 1000000000 }}").is_err());
        // Text that doubles each round is text that is paid for.
        assert!(
            render("{% set x = 'ab' %}{% for i in range(60) %}{% set x = x ~ x %}{% endfor %}{{ x }}")
                .is_ok_and(|t| t.len() < 100)
        );
        assert!(
            render(
                "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
            )
            .is_err()
        );
        assert!(render("{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', 'aaaaaaaaaa') %}{% endfor %}{{ n.x }}").is_err());
        assert!(
            render("{{ 'x' | indent(4000000000) }}").is_err()
                || render("{{ 'x' | indent(4000000000) }}").is_ok_and(|t| t.len() < 1 << 20)
        );
    }
}
