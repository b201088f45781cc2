//! The named event that is a named pipe: a byte in the pipe is a notification, its hang-up is the peer's death. `[seg.sleep.ring]`
//!
//! The waiting end is opened for reading only. So the system reports a hang-up once the peer's last descriptor of the notifying end
//! is closed, however its process ended. The notifying end is opened for reading and writing. So it can be opened whether or not
//! anybody waits, and writing never raises `SIGPIPE`. tokio waits on the pipe together with everything else of its runtime: there
//! is no thread, no timer, and no system call while nothing happens.
//!
//! A process that was forked off the peer without `exec` holds copies of its descriptors, and there is no hang-up
//! when only the peer ends. So on Linux the waiting side puts a POSIX record lock on its pipe, which belongs to the
//! process and is not inherited by `fork`. The peer asks who holds it, gets the process id as its own namespace
//! counts, and watches that process by a pidfd. `[seg.sleep.death]` Where any step of this fails, the hang-up alone must do.
//!
//! The child itself has a pipe's bytes, and tokio's registration of it, in common with its parent: see [`Pipe`].

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::unix::pipe;
use witrpc_core::text::Escaped;
use witrpc_core::transport::{Credentials, PeerProof, TransportError, Waiter, Wake};

use super::{Notify, registered};
use crate::sys::open::{Kind, is_same, make_pipe, open_ours};
use crate::sys::{Access, Owner, close_inherited};

/// Notifications that may stay unread in the pipe, where the system reports each write anyway ([`every_write_is_reported`]).
const UNREAD: usize = 256;
/// Notifications that are read at a time, more than are usually in the pipe: a read that does not fill its buffer tells
/// tokio that the pipe is empty, which saves asking again.
const READ_SIZE: usize = 4 * UNREAD;

/// Opens a named pipe of ours without waiting for its other end.
///
/// # Errors
///
/// `ENXIO` if it is opened for writing only and nobody reads; `InvalidData` if it is no named pipe, or not ours.
pub(crate) fn open_end(path: &Path, end: OFlags, access: Access) -> io::Result<OwnedFd> {
    open_ours(path, end, Kind::Pipe, &[access])
}

/// Opens another end of a pipe of which `known` is one.
///
/// # Errors
///
/// See [`open_end`]; `NotFound` if the path names another pipe by now.
pub(crate) fn open_other_end(
    path: &Path,
    end: OFlags,
    access: Access,
    known: impl AsFd,
) -> io::Result<OwnedFd> {
    let opened = open_end(path, end, access)?;
    if is_same(&opened, known)? { Ok(opened) } else { Err(Errno::NOENT.into()) }
}

/// Whether somebody has the pipe open for reading. `None` if that cannot be told; a missing pipe has no reader.
///
/// A reader that had no writer yet sees this check as a writer that opened the pipe and closed it.
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
pub(crate) fn register(pipe: OwnedFd) -> io::Result<Pipe> {
    let receiver = registered(|| pipe::Receiver::from_owned_fd_unchecked(pipe))?;
    Ok(Pipe { receiver: Some(receiver), owner: Owner::here() })
}

/// A waiting end that tokio watches. A forked child cannot use it: a byte that the child reads would be missing in the parent, and
/// both processes share one registration with the system.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// `None` once it has been taken out.
    receiver: Option<pipe::Receiver>,
    owner: Owner,
}

impl Pipe {
    /// Reads what there is, once there is something.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.owner.check()?;
        let receiver = self.receiver.as_mut().ok_or_else(taken_out)?;
        Pin::new(receiver).poll_read(cx, into)
    }

    /// The same as a future. Nothing is lost if it is dropped; 0 is the end of the pipe.
    pub(crate) async fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        poll_fn(|cx| self.poll_read(cx, &mut into)).await?;
        Ok(into.filled().len())
    }

    /// Reads what there is now, without the runtime.
    pub(crate) fn read_now(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.here()?, into)?)
    }

    /// The number of unread bytes.
    pub(crate) fn unread(&self) -> io::Result<usize> {
        let unread = rustix::io::ioctl_fionread(self.here()?)?;
        Ok(usize::try_from(unread).unwrap_or(usize::MAX))
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_read_ready(cx)
    }

    /// Makes tokio forget that the pipe is readable. It reports the next write anew.
    pub(crate) fn forget_ready(&self) -> io::Result<()> {
        let forgotten = self.here()?.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        debug_assert!(forgotten.is_err());
        Ok(())
    }

    /// Registers the pipe with the runtime of the current task.
    fn moved(mut self) -> io::Result<Self> {
        self.owner.check()?;
        let receiver = self.receiver.take().ok_or_else(taken_out)?;
        register(receiver.into_nonblocking_fd()?)
    }

    /// The receiver; an error in a forked child.
    fn here(&self) -> io::Result<&pipe::Receiver> {
        self.owner.check()?;
        self.receiver.as_ref().ok_or_else(taken_out)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            if !self.owner.is_here() {
                close_inherited(receiver);
            }
        }
    }
}

