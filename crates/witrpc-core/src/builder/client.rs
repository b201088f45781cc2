//! [`WitClientBuilder`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::Common;
use crate::authorization::{ClientAuthorization, StaticToken, TokenProvider, WithoutAuthorization};
use crate::client::{ClientCore, Habits, WitClient};
use crate::error::Error;
use crate::handshake::Catalog;
use crate::reconnect::ReconnectOptions;
use crate::retry::RetryPolicy;
use crate::served::Services;
use crate::service::Service;
use crate::transport::ClientTransport;

/// Some hundred methods. Half of what a client may say before it is let in: the rest is for a token.
const LARGEST_CATALOG: usize = 32 << 10;

/// Builds a [`WitClient`]. What is not set has its default; nothing is opened before [`WitClient::connect`].
///
/// It needs a transport. Serializer, encryption and kind of authorization must be the server's.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// use witrpc_core::transport::memory::MemoryTransport;
/// use witrpc_core::{Result, WitClientBuilder, WitServerBuilder};
///
/// #[witrpc_macros::service(crate = witrpc_core)]
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
/// # Ok::<(), witrpc_core::Error>(())
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
    retry: Option<RetryPolicy>,
    services: Vec<Arc<dyn Service>>,
}

/// What the client will prove.
#[derive(Debug, Default)]
enum Authorization {
    #[default]
    None,
    Token(StaticToken),
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

    /// Connects through `transport`. A transport crate has a shorter word for it: `with_memory_mapped_file`.
    pub fn with_transport(mut self, transport: impl ClientTransport) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Offers a service to the server, whose handlers reach it by [`Peer::get_service`](crate::Peer::get_service), and
    /// whose events they subscribe to. Repeat it for more; each needs a name of its own.
    pub fn with_service(mut self, service: impl Service) -> Self {
        self.services.push(Arc::new(service));
        self
    }

    /// Proves to the server that this client knows `token`, and lets the server prove the same. The token is never sent,
    /// encrypted or not. Give a long, random one: a weak one can be guessed by whoever reads the handshake.
    pub fn with_access_token(mut self, token: impl AsRef<str>) -> Self {
        self.authorization = Authorization::Token(StaticToken::new(token.as_ref()));
        self
    }

    /// Sends the server the token that `provider` gives, which is asked again at every connect. Only with encryption.
    pub fn with_access_token_provider<F, Fut, T>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Into<String>,
    {
        self.authorization = Authorization::Provider(TokenProvider::new(provider));
        self
    }

    /// Proves nothing to the server. The default.
    pub fn without_authorization(mut self) -> Self {
        self.authorization = Authorization::None;
        self
    }

    /// Gives every call this long, counted from its first poll; then it fails with
    /// [`Error::TimedOut`], and is cancelled at the server. `with_timeout` on a service handle overrides it.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects again by itself when the connection is lost, as `set` says; subscriptions go on, with a mark where values
    /// may be missing. Calls made meanwhile fail with [`Error::Closed`], unless they are repeated
    /// ([`with_retry_policy`](Self::with_retry_policy)).
    ///
    /// ```
    /// use std::time::Duration;
    /// use witrpc_core::WitClientBuilder;
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

    /// Leaves a lost connection lost. The default.
    pub fn without_auto_reconnect(mut self) -> Self {
        self.reconnect = None;
        self
    }

    /// Makes calls once more that failed because the connection was lost, as `set` says: those that were surely not executed,
    /// and those of methods marked `#[witrpc(idempotent)]`. Another connection must come from somewhere:
    /// [`with_auto_reconnect`](Self::with_auto_reconnect), or a [`connect`](WitClient::connect) of your own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use witrpc_core::WitClientBuilder;
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

    /// Makes every call once. The default.
    pub fn without_retry_policy(mut self) -> Self {
        self.retry = None;
        self
    }

    /// Gives calls all the time they need. The default.
    pub fn without_timeout(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// What a client says before it is let in must be short.
    fn check_catalog(services: &Services) -> Result<(), Error> {
        let mut catalog = Vec::new();
        Catalog::new(services.descriptors()).encode(&mut catalog);
        if catalog.len() <= LARGEST_CATALOG {
            return Ok(());
        }
        let advice =
            format!("their signatures may take {LARGEST_CATALOG} bytes; offer fewer methods");
        Err(Error::config("with_service", format!("{} bytes of signatures", catalog.len()), advice))
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
        let services = super::collect(self.services)?;
        Self::check_catalog(&services)?;
        if let Some(retry) = &self.retry {
            retry.validate()?;
        }
        let authorization: Arc<dyn ClientAuthorization> = match self.authorization {
            Authorization::None => Arc::new(WithoutAuthorization),
            Authorization::Token(token) => Arc::new(token),
            Authorization::Provider(provider) => {
                self.common.require_encryption("with_access_token_provider")?;
                Arc::new(provider)
            }
        };
        let setup = self.common.into_setup(authorization)?;
        let habits = Habits { timeout: self.timeout, reconnect: self.reconnect, retry: self.retry };
        Ok(WitClient::new(ClientCore::new(transport, setup, habits, services)))
    }
}
