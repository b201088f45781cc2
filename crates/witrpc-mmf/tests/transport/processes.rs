//! Two processes, and what becomes of one when the other is killed.
//!
//! A child process is this test binary once more, running one of the `role_` tests; in the parent those do nothing.

use std::{future::pending, process::Command};

use witrpc_core::Error;
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect};

use crate::common::{
    Endpoint, Peer, Process, far, files, listening, private_directory, role, soon, within,
};

#[cfg(unix)]
mod unix;

#[tokio::test]
async fn records_cross_two_processes_and_back() {
    let endpoint = Endpoint::new(|file| file);
    let mut child = Process::start("role_echo", endpoint.directory.path());
    let mut client = Peer(within(endpoint.connect()).await.unwrap());
    assert_eq!(client.0.peer_process_id, Some(child.id()));
    for number in 0_u32..2000 {
        let record = number.to_le_bytes().repeat(number as usize % 500);
        client.send(&record).await;
        assert_eq!(within(client.recv()).await.unwrap(), record);
    }
    assert_eq!(endpoint.lasting(), listening(&["test"]));
    child.kill();
    client.is_gone().await;
    let left = if cfg!(unix) { listening(&["test"]) } else { Vec::new() };
    assert_eq!(endpoint.lasting(), left, "all that a killed server leaves");
    let again = connect(&endpoint.file, soon()).await.unwrap_err();
    assert!(matches!(again, Error::NotRunning { .. }), "{again}");
    drop(client);
    drop(endpoint.open().await);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn a_killed_client_frees_its_place_and_its_last_records_can_be_read() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    for _ in 0..10 {
        let mut child = Process::start("role_client", endpoint.directory.path());
        let mut server = Peer(within(door.accept()).await.unwrap());
        assert_eq!(server.0.peer_process_id, Some(child.id()));
        assert!(!server.0.receiver.arm().unwrap() || server.0.receiver.is_ready().unwrap());
        while !server.0.receiver.is_ready().unwrap() {
            tokio::task::yield_now().await;
        }
        child.kill();
        server.is_gone().await;
        assert_eq!(server.recv().await.unwrap(), b"here");
        drop(server);
        assert_eq!(endpoint.files(), listening(&["test"]));
    }
}

#[tokio::test]
async fn a_killed_server_is_noticed_by_a_client_that_waits_for_its_turn() {
    let endpoint = Endpoint::new(|file| file);
    let mut child = Process::start("role_echo", endpoint.directory.path());
    let mut first = Peer(within(endpoint.connect()).await.unwrap());
    first.send(b"x").await;
    assert_eq!(within(first.recv()).await.unwrap(), b"x");
    let file = endpoint.file.clone();
    let waiting = tokio::spawn(async move { connect(&file, far()).await });
    while cfg!(unix) && endpoint.files().len() < 3 {
        tokio::task::yield_now().await;
    }
    child.kill();
    first.is_gone().await;
    drop(first);
    let mut door = endpoint.open().await;
    let server = within(door.accept()).await.unwrap();
    drop((within(waiting).await.unwrap().unwrap(), server, door));
    assert_eq!(endpoint.files(), [""; 0]);
}

/// On Windows the default one, too, is where the environment says.
#[tokio::test]
async fn a_directory_that_no_program_chooses_is_that_of_the_environment() {
    let outer = private_directory();
    let [own, below] = ["own", "witrpc"].map(|name| outer.path().join(name));
    let mut chosen = vec![("WITRPC_DIR", own.as_path(), own.as_path())];
    if cfg!(windows) {
        chosen.push(("LOCALAPPDATA", outer.path(), &below));
    }
    for (variable, value, directory) in chosen {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env_remove("WITRPC_DIR").env(variable, value);
        let role = "processes::role_without_directory";
        let mut child = Process::start_by(command, role, outer.path());
        let file = MemoryMappedFile::new("test").with_directory(directory);
        let client = within(connect(&file, far())).await.unwrap();
        assert_eq!(client.peer_process_id, Some(child.id()));
        child.kill();
    }
}

/// A daemon changes its working directory once it has started.
#[test]
fn a_relative_directory_stays_the_same_when_the_working_directory_changes() {
    let outer = private_directory();
    for (role, variable) in [("role_relative", None), ("role_relative_variable", Some("own"))] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.current_dir(outer.path());
        match variable {
            Some(directory) => command.env("WITRPC_DIR", directory),
            None => command.env_remove("WITRPC_DIR"),
        };
        let role = format!("processes::{role}");
        Process::start_by(command, &role, outer.path()).succeeds();
        assert_eq!(files(outer.path()), ["own"], "the directory of the endpoint");
        assert_eq!(files(&outer.path().join("own")), [""; 0]);
    }
}

#[tokio::test]
async fn role_relative() {
    if role().is_some() {
        moves(&MemoryMappedFile::new("test").with_directory("own").settled()).await;
    }
}

#[tokio::test]
async fn role_relative_variable() {
    if role().is_some() {
        moves(&MemoryMappedFile::new("test").settled()).await;
    }
}

/// Listens, goes somewhere else, and is met there by itself, and by whoever knows the whole path.
async fn moves(file: &MemoryMappedFile) {
    let (slots, own) = (ClientSlots::of(file), std::env::current_dir().unwrap().join("own"));
    let mut door = Door::open(file, &slots).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::env::set_current_dir(elsewhere.path()).unwrap();
    for file in [file, &MemoryMappedFile::new("test").with_directory(&own)] {
        let (client, server) =
            within(async { tokio::join!(connect(file, far()), door.accept()) }).await;
        let (mut client, mut server) = (Peer(client.unwrap()), Peer(server.unwrap()));
        client.send(b"hello").await;
        assert_eq!(within(server.recv()).await.unwrap(), b"hello");
        server.first_frame();
        drop((client, server));
    }
    drop(door);
    // Started once more, it is where it was.
    let _door = Door::open(file, &slots).await.unwrap();
    assert_eq!(witrpc_mmf::endpoints_in(&own).unwrap().len(), 1);
    std::env::set_current_dir("/").unwrap();
}

#[tokio::test]
async fn role_without_directory() {
    let Some(_) = role() else { return };
    let file = MemoryMappedFile::new("test");
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let _server = door.accept().await.unwrap();
    pending::<()>().await;
}

#[tokio::test]
async fn role_echo() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let mut server = Peer(door.accept().await.unwrap());
    let echo = async {
        while let Some(record) = server.recv().await {
            server.first_frame();
            server.send(&record).await;
        }
    };
    tokio::join!(echo, door.accept()).1.unwrap();
}

#[tokio::test]
async fn role_half() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let _server = door.accept().await.unwrap();
    pending::<()>().await;
}

#[tokio::test]
async fn role_client() {
    let Some(file) = role() else { return };
    let mut client = Peer(connect(&file, far()).await.unwrap());
    client.send(b"here").await;
    pending::<()>().await;
}
