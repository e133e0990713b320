//! Ledgers to test with: each test runs over a file and over a database of a PostgreSQL server, which starts with the first test and ends with the process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use farthing_ledger::{Clock, Demand, EntryKind, Key, Ledger, Limits, Meter, NewKey, Price, Secret};
use sqlx::{Connection, Executor};

/// Noon of Sunday, 29 November 2026.
pub const NOON: i64 = 1_795_953_600_000;

/// A yuan a million tokens of prompt (a tenth where it is cached) and two of answer.
pub const PRICE: Price = Price { hit: 100_000, miss: 1_000_000, output: 2_000_000 };

/// A ledger of a test's own, with a clock that it sets.
pub struct Fixture {
    pub ledger: Ledger,
    pub address: String,
    pub now: Arc<AtomicI64>,
    pub directory: tempfile::TempDir,
}

impl Fixture {
    async fn new(address: String, directory: tempfile::TempDir) -> Fixture {
        let now = Arc::new(AtomicI64::new(NOON));
        let ledger = Fixture::open(&address, &now).await;
        Fixture { ledger, address, now, directory }
    }

    async fn open(address: &str, now: &Arc<AtomicI64>) -> Ledger {
        let now = Arc::clone(now);
        Ledger::open(address, "CNY", Clock::new(move || now.load(Ordering::SeqCst))).await.unwrap()
    }

    /// The same books, opened once more, as another process does.
    pub async fn again(&self) -> Ledger {
        Fixture::open(&self.address, &self.now).await
    }

    pub async fn meter(&self, server: &str) -> Meter {
        Meter::start(&self.again().await, server, 90).await.unwrap()
    }

    pub fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// Runs a statement behind the ledger's back.
    pub async fn tamper(&self, statement: &'static str) {
        let escaped = self.address.replace('%', "%25").replace('#', "%23").replace('?', "%3F").replace(' ', "%20");
        let address =
            if self.address.starts_with("postgres") { self.address.clone() } else { format!("sqlite://{escaped}") };
        let mut connection = sqlx::AnyConnection::connect(&address).await.unwrap();
        connection.execute(statement).await.unwrap();
        connection.close().await.unwrap();
    }

    /// An account of this name with money, and its key.
    pub async fn key(&self, name: &str, micros: i64, limits: Limits) -> (Key, Secret) {
        self.ledger.create_account(name, false).await.unwrap();
        if micros > 0 {
            self.ledger.credit(name, EntryKind::TopUp, farthing_ledger::Money(micros), "").await.unwrap();
        }
        let new = NewKey { name: name.to_string(), account: name.to_string(), limits, ..NewKey::default() };
        self.ledger.create_key(&new).await.unwrap()
    }
}

/// A request for an answer of at most `output` tokens, which its client named.
pub fn demand(request: &str, key: &Key, prompt: u64, output: u64) -> Demand {
    Demand {
        request: request.to_string(),
        key: key.id.clone(),
        endpoint: "/v1/chat/completions".to_string(),
        model: "pocket".to_string(),
        price: PRICE,
        prompt,
        output,
        named: true,
        choices: 1,
    }
}

/// Address of the PostgreSQL server; `None`, with a word about it, where there is no PostgreSQL and `FARTHING_POSTGRES=required` is not set.
fn postgres() -> Option<&'static str> {
    static SERVER: OnceLock<Option<(String, Child)>> = OnceLock::new();
    let start = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/books/postgres.sh");
        let mut server = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut address).unwrap();
        if address.trim() == "none" {
            assert_ne!(std::env::var("FARTHING_POSTGRES").as_deref(), Ok("required"), "PostgreSQL is not installed");
            server.wait().unwrap();
            eprintln!("SKIPPED over PostgreSQL, which is not installed (apt-get install postgresql)");
            return None;
        }
        assert!(address.starts_with("postgres://"), "PostgreSQL did not start: see above");
        // It ends with the pipe that is its standard input, so with the process.
        Some((address.trim().to_string(), server))
    };
    SERVER.get_or_init(start).as_ref().map(|(address, _)| address.as_str())
}

/// Runs a test over both databases.
pub fn over_both<F: Future<Output = ()>>(test: impl Fn(Fixture) -> F) {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        // A name that an address must escape.
        let file = directory.path().join("books of 100% #1?.db").to_str().unwrap().to_string();
        test(Fixture::new(file, directory).await).await;
    });
    runtime().block_on(async {
        let Some(server) = postgres() else { return };
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&format!("{server}/postgres")).await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        test(Fixture::new(format!("{server}/{name}"), tempfile::tempdir().unwrap()).await).await;
    });
}

/// Whether a row is of the request that was called so.
pub fn is_called(id: &str, name: &str) -> bool {
    id.strip_prefix(name).is_some_and(|rest| rest.len() == 21 && rest.starts_with('_'))
}
