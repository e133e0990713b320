//! Stories to order: a plot over a world, told in sentences whose names, things and places stay true, with all of it as labels

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conversation::Conversation;
use super::grammar::{Grammar, RuleId, Synonyms, append_polished};
use super::manual::Manual;
use super::{Generated, Generator};
use crate::options;

pub mod lexicon;
pub mod plot;
pub mod variety;
pub mod wording;
pub mod world;

use lexicon::Lexicon;
use plot::{Event, Plots, Size, Skeleton, State};
use wording::{Asked, Slot, Stated, Teller};
use world::Cast;

/// Settings of stories.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of records that begin with a request.
    pub ordered: f64,
    /// Share of stories told as a letter, a diary, news, an old tale, a bedtime story or playfully; the others are plain.
    pub styled: f64,
    /// Share of stories with a title.
    pub titled: f64,
    /// Share of names that are put together, thousands, where those that people have are hundreds.
    pub made_up_names: f64,
    /// Last line of every story. The default is that of SimpleStories (arXiv 2504.09184).
    pub end_mark: String,
    /// Fewest words of a story.
    pub words_min: usize,
    /// Most words of a story.
    pub words_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ordered: 0.5,
            styled: 0.3,
            titled: 0.2,
            made_up_names: 0.3,
            end_mark: "THE END.".to_owned(),
            words_min: 60,
            words_max: 400,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), String> {
        for (name, share) in [
            ("ordered", self.ordered),
            ("styled", self.styled),
            ("titled", self.titled),
            ("made_up_names", self.made_up_names),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("{name} {share} is not between 0 and 1"));
            }
        }
        if self.words_min > 200 || self.words_max < 160 || self.words_min + 100 > self.words_max {
            let (min, max) = (self.words_min, self.words_max);
            return Err(format!(
                "words_min {min} and words_max {max}: the least must be 200 at most, the most 160 at least, and 100 above the least"
            ));
        }
        if !self.end_mark.is_ascii() {
            return Err(format!("end_mark {:?} is not ASCII, as stories are", self.end_mark));
        }
        Ok(())
    }
}

/// The row of the table of generators.
///
/// # Errors
/// In words: a setting that is not known or cannot be.
pub fn make(table: toml::Table, _: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Stories::new(options::read(table)?)?))
}

/// Frames and words as they are.
const FIXED: [&str; 4] = [
    include_str!("data/words.txt"),
    include_str!("data/open.txt"),
    include_str!("data/reasons.txt"),
    include_str!("data/styles.txt"),
];

/// Frames in which words are exchanged for synonyms.
const VARIED: [&str; 7] = [
    include_str!("data/wishes.txt"),
    include_str!("data/obstacles.txt"),
    include_str!("data/helpers.txt"),
    include_str!("data/themes.txt"),
    include_str!("data/texture.txt"),
    include_str!("data/endings.txt"),
    include_str!("data/brief.txt"),
];

/// Letters with their share of English text in a hundred thousand letters (Lewand, Cryptological Mathematics, 2000): the first letters of stories.
pub const LETTERS: [(u8, u32); 26] = [
    (b'E', 12702),
    (b'T', 9056),
    (b'A', 8167),
    (b'O', 7507),
    (b'I', 6966),
    (b'N', 6749),
    (b'S', 6327),
    (b'H', 6094),
    (b'R', 5987),
    (b'D', 4253),
    (b'L', 4025),
    (b'C', 2782),
    (b'U', 2758),
    (b'M', 2406),
    (b'W', 2360),
    (b'F', 2228),
    (b'G', 2015),
    (b'Y', 1974),
    (b'P', 1929),
    (b'B', 1492),
    (b'V', 978),
    (b'K', 772),
    (b'J', 153),
    (b'X', 150),
    (b'Q', 95),
    (b'Z', 74),
];

/// Styles by the names of their rules; a plain story has none.
const STYLES: [&str; 6] = ["letter", "diary", "news", "tale", "play", "bed"];

/// Words that an event has on average.
const EVENT_WORDS: usize = 24;
/// And one that may be left out.
const OPTIONAL_WORDS: usize = 16;
/// And one of a brief story.
const BRIEF_EVENT_WORDS: usize = 14;
/// Shorter stories are brief.
const BRIEF_WORDS: usize = 150;

/// The generator.
pub struct Stories {
    settings: Settings,
    grammar: Grammar<Slot>,
    lexicon: Lexicon,
    plots: Plots,
}

