//! The list of a directory's live servers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Duration;
use witrpc_core::transport::ServerTerms;
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect, endpoints, endpoints_in};

use crate::common::{Endpoint, Peer, Process, far, private_directory, within};

/// Name, process, clients, slots.
fn list(directory: &Path) -> Vec<(String, u32, u32, u32)> {
    let found = endpoints_in(directory).unwrap().into_iter();
    found.map(|e| (e.name, e.process_id, e.clients, e.max_clients)).collect()
}

fn ours(name: &str, clients: u32, max_clients: u32) -> (String, u32, u32, u32) {
    (name.to_owned(), std::process::id(), clients, max_clients)
}

#[tokio::test]
async fn a_live_server_is_listed_until_it_stops() {
    let endpoint = Endpoint::new(|file| file);
    let directory = endpoint.directory.path();
    assert_eq!(list(directory), []);
    let door = endpoint.open().await;
    assert_eq!(list(directory), [ours("test", 0, 1)]);
    drop(door);
    assert_eq!(list(directory), []);
    let _door = endpoint.open().await;
    assert_eq!(list(directory), [ours("test", 0, 1)]);
}

#[tokio::test]
async fn a_server_tells_its_program_its_age_and_its_terms() {
    let endpoint = Endpoint::new(|file| file);
    let listed = || endpoints_in(endpoint.directory.path()).unwrap().remove(0);
    let door = endpoint.open().await;
    let first = listed();
    let program = std::env::current_exe().unwrap();
    assert_eq!(first.program.as_deref(), program.file_name().unwrap().to_str());
    let told = [first.serializer, first.encryption, first.authorization];
    assert_eq!(told, [None, None, None], "nobody has said");
    assert!(listed().age > first.age, "it grows");
    drop(door);
    let terms = ServerTerms::new("one, two\n", "x".repeat(99), "");
    let opened = Door::open_with(&endpoint.file, &endpoint.slots, Some(&terms)).await;
    let _door = opened.unwrap();
    let told = listed();
    assert_eq!(told.serializer.as_deref(), Some("one\\u{2c} two\\n"));
    assert_eq!(told.encryption, Some("x".repeat(64)));
    assert_eq!(told.authorization, None);
}

#[tokio::test]
async fn several_servers_are_listed_by_name() {
    let directory = private_directory();
    let mut doors = Vec::new();
    for (name, max_clients) in [("b", 2), ("a.b", 3), ("a", u32::MAX)] {
        let file = MemoryMappedFile::new(name).with_directory(directory.path());
        let file = file.with_max_clients(max_clients);
        doors.push(Door::open(&file, &ClientSlots::of(&file)).await.unwrap());
    }
    let all = [ours("a", 0, u32::MAX), ours("a.b", 0, 3), ours("b", 0, 2)];
    assert_eq!(list(directory.path()), all);
    doors.remove(0);
    assert_eq!(list(directory.path()), all[..2]);
}

#[tokio::test]
async fn clients_are_counted() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(3));
    let directory = endpoint.directory.path();
    let mut door = endpoint.open().await;
    let mut pairs = Vec::new();
    for count in 1..=3 {
        pairs.push(endpoint.pair(&mut door).await);
        assert_eq!(list(directory), [ours("test", count, 3)]);
    }
    drop(pairs.pop());
    assert_eq!(list(directory), [ours("test", 2, 3)]);
    // Whose clients stay connected counts them when it listens again.
    drop(door);
    assert_eq!(list(directory), []);
    drop(pairs.pop());
    let mut door = endpoint.open().await;
    assert_eq!(list(directory), [ours("test", 1, 3)]);
    pairs.push(endpoint.pair(&mut door).await);
    assert_eq!(list(directory), [ours("test", 2, 3)]);
    drop(pairs);
    assert_eq!(list(directory), [ours("test", 0, 3)]);
}

#[tokio::test]
async fn a_killed_server_is_not_listed_and_its_name_can_be_taken() {
    let endpoint = Endpoint::new(|file| file);
    let directory = endpoint.directory.path();
    let mut child = Process::start("role_echo", directory);
    let mut client = Peer(within(endpoint.connect()).await.unwrap());
    assert_eq!(list(directory), [("test".to_owned(), child.id(), 1, 1)]);
    child.kill();
    client.is_gone().await;
    let left = if cfg!(unix) { 5 } else { 1 };
    assert_eq!(endpoint.files().len(), left, "what it left: it had not seen a first frame");
    assert_eq!(list(directory), []);
    let _door = endpoint.open().await;
    assert_eq!(list(directory), [ours("test", 0, 1)]);
}

/// Sets it at its end.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asking goes on all the while, from another thread.
#[tokio::test(flavor = "multi_thread")]
async fn asking_disturbs_nobody() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (directory, done) = (endpoint.directory.path(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                let found = list(directory);
                assert!(
                    found == [ours("test", 0, 1)] || found == [ours("test", 1, 1)],
                    "{found:?}"
                );
                asked += 1;
            }
            asked
        });
        // Also if this fails: or the failure would not be seen.
        let over = Done(&done);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for _ in 0..200 {
                    let (mut client, mut server) = endpoint.pair(&mut door).await;
                    // One more waits meanwhile, and gets in once the place is free.
                    let file = endpoint.file.clone();
                    let waiting = tokio::spawn(async move { connect(&file, far()).await });
                    client.send(b"x").await;
                    assert_eq!(within(server.recv()).await.unwrap(), b"x");
                    drop((client, server));
                    let server = within(door.accept()).await.unwrap();
                    drop((within(waiting).await.unwrap().unwrap(), server));
                }
                // It sleeps: whoever only looks does not wake it.
                let nobody = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
                assert!(nobody.is_err());
            });
        });
        drop(over);
        assert!(asking.join().unwrap() > 10);
    });
}

#[tokio::test]
async fn what_is_no_endpoint_is_not_listed() {
    let endpoint = Endpoint::new(|file| file);
    let path = |file: &str| endpoint.directory.path().join(file);
    let _door = endpoint.open().await;
    let text = std::fs::read_to_string(path("test.lock")).unwrap();
    // A lock without a door, one without a record, files of others, and a door that is no pipe.
    std::fs::write(path("doorless.lock"), &text).unwrap();
    std::fs::write(path("bare.lock"), text.lines().next().unwrap()).unwrap();
    std::fs::write(path("Cargo.lock"), "").unwrap();
    std::fs::write(path("odd.lock"), &text).unwrap();
    std::fs::write(path("odd.door"), "").unwrap();
    std::fs::create_dir(path("folder.lock")).unwrap();
    #[cfg(unix)]
    for kind in ["lock", "door"] {
        let [from, to] = ["test", "link"].map(|name| path(&format!("{name}.{kind}")));
        std::os::unix::fs::symlink(from, to).unwrap();
    }
    assert_eq!(list(endpoint.directory.path()), [ours("test", 0, 1)]);
}

#[test]
fn a_missing_directory_has_none_and_an_open_one_is_refused() {
    let directory = private_directory();
    assert_eq!(list(&directory.path().join("missing")), []);
    #[cfg(unix)]
    {
        use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let error = endpoints_in(directory.path()).unwrap_err();
        let of_directory = |error: &witrpc_core::Error| {
            matches!(error, witrpc_core::Error::Config { setting: "with_directory", .. })
        };
        assert!(of_directory(&error), "{error}");
    }
    assert!(endpoints().is_ok(), "the default one");
}
