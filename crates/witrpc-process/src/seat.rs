//! The transport of a host's client: the connection of whichever process was started last. Each connection can be opened once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use witrpc_core::transport::{BoxFuture, Channel, ClientTransport};
use witrpc_core::{Error, fail_point};

use crate::connection::Connection;
use crate::process::Process;
use crate::sys::Offer;

/// Clones share the seat.
#[derive(Clone, Debug)]
pub(crate) struct Seat(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    worker: String,
    connection: Connection,
    offered: Mutex<Offered>,
    changed: Notify,
}

#[derive(Debug)]
enum Offered {
    /// Nothing yet, or what was offered is opened already: another process may follow.
    Nothing,
    /// The process has ended: who connects is told at once.
    Closed,
    Process(Arc<Process>, Offer),
}

impl Seat {
    pub(crate) fn new(worker: String, connection: Connection) -> Self {
        let (offered, changed) = (Mutex::new(Offered::Nothing), Notify::new());
        Self(Arc::new(Shared { worker, connection, offered, changed }))
    }

    fn offered(&self) -> MutexGuard<'_, Offered> {
        self.0.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection of a process that was just started.
    pub(crate) fn put(&self, process: Arc<Process>, offer: Offer) {
        self.replace(Offered::Process(process, offer));
    }

    /// The process has ended: takes back its connection if nobody has opened it.
    pub(crate) fn close(&self) {
        self.replace(Offered::Closed);
    }

    fn replace(&self, offered: Offered) {
        let last = std::mem::replace(&mut *self.offered(), offered);
        drop(last);
        self.0.changed.notify_waiters();
    }

    /// Takes what is offered; `Closed` stays.
    fn take(&self) -> Offered {
        let mut offered = self.offered();
        match *offered {
            Offered::Closed => Offered::Closed,
            _ => std::mem::replace(&mut offered, Offered::Nothing),
        }
    }
}

impl ClientTransport for Seat {
    fn name(&self) -> &str {
        &self.0.worker
    }

    fn validate(&self) -> Result<(), Error> {
        self.0.connection.validate()
    }

    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        let began = Instant::now();
        Box::pin(async move {
            loop {
                // Before the check, so that a process in between is not missed.
                let changed = self.0.changed.notified();
                let offered = self.take();
                if let Offered::Process(process, offer) = offered {
                    let opened = offer.open(process.id(), process.killer(), &self.0.connection);
                    fail_point::at("worker.opened");
                    return opened;
                }
                let is_closed = matches!(offered, Offered::Closed);
                if is_closed || tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
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
