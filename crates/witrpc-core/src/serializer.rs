//! How values become bytes: the public [`Serializer`] trait, and the codec that a connection uses.
//!
//! The codec knows the built-in formats by name, so that each method's types are compiled straight against them; a
//! user's own serializer is reached through one erased call.

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use crate::beside::{self, Arrived, Beside, Written};
#[cfg(feature = "message-pack")]
use serde::de::IgnoredAny;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

/// A format for arguments, results, events and stream items. Both sides of a connection must use the same.
///
/// Implement it for a format that witrpc does not bring; see `with_serializer` on the builders. A [`Blob`](crate::Blob)
/// within a value is written as a small number, as its bytes travel beside the value.
///
/// ```
/// use serde::{Serialize, de::DeserializeOwned};
/// use witrpc_core::{Serializer, SerializerError, WitClientBuilder};
///
/// /// JSON that people can read.
/// struct PrettyJson;
///
/// impl Serializer for PrettyJson {
///     fn name(&self) -> &str {
///         "json-pretty"
///     }
///
///     fn serialize<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), SerializerError> {
///         serde_json::to_writer_pretty(out, value).map_err(SerializerError::new)
///     }
///
///     fn deserialize<T: DeserializeOwned + 'static>(&self, bytes: &[u8]) -> Result<T, SerializerError> {
///         serde_json::from_slice(bytes).map_err(SerializerError::new)
///     }
/// }
///
/// let builder = WitClientBuilder::new().with_serializer(PrettyJson);
/// # drop(builder);
/// ```
pub trait Serializer: Send + Sync + 'static {
    /// The format's name, compared at connect. Choose another when the format changes.
    fn name(&self) -> &str;

    /// Appends `value` to `out`.
    ///
    /// # Errors
    ///
    /// Whatever the format cannot express; the text reaches the caller. What was appended is then discarded.
    fn serialize<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError>;

    /// Reads one value that takes up all of `bytes`, which come from the peer and may be anything.
    ///
    /// # Errors
    ///
    /// If they are not such a value; the text reaches the caller.
    fn deserialize<T: DeserializeOwned + 'static>(
        &self,
        bytes: &[u8],
    ) -> Result<T, SerializerError>;
}

/// What a serializer says of a value or of bytes that it cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SerializerError(String);

impl SerializerError {
    /// Any text.
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self(text.to_string())
    }
}

/// The serializer of a connection.
#[derive(Clone)]
pub(crate) enum Codec {
    #[cfg(feature = "json")]
    Json,
    #[cfg(feature = "message-pack")]
    MessagePack,
    #[cfg(feature = "postcard")]
    Postcard,
    Custom(Arc<dyn ErasedSerializer>),
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Codec {
    /// What a builder uses unless told otherwise.
    pub(crate) const fn preferred() -> Option<Self> {
        #[cfg(feature = "json")]
        return Some(Self::Json);
        #[cfg(not(feature = "json"))]
        None
    }

    pub(crate) fn custom(serializer: impl Serializer) -> Self {
        Self::Custom(Arc::new(Erase(serializer)))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            #[cfg(feature = "json")]
            Self::Json => "json",
            #[cfg(feature = "message-pack")]
            Self::MessagePack => "message-pack",
            #[cfg(feature = "postcard")]
            Self::Postcard => "postcard",
            Self::Custom(custom) => custom.name(),
        }
    }

    /// Appends arguments or a result to `out`, and returns what travels beside it.
    pub(crate) fn serialize<T: Serialize>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Beside<Written>, SerializerError> {
        self.write_beside(true, value, out)
    }

    /// The same for an event's value or a stream's item, neither of which carries streams.
    pub(crate) fn serialize_item<T: Serialize>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Beside<Written>, SerializerError> {
        self.write_beside(false, value, out)
    }

    fn write_beside<T: Serialize>(
        &self,
        streams: bool,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Beside<Written>, SerializerError> {
        let (result, written) = beside::writing(streams, || self.write(value, out));
        match (result, written.as_ref().and_then(|written| written.refused)) {
            (Ok(()), _) => Ok(written),
            (Err(_), Some(reason)) => Err(SerializerError::new(reason)),
            (Err(error), None) => Err(error),
        }
    }

    /// Reads one value from `bytes` and what came beside them.
    pub(crate) fn deserialize<T: DeserializeOwned + 'static>(
        &self,
        bytes: &[u8],
        arrived: Beside<Arrived>,
    ) -> Result<T, SerializerError> {
        beside::reading(arrived, || self.read(bytes))
    }

