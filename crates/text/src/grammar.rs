//! Constrained output: JSON, JSON Schema, regular expressions, Lark, choices, tool calls.
//!
//! The `llguidance` crate (Earley parser over regex derivatives, no precomputation) does the parsing. This module puts limits around it,
//! turns its silence into errors, and owns three decisions:
//!
//! - JSON is written on one line, with at most one space after `,` and `:`. A weak model that is allowed white space may write nothing else.
//! - `schema` screens every JSON Schema before it is compiled: a keyword that would not be kept is refused by name and path when the
//!   caller asked for a strict answer, and listed as a warning otherwise. References leave the schema never: there is no network.
//! - `calls` writes tool calls as the model's family does. Added tokens whose names look like markers (`<think>`) are markers: they come
//!   as themselves or not at all, never inside free text.
//!
//! What is expensive: `Grammars::new` builds a trie of the vocabulary (make it when the first request needs it, keep it with the model);
//! `compile` is milliseconds; `Matcher::allowed` microseconds to a millisecond. Nothing here runs longer or takes more memory than
//! the limits below permit, whatever the schema says.

mod bounds;
mod dead_ends;
mod doubts;
mod json_numbers;
mod matcher;
mod multiples;
mod outline;
mod pieces;
mod regex;
mod schema;
mod tool_calls;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher as Parser, ParserFactory, TokenParser};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

pub use matcher::Matcher;
pub use outline::{Outline, Trial};
pub use tool_calls::{CallBody, CallSyntax, Tool};

use crate::{TextError, Tokenizer};
use json_numbers::{NumberTracker, Risky};
use schema::Screened;

/// Largest JSON Schema, in bytes of JSON.
pub const SCHEMA_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting of a JSON Schema, in arrays and objects.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// Deepest nesting once references are followed, each the first time it is met.
pub const SCHEMA_REACH_MAX: usize = 512;
/// Most properties of one object, branches of one `anyOf`.
pub const SCHEMA_BRANCHES_MAX: usize = 500;
/// Most values of one `enum`; least length that a schema may demand.
pub const SCHEMA_BREADTH_MAX: usize = 2_000;
/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// Largest repetition in a regular expression, nested ones multiplied.
pub const REGEX_REPEATS_MAX: u64 = 20_000;
/// Longest Lark grammar, in bytes.
pub const LARK_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of brackets in a Lark grammar.
pub const LARK_DEPTH_MAX: usize = 64;
/// Most choices, and most bytes of all of them.
pub const CHOICES_MAX: usize = 2_000;
/// Most bytes of all choices together.
pub const CHOICE_BYTES_MAX: usize = 64 << 10;
/// Most tools of one request.
pub const TOOLS_MAX: usize = 128;

/// Stack of the thread that compiles: recursion over the deepest schema that is let in takes a small part of it.
const COMPILE_STACK_BYTES: usize = 64 << 20;

/// Limits inside llguidance. The comments give its own measure of their cost.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 4_000,
        // 50,000 a millisecond, while compiling.
        initial_lexer_fuel: 1_000_000,
        // 14,000 a millisecond, for one mask.
        step_lexer_fuel: 100_000,
        // 20,000 a millisecond, for one mask.
        step_max_items: 50_000,
        // 1 to 2 kB each.
        max_lexer_states: 50_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// A constraint on the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that validates against this schema.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Refuse keywords that cannot be enforced; otherwise they are warnings.
        strict: bool,
    },
    /// A text that this regular expression matches as a whole (Rust's syntax, no look-around, no references; `\d` and `\w` are ASCII).
    Regex(String),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Tool calls, or text when none is required.
    Calls {
        /// The tools that may be called.
        tools: Vec<Tool>,
        /// At least one call, and no text before it.
        required: bool,
        /// Exactly one call where there is one (`parallel_tool_calls: false`).
        one_only: bool,
        /// The tool that must be called (`tool_choice` names one); implies `required`.
        named: Option<String>,
        /// How the model writes calls.
        syntax: CallSyntax,
    },
    /// The one or the other, from the first token on.
    Either(Box<Constraint>, Box<Constraint>),
}

