//! What workers of a pool do in its soak, confined or not.

use witrpc::Result;
use witrpc::prelude::*;

#[witrpc::service]
pub(crate) trait Toil {
    /// To be executed once at most.
    async fn add(&self, a: u64, b: u64) -> Result<u64>;
    #[witrpc(idempotent)]
    async fn echo(&self, text: String, bytes: Blob) -> Result<(String, Blob)>;
    /// Computes for so many steps.
    #[witrpc(blocking, idempotent)]
    async fn compute(&self, steps: u64) -> Result<u64>;
    async fn count(&self, to: u64) -> Result<Streaming<u64>>;
    async fn sum(&self, numbers: Streaming<u64>) -> Result<u64>;
    /// Raises the event, and returns the process.
    #[witrpc(idempotent)]
    async fn announce(&self, value: u64) -> Result<u32>;
    /// Whether this process may open its own program.
    #[witrpc(idempotent)]
    async fn is_confined(&self) -> Result<bool>;
    #[event]
    fn announced(&self) -> &Event<u64>;
}

/// What `compute` returns.
pub(crate) fn compute(steps: u64) -> u64 {
    (0..steps).fold(1, |state, step| std::hint::black_box(state ^ step).wrapping_mul(3))
}
