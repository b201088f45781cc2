//! What witrpc is to reach, each as a ratio of what was measured within the same round.

use std::collections::HashMap;

use anyhow::{Result, anyhow, ensure};
use serde::Serialize;

use crate::cpu::Placement;
use crate::plan::Line;
use crate::probe::aead::Aead;
use crate::probe::crowd::{Crowd, Found};
use crate::rounds::{self, Effort, progress};
use crate::sample::{Sample, Spread};
use crate::scenario::Scenario;
use crate::system::Kind;
use crate::table::{between, short};

mod rows;

/// What a ratio must be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Need {
    AtMost(f64),
    AtLeast(f64),
}

impl Need {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }
}

/// One target.
struct Row {
    name: String,
    /// What is divided by what.
    what: String,
    need: Need,
    ratio: Box<dyn Fn(&mut Round) -> Result<f64>>,
}

impl Row {
    fn at_most(
        most: f64,
        name: impl Into<String>,
        what: impl Into<String>,
        ratio: impl Fn(&mut Round) -> Result<f64> + 'static,
    ) -> Self {
        let (name, what) = (name.into(), what.into());
        Self { name, what, need: Need::AtMost(most), ratio: Box::new(ratio) }
    }

    fn at_least(
        least: f64,
        name: impl Into<String>,
        what: impl Into<String>,
        ratio: impl Fn(&mut Round) -> Result<f64> + 'static,
    ) -> Self {
        Self { need: Need::AtLeast(least), ..Self::at_most(0.0, name, what, ratio) }
    }
}

/// What has been measured in a round: each thing once, when a row first asks for it.
struct Round {
    effort: Effort,
    samples: HashMap<String, Sample>,
    pairs: HashMap<usize, f64>,
    crowd: Option<Vec<Found>>,
    /// What failed in any round; it is not tried again, as that costs the time limit.
    failures: HashMap<String, String>,
}

impl Round {
    fn new(effort: Effort) -> Self {
        let (samples, pairs, crowd) = (HashMap::new(), HashMap::new(), None);
        Self { effort, samples, pairs, crowd, failures: HashMap::new() }
    }

    fn next(&mut self) {
        let failures = std::mem::take(&mut self.failures);
        *self = Self { failures, ..Self::new(self.effort) };
    }

    /// What the system of this label yields.
    fn sample(&mut self, placement: Placement, scenario: Scenario, label: &str) -> Result<Sample> {
        let line = Line::all(placement, scenario).find(|line| line.label == label);
        self.line(&line.ok_or_else(|| anyhow!("there is no system {label:?}"))?)
    }

    fn line(&mut self, line: &Line) -> Result<Sample> {
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
    fn rivals(
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
    fn pair(&mut self, bytes: usize) -> Result<f64> {
        if let Some(pair) = self.pairs.get(&bytes) {
            return Ok(*pair);
        }
        progress("seal and open");
        let millis = u64::try_from(self.effort.duration.as_millis())?;
        let pair = Aead { bytes, header: rows::FRAME_HEADER, millis }.run()?;
        self.pairs.insert(bytes, pair);
        Ok(pair)
    }

    /// With one client, and with five hundred.
    fn crowd(&mut self) -> Result<[Found; 2]> {
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

/// A target and what became of it.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    what: String,
    need: Need,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Spread>,
    reached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Measures the targets of these names, all if there are none, and prints them.
pub(crate) fn run(only: &[String], effort: Effort, json: bool) -> Result<()> {
    let mut rows = rows::all();
    rows.retain(|row| {
        only.is_empty() || only.iter().any(|it| crate::plan::part_matches(it, &row.name))
    });
    ensure!(!rows.is_empty(), "no target is called {only:?}; without names all are measured");
    let mut ratios: Vec<(Vec<f64>, Option<String>)> = vec![Default::default(); rows.len()];
    let mut round = Round::new(effort);
    for _ in 0..effort.rounds {
        round.next();
        for (row, (ratios, failure)) in rows.iter().zip(&mut ratios) {
            match (row.ratio)(&mut round) {
                Ok(ratio) => ratios.push(ratio),
                Err(error) => *failure = Some(format!("{error:#}")),
            }
        }
    }
    progress("");
    let outcomes: Vec<_> = rows
        .into_iter()
        .zip(ratios)
        .map(|(row, (ratios, note))| outcome(row, &ratios, note))
        .collect();
    if json {
        for outcome in &outcomes {
            println!("{}", serde_json::to_string(outcome)?);
        }
        return Ok(());
    }
    print(&outcomes);
    Ok(())
}

fn outcome(row: Row, ratios: &[f64], note: Option<String>) -> Outcome {
    let measured = (!ratios.is_empty()).then(|| Spread::of(ratios.iter().copied()));
    let reached = measured.is_some_and(|spread| row.need.is_met(spread.median));
    Outcome { name: row.name, what: row.what, need: row.need, measured, reached, note }
}

fn print(outcomes: &[Outcome]) {
    println!("{:<34} {:>8} {:>9} {:>16}", "target", "needed", "measured", "(of rounds)");
    for outcome in outcomes {
        let need = match outcome.need {
            Need::AtMost(most) => format!("≤ {most}"),
            Need::AtLeast(least) => format!("≥ {least}"),
        };
        let (median, range) = outcome.measured.map_or_else(
            || ("–".to_owned(), String::new()),
            |spread| (short(spread.median), between(spread)),
        );
        let reached = if outcome.reached { "yes" } else { "NO" };
        println!(
            "{:<34} {need:>8} {median:>9} {range:>16}  {reached:<3}  {}",
            outcome.name, outcome.what
        );
        if let Some(note) = &outcome.note {
            println!("{:<34} {note}", "");
        }
    }
}
