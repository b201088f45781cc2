//! Reassembly of one message from its chunks.

use std::collections::HashMap;

use bytes::Bytes;
use zeroize::Zeroize;

use crate::error::Error;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::{self, Held};
use crate::session::inbound::incoming::{Incoming, protocol};
use crate::session::ledger::Charge;
use crate::transport::RecordReceiver;
use crate::values::buffers;
use crate::values::content::Content;
use crate::values::spare;
use crate::wire::fields::{Fields, Malformed, len_u64, u32_len, u64_len};
use crate::wire::frame::{Header, Key, Nesting};
use crate::wire::message::{
    HEAD_LEN, Head, LoanEntry, MARKER_LEN, STREAM_ENTRY_LEN, StreamEntry, read_extension,
};

/// The messages of which only a part has arrived. The chunks of a message usually follow each other, so the message of the last chunk has
/// a place of its own. Boxed, because they move with each of their chunks.
#[derive(Debug, Default)]
pub(super) struct Partials {
    last: Option<(Key, Box<Partial>)>,
    others: HashMap<Key, Box<Partial>>,
}

impl Partials {
    pub(super) fn len(&self) -> usize {
        self.others.len() + usize::from(self.last.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last == key)
            || (!self.others.is_empty() && self.others.contains_key(key))
    }

    pub(super) fn take(&mut self, key: &Key) -> Option<Box<Partial>> {
        match self.last.take_if(|(last, _)| last == key) {
            Some((_, partial)) => Some(partial),
            None => self.others.remove(key),
        }
    }

    /// Keeps a message whose last chunk has just arrived.
    pub(super) fn put(&mut self, key: Key, partial: Box<Partial>) {
        if let Some((key, partial)) = self.last.replace((key, partial)) {
            self.others.insert(key, partial);
        }
    }

    #[cfg(any(test, fuzzing, feature = "test-support"))]
    pub(super) fn values(&self) -> impl Iterator<Item = &Partial> {
        self.last.iter().map(|(_, partial)| partial).chain(self.others.values()).map(|p| &**p)
    }
}

/// A first section that is arriving. That of a handshake message is secret, as it may contain a token. So it is wiped when it is dropped
/// here, and when it grows.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) bytes: Vec<u8>,
    secret: bool,
}

impl Drop for Section {
    #[inline]
    fn drop(&mut self) {
        if self.secret {
            self.bytes.zeroize();
        }
    }
}

impl Section {
    pub(super) const fn new(bytes: Vec<u8>, secret: bool) -> Self {
        Self { bytes, secret }
    }

    /// Takes the bytes; wiping them is up to the caller.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Grows the section without leaving a copy of a secret behind.
    fn reserve(&mut self, more: usize, receiver: &dyn RecordReceiver) {
        if self.secret {
            let mut grown = Vec::with_capacity(self.bytes.len() + more);
            grown.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = grown;
        } else if let Some(mut spare) = spare::take(self.bytes.len() + more) {
            spare.extend_from_slice(&self.bytes);
            buffers::give(std::mem::replace(&mut self.bytes, spare));
        } else {
            receiver.reserve(&mut self.bytes, more);
        }
    }
}

/// A message that is being reassembled.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) head: Head,
    /// All chunks say the same. [wire.nesting]
    pub(super) nesting: Nesting,
    pub(super) first_len: u64,
    /// Head, body, tables.
    pub(super) first: Section,
    /// The lengths of the missing blobs, the last first; known once `first` is complete.
    pub(super) blob_lens: Option<Vec<u64>>,
    pub(super) blobs: Vec<Bytes>,
    /// The blob that is arriving.
    pub(super) blob: Section,
    pub(super) charge: Charge,
}

impl Partial {
    pub(super) fn new(nesting: Nesting, head: Head, first: Section, charge: Charge) -> Self {
        let first_len = head.first_section_len();
        let (blobs, blob) = (Vec::new(), Section::new(Vec::new(), false));
        Self { head, nesting, first_len, first, blob_lens: None, blobs, blob, charge }
    }

    /// The buffer for the next `len` bytes, with room for them and for the seal.
    pub(super) fn section(
        &mut self,
        len: usize,
        overhead: usize,
        receiver: &dyn RecordReceiver,
    ) -> Result<&mut Vec<u8>, Error> {
        let (section, total) = match &self.blob_lens {
            None => (&mut self.first, self.first_len),
            Some(lens) => (&mut self.blob, lens.last().copied().unwrap_or(0)),
        };
        let arrived = section.bytes.len();
        let rest = u64_len(total).saturating_sub(arrived);
        if len == 0 || len > rest {
            return Err(protocol("a message's length differs from what it declared"));
        }
        if section.bytes.capacity() - arrived < len + overhead {
            section.reserve(rest + overhead, receiver); // N1
        }
        Ok(&mut section.bytes)
    }

