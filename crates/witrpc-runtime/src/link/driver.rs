//! The one task per connection that sleeps: it waits for a notification of the peer, handles what arrives, and releases everything
//! when the connection ends.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use witrpc_core::text::Escaped;
use witrpc_core::transport::{Waiter, Wake};
use witrpc_core::user_code::caught;
use witrpc_core::{CloseReason, Error};

use crate::link::ending::Ends;
use crate::link::poller::{Poll as Polling, Polled};
use crate::link::rescue;
use crate::link::sending::Sends;
use crate::link::turns::{Driven, Turn, Turns};

/// Frames per turn: enough for a batch, few enough that the runtime's other tasks are not delayed.
const TURN_FRAMES: usize = 32;
/// The same with a peer that shares our CPU: it runs once we are done, or once it is notified of the first frame of a batch.
const TURN_FRAMES_ON_ONE_CPU: usize = 128;
/// Chunks of long messages and streams that are sent in a row while there is nothing else to do.
const TURN_PUMPS: usize = 24;
/// How long the driver waits for room for the goodbye.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the driver polls before it yields to other tasks: longer than a yield takes, for which tokio may wake another worker.
const POLL_SLICE: Duration = Duration::from_micros(20);
/// How long the driver goes on without a yield while it finds work each time. This is longer, as a small call is done sooner than the
/// runtime's other tasks have run.
const BUSY_SLICE: Duration = Duration::from_micros(500);
/// How many rounds pass between two readings of the clock for that.
const ROUNDS_PER_CLOCK: u32 = 16;

/// Drives a connection to its end.
pub(crate) async fn drive<D: Driven>(connection: Arc<D>, mut waiter: Box<dyn Waiter>) {
    // Also dropped with the runtime: then the connection ends at once.
    let guard = TakeDown(&*connection);
    let result = caught(run(&connection, &mut *waiter)).await.unwrap_or_else(|message| {
        // Code of the user panicked where no panic was expected.
        tracing::error!(
            connection = connection.link().id,
            panic = %Escaped(&message),
            "the task of a connection panicked"
        );
        Err(Error::fault(format!("the task of the connection panicked: {message}")))
    });
    if let Err(error) = &result {
        tracing::warn!(
            connection = connection.link().id,
            error = %Escaped(&error),
            "the connection failed"
        );
        connection.fail(error);
    }
    if connection.retry_goodbye() {
        let goodbye = say_goodbye(&*connection, &mut *waiter);
        if tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.is_err() {
            tracing::debug!(
                connection = connection.link().id,
                "the peer did not read the goodbye in time"
            );
        }
    }
    drop(guard);
    drop(waiter);
}

/// Waits until the peer has made room for the goodbye, or is gone.
async fn say_goodbye<D: Driven>(connection: &D, waiter: &mut dyn Waiter) {
    while connection.retry_goodbye() {
        if !matches!(poll_fn(|cx| waiter.poll_wake(cx)).await, Ok(Wake::Rung)) {
            return;
        }
    }
}

/// Releases everything of the connection, however its driver ends.
pub(crate) struct TakeDown<'a, D: Driven>(pub(crate) &'a D);

impl<D: Driven> Drop for TakeDown<'_, D> {
    fn drop(&mut self) {
        self.0.take_down();
    }
}

