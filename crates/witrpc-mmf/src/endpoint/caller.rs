//! The client's side of meeting: knocks until a server answers, and goes in. `[seg.meet]`
//!
//! Each attempt has a nonce of its own and leaves nothing behind. A client never touches a lock. How one knocks is the
//! system's: [`Knock`].

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::MemoryMappedFile;
use super::meeting::{ANSWER_SIZE, Answer, MEETING_VERSION};
use super::os::Knock;
use super::os::fault::{failed, failed_at_server};
use super::place::Place;
use crate::layout::LAYOUT_VERSION;

/// Between attempts: soon at first, as a server is often just starting, then seldom enough to cost nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

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
        let knocked = if self.place.check()? {
            let what = || {
                format!("knocking at {} in {}", self.file.name, self.place.directory().display())
            };
            Knock::at(&self.place).map_err(|error| failed(what(), &error))?
        } else {
            None
        };
        let Some(mut knock) = knocked else {
            self.busy = None;
            return Ok(None);
        };
        let answer = self.wait_for_turn(&mut knock, deadline).await?;
        match answer {
            Some(Answer::ComeIn { layout_version, .. }) if layout_version != LAYOUT_VERSION => {
                Err(self.incompatible("region layout", layout_version, LAYOUT_VERSION))
            }
            Some(Answer::ComeIn { process_id, .. }) => knock.enter(self.file, process_id).await,
            Some(Answer::Refused { version }) => {
                Err(self.incompatible("meeting protocol", version, MEETING_VERSION))
            }
            Some(Answer::Failed { system_error }) => {
                let context = format!(
                    "the server of {:?} could not make a connection's files in {}",
                    self.file.name,
                    self.place.directory().display()
                );
                Err(failed_at_server(context, system_error))
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

    /// Until the server has said the last word on this attempt. `None` if it has gone, or time is up.
    async fn wait_for_turn(
        &mut self,
        knock: &mut Knock,
        deadline: Instant,
    ) -> Result<Option<Answer>, Error> {
        let mut heard = false;
        loop {
            let said = knock.hear(heard, deadline).await;
            let bytes = match said.map_err(|error| Error::io("waiting for the server", &error))? {
                Said::Answer(bytes) => bytes,
                Said::TimeIsUp => return Ok(None),
                Said::Gone => {
                    self.busy = None;
                    return Ok(None);
                }
            };
            match Answer::decode(&bytes) {
                None => {
                    return Err(Error::Protocol("the server's answer is none".to_owned()));
                }
                Some(Answer::Wait { max_clients }) => {
                    tracing::debug!(endpoint = self.file.name, max_clients, "told to wait");
                    self.busy = Some(max_clients);
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

/// What a client hears.
pub(super) enum Said {
    /// A whole answer.
    Answer([u8; ANSWER_SIZE]),
    /// The server has gone.
    Gone,
    /// Nothing, and it is too late; or nothing more can come.
    TimeIsUp,
}
