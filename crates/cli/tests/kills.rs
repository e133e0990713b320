//! A server that is killed at random points, again and again: what clients received is charged within the bound, nothing twice, nothing that they did not get.
//!
//!     FARTHING_KILLS=1000 FARTHING_KILLS_SEED=7 cargo test --release -p farthing-cli --test kills -- --nocapture
//!
//! FARTHING_KILLS servers (6) are killed over each of SQLite and PostgreSQL, at points that FARTHING_KILLS_SEED (1) draws.

mod started;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use sqlx::Connection;
use started::Server;
use started::books::{Books, cost, request, story};

/// A stream's tokens that a kill may leave uncharged, and the time whose tokens it may leave where they are more.
const UNCHARGED_TOKENS: usize = 16;
const UNCHARGED_TIME: Duration = Duration::from_millis(100);

/// An answer that is not streamed is noted as a whole, so it is no longer than that.
const WHOLE_TOKENS: u64 = 16;

/// What a client got of a request.
struct Received {
    /// As the server named it.
    request: String,
    /// When each token arrived.
    tokens: Vec<Instant>,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}

/// One answer, read until it ends or the connection does, and what is done after each token; `None` if the server did not begin it.
fn receive(
    server: &str,
    key: &str,
    (stream, tokens, seed): (bool, u64, u64),
    mut token: impl FnMut(),
) -> Option<Received> {
    let mut body = story(stream, Some(tokens));
    body["seed"] = seed.into();
    body["logprobs"] = true.into();
    let mut connection = std::net::TcpStream::connect(server).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    connection.write_all(request(key, "POST", "/v1/chat/completions", &body).as_bytes()).ok()?;
    let mut received: Option<Received> = None;
    for line in BufReader::new(connection).lines().map_while(Result::ok) {
        if let Some(request) = line.strip_prefix("x-request-id: ") {
            received = Some(Received { request: request.to_string(), tokens: Vec::new() });
        }
        let Ok(value) = serde_json::from_str::<Value>(line.strip_prefix("data: ").unwrap_or(&line)) else { continue };
        let scored = |field: &str| value["choices"][0]["logprobs"][field].as_array().map_or(0, Vec::len);
        let count = scored("content") + scored("reasoning_content");
        received.as_mut()?.tokens.extend(std::iter::repeat_n(Instant::now(), count));
        (0..count).for_each(|_| token());
    }
    received
}

/// Clients that ask one thing after the other, until the server is killed after a while; what they got, and when it was killed.
fn round(server: &mut Server, key: &str, random: &mut Pcg64) -> (Vec<Received>, Instant) {
    let clients: u64 = random.random_range(1..=4);
    let after = Duration::from_millis(random.random_range(0..900));
    let seeds: Vec<u64> = (0..clients).map(|_| random.random()).collect();
    std::thread::scope(|scope| {
        let address = &server.address;
        let client = |seed: u64| {
            let mut random = Pcg64::seed_from_u64(seed);
            let mut all = Vec::new();
            loop {
                let stream = random.random_bool(0.8);
                let most = if stream { random.random_range(1..400) } else { random.random_range(1..=WHOLE_TOKENS) };
                match receive(address, key, (stream, most, random.random_range(0..1000)), || ()) {
                    Some(received) => all.push(received),
                    None => return all,
                }
            }
        };
        let clients: Vec<_> = seeds.into_iter().map(|seed| scope.spawn(move || client(seed))).collect();
        std::thread::sleep(after);
        let killed = Instant::now();
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect(), killed)
    })
}

/// Sums over all rounds.
#[derive(Default)]
struct Seen {
    requests: usize,
    interrupted: usize,
    received: usize,
    uncharged: usize,
    most: usize,
}

