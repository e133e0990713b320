//! Usage: rows of requests, and sums by key, account, model, day and hour.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::clock::{DAY_MS, HOUR_MS};
use crate::database::count;
use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::money::{Money, Tokens};

/// Rows that are deleted at a time.
const FORGOTTEN_AT_ONCE: i64 = 5000;

/// By what usage is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Key.
    Key,
    /// Account.
    Account,
    /// Model.
    Model,
    /// Day of UTC.
    Day,
    /// Hour of UTC, as far as hours are kept.
    Hour,
}

impl GroupBy {
    /// All of them.
    pub const ALL: [GroupBy; 5] = [GroupBy::Key, GroupBy::Account, GroupBy::Model, GroupBy::Day, GroupBy::Hour];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            GroupBy::Key => "key",
            GroupBy::Account => "account",
            GroupBy::Model => "model",
            GroupBy::Day => "day",
            GroupBy::Hour => "hour",
        }
    }
}

/// Which usage.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// First moment, in milliseconds since 1970; whole days count, or whole hours.
    pub from: i64,
    /// The moment after the last one.
    pub until: i64,
    /// Id of a key; empty: all.
    pub key: String,
    /// Id of an account; empty: all.
    pub account: String,
    /// A model; empty: all.
    pub model: String,
}

/// Usage of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Id of the key or account, the model, or the first moment of the day or hour in milliseconds since 1970.
    pub group: String,
    /// Requests that ended.
    pub requests: u64,
    /// Their tokens.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What they cost.
    pub cost: Money,
}

/// A request that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestUsage {
    /// Its id.
    pub request: String,
    /// When it was admitted, in milliseconds since 1970.
    pub time: i64,
    /// Its key.
    pub key: String,
    /// Account that pays.
    pub account: String,
    /// Path of the API.
    pub endpoint: String,
    /// Model that answered.
    pub model: String,
    /// What was delivered.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What it cost.
    pub cost: Money,
    /// From its admission to its end.
    pub latency_ms: u64,
    /// How it ended.
    pub status: String,
}

/// End of an insertion into a table of sums: a row that is there is added to.
macro_rules! add_up {
    ($table:literal, $period:literal) => {
        concat!(
            "ON CONFLICT (key, model, ",
            $period,
            ") DO UPDATE SET requests = ",
            $table,
            ".requests + excluded.requests, hit = ",
            $table,
            ".hit + excluded.hit, miss = ",
            $table,
            ".miss + excluded.miss, output = ",
            $table,
            ".output + excluded.output, reasoning = ",
            $table,
            ".reasoning + excluded.reasoning, cost = ",
            $table,
            ".cost + excluded.cost"
        )
    };
}

/// Sums over a table, by a column.
macro_rules! sums {
    ($group:literal, $table:literal, $time:literal) => {
        concat!(
            "SELECT CAST(",
            $group,
            " AS TEXT) AS grouped, CAST(SUM(requests) AS BIGINT) AS requests, CAST(SUM(hit) AS BIGINT) AS hit, CAST(SUM(miss) AS BIGINT) AS miss, \
             CAST(SUM(output) AS BIGINT) AS output, CAST(SUM(reasoning) AS BIGINT) AS reasoning, CAST(SUM(cost) AS BIGINT) AS cost FROM ",
            $table,
            " WHERE ",
            $time,
            " >= $1 AND ",
            $time,
            " < $2 AND ($3 = '' OR key = $3) AND ($4 = '' OR account = $4) AND ($5 = '' OR model = $5) GROUP BY 1 ORDER BY 1"
        )
    };
}

fn tokens(row: &AnyRow) -> Result<Tokens, sqlx::Error> {
    Ok(Tokens {
        hit: count(row, "hit")?,
        miss: count(row, "miss")?,
        output: count(row, "output")?,
        reasoning: count(row, "reasoning")?,
    })
}

