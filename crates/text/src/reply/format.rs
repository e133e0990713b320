//! How families of models write reasoning and calls of tools, as data.

/// Longest name of a tool, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 256;

/// How a family of models writes reasoning and tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Its name, as `by_name` takes it.
    name: &'static str,
    /// Whether `<think>` and `</think>` are tags of reasoning.
    pub(super) reasons: bool,
    /// Newlines around reasoning belong to the format, not to the text.
    pub(super) padded: bool,
    /// What templates write between content and the first call.
    pub(super) gap: &'static str,
    pub(super) calls: Calls,
    syntax: Option<Syntax>,
    /// Whether templates take the arguments of earlier calls as an object (else as the text that the model wrote).
    pub(super) objects: bool,
}

/// The opening tag of reasoning.
pub const THINK: &str = "<think>";
/// The closing tag of reasoning.
pub const THINK_END: &str = "</think>";

/// The kinds of syntax that calls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    None,
    Named(&'static Named),
    Object(&'static Object),
    Dsml,
}

/// Markers around the name and the arguments of each call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Before all calls, and after them.
    pub block: Option<(&'static str, &'static str)>,
    /// Before a call.
    pub open: &'static str,
    /// Between the name and what identifies the call.
    pub id: Option<&'static str>,
    /// Between the head and the rest.
    pub separator: &'static str,
    /// After a call.
    pub close: Option<&'static str>,
    pub head: Head,
    /// Everything that is looked for inside, and what begins calls.
    pub marks: &'static [&'static str],
    pub triggers: &'static [&'static str],
}

/// What stands before the separator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The name.
    Name,
    /// The call's type; the name and a fence of Markdown around the arguments follow.
    Type,
    /// `functions.NAME:NUMBER`, which is the call's id too.
    Path,
}

/// One JSON object a call: `{"name": ..., "arguments": ...}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Before a call, or a list of calls.
    pub open: &'static str,
    /// After a call.
    pub close: Option<&'static str>,
    /// A reply that begins with such an object is a call even without a marker.
    pub bare: bool,
    /// What may stand between objects besides whitespace.
    pub separators: &'static [char],
    pub marks: &'static [&'static str],
}

/// How calls are written: `open`, then `begin` NAME `middle` ARGUMENTS `end` with `between` between calls, then `close`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// Before the first call.
    pub open: &'static str,
    /// Before the name.
    pub begin: &'static str,
    /// Between the name and the arguments.
    pub middle: &'static str,
    /// After the arguments.
    pub end: &'static str,
    /// Between calls.
    pub between: &'static str,
    /// After the last call.
    pub close: &'static str,
    /// Whether arguments are one JSON object; else they are DSML parameters.
    pub json: bool,
}

const CALLS: (&str, &str) = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>");
const DEEPSEEK_MARKS: &[&str] = &[
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
];

const DEEPSEEK_V3: Named = Named {
    block: Some(CALLS),
    open: "<｜tool▁call▁begin｜>",
    id: None,
    separator: "<｜tool▁sep｜>",
    close: Some("<｜tool▁call▁end｜>"),
    head: Head::Type,
    marks: DEEPSEEK_MARKS,
    triggers: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
};

const DEEPSEEK_V31: Named = Named { head: Head::Name, ..DEEPSEEK_V3 };

