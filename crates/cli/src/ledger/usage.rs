//! `farthing usage`: what keys and accounts used, and what it cost

use ::ledger::{Clock, Days, GroupBy, Ledger, ReportQuery, csv, date};
use chrono::NaiveDate;
use clap::{Args, ValueEnum};

use super::LedgerArguments;
use super::table::table;
use crate::terminal::put;
use crate::{Failure, Outcome};

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
}

impl Arguments {
    fn query(&self) -> Result<ReportQuery, Failure> {
        let now = Clock::default().now();
        let days = Days::new(self.from, self.until, now).ok_or_else(|| {
            let first = self.from.map(|date| date.to_string()).unwrap_or_default();
            let last = self.until.map_or_else(|| "today".to_string(), |date| date.to_string());
            Failure::usage(format!("--from {first}: it is after the last day, {last}"))
        })?;
        Ok(ReportQuery {
            days,
            by: self.by.group(),
            requests: self.requests.then_some(self.most),
            key: self.key.clone(),
            account: self.account.clone(),
            model: self.model.clone(),
            ids: self.csv,
        })
    }
}

pub fn run(a: Arguments) -> Outcome {
    let query = a.query()?;
    a.ledger.open(async |ledger: &Ledger| {
        let mut report = ledger.report(&query).await?;
        if report.more {
            a.ledger.note(&format!("only the newest {} are shown; --most shows more", a.most));
        }
        if a.csv {
            return put(&csv(&report.columns, &report.rows));
        }
        if report.rows.is_empty() {
            a.ledger.note(&format!("no usage from {} to {}", query.days.first, query.days.last));
        }
        a.ledger.print(&report.object, || {
            report.rows.push(report.sum);
            table(&report.columns, &report.rows)
        })
    })
}
