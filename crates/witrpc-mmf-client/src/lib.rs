//! The client's side of witrpc over a named memory-mapped file.
//!
//! Adds one method to [`WitClientBuilder`]: [`with_memory_mapped_file`](WithMemoryMappedFile::with_memory_mapped_file).
//! Most users get it from the prelude of the crate `witrpc`. A program that is only a client can depend on this crate alone, and on
//! `witrpc-macros` for its contract:
//!
//! ```text
//! #[witrpc_macros::service(crate = witrpc_mmf_client::witrpc_runtime)]
//! ```
//!
//! A contract that servers use, too, names `witrpc_runtime` itself.

#![forbid(unsafe_code)]

mod connector;

pub use connector::MmfClientTransport;
pub use witrpc_mmf::MemoryMappedFile;

pub use witrpc_core::{self, Error, Result};
pub use witrpc_runtime::{self, WitClient, WitClientBuilder};

/// Adds [`with_memory_mapped_file`](Self::with_memory_mapped_file) to [`WitClientBuilder`].
pub trait WithMemoryMappedFile {
    /// Connects to the server of this endpoint: a name, or a [`MemoryMappedFile`] with its settings. [`MmfClientTransport::new`] lists
    /// the settings that a client uses.
    #[must_use]
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self;
}

impl WithMemoryMappedFile for WitClientBuilder {
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self {
        self.with_transport(MmfClientTransport::new(file))
    }
}
