//! Unix: descriptors that are inherited, pidfds and signals.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use witrpc_core::text::Escaped;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::TrustedPeer;
use witrpc_mmf::inherited::{HostEnd, Inherited, Lifeline, WorkerEnd, pair};
use witrpc_runtime::SharedLease;

use crate::connection::Connection;
use crate::courier::Courier;
use crate::sandbox::{self, Confinement};

/// The host's end of a connection whose worker is being started.
#[derive(Debug)]
pub(crate) struct Offer {
    end: HostEnd,
    /// For the courier.
    lifeline: Lifeline,
}

/// What tells a worker that its host is there. Dropping it ends the worker, if it serves as an agent.
pub(crate) type Leash = Lifeline;

/// Has the program of this command inherit a connection, in a process group of its own: an interrupt from the terminal is for the host.
///
/// # Errors
///
/// Whatever the system says.
pub(crate) fn prepare(
    command: &mut Command,
    connection: &Connection,
    mut confinement: Confinement,
) -> io::Result<(Offer, Leash)> {
    let (end, lifeline, mut bequest) = pair(connection.size, connection.lending)?;
    confinement.orders().into_iter().try_for_each(|descriptor| bequest.add(descriptor))?;
    bequest.give(command)?;
    confinement.bind(command);
    command.process_group(0);
    Ok((Offer { end, lifeline: lifeline.try_clone()? }, lifeline))
}

/// The program has inherited everything already.
#[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
pub(crate) const fn hand_over(_leash: &mut Leash, _child: &Child) -> io::Result<()> {
    Ok(())
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
        killer: &Killer,
        connection: &Connection,
    ) -> Result<Channel, Error> {
        let watched = killer.pidfd.as_ref().and_then(|pidfd| pidfd.try_clone().ok());
        let failed = |error| Error::io("opening the connection to a worker", &error);
        let lease = with_courier(&self.lifeline, Box::new(())).map_err(failed)?;
        let Connection { wait_strategy, trusted, .. } = *connection;
        let opened = self.end.open(Some(process_id), watched, wait_strategy, lease, trusted);
        opened.map_err(failed)
    }
}

/// A lease that also has the courier of its connection, which ends with it.
fn with_courier(
    lifeline: &Lifeline,
    lease: Box<dyn Any + Send + Sync>,
) -> io::Result<Box<dyn Any + Send + Sync>> {
    let (courier, receiving) = Courier::start(lifeline)?;
    Ok(Box::new(SharedLease { side_channel: courier, lease: Box::new((receiving, lease)) }))
}

/// Ends a process, as long as it has not been reaped.
#[derive(Debug)]
pub(crate) struct Killer {
    pid: Pid,
    /// `None` where there are none; then `is_unreaped` protects whoever has the same number later.
    pidfd: Option<OwnedFd>,
    is_unreaped: Mutex<bool>,
}

impl Killer {
    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(crate) fn of(child: &Child) -> io::Result<Self> {
        let pid = Pid::from_child(child);
        Ok(Self { pid, pidfd: pidfd(pid), is_unreaped: Mutex::new(true) })
    }

    /// Asks the process to end, by `SIGTERM`.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let sent = match &self.pidfd {
            #[cfg(target_os = "linux")]
            Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
            _ => {
                let is_unreaped = self.is_unreaped.lock().unwrap_or_else(PoisonError::into_inner);
                if *is_unreaped { kill_process(self.pid, signal) } else { Ok(()) }
            }
        };
        // It has ended.
        if let Some(error) = sent.err().filter(|error| *error != Errno::SRCH) {
            tracing::warn!(error = %Escaped(&error), "could not send a signal to a worker");
        }
    }

    /// Blocks the thread until the process has ended, and reaps it. `None` if others have reaped it.
    pub(crate) fn wait(&self, child: &mut Child) -> Option<ExitStatus> {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.pid), how).is_err_and(|error| error == Errno::INTR) {}
        let mut is_unreaped = self.is_unreaped.lock().unwrap_or_else(PoisonError::into_inner);
        *is_unreaped = false;
        child.wait().ok()
    }
}

