//! What a key may still use: rates, budgets, balance. Nothing is taken by asking.

use serde::Serialize;

use crate::error::{LedgerError, Refusal};
use crate::key::Budget;
use crate::ledger::Ledger;
use crate::money::Money;
use crate::reservation::{self, Demand, Rate, rate, standing};

/// What is left of a key's limits; a limit that it has not is not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Of requests in this minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<Rate>,
    /// Of tokens in this minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<Rate>,
    /// Requests that may be in flight beside those that are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Of the budgets of tokens: neither spent nor reserved by requests in flight.
    pub tokens: Budget<u64>,
    /// Of the budgets of money.
    pub money: Budget<Money>,
    /// Of the account's balance, where requests are paid from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Money>,
}

fn second<T>(budget: Budget<(T, T)>) -> Budget<T> {
    let Budget { day, month, total } = budget;
    Budget { day: day.map(|(_, left)| left), month: month.map(|(_, left)| left), total: total.map(|(_, left)| left) }
}

impl Ledger {
    /// What a key, by its id, may still use.
    ///
    /// # Errors
    /// There is none, or the books cannot be read.
    pub async fn left(&self, key: &str) -> Result<Left, LedgerError> {
        let now = self.now();
        let mut connection = self.database.pool.acquire().await?;
        let standing = standing(&mut connection, key, now).await?;
        let standing = standing.ok_or_else(|| LedgerError::Unknown { kind: "key", name: key.to_string() })?;
        let limits = &standing.key.limits;
        let now_us = now.saturating_mul(1000);
        Ok(Left {
            requests_per_minute: limits
                .requests_per_minute
                .map(|limit| rate(limit, standing.requests_whole_at, now_us)),
            tokens_per_minute: limits.tokens_per_minute.map(|limit| rate(limit, standing.tokens_whole_at, now_us)),
            concurrency: limits.concurrency.map(|limit| limit.saturating_sub(standing.in_flight)),
            tokens: second(standing.tokens_left()),
            money: second(standing.money_left()),
            balance: standing.balance_left(),
        })
    }

    /// Why a request would be refused now, if it would be. Nothing is reserved.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn refusal(&self, demand: &Demand) -> Result<Option<Refusal>, LedgerError> {
        let mut connection = self.database.pool.acquire().await?;
        reservation::refusal(&mut connection, demand, self.now()).await
    }
}
