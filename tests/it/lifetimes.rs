//! Ends at unusual moments: of a runtime, of an attempt to connect, of a thread. Also: time limits of any length.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use witrpc::prelude::*;
use witrpc::{ClientState, CloseReason, Error, Overflow, RetryPolicy};

use crate::contract::CalcClient;
use crate::fixture::{
    Fixture, Flavor, GUARD, block_on, eventually, is_late, poll_once, run, runtime,
};

/// Long enough to tell a wait from none, and far below the guard.
const WHILE: Duration = Duration::from_millis(300);
const AN_AGE: Duration = Duration::from_secs(3600);

/// Over memory, and over files.
fn over_both<F: Future<Output = ()>>(test: impl Fn(Arc<Fixture>) -> F) {
    for fixture in [Fixture::memory(), Fixture::mmf()] {
        run(Flavor::MultiThread, fixture, &test);
    }
}

/// A server on a runtime and a thread of its own.
struct Elsewhere {
    end: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

fn serve_elsewhere(fixture: &Arc<Fixture>) -> Elsewhere {
    let fixture = Arc::clone(fixture);
    let (end, ended) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime(Flavor::CurrentThread).block_on(async {
            let _server = fixture.server().await;
            drop(fixture);
            ready.send(()).unwrap();
            drop(ended.await);
        });
    });
    is_ready.recv().unwrap();
    Elsewhere { end, thread }
}

