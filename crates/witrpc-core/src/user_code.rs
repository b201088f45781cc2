//! Runs code of the user's that may panic: handlers, streams, callbacks, validators, and the destructors of all of them.
//!
//! A panic becomes its text. What the panic was raised with may itself panic when it is dropped, so it is dropped here too.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::text::Escaped;

/// Runs the user's code; a panic becomes its message. The consistency of the user's own state is up to the user.
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        dispose_of_payload(payload);
        text.unwrap_or_else(|| "a panic without a message".to_owned())
    })
}

fn dispose_of_payload(payload: Box<dyn Any + Send>) {
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Dropping the payload panicked, and might again: the rest is leaked.
        std::mem::forget(another);
    }
}

/// Drops a value of the user's; a panic is logged, with `what` it is.
pub fn dispose<T>(what: &str, value: T) {
    if let Err(message) = catch(|| drop(value)) {
        tracing::error!(what, panic = %Escaped(message), "user code panicked while it was dropped");
    }
}

/// Awaits a future of the user's, and drops it.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = Guarded::new("a future", Box::pin(future));
    std::future::poll_fn(|cx| future.poll(cx)).await
}

/// A future of the user's, which is dropped as soon as it has completed, and polled no more.
pub struct Guarded<F: ?Sized> {
    what: &'static str,
    future: Option<Pin<Box<F>>>,
}

impl<F: ?Sized> fmt::Debug for Guarded<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("what", &self.what).finish_non_exhaustive()
    }
}

impl<F: Future + ?Sized> Guarded<F> {
    #[inline]
    pub const fn new(what: &'static str, future: Pin<Box<F>>) -> Self {
        Self { what, future: Some(future) }
    }

    /// What it completes with, or the text of its panic.
    #[inline]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<F::Output, String>> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let polled = match catch(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(message) => Err(message),
        };
        dispose(self.what, self.future.take());
        Poll::Ready(polled)
    }
}

impl<F: ?Sized> Drop for Guarded<F> {
    #[inline]
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            dispose(self.what, future);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::catch;
    use super::caught;

    struct Again;

    impl Drop for Again {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any(Self);
            }
        }
    }

    #[test]
    fn a_payload_that_panics_for_ever_is_a_panic_like_any_other() {
        let caught = catch(|| std::panic::panic_any(Again));
        assert_eq!(caught, Err("a panic without a message".to_owned()));
        assert_eq!(catch(|| panic!("{}", 1)), Err::<(), _>("1".to_owned()));
    }

    #[tokio::test]
    async fn a_future_may_panic_as_it_is_polled_and_as_it_is_dropped() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        let polled = caught(async {
            tokio::task::yield_now().await;
            panic!("late")
        });
        assert_eq!(polled.await, Err::<(), _>("late".to_owned()));
        let held = Again;
        let pending = caught(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let mut pending = Box::pin(pending);
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(pending.as_mut().poll(cx)));
        assert!(first.await.is_pending());
        drop(pending);
    }
}
