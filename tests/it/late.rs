//! Calls that a server refuses because it could not answer them in time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use witrpc::{Call, Error, WitServer};

use crate::fixture::{Fixture, Flavor, GUARD, block_on, eventually};

#[witrpc::service]
trait Counter {
    /// Blocks for a while, and until the counter is open.
    #[witrpc(blocking)]
    async fn serve(&self, millis: u64) -> witrpc::Result<u32>;
    /// The same on a worker of the runtime.
    async fn serve_at_once(&self, millis: u64) -> witrpc::Result<u32>;
}

#[derive(Clone, Default)]
struct Clerk {
    begun: Arc<AtomicU32>,
    /// Whether it is closed.
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl Clerk {
    fn serve(&self, millis: u64) -> u32 {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::sleep(Duration::from_millis(millis));
        drop(self.closed.1.wait_while(self.closed.0.lock().unwrap(), |closed| *closed).unwrap());
        number
    }

    fn close(&self, closed: bool) {
        *self.closed.0.lock().unwrap() = closed;
        self.closed.1.notify_all();
    }
}

impl Counter for Clerk {
    async fn serve(&self, millis: u64) -> witrpc::Result<u32> {
        Ok(Self::serve(self, millis))
    }

    async fn serve_at_once(&self, millis: u64) -> witrpc::Result<u32> {
        Ok(Self::serve(self, millis))
    }
}

/// With one worker, and one thread for blocking work.
fn one_of_each() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().worker_threads(1).max_blocking_threads(1).build().unwrap()
}

/// A server whose connections have threads of their own, so that handlers which block cannot hold up the drivers.
async fn serving(fixture: &Fixture) -> (WitServer, Open) {
    let clerk = Clerk::default();
    let server = fixture.server_builder().with_service(CounterServer::new(clerk.clone()));
    let server = server.with_dedicated_threads().build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    (server, Open(clerk))
}

/// Opens the counter in the end, whatever comes: a runtime waits for its threads.
struct Open(Clerk);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close(false);
    }
}

/// Calls that are measured, and how long each takes.
const MEASURED: u32 = 16;
const EACH: u64 = 50;
/// Calls that wait then. Together they take as long as the last call has; its margin is twice that. With more, one would be polled on the
/// connection's thread, for a trial.
const CROWD: u32 = 40;
const HAS: Duration = Duration::from_secs(2);

fn would_wait_too_long(serve: fn(&CounterClient, u64) -> Call<witrpc::Result<u32>>, name: &str) {
    let (runtime, fixture) = (one_of_each(), Fixture::memory());
    let (server, open) = runtime.block_on(serving(&fixture));
    let clerk = &open.0;
    block_on(Flavor::MultiThread, async {
        let client = fixture.client().await;
        let counter: CounterClient = client.get_service();
        let measured = (0..MEASURED).map(|_| serve(&counter, EACH).with_timeout(GUARD));
        for served in measured.collect::<JoinSet<_>>().join_all().await {
            served.unwrap();
        }
        clerk.close(true);
        let crowd: JoinSet<_> = (0..CROWD).map(|_| serve(&counter, 0)).collect();
        let waiting = async |count: u32| {
            let all_wait = || server.load().iter().any(|load| load.handlers == count as usize);
            eventually("all wait", all_wait).await;
        };
        waiting(CROWD).await;
        let error = serve(&counter, 0).with_timeout(HAS).await.unwrap_err();
        let Error::Overloaded { method, left, wait } = &error else { panic!("{error}") };
        assert!(error.is_surely_not_executed());
        assert_eq!(method, name);
        assert!(*left <= HAS && *wait * 2 > *left, "{left:?} {wait:?}");
        // One with more time is not refused, nor one without a deadline.
        let patient = [serve(&counter, 0).with_timeout(100 * HAS), serve(&counter, 0)];
        let patient: JoinSet<_> = patient.into_iter().collect();
        waiting(CROWD + 2).await;
        clerk.close(false);
        let served = [crowd.join_all().await, patient.join_all().await].concat();
        let served = served.into_iter().map(Result::unwrap).max().unwrap();
        assert_eq!(served, MEASURED + CROWD + 2, "the refused call was executed");
        // Where nothing waits, nothing is refused.
        serve(&counter, 0).with_timeout(HAS).await.unwrap();
    });
}

#[test]
fn a_call_that_would_wait_too_long_for_a_thread_is_refused_at_once() {
    would_wait_too_long(CounterClient::serve, "Counter.serve");
}

#[test]
fn a_call_that_would_wait_too_long_for_a_worker_is_refused_at_once() {
    would_wait_too_long(CounterClient::serve_at_once, "Counter.serve_at_once");
}
