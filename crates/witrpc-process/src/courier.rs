//! The courier of a connection: it sends and receives descriptors through the socket pair between a host and its worker.
//!
//! A descriptor crosses with the id of the stream that stands for it in a message. It is sent only once its receiver has asked for it, by
//! reading that stream; before that, the receiver has left a waiter with the id here.
//!
//! # Invariants
//!
//! - **D1** A descriptor that arrives and that nobody waits for is closed at once.
//! - **D2** The task that receives ends with the connection, and with it all that wait.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::task::coop::consume_budget;
use witrpc_core::text::Escaped;
use witrpc_mmf::inherited::{Inbox, Lifeline, Outbox};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Courier {
    outbox: Outbox,
    waiting: Mutex<Waiting>,
}

/// Who waits for the descriptor of which stream; `None` once the connection has ended.
type Waiting = Option<HashMap<u64, oneshot::Sender<io::Result<OwnedFd>>>>;

/// Ends the task that receives when it is dropped.
#[derive(Debug)]
pub(crate) struct Receiving(AbortHandle);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Courier {
    /// Begins to receive, on the current runtime.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O, or no descriptor left.
    pub(crate) fn start(lifeline: &Lifeline) -> io::Result<(Arc<Self>, Receiving)> {
        let (outbox, inbox) = lifeline.post()?;
        let courier = Arc::new(Self { outbox, waiting: Mutex::new(Some(HashMap::new())) });
        // Before the task is spawned, which may be dropped before its first poll.
        let ending = Ending(Arc::clone(&courier));
        let task = tokio::spawn(receive(ending, inbox));
        Ok((courier, Receiving(task.abort_handle())))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a descriptor, of which this side keeps its own. Returns `false` if there is no room at the moment.
    ///
    /// # Errors
    ///
    /// If the other side has ended; whatever else the system says.
    pub(crate) fn try_send(&self, stream: u64, descriptor: BorrowedFd<'_>) -> io::Result<bool> {
        self.outbox.try_send(stream, descriptor)
    }

    /// Waits for the descriptor of this stream from now on, as long as the value lives. `None` if the connection has ended, or somebody waits for
    /// it already.
    pub(crate) fn expect(self: &Arc<Self>, stream: u64) -> Option<Expected> {
        let (sender, arrival) = oneshot::channel();
        let mut waiting = self.waiting();
        let waiting = waiting.as_mut()?;
        if waiting.contains_key(&stream) {
            return None;
        }
        waiting.insert(stream, sender);
        Some(Expected { courier: Arc::clone(self), stream, arrival })
    }

    fn arrived(&self, stream: u64, descriptor: io::Result<OwnedFd>) {
        let waiter = self.waiting().as_mut().and_then(|waiting| waiting.remove(&stream));
        // D1: it is closed here, or by the waiter that has just gone.
        if let Some(waiter) = waiter {
            drop(waiter.send(descriptor));
        }
    }
}

/// A descriptor that is waited for.
#[derive(Debug)]
pub(crate) struct Expected {
    courier: Arc<Courier>,
    stream: u64,
    arrival: oneshot::Receiver<io::Result<OwnedFd>>,
}

impl Expected {
    /// `None` if the connection has ended.
    pub(crate) async fn arrives(&mut self) -> Option<io::Result<OwnedFd>> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let waiter =
            self.courier.waiting().as_mut().and_then(|waiting| waiting.remove(&self.stream));
        drop(waiter);
    }
}

/// Ends all that wait (D2).
struct Ending(Arc<Courier>);

impl Drop for Ending {
    fn drop(&mut self) {
        let waiting = self.0.waiting().take();
        drop(waiting);
    }
}

async fn receive(ending: Ending, mut inbox: Inbox) {
    loop {
        // The other side may send without end.
        consume_budget().await;
        match inbox.receive().await {
            Ok(Some((stream, descriptor))) => {
                let limit = "this process has no descriptors left: raise its limit (ulimit -n)";
                ending.0.arrived(stream, descriptor.ok_or_else(|| io::Error::other(limit)));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = %Escaped(&error), "could not receive descriptors any more");
                return;
            }
        }
    }
}
