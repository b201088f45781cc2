//! Workers that are confined. Each attempt to get out is made by two workers: one with a sandbox, and a twin without one, which succeeds.
//!
//! The worker is a program of its own (`sandbox/worker.rs`), as it calls its agent before it has threads.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use witrpc::prelude::*;
use witrpc::{Descriptor, Error, Restriction, Sandbox, WorkerBuilder, WorkerState};

use crate::fixture::{Flavor, GUARD, block_on};

mod contract;
pub(crate) mod toil;

use contract::{Aim, Calculator, CalculatorServer, CaptiveClient, Outcome, READS, ROLE};

/// Of confined workers, where it matters.
const MEMORY: u64 = 256 << 20;
/// What the kernel of a machine may not offer to anybody. `a_call_of_x32` is checked against the filter itself (`filter::tests`).
const SELDOM: [&str; 7] = [
    "a call of x32",
    "io_uring",
    "userfaultfd",
    "perf events",
    "compare with the host",
    "open by a handle",
    "set an attribute",
];

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_sandboxed")
}

struct Doubles;

impl Calculator for Doubles {
    async fn double(&self, number: i32) -> witrpc::Result<i32> {
        Ok(2 * number)
    }
}

fn twin() -> WorkerBuilder {
    Worker::new(|| Command::new(program()))
        .with_ready_timeout(GUARD)
        .with_service(CalculatorServer::new(Doubles))
}

fn confined(sandbox: Sandbox) -> WorkerBuilder {
    twin().with_sandbox(sandbox)
}

fn with_role(role: String) -> WorkerBuilder {
    Worker::new(move || {
        let mut command = Command::new(program());
        command.env(ROLE, &role);
        command
    })
    .with_ready_timeout(GUARD)
}

