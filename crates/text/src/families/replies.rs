//! Reply formats of families: how they write reasoning and tool calls, and what in a chat template shows it.

use super::reply_format::{Calls, Format, Head, NamedSyntax, ObjectSyntax, Signs, Syntax};

const CALLS: (&str, &str) = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>");

const DEEPSEEK_V3: NamedSyntax = NamedSyntax {
    block: Some(CALLS),
    open: "<｜tool▁call▁begin｜>",
    id: None,
    separator: "<｜tool▁sep｜>",
    close: Some("<｜tool▁call▁end｜>"),
    head: Head::Type,
};

const DEEPSEEK_V31: NamedSyntax = NamedSyntax { head: Head::Name, ..DEEPSEEK_V3 };

const KIMI_K2: NamedSyntax = NamedSyntax {
    block: Some(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")),
    open: "<|tool_call_begin|>",
    id: None,
    separator: "<|tool_call_argument_begin|>",
    close: Some("<|tool_call_end|>"),
    head: Head::Path,
};

const MISTRAL_V11: NamedSyntax = NamedSyntax {
    block: None,
    open: "[TOOL_CALLS]",
    id: Some("[CALL_ID]"),
    separator: "[ARGS]",
    close: None,
    head: Head::Name,
};

const HERMES: ObjectSyntax =
    ObjectSyntax { open: "<tool_call>", close: Some("</tool_call>"), bare: false, separators: &[] };

const LLAMA3: ObjectSyntax = ObjectSyntax { open: "<|python_tag|>", close: None, bare: true, separators: &[';', ','] };

const MISTRAL: ObjectSyntax = ObjectSyntax { open: "[TOOL_CALLS]", close: None, bare: false, separators: &[','] };

/// Calls without anything around them, their arguments in JSON.
const JSON_CALLS: Syntax = Syntax { open: "", begin: "", middle: "", end: "", between: "", close: "", json: true };

const DSML: Syntax = Syntax {
    open: "<｜DSML｜function_calls>\n",
    begin: "<｜DSML｜invoke name=\"",
    middle: "\">\n",
    end: "\n</｜DSML｜invoke>",
    between: "\n",
    close: "\n</｜DSML｜function_calls>",
    json: false,
};

/// A template with all of these.
const fn has(all: &'static [&'static str]) -> Signs {
    Signs { all, none: &[] }
}

const V3: Format = Format {
    name: "deepseek-v3",
    shown_by: &[has(&["<｜tool▁call▁begin｜>", "```json"])],
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
        ..JSON_CALLS
    }),
    objects: false,
    short_ids: false,
    apart: false,
    blank: false,
};

const V32: Format = Format {
    name: "deepseek-v3.2",
    shown_by: &[has(&["｜DSML｜", "function_calls>"])],
    reasons: true,
    padded: false,
    gap: "\n\n",
    calls: Calls::Dsml,
    syntax: Some(DSML),
    objects: true,
    short_ids: false,
    apart: false,
    blank: true,
};

/// DeepSeek, the newest first, as a template may know earlier markers too.
pub(super) const DEEPSEEK: &[Format] = &[
    V32,
    Format {
        name: "deepseek-v4",
        shown_by: &[has(&["｜DSML｜"])],
        syntax: Some(Syntax { open: "<｜DSML｜tool_calls>\n", close: "\n</｜DSML｜tool_calls>", ..DSML }),
        ..V32
    },
    Format { apart: true, ..V3 },
    Format {
        name: "deepseek-v3.1",
        shown_by: &[has(&["<｜tool▁call▁begin｜>"])],
        calls: Calls::Named(&DEEPSEEK_V31),
        syntax: Some(Syntax {
            open: CALLS.0,
            begin: "<｜tool▁call▁begin｜>",
            middle: "<｜tool▁sep｜>",
            end: "<｜tool▁call▁end｜>",
            close: CALLS.1,
            ..JSON_CALLS
        }),
        ..V3
    },
];

pub(super) const KIMI: &[Format] = &[Format {
    name: "kimi-k2",
    shown_by: &[has(&["<|tool_call_begin|>"])],
    calls: Calls::Named(&KIMI_K2),
    syntax: Some(Syntax {
        open: "<|tool_calls_section_begin|>",
        begin: "<|tool_call_begin|>functions.",
        middle: ":0<|tool_call_argument_begin|>",
        end: "<|tool_call_end|>",
        close: "<|tool_calls_section_end|>",
        ..JSON_CALLS
    }),
    ..V3
}];

pub(super) const MISTRALS: &[Format] = &[
    Format {
        name: "mistral-v11",
        shown_by: &[has(&["[TOOL_CALLS]", "[ARGS]"])],
        calls: Calls::Named(&MISTRAL_V11),
        syntax: Some(Syntax { begin: "[TOOL_CALLS]", middle: "[ARGS]", ..JSON_CALLS }),
        objects: true,
        short_ids: true,
        ..V3
    },
    Format {
        name: "mistral",
        shown_by: &[has(&["[TOOL_CALLS]"])],
        calls: Calls::Object(&MISTRAL),
        syntax: Some(Syntax {
            open: "[TOOL_CALLS][",
            begin: "{\"name\": \"",
            middle: "\", \"arguments\": ",
            end: "}",
            between: ", ",
            close: "]",
            ..JSON_CALLS
        }),
        objects: true,
        short_ids: true,
        ..V3
    },
];

/// Qwen and others, in the form that Nous' Hermes began. The same tag holds other markup in some models, which is not read.
pub(super) const CHATML: &[Format] = &[Format {
    name: "hermes",
    shown_by: &[Signs { all: &["<tool_call>"], none: &["<function=", "<arg_key>"] }],
    gap: "\n",
    calls: Calls::Object(&HERMES),
    syntax: Some(Syntax {
        begin: "<tool_call>\n{\"name\": \"",
        middle: "\", \"arguments\": ",
        end: "}\n</tool_call>",
        between: "\n",
        ..JSON_CALLS
    }),
    objects: true,
    ..V3
}];

pub(super) const LLAMA: &[Format] = &[Format {
    name: "llama3",
    shown_by: &[
        Signs { all: &["<|python_tag|>"], none: &["<tool_call>"] },
        Signs { all: &["<|start_header_id|>", "\"parameters\": "], none: &["<tool_call>"] },
    ],
    calls: Calls::Object(&LLAMA3),
    syntax: Some(Syntax {
        begin: "{\"name\": \"",
        middle: "\", \"parameters\": ",
        end: "}",
        between: "; ",
        ..JSON_CALLS
    }),
    objects: true,
    ..V3
}];

/// A format without calls.
pub(super) const PLAIN: Format = Format { name: "plain", shown_by: &[], calls: Calls::None, syntax: None, ..V3 };
