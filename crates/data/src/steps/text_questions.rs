//! Questions on free text: a passage of a document, a question made by a template from what it says, and the answer, which is a span of it, or that it does not say
//!
//! Templates see forms, not meaning: who said a line of speech, what somebody is called, where somebody lived or lay, how many there were, what colour a
//! thing had. A document becomes one question, or is dropped where no template fits.

use std::ops::Range;
use std::sync::LazyLock;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Made, Settings, Surroundings};
use crate::Document;
use crate::step::{Step, Verdict};

/// Passages of one document that are tried.
const PASSAGES_MAX: usize = 16;

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextQuestions {
    /// Share of questions that the passage does not answer. A third is that of SQuAD 2.0 (arXiv 1806.03822) in training.
    unanswerable: f64,
    /// What is answered then.
    no_answer: String,
    /// Fewest words of a passage.
    words_min: usize,
    /// Most words of a passage.
    words_max: usize,
}

impl Default for TextQuestions {
    fn default() -> TextQuestions {
        let no_answer = "The text does not say.".to_owned();
        TextQuestions { unanswerable: 1.0 / 3.0, no_answer, words_min: 40, words_max: 200 }
    }
}

impl Settings for TextQuestions {
    fn make(self, surroundings: Surroundings) -> Result<Made, String> {
        if !(0.0..=1.0).contains(&self.unanswerable) {
            return Err(format!("unanswerable is {}; it goes from 0 to 1", self.unanswerable));
        }
        if self.words_min == 0 || self.words_min > self.words_max {
            return Err(format!("words_min {} is not from 1 to words_max {}", self.words_min, self.words_max));
        }
        Ok(Made::Alone(Box::new(Asker { settings: self, seed: surroundings.seed })))
    }
}

/// How a form of text is asked for.
struct Template {
    name: &'static str,
    kind: &'static str,
    /// Group `a` is the answer, `s` what is asked for, `v` a verb.
    form: LazyLock<Regex>,
    /// Questions; `{s}` and `{v}` are filled.
    questions: &'static [&'static str],
    /// What is asked for where the text does not say it: those that are not in the passage.
    absent: &'static [&'static str],
}

macro_rules! form {
    ($pattern:expr) => {
        LazyLock::new(|| Regex::new($pattern).expect("a pattern of our own"))
    };
}

