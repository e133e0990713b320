//! Requests in flight: each reserves the most that it may take, is charged for what was delivered, and ends once.
//!
//! What follows from limits, budgets, balance and rates is decided by `decide`, a function of one row; around it are a statement that reads the row and one
//! that writes the reservation, in the only transaction that writes.

use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::clock::{DAY_MS, HOUR_MS, day, month};
use crate::database::{count, stored};
use crate::error::{LedgerError, Period, Refusal};
use crate::key::{Budget, Key, Limits};
use crate::money::{Money, Price, Tokens};

/// A minute in the unit of rates, microseconds.
const MINUTE_US: i64 = 60_000_000;

/// A request that wants to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Id of the request; no two have the same.
    pub request: String,
    /// Id of the key.
    pub key: String,
    /// Path of the API.
    pub endpoint: String,
    /// Model that answers.
    pub model: String,
    /// What its tokens cost.
    pub price: Price,
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Longest answer of a choice.
    pub output: u64,
    /// The client named `output`: it is not made smaller.
    pub named: bool,
    /// Choices.
    pub choices: u64,
}

/// What a key may still do in this minute, for the headers of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Of requests.
    pub requests: Option<Rate>,
    /// Of tokens.
    pub tokens: Option<Rate>,
}

/// An allowance that fills up evenly, `limit` in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// In a minute, and at most at once.
    pub limit: u64,
    /// What is left of it now.
    pub remaining: u64,
    /// Until it is whole again, in milliseconds.
    pub reset_ms: u64,
}

/// A request that may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Longest answer of a choice: what was asked for, or less where the client named nothing and budget or balance hold less.
    pub output: u64,
    /// What the key may still do in this minute.
    pub allowance: Allowance,
}

/// Everything that decides about a request.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) key: Key,
    /// Code of the ledger's currency.
    currency: String,
    prepaid: bool,
    balance: Money,
    /// Of the account, and of the key.
    account_reserved: Money,
    key_reserved: Money,
    key_reserved_tokens: u64,
    pub(crate) in_flight: u64,
    day: (u64, Money),
    month: (u64, Money),
    pub(crate) requests_whole_at: i64,
    pub(crate) tokens_whole_at: i64,
}

/// A request that is admitted, and what to write down.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Admitted {
    output: u64,
    tokens: u64,
    cost: Money,
    requests_whole_at: i64,
    tokens_whole_at: i64,
    allowance: Allowance,
}

/// A rate as a time: `whole_at` is when the allowance is whole again if nothing more is taken (the generic cell rate algorithm, ITU-T I.371). It may hold
/// a debt: answers are counted when their length is known.
pub(crate) fn rate(limit: u64, whole_at: i64, now_us: i64) -> Rate {
    let missing_us = whole_at.saturating_sub(now_us).max(0);
    let missing = divide_up(i128::from(missing_us) * i128::from(limit), i128::from(MINUTE_US));
    let remaining = i128::from(limit).saturating_sub(missing).max(0) as u64;
    Rate { limit, remaining, reset_ms: divide_up(missing_us.into(), 1000) as u64 }
}

/// Division that rounds up, of numbers that are not negative.
fn divide_up(number: i128, by: i128) -> i128 {
    (number + by - 1) / by
}

/// `whole_at` after `taken` more, or fewer.
fn taken(limit: u64, whole_at: i64, now_us: i64, taken: i128) -> i64 {
    let time = taken.saturating_mul(i128::from(MINUTE_US)) / i128::from(limit.max(1));
    let after = i128::from(whole_at.max(now_us)).saturating_add(time);
    after.clamp(0, i128::from(i64::MAX)) as i64
}

/// Milliseconds until `needed` of a rate are there.
fn wait_ms(rate: &Rate, whole_at: i64, now_us: i64, needed: u64) -> u64 {
    let spare = i128::from(rate.limit.saturating_sub(needed)) * i128::from(MINUTE_US) / i128::from(rate.limit.max(1));
    let ready = i128::from(whole_at) - spare;
    let wait_us = (ready - i128::from(now_us)).clamp(1, i128::from(i64::MAX));
    divide_up(wait_us, 1000) as u64
}

