//! How values become bytes: the public [`Serializer`] trait, and the codec that a connection uses.
//!
//! The codec knows the built-in formats by name, so that each method's types are compiled straight against them; a
//! user's own serializer is reached through one erased call.

mod advice;

use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

#[cfg(feature = "postcard")]
use postcard::ser_flavors::ExtendFlavor;
#[cfg(feature = "message-pack")]
use serde::de::IgnoredAny;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text::escaped;
use crate::values::attachments::reference::Notation;
use crate::values::attachments::{self, Arrived, Attachments, Written};
use crate::values::limited::{self, Bounds};

/// A format for arguments, results, events and stream items. Both sides of a connection must use the same.
///
/// Implement it for a format that witrpc does not have; see `with_serializer` on the builders. A [`Blob`](crate::Blob) or a
/// `Streaming` within a value is serialized as a short text, as its content is sent apart from the value.
///
/// A format may serialize a value more than once, for example to measure it first. The last pass counts. Every format refuses values that
/// are nested more than 127 levels deep.
///
/// ```
/// use serde::{Serialize, de::DeserializeOwned};
/// use witrpc::{Serializer, SerializerError, WitClientBuilder};
///
/// /// JSON with line breaks and indentation.
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
    /// Returns the format's name. `connect` compares the names of both sides, so change the name when the format changes.
    fn name(&self) -> &str;

    /// Appends `value` to `out`.
    ///
    /// # Errors
    ///
    /// If the format cannot express the value. The text reaches the caller of the method. What was appended to `out` is discarded.
    fn serialize<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), SerializerError>;

    /// Reads one value, which must take up all of `bytes`. The bytes come from the peer and can be anything.
    ///
    /// # Errors
    ///
    /// If the bytes are not such a value. The text reaches the caller of the method.
    fn deserialize<T: DeserializeOwned + 'static>(
        &self,
        bytes: &[u8],
    ) -> Result<T, SerializerError>;
}

/// The error of a serializer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct SerializerError {
    text: String,
    /// Whether the text has advice.
    advised: bool,
}

impl SerializerError {
    /// Makes an error of any text. Characters that are not printable are escaped, as the text may quote the peer's bytes.
    pub fn new(text: impl std::fmt::Display) -> Self {
        Self { text: escaped(text), advised: false }
    }

    /// A text with advice.
    fn advised(text: impl std::fmt::Display) -> Self {
        Self { text: escaped(text), advised: true }
    }

    /// The same, with what is to be done about a value that could not be read, unless that is known.
    fn with_advice(self, advice: &str) -> Self {
        if self.advised { self } else { Self::advised(format_args!("{}; {advice}", self.text)) }
    }
}

/// The serializer of a connection.
#[derive(Clone)]
pub enum Codec {
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
    /// The default of the builders.
    pub const fn preferred() -> Option<Self> {
        #[cfg(feature = "json")]
        return Some(Self::Json);
        #[cfg(not(feature = "json"))]
        None
    }

    pub fn custom(serializer: impl Serializer) -> Self {
        Self::Custom(Arc::new(Erase(serializer)))
    }

    pub fn name(&self) -> &str {
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

    /// Appends arguments or a result to `out`, and returns its attachments.
    pub fn serialize<T: Serialize>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Attachments<Written>, SerializerError> {
        self.write_with_attachments(true, value, out)
    }

    /// The same for an event's value or a stream's item, neither of which carries streams.
    pub fn serialize_item<T: Serialize>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Attachments<Written>, SerializerError> {
        self.write_with_attachments(false, value, out)
    }

    fn write_with_attachments<T: Serialize>(
        &self,
        streams: bool,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<Attachments<Written>, SerializerError> {
        let write = || self.write(value, out);
        let (result, written) = attachments::writing(self.notation(), streams, write);
        match (result, written.as_ref().and_then(|written| written.refused)) {
            (Ok(()), _) => Ok(written),
            (Err(_), Some(reason)) => Err(SerializerError::advised(reason)),
            (Err(error), None) => Err(error),
        }
    }

    /// Reads one value from `bytes` and the attachments that came with them.
    pub fn deserialize<T: DeserializeOwned + 'static>(
        &self,
        bytes: &[u8],
        arrived: Attachments<Arrived>,
    ) -> Result<T, SerializerError> {
        let value = attachments::reading(self.notation(), arrived, || self.read(bytes));
        value.map_err(|error| error.with_advice(self.advice()))
    }

    /// The advice for a value that cannot be read.
    const fn advice(&self) -> &'static str {
        match self {
            #[cfg(feature = "message-pack")]
            Self::MessagePack => advice::BY_PLACE,
            #[cfg(feature = "postcard")]
            Self::Postcard => advice::BY_PLACE,
            _ => advice::SAME_TYPES,
        }
    }

