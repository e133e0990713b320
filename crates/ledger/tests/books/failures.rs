//! Kills, servers that vanish, and databases that fail.

use std::time::Duration;

use farthing_ledger::{
    Clock, EntryKind, Ledger, LedgerError, Limits, Meter, Money, NewKey, Noted, Tokens, UsageFilter,
};

use crate::fixture::{Fixture, NOON, demand, is_called, over_both};

fn tokens(output: u64) -> Tokens {
    Tokens { miss: 100, output, ..Tokens::default() }
}

fn everything() -> UsageFilter {
    UsageFilter { until: i64::MAX / 2, ..UsageFilter::default() }
}

#[test]
fn a_killed_server_is_charged_once_for_what_was_noted() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let killed = books.meter("one").await;
        let mut noted = killed.reserve(demand("noted", &key, 100, 50)).await.unwrap().unwrap();
        noted.note(tokens(16)).await;
        noted.note(tokens(32)).await;
        let silent = killed.reserve(demand("silent", &key, 100, 50)).await.unwrap().unwrap();
        let other = books.meter("two").await;
        let living = other.reserve(demand("living", &key, 100, 50)).await.unwrap().unwrap();
        assert_eq!(books.ledger.in_flight().await.unwrap(), 3);
        // The next run of the same server; the other's request flies on.
        let next = books.meter("one").await;
        assert_eq!(books.ledger.in_flight().await.unwrap(), 1);
        let rows = books.ledger.requests(&everything(), 9).await.unwrap();
        let of = |name: &str| {
            rows.iter()
                .find(|row| is_called(&row.request, name))
                .map(|row| (row.tokens.output, row.cost.0, row.status.as_str()))
        };
        assert_eq!((of("noted"), of("silent")), (Some((32, 164, "interrupted")), Some((0, 0, "interrupted"))));
        // The dead one wakes up: it may write nothing.
        assert!(matches!(killed.reserve(demand("zombie", &key, 1, 1)).await, Err(LedgerError::Unavailable(_))));
        assert!(killed.trouble().unwrap().contains("another server writes to the ledger as \"one\""));
        drop((noted, silent));
        assert_eq!(living.settle(tokens(50), "done").await, Some(Money(200)));
        drop(next);
        let third = books.meter("one").await;
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 364));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        drop(third);
    });
}

#[test]
fn a_server_that_vanished_is_settled_by_another_and_pays_the_rest_when_it_is_back() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let (sleeper, other) = (books.meter("sleeper").await, books.meter("other").await);
        let mut slept = sleeper.reserve(demand("slept", &key, 100, 50)).await.unwrap().unwrap();
        slept.note(tokens(16)).await;
        // As if it had not been seen for a minute: one of the two tidies within five seconds.
        books.tamper("UPDATE reservation SET run = 'unseen'").await;
        for _ in 0..200 {
            if books.ledger.in_flight().await.unwrap() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let rows = books.ledger.requests(&everything(), 9).await.unwrap();
        assert_eq!((rows.len(), rows[0].tokens.output, rows[0].status.as_str()), (1, 16, "interrupted"));
        // It delivered more meanwhile.
        assert_eq!(slept.note(tokens(20)).await, Noted::Gone);
        assert_eq!(slept.settle(tokens(20), "client_disconnected").await, Some(Money(140)));
        let rows = books.ledger.requests(&everything(), 9).await.unwrap();
        assert_eq!(
            (rows.len(), rows[0].tokens.output, rows[0].cost, rows[0].status.as_str()),
            (1, 20, Money(140), "client_disconnected")
        );
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 140));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        drop(other);
    });
}