/// Whether a request may be served, and with how long an answer.
fn decide(standing: &Standing, demand: &Demand, now: i64) -> Result<Admitted, Refusal> {
    let Standing { key, .. } = standing;
    let limits = &key.limits;
    if !key.valid(now) || key.admin {
        return Err(Refusal::Key);
    }
    limits.check_scopes(&demand.model, &demand.endpoint)?;
    if let Some(limit) = limits.concurrency.filter(|&limit| standing.in_flight >= limit) {
        return Err(Refusal::Concurrency { limit });
    }
    let now_us = now.saturating_mul(1000);
    let (mut requests_whole_at, mut tokens_whole_at) = (standing.requests_whole_at, standing.tokens_whole_at);
    let mut allowance = Allowance::default();
    if let Some(limit) = limits.requests_per_minute {
        let before = rate(limit, requests_whole_at, now_us);
        if before.remaining == 0 {
            return Err(Refusal::Requests { limit, wait_ms: wait_ms(&before, requests_whole_at, now_us, 1) });
        }
        requests_whole_at = taken(limit, requests_whole_at, now_us, 1);
        allowance.requests = Some(rate(limit, requests_whole_at, now_us));
    }
    if let Some(limit) = limits.tokens_per_minute {
        let before = rate(limit, tokens_whole_at, now_us);
        if demand.prompt > limit {
            return Err(Refusal::Prompt { prompt: demand.prompt, limit });
        }
        if before.remaining < demand.prompt.max(1) {
            return Err(Refusal::Tokens {
                limit,
                wait_ms: wait_ms(&before, tokens_whole_at, now_us, demand.prompt.max(1)),
            });
        }
        tokens_whole_at = taken(limit, tokens_whole_at, now_us, demand.prompt.into());
        allowance.tokens = Some(rate(limit, tokens_whole_at, now_us));
    }
    let output = affordable(standing, demand, now)?;
    let all = output.saturating_mul(demand.choices);
    let (tokens, cost) = (demand.prompt.saturating_add(all), demand.price.worst(demand.prompt, all));
    Ok(Admitted { output, tokens, cost, requests_whole_at, tokens_whole_at, allowance })
}

/// The longest answer that budgets and balance hold: `demand.output`, or less where the client did not name it.
fn affordable(standing: &Standing, demand: &Demand, now: i64) -> Result<u64, Refusal> {
    let today = day(now);
    let ends = |day: i64| Some((day.saturating_mul(DAY_MS) - now).max(0) as u64);
    let (next_day, next_month) = (ends(today + 1), ends(month(today).1));
    // The shortest answer that is worth a request: a token a choice, where an answer was asked for at all.
    let least = if demand.named { demand.output } else { demand.output.min(1) };
    let mut output = demand.output;
    let Budget { day, month, total } = standing.tokens_left();
    for (period, budget, wait_ms) in
        [(Period::Day, day, next_day), (Period::Month, month, next_month), (Period::Total, total, None)]
    {
        let Some((limit, left)) = budget else { continue };
        let needed = demand.prompt.saturating_add(least.saturating_mul(demand.choices));
        if needed > left {
            return Err(Refusal::TokenBudget { period, limit, left, needed, wait_ms });
        }
        output = output.min((left - demand.prompt) / demand.choices.max(1));
    }
    let needed = demand.price.worst(demand.prompt, least.saturating_mul(demand.choices));
    let Budget { day, month, total } = standing.money_left();
    for (period, budget, wait_ms) in
        [(Period::Day, day, next_day), (Period::Month, month, next_month), (Period::Total, total, None)]
    {
        let Some((limit, left)) = budget else { continue };
        if needed > left {
            let currency = standing.currency.clone();
            return Err(Refusal::MoneyBudget { period, limit, left, needed, currency, wait_ms });
        }
        output = output.min(longest(demand, left));
    }
    if let Some(left) = standing.balance_left() {
        // An empty balance serves nothing, whatever it costs.
        if needed > left || left == Money::ZERO {
            return Err(Refusal::Balance { left, needed, currency: standing.currency.clone() });
        }
        output = output.min(longest(demand, left));
    }
    Ok(output.max(least))
}

impl Standing {
    /// Budgets of tokens, and what of each is neither spent nor reserved.
    pub(crate) fn tokens_left(&self) -> Budget<(u64, u64)> {
        let left = |limit: Option<u64>, spent: u64| {
            limit.map(|limit| (limit, limit.saturating_sub(spent).saturating_sub(self.key_reserved_tokens)))
        };
        let Budget { day, month, total } = self.key.limits.tokens;
        Budget {
            day: left(day, self.day.0),
            month: left(month, self.month.0),
            total: left(total, self.key.total_tokens),
        }
    }

