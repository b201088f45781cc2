//! The threads that wait and notify.

use std::io;
use std::thread;
use std::time::Duration;

/// The timeout of one wait on Unix, in whole seconds (see [`raw_sync`](super)). It is there for a thread whose last notification was
/// lost. On Windows waits have no timeout.
pub(super) const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Stack size: these threads call one function.
pub(super) const STACK: usize = 64 << 10;

/// Starts a detached thread.
pub(super) fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}
