//! Word problems of one step or two: frames of situations, events and questions, filled with names, objects and plausible numbers

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::english::{Noun, number_in_words, push_number};
use super::frames::{Frame, Section, Values, section, sections};
use super::manual::Manual;
use super::names::{Person, people, two};
use super::shares::chance;
use super::split::{Split, choose};
use super::working::{self, Form, Operation, PairSet, pair_set};
use super::{Generated, Generator};
use crate::options;

/// Settings of word problems.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Largest number given. Objects have limits of their own below it: nobody has 300 apples.
    pub max: i64,
    /// Share of problems of two steps.
    pub two_steps: f64,
    /// Share of answers with working before the answer.
    pub working: f64,
    /// How the working of each step is written.
    pub form: Form,
    /// Share of answers that are a sentence; the others are the number alone.
    pub sentence: f64,
    /// Share of problems with numbers up to twenty in words.
    pub words: f64,
    /// Share of problems with a sentence that has nothing to do with the answer.
    pub extra: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        let form = Form::Plain;
        Settings { max: 300, two_steps: 0.1, working: 0.5, form, sentence: 0.7, words: 0.1, extra: 0.1 }
    }
}

/// What the numbers count.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Class {
    name: &'static str,
    /// Largest number that is plausible.
    max: i64,
}

const CLASSES: &[Class] = &[
    Class { name: "small", max: 100 },
    Class { name: "food", max: 60 },
    Class { name: "bulky", max: 40 },
    Class { name: "scenes", max: 50 },
    Class { name: "money", max: 200 },
    Class { name: "age", max: 60 },
    Class { name: "length", max: 200 },
    Class { name: "way", max: 90 },
    Class { name: "pages", max: 300 },
];

/// What is to be computed from x, y and z.
#[derive(Clone, Debug, PartialEq)]
enum Formula {
    /// Operations from left to right.
    Operations(Vec<Operation>),
    /// x / y, without rest.
    Divide,
}

/// A kind of problem.
struct Problem {
    name: &'static str,
    formula: Formula,
    classes: Vec<Class>,
    starts: Split<Frame>,
    events: Option<Split<Frame>>,
    /// Questions with their answers.
    questions: Split<(Frame, Frame)>,
}

/// A thing that is at a place, and how it leaves and comes, each for one and for many.
#[derive(Clone, Copy, Debug)]
struct Scene {
    thing: Noun,
    place: &'static str,
    leave: Noun,
    come: Noun,
}

/// The generator.
pub struct WordProblems {
    settings: Settings,
    one_step: Vec<Problem>,
    two_steps: Vec<Problem>,
    people: Split<Person>,
    objects: Vec<(&'static str, Split<Noun>)>,
    scenes: Split<Scene>,
    containers: Split<Noun>,
    subjects: Split<(&'static str, Noun)>,
    extra: Split<Frame>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(WordProblems::new(options::read(table)?)?))
}

fn read_problem(section: &Section) -> Option<Problem> {
    let mut parts = section.name.split(' ');
    let (name, formula, classes) = (parts.next()?, parts.next()?, parts.next()?);
    let operation = |sign| match sign {
        '+' => Operation::Add,
        '-' => Operation::Subtract,
        '*' => Operation::Multiply,
        _ => panic!("{}: no operation {sign}", section.name),
    };
    let formula = match formula {
        "x/y" => Formula::Divide,
        signs => Formula::Operations(signs.chars().skip(1).step_by(2).map(operation).collect()),
    };
    let class = |name| *CLASSES.iter().find(|class| class.name == name).expect("a class of objects");
    let questions = section.lines.iter().filter(|line| line.mark == '?').map(|line| {
        let (question, answer) = line.text.split_once(" = ").expect("a question and its answer");
        (Frame::new(line.number, question), Frame::new(line.number, answer))
    });
    Some(Problem {
        name,
        formula,
        classes: classes.split(',').map(class).collect(),
        starts: section.split('-'),
        events: section.lines.iter().any(|line| line.mark == '+').then(|| section.split('+')),
        questions: Split::new(questions, |(question, _)| question.source.to_owned()),
    })
}

impl WordProblems {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<WordProblems, String> {
        if !(20..=1_000_000).contains(&settings.max) {
            return Err(format!("max {}: from 20 to 1000000", settings.max));
        }
        for (name, share) in [
            ("two_steps", settings.two_steps),
            ("working", settings.working),
            ("sentence", settings.sentence),
            ("words", settings.words),
            ("extra", settings.extra),
        ] {
            chance(name, share)?;
        }
        let sections = sections(include_str!("word_problems.txt"));
        let (one_step, two_steps) = sections
            .iter()
            .filter_map(read_problem)
            .partition(|problem| !matches!(&problem.formula, Formula::Operations(operations) if operations.len() > 1));
        let nouns = |section: &Section| Split::new(section.texts('-').map(Noun::new), |noun| noun.one.to_owned());
        let scenes = section(&sections, "scenes").texts('-').map(|line| {
            let parts: Vec<&str> = line.split("; ").collect();
            let [thing, place, leave, come] = parts[..] else { panic!("a scene: {line}") };
            Scene { thing: Noun::new(thing), place, leave: Noun::new(leave), come: Noun::new(come) }
        });
        let subjects = section(&sections, "subjects").texts('-').map(|line| {
            let (thing, unit) = line.split_once("; ").expect("a thing and its unit");
            (thing, Noun::new(unit))
        });
        Ok(WordProblems {
            one_step,
            two_steps,
            people: people(),
            objects: sections
                .iter()
                .filter_map(|section| Some((section.name.strip_prefix("objects ")?, nouns(section))))
                .collect(),
            scenes: Split::new(scenes, |scene| scene.thing.one.to_owned()),
            containers: nouns(section(&sections, "containers")),
            subjects: Split::new(subjects, |subject| subject.0.to_owned()),
            extra: section(&sections, "extra").split('-'),
            settings,
        })
    }

