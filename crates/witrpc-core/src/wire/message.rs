//! The head of a message, and the size of each of its parts, as `docs/wire.md` specifies them.

use crate::wire::fields::{Fields, Malformed, Put};

/// Bytes of the head of every message. [wire.head]
pub const HEAD_LEN: usize = 24;
/// Bytes of the marker in front of the tables, in a message that has any. [wire.blobs]
pub const MARKER_LEN: usize = 8;
/// Bytes of one entry of the blob table: a `u64` length. [wire.blobs]
pub const BLOB_ENTRY_LEN: usize = 8;
/// Bytes of one entry of the stream table: an id and a window. [wire.streams]
pub const STREAM_ENTRY_LEN: usize = 12;
/// What a blob counts in addition to its bytes, in the size of its message: at least what both sides hold for it. [wire.size]
pub const BLOB_COST: u64 = 64;
/// What a stream counts in the size of its message: at least what both sides keep for it. [wire.size]
pub const STREAM_COST: u64 = 512;
/// Streams that an event's value or a stream's item can have: its receiver asks for what they stand for as soon as it takes the value.
/// [wire.streams]
pub const MAX_STREAMS_OF_VALUE: u16 = 64;

/// The fixed part in front of a message's body. [wire.head]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the serialized body.
    pub body_len: u32,
    /// Entries of the stream table behind the blob table.
    pub stream_count: u16,
    /// Bytes of the extension behind the tables. Requests and responses only. [wire.extension]
    pub extension_len: u16,
    /// Entries of the blob table behind the body.
    pub blob_count: u32,
    /// Request: the service's index. Response, stream end: the status. Otherwise 0.
    pub selector: u16,
    /// Request: the method's index. Otherwise 0.
    pub member: u16,
    /// Request: the deadline on the receiver's clock, in nanoseconds; 0 is none. Event, stream item: its number.
    /// Otherwise 0.
    pub stamp: u64,
}

impl Head {
    #[inline]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..4].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.stream_count.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.extension_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.blob_count.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.selector.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.member.to_le_bytes());
        bytes[16..].copy_from_slice(&self.stamp.to_le_bytes());
        bytes
    }

    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // Of a fixed length, so that its fields are read without asking each time.
        let bytes: &[u8; HEAD_LEN] = bytes.first_chunk().ok_or(Malformed("message head"))?;
        let mut fields = Fields::new(bytes);
        Ok(Self {
            body_len: fields.u32("message head")?,
            stream_count: fields.u16("message head")?,
            extension_len: fields.u16("message head")?,
            blob_count: fields.u32("message head")?,
            selector: fields.u16("message head")?,
            member: fields.u16("message head")?,
            stamp: fields.u64("message head")?,
        })
    }

    /// Whether there are tables behind the body.
    #[inline]
    pub const fn has_tables(&self) -> bool {
        self.blob_count > 0 || self.stream_count > 0
    }

    /// Whether there is nothing behind the body.
    #[inline]
    pub const fn is_plain(&self) -> bool {
        !self.has_tables() && self.extension_len == 0
    }

    /// Bytes of the marker and the two tables.
    #[inline]
    pub const fn tables_len(&self) -> u64 {
        if !self.has_tables() {
            return 0;
        }
        MARKER_LEN as u64
            + self.blob_count as u64 * BLOB_ENTRY_LEN as u64
            + self.stream_count as u64 * STREAM_ENTRY_LEN as u64
    }

    /// The message's size without the bytes of its blobs. [wire.size]
    #[inline]
    pub const fn size_without_blob_bytes(&self) -> u64 {
        self.body_len as u64
            + self.extension_len as u64
            + self.blob_count as u64 * BLOB_COST
            + self.stream_count as u64 * STREAM_COST
    }

    /// Bytes of the message's first section: head, body, tables and extension.
    #[inline]
    pub const fn first_section_len(&self) -> u64 {
        HEAD_LEN as u64 + self.body_len as u64 + self.tables_len() + self.extension_len as u64
    }
}

/// A stream as the table of its message has it. [wire.streams]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// The producing side's number for it.
    pub id: u64,
    /// The most items that the producer wants to be ahead; 0 if it does not say.
    pub window: u32,
}

/// A blob that crosses as a reference. [wire.loans]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanEntry {
    /// The index of the blob. Its length in the table of blobs is 0.
    pub blob: u32,
    /// Whether the receiver of the message has lent the memory, and the sender of the message refers to that loan.
    pub of_receiver: bool,
    /// The number of the loan, which its lender has given it.
    pub loan: u64,
    /// Where the bytes begin in the lender's arena.
    pub offset: u64,
    /// How many they are: at least one.
    pub len: u64,
}

