//! With a pipe of the kernel.

use std::{
    fs::File,
    io::Write as _,
    os::windows::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};

const MARK: &str = "lock of a witrpc server; it removes this file when it stops\n";
const DELETE: u32 = 0x0001_0000;
const READ_WRITE: u32 = 0xC000_0000;
const SHARE_READ: u32 = 1;
const DELETE_ON_CLOSE: u32 = 0x0400_0000;

/// Something with a door.
pub(crate) struct FakeServer {
    directory: PathBuf,
    lock: File,
    pipe: NamedPipeServer,
}

/// A client that has asked there.
pub(crate) struct FakeCaller {
    region: PathBuf,
    pipe: NamedPipeServer,
    _lock: File,
}

impl FakeServer {
    pub(crate) fn start(directory: &Path) -> Self {
        let mut door = [0; 16];
        getrandom::fill(&mut door).unwrap();
        let door = hex(&door);
        let pipe = ServerOptions::new().create(format!(r"\\.\pipe\witrpc-{door}")).unwrap();
        let mut options = File::options();
        options.access_mode(READ_WRITE | DELETE).share_mode(SHARE_READ);
        options.custom_flags(DELETE_ON_CLOSE).create_new(true).write(true);
        let mut lock = options.open(directory.join("test.lock")).unwrap();
        lock.write_all(text(&door).as_bytes()).unwrap();
        Self { directory: directory.to_owned(), lock, pipe }
    }

    /// The first client that asks.
    pub(crate) async fn ask(self) -> FakeCaller {
        let Self { directory, lock, mut pipe } = self;
        pipe.connect().await.unwrap();
        let mut ask = [0; 64];
        pipe.read_exact(&mut ask).await.unwrap();
        let region = directory.join(format!("test.{}.mmf", hex(&ask[16..32])));
        FakeCaller { region, pipe, _lock: lock }
    }

    /// Its file, if the system itself stopped: it removes those of killed processes.
    pub(crate) fn leave_what_a_killed_one_leaves(directory: &Path) -> &'static str {
        std::fs::write(directory.join("test.lock"), text(&"0".repeat(32))).unwrap();
        "test.lock"
    }
}

impl FakeCaller {
    pub(crate) async fn answer(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).await.unwrap();
    }

    /// What the client looks for when it is let in.
    pub(crate) fn make_files(&self, region: &[u8]) {
        std::fs::write(&self.region, region).unwrap();
    }

    pub(crate) fn die(self) {
        drop(self);
    }
}

/// A client that has asked, whatever it has said.
pub(crate) struct FakeClient {
    pipe: NamedPipeClient,
    bytes: Vec<u8>,
}

impl FakeClient {
    pub(crate) fn ask(directory: &Path, bytes: &[u8]) -> Self {
        let text = std::fs::read_to_string(directory.join("test.lock")).unwrap();
        let (_, door) = text.trim_end().rsplit_once("door ").unwrap();
        let pipe = ClientOptions::new().open(format!(r"\\.\pipe\witrpc-{door}")).unwrap();
        Self { pipe, bytes: bytes.to_owned() }
    }

    pub(crate) async fn answer(mut self) -> [u8; 16] {
        let mut answer = [0; 16];
        self.pipe.write_all(&self.bytes).await.unwrap();
        self.pipe.read_exact(&mut answer).await.unwrap();
        answer
    }

    /// Asks, and does not wait for an answer.
    pub(crate) async fn leave(mut self) {
        self.pipe.write_all(&self.bytes).await.unwrap();
    }
}

fn text(door: &str) -> String {
    let process = std::process::id();
    format!("{MARK}process {process:010}, clients 0000000000 of 0000000001\ndoor {door}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
