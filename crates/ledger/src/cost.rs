//! Cost: what tokens cost the owner of a machine, from what the machine costs and how fast it is. Formulas only; nothing is measured here

use serde::Serialize;

use crate::money::Price;
use crate::price_sheet::PRICE_MAX;

/// Seconds of an hour.
const HOUR: f64 = 3600.0;
/// Joules of a kilowatt-hour.
const KILOWATT_HOUR: f64 = 3.6e6;
/// Hours of a year: 365.2425 days.
pub const HOURS_PER_YEAR: f64 = 8765.82;
/// Seconds of a twelfth of a year.
const MONTH: f64 = HOURS_PER_YEAR * HOUR / 12.0;
/// Tokens that a price is for.
const MILLION: f64 = 1e6;

/// How a figure came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Measured on this machine with this model.
    Measured,
    /// Measured on this machine with a stand-in for the model, which has its structure and no weights.
    Estimated,
    /// Given by the caller.
    Given,
    /// Nobody said: a default.
    Assumed,
    /// Follows from other figures.
    Computed,
}

/// A number and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number, in the unit of its place.
    pub value: f64,
    /// Its origin.
    pub from: Origin,
}

impl Figure {
    /// What was given, or else a default.
    pub fn given_or(given: Option<f64>, default: f64) -> Figure {
        match given {
            Some(value) => Figure { value, from: Origin::Given },
            None => Figure { value: default, from: Origin::Assumed },
        }
    }
}

/// What a machine costs, in units of one currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineCost {
    /// An hour, whether it works or not: rent, or its purchase over the hours that it lasts.
    pub hour: f64,
    /// A kilowatt-hour of electricity; 0 where it is part of the rent.
    pub kilowatt_hour: f64,
    /// Watts while it is on and has nothing to do.
    pub idle_watts: f64,
}

/// What an hour of a machine costs that was bought for `purchase` and lasts for `years`, at all hours.
pub fn hourly(purchase: f64, years: f64) -> f64 {
    purchase / (years * HOURS_PER_YEAR)
}

/// How fast tokens of one kind are, while the machine does nothing else, and what it draws meanwhile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Watts.
    pub watts: f64,
}

/// Three numbers: of prompt tokens found in the cache, of prompt tokens that are computed, and of tokens of answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kinds<T> {
    /// Prompt tokens found in the cache.
    pub hit: T,
    /// Prompt tokens that are computed.
    pub miss: T,
    /// Tokens of answers.
    pub output: T,
}

impl<T: Copy> Kinds<T> {
    /// The same of each.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Kinds<U> {
        Kinds { hit: f(self.hit), miss: f(self.miss), output: f(self.output) }
    }

    fn with<U: Copy>(self, other: Kinds<U>) -> Kinds<(T, U)> {
        Kinds { hit: (self.hit, other.hit), miss: (self.miss, other.miss), output: (self.output, other.output) }
    }
}

impl Kinds<f64> {
    /// Their sum.
    pub fn sum(self) -> f64 {
        self.hit + self.miss + self.output
    }

    /// Shares of a load: counts over their sum.
    pub fn shares(self) -> Kinds<f64> {
        let sum = self.sum();
        self.map(|count| count / sum)
    }

    /// The mean of `self`, weighed by `shares`.
    pub fn mean(self, shares: Kinds<f64>) -> f64 {
        self.with(shares).map(|(value, share)| value * share).sum()
    }
}

/// DeepSeek's published day of February 2025, in milliards of tokens: 342 of 608 of prompts were hits, 168 were of answers (github
/// deepseek-ai/open-infra-index, "One More Thing").
pub const PUBLISHED_DAY: Kinds<f64> = Kinds { hit: 342.0, miss: 266.0, output: 168.0 };

impl MachineCost {
    /// What a second of work costs, and what a second that the machine is on costs besides, at `watts` of work.
    fn seconds(&self, watts: f64) -> (f64, f64) {
        let joule = self.kilowatt_hour / KILOWATT_HOUR;
        ((watts - self.idle_watts) * joule, self.hour / HOUR + self.idle_watts * joule)
    }

    /// What a million tokens of one kind cost where the machine works for `utilisation` of its time: a million tokens are `1e6 / rate` seconds of
    /// work, and for each the machine is on for `1 / utilisation` seconds.
    pub fn per_million(&self, rate: Rate, utilisation: f64) -> f64 {
        let (work, on) = self.seconds(rate.watts);
        MILLION / rate.tokens_per_second * (work + on / utilisation)
    }

    /// The same of every kind. Each is charged for the time in which the machine would do nothing else. So a mixed load costs the sum of its kinds: exactly
    /// that where they are computed one after the other; less where prompts are read in the steps of others' answers.
    pub fn prices(&self, rates: Kinds<Rate>, utilisation: f64) -> Kinds<f64> {
        rates.map(|rate| self.per_million(rate, utilisation))
    }
}

