//! The interface of the sending half for streams.

use std::collections::VecDeque;

use crate::error::Error;
use crate::session::outbound::Outbound;
use crate::session::outbound::flows::{Flow, MAX_STREAMS, TooManyStreams, Turn};
use crate::session::outbound::outgoing::{Outgoing, Room};
use crate::values::attachments::OutgoingStream;
use crate::values::content::{Content, Streams};
use crate::wire::fields::len_u64;
use crate::wire::frame::Kind;
use crate::wire::message::StreamEntry;
use crate::wire::status::Status;

impl Outbound {
    /// Assigns ids to the streams of a message that is about to be queued, and returns them with their sources.
    ///
    /// # Errors
    ///
    /// [`TooManyStreams`]; nothing has changed then.
    pub fn open_streams(
        &mut self,
        content: &mut Content,
    ) -> Result<Vec<(u64, OutgoingStream)>, TooManyStreams> {
        let Some(Streams::Outgoing(sources)) = content.streams() else { return Ok(Vec::new()) };
        if self.flows.stream_count() + sources.len() > MAX_STREAMS {
            return Err(TooManyStreams);
        }
        let sources = content.take_outgoing();
        let opened: Vec<_> =
            self.flows.open_streams(sources.len(), self.control.closed).zip(sources).collect();
        let entry =
            |(id, source): &(u64, OutgoingStream)| StreamEntry { id: *id, window: source.window() };
        content.set_streams(Streams::Table(opened.iter().map(entry).collect()));
        Ok(opened)
    }

    /// The number of streams that are open, or whose end was not sent yet.
    pub fn open_stream_count(&self) -> usize {
        self.flows.stream_count()
    }

    /// Whether more items of this stream can be queued.
    pub fn takes_items(&self, id: u64) -> bool {
        self.flows.takes_items(id)
    }

    /// Queues an item; returns `false` if the stream has ended or been cancelled.
    pub fn push_item(
        &mut self,
        id: u64,
        number: u64,
        content: Content,
        room: Option<Room>,
    ) -> bool {
        let item = Outgoing::new(Kind::StreamItem, id, content, (0, 0, number), room);
        self.push_of_stream(item)
    }

    /// Queues a stream's end, if that has not been done.
    pub fn push_stream_end(&mut self, id: u64, status: Status, content: Content) {
        let status = (status.code(), 0, 0);
        self.push_of_stream(Outgoing::new(Kind::StreamEnd, id, content, status, None));
    }

    fn push_of_stream(&mut self, message: Outgoing) -> bool {
        let (kind, footprint) = (message.kind, message.footprint());
        let pushed = self.flows.push_of_stream(message);
        if pushed {
            self.queued.join(kind, footprint);
        }
        pushed
    }

    /// The peer takes nothing more of this stream: drops what has not begun to leave, and queues its end. Returns the ids of the streams of
    /// items that were dropped, which end with them.
    pub fn cancel_stream(&mut self, id: u64) -> Vec<u64> {
        let (status, nothing) = ((Status::Cancelled.code(), 0, 0), Content::default());
        let end = Outgoing::new(Kind::StreamEnd, id, nothing, status, None);
        let of_end = end.footprint();
        let (items, is_new) = self.flows.cancel_stream(id, end);
        let streams: Vec<_> = items.iter().flat_map(|item| item.streams.clone()).collect();
        self.flows.forget_streams(streams.iter().copied());
        items.iter().for_each(|item| self.queued.leave(item.kind, item.footprint()));
        if is_new {
            self.queued.join(Kind::StreamEnd, of_end);
        }
        streams
    }

    pub(super) fn take_turn(&mut self, flow: Flow) -> Result<Turn, Error> {
        match flow {
            Flow::Message(mut message) => {
                let chunk = self.send_chunk(&mut message)?;
                if chunk.last {
                    self.has_been_sent(*message);
                    return Ok(Turn { sent: chunk.sent, full: false, rest: None });
                }
                let rest = Some(Flow::Message(message));
                Ok(Turn { sent: chunk.sent, full: chunk.full, rest })
            }
            Flow::Stream(id) => self.stream_turn(id),
        }
    }

    /// A stream's turn: as many of its small messages as make up a chunk, or one chunk.
    fn stream_turn(&mut self, id: u64) -> Result<Turn, Error> {
        let (mut sent, most) = (0, len_u64(self.chunk_len()));
        loop {
            let lane = self.flows.streams.open.get_mut(&id).map(|lane| &mut lane.queue);
            let Some(mut message) = lane.and_then(VecDeque::pop_front) else {
                return Ok(Turn { sent, full: false, rest: None });
            };
            let is_end = message.kind == Kind::StreamEnd;
            let chunk = self.send_chunk(&mut message)?;
            sent += chunk.sent;
            if is_end && chunk.last {
                self.has_been_sent(message);
                self.flows.streams.open.remove(&id);
                return Ok(Turn { sent, full: false, rest: None });
            }
            let unfinished = if chunk.last {
                self.has_been_sent(message);
                None
            } else {
                Some(message)
            };
            let is_unfinished = unfinished.is_some();
            let Some(lane) = self.flows.streams.open.get_mut(&id) else {
                return Ok(Turn { sent, full: chunk.full, rest: None });
            };
            unfinished.into_iter().for_each(|message| lane.queue.push_front(message));
            let more = !lane.queue.is_empty();
            if is_unfinished || sent >= most || !self.may_go_on(id) {
                let rest = more.then_some(Flow::Stream(id));
                return Ok(Turn { sent, full: chunk.full, rest });
            }
        }
    }

    /// Whether the peer takes the next message of this stream now.
    fn may_go_on(&self, id: u64) -> bool {
        let lane = self.flows.streams.open.get(&id);
        lane.and_then(|lane| lane.queue.front()).is_some_and(|m| self.may_send(m))
    }
}
