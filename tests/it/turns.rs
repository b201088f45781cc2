//! Code that polls for long, or is ready again and again, lets the other tasks and timers of its runtime run.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};

use tokio::sync::{Notify, mpsc};
use witrpc::prelude::*;
use witrpc::{CallContext, WaitStrategy};

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, block_on, poll_once};

/// Longer than any test: who spins for so long without a pause is seen to hang.
const FOREVER: Duration = Duration::from_secs(3600);
/// Steps in which another task has a turn many times over.
const STEPS: u64 = 100_000;
/// Bytes of a value with which each step counts.
const LARGE: usize = 5 << 10;

/// Runs a test whose fault is a thread that never returns to its runtime.
fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        test();
        // Whoever waits for it may have given up.
        done.send(()).ok();
    });
    if finished.recv_timeout(GUARD) == Err(RecvTimeoutError::Timeout) {
        panic!("its runtime has starved");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The two sides on one thread, on which both spin.
fn spinning() -> Fixture {
    let polls = WaitStrategy::Spin(FOREVER);
    Fixture::mmf_with(|file| file.with_wait_strategy(polls))
}

#[test]
fn a_call_that_spins_leaves_timers_and_its_server_their_turn() {
    in_time(|| {
        let fixture = spinning();
        block_on(Flavor::CurrentThread, async {
            let server = fixture.server().await;
            let client = fixture.client().await;
            let calc = client.get_service::<CalcClient>();
            assert_eq!(calc.later(1, 7).await.unwrap(), 7);
            client.ping().await.unwrap();
            tokio::select! {
                result = calc.wait() => panic!("nobody opens the gate: {result:?}"),
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
            client.disconnect().await;
            server.stop_waiting_for_connection().await;
        });
    });
}

/// A connection has one thing more that polls: who is not alone leaves it to the driver.
#[test]
fn many_that_spin_at_once_are_all_answered() {
    in_time(|| {
        let fixture = spinning();
        block_on(Flavor::CurrentThread, async {
            let server = fixture.server().await;
            let client = fixture.client().await;
            let calls: Vec<_> = (0..50)
                .map(|n| {
                    let calc = client.get_service::<CalcClient>();
                    tokio::spawn(async move { calc.later(n % 3, n).await.unwrap() })
                })
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.unwrap(), n as u64);
            }
            client.disconnect().await;
            server.stop_waiting_for_connection().await;
        });
    });
}

#[witrpc::service]
trait Feeds {
    /// What is sent through the channel.
    async fn items(&self) -> witrpc::Result<Streaming<u64>>;
    /// Raises so many values, and has them all leave before it answers.
    async fn raise(&self, values: u64) -> witrpc::Result<()>;
    /// Hands its context out, and never answers.
    async fn endless(&self) -> witrpc::Result<()>;
    #[event]
    fn raised(&self) -> &Event<String>;
}

#[derive(Clone)]
struct Feeder {
    items: Arc<std::sync::Mutex<Option<mpsc::Receiver<u64>>>>,
    contexts: mpsc::Sender<CallContext>,
    raised: Event<String>,
}

impl Feeds for Feeder {
    async fn items(&self) -> witrpc::Result<Streaming<u64>> {
        let items = self.items.lock().unwrap().take();
        items.map(Streaming::from).ok_or_else(|| witrpc::Error::fault("there is one stream"))
    }

    async fn raise(&self, values: u64) -> witrpc::Result<()> {
        (0..values).try_for_each(|_| self.raised.raise("x".repeat(LARGE)))
    }

    async fn endless(&self) -> witrpc::Result<()> {
        self.contexts.send(CallContext::current()).await.map_err(witrpc::Error::fault)?;
        std::future::pending().await
    }

    fn raised(&self) -> &Event<String> {
        &self.raised
    }
}

/// A server of a [`Feeder`] and a client, on the current runtime.
async fn fed(fixture: &Fixture) -> (Fed, WitClient, FeedsClient) {
    let (sender, items) = mpsc::channel(1);
    let (contexts, received) = mpsc::channel(1);
    let items = Arc::new(std::sync::Mutex::new(Some(items)));
    let feeder = Feeder { items, contexts, raised: Event::new() };
    let builder = fixture.bare_server_builder().with_service(FeedsServer::new(feeder));
    let server = builder.build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let feeds = client.get_service();
    (Fed { server, sender, contexts: received }, client, feeds)
}

