//! Price lists: what others ask for tokens, by model and date; DeepSeek's history is one

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{NaiveDate, NaiveTime};
use serde::Deserialize;

use crate::clock::{DAY_MS, date};
use crate::cost::Kinds;
use crate::price_sheet::{ENTRIES_MAX, SheetError, amount, check_currency, read_text};

/// DeepSeek's prices since May 2024.
const HISTORY: &str = include_str!("price_history.toml");

/// Prices of several models over time.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceList {
    entries: Vec<ListedPrice>,
}

/// What a model cost from a day on.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedPrice {
    /// Names of the models that it was for.
    pub models: Vec<String>,
    /// The first day, as the list has it: `2025-09` where the day is not known.
    pub from: String,
    /// The hours of UTC for which it holds; `None`: all others.
    pub hours: Option<String>,
    /// What it is for, and what is not certain.
    pub note: Option<String>,
    /// Days since 1970: the first, and the first that it no longer holds for.
    days: (i64, Option<i64>),
    /// Units of each currency a million tokens.
    prices: BTreeMap<String, Kinds<f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListFile {
    prices: Vec<ListEntry>,
}

#[derive(Deserialize)]
struct ListEntry {
    models: Vec<String>,
    from: String,
    until: Option<String>,
    hours: Option<String>,
    note: Option<String>,
    #[serde(flatten)]
    currencies: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amounts {
    hit: Option<toml::Value>,
    miss: toml::Value,
    output: toml::Value,
}

/// The beginning (UTC) of a day such as `2025-02-26`, or of a month such as `2025-09`, in milliseconds since 1970.
///
/// # Errors
/// No such day.
pub fn day_of(text: &str) -> Result<i64, String> {
    let whole = if text.len() == "2025-09".len() { format!("{text}-01") } else { text.to_string() };
    let day = NaiveDate::parse_from_str(&whole, "%Y-%m-%d");
    let day =
        day.map_err(|_| format!("{text:?} is no day; give one such as 2025-02-26, or a month such as 2025-09"))?;
    Ok(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis())
}

impl ListEntry {
    fn checked(self) -> Result<ListedPrice, String> {
        let place = format!("{} from {}", self.models.join(", "), self.from);
        let wrong = |why: String| format!("prices of {place}: {why}");
        if self.models.is_empty() {
            return Err(wrong("models is empty".to_string()));
        }
        let from = day_of(&self.from).map_err(wrong)? / DAY_MS;
        let until = self.until.as_deref().map(day_of).transpose().map_err(wrong)?.map(|ms| ms / DAY_MS);
        let mut prices = BTreeMap::new();
        for (currency, value) in self.currencies {
            check_currency(&currency)
                .map_err(|why| wrong(format!("{currency:?} is no key, and no currency: {why}")))?;
            let amounts: Amounts = value.try_into().map_err(|e: toml::de::Error| wrong(e.message().to_string()))?;
            let number = |key: &str, value: &toml::Value| {
                let units = amount(value).map(|amount| amount.0 as f64 / 1e6);
                units.map_err(|why| wrong(format!("{key} in {currency}: {why}")))
            };
            let miss = number("miss", &amounts.miss)?;
            let hit = amounts.hit.as_ref().map_or(Ok(miss), |hit| number("hit", hit))?;
            prices.insert(currency.clone(), Kinds { hit, miss, output: number("output", &amounts.output)? });
        }
        if prices.is_empty() {
            return Err(wrong("no currency; give one as USD = { hit = 0.1, miss = 1, output = 2 }".to_string()));
        }
        let ListEntry { models, from: written, hours, note, .. } = self;
        Ok(ListedPrice { models, from: written, hours, note, days: (from, until), prices })
    }
}

impl PriceList {
    /// DeepSeek's prices since May 2024.
    pub fn history() -> PriceList {
        PriceList::parse(HISTORY).expect("the list that ships is sound")
    }

    /// Reads a list.
    ///
    /// # Errors
    /// It cannot be read, is no such file, or a number in it cannot be a price.
    pub fn read(path: &Path) -> Result<PriceList, SheetError> {
        read_text(path, PriceList::parse)
    }