#[cfg(target_os = "linux")]
fn pidfd(pid: Pid) -> Option<OwnedFd> {
    use rustix::process::{PidfdFlags, pidfd_open};

    pidfd_open(pid, PidfdFlags::NONBLOCK).ok()
}

#[cfg(not(target_os = "linux"))]
const fn pidfd(_pid: Pid) -> Option<OwnedFd> {
    None
}

/// Whether a debugger is attached to this process.
#[cfg(target_os = "linux")]
pub(crate) fn is_debugged(process_id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status"));
    let tracer = status.ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        line.trim().parse::<u32>().ok()
    });
    tracer.is_some_and(|tracer| tracer != 0)
}

/// It cannot be told.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn is_debugged(_process_id: u32) -> bool {
    false
}

/// The bytes of memory that a process occupies.
#[cfg(target_os = "linux")]
pub(crate) fn memory_of(process_id: u32) -> Option<u64> {
    let sizes = std::fs::read_to_string(format!("/proc/{process_id}/statm")).ok()?;
    let pages = sizes.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(pages.saturating_mul(page))
}

/// It cannot be told.
#[cfg(not(target_os = "linux"))]
pub(crate) const fn memory_of(_process_id: u32) -> Option<u64> {
    None
}

/// What this process has inherited from its host.
#[derive(Debug)]
pub(crate) struct Announced {
    end: WorkerEnd,
    /// For the courier.
    lifeline: Lifeline,
}

/// Whether a host has started this process as its worker, and its connection was not taken yet.
pub(crate) fn is_announced() -> bool {
    WorkerEnd::is_here()
}

/// Takes what this process has inherited. If its host confines it, that comes first.
///
/// # Errors
///
/// [`Error::Config`] if there is nothing, or if it cannot be confined; [`Error::Io`].
pub(crate) fn take() -> Result<(Announced, Watch), Error> {
    let failed = |error: io::Error| {
        if error.kind() != io::ErrorKind::NotFound {
            return Error::io("taking over the connection to the host", &error);
        }
        let advice = "this process was not started by a Worker, or has taken its connection before: start it by \
                      Worker::new(…).spawn(), and call Agent::from_env() once";
        Error::config("Agent::from_env", error, advice)
    };
    let mut inherited = Inherited::take().map_err(failed)?;
    sandbox::obey(inherited.extras())?;
    let (end, lifeline) = inherited.connection().map_err(failed)?;
    let copy = lifeline.try_clone().map_err(failed)?;
    Ok((Announced { end, lifeline: copy }, Watch(lifeline)))
}

impl Announced {
    /// Opens the worker's channel.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub(crate) fn open(
        self,
        (wait_strategy, trusted): (WaitStrategy, Option<TrustedPeer>),
        lease: Box<dyn Any + Send + Sync>,
    ) -> Result<Channel, Error> {
        let failed = |error| Error::io("opening the connection to the host", &error);
        let lease = with_courier(&self.lifeline, lease).map_err(failed)?;
        self.end.open(wait_strategy, lease, trusted).map_err(failed)
    }
}

/// Whether the system ends this process when its host ends, and nobody has to watch for that.
pub(crate) const ENDS_WITH_HOST: bool = false;

/// Shows the end of the host.
#[derive(Debug)]
pub(crate) struct Watch(Lifeline);

impl Watch {
    /// Blocks the thread until the host has ended, or has let go of this process.
    pub(crate) fn wait(&self) {
        if let Err(error) = self.0.wait() {
            tracing::error!(error = %Escaped(&error), "could not watch the host");
        }
    }

    /// Ends this process, whatever its threads do.
    pub(crate) fn end_this_process() {
        // Behind it is not reached, unless the system forbids a process to end itself.
        let _forbidden = kill_process(rustix::process::getpid(), Signal::KILL);
        std::process::abort();
    }
}
