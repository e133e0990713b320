//! The database: a file of SQLite's, or PostgreSQL, behind one connection type and one SQL.
//!
//! One transaction writes at a time, on one server or on several: SQLite has one writer by itself, on PostgreSQL a writer locks one table. So what a
//! transaction has read still holds when it writes, and budgets cannot be overrun.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, Connection, Executor, Row, SqlSafeStr, Transaction};

use crate::clock::Clock;
use crate::error::{LedgerError, explained, is_unwritable};

/// Longest wait for a connection or a lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// The schema, step by step; a step that was published never changes.
const STEPS: [(&str, &str); 2] =
    [("books", include_str!("schema/0001_books.sql")), ("prepaid", include_str!("schema/0002_prepaid.sql"))];

/// What files of SQLite begin with.
const HEAD: &[u8] = b"SQLite format 3\0";
/// What is said of other files.
const NO_LEDGER: &str = "it is no ledger: not a database";
/// The time of PostgreSQL's machine, in milliseconds since 1970.
const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now";

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite(PathBuf),
    Postgres,
}

/// A database with the newest schema.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) pool: AnyPool,
    pub(crate) kind: Kind,
    /// Which file was opened; none where the system does not tell.
    file: Option<(u64, u64)>,
    /// Why it can only be read, where that is so.
    read_only: Option<String>,
}

/// Which file a path leads to: its device and its number there.
#[cfg(unix)]
fn file_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn file_of(_: &Path) -> Option<(u64, u64)> {
    None
}

/// Why a file is not opened.
enum Unopened {
    /// It or its directory cannot be written, which reading does not need.
    Unwritable(String),
    Other(LedgerError),
}

impl Database {
    /// Opens a database, creates its file where there is none, and brings its schema up to date. A file that cannot be written is opened to be read.
    pub(crate) async fn open(address: &str) -> Result<Database, LedgerError> {
        Database::open_at(address, STEPS.len()).await
    }

    /// Opens a database with the first `steps` of the schema.
    pub(crate) async fn open_at(address: &str, steps: usize) -> Result<Database, LedgerError> {
        install_default_drivers();
        let (kind, url) = kind(address)?;
        let Kind::Sqlite(file) = &kind else {
            let wrong = |e: sqlx::Error| LedgerError::Unavailable(e.to_string());
            let pool = connect(&url, Settings::Postgres).await.map_err(wrong)?;
            let database = Database { pool, kind, file: None, read_only: None };
            database.migrate(steps).await?;
            return Ok(database);
        };
        refuse_others(file, &url).await?;
        match open_file(file, &url).await {
            Ok(pool) => {
                let file = file_of(file);
                let database = Database { pool, kind, file, read_only: None };
                database.migrate(steps).await?;
                Ok(database)
            }
            Err(Unopened::Unwritable(why)) => Database::open_to_read(file, &url, why).await,
            Err(Unopened::Other(error)) => Err(error),
        }
    }

    /// Opens a file that cannot be written, and why.
    async fn open_to_read(file: &Path, url: &str, why: String) -> Result<Database, LedgerError> {
        let failed = |reason: String| LedgerError::File { file: file.to_path_buf(), reason };
        // Without a log the file is all there is, and SQLite needs no index beside it.
        let logged = beside(file, "-wal").metadata().is_ok_and(|log| log.len() > 0);
        let url = format!("{url}?mode=ro{}", if logged { "" } else { "&immutable=true" });
        let pool = connect(&url, Settings::Reader).await.map_err(|e| match logged {
            true => failed(format!(
                "{why}; and to be read only it would have to be without its -wal ({e}); copy both to a directory that you can write"
            )),
            false => failed(why.clone()),
        })?;
        let database =
            Database { pool, kind: Kind::Sqlite(file.to_path_buf()), file: None, read_only: Some(why.clone()) };
        let mut connection = database.pool.acquire().await?;
        let applied = applied(&mut connection).await?;
        if applied < STEPS.len() as i64 {
            return Err(failed(format!("{why}; and this version cannot read it before it has changed it")));
        }
        drop(connection);
        Ok(database)
    }

