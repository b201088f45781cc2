//! A subscription to one event of several callees, which may come and go: those of a pool.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use witrpc_core::contract::descriptor::ServiceDescriptor;

use crate::events::client_subscription::{self, Subscribable, SubscriptionHandle};
use crate::events::error::EventError;
use crate::events::subscriber::EventValue;
use crate::locks::{self, Mutex, Rank, WakerPlace};

/// What the subscriber holds.
pub(crate) struct Merged {
    joins: Arc<Joins>,
    parts: Vec<Part>,
    /// Which part is looked at first: each in turn, so that a busy one keeps nobody waiting.
    next: usize,
}

/// The subscription at one callee.
struct Part {
    callee: u64,
    /// The callee's index, for the subscriber.
    index: usize,
    handle: SubscriptionHandle,
}

/// What adds the subscription at each callee.
pub(crate) struct Joins {
    descriptor: &'static ServiceDescriptor,
    event: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The callees at which there is a subscription, by their ids.
    joined: HashSet<u64>,
    /// Those that the subscriber has not seen yet.
    arrived: Vec<Part>,
    /// Whether no callee will follow.
    ended: bool,
    waker: WakerPlace,
}

impl fmt::Debug for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = self.joins.descriptor.events[self.joins.event].name;
        f.debug_struct("Merged")
            .field("event", &event)
            .field("parts", &self.parts.len())
            .finish_non_exhaustive()
    }
}

impl Merged {
    pub(crate) fn new(descriptor: &'static ServiceDescriptor, event: usize) -> Self {
        let state = Mutex::new(Rank::Merged, State::default());
        let joins = Arc::new(Joins { descriptor, event, state });
        Self { joins, parts: Vec::new(), next: 0 }
    }

    pub(crate) const fn joins(&self) -> &Arc<Joins> {
        &self.joins
    }

    /// The next item of any callee, and that callee's index.
    pub(crate) fn poll<T: EventValue>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<T, EventError>)>> {
        loop {
            if let Some(item) = self.poll_parts(cx) {
                return Poll::Ready(Some(item));
            }
            let waker = cx.waker();
            match locks::with_clone(waker, |clone| self.joins.look(waker, clone)) {
                Looked::Arrived(parts) => self.parts.extend(parts),
                Looked::Nothing => return Poll::Pending,
                Looked::Ended if self.parts.is_empty() => return Poll::Ready(None),
                Looked::Ended => return Poll::Pending,
            }
        }
    }

    fn poll_parts<T: EventValue>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<(usize, Result<T, EventError>)> {
        let mut left = self.parts.len();
        while left > 0 {
            left -= 1;
            if self.next >= self.parts.len() {
                self.next = 0;
            }
            let part = &self.parts[self.next];
            match part.handle.poll::<T>(cx) {
                Poll::Ready(Some(item)) => {
                    self.next += 1;
                    return Some((part.index, item));
                }
                Poll::Ready(None) => {
                    let part = self.parts.swap_remove(self.next);
                    self.joins.state.lock().joined.remove(&part.callee);
                }
                Poll::Pending => self.next += 1,
            }
        }
        None
    }
}

enum Looked {
    Arrived(Vec<Part>),
    /// The waker is left.
    Nothing,
    Ended,
}

impl Joins {
    /// Subscribes at a callee, unless there is a subscription.
    pub(crate) fn join(&self, id: u64, index: usize, callee: Arc<dyn Subscribable>) {
        let mut state = self.state.lock();
        if state.ended || !state.joined.insert(id) {
            return;
        }
        drop(state);
        let handle = client_subscription::subscribe(callee, self.descriptor, self.event);
        let mut state = self.state.lock();
        state.arrived.push(Part { callee: id, index, handle });
        state.waker.wake();
    }

    /// No callee will follow.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.waker.wake();
    }

    fn look(&self, waker: &Waker, clone: &mut Option<Waker>) -> Option<Looked> {
        let mut state = self.state.lock();
        if !state.arrived.is_empty() {
            return Some(Looked::Arrived(std::mem::take(&mut state.arrived)));
        }
        if state.ended {
            return Some(Looked::Ended);
        }
        state.waker.leave(waker, clone).then_some(Looked::Nothing)
    }
}
