//! The behaviours that hold over every transport and on every runtime.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use witrpc::{CloseReason, Error, Load, WitClient, WitClientBuilder, WitServerBuilder};

use crate::contract::{
    Calc, CalcClient, CalcServer, Calculator, MathError, Words, WordsClient, WordsServer,
};
use crate::fixture::{Fixture, GUARD, eventually, is_late, poll_once};

crate::instances::instantiate![
    a_call_is_answered,
    a_service_has_its_own_error_type,
    two_services_may_have_a_method_of_one_name,
    the_client_is_the_trait,
    a_handle_outlives_its_connection,
    reconnect_gives_a_fresh_connection,
    a_stopped_server_lets_nobody_in_and_its_clients_go_on,
    a_client_waits_for_its_server,
    without_a_server_the_client_gives_up,
    one_attempt_to_connect_is_enough_if_a_server_is_there,
    a_dropped_server_makes_room_for_another,
    ten_thousand_calls_from_64_tasks_find_their_answers,
    fifty_megabytes_cross_and_small_calls_pass_them,
    a_thousand_dropped_calls_leave_nothing,
    large_calls_dropped_half_way_leave_nothing,
    answers_come_in_any_order,
    a_deadline_ends_the_call_and_its_handler,
    the_builders_timeout_is_every_calls,
    a_message_that_is_too_large_is_refused_on_both_sides,
    a_call_may_be_larger_than_all_that_its_side_holds,
    more_than_max_buffered_waits_and_arrives,
    calls_beyond_the_in_flight_limit_wait,
    more_answers_at_a_time_than_a_client_takes_calls,
    a_ping_passes_a_busy_handler,
    a_handler_knows_its_call,
    a_panic_is_an_answer,
    a_fault_is_text,
    a_service_that_is_lacking_is_named,
    a_method_that_differs_is_shown_with_both_signatures,
    a_blocking_handler_runs_elsewhere,
    a_slow_handler_holds_up_nobody_once_known,
    pending_calls_end_with_their_connection,
    a_held_call_stalls_nobody,
    many_held_calls_stall_nobody,
    serializers_that_differ_are_named,
];

/// A connected pair.
async fn connected(fixture: &Fixture) -> (witrpc::WitServer, WitClient, CalcClient) {
    let server = fixture.server().await;
    let client = fixture.client().await;
    let calc = client.get_service();
    (server, client, calc)
}

async fn nothing_is_left(client: &WitClient, server: &witrpc::WitServer) {
    eventually("the client holds nothing", || client.load() == Load::default()).await;
    let idle =
        |server: &witrpc::WitServer| server.load().iter().all(|load| *load == Load::default());
    eventually("the server holds nothing", || idle(server)).await;
}

async fn a_call_is_answered(fixture: Arc<Fixture>) {
    let (_server, client, calc) = connected(&fixture).await;
    assert_eq!(calc.add(2, 3).await.unwrap(), 5);
    assert_eq!(calc.echo("héllo\0".to_owned()).await.unwrap(), "héllo\0");
    calc.unit().await.unwrap();
    // A call can be spawned, and is not sent before it is polled.
    let call = calc.open(7);
    assert_eq!(tokio::spawn(calc.add(1, 1)).await.unwrap().unwrap(), 2);
    assert_eq!(fixture.calculator.0.gate.available_permits(), 0);
    call.await.unwrap();
    assert_eq!(fixture.calculator.0.gate.available_permits(), 7);
    assert!(client.ping().await.unwrap() < GUARD);
}

async fn a_service_has_its_own_error_type(fixture: Arc<Fixture>) {
    let (_server, _client, calc) = connected(&fixture).await;
    assert_eq!(calc.divide(7, 2).await, Ok(3));
    assert_eq!(calc.divide(7, 0).await, Err(MathError::DivisionByZero { dividend: 7 }));
}

async fn two_services_may_have_a_method_of_one_name(fixture: Arc<Fixture>) {
    let (_server, client, calc) = connected(&fixture).await;
    let words: WordsClient = client.get_service();
    assert_eq!(words.add("a".into(), "b".into()).await.unwrap(), "ab");
    assert_eq!(calc.add(1, 2).await.unwrap(), 3);
}

