//! Places for work that takes a while (parsing, templates, tokenizing, constraints): nobody's waits for a stranger's.
//!
//! A client alone has two places. A client with none running gets one at once, as long as there are not too many; those
//! that wait come by turns, not in the order of their requests. Of large bodies, which may take a hundred times their bytes, few
//! are worked on at once. Constraints are compiled in few processes, with places of their own that are shared in the same way.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::client::{Client, Party};
use crate::problem::Problem;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Of a client that is alone.
    alone: usize,
    /// Of one party from different addresses.
    party: usize,
    /// In all.
    all: usize,
}

const PARSING: Limits = Limits { alone: 2, party: 4, all: 8 };
/// One party never has them all: each may be taken for as long as a constraint may compile.
const COMPILING: Limits = Limits { alone: 2, party: 3, all: 4 };
/// Longest wait for a place to compile.
const COMPILING_WAIT: Duration = Duration::from_secs(30);
/// How often one who waits for such a place looks whether the client is still there.
const LOOK: Duration = Duration::from_millis(20);
/// Places for bodies of `LARGE_BYTES` and more.
const LARGE: usize = 2;
const LARGE_BYTES: usize = 256 << 10;

/// The places, and who waits for one.
pub struct Turns {
    places: Mutex<Inner>,
    /// Those of processes that compile constraints.
    compiling: Option<Arc<Turns>>,
}

impl Default for Turns {
    fn default() -> Turns {
        let compiling = Turns { places: Mutex::new(Inner::new(COMPILING)), compiling: None };
        Turns { places: Mutex::new(Inner::new(PARSING)), compiling: Some(Arc::new(compiling)) }
    }
}

struct Inner {
    limits: Limits,
    running: Vec<Place>,
    waiting: Vec<(Place, oneshot::Sender<Held>)>,
    /// When a client last began, counted in beginnings; only of those that run or wait.
    began: HashMap<Client, u64>,
    beginnings: u64,
}

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    client: Client,
    large: bool,
}

impl Place {
    fn new(client: Client, bytes: usize) -> Place {
        Place { client, large: bytes >= LARGE_BYTES }
    }
}

/// A place; dropping it gives it to the next.
struct Held {
    turns: Arc<Turns>,
    place: Place,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this client's work on so many bytes.
    async fn take(self: &Arc<Turns>, client: Client, bytes: usize) -> Option<Held> {
        self.place(Place::new(client, bytes)).await
    }

    async fn place(self: &Arc<Turns>, place: Place) -> Option<Held> {
        let turn = {
            let mut inner = self.lock();
            if inner.may_begin(place) && !inner.waiting.iter().any(|(waits, _)| *waits == place) {
                inner.begin(place);
                return Some(Held { turns: Arc::clone(self), place });
            }
            let (sender, turn) = oneshot::channel();
            inner.waiting.push((place, sender));
            turn
        };
        turn.await.ok()
    }

    /// Who waits and may begin now, begins.
    fn next(self: &Arc<Turns>) {
        loop {
            let (place, sender) = {
                let mut inner = self.lock();
                inner.waiting.retain(|(_, sender)| !sender.is_closed());
                let Some(at) = inner.chosen() else { break };
                let (place, sender) = inner.waiting.remove(at);
                inner.begin(place);
                (place, sender)
            };
            // Who left meanwhile gives it back by dropping it, which asks for the next again.
            let _ = sender.send(Held { turns: Arc::clone(self), place });
        }
    }
}

impl Inner {
    fn new(limits: Limits) -> Inner {
        Inner { limits, running: Vec::new(), waiting: Vec::new(), began: HashMap::new(), beginnings: 0 }
    }

    fn may_begin(&self, place: Place) -> bool {
        let own = self.running.iter().filter(|p| p.client == place.client).count();
        let most = match (self.of_party(place.client.party), own) {
            (0, _) => self.limits.all,
            (_, 0) => self.limits.party,
            _ => self.limits.alone,
        };
        let large = self.running.iter().filter(|p| p.large).count();
        self.running.len() < most && (!place.large || large < LARGE)
    }

    fn of_party(&self, party: Party) -> usize {
        self.running.iter().filter(|p| p.client.party == party).count()
    }

    /// Of those that may begin, one of the party that has least, and that was not served for longest.
    fn chosen(&self) -> Option<usize> {
        let mut parties: HashMap<Party, u64> = HashMap::new();
        for (client, began) in &self.began {
            let last = parties.entry(client.party).or_default();
            *last = (*last).max(*began);
        }
        let rank = |client: Client| {
            let party = parties.get(&client.party).copied().unwrap_or(0);
            (self.of_party(client.party), party, self.began.get(&client).copied().unwrap_or(0))
        };
        let able = self.waiting.iter().enumerate().filter(|(_, (place, _))| self.may_begin(*place));
        able.min_by_key(|(at, (place, _))| (rank(place.client), *at)).map(|(at, _)| at)
    }

