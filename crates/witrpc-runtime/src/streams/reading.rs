//! Streams of the peer's, read here: their items, ends, and credit.

use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::outbound::Outbound;
use witrpc_core::values::content::Content;
use witrpc_core::wire::message::Head;
use witrpc_core::wire::status::{Status, stream_error};

use crate::link::host::{Handled, Wanted};
use crate::link::sending::Sends;
use crate::link::sync::lock;
use crate::streams::host::StreamHost;
use crate::streams::inlet::Inlet;

/// What is done with streams that are read here.
pub(crate) trait ReadsStreams: StreamHost {
    /// Gives a stream's first credit, if it has none. [wire.stream.credit]
    fn open_stream(&self, inlet: &Inlet, wanted: u32) {
        let streams = lock(&self.streams().table);
        if inlet.is_opened() || !streams.inlets.contains_key(&inlet.id) {
            return;
        }
        let share = streams.windows.take();
        let window = inlet.open(wanted, share.bytes());
        inlet.keep_share(share);
        drop(streams);
        self.grant(inlet.id, window.values, window.bytes);
    }

    /// Lets the producer of a stream send this much more. [wire.stream.credit]
    fn grant(&self, id: u64, items: u32, bytes: u64) {
        self.send(|outbound| {
            outbound.grant(id, items, bytes);
            Ok(())
        });
    }

    /// Leaves word that nobody reads a stream any more. The driver passes it on: this may be called with any lock held.
    fn leave_cancel(&self, id: u64) {
        self.streams().note_unread(id);
        self.link().wake_driver();
    }

    /// Tells the peer which of its streams nobody reads any more. [wire.stream.cancel]
    fn cancel_unread(&self, outbound: &mut Outbound) {
        // One lock at a time: handles are dropped, and so `unread` taken, with other locks held.
        let unread = self.streams().take_unread();
        if unread.is_empty() {
            return;
        }
        let streams = lock(&self.streams().table);
        for id in unread {
            if streams.inlets.contains_key(&id) {
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
        let inlet = lock(&self.streams().table).inlets.get(&id).map(Arc::clone);
        let inlet = inlet.ok_or_else(not_open)?;
        let pushed = inlet.push(head.stamp, content, charge);
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
        let inlet = lock(&self.streams().table).inlets.remove(&id).ok_or_else(not_open)?;
        let status = Status::from_code(head.selector);
        let error = status
            .and_then(|status| stream_error(status, content.body(), self.link().codec.name()));
        let error = error
            .ok_or_else(|| Error::Protocol("an unknown status of a stream's end".to_owned()))?;
        inlet.end(error);
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
