//! Tokens to train on: the documents of shards in pieces of at most a context. Every epoch has an order of its own, of pieces, not documents: a
//! long book's would otherwise fill whole steps.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use data::shards::megatron::{self, Reader, Written};
use data::shards::{Shards, Split};

use crate::batch::{Batch, NO_TARGET};
use crate::error::Error;
use crate::random::Random;

/// What the random numbers of an order are for.
const ORDER: u64 = 1;

/// A part of a document that one pass sees whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    shard: u32,
    sequence: u32,
    start: u32,
    len: u32,
}

/// A split of a dataset.
pub struct Corpus {
    directory: PathBuf,
    shards: Vec<Shard>,
    pieces: Vec<Piece>,
    tokens: u64,
    vocabulary: usize,
    seed: u64,
    /// The order of the epoch that was read last.
    order: (u64, Vec<u32>),
    /// Hash of what it is made of.
    identity: String,
    tokenizer: String,
}

struct Shard {
    tokens: Reader,
    mask: Option<Reader>,
}

/// A shard whose tokens are those that were written: one that was changed would be learnt, not noticed. `Shards::open` has seen the index.
fn whole(prefix: &Path, written: &Written) -> Result<Reader, Error> {
    let (bin, _) = megatron::paths(prefix);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(&bin).map_err(Error::io(&bin))?).map_err(Error::io(&bin))?;
    let (found, expected) = (hasher.finalize().to_hex().to_string(), &written.bin_blake3);
    if found != *expected {
        let problem = format!(
            "its blake3 is {found}, not {expected}: it was cut short or changed; copy it again or make the shards again"
        );
        return Err(Error::file(bin, problem));
    }
    Ok(Reader::open(prefix)?)
}

/// Refuses a mask whose documents are not those of the tokens.
fn same_lengths(tokens: &Reader, mask: &Reader, name: &Path) -> Result<(), Error> {
    let problem = match (tokens.sequences(), mask.sequences()) {
        (expected, found) if expected != found => format!("its {found} sequences are not the {expected} of the tokens"),
        (sequences, _) => {
            let Some(other) = (0..sequences).find(|&s| tokens.length(s) != mask.length(s)) else { return Ok(()) };
            let (expected, found) = (tokens.length(other), mask.length(other));
            format!("its sequence {other} has {found} numbers, and that of the tokens {expected}")
        }
    };
    Err(Error::file(name, format!("{problem}; make the shards again")))
}

