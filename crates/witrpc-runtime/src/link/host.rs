//! The interface by which a link uses its connection.
//!
//! The link and the features do not know the connection. Each declares what it needs of it: the link here, a feature in the `host` module
//! of its folder. The connection implements these traits.

use std::collections::HashSet;
use std::sync::Weak;

use witrpc_core::session::inbound::Incoming;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::outbound::Outbound;
use witrpc_core::session::pending::{Answer, CallId};
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::Nesting;
use witrpc_core::wire::message::Head;
use witrpc_core::{CloseReason, Error};

use crate::link::halves::Link;
use crate::link::poller::Poll;

/// What a link needs of its connection.
pub(crate) trait Host: Send + Sync + 'static {
    fn link(&self) -> &Link;

    /// Itself, for what is done later.
    fn this(&self) -> Weak<dyn Host>;

    /// Passes a frame to the feature that it is for. Requests are returned in `drained`: only the driver serves.
    fn handle(
        &self,
        incoming: Incoming,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error>;

    /// Puts a request aside that was read by a caller and not by the driver.
    fn put_aside(&self, request: Request) -> Result<(), Error>;

    /// Whether the features have left something for the next pump.
    fn has_more_to_pump(&self) -> bool;

    /// Queues what the features have left for the next pump.
    fn before_pump(&self, outbound: &mut Outbound);

    /// The connection has ended: fails everything that waits. Requests with these ids have not left.
    fn end_parts(&self, reason: &CloseReason, unsent: &HashSet<CallId>);

    /// Whether a caller on this side was woken for its answer, and has not run yet.
    fn has_woken_caller(&self) -> bool;
}

/// What the task that drained a frame has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// The leader got what it waits for: its answer, or a frame of its stream.
    Wanted,
    /// A request to be served.
    Serve,
    /// Another caller was woken.
    Woke,
    Nothing,
}

/// Receives the values of drained frames. They are not return values, because moving them at every level takes a good part of a small
/// call's time.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// The leader's answer.
    pub(crate) answer: Option<Answer>,
    pub(crate) request: Option<Request>,
    /// The leader's busy-poll, if a slice of it is over: as input and as output.
    pub(crate) polling: Option<Poll>,
}

/// What the task that drains waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Nothing,
    Call(CallId),
    Stream(u64),
}

/// A request of the peer's, to be served.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) nesting: Nesting,
    pub(crate) head: Head,
    pub(crate) content: Content,
    pub(crate) charge: Charge,
}
