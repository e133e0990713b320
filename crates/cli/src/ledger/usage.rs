//! `farthing usage`: what keys and accounts used, and what it cost

use std::collections::HashMap;

use ::ledger::{Clock, DAY_MS, GroupBy, Ledger, LedgerError, Money, RequestUsage, Sum, Tokens, UsageFilter};
use chrono::{DateTime, NaiveDate};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::table::{Column, csv, table};
use super::{LedgerArguments, accounts};
use crate::terminal::put;
use crate::{Failure, Outcome};

/// Days without --from.
const DAYS: i64 = 30;
/// Under this id stands the usage of accounts that were deleted.
const DELETED: &str = "deleted";

/// Show usage: requests, tokens and cost
///
/// Sums by day, hour, model, key or account, or single requests. Prompt tokens are counted as cache hits and misses; output includes reasoning. Days
/// are those of UTC. Usage of accounts that were deleted stands under `deleted`.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  farthing usage                                          the last 30 days
  farthing usage --from 2026-11-01 --until 2026-11-30 --by account --csv > november.csv
  farthing usage --by model --key laptop
  farthing usage --requests --most 20                     the newest 20 requests")]
pub struct Arguments {
    /// First day, as YYYY-MM-DD [default: 30 days that end with the last one]
    #[arg(long, value_name = "DATE", value_parser = date)]
    from: Option<NaiveDate>,
    /// Last day, as YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = date)]
    until: Option<NaiveDate>,
    /// What sums are of
    #[arg(long, value_enum, value_name = "GROUP", default_value = "day", conflicts_with = "requests")]
    by: By,
    /// Only this key, by id or name
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only this account, by id or name
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only this model, by its id in the API
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Single requests, newest first, as far as the server keeps them
    #[arg(long)]
    requests: bool,
    /// Requests at most
    #[arg(long, value_name = "N", default_value_t = 100, requires = "requests")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    most: u32,
    /// Comma-separated values for spreadsheets, without a line of sums
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    pub ledger: LedgerArguments,
}

/// What sums of usage are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Key,
    Account,
    Model,
    Day,
    Hour,
}

impl By {
    fn group(self) -> GroupBy {
        match self {
            By::Key => GroupBy::Key,
            By::Account => GroupBy::Account,
            By::Model => GroupBy::Model,
            By::Day => GroupBy::Day,
            By::Hour => GroupBy::Hour,
        }
    }

    /// Its name on the command line.
    fn name(self) -> &'static str {
        match self {
            By::Key => "key",
            By::Account => "account",
            By::Model => "model",
            By::Day => "day",
            By::Hour => "hour",
        }
    }

    /// Columns that name a group.
    fn columns(self) -> Vec<Column> {
        match self {
            By::Key | By::Account => vec![Column::text(self.name()), Column::text("id")],
            _ => vec![Column::text(self.name())],
        }
    }
}

/// Days, both included.
#[derive(Clone, Copy)]
struct Days {
    first: NaiveDate,
    last: NaiveDate,
}

/// What is printed: a table with its last line, and the same for programs.
struct Report {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    sum: Vec<String>,
    object: Value,
}

/// Names of keys and accounts by their ids.
struct Names {
    keys: HashMap<String, String>,
    accounts: HashMap<String, String>,
}

impl Names {
    async fn read(ledger: &Ledger) -> Result<Names, Failure> {
        let keys = ledger.keys().await?.into_iter().map(|key| (key.id, key.name)).collect();
        Ok(Names { keys, accounts: accounts::names(ledger).await? })
    }

    fn key(&self, id: &str) -> String {
        self.keys.get(id).map_or(id, String::as_str).to_string()
    }

    fn account(&self, id: &str) -> String {
        self.accounts.get(id).map_or(id, String::as_str).to_string()
    }
}

/// A day of the command line.
fn date(text: &str) -> Result<NaiveDate, String> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|date| date.to_string() == text);
    date.ok_or_else(|| "give a day as YYYY-MM-DD, such as 2026-11-29".to_string())
}

fn midnight(date: NaiveDate) -> i64 {
    i64::from(date.to_epoch_days()) * DAY_MS
}

/// The day of a time.
fn day(ms: i64) -> NaiveDate {
    DateTime::from_timestamp_millis(ms).unwrap_or_default().date_naive()
}

impl Arguments {
    fn days(&self) -> Result<Days, Failure> {
        let last = self.until.unwrap_or_else(|| day(Clock::default().now()));
        let first = self.from.unwrap_or_else(|| day(midnight(last) - (DAYS - 1) * DAY_MS));
        if first > last {
            return Err(Failure::usage(format!("--from {first}: it is after the last day, {last}")));
        }
        Ok(Days { first, last })
    }

