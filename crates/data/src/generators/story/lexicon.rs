//! Names, kinds, objects and places that stories draw from, out of the project's own word lists

use std::collections::HashSet;

use rand::RngExt;
use rand_pcg::Pcg64;

use crate::generators::split::{choose, is_held_out};

/// Names and kinds split by pronoun: index 0 for `he`, 1 for `she`.
type ByPronoun<T> = [Vec<T>; 2];

/// Classes of objects: a wish may ask for some of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Something one wears.
    Wear,
    /// An instrument.
    Music,
    /// A toy.
    Toy,
    /// A tool.
    Tool,
    /// A household thing.
    Keep,
    /// Something small from nature or a treasure.
    Gem,
}

const CLASSES: [(&str, Class); 6] = [
    ("wear", Class::Wear),
    ("music", Class::Music),
    ("toy", Class::Toy),
    ("tool", Class::Tool),
    ("keep", Class::Keep),
    ("gem", Class::Gem),
];

/// Adjectives for cloth only, and for hard things only.
const CLOTH: [&str; 9] =
    ["woollen", "velvet", "silken", "knitted", "embroidered", "feathered", "patched", "soft", "folded"];
const HARD: [&str; 18] = [
    "brass",
    "iron",
    "glass",
    "clay",
    "stone",
    "tin",
    "wooden",
    "rusty",
    "carved",
    "polished",
    "dented",
    "chipped",
    "cracked",
    "enamelled",
    "lacquered",
    "waxed",
    "bent",
    "hollow",
];
const CLOTH_NOUNS: [&str; 8] = ["pillow", "blanket", "quilt", "cushion", "rug", "flag", "purse", "teddy bear"];

/// Where a hero belongs: helpers and kin come from the same world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Animals among themselves.
    Animals,
    /// People, whom animals and wonders may help.
    People,
    /// Wonders, anywhere.
    Wonders,
}

/// All word lists, names split into training and held-out sets.
pub struct Lexicon {
    /// By held-out set, then pronoun.
    names: [ByPronoun<String>; 2],
    made_up: [Vec<String>; 2],
    made_up_share: f64,
    towns: [Vec<String>; 2],
    animals: Vec<&'static str>,
    people: ByPronoun<&'static str>,
    wonders: Vec<&'static str>,
    keepers: Vec<&'static str>,
    thieves: Vec<&'static str>,
    kin: ByPronoun<&'static str>,
    objects: Vec<(Class, &'static str)>,
    adjectives: Vec<&'static str>,
    places: Vec<(&'static str, &'static str)>,
    place_adjectives: Vec<&'static str>,
    homes: Vec<&'static str>,
}

const NAMES: &str = include_str!("data/names.txt");
const THINGS: &str = include_str!("data/things.txt");

fn entry<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("{key}: a list of the lexicon"))
}

fn list(key: &str) -> Vec<&'static str> {
    entry(THINGS, key).split('|').collect()
}

fn in_sets(names: impl Iterator<Item = String>) -> [Vec<String>; 2] {
    let (held_out, training) = names.partition(|name| is_held_out(name));
    [training, held_out]
}

fn joined(first: &str, last: &str) -> Vec<String> {
    let (first, last) = (entry(NAMES, first), entry(NAMES, last));
    first.split_whitespace().flat_map(|a| last.split_whitespace().map(move |b| format!("{a}{b}"))).collect()
}

