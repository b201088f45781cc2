//! The traits of a transport, and a transport within one process.

pub use witrpc_core::transport::*;

pub mod memory;
