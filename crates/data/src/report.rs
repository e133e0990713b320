//! What came of a run: counts by source, rule and step, as JSON, as a page with plots, as a dataset card, and in lines for a terminal

use std::fs::File;
use std::io::Read;
use std::path::Path;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::ids::EqualIds;
use crate::packing::Packed;
use crate::publish::{MAKE_AGAIN, MANIFEST};
use crate::recipe::{Entry, Recipe};
use crate::shards::megatron::Written;
use crate::tally::{Dropped, Lengths, Tally};
use crate::tokenizer::report::Counts;
use crate::{Error, atomic};

/// Bytes of a report that is read.
const JSON_BYTES_MAX: u64 = 256 << 20;

/// All that is reported. It follows from the recipe and its sources alone: times are not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The corpus's name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Seed of the recipe.
    pub seed: u64,
    /// BLAKE3 of the recipe's text.
    pub recipe: String,
    /// Sources in order.
    pub sources: Vec<SourceReport>,
    /// Steps in order.
    pub steps: Vec<StepReport>,
    /// Of all sources.
    pub total: Tally,
    /// Ids that several kept documents have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equal_ids: Option<EqualIds>,
    /// Tokenizer and shards, if the recipe has them.
    pub packed: Option<Packed>,
}

/// A source and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// What it is made by, if it is generated.
    pub generator: Option<String>,
    /// Where it was got.
    pub url: Option<String>,
    /// At which commit.
    pub commit: Option<String>,
    /// Its licence.
    pub licence: Option<String>,
    /// What was counted.
    pub tally: Tally,
}

/// A step and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// Its settings, as the recipe has them.
    pub settings: String,
    /// The sources that it is for: all if empty.
    pub sources: Vec<String>,
}

impl Report {
    /// Puts together what is reported.
    pub fn new(recipe: &Recipe, sources: &[Tally], total: &Tally, packed: Option<Packed>) -> Report {
        let source = |(index, tally): (usize, &Tally)| {
            let source = &recipe.sources[index];
            SourceReport {
                name: source.name.clone(),
                generator: source.generate.clone(),
                url: source.url.clone(),
                commit: source.commit.clone(),
                licence: source.licence.clone(),
                tally: tally.clone(),
            }
        };
        let step = |entry: &Entry| StepReport {
            name: entry.name.to_string(),
            settings: entry.settings.to_string().trim().replace('\n', ", "),
            sources: entry.sources.iter().flatten().map(|&s| recipe.sources[s].name.clone()).collect(),
        };
        Report {
            name: recipe.name.clone(),
            description: recipe.description.clone(),
            seed: recipe.seed,
            recipe: blake3::hash(recipe.text.as_bytes()).to_hex().to_string(),
            sources: sources.iter().enumerate().map(source).collect(),
            steps: recipe.steps.iter().map(step).collect(),
            total: total.clone(),
            equal_ids: None,
            packed,
        }
    }

    /// The report of a finished directory, whose manifest gives its BLAKE3.
    ///
    /// # Errors
    /// Where it is not there, or is another.
    pub fn read(directory: &Path, blake3: Option<&str>) -> Result<Report, Error> {
        let file = directory.join("report.json");
        let mut json = Vec::new();
        let opened = File::open(&file).map_err(Error::io(&file))?;
        opened.take(JSON_BYTES_MAX).read_to_end(&mut json).map_err(Error::io(&file))?;
        let problem = |problem: String| Error::file(&file, format!("{problem}; {MAKE_AGAIN}"));
        let found = blake3::hash(&json).to_hex();
        if let Some(expected) = blake3.filter(|expected| *expected != found.as_str()) {
            return Err(problem(format!("its BLAKE3 is {found}, and {MANIFEST} says {expected}")));
        }
        serde_json::from_slice(&json).map_err(|e| problem(e.to_string()))
    }

