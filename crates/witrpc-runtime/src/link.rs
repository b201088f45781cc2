//! The two halves of a session with their locks, and the rules for polling, waking and sleeping.
//!
//! # What keeps a call fast
//!
//! - A message that fits into one chunk and has no attachments takes a short path: it bypasses the lanes of the sending half
//!   (`Outbound::push_through`), and leaves the ring without reassembly.
//! - A longer message is cut into chunks. Each side copies each byte once: from the value into the ring, and from the ring into the
//!   message's final allocation, which is made at once. The transport reserves it (`RecordReceiver::reserve`), with large pages for a
//!   long message. When nobody holds that allocation any more, the next long message is received into it ([`reuse`]).
//! - Copying a chunk blocks the thread, so only one chunk is copied per step while other tasks wait: a pump pauses after each
//!   (`Pumped::More`), answers leave before the next chunk is copied, and a task that has woken a caller lets it run before reading on. A
//!   caller that is alone with its message copies many chunks in a row.
//! - A peer on our CPU runs as soon as it is notified, before the tasks here that are about to send more. So a caller among many pushes
//!   its request without publishing it, and the driver publishes all of them once the runtime's other tasks have run
//!   ([`Reception::leave_unpublished`](reception::Reception::leave_unpublished)). The driver also takes more frames before it publishes
//!   the answers, and such a peer gets half a ring of a long message at a time instead of each chunk.
//! - Whatever can be ready again and again (calls, streams, subscriptions, `raise_async`) consumes its task's cooperative budget
//!   ([`fairness`]).

pub(crate) mod dedicated;
pub(crate) mod driver;
pub(crate) mod ending;
pub(crate) mod event_room;
pub(crate) mod fairness;
pub(crate) mod halves;
pub(crate) mod handshake;
pub(crate) mod heap_arena;
pub(crate) mod host;
pub(crate) mod leading;
pub(crate) mod lending;
pub(crate) mod loan;
mod loans;
pub(crate) mod places;
pub(crate) mod poller;
pub(crate) mod reception;
pub(crate) mod reply;
pub mod rescue;
pub mod reuse;
pub(crate) mod sending;
pub(crate) mod sync;
pub(crate) mod timers;
pub(crate) mod trace;
pub(crate) mod turns;
