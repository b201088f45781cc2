//! What events need of their connection.

use std::sync::Weak;

use witrpc_core::Error;
use witrpc_core::contract::descriptor::ServiceDescriptor;

use crate::events::client_subscription::SubscriptionHost;
use crate::events::remote_subscriber::{EventSubscriber, SubscriberHost};
use crate::events::subscriber::Registration;
use crate::events::table::Events;

/// See the module.
pub(crate) trait EventHost: SubscriberHost + SubscriptionHost {
    fn events(&self) -> &Events;

    /// Where the peer has a contract's event.
    fn event_route(
        &self,
        contract: &'static ServiceDescriptor,
        event: usize,
    ) -> Result<(u16, u16), Error>;

    /// Attaches a subscriber of the peer to one of our events; `None` if there is no such event here.
    fn attach(&self, service: u16, event: u16, subscriber: EventSubscriber)
    -> Option<Registration>;

    /// The connection, as its subscriptions see it.
    fn subscription_host(&self) -> Weak<dyn SubscriptionHost>;

    /// The connection, as the peer's subscribers see it.
    fn subscriber_host(&self) -> Weak<dyn SubscriberHost>;
}
