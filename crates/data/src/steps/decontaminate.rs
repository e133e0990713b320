//! `decontaminate`: documents that share runs of 13 words with evaluation files are dropped, or lose the passage
//!
//! After GPT-3 (Brown et al. 2020, appendix C): runs of 13 words without punctuation and case; of texts that are shorter all words, if there are 8.
//! Other than there, runs that occur in many documents count too, and what is left of a document stays one document.

use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::part;
use crate::readers::{self, Item, files};
use crate::simplified::each_run;
use crate::source::Source;
use crate::step::{Step, Verdict};
use crate::steps::{Made, Settings, Surroundings};
use crate::store::check_path;
use crate::{Document, Error};

/// What happens to a document that shares a run of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is dropped.
    Drop,
    /// The run is cut out, with what stands around it.
    Cut,
}

/// Settings of `decontaminate`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decontaminate {
    /// Globs of the evaluation files, relative to the recipe: text or JSONL, plain or compressed.
    files: Vec<String>,
    /// Fields of JSONL that are searched for, each alone (dots lead into nested ones). Every record has them.
    fields: Vec<String>,
    /// Words of a run.
    words: usize,
    /// A shorter text is searched for as a whole if it has so many words, and else not at all.
    words_min: usize,
    /// `drop` or `cut`.
    action: Action,
    /// With `cut`: characters that are cut on each side of a run too; pieces that are shorter go as well.
    chars_around: usize,
    /// With `cut`: a document in more pieces is dropped.
    pieces_max: usize,
}

impl Default for Decontaminate {
    fn default() -> Decontaminate {
        Decontaminate {
            files: Vec::new(),
            fields: vec!["text".into()],
            words: 13,
            words_min: 8,
            action: Action::Drop,
            chars_around: 200,
            pieces_max: 10,
        }
    }
}

const WORDS_MAX: usize = 1000;

/// Runs of all evaluation files: 2 GB of memory.
const RUNS_MAX: usize = 40_000_000;

impl Settings for Decontaminate {
    fn make(self, surroundings: Surroundings) -> Result<Made, String> {
        if !(1..=WORDS_MAX).contains(&self.words) {
            return Err(format!("words = {}; from 1 to {WORDS_MAX} can be", self.words));
        }
        if !(1..=self.words).contains(&self.words_min) {
            return Err(format!("words_min = {}; from 1 to words = {} can be", self.words_min, self.words));
        }
        if self.files.is_empty() {
            return Err("files = [] names no evaluation file".into());
        }
        self.files.iter().try_for_each(|glob| files::check_glob(glob))?;
        Ok(Made::Alone(Box::new(Index::read(self, surroundings).map_err(|error| error.to_string())?)))
    }
}

/// The runs of words of all evaluation files.
struct Index {
    settings: Decontaminate,
    /// Paths as the globs give them.
    files: Vec<String>,
    /// Hash of a run, and the first file that has it.
    runs: HashMap<u128, u32>,
    /// The numbers of words that runs have, ascending.
    lengths: Vec<usize>,
}

impl Index {
    fn read(settings: Decontaminate, surroundings: Surroundings) -> Result<Index, Error> {
        let mut index = Index { settings, files: Vec::new(), runs: HashMap::new(), lengths: Vec::new() };
        for glob in index.settings.files.clone() {
            for field in index.settings.fields.clone() {
                index.add(&glob, &field, surroundings)?;
            }
        }
        index.lengths.sort_unstable();
        Ok(index)
    }

