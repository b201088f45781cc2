//! The door of a server: a kernel pipe, of which each client opens an instance. `[seg.windows.door]`

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::Duration,
};

use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use tokio::time::{Instant, sleep_until};
use witrpc_core::text::Escaped;
use witrpc_core::transport::Channel;
use witrpc_core::{Error, fail_point};

use super::fault::failed;
use super::lock::Lock;
use super::lock_file::pipe_name;
use crate::channel::{Arenas, Terms, assemble};
use crate::endpoint::MemoryMappedFile;
use crate::endpoint::door::{Admission, WaitingClient};
use crate::endpoint::making::make;
use crate::endpoint::paths::{EndpointPaths, hex};
use crate::endpoint::rendezvous::{Answer, JOIN_REQUEST_SIZE, JoinRequest};
use crate::endpoint::slots::Lease;
use crate::event::pipe::PeerPipe;
use crate::event::raw_sync::Events;
use crate::event::registered;
use crate::layout::{Instance, LAYOUT_VERSION};
use crate::region::Side;
use crate::sys::region_file;
use crate::sys::windows::{client_process, create_pipe};

/// How long a client may take to ask once it has opened the door, or to read its refusal.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that have opened the door and not asked, or were refused and have not gone. The oldest are dropped for further ones.
const MAX_PENDING: usize = 256;

/// The maximum number of waiting clients. Each takes an instance of the pipe.
pub(crate) const fn longest_queue() -> usize {
    if cfg!(test) { 3 } else { 1024 }
}

/// The system's part of a [`Door`](crate::endpoint::Door): reads requests, and sends answers.
#[derive(Debug)]
pub(crate) struct DoorListener {
    name: String,
    /// The instance that the next client will open; `None` once the door is closed.
    open: Option<NamedPipeServer>,
    pending: VecDeque<PendingClient>,
}

/// A client that has opened the door, and is not in the queue.
#[derive(Debug)]
struct PendingClient {
    pipe: PeerPipe<NamedPipeServer>,
    /// What it has asked so far; `None` if it was refused.
    request: Option<Vec<u8>>,
    until: Instant,
}

impl DoorListener {
    /// Makes the door, and writes its name into the lock file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub(crate) fn open(paths: &EndpointPaths, lock: &Lock) -> Result<Self, Error> {
        Self::make(lock)
            .map_err(|error| failed(format!("creating the pipe of {:?}", paths.name()), &error))
    }

    fn make(lock: &Lock) -> io::Result<Self> {
        let mut door = Instance::default();
        getrandom::fill(&mut door).map_err(io::Error::other)?;
        let name = pipe_name(&hex(&door));
        // The name cannot be guessed; if it exists all the same, this fails.
        let open = Some(instance(&name, true)?);
        fail_point::at("door.made");
        lock.tell_door(&door)?;
        fail_point::at("door.opened");
        Ok(Self { name, open, pending: VecDeque::new() })
    }

    /// Waits until clients have asked, or some of the waiting clients have gone. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the door itself fails.
    pub(crate) async fn arrivals(
        &mut self,
        _paths: &EndpointPaths,
        waiting: &mut VecDeque<WaitingClient>,
    ) -> io::Result<Vec<WaitingClient>> {
        loop {
            let Self { name, open, pending } = self;
            let Some(open) = open else { return Err(io::ErrorKind::NotConnected.into()) };
            let overdue = pending.front().map(|client| client.until);
            tokio::select! {
                biased;
                callers = poll_fn(|cx| poll_pending(pending, waiting, cx)) => return Ok(callers),
                connected = open.connect() => {
                    // Without another one, this client is sent away, and the next may come.
                    let next = connected.and_then(|()| instance(name, false));
                    match next {
                        Ok(next) => {
                            let pipe = std::mem::replace(open, next);
                            add_pending(pending, PeerPipe::new(pipe), Some(Vec::new()));
                        }
                        Err(error) => {
                            tracing::warn!(
                                error = %Escaped(&error),
                                "could not read a join request"
                            );
                            open.disconnect()?;
                        }
                    }
                }
                () = until(overdue) => drop(pending.pop_front()),
            }
        }
    }

    /// Answers a client that goes on waiting.
    pub(crate) fn answer(&mut self, reply: &mut ReplyPath, answer: Answer) {
        if let Some(pipe) = &mut reply.pipe {
            pipe.queue(&answer.encode());
        }
    }

    /// Gives a client its final answer.
    pub(crate) fn dismiss(&mut self, reply: ReplyPath, answer: Answer) {
        if let (Some(mut pipe), Some(_)) = (reply.pipe, &self.open) {
            pipe.queue(&answer.encode());
            add_pending(&mut self.pending, pipe, None);
        } // Else the client notices that we have gone, and asks the next server.
    }

    /// Stops listening. No client can have asked whose request was not read.
    pub(crate) fn close(&mut self, _paths: &EndpointPaths) -> Vec<WaitingClient> {
        self.open = None;
        fail_point::at("door.removed");
        Vec::new()
    }
}

/// An instance of the pipe.
fn instance(name: &str, first: bool) -> io::Result<NamedPipeServer> {
    let mut options = ServerOptions::new();
    options.first_pipe_instance(first).reject_remote_clients(true);
    registered(|| create_pipe(&options, name))
}

