//! How a client and its server meet, part, wait and are kept apart, over the public interface.

use std::{
    fs::{File, Permissions},
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;
use witrpc_core::transport::Wake;
use witrpc_core::{Error, WaitStrategy};
use witrpc_mmf::{Door, MemoryMappedFile, Places, connect};

use crate::common::{Endpoint, Peer, far, files, soon, within};

#[tokio::test]
async fn records_cross_both_ways_and_nothing_is_left_behind() {
    let endpoint = Endpoint::new(|file| file.with_wait_strategy(WaitStrategy::Park));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    assert_eq!(client.0.peer_process_id, Some(std::process::id()));
    assert_eq!(server.0.peer_process_id, Some(std::process::id()));
    assert_eq!(server.0.wait_strategy, WaitStrategy::Park);
    assert!((client.0.clock)() <= (server.0.clock)());
    assert_eq!(endpoint.files().len(), 5, "lock, door, and three of the connection");
    client.send(b"hello").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"hello");
    server.first_frame();
    assert_eq!(endpoint.files(), ["test.door", "test.lock"], "a connection has no files");
    server.send(b"welcome").await;
    assert_eq!(within(client.recv()).await.unwrap(), b"welcome");
    drop(door);
    assert_eq!(endpoint.files(), [""; 0], "an endpoint that was closed has none either");
    client.send(b"still there").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still there");
    client.send(b"last words").await;
    drop(client);
    assert_eq!(within(server.recv()).await.unwrap(), b"last words");
    server.is_gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_on_the_smallest_rings() {
    const COUNT: usize = 30_000;
    let endpoint = Endpoint::new(|file| file.with_size(12_288));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let record = |number: usize| (number as u64).to_le_bytes().repeat(number % 120);
    let echo = tokio::spawn(async move {
        while let Some(record) = server.recv().await {
            server.send(&record).await;
        }
    });
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && client.0.sender.try_push(&record(sent), &[], 0).unwrap() {
            sent += 1;
        }
        client.0.sender.publish().unwrap();
        while let Some(found) = client.pop() {
            assert_eq!(found, record(received));
            received += 1;
        }
        let room = sent == COUNT || client.0.sender.arm(record(sent).len(), 0).unwrap();
        let sleep = !client.0.receiver.arm().unwrap() && (sent == COUNT || !room);
        if sleep && received < COUNT {
            assert_eq!(within(client.wake()).await, Wake::Rung);
        }
    }
    drop(client);
    within(echo).await.unwrap();
}

#[tokio::test]
async fn without_a_server_a_client_waits_until_its_deadline() {
    let endpoint = Endpoint::new(|file| file);
    let start = Instant::now();
    let error = connect(&endpoint.file, soon()).await.unwrap_err();
    let Error::NotRunning { endpoint: name, place, waited } = error else { panic!("{error}") };
    assert_eq!((&*name, Path::new(&place)), ("test", endpoint.directory.path()));
    assert!(waited <= start.elapsed() && waited.as_millis() >= 100);
    assert_eq!(endpoint.files(), [""; 0]);
    let missing = endpoint.file.clone().with_directory(endpoint.directory.path().join("none"));
    assert!(matches!(connect(&missing, soon()).await, Err(Error::NotRunning { .. })));
    // A door that nobody reads is what a killed server leaves.
    make_pipe(&endpoint.directory.path().join("test.door"));
    assert!(matches!(connect(&endpoint.file, soon()).await, Err(Error::NotRunning { .. })));
    assert_eq!(endpoint.files(), ["test.door"]);
}

#[tokio::test]
async fn a_server_that_listens_but_does_not_accept_is_not_running_for_its_clients() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    assert!(matches!(connect(&endpoint.file, soon()).await, Err(Error::NotRunning { .. })));
    assert_eq!(endpoint.files(), ["test.door", "test.lock"]);
    drop(door);
}

#[tokio::test]
async fn a_client_that_came_first_gets_in_when_the_server_starts() {
    let endpoint = Endpoint::new(|file| file);
    let file = endpoint.file.clone();
    let client = tokio::spawn(async move { connect(&file, far()).await });
    tokio::task::yield_now().await; // It has knocked in vain.
    let mut door = endpoint.open().await;
    let server = within(door.accept()).await.unwrap();
    drop((within(client).await.unwrap().unwrap(), server));
}

