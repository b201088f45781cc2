//! The waker cell: that of a crate, or loom's when a model is checked.

#[cfg(not(loom))]
pub use atomic_waker::AtomicWaker;

/// loom's, with the methods of the other.
#[cfg(loom)]
#[derive(Debug, Default)]
pub struct AtomicWaker(loom::future::AtomicWaker);

#[cfg(loom)]
impl AtomicWaker {
    /// One without a waker.
    #[must_use]
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers whom to wake.
    #[inline]
    pub fn register(&self, waker: &std::task::Waker) {
        self.0.register_by_ref(waker);
    }

    /// Wakes the waker that was registered last.
    #[inline]
    pub fn wake(&self) {
        self.0.wake();
    }
}
