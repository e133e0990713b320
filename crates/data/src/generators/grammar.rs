//! Texts from rules: lists of alternatives with choices, slots and other rules inside, so that few lines make many sentences
//!
//! A grammar is plain text. `= name` begins a list of phrases, `+ name` a list of frames, which is split into a training and a held-out set by
//! [`split`](super::split); each line after it is one alternative, or several with `|` between them. In a line `[a|b]` is a choice, `<name>` a phrase of another list, `{name}` a slot
//! that the caller fills. Lines that begin with `#` are comments.

use std::collections::HashMap;

use rand::RngExt;
use rand_pcg::Pcg64;
use xxhash_rust::xxh3::xxh3_64;

use super::split::is_held_out;

/// Nested choices and rules: more is a rule that contains itself.
const DEPTH_MAX: usize = 24;

/// A list of alternatives, by its place in the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(u16);

#[derive(Debug)]
enum Node<S> {
    Text(Box<str>),
    Slot(S),
    Rule(RuleId),
    Choice(Vec<Vec<Node<S>>>),
}

#[derive(Debug)]
struct Rule<S> {
    name: String,
    lines: Vec<Vec<Node<S>>>,
    sources: Vec<String>,
    /// Places in `lines` of the training and of the held-out set; phrases are in both.
    sets: [Vec<u16>; 2],
}

/// Rules whose slots are of type `S`.
#[derive(Debug)]
pub struct Grammar<S> {
    rules: Vec<Rule<S>>,
    by_name: HashMap<String, RuleId>,
}

/// Fills slots.
pub trait Fill<S> {
    /// Writes what stands for the slot.
    fn fill(&mut self, slot: S, random: &mut Pcg64, out: &mut String);
}

/// What a document has used already: an alternative comes again only when chance finds no other.
#[derive(Debug)]
pub struct Used {
    lines: Vec<u128>,
}

impl<S: Copy> Grammar<S> {
    /// Reads rules; `slot` knows the names of slots.
    ///
    /// # Errors
    /// In words, with the line: what is not a rule, a name that is not known, a bracket that is not closed.
    pub fn parse(texts: &[&str], slot: impl Fn(&str) -> Option<S>) -> Result<Grammar<S>, String> {
        Grammar::parse_varied(texts, &[], &Synonyms::default(), slot)
    }

    /// Reads rules; in those of `varied`, words are exchanged for their synonyms.
    ///
    /// # Errors
    /// As [`Grammar::parse`].
    pub fn parse_varied(
        fixed: &[&str],
        varied: &[&str],
        synonyms: &Synonyms,
        slot: impl Fn(&str) -> Option<S>,
    ) -> Result<Grammar<S>, String> {
        let texts: Vec<&str> = fixed.iter().chain(varied).copied().collect();
        let none = Synonyms::default();
        let mut by_name = HashMap::new();
        let headed = |line: &str| {
            let name = line.strip_prefix("= ").map(|name| (name, false));
            name.or_else(|| line.strip_prefix("+ ").map(|name| (name, true))).map(|(n, f)| (n.trim().to_owned(), f))
        };
        for (name, _) in texts.iter().flat_map(|text| text.lines()).filter_map(headed) {
            let next = RuleId(u16::try_from(by_name.len()).map_err(|_| "more than 65536 rules")?);
            if by_name.insert(name.clone(), next).is_some() {
                return Err(format!("{name}: this rule is there twice"));
            }
        }
        let mut rules: Vec<Rule<S>> = Vec::new();
        let mut frames = Vec::new();
        let lines = texts.iter().enumerate().flat_map(|(i, text)| text.lines().map(move |line| (i, line.trim())));
        for (text, line) in lines {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((name, is_frames)) = headed(line) {
                rules.push(Rule { name, lines: Vec::new(), sources: Vec::new(), sets: Default::default() });
                frames.push(is_frames);
                continue;
            }
            let rule = rules.last_mut().ok_or_else(|| format!("{line:?}: this line is in no rule"))?;
            let synonyms = if text < fixed.len() { &none } else { synonyms };
            let mut parser = Parser { rest: line, by_name: &by_name, slot: &slot, synonyms };
            loop {
                let before = parser.rest;
                let nodes = parser.sequence(0).map_err(|problem| format!("{}: {line:?}: {problem}", rule.name))?;
                rule.lines.push(nodes);
                rule.sources.push(before[..before.len() - parser.rest.len()].to_owned());
                match parser.rest.as_bytes().first() {
                    None => break,
                    Some(b'|') => parser.rest = &parser.rest[1..],
                    Some(_) => return Err(format!("{}: {line:?}: a `]` too many", rule.name)),
                }
            }
        }
        for (rule, is_frames) in rules.iter_mut().zip(frames) {
            let least = if is_frames { 2 } else { 1 };
            if rule.lines.len() < least {
                return Err(format!("{}: {} lines, and {least} are needed", rule.name, rule.lines.len()));
            }
            rule.sets = sets(&rule.sources, is_frames);
        }
        Ok(Grammar { rules, by_name })
    }

