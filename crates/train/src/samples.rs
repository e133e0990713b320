//! Samples of text: a few prompts that the model continues greedily while it is trained.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use data::tokenizer::Tokenizer;
use kernels::Pool;

use crate::batch::Batch;
use crate::corpus::Corpus;
use crate::error::Error;
use crate::network::{Network, Settings};
use crate::pass::Values;
use crate::recipe::Recipe;

/// Tokens that continue a prompt, at most: fewer where the context is short.
const CONTINUED: usize = 60;

/// Prompts that are taken from held-out text where a recipe gives none, and their tokens at most.
const HELD_OUT: usize = 3;
const HELD_OUT_TOKENS: usize = 24;

/// A prompt and what the model made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The prompt's text, without the token that begins a document.
    pub prompt: String,
    /// What continues it, without the token that ends a document.
    pub text: String,
    /// Whether that token ended it.
    pub ended: bool,
}

/// What samples begin with, in tokens.
pub(crate) struct Prompts {
    /// Tokens that continue each, at most.
    continued: usize,
    prompts: Vec<Vec<u32>>,
    /// Bytes of every token; a mark's are its name.
    pieces: Vec<Vec<u8>>,
    begin: Option<u32>,
    end: Option<u32>,
}

impl Prompts {
    /// Those of a recipe, or beginnings of held-out documents. With what continues them they fit into `context`.
    ///
    /// # Errors
    /// A prompt that is empty or too long; shards that cannot be read.
    pub fn new(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        held_out: Option<&Corpus>,
        context: usize,
    ) -> Result<Prompts, Error> {
        let [begin, end] = tokenizer.ends();
        let pieces: Vec<Vec<u8>> = (0..tokenizer.vocabulary() as u32).map(|id| tokenizer.bytes(id).to_vec()).collect();
        let continued = CONTINUED.min(context / 2);
        let room = context - continued;
        let prompts = match (&recipe.evaluate.prompts, held_out) {
            (Some(texts), _) => {
                let mut prompts = Vec::new();
                for (i, text) in texts.iter().enumerate() {
                    let mut tokens: Vec<u32> = begin.into_iter().collect();
                    encode(tokenizer, text, &mut tokens).map_err(|e| recipe.problem(e))?;
                    if tokens.is_empty() || tokens.len() > room {
                        let problem = format!(
                            "[evaluate] prompts[{i}] has {} tokens; from 1 to {room} fit into the context of {context} with the {continued} that continue it",
                            tokens.len()
                        );
                        return Err(recipe.problem(problem));
                    }
                    prompts.push(tokens);
                }
                prompts
            }
            (None, Some(corpus)) => corpus.beginnings(HELD_OUT, HELD_OUT_TOKENS.min(room))?,
            (None, None) => Vec::new(),
        };
        Ok(Prompts { continued, prompts, pieces, begin, end })
    }

    /// What the model makes of each prompt: all are computed together, whole for every token. `None` once `stop` is set.
    pub fn continued(
        &self,
        network: &Network,
        pool: &Pool,
        settings: &Settings,
        weights: &Values,
        stop: &AtomicBool,
    ) -> Option<Vec<Sample>> {
        let mut texts = self.prompts.clone();
        let mut open: Vec<usize> = (0..texts.len()).collect();
        for _ in 0..self.continued {
            let mut batch = Batch::default();
            open.iter().for_each(|&i| batch.document(&texts[i]));
            if open.is_empty() {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let logits = network.next_logits(pool, settings, weights, &batch);
            for (&i, logits) in open.iter().zip(logits.chunks(network.structure.vocab)) {
                texts[i].push(largest(logits));
            }
            open.retain(|&i| texts[i].last().copied() != self.end);
        }
        let sample = |(prompt, tokens): (&Vec<u32>, &Vec<u32>)| {
            let mut made = prompt.len()..tokens.len();
            let ended = made.end > made.start && tokens.last().copied() == self.end;
            made.end -= usize::from(ended);
            let begun = usize::from(prompt.first().copied() == self.begin);
            Sample { prompt: self.text(tokens, begun..prompt.len()), text: self.text(tokens, made), ended }
        };
        Some(self.prompts.iter().zip(&texts).map(sample).collect())
    }

    /// The text of some tokens. A model may have more tokens than the tokenizer: they have no text.
    fn text(&self, tokens: &[u32], range: Range<usize>) -> String {
        let pieces = tokens[range].iter().filter_map(|&token| self.pieces.get(token as usize));
        String::from_utf8_lossy(&pieces.flatten().copied().collect::<Vec<u8>>()).into_owned()
    }
}

/// The first of the largest logits.
fn largest(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// The tokens of a prompt, in which the names of marks are marks.
fn encode(tokenizer: &Tokenizer, text: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
    let marks: Vec<(u32, &str)> = (0..tokenizer.vocabulary() as u32)
        .filter(|&id| tokenizer.is_special(id))
        .filter_map(|id| Some((id, std::str::from_utf8(tokenizer.bytes(id)).ok().filter(|name| !name.is_empty())?)))
        .collect();
    let mut rest = text;
    while !rest.is_empty() {
        let next = marks.iter().filter_map(|&(id, name)| Some((rest.find(name)?, id, name)));
        let next = next.min_by_key(|&(at, _, name)| (at, std::cmp::Reverse(name.len())));
        let (at, behind) = next.map_or((rest.len(), rest.len()), |(at, _, name)| (at, at + name.len()));
        tokenizer.encode_plainly(&rest[..at], tokens)?;
        tokens.extend(next.map(|(_, id, _)| id));
        rest = &rest[behind..];
    }
    Ok(())
}
