//! The table of open connections: what each is doing, and which is closed when there are too many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::access_log::RequestLog;
use crate::http::client::prefix;

/// Time until a full table is looked at again, when nothing in it could be closed.
const AGAIN: Duration = Duration::from_millis(100);

/// Time for which what was written to a connection may wait for its client, before another may have its place.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// What a connection does. Those that are written first are closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// No request: its head has not come.
    Idle,
    /// The body of a request is to come.
    Receiving,
    /// A request is answered.
    Answering,
}

/// All open connections.
pub struct Connections {
    most: usize,
    inner: Mutex<OpenConnections>,
    /// Notified when a connection closes.
    closed: Notify,
}

#[derive(Default)]
struct OpenConnections {
    open: HashMap<u64, OpenConnection>,
    next: u64,
}

struct OpenConnection {
    address: IpAddr,
    activity: Activity,
    since: Instant,
    /// It was told to close.
    closing: bool,
    close: Arc<Notify>,
    behind: Behind,
}

/// Since when something that was to be written to a socket waits for the client to read. A response that waits for its next piece is not behind.
type Behind = Arc<Mutex<Option<Instant>>>;

/// An open connection; dropping it makes its place free.
pub struct Connection {
    table: Arc<Connections>,
    id: u64,
    /// Address of the other side.
    pub peer: IpAddr,
    close: Arc<Notify>,
    behind: Behind,
    /// Requests whose responses were not handed to the socket whole.
    answers: Mutex<Vec<Answer>>,
}

/// A response on its way to the socket.
struct Answer {
    log: RequestLog,
    /// The connection is done with its body.
    ended: bool,
}

impl Connections {
    /// A table of at most `most` connections.
    pub fn new(most: usize) -> Arc<Connections> {
        Arc::new(Connections { most, inner: Mutex::default(), closed: Notify::new() })
    }

    /// A place for a connection. Where there is none, an idle one is closed, of the address that has most, or one of several of an address whose client does not
    /// read; else it waits.
    pub async fn open(self: &Arc<Connections>, peer: IpAddr) -> Arc<Connection> {
        let address = prefix(peer);
        loop {
            let closed = self.closed.notified();
            {
                let mut inner = self.inner.lock();
                if inner.open.len() < self.most {
                    let id = inner.next;
                    inner.next += 1;
                    let close = Arc::new(Notify::new());
                    let (since, behind) = (Instant::now(), Behind::default());
                    let open = OpenConnection {
                        address,
                        activity: Activity::Idle,
                        since,
                        closing: false,
                        close: Arc::clone(&close),
                        behind: Arc::clone(&behind),
                    };
                    inner.open.insert(id, open);
                    let answers = Mutex::default();
                    return Arc::new(Connection { table: Arc::clone(self), id, peer, close, behind, answers });
                }
                inner.close_one(address);
            }
            let _ = tokio::time::timeout(AGAIN, closed).await;
        }
    }

    /// Tells all to close, whatever they do.
    pub fn close(&self) {
        for open in self.inner.lock().open.values_mut() {
            open.closing = true;
            open.close.notify_one();
        }
    }

    /// Waits until all have closed.
    pub async fn empty(&self) {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.inner.lock().open.is_empty() {
                return;
            }
            closed.await;
        }
    }
}

impl OpenConnections {
    /// Tells one to close, for a new one from `address`: of an address that has more, or of the same; one that answers nothing, else the oldest of several whose
    /// client has not read for a while.
    fn close_one(&mut self, address: IpAddr) {
        if self.open.values().any(|c| c.closing) {
            return;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for open in self.open.values() {
            *counts.entry(open.address).or_default() += 1;
        }
        let of = |address: &IpAddr| counts.get(address).copied().unwrap_or(0);
        let own = of(&address);
        let behind = |c: &OpenConnection| c.behind.lock().is_some_and(|since| since.elapsed() >= BEHIND_MAX);
        let may = |c: &&mut OpenConnection| {
            let answers = c.activity == Activity::Answering;
            (c.address == address || of(&c.address) > own) && (!answers || of(&c.address) > 1 && behind(c))
        };
        let first = |c: &&mut OpenConnection| (std::cmp::Reverse(of(&c.address)), c.activity, c.since);
        if let Some(open) = self.open.values_mut().filter(may).min_by_key(first) {
            open.closing = true;
            open.close.notify_one();
        }
    }
}

impl Connection {
    fn set(&self, activity: Activity, client: Option<IpAddr>) {
        if let Some(open) = self.table.inner.lock().open.get_mut(&self.id) {
            (open.activity, open.since) = (activity, Instant::now());
            open.address = client.map_or(open.address, prefix);
        }
    }

