//! Many clients on one name, and more of everything than the limits allow: who waits, who is not affected, and upper bounds for the cost.
//! The measured cost is printed to standard error; `benches/clients.rs` is the benchmark.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use witrpc::prelude::*;
use witrpc::{Error, Load, WaitStrategy};

use crate::contract::{CalcClient, Calculator};
use crate::events::TickerClient;
use crate::fixture::{
    Fixture, Flavor, GUARD, block_on, eventually, files, is_late, poll_once, private_directory,
};
use crate::peer::{Endpoint, Order, Peer, Stage};
use crate::system::anonymous_kib;

/// No call takes this long on any machine, whatever else goes on.
const HANGS: Duration = Duration::from_secs(20);
/// Clients of one process among [`PROCESSES`].
const CLIENTS: usize = 50;
const PROCESSES: usize = 4;
/// Calls that no connection takes at a time.
const FAR_TOO_MANY: u64 = 10_000;
/// The in-flight limit of a connection.
const IN_FLIGHT: u64 = 1024;
/// Large events that are raised while a client is stopped.
const SAID: u64 = 100;
/// The limit on messages where much is sent; twice as much is held for a peer.
const SMALL_LIMIT: u64 = 2 << 20;

/// For a server with many clients.
fn crowd(max_clients: u32) -> Endpoint {
    Endpoint { max_clients, size: 64 << 10, ..Endpoint::default() }
}

/// Runs a play of several processes, the server among them, in a directory of its own.
fn play(endpoint: Endpoint, play: impl AsyncFnOnce(&Path, Peer) -> Peer) {
    let directory = private_directory();
    block_on(Flavor::MultiThread, async {
        let mut server = Peer::host(directory.path(), Flavor::MultiThread);
        server.order(Order::Serve(endpoint)).await.unwrap();
        let mut server = play(directory.path(), server).await;
        until(&mut server, Order::Clients, 0).await;
        server.leaves().await;
    });
    assert_eq!(files(directory.path()), [""; 0], "left behind");
}