/// What attempts are aimed at, as long as it lives.
struct Targets {
    folder: TempDir,
    aim: Aim,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Targets {
    fn new() -> Self {
        static SECRET: u64 = u64::from_le_bytes(*b"harmless");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "for the host only").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let socket = folder.path().join("socket");
        let by_path = UnixListener::bind(&socket).unwrap();
        let abstract_socket = format!("witrpc-sandbox-{}", folder.path().display());
        let name = SocketAddr::from_abstract_name(&abstract_socket).unwrap();
        let by_name = UnixListener::bind_addr(&name).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let own = Box::leak(Box::new(SECRET));
        let aim = Aim {
            host: std::process::id().try_into().unwrap(),
            file: text(&file),
            folder: text(folder.path()),
            port: listener.local_addr().unwrap().port(),
            socket: text(&socket),
            abstract_socket,
            library: text(&library()),
            address: std::ptr::from_ref(own) as usize,
            bytes: 1 << 30,
        };
        Self { folder, aim, _listeners: (listener, by_path, by_name) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// A library that every worker has.
fn c_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("/libc.so")).expect("a C library");
    PathBuf::from(&line[line.find('/').unwrap()..])
}

/// One that no worker has.
fn library() -> PathBuf {
    c_library().with_file_name("libresolv.so.2")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the system answers to whom it refuses something.
fn is_refusal(outcome: &Outcome) -> bool {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM];
    matches!(outcome, Outcome::Refused(error) if refusals.contains(error))
}

async fn attempt(captive: &CaptiveClient, what: &str, aim: &Aim) -> Outcome {
    captive.attempt(what.to_owned(), aim.clone()).await.unwrap()
}

#[test]
fn whatever_a_confined_worker_tries_is_refused_and_its_twin_succeeds() {
    block_on(Flavor::MultiThread, async {
        let (targets, others) = (Targets::new(), Targets::new());
        let free = twin().spawn().await.unwrap();
        let sandbox = Sandbox::compute().with_max_memory(MEMORY);
        let confined = confined(sandbox).spawn().await.unwrap();
        let (free, captive): (CaptiveClient, CaptiveClient) =
            (free.get_service(), confined.get_service());
        let attempts = free.attempts().await.unwrap();
        assert!(attempts.len() > 70, "{}", attempts.len());
        let mut unavailable = Vec::new();
        for (what, takes_root) in attempts {
            let outcome = attempt(&captive, &what, &targets.aim).await;
            assert!(is_refusal(&outcome), "confined: {what}: {outcome:?}");
            // Each is aimed at things of its own: a confined one must not profit from what its twin has done.
            let outcome = attempt(&free, &what, &others.aim).await;
            let skipped = takes_root && !is_root();
            if outcome != Outcome::Succeeded && !skipped {
                unavailable.push((what, outcome));
            }
        }
        println!("not to be had on this machine: {unavailable:?}");
        assert!(unavailable.iter().all(|(what, _)| SELDOM.contains(&&**what)), "{unavailable:?}");
        let file = std::fs::read_to_string(&targets.aim.file).unwrap();
        assert_eq!(file, "for the host only");
        let left = std::fs::read_dir(targets.folder.path()).unwrap().count();
        assert_eq!(left, 2, "it has made something");
        // It is alive and well.
        assert_eq!(captive.add(20, 22).await.unwrap(), 42);
        assert!(confined.shutdown(GUARD).await.success());
    });
}

/// What newer versions of Landlock add, the filters enforce: the oldest one suffices. (Here it is asked for no more than that.)
#[test]
fn older_versions_of_landlock_suffice() {
    block_on(Flavor::MultiThread, async {
        for version in [1, 2, 3, 5, 6] {
            let targets = Targets::new();
            let readable = targets.path("readable");
            std::fs::create_dir(&readable).unwrap();
            std::fs::write(format!("{readable}/short"), "x").unwrap();
            let sandbox = Sandbox::compute().with_max_memory(MEMORY).with_landlock_at_most(version);
            assert_eq!(sandbox.missing(), []);
            let worker = confined(sandbox.with_read(&readable)).spawn().await.unwrap();
            let captive: CaptiveClient = worker.get_service();
            for (what, _) in captive.attempts().await.unwrap() {
                let outcome = attempt(&captive, &what, &targets.aim).await;
                assert!(is_refusal(&outcome), "version {version}: {what}: {outcome:?}");
            }
            // Before version 3, whoever can read can truncate, as far as Landlock knows.
            let aim = Aim { folder: readable.clone(), ..targets.aim.clone() };
            let outcome = attempt(&captive, "truncate while opening for reading", &aim).await;
            assert!(is_refusal(&outcome), "version {version}: {outcome:?}");
            let kept = captive.read_path(format!("{readable}/short")).await.unwrap();
            assert_eq!(kept, "x");
            assert!(worker.shutdown(GUARD).await.success());
        }
        let none = Sandbox::compute().with_landlock_at_most(0);
        assert_eq!(none.missing(), [Restriction::FilesAtStart]);
        let error = confined(none.clone()).spawn().await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        confined(none.best_effort()).spawn().await.unwrap();
    });
}

/// Stage two: a worker reads the libraries that it has been started with before it calls its agent, and not from then on.
#[test]
fn what_only_the_start_needed_is_given_up() {
    block_on(Flavor::MultiThread, async {
        let library = c_library();
        let aim = |file: &Path| Aim { file: file.to_str().unwrap().to_owned(), ..Aim::default() };
        let role = format!("{READS}{}", library.display());
        let worker = with_role(role).with_sandbox(Sandbox::compute()).spawn().await.unwrap();
        let captive: CaptiveClient = worker.get_service();
        let early = captive.early().await.unwrap();
        assert_eq!(early, [("read a file".to_owned(), Outcome::Succeeded)]);
        let outcome = attempt(&captive, "read a file", &aim(&library)).await;
        assert_eq!(outcome, Outcome::Refused(libc::EACCES));
        let outcome = attempt(&captive, "execute itself", &Aim::default()).await;
        assert_eq!(outcome, Outcome::Refused(libc::EPERM));
        // For backtraces.
        let outcome = attempt(&captive, "read a file", &aim(Path::new(program()))).await;
        assert_eq!(outcome, Outcome::Succeeded);
        assert!(worker.shutdown(GUARD).await.success());
    });
}

/// Stage one: a program that does not call its agent is held, too.
#[test]
fn what_a_program_tries_before_its_agent_takes_over_is_refused() {
    block_on(Flavor::MultiThread, async {
        let targets = Targets::new();
        let role = serde_json::to_string(&targets.aim).unwrap();
        let sandbox = Sandbox::compute().with_max_memory(MEMORY);
        let worker = with_role(role.clone()).with_sandbox(sandbox).spawn().await.unwrap();
        let early = worker.get_service::<CaptiveClient>().early().await.unwrap();
        assert!(early.len() > 70);
        for (what, outcome) in early {
            assert!(is_refusal(&outcome), "{what}: {outcome:?}");
        }
        assert!(worker.shutdown(GUARD).await.success());
        let free = with_role(role).spawn().await.unwrap();
        let early = free.get_service::<CaptiveClient>().early().await.unwrap();
        let succeeded = early.iter().filter(|(_, outcome)| *outcome == Outcome::Succeeded).count();
        assert!(succeeded > 40, "{early:?}");
    });
}

#[test]
fn a_confined_worker_computes_panics_and_shows_backtraces() {
    block_on(Flavor::MultiThread, async {
        let sandbox = Sandbox::compute().with_max_memory(MEMORY).with_max_descriptors(64);
        let worker = confined(sandbox).spawn().await.unwrap();
        let captive: CaptiveClient = worker.get_service();
        // Threads, locks, channels and timers; many at a time.
        let expected: u64 =
            (0..16).map(|number| (0..100_000).map(|at| at % 7 + number).sum::<u64>()).sum();
        let rounds = (0..8).map(|_| tokio::spawn(captive.compute(16))).collect::<Vec<_>>();
        for round in rounds {
            assert_eq!(round.await.unwrap().unwrap(), expected);
        }
        let panicked = captive.panics().await.unwrap_err();
        assert!(panicked.to_string().contains("as asked"), "{panicked}");
        let backtrace = captive.backtrace().await.unwrap();
        assert!(
            backtrace.contains("captive::Prisoner") && backtrace.contains("worker.rs"),
            "{backtrace}"
        );
        // The host's services, and what the host sends.
        assert_eq!(captive.doubled(21).await.unwrap(), 42);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"opened by the host").unwrap();
        file.rewind().unwrap();
        assert_eq!(captive.read(file.into()).await.unwrap(), "opened by the host");
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_descriptor_gives_no_more_than_it_is() {
    block_on(Flavor::MultiThread, async {
        let sandbox = Sandbox::compute();
        let confined = confined(sandbox).spawn().await.unwrap();
        let free = twin().spawn().await.unwrap();
        let (free, captive): (CaptiveClient, CaptiveClient) =
            (free.get_service(), confined.get_service());
        let file = tempfile::tempfile().unwrap();
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let terminal = || {
            use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let name = ptsname(&master, Vec::new()).unwrap();
            let slave = std::fs::File::open(name.to_str().unwrap()).unwrap();
            (master, slave)
        };
        let (_master, slave) = terminal();
        let program = || std::fs::File::open("/bin/true").unwrap();
        let given: [(&str, bool, std::os::fd::OwnedFd); 4] = [
            ("type into a terminal", true, slave.into()),
            ("execute a descriptor", false, program().into()),
            ("change the mode of a descriptor", false, file.into()),
            ("connect a socket", false, socket.into()),
        ];
        for (what, takes_root, descriptor) in given {
            let copy = Descriptor::new(descriptor.try_clone().unwrap());
            let outcome = captive.attempt_with(what.to_owned(), copy).await.unwrap();
            assert!(is_refusal(&outcome), "confined: {what}: {outcome:?}");
            let outcome = free.attempt_with(what.to_owned(), descriptor.into()).await.unwrap();
            assert!(
                outcome == Outcome::Succeeded || (takes_root && !is_root()),
                "{what}: {outcome:?}"
            );
        }
    });
}

#[test]
fn what_the_sandbox_grants_can_be_read_and_written_and_nothing_beside_it() {
    block_on(Flavor::MultiThread, async {
        let targets = Targets::new();
        let folders = ["readable", "writable", "secret"].map(|name| targets.path(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(format!("{folder}/file"), "text").unwrap();
        }
        let [readable, writable, secret] = folders;
        let sandbox = Sandbox::compute().with_read(&readable).with_write(&writable);
        let worker = confined(sandbox.with_read(&targets.aim.file)).spawn().await.unwrap();
        let captive: CaptiveClient = worker.get_service();
        let read = |path: String| captive.read_path(path);
        let write = |path: String| captive.write_path(path, "new".to_owned());
        assert_eq!(read(format!("{readable}/file")).await.unwrap(), "text");
        assert_eq!(read(readable.clone()).await.unwrap(), "1 entries");
        assert_eq!(read(targets.aim.file.clone()).await.unwrap(), "for the host only");
        write(format!("{readable}/file")).await.unwrap_err();
        write(targets.aim.file.clone()).await.unwrap_err();
        write(format!("{writable}/file")).await.unwrap();
        write(format!("{writable}/other")).await.unwrap();
        assert_eq!(read(format!("{writable}/file")).await.unwrap(), "new");
        assert_eq!(read(writable.clone()).await.unwrap(), "2 entries");
        for path in [format!("{secret}/file"), secret, "/etc/passwd".to_owned()] {
            let refused = read(path.clone()).await.unwrap_err().to_string();
            assert!(refused.contains("Permission denied"), "{path}: {refused}");
        }
        // By a way round.
        read(format!("{readable}/../secret/file")).await.unwrap_err();
        // In a directory that can be written, too, only files and directories are made.
        let aim = Aim {
            folder: writable.clone(),
            file: format!("{writable}/file"),
            ..targets.aim.clone()
        };
        for what in ["make a file", "make a directory", "remove a file", "make a nameless file"] {
            assert_eq!(attempt(&captive, what, &aim).await, Outcome::Succeeded, "{what}");
        }
        for what in [
            "make a link",
            "make a second name",
            "make a FIFO",
            "change a mode",
            "change an owner",
            "truncate while opening for reading",
        ] {
            let outcome = attempt(&captive, what, &aim).await;
            assert!(is_refusal(&outcome), "{what}: {outcome:?}");
        }
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_worker_that_has_used_its_cpu_time_is_ended_and_its_successor_is_confined_too() {
    block_on(Flavor::MultiThread, async {
        let targets = Targets::new();
        let sandbox = Sandbox::compute().with_cpu_time(Duration::from_secs(1));
        let policy = RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(1));
        let worker = confined(sandbox).with_restart(policy).spawn().await.unwrap();
        let (captive, mut state): (CaptiveClient, _) = (worker.get_service(), worker.state());
        let mut events = worker.events();
        let first = captive.process().await.unwrap();
        let lost = captive.burn().await.unwrap_err();
        assert!(matches!(lost, Error::Closed { .. }), "{lost}");
        let exit = loop {
            if let witrpc::WorkerEvent::Ended(exit) = events.recv().await.unwrap() {
                break exit;
            }
        };
        assert_eq!(exit.status.unwrap().signal(), Some(libc::SIGXCPU));
        let is_next = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if *process_id != first);
        state.wait_for(is_next).await.unwrap();
        for what in ["read a file", "start a program", "open a socket", "load a library"] {
            let outcome = attempt(&captive, what, &targets.aim).await;
            assert!(is_refusal(&outcome), "{what}: {outcome:?}");
        }
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn limits_are_those_that_were_set() {
    block_on(Flavor::MultiThread, async {
        let targets = Targets::new();
        let sandbox = Sandbox::compute().with_max_memory(MEMORY).with_max_descriptors(40);
        let worker = confined(sandbox).spawn().await.unwrap();
        let captive: CaptiveClient = worker.get_service();
        let opened = captive.descriptors(200).await.unwrap();
        assert!((1..=40).contains(&opened), "{opened}");
        let free = twin().spawn().await.unwrap();
        let free: CaptiveClient = free.get_service();
        assert!(free.descriptors(200).await.unwrap() > 40);
        // What is within the limit can be had, again and again. (An allocator keeps pieces, for each of several threads.)
        for _ in 0..20 {
            for (what, bytes) in
                [("allocate beyond the limit", 64), ("allocate beyond it piece by piece", 4)]
            {
                let aim = Aim { bytes: bytes << 20, ..targets.aim.clone() };
                assert_eq!(attempt(&captive, what, &aim).await, Outcome::Succeeded, "{what}");
            }
        }
        let outcome = attempt(&captive, "allocate beyond the limit", &targets.aim).await;
        assert_eq!(outcome, Outcome::Refused(libc::ENOMEM));
    });
}

#[test]
fn a_confined_worker_can_lend_and_be_lent_memory_which_its_limit_does_not_count() {
    block_on(Flavor::MultiThread, async {
        let sandbox = Sandbox::compute().with_max_memory(MEMORY);
        let worker = confined(sandbox).with_lending(MEMORY + 1).spawn().await.unwrap();
        let maps = format!("/proc/{}/maps", worker.process_id().unwrap());
        let maps = std::fs::read_to_string(maps).unwrap();
        let arenas = maps.lines().filter(|line| line.contains("memfd:witrpc-arena"));
        let rights: Vec<_> = arenas.map(|line| line.split(' ').nth(1).unwrap()).collect();
        assert!(rights.contains(&"rw-s") && rights.contains(&"r--s") && rights.len() == 2);
        assert_eq!(worker.get_service::<CaptiveClient>().add(20, 22).await.unwrap(), 42);
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_worker_may_end_itself_and_is_ended_by_a_call_of_another_architecture() {
    block_on(Flavor::MultiThread, async {
        let ends = async |asks: fn(&CaptiveClient) -> witrpc::Call<witrpc::Result<()>>| {
            let worker = confined(Sandbox::compute()).spawn().await.unwrap();
            let lost = asks(&worker.get_service()).await.unwrap_err();
            assert!(matches!(lost, Error::Closed { .. }), "{lost}");
            worker.exited().await.status.unwrap().signal()
        };
        assert_eq!(ends(|captive| captive.abort()).await, Some(libc::SIGABRT));
        let free = twin().spawn().await.unwrap();
        let free: CaptiveClient = free.get_service();
        // Nothing answers where programs of 32 bits cannot run.
        let answer = free.old_door().await.ok();
        let process = i32::try_from(free.process().await.unwrap_or_default()).unwrap();
        if answer.is_some_and(|answer| answer == process) {
            let worker = confined(Sandbox::compute()).spawn().await.unwrap();
            worker.get_service::<CaptiveClient>().old_door().await.unwrap_err();
            let signal = worker.exited().await.status.unwrap().signal();
            assert_eq!(signal, Some(libc::SIGSYS));
        }
    });
}

#[test]
fn an_agent_that_is_called_too_late_says_what_to_do() {
    block_on(Flavor::MultiThread, async {
        let free = twin().spawn().await.unwrap();
        let landlock = free.get_service::<CaptiveClient>().landlock().await.unwrap();
        let late = || with_role("starts_a_thread".to_owned());
        assert!(late().spawn().await.unwrap().shutdown(GUARD).await.success());
        let started = late().with_sandbox(Sandbox::compute()).spawn().await;
        if landlock >= 8 {
            // All threads are bound.
            let worker = started.unwrap();
            let outcome =
                attempt(&worker.get_service(), "load a library", &Targets::new().aim).await;
            assert!(is_refusal(&outcome), "{outcome:?}");
            return;
        }
        let Error::Exited { stderr, .. } = started.unwrap_err() else { panic!("it was no exit") };
        assert!(stderr.contains("call Agent::from_env() first in a plain `fn main`"), "{stderr}");
    });
}

#[test]
fn a_launcher_that_executes_the_worker_takes_a_grant() {
    block_on(Flavor::MultiThread, async {
        let folder = tempfile::tempdir().unwrap();
        let launcher = folder.path().join("launcher");
        let script = format!("#!/bin/sh\nexec {} \"$@\"\n", program());
        std::fs::write(&launcher, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&launcher, mode).unwrap();
        let launched = |sandbox: Sandbox| {
            let launcher = launcher.clone();
            let worker = Worker::new(move || Command::new(&launcher)).with_ready_timeout(GUARD);
            worker.with_sandbox(sandbox).spawn()
        };
        let Error::Exited { stderr, .. } = launched(Sandbox::compute()).await.unwrap_err() else {
            panic!("it was no exit")
        };
        assert!(stderr.contains("Permission denied"), "{stderr}");
        let worker = launched(Sandbox::compute().with_execute(program())).await.unwrap();
        let captive: CaptiveClient = worker.get_service();
        assert_eq!(captive.add(20, 22).await.unwrap(), 42);
        assert!(captive.backtrace().await.unwrap().contains("captive::Prisoner"));
        let outcome = attempt(&captive, "execute itself", &Targets::new().aim).await;
        assert!(is_refusal(&outcome), "{outcome:?}");
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn settings_that_make_no_sense_are_named_and_a_missing_program_is_the_systems_error() {
    block_on(Flavor::MultiThread, async {
        let refused = async |sandbox: Sandbox| confined(sandbox).spawn().await.unwrap_err();
        let error = refused(Sandbox::compute().with_max_memory(1 << 20)).await;
        assert!(matches!(error, Error::Config { setting: "with_max_memory", .. }), "{error}");
        let error = refused(Sandbox::compute().with_read("/no/such/path")).await;
        assert!(matches!(error, Error::Config { setting: "with_read", .. }), "{error}");
        let missing = Worker::new(|| Command::new("/no/such/program"));
        let error = missing.with_sandbox(Sandbox::compute()).spawn().await.unwrap_err();
        let Error::Io { context, kind, .. } = &error else { panic!("{error}") };
        assert!(context.contains("/no/such/program"), "{error}");
        assert_eq!(*kind, std::io::ErrorKind::NotFound);
        assert_eq!(Sandbox::compute().missing(), [] as [Restriction; 0]);
    });
}

/// Its standard output is its host's: that ends when both have ended. A signal to itself is what ends it, as its threads are busy.
#[test]
fn a_confined_worker_ends_with_a_host_that_is_killed() {
    let mut host = Command::new(program());
    let mut host = host.env(ROLE, "is_killed").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("worker ") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the host has ended by itself");
    }
    host.kill().unwrap();
    host.wait().unwrap();
    let (ended, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        ended.send(output.read_to_end(&mut rest).map(drop)).unwrap();
    });
    waiting.recv_timeout(GUARD).expect("the worker goes on").unwrap();
}

/// What a host prints in other surroundings.
fn surroundings(command: &mut Command, role: &str) -> String {
    let output = command.env(ROLE, role).env_remove("RUST_BACKTRACE").output().unwrap();
    let [printed, said] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}\n{printed}\n{said}", output.status);
    printed
}

fn expect(printed: &str, lines: &[&str]) {
    for line in lines {
        assert!(printed.lines().any(|printed| printed == *line), "no {line:?} in:\n{printed}");
    }
}

/// In all surroundings, whatever enforces it.
const ALWAYS: [&str; 4] =
    ["sum 42", "computed 1799980", "allocate beyond the limit: refused", "ended true"];

#[test]
fn without_landlock_it_is_an_error_unless_the_user_makes_do() {
    let printed = surroundings(&mut Command::new(program()), "without_landlock");
    expect(&printed, &ALWAYS);
    expect(&printed, &["missing [FilesAtStart]", "missing to read [Files]"]);
    let error = printed.lines().find(|line| line.starts_with("error ")).expect("an error");
    for part in
        ["the sandbox of the worker", "the system cannot restrict", "no Landlock", "best_effort()"]
    {
        assert!(error.contains(part), "{error}");
    }
    // Then the filter lets nothing be opened.
    expect(&printed, &["read a file: refused", "list a directory: refused"]);
    expect(&printed, &["start a program: refused", "open a socket: refused", "fork: refused"]);
}

#[test]
fn without_filters_it_is_an_error_unless_the_user_makes_do() {
    let printed = surroundings(&mut Command::new(program()), "without_filters");
    expect(&printed, &ALWAYS);
    expect(&printed, &["missing [SystemCalls]", "missing to read [SystemCalls]"]);
    let error = printed.lines().find(|line| line.starts_with("error ")).expect("an error");
    assert!(error.contains("no seccomp filters"), "{error}");
    // What Landlock can do, it does; it reads its executable.
    expect(&printed, &["list a directory: refused", "start a program: refused", "fork: succeeded"]);
}

/// A directory with nothing but the worker's program, its loader and its libraries.
fn root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let listed = Command::new("ldd").arg(program()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in words.chain([program()]) {
        let copy = root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(path, copy).unwrap();
    }
    root
}

#[test]
fn a_host_in_a_container_with_nothing_but_its_program_has_confined_workers() {
    let root = root();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--pid", "--fork", "--root"]).arg(root.path()).arg(program());
    let printed = surroundings(&mut command, "in_a_container");
    expect(&printed, &ALWAYS);
    expect(&printed, &["process 1", "missing []", "fork: refused", "open a socket: refused"]);
    expect(&printed, &["list a directory: refused", "signal the host: refused"]);
    assert!(!printed.contains("error"), "{printed}");
}

#[test]
fn a_host_that_is_confined_itself_confines_its_workers_further() {
    let printed = surroundings(&mut Command::new(program()), "behind_landlock");
    expect(&printed, &ALWAYS);
    expect(&printed, &["missing []", "fork: refused", "list a directory: refused"]);
    assert!(!printed.contains("error"), "{printed}");
}
