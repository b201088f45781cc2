//! Events: raised on one side, subscribed to on the other.
//!
//! 1. `XClient::event().subscribe()` makes a client subscription, which belongs to the client and not to a connection, and queues a
//!    subscribe frame in the control lane. Without a connection it waits for one. A later connection takes it over, and the subscriber
//!    sees a mark.
//! 2. The serving side makes a remote subscriber for it, and attaches that to the service's event (`publishing`).
//! 3. `raise` hands the value to each subscriber in turn, under the event's lock: that is the one order. The value is serialized once
//!    per serializer, whatever the number of subscribers. Values are numbered, so each subscriber counts its own losses, wherever they
//!    happened.
//! 4. Within its window a subscriber is sent the value at once. Beyond it, or while the connection is backed up, the value joins the
//!    subscriber's backlog, which overflows as the event says. All backlogs of a connection share one account.
//! 5. Events have a lane of their own in the sending half, behind control frames and ahead of calls.
//! 6. `CallContext` notes the last event that a handler raised to its caller, and the subscribers in whose backlog such values wait.
//!    When the handler is done, those are flushed beyond the window, and the response waits until the last of them has left.
//! 7. Where nothing follows a dropped value, a mark does, with the number of the next value. [wire.event.lag]
//! 8. The client subscription takes a value in, returns its credit at once, and wakes the subscriber. What the subscriber takes is
//!    acknowledged in batches, and that opens the window: so a subscriber that does not read stalls no call. Of earlier connections it
//!    keeps a few windows.
//!
//! A subscription to an event of a pool is `merged` from one at each of its members.

pub(crate) mod backlog;
pub(crate) mod client_subscription;
pub(crate) mod error;
pub(crate) mod event;
pub(crate) mod host;
mod local_subscriber;
pub(crate) mod merged;
pub(crate) mod pool_subscription;
pub(crate) mod publishing;
pub(crate) mod remote_event;
pub(crate) mod remote_subscriber;
pub(crate) mod subscriber;
pub(crate) mod subscribing;
pub(crate) mod subscription;
pub(crate) mod table;
