//! A quality classifier that is trained in place on examples of good and bad text: logistic regression over hashed n-grams of words

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::limits::{at_least, check_shares};
use super::{Made, Surroundings};
use crate::readers::{self, Item};
use crate::source::{Format, Source};
use crate::store::check_path;
use crate::{Document, Step, Verdict, part, words};

/// The form of DCLM's and FineWeb-Edu's filters (arXiv:2406.11794, section 4.4: a linear model over word n-grams, good examples against others), trained on the recipe's own
/// examples. Each document gets the label `quality`, from 0 to 1.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Files of good examples, as globs from the recipe's directory: text (a file a document, or cut at `separator`) or JSON Lines.
    pub good: Vec<String>,
    /// Files of bad ones.
    pub bad: Vec<String>,
    /// The line that ends a document of a text file.
    pub separator: Option<String>,
    /// Quality below which a document is dropped; with 0 it is only labelled.
    pub min: f64,
    /// Words of the longest n-gram.
    pub words: usize,
    /// Words of a document that are looked at, from its start.
    pub words_max: usize,
    /// Examples of either kind that are used, chosen by the hashes of their texts.
    pub examples_max: usize,
    /// Passes over the examples.
    pub epochs: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            good: Vec::new(),
            bad: Vec::new(),
            separator: None,
            min: 0.5,
            words: 2,
            words_max: 500,
            examples_max: 20_000,
            epochs: 5,
        }
    }
}

/// Bits of a hashed n-gram: a weight each.
const BITS: u32 = 20;

/// Step of the first example; it falls to nothing over the passes. Examples have length 1.
const RATE: f32 = 8.0;

/// Examples of either kind without which training says nothing.
const EXAMPLES_MIN: usize = 20;

/// One of so many examples is held out.
const HELD_OUT: usize = 10;

impl super::Settings for Settings {
    fn make(self, surroundings: Surroundings) -> Result<Made, String> {
        Ok(Made::Alone(Box::new(Classifier::train(self, surroundings)?)))
    }
}

/// How the classifier did on examples that it was not trained on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Held {
    /// Good examples that it was trained on.
    pub good: usize,
    /// Bad ones.
    pub bad: usize,
    /// Examples held out, of both kinds.
    pub held_out: usize,
    /// Share of these on the right side of 0.5.
    pub accuracy: f64,
    /// Probability that a good one is above a bad one: the area under the ROC curve.
    pub auc: f64,
}

/// N-grams of a document by hash, ascending, each with its weight: counts, brought to length 1.
type Features = Vec<(u32, f32)>;

/// A trained classifier.
pub struct Classifier {
    settings: Settings,
    weights: Vec<f32>,
    bias: f32,
    held: Held,
}

