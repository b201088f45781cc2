//! A message being put together from its chunks.

use bytes::Bytes;

use super::{FIRST_RESERVE, Incoming, protocol};
use crate::error::Error;
use crate::frame::Header;
use crate::ledger::Charge;
use crate::message::{Content, HEAD_LEN, Head, STREAM_ENTRY_LEN, StreamEntry};
use crate::wire::{Fields, Malformed, len_u64, u32_len, u64_len};

/// A message being put together.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) head: Head,
    pub(super) first_len: u64,
    /// Head, body, tables.
    pub(super) first: Vec<u8>,
    /// Known once `first` is complete; the lengths of the blobs still to come, last first.
    pub(super) blob_lens: Option<Vec<u64>>,
    pub(super) blobs: Vec<Bytes>,
    /// The blob that is arriving.
    pub(super) blob: Vec<u8>,
    pub(super) charge: Charge,
    /// What it has of [`AHEAD`](super::AHEAD).
    pub(super) ahead: usize,
}

impl Partial {
    pub(super) fn new(head: Head, first: Vec<u8>, charge: Charge) -> Self {
        let first_len = head.first_section_len();
        let (blobs, blob) = (Vec::new(), Vec::new());
        Self { head, first_len, first, blob_lens: None, blobs, blob, charge, ahead: 0 }
    }

    /// Where the next `len` bytes go, with room for them and for the seal behind them.
    pub(super) fn section(
        &mut self,
        len: usize,
        overhead: usize,
        ahead: &mut usize,
    ) -> Result<&mut Vec<u8>, Error> {
        let (section, total) = match &self.blob_lens {
            None => (&mut self.first, self.first_len),
            Some(lens) => (&mut self.blob, lens.last().copied().unwrap_or(0)),
        };
        let rest = u64_len(total).saturating_sub(section.len());
        if len == 0 || len > rest {
            return Err(protocol("a message's length differs from what it declared"));
        }
        if section.capacity() - section.len() < len + overhead {
            // N1: `len` bytes are there; beyond them, as much again as there is, and some ahead.
            let earned = rest.min(section.len().max(FIRST_RESERVE)).max(len);
            let more = (rest - earned).min(*ahead);
            *ahead -= more;
            self.ahead += more;
            section.reserve_exact(earned + more + overhead);
        }
        Ok(section)
    }

    /// Reads the blob table, in a first section that is complete; returns the sum of the lengths.
    pub(super) fn read_table(&mut self) -> Result<u64, Error> {
        let table = HEAD_LEN + u32_len(self.head.body_len);
        let mut fields = Fields::new(&self.first[table..]);
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

    /// Moves blobs that are complete, the empty ones too, to their place.
    pub(super) fn step_blobs(&mut self) {
        let Some(lens) = &mut self.blob_lens else { return };
        while lens.last().is_some_and(|len| *len == len_u64(self.blob.len())) {
            lens.pop();
            self.blobs.push(Bytes::from(std::mem::take(&mut self.blob)));
        }
    }

    /// Asserts N1, and returns what this has of [`AHEAD`](super::AHEAD).
    #[cfg(any(test, fuzzing))]
    pub(super) fn check(&self) -> usize {
        for section in [&self.first, &self.blob] {
            let (held, most) = (section.capacity(), 2 * section.len() + FIRST_RESERVE + self.ahead);
            assert!(held <= most + 64, "{held} bytes for {}", section.len());
        }
        let blobs = self.blob_lens.as_ref().map_or(0, Vec::capacity) + self.blobs.capacity();
        assert!(blobs <= 2 * u32_len(self.head.blob_count), "{blobs} for {}", self.head.blob_count);
        self.ahead
    }

    pub(super) fn is_complete(&self) -> bool {
        self.blob_lens.as_ref().is_some_and(Vec::is_empty)
    }

    /// The stream table, in a first section that is complete.
    fn streams(&self) -> Result<Vec<StreamEntry>, Malformed> {
        let table = self.first.len() - u32_len(self.head.stream_count) * STREAM_ENTRY_LEN;
        let mut fields = Fields::new(&self.first[table..]);
        let entry = |_| {
            Ok(StreamEntry { id: fields.u64("stream table")?, window: fields.u32("stream table")? })
        };
        (0..self.head.stream_count).map(entry).collect()
    }

    pub(super) fn finish(self, header: &Header) -> Result<Incoming, Malformed> {
        let streams = self.streams()?;
        let content = Content::received(self.first, &self.head, self.blobs, streams);
        Ok(Incoming::message(header, self.head, content, self.charge))
    }
}
