//! The named event that is a named pipe: a byte in it is a ring, its hang-up is the peer's death. `[seg.sleep.ring]`
//!
//! The waiting end is opened for reading only, so that the system reports a hang-up once the peer's last descriptor
//! of the ringing end is closed, however its process ended. The ringing end is opened for reading and writing, so
//! that it is there whether or not anybody waits, and never meets `SIGPIPE`. tokio waits on the pipe together with
//! everything else of its runtime: no thread, no timer, no system call while nothing happens.
//!
//! A process that was forked off the peer without `exec` holds copies of its descriptors, and there is no hang-up
//! when only the peer ends. So on Linux the waiting side puts a POSIX record lock on its pipe, which belongs to the
//! process and is not inherited by `fork`. The peer asks who holds it, gets the process id as its own namespace
//! counts, and watches that process by a pidfd. `[seg.sleep.death]` Where any step of this fails, the hang-up alone must do.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, chmodat, fcntl_lock, fstat, open};
use rustix::io::Errno;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::unix::pipe;
use witrpc_core::fail_point;
use witrpc_core::transport::{TransportError, Waiter, Wake};

use super::Ring;
use crate::sys::Access;

/// More rings than ever lie in the pipe at a time (two reasons to ring, and late ones): a read that does not fill
/// its buffer tells tokio that the pipe is empty, which saves asking again.
const RINGS: usize = 64;

/// Makes the named pipe, for us alone or for the group, whatever the umask.
///
/// # Errors
///
/// `AlreadyExists` if there is such a file; whatever else the system says.
pub(crate) fn make(path: &Path, access: Access) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR;
    #[cfg(target_vendor = "apple")]
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    #[cfg(not(target_vendor = "apple"))]
    rustix::fs::mkfifoat(CWD, path, mode)?;
    fail_point::at("pipe.made");
    let opened_up = match access {
        // By path: it may not be openable yet. The directory is ours alone, so nobody has replaced it.
        Access::User => chmodat(CWD, path, mode, rustix::fs::AtFlags::empty()).map_err(Into::into),
        // Not by path: somebody of the group could have put a link there.
        Access::Group(_) => {
            open_end(path, OFlags::RDONLY, Access::User).and_then(|pipe| access.open_up(pipe))
        }
    };
    opened_up.inspect_err(|_| crate::endpoint::remove(path))
}

/// Opens a named pipe of ours without waiting for its other end.
///
/// # Errors
///
/// `ENXIO` if it is opened for writing only and nobody reads; `InvalidData` if it is no named pipe, or not ours.
pub(crate) fn open_end(path: &Path, end: OFlags, access: Access) -> io::Result<OwnedFd> {
    let flags = end | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let pipe = open(path, flags, Mode::empty())?;
    let facts = fstat(&pipe)?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::Fifo
        || !access.admits(facts.st_uid, facts.st_gid)
    {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a named pipe of ours"));
    }
    Ok(pipe)
}

/// Whether somebody has the pipe open for reading. `None` if that cannot be told; a missing pipe has no reader.
///
/// Asking a reader that had no writer yet looks to it like a writer that came and went.
pub(crate) fn has_reader(path: &Path, access: Access) -> Option<bool> {
    match open_end(path, OFlags::WRONLY, access) {
        Ok(_) => Some(true),
        Err(error) if is_nobody(&error) => Some(false),
        Err(_) => None,
    }
}

/// Whether opening a pipe failed because there is none, or nobody at its other end.
pub(crate) fn is_nobody(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NXIO | Errno::NOENT))
}

/// Gives a waiting end to the runtime of the current task.
///
/// # Errors
///
/// If there is no tokio runtime, or one without I/O.
pub(crate) fn register(pipe: OwnedFd) -> io::Result<pipe::Receiver> {
    // tokio panics where a runtime has no I/O driver, and offers no way to ask first.
    if tokio::runtime::Handle::try_current().is_ok()
        && let Ok(registered) =
            std::panic::catch_unwind(|| pipe::Receiver::from_owned_fd_unchecked(pipe))
    {
        return registered;
    }
    Err(io::Error::other("needs a tokio runtime with I/O and time enabled (Builder::enable_all)"))
}

/// The ringing end.
#[derive(Debug)]
pub(crate) struct Ringer {
    pipe: OwnedFd,
}

impl Ringer {
    /// Opens the ringing end of the peer's pipe.
    ///
    /// # Errors
    ///
    /// See [`open_end`].
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        Ok(Self { pipe: open_end(path, OFlags::RDWR, access)? })
    }

    /// Writes one whole record into the pipe; records up to `PIPE_BUF` (at least 512 bytes) are never torn.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the pipe is full.
    pub(crate) fn write(&self, record: &[u8]) -> io::Result<()> {
        loop {
            match rustix::io::write(&self.pipe, record) {
                Err(Errno::INTR) => {}
                done => return done.map(|_| ()).map_err(io::Error::from),
            }
        }
    }

    /// A watch on the process that waits at the other end, if it can be had.
    pub(crate) fn watch(&self) -> Option<Process> {
        Process::behind(&self.pipe)
    }
}

