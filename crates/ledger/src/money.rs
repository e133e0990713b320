//! Money in whole micro-units of the ledger's currency, and prices of tokens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Micro-units of one unit of the currency.
const MICROS: i64 = 1_000_000;

/// Tokens that a price is for.
const TOKENS_PRICED: i128 = 1_000_000;

/// The largest amount that is taken from outside, a milliard of units: sums of millions of them stay within 64 bits.
pub const AMOUNT_MAX: Money = Money(1_000_000_000 * MICROS);

/// An amount of money in micro-units: 1,000,000 are one unit of the ledger's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Money(pub i64);

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);

    /// The sum, at most what 64 bits hold.
    pub fn plus(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }

    /// The difference, which may be below zero.
    pub fn minus(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

/// Units with two to six decimals: `12.50`, `0.000123`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, amount) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (units, micros) = (amount / MICROS as u64, amount % MICROS as u64);
        let decimals = format!("{micros:06}");
        let kept = decimals.trim_end_matches('0').len().max(2);
        f.pad(&format!("{sign}{units}.{}", &decimals[..kept]))
    }
}

impl FromStr for Money {
    type Err = String;

    /// Reads units with up to six decimals; neither a sign nor an exponent.
    fn from_str(text: &str) -> Result<Money, String> {
        let (units, decimals) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let fit = !units.is_empty() && digits(units) && digits(decimals) && !text.ends_with('.');
        if !fit || decimals.len() > 6 {
            return Err(format!("{text:?} is no amount; give units with at most six decimals, such as 2.50"));
        }
        let micros: Option<i64> = format!("{units}{decimals:0<6}").parse().ok();
        let within = micros.map(Money).filter(|amount| *amount <= AMOUNT_MAX);
        within.ok_or_else(|| format!("{text} is too much; at most {AMOUNT_MAX} is taken"))
    }
}

/// What tokens cost: micro-units a million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Prompt tokens found in the cache.
    pub hit: i64,
    /// Prompt tokens that are computed.
    pub miss: i64,
    /// Tokens of the answer, reasoning included.
    pub output: i64,
}

impl Price {
    /// Nothing costs anything.
    pub const FREE: Price = Price { hit: 0, miss: 0, output: 0 };

    /// What `tokens` cost: the exact sum, rounded up once to a micro-unit, so that what has a price is never free.
    pub fn cost(&self, tokens: &Tokens) -> Money {
        let part = |price: i64, count: u64| i128::from(price) * i128::from(count);
        let inputs = part(self.hit, tokens.hit).saturating_add(part(self.miss, tokens.miss));
        let sum = inputs.saturating_add(part(self.output, tokens.output)).saturating_add(TOKENS_PRICED - 1);
        Money((sum / TOKENS_PRICED).clamp(0, i128::from(i64::MAX)) as i64)
    }

    /// The most that a prompt of `prompt` tokens and an answer of `output` tokens can cost, whatever the cache holds.
    pub fn worst(&self, prompt: u64, output: u64) -> Money {
        let dearer = Price { miss: self.hit.max(self.miss), ..*self };
        dearer.cost(&Tokens { miss: prompt, output, ..Tokens::default() })
    }
}

/// Tokens of a request that were delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Prompt tokens found in the cache.
    pub hit: u64,
    /// Prompt tokens that were computed.
    pub miss: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
    /// Reasoning tokens among `output`.
    pub reasoning: u64,
}

impl Tokens {
    /// Prompt and answer together.
    pub fn all(&self) -> u64 {
        self.hit.saturating_add(self.miss).saturating_add(self.output)
    }

    /// The larger of each count: progress never goes back.
    pub(crate) fn most(self, other: Tokens) -> Tokens {
        Tokens {
            hit: self.hit.max(other.hit),
            miss: self.miss.max(other.miss),
            output: self.output.max(other.output),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_written_and_read() {
        for (text, micros) in [
            ("0", 0),
            ("2.5", 2_500_000),
            ("12.50", 12_500_000),
            ("0.000001", 1),
            ("1000000000", 1_000_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Money(micros)), "{text}");
        }
        for wrong in
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "0.0000001", "1000000001", "99999999999999999999", " 1"]
        {
            assert!(wrong.parse::<Money>().is_err(), "{wrong}");
        }
        assert_eq!(
            [Money(2_500_000), Money(1), Money(-1_250_000)].map(|m| m.to_string()),
            ["2.50", "0.000001", "-1.25"]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(micros in 0..=AMOUNT_MAX.0) {
            prop_assert_eq!(Money(micros).to_string().parse(), Ok(Money(micros)));
        }

        /// Never less than the exact sum, less than a micro-unit more, and never more than the worst case.
        #[test]
        fn costs_are_rounded_up_once(
            (hit, miss, output) in (0..10_000_000_i64, 0..10_000_000_i64, 0..10_000_000_i64),
            (prompt, cached, answer) in (0..2_000_000_u64, 0..2_000_000_u64, 0..2_000_000_u64),
        ) {
            let price = Price { hit, miss, output };
            let hits = cached.min(prompt);
            let tokens = Tokens { hit: hits, miss: prompt - hits, output: answer, reasoning: 0 };
            let part = |price: i64, count: u64| price as i128 * i128::from(count);
            let exact = part(hit, hits) + part(miss, prompt - hits) + part(output, answer);
            let more = i128::from(price.cost(&tokens).0) * 1_000_000 - exact;
            prop_assert!((0..1_000_000).contains(&more), "{} more", more);
            prop_assert!(price.cost(&tokens) <= price.worst(prompt, answer));
        }
    }

    /// DeepSeek's price of May 2024: a yuan a million tokens of prompt, two of answer; of August: a tenth for hits.
    #[test]
    fn deepseeks_first_price() {
        let price = Price { hit: 100_000, miss: 1_000_000, output: 2_000_000 };
        let tokens = Tokens { hit: 640, miss: 360, output: 1000, reasoning: 0 };
        assert_eq!(price.cost(&tokens), Money(64 + 360 + 2000));
        let one = Tokens { hit: 1, ..Tokens::default() };
        assert_eq!((price.cost(&one), price.cost(&Tokens::default())), (Money(1), Money(0)));
        assert_eq!(
            Price { hit: i64::MAX, miss: i64::MAX, output: i64::MAX }.worst(u64::MAX, u64::MAX),
            Money(i64::MAX)
        );
    }
}
