//! One session: its two halves, its tables and its accounts. Steps without a clock, a lock or a task.

pub mod inbound;
pub mod ledger;
pub mod lending;
pub mod outbound;
pub mod pending;
pub mod places;
#[cfg(test)]
mod simulation;
pub mod stream_receiver;
pub mod window;
