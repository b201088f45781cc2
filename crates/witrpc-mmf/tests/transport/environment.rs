//! What the system does to endpoints: no descriptors left, a directory that is read-only or gone, names that others use,
//! standard streams that are closed. Each has one outcome, which says what to do; nothing hangs.

use std::{
    fs::File,
    os::unix::fs::{FileTypeExt as _, symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;
use witrpc_core::Error;
use witrpc_mmf::{ClientSlots, Door, connect};

use crate::common::{Endpoint, Peer, Process, far, private_directory, role, soon, within};

/// Fewer than any test binary has, for a process of its own.
const FEW: u64 = 64;
/// How long a client waits that will have to give up.
const WAIT: Duration = Duration::from_millis(500);

/// Opens files until there are no more descriptors.
fn exhaust() -> Vec<File> {
    let limit = Rlimit { current: Some(FEW), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

async fn until_there_is(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_client_without_descriptors_hears_of_the_limit_and_can_try_again() {
    let directory = private_directory();
    Process::start_in_environment("role_poor_client", directory.path()).succeeds();
}

#[tokio::test]
async fn role_poor_client() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let ballast = exhaust();
    // From one descriptor to as many as a connection takes.
    for missing in 0..8 {
        let mut ballast = exhaust();
        ballast.truncate(ballast.len().saturating_sub(missing));
        let outcome = tokio::select! {
            outcome = connect(&file, soon()) => outcome,
            accepted = door.accept() => panic!("{accepted:?}"),
        };
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("RLIMIT_NOFILE"), "{missing}: {error}");
        drop(ballast);
    }
    drop(ballast);
    let (client, server) = tokio::join!(connect(&file, far()), door.accept());
    drop((client.unwrap(), server.unwrap()));
}

#[tokio::test]
async fn a_server_without_descriptors_tells_its_clients_and_goes_on() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let child = Process::start_in_environment("role_poor_server", endpoint.directory.path());
    let refused = within(endpoint.connect()).await.unwrap_err().to_string();
    assert!(
        refused.contains("the server has no file descriptors left (RLIMIT_NOFILE)"),
        "{refused}"
    );
    let again = within(endpoint.connect()).await.unwrap_err().to_string();
    assert_eq!(again, refused);
    // A file in its directory that is none of its own tells it that all is well again.
    std::fs::write(endpoint.directory.path().join("rich"), "").unwrap();
    let client = loop {
        match within(endpoint.connect()).await {
            Ok(client) => break client,
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
    };
    // It stays until the server has it: one that leaves at once was never there.
    let mut client = Peer(client);
    client.send(b"here").await;
    child.succeeds();
    drop(client);
    assert_eq!(endpoint.files(), ["rich"]);
}

#[tokio::test]
async fn role_poor_server() {
    let Some(file) = role() else { return };
    let rich = std::env::var_os("WITRPC_MMF_TEST_DIRECTORY").unwrap();
    let rich = Path::new(&rich).join("rich");
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let ballast = exhaust();
    tokio::select! {
        accepted = door.accept() => panic!("{accepted:?}"),
        () = until_there_is(&rich) => {}
    }
    drop(ballast);
    let mut server = Peer(door.accept().await.unwrap());
    assert_eq!(server.recv().await.unwrap(), b"here");
}

/// Each client that waits takes a descriptor of the server's.
#[tokio::test]
async fn clients_that_wait_and_give_up_leave_a_server_its_descriptors() {
    let endpoint = Endpoint::new(|file| file);
    let child = Process::start_in_environment("role_small_server", endpoint.directory.path());
    let first = within(endpoint.connect()).await.unwrap();
    for _ in 0..3 {
        let attempts = (0..FEW).map(|_| {
            let file = endpoint.file.clone();
            tokio::spawn(async move { connect(&file, Instant::now() + WAIT).await })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            let error = within(attempt).await.unwrap().unwrap_err();
            // Which of the two is up to the machine; not that the server has no descriptors.
            let expected =
                matches!(error, Error::Busy { max_clients: 1, .. } | Error::NotResponding { .. });
            assert!(expected, "{error}");
        }
    }
    drop(first);
    let mut second = Peer(within(endpoint.connect()).await.unwrap());
    second.send(b"here").await;
    child.succeeds();
}

#[tokio::test]
async fn role_small_server() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let limit = Rlimit { current: Some(FEW), maximum: getrlimit(Resource::Nofile).maximum };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut first = Peer(door.accept().await.unwrap());
    let leaving = async {
        first.is_gone().await;
        drop(first);
        std::future::pending().await
    };
    let second = tokio::select! {
        second = leaving => second,
        second = door.accept() => second,
    };
    assert_eq!(Peer(second.unwrap()).recv().await.unwrap(), b"here");
}

#[test]
fn a_server_that_may_make_no_file_of_that_size_says_so_and_goes_on() {
    let directory = private_directory();
    Process::start_in_environment("role_small_files", directory.path()).succeeds();
    assert_eq!(crate::common::files(directory.path()), [""; 0]);
}

#[tokio::test]
async fn role_small_files() {
    let Some(file) = role() else { return };
    let file = file.with_max_clients(2);
    let all = getrlimit(Resource::Fsize);
    let limit = |bytes| {
        let limit = Rlimit { current: Some(bytes), maximum: all.maximum };
        setrlimit(Resource::Fsize, limit).unwrap();
    };
    // From before the start: nothing is made, not even a lock, for which there would be no room either.
    for bytes in [0, 100, (1 << 20) - 1] {
        limit(bytes);
        let error = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err().to_string();
        assert!(error.starts_with("with_size = 1048576: "), "{error}");
        assert!(error.contains("ulimit -f") && error.contains(&bytes.to_string()), "{error}");
    }
    limit(1 << 20);
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    drop(tokio::join!(connect(&file, far()), door.accept()));
    // From between two clients.
    limit(1000);
    let error = tokio::select! {
        client = connect(&file, far()) => client.unwrap_err().to_string(),
        server = door.accept() => panic!("{server:?}"),
    };
    assert!(error.contains("RLIMIT_FSIZE") && error.contains("with_size"), "{error}");
    setrlimit(Resource::Fsize, all).unwrap();
    let (client, server) = tokio::join!(connect(&file, far()), door.accept());
    drop((client.unwrap(), server.unwrap()));
}

/// As root, where mounting is permitted. A ramfs tells of no free bytes, and allocates none beforehand.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_file_system_that_cannot_allocate_is_an_error_that_says_what_to_do() {
    let directory = private_directory();
    let mut mount = Command::new("mount");
    mount.args(["-t", "ramfs", "-o", "mode=0700", "ramfs"]).arg(directory.path());
    if !mount.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success()) {
        return println!("skipped: no file system may be mounted here");
    }
    let _mounted = crate::unix::Mounted(directory.path().to_owned());
    let file = witrpc_mmf::MemoryMappedFile::new("test").with_directory(directory.path());
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let error = tokio::select! {
        client = within(connect(&file, far())) => client.unwrap_err().to_string(),
        server = door.accept() => panic!("{server:?}"),
    };
    assert!(error.contains("fallocate") && error.contains("tmpfs"), "{error}");
    drop(door);
    assert_eq!(crate::common::files(directory.path()), [""; 0]);
}

#[tokio::test]
async fn what_others_have_put_in_the_place_of_our_files_is_left_alone() {
    for name in ["test.door", "test.lock"] {
        for kind in ["file", "directory", "link"] {
            let endpoint = Endpoint::new(|file| file);
            let path = endpoint.directory.path().join(name);
            match kind {
                "file" => std::fs::write(&path, "precious").unwrap(),
                "directory" => std::fs::create_dir(&path).unwrap(),
                _ => symlink("/nowhere", &path).unwrap(),
            }
            let before = path.symlink_metadata().unwrap();
            let server = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err();
            let text = server.to_string();
            assert!(text.contains(name), "{kind}: {text}");
            assert!(text.contains("choose another name or directory"), "{name}, {kind}: {text}");
            let client = connect(&endpoint.file, soon()).await.unwrap_err();
            assert!(matches!(client, Error::Io { .. } | Error::NotRunning { .. }), "{client}");
            let after = path.symlink_metadata().unwrap();
            assert_eq!(before.file_type(), after.file_type());
            assert!(kind != "file" || std::fs::read_to_string(&path).unwrap() == "precious");
            assert_eq!(endpoint.files(), [name], "nothing of ours is left");
        }
    }
}

#[tokio::test]
async fn a_directory_deleted_under_a_server_ends_no_connection_and_keeps_nobody_out() {
    let endpoint = Endpoint::new(|file| file.with_max_clients(2));
    let mut first = endpoint.open().await;
    let (mut client, mut server) = endpoint.pair(&mut first).await;
    server.first_frame();
    std::fs::remove_dir_all(endpoint.directory.path()).unwrap();
    client.send(b"still").await;
    assert_eq!(within(server.recv()).await.unwrap(), b"still");
    let error = connect(&endpoint.file, soon()).await.unwrap_err();
    assert!(matches!(error, Error::NotRunning { .. }), "{error}");
    // The name is free, as nobody can meet the first server any more; and that one takes nothing away when it stops.
    let mut second = Door::open(&endpoint.file, &ClientSlots::of(&endpoint.file)).await.unwrap();
    drop(first);
    assert_eq!(endpoint.files(), ["test.door", "test.lock"]);
    drop(endpoint.pair(&mut second).await);
    server.send(b"still").await;
    assert_eq!(within(client.recv()).await.unwrap(), b"still");
    drop(second);
    // The first can listen again.
    let mut first = endpoint.open().await;
    drop(endpoint.pair(&mut first).await);
    drop(first);
    assert_eq!(endpoint.files(), [""; 0]);
}

/// As root, where mounting is permitted; a mode keeps root from nothing.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_directory_that_cannot_be_written_is_an_error_that_says_so() {
    let (real, view) = (private_directory(), private_directory());
    let mount = |arguments: &[&str]| {
        let mut command = Command::new("mount");
        command.args(arguments).arg(view.path()).stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !mount(&["--bind", &real.path().display().to_string()]) {
        return println!("skipped: nothing may be mounted here");
    }
    let _mounted = crate::unix::Mounted(view.path().to_owned());
    assert!(mount(&["-o", "remount,bind,ro"]));
    let of = |place: &Path| witrpc_mmf::MemoryMappedFile::new("test").with_directory(place);
    let (file, read_only) = (of(real.path()), of(view.path()));
    let server =
        Door::open(&read_only, &ClientSlots::of(&read_only)).await.unwrap_err().to_string();
    let door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
    let client = connect(&read_only, soon()).await.unwrap_err().to_string();
    for error in [server, client] {
        assert!(error.contains("Read-only") && error.contains("WITRPC_DIR"), "{error}");
    }
    drop(door);
    assert_eq!(crate::common::files(real.path()), [""; 0]);
}

#[test]
fn closed_standard_streams_are_nobodys_pipes() {
    let directory = private_directory();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]).arg(std::env::current_exe().unwrap());
    let role = "environment::role_without_streams";
    Process::start_by(shell, role, directory.path()).succeeds();
    let made = directory.path().join("done");
    assert!(made.exists(), "the role was not played");
}

#[tokio::test]
async fn role_without_streams() {
    let Some(file) = role() else { return };
    let directory = std::env::var_os("WITRPC_MMF_TEST_DIRECTORY").unwrap();
    let endpoint = ClientSlots::of(&file);
    let mut door = Door::open(&file, &endpoint).await.unwrap();
    let (client, server) = tokio::join!(connect(&file, far()), door.accept());
    let (mut client, mut server) = (Peer(client.unwrap()), Peer(server.unwrap()));
    // What goes to the streams goes nowhere, and in no pipe of ours.
    for stream in 0..3 {
        let stream = File::open(format!("/proc/self/fd/{stream}"));
        assert!(stream.is_ok_and(|stream| !stream.metadata().unwrap().file_type().is_fifo()));
    }
    println!("noise");
    eprintln!("noise");
    client.send(b"clean").await;
    assert_eq!(server.recv().await.unwrap(), b"clean");
    std::fs::write(Path::new(&directory).join("done"), "").unwrap();
}
