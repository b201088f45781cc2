//! The session of a client.

use std::pin::{Pin, pin};
use std::task::Poll;

use serde::Serialize;
use witrpc_core::Error;
use witrpc_core::contract::descriptor::{EventDescriptor, MethodDescriptor, ServiceDescriptor};
use witrpc_core::contract::route::catalog_of;
use witrpc_core::fuzz_support::Input;
use witrpc_core::held::Held;
use witrpc_core::transport::ServerTransport;
use witrpc_core::values::blob::Blob;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::handshake::{Accept, NONCE_LEN, Welcome};

use crate::builder::WitClientBuilder;
use crate::calls::call::{Call, Remote};
use crate::client::WitClient;
use crate::events::subscription::Subscription;
use crate::fuzz_support::session::meter::Meter;
use crate::fuzz_support::session::peer::{Peer, limits};
use crate::fuzz_support::session::{LIMITS, bounds, burst, connected, poll, read_some};
use crate::fuzz_support::{rounds, rounds_until};
use crate::streams::streaming::Streaming;
use crate::transport::memory::MemoryTransport;

/// Calls, pings and subscriptions that the program has at a time, and streams that it keeps.
const MOST: usize = 12;
/// The size of the largest item of its streams: numbers, each a digit and a comma.
const LARGEST_ITEM: u64 = 2 * 900 + 1;

pub(super) fn run(input: &mut Input<'_>, meter: &mut Meter) {
    let (client, mut peer) = meter.step(open(input));
    let mut program = Program::new(&client);
    while !input.is_empty() {
        meter.step(act(input, &mut program, &mut peer));
        program.check(&peer);
        meter.check(&client.load(), program.own());
    }
    meter.step(end(client, program, peer));
}

async fn act(input: &mut Input<'_>, program: &mut Program, peer: &mut Peer) {
    match input.byte() {
        0x00..=0x1F => rounds(1 + input.below(8)).await,
        0x20..=0x6F => program.act(input),
        0x70..=0x71 => burst(peer, input).await,
        _ => peer.act(input),
    }
}

