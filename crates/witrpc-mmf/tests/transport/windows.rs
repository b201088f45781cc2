//! What is special to Windows: files that go with their last handle, and what may open a door.

use std::{fs::File, io::Write as _, pin::pin, time::Duration};

use tokio::time::timeout;
use witrpc_core::Error;
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect};

use crate::common::{Endpoint, Process, far, files, listening, soon, sweeps_all_but, within};
use crate::fake::FakeClient;

#[tokio::test]
async fn garbage_and_halves_of_join_requests_at_the_door_keep_nobody_out() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let directory = endpoint.directory.path().to_owned();
    for garbage in [&b"x"[..], b"witrpc\0a", &[0xff; 1000], b"witrpc\0a\x02\0\0\0 torn", &[0; 64]] {
        let (client, ()) =
            tokio::join!(endpoint.pair(&mut door), FakeClient::ask(&directory, garbage).leave(),);
        drop(client);
    }
    // One that says nothing, and stays.
    let _silent = FakeClient::ask(&directory, b"");
    drop(endpoint.pair(&mut door).await);
}

#[tokio::test]
async fn a_region_is_a_file_as_long_as_its_connection() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let mut door = endpoint.open().await;
    let (client, server) = endpoint.pair(&mut door).await;
    assert_eq!(endpoint.files().len(), 2);
    drop(server);
    assert_eq!(endpoint.files().len(), 2, "the client still has it mapped");
    drop(client);
    assert_eq!(endpoint.files(), listening(&["test"]));
}

#[tokio::test]
async fn whoever_is_killed_nothing_is_left() {
    let endpoint = Endpoint::new(|file| file);
    let mut child = Process::start("role_half", endpoint.directory.path());
    let mut client = crate::common::Peer(within(endpoint.connect()).await.unwrap());
    assert_eq!(endpoint.files().len(), 2);
    child.kill();
    client.is_gone().await;
    drop(client);
    assert_eq!(endpoint.files(), [""; 0]);
    let mut door = endpoint.open().await;
    let mut child = Process::start("role_client", endpoint.directory.path());
    let mut server = crate::common::Peer(within(door.accept()).await.unwrap());
    child.kill();
    server.is_gone().await;
    drop(server);
    assert_eq!(endpoint.files(), listening(&["test"]));
}

/// What Unix permits to whoever may write the file.
#[tokio::test]
async fn a_region_in_use_cannot_be_truncated() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let region = endpoint.files().into_iter().find(|file| file.ends_with(".mmf")).unwrap();
    let file = File::options().write(true).open(endpoint.directory.path().join(region)).unwrap();
    let size = file.metadata().unwrap().len();
    for len in [0, 4096] {
        file.set_len(len).unwrap_err();
    }
    assert_eq!(file.metadata().unwrap().len(), size);
    client.send(b"still there").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still there");
}

#[tokio::test]
async fn names_that_differ_in_case_only_are_one_endpoint() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let other = MemoryMappedFile::new("TEST").with_directory(endpoint.directory.path());
    Door::open(&other, &ClientSlots::of(&other)).await.unwrap_err();
    let (client, server) =
        within(async { tokio::join!(connect(&other, far()), door.accept()) }).await;
    drop((client.unwrap(), server.unwrap()));
}

#[tokio::test]
async fn the_system_tells_who_the_client_is_whatever_it_claims() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let claimed = std::process::id() ^ 4;
    let head = [&b"witrpc\0a\x02\0\0\0"[..], &claimed.to_le_bytes()].concat();
    let ask = [&head[..], &[0xef; 16], &[1], &[0; 31]].concat();
    let client = FakeClient::ask(endpoint.directory.path(), &ask);
    let (_answer, server) = within(async { tokio::join!(client.answer(), door.accept()) }).await;
    assert_eq!(server.unwrap().peer_process_id, Some(std::process::id()));
}

/// A runtime that takes one event of the system at a time hears of an ask before it knows that it can answer.
#[test]
fn who_is_let_in_hears_so_although_nobody_uses_the_connection_yet() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_io_events_per_tick(1).build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::new(|file| file);
        let mut door = endpoint.open().await;
        let mut client = pin!(endpoint.connect());
        // It asks, before anybody looks at the door.
        assert!(timeout(Duration::from_millis(100), &mut client).await.is_err());
        let _server = within(door.accept()).await.unwrap();
        within(client).await.unwrap();
    });
}

