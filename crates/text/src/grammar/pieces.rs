//! How much one derivative of a regular expression can cost: intersections multiply the pieces of their members.
//!
//! `derivre` counts its work between derivatives, never within one. An intersection of twenty expressions with two pieces each has a
//! million pieces, and nothing stops it; so what could come to that is refused when it is compiled.

use std::collections::{HashMap, HashSet};

use llguidance::derivre::ExprRef;
use llguidance::derivre::raw::ExprSet;

use super::GrammarError;

/// Most pieces of one derivative: some tens of milliseconds.
const PIECES_MAX: u64 = 100_000;
/// Different bytes and sets of bytes that are told apart; more are as many.
const LEAVES_MAX: u64 = 256;

/// Refuse expressions whose derivatives can have too many pieces.
pub(super) fn check(set: &ExprSet) -> Result<(), GrammarError> {
    // The library has no name for its kinds outside of itself.
    let is_intersection = |id: u32| id > 0 && format!("{:?}", set.get_tag(ExprRef::new(id))) == "And";
    let all = 0..u32::try_from(set.len()).unwrap_or(u32::MAX);
    let mut pieces = PieceCounter { set, intersections: all.map(is_intersection).collect(), known: HashMap::new() };
    for id in (0..set.len()).filter(|&id| pieces.intersections[id]).collect::<Vec<_>>() {
        let expression = ExprRef::new(id as u32);
        let found = pieces.of(expression);
        if found > PIECES_MAX {
            let members = set.get_args(expression).len();
            let found = if found == u64::MAX { "countless".to_string() } else { found.to_string() };
            return Err(GrammarError::TooComplex(format!(
                "{members} regular expressions (pattern, format) hold at once and have {found} pieces; at most {PIECES_MAX} are taken"
            )));
        }
    }
    Ok(())
}

struct PieceCounter<'a> {
    set: &'a ExprSet,
    /// By id: whether it is an intersection.
    intersections: Vec<bool>,
    known: HashMap<ExprRef, u64>,
}

impl PieceCounter<'_> {
    /// Pieces that a derivative can have: the product of an intersection's members', elsewhere one for each byte, set of bytes or
    /// string of bytes in it.
    fn of(&mut self, top: ExprRef) -> u64 {
        if let Some(&pieces) = self.known.get(&top) {
            return pieces;
        }
        let set = self.set;
        let pieces = if self.intersections[top.as_usize()] {
            set.get_args(top).iter().map(|&member| self.of(member)).fold(1, u64::saturating_mul)
        } else {
            let (mut seen, mut waiting) = (HashSet::from([top]), vec![top]);
            let (mut leaves, mut inner) = (0, 0);
            while let Some(expression) = waiting.pop() {
                if self.intersections[expression.as_usize()] {
                    inner = self.of(expression).saturating_add(inner);
                    continue;
                }
                let parts = set.get_args(expression);
                leaves += u64::from(parts.len() < 2);
                waiting.extend(parts.iter().filter(|part| seen.insert(**part)));
            }
            inner.saturating_add(leaves.clamp(1, LEAVES_MAX))
        };
        self.known.insert(top, pieces);
        pieces
    }
}
