//! Reuse of the allocations of long messages: the system clears new memory, which costs as much as copying.
//!
//! A cache needs a lock and a clock, which this crate does not use. So the crate that drives connections [installs](install) a [`Keeper`].
//! Without one, memory comes from the allocator and goes back to it.

use std::sync::OnceLock;

use bytes::Bytes;

/// Bytes from which on a message is long: allocators use shorter memory again themselves.
pub const LONG: usize = 4 << 20;

/// Keeps the memory of long messages for the next ones.
#[derive(Clone, Copy, Debug)]
pub struct Keeper {
    /// An empty allocation of at least this many bytes, and at most a fourth more.
    pub take: fn(usize) -> Option<Vec<u8>>,
    /// Takes an allocation that nobody uses any more, or frees it.
    pub give: fn(Vec<u8>),
    /// Drops bytes that were sent, once it may: they are the user's, and dropping them may run code of the user's.
    pub sent: fn(Bytes),
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// From now on memory is kept by this one. Only the first counts.
#[inline]
pub fn install(keeper: Keeper) {
    KEEPER.get_or_init(|| keeper);
}

/// An empty allocation of this many bytes, if the message is long and the keeper has one.
#[must_use]
#[inline]
pub fn take(len: usize) -> Option<Vec<u8>> {
    if len < LONG { None } else { (KEEPER.get()?.take)(len) }
}

/// Gives an allocation to the [`Keeper`], if it is long.
#[inline]
pub fn give(spare: Vec<u8>) {
    if spare.capacity() < LONG {
        return;
    }
    if let Some(keeper) = KEEPER.get() {
        (keeper.give)(spare);
    }
}

/// The same with what is below these bytes, if nobody else has them.
#[inline]
pub fn give_bytes(bytes: Bytes) {
    if bytes.len() < LONG {
        return;
    }
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.clear(); // Or they would be moved to the front.
        give(bytes.into());
    }
}

/// Lets bytes go that were sent, or are not to be sent any more. An allocation that nobody else has runs no code of the user's: it is
/// free at once, for whatever is received next.
#[inline]
pub fn let_go(sent: Bytes) {
    match sent.try_into_mut() {
        Ok(mut unique) if unique.len() >= LONG => {
            unique.clear(); // Or they would be moved to the front.
            give(unique.into());
        }
        Ok(unique) => drop(unique),
        Err(shared) => match KEEPER.get() {
            Some(keeper) => (keeper.sent)(shared),
            None => drop(shared),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::{Keeper, LONG, give, give_bytes, install, take};

    /// Bytes that were given.
    static GIVEN: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn what_is_long_and_nobodys_is_given_to_the_keeper() {
        let take_one = |len| (len == LONG).then(Vec::new);
        let count = |spare: Vec<u8>| {
            assert!(spare.is_empty());
            GIVEN.fetch_add(spare.capacity(), Ordering::Relaxed);
        };
        install(Keeper { take: take_one, give: count, sent: |_| () });
        let given = || GIVEN.load(Ordering::Relaxed);
        give(Vec::with_capacity(LONG - 1));
        assert_eq!(given(), 0, "it is short");
        let shared = Bytes::from(vec![1; 2 * LONG]);
        let other = shared.slice(1..);
        give_bytes(shared);
        assert_eq!(given(), 0, "somebody has it");
        give_bytes(other);
        assert_eq!(given(), 2 * LONG, "all of it");
        give_bytes(Bytes::from_static(&[0; LONG]));
        assert_eq!(given(), 2 * LONG, "it is no allocation");
        assert!(take(LONG).is_some() && take(LONG - 1).is_none() && take(LONG + 1).is_none());
    }
}