    /// A rule by its name.
    pub fn rule(&self, name: &str) -> Option<RuleId> {
        self.by_name.get(name).copied()
    }

    /// The name of a rule.
    pub fn name(&self, rule: RuleId) -> &str {
        &self.rules[rule.0 as usize].name
    }

    /// The rules whose name begins with `prefix`, in the order of the text.
    pub fn rules_of(&self, prefix: &str) -> impl Iterator<Item = RuleId> {
        (0..self.rules.len()).filter(move |&i| self.rules[i].name.starts_with(prefix)).map(|i| RuleId(i as u16))
    }

    /// Places of a list's alternatives in one of the sets.
    pub fn places(&self, rule: RuleId, held_out: bool) -> &[u16] {
        &self.rules[rule.0 as usize].sets[held_out as usize]
    }

    /// Whether a list is split, so that no line is in both sets.
    pub fn is_split(&self, rule: RuleId) -> bool {
        let [training, held_out] = &self.rules[rule.0 as usize].sets;
        training != held_out
    }

    /// How many alternatives there are in all rules.
    pub fn lines(&self) -> usize {
        self.rules.iter().map(|rule| rule.lines.len()).sum()
    }

    /// Nothing used yet.
    pub fn unused(&self) -> Used {
        Used { lines: vec![0; self.rules.len()] }
    }

    /// Writes one alternative of a rule, the one at `line` if given, and returns its place in the list. Frames come from the set that is asked for.
    #[allow(clippy::too_many_arguments)] // lent by the caller for one expansion; `Expansion` is the struct of them
    pub fn expand(
        &self,
        rule: RuleId,
        line: Option<u16>,
        held_out: bool,
        random: &mut Pcg64,
        used: &mut Used,
        fill: &mut dyn Fill<S>,
        out: &mut String,
    ) -> usize {
        let mut expansion = Expansion { grammar: self, held_out, random, used, fill, out, said: Vec::new() };
        match line {
            Some(line) => {
                expansion.sequence(&self.rules[rule.0 as usize].lines[line as usize], 0);
                line as usize
            }
            None => expansion.rule(rule, 0),
        }
    }
}

/// The training and the held-out set: a tenth by hash, at least one, and exactly one of a short list.
fn sets(sources: &[String], split: bool) -> [Vec<u16>; 2] {
    let all: Vec<u16> = (0..sources.len() as u16).collect();
    if !split {
        return [all.clone(), all];
    }
    let source = |place: &u16| sources[*place as usize].as_str();
    let (held_out, training): (Vec<u16>, Vec<u16>) = all.iter().partition(|place| is_held_out(source(place)));
    if all.len() >= 10 && !held_out.is_empty() && held_out.len() < all.len() / 3 {
        return [training, held_out];
    }
    let least = *all.iter().min_by_key(|place| xxh3_64(source(place).as_bytes())).expect("a list has two lines");
    [all.into_iter().filter(|&place| place != least).collect(), vec![least]]
}

