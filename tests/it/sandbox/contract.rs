//! What the tests of sandboxes and their worker have in common.

use serde::{Deserialize, Serialize};
use witrpc::{Descriptor, Result};

/// Tells a worker what it does before it calls its agent.
pub(super) const ROLE: &str = "WITRPC_IT_SANDBOXED";

/// In front of a path: a worker reads it before it calls its agent.
pub(super) const READS: &str = "reads ";

/// What attempts are aimed at.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Aim {
    /// The host's process.
    pub host: i32,
    /// A file that anybody can read, and its user write.
    pub file: String,
    /// A directory of the user's.
    pub folder: String,
    /// Somebody listens there on the loopback.
    pub port: u16,
    /// Somebody listens there: a socket with a path, and one with an abstract name.
    pub socket: String,
    pub abstract_socket: String,
    /// One that no program here has.
    pub library: String,
    /// Of eight bytes of the host.
    pub address: usize,
    /// More memory than a confined worker has.
    pub bytes: usize,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Succeeded,
    /// By the system, with this error.
    Refused(i32),
}

#[witrpc::service]
pub(super) trait Captive {
    async fn add(&self, a: i32, b: i32) -> Result<i32>;
    async fn process(&self) -> Result<u32>;
    /// The names of all attempts, and whether they take root.
    async fn attempts(&self) -> Result<Vec<(String, bool)>>;
    /// On a thread for what blocks.
    #[witrpc(blocking)]
    async fn attempt(&self, what: String, aim: Aim) -> Result<Outcome>;
    /// With something that the host has opened.
    async fn attempt_with(&self, what: String, file: Descriptor) -> Result<Outcome>;
    /// The outcomes of attempts before the agent took over.
    async fn early(&self) -> Result<Vec<(String, Outcome)>>;
    /// The version of Landlock, as far as it is told.
    async fn landlock(&self) -> Result<i64>;
    /// Computes on threads, with locks, channels and timers.
    async fn compute(&self, threads: u64) -> Result<u64>;
    async fn panics(&self) -> Result<()>;
    /// With the names of functions.
    async fn backtrace(&self) -> Result<String>;
    async fn read(&self, file: Descriptor) -> Result<String>;
    /// Reads what has a path.
    async fn read_path(&self, path: String) -> Result<String>;
    async fn write_path(&self, path: String, text: String) -> Result<()>;
    /// Asks the host to double.
    async fn doubled(&self, number: i32) -> Result<i32>;
    /// Signals itself to the end.
    async fn abort(&self) -> Result<()>;
    /// Uses CPU time without end.
    #[witrpc(blocking)]
    async fn burn(&self) -> Result<()>;
    /// A call of the system by the door for 32 bits.
    async fn old_door(&self) -> Result<i32>;
    /// Opens as many descriptors as it can, up to this number, and closes them.
    async fn descriptors(&self, most: usize) -> Result<usize>;
}

#[witrpc::service]
pub(super) trait Calculator {
    async fn double(&self, number: i32) -> Result<i32>;
}
