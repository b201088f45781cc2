//! Flows are sent in turn, a chunk each: long messages, and streams, whose items keep their order whatever their size.
//!
//! A flow waits in one of four positions: `ready` for its turn, `waiting` for credit, `parked` until fewer messages are being sent in
//! chunks, or `held` until an event was sent. Finding the next flow, and withdrawing one, takes logarithmic time in the number of flows,
//! which the peer can influence.
//!
//! An open stream has a lane of its own here, from the moment that the message which announces it is queued until its end was sent. So the
//! peer never sees more open streams at a time than are counted here. Pure.
//!
//! # Invariants
//!
//! - **F1** A flow is in exactly one position, which is recorded in `positions`, or in the stream's lane. During its turn it is in none.
//! - **F2** A stream has a position exactly if its queue is not empty and it is not having its turn.
//! - **F3** After [`Flows::next`] has returned `None`, no flow can be sent: those that wait need more credit than there is, and for those that
//!   are parked, the maximum number of messages is being sent.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::limits::{POOLS, Pool};
use crate::session::outbound::outgoing::Outgoing;
use crate::wire::fields::len_u64;
use crate::wire::frame::{Key, Kind, Nesting};

/// The maximum number of open streams of one side: each costs both sides an entry in a table. [wire.streams]
pub const MAX_STREAMS: usize = 65_535;

/// A long message, or a stream.
#[derive(Debug)]
pub(super) enum Flow {
    /// Boxed, because it moves with each of its chunks.
    Message(Box<Outgoing>),
    /// The stream with this id, whose queue is not empty.
    Stream(u64),
}

impl Flow {
    fn message(message: Outgoing) -> Self {
        Self::Message(Box::new(message))
    }
}

/// The credit that is left, in bytes of each pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    bytes: [u64; POOLS],
    /// What outer requests leave of their pool for nested ones.
    pub(super) reserve: u64,
}

impl Left {
    pub(super) const fn of(&self, pool: Pool) -> u64 {
        self.bytes[pool as usize]
    }

    pub(super) const fn of_mut(&mut self, pool: Pool) -> &mut u64 {
        &mut self.bytes[pool as usize]
    }

    /// What has to be left for a message of this cost to begin.
    pub(super) const fn need(&self, kind: Kind, nesting: Nesting, cost: u64) -> u64 {
        match (kind, nesting) {
            (Kind::Request, Nesting::Outer) => cost.saturating_add(self.reserve),
            _ => cost,
        }
    }

    /// What has to be left for this message to begin.
    fn need_of(&self, message: &Outgoing) -> u64 {
        if message.paid {
            return 0;
        }
        self.need(message.kind, message.nesting, message.cost())
    }

    /// Whether this message can begin.
    pub(super) fn covers(&self, message: &Outgoing) -> bool {
        self.need_of(message) <= self.of(message.kind.pool())
    }

    /// This message begins.
    pub(super) fn spend(&mut self, message: &Outgoing) {
        if !message.paid {
            *self.of_mut(message.kind.pool()) -= message.cost();
        }
    }
}

/// The position of a flow, with its key there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Ready(u64),
    Waiting(Pool, u64, u64),
    Parked(u64),
    Held(u64, u64),
}

/// What the next turn of a flow requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    pool: Pool,
    /// Credit of that pool; 0 if the message has started.
    credit: u64,
    /// Whether it starts a message that is sent in chunks (O4).
    start: bool,
}

/// Flows, in the order of their turns.
/// Many fields: a flow moves between the first four, and the others say when.
#[derive(Debug)]
pub(super) struct Flows {
    /// By turn.
    ready: BTreeMap<u64, (Flow, Needs)>,
    /// The sum of the credit that ready flows need, of each pool.
    promised: [u64; POOLS],
    /// Of each pool, by the credit that each needs, then by turn.
    waiting: [BTreeMap<(u64, u64), Flow>; POOLS],
    /// As in [`Left`].
    reserve: u64,
    /// By turn.
    parked: BTreeMap<u64, Flow>,
    /// By event, then by id.
    held: BTreeMap<(u64, u64), Outgoing>,
    /// The positions of messages (F1).
    positions: HashMap<Key, Position>,
    pub(super) streams: StreamLanes,
    next_turn: u64,
    pub(super) chunked: Chunked,
    /// The largest payload that is sent as one chunk.
    pub(super) whole: usize,
}

