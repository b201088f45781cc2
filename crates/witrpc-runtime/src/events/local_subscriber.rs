//! A subscriber in the process of the service.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use witrpc_core::{CloseReason, Error};

use crate::events::backlog::{Backlog, Overflow, Pushed, Room, Waiting};
use crate::events::error::EventError;
use crate::events::subscriber::{Encoded, EventValue, Subscriber};
use crate::link::fairness::{Step, poll_counted};
use crate::link::sync::lock;

/// A subscriber in the process of the service.
pub(super) struct LocalSubscriber<T> {
    state: Mutex<LocalState<T>>,
    room: Arc<Room>,
}

struct LocalState<T> {
    backlog: Backlog<T>,
    /// The number that the next value should have.
    expected: u64,
    waker: Option<Waker>,
    disconnected: bool,
}

impl<T> LocalSubscriber<T> {
    pub(super) fn new(overflow: Overflow, capacity: usize, room: Arc<Room>) -> Arc<Self> {
        // The size of a value in memory is not known here.
        let backlog = Backlog::new(overflow, capacity, u64::MAX);
        let state = LocalState { backlog, expected: 0, waker: None, disconnected: false };
        Arc::new(Self { state: Mutex::new(state), room })
    }

    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, EventError>> {
        poll_counted(cx, Step::Value, |cx| self.take(cx), |_| 0)
    }

    fn take(&self, cx: &Context<'_>) -> Poll<Result<T, EventError>> {
        let mut state = lock(&self.state);
        // Dropped values at the end of the backlog are reported, too.
        let next = state.backlog.front_number().unwrap_or(state.backlog.next_number());
        if next > state.expected && !state.disconnected {
            let lost = next - state.expected;
            state.expected = next;
            return Poll::Ready(Err(EventError::Lagged(lost)));
        }
        let Some(Waiting { number, value, .. }) = state.backlog.pop() else {
            if state.disconnected {
                let reason = CloseReason::Failed(
                    "a subscriber did not keep up with an event (Overflow::Disconnect)".to_owned(),
                );
                return Poll::Ready(Err(EventError::Closed(reason)));
            }
            let last = state.waker.replace(cx.waker().clone());
            drop(state);
            drop(last);
            return Poll::Pending;
        };
        state.expected = number + 1;
        drop(state);
        self.room.made();
        Poll::Ready(Ok(value))
    }
}

impl<T: EventValue> Subscriber<T> for LocalSubscriber<T> {
    fn deliver(&self, value: &T, _encoded: &mut Encoded) -> Result<(), Error> {
        let value = value.clone();
        let mut dropped = Vec::new();
        let mut state = lock(&self.state);
        if !state.disconnected && state.backlog.push(value, 0, &mut dropped) == Pushed::Disconnect {
            state.disconnected = true;
        }
        let waker = state.waker.take();
        drop(state);
        drop(dropped);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        lock(&self.state).backlog.is_full()
    }
}
