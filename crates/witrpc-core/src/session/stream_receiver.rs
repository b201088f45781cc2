//! The receiving end of a stream: what has come and has not been taken, and how much more may.
//!
//! An item that its window covers is on the window's account, which the connection bounds as a whole, and no longer on that
//! of the messages: so a stream that nobody reads holds up nobody else. Only the one item that may exceed a window stays on the
//! messages' account until it is taken.

use std::collections::VecDeque;

use crate::error::Error;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::{self, Held};
use crate::session::ledger::Charge;
use crate::session::window::{Allowance, Window, signed};
use crate::values::content::Content;

/// Items that a sender may be ahead, unless one of the two sides says otherwise.
const WINDOW_ITEMS: u32 = 256;
/// What an item takes in memory beside its size, about: so many bytes of a window it takes for each item that it allows.
const ITEM_COST: u64 = 128;

/// A stream that comes from the peer.
#[derive(Debug)]
pub struct StreamReceiver {
    /// The largest window that the sender takes; 0 is any.
    most: u32,
    queue: VecDeque<(Content, Charge)>,
    /// The number of the item that came last.
    last: u64,
    /// Known once the first credit has been given.
    window: Option<Window>,
    left: Allowance,
    /// What has been taken since credit was given.
    taken: (u32, u64),
    end: Option<End>,
    /// Nobody takes it any more; it stays in the table until the sender has ended it.
    cancelled: bool,
}

/// How a stream has ended; the error is taken once.
#[derive(Debug)]
struct End(Option<Error>);

/// The sender broke a rule; the text says which.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// What a reader gets of a stream.
#[derive(Debug)]
pub enum Next {
    /// An item, its place on the messages' account, and the credit to give back, if that is worth a frame.
    Item(Content, Charge, Option<(u32, u64)>),
    /// Its end. An error is told once.
    End(Option<Error>),
}

impl StreamReceiver {
    /// A stream whose sender lets its reader be so many items behind; 0 if it does not say.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            queue: VecDeque::new(),
            last: 0,
            window: None,
            left: Allowance::default(),
            taken: (0, 0),
            end: None,
            cancelled: false,
        }
    }

    /// Takes an item in; it comes back if nobody reads the stream any more. [wire.stream.item]
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
            return Err(Broken("an item out of its order"));
        }
        if !self.left.is_left() {
            return Err(Broken("more of a stream than there was credit for"));
        }
        self.last = number;
        let size = content.size();
        let is_covered = signed(size) <= self.left.bytes;
        self.left.spend(size);
        if self.cancelled {
            return Ok(Some((content, charge)));
        }
        let charge = if is_covered { Charge::none() } else { charge };
        self.queue.push_back((content, charge));
        Ok(None)
    }

    /// Nothing follows what has come. Counts once; returns whether it does.
    pub fn end(&mut self, error: Option<Error>) -> bool {
        let is_first = self.end.is_none();
        if is_first {
            self.end = Some(End(error));
        }
        is_first
    }

    /// Opens it by its first credit, within `bytes`; returns that credit. [wire.stream.credit]
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

    /// Whether it has ended; what has come may still be there.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether there is anything to take.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.has_ended()
    }

    /// Whether nothing is held, and nothing can come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_empty() && (self.has_ended() || self.cancelled)
    }

    /// What is there: an item, the end, or nothing yet.
    pub fn take(&mut self) -> Option<Next> {
        if let Some((content, charge)) = self.queue.pop_front() {
            let credit = self.take_credit(content.size());
            return Some(Next::Item(content, charge, credit));
        }
        self.end.as_mut().map(|end| Next::End(end.0.take()))
    }

    /// Notes that an item was taken; returns the credit to give back, if that is worth a frame.
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

    /// Nobody reads it any more; returns what was not taken, for the caller to drop.
    pub fn cancel(&mut self) -> VecDeque<(Content, Charge)> {
        self.cancelled = true;
        std::mem::take(&mut self.queue)
    }

    /// Items on the messages' account, and on the window's.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    #[must_use]
    pub fn held(&self) -> (Held, Held) {
        let (mut charged, mut covered) = (Held::default(), Held::default());
        for (content, charge) in &self.queue {
            let mut held = content.held();
            held.memory += held::bytes::<Charge>(1);
            *(if charge.bytes() > 0 { &mut charged } else { &mut covered }) += held;
        }
        (charged, covered)
    }
}

#[cfg(test)]
mod tests {
    use super::{Broken, StreamReceiver};
    use crate::session::ledger::{Charge, Ledger};
    use crate::values::content::Content;

    fn stream(most: u32) -> StreamReceiver {
        StreamReceiver::new(most)
    }

    fn push(
        stream: &mut StreamReceiver,
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

    /// What an item takes in memory beside its bytes uses its window up, too.
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
        let ledger = Ledger::new(1);
        let charge = || {
            let mut charge = Charge::new(&ledger);
            charge.add(100);
            charge
        };
        let mut stream = stream(0);
        stream.open(10, 1500);
        assert_eq!(push(&mut stream, 1, 1000, charge()), Ok(()));
        assert_eq!(ledger.returnable(), 100);
        assert_eq!(push(&mut stream, 2, 1000, charge()), Ok(()));
        assert_eq!(ledger.returnable(), 100);
        assert!(push(&mut stream, 3, 1, Charge::none()).is_err(), "the window is used up");
    }
}
