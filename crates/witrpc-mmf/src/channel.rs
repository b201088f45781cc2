//! The two rings and two events of one connection, as `witrpc_core`'s transport traits see them.
//!
//! The rings decide when the peer must be woken; a channel notifies it. Each side has one event, which is notified both for data and
//! for space. Sender, receiver and waiter share nothing but the mapping and the notifying end.
//!
//! # Invariants
//!
//! - **F1** In a forked child, nothing that was inherited touches a ring: the parent goes on using its cursors. Everything that writes
//!   to a ring, or reads its shared state, checks the [`Owner`] first. The layer above seals nothing in the child either, as it
//!   asks for room before.

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
};

use witrpc_core::transport::{
    Arena, Channel, PeerArena, RecordReceiver, RecordSender, TransportError, Waiter,
};
use witrpc_core::{WaitStrategy, fail_point};

use crate::event::Notify;
use crate::region::{Mapped, Region, Side};
use crate::ring::{Consumer, Corrupt, Producer};
use crate::sys::{self, Owner};

/// What a channel needs besides its region and its events.
pub(crate) struct Terms {
    pub(crate) side: Side,
    pub(crate) peer_process_id: Option<u32>,
    pub(crate) wait_strategy: WaitStrategy,
    pub(crate) on_first_frame: Box<dyn FnOnce() + Send>,
    pub(crate) lease: Box<dyn Any + Send + Sync>,
    pub(crate) arenas: Arenas,
}

/// The memory in which the two sides lend payloads to each other.
#[derive(Debug)]
pub(crate) struct Arenas {
    /// This side's; or why there is none, and what to do.
    pub(crate) own: Result<Arc<dyn Arena>, &'static str>,
    /// The peer's, if there is one.
    pub(crate) peers: Option<Arc<dyn PeerArena>>,
}

impl Arenas {
    /// There are none.
    pub(crate) const fn none(advice: &'static str) -> Self {
        Self { own: Err(advice), peers: None }
    }

    /// There are none over a file with a name.
    pub(crate) const fn of_named_files() -> Self {
        Self::none(
            "over a memory-mapped file nothing can be lent; between a host and its worker it can",
        )
    }
}

/// Puts a channel together.
pub(crate) fn assemble<R: Notify + fmt::Debug>(
    region: Region,
    notifier: R,
    waiter: impl Waiter,
    terms: Terms,
) -> Channel {
    let (sender, receiver) = directions(region, terms.side, notifier, terms.arenas);
    Channel {
        sender,
        receiver,
        waiter: Box::new(waiter),
        peer_process_id: terms.peer_process_id,
        clock: sys::monotonic_nanoseconds,
        wait_strategy: terms.wait_strategy,
        on_first_frame: terms.on_first_frame,
        lease: terms.lease,
    }
}

/// Our two directions.
pub(crate) fn directions<R: Notify + fmt::Debug>(
    region: Region,
    side: Side,
    notifier: R,
    arenas: Arenas,
) -> (Box<dyn RecordSender>, Box<dyn RecordReceiver>) {
    let (producer, consumer) = region.split(side);
    let (peer, owner) = (Arc::new(notifier), Owner::here());
    let (arena, peers) = (arenas.own, arenas.peers);
    (
        Box::new(Sender { producer, peer: Arc::clone(&peer), owner, arena }),
        Box::new(Receiver { consumer, peer, owner, may_poll: has_several_cpus(), arena: peers }),
    )
}

#[derive(Debug)]
struct Sender<R> {
    producer: Producer<Mapped>,
    peer: Arc<R>,
    owner: Owner,
    arena: Result<Arc<dyn Arena>, &'static str>,
}

impl<R: Notify> RecordSender for Sender<R> {
    fn max_record(&self) -> usize {
        self.producer.max_record()
    }

    fn capacity(&self) -> usize {
        self.producer.capacity()
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        self.owner.check()?; // F1
        Ok(self.producer.try_push(head, body, spare)?)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.owner.check()?; // F1
        Ok(self.producer.has_room(len, spare)?)
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        self.owner.check()?; // F1
        fail_point::at("ring.publishing");
        if self.producer.publish(current_cpu()) {
            fail_point::at("ring.published");
            self.peer.notify()?;
            fail_point::at("ring.notified");
        }
        Ok(())
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        self.publish()?; // F1. The peer cannot free what it cannot see.
        let fits = self.producer.arm(len, spare)?;
        fail_point::at("ring.full");
        Ok(fits)
    }

    fn disarm(&mut self) {
        // F1: its parent may be asleep.
        if self.owner.is_here() {
            self.producer.disarm();
        }
    }

    fn arena(&self) -> Result<Arc<dyn Arena>, &'static str> {
        self.arena.clone()
    }
}

#[derive(Debug)]
struct Receiver<R> {
    consumer: Consumer<Mapped>,
    peer: Arc<R>,
    owner: Owner,
    may_poll: bool,
    arena: Option<Arc<dyn PeerArena>>,
}

impl<R: Notify> RecordReceiver for Receiver<R> {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        self.owner.check()?; // F1
        Ok(self.consumer.peek(head)?)
    }

    fn reserve(&self, out: &mut Vec<u8>, more: usize) {
        out.reserve_exact(more);
        sys::back_by_large_pages(out);
    }

    // These two follow a `peek` within the same step, and write nothing to the ring.
    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        self.consumer.append_to(from, len, out);
    }

    fn consume(&mut self) {
        self.consumer.consume();
    }

    fn release(&mut self) -> Result<(), TransportError> {
        self.owner.check()?; // F1
        if self.consumer.release() {
            fail_point::at("ring.released");
            self.peer.notify()?;
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        self.owner.check()?; // F1
        Ok(self.consumer.is_ready()?)
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        self.owner.check()?; // F1
        let ready = self.consumer.arm()?;
        fail_point::at("ring.armed");
        Ok(ready)
    }

    fn expect(&mut self) {
        // F1: its parent may be asleep.
        if self.owner.is_here() {
            self.consumer.expect();
        }
    }

    fn disarm(&mut self) {
        // F1
        if self.owner.is_here() {
            self.consumer.disarm();
        }
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        Ok(self.consumer.stop()?)
    }

    fn worth_polling(&self) -> bool {
        let cpu = current_cpu();
        if cpu == UNKNOWN_CPU {
            return self.may_poll;
        }
        // The number of CPUs that this process may use says nothing here: its peer may be bound to another one.
        self.consumer.producer_cpu() != cpu
    }

    fn arena(&self) -> Option<Arc<dyn PeerArena>> {
        self.arena.clone()
    }
}

impl From<Corrupt> for TransportError {
    fn from(Corrupt(rule): Corrupt) -> Self {
        Self::Corrupt(rule)
    }
}

/// The `[seg.line.cpu]` of systems that do not report the CPU.
const UNKNOWN_CPU: u32 = 0;

/// The CPU that we run on, plus one.
#[inline]
fn current_cpu() -> u32 {
    sys::current_cpu().map_or(UNKNOWN_CPU, |cpu| cpu.saturating_add(1))
}

fn has_several_cpus() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}
