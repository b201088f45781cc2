//! The four messages that open a session, as bodies: hello, accept, confirm, welcome.
//!
//! Pure. Hello and accept are sent before there are keys. The hello is the prologue of the key agreement, and the proof of a token covers
//! both, so that a change is detected. Limits and catalogs are in confirm and welcome, which are sealed if the connection is.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::Error;
use crate::limits::Limits;
use crate::wire::catalog::Catalog;
use crate::wire::fields::{Fields, Malformed, Put};
use crate::wire::status::text;

/// The version of everything in `docs/wire.md`.
pub const WIRE_VERSION: u32 = 2;

/// Bytes of the random number that each side contributes.
pub const NONCE_LEN: usize = 32;

/// What the two sides must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub serializer: String,
    pub cipher: String,
    pub authorization: String,
}

impl Terms {
    /// Compares the client's terms with ours, the server's.
    pub fn accept(&self, client: &Self) -> Result<(), Refusal> {
        let differs = |what: &str, ours: &str, theirs: &str, how: &str| {
            Err(Refusal::Incompatible(format!(
                "the server's {what} is {ours:?} and the client's is {theirs:?}; {how}"
            )))
        };
        if self.serializer != client.serializer {
            let how = "give both builders the same serializer";
            return differs("serializer", &self.serializer, &client.serializer, how);
        }
        if self.cipher != client.cipher {
            let how = if self.cipher == "none" {
                "add with_encryption() to the server, or remove it from the client"
            } else if client.cipher == "none" {
                "add with_encryption() to the client, or remove it from the server"
            } else {
                "give both builders the same encryptor"
            };
            return differs("encryption", &self.cipher, &client.cipher, how);
        }
        if self.authorization != client.authorization {
            let (_, server) = Scheme::words(&self.authorization);
            let (client, _) = Scheme::words(&client.authorization);
            return Err(Refusal::Unauthorized(format!(
                "the server uses {server} and the client {client}; use the same kind of authorization on both sides"
            )));
        }
        Ok(())
    }
}

/// The client's first message. [wire.hello]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u32,
    /// The client's clock, in nanoseconds.
    pub clock: u64,
    /// Random, so that no two transcripts are the same.
    pub nonce: [u8; NONCE_LEN],
    pub terms: Terms,
    /// Features of the client in addition to those of every build of this version. [wire.features]
    pub features: Vec<String>,
    /// The first message of the key agreement; everything before it is its prologue.
    pub key: Vec<u8>,
}

impl Hello {
    /// The body without the key.
    pub fn encode_prologue(&self, out: &mut Vec<u8>) {
        out.put_u32(self.version);
        out.put_u64(self.clock);
        out.extend_from_slice(&self.nonce);
        out.put_bytes(self.terms.serializer.as_bytes());
        out.put_bytes(self.terms.cipher.as_bytes());
        out.put_bytes(self.terms.authorization.as_bytes());
        put_features(out, &self.features);
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_prologue(out);
        out.put_bytes(&self.key);
    }

    /// Reads no further than the version if that is not ours.
    pub fn decode(body: &[u8]) -> Result<Result<Self, Refusal>, Malformed> {
        let mut fields = Fields::new(body);
        let version = fields.u32("hello version")?;
        if version != WIRE_VERSION {
            return Ok(Err(Refusal::Incompatible(format!(
                "the server has wire version {WIRE_VERSION} and the client {version}; \
                 build both with the same version of witrpc"
            ))));
        }
        let hello = Self {
            version,
            clock: fields.u64("hello clock")?,
            nonce: fields.array("hello nonce")?,
            terms: Terms {
                serializer: fields.text("hello serializer")?,
                cipher: fields.text("hello cipher")?,
                authorization: fields.text("hello authorization")?,
            },
            features: take_features(&mut fields, "hello features")?,
            key: fields.bytes("hello key")?.to_vec(),
        };
        fields.end("hello")?;
        Ok(Ok(hello))
    }
}

/// The server's answer to a hello that it can work with. [wire.accept]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    /// The server's clock, in nanoseconds.
    pub clock: u64,
    /// Random, so that no two transcripts are the same.
    pub nonce: [u8; NONCE_LEN],
    /// What of the client's features the server has too: these are in force. [wire.features]
    pub features: Vec<String>,
    /// The second message of the key agreement.
    pub key: Vec<u8>,
}

impl Accept {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.clock);
        out.extend_from_slice(&self.nonce);
        put_features(out, &self.features);
        out.put_bytes(&self.key);
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let accept = Self {
            clock: fields.u64("accept clock")?,
            nonce: fields.array("accept nonce")?,
            features: take_features(&mut fields, "accept features")?,
            key: fields.bytes("accept key")?.to_vec(),
        };
        fields.end("accept")?;
        Ok(accept)
    }
}

/// Bytes of a confirm in front of its proof: limits, clock, and the proof's length.
const BEFORE_PROOF: usize = 20 + 8 + 4;

