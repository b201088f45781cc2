//! The table of the peer's requests that are being served. The lock is held for a lookup only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hashlink::LinkedHashMap;
use tokio::task::AbortHandle;
use witrpc_core::Error;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::{self, Held};
use witrpc_core::wire::frame::Nesting;
use witrpc_core::wire::handshake::{OVERLOADED, UNAUTHORIZED};

use crate::context::{CallContext, Peer};
use crate::events::remote_subscriber::EventSubscriber;
use crate::events::subscriber::Registration;
use crate::link::host::Request;
use crate::locks::{self, Mutex, Rank};
use crate::serving::admission::Admission;
use crate::serving::services::Services;

/// The requests of one connection that are being served.
#[derive(Debug)]
pub(crate) struct CallsTaken {
    pub(crate) services: Arc<Services>,
    pub(crate) admission: Arc<Admission>,
    /// Whether both sides know the status of a call that was refused. [wire.response.overloaded]
    pub(crate) knows_overloaded: bool,
    /// Whether both sides know the status of a call that the caller may not make. [wire.response.unauthorized]
    pub(crate) knows_unauthorized: bool,
    /// The number of outer calls that the peer may have in flight, and of nested ones.
    max_in_flight: usize,
    /// The request whose handler the driver polls in place, or [`NOTHING`]. Written by the driver: when it takes a request, under the lock
    /// of the receiving half or of the table, so that a cancel, which is read later, finds it; and when it is done.
    in_place: AtomicU64,
    table: Mutex<Table>,
    /// The number of requests in the table; changed under its lock. Requests are added under the lock of the receiving half, so that the
    /// driver, which reads the next request under it, sees those before.
    others: AtomicUsize,
    /// Whether requests were put aside; changed under the lock. A caller that puts one aside wakes the driver afterwards, which so sees
    /// it.
    has_deferred: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    /// The last request that was cancelled while it was served in place.
    cancelled: Option<u64>,
    running: HashMap<u64, Running>,
    /// Requests that wait until the answers before them have left, by their ids.
    deferred: LinkedHashMap<u64, Request>,
    /// How many of all of these are nested.
    nested: usize,
    closed: bool,
}

const TWO_WITH_ONE_ID: &str = "two calls with the same id";
/// No request. A peer that uses it as the id of a call cannot cancel that call.
const NOTHING: u64 = u64::MAX;

/// The effect of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelOutcome {
    /// The handler was stopped: the caller of this answers.
    Stopped,
    /// The handler is being polled in place. The driver answers, as cancelled if the handler is not ready.
    PollerAnswers,
    /// The request has been answered, or there never was one.
    NotRunning,
}

/// What to do with a handler that is not ready at its first poll.
#[derive(Debug)]
pub(crate) enum Continuation {
    Proceed,
    /// It was cancelled during the poll, and is to be answered as cancelled.
    Cancelled,
    /// The connection has ended: no answer is wanted.
    ConnectionEnded,
}

#[derive(Debug)]
struct Running {
    context: CallContext,
    task: Option<AbortHandle>,
}

impl CallsTaken {
    /// An empty table, on the current runtime, for a peer that may have `max_in_flight` outer calls in flight, and as many nested ones.
    pub(crate) fn new(services: Arc<Services>, max_in_flight: u32) -> Self {
        let max_in_flight = witrpc_core::wire::fields::u32_len(max_in_flight);
        Self {
            admission: services.admission(),
            services,
            knows_overloaded: false,
            knows_unauthorized: false,
            max_in_flight,
            in_place: AtomicU64::new(NOTHING),
            table: Mutex::new(Rank::Serving, Table::default()),
            others: AtomicUsize::new(0),
            has_deferred: AtomicBool::new(false),
        }
    }

    /// These features are in force.
    #[must_use]
    pub(crate) fn with_features(self, features: &[String]) -> Self {
        let has = |name| features.iter().any(|feature| feature == name);
        Self { knows_overloaded: has(OVERLOADED), knows_unauthorized: has(UNAUTHORIZED), ..self }
    }

    /// Whether there is nothing to serve.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Attaches a subscriber of this peer's.
    ///
    /// # Errors
    ///
    /// The reason for the peer, if there is no such event here, or the peer may not subscribe to it.
    pub(crate) fn subscribe(
        &self,
        peer: &Peer,
        service: u16,
        event: u16,
        subscriber: EventSubscriber,
    ) -> Result<Registration, String> {
        self.services.subscribe(peer, service, event, subscriber)
    }

    /// Notes the request that the driver has read and serves next. Called under the lock of the receiving half.
    pub(crate) fn begin_in_place(&self, id: u64) {
        self.in_place.store(id, Ordering::Relaxed);
    }

    /// The driver is done with the request that it served in place.
    pub(crate) fn end_in_place(&self) {
        self.in_place.store(NOTHING, Ordering::Relaxed);
    }

