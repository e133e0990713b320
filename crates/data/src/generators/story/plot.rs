//! Plots: theme, wish, what stands in the way, who helps and how it ends, and the events in order over a state that stays true

use rand::RngExt;
use rand_pcg::Pcg64;

use super::lexicon::Class;
use super::wording::Slot;
use crate::generators::grammar::{Grammar, RuleId};
use crate::generators::split::{choose, is_held_out};

/// What a story's hero wants.
#[derive(Debug, PartialEq)]
pub struct Wish {
    /// Its name in the rules.
    pub name: &'static str,
    /// The hero has the thing from the beginning and carries it to the goal; else it is at the goal.
    pub carried: bool,
    /// Kin or a friend has a part in it.
    pub other: bool,
    /// Whose the thing is when all went well.
    pub ends_with: Holder,
    /// What the thing can be; anything if empty.
    pub classes: &'static [Class],
}

/// Who has the thing, or where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The hero.
    Hero,
    /// At the goal, with nobody or with strangers.
    Goal,
    /// The kin or friend.
    Other,
    /// Who stole it on the way.
    Thief,
    /// Nobody any more, or nobody knows.
    Gone,
}

/// All wishes.
pub const WISHES: [Wish; 16] = {
    const ANY: &[Class] = &[];
    const fn sought(name: &'static str, other: bool, ends_with: Holder) -> Wish {
        Wish { name, carried: false, other, ends_with, classes: ANY }
    }
    const fn carried(name: &'static str, other: bool, ends_with: Holder, classes: &'static [Class]) -> Wish {
        Wish { name, carried: true, other, ends_with, classes }
    }
    [
        sought("lost", false, Holder::Hero),
        sought("gift", true, Holder::Other),
        sought("comfort", true, Holder::Other),
        sought("contest", false, Holder::Hero),
        sought("treasure", false, Holder::Hero),
        sought("fetch", true, Holder::Other),
        Wish { classes: &[Class::Tool, Class::Wear, Class::Keep], ..sought("finish", false, Holder::Hero) },
        sought("stolen", false, Holder::Hero),
        carried("return", true, Holder::Other, ANY),
        carried("deliver", true, Holder::Other, ANY),
        carried("show", false, Holder::Hero, ANY),
        carried("trade", false, Holder::Goal, ANY),
        carried("repair", false, Holder::Hero, &[Class::Tool, Class::Music, Class::Toy, Class::Keep]),
        carried("restore", false, Holder::Goal, &[Class::Gem, Class::Keep]),
        carried("perform", false, Holder::Hero, &[Class::Music, Class::Toy]),
        carried("share", true, Holder::Hero, &[Class::Toy, Class::Music, Class::Keep]),
    ]
};

/// How a story ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Happy,
    /// Well, with something nobody saw coming.
    Surprise,
    /// Well, with a joke.
    Funny,
    /// Well, but at a price.
    Bitter,
    /// The wish does not come true.
    Sad,
}

/// All outcomes.
pub const OUTCOMES: [Outcome; 5] = [Outcome::Happy, Outcome::Surprise, Outcome::Funny, Outcome::Bitter, Outcome::Sad];

impl Outcome {
    /// Its name in rules and labels.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Happy => "happy",
            Outcome::Surprise => "surprise",
            Outcome::Funny => "funny",
            Outcome::Bitter => "bitter",
            Outcome::Sad => "sad",
        }
    }
}

/// An obstacle and how it is overcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Bout {
    /// Place among the obstacles.
    pub obstacle: usize,
    /// Attempts that fail, each a frame.
    pub fails: Vec<u16>,
    /// With the helper, else alone.
    pub helped: bool,
    /// The way that works, a frame.
    pub win: u16,
}

/// A plot without the persons and things in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Skeleton {
    /// Place among the themes.
    pub theme: usize,
    /// What is wanted.
    pub wish: &'static Wish,
    /// One or two obstacles.
    pub bouts: Vec<Bout>,
    /// Place among the ways in which a helper comes in; good deeds come first. None: the hero is alone.
    pub helper: Option<usize>,
    /// How it ends.
    pub outcome: Outcome,
    /// Place among the endings of all outcomes; none in a brief story.
    pub ending: Option<usize>,
    thief: bool,
}

impl Skeleton {
    /// Whether something is stolen on the way.
    pub fn has_thief(&self) -> bool {
        self.thief
    }
}

