//! A cache of allocations for long messages.
//!
//! The system clears new memory, which costs as much as copying into it. So the allocation of a long message comes back here when it is no
//! longer used (its blob is dropped, its body is decoded), and the next message of about this length is received into it. The cache
//! belongs to the process and not to a connection, as a blob may outlive its connection.
//!
//! # Invariants
//!
//! - **U1** A cached `Vec` is empty. It exposes only bytes written since it was cleared, so the bytes of an earlier message cannot be read.
//! - **U2** At most `MOST` bytes are cached, or one allocation.
//! - **U3** Allocations are cached only while there is a `Keeper`: up to twice `IDLE` after the last long message.
//! - **U4** No task waits for the lock to put or take an allocation: if it is locked, the cache is not used. It is a leaf lock, and no long
//!   allocation is freed under it. In a forked child the lock may be held for ever, and the parent's keeper does not run there.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::process;
use std::time::Duration;

use tokio::runtime::Handle;
use witrpc_core::values::spare::{self, LONG};

use crate::link::timers::Timer;
use crate::locks::{self, Mutex, MutexGuard, Rank};

/// The maximum number of cached bytes.
const MOST: usize = 256 << 20;
/// How long an allocation stays unused before it is freed: longer than the pauses of a sender of one long message after the other.
const IDLE: Duration = Duration::from_secs(1);

static POOL: Pool = Pool::new();

#[derive(Debug)]
struct Spare {
    /// Empty `Vec`s, the most recently used one last (U1).
    kept: VecDeque<Vec<u8>>,
    /// The sum of their capacities (U2).
    bytes: usize,
    /// The process in which a keeper runs (U3).
    keeper: Option<u32>,
    /// How often an allocation was asked for, and found.
    looks: u64,
    found: u64,
}

impl Spare {
    const fn new() -> Self {
        Self { kept: VecDeque::new(), bytes: 0, keeper: None, looks: 0, found: 0 }
    }

    /// Takes an allocation of at least this many bytes, and at most a fourth more, as the excess is charged to no account.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        self.looks += 1;
        let fits = |spare: &Vec<u8>| (len..=len + len / 4).contains(&spare.capacity());
        let at = self.kept.iter().rposition(fits)?;
        let spare = self.kept.remove(at)?;
        self.bytes -= spare.capacity();
        self.found += 1;
        Some(spare)
    }

    /// Caches an allocation. Returns the oldest ones if there are too many.
    fn put(&mut self, mut spare: Vec<u8>) -> Vec<Vec<u8>> {
        spare.clear();
        self.bytes += spare.capacity();
        self.kept.push_back(spare);
        let mut beyond = Vec::new();
        while self.bytes > MOST && self.kept.len() > 1 {
            let oldest = self.kept.pop_front().unwrap_or_default();
            self.bytes -= oldest.capacity();
            beyond.push(oldest);
        }
        beyond
    }

    fn take_all(&mut self) -> VecDeque<Vec<u8>> {
        self.bytes = 0;
        std::mem::take(&mut self.kept)
    }
}

/// The cache, with its lock.
#[derive(Debug)]
struct Pool(Mutex<Spare>);

impl Pool {
    const fn new() -> Self {
        Self(Mutex::new(Rank::Spare, Spare::new()))
    }

    /// The lock, if it is free (U4).
    fn try_lock(&self) -> Option<MutexGuard<'_, Spare>> {
        self.0.try_lock()
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.0.lock()
    }

    fn take(&self, len: usize) -> Option<Vec<u8>> {
        if len < LONG { None } else { self.try_lock()?.take(len) }
    }

    fn give(&self, spare: Vec<u8>) {
        if spare.capacity() < LONG {
            return;
        }
        let process = process::id();
        let Some(mut state) = self.try_lock() else { return };
        if state.keeper != Some(process) {
            drop(state);
            return;
        }
        let beyond = state.put(spare);
        drop(state);
        drop(beyond);
    }

    fn keep(&'static self, runtime: &Handle) {
        let process = process::id();
        let Some(mut state) = self.try_lock() else { return };
        let is_kept = state.keeper.replace(process) == Some(process);
        drop(state);
        if !is_kept {
            let keeper = Keeper { pool: self, process, runtime: runtime.clone() };
            drop(runtime.spawn(keeper.run()));
        }
    }
}

