//! The door of a server: a named pipe that clients write join requests into. Answers go into a pipe that the client makes. `[seg.meet]`

use std::{
    collections::VecDeque,
    fs::File,
    future::{Future as _, poll_fn},
    io,
    os::{fd::BorrowedFd, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep};
use witrpc_core::text::Escaped;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::fault::{failed, is_out_of_descriptors};
use super::files::{Files, door, names};
use super::lock::Lock;
use super::named_events::NamedEvents;
use crate::channel::{Arenas, Terms};
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::door::{Admission, WaitingClient};
use crate::endpoint::making::make;
use crate::endpoint::paths::{EndpointPaths, remove};
use crate::endpoint::rendezvous::{Answer, JoinRequest, JoinRequests};
use crate::endpoint::slots::Lease;
use crate::event::fifo::{self, FifoWaiter, Hold, Notifier, Pipe, Process};
use crate::layout::LAYOUT_VERSION;
use crate::region::Side;
use crate::sys::open::make_pipe;
use crate::sys::{Access, Owner, region_file};

/// The size of sixteen requests, which take at most some hundred microseconds to handle.
const CHUNK: usize = 1024;
/// How long requests are read while there are always more, and the pause after that. So the connections of the same runtime have most of
/// its time, however many clients ask.
const TURN: Duration = Duration::from_micros(500);
const REST: Duration = Duration::from_millis(1);
/// How much is read of a door that is being closed: the usual capacity of a pipe. A process with write access can enlarge it.
const LATE: usize = 64 << 10;

/// The upper bound on the queue, which is else a fourth of the descriptors that this process may have: each waiting client takes one.
const LONGEST_QUEUE: u64 = if cfg!(test) { 3 } else { 1024 };

/// The maximum number of waiting clients.
pub(crate) fn longest_queue() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    let clients = descriptors.map_or(LONGEST_QUEUE, |all| (all / 4).clamp(1, LONGEST_QUEUE));
    usize::try_from(clients).unwrap_or(usize::MAX)
}

/// The system's part of a [`Door`](crate::endpoint::Door): reads requests, and sends answers.
#[derive(Debug)]
pub(crate) struct DoorListener {
    /// The path of the door.
    path: PathBuf,
    pipe: Pipe,
    /// A writing end of our own: without a writer the pipe would report its end.
    writer: File,
    /// Closed when the process has no more descriptors, so that a client can still be told so.
    spare: Option<File>,
    requests: JoinRequests,
    /// Since when each read has found more requests.
    busy_since: Option<Instant>,
    /// The pause, during which nothing is read.
    rest: Option<Pin<Box<Sleep>>>,
    skipped: Skipped,
}

/// Counts bytes that came through the door and were no request. It is logged each time that the count has doubled.
#[derive(Debug, Default)]
struct Skipped {
    bytes: usize,
    logged: usize,
}

impl Skipped {
    /// Adds `bytes`; returns the count if it is to be logged.
    fn add(&mut self, bytes: usize) -> Option<usize> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes == 0 || self.bytes / 2 < self.logged {
            return None;
        }
        self.logged = self.bytes;
        Some(self.bytes)
    }
}