    async fn filter(&self, ledger: &Ledger, days: Days) -> Result<UsageFilter, Failure> {
        Ok(UsageFilter {
            from: midnight(days.first),
            until: midnight(days.last) + DAY_MS,
            key: match &self.key {
                Some(key) => id(key, ledger.key(key).await.map(|key| key.id))?,
                None => String::new(),
            },
            account: match &self.account {
                Some(account) => id(account, ledger.account(account).await.map(|account| account.id))?,
                None => String::new(),
            },
            model: self.model.clone().unwrap_or_default(),
        })
    }
}

/// The id of what was named, or that of what was deleted.
fn id(name: &str, found: Result<String, LedgerError>) -> Result<String, Failure> {
    match found {
        Err(LedgerError::Unknown { .. }) if name == DELETED => Ok(DELETED.to_string()),
        found => Ok(found?),
    }
}

pub fn run(a: Arguments) -> Outcome {
    let days = a.days()?;
    a.ledger.open(async |ledger: &Ledger| {
        let (filter, names) = (a.filter(ledger, days).await?, Names::read(ledger).await?);
        let mut report = if a.requests {
            requests(ledger, &a, &filter, &names).await?
        } else {
            sums(a.by, ledger.currency(), &ledger.usage(&filter, a.by.group()).await?, &names)
        };
        if a.csv {
            return put(&csv(&report.columns, &report.rows));
        }
        report.object["from"] = days.first.to_string().into();
        report.object["until"] = days.last.to_string().into();
        if report.rows.is_empty() {
            a.ledger.note(&format!("no usage from {} to {}", days.first, days.last));
        }
        a.ledger.print(&report.object, || {
            report.rows.push(report.sum);
            table(&report.columns, &report.rows)
        })
    })
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
fn group(by: By, sum: &Sum, names: &Names) -> Vec<(&'static str, String)> {
    let time = DateTime::from_timestamp_millis(sum.group.parse().unwrap_or(0)).unwrap_or_default();
    match by {
        By::Key => vec![("name", names.key(&sum.group)), ("id", sum.group.clone())],
        By::Account => vec![("name", names.account(&sum.group)), ("id", sum.group.clone())],
        By::Model => vec![("model", sum.group.clone())],
        By::Day => vec![("day", time.format("%Y-%m-%d").to_string())],
        By::Hour => vec![("hour", time.format("%Y-%m-%dT%H:%MZ").to_string())],
    }
}

fn sums(by: By, currency: &str, sums: &[Sum], names: &Names) -> Report {
    let columns = by.columns().into_iter().chain(figure_columns(currency)).collect();
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
    let mut sum = vec![String::new(); by.columns().len()];
    sum[0] = "sum".to_string();
    sum.extend(figures(requests, &tokens, cost));
    let total = Map::from_iter(counted(requests, &tokens, cost));
    let object = json!({"currency": currency, "by": by.name(), "rows": objects, "sum": total});
    Report { columns, rows, sum, object }
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

async fn requests(ledger: &Ledger, a: &Arguments, filter: &UsageFilter, names: &Names) -> Result<Report, Failure> {
    let mut found = ledger.requests(filter, a.most + 1).await?;
    if found.len() > a.most as usize {
        found.truncate(a.most as usize);
        a.ledger.note(&format!("only the newest {} are shown; --most shows more", a.most));
    }
    let mut columns = ["time", "request", "key", "account", "endpoint", "model", "status"].map(Column::text).to_vec();
    columns.push(Column::number("ms"));
    let texts = columns.len();
    columns.extend(figure_columns(ledger.currency()).into_iter().skip(1));
    if a.csv {
        columns.extend(["key id", "account id"].map(Column::text));
    }
    let row = |request: &RequestUsage| {
        let (key, account) = (names.key(&request.key), names.account(&request.account));
        let time = DateTime::from_timestamp_millis(request.time).unwrap_or_default().format("%Y-%m-%d %H:%M:%S");
        let mut cells = vec![time.to_string(), request.request.clone(), key.clone(), account.clone()];
        cells.extend([&request.endpoint, &request.model, &request.status].map(String::clone));
        cells.push(request.latency_ms.to_string());
        cells.extend(figures(1, &request.tokens, request.cost).into_iter().skip(1));
        if a.csv {
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
    let object = json!({"currency": ledger.currency(), "requests": objects, "sum": total});
    Ok(Report { columns, rows, sum, object })
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
    }
}
