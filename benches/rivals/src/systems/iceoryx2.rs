//! iceoryx2's request-response, polled by both sides, or waited for with its events.
//!
//! Payloads are written into what it loans, and read out of it, in one pass each; the server writes its answer from the
//! request that lies before it. There is no copy besides.

use std::collections::VecDeque;

use anyhow::{Context, Result, anyhow};
use iceoryx2::pending_response::PendingResponse;
use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::server::Server;
use iceoryx2::prelude::*;
use iceoryx2::response::Response;
use iceoryx2::service::port_factory::request_response::PortFactory;

use crate::client::{InOrder, Pipe};
use crate::system::{Endpoint, Ready, System};

/// How the ends wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iceoryx2 {
    Polling,
    Events,
}

/// A request that is an addition; longer ones are echoes.
const SMALL: usize = 8;
/// Requests at a time, at least as many as any scenario has.
const REQUESTS: usize = 128;
/// Memory grows from here as payloads do.
const FIRST_PAYLOAD: usize = 256;

type Service = ipc::Service;

/// What one process has of an endpoint.
struct Side {
    node: Node<Service>,
    requests: PortFactory<Service, [u8], (), [u8], ()>,
    waking: Option<Waking>,
}

/// For those that sleep: what wakes us, and what wakes the other side.
struct Waking {
    listener: Listener<Service>,
    notifier: Notifier<Service>,
}

impl Side {
    fn new(waiting: Iceoryx2, at: &Endpoint, ours: &str, theirs: &str) -> Result<Self> {
        set_log_level(LogLevel::Error);
        let mut config = Config::default();
        let root = at.directory.to_str().context("a path that is text")?;
        config.global.set_root_path(&root.try_into().map_err(|e| anyhow!("{root:?}: {e:?}"))?);
        let prefix = format!("{}_", at.name());
        config.global.prefix =
            prefix.as_str().try_into().map_err(|e| anyhow!("{prefix:?}: {e:?}"))?;
        let node = NodeBuilder::new()
            .config(&config)
            .signal_handling_mode(SignalHandlingMode::Disabled)
            .create::<Service>()?;
        let requests = node
            .service_builder(&"requests".try_into()?)
            .request_response::<[u8], [u8]>()
            .max_active_requests_per_client(REQUESTS)
            .max_loaned_requests(REQUESTS)
            .max_response_buffer_size(1)
            .max_clients(1)
            .max_servers(1)
            .open_or_create()?;
        let waking = match waiting {
            Iceoryx2::Polling => None,
            Iceoryx2::Events => Some(Waking {
                listener: Self::event(&node, ours)?.listener_builder().create()?,
                notifier: Self::event(&node, theirs)?.notifier_builder().create()?,
            }),
        };
        Ok(Self { node, requests, waking })
    }

    fn event(
        node: &Node<Service>,
        name: &str,
    ) -> Result<iceoryx2::service::port_factory::event::PortFactory<Service>> {
        Ok(node.service_builder(&name.try_into()?).event().open_or_create()?)
    }

    /// Until the other side may have done something.
    fn wait(&self) -> Result<()> {
        match &self.waking {
            None => std::hint::spin_loop(),
            Some(waking) => {
                waking.listener.blocking_wait(|_| {}).map_err(|e| anyhow!("waiting: {e:?}"))?;
            }
        }
        Ok(())
    }

    fn wake(&self) -> Result<()> {
        if let Some(waking) = &self.waking {
            waking.notifier.notify()?;
        }
        Ok(())
    }
}

impl System for Iceoryx2 {
    type Client = InOrder<Alone<Connection>>;

    async fn serve(&self, at: Endpoint, ready: Ready) -> Result<()> {
        let side = Side::new(*self, &at, "to-server", "to-client")?;
        let server = side
            .requests
            .server_builder()
            .initial_max_slice_len(FIRST_PAYLOAD)
            .allocation_strategy(AllocationStrategy::PowerOfTwo)
            .create()?;
        ready.tell("");
        loop {
            if answer_all(&server)? {
                side.wake()?;
            }
            side.wait()?;
        }
    }

    async fn connect(&self, at: Endpoint, _words: String) -> Result<Self::Client> {
        let side = Side::new(*self, &at, "to-client", "to-server")?;
        let client = side
            .requests
            .client_builder()
            .initial_max_slice_len(FIRST_PAYLOAD)
            .allocation_strategy(AllocationStrategy::PowerOfTwo)
            .create()?;
        Ok(InOrder(Alone(Connection { side, client, asked: VecDeque::new() })))
    }
}

/// Answers whatever has come, and tells whether that was anything.
fn answer_all(server: &Server<Service, [u8], (), [u8], ()>) -> Result<bool> {
    let mut any = false;
    while let Some(request) = server.receive()? {
        any = true;
        match <[u8; SMALL]>::try_from(request.payload()) {
            Ok([a, b, c, d, e, f, g, h]) => {
                let (a, b) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
                let answer = request.loan_slice_uninit(4)?;
                answer.write_from_slice(&a.wrapping_add(b).to_ne_bytes()).send()?;
            }
            Err(_) => {
                let answer = request.loan_slice_uninit(request.payload().len())?;
                answer.write_from_slice(request.payload()).send()?;
            }
        }
    }
    Ok(any)
}

/// What stays on the thread that made it, though its types do not promise that they may leave.
pub(crate) struct Alone<T>(T);

// SAFETY: systems that block run on one thread from the beginning to the end: `Flavour::Blocking` polls in place.
unsafe impl<T> Send for Alone<T> {}

pub(crate) struct Connection {
    side: Side,
    client: Client<Service, [u8], (), [u8], ()>,
    asked: VecDeque<PendingResponse<Service, [u8], (), [u8], ()>>,
}

impl Connection {
    fn send(&mut self, payload: &[u8]) -> Result<()> {
        let request = self.client.loan_slice_uninit(payload.len())?;
        self.asked.push_back(request.write_from_slice(payload).send()?);
        self.side.wake()
    }

    fn receive(&mut self) -> Result<Response<Service, [u8], ()>> {
        let pending = self.asked.pop_front().context("nothing was asked")?;
        loop {
            if let Some(response) = pending.receive()? {
                return Ok(response);
            }
            self.side.wait()?;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Before the node that they belong to.
        self.asked.clear();
        let _id = self.side.node.id();
    }
}

impl Pipe for Alone<Connection> {
    async fn ask(&mut self, a: i32, b: i32) -> Result<()> {
        let ([a, b, c, d], [e, f, g, h]) = (a.to_ne_bytes(), b.to_ne_bytes());
        self.0.send(&[a, b, c, d, e, f, g, h])
    }

    async fn answer(&mut self) -> Result<i32> {
        let answer = self.0.receive()?;
        Ok(i32::from_ne_bytes(answer.payload().try_into()?))
    }

    async fn echo(&mut self, mut payload: Vec<u8>) -> Result<Vec<u8>> {
        self.0.send(&payload)?;
        let answer = self.0.receive()?;
        payload.clear();
        payload.extend_from_slice(answer.payload());
        Ok(payload)
    }
}
