//! Unix: descriptors that the program inherits, and that its command passes on. `[seg.inherited]`
//!
//! The worker takes a [`Bequest`] over as [`Inherited`], which becomes a [`WorkerEnd`]. Each side also has a [`Lifeline`], which shows the other's end
//! whatever becomes of the connection.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use witrpc_core::WaitStrategy;
use witrpc_core::transport::{Channel, PeerProof};

use self::announcement::Announcement;
use self::lending::Lending;
use self::proof::{HostProof, Known, WorkerProof};
use crate::arena::TrustedPeer;
use crate::channel::{Terms, assemble};
use crate::event::NamedEvent;
use crate::event::fifo::{self, FifoWaiter, Notifier, Process};
use crate::layout::Instance;
use crate::region::{Region, Side};
use crate::sys::inheriting::{self, Announced, above_standard_streams};
use crate::sys::open::make_nameless_pipe;
use crate::sys::{Access, memory_file};

mod announcement;
mod lending;
mod post;
mod proof;

pub use post::{Inbox, Outbox, Received};

/// Names the environment variable that announces the descriptors to the worker. It stays set: removing it is not sound once threads run.
pub const VARIABLE: &str = "WITRPC_INHERITED";

/// Makes both ends of a connection, with a region of `size` bytes, and arenas in which each side can lend `lending` bytes, rounded up to whole
/// pages. With 0 there are none.
///
/// The time depends on the sizes, as all pages are allocated: do not call it on a thread of a runtime.
///
/// # Errors
///
/// Whatever the system says; `InvalidInput` if a size is out of bounds.
pub fn pair(size: u64, lending: u64) -> io::Result<(HostEnd, Lifeline, Bequest)> {
    let mut nonce = Instance::default();
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let arena_size = lending::size_for(lending)?;
    let file = memory_file::make("region")?;
    let region = Region::fill(&file, size, &nonce, NamedEvent::Fifo, Access::User, &|| true)?;
    memory_file::seal(&file)?;
    let (lending, arenas) = match arena_size {
        0 => (None, None),
        size => lending::make(size).map(|(lending, files)| (Some(lending), Some(files)))?,
    };
    let (host_waits, notifies_host) = make_nameless_pipe()?;
    let (worker_waits, notifies_worker) = make_nameless_pipe()?;
    let (ours, theirs) = UnixStream::pair()?;
    let known = proof::expect(&ours)?;
    let ours = Arc::new(ours);
    let proof = WorkerProof::new(Arc::downgrade(&ours), Arc::clone(&known));
    let lifeline = Lifeline { socket: ours, host: None, known: Some(known) };
    let notifier = Notifier::of(notifies_worker);
    let host = HostEnd { region, waiting: host_waits, notifier, proof, lending };
    let descriptors = [file.into(), worker_waits, notifies_host, theirs.into()];
    let descriptors = descriptors.into_iter().chain(arenas.into_iter().flatten());
    let descriptors = descriptors.chain(own_process()?);
    let descriptors = descriptors.map(above_standard_streams).collect::<io::Result<Vec<_>>>()?;
    Ok((host, lifeline, Bequest { nonce, arena_size, descriptors, extras: Vec::new() }))
}