async fn until(server: &mut Peer, order: Order, value: u64) {
    let deadline = Instant::now() + HANGS;
    while server.order(order.clone()).await != Ok(value) {
        assert!(Instant::now() < deadline, "{order:?} is never {value}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits for a child's word.
async fn greeted(peer: &mut Peer) {
    let order = timeout(GUARD / 2, peer.receive()).await.expect("the child hangs");
    assert!(matches!(order, Some(Order::Greet)), "the child failed: {order:?}");
}

/// Carries out what a player orders at the server in its own process, until the player has gone.
async fn relay(mut player: Peer, server: &mut Peer) {
    while let Some(order) = player.receive().await {
        player.tell(&server.order(order).await);
    }
    player.leaves().await;
}

async fn connected(client: WitClient) -> (WitClient, CalcClient) {
    client.connect(GUARD / 2).await.unwrap();
    let calc = client.get_service();
    (client, calc)
}

#[test]
fn two_hundred_clients_of_four_processes_call_at_once() {
    play(crowd((PROCESSES * CLIENTS) as u32), async |directory, mut server| {
        let mut players: Vec<_> = (0..PROCESSES)
            .map(|n| if n % 2 == 0 { Flavor::MultiThread } else { Flavor::CurrentThread })
            .map(|flavor| Peer::player(directory, flavor, "calls_at_once"))
            .collect();
        for player in &mut players {
            greeted(player).await;
        }
        // A client knows that it is connected a moment before its server does.
        until(&mut server, Order::Clients, 200).await;
        let late = Endpoint::default().client(directory);
        let busy = late.connect(Duration::from_millis(100)).await.unwrap_err();
        assert!(matches!(busy, Error::Busy { max_clients: 200, .. }), "{busy}");
        players.iter_mut().for_each(Peer::answer);
        for player in &mut players {
            greeted(player).await;
        }
        until(&mut server, Order::Load, 0).await;
        players.iter_mut().for_each(Peer::answer);
        for player in players {
            player.leaves().await;
        }
        server
    });
}

/// Fifty clients come at once, and when all are there, all call at once.
pub(crate) async fn calls_at_once(mut stage: Stage) {
    let mut coming = JoinSet::new();
    for _ in 0..CLIENTS {
        coming.spawn(connected(stage.client()));
    }
    let clients = coming.join_all().await;
    stage.must(Order::Greet).await;
    let mut calling = JoinSet::new();
    for (number, (_, calc)) in (0..).zip(&clients) {
        let calc = calc.clone();
        calling.spawn(async move {
            for call in 0..50 {
                assert_eq!(calc.add(number, call).await.unwrap(), number + call);
            }
            let text = format!("{number} ").repeat(50_000);
            assert_eq!(calc.echo(text.clone()).await.unwrap(), text);
        });
    }
    calling.join_all().await;
    for (client, _) in &clients {
        assert_eq!(client.load(), Load::default());
    }
    stage.must(Order::Greet).await;
}

#[test]
fn looking_at_the_load_while_calls_come_and_go_holds_up_nobody() {
    let directory = private_directory();
    block_on(Flavor::MultiThread, async {
        let server = Endpoint::default().server(directory.path(), &Calculator::default());
        server.start_waiting_for_connection().await.unwrap();
        let (client, calc) = connected(Endpoint::default().client(directory.path())).await;
        let done = Arc::new(AtomicBool::new(false));
        let looks: [Box<dyn Fn() -> usize + Send>; 2] = [
            Box::new(move || client.load().calls),
            Box::new(move || server.load().iter().map(|load| load.handlers).sum()),
        ];
        let looking = looks.map(|look| {
            let done = Arc::clone(&done);
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert!(look() <= 64);
                }
            })
        });
        let mut tasks = JoinSet::new();
        for task in 0..64 {
            let calc = calc.clone();
            tasks.spawn(async move { worst(&calc, 50 + task).await });
        }
        timeout(HANGS, tasks.join_all()).await.expect("held up");
        done.store(true, Ordering::Relaxed);
        looking.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(files(directory.path()), [""; 0], "left behind");
}

#[test]
fn a_client_that_floods_starves_nobody() {
    play(Endpoint::default(), async |directory, mut server| {
        let (_client, calc) = connected(Endpoint::default().client(directory)).await;
        let alone = worst(&calc, 500).await;
        let mut flood = Peer::player(directory, Flavor::MultiThread, "floods");
        greeted(&mut flood).await;
        let flooded = worst(&calc, 500).await;
        eprintln!("the longest of 500 calls: {alone:?} alone, {flooded:?} beside a flood");
        flood.answer();
        flood.leaves().await;
        until(&mut server, Order::Load, 0).await;
        server
    });
}

/// Serves on a thread of its own, whose runtime has no other and where `beside` goes on as well, while this one plays the
/// client.
fn beside_a_server(
    fixture: &Fixture,
    beside: impl Future<Output = ()> + Send,
    play: impl AsyncFnOnce(),
) {
    let (ready, wait) = mpsc::channel();
    let stop = Notify::new();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            block_on(Flavor::CurrentThread, async {
                let server = fixture.server().await;
                ready.send(()).unwrap();
                tokio::select! { () = beside => {}, () = stop.notified() => {} }
                server.stop_waiting_for_connection().await;
            });
        });
        wait.recv().unwrap();
        block_on(Flavor::CurrentThread, play());
        stop.notify_one();
    });
}

/// The server's runtime has one thread, on which its connection polls, and so finds every request at once.
#[test]
fn a_client_that_never_pauses_leaves_the_servers_other_tasks_their_turn() {
    const CALLS: i32 = 20_000;
    const TURNS: u64 = 5;
    let polls = WaitStrategy::Spin(Duration::from_micros(200));
    let fixture = Fixture::mmf_with(|file| file.with_wait_strategy(polls));
    let turns = AtomicU64::new(0);
    let counting = async {
        loop {
            tokio::task::yield_now().await;
            turns.fetch_add(1, Ordering::Relaxed);
        }
    };
    beside_a_server(&fixture, counting, async || {
        let client = fixture.client().await;
        let calc = client.get_service::<CalcClient>();
        worst(&calc, 100).await;
        let before = turns.load(Ordering::Relaxed);
        let longest = worst(&calc, CALLS).await;
        let between = turns.load(Ordering::Relaxed) - before;
        eprintln!("{between} turns in {CALLS} calls, of which the longest took {longest:?}");
        assert!(between >= TURNS, "{between} turns in {CALLS} calls");
        client.disconnect().await;
    });
}

