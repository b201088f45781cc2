//! Streams on a connection: those of the peer that are read here, and ours that the peer reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handling::{Handled, Mine};
use super::{Connection, lock};
use crate::context::CallContext;
use crate::error::{CloseReason, Error};
use crate::frame::Kind;
use crate::inlet::{Inlet, InletHandle};
use crate::ledger::Charge;
use crate::message::{Content, Head, Streams as Beside, stream_error};
use crate::outbound::{MAX_STREAMS, Outbound, TooManyStreams};
use crate::outlet::{Outlet, Source, produce};
use crate::service::{Reply, Status};
use crate::wire::{Put, len_u64};

/// The most bytes that a producer may be ahead: as much as fills a ring, and no more than a cache likes.
const WINDOW_BYTES: u64 = 1 << 20;

/// The window of a stream for which nothing is left: one item at a time, on the messages' account.
const NOTHING: u64 = 1;

/// The streams of one connection.
#[derive(Debug)]
pub(crate) struct Streams {
    inlets: HashMap<u64, Arc<Inlet>>,
    outlets: HashMap<u64, Arc<Outlet>>,
    /// Above all ids of our own.
    next: u64,
    /// What all windows together may have, and have not.
    free: u64,
    /// Windows that have been opened.
    windows: u64,
    closed: bool,
}

impl Streams {
    /// Streams whose windows have half of `max_buffered` together.
    pub(super) fn new(max_buffered: u64) -> Self {
        Self {
            inlets: HashMap::new(),
            outlets: HashMap::new(),
            next: 0,
            free: max_buffered / 2,
            windows: 0,
            closed: false,
        }
    }

    /// Streams of the peer's that have not ended.
    pub(super) fn inlet_count(&self) -> usize {
        self.inlets.len()
    }

    /// Whether any stream is open.
    pub(super) fn is_busy(&self) -> bool {
        !(self.inlets.is_empty() && self.outlets.is_empty())
    }

    /// Takes bytes for one more window: the more there are, the fewer each has.
    fn take_window(&mut self) -> u64 {
        let bytes = (self.free / (self.windows + 8)).min(WINDOW_BYTES);
        self.windows += 1;
        if bytes <= NOTHING {
            return NOTHING;
        }
        self.free -= bytes;
        bytes
    }

    fn remove_inlet(&mut self, id: u64) -> Option<Arc<Inlet>> {
        let inlet = self.inlets.remove(&id)?;
        if let Some(bytes) = inlet.window_bytes() {
            self.windows -= 1;
            self.free += if bytes == NOTHING { 0 } else { bytes };
        }
        Some(inlet)
    }

    fn add_outlets(&mut self, opened: Vec<(u64, Source)>) -> Vec<(Arc<Outlet>, Source)> {
        let mut added = Vec::with_capacity(opened.len());
        for (id, source) in opened {
            let outlet = Outlet::new(id, &source);
            self.next = id + 1;
            if self.closed {
                outlet.cancel();
            } else {
                self.outlets.insert(id, Arc::clone(&outlet));
            }
            added.push((outlet, source));
        }
        added
    }

    /// Our stream of this id; `None` if it has ended.
    fn outlet(&self, id: u64) -> Result<Option<&Arc<Outlet>>, Error> {
        if id >= self.next {
            return Err(Error::Protocol("a word about a stream that never was".to_owned()));
        }
        Ok(self.outlets.get(&id))
    }

    /// Ends all, with their connection.
    pub(super) fn close(&mut self, reason: &CloseReason) {
        self.closed = true;
        self.inlets.drain().for_each(|(_, inlet)| inlet.close(reason));
        self.outlets.drain().for_each(|(_, outlet)| outlet.cancel());
    }
}

