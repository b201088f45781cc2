//! A process that connects like any other and writes random bytes over its live region, during the handshake and after, beside an honest
//! client. It can end its own connection and nothing else: the server, in a process of its own, neither panics nor hangs, and its
//! memory does not grow.
//!
//! The test runs for `WITRPC_HOSTILE_SECS` seconds (default 3), from the seed `WITRPC_HOSTILE_SEED`. The writes are drawn from the
//! seed; their timing relative to the other processes is not.

#![expect(clippy::print_stdout, reason = "the record of a long run")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, Load, MmfClientTransport};

use crate::contract::CalcClient;
use crate::fixture::{Fixture, Flavor, GUARD, Security, eventually, private_directory, run};
use crate::peer::{Endpoint, Order, Peer};
use crate::spy::{Found, Region, Spy};
use crate::system::anonymous_kib_of;

mod account;
#[cfg(unix)]
mod door;
mod doorbell;
mod peers;
mod streams;
mod subscriptions;

/// Where the control lines of the two directions start: `docs/segment.md`, [seg.line.tail].
const TAILS: [u64; 2] = [1024, 1280];
const HEADER: u64 = 4096;

/// Long enough for many writes, short enough for many rounds.
const ROUND: Duration = Duration::from_millis(40);
const MAX_MESSAGE: u64 = 1 << 20;
/// What each of the two connections may hold: `max_buffered` and 1 MiB.
const PER_CONNECTION: u64 = 2 * MAX_MESSAGE + (1 << 20);
/// What an allocator and a runtime's threads take beside that.
const SLACK: u64 = 16 << 20;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// SplitMix64 (Steele, Lea and Flood, 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Where the newest record of this direction ends, or would.
fn newest(region: &Region, direction: usize) -> u64 {
    let capacity = (region.len - HEADER) / 2 / 128 * 128;
    let ring = HEADER + direction as u64 * capacity;
    ring + region.read_u64(TAILS[direction]) % capacity
}

/// One write of the kind that does harm.
fn scribble(region: &Region, random: &mut Random) {
    let direction = random.below(2) as usize;
    let line = TAILS[direction] + 128 * random.below(2);
    let noise = random.next().to_le_bytes();
    match random.below(10) {
        // A cursor, a little off, or far.
        0 => {
            let near = region.read_u64(line).wrapping_add(random.below(65)).wrapping_sub(32);
            region.write(line, &near.to_le_bytes());
        }
        1 => {
            let values = [0, u64::MAX, 1 << 63, random.next(), 8];
            region.write(line, &values[random.below(5) as usize].to_le_bytes());
        }
        // Flags and counters behind the cursor.
        2 | 3 => region.write(line + 8 + 4 * random.below(3), &noise[..4]),
        4 => {
            let flag = (random.below(2) as u32).to_le_bytes();
            region.write(line + 8 + 4 * random.below(2), &flag);
        }
        // The header, and what is reserved.
        5 => region.write(random.below(HEADER), &noise[..1 + random.below(8) as usize]),
        // What was just written: lengths, kinds, chunk headers, payload.
        6..=8 => {
            let behind = newest(region, direction).saturating_sub(random.below(512));
            region.write(behind.max(HEADER), &noise[..1 + random.below(8) as usize]);
        }
        _ => region.write(HEADER + random.below(region.len - HEADER), &noise.repeat(8)),
    }
}

/// A thread that writes until it is told to end; it says how often it did.
fn scribbler(found: Found, over: Arc<AtomicBool>, attack: Attack) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let (mut random, mut beside) = (Random(attack.seed), None);
        let mut writes = 0;
        while !over.load(Ordering::Relaxed) {
            let Some(region) = found.region() else {
                std::thread::yield_now();
                continue;
            };
            let region = if attack.harmless {
                beside.get_or_insert_with(|| region.copied())
            } else {
                &region
            };
            scribble(region, &mut random);
            writes += 1;
            // Sometimes one after the other, sometimes with time for others to come some way.
            match random.below(8) {
                0 => std::thread::sleep(Duration::from_micros(random.below(2000))),
                1..=3 => std::thread::yield_now(),
                _ => {}
            }
        }
        writes
    })
}

/// What became of the rounds.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    writes: u64,
    let_in: u64,
    answers: u64,
    honest_calls: u64,
}

#[derive(Clone, Copy)]
struct Attack {
    encrypted: bool,
    /// Connects, calls and writes as much, but beside the region: what the honest client is compared with.
    harmless: bool,
    from_the_start: bool,
    seed: u64,
}

