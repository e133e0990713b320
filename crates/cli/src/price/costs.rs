//! What the machine costs and what others ask: arguments, their defaults, and the costs that follow by the formulas of `ledger::cost`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ledger::cost::{Comparison, Figure, Kinds, Load, MachineCost, Origin, PUBLISHED_DAY, Rate, hourly, sheet_prices};
use ledger::{Clock, ListedPrice, Price, PriceList, day_of};

use super::Paced;
use crate::{Failure, Outcome};

/// Watts that a thread is taken to draw with its share of the machine, where neither the machine nor anybody says.
pub const WATTS_PER_THREAD: f64 = 10.0;
/// Prices of a kilowatt-hour that are assumed: about what households paid in 2025.
const ELECTRICITY: [(&str, f64); 3] = [("USD", 0.17), ("EUR", 0.29), ("CNY", 0.55)];
/// Years that a purchase is taken to last.
const YEARS: f64 = 4.0;
/// The share of the time in which the machine works.
const UTILISATION: f64 = 0.3;
/// Milliseconds between two tokens of an answer.
pub const LATENCY_MS: f64 = 100.0;
/// The model whose price is beside the own cost, where none is named.
const RIVAL: &str = "deepseek-flash";
/// Amounts, watts and counts at most.
const MOST: f64 = 1e9;

/// What is paid, and what is to be asked.
#[derive(Args, Clone, Debug)]
pub struct Paid {
    /// Watts that the machine draws while it works [default: the processor's, where RAPL tells them; else 10 a thread]
    #[arg(long, value_name = "W", value_parser = amount)]
    pub watts: Option<f64>,
    /// Watts while it is on and has nothing to do [default: measured where RAPL tells them; else as many as at work]
    #[arg(long, value_name = "W", value_parser = amount)]
    pub idle_watts: Option<f64>,
    /// Price of a kilowatt-hour [default: 0.17 USD, 0.29 EUR or 0.55 CNY; nothing with --machine-hour]
    #[arg(long, value_name = "PRICE", value_parser = amount)]
    pub electricity: Option<f64>,
    /// Rent of the machine for an hour
    #[arg(long, value_name = "PRICE", value_parser = amount, conflicts_with_all = ["purchase", "years"])]
    pub machine_hour: Option<f64>,
    /// Price at which the machine was bought
    #[arg(long, value_name = "PRICE", value_parser = amount)]
    pub purchase: Option<f64>,
    /// Years that it lasts [default: 4]
    #[arg(long, value_name = "N", value_parser = above_zero, requires = "purchase")]
    pub years: Option<f64>,
    /// Currency of all amounts
    #[arg(long, value_name = "CODE", default_value = "USD")]
    pub currency: String,
    /// Share of the time in which the machine works, such as 0.5 [default: 0.3]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub utilisation: Option<f64>,
    /// What costs are multiplied with to make prices
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub margin: f64,
    /// Hours of UTC in which prices are multiplied, such as 01:00-04:00=2; repeatable
    #[arg(long, value_name = "HOURS=FACTOR", value_parser = hours)]
    pub peak: Vec<Hours>,
    /// The same for hours that are cheaper, such as 16:30-00:30=0.5; repeatable
    #[arg(long, value_name = "HOURS=FACTOR", value_parser = hours)]
    pub off_peak: Vec<Hours>,
    /// What the prices of batches are multiplied with
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub batch: f64,
}

/// Whose prices stand beside the own cost.
#[derive(Args, Clone, Debug)]
pub struct RivalArguments {
    /// A model of the price list, today or on a day: deepseek-flash, deepseek-chat@2025-03-01; repeatable [default: deepseek-flash]
    #[arg(long, value_name = "MODEL[@DAY]")]
    pub against: Vec<String>,
    /// A price list, TOML [default: DeepSeek's prices since May 2024]
    #[arg(long, value_name = "FILE")]
    pub price_list: Option<PathBuf>,
    /// Tokens of the load for that: cached, computed, answered, such as 56,44,28 [default: DeepSeek's published day, 342,266,168]
    #[arg(long, value_name = "HIT,MISS,OUTPUT", value_parser = mix)]
    pub mix: Option<Kinds<f64>>,
}

/// Hours of a day and a factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Hours {
    from: String,
    to: String,
    factor: f64,
}

fn within(text: &str, fit: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && fit(*x)).ok_or_else(|| format!("give {wanted}"))
}