impl Classifier {
    /// Reads the examples and trains, in the order that the seed gives: the same examples and seed give the same classifier.
    ///
    /// # Errors
    /// In words: files that are not there or cannot be read, too few examples, a text that is both good and bad.
    pub fn train(settings: Settings, surroundings: Surroundings) -> Result<Classifier, String> {
        check_shares(&[("min", settings.min)])?;
        for (name, value) in [("words", settings.words), ("words_max", settings.words_max), ("epochs", settings.epochs)]
        {
            if value == 0 || (name == "words" && value > 5) {
                return Err(format!("{name} {value} is out of range"));
            }
        }
        let good = examples("good", &settings.good, &settings, surroundings)?;
        let bad = examples("bad", &settings.bad, &settings, surroundings)?;
        if let Some((_, (_, text))) = good.iter().find(|(hash, _)| bad.contains_key(hash)) {
            return Err(format!("a text is among the good examples and the bad ones: {text:?}"));
        }
        let (good, good_held) = split(good);
        let (bad, bad_held) = split(bad);
        let counts = [good.len(), bad.len()];
        let mut classifier = Classifier {
            settings,
            weights: vec![0.0; 1 << BITS],
            bias: 0.0,
            held: Held { good: counts[0], bad: counts[1], held_out: 0, accuracy: 0.0, auc: 0.0 },
        };
        let label = |examples: Vec<Features>, good: bool| examples.into_iter().map(move |features| (features, good));
        let mut training: Vec<_> = label(good, true).chain(label(bad, false)).collect();
        let mut random = Pcg64::seed_from_u64(surroundings.seed);
        let steps = training.len() * classifier.settings.epochs;
        for epoch in 0..classifier.settings.epochs {
            training.shuffle(&mut random);
            for (at, (features, good)) in training.iter().enumerate() {
                let left = 1.0 - (epoch * training.len() + at) as f32 / steps as f32;
                // Both kinds weigh the same, however many there are.
                let balance = training.len() as f32 / 2.0 / counts[usize::from(!good)] as f32;
                classifier.step(features, *good, RATE * left * balance.min(4.0));
            }
        }
        let scores =
            |held: &[Features]| held.iter().map(|features| classifier.quality_of(features)).collect::<Vec<f64>>();
        let (good, bad) = (scores(&good_held), scores(&bad_held));
        classifier.held.held_out = good.len() + bad.len();
        let right =
            good.iter().filter(|&&score| score >= 0.5).count() + bad.iter().filter(|&&score| score < 0.5).count();
        classifier.held.accuracy = right as f64 / (good.len() + bad.len()) as f64;
        classifier.held.auc = area(good, bad);
        Ok(classifier)
    }

    /// How good it is.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Quality of a text, from 0 to 1.
    pub fn quality(&self, text: &str) -> f64 {
        self.quality_of(&features(text, &self.settings))
    }

    fn quality_of(&self, features: &Features) -> f64 {
        let sum: f32 = features.iter().map(|&(feature, weight)| self.weights[feature as usize] * weight).sum();
        1.0 / (1.0 + f64::from(-(sum + self.bias)).exp())
    }

    /// One step against the gradient of the logistic loss.
    fn step(&mut self, features: &Features, good: bool, rate: f32) {
        let error = f32::from(u8::from(good)) - self.quality_of(features) as f32;
        for &(feature, weight) in features {
            self.weights[feature as usize] += rate * error * weight;
        }
        self.bias += rate * error * 0.1;
    }
}

/// N-grams of the first words, in small letters.
fn features(text: &str, settings: &Settings) -> Features {
    // Words have some six bytes; the rest of a long text is not split for nothing.
    let start = &text[..text.floor_char_boundary(16 * settings.words_max)];
    let hashes: Vec<u64> = words::split(start)
        .iter()
        .take(settings.words_max)
        .map(|range| xxh3_64(start[range.start as usize..range.end as usize].to_lowercase().as_bytes()))
        .collect();
    let mut grams: Vec<u32> = Vec::with_capacity(hashes.len() * settings.words);
    for n in 1..=settings.words {
        let slot = |gram: &[u64]| {
            let hash = gram.iter().fold(n as u64, |hash, word| xxh3_64_with_seed(&word.to_le_bytes(), hash));
            (hash >> (64 - BITS)) as u32
        };
        grams.extend(hashes.windows(n).map(slot));
    }
    grams.sort_unstable();
    let counted = grams.chunk_by(|a, b| a == b).map(|equal| (equal[0], equal.len() as f32));
    let mut features: Features = counted.collect();
    let length = features.iter().map(|(_, count)| count * count).sum::<f32>().sqrt();
    features.iter_mut().for_each(|(_, count)| *count /= length);
    features
}

