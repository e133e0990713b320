//! Questions on a program's own commands, flags and documents, each with one to three paragraphs of its manual, and answers that are copied from them
//!
//! A small model cannot know flags by heart, but it can find and copy them. So the paragraphs that a search would put before a question are part of
//! every record; where none of them answers, or the question is not about the program, the answer is that it is not known.

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::conversation::{Conversation, Role};
use super::frames::{Frame, section, sections};
use super::manual::{CommandHelp, Flag, Manual, ManualDocument};
use super::shares::{Shares, chance};
use super::split::{Split, choose};
use super::{Generated, Generator};
use crate::options;

/// Settings of questions on the manual.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of questions that have nothing to do with the program.
    pub off_topic: f64,
    /// Share of questions whose paragraph is not among those given.
    pub missing: f64,
    /// Share of questions on flags that do not exist.
    pub invented: f64,
    /// Share of questions with a misspelled word.
    pub misspelled: f64,
    /// Paragraphs of a record, at most.
    pub paragraphs: usize,
    /// The answer where none is known.
    pub unknown: String,
}

impl Default for Settings {
    fn default() -> Settings {
        let unknown = "I do not know.".to_owned();
        Settings { off_topic: 0.2, missing: 0.1, invented: 0.03, misspelled: 0.03, paragraphs: 3, unknown }
    }
}

/// Where a question comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Manual,
    Missing,
    Invented,
    OffTopic,
}

/// A piece of the manual, as a search returns it.
struct Paragraph {
    text: String,
    /// Number of the command or document that it belongs to: documents come after commands.
    part: usize,
}