impl DoorListener {
    /// Makes the door, and replaces one that a killed server left.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn open(paths: &EndpointPaths, _lock: &Lock) -> Result<Self, Error> {
        let path = door(paths);
        clear(&path)?;
        let (pipe, writer) = Self::make(&path, paths.access()).map_err(|error| {
            remove(&path);
            failed(format!("creating {}", path.display()), &error)
        })?;
        let spare = writer.try_clone().ok();
        let (requests, skipped) = (JoinRequests::default(), Skipped::default());
        Ok(Self { path, pipe, writer, spare, requests, busy_since: None, rest: None, skipped })
    }

    fn make(path: &Path, access: Access) -> io::Result<(Pipe, File)> {
        let pipe = make_pipe(path, access)?;
        fail_point::at("door.made");
        let writer = fifo::open_other_end(path, OFlags::WRONLY, access, &pipe)?;
        fail_point::at("door.opened");
        Ok((fifo::register(pipe)?, writer.into()))
    }

    /// Waits until clients have asked, or some of the waiting clients have gone. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the door itself fails.
    pub(crate) async fn arrivals(
        &mut self,
        paths: &EndpointPaths,
        waiting: &mut VecDeque<WaitingClient>,
    ) -> io::Result<Vec<WaitingClient>> {
        poll_fn(|cx| {
            let waited = waiting.len();
            waiting.retain_mut(|caller| caller.reply.poll_is_alive(cx));
            let mut chunk = [0; CHUNK];
            match self.poll_read_requests(cx, &mut chunk)? {
                Poll::Ready(heard) => Poll::Ready(Ok(self.take_in(&chunk[..heard], paths))),
                Poll::Pending if waiting.len() < waited => Poll::Ready(Ok(Vec::new())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Reads requests, with a pause after each [`TURN`].
    fn poll_read_requests(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8; CHUNK],
    ) -> Poll<io::Result<usize>> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        // What was read before has been handled by the time this is polled again.
        if self.busy_since.is_some_and(|since| since.elapsed() >= TURN) {
            self.busy_since = None;
            let rest = self.rest.insert(Box::pin(sleep(REST)));
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        let mut into = ReadBuf::new(into);
        if self.pipe.poll_read(cx, &mut into)?.is_pending() {
            self.busy_since = None;
            return Poll::Pending;
        }
        if into.remaining() > 0 {
            self.busy_since = None;
        } else if self.busy_since.is_none() {
            self.busy_since = Some(Instant::now());
        }
        Poll::Ready(Ok(into.filled().len()))
    }

    fn take_in(&mut self, bytes: &[u8], paths: &EndpointPaths) -> Vec<WaitingClient> {
        self.requests.extend(bytes);
        let mut callers = Vec::new();
        while let Some(request) = self.requests.next() {
            callers.extend(self.look(request, paths));
        }
        if let Some(bytes) = self.skipped.add(self.requests.take_skipped()) {
            let endpoint = paths.name();
            tracing::warn!(endpoint, bytes, "ignored bytes that are not a join request");
        }
        callers
    }

    /// The client of a request, if it is still there.
    fn look(&mut self, request: JoinRequest, paths: &EndpointPaths) -> Option<WaitingClient> {
        let files = Files::of(paths, &request.nonce);
        match fifo::open_end(&files.to_client, OFlags::WRONLY, files.access) {
            Ok(alive) => {
                Some(WaitingClient::new(request, ReplyPath { files, alive: Hold::new(alive) }))
            }
            Err(error) if fifo::is_nobody(&error) => {
                tracing::debug!(
                    process = request.process_id,
                    "a client left before it was accepted"
                );
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = %Escaped(&error),
                    process = request.process_id,
                    "could not open the event of a client"
                );
                self.tell(&files, None, Answer::failed(&error));
                None
            }
        }
    }

    /// Answers a client that goes on waiting.
    pub(crate) fn answer(&mut self, reply: &mut ReplyPath, answer: Answer) {
        self.tell(&reply.files, reply.alive.pipe(), answer);
    }

    /// Gives a client its final answer.
    #[expect(clippy::needless_pass_by_value, reason = "the client gets no other answer")]
    pub(crate) fn dismiss(&mut self, reply: ReplyPath, answer: Answer) {
        self.tell(&reply.files, reply.alive.pipe(), answer);
    }

    /// Answers a client, if it is still there. The end is opened for reading too, so that there is no `SIGPIPE`.
    fn tell(&mut self, files: &Files, known: Option<BorrowedFd<'_>>, answer: Answer) {
        let open = || match known {
            Some(known) => Notifier::open_same(&files.to_client, files.access, known),
            None => Notifier::open(&files.to_client, files.access),
        };
        let tell = || open().and_then(|pipe| pipe.write(&answer.encode()));
        let mut told = tell();
        if told.as_ref().is_err_and(is_out_of_descriptors) {
            drop(self.spare.take());
            told = tell();
        }
        if self.spare.is_none() {
            self.spare = self.writer.try_clone().ok();
        }
        if let Err(error) = told {
            tracing::debug!(error = %Escaped(&error), "could not answer a client");
        }
    }

    /// Removes the door, and returns the clients whose requests were not read yet. Does not use the runtime, which may be gone.
    ///
    /// Reads what is in the pipe once the door is gone, and at most [`LATE`] bytes of it. A client that has the pipe open may go on
    /// writing; it notices that the door is gone.
    pub(crate) fn close(&mut self, paths: &EndpointPaths) -> Vec<WaitingClient> {
        let facts = self.writer.metadata();
        if facts.is_ok_and(|facts| names(&self.path, &facts).unwrap_or(false)) {
            remove(&self.path);
        }
        fail_point::at("door.removed");
        let (mut chunk, mut late) = ([0; CHUNK], Vec::new());
        let mut left = self.pipe.unread().unwrap_or(LATE).min(LATE);
        while let Ok(read @ 1..) = self.pipe.read_now(&mut chunk[..left.min(CHUNK)]) {
            left -= read;
            late.extend(self.take_in(&chunk[..read], paths));
        }
        late
    }
}

/// How to reach a client that has asked.
#[derive(Debug)]
pub(crate) struct ReplyPath {
    files: Files,
    /// A writing end of its pipe. Not a reading end: with one we could not notice the client's death.
    alive: Hold,
}

impl ReplyPath {
    /// Makes the connection's files, and only then tells the client (E3).
    pub(crate) async fn admit(
        mut self,
        file: MemoryMappedFile,
        _paths: EndpointPaths,
        request: JoinRequest,
        lease: Lease,
    ) -> Admission {
        match self.enter(&file, &request, lease).await {
            Ok(Some(channel)) => Admission::Admitted(channel),
            Ok(None) => Admission::Gone,
            Err(error) => Admission::Failed(self, error),
        }
    }

    /// `None` if the client has gone.
    async fn enter(
        &mut self,
        file: &MemoryMappedFile,
        request: &JoinRequest,
        lease: Lease,
    ) -> io::Result<Option<Channel>> {
        let files = self.files.clone();
        // In this order: a client that died before the watch began does not read its pipe, and one that dies later is seen by the
        // watch. The pipe that we are about to make reports nothing before the client has opened it.
        let Some(alive) = self.alive.pipe() else { return Ok(None) };
        let watch = Process::behind(alive);
        if !self.alive.is_read() {
            remove(&files.to_client);
            return Ok(None);
        }
        let notifier = match Notifier::open_same(&files.to_client, files.access, alive) {
            Ok(notifier) => notifier,
            Err(error) if fifo::is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let pipe = fifo::make_waiting_end(&files.to_server, files.access)?;
        let mut made = ServerFiles::new(files.clone());
        fail_point::at("door.made_event");
        let pipe = fifo::register(pipe)?;
        let region = region_file::make(&files.region)?;
        made.region = true;
        let is_there = |cx: &mut Context<'_>| self.poll_is_alive(cx);
        let Some(region) = make(region, file, &request.nonce, files.access, is_there).await? else {
            return Ok(None);
        };
        fail_point::at("door.made_region");
        let events = NamedEvents::create(&region)?;
        let come_in =
            Answer::ComeIn { layout_version: LAYOUT_VERSION, process_id: std::process::id() };
        notifier.write(&come_in.encode())?;
        made.answered = true;
        fail_point::at("door.answered");
        // A client that gives up removes its `.c`, then looks for our `.s` and hangs up on it. Either it finds that,
        // or we find its `.c` gone: no slot stays taken by a client that left in between.
        if !files.to_client.exists() {
            return Ok(None);
        }
        tracing::debug!(
            process = request.process_id,
            watched = watch.is_some(),
            "accepted a client"
        );
        let terms = Terms {
            side: Side::Server,
            peer_process_id: Some(request.process_id),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(move || drop(made)),
            lease: Box::new(lease),
            arenas: Arenas::of_named_files(),
        };
        let proof = notifier.proof(files.access, watch.as_ref());
        let waiter = FifoWaiter::new(pipe, watch).proving(proof);
        Ok(Some(events.channel(region, notifier, waiter, terms)))
    }

    /// Whether the client is still there. If not, removes the file that it may have left.
    fn poll_is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        let there = self.alive.poll_is_read(cx);
        if !there {
            tracing::debug!("a client left before it was accepted");
            remove(&self.files.to_client);
        }
        there
    }
}

/// Removes the door that a killed server left. Anything else of this name is not ours, and an error. `[seg.file.foreign]`
fn clear(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(facts) if facts.file_type().is_fifo() => remove(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path.display().to_string(), &error)),
        Ok(_) => {
            let foreign = io::Error::from(Errno::EXIST);
            return Err(failed(format!("creating {}", path.display()), &foreign));
        }
    }
    Ok(())
}

