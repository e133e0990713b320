//! `near_dedup`: of documents that share most of their shingles, found by MinHash and locality-sensitive hashing, the first is kept
//!
//! A document is the set of its shingles, runs of some words ([`simplified`](crate::simplified)). Under a random permutation of all shingles the least of
//! two sets is the same with probability s, their Jaccard similarity (Broder 1997). The least ones under `bands * rows` permutations are a signature; two
//! documents are taken for near-duplicates if all rows of a band agree, which has the probability P(s) = 1 - (1 - s^rows)^bands. Nothing else is
//! compared, as in datatrove: pairs that are less similar are found with P(s) too. Clusters are transitive, and of each the first document is kept.

use std::num::Wrapping;

use serde::Deserialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use super::pairs::{self, Pair, PairJoin};
use super::{Decision, Join, Place, Record};
use crate::simplified::each_run;
use crate::steps::{Made, Settings, Surroundings};
use crate::{Document, Error, Verdict};

/// Settings of `near_dedup`; the defaults are those of FineWeb (Penedo et al. 2024, section 3.4) and of datatrove.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Near {
    /// Words of a shingle. A document of fewer words is one shingle, so that short texts of the same words are duplicates; one without words is none.
    words: usize,
    /// Bands: any that agrees is enough.
    bands: usize,
    /// Hashes of a band: all must agree.
    rows: usize,
}

impl Default for Near {
    fn default() -> Near {
        Near { words: 5, bands: 14, rows: 8 }
    }
}

/// Hashes of a signature: each costs as much time as the first.
const HASHES_MAX: usize = 4096;

impl Settings for Near {
    fn make(self, surroundings: Surroundings) -> Result<Made, String> {
        Ok(Made::Joined(Box::new(NearDedup::new(self, surroundings.seed)?)))
    }
}

/// MinHash with banding.
pub struct NearDedup {
    settings: Near,
    /// Factor and summand of each permutation of the 64-bit numbers; the factors are odd.
    permutations: Vec<(Wrapping<u64>, Wrapping<u64>)>,
}

impl NearDedup {
    /// Takes the permutations from a seed.
    ///
    /// # Errors
    /// In words: sizes of nothing, or of more than can be computed.
    pub fn new(settings: Near, seed: u64) -> Result<NearDedup, String> {
        let Near { words, bands, rows } = settings;
        for (name, value, max) in [("words", words, 1000), ("bands", bands, HASHES_MAX), ("rows", rows, HASHES_MAX)] {
            if !(1..=max).contains(&value) {
                return Err(format!("{name} = {value}; from 1 to {max} can be"));
            }
        }
        if bands * rows > HASHES_MAX {
            return Err(format!("bands = {bands} times rows = {rows} is {}; at most {HASHES_MAX}", bands * rows));
        }
        let constant = |number: usize| Wrapping(xxh3_64_with_seed(&(number as u64).to_le_bytes(), seed));
        let permutations = (0..bands * rows).map(|i| (constant(2 * i) | Wrapping(1), constant(2 * i + 1))).collect();
        Ok(NearDedup { settings, permutations })
    }

    /// The probability with which two documents of similarity `s` are found.
    fn found(&self, s: f64) -> f64 {
        1.0 - (1.0 - s.powi(self.settings.rows as i32)).powi(self.settings.bands as i32)
    }

    /// The similarity from which more than half of the pairs are found.
    fn half(&self) -> f64 {
        (1.0 - 0.5f64.powf(1.0 / self.settings.bands as f64)).powf(1.0 / self.settings.rows as f64)
    }

    /// The mean of [`NearDedup::found`] over similarities from `from` to 1.
    fn recall(&self, from: f64) -> f64 {
        const STEPS: usize = 1000;
        let middle = |step: usize| from + (1.0 - from) * (step as f64 + 0.5) / STEPS as f64;
        (0..STEPS).map(|step| self.found(middle(step))).sum::<f64>() / STEPS as f64
    }

    /// The least hash under each permutation; nothing for a text without words.
    fn signature(&self, text: &str) -> Option<Vec<u64>> {
        let mut signature = Signature {
            permutations: &self.permutations,
            least: vec![u64::MAX; self.permutations.len()],
            batch: [Wrapping(0); BATCH],
            batched: 0,
            any: false,
        };
        each_shingle(text, self.settings.words, |hash| signature.add(hash));
        signature.flush();
        signature.any.then_some(signature.least)
    }
}

