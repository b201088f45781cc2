//! The locks of this crate: in which order they are taken, and what is done once none is held.
//!
//! # Rules
//!
//! - **L1** A thread takes locks in the order of [`Rank`]. [`Mutex::try_lock`] never waits, and so may come in any order.
//! - **L2** No code of the user's runs while a thread holds a lock: no `Drop`, `Clone`, `Serialize` or callback of the user's, no
//!   function of a waker, and no subscriber of `tracing`. Such code may call back into this crate, and would wait for the lock that
//!   its own thread holds.
//!
//! A step under a lock that has something to wake, to drop or to call puts it off, with [`wake`], [`dispose`] or [`later`]. It is
//! done, in that order, by the guard that lets go of the thread's last lock. So whoever takes a lock need not know what the steps
//! below it leave to be done, and a step that is never under a lock does it at once.
//!
//! Builds with debug assertions check both: a lock out of order panics, and so does what may run code of the user's and says so by
//! [`assert_none_is_held`].
//!
//! The wakers of a connection's driver, and what encrypts and transports (that in memory has locks of its own), are exempt from L2: the first are tasks of this crate,
//! and the second work on the very halves that the locks protect. [`Encryptor`](crate::Encryptor) and
//! [`transport`](crate::transport) say so.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Duration;

use witrpc_core::text::Escaped;
use witrpc_core::user_code::catch;

/// The locks, in the order in which a thread takes them. It holds at most one of each rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rank {
    /// The user's stream within a value that is sent.
    Value,
    /// A server's connections.
    Connections,
    /// A client's subscriptions, which outlast connections.
    ClientSubscriptions,
    /// The connection that a client has at the moment.
    Current,
    /// The receiving half of a connection, and who drains it.
    Receiving,
    /// Calls that are taken.
    Serving,
    /// A connection's subscriptions, of this side or of the peer.
    Subscriptions,
    /// Subscribers of the peer that are not at their event yet.
    Attaching,
    /// An event's list of subscribers.
    Event,
    /// A handler's list of subscribers to whom it has raised.
    Raised,
    /// One subscription, on either side.
    Subscription,
    /// Subscriptions that wait for room in the sending queue.
    HeldBack,
    /// The sending half of a connection.
    Outbound,
    /// Calls that are made.
    Pending,
    /// The last task that has let others call.
    Yielded,
    /// A connection's streams.
    Streams,
    /// One stream.
    Stream,
    /// What the windows of a connection's streams have together.
    Windows,
    /// Streams of the peer's that nobody reads.
    Unread,
    /// What a connection holds of its transport's.
    Lease,
    /// How often room was made for values of an event.
    Room,
    /// Memory that is used again.
    Spare,
    /// What is traced of a connection.
    Trace,
}

/// In the state: something was put off; and more than one thing.
const PUT_OFF: u32 = 1 << 31;
const MORE: u32 = 1 << 30;

thread_local! {
    /// How many locks this thread holds, and what was put off. None of these has a destructor, so that destructors of other
    /// thread-locals find them.
    static STATE: Cell<u32> = const { Cell::new(0) };
    /// A bit for each rank that this thread holds, in builds that check.
    static RANKS: Cell<u64> = const { Cell::new(0) };
    /// What was put off first: mostly the only thing.
    static FIRST: ManuallyDrop<Cell<Option<Effect>>> = const { ManuallyDrop::new(Cell::new(None)) };
    /// The rest. Its allocation is given back with each turn: a thread that ends leaves nothing.
    static REST: ManuallyDrop<Cell<Vec<Effect>>> = const { ManuallyDrop::new(Cell::new(Vec::new())) };
}

/// How many effects have room at first.
const ROOM: usize = 16;

/// What a step under a lock has left to be done.
enum Effect {
    Wake(Waker),
    Run(Box<dyn FnOnce()>),
}

/// A lock with a rank.
pub(crate) struct Mutex<T> {
    rank: Rank,
    inner: std::sync::Mutex<T>,
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Mutex").field(&self.rank).finish()
    }
}

