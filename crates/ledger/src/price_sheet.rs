//! Price sheets: a TOML file with what tokens of each model cost, by the hour.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, NaiveTime, Timelike, Weekday};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::money::{Money, Price};

/// Bytes of a sheet at most.
const SHEET_BYTES_MAX: u64 = 1 << 20;
/// Models, and rules of hours, at most.
pub(crate) const ENTRIES_MAX: usize = 1000;
/// A price at most, for a million tokens: a million tokens of it stay within 64 bits of micro-units a million tokens.
pub(crate) const PRICE_MAX: Money = Money(1_000_000_000_000);
/// Days of the week as a sheet names them, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// A factor at most.
const FACTOR_MAX: f64 = 100.0;

/// A price sheet that cannot be used.
#[derive(Debug, Error)]
#[error("{}: {reason}", file.display())]
pub struct SheetError {
    file: PathBuf,
    reason: String,
}

/// What tokens cost, by model and time.
#[derive(Clone, Debug, PartialEq)]
pub struct PriceSheet {
    /// Code of the currency, such as `USD`.
    pub currency: String,
    models: Vec<(String, Price)>,
    hours: Vec<Hours>,
    /// What the prices of batches are multiplied with.
    batch: f64,
}

/// Hours of some days at which prices are multiplied.
#[derive(Clone, Debug, PartialEq)]
struct Hours {
    /// Days of the week on which the hours begin, Monday first.
    days: [bool; 7],
    /// Minutes of the day, UTC; hours that end before they begin end on the next day.
    from: u32,
    to: u32,
    factor: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SheetFile {
    currency: String,
    #[serde(default = "one")]
    batch: f64,
    models: Vec<ModelEntry>,
    #[serde(default)]
    hours: Vec<HoursEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelEntry {
    name: String,
    hit: toml::Value,
    miss: toml::Value,
    output: toml::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HoursEntry {
    from: String,
    to: String,
    #[serde(default)]
    days: Vec<String>,
    factor: f64,
}

fn one() -> f64 {
    1.0
}

impl PriceSheet {
    /// Reads a sheet.
    ///
    /// # Errors
    /// It cannot be read, is no such file, or a number in it cannot be a price.
    pub fn read(path: &Path) -> Result<PriceSheet, SheetError> {
        read_text(path, PriceSheet::parse)
    }

    /// Reads the text of a sheet.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<PriceSheet, String> {
        let file: SheetFile = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_string())?;
        check_currency(&file.currency)?;
        let factor = |key: &str, value: f64| {
            let fit = (0.0..=FACTOR_MAX).contains(&value);
            fit.then_some(value).ok_or_else(|| format!("{key} = {value}: a factor is 0 to {FACTOR_MAX}"))
        };
        if file.models.is_empty() {
            return Err("no [[models]]; give one with name, hit, miss and output (name = \"*\" is any model)".into());
        }
        if file.models.len().max(file.hours.len()) > ENTRIES_MAX {
            return Err(format!("more than {ENTRIES_MAX} models or hours"));
        }
        let mut models: Vec<(String, Price)> = Vec::with_capacity(file.models.len());
        for ModelEntry { name, hit, miss, output } in &file.models {
            let amount = |key: &str, value: &toml::Value| {
                amount(value).map_err(|why| format!("{key} of {name:?}: {why}")).map(|amount| amount.0)
            };
            let price =
                Price { hit: amount("hit", hit)?, miss: amount("miss", miss)?, output: amount("output", output)? };
            if models.iter().any(|(known, _)| known == name) {
                return Err(format!("two prices for {name:?}"));
            }
            models.push((name.clone(), price));
        }
        let hours = file.hours.iter().map(|entry| {
            let days = days(&entry.days)?;
            let (from, to) = (minute(&entry.from)?, minute(&entry.to)?);
            Ok::<_, String>(Hours { days, from, to, factor: factor("factor", entry.factor)? })
        });
        let hours = hours.collect::<Result<_, _>>()?;
        Ok(PriceSheet { currency: file.currency, models, hours, batch: factor("batch", file.batch)? })
    }

    /// What tokens of a model cost at a time (milliseconds since 1970), in a batch or not; `None` for a model without a price.
    pub fn price(&self, model: &str, now: i64, batch: bool) -> Option<Price> {
        let of = |name: &str| self.models.iter().find(|(known, _)| known == name).map(|(_, price)| *price);
        let Price { hit, miss, output } = of(model).or_else(|| of("*"))?;
        let mut factor = if batch { self.batch } else { 1.0 };
        if let Some(hours) = self.hours.iter().find(|hours| hours.holds(now)) {
            factor *= hours.factor;
        }
        // Amounts stay below 2^53, where f64 is exact.
        let times = |amount: i64| (amount as f64 * factor).round().min(PRICE_MAX.0 as f64) as i64;
        Some(Price { hit: times(hit), miss: times(miss), output: times(output) })
    }
}

impl PriceSheet {
    /// The sheet for programs: prices in micro-units a million tokens, and what they are multiplied with at a time (milliseconds since 1970).
    pub fn object(&self, now: i64) -> Value {
        let models = self
            .models
            .iter()
            .map(|(name, price)| json!({"name": name, "hit": price.hit, "miss": price.miss, "output": price.output}));
        let hours = self.hours.iter().map(|hours| {
            let days: Vec<&str> = DAYS.iter().zip(hours.days).filter(|(_, on)| *on).map(|(day, _)| *day).collect();
            let time = |minutes: u32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
            json!({"days": days, "from": time(hours.from), "to": time(hours.to), "factor": hours.factor})
        });
        json!({
            "currency": self.currency,
            "models": models.collect::<Vec<_>>(),
            "hours": hours.collect::<Vec<_>>(),
            "batch": self.batch,
            "factor": self.hours.iter().find(|hours| hours.holds(now)).map_or(1.0, |hours| hours.factor),
        })
    }
}

/// A sheet of one model, to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct SheetDraft {
    /// Lines of text that stand before it.
    pub remarks: Vec<String>,
    /// Code of the currency.
    pub currency: String,
    /// Name of the model in the API, or `*`.
    pub model: String,
    /// Its prices.
    pub price: Price,
    /// What the prices of batches are multiplied with.
    pub batch: f64,
    /// Hours of UTC, such as `16:30` and `00:30`, and what prices are multiplied with in them.
    pub hours: Vec<(String, String, f64)>,
}