/// Holds what clients received against the rows of the books.
fn compare(received: &[Received], killed: Instant, rows: &HashMap<String, Value>, seen: &mut Seen) {
    for Received { request, tokens } in received {
        let row = rows.iter().find(|(id, _)| id.starts_with(request.as_str())).map(|(_, row)| row);
        let row = row.unwrap_or_else(|| panic!("{request}: {} tokens came, and it is not in the books", tokens.len()));
        let charged = row["output"].as_u64().unwrap() as usize;
        assert!(charged <= tokens.len(), "{} tokens came, and {charged} are charged: {row}", tokens.len());
        assert_eq!(row["cost"].as_u64().unwrap(), cost(row), "{row}");
        let left = &tokens[charged..];
        // A stream stops while a disk takes its time, and may be killed a good while after its last token.
        let last = tokens.last().copied().unwrap_or(killed).min(killed);
        let old = left.iter().filter(|at| last.saturating_duration_since(**at) > UNCHARGED_TIME).count();
        assert!(
            left.len() <= UNCHARGED_TOKENS || old == 0,
            "of {} tokens {charged} are charged, {old} that were left are old: {row}",
            tokens.len()
        );
        seen.requests += 1;
        seen.interrupted += usize::from(row["status"] == "interrupted");
        seen.received += tokens.len();
        seen.uncharged += left.len();
        seen.most = seen.most.max(left.len());
    }
}

fn kill_again_and_again(books: &Books) {
    let (kills, seed) = (number("FARTHING_KILLS", 6), number("FARTHING_KILLS_SEED", 1));
    let key = books.key("anna", &["--top-up", "1000"]);
    let mut random = Pcg64::seed_from_u64(seed);
    let mut seen = Seen::default();
    let mut rounds: Vec<(Vec<Received>, Instant)> = Vec::new();
    for _ in 0..kills {
        rounds.push(round(&mut books.server(), &key, &mut random));
    }
    // The last start settles what the last kill left.
    let server = books.server();
    let balance = started::books::ask(&server, &key, "GET", "/user/balance", &json!(null));
    drop(server);
    let mut rows = HashMap::new();
    let mut spent = 0;
    for row in books.requests("anna") {
        spent += row["cost"].as_u64().unwrap();
        let twice = rows.insert(row["request"].as_str().unwrap().to_string(), row);
        assert!(twice.is_none(), "{twice:?}");
    }
    for (received, killed) in &rounds {
        compare(received, *killed, &rows, &mut seen);
    }
    let left = &started::books::body(&balance)["balance_infos"][0]["total_balance"];
    let left = (left.as_str().unwrap().parse::<f64>().unwrap() * 1e6).round() as u64;
    assert_eq!(left, 1_000_000_000 - spent, "the balance is what was added less what the rows cost");
    books.check();
    let Seen { requests, interrupted, received, uncharged, most } = seen;
    println!(
        "{kills} kills, seed {seed}: {requests} answers, {interrupted} of them cut; {received} tokens received, {uncharged} uncharged, {most} of one answer at most"
    );
    assert!(kills < 6 || interrupted > 0, "no answer was cut");
}

/// Holds the file of a ledger, so that nobody else writes to it, and does something then.
fn while_held(file: &str, then: impl FnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = sqlx::SqliteConnection::connect(file).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
        then();
    });
}

#[test]
fn a_stream_that_waited_for_the_books_is_charged_within_the_bound() {
    let books = Books::new();
    let key = books.key("anna", &["--top-up", "1"]);
    let mut server = books.server();
    let (arrived, tokens) = std::sync::mpsc::channel();
    let (received, killed) = std::thread::scope(|scope| {
        let (address, key) = (server.address.clone(), &key);
        let client = scope.spawn(move || receive(&address, key, (true, 1500, 1), || arrived.send(()).unwrap()));
        assert_eq!(tokens.iter().take(20).count(), 20);
        let mut killed = Instant::now();
        while_held(&books.address, || {
            std::thread::sleep(Duration::from_secs(1));
            killed = Instant::now();
            server.child.kill().unwrap();
            server.child.wait().unwrap();
        });
        (client.join().unwrap().unwrap(), killed)
    });
    // It went on for 100 ms or 16 tokens and waited then, so at the kill all that was left is old.
    assert!(received.tokens.len() < 1500 && killed.duration_since(*received.tokens.last().unwrap()) > UNCHARGED_TIME);
    drop(books.server());
    let row = books.ended("anna", 1);
    assert_eq!(row["status"], "interrupted");
    let mut seen = Seen::default();
    compare(&[received], killed, &HashMap::from([(row["request"].as_str().unwrap().to_string(), row)]), &mut seen);
    assert!(seen.uncharged > 0, "all of {} tokens were charged", seen.received);
    books.check();
}

#[test]
fn over_sqlite() {
    kill_again_and_again(&Books::new());
}

#[test]
fn over_postgresql() {
    if let Some(books) = Books::postgres() {
        kill_again_and_again(&books);
    }
}