    /// Writes `report.json`, `report.html` and the dataset card `README.md`.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&self, recipe: &Recipe, directory: &Path) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(self).expect("a report is plain data");
        atomic::write(&directory.join("report.json"), format!("{json}\n").as_bytes())?;
        atomic::write(&directory.join("report.html"), self.page().as_bytes())?;
        atomic::write(&directory.join("README.md"), self.card(recipe).as_bytes())?;
        atomic::write(&directory.join("recipe.toml"), recipe.text.as_bytes()).map(drop)
    }

    /// The report as one page that needs nothing else.
    pub fn page(&self) -> String {
        let plot = lengths_plot(&self.total.lengths_read, &self.total.lengths_kept);
        let values = context! {
            report => Value::from(Serde(self)), lengths => Value::from_safe_string(plot),
            dropped => Value::from(Serde(self.dropped())),
        };
        rendered("report.html", values)
    }

    /// The dataset card, with the head that the Hugging Face hub reads.
    pub fn card(&self, recipe: &Recipe) -> String {
        let mut licences: Vec<String> = self.sources.iter().filter_map(|s| s.licence.clone()).collect();
        licences.sort_unstable();
        licences.dedup();
        let languages: Vec<String> = self.total.languages.keys().cloned().collect();
        let values = context! { report => Value::from(Serde(self)), licences, languages, text => recipe.text.trim_end().to_string() };
        rendered("card.md", values)
    }

    /// The report in lines for a terminal: sources, then what was dropped by which rule.
    pub fn lines(&self) -> Vec<String> {
        let width = self.sources.iter().map(|s| s.name.len()).max().unwrap_or(0).max(6);
        let row = |name: &str, tally: &Tally| {
            let share = 100.0 * tally.kept.bytes as f64 / tally.read.bytes.max(1) as f64;
            format!(
                "{name:<width$} {:>14} {:>10} {:>14} {:>10} {share:>11.1} %",
                tally.read.documents,
                words(tally.read.bytes),
                tally.kept.documents,
                words(tally.kept.bytes)
            )
        };
        let mut lines = vec![format!(
            "{:<width$} {:>14} {:>10} {:>14} {:>10} {:>13}",
            "source", "documents read", "text read", "documents kept", "text kept", "share of text"
        )];
        lines.extend(self.sources.iter().map(|source| row(&source.name, &source.tally)));
        if self.sources.len() > 1 {
            lines.push(row("all", &self.total));
        }
        let dropped = self.dropped();
        let names =
            dropped.iter().map(|(rule, _)| *rule).chain(self.total.passed_over.keys().map(|kind| kind.as_str()));
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        if !dropped.is_empty() {
            let width = width.max(4);
            lines.extend([String::new(), format!("{:<width$} {:>10} {:>10}  example", "rule", "documents", "text")]);
        }
        for (rule, dropped) in dropped {
            let example = dropped.samples.first().map_or(String::new(), |s| format!("  {}: {}", s.id, s.detail));
            let (documents, bytes) = (dropped.volume.documents, words(dropped.volume.bytes));
            lines.push(format!("{rule:<width$} {documents:>10} {bytes:>10}{example}"));
        }
        if !self.total.passed_over.is_empty() {
            lines.extend([String::new(), "passed over, since they hold no document:".to_string()]);
        }
        lines.extend(self.total.passed_over.iter().map(|(kind, records)| format!("{kind:<width$} {records:>10}")));
        if let Some(equal) = &self.equal_ids {
            let EqualIds { documents, example } = equal;
            lines.extend([
                String::new(),
                format!("documents with the id of an earlier one: {documents}, the first {example:?}"),
            ]);
        }
        lines.extend(self.packed.iter().flat_map(Packed::lines));
        lines
    }

    /// Rules, and damage, by how many documents they dropped.
    fn dropped(&self) -> Vec<(&str, &Dropped)> {
        let dropped = self.total.dropped.iter().map(|(rule, dropped)| (rule.as_str(), dropped));
        let damaged = Some(("damaged", &self.total.damaged)).filter(|(_, damaged)| damaged.volume.documents > 0);
        let mut dropped: Vec<_> = dropped.chain(damaged).collect();
        dropped.sort_by_key(|(rule, dropped)| (std::cmp::Reverse(dropped.volume.documents), *rule));
        dropped
    }
}

impl Packed {
    /// Tokens, in lines for a terminal.
    fn lines(&self) -> Vec<String> {
        let sum = |f: fn(&Counts) -> u64| self.tokenizer.groups.values().map(|figures| f(&figures.counts)).sum::<u64>();
        let (tokens, bytes, all) = (sum(|c| c.tokens), sum(|c| c.bytes), sum(|c| c.words));
        let (per_token, per_word) = (bytes as f64 / tokens.max(1) as f64, tokens as f64 / all.max(1) as f64);
        let size = self.tokenizer.vocabulary;
        let mut lines = vec![
            String::new(),
            format!("tokenizer of {size}: {tokens} tokens, {per_token:.2} bytes a token, {per_word:.2} tokens a word"),
        ];
        for (split, shards) in self.shards.iter().flat_map(|shards| &shards.splits) {
            let count = |f: fn(&Written) -> u64| shards.iter().map(|shard| f(&shard.written)).sum::<u64>();
            let (documents, tokens) = (count(|w| w.documents), count(|w| w.tokens));
            let (documents, shards) = (several(documents, "document"), several(shards.len() as u64, "shard"));
            lines.push(format!("{}: {} of {documents} in {shards}", split.name(), several(tokens, "token")));
        }
        lines
    }
}

