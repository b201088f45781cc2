//! Calls that are made.
//!
//! 1. `XClient::method` serializes the arguments at once, behind room for the message's head, in a spare buffer of the thread (`call`).
//!    Nothing is sent yet.
//! 2. The first poll looks up the route (the place of the contract in the peer's catalog), takes one of the slots for calls in flight,
//!    leaves the caller's waker there unless the caller is alone, queues the request and pumps (`making`). A small request enters the
//!    ring in this step, on the caller's thread.
//! 3. A later poll looks for the answer in the table. If it is not there, the caller *leads* ([`link`](crate::link)): it drains the
//!    ring, stores the answers of others and wakes them. If polling has paid off recently, it polls the ring for a while. Meanwhile it
//!    has asked to be notified of the record behind the one that it waits for, so it leaves the ring armed without another step.
//! 4. A caller polls in slices. Between two slices it leaves the ring as C1 of `reception` asks, and other tasks run.
//! 5. Without an answer, the caller leaves the ring armed and returns `Pending`; the driver wakes it.
//!
//! A connection is the same on both sides, so a handler calls its client back in the same way: `callee` is either a client, for its
//! server over whichever connection there is, or the peer of one connection, which `CallContext::peer` gives. Each side sends the other
//! its catalog in the handshake, the client in its confirm.
//!
//! `dynamic` is what `call_dynamic` sends and receives in place of generated types; it finds its route in the catalog by name alone.

pub(crate) mod arguments;
pub(crate) mod call;
pub(crate) mod callee;
#[cfg(feature = "json")]
pub(crate) mod dynamic;
pub(crate) mod host;
pub(crate) mod making;
pub(crate) mod outcome;
pub(crate) mod ping;
pub(crate) mod retry;
pub(crate) mod table;
pub(crate) mod unread;
