//! The session of a server.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use witrpc_core::Error;
use witrpc_core::contract::descriptor::{EventDescriptor, MethodDescriptor, ServiceDescriptor};
use witrpc_core::fuzz_support::Input;
use witrpc_core::held::Held;
use witrpc_core::testing::lock;
use witrpc_core::transport::ClientTransport;
use witrpc_core::values::content::Content;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::handshake::Proof;
use witrpc_core::wire::handshake::{Confirm, Hello, NONCE_LEN, Terms, WIRE_VERSION};
use witrpc_core::wire::status::Status;

use crate::builder::WitServerBuilder;
use crate::events::backlog::Overflow;
use crate::events::event::{Event, attach};
use crate::events::remote_subscriber::{Attached, EventSubscriber};
use crate::fuzz_support::session::meter::Meter;
use crate::fuzz_support::session::peer::{Peer, limits};
use crate::fuzz_support::session::{LIMITS, bounds, burst, read_some};
use crate::fuzz_support::{client_is_gone, rounds};
use crate::link::reply::Reply;
use crate::server::WitServer;
use crate::serving::service::{self, Dispatch, Request, Service};
use crate::streams::streaming::Streaming;
use crate::transport::memory::MemoryTransport;

/// The size of the largest answer of [`Program`]: the echo of the largest request, or what [`Program::call`] makes.
const LARGEST_ANSWER: u64 = LIMITS.max_message_size;
/// Items of a stream, and values of an event, have up to so many numbers.
const NUMBERS: usize = 900;
/// The size of such an item: a number is a digit and a comma.
const LARGEST_ITEM: u64 = 2 * NUMBERS as u64 + 1;
/// Values of an event that wait for a subscriber.
const BACKLOG: usize = 4;
/// Streams that the program keeps.
const KEPT: usize = 24;

pub(super) fn run(input: &mut Input<'_>, meter: &mut Meter) {
    let (server, program, mut peer) = meter.step(open(input));
    while !input.is_empty() {
        meter.step(act(input, &program, &mut peer));
        check(&server, &peer, &program);
        for load in server.load() {
            meter.check(&load, 0);
        }
    }
    meter.step(end(server, program, peer));
}

async fn act(input: &mut Input<'_>, program: &Program, peer: &mut Peer) {
    match input.byte() {
        0x00..=0x1F => rounds(1 + input.below(8)).await,
        0x20..=0x2B => program.raise(input),
        0x2C..=0x2F => program.read(input),
        0x30..=0x31 => burst(peer, input).await,
        _ => peer.act(input),
    }
}

async fn end(server: WitServer, program: Program, mut peer: Peer) {
    rounds(20).await;
    peer.read(usize::MAX);
    check(&server, &peer, &program);
    drop(peer);
    lock(&program.kept).clear();
    client_is_gone(&server).await;
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
    let mut peer = Peer::new(transport.connect(soon.into()).await.expect("it listens"));
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
        features: Vec::new(),
        key: Vec::new(),
    };
    peer.say(Kind::Hello, |out| hello.encode(out));
    peer.limits = limits(input);
    let confirm = Confirm {
        limits: peer.limits,
        clock_offset: 0,
        proof: Proof::default(),
        catalog: Catalog::default(),
    };
    peer.say(Kind::Confirm, |out| confirm.encode(out));
}

/// What a client of these limits may make a server hold, whatever it does.
fn check(server: &WitServer, peer: &Peer, program: &Program) {
    let kept = lock(&program.kept);
    let mut ended = (Held::default(), Held::default());
    for (charged, covered) in kept.iter().filter_map(Streaming::held_beyond_its_end) {
        ended.0 += charged;
        ended.1 += covered;
    }
    let program = bounds::Program {
        answer: LARGEST_ANSWER,
        value: program.largest.load(Ordering::Relaxed),
        item: LARGEST_ITEM,
        capacity: BACKLOG,
        ended,
        streams: kept.len(),
        ..bounds::Program::default()
    };
    for held in server.connections().iter().filter_map(|connection| connection.held()) {
        bounds::check(held, &peer.limits, &program);
    }
}

