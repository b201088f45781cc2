//! One direction of a connection: length-prefixed records in a ring of bytes that two processes share.
//!
//! [`Producer`] and [`Consumer`] of one ring live in different processes; each side of a connection holds one of
//! each. Neither is `Clone`. The peer is not trusted: everything that it publishes is range-checked before use. This
//! module does not sleep and makes no system call: it returns whether the peer must be woken, and `channel` notifies it.
//!
//! # Invariants
//!
//! - **R1** `head <= tail <= head + capacity`, as counts of bytes that never wrap in practice (2^64 bytes at 10 GiB/s
//!   take fifty years), all multiples of 8.
//! - **R2** Bytes in `head .. tail` belong to the consumer, all others to the producer. Ownership moves only with a
//!   release store of a cursor, and only after the bytes were written or copied out.
//! - **R3** A side's own cursor lives in private memory; the shared copy is written, never read.
//! - **R4** The peer's cursor only moves forward, and never past our own.
//! - **R5** A sleeper announces what it waits for, fences, and checks again before it sleeps. Its peer publishes, fences, and reads the
//!   announcement. In any order, at least one of the two sees the other's store. `[seg.sleep.protocol]`
//! - **R6** At most [`held_back`] bytes are consumed and not released, and no producer ever waits for more than the rest.
//!
//! # The sleep protocol
//!
//! ```text
//!  consumer                                  producer
//!  1  ring_for.store(n, Relaxed)             1  tail.store(new, Release)
//!  2  fence(SeqCst)              ◄──────►    2  fence(SeqCst)
//!  3  record n there ? stay                  3  ring_for.load(Relaxed) among the records just published ?
//!  4  sleep                                  4    notify
//! ```
//!
//! The consumer announces a record number and not a state. So it may do that long before it sleeps: while it polls for record `n - 1`, and
//! has nothing else to do. When that record arrives, the consumer is armed for the next one already. A notification does not have to
//! clear the announcement, because the publish that makes record `n` visible happens once.
//!
//! A producer that waits for room announces a head in the same way (`wake_at`), which the consumer clears before it notifies. If
//! it clears late, after the producer has announced a head once more, no wake-up is lost: the notification that follows ends the
//! later sleep.

use crate::layout::{RECORD_HEADER, record_size};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(any(test, loom))]
#[expect(unsafe_code, reason = "cells that two threads share, as processes share a mapping")]
mod heap;
#[cfg(test)]
mod loom;
#[cfg(test)]
mod tests;

/// The `ring_for` of a consumer that is awake, as records are counted from 1. `[seg.line.ring_for]`
/// Also the `wake_at` of a producer that is awake, as a head that frees space is not 0. `[seg.line.wake_at]`
const AWAKE: u64 = 0;

/// A rule of the ring that the peer broke, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// The memory that a ring lies in: mapped, or on the heap for tests and for loom.
///
/// The copies are of ranges that do not wrap; implementations panic rather than leave the ring.
pub(crate) trait Memory: Send + 'static {
    fn tail(&self) -> &AtomicU64;
    fn producer_cpu(&self) -> &AtomicU32;
    fn ring_for(&self) -> &AtomicU64;
    fn head(&self) -> &AtomicU64;
    fn wake_at(&self) -> &AtomicU64;

    /// Copies `bytes` to the ring's bytes from `at` on. The caller owns them (R2).
    fn copy_in(&self, at: usize, bytes: &[u8]);

    /// Copies from the ring's bytes from `at` on. The caller owns them (R2).
    fn copy_out(&self, at: usize, bytes: &mut [u8]);

    /// Appends the ring's bytes `at .. at + len` to `out`. The caller owns them (R2).
    fn append_to(&self, at: usize, len: usize, out: &mut Vec<u8>);

    /// Has the processor fetch the lines of a short record at `at`. A hint, which reads nothing.
    #[inline]
    fn prefetch(&self, at: usize) {
        let _ = at;
    }

    /// The fence between an announcement and the check after it. A method so that a test can leave it out.
    #[inline]
    fn fence_sleeper(&self) {
        fence(Ordering::SeqCst);
    }

    /// The fence between publishing and reading the announcement. A method so that a test can leave it out.
    #[inline]
    fn fence_notifier(&self) {
        fence(Ordering::SeqCst);
    }
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Producer<M> {
    memory: M,
    /// Bytes of the ring; a multiple of 8.
    capacity: usize,
    /// The longest record, `record_size(max_record) <= capacity`.
    max_record: usize,
    /// Bytes appended so far (R3).
    tail: u64,
    /// Of these, the bytes that the peer may see: `published <= tail`.
    published: u64,
    /// Records appended so far.
    appended: u64,
    /// Of these, the records that the peer may see.
    visible: u64,
    /// The newest checked head of the peer; it may have moved on since. `head <= published`.
    head: u64,
    /// `tail` modulo `capacity`, kept so that nothing divides.
    offset: usize,
    /// The head of the last announcement, whether or not the peer has notified us since.
    asked: u64,
}