impl Constraint {
    /// Whether compiling it is always fast.
    pub fn is_small(&self) -> bool {
        matches!(self, Constraint::JsonObject | Constraint::Choice(_))
    }
}

/// An error of a constraint or its matcher, in one line.
#[derive(Clone, Debug, Error, Serialize, Deserialize)]
pub enum GrammarError {
    /// A limit on what comes from outside.
    #[error("{what}: {found}; at most {max} are taken")]
    TooLarge {
        /// What is counted, and where.
        what: String,
        /// What was found (counting may have stopped there).
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A keyword of JSON Schema that cannot be enforced.
    #[error("{path}: `{keyword}` {reason}")]
    Unsupported {
        /// JSON pointer of the schema that has it, after `#`.
        path: String,
        /// The keyword.
        keyword: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// What is not a schema, a regular expression or a grammar at all, or one that nothing matches.
    #[error("{what}: {reason}")]
    Invalid {
        /// Where: a path in the schema, or the kind of constraint.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a schema that no text can be written for: who came to it could not go on.
    #[error("{path}: no value is valid: {reason}")]
    Unsatisfiable {
        /// JSON pointer of the part, after `#`.
        path: String,
        /// Why not, as far as it is known.
        reason: String,
    },
    /// An error in what one tool takes.
    #[error("tool {name}: {error}")]
    Tool {
        /// Its name.
        name: String,
        /// What is wrong there.
        error: Box<GrammarError>,
    },
    /// An error in one part of `Constraint::Either`.
    #[error("{error}")]
    Part {
        /// The first part; else the other.
        first: bool,
        /// What is wrong there.
        error: Box<GrammarError>,
    },
    /// One of llguidance's limits, while compiling or for one mask.
    #[error("the grammar is too complex ({0}): make it smaller")]
    TooComplex(String),
    /// A token that the constraint forbids here.
    #[error("token {0} is not allowed here")]
    NotAllowed(u32),
    /// No token can follow: the grammar asks for text that the vocabulary cannot spell, or that does not exist.
    #[error("the grammar allows no token here")]
    DeadEnd,
    /// The library failed where it should not.
    #[error("the grammar library failed: {0}")]
    Fault(String),
}

impl GrammarError {
    fn invalid(what: impl Into<String>, reason: impl Into<String>) -> GrammarError {
        GrammarError::Invalid { what: what.into(), reason: reason.into() }
    }

    fn of_tool(self, name: &str) -> GrammarError {
        GrammarError::Tool { name: name.to_string(), error: Box::new(self) }
    }

    fn of_part(self, first: bool) -> GrammarError {
        GrammarError::Part { first, error: Box::new(self) }
    }
}

fn at_most(what: impl Into<String>, found: usize, max: usize) -> Result<(), GrammarError> {
    if found > max {
        return Err(GrammarError::TooLarge { what: what.into(), found: found as u64, max: max as u64 });
    }
    Ok(())
}

/// Compiler of constraints for one model: the trie of its vocabulary and llguidance's tables over it.
pub struct Grammars {
    factory: ParserFactory,
    vocab: usize,
    eos: Vec<u32>,
    risky: Arc<Risky>,
    /// Added tokens that are markers, longest name first.
    markers: Vec<(String, u32)>,
}

impl Grammars {
    /// For a tokenizer and the model's vocabulary of `vocab` ids, of which `eos` end a text. Ids without a token are never allowed.
    ///
    /// # Errors
    /// No end-of-text id, or one outside the vocabulary; a vocabulary that the library does not take.
    pub fn new(tokenizer: &Tokenizer, eos: &[u32], vocab: usize) -> Result<Grammars, TextError> {
        let failed = |reason: String| TextError::Tokenizer(format!("grammar: {reason}"));
        if let Some(id) = eos.iter().find(|&&id| id as usize >= vocab) {
            return Err(failed(format!("end-of-text id {id} is outside the vocabulary of {vocab}")));
        }
        let size = u32::try_from(vocab).map_err(|_| failed(format!("a vocabulary of {vocab}")))?;
        let mut markers = Vec::new();
        let mut names = HashSet::new();
        let mut words = Vec::with_capacity(vocab);
        for id in 0..size {
            let bytes = tokenizer.bytes(id).unwrap_or_default();
            if tokenizer.is_special(id) || eos.contains(&id) || (tokenizer.is_added(id) && looks_like_a_marker(&bytes))
            {
                if let Ok(name) = std::str::from_utf8(&bytes)
                    && !name.is_empty()
                    && !eos.contains(&id)
                {
                    markers.push((name.to_string(), id));
                }
                let mut word = Grammars::special(&bytes);
                // Two ids of one name would be one, and an end of text needs a name in any case.
                if bytes.is_empty() || !names.insert(bytes) {
                    word.extend_from_slice(format!("[{id}]").as_bytes());
                }
                words.push(word);
            } else if bytes.len() > u16::MAX as usize / 2
                || bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) && bytes.len() > 1
            {
                words.push(Vec::new());
            } else {
                words.push(bytes);
            }
        }
        Grammars::of_words(words, eos, markers)
    }

    /// The word of a special token.
    fn special(name: &[u8]) -> Vec<u8> {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat()
    }

    /// For words by their ids, those of special tokens with `special`'s sign before them.
    fn of_words(words: Vec<Vec<u8>>, eos: &[u32], mut markers: Vec<(String, u32)>) -> Result<Grammars, TextError> {
        let failed = |reason: String| TextError::Tokenizer(format!("grammar: {reason}"));
        let first = *eos.first().ok_or_else(|| failed("the model has no end-of-text id".to_string()))?;
        let vocab = words.len();
        let size = u32::try_from(vocab).map_err(|_| failed(format!("a vocabulary of {vocab}")))?;
        let plain = words.iter().enumerate().filter(|(_, bytes)| bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER));
        let risky = Arc::new(Risky::of(plain.map(|(id, bytes)| (id as u32, bytes.as_slice())), first));
        markers.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.cmp(b)));
        let build = || -> Result<ParserFactory, String> {
            let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(eos);
            let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            let slices = SlicedBiasComputer::general_slices();
            let mut factory =
                ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|e| e.to_string())?;
            factory.quiet();
            *factory.limits_mut() = limits();
            Ok(factory)
        };
        let factory = catch_unwind(AssertUnwindSafe(build))
            .unwrap_or_else(|_| Err("the vocabulary".to_string()))
            .map_err(failed)?;
        Ok(Grammars { factory, vocab, eos: eos.to_vec(), risky, markers })
    }

    /// What another process needs to try constraints of this model.
    pub fn outline(&self) -> Outline {
        let vocab = u32::try_from(self.vocab).unwrap_or(u32::MAX);
        Outline { vocab, eos: self.eos.clone(), markers: self.markers.clone() }
    }

    /// A matcher at the start of an output.
    ///
    /// # Errors
    /// What cannot be kept, what is too large, and what is no grammar: see `GrammarError`.
    pub fn compile(&self, wanted: &Constraint) -> Result<Matcher, GrammarError> {
        self.compile_after(None, wanted)
    }

    /// A matcher for an output that may be anything up to and with `marker` (`</think>`), then white space, then what is wanted.
    ///
    /// # Errors
    /// As `compile`.
    pub fn compile_after(&self, marker: Option<&str>, wanted: &Constraint) -> Result<Matcher, GrammarError> {
        let mut warnings = Vec::new();
        let mut grammars = self.grammars(wanted, &mut warnings)?;
        if let Some(marker) = marker {
            let first = grammars[0].name.clone().unwrap_or_default();
            let lark = tool_calls::after(self, marker, &first);
            grammars.insert(0, named("after", GrammarWithLexer::from_lark(lark)));
        }
        let compiled = self.parser(grammars)?.map_err(|why| self.fault_in(wanted, &why))?;
        pieces::check(compiled.parser.grammar().lexer_spec().regex_builder.exprset())?;
        let mut parser = Parser::new(Ok(compiled)).into_cancellable();
        // Those of schemas are there already, with their places.
        warnings.extend(parser.grammar_warnings().iter().filter(|w| !doubts::are_told(w)).map(|w| one_line(w)));
        warnings.dedup();
        let json = matches!(wanted, Constraint::JsonObject | Constraint::JsonSchema { .. } | Constraint::Calls { .. });
        let numbers = json.then(|| (NumberTracker::new(), self.risky.clone(), self.factory.tok_env().clone()));
        let (vocab, bits) = (self.vocab, vec![0; self.vocab.div_ceil(32)]);
        let mut matcher = Matcher { numbers, beyond: false, parser, vocab, bits, warnings };
        match matcher.allowed() {
            Ok(_) => Ok(matcher),
            Err(GrammarError::DeadEnd) => Err(GrammarError::invalid("grammar", "nothing matches it")),
            Err(error) => Err(error),
        }
    }

    /// llguidance's parser of these grammars, or why there is none.
    fn parser(&self, grammars: Vec<GrammarWithLexer>) -> Result<Result<TokenParser, NotCompiled>, GrammarError> {
        let compile = || {
            let parser = self.factory.create_parser(TopLevelGrammar { grammars, max_tokens: None });
            let parser = parser.map_err(|e| NotCompiled::Refused(e.to_string()))?;
            match dead_ends::any(parser.parser.grammar(), self.factory.limits()) {
                Ok(false) => Ok(parser),
                Ok(true) => Err(NotCompiled::DeadEnd),
                Err(said) => Err(NotCompiled::Refused(said)),
            }
        };
        deep(compile)
    }

    /// What of a constraint is why it has no parser.
    fn fault_in(&self, wanted: &Constraint, why: &NotCompiled) -> GrammarError {
        let found = match wanted {
            Constraint::JsonSchema { schema, strict } => self.fault_in_schema(schema, *strict, why),
            // Tools that are not strict were tried before, one by one.
            Constraint::Calls { tools, named, .. } => {
                let callable = tools.iter().filter(|tool| named.as_ref().is_none_or(|name| tool.name == *name));
                callable.filter(|tool| tool.strict && !tool.parameters.is_null()).find_map(|tool| {
                    let alone =
                        Constraint::JsonSchema { schema: tool_calls::of_object(&tool.parameters), strict: true };
                    Some(self.fault_alone(&alone)?.of_tool(&tool.name))
                })
            }
            Constraint::Either(one, other) => [(true, one), (false, other)]
                .into_iter()
                .find_map(|(first, part)| Some(self.fault_alone(part)?.of_part(first))),
            _ => None,
        };
        found.unwrap_or_else(|| refusal(wanted, &why.to_string()))
    }

    /// Why a part of a constraint has no parser, if it has none alone.
    fn fault_alone(&self, part: &Constraint) -> Option<GrammarError> {
        let grammars = self.grammars(part, &mut Vec::new()).ok()?;
        let why = self.parser(grammars).ok()?.err()?;
        Some(self.fault_in(part, &why))
    }

    fn fault_in_schema(&self, schema: &Value, strict: bool, why: &NotCompiled) -> Option<GrammarError> {
        let screened = schema::screen(schema, strict).ok()?;
        match why {
            NotCompiled::Refused(said) if doubts::are_told(said) => doubts::refused(&screened),
            NotCompiled::Refused(said) if !said.contains(UNSATISFIABLE) => None,
            _ => self.empty_schema(schema, &screened, strict),
        }
    }

    /// The innermost part of a schema that has a dead end, if it has one.
    fn empty_schema(&self, original: &Value, screened: &Screened, strict: bool) -> Option<GrammarError> {
        let empty = |schema: Value| match self.parser(vec![json_grammar("part", schema, !strict)]) {
            Ok(Err(why @ NotCompiled::DeadEnd)) => Some(why.to_string()),
            Ok(Err(NotCompiled::Refused(said))) => Some(one_line(said.split_once(UNSATISFIABLE)?.1)),
            _ => None,
        };
        let whole = empty(screened.schema.clone())?;
        let (path, mut reason) = dead_ends::innermost(screened, whole, empty);
        let part = path.strip_prefix('#').and_then(|pointer| original.pointer(pointer));
        if part.is_some_and(|part| part["enum"] == json!([])) {
            reason = "`enum` is empty; list at least one value".to_string();
        }
        Some(GrammarError::Unsatisfiable { path, reason })
    }

    /// The grammars of a constraint; the first is where it starts.
    fn grammars(&self, wanted: &Constraint, warnings: &mut Vec<String>) -> Result<Vec<GrammarWithLexer>, GrammarError> {
        Ok(vec![match wanted {
            Constraint::JsonObject => json_grammar("answer", json!({"type": "object"}), false),
            Constraint::JsonSchema { schema, strict } => {
                let screened = schema::screen(schema, *strict)?;
                if !strict {
                    warnings.extend(doubts::warnings(&screened));
                }
                warnings.extend(screened.warnings);
                json_grammar("answer", screened.schema, !strict)
            }
            Constraint::Regex(regex) => {
                regex::check(regex).map_err(|reason| regex::refusal("regex", reason))?;
                let ascii = llguidance::regex_to_lark(regex, "dw");
                named("answer", GrammarWithLexer::from_lark(format!("start: /{ascii}/")))
            }
            Constraint::Lark(lark) => {
                check_lark(lark)?;
                named("answer", GrammarWithLexer::from_lark(lark.clone()))
            }
            Constraint::Choice(choices) => {
                at_most("choices", choices.len(), CHOICES_MAX)?;
                at_most("choices: bytes", choices.iter().map(String::len).sum(), CHOICE_BYTES_MAX)?;
                if choices.is_empty() || choices.iter().any(String::is_empty) {
                    return Err(GrammarError::invalid("choices", "there is none, or an empty one"));
                }
                let options: Vec<String> = choices.iter().map(|c| tool_calls::quoted(c)).collect();
                named("answer", GrammarWithLexer::from_lark(format!("start: CHOICE\nCHOICE: {}", options.join(" | "))))
            }
            Constraint::Either(one, other) => {
                let one = self.grammars(one, warnings).map_err(|e| e.of_part(true))?;
                let other = self.grammars(other, warnings).map_err(|e| e.of_part(false))?;
                let name = |list: &[GrammarWithLexer]| list[0].name.clone().unwrap_or_default();
                let lark = format!("start: @{} | @{}", name(&one), name(&other));
                let mut all = vec![named("either", GrammarWithLexer::from_lark(lark))];
                all.extend(one);
                all.extend(other);
                return Ok(all);
            }
            Constraint::Calls { tools, required, one_only, named, syntax } => {
                return tool_calls::grammars(self, tools, *required, *one_only, named.as_deref(), syntax, warnings);
            }
        }])
    }

    /// The id of a text that is a marker of this vocabulary.
    fn marker(&self, text: &str) -> Option<u32> {
        self.markers.iter().find(|(name, _)| name == text).map(|(_, id)| *id)
    }
}

