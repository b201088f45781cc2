//! The table: for people, and as JSON.

use serde::Serialize;

use crate::csv_file::Row;
use crate::plan::Line;
use crate::rounds::{Measured, Summary};
use crate::sample::Spread;
use crate::scenario::Scenario;

/// A line as JSON and CSV have it.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) placement: String,
    pub(crate) scenario: String,
    pub(crate) system: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    #[serde(flatten)]
    pub(crate) summary: Option<Summary>,
}

pub(crate) fn record(line: &Line, measured: &Measured) -> Record {
    Record {
        placement: line.placement.to_string(),
        scenario: line.scenario.to_string(),
        system: line.label.clone(),
        note: measured.failure.clone(),
        summary: measured.summary(),
    }
}

/// The columns of names that a CSV file of the table has.
pub(crate) const NAMES: [&str; 4] = ["placement", "scenario", "system", "note"];

pub(crate) fn row(line: &Line, measured: &Measured) -> Row {
    let note = measured.failure.clone().unwrap_or_default();
    let names = [line.placement.to_string(), line.scenario.to_string(), line.label.clone(), note];
    Row {
        names: NAMES.into_iter().map(str::to_owned).zip(names).collect(),
        figures: measured.summary().map(|summary| summary.by_column()).unwrap_or_default(),
    }
}

/// Prints what was compared with each other.
pub(crate) fn print(lines: &[Line], measured: &[Measured]) {
    let Some(first) = lines.first() else { return };
    let scenario = first.scenario;
    println!("\n{}, {scenario}", first.placement);
    match scenario {
        Scenario::Idle => println!("{:<26} {:>12} {:>12}", "", "CPU µs/s", "switches/s"),
        _ => println!(
            "{:<26} {:>9} {:>17} {:>9} {:>9} {:>9} {:>7} {:>9}",
            "", "p50 µs", "(of rounds)", "p99 µs", "p99.9 µs", "calls/s", "GiB/s", "CPU µs"
        ),
    }
    for (line, measured) in lines.iter().zip(measured) {
        match (measured.summary(), &measured.failure) {
            (Some(summary), None) => println!("{:<26} {}", line.label, figures(scenario, &summary)),
            (Some(summary), Some(why)) => {
                println!("{:<26} {}", line.label, figures(scenario, &summary));
                println!("{:<26} and then failed: {why}", "");
            }
            (None, why) => println!("{:<26} – {}", line.label, why.as_deref().unwrap_or_default()),
        }
    }
}

fn figures(scenario: Scenario, of: &Summary) -> String {
    if scenario == Scenario::Idle {
        let (cpu, switches) = (of.cpu_per_second.median, of.switches_per_second.median);
        return format!("{:>12} {:>12}", short(cpu), short(switches));
    }
    let rate = match scenario.payload() {
        0 => "–".to_owned(),
        _ => short(of.gib_per_second.median),
    };
    format!(
        "{:>9} {:>17} {:>9} {:>9} {:>9.0} {:>7} {:>9}",
        short(of.p50.median),
        between(of.p50),
        short(of.p99.median),
        short(of.p999.median),
        of.calls_per_second.median,
        rate,
        short(of.cpu_per_call.median),
    )
}

pub(crate) fn between(of: Spread) -> String {
    format!("{}–{}", short(of.least), short(of.most))
}

/// Three digits that say something.
pub(crate) fn short(figure: f64) -> String {
    match figure {
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f if f >= 0.0995 => format!("{f:.2}"),
        f => format!("{f:.3}"),
    }
}