/// A story with what is known of it.
pub struct Story {
    /// The text, without the end mark.
    pub text: String,
    /// Persons, thing and places.
    pub cast: Cast,
    /// The plot.
    pub plot: Skeleton,
    /// What each event stated, in order.
    pub told: Vec<Told>,
    /// What the hero wants to do.
    pub want: String,
    /// The reason of the wish.
    pub why: String,
    /// First letter.
    pub letter: u8,
    /// Style, if not plain.
    pub style: Option<&'static str>,
    /// The request, if there is one, with what it asks for and its frame.
    pub request: Option<(String, Asked, String)>,
}

/// An event in the text.
pub struct Told {
    /// List of frames and place in it.
    pub frame: (RuleId, usize),
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What was stated.
    pub stated: Stated,
    /// What is true after it.
    pub state: State,
}

impl Story {
    /// Whether the hero is named in the second half, and the thing after the first third: pronouns alone lose them.
    fn keeps_hero_and_thing(&self) -> bool {
        let bytes = self.text.len();
        self.text[bytes / 2..].contains(self.cast.hero.name.as_str())
            && self.text[bytes / 3..].contains(self.cast.thing.1)
    }
}

impl Stories {
    /// A generator with these settings.
    ///
    /// # Errors
    /// In words: a setting that cannot be.
    pub fn new(settings: Settings) -> Result<Stories, String> {
        settings.check()?;
        let synonyms = include_str!("data/synonyms.txt");
        let grammar = Grammar::parse_varied(&FIXED, &VARIED, &Synonyms::parse(synonyms), Slot::named)?;
        let texts: Vec<&str> = FIXED.iter().chain(&VARIED).copied().chain([synonyms]).collect();
        let lexicon = Lexicon::new(&texts, settings.made_up_names);
        Ok(Stories { settings, lexicon, plots: Plots::new(&grammar), grammar })
    }

    /// How many different plots there are.
    pub fn plots(&self) -> u128 {
        self.plots.count(&self.grammar)
    }

    /// The rules.
    pub fn grammar(&self) -> &Grammar<Slot> {
        &self.grammar
    }

    /// The word lists.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// Tells a story of `words_min` to `words_max` words.
    pub fn tell(&self, random: &mut Pcg64, held_out: bool, words_min: usize, words_max: usize) -> Story {
        let mut target = random.random_range(words_min..=words_max);
        let letter = letter(random);
        loop {
            let story = self.attempt(random, held_out, letter, target);
            let words = story.text.split_ascii_whitespace().count();
            let fits = (words_min..=words_max).contains(&words);
            if fits && story.keeps_hero_and_thing() {
                return story;
            }
            if fits {
                continue;
            }
            // Nearer to the middle, where every plot fits sooner or later.
            target = (target * 3 + (words_min + words_max) / 2) / 4;
        }
    }

    fn attempt(&self, random: &mut Pcg64, held_out: bool, letter: u8, target: usize) -> Story {
        let size = |bouts_max, fails_max| Size { bouts_max, fails_max, brief: target < BRIEF_WORDS };
        let size = match target {
            ..230 => size(1, 0),
            230..300 => size(1, 1),
            300..350 => size(1, 2),
            _ => size(2, 2),
        };
        let plot = self.plots.draw(&self.grammar, random, held_out, size);
        let starts = self.grammar.rule(&format!("start.{}", letter as char));
        let by_name = starts.is_none() || random.random_range(0..4) == 0 || b"QXZJKV".contains(&letter);
        let cast = Cast::draw(&self.lexicon, &plot, random, held_out, by_name.then_some(letter));
        // No name of either pronoun begins with some letters.
        let by_name = by_name && cast.hero.name.as_bytes()[0] == letter;
        let mut telling = Telling {
            stories: self,
            held_out,
            teller: Teller::new(&self.grammar, &cast, plot.wish, held_out)
                .with_obstacle(self.plots.obstacles(&plot).next()),
            used: self.grammar.unused(),
            text: String::with_capacity(target * 8),
            raw: String::new(),
            told: Vec::new(),
        };
        if let (false, Some(starts)) = (by_name, starts) {
            let mut start = String::new();
            let Telling { teller, used, .. } = &mut telling;
            self.grammar.expand(starts, None, held_out, random, used, teller, &mut start);
            // What goes on without a comma: `it is said that`.
            let open = ["that", "where", "when", "and", "but", "how", "while", "then", "year", ",", ":"];
            if open.iter().any(|end| start.ends_with(end)) {
                start.push('`');
            }
            telling.teller.start = start;
        }
        let style = chance(random, self.settings.styled).then(|| STYLES[random.random_range(0..STYLES.len())]);
        if style.is_none() && chance(random, self.settings.titled) {
            telling.aside("title", "\n\n", random);
            telling.text = telling.text.replace(" .", ".");
        }
        if let Some(style) = style {
            telling.aside(&format!("{style}.head"), "\n\n", random);
        }
        let events = plot::events(&self.plots, &self.grammar, &plot, by_name);
        telling.events(&fitted(events, target, plot.ending.is_none(), random), State::new(plot.wish), random);
        if let Some(style) = style {
            telling.text.push_str("\n\n");
            telling.aside(&format!("{style}.foot"), "", random);
        }
        let Telling { text, told, teller, .. } = telling;
        let mut why = String::new();
        append_polished(&format!("because {}", teller.why().unwrap_or_default()), &mut why);
        why.replace_range(..1, "b");
        let want = teller.want().unwrap_or_default().to_owned();
        Story { text, plot, told, want, why, letter, style, request: None, cast }
    }

