//! The two builders, for every transport: what they have in common is [`Common`].
//!
//! A transport crate adds its own methods by an extension trait (for example `with_memory_mapped_file`), on top of `with_transport`. The
//! builders know no transport.

/// The settings that both builders have, once: methods on a type with a field `common`.
macro_rules! common_settings {
    ($builder:ty) => {
        impl $builder {
            /// Serializes arguments and results as JSON. The default.
            #[cfg(feature = "json")]
            pub fn with_json(mut self) -> Self {
                self.common.codec = Some(witrpc_core::values::serializer::Codec::Json);
                self
            }

            #[doc(hidden)]
            #[cfg(not(feature = "json"))]
            pub fn with_json(self) -> Self
            where
                for<'never> Self: $crate::builder::missing::Json,
            {
                self
            }

            /// Serializes arguments and results as MessagePack. Both sides must use it.
            #[cfg(feature = "message-pack")]
            pub fn with_message_pack(mut self) -> Self {
                self.common.codec = Some(witrpc_core::values::serializer::Codec::MessagePack);
                self
            }

            #[doc(hidden)]
            #[cfg(not(feature = "message-pack"))]
            pub fn with_message_pack(self) -> Self
            where
                for<'never> Self: $crate::builder::missing::MessagePack,
            {
                self
            }

            /// Serializes arguments and results as postcard. Both sides must use it, with the same types: postcard does not detect
            /// every difference between them.
            #[cfg(feature = "postcard")]
            pub fn with_postcard(mut self) -> Self {
                self.common.codec = Some(witrpc_core::values::serializer::Codec::Postcard);
                self
            }

            #[doc(hidden)]
            #[cfg(not(feature = "postcard"))]
            pub fn with_postcard(self) -> Self
            where
                for<'never> Self: $crate::builder::missing::Postcard,
            {
                self
            }

            /// Serializes arguments and results with a format of your own. Both sides must use it.
            pub fn with_serializer(
                mut self,
                serializer: impl witrpc_core::values::serializer::Serializer,
            ) -> Self {
                self.common.set_serializer(serializer);
                self
            }

            /// Sends unencrypted. The default.
            pub fn without_encryption(mut self) -> Self {
                self.common.without_encryption();
                self
            }

            /// Encrypts and authenticates every frame: a Noise handshake, then AES-256-GCM. Both sides must use it.
            pub fn with_encryption(mut self) -> Self {
                self.common.set_encryptor(witrpc_core::security::cipher::NoiseEncryptor::new());
                self
            }

            /// Encrypts with a scheme of your own. Both sides must use it.
            pub fn with_encryptor(
                mut self,
                encryptor: impl witrpc_core::security::cipher::Encryptor,
            ) -> Self {
                self.common.set_encryptor(encryptor);
                self
            }

            /// Asks `authorizer` before each call that the other side makes here, and each of its subscriptions to events. It gets the
            /// [`Peer`](crate::Peer), and the names of the service and of the method or event.
            ///
            /// If it returns an `Err`, the call fails with [`Error::Unauthorized`](crate::Error::Unauthorized) and that text, and is
            /// not executed. A subscription ends with it. The connection, and other calls, go on. The authorizer is also asked for
            /// `witrpc.Introspection.describe`, by which clients list the services of a server.
            ///
            /// It is called for every call, on the task that serves the connection: it must be quick, and must not block.
            ///
            /// ```
            #[doc = concat!("let builder = witrpc::", stringify!($builder), "::new().with_authorizer(|peer, service, method| {")]
            ///     let is_admin = peer.identity::<String>().is_some_and(|name| *name == "admin");
            ///     if (service, method) == ("Server", "stop") && !is_admin {
            ///         return Err("only admin may stop the server");
            ///     }
            ///     Ok(())
            /// });
            /// # drop(builder);
            /// ```
            pub fn with_authorizer<E: std::fmt::Display>(
                mut self,
                authorizer: impl Fn(&$crate::Peer, &str, &str) -> Result<(), E> + Send + Sync + 'static,
            ) -> Self {
                self.common.authorizer = Some($crate::serving::authorizer::Authorizer::new(authorizer));
                self
            }

            /// Accepts messages of at most `bytes` bytes from the other side. The size of a message is the size of its serialized value
            /// and its blobs, plus 64 bytes for each blob and 512 for each stream. Default 64 MiB.
            pub fn with_max_message_size(mut self, bytes: u64) -> Self {
                self.common.limits.set_max_message_size(bytes);
                self
            }

            /// Accepts at most `calls` unanswered calls per connection; further calls wait at the caller. Default 1024.
            ///
            /// A call counts until its handler has returned, also while the handler waits for a nested call to its caller. Nested calls
            /// have as many places of their own. A call that is made within a nested call takes a place of either kind, or fails with
            /// [`Error::Limit`](crate::Error::Limit). So calls never wait for calls that wait for them.
            pub fn with_max_in_flight(mut self, calls: u32) -> Self {
                self.common.limits.max_in_flight = calls;
                self
            }

            /// Limits what the other side can make this side hold per connection, to one and a half times `bytes` for all of this together:
            ///
            /// | | of `bytes` |
            /// |---|--:|
            /// | its requests, until their handlers have answered | 3/8 |
            /// | its responses and events, until they are taken, or have reached their subscriptions | 17/64 |
            /// | items of its streams that are on their way, or larger than their windows and not read | 5/16 |
            /// | other items of its streams that are not read | 3/32 |
            /// | responses that it does not take | 1/4 |
            /// | values that wait for its subscriptions ([`Event::with_capacity`](crate::Event::with_capacity)) | 1/8 |
            /// | items of streams that it does not take | 1/16 |
            ///
            /// At a limit the sender waits; events overflow. A response or an item that was made before its part was full is kept in addition. So are
            /// entries of tables. The guide's chapter on sizing says how much that is.
            ///
            /// Must be at least `with_max_message_size`, and counts as four times that at least. Default: four times `with_max_message_size`.
            ///
            /// A quarter of the part for requests is left to nested ones, as far as `with_max_message_size` fits beside it. A nested
            /// request that is larger than three quarters of that fails with [`Error::Limit`](crate::Error::Limit) if there is no room
            /// for it at once.
            pub fn with_max_buffered(mut self, bytes: u64) -> Self {
                self.common.limits.max_buffered = bytes;
                self
            }
        }
    };
}

