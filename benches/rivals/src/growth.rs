//! How the cost of witrpc grows: with clients, calls in flight, payload, methods and subscribers.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::cpu::Placement;
use crate::csv_file::{self, Row};
use crate::plan::Line;
use crate::plots::lines::{self, Lines};
use crate::plots::style::Tone;
use crate::probe::crowd::Crowd;
use crate::rounds::{self, Effort, FIGURES, progress};
use crate::sample::Spread;
use crate::scenario::Scenario;
use crate::system::{Flavour, Kind};
use crate::systems::growing::{METHODS, SUBSCRIBERS};
use crate::table::{between, short};

const CLIENTS: [u32; 9] = [1, 2, 5, 10, 20, 50, 100, 200, 500];
/// Of a thousand calls at each of the servers.
const SLICES: u32 = 10;

/// What grows.
struct Growth {
    name: &'static str,
    title: &'static str,
    x_axis: &'static str,
    y_axis: &'static str,
    /// What is drawn and printed.
    column: &'static str,
    binary: bool,
    lines: fn(Placement) -> Vec<(u32, Line)>,
}

const ALL: [Growth; 5] = [
    Growth {
        name: "clients",
        title: "A small call, with others connected and silent",
        x_axis: "clients connected",
        y_axis: "µs per call (median)",
        column: "p50_us",
        binary: false,
        // Those are measured by a probe, as they are of several processes.
        lines: |_| Vec::new(),
    },
    Growth {
        name: "in-flight",
        title: "Small calls at a time, on one connection",
        x_axis: "calls in flight",
        y_axis: "calls per second",
        column: "calls_per_second",
        binary: false,
        lines: in_flight,
    },
    Growth {
        name: "payload",
        title: "Bytes there and back",
        x_axis: "payload",
        y_axis: "GiB/s, each byte counted once",
        column: "gib_per_second",
        binary: true,
        lines: payload,
    },
    Growth {
        name: "methods",
        title: "A small call of the last method of a contract",
        x_axis: "methods of the contract",
        y_axis: "µs per call (median)",
        column: "p50_us",
        binary: false,
        lines: methods,
    },
    Growth {
        name: "subscribers",
        title: "An event, from the call that raises it until all subscribers have it",
        x_axis: "subscribers, each with a connection of its own",
        y_axis: "µs (median)",
        column: "p50_us",
        binary: false,
        lines: subscribers,
    },
];

const NAMES: [&str; 4] = ["growth", "placement", "system", "x"];

/// What is asked for.
pub(crate) struct Wanted {
    pub(crate) only: Vec<String>,
    pub(crate) placement: Placement,
    pub(crate) effort: Effort,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) plots: Option<PathBuf>,
}

pub(crate) fn run(wanted: &Wanted) -> Result<()> {
    let mut rows = Vec::new();
    let matches = |name| wanted.only.is_empty() || wanted.only.iter().any(|only| only == name);
    let growths: Vec<_> = ALL.iter().filter(|growth| matches(growth.name)).collect();
    ensure!(!growths.is_empty(), "there are: {:?}", ALL.map(|growth| growth.name));
    for growth in growths {
        let measured = match growth.name {
            "clients" => clients(wanted)?,
            _ => measure(growth, wanted),
        };
        print(growth, wanted.placement, &measured);
        if let Some(directory) = &wanted.plots {
            draw(growth, wanted.placement, &measured, directory)?;
        }
        rows.extend(measured);
        if let Some(path) = &wanted.csv {
            csv_file::write(path, &NAMES, &FIGURES, &rows)?;
        }
    }
    Ok(())
}

fn row(growth: &str, placement: Placement, system: &str, x: u32) -> Row {
    let names = [growth.to_owned(), placement.to_string(), system.to_owned(), x.to_string()];
    Row { names: NAMES.into_iter().map(str::to_owned).zip(names).collect(), ..Row::default() }
}

fn measure(growth: &Growth, wanted: &Wanted) -> Vec<Row> {
    let (xs, lines): (Vec<_>, Vec<_>) = (growth.lines)(wanted.placement).into_iter().unzip();
    let measured = rounds::measure(&lines, wanted.effort);
    let mut rows = Vec::new();
    for ((x, line), measured) in xs.into_iter().zip(&lines).zip(measured) {
        if let Some(why) = &measured.failure {
            println!("{}: {why}", line.id());
        }
        let shown = match growth.name {
            "methods" | "subscribers" => "witrpc-postcard-mt",
            _ => &line.label,
        };
        let mut row = row(growth.name, wanted.placement, shown, x);
        row.figures = measured.summary().map(|summary| summary.by_column()).unwrap_or_default();
        rows.push(row);
    }
    rows
}

