//! A limit on reasoning tokens: at the limit the reasoning is closed as the chat template closes it, and the answer begins.

use std::sync::Arc;

use engine::Constraint;
use text::Tokenizer;
use text::reply::{THINK, THINK_END};

/// Where the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing but white space, or the beginning of the opening tag.
    Before,
    Inside,
    /// Number of closing tokens written.
    Closing(usize),
    Behind,
}

/// A constraint that limits the tokens of reasoning, around another constraint.
pub struct ReasoningBudget {
    inner: Option<Box<dyn Constraint>>,
    tokenizer: Arc<Tokenizer>,
    /// Remaining tokens of reasoning.
    left: usize,
    /// Tokens that close the reasoning.
    closing: Vec<u32>,
    place: Stage,
    /// The latest bytes, in which a tag may begin.
    seen: Vec<u8>,
    all: Vec<u32>,
    one: Vec<u32>,
}

impl ReasoningBudget {
    /// At most `left` tokens of reasoning (begun already if `opened`), then `closing`.
    pub fn new(
        inner: Option<Box<dyn Constraint>>,
        tokenizer: Arc<Tokenizer>,
        (left, opened): (usize, bool),
        closing: Vec<u32>,
        vocab: usize,
    ) -> ReasoningBudget {
        let place = if opened { Stage::Inside } else { Stage::Before };
        let words = vocab.div_ceil(32);
        let (all, one) = (vec![u32::MAX; words], vec![0; words]);
        ReasoningBudget { inner, tokenizer, left, closing, place, seen: Vec::new(), all, one }
    }

    fn after(&mut self, id: u32) -> Stage {
        let place = match self.place {
            Stage::Behind => return Stage::Behind,
            Stage::Closing(written) if written + 1 < self.closing.len() => return Stage::Closing(written + 1),
            Stage::Closing(_) => return Stage::Behind,
            place => place,
        };
        self.seen.extend(self.tokenizer.bytes(id).unwrap_or_default());
        if place == Stage::Before {
            let begun = self.seen.trim_ascii_start();
            if !begun.starts_with(THINK.as_bytes()) {
                return if THINK.as_bytes().starts_with(begun) { Stage::Before } else { Stage::Behind };
            }
            // Text after the tag in the same token is reasoning.
            self.seen = begun[THINK.len()..].to_vec();
            return self.inside(usize::from(!self.seen.is_empty()));
        }
        self.inside(1)
    }

    fn inside(&mut self, tokens: usize) -> Stage {
        if self.seen.windows(THINK_END.len()).any(|part| part == THINK_END.as_bytes()) {
            return Stage::Behind;
        }
        let old = self.seen.len().saturating_sub(THINK_END.len());
        self.seen.drain(..old);
        self.left = self.left.saturating_sub(tokens);
        if self.left == 0 && !self.closing.is_empty() { Stage::Closing(0) } else { Stage::Inside }
    }
}

impl Constraint for ReasoningBudget {
    fn allowed(&mut self) -> Result<&[u32], String> {
        if let Stage::Closing(written) = self.place {
            let id = self.closing[written] as usize;
            self.one.fill(0);
            let word = self.one.get_mut(id / 32).ok_or("the end of reasoning is no token of this model")?;
            *word = 1 << (id % 32);
            return Ok(&self.one);
        }
        match &mut self.inner {
            Some(inner) => inner.allowed(),
            None => Ok(&self.all),
        }
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        if let Some(inner) = &mut self.inner {
            inner.accept(id)?;
        }
        self.place = self.after(id);
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_done())
    }

    fn stopper(&self) -> Box<dyn Fn() + Send> {
        match &self.inner {
            Some(inner) => inner.stopper(),
            None => Box::new(|| {}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Arc<Tokenizer> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/seed-5.7m/tokenizer.json");
        Arc::new(Tokenizer::from_json(&std::fs::read(path).unwrap()).unwrap())
    }

    /// What is written when the model wants to write `text`, and is forced where it must.
    fn written(text: &str, (budget, opened): (usize, bool)) -> String {
        let tokenizer = tokenizer();
        let closing = tokenizer.encode("\n</think>\n\n", false).unwrap();
        let vocab = tokenizer.vocab_size();
        let mut constraint = ReasoningBudget::new(None, Arc::clone(&tokenizer), (budget, opened), closing, vocab);
        let mut out = Vec::new();
        for id in tokenizer.encode(text, false).unwrap() {
            loop {
                let allowed = constraint.allowed().unwrap().to_vec();
                assert!(!constraint.is_done());
                if allowed[id as usize / 32] >> (id % 32) & 1 == 1 && allowed.iter().all(|word| *word == u32::MAX) {
                    break;
                }
                let forced: Vec<u32> =
                    (0..vocab as u32).filter(|i| allowed[*i as usize / 32] >> (i % 32) & 1 == 1).collect();
                assert_eq!(forced.len(), 1);
                constraint.accept(forced[0]).unwrap();
                out.push(forced[0]);
            }
            constraint.accept(id).unwrap();
            out.push(id);
        }
        tokenizer.decode(&out, false)
    }

    #[test]
    fn reasoning_ends_where_its_budget_does() {
        let closed = written("one two three four five six", (3, true));
        let (reasoning, answer) = closed.split_once("\n</think>\n\n").unwrap_or_else(|| panic!("{closed}"));
        assert_eq!(tokenizer().encode(reasoning, false).unwrap().len(), 3);
        assert_eq!(format!("{reasoning}{answer}"), "one two three four five six");
        // Closed once, whatever comes behind it.
        assert_eq!(written("a b c <think> d e f g h", (2, true)).matches("</think>").count(), 1);
    }

    #[test]
    fn what_is_within_the_budget_or_no_reasoning_is_left_as_it_is() {
        for (text, budget, opened) in [
            ("short.\n</think>\n\nThe answer is long, much longer than that", 20, true),
            ("an answer without any reasoning, longer than the budget", 2, false),
            (" <thin ice> is no tag of reasoning at all", 2, false),
            ("\n<think>\nshort</think> and then a long answer, longer than the budget", 16, false),
        ] {
            assert_eq!(written(text, (budget, opened)), text);
        }
        let closed = written("<think>one two three four five six seven eight", (4, false));
        assert!(closed.starts_with("<think>one") && closed.contains("\n</think>\n\n"), "{closed}");
    }
}
