//! Which of the peer's requests are being served, and how far each has got. The lock is held for a look at the table only.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use super::{Job, Services};
use crate::connection::lock;
use crate::context::CallContext;
use crate::error::Error;
use crate::event::Registration;
use crate::sink::EventSink;

/// The requests of one connection that are being served.
#[derive(Debug)]
pub(crate) struct Served {
    pub(super) services: Arc<Services>,
    max_in_flight: usize,
    table: Mutex<Table>,
    /// Whether requests were put aside; changed under the lock. Whoever is not the driver and puts one aside wakes it
    /// afterwards, so that it sees this.
    has_deferred: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    /// The request that the driver is at, whose handler is polled in place: whether it has been cancelled meanwhile.
    in_place: Option<(u64, bool)>,
    running: HashMap<u64, Running>,
    /// Requests that wait until the answers before them have left.
    deferred: VecDeque<Job>,
    /// Of the last request that was served in place, to be used again if nobody has kept it.
    spare: Option<CallContext>,
    closed: bool,
}

/// What a cancel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The handler will not answer: the caller of this does.
    Now,
    /// The handler is being polled in place; who polls it answers.
    Soon,
    /// It has been answered, or never was.
    No,
}

/// Whether a handler that is not done at once goes on.
#[derive(Debug)]
pub(super) enum Goes {
    On,
    /// It was cancelled in place, and is to be answered so.
    Cancelled,
    /// Nobody waits for any answer.
    Nowhere,
}

#[derive(Debug)]
struct Running {
    context: CallContext,
    task: Option<AbortHandle>,
}

impl Served {
    pub(crate) fn new(services: Arc<Services>, max_in_flight: u32) -> Self {
        let max_in_flight = crate::wire::u32_len(max_in_flight);
        Self {
            services,
            max_in_flight,
            table: Mutex::default(),
            has_deferred: AtomicBool::new(false),
        }
    }

    /// Whether there is nothing to serve.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Attaches a subscriber; `None` if there is no such event here.
    pub(crate) fn subscribe(
        &self,
        service: u16,
        event: u16,
        sink: EventSink,
    ) -> Option<Registration> {
        self.services.subscribe(service, event, sink)
    }

    /// Puts the request aside that was to be served in place.
    pub(super) fn defer(&self, job: Job) {
        let mut table = lock(&self.table);
        table.in_place = None;
        table.deferred.push_back(job);
        self.note_deferred(&table);
    }

    /// Puts a request aside for the driver.
    pub(super) fn take_in(&self, job: Job, unsent: usize) -> Result<(), Error> {
        let mut table = lock(&self.table);
        self.check(&table, job.id, unsent)?;
        table.deferred.push_back(job);
        self.note_deferred(&table);
        Ok(())
    }

    /// A request that was put aside, to be served in place.
    pub(super) fn next_deferred(&self) -> Option<Job> {
        if !self.has_deferred() {
            return None;
        }
        let mut table = lock(&self.table);
        let job = table.deferred.pop_front();
        self.note_deferred(&table);
        let job = job?;
        table.in_place = Some((job.id, false));
        Some(job)
    }

    /// Takes a request in, to be served in place. Returns the context of an earlier one, if there is one to spare.
    pub(super) fn take_place(&self, id: u64, unsent: usize) -> Result<Option<CallContext>, Error> {
        let mut table = lock(&self.table);
        self.check(&table, id, unsent)?;
        table.in_place = Some((id, false));
        Ok(table.spare.take())
    }

    /// The request that was served in place is done; returns whether it was cancelled meanwhile.
    pub(super) fn leave_place(&self, context: Option<CallContext>) -> bool {
        let mut table = lock(&self.table);
        table.spare = context;
        table.in_place.take().is_some_and(|(_, cancelled)| cancelled)
    }

    /// Says whether requests are put aside, after a change of that; `table` is the locked one.
    fn note_deferred(&self, table: &Table) {
        self.has_deferred.store(!table.deferred.is_empty(), Ordering::Relaxed);
    }

    /// Whether requests were put aside.
    pub(crate) fn has_deferred(&self) -> bool {
        self.has_deferred.load(Ordering::Relaxed)
    }

    /// Requests being handled or put aside.
    pub(crate) fn len(&self) -> usize {
        let table = lock(&self.table);
        table.running.len() + table.deferred.len()
    }

    /// Stops a handler.
    pub(crate) fn cancel(&self, id: u64) -> Stopped {
        let mut table = lock(&self.table);
        if let Some((_, cancelled)) = table.in_place.as_mut().filter(|(other, _)| *other == id) {
            *cancelled = true;
            return Stopped::Soon;
        }
        let deferred = table.deferred.iter().position(|job| job.id == id);
        let job = deferred.and_then(|at| table.deferred.remove(at));
        self.note_deferred(&table);
        let running = table.running.remove(&id);
        drop(table);
        let found = job.is_some() || running.is_some();
        drop(job);
        if let Some(running) = running {
            running.cancel();
        }
        if found { Stopped::Now } else { Stopped::No }
    }

    /// Stops all handlers: nobody waits for them any more.
    pub(crate) fn cancel_all(&self) {
        let mut table = lock(&self.table);
        table.closed = true;
        let running = std::mem::take(&mut table.running);
        let deferred = std::mem::take(&mut table.deferred);
        self.note_deferred(&table);
        drop(table);
        drop(deferred);
        running.into_values().for_each(Running::cancel);
    }

    /// Checks that one more may be served, while so many answers have not left. [wire.in_flight]
    pub(super) fn admit(&self, id: u64, unsent: usize) -> Result<(), Error> {
        self.check(&lock(&self.table), id, unsent)
    }

    fn check(&self, table: &Table, id: u64, unsent: usize) -> Result<(), Error> {
        let in_place = usize::from(table.in_place.is_some());
        if table.running.len() + table.deferred.len() + in_place + unsent >= self.max_in_flight {
            return Err(Error::Protocol("more calls in flight than announced".to_owned()));
        }
        let in_place = table.in_place.is_some_and(|(other, _)| other == id);
        let deferred = || table.deferred.iter().any(|job| job.id == id);
        if in_place || table.running.contains_key(&id) || deferred() {
            return Err(Error::Protocol("two calls with one id".to_owned()));
        }
        Ok(())
    }

    /// The request that was served in place is not done.
    pub(super) fn insert(&self, id: u64, context: CallContext) -> Goes {
        let mut table = lock(&self.table);
        let cancelled = table.in_place.take().is_some_and(|(_, cancelled)| cancelled);
        if table.closed {
            return Goes::Nowhere;
        }
        if cancelled {
            return Goes::Cancelled;
        }
        table.running.insert(id, Running { context, task: None });
        Goes::On
    }

    pub(super) fn set_task(&self, id: u64, task: AbortHandle) {
        match lock(&self.table).running.get_mut(&id) {
            Some(running) => running.task = Some(task),
            // It has finished already, or was cancelled before its task was known.
            None => task.abort(),
        }
    }

    /// Whether the handler's answer is still wanted.
    pub(super) fn finish(&self, id: u64) -> bool {
        lock(&self.table).running.remove(&id).is_some()
    }
}

impl Running {
    fn cancel(self) {
        self.context.cancel();
        if let Some(task) = self.task {
            task.abort();
        }
    }
}
