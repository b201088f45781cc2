//! The server's side of witrpc over a named memory-mapped file.
//!
//! Adds one method to [`WitServerBuilder`]: [`with_memory_mapped_file`](WithMemoryMappedFile::with_memory_mapped_file).
//! Most users get it from the prelude of the crate `witrpc`. A program that is only a server can depend on this crate alone, and on
//! `witrpc-macros` for its contract:
//!
//! ```text
//! #[witrpc_macros::service(crate = witrpc_mmf_server::witrpc_runtime)]
//! ```
//!
//! A contract that clients use, too, names `witrpc_runtime` itself.

#![forbid(unsafe_code)]

mod listener;

pub use listener::MmfServerTransport;
pub use witrpc_mmf::MemoryMappedFile;

pub use witrpc_core::{self, Error, Result};
pub use witrpc_runtime::{self, WitServer, WitServerBuilder};

/// Adds [`with_memory_mapped_file`](Self::with_memory_mapped_file) to [`WitServerBuilder`].
pub trait WithMemoryMappedFile {
    /// Serves this endpoint: a name, or a [`MemoryMappedFile`] with its settings.
    #[must_use]
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self;
}

impl WithMemoryMappedFile for WitServerBuilder {
    fn with_memory_mapped_file(self, file: impl Into<MemoryMappedFile>) -> Self {
        self.with_transport(MmfServerTransport::new(file))
    }
}