struct Fed {
    server: WitServer,
    sender: mpsc::Sender<u64>,
    contexts: mpsc::Receiver<CallContext>,
}

#[test]
fn a_reader_that_spins_leaves_its_writer_its_turn() {
    in_time(|| {
        let fixture = spinning();
        block_on(Flavor::CurrentThread, async {
            let (fed, client, feeds) = fed(&fixture).await;
            let mut items = feeds.items().await.unwrap();
            let (wanted, sender) = (Arc::new(Notify::new()), fed.sender);
            let written = Arc::clone(&wanted);
            let writer = tokio::spawn(async move {
                for n in 0..10 {
                    written.notified().await;
                    sender.send(n).await.unwrap();
                }
            });
            for n in 0..10 {
                wanted.notify_one();
                assert_eq!(items.next().await.unwrap().unwrap(), n);
            }
            assert!(items.next().await.is_none());
            writer.await.unwrap();
            client.disconnect().await;
            fed.server.stop_waiting_for_connection().await;
        });
    });
}

/// Takes up to so many steps, each of which could be ready at once; another task of the same thread must have had a turn by then.
async fn leaves_others_their_turn(most: u64, mut step: impl AsyncFnMut(u64)) {
    let had_turn = Arc::new(AtomicBool::new(false));
    let turn = Arc::clone(&had_turn);
    let other = tokio::spawn(async move { turn.store(true, Ordering::SeqCst) });
    for n in 0..most {
        step(n).await;
        if had_turn.load(Ordering::SeqCst) {
            assert!(n > 1, "it yields at every step");
            other.await.unwrap();
            return;
        }
    }
    panic!("no other task had a turn in {most} steps");
}

#[test]
fn a_subscriber_in_the_services_process_leaves_others_their_turn() {
    block_on(Flavor::CurrentThread, async {
        let event = Event::new();
        let mut values = event.subscribe();
        let step = async |n| {
            event.raise(n).unwrap();
            assert_eq!(values.next().await, Some(Ok(n)));
        };
        leaves_others_their_turn(STEPS, step).await;
    });
}

#[test]
fn a_subscriber_of_another_process_leaves_others_their_turn() {
    const VALUES: u64 = 200;
    let fixture = Fixture::mmf();
    block_on(Flavor::CurrentThread, async {
        let (fed, client, feeds) = fed(&fixture).await;
        let mut values = feeds.raised().subscribe();
        feeds.raise(VALUES).await.unwrap();
        // They are all there: they came before the answer.
        let step = async |_| assert_eq!(values.next().await.unwrap().unwrap().len(), LARGE);
        leaves_others_their_turn(VALUES, step).await;
        client.disconnect().await;
        fed.server.stop_waiting_for_connection().await;
    });
}

#[test]
fn a_stream_that_is_always_ready_leaves_others_their_turn() {
    block_on(Flavor::CurrentThread, async {
        let mut numbers = Streaming::iter(0..);
        let step = async |n: u64| assert_eq!(numbers.next().await.unwrap().unwrap(), n);
        leaves_others_their_turn(STEPS, step).await;
    });
}

#[test]
fn raising_without_a_pause_leaves_others_their_turn() {
    block_on(Flavor::CurrentThread, async {
        let event = Event::new();
        let step = async |n| event.raise_async(n).await.unwrap();
        leaves_others_their_turn(STEPS, step).await;
    });
}

#[test]
fn asking_a_cancelled_call_again_and_again_leaves_others_their_turn() {
    let fixture = Fixture::mmf();
    block_on(Flavor::CurrentThread, async {
        let (mut fed, client, feeds) = fed(&fixture).await;
        let mut call = Box::pin(feeds.endless());
        assert!(poll_once(call.as_mut()).is_pending());
        let context = fed.contexts.recv().await.unwrap();
        drop(call);
        pin!(context.cancelled()).await;
        leaves_others_their_turn(STEPS, async |_| context.cancelled().await).await;
        client.disconnect().await;
        fed.server.stop_waiting_for_connection().await;
    });
}