impl Corpus {
    /// Open the shards of a dataset that `farthing data` made. Pieces have at most `context` tokens. `None`: the split has no document of two
    /// tokens or more.
    ///
    /// # Errors
    /// What is missing or damaged.
    pub fn open(dataset: &Path, split: Split, context: usize, seed: u64) -> Result<Option<Corpus>, Error> {
        let directory = dataset.join("shards");
        let described = Shards::open(&directory)?;
        let descriptions = described.splits.get(&split).map_or(&[][..], Vec::as_slice);
        let mut identity = blake3::Hasher::new();
        let (mut shards, mut pieces, mut tokens) = (Vec::new(), Vec::new(), 0u64);
        for (shard, description) in descriptions.iter().enumerate() {
            identity.update(description.written.bin_blake3.as_bytes());
            let reader = whole(&directory.join(&description.name), &description.written)?;
            let mask_name = directory.join(description.mask_name());
            let mask = description.mask.as_ref().map(|written| whole(&mask_name, written));
            for sequence in 0..reader.sequences() {
                // A piece of one token has no target.
                let len = reader.length(sequence);
                for start in (0..len.saturating_sub(1)).step_by(context) {
                    let len = context.min(len - start);
                    tokens += len as u64;
                    let [shard, sequence, start, len] = [shard, sequence, start, len].map(|n| n as u32);
                    pieces.push(Piece { shard, sequence, start, len });
                }
            }
            let mask = mask.transpose()?;
            if let Some(mask) = &mask {
                same_lengths(&reader, mask, &mask_name)?;
            }
            shards.push(Shard { tokens: reader, mask });
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        Ok(Some(Corpus {
            directory,
            shards,
            order: (u64::MAX, Vec::new()),
            pieces,
            tokens,
            vocabulary: described.vocabulary,
            seed,
            identity: identity.finalize().to_hex().to_string(),
            tokenizer: described.tokenizer,
        }))
    }

    /// Tokens of one epoch.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Pieces of one epoch.
    pub fn pieces(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Tokens of the tokenizer.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Hash of the tokens.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Hash of the tokenizer's file.
    pub fn tokenizer(&self) -> &str {
        &self.tokenizer
    }

    /// Beginnings of so many documents, or of all where there are fewer, spread over the split: of at most `tokens` each, and of at most half a
    /// document.
    ///
    /// # Errors
    /// As [`Corpus::batch`].
    pub(crate) fn beginnings(&self, count: usize, tokens: usize) -> Result<Vec<Vec<u32>>, Error> {
        let first: Vec<&Piece> = self.pieces.iter().filter(|piece| piece.start == 0).collect();
        let mut beginnings = Vec::new();
        for i in 0..count.min(first.len()) {
            let piece = first[i * first.len() / count.min(first.len())];
            let mut sequence = Vec::new();
            let part = 0..(piece.len as usize / 2).min(tokens);
            self.read(piece, part, &mut sequence)?;
            beginnings.push(sequence);
        }
        beginnings.retain(|beginning| !beginning.is_empty());
        Ok(beginnings)
    }

    /// Appends tokens of the sequence that a piece is of.
    fn read(&self, piece: &Piece, part: Range<usize>, sequence: &mut Vec<u32>) -> Result<(), Error> {
        let number = piece.sequence as usize;
        self.shards[piece.shard as usize].tokens.read_part(number, part, sequence)?;
        match sequence.iter().find(|&&t| t as usize >= self.vocabulary) {
            None => Ok(()),
            Some(token) => {
                let problem = format!(
                    "sequence {number} of shard {} holds the token {token}, the vocabulary has {}; make the shards again",
                    piece.shard, self.vocabulary
                );
                Err(Error::file(&self.directory, problem))
            }
        }
    }

    /// The piece at `place`, which counts on over epochs.
    fn piece(&mut self, place: u64) -> Piece {
        let (epoch, at) = (place / self.pieces(), place % self.pieces());
        if self.order.0 != epoch {
            let mut order: Vec<u32> = (0..self.pieces.len() as u32).collect();
            Random::new(&[self.seed, epoch, ORDER]).shuffle(&mut order);
            self.order = (epoch, order);
        }
        self.pieces[self.order.1[at as usize] as usize]
    }

    /// The pieces from `place` on, as many as fit into `tokens`, but at least one; and the place behind them.
    ///
    /// # Errors
    /// A shard that cannot be read, or holds a token that the vocabulary does not have.
    pub fn batch(&mut self, place: u64, tokens: usize) -> Result<(Batch, u64), Error> {
        let (mut batch, mut at) = (Batch::default(), place);
        let (mut sequence, mut mask) = (Vec::new(), Vec::new());
        loop {
            let piece = self.piece(at);
            if !batch.tokens.is_empty() && batch.tokens.len() + piece.len as usize > tokens {
                return Ok((batch, at));
            }
            sequence.clear();
            mask.clear();
            let (shard, number) = (&self.shards[piece.shard as usize], piece.sequence as usize);
            // The token behind the piece is the last one's target.
            let (start, len) = (piece.start as usize, piece.len as usize);
            let part = start..(start + len + 1).min(shard.tokens.length(number));
            self.read(&piece, part.clone(), &mut sequence)?;
            if let Some(reader) = &shard.mask {
                reader.read_part(number, part, &mut mask)?;
            }
            let first = batch.tokens.len();
            batch.tokens.extend(&sequence[..len]);
            batch.targets.extend((1..=len).map(|i| match sequence.get(i) {
                Some(&target) if mask.get(i).is_none_or(|&m| m != 0) => target,
                _ => NO_TARGET,
            }));
            batch.documents.push(first..batch.tokens.len());
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use data::shards::megatron::{TokenType, Writer};

    use super::*;

    #[test]
    fn a_mask_has_the_documents_of_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let reader = |name: &str, lengths: &[usize]| {
            let prefix = folder.path().join(name);
            let mut writer = Writer::create(&prefix, TokenType::Uint16).unwrap();
            lengths.iter().for_each(|&len| writer.document(&vec![1; len]).unwrap());
            writer.finish().unwrap();
            Reader::open(&prefix).unwrap()
        };
        let tokens = reader("tokens", &[3, 5]);
        let name = Path::new("mask");
        same_lengths(&tokens, &reader("same", &[3, 5]), name).unwrap();
        let error = same_lengths(&tokens, &reader("other", &[4, 4]), name).unwrap_err().to_string();
        assert_eq!(error, "mask: its sequence 0 has 4 numbers, and that of the tokens 3; make the shards again");
        let error = same_lengths(&tokens, &reader("fewer", &[8]), name).unwrap_err().to_string();
        assert_eq!(error, "mask: its 1 sequences are not the 2 of the tokens; make the shards again");
    }
}
