//! From events to sentences: who is meant by a slot, by name, kind or pronoun, and what each sentence states

use rand::RngExt;
use rand_pcg::Pcg64;

use super::plot::Wish;
use super::world::{Cast, Character};
use crate::generators::grammar::{Fill, Grammar, Used};

/// A part in the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The hero.
    Hero,
    /// The helper.
    Helper,
    /// Kin or a friend.
    Other,
    /// Who stands in the way.
    Opponent,
}

/// How a character is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Name, kind or pronoun, as fits.
    Free,
    /// Name.
    Name,
    /// `he`.
    He,
    /// `him`.
    Him,
    /// `his`.
    His,
    /// `himself`.
    Oneself,
    /// `fox`.
    Kind,
    /// `a fox`.
    AKind,
    /// `his grandmother`, without the name.
    Relation,
    /// `his grandmother Ada`, `a grumpy goat`.
    Described,
}

/// How the thing is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThingForm {
    /// `the red hat` or `the hat`.
    Free,
    /// `a red hat`.
    A,
    /// `his red hat`.
    His,
    /// `hat`.
    Noun,
    /// `red hat`.
    Bare,
    /// `the Red Hat`.
    Title,
}

/// What a frame leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A character.
    Of(Part, Form),
    /// The thing.
    Thing(ThingForm),
    /// Home, with `at` or `in` if true.
    Home(bool),
    /// The goal, with its preposition if true.
    Goal(bool),
    /// The goal in a title.
    GoalTitle,
    /// The hero's kind in a title.
    KindTitle,
    /// The beginning of the first sentence.
    Start,
    /// How long the way is.
    Number,
    /// Of what.
    Unit,
    /// Any small number.
    Some,
    /// A day of the month.
    Day,
    /// What stands in the way, in a few words.
    Block,
    /// What the hero wants to do.
    Want,
    /// And why.
    Why,
    /// What the hero does, in a request.
    Deed,
    /// What end is asked for: `, with a happy end`.
    EndWith,
    /// The same as a sentence.
    EndShort,
    /// The same, without a leading space.
    EndGive,
    /// What the story should be about.
    Moral,
    /// Who gets a letter.
    Writer(u8),
    /// In capitals: home, goal, kind.
    Upper(u8),
}

impl Slot {
    /// A slot by its name in the frames.
    pub fn named(name: &str) -> Option<Slot> {
        use Form::*;
        let character = |part: Part, form: &str| {
            let forms = [
                ("", Free),
                ("n", Name),
                ("he", He),
                ("him", Him),
                ("his", His),
                ("self", Oneself),
                ("kind", Kind),
                ("a", AKind),
                (".rel", Relation),
                (".kin", Kind),
                ("desc", Described),
            ];
            forms.into_iter().find(|(name, _)| *name == form).map(|(_, form)| Slot::Of(part, form))
        };
        let slot = match name {
            "he" => Slot::Of(Part::Hero, He),
            "him" => Slot::Of(Part::Hero, Him),
            "his" => Slot::Of(Part::Hero, His),
            "self" => Slot::Of(Part::Hero, Oneself),
            "o" => Slot::Of(Part::Other, Name),
            "ra" => Slot::Of(Part::Opponent, Described),
            "x" => Slot::Thing(ThingForm::Free),
            "xa" => Slot::Thing(ThingForm::A),
            "xhis" => Slot::Thing(ThingForm::His),
            "xn" => Slot::Thing(ThingForm::Noun),
            "x.bare" => Slot::Thing(ThingForm::Bare),
            "x.title" => Slot::Thing(ThingForm::Title),
            "home" => Slot::Home(false),
            "athome" => Slot::Home(true),
            "goal" => Slot::Goal(false),
            "atgoal" => Slot::Goal(true),
            "goal.title" => Slot::GoalTitle,
            "hkind.title" => Slot::KindTitle,
            "start" => Slot::Start,
            "n" => Slot::Number,
            "unit" => Slot::Unit,
            "k" => Slot::Some,
            "d" => Slot::Day,
            "block" => Slot::Block,
            "want" => Slot::Want,
            "why" => Slot::Why,
            "deed" => Slot::Deed,
            "end.with" => Slot::EndWith,
            "end.short" => Slot::EndShort,
            "end.give" => Slot::EndGive,
            "moral.ask" => Slot::Moral,
            "s1" => Slot::Writer(0),
            "s2" => Slot::Writer(1),
            "HOME" => Slot::Upper(0),
            "GOAL" => Slot::Upper(1),
            "HKIND" => Slot::Upper(2),
            _ => {
                let part = match name.as_bytes().first()? {
                    b'h' => Part::Hero,
                    b'p' => Part::Helper,
                    b'o' => Part::Other,
                    b'r' => Part::Opponent,
                    _ => return None,
                };
                return character(part, &name[1..]);
            }
        };
        Some(slot)
    }
}

