//! Looks, in tests, for work that no wake-up announced.
//!
//! A connection sleeps without a timer, so a wake-up that is lost is a hang, or a delay that nobody can explain. While
//! [`look_every`] is on, the driver also wakes by a timer, looks whether something has been overlooked,
//! and if so counts it ([`count`]), warns, and goes on with it: a rescue. It is off unless a test turns it on.
//!
//! # Why a rescue is no false alarm
//!
//! - The look changes nothing: the sleeper is not polled, nothing is armed or taken, so the peer sees the sleep that it
//!   would have seen without the timer. Whether the sleeper itself was woken is told by a waker of its own.
//! - Work that is there may have its wake-up under way: the peer publishes first and notifies afterwards. So one look
//!   is only a suspicion. It takes `LOOKS` looks in a row, `PAUSE` apart, that all find work, and not one
//!   wake-up in all that time. Looks are counted, not seconds, so that a process that was stopped for long does not
//!   find its time up at once.
//! - What a caller takes while it leads is no work for the driver: while somebody holds the receiving half, the look
//!   finds nothing. And a queue that waits for room counts only once there is more room than anybody ever asks to
//!   be woken at (see `Outbound::is_stuck`): a peer that has stopped half-way owes no notification.
//!
//! What is left is a peer that is stopped between two adjacent steps, publishing and notifying, for longer than all the looks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use witrpc_core::sync::AtomicWaker;

use crate::link::timers::deadline;

/// So many looks in a row have to find work: five seconds, which no wake-up takes on any machine.
const LOOKS: u32 = 50;
/// The time between two looks once there is a suspicion.
const PAUSE: Duration = Duration::from_millis(100);

/// In milliseconds; 0 is never.
static INTERVAL: AtomicU64 = AtomicU64::new(0);
static RESCUES: AtomicU64 = AtomicU64::new(0);

/// From now on every sleeping connection of this process looks this often, to the millisecond; `ZERO` turns it off.
pub fn look_every(interval: Duration) {
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    // Relaxed here and below: the numbers carry no other data.
    INTERVAL.store(millis, Ordering::Relaxed);
}

/// How often a connection of this process was rescued.
#[must_use]
pub fn count() -> u64 {
    RESCUES.load(Ordering::Relaxed)
}

/// How often to look, if at all.
pub(crate) fn interval() -> Option<Duration> {
    let millis = INTERVAL.load(Ordering::Relaxed);
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// Sleeps, and looks meanwhile; `None` is a rescue. `overlooked` says what work is there that nobody is at.
pub(crate) async fn watched<T>(
    sleep: impl Future<Output = T>,
    interval: Duration,
    overlooked: impl Fn() -> Option<&'static str>,
) -> Option<T> {
    let flag = Arc::new(FlagWaker { woken: AtomicBool::new(true), task: AtomicWaker::new() });
    let waker = Waker::from(Arc::clone(&flag));
    let mut sleep = pin!(sleep);
    let mut alarm = pin!(tokio::time::sleep(interval));
    let mut looks = 0;
    poll_fn(|cx| {
        flag.task.register(cx.waker());
        if flag.woken.swap(false, Ordering::AcqRel) {
            if let Poll::Ready(woken) = sleep.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(Some(woken));
            }
        }
        while alarm.as_mut().poll(cx).is_ready() {
            let found = overlooked();
            looks = if found.is_some() { looks + 1 } else { 0 };
            if let Some(what) = found {
                if looks >= LOOKS {
                    RESCUES.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(what, "no wake-up announced this: a connection was rescued");
                    return Poll::Ready(None);
                }
            }
            let next = if looks == 0 { interval } else { PAUSE };
            alarm.as_mut().reset(deadline(next));
        }
        Poll::Pending
    })
    .await
}

/// A waker that notes that it was woken.
struct FlagWaker {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for FlagWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, poll_fn};
    use std::task::Poll;
    use std::time::Duration;

    use super::LOOKS;
    use super::watched;

    const OFTEN: Duration = Duration::from_millis(250);
    const AN_HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn work_that_stays_is_a_rescue() {
        let looks = Cell::new(0);
        let overlooked = || {
            looks.set(looks.get() + 1);
            Some("work")
        };
        assert_eq!(watched(pending::<()>(), OFTEN, overlooked).await, None);
        assert_eq!(looks.get(), LOOKS);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_comes_and_goes_is_none_and_a_sleeper_is_polled_only_when_woken() {
        let (looks, polls) = (Cell::new(0), Cell::new(0));
        let overlooked = || {
            looks.set(looks.get() + 1);
            (looks.get() % LOOKS != 0).then_some("work")
        };
        let (wake, woken) = tokio::sync::oneshot::channel();
        tokio::spawn(async {
            tokio::time::sleep(AN_HOUR).await;
            wake.send(()).unwrap();
        });
        let mut woken = Box::pin(woken);
        let sleep = poll_fn(|cx| {
            polls.set(polls.get() + 1);
            woken.as_mut().poll(cx)
        });
        assert_eq!(watched(sleep, OFTEN, overlooked).await, Some(Ok(())));
        assert_eq!(polls.get(), 2);
        assert!(looks.get() > 30_000, "{}", looks.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_between_the_looks_ends_the_sleep() {
        let mut first = true;
        let sleep = poll_fn(|cx| {
            if std::mem::take(&mut first) {
                // Woken before it sleeps: no timer has to come.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        });
        let looked = || panic!("nothing is to be looked at");
        assert_eq!(watched(sleep, OFTEN, looked).await, Some(()));
    }
}
