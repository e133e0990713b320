//! Reply formats of families: how they write reasoning and tool calls, and what in a chat template shows it.

use super::reply_format::{Calls, Format, Head, Named, Object, Signs, Syntax};

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
        json: true,
    }),
    objects: false,
    short_ids: false,
};

const V32: Format = Format {
    name: "deepseek-v3.2",
    shown_by: &[has(&["｜DSML｜", "function_calls>"])],
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
    short_ids: false,
};

/// DeepSeek, the newest first, as a template may know earlier markers too.
pub(super) const DEEPSEEK: &[Format] = &[
    V32,
    Format {
        name: "deepseek-v4",
        shown_by: &[has(&["｜DSML｜"])],
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
    V3,
    Format {
        name: "deepseek-v3.1",
        shown_by: &[has(&["<｜tool▁call▁begin｜>"])],
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
];

/// Kimi.
pub(super) const KIMI: &[Format] = &[Format {
    name: "kimi-k2",
    shown_by: &[has(&["<|tool_call_begin|>"])],
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
}];

/// Mistral.
pub(super) const MISTRALS: &[Format] = &[
    Format {
        name: "mistral-v11",
        shown_by: &[has(&["[TOOL_CALLS]", "[ARGS]"])],
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
            json: true,
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
}];

/// Llama 3.
pub(super) const LLAMA: &[Format] = &[Format {
    name: "llama3",
    shown_by: &[
        Signs { all: &["<|python_tag|>"], none: &["<tool_call>"] },
        Signs { all: &["<|start_header_id|>", "\"parameters\": "], none: &["<tool_call>"] },
    ],
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
}];

/// A format without calls.
pub(super) const PLAIN: Format = Format { name: "plain", shown_by: &[], calls: Calls::None, syntax: None, ..V3 };
