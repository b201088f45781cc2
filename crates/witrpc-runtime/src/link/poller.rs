//! Decides how long to busy-poll before sleeping.
//!
//! Polling receives an answer without a wake-up, which is most of the cost of a small call; but it uses CPU time in vain if the answer takes
//! longer. A wake-up costs about as much as the longest poll, so a poll in vain at most doubles the cost. An answer that was found
//! soon gives polling credit for a few more waits. A late answer, or none, takes some credit away. Without credit there is only a
//! trial poll now and then. Each waiting role has its own poller. It is pure except for the caller's clock.
//!
//! The two sides of a connection must not make each other sleep: a side that sleeps answers late, so its peer polls in vain and
//! sleeps too. Therefore a poll lasts longer than the wake-up of a sleeping peer, and a trial that found something, however late,
//! is followed by another: by then the peer is awake.

use std::time::{Duration, Instant};

use witrpc_core::transport::WaitStrategy;

/// The most that is ever polled adaptively: longer than a wake-up of a sleeping CPU takes, 55 to 65 µs on virtual machines.
const MAX: Duration = Duration::from_micros(100);
/// How long a caller polls without a pause; its poll may consist of any number of slices. Between two slices the peer has to notify us.
pub(crate) const CALLER_SLICE: Duration = MAX;
/// What comes within this was worth the wait: it is less than the wake-up would have cost.
const SOON: Duration = Duration::from_micros(40);
/// Waits in vain, or long ones, before polling is given up.
const CREDIT: u8 = 4;
/// How many waits pass between trials once polling has been given up.
const TRIAL_EVERY: u32 = 32;
/// Looks between two looks at the clock, about half a microsecond: a look at the clock costs as much as several.
const LOOKS_PER_CLOCK: u32 = 16;

/// Whether one waiting role polls.
#[derive(Debug)]
pub(crate) struct Poller {
    strategy: WaitStrategy,
    credit: u8,
    /// Waits since polling was given up.
    skipped: u32,
}

impl Poller {
    pub(crate) const fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, credit: CREDIT, skipped: 0 }
    }

    /// How long to poll now. `worth` says whether the peer runs on another CPU.
    pub(crate) fn budget(&mut self, worth: bool) -> Duration {
        match self.strategy {
            WaitStrategy::Park => Duration::ZERO,
            WaitStrategy::Spin(duration) => duration,
            _ if !worth => Duration::ZERO,
            _ if self.credit > 0 => MAX,
            _ => {
                self.skipped += 1;
                if self.skipped < TRIAL_EVERY {
                    return Duration::ZERO;
                }
                self.skipped = 0;
                MAX
            }
        }
    }

    /// Whether it ever polls while `worth` holds: whether the peer runs on another CPU.
    pub(crate) fn may_poll(&self, worth: impl FnOnce() -> bool) -> bool {
        match self.strategy {
            WaitStrategy::Park => false,
            WaitStrategy::Spin(duration) => !duration.is_zero(),
            _ => worth(),
        }
    }

    /// Whether it polls at the moment, given that it is worth it.
    pub(crate) fn is_willing(&self) -> bool {
        match self.strategy {
            WaitStrategy::Park => false,
            WaitStrategy::Spin(duration) => !duration.is_zero(),
            _ => self.credit > 0,
        }
    }

    /// Polling found something after this long.
    pub(crate) fn hit(&mut self, after: Duration) {
        self.credit = match self.credit {
            _ if after <= SOON => CREDIT,
            0 => 1, // A trial: the next is likely to be sooner.
            credit => credit - 1,
        };
    }

    /// Polling found nothing.
    pub(crate) const fn miss(&mut self) {
        self.credit = self.credit.saturating_sub(1);
    }
}

/// One wait that is polled through, perhaps in several slices.
#[derive(Debug)]
pub(crate) struct Poll {
    budget: Duration,
    /// When the clock was first looked at. What comes before that, comes at once.
    began: Option<Instant>,
    spent: Duration,
}

/// How a slice of polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Ready,
    /// The slice is over.
    Again,
    GaveUp,
}

