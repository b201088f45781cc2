//! The receiving end of a stream: items that have arrived and were not taken, and the credit for more.
//!
//! An item that the window covers is charged to the window, and no longer to the connection's credit for items. The connection
//! bounds all windows together. Only by how much the items of a stream exceed its window, which one item may do, is held of the credit until
//! they are taken. No call takes credit of this kind. So a stream that is not read blocks no call, and another stream only if unread items
//! exceed their windows by much.

use std::collections::VecDeque;

use crate::error::Error;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::session::ledger::Charge;
use crate::session::window::{Allowance, Window};
use crate::values::content::Content;

/// The default window, in items, unless either side sets another.
const WINDOW_ITEMS: u32 = 256;
/// About what an item takes in memory in addition to its size. A window has one item for each of these bytes.
const ITEM_COST: u64 = 128;

/// The state of a stream that the peer sends.
#[derive(Debug)]
pub struct ReceiverState {
    /// The largest window, in items, that the sender allows; 0 is no limit.
    most: u32,
    queue: VecDeque<Content>,
    /// The sum of the sizes of the queue, and the charge for what exceeds the window.
    unread: u64,
    beyond: Charge,
    /// The number of the item that arrived last.
    last: u64,
    /// `None` until the first credit.
    window: Option<Window>,
    left: Allowance,
    /// Items and bytes that were taken since the last credit.
    taken: (u32, u64),
    end: Option<End>,
    /// The reader is gone. The stream stays in the table until the sender has ended it.
    cancelled: bool,
}

/// How a stream has ended; the error is taken once.
#[derive(Debug)]
struct End(Option<Error>);

/// The sender broke the rule that the text names.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// What a reader takes from a stream.
#[derive(Debug)]
pub enum Next {
    /// An item, and the credit to return, if it is enough for a frame.
    Item(Content, Option<(u32, u64)>),
    /// The end of the stream. An error is returned once.
    End(Option<Error>),
}

impl ReceiverState {
    /// A stream whose sender allows a window of at most `most` items; 0 is no limit.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            queue: VecDeque::new(),
            unread: 0,
            beyond: Charge::none(),
            last: 0,
            window: None,
            left: Allowance::default(),
            taken: (0, 0),
            end: None,
            cancelled: false,
        }
    }

    /// Stores an item. Returns the item if the stream is not read any more. [wire.stream.item]
    ///
    /// # Errors
    ///
    /// The sender broke a rule.
    pub fn push(
        &mut self,
        number: u64,
        content: Content,
        charge: Charge,
    ) -> Result<Option<(Content, Charge)>, Broken> {
        if number != self.last + 1 {
            return Err(Broken("a stream item out of order"));
        }
        if !self.left.is_left() {
            return Err(Broken("more of a stream than the credit allows"));
        }
        self.last = number;
        let size = content.size();
        self.left.spend(size);
        if self.cancelled {
            return Ok(Some((content, charge)));
        }
        self.queue.push_back(content);
        self.unread += size;
        self.beyond.absorb(charge);
        self.release_what_is_covered();
        Ok(None)
    }

    fn release_what_is_covered(&mut self) {
        let window = self.window.map_or(0, |window| window.bytes);
        self.beyond.reduce_to(self.unread.saturating_sub(window));
    }

    /// Ends the stream. Returns whether this was the first call; later ones have no effect.
    pub fn end(&mut self, error: Option<Error>) -> bool {
        let is_first = self.end.is_none();
        if is_first {
            self.end = Some(End(error));
        }
        is_first
    }

    /// Grants the first credit, at most `bytes`; returns it. [wire.stream.credit]
    pub fn open(&mut self, wanted: u32, bytes: u64) -> Window {
        let items = if wanted == 0 { WINDOW_ITEMS } else { wanted };
        let most = if self.most == 0 { u32::MAX } else { self.most };
        let most = most.min(u32::try_from(bytes / ITEM_COST).unwrap_or(u32::MAX).max(1));
        let window = Window { values: items.min(most), bytes };
        self.left = Allowance::of(window);
        self.window = Some(window);
        window
    }

    /// Whether its first credit has been given.
    #[must_use]
    pub const fn is_opened(&self) -> bool {
        self.window.is_some()
    }

    /// Whether the stream has ended; items may still be waiting.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether there is anything to take.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.has_ended()
    }

    /// Whether no item is held and none can arrive.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_empty() && (self.has_ended() || self.cancelled)
    }

    /// Takes the next item, or the end; `None` if neither has arrived.
    pub fn take(&mut self) -> Option<Next> {
        if let Some(content) = self.queue.pop_front() {
            self.unread -= content.size();
            self.release_what_is_covered();
            let credit = self.take_credit(content.size());
            return Some(Next::Item(content, credit));
        }
        self.end.as_mut().map(|end| Next::End(end.0.take()))
    }

    /// Notes that an item was taken. Returns the credit to send, if it is enough for a frame.
    fn take_credit(&mut self, size: u64) -> Option<(u32, u64)> {
        let window = self.window?;
        self.taken.0 += 1;
        self.taken.1 += size;
        let due = self.taken.0 >= (window.values / 2).max(1) || self.taken.1 >= window.bytes / 2;
        if !due || self.has_ended() {
            return None;
        }
        let (items, bytes) = std::mem::take(&mut self.taken);
        self.left.add(items, bytes);
        Some((items, bytes))
    }

    /// Notes that the reader is gone. Returns the items that were not taken, for the caller to drop.
    pub fn cancel(&mut self) -> VecDeque<Content> {
        self.cancelled = true;
        self.unread = 0;
        self.beyond.reduce_to(0);
        std::mem::take(&mut self.queue)
    }

    /// The part of the items that is charged to the credit for items, and the part that the window covers.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    #[must_use]
    pub fn held(&self) -> (Held, Held) {
        let mut covered = self.queue.iter().map(Content::held).sum::<Held>();
        let beyond = self.beyond.bytes();
        // As for all messages: an item takes at most twice its size.
        let memory = covered.memory.min(2 * beyond);
        covered.size -= beyond;
        covered.memory -= memory;
        (Held { entries: 0, size: beyond, memory }, covered)
    }
}