#[tokio::test]
async fn a_name_belongs_to_one_live_server() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    let second = Door::open(&endpoint.file, &endpoint.places).await.unwrap_err();
    assert!(matches!(&second, Error::NameInUse { endpoint, .. } if endpoint == "test"), "{second}");
    let other = MemoryMappedFile::new("other").with_directory(endpoint.directory.path());
    let other = Door::open(&other, &Places::of(&other)).await.unwrap();
    assert_eq!(endpoint.files(), ["other.door", "other.lock", "test.door", "test.lock"]);
    drop(door);
    let door = endpoint.open().await;
    drop((other, door));
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn when_all_places_are_taken_a_client_hears_how_many_there_are() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let mut door = endpoint.open().await;
    let first = endpoint.pair(&mut door).await;
    let _second = endpoint.pair(&mut door).await;
    let busy = tokio::select! {
        busy = connect(&endpoint.file, soon()) => busy.unwrap_err(),
        _ = door.accept() => panic!("there is no place"),
    };
    let Error::Busy { max_clients: 2, .. } = busy else { panic!("{busy}") };
    drop(first);
    let _third = endpoint.pair(&mut door).await;
}

#[tokio::test]
async fn clients_get_in_in_the_order_of_asking() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let mut taken = endpoint.pair(&mut door).await;
    taken.1.first_frame();
    let mut waiting = Vec::new();
    for number in 0_u8..5 {
        let file = endpoint.file.clone();
        waiting.push(tokio::spawn(async move {
            let mut client = Peer(connect(&file, far()).await.unwrap());
            client.send(&[number]).await;
            client
        }));
        // It has asked once its pipe is there, and been heard once that is answered: then the next may.
        while endpoint.files().len() < 3 + usize::from(number) {
            tokio::task::yield_now().await;
        }
        let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
        assert!(turn.is_err(), "there is no place");
    }
    let gone = waiting.remove(2); // Who has gone is passed over.
    gone.abort();
    assert!(gone.await.is_err());
    drop(taken);
    for number in [0, 1, 3, 4] {
        let mut server = Peer(within(door.accept()).await.unwrap());
        assert_eq!(within(server.recv()).await.unwrap(), [number]);
        server.first_frame();
    }
    assert_eq!(endpoint.files(), ["test.door", "test.lock"]);
}

#[tokio::test]
async fn places_outlast_a_stop_and_a_waiting_client_outlasts_a_restart() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (client, server) = endpoint.pair(&mut door).await;
    let file = endpoint.file.clone();
    let waiting = tokio::spawn(async move { connect(&file, far()).await });
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "there is no place");
    drop(door);
    let mut door = endpoint.open().await;
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "the place is still taken");
    drop((client, server));
    let accepted = within(door.accept()).await.unwrap();
    drop((within(waiting).await.unwrap().unwrap(), accepted, door));
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_ends_before_its_first_frame_leaves_nothing() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (client, server) = endpoint.pair(&mut door).await;
    drop(server);
    let mut client = client;
    client.is_gone().await;
    assert_eq!(endpoint.files(), ["test.door", "test.lock"]);
    drop(client);
    let (client, mut server) = endpoint.pair(&mut door).await;
    drop(client);
    server.is_gone().await;
    drop(server);
    assert_eq!(endpoint.files(), ["test.door", "test.lock"]);
}

#[tokio::test]
async fn garbage_and_torn_asks_at_the_door_keep_nobody_out() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let path = endpoint.directory.path().join("test.door");
    for garbage in [&b"x"[..], b"witrpc\0a", &[0xff; 1000], b"witrpc\0a\x01\0\0\0 torn", &[0; 64]] {
        File::options().write(true).open(&path).unwrap().write_all(garbage).unwrap();
        let (mut client, mut server) = endpoint.pair(&mut door).await;
        client.send(b"in").await;
        assert_eq!(within(server.recv()).await.unwrap(), b"in");
    }
    // Well-formed, but of clients that are not there, or whose pipe is none.
    let mut ask = [&b"witrpc\0a\x01\0\0\0\0\0\0\0"[..], &[0xab; 16], &[0; 32]].concat();
    let mut pipe = File::options().write(true).open(&path).unwrap();
    pipe.write_all(&ask).unwrap();
    std::fs::write(endpoint.directory.path().join(format!("test.{}.c", "cd".repeat(16))), "")
        .unwrap();
    ask[16..32].fill(0xcd);
    pipe.write_all(&ask).unwrap();
    let _pair = endpoint.pair(&mut door).await;
}

