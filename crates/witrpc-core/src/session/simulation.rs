//! Two peers' sessions against each other, over pipes of records in memory: no clock, no thread, no waiting. What
//! happens next is drawn from a seed, so a failure can be repeated.

mod streams;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::Error;
use crate::limits::{Limits, POOLS, Pool};
use crate::security::cipher::{CipherPair, Encryptor, NoiseEncryptor, Opener, Role};
use crate::session::inbound::{Inbound, Incoming};
use crate::session::ledger::{Charge, Ledger};
use crate::session::outbound::{Outbound, Outgoing, Pumped, Withdrawn};
use crate::session::pending::CallId;
use crate::testing::lock;
use crate::testing::{Message, Pipe, PipeReceiver, PipeSender};
use crate::values::attachments::OutgoingStream;
use crate::values::content::{Content, Streams};
use crate::wire::fields::{len_u64, u32_len, u64_len};
use crate::wire::frame::{HEADER_LEN, Kind};
use crate::wire::message::{BLOB_ENTRY_LEN, HEAD_LEN, MARKER_LEN};

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        u64_len(self.next() % len_u64(bound))
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(len).collect()
    }
}

impl Message {
    /// Of every size that matters: nothing, less than a chunk, and many; with no, empty, and many blobs.
    fn random(random: &mut Random) -> Self {
        let sizes = [0, 1, 20, 300, 1000, 5000, 20_000];
        let bytes = |random: &mut Random| {
            let most = sizes[random.below(sizes.len())];
            let len = random.below(most + 1);
            random.bytes(len)
        };
        let body = bytes(random);
        let count = [0, 0, 0, 1, 2, 7, 40][random.below(7)];
        let mut blobs: Vec<Bytes> = (0..count).map(|_| bytes(random).into()).collect();
        // Within `LIMITS.max_message_size`.
        blobs.truncate(if count > 7 { 5 } else { count });
        blobs.resize(count, Bytes::new());
        let (selector, member) = (random.next().to_le_bytes()[0].into(), 7);
        Self { selector, member, stamp: random.next(), marker: 5, body, blobs }
    }
}

const LIMITS: Limits =
    Limits { max_message_size: 200_000, max_buffered: 300_000, max_in_flight: 10 };

/// One side of a session.
struct Peer {
    inbound: Inbound,
    outbound: Outbound,
    ledger: Arc<Ledger>,
    kind: Kind,
    next_id: u64,
    /// What it has sent and the other side has not got.
    under_way: HashMap<u64, Message>,
    /// Messages of which it sent a part.
    aborted: Vec<u64>,
    /// Charges of messages that it holds.
    held: Vec<Charge>,
    pings: u64,
    pongs: u64,
}

impl Peer {
    fn new(
        kind: Kind,
        capacity: usize,
        out: &Arc<Mutex<Pipe>>,
        into: &Arc<Mutex<Pipe>>,
        limits: Limits,
    ) -> Self {
        let ledger = Ledger::new(Pool::ALL.map(|pool| limits.credit_batch(pool)));
        let receiver = PipeReceiver { pipe: Arc::clone(into), current: None };
        let mut inbound = Inbound::new(Box::new(receiver), limits, Arc::clone(&ledger), false);
        inbound.open();
        let sender = PipeSender { pipe: Arc::clone(out), capacity, batch: Vec::new() };
        let mut outbound = Outbound::new(Box::new(sender), Arc::clone(&ledger));
        outbound.open(&limits);
        Self {
            inbound,
            outbound,
            ledger,
            kind,
            next_id: 0,
            under_way: HashMap::new(),
            aborted: Vec::new(),
            held: Vec::new(),
            pings: 0,
            pongs: 0,
        }
    }

    /// Two that are connected: one sends requests, the other responses.
    fn pair(capacity: usize, limits: Limits) -> [Self; 2] {
        let pipes = [(); 2].map(|()| Arc::<Mutex<Pipe>>::default());
        [
            Self::new(Kind::Request, capacity, &pipes[0], &pipes[1], limits),
            Self::new(Kind::Response, capacity, &pipes[1], &pipes[0], limits),
        ]
    }