impl<M: Memory> Producer<M> {
    /// The producer of a ring that is all zero.
    pub(crate) const fn new(memory: M, capacity: usize, max_record: usize) -> Self {
        Self {
            memory,
            capacity,
            max_record,
            tail: 0,
            published: 0,
            appended: 0,
            visible: 0,
            head: 0,
            offset: 0,
            asked: AWAKE,
        }
    }

    /// Appends `head` and `body` as one record if that leaves `spare` bytes free, or leaves the ring untouched.
    #[inline]
    pub(crate) fn try_push(
        &mut self,
        head: &[u8],
        body: &[u8],
        spare: usize,
    ) -> Result<bool, Corrupt> {
        let len = head.len().saturating_add(body.len());
        let Some(length) = u32::try_from(len).ok().filter(|_| len <= self.max_record) else {
            return Ok(false);
        };
        let size = record_size(len);
        if !self.has_space(size.saturating_add(spare))? {
            return Ok(false);
        }
        // [seg.ring.record] The header lies at a multiple of 8, as does the ring's end: it never wraps.
        self.memory.copy_in(self.offset, &u64::from(length).to_le_bytes());
        let at = self.step(self.offset, RECORD_HEADER);
        self.copy_in(at, head);
        self.copy_in(self.step(at, head.len()), body);
        self.offset = self.step(self.offset, size);
        self.tail += size as u64;
        self.appended += 1;
        Ok(true)
    }

    /// Whether a record of `len` bytes would be appended with `spare`.
    #[inline]
    pub(crate) fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, Corrupt> {
        Ok(len <= self.max_record && self.has_space(record_size(len).saturating_add(spare))?)
    }

    /// Makes all appended records visible. Returns whether the peer must be notified. `cpu` is the number of our CPU plus one, or 0 if it is
    /// unknown.
    #[inline]
    #[must_use]
    pub(crate) fn publish(&mut self, cpu: u32) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.published = self.tail;
        let before = std::mem::replace(&mut self.visible, self.appended);
        self.memory.producer_cpu().store(cpu, Ordering::Relaxed); // a hint: [seg.line.cpu]
        // PUBLISH(tail): pairs with OBSERVE(tail) in `Consumer::refresh_tail`.
        self.memory.tail().store(self.tail, Ordering::Release);
        self.memory.fence_notifier(); // R5
        // Untrusted, and harmless: a wrong number costs the peer its own wake-ups, or us a needless notification.
        let ring_for = self.memory.ring_for().load(Ordering::Relaxed);
        before < ring_for && ring_for <= self.visible
    }

    /// Asks the peer to notify us once a record of `len` bytes fits with `spare`, and a quarter of the ring is free.
    /// Returns `true`, and asks for nothing more, if it fits already. Everything must have been published.
    /// `[seg.sleep.space]`
    ///
    /// A quarter, because otherwise each record would cost a wake-up. No wake-up is lost by that: the consumer empties the ring independent of
    /// the producer, so it reaches any head up to the published tail except for what it holds back (R6), and a quarter is less than the
    /// rest. Nor by a later, larger request: while an announced head was not reached, the smaller one stays.
    pub(crate) fn arm(&mut self, len: usize, spare: usize) -> Result<bool, Corrupt> {
        debug_assert!(self.published == self.tail, "the peer cannot free what it cannot see");
        let need = record_size(len).saturating_add(spare);
        debug_assert!(
            need <= self.capacity - held_back(self.capacity),
            "no wait can make this fit"
        );
        if self.has_space(need)? {
            return Ok(true);
        }
        // `has_space` has just refreshed `head`, and there is less room than `need`: neither subtraction wraps.
        let room = need.max(self.capacity / 4).min(self.capacity);
        let mut wake_at = self.tail - (self.capacity - room) as u64;
        if self.asked > self.head {
            wake_at = wake_at.min(self.asked);
        }
        self.asked = wake_at;
        self.memory.wake_at().store(wake_at, Ordering::Relaxed);
        self.memory.fence_sleeper(); // R5
        self.refresh_head()?;
        if self.free() < need {
            return Ok(false);
        }
        self.asked = AWAKE;
        self.memory.wake_at().store(AWAKE, Ordering::Relaxed);
        Ok(true)
    }

    /// Revokes [`arm`](Self::arm), unless the peer has seen it already.
    pub(crate) fn disarm(&mut self) {
        if self.asked != AWAKE {
            self.asked = AWAKE;
            self.memory.wake_at().store(AWAKE, Ordering::Relaxed);
        }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) const fn max_record(&self) -> usize {
        self.max_record
    }

    #[inline]
    fn has_space(&mut self, need: usize) -> Result<bool, Corrupt> {
        if self.free() >= need {
            return Ok(true); // Possibly more, if the peer has moved on.
        }
        self.refresh_head()?;
        Ok(self.free() >= need)
    }

    const fn free(&self) -> usize {
        self.capacity - distance(self.head, self.tail)
    }

    fn refresh_head(&mut self) -> Result<(), Corrupt> {
        // OBSERVE(head): pairs with PUBLISH(head) in `Consumer::release`.
        let head = self.memory.head().load(Ordering::Acquire);
        if head < self.head || head > self.published || head % 8 != 0 {
            return Err(Corrupt("the head cursor left its bounds")); // [seg.ring.cursors], R1, R4
        }
        self.head = head;
        Ok(())
    }

    #[inline]
    fn copy_in(&self, at: usize, bytes: &[u8]) {
        let until_end = self.capacity - at;
        if bytes.len() <= until_end {
            return self.memory.copy_in(at, bytes);
        }
        let (first, second) = bytes.split_at(until_end);
        self.memory.copy_in(at, first);
        self.memory.copy_in(0, second);
    }

    /// `offset + by`, around the end; `by <= capacity`.
    const fn step(&self, offset: usize, by: usize) -> usize {
        wrap(offset + by, self.capacity)
    }
}