#[tokio::test]
async fn a_server_of_another_protocol_version_refuses_with_both_versions() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let nonce = "ef".repeat(16);
    let pipe = endpoint.directory.path().join(format!("test.{nonce}.c"));
    make_pipe(&pipe);
    let mut answers = File::options().read(true).write(true).open(&pipe).unwrap();
    let ask = [&b"witrpc\0a\x63\0\0\0\0\0\0\0"[..], &[0xef; 16], &[0; 32]].concat();
    std::fs::write(endpoint.directory.path().join("test.door"), ask).unwrap();
    let turn = tokio::time::timeout(Duration::from_millis(50), door.accept()).await;
    assert!(turn.is_err(), "it is refused");
    let mut answer = [0; 16];
    answers.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"wita\x04\0\0\0\x01\0\0\0\0\0\0\0");
}

#[tokio::test]
async fn answers_that_do_not_fit_are_errors_that_say_so() {
    for (answer, expected) in [
        (*b"wita\x04\0\0\0\x07\0\0\0\0\0\0\0", "version 7 of the meeting protocol"),
        (*b"wita\x01\0\0\0\x63\0\0\0\0\0\0\0", "version 99 of the region layout"),
        (*b"wita\x05\0\0\0\x1c\0\0\0\0\0\0\0", "could not make a connection's files"),
        (*b"nonsense answer.", "the server's answer is none"),
    ] {
        let endpoint = Endpoint::new(|file| file);
        let server = FakeServer::start(endpoint.directory.path());
        let file = endpoint.file.clone();
        let client = tokio::spawn(async move { connect(&file, far()).await });
        let client_pipe = within(server.ask()).await;
        std::fs::write(client_pipe, answer).unwrap();
        let error = within(client).await.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(endpoint.files(), ["test.door"]);
    }
}

#[tokio::test]
async fn a_server_that_dies_before_or_after_its_first_word_is_given_up_for_the_next() {
    let endpoint = Endpoint::new(|file| file);
    for word in [None, Some(*b"wita\x02\0\0\0\x01\0\0\0\0\0\0\0")] {
        let server = FakeServer::start(endpoint.directory.path());
        let file = endpoint.file.clone();
        let client = tokio::spawn(async move { connect(&file, far()).await });
        let client_pipe = within(server.ask()).await;
        let mut alive = File::options().write(true).open(client_pipe).unwrap();
        if let Some(word) = word {
            alive.write_all(&word).unwrap();
        }
        std::fs::remove_file(endpoint.directory.path().join("test.door")).unwrap();
        drop(alive);
        let mut door = endpoint.open().await;
        let accepted = within(door.accept()).await.unwrap();
        drop((within(client).await.unwrap().unwrap(), accepted, door));
        assert_eq!(endpoint.files(), [""; 0]);
    }
}

#[tokio::test]
async fn a_region_that_is_not_what_it_should_be_is_refused() {
    let endpoint = Endpoint::new(|file| file);
    let server = FakeServer::start(endpoint.directory.path());
    let file = endpoint.file.clone();
    let client = tokio::spawn(async move { connect(&file, far()).await });
    let client_pipe = within(server.ask()).await;
    make_pipe(&client_pipe.with_extension("s"));
    std::fs::write(client_pipe.with_extension("mmf"), vec![0; 1 << 20]).unwrap();
    std::fs::write(client_pipe, b"wita\x01\0\0\0\x01\0\0\0\0\0\0\0").unwrap();
    let error = within(client).await.unwrap().unwrap_err().to_string();
    assert!(error.contains("does not start with the magic"), "{error}");
}

