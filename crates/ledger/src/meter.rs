//! The meter of a server: it reserves, notes and settles requests, many in one transaction.
//!
//! Orders come through a channel to one task, which writes what has gathered and answers when it is committed. While the database fails, notes and endings
//! are kept and written later; reservations are refused, so that nothing is served unmetered.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sqlx::{AnyConnection, Row};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, WeakUnboundedSender};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::account::fresh_id;
use crate::clock::Clock;
use crate::database::Database;
use crate::error::{LedgerError, Refusal};
use crate::key::check_name;
use crate::ledger::Ledger;
use crate::money::{Money, Tokens};
use crate::reservation::{self, Demand, Ending, Reservation, Writer};
use crate::usage;

/// Bytes of a request's id at most, without what makes it the only one: ids may come from clients.
const ID_BYTES_MAX: usize = 128;
/// Orders in one transaction at most.
const BATCH_MAX: usize = 256;
/// Longest time of a transaction.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between tries while the database fails.
const RETRY: Duration = Duration::from_millis(500);
/// Between signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A run that was seen since, and has not said that it ends, may still be there.
const LATELY_MS: i64 = 12_000;
/// A server that was not seen for so long is dead, and its requests are settled by another.
const DEAD_AFTER_MS: i64 = 60_000;
/// Longest time to write what is left when the meter ends.
const FLUSH: Duration = Duration::from_secs(10);
/// Tries of an order that fails while others do not: eight minutes.
const TRIES_MAX: u32 = 1000;

/// Whether progress was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It is in the books.
    Written,
    /// The request is not in flight any more: its account was deleted, or another server took this one for dead. It must end.
    Gone,
}

enum Order {
    Reserve(Box<Demand>, oneshot::Sender<Result<Result<Metered, Refusal>, LedgerError>>),
    Note(String, Tokens, oneshot::Sender<Noted>),
    Settle(Ending, Option<oneshot::Sender<Option<Money>>>),
    Leave(oneshot::Sender<()>),
}

enum Outcome {
    Reserved(Result<Reservation, Refusal>),
    Noted(Noted),
    Settled(Option<Money>),
    Left,
}

/// Reserves, notes and settles a server's requests. Clones share it.
#[derive(Clone, Debug)]
pub struct Meter {
    // Unbounded, as each request waits for its answer: there are never more orders than requests, and one for each that is dropped.
    orders: UnboundedSender<Order>,
    trouble: watch::Receiver<Option<String>>,
    ended: watch::Receiver<bool>,
    took_over: bool,
}

/// A request in flight. Dropped without an end, it is charged for what was last noted.
#[derive(Debug)]
pub struct Metered {
    orders: UnboundedSender<Order>,
    request: String,
    reservation: Reservation,
    started: Instant,
    delivered: Tokens,
    /// A note on its way, and what it says.
    noting: Option<(oneshot::Receiver<Noted>, Tokens)>,
    /// What is in the books.
    noted: Tokens,
    /// It is not in flight any more.
    gone: bool,
    ended: bool,
}

impl Meter {
    /// Begins to meter for the server of this name; requests of an earlier run of it, which was killed, are charged for what was noted. Needs a runtime of
    /// tokio, where the task runs that writes. Usage rows of requests are kept for `keep_days`.
    ///
    /// # Errors
    /// The name cannot be one, or the books cannot be written.
    pub async fn start(ledger: &Ledger, server: &str, keep_days: u32) -> Result<Meter, LedgerError> {
        check_name(server)?;
        let writer = Writer { server: server.to_string(), run: fresh_id("run") };
        let now = ledger.now();
        let mut transaction = ledger.database.write().await?;
        let seen = sqlx::query("SELECT seen_at FROM server WHERE name = $1")
            .bind(server)
            .fetch_optional(&mut *transaction)
            .await?
            .map(|row| row.try_get::<i64, _>("seen_at"))
            .transpose()?;
        let took_over = seen.is_some_and(|seen| now.saturating_sub(seen) < LATELY_MS);
        sqlx::query(
            "INSERT INTO server (name, run, seen_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE SET run = excluded.run, seen_at = excluded.seen_at",
        )
        .bind(&writer.server)
        .bind(&writer.run)
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        let interrupted = reservation::interrupt_runs(&mut transaction, &writer, now).await?;
        transaction.commit().await?;
        if interrupted > 0 {
            tracing::warn!(target: "farthing", requests = interrupted, "requests of a run that was killed are charged for what they had delivered");
        }
        let (orders, queue) = mpsc::unbounded_channel();
        let (trouble, troubled) = watch::channel(None);
        let (ended, end) = watch::channel(false);
        let (database, clock, weak) = (ledger.database.clone(), ledger.clock.clone(), orders.downgrade());
        let books = Books { database, clock, writer, keep_days, trouble, orders: weak, waiting: Vec::new() };
        tokio::spawn(async move {
            books.run(queue).await;
            let _ = ended.send(true);
        });
        Ok(Meter { orders, trouble: troubled, ended: end, took_over })
    }

