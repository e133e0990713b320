//! The first documents of each source on their way through the steps: what each step does to them and why, without anything being written

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use similar::TextDiff;

use crate::document::Document;
use crate::readers::Item;
use crate::recipe::{Entry, Recipe};
use crate::step::{self, Reason, Verdict};
use crate::{Error, origin, part};

/// Records that are looked at for the documents of a source: one whose records are damaged or passed over is not read to its end.
const RECORDS_MAX: usize = 10_000;

/// Damaged records that are shown of a source.
const DAMAGED_MAX: usize = 5;

/// Bytes of a document that are shown.
const SHOWN_BYTES: usize = 4 << 10;

/// Bytes of a text whose changes are shown line by line.
const COMPARED_BYTES_MAX: usize = 256 << 10;

/// Time that the comparison of two texts may take; after it the changes are less exact.
const COMPARED_FOR: Duration = Duration::from_millis(200);

/// A source and its first documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourcePreview {
    /// Its name.
    pub name: String,
    /// Its first documents.
    pub documents: Vec<DocumentPreview>,
    /// The first of its records that could not be read.
    pub damaged: Vec<DamagedPreview>,
    /// Records among them that hold no document, by kind.
    pub passed_over: BTreeMap<String, u64>,
    /// Whether so many records without a document came that no more were read.
    pub given_up: bool,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DamagedPreview {
    /// File and line, row or record.
    pub place: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A document and what steps do to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DocumentPreview {
    /// Its id.
    pub id: String,
    /// Bytes of its text as it was read.
    pub bytes: usize,
    /// How its text begins as it was read.
    pub text: String,
    /// Labels as they were read.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub labels: Map<String, Value>,
    /// The steps for its source in order, up to the one that drops it.
    pub steps: Vec<StepPreview>,
}

/// What one step does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepPreview {
    /// Its name.
    pub step: &'static str,
    /// What it does.
    #[serde(flatten)]
    pub effect: Effect,
}

/// What a step does to a document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// It goes on as it is.
    Kept,
    /// It goes on with the same text and other labels.
    Labelled {
        /// Labels that are new or another.
        labels: Map<String, Value>,
    },
    /// It goes on with another text.
    Changed {
        /// Bytes of the text after it.
        bytes: usize,
        /// What changed in the text, as a unified diff; none if the text is long.
        diff: Option<String>,
        /// Labels that are new or another.
        labels: Map<String, Value>,
    },
    /// It goes no further.
    Dropped {
        /// By which rule.
        rule: &'static str,
        /// The value that broke it.
        detail: String,
    },
    /// A join: decided once all documents are read.
    Unknown,
}

/// Sends the first documents of each source through the steps. Checksums of files are not compared, since that reads them whole.
///
/// # Errors
/// A source that is not there or not what the recipe says.
pub fn preview(recipe: &Recipe, documents: usize) -> Result<Vec<SourcePreview>, Error> {
    let parts = part::of(&recipe.sources, &recipe.directory(), recipe.stores.as_deref())?;
    let source = |(number, source): (usize, &crate::source::Source)| {
        let mut preview = SourcePreview {
            name: source.name.clone(),
            documents: Vec::new(),
            damaged: Vec::new(),
            passed_over: BTreeMap::new(),
            given_up: false,
        };
        let mut records = 0;
        for part in parts.iter().filter(|part| part.source as usize == number) {
            if preview.documents.len() == documents || preview.given_up {
                break;
            }
            let mut done = false;
            let read = origin::read(recipe, part, &mut |item| {
                records += 1;
                preview.add(item, recipe, number);
                preview.given_up = records == RECORDS_MAX && preview.documents.len() < documents;
                done = preview.documents.len() == documents || preview.given_up;
                if done { Err(Error::Stopped) } else { Ok(()) }
            });
            match read {
                Err(Error::Stopped) if done => {}
                read => read?,
            }
        }
        Ok(preview)
    };
    recipe.sources.iter().enumerate().map(source).collect()
}

impl SourcePreview {
    fn add(&mut self, item: Item, recipe: &Recipe, source: usize) {
        match item {
            Item::Document(document) => self.documents.push(passage(document, recipe, source)),
            Item::Damaged(damaged) if self.damaged.len() < DAMAGED_MAX => {
                self.damaged.push(DamagedPreview { place: damaged.place, problem: damaged.problem });
            }
            Item::Damaged(_) => {}
            Item::PassedOver(kind) => *self.passed_over.entry(kind).or_default() += 1,
        }
    }
}

fn passage(mut document: Document, recipe: &Recipe, source: usize) -> DocumentPreview {
    let text = document.text();
    let mut preview = DocumentPreview {
        id: document.id.clone(),
        bytes: text.len(),
        text: text[..text.floor_char_boundary(SHOWN_BYTES)].to_string(),
        labels: document.labels.clone(),
        steps: Vec::new(),
    };
    if let Some(reason) = step::empty(&document) {
        preview.steps.push(StepPreview { step: "read", effect: dropped(reason) });
        return preview;
    }
    for entry in recipe.steps.iter().filter(|entry| entry.is_for(source)) {
        let effect = effect(entry, &mut document);
        let is_dropped = matches!(effect, Effect::Dropped { .. });
        preview.steps.push(StepPreview { step: entry.name, effect });
        if is_dropped {
            break;
        }
    }
    preview
}

fn dropped(reason: Reason) -> Effect {
    Effect::Dropped { rule: reason.rule, detail: reason.detail.into_owned() }
}

fn effect(entry: &Entry, document: &mut Document) -> Effect {
    let Some(step) = entry.alone() else { return Effect::Unknown };
    let before = document.clone();
    if let Verdict::Drop(reason) = step.apply(document) {
        return dropped(reason);
    }
    let is_new = |(name, value): &(&String, &Value)| before.labels.get(*name) != Some(*value);
    let labels: Map<String, Value> =
        document.labels.iter().filter(is_new).map(|(name, value)| (name.clone(), value.clone())).collect();
    if before.text() == document.text() {
        return if labels.is_empty() { Effect::Kept } else { Effect::Labelled { labels } };
    }
    Effect::Changed { bytes: document.text().len(), diff: diff(before.text(), document.text()), labels }
}

fn diff(before: &str, after: &str) -> Option<String> {
    if before.len().max(after.len()) > COMPARED_BYTES_MAX {
        return None;
    }
    let diff = TextDiff::configure().timeout(COMPARED_FOR).diff_lines(before, after);
    Some(diff.unified_diff().context_radius(1).missing_newline_hint(false).to_string())
}
