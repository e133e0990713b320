//! Questions on a passage, a story or a few facts: the answer is a span of the passage, or the passage does not say it

use std::ops::Range;

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common_words::CommonWords;
use super::conversation::Conversation;
use super::grammar::{Fill, Grammar, RuleId, append_polished};
use super::manual::Manual;
use super::split::{choose, is_held_out};
use super::story::wording::{Part, Slot as StorySlot, Teller};
use super::story::{Settings as StorySettings, Stories, Story};
use super::{Generated, Generator};
use crate::options;

mod coined;

/// Settings of questions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of questions that the passage does not answer. A third is that of SQuAD 2.0 (arXiv 1806.03822) in training.
    pub unanswerable: f64,
    /// What is answered then.
    pub no_answer: String,
    /// Share of records that are a conversation; the others are `Passage: ...`, `Question: ...`, `Answer: ...`.
    pub conversation: f64,
    /// Share of passages that are stories; the others are a few facts.
    pub stories: f64,
    /// Share of the passages of facts that are on anything, in common words.
    pub coined: f64,
    /// Most words of a story.
    pub words_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            unanswerable: 1.0 / 3.0,
            no_answer: "The text does not say.".to_owned(),
            conversation: 0.5,
            stories: 0.5,
            coined: 0.0,
            words_max: 200,
        }
    }
}

/// The row of the table of generators.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Questions::new(options::read(table)?)?))
}

/// What a frame leaves open.
#[derive(Clone, Copy, Debug)]
enum Slot {
    /// Of the story.
    Story(StorySlot),
    /// What a paragraph of facts is about.
    Entity,
    /// The value of a fact.
    Value,
    Name,
    Town,
    Year,
    Number,
    /// A name, a word for kin and a thing that the story does not have.
    Absent,
    AbsentKin,
    AbsentThing,
    /// What is told of a thing that is made up.
    Key,
    AnyKey,
    AnyThing,
    AnyQuality,
    AnyMaker,
    AnyWord,
}

fn slot(name: &str) -> Option<Slot> {
    Some(match name {
        "e" => Slot::Entity,
        "v" => Slot::Value,
        "name" => Slot::Name,
        "town" => Slot::Town,
        "year" => Slot::Year,
        "number" => Slot::Number,
        "absent" => Slot::Absent,
        "absentkin" => Slot::AbsentKin,
        "absentthing" => Slot::AbsentThing,
        "k" => Slot::Key,
        "anykey" => Slot::AnyKey,
        "anything" => Slot::AnyThing,
        "anyquality" => Slot::AnyQuality,
        "anymaker" => Slot::AnyMaker,
        "anyword" => Slot::AnyWord,
        _ => Slot::Story(StorySlot::named(name)?),
    })
}

const FACTS: &str = include_str!("facts.txt");
const COINED: &str = include_str!("coined.txt");

/// Kin and things that questions without an answer ask for.
const KIN: [&str; 8] = ["sister", "brother", "daughter", "son", "wife", "husband", "doctor", "landlord"];
const THINGS: [&str; 10] =
    ["parasol", "piano", "bathtub", "sofa", "typewriter", "tractor", "canoe", "rifle", "wardrobe", "microscope"];

/// The generator.
pub struct Questions {
    settings: Settings,
    stories: Stories,
    words: CommonWords,
    grammar: Grammar<Slot>,
    /// What paragraphs of facts can be about.
    topics: Vec<Topic>,
}

struct Topic {
    name: String,
    entity: RuleId,
    facts: Vec<Fact>,
}

struct Fact {
    kind: String,
    say: RuleId,
    ask: RuleId,
    value: RuleId,
}

/// A question with its answer.
struct Question {
    text: String,
    frame: String,
    kind: String,
    answer: Option<Range<usize>>,
}

