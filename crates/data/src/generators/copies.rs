//! Copying to the letter: lists and pairs of words, names, numbers and words that nobody knows, repeated, looked up, changed, written in other forms
//!
//! What is copied cannot be guessed, so a model that answers has learnt to find a place in what it read and to go on from there (induction, arXiv 2209.11895).

use std::collections::HashSet;

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::common_words::{CommonWords, code};
use super::conversation::{Conversation, Role};
use super::frames::{Frame, section, sections};
use super::manual::Manual;
use super::names::{Person, people};
use super::shares::chance;
use super::split::{Split, choose, is_held_out};
use super::{Generated, Generator};
use crate::options;

/// Settings of copying.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Items of a list, at most; of pairs half of them.
    pub items: usize,
    /// Requests on one list, at most.
    pub requests: usize,
    /// Share of documents on pairs; the others are on lists.
    pub pairs: f64,
    /// Share of the documents on pairs that ask for values only.
    pub values: f64,
    /// Share of those that ask for the pair, key and all. What is looked up is found by going on from the key then, which is learnt first and
    /// soon, and from it the answer without the key.
    pub whole: f64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { items: 24, requests: 4, pairs: 0.4, values: 0.0, whole: 0.0 }
    }
}

/// What items of a list are.
#[derive(Clone, Copy)]
enum Item {
    Word,
    /// A word of any part of speech.
    AnyWord,
    Phrase,
    Name,
    Coined,
    CoinedName,
    Code,
    Number,
    /// Each of another kind.
    Any,
}

const ITEMS: [Item; 10] = [
    Item::Word,
    Item::AnyWord,
    Item::AnyWord,
    Item::Phrase,
    Item::Name,
    Item::Coined,
    Item::CoinedName,
    Item::Code,
    Item::Number,
    Item::Any,
];

/// A request: what its frame's slots hold, the answer, and what is to be checked.
struct Request {
    slots: Vec<(&'static str, String)>,
    answer: String,
    check: Value,
}

type OfList = fn(&[String], &str, &mut Pcg64) -> Request;
type OfPairs = fn(&[(String, String)], &mut Pcg64) -> Request;

/// Requests on a list by their sections of frames; some are as frequent as they are listed.
const OF_LIST: &[(&str, OfList)] = &[
    ("repeat", |items, _, _| whole("repeat", items, items.join(", "))),
    ("repeat", |items, _, _| whole("repeat", items, items.join(", "))),
    ("repeat", |items, _, _| whole("repeat", items, items.join(", "))),
    ("backwards", |items, _, _| {
        let turned: Vec<&str> = items.iter().rev().map(String::as_str).collect();
        whole("backwards", items, turned.join(", "))
    }),
    ("bullets", |items, _, _| {
        let lines: Vec<String> = items.iter().map(|item| format!("- {item}")).collect();
        whole("bullets", items, lines.join("\n"))
    }),
    ("numbered", |items, _, _| {
        let lines: Vec<String> = (1..).zip(items).map(|(i, item)| format!("{i}. {item}")).collect();
        whole("numbered", items, lines.join("\n"))
    }),
    ("array", |items, _, _| whole("array", items, json_array(items))),
    ("after", |items, _, random| at("after", items, random.random_range(0..items.len() - 1), 1)),
    ("after", |items, _, random| at("after", items, random.random_range(0..items.len() - 1), 1)),
    ("before", |items, _, random| at("before", items, random.random_range(1..items.len()), -1)),
    ("nth", |items, _, random| {
        let n = random.random_range(0..items.len().min(ORDINALS.len()));
        let check = json!({"rule": "nth", "of": items, "n": n});
        Request { slots: vec![("ordinal", ORDINALS[n].to_owned())], answer: items[n].clone(), check }
    }),
    ("last", |items, _, _| whole("last", items, items[items.len() - 1].clone())),
    ("rest", |items, _, random| {
        let place = random.random_range(0..items.len() - 1);
        part("rest", items, place, items[place + 1..].join(", "))
    }),
    ("until", |items, _, random| {
        let place = random.random_range(0..items.len());
        part("until", items, place, items[..=place].join(", "))
    }),
    ("without", |items, _, random| {
        let place = random.random_range(0..items.len());
        let left: Vec<&str> = items.iter().filter(|item| **item != items[place]).map(String::as_str).collect();
        part("without", items, place, left.join(", "))
    }),
    ("instead", |items, other, random| {
        let place = random.random_range(0..items.len());
        let changed: Vec<&str> =
            items.iter().map(|item| if *item == items[place] { other } else { item.as_str() }).collect();
        with(part("instead", items, place, changed.join(", ")), other)
    }),
    ("more", |items, other, _| with(whole("more", items, format!("{}, {other}", items.join(", "))), other)),
];

/// Requests on pairs.
const OF_PAIRS: &[(&str, OfPairs)] = &[
    ("value", looked_up),
    ("value", looked_up),
    ("value", looked_up),
    ("pair", whole_pair),
    ("key", |pairs, random| {
        let (key, value) = choose(random, pairs);
        let check = json!({"rule": "key", "of": pairs, "value": value});
        Request { slots: vec![("value", value.clone())], answer: key.clone(), check }
    }),
    ("two", |pairs, random| {
        let first = random.random_range(0..pairs.len());
        let second = (first + random.random_range(1..pairs.len())) % pairs.len();
        let [(key, one), (other, two)] = [&pairs[first], &pairs[second]];
        let check = json!({"rule": "two", "of": pairs, "keys": [key, other]});
        Request { slots: vec![("key", key.clone()), ("second", other.clone())], answer: format!("{one}, {two}"), check }
    }),
    ("keys", |pairs, _| all("keys", pairs, pairs.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(", "))),
    ("values", |pairs, _| {
        all("values", pairs, pairs.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", "))
    }),
    ("object", |pairs, _| {
        let fields: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{}: {}", json!(key), json!(value))).collect();
        all("object", pairs, format!("{{{}}}", fields.join(", ")))
    }),
    ("lines", |pairs, _| all("lines", pairs, lines(pairs))),
];

