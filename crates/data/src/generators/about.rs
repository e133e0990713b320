//! Short conversations of a small model about itself, with honest limits, and small talk

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conversation::{Conversation, Role};
use super::frames::{Frame, section, sections};
use super::manual::Manual;
use super::shares::chance;
use super::split::{Split, choose};
use super::{Generated, Generator};
use crate::options;

/// Settings of conversations about the model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What the model calls itself.
    pub name: String,
    /// The program that it comes with.
    pub program: String,
    /// The command that lists larger models.
    pub models: String,
    /// The command that starts a chat with a model, whose name comes after it.
    pub chat: String,
    /// Share of small talk among single exchanges.
    pub small_talk: f64,
    /// Share of conversations of two or three exchanges.
    pub several: f64,
    /// Share of questions with a beginning such as "Hi!".
    pub before: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: "the small model of Farthing".to_owned(),
            program: "Farthing".to_owned(),
            models: "farthing models".to_owned(),
            chat: "farthing chat".to_owned(),
            small_talk: 0.3,
            several: 0.4,
            before: 0.2,
        }
    }
}

/// What can be asked.
struct Intent {
    name: &'static str,
    questions: Split<Frame>,
    answers: Vec<Frame>,
}

/// The generator.
pub struct About {
    settings: Settings,
    before: Split<Frame>,
    itself: Vec<Intent>,
    small_talk: Vec<Intent>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be, a command that the manual does not have.
pub fn make(table: toml::Table, manual: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(About::new(options::read(table)?, manual)?))
}

impl About {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be, a command that the manual does not have.
    pub fn new(settings: Settings, manual: &Manual) -> Result<About, String> {
        for (name, share) in
            [("small_talk", settings.small_talk), ("several", settings.several), ("before", settings.before)]
        {
            chance(name, share)?;
        }
        for command in [&settings.models, &settings.chat] {
            if !manual.commands.is_empty() && !manual.commands.iter().any(|known| known.name == *command) {
                return Err(format!("{command}: the manual has no such command"));
            }
        }
        let sections = sections(include_str!("about.txt"));
        let intents = sections.iter().filter(|section| section.name != "before").map(|section| Intent {
            name: section.name,
            questions: section.split('?'),
            answers: section.frames('='),
        });
        let (small_talk, itself) = intents.partition(|intent| intent.name.starts_with("small "));
        Ok(About { before: section(&sections, "before").split('-'), itself, small_talk, settings })
    }

    fn small(&self, name: &str) -> &Intent {
        self.small_talk.iter().find(|intent| intent.name == name).expect("an intent of this name")
    }

    /// The intents of a conversation in order.
    fn plan(&self, random: &mut Pcg64) -> Vec<&Intent> {
        let one = choose(random, &self.itself);
        if !random.random_bool(self.settings.several) {
            let small = random.random_bool(self.settings.small_talk);
            return vec![if small { choose(random, &self.small_talk) } else { one }];
        }
        let mut plan = Vec::new();
        if random.random_bool(0.5) {
            plan.push(self.small("small hello"));
        }
        plan.push(one);
        let another = choose(random, &self.itself);
        if another.name != one.name && random.random_bool(0.5) {
            plan.push(another);
        }
        if plan.len() < 2 || random.random_bool(0.2) {
            plan.push(self.small(if random.random_bool(0.6) { "small thanks" } else { "small bye" }));
        }
        plan
    }
}

impl Generator for About {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let settings = &self.settings;
        let slots = [
            ("name", &*settings.name),
            ("program", &*settings.program),
            ("models", &*settings.models),
            ("chat", &*settings.chat),
        ];
        let plan = self.plan(random);
        let mut conversation = Conversation::default();
        let (mut lines, mut answer) = (Vec::new(), String::new());
        for (turn, intent) in plan.iter().enumerate() {
            let question = intent.questions.choose(random, held_out);
            lines.push(question.line.to_string());
            let mut asked = String::new();
            if turn == 0 && !intent.name.starts_with("small ") && random.random_bool(settings.before) {
                let before = self.before.choose(random, held_out);
                lines.push(before.line.to_string());
                before.write(&slots[..], &mut asked);
                asked.push(' ');
            }
            question.write(&slots[..], &mut asked);
            answer = super::english::capitalized(&choose(random, &intent.answers).fill(&slots[..]));
            conversation = conversation.then(Role::User, asked).then(Role::Assistant, answer.clone());
        }
        let kinds: Vec<&str> = plan.iter().map(|intent| intent.name).collect();
        let mut labels = Map::new();
        labels.insert("answer".into(), Value::String(answer));
        labels.insert("kind".into(), kinds.last().map_or(Value::Null, |kind| (*kind).into()));
        labels.insert("kinds".into(), json!(kinds));
        labels.insert("frame".into(), lines.join("+").into());
        conversation.generated(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::super::manual::CommandHelp;
    use super::*;
    use crate::generators::tests::documents;

    #[test]
    fn hundreds_of_questions_and_several_answers_to_each() {
        let about = About::new(Settings::default(), &Manual::default()).unwrap();
        let intents = || about.itself.iter().chain(&about.small_talk);
        let questions: usize = intents().map(|intent| intent.questions.of(false).len()).sum();
        assert!(questions >= 250, "{questions}");
        assert!(intents().all(|intent| intent.answers.len() >= 4 && !intent.questions.of(true).is_empty()));
    }

    #[test]
    fn limits_are_told() {
        let about = About::new(Settings::default(), &Manual::default()).unwrap();
        for document in documents(&about, false, 5_000) {
            let answer = document.labels["answer"].as_str().unwrap();
            let says = |words: &[&str]| words.iter().any(|word| answer.contains(word));
            match document.labels["kind"].as_str().unwrap() {
                "date" => assert!(says(&["not know", "cannot"]), "{answer}"),
                "net" => assert!(says(&["cannot", "not know", "No internet"]), "{answer}"),
                "wrong" => assert!(says(&["wrong", "mistakes"]), "{answer}"),
                "larger" => assert!(says(&["`farthing models`"]) && says(&["`farthing chat NAME`"]), "{answer}"),
                "limits" => assert!(says(&["small", "little", "not know"]), "{answer}"),
                _ => {}
            }
        }
    }

    #[test]
    fn a_command_that_the_manual_does_not_have_is_refused() {
        let command = |name: &str| CommandHelp { name: name.to_owned(), ..CommandHelp::default() };
        let manual = Manual { commands: vec![command("farthing chat")], documents: Vec::new() };
        assert!(About::new(Settings::default(), &manual).err().unwrap().contains("farthing models"));
        let manual = Manual { commands: vec![command("farthing chat"), command("farthing models")], ..manual };
        assert!(About::new(Settings::default(), &manual).is_ok());
    }
}
