//! Peers that write their own bytes: a client and a server that break the rules of the wire, one at a time.
//!
//! Breaking a rule ends the peer's own connection and nothing else: other connections go on, and nothing is left behind. The bytes are
//! written out here, as `docs/wire.md` specifies them, and do not come from the library.

use std::future::poll_fn;
use std::task::Poll;

use tokio::time::{Instant, timeout};
use witrpc::transport::{Channel, ClientTransport, Listener, TransportError, Wake};

use crate::fixture::{Fixture, GUARD};

/// Runs tests over both transports.
macro_rules! raw {
    ($($test:ident),* $(,)?) => {
        raw!(@instance memory, memory, MultiThread, $($test),*);
        raw!(@instance mmf, mmf, MultiThread, $($test),*);
        raw!(@instance mmf_current_thread, mmf, CurrentThread, $($test),*);
    };
    (@instance $name:ident, $transport:ident, $flavor:ident, $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                use crate::fixture::{Fixture, Flavor, run};
                run(Flavor::$flavor, Fixture::$transport(), super::$test);
            })*
        }
    };
}

mod client;
mod endless;
mod loans;
mod offences;
mod polled;
mod replay;
mod server;
mod streams;
mod texts;

const HELLO: u8 = 0x01;
const ACCEPT: u8 = 0x02;
const CONFIRM: u8 = 0x03;
const WELCOME: u8 = 0x04;
const REFUSE: u8 = 0x05;
pub(crate) const REQUEST: u8 = 0x10;
pub(crate) const RESPONSE: u8 = 0x11;
const CANCEL: u8 = 0x12;
const ABORT_REQUEST: u8 = 0x13;
const ABORT_RESPONSE: u8 = 0x14;
const CREDIT: u8 = 0x20;
pub(crate) const ITEM_CREDIT: u8 = 0x26;
const PING: u8 = 0x21;
const PONG: u8 = 0x22;
const GOODBYE: u8 = 0x23;
pub(crate) const SUBSCRIBE: u8 = 0x31;
pub(crate) const UNSUBSCRIBE: u8 = 0x32;
pub(crate) const EVENT_ACK: u8 = 0x33;
pub(crate) const EVENT_END: u8 = 0x34;
const STREAM_ITEM: u8 = 0x40;
const STREAM_END: u8 = 0x41;
pub(crate) const STREAM_CREDIT: u8 = 0x42;
const STREAM_CANCEL: u8 = 0x43;
const LOAN_RETURN: u8 = 0x50;

const MIDDLE: u8 = 0;
const FIRST: u8 = 1;
const LAST: u8 = 2;
pub(crate) const WHOLE: u8 = FIRST | LAST;

/// Places of `Calc`'s methods.
const ADD: u16 = 0;
const DIVIDE: u16 = 1;
const WAIT: u16 = 9;
const OPEN: u16 = 10;
const BLOCK: u16 = 13;

/// A frame whose length is right.
pub(crate) fn frame(kind: u8, flags: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    framed(kind, flags, payload.len() as u32, id, payload)
}

fn framed(kind: u8, flags: u8, len: u32, id: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, flags, 0, 0];
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The fixed part of a message.
#[derive(Clone, Copy, Default)]
struct Head {
    body_len: u32,
    stream_count: u16,
    extension_len: u16,
    blob_count: u32,
    selector: u16,
    member: u16,
    stamp: u64,
}

impl Head {
    fn of(body: &[u8]) -> Self {
        Self { body_len: body.len() as u32, ..Self::default() }
    }

    /// The head and what is behind it, which need not be what it says.
    fn with(&self, rest: &[u8]) -> Vec<u8> {
        let mut bytes = self.body_len.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.stream_count.to_le_bytes());
        bytes.extend_from_slice(&self.extension_len.to_le_bytes());
        bytes.extend_from_slice(&self.blob_count.to_le_bytes());
        bytes.extend_from_slice(&self.selector.to_le_bytes());
        bytes.extend_from_slice(&self.member.to_le_bytes());
        bytes.extend_from_slice(&self.stamp.to_le_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }
}

/// A message in one frame.
fn message(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    frame(kind, WHOLE, id, &Head::of(body).with(body))
}

/// A call of one of `Calc`'s methods.
fn call(id: u64, method: u16, arguments: &str) -> Vec<u8> {
    let head = Head { member: method, ..Head::of(arguments.as_bytes()) };
    frame(REQUEST, WHOLE, id, &head.with(arguments.as_bytes()))
}

/// The marker of each message that has attachments.
const MARKER: u64 = 0x0102;

/// A call that has streams of these ids.
fn call_with_streams(id: u64, method: u16, arguments: &str, streams: &[u64]) -> Vec<u8> {
    call_to((0, method), id, arguments, streams)
}

