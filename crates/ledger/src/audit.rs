//! The books looked over as a whole: whether their sums agree, a copy of them, and everything in them as lines.

use std::io;
use std::path::Path;

use serde_json::{Map, Value};
use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::{Any, AnyConnection, AssertSqlSafe, Column, Executor, Row, Transaction};

use crate::database::{Database, Kind, beside, create};
use crate::error::LedgerError;
use crate::ledger::Ledger;

/// Findings of a kind that are told.
const FINDINGS_MAX: i64 = 20;
/// Rows that are copied at a time.
const ROWS_AT_ONCE: i64 = 1000;

/// Tables with the columns that order them, in which they are copied and exported.
const TABLES: [(&str, &str); 9] = [
    ("ledger", "id"),
    ("account", "id"),
    ("entry", "id"),
    ("api_key", "id"),
    ("invitation", "id"),
    ("reservation", "request"),
    ("usage", "request"),
    ("usage_hour", "key, model, hour"),
    ("usage_day", "key, model, day"),
];

/// Columns that are secrets, or stand for them.
const SECRET_COLUMNS: [&str; 3] = ["hash", "old_hash", "salt"];

/// Statements that find what does not agree, and what it is.
const CHECKS: [(&str, &str); 6] = [
    (
        "the balance of account {} is not what was paid in less what was charged",
        "SELECT id AS finding FROM account WHERE granted + topped_up + charged <> (SELECT COALESCE(SUM(amount), 0) FROM entry WHERE entry.account = account.id) LIMIT $1",
    ),
    ("account {} is overdrawn", "SELECT id AS finding FROM account WHERE granted < 0 OR topped_up < 0 LIMIT $1"),
    (
        "the totals of key {} are not the sums of its days",
        "SELECT id AS finding FROM api_key WHERE total_tokens <> (SELECT COALESCE(SUM(hit + miss + output), 0) FROM usage_day WHERE usage_day.key = api_key.id) \
         OR total_cost <> (SELECT COALESCE(SUM(cost), 0) FROM usage_day WHERE usage_day.key = api_key.id) LIMIT $1",
    ),
    (
        "the cost of request {} is not its tokens times their price",
        "SELECT request AS finding FROM usage WHERE cost <> (hit * price_hit + miss * price_miss + output * price_output + 999999) / 1000000 LIMIT $1",
    ),
    (
        // Rows older than their retention are gone: only days after that of the oldest one are whole.
        "the sums of a day, {} (key, model, days since 1970), are not those of its requests",
        "SELECT d.key || ', ' || d.model || ', ' || CAST(d.day AS TEXT) AS finding FROM usage_day d LEFT JOIN \
         (SELECT key, model, time / 86400000 AS day, COUNT(*) AS requests, SUM(hit + miss + output) AS tokens, SUM(cost) AS cost FROM usage GROUP BY 1, 2, 3) u \
         ON u.key = d.key AND u.model = d.model AND u.day = d.day \
         WHERE d.day > (SELECT COALESCE(MIN(time), 0) / 86400000 FROM usage) AND \
         (u.key IS NULL OR u.requests <> d.requests OR u.tokens <> d.hit + d.miss + d.output OR u.cost <> d.cost) LIMIT $1",
    ),
    (
        "request {} is in flight for a key that does not exist",
        "SELECT request AS finding FROM reservation WHERE NOT EXISTS (SELECT 1 FROM api_key WHERE api_key.id = reservation.key) LIMIT $1",
    ),
];

impl Ledger {
    /// What in the books does not agree; nothing in books that are whole.
    ///
    /// # Errors
    /// The books cannot be read.
    pub async fn check(&self) -> Result<Vec<String>, LedgerError> {
        let mut findings = Vec::new();
        // One state of the books for all sums.
        let mut transaction = self.snapshot().await?;
        if self.database.kind != Kind::Postgres {
            for row in transaction.fetch_all("PRAGMA integrity_check").await? {
                let said: String = row.try_get(0)?;
                if said != "ok" {
                    findings.push(format!("the file is damaged: {said}"));
                }
            }
        }
        for (finding, statement) in CHECKS {
            for row in sqlx::query(statement).bind(FINDINGS_MAX).fetch_all(&mut *transaction).await? {
                findings.push(finding.replace("{}", row.try_get("finding")?));
            }
        }
        Ok(findings)
    }

