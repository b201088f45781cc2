//! Calling back: the services of a call's other side.

use std::sync::Arc;

use crate::calls::call::Remote;
use crate::calls::callee::PeerCallee;
use crate::context::Peer;
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
        let Some(PeerCallee(callee)) = self.callee().downcast_ref() else {
            unreachable!("every connection has one")
        };
        C::from_remote(Remote::new(Arc::clone(callee), C::descriptor(), None))
    }
}
