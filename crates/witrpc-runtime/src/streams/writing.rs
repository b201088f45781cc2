//! Our streams, read by the peer: announced, sent, and ended.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use witrpc_core::Error;
use witrpc_core::session::outbound::{Outbound, Room, TooManyStreams};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::values::content::Content;
use witrpc_core::wire::fields::len_u64;

use crate::link::reply::Reply;
use crate::link::sending::Sends;
use crate::link::sync::lock;
use crate::streams::host::StreamHost;
use crate::streams::outlet::Outlet;

/// What is done with streams that the peer reads.
pub(crate) trait WritesStreams: StreamHost {
    /// Gives the streams of a message that is about to be queued their ids, and puts them in the table. The caller
    /// starts what it gets once it has let go of the lock.
    fn announce_streams(
        &self,
        outbound: &mut Outbound,
        content: &mut Content,
    ) -> Result<Vec<(Arc<Outlet>, OutgoingStream)>, TooManyStreams> {
        if !content.has_streams() {
            return Ok(Vec::new());
        }
        let opened = outbound.open_streams(content)?;
        Ok(lock(&self.streams().table).add_outlets(opened))
    }

    /// The message that announced these has been taken back.
    fn withdraw_streams(&self, ids: Range<u64>) {
        if ids.is_empty() {
            return;
        }
        let mut streams = lock(&self.streams().table);
        for id in ids {
            if let Some(outlet) = streams.outlets.remove(&id) {
                outlet.cancel();
            }
        }
    }

    /// Sends items from number `first` on; returns `false` if nobody takes them any more.
    fn send_items(
        &self,
        outlet: &Outlet,
        first: u64,
        items: impl ExactSizeIterator<Item = Content>,
        permit: OwnedSemaphorePermit,
    ) -> bool {
        let last = first + len_u64(items.len()) - 1;
        let mut permit = Some(room(permit));
        let mut sent = true;
        self.send(|outbound| {
            for (number, item) in (first..).zip(items) {
                // The room they take up is free again when the last has left.
                let permit = if number == last { permit.take() } else { None };
                sent &= outbound.push_item(outlet.id, number, item, permit);
            }
            #[cfg(all(feature = "json", any(test, fuzzing)))]
            outlet.have_queued();
            Ok(())
        });
        sent
    }

    /// Our stream has come to its end.
    fn end_stream(&self, outlet: &Outlet, end: Reply) {
        self.send(|outbound| {
            outbound.push_stream_end(outlet.id, end.status, end.content);
            Ok(())
        });
        lock(&self.streams().table).outlets.remove(&outlet.id);
    }

    fn handle_stream_credit(&self, id: u64, items: u32, bytes: u64) -> Result<(), Error> {
        let outlet = lock(&self.streams().table).outlet(id)?.map(Arc::clone);
        // One that has ended: the credit crossed its end.
        let Some(outlet) = outlet else { return Ok(()) };
        outlet
            .credit(items, bytes)
            .map_err(|_| Error::Protocol("credit for more of a stream than was sent".to_owned()))
    }

    fn handle_stream_cancel(&self, id: u64) -> Result<(), Error> {
        let mut streams = lock(&self.streams().table);
        streams.outlet(id)?;
        let outlet = streams.outlets.remove(&id);
        drop(streams);
        if let Some(outlet) = outlet {
            outlet.cancel();
        }
        self.send(|outbound| {
            outbound.cancel_stream(id);
            Ok(())
        });
        Ok(())
    }
}

impl<H: StreamHost + ?Sized> WritesStreams for H {}

/// Room in the sending queue, as a message carries it.
pub(crate) fn room(permit: OwnedSemaphorePermit) -> Room {
    Box::new(permit)
}