/// Our streams.
#[derive(Debug, Default)]
pub(super) struct StreamLanes {
    /// Those that are open, by their ids.
    pub(super) open: HashMap<u64, StreamLane>,
    /// The id of the next.
    next: u64,
}

/// The number of messages that are being sent in chunks (O4).
#[derive(Debug)]
pub(super) struct Chunked {
    pub(super) started: usize,
    pub(super) most: usize,
    /// Ready flows that would start such a message.
    starting: usize,
}

/// The lane of an open stream.
#[derive(Debug, Default)]
pub(super) struct StreamLane {
    pub(super) queue: VecDeque<Outgoing>,
    /// F2.
    position: Option<Position>,
    /// The end is in the queue; nothing follows it.
    ended: bool,
}

/// The result of a flow's turn.
#[derive(Debug)]
pub(super) struct Turn {
    /// The bytes that were sent.
    pub(super) sent: u64,
    /// The ring was full.
    pub(super) full: bool,
    /// The flow, unless nothing of it is left.
    pub(super) rest: Option<Flow>,
}

/// The maximum number of streams is open.
#[derive(Debug, thiserror::Error)]
#[error(
    "this side can have at most {MAX_STREAMS} streams open on a connection: wait until others have ended"
)]
pub struct TooManyStreams;

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            ready: BTreeMap::new(),
            promised: [0; POOLS],
            waiting: Default::default(),
            reserve: 0,
            parked: BTreeMap::new(),
            held: BTreeMap::new(),
            positions: HashMap::new(),
            streams: StreamLanes::default(),
            next_turn: 0,
            chunked: Chunked { started: 0, most: usize::MAX, starting: 0 },
            whole: usize::MAX,
        }
    }

    /// Drops all flows. Stream ids are not reused.
    pub(super) fn clear(&mut self) {
        let streams = StreamLanes { next: self.streams.next, ..StreamLanes::default() };
        *self = Self { streams, whole: self.whole, reserve: self.reserve, ..Self::new() };
    }

    /// Queues a message behind the others.
    pub(super) fn push(&mut self, message: Outgoing) {
        self.put_last(Flow::message(message));
    }

    /// Holds a message until its event was sent.
    pub(super) fn hold(&mut self, message: Outgoing) {
        let (event, id) = (message.event, message.id);
        self.positions.insert((message.kind, id), Position::Held(event, id));
        self.held.insert((event, id), message);
    }

    /// Takes a held message whose event was sent, if there is one.
    pub(super) fn release(&mut self, has_left: impl Fn(u64) -> bool) -> Option<Outgoing> {
        let entry = self.held.first_entry().filter(|entry| has_left(entry.key().0))?;
        let message = entry.remove();
        self.positions.remove(&(message.kind, message.id));
        Some(message)
    }

    /// Withdraws a message from any position.
    pub(super) fn remove(&mut self, key: Key) -> Option<Outgoing> {
        let flow = match *self.positions.get(&key)? {
            Position::Held(event, id) => self.held.remove(&(event, id)).map(Flow::message),
            position => self.take(position),
        };
        self.positions.remove(&key);
        if let Some(Flow::Message(message)) = flow { Some(*message) } else { None }
    }

    /// Takes the next flow that can be sent with this credit (F3).
    pub(super) fn next(&mut self, left: Left) -> Option<(u64, Flow)> {
        self.reserve = left.reserve;
        loop {
            self.promote(left);
            let (&turn, _) = self.ready.first_key_value()?;
            let (flow, needs) = self.take_ready(turn)?;
            if needs.credit > left.of(needs.pool) {
                let position = Position::Waiting(needs.pool, needs.credit, turn);
                self.set_position(&flow, Some(position));
                self.waiting[needs.pool as usize].insert((needs.credit, turn), flow);
            } else if self.must_park(&needs) {
                self.set_position(&flow, Some(Position::Parked(turn)));
                self.parked.insert(turn, flow);
            } else {
                self.set_position(&flow, None);
                return Some((turn, flow));
            }
        }
    }

    /// Whether a flow can be sent with this credit.
    pub(super) fn has_next(&mut self, left: Left) -> bool {
        // Without moving it, if it is the first one.
        if let Some((_, (_, needs))) = self.ready.first_key_value() {
            if needs.credit <= left.of(needs.pool) && !self.must_park(needs) {
                return true;
            }
        }
        let next = self.next(left);
        next.map(|(turn, flow)| self.put(turn, flow)).is_some()
    }

    /// Whether a flow with these needs has to wait until fewer messages are being sent in chunks (O4).
    const fn must_park(&self, needs: &Needs) -> bool {
        needs.start && self.chunked.started >= self.chunked.most
    }

    /// Puts a flow back whose turn was interrupted: it resumes its turn when there is room.
    pub(super) fn put(&mut self, turn: u64, flow: Flow) {
        let needs = self.needs(&flow);
        self.make_ready(turn, flow, needs);
    }

    /// Puts a flow behind the others.
    pub(super) fn put_last(&mut self, flow: Flow) {
        self.next_turn += 1;
        self.put(self.next_turn, flow);
    }

    /// The least credit of this pool that a flow waits for.
    pub(super) fn need_of_waiting(&self, pool: Pool) -> Option<u64> {
        self.waiting[pool as usize].first_key_value().map(|((need, _), _)| *need)
    }

    /// The waiting messages, without those of streams.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Outgoing> {
        let ready = self.ready.values().map(|(flow, _)| flow);
        let flows =
            ready.chain(self.waiting.iter().flat_map(BTreeMap::values)).chain(self.parked.values());
        let messages = flows.filter_map(|flow| match flow {
            Flow::Message(message) => Some(&**message),
            Flow::Stream(_) => None,
        });
        messages.chain(self.held.values())
    }

    /// Whether no flow waits, wherever.
    pub(super) fn is_empty(&self) -> bool {
        self.has_no_turns() && self.held.is_empty()
    }

    /// Whether no flow waits for its turn, for credit, or until fewer messages are being sent in chunks.
    pub(super) fn has_no_turns(&self) -> bool {
        self.ready.is_empty()
            && self.waiting.iter().all(BTreeMap::is_empty)
            && self.parked.is_empty()
    }

    /// Whether this message waits.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.positions.contains_key(key)
    }

    /// Moves flows to `ready` that can be sent (F3), but no more than there is credit for. So a flow is moved only when credit has arrived that
    /// is enough for it.
    fn promote(&mut self, left: Left) {
        for pool in Pool::ALL {
            while let Some(first) = self.waiting[pool as usize].first_entry() {
                let (need, turn) = *first.key();
                if need > left.of(pool).saturating_sub(self.promised[pool as usize]) {
                    break;
                }
                let flow = first.remove();
                self.put(turn, flow);
            }
        }
        while self.chunked.started + self.chunked.starting < self.chunked.most {
            let Some((turn, flow)) = self.parked.pop_first() else { break };
            self.put(turn, flow);
        }
    }

    fn make_ready(&mut self, turn: u64, flow: Flow, needs: Needs) {
        let promised = &mut self.promised[needs.pool as usize];
        *promised = promised.saturating_add(needs.credit);
        self.chunked.starting += usize::from(needs.start);
        self.set_position(&flow, Some(Position::Ready(turn)));
        self.ready.insert(turn, (flow, needs));
    }

    fn take_ready(&mut self, turn: u64) -> Option<(Flow, Needs)> {
        let (flow, needs) = self.ready.remove(&turn)?;
        let promised = &mut self.promised[needs.pool as usize];
        *promised = promised.saturating_sub(needs.credit);
        self.chunked.starting -= usize::from(needs.start);
        Some((flow, needs))
    }

    /// Takes a flow from its position.
    fn take(&mut self, position: Position) -> Option<Flow> {
        match position {
            Position::Ready(turn) => self.take_ready(turn).map(|(flow, _)| flow),
            Position::Waiting(pool, need, turn) => {
                self.waiting[pool as usize].remove(&(need, turn))
            }
            Position::Parked(turn) => self.parked.remove(&turn),
            Position::Held(event, id) => self.held.remove(&(event, id)).map(Flow::message),
        }
    }

    fn set_position(&mut self, flow: &Flow, position: Option<Position>) {
        match (flow, position) {
            (Flow::Message(m), Some(at)) => drop(self.positions.insert((m.kind, m.id), at)),
            (Flow::Message(m), None) => drop(self.positions.remove(&(m.kind, m.id))),
            (Flow::Stream(id), position) => {
                if let Some(lane) = self.streams.open.get_mut(id) {
                    lane.position = position;
                }
            }
        }
    }

    fn needs(&self, flow: &Flow) -> Needs {
        let message = match flow {
            Flow::Message(message) => Some(&**message),
            Flow::Stream(id) => self.streams.open.get(id).and_then(|lane| lane.queue.front()),
        };
        match message {
            Some(m) if !m.started => Needs {
                pool: m.kind.pool(),
                credit: Left { reserve: self.reserve, ..Left::default() }.need_of(m),
                start: !m.is_one_chunk(self.whole),
            },
            _ => Needs { pool: Pool::Answers, credit: 0, start: false },
        }
    }
}