impl Elsewhere {
    fn end(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

fn is_runtime_gone(error: &Error) -> bool {
    matches!(error, Error::Closed { reason: CloseReason::RuntimeGone, .. })
}

/// With the driver's first poll, or without.
#[test]
fn a_connection_whose_runtime_goes_at_once_says_so_and_is_made_anew_on_the_next() {
    for fixture in [Fixture::memory(), Fixture::mmf()] {
        let fixture = Arc::new(fixture);
        let server = serve_elsewhere(&fixture);
        for round in 0..20 {
            let flavor = [Flavor::CurrentThread, Flavor::MultiThread][round % 2];
            let mut builder = fixture.client_builder();
            if round % 4 < 2 {
                builder = builder.with_auto_reconnect(|options| options);
            }
            let client = builder.build().unwrap();
            let calc = client.get_service::<CalcClient>();
            let hurried = calc.with_timeout(AN_AGE);
            let connecting = runtime(flavor);
            connecting.block_on(client.connect(GUARD)).unwrap();
            let mut begun = pin!(hurried.wait());
            if round % 3 == 0 {
                assert!(poll_once(begun.as_mut()).is_pending());
            }
            drop(connecting);
            assert!(!client.is_connected());
            assert_eq!(*client.state().borrow(), ClientState::Disconnected);
            block_on(flavor, async {
                let lost = begun.await.unwrap_err();
                assert!(is_runtime_gone(&lost), "{lost}");
                client.connect(GUARD).await.unwrap();
                assert_eq!(calc.add(1, 1).await.unwrap(), 2);
                client.disconnect().await;
            });
        }
        server.end();
        assert!(Arc::into_inner(fixture).is_some(), "somebody still holds the endpoint");
    }
}

#[test]
fn a_call_outside_of_every_runtime_ends_with_the_connection() {
    let fixture = Arc::new(Fixture::mmf());
    let server = serve_elsewhere(&fixture);
    let client = fixture.client_builder().build().unwrap();
    let connecting = runtime(Flavor::MultiThread);
    connecting.block_on(client.connect(GUARD)).unwrap();
    let (calls, answers) = mpsc::channel();
    let hurried = client.get_service::<CalcClient>().with_timeout(AN_AGE);
    let thread = std::thread::spawn(move || {
        let call = async {
            let mut call = pin!(hurried.wait());
            assert!(poll_once(call.as_mut()).is_pending());
            calls.send(()).unwrap();
            call.await
        };
        outside(call)
    });
    answers.recv().unwrap();
    drop(connecting);
    let lost = thread.join().unwrap().unwrap_err();
    assert!(is_runtime_gone(&lost), "{lost}");
    drop(client);
    server.end();
}

/// Blocks on a future without any runtime.
pub(crate) fn outside<T>(future: impl Future<Output = T>) -> T {
    struct Thread(std::thread::Thread);
    impl std::task::Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Thread(std::thread::current())).into();
    let mut future = pin!(future);
    let deadline = Instant::now() + GUARD;
    loop {
        if let std::task::Poll::Ready(output) =
            future.as_mut().poll(&mut std::task::Context::from_waker(&waker))
        {
            return output;
        }
        assert!(Instant::now() < deadline, "the future hangs");
        std::thread::park_timeout(GUARD);
    }
}

#[test]
fn a_runtime_that_goes_while_it_connects_again_says_so() {
    let fixture = Arc::new(Fixture::memory());
    let server = serve_elsewhere(&fixture);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let states = Arc::clone(&seen);
    let client = fixture
        .client_builder()
        .with_auto_reconnect(|options| {
            options.with_callback(move |state| states.lock().unwrap().push(state))
        })
        .with_retry_policy(|policy| policy.with_attempts(0))
        .build()
        .unwrap();
    let connecting = runtime(Flavor::MultiThread);
    connecting.block_on(client.connect(GUARD)).unwrap();
    let calc = client.get_service::<CalcClient>();
    let mut call = pin!(calc.unit());
    server.end();
    connecting.block_on(async {
        let mut state = client.state();
        state.wait_for(|state| matches!(state, ClientState::Reconnecting { .. })).await.unwrap();
        // A call that is to be made once more, as soon as there is a connection.
        assert!(poll_once(call.as_mut()).is_pending());
    });
    drop(connecting);
    assert_eq!(*client.state().borrow(), ClientState::Disconnected);
    assert_eq!(seen.lock().unwrap().last(), Some(&ClientState::Disconnected));
    let lost = outside(call).unwrap_err();
    assert!(matches!(lost, Error::Closed { .. }), "{lost}");
}

#[test]
fn a_server_is_started_anew_on_the_next_runtime() {
    let fixture = Arc::new(Fixture::mmf());
    let server = fixture.server_builder().build().unwrap();
    let first = runtime(Flavor::MultiThread);
    first.block_on(server.start_waiting_for_connection()).unwrap();
    drop(first);
    block_on(Flavor::MultiThread, async {
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        client.ping().await.unwrap();
        server.shutdown(GUARD).await;
    });
}

/// A client whose connection attempts wait for a token until they are let on.
fn with_slow_token(fixture: &Fixture) -> (WitClient, Arc<Notify>, Arc<Notify>) {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, waited) = (Arc::clone(&asked), Arc::clone(&go_on));
    let client = fixture
        .client_builder()
        .with_encryption()
        .with_access_token_provider(move || {
            let (told, waited) = (Arc::clone(&told), Arc::clone(&waited));
            async move {
                told.notify_one();
                waited.notified().await;
                Ok("token".to_owned())
            }
        })
        .with_auto_reconnect(|options| options.with_initial_delay(Duration::from_millis(1)))
        .build()
        .unwrap();
    (client, asked, go_on)
}

