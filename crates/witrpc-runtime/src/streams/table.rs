//! The table of a connection's open streams, in both directions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::{Held, Holdings};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::{CloseReason, Error};

use crate::locks::{Counted, CountedMutex, Mutex, Rank};
use crate::streams::receiver::StreamReceiver;
use crate::streams::sender::{QueueWaiters, StreamSender};
use crate::streams::windows::Windows;

/// The streams of a connection.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Its lock is the innermost; it is held for a lookup only.
    pub(super) table: CountedMutex<Table>,
    /// Ids of the peer's streams whose readers were dropped and that were not cancelled yet. Its lock may be taken with any other held.
    pub(super) unread: Mutex<Vec<u64>>,
    /// Whether `unread` has ids. The driver is woken after this was set, and so sees it.
    has_unread: AtomicBool,
    /// Our streams whose items wait for room in the sending queue.
    pub(super) queue_waiters: QueueWaiters,
}

impl Streams {
    /// An empty table. The windows of all streams together have so many bytes.
    pub(crate) fn new(windows: u64) -> Self {
        Self {
            table: CountedMutex::new(Rank::Streams, Table::new(windows)),
            unread: Mutex::new(Rank::Unread, Vec::new()),
            has_unread: AtomicBool::new(false),
            queue_waiters: QueueWaiters::default(),
        }
    }

    /// Ends all streams: the connection has ended.
    pub(crate) fn close(&self, reason: &CloseReason) {
        self.queue_waiters.close();
        self.table.lock().close(reason);
    }

    /// Whether any stream is open.
    pub(crate) fn are_busy(&self) -> bool {
        self.table.count() > 0
    }

    /// The number of the peer's streams that have not ended.
    pub(crate) fn read_count(&self) -> usize {
        self.table.lock().receiver_count()
    }

    /// The bytes of the windows of the peer's streams.
    pub(crate) fn windows_used(&self) -> u64 {
        let windows = Arc::clone(&self.table.lock().windows);
        windows.used()
    }

    /// Notes that a stream of the peer is not read any more.
    pub(super) fn note_unread(&self, id: u64) {
        let mut unread = self.unread.lock();
        unread.push(id);
        self.has_unread.store(true, Ordering::Relaxed);
    }

    /// Whether streams are to be cancelled.
    pub(crate) fn has_unread(&self) -> bool {
        self.has_unread.load(Ordering::Relaxed)
    }

    /// Takes the ids of the streams that are to be cancelled.
    pub(super) fn take_unread(&self) -> Vec<u64> {
        if !self.has_unread() {
            return Vec::new();
        }
        let mut unread = self.unread.lock();
        self.has_unread.store(false, Ordering::Relaxed);
        std::mem::take(&mut *unread)
    }

    /// The memory that the streams hold.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self, holdings: &mut Holdings) {
        self.table.lock().held(holdings);
        holdings.unread = Held::plain::<u64>(self.unread.lock().len());
    }
}

/// The streams of one connection that have not ended.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) receivers: HashMap<u64, Arc<StreamReceiver>>,
    pub(super) senders: HashMap<u64, Arc<StreamSender>>,
    /// Greater than the ids of all our streams so far.
    next: u64,
    /// The windows that the receivers share.
    pub(super) windows: Arc<Windows>,
    pub(super) closed: bool,
}

impl Counted for Table {
    #[inline]
    fn count(&self) -> usize {
        self.receivers.len() + self.senders.len()
    }
}

impl Table {
    /// An empty table. The windows of all streams together have so many bytes.
    pub(crate) fn new(windows: u64) -> Self {
        Self {
            receivers: HashMap::new(),
            senders: HashMap::new(),
            next: 0,
            windows: Windows::new(windows),
            closed: false,
        }
    }

    /// The number of the peer's streams that have not ended.
    pub(crate) fn receiver_count(&self) -> usize {
        self.receivers.len()
    }

    /// The memory that receivers and senders hold.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self, holdings: &mut Holdings) {
        for (charged, covered) in self.receivers.values().map(|receiver| receiver.held()) {
            holdings.charged_items += charged;
            holdings.items += covered;
        }
        // An `Arc` has two counters in front of its value.
        holdings.receivers = Held::plain::<(u64, StreamReceiver, [usize; 3])>(self.receivers.len());
        holdings.senders = Held::plain::<(u64, StreamSender, [usize; 3])>(self.senders.len());
        holdings.polled = self.senders.values().map(|sender| sender.polled()).sum();
    }

    pub(super) fn add_senders(
        &mut self,
        opened: Vec<(u64, OutgoingStream)>,
    ) -> Vec<(Arc<StreamSender>, OutgoingStream)> {
        let mut added = Vec::with_capacity(opened.len());
        for (id, source) in opened {
            let sender = StreamSender::new(id, &source);
            self.next = id + 1;
            if self.closed {
                sender.cancel();
            } else {
                self.senders.insert(id, Arc::clone(&sender));
            }
            added.push((sender, source));
        }
        added
    }

    /// The sender with this id; `None` if its stream has ended.
    pub(super) fn sender(&self, id: u64) -> Result<Option<&Arc<StreamSender>>, Error> {
        if id >= self.next {
            return Err(Error::Protocol("a frame of a stream that never existed".to_owned()));
        }
        Ok(self.senders.get(&id))
    }

    /// Ends all streams: the connection has ended.
    pub(crate) fn close(&mut self, reason: &CloseReason) {
        self.closed = true;
        self.receivers.drain().for_each(|(_, receiver)| receiver.close(reason));
        self.senders.drain().for_each(|(_, sender)| sender.cancel());
    }
}
