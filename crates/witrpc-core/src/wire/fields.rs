//! Little-endian, fixed-width reading and writing of the fields in `docs/wire.md`.
//!
//! [`Fields`] never panics on what a peer sent: running out of bytes is [`Malformed`]. It allocates no more than the
//! bytes it was given.

use crate::error::Error;

/// A body that does not follow its table in `docs/wire.md`; the text names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl From<Malformed> for Error {
    fn from(Malformed(field): Malformed) -> Self {
        Self::Protocol(format!("malformed {field}"))
    }
}

/// Reads one field after another from a received body.
#[derive(Clone, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// A `u32` length and that many bytes.
    pub fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.u32(field)?;
        self.take(usize::try_from(len).map_err(|_| Malformed(field))?, field)
    }

    /// [`bytes`](Self::bytes) that are UTF-8.
    pub fn text(&mut self, field: &'static str) -> Result<String, Malformed> {
        let bytes = self.bytes(field)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed(field))
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub const fn end(&self, body: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(body)) }
    }
}

/// Appends fields to a body.
pub trait Put {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    /// A `u32` length and the bytes. What is longer than `u32` can say is cut; nothing we send comes near that.
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.put_u32(len);
        self.extend_from_slice(&bytes[..bytes.len().min(u32_len(len))]);
    }
}

/// A `u32` from the wire as a length in memory; saturates on targets whose `usize` is smaller.
pub fn u32_len(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A `u64` from the wire as a length in memory; saturates on targets whose `usize` is smaller.
pub fn u64_len(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length in memory as it goes on the wire. Lossless on every target that Rust's std supports.
pub fn len_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