    /// Who and what it is about, and the numbers.
    fn values(&self, problem: &Problem, class: Class, random: &mut Pcg64, held_out: bool) -> Story {
        let scene = *self.scenes.choose(random, held_out);
        let (subject, unit) = *self.subjects.choose(random, held_out);
        let objects = self.objects.iter().find(|(name, _)| *name == class.name);
        let thing = objects.map_or(scene.thing, |(_, nouns)| *nouns.choose(random, held_out));
        let numbers = numbers(&problem.formula, class, self.settings.max, random, held_out);
        // A bowl of bowls is not asked for.
        let container = loop {
            let container = *self.containers.choose(random, held_out);
            if container != thing {
                break container;
            }
        };
        let (person, other) = two(&self.people, random, held_out);
        Story {
            person,
            other,
            thing,
            scene,
            container,
            subject,
            unit,
            result: problem.formula.result(&numbers),
            extra: random.random_range(6..12),
            numbers,
            in_words: random.random_bool(self.settings.words),
        }
    }
}

/// Sentences begin with capitals, also where they begin with a number in words.
fn capitalize_sentences(text: &mut str) {
    let mut begins = true;
    let mut previous = ' ';
    let starts: Vec<usize> = text
        .char_indices()
        .filter_map(|(i, c)| {
            let start = begins && c.is_ascii_lowercase();
            begins = i > 0 && c == ' ' && matches!(previous, '.' | '?' | '!');
            previous = c;
            start.then_some(i)
        })
        .collect();
    for start in starts {
        text[start..start + 1].make_ascii_uppercase();
    }
}

impl Generator for WordProblems {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let two_steps = random.random_bool(self.settings.two_steps);
        let problem = choose(random, if two_steps { &self.two_steps } else { &self.one_step });
        let class = *choose(random, &problem.classes);
        let story = self.values(problem, class, random, held_out);

        let mut lines: Vec<&Frame> = vec![problem.starts.choose(random, held_out)];
        lines.extend(problem.events.as_ref().map(|events| events.choose(random, held_out)));
        let extra = random.random_bool(self.settings.extra) && class.name != "age";
        if extra {
            // What names no one comes first; what names someone needs him to be there.
            let extra = self.extra.choose(random, held_out);
            let at = if extra.has("name") || extra.has("other") { lines.len() } else { 0 };
            lines.insert(at, extra);
        }
        let (question, answer) = problem.questions.choose(random, held_out);
        lines.push(question);
        let mut asked = String::new();
        for line in &lines {
            if !asked.is_empty() {
                asked.push(' ');
            }
            line.write(&story, &mut asked);
        }
        capitalize_sentences(&mut asked);