/// A question that the manual answers.
struct Item {
    /// Section of the frames of its questions.
    questions: &'static str,
    /// Section of the frames of its answers.
    answers: &'static str,
    slots: Vec<(&'static str, String)>,
    paragraph: usize,
}

/// Kinds of questions with their weights.
const KINDS: [(&str, f64); 7] = [
    ("command", 0.3),
    ("meaning", 0.12),
    ("setting", 0.2),
    ("effect", 0.1),
    ("flag", 0.15),
    ("example", 0.07),
    ("topic", 0.06),
];

/// Words that the help of a flag begins with if it says what the flag does; others begin with a noun.
const VERBS: &str = "Accept Add Allow Answer Ask Begin Check Close Compare Continue Count Cut Download Draw Exclude Generate Give Go Hide Ignore \
    Include Keep Leave Let List Load Log Make Measure Move Name Open Print Read Refuse Reject Remove Repeat Return Run Sample Save Send Serve Set \
    Share Show Skip Start Stop Store Take Try Turn Unload Use Wait Write";

/// The generator.
pub struct Help {
    settings: Settings,
    sources: Shares<Source>,
    kinds: Shares<&'static str>,
    paragraphs: Vec<Paragraph>,
    items: Vec<Item>,
    commands: Vec<String>,
    /// Words of commands and flags, which are never misspelled.
    names: Vec<String>,
    invented: Split<&'static str>,
    questions: Vec<(&'static str, Split<Frame>)>,
    answers: Vec<(&'static str, Vec<Frame>)>,
    fill: Vec<(&'static str, Vec<&'static str>)>,
}

/// Makes the generator from its settings.
///
/// # Errors
/// In words: a setting that is not known or cannot be, a manual without commands.
pub fn make(table: toml::Table, manual: &Manual) -> Result<Box<dyn Generator>, String> {
    Ok(Box::new(Help::new(options::read(table)?, manual)?))
}

/// The paragraphs of a manual, as records have them: a command, a flag, or prose under a heading of a document.
pub fn paragraphs(manual: &Manual) -> Vec<String> {
    Reader::read(manual).0.into_iter().map(|paragraph| paragraph.text).collect()
}

/// Paragraphs as the message before a question, the first line `Help:`.
pub fn context<'a>(paragraphs: impl IntoIterator<Item = &'a str>) -> String {
    paragraphs.into_iter().fold(String::from("Help:"), |context, paragraph| context + "\n- " + paragraph)
}

impl Help {
    /// Checks the settings and takes the manual apart.
    ///
    /// # Errors
    /// In words: a setting that cannot be, a manual without commands.
    pub fn new(settings: Settings, manual: &Manual) -> Result<Help, String> {
        let s = &settings;
        for (name, share) in
            [("off_topic", s.off_topic), ("missing", s.missing), ("invented", s.invented), ("misspelled", s.misspelled)]
        {
            chance(name, share)?;
        }
        let unanswered = s.off_topic + s.missing + s.invented;
        if unanswered >= 1.0 {
            return Err(format!("off_topic, missing and invented are {unanswered} together: below 1 leaves answers"));
        }
        if !(1..=8).contains(&s.paragraphs) {
            return Err(format!("paragraphs {}: from 1 to 8", s.paragraphs));
        }
        let (paragraphs, items) = Reader::read(manual);
        let kinds: Vec<(&str, &'static str, f64)> = KINDS
            .into_iter()
            .filter(|(kind, _)| items.iter().any(|item| item.questions == *kind))
            .map(|(kind, weight)| (kind, kind, weight))
            .collect();
        // Questions whose paragraph is missing need others.
        if manual.commands.len() < 2 || kinds.is_empty() {
            return Err("help: the manual of this program has fewer than two commands".to_owned());
        }
        let sections = sections(include_str!("help.txt"));
        let with = |mark| sections.iter().filter(move |section| section.lines.iter().any(|line| line.mark == mark));
        let list = |text: &'static str| text.split(", ");
        let fill = sections.iter().filter_map(|section| {
            let name = section.name.strip_prefix("fill ")?;
            Some((name, section.texts('-').flat_map(list).collect()))
        });
        Ok(Help {
            sources: Shares::new(&[
                ("manual", Source::Manual, 1.0 - unanswered),
                ("missing", Source::Missing, s.missing),
                ("invented", Source::Invented, s.invented),
                ("off_topic", Source::OffTopic, s.off_topic),
            ])?,
            kinds: Shares::new(&kinds)?,
            commands: manual.commands.iter().map(|command| command.name.clone()).collect(),
            names: names(manual),
            invented: Split::new(section(&sections, "invented").texts('-'), |flag| (*flag).to_owned()),
            questions: with('?').map(|section| (section.name, section.split('?'))).collect(),
            answers: with('=').map(|section| (section.name, section.frames('='))).collect(),
            fill: fill.collect(),
            paragraphs,
            items,
            settings,
        })
    }

    fn question(&self, section: &str, random: &mut Pcg64, held_out: bool) -> &Frame {
        let (_, frames) = self.questions.iter().find(|(name, _)| *name == section).expect("questions of every kind");
        frames.choose(random, held_out)
    }

    fn item(&self, random: &mut Pcg64) -> &Item {
        let kind = self.kinds.choose(random);
        let count = self.items.iter().filter(|item| item.questions == kind).count();
        let number = random.random_range(0..count);
        self.items.iter().filter(|item| item.questions == kind).nth(number).expect("an item of every kind")
    }

    /// Other paragraphs beside the right one, the rest of its command among them, or, without a right one, any but those of one part.
    fn retrieved(&self, right: Option<usize>, without: Option<usize>, random: &mut Pcg64) -> Vec<usize> {
        let mut chosen: Vec<usize> = right.into_iter().collect();
        let count = random.random_range(1..=self.settings.paragraphs);
        for _ in 0..20 {
            if chosen.len() >= count {
                break;
            }
            let near = right.is_some() && random.random_bool(0.5);
            let candidate = random.random_range(0..self.paragraphs.len());
            let part = self.paragraphs[candidate].part;
            let fits = !near || right.is_some_and(|right| self.paragraphs[right].part == part);
            if fits && Some(part) != without && !chosen.contains(&candidate) {
                let at = random.random_range(0..=chosen.len());
                chosen.insert(at, candidate);
            }
        }
        chosen
    }

    fn off_topic(&self, frame: &Frame, random: &mut Pcg64) -> String {
        let slots: Vec<(&str, &str)> = self.fill.iter().map(|(name, words)| (*name, *choose(random, words))).collect();
        frame.fill(&slots[..])
    }

    /// Exchanges two letters of a word, which is no part of a command.
    fn misspell(&self, question: &str, random: &mut Pcg64) -> String {
        let mut words: Vec<String> = question.split(' ').map(str::to_owned).collect();
        let plain = |word: &String| {
            word.len() >= 5 && word.bytes().all(|b| b.is_ascii_lowercase()) && !self.names.contains(word)
        };
        let candidates: Vec<usize> = (0..words.len()).filter(|&i| plain(&words[i])).collect();
        if !candidates.is_empty() {
            let word = &mut words[*choose(random, &candidates)];
            let at = random.random_range(1..word.len() - 2);
            let (a, b) = (word[at..at + 1].to_owned(), word[at + 1..at + 2].to_owned());
            word.replace_range(at..at + 2, &format!("{b}{a}"));
        }
        words.join(" ")
    }
}

/// Every word of the names of commands and flags.
fn names(manual: &Manual) -> Vec<String> {
    let mut names = Vec::new();
    for command in &manual.commands {
        names.extend(command.name.split(' ').map(str::to_owned));
        names.extend(command.flags.iter().map(|flag| flag.name.clone()));
    }
    names
}

impl Generator for Help {
    fn generate(&self, random: &mut Pcg64, held_out: bool) -> Generated {
        let source = self.sources.choose(random);
        let mut labels = Map::new();
        let (frame, mut asked, reply, retrieved, right, kind);
        match source {
            Source::Manual | Source::Missing => {
                let item = self.item(random);
                let slots: Vec<(&str, &str)> = item.slots.iter().map(|(slot, value)| (*slot, value.as_str())).collect();
                frame = self.question(item.questions, random, held_out);
                asked = frame.fill(&slots[..]);
                right = (source == Source::Manual).then_some(item.paragraph);
                let without = self.paragraphs[item.paragraph].part;
                retrieved = self.retrieved(right, right.is_none().then_some(without), random);
                reply = right.map(|_| {
                    let (_, frames) = self.answers.iter().find(|(name, _)| *name == item.answers).expect("answers");
                    choose(random, frames).fill(&slots[..])
                });
                kind = item.questions;
                labels.insert("asks".into(), self.paragraphs[item.paragraph].text.clone().into());
            }
            Source::Invented => {
                frame = self.question("unknown flag", random, held_out);
                let (command, flag) = (choose(random, &self.commands), self.invented.choose(random, held_out));
                asked = frame.fill(&[("command", command.as_str()), ("bare", flag)][..]);
                (reply, right, kind) = (None, None, "invented");
                retrieved = self.retrieved(None, None, random);
            }
            Source::OffTopic => {
                frame = self.question("off-topic", random, held_out);
                asked = self.off_topic(frame, random);
                (reply, right, kind) = (None, None, "off-topic");
                retrieved = self.retrieved(None, None, random);
            }
        }
        if random.random_bool(self.settings.misspelled) {
            asked = self.misspell(&asked, random);
        }
        let context = context(retrieved.iter().map(|&paragraph| &*self.paragraphs[paragraph].text));
        let answerable = reply.is_some();
        let reply = reply.unwrap_or_else(|| self.settings.unknown.clone());
        labels.insert("answer".into(), reply.clone().into());
        labels.insert("kind".into(), kind.into());
        labels.insert("frame".into(), frame.line.to_string().into());
        labels.insert("answerable".into(), answerable.into());
        let place = right.and_then(|right| retrieved.iter().position(|&paragraph| paragraph == right));
        labels.insert("paragraph".into(), place.map_or(Value::Null, Value::from));
        let conversation = Conversation::default().then(Role::System, context);
        conversation.then(Role::User, asked).then(Role::Assistant, reply).generated(labels)
    }
}

/// Takes a manual apart.
#[derive(Default)]
struct Reader {
    paragraphs: Vec<Paragraph>,
    items: Vec<Item>,
}

impl Reader {
    fn read(manual: &Manual) -> (Vec<Paragraph>, Vec<Item>) {
        let mut reader = Reader::default();
        for (part, command) in manual.commands.iter().enumerate() {
            reader.command(part, command);
            for flag in &command.flags {
                reader.flag(part, command, flag);
            }
        }
        for (part, document) in (manual.commands.len()..).zip(&manual.documents) {
            reader.document(part, document);
        }
        (reader.paragraphs, reader.items)
    }

