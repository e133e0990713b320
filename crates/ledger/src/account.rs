//! Accounts: who pays. Each has a balance of granted and of topped-up money, and any number of keys.

use rand::distr::{Alphanumeric, SampleString};
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::database::count;
use crate::error::LedgerError;
use crate::key::{NAME_CHARACTERS_MAX, check_name};
use crate::ledger::Ledger;
use crate::money::{AMOUNT_MAX, Money};

/// Characters of a note at most.
const NOTE_CHARACTERS_MAX: usize = 500;

/// Under this name stands the usage of accounts that were deleted.
pub(crate) const DELETED: &str = "deleted";

/// An account and its balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Identifies it.
    pub id: String,
    /// Its name, for people; no two accounts have the same.
    pub name: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
    /// Requests are paid from the balance. Else they are only metered.
    pub prepaid: bool,
    /// Money that was granted and is not spent.
    pub granted: Money,
    /// Money that was paid in and is not spent.
    pub topped_up: Money,
    /// What requests in flight may cost at most.
    pub reserved: Money,
}

impl Account {
    fn read(row: &AnyRow) -> Result<Account, LedgerError> {
        Ok(Account {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            created_at: row.try_get("created_at")?,
            prepaid: row.try_get::<i64, _>("prepaid")? != 0,
            granted: Money(row.try_get("granted")?),
            topped_up: Money(row.try_get("topped_up")?),
            reserved: Money(count(row, "reserved")?.min(i64::MAX as u64) as i64),
        })
    }

    /// Money that is not spent, reserved or not.
    pub fn balance(&self) -> Money {
        self.granted.plus(self.topped_up)
    }
}

/// What adds to a balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Money that was paid in.
    TopUp,
    /// Money that was given; it is spent first.
    Grant,
}

/// What entries of money that was taken back are called.
const CORRECTION: &str = "correction";

/// A change of a balance that is no charge. Entries are never changed, nor deleted but with their account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Identifies it.
    pub id: String,
    /// When it was made, in milliseconds since 1970.
    pub time: i64,
    /// `top_up`, `grant` or `correction`.
    pub kind: String,
    /// What was added; below zero where it was taken back.
    pub amount: Money,
    /// What it is for.
    pub note: String,
}

impl EntryKind {
    /// Its name in the books and in the API.
    pub fn word(self) -> &'static str {
        match self {
            EntryKind::TopUp => "top_up",
            EntryKind::Grant => "grant",
        }
    }
}

/// Columns of an account, with what its requests in flight may cost.
macro_rules! account_columns {
    () => {
        "id, name, created_at, prepaid, granted, topped_up, \
         CAST((SELECT COALESCE(SUM(cost), 0) FROM reservation WHERE reservation.account = account.id) AS BIGINT) AS reserved"
    };
}

/// An id that nobody guesses, with what it is of.
pub(crate) fn fresh_id(kind: &str) -> String {
    format!("{kind}_{}", Alphanumeric.sample_string(&mut rand::rng(), 20))
}

/// The account of an id or name.
pub(crate) async fn by_name(connection: &mut AnyConnection, name: &str) -> Result<Account, LedgerError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        account_columns!(),
        " FROM account WHERE id = $1 OR name = $1 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(name)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Account::read(&row))
        .transpose()?
        .ok_or_else(|| LedgerError::Unknown { kind: "account", name: name.into() })
}

async fn is_taken(connection: &mut AnyConnection, name: &str) -> Result<bool, LedgerError> {
    let found =
        sqlx::query("SELECT id FROM account WHERE id = $1 OR name = $1").bind(name).fetch_optional(connection).await?;
    Ok(found.is_some() || name == DELETED)
}

/// A name that no account has: this one, or with four letters behind it.
pub(crate) async fn free_name(connection: &mut AnyConnection, name: &str) -> Result<String, LedgerError> {
    if !is_taken(connection, name).await? {
        return Ok(name.to_string());
    }
    let start: String = name.chars().take(NAME_CHARACTERS_MAX - 5).collect();
    Ok(format!("{start}-{}", Alphanumeric.sample_string(&mut rand::rng(), 4)))
}

/// Inserts an account with an empty balance.
pub(crate) async fn insert(
    connection: &mut AnyConnection,
    name: &str,
    prepaid: bool,
    now: i64,
) -> Result<Account, LedgerError> {
    check_name(name)?;
    let id = fresh_id("acc");
    if is_taken(connection, name).await? {
        return Err(LedgerError::Invalid(format!("there is an account {name:?} already; give another name")));
    }
    let salt: [u8; 32] = rand::random();
    let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
    sqlx::query("INSERT INTO account (id, name, created_at, prepaid, granted, topped_up, charged, salt) VALUES ($1, $2, $3, $4, 0, 0, 0, $5)")
        .bind(&id)
        .bind(name)
        .bind(now)
        .bind(i64::from(prepaid))
        .bind(salt)
        .execute(&mut *connection)
        .await?;
    by_name(connection, &id).await
}

