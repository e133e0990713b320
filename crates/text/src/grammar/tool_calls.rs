//! Tool calls as a model's family writes them: a Lark grammar around the JSON of each tool's arguments.

use llguidance::api::GrammarWithLexer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    GrammarError, Grammars, SCHEMA_BYTES_MAX, TOOLS_MAX, at_most, doubts, json_grammar, named as with_name, one_line,
    regex, schema,
};

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name: letters, digits, `_`, `-` and `.`, at most 64.
    pub name: String,
    /// JSON Schema of its arguments; null for any object.
    pub parameters: Value,
    /// Refuse a schema that cannot be kept as a whole. Otherwise what can be kept is.
    pub strict: bool,
}

/// The literal pieces around calls. Names of markers in them (added tokens of the vocabulary, like `<tool_call>`) are those tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallSyntax {
    /// Once, before the first call.
    pub begin: String,
    /// Before each call.
    pub before_call: String,
    /// The call itself.
    pub body: CallBody,
    /// After each call.
    pub after_call: String,
    /// Between two calls. With nothing here and nothing before or after a call there is only one.
    pub between: String,
    /// Once, after the last call.
    pub end: String,
}

/// How a call names its tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CallBody {
    /// The name as text, this piece, the arguments as JSON.
    NameThenArguments(String),
    /// A JSON object of two members.
    Object {
        /// Member with the tool's name.
        name: String,
        /// Member with its arguments.
        arguments: String,
    },
}

/// What a literal is made of.
enum Piece {
    Marker(u32),
    Text(String),
}

fn pieces(grammars: &Grammars, text: &str) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let found = grammars.markers.iter().filter_map(|(name, id)| Some((rest.find(name.as_str())?, name.len(), *id)));
        // The first marker, and of those that begin there the longest.
        let Some((at, length, id)) = found.min_by_key(|&(at, length, _)| (at, usize::MAX - length)) else {
            out.push(Piece::Text(rest.to_string()));
            break;
        };
        if at > 0 {
            out.push(Piece::Text(rest[..at].to_string()));
        }
        out.push(Piece::Marker(id));
        rest = &rest[at + length..];
    }
    out
}

