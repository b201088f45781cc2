//! What leaves in turn: long messages, and streams, whose items keep their order whatever their size.
//!
//! A stream that is open has a lane of its own here, from the moment that the message which announces it is queued until
//! its end has left: so the peer never sees more streams open at a time than are counted here.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::sync::OwnedSemaphorePermit;

use super::{Outbound, Outgoing, QUEUE_ENTRY};
use crate::error::Error;
use crate::frame::Kind;
use crate::message::{Content, StreamEntry, Streams};
use crate::outlet::Source;
use crate::service::Status;
use crate::wire::len_u64;

/// Streams that one side may have open at a time: each costs both sides an entry in a table. [wire.streams]
pub(crate) const MAX_STREAMS: usize = 65_536;

/// What takes its turn.
#[derive(Debug)]
pub(super) enum Flow {
    Message(Outgoing),
    /// The stream of this id, whose queue is not empty.
    Stream(u64),
}

/// How a flow's turn went.
#[derive(Debug)]
pub(super) struct Turn {
    /// Bytes.
    pub(super) sent: u64,
    /// There was no room for more.
    pub(super) full: bool,
    /// The flow, unless it has nothing more.
    pub(super) rest: Option<Flow>,
}

/// What waits of a stream that is open.
#[derive(Debug, Default)]
pub(super) struct StreamLane {
    /// Not empty exactly if the stream is among the flows.
    pub(super) queue: VecDeque<Outgoing>,
    /// The end is in the queue; nothing follows it.
    ended: bool,
}

/// As many streams are open as there may be.
#[derive(Debug, thiserror::Error)]
#[error("this side may have {MAX_STREAMS} streams open on a connection, and these would be more")]
pub(crate) struct TooManyStreams;

impl Outbound {
    /// Gives the streams of a message that is about to be queued their ids, which are never used again, and returns
    /// them with what they were made of.
    ///
    /// # Errors
    ///
    /// [`TooManyStreams`]; nothing has changed then.
    pub(crate) fn open_streams(
        &mut self,
        content: &mut Content,
    ) -> Result<Vec<(u64, Source)>, TooManyStreams> {
        let Some(Streams::Sources(sources)) = content.streams() else { return Ok(Vec::new()) };
        if self.streams.len() + sources.len() > MAX_STREAMS {
            return Err(TooManyStreams);
        }
        let sources = content.take_sources();
        let (first, count) = (self.next_stream, len_u64(sources.len()));
        self.next_stream += count;
        let opened: Vec<_> = (first..self.next_stream).zip(sources).collect();
        let entry = |(id, source): &(u64, Source)| StreamEntry { id: *id, window: source.window() };
        content.set_streams(Streams::Table(opened.iter().map(entry).collect()));
        if !self.closed {
            self.streams.extend(opened.iter().map(|(id, _)| (*id, StreamLane::default())));
        }
        Ok(opened)
    }

    /// The message that announced these was taken back: the peer will never know of them.
    pub(super) fn forget_streams(&mut self, ids: Range<u64>) {
        for id in ids {
            self.streams.remove(&id);
        }
    }

    /// Streams that are open, or whose end has not left.
    pub(crate) fn open_stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Queues an item; returns `false` if the stream has ended or been cancelled.
    pub(crate) fn push_item(
        &mut self,
        id: u64,
        number: u64,
        content: Content,
        permit: Option<OwnedSemaphorePermit>,
    ) -> bool {
        let item = Outgoing::new(Kind::StreamItem, id, content, (0, 0, number), permit);
        self.push_of_stream(item)
    }

    /// Queues a stream's end, if that has not been done.
    pub(crate) fn push_stream_end(&mut self, id: u64, status: Status, content: Content) {
        let status = (status.code(), 0, 0);
        self.push_of_stream(Outgoing::new(Kind::StreamEnd, id, content, status, None));
    }

    fn push_of_stream(&mut self, message: Outgoing) -> bool {
        let (id, cost) = (message.id, message.cost());
        let Some(lane) = self.streams.get_mut(&id) else { return false };
        if lane.ended {
            return false;
        }
        lane.ended = message.kind == Kind::StreamEnd;
        if lane.queue.is_empty() {
            self.bulk.push_back(Flow::Stream(id));
        }
        lane.queue.push_back(message);
        self.queued += cost + QUEUE_ENTRY;
        self.queued_streams += cost + QUEUE_ENTRY;
        true
    }

    /// The peer takes nothing more of this stream: drops what has not begun to leave, and queues its end.
    pub(crate) fn cancel_stream(&mut self, id: u64) {
        let Some(lane) = self.streams.get_mut(&id) else { return };
        let mut dropped = 0;
        let was_empty = lane.queue.is_empty();
        lane.queue.retain(|m| {
            let keep = m.started || m.kind == Kind::StreamEnd;
            dropped += if keep { 0 } else { m.cost() + QUEUE_ENTRY };
            keep
        });
        self.queued -= dropped;
        self.queued_streams -= dropped;
        if std::mem::replace(&mut lane.ended, true) {
            return;
        }
        let (status, nothing) = ((Status::Cancelled.code(), 0, 0), Content::default());
        let end = Outgoing::new(Kind::StreamEnd, id, nothing, status, None);
        self.queued += end.cost() + QUEUE_ENTRY;
        self.queued_streams += end.cost() + QUEUE_ENTRY;
        lane.queue.push_back(end);
        if was_empty {
            self.bulk.push_back(Flow::Stream(id));
        }
    }

    /// Whether the peer takes the next chunk of this flow.
    pub(super) fn is_ready(&self, flow: &Flow) -> bool {
        match flow {
            Flow::Message(m) => self.may_send(m) && super::has_left(&self.events, m.event),
            Flow::Stream(id) => {
                let front = self.streams.get(id).and_then(|lane| lane.queue.front());
                front.is_some_and(|m| self.may_send(m))
            }
        }
    }

    pub(super) fn take_turn(&mut self, flow: Flow) -> Result<Turn, Error> {
        match flow {
            Flow::Message(message) => {
                let (chunk, unfinished) = self.send_chunk(message)?;
                let (sent, full) = (chunk.unwrap_or(0), chunk.is_none());
                Ok(Turn { sent, full, rest: unfinished.map(Flow::Message) })
            }
            Flow::Stream(id) => self.stream_turn(id),
        }
    }

    /// A stream's turn: as many of its small messages as make up a chunk, or one chunk.
    fn stream_turn(&mut self, id: u64) -> Result<Turn, Error> {
        let (mut sent, most) = (0, len_u64(self.chunk_len()));
        loop {
            let lane = self.streams.get_mut(&id).map(|lane| &mut lane.queue);
            let Some(message) = lane.and_then(VecDeque::pop_front) else {
                return Ok(Turn { sent, full: false, rest: None });
            };
            let is_end = message.kind == Kind::StreamEnd;
            let (chunk, unfinished) = self.send_chunk(message)?;
            sent += chunk.unwrap_or(0);
            if is_end && unfinished.is_none() {
                self.streams.remove(&id);
                return Ok(Turn { sent, full: false, rest: None });
            }
            let (full, is_unfinished) = (chunk.is_none(), unfinished.is_some());
            let Some(lane) = self.streams.get_mut(&id) else {
                return Ok(Turn { sent, full, rest: None });
            };
            unfinished.into_iter().for_each(|message| lane.queue.push_front(message));
            let more = !lane.queue.is_empty();
            if full || is_unfinished || sent >= most || !self.is_ready(&Flow::Stream(id)) {
                return Ok(Turn { sent, full, rest: more.then_some(Flow::Stream(id)) });
            }
        }
    }
}
