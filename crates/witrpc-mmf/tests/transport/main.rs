//! The transport over its public interface, in one process and in several.

#![cfg(all(unix, not(loom)))]
#![expect(clippy::unwrap_used, reason = "all of this is test, helpers included")]

mod common;
mod endpoint;
mod environment;
#[cfg(target_os = "linux")]
mod forked;
mod listing;
mod processes;
