//! The commands.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::cpu::Placement;
use crate::growth::{self, Wanted};
use crate::neighbours::{self, Neighbours};
use crate::plan;
use crate::probe::aead::Aead;
use crate::probe::crowd;
use crate::roles;
use crate::rounds::{self, Effort};
use crate::{csv_file, plots, table, targets};

/// Compares witrpc with other ways between two processes of this machine.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    table: Table,
}

#[derive(Subcommand)]
enum Command {
    /// Tells the names for `--only`
    List,
    /// Draws what lies in a CSV file of the table
    Plot {
        /// The file
        csv: PathBuf,
        /// Where the plots go
        directory: PathBuf,
    },
    /// Measures what witrpc is to reach, as ratios
    Targets {
        /// Measures the targets of this name, with `*` for anything
        #[arg(long, value_name = "PATTERN")]
        only: Vec<String>,
        #[command(flatten)]
        effort: EffortArgs,
        /// Prints JSON, one line for each target
        #[arg(long)]
        json: bool,
    },
    /// Measures how the cost of witrpc grows: with clients, calls in flight, payload, methods, subscribers
    Growth {
        /// Measures the growth of this name
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Where the processes are
        #[arg(long, default_value = "two_cores")]
        placement: Placement,
        #[command(flatten)]
        effort: EffortArgs,
        /// Writes the figures to this file too
        #[arg(long, value_name = "FILE")]
        csv: Option<PathBuf>,
        /// Draws them too, into this directory
        #[arg(long, value_name = "DIRECTORY")]
        plots: Option<PathBuf>,
    },
    /// The client's process of one measurement
    #[command(hide = true)]
    Client { job: String },
    /// The server's process of one measurement
    #[command(hide = true)]
    Server { job: String },
    /// The process of a measurement of encryption
    #[command(hide = true)]
    Aead { task: String },
    /// The process of the client that calls beside many
    #[command(hide = true)]
    Crowd { task: String },
    /// A process that keeps a CPU busy
    #[command(hide = true)]
    Busy { cpu: usize },
    /// The process of those many
    #[command(hide = true)]
    Silent { job: String },
}

#[derive(Args)]
struct Table {
    /// Measures what is called so: PLACEMENT/SCENARIO/SYSTEM, with `*` for anything; the last parts may be left out
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    #[command(flatten)]
    effort: EffortArgs,
    /// Prints JSON, one line for each system
    #[arg(long)]
    json: bool,
    /// Writes the figures to this file too
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draws them too, into this directory
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
}

#[derive(Args)]
struct EffortArgs {
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds; some take a multiple of it
    #[arg(long, default_value_t = 500, value_name = "MS")]
    millis: u64,
    /// Keeps every CPU busy with another process meanwhile
    #[arg(long)]
    neighbours: bool,
}

impl EffortArgs {
    fn effort(&self) -> Effort {
        Effort { rounds: self.rounds.max(1), duration: Duration::from_millis(self.millis) }
    }
}

pub(crate) fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        None => compare(&cli.table),
        Some(Command::List) => list(),
        Some(Command::Plot { csv, directory }) => plots::draw(&csv_file::read(&csv)?, &directory),
        Some(Command::Client { job }) => roles::play_client(&job),
        Some(Command::Server { job }) => roles::play_server(&job),
        Some(Command::Targets { only, effort, json }) => {
            let _neighbours = Neighbours::start(effort.neighbours)?;
            targets::run(&only, effort.effort(), json)
        }
        Some(Command::Growth { only, placement, effort, csv, plots }) => {
            let _neighbours = Neighbours::start(effort.neighbours)?;
            growth::run(&Wanted { only, placement, effort: effort.effort(), csv, plots })
        }
        Some(Command::Busy { cpu }) => neighbours::play(cpu),
        Some(Command::Aead { task }) => Aead::play(&task),
        Some(Command::Crowd { task }) => crowd::play(&task),
        Some(Command::Silent { job }) => crowd::play_silent(&job),
    }
}

fn list() -> Result<()> {
    for line in plan::blocks(&[])?.iter().flatten() {
        println!("{}", line.id());
    }
    Ok(())
}

fn compare(table: &Table) -> Result<()> {
    let _neighbours = Neighbours::start(table.effort.neighbours)?;
    let mut rows = Vec::new();
    for block in plan::blocks(&table.only)? {
        let measured = rounds::measure(&block, table.effort.effort());
        if table.json {
            for (line, measured) in block.iter().zip(&measured) {
                println!("{}", serde_json::to_string(&table::record(line, measured))?);
            }
        } else {
            table::print(&block, &measured);
        }
        rows.extend(block.iter().zip(&measured).map(|(line, of)| table::row(line, of)));
        // After each block, so that a run that is broken off has not been for nothing.
        if let Some(path) = &table.csv {
            csv_file::write(path, &table::NAMES, &rounds::FIGURES, &rows)?;
        }
    }
    table.plots.as_ref().map_or(Ok(()), |directory| plots::draw(&rows, directory))
}
