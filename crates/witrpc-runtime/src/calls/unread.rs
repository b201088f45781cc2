//! Answers that have arrived and are not taken. If the peer has a response that waits for the room that they hold, the oldest of
//! them make way, so that a call whose future is kept without being polled holds up no other.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::calls::host::CallHost;
use crate::locks;

/// An answer that its caller could have taken for so long makes way.
const GRACE: Duration = Duration::from_secs(1);

/// Operations on answers that were not taken.
pub(crate) trait MakesWay: CallHost {
    /// A response of the peer waits for `missing` bytes of credit. From now on, until the peer has got credit, answers that nobody takes
    /// make way.
    fn handle_answer_waits(&self, missing: u64) {
        self.link().ledger.note_answer_waits();
        self.link().wake_driver();
        // SeqCst, here and below: whoever says that an answer waits stores that and then looks for the task; the task says that it ends and
        // then looks whether an answer waits. So one of them sees the other.
        if self.calls().makes_way.swap(true, Ordering::SeqCst) {
            return;
        }
        let host = self.call_host();
        self.link().runtime.spawn(async move {
            let mut arrived = 0;
            while host.upgrade().is_some_and(|host| make_way(&*host, missing, &mut arrived)) {
                tokio::time::sleep(GRACE).await;
            }
        });
    }
}

impl<H: CallHost + ?Sized> MakesWay for H {}

/// Drops the oldest of the answers that were there when `arrived` had arrived. Returns whether to look again.
fn make_way(host: &dyn CallHost, missing: u64, arrived: &mut u64) -> bool {
    let (link, calls) = (host.link(), host.calls());
    if link.closed().is_some() {
        return false;
    }
    if !link.ledger.answer_waits() {
        calls.makes_way.store(false, Ordering::SeqCst);
        // If the peer has said it again meanwhile, this task goes on, unless another one was spawned.
        let again = link.ledger.answer_waits() && !calls.makes_way.swap(true, Ordering::SeqCst);
        if !again {
            return false;
        }
    }
    let mut pending = calls.pending.lock();
    let unread = pending.drop_unread(*arrived, missing);
    *arrived = pending.arrived();
    drop(pending);
    // Their bytes become credit, with no lock held.
    locks::dispose(unread);
    true
}
