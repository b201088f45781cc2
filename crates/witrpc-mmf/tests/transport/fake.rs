//! One side of a meeting by the book, and otherwise under the test's control.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(crate) use unix::{FakeClient, FakeServer};
#[cfg(windows)]
pub(crate) use windows::{FakeClient, FakeServer};