    fn send(&mut self, message: Message) {
        self.outbound.push(message.outgoing(self.kind, self.next_id)).unwrap();
        self.under_way.insert(self.next_id, message);
        self.next_id += 1;
    }

    /// Takes one of its messages back.
    fn withdraw(&mut self, id: u64) {
        let withdrawn = match self.kind {
            Kind::Request => self.outbound.withdraw_request(CallId(id)),
            _ => self.outbound.withdraw_response(id),
        };
        match withdrawn.unwrap().0 {
            Withdrawn::Unsent => drop(self.under_way.remove(&id).unwrap()),
            Withdrawn::Partly => {
                self.under_way.remove(&id).unwrap();
                self.aborted.push(id);
            }
            // It lies in the pipe, and arrives.
            Withdrawn::Sent => assert!(self.under_way.contains_key(&id)),
        }
    }

    /// Takes one frame from the other side; returns whether there was one.
    fn take(&mut self, sender: &mut Self) -> bool {
        let Some(incoming) = self.inbound.receive().unwrap() else { return false };
        match incoming {
            Incoming::Request { id, head, content, charge, .. }
            | Incoming::Response { id, head, content, charge } => {
                let sent = sender.under_way.remove(&id);
                let sent = sent.unwrap_or_else(|| panic!("{id} was withdrawn, or came twice"));
                assert_eq!(Message::arrived(&head, &content), sent);
                self.held.push(charge);
            }
            Incoming::Aborted { id, request, .. } => {
                assert_eq!(request, sender.kind == Kind::Request);
                let at = sender.aborted.iter().position(|aborted| *aborted == id);
                sender.aborted.swap_remove(at.expect("it was aborted"));
            }
            Incoming::Credit(pool, bytes) => self.outbound.add_credit(pool, bytes),
            Incoming::Ping(id) => self.outbound.push_answer(Kind::Pong, id, Vec::new()).unwrap(),
            Incoming::Pong(id) => {
                assert_eq!(id, self.pongs, "pongs keep their order");
                self.pongs += 1;
            }
            Incoming::Part => {}
            other => panic!("{other:?}"),
        }
        true
    }

    fn ping(&mut self) {
        self.outbound.push_control(Kind::Ping, self.pings);
        self.pings += 1;
    }

    /// One thing that could happen.
    fn act(&mut self, other: &mut Self, random: &mut Random) {
        match random.below(12) {
            0 if self.under_way.len() < 30 => self.send(Message::random(random)),
            1 if !self.under_way.is_empty() => {
                let mut ids: Vec<_> = self.under_way.keys().copied().collect();
                ids.sort_unstable();
                self.withdraw(ids[random.below(ids.len())]);
            }
            2 if self.pings - self.pongs < 5 => self.ping(),
            3 if !self.held.is_empty() => {
                drop(self.held.swap_remove(random.below(self.held.len())));
            }
            4..=7 => {
                self.outbound.set_peer_near(random.below(2) == 0);
                match random.below(3) {
                    0 => self.outbound.pump_at_length().unwrap(),
                    publish => self.outbound.pump(publish == 1).unwrap(),
                };
            }
            _ => {
                for _ in 0..random.below(8) {
                    self.take(other);
                }
            }
        }
        assert!(self.inbound.partial_count() <= u32_len(LIMITS.max_in_flight));
    }

    /// The credit that has not come back, if both sides are quiet.
    fn missing_credit(&self, receiver: &Self) -> u64 {
        let missing = |pool| {
            LIMITS.credit(pool) - self.outbound.credit(pool) - receiver.ledger.returnable(pool)
        };
        Pool::ALL.into_iter().map(missing).sum()
    }
}

