//! The door of a server: a named pipe that clients write asks into. Answers go into the client's own pipe. `[seg.meet]`

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
use super::wakers::Wakers;
use crate::channel::Terms;
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::door::{Caller, Entered};
use crate::endpoint::making::make;
use crate::endpoint::meeting::{Answer, Ask, Asks};
use crate::endpoint::place::{Place, remove};
use crate::endpoint::places::Lease;
use crate::event::fifo::{self, FifoWaiter, Hold, Pipe, Process, Ringer};
use crate::layout::LAYOUT_VERSION;
use crate::region::Side;
use crate::sys::open::make_pipe;
use crate::sys::{Access, Owner, region_file};

/// Sixteen asks at a time: to look at them, and to answer each, takes some hundred microseconds at most.
const CHUNK: usize = 1024;
/// How long asks are taken in while there are always more, and how long nothing is read then: however many ask, the connections of
/// the same runtime have most of its time.
const TURN: Duration = Duration::from_micros(500);
const REST: Duration = Duration::from_millis(1);
/// What is read of a door that closes: a pipe's usual capacity. Who may write to it can give it a larger one.
const LATE: usize = 64 << 10;

/// A fourth of the descriptors that this process may have, and no more than this many: each client that waits takes one.
const LONGEST_QUEUE: u64 = if cfg!(test) { 3 } else { 1024 };

/// How many clients wait at most.
pub(crate) fn longest_queue() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    let clients = descriptors.map_or(LONGEST_QUEUE, |all| (all / 4).clamp(1, LONGEST_QUEUE));
    usize::try_from(clients).unwrap_or(usize::MAX)
}

/// Where asks come from.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Of its file.
    path: PathBuf,
    pipe: Pipe,
    /// A writer of our own, so that the pipe has no end when no client has it open.
    writer: File,
    /// Given up when the process has no more descriptors, so that a client can still be told so.
    spare: Option<File>,
    asks: Asks,
    /// Since when there have always been more.
    busy_since: Option<Instant>,
    /// Nothing is read before it is over.
    rest: Option<Pin<Box<Sleep>>>,
    skipped: Skipped,
}

/// Bytes that came through the door and were no ask. Each time they are twice as many there is a line in the log.
#[derive(Debug, Default)]
struct Skipped {
    bytes: usize,
    told: usize,
}

impl Skipped {
    /// How many there are with these, if that is to be told.
    fn add(&mut self, bytes: usize) -> Option<usize> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes == 0 || self.bytes / 2 < self.told {
            return None;
        }
        self.told = self.bytes;
        Some(self.bytes)
    }
}

