//! The books, open: what people ask of them and change in them. What a server writes while it serves is [`crate::Meter`]'s.

use std::path::PathBuf;

use sqlx::Row;

use crate::clock::Clock;
use crate::database::{self, Database};
use crate::error::LedgerError;
use crate::price_sheet::check_currency;

/// Keys, accounts, invitations, usage and balances in a database. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    currency: String,
    created_at: i64,
}

impl Ledger {
    /// Opens a ledger: a file (SQLite), which is made where there is none, or `postgres://USER@HOST/DATABASE`. `currency` is that of a new ledger; an old
    /// one keeps its own. A file that cannot be written, or whose directory cannot, is opened to be read; changes of it are errors.
    ///
    /// # Errors
    /// It cannot be opened, is no ledger, or is a newer version's.
    pub async fn open(address: &str, currency: &str, clock: Clock) -> Result<Ledger, LedgerError> {
        check_currency(currency).map_err(LedgerError::Invalid)?;
        let database = Database::open(address).await?;
        database.correct(&clock).await?;
        let first = "SELECT currency, created_at FROM ledger WHERE id = 1";
        let row = match sqlx::query(first).fetch_optional(&database.pool).await? {
            Some(row) => row,
            None => {
                let mut transaction = database.write().await?;
                sqlx::query(
                    "INSERT INTO ledger (id, currency, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING",
                )
                .bind(currency)
                .bind(clock.now())
                .execute(&mut *transaction)
                .await?;
                let row = sqlx::query(first).fetch_one(&mut *transaction).await?;
                transaction.commit().await?;
                row
            }
        };
        Ok(Ledger { database, clock, currency: row.try_get("currency")?, created_at: row.try_get("created_at")? })
    }

    /// Opens a ledger whose file is there; in a PostgreSQL database tables are made where there are none.
    ///
    /// # Errors
    /// There is no such file or nothing in it, it cannot be opened, is no ledger, or is a newer version's.
    pub async fn open_existing(address: &str, currency: &str, clock: Clock) -> Result<Ledger, LedgerError> {
        if let Some(file) = Ledger::absent(address)? {
            return Err(LedgerError::Absent(file));
        }
        Ledger::open(address, currency, clock).await
    }

    /// The file of this address, where it is still to be made; `None` for one that is there, and for a PostgreSQL database.
    ///
    /// # Errors
    /// An address that cannot be one, a file that cannot be read or is no database.
    pub fn absent(address: &str) -> Result<Option<PathBuf>, LedgerError> {
        database::absent(address)
    }

    /// The time by which it acts, in milliseconds since 1970: its database's, where servers share it.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// What tells it from other ledgers: the same whoever opens it, and for its copies.
    pub fn identity(&self) -> String {
        format!("{} {}", self.created_at, self.currency)
    }

    /// Code of its currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// Closes its connections; a file is whole then without its `-wal`.
    pub async fn close(&self) {
        self.database.pool.close().await;
    }
}