/// After a power cut, say: a killed process leaves nothing.
#[tokio::test]
async fn what_nobody_has_open_is_swept_and_nothing_else() {
    let endpoint = Endpoint::new(|file| file);
    let path = |file: &str| endpoint.directory.path().join(file);
    let (left, used) = ("ab".repeat(16), "cd".repeat(16));
    let mark = "lock of a witrpc server; it removes this file when it stops\n";
    for (file, text) in [
        ("test.lock", mark),
        ("other.lock", mark),
        (&*format!("other.{left}.mmf"), "region"),
        (&*format!("gone.{left}.mmf"), "region"),
        // In use, or none of ours.
        (&*format!("other.{used}.mmf"), "region"),
        ("Cargo.lock", "# cargo"),
        ("yarn.lock", "# yarn"),
        ("x.mmf", ""),
    ] {
        std::fs::write(path(file), text).unwrap();
    }
    let _used = File::open(path(&format!("other.{used}.mmf"))).unwrap();
    std::fs::create_dir(path(&format!("x.{left}.mmf"))).unwrap();
    let kept = [
        "Cargo.lock",
        &format!("other.{used}.mmf"),
        "test.lock",
        &format!("x.{left}.mmf"),
        "x.mmf",
        "yarn.lock",
    ];
    sweeps_all_but(&endpoint, kept).await;
}

#[tokio::test]
async fn what_others_have_put_in_the_place_of_the_lock_is_left_alone() {
    for folder in [false, true] {
        let endpoint = Endpoint::new(|file| file);
        let path = endpoint.directory.path().join("test.lock");
        if folder {
            std::fs::create_dir(&path).unwrap();
        } else {
            std::fs::write(&path, "precious").unwrap();
        }
        let server = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err().to_string();
        assert!(server.contains("choose another name or directory"), "{folder}: {server}");
        let client = connect(&endpoint.file, soon()).await.unwrap_err();
        assert!(matches!(client, Error::NotRunning { .. }), "{client}");
        assert!(folder || std::fs::read_to_string(&path).unwrap() == "precious");
        assert_eq!(endpoint.files(), ["test.lock"], "nothing of ours is left");
    }
}

#[tokio::test]
async fn the_directory_must_be_one_and_is_made_private() {
    let outer = tempfile::tempdir().unwrap();
    let place = |name: &str| outer.path().join(name);
    let file = |name: &str| MemoryMappedFile::new("test").with_directory(place(name));
    std::fs::write(place("file"), "").unwrap();
    for (name, expected) in [("file", "is not a directory"), ("none/below", "cannot be created")] {
        let file = file(name);
        let server = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err().to_string();
        assert!(server.starts_with("with_directory = "), "{server}");
        assert!(server.contains(expected) && server.contains("WITRPC_DIR"), "{server}");
    }
    let file = file("new");
    let door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    drop(door);
    assert_eq!(files(&place("new")), [""; 0]);
}

/// Under Wine a directory that the standard library makes is open to all; elsewhere whether it is depends on its parent.
#[tokio::test]
async fn a_directory_that_is_open_to_others_is_refused_by_both_sides() {
    let outer = tempfile::tempdir().unwrap();
    let open = outer.path().join("open");
    std::fs::create_dir(&open).unwrap();
    let granted =
        std::process::Command::new("icacls").arg(&open).args(["/grant", "*S-1-1-0:(R)"]).output();
    let file = MemoryMappedFile::new("test").with_directory(&open);
    match Door::open(&file, &ClientSlots::of(&file)).await {
        Err(error) => {
            let server = error.to_string();
            assert!(server.contains("is open to others"), "{server}");
            let client = connect(&file, soon()).await.unwrap_err().to_string();
            assert_eq!(client, server, "both sides say the same");
        }
        Ok(_) => assert!(granted.is_err(), "it was opened to others, and is taken all the same"),
    }
}

/// The door's name is told by the lock file only; a door of another process gets no second join request.
#[tokio::test]
async fn a_door_of_another_process_is_no_door() {
    let endpoint = Endpoint::new(|file| file);
    let _child = Process::start("role_half", endpoint.directory.path());
    let path = endpoint.directory.path().join("test.lock");
    let text = loop {
        match std::fs::read_to_string(&path) {
            Ok(text) if text.contains("door ") => break text,
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    // A file that says of that door that it is ours.
    let (head, tail) = (text.find("process ").unwrap() + 8, text.find(", clients").unwrap());
    let text = format!("{}{:010}{}", &text[..head], std::process::id(), &text[tail..]);
    let other = endpoint.directory.path().join("other.lock");
    File::create(other).unwrap().write_all(text.as_bytes()).unwrap();
    let file = MemoryMappedFile::new("other").with_directory(endpoint.directory.path());
    let error = within(connect(&file, far())).await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(
        error.to_string().contains("does not belong to the process that has the lock"),
        "{error}"
    );
}
