//! A client's attempt to join: the join request goes through the server's pipe, and the answer comes back through it. `[seg.windows.door]`

use std::{future::poll_fn, io, time::Duration};

use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};
use tokio::time::{Instant, timeout_at};
use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::lock::read;
use super::lock_file::{pipe_name, read_lock};
use crate::channel::{Arenas, Terms, assemble};
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::caller::{AttemptSent, Received};
use crate::endpoint::paths::EndpointPaths;
use crate::endpoint::rendezvous::{ANSWER_SIZE, JoinRequest, Kind, RENDEZVOUS_VERSION};
use crate::event::pipe::PeerPipe;
use crate::event::raw_sync::Events;
use crate::event::registered;
use crate::layout::Instance;
use crate::region::{Region, Side};
use crate::sys::windows::{code_of, server_process};

/// The system takes far less time to close the handles of a dead process.
const DYING: Duration = Duration::from_secs(1);

/// A join request that was sent.
pub(crate) struct JoinAttempt {
    paths: EndpointPaths,
    nonce: Instance,
    pipe: PeerPipe<NamedPipeClient>,
    heard: Vec<u8>,
}

impl JoinAttempt {
    /// Sends a request, if there is a server.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if the door is not of the process that the lock file names; whatever else the system says.
    pub(crate) fn send(paths: &EndpointPaths) -> io::Result<AttemptSent> {
        // A file that is being removed cannot be read.
        let found = read(&paths.lock(), paths.access()).unwrap_or_default();
        let Some((record, door)) = read_lock(&found) else { return Ok(AttemptSent::NoServer) };
        fail_point::at("caller.looked");
        let pipe = match registered(|| ClientOptions::new().open(pipe_name(&door))) {
            Ok(pipe) => pipe,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(AttemptSent::NoServer);
            }
            // No instance of it is free just now.
            Err(error) if code_of(&error) == Some(ERROR_PIPE_BUSY) => {
                return Ok(AttemptSent::NotAccepted);
            }
            Err(error) => return Err(error),
        };
        if server_process(&pipe)? != record.process_id {
            let rule = "the pipe does not belong to the process that has the lock";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, rule));
        }
        let mut nonce = Instance::default();
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let (process_id, kind) = (std::process::id(), Kind::Client);
        let request = JoinRequest { version: RENDEZVOUS_VERSION, process_id, nonce, kind };
        let mut pipe = PeerPipe::new(pipe);
        pipe.queue(&request.encode());
        let request = Self { paths: paths.clone(), nonce, pipe, heard: Vec::new() };
        Ok(AttemptSent::Waiting(Box::new(request)))
    }

    /// Waits for the next answer. Whether there was one before does not matter here: the pipe reports the server's death at once.
    ///
    /// # Errors
    ///
    /// None here.
    pub(crate) async fn next_answer(
        &mut self,
        _heard: bool,
        deadline: Instant,
    ) -> io::Result<Received> {
        let mut asked = false;
        loop {
            let mut bytes = [0; ANSWER_SIZE];
            let missing = ANSWER_SIZE - self.heard.len();
            let read = poll_fn(|cx| {
                let heard = self.pipe.poll_read(cx, &mut bytes[..missing]);
                if !std::mem::replace(&mut asked, true) {
                    fail_point::at("caller.asked");
                }
                heard
            });
            match timeout_at(deadline, read).await {
                Err(_) => return Ok(Received::TimedOut),
                Ok(Ok(heard @ 1..)) => self.heard.extend_from_slice(&bytes[..heard]),
                Ok(Ok(0) | Err(_)) => return Ok(Received::Gone),
            }
            if let Some(whole) = self.heard.first_chunk() {
                let answer = *whole;
                self.heard.clear();
                return Ok(Received::Answer(answer));
            }
        }
    }

    /// Opens the region that the server has made. `None` if the server has gone meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Config`] if the server's kind of event is not ours.
    pub(crate) async fn enter(
        mut self,
        file: &MemoryMappedFile,
        process_id: u32,
    ) -> Result<Option<Channel>, Error> {
        fail_point::at("caller.answered");
        let path = self.paths.file(&self.nonce, "mmf");
        let opened = Region::attach(&path, &self.nonce, self.paths.access());
        let opened = opened.and_then(|region| Ok((Events::open(&region)?, region)));
        let (events, region) = match opened {
            Ok(opened) => opened,
            // The files of a dying server may vanish before we notice its death.
            Err(_) if self.has_gone().await => return Ok(None),
            Err(error) => return Err(failed(format!("opening {}", path.display()), &error)),
        };
        file.check_event(region.events())?;
        fail_point::at("caller.mapped");
        tracing::debug!(endpoint = file.name, "accepted by the server");
        let (notifier, waiter) = events.ends(self.pipe, ());
        let terms = Terms {
            side: Side::Client,
            peer_process_id: Some(process_id),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(|| {}),
            lease: Box::new(()),
            arenas: Arenas::of_named_files(),
        };
        Ok(Some(assemble(region, notifier, waiter, terms)))
    }

    /// Whether the server hangs up soon.
    async fn has_gone(&mut self) -> bool {
        let mut nothing = [0; 1];
        let hangs_up = poll_fn(|cx| self.pipe.poll_read(cx, &mut nothing));
        matches!(tokio::time::timeout(DYING, hangs_up).await, Ok(Ok(0) | Err(_)))
    }
}
