//! Skills of a model, measured with greedy decoding on prompts that its training never has: held-out frames, names and numbers of the generators of
//! `data`, and BLiMP's minimal pairs
//!
//! Every figure is a count of so many, or bits a byte, with its standard error. Prompts go through the model's own chat template.

use data::generators::manual::Manual;
use farthing::Model;
use serde_json::{Value, json};
use thiserror::Error;

mod asking;
pub mod blimp;
pub mod figures;
mod json;
mod manual_questions;
mod passages;
mod reading;
mod stories;
mod sums;

use asking::Asking;
use figures::{BitsPerByte, Measure};

/// Most tokens of a prompt and its answer together.
pub const CONTEXT: usize = 1024;

/// What is measured, and on how much.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Skills in this order.
    pub skills: &'a [&'static Skill],
    /// Prompts of a skill, at most.
    pub samples: usize,
    /// Seed of the prompts.
    pub seed: u64,
    /// Wrong answers of a skill that are kept, at most.
    pub wrong: usize,
    /// Help that questions on the program are answered from.
    pub manual: &'a Manual,
}

/// A skill that can be measured.
pub struct Skill {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    measure: fn(&mut Asking<'_>) -> Result<Measured, EvalError>,
}

impl std::fmt::Debug for Skill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All skills, in the order in which they are measured.
pub const SKILLS: &[Skill] = &[
    Skill {
        name: "stories",
        help: "a story to order: the name and the thing of the request are kept, and the story ends",
        measure: stories::measure,
    },
    Skill {
        name: "sums",
        help: "sums and differences of up to three digits, products of one digit",
        measure: sums::measure_sums,
    },
    Skill { name: "word-problems", help: "word problems of one step", measure: sums::measure_word_problems },
    Skill {
        name: "passages",
        help: "questions on a passage: the answer is a span of it, or \"The text does not say.\"",
        measure: passages::measure,
    },
    Skill {
        name: "help",
        help: "questions on Farthing's commands and flags, answered from its help; and questions on other things",
        measure: manual_questions::measure,
    },
    Skill { name: "json", help: "JSON to a small schema, without a grammar", measure: json::measure },
    Skill {
        name: "blimp",
        help: "BLiMP: of two sentences the grammatical one is more likely; 67 paradigms of 200 pairs",
        measure: blimp::measure,
    },
    Skill {
        name: "reading",
        help: "held-out stories are read: bits a byte of what the model had not expected",
        measure: reading::measure,
    },
];

/// Why skills could not be measured.
#[derive(Debug, Error)]
pub enum EvalError {
    /// No skill of that name.
    #[error("there is no skill {name:?}{nearest}; the skills are {known}")]
    UnknownSkill {
        /// As it was given.
        name: String,
        /// `: did you mean stories?`, or nothing.
        nearest: String,
        /// All names.
        known: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] farthing::Error),
    /// Whoever asked for it stopped it.
    #[error("stopped in the skill {skill}, after {done} of {of} prompts")]
    Stopped {
        /// What was measured.
        skill: &'static str,
        /// Prompts that were answered.
        done: usize,
        /// Prompts of the skill.
        of: usize,
    },
}

/// The skill of a name.
///
/// # Errors
/// No skill of that name, with the nearest one.
pub fn skill(name: &str) -> Result<&'static Skill, EvalError> {
    if let Some(skill) = SKILLS.iter().find(|skill| skill.name == name) {
        return Ok(skill);
    }
    let likeness = |skill: &&Skill| strsim::jaro(skill.name, name);
    let best = SKILLS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = best.filter(|skill| likeness(skill) > 0.7).map(|skill| format!(": did you mean {}?", skill.name));
    let known: Vec<&str> = SKILLS.iter().map(|skill| skill.name).collect();
    Err(EvalError::UnknownSkill {
        name: name.to_owned(),
        nearest: nearest.unwrap_or_default(),
        known: known.join(", "),
    })
}

/// What came of a skill.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Figures in the order in which they are shown.
    pub measures: Vec<Measure>,
    /// Accuracy by paradigm, where there are paradigms.
    pub paradigms: Vec<Measure>,
    /// Of texts that are read, where some are.
    pub bits_per_byte: Option<BitsPerByte>,
    /// Prompts that the model's context does not hold: they count as wrong.
    pub too_long: usize,
    /// A few answers that are wrong, with their prompts.
    pub wrong: Vec<Wrong>,
}

/// An answer that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// The last message of the prompt.
    pub prompt: String,
    /// What the model answered.
    pub answer: String,
    /// What would be right.
    pub expected: String,
}

impl Measured {
    /// For machines.
    pub fn json(&self, skill: &Skill) -> Value {
        let wrong = |w: &Wrong| json!({"prompt": w.prompt, "answer": w.answer, "expected": w.expected});
        let mut all = json!({
            "skill": skill.name,
            "measures": self.measures.iter().map(Measure::json).collect::<Vec<_>>(),
            "too_long": self.too_long,
            "wrong": self.wrong.iter().map(wrong).collect::<Vec<_>>(),
        });
        if !self.paradigms.is_empty() {
            all["paradigms"] = self.paradigms.iter().map(Measure::json).collect();
        }
        if let Some(bits_per_byte) = &self.bits_per_byte {
            all["bits_per_byte"] = bits_per_byte.json();
        }
        all
    }
}

/// How far a skill is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What is measured.
    pub skill: &'static str,
    /// Prompts that were answered.
    pub done: usize,
    /// Prompts of the skill.
    pub of: usize,
}

/// Measures the skills one after the other; `give` gets each as soon as it is measured. `proceed` is told of progress and says whether to go on.
///
/// # Errors
/// The model failed, or `proceed` stopped it.
pub fn measure(
    model: &Model,
    settings: &Settings<'_>,
    proceed: &mut dyn FnMut(Progress) -> bool,
    give: &mut dyn FnMut(&'static Skill, Measured),
) -> Result<(), EvalError> {
    for skill in settings.skills {
        let mut asking = Asking::new(model, settings, skill.name, proceed);
        let measured = (skill.measure)(&mut asking)?;
        give(skill, measured);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_skills_name_the_nearest() {
        assert_eq!(skill("word-problems").unwrap().name, "word-problems");
        let message = skill("storys").unwrap_err().to_string();
        assert!(message.contains("\"storys\": did you mean stories?") && message.contains("blimp"), "{message}");
        let message = skill("zzz").unwrap_err().to_string();
        assert!(!message.contains("mean") && message.contains("the skills are stories, sums"), "{message}");
    }
}
