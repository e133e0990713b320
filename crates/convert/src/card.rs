//! A model card: the README.md of a hub, with YAML front matter, made from facts and nothing else.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What is known of a model. A part that is not given is left out of the card.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelCard {
    /// The model's name.
    pub name: String,
    /// Identifier of its licence, such as `apache-2.0`.
    pub license: String,
    /// Languages, by their codes.
    pub languages: Vec<String>,
    /// What the model is, in a paragraph.
    pub description: String,
    /// Name of the model it was made from, if it was.
    pub base_model: Option<String>,
    /// What it was trained on.
    pub data: Vec<CardData>,
    /// How it was trained.
    pub training: Option<CardTraining>,
    /// Checkpoints that the weights are the mean of, where they are one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean_of: Vec<CardShare>,
    /// What was measured.
    pub results: Vec<CardResult>,
    /// What it cannot do, a sentence each.
    pub limits: Vec<String>,
    /// The recipe of the run, as its file has it.
    pub recipe: Option<String>,
    /// Trainings that the weights had been through before, the first one first. Their sources are among `data`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<CardEarlier>,
}

impl ModelCard {
    /// The place in `data` of a source with the name, licence and address of `source`.
    pub fn place_of(&self, source: &CardData) -> Option<usize> {
        let is_it =
            |own: &CardData| (&own.name, &own.license, &own.url) == (&source.name, &source.license, &source.url);
        self.data.iter().position(is_it)
    }

    /// Adds those of `languages` that the card does not have.
    pub fn add_languages(&mut self, languages: Vec<String>) {
        for language in languages {
            if !self.languages.contains(&language) {
                self.languages.push(language);
            }
        }
    }
}

/// A training that another went on from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardEarlier {
    /// How it went.
    pub training: CardTraining,
    /// Its recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
}

/// A checkpoint in a mean.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardShare {
    /// Its name.
    pub name: String,
    /// Its share; all shares add up to one.
    pub share: f64,
}

/// A source of training text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardData {
    /// Its name.
    pub name: String,
    /// Its licence.
    pub license: String,
    /// Tokens that were taken of it, repetitions included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Where it was got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its identifier at the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
}

/// How a model was trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardTraining {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// The last loss on text that was held out, nats a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Bits a byte of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<f64>,
    /// Kilowatt-hours of electricity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kilowatt_hours: Option<f64>,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What that cost, with its currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The checkpoint that it went on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The program and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// A measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardResult {
    /// What was measured.
    pub name: String,
    /// What came out, with its unit.
    pub value: String,
    /// How it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
}

/// What the directory itself tells.
#[derive(Clone, Debug, Default)]
pub struct CardFiles {
    /// The structure in words, a line each.
    pub structure: Vec<String>,
    /// Files with their bytes and what they are.
    pub files: Vec<(String, u64, String)>,
}

/// A text in YAML, whatever is in it: JSON's spelling is YAML's too.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn list(out: &mut String, key: &str, values: &[&str]) {
    if !values.is_empty() {
        let _ = writeln!(out, "{key}:");
        values.iter().for_each(|value| out.push_str(&format!("  - {}\n", yaml(value))));
    }
}

impl ModelCard {
    /// The card of a directory with these files.
    pub fn render(&self, about: &CardFiles) -> String {
        let ggufs = about.files.iter().any(|(name, ..)| name.ends_with(".gguf"));
        let mut out = self.front_matter(ggufs);
        if !self.name.is_empty() {
            let _ = write!(out, "\n# {}\n", cell(&self.name));
        }
        if !self.description.is_empty() {
            let _ = write!(out, "\n{}\n", self.description.trim());
        }
        section(&mut out, "Structure", about.structure.iter().map(|line| format!("- {line}")));
        let rows =
            about.files.iter().map(|(name, bytes, what)| format!("| {} | {bytes} | {} |", cell(name), cell(what)));
        table(&mut out, "Files", "file | bytes | what", rows);
        let tokens = |tokens: Option<u64>| tokens.map_or_else(String::new, |tokens| tokens.to_string());
        let rows = self.data.iter().map(|d| {
            let from = cell(d.url.as_deref().unwrap_or_default());
            format!("| {} | {} | {} | {from} |", cell(&d.name), cell(&d.license), tokens(d.tokens))
        });
        table(&mut out, "Training data", "source | licence | tokens | from", rows);
        if let Some(training) = &self.training {
            section(&mut out, "Training", training.lines().into_iter());
        }
        if let Some(recipe) = &self.recipe {
            fenced(&mut out, recipe);
        }
        let rows = self.mean_of.iter().map(|part| format!("| {} | {:.3} |", cell(&part.name), part.share));
        table(&mut out, "Weights", "the mean of | share", rows);
        for (number, earlier) in self.earlier.iter().enumerate() {
            let title = format!("Earlier training, {} of {}", number + 1, self.earlier.len());
            section(&mut out, &title, earlier.training.lines().into_iter());
            if let Some(recipe) = &earlier.recipe {
                fenced(&mut out, recipe);
            }
        }
        let rows = self.results.iter().map(|r| {
            format!("| {} | {} | {} |", cell(&r.name), cell(&r.value), cell(r.how.as_deref().unwrap_or_default()))
        });
        table(&mut out, "Results", "measure | value | how", rows);
        section(&mut out, "Limits", self.limits.iter().map(|limit| format!("- {}", cell(limit))));
        out
    }

