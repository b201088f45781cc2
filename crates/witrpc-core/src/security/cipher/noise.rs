//! `with_encryption`: keys by a Noise handshake, frames by AES-256-GCM.
//!
//! `NNpsk0` where both sides have a static access token: the first message already shows whether the client knows it.
//! `NN` otherwise. snow carries out the handshake and hands over the two keys; frames are sealed by
//! [`aead`](super::aead), which has no limit of 65,535 bytes and does not copy. What snow computes with is in
//! [`primitives`].

use std::fmt;

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::security::cipher::aead::{AeadOpener, AeadSealer};
use crate::security::cipher::{CipherError, CipherPair, Encryptor, KeyAgreement, Role, Secret};

mod primitives;

use primitives::Primitives;

const WITH_SECRET: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const WITHOUT: &str = "Noise_NN_25519_ChaChaPoly_SHA256";
/// No message of these patterns is longer.
const MAX_MESSAGE: usize = 256;

/// The encryption of `with_encryption`: a Noise handshake for the keys, and AES-256-GCM for the frames.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoiseEncryptor;

impl NoiseEncryptor {
    /// Makes the default encryption.
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
        let builder = builder(prologue, secret.map(Secret::as_bytes)).map_err(failed)?;
        let state = match role {
            Role::Client => builder.build_initiator(),
            Role::Server => builder.build_responder(),
        };
        Ok(Box::new(NoiseAgreement { state: Box::new(state.map_err(failed)?), role }))
    }
}

