//! Two real processes over the public API. Every scenario runs with the server in the child and with the client in the child, on both
//! runtimes. Also: what happens to one process when the other is killed.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use witrpc::prelude::*;
use witrpc::{CloseReason, Error};
use witrpc_core::fail_point;

use crate::contract::{CalcClient, CalcServer, Calculator, WordsClient};
use crate::fixture::{
    Flavor, GUARD, alone, block_on, eventually, files, poll_once, private_directory,
};
use crate::peer::{Endpoint, Order, Peer, Scenario, Stage};
use crate::system::{lasting_files, listening};

/// Long enough for a client to be told to wait, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(150);

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        scenarios!(@instance server_in_child, ServerInChild, MultiThread, $($name),*);
        scenarios!(@instance server_in_child_current_thread, ServerInChild, CurrentThread, $($name),*);
        scenarios!(@instance client_in_child, ClientInChild, MultiThread, $($name),*);
        scenarios!(@instance client_in_child_current_thread, ClientInChild, CurrentThread, $($name),*);

        /// The scenario of this name; a child finds its part so.
        pub(crate) fn scenario(name: &str) -> Scenario {
            match name {
                $(stringify!($name) => |stage| Box::pin($name(stage)),)*
                "holds_its_place" => |stage| Box::pin(holds_its_place(stage)),
                "calls_at_once" => |stage| Box::pin(crate::load::calls_at_once(stage)),
                "floods" => |stage| Box::pin(crate::load::floods(stage)),
                "calls_far_too_often" => |stage| Box::pin(crate::load::calls_far_too_often(stage)),
                "sends_far_too_much" => |stage| Box::pin(crate::load::sends_far_too_much(stage)),
                "is_stopped" => |stage| Box::pin(crate::load::is_stopped(stage)),
                "soak_server" => |stage| Box::pin(crate::soak::serve(stage)),
                "soak_worker" => |stage| Box::pin(crate::soak::work(stage)),
                "grinds" => |stage| Box::pin(crate::overload::serve(stage)),
                "is_stopped_and_goes_on" => |stage| Box::pin(is_stopped(stage)),
                #[cfg(target_os = "linux")]
                "is_idle" => |stage| Box::pin(crate::idle::is_idle(stage)),
                _ => panic!("there is no scenario {name}"),
            }
        }
    };
    (@instance $module:ident, $cast:ident, $flavor:ident, $($name:ident),*) => {
        mod $module {
            $(#[test]
            fn $name() {
                use crate::fixture::Flavor;
                use crate::peer::{Cast, play};
                let name = stringify!($name);
                play(Cast::$cast, Flavor::$flavor, name, super::scenario(name));
            })*
        }
    };
}

scenarios![
    a_client_comes_and_goes_and_comes_again,
    reconnect_gives_a_fresh_connection,
    a_stopped_server_lets_nobody_in_and_its_clients_go_on,
    a_taken_place_is_given_on,
    places_are_given_in_the_order_of_asking,
    three_are_let_in_and_a_fourth_is_not,
    a_dropped_server_makes_room_for_another,
    a_second_server_of_a_name_is_refused,
    a_client_waits_for_its_server,
    without_a_server_the_client_gives_up,
    one_process_has_several_endpoints,
    two_services_may_have_a_method_of_one_name,
    ten_thousand_calls_from_64_tasks_find_their_answers,
    fifty_megabytes_cross_the_smallest_region_and_small_calls_pass_them,
    a_thousand_dropped_calls_leave_nothing,
    a_process_that_leaves_with_calls_pending_leaves_no_files,
];

async fn sums_up(calc: &CalcClient) {
    assert_eq!(calc.add(1, 1).await.unwrap(), 2);
}

async fn a_client_comes_and_goes_and_comes_again(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    for _ in 0..5 {
        assert!(client.is_connected());
        sums_up(&calc).await;
        let (process, _) = calc.context().await.unwrap();
        assert_eq!(process, Some(std::process::id()), "as the server sees it");
        assert_eq!(stage.must(Order::Clients).await, 1);
        client.disconnect().await;
        let gone = calc.add(1, 1).await.unwrap_err();
        assert!(matches!(gone, Error::NotConnected { .. }), "{gone}");
        stage.until(Order::Clients, 0).await;
        assert_eq!(lasting_files(&stage.directory), listening("test"));
        client.connect(GUARD).await.unwrap();
    }
    sums_up(&calc).await;
}

