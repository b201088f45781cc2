//! The named event that is one of the crate `raw_sync`: a thread of this side waits on it, and wakes the task.
//!
//! It tells nothing of the peer's death, so a [`Bridge`] waits on something else as well: the sign of life, another `Waiter`. What
//! an event is, the system says ([`Signal`]): on Windows an object of the kernel, on Unix memory of the region. `[seg.event]`
//!
//! raw_sync 0.1.5 has faults, each of which is fenced here, and by a test:
//!
//! - Its timeouts are cut to milliseconds on Windows, so that short ones are none; there waits have no limit. On Unix those that
//!   are not whole seconds fail at once, half of the time. So [`LOOK_AROUND`] is one second. Whoever comes back too soon is
//!   slowed down.
//! - A timeout cannot be told from a failure, and counts as nothing.
//! - On Windows it takes an event that exists already for its own, by a number that can be guessed. So it does not make
//!   them: `windows` does.
//! - On Unix an event is stuck for ever when a process dies at the wrong moment, for who rings as for who waits. So no task ever
//!   touches one: who rings is a thread, too, and nobody waits for a thread to end.
//! - On Unix a peer can spoil one, also on purpose. So both sides must have chosen this kind.
//! - On Unix nothing is taken down on drop. Nothing needs to be: it is memory, which goes with the region.
//!
//! # Invariants
//!
//! - **T1** Both ends of a connection's side are dropped in bounded time, without a system call that can block.
//! - **T2** The waiting thread ends at once when its [`Bridge`] is dropped, unless the event is stuck.

use std::{
    fmt, io,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use witrpc_core::transport::{TransportError, Waiter, Wake};

use super::Ring;
use crate::region::{Region, Side};
use crate::sys::Owner;

mod threads;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use threads::{LOOK_AROUND, start};
#[cfg(unix)]
use unix::{Bell, Signal};
#[cfg(windows)]
use windows::{Bell, Signal};

/// After a wait that failed, instead of trying again and again.
const REST: Duration = Duration::from_millis(10);
/// Both events of one connection, as one side has them. Its threads run already, so nothing can fail any more.
#[derive(Debug)]
pub(crate) struct Events {
    bell: Bell,
    listener: Listener,
}

impl Events {
    /// Makes the events of a connection, as its server does. `[seg.event]`
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn create(region: &Region) -> io::Result<Self> {
        let peer = Signal::create(region.event_memory(Side::Client))?;
        Self::start(peer, Signal::create(region.event_memory(Side::Server))?)
    }

    /// The same events, for the client.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn open(region: &Region) -> io::Result<Self> {
        let peer = Signal::open(region.event_memory(Side::Server))?;
        Self::start(peer, Signal::open(region.event_memory(Side::Client))?)
    }

    fn start(peer: Signal, own: Signal) -> io::Result<Self> {
        Ok(Self { bell: Bell::new(peer)?, listener: Listener::start(own)? })
    }

    /// The two ends. `hold` is kept as long as the ringing one, `life` tells when the peer has gone.
    pub(crate) fn ends<L, H>(self, life: L, hold: H) -> (Held<H>, Bridge<L>) {
        (Held { bell: self.bell, _hold: hold }, Bridge { life, listener: self.listener })
    }
}

/// A ringing end, and what is to be kept as long.
#[derive(Debug)]
pub(crate) struct Held<H> {
    bell: Bell,
    _hold: H,
}

impl<H: Send + Sync + 'static> Ring for Held<H> {
    fn ring(&self) -> io::Result<()> {
        self.bell.ring()
    }
}

/// The waiting end: a task, woken by the thread that waits on the event, or by the sign of life.
#[derive(Debug)]
pub(crate) struct Bridge<L> {
    life: L,
    listener: Listener,
}

impl<L: Waiter> Waiter for Bridge<L> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let state = &self.listener.state;
        state.waker.register(cx.waker());
        // RUNG: pairs with the store in `wait`.
        if state.rung.swap(false, Ordering::Acquire) {
            return Poll::Ready(Ok(Wake::Rung));
        }
        self.life.poll_wake(cx)
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        let Self { life, listener } = *self;
        let life = Box::new(life).moved()?;
        Ok(Box::new(Bridge { life, listener }))
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