/// Shingles that are hashed together, so that each permutation's constants are loaded once for all.
const BATCH: usize = 256;

struct Signature<'a> {
    permutations: &'a [(Wrapping<u64>, Wrapping<u64>)],
    least: Vec<u64>,
    batch: [Wrapping<u64>; BATCH],
    batched: usize,
    any: bool,
}

impl Signature<'_> {
    fn add(&mut self, shingle: u64) {
        self.batch[self.batched] = Wrapping(shingle);
        self.batched += 1;
        self.any = true;
        if self.batched == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (fours, rest) = self.batch[..self.batched].as_chunks::<4>();
        for (least, &(a, b)) in self.least.iter_mut().zip(self.permutations) {
            // Four at a time: the least of each would wait for the one before.
            let mut of = [*least; 4];
            for four in fours {
                for i in 0..4 {
                    of[i] = of[i].min((a * four[i] + b).0);
                }
            }
            let of_rest = rest.iter().map(|&shingle| (a * shingle + b).0);
            *least = of.into_iter().chain(of_rest).min().expect("four");
        }
        self.batched = 0;
    }
}

/// Calls `each` with the hash of every run of `count` words, joined by spaces; with that of all words if they are fewer.
fn each_shingle(text: &str, count: usize, mut each: impl FnMut(u64)) {
    let all = each_run(text, count, |runs| {
        if let Some((run, _)) = runs.last(count) {
            each(xxh3_64(run.as_bytes()));
        }
    });
    if (1..count).contains(&all.number()) {
        let (run, _) = all.last(all.number()).expect("fewer words");
        each(xxh3_64(run.as_bytes()));
    }
}

impl Join for NearDedup {
    fn describe(&self) -> Vec<String> {
        let Near { words, bands, rows } = self.settings;
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let curve: Vec<String> = (4..=9)
            .map(|tenth| f64::from(tenth) / 10.0)
            .map(|s| format!("{s:.1}: {}", percent(self.found(s))))
            .collect();
        vec![
            format!(
                "near-duplicates: MinHash of shingles of {words} words, {bands} bands x {rows} rows; the first of a cluster is kept"
            ),
            format!("found with P(s) = 1 - (1 - s^{rows})^{bands} at Jaccard similarity s: {}", curve.join(", ")),
            format!(
                "half of the pairs are found at {:.2}; expected recall {} of pairs from 0.8, {} from 0.9 (similarities spread evenly)",
                self.half(),
                percent(self.recall(0.8)),
                percent(self.recall(0.9))
            ),
            "memory for clusters: 4 bytes a document".to_string(),
        ]
    }

    fn records(&self, document: &mut Document, records: &mut Vec<(u128, u32)>) {
        let Some(signature) = self.signature(document.text()) else { return };
        for (band, rows) in signature.chunks_exact(self.settings.rows).enumerate() {
            let bytes: Vec<u8> = rows.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            records.push((xxh3_128_with_seed(&bytes, band as u64), band as u32));
        }
    }

    fn decide(
        &self,
        records: &mut dyn Iterator<Item = Result<Record, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.decide_pairs(&mut pairs::of_records(records), documents, decide)
    }

    fn of_pairs(&self) -> Option<&dyn PairJoin> {
        Some(self)
    }

    fn apply(&self, _document: &mut Document, decisions: &[Decision]) -> Verdict {
        match decisions {
            [] => Verdict::Keep,
            _ => Verdict::drop("near_dedup", "nearly the same as"),
        }
    }
}

impl PairJoin for NearDedup {
    fn decide_pairs(
        &self,
        pairs: &mut dyn Iterator<Item = Result<Pair, Error>>,
        documents: &[u32],
        decide: &mut dyn FnMut(Decision) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut clusters = Clusters::new(documents)?;
        for pair in pairs {
            let Pair { first, other } = pair?;
            clusters.unite(first, other);
        }
        let places = documents
            .iter()
            .enumerate()
            .flat_map(|(part, &count)| (0..count).map(move |document| Place { part: part as u32, document }));
        for (number, place) in places.enumerate() {
            let root = clusters.root(number as u32);
            if root as usize != number {
                decide(Decision { place, position: 0, kept: clusters.place(root) })?;
            }
        }
        Ok(())
    }
}

/// Disjoint sets of documents (union-find), numbered through all parts; the root of a set is its first document. Four bytes a document.
struct Clusters {
    /// The number of the first document of each part.
    first: Vec<u32>,
    parents: Vec<u32>,
}

