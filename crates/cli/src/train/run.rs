//! What is known of a training: `run.json`, for programs, for the report and, in its `card`, for `farthing publish`.

use std::path::{Path, PathBuf};

use ::train::Trainer;
use convert::{CardData, CardEarlier, CardTraining, ModelCard};
use data::report::Report;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Arguments;
use crate::facts::{Facts, of_model};
use crate::{Failure, doctor, terminal};

/// A language is named on the card from this share of the documents on.
const LANGUAGE_SHARE: f64 = 0.01;

/// What the loss on a card is of.
pub const LOSS_IS_HELD_OUT: &str =
    "The loss is on held-out text of the same sources; nothing else was measured by the training.";

/// The contents of `run.json`, written with each state and at the end.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// What `--plan` says.
    pub plan: Value,
    /// Whether all tokens were seen and the model written.
    pub finished: bool,
    pub steps: u64,
    pub tokens: u64,
    /// Of training, those before a stop included.
    pub seconds: f64,
    /// Of the last step.
    pub loss: Option<f64>,
    pub held_out_loss: Option<f64>,
    pub bits_per_byte: Option<f64>,
    /// Of the machine under load, and the price of a kilowatt-hour.
    pub watts: Option<f64>,
    pub electricity: Option<f64>,
    /// Where the model is or will be.
    pub model: PathBuf,
    /// The recipe's text.
    pub recipe: String,
    /// Facts for `farthing publish`.
    pub card: ModelCard,
    /// Share of each source of the card in the tokens.
    #[serde(skip)]
    pub shares: Vec<f64>,
    /// Tokens of each source that earlier trainings took.
    #[serde(skip)]
    pub before: Vec<u64>,
}

impl Run {
    /// That of a training that begins or goes on in `out`.
    pub fn new(a: &Arguments, trainer: &Trainer, plan: Value, out: &Path) -> Run {
        let setup = &trainer.setup;
        let recipe = &setup.recipe;
        let mut run = Run {
            plan,
            steps: trainer.steps(),
            tokens: trainer.tokens(),
            seconds: trainer.seconds(),
            watts: a.watts.map(written),
            electricity: a.electricity.map(written),
            model: out.join("model"),
            recipe: recipe.text.clone(),
            ..Run::default()
        };
        if let Ok(Some(earlier)) = Run::read(out) {
            // Figures of steps that are taken again come again.
            if earlier.tokens <= run.tokens {
                (run.loss, run.held_out_loss) = (earlier.loss, earlier.held_out_loss);
                run.bits_per_byte = earlier.bits_per_byte;
            }
            // Power and price hold until others are given.
            run.watts = run.watts.or(earlier.watts);
            run.electricity = run.electricity.or(earlier.electricity);
        }
        run.card = ModelCard {
            name: recipe.name.clone(),
            description: recipe.description.clone(),
            recipe: Some(recipe.text.clone()),
            training: Some(CardTraining {
                machine: Some(format!(
                    "{}, {}, {}",
                    doctor::processor(),
                    terminal::several(a.threads(), "thread"),
                    kernels::instruction_set()
                )),
                from: recipe.model.from.as_ref().map(|from| name(from)),
                program: Some(format!("Farthing {}", env!("CARGO_PKG_VERSION"))),
                ..CardTraining::default()
            }),
            ..ModelCard::default()
        };
        match Report::read(&recipe.data, None) {
            Ok(report) => run.take_data(&report),
            Err(error) => terminal::note(&format!("{error}; run.json names no sources of the data")),
        }
        match recipe.model.from.as_ref().map(|from| of_model(from)).transpose() {
            Ok(facts) => run.take_earlier(facts.flatten()),
            Err(error) => terminal::note(&format!("{error}; run.json says nothing of earlier trainings")),
        }
        run
    }

    /// What the trainings before were, and their sources, behind those of this one or with them.
    fn take_earlier(&mut self, facts: Option<Facts>) {
        self.before = vec![0; self.card.data.len()];
        let Some(Facts { file, finished, card }) = facts else { return };
        if !finished {
            let problem = "the training has not ended, so its facts are not of the model beside it, and are ignored";
            return terminal::note(&format!("{}: {problem}", file.display()));
        }
        let ModelCard { data, training, recipe, earlier, languages, .. } = card;
        self.card.earlier = earlier;
        self.card.earlier.extend(training.map(|training| CardEarlier { training, recipe }));
        for source in data {
            let tokens = source.tokens.unwrap_or(0);
            if let Some(at) = self.card.place_of(&source) {
                self.before[at] = self.before[at].saturating_add(tokens);
            } else {
                self.card.data.push(source);
                self.before.push(tokens);
                self.shares.push(0.0);
            }
        }
        self.card.add_languages(languages);
    }

