//! The consuming end of a stream on a connection: what has come and has not been taken, and how much more may.
//!
//! The stream's [`Share`] of the connection's windows is given back once nothing of the stream is held and nothing can come: not with its
//! end, which may come long before its items are taken.

use std::sync::{Arc, Mutex};
use std::task::Waker;

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::stream_receiver::{Broken, StreamReceiver};
use witrpc_core::session::window::Window;
use witrpc_core::values::content::Content;
use witrpc_core::wire::message::StreamEntry;
use witrpc_core::{CloseReason, Error};

use crate::link::sync::lock;
use crate::streams::windows::Share;

/// What a connection knows of a stream that comes from its peer.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) id: u64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stream: StreamReceiver,
    /// What it has of the connection's windows.
    share: Option<Share>,
    pub(super) waker: Option<Waker>,
}

impl Inlet {
    pub(crate) fn new(entry: StreamEntry) -> Arc<Self> {
        let state = State { stream: StreamReceiver::new(entry.window), share: None, waker: None };
        Arc::new(Self { id: entry.id, state: Mutex::new(state) })
    }

    /// Takes an item in. [wire.stream.item]
    pub(crate) fn push(&self, number: u64, content: Content, charge: Charge) -> Result<(), Broken> {
        let mut state = lock(&self.state);
        let unread = state.stream.push(number, content, charge)?;
        let waker = if unread.is_none() { state.waker.take() } else { None };
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Nothing follows what has come. Counts once.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = lock(&self.state);
        if !state.stream.end(error) {
            return;
        }
        state.give_share_back();
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// It ends with its connection.
    pub(crate) fn close(&self, reason: &CloseReason) {
        // That the call which made the stream was executed is certain; what became of the stream's items is not.
        self.end(Some(Error::Closed { reason: reason.clone(), maybe_executed: true }));
    }

    /// Whether its first credit has been given.
    pub(crate) fn is_opened(&self) -> bool {
        lock(&self.state).stream.is_opened()
    }

    /// Keeps this for as long as anything is held.
    pub(crate) fn keep_share(&self, share: Share) {
        lock(&self.state).share = Some(share);
    }

    /// Items on the messages' account, and on the window's.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        lock(&self.state).stream.held()
    }

    /// Opens it by its first credit, within `bytes`; returns that credit.
    pub(crate) fn open(&self, wanted: u32, bytes: u64) -> Window {
        lock(&self.state).stream.open(wanted, bytes)
    }
}

impl State {
    /// Once nothing is held, and nothing can come.
    pub(super) fn give_share_back(&mut self) {
        if self.stream.is_over() {
            self.share = None;
        }
    }
}
