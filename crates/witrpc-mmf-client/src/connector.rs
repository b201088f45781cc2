//! The client transport: implements `witrpc_core`'s trait for the endpoint of `witrpc-mmf`.

use std::time::Instant;

use witrpc_core::Error;
use witrpc_core::transport::{BoxFuture, Channel, ClientTransport};
use witrpc_mmf::MemoryMappedFile;

/// The client's side of the transport over a memory-mapped file.
#[derive(Debug)]
pub struct MmfClientTransport {
    file: MemoryMappedFile,
}

impl MmfClientTransport {
    /// Makes a transport that connects to the server of this endpoint.
    ///
    /// These settings must be the same as the server's: the name, [`with_directory`](MemoryMappedFile::with_directory),
    /// [`with_group`](MemoryMappedFile::with_group), and [`NamedEvent::RawSync`](witrpc_mmf::NamedEvent::RawSync) on Unix if the server
    /// uses it. The wait strategy is the client's own choice. The server chooses the size and the number of clients; they are ignored here.
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
