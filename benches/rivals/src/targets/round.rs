//! A target, and what one round of measuring has found for all of them.

use std::collections::HashMap;

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;

use crate::cpu::Placement;
use crate::plan::Line;
use crate::probe::aead::Aead;
use crate::probe::crowd::{Crowd, Found};
use crate::rounds::{self, Effort, progress};
use crate::sample::Sample;
use crate::scenario::Scenario;
use crate::system::Kind;

/// A frame's header, which is authenticated beside what is sealed.
pub(super) const FRAME_HEADER: usize = 24;

/// What a ratio must be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Need {
    AtMost(f64),
    AtLeast(f64),
}

impl Need {
    pub(super) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

/// One target.
pub(super) struct Row {
    pub(super) name: String,
    /// What is divided by what.
    pub(super) what: String,
    pub(super) need: Need,
    pub(super) ratio: Box<dyn Fn(&mut Round) -> Result<f64>>,
}

impl Row {
    pub(super) fn at_most(
        most: f64,
        name: impl Into<String>,
        what: impl Into<String>,
        ratio: impl Fn(&mut Round) -> Result<f64> + 'static,
    ) -> Self {
        let (name, what) = (name.into(), what.into());
        Self { name, what, need: Need::AtMost(most), ratio: Box::new(ratio) }
    }

    pub(super) fn at_least(
        least: f64,
        name: impl Into<String>,
        what: impl Into<String>,
        ratio: impl Fn(&mut Round) -> Result<f64> + 'static,
    ) -> Self {
        Self { need: Need::AtLeast(least), ..Self::at_most(0.0, name, what, ratio) }
    }
}

/// What has been measured in a round: each thing once, when a row first asks for it.
pub(super) struct Round {
    effort: Effort,
    samples: HashMap<String, Sample>,
    pairs: HashMap<usize, f64>,
    crowd: Option<Vec<Found>>,
    /// What failed in any round; it is not tried again, as that costs the time limit.
    failures: HashMap<String, String>,
}

impl Round {
    pub(super) fn new(effort: Effort) -> Self {
        let (samples, pairs, crowd) = (HashMap::new(), HashMap::new(), None);
        Self { effort, samples, pairs, crowd, failures: HashMap::new() }
    }

    pub(super) fn next(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        *self = Self { failures, ..Self::new(self.effort) };
    }

    /// What the system of this label yields.
    pub(super) fn sample(
        &mut self,
        placement: Placement,
        scenario: Scenario,
        label: &str,
    ) -> Result<Sample> {
        let line = Line::all(placement, scenario).find(|line| line.label == label);
        self.line(&line.ok_or_else(|| anyhow!("there is no system {label:?}"))?)
    }

    pub(super) fn line(&mut self, line: &Line) -> Result<Sample> {
        let id = line.id();
        if let Some(sample) = self.samples.get(&id) {
            return Ok(sample.clone());
        }
        if let Some(why) = line.excuse.map(str::to_owned).or(self.failures.get(&id).cloned()) {
            return Err(anyhow!("{id}: {why}"));
        }
        progress(&id);
        match rounds::sample(line, self.effort) {
            Ok(sample) => Ok(self.samples.entry(id).or_insert(sample).clone()),
            Err(error) => {
                let why = format!("{error:#}");
                self.failures.insert(id.clone(), why.clone());
                Err(anyhow!("{id}: {why}"))
            }
        }
    }

    /// The figures of all rivals that have them.
    pub(super) fn rivals(
        &mut self,
        placement: Placement,
        scenario: Scenario,
        figure: impl Fn(&Sample) -> f64,
    ) -> Result<Vec<f64>> {
        let lines: Vec<_> =
            Line::all(placement, scenario).filter(|line| line.kind == Kind::Rival).collect();
        let figures = lines.iter().filter_map(|line| self.line(line).ok().map(|s| figure(&s)));
        let figures: Vec<_> = figures.collect();
        ensure!(!figures.is_empty(), "no rival could be measured");
        Ok(figures)
    }

    /// Microseconds to seal and open so many bytes.
    pub(super) fn pair(&mut self, bytes: usize) -> Result<f64> {
        if let Some(pair) = self.pairs.get(&bytes) {
            return Ok(*pair);
        }
        progress("seal and open");
        let millis = u64::try_from(self.effort.duration.as_millis())?;
        let pair = Aead { bytes, header: FRAME_HEADER, millis }.run()?;
        self.pairs.insert(bytes, pair);
        Ok(pair)
    }

    /// With one client, and with five hundred.
    pub(super) fn crowd(&mut self) -> Result<[Found; 2]> {
        progress("500 clients");
        let found = match &self.crowd {
            Some(found) => found,
            None => {
                let slices = 40;
                let crowd = Crowd { counts: vec![1, 500], slices, placement: Placement::TwoCores };
                self.crowd.insert(crowd.run()?)
            }
        };
        <[Found; 2]>::try_from(found.as_slice()).map_err(|_| anyhow!("another number of figures"))
    }
}
