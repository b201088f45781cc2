//! Windows: handles that the worker is given once it runs, and a job object.

use std::any::Any;
use std::io;
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use witrpc_core::text::Escaped;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::inherited::{Bequest, HostEnd, WorkerEnd, pair};
use witrpc_mmf::{Job, TrustedPeer};

use crate::connection::Connection;
use crate::sandbox::Confinement;

/// An interrupt from the console is for the host.
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;

/// The host's end of a connection whose worker is being started.
#[derive(Debug)]
pub(crate) struct Offer(HostEnd);

/// What the worker is to be given. Nothing tells it that its host is there, as its job ends it.
#[derive(Debug)]
pub(crate) struct Leash(Option<Bequest>);

/// Announces a connection to the program of this command.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn prepare(
    command: &mut Command,
    connection: &Connection,
    _nothing: Confinement,
) -> io::Result<(Offer, Leash)> {
    let (end, mut bequest) = pair(connection.size)?;
    bequest.give(command)?;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
    Ok((Offer(end), Leash(Some(bequest))))
}

/// Hands its connection over to a program that has been started, and is in its job.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn hand_over(leash: &mut Leash, child: &Child) -> io::Result<()> {
    let Some(bequest) = leash.0.take() else { return Ok(()) };
    match bequest.hand_over(child).map_err(|error| (error.kind(), error)) {
        // It has ended already, or has closed its standard input, which others notice.
        Ok(()) | Err((io::ErrorKind::PermissionDenied | io::ErrorKind::BrokenPipe, _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

impl Offer {
    /// Opens the host's channel to this process.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub(crate) fn open(
        self,
        process_id: u32,
        _killer: &Killer,
        connection: &Connection,
    ) -> Result<Channel, Error> {
        let Connection { wait_strategy, trusted: _nothing_is_lent, .. } = *connection;
        let opened = self.0.open(Some(process_id), wait_strategy, Box::new(()));
        opened.map_err(|error| Error::io("opening the connection to a worker", &error))
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

/// It cannot be told.
pub(crate) const fn memory_of(_process_id: u32) -> Option<u64> {
    None
}

/// What this process was given by its host.
#[derive(Debug)]
pub(crate) struct Announced(WorkerEnd);

/// Whether a host has started this process as its worker, and its connection was not taken yet.
pub(crate) fn is_announced() -> bool {
    WorkerEnd::is_here()
}

/// Takes what this process was given.
///
/// # Errors
///
/// [`Error::Config`] if there is nothing, or it was taken before; [`Error::Io`].
pub(crate) fn take() -> Result<(Announced, Watch), Error> {
    match WorkerEnd::take() {
        Ok(end) => Ok((Announced(end), Watch)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let advice = "this process was not started by a Worker, or has taken its connection before: start it by \
                          Worker::new(…).spawn(), and call Agent::from_env() once, before anything reads its standard input";
            Err(Error::config("Agent::from_env", error, advice))
        }
        Err(error) => Err(Error::io("taking over the connection to the host", &error)),
    }
}

impl Announced {
    /// Opens the worker's channel.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub(crate) fn open(
        self,
        (wait_strategy, _nothing_is_lent): (WaitStrategy, Option<TrustedPeer>),
        lease: Box<dyn Any + Send + Sync>,
    ) -> Result<Channel, Error> {
        let opened = self.0.open(wait_strategy, lease);
        opened.map_err(|error| Error::io("opening the connection to the host", &error))
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