    /// Puts a request before a story.
    fn order(&self, story: &mut Story, random: &mut Pcg64, held_out: bool) {
        let mut teller = Teller::new(&self.grammar, &story.cast, story.plot.wish, held_out);
        let outcome = (random.random_range(0..10) < 5).then_some(story.plot.outcome.name());
        teller.asked = Asked { outcome, theme: Some(self.plots.theme(&story.plot).to_owned()) };
        let rule = self.grammar.rule("ask").expect("a rule of the stories");
        let mut raw = String::new();
        let line = self.grammar.expand(rule, None, held_out, random, &mut self.grammar.unused(), &mut teller, &mut raw);
        let mut request = String::new();
        append_polished(&raw, &mut request);
        let mut asked = teller.asked;
        if !request.contains("It should be about ") {
            asked.theme = None;
        }
        story.request = Some((request.trim_end().to_owned(), asked, format!("ask/{line}")));
    }

    fn frame(&self, (rule, line): (RuleId, usize)) -> String {
        format!("{}/{line}", self.grammar.name(rule))
    }

    /// Everything that is known of a story.
    pub fn labels(&self, story: &Story) -> Map<String, Value> {
        let Story { cast, plot, .. } = story;
        let used = |part: wording::Part| story.told.iter().any(|told| told.stated.who[part as usize]);
        let mut labels = Map::new();
        let mut put = |name: &str, value: Value| labels.insert(name.to_owned(), value);
        let character = |c: &world::Character| json!({"name": c.name, "kind": c.kind, "pronoun": c.he()});
        if let Some((request, asked, frame)) = &story.request {
            put("request", json!(request));
            put("asked", json!({"outcome": asked.outcome, "theme": asked.theme}));
            put("request_frame", json!(frame));
        }
        put("hero", character(&cast.hero));
        for (name, part, c) in [
            ("helper", wording::Part::Helper, &cast.helper),
            ("other", wording::Part::Other, &cast.other),
            ("opponent", wording::Part::Opponent, &cast.opponent),
        ] {
            if used(part) {
                put(name, character(c));
            }
        }
        put("object", json!({"adjective": cast.thing.0, "noun": cast.thing.1}));
        put("home", json!(cast.home.1));
        if story.style.is_some() {
            put("writers", json!(cast.writers));
        }
        put("goal", json!(format!("the {} {}", cast.goal.1, cast.goal.2)));
        put("theme", json!(self.plots.theme(plot)));
        put("wish", json!(plot.wish.name));
        put("why", json!(story.why));
        put("obstacles", self.plots.obstacles(plot).collect());
        put("helped", json!(self.plots.helper(plot)));
        put("outcome", json!(plot.outcome.name()));
        put("ending", json!(self.plots.ending(plot)));
        put("style", json!(story.style.unwrap_or("plain")));
        put("letter", json!((story.letter as char).to_string()));
        put("skeleton", json!(self.plots.id(plot)));
        if let Some(moral) = story.told.last() {
            put("moral", json!(&story.text[moral.start..moral.end]));
        }
        put("sentences", story.told.iter().map(|told| self.fact(story, told)).collect());
        labels
    }

