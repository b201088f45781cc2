//! The receiving end of a stream on a connection: items that have arrived and were not taken, and the credit for more.
//!
//! A stream holds a [`Share`] of the connection's windows until it holds no item and none can arrive. The end of the stream alone
//! does not return the share: it may arrive long before the items are taken.

use std::sync::Arc;

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::stream_receiver::{Broken, ReceiverState};
use witrpc_core::session::window::Window;
use witrpc_core::values::content::Content;
use witrpc_core::wire::message::StreamEntry;
use witrpc_core::{CloseReason, Error};

use crate::locks::{Mutex, Rank, WakerPlace};
use crate::streams::windows::Share;

/// A connection's state of a stream that the peer sends.
#[derive(Debug)]
pub(crate) struct StreamReceiver {
    pub(crate) id: u64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stream: ReceiverState,
    /// The stream's part of the connection's windows.
    share: Option<Share>,
    pub(super) waker: WakerPlace,
}

impl StreamReceiver {
    pub(crate) fn new(entry: StreamEntry) -> Arc<Self> {
        let state = State {
            stream: ReceiverState::new(entry.window),
            share: None,
            waker: WakerPlace::default(),
        };
        Arc::new(Self { id: entry.id, state: Mutex::new(Rank::Stream, state) })
    }

    /// Stores an item that has arrived. [wire.stream.item]
    pub(crate) fn push(&self, number: u64, content: Content, charge: Charge) -> Result<(), Broken> {
        let mut state = self.state.lock();
        let unread = state.stream.push(number, content, charge)?;
        if unread.is_none() {
            state.waker.wake();
        }
        drop(state);
        Ok(())
    }

    /// Ends the stream: no further item arrives. Only the first call has an effect.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = self.state.lock();
        if !state.stream.end(error) {
            return;
        }
        state.give_share_back();
        state.waker.wake();
    }

    /// Ends the stream because its connection has ended.
    pub(crate) fn close(&self, reason: &CloseReason) {
        // The call that made the stream was executed; whether the peer processed the stream's items is unknown.
        self.end(Some(Error::Closed { reason: reason.clone(), maybe_executed: true }));
    }

    /// Whether its first credit has been given.
    pub(crate) fn is_opened(&self) -> bool {
        self.state.lock().stream.is_opened()
    }

    /// Keeps `share` until the stream holds no item and none can arrive.
    pub(crate) fn keep_share(&self, share: Share) {
        self.state.lock().share = Some(share);
    }

    /// Items that are charged to the connection's account for messages, and those that the window covers.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        self.state.lock().stream.held()
    }

    /// Grants the first credit, at most `bytes`; returns it.
    pub(crate) fn open(&self, wanted: u32, bytes: u64) -> Window {
        self.state.lock().stream.open(wanted, bytes)
    }
}

impl State {
    /// Returns the share, if the stream holds no item and none can arrive.
    pub(super) fn give_share_back(&mut self) {
        if self.stream.is_over() {
            self.share = None;
        }
    }
}
