//! The client's side of meeting: knocks at `N.door` until a server answers, and goes in. `[seg.meet]`
//!
//! Each attempt has a nonce of its own and leaves nothing behind. A client never touches a lock.

use std::{fs::File, io, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until, timeout_at};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::door::read_some;
use super::fault::{failed, failed_at_server};
use super::meeting::{ANSWER_SIZE, Answer, Ask, MEETING_VERSION};
use super::place::{Files, Place, remove};
use crate::channel::{Terms, assemble};
use crate::event::fifo::{self, FifoWaiter, Ringer};
use crate::layout::{Instance, LAYOUT_VERSION};
use crate::region::{Region, Side};

/// Between attempts: soon at first, as a server is often just starting, then seldom enough to cost nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How often a client that nobody has answered looks whether the door it knocked at is still there. One that was
/// answered need not look: its server holds its pipe open, so it hears of its death at once.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Opens a channel to the server of `file`, waiting for one to appear or to have room until `deadline`.
///
/// # Errors
///
/// [`Error::NotRunning`] if no server answered until then; [`Error::Busy`] if one did, but all its places stayed
/// taken; [`Error::Incompatible`] if the server meets its clients in another way; [`Error::Config`] if the directory
/// will not do; [`Error::Io`].
pub async fn connect(file: &MemoryMappedFile, deadline: Instant) -> Result<Channel, Error> {
    file.validate()?;
    let mut search = Search { file, place: Place::of(file)?, busy: None };
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(channel) = search.attempt(deadline).await? {
            return Ok(channel);
        }
        let again = Instant::now() + pause;
        if again >= deadline {
            sleep_until(deadline).await;
            return Err(search.failure(started));
        }
        sleep_until(again).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a client knows from one attempt to the next.
struct Search<'a> {
    file: &'a MemoryMappedFile,
    place: Place,
    /// The newest thing heard is that all of this many places are taken.
    busy: Option<u32>,
}