fn builder<'a>(
    prologue: &'a [u8],
    secret: Option<&'a [u8; 32]>,
) -> Result<Builder<'a>, snow::Error> {
    let pattern = if secret.is_some() { WITH_SECRET } else { WITHOUT };
    let builder = Builder::with_resolver(pattern.parse()?, Box::new(Primitives));
    let builder = builder.prologue(prologue)?;
    match secret {
        Some(secret) => builder.psk(0, secret),
        None => Ok(builder),
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
        match read.map_err(|_| CipherError::new("the two sides have different access tokens"))? {
            0 => Ok(()),
            _ => Err(CipherError::new("a message of the key agreement has a payload")),
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
    use super::{
        CipherError, CipherPair, Encryptor, KeyAgreement, NoiseAgreement, NoiseEncryptor, Role,
        Secret, builder,
    };

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

    /// One side of an agreement whose ephemeral key is this one.
    fn with_ephemeral(key: [u8; 32], role: Role, secret: &Secret) -> Box<NoiseAgreement> {
        let builder = builder(b"p", Some(secret.as_bytes())).unwrap();
        let builder = builder.fixed_ephemeral_key_for_testing_only(&key);
        let state = match role {
            Role::Client => builder.build_initiator(),
            Role::Server => builder.build_responder(),
        };
        Box::new(NoiseAgreement { state: Box::new(state.unwrap()), role })
    }

    fn keys(agreement: Box<dyn KeyAgreement>) -> CipherPair {
        agreement.finish().unwrap().expect("keys")
    }

    /// Whoever has all that crossed, and learns the token later, lacks both ephemeral keys; either of them would do.
    #[test]
    fn who_learns_the_token_later_opens_no_recording() {
        let secret = Secret::derive("test", "token");
        let (mine, other) = ([1; 32], [2; 32]);
        let mut client = with_ephemeral(mine, Role::Client, &secret);
        let mut server = NoiseEncryptor.begin(Role::Server, b"p", Some(&secret)).unwrap();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        client.write(&mut first).unwrap();
        server.read(&first).unwrap();
        server.write(&mut second).unwrap();
        client.read(&second).unwrap();
        let mut recorded = b"text".to_vec();
        keys(client).sealer.seal(b"h", &mut recorded).unwrap();
        let (mut to_server, mut to_client) = (recorded.clone(), b"text".to_vec());
        let mut server = keys(server);
        server.opener.open(b"h", &mut to_server, 0).unwrap();
        server.sealer.seal(b"h", &mut to_client).unwrap();

        // With the client's ephemeral key the recording opens: that is what is missing.
        let mut again = with_ephemeral(mine, Role::Client, &secret);
        let mut said = Vec::new();
        again.write(&mut said).unwrap();
        assert_eq!(said, first);
        again.read(&second).unwrap();
        let mut again = keys(again);
        again.opener.open(b"h", &mut to_client.clone(), 0).unwrap();
        let mut sealed = b"text".to_vec();
        again.sealer.seal(b"h", &mut sealed).unwrap();
        assert_eq!(sealed, recorded);

        // In the client's place, with another: the recorded answer is to somebody else.
        let mut late = with_ephemeral(other, Role::Client, &secret);
        late.write(&mut Vec::new()).unwrap();
        assert!(late.read(&second).is_err());
        // In the server's place: the recorded question is good, as the token is; the keys are others.
        let mut late = with_ephemeral(other, Role::Server, &secret);
        late.read(&first).unwrap();
        late.write(&mut Vec::new()).unwrap();
        let CipherPair { mut sealer, mut opener } = keys(late);
        assert!(opener.open(b"h", &mut recorded, 0).is_err());
        let mut sealed = b"text".to_vec();
        sealer.seal(b"h", &mut sealed).unwrap();
        assert_ne!(sealed, to_client);
    }

    #[test]
    fn two_agreements_on_one_token_have_no_keys_in_common() {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let (client, server) = agree([b"p"; 2], [Some("token"); 2]).unwrap();
            for mut sealer in [client.sealer, server.sealer] {
                let mut frame = b"text".to_vec();
                sealer.seal(b"h", &mut frame).unwrap();
                assert!(!seen.contains(&frame), "the same keys");
                seen.push(frame);
            }
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

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What another implementation of Noise, cacophony, has published for these patterns: the messages of the handshake,
    /// the hash of all that was said, and a message under each of the two keys.
    #[test]
    fn messages_and_keys_are_those_of_another_implementation() {
        let psk = bytes("54686973206973206d7920417573747269616e20706572737065637469766521");
        let keys = [
            "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a",
            "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b",
        ]
        .map(bytes::<32>);
        let payloads: [&[u8]; 4] =
            [b"Ludwig von Mises", b"Murray Rothbard", b"F. A. Hayek", b"Carl Menger"];
        for (psk, hash, messages) in [
            (
                None,
                "9223fec1b892ec9d0dc2fb3bbeb261f170d1ea679f9c44ccf34aa131b4f5d97e",
                [
                    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79444c756477696720766f6e204d69736573",
                    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843a0ff96bdf86b579ef7dbf94e812a7470b903c20a85a87e3a1fe863264ae547",
                    "eb1a3e3d80c1792b1bb9cb0e1382f8d8322bfb1ca7c4c8517bb686",
                    "c781b198d2a974eb1da2c7d518c000cf6396de87ca540963c03713",
                ],
            ),
            (
                Some(&psk),
                "f4d03dc34495c95729ea6de9e1b59004b59733102488b3e24bc441e0be208eaf",
                [
                    "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c794479b962b8aff8485742ac32f905ba45369e2465fb59e138a93d67a0d1266b6a54",
                    "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843d6062704d5a9c422a8e834423f8c1feada7e8d0d910a1a2cd030fb584221e3",
                    "e632c3763d7669067383433197a3baddf146e9e70ad4b4e9e59e0f",
                    "64c6bee32ea91c8474bb4c21d7a700109ad45af77b29764ba5eb1e",
                ],
            ),
        ] {
            let [client, server] = keys.each_ref().map(|key| {
                builder(b"John Galt", psk).unwrap().fixed_ephemeral_key_for_testing_only(key)
            });
            let mut client = client.build_initiator().unwrap();
            let mut server = server.build_responder().unwrap();
            let (mut sent, mut read) = ([0; 100], [0; 100]);
            let mut written = Vec::new();
            let len = client.write_message(payloads[0], &mut sent).unwrap();
            server.read_message(&sent[..len], &mut read).unwrap();
            written.push(hex(&sent[..len]));
            let len = server.write_message(payloads[1], &mut sent).unwrap();
            client.read_message(&sent[..len], &mut read).unwrap();
            written.push(hex(&sent[..len]));
            assert_eq!(hex(client.get_handshake_hash()), hash);
            let mut client = client.into_transport_mode().unwrap();
            let mut server = server.into_transport_mode().unwrap();
            let len = client.write_message(payloads[2], &mut sent).unwrap();
            written.push(hex(&sent[..len]));
            let len = server.write_message(payloads[3], &mut sent).unwrap();
            written.push(hex(&sent[..len]));
            assert_eq!(written, messages);
        }
    }
}