async fn run<D: Driven>(connection: &Arc<D>, waiter: &mut dyn Waiter) -> Result<(), Error> {
    // The poll of the current idle period.
    let mut polling: Option<Polling> = None;
    let mut busy = Busy::default();
    let mut spare = D::Spare::default();
    while connection.link().closed().is_none() {
        if connection.link().receiving.has_unpublished() {
            busy.await_unpublished(&**connection).await;
        }
        let on_one_cpu = connection.link().peer_is_on_our_cpu();
        let frames = if on_one_cpu { TURN_FRAMES_ON_ONE_CPU } else { TURN_FRAMES };
        let turn = connection.turn(frames, &mut spare)?;
        // Pump first: it makes the room that the other two wait for.
        let more = pump(&**connection);
        connection.resume_events();
        connection.serve_deferred(&mut spare);
        let turn_of_lines = connection.link().sending.queue.turn_is_due();
        if turn_of_lines {
            busy.end_turn_of_lines(&**connection).await;
        }
        if more || turn_of_lines || matches!(turn, Turn::More | Turn::Long | Turn::Woke) {
            polling = None;
            busy.let_others_run(&**connection).await;
            if (more || turn == Turn::Long) && connection.has_woken_caller() {
                // Another thread of the runtime runs that caller, and may wait for our CPU.
                std::thread::yield_now();
            }
            continue;
        }
        if turn == Turn::Empty {
            let polled = poll_more(&**connection, &mut polling)?;
            if polled == Polled::Again || polled == Polled::Ready && busy.is_over() {
                busy.let_others_run(&**connection).await;
            }
            if polled != Polled::GaveUp {
                continue;
            }
        }
        polling = None;
        busy = Busy::default();
        // From here on nothing on this side polls for room (O5). What was put aside for lack of room was retried above.
        if connection.link().wants_room() && connection.pump() {
            continue;
        }
        let sleep = until_woken(&**connection, waiter);
        let woken = match rescue::interval() {
            None => sleep.await,
            Some(interval) => {
                let overlooked = || connection.overlooked();
                rescue::watched(sleep, interval, overlooked).await.unwrap_or(Ok(None))
            }
        };
        if woken? == Some(Wake::PeerGone) {
            connection.drain_last(&mut spare).await?;
            connection.close(CloseReason::PeerGone);
        }
    }
    Ok(())
}

/// Polls for a slice of the driver's time. `polling` is the poll of this idle period, if that goes on.
fn poll_more<D: Driven>(connection: &D, polling: &mut Option<Polling>) -> Result<Polled, Error> {
    let mut poll = match polling.take() {
        Some(poll) => poll,
        None => connection.driver_poll()?,
    };
    let polled = connection.poll_slice(&mut poll, POLL_SLICE)?;
    *polling = (polled == Polled::Again).then_some(poll);
    Ok(polled)
}

/// Sends what waits, for as long as it keeps nobody waiting. Returns whether to call it again soon.
fn pump<D: Driven>(connection: &D) -> bool {
    let mut more = connection.pump_awake(false);
    let mut pumps = 1;
    while more && pumps < TURN_PUMPS && connection.keeps_nobody_waiting() {
        more = connection.pump_awake(false);
        pumps += 1;
    }
    more
}

/// Counts rounds that found work at once, since the last yield.
#[derive(Default)]
struct Busy {
    rounds: u32,
    since: Option<Instant>,
}

impl Busy {
    /// Counts a round. Returns whether it is time to yield.
    fn is_over(&mut self) -> bool {
        self.rounds += 1;
        if self.rounds % ROUNDS_PER_CLOCK != 0 {
            return false;
        }
        let now = Instant::now();
        now.saturating_duration_since(*self.since.get_or_insert(now)) >= BUSY_SLICE
    }

    /// A caller has pushed what the driver is to publish: gives others the time to push more.
    async fn await_unpublished<D: Driven>(&mut self, connection: &D) {
        self.let_others_run(connection).await;
        connection.link().receiving.take_unpublished();
    }

    /// Somebody was woken for a place: gives him the time to take it, and then wakes the next.
    async fn end_turn_of_lines<D: Driven>(&mut self, connection: &D) {
        self.let_others_run(connection).await;
        connection.end_turn_of_lines();
    }

    async fn let_others_run<D: Driven>(&mut self, connection: &D) {
        *self = Self::default();
        if connection.is_busy() {
            poll_fn(|cx| {
                connection.link().receiving.register_yielding(cx.waker());
                Poll::Ready(())
            })
            .await;
        }
        tokio::task::yield_now().await;
    }
}

/// Sleeps until the peer notifies this side, or something on this side wakes the driver (`None`).
fn until_woken<D: Driven>(
    connection: &D,
    waiter: &mut dyn Waiter,
) -> impl Future<Output = Result<Option<Wake>, Error>> {
    let mut asleep = false;
    poll_fn(move |cx| {
        if asleep {
            // Whatever woke us, the next round finds out.
            return match waiter.poll_wake(cx)? {
                Poll::Ready(wake) => Poll::Ready(Ok(Some(wake))),
                Poll::Pending => Poll::Ready(Ok(None)),
            };
        }
        asleep = true;
        let work = connection.link().register_driver(cx.waker())?;
        if let Poll::Ready(wake) = waiter.poll_wake(cx)? {
            return Poll::Ready(Ok(Some(wake)));
        }
        // Looked at after the waker was registered, as all work.
        if work || connection.link().sending.queue.will_end_turn() {
            Poll::Ready(Ok(None))
        } else {
            Poll::Pending
        }
    })
}
