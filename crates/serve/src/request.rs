//! `GenerateRequest`: the validated request that every dialect's body becomes.

use engine::Sampling;
use serde_json::{Map, Value, json};
use text::chat::Message;

/// The validated request that every dialect's body becomes.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt or the conversation.
    pub input: RequestInput,
    /// Tools, and whether they must be called.
    pub tools: Tools,
    /// Variables of the chat template, beside the server's own.
    pub template: Map<String, Value>,
    /// Constraint on the text.
    pub response_format: ResponseFormat,
    /// Path of the field that gave `response_format`: `response_format.json_schema.schema`.
    pub format_field: String,
    /// Parameters common to all dialects.
    pub params: Params,
    /// Fields that the response echoes (`/v1/responses` only).
    pub repeated: Map<String, Value>,
    /// Items of the answer may be referred to later (`/v1/responses` only).
    pub stored: bool,
}

impl GenerateRequest {
    /// Without tools and constraints.
    pub fn new(input: RequestInput, params: Params) -> GenerateRequest {
        GenerateRequest {
            input,
            tools: Tools::default(),
            template: Map::new(),
            response_format: ResponseFormat::Text,
            format_field: String::new(),
            params,
            repeated: Map::new(),
            stored: false,
        }
    }
}

/// Input of a request.
#[derive(Clone, Debug)]
pub enum RequestInput {
    /// A conversation, for the chat template.
    Conversation {
        /// Messages of all dialects, in one form.
        messages: Vec<Message>,
        /// The last message is the beginning of the answer.
        continues: bool,
    },
    /// Prompts without a template, each answered on its own.
    Prompts {
        /// At least one prompt.
        prompts: Vec<Prompt>,
        /// The gap that is to be filled behind each prompt.
        gap: Option<Gap>,
        /// Return the prompt before its continuation.
        echo: bool,
    },
}

/// What is around a gap to fill behind a prompt (fill in the middle).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Text after the gap.
    pub suffix: String,
    /// Names and texts of other files, the most useful last.
    pub files: Vec<(String, String)>,
    /// The beginning of what fills the gap.
    pub begun: String,
    /// Cut the texts so that this many tokens fit behind them; without it what is too long is refused.
    pub room: Option<usize>,
    /// Name of the field that gave `suffix`.
    pub field: &'static str,
}

impl Gap {
    /// A gap before this text.
    pub fn before(suffix: String) -> Gap {
        Gap { suffix, field: "suffix", ..Gap::default() }
    }
}

/// A prompt of `/v1/completions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text to tokenize.
    Text(String),
    /// Token ids, below the vocabulary's size.
    Tokens(Vec<u32>),
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Unique among the request's tools.
    pub name: String,
    /// Free text for the model.
    pub description: Option<String>,
    /// JSON schema of the arguments: an object, or `true`.
    pub parameters: Value,
    /// Path of the field that gave `parameters`: `tools[0].function.parameters`.
    pub field: String,
    /// Arguments must match the schema.
    pub strict: bool,
    /// The namespace that it was given in, and its name there; `name` has both.
    pub namespace: Option<(String, String)>,
}

impl Tool {
    /// In the form of OpenAI's API and of chat templates.
    pub fn json(&self) -> Value {
        let mut function = json!({ "name": self.name });
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = self.parameters.clone();
        if self.strict {
            function["strict"] = true.into();
        }
        json!({"type": "function", "function": function})
    }
}

/// `tool_choice`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// No tool is called.
    None,
    /// The model decides.
    #[default]
    Auto,
    /// At least one tool is called.
    Required,
    /// The tool of this name is called.
    Named(String),
}

/// Tools of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// Functions with unique names.
    pub list: Vec<Tool>,
    /// `Required` and `Named` only with at least one tool, and `Named` only with one of `list`.
    pub choice: ToolChoice,
    /// Several calls in one answer are allowed.
    pub parallel: bool,
    /// Given as `functions`; calls are returned as `function_call`.
    pub older: bool,
}

impl Tools {
    /// Name of the field that gave the tools.
    pub fn field(&self) -> &'static str {
        if self.older { "functions" } else { "tools" }
    }
}

/// Constraint on the text of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Unconstrained.
    #[default]
    Text,
    /// Any JSON object.
    Object,
    /// JSON that matches a schema.
    Schema {
        /// The schema.
        schema: Value,
        /// Refuse a schema with keywords that cannot be enforced.
        strict: bool,
    },
    /// Text that matches a regular expression.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of a Lark grammar.
    Grammar(String),
}

/// Parameters common to all dialects.
#[derive(Clone, Debug)]
pub struct Params {
    /// Model id; the server's first model if absent.
    pub model: Option<String>,
    /// Sampling parameters.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub tokens_max: Option<usize>,
    /// The client named none: `tokens_max` is the API's own.
    pub tokens_default: bool,
    /// Most tokens of reasoning.
    pub thinking_max: Option<usize>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// Stream the response.
    pub stream: bool,
    /// End the stream with a usage chunk.
    pub include_usage: bool,
    /// Return log-probabilities, with this many top alternatives.
    pub log_probabilities: Option<usize>,
    /// Answers to each prompt, at least 1.
    pub choices: usize,
    /// Answers to generate for each prompt; the `choices` most likely are returned.
    pub best_of: usize,
    /// Name that separates the prefix cache of one user from others'.
    pub user: Option<String>,
    /// Higher runs first.
    pub priority: i8,
    /// Names of fields that were ignored.
    pub unknown: Vec<String>,
    /// Tools and items that were left out, by their types.
    pub ignored: Vec<String>,
}

impl Params {
    /// One unstreamed answer without a limit on its length.
    pub fn new(sampling: Sampling) -> Params {
        Params {
            model: None,
            sampling,
            tokens_max: None,
            tokens_default: false,
            thinking_max: None,
            stop: Vec::new(),
            stream: false,
            include_usage: false,
            log_probabilities: None,
            choices: 1,
            best_of: 1,
            user: None,
            priority: 0,
            unknown: Vec::new(),
            ignored: Vec::new(),
        }
    }
}