/// An amount of money or watts.
pub fn amount(text: &str) -> Result<f64, String> {
    within(text, |x| (0.0..=MOST).contains(&x), "a number from 0 to 1000000000, such as 0.30")
}

/// A number that is more than nothing.
pub fn above_zero(text: &str) -> Result<f64, String> {
    within(text, |x| x > 0.0 && x <= MOST, "a number above 0 and at most 1000000000")
}

fn share(text: &str) -> Result<f64, String> {
    within(text, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1, such as 0.3")
}

fn factor(text: &str) -> Result<f64, String> {
    within(text, |x| (0.0..=100.0).contains(&x), "a factor from 0 to 100, such as 1.5")
}

fn hours(text: &str) -> Result<Hours, String> {
    let parts = text.split_once('=').and_then(|(hours, by)| Some((hours.split_once('-')?, by)));
    let ((from, to), by) = parts.ok_or("give hours of UTC and a factor, such as 16:30-00:30=0.5")?;
    let factor = factor(by)?;
    Ok(Hours { from: from.trim().to_string(), to: to.trim().to_string(), factor })
}

fn mix(text: &str) -> Result<Kinds<f64>, String> {
    let counts: Option<Vec<f64>> = text.split(',').map(|count| amount(count.trim()).ok()).collect();
    match counts.as_deref() {
        Some(&[hit, miss, output]) if hit + miss + output > 0.0 => Ok(Kinds { hit, miss, output }),
        _ => Err("give three counts that are not all 0, such as 342,266,168".to_string()),
    }
}

impl Paid {
    /// Refuses what no sheet may have, and options that contradict each other, before anything is measured.
    pub fn check(&self) -> Outcome {
        self.sheet("*", Price::FREE, Vec::new())?;
        for (option, all, fits) in
            [("--peak", &self.peak, (|f| f >= 1.0) as fn(f64) -> bool), ("--off-peak", &self.off_peak, |f| f <= 1.0)]
        {
            if let Some(Hours { from, to, factor }) = all.iter().find(|hours| !fits(hours.factor)) {
                let other = if option == "--peak" { "--off-peak" } else { "--peak" };
                return Err(Failure::usage(format!("{option} {from}-{to}={factor}: that is for {other}")));
            }
        }
        if let (Some(idle), Some(watts)) = (self.idle_watts, self.watts)
            && idle > watts
        {
            return Err(Failure::usage(format!("--idle-watts {idle} is more than --watts {watts}")));
        }
        let known = self.electricity.is_some() || self.machine_hour.is_some();
        if !known && !ELECTRICITY.iter().any(|(currency, _)| *currency == self.currency) {
            return Err(Failure::usage(format!(
                "no price of electricity is assumed in {}; give --electricity or --machine-hour",
                self.currency
            )));
        }
        Ok(())
    }

    /// The text of a price sheet.
    pub fn sheet(&self, model: &str, price: Price, remarks: Vec<String>) -> Result<String, Failure> {
        let hours = self.peak.iter().chain(&self.off_peak);
        let hours = hours.map(|h| (h.from.clone(), h.to.clone(), h.factor)).collect();
        let (currency, model, batch) = (self.currency.clone(), model.to_string(), self.batch);
        ledger::SheetDraft { remarks, currency, model, price, batch, hours }.text().map_err(Failure::usage)
    }

    fn electricity(&self) -> Figure {
        if self.electricity.is_none() && self.machine_hour.is_some() {
            return Figure { value: 0.0, from: Origin::Assumed };
        }
        let usual =
            ELECTRICITY.iter().find(|(currency, _)| *currency == self.currency).map_or(0.0, |(_, price)| *price);
        Figure::given_or(self.electricity, usual)
    }

    /// What an hour costs without electricity; `None` where only that is counted.
    fn hour(&self) -> Option<Figure> {
        let rent = self.machine_hour.map(|value| Figure { value, from: Origin::Given });
        rent.or_else(|| {
            let years = self.years.unwrap_or(YEARS);
            self.purchase.map(|paid| Figure { value: hourly(paid, years), from: Origin::Computed })
        })
    }
}

/// A price of somebody else's, by the name it was asked for.
#[derive(Clone, Debug)]
pub struct Rival {
    /// The name.
    pub name: String,
    /// The price.
    pub price: ListedPrice,
    /// In the currency of the costs.
    pub amounts: Kinds<f64>,
}

impl RivalArguments {
    /// The prices that are asked for, in a currency.
    pub fn find(&self, currency: &str) -> Result<Vec<Rival>, Failure> {
        let list = match &self.price_list {
            Some(file) => PriceList::read(file)?,
            None => PriceList::history(),
        };
        let usual =
            if self.price_list.is_none() && self.against.is_empty() { vec![RIVAL.to_string()] } else { Vec::new() };
        if self.price_list.is_some() && self.against.is_empty() {
            let models = list.models().join(", ");
            return Err(Failure::usage(format!("--price-list without --against: give one of {models}")));
        }
        let mut found = Vec::new();
        for asked in self.against.iter().chain(&usual) {
            let all = on_day(&list, asked)?;
            let in_currency = all.iter().filter_map(|price| Some((*price, price.of(currency)?)));
            let before = found.len();
            found.extend(in_currency.map(|(price, amounts)| Rival {
                name: asked.clone(),
                price: price.clone(),
                amounts,
            }));
            if found.len() == before && !self.against.is_empty() {
                let known = all.iter().flat_map(|price| price.currencies()).collect::<Vec<_>>().join(" or ");
                return Err(Failure::usage(format!(
                    "--against {asked} has no price in {currency}; give --currency {known}"
                )));
            }
        }
        Ok(found)
    }
}

/// The prices of `MODEL` or `MODEL@DAY`.
fn on_day<'a>(list: &'a PriceList, asked: &str) -> Result<Vec<&'a ListedPrice>, Failure> {
    let wrong = |why: String| Failure::usage(format!("--against {asked}: {why}"));
    let (model, day) = asked.split_once('@').map_or((asked, None), |(model, day)| (model, Some(day)));
    let now = day.map_or(Ok(Clock::default().now()), day_of).map_err(wrong)?;
    let Some(begins) = list.begins(model) else {
        return Err(wrong(format!("the price list knows {}", list.models().join(", "))));
    };
    match &list.at(model, now)[..] {
        [] => Err(wrong(format!(
            "it has no price on that day; its first one is of {begins}, give a day as {model}@{begins}"
        ))),
        found => Ok(found.to_vec()),
    }
}