mod client;
pub mod missing;
mod server;

use std::sync::Arc;

pub use client::WitClientBuilder;
pub use server::WitServerBuilder;

use crate::link::handshake::Setup;
use crate::serving::authorizer::Authorizer;
use crate::serving::service::Service;
use crate::serving::services::Services;
use witrpc_core::Error;
use witrpc_core::limits::Limits;
use witrpc_core::security::cipher::{Encryptor, PlainEncryptor};
use witrpc_core::values::serializer::{Codec, Serializer};

/// The services of one side, and who may use them.
fn collect(
    added: Vec<Arc<dyn Service>>,
    authorizer: Option<Authorizer>,
) -> Result<Services, Error> {
    let mut services = Services::default();
    services.authorize_by(authorizer);
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
    authorizer: Option<Authorizer>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            codec: Codec::preferred(),
            encryptor: Arc::new(PlainEncryptor),
            limits: Limits::default(),
            encrypted: false,
            authorizer: None,
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
        let advice = "tokens are sent over encrypted connections only; add .with_encryption()";
        Err(Error::config(setting, "without_encryption", advice))
    }

    fn set_serializer(&mut self, serializer: impl Serializer) {
        self.codec = Some(Codec::custom(serializer));
    }

    fn into_setup<A: ?Sized>(self, authorization: Arc<A>) -> Result<Setup<A>, Error> {
        self.limits.validate()?;
        let codec = self.codec.ok_or_else(|| {
            let advice =
                "enable one of the cargo features json, message-pack, postcard, or add .with_serializer(…)";
            Error::config("with_serializer", "none", advice)
        })?;
        Ok(Setup { codec, encryptor: self.encryptor, authorization, limits: self.limits })
    }
}
