//! The client's side of the rendezvous: sends join requests until a server accepts one. `[seg.meet]`
//!
//! Each attempt has a nonce of its own and leaves nothing behind. A client never touches a lock. How a request is sent depends on
//! the system: [`JoinAttempt`].

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::listing::names;
use super::lock::{self, holder};
use super::os::JoinAttempt;
use super::os::fault::{failed, failed_at_server};
use super::paths::EndpointPaths;
use super::rendezvous::{ANSWER_SIZE, Answer, RENDEZVOUS_VERSION};
use crate::layout::LAYOUT_VERSION;

/// The pauses between attempts: short at first, as a server is often just starting, then long enough to cost nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause if the server's queue is full: the server is there, and busy.
const LONGEST_PAUSE_IN_A_CROWD: Duration = Duration::from_millis(200);

/// How long a server has to answer if there is time for one attempt only.
const ONE_ATTEMPT: Duration = Duration::from_secs(1);

/// Opens a channel to the server of `file`, waiting for one to appear or to have room until `deadline`.
///
/// If the deadline has passed already, this is one attempt: it waits neither for a server nor for room, but gives a live server up to
/// one second to answer.
///
/// # Errors
///
/// [`Error::NotRunning`] if there was no server until the deadline, [`Error::NotResponding`] if there was one that did not answer,
/// [`Error::Busy`] if it answered, but had no free slot; [`Error::Incompatible`] if the server has another version of the rendezvous;
/// [`Error::Config`] if the directory is not suitable; [`Error::Io`].
pub async fn connect(file: &MemoryMappedFile, deadline: Instant) -> Result<Channel, Error> {
    file.validate()?;
    let mut search =
        Search { file, paths: EndpointPaths::of(file)?, seen: Seen::Nobody, busy: None };
    let started = Instant::now();
    if deadline <= started {
        let attempted = search.attempt(started + ONE_ATTEMPT, false).await?;
        return attempted.ok_or_else(|| search.failure(started));
    }
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(channel) = search.attempt(deadline, true).await? {
            return Ok(channel);
        }
        let again = match search.seen {
            Seen::Busy(_) => Instant::now() + pause.min(LONGEST_PAUSE_IN_A_CROWD),
            Seen::Nobody | Seen::Silent => Instant::now() + pause.min(LONGEST_PAUSE),
        };
        if again >= deadline {
            sleep_until(deadline).await;
            return Err(search.failure(started));
        }
        sleep_until(again).await;
        pause = pause.saturating_mul(2);
    }
}

/// What a client knows from one attempt to the next.
struct Search<'a> {
    file: &'a MemoryMappedFile,
    paths: EndpointPaths,
    seen: Seen,
    /// When the server last said that all of its slots are taken, and how many it has.
    busy: Option<(Instant, u32)>,
}

/// What was last seen of a server.
#[derive(Clone, Copy)]
enum Seen {
    /// There is none.
    Nobody,
    /// There is one, and it has not answered yet.
    Silent,
    /// All of its slots are taken; it has this many.
    Busy(u32),
}

