//! Detects copies for which the C library's `memcpy` is slow, and that are faster in another way.
//!
//! **In pieces.** //! From 2112 bytes on the GNU C library copies with `rep movsb` where the processor calls that fast. AMD's Zen 3 and Zen 4 do,
//! and yet take 20 times as long where the destination lies less than 32 bytes behind the source, modulo 4096, and up to
//! twice as long less than 128 bytes behind (<https://sourceware.org/bugzilla/show_bug.cgi?id=30994>). That is one chunk
//! in thirty, as records lie at any multiple of eight. Shorter copies are made otherwise, and as fast as any.
//!
//! **Past the caches.** A message that is larger than the caches is copied to where no cache has its lines. An ordinary store reads each line
//! from memory first, and evicts lines that are still needed; a streaming store does neither. Measured with two CPUs of
//! a machine that has 480 MiB of third-level cache, from a ring of 512 KiB to a buffer of 256 MiB, in large pages: 9.9 GB/s by `memcpy`, 23.9 by
//! streaming stores. To one of 32 MiB: 28.4 and 23.3; within a copy from buffer to ring to buffer 12.3 and 12.8. The C library streams too, but
//! decides by the length of the single copy, and a message arrives in chunks.

/// Copies up to this length do not use `rep movsb`.
pub(crate) const PIECE: usize = 2048;
/// The processor first compares addresses modulo this.
const PAGE: usize = 4096;
/// A destination less than this behind its source is slow.
const CLOSE: usize = 128;

/// A message for which so many bytes were reserved is larger than what most processors' caches hold for one core.
const UNCACHED: usize = 32 << 20;
/// Shorter copies are the ends of a message, or belong to small ones.
const STREAMED: usize = 4096;

/// Whether a copy of `len` bytes into a buffer of `capacity` bytes is better made by stores that bypass the caches.
#[inline]
pub(crate) const fn bypasses_caches(capacity: usize, len: usize) -> bool {
    capacity >= UNCACHED && len >= STREAMED
}

/// Whether a copy is better made in pieces of [`PIECE`] bytes.
#[inline]
pub(crate) fn is_slow(from: *const u8, to: *const u8, len: usize) -> bool {
    let behind = to.addr().wrapping_sub(from.addr()) % PAGE;
    len > PIECE && behind != 0 && behind < CLOSE
}

#[cfg(test)]
mod tests {
    use std::ptr::without_provenance;

    use super::*;

    #[test]
    fn long_copies_are_slow_where_the_destination_is_close_behind() {
        let is_slow =
            |from, to, len| is_slow(without_provenance(from), without_provenance(to), len);
        for (from, to, expected) in [
            (0x1000, 0x9000, false),
            (0x1000, 0x9001, true),
            (0x1ff8, 0x9010, true),
            (0x1010, 0x9008, false),
            (0x9000, 0x107f, true),
            (0x9000, 0x1080, false),
        ] {
            assert_eq!(is_slow(from, to, PIECE + 1), expected, "{from:x} to {to:x}");
            assert!(!is_slow(from, to, PIECE));
        }
    }
}
