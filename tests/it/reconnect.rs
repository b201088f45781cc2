//! What a client does when its server ends, and how a server shuts down in good order.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use witrpc::{
    ClientState, CloseReason, Error, EventError, ReconnectOptions, RetryPolicy, WitClient,
};
use witrpc_core::fail_point;

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, alone, eventually, poll_once, run};

crate::instances::instantiate![
    a_lost_connection_is_made_anew,
    attempts_come_to_an_end,
    disconnecting_ends_the_attempts,
    without_reconnect_a_lost_connection_stays_lost,
    a_server_that_shuts_down_lets_calls_finish,
    a_shutdown_ends_with_its_grace,
    an_unread_subscription_does_not_grow_with_every_connection,
    calls_are_repeated_until_a_server_is_back,
    only_idempotent_calls_are_repeated_once_they_may_have_run,
    repeating_ends_with_the_attempts_or_the_deadline,
    a_repeated_call_that_fails_tells_of_all_its_attempts,
    a_call_is_repeated_as_soon_as_there_is_a_connection,
    the_load_can_be_asked_for_at_any_time,
];

#[witrpc::service]
trait Beacon {
    #[event]
    fn shone(&self) -> &witrpc::Event<u32>;
}

#[derive(Clone, Default)]
struct Light(witrpc::Event<u32>);

impl Beacon for Light {
    fn shone(&self) -> &witrpc::Event<u32> {
        &self.0
    }
}