/// A pidfd of this process, where there are such.
#[cfg(target_os = "linux")]
fn own_process() -> io::Result<Option<OwnedFd>> {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    match pidfd_open(getpid(), PidfdFlags::NONBLOCK) {
        Ok(pidfd) => Ok(Some(pidfd)),
        // Before Linux 5.10, or where it is not permitted: the hang-up of the socket must do.
        Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
const fn own_process() -> io::Result<Option<OwnedFd>> {
    Ok(None)
}

/// The host's end of a connection.
#[derive(Debug)]
pub struct HostEnd {
    region: Region,
    waiting: OwnedFd,
    notifier: Notifier,
    proof: WorkerProof,
    lending: Option<Lending>,
}

impl HostEnd {
    /// Opens the host's channel. `process_id` is the worker's, and `watched` a pidfd of it, if there is one: with it, the worker's end is also
    /// noticed if a child that it has forked still has its descriptors. If the worker is `trusted`, what it lends is read in place.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub fn open(
        self,
        process_id: Option<u32>,
        watched: Option<OwnedFd>,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
        trusted: Option<TrustedPeer>,
    ) -> io::Result<Channel> {
        let Self { region, waiting, notifier, proof, lending } = self;
        let proof = proof.of_process(process_id, watched.as_ref());
        let terms = Terms {
            side: Side::Client,
            peer_process_id: process_id,
            wait_strategy,
            on_first_frame: Box::new(|| {}),
            lease,
            arenas: lending::arenas(lending, trusted),
        };
        channel((region, waiting, notifier), watched, proof, terms)
    }
}

/// What the worker inherits: the region, its two pipes, its end of the socket pair, and, if there are any, the two arenas and a pidfd of the host.
#[derive(Debug)]
pub struct Bequest {
    nonce: Instance,
    arena_size: u64,
    descriptors: Vec<OwnedFd>,
    extras: Vec<OwnedFd>,
}

impl Bequest {
    /// Adds a descriptor that is no part of the connection: [`Inherited::extras`]. `[seg.inherited.extras]`
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn add(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        self.extras.push(above_standard_streams(descriptor)?);
        Ok(())
    }

    /// Gives it to the program of this command: the descriptors stay open there, all others of this process but the standard streams are
    /// closed, and [`VARIABLE`] announces them.
    ///
    /// The command must be dropped once the program has been started. Until then this process has the descriptors, too, and
    /// does not notice the worker's end.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn give(self, command: &mut Command) -> io::Result<()> {
        let Self { nonce, arena_size, descriptors: mut all, extras } = self;
        let announce =
            |list: &[OwnedFd]| list.iter().map(Announced::of).collect::<io::Result<Vec<_>>>();
        let announcement = Announcement {
            nonce,
            process_id: std::process::id(),
            arena_size,
            descriptors: announce(&all)?,
            extras: announce(&extras)?,
        };
        command.env(VARIABLE, announcement.to_string());
        all.extend(extras);
        inheriting::pass_on(command, all);
        Ok(())
    }

    /// Keeps it in this process, for a worker that is no other process.
    ///
    /// # Errors
    ///
    /// As [`WorkerEnd::take`].
    pub fn keep(self) -> io::Result<(WorkerEnd, Lifeline)> {
        WorkerEnd::of(&self.nonce, std::process::id(), self.arena_size, self.descriptors)
    }
}

/// What this process has inherited, before anything of it is read.
#[derive(Debug)]
pub struct Inherited {
    nonce: Instance,
    process_id: u32,
    arena_size: u64,
    descriptors: Vec<OwnedFd>,
    extras: Vec<OwnedFd>,
}

impl Inherited {
    /// Takes over what the host of this process has given it. Possible once.
    ///
    /// Each descriptor must be what is announced: its number stands for a file of that inode. From now on all are closed on exec.
    /// `[seg.inherited.take]`
    ///
    /// # Errors
    ///
    /// `NotFound` if nothing was announced, if the descriptors are not here, or if they were taken before; whatever else the system says.
    pub fn take() -> io::Result<Self> {
        let announcement = announced().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "nothing is announced in the environment")
        })?;
        let Announcement { nonce, process_id, arena_size, descriptors, extras } = announcement;
        let connection = descriptors.len();
        let mut descriptors = inheriting::take_over(&[descriptors, extras].concat())?;
        let extras = descriptors.split_off(connection);
        Ok(Self { nonce, process_id, arena_size, descriptors, extras })
    }

    /// What the host has [added](Bequest::add), in that order. It is taken away from here.
    pub fn extras(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.extras)
    }

    /// Opens the connection: each descriptor must be of the expected type; the region must be sealed, and be that of this connection; arenas must be
    /// sealed, and as large as announced.
    /// `[seg.inherited.take]`
    ///
    /// # Errors
    ///
    /// `InvalidData` if they are something else; whatever else the system says.
    pub fn connection(self) -> io::Result<(WorkerEnd, Lifeline)> {
        WorkerEnd::of(&self.nonce, self.process_id, self.arena_size, self.descriptors)
    }
}

/// The worker's end of a connection.
#[derive(Debug)]
pub struct WorkerEnd {
    region: Region,
    waiting: OwnedFd,
    notifier: Notifier,
    /// A pidfd of the host.
    watched: Option<OwnedFd>,
    host_process_id: u32,
    proof: HostProof,
    lending: Option<Lending>,
}

impl WorkerEnd {
    /// Whether a host has given a connection to this process, and it was not taken yet.
    #[must_use]
    pub fn is_here() -> bool {
        announced().is_some_and(|announcement| {
            let Announcement { descriptors, extras, .. } = announcement;
            inheriting::are_here(&descriptors) && inheriting::are_here(&extras)
        })
    }

