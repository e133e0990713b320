//! The world of one story: who there is, with pronoun and kind, the thing it is about, and the places

use rand::RngExt;
use rand_pcg::Pcg64;

use super::lexicon::{Lexicon, World};
use super::plot::Skeleton;
use crate::generators::split::choose;

/// Numbers that are facts of a story. Seven and eleven are held out.
const NUMBERS: [(&str, u32); 9] = [
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("twelve", 12),
];
const NUMBERS_HELD_OUT: [(&str, u32); 2] = [("seven", 7), ("eleven", 11)];

/// A character.
#[derive(Clone, Debug, PartialEq)]
pub struct Character {
    /// Its name; empty for who stands in the way.
    pub name: String,
    /// What it is: `fox`, `baker`; a word for kin.
    pub kind: &'static str,
    /// `she`, else `he`.
    pub she: bool,
}

impl Character {
    /// `he` or `she`.
    pub fn he(&self) -> &'static str {
        if self.she { "she" } else { "he" }
    }

    /// `him` or `her`.
    pub fn him(&self) -> &'static str {
        if self.she { "her" } else { "him" }
    }

    /// `his` or `her`.
    pub fn his(&self) -> &'static str {
        if self.she { "her" } else { "his" }
    }
}

/// Whom and what a story is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// The hero.
    pub hero: Character,
    /// Who helps.
    pub helper: Character,
    /// Kin or friend of the hero, for whom or to whom the way goes.
    pub other: Character,
    /// Who stands in the way or steals, with an adjective.
    pub opponent: Character,
    /// The thing: adjective and noun.
    pub thing: (&'static str, &'static str),
    /// Kind of settlement and its name.
    pub home: (&'static str, String),
    /// Preposition, adjective and noun.
    pub goal: (&'static str, &'static str, &'static str),
    /// How long the way is.
    pub number: (&'static str, u32),
    /// In what.
    pub unit: &'static str,
    /// Who writes, or to whom: names for letters and news.
    pub writers: [String; 2],
}

impl Cast {
    /// Draws a cast that fits a plot. `letter`: what the hero's name begins with.
    pub fn draw(lexicon: &Lexicon, plot: &Skeleton, random: &mut Pcg64, held_out: bool, letter: Option<u8>) -> Cast {
        let world = match random.random_range(0..20) {
            0..10 => World::Animals,
            10..17 => World::People,
            _ => World::Wonders,
        };
        let she = random.random();
        let mut taken: Vec<String> = Vec::new();
        let mut name = |random: &mut Pcg64, she: bool, letter: Option<u8>| {
            let known: Vec<&str> = taken.iter().map(String::as_str).collect();
            let name = lexicon.name(random, held_out, she, letter, &known);
            taken.push(name.clone());
            name
        };
        let hero = Character { name: name(random, she, letter), kind: lexicon.kind(random, world, she), she };
        let helper_she = if random.random_range(0..10) < 7 { !she } else { she };
        let helper_world = match world {
            World::Animals => [World::Animals, World::Animals, World::Wonders][random.random_range(0..3)],
            _ => [World::Animals, World::People, World::Wonders][random.random_range(0..3)],
        };
        let apart =
            |kind: &str, others: &[&str]| others.iter().all(|other| !kind.contains(other) && !other.contains(kind));
        let opponent = loop {
            let kind = lexicon.opponent(random, plot.has_thief());
            if apart(kind, &[hero.kind]) {
                break Character { name: String::new(), kind, she: random.random() };
            }
        };
        let kind = loop {
            let kind = lexicon.kind(random, helper_world, helper_she);
            if apart(kind, &[hero.kind, opponent.kind]) {
                break kind;
            }
        };
        let helper = Character { name: name(random, helper_she, None), kind, she: helper_she };
        let other_she = random.random();
        let other =
            Character { name: name(random, other_she, None), kind: lexicon.kin(random, other_she), she: other_she };
        let writers = [true, false].map(|she| name(random, she, None));
        let numbers: &[(&str, u32)] = if held_out { &NUMBERS_HELD_OUT } else { &NUMBERS };
        Cast {
            hero,
            helper,
            other,
            opponent,
            thing: lexicon.object(random, plot.wish.classes),
            home: (lexicon.home(random), lexicon.town(random, held_out).to_owned()),
            goal: lexicon.place(random),
            number: *choose(random, numbers),
            unit: ["hours", "miles", "days"][random.random_range(0..3)],
            writers,
        }
    }
}