    /// Sources, licences and languages, as the data's own card has them.
    fn take_data(&mut self, report: &Report) {
        let shards = report.packed.as_ref().and_then(|packed| packed.shards.as_ref());
        let sources = shards.map_or(&[][..], |shards| &shards.sources);
        let tokens = |name: &str| {
            let source = sources.iter().find(|source| source.name == name);
            source.map_or(0.0, |source| source.epochs * source.train.tokens as f64)
        };
        let all: f64 = report.sources.iter().map(|source| tokens(&source.name)).sum();
        for source in &report.sources {
            let generator = source.generator.as_ref().map(|name| format!("made by the generator {name} of Farthing"));
            let from = source.url.as_ref().map(|url| match &source.commit {
                Some(commit) => format!("{url} at {commit}"),
                None => url.clone(),
            });
            self.card.data.push(CardData {
                name: source.name.clone(),
                license: source.licence.clone().or(generator).unwrap_or_else(|| "not given".to_string()),
                url: from,
                ..CardData::default()
            });
            self.shares.push(tokens(&source.name) / all.max(1.0));
        }
        let documents = report.total.kept.documents.max(1) as f64;
        let languages = report.total.languages.iter();
        let languages = languages.filter(|(_, count)| **count as f64 >= LANGUAGE_SHARE * documents);
        self.card.languages = languages.map(|(language, _)| language.clone()).collect();
    }

    /// That of a training in `out`; `None` where there is none yet.
    ///
    /// # Errors
    /// A file that cannot be read or is none.
    pub fn read(out: &Path) -> Result<Option<Run>, Failure> {
        let file = out.join("run.json");
        if !file.exists() {
            return Ok(None);
        }
        let text = terminal::read_text_file(&file)?;
        let problem = |e: serde_json::Error| Failure::failed(format!("{}: {e}; move it away", file.display()));
        serde_json::from_str(&text).map(Some).map_err(problem)
    }

    /// Writes `run.json`, whole or not at all.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn write(&mut self, out: &Path) -> Result<(), Failure> {
        self.fill_card();
        let text = serde_json::to_string_pretty(self).expect("a run is JSON");
        data::atomic::write(&out.join("run.json"), format!("{text}\n").as_bytes())?;
        Ok(())
    }

    /// The facts that change while it is trained.
    fn fill_card(&mut self) {
        let hours = self.seconds / 3600.0;
        let energy = self.watts.map(|watts| watts * hours / 1000.0);
        let cost = energy.zip(self.electricity).map(|(energy, price)| {
            let cost = energy * price;
            format!("{cost:.2} for electricity at {price} a kilowatt-hour")
        });
        for ((source, share), before) in self.card.data.iter_mut().zip(&self.shares).zip(&self.before) {
            source.tokens = Some(((share * self.tokens as f64).round() as u64).saturating_add(*before));
        }
        if let Some(training) = &mut self.card.training {
            (training.steps, training.tokens) = (self.steps, self.tokens);
            (training.loss, training.bits_per_byte) = (self.held_out_loss, self.bits_per_byte);
            (training.hours, training.kilowatt_hours, training.cost) = (Some(hours), energy, cost);
        }
        self.card.limits = self.limits();
    }

    /// What follows from the figures.
    fn limits(&self) -> Vec<String> {
        let millions = |n: f64| format!("{:.2} M", n / 1e6);
        let number = |key: &str| self.plan[key].as_f64().unwrap_or(0.0);
        let earlier = self.card.earlier.iter().map(|earlier| earlier.training.tokens as f64);
        let mut limits = vec![format!(
            "It has {} parameters, {} of them active for a token, and was trained on {} tokens of the sources above: what it says beyond them it makes up.",
            millions(number("parameters")),
            millions(number("active_parameters")),
            millions(self.tokens as f64 + earlier.sum::<f64>())
        )];
        limits.extend(
            self.plan["context"]
                .as_u64()
                .map(|context| format!("It was trained on texts of {context} tokens at most.")),
        );
        limits.push(match self.held_out_loss {
            Some(_) => LOSS_IS_HELD_OUT.to_string(),
            None => "No text was held out: nothing was measured.".to_string(),
        });
        limits
    }
}

/// A number as it was written: 0.3, not the nearest that 32 bits hold.
fn written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// The name of a checkpoint, without the directories above it, which are nobody's business.
fn name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}
