//! The threads that wait and ring, and for how long.

use std::io;
use std::thread;
use std::time::Duration;

/// How long one wait lasts on Unix: whole seconds, see above. It is bounded for a thread whose ring for the end was lost. On
/// Windows none is, and there is no timer.
pub(super) const LOOK_AROUND: Duration = Duration::from_secs(1);

/// For threads that call one function.
pub(super) const STACK: usize = 64 << 10;

/// A thread that nobody waits for.
pub(super) fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body).map(drop)
}
