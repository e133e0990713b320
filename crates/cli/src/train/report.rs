//! The report of a training: one page with curves, the plan, the recipe and samples of text, from its log and `run.json` alone

use std::path::Path;

use ::train::log::each_line;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use super::plots::{self, Plot};
use super::run::Run;
use super::series::{Series, Step, smooth};
use crate::Failure;
use crate::terminal::harmless;

/// Measurements whose samples are shown.
const SAMPLED_MAX: usize = 64;

/// What a line of the log may say besides a step's figures.
#[derive(Deserialize)]
struct Line {
    step: Option<u64>,
    tokens: Option<u64>,
    held_out_loss: Option<f64>,
    bits_per_byte: Option<f64>,
    samples: Option<Vec<Text>>,
}

/// A prompt and what continues it.
#[derive(Serialize, Deserialize)]
struct Text {
    prompt: String,
    text: String,
    #[serde(default)]
    ended: bool,
}

/// A measurement on held-out text.
#[derive(Clone, Copy, Serialize)]
struct Measured {
    tokens: u64,
    loss: f64,
    bits_per_byte: Option<f64>,
}

/// The samples of a measurement.
#[derive(Serialize)]
struct Sampled {
    /// Counts the measurements.
    number: usize,
    tokens: u64,
    measured: Option<Measured>,
    texts: Vec<Text>,
}

/// A log as it is drawn.
#[derive(Default)]
struct History {
    series: Series,
    measured: Vec<Measured>,
    /// Those of every `thinned`-th measurement, and of the last.
    sampled: Vec<Sampled>,
    samples: usize,
    thinned: usize,
}

impl History {
    fn read(log: &Path) -> Result<History, Failure> {
        let mut history = History { thinned: 1, ..History::default() };
        each_line(log, |bytes| {
            let Ok(line) = serde_json::from_slice::<Line>(bytes) else { return };
            match line {
                Line { step: Some(_), .. } => history.series.extend(serde_json::from_slice::<Step>(bytes).ok()),
                Line { tokens: Some(tokens), held_out_loss: Some(loss), bits_per_byte, .. } => {
                    history.measured.push(Measured { tokens, loss, bits_per_byte });
                }
                Line { tokens: Some(tokens), samples: Some(texts), .. } => history.sample(tokens, texts),
                _ => {}
            }
        })?;
        Ok(history)
    }

    fn sample(&mut self, tokens: u64, texts: Vec<Text>) {
        let visible = |text: Text| Text { prompt: harmless(&text.prompt), text: harmless(&text.text), ..text };
        let texts = texts.into_iter().map(visible).collect();
        let measured = self.measured.last().copied().filter(|measured| measured.tokens == tokens);
        // The newest is always there; those before it are every so many.
        self.keep_some();
        if self.sampled.len() == SAMPLED_MAX {
            self.thinned *= 2;
            self.keep_some();
        }
        self.sampled.push(Sampled { number: self.samples, tokens, measured, texts });
        self.samples += 1;
    }

    fn keep_some(&mut self) {
        self.sampled.retain(|sampled| sampled.number.is_multiple_of(self.thinned));
    }
}

/// Writes `report.html` of the training in `out`.
///
/// # Errors
/// A log that cannot be read; where the system refuses.
pub fn write(out: &Path, run: &Run) -> Result<(), Failure> {
    let history = History::read(&out.join("log.jsonl"))?;
    data::atomic::write(&out.join("report.html"), page(&history, run).as_bytes())?;
    Ok(())
}

fn page(history: &History, run: &Run) -> String {
    let plots: Vec<Value> =
        plots_of(history, run).iter().map(|plot| Value::from_safe_string(plots::draw(plot))).collect();
    let (steps, tokens) = history.series.last();
    let plan = if run.plan.is_null() { Vec::new() } else { super::lines(&run.plan) };
    let plan: Vec<String> = plan.iter().map(|line| harmless(line)).collect();
    let energy = run.card.training.as_ref().and_then(|training| training.kilowatt_hours);
    let values = context! {
        name => harmless(&run.card.name), description => harmless(&run.card.description), finished => run.finished,
        steps, tokens, time => time(run.seconds), energy,
        loss => history.series.loss(), measured => Value::from(Serde(history.measured.last())),
        plots, plan, recipe => harmless(run.recipe.trim_end()),
        sampled => Value::from(Serde(history.sampled.iter().rev().collect::<Vec<_>>())), samples => history.samples,
    };
    environment().get_template("report.html").expect("it was added").render(values).expect("its values are given")
}

/// Seconds in a unit that suits them.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 5400.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 90.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.0} s"),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.add_filter("short", plots::short);
    environment.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_template("report.html", include_str!("report.html")).expect("the template is sound");
    environment
}

