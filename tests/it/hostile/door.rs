//! Floods at the door of a server, where clients of the same user can write: peers that queue and hang up at once, that write bytes that
//! are no ask, or that fill the door. Connected clients go on calling, new clients are admitted, and the server keeps nothing of the flood.
//!
//! It runs as long as the test beside it, and has seven kinds of attack, drawn from the seed. Only on Unix, where the door is a file.

#![expect(clippy::print_stdout, reason = "the record of a long run")]

use std::fs::{File, OpenOptions, remove_file};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio::time::timeout;
use witrpc_mmf::bench_support::make_pipe;

use super::{MAX_MESSAGE, Random, SLACK, Work, honest, memory_of, setting};
use crate::contract::{CalcClient, Calculator};
use crate::fixture::{Flavor, GUARD, eventually, files, private_directory};
use crate::peer::{Endpoint, Order, Peer};

/// Attackers at a time.
const THREADS: u64 = 3;
/// More than any server of these tests takes in at a time.
const MANY: usize = 64;

/// Somebody at the door of the server `test`.
struct Attacker {
    directory: PathBuf,
    random: Random,
}

/// A client's own pipe.
struct Pipe {
    path: PathBuf,
    reader: Option<File>,
    /// Whether the server is told that nobody comes any more, should it be letting it in. If not, that costs others a place for as
    /// long as a handshake may take.
    hangs_up: bool,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The server removes those of clients that it finds gone.
        drop(remove_file(&self.path));
        if self.hangs_up {
            drop(writing().open(self.path.with_extension("s")));
        }
    }
}

/// Of the rendezvous protocol.
const VERSION: u32 = 2;
/// As an ask says it.
const CLIENT: u32 = 1;

/// For whoever waits for nobody.
fn writing() -> OpenOptions {
    let mut options = File::options();
    options.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

impl Attacker {
    /// As a client asks.
    fn ask(&mut self) -> (String, Vec<u8>) {
        self.ask_as(VERSION, CLIENT)
    }

    /// The same in this version of the protocol, as a client of this kind.
    fn ask_as(&mut self, version: u32, kind: u32) -> (String, Vec<u8>) {
        let nonce = [self.random.next(), self.random.next()].map(u64::to_le_bytes).concat();
        let name = nonce.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let numbers = [version, std::process::id()].map(u32::to_le_bytes).concat();
        (name, [&b"witrpc\0a"[..], &numbers, &nonce, &kind.to_le_bytes(), &[0; 28]].concat())
    }

    /// Writes as much as there is room for. Whether that was all.
    fn write(&self, bytes: &[u8]) -> bool {
        let mut door = writing().open(self.directory.join("test.door")).expect("a server is there");
        match door.write(bytes) {
            Ok(written) => written == bytes.len(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "the server is there");
                false
            }
        }
    }

    /// Makes a pipe and asks for it to be answered there.
    fn join(&mut self) -> Pipe {
        self.join_as(VERSION, CLIENT)
    }

    fn join_as(&mut self, version: u32, kind: u32) -> Pipe {
        let (name, ask) = self.ask_as(version, kind);
        let path = self.directory.join(format!("test.{name}.c"));
        make_pipe(&path).unwrap();
        let mut options = File::options();
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let hangs_up = self.random.below(500) > 0;
        let pipe = Pipe { reader: Some(options.open(&path).unwrap()), path, hangs_up };
        self.write(&ask);
        pipe
    }

    fn pause(&mut self, below: u64) {
        sleep(Duration::from_micros(self.random.below(below)));
    }

    fn attack(&mut self) {
        match self.random.below(7) {
            // Asks, and hangs up at once, with or without taking its pipe away.
            0 => {
                let mut pipes: Vec<_> = (0..8).map(|_| self.join()).collect();
                if self.random.below(2) == 0 {
                    pipes.iter_mut().for_each(|pipe| drop(pipe.reader.take()));
                    self.pause(2000);
                }
            }
            // Waits for some time.
            1 => {
                let _pipes: Vec<_> = (0..8).map(|_| self.join()).collect();
                self.pause(20_000);
            }
            // Is let in, perhaps, says nothing, and leaves.
            2 => {
                let mut pipe = self.join();
                self.pause(5000);
                let mut answers = [0; 64];
                let heard = pipe.reader.as_mut().unwrap().read(&mut answers);
                if heard.is_ok_and(|heard| heard >= 16) {
                    let server = pipe.path.with_extension("s");
                    drop(File::options().read(true).write(true).open(server));
                }
            }
            // Another protocol, or another kind of client.
            3 => {
                let [version, kind] = [(); 2].map(|()| self.random.next() as u32);
                let _pipes = [
                    self.join_as(version.max(VERSION + 1), CLIENT),
                    self.join_as(VERSION, kind.max(CLIENT + 1)),
                ];
                self.pause(2000);
            }
            // What is no ask.
            4 => {
                let len = self.random.below(4096) as usize;
                let noise = |_| self.random.next().to_le_bytes()[0];
                let noise: Vec<_> = (0..len).map(noise).collect();
                self.write(&noise);
            }
            // Pieces of asks, and what looks like their beginnings.
            5 => {
                let (_, ask) = self.ask();
                let cut = self.random.below(ask.len() as u64) as usize;
                self.write(&ask[..cut]);
                self.write(&b"witrpc\0a".repeat(MANY));
            }
            // Fills it, in the name of clients that are not there.
            _ => {
                let asks: Vec<_> = (0..MANY).flat_map(|_| self.ask().1).collect();
                while self.write(&asks) {}
            }
        }
    }
}

