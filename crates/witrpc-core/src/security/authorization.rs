//! Authorization: what a client proves, and how a server checks it.
//!
//! There are three schemes. *None*: every client that reaches the endpoint is accepted. *Static token*: each side proves to the other that it
//! knows the token, by a keyed hash over the transcript of the handshake; the token is never sent. *Sent token*: the client sends the
//! token of its provider inside a sealed session, and the server's validator decides. The proof is in the confirm, which is sealed
//! whenever the connection is; the server's proof is in the welcome.
//!
//! As few buffers as possible hold a token, and the library wipes each of its own: the hash states of a static token, and each buffer that
//! a sent token passes through, here and in `link/handshake`, `outbound/outgoing` and `inbound/partial`.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::future::BoxFuture;
use crate::security::cipher::Secret;
use crate::text::Escaped;
use crate::user_code::caught;
use crate::wire::handshake::{Proof, Scheme};

/// The identity of a client: the value that the validator returned.
pub type Identity = Arc<dyn Any + Send + Sync>;

/// Asks a validator about the same token again. The error is the validator's text.
pub type Recheck = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The result of a successful check.
#[derive(Default)]
pub struct Granted {
    /// The server's own proof, for the welcome.
    pub proof: Vec<u8>,
    pub identity: Option<Identity>,
    /// If the validator is to be asked again. It has a copy of the token, which is wiped with it.
    pub recheck: Option<Recheck>,
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted").finish_non_exhaustive()
    }
}

/// The client's side of a scheme.
pub trait ClientAuthorization: fmt::Debug + Send + Sync {
    /// The scheme, compared at connect.
    fn scheme(&self) -> Scheme;

    /// The secret that the key agreement mixes in, if any.
    fn secret(&self) -> Option<&Secret> {
        None
    }

    /// The proof for one connection; `transcript` is the handshake so far.
    fn proof<'a>(&'a self, transcript: &'a [u8]) -> BoxFuture<'a, Result<Proof, Error>>;

    /// Checks the server's own proof.
    fn verify(&self, transcript: &[u8], proof: &[u8]) -> Result<(), Error>;
}

/// The server's side of a scheme.
pub trait ServerAuthorization: fmt::Debug + Send + Sync {
    /// The scheme, compared at connect.
    fn scheme(&self) -> Scheme;

    /// The secret that the key agreement mixes in, if any.
    fn secret(&self) -> Option<&Secret> {
        None
    }

    /// Checks the client's proof; the error text is sent to the client.
    fn check<'a>(
        &'a self,
        transcript: &'a [u8],
        proof: &'a [u8],
    ) -> BoxFuture<'a, Result<Granted, String>>;
}

/// No authorization: every client that can reach the endpoint is accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutAuthorization;

impl ClientAuthorization for WithoutAuthorization {
    fn scheme(&self) -> Scheme {
        Scheme::None
    }

    fn proof<'a>(&'a self, _transcript: &'a [u8]) -> BoxFuture<'a, Result<Proof, Error>> {
        Box::pin(async { Ok(Proof::default()) })
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
    if proof.is_empty() {
        Ok(())
    } else {
        Err("the peer sent a proof although none was expected".to_owned())
    }
}

/// Both sides know one token.
#[derive(Debug)]
pub struct StaticToken {
    /// For the key agreement.
    secret: Secret,
    /// For the proofs.
    proof_key: Secret,
}

impl StaticToken {
    /// The token itself is not kept.
    pub fn new(token: &str) -> Self {
        Self {
            secret: Secret::derive("witrpc key agreement v1", token),
            proof_key: Secret::derive("witrpc proof v1", token),
        }
    }

