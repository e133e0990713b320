//! `near_dedup` against the true Jaccard similarity of all pairs, and against plain clusters of the pairs that share a band

use std::collections::{BTreeSet, HashMap, HashSet};

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng, SeedableRng};

use super::*;

fn below(random: &mut Pcg64, limit: usize) -> usize {
    (random.next_u64() % limit as u64) as usize
}

fn word(random: &mut Pcg64) -> String {
    let number = below(random, 5000);
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    [letter(number), letter(number / 26), letter(number / 676)].iter().collect()
}

fn shingles(words: &[String]) -> BTreeSet<&[String]> {
    if words.len() < 5 { BTreeSet::from([words]) } else { words.windows(5).collect() }
}

fn jaccard(one: &[String], other: &[String]) -> f64 {
    let (one, other) = (shingles(one), shingles(other));
    let both = one.intersection(&other).count();
    both as f64 / (one.len() + other.len() - both) as f64
}

/// A copy with some words changed, taken out or put in.
fn altered(words: &[String], changes: usize, random: &mut Pcg64) -> Vec<String> {
    let mut copy = words.to_vec();
    for _ in 0..changes {
        let at = below(random, copy.len());
        match below(random, 3) {
            0 => copy[at] = word(random),
            1 if copy.len() > 1 => drop(copy.remove(at)),
            _ => copy.insert(at, word(random)),
        }
    }
    copy
}

fn keys(join: &dyn Join, words: &[String]) -> HashSet<u128> {
    let mut records = Vec::new();
    join.records(&mut Document::new("", words.join(" ")), &mut records);
    records.into_iter().map(|(key, _)| key).collect()
}

/// 4,000 pairs in classes of their true similarity: what is found lies within four standard deviations of what the curve expects.
#[test]
fn recall_follows_the_curve() {
    for (bands, rows) in [(14, 8), (20, 13), (5, 2)] {
        let join = join("near_dedup", &format!("bands = {bands}\nrows = {rows}"));
        let mut random = Pcg64::seed_from_u64(7);
        // Pairs, expected, variance, found; by tenths of similarity.
        let mut classes = [(0, 0.0, 0.0, 0); 11];
        for _ in 0..4000 {
            let words: Vec<String> = (0..60 + below(&mut random, 60)).map(|_| word(&mut random)).collect();
            let changes = below(&mut random, 14);
            let copy = altered(&words, changes, &mut random);
            let s = jaccard(&words, &copy);
            let p = 1.0 - (1.0 - s.powi(rows)).powi(bands);
            let found = !keys(&*join, &words).is_disjoint(&keys(&*join, &copy));
            let class = &mut classes[(s * 10.0) as usize];
            *class = (class.0 + 1, class.1 + p, class.2 + p * (1.0 - p), class.3 + usize::from(found));
        }
        assert!(classes.iter().filter(|class| class.0 > 100).count() >= 7, "{classes:?}");
        for (tenth, (pairs, expected, variance, found)) in classes.into_iter().enumerate() {
            let off = found as f64 - expected;
            assert!(
                off.abs() <= 4.0 * f64::sqrt(variance) + 1e-6 * pairs as f64 + 0.5,
                "{bands} x {rows} at 0.{tenth}: {found} of {pairs}, expected {expected}"
            );
        }
    }
}

/// A few thousand short documents, many of them copies of copies.
fn corpus(random: &mut Pcg64) -> Vec<Vec<Vec<String>>> {
    let mut documents: Vec<Vec<String>> = Vec::new();
    for _ in 0..3000 {
        let document = if documents.is_empty() || below(random, 3) == 0 {
            (0..below(random, 50)).map(|_| word(random)).collect()
        } else {
            let original = documents[below(random, documents.len())].clone();
            let changes = below(random, 4);
            if original.is_empty() { original } else { altered(&original, changes, random) }
        };
        documents.push(document);
    }
    let mut parts = vec![documents.split_off(2500), Vec::new(), documents.split_off(1000), documents];
    parts.reverse();
    parts
}

#[test]
fn clusters_are_the_union_of_all_pairs_that_share_a_band() {
    let join = join("near_dedup", "");
    let parts = corpus(&mut Pcg64::seed_from_u64(11));
    let texts: Vec<Vec<String>> = parts.iter().map(|part| part.iter().map(|words| words.join(" ")).collect()).collect();

    let places: Vec<Place> =
        texts.iter().enumerate().flat_map(|(part, texts)| (0..texts.len()).map(move |n| place(part, n))).collect();
    let mut by_key: HashMap<(u128, u32), Vec<usize>> = HashMap::new();
    for (number, text) in texts.iter().flatten().enumerate() {
        let mut records = Vec::new();
        join.records(&mut Document::new("", text), &mut records);
        records.into_iter().for_each(|record| by_key.entry(record).or_default().push(number));
    }
    // Labels spread until nothing changes: slow, and hard to get wrong.
    let mut label: Vec<usize> = (0..places.len()).collect();
    loop {
        let before = label.clone();
        for documents in by_key.values() {
            let least = documents.iter().map(|&number| label[number]).min().unwrap();
            documents.iter().for_each(|&number| label[number] = least);
        }
        if label == before {
            break;
        }
    }
    let expected: Vec<(Place, Place)> =
        (0..places.len()).filter(|&n| label[n] != n).map(|n| (places[n], places[label[n]])).collect();
    assert!(expected.len() > 500 && expected.len() < 2500, "{}", expected.len());
    assert_eq!(dropped(&*join, &texts), expected);
}

/// Every pair of true similarity 1 is found; documents that share no shingle never are.
#[test]
fn the_same_words_are_always_found_and_others_never() {
    let join = join("near_dedup", "");
    let mut random = Pcg64::seed_from_u64(3);
    let one: Vec<String> = (0..40).map(|_| word(&mut random)).collect();
    let shouted = format!("  {}!!", one.join(", ").to_uppercase());
    let few = |text: &str| text.to_string();
    let parts = [
        vec![one.join(" "), few("Yes."), few("..."), few("")],
        vec![shouted, few("yes"), few("no"), few("?"), few("yes yes"), few("")],
    ];
    assert_eq!(dropped(&*join, &parts), [(place(1, 0), place(0, 0)), (place(1, 1), place(0, 1))]);
}

#[test]
fn the_seed_changes_the_permutations_and_nothing_else_does() {
    let words: Vec<String> = "a few words that make up a document of their own".split(' ').map(Into::into).collect();
    let with_seed = |seed| {
        let kind = KINDS.iter().find(|kind| kind.name == "near_dedup").unwrap();
        match (kind.make)(toml::Table::new(), Surroundings { directory: Path::new("."), seed }).unwrap() {
            Made::Joined(join) => keys(&*join, &words),
            Made::Alone(_) => unreachable!(),
        }
    };
    assert_eq!(with_seed(1), with_seed(1));
    assert!(with_seed(1).is_disjoint(&with_seed(2)));
    assert_eq!(with_seed(1).len(), 14);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for (settings, said) in [
        ("bands = 0", "bands = 0"),
        ("words = 0", "words = 0"),
        ("rows = 5000", "rows = 5000"),
        ("bands = 100\nrows = 100", "is 10000"),
        ("row = 3", "row"),
        ("rows = -1", "-1"),
    ] {
        assert!(refusal("near_dedup", settings).contains(said), "{}", refusal("near_dedup", settings));
    }
}