/// Words that can stand for each other, by which frames vary.
///
/// A line is `word|other|other`, for a word or several, or `noun name: adjective adjective`, for what can stand between an article and the noun.
#[derive(Debug, Default)]
pub struct Synonyms {
    /// The word, and all that can stand there.
    words: Vec<(String, Vec<String>)>,
    nouns: Vec<(String, Vec<String>)>,
}

impl Synonyms {
    /// Reads them.
    ///
    /// # Panics
    /// At a line that is neither form.
    pub fn parse(text: &str) -> Synonyms {
        let mut synonyms = Synonyms::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((noun, adjectives)) = line.strip_prefix("noun ").and_then(|rest| rest.split_once(": ")) {
                let adjectives: Vec<&str> = adjectives.split(' ').collect();
                let mut forms = vec![noun.to_owned(); adjectives.len()];
                forms.extend(adjectives.iter().map(|adjective| format!("{adjective} {noun}")));
                synonyms.nouns.push((noun.to_owned(), forms));
            } else {
                let words: Vec<String> = line.split('|').map(str::to_owned).collect();
                assert!(words.len() > 1, "{line:?}: a word and what it may become");
                synonyms.words.push((words[0].clone(), words));
            }
        }
        // The longest that fits is taken.
        synonyms.words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
        synonyms.nouns.sort_by_key(|(noun, _)| std::cmp::Reverse(noun.len()));
        synonyms
    }

    /// What can stand at the beginning of `rest`, which follows `before`, and how long the word there is.
    fn at(&self, before: &str, rest: &str, after_possessive: bool) -> Option<(usize, &[String])> {
        let whole = |(word, _): &&(String, Vec<String>)| {
            let next = rest.as_bytes().get(word.len());
            rest.starts_with(word.as_str())
                && next.is_none_or(|&b| !b.is_ascii_alphanumeric() && b != b'-' && b != b'~' && b != b'\'')
        };
        let article = ["a ", "an ", "the ", "one ", "another ", "every ", "his ", "her "].iter().any(|article| {
            before.strip_suffix(article).is_some_and(|b| !b.ends_with(|c: char| c.is_ascii_alphanumeric()))
        });
        let article = article || after_possessive && before == " " || before.ends_with("'s ");
        let noun = if article { self.nouns.iter().find(whole) } else { None };
        noun.or_else(|| self.words.iter().find(whole)).map(|(word, forms)| (word.len(), forms.as_slice()))
    }

    /// Text with a choice at every word that has synonyms.
    fn vary<S>(&self, text: &str, after_possessive: bool, nodes: &mut Vec<Node<S>>) {
        let mut from = 0;
        let mut at = 0;
        while at < text.len() {
            let letter = |at: usize| text.as_bytes()[at].is_ascii_alphanumeric() || text.as_bytes()[at] == b'-';
            let begins = text.is_char_boundary(at) && (at == 0 || !letter(at - 1) || !letter(at));
            match begins.then(|| self.at(&text[..at], &text[at..], after_possessive)).flatten() {
                Some((length, forms)) => {
                    if from < at {
                        nodes.push(Node::Text(text[from..at].into()));
                    }
                    nodes.push(Node::Choice(forms.iter().map(|form| vec![Node::Text(form.as_str().into())]).collect()));
                    at += length;
                    from = at;
                }
                None => at += 1,
            }
        }
        if from < text.len() {
            nodes.push(Node::Text(text[from..].into()));
        }
    }
}

struct Expansion<'a, S> {
    grammar: &'a Grammar<S>,
    held_out: bool,
    random: &'a mut Pcg64,
    used: &'a mut Used,
    fill: &'a mut dyn Fill<S>,
    out: &'a mut String,
    /// What the rules have become in this alternative: after `the`, a rule means what it meant before.
    said: Vec<(RuleId, String)>,
}

