//! Encryption as a connection sees it: how a key is agreed on, and how one frame is sealed and opened.
//!
//! The two directions are two objects with two owners. A frame's header is associated data, so it is authenticated
//! and stays readable; sequence numbers are the implementation's. [`PlainEncryptor`] is the choice of
//! `without_encryption`: nothing is agreed on, nothing is sealed.

use std::fmt;

/// The bytes are not what the peer sealed, or the counter has come to its end. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CipherError(String);

impl CipherError {
    /// Any text.
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

/// Agrees on keys with the peer. One per endpoint; makes one [`KeyAgreement`] per connection.
pub(crate) trait Encryptor: fmt::Debug + Send + Sync + 'static {
    /// The scheme's name, compared at connect.
    fn name(&self) -> &str;

    /// Begins an agreement. `prologue` is what both sides have said in clear so far and must be bound to the keys.
    ///
    /// # Errors
    ///
    /// [`CipherError`] if the system gives no randomness, say.
    fn begin(&self, role: Role, prologue: &[u8]) -> Result<Box<dyn KeyAgreement>, CipherError>;
}

/// Which side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The side that asked to connect.
    Client,
    /// The side that was asked.
    Server,
}

/// One agreement on keys: the client writes, the server reads and writes, the client reads, both finish.
pub(crate) trait KeyAgreement: Send {
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
pub(crate) struct CipherPair {
    /// Seals what this side sends.
    pub(crate) sealer: Box<dyn Sealer>,
    /// Opens what the peer sends.
    pub(crate) opener: Box<dyn Opener>,
}

impl fmt::Debug for CipherPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CipherPair").finish_non_exhaustive()
    }
}

/// Seals the outgoing direction.
pub(crate) trait Sealer: Send {
    /// Bytes by which sealing makes a payload longer.
    fn overhead(&self) -> usize;

    /// Seals `payload` in place, and appends its [`overhead`](Self::overhead). Every call uses the next number.
    ///
    /// # Errors
    ///
    /// [`CipherError`] when the numbers have come to their end.
    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError>;
}

/// Opens the incoming direction.
pub(crate) trait Opener: Send {
    /// Bytes by which opening makes a payload shorter.
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
pub(crate) struct PlainEncryptor;

impl Encryptor for PlainEncryptor {
    fn name(&self) -> &'static str {
        "none"
    }

    fn begin(&self, _role: Role, _prologue: &[u8]) -> Result<Box<dyn KeyAgreement>, CipherError> {
        Ok(Box::new(Self))
    }
}

impl KeyAgreement for PlainEncryptor {
    fn write(&mut self, _out: &mut Vec<u8>) -> Result<(), CipherError> {
        Ok(())
    }

    fn read(&mut self, message: &[u8]) -> Result<(), CipherError> {
        if message.is_empty() { Ok(()) } else { Err(CipherError::new("a key where none was due")) }
    }

    fn finish(self: Box<Self>) -> Result<Option<CipherPair>, CipherError> {
        Ok(None)
    }
}
