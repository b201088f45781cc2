//! Which calls a connection has made, and what is known of the peer's methods.
//!
//! # Invariants
//!
//! - **C2** A caller's waker is in the table before its request can be answered, or the caller looks for the answer once more
//!   after it has left it there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::contract::route::Route;
#[cfg(feature = "json")]
use witrpc_core::contract::route::find_by_name;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::pending::{CallId, Pending};
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::{CloseReason, Error};

use crate::link::sync::lock;

/// A connection's part for calls that are made.
#[derive(Debug)]
pub(crate) struct CallsMade {
    pub(super) pending: Mutex<Pending>,
    /// Where callers wait for one of the permits for calls in flight; free ones that nobody waits for are in `pending`.
    permits: Arc<Semaphore>,
    /// A task whose calls were answered so fast that it was made to let others run. Whoever calls next, and is another, does
    /// not poll for its answer: there may be more of them, whose calls could all be under way. Taken last of all.
    yielded: Mutex<Option<Waker>>,
    /// Whether there is one.
    has_yielded: AtomicBool,
    catalog: Catalog,
    routes: Routes,
}

impl CallsMade {
    /// For a peer that takes so many calls at a time, and offers this.
    pub(crate) fn new(max_in_flight: usize, catalog: Catalog) -> Self {
        Self {
            pending: Mutex::new(Pending::new(max_in_flight)),
            permits: Arc::new(Semaphore::new(0)),
            yielded: Mutex::new(None),
            has_yielded: AtomicBool::new(false),
            catalog,
            routes: Routes::default(),
        }
    }

    /// Where the peer has this contract's method.
    pub(crate) fn route(
        &self,
        descriptor: &'static ServiceDescriptor,
        method: usize,
    ) -> Result<(u16, u16), Error> {
        let route = self.routes.find(descriptor, &self.catalog).as_ref().map_err(Error::clone)?;
        Ok((route.service, route.methods[method].clone()?))
    }

    /// Where the peer has this contract's event.
    pub(crate) fn event_route(
        &self,
        descriptor: &'static ServiceDescriptor,
        event: usize,
    ) -> Result<(u16, u16), Error> {
        let route = self.routes.find(descriptor, &self.catalog).as_ref().map_err(Error::clone)?;
        Ok((route.service, route.events[event].clone()?))
    }

    /// Where the peer has a method of these names.
    #[cfg(feature = "json")]
    pub(crate) fn route_by_name(&self, service: &str, method: &str) -> Result<(u16, u16), Error> {
        find_by_name(&self.catalog, service, method)
    }

    /// Calls in flight.
    pub(crate) fn in_flight(&self) -> usize {
        lock(&self.pending).in_flight()
    }

    /// Whether a caller was woken for its answer, and has not had its turn yet.
    pub(crate) fn has_woken_caller(&self) -> bool {
        lock(&self.pending).has_woken_caller()
    }

    /// What is held: answers that their callers have not taken, and the table.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        lock(&self.pending).held()
    }

    /// The connection has ended: fails all calls. Requests with these ids have not left.
    pub(crate) fn close(&self, reason: &CloseReason, unsent: &HashSet<CallId>) {
        self.permits.close();
        let wakers = lock(&self.pending).close(reason, unsent);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits for a place among the calls in flight.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub(crate) async fn wait_for_permit(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        struct InQueue<'a>(&'a CallsMade);
        impl Drop for InQueue<'_> {
            fn drop(&mut self) {
                lock(&self.0.pending).leave_queue();
            }
        }
        let free = lock(&self.pending).join_queue();
        let _queued = InQueue(self);
        if free {
            self.permits.add_permits(1);
        }
        Arc::clone(&self.permits).acquire_owned().await
    }

    /// Gives a place among the calls in flight back.
    pub(super) fn return_permit(&self, mut pending: MutexGuard<'_, Pending>) {
        let wanted = pending.return_permit();
        drop(pending);
        if wanted {
            self.permits.add_permits(1);
        }
    }

    /// The task of this waker has called again and again, and lets others run.
    pub(crate) fn has_yielded(&self, waker: &Waker) {
        *lock(&self.yielded) = Some(waker.clone());
        // Relaxed, here and below: it is only a reason to take the lock.
        self.has_yielded.store(true, Ordering::Relaxed);
    }

    /// Whether another task than this waker's has just let others run.
    pub(super) fn another_yielded(&self, waker: &Waker) -> bool {
        if !self.has_yielded.load(Ordering::Relaxed) {
            return false;
        }
        self.has_yielded.store(false, Ordering::Relaxed);
        lock(&self.yielded).take().is_some_and(|yielded| !yielded.will_wake(waker))
    }
}

/// Contracts that have been looked up in the catalog: a list that only grows, so that looking takes no lock.
#[derive(Debug, Default)]
struct Routes(OnceLock<Box<KnownRoute>>);

#[derive(Debug)]
struct KnownRoute {
    contract: &'static ServiceDescriptor,
    route: Result<Route, Error>,
    next: Routes,
}

impl Routes {
    /// The contract's route, which is looked up in the catalog once.
    fn find(
        &self,
        contract: &'static ServiceDescriptor,
        catalog: &Catalog,
    ) -> &Result<Route, Error> {
        let mut routes = self;
        loop {
            let known = routes.0.get_or_init(|| {
                let (route, next) = (Route::find(catalog, contract), Self::default());
                Box::new(KnownRoute { contract, route, next })
            });
            if std::ptr::eq(known.contract, contract) {
                return &known.route;
            }
            routes = &known.next;
        }
    }
}