/// Everything that goes into the costs, and they.
pub struct Costs {
    /// Currency of all amounts.
    pub currency: String,
    /// Tokens per second.
    pub rates: Kinds<Figure>,
    /// Sequences at once at which answers are priced, and whether they keep to the latency.
    pub sequences: (usize, bool),
    /// Milliseconds between two tokens.
    pub latency_ms: Figure,
    /// Watts at work.
    pub watts: Kinds<Figure>,
    /// Watts without work.
    pub idle_watts: Figure,
    /// A kilowatt-hour.
    pub electricity: Figure,
    /// An hour of the machine; `None`: only electricity is counted.
    pub hour: Option<Figure>,
    /// The purchase and its years.
    pub purchase: Option<(f64, Figure)>,
    /// Share of the time.
    pub utilisation: Figure,
    /// What costs are multiplied with.
    pub margin: f64,
    /// A million tokens at full load, and at the utilisation.
    pub full: Kinds<f64>,
    /// At the utilisation.
    pub used: Kinds<f64>,
    /// Prices of the sheet.
    pub sheet: Price,
    /// Shares of the load that is compared, and whether they were given.
    pub mix: (Kinds<f64>, Origin),
    /// Others' prices beside it.
    pub compared: Vec<(Rival, Comparison)>,
    /// What the machine costs.
    pub machine: MachineCost,
}