static TEMPLATES: [Template; 5] = [
    Template {
        name: "said",
        kind: "who",
        form: form!(
            r#"["“](?P<s>[^"“”]{12,120}?)[,.!?]?["”],? (?:said|cried|asked|answered|replied|shouted|called|whispered) (?P<a>the (?:(?:old|young|little|big|poor|good) )?[a-z]+|[A-Z][a-z]+)\b"#
        ),
        questions: &[r#"Who said "{s}"?"#, r#"Whose words are "{s}"?"#, r#""{s}": who said that?"#],
        absent: &[
            "never trust a quiet river",
            "the bread is burning",
            "my boots are full of sand",
            "tomorrow we sail to the islands",
            "who has hidden my umbrella",
            "the clock in the hall has stopped",
        ],
    },
    Template {
        name: "named",
        kind: "who",
        form: form!(r"\b(?:a|an|the|his|her) (?P<s>[a-z]+(?: [a-z]+)?) (?:named|called) (?P<a>[A-Z][a-z]+)\b"),
        questions: &["What is the name of the {s}?", "What is the {s} called?", "Who is the {s}?"],
        absent: &[
            "blacksmith",
            "parrot",
            "sailor",
            "tailor",
            "miller",
            "wizard",
            "gardener",
            "shepherd",
            "goose",
            "donkey",
            "pilot",
            "nurse",
            "little brother",
            "great-aunt",
            "neighbour",
        ],
    },
    Template {
        name: "where",
        kind: "where",
        form: form!(
            r"\b(?P<s>[Tt]he (?:(?:old|young|little|poor|rich|big) )?[a-z]+|[A-Z][a-z]+) (?P<v>lived|stood|lay|sat|slept) (?P<a>(?:in|on|at|under|near|beside|by|behind) (?:the|a|an|his|her|their) (?:[a-z]+ )?[a-z]+)[,.;]"
        ),
        questions: &["Where did {s} {v}?", "In the text, where did {s} {v}?"],
        absent: &[
            "the blacksmith",
            "the parrot",
            "the sailor",
            "the tailor",
            "the wizard",
            "the shepherd",
            "the donkey",
            "the old captain",
            "the clockmaker",
            "the queen of the bees",
        ],
    },
    Template {
        name: "number",
        kind: "howmany",
        form: form!(
            r"\b(?P<a>[Tt]wo|[Tt]hree|[Ff]our|[Ff]ive|[Ss]ix|[Ss]even|[Ee]ight|[Nn]ine|[Tt]en|[Ee]leven|[Tt]welve|[Tt]wenty|[2-9][0-9]{0,3}) (?P<s>[a-z]{2,}[a-rt-z]s)\b"
        ),
        questions: &["How many {s} does the text speak of?", "How many {s} are there in the text?", "How many {s}?"],
        absent: &[
            "pianos",
            "bicycles",
            "lanterns",
            "barrels",
            "camels",
            "umbrellas",
            "islands",
            "violins",
            "tractors",
            "sledges",
            "acorns",
            "teapots",
        ],
    },
    Template {
        name: "colour",
        kind: "what",
        form: form!(
            r"\b(?:[Tt]he|[Aa]n?|[Hh]is|[Hh]er|[Mm]y|[Yy]our) (?P<a>red|blue|green|yellow|white|black|brown|grey|gray|pink|purple|golden|silver) (?P<s>[a-z]{3,})(?:[,.;!?]| (?:and|of|in|on|with|was|that|which)\b)"
        ),
        questions: &[
            "What colour is the {s} in the text?",
            "What colour does the {s} have?",
            "Which colour is the {s}?",
        ],
        absent: &["umbrella", "tractor", "carpet", "teapot", "ribbon", "kite", "violin", "curtain", "barrel", "sledge"],
    },
];

/// Capital words before a verb that are no names.
const NO_NAMES: [&str; 11] = ["He", "She", "It", "They", "We", "You", "There", "This", "That", "Who", "I"];

/// A question on a passage.
struct Question {
    template: usize,
    text: String,
    answer: Option<Range<usize>>,
}

struct Asker {
    settings: TextQuestions,
    seed: u64,
}

impl Step for Asker {
    fn apply(&self, document: &mut Document) -> Verdict {
        let mut random = Pcg64::seed_from_u64(xxh3_64_with_seed(document.id.as_bytes(), self.seed));
        let Some((passage, question)) = self.ask(document.text(), &mut random) else {
            return Verdict::drop("text_questions.none", "no passage to which a template fits");
        };
        let answer = question.answer.as_ref().map_or(self.settings.no_answer.as_str(), |span| &passage[span.clone()]);
        let Template { name, kind, .. } = &TEMPLATES[question.template];
        let text = format!("Passage: {passage}\nQuestion: {}\nAnswer: {answer}", question.text);
        let labels = [
            ("question", json!(question.text)),
            ("answer", json!(answer)),
            ("answerable", json!(question.answer.is_some())),
            ("span", question.answer.as_ref().map_or(json!(null), |span| json!([span.start, span.end]))),
            ("kind", json!(kind)),
            ("frame", json!(format!("text.{name}"))),
            ("passage", json!(passage)),
        ];
        document.labels.extend(labels.map(|(name, value)| (name.to_owned(), value)));
        document.set_text(text);
        Verdict::Keep
    }
}

impl Asker {
    fn ask(&self, text: &str, random: &mut Pcg64) -> Option<(String, Question)> {
        let paragraphs: Vec<&str> = text.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).collect();
        if paragraphs.is_empty() {
            return None;
        }
        let answerable = random.random::<f64>() >= self.settings.unanswerable;
        for _ in 0..PASSAGES_MAX {
            let from = random.random_range(0..paragraphs.len());
            let Some(passage) = self.passage(&paragraphs[from..]) else { continue };
            let question = if answerable { answered(&passage, random) } else { unanswered(&passage, random) };
            if let Some(question) = question {
                return Some((passage, question));
            }
        }
        None
    }

    /// The first paragraphs that have enough words and not too many, on one line.
    fn passage(&self, paragraphs: &[&str]) -> Option<String> {
        let mut words: Vec<&str> = Vec::new();
        for paragraph in paragraphs {
            words.extend(paragraph.split_whitespace().take(self.settings.words_max + 1));
            if words.len() > self.settings.words_max {
                return None;
            }
            if words.len() >= self.settings.words_min {
                return Some(words.join(" "));
            }
        }
        None
    }
}

fn choose<'a, T>(random: &mut Pcg64, items: &'a [T]) -> Option<&'a T> {
    (!items.is_empty()).then(|| &items[random.random_range(0..items.len())])
}

fn answered(passage: &str, random: &mut Pcg64) -> Option<Question> {
    let found: Vec<(usize, Captures)> = TEMPLATES
        .iter()
        .enumerate()
        .flat_map(|(i, template)| template.form.captures_iter(passage).map(move |found| (i, found)))
        .filter(|(i, found)| is_sound(passage, &TEMPLATES[*i], found))
        .collect();
    // Each form as often as the others, however often it is there.
    let forms: Vec<usize> = (0..TEMPLATES.len()).filter(|form| found.iter().any(|(i, _)| i == form)).collect();
    let form = *choose(random, &forms)?;
    let found: Vec<&Captures> = found.iter().filter(|(i, _)| *i == form).map(|(_, found)| found).collect();
    let found = choose(random, &found)?;
    let subject = found["s"].strip_prefix("The ").map_or(found["s"].to_owned(), |rest| format!("the {rest}"));
    let verb = found.name("v").map_or("", |verb| verb.as_str());
    let text = fill(choose(random, TEMPLATES[form].questions)?, &subject, verb);
    Some(Question { template: form, text, answer: found.name("a").map(|answer| answer.range()) })
}

