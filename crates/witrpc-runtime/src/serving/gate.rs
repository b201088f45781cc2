//! The gate: it keeps most handlers that could run out of the run queue of the runtime.
//!
//! A worker of tokio's polls the tasks of its queue one after the other. If all handlers that could run were there, and each computed for a
//! millisecond, everything else would wait for all of them: drivers that have requests to read and to refuse, and the program's own tasks. So
//! while handlers wait noticeably, only a few for each worker are in the queue. The others wait here, in order. None of them is delayed: as
//! one begins its poll, the next enters the queue.
//!
//! A place in the queue is held until the poll begins, and not during it. So a handler that blocks its worker, or waits for another one
//! within `block_in_place`, holds up nobody here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use witrpc_core::transport::BoxFuture;

/// So many handlers for each worker: one to go on with, and one that another worker can take.
const FOR_EACH_WORKER: usize = 2;

/// The gate of an endpoint on one runtime.
#[derive(Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(super) fn new(workers: usize) -> Self {
        Self(Arc::new(Semaphore::new(FOR_EACH_WORKER * workers)))
    }

    /// Joins the line now, whenever the result is polled.
    pub(super) fn enter(&self) -> Entering {
        if let Ok(place) = Arc::clone(&self.0).try_acquire_owned() {
            return Entering::Place(Some(place));
        }
        let gate = Arc::clone(&self.0);
        let mut waiting: BoxFuture<'static, _> =
            Box::pin(async move { gate.acquire_owned().await.ok() });
        // The task that waits joins when it is polled. By then it would have been in the run queue.
        let mut nobody = Context::from_waker(Waker::noop());
        match Pin::new(&mut unconstrained(waiting.as_mut())).poll(&mut nobody) {
            Poll::Ready(place) => Entering::Place(place),
            Poll::Pending => Entering::Waiting(waiting),
        }
    }
}

/// Completes with a place in the run queue, which goes to the next handler when it is dropped; or with `None`, if none is needed.
pub(crate) enum Entering {
    Place(Option<OwnedSemaphorePermit>),
    Waiting(BoxFuture<'static, Option<OwnedSemaphorePermit>>),
}

impl Entering {
    /// For a handler that needs no place.
    pub(super) const fn free() -> Self {
        Self::Place(None)
    }
}

impl Future for Entering {
    type Output = Option<OwnedSemaphorePermit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Place(place) => Poll::Ready(place.take()),
            Self::Waiting(waiting) => waiting.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::{FOR_EACH_WORKER, Future, Gate};

    #[test]
    fn places_are_given_in_the_order_of_asking() {
        let gate = Gate::new(1);
        let mut nobody = Context::from_waker(Waker::noop());
        let mut entering: Vec<_> = (0..FOR_EACH_WORKER + 3).map(|_| gate.enter()).collect();
        let mut poll = |n: usize| Pin::new(&mut entering[n]).poll(&mut nobody);
        let mut places: Vec<_> = (0..FOR_EACH_WORKER).map(&mut poll).collect();
        assert!(places.iter().all(|place| matches!(place, Poll::Ready(Some(_)))));
        for n in FOR_EACH_WORKER..FOR_EACH_WORKER + 3 {
            // Whoever is polled first: it is not its turn.
            for later in (n..FOR_EACH_WORKER + 3).rev() {
                assert!(poll(later).is_pending(), "{later} before {n}");
            }
            places.pop();
            places.insert(0, poll(n));
            assert!(matches!(places[0], Poll::Ready(Some(_))), "{n}");
        }
    }

    #[test]
    fn one_that_gives_up_makes_way() {
        let gate = Gate::new(1);
        let mut nobody = Context::from_waker(Waker::noop());
        let places: Vec<_> = (0..FOR_EACH_WORKER).map(|_| gate.enter()).collect();
        let (first, mut second) = (gate.enter(), gate.enter());
        drop(places);
        drop(first);
        assert!(Pin::new(&mut second).poll(&mut nobody).is_ready());
    }
}
