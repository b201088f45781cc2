//! Processes that fork without `exec`: the child has copies of all descriptors, and none of the record locks. It may use
//! nothing of what it has inherited, and disturbs its parent by nothing that it does with it.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::task::{Context, Poll, Waker};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::runtime::Runtime;
use witrpc_core::Error;
use witrpc_core::WaitStrategy;
use witrpc_core::transport::{TransportError, Wake};
use witrpc_mmf::inherited::{self, WorkerEnd};
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect, endpoints_in};

use crate::common::{
    Endpoint, HANG, Peer, Process, directory, far, files, private_directory, role, soon, within,
};

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
    assert!(matches!(error, Error::NotResponding { .. }), "{error}");
    // And it holds the lock, until it ends.
    let error = Door::open(&endpoint.file, &endpoint.slots).await.unwrap_err();
    assert!(error.to_string().contains("a child that it forked"), "{error}");
    drop(orphan);
    let mut door = endpoint.open().await;
    drop(endpoint.pair(&mut door).await);
    drop(door);
    assert_eq!(endpoint.files(), [""; 0]);
}

#[tokio::test]
async fn role_forking_server() {
    let Some(file) = role() else { return };
    let mut door = Door::open(&file, &ClientSlots::of(&file)).await.unwrap();
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

#[test]
fn a_killed_host_is_noticed_by_its_worker_while_its_forked_child_lives() {
    let directory = private_directory();
    let (told, done) = (directory.path().join("told"), directory.path().join(DONE));
    let until = |exists: &Path| {
        let deadline = std::time::Instant::now() + HANG;
        while !exists.exists() {
            assert!(std::time::Instant::now() < deadline, "never: {}", exists.display());
            std::thread::yield_now();
        }
    };
    let mut host = Process::start_by(this(), "forked::role_forking_host", directory.path());
    until(&told);
    let _orphan = Orphan(process_in(&std::fs::read(&told).unwrap()));
    assert!(!done.exists());
    host.kill();
    until(&done);
}

#[tokio::test]
#[expect(clippy::zombie_processes, reason = "this process is killed before its worker ends")]
async fn role_forking_host() {
    let Some(directory) = directory() else { return };
    let (host, _lifeline, bequest) = inherited::pair(64 << 10, 0).unwrap();
    let mut command = this();
    command.args(["--exact", "forked::role_forking_hosts_worker"]).stdout(Stdio::null());
    bequest.give(&mut command).unwrap();
    let _worker = command.spawn().unwrap();
    drop(command);
    let channel = host.open(None, None, WaitStrategy::Park, Box::new(()), None).unwrap();
    assert_eq!(within(Peer(channel).recv()).await.unwrap(), b"here");
    let child = fork().as_raw_nonzero().get().to_le_bytes();
    std::fs::write(directory.join("telling"), child).unwrap();
    std::fs::rename(directory.join("telling"), directory.join("told")).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn role_forking_hosts_worker() {
    let Some(directory) = directory() else { return };
    let (end, lifeline) = WorkerEnd::take().unwrap();
    let mut peer = Peer(end.open(WaitStrategy::Park, Box::new(()), None).unwrap());
    peer.send(b"here").await;
    peer.is_gone().await;
    lifeline.wait().unwrap();
    std::fs::write(directory.join(DONE), "").unwrap();
}

#[test]
fn a_forked_child_takes_nothing_of_what_its_parent_can_lend_and_writes_nothing_there() {
    plays("role_forking_lender");
}

/// A host that has lent a piece and writes another one, as the process forks.
#[test]
fn role_forking_lender() {
    let Some(directory) = directory() else { return };
    let parents = runtime();
    let (host, worker) = parents.block_on(async {
        let (host, _, bequest) = inherited::pair(64 << 10, 64 << 10).unwrap();
        let (worker, _) = bequest.keep().unwrap();
        let host = host.open(None, None, WaitStrategy::Park, Box::new(()), None).unwrap();
        (host, worker.open(WaitStrategy::Park, Box::new(()), None).unwrap())
    });
    let arena = host.sender.arena().unwrap();
    let [mut writing, lent] = [4096, 5].map(|len| arena.allocate(len).unwrap());
    writing.bytes_mut().fill(1);
    let lent = lent.freeze();
    let used = arena.used();

    let Some(child) = forked() else {
        end_after(move || {
            assert!(arena.allocate(1).is_none());
            writing.bytes_mut().fill(2);
            assert_eq!(writing.bytes(), [2; 4096]);
            drop((writing, lent));
            assert_eq!(arena.used(), used);
            drop((host, worker, arena));
        })
    };
    succeeds(child);

    assert_eq!((arena.used(), writing.bytes()), (used, &[1; 4096][..]));
    let mut read = Vec::new();
    let at = arena.locate(writing.bytes()).unwrap();
    worker.receiver.arena().unwrap().copy(at, 4096, &mut read);
    assert_eq!(read, [1; 4096]);
    drop((writing, lent));
    assert_eq!(arena.used(), 0);
    assert!(arena.allocate(64 << 10).is_some());
    std::fs::write(directory.join(DONE), "").unwrap();
}

/// What a role writes when it has come to its end: a binary that has no such role succeeds, too.
const DONE: &str = "done";

#[test]
fn a_forked_child_can_use_no_connection_of_its_parent_and_disturbs_none() {
    plays("role_forking_pair");
}

#[test]
fn a_forked_child_takes_no_files_away_and_answers_nobody() {
    plays("role_forking_door");
}

/// Plays a role in a process of its own, in which nothing else runs: so a child of it can go on after the fork.
fn plays(role: &str) {
    let directory = private_directory();
    Process::start_by(this(), &format!("forked::{role}"), directory.path()).succeeds();
    assert!(directory.path().join(DONE).exists(), "there is no such role");
}

/// Forks. `None` is the child.
fn forked() -> Option<Pid> {
    // The harness, in the main thread, waits for this thread, and holds no lock meanwhile.
    let main = format!("/proc/self/task/{}/stat", std::process::id());
    while !std::fs::read_to_string(&main).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 2);
    // SAFETY: no other thread is in the middle of anything, so nothing is half done in the child.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    Pid::from_raw(child)
}

/// Ends the child once it has done this; what cannot be so is its exit status.
fn end_after(body: impl FnOnce()) -> ! {
    let done = catch_unwind(AssertUnwindSafe(body));
    // SAFETY: takes a number. What is to be done at the end of a test binary is the parent's.
    unsafe { libc::_exit(i32::from(done.is_err())) };
}

fn succeeds(child: Pid) {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "the child has said why");
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn is_refused<T>(outcome: Result<T, TransportError>) {
    let Err(TransportError::Io(error)) = outcome else { panic!("it is not refused") };
    assert!(error.to_string().contains("forked child: connect again"), "{error}");
}

/// Tries all that can be done to a side of a connection.
fn is_inherited(peer: &mut Peer) {
    let (sender, receiver) = (&mut peer.0.sender, &mut peer.0.receiver);
    is_refused(sender.try_push(b"head", b"body", 0));
    is_refused(sender.has_room(8, 0));
    is_refused(sender.publish());
    is_refused(sender.arm(8, 0));
    sender.disarm();
    is_refused(receiver.peek(&mut [0; 8]));
    is_refused(receiver.is_ready());
    is_refused(receiver.arm());
    is_refused(receiver.release());
    receiver.expect();
    receiver.disarm();
    let woken = peer.0.waiter.poll_wake(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(woken) = woken else { panic!("it waits") };
    is_refused(woken);
}

/// What this process has open in a directory.
fn open_in(directory: &Path) -> Vec<PathBuf> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(directory)).collect()
}

