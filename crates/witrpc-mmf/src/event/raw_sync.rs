//! The named event of the crate `raw_sync`: a thread of this side waits on it, and wakes the task.
//!
//! It does not report the peer's death. So a [`Bridge`] also waits on a second `Waiter` that does. What an event is depends on the
//! system ([`Signal`]): a kernel object on Windows, memory of the region on Unix. `[seg.event]`
//!
//! raw_sync 0.1.5 has faults. Each is worked around here, and has a test:
//!
//! - On Windows its timeouts are truncated to milliseconds, so that short ones become zero. There, waits have no timeout. On Unix,
//!   timeouts that are not whole seconds fail at once, half of the time. So [`LOOK_AROUND`] is one second, and a wait that
//!   returns too early is followed by a pause.
//! - A timeout cannot be distinguished from a failure. Neither counts as a notification.
//! - On Windows it opens an event that exists already instead of creating one, by a number that can be guessed. So it does not
//!   create events: `windows` does.
//! - On Unix an event can be stuck for ever when a process dies at the wrong moment, both for notifying and for waiting. So no task
//!   ever calls one: notifying has a thread of its own, too, and nobody joins these threads.
//! - On Unix a peer can corrupt an event, also on purpose. So both sides must have chosen this kind.
//! - On Unix nothing is released on drop. Nothing needs to be: the event is memory of the region.
//!
//! # Invariants
//!
//! - **T1** Both ends of a connection's side are dropped in bounded time, without a system call that can block.
//! - **T2** The waiting thread ends at once when its [`Bridge`] is dropped, unless the event is stuck.

#[cfg(windows)]
use std::os::windows::io::OwnedHandle;
use std::{
    fmt, io,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use atomic_waker::AtomicWaker;
use witrpc_core::transport::{TransportError, Waiter, Wake};

use super::Notify;
use crate::region::{Region, Side};
use crate::sys::Owner;

mod threads;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use threads::{LOOK_AROUND, start};
#[cfg(unix)]
use unix::{Notifier, Signal};
#[cfg(windows)]
use windows::{Notifier, Signal};

/// The pause after a wait that failed.
const REST: Duration = Duration::from_millis(10);

/// One side's handles of both events of a connection. Its threads run already, so nothing can fail any more.
#[derive(Debug)]
pub(crate) struct Events {
    notifier: Notifier,
    wait_thread: WaitThread,
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

    /// Events without names, of which the two sides have handles. `[seg.windows.inherited]`
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    #[cfg(windows)]
    pub(crate) fn of_handles(peer: OwnedHandle, own: OwnedHandle) -> io::Result<Self> {
        Self::start(Signal::of(peer), Signal::of(own))
    }

    fn start(peer: Signal, own: Signal) -> io::Result<Self> {
        Ok(Self { notifier: Notifier::new(peer)?, wait_thread: WaitThread::start(own)? })
    }

    /// Splits it into the notifying and the waiting end. `hold` is kept as long as the notifying one; `life` reports when the peer is gone.
    pub(crate) fn ends<L, H>(self, life: L, hold: H) -> (Held<H>, Bridge<L>) {
        (
            Held { notifier: self.notifier, _hold: hold },
            Bridge { life, wait_thread: self.wait_thread },
        )
    }
}

/// A notifying end, and a value that is kept as long.
#[derive(Debug)]
pub(crate) struct Held<H> {
    notifier: Notifier,
    _hold: H,
}

impl<H: Send + Sync + 'static> Notify for Held<H> {
    fn notify(&self) -> io::Result<()> {
        self.notifier.notify()
    }
}

/// The waiting end, for a task: woken by the thread that waits on the event, or when the peer is gone.
#[derive(Debug)]
pub(crate) struct Bridge<L> {
    life: L,
    wait_thread: WaitThread,
}

impl<L: Waiter> Waiter for Bridge<L> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let state = &self.wait_thread.state;
        state.waker.register(cx.waker());
        // NOTIFIED: pairs with the store in `wait`.
        if state.notified.swap(false, Ordering::Acquire) {
            return Poll::Ready(Ok(Wake::Rung));
        }
        self.life.poll_wake(cx)
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        let Self { life, wait_thread } = *self;
        let life = Box::new(life).moved()?;
        Ok(Box::new(Bridge { life, wait_thread }))
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").finish_non_exhaustive()
    }
}

/// What the task and the waiting thread share.
#[derive(Debug, Default)]
struct State {
    notified: AtomicBool,
    ended: AtomicBool,
    waker: AtomicWaker,
}

/// The task's handle of the waiting thread, which ends when this is dropped (T2).
#[derive(Debug)]
struct WaitThread {
    owner: Owner,
    own: Arc<Signal>,
    state: Arc<State>,
}

impl WaitThread {
    fn start(own: Signal) -> io::Result<Self> {
        let wait_thread = Self { owner: Owner::here(), own: Arc::new(own), state: Arc::default() };
        let (signal, state) = (Arc::clone(&wait_thread.own), Arc::clone(&wait_thread.state));
        start("witrpc-wait", move || wait(&signal, &state))?;
        Ok(wait_thread)
    }
}

impl Drop for WaitThread {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            return; // The thread belongs to the parent.
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
            // NOTIFIED: pairs with the swap in `poll_wake`.
            state.notified.store(true, Ordering::Release);
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

    /// A peer that never dies.
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
    async fn a_notification_wakes_the_other_side_and_nobody_else() {
        let (_place, (to_client, mut server), (to_server, mut client)) = pair();
        for _ in 0..100 {
            to_client.notify().unwrap();
            assert!(wakes(&mut client, HANG).await);
            to_server.notify().unwrap();
            assert!(wakes(&mut server, HANG).await);
        }
        assert!(!wakes(&mut server, LITTLE).await && !wakes(&mut client, LITTLE).await);
    }

    #[tokio::test]
    async fn notifications_before_the_wait_are_not_lost_and_count_as_few() {
        let (_place, (to_client, _server), (_to_server, mut client)) = pair();
        (0..1000).for_each(|_| to_client.notify().unwrap());
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
        let (_place, (_notifier, bridge), _client) = pair();
        let state = Arc::downgrade(&bridge.wait_thread.state);
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
        let (_place, (_notifier, mut bridge), _client) = pair();
        let ours = std::mem::replace(&mut bridge.wait_thread.owner, Owner::of_parent());
        let (own, state) =
            (Arc::clone(&bridge.wait_thread.own), Arc::clone(&bridge.wait_thread.state));
        drop(bridge);
        assert!(!state.ended.load(Ordering::Acquire));
        drop(WaitThread { owner: ours, own, state }); // As the parent does.
    }

    /// raw_sync's fault: notifying and waiting may both block for ever.
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
        to_client.notify().unwrap();
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