impl Questions {
    /// A generator with these settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Questions, String> {
        for (name, share) in [
            ("unanswerable", settings.unanswerable),
            ("conversation", settings.conversation),
            ("stories", settings.stories),
            ("coined", settings.coined),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} {share} is not between 0 and 1"));
            }
        }
        if settings.words_max < 160 {
            return Err(format!("words_max {} is below 160, where not every story fits", settings.words_max));
        }
        let grammar = Grammar::parse(&[FACTS, COINED], slot)?;
        let stories = Stories::new(StorySettings { styled: 0.0, titled: 0.0, ..StorySettings::default() })?;
        let rule = |name: String| grammar.rule(&name).unwrap_or_else(|| panic!("{name}: a rule of the questions"));
        let topic = |entity: RuleId| {
            let name = grammar.name(entity)[2..].to_owned();
            let prefix = format!("say.{name}.");
            let facts = grammar.rules_of(&prefix).map(|say| {
                let rest = &grammar.name(say)["say.".len()..];
                Fact {
                    kind: grammar.name(say)[prefix.len()..].split('.').next().unwrap_or_default().to_owned(),
                    say,
                    ask: rule(format!("ask.{rest}")),
                    value: rule(format!("val.{rest}")),
                }
            });
            Topic { facts: facts.collect(), name, entity }
        };
        let topics = grammar.rules_of("e.").map(topic).collect();
        Ok(Questions { settings, stories, words: CommonWords::read(), topics, grammar })
    }

    /// A passage about some facts, and a question.
    fn about_facts(&self, random: &mut Pcg64, held_out: bool, answerable: bool) -> (String, Question) {
        let topic = choose(random, &self.topics);
        let mut order: Vec<&Fact> = topic.facts.iter().collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random.random_range(0..=i));
        }
        let stated = random.random_range(3..order.len());
        let mut asking = Asking::new(self, held_out);
        asking.entity = asking.expand(topic.entity, random).0;
        let mut passage = String::new();
        let opening = self.grammar.rule("opening").expect("a rule of the questions");
        append_polished(&asking.expand(opening, random).0, &mut passage);
        let mut spans = Vec::new();
        for fact in &order[..stated] {
            asking.value = asking.expand(fact.value, random).0;
            let raw = asking.expand(fact.say, random).0;
            passage.push(' ');
            let start = passage.len();
            append_polished(&raw, &mut passage);
            let said = passage[start..].to_ascii_lowercase();
            // What the fact is on may have the word of the value, too, and stands before it mostly.
            let value = asking.value.to_ascii_lowercase();
            let at =
                find_words(&said, &value).last().or_else(|| said.rfind(&value)).expect("a fact has its value") + start;
            spans.push(at..at + asking.value.len());
        }
        let asked = if answerable { random.random_range(0..stated) } else { random.random_range(stated..order.len()) };
        let (raw, line) = asking.expand(order[asked].ask, random);
        let mut text = String::new();
        append_polished(&raw, &mut text);
        let frame = format!("{}/{line}", self.grammar.name(order[asked].ask));
        debug_assert!(frame.contains(&topic.name));
        let answer = answerable.then(|| spans[asked].clone());
        (passage, Question { text, frame, kind: order[asked].kind.clone(), answer })
    }

    /// A story as a passage, and a question.
    fn about_story(&self, random: &mut Pcg64, held_out: bool, answerable: bool) -> (String, Question, Story) {
        let story = self.stories.tell(random, held_out, 60, self.settings.words_max);
        let passage = story.text.replace("\n\n", " ");
        let answers = answers(&story, &passage);
        let kinds: Vec<&str> = if answerable {
            answers.iter().map(|(name, _)| *name).collect()
        } else {
            vec!["none.who.absent", "none.what.absent", "none.where.absent", "none.howmany.absent", "none.why.absent"]
        };
        let chosen = random.random_range(0..kinds.len());
        let rule = self.grammar.rule(kinds[chosen]).unwrap_or_else(|| panic!("{}: a rule", kinds[chosen]));
        let taken = [story.cast.hero.name.as_str(), &story.cast.helper.name, &story.cast.other.name];
        let she = random.random();
        let absent = self.stories.lexicon().name(random, held_out, she, None, &taken);
        let mut teller = Teller::new(self.stories.grammar(), &story.cast, story.plot.wish, held_out);
        teller.know(&story.want);
        let mut asking = Asking { teller: Some(teller), absent, ..Asking::new(self, held_out) };
        let (raw, line) = asking.expand(rule, random);
        let mut text = String::new();
        append_polished(&raw, &mut text);
        let frame = format!("{}/{line}", kinds[chosen]);
        let kind = kinds[chosen].split('.').nth(1).unwrap_or_default().to_owned();
        let answer = answerable.then(|| answers[chosen].1.clone());
        (passage, Question { text, frame, kind, answer }, story)
    }
}

/// What can be asked about a story, with the place of the answer in the passage.
fn answers(story: &Story, passage: &str) -> Vec<(&'static str, Range<usize>)> {
    let cast = &story.cast;
    let stated = |part: Part| story.told.iter().any(|told| told.stated.who[part as usize]);
    let mut answers = Vec::new();
    let mut add = |name: &'static str, answer: &str| {
        if let Some(at) = find_word(passage, answer) {
            answers.push((name, at..at + answer.len()));
        }
    };
    add("story.who.hero", &cast.hero.name);
    add("story.what.kind", cast.hero.kind);
    add("story.where.home", &format!("the {} of {}", cast.home.0, cast.home.1));
    add("story.where.goal", &format!("the {} {}", cast.goal.1, cast.goal.2));
    add("story.what.thing", &format!("{} {}", cast.thing.0, cast.thing.1));
    add("story.why.wish", &story.why);
    if story.plot.helper.is_some() && stated(Part::Helper) {
        add("story.who.helper", &cast.helper.name);
        add("story.what.helper", cast.helper.kind);
    }
    if story.plot.wish.other && stated(Part::Other) {
        add("story.who.kin", &cast.other.name);
    }
    if story.told.iter().any(|told| told.stated.number) {
        add("story.howmany.way", &format!("{} {}", cast.number.0, cast.unit));
    }
    answers
}

