//! `with_encryption`: keys by a Noise handshake, frames by AES-256-GCM.
//!
//! `NNpsk0` where both sides have a static access token: the first message already shows whether the client knows it.
//! `NN` otherwise. snow carries out the handshake and hands over the two keys; frames are sealed by
//! [`aead`](super::aead), which has no limit of 65,535 bytes and does not copy.

use std::fmt;

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::aead::{AeadOpener, AeadSealer};
use super::{CipherError, CipherPair, Encryptor, KeyAgreement, Role, Secret};

const WITH_SECRET: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const WITHOUT: &str = "Noise_NN_25519_ChaChaPoly_SHA256";
/// No message of these patterns is longer.
const MAX_MESSAGE: usize = 256;

/// Noise for the keys, AES-256-GCM for the frames.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoiseEncryptor;

impl NoiseEncryptor {
    /// The default encryption.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Encryptor for NoiseEncryptor {
    fn name(&self) -> &'static str {
        "noise-aes-256-gcm"
    }

    fn begin(
        &self,
        role: Role,
        prologue: &[u8],
        secret: Option<&Secret>,
    ) -> Result<Box<dyn KeyAgreement>, CipherError> {
        let pattern = if secret.is_some() { WITH_SECRET } else { WITHOUT };
        let mut builder = Builder::new(pattern.parse().map_err(failed)?);
        builder = builder.prologue(prologue).map_err(failed)?;
        if let Some(secret) = secret {
            builder = builder.psk(0, secret.as_bytes()).map_err(failed)?;
        }
        let state = match role {
            Role::Client => builder.build_initiator(),
            Role::Server => builder.build_responder(),
        };
        Ok(Box::new(NoiseAgreement { state: Box::new(state.map_err(failed)?), role }))
    }
}

struct NoiseAgreement {
    state: Box<HandshakeState>,
    role: Role,
}

impl fmt::Debug for NoiseAgreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseAgreement").field("role", &self.role).finish_non_exhaustive()
    }
}

impl KeyAgreement for NoiseAgreement {
    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), CipherError> {
        let mut message = [0; MAX_MESSAGE];
        let len = self.state.write_message(&[], &mut message).map_err(failed)?;
        out.extend_from_slice(&message[..len]);
        Ok(())
    }

    fn read(&mut self, message: &[u8]) -> Result<(), CipherError> {
        let mut payload = [0; MAX_MESSAGE];
        let read = self.state.read_message(message, &mut payload);
        match read.map_err(|_| CipherError::new("the other side has another access token"))? {
            0 => Ok(()),
            _ => Err(CipherError::new("a payload in the key agreement")),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Option<CipherPair>, CipherError> {
        if !self.state.is_handshake_finished() {
            return Err(CipherError::new("the key agreement is not complete"));
        }
        // The keys of Noise's two cipher states: the first is the initiator's to seal with.
        let (to_server, to_client) = self.state.dangerously_get_raw_split();
        let (to_server, to_client) = (Zeroizing::new(to_server), Zeroizing::new(to_client));
        let (seal, open) = match self.role {
            Role::Client => (to_server, to_client),
            Role::Server => (to_client, to_server),
        };
        Ok(Some(CipherPair {
            sealer: Box::new(AeadSealer::new(seal)),
            opener: Box::new(AeadOpener::new(open)),
        }))
    }
}

fn failed(error: snow::Error) -> CipherError {
    CipherError::new(error)
}

#[cfg(test)]
mod tests {
    use super::{CipherError, CipherPair, Encryptor, NoiseEncryptor, Role, Secret};

    fn agree(
        prologues: [&[u8]; 2],
        tokens: [Option<&str>; 2],
    ) -> Result<(CipherPair, CipherPair), CipherError> {
        let secrets = tokens.map(|token| token.map(|token| Secret::derive("test", token)));
        let mut client = NoiseEncryptor.begin(Role::Client, prologues[0], secrets[0].as_ref())?;
        let mut server = NoiseEncryptor.begin(Role::Server, prologues[1], secrets[1].as_ref())?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        client.write(&mut first)?;
        server.read(&first)?;
        server.write(&mut second)?;
        client.read(&second)?;
        let (Some(client), Some(server)) = (client.finish()?, server.finish()?) else {
            panic!("no keys");
        };
        Ok((client, server))
    }

    #[test]
    fn both_sides_have_the_keys_and_no_frame_is_reflected() {
        for token in [None, Some("token")] {
            let (mut client, mut server) = agree([b"p"; 2], [token; 2]).unwrap();
            let mut frame = b"text".to_vec();
            client.sealer.seal(b"h", &mut frame).unwrap();
            server.opener.open(b"h", &mut frame, 0).unwrap();
            assert_eq!(frame, b"text");
            server.sealer.seal(b"h", &mut frame).unwrap();
            client.opener.open(b"h", &mut frame, 0).unwrap();
            // The client's next frame, sent back to it.
            client.sealer.seal(b"h", &mut frame).unwrap();
            assert!(client.opener.open(b"h", &mut frame, 0).is_err(), "reflected");
        }
    }

    #[test]
    fn another_token_or_prologue_is_noticed() {
        assert!(agree([b"p"; 2], [Some("a"), Some("b")]).is_err());
        assert!(agree([b"p"; 2], [Some("a"), None]).is_err());
        assert!(agree([b"p"; 2], [None, Some("a")]).is_err());
        assert!(agree([b"p", b"q"], [None; 2]).is_err());
        assert!(agree([b"p", b"q"], [Some("a"); 2]).is_err());
    }

    #[test]
    fn garbage_is_an_error_at_any_length() {
        let secret = Secret::derive("test", "token");
        for len in 0..300 {
            let mut server = NoiseEncryptor.begin(Role::Server, b"", Some(&secret)).unwrap();
            assert!(server.read(&vec![0x5A; len]).is_err());
        }
    }
}
