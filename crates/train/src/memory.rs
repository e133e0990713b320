//! Memory that a training needs at its peak, planned before the first step.

use crate::network::Network;
use crate::optimizer;
use crate::recipe::Recipe;

/// Bytes, by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights and gradients, in f32.
    pub numbers: u64,
    /// What the optimizer remembers, in f32.
    pub optimizer: u64,
    /// The larger of what a step of the optimizer and the writing of the model take for a moment.
    pub moment: u64,
    /// All that is kept for the backward, and buffers.
    pub activations: u64,
    /// Where the pieces of the data are, their order, and the micro-batches of a step.
    pub data: u64,
    /// The program.
    pub program: u64,
}

/// Resident bytes of the program with its tokenizer and threads, but without a model: measured on x86-64 Linux, 34 to 50 MiB.
const PROGRAM_BYTES: u64 = 40 << 20;

impl Memory {
    /// Of a network and a corpus of so many pieces and steps of so many tokens, with these activations, by so many threads.
    pub(crate) fn new(
        recipe: &Recipe,
        network: &Network,
        (pieces, batch): (u64, u64),
        activations: u64,
        threads: usize,
    ) -> Memory {
        let numbers = 4 * network.parameters.numbers() as u64;
        let (remembered, scratch) = optimizer::numbers(recipe.train.optimizer, &network.parameters, threads);
        // The model is written in 16 bits.
        let exported = numbers / 2;
        Memory {
            numbers: 2 * numbers,
            optimizer: 4 * remembered as u64,
            moment: (4 * scratch as u64).max(exported),
            activations,
            // A piece has its place (16 bytes) and its number in the order; a token of a step has an id and a target.
            data: pieces * 20 + batch * 8,
            program: PROGRAM_BYTES,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let Memory { numbers, optimizer, moment, activations, data, program } = *self;
        numbers + optimizer + moment + activations + data + program
    }
}
