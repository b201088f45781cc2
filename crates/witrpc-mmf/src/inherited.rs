//! Connections without a name, for a process and a program that it starts. `[seg.inherited]` `[seg.windows.inherited]`
//!
//! The host makes a [`pair`]: its own [`HostEnd`], and a [`Bequest`], which it gives to its worker. The worker takes it over as a
//! [`WorkerEnd`]. Each end opens one [`Channel`](witrpc_core::transport::Channel), over the same rings as those of a named endpoint. There is no
//! rendezvous: everything is complete before the worker runs. The host is the client of the connection, the worker its server.
//!
//! On Unix the worker inherits descriptors. On Windows it is given handles once it has been started.
//!
//! This module knows nothing of starting or ending processes. Its users are `witrpc-process` and the tests.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

/// The most bytes that one side of a connection can lend.
pub const LARGEST_LENDING: u64 = crate::arena::LARGEST;

pub use os::{Bequest, HostEnd, VARIABLE, WorkerEnd, pair};
#[cfg(unix)]
pub use unix::{Inbox, Inherited, Lifeline, Outbox, Received};