#[test]
fn while_the_books_fail_nothing_is_served_and_nothing_is_lost() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let meter = books.meter("one").await;
        let mut first = meter.reserve(demand("first", &key, 100, 50)).await.unwrap().unwrap();
        let second = meter.reserve(demand("second", &key, 100, 50)).await.unwrap().unwrap();
        let third = meter.reserve(demand("third", &key, 100, 50)).await.unwrap().unwrap();
        books.tamper("ALTER TABLE server RENAME TO away").await;
        let noting = tokio::spawn(async move {
            let outcome = first.note(tokens(16)).await;
            (first, outcome)
        });
        let settling = tokio::spawn(second.settle(tokens(50), "done"));
        third.close(tokens(10), "client_disconnected");
        tokio::time::sleep(Duration::from_millis(300)).await;
        for request in ["fourth", "fifth"] {
            let refused = meter.reserve(demand(request, &key, 1, 1)).await;
            assert!(matches!(&refused, Err(LedgerError::Unavailable(why)) if why.contains("server")), "{refused:?}");
        }
        assert!(meter.trouble().is_some() && !noting.is_finished() && !settling.is_finished());
        books.tamper("ALTER TABLE away RENAME TO server").await;
        let (first, noted) = noting.await.unwrap();
        assert_eq!((noted, settling.await.unwrap()), (Noted::Written, Some(Money(200))));
        let again = meter.reserve(demand("sixth", &key, 1, 1)).await.unwrap().unwrap();
        assert_eq!((meter.trouble(), books.ledger.in_flight().await.unwrap()), (None, 2));
        drop((first, again));
        meter.finish().await;
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 200 - 120 - 132));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn one_request_that_cannot_be_written_harms_no_other() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 1_000_000, Limits::default()).await;
        let meter = books.meter("one").await;
        if books.address.starts_with("postgres") {
            books.tamper("ALTER TABLE reservation ADD CHECK (endpoint <> '/poison')").await;
        } else {
            books.tamper("CREATE TRIGGER poison BEFORE INSERT ON reservation WHEN NEW.endpoint = '/poison' BEGIN SELECT RAISE(ABORT, 'poison'); END").await;
        }
        // The same id is no trouble.
        let tries = (0..40).map(|n| {
            let endpoint = if n % 10 == 3 { "/poison" } else { "/v1/messages" };
            let demand = farthing_ledger::Demand { endpoint: endpoint.into(), ..demand("same", &key, 1, 1) };
            let meter = meter.clone();
            tokio::spawn(async move { meter.reserve(demand).await })
        });
        let mut served = Vec::new();
        let mut failed = 0;
        for each in tries.collect::<Vec<_>>() {
            match each.await.unwrap() {
                Ok(metered) => served.push(metered.unwrap()),
                Err(_) => failed += 1,
            }
        }
        assert_eq!((failed, served.len(), meter.trouble()), (4, 36, None));
        drop(served);
        meter.flush().await;
        meter.finish().await;
        assert_eq!(books.ledger.in_flight().await.unwrap(), 0);
        assert_eq!(books.ledger.requests(&everything(), 99).await.unwrap().len(), 36);
    });
}

#[test]
fn money_that_is_paid_in_while_a_request_runs_is_not_for_it() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 0, Limits::default()).await;
        let meter = books.meter("one").await;
        let streamed = meter.reserve(demand("streamed", &key, 100, 50)).await.unwrap().unwrap();
        books.ledger.credit("anna", EntryKind::TopUp, Money(10), "").await.unwrap();
        assert!(streamed.settle(tokens(20), "done").await.unwrap() > Money(10));
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_was_delivered_meanwhile_takes_no_balance_below_zero() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 250, Limits::default()).await;
        let first = books.meter("one").await;
        let streamed = first.reserve(demand("streamed", &key, 10, 50)).await.unwrap().unwrap();
        let id = streamed.id().to_string();
        // Its server is taken for dead, and another request spends what is left.
        let second = books.meter("one").await;
        let costs = demand("other", &key, 200, 0);
        let other = second.reserve(costs).await.unwrap().unwrap();
        let prompt = Tokens { miss: 200, ..Tokens::default() };
        other.settle(prompt, "done").await.unwrap();
        let left = books.ledger.account("anna").await.unwrap().balance();
        second.settle(&id, Tokens { miss: 10, output: 50, ..Tokens::default() }, "done").await.unwrap();
        let balance = books.ledger.account("anna").await.unwrap().balance();
        assert!(left > Money(0) && balance == Money(0), "{left} {balance}");
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        drop(streamed);
    });
}

