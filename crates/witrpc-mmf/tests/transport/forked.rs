//! Processes that fork without `exec`: the child has copies of all descriptors, and none of the record locks.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use witrpc_core::Error;
use witrpc_mmf::{Door, Places, connect};

use crate::common::{Endpoint, Peer, Process, far, role, soon, within};

/// Forks a child that only waits, for a while, and returns its process id.
fn fork() -> Pid {
    // SAFETY: the child calls nothing but `alarm` and `pause`, which are async-signal-safe.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number. Should nobody kill the child, this ends it.
        unsafe { libc::alarm(60) };
        loop {
            // SAFETY: takes nothing, and only waits.
            unsafe { libc::pause() };
        }
    }
    Pid::from_raw(child).expect("fork works")
}

/// The process id in a record.
fn process_in(record: &[u8]) -> Pid {
    Pid::from_raw(i32::from_le_bytes(record.try_into().unwrap())).unwrap()
}

/// Ends the orphan, whatever becomes of the test.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        kill_process(self.0, Signal::KILL).ok();
    }
}

#[tokio::test]
async fn a_killed_server_is_noticed_while_its_forked_child_lives() {
    let endpoint = Endpoint::new(|file| file);
    let mut child =
        Process::start_by(this(), "forked::role_forking_server", endpoint.directory.path());
    let mut client = Peer(within(endpoint.connect()).await.unwrap());
    client.send(b"hello").await;
    let orphan = Orphan(process_in(&within(client.recv()).await.unwrap()));
    child.kill();
    client.is_gone().await;
    drop(client);
    // The orphan reads the door, and does not answer.
    let error = connect(&endpoint.file, soon()).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    // And it holds the lock, until it ends.
    let error = Door::open(&endpoint.file, &endpoint.places).await.unwrap_err();
    assert!(error.to_string().contains("a process forked off one"), "{error}");
    drop(orphan);
    let mut door = endpoint.open().await;
    drop(endpoint.pair(&mut door).await);
    drop(door);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn role_forking_server() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &Places::of(&file)).await.unwrap();
    let mut server = Peer(door.accept().await.unwrap());
    server.recv().await.unwrap();
    server.first_frame();
    server.send(&fork().as_raw_nonzero().get().to_le_bytes()).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_client_is_noticed_while_its_forked_child_lives() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let mut child =
        Process::start_by(this(), "forked::role_forking_client", endpoint.directory.path());
    let mut server = Peer(within(door.accept()).await.unwrap());
    let _orphan = Orphan(process_in(&within(server.recv()).await.unwrap()));
    server.first_frame();
    child.kill();
    server.is_gone().await;
    drop(server);
    drop(endpoint.pair(&mut door).await);
    drop(door);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn role_forking_client() {
    let Some(file) = role() else { return };
    let mut client = Peer(connect(&file, far()).await.unwrap());
    client.send(&fork().as_raw_nonzero().get().to_le_bytes()).await;
    std::future::pending::<()>().await;
}

fn this() -> std::process::Command {
    std::process::Command::new(std::env::current_exe().unwrap_or_else(|_| PathBuf::new()))
}
