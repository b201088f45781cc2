//! Deadlines of any length, and timers that tolerate a runtime without timers, or one that has ended.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};
use witrpc_core::Error;

/// The longest time limit, thirty years: a longer one is treated as this. Clocks overflow some centuries later.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The deadline of a time limit that begins now.
pub(crate) fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit.min(FAR)).unwrap_or(now)
}

/// The same for the system's clock.
pub(crate) fn system_deadline(limit: Duration) -> std::time::Instant {
    let now = std::time::Instant::now();
    now.checked_add(limit.min(FAR)).unwrap_or(now)
}

/// Checks that the caller is within a runtime that has timers.
///
/// # Errors
///
/// [`Error::NoRuntime`] if it is not; `what` needs it.
pub(crate) fn check(what: &'static str) -> Result<(), Error> {
    let error = || Error::NoRuntime { what };
    let runtime = Handle::try_current().map_err(|_| error())?;
    Timer::new(&runtime, Duration::ZERO).map(drop).ok_or_else(error)
}

/// A timer that may outlive its runtime.
#[derive(Debug)]
pub(crate) struct Timer {
    /// `None` once its runtime has ended.
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Instant,
}

impl Timer {
    /// A timer of this runtime; `None` if the runtime has no timers.
    pub(crate) fn new(runtime: &Handle, limit: Duration) -> Option<Self> {
        let deadline = deadline(limit);
        // tokio panics if a runtime has no timers, and offers no way to check first.
        let sleep = catch_unwind(AssertUnwindSafe(|| {
            let _runtime = runtime.enter();
            Box::pin(tokio::time::sleep_until(deadline))
        }));
        Some(Self { sleep: Some(sleep.ok()?), deadline })
    }

    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Completes when the time has come; `Gone` if the runtime has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let Some(sleep) = &mut self.sleep else { return Poll::Ready(Err(Gone)) };
        // tokio panics if the runtime has ended.
        match catch_unwind(AssertUnwindSafe(|| sleep.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => {
                self.sleep = None;
                Poll::Ready(Err(Gone))
            }
        }
    }
}

/// The timer's runtime has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

#[cfg(test)]
mod tests {
    use super::FAR;
    use super::Gone;
    use super::Timer;
    use super::check;
    use super::deadline;
    use super::system_deadline;
    use std::future::poll_fn;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;
    use tokio::runtime::Builder;
    use witrpc_core::Error;

    #[test]
    fn a_time_limit_may_be_of_any_length() {
        for limit in [Duration::MAX, FAR, FAR + Duration::from_nanos(1)] {
            assert!(deadline(limit) > tokio::time::Instant::now() + FAR / 2);
            assert!(system_deadline(limit) > std::time::Instant::now() + FAR / 2);
        }
        assert!(deadline(Duration::ZERO) <= tokio::time::Instant::now());
    }

    #[test]
    fn timers_need_a_runtime_that_has_them() {
        let missing = |result| matches!(result, Err(Error::NoRuntime { what: "this" }));
        assert!(missing(check("this")));
        let without = Builder::new_current_thread().build().unwrap();
        assert!(missing(without.block_on(async { check("this") })));
        let with = Builder::new_current_thread().enable_time().build().unwrap();
        with.block_on(async { check("this") }).unwrap();
    }

    #[test]
    fn a_timer_outlives_its_runtime() {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let mut timers = [0, 1].map(|_| Timer::new(runtime.handle(), Duration::MAX).unwrap());
        let mut noop = Context::from_waker(Waker::noop());
        assert_eq!(timers[0].poll(&mut noop), Poll::Pending);
        drop(runtime);
        for timer in &mut timers {
            assert_eq!(timer.poll(&mut noop), Poll::Ready(Err(Gone)));
        }
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        let mut timer = Timer::new(runtime.handle(), Duration::from_millis(1)).unwrap();
        assert_eq!(runtime.block_on(poll_fn(|cx| timer.poll(cx))), Ok(()));
    }
}
