//! A client's view of an event: where its values come from, and how to subscribe to them.

use std::fmt;
use std::sync::Arc;

use witrpc_core::contract::descriptor::ServiceDescriptor;

use crate::events::client_subscription::{self, Subscribable, SubscriptionHandle};
use crate::events::merged::Merged;

/// What raises an event, as its subscribers see it: the callee of a client's handle.
pub(crate) trait EventSource: Send + Sync {
    /// Subscribes to the contract's event at `index`.
    fn subscribe(
        self: Arc<Self>,
        descriptor: &'static ServiceDescriptor,
        index: usize,
    ) -> RemoteSubscription;
}

/// A subscription to an event of another process, or of several.
pub(crate) enum RemoteSubscription {
    One(SubscriptionHandle),
    Merged(Merged),
}

impl<S: Subscribable + 'static> EventSource for S {
    fn subscribe(
        self: Arc<Self>,
        descriptor: &'static ServiceDescriptor,
        index: usize,
    ) -> RemoteSubscription {
        RemoteSubscription::One(client_subscription::subscribe(self, descriptor, index))
    }
}

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct RemoteEvent {
    source: Arc<dyn EventSource>,
    descriptor: &'static ServiceDescriptor,
    index: usize,
}

impl fmt::Debug for RemoteEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteEvent").field(&self.name()).finish()
    }
}

impl RemoteEvent {
    pub(crate) fn new(
        source: Arc<dyn EventSource>,
        descriptor: &'static ServiceDescriptor,
        index: usize,
    ) -> Self {
        Self { source, descriptor, index }
    }

    /// `Service.event`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.descriptor.name, self.descriptor.events[self.index].name)
    }

    pub(crate) fn subscribe(&self) -> RemoteSubscription {
        Arc::clone(&self.source).subscribe(self.descriptor, self.index)
    }
}