impl Clusters {
    fn new(documents: &[u32]) -> Result<Clusters, Error> {
        let mut total = 0u64;
        let first = documents.iter().map(|&count| {
            let first = total as u32;
            total += u64::from(count);
            first
        });
        let first = first.collect();
        let total = u32::try_from(total).map_err(|_| {
            let problem = format!(
                "{total} documents are more than near_dedup can number ({}); deduplicate in several recipes",
                u32::MAX
            );
            Error::file("near_dedup", problem)
        })?;
        Ok(Clusters { first, parents: (0..total).collect() })
    }

    fn root(&mut self, mut number: u32) -> u32 {
        while self.parents[number as usize] != number {
            // Path halving.
            let parent = self.parents[number as usize];
            self.parents[number as usize] = self.parents[parent as usize];
            number = self.parents[number as usize];
        }
        number
    }

    fn unite(&mut self, one: Place, other: Place) {
        let [one, other] = [one, other].map(|place| self.first[place.part as usize] + place.document);
        let (one, other) = (self.root(one), self.root(other));
        self.parents[one.max(other) as usize] = one.min(other);
    }

    fn place(&self, number: u32) -> Place {
        // Parts without documents begin where the next one does: the last that begins there has it.
        let part = self.first.partition_point(|&first| first <= number) - 1;
        Place { part: part as u32, document: number - self.first[part] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shingles(text: &str, count: usize) -> Vec<u64> {
        let mut shingles = Vec::new();
        each_shingle(text, count, |hash| shingles.push(hash));
        shingles
    }

    #[test]
    fn shingles_are_runs_of_words() {
        let hash = |text: &str| xxh3_64(text.as_bytes());
        assert_eq!(
            shingles("One, two; THREE 4 f\u{ed}ve", 3),
            ["one two three", "two three 0", "three 0 five"].map(hash)
        );
        assert_eq!(shingles("one two", 5), [hash("one two")]);
        assert_eq!(shingles("one", 1), [hash("one")]);
        assert!(shingles(" ,.", 5).is_empty());
    }

    #[test]
    fn a_signature_is_the_least_of_each_permutation() {
        let near = NearDedup::new(Near { words: 2, bands: 3, rows: 5 }, 9).unwrap();
        for count in [1, 2, 3, 4, 5, 255, 256, 257, 258, 1000] {
            let text: String = (0..count + 1).map(|n| format!("w{} ", ["a", "b", "c"][n % 3].repeat(n / 3))).collect();
            let plain = near
                .permutations
                .iter()
                .map(|(a, b)| shingles(&text, 2).iter().map(|x| a.0.wrapping_mul(*x).wrapping_add(b.0)).min().unwrap());
            assert_eq!(near.signature(&text).unwrap(), plain.collect::<Vec<_>>(), "{count}");
        }
    }

    /// datatrove's own comment on its defaults: probability of inclusion for s = 0.8 is 0.924.
    #[test]
    fn the_curve_is_the_published_one() {
        let near = NearDedup::new(Near::default(), 1).unwrap();
        assert!((near.found(0.8) - 0.924).abs() < 5e-4, "{}", near.found(0.8));
        // FineWeb, section 3.4: 56 %, 77 %, 92 % and 98.8 % for 0.7, 0.75, 0.8 and 0.85.
        for (s, p) in [(0.7, 0.56), (0.75, 0.77), (0.8, 0.92), (0.85, 0.988)] {
            assert!((near.found(s) - p).abs() < 0.006, "{s}: {}", near.found(s));
        }
        assert!((near.found(near.half()) - 0.5).abs() < 1e-9);
        let text = near.describe().join("\n");
        assert!(text.contains("14 bands x 8 rows") && text.contains("0.8: 92.4 %"), "{text}");
    }

    #[test]
    fn documents_are_numbered_through_parts_that_may_be_empty() {
        let clusters = Clusters::new(&[0, 2, 0, 0, 3, 0]).unwrap();
        let place = |part, document| Place { part, document };
        let places: Vec<Place> = (0..5).map(|number| clusters.place(number)).collect();
        assert_eq!(places, [place(1, 0), place(1, 1), place(4, 0), place(4, 1), place(4, 2)]);
        assert!(Clusters::new(&[u32::MAX, 1]).err().unwrap().to_string().contains("4294967296 documents"));
    }
}
