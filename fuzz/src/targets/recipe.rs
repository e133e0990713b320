//! A recipe, and the steps it names over text: an input is a recipe, a line of 0x1e (record separator), and a text. What a recipe makes of a text is
//! the same each time, and each step's words are those of its text.
use std::path::Path;

use data::generators::manual::Manual;
use data::recipe::Recipe;
use data::{Document, Verdict};

/// Bytes of text that go through the steps.
const TEXT_BYTES: usize = 1 << 14;

/// What becomes of a text: its forms, and the rule that dropped it.
fn outcome(recipe: &Recipe, text: &str) -> (Vec<String>, Option<&'static str>) {
    let mut document = Document::new("fuzz#1", text);
    let (mut forms, mut records) = (Vec::new(), Vec::new());
    for entry in &recipe.steps {
        if let Some(join) = entry.joined() {
            join.records(&mut document, &mut records);
            continue;
        }
        let step = entry.alone().expect("a step that joins nothing");
        match step.apply(&mut document) {
            Verdict::Drop(reason) => return (forms, Some(reason.rule)),
            Verdict::Keep => forms.push(document.text().to_string()),
        }
        document.split_words();
        assert!(document.words().all(|word| !word.is_empty()));
    }
    forms.push(format!("{records:?}"));
    (forms, None)
}

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let input = String::from_utf8_lossy(data);
    let (recipe, text) = input.split_once('\u{1e}').unwrap_or((&input, ""));
    // Files of this machine are no part of the input.
    if recipe.contains("file") && recipe.contains('/') || recipe.contains("..") {
        return;
    }
    let Ok(recipe) = Recipe::parse(Path::new("recipe.toml"), recipe.to_string(), &Manual::default()) else { return };
    let text = &text[..text.floor_char_boundary(TEXT_BYTES)];
    assert_eq!(outcome(&recipe, text), outcome(&recipe, text));
}
