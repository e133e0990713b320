//! Reports of usage: sums or single requests over days, as an object for programs and as rows for tables and CSV.

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value, json};

use crate::account::DELETED;
use crate::clock::DAY_MS;
use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::money::{Money, Tokens};
use crate::usage::{GroupBy, RequestUsage, Sum, UsageFilter};

/// Days of a report that names no first one.
const DAYS: i64 = 30;
/// Models at most that are named where one was never used.
const NEAR_MAX: usize = 3;
/// What a text may begin with to be a formula in a spreadsheet.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A column with its heading.
#[derive(Clone, Debug)]
pub enum Column {
    /// Text, from the left.
    Text(String),
    /// Numbers, from the right.
    Number(String),
}

impl Column {
    /// A column of text.
    pub fn text(heading: &str) -> Column {
        Column::Text(heading.to_string())
    }

    /// A column of numbers.
    pub fn number(heading: &str) -> Column {
        Column::Number(heading.to_string())
    }

    /// What stands above it.
    pub fn heading(&self) -> &str {
        let (Column::Text(heading) | Column::Number(heading)) = self;
        heading
    }
}

/// A table as RFC 4180 has it.
pub fn csv(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut out =
        columns.iter().map(|column| column.heading().replace(' ', "_")).collect::<Vec<_>>().join(",") + "\r\n";
    for row in rows {
        let cells = columns.iter().zip(row).map(|(column, cell)| match column {
            Column::Text(_) => escaped(cell),
            Column::Number(_) => cell.clone(),
        });
        out += &cells.collect::<Vec<_>>().join(",");
        out += "\r\n";
    }
    out
}

/// A text in CSV: in quotes where it needs them, with an apostrophe where it would be a formula.
fn escaped(text: &str) -> String {
    let apostrophe = if text.starts_with(FORMULA) { "'" } else { "" };
    if text.contains(['"', ',', '\r', '\n']) {
        format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{apostrophe}{text}")
    }
}

/// Days of UTC, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    /// The first one.
    pub first: NaiveDate,
    /// The last one.
    pub last: NaiveDate,
}

impl Days {
    /// From one day to another; `until` is today without one, and `from` 29 days before the last day. `None` where the first is after the last.
    pub fn new(from: Option<NaiveDate>, until: Option<NaiveDate>, now: i64) -> Option<Days> {
        let last = until.unwrap_or_else(|| date_of(now));
        let first = from.unwrap_or_else(|| date_of(midnight(last).saturating_sub((DAYS - 1) * DAY_MS)));
        (first <= last).then_some(Days { first, last })
    }

    /// How many they are.
    pub fn count(&self) -> u64 {
        self.last.signed_duration_since(self.first).num_days().max(0) as u64 + 1
    }
}

/// Reads a day written as YYYY-MM-DD.
///
/// # Errors
/// What is wanted.
pub fn date(text: &str) -> Result<NaiveDate, String> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|date| date.to_string() == text);
    date.ok_or_else(|| "give a day as YYYY-MM-DD, such as 2026-11-29".to_string())
}

fn midnight(date: NaiveDate) -> i64 {
    i64::from(date.to_epoch_days()).saturating_mul(DAY_MS)
}

/// The day of a time.
fn date_of(ms: i64) -> NaiveDate {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().date_naive()
}

/// What a report is of.
#[derive(Clone, Debug)]
pub struct ReportQuery {
    /// Over which days.
    pub days: Days,
    /// What sums are of.
    pub by: GroupBy,
    /// Single requests instead of sums, the newest, and how many at most.
    pub requests: Option<u32>,
    /// Only this key, by id or name; `deleted` for those of accounts that were deleted.
    pub key: Option<String>,
    /// Only this account, by id or name.
    pub account: Option<String>,
    /// Only this model.
    pub model: Option<String>,
    /// Ids beside the names of single requests' keys and accounts, in rows.
    pub ids: bool,
}

/// A report: a table with a line of sums, and the same for programs.
#[derive(Clone, Debug)]
pub struct Report {
    /// Columns of the table.
    pub columns: Vec<Column>,
    /// Its cells, a row each.
    pub rows: Vec<Vec<String>>,
    /// Its last line.
    pub sum: Vec<String>,
    /// For programs.
    pub object: Value,
    /// There are more requests than were asked for.
    pub more: bool,
}

/// Names of keys and accounts by their ids.
#[derive(Default)]
struct Names {
    keys: HashMap<String, String>,
    accounts: HashMap<String, String>,
}

impl Names {
    async fn read(ledger: &Ledger) -> Result<Names, LedgerError> {
        let keys = ledger.keys().await?.into_iter().map(|key| (key.id, key.name)).collect();
        Ok(Names { keys, accounts: ledger.account_names().await? })
    }

    fn key(&self, id: &str) -> String {
        self.keys.get(id).map_or(id, String::as_str).to_string()
    }

    fn account(&self, id: &str) -> String {
        self.accounts.get(id).map_or(id, String::as_str).to_string()
    }
}

