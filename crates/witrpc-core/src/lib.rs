//! The protocol of witrpc: framing, values, security, contracts and sessions, without anything that waits.
//!
//! Most users depend on the `witrpc` crate. This one is for those who write a [transport], a [`Serializer`] or an [`Encryptor`] of their
//! own. It reads no clock, takes no lock, starts no thread and opens no file: `witrpc-runtime` does that.
//!
//! # Layers
//!
//! Each folder uses those above it in this list, and none below:
//!
//! | folder | turns |
//! |---|---|
//! | `wire` | bytes into values of the protocol, and back |
//! | `values` | bytes into the user's values, and back |
//! | `security` | frames into sealed ones, tokens into proofs |
//! | `contract` | traits into catalogs, catalogs into routes |
//! | `session` | messages into frames and back, within the limits of both sides |

#![forbid(unsafe_code)]

#[cfg(feature = "json")]
#[doc(hidden)]
pub mod bench_support;
#[doc(hidden)]
pub mod contract;
mod error;
#[doc(hidden)]
pub mod fail_point;
mod future;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
#[doc(hidden)]
pub mod fuzz_support;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
#[doc(hidden)]
pub mod held;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod security;
#[doc(hidden)]
pub mod session;
#[doc(hidden)]
pub mod sync;
#[cfg(any(test, fuzzing, feature = "test-support"))]
#[doc(hidden)]
pub mod testing;
#[doc(hidden)]
pub mod text;
pub mod transport;
#[doc(hidden)]
pub mod user_code;
#[doc(hidden)]
pub mod values;
#[doc(hidden)]
pub mod wire;

pub use contract::descriptor::ServiceDescriptor;
pub use error::{CloseReason, Error, Result};
pub use security::cipher::{
    CipherError, CipherPair, Encryptor, KeyAgreement, NoiseEncryptor, Opener, Role, Sealer, Secret,
};
pub use serde;
pub use transport::WaitStrategy;
pub use values::blob::Blob;
pub use values::serializer::{Serializer, SerializerError};
