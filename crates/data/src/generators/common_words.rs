//! Common words, for records and facts that are made up: so many that a model has to copy what it reads, for it cannot know it

use std::collections::BTreeSet;

use rand::RngExt;
use rand_pcg::Pcg64;

use super::frames::{section, sections};
use super::split::{Split, choose, is_held_out};

/// Consonants and vowels of words that are none.
const SOUNDS: [&[u8]; 2] = [b"bdfgklmnprstvz", b"aeiou"];

/// Words by what they are good for, each in a training and a held-out set.
pub struct CommonWords {
    things: Split<&'static str>,
    qualities: Split<&'static str>,
    makers: Split<&'static str>,
    any: Split<&'static str>,
}

/// Texts of other generators, for their words.
const TEXTS: [&str; 5] = [
    include_str!("nouns.txt"),
    include_str!("formats.txt"),
    include_str!("json_records.txt"),
    include_str!("questions/facts.txt"),
    include_str!("word_problems.txt"),
];

/// Words of small letters alone, in the order of the alphabet.
fn words_of(texts: &[&'static str]) -> BTreeSet<&'static str> {
    let words = texts.iter().flat_map(|text| text.split(|c: char| c.is_whitespace() || ",.;:?!|/()".contains(c)));
    words.filter(|word| (3..=12).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase())).collect()
}

impl CommonWords {
    /// All words.
    pub fn read() -> CommonWords {
        let sections = sections(include_str!("nouns.txt"));
        let words = |name| {
            let words = section(&sections, name).texts('-').flat_map(|line| line.split(", "));
            Split::new(words, |word| (*word).to_owned())
        };
        let any = Split::new(words_of(&TEXTS), |word| (*word).to_owned());
        CommonWords { things: words("things"), qualities: words("qualities"), makers: words("makers"), any }
    }

    /// A thing in one word: `lantern`.
    pub fn thing(&self, random: &mut Pcg64, held_out: bool) -> &'static str {
        self.things.choose(random, held_out)
    }

    /// A quality: `brave`.
    pub fn quality(&self, random: &mut Pcg64, held_out: bool) -> &'static str {
        self.qualities.choose(random, held_out)
    }

    /// Somebody by what they do or are: `captain`.
    pub fn maker(&self, random: &mut Pcg64, held_out: bool) -> &'static str {
        self.makers.choose(random, held_out)
    }

    /// Any word of the generators' texts, whatever its part of speech. A model copies such words only as it has learnt to copy their pieces, so
    /// there are to be many.
    pub fn any(&self, random: &mut Pcg64, held_out: bool) -> &'static str {
        self.any.choose(random, held_out)
    }

    /// What something may be called by: one word or two, seldom one that nobody knows.
    pub fn name_of_field(&self, random: &mut Pcg64, held_out: bool) -> String {
        match random.random_range(0..10) {
            0..4 => self.thing(random, held_out).to_owned(),
            4..6 => self.any(random, held_out).to_owned(),
            6..8 => format!("{} {}", self.quality(random, held_out), self.thing(random, held_out)),
            8 => format!("{} {}", self.thing(random, held_out), self.thing(random, held_out)),
            _ => unknown(random, held_out),
        }
    }

    /// A value in one to three words.
    pub fn value(&self, random: &mut Pcg64, held_out: bool) -> String {
        match random.random_range(0..10) {
            0..3 => self.thing(random, held_out).to_owned(),
            3 => self.any(random, held_out).to_owned(),
            4..6 => format!("{} {}", self.quality(random, held_out), self.thing(random, held_out)),
            6 => format!("{} {}", self.quality(random, held_out), self.maker(random, held_out)),
            7 => self.quality(random, held_out).to_owned(),
            8 => unknown(random, held_out),
            _ => code(random, held_out),
        }
    }
}

/// A word that is none, of two or three syllables.
fn unknown(random: &mut Pcg64, held_out: bool) -> String {
    loop {
        let sound = |i: usize, random: &mut Pcg64| char::from(*choose(random, SOUNDS[i % 2]));
        let length = random.random_range(4..8);
        let word: String = (0..length).map(|i| sound(i, random)).collect();
        if is_held_out(&word) == held_out {
            return word;
        }
    }
}

/// A code of capitals and digits: `K7`, `RT-204`.
pub(super) fn code(random: &mut Pcg64, held_out: bool) -> String {
    loop {
        let mut code = String::new();
        for _ in 0..random.random_range(1..=2) {
            code.push(random.random_range(b'A'..=b'Z').into());
        }
        if random.random_bool(0.3) {
            code.push('-');
        }
        code.push_str(&random.random_range(1..1000).to_string());
        if is_held_out(&code) == held_out {
            return code;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_word_is_there_once_and_is_a_word() {
        let words = CommonWords::read();
        let lists = [&words.things, &words.qualities, &words.makers];
        assert!(words.any.of(false).len() > 4_000 && words.any.of(true).len() > 300);
        for (list, least) in lists.iter().zip([1_200, 400, 180]) {
            assert!(list.of(false).len() + list.of(true).len() >= least, "{}", list.of(false).len());
        }
        let all: Vec<&str> = lists.iter().flat_map(|list| [list.of(false), list.of(true)].concat()).collect();
        let mut seen = HashSet::new();
        for word in all {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()) && word.len() > 1, "{word}");
            assert!(seen.insert(word), "{word} is there twice");
        }
    }

    #[test]
    fn training_never_sees_what_is_held_out() {
        let words = CommonWords::read();
        let mut random = Pcg64::seed_from_u64(1);
        let mut made = |held_out: bool| -> HashSet<String> {
            let drawn = (0..20_000)
                .flat_map(|_| [words.name_of_field(&mut random, held_out), words.value(&mut random, held_out)]);
            drawn.collect()
        };
        let (training, held_out) = (made(false), made(true));
        assert!(training.len() > 10_000 && held_out.len() > 3_000, "{} {}", training.len(), held_out.len());
        assert!(training.is_disjoint(&held_out));
    }
}
