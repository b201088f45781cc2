//! Steps on the sending half, which end the connection if they fail.

use witrpc_core::Error;
use witrpc_core::session::outbound::{Outbound, Pumped};

use crate::link::ending::Ends;
use crate::link::host::Host;

/// What can be done with the sending half of a connection, for its parts.
pub(crate) trait Sends: Host {
    /// Queues something and sends what can be sent.
    fn send(&self, queue: impl FnOnce(&mut Outbound) -> Result<(), Error>) {
        self.with_outbound(|outbound| {
            queue(outbound)?;
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
    }

    /// Sends what waits, after room, credit, or something to say has come; returns whether to call again soon. If there is
    /// no room, the peer wakes us.
    fn pump(&self) -> bool {
        self.pump_with(|outbound| outbound.pump(true))
    }

    /// The same for who will [look for room](crate::link::halves::Link::has_room_again), and [`pump`](Self::pump) before it rests; and
    /// who keeps nobody waiting if it is `alone`.
    fn pump_awake(&self, alone: bool) -> bool {
        self.pump_with(|outbound| outbound.pump_awake(alone))
    }

    fn pump_with(&self, pump: impl FnOnce(&mut Outbound) -> Result<Pumped, Error>) -> bool {
        self.with_outbound(|outbound| {
            self.before_pump(outbound);
            if outbound.is_clear() {
                return outbound.publish().map(|()| false);
            }
            Ok(pump(outbound)? == Pumped::More)
        })
    }

    /// Makes answers visible that were queued and sent without.
    fn publish(&self) {
        self.with_outbound(|outbound| outbound.publish().map(|()| false));
    }

    /// What a step says that has pumped: whether to pump again soon, which the driver does.
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

    /// Whether it goes on. One whose transport works no more ends here, as any step ends it: in a forked child, one that was inherited.
    fn is_open(&self) -> bool {
        self.send(|_| Ok(()));
        self.link().closed().is_none()
    }
}

impl<H: Host + ?Sized> Sends for H {}
