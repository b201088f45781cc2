//! Streams in the simulation: two sessions with the real tables of both ends, and nothing that waits.
//!
//! Each side produces streams for the other, reads some, and drops some half-way. What happens next is drawn from a seed.

use std::collections::HashMap;

use crate::session::inbound::Incoming;
use crate::session::ledger::Charge;
use crate::session::outbound::{Outgoing, Pumped, Withdrawn};
use crate::session::pending::CallId;
use crate::session::simulation::{LIMITS, Peer, Random};
use crate::session::stream_receiver::{Next, ReceiverState};
use crate::session::window::Allowance;
use crate::session::window::Window;
use crate::values::attachments::OutgoingStream;
use crate::values::content::{Content, Streams};
use crate::wire::fields::{len_u64, u64_len};
use crate::wire::frame::Kind;
use crate::wire::message::StreamEntry;
use crate::wire::status::Status;

/// A stream as its producer sees it.
#[derive(Default)]
struct Writer {
    /// Credit that is left, and the window.
    left: Option<(Allowance, Window)>,
    sent: u64,
    ended: bool,
}

/// A stream as its consumer sees it: the real state, and what the simulation has taken.
struct Reader {
    id: u64,
    stream: ReceiverState,
    opened: bool,
    cancelled: bool,
    taken: u64,
    /// Items that have come and have not been taken.
    waiting: Vec<u64>,
    /// What has been taken and not given back.
    due: (u32, u64),
}

#[derive(Default)]
struct Side {
    writers: HashMap<u64, Writer>,
    readers: HashMap<u64, Reader>,
    /// The message that announced these is on its way.
    announced: HashMap<u64, Vec<u64>>,
    finished: u64,
    next_message: u64,
}

/// The body of an item: which it is, and padding of every size.
fn item(number: u64, random: &mut Random) -> Content {
    let most = [0, 10, 200, 3000, 30_000][random.below(5)];
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + random.below(most + 1), 7);
    Content::plain(Vec::new(), &body)
}

impl Side {
    /// Announces a few streams in a message of any size.
    fn announce(&mut self, peer: &mut Peer, random: &mut Random) {
        let count = 1 + random.below(3);
        let sources = (0..count).map(|_| OutgoingStream::new((), 0)).collect();
        let mut content = Content::plain(Vec::new(), &vec![1; random.below(3000)]);
        content.set_streams(Streams::Outgoing(sources));
        let opened = peer.outbound.open_streams(&mut content).unwrap();
        let ids: Vec<u64> = opened.iter().map(|(id, _)| *id).collect();
        for id in &ids {
            self.writers.insert(*id, Writer::default());
        }
        let id = self.next_message;
        self.next_message += 1;
        self.announced.insert(id, ids);
        peer.outbound.push(Outgoing::new(peer.kind, id, content, (0, 0, 0), None)).unwrap();
    }

    /// Takes an announcement back.
    fn withdraw(&mut self, peer: &mut Peer, random: &mut Random) {
        let mut ids: Vec<u64> = self.announced.keys().copied().collect();
        ids.sort_unstable();
        let Some(id) = ids.get(random.below(ids.len().max(1))).copied() else { return };
        let withdrawn = match peer.kind {
            Kind::Request => peer.outbound.withdraw_request(CallId(id)),
            _ => peer.outbound.withdraw_response(id),
        };
        let (withdrawn, streams) = withdrawn.unwrap();
        if withdrawn == Withdrawn::Sent {
            return;
        }
        let announced = self.announced.remove(&id).unwrap();
        assert!(streams.eq(announced.iter().copied()));
        self.writers.retain(|stream, _| !announced.contains(stream));
    }