/// The reading end.
/// Many fields: the cursors of one side of a ring, which lie in one cache line.
#[derive(Debug)]
pub(crate) struct Consumer<M> {
    memory: M,
    /// Bytes of the ring; a multiple of 8.
    capacity: usize,
    /// The longest record that the peer may write.
    max_record: usize,
    /// Bytes consumed so far (R3).
    head: u64,
    /// Of these, the bytes that the peer may use again: `released <= head`.
    released: u64,
    /// The newest checked tail of the peer; it may have moved on since. `head <= tail <= released + capacity`.
    tail: u64,
    /// `head` modulo `capacity`, kept so that nothing divides.
    offset: usize,
    /// The payload length of the record last peeked at: checked once, `head + record_size(len) <= tail`.
    current: Option<usize>,
    /// Records consumed so far.
    consumed: u64,
    /// The record of the last announcement, after which came a fence. Up to `consumed` it has no effect any more.
    asked: u64,
    /// The tail is not read any more.
    stopped: bool,
}

impl<M: Memory> Consumer<M> {
    /// The consumer of a ring that is all zero.
    pub(crate) const fn new(memory: M, capacity: usize, max_record: usize) -> Self {
        Self {
            memory,
            capacity,
            max_record,
            head: 0,
            released: 0,
            tail: 0,
            offset: 0,
            current: None,
            consumed: 0,
            asked: AWAKE,
            stopped: false,
        }
    }

    /// Copies the first bytes of the oldest unread record into `head` and returns the record's length.
    #[inline]
    pub(crate) fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, Corrupt> {
        if !self.is_ready()? {
            return Ok(None);
        }
        // [seg.ring.record] All is multiples of 8, so a ring that is not empty holds a whole record header.
        let mut header = [0; RECORD_HEADER];
        self.memory.copy_out(self.offset, &mut header);
        let Some(len) =
            usize::try_from(u64::from_le_bytes(header)).ok().filter(|len| *len <= self.max_record)
        else {
            return Err(Corrupt("a record is longer than any may be")); // [seg.ring.max_record]
        };
        if record_size(len) > distance(self.head, self.tail) {
            return Err(Corrupt("a record reaches beyond the tail cursor")); // [seg.ring.length]
        }
        self.current = Some(len);
        let shown = len.min(head.len());
        self.for_each_part(0, shown, |memory, at, done, part| {
            memory.copy_out(at, &mut head[done..done + part]);
        });
        Ok(Some(len))
    }

