//! What this program does as the process of one side.

use anyhow::Result;

use crate::cpu;
use crate::job::{Job, raise_limit};
use crate::server::Server;
use crate::systems;

/// The client's process: prints its sample.
pub(crate) fn play_client(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    raise_limit()?;
    cpu::pin(job.cpus[0])?;
    let server = Server::start("server", &job)?;
    let sample = systems::named(&job.system)?.measure(job, server)?;
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

/// The server's process.
pub(crate) fn play_server(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    raise_limit()?;
    cpu::pin(job.cpus[1])?;
    systems::named(&job.system)?.serve(&job)
}