async fn reconnect_gives_a_fresh_connection(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    let waiting = tokio::spawn(calc.wait());
    stage.until(Order::Load, 1).await;
    client.reconnect(GUARD).await.unwrap();
    let lost = waiting.await.unwrap().unwrap_err();
    let local = CloseReason::Local;
    assert!(
        matches!(&lost, Error::Closed { reason, maybe_executed: true } if *reason == local),
        "{lost}"
    );
    sums_up(&calc).await;
    stage.until(Order::Clients, 1).await;
    stage.nothing_is_left(&client).await;
    while calc.waiting().await.unwrap() > 0 {}
}

async fn a_stopped_server_lets_nobody_in_and_its_clients_go_on(mut stage: Stage) {
    let (_client, calc) = stage.connected(Endpoint::default()).await;
    let late = stage.client();
    for _ in 0..3 {
        stage.must(Order::Stop).await;
        assert_eq!(lasting_files(&stage.directory), [""; 0], "a connection has no files");
        let error = late.connect(SHORT).await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }), "{error}");
        sums_up(&calc).await;
        stage.must(Order::Start).await;
        late.connect(GUARD).await.unwrap();
        sums_up(&late.get_service()).await;
        sums_up(&calc).await;
        late.disconnect().await;
    }
}

async fn a_taken_place_is_given_on(mut stage: Stage) {
    let endpoint = Endpoint { max_clients: 1, ..Endpoint::default() };
    let (first, calc) = stage.connected(endpoint).await;
    let second = stage.client();
    let error = second.connect(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::Busy { max_clients: 1, .. }), "{error}");
    sums_up(&calc).await;
    let mut connecting = Box::pin(second.connect(GUARD));
    assert!(poll_once(connecting.as_mut()).is_pending(), "there is no place");
    first.disconnect().await;
    connecting.await.unwrap();
    sums_up(&second.get_service()).await;
    assert_eq!(stage.must(Order::Clients).await, 1);
}

thread_local! {
    /// Clients of this thread that have their place in the server's queue.
    static QUEUED: Cell<u64> = const { Cell::new(0) };
}

async fn places_are_given_in_the_order_of_asking(mut stage: Stage) {
    const WAITING: usize = 6;
    // On Unix one pipe holds all asks in their order. On Windows each has its own, and the server may hear them in another
    // order than they were sent in: it has heard whom it tells to wait.
    const IS_QUEUED: &str = if cfg!(windows) { "caller.waits" } else { "caller.asked" };
    fail_point::install(|step| {
        if step == IS_QUEUED {
            QUEUED.set(QUEUED.get() + 1);
        }
    });
    let endpoint = Endpoint { max_clients: 1, ..Endpoint::default() };
    let (first, _calc) = stage.connected(endpoint).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..WAITING {
        let (client, order) = (stage.client(), Arc::clone(&order));
        let connecting = {
            let client = client.clone();
            async move { client.connect(GUARD).await }
        };
        let mut connecting = Box::pin(connecting);
        // On Unix one poll puts its ask into the server's pipe, behind those before it.
        let joins = || {
            let before = QUEUED.get();
            assert!(poll_once(connecting.as_mut()).is_pending(), "there is no place");
            QUEUED.get() > before
        };
        eventually("it joins the queue", joins).await;
        tasks.push(tokio::spawn(async move {
            connecting.await.unwrap();
            order.lock().unwrap().push(number);
            sums_up(&client.get_service()).await;
            client.disconnect().await;
        }));
    }
    first.disconnect().await;
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), Vec::from_iter(0..WAITING));
}

