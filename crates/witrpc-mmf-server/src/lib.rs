//! The server's side of witrpc over a named memory-mapped file.
//!
//! Adds one method to [`WitServerBuilder`]: [`with_memory_mapped_file`](WithMemoryMappedFile::with_memory_mapped_file).
//! Most users get it from the prelude of the `witrpc` crate. A program that is only a server needs no more than this crate, and
//! `witrpc-macros` for its contract:
//!
//! ```text
//! #[witrpc_macros::service(crate = witrpc_mmf_server::witrpc_runtime)]
//! ```
//!
//! A contract that clients share names `witrpc_runtime` itself.

#![forbid(unsafe_code)]

mod listener;

pub use listener::MmfServerTransport;
pub use witrpc_mmf::MemoryMappedFile;

pub use witrpc_core::{self, Error, Result};
pub use witrpc_runtime::{self, WitServer, WitServerBuilder};

/// Puts a server on a named memory-mapped file.
pub trait WithMemoryMappedFile {
    /// Listens on this name, or on this [`MemoryMappedFile`] with its size, directory and number of clients.
    #[must_use]
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self;
}

impl WithMemoryMappedFile for WitServerBuilder {
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self {
        self.with_transport(MmfServerTransport::new(file))
    }
}
