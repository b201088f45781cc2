//! How long the calls of a method took: what [`admission`](crate::serving::admission) knows of a method.
//!
//! Statistics in atomics, changed without a lock and with relaxed order: a lost update misjudges a call or two.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// Fractions are multiplied by this.
pub(super) const SCALE: u64 = 1024;
/// The weight of a new value in an average is 1 to this.
const WEIGHT: u64 = 8;
/// The quickest call is that of the last 8 to 16.
const WINDOW: u32 = 8;
/// How long a measurement is used.
const FRESH: u64 = 1_000_000_000;

/// Whether a measurement of `value` is used that is `age` old; both in nanoseconds. If calls take long, there are fewer measurements.
pub(super) const fn is_fresh(age: u64, value: u64) -> bool {
    age <= FRESH.saturating_add(value.saturating_mul(4))
}

/// The new average. The first value is one by itself.
pub(super) const fn averaged(average: u64, value: u64) -> u64 {
    if average == 0 { value } else { average - average / WEIGHT + value / WEIGHT }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time as nanoseconds since the first look.
pub(super) fn stamp(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    nanos(now.saturating_duration_since(*FIRST.get_or_init(|| now)))
}

/// The calls of one method that were handed over, had a deadline, and were answered.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// The time from the beginning of a handler to its answer: the quickest of the current window, and of the one before. 0 if there is
    /// none.
    quickest: AtomicU64,
    quickest_before: AtomicU64,
    /// Calls in the current window.
    count: AtomicU32,
    /// When the last of them ended.
    noted: AtomicU64,
    /// The work of a blocking handler, on average: see [`processors`](crate::serving::processors).
    work: AtomicU64,
    /// The part of its time that a blocking handler computes, on average, times [`SCALE`].
    computing: AtomicU64,
}

impl Runs {
    /// A handler has answered, `ran` after it had begun.
    pub(super) fn note(&self, ran: Duration, now: Instant) {
        let (ran, now) = (nanos(ran).max(1), stamp(now));
        let quickest = self.quickest.load(Relaxed);
        let is_fresh = is_fresh(now.saturating_sub(self.noted.load(Relaxed)), quickest);
        let count = self.count.load(Relaxed);
        if quickest == 0 || !is_fresh || count >= WINDOW {
            self.quickest_before.store(if is_fresh { quickest } else { 0 }, Relaxed);
            self.quickest.store(ran, Relaxed);
            self.count.store(1, Relaxed);
        } else {
            self.quickest.store(ran.min(quickest), Relaxed);
            self.count.store(count + 1, Relaxed);
        }
        self.noted.store(now, Relaxed);
    }

    /// A blocking handler has done so much work, and computed for this part of its time, times [`SCALE`].
    pub(super) fn note_work(&self, work: u64, computing: u64) {
        self.work.store(averaged(self.work.load(Relaxed), work), Relaxed);
        self.computing.store(averaged(self.computing.load(Relaxed), computing), Relaxed);
    }

    /// The time that the quickest of the last calls took; zero if nothing is known.
    pub(super) fn quickest(&self, now: Instant) -> Duration {
        let quickest = self.quickest.load(Relaxed);
        if !is_fresh(stamp(now).saturating_sub(self.noted.load(Relaxed)), quickest) {
            return Duration::ZERO;
        }
        let before = self.quickest_before.load(Relaxed);
        Duration::from_nanos(if before == 0 { quickest } else { quickest.min(before) })
    }

    /// The work of a blocking handler, in nanoseconds.
    pub(super) fn work(&self) -> u64 {
        self.work.load(Relaxed)
    }

    /// The part of its time that a blocking handler computes, times [`SCALE`].
    pub(super) fn computing(&self) -> u64 {
        self.computing.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Runs, averaged};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_quickest_call_is_one_of_the_last() {
        let (runs, now) = (Runs::default(), Instant::now());
        assert_eq!(runs.quickest(now), Duration::ZERO);
        runs.note(ms(1), now);
        for n in 0..8 {
            runs.note(ms(20 + n), now);
            assert_eq!(runs.quickest(now), ms(1), "{n}");
        }
        (0..16).for_each(|n| runs.note(ms(30 + n), now));
        assert_eq!(runs.quickest(now), ms(37), "of the last sixteen at most");
    }

    #[test]
    fn a_call_of_long_ago_is_forgotten() {
        let (runs, now) = (Runs::default(), Instant::now());
        runs.note(ms(5), now);
        assert_eq!(runs.quickest(now + ms(1000)), ms(5));
        assert_eq!(runs.quickest(now + ms(1100)), Duration::ZERO);
        runs.note(ms(7), now + ms(1100));
        assert_eq!(runs.quickest(now + ms(1100)), ms(7));
        // If calls take long, they come seldom.
        runs.note(ms(3000), now + ms(5000));
        assert_eq!(runs.quickest(now + ms(15_000)), ms(3000));
    }

    #[test]
    fn an_average_follows_its_values() {
        assert_eq!(averaged(0, 800), 800, "the first");
        assert_eq!(averaged(800, 1600), 900);
        let last = (0..100).fold(1, |average, _| averaged(average, 1_000_000));
        assert!((999_000..=1_000_000).contains(&last), "{last}");
    }
}
