//! The server's half of the examples: the worker itself.

use witrpc::CallContext;

use crate::contract::{MathError, Worker};

/// A worker without state.
#[derive(Debug)]
pub(crate) struct LocalWorker;

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
        }
        Ok(primes)
    }
}
