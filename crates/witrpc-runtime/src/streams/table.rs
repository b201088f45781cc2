//! Which streams a connection has, in both directions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::{Held, Holdings};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::{CloseReason, Error};

use crate::link::sync::lock;
use crate::streams::inlet::Inlet;
use crate::streams::outlet::{Crowd, Outlet};
use crate::streams::windows::Windows;

/// A connection's part for streams.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Taken last of all; nothing is done under it but a look at the table.
    pub(super) table: Mutex<Table>,
    /// Streams of the peer's that were dropped here, and of which it has not been told. Taken with any lock held.
    pub(super) unread: Mutex<Vec<u64>>,
    /// Whether there are such. Whoever sets it wakes the driver afterwards, which so sees it.
    has_unread: AtomicBool,
    /// Those of our streams whose items wait for room in the sending queue.
    pub(super) crowd: Crowd,
}

impl Streams {
    /// Streams whose windows have half of `max_buffered` together.
    pub(crate) fn new(max_buffered: u64) -> Self {
        Self {
            table: Mutex::new(Table::new(max_buffered)),
            unread: Mutex::default(),
            has_unread: AtomicBool::new(false),
            crowd: Crowd::default(),
        }
    }

    /// Ends all, with their connection.
    pub(crate) fn close(&self, reason: &CloseReason) {
        self.crowd.close();
        lock(&self.table).close(reason);
    }

    /// Whether any stream is open.
    pub(crate) fn are_busy(&self) -> bool {
        lock(&self.table).is_busy()
    }

    /// Streams of the peer's that have not ended.
    pub(crate) fn read_count(&self) -> usize {
        lock(&self.table).inlet_count()
    }

    /// Notes that nobody reads a stream of the peer's any more.
    pub(super) fn note_unread(&self, id: u64) {
        let mut unread = lock(&self.unread);
        unread.push(id);
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Streams that nobody reads, which the peer is told now.
    pub(super) fn take_unread(&self) -> Vec<u64> {
        if !self.has_unread.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut unread = lock(&self.unread);
        self.has_unread.store(false, Ordering::Relaxed);
        std::mem::take(&mut *unread)
    }

    /// What is held of them.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self, holdings: &mut Holdings) {
        lock(&self.table).held(holdings);
        holdings.unread = Held::plain::<u64>(lock(&self.unread).len());
    }
}

/// The streams of one connection that have not ended.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) inlets: HashMap<u64, Arc<Inlet>>,
    pub(super) outlets: HashMap<u64, Arc<Outlet>>,
    /// Above all ids of our own.
    next: u64,
    /// What those that are read share.
    pub(super) windows: Arc<Windows>,
    pub(super) closed: bool,
}

impl Table {
    /// Streams whose windows have half of `max_buffered` together.
    pub(crate) fn new(max_buffered: u64) -> Self {
        Self {
            inlets: HashMap::new(),
            outlets: HashMap::new(),
            next: 0,
            windows: Windows::new(max_buffered),
            closed: false,
        }
    }

    /// Streams of the peer's that have not ended.
    pub(crate) fn inlet_count(&self) -> usize {
        self.inlets.len()
    }

    /// What is held of them: of those that are read here, and of those that are written.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self, holdings: &mut Holdings) {
        for (charged, covered) in self.inlets.values().map(|inlet| inlet.held()) {
            holdings.charged_items += charged;
            holdings.items += covered;
        }
        // An `Arc` has two counts in front.
        holdings.inlets = Held::plain::<(u64, Inlet, [usize; 3])>(self.inlets.len());
        holdings.outlets = Held::plain::<(u64, Outlet, [usize; 3])>(self.outlets.len());
        holdings.polled = self.outlets.values().map(|outlet| outlet.polled()).sum();
    }

    /// Whether any stream is open.
    pub(crate) fn is_busy(&self) -> bool {
        !(self.inlets.is_empty() && self.outlets.is_empty())
    }

    pub(super) fn add_outlets(
        &mut self,
        opened: Vec<(u64, OutgoingStream)>,
    ) -> Vec<(Arc<Outlet>, OutgoingStream)> {
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
    pub(super) fn outlet(&self, id: u64) -> Result<Option<&Arc<Outlet>>, Error> {
        if id >= self.next {
            return Err(Error::Protocol("a word about a stream that never was".to_owned()));
        }
        Ok(self.outlets.get(&id))
    }

    /// Ends all, with their connection.
    pub(crate) fn close(&mut self, reason: &CloseReason) {
        self.closed = true;
        self.inlets.drain().for_each(|(_, inlet)| inlet.close(reason));
        self.outlets.drain().for_each(|(_, outlet)| outlet.cancel());
    }
}
