//! Messages: the typed bodies behind the frames, as `docs/wire.md` lays them out.
//!
//! A message that carries values ([`Content`]) is one buffer, `head | body | tables`, followed by its blobs. The
//! head stands in front of the serialized body in the same allocation, so a small message is one slice from the
//! serializer to the ring. Pure.

use bytes::Bytes;

use crate::beside::{Arrived, Written};
use crate::error::Error;
use crate::inlet::InletHandle;
use crate::outlet::Source;
use crate::service::Status;
use crate::wire::{Fields, Malformed, Put, len_u64, u32_len};

/// Bytes of the head of every message. [wire.head]
pub(crate) const HEAD_LEN: usize = 24;
/// Bytes of one entry of the blob table: a `u64` length. [wire.blobs]
pub(crate) const BLOB_ENTRY_LEN: usize = 8;
/// Bytes of one entry of the stream table: an id and a window. [wire.streams]
pub(crate) const STREAM_ENTRY_LEN: usize = 12;

/// The fixed part in front of a message's body. [wire.head]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the serialized body.
    pub(crate) body_len: u32,
    /// Entries of the stream table behind the blob table. Requests and responses only.
    pub(crate) stream_count: u32,
    /// Entries of the blob table behind the body.
    pub(crate) blob_count: u32,
    /// Request: the service's index. Response, stream end: the status. Otherwise 0.
    pub(crate) selector: u16,
    /// Request: the method's index. Otherwise 0.
    pub(crate) member: u16,
    /// Request: the deadline on the receiver's clock, in nanoseconds; 0 is none. Event, stream item: its number.
    /// Otherwise 0.
    pub(crate) stamp: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.stream_count.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.blob_count.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.selector.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.member.to_le_bytes());
        bytes[16..].copy_from_slice(&self.stamp.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // Of a fixed length, so that its fields are read without asking each time.
        let bytes: &[u8; HEAD_LEN] = bytes.first_chunk().ok_or(Malformed("message head"))?;
        let mut fields = Fields::new(bytes);
        Ok(Self {
            body_len: fields.u32("message head")?,
            stream_count: fields.u32("message head")?,
            blob_count: fields.u32("message head")?,
            selector: fields.u16("message head")?,
            member: fields.u16("message head")?,
            stamp: fields.u64("message head")?,
        })
    }

    /// Bytes of the two tables.
    pub(crate) const fn tables_len(&self) -> u64 {
        self.blob_count as u64 * BLOB_ENTRY_LEN as u64
            + self.stream_count as u64 * STREAM_ENTRY_LEN as u64
    }

    /// Bytes of the message's first section: head, body and tables.
    pub(crate) const fn first_section_len(&self) -> u64 {
        HEAD_LEN as u64 + self.body_len as u64 + self.tables_len()
    }
}

/// A stream as the table of its message has it. [wire.streams]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamEntry {
    /// The producing side's number for it.
    pub(crate) id: u64,
    /// The most items that the producer wants to be ahead; 0 if it does not say.
    pub(crate) window: u32,
}

/// The streams beside a message's values, in the order of its table.
#[derive(Debug)]
pub(crate) enum Streams {
    /// As the serializer came across them: they get their ids when the message is queued.
    Sources(Vec<Source>),
    /// On the wire, or about to be.
    Table(Vec<StreamEntry>),
    /// As a connection knows them that has received the message.
    Inlets(Vec<Option<InletHandle>>),
}

impl Default for Streams {
    fn default() -> Self {
        Self::Table(Vec::new())
    }
}

impl Streams {
    const fn is_empty(&self) -> bool {
        match self {
            Self::Sources(sources) => sources.is_empty(),
            Self::Table(table) => table.is_empty(),
            Self::Inlets(inlets) => inlets.is_empty(),
        }
    }
}

/// A message's values: a serialized body, and what travels beside it.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// `head | body | tables`; the head's place is reserved, and filled in by [`Content::into_sections`].
    buffer: Vec<u8>,
    /// The byte behind the body.
    body_end: usize,
    /// `None` if there is nothing: most messages, which are moved about a good deal, are small without it.
    beside: Option<Box<Beside>>,
}

/// What travels beside a body.
#[derive(Debug, Default)]
struct Beside {
    blobs: Vec<Bytes>,
    streams: Streams,
}

impl Beside {
    fn new(blobs: Vec<Bytes>, streams: Streams) -> Option<Box<Self>> {
        let nothing = blobs.is_empty() && streams.is_empty();
        (!nothing).then(|| Box::new(Self { blobs, streams }))
    }
}