/// What the frames of an event have stated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stated {
    /// Characters by [`Part`], named or by pronoun.
    pub who: [bool; 4],
    /// The thing.
    pub thing: bool,
    /// Home.
    pub home: bool,
    /// The goal.
    pub goal: bool,
    /// How long the way is.
    pub number: bool,
    /// The reason of the wish.
    pub why: bool,
}

/// What a request asks for besides hero and deed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Name of the outcome, if one is asked for.
    pub outcome: Option<&'static str>,
    /// Name of the theme, if one is asked for.
    pub theme: Option<String>,
}

/// Fills the slots of one story.
pub struct Teller<'a> {
    grammar: &'a Grammar<Slot>,
    cast: &'a Cast,
    wish: &'a Wish,
    held_out: bool,
    obstacle: String,
    /// Home and goal have been named in full.
    placed: [bool; 2],
    /// Beginning of the first sentence.
    pub start: String,
    /// Of a request.
    pub asked: Asked,
    want: Option<String>,
    why: Option<String>,
    adjective: usize,
    /// The character that a pronoun would be taken for.
    focus: Option<Part>,
    /// Pronouns since the name.
    streak: u32,
    /// Adjective of the opponent, once drawn.
    opponent_adjective: Option<String>,
    /// Of the event at hand.
    pub stated: Stated,
}

/// Outcomes as people ask for them: adjective, then sentence.
const END_WORDS: [(&str, &str, &str); 5] = [
    ("happy", "a happy", "It should end happily."),
    ("surprise", "a surprising", "It should have a surprise at the end."),
    ("funny", "a funny", "It should end with something funny."),
    ("bitter", "a bittersweet", "The end should be bittersweet."),
    ("sad", "a sad", "It should have a sad end."),
];

impl<'a> Teller<'a> {
    /// Nothing told yet.
    pub fn new(grammar: &'a Grammar<Slot>, cast: &'a Cast, wish: &'a Wish, held_out: bool) -> Teller<'a> {
        Teller {
            grammar,
            cast,
            wish,
            held_out,
            obstacle: String::new(),
            placed: [false; 2],
            start: String::new(),
            asked: Asked::default(),
            want: None,
            why: None,
            adjective: 0,
            focus: None,
            streak: 0,
            opponent_adjective: None,
            stated: Stated::default(),
        }
    }

    /// With the name of the first obstacle.
    #[must_use]
    pub fn with_obstacle(mut self, obstacle: Option<&str>) -> Teller<'a> {
        self.obstacle = obstacle.unwrap_or_default().to_owned();
        self
    }

    /// Before a paragraph: names come before pronouns.
    pub fn paragraph(&mut self) {
        self.focus = None;
    }

    /// The reason of the wish, once it has been told.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// What the hero wants to do, once it has been told.
    pub fn want(&self) -> Option<&str> {
        self.want.as_deref()
    }

    /// Takes what the hero wants to do from the story that has been told.
    pub fn know(&mut self, want: &str) {
        self.want = Some(want.to_owned());
    }