fn lark(pieces: &[Piece]) -> String {
    let one = |piece: &Piece| match piece {
        Piece::Marker(id) => format!("<[{id}]>"),
        Piece::Text(text) => quoted(text),
    };
    pieces.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// A text as a string of Lark.
pub(super) fn quoted(text: &str) -> String {
    Value::String(text.to_string()).to_string()
}

/// A text as a regular expression between slashes.
fn literal_regex(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            c if regex::has_meaning(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Anything, then a marker, then at most two ends of lines, then the grammar of this name.
pub(super) fn after(grammars: &Grammars, marker: &str, first: &str) -> String {
    let lines = "LINES: /\\n{1,2}/\n";
    match grammars.marker(marker) {
        Some(id) => format!("start: THOUGHT? <[{id}]> LINES? @{first}\nTHOUGHT: /(?s:.+)/\n{lines}"),
        None => format!("start: thought LINES? @{first}\nthought[lazy]: /(?s:.*)/ {}\n{lines}", quoted(marker)),
    }
}

/// The grammars of `Constraint::Calls`; the first is where the output starts.
pub(super) fn grammars(
    grammars: &Grammars,
    tools: &[Tool],
    required: bool,
    one_only: bool,
    named: Option<&str>,
    syntax: &CallSyntax,
    warnings: &mut Vec<String>,
) -> Result<Vec<GrammarWithLexer>, GrammarError> {
    at_most("tools", tools.len(), TOOLS_MAX)?;
    let callable: Vec<&Tool> = tools.iter().filter(|t| named.is_none_or(|name| t.name == name)).collect();
    if callable.is_empty() {
        let reason = named.map_or("there is none".to_string(), |name| format!("none is called {name:?}"));
        return Err(GrammarError::invalid("tools", reason));
    }
    let separate = !(syntax.begin.is_empty()
        && syntax.before_call.is_empty()
        && syntax.after_call.is_empty()
        && syntax.between.is_empty());
    let many = separate && !one_only;

    let mut out = vec![GrammarWithLexer::default()];
    let mut rules = String::new();
    let mut bytes = 0;
    for (index, tool) in callable.iter().enumerate() {
        check_name(&tool.name)?;
        if callable[..index].iter().any(|t| t.name == tool.name) {
            return Err(GrammarError::invalid("tools", format!("two are called {:?}", tool.name)));
        }
        let (head, tail) = match &syntax.body {
            CallBody::NameThenArguments(piece) => (literal_regex(&format!("{}{piece}", tool.name)), ""),
            CallBody::Object { name, arguments } => {
                let json = |text: &str| literal_regex(&quoted(text));
                (format!("\\{{{}: ?{}, ?{}: ?", json(name), json(&tool.name), json(arguments)), "\"}\" ")
            }
        };
        let after_call = lark(&pieces(grammars, &syntax.after_call));
        rules.push_str(&format!(
            "call_{index}: HEAD_{index} @arguments_{index} {tail}{after_call}\nHEAD_{index}: /{head}/\n"
        ));
        out.push(arguments(grammars, tool, &format!("arguments_{index}"), &mut bytes, warnings)?);
    }
    let any: Vec<String> = (0..callable.len()).map(|index| format!("call_{index}")).collect();
    let (before, between, end) = (&syntax.before_call, &syntax.between, &syntax.end);
    let again = if many {
        format!("({} call)* ", lark(&pieces(grammars, &format!("{between}{before}"))))
    } else {
        String::new()
    };
    rules.push_str(&format!("call: {}\ncalls: call {again}{}\n", any.join(" | "), lark(&pieces(grammars, end))));

    let opening = pieces(grammars, &format!("{}{before}", syntax.begin));
    let start = if required || named.is_some() {
        format!("start: {} calls\n", lark(&opening))
    } else {
        optional(&opening, &syntax.body)
    };
    out[0] = with_name("calls", GrammarWithLexer::from_lark(start + &rules));
    Ok(out)
}

/// Text, and calls once it comes to what opens them.
fn optional(opening: &[Piece], body: &CallBody) -> String {
    match (opening, body) {
        ([Piece::Marker(_), ..], _) => format!("start: TEXT? ({} calls)?\nTEXT: /(?s:.+)/\n", lark(opening)),
        ([Piece::Text(text), rest @ ..], _) => {
            // The white space after it does not make it less of a trigger.
            let trigger = if text.trim_end().is_empty() { text.as_str() } else { text.trim_end() };
            let after = match &text[trigger.len()..] {
                "" => String::new(),
                space => quoted(space),
            };
            format!(
                "start: TEXT? | opening {after} {} calls\nopening[lazy]: TEXT {}\nTEXT: /(?s:.*)/ & ~/(?s:.*){}(?s:.*)/\n",
                lark(rest),
                quoted(trigger),
                literal_regex(trigger)
            )
        }
        ([], CallBody::Object { name, .. }) => {
            let trigger = literal_regex(&format!("{{{}", quoted(name)));
            format!("start: TEXT? | calls\nTEXT: /(?s:.+)/ & ~/{trigger}(?s:.*)/\n")
        }
        ([], CallBody::NameThenArguments(_)) => "start: TEXT? | calls\nTEXT: /(?s:.+)/\n".to_string(),
    }
}

/// A schema of arguments, which are one JSON object whatever it says: published tools leave out the type, or give other types beside it.
pub fn of_object(parameters: &Value) -> Value {
    let object = json!({"type": "object"});
    let Some(schema) = parameters.as_object() else { return object };
    let mut schema = schema.clone();
    match schema.get("type") {
        Some(Value::String(one)) if one == "object" => {}
        Some(Value::Array(several)) if several.iter().any(|one| one == "object") => {
            schema.insert("type".to_string(), "object".into());
        }
        None if ["$ref", "allOf", "anyOf", "oneOf", "enum", "const"].iter().all(|key| !schema.contains_key(*key)) => {
            schema.insert("type".to_string(), "object".into());
        }
        _ => {
            let mut both = serde_json::Map::new();
            for definitions in ["$defs", "definitions"] {
                if let Some(defined) = schema.remove(definitions) {
                    both.insert(definitions.to_string(), defined);
                }
            }
            both.insert("allOf".to_string(), json!([schema, object]));
            return both.into();
        }
    }
    schema.into()
}

/// The JSON of a tool's arguments.
fn arguments(
    grammars: &Grammars,
    tool: &Tool,
    name: &str,
    bytes: &mut usize,
    warnings: &mut Vec<String>,
) -> Result<GrammarWithLexer, GrammarError> {
    let anything = || json_grammar(name, json!({"type": "object"}), false);
    if tool.parameters.is_null() {
        return Ok(anything());
    }
    if let Some(other) = tool.parameters["type"].as_str().filter(|&other| other != "object" && tool.strict) {
        let reason = format!("it is {other:?}; the arguments of a call are one JSON object");
        return Err(GrammarError::invalid("#/type", reason).of_tool(&tool.name));
    }
    let parameters = of_object(&tool.parameters);
    let screened = match schema::screen(&parameters, tool.strict) {
        Ok(screened) => screened,
        Err(error) if tool.strict => return Err(error.of_tool(&tool.name)),
        Err(error) => {
            warnings.push(format!("tool {}: any arguments are taken ({error})", tool.name));
            return Ok(anything());
        }
    };
    *bytes += screened.bytes;
    at_most("tools: bytes of schemas", *bytes, 2 * SCHEMA_BYTES_MAX)?;
    let grammar = json_grammar(name, screened.schema.clone(), !tool.strict);
    if !tool.strict
        && let Err(refused) = grammars.parser(vec![grammar.clone()])?
    {
        let part = grammars.empty_schema(&parameters, &screened, false);
        let said = part.map_or_else(|| one_line(&refused.to_string()), |part| part.to_string());
        warnings.push(format!("tool {}: any arguments are taken ({said})", tool.name));
        return Ok(anything());
    }
    let doubted = if tool.strict { Vec::new() } else { doubts::warnings(&screened) };
    warnings.extend(doubted.into_iter().chain(screened.warnings).map(|w| format!("tool {}: {w}", tool.name)));
    Ok(grammar)
}

fn check_name(name: &str) -> Result<(), GrammarError> {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
        return Err(GrammarError::invalid(
            "tools",
            format!("{:?} is no name: 1 to 64 of a-z, A-Z, 0-9, _ - .", one_line(name)),
        ));
    }
    Ok(())
}