/// Examples by the hashes of their texts, each with how it begins.
fn examples(
    kind: &str,
    globs: &[String],
    settings: &Settings,
    surroundings: Surroundings,
) -> Result<BTreeMap<u64, (Features, String)>, String> {
    if globs.is_empty() {
        return Err(format!("{kind} = [] names no file; both good and bad examples are needed"));
    }
    let mut examples = BTreeMap::new();
    for glob in globs {
        check_path(glob).map_err(|problem| format!("{kind}: {problem}"))?;
        let source = source(kind, glob, settings)?;
        let read = |part: &part::Part| {
            readers::read(&source, part, &mut |item| {
                if let Item::Document(document) = item {
                    let text = document.text();
                    let begins = text.chars().take(60).collect();
                    examples.insert(xxh3_64(text.as_bytes()), (features(text, settings), begins));
                    if examples.len() > settings.examples_max {
                        examples.pop_last();
                    }
                }
                Ok(())
            })
        };
        let parts = part::of(std::slice::from_ref(&source), surroundings.directory, None);
        parts.and_then(|parts| parts.iter().try_for_each(read)).map_err(|e| format!("{kind}: {e}"))?;
    }
    match examples.len() {
        count @ ..EXAMPLES_MIN => Err(format!("{kind}: {count} different examples, fewer than {EXAMPLES_MIN}")),
        _ => Ok(examples),
    }
}

fn source(kind: &str, glob: &str, settings: &Settings) -> Result<Source, String> {
    let mut table = toml::Table::new();
    table.insert("name".into(), kind.into());
    table.insert("files".into(), vec![glob].into());
    if let Some(separator) = &settings.separator
        && Format::of_ending(Path::new(glob)) != Some(Format::Jsonl)
    {
        table.insert("separator".into(), separator.clone().into());
    }
    crate::options::read(table)
}

/// Examples to train on, and those held out: by hash, as good as random.
fn split(examples: BTreeMap<u64, (Features, String)>) -> (Vec<Features>, Vec<Features>) {
    let mut features: Vec<Features> = examples.into_values().map(|(features, _)| features).collect();
    let held = features.split_off(features.len() - features.len() / HELD_OUT);
    (features, held)
}

/// Probability that one of `good` is above one of `bad`; a tie counts half.
fn area(good: Vec<f64>, mut bad: Vec<f64>) -> f64 {
    bad.sort_by(f64::total_cmp);
    let pairs = good.len() * bad.len();
    let above = |score: f64| {
        let below = bad.partition_point(|&other| other < score);
        let up_to = bad.partition_point(|&other| other <= score);
        (below + up_to) as f64 / 2.0
    };
    good.into_iter().map(above).sum::<f64>() / pairs as f64
}

impl Step for Classifier {
    fn describe(&self) -> Vec<String> {
        let Held { good, bad, held_out, accuracy, auc } = &self.held;
        vec![format!(
            "classifier: trained on {good} good and {bad} bad examples; of {held_out} held out, {:.1} % are on the right side of 0.5, area under the ROC curve {auc:.3}",
            100.0 * accuracy
        )]
    }

    fn identity(&self) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        self.weights.iter().chain([&self.bias]).for_each(|weight| _ = hasher.update(&weight.to_le_bytes()));
        Some(hasher.finalize())
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let quality = self.quality(document.text());
        document.labels.insert("quality".into(), ((quality * 1e4).round() / 1e4).into());
        at_least("classifier.min", "quality", quality, self.settings.min).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::tests::broken;

    fn settings() -> Settings {
        Settings {
            good: vec!["good*.jsonl".into()],
            bad: vec!["bad.txt".into()],
            separator: Some("--".into()),
            ..Settings::default()
        }
    }