    /// The same of a user's setting; `None` if that is empty.
    pub fn of(token: &str) -> Option<Self> {
        (!token.is_empty()).then(|| Self::new(token))
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

/// The labels differ for the two sides, so that neither proof can be reflected.
const CLIENT: &str = "client";
const SERVER: &str = "server";

impl ClientAuthorization for StaticToken {
    fn scheme(&self) -> Scheme {
        Scheme::Token
    }

    fn secret(&self) -> Option<&Secret> {
        Some(&self.secret)
    }

    fn proof<'a>(&'a self, transcript: &'a [u8]) -> BoxFuture<'a, Result<Proof, Error>> {
        Box::pin(async { Ok(Proof::new(self.prove(CLIENT, transcript))) })
    }

    fn verify(&self, transcript: &[u8], proof: &[u8]) -> Result<(), Error> {
        if self.is_proof(SERVER, transcript, proof) {
            return Ok(());
        }
        Err(Error::Unauthorized(
            "the server does not know the client's access token: give both sides the same one"
                .to_owned(),
        ))
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
            Ok(Granted { proof: self.prove(SERVER, transcript), ..Granted::default() })
        })
    }
}

/// The error that a client gets, whatever was wrong with its token.
pub const WRONG_TOKEN: &str = "the server does not accept the client's access token";

type Provide = dyn Fn() -> BoxFuture<'static, Result<Zeroizing<String>, Error>> + Send + Sync;
type Validate = dyn Fn(String) -> BoxFuture<'static, Result<Identity, String>> + Send + Sync;

/// A client that sends what its provider gives.
pub struct TokenProvider(Box<Provide>);

impl fmt::Debug for TokenProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenProvider")
    }
}

impl TokenProvider {
    pub fn new<F, Fut, T>(provide: F) -> Self
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

    fn proof<'a>(&'a self, _transcript: &'a [u8]) -> BoxFuture<'a, Result<Proof, Error>> {
        Box::pin(async {
            let mut token = caught(async { (self.0)().await }).await.unwrap_or_else(|panic| {
                let text =
                    format!("the closure given to with_access_token_provider panicked: {panic}");
                Err(Error::Unauthorized(text))
            })?;
            // The same allocation.
            Ok(Proof::new(std::mem::take(&mut *token).into_bytes()))
        })
    }

    fn verify(&self, _transcript: &[u8], proof: &[u8]) -> Result<(), Error> {
        none_due(proof).map_err(Error::Unauthorized)
    }
}

/// A server that asks its validator.
pub struct TokenValidator {
    validate: Arc<Validate>,
    asks_again: bool,
}

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
            let identity = Some(ask(&*self.validate, token).await?);
            let recheck = self.asks_again.then(|| {
                let (validate, token) =
                    (Arc::clone(&self.validate), Arc::new(Zeroizing::new(token.to_owned())));
                Box::new(move || {
                    let (validate, token) = (Arc::clone(&validate), Arc::clone(&token));
                    Box::pin(async move { ask(&*validate, &token).await.map(drop) })
                        as BoxFuture<'static, _>
                }) as Recheck
            });
            Ok(Granted { proof: Vec::new(), identity, recheck })
        })
    }
}

/// Asks the user's validator about a token.
async fn ask(validate: &Validate, token: &str) -> Result<Identity, String> {
    // A copy of the validator's own.
    caught(async { validate(token.to_owned()).await }).await.unwrap_or_else(|panic| {
        tracing::error!(panic = %Escaped(panic), "the closure given to with_access_token_validator panicked");
        Err("the server's access token validator panicked; see the server's log".to_owned())
    })
}

/// A closure that decides on access tokens, for `with_access_token_validator`.
///
/// It takes the token and returns a `Result`, or a future of a `Result`. `Ok` contains an identity (`()` if there is none), which handlers
/// get from `CallContext::identity`. The text of an `Err` is sent to the client.
///
/// The library wipes its own copies of the token, but not the `String` that it passes to the closure. Keep that no longer than needed,
/// and wipe it where this matters, for example with the crate `zeroize`.
///
/// `M` only distinguishes the two kinds of closure.
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
    pub fn new<M>(validator: impl AccessTokenValidator<M>) -> Self {
        Self { validate: Arc::new(move |token| validator.validate(token)), asks_again: false }
    }

    /// Keeps the token of each client, and asks about it again.
    #[must_use]
    pub fn asking_again(self, asks_again: bool) -> Self {
        Self { asks_again, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::CLIENT;
    use super::SERVER;
    use super::StaticToken;

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
