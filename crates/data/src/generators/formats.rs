//! Tasks of form whose answers can be checked: lists of so many items, capitals, one word, yes or no, sorting, counting, repeating, tables

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::english::{Noun, article, enumeration, number_in_words};
use super::frames::{Frame, Section, section, sections};
use super::manual::Manual;
use super::names::{Person, people};
use super::split::{Split, choose, is_held_out};
use super::{Generated, Generator};
use crate::options;

/// Settings of tasks of form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Items of a list, at most.
    pub items: usize,
    /// Largest number that is sorted or compared.
    pub max: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { items: 6, max: 200 }
    }
}

/// Words of one kind.
struct Category {
    noun: Noun,
    words: Vec<&'static str>,
}

/// A task: what its frame's slots hold, the answer, and what is to be checked.
struct Task {
    slots: Vec<(&'static str, String)>,
    answer: String,
    check: Value,
    /// Lines of further frames.
    lines: Vec<u32>,
    names: Vec<&'static str>,
}

type Make = fn(&Formats, &mut Pcg64, bool) -> Task;

/// The tasks by their sections of frames.
const TASKS: &[(&str, Make)] = &[
    ("list", Formats::list),
    ("list", Formats::list),
    ("upper", |formats, random, held_out| formats.changed("upper", str::to_uppercase, random, held_out)),
    ("lower", |formats, random, held_out| formats.changed("lower", str::to_lowercase, random, held_out)),
    ("repeat", |formats, random, held_out| formats.changed("same", str::to_owned, random, held_out)),
    ("count-words", |formats, random, held_out| {
        formats.changed("words", |sentence| sentence.split(' ').count().to_string(), random, held_out)
    }),
    ("one-word", Formats::one_word),
    ("yes-no", Formats::yes_no),
    ("ascending", |formats, random, held_out| formats.numbers("ascending", random, held_out)),
    ("descending", |formats, random, held_out| formats.numbers("descending", random, held_out)),
    ("largest", |formats, random, held_out| formats.numbers("largest", random, held_out)),
    ("smallest", |formats, random, held_out| formats.numbers("smallest", random, held_out)),
    ("alphabetical", |formats, random, held_out| formats.words("alphabetical", random, held_out)),
    ("reverse", |formats, random, held_out| formats.words("reverse", random, held_out)),
    ("count-items", |formats, random, held_out| formats.words("count", random, held_out)),
    ("first", |formats, random, held_out| formats.words("first", random, held_out)),
    ("last", |formats, random, held_out| formats.words("last", random, held_out)),
    ("times", Formats::times),
    ("spell", Formats::spell),
    ("filter", Formats::filter),
    ("odd", Formats::odd),
    ("table", Formats::table),
];

/// The generator.
pub struct Formats {
    settings: Settings,
    categories: Vec<Category>,
    frames: Vec<(&'static str, Split<Frame>)>,
    facts: Split<(&'static str, &'static str, u32)>,
    adjectives: Split<&'static str>,
    actors: Split<&'static str>,
    doings: Split<&'static str>,
    people: Split<Person>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Formats::new(options::read(table)?)?))
}

impl Formats {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Formats, String> {
        if !(3..=10).contains(&settings.items) {
            return Err(format!("items {}: from 3 to 10", settings.items));
        }
        if !(20..=1_000_000).contains(&settings.max) {
            return Err(format!("max {}: from 20 to 1000000", settings.max));
        }
        let sections = sections(include_str!("formats.txt"));
        let list = |section: &Section| section.texts('-').flat_map(|line| line.split(", ")).collect::<Vec<_>>();
        let category = |section: &Section| {
            let noun = Noun::new(section.name.strip_prefix("words ")?);
            Some(Category { noun, words: list(section) })
        };
        let split = |name| Split::new(list(section(&sections, name)), |word| (*word).to_owned());
        let facts = section(&sections, "facts").lines.iter().map(|line| {
            let (question, answer) = line.text.split_once(" = ").expect("a question and its answer");
            (question, answer, line.number)
        });
        let asked = sections.iter().filter(|section| section.lines.iter().all(|line| line.mark == '?'));
        Ok(Formats {
            settings,
            categories: sections.iter().filter_map(category).collect(),
            frames: asked.map(|section| (section.name, section.split('?'))).collect(),
            facts: Split::new(facts, |(question, ..)| (*question).to_owned()),
            adjectives: split("adjectives"),
            actors: split("actors"),
            doings: split("doings"),
            people: people(),
        })
    }