/// One connection of the scribbler's. Its own library is on the receiving side of half of the writes.
async fn round(file: &MemoryMappedFile, directory: &Path, attack: Attack, tally: &mut Tally) {
    let transport = Box::new(MmfClientTransport::new(file.clone()));
    let (spy, found) = Spy::new(transport, Some(directory.to_owned()));
    let builder = WitClientBuilder::new().with_transport(spy).with_max_message_size(MAX_MESSAGE);
    let client = if attack.encrypted { builder.with_encryption() } else { builder };
    let client = client.build().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let start = || scribbler(found.clone(), Arc::clone(&over), attack);
    let early = attack.from_the_start.then(start);
    let connected = client.connect(GUARD / 100).await.is_ok();
    let scribbler = early.unwrap_or_else(start);
    tally.let_in += u64::from(connected);
    let calc = client.get_service::<CalcClient>();
    let end = Instant::now() + ROUND;
    while Instant::now() < end && client.is_connected() {
        let text = "scribble ".repeat(1 + tally.answers as usize % 100);
        let Ok(answer) = timeout(ROUND, calc.echo(text.clone())).await else { break };
        match answer {
            // In clear, what comes back is whatever the scribbler made of it.
            Ok(back) => assert!(!attack.encrypted || back == text, "wrong data, and no error"),
            Err(_) => continue,
        }
        tally.answers += 1;
    }
    over.store(true, Ordering::Relaxed);
    tally.writes += scribbler.join().unwrap();
    tally.rounds += 1;
    client.disconnect().await;
}

/// Anonymous memory of a process, in bytes: regions are not in it.
fn memory_of(process: u32) -> u64 {
    anonymous_kib_of(process) << 10
}

/// What the honest client has got done.
#[derive(Debug, Default)]
struct Work {
    over: AtomicBool,
    calls: AtomicU64,
    /// The longest that a small call took, in microseconds.
    worst: AtomicU64,
}

impl Work {
    /// Calls in a second, and the longest, since `since`, when there had been so many calls.
    fn pace(&self, since: Instant, calls: u64) -> String {
        let calls = self.calls.load(Ordering::Relaxed) - calls;
        let rate = u128::from(calls) * 1000 / since.elapsed().as_millis();
        let worst = Duration::from_micros(self.worst.swap(0, Ordering::Relaxed));
        format!("{rate} calls/s, the longest {worst:?}")
    }
}