async fn end(client: WitClient, program: Program, mut peer: Peer) {
    rounds(20).await;
    peer.read(usize::MAX);
    drop(peer);
    rounds_until(|| !client.is_connected()).await;
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
        .with_max_in_flight(LIMITS.max_in_flight)
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
    let accept = Accept { clock: 0, nonce: [0; NONCE_LEN], features: Vec::new(), key: Vec::new() };
    peer.say(Kind::Accept, |out| accept.encode(out));
    let catalog = catalog_of([&DESCRIPTOR].into_iter());
    peer.limits = limits(input);
    let welcome = Welcome { limits: peer.limits, proof: Vec::new(), catalog };
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

type Numbers = Streaming<Vec<u8>>;
type Calling = Pin<Box<Call<Result<Vec<u8>, Error>>>>;
type Asking = Pin<Box<Call<Result<Vec<Numbers>, Error>>>>;
type Pinging = Pin<Box<dyn Future<Output = ()>>>;

/// What a program does with its client.
struct Program {
    client: WitClient,
    remote: Remote,
    calls: Vec<Calling>,
    /// Calls whose answers have streams.
    questions: Vec<Asking>,
    pings: Vec<Pinging>,
    subscriptions: Vec<Subscription<Vec<u8>>>,
    /// Streams of which it reads now and then.
    kept: Vec<Numbers>,
    /// Calls, pings and subscriptions that it has ever begun.
    begun: usize,
    subscribed: usize,
    /// The size of the largest request that it has made.
    largest: u64,
}

impl Program {
    fn new(client: &WitClient) -> Self {
        let core = client.core();
        Self {
            client: client.clone(),
            remote: Remote::new(core, &DESCRIPTOR, None),
            calls: Vec::new(),
            questions: Vec::new(),
            pings: Vec::new(),
            subscriptions: Vec::new(),
            kept: Vec::new(),
            begun: 0,
            subscribed: 0,
            largest: 0,
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
                self.subscribed += 1;
                self.subscriptions.push(self.remote.event(0).subscribe());
            }
            0xC0..=0xCF if !self.subscriptions.is_empty() => {
                drop(self.subscriptions.swap_remove(input.below(self.subscriptions.len())));
            }
            0xD0..=0xDF if self.pings.len() < MOST => {
                self.begun += 1;
                let client = self.client.clone();
                self.pings.push(Box::pin(async move { drop(client.ping().await) }));
            }
            0xE0..=0xEF => drop(self.pings.pop()),
            0xF0..=0xF5 if self.calls.len() < MOST => self.write(input),
            0xF6..=0xF9 if self.questions.len() < MOST => {
                self.begun += 1;
                let outcome = crate::calls::outcome::outcome();
                let mut question = Box::pin(
                    self.remote.call_encoded(0, outcome, &|codec, out| codec.serialize(&(), out)),
                );
                if poll(question.as_mut()).is_pending() {
                    self.questions.push(question);
                }
            }
            0xFA..=0xFD => self.read(input),
            _ if !self.kept.is_empty() => {
                drop(self.kept.swap_remove(input.below(self.kept.len())));
            }
            _ => {}
        }
    }

    /// A call with arguments of some size, in the body and beside it.
    fn call(&mut self, input: &mut Input<'_>) {
        let sizes = [2, 0, 100, 2000];
        let (body, blobs) = (vec![1_u8; sizes[input.below(4)]], input.below(3));
        let blobs = vec![Blob::from(vec![2; sizes[input.below(4)]]); blobs];
        // A number is a digit and a comma; a blob has a reference, too.
        let size = 2 * body.len() + blobs.iter().map(|blob| blob.len() + 200).sum::<usize>();
        self.begin(size + 100, &(body, blobs));
    }

    /// A call with streams among its arguments.
    fn write(&mut self, input: &mut Input<'_>) {
        let item = vec![7_u8; [1, 10, 100, 900][input.below(4)]];
        let stream = || Streaming::iter(std::iter::repeat(item.clone()));
        let streams: Vec<_> = (0..=input.below(4)).map(|_| stream()).collect();
        self.begin(1000 * streams.len(), &streams);
    }

    fn begin(&mut self, size: usize, arguments: &impl Serialize) {
        self.begun += 1;
        self.largest = self.largest.max(len_u64(size));
        let outcome = crate::calls::outcome::outcome();
        let encode = |codec: &Codec, out: &mut Vec<u8>| codec.serialize(arguments, out);
        let mut call = Box::pin(self.remote.call_encoded(0, outcome, &encode));
        if poll(call.as_mut()).is_pending() {
            self.calls.push(call);
        }
    }

    /// Reads some of a stream that it keeps, or of all.
    fn read(&mut self, input: &mut Input<'_>) {
        if self.kept.is_empty() {
            return;
        }
        let (at, what) = (input.below(self.kept.len()), input.byte());
        let count = usize::from(what % 64);
        if what < 0x80 {
            if !read_some(&mut self.kept[at], count) {
                drop(self.kept.swap_remove(at));
            }
        } else {
            self.kept.retain_mut(|stream| read_some(stream, count));
        }
    }

    fn poll(&mut self) {
        self.calls.retain_mut(|call| poll(call.as_mut()).is_pending());
        self.questions.retain_mut(|question| match poll(question.as_mut()) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                self.kept.extend(answer.into_iter().flatten());
                self.kept.truncate(MOST);
                false
            }
        });
        self.pings.retain_mut(|ping| poll(ping.as_mut()).is_pending());
        for subscription in &mut self.subscriptions {
            while let Poll::Ready(Some(_)) = poll(pin!(subscription.next())) {}
        }
    }

    /// What a server may make a client hold, whatever it does.
    fn check(&self, peer: &Peer) {
        let mut ended = (Held::default(), Held::default());
        for (charged, covered) in self.kept.iter().filter_map(Streaming::held_beyond_its_end) {
            ended.0 += charged;
            ended.1 += covered;
        }
        let program = bounds::Program {
            request: self.largest,
            item: LARGEST_ITEM,
            calls: self.calls.len() + self.questions.len() + self.pings.len(),
            begun: self.begun,
            subscriptions: self.subscriptions.len(),
            subscribed: self.subscribed,
            ended,
            streams: self.kept.len(),
            ..bounds::Program::default()
        };
        let connection = self.client.core().connection().ok();
        if let Some(held) = connection.and_then(|connection| connection.held()) {
            bounds::check(held, &peer.limits, &program);
        }
        self.subscriptions.iter().for_each(|values| bounds::check_values(values.held()));
    }

    /// What it has that is its own: the arguments of its calls, and values of its subscriptions, in queues that grow by doubling.
    fn own(&self) -> u64 {
        let calls = len_u64(self.calls.len() + self.questions.len() + self.pings.len());
        let values = self.subscriptions.iter().map(|values| 2 * values.held().memory).sum::<u64>();
        calls * (2 * self.largest + 2048) + values
    }

    /// Everything comes to an end with the connection.
    fn end(mut self) {
        self.poll();
        let waits = [self.calls.len(), self.questions.len(), self.pings.len()];
        assert_eq!(waits, [0; 3], "it waits for nobody");
        self.subscriptions.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::DESCRIPTOR;
    use super::Input;
    use super::Poll;
    use super::Remote;
    use super::open;
    use super::pin;
    use super::poll;
    use super::rounds;
    use crate::events::error::EventError;

    #[tokio::test]
    async fn the_last_number_that_a_value_can_have_does_no_harm() {
        let (client, mut peer) = open(&mut Input::new(&[])).await;
        let mut values =
            Remote::new(client.core(), &DESCRIPTOR, None).event::<Vec<u8>>(0).subscribe();
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