/// A service with every way of answering.
#[derive(Clone)]
struct Program {
    small: Event<Vec<u8>>,
    fussy: Event<u64>,
    /// The size of the largest value that it has raised.
    largest: Arc<AtomicU64>,
    /// Streams of the peer's, of which it reads now and then.
    kept: Arc<Mutex<Vec<Streaming<Vec<u8>>>>>,
    /// Held by every handler.
    alive: Arc<()>,
}

static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: "Program",
    docs: "",
    methods: &[
        method("echo"),
        method("later"),
        method("never"),
        method("large"),
        method("tell"),
        method("write"),
        method("read"),
    ],
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
            largest: Arc::default(),
            kept: Arc::default(),
            alive: Arc::new(()),
        }
    }

    /// Raises an event, of some size, a few times.
    fn raise(&self, input: &mut Input<'_>) {
        let (size, which) = ([1, 100, NUMBERS][input.below(3)], input.byte());
        for _ in 0..[1, 1, 1, 3 * BACKLOG][usize::from(which % 4)] {
            if which < 0xC0 {
                self.raise_small(size);
            } else {
                self.fussy.raise(7).expect("it is ours");
            }
        }
    }

    fn raise_small(&self, numbers: usize) {
        self.largest.fetch_max(2 * len_u64(numbers) + 1, Ordering::Relaxed);
        self.small.raise(vec![7; numbers]).expect("it is ours");
    }

    /// Reads some of a stream that it keeps, or of all; or drops one.
    fn read(&self, input: &mut Input<'_>) {
        let mut kept = lock(&self.kept);
        if kept.is_empty() {
            return;
        }
        let (at, what) = (input.below(kept.len()), input.byte());
        let count = usize::from(what % 64);
        match what {
            0x00..=0x7F => {
                if !read_some(&mut kept[at], count) {
                    drop(kept.swap_remove(at));
                }
            }
            0x80..=0xBF => kept.retain_mut(|stream| read_some(stream, count)),
            _ => drop(kept.swap_remove(at)),
        }
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
                let blobs = vec![vec![2; 500].into(), Vec::new().into(), vec![3; 600].into()];
                content.set_blobs(5, blobs);
                Dispatch::Ready(answer(content))
            }
            4 => {
                let events = self.clone();
                Dispatch::Running(Box::pin(async move {
                    events.fussy.raise(1).expect("it is ours");
                    for _ in 0..BACKLOG {
                        events.raise_small(10);
                    }
                    answer(Content::plain(Vec::new(), b"[]"))
                }))
            }
            5 => service::answer(
                request,
                crate::calls::arguments::arguments1(),
                crate::calls::outcome::outcome(),
                |(size,): (usize,)| async move {
                    let item = vec![7_u8; [1, 10, 100, NUMBERS][size % 4]];
                    Ok::<_, Error>(Streaming::iter(std::iter::repeat(item)))
                },
            ),
            _ => {
                let kept = Arc::clone(&self.kept);
                service::answer(
                    request,
                    crate::calls::arguments::arguments1(),
                    crate::calls::outcome::outcome(),
                    |(streams,): (Vec<Streaming<Vec<u8>>>,)| async move {
                        let mut kept = lock(&kept);
                        for mut stream in streams {
                            // The first look is what opens it.
                            if kept.len() < KEPT && read_some(&mut stream, 0) {
                                kept.push(stream);
                            }
                        }
                        Ok::<_, Error>(())
                    },
                )
            }
        }
    }

    fn subscribe(&self, event: usize, subscriber: EventSubscriber) -> Attached {
        match event {
            0 => attach(&self.small, subscriber),
            1 => attach(&self.fussy, subscriber),
            _ => crate::events::remote_subscriber::unknown_event(subscriber),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Input;
    use super::open;
    use super::rounds;

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