/// A number of things.
fn several(count: u64, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// A number that fits below an axis.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.0} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Bytes in words.
fn words(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A template with its values. Texts of others have no say in how the page is shown.
fn rendered(template: &str, values: Value) -> String {
    let environment = environment();
    let page = environment.get_template(template).expect("it was added").render(values).expect("its values are given");
    page.chars().map(|c| if is_hidden(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Characters that are not seen and change what is: controls, and those that turn the direction of what follows.
fn is_hidden(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A cell of a table in Markdown.
fn cell(text: Option<String>) -> String {
    let one_line = text.unwrap_or_default().replace(char::is_control, " ");
    one_line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

/// The longest row of backquotes in a text.
fn backquotes(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// Code within a line of Markdown.
fn code(text: &str) -> String {
    let quotes = "`".repeat(backquotes(text) + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{quotes}{space}{text}{space}{quotes}")
}

/// Lines of code in Markdown.
fn fenced(text: &str, language: &str) -> String {
    let fence = "`".repeat(backquotes(text).max(2) + 1);
    format!("{fence}{language}\n{text}\n{fence}")
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter("bytes", words);
    environment.add_filter("several", several);
    environment.add_filter("cell", cell);
    environment.add_filter("code", code);
    environment.add_filter("fenced", fenced);
    environment.add_filter("percent", |part: f64, whole: f64| format!("{:.1}", 100.0 * part / whole.max(1.0)));
    for (name, text) in
        [("report.html", include_str!("templates/report.html")), ("card.md", include_str!("templates/card.md"))]
    {
        environment.add_template(name, text).expect("templates of this crate are sound");
    }
    environment
}

/// Lengths before and after, as an SVG picture: documents over the logarithm of their bytes.
fn lengths_plot(read: &Lengths, kept: &Lengths) -> String {
    let bins = read.counts.len().max(kept.counts.len()).max(1);
    let most = read.counts.iter().chain(&kept.counts).max().copied().unwrap_or(0).max(1);
    let mut svg = String::new();
    let draw = |svg: &mut String| -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(svg, (720, 260)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            // The last label is centred below its tick.
            .margin_right(40)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(0f64..bins as f64, 0f64..most as f64 * 1.05)?;
        chart
            .configure_mesh()
            .x_desc("bytes of a document")
            .y_desc("documents")
            .max_light_lines(0)
            .x_label_formatter(&|x| if x.fract() == 0.0 { words(2f64.powf(*x) as u64) } else { String::new() })
            .y_label_formatter(&|y| if y.fract() == 0.0 { short(*y) } else { String::new() })
            .draw()?;
        for (lengths, colour, label) in [(read, RGBColor(150, 150, 150), "read"), (kept, RGBColor(0, 90, 180), "kept")]
        {
            let steps = (0..bins).flat_map(|bin| {
                let count = lengths.counts.get(bin).copied().unwrap_or(0) as f64;
                [(bin as f64, count), (bin as f64 + 1.0, count)]
            });
            let series = LineSeries::new(steps, colour.stroke_width(2));
            chart
                .draw_series(series)?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        root.present()?;
        Ok(())
    };
    draw(&mut svg).expect("a picture in memory can be drawn");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_recipe_do_not_leave_their_place_in_the_card() {
        assert_eq!(cell(Some("CC | \\|\n<b>x".into())), "CC \\| \\\\\\| &lt;b>x");
        assert_eq!(cell(None), "");
        assert_eq!(
            (code("a = 1"), code("a = '`'"), code("`a``")),
            ("`a = 1`".into(), "``a = '`'``".into(), "``` `a`` ```".into())
        );
        assert_eq!(fenced("a\n```\nb", "toml"), "````toml\na\n```\nb\n````");
        assert_eq!(fenced("a", "toml"), "```toml\na\n```");
        assert!(['\u{1b}', '\u{202e}', '\u{2066}', '\0', '\u{9b}'].into_iter().all(is_hidden));
        assert!(!['\n', '\t', 'a', '\u{200f}', '\u{5d0}'].into_iter().any(is_hidden));
    }
}
