//! Slices of single calls, for benches that call two callees in turn.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// Calls in a slice; the first of them warm up what the other has used meanwhile.
const SLICE: usize = 1000;
const WARM_UP: usize = 100;

/// A slice of single calls: how long each took.
pub(crate) fn slice<F: Future<Output = witrpc::Result<()>> + Send>(
    runtime: &Runtime,
    call: impl Fn() -> F + Send + 'static,
) -> Vec<Duration> {
    let calls = runtime.spawn(async move {
        let mut times = Vec::with_capacity(SLICE);
        for _ in 0..SLICE {
            let began = Instant::now();
            call().await.expect("an answer");
            times.push(began.elapsed());
        }
        times.split_off(WARM_UP)
    });
    runtime.block_on(calls).expect("every call was answered")
}

/// p50 and p99.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100].map(|at| times[at])
}
