//! A memory budget for request bodies: taken as bytes arrive, and shared fairly among clients once it is used up.
//!
//! Whoever is alone may use all of it. When it is full, a client that has less than another gets room: the other's youngest body
//! is given up (503). A body that is being parsed stays.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::http::client::Client;

/// Bytes that all request bodies may take.
pub struct BodyBudget {
    bytes_max: usize,
    inner: Mutex<HeldBodies>,
    /// Notified when bytes are released.
    freed: Notify,
}

#[derive(Default)]
struct HeldBodies {
    bodies: HashMap<u64, HeldBody>,
    next: u64,
}

struct HeldBody {
    client: Client,
    bytes: usize,
    /// Waiting for bytes.
    waits: bool,
    /// Being parsed: cannot be evicted.
    kept: bool,
    /// Told to release its bytes.
    evicted: bool,
    told: Arc<Notify>,
}

/// A body was evicted for another client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted;

/// Bytes reserved for one body; dropping it releases them.
pub struct BodyReservation {
    budget: Arc<BodyBudget>,
    id: u64,
    told: Arc<Notify>,
}

impl BodyBudget {
    /// A budget of so many bytes.
    pub fn new(bytes_max: usize) -> Arc<BodyBudget> {
        Arc::new(BodyBudget { bytes_max, inner: Mutex::default(), freed: Notify::new() })
    }

    /// An empty reservation for a body about to be read.
    pub fn reserve(self: &Arc<BodyBudget>, client: Client) -> BodyReservation {
        let told = Arc::new(Notify::new());
        let mut inner = self.inner.lock();
        let id = inner.next;
        inner.next += 1;
        let body = HeldBody { client, bytes: 0, waits: false, kept: false, evicted: false, told: Arc::clone(&told) };
        inner.bodies.insert(id, body);
        BodyReservation { budget: Arc::clone(self), id, told }
    }

    /// Takes the bytes if they fit, else evicts other bodies. `None`: wait.
    fn try_take(&self, id: u64, bytes: usize) -> Option<Result<(), Evicted>> {
        let mut inner = self.inner.lock();
        let used: usize = inner.bodies.values().map(|b| b.bytes).sum();
        let me = inner.bodies.get_mut(&id)?;
        me.waits = false;
        if me.evicted {
            return Some(Err(Evicted));
        }
        if used + bytes <= self.bytes_max {
            me.bytes += bytes;
            return Some(Ok(()));
        }
        me.waits = true;
        inner.make_room(id, bytes, used + bytes - self.bytes_max);
        inner.bodies.get(&id).filter(|me| me.evicted).map(|_| Err(Evicted))
    }
}

/// Sums of bytes by a key; evicted bodies do not count.
fn sums<K: Hash + Eq>(bodies: &HashMap<u64, HeldBody>, key: impl Fn(&HeldBody) -> Option<K>) -> HashMap<K, usize> {
    let mut sums = HashMap::new();
    for body in bodies.values().filter(|b| !b.evicted) {
        if let Some(key) = key(body) {
            *sums.entry(key).or_default() += body.bytes;
        }
    }
    sums
}

/// The key with the largest sum besides `mine`, if that is larger than `mine` will be.
fn greater<K: Hash + Eq + Copy>(sums: &HashMap<K, usize>, mine: K, bytes: usize) -> Option<K> {
    let own = sums.get(&mine).copied().unwrap_or(0) + bytes;
    let others = sums.iter().filter(|(key, sum)| **key != mine && **sum > own);
    others.max_by_key(|(_, sum)| **sum).map(|(key, _)| *key)
}

impl HeldBodies {
    /// Evicts bodies of clients that hold more, until `missing` bytes will be free.
    fn make_room(&mut self, id: u64, bytes: usize, missing: usize) {
        let Some(client) = self.bodies.get(&id).map(|b| b.client) else { return };
        let mut coming: usize = self.bodies.values().filter(|b| b.evicted).map(|b| b.bytes).sum();
        while coming < missing {
            let Some(victim) = self.victim(client, bytes) else { return };
            let Some(body) = self.bodies.get_mut(&victim) else { return };
            body.evicted = true;
            body.told.notify_one();
            coming += body.bytes;
        }
    }