    fn fact(&self, story: &Story, told: &Told) -> Value {
        let cast = &story.cast;
        let mut fact = json!({"frame": self.frame(told.frame), "bytes": [told.start, told.end]});
        let stated = &told.stated;
        let names = [&cast.hero, &cast.helper, &cast.other, &cast.opponent];
        let who: Vec<&str> = (0..4)
            .filter(|&i| stated.who[i])
            .map(|i| if names[i].name.is_empty() { names[i].kind } else { names[i].name.as_str() })
            .collect();
        if !who.is_empty() {
            fact["who"] = json!(who);
        }
        if stated.thing {
            fact["what"] = json!(format!("{} {}", cast.thing.0, cast.thing.1));
        }
        if stated.goal || stated.home {
            fact["where"] =
                if stated.goal { json!(format!("the {} {}", cast.goal.1, cast.goal.2)) } else { json!(cast.home.1) };
        }
        if stated.number {
            fact["count"] = json!([cast.number.1, cast.unit]);
        }
        fact["hero_at"] = json!(format!("{:?}", told.state.place).to_lowercase());
        fact["object_with"] = json!(format!("{:?}", told.state.thing).to_lowercase());
        fact
    }
}

impl Generator for Stories {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let mut story = self.tell(random, held_out, self.settings.words_min, self.settings.words_max);
        if chance(random, self.settings.ordered) {
            self.order(&mut story, random, held_out);
        }
        let labels = self.labels(&story);
        let mut text = story.text;
        if !self.settings.end_mark.is_empty() {
            text.push_str("\n\n");
            text.push_str(&self.settings.end_mark);
        }
        match story.request {
            Some((request, ..)) => Conversation::exchange(request, text).generated(labels),
            None => Generated { text, labels },
        }
    }
}

/// Whether something happens that has this chance.
fn chance(random: &mut Pcg64, share: f64) -> bool {
    random.random::<f64>() < share
}

/// A letter, as often as it is in English text.
fn letter(random: &mut Pcg64) -> u8 {
    let mut at = random.random_range(0..LETTERS.iter().map(|(_, share)| share).sum());
    for (letter, share) in LETTERS {
        if at < share {
            return letter;
        }
        at -= share;
    }
    unreachable!("the shares add up")
}

/// The events that make about `target` words: some of those that may be left out are silent.
fn fitted(mut events: Vec<Event>, target: usize, brief: bool, random: &mut Pcg64) -> Vec<Event> {
    let must = events.iter().filter(|event| !event.optional && !event.silent).count();
    let must_words = must * if brief { BRIEF_EVENT_WORDS } else { EVENT_WORDS };
    let mut wanted = target.saturating_sub(must_words) / OPTIONAL_WORDS;
    let mut may = events.iter().filter(|event| event.optional).count();
    let mut paragraph = false;
    for event in &mut events {
        if event.optional {
            event.silent = random.random_range(0..may) >= wanted;
            may -= 1;
            wanted -= !event.silent as usize;
        }
        paragraph |= event.paragraph;
        event.paragraph = !event.silent && std::mem::take(&mut paragraph);
        paragraph &= event.silent;
    }
    events
}

struct Telling<'a> {
    stories: &'a Stories,
    held_out: bool,
    teller: Teller<'a>,
    used: super::grammar::Used,
    text: String,
    raw: String,
    told: Vec<Told>,
}

impl Telling<'_> {
    /// One alternative of a rule, as it is written.
    fn say(&mut self, rule: RuleId, line: Option<u16>, random: &mut Pcg64) -> usize {
        self.raw.clear();
        let grammar = &self.stories.grammar;
        let line = grammar.expand(rule, line, self.held_out, random, &mut self.used, &mut self.teller, &mut self.raw);
        let start = self.text.len();
        append_polished(&self.raw, &mut self.text);
        if self.raw.contains("\\n") {
            let lines = self.text[start..].replace("\\n", "\n");
            self.text.replace_range(start.., &lines);
        }
        line
    }

    fn aside(&mut self, rule: &str, after: &str, random: &mut Pcg64) {
        let rule = self.stories.grammar.rule(rule).unwrap_or_else(|| panic!("{rule}: a rule of the stories"));
        self.say(rule, None, random);
        self.text.push_str(after);
    }

    fn events(&mut self, events: &[Event], mut state: State, random: &mut Pcg64) {
        for event in events {
            state = state.after(event.change).unwrap_or_else(|| panic!("{:?} cannot follow {state:?}", event.change));
            if event.silent {
                continue;
            }
            if event.paragraph {
                self.text.push_str("\n\n");
                self.teller.paragraph();
            } else if !self.told.is_empty() {
                self.text.push(' ');
            }
            self.teller.stated = Stated::default();
            let start = self.text.len();
            let line = self.say(event.rule, event.line, random);
            let stated = self.teller.stated;
            self.told.push(Told { frame: (event.rule, line), start, end: self.text.len(), stated, state });
        }
        assert_eq!(state.place, plot::Where::Home, "stories end at home");
    }
}
