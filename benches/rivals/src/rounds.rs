//! Measures lines in turn, several times: what the machine does meanwhile falls on all alike.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::job::Job;
use crate::plan::Line;
use crate::sample::{Sample, Spread};
use crate::scenario::Scenario;

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
}

impl Effort {
    /// Few events need longer: an idle connection, large payloads, a call per millisecond.
    fn duration(self, scenario: Scenario) -> Duration {
        match scenario {
            Scenario::Idle => self.duration * 6,
            Scenario::Paced => self.duration * 3,
            Scenario::Echo(bytes) if bytes > 1 << 20 => self.duration * 2,
            _ => self.duration,
        }
    }
}

/// What a line yielded: its samples, or why there are none.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) samples: Vec<Sample>,
    pub(crate) failure: Option<String>,
}

/// The columns of a [`Summary`].
pub(crate) const FIGURES: [&str; 8] = [
    "p50_us",
    "p99_us",
    "p999_us",
    "calls_per_second",
    "gib_per_second",
    "cpu_per_call_us",
    "cpu_per_second_us",
    "switches_per_second",
];

impl Summary {
    /// In the order of [`FIGURES`].
    fn figures(&self) -> [Spread; 8] {
        [
            self.p50,
            self.p99,
            self.p999,
            self.calls_per_second,
            self.gib_per_second,
            self.cpu_per_call,
            self.cpu_per_second,
            self.switches_per_second,
        ]
    }

    pub(crate) fn by_column(&self) -> std::collections::HashMap<String, Spread> {
        FIGURES.into_iter().map(str::to_owned).zip(self.figures()).collect()
    }
}

impl Measured {
    pub(crate) fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(figure))
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        (!self.samples.is_empty()).then(|| Summary {
            p50: self.spread(|s| s.p50),
            p99: self.spread(|s| s.p99),
            p999: self.spread(|s| s.p999),
            calls_per_second: self.spread(|s| s.calls_per_second),
            gib_per_second: self.spread(|s| s.gib_per_second),
            cpu_per_call: self.spread(|s| s.cpu_per_call),
            cpu_per_second: self.spread(|s| s.cpu_per_second),
            switches_per_second: self.spread(|s| s.switches_per_second),
        })
    }
}

/// Each figure over all rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) p50: Spread,
    pub(crate) p99: Spread,
    pub(crate) p999: Spread,
    pub(crate) calls_per_second: Spread,
    pub(crate) gib_per_second: Spread,
    pub(crate) cpu_per_call: Spread,
    pub(crate) cpu_per_second: Spread,
    pub(crate) switches_per_second: Spread,
}

/// Measures these lines, in turn, `effort.rounds` times.
pub(crate) fn measure(lines: &[Line], effort: Effort) -> Vec<Measured> {
    let mut measured: Vec<_> = lines
        .iter()
        .map(|line| Measured { samples: Vec::new(), failure: line.excuse.map(str::to_owned) })
        .collect();
    for round in 0..effort.rounds {
        for (line, measured) in lines.iter().zip(&mut measured) {
            if measured.failure.is_some() {
                continue;
            }
            progress(&format!("round {} of {}: {}", round + 1, effort.rounds, line.id()));
            match sample(line, effort) {
                Ok(sample) => measured.samples.push(sample),
                // What failed once is not tried again: it costs the time limit.
                Err(error) => measured.failure = Some(format!("{error:#}")),
            }
        }
    }
    progress("");
    measured
}

/// Tells whoever waits at a terminal.
pub(crate) fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

pub(crate) fn sample(line: &Line, effort: Effort) -> Result<Sample> {
    let duration = effort.duration(line.scenario);
    Job::new(line.system, line.flavour, line.placement, line.scenario).run(duration)
}
