//! Where a client's connection comes from: the endpoint of `witrpc-mmf` behind `witrpc_core`'s trait.

use witrpc_core::Error;
use witrpc_core::transport::{BoxFuture, Channel, ClientTransport};
use witrpc_mmf::MemoryMappedFile;

/// A server over a named memory-mapped file.
#[derive(Debug)]
pub struct MmfClientTransport {
    file: MemoryMappedFile,
}

impl MmfClientTransport {
    /// The client's end of this endpoint. Of the file's settings only its name, directory and wait strategy matter.
    #[must_use]
    pub fn new(file: impl Into<MemoryMappedFile>) -> Self {
        Self { file: file.into() }
    }
}

impl ClientTransport for MmfClientTransport {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.file.validate()
    }

    fn connect(&self, deadline: tokio::time::Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(witrpc_mmf::connect(&self.file, deadline))
    }
}
