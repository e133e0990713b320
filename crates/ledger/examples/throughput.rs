//! Settled requests a second, and what the ledger adds to a request.
//!
//!     cargo run --release -p farthing-ledger --example throughput -- ADDRESS [CLIENTS] [SECONDS]
//!
//! CLIENTS tasks (64) reserve, note once and settle, one request after the other, for SECONDS (5). All runs on one thread of the async runtime and, with a
//! file, SQLite's own; `taskset -c 0` puts both on one core. ADDRESS is a new file, or an empty database of PostgreSQL.

use std::time::{Duration, Instant};

use farthing_ledger::{Clock, Demand, EntryKind, Ledger, Limits, Meter, Money, NewKey, Price, Tokens};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().expect("ADDRESS");
    let clients: usize = arguments.next().map_or(64, |n| n.parse().expect("CLIENTS"));
    let seconds: u64 = arguments.next().map_or(5, |n| n.parse().expect("SECONDS"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(
        &address,
        clients,
        Duration::from_secs(seconds),
    ));
}

async fn run(address: &str, clients: usize, time: Duration) {
    let ledger = Ledger::open(address, "USD", Clock::default()).await.unwrap();
    let meter = Meter::start(&ledger, "throughput", 90).await.unwrap();
    let limits = Limits {
        concurrency: Some(10_000),
        requests_per_minute: Some(10_000_000),
        tokens_per_minute: Some(u64::MAX / 2),
        ..Limits::default()
    };
    let mut keys = Vec::new();
    for client in 0..clients {
        let name = format!("client {client} of {}", std::process::id());
        ledger.create_account(&name, true).await.unwrap();
        ledger.credit(&name, EntryKind::TopUp, Money(1_000_000_000_000), "").await.unwrap();
        keys.push(
            ledger
                .create_key(&NewKey { account: name.clone(), name, limits: limits.clone(), ..NewKey::default() })
                .await
                .unwrap()
                .0
                .id,
        );
    }
    let start = Instant::now();
    let tasks: Vec<_> = keys.into_iter().map(|key| tokio::spawn(client(meter.clone(), key, start + time))).collect();
    let mut added = Vec::new();
    for task in tasks {
        added.extend(task.await.unwrap());
    }
    let seconds = start.elapsed().as_secs_f64();
    added.sort();
    let of = |share: f64| added[((added.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{} requests in {seconds:.1} s: {:.0}/s; reserving took {:.2} ms (median), {:.2} ms (p99) with {clients} at once",
        added.len(),
        added.len() as f64 / seconds,
        of(0.5),
        of(0.99)
    );
    meter.finish().await;
    assert_eq!(ledger.check().await.unwrap(), Vec::<String>::new());
}

/// Requests one after the other; how long each waited to be admitted.
async fn client(meter: Meter, key: String, end: Instant) -> Vec<Duration> {
    let mut waited = Vec::new();
    while Instant::now() < end {
        let demand = Demand {
            request: format!("{key} {}", waited.len()),
            key: key.clone(),
            endpoint: "/v1/chat/completions".to_string(),
            model: "model".to_string(),
            price: Price { hit: 3_000, miss: 150_000, output: 600_000 },
            prompt: 1000,
            output: 500,
            named: true,
            choices: 1,
        };
        let asked = Instant::now();
        let mut metered = meter.reserve(demand).await.unwrap().unwrap();
        waited.push(asked.elapsed());
        let tokens = Tokens { hit: 640, miss: 360, output: 16, reasoning: 0 };
        metered.note(tokens).await;
        metered.settle(Tokens { output: 300, ..tokens }, "done").await.unwrap();
    }
    waited
}
