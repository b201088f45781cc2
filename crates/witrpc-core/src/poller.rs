//! How long to poll the ring before sleeping.
//!
//! Polling catches an answer without a wake-up, which is most of a small call's cost; and it burns CPU when the answer
//! takes longer. So the budget follows what has been seen: a few times the usual wait while polling pays off, halved on
//! every miss down to nothing, and tried again now and then. One per waiting role; pure but for the caller's clock.

use std::time::Duration;

use crate::options::WaitStrategy;

/// The most that is ever polled adaptively: about what a wake-up of a sleeping CPU costs.
const MAX: Duration = Duration::from_micros(50);
/// The budget of a fresh poller, and of a trial after polling has been given up.
const TRIAL: Duration = Duration::from_micros(20);
/// The least that is worth polling for.
const MIN: Duration = Duration::from_micros(2);
/// How many waits pass between trials once polling has been given up.
const TRIAL_EVERY: u32 = 32;

/// The budget of one waiting role.
#[derive(Debug)]
pub(crate) struct Poller {
    strategy: WaitStrategy,
    budget: Duration,
    /// Waits since polling was given up.
    skipped: u32,
}

impl Poller {
    pub(crate) const fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, budget: TRIAL, skipped: 0 }
    }

    /// How long to poll now. `worth` says whether the peer runs on another CPU.
    pub(crate) fn budget(&mut self, worth: bool) -> Duration {
        match self.strategy {
            WaitStrategy::Park => Duration::ZERO,
            WaitStrategy::Spin(duration) => duration,
            WaitStrategy::Adaptive if !worth => Duration::ZERO,
            WaitStrategy::Adaptive if self.budget >= MIN => self.budget,
            WaitStrategy::Adaptive => {
                self.skipped += 1;
                if self.skipped < TRIAL_EVERY {
                    return Duration::ZERO;
                }
                self.skipped = 0;
                TRIAL
            }
        }
    }

    /// Polling found something after this long.
    pub(crate) fn hit(&mut self, after: Duration) {
        // Four times the usual wait covers its spread; the old budget fades, so one long wait does not stay for ever.
        let wanted = (after * 4).clamp(MIN * 4, MAX);
        self.budget = wanted.max(self.budget - self.budget / 8).min(MAX);
    }

    /// Polling found nothing.
    pub(crate) fn miss(&mut self) {
        self.budget /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX, Poller, TRIAL, TRIAL_EVERY};
    use crate::options::WaitStrategy;
    use std::time::Duration;

    #[test]
    fn polling_that_does_not_pay_off_is_given_up_and_tried_again() {
        let mut poller = Poller::new(WaitStrategy::Adaptive);
        for _ in 0..5 {
            poller.budget(true);
            poller.miss();
        }
        let budgets: Vec<_> = (0..TRIAL_EVERY).map(|_| poller.budget(true)).collect();
        assert_eq!(budgets.iter().filter(|b| !b.is_zero()).collect::<Vec<_>>(), [&TRIAL]);
    }

    #[test]
    fn polling_that_pays_off_goes_on_within_bounds() {
        let mut poller = Poller::new(WaitStrategy::Adaptive);
        for after in [1, 1000, 49_000, 500_000] {
            poller.hit(Duration::from_nanos(after));
            let budget = poller.budget(true);
            assert!(budget >= Duration::from_micros(2) && budget <= MAX);
        }
    }

    #[test]
    fn nothing_is_polled_when_the_peer_shares_the_cpu() {
        assert_eq!(Poller::new(WaitStrategy::Adaptive).budget(false), Duration::ZERO);
        assert_eq!(Poller::new(WaitStrategy::Park).budget(true), Duration::ZERO);
        let long = Duration::from_millis(3);
        assert_eq!(Poller::new(WaitStrategy::Spin(long)).budget(false), long);
    }
}
