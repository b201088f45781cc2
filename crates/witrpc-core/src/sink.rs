//! A subscriber at the other end of a connection, as the raising side keeps it.
//!
//! Up to a window of values are under way: sent, and not yet taken by the subscriber. What is raised beyond that waits
//! here, and overflows as the event says; so does what is raised while the connection is backed up. So a subscriber that is slow, or stopped, costs a bounded backlog and holds up
//! nobody.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use serde::Serialize;

use crate::buffers;
use crate::connection::{Connection, lock};
use crate::error::Error;
use crate::event::{Backlog, Event, EventValue, Overflow, Pushed, Registration, Room};
use crate::message::Content;
use crate::serializer::Codec;

/// How far a subscriber lets the raising side run ahead. [wire.subscribe]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Values, at least one.
    pub(crate) values: u32,
    /// Bytes, at least one; the value that reaches it is still sent, however large.
    pub(crate) bytes: u64,
}

/// One subscriber.
pub(crate) struct RemoteSink {
    connection: Weak<Connection>,
    codec: Codec,
    id: u32,
    window: Window,
    max_message_size: u64,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Content>,
    /// Sizes of the values under way, oldest first, and their sum.
    under_way: VecDeque<u64>,
    under_way_bytes: u64,
    room: Option<Arc<Room>>,
}

/// The subscriber acknowledged more than it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyAcks;

impl fmt::Debug for RemoteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSink").field("id", &self.id).finish_non_exhaustive()
    }
}

impl RemoteSink {
    pub(crate) fn new(connection: &Arc<Connection>, id: u32, window: Window) -> Arc<Self> {
        let state = State {
            backlog: Backlog::new(Overflow::default(), 1),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            room: None,
        };
        Arc::new(Self {
            connection: Arc::downgrade(connection),
            codec: connection.codec.clone(),
            id,
            window,
            max_message_size: connection.peer_limits.max_message_size,
            state: Mutex::new(state),
        })
    }

    /// Takes over the event's settings, before the first value.
    pub(crate) fn configure(&self, overflow: Overflow, capacity: usize, room: Arc<Room>) {
        let mut state = lock(&self.state);
        state.backlog = Backlog::new(overflow, capacity);
        state.room = Some(room);
    }

    pub(crate) const fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Sends the value, or keeps it for later, or drops one.
    pub(crate) fn deliver(&self, content: &Content) {
        let Some(connection) = self.connection.upgrade() else { return };
        let size = content.size();
        let mut state = lock(&self.state);
        if size > self.max_message_size {
            let number = state.backlog.number();
            tracing::warn!(
                number,
                size,
                limit = self.max_message_size,
                "an event is too large for a subscriber"
            );
            return;
        }
        if state.backlog.is_empty() && state.may_send(self.window) && !connection.is_backed_up() {
            let number = state.backlog.number();
            state.send(&connection, self.id, number, content.copy());
            return;
        }
        if state.backlog.push(content.copy()) == Pushed::Disconnect {
            drop(state);
            connection.disconnect("a subscriber did not keep up with its event");
        } else if state.may_send(self.window) {
            connection.hold_back_events();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        lock(&self.state).backlog.is_full()
    }

    /// The subscriber has taken so many values: sends what waited for that.
    pub(crate) fn acknowledge(&self, values: u32) -> Result<(), TooManyAcks> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        let mut state = lock(&self.state);
        for _ in 0..values {
            let size = state.under_way.pop_front().ok_or(TooManyAcks)?;
            state.under_way_bytes -= size;
        }
        self.send_waiting(state, &connection);
        Ok(())
    }

    /// Sends what waited for room in the connection's queue.
    pub(crate) fn resume(&self, connection: &Connection) {
        self.send_waiting(lock(&self.state), connection);
    }

    fn send_waiting(&self, mut state: MutexGuard<'_, State>, connection: &Connection) {
        while state.may_send(self.window)
            && !connection.is_backed_up()
            && let Some((number, content)) = state.backlog.pop()
        {
            state.send(connection, self.id, number, content);
        }
        if !state.backlog.is_empty() && state.may_send(self.window) {
            connection.hold_back_events();
        }
        let room = state.room.clone();
        drop(state);
        if let Some(room) = room {
            room.made();
        }
    }
}

impl State {
    fn may_send(&self, window: Window) -> bool {
        self.under_way.len() < crate::wire::u32_len(window.values)
            && self.under_way_bytes < window.bytes
    }

    /// Within the lock, so that numbers leave in order.
    fn send(&mut self, connection: &Connection, id: u32, number: u64, content: Content) {
        let size = content.size();
        self.under_way.push_back(size);
        self.under_way_bytes += size;
        connection.send_event(id, number, content);
    }
}

/// A value, serialized at most once per serializer while it is handed to all subscribers.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    done: Vec<(String, Content)>,
}

impl Encoded {
    pub(crate) fn get<T: Serialize>(
        &mut self,
        codec: &Codec,
        value: &T,
    ) -> Result<&Content, Error> {
        let known = self.done.iter().position(|(name, _)| name == codec.name());
        let at = match known {
            Some(at) => at,
            None => {
                let content =
                    Content::write(buffers::take(), |out| codec.serialize_item(value, out));
                let content = content.map_err(|reason| Error::Serialize {
                    what: "an event's value".to_owned(),
                    serializer: codec.name().to_owned(),
                    reason: reason.to_string(),
                })?;
                self.done.push((codec.name().to_owned(), content));
                self.done.len() - 1
            }
        };
        Ok(&self.done[at].1)
    }
}

/// A subscriber, on its way to its event.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventSink(pub(crate) Arc<RemoteSink>);

/// A subscriber at its event, or the news that there is no such event.
#[doc(hidden)]
#[derive(Debug)]
pub struct Attached(pub(crate) Option<Registration>);

/// Attaches a subscriber to a service's event.
#[doc(hidden)]
#[must_use]
pub fn attach<T: EventValue>(event: &Event<T>, sink: EventSink) -> Attached {
    Attached(event.attach(sink.0))
}

/// The answer for an event that the service does not have.
#[doc(hidden)]
#[must_use]
pub fn unknown_event(_sink: EventSink) -> Attached {
    Attached(None)
}
