//! The traits of encryption: key agreement, and sealing and opening of frames.
//!
//! The two directions are two objects with two owners. A frame's header is associated data, so it is authenticated
//! and stays readable; sequence numbers are the implementation's. [`NoiseEncryptor`] is the choice of
//! `with_encryption`; [`PlainEncryptor`], which agrees on nothing and seals nothing, that of `without_encryption`.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::text::escaped;

mod aead;
mod noise;

pub use noise::NoiseEncryptor;

/// The bytes are not what the peer sealed, or the numbers have come to their end. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CipherError(String);

impl CipherError {
    /// Any text. It may quote the peer's bytes, so what is not printable is escaped.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(escaped(text))
    }
}

/// Agrees on keys with the peer. One per endpoint; makes one [`KeyAgreement`] per connection.
///
/// Implement it to bring an encryption of your own; see `with_encryptor` on the builders.
pub trait Encryptor: fmt::Debug + Send + Sync + 'static {
    /// The scheme's name, compared at connect. Choose another when the scheme changes.
    fn name(&self) -> &str;

    /// Begins an agreement. `prologue` is what the client has said in clear and must be bound to the keys; `secret` is
    /// derived from the access token, if both sides have a static one.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the system gives no randomness, say.
    fn begin(
        &self,
        role: Role,
        prologue: &[u8],
        secret: Option<&Secret>,
    ) -> Result<Box<dyn KeyAgreement>, CipherError>;
}

/// Which side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "complete: a connection has two sides")]
pub enum Role {
    /// The side that asked to connect.
    Client,
    /// The side that was asked.
    Server,
}

/// 32 bytes that both sides derive from a static access token. Wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// A secret for one purpose, derived from `token` by SHA-256. Guessing a weak token stays possible: give a long,
    /// random one.
    pub fn derive(purpose: &str, token: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [purpose, token] {
            // A length in front of each part, so that no two pairs make the same input.
            hash.update(crate::wire::fields::len_u64(part.len()).to_le_bytes());
            hash.update(part.as_bytes());
        }
        // In place: finalize() moves it, and what it has in its buffer stays on the stack.
        let secret = Self(Zeroizing::new(hash.finalize_reset().into()));
        wipe_stack();
        secret
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Overwrites the stack below, where earlier calls may have left secrets: a hash function copies blocks of its input there.
#[inline(never)]
fn wipe_stack() {
    let mut area = [0_u8; 4096];
    area.zeroize();
}

/// One agreement on keys: the client writes, the server reads and writes, the client reads, both finish.
pub trait KeyAgreement: Send {
    /// Appends this side's message to `out`.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if it is not this side's turn.
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CipherError>;

    /// Takes the peer's message, which may be anything.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if it is not acceptable: for one, if the peer holds another secret.
    fn read(&mut self, message: &[u8]) -> Result<(), CipherError>;

    /// Returns what seals and opens the frames from here on; `None` leaves them in clear.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the agreement is not complete.
    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError>;
}

/// What an agreement ends in.
#[expect(clippy::exhaustive_structs, reason = "implementations of KeyAgreement make it")]
pub struct CipherPair {
    /// Seals what this side sends.
    pub sealer: Box<dyn Sealer>,
    /// Opens what the peer sends.
    pub opener: Box<dyn Opener>,
}

impl fmt::Debug for CipherPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherPair").finish_non_exhaustive()
    }
}

/// Seals the outgoing direction.
pub trait Sealer: Send {
    /// Bytes by which sealing makes a payload longer; the same for every frame, and at most 64.
    fn overhead(&self) -> usize;

    /// Seals `payload` in place, and appends its [`overhead`](Self::overhead). Every call uses the next number.
    ///
    /// # Errors
    ///
    /// [`CipherError`] when the numbers have come to their end.
    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError>;
}

/// Opens the incoming direction.
pub trait Opener: Send {
    /// Bytes by which opening makes a payload shorter; the same as the peer's [`Sealer::overhead`].
    fn overhead(&self) -> usize;

    /// Opens `payload[from..]` in place and cuts its overhead off. Every call expects the next number.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the peer did not seal just these bytes with just this number.
    fn open(
        &mut self,
        header: &[u8],
        payload: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), CipherError>;
}

/// No encryption.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainEncryptor;

impl Encryptor for PlainEncryptor {
    fn name(&self) -> &'static str {
        "none"
    }

    fn begin(
        &self,
        _role: Role,
        _prologue: &[u8],
        _secret: Option<&Secret>,
    ) -> Result<Box<dyn KeyAgreement>, CipherError> {
        Ok(Box::new(Self))
    }
}

impl KeyAgreement for PlainEncryptor {
    fn write(&mut self, _out: &mut Vec<u8>) -> Result<(), CipherError> {
        Ok(())
    }

    fn read(&mut self, message: &[u8]) -> Result<(), CipherError> {
        if message.is_empty() {
            Ok(())
        } else {
            Err(CipherError::new("the peer sent a key although none was expected"))
        }
    }

    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError> {
        Ok(None)
    }
}