async fn serve(fixture: &Fixture, light: &Light) -> witrpc::WitServer {
    let server =
        fixture.server_builder().with_service(BeaconServer::new(light.clone())).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

fn swift(options: ReconnectOptions) -> ReconnectOptions {
    options.with_initial_delay(Duration::from_millis(1)).with_max_delay(Duration::from_millis(20))
}

async fn until(client: &WitClient, wanted: impl Fn(ClientState) -> bool) {
    let mut state = client.state();
    tokio::time::timeout(GUARD / 2, state.wait_for(|state| wanted(*state))).await.unwrap().unwrap();
}

async fn a_lost_connection_is_made_anew(fixture: Arc<Fixture>) {
    let light = Light::default();
    let server = serve(&fixture, &light).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let client = fixture
        .client_builder()
        .with_auto_reconnect(|options| {
            let seen = Arc::clone(&seen);
            swift(options).with_callback(move |state| seen.lock().unwrap().push(state))
        })
        .build()
        .unwrap();
    assert_eq!(*client.state().borrow(), ClientState::Disconnected);
    client.connect(GUARD).await.unwrap();
    assert_eq!(*client.state().borrow(), ClientState::Connected);
    let (calc, beacon): (CalcClient, BeaconClient) = (client.get_service(), client.get_service());
    let mut shone = beacon.shone().subscribe();
    calc.unit().await.unwrap();
    light.0.raise(1).unwrap();
    assert_eq!(shone.next().await, Some(Ok(1)));

    drop(server);
    until(&client, |state| matches!(state, ClientState::Reconnecting { .. })).await;
    let lost = calc.add(1, 1).await.unwrap_err();
    assert!(matches!(lost, Error::Closed { maybe_executed: false, .. }), "{lost}");
    // One that is made in between waits for the connection to come, as one that was there before.
    let mut later = beacon.shone().subscribe();

    let _server = serve(&fixture, &light).await;
    until(&client, |state| state == ClientState::Connected).await;
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    light.0.raise(2).unwrap();
    assert_eq!(shone.next().await, Some(Err(EventError::Reconnected)));
    assert_eq!(shone.next().await, Some(Ok(2)));
    assert_eq!(later.next().await, Some(Ok(2)));
    eventually("the callback has seen both", || {
        let seen = seen.lock().unwrap();
        seen.first() == Some(&ClientState::Reconnecting { attempt: 1 })
            && seen.last() == Some(&ClientState::Connected)
    })
    .await;
}

async fn attempts_come_to_an_end(fixture: Arc<Fixture>) {
    let light = Light::default();
    let server = serve(&fixture, &light).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let client = fixture
        .client_builder()
        .with_auto_reconnect(|options| {
            let attempts = Arc::clone(&attempts);
            swift(options).with_attempts(2).with_callback(move |state| {
                if let ClientState::Reconnecting { attempt } = state {
                    attempts.store(attempt, Ordering::SeqCst);
                }
            })
        })
        .build()
        .unwrap();
    client.connect(GUARD).await.unwrap();
    let beacon: BeaconClient = client.get_service();
    let mut shone = beacon.shone().subscribe();
    drop(server);
    until(&client, |state| state == ClientState::GaveUp).await;
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    assert!(matches!(shone.next().await, Some(Err(EventError::Closed(_)))));
    assert_eq!(shone.next().await, None);
    // It can be connected by hand.
    let _server = serve(&fixture, &light).await;
    client.connect(GUARD).await.unwrap();
    assert_eq!(*client.state().borrow(), ClientState::Connected);
}

async fn disconnecting_ends_the_attempts(fixture: Arc<Fixture>) {
    let light = Light::default();
    let server = serve(&fixture, &light).await;
    let client = fixture.client_builder().with_auto_reconnect(swift).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let beacon: BeaconClient = client.get_service();
    let mut shone = beacon.shone().subscribe();
    drop(server);
    until(&client, |state| matches!(state, ClientState::Reconnecting { .. })).await;
    client.disconnect().await;
    assert_eq!(*client.state().borrow(), ClientState::Disconnected);
    assert_eq!(shone.next().await, Some(Err(EventError::Closed(CloseReason::Local))));
    let server = serve(&fixture, &light).await;
    // Nobody comes: a client of our own is let in, and is the only one.
    let own = fixture.client().await;
    own.ping().await.unwrap();
    assert_eq!(server.client_count(), 1);
    assert_eq!(*client.state().borrow(), ClientState::Disconnected);
}

async fn without_reconnect_a_lost_connection_stays_lost(fixture: Arc<Fixture>) {
    let server = fixture.server().await;
    let client = fixture.client().await;
    drop(server);
    until(&client, |state| state == ClientState::Disconnected).await;
    let _server = fixture.server().await;
    let calc: CalcClient = client.get_service();
    assert!(matches!(calc.unit().await, Err(Error::Closed { .. })));
}

async fn a_server_that_shuts_down_lets_calls_finish(fixture: Arc<Fixture>) {
    let server = fixture.server().await;
    let client = fixture.client().await;
    let calc: CalcClient = client.get_service();
    let waiting = tokio::spawn(calc.wait());
    while calc.waiting().await.unwrap() == 0 {}
    let down = tokio::spawn(async move { server.shutdown(GUARD).await });
    // It goes on while a call is under way.
    calc.open(1).await.unwrap();
    waiting.await.unwrap().unwrap();
    down.await.unwrap();
    eventually("the client knows", || !client.is_connected()).await;
    let refused = calc.unit().await.unwrap_err();
    let Error::Closed { reason: CloseReason::Peer(reason), maybe_executed: false } = &refused
    else {
        panic!("{refused}");
    };
    assert!(reason.contains("shutting down"), "{reason}");
}

async fn a_shutdown_ends_with_its_grace(fixture: Arc<Fixture>) {
    let server = fixture.server().await;
    let client = fixture.client().await;
    let calc: CalcClient = client.get_service();
    let waiting = tokio::spawn(calc.wait());
    while calc.waiting().await.unwrap() == 0 {}
    server.shutdown(Duration::from_millis(20)).await;
    let lost = waiting.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
    assert_eq!(server.client_count(), 0);
}

#[witrpc::service]
trait Ledger {
    /// Counts, and is never answered by a server that hangs.
    async fn book(&self) -> witrpc::Result<u32>;
    #[witrpc(idempotent)]
    async fn balance(&self) -> witrpc::Result<u32>;
}

#[derive(Clone)]
struct Books {
    hangs: bool,
    booked: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
}

impl Books {
    async fn answer(&self, counter: &AtomicU32) -> witrpc::Result<u32> {
        let count = counter.fetch_add(1, Ordering::SeqCst) + 1;
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Ok(count)
    }
}

impl Ledger for Books {
    async fn book(&self) -> witrpc::Result<u32> {
        self.answer(&self.booked).await
    }

    async fn balance(&self) -> witrpc::Result<u32> {
        self.answer(&self.asked).await
    }
}

fn patient(policy: RetryPolicy) -> RetryPolicy {
    policy.with_attempts(0).with_fixed_delay(Duration::from_millis(2))
}

async fn calls_are_repeated_until_a_server_is_back(fixture: Arc<Fixture>) {
    let server = serve(&fixture, &Light::default()).await;
    let client = fixture.client_builder().with_auto_reconnect(swift).with_retry_policy(patient);
    let client = client.build().unwrap();
    let calc: CalcClient = client.get_service();
    let early = tokio::spawn(calc.add(1, 1)); // Before there is any connection.
    client.connect(GUARD).await.unwrap();
    assert_eq!(early.await.unwrap().unwrap(), 2);
    for round in 0..3 {
        server_gone(&client, &server).await;
        let text = "a".repeat(100_000); // Longer than what waits for no turn.
        let calls = (0..20).map(|n| tokio::spawn(calc.add(n, round))).collect::<Vec<_>>();
        let large = tokio::spawn(calc.echo(text.clone()));
        server.start_waiting_for_connection().await.unwrap();
        for (n, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap(), n + round);
        }
        assert_eq!(large.await.unwrap().unwrap(), text);
    }
}