    /// Takes over what the host of this process has given it, and opens the connection.
    ///
    /// # Errors
    ///
    /// As [`Inherited::take`] and [`Inherited::connection`].
    pub fn take() -> io::Result<(Self, Lifeline)> {
        Inherited::take()?.connection()
    }

    fn of(
        nonce: &Instance,
        host_process_id: u32,
        arena_size: u64,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<(Self, Lifeline)> {
        let mut descriptors = descriptors.into_iter();
        let mut next = |kind| {
            let descriptor = descriptors.next().ok_or_else(|| invalid("too few are announced"))?;
            if FileType::from_raw_mode(fstat(&descriptor)?.st_mode) == kind {
                return Ok(descriptor);
            }
            Err(invalid("one of the descriptors is of another type"))
        };
        let region = File::from(next(FileType::RegularFile)?);
        let (waiting, notifier) = (next(FileType::Fifo)?, Notifier::of(next(FileType::Fifo)?));
        let socket = UnixStream::from(next(FileType::Socket)?);
        let lending = match arena_size {
            0 => None,
            size => {
                let [host, worker] =
                    [next(FileType::RegularFile)?, next(FileType::RegularFile)?].map(File::from);
                Some(lending::take(size, &host, &worker)?)
            }
        };
        let host = descriptors.next();
        if !memory_file::is_sealed(&region)? {
            return Err(invalid("the region's size is not sealed")); // [seg.inherited.region]
        }
        let region = Region::attach_file(&region, nonce)?;
        if region.events() != NamedEvent::Fifo {
            return Err(invalid("the region is for another kind of named event"));
        }
        let watched = host.as_ref().map(OwnedFd::try_clone).transpose()?;
        proof::show(&socket)?;
        let proof = HostProof::of(&socket, host.as_ref());
        let end = Self { region, waiting, notifier, watched, host_process_id, proof, lending };
        Ok((end, Lifeline { socket: Arc::new(socket), host, known: None }))
    }

    /// Opens the worker's channel. If the host is `trusted`, what it lends is read in place.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O.
    pub fn open(
        self,
        wait_strategy: WaitStrategy,
        lease: Box<dyn Any + Send + Sync>,
        trusted: Option<TrustedPeer>,
    ) -> io::Result<Channel> {
        let Self { region, waiting, notifier, watched, host_process_id, proof, lending } = self;
        let terms = Terms {
            side: Side::Server,
            peer_process_id: Some(host_process_id),
            wait_strategy,
            on_first_frame: Box::new(|| {}),
            lease,
            arenas: lending::arenas(lending, trusted),
        };
        channel((region, waiting, notifier), watched, proof, terms)
    }
}

/// What the environment announces, if it can be read.
fn announced() -> Option<Announcement> {
    Announcement::parse(&std::env::var(VARIABLE).ok()?)
}

fn channel(
    (region, waiting, notifier): (Region, OwnedFd, Notifier),
    watched: Option<OwnedFd>,
    proof: impl PeerProof,
    terms: Terms,
) -> io::Result<Channel> {
    let peer = watched.map(Process::of).transpose()?;
    let waiter = FifoWaiter::new(fifo::register(waiting)?, peer).proving(proof);
    Ok(assemble(region, notifier, waiter, terms))
}

fn invalid(rule: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule)
}

/// One end of the socket pair. It hangs up when the other side has dropped its end, or has ended; the connection may have ended before.
pub struct Lifeline {
    socket: Arc<UnixStream>,
    /// A pidfd of the host, at the worker's end: a child that the host has forked may have a copy of the socket.
    host: Option<OwnedFd>,
    /// At the host's end: what its worker has shown.
    known: Option<Known>,
}

impl fmt::Debug for Lifeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifeline").field("watched", &self.host.is_some()).finish_non_exhaustive()
    }
}

impl Lifeline {
    /// Another handle to this end. It hangs up when all handles have been dropped.
    ///
    /// # Errors
    ///
    /// If there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let host = self.host.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Self { socket: Arc::clone(&self.socket), host, known: self.known.clone() })
    }

    /// Blocks the thread until the other side has dropped its end, or has ended. `[seg.inherited.death]`
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub fn wait(&self) -> io::Result<()> {
        let mut watched = vec![PollFd::new(&self.socket, PollFlags::empty())];
        watched.extend(self.host.as_ref().map(|host| PollFd::new(host, PollFlags::IN)));
        loop {
            match poll(&mut watched, None) {
                Ok(0) | Err(Errno::INTR) => {}
                done => return done.map(|_| ()).map_err(io::Error::from),
            }
        }
    }
}

#[cfg(test)]
mod tests;
