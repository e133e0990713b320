//! Places for requests that are read and prepared: a few at once, each until its work has ended, whether its client is there or not.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// A place, on the thread that does the work.
pub struct Turn {
    places: Arc<Semaphore>,
    place: RefCell<Option<OwnedSemaphorePermit>>,
    left: Arc<AtomicBool>,
}

/// Tells the work that nobody waits for it any more, when it is dropped.
struct Client(Arc<AtomicBool>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Do work that takes a while on a thread of its own, once there is a place.
pub async fn apart<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce(&Turn) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let place = RefCell::new(Arc::clone(places).acquire_owned().await.ok());
    let left = Arc::<AtomicBool>::default();
    let _client = Client(Arc::clone(&left));
    let turn = Turn { places: Arc::clone(places), place, left };
    let outcome = tokio::task::spawn_blocking(move || work(&turn)).await;
    outcome.map_err(|_| Problem::fault("a fault while reading the request"))?
}

impl Turn {
    /// Whether nobody waits for the outcome.
    pub fn left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Wait for another process: others have the place meanwhile.
    pub fn elsewhere<T>(&self, wait: impl FnOnce() -> T) -> T {
        drop(self.place.take());
        let outcome = wait();
        *self.place.borrow_mut() = Handle::current().block_on(Arc::clone(&self.places).acquire_owned()).ok();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_place_is_kept_until_the_work_ends_and_the_work_knows_when_its_client_left() {
        let places = Arc::new(Semaphore::new(1));
        let (sender, left) = channel();
        let work = move |turn: &Turn| {
            while !turn.left() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(300));
            let _ = sender.send(());
            Ok(())
        };
        let client = tokio::time::timeout(Duration::from_millis(50), apart(&places, work)).await;
        assert!(client.is_err());
        assert_eq!(places.available_permits(), 0, "it is at work still");
        apart(&places, |_| Ok(())).await.unwrap();
        assert!(left.try_recv().is_ok(), "the next one had its turn before the work ended");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_elsewhere_keeps_nobody_from_a_turn() {
        let places = Arc::new(Semaphore::new(1));
        let (sender, wait) = channel::<()>();
        let (theirs, begun) = (Arc::clone(&places), Arc::new(tokio::sync::Notify::new()));
        let told = Arc::clone(&begun);
        let slow = tokio::spawn(async move {
            let work = move |turn: &Turn| {
                Ok(turn.elsewhere(|| {
                    told.notify_one();
                    wait.recv().is_ok()
                }))
            };
            apart(&theirs, work).await
        });
        begun.notified().await;
        apart(&places, |_| Ok(())).await.unwrap();
        sender.send(()).unwrap();
        assert!(slow.await.unwrap().unwrap());
        assert_eq!(places.available_permits(), 1);
    }
}