    /// Appends bytes `from .. from + len` of the record last peeked at to `out`.
    ///
    /// # Panics
    ///
    /// If the range is not within that record.
    #[inline]
    pub(crate) fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        let record = self.current.unwrap_or(0);
        assert!(from <= record && len <= record - from, "the range is not within the record");
        out.reserve(len);
        self.for_each_part(from, len, |memory, at, _, part| memory.append_to(at, part, out));
    }

    /// Advances past the record last peeked at.
    #[inline]
    pub(crate) fn consume(&mut self) {
        debug_assert!(self.current.is_some(), "consume follows peek");
        if let Some(len) = self.current.take() {
            let size = record_size(len);
            self.head += size as u64;
            self.consumed += 1;
            self.offset = wrap(self.offset + size, self.capacity);
        }
    }

    /// Releases the space of all consumed records if it is enough (R6). Returns whether the peer must be notified.
    #[inline]
    #[must_use]
    pub(crate) fn release(&mut self) -> bool {
        if distance(self.released, self.head) <= held_back(self.capacity) {
            return false;
        }
        self.released = self.head;
        // PUBLISH(head): pairs with OBSERVE(head) in `Producer::refresh_head`.
        self.memory.head().store(self.head, Ordering::Release);
        self.memory.fence_notifier(); // R5
        // Untrusted, and harmless: a wrong number costs the peer its own wake-ups, or us needless ones.
        let wake_at = self.memory.wake_at().load(Ordering::Relaxed);
        if wake_at == AWAKE || self.head < wake_at {
            return false; // Below `wake_at` it stays set, and is checked again after the next release.
        }
        self.memory.wake_at().store(AWAKE, Ordering::Relaxed);
        true
    }

    /// Whether a record is there to be peeked at.
    #[inline]
    pub(crate) fn is_ready(&mut self) -> Result<bool, Corrupt> {
        if self.tail != self.head {
            return Ok(true);
        }
        self.refresh_tail()?;
        if self.tail != self.head {
            return Ok(true);
        }
        // Fetches the lines of the next record together with that of the cursor.
        self.memory.prefetch(self.offset);
        Ok(false)
    }

    /// Asks the peer to notify us when it publishes. Returns `true` if a record is there. `[seg.sleep.data]`
    ///
    /// If that was announced already, for example by [`expect`](Self::expect), only the check is left, which comes after the fence.
    #[inline]
    pub(crate) fn arm(&mut self) -> Result<bool, Corrupt> {
        if self.is_ready()? {
            return Ok(true);
        }
        if self.asked == self.consumed + 1 {
            return Ok(false);
        }
        self.ask_for(self.consumed + 1);
        self.is_ready()
    }

    /// Announces that we poll for the next record: if the peer was to notify us of it, it is now to notify us of the one after it. A task that
    /// stops polling arms again.
    #[inline]
    pub(crate) fn expect(&mut self) {
        if self.asked > self.consumed && self.asked != self.consumed + 2 {
            self.ask_for(self.consumed + 2);
        }
    }

    fn ask_for(&mut self, record: u64) {
        self.asked = record;
        self.memory.ring_for().store(record, Ordering::Relaxed);
        self.memory.fence_sleeper(); // R5
    }

    /// Revokes [`arm`](Self::arm).
    #[inline]
    pub(crate) fn disarm(&mut self) {
        if self.asked > self.consumed {
            self.memory.ring_for().store(AWAKE, Ordering::Relaxed);
        }
        self.asked = AWAKE;
    }

    /// Ignores records that are published from now on.
    pub(crate) fn stop(&mut self) -> Result<(), Corrupt> {
        self.refresh_tail()?;
        self.stopped = true;
        Ok(())
    }

    /// The CPU that the peer last published from, plus one; 0 if it does not say. A hint, and untrusted.
    pub(crate) fn producer_cpu(&self) -> u32 {
        self.memory.producer_cpu().load(Ordering::Relaxed)
    }

    fn refresh_tail(&mut self) -> Result<(), Corrupt> {
        if self.stopped {
            return Ok(());
        }
        // OBSERVE(tail): pairs with PUBLISH(tail) in `Producer::publish`.
        let tail = self.memory.tail().load(Ordering::Acquire);
        let limit = self.released + self.capacity as u64;
        if tail < self.tail || tail > limit || tail % 8 != 0 {
            return Err(Corrupt("the tail cursor left its bounds")); // [seg.ring.cursors], R1, R4
        }
        self.tail = tail;
        Ok(())
    }

    /// Calls `copy(memory, at, done, part)` for the one or two parts of `from .. from + len` of the current record.
    #[inline]
    fn for_each_part(
        &self,
        from: usize,
        len: usize,
        mut copy: impl FnMut(&M, usize, usize, usize),
    ) {
        let at = wrap(self.offset + RECORD_HEADER + from, self.capacity);
        let first = len.min(self.capacity - at);
        copy(&self.memory, at, 0, first);
        if first < len {
            copy(&self.memory, 0, first, len - first);
        }
    }
}

/// Consumed bytes that need not be released: a release costs a fence, and a read of a cache line that the producer owns.
/// `[seg.ring.held_back]`
const fn held_back(capacity: usize) -> usize {
    (capacity / 16) & !7
}

/// `offset` around the end of the ring; `offset < 2 * capacity`.
const fn wrap(offset: usize, capacity: usize) -> usize {
    if offset < capacity { offset } else { offset - capacity }
}

/// `to - from` for two cursors at most a capacity apart (R1), which is a `usize`.
#[expect(clippy::cast_possible_truncation, reason = "R1: at most a capacity, which is a usize")]
const fn distance(from: u64, to: u64) -> usize {
    (to - from) as usize
}
