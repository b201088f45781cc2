//! The two halves of a session, each with its lock, and the facts about them that are read without a lock.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use witrpc_core::limits::Limits;
use witrpc_core::security::authorization::Identity;
use witrpc_core::session::inbound::Inbound;
use witrpc_core::session::ledger::Ledger;
use witrpc_core::session::outbound::{Outbound, Part};
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::{CloseReason, Error};

use crate::link::event_room::EventRoom;
use crate::link::handshake::{Opened, Rest};
use crate::link::lending::Lending;
use crate::link::places::QueueRoom;
use crate::link::poller::Poller;
use crate::link::reception::{Half, Reception};
use crate::link::reuse;
use crate::locks::{self, Mutex, Rank};

/// The two halves of one connection.
/// Many fields: all that the features share of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// A number for the connection, unique in this process.
    pub(crate) id: u64,
    pub(crate) codec: Codec,
    /// The runtime that drives the connection.
    pub(crate) runtime: Handle,
    pub(crate) peer_limits: Limits,
    /// There is no other process: the peer is a task, which does not run before we return, or runs on another thread.
    pub(crate) peer_is_a_task: bool,
    pub(crate) receiving: Reception<Receiving>,
    pub(crate) sending: Sending,
    pub(crate) lending: Lending,
    /// Whether the peer ran on our CPU when a caller or the driver last waited for it.
    peer_on_our_cpu: AtomicBool,
    pub(crate) ledger: Arc<Ledger>,
    closed: OnceLock<CloseReason>,
}

/// The receiving half, and the polling state of callers and of the driver.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) inbound: Inbound,
    pub(crate) caller: Poller,
    pub(crate) driver: Poller,
    /// The last answer that a caller polled for arrived in several frames.
    pub(crate) answers_in_parts: bool,
}

/// The sending half, and the bounds on its queue.
#[derive(Debug)]
pub(crate) struct Sending {
    /// `None` once the connection has ended.
    pub(crate) outbound: Mutex<Option<Outbound>>,
    /// Whether a frame waits for room in the ring, for tasks that poll; changed under `outbound` only.
    wants_room: AtomicBool,
    /// Whether more than `most_responses` waits to be sent; changed under `outbound` only.
    backed_up: AtomicBool,
    /// The room for values of events.
    pub(crate) events: Arc<EventRoom>,
    /// Whether everything was sent and published, but for credit that is due; changed under `outbound` only.
    idle: AtomicBool,
    /// Bytes of responses in the sending queue beyond which nothing is started that would add to them.
    most_responses: u64,
    /// Notified when the responses are within their bound again, for handlers that have not begun.
    room: Arc<Notify>,
    /// Our bounds on the sending queue.
    pub(crate) queue: QueueRoom,
}

impl Receiving {
    pub(crate) fn disarm(&mut self) {
        self.inbound.receiver.disarm();
    }

    /// Whether the driver would busy-poll now.
    pub(crate) fn driver_would_poll(&self) -> bool {
        self.driver.is_willing() && self.inbound.receiver.worth_polling()
    }
}

impl Half for Receiving {
    type Error = Error;

    fn is_ready(&mut self) -> Result<bool, Error> {
        Ok(self.inbound.receiver.is_ready()?)
    }

    fn may_poll(&self) -> bool {
        self.caller.may_poll(|| self.inbound.receiver.worth_polling())
    }

    fn arm(&mut self) -> Result<bool, Error> {
        Ok(self.inbound.receiver.arm()?)
    }

    fn release(&mut self) -> Result<(), Error> {
        Ok(self.inbound.receiver.release()?)
    }

    fn stop(&mut self) -> Result<(), Error> {
        Ok(self.inbound.receiver.stop()?)
    }
}

impl Link {
    /// The halves of an open session, with our own limits. The driver runs on the current runtime. Also returns what else the handshake
    /// yielded: the peer's catalog and identity.
    pub(crate) fn new(
        opened: Opened,
        rest: &Rest,
        limits: Limits,
        codec: Codec,
    ) -> (Self, Catalog, Option<Identity>) {
        reuse::install();
        let lending = Lending::new(&opened);
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let receiving = Receiving {
            inbound: opened.inbound,
            caller: Poller::new(rest.wait_strategy),
            driver: Poller::new(rest.wait_strategy),
            answers_in_parts: false,
        };
        let sending = Sending {
            outbound: Mutex::new(Rank::Outbound, Some(opened.outbound)),
            wants_room: AtomicBool::new(false),
            backed_up: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            events: Arc::new(EventRoom::new(limits.events())),
            // The peer's limit does not bound what we hold, as the peer may announce any value.
            most_responses: limits.responses().min(opened.peer_limits.responses()),
            room: Arc::new(Notify::new()),
            queue: QueueRoom::new(&limits, &opened.ledger),
        };
        let link = Self {
            // Relaxed: only uniqueness matters.
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            codec,
            runtime: Handle::current(),
            peer_limits: opened.peer_limits,
            peer_is_a_task: rest.peer_process_id.is_none(),
            receiving: Reception::new(receiving, Arc::clone(&opened.ledger)),
            sending,
            lending,
            peer_on_our_cpu: AtomicBool::new(false),
            ledger: opened.ledger,
            closed: OnceLock::new(),
        };
        (link, opened.peer_catalog, opened.identity)
    }

