//! [`Blob`]: bytes that travel beside the serialized values instead of within them.
//!
//! While a codec is at work on this thread, a blob is written as its number in the message's blob table, and read from
//! there; at any other time it is serialized like any byte buffer. That is how a blob inside any type, under any
//! serializer, is copied and never encoded.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, RangeBounds};

use bytes::Bytes;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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

/// The blob table of the message that a codec is at work on.
#[derive(Debug)]
enum Table {
    Writing(Vec<Bytes>),
    Reading(Vec<Bytes>),
}

thread_local! {
    static TABLE: RefCell<Option<Table>> = const { RefCell::new(None) };
}

/// Puts the table of an outer message back, however the inner one ends.
struct Restore(Option<Table>);

impl Drop for Restore {
    fn drop(&mut self) {
        let outer = self.0.take();
        TABLE.with_borrow_mut(|table| *table = outer);
    }
}

fn enter(table: Table) -> Restore {
    Restore(TABLE.with_borrow_mut(|current| current.replace(table)))
}

/// Runs `write`, and returns the blobs that it came across with what it returned.
pub(crate) fn writing<T>(write: impl FnOnce() -> T) -> (T, Vec<Bytes>) {
    let _restore = enter(Table::Writing(Vec::new()));
    let result = write();
    let blobs = TABLE.with_borrow_mut(|table| match table {
        Some(Table::Writing(blobs)) => std::mem::take(blobs),
        _ => Vec::new(),
    });
    (result, blobs)
}

/// Runs `read`, which finds these blobs.
pub(crate) fn reading<T>(blobs: Vec<Bytes>, read: impl FnOnce() -> T) -> T {
    let _restore = enter(Table::Reading(blobs));
    read()
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = TABLE.with_borrow_mut(|table| match table {
            Some(Table::Writing(blobs)) => {
                blobs.push(self.0.clone());
                u32::try_from(blobs.len() - 1).ok()
            }
            _ => None,
        });
        match number {
            Some(number) => serializer.serialize_u32(number),
            None => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !TABLE.with_borrow(|table| matches!(table, Some(Table::Reading(_)))) {
            return deserializer.deserialize_byte_buf(BytesVisitor);
        }
        let number = u32::deserialize(deserializer)?;
        let blob = TABLE.with_borrow(|table| match table {
            Some(Table::Reading(blobs)) => blobs.get(crate::wire::u32_len(number)).cloned(),
            _ => None,
        });
        blob.map(Self).ok_or_else(|| D::Error::custom(format!("there is no blob {number}")))
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
    use super::{Blob, reading, writing};

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