#[cfg(test)]
mod tests {
    use super::{Broken, Next, ReceiverState};
    use crate::limits::{POOLS, Pool};
    use crate::session::ledger::{Charge, Ledger};
    use crate::values::content::Content;

    fn stream(most: u32) -> ReceiverState {
        ReceiverState::new(most)
    }

    fn push(
        stream: &mut ReceiverState,
        number: u64,
        len: usize,
        charge: Charge,
    ) -> Result<(), Broken> {
        stream.push(number, Content::plain(Vec::new(), &vec![0; len]), charge).map(drop)
    }

    #[test]
    fn the_smaller_window_holds() {
        const BYTES: u64 = 1 << 20;
        assert_eq!(stream(0).open(0, BYTES).values, 256);
        assert_eq!(stream(8).open(0, BYTES).values, 8);
        assert_eq!(stream(8).open(4, BYTES).values, 4);
        assert_eq!(stream(0).open(1000, BYTES).values, 1000);
        assert_eq!(stream(0).open(0, 1000).values, 7, "each takes some bytes beside its own");
        assert_eq!(stream(0).open(u32::MAX, 1).values, 1);
    }

    #[test]
    fn nothing_comes_out_of_order_or_beyond_its_credit() {
        assert!(push(&mut stream(0), 1, 1, Charge::none()).is_err());
        let mut stream = stream(0);
        stream.open(2, 1000);
        assert!(push(&mut stream, 2, 1, Charge::none()).is_err());
        assert_eq!(push(&mut stream, 1, 1, Charge::none()), Ok(()));
        assert!(push(&mut stream, 1, 1, Charge::none()).is_err());
        assert_eq!(push(&mut stream, 2, 1, Charge::none()), Ok(()));
        assert!(push(&mut stream, 3, 1, Charge::none()).is_err());
    }

    /// What an item takes in memory in addition to its bytes uses its window, too.
    #[test]
    fn empty_blobs_use_up_the_window() {
        let mut stream = stream(0);
        stream.open(100, 10_000);
        let item = || {
            let mut content = Content::plain(Vec::new(), b"1");
            content.set_blobs(1, vec![bytes::Bytes::new(); 100]);
            content
        };
        assert!(stream.push(1, item(), Charge::none()).is_ok());
        assert!(stream.push(2, item(), Charge::none()).is_ok());
        let third = stream.push(3, item(), Charge::none());
        assert!(third.is_err(), "{} bytes each", item().size());
    }

    #[test]
    fn only_what_exceeds_its_window_stays_on_the_messages_account() {
        let ledger = Ledger::new([1; POOLS]);
        let charge = || {
            let mut charge = Charge::new(&ledger, Pool::Items);
            charge.add(1000);
            charge
        };
        let mut stream = stream(0);
        stream.open(20, 1500);
        assert_eq!(push(&mut stream, 1, 1000, charge()), Ok(()));
        assert_eq!(ledger.returnable(Pool::Items), 1000);
        assert_eq!(push(&mut stream, 2, 1000, charge()), Ok(()));
        assert_eq!(ledger.returnable(Pool::Items), 1500);
        assert!(push(&mut stream, 3, 1, Charge::none()).is_err(), "the window is used up");
        // One is taken; the next one exceeds the window by as much as the one before.
        assert!(matches!(stream.take(), Some(Next::Item(_, Some((1, 1000))))));
        assert_eq!(ledger.returnable(Pool::Items), 2000);
        assert_eq!(push(&mut stream, 3, 1000, charge()), Ok(()));
        assert_eq!(ledger.returnable(Pool::Items), 2500);
        assert_eq!(stream.cancel().len(), 2);
        assert_eq!(ledger.returnable(Pool::Items), 3000);
    }
}