/// A thread that attacks until it is told to end; it says how often it did.
fn attacker(directory: &Path, seed: u64, over: Arc<AtomicBool>) -> JoinHandle<u64> {
    let mut attacker = Attacker { directory: directory.to_owned(), random: Random(seed) };
    std::thread::spawn(move || {
        let mut attacks = 0;
        while !over.load(Ordering::Relaxed) {
            attacker.attack();
            attacks += 1;
            // Whoever keeps the door full keeps others out, as whoever removes it does; so it is not full all the time.
            attacker.pause(4000);
        }
        attacks
    })
}

/// Clients that come, call and leave, one after the other; says how many.
async fn newcomers(endpoint: Endpoint, directory: PathBuf, over: Arc<AtomicBool>) -> u64 {
    let mut came = 0;
    while !over.load(Ordering::Relaxed) {
        let client = endpoint.client(&directory);
        client.connect(GUARD / 2).await.expect("somebody who comes gets in");
        let calc = client.get_service::<CalcClient>();
        assert_eq!(calc.add(came, 1).await.unwrap(), came + 1);
        client.disconnect().await;
        came += 1;
    }
    came.cast_unsigned().into()
}

/// The descriptors of a process.
fn descriptors_of(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[test]
fn floods_at_the_door_hurt_nobody_who_is_connected() {
    let seconds = setting("WITRPC_HOSTILE_SECS", 3);
    let seed = setting("WITRPC_HOSTILE_SEED", 0x5EED);
    println!("hostile: at the door: seed {seed}, {seconds} s");
    for flavor in [Flavor::CurrentThread, Flavor::MultiThread] {
        // Not guarded by a time limit as a whole: every step is.
        let runtime = crate::fixture::runtime(Flavor::MultiThread);
        runtime.block_on(flooding(flavor, seed, Duration::from_secs(seconds) / 2));
    }
}

/// Waits until the server says so.
async fn until(server: &mut Peer, order: Order, value: u64) {
    let deadline = Instant::now() + GUARD / 2;
    while server.order(order.clone()).await.unwrap() != value {
        assert!(Instant::now() < deadline, "{order:?} is never {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn flooding(flavor: Flavor, seed: u64, time: Duration) {
    let directory = private_directory();
    let path = directory.path().to_owned();
    let mut server = Peer::host(&path, flavor);
    server.order(Order::PanicIsDeath).await.unwrap();
    let sizes = Endpoint { size: 64 << 10, max_message_size: MAX_MESSAGE, ..Endpoint::default() };
    let endpoint = Endpoint { max_clients: 4, ..sizes };
    server.order(Order::Serve(endpoint.clone())).await.unwrap();
    let client = endpoint.client(&path);
    client.connect(GUARD).await.unwrap();
    let work = Arc::new(Work::default());
    let honest = tokio::spawn(honest(client.clone(), Arc::clone(&work)));
    eventually("calls", || work.calls.load(Ordering::Relaxed) > 500).await;
    let (before, open) = (memory_of(server.id()), descriptors_of(server.id()));

    let (mut random, mut most, mut open_at_most) = (Random(seed), before, open);
    let (mut paces, mut came, mut attacks) = (Vec::new(), Vec::new(), 0);
    for (attackers, share) in [(0, time / 8), (THREADS, time / 8 * 7)] {
        let over = Arc::new(AtomicBool::new(false));
        let (began, calls) = (Instant::now(), work.calls.load(Ordering::Relaxed));
        let newcomers = newcomers(endpoint.clone(), path.clone(), Arc::clone(&over));
        let newcomers = tokio::spawn(newcomers);
        let threads: Vec<_> =
            (0..attackers).map(|_| attacker(&path, random.next(), Arc::clone(&over))).collect();
        while began.elapsed() < share {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!honest.is_finished(), "the honest client failed");
            most = most.max(memory_of(server.id()));
            open_at_most = open_at_most.max(descriptors_of(server.id()));
        }
        paces.push(work.pace(began, calls));
        over.store(true, Ordering::Relaxed);
        came.push(timeout(GUARD, newcomers).await.expect("somebody hangs").unwrap());
        attacks += threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>();
    }

    println!(
        "hostile: at the door of a {flavor:?} server: {attacks} attacks, memory {before} to {most} bytes, \
         descriptors {open} to {open_at_most}"
    );
    println!(
        "hostile: before: {} newcomers, {}; during: {} newcomers, {}",
        came[0], paces[0], came[1], paces[1]
    );
    assert!(attacks > 100 && came.iter().all(|came| *came > 0), "{attacks}, {came:?}");
    assert!(most - before <= SLACK, "grew from {before} to {most} bytes");
    // Those that were connected, and those that were let in and said nothing, have gone; so has what they had.
    eventually("the descriptors are given back", || descriptors_of(server.id()) <= open).await;
    work.over.store(true, Ordering::Relaxed);
    honest.await.unwrap();
    until(&mut server, Order::Clients, 1).await;
    until(&mut server, Order::Load, 0).await;
    client.disconnect().await;
    timeout(GUARD, server.leaves()).await.expect("the server leaves");
    // What attackers have left is swept by the next server.
    let next = endpoint.server(&path, &Calculator::default());
    next.start_waiting_for_connection().await.unwrap();
    next.stop_waiting_for_connection().await;
    assert_eq!(files(&path), [""; 0]);
}
