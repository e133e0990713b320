//! What is wanted of a prompt instead of a text, gathered chunk by chunk: hidden states, pooled, or some logits.

use model::Wanted;
use model::checkpoint::Pooling;

use crate::request::Pooled;
use crate::scheduler::Chunk;

/// A request's pool.
pub(crate) struct Pool {
    wanted: Pooled,
    /// The states so far: the first one, or the sum of all.
    gathered: Vec<f32>,
}

impl Pool {
    pub fn new(wanted: Pooled) -> Pool {
        Pool { wanted, gathered: Vec::new() }
    }

    /// Every token has to be computed, whatever is in the cache.
    pub fn whole(wanted: &Pooled) -> bool {
        matches!(wanted, Pooled::States(Pooling::First | Pooling::Mean))
    }

    /// What is wanted of a chunk.
    pub fn of_chunk(&self, chunk: &Chunk) -> Wanted {
        match self.wanted {
            Pooled::States(Pooling::Mean) => Wanted::States,
            Pooled::States(Pooling::First) if chunk.position == 0 => Wanted::States,
            Pooled::States(Pooling::Last) if chunk.logits => Wanted::LastState,
            Pooled::Logits(_) if chunk.logits => Wanted::Last,
            _ => Wanted::None,
        }
    }

    /// Takes the rows of a chunk: the result after the last of a prompt of so many tokens. A sum is in the order of tokens, so it does not
    /// depend on chunks.
    pub fn take(&mut self, chunk: &Chunk, rows: &[f32], width: usize, tokens: usize) -> Option<Vec<f32>> {
        if chunk.position == 0 {
            // Of a request that had to give way too: it is computed again from its beginning.
            self.gathered.clear();
        }
        match &self.wanted {
            Pooled::Logits(ids) => self.gathered.extend(ids.iter().filter_map(|&id| rows.get(id as usize))),
            Pooled::States(Pooling::Mean) => {
                self.gathered.resize(width, 0.0);
                for row in rows.chunks(width) {
                    self.gathered.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
            Pooled::States(Pooling::First | Pooling::Last) => self.gathered.extend(rows.iter().take(width)),
        }
        if !chunk.logits {
            return None;
        }
        let mut pooled = std::mem::take(&mut self.gathered);
        if self.wanted == Pooled::States(Pooling::Mean) {
            pooled.iter_mut().for_each(|x| *x /= tokens as f32);
        }
        Some(pooled)
    }
}