async fn with_validator(fixture: &Fixture) -> WitServer {
    let builder = fixture.server_builder().with_encryption();
    let server =
        builder.with_access_token_validator(|_: String| Ok::<_, String>(())).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

#[test]
fn a_disconnect_is_final_however_far_an_attempt_has_come() {
    over_both(|fixture| async move {
        let server = with_validator(&fixture).await;
        for reconnecting in [false, true] {
            let (client, asked, go_on) = with_slow_token(&fixture);
            let attempt = {
                let client = client.clone();
                tokio::spawn(async move {
                    if reconnecting {
                        client.reconnect(GUARD).await
                    } else {
                        client.connect(GUARD).await
                    }
                })
            };
            asked.notified().await;
            client.disconnect().await;
            go_on.notify_one();
            let ended = attempt.await.unwrap().unwrap_err();
            let local = matches!(ended, Error::Closed { reason: CloseReason::Local, .. });
            assert!(local, "{ended}");
            assert!(!client.is_connected());
            assert_eq!(*client.state().borrow(), ClientState::Disconnected);
            // What may be left of the notification is used up.
            go_on.notify_one();
            client.connect(GUARD).await.unwrap();
        }
        drop(server);
    });
}

#[test]
fn a_disconnect_amid_attempts_to_connect_again_is_final() {
    over_both(|fixture| async move {
        let client = fixture
            .client_builder()
            .with_auto_reconnect(|options| options.with_initial_delay(Duration::from_micros(1)))
            .build()
            .unwrap();
        for round in 0..150 {
            let server = fixture.server().await;
            client.connect(GUARD).await.unwrap();
            drop(server);
            let _next = fixture.server().await;
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            client.disconnect().await;
            for _ in 0..20 {
                assert!(!client.is_connected(), "round {round}");
                assert_eq!(*client.state().borrow(), ClientState::Disconnected);
                tokio::task::yield_now().await;
            }
        }
    });
}

#[test]
fn connecting_waits_no_longer_than_it_says_beside_another_attempt() {
    over_both(|fixture| async move {
        // There is no server.
        let client = fixture.client_builder().build().unwrap();
        let patient = tokio::spawn({
            let client = client.clone();
            async move { client.connect(AN_AGE).await }
        });
        tokio::task::yield_now().await;
        let began = Instant::now();
        let error = client.connect(WHILE).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. } | Error::NotRunning { .. }), "{error}");
        assert!(began.elapsed() < GUARD / 2, "{:?}", began.elapsed());
        client.disconnect().await;
        assert!(patient.await.unwrap().is_err());
    });
}

#[test]
fn an_automatic_attempt_makes_way_for_the_users() {
    over_both(|fixture| async move {
        let server = fixture.server().await;
        let slow = |options: witrpc::ReconnectOptions| {
            let options = options.with_initial_delay(Duration::from_millis(1));
            options.with_max_delay(AN_AGE).with_factor(1e9)
        };
        let client = fixture.client_builder().with_auto_reconnect(slow).build().unwrap();
        client.connect(GUARD).await.unwrap();
        drop(server);
        let mut state = client.state();
        // The second attempt waits for a server for an age.
        let second =
            |state: &ClientState| matches!(state, ClientState::Reconnecting { attempt: 1 });
        state.wait_for(second).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let error = client.connect(WHILE).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }), "{error}");
        let _server = fixture.server().await;
        client.connect(GUARD).await.unwrap();
        assert_eq!(*client.state().borrow(), ClientState::Connected);
    });
}

#[witrpc::service]
trait Front {
    /// Has the caller's own service connect again.
    async fn go(&self) -> witrpc::Result<()>;
}

#[witrpc::service]
trait Back {
    async fn again(&self) -> witrpc::Result<()>;
}

struct Caller;

impl Front for Caller {
    async fn go(&self) -> witrpc::Result<()> {
        CallContext::current().peer().get_service::<BackClient>().again().await
    }
}

#[derive(Clone, Default)]
struct Again(Arc<Mutex<Option<WitClient>>>);

impl Back for Again {
    async fn again(&self) -> witrpc::Result<()> {
        let client = self.0.lock().unwrap().clone().unwrap();
        client.reconnect(GUARD).await
    }
}

#[test]
fn a_handler_of_the_clients_own_service_can_connect_again() {
    over_both(|fixture| async move {
        let builder = fixture.bare_server_builder().with_service(FrontServer::new(Caller));
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let again = Again::default();
        let builder = fixture.client_builder().with_service(BackServer::new(again.clone()));
        let client = builder.build().unwrap();
        *again.0.lock().unwrap() = Some(client.clone());
        client.connect(GUARD).await.unwrap();
        let mut state = client.state();
        state.mark_unchanged();
        let lost = client.get_service::<FrontClient>().go().await.unwrap_err();
        assert!(matches!(lost, Error::Closed { .. }), "{lost}");
        tokio::time::timeout(GUARD, state.wait_for(|state| *state == ClientState::Connected))
            .await
            .unwrap()
            .unwrap();
        client.ping().await.unwrap();
        *again.0.lock().unwrap() = None;
        client.disconnect().await;
    });
}