impl<S: Copy> Expansion<'_, S> {
    fn rule(&mut self, rule: RuleId, depth: usize) -> usize {
        assert!(depth < DEPTH_MAX, "{}: a rule that contains itself", self.grammar.name(rule));
        let Rule { lines, sets, .. } = &self.grammar.rules[rule.0 as usize];
        let places = &sets[self.held_out as usize];
        let mut line = 0;
        for _ in 0..4 {
            line = places[self.random.random_range(0..places.len())] as usize;
            let bit = 1u128 << (line % 128);
            let used = &mut self.used.lines[rule.0 as usize];
            if *used & bit == 0 {
                *used |= bit;
                break;
            }
        }
        self.sequence(&lines[line], depth);
        line
    }

    /// A rule inside an alternative: `a <job> came. "Well!" said the <job>` is about one person.
    fn word(&mut self, rule: RuleId, depth: usize) {
        if ["the ", "The "].iter().any(|article| self.out.ends_with(article))
            && let Some((_, said)) = self.said.iter().rev().find(|(known, _)| *known == rule)
        {
            self.out.push_str(said);
            return;
        }
        let start = self.out.len();
        self.rule(rule, depth + 1);
        self.said.push((rule, self.out[start..].to_owned()));
    }

    fn sequence(&mut self, nodes: &[Node<S>], depth: usize) {
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Slot(slot) => self.fill.fill(*slot, self.random, self.out),
                Node::Rule(rule) => self.word(*rule, depth),
                Node::Choice(choices) => {
                    let choice = self.random.random_range(0..choices.len());
                    self.sequence(&choices[choice], depth);
                }
            }
        }
    }
}

struct Parser<'a, F> {
    rest: &'a str,
    by_name: &'a HashMap<String, RuleId>,
    slot: &'a F,
    synonyms: &'a Synonyms,
}

impl<'a, F> Parser<'a, F> {
    /// Up to the end, or to a `|` or `]` that belongs to the choice around it.
    fn sequence<S>(&mut self, depth: usize) -> Result<Vec<Node<S>>, String>
    where
        F: Fn(&str) -> Option<S>,
    {
        if depth >= DEPTH_MAX {
            return Err("too many brackets in each other".to_owned());
        }
        let mut nodes = Vec::new();
        let mut after_possessive = false;
        while let Some(at) = self.rest.find(['[', ']', '|', '<', '{']).or(Some(self.rest.len())) {
            if at > 0 {
                self.synonyms.vary(&self.rest[..at], after_possessive, &mut nodes);
            }
            after_possessive = false;
            self.rest = &self.rest[at..];
            match self.rest.as_bytes().first() {
                Some(b'[') => nodes.push(self.choice(depth)?),
                Some(b'<') => {
                    let name = self.named('>')?;
                    let rule = self.by_name.get(name).ok_or_else(|| format!("there is no rule <{name}>"))?;
                    nodes.push(Node::Rule(*rule));
                }
                Some(b'{') => {
                    let name = self.named('}')?;
                    after_possessive = name != "xhis" && name.ends_with("his");
                    nodes.push(Node::Slot((self.slot)(name).ok_or_else(|| format!("there is no slot {{{name}}}"))?));
                }
                _ => break,
            }
        }
        Ok(nodes)
    }

    fn choice<S>(&mut self, depth: usize) -> Result<Node<S>, String>
    where
        F: Fn(&str) -> Option<S>,
    {
        let mut choices = Vec::new();
        loop {
            self.rest = &self.rest[1..];
            choices.push(self.sequence(depth + 1)?);
            match self.rest.as_bytes().first() {
                Some(b'|') => {}
                Some(_) => break,
                None => return Err("a `[` is not closed".to_owned()),
            }
        }
        self.rest = &self.rest[1..];
        Ok(Node::Choice(choices))
    }

    fn named(&mut self, close: char) -> Result<&'a str, String> {
        let end = self.rest.find(close).ok_or_else(|| format!("a `{close}` is missing"))?;
        let name = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        Ok(name)
    }
}

