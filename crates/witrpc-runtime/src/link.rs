//! The two halves of a session with their locks, and who polls, wakes and sleeps.

pub(crate) mod dedicated;
pub(crate) mod driver;
pub(crate) mod ending;
pub(crate) mod fairness;
pub(crate) mod halves;
pub(crate) mod handshake;
pub(crate) mod host;
pub(crate) mod leading;
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
