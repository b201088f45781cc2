//! How a connection ends: why, with which last words, and what becomes of what was under way.

use std::task::Waker;

use super::{Connection, lock};
use crate::error::{CloseReason, Error};
use crate::fail_point;
use crate::feed;
use crate::outbound::Outbound;

impl Connection {
    /// Ends the connection because of an error, telling the peer what it did wrong.
    pub(crate) fn fail(&self, error: &Error) {
        let farewell = error.to_string();
        self.end(CloseReason::Failed(farewell.clone()), &farewell);
    }

    /// Ends the connection on this side's wish, telling the peer.
    pub(crate) fn disconnect(&self, farewell: &str) {
        self.end(CloseReason::Local, farewell);
    }

    /// Says goodbye and closes.
    fn end(&self, reason: CloseReason, farewell: &str) {
        self.close_with(reason, |outbound| {
            outbound.clear();
            outbound.push_goodbye(farewell);
            // One attempt; the driver has a little more patience.
            if let Err(error) = outbound.pump(true) {
                tracing::debug!(%error, "could not say goodbye");
            }
        });
        self.wake_driver();
    }

    /// Tries once more to say goodbye; returns whether there is still reason to.
    pub(crate) fn retry_goodbye(&self) -> bool {
        let mut guard = lock(&self.outbound);
        let Some(outbound) = guard.as_mut() else { return false };
        outbound.has_goodbye() && outbound.pump(true).is_ok() && outbound.has_goodbye()
    }

    /// Fails everything that waits. The halves stay until the driver takes them down.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_with(reason, |_| ());
    }

    /// Closes, with some last words. The sending half is locked meanwhile, so that the driver, who takes it down once
    /// it sees the reason, does not do so before they are spoken.
    fn close_with(&self, reason: CloseReason, last_words: impl FnOnce(&mut Outbound)) {
        let mut guard = lock(&self.outbound);
        if self.closed.set(reason).is_err() {
            return;
        }
        let mut unsent = Vec::new();
        if let Some(outbound) = guard.as_mut() {
            unsent = outbound.unsent_requests();
            last_words(outbound);
        }
        drop(guard);
        fail_point::at("connection.closing");
        let Some(reason) = self.closed.get() else { return };
        self.calls.close();
        self.bytes.close();
        let wakers = lock(&self.pending).close(reason, &unsent);
        wakers.into_iter().for_each(Waker::wake);
        lock(&self.streams).close(reason);
        let feeds = lock(&self.feeds).take();
        if !self.keeps_feeds() {
            feed::end_all(feeds, reason);
        }
    }

    /// Whether subscriptions outlast the end of this connection: it was lost, and another will take its place.
    pub(super) fn keeps_feeds(&self) -> bool {
        self.keep_feeds
            && !matches!(
                self.closed.get(),
                None | Some(CloseReason::Local | CloseReason::RuntimeGone)
            )
    }

    /// Frees the region, the descriptors and the place at the server. The driver's last step.
    pub(crate) fn take_down(&self) {
        self.close(CloseReason::RuntimeGone);
        self.served.cancel_all();
        drop(std::mem::take(&mut *lock(&self.sinks)));
        let receiving = self.receiving.take();
        let outbound = lock(&self.outbound).take();
        drop((receiving, outbound));
        fail_point::at("connection.unmapped");
        drop(lock(&self.lease).take());
        fail_point::at("connection.ended");
        self.ended.send_replace(true);
    }

    /// Completes when everything has been taken down.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as this connection, so the only way to complete is the value.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }
}
