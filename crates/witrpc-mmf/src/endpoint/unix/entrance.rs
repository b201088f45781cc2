//! The door of a server: a named pipe that clients write asks into. Answers go into the client's own pipe. `[seg.meet]`

use std::{
    collections::VecDeque,
    fs::File,
    future::{poll_fn, ready},
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
    pin::Pin,
};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::unix::pipe;
use witrpc_core::{Error, fail_point};

use super::fault::{failed, is_out_of_descriptors};
use super::{Files, Lock, Wakers, door, names};
use crate::channel::Terms;
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::door::{Caller, Entering};
use crate::endpoint::meeting::{Answer, Ask, Asks};
use crate::endpoint::place::{Place, remove};
use crate::endpoint::places::Lease;
use crate::event::fifo::{self, FifoWaiter, Process, Ringer};
use crate::layout::LAYOUT_VERSION;
use crate::region::{Region, Side};
use crate::sys::Access;

/// Sixty-four asks at a time.
const CHUNK: usize = 4096;

/// Where asks come from.
#[derive(Debug)]
pub(crate) struct Entrance {
    /// Of its file.
    path: PathBuf,
    pipe: pipe::Receiver,
    /// A writer of our own, so that the pipe has no end when no client has it open.
    writer: File,
    /// Given up when the process has no more descriptors, so that a client can still be told so.
    spare: Option<File>,
    asks: Asks,
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
        Ok(Self { path, pipe, writer, spare, asks: Asks::default() })
    }

    fn make(path: &Path, access: Access) -> io::Result<(pipe::Receiver, File)> {
        fifo::make(path, access)?;
        fail_point::at("door.made");
        let pipe = fifo::open_end(path, OFlags::RDONLY, access)?;
        fail_point::at("door.opened");
        let writer = fifo::open_end(path, OFlags::WRONLY, access)?;
        Ok((fifo::register(pipe)?, writer.into()))
    }

    /// Waits until clients have asked. Whether those that wait are still there is seen when it is their turn. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// If the door itself fails.
    pub(crate) async fn arrivals(
        &mut self,
        place: &Place,
        _waiting: &mut VecDeque<Caller>,
    ) -> io::Result<Vec<Caller>> {
        let mut chunk = [0; CHUNK];
        let read = read_some(&mut self.pipe, &mut chunk).await?;
        Ok(self.take_in(&chunk[..read], place))
    }

    fn take_in(&mut self, bytes: &[u8], place: &Place) -> Vec<Caller> {
        self.asks.extend(bytes);
        let mut callers = Vec::new();
        while let Some(ask) = self.asks.next() {
            callers.extend(self.look(ask, place));
        }
        let skipped = self.asks.take_skipped();
        if skipped > 0 {
            let endpoint = place.name();
            tracing::warn!(endpoint, skipped, "bytes that are no ask came through the door");
        }
        callers
    }

    /// Who asks, if it is still there.
    fn look(&mut self, ask: Ask, place: &Place) -> Option<Caller> {
        let files = Files::of(place, &ask.nonce);
        match fifo::open_end(&files.to_client, OFlags::WRONLY, files.access) {
            Ok(alive) => Some(Caller::new(ask, Way { files, alive })),
            Err(error) if fifo::is_nobody(&error) => {
                tracing::debug!(process = ask.process_id, "a client asked and went");
                None
            }
            Err(error) => {
                tracing::warn!(%error, process = ask.process_id, "a client cannot be waited for");
                self.tell(&files, Answer::failed(&error));
                None
            }
        }
    }

    /// Tells a client that waits.
    pub(crate) fn answer(&mut self, way: &mut Way, answer: Answer) {
        self.tell(&way.files, answer);
    }

    /// Tells a client that is not waited for any longer.
    #[expect(clippy::needless_pass_by_value, reason = "the way ends here")]
    pub(crate) fn dismiss(&mut self, way: Way, answer: Answer) {
        self.tell(&way.files, answer);
    }

    /// Tells a client, if it is still there. Through an end that reads too: no `SIGPIPE` whatever it does.
    fn tell(&mut self, files: &Files, answer: Answer) {
        let tell = || {
            Ringer::open(&files.to_client, files.access)
                .and_then(|pipe| pipe.write(&answer.encode()))
        };
        let mut told = tell();
        if told.as_ref().is_err_and(is_out_of_descriptors) {
            drop(self.spare.take());
            told = tell();
        }
        if self.spare.is_none() {
            self.spare = self.writer.try_clone().ok();
        }
        if let Err(error) = told {
            tracing::debug!(%error, "a client could not be answered");
        }
    }

    /// Removes the door, and returns who has asked and was not heard yet; without the runtime, which may be gone.
    pub(crate) fn close(&mut self, place: &Place) -> Vec<Caller> {
        // No more asks after this, but by who has the pipe open already: such a client sees its door gone.
        let facts = self.writer.metadata();
        if facts.is_ok_and(|facts| names(&self.path, &facts).unwrap_or(false)) {
            remove(&self.path);
        }
        fail_point::at("door.removed");
        let (mut chunk, mut late) = ([0; CHUNK], Vec::new());
        while let Ok(read @ 1..) = rustix::io::read(&self.pipe, &mut chunk) {
            late.extend(self.take_in(&chunk[..read], place));
        }
        late
    }
}

