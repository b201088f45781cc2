//! The primitives of `Noise_…_25519_ChaChaPoly_SHA256` for snow, from the versions of RustCrypto's crates that the rest of
//! the library uses. Those of snow's own resolver are a version older, so a dozen crates would be built twice. The
//! private key and the keys of ciphers are wiped when they are dropped.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use curve25519_dalek::MontgomeryPoint;
use sha2::{Digest, Sha256};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

const TAG_LEN: usize = 16;

/// Tells snow of these and of no others.
pub(super) struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(System))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as _)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha(Sha256::new())) as _)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as _)
    }
}

/// The system's random numbers.
struct System;

impl Random for System {
    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(into).map_err(|_| Error::Rng)
    }
}

/// RFC 7748.
#[derive(Default)]
struct X25519 {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = MontgomeryPoint::mul_base_clamped(*self.private).to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        random.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        // What comes is as long as the longest that snow knows.
        let public = MontgomeryPoint(*public.first_chunk().ok_or(Error::Dh)?);
        out[..32].copy_from_slice(public.mul_clamped(*self.private).as_bytes());
        Ok(())
    }
}

struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        Digest::reset(&mut self.0);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

#[derive(Default)]
struct ChaChaPoly(Zeroizing<[u8; 32]>);

impl ChaChaPoly {
    /// With it, the nonce of this number: four zero bytes, and the number in little-endian order.
    fn keyed(&self, number: u64) -> (ChaCha20Poly1305, Nonce) {
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        (ChaCha20Poly1305::new((&*self.0).into()), nonce)
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self.0 = *key;
    }

    fn encrypt(&self, number: u64, header: &[u8], text: &[u8], out: &mut [u8]) -> usize {
        let (cipher, nonce) = self.keyed(number);
        let (sealed, tag) = out[..text.len() + TAG_LEN].split_at_mut(text.len());
        sealed.copy_from_slice(text);
        let made = cipher.encrypt_inout_detached(&nonce, header, sealed.into());
        tag.copy_from_slice(&made.expect("messages of Noise are short"));
        text.len() + TAG_LEN
    }

    fn decrypt(
        &self,
        number: u64,
        header: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (cipher, nonce) = self.keyed(number);
        let (sealed, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let text = &mut out[..sealed.len()];
        text.copy_from_slice(sealed);
        cipher
            .decrypt_inout_detached(&nonce, header, text.into(), &Tag::from(*tag))
            .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}
