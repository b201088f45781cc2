//! Memory for long messages, backed by large pages.
//!
//! The GNU C library maps allocations of 32 MiB and more anew each time, and the system then backs them page by page, as they are written to.
//! With pages of 4 KiB that takes several times as long as the copy itself.

use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// From this many bytes on. Shorter ones have their memory used again by the allocator.
const LONG: usize = 4 << 20;

/// Asks the system for large pages below a long allocation, if there are such. Nothing depends on it.
pub(crate) fn back_by_large_pages(allocation: &mut Vec<u8>) {
    if allocation.capacity() < LONG {
        return;
    }
    // Whole pages around it: a page at either end that were left out would become a mapping of its own, and the allocator could grow
    // this one by copying only.
    let begin = allocation.as_mut_ptr();
    let before = begin.addr() % page_size();
    let len = (before + allocation.capacity()).next_multiple_of(page_size());
    let begin = begin.wrapping_sub(before).cast();
    // SAFETY: this advice changes no byte of any memory, and no right to it.
    let advised = unsafe { madvise(begin, len, Advice::LinuxHugepage) };
    // It fails where there are no large pages.
    advised.ok();
}