    fn begin(&mut self, place: Place) {
        self.beginnings += 1;
        self.began.insert(place.client, self.beginnings);
        self.running.push(place);
        let places: Vec<Client> =
            self.running.iter().chain(self.waiting.iter().map(|(p, _)| p)).map(|p| p.client).collect();
        self.began.retain(|client, _| places.contains(client));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.turns.lock();
        if let Some(at) = inner.running.iter().position(|p| *p == self.place) {
            inner.running.swap_remove(at);
        }
        drop(inner);
        self.turns.next();
    }
}

/// A client's turn, on the thread that does the work.
pub struct Turn {
    turns: Arc<Turns>,
    place: Place,
    held: RefCell<Option<Held>>,
    left: Arc<AtomicBool>,
}

/// Tells the work that nobody waits for it any more, when it is dropped.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Does work on so many bytes of a client, on a thread of its own, once there is a place. The place is kept until the work ends,
/// which it does soon after whoever asked has gone.
pub async fn apart<T: Send + 'static>(
    turns: &Arc<Turns>,
    (client, bytes): (Client, usize),
    work: impl FnOnce(&Turn) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let left = Arc::<AtomicBool>::default();
    let _waits = Waits(Arc::clone(&left));
    let held = RefCell::new(turns.take(client, bytes).await);
    let turn = Turn { turns: Arc::clone(turns), place: Place::new(client, bytes), held, left };
    let outcome = tokio::task::spawn_blocking(move || work(&turn)).await;
    outcome.map_err(|_| Problem::fault("a fault while reading the request"))?
}

impl Turn {
    /// Whether nobody waits for the outcome.
    pub fn left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Waits for another process: others have the place meanwhile.
    pub fn elsewhere<T>(&self, wait: impl FnOnce() -> T) -> T {
        drop(self.held.take());
        let outcome = wait();
        *self.held.borrow_mut() = Handle::current().block_on(self.turns.place(self.place));
        outcome
    }

    /// Waits for a process that compiles constraints, once there is a place among those.
    ///
    /// # Errors
    /// There was none, and why.
    pub fn compiling<T>(&self, wait: impl FnOnce() -> T) -> Result<T, String> {
        self.elsewhere(|| {
            let _held = Handle::current().block_on(self.place_to_compile())?;
            Ok(wait())
        })
    }

