//! Gopher's repetition rules: duplicate lines and paragraphs, the most frequent n-gram, duplicate n-grams

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::limits::{Passed, at_most, check_shares, share};
use super::{Made, Settings, Surroundings};
use crate::lines::trim;
use crate::step::Reason;
use crate::{Document, Step, Verdict};

/// Thresholds of Rae et al. 2021 (arXiv:2112.11446), table A1, counted as datatrove's `GopherRepetitionFilter` does, in its order.
///
/// Lines, paragraphs and n-grams are compared by 64-bit hashes: two different ones of a document of a million words are taken for equal with a probability below 10^-6.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repetition {
    /// Share of lines that repeat an earlier one (`dup_line_frac`).
    pub duplicate_lines_max: f64,
    /// Share of paragraphs that repeat an earlier one (`dup_para_frac`).
    pub duplicate_paragraphs_max: f64,
    /// Share of characters in such lines (`dup_line_char_frac`).
    pub duplicate_line_characters_max: f64,
    /// Share of characters in such paragraphs (`dup_para_char_frac`).
    pub duplicate_paragraph_characters_max: f64,
    /// Share of characters in the most frequent n-gram of 2, 3 and 4 words (`top_n_grams`).
    pub top_grams_max: [f64; 3],
    /// Share of characters in n-grams of 5 to 10 words that repeat an earlier one (`dup_n_grams`).
    pub duplicate_grams_max: [f64; 6],
}

impl Default for Repetition {
    fn default() -> Repetition {
        Repetition {
            duplicate_lines_max: 0.30,
            duplicate_paragraphs_max: 0.30,
            duplicate_line_characters_max: 0.20,
            duplicate_paragraph_characters_max: 0.20,
            top_grams_max: [0.20, 0.18, 0.16],
            duplicate_grams_max: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        }
    }
}

impl Settings for Repetition {
    fn make(self, _: Surroundings) -> Result<Made, String> {
        check_shares(&[
            ("duplicate_lines_max", self.duplicate_lines_max),
            ("duplicate_paragraphs_max", self.duplicate_paragraphs_max),
            ("duplicate_line_characters_max", self.duplicate_line_characters_max),
            ("duplicate_paragraph_characters_max", self.duplicate_paragraph_characters_max),
        ])?;
        check_shares(&self.top_grams_max.map(|max| ("top_grams_max", max)))?;
        check_shares(&self.duplicate_grams_max.map(|max| ("duplicate_grams_max", max)))?;
        Ok(Made::Alone(Box::new(self)))
    }
}

/// Passes a hash on as it is.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are 64-bit hashes")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type HashedBy = BuildHasherDefault<Hashed>;

/// How many pieces there are, how many repeat an earlier one, and the characters of these.
pub fn duplicates<'a>(pieces: impl Iterator<Item = &'a str>) -> [usize; 3] {
    let mut seen: HashSet<u64, HashedBy> = HashSet::default();
    pieces.fold([0; 3], |[all, repeats, characters], piece| match seen.insert(xxh3_64(piece.as_bytes())) {
        true => [all + 1, repeats, characters],
        false => [all + 1, repeats + 1, characters + piece.chars().count()],
    })
}

/// N-grams of a text that occur twice or more, n growing by one: what does not repeat with n words does not with n + 1.
struct Grams<'a> {
    words: Vec<&'a str>,
    /// Hashes of the words.
    hashes: Vec<u64>,
    n: usize,
    /// Places of the n-grams that occur twice or more, in order, each with the hash of its n-gram.
    repeated: Vec<(u32, u64)>,
    /// The place where the most frequent n-gram is first, and how often it occurs.
    top: (usize, usize),
}

