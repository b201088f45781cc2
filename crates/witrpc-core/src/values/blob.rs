//! [`Blob`]: bytes that are sent as an attachment instead of within the serialized values.
//!
//! Within a message, a blob is written as a reference to the blob table (see [`attachments`](crate::values::attachments)); at any other
//! time it is serialized like any byte buffer. That is how a blob inside any type, under any serializer, is copied and never
//! encoded.

use std::fmt;
use std::ops::{Deref, RangeBounds};

use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::values::attachments;
use crate::values::spare;

/// An owned byte buffer that is sent as raw bytes. It is cheap to clone and to slice, and dereferences to `[u8]`.
///
/// It can be anywhere in arguments, results, errors, events and stream items, with every serializer: it becomes neither base64 nor an array
/// of numbers. If it is serialized elsewhere, for example to a file, it is serialized like bytes.
///
/// A received blob can be kept for any time. While messages of 4 MiB and more arrive, the memory of dropped blobs of that size is reused for
/// the next ones: up to 256 MiB in a process. It is returned to the system one to two seconds after the last such message.
///
/// ```
/// use witrpc::Blob;
///
/// let blob = Blob::from(vec![1, 2, 3, 4]);
/// assert_eq!(&blob.slice(1..3)[..], &[2, 3]);
/// assert_eq!(serde_json::to_string(&blob).unwrap(), "[1,2,3,4]");
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(Bytes);

impl Blob {
    /// Makes an empty blob. Does not allocate.
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self(Bytes::new())
    }

    /// Makes a blob of bytes that live as long as the program. Does not copy.
    #[must_use]
    #[inline]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }

    /// Makes a blob with a copy of `bytes`.
    #[must_use]
    #[inline]
    pub fn copy_from_slice(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// Returns a part of the blob, which shares its allocation. `range` is in bytes.
    ///
    /// # Panics
    ///
    /// If the range is out of bounds.
    #[must_use]
    #[inline]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        Self(self.0.slice(range))
    }

    /// Returns the bytes as a vector. Does not copy if no other clone or slice shares them.
    #[must_use]
    #[inline]
    pub fn into_vec(self) -> Vec<u8> {
        Bytes::from(self).into()
    }
}

impl Drop for Blob {
    /// The memory of a long one may be used for the next.
    #[inline]
    fn drop(&mut self) {
        spare::give_bytes(std::mem::take(&mut self.0));
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Deref for Blob {
    type Target = [u8];

    #[inline]
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
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Blob {
    #[inline]
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Blob> for Bytes {
    #[inline]
    fn from(mut blob: Blob) -> Self {
        std::mem::take(&mut blob.0)
    }
}

impl From<&[u8]> for Blob {
    #[inline]
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from_slice(bytes)
    }
}

impl From<String> for Blob {
    #[inline]
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
        attachments::write_blob(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if attachments::is_reading() {
            return attachments::read_blob(deserializer).map(Self);
        }
        deserializer.deserialize_byte_buf(BytesVisitor)
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
        // The length is untrusted: the vector grows with the bytes that are there.
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
    use crate::values::attachments::reference::{Marker, Notation};
    use crate::values::attachments::{self, Arrived, Written};

    fn writing<T>(notation: Notation, write: impl FnOnce() -> T) -> (T, Written) {
        let (result, written) = attachments::writing(notation, true, write);
        (result, written.map_or_else(Written::default, |written| *written))
    }

    fn reading<T>(
        notation: Notation,
        (marker, blobs): (Marker, Vec<bytes::Bytes>),
        read: impl FnOnce() -> T,
    ) -> T {
        let arrived = Arrived { blobs, marker, ..Arrived::default() };
        attachments::reading(notation, Some(Box::new(arrived)), read)
    }

    #[test]
    fn within_a_message_a_blob_is_a_reference() {
        let value = (Blob::from_static(b"one"), Some(Blob::new()), vec![Blob::from_static(b"two")]);
        for notation in [Notation::Places, Notation::Markers] {
            let (json, written) = writing(notation, || serde_json::to_string(&value).unwrap());
            let marker = written.marker.0;
            let expected = match notation {
                Notation::Places => "[0,1,[2]]".to_owned(),
                Notation::Markers => format!(
                    r#"["blob:{marker:016x}:0","blob:{marker:016x}:1",["blob:{marker:016x}:2"]]"#
                ),
            };
            assert_eq!(json, expected);
            assert_eq!(written.blobs, [&b"one"[..], b"", b"two"]);
            let blobs = written.blobs.iter().map(|blob| blob.to_vec().into()).collect();
            let back = reading(notation, (written.marker, blobs), || {
                serde_json::from_str::<(Blob, Option<Blob>, Vec<Blob>)>(&json).unwrap()
            });
            assert_eq!(back, value);
        }
    }

    #[test]
    fn a_reference_without_a_blob_is_an_error() {
        let read = |blobs: &[&'static str], json: &str| {
            let blobs = blobs.iter().map(|blob| blob.as_bytes().to_vec().into()).collect();
            let read = || serde_json::from_str::<Blob>(json).map_err(|error| error.to_string());
            reading(Notation::Places, (Marker(1), blobs), read)
        };
        assert!(read(&[], "0").unwrap_err().contains("there is no blob 0"));
        assert!(read(&["x"], "1").unwrap_err().contains("there is no blob 1"));
        assert!(read(&["x"], "-1").is_err());
        assert_eq!(read(&["x"], "0").unwrap(), Blob::from_static(b"x"));
    }

    /// Else a small message would make values of any size.
    #[test]
    fn no_two_values_have_one_blob() {
        let read = |json: &str| {
            reading(Notation::Places, (Marker(1), vec![vec![7; 9].into(), "".into()]), || {
                serde_json::from_str::<Vec<Blob>>(json).map_err(|error| error.to_string())
            })
        };
        assert!(read("[0,1,0]").unwrap_err().contains("two values refer to blob 0"));
        assert_eq!(read("[0,1,1]").unwrap().len(), 3, "an empty one makes nothing larger");
    }

    #[test]
    fn elsewhere_a_blob_is_bytes() {
        let blob = Blob::from(vec![0, 255]);
        assert_eq!(serde_json::to_string(&blob).unwrap(), "[0,255]");
        assert_eq!(serde_json::from_str::<Blob>("[0,255]").unwrap(), blob);
        assert!(serde_json::from_str::<Blob>("[0,256]").is_err());
        // After a message, and within one that is being written by another type's hand.
        let places = Notation::Places;
        let (inner, outer) =
            writing(places, || writing(places, || serde_json::to_string(&blob).unwrap()));
        assert_eq!((inner.0.as_str(), inner.1.blobs.len(), outer.blobs.len()), ("0", 1, 0));
        assert_eq!(serde_json::to_string(&blob).unwrap(), "[0,255]");
    }
}
