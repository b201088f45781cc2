//! Flow control windows: how far a sender may run ahead of its receiver, and what is left of that.

use crate::wire::fields::{len_u64, u32_len};

/// What a value costs in addition to its size, for the bound in bytes. [wire.event.ack]
pub const VALUE_COST: u64 = 64;

/// How far a subscriber lets the raising side run ahead. [wire.subscribe]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Values, at least one.
    pub values: u32,
    /// Bytes, at least one; the value that reaches it is still sent, however large.
    pub bytes: u64,
}

impl Window {
    /// Whether one more value may be sent, while this many values and bytes are in flight.
    #[inline]
    pub fn is_open(self, values: usize, bytes: u64) -> bool {
        values < u32_len(self.values) && bytes < self.bytes
    }

    /// Whether the subscriber accepts one more value that must be sent before something else. [wire.event.ack]
    #[inline]
    pub fn takes(self, values: usize, bytes: u64) -> bool {
        let cost = len_u64(values).saturating_mul(VALUE_COST).saturating_add(bytes);
        let most = u64::from(self.values).saturating_mul(VALUE_COST);
        self.is_open(values, bytes) || cost < self.bytes.saturating_mul(2).saturating_add(most)
    }
}

/// How much more of a stream may be sent, or may arrive. Bytes may become negative by one item.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    pub items: u32,
    pub bytes: i64,
}

impl Allowance {
    #[inline]
    pub fn of(window: Window) -> Self {
        Self { items: window.values, bytes: signed(window.bytes) }
    }

    /// Whether one more item of any size may be sent. [wire.stream.credit]
    #[inline]
    pub const fn is_left(self) -> bool {
        self.items > 0 && self.bytes > 0
    }

    #[inline]
    pub fn spend(&mut self, size: u64) {
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(signed(size));
    }

    #[inline]
    pub fn add(&mut self, items: u32, bytes: u64) {
        self.items = self.items.saturating_add(items);
        self.bytes = self.bytes.saturating_add(signed(bytes));
    }
}

/// A number of bytes that can be taken from.
#[inline]
pub fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
