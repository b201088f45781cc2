//! The transport over its public interface, in one process and in several.

#![cfg(all(unix, not(loom)))]
#![expect(clippy::unwrap_used, reason = "all of this is test, helpers included")]

mod common;
mod endpoint;
mod listing;
mod processes;
