//! The one task per connection that sleeps: it waits for the peer's ring, serves what comes, and takes the
//! connection down when it ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::connection::{Connection, Polled, Turn};
use crate::error::{CloseReason, Error};
use crate::rescue;
use crate::transport::{Waiter, Wake};

/// Frames per turn: enough to make a batch, few enough that the runtime's other tasks get on.
const TURN_FRAMES: usize = 32;
/// How long a peer that has left no room may take to make some for the goodbye.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long polling may keep the runtime's thread before it lets other tasks run.
const POLL_SLICE: Duration = Duration::from_micros(5);

/// Drives a connection to its end.
pub(crate) async fn drive(connection: Arc<Connection>, mut waiter: Box<dyn Waiter>) {
    // Dropped with the runtime, too: then the connection ends here and now.
    let guard = TakeDown(&connection);
    let result = run(&connection, &mut *waiter).await;
    if let Err(error) = &result {
        tracing::warn!(connection = connection.peer.connection_id, %error, "the connection failed");
        connection.fail(error);
    }
    if connection.retry_goodbye() {
        let farewell = say_goodbye(&connection, &mut *waiter);
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!(connection = connection.peer.connection_id, "the peer took no goodbye");
        }
    }
    drop(guard);
    drop(waiter);
}

/// Waits until the peer has made room for the goodbye, or is gone.
async fn say_goodbye(connection: &Connection, waiter: &mut dyn Waiter) {
    while connection.retry_goodbye() {
        if !matches!(poll_fn(|cx| waiter.poll_wake(cx)).await, Ok(Wake::Rung)) {
            return;
        }
    }
}

struct TakeDown<'a>(&'a Arc<Connection>);

impl Drop for TakeDown<'_> {
    fn drop(&mut self) {
        self.0.take_down();
    }
}

async fn run(connection: &Arc<Connection>, waiter: &mut dyn Waiter) -> Result<(), Error> {
    // Since when there has been nothing to do, and for how long to poll.
    let mut idle: Option<(Instant, Duration)> = None;
    while connection.closed().is_none() {
        let turn = connection.turn(TURN_FRAMES)?;
        // In this order: pumping makes the room that the others wait for.
        let more = connection.pump();
        connection.resume_events();
        connection.serve_deferred();
        if more || turn == Turn::More {
            idle = None;
            tokio::task::yield_now().await;
            continue;
        }
        if turn == Turn::Empty {
            let (since, budget) =
                *idle.get_or_insert_with(|| (Instant::now(), connection.poll_budget()));
            match connection.poll_slice(since, budget, POLL_SLICE)? {
                Polled::Ready => {
                    idle = None;
                    continue;
                }
                Polled::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Polled::GaveUp => {}
            }
        }
        idle = None;
        if sleep(connection, waiter).await? == Some(Wake::PeerGone) {
            connection.last_words()?;
            connection.close(CloseReason::PeerGone);
        }
    }
    Ok(())
}

/// Sleeps until the peer rings or somebody on this side has something for the driver (`None`).
async fn sleep(connection: &Connection, waiter: &mut dyn Waiter) -> Result<Option<Wake>, Error> {
    let sleep = until_woken(connection, waiter);
    match rescue::interval() {
        None => sleep.await,
        Some(interval) => {
            let woken = rescue::watched(sleep, interval, || connection.overlooked()).await;
            woken.unwrap_or(Ok(None))
        }
    }
}

async fn until_woken(
    connection: &Connection,
    waiter: &mut dyn Waiter,
) -> Result<Option<Wake>, Error> {
    let mut slept = false;
    poll_fn(|cx| {
        let work = connection.register_driver(cx.waker())?;
        if let Poll::Ready(wake) = waiter.poll_wake(cx)? {
            return Poll::Ready(Ok(Some(wake)));
        }
        if std::mem::replace(&mut slept, true) || work {
            return Poll::Ready(Ok(None));
        }
        Poll::Pending
    })
    .await
}
