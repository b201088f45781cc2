//! What a worker is told to do before it reads anything else: a sealed file in memory. `[seg.inherited.extras]`

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use seccompiler::sock_filter;

use super::filter::Filter;

/// Raised by every change of the format.
const VERSION: u32 = 1;
/// The kernel takes no longer filter.
const MOST: u32 = 4096;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// The version of the kernel's Landlock.
    pub(super) landlock: u32,
    /// Of stage two.
    pub(super) filter: Option<Filter>,
}

impl Orders {
    fn encode(&self) -> Vec<u8> {
        let instructions = self.filter.as_ref().map_or(&[][..], |filter| &filter.0);
        let count = u32::try_from(instructions.len()).unwrap_or(u32::MAX);
        let mut bytes: Vec<u8> =
            [VERSION, self.landlock, count].iter().flat_map(|word| word.to_le_bytes()).collect();
        for sock_filter { code, jt, jf, k } in instructions {
            bytes.extend(code.to_le_bytes());
            bytes.extend([*jt, *jf]);
            bytes.extend(k.to_le_bytes());
        }
        bytes
    }

    /// `None` if it is something else.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = word(bytes)?;
        let (landlock, rest) = word(rest)?;
        let (count, rest) = word(rest)?;
        let length = usize::try_from(count).ok()?.checked_mul(INSTRUCTION)?;
        if version != VERSION || count > MOST || rest.len() != length {
            return None;
        }
        let instructions: Vec<_> = rest.chunks_exact(INSTRUCTION).map(instruction).collect();
        let filter = (!instructions.is_empty()).then_some(Filter(instructions));
        Some(Self { landlock, filter })
    }

    /// Writes it to a file that nobody can change, and that is closed on exec.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("witrpc-sandbox", flags)?);
        file.write_all(&self.encode())?;
        file.rewind()?;
        let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        fcntl_add_seals(&file, all)?;
        Ok(file.into())
    }

    /// Reads it.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is something else; whatever the system says.
    pub(super) fn read(from: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(from);
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Self::decode(&bytes).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the orders are those of another version of witrpc",
            )
        })
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

fn instruction(bytes: &[u8]) -> sock_filter {
    let [c0, c1, jt, jf, k @ ..] = bytes else { unreachable!("there are {INSTRUCTION}") };
    let k = k.try_into().map(u32::from_le_bytes).unwrap_or_default();
    sock_filter { code: u16::from_le_bytes([*c0, *c1]), jt: *jt, jf: *jf, k }
}

#[cfg(test)]
mod tests {
    use super::super::filter::{Opening, Stage};
    use super::*;

    #[test]
    fn orders_are_what_the_document_says_and_come_back() {
        let filter = Filter(vec![sock_filter { code: 0x0102, jt: 3, jf: 4, k: 0x0506_0708 }]);
        let orders = Orders { landlock: 7, filter: Some(filter) };
        let bytes = [1, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 4, 8, 7, 6, 5];
        assert_eq!(orders.encode(), bytes);
        assert_eq!(Orders::decode(&bytes), Some(orders));
        let real = Filter::compile(Stage::Two, Opening::ForWriting).unwrap();
        for orders in
            [Orders { landlock: 0, filter: Some(real) }, Orders { landlock: 9, filter: None }]
        {
            let read = Orders::read(orders.write().unwrap()).unwrap();
            assert_eq!(read, orders);
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let good = Orders { landlock: 1, filter: None }.encode();
        for length in 0..good.len() {
            assert_eq!(Orders::decode(&good[..length]), None, "{length}");
        }
        let changed = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            Orders::decode(&bytes)
        };
        assert_eq!((changed(0), changed(8), changed(11)), (None, None, None));
        let longer = [&good[..], &[0]].concat();
        assert_eq!(Orders::decode(&longer), None);
    }

    #[test]
    fn nobody_can_change_orders() {
        let orders = Orders { landlock: 1, filter: None };
        let file = File::from(orders.write().unwrap());
        assert!((&file).write_all(b"x").is_err() && file.set_len(1).is_err());
        assert_eq!(Orders::read(file.into()).unwrap(), orders);
    }
}
