//! Detects lost wake-ups in tests.
//!
//! A connection sleeps without a timer. So a lost wake-up is a hang, or an inexplicable delay. While [`look_every`] is on, the driver also
//! wakes by a timer and checks whether there is work. If so, it counts that ([`count`]), logs a warning, and goes on: a rescue. It is off
//! unless a test turns it on.
//!
//! # Why a rescue is no false alarm
//!
//! - A check changes nothing: the sleeping future is not polled, and nothing is armed or taken. So the peer sees the same sleep as
//!   without the timer. A waker of its own tells whether the sleeping future was woken.
//! - Work that is there may have its wake-up under way: the peer publishes first and notifies afterwards. So one
//!   check is only a suspicion. A rescue takes `LOOKS` checks in a row, `PAUSE` apart, that all find work, without any wake-up
//!   meanwhile. Checks are counted and not seconds, so that a process that was stopped for long does not time out at once.
//! - Frames that a caller takes while it leads are no work for the driver: while a task holds the receiving half, the check finds
//!   nothing. A queue that waits for room counts only once there is more room than any task ever asks for (see
//!   `Outbound::is_stuck`): a peer that has released only some room owes no notification.
//!
//! A false alarm remains possible only if the peer is stopped between publishing and notifying for longer than all the checks take.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use witrpc_core::sync::AtomicWaker;

use crate::link::timers::deadline;

/// How many checks in a row have to find work: five seconds, longer than any wake-up takes.
const LOOKS: u32 = 50;
/// The time between two checks once one has found work.
const PAUSE: Duration = Duration::from_millis(100);

/// The interval in milliseconds; 0 is off.
static INTERVAL: AtomicU64 = AtomicU64::new(0);
static RESCUES: AtomicU64 = AtomicU64::new(0);

/// Makes every sleeping connection of this process check for work at this interval, in whole milliseconds; `ZERO` turns it off.
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

/// The interval of the checks, if they are on.
pub(crate) fn interval() -> Option<Duration> {
    let millis = INTERVAL.load(Ordering::Relaxed);
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// Runs `sleep`, with checks meanwhile; `None` is a rescue. `overlooked` returns the work that is there and that no task is doing.
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
                    tracing::warn!(what, "a connection had work but was not woken; continuing it");
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

/// A waker that records that it was woken.
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