impl<T> Mutex<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: std::sync::Mutex::new(value) }
    }

    /// Waits for the lock. A panic elsewhere has left the protected state whole, because no step panics half-way.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { inner, _held: Held::new(self.rank) }
    }

    /// Takes the lock if nobody has it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { inner, _held: Held::new(self.rank) })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the lock, and then does what was put off if it was the thread's last.
pub(crate) struct MutexGuard<'a, T> {
    inner: std::sync::MutexGuard<'a, T>,
    /// Behind the lock itself: fields are dropped in their order.
    _held: Held,
}

impl<'a, T> MutexGuard<'a, T> {
    /// Lets go of the lock until the condition has changed, or so much time has passed.
    pub(crate) fn wait_timeout(self, condition: &Condvar, time: Duration) -> Self {
        let Self { inner, _held } = self;
        let waited = condition.wait_timeout(inner, time).unwrap_or_else(PoisonError::into_inner);
        Self { inner: waited.0, _held }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// What can be counted, so that a look at the count takes no lock.
pub(crate) trait Counted {
    fn count(&self) -> usize;
}

/// A lock with a rank, and the count of what it protects as the last who held it has left it.
#[derive(Debug)]
pub(crate) struct CountedMutex<T> {
    /// Relaxed: who looks decides what to do next, and orders nothing by it.
    count: AtomicUsize,
    inner: Mutex<T>,
}

impl<T: Counted> CountedMutex<T> {
    pub(crate) fn new(rank: Rank, value: T) -> Self {
        let count = AtomicUsize::new(value.count());
        Self { count, inner: Mutex::new(rank, value) }
    }

    pub(crate) fn lock(&self) -> CountedGuard<'_, T> {
        CountedGuard { inner: self.inner.lock(), count: &self.count }
    }

    #[cfg(test)]
    pub(crate) fn try_lock(&self) -> Option<CountedGuard<'_, T>> {
        Some(CountedGuard { inner: self.inner.try_lock()?, count: &self.count })
    }

    /// What there was when somebody last let go of the lock.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// As a [`MutexGuard`].
pub(crate) struct CountedGuard<'a, T: Counted> {
    inner: MutexGuard<'a, T>,
    count: &'a AtomicUsize,
}

impl<T: Counted> Drop for CountedGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.count.store(self.inner.count(), Ordering::Relaxed);
    }
}

impl<T: Counted> Deref for CountedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: Counted> DerefMut for CountedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A lock with a rank, which several may have to read.
pub(crate) struct RwLock<T> {
    rank: Rank,
    inner: std::sync::RwLock<T>,
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RwLock").field(&self.rank).finish()
    }
}

impl<T> RwLock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: std::sync::RwLock::new(value) }
    }

    /// Waits for whoever writes.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        ReadGuard { inner, _held: Held::new(self.rank) }
    }

    /// Waits for all others.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        WriteGuard { inner, _held: Held::new(self.rank) }
    }
}

/// As a [`MutexGuard`], for looking.
pub(crate) struct ReadGuard<'a, T> {
    inner: std::sync::RwLockReadGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

/// As a [`MutexGuard`].
pub(crate) struct WriteGuard<'a, T> {
    inner: std::sync::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// This thread holds a lock: the bit of its rank, unless it held another of that rank before, which only a `try_lock` can lead to.
struct Held(#[cfg(debug_assertions)] u64);

impl Held {
    #[inline(always)]
    fn new(rank: Rank) -> Self {
        STATE.set(STATE.get() + 1);
        #[cfg(debug_assertions)]
        {
            let ranks = RANKS.get();
            RANKS.set(ranks | rank.bit());
            Self(rank.bit() & !ranks)
        }
        #[cfg(not(debug_assertions))]
        {
            _ = rank;
            Self()
        }
    }
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        RANKS.set(RANKS.get() & !self.0);
        let state = STATE.get() - 1;
        STATE.set(state);
        // None is held, and something was put off.
        if state >= MORE && state & !(PUT_OFF | MORE) == 0 {
            do_what_was_put_off();
        }
    }
}

