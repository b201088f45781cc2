//! The client's side of meeting: knocks until a server answers, and goes in. `[seg.meet]`
//!
//! Each attempt has a nonce of its own and leaves nothing behind. A client never touches a lock. How one knocks is the
//! system's: [`Knock`].

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::listing::names;
use super::lock::holder;
use super::meeting::{ANSWER_SIZE, Answer, MEETING_VERSION};
use super::os::Knock;
use super::os::fault::{failed, failed_at_server};
use super::place::Place;
use crate::layout::LAYOUT_VERSION;

/// Between attempts: soon at first, as a server is often just starting, then seldom enough to cost nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Where so many wait that the server takes no more in: it is there, and has enough to do.
const LONGEST_PAUSE_IN_A_CROWD: Duration = Duration::from_millis(200);

/// How long a server has to answer where one attempt is all that there is time for.
const ONE_ATTEMPT: Duration = Duration::from_secs(1);

/// Opens a channel to the server of `file`, waiting for one to appear or to have room until `deadline`.
///
/// If that has passed already, this is one attempt: it waits for no server and for no room, but gives a server that is there up to one
/// second to answer.
///
/// # Errors
///
/// [`Error::NotRunning`] if there was no server until then, [`Error::NotResponding`] if there was one that did not answer,
/// [`Error::Busy`] if one did, but all its places stayed taken; [`Error::Incompatible`] if the server meets its clients in another
/// way; [`Error::Config`] if the directory will not do; [`Error::Io`].
pub async fn connect(file: &MemoryMappedFile, deadline: Instant) -> Result<Channel, Error> {
    file.validate()?;
    let mut search = Search { file, place: Place::of(file)?, seen: Seen::Nobody, busy: None };
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
    place: Place,
    seen: Seen,
    /// When the server last said that all of its so many places are taken.
    busy: Option<(Instant, u32)>,
}

/// The newest thing that was seen of a server.
#[derive(Clone, Copy)]
enum Seen {
    /// There is none.
    Nobody,
    /// There is one, and it has not answered yet.
    Silent,
    /// All of its so many places are taken.
    Busy(u32),
}

impl Search<'_> {
    fn failure(&self, started: Instant) -> Error {
        let endpoint = self.file.name.clone();
        let (place, waited) = (self.place.directory().display().to_string(), started.elapsed());
        // Who was told to ask again later, and has just done so, has heard of the server.
        let busy = self.busy.filter(|(when, _)| when.elapsed() < ONE_ATTEMPT);
        let seen = match (self.seen, busy) {
            (Seen::Silent, Some((_, max_clients))) => Seen::Busy(max_clients),
            (seen, _) => seen,
        };
        match seen {
            Seen::Busy(max_clients) => Error::Busy { endpoint, max_clients },
            Seen::Silent => {
                Error::NotResponding { endpoint, place, process_id: holder(&self.place), waited }
            }
            Seen::Nobody => {
                Error::NotRunning { endpoint, place, running: names(self.place.clone()), waited }
            }
        }
    }

    /// One attempt, which waits for room if it may. `None` if it came to nothing: there is no server, or it has gone or has no room, or
    /// the deadline has passed.
    async fn attempt(&mut self, deadline: Instant, waits: bool) -> Result<Option<Channel>, Error> {
        let knocked = if self.place.check()? {
            let what = || {
                format!("knocking at {} in {}", self.file.name, self.place.directory().display())
            };
            Knock::at(&self.place).map_err(|error| failed(what(), &error))?
        } else {
            Knocked::AtNobodys
        };
        let mut knock = match knocked {
            Knocked::Asked(knock) => knock,
            Knocked::InVain => {
                self.seen = Seen::Silent;
                return Ok(None);
            }
            Knocked::AtNobodys => {
                self.seen = Seen::Nobody;
                return Ok(None);
            }
        };
        self.seen = Seen::Silent;
        let answer = self.wait_for_turn(&mut knock, deadline, waits).await?;
        match answer {
            Some(Answer::ComeIn { layout_version, .. }) if layout_version != LAYOUT_VERSION => {
                Err(self.incompatible("region layout", layout_version, LAYOUT_VERSION))
            }
            Some(Answer::ComeIn { process_id, .. }) => {
                self.seen = Seen::Nobody; // It may have gone already.
                knock.enter(self.file, process_id).await
            }
            Some(Answer::Refused { version }) => {
                Err(self.incompatible("meeting protocol", version, MEETING_VERSION))
            }
            Some(Answer::NoSuchKind { kind }) => Err(Error::Incompatible(format!(
                "the server of {:?} lets in no clients of kind {kind}; one of a newer version may",
                self.file.name
            ))),
            Some(Answer::Failed { system_error }) => {
                let context = format!(
                    "the server of {:?} could not make a connection's files in {}",
                    self.file.name,
                    self.place.directory().display()
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

    /// Until the server has said the last word on this attempt. `None` if it has gone, or time is up.
    async fn wait_for_turn(
        &mut self,
        knock: &mut Knock,
        deadline: Instant,
        waits: bool,
    ) -> Result<Option<Answer>, Error> {
        let mut heard = false;
        loop {
            let said = knock.hear(heard, deadline).await;
            let bytes = match said.map_err(|error| Error::io("waiting for the server", &error))? {
                Said::Answer(bytes) => bytes,
                Said::TimeIsUp => return Ok(None),
                Said::Gone => {
                    self.seen = Seen::Nobody;
                    return Ok(None);
                }
            };
            match Answer::decode(&bytes) {
                None => {
                    return Err(Error::Protocol("the server's answer is none".to_owned()));
                }
                Some(Answer::Wait { max_clients }) if waits => {
                    tracing::debug!(endpoint = self.file.name, max_clients, "told to wait");
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
            "the server of {:?} has version {theirs} of the {what}, this client version {ours}",
            self.file.name
        ))
    }
}

/// What has become of an ask.
pub(super) enum Knocked {
    Asked(Box<Knock>),
    /// There is no server.
    AtNobodys,
    /// There is one that takes no asks just now: so many are there that it has not heard.
    InVain,
}

/// What a client hears.
pub(super) enum Said {
    /// A whole answer.
    Answer([u8; ANSWER_SIZE]),
    /// The server has gone, or cannot answer any more.
    Gone,
    /// Nothing, and it is too late.
    TimeIsUp,
}