    /// Reads the text of a list.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<PriceList, String> {
        let file: ListFile = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_string())?;
        if file.prices.is_empty() || file.prices.len() > ENTRIES_MAX {
            return Err(format!("{} [[prices]]; a list has 1 to {ENTRIES_MAX}", file.prices.len()));
        }
        let entries = file.prices.into_iter().map(ListEntry::checked).collect::<Result<_, _>>()?;
        Ok(PriceList { entries })
    }

    /// Names of all models, each once, in order.
    pub fn models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.iter().flat_map(|e| &e.models).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Prices of a model at a time (milliseconds since 1970): of each rule of hours the latest that had begun, the one for all hours first.
    pub fn at(&self, model: &str, now: i64) -> Vec<&ListedPrice> {
        let day = now.div_euclid(DAY_MS);
        let mut latest: BTreeMap<Option<&str>, &ListedPrice> = BTreeMap::new();
        for entry in self.entries.iter().filter(|e| e.models.iter().any(|name| name == model) && e.days.0 <= day) {
            let known = latest.entry(entry.hours.as_deref()).or_insert(entry);
            if entry.days.0 >= known.days.0 {
                *known = entry;
            }
        }
        latest.into_values().filter(|e| e.days.1.is_none_or(|until| day < until)).collect()
    }

    /// The first day on which a model had a price, such as `2025-02-26`.
    pub fn begins(&self, model: &str) -> Option<String> {
        let of = self.entries.iter().filter(|e| e.models.iter().any(|name| name == model));
        Some(date(of.map(|e| e.days.0).min()?)?.to_string())
    }
}

impl ListedPrice {
    /// Units of a currency a million tokens, where the list has them.
    pub fn of(&self, currency: &str) -> Option<Kinds<f64>> {
        self.prices.get(currency).copied()
    }

    /// The currencies of this price.
    pub fn currencies(&self) -> Vec<&str> {
        self.prices.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(model: &str, day: &str) -> Vec<(f64, f64, f64, Option<String>)> {
        let list = PriceList::history();
        let found = list.at(model, day_of(day).unwrap());
        let price = |e: &&ListedPrice| e.of("USD").map(|p| (p.hit, p.miss, p.output, e.hours.clone())).unwrap();
        found.iter().map(price).collect()
    }

    #[test]
    fn the_history_has_the_price_of_each_day() {
        assert_eq!(on("deepseek-chat", "2024-06-01"), [(0.14, 0.14, 0.28, None)]);
        assert_eq!(on("deepseek-chat", "2025-02-08"), [(0.014, 0.14, 0.28, None)]);
        assert_eq!(on("deepseek-chat", "2025-02-09"), [(0.07, 0.27, 1.10, None)]);
        let night = Some("16:30-00:30".to_string());
        assert_eq!(on("deepseek-chat", "2025-03-01"), [(0.07, 0.27, 1.10, None), (0.035, 0.135, 0.55, night)]);
        assert_eq!(on("deepseek-chat", "2025-09-10"), [(0.07, 0.56, 1.68, None)]);
        assert_eq!(on("deepseek-chat", "2026-07-23"), [(0.028, 0.28, 0.42, None)]);
        assert_eq!(on("deepseek-chat", "2026-07-24"), []);
        assert_eq!(on("deepseek-chat", "2024-04-30"), []);
        assert_eq!(on("deepseek-flash", "2026-11-29").len(), 2);
        assert_eq!(PriceList::history().begins("deepseek-r1").as_deref(), Some("2025-01-20"));
        assert!(PriceList::history().models().contains(&"deepseek-v4-pro"));
        // V2's first price in its own currency.
        let list = PriceList::history();
        let first = list.at("deepseek-v2", day_of("2024-05").unwrap());
        assert_eq!(first[0].of("CNY"), Some(Kinds { hit: 1.0, miss: 1.0, output: 2.0 }));
        assert_eq!((first[0].of("EUR"), first[0].currencies()), (None, vec!["CNY", "USD"]));
    }

    #[test]
    fn lists_that_cannot_be_meant_are_errors_that_name_the_value() {
        const LIST: &str =
            "[[prices]]\nmodels = [\"m\"]\nfrom = \"2025-09\"\nUSD = { hit = 0.1, miss = 1, output = 2 }\n";
        assert_eq!(PriceList::parse(LIST).unwrap().at("m", day_of("2025-09-01").unwrap()).len(), 1);
        for (from, to, said) in [
            ("2025-09", "2025-13", "2025-13"),
            ("2025-09", "yesterday", "yesterday"),
            ("hit = 0.1", "hit = -0.1", "hit in USD"),
            ("miss = 1", "miss = nan", "miss in USD"),
            ("miss = 1, ", "", "miss"),
            ("output = 2", "output = 2, extra = 1", "extra"),
            ("USD", "dollars", "dollars"),
            ("[\"m\"]", "[]", "models is empty"),
            ("USD = { hit = 0.1, miss = 1, output = 2 }", "", "no currency"),
        ] {
            assert!(LIST.contains(from), "{from}");
            let error = PriceList::parse(&LIST.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
        }
        assert!(PriceList::parse("prices = []").unwrap_err().contains("[[prices]]"));
    }
}
