//! How a connection ends: the reason, and the goodbye to the peer. Each part of the connection handles what was in progress.

use std::collections::HashSet;

use witrpc_core::fail_point;
use witrpc_core::session::outbound::Outbound;
use witrpc_core::text::Escaped;
use witrpc_core::{CloseReason, Error};

use crate::link::host::Host;
use crate::locks;

/// The ways in which a connection ends.
pub(crate) trait Ends: Host {
    /// Ends the connection because of an error, and tells the peer which.
    fn fail(&self, error: &Error) {
        let goodbye = error.to_string();
        self.end(CloseReason::Failed(goodbye.clone()), &goodbye);
    }

    /// Ends the connection at this side's request, and tells the peer.
    fn disconnect(&self, goodbye: &str) {
        self.end(CloseReason::Local, goodbye);
    }

    /// Says goodbye and closes.
    fn end(&self, reason: CloseReason, goodbye: &str) {
        self.close_with(reason, |outbound| {
            outbound.clear();
            say_goodbye(outbound, goodbye);
        });
        self.link().wake_driver();
    }

    /// Tries to send the goodbye again. Returns whether it still waits to be sent.
    fn retry_goodbye(&self) -> bool {
        let mut guard = self.link().sending.outbound.lock();
        let Some(outbound) = guard.as_mut() else { return false };
        outbound.has_goodbye() && outbound.pump(true).is_ok() && outbound.has_goodbye()
    }

    /// Fails everything that waits. The halves stay until the driver drops them.
    fn close(&self, reason: CloseReason) {
        self.close_with(reason, |_| ());
    }

    /// Closes the connection after `queue_last` has queued its last frames. The sending half is locked meanwhile: the driver, which drops
    /// it once it sees the reason, cannot do so earlier.
    fn close_with(&self, reason: CloseReason, queue_last: impl FnOnce(&mut Outbound)) {
        let link = self.link();
        let mut guard = link.sending.outbound.lock();
        if !link.set_closed(reason) {
            return;
        }
        let mut unsent = HashSet::new();
        if let Some(outbound) = guard.as_mut() {
            unsent = outbound.unsent_requests();
            queue_last(outbound);
        }
        drop(guard);
        fail_point::at("connection.closing");
        let Some(reason) = link.closed() else { return };
        let (reason, this) = (reason.clone(), self.this());
        // Everybody who waits is told, with no lock held (L2): whoever found that the connection cannot go on may hold some.
        locks::later(move || {
            let Some(this) = this.upgrade() else { return };
            this.link().sending.queue.close();
            this.end_parts(&reason, &unsent);
        });
    }
}

impl<H: Host + ?Sized> Ends for H {}

/// Queues a goodbye, and tries to send it once; the driver retries for [`GOODBYE_TIMEOUT`](crate::link::driver::GOODBYE_TIMEOUT).
pub(crate) fn say_goodbye(outbound: &mut Outbound, goodbye: &str) {
    outbound.push_goodbye(goodbye);
    if let Err(error) = outbound.pump(true) {
        locks::later(move || tracing::debug!(error = %Escaped(&error), "could not send a goodbye"));
    }
}