async fn three_are_let_in_and_a_fourth_is_not(mut stage: Stage) {
    stage.must(Order::Serve(Endpoint { max_clients: 3, ..Endpoint::default() })).await;
    let clients = [(); 3].map(|()| stage.client());
    for client in &clients {
        client.connect(GUARD).await.unwrap();
    }
    let fourth = stage.client();
    let error = fourth.connect(SHORT).await.unwrap_err();
    assert!(matches!(error, Error::Busy { max_clients: 3, .. }), "{error}");
    for client in &clients {
        sums_up(&client.get_service()).await;
    }
    assert_eq!(stage.must(Order::Clients).await, 3);
    clients[1].disconnect().await;
    fourth.connect(GUARD).await.unwrap();
    sums_up(&fourth.get_service()).await;
    sums_up(&clients[0].get_service()).await;
}

async fn a_dropped_server_makes_room_for_another(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    for _ in 0..3 {
        let waiting = tokio::spawn(calc.wait());
        stage.until(Order::Load, 1).await;
        stage.must(Order::Drop).await;
        let lost = waiting.await.unwrap().unwrap_err();
        assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
        stage.must(Order::Serve(Endpoint::default())).await;
        client.reconnect(GUARD).await.unwrap();
        sums_up(&calc).await;
    }
}

async fn a_second_server_of_a_name_is_refused(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    let second = Endpoint::default().server(&stage.directory, &Calculator::default());
    for _ in 0..2 {
        let error = second.start_waiting_for_connection().await.unwrap_err();
        let Error::NameInUse { endpoint, place, .. } = &error else { panic!("{error}") };
        assert_eq!(endpoint, "test");
        assert_eq!(place, &stage.directory.display().to_string());
        sums_up(&calc).await;
        client.reconnect(GUARD).await.unwrap();
        sums_up(&calc).await;
    }
    assert_eq!(stage.must(Order::Clients).await, 1);
    // Once the name is free, the one that was refused can have it.
    stage.must(Order::Drop).await;
    second.start_waiting_for_connection().await.unwrap();
    client.reconnect(GUARD).await.unwrap();
    sums_up(&calc).await;
    assert!(stage.order(Order::Serve(Endpoint::default())).await.is_err(), "the name is taken");
}

async fn a_client_waits_for_its_server(mut stage: Stage) {
    let client = stage.client();
    let mut connecting = Box::pin(client.connect(GUARD));
    assert!(poll_once(connecting.as_mut()).is_pending());
    stage.must(Order::Greet).await;
    assert!(poll_once(connecting.as_mut()).is_pending());
    stage.must(Order::Serve(Endpoint::default())).await;
    connecting.await.unwrap();
    sums_up(&client.get_service()).await;
}

async fn without_a_server_the_client_gives_up(mut stage: Stage) {
    let client = stage.client();
    stage.must(Order::Greet).await;
    let error = client.connect(SHORT).await.unwrap_err();
    let Error::NotRunning { endpoint, waited, .. } = error else { panic!("{error}") };
    assert_eq!(endpoint, "test");
    assert!(waited >= SHORT, "gave up after {waited:?}");
}

async fn one_process_has_several_endpoints(mut stage: Stage) {
    let endpoints = ["alpha", "beta", "gamma.3"].map(|name| {
        let name = name.to_owned();
        Endpoint { name, max_clients: 1, ..Endpoint::default() }
    });
    for endpoint in &endpoints {
        stage.must(Order::Serve(endpoint.clone())).await;
    }
    let clients = endpoints.map(|endpoint| endpoint.client(&stage.directory));
    for client in &clients {
        client.connect(GUARD).await.unwrap();
    }
    let calcs = clients.each_ref().map(|client| client.get_service::<CalcClient>());
    for (at, calc) in calcs.iter().enumerate() {
        let waiting = tokio::spawn(calc.wait());
        while calc.waiting().await.unwrap() == 0 {}
        for (other, calc) in calcs.iter().enumerate().filter(|(other, _)| *other != at) {
            assert_eq!(calc.waiting().await.unwrap(), 0, "{other} is not {at}");
        }
        calc.open(1).await.unwrap();
        waiting.await.unwrap().unwrap();
    }
}