/// A change of a balance that is written down.
struct Change<'a> {
    kind: &'a str,
    granted: Money,
    topped_up: Money,
    note: &'a str,
}

/// Changes a balance, and writes down why.
async fn enter(connection: &mut AnyConnection, account: &str, change: Change<'_>, now: i64) -> Result<(), LedgerError> {
    sqlx::query("UPDATE account SET granted = granted + $2, topped_up = topped_up + $3 WHERE id = $1")
        .bind(account)
        .bind(change.granted.0)
        .bind(change.topped_up.0)
        .execute(&mut *connection)
        .await?;
    sqlx::query("INSERT INTO entry (id, account, time, kind, amount, note) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(fresh_id("ent"))
        .bind(account)
        .bind(now)
        .bind(change.kind)
        .bind(change.granted.plus(change.topped_up).0)
        .bind(change.note)
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds to a balance, and writes down why.
pub(crate) async fn credit(
    connection: &mut AnyConnection,
    account: &str,
    kind: EntryKind,
    amount: Money,
    note: &str,
    now: i64,
) -> Result<(), LedgerError> {
    let (granted, topped_up) = match kind {
        EntryKind::Grant => (amount, Money::ZERO),
        EntryKind::TopUp => (Money::ZERO, amount),
    };
    enter(connection, account, Change { kind: kind.word(), granted, topped_up, note }, now).await
}

fn check_note(note: &str) -> Result<(), LedgerError> {
    if note.chars().count() > NOTE_CHARACTERS_MAX {
        return Err(LedgerError::Invalid(format!("a note has at most {NOTE_CHARACTERS_MAX} characters")));
    }
    Ok(())
}

/// Adds money from outside to a balance, which requests are paid from then on.
pub(crate) async fn add(
    connection: &mut AnyConnection,
    account: &str,
    kind: EntryKind,
    amount: Money,
    note: &str,
    now: i64,
) -> Result<Account, LedgerError> {
    if amount <= Money::ZERO || amount > AMOUNT_MAX {
        return Err(LedgerError::Invalid(format!(
            "{amount} cannot be added; give more than 0 and at most {AMOUNT_MAX}"
        )));
    }
    check_note(note)?;
    let found = by_name(connection, account).await?;
    if found.balance().plus(amount) > AMOUNT_MAX {
        return Err(LedgerError::Invalid(format!("the balance would be more than {AMOUNT_MAX}")));
    }
    credit(connection, &found.id, kind, amount, note, now).await?;
    sqlx::query("UPDATE account SET prepaid = 1 WHERE id = $1").bind(&found.id).execute(&mut *connection).await?;
    by_name(connection, &found.id).await
}

/// The bytes of a salt.
pub(crate) fn salt(hex: &str) -> Result<[u8; 32], LedgerError> {
    let wrong =
        || LedgerError::Unavailable("the salt of an account is damaged; run `farthing ledger check`".to_string());
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

impl Ledger {
    /// Makes an account with an empty balance.
    ///
    /// # Errors
    /// The name is taken or cannot be one, or the books cannot be written.
    pub async fn create_account(&self, name: &str, prepaid: bool) -> Result<Account, LedgerError> {
        let mut transaction = self.database.write().await?;
        let account = insert(&mut transaction, name, prepaid, self.now()).await?;
        transaction.commit().await?;
        Ok(account)
    }

    /// All accounts, oldest first.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn accounts(&self) -> Result<Vec<Account>, LedgerError> {
        let query = sqlx::query(concat!("SELECT ", account_columns!(), " FROM account ORDER BY created_at, id"));
        query.fetch_all(&self.database.pool).await?.iter().map(Account::read).collect()
    }

    /// Ids of all accounts.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn account_ids(&self) -> Result<Vec<String>, LedgerError> {
        let rows = sqlx::query("SELECT id FROM account").fetch_all(&self.database.pool).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// The account of an id or name.
    ///
    /// # Errors
    /// There is none, or the books cannot be read.
    pub async fn account(&self, name: &str) -> Result<Account, LedgerError> {
        let mut connection = self.database.pool.acquire().await?;
        by_name(&mut connection, name).await
    }

    /// Adds money to a balance. An account without a balance becomes one that is paid from it.
    ///
    /// # Errors
    /// No such account, an amount that cannot be, or the books cannot be written.
    pub async fn credit(
        &self,
        account: &str,
        kind: EntryKind,
        amount: Money,
        note: &str,
    ) -> Result<Account, LedgerError> {
        let mut transaction = self.database.write().await?;
        let account = add(&mut transaction, account, kind, amount, note, self.now()).await?;
        transaction.commit().await?;
        Ok(account)
    }

    /// Takes money back that was added by mistake: topped-up money first, then granted money.
    ///
    /// # Errors
    /// No such account, an empty note, more than is there and no request in flight may need, or the books cannot be written.
    pub async fn deduct(&self, account: &str, amount: Money, note: &str) -> Result<Account, LedgerError> {
        if note.trim().is_empty() {
            return Err(LedgerError::Invalid("a correction needs a note that says what it is for".to_string()));
        }
        check_note(note)?;
        let mut transaction = self.database.write().await?;
        let found = by_name(&mut transaction, account).await?;
        let free = found.balance().minus(found.reserved).max(Money::ZERO);
        if amount <= Money::ZERO || amount > free {
            return Err(LedgerError::Invalid(format!(
                "{amount} cannot be taken back from {:?}; give more than 0 and at most {free}, which is neither spent nor reserved by requests in flight",
                found.name
            )));
        }
        let topped_up = amount.min(found.topped_up.max(Money::ZERO));
        let granted = amount.minus(topped_up);
        let back = |money: Money| Money::ZERO.minus(money);
        let change = Change { kind: CORRECTION, granted: back(granted), topped_up: back(topped_up), note };
        enter(&mut transaction, &found.id, change, self.now()).await?;
        let account = by_name(&mut transaction, &found.id).await?;
        transaction.commit().await?;
        Ok(account)
    }

    /// Entries of an account, by its id, newest first, `most` at most.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn entries(&self, account: &str, most: u32) -> Result<Vec<Entry>, LedgerError> {
        let query = sqlx::query(
            "SELECT id, time, kind, amount, note FROM entry WHERE account = $1 ORDER BY time DESC, id LIMIT $2",
        );
        let rows = query.bind(account).bind(i64::from(most)).fetch_all(&self.database.pool).await?;
        let entry = |row: &AnyRow| {
            Ok(Entry {
                id: row.try_get("id")?,
                time: row.try_get("time")?,
                kind: row.try_get("kind")?,
                amount: Money(row.try_get("amount")?),
                note: row.try_get("note")?,
            })
        };
        rows.iter().map(entry).collect()
    }

    /// Deletes an account: its keys, its balance and its name. Its usage stays as numbers that are nobody's. Its requests in flight are settled as they
    /// stand; their servers hear of it at their next progress ([`crate::Noted::Gone`]).
    ///
    /// # Errors
    /// No such account, or the books cannot be written.
    pub async fn delete_account(&self, name: &str) -> Result<Account, LedgerError> {
        let mut transaction = self.database.write().await?;
        let account = by_name(&mut transaction, name).await?;
        crate::reservation::interrupt_account(&mut transaction, &account.id, self.now()).await?;
        for statement in [
            concat!(
                "INSERT INTO usage_hour (key, account, model, hour, requests, hit, miss, output, reasoning, cost) \
             SELECT 'deleted', 'deleted', model, hour, CAST(SUM(requests) AS BIGINT), CAST(SUM(hit) AS BIGINT), CAST(SUM(miss) AS BIGINT), CAST(SUM(output) AS BIGINT), \
             CAST(SUM(reasoning) AS BIGINT), CAST(SUM(cost) AS BIGINT) FROM usage_hour WHERE account = $1 GROUP BY model, hour ",
                add_up!("usage_hour", "hour")
            ),
            concat!(
                "INSERT INTO usage_day (key, account, model, day, requests, hit, miss, output, reasoning, cost) \
             SELECT 'deleted', 'deleted', model, day, CAST(SUM(requests) AS BIGINT), CAST(SUM(hit) AS BIGINT), CAST(SUM(miss) AS BIGINT), CAST(SUM(output) AS BIGINT), \
             CAST(SUM(reasoning) AS BIGINT), CAST(SUM(cost) AS BIGINT) FROM usage_day WHERE account = $1 GROUP BY model, day ",
                add_up!("usage_day", "day")
            ),
            // An id may begin with what a client sent; its last 20 characters are ours, and make it the only one.
            "UPDATE usage SET request = substr(request, length(request) - 19), key = 'deleted', account = 'deleted' WHERE account = $1",
            "DELETE FROM usage_hour WHERE account = $1",
            "DELETE FROM usage_day WHERE account = $1",
            "DELETE FROM entry WHERE account = $1",
            "DELETE FROM api_key WHERE account = $1",
            "DELETE FROM account WHERE id = $1",
        ] {
            sqlx::query(statement).bind(&account.id).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(account)
    }
}
