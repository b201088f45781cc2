//! Authorization as a connection sees it: what a client proves, and what a server makes of it.
//!
//! Three schemes. Without: whoever reaches the endpoint is let in. A static token: each side proves to the other that it
//! knows it, by a keyed hash over what both have said, and it is never sent. A sent token: the client sends what its
//! provider gives, inside a sealed session, and the server's validator decides. The proof travels in the confirmation,
//! which is sealed whenever the connection is; the server's counter-proof in the welcome.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::cipher::Secret;
use crate::error::Error;
use crate::transport::BoxFuture;

/// Who a client turned out to be; whatever the validator says.
pub(crate) type Identity = Arc<dyn Any + Send + Sync>;

/// What a server says to a client that it lets in.
#[derive(Default)]
pub(crate) struct Granted {
    /// The server's own proof, for the welcome.
    pub(crate) proof: Vec<u8>,
    pub(crate) identity: Option<Identity>,
}

/// The client's part.
pub(crate) trait ClientAuthorization: fmt::Debug + Send + Sync {
    /// The scheme, compared at connect.
    fn scheme(&self) -> Scheme;

    /// What the key agreement mixes in.
    fn secret(&self) -> Option<&Secret> {
        None
    }

    /// The proof for one connection; `transcript` is what both sides have said so far.
    fn proof<'a>(&'a self, transcript: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>>;

    /// Checks the server's own proof.
    fn verify(&self, transcript: &[u8], proof: &[u8]) -> Result<(), Error>;
}

/// The server's part.
pub(crate) trait ServerAuthorization: fmt::Debug + Send + Sync {
    /// The scheme, compared at connect.
    fn scheme(&self) -> Scheme;

    /// What the key agreement mixes in.
    fn secret(&self) -> Option<&Secret> {
        None
    }

    /// Whether `proof` lets the client in; the error is told to it.
    fn check<'a>(
        &'a self,
        transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<Granted, String>>;
}

/// How clients are authorized. [wire.authorization]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    None,
    Token,
    SentToken,
}

impl Scheme {
    /// The name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::SentToken => "sent-token",
        }
    }

    /// How a client's builder, and how a server's, says it.
    pub(crate) fn words(name: &str) -> (&'static str, &'static str) {
        match name {
            "none" => ("without_authorization()", "without_authorization()"),
            "token" => ("with_access_token(…)", "with_access_token(…)"),
            "sent-token" => ("with_access_token_provider(…)", "with_access_token_validator(…)"),
            _ => ("an unknown scheme", "an unknown scheme"),
        }
    }
}

/// Everybody who can reach the endpoint is let in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WithoutAuthorization;

impl ClientAuthorization for WithoutAuthorization {
    fn scheme(&self) -> Scheme {
        Scheme::None
    }

    fn proof<'a>(&'a self, _transcript: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn verify(&self, _transcript: &[u8], proof: &[u8]) -> Result<(), Error> {
        none_due(proof).map_err(Error::Unauthorized)
    }
}

impl ServerAuthorization for WithoutAuthorization {
    fn scheme(&self) -> Scheme {
        Scheme::None
    }

    fn check<'a>(
        &'a self,
        _transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<Granted, String>> {
        let verdict = none_due(proof).map(|()| Granted::default());
        Box::pin(async { verdict })
    }
}

fn none_due(proof: &[u8]) -> Result<(), String> {
    if proof.is_empty() { Ok(()) } else { Err("a proof where none was due".to_owned()) }
}

/// Both sides know one token.
#[derive(Debug)]
pub(crate) struct StaticToken {
    /// For the key agreement.
    secret: Secret,
    /// For the proofs.
    proof_key: Secret,
}

impl StaticToken {
    /// The token itself is not kept.
    pub(crate) fn new(token: &str) -> Self {
        Self {
            secret: Secret::derive("witrpc key agreement v1", token),
            proof_key: Secret::derive("witrpc proof v1", token),
        }
    }

    fn mac(&self, side: &str, transcript: &[u8]) -> Hmac<Sha256> {
        let key = self.proof_key.as_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(key)
            .unwrap_or_else(|_| unreachable!("takes any length"));
        mac.update(side.as_bytes());
        mac.update(transcript);
        mac
    }

    fn prove(&self, side: &str, transcript: &[u8]) -> Vec<u8> {
        self.mac(side, transcript).finalize().into_bytes().to_vec()
    }

    /// In constant time.
    fn is_proof(&self, side: &str, transcript: &[u8], proof: &[u8]) -> bool {
        self.mac(side, transcript).verify_slice(proof).is_ok()
    }
}

/// Different for the two sides, so that neither proof can be sent back.
const CLIENT: &str = "client";
const SERVER: &str = "server";

impl ClientAuthorization for StaticToken {
    fn scheme(&self) -> Scheme {
        Scheme::Token
    }

    fn secret(&self) -> Option<&Secret> {
        Some(&self.secret)
    }

    fn proof<'a>(&'a self, transcript: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async { Ok(self.prove(CLIENT, transcript)) })
    }

    fn verify(&self, transcript: &[u8], proof: &[u8]) -> Result<(), Error> {
        if self.is_proof(SERVER, transcript, proof) {
            return Ok(());
        }
        Err(Error::Unauthorized("the server does not know the access token".to_owned()))
    }
}

impl ServerAuthorization for StaticToken {
    fn scheme(&self) -> Scheme {
        Scheme::Token
    }