/// Lets both go on until neither has anything to say.
fn settle(a: &mut Peer, b: &mut Peer) {
    loop {
        a.held.clear();
        b.held.clear();
        let pumped = [a.outbound.pump(true).unwrap(), b.outbound.pump(true).unwrap()];
        let took = [a.take(b), b.take(a)];
        if took == [false; 2] && pumped == [Pumped::Done; 2] {
            // What a pump left for the other to answer may be behind it.
            if !a.ledger.is_due() && !b.ledger.is_due() {
                return;
            }
        }
    }
}

#[test]
fn whatever_happens_messages_arrive_whole_and_credit_adds_up() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let capacity = [256, 1024, 4080, 65_536][random.below(4)];
        let [mut a, mut b] = Peer::pair(capacity, LIMITS);
        for _ in 0..3000 {
            if random.below(2) == 0 {
                a.act(&mut b, &mut random);
            } else {
                b.act(&mut a, &mut random);
            }
        }
        assert!(a.next_id > 20 && b.next_id > 20, "seed {seed} did little");
        settle(&mut a, &mut b);
        for (peer, other) in [(&a, &b), (&b, &a)] {
            assert!(peer.under_way.is_empty() && peer.aborted.is_empty(), "seed {seed}");
            assert_eq!(peer.missing_credit(other), 0, "seed {seed}");
            assert_eq!((peer.outbound.queued(), peer.inbound.partial_count()), (0, 0));
            assert_eq!(peer.pongs, peer.pings);
        }
    }
}

/// Aborts at every point of a message that has several sections.
#[test]
fn an_abort_at_any_point_gives_all_credit_back() {
    let blobs = [0, 300, 0, 1, 500].map(|len| Bytes::from(vec![7; len])).to_vec();
    let message =
        Message { selector: 1, member: 2, stamp: 3, marker: 5, body: vec![9; 400], blobs };
    for frames in 0..40 {
        let [mut a, mut b] = Peer::pair(256, LIMITS);
        a.send(message.clone());
        for _ in 0..frames {
            a.outbound.pump(true).unwrap();
            b.take(&mut a);
        }
        if !a.under_way.is_empty() {
            a.withdraw(0);
        }
        settle(&mut a, &mut b);
        assert_eq!(a.missing_credit(&b), 0, "after {frames} frames");
        assert_eq!((b.inbound.partial_count(), a.outbound.queued()), (0, 0));
        assert!(a.aborted.is_empty() && a.under_way.is_empty());
    }
}

/// What is long is copied to where it stays.
#[test]
fn a_section_of_many_chunks_is_allocated_once() {
    let pipes = [(); 2].map(|()| Arc::<Mutex<Pipe>>::default());
    let mut a = Peer::new(Kind::Request, 4096, &pipes[0], &pipes[1], LIMITS);
    let mut b = Peer::new(Kind::Response, 4096, &pipes[1], &pipes[0], LIMITS);
    let blobs = vec![Bytes::from(vec![7; 90_000])];
    a.send(Message { selector: 1, member: 2, stamp: 3, marker: 5, body: vec![9; 80_000], blobs });
    settle(&mut a, &mut b);
    assert!(a.under_way.is_empty(), "it has come");
    let tables = MARKER_LEN + BLOB_ENTRY_LEN;
    assert_eq!(lock(&pipes[0]).reserved, [HEAD_LEN + 80_000 + tables, 90_000]);
}

/// Eight bytes make a blob, so what is allocated for one counts.
#[test]
fn a_table_of_empty_blobs_costs_what_n1_says() {
    let [mut a, mut b] = Peer::pair(65_536, LIMITS);
    let mut blobs = vec![Bytes::new(); 1100];
    blobs[1099] = Bytes::from(vec![7; 100]);
    a.send(Message { selector: 1, member: 2, stamp: 3, marker: 5, body: vec![9; 4], blobs });
    a.outbound.pump(true).unwrap();
    assert!(b.take(&mut a));
    assert_eq!(b.inbound.partial_count(), 1);
    b.inbound.check();
}

