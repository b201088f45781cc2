//! AES-256-GCM for one direction: a counter as the nonce, and a new key every so many frames.
//!
//! The number of a frame is never sent: both sides count, so a frame that is dropped, repeated, reordered or reflected
//! does not open. Keys follow each other as Noise's `Rekey` says (The Noise Protocol Framework, revision 34, 11.3), at
//! fixed numbers, so nothing has to be announced.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::Zeroizing;

use crate::security::cipher::{CipherError, Opener, Sealer};

/// Bytes of a tag.
const TAG_LEN: usize = 16;
/// Frames per key, the soft limit: with frames of 48 KiB less than 2^32 blocks, where the bounds for AES-GCM leave an
/// attacker a chance below 2^-57 (RFC 9001, appendix B.1, asks for no more than 2^23 packets of 2^11 blocks).
const FRAMES_PER_KEY: u64 = 1 << 20;
/// Frames per connection, the hard limit: years at any speed, and far from where the counter would wrap.
const MAX_FRAMES: u64 = 1 << 60;

/// A key, and the number of the next frame.
struct Counter {
    cipher: Aes256Gcm,
    key: Zeroizing<[u8; 32]>,
    next: u64,
    frames_per_key: u64,
    max_frames: u64,
}

impl Counter {
    fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let cipher = Aes256Gcm::new((&*key).into());
        Self { cipher, key, next: 0, frames_per_key: FRAMES_PER_KEY, max_frames: MAX_FRAMES }
    }

    /// The next nonce; a new key first, if it is time. [wire.rekey]
    fn advance(&mut self) -> Result<Nonce<aes_gcm::aead::consts::U12>, CipherError> {
        if self.next >= self.max_frames {
            return Err(CipherError::new("the connection has used up its keys: connect again"));
        }
        if self.next > 0 && self.next % self.frames_per_key == 0 {
            self.rekey()?;
        }
        let nonce = nonce(self.next);
        self.next += 1;
        Ok(nonce)
    }

    fn rekey(&mut self) -> Result<(), CipherError> {
        let mut key = Zeroizing::new([0; 32]);
        let at_the_end = nonce(u64::MAX);
        self.cipher
            .encrypt_inout_detached(&at_the_end, &[], key.as_mut_slice().into())
            .map_err(|_| CipherError::new("the next key could not be derived"))?;
        self.cipher = Aes256Gcm::new((&*key).into());
        self.key = key;
        Ok(())
    }
}

/// Four zero bytes and the number, as Noise has it for AES-GCM, in the byte order of the wire. [wire.seal]
fn nonce(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce.into()
}

/// Seals one direction.
pub(super) struct AeadSealer(Counter);

impl AeadSealer {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(Counter::new(key))
    }
}

impl Sealer for AeadSealer {
    fn overhead(&self) -> usize {
        TAG_LEN
    }

    fn seal(&mut self, header: &[u8], payload: &mut Vec<u8>) -> Result<(), CipherError> {
        let nonce = self.0.advance()?;
        let tag = self
            .0
            .cipher
            .encrypt_inout_detached(&nonce, header, payload.as_mut_slice().into())
            .map_err(|_| CipherError::new("a frame is too long to encrypt"))?;
        payload.extend_from_slice(&tag);
        Ok(())
    }
}

/// Opens one direction.
pub(super) struct AeadOpener(Counter);

impl AeadOpener {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(Counter::new(key))
    }
}

impl Opener for AeadOpener {
    fn overhead(&self) -> usize {
        TAG_LEN
    }

    fn open(
        &mut self,
        header: &[u8],
        payload: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), CipherError> {
        let forged = || {
            CipherError::new(
                "a frame was not encrypted by the peer, or was changed, repeated, dropped or reordered",
            )
        };
        let nonce = self.0.advance()?;
        let sealed = payload.get_mut(from..).ok_or_else(forged)?;
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or_else(forged)?;
        let tag = Tag::from(*tag);
        self.0
            .cipher
            .decrypt_inout_detached(&nonce, header, text.into(), &tag)
            .map_err(|_| forged())?;
        payload.truncate(payload.len() - TAG_LEN);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::AeadOpener;
    use super::AeadSealer;
    use super::Opener;
    use super::Sealer;
    use super::TAG_LEN;
    use super::Zeroizing;

    fn pair() -> (AeadSealer, AeadOpener) {
        let key = || Zeroizing::new([7; 32]);
        (AeadSealer::new(key()), AeadOpener::new(key()))
    }

    fn sealed(sealer: &mut AeadSealer, text: &[u8]) -> Vec<u8> {
        let mut payload = text.to_vec();
        sealer.seal(b"header", &mut payload).unwrap();
        payload
    }

    #[test]
    fn what_was_sealed_opens_behind_whatever_stands_in_front() {
        let (mut sealer, mut opener) = pair();
        for text in [&b""[..], b"x", &[9; 40_000]] {
            let frame = sealed(&mut sealer, text);
            assert_eq!(frame.len(), text.len() + TAG_LEN);
            let mut payload = [b"front", &frame[..]].concat();
            opener.open(b"header", &mut payload, 5).unwrap();
            assert!(payload == [b"front", text].concat());
        }
    }

    #[test]
    fn any_bit_flipped_anywhere_is_noticed() {
        let (mut sealer, _) = pair();
        let frame = sealed(&mut sealer, b"text");
        for bit in 0..frame.len() * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(pair().1.open(b"header", &mut forged, 0).is_err(), "bit {bit}");
        }
        for bit in 0..6 * 8 {
            let mut header = *b"header";
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(pair().1.open(&header, &mut frame.clone(), 0).is_err(), "header bit {bit}");
        }
    }

    #[test]
    fn replayed_reordered_dropped_and_cut_frames_do_not_open() {
        let (mut sealer, _) = pair();
        let (first, second) = (sealed(&mut sealer, b"1"), sealed(&mut sealer, b"2"));
        let (_, mut opener) = pair();
        assert!(opener.open(b"header", &mut second.clone(), 0).is_err());
        let (_, mut opener) = pair();
        opener.open(b"header", &mut first.clone(), 0).unwrap();
        assert!(opener.open(b"header", &mut first.clone(), 0).is_err());
        for len in 0..TAG_LEN {
            assert!(pair().1.open(b"header", &mut first[..len].to_vec(), 0).is_err());
        }
        assert!(pair().1.open(b"header", &mut first.clone(), 100).is_err());
    }

    #[test]
    fn keys_change_on_both_sides_at_once_and_end_at_the_hard_limit() {
        let (mut sealer, mut opener) = pair();
        for counter in [&mut sealer.0, &mut opener.0] {
            (counter.frames_per_key, counter.max_frames) = (3, 10);
        }
        let mut keys = vec![*sealer.0.key];
        for _ in 0..10 {
            let mut frame = sealed(&mut sealer, b"text");
            opener.open(b"header", &mut frame, 0).unwrap();
            assert_eq!(sealer.0.key, opener.0.key);
            if keys.last() != Some(&*sealer.0.key) {
                keys.push(*sealer.0.key);
            }
        }
        assert_eq!(keys.len(), 4);
        assert!(sealer.seal(b"header", &mut Vec::new()).is_err());
        assert!(opener.open(b"header", &mut vec![0; 16], 0).is_err());
    }

    /// Frozen: what `docs/wire.md` shows, so that another implementation can be checked against it.
    #[test]
    fn the_nonce_is_frozen() {
        assert_eq!(super::nonce(0x0102)[..], [0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
    }
}
