//! Inputs made from the corpus: what one is follows from the seed and its number alone.

/// The longest input that is made, in bytes, unless a file of the corpus is longer.
const LONGEST: usize = 4096;

/// Integers at the edges of their types, written over 1, 2, 4 or 8 bytes.
const INTEGERS: [u64; 14] =
    [0, 1, 2, 31, 32, 64, 127, 128, 255, 256, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];

/// Pieces of text that parsers treat specially.
const PIECES: [&str; 30] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[",
    "{",
    "}",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\\ud800",
    "\r\n",
    "\r\n\r\n",
    "\t",
    "{{",
    "}}",
    "{%",
    "%}",
    "../",
    "<s>",
    "\u{e9}",
    "\u{feff}",
    "\0",
];

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// The numbers that belong to one input of one run.
    pub fn of(seed: u64, input: u64) -> Random {
        Random(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ input.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where nothing is below it.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound as u64).max(1)) as usize
    }
}

/// The next input: a file of the corpus, changed in one to eight places. `corpus` is not empty.
pub fn input(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = corpus[random.below(corpus.len())].clone();
    let longest = LONGEST.max(data.len());
    for _ in 0..=random.below(8) {
        change(&mut data, corpus, random);
    }
    data.truncate(longest);
    data
}

/// One change.
fn change(data: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(data.len());
    let longest = 1 << random.below(8);
    let end = (at + 1 + random.below(longest)).min(data.len());
    match random.below(8) {
        0 if !data.is_empty() => data[at] ^= 1 << random.below(8),
        1 if !data.is_empty() => data[at] = random.next() as u8,
        2 => {
            let bytes = INTEGERS[random.below(INTEGERS.len())]
                .wrapping_add(random.below(3) as u64)
                .wrapping_sub(1)
                .to_le_bytes();
            let length = (1 << random.below(4)).min(data.len() - at);
            data[at..at + length].copy_from_slice(&bytes[..length]);
        }
        3 if !data.is_empty() => drop(data.drain(at..end)),
        4 if !data.is_empty() => {
            let again = data[at..end].to_vec();
            let to = random.below(data.len() + 1);
            data.splice(to..to, again);
        }
        5 => {
            let other = &corpus[random.below(corpus.len())];
            data.truncate(at);
            data.extend(&other[random.below(other.len())..]);
        }
        6 => {
            let piece = PIECES[random.below(PIECES.len())].bytes();
            data.splice(at..at, piece);
        }
        _ => replace_number(data, at, random),
    }
}

/// Replaces the first number in decimal digits at or after `at`.
fn replace_number(data: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = data[at..].iter().position(u8::is_ascii_digit).map(|i| at + i) else { return };
    let length = data[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let number = INTEGERS[random.below(INTEGERS.len())].to_string();
    data.splice(start..start + length, number.bytes());
}