/// The id of what was named, or that of what was deleted.
fn id(name: &str, found: Result<String, LedgerError>) -> Result<String, LedgerError> {
    match found {
        Err(LedgerError::Unknown { .. }) if name == DELETED => Ok(DELETED.to_string()),
        found => found,
    }
}

impl Ledger {
    /// A report of usage.
    ///
    /// # Errors
    /// No such key or account, a model that was never used, or the books cannot be read.
    pub async fn report(&self, query: &ReportQuery) -> Result<Report, LedgerError> {
        let filter = self.filter(query).await?;
        let named = query.requests.is_some() || matches!(query.by, GroupBy::Key | GroupBy::Account);
        let names = if named { Names::read(self).await? } else { Names::default() };
        let mut report = match query.requests {
            Some(most) => {
                let mut found = self.requests(&filter, most.saturating_add(1)).await?;
                let more = found.len() > most as usize;
                found.truncate(most as usize);
                Report { more, ..requests(&found, self.currency(), query.ids, &names) }
            }
            None => {
                let mut found = self.usage(&filter, query.by).await?;
                if matches!(query.by, GroupBy::Key | GroupBy::Account) {
                    // Ids say nothing: the dearest first.
                    found.sort_by_key(|sum| Reverse((sum.cost, sum.tokens.all())));
                }
                sums(query.by, self.currency(), &found, &names)
            }
        };
        report.object["from"] = query.days.first.to_string().into();
        report.object["until"] = query.days.last.to_string().into();
        Ok(report)
    }

    async fn filter(&self, query: &ReportQuery) -> Result<UsageFilter, LedgerError> {
        Ok(UsageFilter {
            from: midnight(query.days.first),
            until: midnight(query.days.last).saturating_add(DAY_MS),
            key: match &query.key {
                Some(key) => id(key, self.key(key).await.map(|key| key.id))?,
                None => String::new(),
            },
            account: match &query.account {
                Some(account) => id(account, self.account(account).await.map(|account| account.id))?,
                None => String::new(),
            },
            model: match &query.model {
                Some(model) => self.used(model).await?,
                None => String::new(),
            },
        })
    }

    /// A model that was used.
    async fn used(&self, model: &str) -> Result<String, LedgerError> {
        let mut used = self.models_used().await?;
        if used.iter().any(|known| known == model) {
            return Ok(model.to_string());
        }
        used.sort_by(|a, b| strsim::jaro(b, model).total_cmp(&strsim::jaro(a, model)));
        used.truncate(NEAR_MAX);
        Err(LedgerError::Unused { model: model.to_string(), near: used })
    }
}

/// Columns that name a group.
fn group_columns(by: GroupBy) -> Vec<Column> {
    match by {
        GroupBy::Key | GroupBy::Account => vec![Column::text(by.name()), Column::text("id")],
        _ => vec![Column::text(by.name())],
    }
}

/// Columns of figures.
fn figure_columns(currency: &str) -> Vec<Column> {
    let mut columns = ["requests", "prompt hit", "prompt miss", "output", "reasoning"].map(Column::number).to_vec();
    columns.push(Column::number(&format!("cost {currency}")));
    columns
}

fn figures(requests: u64, tokens: &Tokens, cost: Money) -> Vec<String> {
    let counts = [requests, tokens.hit, tokens.miss, tokens.output, tokens.reasoning];
    counts.map(|count| count.to_string()).into_iter().chain([cost.to_string()]).collect()
}

fn added<'a>(all: impl Iterator<Item = (u64, &'a Tokens, Money)>) -> (u64, Tokens, Money) {
    all.fold((0, Tokens::default(), Money::ZERO), |(requests, sum, cost), (more, tokens, its)| {
        let sum = Tokens {
            hit: sum.hit.saturating_add(tokens.hit),
            miss: sum.miss.saturating_add(tokens.miss),
            output: sum.output.saturating_add(tokens.output),
            reasoning: sum.reasoning.saturating_add(tokens.reasoning),
        };
        (requests.saturating_add(more), sum, cost.plus(its))
    })
}

/// What names a group: fields for programs, whose values are cells for people.
fn group(by: GroupBy, sum: &Sum, names: &Names) -> Vec<(&'static str, String)> {
    let time = DateTime::from_timestamp_millis(sum.group.parse().unwrap_or(0)).unwrap_or_default();
    match by {
        GroupBy::Key => vec![("name", names.key(&sum.group)), ("id", sum.group.clone())],
        GroupBy::Account => vec![("name", names.account(&sum.group)), ("id", sum.group.clone())],
        GroupBy::Model => vec![("model", sum.group.clone())],
        GroupBy::Day => vec![("day", time.format("%Y-%m-%d").to_string())],
        GroupBy::Hour => vec![("hour", time.format("%Y-%m-%dT%H:%MZ").to_string())],
    }
}

