//! The client's side of witrpc over a named memory-mapped file.
//!
//! Adds one method to [`WitClientBuilder`]: [`with_memory_mapped_file`](WithMemoryMappedFile::with_memory_mapped_file).
//! Most users get it from the prelude of the `witrpc` crate. A program that is only a client needs no more than this crate, and
//! `witrpc-macros` for its contract:
//!
//! ```text
//! #[witrpc_macros::service(crate = witrpc_mmf_client::witrpc_runtime)]
//! ```
//!
//! A contract that servers share names `witrpc_runtime` itself.

#![forbid(unsafe_code)]

mod connector;

pub use connector::MmfClientTransport;
pub use witrpc_mmf::MemoryMappedFile;

pub use witrpc_core::{self, Error, Result};
pub use witrpc_runtime::{self, WitClient, WitClientBuilder};

/// Points a client at a named memory-mapped file.
pub trait WithMemoryMappedFile {
    /// Connects to the server of this name, or of this [`MemoryMappedFile`]; [`MmfClientTransport::new`] says which of its settings
    /// matter to a client.
    #[must_use]
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self;
}

impl WithMemoryMappedFile for WitClientBuilder {
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self {
        self.with_transport(MmfClientTransport::new(file))
    }
}
