//! The worker's implementation of what the soak of pools calls.

use witrpc::prelude::*;
use witrpc::{Error, Result};

use super::toil::{Toil, compute};

#[derive(Default)]
pub(super) struct Toiler {
    announced: Event<u64>,
}

impl Toil for Toiler {
    async fn add(&self, a: u64, b: u64) -> Result<u64> {
        Ok(a + b)
    }

    async fn echo(&self, text: String, bytes: Blob) -> Result<(String, Blob)> {
        Ok((text, bytes))
    }

    async fn compute(&self, steps: u64) -> Result<u64> {
        Ok(compute(steps))
    }

    async fn count(&self, to: u64) -> Result<Streaming<u64>> {
        Ok(Streaming::iter(0..to))
    }

    async fn sum(&self, mut numbers: Streaming<u64>) -> Result<u64> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }

    async fn announce(&self, value: u64) -> Result<u32> {
        self.announced.raise(value)?;
        Ok(std::process::id())
    }

    async fn is_confined(&self) -> Result<bool> {
        match std::net::UdpSocket::bind("127.0.0.1:0") {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(true),
            Err(error) => Err(Error::fault(error)),
        }
    }

    fn announced(&self) -> &Event<u64> {
        &self.announced
    }
}