fn sums(by: GroupBy, currency: &str, sums: &[Sum], names: &Names) -> Report {
    let columns = group_columns(by).into_iter().chain(figure_columns(currency)).collect();
    let row = |sum: &Sum| {
        let group = group(by, sum, names);
        let mut fields: Map<String, Value> =
            group.iter().map(|(field, cell)| (field.to_string(), json!(cell))).collect();
        fields.extend(counted(sum.requests, &sum.tokens, sum.cost));
        let cells = group.into_iter().map(|(_, cell)| cell).chain(figures(sum.requests, &sum.tokens, sum.cost));
        (cells.collect(), Value::Object(fields))
    };
    let (rows, objects): (Vec<_>, Vec<_>) = sums.iter().map(row).unzip();
    let (requests, tokens, cost) = added(sums.iter().map(|sum| (sum.requests, &sum.tokens, sum.cost)));
    let mut sum = vec![String::new(); group_columns(by).len()];
    sum[0] = "sum".to_string();
    sum.extend(figures(requests, &tokens, cost));
    let total = Map::from_iter(counted(requests, &tokens, cost));
    let object = json!({"currency": currency, "by": by.name(), "rows": objects, "sum": total});
    Report { columns, rows, sum, object, more: false }
}

/// Figures for programs.
fn counted(requests: u64, tokens: &Tokens, cost: Money) -> [(String, Value); 6] {
    let figures = [
        ("requests", json!(requests)),
        ("hit", json!(tokens.hit)),
        ("miss", json!(tokens.miss)),
        ("output", json!(tokens.output)),
        ("reasoning", json!(tokens.reasoning)),
        ("cost", json!(cost)),
    ];
    figures.map(|(what, figure)| (what.to_string(), figure))
}

fn requests(found: &[RequestUsage], currency: &str, ids: bool, names: &Names) -> Report {
    let mut columns = ["time", "request", "key", "account", "endpoint", "model", "status"].map(Column::text).to_vec();
    columns.push(Column::number("ms"));
    let texts = columns.len();
    columns.extend(figure_columns(currency).into_iter().skip(1));
    if ids {
        columns.extend(["key id", "account id"].map(Column::text));
    }
    let row = |request: &RequestUsage| {
        let (key, account) = (names.key(&request.key), names.account(&request.account));
        let time = DateTime::from_timestamp_millis(request.time).unwrap_or_default().format("%Y-%m-%d %H:%M:%S");
        let mut cells = vec![time.to_string(), request.request.clone(), key.clone(), account.clone()];
        cells.extend([&request.endpoint, &request.model, &request.status].map(String::clone));
        cells.push(request.latency_ms.to_string());
        cells.extend(figures(1, &request.tokens, request.cost).into_iter().skip(1));
        if ids {
            cells.extend([&request.key, &request.account].map(String::clone));
        }
        let mut object = json!(request);
        (object["key_name"], object["account_name"]) = (key.into(), account.into());
        (cells, object)
    };
    let (rows, objects): (Vec<_>, Vec<_>) = found.iter().map(row).unzip();
    let (count, tokens, cost) = added(found.iter().map(|request| (1, &request.tokens, request.cost)));
    let mut sum = vec![String::new(); texts];
    (sum[0], sum[1]) = ("sum".to_string(), count.to_string());
    sum.extend(figures(count, &tokens, cost).into_iter().skip(1));
    let total = Map::from_iter(counted(count, &tokens, cost));
    let object = json!({"currency": currency, "requests": objects, "sum": total});
    Report { columns, rows, sum, object, more: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_written_one_way() {
        assert_eq!(midnight(date("2026-11-29").unwrap()), 1_795_910_400_000);
        for wrong in ["2026-1-5", "29.11.2026", "2026-02-30", "", "2026-11-29 ", "+2026-11-29", "today"] {
            assert!(date(wrong).is_err(), "{wrong}");
        }
        let noon = 1_795_953_600_000;
        let of = |from: Option<&str>, until: Option<&str>| {
            let day = |text: Option<&str>| text.map(|text| date(text).unwrap());
            Days::new(day(from), day(until), noon).map(|days| (days.first.to_string(), days.count()))
        };
        assert_eq!(of(None, None), Some(("2026-10-31".to_string(), 30)));
        assert_eq!(of(Some("2026-11-29"), None), Some(("2026-11-29".to_string(), 1)));
        assert_eq!(of(Some("2026-11-30"), None), None);
    }

    #[test]
    fn csv_is_quoted_and_no_formula() {
        let columns = [Column::text("key name"), Column::number("cost")];
        let names = ["plain", "a,b", "say \"hi\"", "=1+1", "+1", "-1", "@x", "=\"a\",b", " =x"];
        let rows: Vec<_> = names.iter().map(|name| vec![name.to_string(), "-1".to_string()]).collect();
        let lines = [
            "key_name,cost",
            "plain,-1",
            "\"a,b\",-1",
            "\"say \"\"hi\"\"\",-1",
            "'=1+1,-1",
            "'+1,-1",
            "'-1,-1",
            "'@x,-1",
            "\"'=\"\"a\"\",b\",-1",
            " =x,-1",
            "",
        ];
        assert_eq!(csv(&columns, &rows), lines.join("\r\n"));
    }
}