/// Streams.
impl Flows {
    /// The number of streams that are open, or whose end was not sent yet.
    pub(super) fn stream_count(&self) -> usize {
        self.streams.open.len()
    }

    /// The memory of what waits in the lanes of streams, and of those lanes.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub(super) fn held_of_streams(&self) -> (Held, Held) {
        let queued = self.of_streams().map(Outgoing::held).sum();
        (queued, Held::plain::<(u64, StreamLane)>(self.streams.open.len()))
    }

    /// What waits in the lanes of streams.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub(super) fn of_streams(&self) -> impl Iterator<Item = &Outgoing> {
        self.streams.open.values().flat_map(|lane| &lane.queue)
    }

    /// Opens `count` streams. Returns their ids, which are never reused.
    pub(super) fn open_streams(&mut self, count: usize, closed: bool) -> Range<u64> {
        let first = self.streams.next;
        self.streams.next += len_u64(count);
        if !closed {
            self.streams
                .open
                .extend((first..self.streams.next).map(|id| (id, StreamLane::default())));
        }
        first..self.streams.next
    }

    /// Removes streams whose message was withdrawn: the peer never sees them.
    pub(super) fn forget_streams(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            let position = self.streams.open.remove(&id).and_then(|lane| lane.position);
            position.map(|position| self.take(position));
        }
    }

    /// Whether a stream is open, and has not ended.
    pub(super) fn takes_items(&self, id: u64) -> bool {
        self.streams.open.get(&id).is_some_and(|lane| !lane.ended)
    }

    /// Queues an item or the end of a stream; returns `false`, and drops it, if the stream has ended.
    pub(super) fn push_of_stream(&mut self, message: Outgoing) -> bool {
        let id = message.id;
        let Some(lane) = self.streams.open.get_mut(&id).filter(|lane| !lane.ended) else {
            return false;
        };
        lane.ended = message.kind == Kind::StreamEnd;
        lane.queue.push_back(message);
        // It is never having its turn meanwhile.
        if lane.position.is_none() {
            self.put_last(Flow::Stream(id));
        }
        true
    }

    /// Drops the items of a stream that were not begun, and queues its end. Returns what was dropped, and whether the end is new.
    pub(super) fn cancel_stream(&mut self, id: u64, end: Outgoing) -> (Vec<Outgoing>, bool) {
        let Some(lane) = self.streams.open.get_mut(&id) else { return (Vec::new(), false) };
        let position = lane.position.take();
        let keep = |m: &Outgoing| m.started || m.kind == Kind::StreamEnd;
        let (mut kept, mut dropped): (Vec<_>, Vec<_>) = lane.queue.drain(..).partition(keep);
        // An item that was begun keeps its room, which belongs to the last item that was queued with it.
        if let Some(begun) = kept.iter_mut().find(|m| m.started && m.room.is_none()) {
            begun.room = dropped.iter_mut().find_map(|m| m.room.take());
        }
        lane.queue = kept.into();
        let is_new = !std::mem::replace(&mut lane.ended, true);
        if is_new {
            lane.queue.push_back(end);
        }
        let is_empty = lane.queue.is_empty();
        // Its needs may have changed.
        let turn = position.map(|position| (position.turn(), self.take(position)));
        match turn {
            _ if is_empty => {}
            Some((turn, _)) => self.put(turn, Flow::Stream(id)),
            None => self.put_last(Flow::Stream(id)),
        }
        (dropped, is_new)
    }
}

