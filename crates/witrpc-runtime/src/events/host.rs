//! The interface by which events use their connection.

use std::sync::Weak;

use witrpc_core::Error;
use witrpc_core::contract::descriptor::ServiceDescriptor;

use crate::events::client_subscription::SubscriptionHost;
use crate::events::remote_subscriber::{EventSubscriber, SubscriberHost};
use crate::events::subscriber::Registration;
use crate::events::table::Events;

/// A connection as its events see it.
pub(crate) trait EventHost: SubscriberHost + SubscriptionHost {
    fn events(&self) -> &Events;

    /// The route to an event of a contract.
    fn event_route(
        &self,
        contract: &'static ServiceDescriptor,
        event: usize,
    ) -> Result<(u16, u16), Error>;

    /// Attaches a subscriber of the peer to one of our events.
    ///
    /// # Errors
    ///
    /// The reason for the peer, if there is no such event here, or the peer may not subscribe to it.
    fn attach(
        &self,
        service: u16,
        event: u16,
        subscriber: EventSubscriber,
    ) -> Result<Registration, String>;

    /// A weak reference to the connection, for subscriptions.
    fn subscription_host(&self) -> Weak<dyn SubscriptionHost>;

    /// A weak reference to the connection, for the peer's subscribers.
    fn subscriber_host(&self) -> Weak<dyn SubscriberHost>;
}