    async fn place_to_compile(&self) -> Result<Option<Held>, String> {
        let Some(turns) = &self.turns.compiling else { return Ok(None) };
        let (mut place, begun) = (std::pin::pin!(turns.place(self.place)), Instant::now());
        loop {
            match tokio::time::timeout(LOOK, &mut place).await {
                Ok(held) => return Ok(held),
                Err(_) if self.left() => return Err("its client left".to_string()),
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
    use crate::accounts::Account;

    fn client(account: u64, last: u8) -> Client {
        Client::new(Some(&Account { id: account, salt: [0; 32] }), [10, 0, 0, last].into())
    }

    async fn at_once(turns: &Arc<Turns>, client: Client) -> Option<Held> {
        tokio::time::timeout(Duration::from_millis(10), turns.take(client, 10)).await.ok().flatten()
    }

    #[tokio::test]
    async fn nobody_waits_for_a_stranger() {
        let turns = Arc::new(Turns::default());
        let hog = [at_once(&turns, client(1, 1)).await.unwrap(), at_once(&turns, client(1, 1)).await.unwrap()];
        assert!(at_once(&turns, client(1, 1)).await.is_none(), "a third one waits");
        // Other addresses of the account have places too, but not all.
        let mut others =
            vec![at_once(&turns, client(1, 2)).await.unwrap(), at_once(&turns, client(1, 3)).await.unwrap()];
        assert!(at_once(&turns, client(1, 4)).await.is_none());
        for account in 2..6 {
            others.push(at_once(&turns, client(account, 1)).await.unwrap_or_else(|| panic!("{account}")));
            assert!(at_once(&turns, client(account, 1)).await.is_none(), "one each under pressure");
        }
        assert!(at_once(&turns, client(6, 1)).await.is_none(), "all places are taken");
        drop(others.pop());
        assert!(at_once(&turns, client(6, 1)).await.is_some());
        drop((hog, others));
        assert!(turns.lock().running.is_empty() && turns.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn those_that_wait_come_by_turns() {
        let turns = Arc::new(Turns::default());
        let mut running = Vec::new();
        for account in 1..=8 {
            running.push(at_once(&turns, client(account, 1)).await.unwrap());
        }
        let order = Arc::new(Mutex::new(Vec::new()));
        // Many of one, one of another that comes last.
        let tasks = [11, 11, 11, 11, 12].map(|account| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = turns.take(client(account, 1), 10).await.unwrap();
                order.lock().unwrap().push(account);
            })
        });
        tokio::task::yield_now().await;
        assert_eq!(turns.lock().waiting.len(), 5);
        drop(running.pop());
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [11, 12, 11, 11, 11]);
    }

    #[tokio::test]
    async fn a_party_with_nothing_at_work_goes_before_one_that_began_earlier() {
        let turns = Arc::new(Turns::default());
        let first = turns.take(client(1, 1), LARGE_BYTES).await.unwrap();
        let other = turns.take(client(3, 1), LARGE_BYTES).await.unwrap();
        let small = turns.take(client(2, 1), 10).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = [client(1, 2), client(2, 1)].map(|who| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = turns.take(who, LARGE_BYTES).await.unwrap();
                order.lock().unwrap().push(who);
            })
        });
        tokio::task::yield_now().await;
        assert_eq!(turns.lock().waiting.len(), 2);
        drop(small);
        drop(other);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [client(2, 1), client(1, 2)]);
        drop(first);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_is_passed_over() {
        let turns = Arc::new(Turns::default());
        let both = [at_once(&turns, client(1, 1)).await.unwrap(), at_once(&turns, client(1, 1)).await.unwrap()];
        assert!(at_once(&turns, client(1, 1)).await.is_none());
        let waits = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take(client(1, 1), 10).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(both);
        assert!(waits.await.unwrap());
        assert!(at_once(&turns, client(1, 1)).await.is_some());
    }

    #[tokio::test]
    async fn few_large_bodies_are_worked_on_at_once() {
        let turns = Arc::new(Turns::default());
        let large = async |account: u64| {
            let take = turns.take(client(account, 1), LARGE_BYTES);
            tokio::time::timeout(Duration::from_millis(10), take).await.ok().flatten()
        };
        let both = [large(1).await.unwrap(), large(2).await.unwrap()];
        assert!(large(3).await.is_none());
        assert!(at_once(&turns, client(3, 1)).await.is_some(), "small ones do not wait for large ones");
        drop(both);
        assert!(large(3).await.is_some());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_place_is_kept_until_the_work_ends_and_the_work_knows_when_its_client_left() {
        let turns = Arc::new(Turns::default());
        let (sender, left) = std::sync::mpsc::channel();
        let work = move |turn: &Turn| {
            while !turn.left() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(300));
            let _ = sender.send(());
            Ok(())
        };
        let other = at_once(&turns, client(1, 1)).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(50), apart(&turns, (client(1, 1), 1), work)).await;
        assert!(gone.is_err());
        assert_eq!(turns.lock().running.len(), 2, "it is at work still");
        apart(&turns, (client(1, 1), 1), |_| Ok(())).await.unwrap();
        assert!(left.try_recv().is_ok(), "the next one had its turn before the work ended");
        drop(other);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_has_all_places_to_compile() {
        let turns = Arc::new(Turns::default());
        let compiling = turns.compiling.clone().unwrap();
        let mut hog =
            vec![at_once(&compiling, client(1, 1)).await.unwrap(), at_once(&compiling, client(1, 1)).await.unwrap()];
        assert!(at_once(&compiling, client(1, 1)).await.is_none(), "two for one address");
        hog.push(at_once(&compiling, client(1, 2)).await.unwrap());
        assert!(at_once(&compiling, client(1, 3)).await.is_none(), "three for one account");
        // The others have one at once, and their places to parse have nothing to do with it.
        apart(&turns, (client(2, 1), 1), |turn| Ok(turn.compiling(|| ()))).await.unwrap().unwrap();
        // Whose client leaves while it waits, does not wait on.
        let (sender, ended) = std::sync::mpsc::channel();
        let work = move |turn: &Turn| {
            let _ = sender.send(turn.compiling(|| ()));
            Ok(())
        };
        let gone = tokio::time::timeout(Duration::from_millis(50), apart(&turns, (client(1, 1), 1), work)).await;
        assert!(gone.is_err());
        let ended = tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(20)));
        assert_eq!(ended.await.unwrap().unwrap(), Err("its client left".to_string()));
        drop(hog);
        assert!(compiling.lock().running.is_empty() && compiling.lock().waiting.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_elsewhere_keeps_nobody_from_a_turn() {
        let turns = Arc::new(Turns::default());
        let other = at_once(&turns, client(1, 1)).await.unwrap();
        let (sender, wait) = std::sync::mpsc::channel::<()>();
        let (theirs, begun) = (Arc::clone(&turns), Arc::new(tokio::sync::Notify::new()));
        let told = Arc::clone(&begun);
        let slow = tokio::spawn(async move {
            let work = move |turn: &Turn| {
                Ok(turn.elsewhere(|| {
                    told.notify_one();
                    wait.recv().is_ok()
                }))
            };
            apart(&theirs, (client(1, 1), 1), work).await
        });
        begun.notified().await;
        apart(&turns, (client(1, 1), 1), |_| Ok(())).await.unwrap();
        sender.send(()).unwrap();
        assert!(slow.await.unwrap().unwrap());
        assert_eq!(turns.lock().running.len(), 1);
        drop(other);
    }
}