/// The plots that there are figures for.
fn plots_of(history: &History, run: &Run) -> Vec<Plot> {
    let series = &history.series;
    let held_out = |of: fn(&Measured) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = history.measured.iter().filter_map(|m| Some((m.tokens as f64, of(m)?)));
        points.filter(|(_, y)| y.is_finite()).collect()
    };
    let mut all = vec![
        Plot::new("loss, nats a token").steps(series.of(Step::LOSS)).held_out(held_out(|m| Some(m.loss))),
        Plot::new("bits a byte").steps(series.of(Step::BITS)).held_out(held_out(|m| m.bits_per_byte)),
        Plot::new("loss of multi-token prediction").steps(series.of(Step::PREDICTION)),
        Plot::new("learning rate").line("", plots::BLUE, series.of(Step::RATE)),
        Plot::new("norm of the gradients").steps(series.of(Step::NORM)),
        Plot::new("tokens a second").steps(series.of(Step::SPEED)),
        Plot::new("share of the machine's peak, %").steps(series.of(Step::SHARE)),
    ];
    // Layers are numbered as in the checkpoint's names; an older run.json does not tell them.
    let layers = run.plan["expert_layers"].as_array();
    let layer = |mixture: usize| layers.and_then(|layers| layers.get(mixture)?.as_u64()).unwrap_or(mixture as u64);
    for (title, of) in [
        ("busiest expert, 1 is even", Series::busiest as fn(&Series) -> _),
        ("idlest expert, 1 is even", Series::idlest),
    ] {
        let mixtures: Vec<Vec<(f64, f64)>> = of(series);
        let count = mixtures.len();
        let plot = mixtures.into_iter().enumerate().fold(Plot::new(title), |plot, (i, points)| {
            // A legend of many layers would hide the lines.
            let label =
                if count <= 4 || i == 0 || i + 1 == count { format!("layer {}", layer(i)) } else { String::new() };
            plot.line(&label, plots::shade(i, count), smooth(&points))
        });
        all.push(plot);
    }
    all.retain(|plot| !plot.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[String]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log.jsonl"), lines.concat()).unwrap();
        folder
    }

    fn step(step: u64) -> String {
        let loss = 8.0 / (step as f64).sqrt();
        format!(
            "{{\"step\":{step},\"tokens\":{},\"loss\":{loss},\"bits_per_byte\":{loss},\"prediction\":null,\"norm\":1.0,\"rate\":0.01,\
             \"tokens_per_second\":900.0,\"share_of_peak\":0.4,\"busiest_experts\":[1.5,2.5],\"idlest_experts\":[0.5,0.25]}}\n",
            step * 100
        )
    }

    fn rendered(lines: &[String], run: &Run) -> String {
        let folder = log(lines);
        write(folder.path(), run).unwrap();
        std::fs::read_to_string(folder.path().join("report.html")).unwrap()
    }

    #[test]
    fn a_page_has_curves_samples_plan_and_recipe_and_needs_nothing_else() {
        let run = Run {
            plan: serde_json::json!({"name": "m", "architecture": "deepseek_v3", "parameters": 15e6, "expert_layers": [1, 2]}),
            recipe: "name = \"m\"".to_string(),
            finished: true,
            ..Run::default()
        };
        let mut lines: Vec<String> = (1..=40).map(step).collect();
        lines.push("{\"tokens\":4000,\"held_out_loss\":1.75,\"bits_per_byte\":0.875}\n".to_string());
        lines.push(
            "{\"tokens\":4000,\"seconds\":0.1,\"samples\":[{\"prompt\":\"Once\",\"text\":\" upon\",\"ended\":true}]}\n"
                .to_string(),
        );
        lines.push("no line\n{\"step\":41".to_string());
        let page = rendered(&lines, &run);
        let plots = page.matches("<svg").count();
        assert_eq!(plots, 8, "none of a module of multi-token prediction");
        for said in [
            "held-out text",
            "layer 1",
            "layer 2",
            "1.7500",
            "0.8750",
            "<dd>40</dd>",
            "<b>Once</b> upon",
            "name = &quot;m&quot;",
            "deepseek_v3",
        ] {
            assert!(page.contains(said), "{said}: {page}");
        }
        for outside in ["http:", "src=", "<script", "<link", "url("] {
            let without = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
            assert!(!without.contains(outside), "{outside}");
        }
        assert!(!rendered(&[step(1)], &Run::default()).contains("o on"));
    }

    #[test]
    fn hostile_text_is_text() {
        let evil = "</b></pre><script>alert(1)</script><img src=x onerror=alert(1)>\u{1b}[31m\u{0}";
        let sample = serde_json::json!({"tokens": 100, "samples": [{"prompt": evil, "text": evil}]});
        let mut run = Run {
            recipe: evil.to_string(),
            plan: serde_json::json!({"name": evil, "layers": [evil]}),
            ..Run::default()
        };
        (run.card.name, run.card.description) = (evil.to_string(), evil.to_string());
        let page = rendered(&[step(1), format!("{sample}\n")], &run);
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.matches("&lt;script&gt;").count() >= 6 && !page.contains(['\u{1b}', '\u{0}']));
    }

    #[test]
    fn of_many_measurements_some_are_shown_and_the_newest() {
        let lines: Vec<String> = (1..=1000)
            .map(|i| format!("{{\"tokens\":{i},\"samples\":[{{\"prompt\":\"p{i}.\",\"text\":\"t\"}}]}}\n"))
            .collect();
        for count in [1, 64, 65, 66, 129, 1000] {
            let page = rendered(&lines[..count], &Run::default());
            let shown = page.matches("<b>p").count();
            assert!((count.min(32)..=SAMPLED_MAX).contains(&shown), "{count}: {shown}");
            assert!(page.contains("<b>p1.</b>") && page.contains(&format!("<b>p{count}.</b>")), "{count}");
        }
    }
}
