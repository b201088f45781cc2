//! Subscriptions that this side has at the peer.

use std::sync::Arc;

use witrpc_core::session::ledger::Charge;
use witrpc_core::session::window::Window;
use witrpc_core::values::content::Content;
use witrpc_core::wire::fields::Put;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::message::Head;
use witrpc_core::{CloseReason, Error, fail_point};

use crate::events::client_subscription::{self, ClientSubscription};
use crate::events::error::EventError;
use crate::events::host::EventHost;
use crate::events::table::{MAX_SUBSCRIPTIONS, too_many};
use crate::link::sending::Sends;

/// Operations on our subscriptions.
pub(crate) trait Subscribes: EventHost {
    /// Subscribes at the peer. The subscription is in force before any later call of ours runs.
    fn subscribe(&self, subscription: &Arc<ClientSubscription>) {
        let (service, event) = match self.event_route(subscription.descriptor, subscription.index) {
            Ok(route) => route,
            Err(error) => return subscription.end(EventError::Refused(error)),
        };
        let mut subscriptions = self.events().subscriptions.lock();
        if let Some(reason) = self.link().closed() {
            if keeps_subscriptions(self) {
                return;
            }
            return subscription.end(EventError::Closed(reason.clone()));
        }
        if subscriptions.len() >= MAX_SUBSCRIPTIONS {
            // The peer would refuse it; it need not be asked.
            return subscription.end(EventError::Refused(Error::Fault { message: too_many() }));
        }
        let Some(id) = subscriptions.add(Arc::clone(subscription)) else {
            let message = "a connection can have at most 4294967295 subscriptions in its lifetime: connect again".to_owned();
            return subscription.end(EventError::Refused(Error::Fault { message }));
        };
        subscription.begin(self.subscription_host(), id);
        drop(subscriptions);
        let payload = subscribe_payload(service, event, self.events().window);
        self.send(|outbound| {
            outbound.push_control_with(Kind::Subscribe, u64::from(id), payload);
            Ok(())
        });
        fail_point::at("subscribe.sent");
    }

    /// Removes our subscriptions, which another connection takes over.
    fn release_subscriptions(&self) {
        let subscriptions = self.events().subscriptions.lock().take();
        drop(subscriptions);
    }

    fn handle_event(
        &self,
        id: u64,
        head: &Head,
        content: Content,
        charge: Charge,
    ) -> Result<(), Error> {
        let never =
            |_| Error::Protocol("a value of an event that was not subscribed to".to_owned());
        let subscription = self.events().subscriptions.lock().get(id).map_err(never)?.cloned();
        fail_point::at("event.taken");
        // The subscription was dropped a moment ago; values in flight are ignored.
        let Some(subscription) = subscription else { return Ok(()) };
        subscription.push(head.stamp, content, charge, self.events().window).map_err(|_| {
            Error::Protocol("more values of an event than the window allows".to_owned())
        })
    }

    /// Handles a mark: values before this number that have not arrived will not arrive. [wire.event.lag]
    fn handle_event_lag(&self, id: u64, number: u64) -> Result<(), Error> {
        let never =
            |_| Error::Protocol("a lag frame of an event that was not subscribed to".to_owned());
        let subscription = self.events().subscriptions.lock().get(id).map_err(never)?.cloned();
        if let Some(subscription) = subscription {
            subscription.mark(number);
        }
        Ok(())
    }

    fn handle_event_end(&self, id: u64, reason: String) {
        let subscription =
            u32::try_from(id).ok().and_then(|id| self.events().subscriptions.lock().remove(id));
        if let Some(subscription) = subscription {
            subscription.end(EventError::Refused(Error::Fault { message: reason }));
        }
    }

    /// Ends our subscriptions with the connection, unless they outlast it.
    fn end_subscriptions(&self, reason: &CloseReason) {
        let subscriptions = self.events().subscriptions.lock().take();
        if !keeps_subscriptions(self) {
            client_subscription::end_all(subscriptions, reason);
        }
    }
}

impl<H: EventHost + ?Sized> Subscribes for H {}

/// Whether subscriptions outlast the end of this connection: it was lost, and another will take its place.
fn keeps_subscriptions<H: EventHost + ?Sized>(host: &H) -> bool {
    host.events().keep_subscriptions
        && !matches!(
            host.link().closed(),
            None | Some(CloseReason::Local | CloseReason::RuntimeGone)
        )
}

/// The payload of a subscribe. [wire.subscribe]
fn subscribe_payload(service: u16, event: u16, window: Window) -> Vec<u8> {
    let mut payload = Vec::with_capacity(16);
    payload.put_u16(service);
    payload.put_u16(event);
    payload.put_u32(window.values);
    payload.put_u64(window.bytes);
    payload
}

#[cfg(test)]
mod tests {
    use super::Window;
    use super::subscribe_payload;

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn subscribe_is_frozen() {
        let payload = subscribe_payload(2, 1, Window { values: 256, bytes: 1 << 16 });
        assert_eq!(payload, [2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    }
}