    /// Budgets of money, and what of each is neither spent nor reserved.
    pub(crate) fn money_left(&self) -> Budget<(Money, Money)> {
        let left = |limit: Option<Money>, spent: Money| {
            let free = |limit: Money| limit.minus(spent.max(Money::ZERO)).minus(self.key_reserved.max(Money::ZERO));
            limit.map(|limit| limit.max(Money::ZERO)).map(|limit| (limit, free(limit).max(Money::ZERO)))
        };
        let Budget { day, month, total } = self.key.limits.money;
        Budget { day: left(day, self.day.1), month: left(month, self.month.1), total: left(total, self.key.total_cost) }
    }

    /// Money on the account that no request in flight may need; `None` for an account without a balance.
    pub(crate) fn balance_left(&self) -> Option<Money> {
        self.prepaid.then(|| self.balance.minus(self.account_reserved).max(Money::ZERO))
    }
}

/// The longest answer of each choice whose worst case costs at most `left`; the prompt alone does.
fn longest(demand: &Demand, left: Money) -> u64 {
    let costs = |output: u64| demand.price.worst(demand.prompt, output.saturating_mul(demand.choices));
    if costs(demand.output) <= left {
        return demand.output;
    }
    let (mut fits, mut exceeds) = (0, demand.output);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        if costs(middle) <= left { fits = middle } else { exceeds = middle }
    }
    fits
}

/// What is known of a key before a request is served.
pub(crate) async fn standing(
    connection: &mut AnyConnection,
    key: &str,
    now: i64,
) -> Result<Option<Standing>, LedgerError> {
    let today = day(now);
    let row = sqlx::query(concat!(
        "SELECT ",
        key_columns!(),
        ", requests_whole_at, tokens_whole_at, (SELECT currency FROM ledger WHERE id = 1) AS currency, \
         CAST((SELECT prepaid FROM account WHERE account.id = api_key.account) AS BIGINT) AS prepaid, \
         CAST((SELECT granted + topped_up FROM account WHERE account.id = api_key.account) AS BIGINT) AS balance, \
         CAST((SELECT COALESCE(SUM(cost), 0) FROM reservation WHERE reservation.account = api_key.account) AS BIGINT) AS account_reserved, \
         CAST((SELECT COALESCE(SUM(cost), 0) FROM reservation WHERE reservation.account = api_key.account AND reservation.key = api_key.id) AS BIGINT) AS key_reserved, \
         CAST((SELECT COALESCE(SUM(tokens), 0) FROM reservation WHERE reservation.account = api_key.account AND reservation.key = api_key.id) AS BIGINT) AS key_reserved_tokens, \
         CAST((SELECT COUNT(*) FROM reservation WHERE reservation.account = api_key.account AND reservation.key = api_key.id) AS BIGINT) AS in_flight, \
         CAST((SELECT COALESCE(SUM(hit + miss + output), 0) FROM usage_day WHERE usage_day.key = api_key.id AND day = $2) AS BIGINT) AS day_tokens, \
         CAST((SELECT COALESCE(SUM(cost), 0) FROM usage_day WHERE usage_day.key = api_key.id AND day = $2) AS BIGINT) AS day_cost, \
         CAST((SELECT COALESCE(SUM(hit + miss + output), 0) FROM usage_day WHERE usage_day.key = api_key.id AND day >= $3 AND day <= $2) AS BIGINT) AS month_tokens, \
         CAST((SELECT COALESCE(SUM(cost), 0) FROM usage_day WHERE usage_day.key = api_key.id AND day >= $3 AND day <= $2) AS BIGINT) AS month_cost \
         FROM api_key WHERE id = $1"
    ))
    .bind(key)
    .bind(today)
    .bind(month(today).0)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let money = |column: &str| Ok::<_, sqlx::Error>(Money(row.try_get(column)?));
    Ok(Some(Standing {
        key: Key::read(&row)?,
        currency: row.try_get("currency")?,
        prepaid: row.try_get::<i64, _>("prepaid")? != 0,
        balance: money("balance")?,
        account_reserved: money("account_reserved")?,
        key_reserved: money("key_reserved")?,
        key_reserved_tokens: count(&row, "key_reserved_tokens")?,
        in_flight: count(&row, "in_flight")?,
        day: (count(&row, "day_tokens")?, money("day_cost")?),
        month: (count(&row, "month_tokens")?, money("month_cost")?),
        requests_whole_at: row.try_get("requests_whole_at")?,
        tokens_whole_at: row.try_get("tokens_whole_at")?,
    }))
}