impl Entrance {
    /// Makes the door, in place of what a killed server left.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn open(place: &Place, _lock: &Lock) -> Result<Self, Error> {
        let path = door(place);
        clear(&path)?;
        let (pipe, writer) = Self::make(&path, place.access()).map_err(|error| {
            remove(&path);
            failed(format!("the door {}", path.display()), &error)
        })?;
        let spare = writer.try_clone().ok();
        let (asks, skipped) = (Asks::default(), Skipped::default());
        Ok(Self { path, pipe, writer, spare, asks, busy_since: None, rest: None, skipped })
    }

    fn make(path: &Path, access: Access) -> io::Result<(Pipe, File)> {
        let pipe = make_pipe(path, access)?;
        fail_point::at("door.made");
        let writer = fifo::open_other_end(path, OFlags::WRONLY, access, &pipe)?;
        fail_point::at("door.opened");
        Ok((fifo::register(pipe)?, writer.into()))
    }

    /// Waits until clients have asked, or some of those that wait have gone. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the door itself fails.
    pub(crate) async fn arrivals(
        &mut self,
        place: &Place,
        waiting: &mut VecDeque<Caller>,
    ) -> io::Result<Vec<Caller>> {
        poll_fn(|cx| {
            let waited = waiting.len();
            waiting.retain_mut(|caller| caller.way.poll_is_there(cx));
            let mut chunk = [0; CHUNK];
            match self.poll_hear(cx, &mut chunk)? {
                Poll::Ready(heard) => Poll::Ready(Ok(self.take_in(&chunk[..heard], place))),
                Poll::Pending if waiting.len() < waited => Poll::Ready(Ok(Vec::new())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Reads what there is, once there is something, and not without a rest.
    fn poll_hear(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8; CHUNK],
    ) -> Poll<io::Result<usize>> {
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
        }
        // Each time that this is polled, what was read before has been dealt with.
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

    fn take_in(&mut self, bytes: &[u8], place: &Place) -> Vec<Caller> {
        self.asks.extend(bytes);
        let mut callers = Vec::new();
        while let Some(ask) = self.asks.next() {
            callers.extend(self.look(ask, place));
        }
        if let Some(bytes) = self.skipped.add(self.asks.take_skipped()) {
            let endpoint = place.name();
            tracing::warn!(endpoint, bytes, "bytes that are no ask came through the door");
        }
        callers
    }

    /// Who asks, if it is still there.
    fn look(&mut self, ask: Ask, place: &Place) -> Option<Caller> {
        let files = Files::of(place, &ask.nonce);
        match fifo::open_end(&files.to_client, OFlags::WRONLY, files.access) {
            Ok(alive) => Some(Caller::new(ask, Way { files, alive: Hold::new(alive) })),
            Err(error) if fifo::is_nobody(&error) => {
                tracing::debug!(process = ask.process_id, "a client asked and went");
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = %Escaped(&error),
                    process = ask.process_id,
                    "a client cannot be waited for"
                );
                self.tell(&files, None, Answer::failed(&error));
                None
            }
        }
    }

    /// Tells a client that waits.
    pub(crate) fn answer(&mut self, way: &mut Way, answer: Answer) {
        self.tell(&way.files, way.alive.pipe(), answer);
    }

    /// Tells a client that is not waited for any longer.
    #[expect(clippy::needless_pass_by_value, reason = "the way ends here")]
    pub(crate) fn dismiss(&mut self, way: Way, answer: Answer) {
        self.tell(&way.files, way.alive.pipe(), answer);
    }

    /// Tells a client, if it is still there. Through an end that reads too: no `SIGPIPE` whatever it does.
    fn tell(&mut self, files: &Files, known: Option<BorrowedFd<'_>>, answer: Answer) {
        let open = || match known {
            Some(known) => Ringer::open_same(&files.to_client, files.access, known),
            None => Ringer::open(&files.to_client, files.access),
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
            tracing::debug!(error = %Escaped(&error), "a client could not be answered");
        }
    }

    /// Removes the door, and returns who has asked and was not heard yet; without the runtime, which may be gone.
    ///
    /// Reads what is in the pipe once the door is gone, and at most [`LATE`] bytes of it. Who has the pipe open may go on writing:
    /// such a client sees its door gone.
    pub(crate) fn close(&mut self, place: &Place) -> Vec<Caller> {
        let facts = self.writer.metadata();
        if facts.is_ok_and(|facts| names(&self.path, &facts).unwrap_or(false)) {
            remove(&self.path);
        }
        fail_point::at("door.removed");
        let (mut chunk, mut late) = ([0; CHUNK], Vec::new());
        let mut left = self.pipe.unread().unwrap_or(LATE).min(LATE);
        while let Ok(read @ 1..) = self.pipe.read_now(&mut chunk[..left.min(CHUNK)]) {
            left -= read;
            late.extend(self.take_in(&chunk[..read], place));
        }
        late
    }
}

/// To a client that has asked.
#[derive(Debug)]
pub(crate) struct Way {
    files: Files,
    /// A writing end of its pipe. No reading end, or we could not notice if it dies.
    alive: Hold,
}

impl Way {
    /// Makes all that the connection needs, and only then says so (E3).
    pub(crate) async fn let_in(
        mut self,
        file: MemoryMappedFile,
        _place: Place,
        ask: Ask,
        lease: Lease,
    ) -> Entered {
        match self.enter(&file, &ask, lease).await {
            Ok(Some(channel)) => Entered::In(channel),
            Ok(None) => Entered::Gone,
            Err(error) => Entered::Failed(self, error),
        }
    }

    /// `None` if the client has gone.
    async fn enter(
        &mut self,
        file: &MemoryMappedFile,
        ask: &Ask,
        lease: Lease,
    ) -> io::Result<Option<Channel>> {
        let files = self.files.clone();
        // In this order: whoever dies before the watch is not there, and whoever dies later is seen by it. The pipe that
        // we are about to make tells nothing before the client has opened it.
        let Some(alive) = self.alive.pipe() else { return Ok(None) };
        let watch = Process::behind(alive);
        if !self.alive.is_read() {
            remove(&files.to_client);
            return Ok(None);
        }
        let ringer = match Ringer::open_same(&files.to_client, files.access, alive) {
            Ok(ringer) => ringer,
            Err(error) if fifo::is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let pipe = fifo::make_waiting_end(&files.to_server, files.access)?;
        let mut made = Made::new(files.clone());
        fail_point::at("door.made_event");
        let pipe = fifo::register(pipe)?;
        let region = region_file::make(&files.region)?;
        made.region = true;
        let is_there = |cx: &mut Context<'_>| self.poll_is_there(cx);
        let Some(region) = make(region, file, &ask.nonce, files.access, is_there).await? else {
            return Ok(None);
        };
        fail_point::at("door.made_region");
        let wakers = Wakers::create(&region)?;
        let come_in =
            Answer::ComeIn { layout_version: LAYOUT_VERSION, process_id: std::process::id() };
        ringer.write(&come_in.encode())?;
        made.answered = true;
        fail_point::at("door.answered");
        // A client that gives up removes its `.c`, then looks for our `.s` and hangs up on it. Either it finds that,
        // or we find its `.c` gone: no place stays taken by a client that left in between.
        if !files.to_client.exists() {
            return Ok(None);
        }
        tracing::debug!(process = ask.process_id, watched = watch.is_some(), "let in");
        let terms = Terms {
            side: Side::Server,
            peer_process_id: Some(ask.process_id),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(move || drop(made)),
            lease: Box::new(lease),
        };
        Ok(Some(wakers.channel(region, ringer, FifoWaiter::new(pipe, watch), terms)))
    }

    /// Whether the client is still there; if not, what it may have left has gone too.
    fn poll_is_there(&mut self, cx: &mut Context<'_>) -> bool {
        let there = self.alive.poll_is_read(cx);
        if !there {
            tracing::debug!("a client that waited has gone");
            remove(&self.files.to_client);
        }
        there
    }
}

/// Removes the door that a killed server left; anything else that has its name is not ours. `[seg.file.foreign]`
fn clear(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(facts) if facts.file_type().is_fifo() => remove(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(path.display().to_string(), &error)),
        Ok(_) => {
            let foreign = io::Error::from(Errno::EXIST);
            return Err(failed(format!("the door {}", path.display()), &foreign));
        }
    }
    Ok(())
}

/// The files of a connection that is being made. Dropped when the client's first frame has come, or when it never
/// will: either way nobody needs them any more.
#[derive(Debug)]
struct Made {
    owner: Owner,
    files: Files,
    /// Whether the region's file is ours. Its `.s` is; a client that names another connection's never gets here.
    region: bool,
    /// Whether the client was told to come in. If not it is still to be told why, through its own pipe, and removes that itself.
    answered: bool,
}

impl Made {
    fn new(files: Files) -> Self {
        Self { owner: Owner::here(), files, region: false, answered: false }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // They are of a connection of the parent's.
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

    /// What has come, if something is there now and the door does not rest.
    async fn heard(entrance: &mut Entrance, place: &Place) -> bool {
        tokio::task::yield_now().await; // So that the runtime sees what is ready.
        let mut nobody = VecDeque::new();
        let mut arrivals = pin!(entrance.arrivals(place, &mut nobody));
        poll_fn(|cx| Poll::Ready(arrivals.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_is_flooded_rests_after_each_turn() {
        let directory = tempfile::tempdir().unwrap();
        let file = MemoryMappedFile::new("flooded").with_directory(directory.path().join("own"));
        let place = Place::of(&file).unwrap();
        place.prepare().unwrap();
        let lock = lock::take(&place).await.unwrap();
        let mut entrance = Entrance::open(&place, &lock).unwrap();
        let mut flood = File::options().write(true).open(&entrance.path).unwrap();
        flood.write_all(&[0; 60 * CHUNK]).unwrap();
        for _ in 0..3 {
            for _ in 0..10 {
                assert!(heard(&mut entrance, &place).await, "within its turn");
            }
            advance(TURN).await;
            let left = entrance.pipe.unread().unwrap();
            assert!(!heard(&mut entrance, &place).await, "its turn is over");
            advance(REST / 2).await;
            assert!(!heard(&mut entrance, &place).await, "it rests");
            assert_eq!(entrance.pipe.unread().unwrap(), left);
            // Timers have the grain of a millisecond.
            advance(2 * REST).await;
        }
        // Who comes now and then finds it open.
        while heard(&mut entrance, &place).await {}
        for _ in 0..10 {
            flood.write_all(&[0; CHUNK / 2]).unwrap();
            advance(TURN).await;
            assert!(heard(&mut entrance, &place).await, "it was not flooded");
        }
    }

    #[test]
    fn bytes_that_are_no_asks_are_told_of_each_time_that_they_have_doubled() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.add(0), None);
        let told: Vec<_> = (0..1000).filter_map(|_| skipped.add(1)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!(skipped.add(usize::MAX), Some(usize::MAX));
        assert_eq!(skipped.add(usize::MAX), None);
    }
}
