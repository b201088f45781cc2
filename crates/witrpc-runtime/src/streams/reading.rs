//! Streams that the peer sends: their items, ends, and credit.

use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::outbound::Outbound;
use witrpc_core::values::content::Content;
use witrpc_core::wire::message::Head;
use witrpc_core::wire::status::{Status, stream_error};

use crate::link::host::{Handled, Wanted};
use crate::link::sending::Sends;
use crate::streams::host::StreamHost;
use crate::streams::receiver::StreamReceiver;
use crate::streams::windows::Width;

/// Operations on streams that the peer sends.
pub(crate) trait ReadsStreams: StreamHost {
    /// Sends a stream's first credit, unless it was sent already. [wire.stream.credit]
    fn open_stream(&self, receiver: &StreamReceiver, width: Width) {
        let streams = self.streams().table.lock();
        if receiver.is_opened() || !streams.receivers.contains_key(&receiver.id) {
            return;
        }
        let (share, items) = match width {
            Width::Items(items) => (streams.windows.take(), items),
            Width::OneItem => (streams.windows.take_little(), 1),
        };
        let window = receiver.open(items, share.bytes());
        receiver.keep_share(share);
        drop(streams);
        self.grant(receiver.id, window.values, window.bytes);
    }

    /// Sends credit for more of a stream. [wire.stream.credit]
    fn grant(&self, id: u64, items: u32, bytes: u64) {
        self.send(|outbound| {
            outbound.grant(id, items, bytes);
            Ok(())
        });
    }

    /// Notes that a stream is not read any more, and wakes the driver, which tells the peer. May be called with any lock held.
    fn leave_cancel(&self, id: u64) {
        self.streams().note_unread(id);
        self.link().wake_driver();
    }

    /// Queues a cancel for each stream that is not read any more. [wire.stream.cancel]
    fn cancel_unread(&self, outbound: &mut Outbound) {
        // One lock at a time: a `StreamReader` takes the lock of `unread` when it is dropped, with other locks held.
        let unread = self.streams().take_unread();
        if unread.is_empty() {
            return;
        }
        let streams = self.streams().table.lock();
        for id in unread {
            if streams.receivers.contains_key(&id) {
                outbound.refuse_stream(id);
            }
        }
    }

    fn handle_item(
        &self,
        id: u64,
        head: &Head,
        content: Content,
        charge: Charge,
        wanted: Wanted,
    ) -> Result<Handled, Error> {
        let receiver = self.streams().table.lock().receivers.get(&id).map(Arc::clone);
        let receiver = receiver.ok_or_else(not_open)?;
        let pushed = receiver.push(head.stamp, content, charge);
        pushed.map_err(|broken| Error::Protocol(broken.0.to_owned()))?;
        Ok(if wanted == Wanted::Stream(id) { Handled::Wanted } else { Handled::Woke })
    }

    /// [wire.stream.end]
    fn handle_stream_end(
        &self,
        id: u64,
        head: &Head,
        content: &Content,
        wanted: Wanted,
    ) -> Result<Handled, Error> {
        let receiver = self.streams().table.lock().receivers.remove(&id).ok_or_else(not_open)?;
        let status = Status::from_code(head.selector);
        let error = status
            .and_then(|status| stream_error(status, content.body(), self.link().codec.name()));
        let error = error.ok_or_else(|| {
            Error::Protocol("an unknown status at the end of a stream".to_owned())
        })?;
        receiver.end(error);
        self.with_outbound(|outbound| {
            outbound.forget_stream_of_peer(id);
            Ok(false)
        });
        Ok(if wanted == Wanted::Stream(id) { Handled::Wanted } else { Handled::Woke })
    }
}

impl<H: StreamHost + ?Sized> ReadsStreams for H {}

fn not_open() -> Error {
    Error::Protocol("a frame of a stream that is not open".to_owned())
}
