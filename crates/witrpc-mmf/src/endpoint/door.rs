//! The server's side of meeting: reads asks from `N.door`, keeps the queue, and lets clients in. `[seg.meet]`
//!
//! Nothing here waits for a client. Whatever a client does or leaves undone costs it its own turn: a queue holds
//! what was asked, and each step towards a client is a system call that does not block. What a client that was let
//! in does next is bounded by the handshake deadline of the layers above.

use std::{
    collections::VecDeque,
    fs::File,
    future::poll_fn,
    io,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::Path,
    pin::Pin,
};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::unix::pipe;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::fault::{failed, is_out_of_descriptors};
use super::lock::Lock;
use super::meeting::{Answer, Ask, Asks, MEETING_VERSION};
use super::place::{Files, Place, names, remove};
use super::places::{Lease, Places};
use super::sweep::sweep;
use crate::access::Access;
use crate::channel::{Terms, assemble};
use crate::event::fifo::{self, FifoWaiter, Process, Ringer};
use crate::layout::LAYOUT_VERSION;
use crate::region::{Region, Side};

/// Far more than could be served in any patience, and few enough for the descriptors: each that waits takes one.
/// Further clients are told to ask again later, and so lose nothing but their place in the order.
const LONGEST_QUEUE: usize = if cfg!(test) { 3 } else { 1024 };
/// Sixty-four asks at a time.
const CHUNK: usize = 4096;

/// A listening endpoint. Dropping it tells the clients that wait, and removes what it made.
#[derive(Debug)]
pub struct Door {
    file: MemoryMappedFile,
    place: Place,
    places: Places,
    pipe: pipe::Receiver,
    /// A writer of our own, so that the pipe has no end when no client has it open.
    writer: File,
    /// Given up when the process has no more descriptors, so that a client can still be told so.
    spare: Option<File>,
    asks: Asks,
    /// In the order of asking.
    queue: VecDeque<Caller>,
    /// Let go of last, after `drop` has removed the door: E1.
    _lock: Lock,
}

impl Door {
    /// Becomes the one server of this endpoint, removes what killed ones left, and listens.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] if another live server has the name, [`Error::Config`] if the directory will not do,
    /// [`Error::Io`].
    pub async fn open(file: &MemoryMappedFile, places: &Places) -> Result<Self, Error> {
        file.validate()?;
        let place = Place::of(file)?;
        place.prepare()?;
        let lock = Lock::take(&place).await?;
        fail_point::at("door.locked");
        sweep(&place);
        place.check_room(file.size)?;
        let path = place.door();
        clear(&path)?;
        places.post_in(Some(lock.reopen()?));
        fail_point::at("door.recorded");
        let (pipe, writer) = Self::make(&path, place.access()).map_err(|error| {
            places.post_in(None);
            remove(&path);
            failed(format!("the door {}", path.display()), &error)
        })?;
        tracing::debug!(endpoint = file.name, directory = %place.directory().display(), "listening");
        Ok(Self {
            file: file.clone(),
            place,
            places: places.clone(),
            pipe,
            spare: writer.try_clone().ok(),
            writer,
            asks: Asks::default(),
            queue: VecDeque::new(),
            _lock: lock,
        })
    }

    fn make(path: &Path, access: Access) -> io::Result<(pipe::Receiver, File)> {
        fifo::make(path, access)?;
        fail_point::at("door.made");
        let pipe = fifo::open_end(path, OFlags::RDONLY, access)?;
        fail_point::at("door.opened");
        let writer = fifo::open_end(path, OFlags::WRONLY, access)?;
        Ok((fifo::register(pipe)?, writer.into()))
    }

    /// Waits for a client, and for a place for it, and lets it in. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the door itself fails. What goes wrong with one client is told to that client and to the
    /// log, and the wait goes on.
    pub async fn accept(&mut self) -> Result<Channel, Error> {
        loop {
            while let Some(channel) = self.let_in_next() {
                if let Some(channel) = channel {
                    return Ok(channel);
                }
            }
            let mut chunk = [0; CHUNK];
            tokio::select! {
                biased; // Asks first: who asked while no place was free is to be told so.
                read = read_some(&mut self.pipe, &mut chunk) => {
                    let read = read.map_err(|error| Error::io("reading the door", &error))?;
                    self.take_in(&chunk[..read]);
                }
                () = self.places.wait(), if !self.queue.is_empty() => {}
            }
        }
    }

