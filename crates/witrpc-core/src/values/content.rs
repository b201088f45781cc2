//! Messages: the typed bodies behind the frames, as `docs/wire.md` lays them out.
//!
//! A message that carries values ([`Content`]) is one buffer, `head | body | tables`, followed by its blobs. The
//! head stands in front of the serialized body in the same allocation, so a small message is one slice from the
//! serializer to the ring. Pure.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;

#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::{self, Held};
use crate::values::attachments::reference::Marker;
use crate::values::attachments::{Arrived, Attachments, IncomingStream, OutgoingStream, Written};
use crate::values::loans::{Lent, Loan, Loans};
use crate::wire::fields::{Put, len_u64, u32_len};
use crate::wire::message::{
    BLOB_COST, HEAD_LEN, Head, LOAN_ENTRY_LEN, LoanEntry, MAX_LOANS, STREAM_COST, StreamEntry,
};

/// The streams of a message, in the order of its table.
#[derive(Debug)]
pub enum Streams {
    /// As the serializer found them; they get ids when the message is queued.
    Outgoing(Vec<OutgoingStream>),
    /// As on the wire.
    Table(Vec<StreamEntry>),
    /// In a received message, as the connection has registered them.
    Incoming(Vec<Option<IncomingStream>>),
}

impl Default for Streams {
    #[inline]
    fn default() -> Self {
        Self::Table(Vec::new())
    }
}

impl Streams {
    fn len(&self) -> usize {
        match self {
            Self::Outgoing(outgoing) => outgoing.len(),
            Self::Table(table) => table.len(),
            Self::Incoming(incoming) => incoming.len(),
        }
    }
}

/// A message's values: a serialized body, and its attachments.
#[derive(Debug, Default)]
pub struct Content {
    /// `head | body | tables`; the head's place is reserved, and filled in by [`Content::into_sections`].
    buffer: Vec<u8>,
    /// The byte behind the body.
    body_end: usize,
    /// `None` if there are no attachments: most messages have none, and are moved often, so they are kept small.
    tables: Attached,
}

/// The attachments, if there are any. Dropping nothing is one look, wherever a message is dropped.
#[derive(Debug, Default)]
struct Attached(Option<Box<Tables>>);

impl Drop for Attached {
    #[inline]
    fn drop(&mut self) {
        #[cold]
        #[inline(never)]
        fn drop_tables(tables: Box<Tables>) {
            drop(tables);
        }
        if let Some(tables) = self.0.take() {
            drop_tables(tables);
        }
    }
}