const KIMI_K2: Named = Named {
    block: Some(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")),
    open: "<|tool_call_begin|>",
    id: None,
    separator: "<|tool_call_argument_begin|>",
    close: Some("<|tool_call_end|>"),
    head: Head::Path,
    marks: &[
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
    ],
    triggers: &["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
};

const MISTRAL_V11: Named = Named {
    block: None,
    open: "[TOOL_CALLS]",
    id: Some("[CALL_ID]"),
    separator: "[ARGS]",
    close: None,
    head: Head::Name,
    marks: &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
    triggers: &["[TOOL_CALLS]"],
};

const HERMES: Object = Object {
    open: "<tool_call>",
    close: Some("</tool_call>"),
    bare: false,
    separators: &[],
    marks: &["<tool_call>", "</tool_call>"],
};

const LLAMA3: Object =
    Object { open: "<|python_tag|>", close: None, bare: true, separators: &[';', ','], marks: &["<|python_tag|>"] };

const MISTRAL: Object =
    Object { open: "[TOOL_CALLS]", close: None, bare: false, separators: &[','], marks: &["[TOOL_CALLS]"] };

/// Words of DSML, DeepSeek's markup of calls since V3.2. V3.2 calls the block `function_calls`, V4 `tool_calls`; both are read.
pub(super) mod dsml {
    pub const OPENS: &[&str] = &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"];
    pub const CLOSES: &[&str] = &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"];
    pub const INVOKE: &str = "<｜DSML｜invoke";
    pub const INVOKE_END: &str = "</｜DSML｜invoke>";
    pub const PARAMETER: &str = "<｜DSML｜parameter";
    pub const PARAMETER_END: &str = "</｜DSML｜parameter>";
    pub const MARKS: &[&str] = &[INVOKE, INVOKE_END, PARAMETER, OPENS[0], OPENS[1], CLOSES[0], CLOSES[1]];
}

const V3: Format = Format {
    name: "deepseek-v3",
    reasons: true,
    padded: true,
    gap: "",
    calls: Calls::Named(&DEEPSEEK_V3),
    syntax: Some(Syntax {
        open: CALLS.0,
        begin: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        middle: "\n```json\n",
        end: "\n```<｜tool▁call▁end｜>",
        between: "\n",
        close: CALLS.1,
        json: true,
    }),
    objects: false,
};

const V32: Format = Format {
    name: "deepseek-v3.2",
    reasons: true,
    padded: false,
    gap: "\n\n",
    calls: Calls::Dsml,
    syntax: Some(Syntax {
        open: "<｜DSML｜function_calls>\n",
        begin: "<｜DSML｜invoke name=\"",
        middle: "\">\n",
        end: "\n</｜DSML｜invoke>",
        between: "\n",
        close: "\n</｜DSML｜function_calls>",
        json: false,
    }),
    objects: true,
};

/// All formats, in the order in which help lists them.
const FORMATS: &[Format] = &[
    V3,
    Format {
        name: "deepseek-v3.1",
        calls: Calls::Named(&DEEPSEEK_V31),
        syntax: Some(Syntax {
            open: CALLS.0,
            begin: "<｜tool▁call▁begin｜>",
            middle: "<｜tool▁sep｜>",
            end: "<｜tool▁call▁end｜>",
            between: "",
            close: CALLS.1,
            json: true,
        }),
        ..V3
    },
    V32,
    Format {
        name: "deepseek-v4",
        syntax: Some(Syntax {
            open: "<｜DSML｜tool_calls>\n",
            begin: "<｜DSML｜invoke name=\"",
            middle: "\">\n",
            end: "\n</｜DSML｜invoke>",
            between: "\n",
            close: "\n</｜DSML｜tool_calls>",
            json: false,
        }),
        ..V32
    },
    Format {
        name: "kimi-k2",
        calls: Calls::Named(&KIMI_K2),
        syntax: Some(Syntax {
            open: "<|tool_calls_section_begin|>",
            begin: "<|tool_call_begin|>functions.",
            middle: ":0<|tool_call_argument_begin|>",
            end: "<|tool_call_end|>",
            between: "",
            close: "<|tool_calls_section_end|>",
            json: true,
        }),
        ..V3
    },
    Format {
        name: "hermes",
        gap: "\n",
        calls: Calls::Object(&HERMES),
        syntax: Some(Syntax {
            open: "",
            begin: "<tool_call>\n{\"name\": \"",
            middle: "\", \"arguments\": ",
            end: "}\n</tool_call>",
            between: "\n",
            close: "",
            json: true,
        }),
        objects: true,
        ..V3
    },
    Format {
        name: "llama3",
        calls: Calls::Object(&LLAMA3),
        syntax: Some(Syntax {
            open: "",
            begin: "{\"name\": \"",
            middle: "\", \"parameters\": ",
            end: "}",
            between: "; ",
            close: "",
            json: true,
        }),
        objects: true,
        ..V3
    },
    Format {
        name: "mistral",
        calls: Calls::Object(&MISTRAL),
        syntax: Some(Syntax {
            open: "[TOOL_CALLS][",
            begin: "{\"name\": \"",
            middle: "\", \"arguments\": ",
            end: "}",
            between: ", ",
            close: "]",
            json: true,
        }),
        objects: true,
        ..V3
    },
    Format {
        name: "mistral-v11",
        calls: Calls::Named(&MISTRAL_V11),
        syntax: Some(Syntax {
            open: "",
            begin: "[TOOL_CALLS]",
            middle: "[ARGS]",
            end: "",
            between: "",
            close: "",
            json: true,
        }),
        objects: true,
        ..V3
    },
    Format { name: "plain", calls: Calls::None, syntax: None, ..V3 },
];

impl Format {
    /// The format that a chat template shows, by the markers in it; `plain` where it shows none.
    pub fn of_template(source: &str) -> Format {
        let has = |marker: &str| source.contains(marker);
        let name = if has("｜DSML｜") {
            if has("function_calls>") { "deepseek-v3.2" } else { "deepseek-v4" }
        } else if has("<｜tool▁call▁begin｜>") {
            if has("```json") { "deepseek-v3" } else { "deepseek-v3.1" }
        } else if has("<|tool_call_begin|>") {
            "kimi-k2"
        } else if has("[TOOL_CALLS]") {
            if has("[ARGS]") { "mistral-v11" } else { "mistral" }
        } else if has("<tool_call>") {
            // The same tag holds other markup in some models, which is not read here.
            if has("<function=") || has("<arg_key>") { "plain" } else { "hermes" }
        } else if has("<|python_tag|>") || (has("<|start_header_id|>") && has("\"parameters\": ")) {
            "llama3"
        } else {
            "plain"
        };
        let mut format = Format::by_name(name).expect("a name of the table");
        format.reasons = has(THINK) || has(THINK_END);
        format.objects = takes_objects(source).unwrap_or(format.objects);
        format
    }

    /// A format by its name: see `names`.
    pub fn by_name(name: &str) -> Option<Format> {
        FORMATS.iter().find(|f| f.name == name).copied()
    }

    /// The names of all formats, for help and errors.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|f| f.name)
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether replies may hold reasoning between tags.
    pub fn reasons(&self) -> bool {
        self.reasons
    }

    /// Whether replies may hold calls.
    pub fn calls(&self) -> bool {
        self.calls != Calls::None
    }

    /// Whether a prompt ends inside reasoning, so that the reply begins there.
    pub fn opened_by(&self, prompt: &str) -> bool {
        self.reasons && prompt.trim_end().ends_with(THINK)
    }

    /// How reasoning is closed: as the template writes it in earlier turns, with the newlines around the tag, or as the format's
    /// models write it.
    pub fn reasoning_end(&self, template: &str) -> String {
        const NEWLINE: &str = "\\n";
        let around = |(at, tag): (usize, &str)| {
            let (mut before, mut behind) = (0, 0);
            let (mut left, mut right) = (&template[..at], &template[at + tag.len()..]);
            while let Some(rest) = left.strip_suffix(NEWLINE) {
                (left, before) = (rest, before + 1);
            }
            while let Some(rest) = right.strip_prefix(NEWLINE) {
                (right, behind) = (rest, behind + 1);
            }
            (before, behind)
        };
        let written = template.match_indices(THINK_END).map(around).max_by_key(|(before, behind)| before + behind);
        let usual = if self.padded { (1, 2) } else { (0, 0) };
        let (before, behind) = written.filter(|around| *around != (0, 0)).unwrap_or(usual);
        format!("{}{THINK_END}{}", "\n".repeat(before), "\n".repeat(behind))
    }

    /// Strings that begin a call, or a block of calls. Of `llama3` calls may also begin with `{` at the start of the reply.
    pub fn triggers(&self) -> &'static [&'static str] {
        match self.calls {
            Calls::None => &[],
            Calls::Named(named) => named.triggers,
            Calls::Object(object) => std::slice::from_ref(&object.open),
            Calls::Dsml => dsml::OPENS,
        }
    }

    /// How calls are written in full, for constraining what a model writes. `None` if there are no calls.
    pub fn syntax(&self) -> Option<Syntax> {
        self.syntax
    }

    /// Strings that the parser must see: tokens of these spellings are to be shown even where they count as special. `tools`
    /// as in `Options`: without tools the markers of calls are not asked for.
    pub fn markers(&self, tools: bool) -> Vec<&'static str> {
        let mut markers = if self.reasons { vec![THINK, THINK_END] } else { vec![] };
        if tools {
            markers.extend(match self.calls {
                Calls::None => &[],
                Calls::Named(named) => named.marks,
                Calls::Object(object) => object.marks,
                Calls::Dsml => &["｜DSML｜"],
            });
        }
        markers
    }

    /// Ends of calls, which may be left over behind one.
    pub(super) fn ends(&self) -> Vec<&'static str> {
        match self.calls {
            Calls::None => vec![],
            Calls::Named(named) => named.close.into_iter().chain(named.block.map(|(_, close)| close)).collect(),
            Calls::Object(object) => object.close.into_iter().collect(),
            Calls::Dsml => dsml::CLOSES.to_vec(),
        }
    }
}

/// Whether a template wants arguments as an object, where its text tells.
fn takes_objects(source: &str) -> Option<bool> {
    let dense: String = source.chars().filter(|c| !c.is_whitespace()).collect();
    let says =
        |what: &str| ["arguments", "arguments']", "arguments\"]"].iter().any(|a| dense.contains(&format!("{a}{what}")));
    // Templates that ask take either.
    if says("isstring") || says("ismapping") || !says("|tojson") { None } else { Some(true) }
}