    /// Checks that the request in place may be served, while `unsent` answers have not been sent.
    pub(crate) fn admit_in_place(
        &self,
        id: u64,
        nesting: Nesting,
        unsent: usize,
    ) -> Result<(), Error> {
        // Relaxed: ordered by the lock of the receiving half.
        if self.others.load(Ordering::Relaxed) == 0 && unsent < self.max_in_flight {
            return Ok(());
        }
        self.check(&self.table.lock(), id, nesting, unsent)
    }

    /// Puts the request aside that was to be served in place.
    pub(crate) fn defer(&self, request: Request) {
        let mut table = self.table.lock();
        self.end_in_place();
        table.defer(request);
        self.note(&table);
    }

    /// Puts a request aside for the driver.
    pub(crate) fn take_in(&self, request: Request, unsent: usize) -> Result<(), Error> {
        let mut table = self.table.lock();
        self.check_all(&table, request.id, request.nesting, unsent)?;
        table.defer(request);
        self.note(&table);
        Ok(())
    }

    /// A request that was put aside, to be served in place.
    pub(crate) fn next_deferred(&self) -> Option<Request> {
        if !self.has_deferred() {
            return None;
        }
        let mut table = self.table.lock();
        let request = table.deferred.pop_front().map(|(_, request)| request);
        table.forget(request.as_ref().map(|request| request.nesting));
        self.note(&table);
        let request = request?;
        self.begin_in_place(request.id);
        Some(request)
    }

    /// Updates the counters after a change of the table; `table` is the locked one.
    fn note(&self, table: &Table) {
        self.has_deferred.store(!table.deferred.is_empty(), Ordering::Relaxed);
        self.others.store(table.len(), Ordering::Relaxed);
    }

    /// Whether requests were put aside.
    pub(crate) fn has_deferred(&self) -> bool {
        self.has_deferred.load(Ordering::Relaxed)
    }

    /// Requests being handled or put aside.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Requests that were put aside, and handlers.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, usize) {
        let table = self.table.lock();
        let request = |request: &Request| {
            Held { memory: held::bytes::<Request>(1), ..Held::default() } + request.content.held()
        };
        (table.deferred.values().map(request).sum(), table.running.len())
    }

    /// Stops a handler.
    pub(crate) fn cancel(&self, id: u64) -> CancelOutcome {
        let mut table = self.table.lock();
        if self.is_in_place(id) {
            table.cancelled = Some(id);
            return CancelOutcome::PollerAnswers;
        }
        let request = table.deferred.remove(&id);
        let running = table.running.remove(&id);
        table.forget(request.as_ref().map(|request| request.nesting));
        table.forget(running.as_ref().map(|running| running.context.nesting()));
        self.note(&table);
        drop(table);
        let found = request.is_some() || running.is_some();
        drop(request);
        if let Some(running) = running {
            running.cancel();
        }
        if found { CancelOutcome::Stopped } else { CancelOutcome::NotRunning }
    }

    /// Stops all handlers: nobody waits for them any more.
    pub(crate) fn cancel_all(&self) {
        let mut table = self.table.lock();
        table.closed = true;
        let running = std::mem::take(&mut table.running);
        let deferred = std::mem::take(&mut table.deferred);
        table.nested = 0;
        self.note(&table);
        drop(table);
        drop(deferred);
        running.into_values().for_each(Running::cancel);
    }

    /// Checks that one more request may be served, while `unsent` answers have not been sent. [wire.in_flight]
    pub(crate) fn admit(&self, id: u64, nesting: Nesting, unsent: usize) -> Result<(), Error> {
        self.check_all(&self.table.lock(), id, nesting, unsent)
    }

    /// The same for all requests but the one in place.
    fn check(&self, table: &Table, id: u64, nesting: Nesting, unsent: usize) -> Result<(), Error> {
        // Which of the unsent answers are to nested calls is not known here.
        let outer = table.len() - table.nested;
        let too_many = table.len() + unsent >= self.max_in_flight.saturating_mul(2);
        if too_many || nesting == Nesting::Outer && outer >= self.max_in_flight {
            return Err(Error::Protocol(
                "more calls in flight than max_in_flight allows".to_owned(),
            ));
        }
        if table.running.contains_key(&id) || table.deferred.contains_key(&id) {
            return Err(Error::Protocol(TWO_WITH_ONE_ID.to_owned()));
        }
        Ok(())
    }

    /// Checks that one more request may be served in addition to the one in place.
    fn check_all(
        &self,
        table: &Table,
        id: u64,
        nesting: Nesting,
        unsent: usize,
    ) -> Result<(), Error> {
        if self.is_in_place(id) {
            return Err(Error::Protocol(TWO_WITH_ONE_ID.to_owned()));
        }
        let in_place = usize::from(!self.is_in_place(NOTHING));
        self.check(table, id, nesting, unsent + in_place)
    }

    /// Whether this is the request in place.
    fn is_in_place(&self, id: u64) -> bool {
        // Relaxed: ordered by the lock of the receiving half, or of the table.
        self.in_place.load(Ordering::Relaxed) == id
    }

    /// Adds the request in place to the table: its handler is not ready.
    pub(crate) fn insert(&self, id: u64, context: CallContext) -> Continuation {
        let mut table = self.table.lock();
        self.end_in_place();
        let cancelled = table.cancelled.take() == Some(id);
        if table.closed {
            return Continuation::ConnectionEnded;
        }
        if cancelled {
            return Continuation::Cancelled;
        }
        table.nested += usize::from(context.nesting() != Nesting::Outer);
        table.running.insert(id, Running { context, task: None });
        self.note(&table);
        Continuation::Proceed
    }

    pub(crate) fn set_task(&self, id: u64, task: AbortHandle) {
        match self.table.lock().running.get_mut(&id) {
            Some(running) => running.task = Some(task),
            // The handler has finished already, or was cancelled before its task was set.
            None => task.abort(),
        }
    }

    /// Whether the handler's answer is still wanted.
    pub(crate) fn finish(&self, id: u64) -> bool {
        let mut table = self.table.lock();
        let finished = table.running.remove(&id);
        table.forget(finished.as_ref().map(|running| running.context.nesting()));
        self.note(&table);
        drop(table);
        finished.is_some()
    }
}

