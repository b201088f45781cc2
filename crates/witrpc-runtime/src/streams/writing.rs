//! Streams that this side sends: announced, sent, and ended.

use std::fmt;
use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::session::outbound::{Outbound, Room, TooManyStreams};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::values::content::Content;
use witrpc_core::wire::fields::len_u64;

use crate::link::reply::Reply;
use crate::link::sending::Sends;
use crate::streams::host::StreamHost;
use crate::streams::sender::StreamSender;

/// Operations on streams that this side sends.
pub(crate) trait WritesStreams: StreamHost {
    /// Whether the streams of a message can cross this connection.
    fn can_carry(&self, content: &Content) -> Result<(), Refused> {
        let advice = if self.has_side_channel() { None } else { content.advice() };
        advice.map_or(Ok(()), |advice| Err(Refused::NoSideChannel(advice)))
    }

    /// Assigns ids to the streams of a message that is about to be queued, and puts them in the table. The caller starts the
    /// returned streams after it has released the lock of `outbound`.
    fn announce_streams(
        &self,
        outbound: &mut Outbound,
        content: &mut Content,
    ) -> Result<Vec<Added>, Refused> {
        if !content.has_streams() {
            return Ok(Vec::new());
        }
        self.can_carry(content)?;
        let opened = outbound.open_streams(content).map_err(Refused::TooMany)?;
        Ok(self.streams().table.lock().add_senders(opened))
    }

    /// Cancels streams whose message was withdrawn before it was sent.
    fn withdraw_streams(&self, ids: impl Iterator<Item = u64>) {
        let mut ids = ids.peekable();
        if ids.peek().is_none() {
            return;
        }
        let mut streams = self.streams().table.lock();
        for id in ids {
            if let Some(sender) = streams.senders.remove(&id) {
                sender.cancel();
            }
        }
    }

    /// Queues items, the first with number `first`. Returns the resources of those that were queued, and whether all were.
    fn send_items(
        &self,
        sender: &StreamSender,
        first: u64,
        items: impl ExactSizeIterator<Item = Content>,
        room: Room,
    ) -> (Vec<Added>, Result<(), Unsent>) {
        let last = first + len_u64(items.len()) - 1;
        let (mut room, mut added, mut sent) = (Some(room), Vec::new(), Ok(()));
        // Dropped with no lock held.
        let mut unsent = Vec::new();
        self.send(|outbound| {
            if !outbound.takes_items(sender.id) {
                sent = Err(Unsent::Cancelled);
            }
            for (number, mut item) in (first..).zip(items) {
                if sent.is_ok() {
                    match self.announce_streams(outbound, &mut item) {
                        Ok(streams) => added.extend(streams),
                        Err(refused) => sent = Err(Unsent::Refused(refused)),
                    }
                }
                if sent.is_err() {
                    unsent.push(item);
                    continue;
                }
                // The room is given back when the last item has been sent.
                let room = if number == last { room.take() } else { None };
                outbound.push_item(sender.id, number, item, room);
            }
            #[cfg(all(feature = "json", any(test, fuzzing)))]
            sender.have_queued();
            Ok(())
        });
        (added, sent)
    }

    /// Queues the end of a stream, and removes it from the table.
    fn end_stream(&self, sender: &StreamSender, end: Reply) {
        self.send(|outbound| {
            outbound.push_stream_end(sender.id, end.status, end.content);
            Ok(())
        });
        self.streams().table.lock().senders.remove(&sender.id);
    }

    fn handle_stream_credit(&self, id: u64, items: u32, bytes: u64) -> Result<(), Error> {
        let sender = self.streams().table.lock().sender(id)?.map(Arc::clone);
        // The stream has ended: the credit was sent before its end arrived.
        let Some(sender) = sender else { return Ok(()) };
        sender
            .credit(items, bytes)
            .map_err(|_| Error::Protocol("credit for more of a stream than was sent".to_owned()))
    }

    fn handle_stream_cancel(&self, id: u64) -> Result<(), Error> {
        let mut streams = self.streams().table.lock();
        streams.sender(id)?;
        let sender = streams.senders.remove(&id);
        drop(streams);
        if let Some(sender) = sender {
            sender.cancel();
        }
        let mut of_items = Vec::new();
        self.send(|outbound| {
            of_items = outbound.cancel_stream(id);
            Ok(())
        });
        self.withdraw_streams(of_items.into_iter());
        Ok(())
    }
}

impl<H: StreamHost + ?Sized> WritesStreams for H {}

/// A stream of a message that was queued: to be started.
pub(crate) type Added = (Arc<StreamSender>, OutgoingStream);

/// Why the streams of a message cannot be announced.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There are too many.
    TooMany(TooManyStreams),
    /// One of them needs a side channel; and what to do instead.
    NoSideChannel(&'static str),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany(reason) => reason.fmt(f),
            Self::NoSideChannel(advice) => f.write_str(advice),
        }
    }
}

/// Why items were not queued.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// Their stream was cancelled.
    Cancelled,
    Refused(Refused),
}
