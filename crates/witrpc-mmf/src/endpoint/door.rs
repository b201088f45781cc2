//! The server's side of the rendezvous: reads join requests, keeps the queue of clients, and admits them. `[seg.meet]`
//!
//! Nothing here waits for a client, so a slow or hostile client delays only itself. Join requests are queued, and every system call
//! that concerns a client is non-blocking. The layers above give an admitted client a deadline for its handshake. A client that gives
//! up leaves the queue at once. The length of the queue is bounded ([`longest_queue`]), and with it the number of open descriptors.
//! Join requests are read a few at a time, so a client that floods the door does not starve the runtime. How requests arrive and how
//! answers are sent depends on the system: [`DoorListener`].

use std::{collections::VecDeque, fmt, future::poll_fn, io, task::Poll};

use witrpc_core::text::Escaped;
use witrpc_core::transport::{BoxFuture, Channel, ServerTerms};
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::about::About;
use super::lock;
use super::os::{DoorListener, Lock, ReplyPath, longest_queue, sweep::sweep};
use super::paths::EndpointPaths;
use super::rendezvous::{Answer, JoinRequest, Kind, RENDEZVOUS_VERSION};
use super::slots::ClientSlots;
use crate::sys::Owner;

/// A listening endpoint. Dropping it tells the waiting clients, and removes its files.
#[derive(Debug)]
pub struct Door {
    owner: Owner,
    file: MemoryMappedFile,
    paths: EndpointPaths,
    slots: ClientSlots,
    listener: DoorListener,
    /// The waiting clients, in the order in which their requests arrived.
    queue: VecDeque<WaitingClient>,
    /// The client that is being admitted. It is no longer in the queue.
    admitting: Option<Admitting>,
    /// Released last, after `drop` has closed the listener: E1.
    _lock: Lock,
}

/// A client in the queue.
#[derive(Debug)]
pub(super) struct WaitingClient {
    pub(super) request: JoinRequest,
    pub(super) reply: ReplyPath,
    /// Whether it has been told to wait.
    told_to_wait: bool,
}

impl WaitingClient {
    pub(super) const fn new(request: JoinRequest, reply: ReplyPath) -> Self {
        Self { request, reply, told_to_wait: false }
    }
}

/// A client that is being admitted. Its region may take a while to create.
struct Admitting {
    process: u32,
    admission: BoxFuture<'static, Admission>,
}

/// The result of admitting a client.
pub(super) enum Admission {
    Admitted(Channel),
    /// The client has gone.
    Gone,
    /// Its files could not be created. It has not been told so yet.
    Failed(ReplyPath, io::Error),
}