impl Ring for Ringer {
    fn ring(&self) -> io::Result<()> {
        match self.write(&[1]) {
            // Full: rung already, many times over.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }
}

/// Opens the waiting end of our own pipe, and marks it as waited on by this process.
///
/// # Errors
///
/// See [`open_end`].
pub(crate) fn open_waiting_end(path: &Path) -> io::Result<OwnedFd> {
    let pipe = open_end(path, OFlags::RDONLY, Access::User)?;
    // Only a peer's watch rests on this lock. It vanishes when this process closes any descriptor of this pipe:
    // nothing but this side ever opens it here, except a peer in this same process, which needs no watch.
    if let Err(error) = fcntl_lock(&pipe, FlockOperation::NonBlockingLockShared) {
        tracing::debug!(%error, "no record lock on a pipe; the peer goes without a pidfd");
    }
    Ok(pipe)
}

/// The waiting end, for one connection's lifetime.
#[derive(Debug)]
pub(crate) struct FifoWaiter {
    pipe: pipe::Receiver,
    peer: Option<Process>,
    /// Sticky: once gone, the peer stays gone.
    gone: bool,
}

impl FifoWaiter {
    /// Waits on `pipe`, whose ringing end the peer has opened or will open, and on `peer`.
    ///
    /// Before the peer has opened it, Linux reports nothing at all, neither readable nor hung up, so the wait just
    /// lasts; whoever waits for a peer to come bounds that with a deadline.
    pub(crate) const fn new(pipe: pipe::Receiver, peer: Option<Process>) -> Self {
        Self { pipe, peer, gone: false }
    }
}

impl Waiter for FifoWaiter {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        if self.gone {
            return Poll::Ready(Ok(Wake::PeerGone));
        }
        let mut bytes = [std::mem::MaybeUninit::uninit(); RINGS];
        let mut rings = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut self.pipe).poll_read(cx, &mut rings) {
            Poll::Ready(Ok(())) if !rings.filled().is_empty() => {
                return Poll::Ready(Ok(Wake::Rung));
            }
            Poll::Ready(Ok(())) => {} // The end of the pipe: all its writers are gone.
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => match &self.peer {
                Some(peer) if peer.poll_ended(cx).is_ready() => {}
                _ => return Poll::Pending,
            },
        }
        self.gone = true;
        Poll::Ready(Ok(Wake::PeerGone))
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        let Self { pipe, peer, gone } = *self;
        let pipe = register(pipe.into_nonblocking_fd()?)?;
        let peer = peer.map(Process::moved).transpose()?;
        Ok(Box::new(Self { pipe, peer, gone }))
    }
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(crate) struct Process {
    /// No pipe, but all that is asked of it is when it turns readable, which any descriptor can tell; tokio's type for
    /// any descriptor needs `unsafe`.
    pidfd: pipe::Receiver,
}

impl Process {
    fn moved(self) -> io::Result<Self> {
        Ok(Self { pidfd: register(self.pidfd.into_nonblocking_fd()?)? })
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.pidfd.poll_read_ready(cx).map(|_| ()) // Readable, or the runtime is shutting down.
    }

    /// The process that waits on this pipe. `None` if it is our own, or in a process-id namespace that we cannot see,
    /// or the system has no pidfd.
    #[cfg(target_os = "linux")]
    pub(crate) fn behind(pipe: &OwnedFd) -> Option<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};

        let holder = holder(pipe)?;
        let pidfd = pidfd_open(holder, PidfdFlags::NONBLOCK)
            .or_else(|_| pidfd_open(holder, PidfdFlags::empty())) // Before Linux 5.10.
            .ok()?;
        // The id could have been used anew between asking and opening. If the same id still holds the lock now, the
        // descriptor is of the process that holds it.
        if self::holder(pipe) != Some(holder) {
            return None;
        }
        Some(Self { pidfd: register(pidfd).ok()? })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) const fn behind(_pipe: &OwnedFd) -> Option<Self> {
        None
    }
}

/// Which process has its lock on the pipe, by asking for one that would conflict with it.
#[cfg(target_os = "linux")]
fn holder(pipe: &OwnedFd) -> Option<rustix::process::Pid> {
    use rustix::process::{Flock, FlockType, fcntl_getlk};

    // A peer can put another kind of lock there that has no process, which rustix's debug assertions do not expect.
    let asked = std::panic::catch_unwind(|| fcntl_getlk(pipe, &Flock::from(FlockType::WriteLock)));
    asked.ok()?.ok()??.pid
}