/// How much a plot has room for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Obstacles.
    pub bouts_max: usize,
    /// Attempts that fail at each.
    pub fails_max: usize,
    /// Each part is one sentence.
    pub brief: bool,
}

/// What plots are made of: the names in the rules.
pub struct Plots {
    themes: Vec<String>,
    obstacles: Vec<Obstacle>,
    /// Good deeds, then other ways.
    helpers: Vec<(String, RuleId)>,
    /// How many good deeds there are.
    deeds: usize,
    endings: Vec<Ending>,
}

struct Obstacle {
    name: String,
    rules: [RuleId; 4],
}

struct Ending {
    outcome: Outcome,
    when: String,
    name: String,
    rule: RuleId,
}

const OB: usize = 0;
const FAIL: usize = 1;
const WIN: usize = 2;
const SOLO: usize = 3;

/// Failed attempts in one bout.
const FAILS_MAX: usize = 2;

impl Plots {
    /// Reads what there is from the names of the rules.
    pub fn new(grammar: &Grammar<Slot>) -> Plots {
        let names = |prefix: &'static str| {
            grammar.rules_of(prefix).map(move |rule| (grammar.name(rule)[prefix.len()..].to_owned(), rule))
        };
        let rule = |name: String| grammar.rule(&name).unwrap_or_else(|| panic!("{name}: a rule of the stories"));
        let obstacles = names("ob.").map(|(name, _)| Obstacle {
            rules: ["ob", "fail", "win", "solo"].map(|part| rule(format!("{part}.{name}"))),
            name,
        });
        let endings = names("end.").map(|(name, rule)| {
            let mut parts = name.split('.');
            let outcome = parts.next().unwrap_or_default();
            Ending {
                outcome: OUTCOMES.into_iter().find(|o| o.name() == outcome).expect("an outcome"),
                when: parts.next().unwrap_or_default().to_owned(),
                name: name.clone(),
                rule,
            }
        });
        Plots {
            themes: names("trait.").map(|(name, _)| name).collect(),
            obstacles: obstacles.collect(),
            helpers: names("kind.").chain(names("meet.")).collect(),
            deeds: names("kind.").count(),
            endings: endings.collect(),
        }
    }

    fn obstacle_fits(&self, obstacle: usize, wish: &Wish) -> bool {
        wish.carried || self.obstacles[obstacle].name != "thief"
    }

    fn ending_fits(&self, ending: usize, outcome: Outcome, wish: &Wish, helped: bool) -> bool {
        let ending = &self.endings[ending];
        ending.outcome == outcome
            && match ending.when.as_str() {
                "any" => true,
                "help" => helped,
                "seek" => !wish.carried && wish.ends_with == Holder::Hero && wish.name != "finish",
                _ => wish.carried && wish.ends_with != Holder::Hero,
            }
    }

    fn fitting_endings(&self, outcome: Outcome, wish: &Wish, helped: bool) -> Vec<usize> {
        (0..self.endings.len()).filter(|&ending| self.ending_fits(ending, outcome, wish, helped)).collect()
    }

    /// Draws a plot of one of the sets, with at most `bouts_max` obstacles and `fails_max` attempts that fail in each. A brief one has no turn at the
    /// end and no good deed on the way.
    pub fn draw(&self, grammar: &Grammar<Slot>, random: &mut Pcg64, held_out: bool, size: Size) -> Skeleton {
        let Size { bouts_max, fails_max, brief } = size;
        loop {
            let wish = choose(random, &WISHES);
            let helper = (random.random_range(0..8) > 0).then(|| {
                let first = if brief { self.deeds } else { 0 };
                random.random_range(first..self.helpers.len())
            });
            let bouts_wanted = random.random_range(1..=bouts_max);
            let mut bouts: Vec<Bout> = Vec::new();
            while bouts.len() < bouts_wanted {
                let obstacle = random.random_range(0..self.obstacles.len());
                if !self.obstacle_fits(obstacle, wish) || bouts.iter().any(|bout| bout.obstacle == obstacle) {
                    continue;
                }
                let helped = helper.is_some() && bouts.len() + 1 == bouts_wanted;
                let rules = &self.obstacles[obstacle].rules;
                let mut fails = Vec::new();
                for _ in 0..random.random_range(0..=fails_max) {
                    let fail = *choose(random, grammar.places(rules[FAIL], held_out));
                    if !fails.contains(&fail) {
                        fails.push(fail);
                    }
                }
                let win = *choose(random, grammar.places(rules[if helped { WIN } else { SOLO }], held_out));
                bouts.push(Bout { obstacle, fails, helped, win });
            }
            let outcomes: &[usize] = if brief { &[0, 0, 0, 4] } else { &[0, 0, 0, 0, 1, 2, 3, 4] };
            let outcome = OUTCOMES[*choose(random, outcomes)];
            let endings = self.fitting_endings(outcome, wish, helper.is_some());
            let ending = (!brief).then(|| *choose(random, &endings));
            let thief = bouts.iter().any(|bout| self.obstacles[bout.obstacle].name == "thief");
            let skeleton = Skeleton {
                theme: random.random_range(0..self.themes.len()),
                wish,
                bouts,
                helper,
                outcome,
                ending,
                thief,
            };
            if is_held_out(&self.id(&skeleton)) == held_out {
                return skeleton;
            }
        }
    }

    /// The plot in words: theme, wish, obstacles with who overcomes them, helper, outcome and turn at the end, without the attempts.
    pub fn id(&self, skeleton: &Skeleton) -> String {
        let mut id = format!("{}/{}", self.themes[skeleton.theme], skeleton.wish.name);
        for bout in &skeleton.bouts {
            id += if bout.helped { "/helped:" } else { "/alone:" };
            id += &self.obstacles[bout.obstacle].name;
        }
        id += "/";
        id += skeleton.helper.map_or("nobody", |helper| &self.helpers[helper].0);
        id + "/" + &self.ending(skeleton)
    }

    /// Theme of a plot.
    pub fn theme(&self, skeleton: &Skeleton) -> &str {
        &self.themes[skeleton.theme]
    }

    /// Names of its obstacles.
    pub fn obstacles<'a>(&'a self, skeleton: &'a Skeleton) -> impl Iterator<Item = &'a str> {
        skeleton.bouts.iter().map(|bout| self.obstacles[bout.obstacle].name.as_str())
    }

    /// Name of the way in which the helper comes in.
    pub fn helper(&self, skeleton: &Skeleton) -> Option<&str> {
        skeleton.helper.map(|helper| self.helpers[helper].0.as_str())
    }

    /// Name of its ending: outcome, and what happens.
    pub fn ending(&self, skeleton: &Skeleton) -> String {
        match skeleton.ending {
            Some(ending) => self.endings[ending].name.clone(),
            None => format!("{}.brief", skeleton.outcome.name()),
        }
    }

    /// How many plots there are in the training frames: theme, wish, obstacles in order, attempts that fail in order, ways that work, helper and
    /// ending. Those whose [`Plots::id`] is held out are among them, a tenth.
    pub fn count(&self, grammar: &Grammar<Slot>) -> u128 {
        let lines = |rule: RuleId| grammar.places(rule, false).len() as u128;
        let attempts = |obstacle: &Obstacle| {
            let n = lines(obstacle.rules[FAIL]);
            1 + n + n * n.saturating_sub(1)
        };
        const { assert!(FAILS_MAX == 2) };
        let mut plots = 0;
        for wish in &WISHES {
            let fitting: Vec<&Obstacle> = (0..self.obstacles.len())
                .filter(|&o| self.obstacle_fits(o, wish))
                .map(|o| &self.obstacles[o])
                .collect();
            for (helpers, last) in [(1, SOLO), (self.helpers.len() as u128, WIN)] {
                let endings: usize =
                    OUTCOMES.iter().map(|&outcome| self.fitting_endings(outcome, wish, last == WIN).len()).sum();
                let ways = |obstacle: &Obstacle, by: usize| attempts(obstacle) * lines(obstacle.rules[by]);
                let mut bouts: u128 = fitting.iter().map(|o| ways(o, last)).sum();
                for (i, first) in fitting.iter().enumerate() {
                    let second = fitting.iter().enumerate().filter(|&(j, _)| j != i);
                    bouts += ways(first, SOLO) * second.map(|(_, o)| ways(o, last)).sum::<u128>();
                }
                plots += helpers * endings as u128 * bouts;
            }
        }
        plots * self.themes.len() as u128
    }
}

