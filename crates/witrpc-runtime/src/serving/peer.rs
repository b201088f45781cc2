//! Calling back, and lending: what a handler does with its call's other side.

use std::sync::Arc;

use crate::calls::call::Remote;
use witrpc_core::Error;

use crate::calls::callee::{Callee, PeerCallee};
use crate::calls::host::CallHost;
use crate::context::{CallContext, Peer};
use crate::link::loan::Loan;
use crate::serving::service::ServiceClient;

impl Peer {
    /// A handle to one of the services that the peer offers: a client may, with
    /// [`with_service`](crate::WitClientBuilder::with_service). This is how a handler calls back, the very client
    /// that is calling it included.
    ///
    /// Making the handle does not ask the peer; if the peer lacks the service, calls return the error. The handle works as long as
    /// the connection lasts, also outside the handler; then its calls end with [`Error::Closed`](witrpc_core::Error::Closed).
    ///
    /// ```
    /// use witrpc::{CallContext, Result};
    ///
    /// /// What the client offers.
    /// #[witrpc::service]
    /// trait Console {
    ///     async fn ask(&self, question: String) -> Result<bool>;
    /// }
    ///
    /// #[witrpc::service]
    /// trait Files {
    ///     async fn remove(&self, path: String) -> Result<bool>;
    /// }
    ///
    /// struct Careful;
    ///
    /// impl Files for Careful {
    ///     async fn remove(&self, path: String) -> Result<bool> {
    ///         let console: ConsoleClient = CallContext::current().peer().get_service();
    ///         console.ask(format!("remove {path}?")).await
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        C::from_remote(Remote::new(Arc::clone(self.typed_callee()), C::descriptor(), None))
    }

    /// Returns memory for a payload of `len` bytes for this peer, as [`WitClient::lend`](crate::WitClient::lend) does. It waits until so much
    /// is free.
    ///
    /// # Errors
    ///
    /// As of [`WitClient::lend`](crate::WitClient::lend).
    pub async fn lend(&self, len: usize) -> Result<Loan, Error> {
        let connection = self.connection()?;
        connection.link().lend(len).await
    }

    /// Returns memory for a payload of `len` bytes for this peer, if it is free now.
    ///
    /// # Errors
    ///
    /// As of [`WitClient::try_lend`](crate::WitClient::try_lend).
    pub fn try_lend(&self, len: usize) -> Result<Loan, Error> {
        self.connection()?.link().try_lend(len)
    }

    fn connection(&self) -> Result<Arc<dyn CallHost>, Error> {
        self.typed_callee().connection()
    }

    fn typed_callee(&self) -> &Arc<dyn Callee> {
        let Some(PeerCallee(callee)) = self.callee().downcast_ref() else {
            unreachable!("every connection has one")
        };
        callee
    }
}

impl CallContext {
    /// Returns memory for a payload of `len` bytes for the caller, as [`WitClient::lend`](crate::WitClient::lend) does for a server. It waits until
    /// so much is free.
    ///
    /// # Errors
    ///
    /// As of [`WitClient::lend`](crate::WitClient::lend).
    pub async fn lend(&self, len: usize) -> Result<Loan, Error> {
        self.peer().lend(len).await
    }

    /// Returns memory for a payload of `len` bytes for the caller, if it is free now.
    ///
    /// # Errors
    ///
    /// As of [`WitClient::try_lend`](crate::WitClient::try_lend).
    pub fn try_lend(&self, len: usize) -> Result<Loan, Error> {
        self.peer().try_lend(len)
    }
}