#[test]
fn a_callback_that_panics_stops_nothing() {
    over_both(|fixture| async move {
        let server = fixture.server().await;
        let called = Arc::new(AtomicBool::new(false));
        let calls = called.clone();
        let builder = fixture.client_builder().with_auto_reconnect(move |options| {
            let options = options.with_initial_delay(Duration::from_millis(1));
            options.with_callback(move |_| {
                calls.store(true, Ordering::Relaxed);
                panic!("a callback")
            })
        });
        let client = builder.build().unwrap();
        client.connect(GUARD).await.unwrap();
        drop(server);
        let _server = fixture.server().await;
        eventually("called", || called.load(Ordering::Relaxed)).await;
        eventually("connected again", || client.is_connected()).await;
        client.ping().await.unwrap();
    });
}

#[test]
fn every_time_limit_may_be_of_any_length() {
    over_both(|fixture| async move {
        let server = fixture.server().await;
        let policy = |policy: RetryPolicy| {
            policy.with_fixed_delay(Duration::MAX).with_max_delay(Duration::MAX)
        };
        let client = fixture
            .client_builder()
            .with_timeout(Duration::MAX)
            .with_retry_policy(policy)
            .with_auto_reconnect(|options| {
                options.with_initial_delay(Duration::MAX).with_max_delay(Duration::MAX)
            })
            .build()
            .unwrap();
        client.connect(Duration::MAX).await.unwrap();
        client.reconnect(Duration::MAX).await.unwrap();
        assert_eq!(client.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
        let event = Event::new().with_overflow(Overflow::Block(Duration::MAX)).with_capacity(1);
        let mut values = event.subscribe();
        event.raise_async(1).await.unwrap();
        // One that waits, with and without a thread.
        let raiser = event.clone();
        let raising = std::thread::spawn(move || raiser.raise(2));
        assert_eq!(values.next().await, Some(Ok(1)));
        assert_eq!(values.next().await, Some(Ok(2)));
        raising.join().unwrap().unwrap();
        event.raise_async(3).await.unwrap();
        let mut raising = pin!(event.raise_async(4));
        assert!(poll_once(raising.as_mut()).is_pending());
        assert_eq!(values.next().await, Some(Ok(3)));
        raising.await.unwrap();
        server.shutdown(Duration::MAX).await;
    });
}

#[test]
fn outside_of_a_runtime_there_is_an_error_and_no_panic() {
    let fixture = Arc::new(Fixture::mmf());
    let server = serve_elsewhere(&fixture);
    let client = fixture.client_builder().build().unwrap();
    let missing = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::NoRuntime { .. }), "{error}");
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    };
    missing(outside(client.connect(GUARD)));
    let idle = fixture.server_builder().build().unwrap();
    missing(outside(idle.start_waiting_for_connection()));
    let driving = runtime(Flavor::MultiThread);
    driving.block_on(client.connect(GUARD)).unwrap();
    missing(outside(client.reconnect(GUARD)));
    assert!(client.is_connected(), "it went on");
    outside(client.ping()).unwrap();
    let event = Event::new().with_overflow(Overflow::Block(GUARD)).with_capacity(1);
    let _values = event.subscribe();
    outside(event.raise_async(1)).unwrap();
    missing(outside(event.raise_async(2)));
    outside(client.disconnect());
    assert!(!client.is_connected());
    // Within one that has no timers, too.
    let without = tokio::runtime::Builder::new_current_thread().build().unwrap();
    missing(without.block_on(client.connect(GUARD)));
    outside(idle.shutdown(GUARD));
    drop(driving);
    server.end();
}

/// A panic's payload that panics as it is dropped.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("again");
        }
    }
}

/// What a handler holds that panics as it is dropped.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any(Payload);
        }
    }
}

#[witrpc::service]
trait Frail {
    async fn at_once(&self) -> witrpc::Result<()>;
    async fn later(&self) -> witrpc::Result<()>;
    #[witrpc(blocking)]
    async fn blocking(&self) -> witrpc::Result<()>;
    /// Its future panics as it is dropped.
    async fn at_the_end(&self, wait: bool) -> witrpc::Result<u8>;
    async fn stream(&self) -> witrpc::Result<Streaming<u8>>;
}