impl Deref for Attached {
    type Target = Option<Box<Tables>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Attached {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// The attachments of a body.
#[derive(Debug, Default)]
struct Tables {
    marker: Marker,
    blobs: Vec<Bytes>,
    streams: Streams,
    loans: Loans,
    /// Of a received message, as entries of unknown kinds count, too.
    extension_len: u16,
}

impl Tables {
    fn new(marker: Marker, blobs: Vec<Bytes>, streams: Streams) -> Option<Box<Self>> {
        let nothing = blobs.is_empty() && streams.len() == 0;
        (!nothing).then(|| Box::new(Self { marker, blobs, streams, ..Self::default() }))
    }

    /// The bytes of the extension.
    fn extension_len(&self) -> u64 {
        match &self.loans {
            Loans::Outgoing(loans) => len_u64(loans.len() * LOAN_ENTRY_LEN),
            _ => u64::from(self.extension_len),
        }
    }

    /// The bytes of the blobs that cross as references.
    fn lent_bytes(&self) -> u64 {
        match &self.loans {
            Loans::Outgoing(loans) => loans.iter().map(|lent| lent.entry.len).sum(),
            _ => 0,
        }
    }
}

/// The size of these blobs: their bytes, and a constant for each. [wire.size]
pub fn size_of_blobs(blobs: &[Bytes]) -> u64 {
    blobs.iter().map(|blob| len_u64(blob.len()) + BLOB_COST).sum()
}

/// The body and the blobs of a message that is kept in several places.
#[derive(Debug)]
pub struct Shared {
    buffer: Vec<u8>,
    body_end: usize,
    marker: Marker,
    blobs: Vec<Bytes>,
}

/// A message that is kept and shares its body with others.
#[derive(Debug)]
pub struct Kept {
    shared: Arc<Shared>,
    resources: Vec<OutgoingStream>,
}

impl Kept {
    /// The message, and what is to be dropped where that may run code of the user's.
    pub fn into_content(self) -> (Content, Option<Arc<Shared>>) {
        let Self { shared, resources } = self;
        let streams = Streams::Outgoing(resources);
        match Arc::try_unwrap(shared) {
            Ok(Shared { buffer, body_end, marker, blobs }) => {
                let tables = Attached(Tables::new(marker, blobs, streams));
                (Content { buffer, body_end, tables }, None)
            }
            Err(shared) => {
                let mut buffer = crate::values::buffers::take_for(shared.buffer.len());
                buffer.extend_from_slice(&shared.buffer);
                let tables = Attached(Tables::new(shared.marker, shared.blobs.clone(), streams));
                (Content { buffer, body_end: shared.body_end, tables }, Some(shared))
            }
        }
    }

    /// The memory that it takes if it shares with nobody.
    pub fn footprint(&self) -> u64 {
        let Shared { buffer, blobs, .. } = &*self.shared;
        let streams = len_u64(self.resources.len()) * STREAM_COST;
        len_u64(size_of::<Shared>() + buffer.capacity()) + size_of_blobs(blobs) + streams
    }

    /// The number of its bytes, and its memory if it shares with nobody.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn held(&self) -> Held {
        Held { entries: 1, size: len_u64(self.shared.body_end), memory: self.footprint() }
    }
}

impl Content {
    /// Serializes a body with `write`, behind the room for the head. On failure nothing is kept.
    pub fn write<E>(
        mut buffer: Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Attachments<Written>, E>,
    ) -> Result<Self, E> {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEAD_LEN]);
        let tables = write(&mut buffer)?.and_then(|written| {
            let Written { marker, blobs, outgoing, .. } = *written;
            Tables::new(marker, blobs, Streams::Outgoing(outgoing))
        });
        Ok(Self { body_end: buffer.len(), buffer, tables: Attached(tables) })
    }

    /// Copies the message: the body is copied, blobs and resources are shared. Other streams cannot be copied; see
    /// [`has_streams`](Self::has_streams).
    #[inline]
    pub fn copy(&self) -> Self {
        let mut buffer = crate::values::buffers::take_for(self.buffer.len());
        buffer.extend_from_slice(&self.buffer);
        let marker = self.tables.as_ref().map(|tables| tables.marker).unwrap_or_default();
        let resources = self.outgoing().iter().filter_map(OutgoingStream::copy).collect();
        let streams = Streams::Outgoing(resources);
        let tables = Attached(Tables::new(marker, self.blobs().to_vec(), streams));
        Self { buffer, body_end: self.body_end, tables }
    }

    /// The same, to be kept in several places, which share the body.
    pub fn shared(&self) -> Arc<Shared> {
        let mut buffer = crate::values::buffers::take_for(self.buffer.len());
        buffer.extend_from_slice(&self.buffer);
        let marker = self.tables.as_ref().map(|tables| tables.marker).unwrap_or_default();
        Arc::new(Shared { buffer, body_end: self.body_end, marker, blobs: self.blobs().to_vec() })
    }

    /// Keeps what it is a copy of.
    pub fn keep(&self, shared: &Arc<Shared>) -> Kept {
        let resources = self.outgoing().iter().filter_map(OutgoingStream::copy).collect();
        Kept { shared: Arc::clone(shared), resources }
    }

    /// The streams, if they are still as the serializer found them.
    fn outgoing(&self) -> &[OutgoingStream] {
        match self.streams() {
            Some(Streams::Outgoing(outgoing)) => outgoing,
            _ => &[],
        }
    }

    /// The number of its streams.
    #[inline]
    pub fn stream_count(&self) -> usize {
        self.streams().map_or(0, Streams::len)
    }

    /// If it has a resource: what to tell whoever sends it over a connection that has nothing beside its messages.
    pub fn advice(&self) -> Option<&'static str> {
        self.outgoing().iter().find_map(OutgoingStream::advice)
    }

    /// Whether it has blobs or streams, or an extension. Most messages have none.
    #[must_use]
    #[inline]
    pub fn has_attachments(&self) -> bool {
        self.tables.is_some()
    }

    #[inline]
    pub fn has_streams(&self) -> bool {
        self.stream_count() > 0
    }

    #[inline]
    pub fn blobs(&self) -> &[Bytes] {
        self.tables.as_ref().map_or(&[], |tables| &tables.blobs)
    }

    /// `None` if there are none.
    #[inline]
    pub fn streams(&self) -> Option<&Streams> {
        self.tables.as_ref().map(|tables| &tables.streams)
    }

    /// The streams in another form.
    #[inline]
    pub fn set_streams(&mut self, streams: Streams) {
        self.tables.get_or_insert_default().streams = streams;
    }

    /// Takes the streams, if they are still as the serializer found them.
    #[inline]
    pub fn take_outgoing(&mut self) -> Vec<OutgoingStream> {
        match self.tables.as_mut().map(|tables| &mut tables.streams) {
            Some(Streams::Outgoing(outgoing)) => std::mem::take(outgoing),
            _ => Vec::new(),
        }
    }

    #[cfg(any(test, fuzzing, feature = "test-support"))]
    pub fn set_blobs(&mut self, marker: u64, blobs: Vec<Bytes>) {
        let tables = self.tables.get_or_insert_default();
        (tables.marker, tables.blobs) = (Marker(marker), blobs);
    }

    #[cfg(any(test, fuzzing, feature = "test-support"))]
    pub fn marker(&self) -> u64 {
        self.tables.as_ref().map_or(0, |tables| tables.marker.0)
    }

    /// The streams of a received message.
    pub fn incoming_mut(&mut self) -> impl Iterator<Item = &mut IncomingStream> {
        let incoming = match self.tables.as_mut().map(|tables| &mut tables.streams) {
            Some(Streams::Incoming(incoming)) => &mut incoming[..],
            _ => &mut [],
        };
        incoming.iter_mut().flatten()
    }

    /// Takes out what the values refer to.
    #[inline]
    pub fn take_arrived(&mut self) -> Attachments<Arrived> {
        let Tables { marker, blobs, streams, loans, .. } = *self.tables.take()?;
        let lent = if let Loans::Incoming(lent) = loans { lent } else { Vec::new() };
        let incoming = match streams {
            Streams::Incoming(incoming) => incoming,
            Streams::Outgoing(_) | Streams::Table(_) => Vec::new(),
        };
        Some(Box::new(Arrived { blobs, incoming, lent, marker }))
    }

    /// A body that is only bytes.
    #[inline]
    pub fn plain(mut buffer: Vec<u8>, body: &[u8]) -> Self {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEAD_LEN]);
        buffer.extend_from_slice(body);
        Self { body_end: buffer.len(), buffer, tables: Attached(None) }
    }

    /// Takes a received first section and its blobs; the lengths have been checked by the reassembly.
    #[inline]
    pub fn received(
        buffer: Vec<u8>,
        head: &Head,
        marker: u64,
        blobs: Vec<Bytes>,
        streams: Vec<StreamEntry>,
        loans: Vec<LoanEntry>,
    ) -> Self {
        let (streams, extension_len) = (Streams::Table(streams), head.extension_len);
        let mut tables = Tables::new(Marker(marker), blobs, streams);
        if extension_len > 0 {
            let tables = tables.get_or_insert_default();
            (tables.loans, tables.extension_len) = (Loans::Table(loans), extension_len);
        }
        Self { tables: Attached(tables), ..Self::received_plain(buffer, head) }
    }

    /// The same of a message that is `head | body` and nothing else.
    #[inline]
    pub fn received_plain(buffer: Vec<u8>, head: &Head) -> Self {
        let body_end = (HEAD_LEN + u32_len(head.body_len)).min(buffer.len());
        Self { buffer, body_end, tables: Attached(None) }
    }

    #[inline]
    pub fn body(&self) -> &[u8] {
        self.buffer.get(HEAD_LEN..self.body_end).unwrap_or_default()
    }

    /// The size for `max_message_size`, credit and windows: the bytes of body and blobs, and a constant for each blob and stream.
    /// [wire.size]
    #[inline]
    pub fn size(&self) -> u64 {
        let body = len_u64(self.body_end.saturating_sub(HEAD_LEN));
        let Some(tables) = &*self.tables else { return body };
        let streams = len_u64(tables.streams.len()) * STREAM_COST;
        let blobs = size_of_blobs(&tables.blobs) - tables.lent_bytes();
        body + blobs + streams + tables.extension_len()
    }

    /// The whole message, if it is `head | body` and nothing else.
    #[inline]
    pub fn as_plain(&mut self, selector: u16, member: u16, stamp: u64) -> Option<&[u8]> {
        if self.tables.is_some() || self.body_end != self.buffer.len() {
            return None;
        }
        let body_len = u32::try_from(self.body_end.checked_sub(HEAD_LEN)?).ok()?;
        let head = Head { body_len, selector, member, stamp, ..Head::default() };
        self.buffer[..HEAD_LEN].copy_from_slice(&head.encode());
        Some(&self.buffer)
    }

    /// Has those blobs cross as references for which `lend` has an entry. It is given each blob that is not empty.
    pub fn lend(&mut self, mut lend: impl FnMut(u32, &Bytes) -> Option<Lent>) {
        let Some(tables) = &mut *self.tables else { return };
        let blobs = (0..).zip(&tables.blobs).filter(|(_, blob)| !blob.is_empty());
        let lent: Vec<_> =
            blobs.filter_map(|(index, blob)| lend(index, blob)).take(MAX_LOANS).collect();
        if !lent.is_empty() {
            tables.loans = Loans::Outgoing(lent);
        }
    }

    /// Forgets the loans of an earlier attempt to send the message, or those that it has arrived with.
    pub fn lend_nothing(&mut self) {
        if let Some(tables) = &mut *self.tables {
            (tables.loans, tables.extension_len) = (Loans::default(), 0);
        }
    }

    /// Copies the message to send the copy, as [`copy`](Self::copy) does. The copy has the loans.
    pub fn copy_to_send(&mut self) -> Self {
        let mut copy = self.copy();
        if let (Some(tables), Some(copied)) = (&mut *self.tables, &mut *copy.tables) {
            copied.loans = std::mem::take(&mut tables.loans);
        }
        copy
    }

    /// The loans of a received message as they are on the wire.
    #[must_use]
    pub fn loan_table(&self) -> &[LoanEntry] {
        match self.tables.as_ref().map(|tables| &tables.loans) {
            Some(Loans::Table(table)) => table,
            _ => &[],
        }
    }

    /// What keeps the loans of a received request whose bytes are copied. Kept until its handler has ended, it bounds the copies as the loans are
    /// bounded.
    #[must_use]
    #[inline]
    pub fn copied_loans(&self) -> Option<Box<[Loan]>> {
        match &self.tables.as_ref()?.loans {
            Loans::Incoming(loans) => {
                Some(loans.iter().filter_map(|(_, blob)| blob.copied_loan()).collect())
            }
            _ => None,
        }
    }

    /// The loans of a message in another form.
    pub fn set_loans(&mut self, loans: Loans) {
        self.tables.get_or_insert_default().loans = loans;
    }

    /// Fills in head and tables and returns the first section and the blobs, ready to be cut into chunks.
    pub fn into_sections(self, selector: u16, member: u16, stamp: u64) -> (Vec<u8>, Vec<Bytes>) {
        let (first, blobs, _) = self.into_parts(selector, member, stamp);
        (first, blobs)
    }

    /// The same, with what keeps the memory of the blobs that cross as references. These blobs are empty.
    pub fn into_parts(
        mut self,
        selector: u16,
        member: u16,
        stamp: u64,
    ) -> (Vec<u8>, Vec<Bytes>, Vec<Lent>) {
        self.buffer.truncate(self.body_end);
        if self.buffer.len() < HEAD_LEN {
            self.buffer.resize(HEAD_LEN, 0);
        }
        let tables = self.tables.take().map(|tables| *tables).unwrap_or_default();
        let Tables { marker, mut blobs, streams, loans, .. } = tables;
        let lent = if let Loans::Outgoing(lent) = loans { lent } else { Vec::new() };
        for Lent { entry, .. } in &lent {
            // Whoever keeps the memory has a clone.
            blobs[u32_len(entry.blob)] = Bytes::new();
        }
        // Streams without ids belong to a message that no connection has queued: it has none then.
        let streams = match streams {
            Streams::Table(table) => table,
            Streams::Outgoing(_) | Streams::Incoming(_) => Vec::new(),
        };
        let head = Head {
            // `Limits::validate` keeps a message far below that.
            body_len: u32::try_from(self.buffer.len() - HEAD_LEN).unwrap_or(u32::MAX),
            stream_count: u16::try_from(streams.len()).unwrap_or(u16::MAX),
            // At most `MAX_LOANS`.
            extension_len: u16::try_from(lent.len() * LOAN_ENTRY_LEN).unwrap_or(u16::MAX),
            blob_count: u32::try_from(blobs.len()).unwrap_or(u32::MAX),
            selector,
            member,
            stamp,
        };
        self.buffer[..HEAD_LEN].copy_from_slice(&head.encode());
        if head.has_tables() {
            self.buffer.put_u64(marker.0);
        }
        for blob in blobs.iter().take(u32_len(head.blob_count)) {
            self.buffer.put_u64(len_u64(blob.len()));
        }
        for stream in &streams {
            self.buffer.put_u64(stream.id);
            self.buffer.put_u32(stream.window);
        }
        lent.iter().for_each(|lent| lent.entry.encode(&mut self.buffer));
        (self.buffer, blobs, lent)
    }

    /// Its memory, including itself.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn held(&self) -> Held {
        let tables = self.tables.as_ref().map_or(0, |tables| {
            held::bytes::<Tables>(1)
                + held::bytes::<Bytes>(tables.blobs.capacity())
                + tables.blobs.iter().map(|blob| len_u64(blob.len())).sum::<u64>()
                + held::bytes::<Option<IncomingStream>>(tables.streams.len())
        });
        let memory = held::bytes::<Self>(1) + len_u64(self.buffer.capacity()) + tables;
        Held { entries: 1, size: self.size(), memory }
    }

    /// The allocation, to be used again.
    #[inline]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::Content;
    use super::Streams;
    use crate::wire::message::{HEAD_LEN, Head, StreamEntry};
    use bytes::Bytes;

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn message_is_frozen() {
        let mut content = Content::plain(Vec::new(), b"[1,2]");
        content.set_blobs(0x0102, vec![Bytes::from_static(b"xyz")]);
        assert_eq!(content.size(), 8 + 64);
        let (section, blobs) = content.into_sections(1, 2, 3);
        let mut expected =
            vec![5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(b"[1,2]");
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(section, expected);
        assert_eq!(blobs.len(), 1);
        let head = Head::decode(&section[..HEAD_LEN]).unwrap();
        assert_eq!(head.first_section_len(), section.len() as u64);
        assert_eq!(head.size_without_blob_bytes(), 5 + 64);
        let content = Content::received(section, &head, 0x0102, blobs, Vec::new(), Vec::new());
        assert_eq!((content.body(), content.size()), (&b"[1,2]"[..], 8 + 64));
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn stream_table_is_frozen() {
        let mut content = Content::plain(Vec::new(), b"0");
        content.set_blobs(0x0102, Vec::new());
        content.set_streams(Streams::Table(vec![StreamEntry { id: 7, window: 16 }]));
        assert_eq!(content.size(), 1 + 512);
        let (section, _) = content.into_sections(0, 0, 0);
        let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0];
        expected.extend_from_slice(&[0; 16]);
        expected.extend_from_slice(b"0");
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0]);
        assert_eq!(section, expected);
    }

    #[test]
    fn no_lengths_overflow() {
        let head = Head {
            body_len: u32::MAX,
            blob_count: u32::MAX,
            stream_count: u16::MAX,
            extension_len: u16::MAX,
            ..Head::default()
        };
        assert_eq!(
            head.first_section_len(),
            24 + 8 + u64::from(u32::MAX) * 9 + u64::from(u16::MAX) * 13
        );
        assert_eq!(
            head.size_without_blob_bytes(),
            u64::from(u32::MAX) * (1 + 64) + u64::from(u16::MAX) * (1 + 512)
        );
    }
}