    fn front_matter(&self, ggufs: bool) -> String {
        let mut out = "---\n".to_string();
        if !self.license.is_empty() {
            let _ = writeln!(out, "license: {}", yaml(&self.license));
        }
        let languages: Vec<&str> = self.languages.iter().map(String::as_str).collect();
        list(&mut out, "language", &languages);
        out.push_str("pipeline_tag: text-generation\n");
        if let Some(base) = &self.base_model {
            let _ = writeln!(out, "base_model: {}", yaml(base));
        }
        let datasets: Vec<&str> = self.data.iter().filter_map(|data| data.dataset.as_deref()).collect();
        list(&mut out, "datasets", &datasets);
        list(&mut out, "tags", if ggufs { &["farthing", "gguf"] } else { &["farthing"] });
        out.push_str("---\n");
        out
    }
}

impl CardTraining {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("- {} steps, {} tokens", self.steps, self.tokens)];
        let mut put =
            |name: &str, value: Option<String>| lines.extend(value.map(|value| format!("- {name}: {}", cell(&value))));
        put("started from", self.from.clone());
        put("loss on held-out text", self.loss.map(|loss| format!("{loss:.4} nats a token")));
        put("bits a byte of held-out text", self.bits_per_byte.map(|bits| format!("{bits:.4}")));
        put("hours", self.hours.map(|hours| format!("{hours:.1}")));
        put("electricity", self.kilowatt_hours.map(|energy| format!("{energy:.2} kWh")));
        put("machine", self.machine.clone());
        put("cost", self.cost.clone());
        put("program", self.program.clone());
        lines
    }
}

/// A recipe, with a fence that is longer than any within.
fn fenced(out: &mut String, recipe: &str) {
    let longest = recipe.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    let _ = write!(out, "\nThe recipe:\n\n{fence}toml\n{}\n{fence}\n", recipe.trim_end());
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if !lines.is_empty() {
        let _ = write!(out, "\n## {title}\n\n{}\n", lines.join("\n"));
    }
}

fn table(out: &mut String, title: &str, head: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<String> = rows.collect();
    if !rows.is_empty() {
        let rule = head.split(" | ").map(|_| "---").collect::<Vec<_>>().join(" | ");
        let _ = write!(out, "\n## {title}\n\n| {head} |\n| {rule} |\n{}\n", rows.join("\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_what_is_known_and_nothing_else() {
        let card: ModelCard = serde_json::from_str(
            r#"{"name": "pocket: a \"small\" model", "license": "apache-2.0", "languages": ["en"], "description": "Tells stories.",
                "data": [{"name": "stories | generated", "license": "CC0", "tokens": 1000}],
                "training": {"steps": 10, "tokens": 1000, "loss": 1.5}, "limits": ["It knows little."]}"#,
        )
        .unwrap();
        let files = CardFiles {
            structure: vec!["5 layers".to_string()],
            files: vec![("model.safetensors".to_string(), 7, "BF16".to_string())],
        };
        let text = card.render(&files);
        assert!(
            text.starts_with(
                "---\nlicense: \"apache-2.0\"\nlanguage:\n  - \"en\"\npipeline_tag: text-generation\ntags:\n"
            ),
            "{text}"
        );
        assert!(text.contains("\n# pocket: a \"small\" model\n"));
        assert!(text.contains("| stories \\| generated | CC0 | 1000 |  |"));
        assert!(text.contains("- 10 steps, 1000 tokens\n- loss on held-out text: 1.5000 nats a token\n"));
        assert!(text.contains("| model.safetensors | 7 | BF16 |") && text.contains("- It knows little."));
        assert!(!text.contains("Results") && !text.contains("recipe") && !text.contains("cost"));
        assert!(serde_json::from_str::<ModelCard>(r#"{"licence": "x"}"#).is_err());
    }

    #[test]
    fn earlier_trainings_stand_behind_the_last_one_in_order() {
        let card: ModelCard = serde_json::from_str(
            r#"{"training": {"steps": 3, "tokens": 30}, "recipe": "c = 3", "earlier": [
                {"training": {"steps": 1, "tokens": 10, "machine": "a"}, "recipe": "a = 1"}, {"training": {"steps": 2, "tokens": 20}}]}"#,
        )
        .unwrap();
        let text = card.render(&CardFiles::default());
        let expected = "\n## Training\n\n- 3 steps, 30 tokens\n\nThe recipe:\n\n```toml\nc = 3\n```\n\n## Earlier training, 1 of 2\n\n- 1 steps, 10 tokens\n- machine: a\n\nThe recipe:\n\n```toml\na = 1\n```\n\n## Earlier training, 2 of 2\n\n- 2 steps, 20 tokens\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_mean_names_its_checkpoints() {
        let card: ModelCard =
            serde_json::from_str(r#"{"mean_of": [{"name": "a|b", "share": 0.75}, {"name": "c", "share": 0.25}]}"#)
                .unwrap();
        let text = card.render(&CardFiles::default());
        let expected = "\n## Weights\n\n| the mean of | share |\n| --- | --- |\n| a\\|b | 0.750 |\n| c | 0.250 |\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_recipe_does_not_end_its_own_fence() {
        let card = |recipe: &str| {
            let card = ModelCard { recipe: Some(recipe.to_string()), ..ModelCard::default() };
            card.render(&CardFiles::default())
        };
        assert!(card("a = 1").contains("\n```toml\na = 1\n```\n"));
        let hostile = "````\n# Limits: none\n```\n";
        assert!(card(hostile).contains("\n`````toml\n````\n# Limits: none\n```\n`````\n"), "{}", card(hostile));
    }
}