/// A connection of this process with itself, over an endpoint of this name.
async fn pair(file: &MemoryMappedFile) -> (Door, Peer, Peer) {
    let mut door = Door::open(file, &ClientSlots::of(file)).await.unwrap();
    let (client, server) =
        within(async { tokio::join!(connect(file, far()), door.accept()) }).await;
    (door, Peer(client.unwrap()), Peer(server.unwrap()))
}

/// Nothing is waited for: whoever is polled is woken, or it is lost.
async fn wakes(peer: &mut Peer) {
    assert_eq!(within(peer.wake()).await, Wake::Rung);
}

/// A connection whose client sleeps, for data and for room, as the process forks.
#[test]
fn role_forking_pair() {
    let Some((file, directory)) = role_in() else { return };
    let parents = runtime();
    let (mut door, mut client, mut server) = parents.block_on(pair(&file));
    server.first_frame();
    let mut sent = 0_u64;
    while client.0.sender.try_push(&sent.to_le_bytes(), &[7; 1000], 0).unwrap() {
        sent += 1;
    }
    assert!(!client.0.sender.arm(1008, 0).unwrap() && !client.0.receiver.arm().unwrap());
    // No earlier notification is left that the child could take.
    let mut asleep =
        async || poll_fn(|cx| Poll::Ready(client.0.waiter.poll_wake(cx).is_pending())).await;
    while !parents.block_on(asleep()) {}
    let before = files(&directory);

    let Some(child) = forked() else {
        end_after(move || {
            is_inherited(&mut client);
            is_inherited(&mut server);
            let own = runtime();
            let error = own.block_on(door.accept()).unwrap_err().to_string();
            assert!(error.contains("forked child"), "{error}");
            // The one that drops what waits in it first, and one that has nothing to drop any more.
            drop((client, server));
            drop(parents);
            drop(door);
            assert_eq!(open_in(&directory), [""; 0].map(PathBuf::from));
            // What the child makes is its own.
            let file = MemoryMappedFile::new("child").with_directory(&directory);
            own.block_on(async {
                let (_door, mut client, mut server) = pair(&file).await;
                client.send(b"hello").await;
                assert_eq!(within(server.recv()).await.unwrap(), b"hello");
                server.first_frame();
            });
        })
    };
    succeeds(child);

    assert_eq!(files(&directory), before);
    parents.block_on(async {
        server.send(b"data").await;
        wakes(&mut client).await;
        assert_eq!(client.pop().unwrap(), b"data");
        assert!(!client.0.receiver.arm().unwrap());
        for number in 0..sent {
            let record = server.pop().unwrap();
            assert_eq!((&record[..8], record.len()), (&number.to_le_bytes()[..], 1008));
        }
        assert_eq!(server.pop(), None);
        wakes(&mut client).await;
        client.send(b"room").await;
        assert_eq!(within(server.recv()).await.unwrap(), b"room");
        let listed = endpoints_in(&directory).unwrap();
        assert_eq!((listed.len(), listed[0].clients), (1, 1), "{listed:?}");
        let error = Door::open(&file, &ClientSlots::of(&file)).await.unwrap_err();
        assert!(matches!(error, Error::NameInUse { .. }), "{error}");
        drop(client);
        server.is_gone().await;
        drop((server, door));
    });
    assert_eq!(files(&directory), [""; 0]);
    std::fs::write(directory.join(DONE), "").unwrap();
}

