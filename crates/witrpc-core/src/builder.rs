//! The two builders, for every transport: what they have in common is [`Common`].
//!
//! A transport adds its own words in an extension trait (`with_memory_mapped_file`, say) on top of `with_transport`; the
//! builders know none of them.

/// The settings that both builders have, once: methods on a type with a field `common`.
macro_rules! common_settings {
    ($builder:ty) => {
        impl $builder {
            /// Serializes as JSON. The default.
            #[cfg(feature = "json")]
            pub fn with_json(mut self) -> Self {
                self.common.codec = Some($crate::serializer::Codec::Json);
                self
            }

            /// Serializes as MessagePack; both sides must.
            #[cfg(feature = "message-pack")]
            pub fn with_message_pack(mut self) -> Self {
                self.common.codec = Some($crate::serializer::Codec::MessagePack);
                self
            }

            /// Serializes as postcard; both sides must, and have the same types: postcard does not notice when they differ.
            #[cfg(feature = "postcard")]
            pub fn with_postcard(mut self) -> Self {
                self.common.codec = Some($crate::serializer::Codec::Postcard);
                self
            }

            /// Serializes with a format of your own; both sides must.
            pub fn with_serializer(
                mut self,
                serializer: impl $crate::serializer::Serializer,
            ) -> Self {
                self.common.set_serializer(serializer);
                self
            }

            /// Sends in clear. The default.
            pub fn without_encryption(mut self) -> Self {
                self.common.without_encryption();
                self
            }

            /// Encrypts and authenticates every frame: a Noise handshake, then AES-256-GCM. Both sides must have it.
            pub fn with_encryption(mut self) -> Self {
                self.common.set_encryptor($crate::cipher::NoiseEncryptor::new());
                self
            }

            /// Encrypts with a scheme of your own; the other side must have the same.
            pub fn with_encryptor(mut self, encryptor: impl $crate::cipher::Encryptor) -> Self {
                self.common.set_encryptor(encryptor);
                self
            }

            /// Takes messages of at most `bytes` (body and blobs) from the other side. Default 64 MiB.
            pub fn with_max_message_size(mut self, bytes: u64) -> Self {
                self.common.limits.set_max_message_size(bytes);
                self
            }

            /// Takes at most `calls` unanswered calls from the other side per connection; further ones wait there. Default 1024.
            pub fn with_max_in_flight(mut self, calls: u32) -> Self {
                self.common.limits.max_in_flight = calls;
                self
            }

            /// Holds at most `bytes` of messages per connection and direction; a sender waits at that. Default twice
            /// `max_message_size`, and at least that.
            ///
            /// What streams have come with and nobody has read is held beside that, at most half as much again: an eighth
            /// of that half for the first stream, at most 1 MiB, and less for each further one.
            pub fn with_max_buffered(mut self, bytes: u64) -> Self {
                self.common.limits.max_buffered = bytes;
                self
            }
        }
    };
}

mod client;
mod server;

use std::sync::Arc;

pub use client::WitClientBuilder;
pub use server::WitServerBuilder;

use crate::cipher::{Encryptor, PlainEncryptor};
use crate::error::Error;
use crate::exchange::Setup;
use crate::options::Limits;
use crate::serializer::{Codec, Serializer};
use crate::served::Services;
use crate::service::Service;

/// The services of one side.
fn collect(added: Vec<Arc<dyn Service>>) -> Result<Services, Error> {
    let mut services = Services::default();
    for service in added {
        services.add(service)?;
    }
    Ok(services)
}

fn names(services: &[Arc<dyn Service>]) -> Vec<&'static str> {
    services.iter().map(|service| service.descriptor().name).collect()
}

/// Settings that both sides have.
#[derive(Debug)]
struct Common {
    codec: Option<Codec>,
    encryptor: Arc<dyn Encryptor>,
    limits: Limits,
    /// Whether the encryptor is one.
    encrypted: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            codec: Codec::preferred(),
            encryptor: Arc::new(PlainEncryptor),
            limits: Limits::default(),
            encrypted: false,
        }
    }
}

impl Common {
    fn set_encryptor(&mut self, encryptor: impl Encryptor) {
        self.encryptor = Arc::new(encryptor);
        self.encrypted = true;
    }

    fn without_encryption(&mut self) {
        self.encryptor = Arc::new(PlainEncryptor);
        self.encrypted = false;
    }

    /// What `setting` sends must be sealed.
    fn require_encryption(&self, setting: &'static str) -> Result<(), Error> {
        if self.encrypted {
            return Ok(());
        }
        let advice = "tokens are only sent over an encrypted connection; add .with_encryption()";
        Err(Error::config(setting, "without_encryption", advice))
    }

    fn set_serializer(&mut self, serializer: impl Serializer) {
        self.codec = Some(Codec::custom(serializer));
    }

    fn into_setup<A: ?Sized>(self, authorization: Arc<A>) -> Result<Setup<A>, Error> {
        self.limits.validate()?;
        let codec = self.codec.ok_or_else(|| {
            let advice =
                "enable one of the features json, message-pack, postcard, or add .with_serializer(…)";
            Error::config("serializer", "none", advice)
        })?;
        Ok(Setup { codec, encryptor: self.encryptor, authorization, limits: self.limits })
    }
}