/// Where the hero is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// At home.
    Home,
    /// On the way there or back.
    Way,
    /// At the goal.
    Goal,
}

/// What is true at a point of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the hero is.
    pub place: Where,
    /// Who has the thing.
    pub thing: Holder,
    /// Something stands in the way.
    pub blocked: bool,
    /// The helper has been met.
    pub met: bool,
}

/// What an event does to the state, and needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing; true anywhere.
    None,
    /// The hero leaves for the goal.
    Leave,
    /// The helper is met for the first time.
    Meet,
    /// Something comes in the way.
    Block,
    /// The thing is stolen, which is in the way.
    Steal,
    /// An attempt, which changes nothing.
    Attempt,
    /// What was in the way is no longer.
    Clear,
    /// The hero is at the goal.
    Arrive,
    /// The thing is with this holder after what happens at the goal.
    Settle(Holder),
    /// The hero is at home again.
    Return,
    /// The thing is handed over at home.
    Give,
}

impl State {
    /// At the beginning.
    pub fn new(wish: &Wish) -> State {
        let thing = if wish.carried { Holder::Hero } else { Holder::Goal };
        State { place: Where::Home, thing, blocked: false, met: false }
    }

    /// The state after a change; none where the change cannot be.
    pub fn after(self, change: Change) -> Option<State> {
        let on_way = self.place == Where::Way && !self.blocked;
        let (possible, next) = match change {
            Change::None => (true, self),
            Change::Leave => (self.place == Where::Home, State { place: Where::Way, ..self }),
            Change::Meet => (self.place == Where::Way && !self.met, State { met: true, ..self }),
            Change::Block => (on_way, State { blocked: true, ..self }),
            Change::Steal => {
                (on_way && self.thing == Holder::Hero, State { blocked: true, thing: Holder::Thief, ..self })
            }
            Change::Attempt => (self.blocked, self),
            Change::Clear => {
                let thing = if self.thing == Holder::Thief { Holder::Hero } else { self.thing };
                (self.blocked, State { blocked: false, thing, ..self })
            }
            Change::Arrive => (on_way, State { place: Where::Goal, ..self }),
            Change::Settle(holder) => (self.place == Where::Goal, State { thing: holder, ..self }),
            Change::Return => (self.place == Where::Goal, State { place: Where::Home, ..self }),
            Change::Give => {
                (self.place == Where::Home && self.thing == Holder::Hero, State { thing: Holder::Other, ..self })
            }
        };
        possible.then_some(next)
    }
}