struct Fragile;

struct Ends<F>(F, Held);

impl<F: Future + Unpin> Future for Ends<F> {
    type Output = F::Output;
    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        let Self(future, Held) = &mut *self;
        std::pin::Pin::new(future).poll(cx)
    }
}

impl Frail for Fragile {
    async fn at_once(&self) -> witrpc::Result<()> {
        std::panic::panic_any(Payload)
    }
    async fn later(&self) -> witrpc::Result<()> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        std::panic::panic_any(Payload)
    }
    async fn blocking(&self) -> witrpc::Result<()> {
        std::panic::panic_any(Payload)
    }
    async fn at_the_end(&self, wait: bool) -> witrpc::Result<u8> {
        if wait {
            // Dropped by a cancellation, amid its wait.
            Ends(Box::pin(tokio::time::sleep(AN_AGE)), Held).await;
        }
        Ok(7)
    }
    async fn stream(&self) -> witrpc::Result<Streaming<u8>> {
        let mut left = 2;
        Ok(Streaming::iter(std::iter::from_fn(move || {
            left -= 1;
            if left == 0 { std::panic::panic_any(Payload) } else { Some(1) }
        })))
    }
}

#[test]
fn a_panic_whose_payload_panics_is_answered_like_any_other() {
    over_both(|fixture| async move {
        let builder = fixture.bare_server_builder().with_service(FrailServer::new(Fragile));
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let frail = client.get_service::<FrailClient>();
        for _ in 0..3 {
            for answer in [frail.at_once().await, frail.later().await, frail.blocking().await] {
                let panicked = answer.unwrap_err();
                assert!(matches!(panicked, Error::Panicked { .. }), "{panicked}");
            }
            let mut items = frail.stream().await.unwrap();
            assert_eq!(items.next().await.unwrap().unwrap(), 1);
            let panicked = items.next().await.unwrap().unwrap_err();
            assert!(matches!(panicked, Error::Panicked { .. }), "{panicked}");
            assert_eq!(frail.at_the_end(false).await.unwrap(), 7);
            let hurried = frail.with_timeout(Duration::from_millis(5));
            let late = hurried.at_the_end(true).await.unwrap_err();
            assert!(is_late(&late), "{late}");
        }
        client.ping().await.unwrap();
        let load = || server.load().iter().all(|load| *load == witrpc::Load::default());
        eventually("nothing is left of them", load).await;
    });
}

/// Raises an event, calls, and asks for the context, as its thread ends.
struct AtEnd {
    event: Event<u8>,
    calc: CalcClient,
    done: Arc<AtomicU32>,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        assert!(CallContext::try_current().is_none());
        self.event.raise(2).unwrap();
        let mut call = pin!(self.calc.echo("end".to_owned()));
        drop(poll_once(call.as_mut()));
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    static AT_END: std::cell::OnceCell<AtEnd> = const { std::cell::OnceCell::new() };
}

#[test]
fn a_threads_last_destructors_can_raise_and_call() {
    over_both(|fixture| async move {
        let _server = fixture.server().await;
        let client = fixture.client().await;
        let event = Event::new();
        let mut values = event.subscribe();
        let done = Arc::new(AtomicU32::new(0));
        let raised = Arc::new(AtomicBool::new(false));
        let at_end =
            AtEnd { event: event.clone(), calc: client.get_service(), done: Arc::clone(&done) };
        let first = Arc::clone(&raised);
        let thread = std::thread::spawn(move || {
            // Thread-locals go in the reverse order of their first use: the library's are gone before this one.
            AT_END.with(|end| drop(end.set(at_end)));
            event.raise(1).unwrap();
            assert!(CallContext::try_current().is_none());
            first.store(true, Ordering::SeqCst);
        });
        thread.join().unwrap();
        assert_eq!(values.next().await, Some(Ok(1)));
        assert_eq!(values.next().await, Some(Ok(2)));
        assert_eq!(done.load(Ordering::SeqCst), 1);
        eventually("nothing is left", || client.load() == witrpc::Load::default()).await;
    });
}