/// The kind of an entry of an extension that is a loan. [wire.loans]
const LOAN: u16 = 1;
/// Bytes of a loan's entry behind its kind and length.
const LOAN_LEN: u16 = 32;
/// Bytes of a loan in an extension.
pub const LOAN_ENTRY_LEN: usize = 4 + LOAN_LEN as usize;
/// The maximum number of loans in a message: what an extension has room for.
pub const MAX_LOANS: usize = u16::MAX as usize / LOAN_ENTRY_LEN;

impl LoanEntry {
    /// Appends the entry to an extension.
    pub fn encode(&self, extension: &mut Vec<u8>) {
        extension.put_u16(LOAN);
        extension.put_u16(LOAN_LEN);
        extension.put_u32(self.blob);
        extension.put_u32(u32::from(self.of_receiver));
        extension.put_u64(self.loan);
        extension.put_u64(self.offset);
        extension.put_u64(self.len);
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let blob = fields.u32("loan")?;
        let of_receiver = match fields.u32("loan")? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("loan")),
        };
        let (loan, offset) = (fields.u64("loan")?, fields.u64("loan")?);
        let entry = Self { blob, of_receiver, loan, offset, len: fields.u64("loan")? };
        fields.end("loan")?;
        if entry.len == 0 {
            return Err(Malformed("loan"));
        }
        Ok(entry)
    }
}

/// Reads the extension of a message: entries, each with its kind, its length and its bytes. Features that both sides have say what an
/// entry of their kind means; one of another kind is passed over. Returns the loans. [wire.extension]
///
/// # Errors
///
/// The entries are not what they say.
#[inline]
pub fn read_extension(extension: &[u8]) -> Result<Vec<LoanEntry>, Malformed> {
    let (mut fields, mut loans) = (Fields::new(extension), Vec::new());
    while !fields.is_empty() {
        let kind = fields.u16("message extension")?;
        let len = fields.u16("message extension")?;
        let entry = fields.take(usize::from(len), "message extension")?;
        if kind == LOAN {
            let entry = LoanEntry::decode(entry)?;
            if loans.last().is_some_and(|last: &LoanEntry| last.blob >= entry.blob) {
                return Err(Malformed("loan"));
            }
            loans.push(entry);
        }
    }
    Ok(loans)
}

#[cfg(test)]
mod tests {
    use super::{HEAD_LEN, Head, LOAN_ENTRY_LEN, LoanEntry, read_extension};

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn extension_is_frozen() {
        let extension = [7, 0, 3, 0, b'a', b'b', b'c', 8, 0, 0, 0];
        assert_eq!(read_extension(&extension), Ok(Vec::new()));
        for cut in [1, 2, 3, 4, 5, 6, 8, 9, 10] {
            assert!(read_extension(&extension[..cut]).is_err(), "{cut}");
        }
        let head = Head { body_len: 5, extension_len: 11, ..Head::default() };
        assert_eq!(head.encode()[..8], [5, 0, 0, 0, 0, 0, 11, 0]);
        assert_eq!(head.first_section_len(), HEAD_LEN as u64 + 5 + 11);
        assert_eq!(head.size_without_blob_bytes(), 5 + 11);
        assert!(!head.is_plain() && !head.has_tables());
        assert_eq!(Head::decode(&head.encode()), Ok(head));
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn loan_is_frozen() {
        let loan =
            LoanEntry { blob: 1, of_receiver: false, loan: 7, offset: 0x2000, len: 0x0010_0000 };
        let mut extension = Vec::new();
        loan.encode(&mut extension);
        let expected = [
            1, 0, 32, 0, // kind, length
            1, 0, 0, 0, 0, 0, 0, 0, // blob, whose memory
            7, 0, 0, 0, 0, 0, 0, 0, // loan
            0, 0x20, 0, 0, 0, 0, 0, 0, // offset
            0, 0, 0x10, 0, 0, 0, 0, 0, // length
        ];
        assert_eq!(extension, expected);
        assert_eq!(extension.len(), LOAN_ENTRY_LEN);
        assert_eq!(read_extension(&extension), Ok(vec![loan]));
        let with = |at: usize, byte| {
            let mut extension = extension.clone();
            extension[at] = byte;
            read_extension(&extension)
        };
        assert_eq!(with(8, 1), Ok(vec![LoanEntry { of_receiver: true, ..loan }]));
        assert!(with(8, 2).is_err(), "nobody's memory");
        assert!(with(30, 0).is_err(), "a length of 0, and bytes behind it");
        assert!(with(2, 31).is_err() && with(2, 33).is_err(), "another length");
        let twice = extension.repeat(2);
        assert!(read_extension(&twice).is_err(), "two loans for one blob");
    }
}