impl Content {
    /// Serializes a body with `write`, behind the room for the head. On failure nothing is kept.
    pub(crate) fn write<E>(
        mut buffer: Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Written, E>,
    ) -> Result<Self, E> {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEAD_LEN]);
        let Written { blobs, sources, .. } = write(&mut buffer)?;
        let beside = Beside::new(blobs, Streams::Sources(sources));
        Ok(Self { body_end: buffer.len(), buffer, beside })
    }

    /// The same values once more: the body is copied, the blobs are shared. There is one of each stream, and it is not
    /// copied: see [`has_streams`](Self::has_streams).
    pub(crate) fn copy(&self) -> Self {
        let mut buffer = crate::buffers::take();
        buffer.extend_from_slice(&self.buffer);
        let beside = Beside::new(self.blobs().to_vec(), Streams::default());
        Self { buffer, body_end: self.body_end, beside }
    }

    pub(crate) fn has_streams(&self) -> bool {
        self.streams().is_some_and(|streams| !streams.is_empty())
    }

    pub(crate) fn blobs(&self) -> &[Bytes] {
        self.beside.as_ref().map_or(&[], |beside| &beside.blobs)
    }

    /// `None` if there are none.
    pub(crate) fn streams(&self) -> Option<&Streams> {
        self.beside.as_ref().map(|beside| &beside.streams)
    }

    /// The streams in another form.
    pub(crate) fn set_streams(&mut self, streams: Streams) {
        self.beside.get_or_insert_default().streams = streams;
    }

    /// The streams, if they are still what the serializer came across.
    pub(crate) fn take_sources(&mut self) -> Vec<Source> {
        match self.beside.as_mut().map(|beside| &mut beside.streams) {
            Some(Streams::Sources(sources)) => std::mem::take(sources),
            _ => Vec::new(),
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn set_blobs(&mut self, blobs: Vec<Bytes>) {
        self.beside.get_or_insert_default().blobs = blobs;
    }

    /// Takes out what the values refer to.
    pub(crate) fn take_arrived(&mut self) -> Arrived {
        let Some(beside) = self.beside.take() else { return Arrived::default() };
        let inlets = match beside.streams {
            Streams::Inlets(inlets) => inlets,
            Streams::Sources(_) | Streams::Table(_) => Vec::new(),
        };
        Arrived { blobs: beside.blobs, inlets }
    }

    /// A body that is only bytes.
    pub(crate) fn plain(mut buffer: Vec<u8>, body: &[u8]) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEAD_LEN]);
        buffer.extend_from_slice(body);
        Self { body_end: buffer.len(), buffer, beside: None }
    }

    /// Takes a received first section and its blobs; the lengths have been checked by the reassembly.
    pub(crate) fn received(
        buffer: Vec<u8>,
        head: &Head,
        blobs: Vec<Bytes>,
        streams: Vec<StreamEntry>,
    ) -> Self {
        let body_end = (HEAD_LEN + u32_len(head.body_len)).min(buffer.len());
        Self { buffer, body_end, beside: Beside::new(blobs, Streams::Table(streams)) }
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.buffer.get(HEAD_LEN..self.body_end).unwrap_or_default()
    }

    /// Body and blobs in bytes: what `max_message_size` bounds.
    pub(crate) fn size(&self) -> u64 {
        let blobs = self.blobs().iter().map(|blob| len_u64(blob.len())).sum::<u64>();
        len_u64(self.body().len()) + blobs
    }

    /// The whole message, if it is `head | body` and nothing else.
    pub(crate) fn as_plain(&mut self, selector: u16, member: u16, stamp: u64) -> Option<&[u8]> {
        if self.beside.is_some() || self.body_end != self.buffer.len() {
            return None;
        }
        let body_len = u32::try_from(self.body_end.checked_sub(HEAD_LEN)?).ok()?;
        let head = Head { body_len, selector, member, stamp, ..Head::default() };
        self.buffer[..HEAD_LEN].copy_from_slice(&head.encode());
        Some(&self.buffer)
    }

    /// Fills in head and tables and returns the first section and the blobs, ready to be cut into chunks.
    pub(crate) fn into_sections(
        mut self,
        selector: u16,
        member: u16,
        stamp: u64,
    ) -> (Vec<u8>, Vec<Bytes>) {
        self.buffer.truncate(self.body_end);
        if self.buffer.len() < HEAD_LEN {
            self.buffer.resize(HEAD_LEN, 0);
        }
        let Beside { blobs, streams } = self.beside.map(|beside| *beside).unwrap_or_default();
        // Streams without ids belong to a message that no connection has queued: it has none then.
        let streams = match streams {
            Streams::Table(table) => table,
            Streams::Sources(_) | Streams::Inlets(_) => Vec::new(),
        };
        let head = Head {
            // `Limits::validate` keeps a message far below that.
            body_len: u32::try_from(self.buffer.len() - HEAD_LEN).unwrap_or(u32::MAX),
            stream_count: u32::try_from(streams.len()).unwrap_or(u32::MAX),
            blob_count: u32::try_from(blobs.len()).unwrap_or(u32::MAX),
            selector,
            member,
            stamp,
        };
        self.buffer[..HEAD_LEN].copy_from_slice(&head.encode());
        for blob in blobs.iter().take(u32_len(head.blob_count)) {
            self.buffer.put_u64(len_u64(blob.len()));
        }
        for stream in &streams {
            self.buffer.put_u64(stream.id);
            self.buffer.put_u32(stream.window);
        }
        (self.buffer, blobs)
    }

    /// The allocation, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

