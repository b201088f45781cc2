//! The two builders, for every transport: what they have in common is [`Common`].
//!
//! A transport adds its own words in an extension trait (`with_memory_mapped_file`, say) on top of `with_transport`; the
//! builders know none of them.

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
