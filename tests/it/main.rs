//! Tests over the public API. The suite runs for every transport and runtime; what needs a second process has it.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a failed unwrap is a failed test, and the numbers here are small"
)]

mod contract;
mod fixture;
mod suite;
mod tidy;