impl Ledger {
    /// Sums of usage.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn usage(&self, filter: &UsageFilter, by: GroupBy) -> Result<Vec<Sum>, LedgerError> {
        let (statement, unit) = match by {
            GroupBy::Key => (sums!("key", "usage_day", "day"), DAY_MS),
            GroupBy::Account => (sums!("account", "usage_day", "day"), DAY_MS),
            GroupBy::Model => (sums!("model", "usage_day", "day"), DAY_MS),
            GroupBy::Day => (sums!("day", "usage_day", "day"), DAY_MS),
            GroupBy::Hour => (sums!("hour", "usage_hour", "hour"), HOUR_MS),
        };
        let rows = sqlx::query(statement)
            .bind(filter.from.div_euclid(unit))
            .bind(filter.until.saturating_add(unit - 1).div_euclid(unit))
            .bind(&filter.key)
            .bind(&filter.account)
            .bind(&filter.model)
            .fetch_all(&self.database.pool)
            .await?;
        let sum = |row: &AnyRow| {
            let group: String = row.try_get("grouped")?;
            let group = match by {
                GroupBy::Day | GroupBy::Hour => {
                    group.parse::<i64>().map_or(group, |period| period.saturating_mul(unit).to_string())
                }
                _ => group,
            };
            Ok(Sum {
                group,
                requests: count(row, "requests")?,
                tokens: tokens(row)?,
                cost: Money(row.try_get("cost")?),
            })
        };
        let mut sums: Vec<Sum> = rows.iter().map(sum).collect::<Result<_, LedgerError>>()?;
        if matches!(by, GroupBy::Day | GroupBy::Hour) {
            sums.sort_by_key(|sum| sum.group.parse::<i64>().unwrap_or(0));
        }
        Ok(sums)
    }

    /// Requests that ended, newest first, `most` at most.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn requests(&self, filter: &UsageFilter, most: u32) -> Result<Vec<RequestUsage>, LedgerError> {
        let rows = sqlx::query(
            "SELECT request, time, key, account, endpoint, model, hit, miss, output, reasoning, cost, latency_ms, status FROM usage \
             WHERE time >= $1 AND time < $2 AND ($3 = '' OR key = $3) AND ($4 = '' OR account = $4) AND ($5 = '' OR model = $5) ORDER BY time DESC, request LIMIT $6",
        )
        .bind(filter.from)
        .bind(filter.until)
        .bind(&filter.key)
        .bind(&filter.account)
        .bind(&filter.model)
        .bind(i64::from(most))
        .fetch_all(&self.database.pool)
        .await?;
        let request = |row: &AnyRow| {
            Ok(RequestUsage {
                request: row.try_get("request")?,
                time: row.try_get("time")?,
                key: row.try_get("key")?,
                account: row.try_get("account")?,
                endpoint: row.try_get("endpoint")?,
                model: row.try_get("model")?,
                tokens: tokens(row)?,
                cost: Money(row.try_get("cost")?),
                latency_ms: count(row, "latency_ms")?,
                status: row.try_get("status")?,
            })
        };
        rows.iter().map(request).collect()
    }

    /// Names of all models that were ever used.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn models_used(&self) -> Result<Vec<String>, LedgerError> {
        let query = sqlx::query("SELECT DISTINCT model FROM usage_day ORDER BY model");
        query.fetch_all(&self.database.pool).await?.iter().map(|row| Ok(row.try_get("model")?)).collect()
    }

    /// Requests in flight.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn in_flight(&self) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS requests FROM reservation").fetch_one(&self.database.pool).await?;
        Ok(count(&row, "requests")?)
    }
}

/// Deletes rows of requests and hours that are older than `keep_days`, some thousands at a time. Days are kept.
pub(crate) async fn forget(connection: &mut AnyConnection, now: i64, keep_days: u32) -> Result<(), LedgerError> {
    let before = now.saturating_sub(i64::from(keep_days).saturating_mul(DAY_MS));
    sqlx::query(
        "DELETE FROM usage WHERE request IN (SELECT request FROM usage WHERE time < $1 ORDER BY time LIMIT $2)",
    )
    .bind(before)
    .bind(FORGOTTEN_AT_ONCE)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM usage_hour WHERE hour < $1")
        .bind(before.div_euclid(HOUR_MS))
        .execute(&mut *connection)
        .await?;
    // Servers that ended long ago.
    sqlx::query("DELETE FROM server WHERE seen_at < $1 AND NOT EXISTS (SELECT 1 FROM reservation WHERE reservation.server = server.name)")
        .bind(before)
        .execute(connection)
        .await?;
    Ok(())
}