        let mut reply = String::new();
        let equations = problem.formula.equations(&story.numbers);
        if random.random_bool(self.settings.working) {
            for &(operation, a, b) in &equations {
                let start = reply.len();
                working::write(operation, a, b, self.settings.form, &mut reply);
                if reply.len() > start {
                    reply.push_str(". ");
                }
                working::plain(operation, a, b, &mut reply);
                reply.push_str(". ");
            }
            if equations.is_empty() {
                let [x, y] = story.numbers[..] else { panic!("two numbers") };
                reply.push_str(&format!("{x} / {y} = {}. ", story.result));
            }
        }
        if random.random_bool(self.settings.sentence) {
            // Answers are in digits, however the question is written.
            let start = reply.len();
            answer.write(&Story { in_words: false, ..story.clone() }, &mut reply);
            capitalize_sentences(&mut reply[start..]);
        } else if reply.is_empty() {
            push_number(story.result, &mut reply);
        } else {
            // The last equation ends with the answer.
            reply.truncate(reply.len() - ". ".len());
        }

        let mut labels = Map::new();
        labels.insert("answer".into(), story.result.to_string().into());
        labels.insert("kind".into(), problem.name.into());
        let frame: Vec<String> = lines.iter().map(|line| line.line.to_string()).collect();
        labels.insert("frame".into(), frame.join("+").into());
        labels.insert("names".into(), json!(story.names(&asked)));
        labels.insert("numbers".into(), json!(story.numbers));
        if extra {
            labels.insert("extra".into(), Value::Bool(true));
        }
        Conversation::exchange(asked, reply).generated(labels)
    }
}

impl Formula {
    fn equations(&self, numbers: &[i64]) -> Vec<(Operation, i64, i64)> {
        let Formula::Operations(operations) = self else { return Vec::new() };
        let mut left = numbers[0];
        let steps = operations.iter().zip(&numbers[1..]);
        steps
            .map(|(&operation, &right)| {
                let equation = (operation, left, right);
                left = operation.apply(left, right);
                equation
            })
            .collect()
    }

    fn result(&self, numbers: &[i64]) -> i64 {
        match self {
            Formula::Divide => numbers[0] / numbers[1],
            Formula::Operations(_) => {
                self.equations(numbers).last().map_or(0, |&(operation, a, b)| operation.apply(a, b))
            }
        }
    }
}

/// Plausible numbers: none is 0 on the way, factors have one digit.
fn numbers(formula: &Formula, class: Class, max: i64, random: &mut Pcg64, held_out: bool) -> Vec<i64> {
    let max = class.max.min(max);
    let least = if class.name == "age" { 3 } else { 1 };
    loop {
        // Small numbers are as frequent as large ones.
        let max = if random.random_bool(0.4) { max.min(20) } else { max };
        let (x, y, z) = (random.random_range(least..=max), random.random_range(1..=max), random.random_range(1..=max));
        let factors = (random.random_range(2..10), random.random_range(2..10));
        let numbers = match formula {
            Formula::Divide => return vec![factors.0 * factors.1, factors.1],
            Formula::Operations(operations) => match operations[..] {
                // Tables are known by heart, so their frames alone are held out.
                [Operation::Multiply] => return vec![factors.0, factors.1],
                [Operation::Multiply, _] => vec![factors.0, factors.1, z.min(20)],
                [Operation::Subtract] => vec![x.max(y), x.min(y)],
                [Operation::Subtract, _] => vec![x.max(y), x.min(y), z],
                [_] => vec![x, y],
                _ => vec![x, y, z],
            },
        };
        let equations = formula.equations(&numbers);
        let plausible = equations.iter().all(|&(operation, a, b)| operation.apply(a, b) >= least);
        let sum = |&(operation, a, b): &(Operation, i64, i64)| {
            operation == Operation::Multiply || (pair_set(a, b) == PairSet::HeldOut) == held_out
        };
        if plausible && equations.iter().all(sum) {
            return numbers;
        }
    }
}

/// What the slots of a problem hold.
#[derive(Clone, Debug)]
struct Story {
    person: Person,
    other: Person,
    thing: Noun,
    scene: Scene,
    container: Noun,
    subject: &'static str,
    unit: Noun,
    numbers: Vec<i64>,
    result: i64,
    extra: i64,
    in_words: bool,
}

