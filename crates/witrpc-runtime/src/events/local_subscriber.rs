//! A subscriber in the process of the service.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use witrpc_core::CloseReason;
use witrpc_core::values::serializer::Codec;

use crate::events::backlog::{Backlog, Cost, Overflow, Pushed, Room, Waiting};
use crate::events::error::EventError;
use crate::events::subscriber::{EventValue, Prepared, Subscriber};
use crate::link::fairness::{Step, poll_counted};
use crate::locks::{self, Mutex, Rank, WakerPlace};

/// A subscriber in the process of the service.
pub(super) struct LocalSubscriber<T> {
    state: Mutex<LocalState<T>>,
    room: Arc<Room>,
}

struct LocalState<T> {
    backlog: Backlog<T>,
    /// The number that the next value should have.
    expected: u64,
    waker: WakerPlace,
    disconnected: bool,
}

impl<T> LocalSubscriber<T> {
    pub(super) fn new(overflow: Overflow, capacity: usize, room: Arc<Room>) -> Arc<Self> {
        // The size of a value in memory is not known here.
        let backlog = Backlog::new(overflow, capacity, u64::MAX);
        let state =
            LocalState { backlog, expected: 0, waker: WakerPlace::default(), disconnected: false };
        Arc::new(Self { state: Mutex::new(Rank::Subscription, state), room })
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, EventError>> {
        poll_counted(cx, Step::Value, |cx| self.take(cx), |_| 0)
    }

    fn take(&self, cx: &Context<'_>) -> Poll<Result<T, EventError>> {
        locks::with_clone(cx.waker(), |clone| self.look(cx.waker(), clone))
    }

    /// What is there. `None` if that is nothing, and leaving the waker takes a clone.
    fn look(
        &self,
        waker: &Waker,
        clone: &mut Option<Waker>,
    ) -> Option<Poll<Result<T, EventError>>> {
        let mut state = self.state.lock();
        // Dropped values at the end of the backlog are reported, too.
        let next = state.backlog.front_number().unwrap_or(state.backlog.next_number());
        if next > state.expected && !state.disconnected {
            let lost = next - state.expected;
            state.expected = next;
            return Some(Poll::Ready(Err(EventError::Lagged(lost))));
        }
        let Some(Waiting { number, value, .. }) = state.backlog.pop() else {
            if state.disconnected {
                let reason = CloseReason::Failed(
                    "a subscriber did not keep up with an event (Overflow::Disconnect)".to_owned(),
                );
                return Some(Poll::Ready(Err(EventError::Closed(reason))));
            }
            return state.waker.leave(waker, clone).then_some(Poll::Pending);
        };
        state.expected = number + 1;
        drop(state);
        self.room.made();
        Some(Poll::Ready(Ok(value)))
    }
}

impl<T: EventValue> Subscriber<T> for LocalSubscriber<T> {
    fn codec(&self) -> Option<&Codec> {
        None
    }

    fn deliver(&self, prepared: &mut Prepared<T>) -> Result<(), &'static str> {
        let Some(value) = prepared.take() else { return Ok(()) };
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if state.disconnected {
            dropped.push(value); // Not here: the event's lock is held.
        } else {
            state.disconnected =
                state.backlog.push(value, Cost::default(), &mut dropped) == Pushed::Disconnect;
        }
        state.waker.wake();
        drop(state);
        if !dropped.is_empty() {
            locks::dispose(dropped);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.state.lock().backlog.is_full()
    }
}
