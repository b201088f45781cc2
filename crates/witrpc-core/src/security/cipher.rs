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

/// An error of an encryption. The connection cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CipherError(String);

impl CipherError {
    /// Makes an error of any text. Characters that are not printable are escaped, as the text may quote the peer's bytes.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(escaped(text))
    }
}

/// An encryption scheme. There is one per endpoint; it makes one [`KeyAgreement`] per connection.
///
/// Implement it for an encryption of your own; see `with_encryptor` on the builders. Sealing and opening run while the connection's
/// halves are locked: they must not use the connection, its client or its server.
pub trait Encryptor: fmt::Debug + Send + Sync + 'static {
    /// Returns the scheme's name. `connect` compares the names of both sides, so change the name when the scheme changes.
    fn name(&self) -> &str;

    /// Begins a key agreement. `prologue` is what the client has sent unencrypted; the keys must depend on it. `secret` is
    /// derived from the access token, if both sides use `with_access_token`.
    ///
    /// # Errors
    ///
    /// [`CipherError`], for example if the system has no random bytes.
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

/// 32 bytes that both sides derive from the access token of `with_access_token`. Wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Derives a secret for one purpose from `token` by SHA-256. A weak token can still be guessed: use a long, random one.
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

    /// Returns the bytes.
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

/// One key agreement. The client writes, the server reads and writes, the client reads, and both finish.
pub trait KeyAgreement: Send {
    /// Appends this side's message to `out`.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if it is not this side's turn.
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CipherError>;

    /// Reads the peer's message, which may be any bytes.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the message is not valid, for example because the peer has another secret.
    fn read(&mut self, message: &[u8]) -> Result<(), CipherError>;

    /// Returns the two ciphers of the connection. `None` leaves the frames unencrypted.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the agreement is not complete.
    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError>;
}

/// The two ciphers of a connection: the result of a key agreement.
#[expect(clippy::exhaustive_structs, reason = "implementations of KeyAgreement make it")]
pub struct CipherPair {
    /// Encrypts the frames that this side sends.
    pub sealer: Box<dyn Sealer>,
    /// Decrypts the frames that the peer sends.
    pub opener: Box<dyn Opener>,
}

impl fmt::Debug for CipherPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherPair").finish_non_exhaustive()
    }
}

/// Encrypts and authenticates the frames of the outgoing direction.
pub trait Sealer: Send {
    /// Returns the number of bytes by which sealing makes a payload longer. It is the same for every frame, and at most 64.
    fn overhead(&self) -> usize;

    /// Encrypts `payload` in place, and appends [`overhead`](Self::overhead) bytes. `header` is authenticated but not encrypted. Every
    /// call uses the next sequence number.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if there is no sequence number left.
    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError>;
}

/// Decrypts and verifies the frames of the incoming direction.
pub trait Opener: Send {
    /// Returns the number of bytes by which opening makes a payload shorter: the peer's [`Sealer::overhead`].
    fn overhead(&self) -> usize;

    /// Decrypts `payload[from..]` in place, and removes the overhead from its end. Every call expects the next sequence number.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the peer did not seal exactly these bytes with exactly this header and sequence number.
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
