//! A peer that closes everything by which the server would notice its death, but lives on and writes into the region, so that more and
//! more data seems to arrive. Some of these peers go on until the server has dropped all connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::peers::{ROUND, Visit};
use super::{HEADER, TAILS};
use crate::raw::{EVENT_END, WHOLE, frame};
use crate::spy::Region;

/// Where the server says how far it has read: `docs/segment.md`, [seg.line.head].
const HEAD: u64 = 1152;
/// A record of what means nothing: the end of a subscription that this side does not have. As long as a whole number of them
/// make up a ring.
const RECORD: u64 = 64;

/// Those who know whether all is over, from which on no further one goes on until then.
const LASTING: usize = 8;

/// Fills the ring from where it ends with records, without saying so. Returns where it ends.
fn fill(region: &Region) -> u64 {
    let capacity = (region.len - HEADER) / 2 / 128 * 128;
    let record = frame(EVENT_END, WHOLE, 77, &[b'w'; RECORD as usize - 8 - 16]);
    let header = (record.len() as u64).to_le_bytes();
    let record = [&header[..], &record].concat();
    let tail = region.read_u64(TAILS[0]);
    for at in (tail..tail + capacity).step_by(RECORD as usize) {
        let at = at % capacity;
        // Its payload may go on at the beginning.
        let (first, rest) = record.split_at((capacity - at).min(RECORD) as usize);
        region.write(HEADER + at, first);
        region.write(HEADER, rest);
    }
    tail
}

/// Says that the ring is full, again and again.
fn write_on(region: &Region, mut tail: u64, over: impl Fn() -> bool) {
    let capacity = (region.len - HEADER) / 2 / 128 * 128;
    while !over() {
        let room = (region.read_u64(HEAD) + capacity).saturating_sub(tail);
        tail += room / RECORD * RECORD;
        region.write(TAILS[0], &tail.to_le_bytes());
        std::thread::yield_now();
    }
}

/// Leaves a thread behind that writes; its connection is closed as soon as this returns.
pub(super) async fn hangs_up_and_goes_on(visit: &mut Visit) {
    let region = visit.found.region().expect("it is connected");
    let (over, tail) = (Arc::clone(&visit.over), fill(&region));
    let lasts = Arc::strong_count(&over) < LASTING;
    let began = Instant::now();
    let is_over = move || over.load(Ordering::Relaxed) || (!lasts && began.elapsed() > 4 * ROUND);
    std::thread::spawn(move || write_on(&region, tail, is_over));
}
