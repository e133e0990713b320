//! Questions on a passage, a story or a few facts: the answer is a span of the passage, or the passage does not say it

use std::ops::Range;

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common_words::CommonWords;
use super::conversation::{Conversation, Role};
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
    /// Share of names that are made up of syllables: with many of these names are read, and not known by heart.
    pub made_up_names: f64,
    /// Most words of a story.
    pub words_max: usize,
    /// Most questions on one passage; each number from one on is as likely. A passage that is asked about once teaches looking up once, for all
    /// the tokens that it has.
    pub questions_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            unanswerable: 1.0 / 3.0,
            no_answer: "The text does not say.".to_owned(),
            conversation: 0.5,
            stories: 0.5,
            coined: 0.0,
            made_up_names: 0.3,
            words_max: 200,
            questions_max: 1,
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

/// Questions on a story that it does not answer.
const ABSENT: [&str; 5] =
    ["none.who.absent", "none.what.absent", "none.where.absent", "none.howmany.absent", "none.why.absent"];

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

/// A passage with what is asked about it, in order; at least one question.
struct Asked {
    passage: String,
    questions: Vec<Question>,
    story: Option<Story>,
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
        if settings.questions_max == 0 {
            return Err("questions_max is 0: at least one question is asked".to_owned());
        }
        let grammar = Grammar::parse(&[FACTS, COINED], slot)?;
        let made_up_names = settings.made_up_names;
        let stories =
            Stories::new(StorySettings { styled: 0.0, titled: 0.0, made_up_names, ..StorySettings::default() })?;
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

