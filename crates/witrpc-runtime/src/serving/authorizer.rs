//! Which calls a peer may make, and which events it may subscribe to: what the closure given to `with_authorizer` says.

use std::fmt;

use witrpc_core::text::Escaped;
use witrpc_core::user_code::catch;

use crate::context::Peer;

type Check = dyn Fn(&Peer, &str, &str) -> Result<(), String> + Send + Sync;

/// See the [module](self).
pub(crate) struct Authorizer(Box<Check>);

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorizer")
    }
}

impl Authorizer {
    pub(crate) fn new<E: fmt::Display>(
        check: impl Fn(&Peer, &str, &str) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |peer, service, member| {
            check(peer, service, member).map_err(|error| error.to_string())
        }))
    }

    /// Asks whether this peer may use this member of a service. Called with no lock held.
    ///
    /// # Errors
    ///
    /// The reason for the peer, if it may not.
    pub(super) fn check(&self, peer: &Peer, service: &str, member: &str) -> Result<(), String> {
        catch(|| (self.0)(peer, service, member)).unwrap_or_else(|panic| {
            tracing::error!(service, member, panic = %Escaped(panic), "the closure given to with_authorizer panicked");
            Err("the authorizer panicked; see its program's log".to_owned())
        })
    }
}