    fn add(&mut self, glob: &str, field: &str, surroundings: Surroundings) -> Result<(), Error> {
        let file = |problem: String| Error::file(surroundings.directory.join(glob), problem);
        check_path(glob).map_err(file)?;
        let mut table = toml::Table::new();
        table.insert("name".into(), "decontaminate".into());
        table.insert("files".into(), vec![glob].into());
        let mut source: Source = table.try_into().map_err(|error: toml::de::Error| file(error.message().into()))?;
        // Each file alone, since files of one glob may differ in format.
        let mut parts = Vec::new();
        for file in source.files(surroundings.directory, None)? {
            part::of_file(0, &source, file, part::PART_BYTES, &mut parts)?;
        }
        for part in parts {
            // A text file has no fields, and must be asked for none.
            source.text = None;
            source.text =
                (source.format_of(part.file.path())? != crate::source::Format::Text).then(|| field.to_string());
            let number = self.files.iter().position(|name| *name == part.name).unwrap_or_else(|| {
                self.files.push(part.name.clone());
                self.files.len() - 1
            });
            readers::read(&source, &part, &mut |item| match item {
                Item::Document(document) => self.add_text(document.text(), number as u32, part.file.path()),
                // What is not read could not be found.
                Item::Damaged(damaged) => Err(file(format!("{}: {}", damaged.place, damaged.problem))),
                Item::PassedOver(_) => Ok(()),
            })?;
        }
        Ok(())
    }

    fn add_text(&mut self, text: &str, file: u32, path: &std::path::Path) -> Result<(), Error> {
        let Decontaminate { words, words_min, .. } = self.settings;
        let mut add = |run: &str, length: usize| {
            if self.runs.len() < RUNS_MAX {
                self.runs.entry(xxh3_128(run.as_bytes())).or_insert(file);
                if !self.lengths.contains(&length) {
                    self.lengths.push(length);
                }
            }
        };
        let all = each_run(text, words, |runs| {
            if let Some((run, _)) = runs.last(words) {
                add(run, words);
            }
        });
        if (words_min..words).contains(&all.number()) {
            let (run, _) = all.last(all.number()).expect("so many words");
            add(run, all.number());
        }
        match self.runs.len() {
            RUNS_MAX => Err(Error::file(path, format!("more than {RUNS_MAX} runs of words with the files before it"))),
            _ => Ok(()),
        }
    }

    /// The runs that a text shares, as bytes of it that ascend and do not touch, and the first one with its file.
    fn shared(&self, text: &str) -> (Vec<Range<usize>>, Option<(Range<usize>, u32)>) {
        let mut shared: Vec<Range<usize>> = Vec::new();
        let mut first = None;
        each_run(text, self.settings.words, |runs| {
            let done = self.settings.action == Action::Drop && first.is_some();
            for &length in self.lengths.iter().filter(|_| !done) {
                let Some((run, range)) = runs.last(length) else { break };
                let Some(&file) = self.runs.get(&xxh3_128(run.as_bytes())) else { continue };
                first.get_or_insert((range.clone(), file));
                // Ends ascend; a longer run may begin before several others.
                let mut range = range;
                while let Some(last) = shared.pop_if(|last| last.end >= range.start) {
                    range.start = range.start.min(last.start);
                }
                shared.push(range);
            }
        });
        (shared, first)
    }

    fn cut(&self, document: &mut Document, shared: &[Range<usize>], reason: impl Fn(&str) -> String) -> Verdict {
        let text = document.text();
        let around = self.settings.chars_around;
        let before = |at: usize| text[..at].char_indices().rev().take(around).last().map_or(at, |(at, _)| at);
        let after = |at: usize| text[at..].char_indices().nth(around).map_or(text.len(), |(offset, _)| at + offset);
        let ends = shared.iter().map(|range| before(range.start)).chain([text.len()]);
        let begins = [0].into_iter().chain(shared.iter().map(|range| after(range.end)));
        let pieces = begins.zip(ends).filter(|(begin, end)| begin < end).map(|(begin, end)| text[begin..end].trim());
        let is_long = |piece: &&str| !piece.is_empty() && piece.chars().take(around).count() == around;
        let pieces: Vec<&str> = pieces.filter(is_long).collect();
        if pieces.is_empty() {
            return Verdict::drop("decontaminate", reason("; nothing is left"));
        }
        if pieces.len() > self.settings.pieces_max {
            let problem = format!("; {} pieces are left, more than {}", pieces.len(), self.settings.pieces_max);
            return Verdict::drop("decontaminate.pieces_max", reason(&problem));
        }
        let left = pieces.join("\n\n");
        document.set_text(left);
        Verdict::Keep
    }
}