/// Own cost beside somebody's prices, of a million tokens of a mixed load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What they ask.
    pub price: f64,
    /// Own cost at full load.
    pub cost_at_full_load: f64,
    /// Own cost over their price, at full load.
    pub ratio_at_full_load: f64,
    /// From which share of the time at work on own cost is below their price; `None`: not at full load either.
    pub break_even_utilisation: Option<f64>,
    /// Months of the load of one utilisation after which a purchase is paid by what they would have asked; `None`: never, or nothing was bought.
    pub payback_months: Option<f64>,
}

/// Who pays for a machine, how fast it is, and what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// What the machine costs.
    pub machine: MachineCost,
    /// Its rates.
    pub rates: Kinds<Rate>,
    /// Shares of the tokens, which add up to 1.
    pub shares: Kinds<f64>,
    /// The share of the time in which it works.
    pub utilisation: f64,
    /// The purchase, where there was one.
    pub purchase: Option<f64>,
}

impl Load {
    /// This load beside prices of a million tokens.
    ///
    /// Cost at a utilisation `u` is `a + b / u`: `a` is what only work costs, `b` what the machine costs while it is on. So `u = b / (price - a)` is where
    /// it equals the price.
    pub fn compare(&self, list: Kinds<f64>) -> Comparison {
        let price = list.mean(self.shares);
        let part = |of: fn((f64, f64)) -> f64| {
            let each = self.rates.map(|r| MILLION / r.tokens_per_second * of(self.machine.seconds(r.watts)));
            each.mean(self.shares)
        };
        let (work, on) = (part(|(work, _)| work), part(|(_, on)| on));
        let cost = work + on;
        let even = on / (price - work);
        Comparison {
            price,
            cost_at_full_load: cost,
            ratio_at_full_load: cost / price,
            break_even_utilisation: Some(even).filter(|u| price > work && (0.0..=1.0).contains(u)),
            payback_months: self.purchase.and_then(|paid| self.payback(paid, price)),
        }
    }

    /// Months until `paid` has come back: a month's tokens at their price, less the electricity.
    fn payback(&self, paid: f64, price: f64) -> Option<f64> {
        let bare = MachineCost { hour: 0.0, ..self.machine };
        let electricity = bare.prices(self.rates, self.utilisation).mean(self.shares);
        let seconds = self.rates.map(|rate| MILLION / rate.tokens_per_second).mean(self.shares);
        let millions = self.utilisation * MONTH / seconds;
        let months = paid / (millions * (price - electricity));
        Some(months).filter(|months| months.is_finite() && *months >= 0.0)
    }
}

