//! The contract that both programs share.
#![forbid(unsafe_code)]
#![deny(missing_docs, unreachable_pub, elided_lifetimes_in_paths, missing_debug_implementations)]

use serde::{Deserialize, Serialize};

/// A point of the caller's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Upwards.
    pub y: f64,
}

/// What can go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaneError {
    /// A coordinate is no number.
    NoNumber,
    /// What the connection has to say.
    Rpc(String),
}

impl From<witrpc_runtime::Error> for PlaneError {
    fn from(error: witrpc_runtime::Error) -> Self {
        Self::Rpc(error.to_string())
    }
}

/// A plane.
#[witrpc_macros::service(crate = witrpc_runtime)]
pub trait Plane {
    /// How far two points are from each other.
    async fn distance(&self, a: Point, b: Point) -> Result<f64, PlaneError>;
    /// Where all points are.
    async fn origin(&self) -> witrpc_runtime::Result<Point>;
}