    /// Sends what some stream has credit for, or ends it.
    fn write(&mut self, peer: &mut Peer, random: &mut Random) {
        let mut ids: Vec<u64> = self.writers.keys().copied().collect();
        ids.sort_unstable();
        let Some(id) = ids.get(random.below(ids.len().max(1))).copied() else { return };
        let Some(writer) = self.writers.get_mut(&id) else { return };
        let Some((left, _)) = writer.left.as_mut() else { return };
        if writer.ended {
            return;
        }
        if random.below(12) == 0 {
            writer.ended = true;
            peer.outbound.push_stream_end(id, Status::Ok, Content::default());
        }
        for _ in 0..random.below(6) {
            if writer.ended || !left.is_left() {
                return;
            }
            writer.sent += 1;
            let item = item(writer.sent, random);
            left.spend(item.size());
            assert!(peer.outbound.push_item(id, writer.sent, item, None));
        }
    }

    /// Opens a stream, takes from it, or drops it.
    fn read(&mut self, peer: &mut Peer, random: &mut Random) {
        let mut ids: Vec<u64> = self.readers.keys().copied().collect();
        ids.sort_unstable();
        let Some(id) = ids.get(random.below(ids.len().max(1))).copied() else { return };
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if reader.cancelled {
            return;
        }
        match random.below(16) {
            0 => {
                reader.cancelled = true;
                peer.outbound.refuse_stream(id);
            }
            _ if !reader.opened => {
                reader.opened = true;
                let bytes = [1, 100, 10_000][random.below(3)];
                let window =
                    reader.stream.open(1 + u32::from(random.next().to_le_bytes()[0] % 9), bytes);
                peer.outbound.grant(id, window.values, window.bytes);
            }
            _ => reader.take(peer),
        }
    }