/// Maximum length of a text that a peer may send us as a reason or an explanation.
const MAX_TEXT: usize = 4096;

/// The text of an error response or a goodbye; cut, and made valid, rather than refused.
pub(crate) fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT)]).into_owned()
}

/// Why a server turns a client away. [wire.refuse]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Incompatible(String),
    Unauthorized(String),
}

impl Refusal {
    pub(crate) fn encode(&self) -> (u16, &str) {
        match self {
            Self::Incompatible(text) => (1, text),
            Self::Unauthorized(text) => (2, text),
        }
    }

    pub(crate) fn decode(code: u16, body: &[u8]) -> Error {
        match code {
            2 => Error::Unauthorized(text(body)),
            _ => Error::Incompatible(text(body)),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Incompatible(text) => Self::Incompatible(text),
            Refusal::Unauthorized(text) => Self::Unauthorized(text),
        }
    }
}

/// The error that a response with `status` stands for; `None` for the two that carry a value. [wire.response.status]
pub(crate) fn status_error(
    status: Status,
    body: &[u8],
    method: impl FnOnce() -> String,
) -> Option<Error> {
    Some(match status {
        Status::Ok | Status::Fault => return None,
        Status::Panicked => Error::Panicked { method: method(), message: text(body) },
        Status::Cancelled => Error::Cancelled,
        Status::TimedOut => Error::TimedOut { after: std::time::Duration::ZERO },
        Status::NoSuchMethod => Error::Protocol(format!("the peer knows no method {}", method())),
        Status::BadArguments => Error::Deserialize {
            what: format!("the arguments of {}", method()),
            serializer: "the peer's serializer".to_owned(),
            reason: text(body),
        },
        Status::BadResult => Error::Serialize {
            what: format!("the result of {}", method()),
            serializer: "the peer's serializer".to_owned(),
            reason: text(body),
        },
        Status::TooLarge => {
            let mut fields = Fields::new(body);
            let size = fields.u64("size").unwrap_or_default();
            let limit = fields.u64("limit").unwrap_or_default();
            Error::TooLarge { what: format!("the result of {}", method()), size, limit }
        }
    })
}

/// What a stream's end with `status` stands for: nothing, or an error. `None` if it stands for nothing that is known.
/// [wire.stream.end]
pub(crate) fn stream_error(status: Status, body: &[u8]) -> Option<Option<Error>> {
    const STREAM: &str = "a stream";
    const ITEM: &str = "an item of a stream";
    let size = |body| {
        let mut fields = Fields::new(body);
        (fields.u64("size").unwrap_or_default(), fields.u64("limit").unwrap_or_default())
    };
    Some(match status {
        Status::Ok => None,
        Status::Fault => Some(Error::Fault { message: text(body) }),
        Status::Panicked => {
            Some(Error::Panicked { method: STREAM.to_owned(), message: text(body) })
        }
        Status::Cancelled => Some(Error::Cancelled),
        Status::BadResult => Some(Error::Serialize {
            what: ITEM.to_owned(),
            serializer: "the peer's serializer".to_owned(),
            reason: text(body),
        }),
        Status::TooLarge => {
            let (size, limit) = size(body);
            Some(Error::TooLarge { what: ITEM.to_owned(), size, limit })
        }
        Status::TimedOut | Status::NoSuchMethod | Status::BadArguments => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Content, HEAD_LEN, Head, StreamEntry, Streams};
    use bytes::Bytes;

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn message_is_frozen() {
        let mut content = Content::plain(Vec::new(), b"[1,2]");
        content.set_blobs(vec![Bytes::from_static(b"xyz")]);
        assert_eq!(content.size(), 8);
        let (section, blobs) = content.into_sections(1, 2, 3);
        let mut expected =
            vec![5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(b"[1,2]");
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(section, expected);
        assert_eq!(blobs.len(), 1);
        let head = Head::decode(&section[..HEAD_LEN]).unwrap();
        assert_eq!(head.first_section_len(), section.len() as u64);
        assert_eq!(Content::received(section, &head, blobs, Vec::new()).body(), b"[1,2]");
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn stream_table_is_frozen() {
        let mut content = Content::plain(Vec::new(), b"0");
        content.set_streams(Streams::Table(vec![StreamEntry { id: 7, window: 16 }]));
        let (section, _) = content.into_sections(0, 0, 0);
        let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0];
        expected.extend_from_slice(&[0; 16]);
        expected.extend_from_slice(b"0");
        expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
        assert_eq!(section, expected);
    }

    #[test]
    fn no_lengths_overflow() {
        let head = Head {
            body_len: u32::MAX,
            blob_count: u32::MAX,
            stream_count: u32::MAX,
            ..Head::default()
        };
        assert_eq!(head.first_section_len(), 24 + u64::from(u32::MAX) * 21);
    }
}
