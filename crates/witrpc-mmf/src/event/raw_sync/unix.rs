//! An event of raw_sync on Unix: a mutex and a condition variable in the region's header page.
//!
//! Each call may block while another process holds the mutex, which is for ever if that process has died. So only detached threads
//! of our own make these calls.

use std::{
    io,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, Thread},
};

use raw_sync::Timeout;
use raw_sync::events::{Event, EventImpl, EventInit as _, EventState};
use witrpc_core::text::Escaped;

use super::threads::{LOOK_AROUND, STACK, start};
use crate::layout::EVENT_SIZE;
use crate::region::EventMemory;

/// One event.
pub(super) struct Signal {
    event: Box<dyn EventImpl>,
    /// What `event` points into.
    _memory: EventMemory,
}

// SAFETY: it is a pointer to what processes share, all access to which the mutex there puts in order.
unsafe impl Send for Signal {}
// SAFETY: as for `Send`.
unsafe impl Sync for Signal {}

impl Signal {
    /// A new one, in memory that nobody else looks at yet.
    pub(super) fn create(memory: EventMemory) -> io::Result<Self> {
        assert!(Event::size_of(Some(memory.as_ptr())) <= EVENT_SIZE, "an event is larger here");
        // SAFETY: `EVENT_SIZE` bytes, which are enough, mapped as long as the event: `_memory`.
        let made = unsafe { Event::new(memory.as_ptr(), true) };
        let (event, _) = made.map_err(failed)?;
        Ok(Self { event, _memory: memory })
    }

    /// One that the peer has made.
    pub(super) fn open(memory: EventMemory) -> io::Result<Self> {
        // SAFETY: as in `create`; that the peer has made one there, and spoils it never, is what the user of this kind
        // of event trusts it for.
        let found = unsafe { Event::from_existing(memory.as_ptr()) };
        let (event, _) = found.map_err(failed)?;
        Ok(Self { event, _memory: memory })
    }

    /// Whether it was notified within [`LOOK_AROUND`].
    pub(super) fn wait(&self) -> bool {
        self.event.wait(Timeout::Val(LOOK_AROUND)).is_ok()
    }

    fn set(&self) {
        if let Err(error) = self.event.set(EventState::Signaled) {
            tracing::warn!(error = %Escaped(&error), "could not wake the peer");
        }
    }

    /// Sets it some time soon, without waiting for that.
    pub(super) fn set_aside(this: &Arc<Self>) {
        let signal = Arc::clone(this);
        // Without such a thread the one that waits looks around within a second.
        drop(start("witrpc-end", move || signal.set()));
    }
}

/// The notifying end: a thread that sets the event when requested.
#[derive(Debug)]
pub(crate) struct Notifier {
    requests: Arc<Requests>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Requests {
    notify: AtomicBool,
    end: AtomicBool,
}

impl Notifier {
    pub(super) fn new(peer: Signal) -> io::Result<Self> {
        let requests = Arc::<Requests>::default();
        let taken = Arc::clone(&requests);
        let body = move || {
            loop {
                // REQUESTS: pairs with the stores in `notify` and `drop`. `end` is read first, so that a last notification is not lost.
                let end = taken.end.load(Ordering::Acquire);
                if taken.notify.swap(false, Ordering::Acquire) {
                    peer.set();
                }
                if end {
                    return;
                }
                thread::park();
            }
        };
        let builder = thread::Builder::new().name("witrpc-notify".to_owned());
        let thread = builder.stack_size(STACK).spawn(body)?.thread().clone();
        Ok(Self { requests, thread })
    }

    // A `Result` as on other systems.
    #[expect(clippy::unnecessary_wraps, reason = "on other systems notifying can fail")]
    pub(super) fn notify(&self) -> io::Result<()> {
        self.requests.notify.store(true, Ordering::Release); // REQUESTS
        self.thread.unpark();
        Ok(())
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.requests.end.store(true, Ordering::Release); // REQUESTS
        self.thread.unpark();
    }
}

fn failed(error: Box<dyn std::error::Error>) -> io::Error {
    io::Error::other(error.to_string())
}