    /// Why the connection ended, if it has.
    pub(crate) fn closed(&self) -> Option<&CloseReason> {
        self.closed.get()
    }

    /// Sets the reason for the end, unless there is one already. Called with the sending half locked.
    pub(crate) fn set_closed(&self, reason: CloseReason) -> bool {
        self.closed.set(reason).is_ok()
    }

    /// Notifies the driver that there is something to do.
    pub(crate) fn wake_driver(&self) {
        self.receiving.wake_driver();
    }

    /// Registers the driver's waker. Returns whether there is work already.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, Error> {
        self.receiving.register_driver(waker)
    }

    /// Answers that wait to be sent.
    pub(crate) fn unsent_responses(&self) -> usize {
        self.ledger.unsent_responses()
    }

    /// Whether the peer ran on our CPU when a caller or the driver last waited for it.
    pub(crate) fn peer_is_on_our_cpu(&self) -> bool {
        // Relaxed: only a hint.
        self.peer_on_our_cpu.load(Ordering::Relaxed)
    }

    /// Notes whether polling is `worth` it, which it is while the peer runs on another CPU.
    pub(crate) fn note_peers_cpu(&self, worth: bool) {
        if worth == self.peer_is_on_our_cpu() {
            self.peer_on_our_cpu.store(!worth, Ordering::Relaxed);
        }
    }

    /// Whether there is nothing to send. Read without the lock.
    pub(crate) fn is_idle(&self) -> bool {
        // Relaxed: it is false when a step begins. If that step leaves something to the driver, it wakes the driver afterwards, or asks the
        // peer to; either way the driver sees the step's end, or finds it false and waits for the lock.
        self.sending.idle.load(Ordering::Relaxed) && !self.ledger.is_due()
    }

    /// Whether a frame waits for room in the ring. Read without the lock: the caller checks again later.
    pub(crate) fn wants_room(&self) -> bool {
        // Relaxed: it only decides whether to take the lock now.
        self.sending.wants_room.load(Ordering::Relaxed)
    }

    /// Whether a frame waits for room in the ring, and there is room; for tasks that poll. `false` if the sending half is locked: its
    /// holder checks for itself.
    pub(crate) fn has_room_again(&self) -> Result<bool, Error> {
        if !self.wants_room() {
            return Ok(false);
        }
        let Some(mut guard) = self.sending.outbound.try_lock() else { return Ok(false) };
        guard.as_mut().map_or(Ok(false), Outbound::look_for_room)
    }

    /// Whether a frame has arrived, or there is room that a frame waits for.
    #[inline]
    pub(crate) fn has_come(&self, inbound: &mut Inbound) -> Result<bool, Error> {
        Ok(inbound.receiver.is_ready()? || self.has_room_again()?)
    }

    /// Whether so many responses wait to be sent that nothing may be started that would add to them.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.sending.backed_up.load(Ordering::SeqCst)
    }

    /// Waits until it is not [backed up](Self::is_backed_up).
    pub(crate) async fn room(&self) {
        loop {
            let mut room = pin!(self.sending.room.notified());
            // Registered before the check, so that room that is made in between is not missed.
            room.as_mut().enable();
            if !self.is_backed_up() {
                return;
            }
            room.await;
        }
    }

    /// Runs a step on the sending half; `false` if there is none any more.
    pub(crate) fn with_outbound(
        &self,
        step: impl FnOnce(&mut Outbound) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let sending = &self.sending;
        let mut guard = sending.outbound.lock();
        let Some(outbound) = guard.as_mut() else { return Ok(false) };
        outbound.set_peer_near(self.peer_is_on_our_cpu());
        // Before the step, which may wake the driver: then the driver waits for the lock.
        sending.idle.store(false, Ordering::Relaxed);
        let more = step(outbound)?;
        if outbound.wants_room() != self.wants_room() {
            sending.wants_room.store(outbound.wants_room(), Ordering::Relaxed);
        }
        if outbound.is_idle() {
            sending.idle.store(true, Ordering::Relaxed);
        }
        if sending.events.set_queued(outbound.queued_of(Part::Events)) {
            self.wake_driver(); // It resumes events, and whoever waits for room.
        }
        let backed_up = outbound.queued_of(Part::Responses) > sending.most_responses;
        if backed_up != self.is_backed_up() {
            // In this order: a woken task checks again.
            sending.backed_up.store(backed_up, Ordering::SeqCst);
            if !backed_up {
                locks::let_go(Arc::clone(&sending.room), |room| room.notify_waiters());
                // Only the driver serves requests that were put aside, whoever made the room.
                self.wake_driver();
            }
        }
        Ok(more)
    }
}
