//! A model of no mind for tests of grammars: it takes allowed tokens at random, rather those that bring an end nearer.

use farthing_text::Tokenizer;
use farthing_text::grammar::{GrammarError, Matcher};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether something of this chance in 1000 happens.
    pub fn chance(&mut self, of_1000: u64) -> bool {
        self.next() % 1000 < of_1000
    }
}

/// How much a token does for an end, and how much there is of it: closing first, long texts last.
fn weight(bytes: &[u8], late: bool) -> u64 {
    let has = |set: &[u8]| bytes.iter().any(|b| set.contains(b));
    let base = if has(b"}]") && !has(b"{[") {
        400
    } else if has(b"\"") {
        150
    } else if has(b"{[") {
        10
    } else if bytes.len() == 1 {
        20
    } else {
        4
    };
    if late && base >= 150 { base * 200 } else { base }
}

/// What became of one output.
pub struct Output {
    pub ids: Vec<u32>,
    pub finished: bool,
}

/// One output of at most `tokens_max` tokens. `wish` is taken, token by token, where allowed, with a chance of 1 in 20 to begin at a step.
pub fn sample(
    matcher: &mut Matcher,
    tokenizer: &Tokenizer,
    eos: u32,
    random: &mut Random,
    tokens_max: usize,
    wish: &[u32],
) -> Result<Output, GrammarError> {
    let mut ids = Vec::new();
    let mut wished = 0;
    let mut wishing = false;
    while ids.len() < tokens_max {
        let bits = matcher.allowed()?;
        let may = |id: u32| bits[id as usize / 32] >> (id % 32) & 1 == 1;
        wishing |= !wish.is_empty() && wished == 0 && random.chance(if ids.is_empty() { 300 } else { 50 });
        let id = if wishing && wished < wish.len() && may(wish[wished]) {
            wished += 1;
            wish[wished - 1]
        } else if may(eos) && (random.chance(if wish.is_empty() { 400 } else { 20 }) || ids.len() * 2 > tokens_max) {
            eos
        } else {
            choose(bits, tokenizer, eos, random, ids.len() * 3 > tokens_max)
        };
        if id == eos {
            return Ok(Output { ids, finished: true });
        }
        matcher.accept(id)?;
        ids.push(id);
    }
    Ok(Output { ids, finished: matcher.may_end() })
}

fn choose(bits: &[u32], tokenizer: &Tokenizer, eos: u32, random: &mut Random, late: bool) -> u32 {
    let mut options = Vec::new();
    let mut sum = 0;
    for (index, &word) in bits.iter().enumerate() {
        let mut word = word;
        while word != 0 {
            let id = index as u32 * 32 + word.trailing_zeros();
            word &= word - 1;
            if id != eos {
                sum += weight(&tokenizer.bytes(id).unwrap_or_default(), late);
                options.push((id, sum));
            }
        }
    }
    if options.is_empty() {
        return eos;
    }
    let at = random.next() % sum;
    options[options.partition_point(|&(_, upto)| upto <= at)].0
}

/// The text of an output's tokens, none left out.
pub fn text_of(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id).unwrap_or_default()).collect();
    String::from_utf8(bytes).expect("constrained output is UTF-8")
}
