//! The table of calls that a connection has made, and the routes to the peer's methods.
//!
//! # Invariants
//!
//! - **C2** A caller's waker is in the table before its request can be answered; or the caller checks for the answer once more
//!   after it has put the waker there.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::contract::route::Route;
#[cfg(feature = "json")]
use witrpc_core::contract::route::find_by_name;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::pending::{Answer, CallId, Looked, Pending};
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::{CloseReason, Error};

use crate::locks::{self, Counted, CountedMutex, Mutex, Rank};

/// The calls that a connection makes.
#[derive(Debug)]
pub(crate) struct CallsMade {
    pub(super) pending: CountedMutex<Pending>,
    /// The waker of a task that yielded after many calls in a row. If another task makes the next call, it does not busy-poll for its
    /// answer: there may be more such tasks, whose calls could all be in flight. Its lock is the innermost.
    yielded: Mutex<Option<Waker>>,
    /// Whether a task looks for answers that are not taken, as a response of the peer waits for their room.
    pub(super) makes_way: AtomicBool,
    /// Whether `yielded` is set.
    has_yielded: AtomicBool,
    /// Whether the last call found others in flight: then the next is likely to, and has its waker ready.
    crowded: AtomicBool,
    /// Whether the last call was not answered at its first poll: then the next is likely not to be either, and has its waker in the table.
    late: AtomicBool,
    catalog: Catalog,
    routes: Routes,
}

impl CallsMade {
    /// An empty table, for a peer that accepts `max_in_flight` calls at a time, and has this catalog.
    pub(crate) fn new(max_in_flight: usize, catalog: Catalog) -> Self {
        Self {
            pending: CountedMutex::new(Rank::Pending, Pending::new(len_u64(max_in_flight))),
            yielded: Mutex::new(Rank::Yielded, None),
            makes_way: AtomicBool::new(false),
            has_yielded: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            late: AtomicBool::new(false),
            catalog,
            routes: Routes::default(),
        }
    }

    /// The route to a method of this contract.
    pub(crate) fn route(
        &self,
        descriptor: &'static ServiceDescriptor,
        method: usize,
    ) -> Result<(u16, u16), Error> {
        let route = self.routes.find(descriptor, &self.catalog).as_ref().map_err(Error::clone)?;
        Ok((route.service, route.methods[method].clone()?))
    }

    /// The route to an event of this contract.
    pub(crate) fn event_route(
        &self,
        descriptor: &'static ServiceDescriptor,
        event: usize,
    ) -> Result<(u16, u16), Error> {
        let route = self.routes.find(descriptor, &self.catalog).as_ref().map_err(Error::clone)?;
        Ok((route.service, route.events[event].clone()?))
    }

    /// The route to the method with these names.
    #[cfg(feature = "json")]
    pub(crate) fn route_by_name(&self, service: &str, method: &str) -> Result<(u16, u16), Error> {
        find_by_name(&self.catalog, service, method)
    }

    /// The number of calls in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.count() >> 1
    }

    /// The calls that wait for an answer: their ids, and the names of their methods.
    pub(crate) fn under_way(&self) -> Vec<(u64, String)> {
        let waiting: Vec<_> = self.pending.lock().waiting().collect();
        let named = |(id, (service, method)): (CallId, _)| {
            (id.0, self.catalog.method_name(service, method))
        };
        waiting.into_iter().map(named).collect()
    }

    /// Whether a caller was woken for its answer, and has not run yet.
    pub(crate) fn has_woken_caller(&self) -> bool {
        self.pending.count() & 1 != 0
    }

    /// The memory of answers that their callers have not taken, and of the table.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        self.pending.lock().held()
    }

    /// The connection has ended: fails all calls. Requests with these ids have not left.
    pub(crate) fn close(&self, reason: &CloseReason, unsent: &HashSet<CallId>) {
        let wakers = self.pending.lock().close(reason, unsent);
        wakers.into_iter().for_each(locks::wake);
    }

    /// Whoever was woken for a place had the time to take it. Returns the next to be woken.
    pub(crate) fn end_turn_of_lines(&self) -> [Option<Waker>; 2] {
        self.pending.lock().end_turn()
    }

    /// Whether the next call is likely to find others in flight.
    pub(super) fn is_crowded(&self) -> bool {
        // Relaxed, here and below: whoever is wrong takes a little longer.
        self.crowded.load(Ordering::Relaxed)
    }

    /// A call has found others in flight, or none.
    pub(super) fn note_crowded(&self, crowded: bool) {
        if crowded != self.is_crowded() {
            self.crowded.store(crowded, Ordering::Relaxed);
        }
    }

    /// Whether the next call is likely not to be answered at its first poll.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// A call was not answered at its first poll, or was.
    pub(super) fn note_late(&self, late: bool) {
        if late != self.is_late() {
            self.late.store(late, Ordering::Relaxed);
        }
    }

    /// Looks for the answer to a call, and leaves the waker in the table if it has not come. Tells whether no other call is in
    /// flight.
    pub(super) fn look(
        &self,
        id: CallId,
        waker: &Waker,
        mut clone: Option<Waker>,
    ) -> (Option<Result<Answer, Error>>, bool) {
        loop {
            let mut pending = self.pending.lock();
            let looked = pending.poll(id, waker, &mut clone);
            let alone = pending.in_flight() == 1;
            drop(pending);
            match looked {
                Looked::Found(outcome) => return (Some(outcome), alone),
                Looked::Waits => return (None, alone),
                Looked::NeedsClone => clone = Some(waker.clone()),
            }
        }
    }

    /// Notes that the task of this waker yields after many calls in a row.
    pub(crate) fn has_yielded(&self, waker: &Waker) {
        let clone = waker.clone();
        let before = self.yielded.lock().replace(clone);
        drop(before);
        // Relaxed, here and below: it only decides whether to take the lock.
        self.has_yielded.store(true, Ordering::Relaxed);
    }

    /// Whether a task other than this waker's has just yielded.
    pub(super) fn another_yielded(&self, waker: &Waker) -> bool {
        if !self.has_yielded.load(Ordering::Relaxed) {
            return false;
        }
        self.has_yielded.store(false, Ordering::Relaxed);
        let Some(yielded) = self.yielded.lock().take() else { return false };
        let another = !yielded.will_wake(waker);
        locks::dispose(yielded);
        another
    }
}

/// Calls in flight, twice, and whether a caller was woken that has not had its turn.
impl Counted for Pending {
    #[inline]
    fn count(&self) -> usize {
        self.in_flight() << 1 | usize::from(self.has_woken_caller())
    }
}

/// The routes of contracts that were looked up in the catalog. The list only grows, so that reading it takes no lock.
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
