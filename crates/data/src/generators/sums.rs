//! Sums: up to three digits added and subtracted, products, three numbers in a row; plain or worked out, as lines or in conversations

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::frames::{Frame, Values, section, sections};
use super::manual::Manual;
use super::shares::{Shares, chance};
use super::split::Split;
use super::working::{self, Form, Operation, PairSet, pair_set};
use super::{Generated, Generator};
use crate::options;

/// Settings of sums. Shares of one group are relative to each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Digits of the largest number that is added or subtracted.
    pub digits: u32,
    /// Share of sums of two numbers.
    pub add: f64,
    /// Share of differences.
    pub subtract: f64,
    /// Share of products of two numbers of one digit: the tables, which are never held out.
    pub multiply: f64,
    /// Share of products of a number of one digit and one of two.
    pub multiply_two_digits: f64,
    /// Share of three numbers, added or subtracted.
    pub three: f64,
    /// Share of differences below zero among the differences.
    pub negative: f64,
    /// Share of sums without working.
    pub plain: f64,
    /// Share of sums with digits backwards.
    pub reversed: f64,
    /// Share of sums digit by digit.
    pub steps: f64,
    /// Share of sums digit by digit, behind the sum itself.
    pub stated: f64,
    /// Share of documents that are a question and an answer; the others are lines.
    pub conversation: f64,
    /// Lines in a document of lines, at most.
    pub lines: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            digits: 3,
            add: 0.35,
            subtract: 0.3,
            multiply: 0.15,
            multiply_two_digits: 0.05,
            three: 0.15,
            negative: 0.05,
            plain: 0.2,
            reversed: 0.4,
            steps: 0.4,
            stated: 0.0,
            conversation: 0.6,
            lines: 4,
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    Add,
    Subtract,
    Multiply,
    MultiplyTwoDigits,
    Three,
}

/// A sum: numbers with the operations between them.
#[derive(Clone, Debug)]
struct Problem {
    numbers: Vec<i64>,
    operations: Vec<Operation>,
    form: Form,
}

/// The generator.
pub struct Sums {
    settings: Settings,
    tasks: Shares<Task>,
    forms: Shares<Form>,
    any: Split<Frame>,
    add: Split<Frame>,
    subtract: Split<Frame>,
    multiply: Split<Frame>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Sums::new(options::read(table)?)?))
}

impl Sums {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Sums, String> {
        let s = &settings;
        if !(2..=9).contains(&s.digits) {
            return Err(format!("digits {}: from 2 to 9", s.digits));
        }
        if !(1..=1000).contains(&s.lines) {
            return Err(format!("lines {}: from 1 to 1000", s.lines));
        }
        chance("negative", s.negative)?;
        chance("conversation", s.conversation)?;
        let tasks = Shares::new(&[
            ("add", Task::Add, s.add),
            ("subtract", Task::Subtract, s.subtract),
            ("multiply", Task::Multiply, s.multiply),
            ("multiply_two_digits", Task::MultiplyTwoDigits, s.multiply_two_digits),
            ("three", Task::Three, s.three),
        ])?;
        if s.add + s.subtract + s.multiply_two_digits + s.three <= 0.0 {
            return Err("multiply alone has no numbers that can be held out: give multiply_two_digits a share".into());
        }
        let forms = Shares::new(&[
            ("plain", Form::Plain, s.plain),
            ("reversed", Form::Reversed, s.reversed),
            ("steps", Form::Steps, s.steps),
            ("stated", Form::Stated, s.stated),
        ])?;
        let sections = sections(include_str!("sums.txt"));
        let questions = |name| section(&sections, name).split('?');
        Ok(Sums {
            tasks,
            forms,
            any: questions("any"),
            add: questions("add"),
            subtract: questions("subtract"),
            multiply: questions("multiply"),
            settings,
        })
    }

    /// A number, each count of digits as likely as the others.
    fn number(&self, random: &mut Pcg64) -> i64 {
        match random.random_range(1..=self.settings.digits) {
            1 => random.random_range(0..10),
            digits => random.random_range(10_i64.pow(digits - 1)..10_i64.pow(digits)),
        }
    }

