//! Clients and servers that are killed, at every step that the library names and at random moments, while calls are under way and every
//! answer is checked. After each round the survivor works, the next connection works, the only files left are those of live endpoints,
//! and the survivor has as many descriptors and regions as before.
//!
//! `WITRPC_KILL_ROUNDS` sets the number of rounds; it must be enough to be killed once at each step. Random choices come from
//! `WITRPC_KILL_SEED`. Timing does not.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the record of a long run, in milliseconds"
)]

mod victim;
mod watched;
#[cfg(target_os = "linux")]
mod workers;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, EventError, MmfServerTransport, ReconnectOptions};

use self::victim::{
    Book, End, Fate, Life, Meeting, MortalClient, MortalServer, PATIENCE, Part, Role, Victim,
    exercise,
};
use self::watched::{Register, Watched};
use crate::fixture::{Flavor, alone, block_on, eventually, files, private_directory, runtime};
use crate::hostile::{Random, setting};
use crate::system::{anonymous_kib, descriptors, lasting_files, listening, now, regions};
use crate::tidy::sources;

/// A few seconds' worth, and each step at least once.
const ROUNDS: u64 = 100;
/// Nanoseconds: what is promised. What takes longer is told, and is no failure on a busy machine.
const SLOW: u64 = 100_000_000;
/// What an allocator and a runtime's threads may keep.
const SLACK: u64 = 8 << 20;