    /// Which of so many things are asked for, in order; the first `answered` have answers. Nothing is asked for twice, and what there is no more
    /// of is not asked for.
    fn chosen(&self, random: &mut Pcg64, answerable: bool, answered: usize, all: usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..all).collect();
        let mut chosen = Vec::new();
        let mut choose_one = |random: &mut Pcg64, answerable: bool| {
            let fitting: Vec<usize> = left.iter().copied().filter(|&place| (place < answered) == answerable).collect();
            if !fitting.is_empty() {
                let place = *choose(random, &fitting);
                left.retain(|&other| other != place);
                chosen.push(place);
            }
        };
        choose_one(random, answerable);
        if self.settings.questions_max > 1 {
            for _ in 1..random.random_range(1..=self.settings.questions_max) {
                let answerable = random.random::<f64>() >= self.settings.unanswerable;
                choose_one(random, answerable);
            }
        }
        chosen
    }

    /// A passage about some facts.
    fn about_facts(&self, random: &mut Pcg64, held_out: bool, answerable: bool) -> Asked {
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
        let chosen = self.chosen(random, answerable, stated, order.len());
        let ask = |place: usize| {
            let fact = order[place];
            let (text, line) = asking.ask(fact.ask, random);
            let frame = format!("{}/{line}", self.grammar.name(fact.ask));
            debug_assert!(frame.contains(&topic.name));
            Question { text, frame, kind: fact.kind.clone(), answer: spans.get(place).cloned() }
        };
        let questions = chosen.into_iter().map(ask).collect();
        Asked { passage, questions, story: None }
    }

    /// A story as a passage.
    fn about_story(&self, random: &mut Pcg64, held_out: bool, answerable: bool) -> Asked {
        let story = self.stories.tell(random, held_out, 60, self.settings.words_max);
        let passage = story.text.replace("\n\n", " ");
        let answers = answers(&story, &passage);
        let kinds: Vec<&str> = answers.iter().map(|(name, _)| *name).chain(ABSENT).collect();
        let chosen = self.chosen(random, answerable, answers.len(), kinds.len());
        let taken = [story.cast.hero.name.as_str(), &story.cast.helper.name, &story.cast.other.name];
        let she = random.random();
        let absent = self.stories.lexicon().name(random, held_out, she, None, &taken);
        let mut teller = Teller::new(self.stories.grammar(), &story.cast, story.plot.wish, held_out);
        teller.know(&story.want);
        let mut asking = Asking { teller: Some(teller), absent, ..Asking::new(self, held_out) };
        let ask = |place: usize| {
            let rule = self.grammar.rule(kinds[place]).unwrap_or_else(|| panic!("{}: a rule", kinds[place]));
            let (text, line) = asking.ask(rule, random);
            let frame = format!("{}/{line}", kinds[place]);
            let kind = kinds[place].split('.').nth(1).unwrap_or_default().to_owned();
            Question { text, frame, kind, answer: answers.get(place).map(|(_, span)| span.clone()) }
        };
        let questions = chosen.into_iter().map(ask).collect();
        Asked { passage, questions, story: Some(story) }
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

    /// A question, with a capital where it begins, and the line of the rule that it is from.
    fn ask(&mut self, rule: RuleId, random: &mut Pcg64) -> (String, usize) {
        let (raw, line) = self.expand(rule, random);
        let mut text = String::new();
        append_polished(&raw, &mut text);
        (text, line)
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

impl Question {
    /// What is answered.
    fn reply(&self, passage: &str, no_answer: &str) -> String {
        self.answer.clone().map_or(no_answer, |span| &passage[span]).to_owned()
    }

    fn labels(&self, reply: &str, labels: &mut Map<String, Value>) {
        labels.insert("question".to_owned(), json!(self.text));
        labels.insert("answer".to_owned(), json!(reply));
        labels.insert("answerable".to_owned(), json!(self.answer.is_some()));
        labels
            .insert("span".to_owned(), self.answer.as_ref().map_or(Value::Null, |span| json!([span.start, span.end])));
        labels.insert("kind".to_owned(), json!(self.kind));
        labels.insert("frame".to_owned(), json!(self.frame));
    }
}

impl Generator for Questions {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let answerable = random.random::<f64>() >= self.settings.unanswerable;
        let Asked { passage, questions, story } = if random.random::<f64>() < self.settings.stories {
            self.about_story(random, held_out, answerable)
        } else if random.random::<f64>() < self.settings.coined {
            self.about_anything(random, held_out, answerable)
        } else {
            self.about_facts(random, held_out, answerable)
        };
        let exchanges = questions.iter().map(|asked| (asked, asked.reply(&passage, &self.settings.no_answer)));
        let exchanges: Vec<(&Question, String)> = exchanges.collect();
        let [(first, reply), further @ ..] = &exchanges[..] else { unreachable!("something is asked") };
        let mut labels = Map::new();
        labels.insert("passage".to_owned(), json!(passage));
        first.labels(reply, &mut labels);
        if !further.is_empty() {
            let more = further.iter().map(|(asked, reply)| {
                let mut labels = Map::new();
                asked.labels(reply, &mut labels);
                Value::Object(labels)
            });
            labels.insert("further".to_owned(), more.collect());
        }
        if let Some(story) = story {
            labels.insert("story".to_owned(), Value::Object(self.stories.labels(&story)));
        }
        if random.random::<f64>() < self.settings.conversation {
            let asked = &first.text;
            let user = match random.random_range(0..3) {
                0 => format!("{passage}\n\n{asked}"),
                1 => format!("{asked}\n\n{passage}"),
                _ => format!("Read this and answer.\n\n{passage}\n\n{asked}"),
            };
            let conversation =
                further.iter().fold(Conversation::exchange(user, reply), |conversation, (asked, reply)| {
                    conversation.then(Role::User, &asked.text).then(Role::Assistant, reply)
                });
            conversation.generated(labels)
        } else {
            let exchange =
                |(asked, reply): &(&Question, String)| format!("\nQuestion: {}\nAnswer: {reply}", asked.text);
            let asked: String = exchanges.iter().map(exchange).collect();
            Generated { text: format!("Passage: {passage}{asked}"), labels }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::tests::documents;

    fn text(value: &Value, name: &str) -> String {
        value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}")).to_owned()
    }

    /// Each question on one passage has its own answer, none comes twice, and the text has all of them in order.
    #[test]
    fn several_questions_on_one_passage_have_an_answer_each() {
        let settings = Settings { questions_max: 6, coined: 0.3, ..Settings::default() };
        let questions = Questions::new(settings).unwrap();
        let (mut count, mut silent) = ([0; 7], 0);
        for document in documents(&questions, false, 1_500).into_iter().chain(documents(&questions, true, 500)) {
            let labels = Value::Object(document.labels.clone());
            let passage = text(&labels, "passage");
            let mut exchanges = vec![labels.clone()];
            exchanges.extend(labels["further"].as_array().into_iter().flatten().cloned());
            count[exchanges.len()] += 1;
            let (mut asked, mut at) = (Vec::new(), 0);
            for exchange in &exchanges {
                let (question, answer) = (text(exchange, "question"), text(exchange, "answer"));
                if let Value::Array(span) = &exchange["span"] {
                    let [start, end] = [0, 1].map(|i| span[i].as_u64().unwrap() as usize);
                    assert_eq!(passage[start..end], answer);
                } else {
                    assert_eq!(answer, "The text does not say.");
                    silent += 1;
                }
                assert!(!asked.contains(&question), "{question} is asked twice of {passage}");
                // The first question may stand before the passage, and a name of the passage may be its answer.
                let from = document.text[at..].find(&question).expect("the question is in the text") + at;
                let of_answer = document.text[from..].find(&format!(": {answer}")).expect("its answer comes behind it");
                (at, asked) = (from + of_answer, [asked, vec![question]].concat());
            }
        }
        assert!(count[0] == 0 && count[1..].iter().all(|&n| n > 100), "{count:?}");
        let all: usize = count.iter().enumerate().map(|(n, documents)| n * documents).sum();
        assert!((0.25..0.40).contains(&(silent as f64 / all as f64)), "{silent} of {all} have no answer");
    }

    #[test]
    fn no_question_at_all_is_refused() {
        let error = Questions::new(Settings { questions_max: 0, ..Settings::default() }).err().unwrap();
        assert_eq!(error, "questions_max is 0: at least one question is asked");
    }
}
