//! Fail points: named steps at which a test may kill or stop this process. Used by this crate, `witrpc-runtime` and `witrpc-mmf`; not a
//! public interface.
//!
//! Without the feature `fail-points`, which nothing but the tests of this workspace asks for, [`at`] is empty and no build
//! has anything of it. With the feature it is one relaxed load until a test installs what is to happen; that is the test's own,
//! so nothing here knows of processes or signals. An example that is built by itself has no fail points; a build of the whole workspace
//! has them, a few per call.
//!
//! The crate `fail` would take a lock at each step, and cannot end the process by SIGKILL.

#[cfg(feature = "fail-points")]
pub use armed::{at, install};

/// This step has been reached: `what.happened`.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub const fn at(_step: &'static str) {}

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static ARMED: AtomicBool = AtomicBool::new(false);
    static HOOK: OnceLock<fn(&'static str)> = OnceLock::new();

    /// This step has been reached: `what.happened`.
    #[inline]
    pub fn at(step: &'static str) {
        // Relaxed: the hook comes through its own lock.
        if ARMED.load(Ordering::Relaxed) {
            if let Some(hook) = HOOK.get() {
                hook(step);
            }
        }
    }

    /// From now on `hook` is called at every step, on the thread that reaches it, with locks held. Only the first counts.
    pub fn install(hook: fn(&'static str)) {
        HOOK.get_or_init(|| hook);
        ARMED.store(true, Ordering::Relaxed);
    }
}
