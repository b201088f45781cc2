//! Tests over the public API. The suite runs for every transport and runtime; tests that need a second process start one.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::too_many_arguments,
    reason = "a failed unwrap is a failed test, and the numbers here are small"
)]

mod authorization;
mod authorizing;
#[cfg(target_os = "linux")]
mod bulk;
mod callbacks;
mod cancelling;
mod clockless;
mod comebacks;
mod confidential;
mod contract;
mod crossing;
mod errors;
mod events;
mod fixture;
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "it forks")]
mod forked;
mod hostile;
#[cfg(target_os = "linux")]
mod idle;
#[cfg(unix)]
mod inherited;
mod instances;
mod introspection;
mod kill;
mod late;
mod launching;
mod lending;
mod lifetimes;
mod load;
mod nesting;
mod overload;
mod peer;
mod pool;
mod processes;
mod raw;
mod reconnect;
mod runtimes;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod sandbox;
mod soak;
mod spy;
mod streams;
mod suite;
mod system;
mod tidy;
mod tracing;
mod turns;
mod values;
mod witness;
#[cfg(target_os = "linux")]
mod workers;
