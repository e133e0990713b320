//! `GenerateRequest`: the validated request that every dialect's body becomes.

use engine::Sampling;
use serde_json::{Map, Value, json};

/// What a request asks for.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// What is to be continued or answered.
    pub input: Input,
    /// What the model may call.
    pub tools: Tools,
    /// Further variables of the template.
    pub template: Map<String, Value>,
    /// What the text must be.
    pub response_format: ResponseFormat,
    /// The field that says so, as a path: `response_format.json_schema.schema`.
    pub format_field: String,
    /// The rest.
    pub params: Params,
    /// Fields that the answer repeats, as they were understood (`/v1/responses` only).
    pub repeated: Map<String, Value>,
}

/// What is to be continued or answered.
#[derive(Clone, Debug)]
pub enum Input {
    /// A conversation.
    Conversation {
        /// Messages in OpenAI's shape, contents as text. Fields that templates know (`name`, `tool_calls`, ...) are kept.
        messages: Vec<Value>,
        /// The last message is the beginning of the answer.
        continues: bool,
    },
    /// Texts.
    Prompts {
        /// At least one.
        prompts: Vec<Prompt>,
        /// What follows the text that is wanted: it is to fill the gap.
        suffix: Option<String>,
        /// Give the prompt back before its continuation.
        echo: bool,
    },
}

/// Text, or tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text.
    Text(String),
    /// Ids.
    Tokens(Vec<u32>),
}

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments: an object, or `true`.
    pub parameters: Value,
    /// The field that has it, as a path: `tools[0].function.parameters`.
    pub field: String,
    /// Arguments must obey the schema.
    pub strict: bool,
}

impl Tool {
    /// As OpenAI's API and chat templates have it.
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

/// Whether the model calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// Never.
    None,
    /// As it likes.
    #[default]
    Auto,
    /// At least once.
    Required,
    /// This one.
    Named(String),
}

/// What the model may call, and whether it must.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// Functions; their names are unique.
    pub list: Vec<Tool>,
    /// Whether it calls. `Required` and `Named` come with at least one tool, and that name is in the list.
    pub choice: ToolChoice,
    /// It may call several at once.
    pub parallel: bool,
    /// They came as `functions`, and their calls go back as `function_call`.
    pub older: bool,
}

impl Tools {
    /// The field that has them.
    pub fn field(&self) -> &'static str {
        if self.older { "functions" } else { "tools" }
    }
}

/// What the text must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ResponseFormat {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    Object,
    /// JSON of this schema; `strict` refuses schemas that cannot be kept to the letter.
    Schema {
        /// It.
        schema: Value,
        /// Whether what cannot be kept is refused.
        strict: bool,
    },
    /// Text that this regular expression matches.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Text of this grammar (Lark).
    Grammar(String),
}

/// What every kind of request says of its answer.
#[derive(Clone, Debug)]
pub struct Params {
    /// The model, where one is named.
    pub model: Option<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens at most, where given.
    pub tokens_max: Option<usize>,
    /// Tokens of reasoning at most, where given.
    pub thinking_max: Option<usize>,
    /// Strings that end the text.
    pub stop: Vec<String>,
    /// Give the text as it comes.
    pub stream: bool,
    /// End the stream with the usage.
    pub include_usage: bool,
    /// Give log-probabilities, with this many of the likeliest.
    pub log_probabilities: Option<usize>,
    /// Answers to each prompt, from 1 on.
    pub choices: usize,
    /// Answers that are made, of which the likeliest `choices` are given.
    pub best_of: usize,
    /// Prompts of one user are cached apart from those of others.
    pub user: Option<String>,
    /// Higher goes first.
    pub priority: i8,
    /// Fields that were not known.
    pub unknown: Vec<String>,
}
