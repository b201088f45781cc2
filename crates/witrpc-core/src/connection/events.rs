//! Events on a connection: our subscriptions at the peer, and the peer's here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Connection, lock};
use crate::context::CallContext;
use crate::error::Error;
use crate::fail_point;
use crate::feed::Feed;
use crate::frame::Kind;
use crate::ledger::Charge;
use crate::message::{Content, Head};
use crate::outbound::Outgoing;
use crate::sink::{EventSink, RemoteSink, Window};
use crate::subscription::EventError;
use crate::wire::Put;

/// Subscriptions that a peer may have here at a time: each costs a backlog.
const MAX_SUBSCRIPTIONS: usize = 4096;
/// Values that a subscriber may let us run ahead: all of them wait here if its peer does not read. Some times what a
/// client of ours asks for.
const MAX_WINDOW: u32 = 4096;

/// Our own subscriptions.
impl Connection {
    /// Carries a subscription from here on: it is in force before any later call of ours runs.
    pub(crate) fn subscribe(self: &Arc<Self>, feed: &Arc<Feed>) {
        let route = self.with_route(feed.descriptor, |route| {
            Ok((route.service, route.events[feed.index].clone()?))
        });
        let (service, event) = match route {
            Ok(route) => route,
            Err(error) => return feed.end(EventError::Refused(error)),
        };
        let mut feeds = lock(&self.feeds);
        if let Some(reason) = self.closed.get() {
            if self.keeps_feeds() {
                return;
            }
            return feed.end(EventError::Closed(reason.clone()));
        }
        let id = feeds.add(Arc::clone(feed));
        feed.begin(self, id);
        drop(feeds);
        let payload = subscription(service, event, self.window);
        self.send(|outbound| outbound.push_control_with(Kind::Subscribe, u64::from(id), payload));
        fail_point::at("subscribe.sent");
    }

    pub(crate) fn unsubscribe(&self, id: u32) {
        let feed = lock(&self.feeds).remove(id);
        if feed.is_some() {
            self.send(|outbound| outbound.push_control(Kind::Unsubscribe, u64::from(id)));
        }
    }

    /// Lets our subscriptions go, to be carried by another connection.
    pub(crate) fn release_feeds(&self) {
        let feeds = lock(&self.feeds).take();
        drop(feeds);
    }

    /// Tells the peer that a subscriber has taken values.
    pub(crate) fn acknowledge_event(&self, id: u32, values: u32) {
        let id = u64::from(values) << 32 | u64::from(id);
        self.send(|outbound| outbound.push_control(Kind::EventAck, id));
    }

    pub(super) fn handle_event(
        &self,
        id: u64,
        head: &Head,
        content: Content,
        charge: Charge,
    ) -> Result<(), Error> {
        let never =
            |_| Error::Protocol("a value of an event that was not subscribed to".to_owned());
        let feed = lock(&self.feeds).get(id).map_err(never)?.cloned();
        fail_point::at("event.taken");
        // One that was dropped a moment ago: what was under way is of no interest.
        let Some(feed) = feed else { return Ok(()) };
        feed.push(head.stamp, content, charge, self.window)
            .map_err(|_| Error::Protocol("more values than the window allows".to_owned()))
    }

    pub(super) fn handle_event_end(&self, id: u64, reason: String) {
        let feed = u32::try_from(id).ok().and_then(|id| lock(&self.feeds).remove(id));
        if let Some(feed) = feed {
            feed.end(EventError::Refused(Error::Fault { message: reason }));
        }
    }
}

/// The peer's subscriptions.
impl Connection {
    /// Sends a value to a subscriber of the peer.
    pub(crate) fn send_event(&self, id: u32, number: u64, content: Content) {
        let event = Outgoing::new(Kind::Event, u64::from(id), content, (0, 0, number), None);
        self.with_outbound(|outbound| {
            CallContext::note_event(self.peer.connection_id, outbound.push_event(event));
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
    }

    /// Notes that a value waits for nothing but room in the sending queue: there is no acknowledgement to come that
    /// would send it.
    pub(crate) fn hold_back_events(&self) {
        self.held_back.store(true, Ordering::SeqCst);
        // Whoever makes room says so, and wakes the driver, which looks at the mark: one of us sees the other, as all of it
        // is sequentially consistent.
        if !self.is_backed_up() {
            self.wake_driver();
        }
    }

    /// Sends values that waited for room, once there is some. For the driver.
    pub(crate) fn resume_events(&self) {
        // A look first: the swap takes the line from whoever else looks.
        if self.is_backed_up()
            || !self.held_back.load(Ordering::SeqCst)
            || !self.held_back.swap(false, Ordering::SeqCst)
        {
            return;
        }
        let sinks: Vec<_> = lock(&self.sinks).values().map(|(sink, _)| Arc::clone(sink)).collect();
        for sink in sinks {
            sink.resume(self);
        }
    }

    pub(super) fn handle_subscribe(
        &self,
        id: u64,
        (service, event): (u16, u16),
        window: Window,
    ) -> Result<(), Error> {
        let id32 =
            u32::try_from(id).map_err(|_| Error::Protocol("a subscription's id".to_owned()))?;
        let Some(this) = self.this.upgrade() else { return Ok(()) };
        let mut sinks = lock(&self.sinks);
        if sinks.contains_key(&id32) {
            return Err(Error::Protocol("two subscriptions with one id".to_owned()));
        }
        let refusal = if sinks.len() >= MAX_SUBSCRIPTIONS {
            Some(format!("the server takes {MAX_SUBSCRIPTIONS} subscriptions per client"))
        } else if window.values > MAX_WINDOW {
            Some(format!("the server takes windows of at most {MAX_WINDOW} values"))
        } else {
            let sink = RemoteSink::new(&this, id32, window);
            match self.served.subscribe(service, event, EventSink(Arc::clone(&sink))) {
                Some(registration) => {
                    sinks.insert(id32, (sink, registration));
                    fail_point::at("subscribe.taken");
                    None
                }
                None => Some("the server has no such event of its own".to_owned()),
            }
        };
        drop(sinks);
        if let Some(reason) = refusal {
            let reason = reason.into_bytes();
            self.send(|outbound| outbound.push_control_with(Kind::EventEnd, id, reason));
        }
        Ok(())
    }

    pub(super) fn handle_unsubscribe(&self, id: u64) {
        let sink = u32::try_from(id).ok().and_then(|id| lock(&self.sinks).remove(&id));
        // One that was refused is unknown here, and its subscriber may not have heard yet.
        if sink.is_some() {
            drop(sink);
            self.send(|outbound| {
                outbound.drop_events(id);
                Ok(())
            });
        }
    }

    pub(super) fn handle_event_ack(&self, id: u32, values: u32) -> Result<(), Error> {
        let sink = lock(&self.sinks).get(&id).map(|(sink, _)| Arc::clone(sink));
        let Some(sink) = sink else { return Ok(()) };
        sink.acknowledge(values).map_err(|_| {
            Error::Protocol("an acknowledgement of values that were not sent".to_owned())
        })
    }
}

/// The payload of a subscribe. [wire.subscribe]
fn subscription(service: u16, event: u16, window: Window) -> Vec<u8> {
    let mut payload = Vec::with_capacity(16);
    payload.put_u16(service);
    payload.put_u16(event);
    payload.put_u32(window.values);
    payload.put_u64(window.bytes);
    payload
}

#[cfg(test)]
mod tests {
    use super::{Window, subscription};

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn subscribe_is_frozen() {
        let payload = subscription(2, 1, Window { values: 256, bytes: 1 << 16 });
        assert_eq!(payload, [2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    }
}