    /// A request of this client came, with a body or without. While it lasts the connection is the client's, not that of the proxy
    /// which it came through.
    pub fn request(self: &Arc<Self>, client: IpAddr, body: bool) -> ConnectionRequest {
        self.set(if body { Activity::Receiving } else { Activity::Answering }, Some(client));
        ConnectionRequest(Arc::clone(self))
    }

    /// The body is there.
    pub fn received(&self) {
        self.set(Activity::Answering, None);
    }

    /// A response begins; its request is logged when it was handed to the socket, or the connection ends.
    pub(crate) fn answer(&self, log: RequestLog) {
        self.answers.lock().push(Answer { log, ended: false });
    }

    /// The connection is done with the body of this request's response.
    pub(crate) fn body_ended(&self, log: &RequestLog) {
        self.answers.lock().iter_mut().filter(|answer| answer.log.is(log)).for_each(|answer| answer.ended = true);
    }

    /// The socket takes no more for now.
    pub(crate) fn blocked(&self) {
        self.behind.lock().get_or_insert_with(Instant::now);
    }

    /// All that it has taken was written to the socket.
    pub(crate) fn flushed(&self) {
        *self.behind.lock() = None;
        let mut answers = self.answers.lock();
        answers.iter().for_each(|answer| answer.log.flushed());
        let done: Vec<Answer> = answers.extract_if(.., |answer| answer.ended).collect();
        // Logged without the lock.
        drop(answers);
        drop(done);
    }