    fn problem(&self, random: &mut Pcg64, held_out: bool) -> Problem {
        // Tables are never held out.
        let task = loop {
            let task = self.tasks.choose(random);
            if !(held_out && task == Task::Multiply) {
                break task;
            }
        };
        let form = self.forms.choose(random);
        let below_zero = task == Task::Subtract && random.random_bool(self.settings.negative);
        loop {
            let (a, b) = match task {
                Task::Multiply => (random.random_range(0..10), random.random_range(0..10)),
                Task::MultiplyTwoDigits => (random.random_range(2..10), random.random_range(10..100)),
                _ => (self.number(random), self.number(random)),
            };
            let (low, high) = (a.min(b), a.max(b));
            let (numbers, operations) = match task {
                Task::Add => (vec![a, b], vec![Operation::Add]),
                Task::Subtract if below_zero => (vec![low, high], vec![Operation::Subtract]),
                Task::Subtract => (vec![high, low], vec![Operation::Subtract]),
                Task::Multiply | Task::MultiplyTwoDigits => (vec![a, b], vec![Operation::Multiply]),
                Task::Three => match self.three(random, a, b, held_out) {
                    Some(three) => three,
                    None => continue,
                },
            };
            let problem = Problem { numbers, operations, form };
            if problem.is_in(held_out) {
                return problem;
            }
        }
    }

    /// Three numbers without a result below zero on the way.
    fn three(&self, random: &mut Pcg64, a: i64, b: i64, held_out: bool) -> Option<(Vec<i64>, Vec<Operation>)> {
        if !in_set(a, b, held_out) {
            return None;
        }
        let first = if random.random_bool(0.5) { Operation::Add } else { Operation::Subtract };
        let (a, b) = if first == Operation::Subtract { (a.max(b), a.min(b)) } else { (a, b) };
        let between = first.apply(a, b);
        // Few thirds may fit a small number: then another pair is taken.
        for _ in 0..100 {
            let third = self.number(random);
            let second = if between >= third && random.random_bool(0.5) { Operation::Subtract } else { Operation::Add };
            if in_set(between, third, held_out) {
                return Some((vec![a, b, third], vec![first, second]));
            }
        }
        None
    }

    fn questions(&self, problem: &Problem, random: &mut Pcg64) -> &Split<Frame> {
        match problem.operations[..] {
            [Operation::Add] if random.random_bool(0.5) => &self.add,
            [Operation::Subtract] if random.random_bool(0.5) => &self.subtract,
            [Operation::Multiply] if random.random_bool(0.5) => &self.multiply,
            _ => &self.any,
        }
    }

    /// A product of two numbers of one digit, asked for in a frame of the set. Its numbers are never held out.
    pub fn table(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let numbers = vec![random.random_range(0..10), random.random_range(0..10)];
        let form = self.forms.choose(random);
        self.conversation(Problem { numbers, operations: vec![Operation::Multiply], form }, random, held_out)
    }

    fn conversation(&self, problem: Problem, random: &mut Pcg64, held_out: bool) -> Generated {
        let frame = self.questions(&problem, random).choose(random, held_out);
        // As people type it.
        let style = random.random_range(0..10);
        let sum = match style {
            0 => problem.sum().replace(' ', ""),
            1 => problem.sum().replace('x', "*"),
            _ => problem.sum(),
        };
        let question = frame.fill(&Asked { problem: &problem, sum: &sum });
        let bare = problem.working().is_empty() && random.random_bool(0.5);
        let answer = if bare { problem.result().to_string() } else { problem.worked() };
        let labels = labels(&[problem], frame.line.to_string());
        Conversation::exchange(question, answer).generated(labels)
    }

    fn lines(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let count = random.random_range(1..=self.settings.lines);
        let problems: Vec<Problem> = (0..count).map(|_| self.problem(random, held_out)).collect();
        let lines: Vec<String> = problems.iter().map(Problem::line).collect();
        Generated { text: lines.join("\n"), labels: labels(&problems, "line".to_owned()) }
    }
}

impl Generator for Sums {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        // A line has no frame that could be held out; its numbers are.
        if random.random_bool(self.settings.conversation) {
            self.conversation(self.problem(random, held_out), random, held_out)
        } else {
            self.lines(random, held_out)
        }
    }
}

/// Whether a pair may be in a document of this set.
fn in_set(a: i64, b: i64, held_out: bool) -> bool {
    (pair_set(a, b) == PairSet::HeldOut) == held_out
}

impl Problem {
    /// The operations one by one, from left to right.
    fn pairs(&self) -> Vec<(Operation, i64, i64)> {
        let mut left = self.numbers[0];
        let steps = self.operations.iter().zip(&self.numbers[1..]);
        steps
            .map(|(&operation, &right)| {
                let pair = (operation, left, right);
                left = operation.apply(left, right);
                pair
            })
            .collect()
    }