impl SheetDraft {
    /// The text of the sheet, which [`PriceSheet::parse`] takes.
    ///
    /// # Errors
    /// Values that no sheet may have, as `parse` tells them.
    pub fn text(&self) -> Result<String, String> {
        let remarks = self.remarks.iter().flat_map(|remark| remark.lines());
        let mut text: String = remarks.map(|line| format!("# {}\n", line.replace(char::is_control, " "))).collect();
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let amount = |micros: i64| quoted(&Money(micros).to_string());
        let Price { hit, miss, output } = self.price;
        text += &format!("currency = {}\n", quoted(&self.currency));
        if self.batch != 1.0 {
            text += &format!("batch = {}\n", toml::Value::from(self.batch));
        }
        text += &format!("\n[[models]]\nname = {}\n", quoted(&self.model));
        text += &format!("hit = {}\nmiss = {}\noutput = {}\n", amount(hit), amount(miss), amount(output));
        for (from, to, factor) in &self.hours {
            let factor = toml::Value::from(*factor);
            text += &format!("\n[[hours]]\nfrom = {}\nto = {}\nfactor = {factor}\n", quoted(from), quoted(to));
        }
        PriceSheet::parse(&text).map(|_| text)
    }
}

/// A file of prices, read as far as such a file may be long.
pub(crate) fn read_text<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, SheetError> {
    let failed = |reason: String| SheetError { file: path.to_path_buf(), reason };
    let bytes = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if bytes > SHEET_BYTES_MAX {
        return Err(failed(format!("{bytes} bytes; a file of prices has at most {SHEET_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    parse(&text).map_err(failed)
}

impl Hours {
    fn holds(&self, now: i64) -> bool {
        let Some(now) = DateTime::from_timestamp_millis(now) else { return false };
        let minute = now.hour() * 60 + now.minute();
        let day = now.weekday().num_days_from_monday() as usize;
        let (today, yesterday) = (self.days[day], self.days[(day + 6) % 7]);
        if self.from < self.to {
            today && (self.from..self.to).contains(&minute)
        } else {
            today && minute >= self.from || yesterday && minute < self.to
        }
    }
}

/// Whether a text can be the code of a currency.
pub(crate) fn check_currency(code: &str) -> Result<(), String> {
    let fit = (1..=8).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase());
    fit.then_some(()).ok_or_else(|| format!("currency = {code:?}: give its code, such as USD, EUR or CNY"))
}

/// An amount in a sheet: a number, or text where every decimal counts.
pub(crate) fn amount(value: &toml::Value) -> Result<Money, String> {
    let amount = match value {
        toml::Value::String(text) => text.parse(),
        toml::Value::Integer(whole) => whole.to_string().parse(),
        // As short as it can be written, so with the decimals that the file has.
        toml::Value::Float(number) => number.to_string().parse(),
        other => Err(format!("a {} is no amount; give units of the currency a million tokens", other.type_str())),
    }?;
    if amount > PRICE_MAX {
        Err(format!("{amount} a million tokens; at most {PRICE_MAX} is taken"))
    } else {
        Ok(amount)
    }
}

fn minute(text: &str) -> Result<u32, String> {
    let time = NaiveTime::parse_from_str(text, "%H:%M");
    let time = time.map_err(|_| format!("{text:?} is no time; give hours and minutes of UTC, such as \"16:30\""))?;
    Ok(time.hour() * 60 + time.minute())
}

fn days(names: &[String]) -> Result<[bool; 7], String> {
    let mut days = [names.is_empty(); 7];
    for name in names {
        let day: Weekday =
            name.parse().map_err(|_| format!("{name:?} is no day; give mon, tue, wed, thu, fri, sat, sun"))?;
        days[day.num_days_from_monday() as usize] = true;
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHEET: &str = r#"
        currency = "USD"
        batch = 0.5
        [[models]]
        name = "flash"
        hit = 0.003
        miss = "0.15"
        output = 0.6
        [[models]]
        name = "*"
        hit = 0
        miss = 1
        output = 2
        [[hours]]
        from = "01:00"
        to = "04:00"
        days = ["mon", "tue", "wed", "thu", "fri"]
        factor = 2
        [[hours]]
        from = "22:30"
        to = "00:30"
        days = ["sat"]
        factor = 0.25
    "#;

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    }

    #[test]
    fn a_price_is_the_models_at_that_hour() {
        let sheet = PriceSheet::parse(SHEET).unwrap();
        let plain = Price { hit: 3_000, miss: 150_000, output: 600_000 };
        let output = |time: &str| sheet.price("flash", at(time), false).unwrap().output;
        assert_eq!(sheet.price("flash", at("2026-11-30T12:00:00Z"), false), Some(plain));
        assert_eq!(sheet.price("flash", at("2026-11-30T12:00:00Z"), true).unwrap().hit, 1_500);
        assert_eq!(sheet.price("another", at("2026-11-30T12:00:00Z"), false).unwrap().miss, 1_000_000);
        // Monday; the first and the last minute.
        assert_eq!(
            ["00:59", "01:00", "03:59", "04:00"].map(|t| output(&format!("2026-11-30T{t}:00Z"))),
            [600_000, 1_200_000, 1_200_000, 600_000]
        );
        // Sunday has no peak; Saturday's night ends on Sunday.
        assert_eq!(output("2026-11-29T02:00:00Z"), 600_000);
        assert_eq!(
            ["2026-11-28T22:30:00Z", "2026-11-29T00:29:00Z", "2026-11-29T00:30:00Z", "2026-11-29T22:45:00Z"]
                .map(output),
            [150_000, 150_000, 600_000, 600_000]
        );
    }

    #[test]
    fn a_draft_is_read_as_it_was_meant() {
        let mut draft = SheetDraft {
            remarks: vec!["measured\nnow".to_string(), "bell \u{7}".to_string()],
            currency: "CNY".to_string(),
            model: "org/a \"quoted\" \\ name".to_string(),
            price: Price { hit: 3, miss: 1_250_000, output: 7_000_000 },
            batch: 0.5,
            hours: vec![("16:30".to_string(), "00:30".to_string(), 0.25)],
        };
        let text = draft.text().unwrap();
        assert!(text.starts_with("# measured\n# now\n# bell  \ncurrency = \"CNY\"\n"), "{text}");
        let sheet = PriceSheet::parse(&text).unwrap();
        let (noon, night) = (at("2026-11-30T12:00:00Z"), at("2026-11-30T00:29:00Z"));
        assert_eq!(sheet.currency, "CNY");
        assert_eq!(sheet.price(&draft.model, noon, false), Some(draft.price));
        assert_eq!(sheet.price(&draft.model, night, false), Some(Price { hit: 1, miss: 312_500, output: 1_750_000 }));
        assert_eq!(sheet.price(&draft.model, noon, true).unwrap().output, 3_500_000);
        draft.hours[0].0 = "24:30".to_string();
        assert!(draft.text().unwrap_err().contains("24:30"));
    }

    #[test]
    fn sheets_that_cannot_be_meant_are_errors_that_name_the_value() {
        for (from, to, said) in [
            ("currency = \"USD\"", "currency = \"dollars\"", "dollars"),
            ("hit = 0.003", "hit = -0.003", "hit of \"flash\""),
            ("hit = 0.003", "hit = nan", "hit of \"flash\""),
            ("hit = 0.003", "hit = [1]", "no amount"),
            ("hit = 0.003", "hit = 0.0000001", "at most six decimals"),
            ("hit = 0.003", "hit = 0.1234567", "at most six decimals"),
            ("miss = \"0.15\"", "miss = \"0.1234567\"", "six decimals"),
            ("name = \"*\"", "name = \"flash\"", "two prices"),
            ("from = \"01:00\"", "from = \"25:00\"", "25:00"),
            ("\"mon\"", "\"someday\"", "someday"),
            ("factor = 2", "factor = -2", "factor"),
            ("batch = 0.5", "batch = inf", "batch"),
            ("batch = 0.5", "batches = 0.5", "batches"),
            ("output = 0.6", "", "output"),
        ] {
            assert!(SHEET.contains(from), "{from}");
            let error = PriceSheet::parse(&SHEET.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(said), "{to}: {error}");
        }
        assert!(PriceSheet::parse("currency = \"USD\"\nmodels = []").unwrap_err().contains("[[models]]"));
    }
}
