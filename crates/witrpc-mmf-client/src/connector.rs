//! The client transport: implements `witrpc_core`'s trait for the endpoint of `witrpc-mmf`.

use std::time::Instant;

use witrpc_core::Error;
use witrpc_core::transport::{BoxFuture, Channel, ClientTransport};
use witrpc_mmf::MemoryMappedFile;

/// A server over a named memory-mapped file.
#[derive(Debug)]
pub struct MmfClientTransport {
    file: MemoryMappedFile,
}

impl MmfClientTransport {
    /// The client's end of this endpoint.
    ///
    /// Of the file's settings these must be the server's: the name, [`with_directory`](MemoryMappedFile::with_directory),
    /// [`with_group`](MemoryMappedFile::with_group), and, on Unix if the server has chosen it,
    /// [`NamedEvent::RawSync`](witrpc_mmf::NamedEvent::RawSync). Its wait strategy is the client's own. Size and number of clients are the
    /// server's choice, and not used here.
    #[must_use]
    pub fn new(file: impl Into<MemoryMappedFile>) -> Self {
        Self { file: file.into().settled() }
    }
}

impl ClientTransport for MmfClientTransport {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.file.validate()
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(witrpc_mmf::connect(&self.file, deadline.into()))
    }
}
