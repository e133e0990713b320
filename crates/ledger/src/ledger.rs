//! The books, open: what people ask of them and change in them. What a server writes while it serves is [`crate::Meter`]'s.

use sqlx::Row;

use crate::clock::Clock;
use crate::database::Database;
use crate::error::LedgerError;
use crate::price_sheet::check_currency;

/// Keys, accounts, invitations, usage and balances in a database. Clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    currency: String,
}

impl Ledger {
    /// Opens a ledger: a file (SQLite), which is made where there is none, or `postgres://USER@HOST/DATABASE`. `currency` is that of a new ledger; an old
    /// one keeps its own.
    ///
    /// # Errors
    /// It cannot be opened, is no ledger, or is a newer version's.
    pub async fn open(address: &str, currency: &str, clock: Clock) -> Result<Ledger, LedgerError> {
        check_currency(currency).map_err(LedgerError::Invalid)?;
        let database = Database::open(address).await?;
        let mut transaction = database.write().await?;
        sqlx::query("INSERT INTO ledger (id, currency, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING")
            .bind(currency)
            .bind(clock.now())
            .execute(&mut *transaction)
            .await?;
        let row = sqlx::query("SELECT currency FROM ledger WHERE id = 1").fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Ledger { database, clock, currency: row.try_get("currency")? })
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
