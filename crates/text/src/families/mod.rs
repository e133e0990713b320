//! What families of models write, a row each: ends of turns, marks to fill in the middle, reply formats. A new family gets its row here.

mod pre_tokenizers;
mod replies;
mod reply_format;

pub(crate) use pre_tokenizers::{PRE_TOKENIZERS, PreTokenizer};
pub(crate) use reply_format::{Calls, Head, NamedSyntax, ObjectSyntax, dsml};
pub use reply_format::{Format, Syntax, THINK, THINK_END};

/// A family of models, by what it writes.
struct Family {
    turn_ends: &'static [&'static str],
    /// What stands before a message of the user.
    user_mark: Option<&'static str>,
    /// Tokens for filling a gap.
    fim: Option<FimMarks>,
    formats: &'static [Format],
}

/// Spellings of the tokens that fill a gap (fill in the middle): `begin` TEXT `hole` TEXT `end`, and the model writes what is between.
#[derive(Clone, Copy, Debug)]
pub struct FimMarks {
    /// Before the text that comes first.
    pub begin: &'static str,
    /// At the gap.
    pub hole: &'static str,
    /// Behind the text that follows the gap.
    pub end: &'static str,
    /// Before the name of a repository and before the name of each of its files, where the model knows such.
    pub files: Option<(&'static str, &'static str)>,
}

const PLAIN: Family = Family { turn_ends: &[], user_mark: None, fim: None, formats: &[] };

/// All families. The order counts where several fit: their marks are looked for from first to last.
const FAMILIES: &[Family] = &[
    // DeepSeek
    Family {
        turn_ends: &["<｜end▁of▁sentence｜>", "<|EOT|>"],
        user_mark: Some("<｜User｜>"),
        fim: Some(FimMarks {
            begin: "<｜fim▁begin｜>", hole: "<｜fim▁hole｜>", end: "<｜fim▁end｜>", files: None
        }),
        formats: replies::DEEPSEEK,
    },
    // Kimi
    Family { formats: replies::KIMI, ..PLAIN },
    // Mistral
    Family { formats: replies::MISTRALS, ..PLAIN },
    // Qwen, and others with ChatML's turns
    Family {
        turn_ends: &["<|im_end|>", "<|endoftext|>"],
        fim: Some(FimMarks {
            begin: "<|fim_prefix|>",
            hole: "<|fim_suffix|>",
            end: "<|fim_middle|>",
            files: Some(("<|repo_name|>", "<|file_sep|>")),
        }),
        formats: replies::CHATML,
        ..PLAIN
    },
    // StarCoder
    Family {
        turn_ends: &["<|endoftext|>"],
        fim: Some(FimMarks {
            begin: "<fim_prefix>",
            hole: "<fim_suffix>",
            end: "<fim_middle>",
            files: Some(("<repo_name>", "<file_sep>")),
        }),
        ..PLAIN
    },
    // SantaCoder
    Family {
        turn_ends: &["<|endoftext|>"],
        fim: Some(FimMarks { begin: "<fim-prefix>", hole: "<fim-suffix>", end: "<fim-middle>", files: None }),
        ..PLAIN
    },
    // Llama and CodeLlama
    Family {
        turn_ends: &["<|eot_id|>", "<|end_of_text|>"],
        fim: Some(FimMarks { begin: "▁<PRE>", hole: "▁<SUF>", end: "▁<MID>", files: None }),
        formats: replies::LLAMA,
        ..PLAIN
    },
    // Granite
    Family { turn_ends: &["<|end_of_text|>"], ..PLAIN },
    // Gemma
    Family { turn_ends: &["<end_of_turn>"], ..PLAIN },
];

/// What models without a template get: names before turns.
pub const PLAIN_TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}User: {{ m.content }}\n\n{% else %}Assistant: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}";
/// What stands before a message of the user in `PLAIN_TEMPLATE`.
const PLAIN_USER_MARK: &str = "\nUser:";

/// Tokens that end a turn.
pub fn turn_ends() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.turn_ends).copied()
}

/// What stands before a message of the user: a model that writes it has gone on to the next turn.
pub fn user_marks() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().filter_map(|family| family.user_mark).chain([PLAIN_USER_MARK])
}

/// Tokens for filling a gap, in the order in which they are looked for.
pub fn fim_marks() -> impl Iterator<Item = FimMarks> {
    FAMILIES.iter().filter_map(|family| family.fim)
}

fn formats() -> impl Iterator<Item = Format> {
    FAMILIES.iter().flat_map(|family| family.formats).copied().chain([replies::PLAIN])
}

impl Format {
    /// The format that a chat template shows; `plain` where it shows none.
    pub fn of_template(source: &str) -> Format {
        let mut format = formats().find(|format| format.is_shown_by(source)).unwrap_or(replies::PLAIN);
        let has = |tag: &str| source.contains(tag);
        format.reasons = has(THINK) || has(THINK_END);
        format.objects = takes_objects(source).unwrap_or(format.objects);
        format
    }

    /// A format by its name: see `names`.
    pub fn by_name(name: &str) -> Option<Format> {
        formats().find(|format| format.name == name)
    }

    /// The names of all formats, for help and errors.
    pub fn names() -> impl Iterator<Item = &'static str> {
        formats().map(|format| format.name)
    }

    /// The format of calls for templates without tools.
    pub fn fallback() -> Format {
        replies::CHATML[0]
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
