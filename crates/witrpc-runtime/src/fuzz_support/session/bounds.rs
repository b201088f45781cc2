//! What a connection may hold on behalf of its peer, and where that comes from.
//!
//! The parts are those of [`shares`](witrpc_core::limits::shares); *F* is our `max_in_flight`. All that follows is known to the peer, or
//! follows from what it was told, but for what the program on top makes: its answers, values and items, whose sizes are its own.
//!
//! | what | bytes, as the wire counts them | entries |
//! |---|---|---|
//! | received messages: partial, put aside, answers not taken, items larger than their windows | what was charged and not given back, at most what was given as credit | *F* + 1 partial, 2 · *F* put aside, the calls that the program makes, an item for each stream |
//! | items of streams that are read | the windows, and one for each stream | an item for 128 bytes of that, and one for each stream |
//! | items of streams that are written, in the queue | the items, and the last item; the ends have nothing in them | |
//! | the same, polled and waiting for the queue | a batch of the thread that polls, and one more ([`sender`](crate::streams::sender)) | |
//! | requests and responses in the queue | the responses; and what nothing holds back: the program's requests, and *F* answers, of handlers that ran already | |
//! | values in the queue, in backlogs, and under way to subscribers | the events, in memory; one value; a mark for each subscriber | the event's capacity in each backlog |
//! | control frames | | 4096 that answer the peer, and the program's own |
//! | notices | | one for each stream that is read, and each subscription of the program |
//! | subscriptions of the peer | | 4096, of which each may wait for room |
//! | streams | | 65,536 in each direction |
//! | streams that nobody reads, of which the peer is to be told | | those, and as many as end in a turn of the driver's |
//!
//! In memory each of these is at most twice as much, and [`MESSAGE`] for each message: buffers grow by doubling.

use witrpc_core::held::{Held, Holdings};
use witrpc_core::limits::{Limits, Pool};
use witrpc_core::session::outbound::{MAX_ANSWERS, MAX_STREAMS};
use witrpc_core::wire::fields::{len_u64, u32_len, u64_len};

use crate::events::client_subscription::ClientSubscription;
use crate::events::table::MAX_SUBSCRIPTIONS;
use crate::fuzz_support::session::LIMITS;
use crate::streams::sender::{BATCH, BATCH_BYTES};

/// What a message takes in memory beside twice its size: head, tables, an idle part of its buffer, its entry in a queue.
const MESSAGE: u64 = 480;
/// What a message counts beside its size in the sending queue, at least: for items of streams its size is part of that.
const QUEUED: u64 = 256;
/// What a value counts beside its size in a backlog.
const VALUE: u64 = 64;
/// Bytes of a window for each item.
const ITEM: u64 = 128;
/// Frames that the driver takes before it looks at what nobody reads any more: each may end a stream.
const TURN: usize = 128;
/// What a control frame takes in memory, with the longest reason.
const CONTROL: u64 = 160;

/// What the program on top of a connection does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Program {
    /// The size of the largest request, answer, value of an event, and item of a stream that it makes.
    pub(super) request: u64,
    pub(super) answer: u64,
    pub(super) value: u64,
    pub(super) item: u64,
    /// Values that may wait for a subscriber.
    pub(super) capacity: usize,
    /// Calls and pings that it waits for at a time; and those that it has ever begun, each with a cancel.
    pub(super) calls: usize,
    pub(super) begun: usize,
    /// Subscriptions that it has, and has ever begun, each with an unsubscribe.
    pub(super) subscriptions: usize,
    pub(super) subscribed: usize,
    /// Items that it has not taken of streams that have ended: on the messages' account, and on that of the windows.
    pub(super) ended: (Held, Held),
    /// Streams that it has.
    pub(super) streams: usize,
}

/// Asserts that a connection holds no more than it may.
pub(super) fn check(mut held: Holdings, theirs: &Limits, program: &Program) {
    held.charged_items += program.ended.0;
    held.items += program.ended.1;
    let memory = received(&held, program) + sent(&held, theirs, program) + tables(&held, program);
    assert!(held.memory() <= memory, "{held:?}");
}

/// Asserts that a subscription of the program holds no more than its window allows ([`Window::takes`]): so many values, and as
/// many more as cost the window's bytes, twice; and a mark for each, and what ends it.
///
/// [`Window::takes`]: witrpc_core::session::window::Window::takes
pub(super) fn check_values(held: Held) {
    let window = ClientSubscription::window(LIMITS.max_buffered);
    let values = u32_len(window.values);
    let size = 2 * window.bytes + VALUE * len_u64(values);
    let most = values + u64_len(2 * window.bytes / VALUE) + 1;
    fits("values", held, 2 * most + 1, size + LIMITS.max_message_size);
}