#[test]
fn the_next_run_of_a_name_knows_whether_the_last_one_ended() {
    over_both(async |books: Fixture| {
        let first = books.meter("one").await;
        assert!(!first.took_over());
        // It may still be there.
        let second = books.meter("one").await;
        assert!(second.took_over() && !books.meter("two").await.took_over());
        second.leave().await;
        let third = books.meter("one").await;
        assert!(!third.took_over());
        third.finish().await;
        books.pass(60_000);
        assert!(!books.meter("one").await.took_over());
    });
}

#[tokio::test]
async fn a_file_that_was_replaced_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let (file, away) = (directory.path().join("books.db"), directory.path().join("away.db"));
    let ledger = Ledger::open(file.to_str().unwrap(), "USD", Clock::default()).await.unwrap();
    ledger.create_account("anna", false).await.unwrap();
    let new = NewKey { name: "anna".into(), account: "anna".into(), ..NewKey::default() };
    let (key, _) = ledger.create_key(&new).await.unwrap();
    let meter = Meter::start(&ledger, "one", 90).await.unwrap();
    assert!(meter.flush().await && meter.trouble().is_none());
    std::fs::rename(&file, &away).unwrap();
    for replaced in [false, true] {
        if replaced {
            std::fs::copy(&away, &file).unwrap();
        }
        let said = ledger.create_account("bob", true).await.unwrap_err().to_string();
        assert!(said.contains("books.db") && said.contains("replaced or removed"), "{said}");
        assert!(meter.reserve(demand("refused", &key, 1, 1)).await.is_err() && meter.trouble().is_some());
    }
    // The true one is back.
    std::fs::rename(&away, &file).unwrap();
    ledger.create_account("bob", true).await.unwrap();
}

#[test]
fn a_server_that_is_replaced_ends_what_it_has() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let older = books.meter("one").await;
        let mut streamed = older.reserve(demand("streamed", &key, 100, 50)).await.unwrap().unwrap();
        streamed.note(tokens(16)).await;
        let newer = books.meter("one").await;
        // It hears that it is gone, and what it delivered meanwhile is charged.
        assert_eq!(streamed.note(tokens(20)).await, Noted::Gone);
        assert_eq!(streamed.settle(tokens(20), "gone").await, Some(Money(140)));
        assert!(matches!(older.reserve(demand("more", &key, 1, 1)).await, Err(LedgerError::Unavailable(_))));
        assert!(newer.reserve(demand("more", &key, 1, 1)).await.unwrap().is_ok());
        newer.flush().await;
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 140));
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
    });
}

#[tokio::test]
async fn addresses_that_are_no_ledger_are_errors_that_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let open =
        async |address: &str| Ledger::open(address, "CNY", Clock::default()).await.map(|_| ()).unwrap_err().to_string();
    assert!(open("").await.contains("a ledger is a file, or postgres://"));
    // No password in a message.
    let said = open("mysql://anna:secret@host/books").await;
    assert!(said.contains("host/books") && !said.contains("secret"), "{said}");
    let file = directory.path().join("text.db");
    std::fs::write(
        &file,
        "no database at all, but a text of more than a hundred bytes, which SQLite takes for a damaged file of its own",
    )
    .unwrap();
    let said = open(file.to_str().unwrap()).await;
    assert!(said.contains("text.db") && said.contains("not a database"), "{said}");
    std::fs::write(&file, "x").unwrap();
    assert!(open(file.to_str().unwrap()).await.contains("not a database"));
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let others = directory.path().join("others.db");
    sqlx::any::install_default_drivers();
    let mut connection =
        <sqlx::AnyConnection as sqlx::Connection>::connect(&format!("sqlite://{}?mode=rwc", others.display()))
            .await
            .unwrap();
    sqlx::Executor::execute(&mut connection, "CREATE TABLE photos (id BIGINT)").await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    // It stays as it is, and gets no company.
    let before = std::fs::read(&others).unwrap();
    assert!(open(others.to_str().unwrap()).await.contains("of another program"));
    assert_eq!(std::fs::read(&others).unwrap(), before);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    std::fs::create_dir(directory.path().join("folder")).unwrap();
    let said = open(directory.path().join("folder").to_str().unwrap()).await;
    assert!(said.contains("folder") && said.contains("directory"), "{said}");
    let said = open("postgres://farthing@127.0.0.1:9/books").await;
    assert!(said.contains("the ledger cannot be used"), "{said}");
    assert!(Ledger::open("x", "yen", Clock::default()).await.unwrap_err().to_string().contains("\"yen\""));
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books.db");
    let address = file.to_str().unwrap();
    Ledger::open(address, "CNY", Clock::default()).await.unwrap().close().await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    sqlx::any::install_default_drivers();
    let mut connection =
        <sqlx::AnyConnection as sqlx::Connection>::connect(&format!("sqlite://{address}")).await.unwrap();
    sqlx::Executor::execute(&mut connection, "UPDATE _sqlx_migrations SET version = 999 WHERE version = 1")
        .await
        .unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    assert!(matches!(Ledger::open(address, "CNY", Clock::default()).await, Err(LedgerError::Newer(999))));
}

