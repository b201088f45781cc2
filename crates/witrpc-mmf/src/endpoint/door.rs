//! The server's side of meeting: takes asks in, keeps the queue, and lets clients in. `[seg.meet]`
//!
//! Nothing here waits for a client. Whatever a client does or leaves undone costs it its own turn: a queue holds
//! what was asked, and each step towards a client is a system call that does not block. What a client that was let
//! in does next is bounded by the handshake deadline of the layers above. Who gives up leaves the queue at once, and the queue is
//! bounded ([`longest_queue`]), in descriptors too; what comes through the door is taken in a little at a time, so that who floods it
//! keeps nobody else from the runtime. How asks come, and answers go, is the system's: [`Entrance`].

use std::{collections::VecDeque, fmt, future::poll_fn, io, task::Poll};

use witrpc_core::text::Escaped;
use witrpc_core::transport::{BoxFuture, Channel, ServerTerms};
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::about::About;
use super::lock;
use super::meeting::{Answer, Ask, Kind, MEETING_VERSION};
use super::os::{Entrance, Lock, Way, longest_queue, sweep::sweep};
use super::place::Place;
use super::places::Places;
use crate::sys::Owner;

/// A listening endpoint. Dropping it tells the clients that wait, and removes what it made.
#[derive(Debug)]
pub struct Door {
    owner: Owner,
    file: MemoryMappedFile,
    place: Place,
    places: Places,
    entrance: Entrance,
    /// In the order of asking.
    queue: VecDeque<Caller>,
    /// The last that left the queue, as long as it is not a channel.
    entering: Option<Entering>,
    /// Let go of last, after `drop` has closed the entrance: E1.
    _lock: Lock,
}

/// A client that has asked.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) ask: Ask,
    pub(super) way: Way,
    /// Whether it was told to wait.
    told: bool,
}

impl Caller {
    pub(super) const fn new(ask: Ask, way: Way) -> Self {
        Self { ask, way, told: false }
    }
}

/// A client that is let in, until it has been told so. Its region may take a while to make.
struct Entering {
    process: u32,
    entered: BoxFuture<'static, Entered>,
}

/// What has become of a client that was let in.
pub(super) enum Entered {
    In(Channel),
    /// It has gone.
    Gone,
    /// Something could not be made, as it is still to be told.
    Failed(Way, io::Error),
}