/// Streams of the peer's, read here.
impl Connection {
    /// Takes note of the streams of a message that has come, whether anybody will read them or not. [wire.streams]
    pub(super) fn adopt_streams(&self, content: &mut Content) -> Result<(), Error> {
        let Some(Beside::Table(table)) = content.streams() else { return Ok(()) };
        if table.is_empty() {
            return Ok(());
        }
        let mut streams = lock(&self.streams);
        if streams.inlets.len() + table.len() > MAX_STREAMS {
            return Err(Error::Protocol("more streams than may be open".to_owned()));
        }
        let mut handles = Vec::with_capacity(table.len());
        for entry in table {
            let inlet = Inlet::new(*entry);
            if let Some(reason) = self.closed.get().filter(|_| streams.closed) {
                // It came as the connection ended: whoever reads it is to hear of that.
                inlet.close(reason);
            } else if streams.inlets.insert(entry.id, Arc::clone(&inlet)).is_some() {
                return Err(Error::Protocol("two streams with one id".to_owned()));
            }
            handles.push(Some(InletHandle::new(inlet, self.this.clone(), self.codec.clone())));
        }
        drop(streams);
        content.set_streams(Beside::Inlets(handles));
        Ok(())
    }

    /// Gives a stream's first credit, if it has none. [wire.stream.credit]
    pub(crate) fn open_stream(&self, inlet: &Inlet, wanted: u32) {
        let mut streams = lock(&self.streams);
        if inlet.window_bytes().is_some() || !streams.inlets.contains_key(&inlet.id) {
            return;
        }
        let bytes = streams.take_window();
        let window = inlet.open(wanted, bytes);
        drop(streams);
        self.grant(inlet.id, window.values, window.bytes);
    }

    /// Lets the producer of a stream send this much more. [wire.stream.credit]
    pub(crate) fn grant(&self, id: u64, items: u32, bytes: u64) {
        let payload = credit(items, bytes);
        self.send(|outbound| {
            outbound.push_notice(Kind::StreamCredit, id, payload);
            Ok(())
        });
    }

    /// Leaves word that nobody reads a stream any more. The driver passes it on: this may be called with any lock held.
    pub(crate) fn leave_cancel(&self, id: u64) {
        let mut unread = lock(&self.unread);
        unread.push(id);
        self.has_unread.store(true, Ordering::Relaxed);
        drop(unread);
        self.wake_driver();
    }

    /// Tells the peer which of its streams nobody reads any more. [wire.stream.cancel]
    pub(super) fn cancel_unread(&self, outbound: &mut Outbound) {
        if !self.has_unread.load(Ordering::Relaxed) {
            return;
        }
        let mut unread = lock(&self.unread);
        self.has_unread.store(false, Ordering::Relaxed);
        let unread = std::mem::take(&mut *unread);
        let streams = lock(&self.streams);
        for id in unread {
            if streams.inlets.contains_key(&id) {
                outbound.push_notice(Kind::StreamCancel, id, Vec::new());
            }
        }
    }

    pub(super) fn handle_item(
        &self,
        id: u64,
        head: &Head,
        content: Content,
        charge: Charge,
        mine: Mine,
    ) -> Result<Handled, Error> {
        let inlet = lock(&self.streams).inlets.get(&id).map(Arc::clone);
        let inlet = inlet.ok_or_else(not_open)?;
        let pushed = inlet.push(head.stamp, content, charge);
        pushed.map_err(|broken| Error::Protocol(broken.0.to_owned()))?;
        Ok(if mine == Mine::Stream(id) { Handled::Mine } else { Handled::Woke })
    }

    /// [wire.stream.end]
    pub(super) fn handle_stream_end(
        &self,
        id: u64,
        head: &Head,
        content: &Content,
        mine: Mine,
    ) -> Result<Handled, Error> {
        let inlet = lock(&self.streams).remove_inlet(id).ok_or_else(not_open)?;
        let status = Status::from_code(head.selector);
        let error = status.and_then(|status| stream_error(status, content.body()));
        let error = error
            .ok_or_else(|| Error::Protocol("an unknown status of a stream's end".to_owned()))?;
        inlet.end(error);
        Ok(if mine == Mine::Stream(id) { Handled::Mine } else { Handled::Woke })
    }
}

/// Our streams, read by the peer.
impl Connection {
    /// Gives the streams of a message that is about to be queued their ids, and puts them in the table. The caller
    /// starts what it gets once it has let go of the lock.
    pub(super) fn announce_streams(
        &self,
        outbound: &mut Outbound,
        content: &mut Content,
    ) -> Result<Vec<(Arc<Outlet>, Source)>, TooManyStreams> {
        if !content.has_streams() {
            return Ok(Vec::new());
        }
        let opened = outbound.open_streams(content)?;
        Ok(lock(&self.streams).add_outlets(opened))
    }