fn taken_out() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// The writing end of a pipe that a peer reads. It is held for two reasons: the peer notices when this process dies, and this process
/// notices when the peer stops reading.
#[derive(Debug)]
pub(crate) struct Hold {
    end: End,
    owner: Owner,
}

#[derive(Debug)]
enum End {
    Bare(OwnedFd),
    Watched(pipe::Sender),
    /// Could not be registered.
    Lost,
}

impl Hold {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { end: End::Bare(pipe), owner: Owner::here() }
    }

    /// Whether the pipe has a reader. If so, the task is woken when it has none any more, provided that the system reports that.
    pub(crate) fn poll_is_read(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.owner.is_here() {
            return true; // It is the parent's to find out.
        }
        self.end = match std::mem::replace(&mut self.end, End::Lost) {
            End::Bare(pipe) => match registered(|| pipe::Sender::from_owned_fd_unchecked(pipe)) {
                Ok(pipe) => End::Watched(pipe),
                Err(error) => {
                    tracing::warn!(error = %Escaped(&error), "could not watch whether a waiting client is alive");
                    End::Lost
                }
            },
            end => end,
        };
        let End::Watched(pipe) = &self.end else { return false };
        // tokio also reports room to write: at first, and whenever a full pipe was read from.
        while let Poll::Ready(ready) = pipe.poll_write_ready(cx) {
            if ready.is_err() || !is_read(pipe) {
                return false;
            }
            let forgotten = pipe.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            debug_assert!(forgotten.is_err());
        }
        true
    }

    /// Whether the pipe has a reader at this moment.
    pub(crate) fn is_read(&self) -> bool {
        self.pipe().is_some_and(is_read)
    }

    /// `None` if it was lost.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        match &self.end {
            End::Bare(pipe) => Some(pipe.as_fd()),
            End::Watched(pipe) => Some(pipe.as_fd()),
            End::Lost => None,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            if let End::Watched(pipe) = std::mem::replace(&mut self.end, End::Lost) {
                close_inherited(pipe);
            }
        }
    }
}

