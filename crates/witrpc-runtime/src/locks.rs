//! The locks of this crate: the order in which a thread takes them, and the effects that it defers until it holds none.
//!
//! # Rules
//!
//! - **L1** A thread takes locks in the order of [`Rank`]. [`Mutex::try_lock`] is exempt, because it never waits.
//! - **L2** No user code runs while a thread holds a lock: no `Drop`, `Clone`, `Serialize` or callback of the user's, no function of
//!   a waker, and no `tracing` subscriber. User code may call this crate, and would deadlock on the lock that its own thread holds.
//!
//! Code that holds a lock defers its *effects*: with [`wake`] it wakes a task, with [`dispose`] it drops a value, and with [`later`]
//! it calls a function. The guard of the thread's last lock runs the effects after it has released that lock, in the order in which
//! they were deferred. So a function that takes a lock need not know which effects the functions that it calls have deferred. If the
//! thread holds no lock, an effect runs at once.
//!
//! Builds with debug assertions check both rules. Taking a lock out of order panics. Code that is about to run user code calls
//! [`assert_none_is_held`], which panics if the thread holds a lock.
//!
//! Three things are exempt from L2. The waker of a connection's driver is exempt because the driver is a task of this crate. An
//! [`Encryptor`](crate::Encryptor) and a [`transport`](crate::transport) are exempt because they work on the halves that the locks
//! protect. The in-memory transport has locks of its own, without a rank.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, PoisonError, TryLockError};
use std::task::{Wake, Waker};
use std::time::Duration;

use witrpc_core::text::Escaped;
use witrpc_core::user_code::catch;

/// Declares the ranks, and lists them.
macro_rules! ranks {
    ($(#[$of_enum:meta])* $vis:vis enum $name:ident { $($(#[$of_rank:meta])* $rank:ident,)* }) => {
        $(#[$of_enum])*
        $vis enum $name {
            $($(#[$of_rank])* $rank,)*
        }

        impl $name {
            const ALL: &[Self] = &[$(Self::$rank),*];
        }
    };
}

ranks! {
    /// The ranks of the locks, in the order in which a thread takes them (L1). A thread holds at most one lock of each rank, except
    /// by `try_lock`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub(crate) enum Rank {
        /// The stream in a `Streaming` value.
        Value,
        /// A server's table of connections.
        Connections,
        /// What an endpoint's connections share on each runtime.
        Admissions,
        /// The connections of an endpoint whose drivers are woken while its handlers compute.
        Drivers,
        /// The members of a pool.
        PoolMembers,
        /// The subscriptions to events of a pool.
        PoolSubscriptions,
        /// A subscription to an event of a pool.
        Merged,
        /// A client's subscriptions, which outlive its connections.
        ClientSubscriptions,
        /// A client's current connection.
        Current,
        /// The receiving half of a connection. The thread that drains the ring holds it.
        Receiving,
        /// The table of the peer's calls that a connection serves.
        Serving,
        /// A table of a connection's subscriptions: one for those of this side, one for those of the peer.
        Subscriptions,
        /// Subscribers of the peer that are not attached to their event yet.
        Attaching,
        /// An event's list of subscribers.
        Event,
        /// In a handler's context: the caller's subscribers in whose backlogs values wait that the handler raised.
        Raised,
        /// One subscription, on the raising or on the subscribing side.
        Subscription,
        /// The ids of subscribers whose values wait for room in the sending queue.
        HeldBack,
        /// What a connection has borrowed of its peer's memory.
        Borrowed,
        /// The sending half of a connection.
        Outbound,
        /// Bytes of the sending queue, and the line for them.
        QueueRoom,
        /// The table of the calls that a connection has made.
        Pending,
        /// The waker of the task that last yielded after many calls in a row.
        Yielded,
        /// A connection's table of streams.
        Streams,
        /// One stream.
        Stream,
        /// The bytes that the windows of all streams of a connection share.
        Windows,
        /// Ids of the peer's streams whose readers were dropped, and that are not cancelled yet.
        Unread,
        /// The transport's lease, which a connection holds until its end.
        Lease,
        /// Whether memory of an arena may still be lent.
        Arena,
        /// How often room was made in the backlogs of an event.
        Room,
        /// The cache of allocations for long messages.
        Spare,
        /// The state of a connection's trace.
        Trace,
        /// The file of all traces.
        TraceFile,
    }
}

/// Flags in `STATE`: `FIRST` has a deferred effect (`PUT_OFF`), and `REST` has more (`MORE`).
const PUT_OFF: u32 = 1 << 31;
const MORE: u32 = 1 << 30;

thread_local! {
    /// The number of locks that this thread holds, and the flags. None of these four has a destructor, so the destructors of other
    /// thread-locals can still use them.
    static STATE: Cell<u32> = const { Cell::new(0) };
    /// The ranks of the locks that this thread holds, one bit each. Only builds with debug assertions use it.
    static RANKS: Cell<u64> = const { Cell::new(0) };
    /// The effect that was deferred first. Usually there is no other.
    static FIRST: ManuallyDrop<Cell<Option<Effect>>> = const { ManuallyDrop::new(Cell::new(None)) };
    /// The other effects. The vector is freed each time that they run, so a thread that ends leaks nothing.
    static REST: ManuallyDrop<Cell<Vec<Effect>>> = const { ManuallyDrop::new(Cell::new(Vec::new())) };
}

/// The initial capacity of `REST`.
const ROOM: usize = 16;

/// A deferred effect.
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

    /// Waits for the lock, and ignores poisoning: no step panics half-way, so the protected state is consistent after a panic.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { inner, _held: Held::new(self.rank) }
    }

    /// Takes the lock if it is free.
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

/// Holds the lock. Dropping it releases the lock, and then runs the deferred effects if it was the thread's last lock.
pub(crate) struct MutexGuard<'a, T> {
    inner: std::sync::MutexGuard<'a, T>,
    /// Declared after `inner`, because fields are dropped in order and effects may run only after the lock is released.
    _held: Held,
}

impl<'a, T> MutexGuard<'a, T> {
    /// Releases the lock and waits until `condition` is notified or `time` has passed, then takes the lock again.
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

/// A value with a count that can be read without taking the lock.
pub(crate) trait Counted {
    fn count(&self) -> usize;
}

/// A lock with a rank, and the count of the value that it protects, as of the last release of the lock.
#[derive(Debug)]
pub(crate) struct CountedMutex<T> {
    /// Accessed with relaxed ordering: a reader only decides what to do next, and orders no other access by the count.
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

    /// The count when the lock was last released.
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

/// A lock with a rank that several threads can hold for reading.
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

    /// Waits until no thread holds the lock for writing.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        ReadGuard { inner, _held: Held::new(self.rank) }
    }

    /// Waits until no other thread holds the lock.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        self.rank.check();
        let inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        WriteGuard { inner, _held: Held::new(self.rank) }
    }
}