/// A call of a service's method, by their places.
pub(crate) fn call_to(
    (selector, member): (u16, u16),
    id: u64,
    arguments: &str,
    streams: &[u64],
) -> Vec<u8> {
    let body = arguments.as_bytes();
    let head = Head { selector, member, stream_count: streams.len() as u16, ..Head::of(body) };
    let entry = |id: &u64| [&id.to_le_bytes()[..], &[0; 4]].concat();
    let table: Vec<u8> = streams.iter().flat_map(entry).collect();
    let marker = MARKER.to_le_bytes();
    let tables = if streams.is_empty() { Vec::new() } else { [&marker[..], &table].concat() };
    frame(REQUEST, WHOLE, id, &head.with(&[body, &tables].concat()))
}

/// Arguments that are the stream of this place.
pub(crate) fn reference(place: u32) -> String {
    format!("[\"stream:{MARKER:016x}:{place}\"]")
}

/// An item of a stream.
pub(crate) fn stream_item(id: u64, number: u64) -> Vec<u8> {
    let head = Head { stamp: number, ..Head::of(b"7") };
    frame(STREAM_ITEM, WHOLE, id, &head.with(b"7"))
}

pub(crate) fn stream_end(id: u64, status: u16) -> Vec<u8> {
    let head = Head { selector: status, ..Head::default() };
    frame(STREAM_END, WHOLE, id, &head.with(b""))
}

pub(crate) fn stream_credit(id: u64, items: u32, bytes: u64) -> Vec<u8> {
    let payload = [&items.to_le_bytes()[..], &bytes.to_le_bytes()].concat();
    frame(STREAM_CREDIT, WHOLE, id, &payload)
}

/// The first chunk of a request of which more is to come.
fn begun(id: u64, body_len: u32, sent: usize) -> Vec<u8> {
    let head = Head { body_len, ..Head::default() };
    frame(REQUEST, FIRST, id, &head.with(&vec![b' '; sent]))
}

fn text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text);
}

/// What nobody looks at without a token.
const NONCE: [u8; 32] = [0xA5; 32];

/// Of the wire.
const VERSION: u32 = 2;

fn hello_body(version: u32, serializer: &str) -> Vec<u8> {
    hello_body_with(version, serializer, &[])
}

fn hello_body_with(version: u32, serializer: &str, features: &[&str]) -> Vec<u8> {
    let mut body = version.to_le_bytes().to_vec();
    body.extend_from_slice(&1_u64.to_le_bytes());
    body.extend_from_slice(&NONCE);
    for term in [serializer, "none", "none"] {
        text(&mut body, term.as_bytes());
    }
    put_features(&mut body, features);
    text(&mut body, b""); // No key.
    body
}

fn put_features(body: &mut Vec<u8>, features: &[&str]) {
    body.extend_from_slice(&(features.len() as u32).to_le_bytes());
    features.iter().for_each(|feature| text(body, feature.as_bytes()));
}

/// Responses may have the status 9.
const OVERLOADED: &str = "overloaded";
/// The same of the status 10.
const UNAUTHORIZED: &str = "unauthorized";
/// Messages may have loans.
const LOANS: &str = "loans";

fn hello() -> Vec<u8> {
    message(HELLO, 0, &hello_body(VERSION, "json"))
}

fn limits(max_message_size: u64, max_buffered: u64, max_in_flight: u32) -> Vec<u8> {
    let mut bytes = max_message_size.to_le_bytes().to_vec();
    bytes.extend_from_slice(&max_buffered.to_le_bytes());
    bytes.extend_from_slice(&max_in_flight.to_le_bytes());
    bytes
}

fn confirm_body() -> Vec<u8> {
    confirm_body_with(&limits(1 << 20, 2 << 20, 100))
}

fn confirm_body_with(limits: &[u8]) -> Vec<u8> {
    let mut body = limits.to_vec();
    body.extend_from_slice(&0_u64.to_le_bytes());
    text(&mut body, b"");
    body.extend_from_slice(&0_u32.to_le_bytes()); // No services.
    body
}

/// A received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    flags: u8,
    pub(crate) id: u64,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The body of a message that came in one frame, and its selector.
    fn message(&self) -> (u16, &[u8]) {
        assert_eq!(self.flags, WHOLE);
        let selector = u16::from_le_bytes([self.payload[12], self.payload[13]]);
        (selector, &self.payload[24..])
    }
}

/// One end of a channel, driven by hand.
#[derive(Debug)]
pub(crate) struct Raw {
    channel: Channel,
    gone: bool,
}

impl Raw {
    fn new(channel: Channel) -> Self {
        Self { channel, gone: false }
    }

    async fn client(fixture: &Fixture) -> Self {
        Self::client_over(&*fixture.client_transport()).await
    }

    async fn client_over(transport: &dyn ClientTransport) -> Self {
        Self::new(transport.connect((Instant::now() + GUARD).into()).await.unwrap())
    }

    /// A client whose handshake is done.
    async fn open_client(fixture: &Fixture) -> Self {
        Self::open_client_over(&*fixture.client_transport()).await
    }

    /// The same over a transport of its own.
    pub(crate) async fn open_client_over(transport: &dyn ClientTransport) -> Self {
        let raw = Self::client_over(transport).await;
        raw.opened(&[]).await
    }