#[test]
fn whoever_is_killed_at_whatever_step_the_others_go_on() {
    if !alone() {
        return;
    }
    let rounds = setting("WITRPC_KILL_ROUNDS", ROUNDS);
    let mut random = Random(setting("WITRPC_KILL_SEED", 20_261_122));
    let runtime = runtime(Flavor::MultiThread);
    let mut reached = BTreeSet::new();
    println!(
        "| killed | rounds | killed at a step | at any moment | left first | p50 | p99 | max |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    // Their shares, in tenths.
    for (who, share) in [(Who::Client, 4), (Who::Server, 4), (Who::Both, 2)] {
        let stage = Stage::new(who);
        let plan = runtime.block_on(stage.rehearse());
        reached.extend(plan.steps.iter().cloned());
        let tally = runtime.block_on(stage.rounds(&plan, rounds * share / 10, &mut random));
        println!("{}", tally.row(&format!("{who:?}")));
    }
    // Whether a ring gets full before its reader comes is a matter of luck, on a busy machine.
    for _ in 0..20 {
        if reached == named() {
            break;
        }
        for who in [Who::Client, Who::Server, Who::Both] {
            reached.extend(runtime.block_on(Stage::new(who).rehearse()).steps);
        }
    }
    assert_eq!(named(), reached, "the steps that the library names, and those that are reached");
}

/// The steps up to the welcome, at which a client is stopped instead of killed.
#[test]
#[cfg(unix)]
fn a_client_stopped_at_any_step_of_being_let_in_holds_nobody_up() {
    if !alone() {
        return;
    }
    let stage = Stage::new(Who::Client);
    runtime(Flavor::MultiThread).block_on(async {
        let plan = stage.rehearse().await;
        let welcome = plan.names.iter().position(|name| name == "welcome.taken").unwrap();
        let deadline = Duration::from_millis(300);
        let (server, register) = stage.server(deadline).await;
        for step in &plan.names[..=welcome] {
            // Going on in time, and after the server has let it go.
            for late in [false, true] {
                let end = End::Stopped { step: step.clone() };
                let mut victim = stage.victim(Role::Late, end, Flavor::CurrentThread);
                within(&format!("{step}: it stops"), || victim.is_stopped()).await;
                stage.next_client_is_served().await;
                let seen = register.of(victim.id());
                if late && seen.came > 0 && step != "welcome.taken" {
                    let process = victim.id();
                    // Some steps it may first reach when it is connected.
                    let let_go =
                        || register.of(process).ended == seen.came || server.client_count() == 1;
                    within(&format!("{step}: it is let go"), let_go).await;
                }
                victim.go_on();
                let fate = victim.ends().await;
                assert!(matches!(fate, Fate::Left), "{step}, late: {late}: {fate:?}");
                within(&format!("{step}: it leaves"), || server.client_count() == 0).await;
            }
        }
        stage.only_the_living_have_files(&listening("test"), 0).await;
        server.shutdown(PATIENCE).await;
    });
    assert_eq!(files(&stage.meeting.directory), [""; 0]);
}

#[test]
fn a_client_that_reconnects_goes_on_with_the_server_that_was_started_again() {
    let stage = Stage::new(Who::Server);
    let reconnects = |options: ReconnectOptions| {
        options
            .with_initial_delay(Duration::from_millis(1))
            .with_max_delay(Duration::from_millis(9))
    };
    let client = stage.meeting.client_builder().with_auto_reconnect(reconnects).build().unwrap();
    block_on(Flavor::MultiThread, async {
        let mortal: MortalClient = client.get_service();
        let mut server = stage.victim(Role::Server, End::Outside, Flavor::MultiThread);
        client.connect(PATIENCE).await.unwrap();
        let mut ticked = mortal.ticked().subscribe();
        for round in 0..5 {
            mortal.tick(round, 1).await.unwrap();
            assert_eq!(ticked.next().await, Some(Ok(round)));
            let waiting = tokio::spawn(mortal.wait());
            while !waiting.is_finished() && mortal.note(round).await.is_err() {}
            server.kill();
            server.ends().await;
            let mut next = stage.victim(Role::Server, End::Outside, Flavor::MultiThread);
            std::mem::swap(&mut server, &mut next);
            let lost = waiting.await.unwrap().unwrap_err();
            assert!(matches!(lost, Error::Closed { reason: CloseReason::PeerGone, .. }), "{lost}");
            assert_eq!(ticked.next().await, Some(Err(EventError::Reconnected)));
        }
        asked_to_leave(&mortal).await;
        assert!(matches!(server.ends().await, Fate::Left));
        client.disconnect().await;
    });
    assert_eq!(files(&stage.meeting.directory), [""; 0]);
}

/// The steps that a file names.
fn names_of_steps(text: &str) -> Vec<String> {
    let calls = text.split("fail_point::at(").skip(1);
    let arguments = calls.filter_map(|call| call.split_once(");")).map(|(a, _)| a.to_owned());
    arguments
        .flat_map(|a| a.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The steps that the library names.
fn named() -> BTreeSet<String> {
    // What other systems do is in folders of theirs.
    let elsewhere = if cfg!(unix) { "windows" } else { "unix" };
    let here = |name: &str| {
        let mut parts = name.split(['/', '.']);
        !parts.any(|part| part == elsewhere || (part == "fifo" && !cfg!(unix)))
    };
    // Those of workers are in `workers`.
    let is_of_workers = |name: &str| name.starts_with("crates/witrpc-process");
    let is_library = |name: &str| name.starts_with("crates") && !is_of_workers(name) && here(name);
    let library = sources().into_iter().filter(|(name, _)| is_library(name));
    let mut named: BTreeSet<_> = library.flat_map(|(_, text)| names_of_steps(&text)).collect();
    // No server here is full.
    assert!(named.remove("caller.waits"), "it is for who waits for a place");
    named
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client,
    Server,
    Both,
}

/// What a victim reaches when it is left alone.
struct Plan {
    /// In the order of reaching them, each as often as it was.
    steps: Vec<String>,
    /// Each once.
    names: Vec<String>,
    /// From its start to its end.
    takes: Duration,
}

impl Plan {
    fn new(steps: Vec<String>, takes: Duration) -> Self {
        let mut names: Vec<String> = Vec::new();
        for step in &steps {
            if !names.contains(step) {
                names.push(step.clone());
            }
        }
        assert!(names.len() > 10, "hardly a step was reached: {names:?}");
        Self { steps, names, takes }
    }

    /// How the victim of this round ends, and when if that is up to us: each step once, then anything.
    fn end(&self, round: u64, random: &mut Random) -> (End, Option<Duration>) {
        if let Some(step) = self.names.get(round as usize) {
            return (End::Step { step: step.clone(), nth: 0 }, None);
        }
        match random.below(3) {
            0 => {
                let step = &self.names[random.below(self.names.len() as u64) as usize];
                let times = self.steps.iter().filter(|other| *other == step).count();
                (End::Step { step: step.clone(), nth: random.below(times as u64) }, None)
            }
            1 => (End::Hit(random.below(self.steps.len() as u64)), None),
            _ => {
                let micros = random.below(self.takes.as_micros() as u64 * 3 / 2);
                (End::Outside, Some(Duration::from_micros(micros)))
            }
        }
    }
}

/// What came of the rounds.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    at_a_step: u64,
    outside: u64,
    /// The step was never reached.
    left: u64,
    /// From the death to the survivor's having noticed, in nanoseconds.
    noticed: Vec<u64>,
}

impl Tally {
    fn count(&mut self, fate: &Fate, noticed: Option<u64>, text: &str) {
        self.rounds += 1;
        if let (Fate::Killed { at, .. }, Some(noticed)) = (fate, noticed)
            && let Some(took) = noticed.checked_sub(*at)
        {
            if took > SLOW {
                println!("{text}: noticed after {took} ns");
            }
            self.noticed.push(took);
        }
        match fate {
            Fate::Killed { step: Some(_), .. } => self.at_a_step += 1,
            Fate::Killed { step: None, .. } => self.outside += 1,
            Fate::Left => self.left += 1,
        }
    }

    fn row(mut self, who: &str) -> String {
        self.noticed.sort_unstable();
        let Self { rounds, at_a_step, outside, left, noticed } = self;
        let ms = |part: f64| match noticed.len() {
            0 => "–".to_owned(),
            len => {
                let at = ((len - 1) as f64 * part).round() as usize;
                format!("{:.2} ms", noticed[at] as f64 / 1e6)
            }
        };
        let times = [0.5, 0.99, 1.0].map(ms).join(" | ");
        format!("| {who} | {rounds} | {at_a_step} | {outside} | {left} | {times} |")
    }
}

/// Where the rounds of one kind are played.
struct Stage {
    who: Who,
    meeting: Meeting,
    report: PathBuf,
    _directories: [TempDir; 2],
}

impl Stage {
    fn new(who: Who) -> Self {
        let directories = [private_directory(), private_directory()];
        let [directory, report] = directories.each_ref().map(|d| d.path().to_owned());
        // Both handshakes get their rounds.
        let meeting = Meeting { directory, encrypted: who == Who::Server };
        Self { who, meeting, report, _directories: directories }
    }

    fn victim(&self, role: Role, end: End, flavor: Flavor) -> Victim {
        let (meeting, report) = (self.meeting.clone(), self.report.join(format!("{role:?}")));
        fs::create_dir_all(&report).unwrap();
        Victim::start(&Part { role, end, meeting, flavor, report })
    }

    /// Lets the victims live, to see what they reach.
    async fn rehearse(&self) -> Plan {
        let began = std::time::Instant::now();
        let mut victim = match self.who {
            Who::Client => {
                let (server, _) = self.server(PATIENCE).await;
                let mut victim = self.victim(Role::Client, End::InGoodOrder, Flavor::CurrentThread);
                assert!(matches!(victim.ends().await, Fate::Left));
                server.shutdown(PATIENCE).await;
                victim
            }
            Who::Server | Who::Both => {
                let mut victim = self.victim(Role::Server, End::InGoodOrder, Flavor::CurrentThread);
                let client = self.meeting.client();
                client.connect(PATIENCE).await.unwrap();
                let mortal: MortalClient = client.get_service();
                let mut ticked = mortal.ticked().subscribe();
                exercise(&mortal, &mut ticked, &mut Book::default()).await.unwrap();
                asked_to_leave(&mortal).await;
                assert!(matches!(victim.ends().await, Fate::Left));
                victim
            }
        };
        let plan = Plan::new(victim.said(), began.elapsed());
        assert!(matches!(victim.ends().await, Fate::Left));
        assert_eq!(files(&self.meeting.directory), [""; 0]);
        plan
    }

    async fn rounds(&self, plan: &Plan, rounds: u64, random: &mut Random) -> Tally {
        match self.who {
            Who::Client => self.clients_die(plan, rounds, random).await,
            Who::Server => self.servers_die(plan, rounds, random).await,
            Who::Both => self.both_die(plan, rounds, random).await,
        }
    }

    /// A server of this process, and what is seen of its clients.
    async fn server(&self, handshake: Duration) -> (WitServer, Register) {
        let register = Register::default();
        let inner = MmfServerTransport::new(self.meeting.file());
        let transport = Watched { inner, register: register.clone() };
        let builder = WitServerBuilder::new().with_transport(transport);
        let builder = builder.with_handshake_timeout(handshake);
        let builder = builder.with_service(MortalServer::new(Life::new(None)));
        let server = builder.build().unwrap();
        server.start_waiting_for_connection().await.unwrap();
        (server, register)
    }

    async fn clients_die(&self, plan: &Plan, rounds: u64, random: &mut Random) -> Tally {
        let (server, register) = self.server(PATIENCE).await;
        let witness = Witness::start(&self.meeting).await;
        let mut tally = Tally::default();
        let mut before = None;
        for round in 0..rounds.max(plan.names.len() as u64) {
            let (end, moment) = plan.end(round, random);
            let text = format!("round {round}, {end:?}");
            let mut victim = self.victim(Role::Client, end, flavor(round));
            let process = victim.id();
            if let Some(moment) = moment {
                tokio::time::sleep(moment).await;
                victim.kill();
            }
            let fate = victim.ends().await;
            within(&text, || {
                let seen = register.of(process);
                seen.came == seen.ended && server.client_count() == 1
            })
            .await;
            let seen = register.of(process);
            tally.count(&fate, Some(seen.last), &text);
            self.next_client_is_served().await;
            self.only_the_living_have_files(&listening("test"), 1).await;
            within(&text, || server.client_count() == 1).await;
            Holdings::are_as_before(&mut before, &text).await;
        }
        Holdings::memory_has_not_grown(before);
        witness.ends().await;
        server.shutdown(PATIENCE).await;
        assert_eq!(files(&self.meeting.directory), [""; 0]);
        tally
    }

    async fn next_client_is_served(&self) {
        let client = self.meeting.client();
        client.connect(PATIENCE).await.unwrap();
        let mortal: MortalClient = client.get_service();
        let answer = timeout(PATIENCE, mortal.note(7)).await.expect("a call hangs");
        assert_eq!(answer.unwrap(), 7);
        client.disconnect().await;
    }

    /// What a killed process leaves is at most one connection that was half made, and the next server that starts in the
    /// directory removes it; on Windows, nothing. There are so many `connections` of the living.
    async fn only_the_living_have_files(&self, living: &[String], connections: usize) {
        let found = files(&self.meeting.directory);
        if cfg!(unix) {
            let nonces: BTreeSet<_> =
                found.iter().filter_map(|name| name.split('.').nth_back(1)).collect();
            assert!(
                nonces.len() <= 2,
                "more than one connection's files and the endpoint's: {found:?}"
            );
        } else {
            let none_is_left = || {
                let files = files(&self.meeting.directory).len();
                files <= living.len() + connections
            };
            within(&format!("the files of the dead are gone: {found:?}"), none_is_left).await;
        }
        // A lock that was made and not marked is for the next server of its name only.
        let name = if living.is_empty() { "test" } else { "sweeper" };
        let sweeper = MemoryMappedFile::new(name).with_directory(&self.meeting.directory);
        let builder = WitServerBuilder::new().with_memory_mapped_file(sweeper);
        let sweeper = builder.with_service(MortalServer::new(Life::new(None))).build().unwrap();
        sweeper.start_waiting_for_connection().await.unwrap();
        sweeper.stop_waiting_for_connection().await;
        // A server that lives may still be letting a client in that is dead: it removes those files itself, once it has seen that.
        let none_is_left = || lasting_files(&self.meeting.directory) == living;
        within(&format!("nothing is left behind; before: {found:?}"), none_is_left).await;
    }

    async fn servers_die(&self, plan: &Plan, rounds: u64, random: &mut Random) -> Tally {
        let client = self.meeting.client();
        let mut tally = Tally::default();
        let mut before = None;
        for round in 0..rounds.max(plan.names.len() as u64) {
            let (end, moment) = plan.end(round, random);
            let text = format!("round {round}, {end:?}");
            let notes = self.report.join("Server").join("notes");
            drop(fs::remove_file(&notes));
            // At once on the same name, with what the one before left.
            let mut victim = self.victim(Role::Server, end, flavor(round));
            let mut book = Book::default();
            let ends = async {
                if let Some(moment) = moment {
                    tokio::time::sleep(moment).await;
                    victim.kill();
                }
                victim.ends().await
            };
            let (fate, lost) = outlive(ends, &client, &mut book, moment.is_none()).await;
            tally.count(&fate, lost, &text);
            check(&book, &notes, &text);
            within(&text, || !client.is_connected()).await;
            if round % 2 == 1 {
                self.only_the_living_have_files(&[], 0).await;
            }
            Holdings::are_as_before(&mut before, &text).await;
        }
        self.only_the_living_have_files(&[], 0).await;
        Holdings::memory_has_not_grown(before);
        tally
    }

    async fn both_die(&self, plan: &Plan, rounds: u64, random: &mut Random) -> Tally {
        let mut tally = Tally::default();
        for round in 0..rounds.max(plan.names.len() as u64) {
            let (end, moment) = plan.end(round, random);
            let mut server = self.victim(Role::Server, end, flavor(round));
            let mut client = self.victim(Role::Mourner, End::Outside, flavor(round / 2));
            let moment = moment.unwrap_or(plan.takes * 2);
            // Its step, or this moment, whichever comes first.
            let at_its_step = timeout(moment, server.ends()).await;
            tokio::time::sleep(Duration::from_micros(random.below(2000))).await;
            client.kill();
            client.ends().await;
            let fate = match at_its_step {
                Ok(fate) => fate,
                Err(_) => {
                    server.kill();
                    server.ends().await
                }
            };
            tally.count(&fate, None, "both");
            // Whoever comes next has the name, and a connection, at once.
            let next = self.meeting.server(&Life::new(None));
            next.start_waiting_for_connection().await.unwrap();
            self.next_client_is_served().await;
            assert_eq!(lasting_files(&self.meeting.directory), listening("test"));
            let down = timeout(PATIENCE * 2, next.shutdown(PATIENCE)).await;
            down.expect("a shutdown hangs");
            assert_eq!(files(&self.meeting.directory), [""; 0]);
        }
        tally
    }
}

const fn flavor(round: u64) -> Flavor {
    if round.is_multiple_of(2) { Flavor::CurrentThread } else { Flavor::MultiThread }
}

/// Waits for what must be so soon.
async fn within(text: &str, condition: impl FnMut() -> bool) {
    timeout(PATIENCE, eventually(text, condition))
        .await
        .unwrap_or_else(|_| panic!("never: {text}"));
}

/// Calls a server until its end; also returns when its client had noticed, if it had been connected.
async fn outlive(
    ends: impl Future<Output = Fate>,
    client: &WitClient,
    book: &mut Book,
    leaves: bool,
) -> (Fate, Option<u64>) {
    let connected = Cell::new(false);
    let mut survives = pin!(survive(client, book, leaves, &connected));
    let mut ends = pin!(ends);
    tokio::select! {
        biased;
        lost = &mut survives => (ends.await, lost),
        fate = &mut ends => match connected.get() {
            true => (fate, timeout(PATIENCE, survives).await.expect("nothing was noticed")),
            // It looks for a server, and would find the next one.
            false => (fate, None),
        },
    }
}

/// A client's whole life with one server: connects, and calls until the connection is lost; if `leaves`, it asks the server
/// to end after a while. Returns when a call that nobody answers failed because the server was gone.
async fn survive(
    client: &WitClient,
    book: &mut Book,
    leaves: bool,
    connected: &Cell<bool>,
) -> Option<u64> {
    client.connect(PATIENCE).await.unwrap();
    connected.set(true);
    let mortal: MortalClient = client.get_service();
    let waiting = mortal.wait();
    let waiting = tokio::spawn(async move { (waiting.await.unwrap_err(), now()) });
    let mut ticked = mortal.ticked().subscribe();
    let mut lost = exercise(&mortal, &mut ticked, book).await;
    if leaves && lost.is_ok() {
        lost = mortal.leave().await;
    }
    while lost.is_ok() {
        lost = exercise(&mortal, &mut ticked, book).await;
    }
    assert!(matches!(lost, Err(Error::Closed { .. })), "{lost:?}");
    let (error, at) = timeout(PATIENCE, waiting).await.expect("a call hangs").unwrap();
    // Its stream has ended, too.
    let end = async { while ticked.next().await.is_some() {} };
    timeout(PATIENCE, end).await.expect("a stream goes on");
    match error {
        Error::Closed { reason: CloseReason::PeerGone, .. } => Some(at),
        Error::Closed { reason: CloseReason::Peer(_), .. } => None,
        error => panic!("{error:?}"),
    }
}

/// The server ends in good order; its answer may be that it is gone already.
async fn asked_to_leave(mortal: &MortalClient) {
    let answer = mortal.leave().await;
    let gone = |error: &Error| matches!(error, Error::Closed { reason: CloseReason::Peer(_), .. });
    assert!(answer.as_ref().err().is_none_or(gone), "{answer:?}");
}

/// What the server noted, and what its client was told of it.
fn check(book: &Book, notes: &Path, text: &str) {
    let noted = fs::read(notes).unwrap_or_default();
    let (numbers, rest) = noted.as_chunks();
    assert!(rest.is_empty(), "{text}: half a note");
    let noted: BTreeSet<u64> = numbers.iter().map(|number| u64::from_le_bytes(*number)).collect();
    assert_eq!(noted.len(), numbers.len(), "{text}: a call was executed twice");
    let missing = book.answered.iter().find(|number| !noted.contains(number));
    assert_eq!(missing, None, "{text}: answered, and not executed; {book:?}");
    assert!(!book.unsent.iter().any(|number| noted.contains(number)), "{text}: {book:?}");
}

/// A client beside those that die: whatever becomes of them, its calls are answered.
struct Witness {
    over: Arc<AtomicBool>,
    calls: JoinHandle<u64>,
}

impl Witness {
    async fn start(meeting: &Meeting) -> Self {
        let client = meeting.client();
        client.connect(PATIENCE).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let calls = tokio::spawn({
            let over = Arc::clone(&over);
            async move {
                let mortal: MortalClient = client.get_service();
                let mut ticked = mortal.ticked().subscribe();
                let mut calls = 0;
                while !over.load(Ordering::Relaxed) {
                    exercise(&mortal, &mut ticked, &mut Book::default()).await.unwrap();
                    calls += 1;
                    // So that the dying get their share of the processor.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                calls
            }
        });
        Self { over, calls }
    }

    async fn ends(self) {
        self.over.store(true, Ordering::Relaxed);
        assert!(self.calls.await.unwrap() > 0);
    }
}

/// What this process holds of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    regions: usize,
    /// Anonymous memory in bytes; only looked at when the rounds begin and end.
    memory: u64,
}

impl Holdings {
    fn now(memory: u64) -> Self {
        Self { descriptors: descriptors(), regions: regions(), memory }
    }

    /// As little as this process holds for a while: what is being taken down may take a moment.
    async fn at_rest() -> Self {
        let mut rest = Self::now(anonymous_memory());
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = Self::now(rest.memory);
            rest.descriptors = rest.descriptors.min(now.descriptors);
            rest.regions = rest.regions.min(now.regions);
        }
        rest
    }

    /// The first call tells what is to be so from then on.
    async fn are_as_before(before: &mut Option<Self>, text: &str) {
        match before {
            None => *before = Some(Self::at_rest().await),
            Some(before) => {
                let memory = before.memory;
                let text = format!("{text}: as before: {before:?}");
                within(&text, || Self::now(memory) == *before).await;
            }
        }
    }

    fn memory_has_not_grown(before: Option<Self>) {
        let (before, now) = (before.unwrap().memory, anonymous_memory());
        assert!(now < before + SLACK, "{before} bytes have become {now}");
    }
}

fn anonymous_memory() -> u64 {
    anonymous_kib() << 10
}