/// The files of a connection that is being made. Dropped when the client's first frame has arrived, or never will: nobody needs the
/// files any more.
#[derive(Debug)]
struct ServerFiles {
    owner: Owner,
    files: Files,
    /// Whether the region's file is ours. The `.s` always is: a client that names another connection's files does not get this far.
    region: bool,
    /// Whether the client was admitted. If not, it still gets an answer through its own pipe, and removes that itself.
    answered: bool,
}

impl ServerFiles {
    fn new(files: Files) -> Self {
        Self { owner: Owner::here(), files, region: false, answered: false }
    }
}

impl Drop for ServerFiles {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // They belong to the parent.
        }
        if self.region {
            remove(&self.files.region);
            fail_point::at("door.removed_region");
        }
        if self.answered {
            remove(&self.files.to_client);
            fail_point::at("door.removed_event");
        }
        remove(&self.files.to_server);
        fail_point::at("door.removed_all");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::pin::pin;

    use tokio::time::advance;

    use super::*;
    use crate::endpoint::lock;

    /// Whether requests have arrived, and the door does not pause.
    async fn heard(listener: &mut DoorListener, paths: &EndpointPaths) -> bool {
        tokio::task::yield_now().await; // So that the runtime sees what is ready.
        let mut nobody = VecDeque::new();
        let mut arrivals = pin!(listener.arrivals(paths, &mut nobody));
        poll_fn(|cx| Poll::Ready(arrivals.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_is_flooded_rests_after_each_turn() {
        let directory = tempfile::tempdir().unwrap();
        let file = MemoryMappedFile::new("flooded").with_directory(directory.path().join("own"));
        let paths = EndpointPaths::of(&file).unwrap();
        paths.prepare().unwrap();
        let lock = lock::take(&paths).await.unwrap();
        let mut listener = DoorListener::open(&paths, &lock).unwrap();
        let mut flood = File::options().write(true).open(&listener.path).unwrap();
        flood.write_all(&[0; 60 * CHUNK]).unwrap();
        for _ in 0..3 {
            for _ in 0..10 {
                assert!(heard(&mut listener, &paths).await, "within its turn");
            }
            advance(TURN).await;
            let left = listener.pipe.unread().unwrap();
            assert!(!heard(&mut listener, &paths).await, "its turn is over");
            advance(REST / 2).await;
            assert!(!heard(&mut listener, &paths).await, "it rests");
            assert_eq!(listener.pipe.unread().unwrap(), left);
            // Timers have the grain of a millisecond.
            advance(2 * REST).await;
        }
        // Who comes now and then finds it open.
        while heard(&mut listener, &paths).await {}
        for _ in 0..10 {
            flood.write_all(&[0; CHUNK / 2]).unwrap();
            advance(TURN).await;
            assert!(heard(&mut listener, &paths).await, "it was not flooded");
        }
    }

    #[test]
    fn bytes_that_are_no_join_requests_are_logged_each_time_that_they_have_doubled() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.add(0), None);
        let told: Vec<_> = (0..1000).filter_map(|_| skipped.add(1)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(skipped.add(usize::MAX), Some(usize::MAX));
        assert_eq!(skipped.add(usize::MAX), None);
    }
}