/// Also if it is an event that waits, behind which a response is held.
#[test]
fn a_response_that_waits_for_credit_is_told_once_until_there_is_some() {
    for event_waits in [false, true] {
        let [mut a, mut b] = Peer::pair(65_536, LIMITS);
        let left = LIMITS.credit(Pool::Answers);
        let message = |kind, id, len| {
            Outgoing::new(kind, id, Content::plain(Vec::new(), &vec![7; len]), (0, 0, 0), None)
        };
        b.outbound.push(message(Kind::Response, 1, 150_000)).unwrap();
        // It has taken its credit.
        assert_eq!(b.outbound.pump(true).unwrap(), Pumped::More);
        if event_waits {
            let event = b.outbound.push_event(message(Kind::Event, 1, 100_000));
            b.outbound.push(message(Kind::Response, 2, 1).after_event(event)).unwrap();
        } else {
            b.outbound.push(message(Kind::Response, 2, 100_000)).unwrap();
        }
        // What has arrived is held, as by a caller that is not polled.
        let (mut held, mut told) = (Vec::new(), Vec::new());
        let mut quiet = false;
        while !quiet {
            quiet = b.outbound.pump(true).unwrap() == Pumped::Done;
            while let Some(incoming) = a.inbound.receive().unwrap() {
                quiet = false;
                match incoming {
                    Incoming::AnswerWaits(missing) => told.push(missing),
                    Incoming::Response { charge, .. } => held.push(charge),
                    _ => {}
                }
            }
        }
        assert_eq!(
            (held.len(), &told[..]),
            (1, &[100_000 - (left - 150_000)][..]),
            "{event_waits}"
        );
        held.clear();
        a.ledger.note_answer_waits();
        let returned = a.ledger.take_due(Pool::Answers).unwrap();
        b.outbound.add_credit(Pool::Answers, returned);
        while b.outbound.pump(true).unwrap() != Pumped::Done {
            while a.inbound.receive().unwrap().is_some() {}
        }
        while a.inbound.receive().unwrap().is_some() {}
        assert_eq!(b.outbound.queued(), 0);
    }
}

/// A peer may give any credit, at any time.
#[test]
fn credit_without_end_does_no_harm() {
    let [mut a, mut b] = Peer::pair(256, LIMITS);
    let blobs = vec![Bytes::from(vec![7; 300])];
    a.send(Message { selector: 1, member: 2, stamp: 3, marker: 5, body: vec![9; 400], blobs });
    assert_eq!(a.outbound.pump_at_length().unwrap(), Pumped::Full);
    assert!(b.take(&mut a));
    for _ in 0..2 {
        a.outbound.add_credit(Pool::Requests, u64::MAX);
        a.ping();
    }
    a.withdraw(0);
    assert_eq!(a.outbound.credit(Pool::Requests), u64::MAX);
    settle(&mut a, &mut b);
    assert!(a.aborted.is_empty());
}

#[test]
fn nothing_follows_a_goodbye() {
    let [mut a, mut b] = Peer::pair(256, LIMITS);
    b.outbound.clear();
    b.outbound.push_goodbye("so long");
    b.outbound.pump(true).unwrap();
    let mut charge = Charge::new(&b.ledger, Pool::Requests);
    charge.add(LIMITS.max_buffered);
    drop(charge);
    b.ping();
    b.outbound.pump(true).unwrap();
    assert!(matches!(a.inbound.receive(), Ok(Some(Incoming::Goodbye(_)))));
    assert!(matches!(a.inbound.receive(), Ok(None)), "credit, or a ping");
}