    /// A paragraph, unless it has letters that small models do not learn.
    fn paragraph(&mut self, part: usize, text: String) -> Option<usize> {
        text.is_ascii().then(|| {
            self.paragraphs.push(Paragraph { text, part });
            self.paragraphs.len() - 1
        })
    }

    fn item(
        &mut self,
        questions: &'static str,
        answers: &'static str,
        paragraph: usize,
        slots: &[(&'static str, &str)],
    ) {
        let slots = slots.iter().map(|(slot, value)| (*slot, (*value).to_owned())).collect();
        self.items.push(Item { questions, answers, slots, paragraph });
    }

    fn command(&mut self, part: usize, command: &CommandHelp) {
        let name = command.name.as_str();
        let example = command.examples.iter().find(|example| !example.contains('\n') && example.is_ascii());
        let mut text = format!("{name}: {}", sentence(&command.about));
        if let Some(example) = example {
            text.push_str(" Example: ");
            text.push_str(example);
        }
        let Some(paragraph) = self.paragraph(part, text) else { return };
        let short = phrase(&command.about);
        if let Some(short) = &short {
            self.item("command", "command", paragraph, &[("command", name), ("do", short)]);
            self.item("meaning", "meaning", paragraph, &[("command", name), ("do", short)]);
        }
        if let Some(example) = example {
            self.item("example", "example", paragraph, &[("command", name), ("example", example)]);
        }
    }

    fn flag(&mut self, part: usize, command: &CommandHelp, flag: &Flag) {
        let name = command.name.as_str();
        let whole = match &flag.value {
            Some(value) => format!("{} {value}", flag.name),
            None => flag.name.clone(),
        };
        let help = sentence(&flag.help);
        let Some(paragraph) = self.paragraph(part, format!("{name} {whole}: {help}")) else { return };
        let slots = [("command", name), ("bare", &flag.name), ("flag", &whole), ("help", &help)];
        self.item("flag", "flag", paragraph, &slots);
        let Some(short) = phrase(&flag.help) else { return };
        let first = flag.help.split(' ').next().unwrap_or_default();
        if VERBS.split_whitespace().any(|verb| verb == first) {
            let slots = [("command", name), ("flag", &*whole), ("effect", &*short)];
            self.item("effect", "flag answer", paragraph, &slots);
        } else if flag.value.is_some() && !["Do", "No", "Not", "If", "When", "For"].contains(&first) {
            let setting =
                ["a ", "an ", "the "].iter().find_map(|article| short.strip_prefix(article)).unwrap_or(&short);
            let slots = [("command", name), ("flag", &*whole), ("setting", setting)];
            self.item("setting", "flag answer", paragraph, &slots);
        }
    }

    /// Prose under headings. Code, tables and lists are left out.
    fn document(&mut self, part: usize, document: &ManualDocument) {
        let (mut heading, mut asked, mut code) = (String::new(), false, false);
        for block in document.markdown.split("\n\n") {
            let fences = block.lines().filter(|line| line.starts_with("```")).count();
            let in_code = code || fences > 0;
            code ^= fences % 2 == 1;
            if in_code {
                continue;
            }
            let mut lines = block.trim().lines();
            let mut rest: Vec<&str> = Vec::new();
            for line in &mut lines {
                if line.starts_with('#') {
                    heading = line.trim_start_matches('#').trim().to_owned();
                    asked = false;
                } else {
                    rest.push(line.trim());
                }
            }
            let text = without_links(&rest.join(" "));
            if !text.starts_with(|c: char| c.is_ascii_alphabetic()) || text.len() < 40 || heading.is_empty() {
                continue;
            }
            let text = format!("{}, \"{heading}\": {}", document.name, first_sentences(&text, 300));
            let Some(paragraph) = self.paragraph(part, text) else { continue };
            if let (false, Some(topic)) = (asked, topic(&heading)) {
                let slots = [("topic", &*topic), ("document", &*document.name), ("heading", &*heading)];
                self.item("topic", "topic", paragraph, &slots);
                asked = true;
            }
        }
    }
}

/// With a full stop at the end, on one line.
fn sentence(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.ends_with(['.', '!', '?']) || text.is_empty() { text } else { text + "." }
}

/// The first words of a help text, as far as they go into a question: without what stands in brackets or after a comma.
fn phrase(text: &str) -> Option<String> {
    let end = text.find(['(', '[', ';', ':', ',', '\n', '`', '"']).unwrap_or(text.len());
    let text = text[..end].split(". ").next()?.trim().trim_end_matches('.');
    let words = text.split(' ').count();
    (text.is_ascii() && !text.is_empty() && words <= 14).then(|| lower_first(text))
}

/// A heading, as far as one reads about it.
fn topic(heading: &str) -> Option<String> {
    let plain = heading.chars().all(|c| c.is_ascii_alphabetic() || c == ' ' || c == '-');
    let question = ["How", "What", "Why", "When", "Where", "Who"].iter().any(|word| heading.starts_with(word));
    (plain && !question && heading.split(' ').count() <= 6).then(|| lower_first(heading))
}

/// Small at the front, unless it is an abbreviation.
fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if !second.is_ascii_uppercase() => {
            first.to_ascii_lowercase().to_string() + &text[first.len_utf8()..]
        }
        _ => text.to_owned(),
    }
}

/// `[text](address)` as `text`.
fn without_links(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once("](").and_then(|(label, after)| Some((label, after.split_once(')')?.1))) {
            Some((label, after)) => {
                out.push_str(label);
                rest = after;
            }
            None => {
                out.push('[');
                rest = after;
            }
        }
    }
    out + rest
}

/// Whole sentences, as many as fit, at least one.
fn first_sentences(text: &str, bytes: usize) -> &str {
    let ends = text.match_indices(". ").map(|(at, _)| at + 1).chain([text.len()]);
    let mut end = 0;
    for next in ends {
        if end > 0 && next > bytes {
            break;
        }
        end = next;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use regex::Regex;

    use super::*;
    use crate::generators::tests::{documents, manual};

    #[test]
    fn answers_name_what_the_manual_and_the_paragraphs_have() {
        let manual = manual();
        let help = Help::new(Settings::default(), &manual).unwrap();
        let flags: HashSet<&str> =
            manual.commands.iter().flat_map(|command| &command.flags).map(|flag| flag.name.as_str()).collect();
        let commands: HashSet<&str> = manual.commands.iter().map(|command| command.name.as_str()).collect();
        let flag = Regex::new(r"--[a-z][a-z-]*").unwrap();
        let command = Regex::new(r"farthing [a-z]+").unwrap();
        let code = Regex::new(r"`([^`]*)`").unwrap();
        let (mut flags_seen, mut answered) = (0, 0);
        for document in [documents(&help, false, 20_000), documents(&help, true, 5_000)].concat() {
            let messages = &document.labels["messages"];
            let context = messages[0]["content"].as_str().unwrap();
            let reply = messages[2]["content"].as_str().unwrap();
            for found in flag.find_iter(reply) {
                assert!(flags.contains(found.as_str()), "{}", document.text);
                assert!(context.contains(found.as_str()), "{}", document.text);
                flags_seen += 1;
            }
            for found in code.captures_iter(reply) {
                for found in command.find_iter(&found[1]) {
                    assert!(commands.contains(found.as_str()), "{}", document.text);
                    assert!(context.contains(found.as_str()), "{}", document.text);
                }
            }
            assert_eq!(reply == "I do not know.", document.labels["answerable"] == false, "{}", document.text);
            if document.labels["answerable"] == true {
                let place = document.labels["paragraph"].as_u64().unwrap() as usize;
                let paragraph = context.lines().nth(place + 1).unwrap().strip_prefix("- ").unwrap();
                assert_eq!(document.labels["asks"], paragraph, "{}", document.text);
                answered += 1;
            } else if let Some(asks) = document.labels.get("asks") {
                assert!(!context.contains(asks.as_str().unwrap()), "{}", document.text);
            }
            assert!((1..=3).contains(&(context.lines().count() - 1)), "{context}");
        }
        assert!(flags_seen > 5_000 && (15_000..18_500).contains(&answered), "{flags_seen} {answered}");
    }

    #[test]
    fn manuals_are_taken_apart() {
        let (paragraphs, items) = Reader::read(&manual());
        let texts: Vec<&str> = paragraphs.iter().map(|paragraph| &*paragraph.text).collect();
        assert!(texts.contains(&"farthing serve --port PORT: Port (0 = any free one)."));
        assert!(
            texts.contains(
                &"farthing pull: Download a model from the Hugging Face hub. Example: farthing pull qwen3-4b"
            )
        );
        assert!(texts.iter().any(|text| text.starts_with("SERVING.md, \"Running a server\": This page is about")));
        assert!(!texts.iter().any(|text| text.contains("```") || text.contains("| a") || text.contains("](")));
        let has = |questions: &str, slot: &str, value: &str| {
            items
                .iter()
                .any(|item| item.questions == questions && item.slots.iter().any(|(s, v)| *s == slot && v == value))
        };
        assert!(has("command", "do", "serve models over HTTP"));
        assert!(has("setting", "setting", "port"));
        assert!(has("setting", "setting", "accepted API key"));
        assert!(has("effect", "effect", "print no memory plan"));
        assert!(has("topic", "topic", "the prompt cache"));
        assert!(!has("topic", "heading", "How fast") && !has("setting", "setting", "JSON object"));
    }

    #[test]
    fn text_is_cut_between_sentences() {
        assert_eq!(first_sentences("One. Two. Three.", 9), "One. Two.");
        assert_eq!(first_sentences("One two three.", 3), "One two three.");
        assert_eq!(without_links("see [API.md](API.md) and [this]."), "see API.md and [this].");
        assert_eq!(lower_first("API key"), "API key");
        assert_eq!(phrase("Port (0 = any free one)").as_deref(), Some("port"));
    }

    #[test]
    fn a_manual_without_commands_is_refused() {
        assert!(Help::new(Settings::default(), &Manual::default()).err().unwrap().contains("manual"));
        let settings = Settings { off_topic: 0.9, ..Settings::default() };
        assert!(Help::new(settings, &manual()).err().unwrap().contains("1.03"));
    }
}