    fn character(&self, part: Part) -> &'a Character {
        match part {
            Part::Hero => &self.cast.hero,
            Part::Helper => &self.cast.helper,
            Part::Other => &self.cast.other,
            Part::Opponent => &self.cast.opponent,
        }
    }

    /// After a name or kind: a pronoun means the hero, until another character whom it fits is mentioned.
    fn mention(&mut self, part: Part) {
        if part == Part::Hero {
            self.focus = Some(part);
        } else if self.character(part).she == self.cast.hero.she {
            self.focus = None;
        }
    }

    fn speak_of(&mut self, part: Part, form: Form, random: &mut Pcg64, out: &mut String) {
        let of = self.character(part);
        self.stated.who[part as usize] = true;
        match form {
            Form::Free => self.free(part, random, out),
            Form::Name => {
                out.push_str(&of.name);
                self.mention(part);
            }
            Form::He => out.push_str(of.he()),
            Form::Him => out.push_str(of.him()),
            Form::His => out.push_str(of.his()),
            Form::Oneself => out.push_str(if of.she { "herself" } else { "himself" }),
            Form::Kind => out.push_str(of.kind),
            Form::AKind => {
                out.push_str("a ");
                out.push_str(of.kind);
            }
            Form::Relation | Form::Described if part == Part::Other => {
                out.push_str(self.cast.hero.his());
                out.push(' ');
                out.push_str(of.kind);
                if form == Form::Described {
                    out.push(' ');
                    out.push_str(&of.name);
                    self.mention(part);
                }
            }
            Form::Relation | Form::Described => {
                let adjective = match self.opponent_adjective.take() {
                    Some(adjective) => adjective,
                    None => self.phrase("radj", random),
                };
                out.push_str("a ");
                out.push_str(&adjective);
                out.push(' ');
                out.push_str(of.kind);
                self.opponent_adjective = Some(adjective);
                self.mention(part);
            }
        }
    }

    fn free(&mut self, part: Part, random: &mut Pcg64, out: &mut String) {
        let of = self.character(part);
        let chance = random.random_range(0..100);
        if part == Part::Hero && self.focus == Some(part) && self.streak < 2 && chance < 60 {
            out.push_str(of.he());
            self.streak += 1;
            return;
        }
        let by_kind = of.name.is_empty() || chance >= if part == Part::Hero { 90 } else { 70 };
        if by_kind {
            out.push_str("the ");
            out.push_str(of.kind);
        } else {
            out.push_str(&of.name);
            self.streak = 0;
        }
        self.mention(part);
    }

    fn phrase(&mut self, rule: &str, random: &mut Pcg64) -> String {
        let rule = self.grammar.rule(rule).unwrap_or_else(|| panic!("{rule}: a rule of the stories"));
        let mut out = String::new();
        let mut used: Used = self.grammar.unused();
        self.grammar.expand(rule, None, self.held_out, random, &mut used, self, &mut out);
        out
    }

    fn thing(&mut self, form: ThingForm, random: &mut Pcg64, out: &mut String) {
        let (adjective, noun) = self.cast.thing;
        self.stated.thing = true;
        let article = match form {
            ThingForm::Free => "the ",
            ThingForm::A => "a ",
            ThingForm::His => self.cast.hero.his(),
            ThingForm::Noun | ThingForm::Bare => "",
            ThingForm::Title => "the ",
        };
        out.push_str(article);
        if form == ThingForm::His {
            out.push(' ');
        }
        match form {
            ThingForm::Noun => out.push_str(noun),
            ThingForm::Title => out.push_str(&title(&format!("{adjective} {noun}"))),
            _ => {
                self.adjective += 1;
                // Told in full at first, and now and then.
                if form != ThingForm::Free || self.adjective < 2 || random.random_range(0..100) < 45 {
                    out.push_str(adjective);
                    out.push(' ');
                }
                out.push_str(noun);
            }
        }
    }

    fn cached(&mut self, what: Slot, random: &mut Pcg64) -> String {
        let (prefix, known) = match what {
            Slot::Want => ("want", &self.want),
            _ => ("why", &self.why),
        };
        if let Some(known) = known {
            return known.clone();
        }
        let text = self.phrase(&format!("{prefix}.{}", self.wish.name), random);
        *(if what == Slot::Want { &mut self.want } else { &mut self.why }) = Some(text.clone());
        text
    }

    fn place(&mut self, slot: Slot, random: &mut Pcg64, out: &mut String) {
        let cast = self.cast;
        match slot {
            Slot::Home(at) => {
                self.stated.home = true;
                out.push_str(if at { "in " } else { "" });
                if !std::mem::replace(&mut self.placed[0], true) {
                    out.push_str("the ");
                    out.push_str(cast.home.0);
                    out.push_str(" of ");
                }
                out.push_str(&cast.home.1);
            }
            Slot::Goal(at) => {
                self.stated.goal = true;
                let (preposition, adjective, noun) = cast.goal;
                if at {
                    out.push_str(preposition);
                    out.push(' ');
                }
                out.push_str("the ");
                if !std::mem::replace(&mut self.placed[1], true) || random.random_range(0..100) < 25 {
                    out.push_str(adjective);
                    out.push(' ');
                }
                out.push_str(noun);
            }
            Slot::GoalTitle => out.push_str(&title(&format!("the {} {}", cast.goal.1, cast.goal.2))),
            Slot::KindTitle => out.push_str(&title(cast.hero.kind)),
            Slot::Upper(0) => out.push_str(&cast.home.1.to_ascii_uppercase()),
            Slot::Upper(1) => {
                out.push_str(&format!("THE {} {}", cast.goal.1, cast.goal.2).to_ascii_uppercase());
            }
            _ => out.push_str(&cast.hero.kind.to_ascii_uppercase()),
        }
    }

    fn ask(&mut self, slot: Slot, random: &mut Pcg64, out: &mut String) {
        let end = self.asked.outcome.and_then(|asked| END_WORDS.into_iter().find(|(name, ..)| *name == asked));
        match (slot, end) {
            (Slot::Deed, _) => {
                let deed = self.phrase(&format!("deed.{}", self.wish.name), random);
                out.push_str(&deed);
            }
            (Slot::Moral, _) => {
                if let Some(theme) = &self.asked.theme {
                    out.push_str(&format!("It should be about {theme}."));
                }
            }
            (Slot::EndWith, Some((_, adjective, _))) => {
                let end = ["end", "ending"][random.random_range(0..2)];
                out.push_str(&format!(", with {adjective} {end}"));
            }
            (Slot::EndShort, Some((_, _, sentence))) => {
                out.push(' ');
                out.push_str(sentence);
            }
            (Slot::EndGive, Some((_, _, sentence))) => out.push_str(sentence),
            _ => {}
        }
    }
}

