//! What is special to Unix: what a killed process leaves, modes, and several users.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use rustix::fs::Mode;
use rustix::process::umask;
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect};

use crate::common::{Endpoint, Peer, Process, far, files, role, soon, within};

/// A process that was forked off the client would hold the client's descriptors; here the server itself holds what
/// such a process would, so there is no hang-up.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_killed_client_is_noticed_while_others_hold_its_descriptors() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let mut child = Process::start("role_client", endpoint.directory.path());
    let mut server = Peer(within(door.accept()).await.unwrap());
    let pipe = endpoint.files().into_iter().find(|file| file.ends_with(".s")).unwrap();
    let pipe = endpoint.directory.path().join(pipe);
    let _inherited = std::fs::File::options().read(true).write(true).open(pipe).unwrap();
    assert_eq!(within(server.recv()).await.unwrap(), b"here");
    child.kill();
    server.is_gone().await;
}

#[tokio::test]
async fn a_client_killed_in_the_queue_is_passed_over_and_leaves_nothing() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let mut taken = endpoint.pair(&mut door).await;
    taken.1.first_frame();
    let mut child = Process::start("role_client", endpoint.directory.path());
    while endpoint.files().len() < 3 {
        let turn = tokio::time::timeout(Duration::from_millis(1), door.accept()).await;
        assert!(turn.is_err(), "there is no place");
    }
    child.kill();
    drop(taken);
    drop(endpoint.pair(&mut door).await);
    drop(door);
    drop(endpoint.open().await); // It may have been killed between making its pipe and asking.
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn a_server_killed_while_a_connection_is_half_made_leaves_what_the_next_sweeps() {
    let endpoint = Endpoint::new(|file| file);
    let mut child = Process::start("role_half", endpoint.directory.path());
    let mut client = Peer(within(endpoint.connect()).await.unwrap());
    child.kill();
    client.is_gone().await;
    assert_eq!(endpoint.files().len(), 5);
    drop(client);
    // A door that is read, but by nobody who answers: the client asks, and is killed.
    let door = endpoint.directory.path().join("test.door");
    let door = std::fs::File::options().read(true).write(true).open(door).unwrap();
    let mut other = Process::start("role_client", endpoint.directory.path());
    while !endpoint.files().iter().any(|file| file.ends_with(".c")) {
        tokio::task::yield_now().await;
    }
    other.kill();
    drop(door);
    drop(endpoint.open().await);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    Process::start("unix::role_umask", &directory.path().join("made")).succeeds();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Others than root have no rights to what the umask has taken from them.
    set_mode(directory.path(), 0o777);
    let binary = directory.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    set_mode(&binary, 0o755);
    let own = directory.path().join("own");
    Process::start_as(&binary, "unix::role_umask", &own, 12_345, 12_345).succeeds();
}

/// Two users who have nothing in common but a group, and a third who is not in it.
#[test]
fn a_group_shares_an_endpoint_and_others_stay_out() {
    const GROUP: u32 = 54_321;
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can play other users");
    }
    let outer = tempfile::tempdir().unwrap();
    set_mode(outer.path(), 0o777);
    let binary = outer.path().join("test"); // Where all of them can run it.
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    set_mode(&binary, 0o755);
    let shared = outer.path().join("shared");
    let start = |role, user, group| Process::start_as(&binary, role, &shared, user, group);
    let server = start("unix::role_group_server", 12_345, GROUP);
    start("unix::role_group_client", 12_346, GROUP).succeeds();
    start("unix::role_group_stranger", 12_347, 12_347).succeeds();
    start("unix::role_group_client", 12_346, GROUP).succeeds();
    server.succeeds();
    assert_eq!(files(&shared), [""; 0]);
    let facts = shared.metadata().unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (12_345, GROUP, 0o770));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The endpoint as its group shares it.
fn group_role() -> Option<MemoryMappedFile> {
    role().map(|file| file.with_group(54_321))
}

#[tokio::test]
async fn role_group_server() {
    let Some(file) = group_role() else { return };
    umask(Mode::from_raw_mode(0o077));
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    for _ in 0..2 {
        let mut server = Peer(door.accept().await.unwrap());
        assert_eq!(server.recv().await.unwrap(), b"hello");
        server.first_frame();
        server.send(b"good day").await;
        server.is_gone().await;
    }
}

#[tokio::test]
async fn role_group_client() {
    let Some(file) = group_role() else { return };
    umask(Mode::from_raw_mode(0o077));
    let mut client = Peer(connect(&file, far()).await.unwrap());
    let directory = std::env::var_os("WITRPC_MMF_TEST_DIRECTORY").unwrap();
    let listed = witrpc_mmf::endpoints_in(&directory).unwrap();
    assert_eq!(listed.len(), 1);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.collect::<Vec<_>>();
    assert_eq!(files.len(), 5);
    for file in files {
        let facts = file.symlink_metadata().unwrap();
        assert_eq!((facts.gid(), facts.mode() & 0o7777), (54_321, 0o660), "{}", file.display());
    }
    client.send(b"hello").await;
    assert_eq!(client.recv().await.unwrap(), b"good day");
}

#[tokio::test]
async fn role_group_stranger() {
    let Some(file) = group_role() else { return };
    let door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err();
    let client = connect(&file, soon()).await.unwrap_err();
    for error in [door.to_string(), client.to_string()] {
        assert!(error.contains("Permission denied"), "{error}");
    }
}

#[tokio::test]
async fn role_umask() {
    let Some(file) = role() else { return };
    umask(Mode::from_raw_mode(0o777));
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let (client, server) = tokio::join!(connect(&file, far()), door.accept());
    let directory = std::env::var_os("WITRPC_MMF_TEST_DIRECTORY").unwrap();
    let mode = |path: &std::path::Path| path.symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(directory.as_ref()), 0o700);
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = files.collect::<Vec<_>>();
    assert_eq!(files.len(), 5);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop((client.unwrap(), server.unwrap()));
}