impl fmt::Debug for Admitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitting").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Door {
    /// Becomes the only server of this endpoint, removes the files that killed servers left, and listens.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] if another live server has the name, [`Error::Config`] if the directory is not suitable,
    /// [`Error::Io`].
    pub async fn open(file: &MemoryMappedFile, slots: &ClientSlots) -> Result<Self, Error> {
        Self::open_with(file, slots, None).await
    }

    /// As [`open`](Self::open). The lock file also contains `terms`, which [`endpoints`](crate::endpoints) lists.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_with(
        file: &MemoryMappedFile,
        slots: &ClientSlots,
        terms: Option<&ServerTerms>,
    ) -> Result<Self, Error> {
        file.validate()?;
        let paths = EndpointPaths::of(file)?;
        EndpointPaths::check_limit(file.size)?;
        paths.prepare()?;
        let lock = lock::take(&paths).await?;
        fail_point::at("door.locked");
        sweep(&paths);
        paths.check_room(file.size)?;
        let record = lock.for_record()?;
        if let Err(error) = lock::introduce(&record, &About::here(terms)) {
            tracing::warn!(error = %Escaped(&error), "could not describe the server in its lock file");
        }
        slots.post_in(Some(record));
        fail_point::at("door.recorded");
        let listener = DoorListener::open(&paths, &lock).inspect_err(|_| slots.post_in(None))?;
        tracing::debug!(
            endpoint = file.name,
            directory = %Escaped(paths.directory().display()),
            "listening"
        );
        Ok(Self {
            owner: Owner::here(),
            file: file.clone(),
            paths,
            slots: slots.clone(),
            listener,
            queue: VecDeque::new(),
            admitting: None,
            _lock: lock,
        })
    }

    /// Waits for a client and for a free slot, admits the client, and tells it so. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the door itself fails, or if this process is a forked child of the one that opened it. If admitting one client
    /// fails, the error is logged and sent to that client, and this function waits for the next one.
    pub async fn accept(&mut self) -> Result<Channel, Error> {
        let here = self.owner.check();
        here.map_err(|error| {
            Error::io(format!("accepting clients of {:?}", self.file.name), &error)
        })?;
        loop {
            self.admit_next();
            let admission = match &mut self.admitting {
                // Polled once before the other clients are told to wait: a small region is complete after the first poll.
                Some(admitting) => {
                    poll_fn(|cx| Poll::Ready(admitting.admission.as_mut().poll(cx))).await
                }
                None => Poll::Pending,
            };
            let admission = match admission {
                Poll::Ready(admission) => Some(admission),
                Poll::Pending => {
                    self.tell_to_wait();
                    self.wait().await?
                }
            };
            if let Some(channel) = admission.and_then(|admission| self.conclude(admission)) {
                return Ok(channel);
            }
        }
    }

    /// Waits until a client has asked or gone, a slot is free, or the admission in progress is complete.
    async fn wait(&mut self) -> Result<Option<Admission>, Error> {
        let Self { admitting, listener, paths, queue, slots, .. } = self;
        let waits_for_slot = admitting.is_none() && !queue.is_empty();
        let admission = poll_fn(|cx| match admitting {
            Some(admitting) => admitting.admission.as_mut().poll(cx),
            None => Poll::Pending,
        });
        let came = tokio::select! {
            biased; // Requests before slots, so that a client that asked while no slot was free is told to wait.
            admission = admission => return Ok(Some(admission)),
            came = listener.arrivals(paths, queue) => came,
            () = slots.wait(), if waits_for_slot => return Ok(None),
        };
        let came = came.map_err(|error| Error::io("reading join requests", &error))?;
        came.into_iter().for_each(|caller| self.enqueue(caller));
        Ok(None)
    }

    /// Handles the result of admitting a client.
    fn conclude(&mut self, admission: Admission) -> Option<Channel> {
        let process = self.admitting.take().map(|admitting| admitting.process);
        match admission {
            Admission::Admitted(channel) => return Some(channel),
            Admission::Gone => tracing::debug!(process, "a client left before it was accepted"),
            Admission::Failed(reply, error) => {
                tracing::warn!(process, error = %Escaped(&error), "could not accept a client");
                self.listener.dismiss(reply, Answer::failed(&error));
            }
        }
        None
    }

    /// Begins to admit the first client of the queue, if a slot is free. Clients are admitted one at a time: most of the time goes
    /// into creating the region, and creating several at once is not faster.
    fn admit_next(&mut self) {
        if self.queue.is_empty() || self.admitting.is_some() {
            return;
        }
        let Some(lease) = self.slots.try_take() else { return };
        let Some(WaitingClient { request, reply, .. }) = self.queue.pop_front() else { return };
        let admission = reply.admit(self.file.clone(), self.paths.clone(), request, lease);
        self.admitting =
            Some(Admitting { process: request.process_id, admission: Box::pin(admission) });
    }

    /// Sends `Wait` to those clients in the queue that have not received it. They are at the back.
    fn tell_to_wait(&mut self) {
        let answer = Answer::Wait { max_clients: self.file.max_clients };
        let untold = self.queue.iter_mut().rev().take_while(|caller| !caller.told_to_wait);
        for caller in untold {
            caller.told_to_wait = true;
            self.listener.answer(&mut caller.reply, answer);
        }
    }

    fn enqueue(&mut self, caller: WaitingClient) {
        fail_point::at("door.asked");
        let request = caller.request;
        if request.version != RENDEZVOUS_VERSION {
            tracing::warn!(
                process = request.process_id,
                version = request.version,
                "refused a client with another version of the rendezvous protocol"
            );
            return self.dismiss(caller, Answer::Refused { version: RENDEZVOUS_VERSION });
        }
        if request.kind != Kind::Client {
            let kind = request.kind.number(); // [seg.meet.kind]
            tracing::warn!(
                process = request.process_id,
                kind,
                "refused a client of an unsupported kind"
            );
            return self.dismiss(caller, Answer::NoSuchKind { kind });
        }
        // A client that is dismissed as `Crowded` asks again. It has lost only its position.
        if self.queue.len() >= longest_queue() {
            return self.dismiss(caller, Answer::Crowded { max_clients: self.file.max_clients });
        }
        if self.queue.iter().all(|waiting| waiting.request.nonce != request.nonce) {
            self.queue.push_back(caller);
        }
    }

    fn dismiss(&mut self, caller: WaitingClient, answer: Answer) {
        self.listener.dismiss(caller.reply, answer);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The parent goes on listening.
        }
        self.slots.post_in(None);
        fail_point::at("door.closing");
        let late = self.listener.close(&self.paths);
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

    /// A door whose only slot is taken, by the two ends of a connection.
    async fn full() -> (tempfile::TempDir, MemoryMappedFile, Door, [Channel; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let file = MemoryMappedFile::new("crowd").with_directory(directory.path().join("own"));
        let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
        let client = connecting(&file);
        let server = door.accept().await.unwrap();
        let connection = [client.await.unwrap().unwrap(), server];
        (directory, file, door, connection)
    }

    /// Runs the door until the condition holds.
    async fn until(door: &mut Door, is_so: impl Fn(&Door) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(door) {
            let turn = tokio::time::timeout(Duration::from_millis(1), door.accept()).await;
            assert!(turn.is_err(), "there is no free slot");
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
            _ = door.accept() => panic!("there is no free slot"),
        };
        assert!(matches!(late, Err(Error::Busy { max_clients: 1, .. })), "{late:?}");
        assert_eq!(door.queue.len(), longest_queue());
        // A client with more time asks again, and joins the queue once there is room.
        let mut patient = connecting(&file);
        let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
        assert!(turn.is_err() && door.queue.len() == longest_queue());
        crowd.iter().for_each(JoinHandle::abort);
        drop(connection);
        loop {
            // The server may admit one that has just gone, and learn of that a moment later.
            let admitted = door.accept().await.unwrap();
            let patience = Duration::from_millis(500);
            if let Ok(connected) = tokio::time::timeout(patience, &mut patient).await {
                drop((connected.unwrap().unwrap(), admitted));
                return;
            }
        }
    }

    /// Unix only: on Windows a file gets its size at once, so a test cannot observe that a region is being created.
    #[cfg(unix)]
    mod of_large_regions {
        use std::pin::pin;

        use super::*;

        /// An endpoint with large regions, in a directory of its own. The directory is in memory if the system has `/dev/shm`.
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

        /// Polls the door until it is creating a client's region. Asserts that the polling thread does not create the region itself.
        async fn until_entering(door: &mut Door) {
            while door.admitting.is_none() {
                let turn = poll_fn(|cx| Poll::Ready(pin!(door.accept()).poll(cx))).await;
                assert!(turn.is_pending(), "the region was made by the thread that polls");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        /// While a large region is created, the runtime's thread runs other tasks.
        #[tokio::test]
        async fn a_large_region_is_made_beside_the_runtime() {
            let (_outer, file) = large();
            let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
            let listening = files(&file);
            for gives_up in [false, true, false] {
                let client = connecting(&file);
                until_entering(&mut door).await;
                if gives_up {
                    client.abort();
                    until(&mut door, |door| door.admitting.is_none()).await;
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
