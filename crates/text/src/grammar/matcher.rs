//! The matcher of one output: masks of the tokens that may come next.

use std::sync::Arc;

use llguidance::Matcher as Parser;
use llguidance::api::StopReason;
use llguidance::toktrie::{TokEnv, TokTrie};

use super::json_numbers::{NumberTracker, Risky};
use super::{GrammarError, is_a_limit, one_line};

/// Matcher of one output: which tokens may come next.
pub struct Matcher {
    pub(super) parser: Parser,
    /// Where JSON is written: how its numbers grow.
    pub(super) numbers: Option<(NumberTracker, Arc<Risky>, TokEnv)>,
    /// A number must have more digits than numbers should.
    pub(super) beyond: bool,
    pub(super) vocab: usize,
    pub(super) bits: Vec<u32>,
    pub(super) warnings: Vec<String>,
}

impl Clone for Matcher {
    /// A matcher at the same place that shares nothing with this one, to compile once for several outputs.
    fn clone(&self) -> Self {
        Matcher {
            numbers: self.numbers.clone(),
            parser: self.parser.deep_clone(),
            bits: self.bits.clone(),
            warnings: self.warnings.clone(),
            ..*self
        }
    }
}

impl Matcher {
    /// Mask of the tokens that may come next, one bit an id, lowest first; `vocab.div_ceil(32)` words. An end-of-text id is among them where the
    /// output may end. At the end of the grammar it is alone.
    ///
    /// # Errors
    /// A mask that takes more than the limits allow; no token at all. The matcher is of no further use then.
    pub fn allowed(&mut self) -> Result<&[u32], GrammarError> {
        let mask = self.parser.compute_mask_or_eos();
        let mask = mask.map_err(|e| broken(self.parser.stop_reason(), &e.to_string()))?;
        let given = |bits: &mut [u32]| {
            for (to, from) in bits.iter_mut().zip(mask.as_slice().iter().chain(std::iter::repeat(&0))) {
                *to = *from;
            }
        };
        let none = |bits: &[u32]| bits.iter().all(|&word| word == 0);
        given(&mut self.bits);
        if let Some((numbers, risky, env)) = &self.numbers {
            let bytes = |id| env.tok_trie().token(id);
            numbers.restrict(risky, &mut self.bits, bytes);
            self.beyond = none(&self.bits);
            if self.beyond {
                given(&mut self.bits);
                let parser = &mut self.parser;
                risky.end_soon(&mut self.bits, |way| parser.validate_tokens(way).is_ok_and(|taken| taken == way.len()));
            }
        }
        if none(&self.bits) {
            return Err(GrammarError::DeadEnd);
        }
        Ok(&self.bits)
    }

    /// Advances by the sampled token. End-of-text ids may be left out.
    ///
    /// # Errors
    /// A token that is not allowed: the matcher stays where it was.
    pub fn accept(&mut self, id: u32) -> Result<(), GrammarError> {
        if id as usize >= self.vocab {
            return Err(GrammarError::NotAllowed(id));
        }
        let mut after = self.numbers.as_ref().map(|(numbers, ..)| *numbers);
        if let (Some(after), Some((.., env))) = (&mut after, &self.numbers) {
            let bytes = env.tok_trie().token(id);
            if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                after.reset();
            } else if !after.push(bytes) && !self.beyond {
                return Err(GrammarError::NotAllowed(id));
            }
        }
        match self.parser.try_consume_tokens(&[id]) {
            Ok(1) => {
                if let (Some(after), Some((numbers, ..))) = (after, &mut self.numbers) {
                    *numbers = after;
                }
                Ok(())
            }
            Ok(_) => Err(GrammarError::NotAllowed(id)),
            Err(e) => Err(broken(self.parser.stop_reason(), &e.to_string())),
        }
    }

    /// What stops `allowed` or `accept` while another thread runs them: they fail within milliseconds, and the matcher is of no further use.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let handle = self.parser.cancellation_handle();
        move || {
            if let Some(handle) = &handle {
                handle.cancel();
            }
        }
    }

    /// Whether the output may end here.
    pub fn may_end(&mut self) -> bool {
        self.is_done() || self.parser.is_accepting().unwrap_or(false)
    }

    /// Whether the output can only end here.
    pub fn is_done(&self) -> bool {
        self.parser.is_stopped() && self.parser.stop_reason().is_ok()
    }

    /// Keywords that are not enforced, a line each, with their paths. Empty after a strict compile, but for words that JSON Schema does not know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn broken(reason: StopReason, said: &str) -> GrammarError {
    let line = one_line(said);
    match reason {
        StopReason::LexerTooComplex | StopReason::ParserTooComplex => GrammarError::TooComplex(line),
        _ if line.contains("NoExtension") => GrammarError::DeadEnd,
        _ if is_a_limit(&line) => GrammarError::TooComplex(line),
        _ => GrammarError::Fault(line),
    }
}
