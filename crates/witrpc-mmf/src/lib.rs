//! The shared-memory transport of witrpc: rings of records in a named memory-mapped file, named events that wake the peer, and the endpoint
//! for the rendezvous of a client with its server.
//!
//! It implements the traits of `witrpc_core::transport`, and knows nothing of frames, calls or keys. Users see only [`MemoryMappedFile`]; the
//! builders of `witrpc-mmf-server` and `witrpc-mmf-client` use [`Door`] and [`connect`]. `docs/segment.md` specifies every byte of a
//! region, and the rendezvous; the code cites its rule ids.
//!
//! ```text
//!   endpoint ──▶ region ──▶ ring ──▶ layout        name → files → memory → records → bytes
//!      │            ▲         ▲
//!      ├──▶ event   │         │                    the wake-up
//!      └──▶ channel ┴─────────┘                    the traits
//!      inherited ──▶ region, event, channel        the same without a name
//!          └──▶ arena ──▶ region                   memory that the two sides lend each other
//! ```
//!
//! `unsafe` occurs in `region`, `arena`, below `event/raw_sync`, in `sys/unix/fork`, `sys/unix/inheriting`, `sys/unix/pages` and `sys/windows`, and in
//! `ring/heap`, which only tests use.
//!
//! Code that differs between systems is in folders of its own: `sys`, and `unix` and `windows` below `endpoint`, `event` and `inherited`.

#![deny(unsafe_code)]
#![cfg_attr(
    all(loom, test),
    expect(dead_code, reason = "only the ring is modelled, not what is built on it")
)]

#[cfg(not(loom))]
#[cfg_attr(windows, expect(dead_code, reason = "nothing is lent there"))]
#[expect(unsafe_code, reason = "what is lent is read and written in place")]
mod arena;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod bench_support;
#[cfg(not(loom))]
mod channel;
#[cfg(not(loom))]
mod copying;
#[cfg(not(loom))]
mod endpoint;
#[cfg(not(loom))]
mod event;
#[cfg(all(not(loom), any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz_support;
#[cfg(not(loom))]
pub mod inherited;
#[cfg(any(not(loom), test))]
mod layout;
#[cfg(not(loom))]
#[expect(unsafe_code, reason = "mapped memory is shared with a process that no type can bind")]
mod region;
#[cfg(any(not(loom), test))]
mod ring;
#[cfg(any(not(loom), test))]
mod sync;
#[cfg(not(loom))]
mod sys;

#[cfg(not(loom))]
pub use arena::TrustedPeer;
#[cfg(not(loom))]
pub use endpoint::{
    ClientSlots, Door, Endpoint, MemoryMappedFile, connect, endpoints, endpoints_in, unique_name,
};
#[cfg(not(loom))]
pub use event::NamedEvent;
#[cfg(all(windows, not(loom)))]
pub use sys::windows::job::Job;