    /// The same of a client that says it takes however much.
    pub(crate) async fn open_greedy_client(transport: &dyn ClientTransport) -> Self {
        let raw = Self::client_over(transport).await;
        let body = confirm_body_with(&limits((1 << 31) - 1, 1 << 50, u32::MAX));
        raw.opened_with(&[], &body).await
    }

    /// Does the client's side of a handshake.
    async fn opened(self, features: &[&str]) -> Self {
        self.opened_with(features, &confirm_body()).await
    }

    async fn opened_with(mut self, features: &[&str], confirm: &[u8]) -> Self {
        let raw = &mut self;
        let body = hello_body_with(VERSION, "json", features);
        raw.send(&message(HELLO, 0, &body)).await;
        assert_eq!(raw.recv().await.unwrap().kind, ACCEPT);
        raw.send(&message(CONFIRM, 0, confirm)).await;
        assert_eq!(raw.recv().await.unwrap().kind, WELCOME);
        self
    }

    /// The server's end of the next client.
    async fn server(listener: &mut Box<dyn Listener>) -> Self {
        Self::new(listener.accept().await.unwrap())
    }

    /// A server whose handshake is done.
    async fn open_server(listener: &mut Box<dyn Listener>, welcome: &[u8]) -> Self {
        let mut raw = Self::server(listener).await;
        raw.accepts().await;
        raw.send(&message(WELCOME, 0, welcome)).await;
        raw
    }

    /// The server's side of a handshake, up to the welcome. Returns the confirm.
    async fn accepts(&mut self) -> Frame {
        self.accepts_with(&[]).await
    }

    async fn accepts_with(&mut self, features: &[&str]) -> Frame {
        assert_eq!(self.recv().await.unwrap().kind, HELLO);
        let mut accept = 1_u64.to_le_bytes().to_vec();
        accept.extend_from_slice(&NONCE);
        put_features(&mut accept, features);
        text(&mut accept, b"");
        self.send(&message(ACCEPT, 0, &accept)).await;
        let confirm = self.recv().await.unwrap();
        assert_eq!(confirm.kind, CONFIRM);
        confirm
    }

    async fn wake(&mut self) {
        let wake = poll_fn(|cx| self.channel.waiter.poll_wake(cx)).await;
        self.gone |= wake.unwrap() == Wake::PeerGone;
    }

    /// Whether the peer has gone, as far as is known; lets others run.
    pub(crate) async fn is_gone(&mut self) -> bool {
        tokio::task::yield_now().await;
        let look = poll_fn(|cx| Poll::Ready(self.channel.waiter.poll_wake(cx)));
        if let Poll::Ready(wake) = look.await {
            self.gone |= wake.unwrap() == Wake::PeerGone;
        }
        self.gone
    }

    /// Puts a record where the peer finds it, unless the peer has gone.
    pub(crate) async fn send(&mut self, record: &[u8]) {
        self.push(record).await;
        self.publish();
    }

    async fn push(&mut self, record: &[u8]) {
        let sender = &mut self.channel.sender;
        assert!(record.len() <= sender.max_record());
        while !self.gone && !self.channel.sender.try_push(record, &[], 0).unwrap() {
            if !self.channel.sender.arm(record.len(), 0).unwrap() {
                self.wake().await;
            }
        }
    }

    fn publish(&mut self) {
        match self.channel.sender.publish() {
            // Nobody is there to be woken any more.
            Ok(()) | Err(TransportError::Io(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes what is there, and looks at none of it.
    pub(crate) fn take_all(&mut self) {
        let receiver = &mut self.channel.receiver;
        while receiver.peek(&mut []).unwrap().is_some() {
            receiver.consume();
        }
        receiver.release().unwrap();
    }

    /// The next frame; `None` when the peer has gone and said no more.
    pub(crate) async fn recv(&mut self) -> Option<Frame> {
        loop {
            let mut record = Vec::new();
            let receiver = &mut self.channel.receiver;
            if let Some(len) = receiver.peek(&mut []).unwrap() {
                receiver.append_to(0, len, &mut record);
                receiver.consume();
                receiver.release().unwrap();
                return Some(Frame {
                    kind: record[0],
                    flags: record[1],
                    id: u64::from_le_bytes(record[8..16].try_into().unwrap()),
                    payload: record.split_off(16),
                });
            }
            if self.gone {
                return None;
            }
            if !receiver.arm().unwrap() {
                self.wake().await;
                self.channel.receiver.disarm();
            }
        }
    }

    /// Reads up to the end; returns the farewell, which a peer may owe.
    async fn farewell(&mut self) -> Option<String> {
        let mut farewell = None;
        let end = async {
            while let Some(frame) = self.recv().await {
                if frame.kind == GOODBYE {
                    farewell = Some(String::from_utf8(frame.payload).unwrap());
                }
            }
        };
        timeout(GUARD / 2, end).await.expect("the connection goes on");
        farewell
    }
}
