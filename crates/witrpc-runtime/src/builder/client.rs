//! [`WitClientBuilder`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use witrpc_core::Error;
use witrpc_core::contract::route::catalog_of;
use witrpc_core::security::authorization::{
    ClientAuthorization, StaticToken, TokenProvider, WithoutAuthorization,
};
use witrpc_core::transport::ClientTransport;

use crate::builder::Common;
use crate::calls::retry::RetryPolicy;
use crate::client::reconnect::ReconnectOptions;
use crate::client::{ClientCore, ClientSettings, WitClient};
use crate::serving::service::Service;
use crate::serving::services::Services;

/// Enough for some hundred methods. Half of what a client may send before it is accepted: the rest is for a token.
const LARGEST_CATALOG: usize = 32 << 10;

/// Builds a [`WitClient`].
///
/// Only the transport must be set; everything else has a default. Serializer, encryption and kind of authorization must be the same
/// as the server's. Nothing is opened before [`WitClient::connect`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use witrpc::transport::memory::MemoryTransport;
/// use witrpc::{Result, WitClientBuilder, WitServerBuilder};
///
/// #[witrpc::service]
/// trait Calc {
///     async fn add(&self, a: i32, b: i32) -> Result<i32>;
/// }
/// # struct Adder;
/// # impl Calc for Adder {
/// #     async fn add(&self, a: i32, b: i32) -> Result<i32> { Ok(a + b) }
/// # }
/// # let transport = MemoryTransport::new();
/// # let server = WitServerBuilder::new()
/// #     .with_service(CalcServer::new(Adder)).with_transport(transport.clone()).build()?;
/// # server.start_waiting_for_connection().await?;
///
/// // Between processes: .with_memory_mapped_file("MySharedMap"), from the crate witrpc.
/// let client = WitClientBuilder::new()
///     .with_transport(transport)
///     .with_timeout(Duration::from_secs(1))
///     .build()?;
/// client.connect(Duration::from_secs(5)).await?;
/// let calc = client.get_service::<CalcClient>();
/// assert_eq!(calc.add(2, 3).await?, 5);
/// # Ok::<(), witrpc::Error>(())
/// # }).unwrap();
/// ```
#[derive(Default)]
#[must_use = "call build()"]
pub struct WitClientBuilder {
    common: Common,
    transport: Option<Box<dyn ClientTransport>>,
    authorization: Authorization,
    timeout: Option<Duration>,
    reconnect: Option<ReconnectOptions>,
    keeps_subscriptions: bool,
    retry: Option<RetryPolicy>,
    services: Vec<Arc<dyn Service>>,
}

/// How the client authorizes itself.
#[derive(Debug, Default)]
enum Authorization {
    #[default]
    None,
    /// `None` is an empty one.
    Token(Option<StaticToken>),
    Provider(TokenProvider),
}

impl fmt::Debug for WitClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitClientBuilder")
            .field("services", &super::names(&self.services))
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

common_settings!(WitClientBuilder);

