//! The services of an endpoint, with statistics of their methods.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use tokio::runtime::{Handle, Id};
use witrpc_core::Error;
use witrpc_core::contract::descriptor::{MethodDescriptor, ServiceDescriptor};
use witrpc_core::contract::introspection::RESERVED;
use witrpc_core::contract::route::catalog_of;
use witrpc_core::user_code::catch;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::message::Head;

use crate::context::Peer;
use crate::events::remote_subscriber::EventSubscriber;
use crate::events::subscriber::Registration;
use crate::locks::{Mutex, Rank};
use crate::serving::admission::Admission;
use crate::serving::authorizer::Authorizer;
use crate::serving::introspection::{Introspection, ServerDescription};
use crate::serving::runs::Runs;
use crate::serving::service::Service;

/// With this many slow polls among the last eight, a method is no longer polled in place.
const SLOW_ONES: u32 = 2;

/// With this many handlers among the last eight that were not ready at their first poll, the next is likely not to be.
const MOST: u32 = 4;

/// One in this many calls of a slow method is polled in place again.
const TRIAL_EVERY: u32 = 64;

/// One in this many first polls of a fast method is timed: reading the clock twice takes a good part of a small call's time.
const TIMED_EVERY: u32 = 4;

/// The services of an endpoint, shared by all its connections.
pub(crate) struct Services {
    entries: Vec<Entry>,
    /// One for each runtime that has connections.
    admissions: Mutex<Vec<(Id, Weak<Admission>)>>,
    /// What each peer may do; `None` is everything.
    authorizer: Option<Authorizer>,
}

pub(crate) struct Entry {
    pub(super) service: Arc<dyn Service>,
    methods: Vec<Statistics>,
}

/// Statistics of a method.
#[derive(Default)]
pub(crate) struct Statistics {
    pub(super) polls: FirstPolls,
    pub(super) runs: Runs,
}

/// Statistics of a method's first polls.
#[derive(Default)]
pub(crate) struct FirstPolls {
    /// One bit for each first poll, the latest is the lowest; set if the poll was slow.
    slow: AtomicU8,
    /// Calls that were handed over since the last trial.
    handed_over: AtomicU32,
    /// First polls since the last slow one.
    fast: AtomicU32,
    /// One bit for each first poll of a call with a deadline, the latest is the lowest; set if the handler was not ready.
    pending: AtomicU8,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.descriptors().map(|d| d.name)).finish()
    }
}

impl Default for Services {
    fn default() -> Self {
        let admissions = Mutex::new(Rank::Admissions, Vec::new());
        Self { entries: Vec::new(), admissions, authorizer: None }
    }
}

impl Services {
    /// Adds a service.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is one of that name.
    pub(crate) fn add(&mut self, service: Arc<dyn Service>) -> Result<(), Error> {
        let descriptor = service.descriptor();
        if descriptor.name.starts_with(RESERVED) {
            let advice =
                format!("names that begin with {RESERVED:?} are reserved; choose another name");
            return Err(Error::config("with_service", descriptor.name, advice));
        }
        if self.descriptors().any(|d| d.name == descriptor.name) {
            return Err(Error::config(
                "with_service",
                descriptor.name,
                "another service has this name; give one of the traits another name with \
                 #[witrpc::service(name = \"…\")]",
            ));
        }
        self.push(service);
        Ok(())
    }

    /// Adds the service that every server has, after the user's.
    pub(crate) fn add_introspection(&mut self, description: ServerDescription) {
        self.push(Arc::new(Introspection(Arc::new(description))));
    }

    fn push(&mut self, service: Arc<dyn Service>) {
        let methods = service.descriptor().methods.iter().map(|_| Statistics::default()).collect();
        self.entries.push(Entry { service, methods });
    }

    pub(crate) fn authorize_by(&mut self, authorizer: Option<Authorizer>) {
        self.authorizer = authorizer;
    }

