//! What one forward computes: rows of tokens, in spans of one sequence each. Prefill and decode differ only in length.

/// Tokens of several sequences, computed together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// All tokens, span after span.
    pub tokens: &'a [u32],
    /// What they belong to.
    pub spans: &'a [Span<'a>],
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Its first row in `Batch::tokens`.
    pub first: usize,
    /// Rows.
    pub len: usize,
    /// Position of its first token in the sequence.
    pub position: usize,
    /// Leading positions of the sequence that are prompt. With a token's position it decides the form of latent attention.
    pub prompt: usize,
    /// Pages of the cache; with a layout of `n` tokens a page, page i holds positions `n i ..`. They must reach the span's last token.
    pub pages: &'a [u32],
    /// Rows whose logits, or final hidden states, are wanted.
    pub logits: Wanted,
}

/// Rows of a span whose logits, or final hidden states, are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// The last row's.
    Last,
    /// Every row's.
    All,
    /// None, but the last row's final hidden state.
    LastState,
    /// None, but every row's final hidden state.
    States,
}

impl Batch<'_> {
    /// Rows are found by counting spans, so spans must cover the tokens in order, and pages their positions.
    pub(crate) fn check(&self, page: usize) {
        let mut next = 0;
        for span in self.spans {
            assert_eq!(span.first, next, "spans follow each other");
            assert!(span.pages.len() * page >= span.position + span.len, "a span has pages for its last token");
            next += span.len;
        }
        assert_eq!(next, self.tokens.len(), "spans cover the tokens");
    }

    /// Rows whose logits are wanted, in order.
    pub fn wanted(&self) -> Vec<usize> {
        self.rows(Wanted::Last, Wanted::All)
    }

    /// Rows whose final hidden states are wanted, in order.
    pub fn states(&self) -> Vec<usize> {
        self.rows(Wanted::LastState, Wanted::States)
    }

    fn rows(&self, last: Wanted, all: Wanted) -> Vec<usize> {
        let rows = |span: &Span| {
            let end = span.first + span.len;
            match span.logits {
                wanted if wanted == last => end.saturating_sub(1).max(span.first)..end,
                wanted if wanted == all => span.first..end,
                _ => end..end,
            }
        };
        self.spans.iter().flat_map(rows).collect()
    }
}
