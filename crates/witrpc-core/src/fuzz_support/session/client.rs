//! The session of a client.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::peer::{Peer, limits};
use super::{LIMITS, ROUNDS, connected, rounds};
use crate::blob::Blob;
use crate::builder::WitClientBuilder;
use crate::call::{Call, Remote};
use crate::callee::Callee;
use crate::client::WitClient;
use crate::error::Error;
use crate::frame::Kind;
use crate::fuzz_support::input::Input;
use crate::handshake::{Accept, Catalog, NONCE_LEN, Welcome};
use crate::service::{EventDescriptor, MethodDescriptor, ServiceDescriptor};
use crate::subscription::Subscription;
use crate::transport::ServerTransport;
use crate::transport::memory::MemoryTransport;

/// Calls, pings and subscriptions that the program has at a time.
const MOST: usize = 12;

pub(super) async fn run(input: &mut Input<'_>) {
    let (client, mut peer) = open(input).await;
    let mut program = Program::new(&client);
    while !input.is_empty() {
        match input.byte() {
            0x00..=0x1F => rounds(1 + input.below(8)).await,
            0x20..=0x6F => program.act(input),
            _ => peer.act(input),
        }
        program.check();
    }
    rounds(20).await;
    peer.read(usize::MAX);
    drop(peer);
    for _ in 0..ROUNDS {
        if !client.is_connected() {
            break;
        }
        rounds(1).await;
    }
    assert!(!client.is_connected(), "its server is gone");
    program.end();
    rounds(5).await;
    let load = client.load();
    assert_eq!((load.queued_bytes, load.partial_messages, load.subscriptions), (0, 0, 0));
}

/// A client, connected to its peer.
async fn open(input: &mut Input<'_>) -> (WitClient, Peer) {
    let transport = MemoryTransport::new().with_capacity(4096);
    let mut listener = transport.listen().await.expect("a transport of its own");
    let client = WitClientBuilder::new()
        .with_transport(transport)
        .with_max_message_size(LIMITS.max_message_size)
        .with_max_buffered(LIMITS.max_buffered)
        .build()
        .expect("settings that are fine");
    let peer = {
        let mut connecting = pin!(connected(&client));
        assert!(poll(connecting.as_mut()).is_pending(), "nobody has answered");
        let mut peer = Peer::new(listener.accept().await.expect("a client"));
        greet(&mut peer, input);
        assert!(connecting.await, "it was answered well");
        peer
    };
    (client, peer)
}

fn greet(peer: &mut Peer, input: &mut Input<'_>) {
    let accept = Accept { clock: 0, nonce: [0; NONCE_LEN], key: Vec::new() };
    peer.say(Kind::Accept, |out| accept.encode(out));
    let catalog = Catalog::new([&DESCRIPTOR].into_iter());
    let welcome = Welcome { limits: limits(input), proof: Vec::new(), catalog };
    peer.say(Kind::Welcome, |out| welcome.encode(out));
}

static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
    name: "Program",
    docs: "",
    methods: &[MethodDescriptor {
        name: "echo",
        signature: "",
        types: "",
        docs: "",
        blocking: false,
        idempotent: false,
    }],
    events: &[EventDescriptor { name: "small", signature: "", types: "", docs: "" }],
};

type Calling = Pin<Box<Call<Result<Vec<u8>, Error>>>>;
type Pinging = Pin<Box<dyn Future<Output = ()>>>;

/// What a program does with its client.
struct Program {
    client: WitClient,
    remote: Remote,
    calls: Vec<Calling>,
    pings: Vec<Pinging>,
    subscriptions: Vec<Subscription<Vec<u8>>>,
}

impl Program {
    fn new(client: &WitClient) -> Self {
        let core = client.core();
        Self {
            client: client.clone(),
            remote: Remote::new(Callee::Server(core), &DESCRIPTOR, None),
            calls: Vec::new(),
            pings: Vec::new(),
            subscriptions: Vec::new(),
        }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0x00..=0x3F if self.calls.len() < MOST => self.call(input),
            0x40..=0x7F => self.poll(),
            0x80..=0x9F if !self.calls.is_empty() => {
                drop(self.calls.swap_remove(input.below(self.calls.len())));
            }
            0xA0..=0xBF if self.subscriptions.len() < MOST => {
                self.subscriptions.push(self.remote.event(0).subscribe());
            }
            0xC0..=0xCF if !self.subscriptions.is_empty() => {
                drop(self.subscriptions.swap_remove(input.below(self.subscriptions.len())));
            }
            0xD0..=0xDF if self.pings.len() < MOST => {
                let client = self.client.clone();
                self.pings.push(Box::pin(async move { drop(client.ping().await) }));
            }
            0xE0..=0xEF => drop(self.pings.pop()),
            _ => {}
        }
    }

    /// A call with arguments of some size, in the body and beside it.
    fn call(&mut self, input: &mut Input<'_>) {
        let sizes = [2, 0, 100, 2000];
        let (body, blobs) = (vec![1_u8; sizes[input.below(4)]], input.below(3));
        let blobs = vec![Blob::from(vec![2; sizes[input.below(4)]]); blobs];
        let mut call = Box::pin(self.remote.call(0, &(body, blobs)));
        if poll(call.as_mut()).is_pending() {
            self.calls.push(call);
        }
    }

    fn poll(&mut self) {
        self.calls.retain_mut(|call| poll(call.as_mut()).is_pending());
        self.pings.retain_mut(|ping| poll(ping.as_mut()).is_pending());
        for subscription in &mut self.subscriptions {
            while let Poll::Ready(Some(_)) = poll(pin!(subscription.next())) {}
        }
    }

    /// What a server may make a client hold, whatever it does.
    fn check(&self) {
        let load = self.client.load();
        let in_flight = usize::try_from(LIMITS_IN_FLIGHT).unwrap_or(0);
        assert!(load.partial_messages <= in_flight + 1, "{load:?}");
        assert!(load.subscriptions <= MOST && load.handlers <= in_flight, "{load:?}");
    }

    /// Everything comes to an end with the connection.
    fn end(mut self) {
        self.poll();
        assert!(self.calls.is_empty() && self.pings.is_empty(), "it waits for nobody");
        self.subscriptions.clear();
    }
}

/// What a client announces: it takes no calls, but this is what a connection has by default.
const LIMITS_IN_FLIGHT: u32 = 1024;

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTOR, Input, Poll, Remote, open, pin, poll, rounds};
    use crate::subscription::EventError;

    #[tokio::test]
    async fn the_last_number_that_a_value_can_have_does_no_harm() {
        let (client, mut peer) = open(&mut Input::new(&[])).await;
        let mut values = Remote::new(super::Callee::Server(client.core()), &DESCRIPTOR, None)
            .event::<Vec<u8>>(0)
            .subscribe();
        for _ in 0..2 {
            peer.value(0, u64::MAX, b"[1]");
        }
        rounds(20).await;
        let lost = Err(EventError::Lagged(u64::MAX));
        for expected in [lost, Ok(vec![1]), Ok(vec![1])] {
            assert_eq!(poll(pin!(values.next())), Poll::Ready(Some(expected)));
        }
    }
}