/// Numbers that are told but not facts.
const SOME: [&str; 8] = ["three", "four", "five", "six", "eight", "nine", "ten", "twelve"];

impl Fill<Slot> for Teller<'_> {
    fn fill(&mut self, slot: Slot, random: &mut Pcg64, out: &mut String) {
        match slot {
            Slot::Of(part, form) => self.speak_of(part, form, random, out),
            Slot::Thing(form) => self.thing(form, random, out),
            Slot::Start => out.push_str(&std::mem::take(&mut self.start)),
            Slot::Number => {
                self.stated.number = true;
                out.push_str(self.cast.number.0);
            }
            Slot::Unit => out.push_str(self.cast.unit),
            Slot::Some if self.held_out => out.push_str(["seven", "eleven"][random.random_range(0..2)]),
            Slot::Some => out.push_str(SOME[random.random_range(0..SOME.len())]),
            Slot::Day => out.push_str(&random.random_range(1..29).to_string()),
            Slot::Block => {
                let text = self.phrase(&format!("block.{}", self.obstacle), random);
                out.push_str(&text);
            }
            Slot::Want | Slot::Why => {
                self.stated.why |= slot == Slot::Why;
                let text = self.cached(slot, random);
                out.push_str(&text);
            }
            Slot::Writer(number) => out.push_str(&self.cast.writers[number as usize]),
            Slot::Home(_) | Slot::Goal(_) | Slot::GoalTitle | Slot::KindTitle | Slot::Upper(_) => {
                self.place(slot, random, out)
            }
            Slot::Deed | Slot::EndWith | Slot::EndShort | Slot::EndGive | Slot::Moral => self.ask(slot, random, out),
        }
    }
}

/// Capitals as in a title.
fn title(text: &str) -> String {
    let word = |word: &str| match word {
        "the" | "of" => word.to_owned(),
        _ => word[..1].to_ascii_uppercase() + &word[1..],
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
