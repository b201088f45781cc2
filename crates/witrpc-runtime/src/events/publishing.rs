//! Subscriptions that the peer has at this side.

use std::sync::Arc;

use witrpc_core::session::window::Window;
use witrpc_core::wire::frame::Kind;
use witrpc_core::{Error, fail_point};

use crate::context::RaisedTo as _;
use crate::events::host::EventHost;
use crate::events::remote_subscriber::{EventSubscriber, RemoteSubscriber};
use crate::events::table::{MAX_SUBSCRIPTIONS, MAX_WINDOW, too_many};
use crate::link::sending::Sends;
use crate::link::sync::lock;

/// Operations on the peer's subscriptions.
pub(crate) trait Publishes: EventHost {
    fn handle_subscribe(
        &self,
        id: u64,
        (service, event): (u16, u16),
        window: Window,
    ) -> Result<(), Error> {
        let id32 = u32::try_from(id)
            .map_err(|_| Error::Protocol("a subscription id that is too large".to_owned()))?;
        let mut subscribers = lock(&self.events().subscribers);
        if subscribers.contains_key(&id32) {
            return Err(Error::Protocol("two subscriptions with the same id".to_owned()));
        }
        let refusal = if subscribers.len() >= MAX_SUBSCRIPTIONS {
            Some(too_many())
        } else if window.values > MAX_WINDOW {
            Some(format!("the window can be at most {MAX_WINDOW} values"))
        } else {
            let subscriber = RemoteSubscriber::new(
                self.subscriber_host(),
                self.link(),
                id32,
                window,
                self.events().window.bytes,
                &self.events().backlogs,
            );
            match self.attach(service, event, EventSubscriber(Arc::clone(&subscriber))) {
                Some(registration) => {
                    subscribers.insert(id32, (subscriber, registration));
                    fail_point::at("subscribe.taken");
                    None
                }
                None => Some("the server has no such event of its own".to_owned()),
            }
        };
        drop(subscribers);
        if let Some(reason) = refusal {
            let reason = reason.into_bytes();
            self.send(|outbound| outbound.push_answer(Kind::EventEnd, id, reason));
        }
        Ok(())
    }

    fn handle_unsubscribe(&self, id: u64) {
        let subscriber =
            u32::try_from(id).ok().and_then(|id| lock(&self.events().subscribers).remove(&id));
        // A refused subscription is unknown here, and its subscriber may not have been told yet.
        if let Some((subscriber, registration)) = subscriber {
            drop(registration);
            let events = subscriber.end();
            // The subscriber has ended, so it does not register again. Without this, a peer that subscribes again and again, and does
            // not read, would leave an entry behind each time.
            self.events().let_go(subscriber.id());
            self.send(|outbound| {
                outbound.drop_events(events);
                Ok(())
            });
        }
    }

    fn handle_event_ack(&self, id: u32, values: u32) -> Result<(), Error> {
        let subscriber =
            lock(&self.events().subscribers).get(&id).map(|(subscriber, _)| Arc::clone(subscriber));
        let Some(subscriber) = subscriber else { return Ok(()) };
        subscriber.acknowledge(values).map_err(|_| {
            Error::Protocol("an acknowledgement of values that were not sent".to_owned())
        })
    }
}

impl<H: EventHost + ?Sized> Publishes for H {}