    /// A frame from the other side.
    fn handle(&mut self, peer: &mut Peer, other: &mut Self, incoming: Incoming) {
        match incoming {
            Incoming::Request { id, content, charge, .. }
            | Incoming::Response { id, content, charge, .. } => {
                drop(charge);
                let Some(Streams::Table(table)) = content.streams() else { panic!("{content:?}") };
                let ids: Vec<u64> = table.iter().map(|entry| entry.id).collect();
                assert_eq!(Some(ids), other.announced.remove(&id));
                for entry in table {
                    let reader = Reader::new(*entry);
                    assert!(self.readers.insert(entry.id, reader).is_none(), "an id twice");
                }
            }
            Incoming::StreamItem { id, head, content, charge } => {
                let reader = self.readers.get_mut(&id).expect("open");
                let size = content.size();
                let number = u64::from_le_bytes(content.body()[..8].try_into().unwrap());
                assert_eq!(number, head.stamp, "items keep their order");
                reader.stream.push(number, content, charge).unwrap();
                reader.waiting.push(size);
            }
            Incoming::StreamEnd { id, head, .. } => {
                let reader = self.readers.remove(&id).expect("open");
                let was_cancelled = head.selector == Status::Cancelled.code();
                assert!(reader.cancelled || !was_cancelled);
                let writer = other.writers.remove(&id).expect("open");
                // A cancel takes items from in front of an end that was under way.
                if !reader.cancelled {
                    assert_eq!(reader.taken + len_u64(reader.waiting.len()), writer.sent);
                }
                self.finished += 1;
            }
            Incoming::StreamCredit { id, items, bytes } => {
                // One that crossed the end says nothing.
                let Some(writer) = self.writers.get_mut(&id) else { return };
                let (left, window) = writer
                    .left
                    .get_or_insert_with(|| (Allowance::default(), Window { values: items, bytes }));
                left.add(items, bytes);
                let whole = Allowance::of(*window);
                assert!(left.items <= whole.items && left.bytes <= whole.bytes);
            }
            Incoming::StreamCancel(id) => {
                if let Some(writer) = self.writers.get_mut(&id) {
                    writer.ended = true;
                }
                peer.outbound.cancel_stream(id);
            }
            Incoming::Credit(pool, bytes) => peer.outbound.add_credit(pool, bytes),
            Incoming::Aborted { .. } | Incoming::Part => {}
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

impl Reader {
    fn new(entry: StreamEntry) -> Self {
        Self {
            id: entry.id,
            stream: ReceiverState::new(entry.window),
            opened: false,
            cancelled: false,
            taken: 0,
            waiting: Vec::new(),
            due: (0, 0),
        }
    }

    /// Takes all that waits, as its reader would.
    fn take(&mut self, peer: &mut Peer) {
        for size in self.waiting.drain(..) {
            self.taken += 1;
            let Some(Next::Item(content, credit_due)) = self.stream.take() else {
                panic!("an item waits")
            };
            assert_eq!(content.body()[..8], self.taken.to_le_bytes());
            self.due.0 += 1;
            self.due.1 += size;
            if let Some((items, bytes)) = credit_due {
                assert_eq!((items, bytes), std::mem::take(&mut self.due));
                peer.outbound.grant(self.id, items, bytes);
            }
        }
    }
}

/// One frame; returns whether there was one.
fn receive(peer: &mut Peer, side: &mut Side, other: &mut Side) -> bool {
    let Some(incoming) = peer.inbound.receive().unwrap() else { return false };
    side.handle(peer, other, incoming);
    true
}

#[test]
fn whatever_happens_streams_keep_their_order_and_come_to_an_end() {
    let mut finished = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let capacity = [256, 1024, 4080, 65_536][random.below(4)];
        let mut peers = Peer::pair(capacity, LIMITS);
        let mut sides = [Side::default(), Side::default()];
        for _ in 0..12_000 {
            let turn = random.below(2);
            let [first, second] = sides.each_mut();
            let (side, other) = if turn == 0 { (first, second) } else { (second, first) };
            let peer = &mut peers[turn];
            match random.below(12) {
                0 if peer.outbound.open_stream_count() < 12 => side.announce(peer, &mut random),
                1 => side.withdraw(peer, &mut random),
                2 | 3 => side.write(peer, &mut random),
                4 | 5 => side.read(peer, &mut random),
                6 => drop(peer.outbound.pump_at_length().unwrap()),
                7 | 8 => drop(peer.outbound.pump(random.below(2) == 0).unwrap()),
                _ => {
                    for _ in 0..random.below(8) {
                        receive(peer, side, other);
                    }
                }
            }
        }
        settle(&mut peers, &mut sides);
        for (peer, side) in peers.iter().zip(&sides) {
            finished += side.finished;
            assert!(side.writers.is_empty() && side.readers.is_empty(), "seed {seed}");
            assert_eq!(peer.outbound.open_stream_count(), 0, "seed {seed}");
            assert_eq!((peer.outbound.queued(), peer.inbound.partial_count()), (0, 0));
        }
        assert_eq!(peers[0].missing_credit(&peers[1]), 0, "seed {seed}");
        assert_eq!(peers[1].missing_credit(&peers[0]), 0, "seed {seed}");
    }
    assert!(finished > 60 * 2 * 20, "{finished} streams came to their end before the test did");
}

/// Drops every reader, and lets both go on until neither has anything to say.
fn settle(peers: &mut [Peer; 2], sides: &mut [Side; 2]) {
    loop {
        let mut quiet = true;
        for (peer, side) in peers.iter_mut().zip(sides.iter_mut()) {
            for (id, reader) in &mut side.readers {
                drop(reader.stream.cancel());
                if !std::mem::replace(&mut reader.cancelled, true) {
                    peer.outbound.refuse_stream(*id);
                }
            }
            quiet &= peer.outbound.pump(true).unwrap() == Pumped::Done;
        }
        let [first, second] = sides.each_mut();
        let [a, b] = peers.each_mut();
        while receive(a, first, second) || receive(b, second, first) {
            quiet = false;
        }
        if quiet && !a.ledger.is_due() && !b.ledger.is_due() {
            return;
        }
    }
}

/// A call's answer leaves before all that a busy stream has queued, and two streams take turns.
#[test]
fn streams_take_turns_and_calls_pass_them() {
    let [mut a, mut b] = Peer::pair(4080, LIMITS);
    let mut content = Content::plain(Vec::new(), b"1");
    let sources = (0..2).map(|_| OutgoingStream::new((), 0)).collect();
    content.set_streams(Streams::Outgoing(sources));
    a.outbound.open_streams(&mut content).unwrap();
    a.outbound.push(Outgoing::new(Kind::Request, 0, content, (0, 0, 0), None)).unwrap();
    for number in 1..=200 {
        for id in 0..2 {
            let item = Content::plain(Vec::new(), &[7; 300]);
            assert!(a.outbound.push_item(id, number, item, None));
        }
    }
    assert_eq!(a.outbound.pump_at_length().unwrap(), Pumped::Full);
    let small = Content::plain(Vec::new(), b"2");
    a.outbound.push(Outgoing::new(Kind::Request, 1, small, (0, 0, 0), None)).unwrap();
    a.outbound.pump(true).unwrap();
    let (mut items, mut ahead) = ([0_u64; 2], None);
    loop {
        match b.inbound.receive().unwrap() {
            Some(Incoming::StreamItem { id, head, charge, .. }) => {
                drop::<Charge>(charge);
                items[u64_len(id)] += 1;
                assert_eq!(head.stamp, items[u64_len(id)]);
                // Four make up a chunk, and the pipe may be full before they have left.
                assert!(items[0].abs_diff(items[1]) <= 8, "{items:?}");
            }
            Some(Incoming::Request { id: 1, .. }) => ahead = Some(items),
            Some(_) => {}
            None if items == [200; 2] => break,
            None => drop(a.outbound.pump(true).unwrap()),
        }
        b.outbound.pump(true).unwrap();
        while let Some(Incoming::Credit(pool, bytes)) = a.inbound.receive().unwrap() {
            a.outbound.add_credit(pool, bytes);
        }
    }
    let ahead = ahead.expect("the call has come");
    assert!(ahead[0] + ahead[1] <= 8, "{ahead:?} items were ahead");
}

/// The peer never sees them, so nobody else would end them.
#[test]
fn the_streams_of_values_and_items_that_are_dropped_go_with_them() {
    let [mut a, _b] = Peer::pair(4080, LIMITS);
    let content = |a: &mut Peer, count| {
        let mut content = Content::plain(Vec::new(), b"1");
        let sources = (0..count).map(|_| OutgoingStream::new((), 0)).collect();
        content.set_streams(Streams::Outgoing(sources));
        let opened = a.outbound.open_streams(&mut content).unwrap();
        (content, opened.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
    };
    let (request, outer) = content(&mut a, 1);
    a.outbound.push(Outgoing::new(Kind::Request, 0, request, (0, 0, 0), None)).unwrap();
    let (first, ids_of_first) = content(&mut a, 2);
    let (second, ids_of_second) = content(&mut a, 3);
    for (number, item) in [(1, first), (2, second)] {
        assert!(a.outbound.takes_items(outer[0]));
        assert!(a.outbound.push_item(outer[0], number, item, None));
    }
    let (value, ids_of_value) = content(&mut a, 4);
    let event = Outgoing::new(Kind::Event, 5, value, (0, 0, 0), None);
    let place = a.outbound.push_event(event);
    assert_eq!(a.outbound.open_stream_count(), 1 + 2 + 3 + 4);
    assert_eq!(a.outbound.cancel_stream(outer[0]), [ids_of_first, ids_of_second].concat());
    assert!(!a.outbound.takes_items(outer[0]));
    assert_eq!(a.outbound.drop_events([place].into_iter()), ids_of_value);
    assert_eq!(a.outbound.open_stream_count(), 1, "the end of the outer one has not left");
    assert!(a.outbound.cancel_stream(outer[0]).is_empty());
    assert!(a.outbound.drop_events([place].into_iter()).is_empty());
}