impl Costs {
    /// The costs of what was measured.
    pub fn new(
        paid: &Paid,
        mixed: &RivalArguments,
        latency: Option<f64>,
        paced: &Paced,
        rivals: &[Rival],
    ) -> Result<Costs, Failure> {
        let measured = &paced.measured;
        let origin = if paced.estimated { Origin::Estimated } else { Origin::Measured };
        let latency_ms = Figure::given_or(latency, LATENCY_MS);
        let best = measured.best(Duration::from_secs_f64(latency_ms.value / 1e3));
        let alone = measured.answers.first().map(|(n, answers)| (*n, answers));
        let (sequences, answers) = best.or(alone).ok_or_else(|| Failure::failed("no answers were measured"))?;
        let kinds = Kinds { hit: &measured.disk, miss: &measured.prefill, output: answers };
        let rates = kinds.map(|repeated| Figure { value: repeated.rate(), from: origin });
        let usual = WATTS_PER_THREAD * paced.threads as f64;
        let watts = kinds.map(|repeated| match (paid.watts, repeated.watts()) {
            (None, Some(value)) => Figure { value, from: origin },
            (given, _) => Figure::given_or(given, usual),
        });
        let idle_watts = match (paid.idle_watts, measured.idle_watts) {
            (None, Some(value)) => Figure { value, from: Origin::Measured },
            (given, _) => Figure::given_or(given, watts.output.value),
        };
        let (electricity, hour) = (paid.electricity(), paid.hour());
        let machine = MachineCost {
            hour: hour.map_or(0.0, |hour| hour.value),
            kilowatt_hour: electricity.value,
            idle_watts: idle_watts.value,
        };
        let by_kind = Kinds {
            hit: rate(rates.hit, watts.hit),
            miss: rate(rates.miss, watts.miss),
            output: rate(rates.output, watts.output),
        };
        let utilisation = Figure::given_or(paid.utilisation, UTILISATION);
        let used = machine.prices(by_kind, utilisation.value);
        let mix = mixed.mix.map_or((PUBLISHED_DAY, Origin::Assumed), |mix| (mix, Origin::Given));
        let mix = (mix.0.shares(), mix.1);
        let load =
            Load { machine, rates: by_kind, shares: mix.0, utilisation: utilisation.value, purchase: paid.purchase };
        Ok(Costs {
            currency: paid.currency.clone(),
            rates,
            sequences: (sequences, best.is_some()),
            latency_ms,
            watts,
            idle_watts,
            electricity,
            hour,
            purchase: paid.purchase.map(|price| (price, Figure::given_or(paid.years, YEARS))),
            utilisation,
            margin: paid.margin,
            full: machine.prices(by_kind, 1.0),
            used,
            sheet: sheet_prices(used, paid.margin).map_err(Failure::failed)?,
            mix,
            compared: rivals.iter().map(|rival| (rival.clone(), load.compare(rival.amounts))).collect(),
            machine,
        })
    }

    /// A million tokens of answers of so many sequences at once, at full load.
    pub fn of_answers(&self, tokens_per_second: f64) -> f64 {
        self.machine.per_million(Rate { tokens_per_second, watts: self.watts.output.value }, 1.0)
    }
}

fn rate(tokens_per_second: Figure, watts: Figure) -> Rate {
    Rate { tokens_per_second: tokens_per_second.value, watts: watts.value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_cannot_be_meant_are_refused() {
        for wrong in ["-1", "nan", "inf", "1e10", "", "much", "1,5"] {
            assert!(amount(wrong).is_err(), "{wrong}");
        }
        assert_eq!((amount("0"), amount("2.50")), (Ok(0.0), Ok(2.5)));
        assert!(above_zero("0").is_err() && share("1.01").is_err() && share("0").is_err() && factor("101").is_err());
        assert_eq!(mix("1, 2,1").map(|mix| mix.shares().miss), Ok(0.5));
        for wrong in ["1,2", "0,0,0", "1,2,3,4", "1,2,-3", "a,b,c"] {
            assert!(mix(wrong).is_err(), "{wrong}");
        }
        let parsed = Hours { from: "16:30".into(), to: "00:30".into(), factor: 0.25 };
        assert_eq!(hours("16:30-00:30=0.25"), Ok(parsed));
        for wrong in ["16:30=0.5", "16:30-00:30", "16:30-00:30=-1", "16:30-00:30=nan"] {
            assert!(hours(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rivals_have_a_day_and_a_currency() {
        let of = |against: &str, currency: &str| {
            let asked = RivalArguments { against: vec![against.to_string()], price_list: None, mix: None };
            asked.find(currency).map(|found| found.iter().map(|r| r.amounts.output).collect::<Vec<_>>())
        };
        assert_eq!(of("deepseek-chat@2025-03-01", "USD").unwrap(), [1.10, 0.55]);
        assert_eq!(of("deepseek-r1@2025-02", "CNY").unwrap(), [16.0]);
        let fails = |against: &str, currency: &str| of(against, currency).unwrap_err().to_string();
        assert!(fails("deepseek-chat@2026-11-29", "USD").contains("deepseek-chat@2024-05-01"));
        assert!(fails("gpt", "USD").contains("knows deepseek-chat, "));
        assert!(fails("deepseek-v4-pro@2026-05-01", "EUR").contains("--currency USD"));
        assert!(fails("deepseek-chat@soon", "USD").contains("soon"));
    }
}