impl Lexicon {
    /// Reads the lists. `texts` are the frames: names that are words in them are left out. `made_up_share` of the names are put together.
    pub fn new(texts: &[&str], made_up_share: f64) -> Lexicon {
        let words =
            texts.iter().copied().chain([THINGS]).flat_map(|text| text.split(|c: char| !c.is_ascii_alphabetic()));
        let words: HashSet<String> = words.map(str::to_ascii_lowercase).collect();
        let free = |name: &String| !words.contains(&name.to_ascii_lowercase());
        let given = |key: &str| in_sets(entry(NAMES, key).split_whitespace().map(str::to_owned).filter(free));
        let ([he, he_held_out], [she, she_held_out]) = (given("he"), given("she"));
        let real: HashSet<String> = [&he, &he_held_out, &she, &she_held_out].into_iter().flatten().cloned().collect();
        let made_up =
            joined("first", "last").into_iter().filter(|name| name.len() > 3 && name.len() < 9 && !real.contains(name));
        let person = list("person");
        let with = |key: &str| list(key).into_iter().chain(person.iter().copied()).collect();
        let objects = CLASSES.iter().flat_map(|&(key, class)| list(key).into_iter().map(move |noun| (class, noun)));
        let places = ["in", "at", "on"].into_iter().flat_map(|key| list(key).into_iter().map(move |noun| (key, noun)));
        Lexicon {
            names: [[he, she], [he_held_out, she_held_out]],
            made_up: in_sets(made_up.filter(free)),
            made_up_share,
            towns: in_sets(joined("town first", "town last").into_iter().filter(free)),
            animals: list("animal"),
            people: [with("boy"), with("girl")],
            wonders: list("wonder"),
            keepers: list("keeper"),
            thieves: list("thief"),
            kin: [list("kin he"), list("kin she")],
            objects: objects.collect(),
            adjectives: list("object adjectives"),
            places: places.collect(),
            place_adjectives: list("place adjectives"),
            homes: list("home"),
        }
    }

    /// A name for `he` or `she` that is none of `taken` and begins with `letter`, if one is asked for and there is one.
    pub fn name(&self, random: &mut Pcg64, held_out: bool, she: bool, letter: Option<u8>, taken: &[&str]) -> String {
        let set = held_out as usize;
        loop {
            let made_up = random.random_bool(self.made_up_share);
            let names = if made_up { &self.made_up[set] } else { &self.names[set][she as usize] };
            let begins: Vec<&String> = match letter {
                Some(letter) => names.iter().filter(|name| name.as_bytes()[0] == letter).collect(),
                None => Vec::new(),
            };
            let name = if begins.is_empty() { choose::<String>(random, names) } else { *choose(random, &begins) };
            if !taken.contains(&name.as_str()) {
                return name.clone();
            }
        }
    }

    /// A settlement's name.
    pub fn town(&self, random: &mut Pcg64, held_out: bool) -> &str {
        choose::<String>(random, &self.towns[held_out as usize])
    }

    /// A kind of character in a world.
    pub fn kind(&self, random: &mut Pcg64, world: World, she: bool) -> &'static str {
        match world {
            World::Animals => choose::<&'static str>(random, &self.animals),
            World::People => choose::<&'static str>(random, &self.people[she as usize]),
            World::Wonders => choose::<&'static str>(random, &self.wonders),
        }
    }

    /// Who stands in the way, or steals.
    pub fn opponent(&self, random: &mut Pcg64, thief: bool) -> &'static str {
        choose::<&'static str>(random, if thief { &self.thieves } else { &self.keepers })
    }

    /// A word for kin.
    pub fn kin(&self, random: &mut Pcg64, she: bool) -> &'static str {
        choose::<&'static str>(random, &self.kin[she as usize])
    }

    /// An object of one of the classes, all if there are none: adjective and noun.
    pub fn object(&self, random: &mut Pcg64, classes: &[Class]) -> (&'static str, &'static str) {
        loop {
            let &(class, noun) = choose(random, &self.objects);
            let adjective = *choose(random, &self.adjectives);
            let cloth = class == Class::Wear || CLOTH_NOUNS.contains(&noun);
            let fits = if cloth { !HARD.contains(&adjective) } else { !CLOTH.contains(&adjective) };
            if fits && !noun.contains(adjective) && (classes.is_empty() || classes.contains(&class)) {
                return (adjective, noun);
            }
        }
    }

    /// A place to go to: preposition, adjective and noun.
    pub fn place(&self, random: &mut Pcg64) -> (&'static str, &'static str, &'static str) {
        loop {
            let &(preposition, noun) = choose(random, &self.places);
            let adjective = *choose(random, &self.place_adjectives);
            if !noun.contains(adjective) {
                return (preposition, adjective, noun);
            }
        }
    }

    /// A kind of settlement.
    pub fn home(&self, random: &mut Pcg64) -> &'static str {
        choose::<&'static str>(random, &self.homes)
    }

    /// Every name of a set: of characters and settlements.
    pub fn all_names(&self, held_out: bool) -> impl Iterator<Item = &str> {
        let set = held_out as usize;
        let [he, she] = &self.names[set];
        [he, she, &self.made_up[set], &self.towns[set]].into_iter().flatten().map(String::as_str)
    }
}
