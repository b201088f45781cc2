//! What is special to Unix: modes, links, named pipes, full file systems.

use std::{
    fs::{File, Permissions},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

use tracing::{Event, Metadata, Subscriber, span};

use witrpc_mmf::bench_support::make_pipe;
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect, endpoints_in};

use crate::common::{Endpoint, HANG, files, soon, sweeps_all_but, within};

#[tokio::test]
async fn garbage_and_torn_join_requests_at_the_door_keep_nobody_out() {
    let endpoint = Endpoint::new(|file| file);
    let mut door = endpoint.open().await;
    let path = endpoint.directory.path().join("test.door");
    for garbage in [&b"x"[..], b"witrpc\0a", &[0xff; 1000], b"witrpc\0a\x02\0\0\0 torn", &[0; 64]] {
        File::options().write(true).open(&path).unwrap().write_all(garbage).unwrap();
        let (mut client, mut server) = endpoint.pair(&mut door).await;
        client.send(b"in").await;
        assert_eq!(within(server.recv()).await.unwrap(), b"in");
    }
    // Well-formed, but of clients that are not there, or whose pipe is none.
    let mut ask = [&b"witrpc\0a\x02\0\0\0\0\0\0\0"[..], &[0xab; 16], &[1], &[0; 31]].concat();
    let mut pipe = File::options().write(true).open(&path).unwrap();
    pipe.write_all(&ask).unwrap();
    std::fs::write(endpoint.directory.path().join(format!("test.{}.c", "cd".repeat(16))), "")
        .unwrap();
    ask[16..32].fill(0xcd);
    pipe.write_all(&ask).unwrap();
    let _pair = endpoint.pair(&mut door).await;
}

/// A server that was killed has left a lock file with more in it; others may write there what they like.
#[tokio::test]
async fn a_server_is_listed_whatever_is_behind_its_record() {
    let endpoint = Endpoint::new(|file| file);
    let path = endpoint.directory.path().join("test.lock");
    let mark = "lock of a witrpc server; it removes this file when it stops\n";
    let record = "process 0000004711, clients 0000000002 of 0000000008\n";
    let old = "about serializer old, colour red\n".repeat(99);
    std::fs::write(&path, [mark, record, &old].concat()).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let mut door = endpoint.open().await;
    let listed = || endpoints_in(endpoint.directory.path()).unwrap().remove(0);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!((listed().process_id, listed().serializer), (std::process::id(), None));
    let known = text.len() - text.lines().last().unwrap().len() - 1;
    // The one that was there before this line; one that is cut; what is no line.
    let garbage = [0xff; 5000];
    for behind in [&b""[..], &text.as_bytes()[known..text.len() - 1], b"\n\0about\n", &garbage] {
        let mut file = File::options().write(true).open(&path).unwrap();
        file.set_len(known as u64).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(behind).unwrap();
        let found = listed();
        assert_eq!((found.process_id, found.program, found.age), (std::process::id(), None, None));
        let _pair = endpoint.pair(&mut door).await;
        assert_eq!(listed().clients, 1, "the record is still written");
    }
}

/// Nobody has read it for long: then there is no more room for an ask.
#[tokio::test]
async fn a_server_whose_door_is_full_is_not_responding() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    let path = endpoint.directory.path().join("test.door");
    let mut options = File::options();
    options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let mut pipe = options.open(&path).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    for deadline in [soon(), tokio::time::Instant::now()] {
        let error = connect(&endpoint.file, deadline).await.unwrap_err();
        assert!(matches!(error, witrpc_core::Error::NotResponding { .. }), "{error}");
    }
    drop(door);
    assert_eq!(endpoint.files(), [""; 0]);
}

/// A server of version 1 passes over what it does not know, and has no description in its lock file.
#[tokio::test]
async fn a_server_of_an_older_protocol_is_an_error_that_names_both() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    let directory = endpoint.directory.path();
    let mut options = File::options();
    options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    let mut pipe = options.open(directory.join("test.door")).unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    let lock = File::options().write(true).open(directory.join("test.lock")).unwrap();
    let text = std::fs::read_to_string(directory.join("test.lock")).unwrap();
    lock.set_len((text.len() - text.lines().last().unwrap().len() - 1) as u64).unwrap();
    let error = connect(&endpoint.file, soon()).await.unwrap_err();
    assert!(matches!(error, witrpc_core::Error::Incompatible(_)), "{error}");
    let error = error.to_string();
    assert!(error.contains("has version 1 of") && error.contains("client version 2"), "{error}");
    drop(door);
}

/// Whoever asks once more for each ask that is heard never lets a door run empty.
#[tokio::test]
async fn a_door_that_is_kept_busy_closes_all_the_same() {
    let endpoint = Endpoint::new(|file| file);
    let door = endpoint.open().await;
    let path = endpoint.directory.path().join("test.door");
    let pipe = File::options().write(true).open(&path).unwrap();
    let (closed, closing) = std::sync::mpsc::channel();
    let asker = Asker { pipe, heard: AtomicUsize::new(0) };
    asker.ask();
    std::thread::spawn(move || {
        let asker = Arc::new(asker);
        tracing::subscriber::with_default(Arc::clone(&asker), || drop(door));
        closed.send(asker.heard.load(Ordering::Relaxed)).unwrap();
    });
    let heard = closing.recv_timeout(HANG).expect("the door closes");
    assert_eq!(heard, 1, "who asked before, and nobody else");
    assert_eq!(endpoint.files(), [""; 0]);
}

