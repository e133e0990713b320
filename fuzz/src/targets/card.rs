//! Facts of a model card: what is rendered has one front matter, whose lines nobody else wrote.
use convert::{CardFiles, ModelCard};

/// Runs the target on one input.
pub fn run(data: &[u8]) {
    let Ok(card) = serde_json::from_slice::<ModelCard>(data) else { return };
    let text = card.render(&CardFiles::default());
    let (matter, rest) =
        text.strip_prefix("---\n").and_then(|text| text.split_once("\n---\n")).expect("a front matter");
    let known =
        ["license: \"", "language:", "pipeline_tag: text-generation", "base_model: \"", "datasets:", "tags:", "  - \""];
    assert!(matter.lines().all(|line| known.iter().any(|start| line.starts_with(start))), "{matter}");
    assert!(card.name.is_empty() || rest.starts_with("\n# "));
    // The last bit of a number may change when it is read again, no text does.
    let again = serde_json::to_vec(&card).expect("facts are JSON");
    let again = serde_json::from_slice::<ModelCard>(&again).expect("what was written is read");
    assert_eq!(
        (again.name, again.data, again.results, again.limits),
        (card.name, card.data, card.results, card.limits)
    );
}
