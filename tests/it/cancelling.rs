//! Blocking handlers, which nobody can drop: how they learn that nobody waits for them, and those that have not begun.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::Builder;
use witrpc::{CallContext, Error, WitClient, WitServer};

use crate::fixture::{Fixture, GUARD, eventually};

crate::instances::instantiate![
    a_handler_that_blocks_sees_that_its_call_is_dropped,
    a_handler_that_blocks_sees_that_its_deadline_has_passed,
    a_handler_that_blocks_sees_that_its_connection_has_ended,
    a_blocking_handler_that_awaits_is_dropped_with_its_call,
];

#[witrpc::service]
trait Works {
    /// Returns once its call is cancelled.
    #[witrpc(blocking)]
    async fn spin(&self) -> witrpc::Result<()>;
    /// The same, on a thread of its own.
    async fn spin_elsewhere(&self) -> witrpc::Result<()>;
    /// Never returns, and can be dropped.
    #[witrpc(blocking)]
    async fn doze(&self) -> witrpc::Result<()>;
    /// Blocks until the gate is open.
    #[witrpc(blocking)]
    async fn pass(&self) -> witrpc::Result<()>;
    async fn ready(&self) -> witrpc::Result<u32>;
}

#[derive(Clone, Default)]
struct Worker {
    /// Handlers on their threads, and those that have begun.
    running: Arc<AtomicU32>,
    begun: Arc<AtomicU32>,
    /// Handlers return although their calls are not cancelled.
    stop: Arc<AtomicBool>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

struct Running(Arc<AtomicU32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Worker {
    fn begin(&self) -> Running {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) > 0
    }

    fn spin_until_cancelled(&self, call: &CallContext) {
        let _running = self.begin();
        while !call.is_cancelled() && !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Works for Worker {
    async fn spin(&self) -> witrpc::Result<()> {
        self.spin_until_cancelled(&CallContext::current());
        Err(Error::Cancelled)
    }

    async fn spin_elsewhere(&self) -> witrpc::Result<()> {
        let (call, worker) = (CallContext::current(), self.clone());
        std::thread::spawn(move || worker.spin_until_cancelled(&call));
        std::future::pending().await
    }

    async fn doze(&self) -> witrpc::Result<()> {
        let _running = self.begin();
        std::future::pending().await
    }

    async fn pass(&self) -> witrpc::Result<()> {
        let _running = self.begin();
        let open = self.gate.1.wait_while(self.gate.0.lock().unwrap(), |open| !*open).unwrap();
        drop(open);
        Ok(())
    }

    async fn ready(&self) -> witrpc::Result<u32> {
        Ok(7)
    }
}

/// A server that takes one call at a time.
async fn sides(fixture: &Fixture) -> (WitServer, WitClient, Worker) {
    let worker = Worker::default();
    let server = fixture.server_builder().with_service(WorksServer::new(worker.clone()));
    let server = server.with_max_in_flight(1).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    (server, fixture.client().await, worker)
}

async fn a_handler_that_blocks_sees_that_its_call_is_dropped(fixture: Arc<Fixture>) {
    let (_server, client, worker) = sides(&fixture).await;
    let works: WorksClient = client.get_service();
    for call in [works.spin(), works.spin_elsewhere()] {
        let call = tokio::spawn(call);
        eventually("it runs", || worker.is_running()).await;
        call.abort();
        eventually("it has seen it", || !worker.is_running()).await;
    }
    // One that does not look keeps its thread, and no place in flight.
    let call = tokio::spawn(works.pass());
    eventually("it runs", || worker.is_running()).await;
    call.abort();
    drop(call.await);
    assert_eq!(works.with_timeout(GUARD).ready().await.unwrap(), 7);
    assert!(worker.is_running());
    worker.open_gate();
    eventually("it ends", || !worker.is_running()).await;
}

async fn a_handler_that_blocks_sees_that_its_deadline_has_passed(fixture: Arc<Fixture>) {
    let (_server, client, worker) = sides(&fixture).await;
    let works = client.get_service::<WorksClient>().with_timeout(Duration::from_millis(300));
    for call in [works.spin(), works.spin_elsewhere()] {
        let error = call.await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. } | Error::Overloaded { .. }), "{error}");
        eventually("it has seen it", || !worker.is_running()).await;
    }
    assert!(worker.begun.load(Ordering::SeqCst) > 0);
}

async fn a_handler_that_blocks_sees_that_its_connection_has_ended(fixture: Arc<Fixture>) {
    let (_server, client, worker) = sides(&fixture).await;
    let call = tokio::spawn(client.get_service::<WorksClient>().spin());
    eventually("it runs", || worker.is_running()).await;
    client.disconnect().await;
    assert!(matches!(call.await.unwrap(), Err(Error::Closed { .. })));
    eventually("it has seen it", || !worker.is_running()).await;
}

async fn a_blocking_handler_that_awaits_is_dropped_with_its_call(fixture: Arc<Fixture>) {
    let (_server, client, worker) = sides(&fixture).await;
    let call = tokio::spawn(client.get_service::<WorksClient>().doze());
    eventually("it runs", || worker.is_running()).await;
    call.abort();
    eventually("it was dropped", || !worker.is_running()).await;
}

/// The runtime has one thread for blocking work.
#[test]
fn a_blocking_handler_whose_call_is_dropped_before_it_begins_never_does() {
    let runtime = Builder::new_multi_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let fixture = Fixture::memory();
    let worker = Worker::default();
    runtime.block_on(async {
        let server = fixture.server_builder().with_service(WorksServer::new(worker.clone()));
        let server = server.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let works: WorksClient = client.get_service();
        let first = tokio::spawn(works.pass());
        eventually("it has the thread", || worker.is_running()).await;
        let dropped = tokio::spawn(works.pass());
        let wanted = tokio::spawn(works.pass());
        eventually("all are there", || server.load().iter().any(|load| load.handlers == 3)).await;
        dropped.abort();
        eventually("one was cancelled", || server.load().iter().any(|load| load.handlers == 2))
            .await;
        worker.open_gate();
        first.await.unwrap().unwrap();
        wanted.await.unwrap().unwrap();
        assert_eq!(worker.begun.load(Ordering::SeqCst), 2);
    });
}
