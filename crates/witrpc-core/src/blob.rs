//! [`Blob`]: bytes that travel beside the serialized values instead of within them.
//!
//! Within a message, a blob is written as its place in the blob table (see [`beside`](crate::beside)); at any other time
//! it is serialized like any byte buffer. That is how a blob inside any type, under any serializer, is copied and never
//! encoded.

use std::fmt;
use std::ops::{Deref, RangeBounds};

use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::beside;

/// An owned byte buffer, cheap to clone and to slice, that crosses a connection as raw bytes.
///
/// Anywhere in arguments, results and events, under every serializer: no base64, no arrays of numbers. Serialized
/// elsewhere (to a file, say) it behaves like bytes. It dereferences to `[u8]`.
///
/// ```
/// use witrpc_core::Blob;
///
/// let blob = Blob::from(vec![1, 2, 3, 4]);
/// assert_eq!(&blob.slice(1..3)[..], &[2, 3]);
/// assert_eq!(serde_json::to_string(&blob).unwrap(), "[1,2,3,4]");
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(Bytes);

impl Blob {
    /// An empty blob. Does not allocate.
    #[must_use]
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// Bytes that live as long as the program. Does not copy.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// A part of it, sharing the allocation.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// The bytes as a vector; without a copy if nothing else shares them.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0.into()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Blob> for Bytes {
    fn from(blob: Blob) -> Self {
        blob.0
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from_slice(bytes)
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl FromIterator<u8> for Blob {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Self {
        Self(bytes.into_iter().collect())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match beside::put_blob(&self.0) {
            Some(place) => serializer.serialize_u32(place),
            None => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !beside::is_reading() {
            return deserializer.deserialize_byte_buf(BytesVisitor);
        }
        let place = u32::deserialize(deserializer)?;
        let blob = beside::blob(place);
        blob.map(Self).ok_or_else(|| D::Error::custom(format!("there is no blob {place}")))
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
        Ok(Blob::copy_from_slice(bytes))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
        Ok(bytes.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Blob, E> {
        Ok(Blob::copy_from_slice(text.as_bytes()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Blob, A::Error> {
        // The length is the peer's word: let the vector grow with what is there.
        let mut blob = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            blob.push(byte);
        }
        Ok(blob.into())
    }
}

#[cfg(test)]
mod tests {
    use super::Blob;
    use crate::beside::{self, Arrived};

    fn writing<T>(write: impl FnOnce() -> T) -> (T, Vec<bytes::Bytes>) {
        let (result, written) = beside::writing(true, write);
        (result, written.map_or_else(Vec::new, |written| written.blobs))
    }

    fn reading<T>(blobs: Vec<bytes::Bytes>, read: impl FnOnce() -> T) -> T {
        beside::reading(Some(Box::new(Arrived { blobs, ..Arrived::default() })), read)
    }

    #[test]
    fn within_a_message_a_blob_is_a_number() {
        let value = (Blob::from_static(b"one"), Some(Blob::new()), vec![Blob::from_static(b"two")]);
        let (json, blobs) = writing(|| serde_json::to_string(&value).unwrap());
        assert_eq!(json, "[0,1,[2]]");
        assert_eq!(blobs, [&b"one"[..], b"", b"two"]);
        let back = reading(blobs, || {
            serde_json::from_str::<(Blob, Option<Blob>, Vec<Blob>)>(&json).unwrap()
        });
        assert_eq!(back, value);
    }

    #[test]
    fn a_number_without_a_blob_is_an_error() {
        assert!(reading(Vec::new(), || serde_json::from_str::<Blob>("0")).is_err());
        assert!(reading(vec!["x".into()], || serde_json::from_str::<Blob>("1")).is_err());
        assert!(reading(vec!["x".into()], || serde_json::from_str::<Blob>("-1")).is_err());
    }

    #[test]
    fn elsewhere_a_blob_is_bytes() {
        let blob = Blob::from(vec![0, 255]);
        assert_eq!(serde_json::to_string(&blob).unwrap(), "[0,255]");
        assert_eq!(serde_json::from_str::<Blob>("[0,255]").unwrap(), blob);
        assert!(serde_json::from_str::<Blob>("[0,256]").is_err());
        // After a message, and within one that is being written by another type's hand.
        let (inner, outer) = writing(|| writing(|| serde_json::to_string(&blob).unwrap()));
        assert_eq!((inner.0.as_str(), inner.1.len(), outer.len()), ("0", 1, 0));
        assert_eq!(serde_json::to_string(&blob).unwrap(), "[0,255]");
    }
}
