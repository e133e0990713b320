//! Recipes: a corpus as a short file that reads like a method section

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use crate::generators::manual::Manual;
use crate::generators::{self, Generator};
use crate::join::Join;
use crate::packing::TokenizerSettings;
use crate::shards::mix;
use crate::source::Source;
use crate::step::Step;
use crate::steps::{self, Made, Surroundings};
use crate::store::Stores;
use crate::{Error, options};

/// Bytes of a recipe: more than any that people write.
const RECIPE_BYTES_MAX: u64 = 1 << 20;

/// Sources of a recipe: each is counted for each rule, and named in the report.
const SOURCES_MAX: usize = 2000;

/// Steps of a recipe: each that compares documents is a phase, which writes all of them.
const STEPS_MAX: usize = 200;

/// A recipe whose steps and sources are known and whose settings make sense.
pub struct Recipe {
    /// Its file.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
    /// The corpus's name.
    pub name: String,
    /// What the corpus is, for the card.
    pub description: String,
    /// Seed of everything that is drawn.
    pub seed: u64,
    /// Share of the documents that are held out for validation.
    pub held_out: f64,
    /// Whether dropped documents are kept aside whole, not only as samples.
    pub keep_rejected: bool,
    /// Where documents come from, in order.
    pub sources: Vec<Source>,
    /// Who opens the buckets that sources name: nobody, as it is read.
    pub stores: Option<Arc<dyn Stores>>,
    /// What makes the documents of each source that has no files.
    pub generators: Vec<Option<Box<dyn Generator>>>,
    /// What is done with them, in order.
    pub steps: Vec<Entry>,
    /// Which tokenizer, if there is to be one.
    pub tokenizer: Option<TokenizerSettings>,
    /// How tokens are mixed into shards, if they are to be.
    pub shards: Option<mix::Settings>,
}

/// A step of a recipe.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The sources that it is for: all if absent.
    pub sources: Option<BTreeSet<usize>>,
    /// Its settings as they were written.
    pub settings: toml::Table,
    /// What it does.
    pub made: Made,
}

impl Entry {
    /// Whether documents of this source go through it.
    pub fn is_for(&self, source: usize) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(&source))
    }

    /// The step, if it looks at each document alone.
    pub fn alone(&self) -> Option<&dyn Step> {
        match &self.made {
            Made::Alone(step) => Some(step.as_ref()),
            Made::Joined(_) => None,
        }
    }

    /// The step, if it compares documents with all others.
    pub fn joined(&self) -> Option<&dyn Join> {
        match &self.made {
            Made::Alone(_) => None,
            Made::Joined(join) => Some(join.as_ref()),
        }
    }
}

/// A recipe as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    held_out: f64,
    #[serde(default = "yes")]
    keep_rejected: bool,
    sources: Vec<Spanned<toml::Table>>,
    #[serde(default)]
    steps: Vec<Spanned<toml::Table>>,
    tokenizer: Option<Spanned<toml::Table>>,
    shards: Option<Spanned<toml::Table>>,
}

fn yes() -> bool {
    true
}