    /// How the format has references to attachments. postcard always knows the type that it reads next; other formats may not.
    const fn notation(&self) -> Notation {
        match self {
            #[cfg(feature = "postcard")]
            Self::Postcard => Notation::Places,
            _ => Notation::Markers,
        }
    }

    fn write<T: Serialize>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), SerializerError> {
        let bounds = Bounds::depth();
        match self {
            #[cfg(feature = "json")]
            Self::Json => {
                let mut output = serde_json::Serializer::new(out);
                let bounds = bounds.finite();
                limited::write(value, &mut output, &bounds)
                    .map_err(|e| why(&bounds, e, advice::json))
            }
            #[cfg(feature = "message-pack")]
            Self::MessagePack => {
                let mut output = rmp_serde::Serializer::new(out);
                limited::write(value, &mut output, &bounds)
                    .map_err(|e| why(&bounds, e, advice::none))
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                let before = out.len();
                let mut output = postcard::Serializer { output: ExtendFlavor::new(Append(out)) };
                limited::write(value, &mut output, &bounds)
                    .map_err(|e| why(&bounds, e, advice::postcard))?;
                bounds.check(out.len() - before).map_err(SerializerError::advised)
            }
            Self::Custom(custom) => {
                let value = limited::Value::new(value, &bounds);
                custom.serialize(&value, out).map_err(|e| why(&bounds, e, advice::none))
            }
        }
    }

    fn read<T: DeserializeOwned + 'static>(&self, bytes: &[u8]) -> Result<T, SerializerError> {
        match self {
            #[cfg(feature = "json")]
            Self::Json => {
                let mut input = serde_json::Deserializer::from_slice(bytes);
                let bounds = Bounds::reading(bytes.len(), attachments::marker());
                let value = limited::read(&mut input, &bounds);
                let ended = |value| input.end().map(|()| value);
                value.and_then(ended).map_err(|e| why(&bounds, e, advice::json))
            }
            #[cfg(feature = "message-pack")]
            Self::MessagePack => {
                let mut input = rmp_serde::Deserializer::from_read_ref(bytes);
                let bounds = Bounds::reading(bytes.len(), attachments::marker());
                let value = limited::read(&mut input, &bounds)
                    .map_err(|e| why(&bounds, e, advice::none))?;
                // Whatever follows would have to begin with a marker.
                match IgnoredAny::deserialize(&mut input) {
                    Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
                    _ => Err(SerializerError::new(LEFT_OVER)),
                }
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                let mut input = postcard::Deserializer::from_bytes(bytes);
                let bounds = Bounds::reading(bytes.len(), None);
                let value = limited::read(&mut input, &bounds)
                    .map_err(|e| why(&bounds, e, advice::postcard))?;
                let rest = input.finalize().map_err(SerializerError::new)?;
                if rest.is_empty() { Ok(value) } else { Err(SerializerError::new(LEFT_OVER)) }
            }
            Self::Custom(custom) => {
                let value = custom.deserialize(bytes, read_value::<T>)?;
                let other =
                    |_| SerializerError::advised("the serializer returned a value of another type");
                value.downcast().map(|value| *value).map_err(other)
            }
        }
    }
}