/// Whether what was found has one answer: what is asked for is there once, and who is named is no pronoun.
fn is_sound(passage: &str, template: &Template, found: &Captures) -> bool {
    let (subject, answer) = (&found["s"], &found["a"]);
    let once = template.name == "where" || passage.matches(subject).count() == 1;
    once && !NO_NAMES.contains(&subject) && !NO_NAMES.contains(&answer)
}

fn unanswered(passage: &str, random: &mut Pcg64) -> Option<Question> {
    let lower = passage.to_lowercase();
    // Only passages that could have been asked, so that the form of a passage does not give the answer away.
    TEMPLATES.iter().find(|template| template.form.is_match(passage))?;
    let template = random.random_range(0..TEMPLATES.len());
    let Template { questions, absent, .. } = &TEMPLATES[template];
    let missing = |subject: &&&str| !subject.split(' ').any(|word| word.len() > 4 && lower.contains(word));
    let absent: Vec<&&str> = absent.iter().filter(missing).collect();
    let subject = choose(random, &absent)?;
    let verb = choose(random, &["lived", "stood", "lay", "sat", "slept"])?;
    Some(Question { template, text: fill(choose(random, questions)?, subject, verb), answer: None })
}

fn fill(question: &str, subject: &str, verb: &str) -> String {
    let verb = match verb {
        "lived" => "live",
        "stood" => "stand",
        "lay" => "lie",
        "sat" => "sit",
        _ => "sleep",
    };
    question.replace("{v}", verb).replace("{s}", subject)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(settings: &str) -> Box<dyn Step> {
        let surroundings = Surroundings { directory: std::path::Path::new("."), seed: 1 };
        match crate::steps::make::<TextQuestions>(settings.parse().unwrap(), surroundings).unwrap() {
            Made::Alone(step) => step,
            Made::Joined(_) => unreachable!(),
        }
    }

    const TALE: &str = "A long time ago, an old woman named Agatha had nothing but a hen and a red kettle. The hen slept in a basket.\n\n\
        One day there came three soldiers down the road. \u{201c}Have you any soup for us?\u{201d} asked the corporal.\n\n\
        She laughed, for there was only water in the house, and the hen had other plans for the evening than to be soup.";

    #[test]
    fn what_a_passage_says_is_asked_for() {
        let step = step("unanswerable = 0.0\nwords_min = 40");
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..200 {
            let mut document = Document::new(format!("{id}"), TALE);
            assert_eq!(step.apply(&mut document), Verdict::Keep);
            let label = |name: &str| document.labels[name].as_str().unwrap().to_owned();
            let span = [0, 1].map(|i| document.labels["span"][i].as_u64().unwrap() as usize);
            assert_eq!(label("passage")[span[0]..span[1]], label("answer"));
            assert!(document.text().ends_with(&format!("Answer: {}", label("answer"))));
            seen.insert(format!("{} {}", label("frame"), label("answer")));
        }
        let expected = ["colour red", "named Agatha", "number three", "said the corporal", "where in a basket"];
        assert_eq!(seen, expected.map(|pair| format!("text.{pair}")).into());
    }

    #[test]
    fn a_third_is_not_in_the_passage() {
        let step = step("");
        let mut unanswerable = 0;
        for id in 0..900 {
            let mut document = Document::new(format!("{id}"), TALE);
            assert_eq!(step.apply(&mut document), Verdict::Keep);
            if document.labels["answerable"] == false {
                unanswerable += 1;
                assert!(document.text().ends_with("Answer: The text does not say."));
                assert!(document.labels["span"].is_null());
            }
        }
        assert!((250..350).contains(&unanswerable), "{unanswerable}");
    }

    #[test]
    fn text_without_facts_is_dropped_with_the_rule() {
        let verdict =
            step("words_min = 5").apply(&mut Document::new("a", "It was as it was and so it went on and on."));
        assert!(matches!(verdict, Verdict::Drop(reason) if reason.rule == "text_questions.none"));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        use crate::steps::tests::refused;
        assert!(refused::<TextQuestions>("unanswerable = 2.0").contains("from 0 to 1"));
        assert!(refused::<TextQuestions>("words_min = 300").contains("words_max 200"));
    }

    proptest! {
        #[test]
        fn any_text_is_asked_about_or_dropped(text in "(\"|the red [a-z]{3}\\.|\\PC{0,12}| |\n\n|Two [a-z]{3}s ){0,60}") {
            let mut document = Document::new("a", text);
            if step("words_min = 1").apply(&mut document) == Verdict::Keep && document.labels["answerable"] == true {
                let span = [0, 1].map(|i| document.labels["span"][i].as_u64().unwrap() as usize);
                prop_assert_eq!(&document.labels["passage"].as_str().unwrap()[span[0]..span[1]], document.labels["answer"].as_str().unwrap());
            }
        }
    }
}
