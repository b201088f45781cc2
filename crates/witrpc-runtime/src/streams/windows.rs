//! The bound on the windows of a connection's streams together. Each stream that is read takes a share, and keeps it for as long as
//! this side can hold items of the stream.

use std::sync::Arc;

use crate::locks::{Mutex, Rank};

/// The largest window, in bytes: enough to fill a ring, and small enough to stay in a CPU cache.
const MOST: u64 = 1 << 20;

/// The window of a stream for which no bytes are left: one item at a time, charged to the connection's account for messages.
const NOTHING: u64 = 1;

/// The window of a stream with one short item: a word, in any serializer.
const LITTLE: u64 = 64;

/// The window that a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// How many items the sender may be ahead; 0 is the default.
    Items(u32),
    /// There is only one item, a short one.
    OneItem,
}

/// The bytes that shares are taken from. Its lock is the innermost.
#[derive(Debug)]
pub(crate) struct Windows(Mutex<State>);

#[derive(Debug)]
struct State {
    all: u64,
    /// Bytes that are in no share.
    free: u64,
    /// The number of shares, but for little ones.
    shares: u64,
}

/// A stream's share, returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    bytes: u64,
    is_little: bool,
    of: Arc<Windows>,
}

impl Windows {
    /// Shares of so many bytes.
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Rank::Windows, State { all: bytes, free: bytes, shares: 0 })))
    }

    /// The bytes that are in shares.
    pub(crate) fn used(&self) -> u64 {
        let state = self.0.lock();
        state.all - state.free
    }

    /// Takes a share. The more shares there are, the smaller each new one is.
    pub(crate) fn take(self: &Arc<Self>) -> Share {
        let mut state = self.0.lock();
        let bytes = (state.free / (state.shares + 8)).min(MOST);
        let bytes = if bytes <= NOTHING { 0 } else { bytes };
        state.shares += 1;
        state.free -= bytes;
        Share { bytes, is_little: false, of: Arc::clone(self) }
    }

    /// Takes a share for one short item. It makes no other share noticeably smaller.
    pub(crate) fn take_little(self: &Arc<Self>) -> Share {
        let mut state = self.0.lock();
        let bytes = if state.free < LITTLE { 0 } else { LITTLE };
        state.free -= bytes;
        Share { bytes, is_little: true, of: Arc::clone(self) }
    }
}

impl Share {
    /// The size of the stream's window, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.max(NOTHING)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.0.lock();
        state.shares -= u64::from(!self.is_little);
        state.free += self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::MOST;
    use super::Windows;

    /// Shares stay within the bound, none is empty, and all bytes are returned.
    #[test]
    fn however_many_windows_stay_within_their_share() {
        const ALL: u64 = 128 << 20;
        let windows = Windows::new(ALL / 2);
        let mut shares = Vec::new();
        for number in 0..60_000 {
            let share = windows.take();
            assert!((1..=MOST).contains(&share.bytes()));
            assert!(number > 25 || share.bytes() == MOST, "{number} has {}", share.bytes());
            shares.push(share);
        }
        let sum = shares.iter().map(super::Share::bytes).sum::<u64>();
        assert!(sum <= ALL / 2 + 60_000, "{sum}");
        shares.extend((0..60_000).map(|_| windows.take_little()));
        let sum = shares.iter().map(super::Share::bytes).sum::<u64>();
        assert!(sum <= ALL / 2 + 120_000, "{sum}");
        drop(shares);
        let little: Vec<_> = (0..1000).map(|_| windows.take_little()).collect();
        assert_eq!(windows.take().bytes(), MOST, "they leave enough for others");
        drop(little);
        let state = windows.0.lock();
        assert_eq!((state.free, state.shares), (ALL / 2, 0));
    }
}