/// Why a value failed: a bound that it exceeds, or what the format says; and what to do, if `advice` knows.
fn why<E: std::fmt::Display>(
    bounds: &Bounds,
    error: E,
    advice: fn(&E) -> Option<&'static str>,
) -> SerializerError {
    match (bounds.exceeded(), advice(&error)) {
        (Some(bound), _) => SerializerError::advised(bound),
        (None, Some(advice)) => SerializerError::new(error).with_advice(advice),
        (None, None) => SerializerError::new(error),
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
    let bounds = Bounds::depth().with_marker(attachments::marker());
    limited::read::<T, _>(input, &bounds).map(|value| Box::new(value) as Box<dyn Any>)
}

/// [`Serializer`] without type parameters.
pub trait ErasedSerializer: Send + Sync {
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
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Serialize};

    use super::Codec;
    use super::Serializer;
    use super::SerializerError;
    use crate::values::attachments::{
        self, Arrived, Attachments, OutgoingStream, Resource, Written,
    };
    use crate::values::blob::Blob;
    use crate::values::content::Content;

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
        let error = codec.deserialize::<u8>(b"1", None).unwrap_err().to_string();
        assert_eq!(error, "no mark; check that both sides have the same types");
        assert!(codec.deserialize::<u8>(b"#\"x\"", None).is_err());
    }

    /// JSON, of which the length is measured first: three passes over the value.
    struct Measured;

    impl Serializer for Measured {
        fn name(&self) -> &'static str {
            "measured"
        }

        fn serialize<T: Serialize + ?Sized>(
            &self,
            value: &T,
            out: &mut Vec<u8>,
        ) -> Result<(), SerializerError> {
            for _ in 0..2 {
                out.reserve(serde_json::to_vec(value).map_err(SerializerError::new)?.len());
            }
            serde_json::to_writer(out, value).map_err(SerializerError::new)
        }

        fn deserialize<T: DeserializeOwned + 'static>(
            &self,
            bytes: &[u8],
        ) -> Result<T, SerializerError> {
            serde_json::from_slice(bytes).map_err(SerializerError::new)
        }
    }

    fn self_describing() -> Vec<Codec> {
        vec![
            Codec::Json,
            #[cfg(feature = "message-pack")]
            Codec::MessagePack,
            Codec::custom(Measured),
        ]
    }

    fn all() -> Vec<Codec> {
        #[cfg(feature = "postcard")]
        return [self_describing(), vec![Codec::Postcard]].concat();
        #[cfg(not(feature = "postcard"))]
        self_describing()
    }

    /// What is sent, as it arrives.
    fn arrived(written: Attachments<Written>) -> Attachments<Arrived> {
        let Written { blobs, marker, .. } = *written?;
        let blobs = blobs.iter().map(|blob| blob.to_vec().into()).collect();
        Some(Box::new(Arrived { blobs, marker, ..Arrived::default() }))
    }

    fn cross<T: Serialize, U: DeserializeOwned + 'static>(
        codec: &Codec,
        value: &T,
    ) -> Result<U, SerializerError> {
        let mut bytes = Vec::new();
        let written = codec.serialize(value, &mut bytes)?;
        codec.deserialize(&bytes, arrived(written))
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Value {
        Int(i64),
        Text(String),
        Bytes(Blob),
        Two { blob: Blob, count: u8 },
        Other { blob: Blob, name: String },
        Wrapped(Wrapped),
        Many(Vec<Self>),
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(Box<[Blob; 2]>);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Reversed {
        Bytes(Blob),
        Int(i64),
        Text(String),
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Flattened {
        name: String,
        #[serde(flatten)]
        rest: BTreeMap<String, Reversed>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        File { content: Option<Blob>, parts: Vec<Blob> },
    }

    fn blob(byte: u8) -> Blob {
        vec![byte; 5].into()
    }

    #[test]
    fn blobs_and_numbers_stay_what_they_are_where_a_type_looks_before_it_reads() {
        let values = vec![
            Value::Bytes(blob(1)),
            Value::Int(0),
            Value::Text("blob:0000000000000000:0".to_owned()),
            Value::Other { blob: blob(2), name: "x".to_owned() },
            Value::Two { blob: blob(3), count: 1 },
            Value::Wrapped(Wrapped(Box::new([blob(4), Blob::new()]))),
            Value::Many(vec![Value::Int(1), Value::Bytes(blob(5))]),
        ];
        let reversed = vec![Reversed::Int(0), Reversed::Bytes(blob(1)), Reversed::Int(1)];
        let flattened = Flattened {
            name: "n".to_owned(),
            rest: [("a", Reversed::Bytes(blob(1))), ("b", Reversed::Int(0))]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        };
        let tagged = Tagged::File { content: Some(blob(1)), parts: vec![blob(2), Blob::new()] };
        for codec in self_describing() {
            // MessagePack writes a variant with fields as a list, and another variant takes those.
            let values = if codec.name() == "message-pack" { &values[..3] } else { &values };
            assert_eq!(cross(&codec, &values), Ok(values.to_vec()), "{codec:?}");
            assert_eq!(cross(&codec, &reversed), Ok(reversed.clone()), "{codec:?}");
            assert_eq!(cross(&codec, &tagged), Ok(tagged.clone()), "{codec:?}");
            // MessagePack writes such a struct as a list, and does not read that as one.
            if codec.name() != "message-pack" {
                assert_eq!(cross(&codec, &flattened), Ok(flattened.clone()), "{codec:?}");
            }
        }
    }

    #[test]
    fn a_blob_that_is_read_as_something_else_is_an_error() {
        #[expect(dead_code, reason = "none of them is ever made")]
        #[derive(Debug, Deserialize)]
        #[serde(untagged)]
        enum WithoutBlobs {
            Int(i64),
            Text(String),
            Bytes(Vec<u8>),
            Map(BTreeMap<String, i64>),
        }
        for codec in self_describing() {
            assert!(cross::<_, WithoutBlobs>(&codec, &blob(1)).is_err(), "{codec:?}");
            assert!(cross::<_, serde_json::Value>(&codec, &blob(1)).is_err(), "{codec:?}");
            assert!(cross::<_, String>(&codec, &blob(1)).is_err(), "{codec:?}");
            assert!(cross::<_, BTreeMap<String, u8>>(&codec, &(blob(1),)).is_err(), "{codec:?}");
            assert!(cross::<_, Stream>(&codec, &blob(1)).is_err(), "{codec:?}");
            // What the receiver's type does not have is passed over, as any other field.
            let newer = BTreeMap::from([("blob", blob(1)), ("other", blob(2))]);
            #[derive(Debug, PartialEq, Deserialize)]
            struct Older {
                other: Blob,
            }
            assert_eq!(cross(&codec, &newer), Ok(Older { other: blob(2) }), "{codec:?}");
        }
    }

    /// A stream that can be sent once.
    #[derive(Debug, Default)]
    struct Stream {
        sent: Cell<bool>,
    }

    impl Serialize for Stream {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let take = || (!self.sent.replace(true)).then(|| OutgoingStream::new((), 0));
            attachments::write_stream(std::ptr::from_ref(self).addr(), take, serializer)
        }
    }

    impl<'de> Deserialize<'de> for Stream {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            attachments::read_stream(deserializer).map(|_| Self::default())
        }
    }

    /// What crosses beside the messages: it can be sent to several peers.
    #[derive(Debug)]
    struct Fetched(std::sync::Arc<Cell<bool>>);

    impl Serialize for Fetched {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let take = |once| (!self.0.replace(once)).then(|| Resource::new(|| 7_u8, "not there"));
            attachments::write_resource(std::ptr::from_ref(self).addr(), take, serializer)
        }
    }

    #[test]
    fn values_and_items_have_resources_and_calls_take_them() {
        let codec = Codec::Json;
        let fetched = Fetched(std::sync::Arc::default());
        let content = |value: &(&Fetched, u8)| {
            Content::write(Vec::new(), |out| codec.serialize_item(value, out)).unwrap()
        };
        let (first, second) = (content(&(&fetched, 1)), content(&(&fetched, 1)));
        for mut content in [first.copy(), first, second] {
            assert_eq!((content.stream_count(), content.advice()), (1, Some("not there")));
            let resource = content.take_outgoing().pop().unwrap();
            assert_eq!((resource.window(), resource.into_inner::<u8>()), (1, Some(7)));
        }
        let write = || codec.serialize(&fetched, &mut Vec::new());
        assert_eq!(write().unwrap().unwrap().outgoing.len(), 1);
        let again = write().unwrap_err().to_string();
        assert!(again.contains("was already sent"), "{again}");
        // Of a stream there is one.
        let written = Content::write(Vec::new(), |out| codec.serialize(&Stream::default(), out));
        let written = written.unwrap();
        assert_eq!((written.advice(), written.copy().stream_count()), (None, 0));
    }

    #[test]
    fn a_value_has_so_many_resources_and_no_more() {
        let codec = Codec::custom(Measured);
        let resources = |count| (0..count).map(|_| Fetched(std::sync::Arc::default()));
        let write = |count| {
            let value: Vec<_> = resources(count).collect();
            codec.serialize_item(&value, &mut Vec::new())
        };
        assert_eq!(write(64).unwrap().unwrap().outgoing.len(), 64);
        let error = write(65).unwrap_err().to_string();
        assert!(error.contains("at most 64 descriptors"), "{error}");
        let mut many = Vec::new();
        assert!(codec.serialize(&resources(65).collect::<Vec<_>>(), &mut many).is_ok());
    }

    #[test]
    fn each_pass_over_a_value_begins_anew() {
        let codec = Codec::custom(Measured);
        let value = (blob(1), Stream::default(), blob(2), Stream::default());
        let mut bytes = Vec::new();
        let written = codec.serialize(&value, &mut bytes).unwrap().unwrap();
        assert_eq!((written.blobs.len(), written.outgoing.len()), (2, 2));
        let marker = written.marker.0;
        let text = format!(
            r#"["blob:{marker:016x}:0","stream:{marker:016x}:0","blob:{marker:016x}:1","stream:{marker:016x}:1"]"#
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        let again = codec.serialize(&value, &mut Vec::new()).unwrap_err();
        assert!(again.to_string().contains("can be sent only once"), "{again}");
    }

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    enum Chain {
        #[default]
        End,
        Link(Box<Self>),
        Pair(Box<(Self, u8)>),
        Field {
            next: Option<Box<Self>>,
        },
        List(Vec<Self>),
    }

    /// Without recursion, as what is taken apart may be deep.
    impl Chain {
        fn of(depth: usize, link: impl Fn(Self) -> Self) -> Self {
            (0..depth).fold(Self::End, |chain, _| link(chain))
        }

        fn depth(mut self) -> usize {
            let mut depth = 0;
            loop {
                self = match self {
                    Self::End => return depth,
                    Self::Link(next) => *next,
                    Self::Pair(mut next) => std::mem::take(&mut next.0),
                    Self::Field { next } => next.map(|next| *next).unwrap_or_default(),
                    Self::List(mut next) => next.pop().unwrap_or_default(),
                };
                depth += 1;
            }
        }
    }

    #[test]
    fn values_cross_as_deep_as_json_takes_them_and_no_deeper() {
        type Link = fn(Chain) -> Chain;
        let links: [(usize, Link); 4] = [
            (1, |next| Chain::Link(Box::new(next))),
            (2, |next| Chain::Pair(Box::new((next, 1)))),
            (2, |next| Chain::Field { next: Some(Box::new(next)) }),
            (2, |next| Chain::List(vec![next])),
        ];
        for codec in all() {
            for (levels, link) in links {
                let most = 127 / levels;
                let deepest = Chain::of(most, link);
                let back = cross::<_, Chain>(&codec, &deepest).unwrap();
                assert_eq!(back.depth(), most, "{codec:?}");
                let deeper = Chain::of(most + 1, link);
                let error = codec.serialize(&deeper, &mut Vec::new()).unwrap_err();
                assert!(error.to_string().contains("127 levels"), "{codec:?}: {error}");
            }
        }
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Newtype(Option<Box<Self>>);

    /// Bytes that no sender of ours makes; each would end the process if it were read to its end.
    #[test]
    fn bytes_that_describe_a_deep_value_are_an_error() {
        const DEPTH: usize = 1_000_000;
        let error = |codec: &Codec, bytes: &[u8]| {
            let chain = codec.deserialize::<Chain>(bytes, None).map(Chain::depth).unwrap_err();
            let newtype = codec.deserialize::<Newtype>(bytes, None).map(|_| ()).unwrap_err();
            (chain.to_string(), newtype.to_string())
        };
        #[cfg(feature = "postcard")]
        {
            let (chain, newtype) = error(&Codec::Postcard, &vec![1; DEPTH]);
            assert!(chain.contains("127 levels") && newtype.contains("127 levels"), "{chain}");
            let (chain, _) = error(&Codec::Postcard, &[4, 1].repeat(DEPTH));
            assert!(chain.contains("127 levels"), "{chain}");
        }
        #[cfg(feature = "message-pack")]
        {
            let (chain, _) = error(&Codec::MessagePack, &b"\x81\xa4Link".repeat(DEPTH));
            assert!(chain.contains("127 levels"), "{chain}");
            let list = b"\x81\xa4List\x91".repeat(DEPTH);
            let (chain, _) = error(&Codec::MessagePack, &list);
            assert!(chain.contains("127 levels"), "{chain}");
        }
        let (chain, _) = error(&Codec::Json, &b"{\"Link\":".repeat(DEPTH));
        assert!(chain.contains("recursion limit"), "{chain}");
        let bytes = b"{\"Link\":".repeat(DEPTH);
        assert!(Codec::custom(Measured).deserialize::<Chain>(&bytes, None).is_err());
    }

    #[cfg(feature = "postcard")]
    #[test]
    fn a_length_that_costs_no_bytes_is_bounded() {
        const MANY: u64 = 1 << 45;
        let read = |len: u64| {
            let mut bytes = postcard::to_stdvec(&len).unwrap();
            bytes.push(1);
            Codec::Postcard.deserialize::<(Vec<()>, u8)>(&bytes, None).map(|(units, _)| units.len())
        };
        assert_eq!(read(60_000), Ok(60_000));
        let error = read(MANY).unwrap_err().to_string();
        assert!(error.contains("items of zero bytes"), "{error}");
        let bytes = postcard::to_stdvec(&MANY).unwrap();
        let list = Codec::Postcard.deserialize::<Vec<[(); 3]>>(&bytes, None);
        assert!(list.is_err(), "a list of lists of nothing");
        // Items that take bytes are as many as there are.
        let rows = vec![(1_u8, ()); 200_000];
        assert_eq!(cross(&Codec::Postcard, &rows), Ok(rows));
        let error = Codec::Postcard.serialize(&vec![(); 100_000], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("items of zero bytes"), "{error}");
    }

    /// The table of the guide: `src/guide/serializers.md`.
    #[cfg(all(feature = "message-pack", feature = "postcard"))]
    #[test]
    fn what_formats_have_no_place_for_is_documented() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind")]
        enum Tagged {
            Map { map: BTreeMap<u32, u8> },
            Text { text: String },
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Sparse {
            #[serde(skip_serializing_if = "Option::is_none")]
            first: Option<u8>,
            second: Option<u8>,
        }
        fn row<T: Serialize + DeserializeOwned + std::fmt::Debug + 'static>(
            value: &T,
        ) -> [String; 3] {
            [Codec::Json, Codec::MessagePack, Codec::Postcard].map(|codec| {
                let mut bytes = Vec::new();
                match codec.serialize(value, &mut bytes) {
                    Err(_) => "by the sender".to_owned(),
                    Ok(written) => match codec.deserialize::<T>(&bytes, arrived(written)) {
                        Err(_) => "by the receiver".to_owned(),
                        Ok(value) => format!("{value:?}"),
                    },
                }
            })
        }
        let (same, none) = ("Some(None)", "None");
        assert_eq!(row::<Option<Option<u8>>>(&Some(None)), [none, none, same]);
        assert_eq!(row(&Some(())), [none, none, "Some(())"]);
        assert_eq!(row(&Some(f64::NAN)), ["by the sender", "Some(NaN)", "Some(NaN)"]);
        assert_eq!(row(&f64::INFINITY), ["by the sender", "inf", "inf"]);
        assert_eq!(
            row(&BTreeMap::from([((1, 2), 3)])),
            ["by the sender", "{(1, 2): 3}", "{(1, 2): 3}"]
        );
        let (tagged, map) = (Tagged::Map { map: BTreeMap::from([(1, 2)]) }, "Map { map: {1: 2} }");
        assert_eq!(row(&tagged), ["by the receiver", map, "by the receiver"]);
        let tagged = Tagged::Text { text: String::new() };
        let text = "Text { text: \"\" }";
        assert_eq!(row(&tagged), [text, text, "by the receiver"]);
        let value = serde_json::json!(["a"]);
        let shown = "Array [String(\"a\")]";
        assert_eq!(row(&value), [shown, shown, "by the receiver"]);
        let [json, message_pack, postcard] = row(&Sparse { first: None, second: Some(1) });
        assert_eq!(
            [json, message_pack],
            ["Sparse { first: None, second: Some(1) }", "by the receiver"]
        );
        assert_eq!(postcard, "by the receiver");
        let other = row(&(Sparse { first: None, second: Some(0) }, 0_u8, Some(0_u8)));
        assert_eq!(other[2], "(Sparse { first: Some(0), second: None }, 1, None)");
    }

    #[test]
    fn a_number_that_json_does_not_have_is_refused_where_it_is_sent() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = Codec::Json.serialize(&vec![Some(number)], &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("NaN"), "{error}");
        }
        assert!(Codec::Json.serialize(&f32::NAN, &mut Vec::new()).is_err());
        #[cfg(feature = "message-pack")]
        assert!(cross::<_, f32>(&Codec::MessagePack, &f32::NAN).unwrap().is_nan());
    }
}
