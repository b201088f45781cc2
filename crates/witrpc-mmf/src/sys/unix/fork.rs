//! [`Owner`]: the process that created a value. A forked child has a copy of everything that its parent has, and must not use it.
//!
//! The rings, the pipes and the files of a connection are shared with the parent, and so are the sequence numbers that its keys seal with. So
//! every value that writes to one of these, takes from it or removes it has an [`Owner`], and checks it first. An owner is the number of
//! forks between the first process and its creator: a handler that `fork` calls in the child counts them. A check costs a relaxed
//! load and no system call.
//!
//! `fork` calls the handler, and so do `forkpty` and the like. A child that was made with the bare system call (`clone`,
//! `syscall(SYS_fork)`) or with `_Fork` is not noticed.

use std::{
    alloc::{Layout, handle_alloc_error},
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::net::unix::pipe;

/// Forks that have led to this process since the first [`Owner`] was made, or more. Only the child of a fork writes it, before
/// `fork` returns there and while it has one thread: so relaxed loads see the right value.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The process that made something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    /// This process.
    pub(crate) fn here() -> Self {
        watch();
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// The parent of this process, as far as this type can tell.
    #[cfg(test)]
    pub(crate) fn of_parent() -> Self {
        Self(Self::here().0.wrapping_sub(1))
    }

    /// Whether that is this process, and not its parent or an earlier one.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }

    /// The same, as an error that says what to do.
    ///
    /// # Errors
    ///
    /// If this process is a forked child of the one that made it.
    #[inline]
    pub(crate) fn check(self) -> io::Result<()> {
        if self.is_here() { Ok(()) } else { Err(inherited()) }
    }
}

#[cold]
fn inherited() -> io::Error {
    io::Error::other(
        "it belongs to the parent process, and this is a forked child: connect again, or start a server, in this process",
    )
}

/// Starts to count forks.
///
/// Not by a `Once`: a thread that is in there while another forks would leave it locked in the child. Two threads at a time may
/// both install the handler; then each fork counts twice, which is as good.
fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Relaxed: the handler is installed in this process whoever sees the flag; a child inherits both.
    if WATCHED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: the handler may be called in the child at any time: it is a function that changes an atomic, and nothing else.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(count)) } != 0;
    if failed {
        // Its only failure. Without the handler nothing could be promised.
        handle_alloc_error(Layout::new::<extern "C" fn()>());
    }
    WATCHED.store(true, Ordering::Relaxed);
}

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// An end of a pipe that is registered with a runtime, and owns its descriptor.
pub(crate) trait Registered: AsRawFd {}

impl Registered for pipe::Receiver {}

impl Registered for pipe::Sender {}

/// Closes the child's copy of a pipe that its parent has registered with a runtime.
///
/// Dropping it would deregister it: from the epoll instance that the two processes share, and so for the parent as well.
pub(crate) fn close_inherited(pipe: impl Registered) {
    let descriptor = pipe.as_raw_fd();
    std::mem::forget(pipe);
    // SAFETY: the pipe owned it, and is forgotten.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

#[cfg(test)]
mod tests {
    use super::Owner;

    #[test]
    fn what_another_process_made_is_not_here_and_says_what_to_do() {
        let ours = Owner::here();
        assert!(ours.is_here());
        ours.check().unwrap();
        let error = Owner::of_parent().check().unwrap_err().to_string();
        assert!(error.contains("connect again"), "{error}");
    }
}