/// Whoever polls looks for room as well, on behalf of whoever has asked to be woken for it; and then somebody has to ask
/// again. Here the room is wanted while an answer is polled for that does not come.
#[test]
fn room_that_is_wanted_while_somebody_polls_is_told_of_after() {
    const POLLS: Duration = Duration::from_millis(200);
    let polls = WaitStrategy::Spin(POLLS);
    let fixture = Fixture::mmf_with(|file| file.with_wait_strategy(polls));
    let is_busy = AtomicBool::new(false);
    let busy = async {
        while !is_busy.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        // Nothing is read until after the polling.
        std::thread::sleep(3 * POLLS);
        std::future::pending().await
    };
    beside_a_server(&fixture, busy, async || {
        let client = fixture.client().await;
        let calc = client.get_service::<CalcClient>();
        // Until everything sleeps.
        tokio::time::sleep(2 * POLLS).await;
        is_busy.store(true, Ordering::SeqCst);
        let mut waiting = pin!(calc.wait());
        let other = calc.clone();
        let wants_room = tokio::task::spawn_blocking(move || {
            std::thread::sleep(POLLS / 4);
            let call = timeout(HANGS, other.len("x".repeat(4 << 20)));
            block_on(Flavor::CurrentThread, call)
        });
        assert!(poll_once(waiting.as_mut()).is_pending());
        let len = wants_room.await.unwrap().expect("nobody told of the room");
        assert_eq!(len.unwrap(), 4 << 20);
        fixture.calculator.0.gate.add_permits(1);
        waiting.await.unwrap();
        client.disconnect().await;
    });
}

/// The longest of so many calls.
async fn worst(calc: &CalcClient, calls: i32) -> Duration {
    let mut worst = Duration::ZERO;
    for call in 0..calls {
        let began = Instant::now();
        assert_eq!(timeout(HANGS, calc.add(call, 1)).await.expect("starved").unwrap(), call + 1);
        worst = worst.max(began.elapsed());
    }
    worst
}

/// Calls as fast as it can, from 64 tasks, and large ones too, until it is told to stop.
pub(crate) async fn floods(mut stage: Stage) {
    let (_client, calc) = connected(stage.client()).await;
    let mut tasks = JoinSet::new();
    for task in 0..64 {
        let calc = calc.clone();
        tasks.spawn(async move {
            for call in 0.. {
                if task % 16 == 0 {
                    assert_eq!(calc.echo("f".repeat(1 << 20)).await.unwrap().len(), 1 << 20);
                } else {
                    assert_eq!(calc.add(task, call % 1000).await.unwrap(), task + call % 1000);
                }
            }
        });
    }
    stage.must(Order::Greet).await;
    tasks.shutdown().await;
}

#[test]
#[cfg(unix)]
fn a_server_without_descriptors_says_so_and_goes_on() {
    // A connection's files are several, and any of them may be the first that cannot be made.
    for left in (0..8).chain([40]) {
        play(crowd(1000), async |directory, server| meets_its_limit(directory, server, left).await);
    }
}