    /// The youngest body of the client that holds most, if that is more than this client will hold.
    fn victim(&self, client: Client, bytes: usize) -> Option<u64> {
        let parties = sums(&self.bodies, |b| Some(b.client.party));
        if let Some(party) = greater(&parties, client.party, bytes) {
            let addresses = sums(&self.bodies, |b| (b.client.party == party).then_some(b.client.address));
            let mut most: Vec<_> = addresses.into_iter().collect();
            most.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
            return most.iter().find_map(|(address, _)| self.youngest(Client { party, address: *address }));
        }
        let addresses = sums(&self.bodies, |b| (b.client.party == client.party).then_some(b.client.address));
        if let Some(address) = greater(&addresses, client.address, bytes) {
            return self.youngest(Client { address, ..client });
        }
        // If all wait for each other, the youngest is evicted.
        let holding = || self.bodies.values().filter(|b| b.bytes > 0);
        let stuck = holding().all(|b| b.waits && !b.evicted && !b.kept);
        if stuck { self.bodies.iter().filter(|(_, b)| b.bytes > 0).map(|(id, _)| *id).max() } else { None }
    }

    fn youngest(&self, client: Client) -> Option<u64> {
        let fits = |b: &HeldBody| b.client == client && b.bytes > 0 && !b.kept && !b.evicted;
        self.bodies.iter().filter(|(_, b)| fits(b)).map(|(id, _)| *id).max()
    }
}

impl BodyReservation {
    /// Takes bytes, waiting until they fit.
    ///
    /// # Errors
    /// The body was evicted.
    pub async fn take(&self, bytes: usize) -> Result<(), Evicted> {
        loop {
            let mut freed = std::pin::pin!(self.budget.freed.notified());
            // From here on no notification is missed.
            freed.as_mut().enable();
            if let Some(outcome) = self.budget.try_take(self.id, bytes) {
                return outcome;
            }
            tokio::select! {
                () = freed => {}
                () = self.told.notified() => return Err(Evicted),
            }
        }
    }

    /// Completes when the body is evicted.
    pub async fn evicted(&self) {
        self.told.notified().await;
    }

    /// Protects the body from eviction while it is parsed; false if it was evicted already.
    pub fn keep(&self) -> bool {
        let mut inner = self.budget.inner.lock();
        inner.bodies.get_mut(&self.id).is_some_and(|body| {
            body.kept = !body.evicted;
            body.kept
        })
    }

    /// Whether it is waiting for bytes.
    pub fn waits(&self) -> bool {
        self.budget.inner.lock().bodies.get(&self.id).is_some_and(|body| body.waits)
    }
}