/// Does something on a thread of its own, so that how deep a schema may be does not depend on the caller's stack.
fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, GrammarError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".to_string()).stack_size(COMPILE_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|e| GrammarError::Fault(e.to_string()))?;
        thread.join().map_err(|_| GrammarError::Fault("it panicked".to_string()))
    })
}

/// Whether an added token that is not declared special has the shape of one: `<think>`, `<tool_call>`.
fn looks_like_a_marker(bytes: &[u8]) -> bool {
    bytes.len() > 2 && bytes.starts_with(b"<") && bytes.ends_with(b">")
}

/// How llguidance's words begin for a schema that it sees to be empty.
const UNSATISFIABLE: &str = "Unsatisfiable schema: ";

#[derive(Debug, Error)]
enum NotCompiled {
    /// llguidance's words.
    #[error("{0}")]
    Refused(String),
    /// See `dead_ends`.
    #[error("no text matches it, or what must follow somewhere in it")]
    DeadEnd,
}

fn named(name: &str, grammar: GrammarWithLexer) -> GrammarWithLexer {
    GrammarWithLexer { name: Some(name.to_string()), ..grammar }
}

/// A JSON grammar with our options, which llguidance reads from the schema itself. What a request put there was taken out before.
fn json_grammar(name: &str, mut schema: Value, lenient: bool) -> GrammarWithLexer {
    if let Some(object) = schema.as_object_mut() {
        let options = json!({
            "item_separator": ", ?",
            "key_separator": ": ?",
            "whitespace_flexible": false,
            // No \uXXXX: one spelling a character, so that no name can be written twice in two ways.
            "json_allowed_escapes": "nrbtf\\\"",
            "lenient": lenient,
        });
        object.insert("x-guidance".to_string(), options);
    }
    GrammarWithLexer { name: Some(name.to_string()), json_schema: Some(schema), lark_grammar: None }
}

