//! Authorization as a connection sees it: what a client proves, and what a server makes of it.
//!
//! [`WithoutAuthorization`] is the choice of `without_authorization`: nothing is proved, everybody is let in. The
//! proof travels in the confirmation, which is sealed whenever the connection is.

use std::fmt;

use crate::transport::BoxFuture;

/// The client's part.
pub(crate) trait ClientAuthorization: fmt::Debug + Send + Sync {
    /// The scheme's name, compared at connect.
    fn scheme(&self) -> &'static str;

    /// The proof for one connection; `transcript` is what both sides have said so far.
    fn proof<'a>(&'a self, transcript: &'a [u8]) -> BoxFuture<'a, Vec<u8>>;
}

/// The server's part.
pub(crate) trait ServerAuthorization: fmt::Debug + Send + Sync {
    /// The scheme's name, compared at connect.
    fn scheme(&self) -> &'static str;

    /// Whether `proof` lets the client in; the error is told to it.
    fn check<'a>(
        &'a self,
        transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// Everybody who can reach the endpoint is let in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WithoutAuthorization;

impl ClientAuthorization for WithoutAuthorization {
    fn scheme(&self) -> &'static str {
        "none"
    }

    fn proof<'a>(&'a self, _transcript: &'a [u8]) -> BoxFuture<'a, Vec<u8>> {
        Box::pin(async { Vec::new() })
    }
}

impl ServerAuthorization for WithoutAuthorization {
    fn scheme(&self) -> &'static str {
        "none"
    }

    fn check<'a>(
        &'a self,
        _transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<(), String>> {
        let verdict =
            if proof.is_empty() { Ok(()) } else { Err("a proof where none was due".to_owned()) };
        Box::pin(async { verdict })
    }
}