/// Appends a sentence as it is written: capitals where sentences begin and after `^`, `an` before a vowel sound, plurals for `~s`, single spaces, none
/// before a mark, no comma after a backquote, and no word twice in a row.
pub fn append_polished(sentence: &str, out: &mut String) {
    let begin = out.len();
    let mut capital = true;
    let mut previous = b' ';
    let bytes = sentence.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if byte == b' '
            && (previous == b' ' || matches!(bytes.get(i + 1), Some(b',' | b'.' | b'!' | b'?' | b';' | b' ')))
        {
            i += 1;
            continue;
        }
        if byte == b'^' {
            capital = true;
            i += 1;
            continue;
        }
        if byte == b'~' && bytes.get(i + 1) == Some(&b's') {
            make_plural(out);
            previous = b's';
            i += 2;
            continue;
        }
        if byte == b'`' {
            i += 1 + (bytes.get(i + 1) == Some(&b',')) as usize;
            continue;
        }
        if previous == b' ' && byte.is_ascii_alphabetic() {
            let word = sentence[i..].split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
            if ends_with_word(&out[begin..], word) {
                i += word.len();
                if matches!(bytes.get(i), Some(b',' | b'.' | b'!' | b'?' | b';')) {
                    out.pop();
                    previous = b'a';
                }
                continue;
            }
        }
        let start = !previous.is_ascii_alphanumeric() && previous != b'\'' && previous != b'-';
        let article = ["a ", "an "].into_iter().find(|article| {
            start && sentence.get(i..i + article.len()).is_some_and(|word| word.eq_ignore_ascii_case(article))
        });
        if byte.is_ascii_alphanumeric() {
            out.push(if capital { byte.to_ascii_uppercase() } else { byte } as char);
            capital = false;
            if let Some(article) = article {
                if begins_with_vowel_sound(sentence[i + article.len()..].trim_start_matches([' ', '"', '^'])) {
                    out.push('n');
                }
                i += article.len() - 2;
            }
        } else {
            let after_mark = byte == b' ' && matches!(previous, b'.' | b'!' | b'?' | b'\n');
            // What was said may end in `?` before `asked the fox`; it ends in a comma there, never in a full stop.
            let after_speech = byte == b' ' && out.ends_with(".\"") && !out.ends_with("..\"");
            capital |= after_mark || after_speech;
            out.push(byte as char);
        }
        previous = byte;
        i += 1;
    }
}

/// Whether the last word, before the space at the end, is this one.
fn ends_with_word(text: &str, word: &str) -> bool {
    let Some(text) = text.strip_suffix(' ') else { return false };
    let Some(before) = text.len().checked_sub(word.len()) else { return false };
    let bytes = text.as_bytes();
    bytes[before..].eq_ignore_ascii_case(word.as_bytes()) && (before == 0 || !bytes[before - 1].is_ascii_alphanumeric())
}

/// Turns the noun at the end into its plural.
fn make_plural(out: &mut String) {
    const IRREGULAR: [(&str, &str); 15] = [
        ("mouse", "mice"),
        ("goose", "geese"),
        ("ox", "oxen"),
        ("calf", "calves"),
        ("leaf", "leaves"),
        ("loaf", "loaves"),
        ("shelf", "shelves"),
        ("knife", "knives"),
        ("sheep", "sheep"),
        ("deer", "deer"),
        ("fish", "fish"),
        ("dormouse", "dormice"),
        ("potato", "potatoes"),
        ("tomato", "tomatoes"),
        ("mango", "mangoes"),
    ];
    let word = out.rfind(' ').map_or(0, |space| space + 1);
    if let Some((_, many)) = IRREGULAR.into_iter().find(|(one, _)| out[word..].eq_ignore_ascii_case(one)) {
        out.truncate(word + 1);
        out.push_str(&many[1..]);
    } else if ["s", "x", "ch", "sh"].iter().any(|end| out.ends_with(end)) {
        out.push_str("es");
    } else if out.ends_with('y') && !["ay", "ey", "oy"].iter().any(|end| out.ends_with(end)) {
        out.pop();
        out.push_str("ies");
    } else {
        out.push('s');
    }
}