    async fn migrate(&self, steps: usize) -> Result<(), LedgerError> {
        let mut connection = self.pool.acquire().await?;
        if let Kind::Sqlite(file) = &self.kind
            && is_of_others(&mut connection).await?
        {
            return Err(of_others(file));
        }
        connection.ensure_migrations_table("_sqlx_migrations").await.map_err(unmigrated)?;
        applied(&mut connection).await?;
        let all = STEPS[..steps].iter().zip(1..).map(|((name, sql), version)| {
            Migration::new(version, (*name).into(), MigrationType::Simple, sql.into_sql_str(), false)
        });
        Migrator::with_migrations(all.collect()).run_direct(None, &mut *connection, false).await.map_err(unmigrated)
    }

    /// Corrects the clock of a machine by that of the database which several share.
    pub(crate) async fn correct(&self, clock: &Clock) -> Result<(), LedgerError> {
        if self.is_shared_by(clock) {
            clock.correct(self.pool.fetch_one(NOW).await?.try_get("now")?);
        }
        Ok(())
    }

    /// Whether its time is that of a clock: machines share a PostgreSQL database, a file is on one.
    pub(crate) fn is_shared_by(&self, clock: &Clock) -> bool {
        self.kind == Kind::Postgres && clock.is_of_machine()
    }

    /// Begins the only transaction that writes.
    pub(crate) async fn write(&self) -> Result<Transaction<'static, Any>, LedgerError> {
        match (&self.kind, &self.read_only) {
            (Kind::Sqlite(file), Some(why)) => {
                let reason = format!("it can only be read here, and not changed: {why}");
                Err(LedgerError::File { file: file.clone(), reason })
            }
            // Who replaces it would otherwise lose what is written from then on.
            (Kind::Sqlite(file), None) if self.file.is_some() && file_of(file) != self.file => {
                let reason = "the file is not the one that was opened: it was replaced or removed; start again";
                Err(LedgerError::File { file: file.clone(), reason: reason.to_string() })
            }
            (Kind::Sqlite(_), None) => Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?),
            (Kind::Postgres, _) => {
                let mut transaction = self.pool.begin().await?;
                transaction.execute("LOCK TABLE ledger IN EXCLUSIVE MODE").await?;
                Ok(transaction)
            }
        }
    }
}

/// How connections are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settings {
    /// A file.
    File,
    /// A file that is only read.
    Reader,
    Postgres,
}

impl Settings {
    fn statements(self) -> &'static [&'static str] {
        match self {
            // A process that is killed loses nothing; after a loss of power the last moments may be missing, the file is whole. What was deleted is not found
            // in the file any more.
            Settings::File => &[
                "PRAGMA busy_timeout = 10000",
                "PRAGMA journal_mode = WAL",
                "PRAGMA synchronous = NORMAL",
                "PRAGMA secure_delete = ON",
            ],
            // The last one meets what is wrong before a pool does.
            Settings::Reader => &["PRAGMA busy_timeout = 10000", "SELECT COUNT(*) FROM sqlite_master"],
            Settings::Postgres => &["SET lock_timeout = '10s'", "SET statement_timeout = '30s'"],
        }
    }

    async fn apply(self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        for statement in self.statements() {
            connection.execute(*statement).await?;
        }
        Ok(())
    }
}

async fn connect(url: &str, settings: Settings) -> Result<AnyPool, sqlx::Error> {
    let options: AnyConnectOptions = url.parse()?;
    // What is wrong shows at one connection; a pool tries again until its patience ends.
    let mut first = AnyConnection::connect_with(&options).await?;
    settings.apply(&mut first).await?;
    first.close().await?;
    let pool = AnyPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(PATIENCE)
        // A full disk makes SQLite roll back by itself; the driver then takes the connection to be in a transaction for ever.
        .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
        .after_connect(move |connection, _| Box::pin(settings.apply(connection)));
    pool.connect_with(options).await
}

/// Opens a file to be read and written, which is made where there is none.
async fn open_file(file: &Path, url: &str) -> Result<AnyPool, Unopened> {
    let failed = |reason: String| Unopened::Other(LedgerError::File { file: file.to_path_buf(), reason });
    if let Err(error) = create(file) {
        let unwritable = matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
        let is_there = unwritable && File::open(file).and_then(head).is_ok_and(|head| head == HEAD);
        return Err(if is_there { Unopened::Unwritable(error.to_string()) } else { failed(error.to_string()) });
    }
    connect(url, Settings::File).await.map_err(|error| match is_unwritable(&error) {
        true => Unopened::Unwritable(explained(&error)),
        false => failed(explained(&error)),
    })
}