/// A client that has been let in and has said nothing yet, and one that waits for its turn, as the process forks.
#[test]
fn role_forking_door() {
    let Some((file, directory)) = role_in() else { return };
    let parents = runtime();
    let (mut door, client, server) = parents.block_on(pair(&file));
    let second = file.clone();
    let mut waiting = Box::pin(async move { connect(&second, far()).await });
    let asked = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending()));
    assert!(parents.block_on(asked));
    let before = files(&directory);
    // Only the end of a name: what is in front of it may begin with a "c".
    let beside = |name: &str, end: &str| Some(format!("{}{end}", name.strip_suffix(".c")?));
    let is_its =
        |name: &&String| beside(name, ".s").is_some_and(|server| !before.contains(&server));
    let event = before.iter().find(is_its).unwrap();
    // The door has a descriptor of its event once it has heard of it.
    let heard = || open_in(&directory).iter().filter(|path| path.ends_with(event)).count() > 1;
    parents.block_on(async {
        while !heard() {
            poll_fn(|cx| Poll::Ready(pin!(door.accept()).poll(cx).is_pending())).await;
            tokio::task::yield_now().await;
        }
    });

    let Some(child) = forked() else {
        end_after(move || {
            drop((client, server));
            // Now there would be a place.
            let error = runtime().block_on(door.accept()).unwrap_err().to_string();
            assert!(error.contains("forked child"), "{error}");
            drop((waiting, door, parents));
        })
    };
    succeeds(child);

    assert_eq!(files(&directory), before);
    parents.block_on(async {
        drop((client, server));
        let (client, server) = within(async { tokio::join!(waiting, door.accept()) }).await;
        let (mut client, mut server) = (Peer(client.unwrap()), Peer(server.unwrap()));
        // It has not asked again.
        assert!(beside(event, ".mmf").is_some_and(|region| files(&directory).contains(&region)));
        client.send(b"hello").await;
        assert_eq!(within(server.recv()).await.unwrap(), b"hello");
        drop((client, server, door));
    });
    assert_eq!(files(&directory), [""; 0]);
    std::fs::write(directory.join(DONE), "").unwrap();
}

fn role_in() -> Option<(MemoryMappedFile, PathBuf)> {
    Some((role()?, directory()?))
}

fn this() -> std::process::Command {
    std::process::Command::new(std::env::current_exe().unwrap_or_else(|_| PathBuf::new()))
}
