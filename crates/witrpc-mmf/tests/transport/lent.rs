//! Memory that a host and its worker lend to each other: what a hostile worker tries with it, and what is left of it when one of the two dies.
//!
//! The worker is this test binary once more, running one of the `role_` tests; in the parent those do nothing.

#![expect(unsafe_code, reason = "a hostile worker maps memory, and the rest is read in place")]

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;
use witrpc_core::WaitStrategy;
use witrpc_core::transport::{Arena, Piece};
use witrpc_mmf::TrustedPeer;
use witrpc_mmf::inherited::{Lifeline, VARIABLE, WorkerEnd, pair};

use crate::common::{Peer, Process, directory, private_directory, within};

const ROLE: &str = "WITRPC_MMF_TEST_LENT_ROLE";
const SIZE: u64 = 64 << 10;
/// More than is unmapped on the spot.
const ARENA: u64 = 8 << 20;
/// What the host has lent when the worker attacks.
const LENT: &[u8] = b"nobody else writes here";

/// Kills the program at the end at the latest.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The numbers and inodes of the host's arena and of the worker's, as they are announced.
fn announced(text: &str) -> [(i32, u64); 2] {
    let words: Vec<_> = text.split(' ').collect();
    assert_eq!(words[3], ARENA.to_string());
    // Behind the region, two pipes and a socket.
    [8, 9].map(|word: usize| {
        let (number, inode) = words[word].split_once(':').unwrap();
        (number.parse().unwrap(), inode.parse().unwrap())
    })
}

/// A host, its worker, and the inodes of the two arenas.
fn start(role: &str, trusted: Option<TrustedPeer>) -> (Peer, Lifeline, Program, [u64; 2]) {
    let (host, lifeline, bequest) = pair(SIZE, ARENA).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("lent::{role}"), "--nocapture"]).env(ROLE, role);
    bequest.give(command.stdout(Stdio::null())).unwrap();
    let told = command.get_envs().find(|(name, _)| *name == VARIABLE).unwrap().1.unwrap();
    let inodes = announced(told.to_str().unwrap()).map(|(_, inode)| inode);
    let program = Program(command.spawn().unwrap());
    drop(command);
    let host = host.open(None, None, WaitStrategy::Park, Box::new(()), trusted).unwrap();
    (Peer(host), lifeline, program, inodes)
}

fn is_role(role: &str) -> bool {
    std::env::var_os(ROLE).is_some_and(|given| given == role)
}

fn worker() -> (Peer, Lifeline) {
    let (end, lifeline) = WorkerEnd::take().unwrap();
    (Peer(end.open(WaitStrategy::Park, Box::new(()), None).unwrap()), lifeline)
}

fn piece(arena: &Arc<dyn Arena>, contents: &[u8]) -> Box<dyn Piece> {
    let mut piece = arena.allocate(contents.len()).unwrap();
    piece.bytes_mut().copy_from_slice(contents);
    piece
}

fn record(offset: u64) -> [u8; 8] {
    offset.to_le_bytes()
}

fn offset(record: &[u8]) -> u64 {
    u64::from_le_bytes(record.try_into().unwrap())
}

#[tokio::test]
async fn a_worker_cannot_write_to_what_its_host_lends_or_take_it_away() {
    let (mut host, _lifeline, _program, _) = start("role_attacks", None);
    let arena = host.0.sender.arena().unwrap();
    let mut lent = piece(&arena, LENT);
    host.send(&record(arena.locate(lent.bytes()).unwrap())).await;
    let tried = within(host.recv()).await;
    assert_eq!(tried.as_deref(), Some(&b"tried"[..]), "the worker has said why");
    assert_eq!(lent.bytes(), LENT);
    // And the host can go on writing.
    lent.bytes_mut().fill(b'x');
    let all = arena.allocate(usize::try_from(ARENA).unwrap() - 64);
    all.unwrap().bytes_mut().fill(1);
}

/// Maps all of a file, and unmaps it after `use_it`.
fn map(
    file: &File,
    rights: i32,
    use_it: impl FnOnce(*mut libc::c_void, usize) -> Result<()>,
) -> Result<()> {
    let len = usize::try_from(ARENA).unwrap();
    let (shared, number) = (libc::MAP_SHARED, file.as_raw_fd());
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, shared, number, 0) };
    if at == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    let used = use_it(at, len);
    // SAFETY: it was made above, and nobody else knows it.
    assert_eq!(unsafe { libc::munmap(at, len) }, 0);
    used
}

