//! Peers that write whole frames, and break the rules of the wire, or keep to them and take all that they can get: with streams, with
//! subscriptions, and one that hangs up and goes on writing. Beside them, ordinary clients call, subscribe and stream, and are served
//! all the time. The server, in a process of its own, neither panics nor hangs, and its memory does not grow.
//!
//! It runs as long as the tests beside it, and is drawn from the seed.

#![expect(clippy::print_stdout, reason = "the record of a long run")]

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::timeout;
use witrpc::prelude::*;
use witrpc::{Load, MmfClientTransport};

use super::{MAX_MESSAGE, Random, SLACK, Work, doorbell, honest, memory_of, setting};
use super::{streams, subscriptions};
use crate::contract::CalcClient;
use crate::events::TickerClient;
use crate::fixture::{Flavor, GUARD, eventually, private_directory};
use crate::peer::{Endpoint, Order, Peer};
use crate::raw::Raw;
use crate::spy::{Found, Spy};
use crate::streams::LogClient;

/// What a peer does on one connection of its own. It may go on for ever: it is told to leave, or is let go.
type Attack = for<'a> fn(&'a mut Visit) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// All that attack, by their names.
const PEERS: [(&str, Attack); 13] = [
    ("streams that it does not read", |visit| Box::pin(streams::does_not_read(visit))),
    ("streams that it gives no credit", |visit| Box::pin(streams::gives_no_credit(visit))),
    ("more credit than a window", |visit| Box::pin(streams::gives_too_much_credit(visit))),
    ("streams that it does not end", |visit| Box::pin(streams::does_not_end(visit))),
    ("streams that it fills", |visit| Box::pin(streams::fills_windows(visit))),
    ("items without credit", |visit| Box::pin(streams::writes_without_credit(visit))),
    ("items of unknown streams", |visit| Box::pin(streams::writes_to_unknown(visit))),
    ("one id for two streams", |visit| Box::pin(streams::repeats_ids(visit))),
    ("subscriptions that it does not read", |visit| Box::pin(subscriptions::does_not_read(visit))),
    ("subscribing anew at speed", |visit| Box::pin(subscriptions::comes_and_goes(visit))),
    ("values that it does not acknowledge", |visit| {
        Box::pin(subscriptions::does_not_acknowledge(visit))
    }),
    ("more acknowledgements than values", |visit| {
        Box::pin(subscriptions::acknowledges_too_much(visit))
    }),
    ("hanging up and going on", |visit| Box::pin(doorbell::hangs_up_and_goes_on(visit))),
];

/// How long a peer may go on.
pub(super) const ROUND: Duration = Duration::from_millis(60);
/// Peers at a time.
const ATTACKERS: u64 = 3;
/// The most streams that one of them opens on a connection. There may be sixteen times as many.
pub(super) const MOST_STREAMS: usize = 4096;
/// What a stream costs a server at most, whoever writes it: entries in tables, and a task.
const PER_STREAM: u64 = 2 << 10;
/// The most subscriptions that a server takes on a connection, and what each costs beside its values.
const MOST_SUBSCRIPTIONS: u64 = 4096;
const PER_SUBSCRIPTION: u64 = 1 << 10;
/// `max_buffered`.
const BUFFERED: u64 = 2 * MAX_MESSAGE;
/// What one attacker can make the server hold. Each kind of thing is on an account of its own, as `fuzz_support::session::bounds` of
/// `witrpc-core` has them: received messages, items that are read, items that are written, what else is queued, and backlogs, each of
/// `BUFFERED` or half of that, and in memory at most twice that, as buffers grow by doubling; and the tables. An attacker's next
/// connection may begin before its last has been taken down.
const PER_ATTACKER: u64 = 2
    * (2 * (5 * BUFFERED)
        + MOST_STREAMS as u64 * PER_STREAM
        + MOST_SUBSCRIPTIONS * PER_SUBSCRIPTION);

/// An attacker's connection.
pub(super) struct Visit {
    pub(super) raw: Raw,
    pub(super) random: Random,
    /// Where its region is.
    pub(super) found: Found,
    /// Set when nobody is to write into a region any more.
    pub(super) over: Arc<AtomicBool>,
}