fn add_pending(
    pending: &mut VecDeque<PendingClient>,
    pipe: PeerPipe<NamedPipeServer>,
    request: Option<Vec<u8>>,
) {
    if pending.len() >= MAX_PENDING {
        pending.pop_front();
    }
    pending.push_back(PendingClient { pipe, request, until: Instant::now() + REQUEST_TIMEOUT });
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Returns the clients whose requests are complete; an empty list if a waiting client has gone.
fn poll_pending(
    pending: &mut VecDeque<PendingClient>,
    waiting: &mut VecDeque<WaitingClient>,
    cx: &mut Context<'_>,
) -> Poll<Vec<WaitingClient>> {
    let waited = waiting.len();
    waiting.retain_mut(|caller| caller.reply.poll_is_alive(cx));
    let (mut callers, mut at) = (Vec::new(), 0);
    while at < pending.len() {
        match pending[at].poll_request(cx) {
            Poll::Pending => at += 1,
            Poll::Ready(request) => {
                let client = pending.remove(at);
                if let (Some(request), Some(PendingClient { pipe, .. })) = (request, client) {
                    callers.push(WaitingClient::new(request, ReplyPath { pipe: Some(pipe) }));
                }
            }
        }
    }
    if callers.is_empty() && waiting.len() == waited {
        return Poll::Pending;
    }
    Poll::Ready(callers)
}

impl PendingClient {
    /// Its request; `None` if it has gone, or sent no valid request.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<JoinRequest>> {
        loop {
            let mut bytes = [0; JOIN_REQUEST_SIZE];
            let missing = JOIN_REQUEST_SIZE - self.request.as_ref().map_or(0, Vec::len);
            let Poll::Ready(heard) = self.pipe.poll_read(cx, &mut bytes[..missing]) else {
                return Poll::Pending;
            };
            let (Ok(heard @ 1..), Some(request)) = (heard, &mut self.request) else {
                return Poll::Ready(None);
            };
            request.extend_from_slice(&bytes[..heard]);
            if let Some(whole) = request.first_chunk() {
                let request = JoinRequest::decode(whole);
                if request.is_none() {
                    tracing::warn!("ignored bytes that are not a join request");
                }
                return Poll::Ready(request);
            }
        }
    }
}

/// How to reach a client that has asked.
#[derive(Debug)]
pub(crate) struct ReplyPath {
    /// `None` once it belongs to a connection.
    pipe: Option<PeerPipe<NamedPipeServer>>,
}

impl ReplyPath {
    /// Whether the client is still there. It must send nothing more.
    fn poll_is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        let mut nothing = [0; 1];
        self.pipe.as_mut().is_some_and(|pipe| pipe.poll_read(cx, &mut nothing).is_pending())
    }

    /// Makes the connection's files, and only then tells the client (E3).
    pub(crate) async fn admit(
        mut self,
        file: MemoryMappedFile,
        paths: EndpointPaths,
        request: JoinRequest,
        lease: Lease,
    ) -> Admission {
        match self.enter(&file, &paths, &request, lease).await {
            Ok(Some(channel)) => Admission::Admitted(channel),
            Ok(None) => Admission::Gone,
            Err(error) => Admission::Failed(self, error),
        }
    }

    /// `None` if the client has gone.
    async fn enter(
        &mut self,
        file: &MemoryMappedFile,
        paths: &EndpointPaths,
        request: &JoinRequest,
        lease: Lease,
    ) -> io::Result<Option<Channel>> {
        if !self.poll_is_alive(&mut Context::from_waker(std::task::Waker::noop())) {
            return Ok(None);
        }
        let region = region_file::make(&paths.file(&request.nonce, "mmf"))?;
        let is_there = |cx: &mut Context<'_>| self.poll_is_alive(cx);
        let Some(region) = make(region, file, &request.nonce, paths.access(), is_there).await?
        else {
            return Ok(None);
        };
        fail_point::at("door.made_region");
        let events = Events::create(&region)?;
        fail_point::at("door.made_event");
        let Some(mut pipe) = self.pipe.take() else { return Ok(None) };
        let come_in =
            Answer::ComeIn { layout_version: LAYOUT_VERSION, process_id: std::process::id() };
        pipe.queue(&come_in.encode());
        // Prefer the system's process id to the one that the client stated.
        let process = client_process(pipe.pipe()).unwrap_or(request.process_id);
        let terms = Terms {
            side: Side::Server,
            peer_process_id: Some(process),
            wait_strategy: file.wait_strategy,
            on_first_frame: Box::new(|| {}), // The files go with the handles.
            lease: Box::new(lease),
            arenas: Arenas::of_named_files(),
        };
        // The runtime may need a moment to see that the pipe is writable; the client itself cannot delay this (E4).
        poll_fn(|cx| pipe.poll_write(cx)).await;
        fail_point::at("door.answered");
        tracing::debug!(process, "accepted a client");
        let (notifier, waiter) = events.ends(pipe, ());
        Ok(Some(assemble(region, notifier, waiter, terms)))
    }
}