#[tokio::test]
async fn what_killed_processes_left_is_swept_and_nothing_else() {
    let endpoint = Endpoint::new(|file| file);
    let path = |file: &str| endpoint.directory.path().join(file);
    let (dead, foreign) = ("ab".repeat(16), "ef".repeat(16));
    for name in ["test", "other"] {
        for file in [format!("{name}.door"), format!("{name}.{dead}.c"), format!("{name}.{dead}.s")]
        {
            make_pipe(&path(&file));
        }
        std::fs::write(path(&format!("{name}.{dead}.mmf")), "region").unwrap();
    }
    std::fs::write(
        path("other.lock"),
        "lock of a witrpc server; it removes this file when it stops\n",
    )
    .unwrap();
    // Half-made connections of living processes: the client's pipe is read, whoever has the region.
    let living = "cd".repeat(16);
    make_pipe(&path(&format!("other.{living}.c")));
    let living_pipe = path(&format!("other.{living}.c"));
    let _reader = File::options().read(true).write(true).open(living_pipe).unwrap();
    std::fs::write(path(&format!("other.{living}.mmf")), "region").unwrap();
    // No files of ours, whatever they are called.
    std::fs::write(path("Cargo.lock"), "").unwrap();
    std::fs::write(path("yarn.lock"), "# yarn\n").unwrap();
    std::fs::write(path("front.door"), "").unwrap();
    std::fs::write(path(&format!("x.{foreign}.s")), "").unwrap();
    std::fs::create_dir(path(&format!("x.{foreign}.mmf"))).unwrap();
    let mut kept = vec![
        "Cargo.lock".to_owned(),
        "front.door".to_owned(),
        format!("other.{living}.c"),
        format!("other.{living}.mmf"),
        "test.door".to_owned(),
        "test.lock".to_owned(),
        format!("x.{foreign}.mmf"),
        format!("x.{foreign}.s"),
        "yarn.lock".to_owned(),
    ];
    kept.sort();
    let door = endpoint.open().await;
    assert_eq!(endpoint.files(), kept);
    let taken = MemoryMappedFile::new("yarn").with_directory(endpoint.directory.path());
    let error = Door::open(&taken, &Places::of(&taken)).await.unwrap_err().to_string();
    assert!(error.contains("no witrpc lock"), "{error}");
    drop(door);
}

#[tokio::test]
async fn a_sweep_leaves_a_live_server_and_its_clients_alone() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let before = endpoint.files();
    let other = MemoryMappedFile::new("other").with_directory(endpoint.directory.path());
    drop(Door::open(&other, &Places::of(&other)).await.unwrap());
    assert_eq!(endpoint.files(), before);
    drop(door);
    drop(Door::open(&other, &Places::of(&other)).await.unwrap());
    client.send(b"still").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still");
}

#[tokio::test]
async fn the_directory_must_be_private() {
    let outer = tempfile::tempdir().unwrap();
    let place = |name: &str| outer.path().join(name);
    let file = |name: &str| MemoryMappedFile::new("test").with_directory(place(name));
    std::fs::create_dir(place("open")).unwrap();
    std::fs::set_permissions(place("open"), Permissions::from_mode(0o710)).unwrap();
    std::fs::write(place("file"), "").unwrap();
    std::fs::create_dir(place("private")).unwrap();
    std::fs::set_permissions(place("private"), Permissions::from_mode(0o700)).unwrap();
    symlink(place("private"), place("link")).unwrap();
    for (name, expected) in [
        ("open", "is open to other users"),
        ("file", "is not a directory"),
        ("link", "is a symbolic link"),
        ("link/", "is a symbolic link"),
        ("none/below", "cannot be made"),
    ] {
        let file = file(name);
        let server = Door::open(&file, &Places::of(&file)).await.unwrap_err().to_string();
        assert!(server.starts_with("with_directory = "), "{server}");
        assert!(server.contains(expected) && server.contains("WITRPC_DIR"), "{server}");
        if name != "none/below" {
            let client = connect(&file, soon()).await.unwrap_err().to_string();
            assert_eq!(client, server, "both sides say the same");
        }
    }
    assert_eq!(files(&place("private")), [""; 0]);
    let file = file("new");
    let door = Door::open(&file, &Places::of(&file)).await.unwrap();
    assert_eq!(place("new").metadata().unwrap().mode() & 0o7777, 0o700);
    drop(door);
}

#[tokio::test]
async fn a_directory_of_another_user_is_refused_by_both_sides() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can give a directory away");
    }
    let endpoint = Endpoint::new(|file| file);
    std::os::unix::fs::chown(endpoint.directory.path(), Some(12_345), None).unwrap();
    let server = Door::open(&endpoint.file, &endpoint.places).await.unwrap_err().to_string();
    let client = connect(&endpoint.file, soon()).await.unwrap_err().to_string();
    assert!(server.contains("belongs to another user"), "{server}");
    assert_eq!(client, server);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn symbolic_links_in_the_directory_are_not_followed() {
    for suffix in ["lock", "door"] {
        let endpoint = Endpoint::new(|file| file);
        let target = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&target, "precious").unwrap();
        let planted = endpoint.directory.path().join(format!("test.{suffix}"));
        symlink(target.path(), &planted).unwrap();
        let opened = Door::open(&endpoint.file, &endpoint.places).await;
        if opened.is_ok() {
            assert!(!planted.is_symlink(), "a link in the way is replaced, or is an error");
        }
        let client = connect(&endpoint.file, soon()).await;
        assert!(client.is_err());
        drop(opened);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(target.path().metadata().unwrap().mode() & 0o777, 0o600);
    }
}