/// What all attackers have in common.
#[derive(Debug, Default)]
struct Book {
    over: AtomicBool,
    /// One connects at a time: its region is the one that appears meanwhile.
    connecting: tokio::sync::Mutex<()>,
    /// How often each of [`PEERS`] came.
    rounds: [AtomicU64; PEERS.len()],
}

/// Attacks until it is told to end.
async fn attacker(directory: PathBuf, seed: u64, book: Arc<Book>, over: Arc<AtomicBool>) {
    let file = MemoryMappedFile::new("test").with_directory(&directory);
    let mut random = Random(seed);
    // Each of them once, wherever it begins.
    let mut which = random.below(PEERS.len() as u64) as usize;
    while !book.over.load(Ordering::Relaxed) {
        let transport = Box::new(MmfClientTransport::new(file.clone()));
        let (spy, found) = Spy::new(transport, Some(directory.clone()));
        let opened = async {
            let _turn = book.connecting.lock().await;
            Raw::open_client_over(&spy).await
        };
        let raw = timeout(GUARD / 2, opened).await.expect("who comes gets in");
        let random = Random(random.next());
        let mut visit = Visit { raw, random, found, over: Arc::clone(&over) };
        drop(timeout(ROUND, PEERS[which].1(&mut visit)).await);
        book.rounds[which].fetch_add(1, Ordering::Relaxed);
        which = (which + 1) % PEERS.len();
    }
}

