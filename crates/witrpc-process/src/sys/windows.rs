//! Windows: a named endpoint whose name nobody can guess, and a job object.

use std::any::Any;
use std::io;
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use witrpc_core::text::Escaped;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::{ClientSlots, Door, Job, MemoryMappedFile, connect, unique_name};

use crate::sandbox::Confinement;

/// Names the environment variable that announces the endpoint to the worker: the size of its region, a space, and its name.
const VARIABLE: &str = "WITRPC_WORKER_ENDPOINT";
/// An interrupt from the console is for the host.
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

/// Whether this process has taken its endpoint.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The endpoint of a worker that is being started.
#[derive(Debug)]
pub(crate) struct Offer(MemoryMappedFile);

/// What tells a worker that its host is there: nothing, as its job ends it.
#[derive(Debug)]
pub(crate) struct Leash;

/// Tells the program of this command of an endpoint.
///
/// # Errors
///
/// If the system has no random bytes.
pub(crate) fn prepare(
    command: &mut Command,
    size: u64,
    _nothing: Confinement,
) -> io::Result<(Offer, Leash)> {
    let name = unique_name("worker").map_err(|error| io::Error::other(error.to_string()))?;
    command.env(VARIABLE, format!("{size} {name}")).creation_flags(CREATE_NEW_PROCESS_GROUP);
    Ok((Offer(MemoryMappedFile::new(name)), Leash))
}

impl Offer {
    /// Opens the host's channel, once the worker listens.
    ///
    /// # Errors
    ///
    /// As those of `connect`.
    pub(crate) async fn open(
        self,
        _process_id: u32,
        _killer: &Killer,
        wait_strategy: WaitStrategy,
        deadline: Instant,
    ) -> Result<Channel, Error> {
        connect(&self.0.with_wait_strategy(wait_strategy), deadline.into()).await
    }
}

/// Ends a process, and all that it has started.
#[derive(Debug)]
pub(crate) struct Killer(Job);

impl Killer {
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn of(child: &Child) -> io::Result<Self> {
        let job = Job::new()?;
        match job.assign(child) {
            // It has ended already.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            assigned => assigned?,
        }
        Ok(Self(job))
    }

    /// There is no signal that asks a process to end.
    #[expect(clippy::unused_self, reason = "other systems have one")]
    pub(crate) const fn terminate(&self) {}

    pub(crate) fn kill(&self) {
        if let Err(error) = self.0.terminate() {
            tracing::warn!(error = %Escaped(&error), "could not end a worker");
        }
    }

    /// Blocks the thread until the process has ended.
    #[expect(clippy::unused_self, reason = "other systems need it")]
    pub(crate) fn wait(&self, child: &mut Child) -> Option<ExitStatus> {
        child.wait().ok()
    }
}

/// It cannot be told.
pub(crate) const fn is_debugged(_process_id: u32) -> bool {
    false
}

/// The endpoint that the host of this process has announced.
#[derive(Debug)]
pub(crate) struct Announced(MemoryMappedFile);

fn announced() -> Option<MemoryMappedFile> {
    let text = std::env::var(VARIABLE).ok()?;
    let (size, name) = text.split_once(' ')?;
    Some(MemoryMappedFile::new(name).with_size(size.parse().ok()?))
}

/// Whether a host has started this process as its worker, and its connection was not taken yet.
pub(crate) fn is_announced() -> bool {
    !TAKEN.load(Ordering::Relaxed) && announced().is_some()
}

/// Takes what was announced to this process.
///
/// # Errors
///
/// [`Error::Config`] if there is nothing, or it was taken before.
pub(crate) fn take() -> Result<(Announced, Watch), Error> {
    match announced().filter(|_| !TAKEN.swap(true, Ordering::Relaxed)) {
        Some(file) => Ok((Announced(file), Watch)),
        None => {
            let advice = "this process was not started by a Worker, or has taken its connection before: start it by \
                          Worker::new(…).spawn(), and call Agent::from_env() once";
            Err(Error::config("Agent::from_env", "no endpoint", advice))
        }
    }
}

impl Announced {
    /// Waits for the host, and opens the worker's channel.
    ///
    /// # Errors
    ///
    /// As those of a server's endpoint; [`Error::NameInUse`] if this process has inherited the variable of a worker that lives.
    pub(crate) async fn open(
        self,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
    ) -> Result<Channel, Error> {
        let file = self.0.with_wait_strategy(wait_strategy);
        let mut door = Door::open(&file, &ClientSlots::of(&file)).await?;
        let mut channel = door.accept().await?;
        channel.lease = Box::new((channel.lease, lease));
        Ok(channel)
    }
}

/// Whether the system ends this process when its host ends, and nobody has to watch for that.
pub(crate) const ENDS_WITH_HOST: bool = true;

/// Nothing has to be watched.
#[derive(Debug)]
pub(crate) struct Watch;

impl Watch {
    #[expect(clippy::unused_self, reason = "other systems need it")]
    pub(crate) fn wait(&self) {
        loop {
            std::thread::park();
        }
    }

    pub(crate) fn end_this_process() {
        std::process::abort();
    }
}
