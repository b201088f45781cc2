//! [`WitClientBuilder`].

use std::sync::Arc;
use std::time::Duration;

use super::Common;
use crate::authorization::WithoutAuthorization;
use crate::cipher::PlainEncryptor;
use crate::client::{ClientCore, WitClient};
use crate::error::Error;
use crate::serializer::Serializer;
use crate::transport::ClientTransport;

/// Builds a [`WitClient`]. What is not set has its default; nothing is opened before [`WitClient::connect`].
#[derive(Debug, Default)]
#[must_use = "call build()"]
pub struct WitClientBuilder {
    common: Common,
    transport: Option<Box<dyn ClientTransport>>,
    timeout: Option<Duration>,
}

impl WitClientBuilder {
    /// A builder with the defaults: JSON, no encryption, no authorization, no timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects through `transport`. A transport crate has a shorter word for it: `with_memory_mapped_file`.
    pub fn with_transport(mut self, transport: impl ClientTransport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Serializes as JSON. The default.
    #[cfg(feature = "json")]
    pub fn with_json(mut self) -> Self {
        self.common.codec = Some(crate::serializer::Codec::Json);
        self
    }

    /// Serializes as MessagePack; the server must have the same.
    #[cfg(feature = "message-pack")]
    pub fn with_message_pack(mut self) -> Self {
        self.common.codec = Some(crate::serializer::Codec::MessagePack);
        self
    }

    /// Serializes as postcard; the server must have the same, and the same types: postcard does not notice when they differ.
    #[cfg(feature = "postcard")]
    pub fn with_postcard(mut self) -> Self {
        self.common.codec = Some(crate::serializer::Codec::Postcard);
        self
    }

    /// Serializes with a format of your own; the server must have the same.
    pub fn with_serializer(mut self, serializer: impl Serializer) -> Self {
        self.common.set_serializer(serializer);
        self
    }

    /// Sends in clear. The default.
    pub fn without_encryption(mut self) -> Self {
        self.common.encryptor = Arc::new(PlainEncryptor);
        self
    }

    /// Proves nothing to the server. The default.
    pub fn without_authorization(self) -> Self {
        self
    }

    /// Gives every call this long, counted from its first poll; then it fails with
    /// [`Error::TimedOut`], and is cancelled at the server. `with_timeout` on a service handle overrides it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Gives calls all the time they need. The default.
    pub fn without_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Takes messages of at most `bytes` (body and blobs) from the server. Default 64 MiB.
    pub fn with_max_message_size(mut self, bytes: u64) -> Self {
        self.common.limits.set_max_message_size(bytes);
        self
    }

    /// Holds at most `bytes` of messages in either direction; a sender waits at that. Default twice
    /// `max_message_size`, and at least that.
    pub fn with_max_buffered(mut self, bytes: u64) -> Self {
        self.common.limits.max_buffered = bytes;
        self
    }

    /// Checks the settings and makes the client.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], naming the setting, the value and the way out.
    pub fn build(self) -> Result<WitClient, Error> {
        let transport = self.transport.ok_or_else(|| {
            Error::config("transport", "none", "add .with_memory_mapped_file(\"name\")")
        })?;
        transport.validate()?;
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            let advice =
                "no call could ever be answered; give a longer time, or use without_timeout()";
            return Err(Error::config("with_timeout", "0s", advice));
        }
        let setup = self.common.into_setup(Arc::new(WithoutAuthorization) as _)?;
        Ok(WitClient::new(ClientCore::new(transport, setup, self.timeout)))
    }
}