#[cfg(unix)]
async fn meets_its_limit(directory: &Path, mut server: Peer, left: u64) -> Peer {
    server.order(Order::LeaveDescriptors(left)).await.unwrap();
    let mut clients = Vec::new();
    let refused = loop {
        let client = Endpoint::default().client(directory);
        match client.connect(GUARD / 4).await {
            Ok(()) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 64, "there are no limits");
    };
    let Error::Io { .. } = &refused else { panic!("{refused}") };
    let text = refused.to_string();
    assert!(text.contains("Too many open files") && text.contains("RLIMIT_NOFILE"), "{text}");
    assert!(left < 40 || clients.len() > 8, "only {} clients, then: {refused}", clients.len());
    for round in 0..3 {
        for client in &clients {
            let calc: CalcClient = client.get_service();
            assert_eq!(calc.add(round, 1).await.unwrap(), round + 1);
        }
        // Whoever comes when one has gone is let in; one more is told again.
        let Some(last) = clients.pop() else { break };
        last.disconnect().await;
        until(&mut server, Order::Clients, clients.len() as u64).await;
        let (next, _) = connected(Endpoint::default().client(directory)).await;
        clients.push(next);
        let error = Endpoint::default().client(directory).connect(GUARD / 4).await.unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    drop(clients);
    server
}

#[test]
fn more_calls_than_can_be_answered_wait_or_meet_their_deadline() {
    play(Endpoint::default(), async |directory, mut server| {
        let player = Peer::player(directory, Flavor::MultiThread, "calls_far_too_often");
        relay(player, &mut server).await;
        server
    });
}

pub(crate) async fn calls_far_too_often(mut stage: Stage) {
    let (client, calc) = connected(stage.client()).await;
    let (_other, other) = connected(stage.client()).await;
    let before = (stage.must(Order::Anonymous).await, anonymous_kib());
    let mut waiting = JoinSet::new();
    for _ in 0..FAR_TOO_MANY {
        waiting.spawn(calc.wait());
    }
    // All of them have their turn once; those that find no place wait here.
    stage.until(Order::Load, IN_FLIGHT).await;
    let hasty = calc.with_timeout(Duration::from_millis(20));
    let mut late = JoinSet::new();
    for _ in 0..FAR_TOO_MANY / 10 {
        late.spawn(hasty.wait());
    }
    while let Some(ended) = timeout(HANGS, late.join_next()).await.expect("a deadline was missed") {
        let error = ended.unwrap().unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }
    let during = (stage.must(Order::Anonymous).await, anonymous_kib());
    eprintln!(
        "KiB of server and client: {before:?}, with {FAR_TOO_MANY} calls waiting: {during:?}"
    );
    assert!(during.0 < before.0 + (16 << 10) && during.1 < before.1 + (64 << 10));
    assert_eq!(stage.must(Order::Load).await, IN_FLIGHT);
    // As many may pass as called: were one executed twice, another would wait for ever.
    other.open(FAR_TOO_MANY as usize).await.unwrap();
    while let Some(ended) = timeout(HANGS, waiting.join_next()).await.expect("a call was lost") {
        ended.unwrap().unwrap();
    }
    let one_more = calc.with_timeout(Duration::from_millis(20)).wait().await;
    assert!(is_late(&one_more.unwrap_err()), "a call was not executed");
    stage.nothing_is_left(&client).await;
}

#[test]
fn more_bytes_than_can_be_held_wait() {
    let endpoint = Endpoint { max_message_size: SMALL_LIMIT, ..Endpoint::default() };
    play(endpoint, async |directory, mut server| {
        let player = Peer::player(directory, Flavor::MultiThread, "sends_far_too_much");
        relay(player, &mut server).await;
        server
    });
}

pub(crate) async fn sends_far_too_much(mut stage: Stage) {
    // What a client is ready to hold is no bound on what a server holds for it.
    let (client, calc) = connected(stage.client()).await;
    let before = stage.must(Order::Anonymous).await;
    let own = anonymous_kib();
    let mut calls = JoinSet::new();
    for n in 0..100_usize {
        let (echo, make, len) = (calc.clone(), calc.clone(), (1 << 20) + n);
        calls.spawn(async move {
            assert_eq!(echo.echo("e".repeat(len)).await.unwrap().len(), len);
        });
        calls.spawn(async move { assert_eq!(make.make(len).await.unwrap().len(), len) });
    }
    let (mut most, mut most_own) = (before, own);
    while let Some(ended) = timeout(HANGS, calls.join_next()).await.expect("a call was lost") {
        ended.unwrap();
        most = most.max(stage.must(Order::Anonymous).await);
        most_own = most_own.max(anonymous_kib());
    }
    eprintln!(
        "KiB of the server: {before}, at most {most}; of the client: {own}, at most {most_own}"
    );
    // What it holds for its peer, in both directions, what handlers make of that, and some room for the allocator.
    assert!(most < before + (48 << 10), "the server held {most} KiB");
    // The client's callers hold their texts themselves, twice.
    assert!(most_own < own + (300 << 10), "the client held {most_own} KiB");
    stage.nothing_is_left(&client).await;
}

#[test]
fn a_client_that_is_stopped_is_noticed_by_nobody() {
    let endpoint = Endpoint { max_message_size: SMALL_LIMIT, ..Endpoint::default() };
    play(endpoint, async |directory, mut server| {
        let mut stopped = Peer::player(directory, Flavor::MultiThread, "is_stopped");
        greeted(&mut stopped).await;
        stopped.answer();
        let (client, calc) = connected(Endpoint::default().client(directory)).await;
        let ticker: TickerClient = client.get_service();
        let mut ticks = ticker.ticked().subscribe();
        let before = worst(&calc, 500).await;
        let held = server.order(Order::Anonymous).await.unwrap();
        stopped.stop().await;
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            // Far more than is ever under way or kept, in sum.
            timeout(HANGS, ticker.tick(500)).await.expect("held up by a stopped client").unwrap();
            for expected in 0..500 {
                assert_eq!(timeout(HANGS, ticks.next()).await, Ok(Some(Ok(expected))));
            }
            longest = longest.max(worst(&calc, 25).await);
        }
        // As many bytes as its subscriptions have windows for are far more than the server is to hold.
        timeout(HANGS, ticker.say(SAID, 256 << 10)).await.expect("held up").unwrap();
        longest = longest.max(worst(&calc, 25).await);
        let grown = server.order(Order::Anonymous).await.unwrap().saturating_sub(held);
        eprintln!(
            "the longest of some calls: {before:?} before, {longest:?} beside a stopped client, which cost {grown} KiB"
        );
        assert!(grown < 24 << 10, "the server holds {grown} KiB for a stopped client");
        stopped.go_on();
        greeted(&mut stopped).await;
        stopped.answer();
        stopped.leaves().await;
        drop((client, ticks));
        server
    });
}

