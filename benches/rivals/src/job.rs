//! One measurement, in processes of its own: a client's, and the server's that it starts. Both are this program.
//!
//! So a system that hangs, aborts or leaves threads behind spoils nothing but its own figure.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::cpu::Placement;
use crate::sample::Sample;
use crate::scenario::Scenario;
use crate::system::{Endpoint, Flavour, REGION};

/// What the processes are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) system: String,
    pub(crate) flavour: Flavour,
    /// The client's, and the server's.
    pub(crate) cpus: [Option<usize>; 2],
    pub(crate) scenario: Scenario,
    pub(crate) millis: u64,
    pub(crate) at: Endpoint,
}

/// Hundreds of clients take more descriptors than is usual to allow.
pub(crate) fn raise_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// How much longer than it is to take a measurement may take: to start, to warm up, and to end.
const GRACE: Duration = Duration::from_secs(10);

impl Job {
    /// What will have a directory of its own, which is gone when it has ended, however that was.
    pub(crate) fn new(
        system: &str,
        flavour: Flavour,
        placement: Placement,
        scenario: Scenario,
    ) -> Self {
        let in_flight = match scenario {
            Scenario::InFlight(calls) => u32::try_from(calls).ok().filter(|calls| *calls > 1000),
            _ => None,
        };
        let at = Endpoint { directory: PathBuf::new(), clients: 1, region: REGION, in_flight };
        let cpus = placement.cpus();
        Self { system: system.to_owned(), flavour, cpus, scenario, millis: 500, at }
    }

    /// Runs it in processes of its own.
    pub(crate) fn run(mut self, duration: Duration) -> Result<Sample> {
        self.millis = duration.as_millis().try_into()?;
        let directory = directory()?;
        directory.path().clone_into(&mut self.at.directory);
        let limit = Duration::from_millis(self.millis * 2) + GRACE;
        let output = Processes::start("client", &self).and_then(|client| client.output(limit));
        sweep(&self.at.name());
        let output = output?;
        serde_json::from_str(&output).with_context(|| format!("no sample: {output:?}"))
    }
}

pub(crate) fn directory() -> Result<tempfile::TempDir> {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let mine = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("rivals-").permissions(mine).tempdir_in(parent);
    directory.context("a directory to meet in")
}

/// Removes shared memory that systems keep outside of the directory, and that killed processes leave.
fn sweep(name: &str) {
    let Ok(memory) = std::fs::read_dir("/dev/shm") else { return };
    for entry in memory.flatten() {
        let theirs = entry.file_name().to_string_lossy().contains(name);
        if theirs && entry.path().is_file() {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// This program once more, with the processes that it starts in turn.
pub(crate) struct Processes(std::process::Child);

impl Processes {
    pub(crate) fn start(role: &str, argument: &impl Serialize) -> Result<Self> {
        use std::os::unix::process::CommandExt;

        let child = Command::new(std::env::current_exe()?)
            .args([role, &serde_json::to_string(argument)?])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .env("RUST_BACKTRACE", "0")
            .spawn()?;
        Ok(Self(child))
    }

    /// What it printed, if it succeeded in time.
    pub(crate) fn output(mut self, limit: Duration) -> Result<String> {
        let stdout = read_all(self.0.stdout.take());
        let stderr = read_all(self.0.stderr.take());
        let Some(status) = wait(&mut self.0, limit)? else {
            drop(self);
            bail!("no end within {limit:?}{}", said(&stderr.join().unwrap_or_default()));
        };
        // Whatever it has left alive holds the pipes open.
        drop(self);
        let (stdout, stderr) =
            (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        if !status.success() {
            bail!("{status}{}", said(&stderr));
        }
        Ok(stdout)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Fails if all have ended.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
        self.0.wait().ok();
    }
}

/// What both processes complained of, in one line.
fn said(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("note: "));
    let all = lines.map(|line| line.trim_start_matches("Error: ")).collect::<Vec<_>>().join("; ");
    let mut text = all.chars().take(200).collect::<String>();
    if !text.is_empty() {
        text.insert_str(0, ": ");
    }
    text
}

fn read_all(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut text).ok();
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

fn wait(
    child: &mut std::process::Child,
    limit: Duration,
) -> Result<Option<std::process::ExitStatus>> {
    let began = std::time::Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        // Seldom enough to disturb nobody.
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}