/// The client's proof and limits, and what it offers. The first sealed message of a sealed connection. [wire.confirm]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    pub limits: Limits,
    /// What to add to the server's clock to get the client's, in nanoseconds, wrapping.
    pub clock_offset: u64,
    pub proof: Proof,
    /// What the client offers to its server.
    pub catalog: Catalog,
}

impl Confirm {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut catalog = Vec::new();
        self.catalog.encode(&mut catalog);
        let proof = self.proof.as_bytes();
        // What grows later leaves a copy of the proof behind.
        out.reserve_exact(BEFORE_PROOF + proof.len() + catalog.len());
        put_limits(out, &self.limits);
        out.put_u64(self.clock_offset);
        out.put_bytes(proof);
        out.extend_from_slice(&catalog);
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let confirm = Self {
            limits: take_limits(&mut fields)?,
            clock_offset: fields.u64("confirm clock")?,
            proof: Proof::new(fields.bytes("confirm proof")?.to_vec()),
            catalog: Catalog::decode(&mut fields)?,
        };
        fields.end("confirm")?;
        Ok(confirm)
    }
}

/// The server's limits and what it offers. [wire.welcome]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub limits: Limits,
    /// The server's own proof.
    pub proof: Vec<u8>,
    pub catalog: Catalog,
}

impl Welcome {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_limits(out, &self.limits);
        out.put_bytes(&self.proof);
        self.catalog.encode(out);
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let limits = take_limits(&mut fields)?;
        let proof = fields.bytes("welcome proof")?.to_vec();
        let catalog = Catalog::decode(&mut fields)?;
        fields.end("welcome")?;
        Ok(Self { limits, proof, catalog })
    }
}

/// The features of this build in addition to those of every build of its version. They are negotiated by their names, and change no
/// version. [wire.features]
pub const FEATURES: &[&str] = &[OVERLOADED, UNAUTHORIZED, LOANS];

/// A response may say that its call was refused by a callee that is overloaded. [wire.response.overloaded]
pub const OVERLOADED: &str = "overloaded";

/// A response may say that the caller may not make its call. [wire.response.unauthorized]
pub const UNAUTHORIZED: &str = "unauthorized";

/// Blobs may cross as references to memory that both sides can reach. [wire.loans]
pub const LOANS: &str = "loans";

/// Those of `theirs` that are among `ours`: unknown ones are passed over.
#[must_use]
pub fn common_features(ours: &[&str], theirs: &[String]) -> Vec<String> {
    theirs.iter().filter(|theirs| ours.contains(&theirs.as_str())).cloned().collect()
}

fn put_features(out: &mut Vec<u8>, features: &[String]) {
    out.put_u32(u32::try_from(features.len()).unwrap_or(u32::MAX));
    for feature in features {
        out.put_bytes(feature.as_bytes());
    }
}

fn take_features(fields: &mut Fields<'_>, field: &'static str) -> Result<Vec<String>, Malformed> {
    // The vector grows as entries are read, never on a count.
    let mut features = Vec::new();
    for _ in 0..fields.u32(field)? {
        features.push(fields.text(field)?);
    }
    Ok(features)
}

/// What to add to our clock to get the peer's, given what it showed between `before` and `after` of ours. [wire.clock]
///
/// Two processes usually read the very same clock, and then the offset is none; a different one (another time
/// namespace) shows as a reading outside the interval, and is known to within half of it. A reading of 0 is none: that side has no
/// clock that the other could read, as it is on another machine.
#[must_use]
pub const fn clock_offset(before: u64, theirs: u64, after: u64) -> Option<u64> {
    if before == 0 || theirs == 0 {
        return None;
    }
    if before <= theirs && theirs <= after {
        return Some(0);
    }
    Some(theirs.wrapping_sub(before + (after - before) / 2))
}

/// The limits of a side. [wire.limits]
fn put_limits(out: &mut Vec<u8>, limits: &Limits) {
    out.put_u64(limits.max_message_size);
    out.put_u64(limits.max_buffered);
    out.put_u32(limits.max_in_flight);
}

fn take_limits(fields: &mut Fields<'_>) -> Result<Limits, Malformed> {
    let limits = Limits {
        max_message_size: fields.u64("limits")?,
        max_buffered: fields.u64("limits")?,
        max_in_flight: fields.u32("limits")?,
    };
    if limits.validate().is_err() {
        return Err(Malformed("limits"));
    }
    Ok(limits)
}

/// How clients are authorized. [wire.authorization]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    None,
    Token,
    SentToken,
}

impl Scheme {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::SentToken => "sent-token",
        }
    }

    /// How a client's builder, and how a server's, says it.
    pub fn words(name: &str) -> (&'static str, &'static str) {
        match name {
            "none" => ("without_authorization()", "without_authorization()"),
            "token" => ("with_access_token(…)", "with_access_token(…)"),
            "sent-token" => ("with_access_token_provider(…)", "with_access_token_validator(…)"),
            _ => ("an unknown scheme", "an unknown scheme"),
        }
    }
}