/// However much is given back to a peer that reads nothing, one frame says it, and nobody is kept busy by it.
#[test]
fn credit_that_finds_no_room_is_one_frame() {
    let [mut a, mut b] = Peer::pair(256, LIMITS);
    while b.outbound.pump(true).unwrap() != Pumped::Full {
        b.ping();
    }
    let before = a.outbound.credit(Pool::Requests);
    for _ in 0..10 {
        let mut charge = Charge::new(&b.ledger, Pool::Requests);
        charge.add(LIMITS.max_buffered);
        drop(charge);
        assert_eq!(b.outbound.pump(true).unwrap(), Pumped::Full);
        assert!(!b.ledger.is_due());
    }
    let mut frames = 0;
    while a.take(&mut b) {
        b.outbound.pump(true).unwrap();
        frames += 1;
    }
    assert_eq!(frames, b.pings + 1);
    assert_eq!(a.outbound.credit(Pool::Requests), before + 10 * LIMITS.max_buffered);
}

#[test]
fn control_frames_and_small_messages_pass_bulk() {
    let [mut a, mut b] = Peer::pair(4080, LIMITS);
    let large = Message {
        selector: 0,
        member: 0,
        stamp: 0,
        marker: 5,
        body: vec![1; 100_000],
        blobs: vec![Bytes::from(vec![2; 50_000])],
    };
    let blobs = vec![Bytes::new(), Bytes::from_static(b"a blob is no reason to wait")];
    let small = Message { body: vec![3; 10], blobs, ..large.clone() };
    a.send(large.clone());
    a.send(large);
    assert_eq!(a.outbound.pump_at_length().unwrap(), Pumped::Full);
    // The pipe is as full as bulk makes it; nothing has been read, and these still leave.
    a.send(small);
    a.ping();
    a.outbound.pump(true).unwrap();
    let mut frames = 0;
    while a.under_way.len() == 3 {
        assert!(b.take(&mut a));
        frames += 1;
    }
    // Its body and its blob are two of them.
    assert!(frames <= 6, "{} frames of {} bytes were ahead", frames - 2, 4080 / 4);
    b.outbound.pump(true).unwrap();
    assert!(a.take(&mut b), "the ping came before the small message");
    assert_eq!(a.pongs, 1);
    settle(&mut a, &mut b);
    assert!(a.under_way.is_empty());
}

/// What a peer does with one call costs the same whatever else waits: 60,000 streams here, and thousands of small messages.
/// Where each step looked at all of them, this took minutes.
#[test]
fn no_step_takes_longer_for_what_else_waits() {
    const STEPS: u64 = 200_000;
    let sender = PipeSender { pipe: Arc::default(), capacity: 65_536, batch: Vec::new() };
    // Without credit nothing but frames of the control lane leaves.
    let mut outbound = Outbound::new(Box::new(sender), Ledger::new([1; POOLS]));
    let sources = (0..60_000).map(|_| OutgoingStream::new((), 0)).collect();
    let mut content = Content::default();
    content.set_streams(Streams::Outgoing(sources));
    let opened = outbound.open_streams(&mut content).unwrap();
    for (id, _) in &opened {
        assert!(outbound.push_item(*id, 1, Content::plain(Vec::new(), b"item"), None));
    }
    let message = |kind, id| {
        let content = Content::plain(Vec::new(), b"small");
        Outgoing::new(kind, id, content, (0, 0, 0), None)
    };
    for id in 0..10_000 {
        outbound.push(message(Kind::Response, id)).unwrap();
        outbound.push(message(Kind::Response, STEPS + id).after_event(1)).unwrap();
    }
    let began = Instant::now();
    for id in 0..STEPS {
        assert_eq!(outbound.withdraw_response(u64::MAX).unwrap().0, Withdrawn::Sent);
        outbound.push(message(Kind::Request, id)).unwrap();
        outbound.pump(true).unwrap();
        assert_eq!(outbound.withdraw_request(CallId(id)).unwrap().0, Withdrawn::Unsent);
        assert!(began.elapsed() < Duration::from_secs(30), "after {id} steps");
    }
}