/// A client that subscribes and streams, one thing after the other; each value is checked.
async fn listener(client: WitClient, work: Arc<Work>) {
    let (ticker, log) = (client.get_service::<TickerClient>(), client.get_service::<LogClient>());
    let mut ticks = ticker.ticked().subscribe();
    while !work.over.load(Ordering::Relaxed) {
        let round = async {
            // For others, too, who may not take them.
            ticker.say(2, 10_000).await.unwrap();
            assert_eq!(ticker.tick(20).await.unwrap(), 20);
            for tick in 0..20 {
                assert_eq!(ticks.next().await, Some(Ok(tick)));
            }
            let mut numbers = log.endless(16).await.unwrap();
            for number in 0..100 {
                assert_eq!(numbers.next().await.unwrap().unwrap(), number);
            }
            assert_eq!(log.upload(Streaming::iter(0..100)).await.unwrap(), 4950);
        };
        timeout(GUARD / 2, round).await.expect("the server hangs");
        work.calls.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn peers_with_streams_and_subscriptions_end_their_own_connections_and_nothing_else() {
    let seconds = setting("WITRPC_HOSTILE_SECS", 3);
    let seed = setting("WITRPC_HOSTILE_SEED", 0x5EED);
    println!("hostile: peers: seed {seed}, {seconds} s");
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        // Not guarded by a time limit as a whole: every step is.
        let runtime = crate::fixture::runtime(Flavor::MultiThread);
        runtime.block_on(attacked(flavor, seed, Duration::from_secs(seconds) / 2));
    }
}

/// Ordinary clients of the server.
struct Clients {
    clients: Vec<WitClient>,
    works: [Arc<Work>; 2],
    tasks: [JoinHandle<()>; 2],
}

impl Clients {
    async fn new(endpoint: &Endpoint, directory: &Path) -> Self {
        let mut clients = Vec::new();
        for _ in 0..2 {
            let client = endpoint.client(directory);
            client.connect(GUARD).await.unwrap();
            clients.push(client);
        }
        let works = [0, 1].map(|_| Arc::new(Work::default()));
        let tasks = [
            tokio::spawn(honest(clients[0].clone(), Arc::clone(&works[0]))),
            tokio::spawn(listener(clients[1].clone(), Arc::clone(&works[1]))),
        ];
        Self { clients, works, tasks }
    }

    fn done(&self) -> [u64; 2] {
        [0, 1].map(|which| self.works[which].calls.load(Ordering::Relaxed))
    }

    /// They are served to the end.
    async fn leave(self) {
        self.works.iter().for_each(|work| work.over.store(true, Ordering::Relaxed));
        for task in self.tasks {
            task.await.expect("an ordinary client was hurt");
        }
        for client in self.clients {
            eventually("nothing is left", || client.load() == Load::default()).await;
            client.disconnect().await;
        }
    }
}

/// Waits until the server says so.
async fn until(server: &mut Peer, order: Order, values: std::ops::RangeInclusive<u64>) {
    let deadline = Instant::now() + GUARD / 2;
    loop {
        let value = server.order(order.clone()).await.unwrap();
        if values.contains(&value) {
            return;
        }
        assert!(Instant::now() < deadline, "{order:?} is {value}, and never in {values:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until it is over; meanwhile, all are served. Returns the most memory that the server had.
async fn watched(server: u32, clients: &Clients, book: &Book, time: Duration) -> u64 {
    let (began, mut most) = (Instant::now(), 0);
    let mut last = clients.done().map(|done| (done, began));
    let all_came = || book.rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > 0);
    // Each of the peers comes, however slow the machine is.
    while began.elapsed() < time || !all_came() {
        assert!(began.elapsed() < time + GUARD, "not all came: {:?}", book.rounds);
        tokio::time::sleep(Duration::from_millis(20)).await;
        most = most.max(memory_of(server));
        for (last, done) in last.iter_mut().zip(clients.done()) {
            if last.0 != done {
                *last = (done, Instant::now());
            }
            assert!(last.1.elapsed() < GUARD / 2, "an ordinary client is not served");
        }
    }
    most
}

async fn attacked(flavor: Flavor, seed: u64, time: Duration) {
    let directory = private_directory();
    let path = directory.path().to_owned();
    let mut server = Peer::host(&path, flavor);
    server.order(Order::PanicIsDeath).await.unwrap();
    let endpoint = Endpoint {
        size: 64 << 10,
        max_message_size: MAX_MESSAGE,
        // Whoever was let go may have its place for a moment longer.
        max_clients: 16,
        ..Endpoint::default()
    };
    server.order(Order::Serve(endpoint.clone())).await.unwrap();
    let clients = Clients::new(&endpoint, &path).await;
    eventually("they are served", || clients.done().iter().all(|done| *done > 5)).await;
    // What ordinary traffic takes is taken by now.
    let (before, open) = (memory_of(server.id()), server.order(Order::Descriptors).await.unwrap());

    let (book, over) = (Arc::new(Book::default()), Arc::new(AtomicBool::new(false)));
    let mut random = Random(seed);
    let attack = |_| {
        let (book, over) = (Arc::clone(&book), Arc::clone(&over));
        tokio::spawn(attacker(path.clone(), random.next(), book, over))
    };
    let attackers: Vec<_> = (0..ATTACKERS).map(attack).collect();
    let most = before.max(watched(server.id(), &clients, &book, time).await);
    book.over.store(true, Ordering::Relaxed);
    for attacker in attackers {
        timeout(GUARD, attacker).await.expect("an attacker hangs").unwrap();
    }

    for ((name, _), rounds) in PEERS.iter().zip(&book.rounds) {
        println!("hostile: {name}: {rounds:?} times");
    }
    let done = clients.done();
    println!(
        "hostile: a {flavor:?} server: ordinary {done:?}, memory {before} to {most} bytes, {open} descriptors"
    );
    // Also of those that write on: that is why `over` is not set yet.
    until(&mut server, Order::Clients, 2..=2).await;
    until(&mut server, Order::Descriptors, 0..=open).await;
    over.store(true, Ordering::Relaxed);
    clients.leave().await;
    until(&mut server, Order::Load, 0..=0).await;
    until(&mut server, Order::Open, 0..=0).await;
    assert!(
        most - before <= ATTACKERS * PER_ATTACKER + SLACK,
        "grew from {before} to {most} bytes"
    );
    let calc = endpoint.client(&path);
    calc.connect(GUARD).await.unwrap();
    assert_eq!(calc.get_service::<CalcClient>().add(1, 2).await.unwrap(), 3);
    calc.disconnect().await;
    timeout(GUARD, server.leaves()).await.expect("the server leaves");
}