/// What a client proves itself by: a keyed hash, or the token itself. It is wiped when it is dropped, and never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proof(Zeroizing<Vec<u8>>);

impl Proof {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

/// Why a server turns a client away. [wire.refuse]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Incompatible(String),
    Unauthorized(String),
}

impl Refusal {
    pub fn encode(&self) -> (u16, &str) {
        match self {
            Self::Incompatible(text) => (1, text),
            Self::Unauthorized(text) => (2, text),
        }
    }

    pub fn decode(code: u16, body: &[u8]) -> Error {
        match code {
            2 => Error::Unauthorized(text(body)),
            _ => Error::Incompatible(text(body)),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Incompatible(text) => Self::Incompatible(text),
            Refusal::Unauthorized(text) => Self::Unauthorized(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Accept;
    use super::Confirm;
    use super::Hello;
    use super::Limits;
    use super::Proof;
    use super::Refusal;
    use super::Terms;
    use super::WIRE_VERSION;
    use super::Welcome;
    use super::{clock_offset, common_features};
    use crate::wire::catalog::{Catalog, CatalogMember, CatalogService};

    fn hello() -> Hello {
        let terms = Terms {
            serializer: "json".into(),
            cipher: "none".into(),
            authorization: "none".into(),
        };
        let (version, features) = (WIRE_VERSION, vec!["loans".into()]);
        Hello { version, clock: 0x0102, nonce: [0xA5; 32], terms, features, key: vec![7, 8] }
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn hello_is_frozen() {
        let mut bytes = Vec::new();
        hello().encode(&mut bytes);
        let mut expected = vec![2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[0xA5; 32]);
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"json");
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"none");
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"none");
        expected.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
        expected.extend_from_slice(b"loans");
        expected.extend_from_slice(&[2, 0, 0, 0, 7, 8]);
        assert_eq!(bytes, expected);
        assert_eq!(Hello::decode(&bytes), Ok(Ok(hello())));
    }

    #[test]
    fn every_message_comes_back_and_no_cut_one_does() {
        let accept =
            Accept { clock: 9, nonce: [3; 32], features: vec!["loans".into()], key: vec![1] };
        let method = CatalogMember {
            name: "add".into(),
            hash: 5,
            structure: 6,
            signature: "add() -> R".into(),
        };
        let service = CatalogService {
            name: "Calc".into(),
            methods: vec![method.clone()],
            events: vec![method],
        };
        let catalog = Catalog { services: vec![service] };
        let confirm = Confirm {
            limits: Limits::default(),
            clock_offset: u64::MAX,
            proof: Proof::new(vec![3; 40]),
            catalog: catalog.clone(),
        };
        let welcome = Welcome { limits: Limits::default(), proof: vec![4; 32], catalog };
        let (mut a, mut c, mut w) = (Vec::new(), Vec::new(), Vec::new());
        accept.encode(&mut a);
        confirm.encode(&mut c);
        welcome.encode(&mut w);
        assert_eq!(Accept::decode(&a), Ok(accept));
        assert_eq!(Confirm::decode(&c), Ok(confirm));
        assert_eq!(Welcome::decode(&w), Ok(welcome));
        for cut in 0..w.len() {
            assert!(Welcome::decode(&w[..cut]).is_err());
        }
        for cut in 0..c.len() {
            assert!(Confirm::decode(&c[..cut]).is_err());
        }
    }

    /// What grows by and by leaves copies behind.
    #[test]
    fn a_confirm_is_encoded_into_one_allocation() {
        for len in 0..100 {
            let service =
                CatalogService { name: "Calc".into(), methods: Vec::new(), events: Vec::new() };
            let confirm = Confirm {
                limits: Limits::default(),
                clock_offset: 0,
                proof: Proof::new(vec![3; len]),
                catalog: Catalog { services: vec![service] },
            };
            let mut body = Vec::new();
            confirm.encode(&mut body);
            assert_eq!(body.len(), body.capacity());
        }
    }

    #[test]
    fn features_are_those_that_both_sides_have() {
        let theirs = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(common_features(&["c", "d", "a"], &theirs), ["a", "c"]);
        assert!(common_features(&[], &theirs).is_empty());
    }

    #[test]
    fn another_version_is_told_both() {
        let mut bytes = Vec::new();
        Hello { version: 77, ..hello() }.encode(&mut bytes);
        let Ok(Err(Refusal::Incompatible(text))) = Hello::decode(&bytes) else {
            panic!("accepted")
        };
        assert!(text.contains("77") && text.contains(&WIRE_VERSION.to_string()));
    }

    #[test]
    fn one_clock_has_no_offset() {
        assert_eq!(clock_offset(100, 150, 200), Some(0));
        assert_eq!(clock_offset(100, 1150, 200), Some(1000));
        assert_eq!(clock_offset(1100, 150, 1200), Some(1000_u64.wrapping_neg()));
    }

    #[test]
    fn a_side_without_a_clock_has_none_in_common() {
        assert_eq!(clock_offset(0, 150, 200), None);
        assert_eq!(clock_offset(100, 0, 200), None);
    }
}
