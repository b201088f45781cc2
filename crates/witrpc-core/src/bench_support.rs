//! Headers, messages and sealed frames without a connection, for `benches/codec.rs`. Not part of the interface.

#[cfg(feature = "json")]
use serde::{Serialize, de::DeserializeOwned};

use crate::error::Error;
use crate::security::cipher::{CipherError, CipherPair, Encryptor, NoiseEncryptor, Role};
#[cfg(feature = "json")]
use crate::values::buffers;
#[cfg(feature = "json")]
use crate::values::content::Content;
#[cfg(feature = "json")]
use crate::values::serializer::{Codec, SerializerError};
use crate::wire::frame::{HEADER_LEN, Header, Kind};
use crate::wire::message::{HEAD_LEN, Head};

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = HEADER_LEN;

/// The header of a request that is one frame.
#[must_use]
pub fn encode_header(id: u64, len: u32) -> [u8; FRAME_HEADER] {
    Header::whole(Kind::Request, id, len).encode()
}

/// A header's id and length.
///
/// # Errors
///
/// [`Error::Protocol`] if it is none.
pub fn decode_header(bytes: &[u8; FRAME_HEADER]) -> Result<(u64, u32), Error> {
    let header = Header::decode(bytes)?;
    Ok((header.id, header.len))
}

/// A request's first section, with these arguments as JSON.
///
/// # Errors
///
/// What the serializer says.
#[cfg(feature = "json")]
pub fn encode_message<T: Serialize>(arguments: &T) -> Result<Vec<u8>, SerializerError> {
    let content = Content::write(buffers::take(), |out| Codec::Json.serialize(arguments, out))?;
    Ok(content.into_sections(1, 2, 3).0)
}

/// The arguments in what [`encode_message`] made.
///
/// # Errors
///
/// What the serializer says.
///
/// # Panics
///
/// If there is no head.
#[cfg(feature = "json")]
pub fn decode_message<T: DeserializeOwned + 'static>(
    section: Vec<u8>,
) -> Result<T, SerializerError> {
    let head = Head::decode(&section[..HEAD_LEN]).map_err(|e| SerializerError::new(e.0))?;
    let content = Content::received_plain(section, &head);
    let value = Codec::Json.deserialize(content.body(), None);
    buffers::give(content.into_buffer());
    value
}

/// What the client and the server of one encrypted connection hold.
///
/// # Errors
///
/// What the system's randomness says.
pub fn cipher_pairs() -> Result<[CipherPair; 2], CipherError> {
    let encryptor = NoiseEncryptor::new();
    let mut client = encryptor.begin(Role::Client, &[], None)?;
    let mut server = encryptor.begin(Role::Server, &[], None)?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    client.write(&mut first)?;
    server.read(&first)?;
    server.write(&mut second)?;
    client.read(&second)?;
    let none = || CipherError::new("no keys");
    Ok([client.finish()?.ok_or_else(none)?, server.finish()?.ok_or_else(none)?])
}
