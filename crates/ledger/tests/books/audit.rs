//! The books as a whole: checks that find what does not agree, copies, exports, and what is forgotten.

use farthing_ledger::{Clock, EntryKind, GroupBy, Ledger, Limits, Money, Tokens, UsageFilter};

use crate::fixture::{Fixture, NOON, demand, over_both};

/// Books with two accounts and requests on two days.
async fn fill(books: &Fixture) -> Vec<String> {
    let meter = books.meter("one").await;
    let (anna, secret) = books.key("anna", 10_000, Limits::default()).await;
    let (bob, other) = books.key("bob", 0, Limits::default()).await;
    books.ledger.credit("anna", EntryKind::Grant, Money(100), "welcome").await.unwrap();
    for n in 0..6 {
        let metered = meter
            .reserve(demand(&format!("request {n}"), if n % 2 == 0 { &anna } else { &bob }, 10, 10))
            .await
            .unwrap()
            .unwrap();
        metered.settle(Tokens { hit: 4, miss: 6, output: n, reasoning: 0 }, "done").await.unwrap();
        books.pass(20_000_000);
    }
    meter.finish().await;
    vec![secret.reveal().to_string(), other.reveal().to_string()]
}

#[test]
fn a_check_finds_what_does_not_agree() {
    over_both(async |books: Fixture| {
        fill(&books).await;
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        for (harm, mend, found) in [
            (
                "UPDATE account SET topped_up = topped_up + 1 WHERE name = 'anna'",
                "UPDATE account SET topped_up = topped_up - 1 WHERE name = 'anna'",
                "balance of account",
            ),
            (
                "UPDATE account SET granted = -5, topped_up = topped_up + 5 + granted WHERE name = 'anna'",
                "UPDATE account SET topped_up = topped_up - 5, granted = 0 WHERE name = 'anna'",
                "overdrawn",
            ),
            (
                "UPDATE api_key SET total_tokens = total_tokens + 1 WHERE name = 'bob'",
                "UPDATE api_key SET total_tokens = total_tokens - 1 WHERE name = 'bob'",
                "totals of key",
            ),
            (
                "UPDATE usage SET cost = cost + 1 WHERE request LIKE 'request 5%'",
                "UPDATE usage SET cost = cost - 1 WHERE request LIKE 'request 5%'",
                "cost of request request 5",
            ),
            (
                "UPDATE usage SET output = output + 1, cost = cost + 2 WHERE request LIKE 'request 5%'",
                "UPDATE usage SET output = output - 1, cost = cost - 2 WHERE request LIKE 'request 5%'",
                "sums of a day",
            ),
            (
                "INSERT INTO reservation SELECT 'lost', 'one', 'run', 'nobody', 'nobody', '', '', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM ledger",
                "DELETE FROM reservation WHERE request = 'lost'",
                "request lost is in flight",
            ),
        ] {
            books.tamper(harm).await;
            let findings = books.ledger.check().await.unwrap();
            assert!(findings.iter().any(|finding| finding.contains(found)), "{harm}: {findings:?}");
            books.tamper(mend).await;
            assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new(), "{mend}");
        }
    });
}

#[test]
fn a_copy_is_a_ledger_and_an_export_has_no_secrets() {
    over_both(async |books: Fixture| {
        let secrets = fill(&books).await;
        let to = books.directory.path().join("copy.db");
        books.ledger.backup(&to).await.unwrap();
        let said = books.ledger.backup(&to).await.unwrap_err().to_string();
        assert!(said.contains("copy.db") && said.contains("exists"), "{said}");
        let copy = Ledger::open(to.to_str().unwrap(), "USD", Clock::new(|| NOON)).await.unwrap();
        assert_eq!(copy.currency(), "CNY");
        assert_eq!(copy.check().await.unwrap(), Vec::<String>::new());
        let all = UsageFilter { until: NOON * 2, ..UsageFilter::default() };
        assert_eq!(copy.requests(&all, 99).await.unwrap(), books.ledger.requests(&all, 99).await.unwrap());
        assert_eq!(
            copy.usage(&all, GroupBy::Hour).await.unwrap(),
            books.ledger.usage(&all, GroupBy::Hour).await.unwrap()
        );
        assert!(copy.authenticate(secrets[0].as_bytes()).await.unwrap().is_some());
        let lines = async |ledger: &Ledger| {
            let mut lines = Vec::new();
            ledger
                .export(&mut |line| {
                    lines.push(line.to_string());
                    Ok(())
                })
                .await
                .unwrap();
            lines
        };
        let exported = lines(&books.ledger).await;
        assert_eq!(lines(&copy).await, exported);
        assert_eq!(exported.iter().filter(|line| line.contains("\"table\":\"usage\"")).count(), 6);
        for secret in secrets.iter().map(String::as_str).chain(["hash", "salt"]) {
            assert!(!exported.concat().contains(secret), "{secret}");
        }
        // No directory is made for a copy.
        let away = books.directory.path().join("away").join("copy.db");
        let said = books.ledger.backup(&away).await.unwrap_err().to_string();
        assert!(said.contains("away/copy.db: there is no directory") && !away.parent().unwrap().exists(), "{said}");
        // A place that cannot be written leaves nothing.
        let nowhere = books.directory.path().join("none").join("copy.db");
        std::fs::write(books.directory.path().join("none"), "").unwrap();
        assert!(books.ledger.backup(&nowhere).await.is_err());
        let full = books.ledger.export(&mut |_| Err(std::io::Error::other("no space left"))).await;
        assert!(full.unwrap_err().to_string().contains("no space left"));
    });
}

#[test]
fn a_secret_is_nowhere_in_the_file() {
    over_both(async |books: Fixture| {
        let secrets = fill(&books).await;
        for entry in std::fs::read_dir(books.directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for secret in &secrets {
                assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
            }
        }
    });
}

#[test]
fn rows_that_are_too_old_are_forgotten_and_days_kept() {
    over_both(async |books: Fixture| {
        fill(&books).await;
        let all = UsageFilter { until: NOON * 2, ..UsageFilter::default() };
        let days = books.ledger.usage(&all, GroupBy::Day).await.unwrap();
        // 30 days later, with rows kept for 30: the first day's are gone.
        books.pass(30 * 86_400_000 - 120_000_000 + 30_000_000);
        let meter = farthing_ledger::Meter::start(&books.again().await, "one", 30).await.unwrap();
        for _ in 0..100 {
            if books.ledger.requests(&all, 99).await.unwrap().len() == 4 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(books.ledger.requests(&all, 99).await.unwrap().len(), 4);
        assert_eq!(books.ledger.usage(&all, GroupBy::Hour).await.unwrap().len(), 4);
        assert_eq!(books.ledger.usage(&all, GroupBy::Day).await.unwrap(), days);
        assert_eq!(books.ledger.check().await.unwrap(), Vec::<String>::new());
        meter.finish().await;
    });
}
