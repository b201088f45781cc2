//! Connections whose descriptors a program inherits.
//!
//! The program is this test binary once more, running one of the `role_` tests; in the parent those do nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use witrpc_core::WaitStrategy;
use witrpc_mmf::inherited::{HostEnd, Lifeline, VARIABLE, WorkerEnd, pair};

use crate::common::{Peer, within};

const ROLE: &str = "WITRPC_MMF_TEST_ROLE";
const SIZE: u64 = 64 << 10;

/// Kills the program at the end at the latest.
struct Program(Child);

impl Program {
    fn wait(mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("inherited::{role}"), "--nocapture"]).env(ROLE, role);
    command.stdout(Stdio::null());
    command
}

fn start(role: &str) -> (HostEnd, Lifeline, Program) {
    let (host, lifeline, bequest) = pair(SIZE, 0).unwrap();
    let mut command = command(role);
    bequest.give(&mut command).unwrap();
    (host, lifeline, Program(command.spawn().unwrap()))
}

fn is_role(role: &str) -> bool {
    std::env::var_os(ROLE).is_some_and(|given| given == role)
}

fn open(host: HostEnd) -> Peer {
    Peer(host.open(None, None, WaitStrategy::Park, Box::new(()), None).unwrap())
}

/// As the variable announces them.
fn numbers() -> Vec<i32> {
    let text = std::env::var(VARIABLE).unwrap();
    text.split(' ').skip(4).map(|word| word.split_once(':').unwrap().0.parse().unwrap()).collect()
}

/// Those above the standard streams.
fn open_descriptors() -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = entries.map(|entry| entry.unwrap().path());
    // Without the one that reads this folder.
    let open = links.filter(|path| path.read_link().is_ok_and(|to| !to.ends_with("fd")));
    let numbers = open.map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap());
    numbers.filter(|number| *number > 2).collect()
}

#[tokio::test]
async fn records_cross_to_a_program_and_back_until_one_of_the_two_ends() {
    let (host, lifeline, program) = start("role_echo");
    let mut host = open(host);
    for number in 0_u32..500 {
        let record = number.to_le_bytes().repeat(number as usize % 300 + 1);
        host.send(&record).await;
        assert_eq!(within(host.recv()).await.unwrap(), record);
    }
    drop(program);
    host.is_gone().await;
    lifeline.wait().unwrap();

    // And the other way round: the program ends when its host has gone.
    let (host, lifeline, program) = start("role_echo");
    let mut host = open(host);
    host.send(b"x").await;
    assert_eq!(within(host.recv()).await.unwrap(), b"x");
    drop((host, lifeline));
    assert!(program.wait().success());
}

#[tokio::test]
async fn role_echo() {
    if !is_role("role_echo") {
        return;
    }
    let (end, lifeline) = WorkerEnd::take().unwrap();
    let mut peer = Peer(end.open(WaitStrategy::Park, Box::new(()), None).unwrap());
    while let Some(record) = within(peer.recv()).await {
        peer.send(&record).await;
    }
    lifeline.wait().unwrap();
}

#[test]
fn a_program_inherits_its_connection_and_nothing_else() {
    // What other code of the host may have opened without thinking of programs that are started.
    let leaked = File::open("/dev/null").unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    let (_host, _lifeline, program) = start("role_looks_around");
    assert!(program.wait().success());
    // The mark was set in the program only.
    assert_eq!(rustix::io::fcntl_getfd(&leaked).unwrap(), FdFlags::empty());
}

#[test]
fn role_looks_around() {
    if !is_role("role_looks_around") {
        return;
    }
    let announced: BTreeSet<_> = numbers().into_iter().collect();
    assert_eq!(open_descriptors(), announced);
    assert!(announced.len() >= 4);
    assert!(WorkerEnd::is_here());
    let end = WorkerEnd::take().unwrap();
    assert!(!WorkerEnd::is_here());
    let again = WorkerEnd::take().unwrap_err().to_string();
    assert!(again.contains("taken over before"), "{again}");
    // A program that it starts now is told of descriptors that it does not have.
    let status = command("role_finds_nothing").status().unwrap();
    assert!(status.success());
    drop(end);
}

#[test]
fn role_finds_nothing() {
    if !is_role("role_finds_nothing") {
        return;
    }
    assert!(std::env::var_os(VARIABLE).is_some() && !WorkerEnd::is_here());
    let missing = WorkerEnd::take().unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound, "{missing}");
}

#[tokio::test]
async fn neither_side_can_truncate_a_region_that_is_inherited() {
    let (host, _lifeline, program) = start("role_truncates");
    let mut host = open(host);
    assert_eq!(within(host.recv()).await.unwrap(), b"tried");
    // All of it is still there.
    let capacity = host.0.sender.capacity();
    for _ in 0..2 * capacity / 1000 {
        host.send(&[7; 1000]).await;
    }
    assert!(program.wait().success());
}

#[tokio::test]
async fn role_truncates() {
    if !is_role("role_truncates") {
        return;
    }
    let path = format!("/proc/self/fd/{}", numbers()[0]);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    for size in [0, 4096, SIZE - 1, SIZE + 1, 2 * SIZE] {
        let refused = file.set_len(size).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{size}: {refused}");
    }
    assert!(file.write_all_at(b"x", SIZE).is_err(), "it does not grow");
    let truncated = File::options().write(true).truncate(true).open(&path);
    assert!(truncated.is_err(), "nor by being opened");
    // No other seal can be added: one against writing would end the host's connection, and more.
    let sealed = rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::FUTURE_WRITE);
    assert_eq!(sealed, Err(rustix::io::Errno::PERM));
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    let (end, _lifeline) = WorkerEnd::take().unwrap();
    let mut peer = Peer(end.open(WaitStrategy::Park, Box::new(()), None).unwrap());
    peer.send(b"tried").await;
    let mut received = 0;
    while received < 2 * peer.0.sender.capacity() / 1000 {
        assert_eq!(within(peer.recv()).await.unwrap(), [7; 1000]);
        received += 1;
    }
}
