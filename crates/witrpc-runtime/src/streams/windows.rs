//! What the windows of a connection's streams may have together: a stream that is read takes a share of it, for as long as
//! anything of the stream can be held here.

use std::sync::{Arc, Mutex};

use crate::link::sync::lock;

/// The most bytes that a producer may be ahead: as much as fills a ring, and no more than a cache likes.
const MOST: u64 = 1 << 20;

/// The share of a stream for which nothing is left: one item at a time, on the messages' account.
const NOTHING: u64 = 1;

/// The account. Its lock is taken last of all.
#[derive(Debug)]
pub(crate) struct Windows(Mutex<State>);

#[derive(Debug)]
struct State {
    /// What no share has.
    free: u64,
    /// Shares that there are.
    shares: u64,
}

/// A stream's share, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: u64,
    of: Arc<Windows>,
}

impl Windows {
    /// Windows that have half of `max_buffered` together.
    pub(crate) fn new(max_buffered: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: max_buffered / 2, shares: 0 })))
    }

    /// One share more: the more there are, the less each has.
    pub(crate) fn take(self: &Arc<Self>) -> Share {
        let mut state = lock(&self.0);
        let bytes = (state.free / (state.shares + 8)).min(MOST);
        let bytes = if bytes <= NOTHING { 0 } else { bytes };
        state.shares += 1;
        state.free -= bytes;
        Share { bytes, of: Arc::clone(self) }
    }
}

impl Share {
    /// Bytes that its window may have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.max(NOTHING)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = lock(&self.of.0);
        state.shares -= 1;
        state.free += self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::MOST;
    use super::Windows;
    use super::lock;

    /// Windows share what there is, each has something, and all of it comes back.
    #[test]
    fn however_many_windows_stay_within_their_share() {
        const ALL: u64 = 128 << 20;
        let windows = Windows::new(ALL);
        let mut shares = Vec::new();
        for number in 0..60_000 {
            let share = windows.take();
            assert!((1..=MOST).contains(&share.bytes()));
            assert!(number > 25 || share.bytes() == MOST, "{number} has {}", share.bytes());
            shares.push(share);
        }
        let sum = shares.iter().map(super::Share::bytes).sum::<u64>();
        assert!(sum <= ALL / 2 + 60_000, "{sum}");
        drop(shares);
        let state = lock(&windows.0);
        assert_eq!((state.free, state.shares), (ALL / 2, 0));
    }
}