const ORDINALS: [&str; 8] = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

fn json_array(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| json!(item).to_string()).collect();
    format!("[{}]", items.join(", "))
}

fn lines(pairs: &[(String, String)]) -> String {
    let lines: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    lines.join("\n")
}

/// A request on all of a list.
fn whole(rule: &str, items: &[String], answer: String) -> Request {
    Request { slots: Vec::new(), answer, check: json!({"rule": rule, "of": items}) }
}

/// A request on all pairs.
fn all(rule: &str, pairs: &[(String, String)], answer: String) -> Request {
    Request { slots: Vec::new(), answer, check: json!({"rule": rule, "of": pairs}) }
}

/// A request on an item.
fn part(rule: &str, items: &[String], place: usize, answer: String) -> Request {
    let check = json!({"rule": rule, "of": items, "item": items[place]});
    Request { slots: vec![("item", items[place].clone())], answer, check }
}

/// A request for an item's neighbour.
fn at(rule: &str, items: &[String], place: usize, step: isize) -> Request {
    part(rule, items, place, items[place.strict_add_signed(step)].clone())
}

/// A request with an item more.
fn with(mut request: Request, other: &str) -> Request {
    request.slots.push(("other", other.to_owned()));
    request.check["other"] = other.into();
    request
}

fn looked_up(pairs: &[(String, String)], random: &mut Pcg64) -> Request {
    let (key, value) = choose(random, pairs);
    of_key("value", pairs, key, value.clone())
}

/// The value behind its key.
fn whole_pair(pairs: &[(String, String)], random: &mut Pcg64) -> Request {
    let (key, value) = choose(random, pairs);
    of_key("pair", pairs, key, format!("{key}: {value}"))
}

/// A request that names a key.
fn of_key(rule: &str, pairs: &[(String, String)], key: &str, answer: String) -> Request {
    Request { slots: vec![("key", key.to_owned())], answer, check: json!({"rule": rule, "of": pairs, "key": key}) }
}

/// The generator.
pub struct Copies {
    settings: Settings,
    words: CommonWords,
    people: Split<Person>,
    frames: Vec<(&'static str, Split<Frame>)>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Copies::new(options::read(table)?)?))
}

impl Copies {
    /// Checks the settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Copies, String> {
        if !(4..=100).contains(&settings.items) {
            return Err(format!("items {}: from 4 to 100", settings.items));
        }
        if !(1..=10).contains(&settings.requests) {
            return Err(format!("requests {}: from 1 to 10", settings.requests));
        }
        chance("pairs", settings.pairs)?;
        chance("values", settings.values)?;
        chance("whole", settings.whole)?;
        let sections = sections(include_str!("copies.txt"));
        let names = OF_LIST.iter().map(|(name, _)| *name).chain(OF_PAIRS.iter().map(|(name, _)| *name));
        let names: HashSet<&'static str> = names.chain(["list", "pairs"]).collect();
        let frames = names.into_iter().map(|name| (name, section(&sections, name).split('?'))).collect();
        Ok(Copies { settings, words: CommonWords::read(), people: people(), frames })
    }

