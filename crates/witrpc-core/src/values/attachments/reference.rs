//! References: what a serialized value has in place of an attachment.
//!
//! In formats that are not self-describing, a reference is the index in the message's table. In self-describing formats it is a text with
//! the message's [`Marker`], because a type may read such a format without saying what it expects (an untagged
//! enum, a flattened map) and keep what it finds for later. A `Limited` deserializer turns that
//! text, where it meets it, into a newtype of bytes that are not UTF-8: a shape that [`Reference`] alone reads.

use std::cell::RefCell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use serde::de::{Deserializer, Error, Visitor};

/// What a reference refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Blob,
    Stream,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Stream => "stream",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Blob => b'b',
            Self::Stream => b's',
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            b'b' => Some(Self::Blob),
            b's' => Some(Self::Stream),
            _ => None,
        }
    }
}

/// How a format represents references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// As indices, numbers of 32 bits.
    Places,
    /// As texts with a marker.
    Markers,
}

/// 64 random bits of one message. A value can be mistaken for a reference only by guessing them. [wire.blobs]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marker(pub u64);

/// Hexadecimal digits of a marker in a text.
const DIGITS: usize = 16;
/// The first byte of a reference as bytes: no UTF-8 has it.
const NOT_TEXT: u8 = 0xFF;
/// Bytes of a reference: `NOT_TEXT`, its kind, the marker, the place.
const BYTES: usize = 14;

impl Marker {
    /// A marker that nobody can foresee: SipHash of a counter, under a key of this thread that the system chose.
    pub fn random() -> Self {
        thread_local! {
            static NEXT: RefCell<(Option<RandomState>, u64)> = const { RefCell::new((None, 0)) };
        }
        NEXT.with_borrow_mut(|(key, count)| {
            *count = count.wrapping_add(1);
            Self(key.get_or_insert_with(RandomState::new).hash_one(*count))
        })
    }

    /// `blob:0123456789abcdef:7`. [wire.blobs]
    pub fn text(self, kind: Kind, place: u32) -> String {
        format!("{}:{:0DIGITS$x}:{place}", kind.name(), self.0)
    }

    /// The reference that is this text, if it is one with this marker.
    pub fn parse(self, text: &str) -> Option<(Kind, u32)> {
        let (kind, rest) = text.split_once(':')?;
        let kind = [Kind::Blob, Kind::Stream].into_iter().find(|known| known.name() == kind)?;
        let place = rest.get(DIGITS..)?.strip_prefix(':')?.parse().ok()?;
        // As a whole: a place has one spelling, and the marker's digits must be its own.
        (self.text(kind, place) == text).then_some((kind, place))
    }

    /// The reference as the bytes that stand for it once it has been recognized.
    pub fn bytes(self, kind: Kind, place: u32) -> [u8; BYTES] {
        let mut bytes = [NOT_TEXT; BYTES];
        bytes[1] = kind.code();
        bytes[2..10].copy_from_slice(&self.0.to_le_bytes());
        bytes[10..].copy_from_slice(&place.to_le_bytes());
        bytes
    }

    fn parse_bytes(self, bytes: &[u8]) -> Option<(Kind, u32)> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let kind = Kind::of_code(bytes[1])?;
        let place = u32::from_le_bytes(*bytes.last_chunk()?);
        (self.bytes(kind, place) == *bytes).then_some((kind, place))
    }
}

/// Reads a reference in the notation of markers, and returns its place.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    pub kind: Kind,
    pub marker: Marker,
    /// It is within the newtype already.
    pub within: bool,
}

impl Reference {
    fn place<E: Error>(self, found: Option<(Kind, u32)>) -> Result<u32, E> {
        match found {
            Some((kind, place)) if kind == self.kind => Ok(place),
            Some((kind, _)) => Err(E::custom(format!(
                "found a {} where a {} is expected",
                kind.name(),
                self.kind.name()
            ))),
            None => {
                Err(E::custom(format!("found a value where a {} is expected", self.kind.name())))
            }
        }
    }
}

impl<'de> Visitor<'de> for Reference {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", self.kind.name())
    }

    /// The format's own newtype, whose content may be the text; or the one that the text was turned into.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<u32, D::Error> {
        if self.within {
            return inner.deserialize_bytes(self);
        }
        inner.deserialize_str(Self { within: true, ..self })
    }

    /// Where the text was not recognized: a value's own code may run a deserializer within another.
    fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
        self.place(self.marker.parse(text))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<u32, E> {
        self.place(self.marker.parse_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;
    use super::Marker;

    #[test]
    fn references_come_back_and_nothing_else_is_one() {
        let marker = Marker(0xAB);
        for (kind, place) in [(Kind::Blob, 0), (Kind::Stream, 7), (Kind::Blob, u32::MAX)] {
            assert_eq!(marker.parse(&marker.text(kind, place)), Some((kind, place)));
            assert_eq!(marker.parse_bytes(&marker.bytes(kind, place)), Some((kind, place)));
            assert_eq!(Marker(0xAC).parse(&marker.text(kind, place)), None);
            assert_eq!(Marker(0xAC).parse_bytes(&marker.bytes(kind, place)), None);
            assert!(std::str::from_utf8(&marker.bytes(kind, place)).is_err());
        }
        for text in [
            "",
            "blob",
            "blob:",
            "blob:00000000000000ab",
            "blob:00000000000000ab:",
            "blob:00000000000000ab:07",
            "blob:00000000000000ab:+7",
            "blob:00000000000000AB:7",
            "blob:ab:7",
            "Blob:00000000000000ab:7",
            "blob:00000000000000ab:4294967296",
            "blob:00000000000000äb:7",
        ] {
            assert_eq!(marker.parse(text), None, "{text}");
        }
        assert_eq!(marker.parse_bytes(&marker.bytes(Kind::Blob, 1)[1..]), None);
    }

    /// Frozen: what `docs/wire.md` shows.
    #[test]
    fn a_reference_is_frozen() {
        assert_eq!(Marker(0x0102).text(Kind::Blob, 7), "blob:0000000000000102:7");
        assert_eq!(Marker(0x0102).text(Kind::Stream, 0), "stream:0000000000000102:0");
    }

    #[test]
    fn markers_differ() {
        let markers: std::collections::HashSet<_> = (0..1000).map(|_| Marker::random().0).collect();
        assert_eq!(markers.len(), 1000);
    }
}