    /// Reserves the most that a request may take, or says why it is refused. In the books its id gets 21 characters more, which make it the only one.
    ///
    /// # Errors
    /// The books cannot be written: the request must not be served.
    pub async fn reserve(&self, mut demand: Demand) -> Result<Result<Metered, Refusal>, LedgerError> {
        if let Some(trouble) = self.trouble() {
            return Err(LedgerError::Unavailable(trouble));
        }
        demand.request.truncate(demand.request.floor_char_boundary(ID_BYTES_MAX));
        demand.request = fresh_id(&demand.request);
        let (answer, outcome) = oneshot::channel();
        let ended = || LedgerError::Unavailable("the server is shutting down".to_string());
        self.orders.send(Order::Reserve(Box::new(demand), answer)).map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }

    /// Why the books cannot be written at present.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether a run of this name was there a moment ago: one that was killed, or another server, which serves no longer.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Says in the books that this run ends: the next one of this name takes nothing over. After ten seconds it is left unsaid.
    pub async fn leave(&self) {
        let (answer, outcome) = oneshot::channel();
        if self.orders.send(Order::Leave(answer)).is_ok() {
            let _ = timeout(FLUSH, outcome).await;
        }
    }

    /// Ends a request by its id in the books, whatever became of this process since it was reserved: one that was charged for less, as its server was killed
    /// or taken for dead, is charged for the rest, and one that has ended stays as it is. So whoever keeps what was delivered may say it as often as he likes.
    /// Its cost, or `None` if there was nothing to do. Done when it is in the books, however long they fail.
    pub async fn settle(&self, request: &str, delivered: Tokens, status: &str) -> Option<Money> {
        let (request, status) = (request.to_string(), status.to_string());
        let ending = Ending { request, tokens: delivered, status, latency_ms: 0 };
        let (answer, outcome) = oneshot::channel();
        self.orders.send(Order::Settle(ending, Some(answer))).ok()?;
        outcome.await.ok()?
    }

    /// Waits until all that was ordered so far is in the books, for ten seconds at most. Whether it is.
    pub async fn flush(&self) -> bool {
        let (answer, outcome) = oneshot::channel();
        // A note of no request: orders are written in their order.
        let sent = self.orders.send(Order::Note(String::new(), Tokens::default(), answer)).is_ok();
        sent && matches!(timeout(FLUSH, outcome).await, Ok(Ok(_)))
    }

    /// Lets go of the meter and waits until what was ordered is in the books, for ten seconds at most.
    pub async fn finish(self) {
        let Meter { orders, mut ended, .. } = self;
        drop(orders);
        let _ = timeout(FLUSH, ended.wait_for(|ended| *ended)).await;
    }
}

impl Metered {
    /// Its id in the books.
    pub fn id(&self) -> &str {
        &self.request
    }

    /// Longest answer of a choice, and what the key may still do in this minute.
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// Writes down what the request has delivered so far; done when it is in the books, however long they fail.
    pub async fn note(&mut self, delivered: Tokens) -> Noted {
        self.delivered = self.delivered.most(delivered);
        let (answer, outcome) = oneshot::channel();
        if self.orders.send(Order::Note(self.request.clone(), self.delivered, answer)).is_err() {
            return Noted::Gone;
        }
        let outcome = outcome.await.unwrap_or(Noted::Gone);
        if outcome == Noted::Written {
            self.noted = self.delivered;
        }
        outcome
    }