/// The result of a call of the system.
fn done(returned: i32) -> Result<()> {
    if returned == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// What may be tried with a descriptor of an arena, and with a path that leads to it.
type Attempt = fn(&File, &str) -> Result<()>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("map it for writing", |file, _| map(file, WRITE, |_, _| Ok(()))),
    ("map it for writing only", |file, _| map(file, libc::PROT_WRITE, |_, _| Ok(()))),
    ("make it writable later", |file, _| {
        // SAFETY: nobody else knows the mapping.
        map(file, READ, |at, len| done(unsafe { libc::mprotect(at, len, WRITE) }))
    }),
    ("remove its pages", |file, _| {
        // SAFETY: nobody else knows the mapping.
        map(file, READ, |at, len| done(unsafe { libc::madvise(at, len, libc::MADV_REMOVE) }))
    }),
    ("write", |mut file, _| file.write_all(b"x")),
    ("write at an offset", |file, _| file.write_all_at(b"x", 4096)),
    ("have the kernel copy into it", |file, _| {
        let mut own = File::open("/proc/self/exe")?;
        // It sends files from one to the other.
        std::io::copy(&mut std::io::Read::take(&mut own, 10), &mut &*file).map(drop)
    }),
    ("make it shorter", |file, _| file.set_len(4096)),
    ("make it empty", |file, _| Ok(ftruncate(file, 0)?)),
    ("make it longer", |file, _| file.set_len(2 * ARENA)),
    ("punch a hole", |file, _| {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(file, punch, 0, 4096)?)
    }),
    ("allocate behind its end", |file, _| {
        Ok(fallocate(file, FallocateFlags::empty(), ARENA, 4096)?)
    }),
    ("keep everybody from writing", |file, _| Ok(fcntl_add_seals(file, SealFlags::WRITE)?)),
    ("add a seal", |file, _| Ok(fcntl_add_seals(file, SealFlags::FUTURE_WRITE)?)),
    ("reopen it and write", |_, path| reopen(path)?.write_all(b"x")),
    ("reopen it and map it", |_, path| map(&reopen(path)?, WRITE, |_, _| Ok(()))),
    ("reopen it and make it shorter", |_, path| reopen(path)?.set_len(1)),
    ("append to it", |_, path| File::options().append(true).open(path)?.write_all(b"x")),
    ("empty it by opening it", |_, path| {
        File::options().write(true).truncate(true).open(path).map(drop)
    }),
    ("reopen it for reading and make that writable", |_, path| {
        let file = File::open(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        drop(file);
        reopen(path)?.write_all(b"x")
    }),
];

fn reopen(path: &str) -> Result<File> {
    File::options().read(true).write(true).open(path)
}

