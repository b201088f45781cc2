//! Steps on the sending half. An error in one ends the connection.

use witrpc_core::Error;
use witrpc_core::session::outbound::{Outbound, Pumped};

use crate::link::ending::Ends;
use crate::link::host::Host;

/// Operations on the sending half, for the features of a connection.
pub(crate) trait Sends: Host {
    /// Queues frames with `step`, and sends what can be sent.
    fn send(&self, queue: impl FnOnce(&mut Outbound) -> Result<(), Error>) {
        self.with_outbound(|outbound| {
            queue(outbound)?;
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
    }

    /// Sends what waits, after there is new room, credit, or something to send. Returns whether to call it again soon. If there is no
    /// room, the peer will notify us.
    fn pump(&self) -> bool {
        self.pump_with(|outbound| outbound.pump(true))
    }

    /// As [`pump`](Self::pump), for a caller that goes on to [poll for room](crate::link::halves::Link::has_room_again), and calls `pump`
    /// before it sleeps. If `alone`, no other task waits for its thread.
    fn pump_awake(&self, alone: bool) -> bool {
        self.pump_with(|outbound| outbound.pump_awake(alone))
    }

    fn pump_with(&self, pump: impl FnOnce(&mut Outbound) -> Result<Pumped, Error>) -> bool {
        if self.link().is_idle() && !self.has_more_to_pump() {
            return false;
        }
        self.with_outbound(|outbound| {
            self.before_pump(outbound);
            if outbound.is_clear() {
                return outbound.publish().map(|()| false);
            }
            Ok(pump(outbound)? == Pumped::More)
        })
    }

    /// Publishes answers that were pushed without being published.
    fn publish(&self) {
        self.with_outbound(|outbound| outbound.publish().map(|()| false));
    }

    /// Evaluates the result of a pump. Returns whether the driver has to pump again soon.
    fn after_pump(&self, pumped: Result<Pumped, Error>) -> Result<bool, Error> {
        let more = pumped? == Pumped::More;
        if more {
            self.link().wake_driver();
        }
        Ok(more)
    }

    /// Runs a step on the sending half; an error ends the connection.
    fn with_outbound(&self, step: impl FnOnce(&mut Outbound) -> Result<bool, Error>) -> bool {
        self.link().with_outbound(step).unwrap_or_else(|error| {
            self.fail(&error);
            false
        })
    }

    /// Whether the connection is alive. Ends it if the transport fails, as that of an inherited connection does in a forked child.
    fn is_open(&self) -> bool {
        self.send(Outbound::probe);
        self.link().closed().is_none()
    }
}

impl<H: Host + ?Sized> Sends for H {}