    /// Tells the meter what the request has delivered so far, without waiting: a note goes out where none is on its way and at least `every` tokens are not
    /// in the books. [`Metered::poll_noted`] says what came of it. Returns whether a note went out.
    pub fn progress(&mut self, delivered: Tokens, every: u64) -> bool {
        self.delivered = self.delivered.most(delivered);
        if let Some((outcome, _)) = &mut self.noting
            && let outcome = outcome.try_recv()
            && outcome != Err(TryRecvError::Empty)
        {
            self.came_back(outcome.unwrap_or(Noted::Gone));
        }
        let due = self.noting.is_none() && !self.gone && self.unnoted() >= every.max(1);
        if due {
            self.send_note();
        }
        due
    }

    /// Asks the books whether the request is still in flight: [`Metered::poll_noted`] says it.
    pub fn confirm(&mut self) {
        if self.noting.is_none() && !self.gone {
            self.send_note();
        }
    }

    fn send_note(&mut self) {
        let (answer, outcome) = oneshot::channel();
        // Fails when the task has ended; then the receiver says that the request is gone.
        let _ = self.orders.send(Order::Note(self.request.clone(), self.delivered, answer));
        self.noting = Some((outcome, self.delivered));
    }

    /// What is in the books.
    pub fn noted(&self) -> Tokens {
        self.noted
    }

    /// Delivered tokens that are not in the books.
    pub fn unnoted(&self) -> u64 {
        self.delivered.all() - self.noted.all()
    }

    /// What came of the last note; `Pending`, with a waker, while it is on its way.
    pub fn poll_noted(&mut self, task: &mut Context<'_>) -> Poll<Noted> {
        if let Some((outcome, _)) = &mut self.noting {
            match Pin::new(outcome).poll(task) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(noted) => self.came_back(noted.unwrap_or(Noted::Gone)),
            }
        }
        Poll::Ready(if self.gone { Noted::Gone } else { Noted::Written })
    }

    fn came_back(&mut self, noted: Noted) {
        match (self.noting.take(), noted) {
            (Some((_, tokens)), Noted::Written) => self.noted = tokens,
            _ => self.gone = true,
        }
    }

    /// Ends the request and charges what it delivered; its cost, or `None` if it was not in flight any more. Done when it is in the books, however long
    /// they fail.
    pub async fn settle(mut self, delivered: Tokens, status: &str) -> Option<Money> {
        self.delivered = self.delivered.most(delivered);
        let (answer, outcome) = oneshot::channel();
        self.end(status, Some(answer));
        outcome.await.ok()?
    }

    /// Ends the request without waiting for the books.
    pub fn close(mut self, delivered: Tokens, status: &str) {
        self.delivered = self.delivered.most(delivered);
        self.end(status, None);
    }

    fn end(&mut self, status: &str, answer: Option<oneshot::Sender<Option<Money>>>) {
        self.ended = true;
        let ending = Ending {
            request: self.request.clone(),
            tokens: self.delivered,
            status: status.to_string(),
            latency_ms: self.started.elapsed().as_millis() as u64,
        };
        // Fails when the task has ended: then the next start settles what was noted.
        let _ = self.orders.send(Order::Settle(ending, answer));
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if !self.ended {
            self.end("dropped", None);
        }
    }
}

/// The task that writes.
struct Books {
    database: Database,
    clock: Clock,
    writer: Writer,
    keep_days: u32,
    trouble: watch::Sender<Option<String>>,
    /// For the requests that it hands out.
    orders: WeakUnboundedSender<Order>,
    /// Notes and endings that could not be written yet, with the number of tries.
    waiting: Vec<(Order, u32)>,
}