    fn frame(&self, name: &str, random: &mut Pcg64, held_out: bool) -> &Frame {
        let (_, frames) = self.frames.iter().find(|(section, _)| *section == name).expect("frames of every request");
        frames.choose(random, held_out)
    }

    fn item(&self, item: Item, random: &mut Pcg64, held_out: bool) -> String {
        match item {
            Item::Word => self.words.thing(random, held_out).to_owned(),
            Item::AnyWord => self.words.any(random, held_out).to_owned(),
            Item::Phrase => format!("{} {}", self.words.quality(random, held_out), self.words.thing(random, held_out)),
            Item::Name => self.people.choose(random, held_out).name.to_owned(),
            Item::Coined => coined(random, held_out),
            // Of the set that a person's name of these letters would be in.
            Item::CoinedName => loop {
                let mut word = coined(random, held_out);
                word[..1].make_ascii_uppercase();
                if is_held_out(&word) == held_out {
                    break word;
                }
            },
            Item::Code => code(random, held_out),
            Item::Number => number(random, held_out),
            Item::Any => self.item(ITEMS[random.random_range(0..ITEMS.len() - 1)], random, held_out),
        }
    }

    /// So many different items.
    fn items(&self, count: usize, random: &mut Pcg64, held_out: bool) -> Vec<String> {
        let kind = *choose(random, &ITEMS);
        let mut items: Vec<String> = Vec::with_capacity(count);
        while items.len() < count {
            let item = self.item(kind, random, held_out);
            if !items.contains(&item) {
                items.push(item);
            } else if random.random_bool(0.1) {
                // Few are left of this kind.
                items.push(loop {
                    let item = coined(random, held_out);
                    if !items.contains(&item) {
                        break item;
                    }
                });
            }
        }
        items
    }

    /// What is asked of pairs in one document.
    fn of_pairs(&self, random: &mut Pcg64) -> &'static [(&'static str, OfPairs)] {
        if self.settings.values == 0.0 || !random.random_bool(self.settings.values) {
            OF_PAIRS
        } else if random.random_bool(self.settings.whole) {
            &[("pair", whole_pair)]
        } else {
            &[("value", looked_up)]
        }
    }

    /// How many items: short lists are more frequent than long ones.
    fn count(&self, least: usize, most: usize, random: &mut Pcg64) -> usize {
        let most = random.random_range(least..=most);
        random.random_range(least..=most)
    }
}

/// A word that nobody knows, of one to four syllables.
fn coined(random: &mut Pcg64, held_out: bool) -> String {
    const ONSETS: [&str; 34] = [
        "b", "br", "c", "ch", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "qu",
        "r", "s", "sh", "sk", "st", "t", "th", "tr", "v", "w", "x", "y", "z", "",
    ];
    const VOWELS: [&str; 12] = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oo", "ou", "y"];
    const CODAS: [&str; 14] = ["", "", "", "", "n", "r", "s", "t", "l", "m", "nd", "ck", "rt", "x"];
    loop {
        let mut word = String::new();
        for _ in 0..random.random_range(1..=4) {
            for part in [&ONSETS[..], &VOWELS, &CODAS] {
                word.push_str(choose::<&str>(random, part));
            }
        }
        if (3..=14).contains(&word.len()) && is_held_out(&word) == held_out {
            return word;
        }
    }
}

/// A number of one to six digits.
fn number(random: &mut Pcg64, held_out: bool) -> String {
    loop {
        let digits = random.random_range(1..=6);
        let number = random.random_range(0..10_u32.pow(digits)).to_string();
        // Of short ones all are known: they are in both sets.
        if number.len() < 3 || is_held_out(&number) == held_out {
            return number;
        }
    }
}

