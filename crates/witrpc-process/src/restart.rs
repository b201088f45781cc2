//! [`RestartPolicy`]: whether a worker that has ended is replaced, and when. Reads no clock: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Whether a worker that has ended is replaced by another process, how soon, and how often.
///
/// The delay doubles with each start within the time of [`with_limit`](Self::with_limit), so it is short again for a worker that has run
/// for long enough.
///
/// ```
/// use std::time::Duration;
/// use witrpc::RestartPolicy;
///
/// let policy = RestartPolicy::on_failure()
///     .with_initial_delay(Duration::from_millis(50))
///     .with_limit(3, Duration::from_secs(10));
/// # drop(policy);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct RestartPolicy {
    when: When,
    initial_delay: Duration,
    max_delay: Duration,
    /// The number of starts that are allowed within this time.
    limit: u32,
    within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    OnFailure,
    Always,
}

impl Default for RestartPolicy {
    /// [`never`](Self::never).
    fn default() -> Self {
        Self::never()
    }
}

impl RestartPolicy {
    const fn new(when: When) -> Self {
        Self {
            when,
            initial_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            limit: 5,
            within: Duration::from_secs(60),
        }
    }

    /// A worker that ends is not replaced. The default.
    pub const fn never() -> Self {
        Self::new(When::Never)
    }

    /// A worker is replaced if it fails: it ends by a signal or with another status than 0, its connection breaks, or it does not become ready.
    pub const fn on_failure() -> Self {
        Self::new(When::OnFailure)
    }

    /// A worker is replaced however it ends, unless its host has ended it.
    pub const fn always() -> Self {
        Self::new(When::Always)
    }

    /// Waits this long before the first restart. Default 100 ms.
    pub const fn with_initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// Waits no longer than this before a restart. Default 10 s.
    pub const fn with_max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = delay;
        self
    }

    /// Gives up after `restarts` restarts within this time. Default 5 within 60 s. 0 restarts means no limit; then the time says only for
    /// how long a restart counts towards the next delay.
    pub const fn with_limit(mut self, restarts: u32, within: Duration) -> Self {
        self.limit = restarts;
        self.within = within;
        self
    }

    /// Whether a worker may be replaced at all.
    pub(crate) fn may_restart(&self) -> bool {
        self.when != When::Never
    }
}

/// What is next for a worker that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is not replaced.
    End,
    /// It would be replaced, but was replaced too often.
    GiveUp,
    /// It is replaced after this delay; this is the number of restarts in a row.
    Restart { delay: Duration, attempt: u32 },
}

/// The restarts so far.
#[derive(Debug)]
pub(crate) struct History {
    policy: RestartPolicy,
    /// When the restarts that still count were decided, oldest first.
    recent: VecDeque<Instant>,
}

/// How many restarts are remembered where their number has no limit: by then the delay does not grow any more.
const REMEMBERED: usize = 64;

impl History {
    pub(crate) const fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: VecDeque::new() }
    }

    /// Decides for a worker that has ended just now.
    pub(crate) fn next(&mut self, failed: bool, now: Instant) -> Next {
        let policy = &self.policy;
        match policy.when {
            When::Never => return Next::End,
            When::OnFailure if !failed => return Next::End,
            When::OnFailure | When::Always => {}
        }
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > policy.within;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
        let before = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if policy.limit > 0 && before >= policy.limit {
            return Next::GiveUp;
        }
        if self.recent.len() == REMEMBERED.max(policy.limit as usize) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let factor = 2_u32.checked_pow(before).unwrap_or(u32::MAX);
        let delay = policy.initial_delay.saturating_mul(factor).min(policy.max_delay);
        Next::Restart { delay, attempt: before.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restart(delay: Duration, attempt: u32) -> Next {
        Next::Restart { delay, attempt }
    }

    #[test]
    fn who_is_replaced() {
        let now = Instant::now();
        for (policy, after_success, after_failure) in [
            (RestartPolicy::never(), false, false),
            (RestartPolicy::on_failure(), false, true),
            (RestartPolicy::always(), true, true),
        ] {
            for (failed, replaced) in [(false, after_success), (true, after_failure)] {
                let next = History::new(policy.clone()).next(failed, now);
                assert_eq!(next != Next::End, replaced, "{policy:?}, failed: {failed}");
            }
        }
        assert_eq!(RestartPolicy::default(), RestartPolicy::never());
    }

    #[test]
    fn delays_grow_to_their_maximum_until_the_limit_and_start_again_with_time() {
        let policy = RestartPolicy::always()
            .with_initial_delay(SECOND)
            .with_max_delay(5 * SECOND)
            .with_limit(4, 100 * SECOND);
        let (mut history, mut now) = (History::new(policy), Instant::now());
        for (attempt, delay) in [(1, 1), (2, 2), (3, 4), (4, 5)] {
            assert_eq!(history.next(true, now), restart(delay * SECOND, attempt));
            now += SECOND;
        }
        assert_eq!(history.next(true, now), Next::GiveUp);
        assert_eq!(history.next(true, now), Next::GiveUp);
        // The first one counts no longer.
        now += 97 * SECOND;
        assert_eq!(history.next(true, now), restart(5 * SECOND, 4));
        now += 1000 * SECOND;
        assert_eq!(history.next(true, now), restart(SECOND, 1));
    }

    #[test]
    fn without_a_limit_it_goes_on_and_remembers_little() {
        let policy = RestartPolicy::on_failure().with_limit(0, Duration::MAX);
        let mut history = History::new(policy);
        let now = Instant::now();
        for _ in 0..1000 {
            assert!(matches!(history.next(true, now), Next::Restart { .. }));
        }
        assert_eq!(history.recent.len(), REMEMBERED);
        assert_eq!(history.next(true, now), restart(Duration::from_secs(10), 65));
    }
}
