//! What `fuzz/` runs, and `cargo test` replays over the corpus there: a function per target, which takes any bytes and
//! panics where the library breaks a promise. In no other build. What needs a runtime is in `witrpc-runtime`.

pub mod corpus;
mod frame;
mod input;
mod reassembly;

pub use frame::frame;
pub use input::Input;
pub use reassembly::reassembly;
