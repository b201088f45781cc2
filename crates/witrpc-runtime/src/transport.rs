//! What a transport is, and one within a process.

pub use witrpc_core::transport::*;

pub mod memory;