/// A part of the story: a frame, and what it changes.
#[derive(Clone, Debug)]
pub struct Event {
    /// The list of frames.
    pub rule: RuleId,
    /// A frame of the list; any if none.
    pub line: Option<u16>,
    /// What it changes.
    pub change: Change,
    /// It may be left unsaid; what it changes is so all the same.
    pub optional: bool,
    /// It is left unsaid.
    pub silent: bool,
    /// A paragraph begins with it.
    pub paragraph: bool,
}

/// The events of a plot in order, with those that may be left out.
pub fn events(plots: &Plots, grammar: &Grammar<Slot>, plot: &Skeleton, by_name: bool) -> Vec<Event> {
    let mut list = List { grammar, events: Vec::new(), paragraph: false };
    list.must(if by_name { "named" } else { "intro" }, Change::None);
    if plot.ending.is_none() {
        brief(plots, plot, &mut list);
        return list.events;
    }
    beginning(plots, plot, &mut list);
    for number in 0..plot.bouts.len() {
        bout(plots, plot, number, &mut list);
    }
    ending(plots, plot, &mut list);
    list.events
}

fn brief(plots: &Plots, plot: &Skeleton, list: &mut List) {
    let wish = plot.wish;
    list.must(&format!("brief.wish.{}", wish.name), Change::None);
    list.may("detail");
    list.silent(Change::Leave);
    list.silent(if plot.thief { Change::Steal } else { Change::Block });
    match plot.helper {
        Some(_) => list.must("brief.win", Change::Meet),
        None => list.must("brief.solo", Change::Attempt),
    }
    list.silent(Change::Clear);
    list.may("detail");
    list.silent(Change::Arrive);
    let handed_over_at_home = wish.ends_with == Holder::Other && !wish.carried;
    if plot.outcome == Outcome::Sad {
        list.must("brief.sad", Change::Settle(Holder::Gone));
        list.silent(Change::Return);
    } else if handed_over_at_home {
        list.silent(Change::Settle(Holder::Hero));
        list.silent(Change::Return);
        list.must("brief.good.give", Change::Give);
    } else {
        let how = if wish.carried { wish.name } else { "seek" };
        list.must(&format!("brief.good.{how}"), Change::Settle(wish.ends_with));
        list.silent(Change::Return);
    }
    list.may(&format!("close.{}", plot.outcome.name()));
    list.must(&format!("moral.{}", plots.themes[plot.theme]), Change::None);
}

