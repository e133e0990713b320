//! BLiMP (Warstadt et al., TACL 2020): minimal pairs of English sentences, of which one is grammatical and should be more likely
//!
//! The first 200 pairs of each of the 67 paradigms; `data/README.md` has source and licence.

use crate::asking::Asking;
use crate::figures::Measure;
use crate::{EvalError, Measured, Wrong};

/// Pairs of a paradigm.
pub const PAIRS: usize = 200;

/// Paradigms as `# name`, a pair a line below it: the grammatical sentence, a tab, the other one.
const COMPRESSED: &[u8] = include_bytes!("../data/blimp.txt.zst");

/// A paradigm with its pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Paradigm {
    /// BLiMP's name of it.
    pub name: String,
    /// The grammatical sentence and the other one.
    pub pairs: Vec<(String, String)>,
}

/// All paradigms.
pub fn paradigms() -> Vec<Paradigm> {
    let text = zstd::decode_all(COMPRESSED).expect("the bundled pairs are sound");
    let text = String::from_utf8(text).expect("the bundled pairs are UTF-8");
    let mut paradigms: Vec<Paradigm> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            paradigms.push(Paradigm { name: name.to_owned(), pairs: Vec::with_capacity(PAIRS) });
        } else if let (Some(paradigm), Some((good, bad))) = (paradigms.last_mut(), line.split_once('\t')) {
            paradigm.pairs.push((good.to_owned(), bad.to_owned()));
        }
    }
    paradigms
}

/// Twice what a pair counts: 2 where the grammatical sentence is more likely, 1 in a tie, 0 where one of them has no score.
fn halves(good: f64, bad: f64) -> usize {
    match good.partial_cmp(&bad).filter(|_| good.is_finite() && bad.is_finite()) {
        Some(std::cmp::Ordering::Greater) => 2,
        Some(std::cmp::Ordering::Equal) => 1,
        _ => 0,
    }
}

pub(crate) fn measure(asking: &mut Asking<'_>) -> Result<Measured, EvalError> {
    let mut paradigms = paradigms();
    for paradigm in &mut paradigms {
        paradigm.pairs.truncate(asking.settings.samples);
    }
    let pairs = || paradigms.iter().flat_map(|paradigm| &paradigm.pairs);
    let sentences: Vec<&str> = pairs().flat_map(|(good, bad)| [good.as_str(), bad]).collect();
    let scores = asking.scores(&sentences)?;
    let mut scores = scores.chunks_exact(2).map(|pair| halves(pair[0], pair[1]));
    let (mut measures, mut wrong) = (Vec::new(), Vec::new());
    for Paradigm { name, pairs } in &paradigms {
        let halves: Vec<usize> = scores.by_ref().take(pairs.len()).collect();
        measures.push(Measure::of_halves(name, halves.iter().sum(), pairs.len()));
        // One of each paradigm that is seldom right.
        if 2 * halves.iter().sum::<usize>() < halves.len()
            && let Some(at) = halves.iter().position(|halves| *halves == 0)
        {
            let (good, bad) = pairs[at].clone();
            wrong.push(Wrong { prompt: name.clone(), answer: bad, expected: good });
        }
    }
    Ok(Measured {
        measures: vec![Measure::mean("grammatical is likelier", &measures)],
        paradigms: measures,
        too_long: asking.too_long,
        wrong,
        ..Measured::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_bundled_pairs_are_whole() {
        let paradigms = paradigms();
        assert_eq!(paradigms.len(), 67);
        let names: HashSet<&str> = paradigms.iter().map(|paradigm| paradigm.name.as_str()).collect();
        assert_eq!(names.len(), 67);
        assert!(names.contains("adjunct_island") && names.contains("wh_vs_that_with_gap_long_distance"));
        let mut equal = Vec::new();
        for paradigm in &paradigms {
            assert_eq!(paradigm.pairs.len(), PAIRS, "{}", paradigm.name);
            for (good, bad) in &paradigm.pairs {
                assert!(!good.is_empty() && !bad.is_empty() && !bad.contains('\t'), "{good} {bad}");
                if good == bad {
                    equal.push(good.as_str());
                }
            }
        }
        // As published: a tie for every model.
        assert_eq!(equal, ["Mark hadn't forgotten about himself skated around some high school."]);
        let (good, bad) = &paradigms[0].pairs[0];
        assert_eq!(good, "Who should Derek hug after shocking Richard?");
        assert_eq!(bad, "Who should Derek hug Richard after shocking?");
    }

    #[test]
    fn ties_count_one_half() {
        assert_eq!([halves(-3.0, -4.0), halves(-4.0, -3.0), halves(-3.0, -3.0)], [2, 0, 1]);
        // Two sentences that are both too long, or a model that gives no number.
        assert_eq!([halves(f64::NEG_INFINITY, f64::NEG_INFINITY), halves(f64::NAN, -1.0)], [0, 0]);
    }
}
