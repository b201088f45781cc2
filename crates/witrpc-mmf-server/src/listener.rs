//! The server transport: implements `witrpc_core`'s traits for the endpoint of `witrpc-mmf`.

use witrpc_core::Error;
use witrpc_core::transport::{BoxFuture, Channel, Listener, ServerTerms, ServerTransport};
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile};

/// The server's side of the transport over memory-mapped files.
#[derive(Debug)]
pub struct MmfServerTransport {
    file: MemoryMappedFile,
    /// These outlast a listener: connected clients stay connected, and keep their slots.
    slots: ClientSlots,
}

impl MmfServerTransport {
    /// Makes a transport that listens at this endpoint. It accepts at most
    /// [`with_max_clients`](MemoryMappedFile::with_max_clients) clients at a time. Clients that are still connected count, even after the
    /// server has stopped and started to listen again.
    #[must_use]
    pub fn new(file: impl Into<MemoryMappedFile>) -> Self {
        let file = file.into().settled();
        Self { slots: ClientSlots::of(&file), file }
    }
}

impl ServerTransport for MmfServerTransport {
    fn name(&self) -> &str {
        self.file.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.file.validate()
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async { Ok(listener(Door::open(&self.file, &self.slots).await?)) })
    }

    fn listen_with<'a>(
        &'a self,
        terms: &'a ServerTerms,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, Error>> {
        Box::pin(async {
            Ok(listener(Door::open_with(&self.file, &self.slots, Some(terms)).await?))
        })
    }
}

fn listener(door: Door) -> Box<dyn Listener> {
    Box::new(MmfListener { door })
}

#[derive(Debug)]
struct MmfListener {
    door: Door,
}

impl Listener for MmfListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(self.door.accept())
    }
}