/// Characters of a run that a reason has.
const SHOWN: usize = 300;

impl Step for Index {
    fn describe(&self) -> Vec<String> {
        let (runs, files, words) = (self.runs.len(), self.files.len(), self.settings.words);
        vec![format!(
            "decontaminate: {runs} runs of up to {words} words from {files} evaluation files are searched for"
        )]
    }

    fn identity(&self) -> Option<blake3::Hash> {
        // The map has no order: equal sets have equal sums.
        let sum = self.runs.iter().fold(0u128, |sum, (&run, &file)| sum.wrapping_add(run.rotate_left(file % 128)));
        Some(blake3::hash(format!("{sum} {} {:?}", self.runs.len(), self.files).as_bytes()))
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let (shared, first) = self.shared(document.text());
        let Some((run, file)) = first else { return Verdict::Keep };
        let run: String = document.text()[run].chars().take(SHOWN).collect();
        let run = run.split_whitespace().collect::<Vec<_>>().join(" ");
        let reason = |more: &str| format!("{run:?} of {}{more}", self.files[file as usize]);
        match self.settings.action {
            Action::Drop => Verdict::drop("decontaminate", reason("")),
            Action::Cut => self.cut(document, &shared, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const QUESTION: &str =
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May.";

    fn step(directory: &Path, settings: &str) -> Result<Box<dyn Step>, String> {
        let settings: Decontaminate = toml::from_str(settings).map_err(|error| error.message().to_string())?;
        match settings.make(Surroundings { directory, seed: 0 })? {
            Made::Alone(step) => Ok(step),
            Made::Joined(_) => panic!("it looks at each document alone"),
        }
    }

    fn evaluations() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let record = |question: &str, answer: &str| serde_json::json!({ "question": question, "a": { "b": answer } });
        let records = [record(QUESTION, "72"), record("How many?", "One two three four five six seven eight of them")];
        std::fs::create_dir(directory.path().join("evals")).unwrap();
        std::fs::write(directory.path().join("evals/math.jsonl"), records.map(|r| r.to_string()).join("\n")).unwrap();
        std::fs::write(
            directory.path().join("evals/poem.txt"),
            "It was many and many a year ago,\nIn a kingdom by the sea,\n",
        )
        .unwrap();
        directory
    }

    const SETTINGS: &str = "files = ['evals/*']\nfields = ['question', 'a.b']\n";

    fn verdict(step: &dyn Step, text: &str) -> (String, Verdict) {
        let mut document = Document::new("", text);
        let verdict = step.apply(&mut document);
        (document.text().to_string(), verdict)
    }

    #[test]
    fn a_reason_names_the_run_and_its_file() {
        let directory = evaluations();
        let step = step(directory.path(), SETTINGS).unwrap();
        let detail = |text: &str| match verdict(&*step, text).1 {
            Verdict::Drop(reason) => reason.detail.into_owned(),
            Verdict::Keep => String::new(),
        };
        let text = "So: \"natalia SOLD clips to 7 of her friends,\nin april. And then she\" went home.";
        assert_eq!(
            detail(text),
            "\"natalia SOLD clips to 7 of her friends, in april. And then she\" of evals/math.jsonl"
        );
        // Twelve words of thirteen.
        assert_eq!(detail(&text.replace("then she", "then he")), "");
        assert_eq!(
            detail("one two three four five six seven eight of them. "),
            "\"one two three four five six seven eight of them\" of evals/math.jsonl"
        );
        assert_eq!(detail("one two three four five six seven eight of"), "", "not the whole of a short text");
        assert_eq!(detail("How many? 72"), "", "too short to be searched for");
        assert!(detail("It was many and many a year ago in a kingdom by the river").ends_with("evals/poem.txt"));
    }

    #[test]
    fn a_cut_takes_what_stands_around_and_short_pieces() {
        let directory = evaluations();
        let cut = |more: &str| step(directory.path(), &format!("{SETTINGS}action = 'cut'\n{more}")).unwrap();
        let (one, two) = ("a ".repeat(300), "\u{e9} ".repeat(300));
        let text = format!("{one}{QUESTION}{two}");
        let (left, verdict_) = verdict(&*cut(""), &text);
        assert_eq!(verdict_, Verdict::Keep);
        assert_eq!(left, format!("{}\n\n{}", "a ".repeat(200).trim(), "\u{e9} ".repeat(201).trim()[2..].trim()));
        let (left, _) = verdict(&*cut("chars_around = 0"), &text);
        assert_eq!(left, format!("{}\n\n.{}", one.trim(), two.trim_end()));
        // One piece is too short; then both are.
        assert_eq!(verdict(&*cut(""), &format!("a {QUESTION}{two}")).0.matches('\u{e9}').count(), 200);
        let Verdict::Drop(reason) = verdict(&*cut(""), QUESTION).1 else { panic!("nothing is left") };
        assert!(reason.detail.ends_with("of evals/math.jsonl; nothing is left"), "{}", reason.detail);
        let Verdict::Drop(reason) = verdict(&*cut("pieces_max = 2"), &format!("{text}{text}")).1 else {
            panic!("three pieces")
        };
        assert_eq!(reason.rule, "decontaminate.pieces_max");
        assert_eq!(verdict(&*cut(""), &one), (one.clone(), Verdict::Keep));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let directory = evaluations();
        let refused = |settings: &str| step(directory.path(), settings).err().unwrap();
        assert!(refused("").contains("files = []"));
        assert!(refused("files = ['none/*.jsonl']").contains("none/*.jsonl"));
        assert!(refused("files = ['evals/*.jsonl']\nfields = ['answer']").contains("answer"));
        assert!(refused("files = ['evals/*']\nwords = 0").contains("words = 0"));
        assert!(refused("files = ['evals/*']\nwords_min = 14").contains("words_min = 14"));
        assert!(refused("file = ['evals/*']").contains("file"));
        std::fs::write(directory.path().join("evals/bad.jsonl"), "{\"question\": \"a\", \"a\": {\"b\": \"c\"}}\n{\n")
            .unwrap();
        assert!(refused(SETTINGS).contains("evals/bad.jsonl:2"), "{}", refused(SETTINGS));
    }

    proptest! {
        /// Small words, so that much is shared: against looking for every run.
        #[test]
        fn exactly_the_texts_that_share_a_run_are_dropped(
            evaluation in "([ab] ){0,9}", texts in prop::collection::vec("([ab] ){0,12}", 1..20), words in 1usize..7, less in 0usize..6,
        ) {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("e.txt"), format!("{evaluation}.")).unwrap();
            let words_min = words.saturating_sub(less).max(1);
            let step = step(directory.path(), &format!("files = ['e.txt']\nwords = {words}\nwords_min = {words_min}")).unwrap();
            let all: Vec<&str> = evaluation.split_whitespace().collect();
            let length = words.min(all.len());
            let runs: HashSet<&[&str]> = if length >= words_min { all.windows(length).collect() } else { HashSet::new() };
            for text in &texts {
                let split: Vec<&str> = text.split_whitespace().collect();
                let shares = !runs.is_empty() && split.windows(length).any(|run| runs.contains(run));
                prop_assert_eq!(verdict(&*step, text).1 != Verdict::Keep, shares, "{:?}", text);
            }
        }
    }
}
