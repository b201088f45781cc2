//! Subscriptions that the peer has at this side.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use witrpc_core::session::window::Window;
use witrpc_core::wire::frame::Kind;
use witrpc_core::{Error, fail_point};

use crate::context::RaisedTo as _;
use crate::events::host::EventHost;
use crate::events::remote_subscriber::{EventSubscriber, RemoteSubscriber};
use crate::events::table::{Attaching, MAX_SUBSCRIPTIONS, MAX_WINDOW, too_many};
use crate::link::sending::Sends;
use crate::locks::assert_none_is_held;
use crate::streams::writing::WritesStreams;

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
        let mut subscribers = self.events().subscribers.lock();
        if subscribers.contains_key(&id32) {
            return Err(Error::Protocol("two subscriptions with the same id".to_owned()));
        }
        let refusal = if subscribers.len() >= MAX_SUBSCRIPTIONS {
            Some(too_many())
        } else if window.values > MAX_WINDOW {
            Some(format!("the window can be at most {MAX_WINDOW} values"))
        } else {
            let subscriber =
                RemoteSubscriber::new(self.subscriber_host(), self.link(), id32, window);
            subscribers.insert(id32, (Arc::clone(&subscriber), None));
            let events = self.events();
            events.attaching.lock().push_back(Attaching { subscriber, service, event });
            events.has_attaching.store(true, Ordering::Relaxed);
            None
        };
        drop(subscribers);
        match refusal {
            Some(reason) => self.refuse_subscription(id32, reason),
            // Somebody else than the driver may have read it.
            None => self.link().wake_driver(),
        }
        Ok(())
    }

    /// Has subscribers at their events that are on their way there. With no lock held, by the driver alone: so they get there in the
    /// order in which they came.
    #[inline]
    fn attach_subscribers(&self) {
        // Relaxed: see the field.
        if self.events().has_attaching.load(Ordering::Relaxed) {
            self.attach_those();
        }
    }

    fn attach_those(&self) {
        let events = self.events();
        assert_none_is_held("a service is asked for its event");
        events.has_attaching.store(false, Ordering::Relaxed);
        loop {
            let next = events.attaching.lock().pop_front();
            let Some(Attaching { subscriber, service, event }) = next else { return };
            let id = subscriber.id();
            if subscriber.is_ended() {
                continue;
            }
            let attached = self.attach(service, event, EventSubscriber(Arc::clone(&subscriber)));
            let (attached, refusal) = match attached {
                Ok(attached) => (Some(attached), None),
                Err(reason) => (None, Some(reason)),
            };
            let mut subscribers = events.subscribers.lock();
            let entry = subscribers.get_mut(&id);
            let entry = entry.filter(|(known, _)| Arc::ptr_eq(known, &subscriber));
            // It may have gone meanwhile, and another have its number.
            let gone = match (entry, attached) {
                (Some((_, registration)), Some(attached)) => registration.replace(attached),
                (Some(_), None) => {
                    subscribers.remove(&id);
                    None
                }
                (None, attached) => attached,
            };
            drop(subscribers);
            drop(gone);
            fail_point::at("subscribe.taken");
            if let Some(reason) = refusal {
                self.refuse_subscription(id, reason);
            }
        }
    }

    fn refuse_subscription(&self, id: u32, reason: String) {
        let reason = reason.into_bytes();
        self.send(|outbound| outbound.push_answer(Kind::EventEnd, u64::from(id), reason));
    }

    fn handle_unsubscribe(&self, id: u64) {
        let subscriber =
            u32::try_from(id).ok().and_then(|id| self.events().subscribers.lock().remove(&id));
        // A refused subscription is unknown here, and its subscriber may not have been told yet.
        if let Some((subscriber, registration)) = subscriber {
            drop(registration);
            let events = subscriber.end();
            // The subscriber has ended, so it does not register again. Without this, a peer that subscribes again and again, and does
            // not read, would leave an entry behind each time.
            self.events().let_go(subscriber.id());
            let mut resources = Vec::new();
            self.send(|outbound| {
                resources = outbound.drop_events(events);
                Ok(())
            });
            self.withdraw_streams(resources.into_iter());
        }
    }

    fn handle_event_ack(&self, id: u32, values: u32) -> Result<(), Error> {
        let subscriber =
            self.events().subscribers.lock().get(&id).map(|(subscriber, _)| Arc::clone(subscriber));
        let Some(subscriber) = subscriber else { return Ok(()) };
        subscriber.acknowledge(values).map_err(|_| {
            Error::Protocol("an acknowledgement of values that were not sent".to_owned())
        })
    }
}

impl<H: EventHost + ?Sized> Publishes for H {}