impl Rank {
    const ALL: [Self; 23] = [
        Self::Value,
        Self::Connections,
        Self::ClientSubscriptions,
        Self::Current,
        Self::Receiving,
        Self::Serving,
        Self::Subscriptions,
        Self::Attaching,
        Self::Event,
        Self::Raised,
        Self::Subscription,
        Self::HeldBack,
        Self::Outbound,
        Self::Pending,
        Self::Yielded,
        Self::Streams,
        Self::Stream,
        Self::Windows,
        Self::Unread,
        Self::Lease,
        Self::Room,
        Self::Spare,
        Self::Trace,
    ];

    const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// L1, in builds that check.
    #[track_caller]
    fn check(self) {
        if cfg!(debug_assertions) {
            let above = RANKS.get() & !(self.bit() - 1);
            assert!(above == 0, "a lock of rank {self:?} was asked for with {} held", ranks(above));
        }
    }
}

/// The names of ranks.
fn ranks(bits: u64) -> String {
    let held = Rank::ALL.into_iter().filter(|rank| bits & rank.bit() != 0);
    held.map(|rank| format!("{rank:?}")).collect::<Vec<_>>().join(", ")
}

#[inline]
fn are_held() -> bool {
    STATE.get() & !(PUT_OFF | MORE) != 0
}

/// Says that code of the user's may run next (L2). Free where debug assertions are off.
#[track_caller]
pub(crate) fn assert_none_is_held(what: &str) {
    if cfg!(debug_assertions) {
        let held = RANKS.get();
        assert!(held == 0, "{what} with a lock held: {}", ranks(held));
    }
}

/// Whether the current thread holds any lock of this crate: for values and wakers of tests, which say so if they are reached then.
#[must_use]
pub fn is_any_held() -> bool {
    are_held()
}

/// Wakes, once no lock is held.
pub(crate) fn wake(waker: Waker) {
    put_off(Effect::Wake(waker));
}

/// Drops a value that may be the user's, once no lock is held.
pub(crate) fn dispose<T: 'static>(value: T) {
    let_go(value, drop);
}

/// Passes a value on, once no lock is held.
pub(crate) fn let_go<T: 'static>(value: T, to: fn(T)) {
    if are_held() {
        put_off(Effect::Run(Box::new(move || to(value))));
    } else {
        to(value);
    }
}

/// Runs this once no lock is held.
pub(crate) fn later(effect: impl FnOnce() + 'static) {
    let_go(effect, |effect| effect());
}

fn put_off(effect: Effect) {
    if !are_held() {
        return effect.take_place();
    }
    let state = STATE.get();
    if state & PUT_OFF == 0 {
        STATE.set(state | PUT_OFF);
        return FIRST.with(|first| first.set(Some(effect)));
    }
    STATE.set(state | MORE);
    REST.with(|rest| {
        let mut effects = rest.take();
        if effects.is_empty() {
            effects.reserve(ROOM);
        }
        effects.push(effect);
        rest.set(effects);
    });
}

impl Effect {
    fn take_place(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Run(run) => run(),
        }
    }
}

/// What an effect puts off in turn is done by the guards that it takes.
#[inline(never)]
fn do_what_was_put_off() {
    let more = STATE.get() & MORE != 0;
    STATE.set(0);
    let first = FIRST.with(|first| first.take());
    let rest = if more { REST.with(|rest| rest.take()) } else { Vec::new() };
    for effect in first.into_iter().chain(rest) {
        // A panic of one is not to keep the others, who wait, from being woken.
        if let Err(message) = catch(|| effect.take_place()) {
            tracing::error!(panic = %Escaped(&message), "a waker or destructor of the user's panicked");
        }
    }
}

/// Where a task leaves whom to wake. A waker is cloned and dropped with no lock held (L2), so leaving it takes two looks at the state
/// that the lock protects: see [`with_clone`].
#[derive(Debug, Default)]
pub(crate) struct WakerPlace(Option<Waker>);

impl WakerPlace {
    /// Takes out whom to wake.
    pub(crate) fn take(&mut self) -> Option<Waker> {
        self.0.take()
    }

    /// Wakes whoever is there, once no lock is held.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.0.take() {
            wake(waker);
        }
    }

    /// Leaves the clone of a waker here. Returns whether this one is here now: `false` if it takes a clone.
    pub(crate) fn leave(&mut self, waker: &Waker, clone: &mut Option<Waker>) -> bool {
        if self.0.as_ref().is_some_and(|here| here.will_wake(waker)) {
            return true;
        }
        let Some(clone) = clone.take() else { return false };
        if let Some(before) = self.0.replace(clone) {
            dispose(before);
        }
        true
    }
}