    /// Good: sentences; bad: lists of prices, with some words of the good ones.
    fn directory(examples: usize) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let people = ["Anna", "Ben", "Clara", "David", "Emma", "Felix"];
        let good =
            |i: usize| format!("{} walked to the river {i} times and was glad that the boat was there.", people[i % 6]);
        let bad =
            |i: usize| format!("Buy now {}: price {i} $ sale boat cheap click here offer {}", people[i % 6], i * 7);
        let record = |i| serde_json::json!({ "text": good(i) }).to_string() + "\n";
        let half = examples / 2;
        std::fs::write(directory.path().join("good1.jsonl"), (0..half).map(record).collect::<String>()).unwrap();
        std::fs::write(directory.path().join("good2.jsonl"), (half..examples).map(record).collect::<String>()).unwrap();
        std::fs::write(directory.path().join("bad.txt"), (0..examples).map(|i| bad(i) + "\n--\n").collect::<String>())
            .unwrap();
        directory
    }

    fn train(settings: Settings, directory: &Path) -> Result<Classifier, String> {
        Classifier::train(settings, Surroundings { directory, seed: 7 })
    }

    #[test]
    fn it_learns_what_is_good() {
        let directory = directory(200);
        let classifier = train(settings(), directory.path()).unwrap();
        assert_eq!(*classifier.held(), Held { good: 180, bad: 180, held_out: 40, accuracy: 1.0, auc: 1.0 });
        let description = "classifier: trained on 180 good and 180 bad examples; of 40 held out, 100.0 % are on the right side of 0.5, area under the ROC curve 1.000";
        assert_eq!(classifier.describe(), [description]);
        assert_eq!(broken(&classifier, "Grace sailed along the river and was glad that it was warm."), "");
        assert_eq!(broken(&classifier, "sale: cheap river boat offer $ 12, click here now"), "classifier.min");
        let mut document = Document::new("test", "Ben was there.");
        classifier.apply(&mut document);
        assert!(document.labels["quality"].as_f64().unwrap() > 0.5);
    }

    #[test]
    fn the_same_examples_and_seed_give_the_same_classifier() {
        let directory = directory(60);
        let first = train(settings(), directory.path()).unwrap();
        let second = train(settings(), directory.path()).unwrap();
        assert!(first.weights == second.weights && first.bias == second.bias);
        assert_eq!(first.identity(), second.identity());
        let other = Classifier::train(settings(), Surroundings { directory: directory.path(), seed: 8 }).unwrap();
        assert!(first.weights != other.weights);
        assert_ne!(first.identity(), other.identity());
    }

    #[test]
    fn examples_are_needed_on_both_sides() {
        let refused = |settings: Settings, directory: &Path| train(settings, directory).err().unwrap();
        let enough = directory(30);
        let few = directory(6);
        assert_eq!(
            refused(Settings { bad: vec![], ..settings() }, enough.path()),
            "bad = [] names no file; both good and bad examples are needed"
        );
        assert!(
            refused(Settings { good: vec!["none*.txt".into()], ..settings() }, enough.path()).contains("none*.txt")
        );
        assert_eq!(refused(settings(), few.path()), "good: 6 different examples, fewer than 20");
        std::fs::copy(enough.path().join("bad.txt"), enough.path().join("worse.txt")).unwrap();
        let both = Settings { good: vec!["worse.txt".into()], ..settings() };
        assert!(
            refused(both, enough.path()).starts_with("a text is among the good examples and the bad ones: \"Buy now")
        );
        assert!(refused(Settings { min: 2.0, ..settings() }, enough.path()).contains("is a share"));
        assert_eq!(refused(Settings { words: 9, ..settings() }, enough.path()), "words 9 is out of range");
    }

    /// Counted by pairs: 0.9 > 0.1, 0.9 > 0.5, 0.5 > 0.1, 0.5 = 0.5.
    #[test]
    fn area_under_the_curve() {
        assert_eq!(area(vec![0.9, 0.5], vec![0.5, 0.1]), 3.5 / 4.0);
        assert_eq!(area(vec![0.1], vec![0.9]), 0.0);
    }

    #[test]
    fn features_have_length_one() {
        let features = features("The cat saw the cat.", &Settings::default());
        assert!((features.iter().map(|(_, weight)| weight * weight).sum::<f32>() - 1.0).abs() < 1e-6);
        // the, cat, saw, full stop; the cat, cat saw, saw the, cat full stop.
        assert_eq!(features.len(), 8);
        assert!(super::features("", &Settings::default()).is_empty());
    }
}