impl WitClientBuilder {
    /// A builder with the defaults: JSON, no encryption, no authorization, no timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects through `transport`. For a memory-mapped file, use `with_memory_mapped_file`.
    pub fn with_transport(mut self, transport: impl ClientTransport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Offers a service to the server. The server's handlers call it, and subscribe to its events, through
    /// [`Peer::get_service`](crate::Peer::get_service). May be repeated; each service needs its own name.
    pub fn with_service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Connects only to a server that knows `token`. Each side proves to the other that it knows the token.
    ///
    /// The token itself is never sent, and the library does not keep it. Use a long, random token: an attacker who can read the handshake
    /// can test guesses of a weak one.
    pub fn with_access_token(mut self, token: impl AsRef<str>) -> Self {
        self.authorization = Authorization::Token(StaticToken::of(token.as_ref()));
        self
    }

    /// Sends the token that `provider` returns to the server. `provider` is called for every connection. Requires encryption.
    ///
    /// After it has sent the token, the library keeps no copy of it, and has wiped the `String` that `provider` returned.
    pub fn with_access_token_provider<F, Fut, T>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Into<String>,
    {
        self.authorization = Authorization::Provider(TokenProvider::new(provider));
        self
    }

    /// Connects without authorization. The default.
    pub fn without_authorization(mut self) -> Self {
        self.authorization = Authorization::None;
        self
    }

    /// Sets a deadline for every call: `timeout` after its first poll, the call fails with [`Error::TimedOut`] and is cancelled at the
    /// server. A server that cannot answer by then may refuse it earlier, with [`Error::Overloaded`]. `with_timeout` of a service handle or of a [`Call`](crate::Call) overrides it. Default: no deadline.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects again automatically when the connection is lost. `set` changes the [`ReconnectOptions`] from their defaults.
    ///
    /// Subscriptions continue. They yield [`EventError::Reconnected`](crate::EventError::Reconnected) where values may be missing. Calls
    /// that are made while there is no connection fail with [`Error::Closed`], unless they are retried
    /// ([`with_retry_policy`](Self::with_retry_policy)).
    ///
    /// ```
    /// use std::time::Duration;
    /// use witrpc::WitClientBuilder;
    ///
    /// let builder = WitClientBuilder::new()
    ///     .with_auto_reconnect(|r| r.with_attempts(10).with_initial_delay(Duration::from_millis(50)));
    /// # drop(builder);
    /// ```
    pub fn with_auto_reconnect(
        mut self,
        set: impl FnOnce(ReconnectOptions) -> ReconnectOptions,
    ) -> Self {
        self.reconnect = Some(set(ReconnectOptions::default()));
        self
    }

    /// Does not connect again when the connection is lost. The default.
    pub fn without_auto_reconnect(mut self) -> Self {
        self.reconnect = None;
        self
    }

    /// Keeps subscriptions when the connection is lost, as [`with_auto_reconnect`](Self::with_auto_reconnect) does, for one who connects again
    /// by other means. For `witrpc-process`.
    #[doc(hidden)]
    pub const fn with_kept_subscriptions(mut self) -> Self {
        self.keeps_subscriptions = true;
        self
    }

    /// Retries calls that failed because the connection was lost: calls that provably did not run, and calls of methods marked
    /// `#[witrpc(idempotent)]`. `set` changes the [`RetryPolicy`] from its defaults.
    ///
    /// The policy does not connect by itself: combine it with [`with_auto_reconnect`](Self::with_auto_reconnect), or call
    /// [`connect`](WitClient::connect).
    ///
    /// ```
    /// use std::time::Duration;
    /// use witrpc::WitClientBuilder;
    ///
    /// let builder = WitClientBuilder::new()
    ///     .with_auto_reconnect(|r| r)
    ///     .with_retry_policy(|r| r.with_attempts(5).with_fixed_delay(Duration::from_millis(100)));
    /// # drop(builder);
    /// ```
    pub fn with_retry_policy(mut self, set: impl FnOnce(RetryPolicy) -> RetryPolicy) -> Self {
        self.retry = Some(set(RetryPolicy::default()));
        self
    }

    /// Retries no call. The default.
    pub fn without_retry_policy(mut self) -> Self {
        self.retry = None;
        self
    }

    /// Sets no deadline for calls. The default.
    pub fn without_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Checks that what a client sends before it is accepted is short enough.
    fn check_catalog(services: &Services) -> Result<(), Error> {
        let mut catalog = Vec::new();
        catalog_of(services.descriptors()).encode(&mut catalog);
        if catalog.len() <= LARGEST_CATALOG {
            return Ok(());
        }
        let advice = format!(
            "the signatures of a client's services can take at most {LARGEST_CATALOG} bytes; offer fewer methods"
        );
        Err(Error::config("with_service", format!("{} bytes of signatures", catalog.len()), advice))
    }

    /// Checks the settings and makes the client.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a setting is missing or invalid. The error names the setting and the value, and says what to do.
    pub fn build(mut self) -> Result<WitClient, Error> {
        let transport = self.transport.ok_or_else(|| {
            Error::config("with_transport", "none", "add .with_memory_mapped_file(\"name\")")
        })?;
        transport.validate()?;
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            let advice = "every call would time out; give a longer time, or use without_timeout()";
            return Err(Error::config("with_timeout", "0s", advice));
        }
        let services = super::collect(self.services, self.common.authorizer.take())?;
        Self::check_catalog(&services)?;
        if let Some(retry) = &self.retry {
            retry.validate()?;
        }
        let authorization: Arc<dyn ClientAuthorization> = match self.authorization {
            Authorization::None => Arc::new(WithoutAuthorization),
            Authorization::Token(token) => {
                let advice = "an empty token proves nothing; give the server's token, or use \
                              without_authorization()";
                let empty = || Error::config("with_access_token", "\"\"", advice);
                Arc::new(token.ok_or_else(empty)?)
            }
            Authorization::Provider(provider) => {
                self.common.require_encryption("with_access_token_provider")?;
                Arc::new(provider)
            }
        };
        let setup = self.common.into_setup(authorization)?;
        let settings = ClientSettings {
            timeout: self.timeout,
            keeps_subscriptions: self.keeps_subscriptions || self.reconnect.is_some(),
            reconnect: self.reconnect,
            retry: self.retry,
        };
        Ok(WitClient::new(ClientCore::new(transport, setup, settings, services)))
    }
}