/// Else the chunks of two answers would get mixed up at the peer.
#[test]
fn an_id_is_not_used_again_before_its_answer_has_left() {
    let [mut a, _] = Peer::pair(256, LIMITS);
    let message =
        Message { selector: 0, member: 0, stamp: 0, marker: 5, body: vec![1; 1000], blobs: vec![] };
    for small in [false, true] {
        let body = if small { vec![] } else { message.body.clone() };
        let message = Message { body, ..message.clone() };
        let id = u64::from(small);
        a.outbound.push(message.outgoing(Kind::Response, id)).unwrap();
        a.outbound.push(message.outgoing(Kind::Request, id)).unwrap();
        assert!(a.outbound.push(message.outgoing(Kind::Response, id)).is_err());
    }
}

/// Its last section is no shorter for being the last: it takes turns like the others, and leaves half of the ring free.
#[test]
fn a_long_blob_leaves_room_for_what_passes_it() {
    let [mut a, mut b] = Peer::pair(4080, LIMITS);
    let blobs = vec![Bytes::from(vec![2; 100_000])];
    a.send(Message { selector: 0, member: 0, stamp: 0, marker: 5, body: vec![1; 10], blobs });
    assert_eq!(a.outbound.pump_at_length().unwrap(), Pumped::Full);
    let mut frames = 0;
    while b.take(&mut a) {
        frames += 1;
    }
    assert_eq!(frames, 2, "the body, and a chunk of {} bytes at most", 4080 / 4);
    settle(&mut a, &mut b);
    assert!(a.under_way.is_empty());
}

/// A message that waits for credit holds up neither smaller ones of its lane nor control frames.
#[test]
fn only_what_lacks_credit_waits() {
    let [mut a, mut b] = Peer::pair(65_536, LIMITS);
    let of = |len| Message {
        selector: 0,
        member: 0,
        stamp: 0,
        marker: 5,
        body: vec![1; len],
        blobs: vec![Bytes::from_static(b"x")],
    };
    a.send(of(190_000));
    a.send(of(190_000));
    a.send(of(1000));
    for _ in 0..100 {
        a.outbound.pump(true).unwrap();
        while b.take(&mut a) {}
    }
    assert_eq!(a.under_way.keys().collect::<Vec<_>>(), [&1], "the second waits alone");
    a.ping();
    a.outbound.pump(true).unwrap();
    assert!(b.take(&mut a));
    settle(&mut a, &mut b);
    assert!(a.under_way.is_empty());
    assert_eq!(a.missing_credit(&b), 0);
}

/// What came, or that an error did.
type Outcome = Result<Vec<(String, Option<Message>)>, String>;

fn replay(records: &[Vec<u8>]) -> Outcome {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    lock(&pipe).records.extend(records.iter().cloned());
    lock(&pipe).used = records.iter().map(Vec::len).sum();
    let receiver = PipeReceiver { pipe, current: None };
    let mut inbound = Inbound::new(Box::new(receiver), LIMITS, Ledger::new([1; POOLS]), false);
    inbound.open();
    let mut arrived = Vec::new();
    loop {
        let incoming = match inbound.receive() {
            Ok(Some(incoming)) => incoming,
            Ok(None) => return Ok(arrived),
            Err(Error::Protocol(rule)) => return Err(rule),
            Err(other) => panic!("{other:?}"),
        };
        arrived.push(match incoming {
            Incoming::Request { id, nesting, head, content, .. } => {
                (format!("request {id} {nesting:?}"), Some(Message::arrived(&head, &content)))
            }
            Incoming::Response { id, head, content, .. } => {
                (format!("response {id}"), Some(Message::arrived(&head, &content)))
            }
            other => (format!("{other:?}"), None),
        });
    }
}

/// The one record of a message that is aborted.
const ABORTED: usize = 2;

