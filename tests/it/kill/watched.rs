//! A server's transport that records when its connections begin and end, and which client each belongs to.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use witrpc::Error;
use witrpc::transport::{BoxFuture, Channel, Listener, ServerTransport};

use crate::system::now;

/// What is known of a process's connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) came: u64,
    pub(super) ended: u64,
    /// When the last one had ended: region, descriptors and place were free.
    pub(super) last: u64,
}

/// What a [`Watched`] transport has seen, by process; shared with the test.
#[derive(Clone, Debug, Default)]
pub(super) struct Register(Arc<Mutex<HashMap<u32, Seen>>>);

impl Register {
    pub(super) fn of(&self, process: u32) -> Seen {
        self.0.lock().unwrap().get(&process).copied().unwrap_or_default()
    }

    fn change(&self, process: Option<u32>, change: impl FnOnce(&mut Seen)) {
        change(self.0.lock().unwrap().entry(process.unwrap_or_default()).or_default());
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Watched<T> {
    pub(super) inner: T,
    pub(super) register: Register,
}

impl<T: ServerTransport> ServerTransport for Watched<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn validate(&self) -> Result<(), Error> {
        self.inner.validate()
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async {
            let (inner, register) = (self.inner.listen().await?, self.register.clone());
            Ok(Box::new(WatchedListener { inner, register }) as Box<dyn Listener>)
        })
    }
}

#[derive(Debug)]
struct WatchedListener {
    inner: Box<dyn Listener>,
    register: Register,
}

impl Listener for WatchedListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async {
            let mut channel = self.inner.accept().await?;
            let process = channel.peer_process_id;
            self.register.change(process, |seen| seen.came += 1);
            let register = self.register.clone();
            channel.lease = Box::new(Lease { inner: Some(channel.lease), register, process });
            Ok(channel)
        })
    }
}

/// The last thing that a connection lets go of.
struct Lease {
    inner: Option<Box<dyn Any + Send + Sync>>,
    register: Register,
    process: Option<u32>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.inner.take());
        self.register.change(self.process, |seen| {
            seen.ended += 1;
            seen.last = now();
        });
    }
}
