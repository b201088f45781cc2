//! How much a peer can make one side hold: the parts of one bound, all of which follow from [`Limits`].
//!
//! Let *b* be `max_buffered`, or four times the largest message if that is more.
//!
//! | part | what is in it | share of *b* |
//! |---|---|--:|
//! | requests | requests of the peer: being received, waiting, or being handled | 3/8 |
//! | answers | responses and events of the peer until they are taken, or reach their subscriptions | 17/64 |
//! | items | items of the peer's streams until they reach their streams; those that are larger than what is left of their windows, until they are read | 5/16 |
//! | windows | the other items of the peer's streams that are not read | 3/32 |
//! | responses | responses to the peer that have not left | 1/4 |
//! | events | values for the peer's subscribers: waiting, not left, or not acknowledged | 1/8 |
//! | own items | items of streams to the peer that have not left | 1/16 |
//!
//! Together that is less than 3/2 of *b* ([`Limits::bound`]). Each part is counted in bytes of memory: a message counts what it takes, and what is
//! kept beside it.
//!
//! # Why these
//!
//! The parts are separate because nobody may wait for room that waits for him: a handler holds its request while it makes calls, and
//! waits for their answers; a response leaves while the peer's requests wait; streams that are not read hold up no call. Each
//! part through which whole messages pass has room for the largest one: requests beside the reserve for nested ones, answers and items beside
//! what is consumed and not given back, responses because one large response must not keep handlers from beginning. That takes a quarter of
//! *b* each, so *b* is at least four messages. The other parts take one message more than they have room for, if they have any
//! room: a small share suffices.
//!
//! # What comes on top
//!
//! The size of a response, of a value and of an item is known once the program has made it. So the last three parts are exceeded by what was made
//! before they were full: one value for each thread that raises events, a batch of items for each thread that polls streams, and the responses
//! of handlers that had begun by then, at most one for each call in flight. Tables have a bound by number: [`SUBSCRIPTION`],
//! [`STREAM`] and [`CALL`] say what an entry takes.
//!
//! Each subscription of the program has a window of its own ([wire.event.ack]): the program decides how many there are.
//!
//! The program's own requests are not part of this: a call holds its arguments itself until they are queued, and the queue holds them
//! in its place.

use crate::limits::{Limits, Pool};

/// How many of the largest messages *b* has room for.
pub const MESSAGES: u64 = 4;

/// What each subscription of the peer takes beside its values, at most about: its subscriber, its place at its event, a mark in the queue.
pub const SUBSCRIPTION: u64 = 1 << 10;
/// What each open stream takes beside its items, whoever writes it: its entry, its lane, its task.
pub const STREAM: u64 = 2 << 10;
/// What each call of the peer, and each message of which only a part has arrived, takes beside its bytes. What a handler needs is its own.
pub const CALL: u64 = 1 << 10;

impl Limits {
    /// What the shares are parts of: *b*.
    fn whole(&self) -> u64 {
        self.max_buffered.max(self.max_message_size.saturating_mul(MESSAGES))
    }

    /// The bound on all parts together.
    pub fn bound(&self) -> u64 {
        let whole = self.whole();
        whole.saturating_add(whole / 2)
    }

    /// The credit with which the peer begins. It is never short of what the largest message needs, whatever we keep back of consumed
    /// bytes. [wire.credit]
    pub fn credit(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Requests => self.requests(),
            Pool::Answers => self.message().saturating_add(self.credit_batch(pool)),
            // What is not read holds it, so there is more than what the largest message needs.
            Pool::Items => self.message().saturating_add(self.message() / 4),
        }
    }

    /// What outer requests leave of the credit for requests. [wire.credit]
    pub fn reserve(&self) -> u64 {
        let rest = self.requests() - self.max_message_size - self.credit_batch(Pool::Requests);
        (self.requests() / 4).min(rest)
    }

    /// The largest nested request that may wait for credit: so much is left of the reserve, whatever we keep back.
    pub fn most_nested(&self) -> u64 {
        self.reserve().saturating_sub(self.credit_batch(Pool::Requests))
    }

    /// The amount of consumed bytes after which credit is given back.
    pub fn credit_batch(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Requests => self.requests() / 16,
            Pool::Answers | Pool::Items => self.message() / 16,
        }
    }

    /// The windows of all streams of the peer together.
    pub fn windows(&self) -> u64 {
        self.whole() / 16 + self.whole() / 32
    }

    /// Responses that have not left, beyond which no handler begins.
    pub fn responses(&self) -> u64 {
        self.message()
    }

    /// Values for the peer's subscribers, beyond which they overflow.
    pub fn events(&self) -> u64 {
        self.whole() / 8
    }

    /// Items of streams in the sending queue.
    pub fn items(&self) -> u64 {
        self.whole() / 16
    }

    /// Requests of this side's own in the sending queue: outer ones, and nested ones.
    pub fn own_requests(&self) -> (u64, u64) {
        (self.whole() / 4, self.whole() / 8)
    }

    /// At least one and a half of the largest message.
    fn requests(&self) -> u64 {
        self.whole() / 2 - self.whole() / 8
    }

    /// At least the largest message.
    fn message(&self) -> u64 {
        self.whole() / MESSAGES
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, Pool};

    #[test]
    fn the_parts_are_within_the_bound_and_a_message_fits_into_each_that_must_take_it() {
        const SIZES: [u64; 7] = [1, 2, 3, 1000, 1 << 20, 64 << 20, (1 << 31) - 1];
        for max_message_size in SIZES {
            for max_buffered in SIZES.into_iter().chain([1 << 60]) {
                let limits = Limits { max_message_size, max_buffered, max_in_flight: 1 };
                let parts = Pool::ALL.into_iter().map(|pool| limits.credit(pool)).sum::<u64>()
                    + limits.windows()
                    + limits.responses()
                    + limits.events()
                    + limits.items();
                assert!(parts <= limits.bound(), "{limits:?}: {parts}");
                assert!(
                    limits.requests() >= max_message_size + limits.credit_batch(Pool::Requests)
                );
                assert!(limits.message() >= max_message_size);
            }
        }
    }
}
