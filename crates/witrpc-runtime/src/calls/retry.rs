//! The retry policy of a client: which failed calls it retries, how often, and after which pauses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};
use witrpc_core::Error;

use crate::link::timers::FAR;

/// How a client retries calls that failed; see `with_retry_policy` on the builder.
///
/// A call is retried if both conditions hold:
///
/// * it was certainly not executed ([`Error::is_surely_not_executed`]), or its method is marked `#[witrpc(idempotent)]`;
/// * its error is one that [`with_errors`](Self::with_errors) chooses.
///
/// An error that the service returned is never retried. Neither is a call whose deadline has passed, as the deadline covers all attempts,
/// nor one whose result cannot be deserialized, nor a call with streams.
#[derive(Clone)]
#[must_use]
pub struct RetryPolicy {
    attempts: u32,
    delay: Delay,
    max_delay: Duration,
    jitter: bool,
    errors: Chosen,
}

type Chosen = Arc<dyn Fn(&Error) -> bool + Send + Sync>;
/// How long to wait before each further attempt.
pub(crate) type Delays = Box<dyn Iterator<Item = Duration> + Send>;

#[derive(Clone, Copy, Debug)]
enum Delay {
    Fixed(Duration),
    Linear(Duration),
    Exponential(Duration, f32),
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("attempts", &self.attempts)
            .field("delay", &self.delay)
            .field("max_delay", &self.max_delay)
            .field("jitter", &self.jitter)
            .finish_non_exhaustive()
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            delay: Delay::Exponential(Duration::from_millis(50), 2.0),
            max_delay: Duration::from_secs(5),
            jitter: true,
            errors: Arc::new(|error| {
                matches!(error, Error::NotConnected { .. } | Error::Closed { .. })
            }),
        }
    }
}

impl RetryPolicy {
    /// Retries a call at most this many times. 0 means no limit except the call's deadline. Default 3.
    pub const fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Waits `delay` before each attempt.
    pub const fn with_fixed_delay(mut self, delay: Duration) -> Self {
        self.delay = Delay::Fixed(delay);
        self
    }

    /// Waits `step` before the first attempt, and `step` longer before each further one.
    pub const fn with_linear_delay(mut self, step: Duration) -> Self {
        self.delay = Delay::Linear(step);
        self
    }

    /// Waits `initial` before the first attempt, and `factor` times as long before each further one. A factor below 1 counts as 1.
    /// This is the default, with 50 ms and a factor of 2.
    pub const fn with_exponential_delay(mut self, initial: Duration, factor: f32) -> Self {
        self.delay = Delay::Exponential(initial, factor.max(1.0));
        self
    }

    /// Waits no longer than this before an attempt. Default 5 s.
    pub const fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Adds a random part to every delay, at most as long as the delay itself, so that many clients do not retry at the same time.
    /// Default `true`.
    pub const fn with_jitter(mut self, jitter: bool) -> Self {
        self.jitter = jitter;
        self
    }

    /// Chooses the errors that cause a retry. Default: [`Error::NotConnected`] and [`Error::Closed`]. Not [`Error::Overloaded`], as more calls
    /// help no server that has too many.
    pub fn with_errors(mut self, errors: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.errors = Arc::new(errors);
        self
    }

