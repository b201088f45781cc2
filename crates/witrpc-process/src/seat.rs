//! The transport of a host's client: the connection of whichever process was started last. Each connection can be opened once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use witrpc_core::transport::{BoxFuture, Channel, ClientTransport};
use witrpc_core::{Error, WaitStrategy, fail_point};
use witrpc_mmf::MemoryMappedFile;

use crate::process::Process;
use crate::sys::Offer;

/// Clones share the seat.
#[derive(Clone, Debug)]
pub(crate) struct Seat(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    worker: String,
    size: u64,
    wait_strategy: WaitStrategy,
    offered: Mutex<Option<(Arc<Process>, Offer)>>,
    changed: Notify,
}

impl Seat {
    pub(crate) fn new(worker: String, size: u64, wait_strategy: WaitStrategy) -> Self {
        let (offered, changed) = (Mutex::new(None), Notify::new());
        Self(Arc::new(Shared { worker, size, wait_strategy, offered, changed }))
    }

    fn offered(&self) -> MutexGuard<'_, Option<(Arc<Process>, Offer)>> {
        self.0.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of a process that was just started.
    pub(crate) fn put(&self, process: Arc<Process>, offer: Offer) {
        let last = self.offered().replace((process, offer));
        drop(last);
        self.0.changed.notify_waiters();
    }

    /// Takes back what was put there and not opened.
    pub(crate) fn clear(&self) {
        let last = self.offered().take();
        drop(last);
    }
}

impl ClientTransport for Seat {
    fn name(&self) -> &str {
        &self.0.worker
    }

    fn validate(&self) -> Result<(), Error> {
        // The name is nobody's: the size is checked, which has the same bounds everywhere.
        MemoryMappedFile::new("worker").with_size(self.0.size).validate()
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        let began = Instant::now();
        Box::pin(async move {
            loop {
                // Before the check, so that a process in between is not missed.
                let changed = self.0.changed.notified();
                let offered = self.offered().take();
                if let Some((process, offer)) = offered {
                    let (killer, wait) = (process.killer(), self.0.wait_strategy);
                    let opened = offer.open(process.id(), killer, wait, deadline).await;
                    fail_point::at("worker.opened");
                    return opened;
                }
                if tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
                    return Err(Error::NotRunning {
                        endpoint: self.0.worker.clone(),
                        place: "the workers of this process".to_owned(),
                        running: "unknown".to_owned(),
                        waited: began.elapsed(),
                    });
                }
            }
        })
    }
}