    fn secret(&self) -> Option<&Secret> {
        Some(&self.secret)
    }

    fn check<'a>(
        &'a self,
        transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<Granted, String>> {
        Box::pin(async {
            if !self.is_proof(CLIENT, transcript, proof) {
                return Err(WRONG_TOKEN.to_owned());
            }
            Ok(Granted { proof: self.prove(SERVER, transcript), identity: None })
        })
    }
}

/// What a client is told, whatever was wrong with its token.
pub(crate) const WRONG_TOKEN: &str = "the access token is not the server's";

type Provide = dyn Fn() -> BoxFuture<'static, Result<Zeroizing<String>, Error>> + Send + Sync;
type Validate = dyn Fn(String) -> BoxFuture<'static, Result<Identity, String>> + Send + Sync;

/// A client that sends what its provider gives.
pub(crate) struct TokenProvider(Box<Provide>);

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenProvider")
    }
}

impl TokenProvider {
    pub(crate) fn new<F, Fut, T>(provide: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Error>> + Send + 'static,
        T: Into<String>,
    {
        Self(Box::new(move || {
            let token = provide();
            Box::pin(async move { Ok(Zeroizing::new(token.await?.into())) })
        }))
    }
}

impl ClientAuthorization for TokenProvider {
    fn scheme(&self) -> Scheme {
        Scheme::SentToken
    }

    fn proof<'a>(&'a self, _transcript: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, Error>> {
        Box::pin(async { Ok((self.0)().await?.as_bytes().to_vec()) })
    }

    fn verify(&self, _transcript: &[u8], proof: &[u8]) -> Result<(), Error> {
        none_due(proof).map_err(Error::Unauthorized)
    }
}

/// A server that asks its validator.
pub(crate) struct TokenValidator(Box<Validate>);

impl fmt::Debug for TokenValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenValidator")
    }
}

impl ServerAuthorization for TokenValidator {
    fn scheme(&self) -> Scheme {
        Scheme::SentToken
    }

    fn check<'a>(
        &'a self,
        _transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<Granted, String>> {
        Box::pin(async {
            let token = std::str::from_utf8(proof).ok().filter(|token| !token.is_empty());
            let Some(token) = token else { return Err(WRONG_TOKEN.to_owned()) };
            let identity = (self.0)(token.to_owned()).await?;
            Ok(Granted { proof: Vec::new(), identity: Some(identity) })
        })
    }
}

/// Decides on access tokens: a closure that takes the token and returns, at once or as a future, `Ok` with an identity
/// (`()` if there is none) or an error whose text the client is told.
///
/// Handlers read the identity from [`CallContext::identity`](crate::CallContext::identity). `M` only tells the two kinds
/// of closure apart.
pub trait AccessTokenValidator<M>: Send + Sync + 'static {
    #[doc(hidden)]
    fn validate(
        &self,
        token: String,
    ) -> BoxFuture<'static, Result<Arc<dyn Any + Send + Sync>, String>>;
}

type Marker<T> = std::marker::PhantomData<fn() -> T>;

#[doc(hidden)]
#[derive(Debug)]
pub struct AtOnce<I, E>(Marker<(I, E)>);

#[doc(hidden)]
#[derive(Debug)]
pub struct AsFuture<F, I, E>(Marker<(F, I, E)>);

impl<V, I, E> AccessTokenValidator<AtOnce<I, E>> for V
where
    V: Fn(String) -> Result<I, E> + Send + Sync + 'static,
    I: Any + Send + Sync,
    E: fmt::Display,
{
    fn validate(&self, token: String) -> BoxFuture<'static, Result<Identity, String>> {
        let verdict = verdict(self(token));
        Box::pin(async { verdict })
    }
}

impl<V, F, I, E> AccessTokenValidator<AsFuture<F, I, E>> for V
where
    V: Fn(String) -> F + Send + Sync + 'static,
    F: Future<Output = Result<I, E>> + Send + 'static,
    I: Any + Send + Sync,
    E: fmt::Display,
{
    fn validate(&self, token: String) -> BoxFuture<'static, Result<Identity, String>> {
        let future = self(token);
        Box::pin(async { verdict(future.await) })
    }
}

fn verdict<I: Any + Send + Sync, E: fmt::Display>(
    result: Result<I, E>,
) -> Result<Identity, String> {
    match result {
        Ok(identity) => Ok(Arc::new(identity)),
        Err(error) => Err(error.to_string()),
    }
}

impl TokenValidator {
    pub(crate) fn new<M>(validator: impl AccessTokenValidator<M>) -> Self {
        Self(Box::new(move |token| validator.validate(token)))
    }
}

#[cfg(test)]
mod tests {
    use super::{CLIENT, SERVER, StaticToken};

    #[test]
    fn a_proof_is_of_one_token_one_side_and_one_transcript() {
        let token = StaticToken::new("token");
        let proof = token.prove(CLIENT, b"said");
        assert!(token.is_proof(CLIENT, b"said", &proof));
        assert!(!token.is_proof(SERVER, b"said", &proof));
        assert!(!token.is_proof(CLIENT, b"other", &proof));
        assert!(!StaticToken::new("other").is_proof(CLIENT, b"said", &proof));
        assert!(!token.is_proof(CLIENT, b"said", &proof[..31]));
        assert!(!token.is_proof(CLIENT, b"said", b""));
    }
}