/// As a [`MutexGuard`], for reading.
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

/// One lock that this thread holds. Contains the bit of the lock's rank; or 0 if the thread held a lock of that rank already, which
/// only `try_lock` allows.
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
        // No lock is held any more, and effects were deferred.
        if state >= MORE && state & !(PUT_OFF | MORE) == 0 {
            do_what_was_put_off();
        }
    }
}

impl Rank {
    const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Panics if the thread holds a lock of this or a later rank (L1). Does nothing without debug assertions.
    #[track_caller]
    fn check(self) {
        if cfg!(debug_assertions) {
            let above = RANKS.get() & !(self.bit() - 1);
            assert!(above == 0, "a lock of rank {self:?} was asked for with {} held", ranks(above));
        }
    }
}

/// The names of the ranks in `bits`.
fn ranks(bits: u64) -> String {
    let held = Rank::ALL.iter().filter(|rank| bits & rank.bit() != 0);
    held.map(|rank| format!("{rank:?}")).collect::<Vec<_>>().join(", ")
}

#[inline]
fn are_held() -> bool {
    STATE.get() & !(PUT_OFF | MORE) != 0
}

/// Called before user code may run: panics if this thread holds a lock (L2). Does nothing without debug assertions.
#[track_caller]
pub(crate) fn assert_none_is_held(what: &str) {
    if cfg!(debug_assertions) {
        let held = RANKS.get();
        assert!(held == 0, "{what} with a lock held: {}", ranks(held));
    }
}

/// Whether the current thread holds a lock of this crate. For tests, whose values and wakers check L2 when they are called.
#[must_use]
pub fn is_any_held() -> bool {
    are_held()
}

/// Wakes the task as soon as this thread holds no lock.
pub(crate) fn wake(waker: Waker) {
    put_off(Effect::Wake(waker));
}

/// Drops a value, whose destructor may be user code, as soon as this thread holds no lock.
pub(crate) fn dispose<T: 'static>(value: T) {
    let_go(value, drop);
}

/// Calls `to(value)` as soon as this thread holds no lock. Allocates only if it has to defer the call.
pub(crate) fn let_go<T: 'static>(value: T, to: fn(T)) {
    if are_held() {
        put_off(Effect::Run(Box::new(move || to(value))));
    } else {
        to(value);
    }
}

/// Runs `effect` as soon as this thread holds no lock.
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

/// Runs the deferred effects. If an effect takes a lock and defers further effects, the guard of that lock runs them.
#[inline(never)]
fn do_what_was_put_off() {
    let more = STATE.get() & MORE != 0;
    STATE.set(0);
    let Some(first) = FIRST.with(|first| first.take()) else { return };
    let rest = if more { REST.with(|rest| rest.take()) } else { Vec::new() };
    do_one(first);
    rest.into_iter().for_each(do_one);
}

/// Runs an effect. A panic in it must not prevent the others: tasks may wait to be woken by them.
fn do_one(effect: Effect) {
    if let Err(message) = catch(|| effect.take_place()) {
        tracing::error!(panic = %Escaped(&message), "a waker or destructor of the user's panicked");
    }
}

/// A waker that wakes another one, once no lock is held: for a task of the user's that a transport wakes.
pub(crate) fn putting_off(waker: Waker) -> Waker {
    struct PuttingOff(Waker);

    impl Wake for PuttingOff {
        fn wake(self: Arc<Self>) {
            later(move || self.0.wake_by_ref());
        }
    }

    Waker::from(Arc::new(PuttingOff(waker)))
}

/// A place for the waker of a task that waits. A lock protects it, but a waker may be cloned and dropped only while no lock is held
/// (L2). So storing a waker may take two steps under the lock: see [`with_clone`].
#[derive(Debug, Default)]
pub(crate) struct WakerPlace(Option<Waker>);

impl WakerPlace {
    /// Takes the waker out.
    pub(crate) fn take(&mut self) -> Option<Waker> {
        self.0.take()
    }

    /// Takes the waker out, and wakes its task as soon as this thread holds no lock.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.0.take() {
            wake(waker);
        }
    }

    /// Stores `clone`, a clone of `waker`, unless the stored waker wakes the same task already. Returns whether the stored waker now
    /// wakes that task. `false` means that a clone is needed and `clone` is `None`.
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

/// Runs `step`, which takes a lock and may [leave](WakerPlace::leave) the waker under it. The first run gets no clone of the waker. If
/// the step needs one, it returns `None`; then the waker is cloned with no lock held, and the step runs again.
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

    /// Records whether a lock was held when it was woken or dropped.
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