/// Shuts the server down, so that it can be started once more.
async fn server_gone(client: &WitClient, server: &witrpc::WitServer) {
    server.shutdown(Duration::ZERO).await;
    until(client, |state| matches!(state, ClientState::Reconnecting { .. })).await;
}

async fn only_idempotent_calls_are_repeated_once_they_may_have_run(fixture: Arc<Fixture>) {
    let mut books = Books { hangs: true, booked: Arc::default(), asked: Arc::default() };
    let serve = async |books: &Books| {
        let server = fixture.server_builder().with_service(LedgerServer::new(books.clone()));
        let server = server.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        server
    };
    let server = serve(&books).await;
    let client = fixture.client_builder().with_auto_reconnect(swift).with_retry_policy(patient);
    let client = client.build().unwrap();
    client.connect(GUARD).await.unwrap();
    let ledger: LedgerClient = client.get_service();
    let (book, balance) = (tokio::spawn(ledger.book()), tokio::spawn(ledger.balance()));
    let both =
        || [&books.booked, &books.asked].map(|counter| counter.load(Ordering::SeqCst)) == [1, 1];
    eventually("both calls run", both).await;
    drop(server);
    let error = book.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { maybe_executed: true, .. }), "{error}");
    books.hangs = false;
    let _server = serve(&books).await;
    assert_eq!(balance.await.unwrap().unwrap(), 2, "asked twice");
    assert_eq!(ledger.book().await.unwrap(), 2, "booked only once before");
}