/// Prices of a million tokens for a sheet: costs times `margin`, rounded up to a micro-unit, so that no price is below its cost.
///
/// # Errors
/// A price that no sheet may have; its name and value.
pub fn sheet_prices(costs: Kinds<f64>, margin: f64) -> Result<Price, String> {
    let micros = |name: &str, cost: f64| {
        let price = cost * margin * MILLION;
        // What is a whole number but for the rounding of binary fractions stays that.
        let micros = if (price - price.round()).abs() < 1e-6 { price.round() } else { price.ceil() };
        let fit = (0.0..=PRICE_MAX.0 as f64).contains(&micros);
        fit.then_some(micros as i64).ok_or_else(|| {
            let price = price / MILLION;
            format!("a price of {price} for a million tokens ({name}): a sheet takes 0 to {PRICE_MAX}")
        })
    };
    Ok(Price {
        hit: micros("hit", costs.hit)?,
        miss: micros("miss", costs.miss)?,
        output: micros("output", costs.output)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine at 36 an hour (a hundredth a second) with 3.6 a kilowatt-hour (a millionth a joule) that idles at 1000 watts (a thousandth a second).
    const MACHINE: MachineCost = MachineCost { hour: 36.0, kilowatt_hour: 3.6, idle_watts: 1000.0 };
    const RATES: Kinds<Rate> = Kinds {
        hit: Rate { tokens_per_second: 1e6, watts: 1000.0 },
        miss: Rate { tokens_per_second: 1e4, watts: 3000.0 },
        output: Rate { tokens_per_second: 1e3, watts: 2000.0 },
    };

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    #[test]
    fn a_million_tokens_cost_their_seconds() {
        // Hits: one second of 0.011. Misses: a hundred of 0.013. Answers: a thousand of 0.012.
        let full = MACHINE.prices(RATES, 1.0);
        assert!(close(full.hit, 0.011) && close(full.miss, 1.3) && close(full.output, 12.0), "{full:?}");
        // At a quarter three seconds of idling, 0.011 each, for each of work.
        let quarter = MACHINE.prices(RATES, 0.25);
        assert!(close(quarter.hit, 0.044) && close(quarter.miss, 4.6) && close(quarter.output, 45.0), "{quarter:?}");
    }

    #[test]
    fn rent_alone_is_divided_by_the_utilisation() {
        let rent = MachineCost { hour: 1.0, kilowatt_hour: 0.0, idle_watts: 500.0 };
        let rate = Rate { tokens_per_second: 100.0, watts: 900.0 };
        assert!(close(rent.per_million(rate, 1.0), 1e4 / 3600.0));
        assert!(close(rent.per_million(rate, 0.5), 2e4 / 3600.0));
    }

    #[test]
    fn the_published_day_has_its_shares() {
        let shares = PUBLISHED_DAY.shares();
        assert!(close(shares.sum(), 1.0));
        assert!((shares.hit / (shares.hit + shares.miss) - 0.5625).abs() < 1e-9);
        assert!(close(
            Kinds { hit: 1.0, miss: 2.0, output: 4.0 }.mean(Kinds { hit: 0.5, miss: 0.25, output: 0.25 }),
            2.0
        ));
    }

    fn load(purchase: Option<f64>) -> Load {
        let shares = Kinds { hit: 0.0, miss: 0.0, output: 1.0 };
        Load { machine: MACHINE, rates: RATES, shares, utilisation: 0.5, purchase }
    }

    #[test]
    fn costs_equal_the_price_where_they_break_even() {
        let list = |output: f64| Kinds { hit: 0.0, miss: 0.0, output };
        // 1 for work, 11 for being on.
        let at = load(None).compare(list(23.0));
        assert!(close(at.break_even_utilisation.unwrap(), 0.5) && close(at.cost_at_full_load, 12.0), "{at:?}");
        assert!(close(at.ratio_at_full_load, 12.0 / 23.0) && at.payback_months.is_none());
        // Dearer at full load; dearer for its electricity alone; for nothing.
        for price in [11.9, 0.5, 0.0] {
            assert_eq!(load(None).compare(list(price)).break_even_utilisation, None, "{price}");
        }
        assert!(close(load(None).compare(list(12.0)).break_even_utilisation.unwrap(), 1.0));
    }

    #[test]
    fn a_purchase_comes_back_with_what_others_would_have_asked() {
        let list = |output: f64| Kinds { hit: 0.0, miss: 0.0, output };
        // Half of a month at 1000 tokens a second, in millions; each saves 23 and takes 1000 s of 0.002 and as many of 0.001.
        let millions = 0.5 * MONTH * 1000.0 / 1e6;
        let months = load(Some(5000.0)).compare(list(23.0)).payback_months.unwrap();
        assert!(close(months, 5000.0 / (millions * (23.0 - 3.0))), "{months}");
        for price in [3.0, 1.0] {
            assert_eq!(load(Some(5000.0)).compare(list(price)).payback_months, None, "{price}");
        }
    }

    #[test]
    fn prices_of_a_sheet_are_rounded_up() {
        let costs = Kinds { hit: 0.000_000_2, miss: 0.1, output: 0.200_000_1 };
        assert_eq!(sheet_prices(costs, 1.0), Ok(Price { hit: 1, miss: 100_000, output: 200_001 }));
        assert_eq!(sheet_prices(costs, 3.0).unwrap().miss, 300_000);
        assert_eq!(sheet_prices(costs, 0.0), Ok(Price::FREE));
        for wrong in [f64::NAN, f64::INFINITY, -1.0, 1e7] {
            let error = sheet_prices(Kinds { output: wrong, ..costs }, 1.0).unwrap_err();
            assert!(error.contains("output"), "{error}");
        }
    }

    proptest! {
        /// At the utilisation of the break-even the mixed cost is the price, whatever the machine.
        #[test]
        fn break_even_is_where_cost_is_price(
            hour in 0.01..100.0, kilowatt_hour in 0.0..2.0, idle_watts in 0.0..500.0, more in 0.0..500.0,
            (hit, miss, output) in (1e3..1e6, 1e2..1e5, 1.0..1e4), price in 0.0..1000.0,
        ) {
            let rate = |tokens_per_second: f64| Rate { tokens_per_second, watts: idle_watts + more };
            let rates = Kinds { hit: rate(hit), miss: rate(miss), output: rate(output) };
            let machine = MachineCost { hour, kilowatt_hour, idle_watts };
            let load = Load { machine, rates, shares: PUBLISHED_DAY.shares(), utilisation: 0.3, purchase: None };
            let compared = load.compare(Kinds { hit: price, miss: price, output: price });
            match compared.break_even_utilisation {
                Some(u) => prop_assert!((machine.prices(rates, u).mean(load.shares) / price - 1.0).abs() < 1e-6),
                None => prop_assert!(machine.prices(rates, 1.0).mean(load.shares) >= price * (1.0 - 1e-9)),
            }
        }
    }
}