async fn two_services_may_have_a_method_of_one_name(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    let words: WordsClient = client.get_service();
    for i in 0..100 {
        let sum = tokio::spawn(calc.add(i, 1));
        assert_eq!(words.add(i.to_string(), "1".into()).await.unwrap(), format!("{i}1"));
        assert_eq!(sum.await.unwrap().unwrap(), i + 1);
    }
}

async fn ten_thousand_calls_from_64_tasks_find_their_answers(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
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
    stage.nothing_is_left(&client).await;
}

async fn fifty_megabytes_cross_the_smallest_region_and_small_calls_pass_them(mut stage: Stage) {
    let endpoint = Endpoint { size: 12_288, ..Endpoint::default() };
    let (client, calc) = stage.connected(endpoint).await;
    let large = "x".repeat(50 << 20);
    let len = large.len();
    let crossing = tokio::spawn(calc.echo(large));
    let mut passed = 0;
    while !crossing.is_finished() {
        assert_eq!(calc.add(passed, 1).await.unwrap(), passed + 1);
        passed += 1;
    }
    assert!(passed > 100, "only {passed} small calls passed the large one");
    let back = crossing.await.unwrap().unwrap();
    assert!(back.len() == len && back.bytes().all(|byte| byte == b'x'));
    stage.nothing_is_left(&client).await;
}

async fn a_thousand_dropped_calls_leave_nothing(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    for round in 0..10 {
        let mut calls: Vec<_> = (0..100).map(|_| Box::pin(calc.wait())).collect();
        for call in &mut calls {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        if round % 2 == 0 {
            while calc.waiting().await.unwrap() < 100 {}
        }
        drop(calls);
        sums_up(&calc).await;
    }
    stage.nothing_is_left(&client).await;
    // A handler that was cancelled is dropped by its runtime, a moment later.
    while calc.waiting().await.unwrap() > 0 {
        tokio::task::yield_now().await;
    }
}

/// Whichever process has the client ends here, and ends in good order.
async fn a_process_that_leaves_with_calls_pending_leaves_no_files(mut stage: Stage) {
    let (client, calc) = stage.connected(Endpoint::default()).await;
    let mut waiting = Box::pin(calc.wait());
    let mut sending = Box::pin(calc.len("y".repeat(10 << 20)));
    assert!(poll_once(waiting.as_mut()).is_pending());
    // One step is bounded, but nothing says that it is short: it may even see the answer.
    drop(poll_once(sending.as_mut()));
    while calc.waiting().await.unwrap() == 0 {}
    let late = stage.client();
    let mut connecting = Box::pin(late.connect(GUARD));
    drop(poll_once(connecting.as_mut()));
    // Nothing is waited for, nothing is taken down: the runtime ends, with all of this in it.
    drop(connecting);
    std::mem::forget((client, waiting, sending));
}

/// Connects, has a call under way, says so, and never ends.
async fn holds_its_place(mut stage: Stage) {
    let client = stage.client();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    let mut waiting = Box::pin(calc.wait());
    let mut sending = Box::pin(calc.len("y".repeat(10 << 20)));
    assert!(poll_once(waiting.as_mut()).is_pending());
    // One step is bounded, but nothing says that it is short: it may even see the answer.
    drop(poll_once(sending.as_mut()));
    while calc.waiting().await.unwrap() == 0 {}
    stage.must(Order::Greet).await;
    unreachable!("killed while it waited for the answer");
}

#[test]
fn a_killed_server_fails_pending_calls_and_its_client_finds_the_next() {
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        let directory = private_directory();
        block_on(flavor, survives_its_servers(directory.path(), flavor));
        assert_eq!(files(directory.path()), [""; 0], "left behind");
    }
}