fn beginning(plots: &Plots, plot: &Skeleton, list: &mut List) {
    let wish = plot.wish;
    list.may("homelife");
    list.may("homelife");
    list.may(&format!("trait.{}", plots.themes[plot.theme]));
    list.may("morning");
    list.paragraph();
    list.must(&format!("wish.{}", wish.name), Change::None);
    list.may("longing");
    list.paragraph();
    list.may_change("depart", Change::Leave);
    for event in ["weather", "way", "detail", "travel", "encounter"] {
        list.may(event);
    }
    if let Some(helper) = plot.helper.filter(|&helper| helper < plots.deeds) {
        list.push(plots.helpers[helper].1, None, Change::Meet);
    }
    for event in ["way", if wish.carried { "thinkx.carry" } else { "thinkx.seek" }, "way", "detail", "weather"] {
        list.may(event);
    }
}

fn bout(plots: &Plots, plot: &Skeleton, number: usize, list: &mut List) {
    let bout = &plot.bouts[number];
    let Obstacle { rules, name } = &plots.obstacles[bout.obstacle];
    list.paragraph();
    list.push(rules[OB], None, if name == "thief" { Change::Steal } else { Change::Block });
    list.may("detail");
    for &fail in &bout.fails {
        list.push(rules[FAIL], Some(fail), Change::Attempt);
    }
    list.may("down");
    if number == 0 {
        list.may(&format!("lesson.{}", plots.themes[plot.theme]));
    }
    list.may("memory");
    list.paragraph();
    match plot.helper.filter(|_| bout.helped) {
        Some(helper) if helper < plots.deeds => list.must("owed", Change::Attempt),
        Some(helper) => list.push(plots.helpers[helper].1, None, Change::Meet),
        None => list.may("alone"),
    }
    list.push(rules[if bout.helped { WIN } else { SOLO }], Some(bout.win), Change::Clear);
    if bout.helped {
        list.may("thanks");
    }
    for event in ["up", "detail", "way"] {
        list.may(event);
    }
}

fn ending(plots: &Plots, plot: &Skeleton, list: &mut List) {
    let wish = plot.wish;
    let sad = plot.outcome == Outcome::Sad;
    let handed_over_at_home = wish.ends_with == Holder::Other && !wish.carried;
    list.paragraph();
    list.may_change("arrive", Change::Arrive);
    list.may("there");
    if sad {
        list.must(&format!("sad.{}", wish.name), Change::Settle(Holder::Gone));
    } else {
        let holder = if handed_over_at_home { Holder::Hero } else { wish.ends_with };
        list.must(&format!("good.{}", wish.name), Change::Settle(holder));
        list.may("up");
    }
    list.may("detail");
    list.paragraph();
    list.may_change("return", Change::Return);
    list.may("homecoming");
    if handed_over_at_home && !sad {
        list.must(&format!("give.{}", wish.name), Change::Give);
    }
    if let Some(ending) = plot.ending {
        list.push(plots.endings[ending].rule, None, Change::None);
    }
    list.may("evening");
    list.paragraph();
    list.may(&format!("close.{}", plot.outcome.name()));
    list.must(&format!("moral.{}", plots.themes[plot.theme]), Change::None);
}

struct List<'a> {
    grammar: &'a Grammar<Slot>,
    events: Vec<Event>,
    /// The next event begins a paragraph.
    paragraph: bool,
}

impl List<'_> {
    fn push(&mut self, rule: RuleId, line: Option<u16>, change: Change) {
        let paragraph = std::mem::take(&mut self.paragraph);
        self.events.push(Event { rule, line, change, optional: false, silent: false, paragraph });
    }

    fn rule(&self, name: &str) -> RuleId {
        self.grammar.rule(name).unwrap_or_else(|| panic!("{name}: a rule of the stories"))
    }

    fn must(&mut self, name: &str, change: Change) {
        self.push(self.rule(name), None, change);
    }

    fn may(&mut self, name: &str) {
        self.may_change(name, Change::None);
    }

    fn may_change(&mut self, name: &str, change: Change) {
        self.must(name, change);
        self.events.last_mut().expect("just pushed").optional = true;
    }

    /// What goes without saying.
    fn silent(&mut self, change: Change) {
        let rule = self.rule("detail");
        self.events.push(Event { rule, line: None, change, optional: false, silent: true, paragraph: false });
    }

    fn paragraph(&mut self) {
        self.paragraph = true;
    }
}
