//! Two runtimes in one process: one drives the connection, the other makes the calls.

use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use witrpc::Load;

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, block_on, eventually, is_late, poll_once, runtime};

macro_rules! across {
    ($($test:ident),* $(,)?) => {
        across!(@instance multi_from_current, MultiThread, CurrentThread, $($test),*);
        across!(@instance current_from_multi, CurrentThread, MultiThread, $($test),*);
        across!(@instance current_from_current, CurrentThread, CurrentThread, $($test),*);
        across!(@instance multi_from_multi, MultiThread, MultiThread, $($test),*);
    };
    (@instance $name:ident, $connected:ident, $calling:ident, $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                use crate::fixture::{Fixture, Flavor};
                for fixture in [Fixture::memory(), Fixture::mmf()] {
                    super::across(fixture, Flavor::$connected, Flavor::$calling, super::$test);
                }
            })*
        }
    };
}

across![
    calls_are_answered,
    a_held_leader_stalls_nobody,
    a_dropped_leader_stalls_nobody,
    deadlines_pass,
    a_connection_ends_with_its_runtime,
];

/// What a test has: a client that another runtime, on another thread, has connected and drives.
struct Elsewhere {
    fixture: Arc<Fixture>,
    client: witrpc::WitClient,
    server: witrpc::WitServer,
    /// Ends that runtime.
    end: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

/// Connects on one runtime, and calls from another.
fn across<F: Future<Output = ()>>(
    fixture: Fixture,
    connected: Flavor,
    calling: Flavor,
    test: impl FnOnce(Elsewhere) -> F,
) {
    let fixture = Arc::new(fixture);
    let (ready, pair) = mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    let theirs = Arc::clone(&fixture);
    let thread = std::thread::spawn(move || {
        runtime(connected).block_on(async {
            let server = theirs.server().await;
            let client = theirs.client().await;
            drop(theirs);
            ready.send((client, server)).unwrap();
            // It ends with its sender.
            drop(ended.await);
        });
    });
    let (client, server) = pair.recv().unwrap();
    let elsewhere = Elsewhere { fixture: Arc::clone(&fixture), client, server, end, thread };
    block_on(calling, test(elsewhere));
    // Both runtimes have ended; now nothing may be left.
    assert!(Arc::into_inner(fixture).is_some(), "somebody still holds the endpoint");
}

impl Elsewhere {
    fn calc(&self) -> CalcClient {
        self.client.get_service()
    }

    /// Nothing is held any more; then the other runtime ends.
    async fn finish(self) {
        eventually("the client holds nothing", || self.client.load() == Load::default()).await;
        let server = || self.server.load().iter().all(|load| *load == Load::default());
        eventually("the server holds nothing", server).await;
        drop(self.server);
        drop(self.end);
        self.thread.join().unwrap();
    }
}

async fn calls_are_answered(elsewhere: Elsewhere) {
    let calc = elsewhere.calc();
    for i in 0..500 {
        assert_eq!(calc.add(i, 1).await.unwrap(), i + 1);
    }
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let calc = calc.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    assert_eq!(calc.add(task, i).await.unwrap(), task + i);
                }
            })
        })
        .collect();
    let large = tokio::spawn(calc.echo("l".repeat(5 << 20)));
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(large.await.unwrap().unwrap().len(), 5 << 20);
    elsewhere.client.ping().await.unwrap();
    elsewhere.finish().await;
}

async fn a_held_leader_stalls_nobody(elsewhere: Elsewhere) {
    let calc = elsewhere.calc();
    let mut held = Vec::new();
    for i in 0..200 {
        // Each led the receiving for one poll, and is left alone while others go on.
        let mut call = Box::pin(calc.later(i % 3, i));
        match poll_once(call.as_mut()) {
            Poll::Ready(value) => assert_eq!(value.unwrap(), i),
            Poll::Pending => held.push((i, call)),
        }
        let i = i as i32;
        assert_eq!(calc.add(i, 1).await.unwrap(), i + 1);
    }
    for (i, call) in held {
        assert_eq!(call.await.unwrap(), i);
    }
    elsewhere.finish().await;
}

async fn a_dropped_leader_stalls_nobody(elsewhere: Elsewhere) {
    let calc = elsewhere.calc();
    for i in 0..200 {
        let waiting = tokio::spawn(calc.later(i % 2, i));
        let mut dropped = Box::pin(calc.wait());
        assert!(poll_once(dropped.as_mut()).is_pending());
        drop(dropped);
        assert_eq!(waiting.await.unwrap().unwrap(), i);
    }
    elsewhere.finish().await;
}

async fn deadlines_pass(elsewhere: Elsewhere) {
    let hurried = elsewhere.calc().with_timeout(Duration::from_millis(20));
    let error = hurried.wait().await.unwrap_err();
    assert!(is_late(&error), "{error}");
    assert_eq!(elsewhere.calc().add(1, 1).await.unwrap(), 2);
    elsewhere.finish().await;
}

async fn a_connection_ends_with_its_runtime(elsewhere: Elsewhere) {
    let calc = elsewhere.calc();
    let waiting = tokio::spawn(calc.wait());
    while calc.waiting().await.unwrap() == 0 {}
    let mut held = Box::pin(calc.wait());
    assert!(poll_once(held.as_mut()).is_pending());
    drop(elsewhere.end);
    elsewhere.thread.join().unwrap();
    for lost in [waiting.await.unwrap(), held.await] {
        let lost = lost.unwrap_err();
        assert!(matches!(lost, witrpc::Error::Closed { .. }), "{lost}");
    }
    assert!(!elsewhere.client.is_connected());
    // And can be made anew on this one.
    drop(elsewhere.server);
    let _server = elsewhere.fixture.server().await;
    elsewhere.client.reconnect(GUARD).await.unwrap();
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    elsewhere.client.disconnect().await;
}
