//! [`WitServerBuilder`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use witrpc_core::Error;
use witrpc_core::security::authorization::{
    AccessTokenValidator, ServerAuthorization, StaticToken, TokenValidator, WithoutAuthorization,
};
use witrpc_core::transport::ServerTransport;

use crate::builder::Common;
use crate::server::{Times, WitServer};
use crate::serving::introspection::ServerDescription;
use crate::serving::service::Service;

/// How long an accepted client may take for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds a [`WitServer`].
///
/// A transport and at least one service must be set; everything else has a default. Nothing is opened before
/// [`WitServer::start_waiting_for_connection`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use witrpc::transport::memory::MemoryTransport;
/// use witrpc::{Result, WitClientBuilder, WitServerBuilder};
///
/// #[witrpc::service]
/// trait Calc {
///     async fn add(&self, a: i32, b: i32) -> Result<i32>;
/// }
///
/// struct Adder;
///
/// impl Calc for Adder {
///     async fn add(&self, a: i32, b: i32) -> Result<i32> {
///         Ok(a + b)
///     }
/// }
///
/// // Between processes: .with_memory_mapped_file("MySharedMap"), from the crate witrpc.
/// let transport = MemoryTransport::new();
/// let server = WitServerBuilder::new()
///     .with_service(CalcServer::new(Adder))
///     .with_transport(transport.clone())
///     .with_name("adder")
///     .build()?;
/// server.start_waiting_for_connection().await?;
/// # let client = WitClientBuilder::new().with_transport(transport).build()?;
/// # client.connect(std::time::Duration::from_secs(5)).await?;
/// # assert_eq!(client.get_service::<CalcClient>().add(2, 3).await?, 5);
/// # Ok::<(), witrpc::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "call build()"]
pub struct WitServerBuilder {
    common: Common,
    services: Vec<Arc<dyn Service>>,
    transport: Option<Box<dyn ServerTransport>>,
    authorization: Authorization,
    revalidation: Option<Duration>,
    handshake_timeout: Duration,
    dedicated_threads: bool,
    name: Option<String>,
    description: Option<String>,
}

/// How clients must authorize themselves.
#[derive(Debug, Default)]
enum Authorization {
    #[default]
    None,
    /// Refused at `build`.
    /// `None` is an empty one.
    Token(Option<StaticToken>),
    Validator(TokenValidator),
}

impl Default for WitServerBuilder {
    fn default() -> Self {
        Self {
            common: Common::default(),
            services: Vec::new(),
            transport: None,
            authorization: Authorization::None,
            revalidation: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            dedicated_threads: false,
            name: None,
            description: None,
        }
    }
}

impl fmt::Debug for WitServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitServerBuilder")
            .field("services", &super::names(&self.services))
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

common_settings!(WitServerBuilder);

