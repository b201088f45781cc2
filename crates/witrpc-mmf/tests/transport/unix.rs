//! What is special to Unix: modes, links, named pipes, full file systems.

use std::{
    fs::{File, Permissions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use witrpc_mmf::{Door, MemoryMappedFile, Places, connect};

use crate::common::{Endpoint, files, soon, sweeps_all_but, within};
use crate::fake::make_pipe;

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
    let error = Door::open(&file, &endpoint.places).await.unwrap_err().to_string();
    assert!(error.starts_with("with_size = "), "{error}");
    assert_eq!(endpoint.files(), [""; 0]);
}