async fn repeating_ends_with_the_attempts_or_the_deadline(fixture: Arc<Fixture>) {
    let build = |attempts, timeout| {
        let builder = fixture.client_builder().with_timeout(timeout);
        let client = builder.with_retry_policy(|policy| patient(policy).with_attempts(attempts));
        client.build().unwrap().get_service::<CalcClient>()
    };
    let error = build(3, GUARD).add(1, 1).await.unwrap_err();
    assert!(matches!(error, Error::NotConnected { .. }), "{error}");
    let error = build(0, Duration::from_millis(30)).add(1, 1).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

/// Only so many values of earlier connections are kept; what was dropped is counted.
async fn an_unread_subscription_does_not_grow_with_every_connection(fixture: Arc<Fixture>) {
    const CONNECTIONS: u32 = 10;
    const VALUES: u32 = 200;
    const KEPT: u64 = 4 * 256;
    let light = Light::default();
    let server = serve(&fixture, &light).await;
    let client = fixture.client_builder().with_auto_reconnect(swift).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let (calc, beacon): (CalcClient, BeaconClient) = (client.get_service(), client.get_service());
    // What is raised reaches them in this order, so what one has read the other has.
    let (mut unread, mut read) = (beacon.shone().subscribe(), beacon.shone().subscribe());
    calc.unit().await.unwrap();
    for connection in 0..CONNECTIONS {
        for value in 0..VALUES {
            light.0.raise(connection * VALUES + value).unwrap();
        }
        while read.next().await != Some(Ok(connection * VALUES + VALUES - 1)) {}
        server_gone(&client, &server).await;
        server.start_waiting_for_connection().await.unwrap();
        until(&client, |state| state == ClientState::Connected).await;
        calc.unit().await.unwrap();
    }
    light.0.raise(u32::MAX).unwrap();
    let (mut values, mut lost, mut marks) = (0, 0, 0);
    loop {
        match unread.next().await.unwrap() {
            Ok(u32::MAX) => break,
            Ok(_) => values += 1,
            Err(EventError::Lagged(n)) => lost += n,
            Err(EventError::Reconnected) => marks += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(values + lost, u64::from(CONNECTIONS * VALUES), "nothing goes unseen");
    assert!((KEPT..=KEPT + u64::from(VALUES)).contains(&values), "{values} were kept");
    assert!(marks <= CONNECTIONS, "{marks} marks");
}

/// From threads of their own, while calls are under way and connections come and go.
async fn the_load_can_be_asked_for_at_any_time(fixture: Arc<Fixture>) {
    let server = Arc::new(fixture.server().await);
    let client = fixture.client().await;
    let over = Arc::new(AtomicU32::new(0));
    let ask = |look: Box<dyn Fn() + Send>| {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            while over.load(Ordering::SeqCst) == 0 {
                look();
            }
        })
    };
    let (asked, asking) = (Arc::clone(&server), client.clone());
    let threads = [
        ask(Box::new(move || drop(asked.load()))),
        ask(Box::new(move || assert!(asking.load().calls <= 20))),
    ];
    let calc: CalcClient = client.get_service();
    for round in 0..30 {
        let calls: Vec<_> = (0..20).map(|i| tokio::spawn(calc.add(round, i))).collect();
        for (i, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap(), round + i);
        }
        client.reconnect(GUARD).await.unwrap();
    }
    over.store(1, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

async fn a_repeated_call_that_fails_tells_of_all_its_attempts(fixture: Arc<Fixture>) {
    let books = Books { hangs: true, booked: Arc::default(), asked: Arc::default() };
    let server = fixture.server_builder().with_service(LedgerServer::new(books.clone()));
    let server = server.build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client_builder();
    let client = client.with_retry_policy(|policy| patient(policy).with_attempts(2));
    let client = client.build().unwrap();
    client.connect(GUARD).await.unwrap();
    let balance = tokio::spawn(client.get_service::<LedgerClient>().balance());
    eventually("it runs", || books.asked.load(Ordering::SeqCst) == 1).await;
    drop(server);
    // The last attempt was not executed; the first may have been.
    let error = balance.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Closed { maybe_executed: true, .. }), "{error}");
}

async fn a_call_is_repeated_as_soon_as_there_is_a_connection(fixture: Arc<Fixture>) {
    let server = serve(&fixture, &Light::default()).await;
    let never = |policy: RetryPolicy| policy.with_attempts(1).with_fixed_delay(GUARD * 10);
    let client = fixture
        .client_builder()
        .with_auto_reconnect(swift)
        .with_retry_policy(|policy| never(policy).with_max_delay(GUARD * 10));
    let client = client.build().unwrap();
    client.connect(GUARD).await.unwrap();
    server_gone(&client, &server).await;
    let call = tokio::spawn(client.get_service::<CalcClient>().add(1, 1));
    server.start_waiting_for_connection().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 2, "long before its delay is over");
}

thread_local! {
    /// Steps of handshakes on this thread.
    static STEPS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    /// The server to be shut down as it has welcomed a client.
    static SHUT_DOWN: RefCell<Option<Arc<witrpc::WitServer>>> = const { RefCell::new(None) };
}

/// On one thread, so that nothing happens in between.
#[test]
fn a_client_that_comes_in_while_the_server_shuts_down_is_sent_away() {
    if !alone() {
        return;
    }
    fail_point::install(|step| {
        STEPS.with_borrow_mut(|steps| steps.push(step));
        if step == "welcome.sent"
            && let Some(server) = SHUT_DOWN.take()
        {
            let down = poll_once(pin!(server.shutdown(Duration::ZERO)));
            assert!(down.is_ready(), "it knows of nobody");
        }
    });
    run(Flavor::CurrentThread, Fixture::mmf(), |fixture| async move {
        let server = Arc::new(fixture.server().await);
        let client = fixture.client_builder().build().unwrap();
        let mut connecting = pin!(client.connect(GUARD));
        while !STEPS.with_borrow(|steps| steps.contains(&"accept.sent")) {
            assert!(poll_once(connecting.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        server.stop_waiting_for_connection().await;
        SHUT_DOWN.set(Some(Arc::clone(&server)));
        connecting.await.unwrap();
        eventually("it is sent away", || !client.is_connected()).await;
        eventually("it has left", || server.client_count() == 0).await;
    });
}
