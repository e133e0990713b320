//! Data parallelism: ranks take every step together, each with its share of the step's micro-batches, and all move the same weights by the sum of their
//! gradients. How numbers travel between ranks is a `Communicator`'s; `Alone` is the plain one, of a single rank.

use std::ops::Range;
use std::time::Instant;

use crate::error::Error;
use crate::feed_forward::Load;
use crate::network::Outcome;
use crate::pass::Values;

/// What ranks exchange. All ranks call the same methods in the same order with as many numbers, and get the same bits back.
pub trait Communicator {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// All ranks.
    fn size(&self) -> usize;
    /// Ranks on this machine, this one included.
    fn local_size(&self) -> usize;
    /// Sums over all ranks, in place.
    fn sum_f32(&self, numbers: &mut [f32]);
    /// Sums over all ranks, in place.
    fn sum_f64(&self, numbers: &mut [f64]);
    /// Bytes of the rank `root`, to all.
    fn broadcast(&self, root: usize, bytes: &mut [u8]);
}

/// A single rank.
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn local_size(&self) -> usize {
        1
    }

    fn sum_f32(&self, _: &mut [f32]) {}

    fn sum_f64(&self, _: &mut [f64]) {}

    fn broadcast(&self, _: usize, _: &mut [u8]) {}
}

/// Gradients that are summed in one exchange: 4 MiB.
const BUCKET: usize = 1 << 20;

/// Bytes of a message from one rank to all.
const MESSAGE_BYTES: usize = 4096;

/// The part of `count` that is a rank's: contiguous, in the order of ranks, none larger than another by more than one.
pub(crate) fn share(ranks: &dyn Communicator, count: usize) -> Range<usize> {
    let (rank, size) = (ranks.rank(), ranks.size());
    rank * count / size..(rank + 1) * count / size
}

/// Sums of all ranks' values, in place. Small parameters travel together: many exchanges cost more than few.
pub(crate) fn sum(ranks: &dyn Communicator, values: &mut Values) {
    if ranks.size() == 1 {
        return;
    }
    let (mut parts, mut numbers, mut bucket) = (Vec::new(), 0, Vec::with_capacity(BUCKET));
    for part in values.iter_mut().flat_map(|v| v.chunks_mut(BUCKET)) {
        if numbers + part.len() > BUCKET {
            sum_parts(ranks, &mut parts, &mut bucket);
            numbers = 0;
        }
        numbers += part.len();
        parts.push(part);
    }
    sum_parts(ranks, &mut parts, &mut bucket);
}

fn sum_parts(ranks: &dyn Communicator, parts: &mut Vec<&mut [f32]>, bucket: &mut Vec<f32>) {
    bucket.clear();
    parts.iter().for_each(|part| bucket.extend_from_slice(part));
    ranks.sum_f32(bucket);
    let mut rest = &bucket[..];
    for part in parts.drain(..) {
        let (own, behind) = rest.split_at(part.len());
        part.copy_from_slice(own);
        rest = behind;
    }
}

/// The outcome of all ranks' parts of a batch. Losses of balance are means over tokens, all else is sums.
pub(crate) fn sum_outcome(ranks: &dyn Communicator, outcome: &mut Outcome) {
    if ranks.size() == 1 {
        return;
    }
    let Outcome { loss, targets, prediction, prediction_targets, loads } = outcome;
    let mut numbers = vec![*loss, *targets as f64, *prediction, *prediction_targets as f64];
    let total = |load: &Load| load.tokens.iter().sum::<u64>() as f64;
    for load in loads.iter() {
        numbers.push(load.loss * total(load));
        numbers.extend(load.tokens.iter().map(|&tokens| tokens as f64));
    }
    ranks.sum_f64(&mut numbers);
    let mut numbers = numbers.into_iter();
    let mut next = || numbers.next().expect("as many as were sent");
    (*loss, *targets) = (next(), next() as usize);
    (*prediction, *prediction_targets) = (next(), next() as usize);
    for load in loads {
        let sum = next();
        load.tokens.iter_mut().for_each(|tokens| *tokens = next() as u64);
        load.loss = sum / total(load).max(1.0);
    }
}

/// The lowest rank that failed, and its message, on all ranks alike.
pub fn first_failure(ranks: &dyn Communicator, own: Option<&str>) -> Option<(usize, String)> {
    let mut failed = vec![0.0; ranks.size()];
    failed[ranks.rank()] = f64::from(own.is_some());
    ranks.sum_f64(&mut failed);
    let first = failed.iter().position(|&failed| failed > 0.0)?;
    Some((first, text_of(ranks, first, own.unwrap_or_default())))
}

/// A text of the rank `root`, on all; its end is cut off where it is too long.
fn text_of(ranks: &dyn Communicator, root: usize, text: &str) -> String {
    let mut bytes = [0; MESSAGE_BYTES];
    let text = &text.as_bytes()[..text.floor_char_boundary(MESSAGE_BYTES)];
    bytes[..text.len()].copy_from_slice(text);
    ranks.broadcast(root, &mut bytes);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(MESSAGE_BYTES);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A result that is one on all ranks: where one has failed, all fail with its message; where one was stopped, all are.
pub(crate) fn agree<T>(ranks: &dyn Communicator, result: Result<T, Error>) -> Result<T, Error> {
    if ranks.size() == 1 {
        return result;
    }
    let own = result.as_ref().err().filter(|error| !matches!(error, Error::Stopped)).map(ToString::to_string);
    if let Some((rank, message)) = first_failure(ranks, own.as_deref()) {
        return Err(result.err().filter(|_| rank == ranks.rank()).unwrap_or(Error::Rank { rank, message }));
    }
    let mut stopped = [f64::from(result.is_err())];
    ranks.sum_f64(&mut stopped);
    if stopped[0] > 0.0 { Err(Error::Stopped) } else { result }
}

/// What rank 0 decides.
pub(crate) fn decide(ranks: &dyn Communicator, own: bool) -> bool {
    let mut byte = [u8::from(own)];
    ranks.broadcast(0, &mut byte);
    byte[0] != 0
}

/// Whether all ranks have the same text as rank 0; `what` it says, and what to do where they have not.
///
/// # Errors
/// On all ranks, where one has another.
pub(crate) fn same(ranks: &dyn Communicator, text: &str, what: &'static str) -> Result<(), Error> {
    let first = text_of(ranks, 0, text);
    let alike = if first == text { Ok(()) } else { Err(Error::Unlike { what, own: text.to_string(), first }) };
    agree(ranks, alike)
}

/// Seconds that the sum of so many gradients takes.
pub fn exchange_seconds(ranks: &dyn Communicator, mut numbers: usize) -> f64 {
    let mut bucket = vec![0.0; BUCKET.min(numbers)];
    // Connections are made by the first exchange.
    ranks.sum_f32(&mut bucket);
    let started = Instant::now();
    while numbers > 0 {
        let part = BUCKET.min(numbers);
        ranks.sum_f32(&mut bucket[..part]);
        numbers -= part;
    }
    started.elapsed().as_secs_f64()
}