impl Story {
    fn names(&self, text: &str) -> Vec<&'static str> {
        [self.person.name, self.other.name].into_iter().filter(|name| text.contains(name)).collect()
    }

    /// The noun of a slot such as `things`, in both forms.
    fn noun(&self, name: &str) -> Noun {
        match name {
            "thing" | "things" => self.thing,
            "container" | "containers" => self.container,
            "unit" | "units" => self.unit,
            "leave" => self.scene.leave,
            "come" => self.scene.come,
            "dollars" => Noun::new("dollar/dollars"),
            "years" => Noun::new("year/years"),
            "kilometres" => Noun::new("kilometre/kilometres"),
            "pages" => Noun::new("page/pages"),
            _ => panic!("no slot {name}"),
        }
    }

    fn push(&self, number: i64, out: &mut String) {
        if self.in_words && number <= 20 { number_in_words(number, out) } else { push_number(number, out) }
    }
}

impl Values for Story {
    fn write(&self, slot: &str, out: &mut String) {
        match slot {
            "name" => out.push_str(self.person.name),
            "he" => out.push_str(self.person.he()),
            "him" => out.push_str(self.person.him()),
            "his" => out.push_str(self.person.his()),
            "other" => out.push_str(self.other.name),
            "place" => out.push_str(self.scene.place),
            "subject" => out.push_str(self.subject),
            "x" | "y" | "z" | "r" | "e" => self.push(self.number(slot), out),
            "thing" | "container" | "unit" => out.push_str(self.noun(slot).one),
            _ => {
                if let Some((number, noun)) = slot.split_once(' ') {
                    let number = self.number(number);
                    self.push(number, out);
                    out.push(' ');
                    out.push_str(self.noun(noun).form(number));
                } else if let Some((number, noun)) = slot.split_once('-') {
                    out.push_str(self.noun(noun).form(self.number(number)));
                } else {
                    out.push_str(self.noun(slot).many);
                }
            }
        }
    }

