//! The plots, as SVG, of figures that lie in a CSV file.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result};

use crate::csv_file::Row;
use crate::plots::dots::{Dot, Dots};
use crate::plots::lines::{Line, Lines};
use crate::plots::style::Tone;
use crate::system::Kind;
use crate::systems;

pub(crate) mod dots;
pub(crate) mod lines;
pub(crate) mod style;

/// A plot of one figure of all systems in one scenario.
struct Plan {
    scenario: &'static str,
    column: &'static str,
    file: &'static str,
    title: &'static str,
    axis: &'static str,
}

const PLANS: [Plan; 5] = [
    Plan {
        scenario: "small",
        column: "p50_us",
        file: "small",
        title: "A small call, one after the other",
        axis: "µs per call (median)",
    },
    Plan {
        scenario: "small",
        column: "cpu_per_call_us",
        file: "small-cpu",
        title: "A small call: CPU time of both processes",
        axis: "µs of CPU per call",
    },
    Plan {
        scenario: "in_flight_64",
        column: "calls_per_second",
        file: "in-flight",
        title: "64 small calls at a time, on one connection",
        axis: "calls per second",
    },
    Plan {
        scenario: "paced",
        column: "p50_us",
        file: "paced",
        title: "One small call per millisecond",
        axis: "µs per call (median)",
    },
    Plan {
        scenario: "paced",
        column: "cpu_per_call_us",
        file: "paced-cpu",
        title: "One small call per millisecond: CPU time of both processes",
        axis: "µs of CPU per call",
    },
];

/// Draws all that there are figures for.
pub(crate) fn draw(rows: &[Row], directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("making {}", directory.display()))?;
    let placements: HashSet<&str> = rows.iter().map(|row| row.name("placement")).collect();
    for placement in placements {
        let rows: Vec<_> = rows.iter().filter(|row| row.name("placement") == placement).collect();
        for plan in &PLANS {
            dot_plot(&rows, plan, placement, directory)?;
        }
        echo_plot(&rows, placement, directory)?;
    }
    Ok(())
}

/// The words for a placement.
pub(crate) fn place_words(placement: &str) -> &str {
    match placement {
        "one_core" => "both processes on one core",
        "two_cores" => "a core for each process",
        _ => "wherever the scheduler puts them",
    }
}

fn tone(label: &str) -> Tone {
    let entry = systems::all().iter().filter(|entry| label.starts_with(entry.name));
    match entry.max_by_key(|entry| entry.name.len()).map(|entry| entry.kind) {
        Some(Kind::Floor) => Tone::Floor,
        Some(Kind::Ours) => Tone::Ours,
        _ => Tone::Rival,
    }
}

fn dot_plot(rows: &[&Row], plan: &Plan, placement: &str, directory: &Path) -> Result<()> {
    let mut dots: Vec<_> = rows
        .iter()
        .filter(|row| row.name("scenario") == plan.scenario)
        .filter_map(|row| {
            let spread = row.figure(plan.column).filter(|spread| spread.median > 0.0)?;
            let label = row.name("system").to_owned();
            Some(Dot { tone: tone(&label), label, spread })
        })
        .collect();
    if dots.len() < 2 {
        return Ok(());
    }
    // The best first: few calls per second are bad, as are many microseconds.
    dots.sort_by(|a, b| a.spread.median.total_cmp(&b.spread.median));
    if plan.column == "calls_per_second" {
        dots.reverse();
    }
    let subtitle = format!("{}; logarithmic", place_words(placement));
    let dots = Dots { title: plan.title, subtitle: &subtitle, axis: plan.axis, dots };
    dots.draw(&directory.join(format!("{}-{placement}.svg", plan.file)))
}

/// Throughput by size. Of systems that there are with two runtimes, the one with threads is drawn.
fn echo_plot(rows: &[&Row], placement: &str, directory: &Path) -> Result<()> {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let Some(size) = row.name("scenario").strip_prefix("echo_").and_then(bytes) else {
            continue;
        };
        let label = row.name("system");
        let Some(rate) = row.figure("gib_per_second").filter(|spread| spread.median > 0.0) else {
            continue;
        };
        if label.ends_with("-ct") || label == "witrpc-msgpack-mt" || label == "witrpc-json-mt" {
            continue;
        }
        let shown = label.trim_end_matches("-mt");
        let at = lines.iter().position(|line| line.label == shown).unwrap_or_else(|| {
            lines.push(Line { label: shown.to_owned(), tone: tone(label), points: Vec::new() });
            lines.len() - 1
        });
        lines[at].points.push((size, rate.median));
    }
    lines.retain(|line| line.points.len() > 1);
    if lines.is_empty() {
        return Ok(());
    }
    let lines = Lines {
        title: "Bytes there and back",
        subtitle: place_words(placement),
        x_axis: "payload, bytes",
        y_axis: "GiB/s, each byte counted once",
        binary: true,
        lines,
    };
    lines.draw(&directory.join(format!("echo-{placement}.svg")))
}

/// `64k` is 65,536.
fn bytes(size: &str) -> Option<f64> {
    let (digits, unit) = match size.strip_suffix('k') {
        Some(digits) => (digits, 1024.0),
        None => size.strip_suffix('m').map_or((size, 1.0), |digits| (digits, 1_048_576.0)),
    };
    Some(digits.parse::<f64>().ok()? * unit)
}