/// Has subscribed, and asks for more than it reads, when it is stopped; later it takes up where it was.
pub(crate) async fn is_stopped(mut stage: Stage) {
    let (client, calc) = connected(stage.client()).await;
    let ticker: TickerClient = client.get_service();
    let mut ticks = ticker.ticked().subscribe();
    let mut said: Vec<_> = (0..16).map(|_| ticker.said().subscribe()).collect();
    calc.unit().await.unwrap();
    stage.must(Order::Greet).await;
    let mut asking = JoinSet::new();
    let mut lost = 0;
    // Until it has noticed that it was stopped.
    while lost == 0 {
        for _ in 0..20 {
            let calc = calc.clone();
            asking
                .spawn(async move { assert_eq!(calc.make(1 << 20).await.unwrap().len(), 1 << 20) });
        }
        while let Some(ended) = asking.join_next().await {
            ended.unwrap();
        }
        while let Ok(Some(next)) = timeout(Duration::from_millis(1), ticks.next()).await {
            match next {
                Ok(_) => {}
                Err(EventError::Lagged(n)) => lost += n,
                Err(error) => panic!("{error}"),
            }
        }
    }
    eprintln!("a stopped client has lost {lost} of 20000 events");
    // What there was room for has come, and each subscription is told what has not.
    for said in &mut said {
        let mut told = 0;
        while told < SAID {
            told += match said.next().await.unwrap() {
                Ok(text) => {
                    assert!(text.starts_with(&format!("{told} ")), "out of order");
                    1
                }
                Err(EventError::Lagged(lost)) => lost,
                Err(error) => panic!("{error}"),
            };
        }
    }
    drop((ticks, said));
    eventually("nothing is held", || client.load() == Load::default()).await;
    stage.must(Order::Greet).await;
}
