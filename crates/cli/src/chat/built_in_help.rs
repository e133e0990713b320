//! Questions on Farthing to the bundled model: it answers from paragraphs of the program's own help, and names only commands that exist.

use std::sync::Arc;

use engine::Constraint;
use farthing::{Message, Model};
use help::{Commands, Guides, HelpIndex};

use crate::manual::manual;

pub struct BuiltInHelp {
    index: HelpIndex,
    guides: Arc<Guides>,
}

impl BuiltInHelp {
    pub fn new(model: &Model) -> BuiltInHelp {
        let manual = manual();
        let guides = Guides::new(Arc::new(Commands::new(&manual)), model.tokenizer(), model.vocab());
        BuiltInHelp { index: HelpIndex::new(&manual), guides: Arc::new(guides) }
    }

    /// The last message with the paragraphs before it, in the form of the training data: one question, without what was said before. None where it
    /// is no question for the help.
    pub fn messages(&self, messages: &[Message]) -> Option<Vec<Message>> {
        let question = messages.last()?;
        Some(vec![Message::system(self.index.context(question.text())?), question.clone()])
    }

    /// A constraint for one answer.
    pub fn guide(&self) -> Box<dyn Constraint> {
        self.guides.guide()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use data::generators::{KINDS, manual::Manual};
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    /// The user's messages of held-out records of a generator by their kinds, with the paragraph that answers them.
    fn held_out(name: &str, settings: &str, manual: &Manual) -> Vec<(String, String, Option<String>)> {
        let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
        let generator = (kind.make)(settings.parse().unwrap(), manual).unwrap();
        let documents = (0..1000).map(|seed| generator.generate(&mut Pcg64::seed_from_u64(seed), true));
        let message = |document: data::generators::Generated| {
            let messages = document.labels["messages"].as_array().unwrap();
            let text = |label: &str| document.labels.get(label).and_then(|value| value.as_str()).map(str::to_owned);
            let user = messages[messages.len() - 2]["content"].as_str().unwrap().to_owned();
            (text("kind").unwrap_or_default(), user, text("asks"))
        };
        documents.map(message).collect()
    }

    #[test]
    fn paraphrases_find_their_paragraph() {
        let manual = manual();
        let index = HelpIndex::new(&manual);
        let on_commands: Vec<_> =
            held_out("help", "off_topic = 0.0\nmissing = 0.0\ninvented = 0.0\nmisspelled = 0.0", &manual)
                .into_iter()
                .filter(|(kind, ..)| ["command", "setting", "effect"].contains(&kind.as_str()))
                .take(200)
                .collect();
        let found = |question: &str, paragraph: &str| {
            index
                .context(question)
                .is_some_and(|context| context.lines().any(|line| line.strip_prefix("- ") == Some(paragraph)))
        };
        let missed: Vec<_> =
            on_commands.iter().filter(|(_, q, paragraph)| !found(q, paragraph.as_ref().unwrap())).collect();
        println!("{} of {} found", on_commands.len() - missed.len(), on_commands.len());
        assert!(on_commands.len() == 200 && missed.len() <= 4, "{missed:#?}");
    }

    #[test]
    fn tasks_get_no_paragraphs_and_questions_on_the_world_do() {
        let manual = manual();
        let index = HelpIndex::new(&manual);
        let share = |name: &str, settings: &str, kind: &str| {
            let messages: Vec<_> = held_out(name, settings, &manual)
                .into_iter()
                .filter(|(of, ..)| kind.is_empty() || of == kind)
                .collect();
            let with = messages.iter().filter(|(_, message, _)| index.context(message).is_some()).count();
            println!("{name} {kind}: {with} of {}", messages.len());
            with as f64 / messages.len() as f64
        };
        let tasks = [
            ("stories", "ordered = 1.0"),
            ("sums", "conversation = 1.0"),
            ("word_problems", ""),
            ("questions", "conversation = 1.0"),
            ("json", ""),
            ("formats", ""),
        ];
        let shares: HashMap<&str, f64> =
            tasks.iter().map(|(name, settings)| (*name, share(name, settings, ""))).collect();
        assert!(shares.values().all(|share| *share <= 0.01), "{shares:?}");
        assert!(share("help", "", "off-topic") >= 0.9 && share("help", "", "command") >= 0.98);
    }

    /// Questions in words of people, not of the frames, with the beginning of a paragraph that answers them.
    const ASKED: [(&str, &str); 24] = [
        ("How do I serve with a key?", "farthing serve --api-key"),
        ("Can other computers reach the server?", "farthing serve --host"),
        ("I want the server on port 9000", "farthing serve --port"),
        ("Where can I see which models I have?", "farthing list:"),
        ("How do I delete a model I downloaded?", "farthing rm"),
        ("How fast will this model run on my machine?", "farthing bench"),
        ("Is my computer good enough for farthing?", "farthing doctor"),
        ("How do I make a GGUF file smaller?", "farthing quantize"),
        ("How do I train a model?", "farthing train"),
        ("how many tokens does my text have", "farthing tokenize"),
        ("How do I get the same answer twice?", "farthing generate --seed"),
        ("How do I download a model?", "farthing pull"),
        ("How can I use fewer threads when chatting?", "farthing chat --threads"),
        ("How do I continue yesterday's chat?", "farthing chat --resume"),
        ("How do I set a system prompt?", "farthing chat --system"),
        ("How do I build a corpus?", "farthing data"),
        ("What is the perplexity of my model on a file?", "farthing loss"),
        ("How do I upload my model to a hub?", "farthing publish"),
        ("How do I make answers less random?", "farthing chat --temperature"),
        ("How do I get tab completion in bash?", "farthing completions"),
        ("How do I unload a model?", "farthing stop"),
        ("Which models are running on the server?", "farthing ps"),
        ("How do I limit the memory of the server?", "farthing serve --memory"),
        ("How do I get https?", "farthing serve --tls"),
    ];

    #[test]
    fn questions_of_people_find_a_command() {
        let index = HelpIndex::new(&manual());
        let finds = |question: &str, line: &str| {
            index.context(question).is_some_and(|context| context.contains(&format!("\n- {line}")))
        };
        let missed: Vec<_> = ASKED.iter().filter(|(question, line)| !finds(question, line)).collect();
        println!("{} of {} found; not: {missed:#?}", ASKED.len() - missed.len(), ASKED.len());
        assert!(missed.len() <= 8, "{missed:#?}");
    }

    #[test]
    fn no_flag_is_invented_however_unlikely_the_tokens() {
        let files = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m");
        let loaded = farthing::PlannedModel::open(files.as_ref(), &farthing::LoadOptions::default());
        let model = Model::new(loaded.unwrap().load().unwrap());
        let help = BuiltInHelp::new(&model);
        let commands = Commands::new(&manual());
        // A model that writes spaces and dashes all the time, anything behind them, and never ends.
        let favourites = ["--", "a", " "].map(|text| model.tokenizer().encode(text, false).unwrap()).concat();
        let favourites = favourites.into_iter().map(|id| (id, 140.0));
        let logit_bias = favourites.chain(model.stops().iter().map(|&id| (id, -1000.0))).collect();
        let invented = |guided: bool| -> (usize, usize) {
            let (mut names, mut invented) = (0, 0);
            for seed in 0..12 {
                let sampling = farthing::Sampling {
                    temperature: 20.0,
                    seed: Some(seed),
                    logit_bias: Vec::clone(&logit_bias),
                    ..Default::default()
                };
                let options = farthing::GenerateOptions { sampling, max_tokens: 120, stop: Vec::new() };
                let prompt = model.encode_messages(&[Message::user("How do I serve with a key?")]).unwrap();
                let answer = model.generate_within(prompt, &options, guided.then(|| help.guide())).unwrap();
                let text: String = answer.map(|piece| piece.unwrap()).collect();
                // The end may be in the middle of a name.
                let whole = text.rsplit_once(' ').map_or("", |(whole, _)| whole);
                let named = commands.named(whole);
                names += named.len();
                invented += named.iter().filter(|named| !named.exists).count();
            }
            (names, invented)
        };
        let (names, free) = invented(false);
        assert!(free > 20, "{free} of {names}");
        let (names, guided) = invented(true);
        assert!(names > 5 && guided == 0, "{guided} of {names}");
    }
}