impl WitServerBuilder {
    /// A builder with the defaults: JSON, no encryption, no authorization.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service. May be repeated; each service needs its own name.
    pub fn with_service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Accepts clients from `transport`. For a memory-mapped file, use `with_memory_mapped_file`.
    pub fn with_transport(mut self, transport: impl ServerTransport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Accepts only clients that know `token`. Each side proves to the other that it knows the token.
    ///
    /// The token itself is never sent, and the library does not keep it. Use a long, random token: an attacker who can read the handshake
    /// can test guesses of a weak one.
    pub fn with_access_token(mut self, token: impl AsRef<str>) -> Self {
        self.authorization = Authorization::Token(StaticToken::of(token.as_ref()));
        self
    }

    /// Accepts only clients whose token `validator` accepts. Requires encryption.
    ///
    /// `validator` is a closure that takes the token and returns a `Result`, or a future of a `Result`. `Ok` contains an identity of any
    /// type, which handlers get from [`CallContext::identity`](crate::CallContext::identity). The text of an `Err` is sent to the client.
    ///
    /// The library wipes its own copies of the token. It does not wipe the `String` that it passes to `validator`.
    ///
    /// ```
    /// use witrpc::WitServerBuilder;
    ///
    /// let builder = WitServerBuilder::new().with_encryption().with_access_token_validator(|token: String| async move {
    ///     token.strip_prefix("user:").map(str::to_owned).ok_or("who are you?")
    /// });
    /// # drop(builder);
    /// ```
    pub fn with_access_token_validator<M>(
        mut self,
        validator: impl AccessTokenValidator<M>,
    ) -> Self {
        self.authorization = Authorization::Validator(TokenValidator::new(validator));
        self
    }

    /// Asks the validator of [`with_access_token_validator`](Self::with_access_token_validator) about each client's token again, every
    /// `interval`. A client whose token is refused then is disconnected, and its calls under way are cancelled. So is a client whose
    /// validation takes longer than [`with_handshake_timeout`](Self::with_handshake_timeout).
    ///
    /// The server keeps each client's token for that, and wipes it when the client is gone. The identity stays what it was at first. To
    /// disconnect a client at once, use [`WitServer::disconnect_identity`].
    pub fn with_revalidation(mut self, interval: Duration) -> Self {
        self.revalidation = Some(interval);
        self
    }

    /// Accepts every client that can open the endpoint. The default.
    pub fn without_authorization(mut self) -> Self {
        self.authorization = Authorization::None;
        self
    }

    /// Sets a name for people, which clients get from [`WitClient::describe`](crate::WitClient::describe). It is not the endpoint's name.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets a description, which clients get from [`WitClient::describe`](crate::WitClient::describe).
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Limits the time that an accepted client may take for its handshake. After that, the server disconnects it. Default 5 s.
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Serves each connection on a thread of its own. Meant for few clients, and for a latency that varies little.
    ///
    /// Handlers start on that thread. A handler that is not done after its first poll, or that takes long, continues on the runtime on
    /// which the server was started. Tasks that handlers spawn run there, too. A runtime that is dropped does not wait for these
    /// threads; they end a moment later.
    pub fn with_dedicated_threads(mut self) -> Self {
        self.dedicated_threads = true;
        self
    }

    /// Checks the settings and makes the server.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a setting is missing or invalid. The error names the setting and the value, and says what to do.
    pub fn build(mut self) -> Result<WitServer, Error> {
        let transport = self.transport.ok_or_else(|| {
            Error::config("with_transport", "none", "add .with_memory_mapped_file(\"name\")")
        })?;
        transport.validate()?;
        let mut services = super::collect(self.services, self.common.authorizer.take())?;
        if services.is_empty() {
            let advice = "add .with_service(XServer::new(implementation))";
            return Err(Error::config("with_service", "none", advice));
        }
        let description =
            ServerDescription::new(self.name, self.description, services.descriptors());
        services.add_introspection(description);
        if self.handshake_timeout.is_zero() {
            let advice =
                "no client could complete its handshake; give a longer time, for example 5 s";
            return Err(Error::config("with_handshake_timeout", "0s", advice));
        }
        let revalidation = self.revalidation;
        if let Some(interval) = revalidation {
            let (value, advice) = if interval.is_zero() {
                ("0s".to_owned(), "give the time between two checks, for example 60 s")
            } else {
                let advice = "there is nothing to ask again; add .with_access_token_validator(…)";
                (format!("{interval:?}"), advice)
            };
            if interval.is_zero() || !matches!(self.authorization, Authorization::Validator(_)) {
                return Err(Error::config("with_revalidation", value, advice));
            }
        }
        let authorization: Arc<dyn ServerAuthorization> = match self.authorization {
            Authorization::None => Arc::new(WithoutAuthorization),
            Authorization::Token(token) => {
                let advice = "an empty token admits everybody; give a long, random token, or use \
                              without_authorization()";
                let empty = || Error::config("with_access_token", "\"\"", advice);
                Arc::new(token.ok_or_else(empty)?)
            }
            Authorization::Validator(validator) => {
                self.common.require_encryption("with_access_token_validator")?;
                Arc::new(validator.asking_again(revalidation.is_some()))
            }
        };
        let setup = self.common.into_setup(authorization)?;
        let times = Times { handshake: self.handshake_timeout, revalidation };
        Ok(WitServer::new(transport, services, setup, times, self.dedicated_threads))
    }
}
