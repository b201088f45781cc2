//! Tests over the public API. The suite runs for every transport and runtime; what needs a second process has it.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::too_many_arguments,
    reason = "a failed unwrap is a failed test, and the numbers here are small"
)]

mod authorization;
mod callbacks;
mod confidential;
mod contract;
mod events;
mod fixture;
mod hostile;
#[cfg(target_os = "linux")]
mod idle;
mod instances;
mod introspection;
mod kill;
mod load;
mod peer;
mod processes;
mod raw;
mod reconnect;
mod runtimes;
mod soak;
mod spy;
mod streams;
mod suite;
mod system;
mod tidy;
mod tracing;
mod values;