impl Table {
    fn len(&self) -> usize {
        self.running.len() + self.deferred.len()
    }

    fn defer(&mut self, request: Request) {
        self.nested += usize::from(request.nesting != Nesting::Outer);
        self.deferred.insert(request.id, request);
    }

    /// Counts a request, if there was one, that is not in the table any more.
    fn forget(&mut self, nesting: Option<Nesting>) {
        self.nested -= usize::from(nesting.is_some_and(|nesting| nesting != Nesting::Outer));
    }
}

impl Running {
    fn cancel(self) {
        // First, so that the task is not polled once more because a call within it was cancelled.
        if let Some(task) = self.task {
            task.abort();
        }
        self.context.cancel();
        locks::dispose(self.context);
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use crate::context::Known;
    use std::sync::Arc;

    use super::CallsTaken;
    use super::CancelOutcome;
    use super::Continuation;
    use crate::context::{CallContext, Peer};
    use crate::link::host::Request;
    use crate::serving::services::Services;
    use witrpc_core::session::ledger::Charge;
    use witrpc_core::values::content::Content;
    use witrpc_core::wire::frame::Nesting;
    use witrpc_core::wire::message::Head;

    fn taken() -> CallsTaken {
        CallsTaken::new(Arc::new(Services::default()), 2)
    }

    fn request(id: u64) -> Request {
        let (head, content) = (Head::default(), Content::default());
        Request { id, nesting: Nesting::Outer, head, content, charge: Charge::none() }
    }

    fn context() -> CallContext {
        CallContext::new(Peer::new(1, None, Arc::new(()), Known::default()), None, Nesting::Outer)
    }

    #[test]
    fn a_cancel_that_comes_right_behind_its_request_stops_the_handler() {
        let taken = taken();
        taken.begin_in_place(7);
        assert_eq!(taken.cancel(7), CancelOutcome::PollerAnswers, "before its handler is made");
        taken.admit_in_place(7, Nesting::Outer, 0).unwrap();
        assert!(matches!(taken.insert(7, context()), Continuation::Cancelled));
        assert_eq!(taken.cancel(7), CancelOutcome::NotRunning);
    }

    #[test]
    fn a_cancel_of_one_call_in_place_does_not_reach_the_next() {
        let taken = taken();
        taken.begin_in_place(7);
        assert_eq!(taken.cancel(7), CancelOutcome::PollerAnswers);
        taken.end_in_place();
        taken.begin_in_place(8);
        assert!(matches!(taken.insert(8, context()), Continuation::Proceed));
        assert_eq!(taken.cancel(8), CancelOutcome::Stopped);
    }

    #[test]
    fn what_is_in_place_counts_for_everybody_else() {
        let taken = taken();
        let nested = |id| Request { nesting: Nesting::Nested, ..request(id) };
        taken.begin_in_place(7);
        assert!(taken.take_in(request(7), 0).is_err(), "two with one id");
        taken.take_in(request(8), 0).unwrap();
        taken.take_in(request(9), 0).unwrap();
        assert!(taken.take_in(request(10), 0).is_err(), "more than two outer calls");
        taken.take_in(nested(10), 0).unwrap();
        assert!(taken.take_in(nested(11), 0).is_err(), "with the one in place there are four");
        taken.end_in_place();
        taken.begin_in_place(8);
        assert!(taken.admit_in_place(8, Nesting::Nested, 0).is_err(), "one with this id waits");
        taken.begin_in_place(11);
        assert!(taken.admit_in_place(11, Nesting::Outer, 0).is_err(), "more than two outer calls");
        taken.admit_in_place(11, Nesting::Nested, 0).unwrap();
        assert!(taken.admit_in_place(11, Nesting::Nested, 1).is_err(), "an answer has not left");
        assert!(taken.finish(12) || taken.cancel(10) == CancelOutcome::Stopped);
        taken.take_in(nested(12), 0).unwrap();
    }
}
