//! One read for all who ask for the same at the same time, and a bound on how many go on at once: a crowd that watches recordings
//! costs the stores one read per row or object, and leaves room for what is live.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::sync::Semaphore;

use crate::store::{Error, Result};

type Flight<T> = Shared<BoxFuture<'static, Result<T>>>;
/// Those under way, each with a number that tells it from others of its name.
type Open<T> = HashMap<String, (u64, Flight<T>)>;

/// Reads of one kind that are under way, by what they read. Clones share them.
pub struct Flights<T: Clone> {
    open: Arc<Mutex<Open<T>>>,
    turns: Arc<Semaphore>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// At most as many go on at once as `turns` has places; more wait.
    pub fn new(turns: Arc<Semaphore>) -> Self {
        Self { open: Arc::default(), turns }
    }

    /// Joins the read that is under way under this name, or begins it. Whoever began it may go away: it goes on.
    pub async fn join<F>(&self, name: String, read: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let flight = {
            let mut open = lock(&self.open);
            match open.get(&name) {
                Some((_, flight)) => flight.clone(),
                None => {
                    let number = rand::random();
                    let flight = self.begin(name.clone(), number, read());
                    open.insert(name, (number, flight.clone()));
                    flight
                }
            }
        };
        flight.await
    }

    fn begin(&self, name: String, number: u64, read: impl Future<Output = Result<T>> + Send + 'static) -> Flight<T> {
        let (open, turns) = (self.open.clone(), self.turns.clone());
        let task = tokio::spawn(async move {
            let _turn = turns.acquire_owned().await.expect("never closed");
            let read = read.await;
            let mut open = lock(&open);
            // After a write another flight may have its name.
            if open.get(&name).is_some_and(|(other, _)| *other == number) {
                open.remove(&name);
            }
            read
        });
        let ended = |why| Err(Error::Unavailable(format!("a read ended early: {why}")));
        task.map(move |read| read.unwrap_or_else(ended)).boxed().shared()
    }

    /// Lets nobody join what is under way: something was written since it began.
    pub fn forget(&self) {
        lock(&self.open).clear();
    }
}

fn lock<T>(map: &Mutex<T>) -> MutexGuard<'_, T> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn flights() -> Flights<u32> {
        Flights::new(Arc::new(Semaphore::new(2)))
    }

    #[tokio::test]
    async fn a_crowd_costs_one_read_and_hears_its_failure_once() {
        let (flights, reads) = (flights(), Arc::new(AtomicU32::new(0)));
        let ask = |name: &str, answer: Result<u32>| {
            let reads = reads.clone();
            flights.join(name.to_owned(), move || async move {
                tokio::task::yield_now().await;
                reads.fetch_add(1, Ordering::Relaxed);
                answer
            })
        };
        let all = futures::future::join_all((0..100).map(|n| ask("a", Ok(n)))).await;
        assert!(all.iter().all(|one| matches!(one, Ok(0))), "{all:?}");
        let all = futures::future::join_all((0..100).map(|_| ask("b", Err(Error::NotFound)))).await;
        assert!(all.iter().all(|one| matches!(one, Err(Error::NotFound))));
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        assert!(matches!(ask("a", Ok(7)).await, Ok(7)), "a later read is a new one");
    }

    #[tokio::test]
    async fn who_asks_after_a_write_reads_what_was_written() {
        let flights = Arc::new(flights());
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let old = tokio::spawn({
            let flights = flights.clone();
            async move {
                flights
                    .join("a".into(), || async {
                        wait.await.expect("told");
                        Ok(1)
                    })
                    .await
            }
        });
        while lock(&flights.open).is_empty() {
            tokio::task::yield_now().await;
        }
        flights.forget();
        assert!(matches!(flights.join("a".into(), || async { Ok(2) }).await, Ok(2)));
        go.send(()).unwrap();
        assert!(matches!(old.await.unwrap(), Ok(1)));
        assert!(lock(&flights.open).is_empty());
    }

    #[tokio::test]
    async fn one_who_leaves_ends_no_read_and_no_more_go_on_than_may() {
        let (flights, most) = (Arc::new(flights()), Arc::new((AtomicU32::new(0), AtomicU32::new(0))));
        let read = |name: String| {
            let most = most.clone();
            flights.join(name, move || async move {
                let now = most.0.fetch_add(1, Ordering::Relaxed) + 1;
                most.1.fetch_max(now, Ordering::Relaxed);
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                most.0.fetch_sub(1, Ordering::Relaxed);
                Ok(now)
            })
        };
        let mut left = Box::pin(read("left".into()));
        assert!(futures::poll!(&mut left).is_pending());
        drop(left);
        futures::future::join_all((0..20).map(|n| read(n.to_string()))).await;
        assert_eq!((most.0.load(Ordering::Relaxed), most.1.load(Ordering::Relaxed)), (0, 2));
    }
}