/// A problem with its place in the text, as a byte.
type Problem = (usize, String);

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// With the line: what is not TOML, not known, missing or impossible.
    pub fn read(file: &Path, manual: &Manual) -> Result<Recipe, Error> {
        let bytes = std::fs::metadata(file).map_err(Error::io(file))?.len();
        if bytes > RECIPE_BYTES_MAX {
            return Err(Error::file(file, format!("{bytes} bytes are no recipe: at most {RECIPE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
        Recipe::parse(file, text, manual)
    }

    /// Parses the text of a recipe. Relative paths in it start from the directory of `file`.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(file: &Path, text: String, manual: &Manual) -> Result<Recipe, Error> {
        let at = |(byte, problem): Problem| Error::Recipe {
            file: file.to_path_buf(),
            line: text[..text.floor_char_boundary(byte)].matches('\n').count() + 1,
            problem,
        };
        let wrong = |e: toml::de::Error| {
            let problem = options::with_nearest(e.message().trim()).replace('\n', "; ");
            at(single_table(&text).unwrap_or((e.span().map_or(0, |span| span.start), problem)))
        };
        let written: Written = toml::from_str(&text).map_err(wrong)?;
        if !(0.0..1.0).contains(&written.held_out) {
            let problem = format!(
                "held_out = {} is no share of the documents: from 0 (none) to below 1 (all), such as 0.01",
                written.held_out
            );
            return Err(at((text.find("held_out").unwrap_or(0), problem)));
        }
        // It is a directory's too: `..` would be somebody else's.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if written.name.is_empty() || written.name.starts_with('.') || !written.name.chars().all(plain) {
            let problem = format!("name = {:?}: letters, digits and `-`, `_`, `.` make a name", written.name);
            return Err(at((text.find("name").unwrap_or(0), problem)));
        }
        let directory = directory_of(file);
        let surroundings = Surroundings { directory: &directory, seed: written.seed };
        let (sources, generators) = sources(&text, written.sources, manual).map_err(at)?;
        let steps = steps(&text, written.steps, &sources, surroundings).map_err(at)?;
        let tokenizer = tokenizer(&text, written.tokenizer, &directory).map_err(at)?;
        let shards = shards(&text, written.shards, tokenizer.is_some()).map_err(at)?;
        if shards.is_none() {
            check_shares(&text, &sources).map_err(at)?;
        }
        Ok(Recipe {
            file: file.to_path_buf(),
            name: written.name,
            description: written.description,
            seed: written.seed,
            held_out: written.held_out,
            keep_rejected: written.keep_rejected,
            sources,
            stores: None,
            generators,
            steps,
            tokenizer,
            shards,
            text,
        })
    }

    /// The directory from which its relative paths start.
    pub fn directory(&self) -> PathBuf {
        directory_of(&self.file)
    }
}

/// The problem of a recipe that has `[sources]` or `[steps]`, one table, where a list belongs.
fn single_table(text: &str) -> Option<Problem> {
    let table: toml::Table = text.parse().ok()?;
    let name = ["sources", "steps"].into_iter().find(|name| table.get(*name).is_some_and(toml::Value::is_table))?;
    let problem = format!("[{name}] is a single table; write [[{name}]] above each of the {name}");
    Some((text.find(&format!("[{name}")).unwrap_or(0), problem))
}

/// Refuses shares of tokens where no tokens are mixed.
fn check_shares(text: &str, sources: &[Source]) -> Result<(), Problem> {
    for source in sources {
        let shares = [("weight", source.weight), ("epochs", source.epochs)];
        if let Some((key, _)) = shares.iter().find(|(_, share)| share.is_some()) {
            let start = text.find(&format!("\"{}\"", source.name)).unwrap_or(0);
            let problem = format!(
                "source {}: `{key}` is a share of the tokens in shards, and the recipe has no [shards]",
                source.name
            );
            return Err((place(text, text[..start].rfind("[[").unwrap_or(0), &problem), problem));
        }
    }
    Ok(())
}

fn directory_of(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

/// The place of the key that a problem names in backquotes, or begins with, in the table that starts at `start`: the table itself if there is none.
fn place(text: &str, start: usize, problem: &str) -> usize {
    let named = problem.rsplit_once(", in `").map_or(problem.split('`').nth(1), |(_, key)| key.split('`').next());
    let Some(key) = named.or_else(|| problem.split_whitespace().next()) else { return start };
    let table = &text[start..];
    let end = table[1..].find("\n[[").map_or(table.len(), |end| end + 1);
    let mut line_start = 0;
    for line in table[..end].split_inclusive('\n') {
        let assigned = line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
        if assigned {
            return start + line_start;
        }
        line_start += line.len();
    }
    start
}

/// Settings of a table of the recipe, or the problem with its place.
fn read<T: DeserializeOwned>(text: &str, start: usize, table: toml::Table) -> Result<T, Problem> {
    options::read(table).map_err(|problem| (place(text, start, &problem), problem))
}

type Sources = (Vec<Source>, Vec<Option<Box<dyn Generator>>>);

fn sources(text: &str, written: Vec<Spanned<toml::Table>>, manual: &Manual) -> Result<Sources, Problem> {
    if written.is_empty() {
        return Err((0, "a recipe needs a source: [[sources]] with a name and files".into()));
    }
    if let Some(beyond) = written.get(SOURCES_MAX) {
        let problem =
            format!("{} sources; a recipe has at most {SOURCES_MAX}: a source may have many globs", written.len());
        return Err((beyond.span().start, problem));
    }
    let (mut sources, mut made): (Vec<Source>, _) = (Vec::new(), Vec::new());
    for table in written {
        let start = table.span().start;
        let source: Source = read(text, start, table.into_inner())?;
        let at = |problem: String| (place(text, start, &problem), problem);
        source.check().map_err(at)?;
        if sources.iter().any(|other| other.name == source.name) {
            return Err((start, format!("source {}: there are two of this name", source.name)));
        }
        let generator = match source.generate.as_deref() {
            None => None,
            Some(name) => {
                let kind = generators::KINDS.iter().find(|kind| kind.name == name);
                let kind =
                    kind.ok_or_else(|| at(format!("source {}: generate = {name:?} is not known", source.name)))?;
                let generator = (kind.make)(source.settings.clone(), manual);
                Some(generator.map_err(|problem| at(format!("source {}: {problem}", source.name)))?)
            }
        };
        sources.push(source);
        made.push(generator);
    }
    Ok((sources, made))
}

fn steps(
    text: &str,
    written: Vec<Spanned<toml::Table>>,
    sources: &[Source],
    surroundings: Surroundings,
) -> Result<Vec<Entry>, Problem> {
    if let Some(beyond) = written.get(STEPS_MAX) {
        let problem = format!(
            "{} steps; a recipe has at most {STEPS_MAX}: make a dataset of the first, and go on from it",
            written.len()
        );
        return Err((beyond.span().start, problem));
    }
    let mut entries = Vec::with_capacity(written.len());
    for table in written {
        let start = table.span().start;
        let at = |problem: String| (place(text, start, &problem), problem);
        let mut settings = table.into_inner();
        let name = match settings.remove("step") {
            Some(toml::Value::String(name)) => name,
            Some(other) => return Err((start, format!("step = {other} is no name of a step"))),
            None => return Err((start, format!("a step needs its name: step = \"{}\"", known_steps().join("\", \"")))),
        };
        let Some(kind) = steps::KINDS.iter().find(|kind| kind.name == name) else {
            let near = options::did_you_mean(&name, known_steps());
            return Err((start, format!("step = {name:?} is not known{near}; there are {}", known_steps().join(", "))));
        };
        let only = settings.remove("sources").map(|only| named_sources(&only, sources)).transpose().map_err(at)?;
        let made = (kind.make)(settings.clone(), surroundings).map_err(|problem| at(format!("{name}: {problem}")))?;
        entries.push(Entry { name: kind.name, sources: only, settings, made });
    }
    Ok(entries)
}

fn known_steps() -> Vec<&'static str> {
    steps::KINDS.iter().map(|kind| kind.name).collect()
}

fn named_sources(only: &toml::Value, sources: &[Source]) -> Result<BTreeSet<usize>, String> {
    let names = only.as_array().filter(|names| !names.is_empty());
    let names = names.ok_or("`sources` of a step is a list of names of sources")?;
    let mut found = BTreeSet::new();
    for name in names {
        let index = sources.iter().position(|source| Some(source.name.as_str()) == name.as_str());
        let near = || options::did_you_mean(name.as_str().unwrap_or_default(), sources.iter().map(|s| s.name.as_str()));
        found.insert(
            index.ok_or_else(|| format!("`sources` names {name}, and there is no source of that name{}", near()))?,
        );
    }
    Ok(found)
}

fn tokenizer(
    text: &str,
    written: Option<Spanned<toml::Table>>,
    directory: &Path,
) -> Result<Option<TokenizerSettings>, Problem> {
    let Some(table) = written else { return Ok(None) };
    let start = table.span().start;
    let settings = TokenizerSettings::read(table.into_inner(), directory);
    settings.map(Some).map_err(|problem| (place(text, start, &problem), problem))
}

fn shards(
    text: &str,
    written: Option<Spanned<toml::Table>>,
    has_tokenizer: bool,
) -> Result<Option<mix::Settings>, Problem> {
    let Some(table) = written else { return Ok(None) };
    let start = table.span().start;
    if !has_tokenizer {
        return Err((start, "[shards] needs a [tokenizer]: vocabulary_size to train one, or file".into()));
    }
    let table = table.into_inner();
    if table.contains_key("held_out") {
        let problem =
            "`held_out` stands at the top of a recipe, since generators and deduplication follow it".to_string();
        return Err((place(text, start, &problem), problem));
    }
    let settings: mix::Settings = read(text, start, table)?;
    settings.check().map_err(|problem| (place(text, start, &problem), problem))?;
    Ok(Some(settings))
}