/// To a client that has asked.
#[derive(Debug)]
pub(crate) struct Way {
    files: Files,
    /// A writing end of its pipe: if we die, it notices. No reading end, or we could not notice if it dies.
    alive: OwnedFd,
}

impl Way {
    /// Makes all that the connection needs, and only then says so (E3). `None` if the client has gone.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn let_in(
        &mut self,
        file: &MemoryMappedFile,
        _place: &Place,
        ask: &Ask,
        lease: Lease,
    ) -> io::Result<Option<Entering>> {
        let files = &self.files;
        // In this order: whoever dies before the watch is not there, and whoever dies later is seen by it. The pipe that
        // we are about to make tells nothing before the client has opened it.
        let watch = Process::behind(&self.alive);
        if !self.is_there() {
            remove(&files.to_client);
            return Ok(None);
        }
        let ringer = Ringer::open(&files.to_client, files.access)?;
        fifo::make(&files.to_server, files.access)?;
        let mut made = Made { files: files.clone(), region: false };
        fail_point::at("door.made_event");
        let pipe = fifo::register(fifo::open_waiting_end(&files.to_server)?)?;
        let region =
            Region::create(&files.region, file.size, &ask.nonce, file.named_event, files.access)?;
        made.region = true;
        fail_point::at("door.made_region");
        let wakers = Wakers::create(&region)?;
        let come_in =
            Answer::ComeIn { layout_version: LAYOUT_VERSION, process_id: std::process::id() };
        ringer.write(&come_in.encode())?;
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
        let channel = wakers.channel(region, ringer, FifoWaiter::new(pipe, watch), terms);
        Ok(Some(Entering::new(ready(channel))))
    }

    /// Also if there is no telling: then letting it in fails, for a reason that it hears.
    fn is_there(&self) -> bool {
        fifo::has_reader(&self.files.to_client, self.files.access).unwrap_or(true)
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
    files: Files,
    /// Whether the region's file is ours. Its `.s` is; a client that names another connection's never gets here.
    region: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.region {
            remove(&self.files.region);
            fail_point::at("door.removed_region");
            // Without a region the client is still to be told why, through this; then it removes it itself.
            remove(&self.files.to_client);
            fail_point::at("door.removed_event");
        }
        remove(&self.files.to_server);
        fail_point::at("door.removed_all");
    }
}

/// Reads what there is, once there is something; 0 is the end of the pipe. Nothing is lost if the future is dropped.
pub(super) async fn read_some(pipe: &mut pipe::Receiver, into: &mut [u8]) -> io::Result<usize> {
    let mut into = ReadBuf::new(into);
    poll_fn(|cx| Pin::new(&mut *pipe).poll_read(cx, &mut into)).await?;
    Ok(into.filled().len())
}
