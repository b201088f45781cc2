//! Creates a region on a thread of its own. All its pages are allocated then, which takes half a second for each GiB. Any client can
//! cause that, as it comes before the handshake, and the runtime has connections to serve meanwhile.
//!
//! The thread is not one of the runtime's pool: handlers may occupy all of those, and wait for this very client. A [`Door`] creates
//! one region at a time, so each door has at most one such thread.
//!
//! [`Door`]: super::Door

use std::{
    fs::File,
    future::{Future as _, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use super::MemoryMappedFile;
use crate::layout::Instance;
use crate::region::Region;
use crate::sys::Access;

/// Takes no longer than a thread takes to begin.
const AT_ONCE: u64 = 64 << 10;
/// Far more than the work takes.
const STACK: usize = 128 << 10;

/// Makes a region of a new file. `None` if the client, which `is_there` polls, has gone
/// meanwhile. The work also ends soon after the future has been dropped.
///
/// # Errors
///
/// Whatever the system says.
pub(super) async fn make(
    file: File,
    settings: &MemoryMappedFile,
    nonce: &Instance,
    access: Access,
    mut is_there: impl FnMut(&mut Context<'_>) -> bool,
) -> io::Result<Option<Region>> {
    let (size, events, nonce) = (settings.size, settings.named_event, *nonce);
    let (told, mut made) = oneshot::channel();
    // Relaxed: a hint. The region itself comes through the channel.
    let wanted = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&wanted);
    let work = move || {
        let is_wanted = || still.load(Ordering::Relaxed) && !told.is_closed();
        let region = Region::fill(&file, size, &nonce, events, access, &is_wanted);
        drop(file); // And with it the pages, if that failed.
        // A region that is not wanted any more is dropped here, too.
        drop(told.send(region));
    };
    let thread = if size <= AT_ONCE {
        work();
        None
    } else {
        let thread = thread::Builder::new().name("witrpc-region".to_owned());
        Some(thread.stack_size(STACK).spawn(work)?)
    };
    let made = poll_fn(|cx| {
        if !is_there(cx) {
            wanted.store(false, Ordering::Relaxed);
        }
        Pin::new(&mut made).poll(cx)
    });
    let made = made.await;
    // The thread has nothing left to do. A process that forks in a quiet moment must not find it still ending.
    let ended = thread.map(JoinHandle::join);
    debug_assert!(made.is_err() || ended.is_none_or(|ended| ended.is_ok()));
    match made {
        Ok(_) if !wanted.load(Ordering::Relaxed) => Ok(None),
        Ok(region) => region.map(Some),
        Err(_) => Err(io::Error::other("the thread that creates regions has panicked")),
    }
}
