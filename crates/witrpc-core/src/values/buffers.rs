//! A few spare buffers per thread, so that a small call does not allocate.

use std::cell::RefCell;

use crate::values::spare;

/// Spare buffers per thread: enough for a burst, and little memory.
const KEPT: usize = 16;
/// A larger buffer is not kept by a thread: a rare large message must not hold its memory for ever. What is [long](crate::values::spare) may be
/// kept by the process for a moment.
pub const LARGEST_KEPT: usize = 16 << 10;

/// The maximum unused capacity of a buffer that is kept with a message, in addition to twice its content. Otherwise one-byte messages of a
/// peer could hold buffers that large messages of others have left here.
pub const IDLE: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, with or without capacity.
#[inline]
pub fn take() -> Vec<u8> {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

/// An empty buffer for `len` bytes that may be kept for long: with that capacity, and not much more.
#[inline]
pub fn take_for(len: usize) -> Vec<u8> {
    let buffer = take();
    if buffer.capacity() >= len && !is_oversized(&buffer, len) {
        return buffer;
    }
    another(buffer, len)
}

#[cold]
fn another(unfit: Vec<u8>, len: usize) -> Vec<u8> {
    give(unfit);
    Vec::with_capacity(len)
}

/// Frees the unused capacity of a buffer, if there is too much to keep with its bytes.
#[inline]
pub fn trim(buffer: &mut Vec<u8>) {
    if is_oversized(buffer, buffer.len()) {
        buffer.shrink_to_fit();
    }
}

fn is_oversized(buffer: &Vec<u8>, len: usize) -> bool {
    buffer.capacity() > 2 * len + IDLE
}

/// Keeps a buffer for later, if it is worth it.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() > LARGEST_KEPT {
        return spare::give(buffer);
    }
    if buffer.capacity() == 0 {
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

#[cfg(test)]
mod tests {
    use super::IDLE;
    use super::LARGEST_KEPT;
    use super::give;
    use super::take_for;
    use super::trim;

    #[test]
    fn a_few_bytes_are_not_kept_in_a_large_buffer() {
        give(Vec::with_capacity(LARGEST_KEPT));
        let mut buffer = take_for(10);
        assert!((10..=20 + IDLE).contains(&buffer.capacity()), "{}", buffer.capacity());
        give(Vec::with_capacity(LARGEST_KEPT));
        assert!(take_for(LARGEST_KEPT / 2).capacity() >= LARGEST_KEPT / 2, "it is there for more");
        buffer.reserve(LARGEST_KEPT);
        buffer.extend_from_slice(&[7; 10]);
        trim(&mut buffer);
        assert!(buffer.capacity() <= 20 + IDLE && buffer == [7; 10]);
    }
}
