//! A client's ask, through the server's door; and the answer, in a pipe of its own. `[seg.meet]`

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use rustix::fs::OFlags;
use tokio::time::{Instant, timeout_at};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::files::{Files, door};
use super::wakers::Wakers;
use crate::channel::Terms;
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::caller::{Knocked, Said};
use crate::endpoint::meeting::{ANSWER_SIZE, Ask, Kind, MEETING_VERSION};
use crate::endpoint::place::{Place, remove};
use crate::event::fifo::{self, FifoWaiter, Pipe, Ringer};
use crate::layout::Instance;
use crate::region::{Region, Side};
use crate::sys::Owner;

/// How often a client that nobody has answered looks whether the door it knocked at is still there. One that was
/// answered need not look: its server holds its pipe open, so it hears of its death at once.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An ask on its way.
pub(crate) struct Knock {
    nonce: Instance,
    left: Left,
    pipe: Pipe,
    record: Record,
    /// Device and inode of the door that was knocked at.
    door: (u64, u64),
    path: PathBuf,
}

impl Knock {
    /// Asks to be let in, if there is a server.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn at(place: &Place) -> io::Result<Knocked> {
        match Self::ask(place) {
            Ok(knock) => Ok(Knocked::Asked(Box::new(knock))),
            // No server; or a sweep took our pipe for a dead client's.
            Err(error) if fifo::is_nobody(&error) => Ok(Knocked::AtNobodys),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Knocked::InVain),
            Err(error) => Err(error),
        }
    }

    fn ask(place: &Place) -> io::Result<Self> {
        let path = door(place);
        // Fails if nobody reads it.
        let door = File::from(fifo::open_end(&path, OFlags::WRONLY, place.access())?);
        let mut nonce = Instance::default();
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let files = Files::of(place, &nonce);
        fail_point::at("caller.looked");
        let pipe = fifo::make_waiting_end(&files.to_client, files.access)?;
        let mut left = Left { owner: Owner::here(), files, asked: false, entered: false };
        fail_point::at("caller.made_event");
        let pipe = fifo::register(pipe)?;
        let (process_id, kind) = (std::process::id(), Kind::Client);
        let ask = Ask { version: MEETING_VERSION, process_id, nonce, kind };
        // Through an end that reads too, so that a server that dies here means no `SIGPIPE`; and closed at once, or
        // the next client would take us for the server.
        Ringer::open_same(&path, place.access(), &door)?.write(&ask.encode())?;
        left.asked = true;
        fail_point::at("caller.asked");
        let door = door.metadata()?;
        let door = (door.dev(), door.ino());
        Ok(Self { nonce, left, pipe, record: Record::default(), door, path })
    }

    /// The next answer. `heard` says whether there was one before.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) async fn hear(&mut self, heard: bool, deadline: Instant) -> io::Result<Said> {
        loop {
            let look_again = Instant::now() + LOOK_AGAIN;
            let until = if heard { deadline } else { deadline.min(look_again) };
            if let Ok(read) = timeout_at(until, self.record.read(&mut self.pipe)).await {
                return Ok(read?.map_or(Said::Gone, Said::Answer));
            }
            if !self.is_sound() {
                return Ok(Said::Gone);
            }
            if Instant::now() >= deadline {
                return Ok(Said::TimeIsUp);
            }
        }
    }

    /// Whether an answer can still come: the same server still listens, and our pipe is still there to be found.
    fn is_sound(&self) -> bool {
        let same_door =
            self.path.symlink_metadata().is_ok_and(|facts| (facts.dev(), facts.ino()) == self.door);
        same_door
            && fifo::has_reader(&self.path, self.left.files.access).unwrap_or(true)
            && self.left.files.to_client.exists()
    }

    /// Opens what the server has made. `None` if the server has taken it back already.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Config`] if the server's kind of event is not ours.
    #[expect(clippy::unused_async, reason = "on other systems it may have to wait")]
    pub(crate) async fn enter(
        self,
        file: &MemoryMappedFile,
        process_id: u32,
    ) -> Result<Option<Channel>, Error> {
        let Self { nonce, mut left, pipe, .. } = self;
        fail_point::at("caller.answered");
        // The event first: from now on the server hears of our end, whatever becomes of the rest.
        let opened = Ringer::open(&left.files.to_server, left.files.access)
            .inspect(|_| fail_point::at("caller.opened_event"))
            .and_then(|ringer| {
                Ok((ringer, Region::attach(&left.files.region, &nonce, left.files.access)?))
            });
        let context = || format!("entering {}", left.files.region.display());
        let (ringer, region) = match opened {
            Ok(opened) => opened,
            Err(error) if fifo::is_nobody(&error) => return Ok(None),
            Err(error) => return Err(failed(context(), &error)),
        };
        file.check_event(region.events())?;
        let wakers = Wakers::open(&region).map_err(|error| failed(context(), &error))?;
        left.entered = true;
        fail_point::at("caller.mapped");
        let peer = ringer.watch();
        tracing::debug!(endpoint = file.name, watched = peer.is_some(), "let in");
        let terms = Terms {
            side: Side::Client,
            peer_process_id: Some(process_id),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(|| {}), // The server removes all, once it has our first frame.
            lease: Box::new(left),
        };
        Ok(Some(wakers.channel(region, ringer, FifoWaiter::new(pipe, peer), terms)))
    }
}

/// What a client leaves behind, and takes away when it is dropped: while it waits, or with its connection, should the
/// server not have done so.
struct Left {
    owner: Owner,
    files: Files,
    asked: bool,
    entered: bool,
}

impl Drop for Left {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The parent's client goes on.
        }
        remove(&self.files.to_client);
        fail_point::at("caller.left");
        if self.asked && !self.entered {
            // Should the server be letting us in this very moment: to open its event and close it is to hang up.
            drop(fifo::open_end(&self.files.to_server, OFlags::WRONLY, self.files.access));
        }
    }
}

/// An answer that is being read. Exactly its bytes are taken: those behind the last answer are rings.
#[derive(Default)]
struct Record {
    bytes: [u8; ANSWER_SIZE],
    filled: usize,
}

impl Record {
    /// The next whole answer; `None` at the end of the pipe. Nothing is lost if the future is dropped.
    async fn read(&mut self, pipe: &mut Pipe) -> io::Result<Option<[u8; ANSWER_SIZE]>> {
        while self.filled < ANSWER_SIZE {
            match pipe.read_some(&mut self.bytes[self.filled..]).await? {
                0 => return Ok(None),
                read => self.filled += read,
            }
        }
        self.filled = 0;
        Ok(Some(self.bytes))
    }
}