impl Search<'_> {
    fn failure(&self, started: Instant) -> Error {
        let endpoint = self.file.name.clone();
        let (directory, waited) = (self.paths.directory().display().to_string(), started.elapsed());
        // The server was busy a moment ago: its silence means that it still is.
        let busy = self.busy.filter(|(when, _)| when.elapsed() < ONE_ATTEMPT);
        let seen = match (self.seen, busy) {
            (Seen::Silent, Some((_, max_clients))) => Seen::Busy(max_clients),
            (seen, _) => seen,
        };
        match seen {
            Seen::Busy(max_clients) => Error::Busy { endpoint, max_clients },
            // Such a server ignores a join request that has a kind. [seg.meet.version]
            Seen::Silent if lock::is_of_version_1(&self.paths) => {
                self.incompatible("rendezvous protocol", 1, RENDEZVOUS_VERSION)
            }
            Seen::Silent => Error::NotResponding {
                endpoint,
                place: directory,
                process_id: holder(&self.paths),
                waited,
            },
            Seen::Nobody => Error::NotRunning {
                endpoint,
                place: directory,
                running: names(self.paths.clone()),
                waited,
            },
        }
    }

    /// One attempt, which waits for a slot if `waits`. `None` if it failed: there is no server, it has gone or has no free slot, or the
    /// deadline has passed.
    async fn attempt(&mut self, deadline: Instant, waits: bool) -> Result<Option<Channel>, Error> {
        let sent = if self.paths.check()? {
            let (name, place) = (&self.file.name, self.paths.directory());
            let what = || format!("connecting to {name:?} in {}", place.display());
            JoinAttempt::send(&self.paths).map_err(|error| failed(what(), &error))?
        } else {
            AttemptSent::NoServer
        };
        let mut request = match sent {
            AttemptSent::Waiting(request) => request,
            AttemptSent::NotAccepted => {
                self.seen = Seen::Silent;
                return Ok(None);
            }
            AttemptSent::NoServer => {
                self.seen = Seen::Nobody;
                return Ok(None);
            }
        };
        self.seen = Seen::Silent;
        let answer = self.wait_for_turn(&mut request, deadline, waits).await?;
        match answer {
            Some(Answer::ComeIn { layout_version, .. }) if layout_version != LAYOUT_VERSION => {
                Err(self.incompatible("region layout", layout_version, LAYOUT_VERSION))
            }
            Some(Answer::ComeIn { process_id, .. }) => {
                self.seen = Seen::Nobody; // It may have gone already.
                request.enter(self.file, process_id).await
            }
            Some(Answer::Refused { version }) => {
                Err(self.incompatible("rendezvous protocol", version, RENDEZVOUS_VERSION))
            }
            Some(Answer::NoSuchKind { kind }) => Err(Error::Incompatible(format!(
                "the server {:?} accepts no clients of kind {kind}; a newer version may",
                self.file.name
            ))),
            Some(Answer::Failed { system_error }) => {
                let context = format!(
                    "the server {:?} could not create the files of a connection in {}",
                    self.file.name,
                    self.paths.directory().display()
                );
                Err(failed_at_server(context, system_error))
            }
            Some(Answer::Crowded { max_clients } | Answer::Wait { max_clients }) => {
                self.seen = Seen::Busy(max_clients);
                self.busy = Some((Instant::now(), max_clients));
                Ok(None)
            }
            Some(Answer::Stopped) => {
                self.seen = Seen::Nobody;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Waits for the server's final answer to this attempt. `None` if the server has gone, or the deadline has passed.
    async fn wait_for_turn(
        &mut self,
        request: &mut JoinAttempt,
        deadline: Instant,
        waits: bool,
    ) -> Result<Option<Answer>, Error> {
        let mut heard = false;
        loop {
            let said = request.next_answer(heard, deadline).await;
            let bytes =
                match said.map_err(|error| Error::io("waiting for the server's answer", &error))? {
                    Received::Answer(bytes) => bytes,
                    Received::TimedOut => return Ok(None),
                    Received::Gone => {
                        self.seen = Seen::Nobody;
                        return Ok(None);
                    }
                };
            match Answer::decode(&bytes) {
                None => {
                    return Err(Error::Protocol(
                        "a malformed answer to the join request".to_owned(),
                    ));
                }
                Some(Answer::Wait { max_clients }) if waits => {
                    tracing::debug!(
                        endpoint = self.file.name,
                        max_clients,
                        "all places are taken, waiting"
                    );
                    self.seen = Seen::Busy(max_clients);
                    heard = true;
                    fail_point::at("caller.waits");
                }
                Some(answer) => return Ok(Some(answer)),
            }
        }
    }

    fn incompatible(&self, what: &str, theirs: u32, ours: u32) -> Error {
        Error::Incompatible(format!(
            "the server {:?} has version {theirs} of the {what} and this client version {ours}; build both with the same version of witrpc",
            self.file.name
        ))
    }
}

/// The result of sending a join request.
pub(super) enum AttemptSent {
    /// The request was sent, and waits for an answer.
    Waiting(Box<JoinAttempt>),
    /// There is no server.
    NoServer,
    /// The server takes no more requests at the moment: too many are unread.
    NotAccepted,
}

/// What a client receives while it waits.
pub(super) enum Received {
    /// A whole answer.
    Answer([u8; ANSWER_SIZE]),
    /// The server has gone, or can no longer answer.
    Gone,
    /// Nothing until the deadline.
    TimedOut,
}