impl Generator for Copies {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let pairs = random.random_bool(self.settings.pairs);
        let (shown, given, mut made): (_, _, Box<dyn FnMut(&mut Pcg64) -> (&'static str, Request)>) = if pairs {
            let count = self.count(2, self.settings.items / 2, random);
            let drawn = [self.items(count, random, held_out), self.items(count, random, held_out)];
            let [keys, values] = drawn;
            let pairs: Vec<(String, String)> = keys.into_iter().zip(values).collect();
            let text = lines(&pairs);
            let asked = self.of_pairs(random);
            let make = move |random: &mut Pcg64| {
                let &(name, request) = choose(random, asked);
                (name, request(&pairs, random))
            };
            ("pairs", ("pairs", text), Box::new(make))
        } else {
            let count = self.count(2, self.settings.items, random) + 1;
            let mut items = self.items(count, random, held_out);
            let other = items.pop().expect("one more than is shown");
            let text = items.join(", ");
            let make = move |random: &mut Pcg64| {
                let &(name, request) = choose(random, OF_LIST);
                (name, request(&items, &other, random))
            };
            ("list", ("items", text), Box::new(make))
        };
        let show = self.frame(shown, random, held_out);
        // Lines of a file of frames hold no line break.
        let mut asked = show.fill(&[(given.0, given.1.as_str())][..]).replace("\\n", "\n");
        let (mut conversation, mut frames) = (Conversation::default(), vec![show.line.to_string()]);
        let (mut checks, mut kinds, mut last) = (Vec::new(), Vec::new(), String::new());
        for i in 0..random.random_range(1..=self.settings.requests) {
            let (name, request) = made(random);
            let frame = self.frame(name, random, held_out);
            let slots: Vec<(&str, &str)> = request.slots.iter().map(|(slot, value)| (*slot, value.as_str())).collect();
            if i == 0 && !asked.ends_with('\n') {
                asked.push(' ');
            }
            asked.push_str(&frame.fill(&slots[..]));
            conversation =
                conversation.then(Role::User, std::mem::take(&mut asked)).then(Role::Assistant, request.answer.clone());
            frames.push(frame.line.to_string());
            checks.push(request.check);
            kinds.push(name);
            last = request.answer;
        }
        let labels = Map::from_iter([
            ("answer".to_owned(), last.into()),
            ("kind".to_owned(), kinds.join("+").into()),
            ("frame".to_owned(), frames.join("+").into()),
            ("check".to_owned(), checks.into()),
        ]);
        conversation.generated(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generators::tests::documents;

    fn strings(value: &Value) -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    }

    /// The answer that a check asks for: written from the labels' meaning, without the generator.
    fn wanted(check: &Value) -> String {
        let rule = check["rule"].as_str().unwrap();
        if ["value", "pair", "key", "two", "keys", "values", "object", "lines"].contains(&rule) {
            let pairs: Vec<Vec<String>> = check["of"].as_array().unwrap().iter().map(strings).collect();
            let value = |key: &Value| pairs.iter().find(|pair| *key == pair[0]).unwrap()[1].clone();
            let column = |i: usize| pairs.iter().map(|pair| pair[i].clone()).collect::<Vec<_>>().join(", ");
            return match rule {
                "value" => value(&check["key"]),
                "pair" => format!("{}: {}", check["key"].as_str().unwrap(), value(&check["key"])),
                "key" => pairs.iter().find(|pair| check["value"] == pair[1]).unwrap()[0].clone(),
                "two" => format!("{}, {}", value(&check["keys"][0]), value(&check["keys"][1])),
                "keys" => column(0),
                "values" => column(1),
                "object" => {
                    let fields: Vec<String> = pairs.iter().map(|p| format!("\"{}\": \"{}\"", p[0], p[1])).collect();
                    format!("{{{}}}", fields.join(", "))
                }
                _ => pairs.iter().map(|pair| format!("{}: {}", pair[0], pair[1])).collect::<Vec<_>>().join("\n"),
            };
        }
        let mut items = strings(&check["of"]);
        let place = items.iter().position(|item| check["item"] == *item);
        match rule {
            "repeat" => {}
            "backwards" => items.reverse(),
            "bullets" => return items.iter().map(|item| format!("- {item}")).collect::<Vec<_>>().join("\n"),
            "numbered" => {
                let line = |i: usize| format!("{}. {}", i + 1, items[i]);
                return (0..items.len()).map(line).collect::<Vec<_>>().join("\n");
            }
            "array" => return format!("[\"{}\"]", items.join("\", \"")),
            "after" => return items[place.unwrap() + 1].clone(),
            "before" => return items[place.unwrap() - 1].clone(),
            "nth" => return items[check["n"].as_u64().unwrap() as usize].clone(),
            "last" => return items.pop().unwrap(),
            "rest" => drop(items.drain(..=place.unwrap())),
            "until" => items.truncate(place.unwrap() + 1),
            "without" => drop(items.remove(place.unwrap())),
            "instead" => items[place.unwrap()] = check["other"].as_str().unwrap().to_owned(),
            "more" => items.push(check["other"].as_str().unwrap().to_owned()),
            rule => panic!("no rule {rule}"),
        }
        items.join(", ")
    }

    #[test]
    fn answers_are_what_their_checks_ask_for_and_stand_in_what_was_shown() {
        let copies = Copies::new(Settings::default()).unwrap();
        let mut kinds = HashSet::new();
        for document in [documents(&copies, false, 5_000), documents(&copies, true, 1_000)].concat() {
            let messages = document.labels["messages"].as_array().unwrap();
            let checks = document.labels["check"].as_array().unwrap();
            assert_eq!(messages.len(), 2 * checks.len());
            let shown = messages[0]["content"].as_str().unwrap();
            for (exchange, check) in messages.chunks(2).zip(checks) {
                assert_eq!(exchange[1]["content"], wanted(check), "{}", document.text);
                let parts = check["of"].as_array().unwrap().iter();
                let parts =
                    parts.flat_map(|part| if part.is_array() { strings(part) } else { strings(&json!([part])) });
                assert!(parts.collect::<HashSet<_>>().iter().all(|part| shown.contains(part)), "{}", document.text);
            }
            kinds.extend(document.labels["kind"].as_str().unwrap().split('+').map(str::to_owned));
        }
        let all: HashSet<String> = OF_LIST
            .iter()
            .map(|(name, _)| *name)
            .chain(OF_PAIRS.iter().map(|(name, _)| *name))
            .map(String::from)
            .collect();
        assert_eq!(kinds, all);
    }

    #[test]
    fn values_alone_are_asked_for_with_their_keys_and_without() {
        let settings = Settings { requests: 8, pairs: 1.0, values: 1.0, whole: 0.5, ..Settings::default() };
        let mut whole = 0;
        for document in documents(&Copies::new(settings).unwrap(), false, 1_000) {
            let messages = document.labels["messages"].as_array().unwrap();
            let checks = document.labels["check"].as_array().unwrap();
            for (exchange, check) in messages.chunks(2).zip(checks) {
                assert_eq!(exchange[1]["content"], wanted(check), "{}", document.text);
                assert!(check["rule"] == checks[0]["rule"] && (check["rule"] == "value" || check["rule"] == "pair"));
            }
            whole += usize::from(checks[0]["rule"] == "pair");
        }
        assert!((400..600).contains(&whole), "{whole}");
    }

    #[test]
    fn words_are_in_one_set_only() {
        let copies = Copies::new(Settings::default()).unwrap();
        let words = |held_out| -> HashSet<String> {
            let checks =
                documents(&copies, held_out, 5_000).into_iter().flat_map(|d| match d.labels["check"].clone() {
                    Value::Array(checks) => checks,
                    _ => panic!("checks"),
                });
            let parts = checks.flat_map(|check| match check["of"].clone() {
                Value::Array(parts) => parts,
                _ => panic!("what is copied"),
            });
            let words = parts.flat_map(|part| if part.is_array() { strings(&part) } else { strings(&json!([part])) });
            words.filter(|word| word.len() > 3 || word.contains(char::is_alphabetic)).collect()
        };
        let (training, held_out) = (words(false), words(true));
        assert!(training.len() > 20_000 && held_out.len() > 10_000, "{} {}", training.len(), held_out.len());
        assert_eq!(training.intersection(&held_out).next(), None);
    }

    #[test]
    fn settings_that_cannot_be_are_errors_that_name_the_value() {
        for (settings, said) in [
            (Settings { items: 3, ..Settings::default() }, "items 3"),
            (Settings { requests: 0, ..Settings::default() }, "requests 0"),
            (Settings { pairs: 1.5, ..Settings::default() }, "pairs 1.5"),
            (Settings { whole: -1.0, ..Settings::default() }, "whole -1"),
        ] {
            assert!(Copies::new(settings).err().unwrap().contains(said));
        }
    }
}