impl Poll {
    pub(crate) const fn new(budget: Duration) -> Self {
        Self { budget, began: None, spent: Duration::ZERO }
    }

    /// Whether anything is polled at all.
    pub(crate) const fn has_budget(&self) -> bool {
        !self.budget.is_zero()
    }

    /// The time that polling took until it last looked at the clock.
    pub(crate) const fn spent(&self) -> Duration {
        self.spent
    }

    /// Looks until there is something, for a `slice` of what is left of the budget.
    ///
    /// # Errors
    ///
    /// What `look` says.
    pub(crate) fn run<E>(
        &mut self,
        slice: Duration,
        mut look: impl FnMut() -> Result<bool, E>,
    ) -> Result<Polled, E> {
        if !self.has_budget() {
            return Ok(Polled::GaveUp);
        }
        let until = self.spent.saturating_add(slice);
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if look()? {
                    return Ok(Polled::Ready);
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            self.spent = now.saturating_duration_since(*self.began.get_or_insert(now));
            if self.spent >= self.budget {
                return Ok(Polled::GaveUp);
            }
            if self.spent >= until {
                return Ok(Polled::Again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CREDIT;
    use super::MAX;
    use super::Poll;
    use super::Polled;
    use super::Poller;
    use super::SOON;
    use super::TRIAL_EVERY;
    use std::convert::Infallible;
    use std::time::Duration;
    use witrpc_core::transport::WaitStrategy;

    fn given_up() -> Poller {
        let mut poller = Poller::new(WaitStrategy::Adaptive);
        for _ in 0..CREDIT {
            assert_eq!(poller.budget(true), MAX);
            poller.miss();
        }
        poller
    }

    /// Budgets up to and including the next trial.
    fn until_trial(poller: &mut Poller) -> usize {
        (1..=1000).find(|_| !poller.budget(true).is_zero()).unwrap()
    }

    #[test]
    fn polling_that_does_not_pay_off_is_given_up_and_tried_again() {
        let mut poller = given_up();
        for _ in 0..3 {
            assert_eq!(until_trial(&mut poller), TRIAL_EVERY as usize);
            poller.miss();
        }
    }

    #[test]
    fn what_comes_late_every_time_does_not_pay_off_either() {
        let mut poller = Poller::new(WaitStrategy::Adaptive);
        for _ in 0..CREDIT {
            assert_eq!(poller.budget(true), MAX);
            poller.hit(SOON * 2);
        }
        assert_eq!(poller.budget(true), Duration::ZERO);
    }

    #[test]
    fn a_trial_that_finds_something_late_is_followed_by_another() {
        let mut poller = given_up();
        until_trial(&mut poller);
        poller.hit(SOON * 2);
        assert_eq!(poller.budget(true), MAX);
        poller.hit(SOON);
        for _ in 1..CREDIT {
            poller.miss();
            assert_eq!(poller.budget(true), MAX);
        }
    }

    #[test]
    fn nothing_is_polled_when_the_peer_shares_the_cpu() {
        assert_eq!(Poller::new(WaitStrategy::Adaptive).budget(false), Duration::ZERO);
        assert_eq!(Poller::new(WaitStrategy::Park).budget(true), Duration::ZERO);
        let long = Duration::from_millis(3);
        assert_eq!(Poller::new(WaitStrategy::Spin(long)).budget(false), long);
    }

    #[test]
    fn a_poll_ends_with_its_slice_its_budget_or_what_it_looks_for() {
        let never = || Ok::<_, Infallible>(false);
        let mut poll = Poll::new(Duration::from_millis(2));
        assert_eq!(poll.run(Duration::ZERO, never), Ok(Polled::Again));
        assert_eq!(poll.run(Duration::MAX, || Ok::<_, Infallible>(true)), Ok(Polled::Ready));
        assert_eq!(poll.run(Duration::MAX, never), Ok(Polled::GaveUp));
        assert!(poll.spent() >= Duration::from_millis(2));
        assert_eq!(Poll::new(Duration::ZERO).run(Duration::MAX, never), Ok(Polled::GaveUp));
    }
}