/// A little of everything: whole and cut messages, an abort, control frames.
fn recorded() -> Vec<Vec<u8>> {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    let [mut a, _] = Peer::pair(256, LIMITS);
    let sender = PipeSender { pipe: Arc::clone(&pipe), capacity: 256, batch: Vec::new() };
    a.outbound = Outbound::new(Box::new(sender), Arc::clone(&a.ledger));
    a.outbound.open(&LIMITS);
    let blobs = [0, 70, 3].map(|len| Bytes::from(vec![7; len])).to_vec();
    let message = Message { selector: 1, member: 2, stamp: 3, marker: 5, body: vec![9; 60], blobs };
    a.send(Message { blobs: vec![], ..message.clone() });
    a.send(message.clone());
    a.send(message);
    let mut records = Vec::new();
    let mut drain = |outbound: &mut Outbound| {
        let pumped = outbound.pump_at_length().unwrap();
        let mut pipe = lock(&pipe);
        pipe.used = 0;
        records.extend(pipe.records.drain(..));
        pumped == Pumped::Done
    };
    // Two records at a time, of one message after the other.
    assert!(!drain(&mut a.outbound) && !drain(&mut a.outbound));
    a.withdraw(2);
    a.ping();
    while !drain(&mut a.outbound) {}
    assert_eq!(a.aborted, [2]);
    assert_eq!(records[ABORTED][8], 2, "the id of its message");
    records
}