/// What task and thread have in common.
#[derive(Debug, Default)]
struct State {
    rung: AtomicBool,
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// The waiting thread, as the task has it: it ends when this is dropped (T2).
#[derive(Debug)]
struct Listener {
    owner: Owner,
    own: Arc<Signal>,
    state: Arc<State>,
}

impl Listener {
    fn start(own: Signal) -> io::Result<Self> {
        let listener = Self { owner: Owner::here(), own: Arc::new(own), state: Arc::default() };
        let (signal, state) = (Arc::clone(&listener.own), Arc::clone(&listener.state));
        start("witrpc-wait", move || wait(&signal, &state))?;
        Ok(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The thread is the parent's, and goes on.
        }
        self.state.ended.store(true, Ordering::Release);
        Signal::set_aside(&self.own);
    }
}

/// The waiting thread.
fn wait(signal: &Signal, state: &State) {
    while !state.ended.load(Ordering::Acquire) {
        let began = Instant::now();
        if signal.wait() {
            // RUNG: pairs with the swap in `poll_wake`.
            state.rung.store(true, Ordering::Release);
            state.waker.wake();
        } else if began.elapsed() < LOOK_AROUND / 2 {
            std::thread::sleep(REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::event::NamedEvent;
    use crate::layout::SMALLEST_REGION;
    use crate::sys::Access;

    /// Who never dies.
    #[derive(Debug)]
    struct Immortal;

    impl Waiter for Immortal {
        fn poll_wake(&mut self, _: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
            Poll::Pending
        }

        fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
            Ok(self)
        }
    }

    type Ends = (Held<()>, Bridge<Immortal>);

    /// A region mapped twice, as two processes would.
    fn regions() -> (tempfile::TempDir, Region, Region) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("region");
        let (instance, kind) = ([3; 16], NamedEvent::RawSync);
        let server = Region::create(&path, SMALLEST_REGION, &instance, kind, Access::User).unwrap();
        let client = Region::attach(&path, &instance, Access::User).unwrap();
        assert_eq!(client.events(), kind);
        (place, server, client)
    }

    fn pair() -> (tempfile::TempDir, Ends, Ends) {
        let (place, server, client) = regions();
        let server = Events::create(&server).unwrap().ends(Immortal, ());
        let client = Events::open(&client).unwrap().ends(Immortal, ());
        (place, server, client)
    }

    async fn wakes(bridge: &mut Bridge<Immortal>, within: Duration) -> bool {
        let wake = poll_fn(|cx| bridge.poll_wake(cx));
        match tokio::time::timeout(within, wake).await {
            Ok(wake) => wake.unwrap() == Wake::Rung,
            Err(_) => false,
        }
    }

    const HANG: Duration = Duration::from_secs(30);
    const LITTLE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_ring_wakes_the_other_side_and_nobody_else() {
        let (_place, (to_client, mut server), (to_server, mut client)) = pair();
        for _ in 0..100 {
            to_client.ring().unwrap();
            assert!(wakes(&mut client, HANG).await);
            to_server.ring().unwrap();
            assert!(wakes(&mut server, HANG).await);
        }
        assert!(!wakes(&mut server, LITTLE).await && !wakes(&mut client, LITTLE).await);
    }

    #[tokio::test]
    async fn rings_before_the_wait_are_not_lost_and_count_as_few() {
        let (_place, (to_client, _server), (_to_server, mut client)) = pair();
        (0..1000).for_each(|_| to_client.ring().unwrap());
        tokio::time::sleep(LITTLE).await;
        let mut woken = 0;
        while wakes(&mut client, LITTLE).await {
            woken += 1;
        }
        assert!((1..=1000).contains(&woken), "{woken}");
        assert!(!wakes(&mut client, LITTLE).await);
    }

    /// raw_sync's fault: other timeouts are over before they began, half of the time or always.
    #[test]
    #[cfg(unix)]
    fn a_wait_that_nobody_ends_lasts() {
        assert_eq!(LOOK_AROUND.subsec_nanos(), 0);
        let (_place, server, _client) = regions();
        let signal = Signal::create(server.event_memory(Side::Server)).unwrap();
        for _ in 0..3 {
            let began = Instant::now();
            assert!(!signal.wait());
            // The system's clock may be coarse.
            assert!(began.elapsed() > LOOK_AROUND * 9 / 10, "{:?}", began.elapsed());
        }
    }

    #[test]
    fn the_waiting_thread_ends_at_once_with_its_bridge() {
        let (_place, (_bell, bridge), _client) = pair();
        let state = Arc::downgrade(&bridge.listener.state);
        let began = Instant::now();
        drop(bridge);
        assert!(began.elapsed() < HANG);
        while state.strong_count() > 0 {
            assert!(began.elapsed() < HANG, "the thread goes on");
            std::thread::yield_now();
        }
    }

    /// In a forked child there is no such thread, and the event is the parent's, too.
    #[test]
    #[cfg(unix)]
    fn a_thread_of_the_parent_is_not_ended_by_a_forked_child() {
        let (_place, (_bell, mut bridge), _client) = pair();
        let ours = std::mem::replace(&mut bridge.listener.owner, Owner::of_parent());
        let (own, state) = (Arc::clone(&bridge.listener.own), Arc::clone(&bridge.listener.state));
        drop(bridge);
        assert!(!state.ended.load(Ordering::Acquire));
        drop(Listener { owner: ours, own, state }); // As the parent does.
    }

    /// raw_sync's fault: who rings, and who waits, may do so for ever.
    #[tokio::test]
    #[cfg(unix)]
    async fn an_event_that_is_stuck_holds_up_no_task() {
        use raw_sync::locks::{LockInit as _, Mutex};
        let (_place, server, client) = regions();
        let memory = server.event_memory(Side::Client);
        let (to_client, _server) = Events::create(&server).unwrap().ends(Immortal, ());
        let (_to_server, mut waiting) = Events::open(&client).unwrap().ends(Immortal, ());
        // The mutex lies in front, and its holder has died, so to speak.
        // SAFETY: the event is there as long as `memory`.
        let mutex = unsafe { Mutex::from_existing(memory.as_ptr(), std::ptr::null_mut()) };
        let (mutex, _) = mutex.unwrap();
        let held = mutex.lock().unwrap();
        let began = Instant::now();
        to_client.ring().unwrap();
        assert!(!wakes(&mut waiting, LITTLE).await);
        drop((to_client, waiting));
        assert!(began.elapsed() < HANG / 10, "{:?}", began.elapsed());
        drop(held); // Now the threads end.
    }

    #[test]
    #[cfg(unix)]
    fn what_is_no_event_is_refused() {
        let (_place, server, client) = regions();
        drop(Signal::create(server.event_memory(Side::Client)).unwrap());
        drop(Signal::open(client.event_memory(Side::Client)).unwrap());
        let memory = server.event_memory(Side::Client);
        // SAFETY: so many bytes are there, and nobody uses them.
        unsafe { std::ptr::write_bytes(memory.as_ptr(), 0xff, crate::layout::EVENT_SIZE) };
        assert!(Signal::open(client.event_memory(Side::Client)).is_err());
    }

    /// raw_sync's fault: it takes nothing down. All that there is goes with the memory.
    #[test]
    #[cfg(target_os = "linux")]
    fn an_event_goes_with_its_region() {
        let (place, server, client) = regions();
        let path = place.path().join("region").display().to_string();
        let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&path);
        let events = (Events::create(&server).unwrap(), Events::open(&client).unwrap());
        assert!(mapped());
        drop((events, server, client));
        let began = Instant::now();
        while mapped() {
            assert!(began.elapsed() < HANG, "a thread goes on");
            std::thread::yield_now();
        }
    }
}
