//! The transport over its public interface, in one process and in several.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "all of this is test, helpers included")]

mod common;
mod endpoint;
#[cfg(unix)]
mod environment;
mod fake;
#[cfg(target_os = "linux")]
mod forked;
#[cfg(windows)]
mod handed;
#[cfg(target_os = "linux")]
mod inherited;
#[cfg(target_os = "linux")]
mod lent;
mod listing;
mod processes;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;
