//! The session of a server.

use std::future::pending;
use std::sync::Arc;

use super::peer::{Peer, limits};
use super::{LIMITS, ROUNDS, rounds};
use crate::builder::WitServerBuilder;
use crate::event::{Event, Overflow};
use crate::frame::Kind;
use crate::fuzz_support::input::Input;
use crate::handshake::{Catalog, Confirm, Hello, NONCE_LEN, Terms, WIRE_VERSION};
use crate::message::Content;
use crate::server::WitServer;
use crate::service::{
    Dispatch, EventDescriptor, MethodDescriptor, Reply, Request, Service, ServiceDescriptor, Status,
};
use crate::sink::{Attached, EventSink, attach};
use crate::transport::ClientTransport;
use crate::transport::memory::MemoryTransport;

/// The most that an answer of [`Program`] takes up while it waits to be sent.
const LARGEST_ANSWER: u64 = 2 * LIMITS.max_message_size + 1000;
/// Values of an event that wait for a subscriber.
const BACKLOG: usize = 4;

pub(super) async fn run(input: &mut Input<'_>) {
    let (server, program, mut peer) = open(input).await;
    let mut raised = 0;
    while !input.is_empty() {
        match input.byte() {
            0x00..=0x1F => rounds(1 + input.below(8)).await,
            0x20..=0x2F => raised += program.raise(input),
            _ => peer.act(input),
        }
        check(&server, raised);
    }
    rounds(20).await;
    peer.read(usize::MAX);
    check(&server, raised);
    drop(peer);
    for _ in 0..ROUNDS {
        if server.client_count() == 0 {
            break;
        }
        rounds(1).await;
    }
    assert_eq!(server.client_count(), 0, "its client is gone");
    assert_eq!(program.small.subscriber_count() + program.fussy.subscriber_count(), 0);
    rounds(5).await;
    // Ours, and the server's.
    assert_eq!(Arc::strong_count(&program.alive), 2, "a handler is left");
}

/// A server of a program, connected to its peer.
async fn open(input: &mut Input<'_>) -> (WitServer, Program, Peer) {
    let transport = MemoryTransport::new().with_capacity(4096);
    let program = Program::new();
    let mut builder = WitServerBuilder::new()
        .with_transport(transport.clone())
        .with_service(program.clone())
        .with_max_in_flight(LIMITS.max_in_flight)
        .with_max_message_size(LIMITS.max_message_size);
    builder = builder.with_max_buffered(LIMITS.max_buffered);
    let server = builder.build().expect("settings that are fine");
    server.start_waiting_for_connection().await.expect("a transport of its own");
    let soon = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    let mut peer = Peer::new(transport.connect(soon).await.expect("it listens"));
    greet(&mut peer, input);
    rounds(20).await;
    (server, program, peer)
}

fn greet(peer: &mut Peer, input: &mut Input<'_>) {
    let terms = ["json", "none", "none"].map(str::to_owned);
    let [serializer, cipher, authorization] = terms;
    let hello = Hello {
        version: WIRE_VERSION,
        clock: 0,
        nonce: [0; NONCE_LEN],
        terms: Terms { serializer, cipher, authorization },
        key: Vec::new(),
    };
    peer.say(Kind::Hello, |out| hello.encode(out));
    let confirm = Confirm {
        limits: limits(input),
        clock_offset: 0,
        proof: Vec::new(),
        catalog: Catalog::default(),
    };
    peer.say(Kind::Confirm, |out| confirm.encode(out));
}

/// What a client of these limits may make a server hold, whatever it does.
fn check(server: &WitServer, raised: u64) {
    for load in server.load() {
        let in_flight = usize::try_from(LIMITS.max_in_flight).unwrap_or(0);
        assert!(load.partial_messages <= in_flight + 1, "{load:?}");
        assert!(load.handlers <= in_flight, "{load:?}");
        let answers = u64::from(LIMITS.max_in_flight + 1) * LARGEST_ANSWER;
        let subscriptions = u64::try_from(load.subscriptions).unwrap_or(0) + 8;
        assert!(load.queued_bytes <= answers + raised * subscriptions, "{load:?}");
    }
}

/// A service with every way of answering.
#[derive(Clone)]
struct Program {
    small: Event<Vec<u8>>,
    fussy: Event<u64>,
    /// Held by every handler.
    alive: Arc<()>,
}

static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: "Program",
    docs: "",
    methods: &[method("echo"), method("later"), method("never"), method("large"), method("tell")],
    events: &[event("small"), event("fussy")],
};

const fn method(name: &'static str) -> MethodDescriptor {
    let (signature, types) = ("", "");
    MethodDescriptor { name, signature, types, docs: "", blocking: false, idempotent: false }
}

const fn event(name: &'static str) -> EventDescriptor {
    EventDescriptor { name, signature: "", types: "", docs: "" }
}

impl Program {
    fn new() -> Self {
        Self {
            small: Event::new().with_capacity(BACKLOG),
            fussy: Event::new().with_capacity(1).with_overflow(Overflow::Disconnect),
            alive: Arc::new(()),
        }
    }

    /// Raises an event; returns what that may cost per subscriber.
    fn raise(&self, input: &mut Input<'_>) -> u64 {
        let size = [1, 100, 900][input.below(3)];
        if input.byte() < 0xC0 {
            self.small.raise(vec![7; size]).expect("it is ours");
        } else {
            self.fussy.raise(7).expect("it is ours");
        }
        // JSON takes two bytes for each.
        2 * u64::try_from(size).unwrap_or(0) + 1000
    }
}

impl Service for Program {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &DESCRIPTOR
    }

    fn call(&self, method: usize, request: Request) -> Dispatch {
        let alive = Arc::clone(&self.alive);
        let answer = |content| Reply { status: Status::Ok, content };
        match method {
            0 => Dispatch::Ready(answer(request.content)),
            1 => Dispatch::Running(Box::pin(async move {
                rounds(2).await;
                drop(alive);
                answer(request.content)
            })),
            2 => Dispatch::Running(Box::pin(async move {
                pending::<()>().await;
                drop(alive);
                answer(request.content)
            })),
            3 => {
                let mut content = Content::plain(Vec::new(), &[1; 2500]);
                content.set_blobs(vec![
                    vec![2; 500].into(),
                    Vec::new().into(),
                    vec![3; 600].into(),
                ]);
                Dispatch::Ready(answer(content))
            }
            _ => {
                let event = self.clone();
                Dispatch::Running(Box::pin(async move {
                    event.fussy.raise(1).expect("it is ours");
                    answer(Content::plain(Vec::new(), b"[]"))
                }))
            }
        }
    }

    fn subscribe(&self, event: usize, sink: EventSink) -> Attached {
        match event {
            0 => attach(&self.small, sink),
            1 => attach(&self.fussy, sink),
            _ => crate::sink::unknown_event(sink),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Input, open, rounds};

    #[tokio::test]
    async fn a_window_that_bounds_nothing_is_refused() {
        for (values, taken) in [(4096, 1), (4097, 0), (u32::MAX, 0)] {
            let (_server, program, mut peer) = open(&mut Input::new(&[])).await;
            peer.subscribe(0, values);
            rounds(20).await;
            assert_eq!(program.small.subscriber_count(), taken, "{values}");
        }
    }
}