    fn write<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), SerializerError> {
        match self {
            #[cfg(feature = "json")]
            Self::Json => serde_json::to_writer(out, value).map_err(SerializerError::new),
            #[cfg(feature = "message-pack")]
            Self::MessagePack => rmp_serde::encode::write(out, value).map_err(SerializerError::new),
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                postcard::to_extend(value, Append(out)).map(drop).map_err(SerializerError::new)
            }
            Self::Custom(custom) => custom.serialize(value, out),
        }
    }

    fn read<T: DeserializeOwned + 'static>(&self, bytes: &[u8]) -> Result<T, SerializerError> {
        match self {
            #[cfg(feature = "json")]
            Self::Json => serde_json::from_slice(bytes).map_err(SerializerError::new),
            #[cfg(feature = "message-pack")]
            Self::MessagePack => {
                let mut input = rmp_serde::Deserializer::from_read_ref(bytes);
                let value = T::deserialize(&mut input).map_err(SerializerError::new)?;
                // Whatever follows would have to begin with a marker.
                match IgnoredAny::deserialize(&mut input) {
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
                    _ => Err(SerializerError::new(LEFT_OVER)),
                }
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                let (value, rest) =
                    postcard::take_from_bytes(bytes).map_err(SerializerError::new)?;
                if rest.is_empty() { Ok(value) } else { Err(SerializerError::new(LEFT_OVER)) }
            }
            Self::Custom(custom) => {
                let value = custom.deserialize(bytes, read_value::<T>)?;
                let other = |_| SerializerError::new("the serializer returned another value");
                value.downcast().map(|value| *value).map_err(other)
            }
        }
    }
}

/// A value must take up all bytes: otherwise the two sides disagree about its type.
#[cfg(any(feature = "message-pack", feature = "postcard"))]
const LEFT_OVER: &str = "bytes are left over after the value";

/// A vector as postcard appends to it.
#[cfg(feature = "postcard")]
struct Append<'a>(&'a mut Vec<u8>);

#[cfg(feature = "postcard")]
impl Extend<u8> for Append<'_> {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

/// Reads a value of one type from an erased deserializer, and erases it too.
type ReadValue =
    fn(&mut dyn erased_serde::Deserializer<'_>) -> Result<Box<dyn Any>, erased_serde::Error>;

fn read_value<T: DeserializeOwned + 'static>(
    input: &mut dyn erased_serde::Deserializer<'_>,
) -> Result<Box<dyn Any>, erased_serde::Error> {
    Ok(Box::new(erased_serde::deserialize::<T>(input)?))
}

/// [`Serializer`] without type parameters.
pub(crate) trait ErasedSerializer: Send + Sync {
    fn name(&self) -> &str;

    fn serialize(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError>;

    fn deserialize(&self, bytes: &[u8], read: ReadValue) -> Result<Box<dyn Any>, SerializerError>;
}

struct Erase<S>(S);

impl<S: Serializer> ErasedSerializer for Erase<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn serialize(
        &self,
        value: &dyn erased_serde::Serialize,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError> {
        self.0.serialize(value, out)
    }

    fn deserialize(&self, bytes: &[u8], read: ReadValue) -> Result<Box<dyn Any>, SerializerError> {
        let outer = READ.replace(Some(read));
        let value = self.0.deserialize::<Relay>(bytes);
        READ.set(outer);
        value.map(|Relay(value)| value)
    }
}

thread_local! {
    /// Which type the innermost running [`Relay`] stands for.
    static READ: Cell<Option<ReadValue>> = const { Cell::new(None) };
}

/// The type that a user's serializer is asked for: it deserializes whatever [`READ`] says.
struct Relay(Box<dyn Any>);

impl<'de> Deserialize<'de> for Relay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = READ.get().ok_or_else(|| D::Error::custom("no value is being read"))?;
        let mut erased = <dyn erased_serde::Deserializer<'_>>::erase(deserializer);
        read(&mut erased).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(all(test, feature = "json"))]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
    use serde::de::DeserializeOwned;

    use super::{Codec, Serializer, SerializerError};

    /// JSON with a mark in front.
    struct Marked;

    impl Serializer for Marked {
        fn name(&self) -> &'static str {
            "marked"
        }

        fn serialize<T: Serialize + ?Sized>(
            &self,
            value: &T,
            out: &mut Vec<u8>,
        ) -> Result<(), SerializerError> {
            out.push(b'#');
            serde_json::to_writer(out, value).map_err(SerializerError::new)
        }

        fn deserialize<T: DeserializeOwned + 'static>(
            &self,
            bytes: &[u8],
        ) -> Result<T, SerializerError> {
            let bytes = bytes.strip_prefix(b"#").ok_or_else(|| SerializerError::new("no mark"))?;
            serde_json::from_slice(bytes).map_err(SerializerError::new)
        }
    }

    #[test]
    fn a_users_serializer_carries_any_type() {
        let codec = Codec::custom(Marked);
        let value: (Option<u8>, BTreeMap<String, Vec<i64>>) =
            (None, BTreeMap::from([("a".to_owned(), vec![-1, i64::MAX])]));
        let mut bytes = Vec::new();
        codec.serialize(&value, &mut bytes).unwrap();
        assert!(bytes.starts_with(b"#["));
        assert_eq!(
            codec.deserialize::<(Option<u8>, BTreeMap<String, Vec<i64>>)>(&bytes, None),
            Ok(value)
        );
        assert_eq!(codec.deserialize::<u8>(b"1", None), Err(SerializerError::new("no mark")));
        assert!(codec.deserialize::<u8>(b"#\"x\"", None).is_err());
    }
}