    /// Comes when it is told to close: others need its place, or the server ends.
    pub async fn closing(&self) {
        self.close.notified().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Logged before whoever waits for the end of all connections hears of it.
        drop(std::mem::take(self.answers.get_mut()));
        self.table.inner.lock().open.remove(&self.id);
        self.table.closed.notify_waiters();
    }
}

/// A request on a connection, from its head to the end of its response.
pub struct ConnectionRequest(Arc<Connection>);

impl Drop for ConnectionRequest {
    fn drop(&mut self) {
        self.0.set(Activity::Idle, Some(self.0.peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(table: &Arc<Connections>, last: u8) -> Option<Arc<Connection>> {
        let open = table.open([10, 0, 0, last].into());
        tokio::time::timeout(Duration::from_millis(10), open).await.ok()
    }

    async fn is_closing(connection: &Connection) -> bool {
        tokio::time::timeout(Duration::from_millis(1), connection.closing()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_ones_of_who_has_most_go_first() {
        let table = Connections::new(5);
        let mut hog = Vec::new();
        for _ in 0..4 {
            hog.push(opened(&table, 1).await.unwrap());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let other = opened(&table, 2).await.unwrap();
        let answered = hog[0].request(hog[0].peer, false);
        let receiving = hog[1].request(hog[1].peer, true);
        // The oldest idle one is the third.
        assert!(opened(&table, 3).await.is_none());
        assert!(is_closing(&hog[2]).await && !is_closing(&hog[3]).await && !is_closing(&other).await);
        drop(hog.remove(2));
        let third = opened(&table, 3).await.unwrap();
        // The next idle one, then the one whose body does not come, then nobody.
        assert!(opened(&table, 3).await.is_none() && is_closing(&hog[2]).await);
        drop(hog.pop());
        let fourth = opened(&table, 4).await.unwrap();
        assert!(opened(&table, 5).await.is_none() && is_closing(&hog[1]).await);
        drop((receiving, hog.pop()));
        let fifth = opened(&table, 5).await.unwrap();
        // All have one: an idle one of an equal is not closed for somebody who has one, but for somebody new.
        assert!(opened(&table, 2).await.is_none());
        assert!(is_closing(&other).await, "its own");
        drop(other);
        let again = opened(&table, 6).await.unwrap();
        assert!(opened(&table, 7).await.is_none());
        assert!(is_closing(&third).await && !is_closing(&hog[0]).await);
        drop(third);
        drop(answered);
        drop((hog, fourth, fifth, again));
        table.empty().await;
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_proxy_who_has_most_goes_first() {
        let table = Connections::new(4);
        let mut all = Vec::new();
        for client in [5, 7, 7, 7] {
            let connection = opened(&table, 9).await.unwrap();
            all.push((connection.request([10, 1, 0, client].into(), true), connection));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(opened(&table, 9).await.is_none());
        assert!(!is_closing(&all[0].1).await && is_closing(&all[1].1).await);
        // A connection without a request is the proxy's again.
        drop(all.remove(1));
        let (asked, connection) = all.remove(2);
        drop(asked);
        tokio::time::advance(Duration::from_secs(1)).await;
        let _new = opened(&table, 9).await.unwrap();
        assert!(opened(&table, 9).await.is_none() && is_closing(&connection).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_not_cut_for_a_new_connection() {
        let table = Connections::new(2);
        let (one, two) = (opened(&table, 1).await.unwrap(), opened(&table, 1).await.unwrap());
        let (first, second) = (one.request(one.peer, true), two.request(two.peer, false));
        one.received();
        assert!(opened(&table, 2).await.is_none());
        assert!(!is_closing(&one).await && !is_closing(&two).await);
        // It waits, and comes when one is idle.
        let waits = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.open([10, 0, 0, 2].into()).await }
        });
        drop(first);
        tokio::time::timeout(Duration::from_secs(1), one.closing()).await.unwrap();
        drop(one);
        let _new = waits.await.unwrap();
        drop(second);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_several_whose_client_does_not_read_gives_way() {
        let table = Connections::new(4);
        let mut all = Vec::new();
        for last in [1, 2, 2, 2] {
            let connection = opened(&table, last).await.unwrap();
            all.push((connection.request(connection.peer, false), connection));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        // Two of an address that has three, and the only one of another; the oldest waits for its answer.
        [0, 2, 3].into_iter().for_each(|at| all[at].1.blocked());
        tokio::time::advance(BEHIND_MAX / 2).await;
        all[2].1.flushed();
        all[2].1.blocked();
        tokio::time::advance(BEHIND_MAX / 2).await;
        all[2].1.blocked();
        assert!(opened(&table, 3).await.is_none());
        assert!(is_closing(&all[3].1).await && !is_closing(&all[2].1).await && !is_closing(&all[1].1).await);
        drop(all.remove(3));
        let new = opened(&table, 3).await.unwrap();
        let asked = new.request(new.peer, false);
        tokio::time::advance(BEHIND_MAX).await;
        assert!(opened(&table, 4).await.is_none() && is_closing(&all[2].1).await);
        drop(all.remove(2));
        let _last = opened(&table, 4).await.unwrap();
        let _asked = _last.request(_last.peer, false);
        // Who has one only keeps it, and nothing is cut that waits for its answer.
        assert!(opened(&table, 5).await.is_none());
        for connection in [&all[0].1, &all[1].1, &new] {
            assert!(!is_closing(connection).await);
        }
        drop(asked);
    }

    #[tokio::test(start_paused = true)]
    async fn an_equal_gives_nothing_up_for_another() {
        let table = Connections::new(2);
        let older = opened(&table, 1).await.unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let own = opened(&table, 2).await.unwrap();
        assert!(opened(&table, 2).await.is_none());
        assert!(is_closing(&own).await && !is_closing(&older).await);
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_told_to_close_and_waited_for() {
        let table = Connections::new(3);
        let all = [opened(&table, 1).await.unwrap(), opened(&table, 2).await.unwrap()];
        let request = all[1].request(all[1].peer, false);
        assert!(!is_closing(&all[0]).await);
        table.close();
        assert!(is_closing(&all[0]).await && is_closing(&all[1]).await, "whatever they do");
        let waits = tokio::spawn({
            let table = Arc::clone(&table);
            async move { table.empty().await }
        });
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop((request, all));
        waits.await.unwrap();
    }
}
