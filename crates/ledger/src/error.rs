//! What can go wrong with the books, and why a request is refused.

use std::fmt;
use std::path::PathBuf;

use sqlx::sqlite::SqliteError;
use thiserror::Error;

use crate::money::Money;

/// The books cannot be read or written, or an operation on them makes no sense.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Neither a file nor the address of a PostgreSQL database.
    #[error("{0}: a ledger is a file, or postgres://USER@HOST/DATABASE")]
    Address(String),
    /// A file that is no ledger of ours.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of a ledger that was to exist.
    #[error("{}: there is no ledger; `farthing keys create NAME` creates one", .0.display())]
    Absent(PathBuf),
    /// The database does not answer, its disk is full, its schema is another's, ...
    #[error("the ledger cannot be used: {0}")]
    Unavailable(String),
    /// The books were made by a newer version.
    #[error("the ledger has version {0}, which is newer than this program; use the newer one")]
    Newer(i64),
    /// Another process has this server's name.
    #[error(
        "another server writes to the ledger as {0:?}, and this one has lost the name; end one of them, and start it again with a --server-name of its own"
    )]
    Replaced(String),
    /// No account, key or invitation of this id or name.
    #[error("there is no {kind} {name:?}")]
    Unknown {
        /// `account`, `key` or `invitation`.
        kind: &'static str,
        /// As it was given.
        name: String,
    },
    /// All keys or invitations of this name were revoked; an id still names one.
    #[error("{kind} {name:?} was revoked already; give its id, {id}, to name it")]
    Revoked {
        /// `key` or `invitation`.
        kind: &'static str,
        /// As it was given.
        name: String,
        /// Id of the one that was revoked last.
        id: String,
    },
    /// A model of which there is no usage.
    #[error("there is no usage of model {model:?}; {}", nearest(near))]
    Unused {
        /// As it was given.
        model: String,
        /// Those with names most like it that have usage.
        near: Vec<String>,
    },
    /// A value that cannot be stored.
    #[error("{0}")]
    Invalid(String),
}

fn nearest(models: &[String]) -> String {
    if models.is_empty() { "no model was used yet".to_string() } else { format!("near it is {}", models.join(", ")) }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> LedgerError {
        // Messages of PostgreSQL may name the database and the user, none has a password or a value of ours.
        LedgerError::Unavailable(explained(&error))
    }
}

/// Result codes of SQLite, and of its extended ones those of writing (sqlite.org/rescode.html).
const READONLY: u32 = 8;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const IOERR_WRITE: u32 = 778;
const IOERR_FSYNC: u32 = 1034;
const IOERR_TRUNCATE: u32 = 1546;
const IOERR_SHMOPEN: u32 = 4618;
const IOERR_SHMSIZE: u32 = 4874;

/// SQLite's extended code of an error.
fn code(error: &sqlx::Error) -> Option<u32> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<SqliteError>()?;
    error.code()?.parse().ok()
}

/// Whether SQLite could not write, which reading may not need.
pub(crate) fn is_unwritable(error: &sqlx::Error) -> bool {
    let Some(code) = code(error) else { return false };
    matches!(code & 0xff, READONLY | FULL | CANTOPEN)
        || [IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_SHMOPEN, IOERR_SHMSIZE].contains(&code)
}

/// What an error of the database means, with the next step where it is not plain.
pub(crate) fn explained(error: &sqlx::Error) -> String {
    let Some(code) = code(error).filter(|_| is_unwritable(error)) else { return error.to_string() };
    let said = error.as_database_error().map(|error| error.message().to_string()).unwrap_or_default();
    match code & 0xff {
        READONLY | CANTOPEN => {
            format!("the file and its directory must be writable for this user ({said}, code {code})")
        }
        _ => format!("the disk is full or cannot be written ({said}, code {code}); make room on it"),
    }
}

/// A period that a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day of UTC.
    Day,
    /// A month of UTC.
    Month,
    /// The whole life of the key.
    Total,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Period::Day => "today's",
            Period::Month => "this month's",
            Period::Total => "the",
        })
    }
}

impl Period {
    /// What a client can do whose request its budget does not hold.
    fn advice(self) -> &'static str {
        match self {
            Period::Day => "send a smaller max_tokens, or wait until 00:00 UTC, when it is renewed",
            Period::Month => {
                "send a smaller max_tokens, or wait until the first of next month (UTC), when it is renewed"
            }
            Period::Total => "send a smaller max_tokens, or ask for a larger budget, because it is not renewed",
        }
    }
}

/// Why a request is not served. Amounts and times are the key's own.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// No such key, or one that was revoked or has expired: which of these is not told to strangers.
    #[error("the key is not known here, was revoked or has expired")]
    Key,
    /// The key is not for this model.
    #[error("this key is not for the model {model:?}; it is for {allowed}")]
    Model {
        /// The model that was asked for.
        model: String,
        /// Models of the key.
        allowed: String,
    },
    /// The key is not for this endpoint.
    #[error("this key is not for {endpoint}; it is for {allowed}")]
    Endpoint {
        /// The endpoint that was asked for.
        endpoint: String,
        /// Endpoints of the key.
        allowed: String,
    },
    /// Too many requests in flight.
    #[error("this key has {limit} requests in flight, the most that it may have; wait for one to end")]
    Concurrency {
        /// Requests at once.
        limit: u64,
    },
    /// Too many requests in a minute.
    #[error("this key may send {limit} requests a minute; try again in {} s", wait_ms.div_ceil(1000))]
    Requests {
        /// Requests a minute.
        limit: u64,
        /// Until the next one is served.
        wait_ms: u64,
    },
    /// Too many tokens in a minute.
    #[error("this key may use {limit} tokens a minute; try again in {} s", wait_ms.div_ceil(1000))]
    Tokens {
        /// Tokens a minute.
        limit: u64,
        /// Until the request is served.
        wait_ms: u64,
    },
    /// A prompt of more tokens than the key may use in a minute: waiting does not help.
    #[error("the prompt has {prompt} tokens, and this key may use {limit} a minute; send a shorter one")]
    Prompt {
        /// Tokens of the prompt.
        prompt: u64,
        /// Tokens a minute.
        limit: u64,
    },
    /// A budget of tokens does not hold the request.
    #[error("{period} budget of this key has {left} of {limit} tokens left, and the request may take {needed}; {}", period.advice())]
    TokenBudget {
        /// Which budget.
        period: Period,
        /// Tokens of the budget.
        limit: u64,
        /// What is neither spent nor reserved.
        left: u64,
        /// Prompt and the longest answer.
        needed: u64,
        /// Until the budget is whole again; `None` for one that never is.
        wait_ms: Option<u64>,
    },
    /// A budget of money does not hold the request.
    #[error("{period} budget of this key has {left} of {limit} {currency} left, and the request may cost {needed}; {}", period.advice())]
    MoneyBudget {
        /// Which budget.
        period: Period,
        /// The budget.
        limit: Money,
        /// What is neither spent nor reserved.
        left: Money,
        /// The most that the request may cost.
        needed: Money,
        /// Code of the ledger's currency.
        currency: String,
        /// Until the budget is whole again; `None` for one that never is.
        wait_ms: Option<u64>,
    },
    /// The balance of the account does not hold the request.
    #[error(
        "the account has {left} {currency} left, and the request may cost {needed}; top it up, or send a smaller max_tokens"
    )]
    Balance {
        /// What is neither spent nor reserved.
        left: Money,
        /// The most that the request may cost.
        needed: Money,
        /// Code of the ledger's currency.
        currency: String,
    },
}