/// Whether a word is said with a vowel first: by its letters, but for words like `unicorn` and `hour`.
pub fn begins_with_vowel_sound(word: &str) -> bool {
    let word: String = word.chars().take_while(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
    let consonant = ["uni", "use", "usu", "eu", "ewe", "one", "once"].iter().any(|start| word.starts_with(start));
    let silent = ["hour", "honest", "honour", "heir"].iter().any(|start| word.starts_with(start));
    silent || (word.starts_with(['a', 'e', 'i', 'o', 'u']) && !consonant) || word.starts_with("unin")
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    struct Names;

    impl Fill<u8> for Names {
        fn fill(&mut self, slot: u8, _: &mut Pcg64, out: &mut String) {
            out.push(slot as char);
        }
    }

    fn parse(text: &str) -> Result<Grammar<u8>, String> {
        Grammar::parse(&[text], |name| (name.len() == 1).then(|| name.as_bytes()[0]))
    }

    fn all(text: &str, rule: &str, held_out: bool) -> std::collections::BTreeSet<String> {
        let grammar = parse(text).unwrap();
        let rule = grammar.rule(rule).unwrap();
        let mut random = Pcg64::seed_from_u64(1);
        let expand = |_| {
            let mut out = String::new();
            grammar.expand(rule, None, held_out, &mut random, &mut grammar.unused(), &mut Names, &mut out);
            out
        };
        (0..400).map(expand).collect()
    }

    #[test]
    fn choices_rules_and_slots() {
        let text = "# words\n= a\nx[1|2[|!]] <b>\n= b\n{Q}\nz";
        let expected = ["x1 Q", "x1 z", "x2 Q", "x2 z", "x2! Q", "x2! z"].map(str::to_owned);
        assert_eq!(all(text, "a", false), expected.into_iter().collect());
    }

    #[test]
    fn the_definite_article_refers_back() {
        let words = (0..50).map(|i| format!("word{i}")).collect::<Vec<_>>().join("|");
        for said in all(&format!("= a\na <b>. The <b> and the <b>\n= b\n{words}"), "a", false) {
            let word = said["a ".len()..].split('.').next().unwrap();
            assert_eq!(said, format!("a {word}. The {word} and the {word}"));
        }
    }

    #[test]
    fn no_frame_is_in_both_sets() {
        let text = format!("+ a\n{}", (0..50).map(|i| format!("frame {i}\n")).collect::<String>());
        let (training, held_out) = (all(&text, "a", false), all(&text, "a", true));
        assert_eq!(training.len() + held_out.len(), 50);
        assert!(training.is_disjoint(&held_out) && !held_out.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("x", "\"x\": this line is in no rule"),
            ("= a\n[x", "a: \"[x\": a `[` is not closed"),
            ("= a\nx]", "a: \"x]\": a `]` too many"),
            ("= a\n<b>", "a: \"<b>\": there is no rule <b>"),
            ("= a\n{bb}", "a: \"{bb}\": there is no slot {bb}"),
            ("+ a\nx", "a: 1 lines, and 2 are needed"),
            ("= a\nx\n= a\ny", "a: this rule is there twice"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message);
        }
    }

    #[test]
    fn sentences_are_written_as_they_should_be() {
        for (raw, written) in [
            ("a owl had  a hour . it left", "An owl had an hour. It left"),
            (
                "\"a apple!\" cried a unicorn. \"the end.\" then ^a old hen came.",
                "\"An apple!\" cried a unicorn. \"The end.\" Then An old hen came.",
            ),
            ("well , a big egg; a egg", "Well, a big egg; an egg"),
            ("\"no.\" the fox left. \"who?\" asked the owl", "\"No.\" The fox left. \"Who?\" asked the owl"),
            ("it is said that`, there had had been", "It is said that there had been"),
            ("all set off off, and an green pear", "All set off, and a green pear"),
            ("oak~s, larch~s, mouse~s and lady~s", "Oaks, larches, mice and ladies"),
        ] {
            let mut out = String::new();
            append_polished(raw, &mut out);
            assert_eq!(out, written);
        }
    }
}
