//! A client's attempt to join: the join request goes through the server's door, the answer through a pipe that the client makes. `[seg.meet]`

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use rustix::fs::OFlags;
use tokio::time::{Instant, timeout_at};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::files::{Files, door};
use super::named_events::NamedEvents;
use crate::channel::{Arenas, Terms};
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::caller::{AttemptSent, Received};
use crate::endpoint::paths::{EndpointPaths, remove};
use crate::endpoint::rendezvous::{ANSWER_SIZE, JoinRequest, Kind, RENDEZVOUS_VERSION};
use crate::event::fifo::{self, FifoWaiter, Notifier, Pipe};
use crate::layout::Instance;
use crate::region::{Region, Side};
use crate::sys::Owner;

/// How often a client without an answer checks whether the server's door is still there. Once answered it need not check: its server
/// holds the client's pipe open, so the client notices the server's death at once.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A join request that was sent.
pub(crate) struct JoinAttempt {
    nonce: Instance,
    own: ClientFiles,
    pipe: Pipe,
    record: Record,
    /// Device and inode of the door that the request went through.
    door: (u64, u64),
    path: PathBuf,
}

impl JoinAttempt {
    /// Sends a request, if there is a server.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn send(paths: &EndpointPaths) -> io::Result<AttemptSent> {
        match Self::request(paths) {
            Ok(request) => Ok(AttemptSent::Waiting(Box::new(request))),
            // No server; or a sweep removed our pipe as that of a dead client.
            Err(error) if fifo::is_nobody(&error) => Ok(AttemptSent::NoServer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(AttemptSent::NotAccepted),
            Err(error) => Err(error),
        }
    }

    fn request(paths: &EndpointPaths) -> io::Result<Self> {
        let path = door(paths);
        // Fails if nobody reads it.
        let door = File::from(fifo::open_end(&path, OFlags::WRONLY, paths.access())?);
        let mut nonce = Instance::default();
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let files = Files::of(paths, &nonce);
        fail_point::at("caller.looked");
        let pipe = fifo::make_waiting_end(&files.to_client, files.access)?;
        let mut own = ClientFiles { owner: Owner::here(), files, asked: false, entered: false };
        fail_point::at("caller.made_event");
        let pipe = fifo::register(pipe)?;
        let (process_id, kind) = (std::process::id(), Kind::Client);
        let request = JoinRequest { version: RENDEZVOUS_VERSION, process_id, nonce, kind };
        // The end is opened for reading too, so that a server that dies now causes no `SIGPIPE`. It is closed at once: otherwise the
        // next client would take us for the server.
        Notifier::open_same(&path, paths.access(), &door)?.write(&request.encode())?;
        own.asked = true;
        fail_point::at("caller.asked");
        let door = door.metadata()?;
        let door = (door.dev(), door.ino());
        Ok(Self { nonce, own, pipe, record: Record::default(), door, path })
    }

    /// Waits for the next answer. `heard` says whether there was one before.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) async fn next_answer(
        &mut self,
        heard: bool,
        deadline: Instant,
    ) -> io::Result<Received> {
        loop {
            let look_again = Instant::now() + LOOK_AGAIN;
            let until = if heard { deadline } else { deadline.min(look_again) };
            if let Ok(read) = timeout_at(until, self.record.read(&mut self.pipe)).await {
                return Ok(read?.map_or(Received::Gone, Received::Answer));
            }
            if !self.is_sound() {
                return Ok(Received::Gone);
            }
            if Instant::now() >= deadline {
                return Ok(Received::TimedOut);
            }
        }
    }

    /// Whether an answer can still come: the same server still listens, and our pipe is still there to be found.
    fn is_sound(&self) -> bool {
        let same_door =
            self.path.symlink_metadata().is_ok_and(|facts| (facts.dev(), facts.ino()) == self.door);
        same_door
            && fifo::has_reader(&self.path, self.own.files.access).unwrap_or(true)
            && self.own.files.to_client.exists()
    }

    /// Opens the files that the server has made. `None` if the server has removed them already.
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
        let Self { nonce, mut own, pipe, .. } = self;
        fail_point::at("caller.answered");
        // The event first: from now on the server notices our end, even if the rest fails.
        let opened = Notifier::open(&own.files.to_server, own.files.access)
            .inspect(|_| fail_point::at("caller.opened_event"))
            .and_then(|notifier| {
                Ok((notifier, Region::attach(&own.files.region, &nonce, own.files.access)?))
            });
        let context = || format!("opening {}", own.files.region.display());
        let (notifier, region) = match opened {
            Ok(opened) => opened,
            Err(error) if fifo::is_nobody(&error) => return Ok(None),
            Err(error) => return Err(failed(context(), &error)),
        };
        file.check_event(region.events())?;
        let events = NamedEvents::open(&region).map_err(|error| failed(context(), &error))?;
        own.entered = true;
        fail_point::at("caller.mapped");
        let peer = notifier.watch();
        let proof = notifier.proof(own.files.access, peer.as_ref());
        tracing::debug!(endpoint = file.name, watched = peer.is_some(), "accepted by the server");
        let terms = Terms {
            side: Side::Client,
            peer_process_id: Some(process_id),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(|| {}), // The server removes all, once it has our first frame.
            lease: Box::new(own),
            arenas: Arenas::of_named_files(),
        };
        let waiter = FifoWaiter::new(pipe, peer).proving(proof);
        Ok(Some(events.channel(region, notifier, waiter, terms)))
    }
}

/// The client's files. Dropping this removes them: when the client stops waiting, or with its connection if the server has not removed
/// them.
struct ClientFiles {
    owner: Owner,
    files: Files,
    asked: bool,
    entered: bool,
}

impl Drop for ClientFiles {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The client belongs to the parent.
        }
        remove(&self.files.to_client);
        fail_point::at("caller.left");
        if self.asked && !self.entered {
            // If the server is admitting us at this moment: opening its event and closing it is a hang-up.
            drop(fifo::open_end(&self.files.to_server, OFlags::WRONLY, self.files.access));
        }
    }
}

/// An answer that is being read. Exactly its bytes are taken: those behind the last answer are notifications.
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
