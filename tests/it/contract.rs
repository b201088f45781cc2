//! The contracts that the tests use, and one implementation of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use witrpc::CallContext;

/// An error type of a service's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MathError {
    DivisionByZero { dividend: i64 },
    Remote(String),
}

impl From<witrpc::Error> for MathError {
    fn from(error: witrpc::Error) -> Self {
        Self::Remote(error.to_string())
    }
}

/// What most tests call.
#[witrpc::service]
pub(crate) trait Calc {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError>;
    async fn echo(&self, text: String) -> witrpc::Result<String>;
    async fn unit(&self) -> witrpc::Result<()>;
    /// Text of this many bytes.
    async fn make(&self, len: usize) -> witrpc::Result<String>;
    async fn len(&self, text: String) -> witrpc::Result<usize>;
    async fn panics(&self, text: String) -> witrpc::Result<()>;
    async fn fails(&self, text: String) -> witrpc::Result<()>;
    /// Answers after `millis`, having let others run.
    async fn later(&self, millis: u64, value: u64) -> witrpc::Result<u64>;
    /// Waits for [`State::gate`]; counted in [`State::waiting`] as long as it runs.
    async fn wait(&self) -> witrpc::Result<()>;
    /// Opens the gate for this many waiters.
    async fn open(&self, waiters: usize) -> witrpc::Result<()>;
    /// How many are waiting at the gate.
    async fn waiting(&self) -> witrpc::Result<u64>;
    /// The caller as the context shows it: process id, and milliseconds until its deadline.
    async fn context(&self) -> witrpc::Result<(Option<u32>, Option<u64>)>;
    #[witrpc(blocking)]
    async fn block(&self, millis: u64) -> witrpc::Result<String>;
}

/// The same method name as [`Calc`], another meaning.
#[witrpc::service]
pub(crate) trait Words {
    async fn add(&self, a: String, b: String) -> witrpc::Result<String>;
}

/// What [`Calculator`] lets tests see and steer.
#[derive(Debug)]
pub(crate) struct State {
    pub gate: Semaphore,
    pub waiting: AtomicU64,
}

/// An implementation of both contracts.
#[derive(Clone, Debug)]
pub(crate) struct Calculator(pub Arc<State>);

impl Default for Calculator {
    fn default() -> Self {
        Self(Arc::new(State { gate: Semaphore::new(0), waiting: AtomicU64::new(0) }))
    }
}

struct Waiting<'a>(&'a AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Calc for Calculator {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        a.checked_add(b).ok_or_else(|| witrpc::Error::fault("overflow"))
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError> {
        dividend.checked_div(divisor).ok_or(MathError::DivisionByZero { dividend })
    }

    async fn echo(&self, text: String) -> witrpc::Result<String> {
        Ok(text)
    }

    async fn unit(&self) -> witrpc::Result<()> {
        Ok(())
    }

    async fn make(&self, len: usize) -> witrpc::Result<String> {
        Ok("m".repeat(len))
    }

    async fn len(&self, text: String) -> witrpc::Result<usize> {
        Ok(text.len())
    }

    async fn panics(&self, text: String) -> witrpc::Result<()> {
        panic!("{text}")
    }

    async fn fails(&self, text: String) -> witrpc::Result<()> {
        Err(witrpc::Error::fault(text))
    }

    async fn later(&self, millis: u64, value: u64) -> witrpc::Result<u64> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(value)
    }

    async fn wait(&self) -> witrpc::Result<()> {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.0.waiting);
        self.0.gate.acquire().await.map_err(witrpc::Error::fault)?.forget();
        Ok(())
    }

    async fn open(&self, waiters: usize) -> witrpc::Result<()> {
        self.0.gate.add_permits(waiters);
        Ok(())
    }

    async fn waiting(&self) -> witrpc::Result<u64> {
        Ok(self.0.waiting.load(Ordering::SeqCst))
    }

    async fn context(&self) -> witrpc::Result<(Option<u32>, Option<u64>)> {
        let context = CallContext::current();
        // It is set around every poll, not only the first.
        tokio::task::yield_now().await;
        assert_eq!(CallContext::current().peer(), context.peer());
        let left = context.deadline().map(|at| at.duration_since(tokio::time::Instant::now()));
        Ok((context.peer().process_id, left.map(|left| left.as_millis() as u64)))
    }

    async fn block(&self, millis: u64) -> witrpc::Result<String> {
        std::thread::sleep(Duration::from_millis(millis));
        Ok(format!("{:?}", std::thread::current().id()))
    }
}

impl Words for Calculator {
    async fn add(&self, a: String, b: String) -> witrpc::Result<String> {
        Ok(a + &b)
    }
}
