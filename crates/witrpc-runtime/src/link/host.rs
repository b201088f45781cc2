//! A connection as its link, and each of its parts, sees it.
//!
//! The link and the parts do not know the connection. Each declares what it needs of it: the link here, a part in its own folder. The
//! connection composes them.

use std::collections::HashSet;

use witrpc_core::session::inbound::Incoming;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::outbound::Outbound;
use witrpc_core::session::pending::{Answer, CallId};
use witrpc_core::values::content::Content;
use witrpc_core::wire::message::Head;
use witrpc_core::{CloseReason, Error};

use crate::link::halves::Link;
use crate::link::poller::Poll;

/// What a link needs of its connection.
pub(crate) trait Host: Send + Sync + 'static {
    fn link(&self) -> &Link;

    /// Hands a frame to the part that it is for. Requests are handed back: only the driver serves.
    fn handle(
        &self,
        incoming: Incoming,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error>;

    /// Puts a request aside that somebody else than the driver has read.
    fn put_aside(&self, request: Request) -> Result<(), Error>;

    /// Queues what the parts have left for the next time that somebody sends.
    fn before_pump(&self, outbound: &mut Outbound);

    /// The connection has ended: fails everything that waits. Requests with these ids have not left.
    fn end_parts(&self, reason: &CloseReason, unsent: &HashSet<CallId>);

    /// Whether a caller on this side was woken for its answer, and has not had its turn yet.
    fn has_woken_caller(&self) -> bool;
}

/// What a drained frame asks of whoever drained it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// What the leader waits for: its answer, or something in its stream.
    Wanted,
    /// A request to be served.
    Serve,
    /// Another caller was woken.
    Woke,
    Nothing,
}

/// Where a drained frame's values are put. They are not returned: being moved at every level is a good part of a small call's
/// time.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// The leader's.
    pub(crate) answer: Option<Answer>,
    pub(crate) request: Option<Request>,
    /// The leader's polling, of which a slice is over: before and after.
    pub(crate) polling: Option<Poll>,
}

/// What whoever drains waits for.
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
    pub(crate) head: Head,
    pub(crate) content: Content,
    pub(crate) charge: Charge,
}