/// What the peer has sent; returns what it may take in memory.
fn received(held: &Holdings, program: &Program) -> u64 {
    let in_flight = u32_len(LIMITS.max_in_flight);
    let streams = held.receivers.entries + program.streams;
    let credit = Pool::ALL.into_iter().map(|pool| LIMITS.credit(pool)).sum();
    assert!(held.charged <= credit, "{held:?}");
    assert!(held.partial.entries <= in_flight + 1, "{held:?}");
    assert!(held.requests.entries + held.handlers <= 2 * in_flight, "{held:?}");
    let messages = 3 * in_flight + 1 + program.calls + streams;
    // Each has what was charged for it on its own account: so nothing is held that was given back.
    assert!(held.on_account().size <= held.charged, "{held:?}");
    let all = LIMITS.windows() + len_u64(streams);
    fits("messages", held.on_account(), messages, credit)
        + fits("items", held.items, u64_len(all / ITEM) + streams, all)
}

/// What waits to be sent; returns what it may take in memory.
fn sent(held: &Holdings, theirs: &Limits, program: &Program) -> u64 {
    let (in_flight, most) = (u64::from(LIMITS.max_in_flight), LIMITS.responses());
    let (queued, subscribed) = (&held.queued, &held.subscribed);
    // Of those in the queue, two more: each is kept in a buffer that grew by doubling.
    let subscribers = len_u64(subscribed.subscribers.entries);
    let events = [queued.events, subscribed.backlogs, subscribed.under_way];
    let used = events.iter().map(|held| held.memory).sum::<u64>();
    let most_events = LIMITS.events() + 2 * program.value + QUEUED + QUEUED * subscribers;
    assert!(used <= most_events, "{used} and not {most_events}: {held:?}");
    assert!(subscribed.backlogs.entries <= program.capacity * subscribed.subscribers.entries);
    let answers = (2 * in_flight + 1) * (program.answer + QUEUED);
    let requests = len_u64(program.calls) * (program.request + QUEUED);
    let most = most.min(theirs.responses()) + answers + requests;
    let all = queued.messages;
    assert!(all.size + QUEUED * len_u64(all.entries) <= most, "{held:?}");
    let lanes = len_u64(queued.lanes.entries);
    let of_streams = LIMITS.items() + program.item + QUEUED;
    let items = queued.of_streams.size + QUEUED * len_u64(queued.of_streams.entries);
    assert!(items <= of_streams + QUEUED * lanes, "{held:?}");
    let batch = BATCH_BYTES.min(LIMITS.items()) + program.item + QUEUED;
    most_events
        + fits("the queue", all, u64_len(most / QUEUED), most)
        + fits(
            "items in the queue",
            queued.of_streams,
            u64_len(of_streams / QUEUED + lanes),
            of_streams,
        )
        + fits("items beside it", held.polled, 2 * BATCH, 2 * batch)
}

/// What is known of calls, streams and subscriptions; returns what it may take in memory.
fn tables(held: &Holdings, program: &Program) -> u64 {
    let (queued, subscribed) = (&held.queued, &held.subscribed);
    let own = 2 * (program.begun + program.subscribed);
    let entries = [
        ("control frames", queued.control, MAX_ANSWERS + own),
        ("notices", queued.notices, held.receivers.entries + program.subscriptions),
        ("calls", held.slots, program.begun),
        ("streams read", held.receivers, MAX_STREAMS),
        ("streams unread", held.unread, held.receivers.entries + program.streams + TURN),
        ("streams written", held.senders, queued.lanes.entries),
        ("lanes", queued.lanes, MAX_STREAMS),
        ("subscribers", subscribed.subscribers, MAX_SUBSCRIPTIONS),
        ("subscribers that wait", subscribed.held_back, subscribed.subscribers.entries),
    ];
    for (what, held, most) in entries {
        assert!(held.entries <= most, "{most} {what}, and not {held:?}");
    }
    assert!(queued.control.memory <= CONTROL * len_u64(queued.control.entries), "{held:?}");
    entries.iter().map(|(_, held, _)| held.memory).sum()
}

/// Asserts that there are no more messages than so many, no larger than so much together, and that they take no more memory
/// than that says. Returns how much that may be.
fn fits(what: &str, held: Held, entries: usize, size: u64) -> u64 {
    let memory = |entries, size| 2 * size + MESSAGE * len_u64(entries);
    assert!(held.entries <= entries && held.size <= size, "{entries}, {size} of {what}: {held:?}");
    assert!(held.memory <= memory(held.entries, held.size), "{what}: {held:?}");
    memory(entries, size)
}