/// Whether the pipe of this writing end has a reader; `true` if that cannot be found out.
fn is_read(pipe: impl AsFd) -> bool {
    let mut ends = [PollFd::new(&pipe, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let asked = rustix::event::poll(&mut ends, Some(&at_once));
    asked.is_err() || !ends[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// The notifying end.
#[derive(Debug)]
pub(crate) struct Notifier {
    pipe: OwnedFd,
}

impl Notifier {
    /// Opens the notifying end of the peer's pipe.
    ///
    /// # Errors
    ///
    /// See [`open_end`].
    pub(crate) fn open(path: &Path, access: Access) -> io::Result<Self> {
        Ok(Self { pipe: open_end(path, OFlags::RDWR, access)? })
    }

    /// The notifying end of a pipe without a name.
    pub(crate) const fn of(pipe: OwnedFd) -> Self {
        Self { pipe }
    }

    /// As [`open`](Self::open), for a pipe of which we have another end.
    ///
    /// # Errors
    ///
    /// See [`open_other_end`].
    pub(crate) fn open_same(path: &Path, access: Access, known: impl AsFd) -> io::Result<Self> {
        Ok(Self { pipe: open_other_end(path, OFlags::RDWR, access, known)? })
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

    /// Removes some notifications from the pipe.
    fn make_room(&self) -> io::Result<()> {
        match rustix::io::read(&self.pipe, &mut [0; READ_SIZE]) {
            // The waiter has just done the same.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A watch on the process that waits at the other end, if it can be had.
    pub(crate) fn watch(&self) -> Option<Process> {
        Process::behind(self.pipe.as_fd())
    }

    /// What the system proves about the process that waits at the other end, which made the pipe.
    pub(crate) fn proof(&self, access: Access, watched: Option<&Process>) -> Proven {
        let owner = rustix::fs::fstat(&self.pipe);
        Proven(match (access, owner) {
            // Only this user could open the pipe, and so could root. Its group proves nothing: whoever made it chose that.
            (Access::User, Ok(owner)) => {
                let proven = Credentials::default().with_user_id(owner.st_uid);
                match watched.and_then(|process| process.id) {
                    Some(id) => proven.with_process_id(id),
                    None => proven,
                }
            }
            // Any of its members could take the place of whoever made it.
            (Access::Group(group), Ok(_)) => Credentials::default().with_group_id(group),
            (_, Err(_)) => Credentials::default(),
        })
    }
}

impl Notify for Notifier {
    /// Notifies also if the pipe is full: the waiter may have seen all notifications in it, and left them there.
    ///
    /// An end that is for writing only cannot make room, and need not: a waiter leaves fewer notifications than fill a pipe, so it has not seen
    /// the last ones. Nor does it matter to such an end that nobody reads: the peer's end is noticed by the waiter.
    fn notify(&self) -> io::Result<()> {
        loop {
            match self.write(&[1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.make_room() {
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::BADF) => {
                        return Ok(());
                    }
                    made => made?,
                },
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                done => return done,
            }
        }
    }
}

/// Makes a named pipe, and opens its waiting end, marked as waited on by this process.
///
/// # Errors
///
/// See [`make_pipe`].
pub(crate) fn make_waiting_end(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let pipe = make_pipe(path, access)?;
    // Only a peer's watch rests on this lock. It vanishes when this process closes any descriptor of this pipe:
    // nothing but this side ever opens it here, except a peer in this same process, which needs no watch.
    if let Err(error) = fcntl_lock(&pipe, FlockOperation::NonBlockingLockShared) {
        tracing::debug!(
            error = %Escaped(&error),
            "could not lock a pipe; the peer cannot watch this process with a pidfd"
        );
    }
    Ok(pipe)
}

/// What was proved about a peer when the connection began.
#[derive(Clone, Debug)]
pub(crate) struct Proven(Credentials);

impl PeerProof for Proven {
    fn credentials(&self) -> Credentials {
        self.0.clone()
    }
}

/// The waiting end, for one connection's lifetime.
pub(crate) struct FifoWaiter {
    pipe: Pipe,
    peer: Option<Process>,
    proof: Option<Arc<dyn PeerProof>>,
    /// Wake-ups since the pipe was last read.
    unread: usize,
    /// Sticky: once gone, the peer stays gone.
    gone: bool,
}

impl fmt::Debug for FifoWaiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pipe, peer, proof: _, unread: _, gone } = self;
        let mut shown = f.debug_struct("FifoWaiter");
        shown.field("pipe", pipe).field("peer", peer).field("gone", gone).finish_non_exhaustive()
    }
}

impl FifoWaiter {
    /// Waits on `pipe`, whose notifying end the peer has opened or will open, and on `peer`.
    ///
    /// Before the peer has opened it, Linux reports nothing at all, neither readable nor hung up, so the wait just
    /// lasts; whoever waits for a peer to come bounds that with a deadline.
    pub(crate) const fn new(pipe: Pipe, peer: Option<Process>) -> Self {
        Self { pipe, peer, proof: None, unread: 0, gone: false }
    }

    /// With what proves who the peer is.
    pub(crate) fn proving(self, proof: impl PeerProof) -> Self {
        Self { proof: Some(Arc::new(proof)), ..self }
    }

    /// Takes a notification and leaves its byte in the pipe, which saves a system call. Returns `false` if the pipe is still readable
    /// after that: then it has hung up, or there is another notification.
    fn take_unread(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, TransportError>> {
        if self.unread == UNREAD || !every_write_is_reported() {
            return Poll::Ready(Ok(false));
        }
        ready!(self.pipe.poll_read_ready(cx))?;
        self.pipe.forget_ready()?;
        if self.pipe.poll_read_ready(cx)?.is_ready() {
            return Poll::Ready(Ok(false));
        }
        self.unread += 1;
        Poll::Ready(Ok(true))
    }
}

impl Waiter for FifoWaiter {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        if self.gone {
            return Poll::Ready(Ok(Wake::PeerGone));
        }
        let mut bytes = [std::mem::MaybeUninit::uninit(); READ_SIZE];
        let mut notifications = ReadBuf::uninit(&mut bytes);
        let read = match self.take_unread(cx)? {
            Poll::Ready(true) => return Poll::Ready(Ok(Wake::Rung)),
            Poll::Ready(false) => self.pipe.poll_read(cx, &mut notifications),
            Poll::Pending => Poll::Pending,
        };
        match read {
            Poll::Ready(Ok(())) if !notifications.filled().is_empty() => {
                self.unread = 0;
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
        let Self { pipe, peer, proof, unread, gone } = *self;
        let pipe = pipe.moved()?;
        let peer = peer.map(Process::moved).transpose()?;
        Ok(Box::new(Self { pipe, peer, proof, unread, gone }))
    }

    fn peer_proof(&self) -> Option<Arc<dyn PeerProof>> {
        self.proof.clone()
    }
}

/// Whether the system reports every write to a waiter, also while earlier writes are unread, as Linux does from 5.14 on. Found out
/// by a trial, once per process: a system that reports to be Linux may behave otherwise.
fn every_write_is_reported() -> bool {
    static REPORTED: OnceLock<bool> = OnceLock::new();
    *REPORTED.get_or_init(|| try_three_writes().unwrap_or(false))
}

#[cfg(target_os = "linux")]
fn try_three_writes() -> rustix::io::Result<bool> {
    use rustix::event::epoll;
    use rustix::pipe::{PipeFlags, pipe_with};

    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&watch, &reading, epoll::EventData::new_u64(0), edges)?;
    let mut told = Vec::with_capacity(1);
    for _ in 0..3 {
        rustix::io::write(&writing, &[1])?;
        told.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&watch, rustix::buffer::spare_capacity(&mut told), Some(&at_once))? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
const fn try_three_writes() -> rustix::io::Result<bool> {
    Ok(false)
}

/// A process whose end can be waited for.
#[derive(Debug)]
pub(crate) struct Process {
    /// No pipe, but all that is asked of it is when it turns readable, which any descriptor can tell; tokio's type for
    /// any descriptor needs `unsafe`.
    pidfd: Pipe,
    /// Its id, if it was found by the lock on its pipe.
    id: Option<u32>,
}

impl Process {
    /// The process of this pidfd.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime, or one without I/O.
    pub(crate) fn of(pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pidfd: register(pidfd)?, id: None })
    }

    fn moved(self) -> io::Result<Self> {
        Ok(Self { pidfd: self.pidfd.moved()?, id: self.id })
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.pidfd.poll_read_ready(cx).map(|_| ()) // Readable, or the runtime is shutting down.
    }

    /// The process that waits on this pipe. `None` if it is our own, or in a process-id namespace that we cannot see,
    /// or the system has no pidfd.
    #[cfg(target_os = "linux")]
    pub(crate) fn behind(pipe: BorrowedFd<'_>) -> Option<Self> {
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
        let id = u32::try_from(holder.as_raw_nonzero().get()).ok();
        Some(Self { pidfd: register(pidfd).ok()?, id })
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) const fn behind(_pipe: BorrowedFd<'_>) -> Option<Self> {
        None
    }
}

/// Which process has its lock on the pipe, by asking for one that would conflict with it.
#[cfg(target_os = "linux")]
fn holder(pipe: BorrowedFd<'_>) -> Option<rustix::process::Pid> {
    use rustix::process::{Flock, FlockType, fcntl_getlk};

    // A peer can put another kind of lock there that has no process, which rustix's debug assertions do not expect.
    let asked = std::panic::catch_unwind(|| fcntl_getlk(pipe, &Flock::from(FlockType::WriteLock)));
    asked.ok()?.ok()??.pid
}

#[cfg(test)]
mod tests {
    use super::{FifoWaiter, Hold, Notifier, OFlags, UNREAD, make_waiting_end, open_end, register};
    use crate::event::Notify as _;
    use crate::sys::Access;
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;
    use witrpc_core::transport::{Waiter as _, Wake};

    struct Pipe {
        waiter: FifoWaiter,
        notifier: Notifier,
        _directory: tempfile::TempDir,
    }

    impl Pipe {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("pipe");
            let waiting = register(make_waiting_end(&path, Access::User).unwrap()).unwrap();
            let notifier = Notifier::open(&path, Access::User).unwrap();
            Self { waiter: FifoWaiter::new(waiting, None), notifier, _directory: directory }
        }

        async fn wakes(&mut self) -> Wake {
            let wake = poll_fn(|cx| self.waiter.poll_wake(cx));
            tokio::time::timeout(Duration::from_secs(10), wake)
                .await
                .expect("a notification")
                .unwrap()
        }

        /// Takes what has come, until tokio has nothing more to tell.
        async fn settle(&mut self) {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if !poll_fn(|cx| Poll::Ready(self.waiter.poll_wake(cx).is_ready())).await {
                    return;
                }
            }
        }
    }

    #[tokio::test]
    async fn each_notification_wakes_whatever_lies_unread() {
        let mut pipe = Pipe::new();
        for _ in 0..3 * UNREAD {
            pipe.notifier.notify().unwrap();
            assert_eq!(pipe.wakes().await, Wake::Rung);
        }
    }

    #[tokio::test]
    async fn a_notification_into_a_full_pipe_wakes_a_waiter_that_has_seen_all_that_is_in_it() {
        let mut pipe = Pipe::new();
        while pipe.notifier.write(&[1; 256]).is_ok() {}
        assert_eq!(pipe.wakes().await, Wake::Rung);
        pipe.settle().await;
        for _ in 0..5 {
            while pipe.notifier.write(&[1]).is_ok() {}
            pipe.settle().await;
            pipe.notifier.notify().unwrap();
            pipe.notifier.write(&[1]).expect("room, which the notification has made");
            assert_eq!(pipe.wakes().await, Wake::Rung);
        }
    }

    #[tokio::test]
    async fn the_end_of_a_pipe_is_seen_behind_notifications() {
        let Pipe { mut waiter, notifier, _directory } = Pipe::new();
        notifier.notify().unwrap();
        drop(notifier);
        let mut wake = async || poll_fn(|cx| waiter.poll_wake(cx)).await.unwrap();
        assert_eq!(wake().await, Wake::Rung);
        assert_eq!(wake().await, Wake::PeerGone);
        assert_eq!(wake().await, Wake::PeerGone);
    }

    #[tokio::test]
    async fn who_holds_a_pipe_is_woken_when_nobody_reads_it_any_more_and_not_before() {
        let Pipe { waiter, notifier, _directory } = Pipe::new();
        let path = _directory.path().join("pipe");
        let mut hold = Hold::new(open_end(&path, OFlags::WRONLY, Access::User).unwrap());
        assert!(poll_fn(|cx| Poll::Ready(hold.poll_is_read(cx))).await);
        // Full, and emptied: whoever waits for room is woken.
        while notifier.write(&[1; 256]).is_ok() {}
        notifier.make_room().unwrap();
        drop(notifier);
        for _ in 0..10 {
            assert!(poll_fn(|cx| Poll::Ready(hold.poll_is_read(cx))).await && hold.is_read());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let gone = tokio::spawn(async move {
            poll_fn(|cx| if hold.poll_is_read(cx) { Poll::Pending } else { Poll::Ready(()) }).await;
            hold
        });
        tokio::task::yield_now().await;
        drop(waiter);
        let hold = tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
        assert!(!hold.is_read());
    }

    /// As where `/proc` is not mounted.
    #[tokio::test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    async fn an_end_that_only_writes_notifies_a_full_pipe_and_one_without_a_reader() {
        use rustix::pipe::{PipeFlags, pipe_with};

        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut waiter = FifoWaiter::new(register(reading).unwrap(), None);
        let notifier = Notifier::of(writing);
        for _ in 0..70_000 {
            notifier.notify().unwrap();
        }
        let wake = poll_fn(|cx| waiter.poll_wake(cx)).await.unwrap();
        assert_eq!(wake, Wake::Rung);
        drop(waiter);
        notifier.notify().unwrap();
    }
}