    fn number(&self, slot: &str) -> i64 {
        match slot {
            "x" => self.numbers[0],
            "y" => self.numbers[1],
            "z" => self.numbers[2],
            "e" => self.extra,
            "r" => self.result,
            _ => panic!("no number {slot}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use regex::Regex;

    use super::*;
    use crate::generators::tests::documents;

    /// The numbers of a text in order, those in words too.
    fn numbers_of(text: &str) -> Vec<i64> {
        const WORDS: [&str; 21] = [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ];
        // Words that are no numbers here.
        let text = [
            "in one box",
            "in one shop",
            "want one of each",
            "wants one of each",
            "each one",
            "to one of",
            "and one of",
        ]
        .iter()
        .fold(text.to_owned(), |text, phrase| text.replace(phrase, ""));
        let word = Regex::new(r"\d+|[A-Za-z]+").unwrap();
        word.find_iter(&text)
            .filter_map(|found| {
                let lower = found.as_str().to_lowercase();
                found.as_str().parse().ok().or_else(|| WORDS.iter().position(|w| *w == lower).map(|n| n as i64))
            })
            .collect()
    }

    fn exchange(document: &Generated) -> (&str, &str) {
        let messages = &document.labels["messages"];
        (messages[0]["content"].as_str().unwrap(), messages[1]["content"].as_str().unwrap())
    }

    #[test]
    fn answers_follow_from_the_numbers_of_the_text() {
        let problems =
            WordProblems::new(Settings { extra: 0.0, words: 0.0, two_steps: 0.2, ..Settings::default() }).unwrap();
        let words = Regex::new("[A-Za-z]+").unwrap();
        let equation = Regex::new(r"(\d+) ([-+x/]) (\d+) = (\d+)(?:\.|$)").unwrap();
        for document in [documents(&problems, false, 20_000), documents(&problems, true, 5_000)].concat() {
            let (question, reply) = exchange(&document);
            let numbers = numbers_of(&words.replace_all(question, " "));
            let (low, high) = (numbers.iter().min().unwrap(), numbers.iter().max().unwrap());
            let kind = document.labels["kind"].as_str().unwrap();
            let expected = match kind {
                "gain" | "together" | "more-than" | "come" | "cost" | "older" | "join" | "walk" | "read" => {
                    assert_eq!(numbers.len(), 2, "{question}");
                    numbers[0] + numbers[1]
                }
                "groups" => numbers[0] * numbers[1],
                "sharing" => {
                    assert_eq!(high % low, 0);
                    high / low
                }
                "gain-loss" => numbers[0] + numbers[1] - numbers[2],
                "loss-gain" => numbers[0] - numbers[1] + numbers[2],
                "groups-more" => numbers[0] * numbers[1] + numbers[2],
                _ => {
                    assert_eq!(numbers.len(), 2, "{kind}: {question}");
                    high - low
                }
            };
            assert_eq!(document.labels["answer"], expected.to_string(), "{}", document.text);
            assert!(numbers_of(reply).contains(&expected), "{}", document.text);
            for found in equation.captures_iter(reply) {
                let (a, b, c): (i64, i64, i64) =
                    (found[1].parse().unwrap(), found[3].parse().unwrap(), found[4].parse().unwrap());
                let right = match &found[2] {
                    "+" => a + b == c,
                    "-" => a - b == c,
                    "x" => a * b == c,
                    _ => b * c == a,
                };
                assert!(right, "{reply}");
            }
        }
    }

    #[test]
    fn numbers_in_words_are_the_same_numbers() {
        let problems = WordProblems::new(Settings { extra: 0.0, words: 1.0, ..Settings::default() }).unwrap();
        for document in documents(&problems, false, 5_000) {
            let mut numbers: Vec<i64> =
                document.labels["numbers"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            let mut found = numbers_of(exchange(&document).0);
            numbers.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, numbers, "{}", document.text);
        }
    }

    #[test]
    fn held_out_pairs_of_numbers_never_occur_in_training() {
        let problems = WordProblems::new(Settings { two_steps: 0.0, ..Settings::default() }).unwrap();
        let pairs = |held_out| {
            let all = documents(&problems, held_out, 20_000);
            let sums = all.iter().filter(|d| d.labels["kind"] != "groups" && d.labels["kind"] != "sharing");
            sums.map(|document| {
                let number = |at: usize| document.labels["numbers"][at].as_i64().unwrap();
                (number(0).min(number(1)), number(0).max(number(1)))
            })
            .collect::<HashSet<_>>()
        };
        let (training, held_out) = (pairs(false), pairs(true));
        assert!(held_out.len() > 500, "{}", held_out.len());
        assert_eq!(training.intersection(&held_out).next(), None);
    }

    #[test]
    fn nouns_and_verbs_agree_with_numbers() {
        let problems = WordProblems::new(Settings::default()).unwrap();
        let mut nouns: HashMap<&str, bool> = HashMap::new();
        let all = [false, true].map(|set| problems.objects.iter().flat_map(move |(_, nouns)| nouns.of(set)));
        for noun in all.into_iter().flatten() {
            if noun.one != noun.many {
                nouns.extend([(noun.one, true), (noun.many, false)]);
            }
        }
        nouns.extend([("dollar", true), ("dollars", false), ("year", true), ("years", false)]);
        let counted = Regex::new(r"\b(\d+)(?: more| fewer)? ([a-z]+)").unwrap();
        let verb = Regex::new(r"\b(is|are) (\d+)|\b(\d+) of them (is|are)\b").unwrap();
        let (mut counts, mut verbs) = (0, 0);
        for document in documents(&problems, false, 20_000) {
            for found in counted.captures_iter(&document.text) {
                if let Some(&one) = nouns.get(&found[2]) {
                    assert_eq!(one, &found[1] == "1", "{} in {}", &found[0], document.text);
                    counts += 1;
                }
            }
            for found in verb.captures_iter(&document.text) {
                let is = found.get(1).or(found.get(4)).unwrap().as_str() == "is";
                let number = found.get(2).or(found.get(3)).unwrap().as_str();
                let there = document.text[..found.get(0).unwrap().start()].to_lowercase().ends_with("there ");
                if there || found.get(3).is_some() {
                    assert_eq!(is, number == "1", "{} in {}", &found[0], document.text);
                    verbs += 1;
                }
            }
        }
        assert!(counts > 10_000 && verbs > 3_000, "{counts} {verbs}");
    }

    #[test]
    fn hundreds_of_frames() {
        let problems = WordProblems::new(Settings::default()).unwrap();
        let frames = |set| -> usize {
            let all = problems.one_step.iter().chain(&problems.two_steps);
            all.map(|problem| {
                let events = problem.events.as_ref().map_or(1, |events| events.of(set).len());
                problem.starts.of(set).len() * events * problem.questions.of(set).len()
            })
            .sum()
        };
        println!("{} frames in training, {} held out", frames(false), frames(true));
        assert!(frames(false) > 3_000 && frames(true) >= 40);
    }
}
