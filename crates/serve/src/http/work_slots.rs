//! Slots for slow work on requests (parsing, templates, tokenizing, constraints), shared fairly among clients.
//!
//! A client alone has two places. A client with none running gets one at once, as long as there are not too many; those
//! that wait come by turns, not in the order of their requests. Of large bodies, which may take a hundred times their bytes, few
//! are worked on at once. Constraints are compiled in few processes, with places of their own that are shared in the same way.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::http::client::{Client, Party};

#[derive(Clone, Copy, Debug)]
struct SlotLimits {
    /// For one client.
    alone: usize,
    /// For one party from several addresses.
    party: usize,
    all: usize,
}

const PARSING: SlotLimits = SlotLimits { alone: 2, party: 4, all: 8 };
/// One party never has all: a slot may be held for as long as a constraint may compile.
const COMPILING: SlotLimits = SlotLimits { alone: 2, party: 3, all: 4 };
/// Longest wait for a compile slot.
const COMPILING_WAIT: Duration = Duration::from_secs(30);
/// Interval at which a waiting thread checks whether its client is still there.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Slots for bodies of `LARGE_BYTES` and more.
const LARGE: usize = 2;
const LARGE_BYTES: usize = 256 << 10;

/// The slots and those who wait for one.
pub struct WorkSlots {
    inner: Mutex<SlotState>,
    /// Slots of processes that compile constraints.
    compiling: Option<Arc<WorkSlots>>,
}

impl Default for WorkSlots {
    fn default() -> WorkSlots {
        let compiling = WorkSlots { inner: Mutex::new(SlotState::new(COMPILING)), compiling: None };
        WorkSlots { inner: Mutex::new(SlotState::new(PARSING)), compiling: Some(Arc::new(compiling)) }
    }
}

struct SlotState {
    limits: SlotLimits,
    running: Vec<SlotKey>,
    waiting: Vec<(SlotKey, oneshot::Sender<HeldSlot>)>,
    /// When a client last started, counted in starts; only of clients that run or wait.
    last_start: HashMap<Client, u64>,
    starts: u64,
}

/// The client of a slot, and whether its body is large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotKey {
    client: Client,
    large: bool,
}

impl SlotKey {
    fn new(client: Client, bytes: usize) -> SlotKey {
        SlotKey { client, large: bytes >= LARGE_BYTES }
    }
}

/// A held slot; dropping it passes it on.
struct HeldSlot {
    slots: Arc<WorkSlots>,
    key: SlotKey,
}

impl WorkSlots {
    /// Waits for a slot for a client's body of this size.
    async fn take(self: &Arc<WorkSlots>, client: Client, bytes: usize) -> Option<HeldSlot> {
        self.acquire(SlotKey::new(client, bytes)).await
    }

    async fn acquire(self: &Arc<WorkSlots>, key: SlotKey) -> Option<HeldSlot> {
        let slot = {
            let mut inner = self.inner.lock();
            if inner.may_start(key) && !inner.waiting.iter().any(|(waits, _)| *waits == key) {
                inner.start(key);
                return Some(HeldSlot { slots: Arc::clone(self), key });
            }
            let (sender, slot) = oneshot::channel();
            inner.waiting.push((key, sender));
            slot
        };
        slot.await.ok()
    }

    /// Starts those that wait and may start now.
    fn next(self: &Arc<WorkSlots>) {
        loop {
            let (key, sender) = {
                let mut inner = self.inner.lock();
                inner.waiting.retain(|(_, sender)| !sender.is_closed());
                let Some(at) = inner.next_waiting() else { break };
                let (key, sender) = inner.waiting.remove(at);
                inner.start(key);
                (key, sender)
            };
            // If the receiver is gone, the slot is dropped and passed on.
            let _ = sender.send(HeldSlot { slots: Arc::clone(self), key });
        }
    }
}