impl Drop for BodyReservation {
    fn drop(&mut self) {
        self.budget.inner.lock().bodies.remove(&self.id);
        self.budget.freed.notify_waiters();
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

    async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(20), future).await.ok()
    }

    async fn filled(budget: &Arc<BodyBudget>, client: Client, sizes: &[usize]) -> Vec<BodyReservation> {
        let mut reservations = Vec::new();
        for &size in sizes {
            let reservation = budget.reserve(client);
            reservation.take(size).await.unwrap();
            reservations.push(reservation);
        }
        reservations
    }

    #[tokio::test]
    async fn who_is_alone_may_use_all_and_then_waits() {
        let budget = BodyBudget::new(100);
        let mut held = filled(&budget, client(1, 1), &[60, 40]).await;
        let third = budget.reserve(client(1, 1));
        assert_eq!(soon(third.take(10)).await, None, "it waits for its own");
        assert!(third.waits());
        assert_eq!(soon(held[1].evicted()).await, None);
        held.pop();
        assert_eq!(soon(third.take(10)).await, Some(Ok(())));
        assert!(!third.waits());
        // The account of everybody is shared by address.
        let other = budget.reserve(Client::new(None, [10, 0, 0, 9].into()));
        assert_eq!(soon(other.take(30)).await, Some(Ok(())));
    }

    #[tokio::test]
    async fn who_has_less_gets_room_from_who_has_most() {
        let budget = BodyBudget::new(100);
        let small = filled(&budget, client(2, 1), &[10]).await;
        let mut large = filled(&budget, client(1, 1), &[30, 30, 30]).await;
        let new = budget.reserve(client(3, 1));
        let taken = async {
            tokio::select! {
                taken = new.take(20) => taken,
                // The youngest of the largest goes.
                () = large[2].evicted() => {
                    assert_eq!(large[2].take(1).await, Err(Evicted));
                    large.pop();
                    new.take(20).await
                }
            }
        };
        assert_eq!(soon(taken).await, Some(Ok(())));
        assert_eq!(soon(small[0].evicted()).await, None);
        // Who would have as much as the largest waits: 60 of account 1 against 20 + 40.
        assert_eq!(soon(new.take(40)).await, None);
        assert_eq!(soon(large[1].evicted()).await, None);
    }

    #[tokio::test]
    async fn addresses_of_one_account_share_as_accounts_do() {
        let budget = BodyBudget::new(100);
        let mut large = filled(&budget, client(1, 1), &[45, 45]).await;
        let other = filled(&budget, client(1, 2), &[10]).await;
        let new = budget.reserve(client(1, 2));
        assert_eq!(soon(new.take(10)).await, None);
        assert_eq!(soon(large[1].evicted()).await, Some(()));
        large.pop();
        assert_eq!(soon(new.take(10)).await, Some(Ok(())));
        drop(other);
        // An account with less comes before all of them, and takes from the address that has most.
        let stranger = budget.reserve(client(2, 1));
        assert_eq!(soon(stranger.take(50)).await, None);
        assert_eq!(soon(large[0].evicted()).await, Some(()), "45 + 10 are more than 50");
        drop(large);
        assert_eq!(soon(stranger.take(50)).await, Some(Ok(())));
    }

    #[tokio::test]
    async fn no_more_is_given_up_than_is_needed_and_from_the_address_that_has_most() {
        let budget = BodyBudget::new(100);
        let large = filled(&budget, client(1, 1), &[25, 25]).await;
        let mut small = Vec::new();
        for address in 2..7 {
            small.extend(filled(&budget, client(1, address), &[10]).await);
        }
        let begun = budget.reserve(client(1, 1));
        let new = budget.reserve(client(2, 9));
        assert_eq!(soon(new.take(25)).await, None);
        assert_eq!(soon(large[1].evicted()).await, Some(()), "the youngest that has bytes");
        for other in small.iter().chain([&large[0], &begun]) {
            assert_eq!(soon(other.evicted()).await, None);
        }
        // One that was told to go gets nothing more, though there is room meanwhile.
        drop(small);
        assert_eq!(soon(large[1].take(1)).await, Some(Err(Evicted)));
    }

    #[tokio::test]
    async fn who_waits_goes_on_as_soon_as_there_is_room() {
        let budget = BodyBudget::new(100);
        let held = filled(&budget, client(1, 1), &[100]).await;
        let new = budget.reserve(client(1, 1));
        let waits = tokio::spawn(async move { new.take(10).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished());
        drop(held);
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn what_is_parsed_stays_and_what_waits_for_itself_goes_on() {
        let budget = BodyBudget::new(100);
        let held = filled(&budget, client(1, 1), &[50, 50]).await;
        assert!(held[0].keep() && held[1].keep());
        let new = budget.reserve(client(2, 1));
        assert_eq!(soon(new.take(1)).await, None);
        assert_eq!(soon(held[1].evicted()).await, None);
        drop(held);
        drop(new);
        // Two halves that both want more: the older one goes on.
        let both = filled(&budget, client(1, 1), &[50, 50]).await;
        assert_eq!(soon(both[0].take(10)).await, None);
        assert_eq!(soon(both[1].take(10)).await, Some(Err(Evicted)));
        assert!(!both[1].keep(), "too late");
        let [first, second]: [BodyReservation; 2] = both.try_into().ok().unwrap();
        drop(second);
        assert_eq!(soon(first.take(10)).await, Some(Ok(())));
    }
}
