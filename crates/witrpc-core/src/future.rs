//! Futures as object-safe traits return them.

use std::future::Future;
use std::pin::Pin;

/// A boxed future, as object-safe traits return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
