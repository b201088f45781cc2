//! Connections whose handles a program is given once it runs.
//!
//! The program is this test binary once more, running one of the `role_` tests; in the parent those do nothing.

use std::io::{ErrorKind, Read as _};
use std::process::{Child, Command, Stdio};

use witrpc_core::WaitStrategy;
use witrpc_mmf::inherited::{Bequest, HostEnd, VARIABLE, WorkerEnd, pair};

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
    command.args(["--exact", &format!("handed::{role}"), "--nocapture"]).env(ROLE, role);
    command.stdout(Stdio::null());
    command
}

/// A program that was not given its handles yet.
fn announced(role: &str) -> (HostEnd, Bequest, Program) {
    let (host, mut bequest) = pair(SIZE).unwrap();
    let mut command = command(role);
    bequest.give(&mut command).unwrap();
    (host, bequest, Program(command.spawn().unwrap()))
}

fn start(role: &str) -> (HostEnd, Program) {
    let (host, bequest, program) = announced(role);
    bequest.hand_over(&program.0).unwrap();
    (host, program)
}

fn is_role(role: &str) -> bool {
    std::env::var_os(ROLE).is_some_and(|given| given == role)
}

fn open(host: HostEnd) -> Peer {
    Peer(host.open(None, WaitStrategy::Park, Box::new(())).unwrap())
}

#[tokio::test]
async fn records_cross_to_a_program_and_back_until_one_of_the_two_ends() {
    let (host, program) = start("role_echo");
    let mut host = open(host);
    for number in 0_u32..500 {
        let record = number.to_le_bytes().repeat(number as usize % 300 + 1);
        host.send(&record).await;
        assert_eq!(within(host.recv()).await.unwrap(), record);
    }
    drop(program);
    host.is_gone().await;

    // And the other way round: the program ends when its host has gone.
    let (host, program) = start("role_echo");
    let mut host = open(host);
    host.send(b"x").await;
    assert_eq!(within(host.recv()).await.unwrap(), b"x");
    drop(host);
    // The runtime closes the pipe once the system has ended what it was doing there.
    assert!(tokio::task::spawn_blocking(|| program.wait()).await.unwrap().success());
}

#[tokio::test]
async fn role_echo() {
    if !is_role("role_echo") {
        return;
    }
    let end = WorkerEnd::take().unwrap();
    let mut peer = Peer(end.open(WaitStrategy::Park, Box::new(())).unwrap());
    while let Some(record) = within(peer.recv()).await {
        peer.send(&record).await;
    }
}

/// Whatever becomes of it: the host sees its end, though nothing was opened.
#[tokio::test]
async fn a_program_that_takes_nothing_is_gone_when_it_has_ended() {
    let (host, program) = start("role_does_nothing");
    assert!(program.wait().success());
    open(host).is_gone().await;
}

#[test]
fn role_does_nothing() {}

#[test]
fn a_program_takes_what_it_was_given_once_and_what_it_starts_has_nothing() {
    let (_host, program) = start("role_looks_around");
    assert!(program.wait().success());
}

#[test]
fn role_looks_around() {
    if !is_role("role_looks_around") {
        return;
    }
    assert!(WorkerEnd::is_here() && WorkerEnd::is_here());
    let finds_nothing = |input: Stdio| command("role_finds_nothing").stdin(input).status().unwrap();
    assert!(finds_nothing(Stdio::null()).success());
    let end = WorkerEnd::take().unwrap();
    assert!(!WorkerEnd::is_here());
    let again = WorkerEnd::take().unwrap_err().to_string();
    assert!(again.contains("taken over before"), "{again}");
    assert_eq!(std::io::stdin().read(&mut [0; 16]).unwrap(), 0, "nothing is left in it");
    assert!(finds_nothing(Stdio::inherit()).success());
    drop(end);
}

#[test]
fn role_finds_nothing() {
    if !is_role("role_finds_nothing") {
        return;
    }
    assert!(std::env::var_os(VARIABLE).is_some() && !WorkerEnd::is_here());
    let missing = WorkerEnd::take().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

/// In another process the numbers would be handles of something else.
#[test]
fn what_is_for_another_process_is_refused() {
    let (_host, bequest, program) = announced("role_is_another");
    let (_other_host, other_bequest, other) = announced("role_is_another");
    bequest.hand_over(&other.0).unwrap();
    other_bequest.hand_over(&program.0).unwrap();
    assert!(program.wait().success() && other.wait().success());
}

#[test]
fn role_is_another() {
    if is_role("role_is_another") {
        let refused = WorkerEnd::take().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData, "{refused}");
        assert!(refused.to_string().contains("another process"), "{refused}");
    }
}

#[test]
fn a_program_whose_host_says_no_more_is_no_worker() {
    let (_host, bequest, program) = announced("role_is_left_alone");
    drop(bequest);
    assert!(program.wait().success());
}

#[test]
fn role_is_left_alone() {
    if is_role("role_is_left_alone") {
        assert!(WorkerEnd::is_here());
        assert_eq!(WorkerEnd::take().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