impl SlotState {
    fn new(limits: SlotLimits) -> SlotState {
        SlotState { limits, running: Vec::new(), waiting: Vec::new(), last_start: HashMap::new(), starts: 0 }
    }

    fn may_start(&self, key: SlotKey) -> bool {
        let own = self.running.iter().filter(|p| p.client == key.client).count();
        let most = match (self.of_party(key.client.party), own) {
            (0, _) => self.limits.all,
            (_, 0) => self.limits.party,
            _ => self.limits.alone,
        };
        let large = self.running.iter().filter(|p| p.large).count();
        self.running.len() < most && (!key.large || large < LARGE)
    }

    fn of_party(&self, party: Party) -> usize {
        self.running.iter().filter(|p| p.client.party == party).count()
    }

    /// Index of the next to start: of the party with the fewest running that was served longest ago.
    fn next_waiting(&self) -> Option<usize> {
        let mut parties: HashMap<Party, u64> = HashMap::new();
        for (client, last_start) in &self.last_start {
            let last = parties.entry(client.party).or_default();
            *last = (*last).max(*last_start);
        }
        let rank = |client: Client| {
            let party = parties.get(&client.party).copied().unwrap_or(0);
            (self.of_party(client.party), party, self.last_start.get(&client).copied().unwrap_or(0))
        };
        let able = self.waiting.iter().enumerate().filter(|(_, (key, _))| self.may_start(*key));
        able.min_by_key(|(at, (key, _))| (rank(key.client), *at)).map(|(at, _)| at)
    }

    fn start(&mut self, key: SlotKey) {
        self.starts += 1;
        self.last_start.insert(key.client, self.starts);
        self.running.push(key);
        let clients: Vec<Client> =
            self.running.iter().chain(self.waiting.iter().map(|(p, _)| p)).map(|p| p.client).collect();
        self.last_start.retain(|client, _| clients.contains(client));
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        let mut inner = self.slots.inner.lock();
        if let Some(at) = inner.running.iter().position(|p| *p == self.key) {
            inner.running.swap_remove(at);
        }
        drop(inner);
        self.slots.next();
    }
}

/// A client's slot, on the thread that does the work.
pub struct WorkSlot {
    slots: Arc<WorkSlots>,
    key: SlotKey,
    held: RefCell<Option<HeldSlot>>,
    /// Upgrades while the request's future lives.
    client_present: Weak<()>,
}

/// Runs blocking work on a client's body once there is a slot. The slot is held until the work ends, which is soon after the
/// client has left.
pub async fn run_in_slot<T: Send + 'static>(
    slots: &Arc<WorkSlots>,
    (client, bytes): (Client, usize),
    work: impl FnOnce(&WorkSlot) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let present = Arc::new(());
    let client_present = Arc::downgrade(&present);
    let held = RefCell::new(slots.take(client, bytes).await);
    let slot = WorkSlot { slots: Arc::clone(slots), key: SlotKey::new(client, bytes), held, client_present };
    let outcome = tokio::task::spawn_blocking(move || work(&slot)).await;
    outcome.map_err(|_| ApiError::fault("a fault while reading the request"))?
}

impl WorkSlot {
    /// Whether the client has left.
    pub fn cancelled(&self) -> bool {
        self.client_present.strong_count() == 0
    }

    /// Waits for another process without holding the slot.
    pub fn released_while<T>(&self, wait: impl FnOnce() -> T) -> T {
        drop(self.held.take());
        let outcome = wait();
        *self.held.borrow_mut() = Handle::current().block_on(self.slots.acquire(self.key));
        outcome
    }

    /// Waits for a process that compiles constraints, once there is a compile slot.
    ///
    /// # Errors
    /// No compile slot became free, and why.
    pub fn compile<T>(&self, wait: impl FnOnce() -> T) -> Result<T, String> {
        self.released_while(|| {
            let _held = Handle::current().block_on(self.compile_slot())?;
            Ok(wait())
        })
    }

