//! witrpc beside other ways between two processes, in the same scenarios. README.md says how to run it, and what its
//! figures show.

mod allocations;
mod cli;
mod client;
mod cpu;
mod csv_file;
mod growth;
mod job;
mod measuring;
mod neighbours;
mod plan;
mod playing;
mod plots;
mod probe;
mod roles;
mod rounds;
mod sample;
mod scenario;
mod server;
mod system;
mod systems;
mod table;
mod targets;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> anyhow::Result<()> {
    cli::main()
}