    /// Lets in the first of the queue: `None` if nobody waits or no place is free, `Some(None)` if it has gone.
    fn let_in_next(&mut self) -> Option<Option<Channel>> {
        if self.queue.is_empty() {
            return None;
        }
        let Some(lease) = self.places.try_take() else {
            self.tell_to_wait();
            return None;
        };
        let caller = self.queue.pop_front()?;
        Some(self.let_in(caller, lease))
    }

    fn tell_to_wait(&mut self) {
        let answer = Answer::Wait { max_clients: self.file.max_clients };
        let untold = self.queue.iter_mut().rev().take_while(|caller| !caller.told);
        let untold = untold.map(|caller| {
            caller.told = true;
            caller.files.clone()
        });
        for files in untold.collect::<Vec<_>>() {
            self.answer(&files, answer);
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.asks.extend(bytes);
        while let Some(ask) = self.asks.next() {
            fail_point::at("door.asked");
            self.enqueue(ask);
        }
        let skipped = self.asks.take_skipped();
        if skipped > 0 {
            let endpoint = &*self.file.name;
            tracing::warn!(endpoint, skipped, "bytes that are no ask came through the door");
        }
    }

    fn enqueue(&mut self, ask: Ask) {
        let files = self.place.files(&ask.nonce);
        let caller = match Caller::look(ask, &files) {
            Ok(caller) => caller,
            Err(error) if fifo::is_nobody(&error) => {
                return tracing::debug!(process = ask.process_id, "a client asked and went");
            }
            Err(error) => {
                tracing::warn!(%error, process = ask.process_id, "a client cannot be waited for");
                return self.fail(&files, &error);
            }
        };
        if ask.version != MEETING_VERSION {
            tracing::warn!(process = ask.process_id, version = ask.version, "a client was refused");
            return self.answer(&caller.files, Answer::Refused { version: MEETING_VERSION });
        }
        if self.queue.len() >= LONGEST_QUEUE {
            return self.answer(&files, Answer::Crowded { max_clients: self.file.max_clients });
        }
        if self.queue.iter().all(|waiting| waiting.ask.nonce != ask.nonce) {
            self.queue.push_back(caller);
        }
    }

    fn let_in(&mut self, caller: Caller, lease: Lease) -> Option<Channel> {
        let process = caller.ask.process_id;
        // In this order: whoever dies before the watch is not there, and whoever dies later is seen by it. The pipe that
        // we are about to make tells nothing before the client has opened it.
        let watch = Process::behind(&caller.alive);
        if !caller.is_there() {
            tracing::debug!(process, "a client that waited has gone");
            remove(&caller.files.to_client);
            return None;
        }
        match self.meet(&caller, watch, lease) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::warn!(process, %error, "a client could not be let in");
                self.fail(&caller.files, &error);
                None
            }
        }
    }

    /// Makes all that the connection needs, and only then says so (E3). `None` if the client went meanwhile.
    fn meet(
        &self,
        caller: &Caller,
        watch: Option<Process>,
        lease: Lease,
    ) -> io::Result<Option<Channel>> {
        let files = &caller.files;
        let ringer = Ringer::open(&files.to_client, files.access)?;
        fifo::make(&files.to_server, files.access)?;
        let mut made = Made { files: files.clone(), region: false };
        fail_point::at("door.made_event");
        let pipe = fifo::register(fifo::open_waiting_end(&files.to_server)?)?;
        let region =
            Region::create(&files.region, self.file.size, &caller.ask.nonce, files.access)?;
        made.region = true;
        fail_point::at("door.made_region");
        let come_in =
            Answer::ComeIn { layout_version: LAYOUT_VERSION, process_id: std::process::id() };
        ringer.write(&come_in.encode())?;
        fail_point::at("door.answered");
        // A client that gives up removes its `.c`, then looks for our `.s` and hangs up on it. Either it finds that,
        // or we find its `.c` gone: no place stays taken by a client that left in between.
        if !files.to_client.exists() {
            return Ok(None);
        }
        tracing::debug!(process = caller.ask.process_id, watched = watch.is_some(), "let in");
        let terms = Terms {
            side: Side::Server,
            peer_process_id: Some(caller.ask.process_id),
            wait_strategy: self.file.wait_strategy,
            on_first_frame: Box::new(move || drop(made)),
            lease: Box::new(lease),
        };
        Ok(Some(assemble(region, ringer, FifoWaiter::new(pipe, watch), terms)))
    }

    fn fail(&mut self, files: &Files, error: &io::Error) {
        let system_error = error.raw_os_error().and_then(|code| u32::try_from(code).ok());
        self.answer(files, Answer::Failed { system_error: system_error.unwrap_or(0) });
    }

    /// Tells a client, if it is still there. Through an end that reads too: no `SIGPIPE` whatever it does.
    fn answer(&mut self, files: &Files, answer: Answer) {
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

    /// All that was asked and not read yet, without the runtime, which may be gone.
    fn take_in_the_rest(&mut self) {
        let mut chunk = [0; CHUNK];
        while let Ok(read @ 1..) = rustix::io::read(&self.pipe, &mut chunk) {
            self.take_in(&chunk[..read]);
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.places.post_in(None);
        fail_point::at("door.closing");
        // No more asks after this, but by who has the pipe open already: such a client sees its door gone.
        let path = self.place.door();
        let facts = self.writer.metadata();
        if facts.is_ok_and(|facts| names(&path, &facts).unwrap_or(false)) {
            remove(&path);
        }
        fail_point::at("door.removed");
        self.take_in_the_rest();
        for caller in std::mem::take(&mut self.queue) {
            self.answer(&caller.files, Answer::Stopped);
        }
        tracing::debug!(endpoint = self.file.name, "no longer listening");
    }
}

/// A client that has asked.
#[derive(Debug)]
struct Caller {
    ask: Ask,
    files: Files,
    /// Whether it was told to wait.
    told: bool,
    /// A writing end of its pipe: if we die, it notices. No reading end, or we could not notice if it dies.
    alive: OwnedFd,
}

impl Caller {
    /// # Errors
    ///
    /// Whatever the system says; also if the client has gone already.
    fn look(ask: Ask, files: &Files) -> io::Result<Self> {
        let alive = fifo::open_end(&files.to_client, OFlags::WRONLY, files.access)?;
        Ok(Self { ask, files: files.clone(), told: false, alive })
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::endpoint::connect;

    #[tokio::test]
    async fn a_client_beyond_the_longest_queue_hears_that_the_server_is_busy() {
        let directory = tempfile::tempdir().unwrap();
        let file = MemoryMappedFile::new("crowd").with_directory(directory.path().join("own"));
        let mut door = Door::open(&file, &Places::of(&file)).await.unwrap();
        let far = Instant::now() + Duration::from_secs(20);
        let (_first, second) = tokio::join!(connect(&file, far), door.accept());
        let _second = second.unwrap();
        let crowd = (0..LONGEST_QUEUE).map(|_| {
            let file = file.clone();
            tokio::spawn(async move { connect(&file, far).await })
        });
        let crowd = crowd.collect::<Vec<_>>();
        while door.queue.len() < LONGEST_QUEUE {
            let turn = tokio::time::timeout(Duration::from_millis(1), door.accept()).await;
            assert!(turn.is_err(), "there is no place");
        }
        let soon = Instant::now() + Duration::from_millis(100);
        let late = tokio::select! {
            late = connect(&file, soon) => late,
            _ = door.accept() => panic!("there is no place"),
        };
        assert!(matches!(late, Err(Error::Busy { max_clients: 1, .. })), "{late:?}");
        assert_eq!(door.queue.len(), LONGEST_QUEUE);
        crowd.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
