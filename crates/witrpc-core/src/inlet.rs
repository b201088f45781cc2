//! The consuming end of a stream on a connection: what has come and has not been taken, and how much more may.
//!
//! # What is held
//!
//! An item that its window covers is on the window's account, which the connection bounds as a whole
//! ([`Streams`](crate::connection::Streams)), and no longer on that of the messages: so a stream that nobody reads holds
//! up nobody else. Only the one item that may exceed a window stays on the messages' account until it is taken.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use crate::connection::{Connection, lock};
use crate::error::{CloseReason, Error};
use crate::ledger::Charge;
use crate::message::{Content, StreamEntry};
use crate::outlet::{Allowance, signed};
use crate::serializer::Codec;
use crate::served::is_first_poll;
use crate::sink::Window;

/// Items that a producer may be ahead, unless one of the two sides says otherwise.
const WINDOW_ITEMS: u32 = 256;

/// What a connection knows of a stream that comes from its peer.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) id: u64,
    /// The largest window that the producer takes; 0 is any.
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Content, Charge)>,
    /// The number of the item that came last.
    last: u64,
    /// Known once the first credit has been given.
    window: Option<Window>,
    left: Allowance,
    /// What has been taken since credit was given.
    taken: (u32, u64),
    end: Option<End>,
    /// Nobody takes it any more; it stays in the table until the producer has ended it.
    cancelled: bool,
    waker: Option<Waker>,
}

/// How a stream has ended; the error is taken once.
#[derive(Debug)]
struct End(Option<Error>);

/// The producer broke a rule; the text says which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl Inlet {
    pub(crate) fn new(entry: StreamEntry) -> Arc<Self> {
        Arc::new(Self { id: entry.id, most: entry.window, state: Mutex::default() })
    }

    /// Takes an item in. [wire.stream.item]
    pub(crate) fn push(&self, number: u64, content: Content, charge: Charge) -> Result<(), Broken> {
        let mut state = lock(&self.state);
        if number != state.last + 1 {
            return Err(Broken("an item out of its order"));
        }
        if !state.left.is_left() {
            return Err(Broken("more of a stream than there was credit for"));
        }
        state.last = number;
        let size = content.size();
        let is_covered = signed(size) <= state.left.bytes;
        state.left.spend(size);
        if state.cancelled {
            return Ok(());
        }
        let charge = if is_covered { Charge::none() } else { charge };
        state.queue.push_back((content, charge));
        state.wake();
        Ok(())
    }

    /// Nothing follows what has come. Counts once.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.end = Some(End(error));
            state.wake();
        }
    }

    /// It ends with its connection.
    pub(crate) fn close(&self, reason: &CloseReason) {
        // That the call which made the stream was executed is certain; what became of the stream's items is not.
        self.end(Some(Error::Closed { reason: reason.clone(), maybe_executed: true }));
    }

    /// The bytes of its window.
    pub(crate) fn window_bytes(&self) -> Option<u64> {
        lock(&self.state).window.map(|window| window.bytes)
    }

    /// What a reader's take comes to: the credit to give back, and the item's number.
    #[cfg(test)]
    pub(crate) fn take_for_tests(&self) -> (Option<(u32, u64)>, u64) {
        let mut state = lock(&self.state);
        let (content, _charge) = state.queue.pop_front().expect("an item");
        let number = content.body()[..8].try_into().map(u64::from_le_bytes).expect("a number");
        (state.take_credit(content.size()), number)
    }

    /// What dropping a reader comes to.
    #[cfg(test)]
    pub(crate) fn drop_for_tests(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        state.queue.clear();
    }

    /// Opens it by its first credit, within `bytes`; returns that credit.
    pub(crate) fn open(&self, wanted: u32, bytes: u64) -> Window {
        let items = if wanted == 0 { WINDOW_ITEMS } else { wanted };
        let most = if self.most == 0 { u32::MAX } else { self.most };
        let window = Window { values: items.min(most), bytes };
        let mut state = lock(&self.state);
        state.left = Allowance::of(window);
        state.window = Some(window);
        window
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Notes that an item was taken; returns the credit to give back, if that is worth a frame.
    fn take_credit(&mut self, size: u64) -> Option<(u32, u64)> {
        let window = self.window?;
        self.taken.0 += 1;
        self.taken.1 += size;
        let due = self.taken.0 >= (window.values / 2).max(1) || self.taken.1 >= window.bytes / 2;
        if !due || self.end.is_some() {
            return None;
        }
        let (items, bytes) = std::mem::take(&mut self.taken);
        self.left.add(items, bytes);
        Some((items, bytes))
    }
}