    /// Reads the blob table of a complete first section. Returns the sum of the lengths.
    pub(super) fn read_table(&mut self) -> Result<u64, Error> {
        let marker = if self.head.has_tables() { MARKER_LEN } else { 0 };
        let table = HEAD_LEN + u32_len(self.head.body_len) + marker;
        let mut fields = Fields::new(&self.first.bytes[table..]);
        let mut lens = Vec::with_capacity(u32_len(self.head.blob_count));
        let mut sum = 0_u64;
        for _ in 0..self.head.blob_count {
            let len = fields.u64("blob table")?;
            sum = sum.saturating_add(len);
            lens.push(len);
        }
        lens.reverse();
        self.blobs.reserve_exact(lens.len());
        self.blob_lens = Some(lens);
        Ok(sum)
    }

    /// Stores blobs that are complete, also the empty ones.
    pub(super) fn step_blobs(&mut self) {
        let Some(lens) = &mut self.blob_lens else { return };
        while lens.last().is_some_and(|len| *len == len_u64(self.blob.bytes.len())) {
            lens.pop();
            self.blobs.push(Bytes::from(std::mem::take(&mut self.blob.bytes)));
        }
    }

    /// Asserts N1.
    #[cfg(any(test, fuzzing, feature = "test-support"))]
    pub(super) fn check(&self) {
        /// A spare buffer that had to grow, and a seal.
        const BESIDE: usize = 2 * buffers::LARGEST_KEPT + 64;
        let blob_len = self.blob_lens.as_ref().and_then(|lens| lens.last()).copied();
        for (section, declared) in
            [(&self.first.bytes, self.first_len), (&self.blob.bytes, blob_len.unwrap_or(0))]
        {
            let declared = u64_len(declared);
            let again = if declared < spare::LONG { 0 } else { declared / 4 };
            let (held, most) = (section.capacity(), declared + again + BESIDE);
            assert!(held <= most, "{held} bytes for {declared}");
        }
        let blobs = self.blob_lens.as_ref().map_or(0, Vec::capacity) + self.blobs.capacity();
        assert!(blobs <= 2 * u32_len(self.head.blob_count), "{blobs} for {}", self.head.blob_count);
    }

    /// Its memory, including itself.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub(super) fn held(&self) -> Held {
        let tables = held::bytes::<u64>(self.blob_lens.as_ref().map_or(0, Vec::capacity))
            + held::bytes::<Bytes>(self.blobs.capacity())
            + self.blobs.iter().map(|blob| len_u64(blob.len())).sum::<u64>();
        let sections = self.first.bytes.capacity() + self.blob.bytes.capacity();
        let memory = held::bytes::<Self>(1) + len_u64(sections) + tables;
        Held { entries: 1, size: self.charge.bytes(), memory }
    }

    /// Whether a section of it is.
    pub(super) fn is_long(&self) -> bool {
        let mut sections = self.blobs.iter().map(Bytes::len).chain([self.first.bytes.len()]);
        sections.any(|len| len >= spare::LONG)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.blob_lens.as_ref().is_some_and(Vec::is_empty)
    }

    /// The marker in a complete first section; 0 if there are no tables.
    fn marker(&self) -> Result<u64, Malformed> {
        if !self.head.has_tables() {
            return Ok(0);
        }
        Fields::new(&self.first.bytes[HEAD_LEN + u32_len(self.head.body_len)..]).u64("marker")
    }

    /// The stream table of a complete first section.
    fn streams(&self) -> Result<Vec<StreamEntry>, Malformed> {
        let behind = usize::from(self.head.stream_count) * STREAM_ENTRY_LEN;
        let table = self.extension_at() - behind;
        let mut fields = Fields::new(&self.first.bytes[table..]);
        let entry = |_| {
            Ok(StreamEntry { id: fields.u64("stream table")?, window: fields.u32("stream table")? })
        };
        (0..self.head.stream_count).map(entry).collect()
    }

    /// The loans of a message. Empty until the first section is complete: the sender has not lent anything before. [wire.loans.abort]
    pub(super) fn loans(&self) -> Result<Vec<LoanEntry>, Malformed> {
        let Some(missing) = &self.blob_lens else { return Ok(Vec::new()) };
        if self.head.extension_len == 0 {
            return Ok(Vec::new());
        }
        let loans = read_extension(&self.first.bytes[self.extension_at()..])?;
        // Those that are missing follow the others, the last first.
        let count = self.blobs.len() + missing.len();
        let is_empty = |loan: &LoanEntry| {
            let index = u32_len(loan.blob);
            match self.blobs.get(index) {
                Some(blob) => blob.is_empty(),
                None => index < count && missing[count - 1 - index] == 0,
            }
        };
        if loans.iter().all(is_empty) { Ok(loans) } else { Err(Malformed("loan")) }
    }

    /// The offset of the extension in a complete first section.
    fn extension_at(&self) -> usize {
        self.first.bytes.len() - usize::from(self.head.extension_len)
    }

    pub(super) fn finish(self, header: &Header) -> Result<Incoming, Malformed> {
        let (marker, streams, loans) = (self.marker()?, self.streams()?, self.loans()?);
        let (first, blobs) = (self.first.into_bytes(), self.blobs);
        let content = Content::received(first, &self.head, marker, blobs, streams, loans);
        Ok(Incoming::message(header, self.head, content, self.charge))
    }
}
