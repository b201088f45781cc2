//! Streams that this side sends: announced, sent, and ended.

use std::ops::Range;
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
    /// Assigns ids to the streams of a message that is about to be queued, and puts them in the table. The caller starts the
    /// returned streams after it has released the lock of `outbound`.
    fn announce_streams(
        &self,
        outbound: &mut Outbound,
        content: &mut Content,
    ) -> Result<Vec<(Arc<StreamSender>, OutgoingStream)>, TooManyStreams> {
        if !content.has_streams() {
            return Ok(Vec::new());
        }
        let opened = outbound.open_streams(content)?;
        Ok(self.streams().table.lock().add_senders(opened))
    }

    /// Cancels streams whose message was withdrawn before it was sent.
    fn withdraw_streams(&self, ids: Range<u64>) {
        if ids.is_empty() {
            return;
        }
        let mut streams = self.streams().table.lock();
        for id in ids {
            if let Some(sender) = streams.senders.remove(&id) {
                sender.cancel();
            }
        }
    }

    /// Queues items, the first with number `first`. Returns `false` if the stream was cancelled.
    fn send_items(
        &self,
        sender: &StreamSender,
        first: u64,
        items: impl ExactSizeIterator<Item = Content>,
        room: Room,
    ) -> bool {
        let last = first + len_u64(items.len()) - 1;
        let mut room = Some(room);
        let mut sent = true;
        self.send(|outbound| {
            for (number, item) in (first..).zip(items) {
                // The room is given back when the last item has been sent.
                let room = if number == last { room.take() } else { None };
                sent &= outbound.push_item(sender.id, number, item, room);
            }
            #[cfg(all(feature = "json", any(test, fuzzing)))]
            sender.have_queued();
            Ok(())
        });
        sent
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
        self.send(|outbound| {
            outbound.cancel_stream(id);
            Ok(())
        });
        Ok(())
    }
}

impl<H: StreamHost + ?Sized> WritesStreams for H {}