impl<'a> Grams<'a> {
    fn new(words: impl Iterator<Item = &'a str>) -> Grams<'a> {
        let words: Vec<&str> = words.collect();
        let hashes: Vec<u64> = words.iter().map(|word| xxh3_64(word.as_bytes())).collect();
        let repeated = hashes.iter().enumerate().map(|(at, &hash)| (at as u32, hash)).collect();
        Grams { words, hashes, n: 1, repeated, top: (0, 1) }
    }

    /// N-grams of one word more. False where the text has not so many words.
    fn grow(&mut self) -> bool {
        // Hashes of words are as good as random, and so are sums of their multiples by an odd number.
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let n = self.n;
        self.n += 1;
        if self.n > self.words.len() {
            return false;
        }
        if self.repeated.last().is_some_and(|&(at, _)| at as usize + n == self.words.len()) {
            self.repeated.pop();
        }
        for (at, hash) in &mut self.repeated {
            *hash = hash.wrapping_mul(MULTIPLIER).wrapping_add(self.hashes[*at as usize + n]);
        }
        keep_suspects(&mut self.repeated);
        let mut numbers: HashMap<u64, u32, HashedBy> =
            HashMap::with_capacity_and_hasher(self.repeated.len(), HashedBy::default());
        let mut counts: Vec<(u32, u32)> = Vec::with_capacity(self.repeated.len());
        let mut gram_of = Vec::with_capacity(self.repeated.len());
        for &(at, hash) in &self.repeated {
            let number = *numbers.entry(hash).or_insert_with(|| {
                counts.push((0, at));
                counts.len() as u32 - 1
            });
            counts[number as usize].0 += 1;
            gram_of.push(number);
        }
        // Of several that are as frequent it is the first.
        let top = counts.iter().copied().reduce(|top, next| if next.0 > top.0 { next } else { top });
        self.top = match top {
            Some((count, first)) if count > 1 => (first as usize, count as usize),
            _ => (0, 1),
        };
        let mut gram_of = gram_of.into_iter();
        self.repeated.retain(|_| gram_of.next().is_some_and(|number| counts[number as usize].0 > 1));
        true
    }

    /// Characters of the n-gram at this place, without what is between its words.
    fn characters(&self, at: usize) -> usize {
        self.words[at..at + self.n].iter().map(|word| word.chars().count()).sum()
    }

    /// Characters of the most frequent n-gram, a space between its words, times its occurrences.
    fn top_characters(&self) -> usize {
        (self.characters(self.top.0) + self.n - 1) * self.top.1
    }

    /// Characters of n-grams that repeat an earlier one, none of them counted twice.
    fn repeated_characters(&self) -> usize {
        let mut seen: HashSet<u64, HashedBy> = HashSet::default();
        let (mut characters, mut next) = (0, 0);
        for &(at, hash) in &self.repeated {
            if at as usize >= next && !seen.insert(hash) {
                characters += self.characters(at as usize);
                next = at as usize + self.n;
            }
        }
        characters
    }
}

/// Removes most of what occurs once: hashes that are alone in their slot of a small table.
fn keep_suspects(places: &mut Vec<(u32, u64)>) {
    let slots = (4 * places.len()).next_power_of_two();
    let slot = |hash: u64| hash as usize & (slots - 1);
    let mut counts = vec![0_u8; slots];
    for &(_, hash) in places.iter() {
        let count = &mut counts[slot(hash)];
        *count = count.saturating_add(1);
    }
    // Without a branch, which could not be predicted.
    let mut kept = 0;
    for at in 0..places.len() {
        let place = places[at];
        places[kept] = place;
        kept += usize::from(counts[slot(place.1)] > 1);
    }
    places.truncate(kept);
}

/// Pieces between two or more line feeds.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let pieces = trim(text).split("\n\n").map(|piece| piece.trim_start_matches('\n'));
    pieces.filter(|piece| !piece.is_empty())
}

