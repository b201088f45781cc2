//! Workers that do not answer: when they are taken for hung, and what a host is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How soon calls are looked for, as a part of the time that a worker has.
const LOOKS: u32 = 4;
/// Looking more often would only cost time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// When a host takes its worker for hung, and what it does then. Without it, a host waits for as long as its calls do.
///
/// While calls are under way, the host pings its worker. A worker that does not answer within the time is reported by
/// [`WorkerEvent::Unresponsive`](crate::WorkerEvent::Unresponsive). A handler that takes long is no hang, if it leaves a thread of its runtime to others: mark methods
/// that block as `blocking`.
///
/// ```
/// use std::time::Duration;
/// use witrpc::HangDetection;
///
/// let detection = HangDetection::after(Duration::from_secs(5)).with_kill().except_under_debugger();
/// # drop(detection);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct HangDetection {
    pub(crate) after: Duration,
    pub(crate) kills: bool,
    pub(crate) spares_debugged: bool,
}

impl HangDetection {
    /// Reports a worker that has not answered a ping for this long.
    pub const fn after(time: Duration) -> Self {
        Self { after: time, kills: false, spares_debugged: false }
    }

    /// Also kills it. That is a failure, after which the restart policy applies.
    pub const fn with_kill(mut self) -> Self {
        self.kills = true;
        self
    }

    /// Neither reports nor kills a worker while a debugger is attached to it. Linux only; elsewhere it has no effect.
    pub const fn except_under_debugger(mut self) -> Self {
        self.spares_debugged = true;
        self
    }

    /// The pause between two looks for calls.
    pub(crate) fn pause(&self) -> Duration {
        (self.after / LOOKS).max(SHORTEST_PAUSE)
    }
}

/// A call of the host that its worker has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallUnderWay {
    /// `Service.method`.
    pub method: String,
    /// For how long it has been under way, to within a quarter of the time of [`HangDetection::after`].
    pub running_for: Duration,
}

/// Since when calls have been seen, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<u64, Instant>);

impl Seen {
    /// Notes the calls that are under way now, and returns them, the oldest first.
    pub(crate) fn look(&mut self, calls: Vec<(u64, String)>, now: Instant) -> Vec<CallUnderWay> {
        let before = std::mem::take(&mut self.0);
        let mut under_way = Vec::with_capacity(calls.len());
        for (id, method) in calls {
            let since = before.get(&id).copied().unwrap_or(now);
            self.0.insert(id, since);
            under_way.push(CallUnderWay { method, running_for: now.duration_since(since) });
        }
        under_way.sort_by_key(|call| std::cmp::Reverse(call.running_for));
        under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_remembered_as_long_as_they_are_seen() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        let second = Duration::from_secs(1);
        let calls = |ids: &[u64]| ids.iter().map(|id| (*id, format!("Job.{id}"))).collect();
        let mut look = |ids: &[u64], at: u32| {
            let under_way = seen.look(calls(ids), began + second * at);
            let short = |call: CallUnderWay| (call.method, call.running_for.as_secs());
            under_way.into_iter().map(short).collect::<Vec<_>>()
        };
        let call = |id: u64, seconds: u64| (format!("Job.{id}"), seconds);
        assert_eq!(look(&[7], 0), [call(7, 0)]);
        assert_eq!(look(&[8, 7], 2), [call(7, 2), call(8, 0)]);
        assert_eq!(look(&[8], 3), [call(8, 1)]);
        assert_eq!(look(&[], 4), []);
        assert_eq!(look(&[8], 5), [call(8, 0)]);
    }

    #[test]
    fn pauses_are_a_part_of_the_time_and_never_nothing() {
        assert_eq!(HangDetection::after(Duration::from_secs(8)).pause(), Duration::from_secs(2));
        assert_eq!(HangDetection::after(Duration::ZERO).pause(), SHORTEST_PAUSE);
    }
}
