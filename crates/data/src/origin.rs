//! Where a part's documents come from: files by the readers, or a generator with a random generator for each document

use std::path::Path;

use rand_pcg::Pcg64;
use serde_json::Value;

use crate::part::{self, Part};
use crate::readers::{self, Emit, Item};
use crate::recipe::Recipe;
use crate::{Document, Error};

/// Cuts the sources of a recipe into parts, and compares their checksums.
///
/// # Errors
/// A source that is not there, or another than the recipe says.
pub fn parts(recipe: &Recipe) -> Result<Vec<Part>, Error> {
    let directory = recipe.directory();
    let parts = part::of(&recipe.sources, &directory, recipe.stores.as_deref())?;
    for source in recipe.sources.iter().filter(|source| source.sha256.is_some()) {
        source.verify(&source.files(&directory, recipe.stores.as_deref())?)?;
    }
    match u32::try_from(parts.len()) {
        Ok(1..) => Ok(parts),
        Ok(0) => Err(Error::file(&recipe.file, "its sources have no documents: there is nothing to do")),
        Err(_) => Err(Error::file(&recipe.file, format!("{} parts are more than can be numbered", parts.len()))),
    }
}

/// What all phases follow from besides their steps: this program's version, the seed, the settings of the sources, and the files as they are now.
///
/// # Errors
/// A file that is gone.
pub fn identity(recipe: &Recipe, parts: &[Part]) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: String| {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    };
    add(format!("{} {} {}", env!("CARGO_PKG_VERSION"), recipe.seed, recipe.held_out));
    recipe.sources.iter().for_each(|source| add(format!("{source:?}")));
    for part in parts.iter().flat_map(Part::files) {
        let mut changed = None;
        if recipe.sources[part.source as usize].generate.is_none() {
            changed = Some(part.file.version().map_err(Error::io(&part.file))?);
        }
        add(format!("{} {} {:?} {changed:?}", part.source, part.name, part.range));
    }
    Ok(hasher.finalize())
}

/// Refuses sources among what a run makes: it would read its own documents again.
///
/// # Errors
/// The first such file.
pub fn check_apart(recipe: &Recipe, parts: &[Part], out: &Path) -> Result<(), Error> {
    let Ok(out) = out.canonicalize() else { return Ok(()) };
    let inside = |file: &Path| file.canonicalize().is_ok_and(|file| file.starts_with(&out));
    let read = parts.iter().filter(|part| recipe.sources[part.source as usize].generate.is_none());
    match read.flat_map(Part::files).find(|part| inside(part.file.path())) {
        None => Ok(()),
        Some(part) => {
            let source = &recipe.sources[part.source as usize].name;
            let problem = format!(
                "source {source} reads it, and it is in {}, where the dataset goes; name other files, or another directory with --out",
                out.display()
            );
            Err(Error::file(part.file.path(), problem))
        }
    }
}

/// A number from 0 up to 1 that follows from the seed, a purpose and a name.
fn drawn(seed: u64, purpose: &str, name: &str) -> f64 {
    let hash = blake3::hash(format!("{seed} {purpose} {name}").as_bytes());
    let bytes = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}

/// The random generator of one generated document.
fn random(seed: u64, source: &str, number: u64) -> Pcg64 {
    let hash = blake3::hash(format!("{seed} generate {source} {number}").as_bytes());
    let half =
        |range: std::ops::Range<usize>| u128::from_le_bytes(hash.as_bytes()[range].try_into().expect("16 bytes"));
    Pcg64::new(half(0..16), half(16..32))
}

/// Reads the documents of a part in order, each with the label `held_out` if it is drawn for validation: by its text, so that copies are drawn together.
/// Generated documents are drawn by number, and those of the held-out set are made of frames that the others never have.
///
/// # Errors
/// As [`readers::read`].
pub fn read(recipe: &Recipe, part: &Part, emit: Emit) -> Result<(), Error> {
    let source = &recipe.sources[part.source as usize];
    let is_held_out = |name: &str| recipe.held_out > 0.0 && drawn(recipe.seed, "held out", name) < recipe.held_out;
    let Some(generator) = &recipe.generators[part.source as usize] else {
        return readers::read(source, part, &mut |item| match item {
            Item::Document(mut document) => {
                let held_out = is_held_out(document.text());
                mark(&mut document, held_out);
                emit(Item::Document(document))
            }
            other => emit(other),
        });
    };
    for number in part.range.clone() {
        let id = format!("{}#{number}", source.name);
        let held_out = is_held_out(&id);
        let generated = generator.generate(&mut random(recipe.seed, &source.name, number), held_out);
        let mut document = Document::new(id, generated.text);
        document.labels = generated.labels;
        mark(&mut document, held_out);
        emit(Item::Document(document))?;
    }
    Ok(())
}

/// Labels a document of the held-out set. A record's own label of that name has no say.
fn mark(document: &mut Document, held_out: bool) {
    if held_out {
        document.labels.insert("held_out".into(), Value::Bool(true));
    } else {
        document.labels.remove("held_out");
    }
}
