//! The commands.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::job;
use crate::plan::{self, Block};
use crate::probe::aead::Aead;
use crate::probe::crowd;
use crate::rounds::{self, Effort};
use crate::{table, targets};

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
}

#[derive(Args)]
struct EffortArgs {
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds; some take a multiple of it
    #[arg(long, default_value_t = 500, value_name = "MS")]
    millis: u64,
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
        Some(Command::Client { job }) => job::play_client(&job),
        Some(Command::Server { job }) => job::play_server(&job),
        Some(Command::Targets { only, effort, json }) => targets::run(&only, effort.effort(), json),
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
    for block in plan::blocks(&table.only)? {
        compare_block(&block, table)?;
    }
    Ok(())
}

fn compare_block(block: &Block, table: &Table) -> Result<()> {
    let measured = rounds::measure(block, table.effort.effort());
    if !table.json {
        table::print(block, &measured);
        return Ok(());
    }
    for (line, measured) in block.iter().zip(&measured) {
        println!("{}", serde_json::to_string(&table::record(line, measured))?);
    }
    Ok(())
}