/// A file that was there without a byte, such as one of `mktemp` or `touch`, is the owner's alone when it is a ledger.
#[cfg(unix)]
#[tokio::test]
async fn an_empty_file_is_made_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("books.db");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    let open = async || Ledger::open(file.to_str().unwrap(), "CNY", Clock::default()).await.unwrap().close().await;
    open().await;
    assert_eq!(mode(), 0o600);
    // What its owner has chosen since is left.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    open().await;
    assert_eq!(mode(), 0o640);
}

#[tokio::test]
async fn the_currency_is_that_of_the_first_day() {
    let directory = tempfile::tempdir().unwrap();
    let address = directory.path().join("books.db").to_str().unwrap().to_string();
    let clock = || Clock::new(|| NOON);
    assert_eq!(Ledger::open(&address, "EUR", clock()).await.unwrap().currency(), "EUR");
    let later = Ledger::open(&address, "USD", clock()).await.unwrap();
    assert_eq!(later.currency(), "EUR");
    assert!(matches!(Meter::start(&later, "", 90).await, Err(LedgerError::Invalid(_))));
}

#[test]
fn what_was_delivered_and_kept_is_charged_once_however_often_it_is_said() {
    over_both(async |books: Fixture| {
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let killed = books.meter("one").await;
        let mut ids = Vec::new();
        for name in ["ended", "kept", "moved", "lost"] {
            let metered = killed.reserve(demand(name, &key, 100, 50)).await.unwrap().unwrap();
            ids.push(metered.id().to_string());
            assert!(is_called(metered.id(), name));
            match name {
                "ended" => assert_eq!(metered.settle(tokens(30), "done").await, Some(Money(160))),
                // The kill: nothing was noted, what was kept of them is elsewhere.
                _ => std::mem::forget(metered),
            }
        }
        // One is still reserved for a server of another name, as after a move to another port.
        books.tamper("UPDATE reservation SET server = 'two' WHERE request LIKE 'moved%'").await;
        let next = books.meter("one").await;
        let charged = async |at: usize| next.settle(&ids[at], tokens(30), "done").await;
        assert_eq!((charged(0).await, charged(1).await, charged(2).await), (None, Some(Money(160)), Some(Money(160))));
        assert_eq!((charged(0).await, charged(1).await, charged(2).await), (None, None, None));
        assert_eq!(next.settle("nobody", tokens(30), "done").await, None);
        let rows = books.ledger.requests(&everything(), 9).await.unwrap();
        let done = |row: &&farthing_ledger::RequestUsage| row.status == "done" && row.tokens == tokens(30);
        assert_eq!((rows.len(), rows.iter().filter(done).count()), (4, 3));
        // What nobody kept is charged to nobody.
        let lost = rows.iter().find(|row| is_called(&row.request, "lost")).unwrap();
        assert_eq!((lost.tokens, lost.cost, lost.status.as_str()), (Tokens::default(), Money(0), "interrupted"));
        assert_eq!(books.ledger.account("anna").await.unwrap().balance(), Money(10_000 - 3 * 160));
        assert!(next.flush().await);
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        // The key by its id, as long as it is good.
        assert_eq!(books.ledger.valid_key(&key.id).await.unwrap().unwrap().key.name, "anna");
        books.ledger.revoke_key("anna").await.unwrap();
        assert!(books.ledger.valid_key(&key.id).await.unwrap().is_none());
        assert!(books.ledger.valid_key("key_none").await.unwrap().is_none());
    });
}