    fn frame(&self, name: &str, random: &mut Pcg64, held_out: bool) -> &Frame {
        let (_, frames) = self.frames.iter().find(|(section, _)| *section == name).expect("frames of every task");
        frames.choose(random, held_out)
    }

    /// Some words of a category, each once.
    fn some(category: &Category, count: usize, random: &mut Pcg64) -> Vec<&'static str> {
        let mut words = category.words.clone();
        while words.len() > count {
            words.swap_remove(random.random_range(0..words.len()));
        }
        // The order is any, too.
        for i in (1..words.len()).rev() {
            words.swap(i, random.random_range(0..=i));
        }
        words
    }

    fn count(&self, random: &mut Pcg64) -> usize {
        random.random_range(3..=self.settings.items)
    }

    fn list(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let category = choose(random, &self.categories);
        let count = random.random_range(2..=self.settings.items);
        let words = Formats::some(category, count, random);
        let style = *choose(random, &["", "commas", "numbered", "bullets"]);
        let answer = match style {
            "numbered" => (1..).zip(&words).map(|(i, word)| format!("{i}. {word}")).collect::<Vec<_>>().join("\n"),
            "bullets" => words.iter().map(|word| format!("- {word}")).collect::<Vec<_>>().join("\n"),
            _ => words.join(", "),
        };
        let mut n = String::new();
        number_in_words(count as i64, &mut n);
        let mut slots = vec![("n", n), ("things", category.noun.many.to_owned())];
        let mut lines = Vec::new();
        if !style.is_empty() {
            let frame = self.frame(style, random, held_out);
            lines.push(frame.line);
            slots.push(("then", frame.source.to_owned()));
        }
        let style = if style.is_empty() { "commas" } else { style };
        let check = json!({"rule": "list", "count": count, "style": style, "of": category.words});
        Task { slots, answer, check, lines, names: Vec::new() }
    }

    fn sentence(&self, random: &mut Pcg64, held_out: bool) -> String {
        let (actor, doing) = (self.actors.choose(random, held_out), self.doings.choose(random, held_out));
        match random.random_range(0..3) {
            0 => format!("The {actor} {doing}."),
            _ => format!("The {} {actor} {doing}.", self.adjectives.choose(random, held_out)),
        }
    }

    /// A sentence that is changed in some way.
    fn changed(&self, rule: &str, change: fn(&str) -> String, random: &mut Pcg64, held_out: bool) -> Task {
        let sentence = self.sentence(random, held_out);
        let (answer, check) = (change(&sentence), json!({"rule": rule, "of": sentence}));
        Task { slots: vec![("sentence", sentence)], answer, check, lines: Vec::new(), names: Vec::new() }
    }

    fn any_word(&self, random: &mut Pcg64) -> &'static str {
        let category = choose(random, &self.categories);
        let word: &&str = choose(random, &category.words);
        word
    }

    fn one_word(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let &(question, answer, line) = self.facts.choose(random, held_out);
        let check = json!({"rule": "words", "count": 1});
        let slots = vec![("fact", question.to_owned())];
        Task { slots, answer: answer.to_owned(), check, lines: vec![line], names: Vec::new() }
    }

    fn yes_no(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let (claim, holds) = loop {
            let (claim, holds) = self.claim(random);
            if is_held_out(&claim) == held_out {
                break (claim, holds);
            }
        };
        let answer = if holds { "Yes" } else { "No" };
        let check = json!({"rule": "one of", "of": ["Yes", "No"]});
        Task { slots: vec![("claim", claim)], answer: answer.to_owned(), check, lines: Vec::new(), names: Vec::new() }
    }

    /// A question with its truth.
    fn claim(&self, random: &mut Pcg64) -> (String, bool) {
        let (a, b) = (random.random_range(1..=self.settings.max), random.random_range(1..=self.settings.max));
        match random.random_range(0..6) {
            0 => (format!("Is {a} greater than {b}?"), a > b),
            1 => (format!("Is {a} less than {b}?"), a < b),
            2 => (format!("Is {a} an even number?"), a % 2 == 0),
            _ => {
                let word = self.any_word(random);
                let asked = choose(random, &self.categories);
                // Half of the claims are true.
                let true_one = self.categories.iter().find(|category| category.words.contains(&word));
                let asked = true_one.filter(|_| random.random_bool(0.5)).unwrap_or(asked);
                let noun = asked.noun.one;
                (format!("Is {word} the name of {} {noun}?", article(noun)), asked.words.contains(&word))
            }
        }
    }

    fn numbers(&self, rule: &str, random: &mut Pcg64, held_out: bool) -> Task {
        let (mut numbers, text) = loop {
            let count = self.count(random);
            let mut numbers: Vec<u32> = Vec::new();
            while numbers.len() < count {
                let number = random.random_range(1..=self.settings.max);
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
            let text = join(&numbers);
            if is_held_out(&text) == held_out {
                break (numbers, text);
            }
        };
        let check = json!({"rule": rule, "of": numbers});
        numbers.sort_unstable();
        if rule == "descending" {
            numbers.reverse();
        }
        let answer = match rule {
            "largest" => numbers[numbers.len() - 1].to_string(),
            "smallest" => numbers[0].to_string(),
            _ => join(&numbers),
        };
        Task { slots: vec![("numbers", text)], answer, check, lines: Vec::new(), names: Vec::new() }
    }

    /// Words of several categories, each once.
    fn mixed(&self, random: &mut Pcg64, held_out: bool) -> Vec<&'static str> {
        loop {
            let count = self.count(random);
            let mut words: Vec<&str> = Vec::new();
            while words.len() < count {
                let word = self.any_word(random);
                // Capitals would make the order of the alphabet a question of taste.
                if !words.contains(&word) && word.starts_with(|c: char| c.is_ascii_lowercase()) {
                    words.push(word);
                }
            }
            if is_held_out(&words.join(", ")) == held_out {
                return words;
            }
        }
    }

    fn words(&self, rule: &str, random: &mut Pcg64, held_out: bool) -> Task {
        let mut words = self.mixed(random, held_out);
        let (text, check) = (words.join(", "), json!({"rule": rule, "of": words}));
        let answer = match rule {
            "count" => words.len().to_string(),
            "first" => words[0].to_owned(),
            "last" => words[words.len() - 1].to_owned(),
            "reverse" => {
                words.reverse();
                words.join(", ")
            }
            _ => {
                words.sort_unstable();
                words.join(", ")
            }
        };
        Task { slots: vec![("words", text)], answer, check, lines: Vec::new(), names: Vec::new() }
    }

    fn word(&self, random: &mut Pcg64, held_out: bool) -> &'static str {
        loop {
            let word = self.any_word(random);
            if is_held_out(word) == held_out {
                return word;
            }
        }
    }

    fn times(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let (word, count) = (self.word(random, held_out), random.random_range(2..=self.settings.items));
        let mut n = String::new();
        number_in_words(count as i64, &mut n);
        let check = json!({"rule": "times", "of": word, "count": count});
        let slots = vec![("word", word.to_owned()), ("n", n)];
        Task { slots, answer: vec![word; count].join(" "), check, lines: Vec::new(), names: Vec::new() }
    }

    fn spell(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let word = self.word(random, held_out);
        let letters: Vec<String> = word.chars().map(String::from).collect();
        let check = json!({"rule": "spell", "of": word});
        let slots = vec![("word", word.to_owned())];
        Task { slots, answer: letters.join("-"), check, lines: Vec::new(), names: Vec::new() }
    }

    /// Two different categories.
    fn two_categories(&self, random: &mut Pcg64) -> (&Category, &Category) {
        let first = random.random_range(0..self.categories.len());
        let second = (first + random.random_range(1..self.categories.len())) % self.categories.len();
        (&self.categories[first], &self.categories[second])
    }

    fn filter(&self, random: &mut Pcg64, held_out: bool) -> Task {
        loop {
            let (asked, other) = self.two_categories(random);
            let count = self.count(random);
            let inside = random.random_range(1..count);
            let mut words = Formats::some(asked, inside, random);
            for word in Formats::some(other, count - inside, random) {
                words.insert(random.random_range(0..=words.len()), word);
            }
            let text = words.join(", ");
            if is_held_out(&text) != held_out {
                continue;
            }
            let check = json!({"rule": "filter", "of": words, "keep": asked.words});
            words.retain(|word| asked.words.contains(word));
            let slots = vec![("things", asked.noun.many.to_owned()), ("words", text)];
            return Task { slots, answer: words.join(", "), check, lines: Vec::new(), names: Vec::new() };
        }
    }

    fn odd(&self, random: &mut Pcg64, held_out: bool) -> Task {
        loop {
            let (alike, other) = self.two_categories(random);
            let mut words = Formats::some(alike, 3, random);
            let odd = *choose(random, &other.words);
            words.insert(random.random_range(0..=3), odd);
            let text = words.join(", ");
            if is_held_out(&text) == held_out {
                let check = json!({"rule": "odd", "of": words, "alike": alike.words});
                let slots = vec![("words", text)];
                return Task { slots, answer: odd.to_owned(), check, lines: Vec::new(), names: Vec::new() };
            }
        }
    }

    fn table(&self, random: &mut Pcg64, held_out: bool) -> Task {
        let mut names: Vec<&str> = Vec::new();
        let count = random.random_range(2..=4);
        while names.len() < count {
            let name = self.people.choose(random, held_out).name;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let (column, verb) = *choose(random, &[("age", "is"), ("apples", "has"), ("points", "has"), ("books", "has")]);
        let mut rows = Vec::new();
        let mut answer = format!("| name | {column} |\n| --- | --- |");
        let mut cells = Vec::new();
        for &name in &names {
            let number = random.random_range(2..=60);
            let what = if column == "age" { "years old" } else { column };
            rows.push(format!("{name} {verb} {number} {what}"));
            answer.push_str(&format!("\n| {name} | {number} |"));
            cells.push(json!([name, number]));
        }
        let check = json!({"rule": "table", "head": ["name", column], "rows": cells});
        let slots = vec![("rows", enumeration(&rows, "and") + ".")];
        Task { slots, answer, check, lines: Vec::new(), names }
    }
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl Generator for Formats {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let &(name, make) = choose(random, TASKS);
        let task = make(self, random, held_out);
        let frame = self.frame(name, random, held_out);
        let slots: Vec<(&str, &str)> = task.slots.iter().map(|(slot, value)| (*slot, value.as_str())).collect();
        let mut asked = frame.fill(&slots[..]);
        if let Some((_, then)) = slots.iter().find(|(slot, _)| *slot == "then") {
            asked.push(' ');
            asked.push_str(then);
        }
        let mut labels = Map::new();
        labels.insert("answer".into(), task.answer.clone().into());
        labels.insert("kind".into(), name.into());
        let lines: Vec<String> = std::iter::once(frame.line).chain(task.lines).map(|line| line.to_string()).collect();
        labels.insert("frame".into(), lines.join("+").into());
        labels.insert("check".into(), task.check);
        if !task.names.is_empty() {
            labels.insert("names".into(), task.names.into());
        }
        Conversation::exchange(asked, task.answer).generated(labels)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::generators::tests::documents;

    fn strings(value: &Value) -> Vec<&str> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
    }

    /// Whether an answer does what the check says: written from the labels' meaning, without the generator.
    fn holds(check: &Value, answer: &str) -> bool {
        let of = &check["of"];
        let items: Vec<&str> = answer.split(", ").collect();
        let numbers = || items.iter().map(|item| item.parse().unwrap()).collect::<Vec<i64>>();
        let given = || of.as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect::<Vec<i64>>();
        match check["rule"].as_str().unwrap() {
            "list" => {
                let lines: Vec<&str> = answer.lines().collect();
                let words: Vec<&str> = match check["style"].as_str().unwrap() {
                    "commas" => items,
                    "bullets" => lines.iter().map(|line| line.strip_prefix("- ").unwrap()).collect(),
                    _ => (1..).zip(&lines).map(|(i, line)| line.strip_prefix(&format!("{i}. ")).unwrap()).collect(),
                };
                let distinct: HashSet<&&str> = words.iter().collect();
                distinct.len() == words.len()
                    && words.len() as u64 == check["count"].as_u64().unwrap()
                    && words.iter().all(|word| strings(of).contains(word))
            }
            "upper" => {
                answer.to_lowercase() == of.as_str().unwrap().to_lowercase()
                    && !answer.contains(|c: char| c.is_lowercase())
            }
            "lower" => {
                answer.to_uppercase() == of.as_str().unwrap().to_uppercase()
                    && !answer.contains(|c: char| c.is_uppercase())
            }
            "same" => answer == of,
            "words" if of.is_null() => answer.split_whitespace().count() == 1,
            "words" => of.as_str().unwrap().split_whitespace().count().to_string() == answer,
            "one of" => strings(of).contains(&answer),
            rule @ ("ascending" | "descending") => {
                let (numbers, mut given) = (numbers(), given());
                let sorted = numbers.windows(2).all(|w| if rule == "ascending" { w[0] < w[1] } else { w[0] > w[1] });
                let mut same = numbers;
                same.sort_unstable();
                given.sort_unstable();
                sorted && same == given
            }
            "largest" => given().iter().max() == numbers().first(),
            "smallest" => given().iter().min() == numbers().first(),
            "alphabetical" => {
                items.windows(2).all(|w| w[0] < w[1]) && strings(of).iter().all(|word| items.contains(word))
            }
            "reverse" => items.iter().rev().eq(strings(of).iter()),
            "count" => strings(of).len().to_string() == answer,
            "first" => strings(of).first() == Some(&answer),
            "last" => strings(of).last() == Some(&answer),
            "times" => {
                let words: Vec<&str> = answer.split(&format!("{} ", of.as_str().unwrap())).collect();
                words.len() as u64 == check["count"].as_u64().unwrap()
            }
            "spell" => {
                answer.replace('-', "") == of.as_str().unwrap() && answer.len() == 2 * of.as_str().unwrap().len() - 1
            }
            "filter" => {
                let keep = strings(&check["keep"]);
                strings(of).into_iter().filter(|word| keep.contains(word)).eq(items)
            }
            "odd" => !strings(&check["alike"]).contains(&answer) && strings(of).contains(&answer),
            "table" => {
                let mut lines = answer.lines();
                let head = lines.next().unwrap().contains(check["head"][1].as_str().unwrap());
                let rule = lines.next() == Some("| --- | --- |");
                let rows = check["rows"].as_array().unwrap();
                head && rule
                    && lines.eq(rows.iter().map(|row| format!("| {} | {} |", row[0].as_str().unwrap(), row[1])))
            }
            rule => panic!("no rule {rule}"),
        }
    }

    #[test]
    fn answers_pass_their_checks() {
        let formats = Formats::new(Settings::default()).unwrap();
        let mut kinds = HashSet::new();
        for document in [documents(&formats, false, 20_000), documents(&formats, true, 5_000)].concat() {
            let answer = document.labels["messages"][1]["content"].as_str().unwrap();
            assert!(holds(&document.labels["check"], answer), "{}\n{}", document.text, document.labels["check"]);
            kinds.insert(document.labels["kind"].as_str().unwrap().to_owned());
        }
        assert_eq!(kinds.len(), TASKS.len() - 1);
    }

    #[test]
    fn yes_and_no_are_both_right_half_of_the_time() {
        let formats = Formats::new(Settings::default()).unwrap();
        let all = documents(&formats, false, 20_000);
        let answers: Vec<&Value> =
            all.iter().filter(|d| d.labels["kind"] == "yes-no").map(|d| &d.labels["answer"]).collect();
        let yes = answers.iter().filter(|answer| ***answer == "Yes").count() as f64 / answers.len() as f64;
        assert!((0.45..0.6).contains(&yes), "{yes}");
    }

    #[test]
    fn no_word_is_in_two_categories() {
        let formats = Formats::new(Settings::default()).unwrap();
        let mut seen = HashSet::new();
        for word in formats.categories.iter().flat_map(|category| &category.words) {
            assert!(seen.insert(word), "{word}");
        }
    }
}
