//! Counts what a session allocates, and compares it with the account that the connection shows.
//!
//! All of a session runs on one thread, in steps. Whoever runs the target measures each: how many bytes the thread has
//! allocated and not freed. What the peer and the program on top allocate is in that, too.

use tokio::runtime::{Builder, Runtime};

use crate::connection::load::Load;

/// Runs a step, and returns by how much it has changed the bytes that are allocated.
pub(super) type Measure = fn(&mut dyn FnMut()) -> i64;

/// What a session takes that is on no account: the connection itself, the transport's queues of 4 KiB, spare buffers of the thread, lanes
/// and tables that were longer before, the peer and the program on top.
const CONSTANT: u64 = 256 << 10;

/// The bytes that the steps so far have allocated and not freed.
pub(super) struct Meter {
    runtime: Runtime,
    measure: Measure,
    allocated: i64,
}

impl Meter {
    pub(super) fn new(measure: Measure) -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { runtime, measure, allocated: 0 }
    }

    pub(super) fn step<T>(&mut self, step: impl Future<Output = T>) -> T {
        let (mut step, mut done) = (Some(step), None);
        self.allocated += (self.measure)(&mut || {
            done = step.take().map(|step| self.runtime.block_on(step));
        });
        done.expect("it was run once")
    }

    /// Asserts that no more is allocated than is on the account, and `beside` it.
    pub(super) fn check(&self, load: &Load, beside: u64) {
        let account = load.memory.bounded() + load.memory.tables + beside + CONSTANT;
        let allocated = u64::try_from(self.allocated).unwrap_or(0);
        assert!(allocated <= account, "{allocated} bytes, and {account} on the account: {load:?}");
    }
}