impl Search<'_> {
    fn failure(&self, started: Instant) -> Error {
        let endpoint = self.file.name.clone();
        match self.busy {
            Some(max_clients) => Error::Busy { endpoint, max_clients },
            None => Error::NotRunning {
                endpoint,
                place: self.place.directory().display().to_string(),
                waited: started.elapsed(),
            },
        }
    }

    /// One attempt. `None` if it came to nothing: there is no server, or it has gone, or the deadline has passed.
    async fn attempt(&mut self, deadline: Instant) -> Result<Option<Channel>, Error> {
        let knocked = self.knock();
        let knocked = knocked.map_err(|error| {
            failed(format!("knocking at {}", self.place.door().display()), &error)
        });
        let Some(mut knock) = (if self.place.check()? { knocked? } else { None }) else {
            self.busy = None;
            return Ok(None);
        };
        let answer = self.wait_for_turn(&mut knock, deadline).await?;
        match answer {
            Some(Answer::ComeIn { layout_version, .. }) if layout_version != LAYOUT_VERSION => {
                Err(self.incompatible("region layout", layout_version, LAYOUT_VERSION))
            }
            Some(Answer::ComeIn { process_id, .. }) => self.enter(knock, process_id),
            Some(Answer::Refused { version }) => {
                Err(self.incompatible("meeting protocol", version, MEETING_VERSION))
            }
            Some(Answer::Failed { system_error }) => {
                let error = i32::try_from(system_error).unwrap_or(0);
                let error = Errno::from_raw_os_error(error);
                let context = format!(
                    "the server of {:?} could not make a connection's files in {}",
                    self.file.name,
                    self.place.directory().display()
                );
                Err(failed_at_server(context, error))
            }
            Some(Answer::Crowded { max_clients } | Answer::Wait { max_clients }) => {
                self.busy = Some(max_clients);
                Ok(None)
            }
            Some(Answer::Stopped) => {
                self.busy = None;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Asks to be let in, if there is a server.
    fn knock(&self) -> io::Result<Option<Knock>> {
        match self.try_knock() {
            Ok(knock) => Ok(Some(knock)),
            // No server; or a sweep took our pipe for a dead client's. A full door is one that nobody reads just now.
            Err(error) if fifo::is_nobody(&error) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_knock(&self) -> io::Result<Knock> {
        let path = self.place.door();
        // Fails if nobody reads it.
        let door =
            File::from(fifo::open_end(&path, OFlags::WRONLY, self.place.access())?).metadata()?;
        let mut nonce = Instance::default();
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let files = self.place.files(&nonce);
        fail_point::at("caller.looked");
        fifo::make(&files.to_client, files.access)?;
        let mut left = Left { files, asked: false, entered: false };
        fail_point::at("caller.made_event");
        let pipe = fifo::register(fifo::open_waiting_end(&left.files.to_client)?)?;
        let ask = Ask { version: MEETING_VERSION, process_id: std::process::id(), nonce };
        // Through an end that reads too, so that a server that dies here means no `SIGPIPE`; and closed at once, or
        // the next client would take us for the server.
        Ringer::open(&path, self.place.access())?.write(&ask.encode())?;
        left.asked = true;
        fail_point::at("caller.asked");
        Ok(Knock { nonce, left, pipe, door: (door.dev(), door.ino()), path })
    }

    /// Until the server has said the last word on this attempt. `None` if it has gone, or time is up.
    async fn wait_for_turn(
        &mut self,
        knock: &mut Knock,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let mut heard = false;
        let mut record = Record::default();
        loop {
            let look_again = Instant::now() + LOOK_AGAIN;
            let until = if heard { deadline } else { deadline.min(look_again) };
            let Ok(read) = timeout_at(until, record.read(&mut knock.pipe)).await else {
                if Instant::now() >= deadline || !knock.is_sound() {
                    return Ok(None);
                }
                continue;
            };
            let answer = read.map_err(|error| Error::io("waiting for the server", &error))?;
            match answer.map(|bytes| Answer::decode(&bytes)) {
                None => {
                    self.busy = None; // The server has gone.
                    return Ok(None);
                }
                Some(None) => {
                    return Err(Error::Protocol("the server's answer is none".to_owned()));
                }
                Some(Some(Answer::Wait { max_clients })) => {
                    tracing::debug!(endpoint = self.file.name, max_clients, "told to wait");
                    self.busy = Some(max_clients);
                    heard = true;
                }
                Some(answer) => return Ok(answer),
            }
        }
    }

    /// Opens what the server has made. `None` if the server has taken it back already.
    fn enter(&self, knock: Knock, process_id: u32) -> Result<Option<Channel>, Error> {
        let Knock { nonce, mut left, pipe, .. } = knock;
        fail_point::at("caller.answered");
        // The event first: from now on the server hears of our end, whatever becomes of the rest.
        let opened = Ringer::open(&left.files.to_server, left.files.access)
            .inspect(|_| fail_point::at("caller.opened_event"))
            .and_then(|ringer| {
                Ok((ringer, Region::attach(&left.files.region, &nonce, left.files.access)?))
            });
        let (ringer, region) = match opened {
            Ok(opened) => opened,
            Err(error) if fifo::is_nobody(&error) => return Ok(None),
            Err(error) => {
                let region = left.files.region.display();
                return Err(failed(format!("entering {region}"), &error));
            }
        };
        left.entered = true;
        fail_point::at("caller.mapped");
        let peer = ringer.watch();
        tracing::debug!(endpoint = self.file.name, watched = peer.is_some(), "let in");
        let terms = Terms {
            side: Side::Client,
            peer_process_id: Some(process_id),
            wait_strategy: self.file.wait_strategy,
            on_first_frame: Box::new(|| {}), // The server removes all, once it has our first frame.
            lease: Box::new(left),
        };
        Ok(Some(assemble(region, ringer, FifoWaiter::new(pipe, peer), terms)))
    }

    fn incompatible(&self, what: &str, theirs: u32, ours: u32) -> Error {
        Error::Incompatible(format!(
            "the server of {:?} has version {theirs} of the {what}, this client version {ours}",
            self.file.name
        ))
    }
}

/// An ask on its way.
struct Knock {
    nonce: Instance,
    left: Left,
    pipe: pipe::Receiver,
    /// Device and inode of the door that was knocked at.
    door: (u64, u64),
    path: PathBuf,
}

impl Knock {
    /// Whether an answer can still come: the same server still listens, and our pipe is still there to be found.
    fn is_sound(&self) -> bool {
        let same_door =
            self.path.symlink_metadata().is_ok_and(|facts| (facts.dev(), facts.ino()) == self.door);
        same_door
            && fifo::has_reader(&self.path, self.left.files.access).unwrap_or(true)
            && self.left.files.to_client.exists()
    }
}

/// What a client leaves behind, and takes away when it is dropped: while it waits, or with its connection, should the
/// server not have done so.
struct Left {
    files: Files,
    asked: bool,
    entered: bool,
}

impl Drop for Left {
    fn drop(&mut self) {
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
    async fn read(&mut self, pipe: &mut pipe::Receiver) -> io::Result<Option<[u8; ANSWER_SIZE]>> {
        while self.filled < ANSWER_SIZE {
            match read_some(pipe, &mut self.bytes[self.filled..]).await? {
                0 => return Ok(None),
                read => self.filled += read,
            }
        }
        self.filled = 0;
        Ok(Some(self.bytes))
    }
}