/// Runs a step that may leave the waker in a place under a lock that it takes: with a clone when it turns out that it takes one.
/// The step returns `None` if it has to be run once more.
pub(crate) fn with_clone<T>(
    waker: &Waker,
    mut step: impl FnMut(&mut Option<Waker>) -> Option<T>,
) -> T {
    let mut clone = None;
    loop {
        if let Some(done) = step(&mut clone) {
            return done;
        }
        clone = Some(waker.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    use super::{Mutex, Rank, WakerPlace, dispose, is_any_held, later, wake, with_clone};

    /// Says whether a lock was held when it was woken or dropped.
    struct Witness(Arc<std::sync::Mutex<Vec<bool>>>);

    impl Wake for Witness {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push(is_any_held());
        }
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(is_any_held());
        }
    }

    #[test]
    fn effects_take_place_in_order_once_the_last_lock_is_gone() {
        let (outer, inner) = (Mutex::new(Rank::Receiving, ()), Mutex::new(Rank::Pending, ()));
        let seen = Rc::new(Cell::new(Vec::new()));
        let note = |number: u32| {
            let seen = Rc::clone(&seen);
            move || {
                let mut numbers = seen.take();
                numbers.push((number, is_any_held()));
                seen.set(numbers);
            }
        };
        later(note(0));
        let first = outer.lock();
        later(note(1));
        let second = inner.lock();
        for number in 2..9 {
            later(note(number));
        }
        drop(second);
        assert_eq!(seen.take(), [(0, false)], "one lock is left");
        drop(first);
        assert_eq!(seen.take(), (1..9).map(|n| (n, false)).collect::<Vec<_>>());
        drop(outer.lock());
        assert_eq!(seen.take(), [], "once");
    }

    #[test]
    fn what_an_effect_puts_off_takes_place_too() {
        let mutex = Arc::new(Mutex::new(Rank::Pending, ()));
        let seen = Rc::new(Cell::new(0));
        let guard = mutex.lock();
        later({
            let (mutex, seen) = (Arc::clone(&mutex), Rc::clone(&seen));
            move || {
                let guard = mutex.lock();
                later(move || seen.set(seen.get() + 1));
                drop(guard);
            }
        });
        drop(guard);
        assert_eq!(seen.get(), 1);
    }

    #[test]
    fn wakers_and_values_are_reached_with_no_lock_held() {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mutex = Mutex::new(Rank::Stream, WakerPlace::default());
        let waker = Waker::from(Arc::new(Witness(Arc::clone(&seen))));
        with_clone(&waker, |clone| mutex.lock().leave(&waker, clone).then_some(()));
        let other = Waker::from(Arc::new(Witness(Arc::clone(&seen))));
        with_clone(&other, |clone| mutex.lock().leave(&other, clone).then_some(()));
        drop(waker);
        let mut guard = mutex.lock();
        guard.wake();
        wake(other);
        dispose(Witness(Arc::clone(&seen)));
        assert_eq!(seen.lock().unwrap().len(), 1, "only the first, which was replaced");
        drop(guard);
        let seen = seen.lock().unwrap();
        assert_eq!(*seen, [false; 5], "woken twice, dropped thrice");
    }

    #[test]
    fn a_panic_of_one_effect_keeps_no_other_from_its_turn() {
        let mutex = Mutex::new(Rank::Stream, ());
        let seen = Rc::new(Cell::new(false));
        let guard = mutex.lock();
        later(|| panic!("the user's"));
        later({
            let seen = Rc::clone(&seen);
            move || seen.set(true)
        });
        drop(guard);
        assert!(seen.get() && !is_any_held());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a lock of rank Outbound was asked for with Pending held")]
    fn a_lock_out_of_order_panics() {
        let (outbound, pending) = (Mutex::new(Rank::Outbound, ()), Mutex::new(Rank::Pending, ()));
        let _pending = pending.lock();
        assert!(outbound.try_lock().is_some(), "that cannot wait");
        let _outbound = outbound.lock();
    }
}
