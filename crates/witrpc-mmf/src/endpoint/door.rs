//! The server's side of meeting: takes asks in, keeps the queue, and lets clients in. `[seg.meet]`
//!
//! Nothing here waits for a client. Whatever a client does or leaves undone costs it its own turn: a queue holds
//! what was asked, and each step towards a client is a system call that does not block. What a client that was let
//! in does next is bounded by the handshake deadline of the layers above. How asks come, and answers go, is the system's:
//! [`Entrance`].

use std::{collections::VecDeque, fmt};

use witrpc_core::transport::{BoxFuture, Channel};
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::lock;
use super::meeting::{Answer, Ask, MEETING_VERSION};
use super::os::{Entrance, Lock, Way, sweep::sweep};
use super::place::Place;
use super::places::{Lease, Places};

/// Far more than could be served in any patience, and few enough for the descriptors: each that waits takes one.
/// Further clients are told to ask again later, and so lose nothing but their place in the order.
const LONGEST_QUEUE: usize = if cfg!(test) { 3 } else { 1024 };

/// A listening endpoint. Dropping it tells the clients that wait, and removes what it made.
#[derive(Debug)]
pub struct Door {
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

/// A client that was let in, until it has been told so. It may take the runtime a moment to find that it can be told; the client
/// itself holds up nothing (E4).
pub(super) struct Entering(BoxFuture<'static, Channel>);

impl Entering {
    pub(super) fn new(told: impl Future<Output = Channel> + Send + 'static) -> Self {
        Self(Box::pin(told))
    }
}

impl fmt::Debug for Entering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entering").finish_non_exhaustive()
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
        file.validate()?;
        let place = Place::of(file)?;
        place.prepare()?;
        let lock = lock::take(&place).await?;
        fail_point::at("door.locked");
        sweep(&place);
        place.check_room(file.size)?;
        places.post_in(Some(lock.reopen()?));
        fail_point::at("door.recorded");
        let entrance = Entrance::open(&place, &lock).inspect_err(|_| places.post_in(None))?;
        tracing::debug!(endpoint = file.name, directory = %place.directory().display(), "listening");
        Ok(Self {
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
    /// [`Error::Io`] if the door itself fails. What goes wrong with one client is told to that client and to the
    /// log, and the wait goes on.
    pub async fn accept(&mut self) -> Result<Channel, Error> {
        loop {
            while self.entering.is_none() && self.let_in_next() {}
            if let Some(Entering(told)) = &mut self.entering {
                let channel = told.await;
                self.entering = None;
                return Ok(channel);
            }
            let somebody_waits = !self.queue.is_empty();
            tokio::select! {
                biased; // Asks first: who asked while no place was free is to be told so.
                came = self.entrance.arrivals(&self.place, &mut self.queue) => {
                    let came = came.map_err(|error| Error::io("reading the door", &error))?;
                    came.into_iter().for_each(|caller| self.enqueue(caller));
                }
                () = self.places.wait(), if somebody_waits => {}
            }
        }
    }

    /// Lets in the first of the queue, if it has not gone. `false` if nobody waits or no place is free.
    fn let_in_next(&mut self) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let Some(lease) = self.places.try_take() else {
            self.tell_to_wait();
            return false;
        };
        let Some(caller) = self.queue.pop_front() else { return false };
        self.entering = self.let_in(caller, lease);
        true
    }

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
        if self.queue.len() >= LONGEST_QUEUE {
            return self.dismiss(caller, Answer::Crowded { max_clients: self.file.max_clients });
        }
        if self.queue.iter().all(|waiting| waiting.ask.nonce != ask.nonce) {
            self.queue.push_back(caller);
        }
    }

    fn let_in(&mut self, mut caller: Caller, lease: Lease) -> Option<Entering> {
        let process = caller.ask.process_id;
        match caller.way.let_in(&self.file, &self.place, &caller.ask, lease) {
            Ok(None) => {
                tracing::debug!(process, "a client that waited has gone");
                None
            }
            Ok(Some(entering)) => Some(entering),
            Err(error) => {
                tracing::warn!(process, %error, "a client could not be let in");
                self.dismiss(caller, Answer::failed(&error));
                None
            }
        }
    }

    fn dismiss(&mut self, caller: Caller, answer: Answer) {
        self.entrance.dismiss(caller.way, answer);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
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