/// Pieces between one or more line feeds; an empty one before the first and after the last, as Python's `re.split` has them.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let last = text.len();
    let pieces = text.split('\n').scan(0, |at, piece| {
        let start = *at;
        *at += piece.len() + 1;
        Some((start, piece))
    });
    pieces.filter(move |&(start, piece)| !piece.is_empty() || start == 0 || start == last).map(|(_, piece)| piece)
}

const TOP_GRAMS: [&str; 3] =
    ["gopher_repetition.top_2_gram", "gopher_repetition.top_3_gram", "gopher_repetition.top_4_gram"];

const DUPLICATE_GRAMS: [&str; 6] = [
    "gopher_repetition.duplicate_5_grams",
    "gopher_repetition.duplicate_6_grams",
    "gopher_repetition.duplicate_7_grams",
    "gopher_repetition.duplicate_8_grams",
    "gopher_repetition.duplicate_9_grams",
    "gopher_repetition.duplicate_10_grams",
];

impl Repetition {
    /// Asks all rules of a text and its words.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check<'a>(&self, text: &str, words: impl Iterator<Item = &'a str>) -> Passed {
        if text.is_empty() {
            return Err(Reason { rule: "gopher_repetition.empty", detail: "no text".into() });
        }
        let characters = text.chars().count();
        let [all, repeats, repeated] = duplicates(paragraphs(text));
        let (repeats, repeated) = (share(repeats, all), share(repeated, characters));
        at_most(
            "gopher_repetition.duplicate_paragraphs",
            "of the paragraphs are repeated",
            repeats,
            self.duplicate_paragraphs_max,
        )?;
        let max = self.duplicate_paragraph_characters_max;
        at_most(
            "gopher_repetition.duplicate_paragraph_characters",
            "of the characters in repeated paragraphs",
            repeated,
            max,
        )?;
        let [all, repeats, repeated] = duplicates(lines(text));
        let (repeats, repeated) = (share(repeats, all), share(repeated, characters));
        at_most("gopher_repetition.duplicate_lines", "of the lines are repeated", repeats, self.duplicate_lines_max)?;
        let max = self.duplicate_line_characters_max;
        at_most("gopher_repetition.duplicate_line_characters", "of the characters in repeated lines", repeated, max)?;

        let mut grams = Grams::new(words);
        for (rule, max) in TOP_GRAMS.into_iter().zip(self.top_grams_max) {
            if !grams.grow() {
                return Ok(());
            }
            let top = share(grams.top_characters(), characters);
            at_most(rule, "of the characters in the most frequent n-gram", top, max)?;
        }
        for (rule, max) in DUPLICATE_GRAMS.into_iter().zip(self.duplicate_grams_max) {
            if !grams.grow() {
                return Ok(());
            }
            let repeated = share(grams.repeated_characters(), characters);
            at_most(rule, "of the characters in repeated n-grams", repeated, max)?;
        }
        Ok(())
    }
}

