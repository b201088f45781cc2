//! What the tests share: an endpoint in a directory of its own, records over a channel, and other processes.

use std::{
    future::{Future, poll_fn},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use witrpc_core::Error;
use witrpc_core::transport::{Channel, TransportError, Wake};
use witrpc_mmf::{ClientSlots, Door, MemoryMappedFile, connect};

/// Far beyond what anything here takes: only a hang gets there.
pub(crate) const HANG: Duration = Duration::from_secs(30);
/// Tells a child process which directory to work in.
const DIRECTORY: &str = "WITRPC_MMF_TEST_DIRECTORY";

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(HANG, future).await.expect("no hang")
}

pub(crate) fn far() -> Instant {
    Instant::now() + HANG
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_millis(100)
}

/// An endpoint in a fresh directory.
pub(crate) struct Endpoint {
    pub(crate) directory: TempDir,
    pub(crate) file: MemoryMappedFile,
    pub(crate) slots: ClientSlots,
}

impl Endpoint {
    pub(crate) fn new(set: impl FnOnce(MemoryMappedFile) -> MemoryMappedFile) -> Self {
        let directory = private_directory();
        let file = set(MemoryMappedFile::new("test").with_directory(directory.path()));
        Self { slots: ClientSlots::of(&file), directory, file }
    }

    pub(crate) async fn open(&self) -> Door {
        Door::open(&self.file, &self.slots).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Result<Channel, Error> {
        connect(&self.file, far()).await
    }

    /// A client and the server's end of it.
    pub(crate) async fn pair(&self, door: &mut Door) -> (Peer, Peer) {
        let (client, server) = within(async { tokio::join!(self.connect(), door.accept()) }).await;
        (Peer(client.unwrap()), Peer(server.unwrap()))
    }

    pub(crate) fn files(&self) -> Vec<String> {
        files(self.directory.path())
    }

    /// The same but for regions, which are files as long as their connections on some systems.
    pub(crate) fn lasting(&self) -> Vec<String> {
        let mut files = self.files();
        files.retain(|file| cfg!(unix) || !file.ends_with(".mmf"));
        files
    }
}

/// What is left once a server has started there; `yarn.lock` is none of ours, and no server takes it for its own.
pub(crate) async fn sweeps_all_but<const N: usize>(endpoint: &Endpoint, mut kept: [&str; N]) {
    kept.sort_unstable();
    let _door = endpoint.open().await;
    assert_eq!(endpoint.files(), kept);
    let taken = MemoryMappedFile::new("yarn").with_directory(endpoint.directory.path());
    let error = Door::open(&taken, &ClientSlots::of(&taken)).await.unwrap_err().to_string();
    assert!(error.contains("no witrpc lock"), "{error}");
    let text = std::fs::read_to_string(endpoint.directory.path().join("yarn.lock")).unwrap();
    assert_eq!(text, "# yarn");
}

/// `TempDir` leaves it to the system who may enter; an endpoint's directory must be private.
pub(crate) fn private_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::remove_dir(directory.path()).unwrap();
    witrpc_mmf::bench_support::make_directory(directory.path()).unwrap();
    directory
}

/// The files that servers of these names have while they listen.
pub(crate) fn listening(names: &[&str]) -> Vec<String> {
    let kinds: &[&str] = if cfg!(unix) { &["door", "lock"] } else { &["lock"] };
    names.iter().flat_map(|name| kinds.iter().map(move |kind| format!("{name}.{kind}"))).collect()
}

pub(crate) fn files(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().into_string().unwrap()
    };
    let mut files = directory.read_dir().unwrap().map(name).collect::<Vec<_>>();
    files.sort();
    files
}

/// One end of a channel, as far as these tests need it.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) Channel);

impl Peer {
    pub(crate) async fn wake(&mut self) -> Wake {
        self.try_wake().await.unwrap()
    }

    async fn try_wake(&mut self) -> Result<Wake, TransportError> {
        poll_fn(|cx| self.0.waiter.poll_wake(cx)).await
    }

    pub(crate) async fn send(&mut self, record: &[u8]) {
        while !self.0.sender.try_push(record, &[], 0).unwrap() {
            if !self.0.sender.arm(record.len(), 0).unwrap() {
                assert_eq!(self.wake().await, Wake::Rung);
            }
        }
        self.0.sender.publish().unwrap();
    }

    /// A record, if there is one.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let mut record = Vec::new();
        let len = self.0.receiver.peek(&mut []).unwrap()?;
        self.0.receiver.append_to(0, len, &mut record);
        self.0.receiver.consume();
        self.0.receiver.release().unwrap();
        Some(record)
    }

    /// The next record; `None` if the peer has gone without leaving one.
    pub(crate) async fn recv(&mut self) -> Option<Vec<u8>> {
        let mut gone = false;
        loop {
            let record = self.pop();
            if record.is_some() || gone {
                self.0.receiver.disarm();
                return record;
            }
            if !self.0.receiver.arm().unwrap() {
                gone = self.wake().await == Wake::PeerGone;
            }
        }
    }

    pub(crate) async fn is_gone(&mut self) {
        while within(self.wake()).await != Wake::PeerGone {}
    }

    /// What the layers above do when the handshake has begun.
    pub(crate) fn first_frame(&mut self) {
        std::mem::replace(&mut self.0.on_first_frame, Box::new(|| {}))();
    }
}

/// A process of its own, which is killed at the end at the latest.
pub(crate) struct Process(Child);

impl Process {
    /// Runs the test `role` of this same binary on its own, in `directory`.
    pub(crate) fn start(role: &str, directory: &Path) -> Self {
        let command = Command::new(std::env::current_exe().unwrap());
        Self::start_by(command, &format!("processes::{role}"), directory)
    }

    /// The same of `environment`.
    #[cfg(unix)]
    pub(crate) fn start_in_environment(role: &str, directory: &Path) -> Self {
        let command = Command::new(std::env::current_exe().unwrap());
        Self::start_by(command, &format!("environment::{role}"), directory)
    }

    /// The same, with a command in front that runs its arguments.
    pub(crate) fn start_by(mut command: Command, test: &str, directory: &Path) -> Self {
        command.args(["--exact", test, "--nocapture"]).env(DIRECTORY, directory);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    /// The same with another binary, as another user, who is in one group.
    #[cfg(unix)]
    pub(crate) fn start_as(
        binary: &Path,
        role: &str,
        directory: &Path,
        user: u32,
        group: u32,
    ) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(binary);
        let role = format!("processes::{role}");
        command.args(["--exact", &role, "--nocapture"]).env(DIRECTORY, directory);
        command.uid(user).gid(group).current_dir("/").stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// As `SIGKILL` does.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn succeeds(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// In a child process, the endpoint that its parent has made; `None` in the parent, where a role is no test.
pub(crate) fn role() -> Option<MemoryMappedFile> {
    Some(MemoryMappedFile::new("test").with_directory(directory()?))
}

/// The directory that it is in.
pub(crate) fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}