impl fmt::Debug for Entering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entering").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Door {
    /// Becomes the one server of this endpoint, removes what killed ones left, and listens.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] if another live server has the name, [`Error::Config`] if the directory will not do,
    /// [`Error::Io`].
    pub async fn open(file: &MemoryMappedFile, places: &Places) -> Result<Self, Error> {
        Self::open_with(file, places, None).await
    }

    /// The same, and tells who lists servers these terms.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_with(
        file: &MemoryMappedFile,
        places: &Places,
        terms: Option<&ServerTerms>,
    ) -> Result<Self, Error> {
        file.validate()?;
        let place = Place::of(file)?;
        Place::check_limit(file.size)?;
        place.prepare()?;
        let lock = lock::take(&place).await?;
        fail_point::at("door.locked");
        sweep(&place);
        place.check_room(file.size)?;
        let record = lock.for_record()?;
        if let Err(error) = lock::introduce(&record, &About::here(terms)) {
            tracing::warn!(error = %Escaped(&error), "the lock file does not say what server this is");
        }
        places.post_in(Some(record));
        fail_point::at("door.recorded");
        let entrance = Entrance::open(&place, &lock).inspect_err(|_| places.post_in(None))?;
        tracing::debug!(
            endpoint = file.name,
            directory = %Escaped(place.directory().display()),
            "listening"
        );
        Ok(Self {
            owner: Owner::here(),
            file: file.clone(),
            place,
            places: places.clone(),
            entrance,
            queue: VecDeque::new(),
            entering: None,
            _lock: lock,
        })
    }

    /// Waits for a client, and for a place for it, lets it in, and tells it so. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the door itself fails, or belongs to the parent of this process. What goes wrong with one client is told to that client and to the
    /// log, and the wait goes on.
    pub async fn accept(&mut self) -> Result<Channel, Error> {
        let here = self.owner.check();
        here.map_err(|error| Error::io(format!("the server of {:?}", self.file.name), &error))?;
        loop {
            self.let_in_next();
            let entered = match &mut self.entering {
                // Once, before anybody is told to wait for it: most regions are made at once.
                Some(entering) => {
                    poll_fn(|cx| Poll::Ready(entering.entered.as_mut().poll(cx))).await
                }
                None => Poll::Pending,
            };
            let entered = match entered {
                Poll::Ready(entered) => Some(entered),
                Poll::Pending => {
                    self.tell_to_wait();
                    self.wait().await?
                }
            };
            if let Some(channel) = entered.and_then(|entered| self.conclude(entered)) {
                return Ok(channel);
            }
        }
    }

    /// Until something has come to pass: somebody has asked or gone, a place is free, or the client that is let in is in.
    async fn wait(&mut self) -> Result<Option<Entered>, Error> {
        let Self { entering, entrance, place, queue, places, .. } = self;
        let waits_for_place = entering.is_none() && !queue.is_empty();
        let entered = poll_fn(|cx| match entering {
            Some(entering) => entering.entered.as_mut().poll(cx),
            None => Poll::Pending,
        });
        let came = tokio::select! {
            biased; // Asks before places: who asked while no place was free is to be told so.
            entered = entered => return Ok(Some(entered)),
            came = entrance.arrivals(place, queue) => came,
            () = places.wait(), if waits_for_place => return Ok(None),
        };
        let came = came.map_err(|error| Error::io("reading the door", &error))?;
        came.into_iter().for_each(|caller| self.enqueue(caller));
        Ok(None)
    }

    /// What follows for the client that was let in.
    fn conclude(&mut self, entered: Entered) -> Option<Channel> {
        let process = self.entering.take().map(|entering| entering.process);
        match entered {
            Entered::In(channel) => return Some(channel),
            Entered::Gone => tracing::debug!(process, "a client that waited has gone"),
            Entered::Failed(way, error) => {
                tracing::warn!(process, error = %Escaped(&error), "a client could not be let in");
                self.entrance.dismiss(way, Answer::failed(&error));
            }
        }
        None
    }

    /// Begins to let in the first of the queue, if there is a place for it. One at a time: what takes long is to make regions, and that
    /// is no faster if many are made at once.
    fn let_in_next(&mut self) {
        if self.queue.is_empty() || self.entering.is_some() {
            return;
        }
        let Some(lease) = self.places.try_take() else { return };
        let Some(Caller { ask, way, .. }) = self.queue.pop_front() else { return };
        let entered = way.let_in(self.file.clone(), self.place.clone(), ask, lease);
        self.entering = Some(Entering { process: ask.process_id, entered: Box::pin(entered) });
    }

    /// Those in the queue that have not heard that they wait.
    fn tell_to_wait(&mut self) {
        let answer = Answer::Wait { max_clients: self.file.max_clients };
        let untold = self.queue.iter_mut().rev().take_while(|caller| !caller.told);
        for caller in untold {
            caller.told = true;
            self.entrance.answer(&mut caller.way, answer);
        }
    }

    fn enqueue(&mut self, caller: Caller) {
        fail_point::at("door.asked");
        let ask = caller.ask;
        if ask.version != MEETING_VERSION {
            tracing::warn!(process = ask.process_id, version = ask.version, "a client was refused");
            return self.dismiss(caller, Answer::Refused { version: MEETING_VERSION });
        }
        if ask.kind != Kind::Client {
            let kind = ask.kind.number(); // [seg.meet.kind]
            tracing::warn!(process = ask.process_id, kind, "a kind of client was refused");
            return self.dismiss(caller, Answer::NoSuchKind { kind });
        }
        // It loses nothing but its place in the order.
        if self.queue.len() >= longest_queue() {
            return self.dismiss(caller, Answer::Crowded { max_clients: self.file.max_clients });
        }
        if self.queue.iter().all(|waiting| waiting.ask.nonce != ask.nonce) {
            self.queue.push_back(caller);
        }
    }

    fn dismiss(&mut self, caller: Caller, answer: Answer) {
        self.entrance.dismiss(caller.way, answer);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The parent goes on listening.
        }
        self.places.post_in(None);
        fail_point::at("door.closing");
        let late = self.entrance.close(&self.place);
        late.into_iter().for_each(|caller| self.enqueue(caller));
        for caller in std::mem::take(&mut self.queue) {
            self.dismiss(caller, Answer::Stopped);
        }
        tracing::debug!(endpoint = self.file.name, "no longer listening");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;
    use crate::endpoint::connect;

    /// A client that connects.
    fn connecting(file: &MemoryMappedFile) -> JoinHandle<Result<Channel, Error>> {
        let (file, far) = (file.clone(), Instant::now() + Duration::from_secs(20));
        tokio::spawn(async move { connect(&file, far).await })
    }

    /// A door whose only place is taken, by the two ends of a connection.
    async fn full() -> (tempfile::TempDir, MemoryMappedFile, Door, [Channel; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let file = MemoryMappedFile::new("crowd").with_directory(directory.path().join("own"));
        let mut door = Door::open(&file, &Places::of(&file)).await.unwrap();
        let client = connecting(&file);
        let server = door.accept().await.unwrap();
        let connection = [client.await.unwrap().unwrap(), server];
        (directory, file, door, connection)
    }

    /// Lets the door do what there is to do, until this is so.
    async fn until(door: &mut Door, is_so: impl Fn(&Door) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(door) {
            let turn = tokio::time::timeout(Duration::from_millis(1), door.accept()).await;
            assert!(turn.is_err(), "there is no place");
            assert!(Instant::now() < deadline, "{} wait", door.queue.len());
        }
    }

    #[tokio::test]
    async fn clients_that_give_up_leave_the_queue_at_once() {
        let (_directory, file, mut door, _connection) = full().await;
        for _ in 0..10 {
            let waiting = [(); 2].map(|()| connecting(&file));
            until(&mut door, |door| door.queue.len() == 2).await;
            waiting[0].abort();
            until(&mut door, |door| door.queue.len() == 1).await;
            waiting[1].abort();
            until(&mut door, |door| door.queue.is_empty()).await;
        }
    }

    #[tokio::test]
    async fn a_client_beyond_the_longest_queue_hears_that_the_server_is_busy() {
        let (_directory, file, mut door, connection) = full().await;
        let crowd = (0..longest_queue()).map(|_| connecting(&file)).collect::<Vec<_>>();
        until(&mut door, |door| door.queue.len() == longest_queue()).await;
        let soon = Instant::now() + Duration::from_millis(100);
        let late = tokio::select! {
            late = connect(&file, soon) => late,
            _ = door.accept() => panic!("there is no place"),
        };
        assert!(matches!(late, Err(Error::Busy { max_clients: 1, .. })), "{late:?}");
        assert_eq!(door.queue.len(), longest_queue());
        // Who has more time asks again, and waits once there is room.
        let patient = connecting(&file);
        let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
        assert!(turn.is_err() && door.queue.len() == longest_queue());
        crowd.iter().for_each(JoinHandle::abort);
        drop(connection);
        let server = door.accept().await.unwrap();
        drop((patient.await.unwrap().unwrap(), server));
    }

    /// On Windows a file has its size at once, and there is nothing that could be seen to go on.
    #[cfg(unix)]
    mod of_large_regions {
        use std::pin::pin;

        use super::*;

        /// The endpoint's files; the directory is in memory where it can be.
        fn large() -> (tempfile::TempDir, MemoryMappedFile) {
            let memory = std::path::Path::new("/dev/shm");
            let outer = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            let outer = tempfile::tempdir_in(outer).unwrap();
            let file = MemoryMappedFile::new("large").with_directory(outer.path().join("own"));
            (outer, file.with_size(256 << 20).with_max_clients(2))
        }

        fn files(file: &MemoryMappedFile) -> usize {
            file.directory.as_ref().unwrap().read_dir().unwrap().count()
        }

        /// Polls the door until it has a client's region made, and waits for that; each poll waits for nothing.
        async fn until_entering(door: &mut Door) {
            while door.entering.is_none() {
                let turn = poll_fn(|cx| Poll::Ready(pin!(door.accept()).poll(cx))).await;
                assert!(turn.is_pending(), "the region was made by the thread that polls");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        /// What a region takes to make, the runtime's thread has for others.
        #[tokio::test]
        async fn a_large_region_is_made_beside_the_runtime() {
            let (_outer, file) = large();
            let mut door = Door::open(&file, &Places::of(&file)).await.unwrap();
            let listening = files(&file);
            for gives_up in [false, true, false] {
                let client = connecting(&file);
                until_entering(&mut door).await;
                if gives_up {
                    client.abort();
                    until(&mut door, |door| door.entering.is_none()).await;
                } else {
                    let server = door.accept().await.unwrap();
                    drop((client.await.unwrap().unwrap(), server));
                }
                assert_eq!(files(&file), listening);
            }
            let client = connecting(&file);
            until_entering(&mut door).await;
            client.abort();
            assert!(client.await.is_err());
            drop(door);
            assert_eq!(files(&file), 0, "a door that is closed leaves nothing that is half made");
        }
    }
}