async fn honest(client: WitClient, work: Arc<Work>) {
    let calc = client.get_service::<CalcClient>();
    while !work.over.load(Ordering::Relaxed) {
        let call = work.calls.fetch_add(1, Ordering::Relaxed) as i32;
        let began = Instant::now();
        let sum = timeout(GUARD / 2, calc.add(call, 1)).await.expect("the server hangs");
        assert_eq!(sum.unwrap(), call + 1);
        work.worst.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
        if call % 64 == 0 {
            let text = call.to_string().repeat(10_000);
            let echo = timeout(GUARD / 2, calc.echo(text.clone())).await.expect("it hangs");
            assert!(echo.unwrap() == text, "another answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[test]
fn a_scribbler_ends_its_own_connection_and_nothing_else() {
    let seconds = setting("WITRPC_HOSTILE_SECS", 3);
    let seed = setting("WITRPC_HOSTILE_SEED", 0x5EED);
    println!("hostile: seed {seed}, {seconds} s");
    for encrypted in [false, true] {
        // Not guarded by a time limit as a whole: every step is.
        let runtime = crate::fixture::runtime(Flavor::MultiThread);
        let share = Duration::from_secs(seconds) / 2;
        runtime.block_on(scribbling(encrypted, seed, share));
    }
}

async fn scribbling(encrypted: bool, seed: u64, time: Duration) {
    let directory = private_directory();
    let path = directory.path().to_owned();
    let mut server = Peer::host(&path, Flavor::MultiThread);
    server.order(Order::PanicIsDeath).await.unwrap();
    let endpoint = Endpoint {
        encrypted,
        size: 64 << 10,
        max_message_size: MAX_MESSAGE,
        ..Endpoint::default()
    };
    server.order(Order::Serve(endpoint.clone())).await.unwrap();
    let client = endpoint.client(&path);
    client.connect(GUARD).await.unwrap();
    let work = Arc::new(Work::default());
    let honest = tokio::spawn(honest(client.clone(), Arc::clone(&work)));
    // What ordinary traffic takes is taken by now.
    eventually("calls", || work.calls.load(Ordering::Relaxed) > 500).await;
    let before = memory_of(server.id());

    let (mut random, mut most, mut tallies) =
        (Random(seed), before, [0, 1].map(|_| Tally::default()));
    let file = MemoryMappedFile::new("test").with_directory(&path);
    let mut paces = Vec::new();
    for (harmless, share) in [(true, time / 8), (false, time / 8 * 7)] {
        let (began, calls) = (Instant::now(), work.calls.load(Ordering::Relaxed));
        while began.elapsed() < share {
            let from_the_start = random.below(2) == 0;
            let attack = Attack { encrypted, harmless, from_the_start, seed: random.next() };
            round(&file, &path, attack, &mut tallies[usize::from(!harmless)]).await;
            assert!(!honest.is_finished(), "the honest client failed");
            most = most.max(memory_of(server.id()));
        }
        paces.push(work.pace(began, calls));
    }

    work.over.store(true, Ordering::Relaxed);
    honest.await.unwrap();
    let [peaceful, mut tally] = tallies;
    assert_eq!(peaceful.let_in, peaceful.rounds, "nobody disturbs a client that does no harm");
    tally.honest_calls = work.calls.load(Ordering::Relaxed);
    println!("hostile: encrypted: {encrypted}, {tally:?}, memory {before} to {most} bytes");
    println!(
        "hostile: the honest client beside a harmless one: {}, beside it: {}",
        paces[0], paces[1]
    );
    assert!(tally.rounds > 3 && tally.writes > 100 && tally.honest_calls > 100, "{tally:?}");
    assert!(most - before <= 2 * PER_CONNECTION + SLACK, "grew from {before} to {most} bytes");
    // Only the honest one is left, and nothing is being done for anybody.
    for (order, expected) in [(Order::Clients, 1), (Order::Load, 0)] {
        let deadline = Instant::now() + GUARD / 2;
        while server.order(order.clone()).await.unwrap() != expected {
            assert!(Instant::now() < deadline, "{order:?} is never {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(client.load(), Load::default());
    client.disconnect().await;
    timeout(GUARD, server.leaves()).await.expect("the server leaves");
}

/// One bit of what is in flight is changed, again and again, on a sealed connection: every answer is right until the
/// connection ends, and then it ends with a word about it.
#[test]
fn a_bit_flipped_in_flight_ends_the_connection_and_changes_no_answer() {
    let fixture = Fixture::mmf_with(|file| file.with_size(64 << 10).with_max_clients(4))
        .secured(Security::EncryptedWithToken);
    run(Flavor::MultiThread, fixture, |fixture| async move {
        let server = fixture.server().await;
        let mut random = Random(setting("WITRPC_HOSTILE_SEED", 0xB17));
        let (mut ended, mut answers) = (0, 0);
        for _ in 0..60 {
            let (client, found) = fixture.spied_client();
            client.connect(GUARD).await.unwrap();
            let over = Arc::new(AtomicBool::new(false));
            let flipping = flipper(found.region().unwrap(), Arc::clone(&over), random.next());
            let reason = calls_until_it_ends(&client, &mut answers).await;
            over.store(true, Ordering::Relaxed);
            flipping.join().unwrap();
            ended += u64::from(reason.is_some());
            client.disconnect().await;
        }
        println!("flipped bits: {ended} of 60 connections ended after {answers} right answers");
        assert!(ended > 30, "the flips hit nothing: {ended}");
        eventually("nobody is left", || server.client_count() == 0).await;
        let calc = fixture.client().await;
        assert_eq!(calc.get_service::<CalcClient>().add(1, 1).await.unwrap(), 2);
    });
}

/// Every answer is checked.
async fn calls_until_it_ends(client: &WitClient, answers: &mut u64) -> Option<CloseReason> {
    let calc = client.get_service::<CalcClient>();
    let end = Instant::now() + ROUND;
    while Instant::now() < end {
        let text = format!("{answers} ").repeat(400);
        // A bit of a record's length may leave nobody anything to do.
        let Ok(answer) = timeout(ROUND, calc.echo(text.clone())).await else { return None };
        match answer {
            Ok(back) => assert!(back == text, "another answer, and no error"),
            Err(Error::Closed { reason, .. }) => {
                let text = reason.to_string();
                let told = matches!(reason, CloseReason::Failed(_) | CloseReason::Peer(_));
                // A goodbye may itself be hit, and then there is only the end.
                assert!(told || reason == CloseReason::PeerGone, "{text}");
                return Some(reason);
            }
            Err(other) => panic!("{other:?}"),
        }
        *answers += 1;
    }
    None
}

fn flipper(region: Region, over: Arc<AtomicBool>, seed: u64) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut random = Random(seed);
        while !over.load(Ordering::Relaxed) {
            let direction = random.below(2) as usize;
            let at = newest(&region, direction).saturating_sub(random.below(1600)).max(HEADER);
            let mut byte = [0];
            region.read(at, &mut byte);
            region.write(at, &[byte[0] ^ (1 << random.below(8))]);
            std::thread::sleep(Duration::from_micros(random.below(200)));
        }
    })
}