async fn the_client_is_the_trait(fixture: Arc<Fixture>) {
    async fn sum(calc: &impl Calc) -> i32 {
        calc.add(20, 22).await.unwrap()
    }
    let (_server, _client, calc) = connected(&fixture).await;
    assert_eq!(sum(&calc).await, 42);
    assert_eq!(sum(&fixture.calculator).await, 42);
}

async fn a_handle_outlives_its_connection(fixture: Arc<Fixture>) {
    let _server = fixture.server().await;
    let client = fixture.client_builder().build().unwrap();
    let calc: CalcClient = client.get_service();
    assert!(matches!(calc.add(1, 1).await, Err(Error::NotConnected { .. })));
    for _ in 0..3 {
        client.connect(GUARD).await.unwrap();
        assert!(client.is_connected());
        // Connecting twice is connecting once.
        client.connect(GUARD).await.unwrap();
        assert_eq!(calc.add(1, 1).await.unwrap(), 2);
        client.disconnect().await;
        assert!(!client.is_connected());
        assert!(matches!(calc.add(1, 1).await, Err(Error::NotConnected { .. })));
    }
}

async fn reconnect_gives_a_fresh_connection(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let waiting = tokio::spawn(calc.wait());
    eventually("the call has arrived", || server.load().iter().any(|load| load.handlers == 1))
        .await;
    client.reconnect(GUARD).await.unwrap();
    let lost = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(lost, Error::Closed { reason: CloseReason::Local, maybe_executed: true }),
        "{lost}"
    );
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    eventually("the old connection is gone", || server.client_count() == 1).await;
    eventually("its handler is gone", || {
        fixture.calculator.0.waiting.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
}

async fn a_stopped_server_lets_nobody_in_and_its_clients_go_on(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    server.stop_waiting_for_connection().await;
    server.stop_waiting_for_connection().await;
    let late = fixture.client_builder().build().unwrap();
    let refused = late.connect(Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(refused, Error::NotRunning { .. }), "{refused}");
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    client.disconnect().await;
    server.start_waiting_for_connection().await.unwrap();
    server.start_waiting_for_connection().await.unwrap();
    late.connect(GUARD).await.unwrap();
    assert_eq!(late.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}

async fn a_client_waits_for_its_server(fixture: Arc<Fixture>) {
    let client = fixture.client_builder().build().unwrap();
    let connecting = tokio::spawn({
        let client = client.clone();
        async move { client.connect(GUARD).await }
    });
    tokio::task::yield_now().await;
    let _server = fixture.server().await;
    connecting.await.unwrap().unwrap();
    assert_eq!(client.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}

async fn without_a_server_the_client_gives_up(fixture: Arc<Fixture>) {
    let client = fixture.client_builder().build().unwrap();
    let error = client.connect(Duration::from_millis(100)).await.unwrap_err();
    let Error::NotRunning { waited, .. } = error else { panic!("{error}") };
    assert!(waited >= Duration::from_millis(100));
    assert!(matches!(client.ping().await, Err(Error::NotConnected { .. })));
}

async fn one_attempt_to_connect_is_enough_if_a_server_is_there(fixture: Arc<Fixture>) {
    let client = fixture.client_builder().build().unwrap();
    let error = client.connect(Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    let _server = fixture.server().await;
    client.connect(Duration::ZERO).await.unwrap();
    client.reconnect(Duration::ZERO).await.unwrap();
    assert_eq!(client.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}

async fn a_dropped_server_makes_room_for_another(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    drop(server);
    let closed = calc.wait().await.unwrap_err();
    assert!(matches!(closed, Error::Closed { .. }), "{closed}");
    let _server = fixture.server().await;
    client.reconnect(GUARD).await.unwrap();
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
}

async fn ten_thousand_calls_from_64_tasks_find_their_answers(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let calc = calc.clone();
            tokio::spawn(async move {
                for call in 0..157 {
                    let (a, b) = (task * 1000, call);
                    assert_eq!(calc.add(a, b).await.unwrap(), a + b);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    nothing_is_left(&client, &server).await;
}

async fn fifty_megabytes_cross_and_small_calls_pass_them(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let large = "x".repeat(50 << 20);
    let len = large.len();
    let crossing = tokio::spawn(calc.echo(large));
    let mut passed = 0;
    while !crossing.is_finished() {
        assert_eq!(calc.add(passed, 1).await.unwrap(), passed + 1);
        passed += 1;
    }
    assert!(passed > 1, "no small call passed the large one");
    let back = crossing.await.unwrap().unwrap();
    assert!(back.len() == len && back.bytes().all(|byte| byte == b'x'));
    nothing_is_left(&client, &server).await;
}

async fn a_thousand_dropped_calls_leave_nothing(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    for round in 0..10 {
        let mut calls: Vec<_> = (0..100).map(|_| Box::pin(calc.wait())).collect();
        for call in &mut calls {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        if round % 2 == 0 {
            let waiting = &fixture.calculator.0.waiting;
            eventually("all are waiting", || {
                waiting.load(std::sync::atomic::Ordering::SeqCst) == 100
            })
            .await;
        }
        drop(calls);
        assert_eq!(calc.add(round, 1).await.unwrap(), round + 1);
    }
    nothing_is_left(&client, &server).await;
    // A handler that was cancelled is dropped by its runtime, a moment later.
    while calc.waiting().await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

async fn large_calls_dropped_half_way_leave_nothing(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    for round in 0..20_u64 {
        // The argument, then the result, is under way when the call is dropped.
        let mut sending = pin!(calc.len("y".repeat(3 << 20)));
        let mut receiving = pin!(calc.make(3 << 20));
        for _ in 0..round {
            if poll_once(sending.as_mut()).is_ready() || poll_once(receiving.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(calc.len("z".repeat(1 << 20)).await.unwrap(), 1 << 20);
    nothing_is_left(&client, &server).await;
}

async fn answers_come_in_any_order(fixture: Arc<Fixture>) {
    let (_server, _client, calc) = connected(&fixture).await;
    let slow = tokio::spawn(calc.wait());
    while calc.waiting().await.unwrap() == 0 {}
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    assert!(!slow.is_finished());
    calc.open(1).await.unwrap();
    slow.await.unwrap().unwrap();
}

async fn a_deadline_ends_the_call_and_its_handler(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let hurried = calc.with_timeout(Duration::from_millis(30));
    let error = hurried.wait().await.unwrap_err();
    let as_set = match error {
        Error::TimedOut { after } => after == Duration::from_millis(30),
        _ => is_late(&error),
    };
    assert!(as_set, "{error}");
    while calc.waiting().await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hurried.add(1, 1).await.unwrap(), 2);
    let none = calc.with_timeout(Duration::ZERO).wait().await.unwrap_err();
    assert!(matches!(none, Error::TimedOut { .. }), "{none}");
    nothing_is_left(&client, &server).await;
}

async fn the_builders_timeout_is_every_calls(fixture: Arc<Fixture>) {
    let _server = fixture.server().await;
    let client = fixture.client_builder().with_timeout(Duration::from_millis(30)).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    assert!(is_late(&calc.wait().await.unwrap_err()));
    let patient = calc.with_timeout(GUARD);
    assert_eq!(patient.later(40, 9).await.unwrap(), 9);
}

/// What a side takes, and holds, is no bound on what it sends: that is the other's to say.
async fn a_call_may_be_larger_than_all_that_its_side_holds(fixture: Arc<Fixture>) {
    let server = fixture.server().await;
    let client = fixture.client_builder().with_max_message_size(1000).with_max_buffered(2000);
    let client = client.build().unwrap();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    let calls = [9_000, 300_000, 1_500].map(|len| (len, tokio::spawn(calc.len("x".repeat(len)))));
    for (len, call) in calls {
        assert_eq!(call.await.unwrap().unwrap(), len);
    }
    drop(server);
}

async fn a_message_that_is_too_large_is_refused_on_both_sides(fixture: Arc<Fixture>) {
    let server = fixture.server_builder().with_max_message_size(1000).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client_builder().with_max_message_size(2000).build().unwrap();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    let (args, result) = fixture.text_overheads();
    assert_eq!(calc.len("a".repeat(1000 - args)).await.unwrap(), 1000 - args);
    let error = calc.len("a".repeat(1001 - args)).await.unwrap_err();
    assert!(matches!(&error, Error::TooLarge { size: 1001, limit: 1000, .. }), "{error}");
    assert!(error.to_string().contains("Calc.len"), "{error}");
    assert_eq!(calc.make(2000 - result).await.unwrap().len(), 2000 - result);
    let error = calc.make(2001 - result).await.unwrap_err();
    assert!(matches!(&error, Error::TooLarge { size: 2001, limit: 2000, .. }), "{error}");
    assert!(error.to_string().contains("Calc.make"), "{error}");
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    nothing_is_left(&client, &server).await;
}

async fn more_than_max_buffered_waits_and_arrives(fixture: Arc<Fixture>) {
    let size = 100_000;
    let server = fixture
        .server_builder()
        .with_max_message_size(size + 100)
        .with_max_buffered(2 * size)
        .build()
        .unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture
        .client_builder()
        .with_max_message_size(size + 100)
        .with_max_buffered(size + 100)
        .build()
        .unwrap();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    let calls: Vec<_> = (0..40).map(|_| tokio::spawn(calc.echo("b".repeat(100_000)))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().len(), 100_000);
    }
    nothing_is_left(&client, &server).await;
}

async fn calls_beyond_the_in_flight_limit_wait(fixture: Arc<Fixture>) {
    let server = fixture.server_builder().with_max_in_flight(3).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let calc: CalcClient = client.get_service();
    let mut calls: Vec<_> = (0..10).map(|_| Box::pin(calc.wait())).collect();
    for call in &mut calls {
        assert!(poll_once(call.as_mut()).is_pending());
    }
    let waiting = &fixture.calculator.0.waiting;
    eventually("three are waiting", || waiting.load(std::sync::atomic::Ordering::SeqCst) == 3)
        .await;
    assert_eq!(client.load().calls, 3);
    // One that waits for its turn meets its deadline all the same.
    let hurried = calc.with_timeout(Duration::from_millis(20)).add(1, 1).await.unwrap_err();
    assert!(matches!(hurried, Error::TimedOut { .. }), "{hurried}");
    fixture.calculator.0.gate.add_permits(10);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    nothing_is_left(&client, &server).await;
}

/// The client announces that it takes 1024 calls; its own may be more, and their answers too large for one frame.
async fn more_answers_at_a_time_than_a_client_takes_calls(fixture: Arc<Fixture>) {
    let server = fixture.server_builder().with_max_in_flight(2000).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let calc: CalcClient = client.get_service();
    let calls: Vec<_> = (0..1500).map(|_| tokio::spawn(calc.make(40_000))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().len(), 40_000);
    }
    nothing_is_left(&client, &server).await;
}

async fn a_ping_passes_a_busy_handler(fixture: Arc<Fixture>) {
    let (_server, client, calc) = connected(&fixture).await;
    let mut waiting = pin!(calc.wait());
    assert!(poll_once(waiting.as_mut()).is_pending());
    client.ping().await.unwrap();
    // A ping that nobody waits for does not confuse the next.
    let mut ping = pin!(client.ping());
    drop(poll_once(ping.as_mut()));
    client.ping().await.unwrap();
}

async fn a_handler_knows_its_call(fixture: Arc<Fixture>) {
    let (_server, _client, calc) = connected(&fixture).await;
    let (process, left) = calc.context().await.unwrap();
    assert!(process.is_none_or(|process| process == std::process::id()));
    assert_eq!(left, None);
    let (_, left) = calc.with_timeout(Duration::from_secs(1000)).context().await.unwrap();
    let left = left.unwrap();
    assert!((900_000..=1_000_000).contains(&left), "{left} ms left of 1000 s");
    assert!(witrpc::CallContext::try_current().is_none());
}

async fn a_panic_is_an_answer(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let error = calc.panics("on purpose".to_owned()).await.unwrap_err();
    let Error::Panicked { method, message } = &error else { panic!("{error}") };
    assert_eq!((method.as_str(), message.as_str()), ("Calc.panics", "on purpose"));
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
    nothing_is_left(&client, &server).await;
}

async fn a_fault_is_text(fixture: Arc<Fixture>) {
    let (_server, _client, calc) = connected(&fixture).await;
    let error = calc.fails("no such luck".to_owned()).await.unwrap_err();
    assert!(matches!(&error, Error::Fault { message } if message == "no such luck"), "{error}");
    assert!(matches!(calc.add(i32::MAX, 1).await, Err(Error::Fault { .. })));
}

/// Another version of `Calc`, as an older client would have it.
#[witrpc::service(name = "Calc")]
trait OldCalc {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    async fn divide(&self, dividend: i64) -> witrpc::Result<i64>;
    async fn subtract(&self, a: i32, b: i32) -> witrpc::Result<i32>;
}

/// A service that no server has.
#[witrpc::service]
trait Absent {
    async fn anything(&self) -> witrpc::Result<()>;
}

async fn a_service_that_is_lacking_is_named(fixture: Arc<Fixture>) {
    let (_server, client, calc) = connected(&fixture).await;
    let error = client.get_service::<AbsentClient>().anything().await.unwrap_err();
    assert!(matches!(&error, Error::NoSuchService { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("\"Absent\"") && text.contains("\"Calc\"") && text.contains("\"Words\""),
        "{text}"
    );
    assert!(error.is_surely_not_executed());
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
}

async fn a_method_that_differs_is_shown_with_both_signatures(fixture: Arc<Fixture>) {
    let (_server, client, _calc) = connected(&fixture).await;
    let old: OldCalcClient = client.get_service();
    let differs = old.divide(1).await.unwrap_err();
    assert!(matches!(&differs, Error::SignatureMismatch { .. }), "{differs}");
    let text = differs.to_string();
    for part in
        ["Calc", "divide", "divide(dividend: i64) -> ", "divide(dividend: i64, divisor: i64) -> "]
    {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    let missing = old.subtract(2, 1).await.unwrap_err();
    assert!(matches!(&missing, Error::NoSuchMethod { .. }), "{missing}");
    let text = missing.to_string();
    for part in ["Calc", "subtract(a: i32, b: i32) -> ", "add(a: i32, b: i32) -> "] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    // What they have in common works, and the connection goes on.
    assert_eq!(old.add(1, 1).await.unwrap(), 2);
}

async fn a_blocking_handler_runs_elsewhere(fixture: Arc<Fixture>) {
    let (_server, _client, calc) = connected(&fixture).await;
    let blocked = tokio::spawn(calc.block(100));
    let mut passed = 0;
    while !blocked.is_finished() {
        calc.unit().await.unwrap();
        passed += 1;
    }
    assert!(passed > 0);
    assert_ne!(blocked.await.unwrap().unwrap(), format!("{:?}", std::thread::current().id()));
}

async fn a_slow_handler_holds_up_nobody_once_known(fixture: Arc<Fixture>) {
    struct Slow;
    impl Words for Slow {
        async fn add(&self, _a: String, _b: String) -> witrpc::Result<String> {
            std::thread::sleep(Duration::from_millis(2));
            Ok(format!("{:?}", std::thread::current().id()))
        }
    }
    let server =
        fixture.bare_server_builder().with_service(WordsServer::new(Slow)).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client().await;
    let words: WordsClient = client.get_service();
    for _ in 0..100 {
        words.add(String::new(), String::new()).await.unwrap();
    }
    nothing_is_left(&client, &server).await;
}

async fn pending_calls_end_with_their_connection(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let waiting = tokio::spawn(calc.wait());
    eventually("the call has arrived", || server.load().iter().any(|load| load.handlers == 1))
        .await;
    drop(server);
    let lost = waiting.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
    assert!(lost.to_string().contains("may have been executed"), "{lost}");
    eventually("the client knows", || !client.is_connected()).await;
    let later = calc.add(1, 1).await.unwrap_err();
    assert!(matches!(later, Error::Closed { maybe_executed: false, .. }), "{later}");
    assert!(later.is_surely_not_executed());
    assert_eq!(client.load().queued_bytes, 0);
}

async fn a_held_call_stalls_nobody(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    // It led the receiving in its one poll, and is never polled again while others go on.
    let mut held = Box::pin(calc.wait());
    assert!(poll_once(held.as_mut()).is_pending());
    for i in 0..200 {
        assert_eq!(calc.add(i, 1).await.unwrap(), i + 1);
    }
    assert_eq!(tokio::spawn(calc.later(5, 1)).await.unwrap().unwrap(), 1);
    calc.open(1).await.unwrap();
    held.await.unwrap();
    // The same with one that is dropped.
    let mut dropped = Box::pin(calc.wait());
    assert!(poll_once(dropped.as_mut()).is_pending());
    let others: Vec<_> = (0..20).map(|i| tokio::spawn(calc.later(2, i))).collect();
    drop(dropped);
    for (i, other) in others.into_iter().enumerate() {
        assert_eq!(other.await.unwrap().unwrap(), i as u64);
    }
    nothing_is_left(&client, &server).await;
}

async fn many_held_calls_stall_nobody(fixture: Arc<Fixture>) {
    let (server, client, calc) = connected(&fixture).await;
    let mut held = Vec::new();
    for i in 0..300 {
        let mut call = Box::pin(calc.later(i % 3, i));
        // A slow machine may have the answer at once.
        match poll_once(call.as_mut()) {
            Poll::Ready(value) => assert_eq!(value.unwrap(), i),
            Poll::Pending => held.push((i, call)),
        }
    }
    let busy: Vec<_> = (0..8)
        .map(|task| {
            let calc = calc.clone();
            tokio::spawn(async move {
                for i in 0..100 {
                    assert_eq!(calc.add(task, i).await.unwrap(), task + i);
                }
            })
        })
        .collect();
    for task in busy {
        task.await.unwrap();
    }
    for (i, call) in held {
        assert_eq!(call.await.unwrap(), i);
    }
    nothing_is_left(&client, &server).await;
}

/// JSON under another name.
struct Other;

impl witrpc::Serializer for Other {
    fn name(&self) -> &'static str {
        "other-json"
    }

    fn serialize<T: serde::Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), witrpc::SerializerError> {
        serde_json::to_writer(out, value).map_err(witrpc::SerializerError::new)
    }

    fn deserialize<T: serde::de::DeserializeOwned + 'static>(
        &self,
        bytes: &[u8],
    ) -> Result<T, witrpc::SerializerError> {
        serde_json::from_slice(bytes).map_err(witrpc::SerializerError::new)
    }
}

async fn serializers_that_differ_are_named(fixture: Arc<Fixture>) {
    let server = fixture.server_builder().with_serializer(Other).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = fixture.client_builder().build().unwrap();
    let error = client.connect(GUARD).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Incompatible(_)), "{text}");
    assert!(text.contains("\"other-json\"") && text.contains(fixture.serializer.name()), "{text}");
    let same = fixture.client_builder().with_serializer(Other).build().unwrap();
    same.connect(GUARD).await.unwrap();
    assert_eq!(same.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
}

/// Builders refuse what cannot work. Not over a transport: nothing is opened.
#[test]
fn builders_name_what_is_wrong() {
    let config = |error: Error| {
        let Error::Config { setting, .. } = &error else { panic!("{error}") };
        (*setting, error.to_string())
    };
    let fixture = Fixture::memory();
    let (setting, _) = config(WitClientBuilder::new().build().unwrap_err());
    assert_eq!(setting, "with_transport");
    let calc = || CalcServer::new(Calculator::default());
    let (setting, _) = config(WitServerBuilder::new().with_service(calc()).build().unwrap_err());
    assert_eq!(setting, "with_transport");
    let (setting, _) = config(fixture.bare_server_builder().build().unwrap_err());
    assert_eq!(setting, "with_service");
    let twice = fixture.bare_server_builder().with_service(calc()).with_service(calc());
    let (setting, text) = config(twice.build().unwrap_err());
    assert_eq!(setting, "with_service");
    assert!(text.contains("Calc"), "{text}");
    let (setting, text) =
        config(fixture.server_builder().with_max_message_size(0).build().unwrap_err());
    assert_eq!(setting, "with_max_message_size");
    assert!(text.contains('0'), "{text}");
    let small = fixture.client_builder().with_max_message_size(10).with_max_buffered(9);
    let (setting, text) = config(small.build().unwrap_err());
    assert_eq!(setting, "with_max_buffered");
    assert!(text.contains('9') && text.contains("10"), "{text}");
    let (setting, _) = config(fixture.server_builder().with_max_in_flight(0).build().unwrap_err());
    assert_eq!(setting, "with_max_in_flight");
    let (setting, _) =
        config(fixture.client_builder().with_timeout(Duration::ZERO).build().unwrap_err());
    assert_eq!(setting, "with_timeout");
}
