//! A few spare buffers per thread, so that a small call does not allocate.

use std::cell::RefCell;

/// Spare buffers kept per thread: enough for a burst, little enough to forget.
const KEPT: usize = 16;
/// A larger buffer is given back to the allocator: a rare large message must not hold its memory for ever.
const LARGEST_KEPT: usize = 16 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with or without capacity.
pub(crate) fn take() -> Vec<u8> {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// Keeps a buffer for later, if it is worth it.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > LARGEST_KEPT {
        return;
    }
    buffer.clear();
    SPARE
        .try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < KEPT {
                spare.push(buffer);
            }
        })
        // A thread that is ending has no use for it.
        .ok();
}