fn check_lark(lark: &str) -> Result<(), GrammarError> {
    at_most("Lark grammar: bytes", lark.len(), LARK_BYTES_MAX)?;
    let (mut depth, mut deepest) = (0usize, 0usize);
    for c in lark.bytes() {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    at_most("Lark grammar: nested brackets", deepest, LARK_DEPTH_MAX)?;
    at_most("Lark grammar: negations", lark.bytes().filter(|&c| c == b'~').count(), LARK_DEPTH_MAX)?;
    regex::check_repeats(lark).map_err(|reason| regex::refusal("Lark grammar", reason))?;
    // A schema inside would not be screened, and ids may have no token: markers are written by name.
    for word in ["%json", "%regex", "max_tokens", "temperature", "<["] {
        if lark.contains(word) {
            return Err(GrammarError::invalid("Lark grammar", format!("`{word}` is not taken")));
        }
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    let mut lines = text.lines();
    let mut line = lines.next().unwrap_or_default().to_string();
    if line.ends_with(':') {
        // What is wrong comes in the lines after it.
        lines.for_each(|more| line = format!("{line} {}", more.trim()));
    }
    let end = line.char_indices().nth(300).map_or(line.len(), |(at, _)| at);
    line[..end].to_string()
}

/// Whether llguidance speaks of one of its limits: its errors are words.
fn is_a_limit(line: &str) -> bool {
    let words = [
        "too large",
        "too big",
        "limit",
        "stack level",
        "fuel",
        "too complex",
        "Unable to determine",
        "too many",
        "Current row has",
    ];
    words.iter().any(|word| line.contains(word))
}

/// llguidance's words for what it does not compile, as one of ours.
fn refusal(wanted: &Constraint, said: &str) -> GrammarError {
    let line = one_line(said);
    if line.starts_with("panic") {
        return GrammarError::Fault(line);
    }
    if is_a_limit(&line) {
        return GrammarError::TooComplex(line);
    }
    let what = match wanted {
        Constraint::JsonObject | Constraint::JsonSchema { .. } => "schema",
        Constraint::Regex(_) => "regex",
        Constraint::Lark(_) => "Lark grammar",
        Constraint::Choice(_) => "choices",
        Constraint::Calls { .. } => "tools",
        Constraint::Either(..) => "tools and schema",
    };
    GrammarError::invalid(what, line)
}
