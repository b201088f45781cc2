//! With named pipes of the file system.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use tokio::task::{JoinHandle, spawn_blocking};
use witrpc_mmf::bench_support::make_pipe;

/// Something that reads a door.
pub(crate) struct FakeServer {
    asked: JoinHandle<FakeCaller>,
}

/// A client that has asked there.
pub(crate) struct FakeCaller {
    door: PathBuf,
    pipe: PathBuf,
    /// A server that does not hold it open has died.
    alive: File,
}

impl FakeServer {
    pub(crate) fn start(directory: &Path) -> Self {
        let (directory, path) = (directory.to_owned(), directory.join("test.door"));
        make_pipe(&path).unwrap();
        let mut door = File::options().read(true).write(true).open(&path).unwrap();
        let asked = spawn_blocking(move || {
            let mut ask = [0; 64];
            door.read_exact(&mut ask).unwrap();
            let nonce = ask[16..32].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let pipe = directory.join(format!("test.{nonce}.c"));
            let alive = File::options().write(true).open(&pipe).unwrap();
            FakeCaller { door: path, pipe, alive }
        });
        Self { asked }
    }

    /// The first client that asks.
    pub(crate) async fn ask(self) -> FakeCaller {
        self.asked.await.unwrap()
    }

    /// Its file: a door that nobody reads.
    pub(crate) fn leave_what_a_killed_one_leaves(directory: &Path) -> &'static str {
        make_pipe(&directory.join("test.door")).unwrap();
        "test.door"
    }
}

impl FakeCaller {
    #[expect(clippy::unused_async, reason = "on other systems it waits")]
    pub(crate) async fn answer(&mut self, bytes: &[u8]) {
        self.alive.write_all(bytes).unwrap();
    }

    /// What the client looks for when it is let in.
    pub(crate) fn make_files(&self, region: &[u8]) {
        make_pipe(&self.pipe.with_extension("s")).unwrap();
        std::fs::write(self.pipe.with_extension("mmf"), region).unwrap();
    }

    pub(crate) fn die(self) {
        std::fs::remove_file(&self.door).unwrap();
    }
}

/// A client that has asked, whatever it has said.
pub(crate) struct FakeClient {
    answers: File,
}

impl FakeClient {
    /// Writes into the door of a server; the bytes name the nonce of 16 bytes `ef`.
    pub(crate) fn ask(directory: &Path, bytes: &[u8]) -> Self {
        let pipe = directory.join(format!("test.{}.c", "ef".repeat(16)));
        make_pipe(&pipe).unwrap();
        let answers = File::options().read(true).write(true).open(&pipe).unwrap();
        std::fs::write(directory.join("test.door"), bytes).unwrap();
        Self { answers }
    }

    pub(crate) async fn answer(mut self) -> [u8; 16] {
        let mut answer = [0; 16];
        let read = spawn_blocking(move || {
            self.answers.read_exact(&mut answer).unwrap();
            answer
        });
        read.await.unwrap()
    }
}