async fn survives_its_servers(directory: &std::path::Path, flavor: Flavor) {
    let client = Endpoint::default().client(directory);
    let calc: CalcClient = client.get_service();
    for round in 0..3 {
        let mut peer = Peer::host(directory, flavor);
        peer.order(Order::Serve(Endpoint::default())).await.unwrap();
        client.reconnect(GUARD).await.unwrap();
        sums_up(&calc).await;
        let calls: Vec<_> = (0..10).map(|_| tokio::spawn(calc.wait())).collect();
        while calc.waiting().await.unwrap() < 10 {}
        let large = tokio::spawn(calc.echo("z".repeat(20 << 20)));
        peer.kill();
        for call in calls {
            let lost = call.await.unwrap().unwrap_err();
            assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{round}: {lost}");
        }
        let lost = large.await.unwrap().unwrap_err();
        assert!(matches!(lost, Error::Closed { .. }), "{lost}");
        eventually("the client knows", || !client.is_connected()).await;
        let later = calc.add(1, 1).await.unwrap_err();
        assert!(later.is_surely_not_executed(), "{later}");
        let alone = Endpoint::default().client(directory).connect(SHORT).await.unwrap_err();
        assert!(matches!(alone, Error::NotRunning { .. }), "{alone}");
    }
    // A server that leaves in good order takes what the killed ones left.
    let mut last = Peer::host(directory, flavor);
    last.order(Order::Serve(Endpoint::default())).await.unwrap();
    client.reconnect(GUARD).await.unwrap();
    sums_up(&calc).await;
    last.leaves().await;
}

#[test]
fn a_killed_client_frees_its_place_and_the_next_takes_it() {
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        let directory = private_directory();
        block_on(flavor, survives_its_clients(directory.path(), flavor));
        assert_eq!(files(directory.path()), [""; 0], "left behind");
    }
}

async fn survives_its_clients(directory: &std::path::Path, flavor: Flavor) {
    let calculator = Calculator::default();
    let endpoint = Endpoint { max_clients: 1, ..Endpoint::default() };
    let server = endpoint.server(directory, &calculator);
    server.start_waiting_for_connection().await.unwrap();
    for _ in 0..3 {
        let mut peer = Peer::player(directory, flavor, "holds_its_place");
        assert!(matches!(peer.receive().await, Some(Order::Greet)), "the child failed");
        assert_eq!(server.client_count(), 1);
        assert_eq!(calculator.0.waiting.load(Ordering::SeqCst), 1);
        let next = endpoint.client(directory);
        let busy = next.connect(SHORT).await.unwrap_err();
        assert!(matches!(busy, Error::Busy { max_clients: 1, .. }), "{busy}");
        let mut connecting = Box::pin(next.connect(GUARD));
        assert!(poll_once(connecting.as_mut()).is_pending());
        peer.kill();
        connecting.await.unwrap();
        sums_up(&next.get_service()).await;
        let waiting = &calculator.0.waiting;
        eventually("its handler is gone", || waiting.load(Ordering::SeqCst) == 0).await;
        assert_eq!(server.client_count(), 1);
        next.disconnect().await;
        eventually("the place is free", || server.client_count() == 0).await;
    }
    assert_eq!(files(directory), listening("test"));
}

#[test]
fn calls_to_a_stopped_server_wait_or_meet_their_deadline_and_go_on() {
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        let directory = private_directory();
        block_on(flavor, outlasts_a_pause(directory.path(), flavor));
        assert_eq!(files(directory.path()), [""; 0], "left behind");
    }
}

async fn outlasts_a_pause(directory: &std::path::Path, flavor: Flavor) {
    let mut peer = Peer::host(directory, flavor);
    peer.order(Order::Serve(Endpoint::default())).await.unwrap();
    let client = Endpoint::default().client(directory);
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    for _ in 0..3 {
        sums_up(&calc).await;
        peer.stop().await;
        let calls: Vec<_> = (0..10).map(|i| tokio::spawn(calc.add(i, i))).collect();
        let large = tokio::spawn(calc.len("s".repeat(5 << 20)));
        let late = calc.with_timeout(SHORT).add(1, 1).await.unwrap_err();
        assert!(matches!(late, Error::TimedOut { .. }), "{late}");
        assert!(calls.iter().all(|call| !call.is_finished()));
        assert!(!large.is_finished() && client.is_connected(), "stopped is not dead");
        for patience in [SHORT, Duration::ZERO] {
            let other = Endpoint::default().client(directory);
            let error = other.connect(patience).await.unwrap_err();
            let Error::NotResponding { process_id, .. } = error else { panic!("{error}") };
            assert_eq!(process_id, Some(peer.id()));
        }
        peer.go_on();
        for (i, call) in (0..).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap(), 2 * i);
        }
        assert_eq!(large.await.unwrap().unwrap(), 5 << 20);
    }
    eventually("the client holds nothing", || client.load() == witrpc::Load::default()).await;
    client.disconnect().await;
    peer.leaves().await;
}