/// The task that frees unused allocations. While it runs, allocations are cached. It ends with its runtime.
struct Keeper {
    pool: &'static Pool,
    process: u32,
    runtime: Handle,
}

impl Keeper {
    async fn run(self) {
        loop {
            let looks = self.lock().map(|state| state.looks);
            let Some(mut timer) = Timer::new(&self.runtime, IDLE) else { return };
            let over = poll_fn(|cx| timer.poll(cx)).await;
            if over.is_err() || self.lock().map(|state| state.looks) == looks {
                return;
            }
        }
    }

    /// Waits for the lock, except in a forked child (U4).
    fn lock(&self) -> Option<MutexGuard<'static, Spare>> {
        (self.process == process::id()).then(|| self.pool.lock())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let Some(mut state) = self.lock() else { return };
        state.keeper = None;
        let kept = state.take_all();
        drop(state);
        drop(kept);
    }
}

/// Before the first message: from here on what was sent is let go of as the locks ask (L2).
pub(crate) fn install() {
    spare::install(spare::Keeper {
        take: |len| POOL.take(len),
        give: |unused| POOL.give(unused),
        sent: locks::dispose,
    });
}

/// Notes that a long message has arrived: allocations are cached from here on, as long as others follow.
pub(crate) fn keep(runtime: &Handle) {
    POOL.keep(runtime);
}

/// How many bytes are kept in this process, and how often they were used again. For tests.
#[must_use]
pub fn kept() -> (usize, u64) {
    let state = POOL.lock();
    (state.bytes, state.found)
}

#[cfg(test)]
mod tests {
    use super::LONG;
    use super::MOST;
    use super::Pool;
    use super::Spare;

    fn spare(len: usize) -> Vec<u8> {
        Vec::with_capacity(len)
    }

    #[test]
    fn what_is_used_again_is_empty_and_of_about_the_length() {
        let mut state = Spare::new();
        let filled = vec![7; 2 * LONG];
        let address = filled.as_ptr();
        assert!(state.put(filled).is_empty());
        assert!(state.take(LONG).is_none() && state.take(2 * LONG + 1).is_none());
        let taken = state.take(2 * LONG - LONG / 4).unwrap();
        assert_eq!((taken.len(), taken.as_ptr()), (0, address));
        assert_eq!((state.bytes, state.found), (0, 1));
    }

    #[test]
    fn no_more_is_kept_than_may_be_and_what_was_used_last_stays() {
        let mut state = Spare::new();
        for n in 0..10 {
            let beyond = state.put(spare(MOST / 4 + n));
            assert!(state.bytes <= MOST && beyond.len() <= 1);
        }
        assert_eq!(state.take(MOST / 4).unwrap().capacity(), MOST / 4 + 9);
        // One of any length.
        let beyond = state.put(spare(3 * MOST));
        assert_eq!((state.kept.len(), beyond.len()), (1, 2));
        assert_eq!(state.take_all().len(), 1);
        assert_eq!(state.bytes, 0);
    }

    #[test]
    fn memory_is_kept_while_long_messages_come_and_a_runtime_drives_their_connection() {
        static OWN: Pool = Pool::new();
        let kept = || OWN.lock().bytes;
        OWN.give(spare(LONG));
        assert_eq!(kept(), 0, "no long message has come");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        OWN.keep(runtime.handle());
        OWN.give(spare(LONG));
        OWN.give(spare(LONG - 1));
        assert_eq!(kept(), LONG);
        OWN.give(spare(2 * LONG));
        assert_eq!(kept(), 3 * LONG, "all of it");
        assert!(OWN.take(2 * LONG).is_some_and(|taken| taken.is_empty()));
        assert_eq!(kept(), LONG);
        drop(runtime);
        assert_eq!(kept(), 0, "its runtime has gone");
        OWN.give(spare(LONG));
        assert_eq!(kept(), 0);
    }

    #[test]
    fn a_forked_child_keeps_nothing_for_its_parent_and_waits_for_nobody() {
        static OWN: Pool = Pool::new();
        let mut state = OWN.lock();
        state.keeper = Some(std::process::id() + 1);
        // The process may have been forked while another thread held the lock.
        OWN.give(spare(LONG));
        assert!(OWN.take(LONG).is_none());
        drop(state);
        OWN.give(spare(LONG));
        assert_eq!(OWN.lock().bytes, 0);
    }
}