/// Refuses a file of another program, of which nothing may change.
async fn refuse_others(file: &Path, url: &str) -> Result<(), LedgerError> {
    // As a file that nobody writes: neither locked nor given company. What cannot be seen so is seen when it is open.
    let look = async {
        let mut connection = AnyConnection::connect(&format!("{url}?mode=ro&immutable=true")).await?;
        let others = is_of_others(&mut connection).await;
        connection.close().await?;
        others
    };
    let is_database = File::open(file).and_then(head).is_ok_and(|head| head == HEAD);
    if is_database && look.await.unwrap_or(false) { Err(of_others(file)) } else { Ok(()) }
}

/// Whether a file has tables and none of ours.
async fn is_of_others(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    let tables = "SELECT COUNT(*) AS tables, COALESCE(SUM(name = '_sqlx_migrations'), 0) AS ours FROM sqlite_master WHERE type = 'table'";
    let row = connection.fetch_one(tables).await?;
    Ok(count(&row, "tables")? > 0 && count(&row, "ours")? == 0)
}

fn of_others(file: &Path) -> LedgerError {
    let reason = "a database of another program; give a file of its own".to_string();
    LedgerError::File { file: file.to_path_buf(), reason }
}

/// The last step of the schema that a database has.
async fn applied(connection: &mut AnyConnection) -> Result<i64, LedgerError> {
    let applied = connection.list_applied_migrations("_sqlx_migrations").await.map_err(unmigrated)?;
    match applied.iter().map(|step| step.version).max().unwrap_or(0) {
        newer if newer > STEPS.len() as i64 => Err(LedgerError::Newer(newer)),
        version => Ok(version),
    }
}

fn unmigrated(error: MigrateError) -> LedgerError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        other => LedgerError::Unavailable(other.to_string()),
    }
}

/// A file beside another: its name with more behind it.
pub(crate) fn beside(file: &Path, more: &str) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(more);
    PathBuf::from(name)
}

/// Which database an address means, and the URL that the driver takes.
fn kind(address: &str) -> Result<(Kind, String), LedgerError> {
    if address.starts_with("postgres://") || address.starts_with("postgresql://") {
        return Ok((Kind::Postgres, address.to_string()));
    }
    // A slip of the pen must not make a file whose name has a password in it.
    if address.to_ascii_lowercase().starts_with("postgres") && address.contains(':') {
        return Err(LedgerError::Address("postgres...".to_string()));
    }
    let path = address.strip_prefix("sqlite://").or_else(|| address.strip_prefix("sqlite:")).unwrap_or(address);
    if path.is_empty() || path.contains("://") {
        let shown = address.split('@').next_back().unwrap_or_default();
        return Err(LedgerError::Address(shown.split('?').next().unwrap_or_default().to_string()));
    }
    let file = std::path::absolute(path).map_err(|_| LedgerError::Address(path.to_string()))?;
    let mut url = "sqlite://".to_string();
    for byte in file.to_str().ok_or_else(|| LedgerError::Address(path.to_string()))?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => url.push(char::from(byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    Ok((Kind::Sqlite(file), url))
}

/// The file of an address, where it is not there or has nothing in it.
pub(crate) fn absent(address: &str) -> Result<Option<PathBuf>, LedgerError> {
    let (Kind::Sqlite(file), _) = kind(address)? else { return Ok(None) };
    match File::open(&file).and_then(head) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(file)),
        Err(error) => Err(LedgerError::File { file, reason: error.to_string() }),
        Ok(head) if head.is_empty() => Ok(Some(file)),
        Ok(head) if head == HEAD => Ok(None),
        Ok(_) => Err(LedgerError::File { file, reason: NO_LEDGER.to_string() }),
    }
}

