//! Detects long copies that a processor is slow at, and that are faster in pieces.
//!
//! From 2112 bytes on the GNU C library copies with `rep movsb` where the processor calls that fast. AMD's Zen 3 and Zen 4 do,
//! and yet take 20 times as long where the destination lies less than 32 bytes behind the source, modulo 4096, and up to
//! twice as long less than 128 bytes behind (<https://sourceware.org/bugzilla/show_bug.cgi?id=30994>). That is one chunk
//! in thirty, as records lie at any multiple of eight. Shorter copies are made otherwise, and as fast as any.

/// Copies up to this length do not use `rep movsb`.
pub(crate) const PIECE: usize = 2048;
/// The processor first compares addresses modulo this.
const PAGE: usize = 4096;
/// A destination less than this behind its source is slow.
const CLOSE: usize = 128;

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
