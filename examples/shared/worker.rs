//! The server's half of the examples: the worker itself.

use witrpc::{Blob, CallContext, Event};

use crate::contract::{MathError, Worker};

/// A worker. Its event is a field.
#[derive(Debug, Default)]
pub(crate) struct LocalWorker {
    progress: Event<u64>,
}

impl Worker for LocalWorker {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        a.checked_add(b).ok_or_else(|| witrpc::Error::fault("the sum is too large"))
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError> {
        dividend.checked_div(divisor).ok_or(MathError::DivisionByZero)
    }

    async fn count_words(&self, text: String) -> witrpc::Result<usize> {
        Ok(text.split_whitespace().count())
    }

    async fn count_primes(&self, below: u64) -> witrpc::Result<u64> {
        let call = CallContext::current();
        let mut primes = 0;
        for number in 2..below {
            if call.is_cancelled() {
                return Err(witrpc::Error::Cancelled);
            }
            primes += u64::from((2..=number.isqrt()).all(|divisor| number % divisor != 0));
            if (number + 1) % (below / 4).max(1) == 0 {
                self.progress.raise((number + 1) / (below / 4).max(1) * 25)?;
            }
        }
        Ok(primes)
    }

    async fn invert(&self, picture: Blob) -> witrpc::Result<Blob> {
        Ok(picture.iter().map(|byte| !byte).collect())
    }

    fn progress(&self) -> &Event<u64> {
        &self.progress
    }
}