impl Step for Repetition {
    fn apply(&self, document: &mut Document) -> Verdict {
        document.split_words();
        self.check(document.text(), document.words()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::steps::tests::{broken, refused};

    /// Characters of the most frequent n-gram by its text, as datatrove's `find_top_duplicate` counts.
    fn top_by_text(words: &[&str], n: usize) -> usize {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for gram in words.windows(n).map(|gram| gram.join(" ")) {
            match counts.iter_mut().find(|(text, _)| *text == gram) {
                Some((_, count)) => *count += 1,
                None => counts.push((gram, 1)),
            }
        }
        let most = counts.iter().map(|(_, count)| *count).max().unwrap();
        let (text, count) = counts.into_iter().find(|(_, count)| *count == most).unwrap();
        text.chars().count() * count
    }

    /// Characters of repeated n-grams by their texts, as datatrove's `find_all_duplicate` counts.
    fn repeated_by_text(words: &[&str], n: usize) -> usize {
        let (mut seen, mut characters, mut at) = (HashSet::new(), 0, 0);
        while at + n <= words.len() {
            let gram = words[at..at + n].join("\0");
            if seen.insert(gram) {
                at += 1;
            } else {
                characters += words[at..at + n].concat().chars().count();
                at += n;
            }
        }
        characters
    }

    proptest! {
        #[test]
        fn n_grams_by_hashes_are_n_grams_by_text(words in prop::collection::vec("[ab\u{e9}]{1,2}", 1..60)) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut grams = Grams::new(words.iter().copied());
            for n in 2..=10 {
                prop_assert_eq!(grams.grow(), n <= words.len());
                if n <= words.len() {
                    prop_assert_eq!(grams.top_characters(), top_by_text(&words, n));
                    prop_assert_eq!(grams.repeated_characters(), repeated_by_text(&words, n));
                }
            }
        }
    }

    /// `re.split` of Python 3.11 on the same texts.
    #[test]
    fn pieces_as_in_python() {
        assert_eq!(lines("\na\n\n\nb\n\n").collect::<Vec<_>>(), ["", "a", "b", ""]);
        assert_eq!(lines("a").collect::<Vec<_>>(), ["a"]);
        assert_eq!(lines("\n\n").collect::<Vec<_>>(), ["", ""]);
        assert_eq!(
            paragraphs("\n a\nb\n\nc\n\n\nd\n\n\n\n\n \n\ne\n").collect::<Vec<_>>(),
            ["a\nb", "c", "d", " ", "e"]
        );
    }

    fn rule(text: &str) -> &'static str {
        broken(&Repetition::default(), text)
    }

    /// Words of which no two are equal.
    fn different(count: usize) -> String {
        (0..count).map(|i| format!("w{i} ")).collect()
    }

    #[test]
    fn each_rule_by_a_text_that_breaks_it() {
        assert_eq!(rule(""), "gopher_repetition.empty");
        assert_eq!(rule(&different(200)), "");
        assert_eq!(rule(&format!("{}\n\na\n\nb\n\na\n\nb", different(200))), "gopher_repetition.duplicate_paragraphs");
        let paragraph = different(30);
        let text = format!("{paragraph}\n\na\n\nb\n\nc\n\n{paragraph}\n\n{}", different(40));
        assert_eq!(rule(&text), "gopher_repetition.duplicate_paragraph_characters");
        assert_eq!(rule(&format!("{}\na\nb\na\nb", different(200))), "gopher_repetition.duplicate_lines");
        assert_eq!(rule(&text.replace("\n\n", "\n")), "gopher_repetition.duplicate_line_characters");
        for n in 2..=4 {
            let gram: String = (0..n).map(|i| format!("word{i} ")).collect();
            // 22 % of the text are the n-gram.
            let filler = |i: usize| format!("{i:02}{} ", "x".repeat(gram.len() * 78 / 22 - 3));
            let text: String = (0..20).map(|i| gram.clone() + &filler(i)).collect();
            assert_eq!(rule(&text), TOP_GRAMS[n - 2]);
        }
        for (n, max) in (5..=10).zip(Repetition::default().duplicate_grams_max) {
            let gram = |i: usize| (0..n).map(|word| format!("word{i}{word} ")).collect::<String>();
            // 1.2 % more of the text than may be are n-grams that are there for the second time.
            let share = max + 0.012;
            let bytes = (gram(0).len() - n) as f64 / share / 2.0 - gram(0).len() as f64;
            let filler = |i: usize| format!("{i:02}{} ", "x".repeat(bytes as usize - 3));
            let text: String = (0..16).map(|i| gram(i % 8) + &filler(i)).collect();
            assert_eq!(rule(&text), DUPLICATE_GRAMS[n - 5]);
        }
    }

    #[test]
    fn settings_make_sense() {
        assert_eq!(refused::<Repetition>("duplicate_lines_max = 30"), "duplicate_lines_max 30 is a share, from 0 to 1");
        assert!(refused::<Repetition>("top_grams_max = [0.1]").contains("array"));
    }
}