/// What a file begins with.
fn head(file: File) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD.len() as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Creates a file that only its owner reads, where there is none or nothing in it.
pub(crate) fn create(file: &Path) -> io::Result<()> {
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.open(file)?;
    #[cfg(unix)]
    if opened.metadata()?.len() == 0 {
        opened.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    // SQLite writes over files of a few bytes.
    let head = File::open(file).and_then(head)?;
    if head.is_empty() || head == HEAD { Ok(()) } else { Err(io::Error::other(NO_LEDGER)) }
}

/// A count in a row; what is below zero by a fault reads as none.
pub(crate) fn count(row: &AnyRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(row.try_get::<i64, _>(column)?.max(0) as u64)
}

/// A count as the database keeps it.
pub(crate) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Books as each version leaves them: its schema, and a row of each table.
    const ROWS: [&str; STEPS.len()] = [include_str!("schema/0001_rows.sql"), include_str!("schema/0001_rows.sql")];

    /// Books of every earlier version are brought up to date and lose nothing.
    #[tokio::test]
    async fn books_of_every_version_are_read() {
        for (version, rows) in (1..).zip(ROWS) {
            let directory = tempfile::tempdir().unwrap();
            let address = directory.path().join("books.db").to_str().unwrap().to_string();
            let old = Database::open_at(&address, version).await.unwrap();
            old.pool.execute(rows).await.unwrap();
            old.pool.close().await;
            let ledger = crate::Ledger::open(&address, "USD", crate::Clock::default()).await.unwrap();
            assert_eq!(
                (ledger.currency(), ledger.check().await.unwrap()),
                ("CNY", Vec::<String>::new()),
                "version {version}"
            );
            let account = ledger.account("anna").await.unwrap();
            assert_eq!((account.granted.0, account.topped_up.0, account.reserved.0), (10, 900, 50));
            let found = ledger.authenticate(b"sk-ft-of-a-test").await.unwrap().unwrap();
            assert_eq!(
                (found.key.name.as_str(), found.key.limits.concurrency, found.salt),
                ("laptop", Some(3), [0xab; 32])
            );
            assert_eq!(ledger.invitations().await.unwrap()[0].uses, 30);
            let all = crate::UsageFilter { until: i64::MAX / 2, ..Default::default() };
            assert_eq!(ledger.requests(&all, 9).await.unwrap()[0].cost.0, 90);
            assert_eq!(ledger.usage(&all, crate::GroupBy::Hour).await.unwrap()[0].tokens.all(), 30);
        }
    }

    /// A file that cannot be written is read all the same, with what is in its log.
    #[tokio::test]
    async fn a_file_is_opened_to_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("books.db");
        let written = Database::open(file.to_str().unwrap()).await.unwrap();
        written.pool.execute(ROWS[0]).await.unwrap();
        let (_, url) = kind(file.to_str().unwrap()).unwrap();
        let open = async || Database::open_to_read(&file, &url, "why".to_string()).await;
        let names = async |database: &Database| {
            let rows = database.pool.fetch_all("SELECT name FROM account").await.unwrap();
            rows.iter().map(|row| row.get::<String, _>("name")).collect::<Vec<_>>()
        };
        // In use: the rows are in the log alone.
        assert!(beside(&file, "-wal").metadata().unwrap().len() > 0);
        let beside_it = open().await.unwrap();
        assert_eq!(names(&beside_it).await, ["anna"]);
        beside_it.pool.close().await;
        written.pool.close().await;
        let read = open().await.unwrap();
        assert_eq!(names(&read).await, ["anna"]);
        let said = read.write().await.unwrap_err().to_string();
        assert!(said.contains("books.db: it can only be read here, and not changed: why"), "{said}");
        assert!(read.pool.execute("DELETE FROM account").await.is_err());
        read.pool.close().await;
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        // Not one that would have to be changed first.
        let old = Database::open_at(directory.path().join("old.db").to_str().unwrap(), 0).await.unwrap();
        old.pool.close().await;
        let (Kind::Sqlite(file), url) = kind(directory.path().join("old.db").to_str().unwrap()).unwrap() else {
            panic!("a file")
        };
        let said = Database::open_to_read(&file, &url, "why".to_string()).await.unwrap_err().to_string();
        assert!(said.contains("old.db: why; and this version cannot read it before it has changed it"), "{said}");
    }

    #[test]
    fn addresses_are_files_or_databases() {
        let file = |address: &str| match kind(address).unwrap() {
            (Kind::Sqlite(file), url) => (file.display().to_string(), url),
            other => panic!("{other:?}"),
        };
        assert_eq!(file("/a b/c%d.db"), ("/a b/c%d.db".to_string(), "sqlite:///a%20b/c%25d.db".to_string()));
        assert_eq!(file("sqlite:///x/y.db").0, "/x/y.db");
        assert!(file("books.db").0.ends_with("/books.db"));
        assert_eq!(kind("postgres://u@h/d").unwrap(), (Kind::Postgres, "postgres://u@h/d".to_string()));
        for slip in ["Postgres:/u:pw@h/d", "postgres:u:pw@h/d", "mysql://u@h/d?password=pw"] {
            assert!(kind(slip).is_err_and(|error| !error.to_string().contains("pw")), "{slip}");
        }
        assert!(kind("mysql://u:p@h/d").is_err() && kind("").is_err() && kind("sqlite://").is_err());
    }
}
