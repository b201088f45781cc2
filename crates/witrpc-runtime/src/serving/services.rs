//! The services of an endpoint, with statistics of their methods' first polls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use witrpc_core::Error;
use witrpc_core::contract::descriptor::{MethodDescriptor, ServiceDescriptor};
use witrpc_core::contract::introspection::RESERVED;
use witrpc_core::contract::route::catalog_of;
use witrpc_core::user_code::catch;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::wire::message::Head;

use crate::events::remote_subscriber::EventSubscriber;
use crate::events::subscriber::Registration;
use crate::serving::introspection::{Introspection, ServerDescription};
use crate::serving::service::Service;

/// With this many slow polls among the last eight, a method is no longer polled in place.
const SLOW_ONES: u32 = 2;

/// One in this many calls of a slow method is polled in place again.
const TRIAL_EVERY: u32 = 64;

/// One in this many first polls of a fast method is timed: reading the clock twice takes a good part of a small call's time.
const TIMED_EVERY: u32 = 4;

/// The services of an endpoint, shared by all its connections.
#[derive(Default)]
pub(crate) struct Services {
    entries: Vec<Entry>,
}

pub(super) struct Entry {
    pub(super) service: Arc<dyn Service>,
    methods: Vec<FirstPolls>,
}

/// Statistics of a method's first polls.
#[derive(Default)]
pub(super) struct FirstPolls {
    /// One bit for each first poll, the latest is the lowest; set if the poll was slow.
    slow: AtomicU8,
    /// Calls that were handed over since the last trial.
    handed_over: AtomicU32,
    /// First polls since the last slow one.
    fast: AtomicU32,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.descriptors().map(|d| d.name)).finish()
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
        let methods = service.descriptor().methods.iter().map(|_| FirstPolls::default()).collect();
        self.entries.push(Entry { service, methods });
    }

    pub(crate) fn subscribe(
        &self,
        service: u16,
        event: u16,
        subscriber: EventSubscriber,
    ) -> Option<Registration> {
        let entry = self.entries.get(usize::from(service))?;
        catch(|| entry.service.subscribe(usize::from(event), subscriber).0).ok().flatten()
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

    pub(super) fn find(
        &self,
        head: &Head,
    ) -> Option<(&Entry, &'static MethodDescriptor, &FirstPolls)> {
        let entry = self.entries.get(usize::from(head.selector))?;
        let method = entry.service.descriptor().methods.get(usize::from(head.member))?;
        Some((entry, method, entry.methods.get(usize::from(head.member))?))
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
}