fn path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[tokio::test]
async fn role_attacks() {
    if !is_role("role_attacks") {
        return;
    }
    let [(hosts, _), (workers, _)] = announced(&std::env::var(VARIABLE).unwrap());
    // They stay when what is inherited is taken over.
    let open = |number| reopen(&format!("/proc/self/fd/{number}")).unwrap();
    let (host, worker) = (open(hosts), open(workers));
    let (mut peer, _lifeline) = self::worker();
    let lent = offset(&within(peer.recv()).await.unwrap());
    for (what, attempt) in ATTEMPTS {
        let refused = attempt(&host, &path(&host)).expect_err(what);
        let errors = [Errno::PERM, Errno::ACCESS];
        let known = errors.map(|error| Some(error.raw_os_error()));
        assert!(known.contains(&refused.raw_os_error()), "{what}: {refused}");
        // With a file like it, but without its seals, it is possible.
        let twin = memfd_create("twin", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        let twin = File::from(twin);
        twin.set_len(ARENA).unwrap();
        attempt(&twin, &path(&twin)).expect(what);
    }
    assert_eq!(host.metadata().unwrap().len(), ARENA);
    // Its own it may write, and nobody can change its size.
    let own = peer.0.sender.arena().unwrap();
    own.allocate(5).unwrap().bytes_mut().fill(1);
    for size in [0, ARENA - 1, 2 * ARENA] {
        assert_eq!(worker.set_len(size).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    assert_eq!(fcntl_add_seals(&worker, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    // What its host has lent is there.
    let mut read = Vec::new();
    peer.0.receiver.arena().unwrap().copy(lent, LENT.len(), &mut read);
    assert_eq!(read, LENT);
    peer.send(b"tried").await;
    // Until the host has seen what came of it.
    peer.is_gone().await;
}

/// How often this process has a file mapped, or open.
fn uses(inode: u64) -> (usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_it = |line: &&str| line.split_whitespace().nth(4) == Some(&inode.to_string());
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = links.filter_map(|link| std::fs::metadata(link.unwrap().path()).ok());
    let is_open = |file: &std::fs::Metadata| file.ino() == inode;
    (maps.lines().filter(is_it).count(), open.filter(is_open).count())
}

/// Large memory is unmapped by another thread.
async fn is_unmapped(inode: u64) {
    within(async {
        while uses(inode).0 != 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn of_a_worker_that_is_killed_its_host_keeps_what_it_reads_and_nothing_else() {
    // SAFETY: the worker of this test writes to nothing that it has lent.
    let trusted = unsafe { TrustedPeer::promised() };
    let (mut host, lifeline, mut program, [hosts, workers]) = start("role_lends", Some(trusted));
    assert_eq!((uses(hosts), uses(workers)), ((1, 0), (1, 0)), "no descriptor is kept");
    let peers = host.0.receiver.arena().unwrap();
    let lent = offset(&within(host.recv()).await.unwrap());
    let read: Bytes = peers.in_place(lent, 1 << 20, Arc::new(())).unwrap();
    let arena = host.0.sender.arena().unwrap();
    let writing = piece(&arena, b"was being written");
    let frozen = piece(&arena, b"was on its way").freeze().slice(4..);
    program.0.kill().unwrap();
    program.0.wait().unwrap();
    host.is_gone().await;
    drop((host, lifeline, arena));
    // They outlive the worker and the connection.
    assert!(read.iter().all(|byte| *byte == 5) && read.len() == 1 << 20);
    assert_eq!((writing.bytes(), &frozen[..]), (&b"was being written"[..], &b"on its way"[..]));
    drop(writing);
    assert_eq!((uses(hosts).0, uses(workers).0), (1, 1));
    drop(frozen);
    is_unmapped(hosts).await;
    assert_eq!(uses(workers).0, 1);
    drop(read);
    is_unmapped(workers).await;
}

#[tokio::test]
async fn role_lends() {
    if !is_role("role_lends") {
        return;
    }
    let (mut peer, _lifeline) = worker();
    let arena = peer.0.sender.arena().unwrap();
    let _before = arena.allocate(1000).unwrap();
    let lent = piece(&arena, &vec![5; 1 << 20]).freeze();
    peer.send(&record(arena.locate(&lent).unwrap())).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn of_a_host_that_is_killed_its_worker_keeps_what_it_has_and_nothing_else() {
    let directory = private_directory();
    let mut host = Process::start_by(this(), "lent::role_hosts", directory.path());
    let told = directory.path().join("read");
    within(exists(&told)).await;
    host.kill();
    within(exists(&directory.path().join("done"))).await;
}

fn this() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

async fn exists(path: &Path) {
    while !path.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn role_hosts() {
    // In the worker, too, there is a directory.
    if directory().is_none() || std::env::var_os(ROLE).is_some() {
        return;
    }
    let (mut host, _lifeline, _program, _) = start("role_outlives", None);
    let arena = host.0.sender.arena().unwrap();
    let _writing = arena.allocate(1 << 20).unwrap();
    let lent = piece(&arena, &vec![6; 1 << 20]);
    host.send(&record(arena.locate(lent.bytes()).unwrap())).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn role_outlives() {
    if !is_role("role_outlives") {
        return;
    }
    let directory = directory().unwrap();
    let inodes = announced(&std::env::var(VARIABLE).unwrap()).map(|(_, inode)| inode);
    // SAFETY: the host of this test writes to nothing that it has lent.
    let trusted = unsafe { TrustedPeer::promised() };
    let (end, lifeline) = WorkerEnd::take().unwrap();
    let channel = end.open(WaitStrategy::Park, Box::new(()), Some(trusted)).unwrap();
    assert_eq!(inodes.map(uses), [(1, 0), (1, 0)], "no descriptor is kept");
    let mut peer = Peer(channel);
    let (arena, peers) = (peer.0.sender.arena().unwrap(), peer.0.receiver.arena().unwrap());
    let lent = offset(&within(peer.recv()).await.unwrap());
    let read = peers.in_place(lent, 1 << 20, Arc::new(())).unwrap();
    let own = piece(&arena, b"its own");
    std::fs::write(directory.join("read"), "").unwrap();
    lifeline.wait().unwrap();
    peer.is_gone().await;
    drop((peer, arena));
    assert!(read.iter().all(|byte| *byte == 6));
    assert_eq!(own.bytes(), b"its own");
    drop((read, own));
    for inode in inodes {
        is_unmapped(inode).await;
    }
    std::fs::write(directory.join("done"), "").unwrap();
}