impl Position {
    const fn turn(self) -> u64 {
        match self {
            Self::Ready(turn) | Self::Waiting(_, _, turn) | Self::Parked(turn) => turn,
            Self::Held(..) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use crate::session::outbound::Room;
    use crate::values::content::Content;
    use tokio::sync::Semaphore;

    use super::{Flow, POOLS};
    use super::{Flows, Left};
    use crate::session::outbound::Outgoing;
    use crate::wire::frame::Kind;

    const WHOLE: usize = 1000;

    fn message(id: u64, cost: usize) -> Outgoing {
        let content = Content::plain(Vec::new(), &vec![0; cost]);
        Outgoing::new(Kind::Request, id, content, (0, 0, 0), None)
    }

    fn flows(max_started: usize) -> Flows {
        let mut flows = Flows { whole: WHOLE, ..Flows::new() };
        flows.chunked.most = max_started;
        flows
    }

    fn left(credit: u64) -> Left {
        Left { bytes: [credit; POOLS], reserve: 0 }
    }

    fn next(flows: &mut Flows, credit: u64) -> Option<u64> {
        match flows.next(left(credit))? {
            (_, Flow::Message(message)) => Some(message.id),
            (_, Flow::Stream(_)) => panic!("a stream"),
        }
    }

    #[test]
    fn what_can_go_goes_in_its_turn_and_the_rest_holds_up_nobody() {
        let mut flows = flows(8);
        for (id, cost) in [(1, 500), (2, 100), (3, 300), (4, 100), (5, 600)] {
            flows.push(message(id, cost));
        }
        assert!(flows.has_next(left(100)));
        assert_eq!([next(&mut flows, 300), next(&mut flows, 200)], [Some(2), Some(4)]);
        assert_eq!(next(&mut flows, 299), None);
        assert!(!flows.has_next(left(299)) && flows.has_next(left(300)));
        assert!(
            flows.remove((Kind::Request, 1)).is_some()
                && flows.remove((Kind::Request, 1)).is_none()
        );
        assert_eq!([next(&mut flows, 900), next(&mut flows, 600)], [Some(3), Some(5)]);
        assert!(flows.is_empty() && flows.positions.is_empty() && flows.promised == [0; POOLS]);
    }

    #[test]
    fn messages_of_several_chunks_wait_until_there_are_fewer_under_way() {
        let mut flows = flows(1);
        for id in 1..=3 {
            flows.push(message(id, 5 * WHOLE));
        }
        flows.push(message(4, 10));
        let all = u64::MAX;
        assert_eq!(next(&mut flows, all), Some(1));
        flows.chunked.started = 1;
        assert_eq!(next(&mut flows, all), Some(4), "it is one chunk");
        assert_eq!(next(&mut flows, all), None);
        flows.chunked.started = 0;
        assert_eq!(next(&mut flows, 1), None, "nor is there credit");
        assert_eq!(next(&mut flows, all), Some(2));
        assert!(flows.remove((Kind::Request, 3)).is_some() && flows.is_empty());
    }

    #[test]
    fn what_waits_for_an_event_is_let_go_in_the_order_of_events() {
        let mut flows = flows(1);
        for (id, event) in [(1, 7), (2, 5), (3, 6)] {
            flows.hold(message(id, 1).after_event(event));
        }
        assert!(flows.release(|event| event < 5).is_none());
        assert_eq!(flows.release(|event| event < 7).map(|m| m.id), Some(2));
        assert!(flows.remove((Kind::Request, 3)).is_some());
        assert!(flows.release(|event| event < 7).is_none() && !flows.is_empty());
        assert_eq!(flows.release(|_| true).map(|m| m.id), Some(1));
        assert!(flows.is_empty() && flows.positions.is_empty());
    }

    /// Room is given back for what is dropped, and not for what stays.
    #[test]
    fn an_item_that_has_begun_to_leave_keeps_its_room_when_its_stream_is_cancelled() {
        let queue = Arc::new(Semaphore::new(10_000));
        let room = |bytes| {
            let permit = Arc::clone(&queue).try_acquire_many_owned(bytes).unwrap();
            Some(Box::new(permit) as Room)
        };
        let item = |len: usize, room| {
            let content = Content::plain(Vec::new(), &vec![0; len]);
            Outgoing::new(Kind::StreamItem, 0, content, (0, 0, 0), room)
        };
        let end = || Outgoing::new(Kind::StreamEnd, 0, Content::default(), (3, 0, 0), None);
        for begun_alone in [false, true] {
            let mut flows = flows(1);
            flows.open_streams(1, false);
            let mut begun = item(5 * WHOLE, if begun_alone { room(6000) } else { None });
            begun.started = true;
            assert!(flows.push_of_stream(begun));
            assert!(flows.push_of_stream(item(1, room(if begun_alone { 2000 } else { 6000 }))));
            assert!(flows.push_of_stream(item(1, room(1000))));
            let (dropped, is_new) = flows.cancel_stream(0, end());
            assert!(is_new && dropped.len() == 2);
            drop(dropped);
            assert_eq!(queue.available_permits(), 4000, "of the one that has begun");
            flows.clear();
            assert_eq!(queue.available_permits(), 10_000);
        }
    }

    /// Against the plain list: the first that fits, behind whoever had its turn before.
    #[test]
    fn a_list_says_the_same_but_for_the_order_of_what_has_waited_for_credit() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let most = random.usize(1..4);
            let mut flows = flows(most);
            let (mut list, mut started, mut id) = (BTreeMap::new(), 0, 0);
            for _ in 0..300 {
                match random.u8(0..4) {
                    0 => {
                        id += 1;
                        let cost = random.usize(0..3 * WHOLE);
                        flows.push(message(id, cost));
                        list.insert(id, cost as u64);
                    }
                    1 if !list.is_empty() => {
                        let id = *list.keys().nth(random.usize(0..list.len())).unwrap();
                        assert_eq!(flows.remove((Kind::Request, id)).map(|m| m.id), Some(id));
                        list.remove(&id);
                    }
                    2 => started = random.usize(0..4),
                    _ => {}
                }
                flows.chunked.started = started;
                let credit = random.u64(0..4 * WHOLE as u64);
                let chunked =
                    |cost: u64| cost + crate::wire::message::HEAD_LEN as u64 > WHOLE as u64;
                let fits = |cost: u64| cost <= credit && (!chunked(cost) || started < most);
                let any = list.values().any(|cost| fits(*cost));
                assert_eq!(flows.has_next(left(credit)), any, "F3");
                if let Some(id) = next(&mut flows, credit) {
                    assert!(fits(list.remove(&id).unwrap()));
                }
                assert_eq!(flows.positions.len(), list.len(), "F1");
            }
        }
    }
}
