//! What one measurement yields, and what several of the same together say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One measurement. Times in microseconds, as floats: they are divided anyway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) calls: u64,
    pub(crate) calls_per_second: f64,
    /// Payload there and back, each byte counted once.
    pub(crate) gib_per_second: f64,
    /// CPU time of both processes, per call.
    pub(crate) cpu_per_call: f64,
    /// CPU time of both processes, per second.
    pub(crate) cpu_per_second: f64,
    /// How often both processes' threads left a CPU, per second.
    pub(crate) switches_per_second: f64,
    /// By both processes; zero unless they were counted.
    pub(crate) allocations_per_call: f64,
}

impl Sample {
    /// `times` are nanoseconds per call, in any order.
    pub(crate) fn new(times: &mut [u32], payload: usize, used: &Used) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            times.get(place.min(times.len().saturating_sub(1))).map_or(0.0, |t| f64::from(*t) / 1e3)
        };
        let (calls, seconds) = (times.len() as f64, used.wall.as_secs_f64());
        let cpu = used.cpu.as_secs_f64() * 1e6;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            calls: times.len() as u64,
            calls_per_second: calls / seconds,
            gib_per_second: calls * payload as f64 / seconds / f64::from(1 << 30),
            cpu_per_call: if times.is_empty() { 0.0 } else { cpu / calls },
            cpu_per_second: cpu / seconds,
            switches_per_second: used.switches as f64 / seconds,
            allocations_per_call: used.allocations as f64 / calls.max(1.0),
        }
    }
}

/// What was used while a scenario ran.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) switches: u64,
    pub(crate) allocations: u64,
}

/// Several values of one figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let Some((least, most)) = values.first().copied().zip(values.last().copied()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Self { median, least, most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_sorted_times() {
        let mut times: Vec<u32> = (1..=1000).rev().map(|n| n * 1000).collect();
        let second = Duration::from_secs(1);
        let used = Used { wall: second, cpu: second, switches: 5, allocations: 0 };
        let sample = Sample::new(&mut times, 0, &used);
        assert_eq!((sample.p50, sample.p99, sample.p999), (501.0, 991.0, 1000.0));
        assert_eq!((sample.calls_per_second, sample.cpu_per_call), (1000.0, 1000.0));
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Spread { median: 2.5, least: 1.0, most: 4.0 });
    }
}