    /// # Errors
    ///
    /// [`Error::Config`] for a policy that would call without a pause for ever.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let first = self.delays().next();
        if self.attempts == 0 && first.is_none_or(|delay| delay.is_zero()) {
            let advice = "an unlimited number of attempts needs a delay; give a delay, or limit the attempts";
            return Err(Error::config("with_retry_policy delay", "0s", advice));
        }
        Ok(())
    }

    /// Whether a call that failed with this error is retried.
    pub(crate) fn applies(&self, error: &Error, idempotent: bool) -> bool {
        let allowed = match error {
            // An error that the service returned; or the deadline, which covers all attempts.
            Error::Fault { .. } | Error::TimedOut { .. } | Error::Cancelled => false,
            // The next one would be no other.
            Error::Deserialize { .. } => false,
            error => idempotent || error.is_surely_not_executed(),
        };
        allowed && (self.errors)(error)
    }

    pub(crate) fn delays(&self) -> Delays {
        let (jitter, max) = (self.jitter, self.max_delay.min(FAR));
        let delays: Delays = match self.delay {
            Delay::Fixed(delay) => Box::new(std::iter::repeat(delay)),
            Delay::Linear(step) => Box::new((1..).map(move |n| step.saturating_mul(n))),
            Delay::Exponential(initial, factor) => {
                let builder =
                    ExponentialBuilder::new().with_min_delay(initial.min(max)).with_factor(factor);
                Box::new(builder.with_max_delay(max).without_max_times().build())
            }
        };
        let delays = delays.map(move |delay| {
            let once = ConstantBuilder::new().with_delay(delay.min(max));
            let once = if jitter { once.with_jitter() } else { once };
            once.build().next().unwrap_or(max)
        });
        match usize::try_from(self.attempts) {
            Ok(attempts) if attempts > 0 => Box::new(delays.take(attempts)),
            _ => Box::new(delays),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use witrpc_core::CloseReason;

    fn delays(set: impl FnOnce(RetryPolicy) -> RetryPolicy) -> Vec<u64> {
        let policy = RetryPolicy::default().with_jitter(false).with_attempts(5);
        let delays = set(policy.with_max_delay(Duration::from_millis(35))).delays();
        // The library computes in floating point.
        delays.map(|delay| u64::try_from((delay.as_micros() + 500) / 1000).unwrap()).collect()
    }

    #[test]
    fn delays_are_as_they_were_asked_for() {
        let ms = Duration::from_millis;
        assert_eq!(delays(|policy| policy.with_fixed_delay(ms(7))), [7; 5]);
        assert_eq!(delays(|policy| policy.with_linear_delay(ms(10))), [10, 20, 30, 35, 35]);
        let exponential =
            |factor| move |policy: RetryPolicy| policy.with_exponential_delay(ms(5), factor);
        assert_eq!(delays(exponential(2.0)), [5, 10, 20, 35, 35]);
        assert_eq!(delays(exponential(0.5)), [5; 5], "never less and less");
        assert_eq!(delays(|policy| policy.with_fixed_delay(ms(9)).with_attempts(1)), [9]);
        let endless = RetryPolicy::default().with_attempts(0).delays();
        assert_eq!(endless.take(1000).count(), 1000);
        let scattered = RetryPolicy::default().with_fixed_delay(ms(10)).with_attempts(100).delays();
        let scattered: Vec<_> = scattered.collect();
        assert!(scattered.iter().all(|delay| (ms(10)..=ms(20)).contains(delay)), "{scattered:?}");
        assert!(scattered.iter().any(|delay| *delay != scattered[0]));
    }

    #[test]
    fn only_what_cannot_do_harm_is_repeated() {
        let closed =
            |maybe_executed| Error::Closed { reason: CloseReason::PeerGone, maybe_executed };
        let policy = RetryPolicy::default();
        assert!(policy.applies(&closed(false), false));
        assert!(!policy.applies(&closed(true), false));
        assert!(policy.applies(&closed(true), true));
        let all = RetryPolicy::default().with_errors(|_| true);
        assert!(!all.applies(&closed(true), false), "whatever is chosen");
        assert!(!all.applies(&Error::fault("no"), true));
        assert!(!all.applies(&Error::TimedOut { after: Duration::ZERO }, true));
        assert!(
            all.applies(&Error::Panicked { method: String::new(), message: String::new() }, true)
        );
        let (left, wait) = (Duration::ZERO, Duration::ZERO);
        let overloaded = Error::Overloaded { method: String::new(), left, wait };
        assert!(!policy.applies(&overloaded, true), "only if it is chosen");
        assert!(all.applies(&overloaded, false));
        let none = RetryPolicy::default().with_errors(|_| false);
        assert!(!none.applies(&closed(false), true));
    }

    #[test]
    fn a_policy_that_would_never_pause_is_refused() {
        let busy = RetryPolicy::default().with_attempts(0).with_fixed_delay(Duration::ZERO);
        assert!(
            busy.validate().unwrap_err().to_string().starts_with("with_retry_policy delay = 0s")
        );
        busy.with_attempts(2).validate().unwrap();
        RetryPolicy::default().with_attempts(0).validate().unwrap();
    }
}