fn clients(wanted: &Wanted) -> Result<Vec<Row>> {
    let crowd = Crowd { counts: CLIENTS.to_vec(), slices: SLICES, placement: wanted.placement };
    let mut found = Vec::new();
    for round in 0..wanted.effort.rounds {
        progress(&format!("round {} of {}: up to 500 clients", round + 1, wanted.effort.rounds));
        found.push(crowd.run()?);
    }
    progress("");
    let rows = CLIENTS.into_iter().enumerate().map(|(place, count)| {
        let mut row = row("clients", wanted.placement, "witrpc-postcard-mt", count);
        let p50 = Spread::of(found.iter().filter_map(|round| Some(round.get(place)?.p50)));
        row.figures.insert("p50_us".to_owned(), p50);
        row
    });
    Ok(rows.collect())
}

fn line(placement: Placement, scenario: Scenario, system: &'static str) -> Line {
    let (label, kind) = match system {
        "ring-spin" => (system.to_owned(), Kind::Floor),
        _ => (format!("{system}-mt"), Kind::Ours),
    };
    let flavour = if kind == Kind::Floor { Flavour::Blocking } else { Flavour::Mt };
    let alone = kind == Kind::Floor && placement == Placement::OneCore;
    let excuse = placement.missing().or(alone.then_some("it polls"));
    Line { placement, scenario, label, system, kind, flavour, excuse }
}

fn in_flight(placement: Placement) -> Vec<(u32, Line)> {
    [1, 4, 16, 64, 256, 1024, 4096, 10_000]
        .into_iter()
        .map(|n| (n, line(placement, Scenario::InFlight(n as usize), "witrpc-postcard")))
        .collect()
}

fn payload(placement: Placement) -> Vec<(u32, Line)> {
    let sizes = (3..=14).map(|power| 1_u32 << (2 * power));
    let systems = ["ring-spin", "witrpc-postcard", "witrpc-encrypted"];
    let all = sizes.flat_map(|size| systems.map(|system| (size, system)));
    all.map(|(n, system)| (n, line(placement, Scenario::Echo(n as usize), system))).collect()
}

fn methods(placement: Placement) -> Vec<(u32, Line)> {
    METHODS.map(|(n, system)| (n, line(placement, Scenario::Small, system))).into()
}

fn subscribers(placement: Placement) -> Vec<(u32, Line)> {
    SUBSCRIBERS.map(|(n, system)| (n, line(placement, Scenario::Small, system))).into()
}

fn print(growth: &Growth, placement: Placement, rows: &[Row]) {
    println!("\n{}, {placement}: {}", growth.name, growth.y_axis);
    for row in rows {
        let Some(figure) = row.figure(growth.column) else { continue };
        let (system, x) = (row.name("system"), row.name("x"));
        println!("{system:<22} {x:>10} {:>10} {:>18}", short(figure.median), between(figure));
    }
}

fn draw(growth: &Growth, placement: Placement, rows: &[Row], directory: &PathBuf) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut lines: Vec<lines::Line> = Vec::new();
    for row in rows {
        let (Some(figure), Ok(x)) = (row.figure(growth.column), row.name("x").parse()) else {
            continue;
        };
        let system = row.name("system");
        let at = lines.iter().position(|line| line.label == system).unwrap_or_else(|| {
            let tone = if system.starts_with("ring") { Tone::Floor } else { Tone::Ours };
            lines.push(lines::Line { label: system.to_owned(), tone, points: Vec::new() });
            lines.len() - 1
        });
        lines[at].points.push((x, figure.median));
    }
    if lines.is_empty() {
        return Ok(());
    }
    let (title, x_axis, y_axis) = (growth.title, growth.x_axis, growth.y_axis);
    let place = placement.to_string();
    let subtitle = crate::plots::place_words(&place);
    let plot = Lines { title, subtitle, x_axis, y_axis, binary: growth.binary, lines };
    plot.draw(&directory.join(format!("growth-{}-{placement}.svg", growth.name)))
}