#[test]
fn no_flipped_bit_goes_unnoticed_or_panics() {
    let records = recorded();
    let whole = replay(&records).unwrap();
    assert_eq!(whole.iter().filter(|(_, message)| message.is_some()).count(), 2);
    let (mut changed, mut refused) = (0, 0);
    for at in 0..records.len() {
        for bit in 0..records[at].len() * 8 {
            let mut flipped = records.clone();
            flipped[at][bit / 8] ^= 1 << (bit % 8);
            let outcome = replay(&flipped);
            // Reserved bytes, flags and length can mean nothing else, except how far a request is nested that is one frame.
            let is_whole = flipped[at][1] & 3 == 3;
            let nested =
                (10..12).contains(&bit) && flipped[at][0] == 0x10 && (is_whole || at == ABORTED);
            if (8..64).contains(&bit) && !nested {
                assert!(outcome.is_err(), "bit {bit} of record {at}: {outcome:?}");
            }
            match outcome {
                // Nobody sees the payload of a message that was aborted, nor how far it was nested.
                Ok(other) if at == ABORTED && (nested || bit >= HEADER_LEN * 8) => {
                    assert_eq!(other, whole);
                }
                Ok(other) => {
                    assert_ne!(other, whole, "bit {bit} of record {at}");
                    changed += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(changed > 100 && refused > 1000, "{changed} changed, {refused} refused");
}

#[test]
fn no_record_of_another_length_is_taken() {
    let records = recorded();
    for at in 0..records.len() {
        for len in 0..records[at].len() {
            let mut cut = records.clone();
            cut[at].truncate(len);
            assert!(replay(&cut).is_err(), "{len} bytes of record {at}");
        }
        let mut longer = records.clone();
        longer[at].push(0);
        assert!(replay(&longer).is_err(), "a byte more in record {at}");
        let mut headless = records.clone();
        headless[at].drain(..HEADER_LEN);
        assert!(replay(&headless).is_err(), "record {at} without its header");
    }
}

#[test]
fn no_lost_repeated_or_swapped_record_panics() {
    let records = recorded();
    let whole = replay(&records).unwrap();
    for at in 0..records.len() {
        let mut lost = records.clone();
        lost.remove(at);
        assert_ne!(replay(&lost), Ok(whole.clone()), "without record {at}");
        let mut repeated = records.clone();
        repeated.insert(at, records[at].clone());
        assert_ne!(replay(&repeated), Ok(whole.clone()), "with record {at} twice");
        for other in at + 1..records.len() {
            let mut swapped = records.clone();
            swapped.swap(at, other);
            // Frames of different messages may well come in another order.
            drop(replay(&swapped));
        }
    }
}

/// The two halves of a real agreement, as client and server hold them.
fn sealed_pair() -> [CipherPair; 2] {
    let begin = |role| NoiseEncryptor::new().begin(role, b"prologue", None).unwrap();
    let (mut client, mut server) = (begin(Role::Client), begin(Role::Server));
    for turn in 0..2 {
        let mut said = Vec::new();
        let (from, to) =
            if turn == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.write(&mut said).unwrap();
        to.read(&said).unwrap();
    }
    [client, server].map(|side| side.finish().unwrap().unwrap())
}

/// The records of [`recorded`], sealed anew for one connection, and what opens them; and what opens the other direction.
fn sealed_records() -> (Vec<Vec<u8>>, [Box<dyn Opener>; 2]) {
    let [client, server] = sealed_pair();
    let mut sealer = client.sealer;
    let seal = |record: Vec<u8>| {
        let mut payload = record[HEADER_LEN..].to_vec();
        sealer.seal(&record[..HEADER_LEN], &mut payload).unwrap();
        [&record[..HEADER_LEN], &payload].concat()
    };
    (recorded().into_iter().map(seal).collect(), [server.opener, client.opener])
}

/// Reads records with this opener up to the first error; tells how many frames were taken before it.
fn replay_sealed(records: &[Vec<u8>], opener: Box<dyn Opener>) -> Result<usize, usize> {
    let pipe = Arc::new(Mutex::new(Pipe::default()));
    lock(&pipe).used = records.iter().map(Vec::len).sum();
    lock(&pipe).records.extend(records.iter().cloned());
    let receiver = PipeReceiver { pipe, current: None };
    let mut inbound = Inbound::new(Box::new(receiver), LIMITS, Ledger::new([1; POOLS]), false);
    inbound.open();
    inbound.open_with(opener);
    for taken in 0.. {
        match inbound.receive() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(taken),
            Err(Error::Protocol(_)) => return Err(taken),
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("the records have an end")
}

#[test]
fn sealed_nothing_but_what_was_sent_in_its_order_is_taken() {
    let (records, [opener, _]) = sealed_records();
    assert_eq!(replay_sealed(&records, opener), Ok(records.len()));
    // Each attempt has keys of its own: a counter that has moved on would refuse anything.
    let attempt = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let (mut changed, [opener, _]) = sealed_records();
        change(&mut changed);
        replay_sealed(&changed, opener)
    };
    for at in 0..records.len() {
        let repeated = attempt(&|records| records.insert(at, records[at].clone()));
        assert_eq!(repeated, Err(at + 1), "record {at} twice");
        let dropped = attempt(&|records| drop(records.remove(at)));
        let last = at + 1 == records.len();
        assert_eq!(dropped, if last { Ok(at) } else { Err(at) }, "without record {at}");
        for other in at + 1..records.len() {
            let swapped = attempt(&|records| records.swap(at, other));
            assert_eq!(swapped, Err(at), "records {at} and {other} swapped");
        }
        let cut = attempt(&|records| {
            let shorter = records[at].len() - 1;
            records[at].truncate(shorter);
        });
        assert_eq!(cut, Err(at), "record {at} cut");
    }
}

#[test]
fn sealed_every_flipped_bit_is_an_error() {
    let (records, _) = sealed_records();
    for at in 0..records.len() {
        // Every bit of the header and of the seal, and of the payload one in each byte.
        let bits = (0..records[at].len() * 8).filter(|bit| {
            let byte = bit / 8;
            byte < HEADER_LEN || byte + 16 >= records[at].len() || bit % 8 == byte % 8
        });
        for bit in bits {
            let (mut flipped, [opener, _]) = sealed_records();
            flipped[at][bit / 8] ^= 1 << (bit % 8);
            assert_eq!(replay_sealed(&flipped, opener), Err(at), "bit {bit} of record {at}");
        }
    }
}

#[test]
fn sealed_frames_of_the_other_direction_or_of_another_connection_are_refused() {
    let (records, [_, reflected]) = sealed_records();
    assert_eq!(replay_sealed(&records, reflected), Err(0), "sent back to who sent it");
    let (_, [other, _]) = sealed_records();
    assert_eq!(replay_sealed(&records, other), Err(0), "of a connection before");
}