/// Places where the text stands with no letter beside it.
fn find_words<'a>(passage: &'a str, text: &'a str) -> impl Iterator<Item = usize> + 'a {
    let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = passage.as_bytes();
    passage.match_indices(text).map(|(at, _)| at).filter(move |&at| {
        !letter(at.checked_sub(1).and_then(|before| bytes.get(before))) && !letter(bytes.get(at + text.len()))
    })
}

/// The first of them.
fn find_word(passage: &str, text: &str) -> Option<usize> {
    find_words(passage, text).next()
}

struct Asking<'a> {
    questions: &'a Questions,
    teller: Option<Teller<'a>>,
    held_out: bool,
    entity: String,
    key: String,
    value: String,
    absent: String,
}

impl<'a> Asking<'a> {
    fn new(questions: &'a Questions, held_out: bool) -> Asking<'a> {
        let empty = String::new;
        Asking { questions, teller: None, held_out, entity: empty(), key: empty(), value: empty(), absent: empty() }
    }
}

impl Asking<'_> {
    fn expand(&mut self, rule: RuleId, random: &mut Pcg64) -> (String, usize) {
        let grammar = &self.questions.grammar;
        let mut out = String::new();
        let line = grammar.expand(rule, None, self.held_out, random, &mut grammar.unused(), self, &mut out);
        (out, line)
    }

    /// A number of the set, in digits.
    fn number(&self, random: &mut Pcg64, from: u32, to: u32) -> String {
        loop {
            let number = random.random_range(from..to).to_string();
            if is_held_out(&number) == self.held_out {
                return number;
            }
        }
    }
}

impl Fill<Slot> for Asking<'_> {
    fn fill(&mut self, slot: Slot, random: &mut Pcg64, out: &mut String) {
        let lexicon = self.questions.stories.lexicon();
        let (words, held_out) = (&self.questions.words, self.held_out);
        match slot {
            Slot::Story(slot) => self.teller.as_mut().expect("a question about a story").fill(slot, random, out),
            Slot::Entity => out.push_str(&self.entity),
            Slot::Value => out.push_str(&self.value),
            Slot::Name => {
                let she = random.random();
                out.push_str(&lexicon.name(random, self.held_out, she, None, &[]));
            }
            Slot::Town => out.push_str(lexicon.town(random, self.held_out)),
            Slot::Year => out.push_str(&self.number(random, 1700, 2000)),
            Slot::Number => out.push_str(&self.number(random, 2, 100)),
            Slot::Absent => out.push_str(&self.absent),
            Slot::AbsentKin => out.push_str(KIN[random.random_range(0..KIN.len())]),
            Slot::AbsentThing => out.push_str(THINGS[random.random_range(0..THINGS.len())]),
            Slot::Key => out.push_str(&self.key),
            Slot::AnyKey => out.push_str(&words.name_of_field(random, held_out)),
            Slot::AnyThing => out.push_str(words.thing(random, held_out)),
            Slot::AnyQuality => out.push_str(words.quality(random, held_out)),
            Slot::AnyMaker => out.push_str(words.maker(random, held_out)),
            Slot::AnyWord => out.push_str(&words.value(random, held_out)),
        }
    }
}

impl Generator for Questions {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let answerable = random.random::<f64>() >= self.settings.unanswerable;
        let (passage, question, story) = if random.random::<f64>() < self.settings.stories {
            let (passage, question, story) = self.about_story(random, held_out, answerable);
            (passage, question, Some(story))
        } else if random.random::<f64>() < self.settings.coined {
            let (passage, question) = self.about_anything(random, held_out, answerable);
            (passage, question, None)
        } else {
            let (passage, question) = self.about_facts(random, held_out, answerable);
            (passage, question, None)
        };
        let answer = match &question.answer {
            Some(span) => passage[span.clone()].to_owned(),
            None => self.settings.no_answer.clone(),
        };
        let mut labels = Map::new();
        labels.insert("passage".to_owned(), json!(passage));
        labels.insert("question".to_owned(), json!(question.text));
        labels.insert("answer".to_owned(), json!(answer));
        labels.insert("answerable".to_owned(), json!(answerable));
        labels.insert("span".to_owned(), question.answer.map_or(Value::Null, |span| json!([span.start, span.end])));
        labels.insert("kind".to_owned(), json!(question.kind));
        labels.insert("frame".to_owned(), json!(question.frame));
        if let Some(story) = story {
            labels.insert("story".to_owned(), Value::Object(self.stories.labels(&story)));
        }
        let Question { text: asked, .. } = question;
        if random.random::<f64>() < self.settings.conversation {
            let user = match random.random_range(0..3) {
                0 => format!("{passage}\n\n{asked}"),
                1 => format!("{asked}\n\n{passage}"),
                _ => format!("Read this and answer.\n\n{passage}\n\n{asked}"),
            };
            Conversation::exchange(user, answer).generated(labels)
        } else {
            Generated { text: format!("Passage: {passage}\nQuestion: {asked}\nAnswer: {answer}"), labels }
        }
    }
}