    /// A transaction that sees one state of the books.
    async fn snapshot(&self) -> Result<Transaction<'static, Any>, LedgerError> {
        if self.database.kind != Kind::Postgres {
            return Ok(self.database.pool.begin().await?);
        }
        Ok(self.database.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?)
    }

    /// Gives every row of every table as an object, without secrets, hashes and salts.
    ///
    /// # Errors
    /// The books cannot be read, or `give` failed.
    pub async fn export(&self, give: &mut (dyn FnMut(Value) -> io::Result<()> + Send)) -> Result<(), LedgerError> {
        let mut transaction = self.snapshot().await?;
        for (table, order) in TABLES {
            let mut given = 0;
            loop {
                let rows = page(&mut transaction, table, order, given).await?;
                for row in &rows {
                    let mut object = object(row)?;
                    SECRET_COLUMNS.iter().for_each(|secret| drop(object.remove(*secret)));
                    object.insert("table".into(), table.into());
                    give(Value::Object(object))
                        .map_err(|e| LedgerError::Invalid(format!("the export cannot be written: {e}")))?;
                }
                given += rows.len() as i64;
                if (rows.len() as i64) < ROWS_AT_ONCE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Copies the books to a new file, which is a ledger itself, while they are in use.
    ///
    /// # Errors
    /// The file exists or cannot be written, or the books cannot be read. Nothing is left of a copy that failed.
    pub async fn backup(&self, to: &Path) -> Result<(), LedgerError> {
        let failed = |reason: String| LedgerError::File { file: to.to_path_buf(), reason };
        if to.exists() {
            return Err(failed("it exists; give a new file".to_string()));
        }
        let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !directory.is_dir() {
            return Err(failed(format!("there is no directory {}; give a file in one", directory.display())));
        }
        let part = beside(to, ".part");
        let _ = std::fs::remove_file(&part);
        let outcome = self.copy(&part).await;
        let outcome = outcome.and_then(|()| std::fs::rename(&part, to).map_err(|e| failed(e.to_string())));
        if outcome.is_err() {
            for left in ["", "-wal", "-shm", "-journal"] {
                let _ = std::fs::remove_file(beside(&part, left));
            }
        }
        outcome
    }

    async fn copy(&self, part: &Path) -> Result<(), LedgerError> {
        let address = part.to_str().ok_or_else(|| LedgerError::Address(part.display().to_string()))?;
        if self.database.kind != Kind::Postgres {
            let failed = |e: io::Error| LedgerError::File { file: part.to_path_buf(), reason: e.to_string() };
            create(part).map_err(failed)?;
            sqlx::query("VACUUM INTO $1").bind(address).execute(&self.database.pool).await?;
            return Ok(());
        }
        let copy = Database::open(address).await?;
        let mut source = self.snapshot().await?;
        let mut target = copy.write().await?;
        for (table, order) in TABLES {
            let mut copied = 0;
            loop {
                let rows = page(&mut source, table, order, copied).await?;
                for row in &rows {
                    insert(&mut target, table, row).await?;
                }
                copied += rows.len() as i64;
                if (rows.len() as i64) < ROWS_AT_ONCE {
                    break;
                }
            }
        }
        target.commit().await?;
        // The last connection that closes leaves one whole file.
        copy.pool.close().await;
        Ok(())
    }
}

/// Rows of a table from the `skip`th on.
async fn page(connection: &mut AnyConnection, table: &str, order: &str, skip: i64) -> Result<Vec<AnyRow>, LedgerError> {
    // Names of our own tables and columns only.
    let statement = AssertSqlSafe(format!("SELECT * FROM {table} ORDER BY {order} LIMIT $1 OFFSET $2"));
    Ok(sqlx::query(statement).bind(ROWS_AT_ONCE).bind(skip).fetch_all(connection).await?)
}

fn object(row: &AnyRow) -> Result<Map<String, Value>, LedgerError> {
    let mut object = Map::new();
    for column in row.columns() {
        let value = match column.type_info().kind() {
            AnyTypeInfoKind::Text => Value::from(row.try_get::<String, _>(column.ordinal())?),
            _ => Value::from(row.try_get::<i64, _>(column.ordinal())?),
        };
        object.insert(column.name().to_string(), value);
    }
    Ok(object)
}

async fn insert(connection: &mut AnyConnection, table: &str, row: &AnyRow) -> Result<(), LedgerError> {
    let object = object(row)?;
    let names: Vec<&str> = object.keys().map(String::as_str).collect();
    let places: Vec<String> = (1..=names.len()).map(|place| format!("${place}")).collect();
    let statement = AssertSqlSafe(format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", ")));
    let query = object.values().fold(sqlx::query(statement), |query, value| match value {
        Value::String(text) => query.bind(text.clone()),
        number => query.bind(number.as_i64().unwrap_or(0)),
    });
    query.execute(connection).await?;
    Ok(())
}