    async fn compile_slot(&self) -> Result<Option<HeldSlot>, String> {
        let Some(slots) = &self.slots.compiling else { return Ok(None) };
        let (mut acquired, begun) = (std::pin::pin!(slots.acquire(self.key)), Instant::now());
        loop {
            match tokio::time::timeout(POLL_INTERVAL, &mut acquired).await {
                Ok(held) => return Ok(held),
                Err(_) if self.cancelled() => return Err("its client left".to_string()),
                Err(_) if begun.elapsed() > COMPILING_WAIT => {
                    let seconds = COMPILING_WAIT.as_secs();
                    return Err(format!("others are worked on, none ended within {seconds} s; try again"));
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::http::api_keys::Account;

    fn client(account: u64, last: u8) -> Client {
        Client::new(Some(&Account { id: account, ..Account::EVERYBODY }), [10, 0, 0, last].into())
    }

    async fn at_once(slots: &Arc<WorkSlots>, client: Client) -> Option<HeldSlot> {
        tokio::time::timeout(Duration::from_millis(10), slots.take(client, 10)).await.ok().flatten()
    }

    #[tokio::test]
    async fn nobody_waits_for_a_stranger() {
        let slots = Arc::new(WorkSlots::default());
        let hog = [at_once(&slots, client(1, 1)).await.unwrap(), at_once(&slots, client(1, 1)).await.unwrap()];
        assert!(at_once(&slots, client(1, 1)).await.is_none(), "a third one waits");
        // Other addresses of the account have places too, but not all.
        let mut others =
            vec![at_once(&slots, client(1, 2)).await.unwrap(), at_once(&slots, client(1, 3)).await.unwrap()];
        assert!(at_once(&slots, client(1, 4)).await.is_none());
        for account in 2..6 {
            others.push(at_once(&slots, client(account, 1)).await.unwrap_or_else(|| panic!("{account}")));
            assert!(at_once(&slots, client(account, 1)).await.is_none(), "one each under pressure");
        }
        assert!(at_once(&slots, client(6, 1)).await.is_none(), "all places are taken");
        drop(others.pop());
        assert!(at_once(&slots, client(6, 1)).await.is_some());
        drop((hog, others));
        assert!(slots.inner.lock().running.is_empty() && slots.inner.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn those_that_wait_come_by_turns() {
        let slots = Arc::new(WorkSlots::default());
        let mut running = Vec::new();
        for account in 1..=8 {
            running.push(at_once(&slots, client(account, 1)).await.unwrap());
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        // Many of one, one of another that comes last.
        let tasks = [11, 11, 11, 11, 12].map(|account| {
            let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = slots.take(client(account, 1), 10).await.unwrap();
                order.lock().push(account);
            })
        });
        tokio::task::yield_now().await;
        assert_eq!(slots.inner.lock().waiting.len(), 5);
        drop(running.pop());
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [11, 12, 11, 11, 11]);
    }

    #[tokio::test]
    async fn a_party_with_nothing_at_work_goes_before_one_that_began_earlier() {
        let slots = Arc::new(WorkSlots::default());
        let first = slots.take(client(1, 1), LARGE_BYTES).await.unwrap();
        let other = slots.take(client(3, 1), LARGE_BYTES).await.unwrap();
        let small = slots.take(client(2, 1), 10).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = [client(1, 2), client(2, 1)].map(|who| {
            let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = slots.take(who, LARGE_BYTES).await.unwrap();
                order.lock().push(who);
            })
        });
        tokio::task::yield_now().await;
        assert_eq!(slots.inner.lock().waiting.len(), 2);
        drop(small);
        drop(other);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [client(2, 1), client(1, 2)]);
        drop(first);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_passed_over() {
        let slots = Arc::new(WorkSlots::default());
        let both = [at_once(&slots, client(1, 1)).await.unwrap(), at_once(&slots, client(1, 1)).await.unwrap()];
        assert!(at_once(&slots, client(1, 1)).await.is_none());
        let waits = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.take(client(1, 1), 10).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(both);
        assert!(waits.await.unwrap());
        assert!(at_once(&slots, client(1, 1)).await.is_some());
    }

    #[tokio::test]
    async fn few_large_bodies_are_worked_on_at_once() {
        let slots = Arc::new(WorkSlots::default());
        let large = async |account: u64| {
            let take = slots.take(client(account, 1), LARGE_BYTES);
            tokio::time::timeout(Duration::from_millis(10), take).await.ok().flatten()
        };
        let both = [large(1).await.unwrap(), large(2).await.unwrap()];
        assert!(large(3).await.is_none());
        assert!(at_once(&slots, client(3, 1)).await.is_some(), "small ones do not wait for large ones");
        drop(both);
        assert!(large(3).await.is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_place_is_kept_until_the_work_ends_and_the_work_knows_when_its_client_left() {
        let slots = Arc::new(WorkSlots::default());
        let (sender, left) = std::sync::mpsc::channel();
        let work = move |slot: &WorkSlot| {
            while !slot.cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(300));
            let _ = sender.send(());
            Ok(())
        };
        let other = at_once(&slots, client(1, 1)).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(50), run_in_slot(&slots, (client(1, 1), 1), work)).await;
        assert!(gone.is_err());
        assert_eq!(slots.inner.lock().running.len(), 2, "it is at work still");
        run_in_slot(&slots, (client(1, 1), 1), |_| Ok(())).await.unwrap();
        assert!(left.try_recv().is_ok(), "the next one had its turn before the work ended");
        drop(other);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_has_all_places_to_compile() {
        let slots = Arc::new(WorkSlots::default());
        let compiling = slots.compiling.clone().unwrap();
        let mut hog =
            vec![at_once(&compiling, client(1, 1)).await.unwrap(), at_once(&compiling, client(1, 1)).await.unwrap()];
        assert!(at_once(&compiling, client(1, 1)).await.is_none(), "two for one address");
        hog.push(at_once(&compiling, client(1, 2)).await.unwrap());
        assert!(at_once(&compiling, client(1, 3)).await.is_none(), "three for one account");
        // The others have one at once, and their places to parse have nothing to do with it.
        run_in_slot(&slots, (client(2, 1), 1), |slot| Ok(slot.compile(|| ()))).await.unwrap().unwrap();
        // Whose client leaves while it waits, does not wait on.
        let (sender, ended) = std::sync::mpsc::channel();
        let work = move |slot: &WorkSlot| {
            let _ = sender.send(slot.compile(|| ()));
            Ok(())
        };
        let gone = tokio::time::timeout(Duration::from_millis(50), run_in_slot(&slots, (client(1, 1), 1), work)).await;
        assert!(gone.is_err());
        let ended = tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(20)));
        assert_eq!(ended.await.unwrap().unwrap(), Err("its client left".to_string()));
        drop(hog);
        assert!(compiling.inner.lock().running.is_empty() && compiling.inner.lock().waiting.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_elsewhere_keeps_nobody_from_a_turn() {
        let slots = Arc::new(WorkSlots::default());
        let other = at_once(&slots, client(1, 1)).await.unwrap();
        let (sender, wait) = std::sync::mpsc::channel::<()>();
        let (theirs, begun) = (Arc::clone(&slots), Arc::new(tokio::sync::Notify::new()));
        let told = Arc::clone(&begun);
        let slow = tokio::spawn(async move {
            let work = move |slot: &WorkSlot| {
                Ok(slot.released_while(|| {
                    told.notify_one();
                    wait.recv().is_ok()
                }))
            };
            run_in_slot(&theirs, (client(1, 1), 1), work).await
        });
        begun.notified().await;
        run_in_slot(&slots, (client(1, 1), 1), |_| Ok(())).await.unwrap();
        sender.send(()).unwrap();
        assert!(slow.await.unwrap().unwrap());
        assert_eq!(slots.inner.lock().running.len(), 1);
        drop(other);
    }
}
