//! What witrpc is to reach, each as a ratio of what was measured within the same round.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::rounds::{Effort, progress};
use crate::sample::Spread;
use crate::table::{between, short};
use crate::targets::round::{Need, Round, Row};

mod round;
mod rows;

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