    fn is_in(&self, held_out: bool) -> bool {
        self.pairs().iter().all(|&(operation, a, b)| {
            let inner = operation == Operation::Multiply && !held_out;
            in_set(a, b, held_out) && (!inner || working::inner_pairs(a, b).iter().all(|&(a, b)| in_set(a, b, false)))
        })
    }

    fn result(&self) -> i64 {
        self.pairs().iter().fold(0, |_, &(operation, a, b)| operation.apply(a, b))
    }

    /// `38 + 47`.
    fn sum(&self) -> String {
        let mut out = self.numbers[0].to_string();
        for (operation, number) in self.operations.iter().zip(&self.numbers[1..]) {
            out.push(' ');
            out.push_str(operation.sign());
            out.push(' ');
            super::english::push_number(*number, &mut out);
        }
        out
    }

    fn working(&self) -> String {
        let pairs = self.pairs();
        let mut out = String::new();
        for &(operation, a, b) in &pairs {
            if !out.is_empty() {
                out.push_str(". ");
            }
            let start = out.len();
            working::write(operation, a, b, self.form, &mut out);
            let worked = out.len() > start;
            if worked && self.form == Form::Reversed && operation != Operation::Multiply {
                out.insert_str(start, "Backwards: ");
            }
            // What comes between is stated plainly as well.
            if pairs.len() > 1 && self.form != Form::Plain {
                if worked {
                    out.push_str(". ");
                }
                working::plain(operation, a, b, &mut out);
            }
        }
        out
    }

    /// The working, if there is one, then the plain statement.
    fn worked(&self) -> String {
        let mut out = self.working();
        let worked = !out.is_empty();
        if worked {
            out.push_str(". So ");
        }
        out.push_str(&self.sum());
        out.push_str(" = ");
        super::english::push_number(self.result(), &mut out);
        if worked {
            out.push('.');
        }
        out
    }

    /// A line of its own.
    fn line(&self) -> String {
        let worked = self.worked();
        if worked.contains(". ") { format!("{} = ? {worked}", self.sum()) } else { worked }
    }

    fn kind(&self) -> &'static str {
        match self.operations[..] {
            [Operation::Add] => "add",
            [Operation::Subtract] => "subtract",
            [Operation::Multiply] => "multiply",
            _ => "three",
        }
    }
}

struct Asked<'a> {
    problem: &'a Problem,
    sum: &'a str,
}

impl Values for Asked<'_> {
    fn write(&self, slot: &str, out: &mut String) {
        match slot {
            "a" => super::english::push_number(self.problem.numbers[0], out),
            "b" => super::english::push_number(self.problem.numbers[1], out),
            _ => out.push_str(self.sum),
        }
    }

    fn number(&self, slot: &str) -> i64 {
        panic!("no frame agrees with {slot}")
    }
}

