//! The shared-memory transport of witrpc: rings of records in a named memory-mapped file, named events that wake,
//! and the endpoint where a client and its server meet.
//!
//! Implements the traits of `witrpc_core::transport`; knows nothing of frames, calls or keys. Users meet only
//! [`MemoryMappedFile`]; the builders of `witrpc-mmf-server` and `witrpc-mmf-client` use [`Door`] and [`connect`].
//! Every byte of a region, and how two processes meet, is in `docs/segment.md`, whose rule ids the code cites.
//!
//! ```text
//!   endpoint ──▶ region ──▶ ring ──▶ layout        name → files → memory → records → bytes
//!      │            ▲         ▲
//!      ├──▶ event   │         │                    the wake-up
//!      └──▶ channel ┴─────────┘                    the traits
//! ```
//!
//! `unsafe` occurs in `region`, and in `ring/heap`, which only tests use.
//!
//! On systems other than Unix this crate is empty for now: `event` is where another kind of named event goes.

#![deny(unsafe_code)]
#![cfg_attr(
    all(loom, test),
    expect(dead_code, reason = "only the ring is modelled, not what is built on it")
)]

#[cfg(all(unix, not(loom)))]
mod access;
#[cfg(all(unix, not(loom)))]
#[doc(hidden)]
pub mod bench_support;
#[cfg(all(unix, not(loom)))]
mod channel;
#[cfg(all(unix, not(loom)))]
mod endpoint;
#[cfg(all(unix, not(loom)))]
mod event;
#[cfg(all(unix, not(loom), any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz_support;
#[cfg(any(all(unix, not(loom)), all(loom, test)))]
mod layout;
#[cfg(all(unix, not(loom)))]
#[expect(unsafe_code, reason = "mapped memory is shared with a process that no type can bind")]
mod region;
#[cfg(any(all(unix, not(loom)), all(loom, test)))]
mod ring;
#[cfg(any(all(unix, not(loom)), all(loom, test)))]
mod sync;

#[cfg(all(unix, not(loom)))]
pub use endpoint::{
    Door, Endpoint, MemoryMappedFile, Places, connect, endpoints, endpoints_in, unique_name,
};
