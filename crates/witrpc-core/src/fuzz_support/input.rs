//! A fuzzer's bytes, read as decisions.

/// Numbers at which something changes.
const SPECIAL: [u64; 16] = [
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 63) - 1,
    1 << 32,
    (1 << 32) - 1,
    1 << 31,
    (1 << 31) - 1,
    1 << 20,
    1 << 16,
    4096,
    1024,
    1008,
    1000,
    512,
    256,
];

/// Bytes taken from the front; past their end there are zeros, so a zero must stand for the ordinary.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// A small number, one at which something changes, or any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=0xDF => u64::from(small),
            special @ 0xE0..=0xEF => SPECIAL[usize::from(special - 0xE0)],
            _ => u64::from_le_bytes(self.array()),
        }
    }

    /// A length below `bound`.
    pub fn len(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound
    }

    /// Up to so many bytes; fewer at the end.
    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length, and that many bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = self.byte();
        self.take(usize::from(len))
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }
}