impl Books {
    async fn run(mut self, mut queue: UnboundedReceiver<Order>) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                order = queue.recv() => order,
                _ = heartbeat.tick() => {
                    self.sweep().await;
                    continue;
                }
                () = sleep(RETRY), if !self.waiting.is_empty() || self.trouble.borrow().is_some() => {
                    self.write(Vec::new()).await;
                    continue;
                }
            };
            let Some(first) = order else { break };
            let mut orders = vec![first];
            while orders.len() < BATCH_MAX
                && let Ok(next) = queue.try_recv()
            {
                orders.push(next);
            }
            self.write(orders).await;
        }
        // What is left when the server ends.
        let end = Instant::now() + FLUSH;
        while !self.waiting.is_empty() && Instant::now() < end {
            self.write(Vec::new()).await;
            sleep(RETRY).await;
        }
        if !self.waiting.is_empty() {
            let requests = self.waiting.len();
            tracing::error!(target: "farthing", requests, "the ledger could not be written; these requests are charged at the next start for what was noted");
        }
    }

    /// Writes orders, after those that wait.
    async fn write(&mut self, orders: Vec<Order>) {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(orders.into_iter().map(|order| (order, 0)));
        match self.transaction(all.iter().map(|(order, _)| order)).await {
            Ok((outcomes, alive)) => {
                if alive {
                    self.well();
                }
                all.into_iter().zip(outcomes).for_each(|((order, _), outcome)| self.answer(order, outcome));
            }
            // Whose fault it is, a transaction without orders tells.
            Err(error) => match self.transaction(std::iter::empty()).await {
                Ok(_) => self.write_each(all).await,
                Err(_) => self.failed(all, &error),
            },
        }
    }

    /// Writes orders one by one, as one of them is at fault and the database is not.
    async fn write_each(&mut self, orders: Vec<(Order, u32)>) {
        self.well();
        for (order, tries) in orders {
            match self.transaction(std::iter::once(&order)).await {
                Ok((mut outcomes, _)) => self.answer(order, outcomes.remove(0)),
                Err(error) if tries < TRIES_MAX => self.keep(order, tries + 1, &error.to_string()),
                Err(error) => {
                    tracing::error!(target: "farthing", %error, request = order.request(), "this request cannot be written to the ledger and is given up");
                }
            }
        }
    }

    /// Keeps a note or an ending for later. A reservation is refused, and ended later: its commit may have been heard by the database alone.
    fn keep(&mut self, order: Order, tries: u32, reason: &str) {
        let kept = match order {
            Order::Reserve(demand, answer) => {
                drop(answer.send(Err(LedgerError::Unavailable(reason.to_string()))));
                let (request, tokens) = (demand.request, Tokens::default());
                Order::Settle(Ending { request, tokens, status: "refused".to_string(), latency_ms: 0 }, None)
            }
            kept => kept,
        };
        self.waiting.push((kept, tries));
    }

    /// The books can be written.
    fn well(&self) {
        if self.trouble.send_replace(None).is_some() {
            tracing::info!(target: "farthing", "the ledger can be written again");
        }
    }

    /// Keeps notes and endings for later, and refuses reservations.
    fn failed(&mut self, orders: Vec<(Order, u32)>, error: &LedgerError) {
        let reason = error.to_string();
        if self.trouble.borrow().is_none() {
            tracing::error!(target: "farthing", error = reason, "the ledger cannot be written; requests are refused until it can");
        }
        self.trouble.send_replace(Some(reason.clone()));
        orders.into_iter().for_each(|(order, tries)| self.keep(order, tries, &reason));
    }

    /// Writes orders in one transaction. Beside their outcomes, whether this run still has the server's name.
    async fn transaction<'a>(
        &self,
        orders: impl Iterator<Item = &'a Order>,
    ) -> Result<(Vec<Outcome>, bool), LedgerError> {
        let work = async {
            let mut transaction = self.database.write().await?;
            let (alive, now) = self.sign_of_life(&mut transaction).await?;
            let orders: Vec<&Order> = orders.collect();
            // Another run has this server's name. It has settled all requests by what was noted; endings add the rest, nothing new is reserved.
            let ends = |order: &&Order| !matches!(order, Order::Reserve(..));
            if !alive && (orders.is_empty() || !orders.iter().all(ends)) {
                return Err(LedgerError::Replaced(self.writer.server.clone()));
            }
            // Of several notes of a request the last one says all.
            let mut noted: HashMap<&str, Noted> = HashMap::new();
            let mut latest: HashMap<&str, Tokens> = HashMap::new();
            for order in &orders {
                if let Order::Note(request, tokens, _) = order {
                    let known = latest.entry(request).or_default();
                    *known = known.most(*tokens);
                }
            }
            let mut outcomes = Vec::with_capacity(orders.len());
            for order in orders {
                outcomes.push(match order {
                    Order::Reserve(demand, _) => {
                        Outcome::Reserved(reservation::reserve(&mut transaction, &self.writer, demand, now).await?)
                    }
                    Order::Settle(ending, _) => Outcome::Settled(reservation::settle(&mut transaction, ending).await?),
                    Order::Leave(_) => {
                        let query = sqlx::query("UPDATE server SET seen_at = 0 WHERE name = $1 AND run = $2");
                        query.bind(&self.writer.server).bind(&self.writer.run).execute(&mut *transaction).await?;
                        Outcome::Left
                    }
                    Order::Note(request, ..) => {
                        let outcome = match noted.get(request.as_str()) {
                            Some(outcome) => *outcome,
                            None if reservation::note(&mut transaction, request, &latest[request.as_str()]).await? => {
                                Noted::Written
                            }
                            None => Noted::Gone,
                        };
                        noted.insert(request, outcome);
                        Outcome::Noted(outcome)
                    }
                });
            }
            transaction.commit().await?;
            Ok((outcomes, alive))
        };
        let late = || Err(LedgerError::Unavailable(format!("no answer in {} s", WRITE_TIMEOUT.as_secs())));
        timeout(WRITE_TIMEOUT, work).await.unwrap_or_else(|_| late())
    }

    /// Whether this run still has the server's name, and the time: the database's, where machines share it, whatever theirs say.
    async fn sign_of_life(&self, connection: &mut AnyConnection) -> Result<(bool, i64), LedgerError> {
        let corrected = self.database.is_shared_by(&self.clock);
        let statement = if corrected {
            "UPDATE server SET seen_at = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) WHERE name = $1 AND run = $2 RETURNING seen_at"
        } else {
            "UPDATE server SET seen_at = $3 WHERE name = $1 AND run = $2 RETURNING seen_at"
        };
        let query = sqlx::query(statement).bind(&self.writer.server).bind(&self.writer.run);
        let query = if corrected { query } else { query.bind(self.clock.now()) };
        let Some(row) = query.fetch_optional(connection).await? else { return Ok((false, self.clock.now())) };
        let now = row.try_get("seen_at")?;
        if corrected {
            self.clock.correct(now);
        }
        Ok((true, now))
    }

    /// Answers whoever ordered, who may have left: a request that was reserved for nobody is dropped, which ends it.
    fn answer(&mut self, order: Order, outcome: Outcome) {
        match (order, outcome) {
            (Order::Reserve(demand, answer), Outcome::Reserved(outcome)) => {
                // Without a sender the meter is gone, and nobody waits: the request ends.
                let Some(orders) = self.orders.upgrade() else {
                    return self.keep(Order::Reserve(demand, answer), 0, "the server is shutting down");
                };
                let metered = |reservation| Metered {
                    orders,
                    request: demand.request,
                    reservation,
                    started: Instant::now(),
                    delivered: Tokens::default(),
                    noting: None,
                    noted: Tokens::default(),
                    gone: false,
                    ended: false,
                };
                drop(answer.send(Ok(outcome.map(metered))));
            }
            (Order::Note(_, _, answer), Outcome::Noted(noted)) => drop(answer.send(noted)),
            (Order::Settle(_, Some(answer)), Outcome::Settled(cost)) => drop(answer.send(cost)),
            (Order::Settle(_, None), Outcome::Settled(_)) => {}
            (Order::Leave(answer), Outcome::Left) => drop(answer.send(())),
            _ => unreachable!("outcomes are in the order of their orders"),
        }
    }

    /// A sign of life; then requests of dead servers are settled, and rows that are too old deleted.
    async fn sweep(&mut self) {
        self.write(Vec::new()).await;
        if self.trouble.borrow().is_some() {
            return;
        }
        let now = self.clock.now();
        let work = async {
            let mut transaction = self.database.write().await?;
            let dead = reservation::interrupt_unseen(&mut transaction, now.saturating_sub(DEAD_AFTER_MS), now).await?;
            usage::forget(&mut transaction, now, self.keep_days).await?;
            transaction.commit().await?;
            Ok::<_, LedgerError>(dead)
        };
        match timeout(WRITE_TIMEOUT, work).await {
            Ok(Ok(0)) => {}
            Ok(Ok(requests)) => {
                tracing::warn!(target: "farthing", requests, "requests of servers that are gone are charged for what they had delivered")
            }
            Ok(Err(error)) => tracing::warn!(target: "farthing", %error, "the ledger could not be tidied"),
            Err(_) => tracing::warn!(target: "farthing", "the ledger could not be tidied in time"),
        }
    }
}

impl Order {
    fn request(&self) -> &str {
        match self {
            Order::Reserve(demand, _) => &demand.request,
            Order::Note(request, ..) => request,
            Order::Settle(ending, _) => &ending.request,
            Order::Leave(_) => "",
        }
    }
}