/// What whoever reads the stream holds. Dropping it cancels the stream.
pub(crate) struct InletHandle {
    inlet: Arc<Inlet>,
    connection: Weak<Connection>,
    codec: Codec,
    /// Items that the reader wants the producer to be ahead; 0 if it does not say.
    wanted: u32,
    /// What must live as long as somebody reads: a client.
    keep: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for InletHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InletHandle").field("inlet", &self.inlet).finish_non_exhaustive()
    }
}

impl InletHandle {
    pub(crate) const fn new(inlet: Arc<Inlet>, connection: Weak<Connection>, codec: Codec) -> Self {
        Self { inlet, connection, codec, wanted: 0, keep: None }
    }

    pub(crate) const fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Has no effect once the stream has been polled.
    pub(crate) const fn set_window(&mut self, items: u32) {
        self.wanted = items;
    }

    /// Keeps this alive for as long as the stream is read.
    pub(crate) fn keep(&mut self, what: Arc<dyn Any + Send + Sync>) {
        self.keep = Some(what);
    }

    /// The next item; an error is the last but `None`.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Content, Error>>> {
        if let Some(next) = self.take() {
            return Poll::Ready(next);
        }
        if let Some(connection) = self.connection.upgrade() {
            connection.open_stream(&self.inlet, self.wanted);
            // Whoever polls a handler to see whether it is done at once does not wait for what comes later.
            if !is_first_poll() {
                connection.lead_for_stream(self.inlet.id);
            }
        } else {
            self.inlet.close(&CloseReason::Local);
        }
        if let Some(next) = self.take() {
            return Poll::Ready(next);
        }
        let mut state = lock(&self.inlet.state);
        if !state.queue.is_empty() || state.end.is_some() {
            // It came between the two looks.
            drop(state);
            return self.take().map_or(Poll::Pending, Poll::Ready);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What is there: an item, the end, or nothing yet.
    fn take(&self) -> Option<Option<Result<Content, Error>>> {
        let mut state = lock(&self.inlet.state);
        state.waker = None;
        let Some((content, charge)) = state.queue.pop_front() else {
            return state.end.as_mut().map(|end| end.0.take().map(Err));
        };
        let credit = state.take_credit(content.size());
        drop(state);
        drop(charge);
        if let Some((items, bytes)) = credit
            && let Some(connection) = self.connection.upgrade()
        {
            connection.grant(self.inlet.id, items, bytes);
        }
        Some(Some(Ok(content)))
    }
}

impl Drop for InletHandle {
    fn drop(&mut self) {
        let mut state = lock(&self.inlet.state);
        state.cancelled = true;
        let (queue, ended) = (std::mem::take(&mut state.queue), state.end.is_some());
        drop(state);
        drop(queue);
        if !ended && let Some(connection) = self.connection.upgrade() {
            connection.leave_cancel(self.inlet.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Broken, Inlet};
    use crate::ledger::{Charge, Ledger};
    use crate::message::{Content, StreamEntry};
    use std::sync::Arc;

    fn inlet(most: u32) -> Arc<Inlet> {
        Inlet::new(StreamEntry { id: 1, window: most })
    }

    fn push(inlet: &Inlet, number: u64, len: usize, charge: Charge) -> Result<(), Broken> {
        inlet.push(number, Content::plain(Vec::new(), &vec![0; len]), charge)
    }

    #[test]
    fn the_smaller_window_holds() {
        assert_eq!(inlet(0).open(0, 1).values, 256);
        assert_eq!(inlet(8).open(0, 1).values, 8);
        assert_eq!(inlet(8).open(4, 1).values, 4);
        assert_eq!(inlet(0).open(1000, 1).values, 1000);
    }

    #[test]
    fn nothing_comes_out_of_order_or_beyond_its_credit() {
        let unopened = inlet(0);
        assert!(push(&unopened, 1, 1, Charge::none()).is_err());
        let inlet = inlet(0);
        inlet.open(2, 100);
        assert!(push(&inlet, 2, 1, Charge::none()).is_err());
        assert_eq!(push(&inlet, 1, 1, Charge::none()), Ok(()));
        assert!(push(&inlet, 1, 1, Charge::none()).is_err());
        assert_eq!(push(&inlet, 2, 1, Charge::none()), Ok(()));
        assert!(push(&inlet, 3, 1, Charge::none()).is_err());
    }

    #[test]
    fn only_what_exceeds_its_window_stays_on_the_messages_account() {
        let ledger = Ledger::new(1);
        let charge = || {
            let mut charge = Charge::new(&ledger);
            charge.add(100);
            charge
        };
        let inlet = inlet(0);
        inlet.open(10, 150);
        assert_eq!(push(&inlet, 1, 100, charge()), Ok(()));
        assert_eq!(ledger.returnable(), 100);
        assert_eq!(push(&inlet, 2, 100, charge()), Ok(()));
        assert_eq!(ledger.returnable(), 100);
        assert!(push(&inlet, 3, 1, Charge::none()).is_err(), "the window is used up");
    }
}