fn labels(problems: &[Problem], frame: String) -> Map<String, Value> {
    let list: Vec<Value> = problems
        .iter()
        .map(|problem| {
            json!({
                "kind": problem.kind(),
                "form": problem.form.name(),
                "sum": problem.sum(),
                "answer": problem.result(),
            })
        })
        .collect();
    let mut labels = Map::new();
    labels.insert("answer".into(), problems.last().map_or(Value::Null, |p| p.result().to_string().into()));
    labels.insert("kind".into(), problems.last().map_or(Value::Null, |p| p.kind().into()));
    labels.insert("frame".into(), frame.into());
    labels.insert("problems".into(), list.into());
    labels
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use regex::Regex;

    use super::*;
    use crate::generators::tests::documents;

    /// Evaluates `38 + 47 - 2` or `40 x 7` from left to right.
    fn evaluate(sum: &str) -> i64 {
        let mut parts = sum.split(' ');
        let mut result: i64 = parts.next().unwrap().parse().unwrap();
        while let (Some(sign), Some(number)) = (parts.next(), parts.next()) {
            let number: i64 = number.parse().unwrap();
            result = match sign {
                "+" => result + number,
                "-" => result - number,
                "x" => result * number,
                _ => panic!("{sum}"),
            };
        }
        result
    }

    fn forward(digits: &str) -> i64 {
        let digits: String = digits.split(' ').rev().collect();
        digits.parse().unwrap()
    }

    /// Checks every equation of a text, backwards ones too. Returns how many there were.
    fn check(text: &str) -> usize {
        let backwards = Regex::new(r"Backwards: ([0-9 ]+) ([-+]) ([0-9 ]+) = ([0-9 ]+)[.;]").unwrap();
        let equation = Regex::new(r"(\d+(?: [-+x] \d+)+) = (-?\d+)").unwrap();
        let mut count = 0;
        for found in backwards.captures_iter(text) {
            let (a, b) = (forward(&found[1]), forward(&found[3]));
            let result = if &found[2] == "+" { a + b } else { a - b };
            assert_eq!(result, forward(&found[4]), "{text}");
            count += 1;
        }
        for found in equation.captures_iter(&backwards.replace_all(text, "")) {
            assert_eq!(evaluate(&found[1]), found[2].parse::<i64>().unwrap(), "{} in {text}", &found[0]);
            count += 1;
        }
        count
    }

    #[test]
    fn every_equation_is_true_and_the_answer_comes_last() {
        let sums = Sums::new(Settings::default()).unwrap();
        let mut equations = 0;
        for document in [documents(&sums, false, 20_000), documents(&sums, true, 5_000)].concat() {
            equations += check(&document.text);
            for problem in document.labels["problems"].as_array().unwrap() {
                assert_eq!(evaluate(problem["sum"].as_str().unwrap()), problem["answer"].as_i64().unwrap());
            }
            let answer = document.labels["answer"].as_str().unwrap();
            let end = document.text.trim_end_matches('.');
            assert_eq!(end.rsplit([' ', '\n']).next(), Some(answer), "{}", document.text);
        }
        assert!(equations > 50_000, "{equations}");
    }

    #[test]
    fn held_out_pairs_never_occur_in_training() {
        let sums = Sums::new(Settings::default()).unwrap();
        let equation = Regex::new(r"(\d+(?: [-+x] \d+)+) = -?\d+").unwrap();
        let backwards = Regex::new(r"Backwards: [^.;]*").unwrap();
        // The pairs that a sum combines, from left to right, smaller number first.
        let add_pairs = |sum: &str, pairs: &mut HashSet<(i64, i64)>| {
            let parts: Vec<&str> = sum.split(' ').collect();
            for end in (3..=parts.len()).step_by(2) {
                let (left, right) = (evaluate(&parts[..end - 2].join(" ")), evaluate(parts[end - 1]));
                pairs.insert((left.min(right), left.max(right)));
            }
        };
        let pairs = |held_out| {
            let mut pairs = HashSet::new();
            for document in documents(&sums, held_out, 20_000) {
                for problem in document.labels["problems"].as_array().unwrap() {
                    add_pairs(problem["sum"].as_str().unwrap(), &mut pairs);
                }
                if !held_out {
                    for found in equation.captures_iter(&backwards.replace_all(&document.text, "")) {
                        add_pairs(&found[1], &mut pairs);
                    }
                }
            }
            pairs
        };
        let (training, held_out) = (pairs(false), pairs(true));
        assert!(held_out.len() > 5_000);
        assert_eq!(training.intersection(&held_out).next(), None);
        assert!(training.contains(&(7, 8)) && !held_out.iter().any(|&(low, high)| low < 10 && high < 20));
    }

    #[test]
    fn forms_have_their_shares() {
        let only = |plain, reversed, steps| {
            let sums =
                Sums::new(Settings { plain, reversed, steps, conversation: 0.0, lines: 1, ..Settings::default() });
            documents(&sums.unwrap(), false, 2_000)
        };
        assert!(only(1.0, 0.0, 0.0).iter().all(|d| !d.text.contains("So")));
        let reversed = only(0.0, 1.0, 0.0).iter().filter(|d| d.text.contains("Backwards")).count();
        assert!((1_200..1_700).contains(&reversed), "{reversed}");
        let steps = only(0.0, 0.0, 1.0).iter().filter(|d| d.text.contains("write")).count();
        assert!((1_200..1_700).contains(&steps), "{steps}");
    }

    #[test]
    fn impossible_settings_are_told() {
        let error = |text: &str| make(text.parse().unwrap(), &Manual::default()).err().unwrap();
        assert!(error("digits = 1").contains("digits 1"));
        assert!(error("add = -1").contains("add -1"));
        assert!(error("plain = 0\nreversed = 0\nsteps = 0").contains("plain"));
        assert!(error("negative = 2").contains("negative 2"));
        assert!(error("plan = 1").contains("plan"));
        assert!(error("add = 0\nsubtract = 0\nmultiply_two_digits = 0\nthree = 0").contains("held out"));
    }
}