/// Asks in the name of a client that is not there, whenever the server says that such a client is not there.
struct Asker {
    pipe: File,
    heard: AtomicUsize,
}

impl Asker {
    fn ask(&self) {
        let ask = [&b"witrpc\0a\x02\0\0\0\0\0\0\0"[..], &[0xab; 16], &[1], &[0; 31]].concat();
        (&self.pipe).write_all(&ask).unwrap();
    }
}

impl Subscriber for Asker {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target().contains("listener") {
            self.heard.fetch_add(1, Ordering::Relaxed);
            self.ask();
        }
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[tokio::test]
async fn what_killed_processes_left_is_swept_and_nothing_else() {
    let endpoint = Endpoint::new(|file| file);
    let path = |file: &str| endpoint.directory.path().join(file);
    let (dead, foreign) = ("ab".repeat(16), "ef".repeat(16));
    for name in ["test", "other"] {
        for file in [format!("{name}.door"), format!("{name}.{dead}.c"), format!("{name}.{dead}.s")]
        {
            make_pipe(&path(&file)).unwrap();
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
    make_pipe(&path(&format!("other.{living}.c"))).unwrap();
    let living_pipe = path(&format!("other.{living}.c"));
    let _reader = File::options().read(true).write(true).open(living_pipe).unwrap();
    std::fs::write(path(&format!("other.{living}.mmf")), "region").unwrap();
    // No files of ours, whatever they are called.
    std::fs::write(path("Cargo.lock"), "").unwrap();
    std::fs::write(path("yarn.lock"), "# yarn").unwrap();
    std::fs::write(path("front.door"), "").unwrap();
    std::fs::write(path(&format!("x.{foreign}.s")), "").unwrap();
    std::fs::create_dir(path(&format!("x.{foreign}.mmf"))).unwrap();
    let kept = [
        "Cargo.lock",
        "front.door",
        &format!("other.{living}.c"),
        &format!("other.{living}.mmf"),
        "test.door",
        "test.lock",
        &format!("x.{foreign}.mmf"),
        &format!("x.{foreign}.s"),
        "yarn.lock",
    ];
    sweeps_all_but(&endpoint, kept).await;
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
        ("none/below", "cannot be created"),
    ] {
        let file = file(name);
        let server = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err().to_string();
        assert!(server.starts_with("with_directory = "), "{server}");
        assert!(server.contains(expected) && server.contains("WITRPC_DIR"), "{server}");
        if name != "none/below" {
            let client = connect(&file, soon()).await.unwrap_err().to_string();
            assert_eq!(client, server, "both sides say the same");
        }
    }
    assert_eq!(files(&place("private")), [""; 0]);
    let file = file("new");
    let door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
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
    let server = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err().to_string();
    let client = connect(&endpoint.file, soon()).await.unwrap_err().to_string();
    assert!(server.contains("belongs to another user"), "{server}");
    assert_eq!(client, server);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn a_groups_directory_must_have_that_group_and_its_mode() {
    let own = rustix::process::getegid().as_raw();
    let endpoint = Endpoint::new(|file| file);
    let directory = endpoint.directory.path();
    std::os::unix::fs::chown(directory, None, Some(own)).unwrap();
    let refused = async |group: u32, expected: &str| {
        let file = endpoint.file.clone().with_group(group);
        let server = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err().to_string();
        assert!(server.contains(expected), "{server}");
        assert_eq!(connect(&file, soon()).await.unwrap_err().to_string(), server);
    };
    for mode in [0o700, 0o750, 0o777, 0o775] {
        std::fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
        refused(own, "with_group needs 0770").await;
    }
    std::fs::set_permissions(directory, Permissions::from_mode(0o770)).unwrap();
    refused(own + 1, &format!("belongs to the group {own}")).await;
    let file = endpoint.file.clone().with_group(own);
    drop(Door::open(&file, &ClientSlots::of(&file)).await.unwrap());
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
        let opened = Door::open(&endpoint.file, &endpoint.slots).await;
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

/// A second name of a file of ours, which somebody who may write to the directory has given it.
#[tokio::test]
async fn second_names_of_our_files_are_no_files_of_the_endpoint() {
    for content in ["", "precious", "lock of a witrpc server; it removes this file when it stops\n"]
    {
        let endpoint = Endpoint::new(|file| file);
        let target = tempfile::NamedTempFile::new_in(endpoint.directory.path()).unwrap();
        std::fs::write(&target, content).unwrap();
        std::fs::hard_link(target.path(), endpoint.directory.path().join("test.lock")).unwrap();
        let error = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err().to_string();
        assert!(error.contains("no witrpc lock"), "{error}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), content);
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
    use crate::common::far;
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
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
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
pub(crate) struct Mounted(pub(crate) std::path::PathBuf);

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
    let error = Door::open(&file, &endpoint.slots).await.unwrap_err().to_string();
    assert!(error.starts_with("with_size = "), "{error}");
    assert_eq!(endpoint.files(), [""; 0]);
}
