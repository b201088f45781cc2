//! What `fuzz/` runs, and `cargo test` replays over the corpus there: a function per target, which takes any bytes and
//! panics where the library breaks a promise. In no other build.

#[cfg(test)]
mod corpus;
mod frame;
mod handshake;
mod input;
mod reassembly;
mod session;

pub use frame::frame;
pub use handshake::handshake;
pub use reassembly::reassembly;
pub use session::session;
