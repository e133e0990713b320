//! Several servers of one database, whose clocks differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use farthing_ledger::{Clock, Ledger, Limits, Meter, Noted, Tokens, UsageFilter};

use crate::fixture::{Fixture, demand, over_both};

/// More than it takes to be taken for dead, less than a day.
const OFF_MS: i64 = 10 * 3_600_000;

/// A machine's ledger, with a clock that is off by as much as is stored.
async fn machine(books: &Fixture, off: &Arc<AtomicI64>) -> Ledger {
    let (off, right) = (Arc::clone(off), Clock::default());
    let clock = Clock::of_machine(move || right.now() + off.load(Ordering::SeqCst));
    Ledger::open(&books.address, "CNY", clock).await.unwrap()
}

fn agree(one: &Ledger, other: &Ledger) -> bool {
    (one.now() - other.now()).abs() < 30_000
}

#[test]
fn the_clock_of_a_shared_database_is_that_of_all_its_servers() {
    over_both(async |books: Fixture| {
        let (off, right) = (Arc::new(AtomicI64::new(-OFF_MS)), Arc::new(AtomicI64::new(0)));
        let (late, other) = (machine(&books, &off).await, machine(&books, &right).await);
        if !books.address.starts_with("postgres") {
            // A file is on one machine: its clock holds.
            assert!(!agree(&late, &other));
            return;
        }
        assert!(agree(&late, &other));
        let (key, _) = books.key("anna", 10_000, Limits::default()).await;
        let meter = Meter::start(&late, "late", 90).await.unwrap();
        let mut flying = meter.reserve(demand("flying", &key, 100, 100)).await.unwrap().unwrap();
        let tokens = Tokens { miss: 100, output: 5, ..Tokens::default() };
        for jump in [-OFF_MS, OFF_MS, -3 * OFF_MS] {
            // The clock jumps between two looks at the database's.
            off.store(jump, Ordering::SeqCst);
            assert_eq!(flying.note(tokens).await, Noted::Written);
            assert!(agree(&late, &other), "{jump}");
            // Another server starts and looks for dead ones.
            let watcher = Meter::start(&other, &format!("watcher {jump}"), 90).await.unwrap();
            for _ in 0..20 {
                watcher.flush().await;
            }
            assert_eq!(flying.note(tokens).await, Noted::Written, "taken for dead");
            watcher.finish().await;
        }
        flying.settle(tokens, "done").await.unwrap();
        let all = UsageFilter { until: i64::MAX / 2, ..UsageFilter::default() };
        let row = books.ledger.requests(&all, 1).await.unwrap().remove(0);
        assert!((row.time - other.now()).abs() < 60_000 && row.status == "done", "{row:?}");
    });
}