    /// Starts streams that have been announced: each waits for its first credit.
    pub(super) fn start_streams(&self, added: Vec<(Arc<Outlet>, Source)>, of_handler: bool) {
        if added.is_empty() {
            return;
        }
        let Some(this) = self.this.upgrade() else { return };
        for (outlet, source) in added {
            let context = of_handler
                .then(|| CallContext::new(self.peer.clone(), self.identity.clone(), None));
            self.runtime.spawn(produce(Arc::clone(&this), outlet, source, context));
        }
    }

    /// The message that announced these has been taken back.
    pub(super) fn withdraw_streams(&self, ids: std::ops::Range<u64>) {
        if ids.is_empty() {
            return;
        }
        let mut streams = lock(&self.streams);
        for id in ids {
            if let Some(outlet) = streams.outlets.remove(&id) {
                outlet.cancel();
            }
        }
    }

    /// Sends items from number `first` on; returns `false` if nobody takes them any more.
    pub(crate) fn send_items(
        &self,
        outlet: &Outlet,
        first: u64,
        items: impl ExactSizeIterator<Item = Content>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> bool {
        let last = first + len_u64(items.len()) - 1;
        let mut permit = Some(permit);
        let mut sent = true;
        self.send(|outbound| {
            for (number, item) in (first..).zip(items) {
                // The room they take up is free again when the last has left.
                let permit = if number == last { permit.take() } else { None };
                sent &= outbound.push_item(outlet.id, number, item, permit);
            }
            Ok(())
        });
        sent
    }

    /// Our stream has come to its end.
    pub(crate) fn end_stream(&self, outlet: &Outlet, end: Reply) {
        self.send(|outbound| {
            outbound.push_stream_end(outlet.id, end.status, end.content);
            Ok(())
        });
        lock(&self.streams).outlets.remove(&outlet.id);
    }

    pub(super) fn handle_stream_credit(
        &self,
        id: u64,
        items: u32,
        bytes: u64,
    ) -> Result<(), Error> {
        let outlet = lock(&self.streams).outlet(id)?.map(Arc::clone);
        // One that has ended: the credit crossed its end.
        let Some(outlet) = outlet else { return Ok(()) };
        outlet
            .credit(items, bytes)
            .map_err(|_| Error::Protocol("credit for more of a stream than was sent".to_owned()))
    }

    pub(super) fn handle_stream_cancel(&self, id: u64) -> Result<(), Error> {
        let mut streams = lock(&self.streams);
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

fn not_open() -> Error {
    Error::Protocol("a frame of a stream that is not open".to_owned())
}

/// The payload of a credit. [wire.stream.credit]
fn credit(items: u32, bytes: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(12);
    payload.put_u32(items);
    payload.put_u64(bytes);
    payload
}

#[cfg(test)]
mod tests {
    use super::{Streams, WINDOW_BYTES, credit};
    use crate::inlet::Inlet;
    use crate::message::StreamEntry;
    use std::sync::Arc;

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn stream_credit_is_frozen() {
        assert_eq!(credit(256, 1 << 20), [0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0]);
    }

    /// Windows share what there is, each has something, and all of it comes back.
    #[test]
    fn however_many_windows_stay_within_their_share() {
        const ALL: u64 = 128 << 20;
        let mut streams = Streams::new(ALL);
        let mut sum = 0;
        for id in 0..60_000 {
            let inlet = Inlet::new(StreamEntry { id, window: 0 });
            streams.inlets.insert(id, Arc::clone(&inlet));
            let bytes = streams.take_window();
            assert!((1..=WINDOW_BYTES).contains(&bytes));
            assert!(id > 25 || bytes == WINDOW_BYTES, "stream {id} has {bytes}");
            inlet.open(0, bytes);
            sum += bytes;
        }
        assert!(sum <= ALL / 2 + 60_000, "{sum}");
        for id in 0..60_000 {
            assert!(streams.remove_inlet(id).is_some());
        }
        assert_eq!((streams.free, streams.windows), (ALL / 2, 0));
    }
}