#[test]
fn a_stopped_client_holds_up_nobody_and_goes_on() {
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        let directory = private_directory();
        block_on(flavor, outlasts_its_clients_pause(directory.path(), flavor));
        assert_eq!(files(directory.path()), [""; 0], "left behind");
    }
}

async fn outlasts_its_clients_pause(directory: &std::path::Path, flavor: Flavor) {
    let calculator = Calculator::default();
    let endpoint = Endpoint { max_clients: 2, ..Endpoint::default() };
    let server = endpoint.server(directory, &calculator);
    server.start_waiting_for_connection().await.unwrap();
    let mut peer = Peer::player(directory, flavor, "is_stopped_and_goes_on");
    for _ in 0..3 {
        assert!(matches!(peer.receive().await, Some(Order::Greet)), "the child failed");
        peer.answer();
        let waiting = &calculator.0.waiting;
        eventually("it waits", || waiting.load(Ordering::SeqCst) == 1).await;
        peer.stop().await;
        // Its answer is sent, and nobody takes it.
        calculator.0.gate.add_permits(1);
        eventually("it is answered", || waiting.load(Ordering::SeqCst) == 0).await;
        let other = endpoint.client(directory);
        other.connect(GUARD).await.unwrap();
        let calc: CalcClient = other.get_service();
        assert_eq!(calc.len("s".repeat(5 << 20)).await.unwrap(), 5 << 20);
        assert_eq!(server.client_count(), 2, "stopped is not dead");
        other.disconnect().await;
        peer.go_on();
    }
    peer.leaves().await;
    eventually("both have gone", || server.client_count() == 0).await;
    server.shutdown(GUARD).await;
}

/// A client that waits for an answer and sends much meanwhile, and does not know that it is stopped.
async fn is_stopped(mut stage: Stage) {
    let client = stage.client();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    for _ in 0..3 {
        stage.must(Order::Greet).await;
        let (waited, len) = tokio::join!(calc.wait(), calc.len("y".repeat(5 << 20)));
        waited.unwrap();
        assert_eq!(len.unwrap(), 5 << 20);
    }
    client.disconnect().await;
}

#[test]
fn a_server_and_a_client_stay_in_the_directory_that_their_builders_got() {
    if !alone() {
        return;
    }
    let (base, own) = (private_directory(), private_directory());
    std::env::set_current_dir(own.path()).unwrap();
    let file = MemoryMappedFile::new("test").with_directory("rel");
    // What counts is where the builders get it.
    std::env::set_current_dir(base.path()).unwrap();
    block_on(Flavor::CurrentThread, async {
        let builder = WitServerBuilder::new().with_service(CalcServer::new(Calculator::default()));
        let server = builder.with_memory_mapped_file(file.clone()).build().unwrap();
        let client = WitClientBuilder::new().with_memory_mapped_file(file).build().unwrap();
        std::env::set_current_dir(own.path()).unwrap();
        for _ in 0..2 {
            server.start_waiting_for_connection().await.unwrap();
            client.reconnect(GUARD).await.unwrap();
            sums_up(&client.get_service()).await;
            assert_eq!(lasting_files(&base.path().join("rel")), listening("test"));
            server.stop_waiting_for_connection().await;
        }
        client.disconnect().await;
        server.shutdown(Duration::ZERO).await;
    });
    assert_eq!(files(&base.path().join("rel")), [""; 0]);
    assert_eq!(files(own.path()), [""; 0]);
    std::env::set_current_dir("/").unwrap();
}