/// What a program that we start would inherit.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn programs_that_are_started_inherit_nothing() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let mut door = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut door).await;
    let _half_made = endpoint.pair(&mut door).await;
    client.send(b"hello").await;
    server.first_frame();
    let open = |fds: String| {
        let ours = endpoint.directory.path().to_str().unwrap();
        fds.lines().filter(|line| line.contains(ours)).count()
    };
    let list = |fds: &str| {
        let listed = std::process::Command::new("ls").args(["-l", fds]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    assert!(open(list(&format!("/proc/{}/fd", std::process::id()))) >= 8, "we have them open");
    assert_eq!(open(list("/proc/self/fd")), 0, "ls has not");
}

/// As root, where mounting is permitted: a file system that is full when the region is made, not only when listening
/// starts.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_full_file_system_is_an_error_on_both_sides_and_no_signal() {
    let outer = tempfile::tempdir().unwrap();
    let mount = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(outer.path()).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"]) {
        return println!("skipped: no file system may be mounted here");
    }
    let _mounted = Mounted(outer.path().to_owned());
    let file = MemoryMappedFile::new("test").with_directory(outer.path()).with_size(128 << 10);
    let mut door = Door::open(&file, &Places::of(&file)).await.unwrap();
    std::fs::write(outer.path().join("ballast"), vec![1; 200 << 10]).unwrap();
    let client = tokio::select! {
        client = within(connect(&file, far())) => client.unwrap_err().to_string(),
        server = door.accept() => panic!("{server:?}"),
    };
    assert!(client.contains("space") || client.contains("28"), "{client}");
    std::fs::remove_file(outer.path().join("ballast")).unwrap();
    let (client, server) =
        within(async { tokio::join!(connect(&file, far()), door.accept()) }).await;
    drop((client.unwrap(), server.unwrap(), door));
}

/// Unmounts, lazily, also when the test fails.
#[cfg(target_os = "linux")]
pub(crate) struct Mounted(pub(crate) PathBuf);

#[cfg(target_os = "linux")]
impl Drop for Mounted {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[tokio::test]
async fn a_size_that_the_directory_has_no_room_for_is_refused_when_listening_starts() {
    let endpoint = Endpoint::new(|file| file);
    let free = rustix::fs::statvfs(endpoint.directory.path()).unwrap();
    let more = free.f_blocks * free.f_frsize + (1 << 20);
    let file = endpoint.file.clone().with_size(more);
    let error = Door::open(&file, &endpoint.places).await.unwrap_err().to_string();
    assert!(error.starts_with("with_size = "), "{error}");
    assert_eq!(endpoint.files(), [""; 0]);
}

#[test]
fn a_runtime_without_io_is_an_error_that_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let endpoint = Endpoint::new(|file| file);
    let error = runtime.block_on(Door::open(&endpoint.file, &endpoint.places)).unwrap_err();
    assert!(error.to_string().contains("enable_all"), "{error}");
    assert_eq!(endpoint.files(), [""; 0]);
}

/// Something that reads a door and is otherwise under the test's control.
struct FakeServer {
    ask: tokio::task::JoinHandle<PathBuf>,
}

impl FakeServer {
    fn start(directory: &Path) -> Self {
        let directory = directory.to_owned();
        let path = directory.join("test.door");
        make_pipe(&path);
        let mut door = File::options().read(true).write(true).open(path).unwrap();
        Self {
            ask: tokio::task::spawn_blocking(move || {
                let mut ask = [0; 64];
                door.read_exact(&mut ask).unwrap();
                let nonce =
                    ask[16..32].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                directory.join(format!("test.{nonce}.c"))
            }),
        }
    }

    /// The pipe of the first client that asks.
    async fn ask(self) -> PathBuf {
        self.ask.await.unwrap()
    }
}

fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, Mode, mkfifoat};
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
}