/// Who writes: a server's name, and its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) server: String,
    pub(crate) run: String,
}

/// Reserves the most that a request may take, or says why not.
pub(crate) async fn reserve(
    connection: &mut AnyConnection,
    writer: &Writer,
    demand: &Demand,
    now: i64,
) -> Result<Result<Reservation, Refusal>, LedgerError> {
    let Some(standing) = standing(connection, &demand.key, now).await? else { return Ok(Err(Refusal::Key)) };
    let admitted = match decide(&standing, demand, now) {
        Ok(admitted) => admitted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    sqlx::query(
        "INSERT INTO reservation (request, server, run, key, account, endpoint, model, started_at, tokens, cost, price_hit, price_miss, price_output, hit, miss, \
         output, reasoning, prepaid) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, 0, 0, 0, $14)",
    )
    .bind(&demand.request)
    .bind(&writer.server)
    .bind(&writer.run)
    .bind(&demand.key)
    .bind(&standing.key.account)
    .bind(&demand.endpoint)
    .bind(&demand.model)
    .bind(now)
    .bind(stored(admitted.tokens))
    .bind(admitted.cost.0)
    .bind(demand.price.hit)
    .bind(demand.price.miss)
    .bind(demand.price.output)
    .bind(i64::from(standing.prepaid))
    .execute(&mut *connection)
    .await?;
    if admitted.allowance != Allowance::default() {
        sqlx::query("UPDATE api_key SET requests_whole_at = $2, tokens_whole_at = $3 WHERE id = $1")
            .bind(&demand.key)
            .bind(admitted.requests_whole_at)
            .bind(admitted.tokens_whole_at)
            .execute(connection)
            .await?;
    }
    Ok(Ok(Reservation { output: admitted.output, allowance: admitted.allowance }))
}

/// Why a request would not be reserved now, if it would not; nothing is taken.
pub(crate) async fn refusal(
    connection: &mut AnyConnection,
    demand: &Demand,
    now: i64,
) -> Result<Option<Refusal>, LedgerError> {
    let Some(standing) = standing(connection, &demand.key, now).await? else { return Ok(Some(Refusal::Key)) };
    Ok(decide(&standing, demand, now).err())
}

/// Writes down what a request has delivered so far. Whether it is still reserved.
pub(crate) async fn note(connection: &mut AnyConnection, request: &str, tokens: &Tokens) -> Result<bool, LedgerError> {
    let written =
        sqlx::query("UPDATE reservation SET hit = $2, miss = $3, output = $4, reasoning = $5 WHERE request = $1")
            .bind(request)
            .bind(stored(tokens.hit))
            .bind(stored(tokens.miss))
            .bind(stored(tokens.output))
            .bind(stored(tokens.reasoning))
            .execute(connection)
            .await?;
    Ok(written.rows_affected() == 1)
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Id of the request.
    pub request: String,
    /// All that it delivered.
    pub tokens: Tokens,
    /// `done`, `client_disconnected`, `failed`, ...
    pub status: String,
    /// From its reservation to its end.
    pub latency_ms: u64,
}

/// A reservation that has ended.
struct Ended {
    key: String,
    account: String,
    endpoint: String,
    model: String,
    started_at: i64,
    price: Price,
    noted: Tokens,
    /// Whether it was admitted against the account's balance.
    prepaid: bool,
}

macro_rules! ended_columns {
    () => {
        "request, key, account, endpoint, model, started_at, price_hit, price_miss, price_output, hit, miss, output, reasoning, prepaid"
    };
}

impl Ended {
    fn read(row: &AnyRow) -> Result<Ended, LedgerError> {
        Ok(Ended {
            key: row.try_get("key")?,
            account: row.try_get("account")?,
            endpoint: row.try_get("endpoint")?,
            model: row.try_get("model")?,
            started_at: row.try_get("started_at")?,
            price: Price {
                hit: row.try_get("price_hit")?,
                miss: row.try_get("price_miss")?,
                output: row.try_get("price_output")?,
            },
            noted: Tokens {
                hit: count(row, "hit")?,
                miss: count(row, "miss")?,
                output: count(row, "output")?,
                reasoning: count(row, "reasoning")?,
            },
            prepaid: row.try_get::<i64, _>("prepaid")? != 0,
        })
    }
}

/// Status of requests whose server died.
pub(crate) const INTERRUPTED: &str = "interrupted";

/// Ends a request and charges it. Its cost, or `None` if it was not in flight any more.
///
/// A request that another server took for dead (its server had not been seen for long) was charged for what was noted; it is charged for the rest now.
pub(crate) async fn settle(connection: &mut AnyConnection, ending: &Ending) -> Result<Option<Money>, LedgerError> {
    let row = sqlx::query(concat!("DELETE FROM reservation WHERE request = $1 RETURNING ", ended_columns!()))
        .bind(&ending.request)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = row {
        let ended = Ended::read(&row)?;
        return Ok(Some(charge(connection, &ended, ending).await?));
    }
    let row = sqlx::query(
        "SELECT request, key, account, endpoint, model, time AS started_at, price_hit, price_miss, price_output, hit, miss, output, reasoning, \
         CAST(1 AS BIGINT) AS prepaid FROM usage WHERE request = $1 AND status = 'interrupted' AND account <> 'deleted'",
    )
    .bind(&ending.request)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let before = Ended::read(&row)?;
    let all = ending.tokens.most(before.noted);
    let more = Tokens {
        hit: all.hit - before.noted.hit,
        miss: all.miss - before.noted.miss,
        output: all.output - before.noted.output,
        reasoning: all.reasoning - before.noted.reasoning,
    };
    let cost = before.price.cost(&all).minus(before.price.cost(&before.noted));
    sqlx::query("UPDATE usage SET hit = $2, miss = $3, output = $4, reasoning = $5, cost = cost + $6, latency_ms = $7, status = $8 WHERE request = $1")
        .bind(&ending.request)
        .bind(stored(all.hit))
        .bind(stored(all.miss))
        .bind(stored(all.output))
        .bind(stored(all.reasoning))
        .bind(cost.0)
        .bind(stored(ending.latency_ms))
        .bind(&ending.status)
        .execute(&mut *connection)
        .await?;
    add(connection, &before, &more, cost, 0).await?;
    Ok(Some(before.price.cost(&all)))
}

/// Writes a request's row, and adds it to all sums.
async fn charge(connection: &mut AnyConnection, ended: &Ended, ending: &Ending) -> Result<Money, LedgerError> {
    let (tokens, price) = (&ending.tokens, &ended.price);
    let cost = price.cost(tokens);
    sqlx::query(
        "INSERT INTO usage (request, time, key, account, endpoint, model, hit, miss, output, reasoning, price_hit, price_miss, price_output, cost, latency_ms, status) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(&ending.request)
    .bind(ended.started_at)
    .bind(&ended.key)
    .bind(&ended.account)
    .bind(&ended.endpoint)
    .bind(&ended.model)
    .bind(stored(tokens.hit))
    .bind(stored(tokens.miss))
    .bind(stored(tokens.output))
    .bind(stored(tokens.reasoning))
    .bind(price.hit)
    .bind(price.miss)
    .bind(price.output)
    .bind(cost.0)
    .bind(stored(ending.latency_ms))
    .bind(&ending.status)
    .execute(&mut *connection)
    .await?;
    add(connection, ended, tokens, cost, 1).await?;
    Ok(cost)
}

/// Adds tokens and money to the hour, the day, the key and the account.
async fn add(
    connection: &mut AnyConnection,
    ended: &Ended,
    tokens: &Tokens,
    cost: Money,
    requests: i64,
) -> Result<(), LedgerError> {
    let sums = [
        (
            concat!(
                "INSERT INTO usage_hour (key, account, model, hour, requests, hit, miss, output, reasoning, cost) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ",
                add_up!("usage_hour", "hour")
            ),
            ended.started_at.div_euclid(HOUR_MS),
        ),
        (
            concat!(
                "INSERT INTO usage_day (key, account, model, day, requests, hit, miss, output, reasoning, cost) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ",
                add_up!("usage_day", "day")
            ),
            day(ended.started_at),
        ),
    ];
    for (statement, period) in sums {
        sqlx::query(statement)
            .bind(&ended.key)
            .bind(&ended.account)
            .bind(&ended.model)
            .bind(period)
            .bind(requests)
            .bind(stored(tokens.hit))
            .bind(stored(tokens.miss))
            .bind(stored(tokens.output))
            .bind(stored(tokens.reasoning))
            .bind(cost.0)
            .execute(&mut *connection)
            .await?;
    }
    let row = sqlx::query("UPDATE api_key SET total_tokens = total_tokens + $2, total_cost = total_cost + $3 WHERE id = $1 RETURNING limits, tokens_whole_at")
        .bind(&ended.key)
        .bind(stored(tokens.all()))
        .bind(cost.0)
        .fetch_optional(&mut *connection)
        .await?;
    // The prompt was counted when it came.
    if let Some(row) = row
        && let Some(limit) = Limits::parse(row.try_get("limits")?)?.tokens_per_minute
    {
        let whole_at =
            taken(limit, row.try_get("tokens_whole_at")?, ended.started_at.saturating_mul(1000), tokens.output.into());
        sqlx::query("UPDATE api_key SET tokens_whole_at = $2 WHERE id = $1")
            .bind(&ended.key)
            .bind(whole_at)
            .execute(&mut *connection)
            .await?;
    }
    if ended.prepaid { spend(connection, &ended.account, cost).await } else { Ok(()) }
}

/// Takes money from a balance. Granted money is spent first. Accounts without a balance stay at zero, and no balance falls below: what a server that was taken
/// for dead had delivered may come to more than is left by then.
async fn spend(connection: &mut AnyConnection, account: &str, cost: Money) -> Result<(), LedgerError> {
    sqlx::query(
        "UPDATE account SET \
         topped_up = topped_up - CASE WHEN granted >= $2 THEN 0 WHEN granted + topped_up < $2 THEN topped_up ELSE $2 - granted END, \
         granted = CASE WHEN granted < $2 THEN 0 ELSE granted - $2 END, \
         charged = charged + CASE WHEN granted + topped_up < $2 THEN granted + topped_up ELSE $2 END \
         WHERE id = $1 AND prepaid = 1",
    )
    .bind(account)
    .bind(cost.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends requests of which no more will be heard, with what was noted.
async fn interrupt(connection: &mut AnyConnection, rows: &[AnyRow], now: i64) -> Result<usize, LedgerError> {
    for row in rows {
        let ended = Ended::read(row)?;
        let ending = Ending {
            request: row.try_get("request")?,
            tokens: ended.noted,
            status: INTERRUPTED.to_string(),
            latency_ms: now.saturating_sub(ended.started_at).max(0) as u64,
        };
        charge(connection, &ended, &ending).await?;
    }
    Ok(rows.len())
}

/// Ends the requests of an account.
pub(crate) async fn interrupt_account(
    connection: &mut AnyConnection,
    account: &str,
    now: i64,
) -> Result<usize, LedgerError> {
    let gone = sqlx::query(concat!("DELETE FROM reservation WHERE account = $1 RETURNING ", ended_columns!()));
    let rows = gone.bind(account).fetch_all(&mut *connection).await?;
    interrupt(connection, &rows, now).await
}

/// Ends the requests of a server's other runs.
pub(crate) async fn interrupt_runs(
    connection: &mut AnyConnection,
    writer: &Writer,
    now: i64,
) -> Result<usize, LedgerError> {
    let gone =
        sqlx::query(concat!("DELETE FROM reservation WHERE server = $1 AND run <> $2 RETURNING ", ended_columns!()));
    let rows = gone.bind(&writer.server).bind(&writer.run).fetch_all(&mut *connection).await?;
    interrupt(connection, &rows, now).await
}

/// Ends the requests of servers that were not seen since a time.
pub(crate) async fn interrupt_unseen(
    connection: &mut AnyConnection,
    since: i64,
    now: i64,
) -> Result<usize, LedgerError> {
    let gone = sqlx::query(concat!(
        "DELETE FROM reservation WHERE NOT EXISTS (SELECT 1 FROM server WHERE server.name = reservation.server AND server.run = reservation.run AND seen_at >= $1) RETURNING ",
        ended_columns!()
    ));
    let rows = gone.bind(since).fetch_all(&mut *connection).await?;
    interrupt(connection, &rows, now).await
}