    /// Checks that this peer may use this member of a service.
    ///
    /// # Errors
    ///
    /// The reason for the peer, if it may not.
    #[inline]
    pub(super) fn authorize(&self, peer: &Peer, entry: &Entry, member: &str) -> Result<(), String> {
        match &self.authorizer {
            None => Ok(()),
            Some(authorizer) => authorizer.check(peer, entry.service.descriptor().name, member),
        }
    }

    /// Attaches a subscriber of this peer's.
    ///
    /// # Errors
    ///
    /// The reason for the peer, if there is no such event here, or the peer may not subscribe to it.
    pub(super) fn subscribe(
        &self,
        peer: &Peer,
        service: u16,
        event: u16,
        subscriber: EventSubscriber,
    ) -> Result<Registration, String> {
        let none = || "the server has no such event of its own".to_owned();
        let entry = self.entries.get(usize::from(service)).ok_or_else(none)?;
        let events = entry.service.descriptor().events;
        let name = events.get(usize::from(event)).ok_or_else(none)?.name;
        self.authorize(peer, entry, name)?;
        let attached = catch(|| entry.service.subscribe(usize::from(event), subscriber).0);
        attached.ok().flatten().ok_or_else(none)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn catalog(&self) -> Catalog {
        catalog_of(self.descriptors())
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = &'static ServiceDescriptor> {
        self.entries.iter().map(|entry| entry.service.descriptor())
    }

    /// The admission on the current runtime, for a connection that begins.
    pub(super) fn admission(&self) -> Arc<Admission> {
        let Ok(runtime) = Handle::try_current() else { return Arc::new(Admission::new(1)) };
        let mut all = self.admissions.lock();
        let found = all.iter().find(|(id, _)| *id == runtime.id());
        if let Some(found) = found.and_then(|(_, admission)| admission.upgrade()) {
            return found;
        }
        let admission = Arc::new(Admission::new(runtime.metrics().num_workers()));
        all.retain(|(_, admission)| admission.strong_count() > 0);
        all.push((runtime.id(), Arc::downgrade(&admission)));
        admission
    }

    pub(super) fn find(
        &self,
        head: &Head,
    ) -> Option<(&Entry, &'static MethodDescriptor, &Statistics)> {
        let entry = self.entries.get(usize::from(head.selector))?;
        let method = entry.service.descriptor().methods.get(usize::from(head.member))?;
        Some((entry, method, entry.methods.get(usize::from(head.member))?))
    }

    /// How long the calls of a method took.
    pub(super) fn runs(&self, (service, method): (u16, u16)) -> Option<&Runs> {
        let entry = self.entries.get(usize::from(service))?;
        Some(&entry.methods.get(usize::from(method))?.runs)
    }
}

impl FirstPolls {
    pub(super) fn in_place(&self) -> bool {
        // Relaxed throughout: a statistic; a lost update costs one misjudged call.
        if self.slow.load(Ordering::Relaxed).count_ones() < SLOW_ONES {
            return true;
        }
        self.handed_over.fetch_add(1, Ordering::Relaxed) % TRIAL_EVERY == TRIAL_EVERY - 1
    }

    pub(super) fn is_timed(&self) -> bool {
        if self.slow.load(Ordering::Relaxed) != 0 {
            return true;
        }
        let fast = self.fast.load(Ordering::Relaxed);
        self.fast.store(fast.wrapping_add(1), Ordering::Relaxed);
        fast % TIMED_EVERY == 0
    }

    pub(super) fn note(&self, slow: bool) {
        let history = self.slow.load(Ordering::Relaxed);
        if history != 0 || slow {
            self.slow.store(history << 1 | u8::from(slow), Ordering::Relaxed);
        }
    }

    /// Notes whether the handler of a call with a deadline was ready at its first poll.
    pub(super) fn note_pending(&self, pending: bool) {
        let history = self.pending.load(Ordering::Relaxed);
        if history != 0 || pending {
            self.pending.store(history << 1 | u8::from(pending), Ordering::Relaxed);
        }
    }

    /// Whether most handlers were not ready at their first poll.
    pub(super) fn mostly_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed).count_ones() >= MOST
    }
}
