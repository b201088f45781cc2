//! The contract of the examples. Server and client include this file; two programs of yours would share a crate.

use serde::{Deserialize, Serialize};
use witrpc::{Blob, Event};

/// What a worker process does for its host.
#[witrpc::service]
pub(crate) trait Worker {
    /// Adds.
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    /// Divides, with an error type of the service's own.
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError>;
    /// Counts words.
    async fn count_words(&self, text: String) -> witrpc::Result<usize>;
    /// Counts primes, on the pool for blocking work; it stops early once nobody waits for it.
    #[witrpc(blocking)]
    async fn count_primes(&self, below: u64) -> witrpc::Result<u64>;
    /// Inverts every byte of a picture.
    async fn invert(&self, picture: Blob) -> witrpc::Result<Blob>;
    /// Percent of the counting that is done, a value for every quarter.
    #[event]
    fn progress(&self) -> &Event<u64>;
}

/// What can go wrong in [`Worker::divide`]; it arrives at the client as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MathError {
    /// There is no such quotient.
    DivisionByZero,
    /// What witrpc itself had to say: a lost connection, a deadline.
    Rpc(String),
}

impl From<witrpc::Error> for MathError {
    fn from(error: witrpc::Error) -> Self {
        Self::Rpc(error.to_string())
    }
}
