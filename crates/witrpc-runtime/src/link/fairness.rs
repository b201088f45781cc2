//! Keeps futures that are often ready at once from starving the runtime's other tasks.
//!
//! Calls, streams and subscriptions are often ready at the first poll. A task that awaits one after the other, or in a `select!`, would
//! never return to its runtime, and no timer and no other task would run. So each step consumes the task's cooperative budget, as
//! tokio's own channels do. Outside of a tokio runtime there is no budget, and nothing is counted.

use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::task::coop;

/// Messages up to this size, in bytes, are small: several steps with small messages count as one step of the task. Each step with a
/// longer message counts as one.
pub(crate) const SMALL_SIZE: u64 = 4 << 10;

/// The kinds of small step. So many of them count as one step of the task that about half a millisecond passes before a yield. A yield
/// costs as much as ten calls or more, as tokio wakes another worker for it, and tokio asks for one after 128 steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call, a ping, or an item of a stream: the step may read from the ring.
    Message,
    /// A value of an event, which is in its subscription already. With the default capacity, all values that wait for one subscriber
    /// (1024, and the 256 of the window) can be taken without a yield.
    Value,
}

impl Step {
    const fn per_count(self) -> u8 {
        match self {
            Self::Message => 4,
            Self::Value => 16,
        }
    }

    /// Whether the next step of this kind on this thread counts as one step of its task.
    pub(crate) fn is_counted(self) -> bool {
        const WHOLE: u8 = 16;
        thread_local! {
            /// In parts of what counts, of which there are 16.
            static STEPS: Cell<u8> = const { Cell::new(0) };
        }
        let parts = STEPS.get() + WHOLE / self.per_count();
        STEPS.set(parts % WHOLE);
        parts >= WHOLE
    }
}

/// Calls `poll`, and charges the task's budget; pending once the budget is used up. `size` is the number of bytes in the result.
pub(crate) fn poll_counted<T>(
    cx: &mut Context<'_>,
    step: Step,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    size: impl FnOnce(&T) -> u64,
) -> Poll<T> {
    let budget = ready!(coop::poll_proceed(cx));
    let value = ready!(poll(cx));
    if size(&value) > SMALL_SIZE || step.is_counted() {
        budget.made_progress();
    }
    Poll::Ready(value)
}

/// Wakes the current task again once the runtime's other tasks and its timers have run.
pub(crate) fn wake_after_others(waker: &Waker) {
    let mut cx = Context::from_waker(waker);
    // Its first poll leaves the waker with the runtime, or calls it if there is no runtime.
    let again = pin!(tokio::task::yield_now()).poll(&mut cx);
    debug_assert!(again.is_pending(), "a yield is pending once");
}

#[cfg(test)]
mod tests {
    use super::{SMALL_SIZE, Step, poll_counted};
    use std::future::poll_fn;
    use std::task::Poll;

    /// Counts the steps of a future that is always ready until its task has to yield.
    fn steps(step: Step, size: u64) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut steps = 0;
        let task = poll_fn(|cx| {
            while poll_counted(cx, step, |_| Poll::Ready(()), |()| size).is_ready() {
                steps += 1;
                assert!(steps < 10_000, "it never yields");
            }
            Poll::Ready(())
        });
        runtime.block_on(task);
        steps
    }

    #[test]
    fn what_is_always_ready_lets_others_run_and_the_sooner_the_larger_it_is() {
        for step in [Step::Message, Step::Value] {
            let (small, large) = (steps(step, SMALL_SIZE), steps(step, SMALL_SIZE + 1));
            assert!(large > 1, "it yields at every step");
            assert!(small > large * (usize::from(step.per_count()) - 1), "{small} and {large}");
        }
    }

    #[test]
    fn without_a_runtime_nothing_is_counted() {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..10_000 {
            assert!(poll_counted(&mut cx, Step::Message, |_| Poll::Ready(()), |()| 1).is_ready());
        }
    }
}
