//! The four messages that open a session, as bodies: hello, accept, confirm, welcome.
//!
//! Pure. What is said before the keys are agreed on (hello and accept) is the prologue of the agreement, so nobody in
//! between can change it unseen; limits and catalog come in the welcome, which is sealed when the connection is.

use crate::authorization::Scheme;
use crate::error::Error;
use crate::introspection::RESERVED;
use crate::message::Refusal;
use crate::options::Limits;
use crate::service::ServiceDescriptor;
use crate::wire::{Fields, Malformed, Put};

/// The version of everything in `docs/wire.md`.
pub(crate) const WIRE_VERSION: u32 = 1;

/// Bytes of the random number that each side contributes.
pub(crate) const NONCE_LEN: usize = 32;

/// What the two sides must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) serializer: String,
    pub(crate) cipher: String,
    pub(crate) authorization: String,
}

impl Terms {
    /// Compares the client's terms with ours, the server's.
    pub(crate) fn accept(&self, client: &Self) -> Result<(), Refusal> {
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
                "the server was built {server} and the client {client}; give both the same kind"
            )));
        }
        Ok(())
    }
}

/// The client's first message. [wire.hello]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    /// The client's clock, in nanoseconds.
    pub(crate) clock: u64,
    /// Random, so that no two transcripts are the same.
    pub(crate) nonce: [u8; NONCE_LEN],
    pub(crate) terms: Terms,
    /// The first message of the key agreement; everything before it is its prologue.
    pub(crate) key: Vec<u8>,
}

impl Hello {
    /// The body without the key.
    pub(crate) fn encode_prologue(&self, out: &mut Vec<u8>) {
        out.put_u32(self.version);
        out.put_u64(self.clock);
        out.extend_from_slice(&self.nonce);
        out.put_bytes(self.terms.serializer.as_bytes());
        out.put_bytes(self.terms.cipher.as_bytes());
        out.put_bytes(self.terms.authorization.as_bytes());
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_prologue(out);
        out.put_bytes(&self.key);
    }

    /// Reads no further than the version if that is not ours.
    pub(crate) fn decode(body: &[u8]) -> Result<Result<Self, Refusal>, Malformed> {
        let mut fields = Fields::new(body);
        let version = fields.u32("hello version")?;
        if version != WIRE_VERSION {
            return Ok(Err(Refusal::Incompatible(format!(
                "the server speaks wire version {WIRE_VERSION} and the client {version}; \
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
            key: fields.bytes("hello key")?.to_vec(),
        };
        fields.end("hello")?;
        Ok(Ok(hello))
    }
}

/// The server's answer to a hello that it can work with. [wire.accept]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    /// The server's clock, in nanoseconds.
    pub(crate) clock: u64,
    /// Random, so that no two transcripts are the same.
    pub(crate) nonce: [u8; NONCE_LEN],
    /// The second message of the key agreement.
    pub(crate) key: Vec<u8>,
}

impl Accept {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.clock);
        out.extend_from_slice(&self.nonce);
        out.put_bytes(&self.key);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let accept = Self {
            clock: fields.u64("accept clock")?,
            nonce: fields.array("accept nonce")?,
            key: fields.bytes("accept key")?.to_vec(),
        };
        fields.end("accept")?;
        Ok(accept)
    }
}

/// The client's proof and limits, and what it offers. The first sealed message of a sealed connection. [wire.confirm]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confirm {
    pub(crate) limits: Limits,
    /// What to add to the server's clock to get the client's, in nanoseconds, wrapping.
    pub(crate) clock_offset: u64,
    pub(crate) proof: Vec<u8>,
    /// What the client offers to its server.
    pub(crate) catalog: Catalog,
}

impl Confirm {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_limits(out, &self.limits);
        out.put_u64(self.clock_offset);
        out.put_bytes(&self.proof);
        self.catalog.encode(out);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let confirm = Self {
            limits: take_limits(&mut fields)?,
            clock_offset: fields.u64("confirm clock")?,
            proof: fields.bytes("confirm proof")?.to_vec(),
            catalog: Catalog::decode(&mut fields)?,
        };
        fields.end("confirm")?;
        Ok(confirm)
    }
}

/// The server's limits and what it offers. [wire.welcome]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) limits: Limits,
    /// The server's own proof.
    pub(crate) proof: Vec<u8>,
    pub(crate) catalog: Catalog,
}

impl Welcome {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_limits(out, &self.limits);
        out.put_bytes(&self.proof);
        self.catalog.encode(out);
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let limits = take_limits(&mut fields)?;
        let proof = fields.bytes("welcome proof")?.to_vec();
        let catalog = Catalog::decode(&mut fields)?;
        fields.end("welcome")?;
        Ok(Self { limits, proof, catalog })
    }
}

/// The services that a side offers. [wire.catalog]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) services: Vec<CatalogService>,
}

/// One service of a catalog; its index is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogService {
    pub(crate) name: String,
    pub(crate) methods: Vec<CatalogMember>,
    pub(crate) events: Vec<CatalogMember>,
}

/// One method or event of a service; its index is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogMember {
    pub(crate) name: String,
    pub(crate) hash: u64,
    pub(crate) signature: String,
}

impl Catalog {
    pub(crate) fn new<'a>(services: impl Iterator<Item = &'a ServiceDescriptor>) -> Self {
        let member = |name: &str, hash, signature: &str| CatalogMember {
            name: name.to_owned(),
            hash,
            signature: signature.to_owned(),
        };
        let services = services.map(|service| CatalogService {
            name: service.name.to_owned(),
            methods: service
                .methods
                .iter()
                .map(|m| member(m.name, m.hash(), m.signature))
                .collect(),
            events: service.events.iter().map(|e| member(e.name, e.hash(), e.signature)).collect(),
        });
        Self { services: services.collect() }
    }

    /// Finds where the peer has the methods of `wanted`. An error for a method, and for all of them if the service is
    /// missing, is what calling it comes to.
    pub(crate) fn resolve(&self, wanted: &ServiceDescriptor) -> Result<Route, Error> {
        let Some(service) = self.services.iter().position(|s| s.name == wanted.name) else {
            return Err(self.no_such_service(wanted.name));
        };
        let offered = &self.services[service];
        let methods = wanted.methods.iter().map(|method| {
            find(
                &offered.methods,
                wanted.name,
                method.name,
                method.hash(),
                method.signature,
                |names| Error::NoSuchMethod {
                    service: wanted.name.to_owned(),
                    method: method.name.to_owned(),
                    client: method.signature.to_owned(),
                    server: names,
                },
            )
        });
        let events = wanted.events.iter().map(|event| {
            find(&offered.events, wanted.name, event.name, event.hash(), event.signature, |names| {
                Error::NoSuchEvent {
                    service: wanted.name.to_owned(),
                    event: event.name.to_owned(),
                    client: event.signature.to_owned(),
                    server: names,
                }
            })
        });
        let service = u16::try_from(service).unwrap_or(u16::MAX);
        Ok(Route { service, methods: methods.collect(), events: events.collect() })
    }

    /// Finds where the peer has a method of these names.
    #[cfg(feature = "json")]
    pub(crate) fn find_by_name(&self, service: &str, method: &str) -> Result<(u16, u16), Error> {
        let Some(at) = self.services.iter().position(|s| s.name == service) else {
            return Err(self.no_such_service(service));
        };
        let offered = &self.services[at].methods;
        let Some(member) = offered.iter().position(|m| m.name == method) else {
            return Err(Error::NoSuchMethod {
                service: service.to_owned(),
                method: method.to_owned(),
                client: format!("{method}(…)"),
                server: signatures(offered),
            });
        };
        Ok((u16::try_from(at).unwrap_or(u16::MAX), u16::try_from(member).unwrap_or(u16::MAX)))
    }

    fn no_such_service(&self, service: &str) -> Error {
        let listed = self.services.iter().filter(|s| !s.name.starts_with(RESERVED));
        let names: Vec<_> = listed.map(|s| format!("{:?}", s.name)).collect();
        Error::NoSuchService {
            service: service.to_owned(),
            offered: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(count(self.services.len()));
        for service in &self.services {
            out.put_bytes(service.name.as_bytes());
            for members in [&service.methods, &service.events] {
                out.put_u32(count(members.len()));
                for member in members {
                    out.put_bytes(member.name.as_bytes());
                    out.put_u64(member.hash);
                    out.put_bytes(member.signature.as_bytes());
                }
            }
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        // The vectors grow as entries are read, never on a count.
        let mut services = Vec::new();
        for _ in 0..fields.u32("catalog")? {
            services.push(CatalogService {
                name: fields.text("catalog service")?,
                methods: decode_members(fields)?,
                events: decode_members(fields)?,
            });
        }
        Ok(Self { services })
    }
}

/// The signatures of members, for reading.
fn signatures(members: &[CatalogMember]) -> String {
    let texts: Vec<_> = members.iter().map(|member| format!("`{}`", member.signature)).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn decode_members(fields: &mut Fields<'_>) -> Result<Vec<CatalogMember>, Malformed> {
    let mut members = Vec::new();
    for _ in 0..fields.u32("catalog service")? {
        members.push(CatalogMember {
            name: fields.text("catalog member")?,
            hash: fields.u64("catalog member")?,
            signature: fields.text("catalog member")?,
        });
    }
    Ok(members)
}

/// Finds where `offered` has a member of this name and hash; `missing` makes the error for a name that it lacks.
fn find(
    offered: &[CatalogMember],
    service: &str,
    name: &str,
    hash: u64,
    signature: &str,
    missing: impl FnOnce(String) -> Error,
) -> Result<u16, Error> {
    let Some(at) = offered.iter().position(|member| member.name == name) else {
        return Err(missing(signatures(offered)));
    };
    if offered[at].hash != hash {
        return Err(Error::SignatureMismatch {
            service: service.to_owned(),
            method: name.to_owned(),
            client: signature.to_owned(),
            server: offered[at].signature.clone(),
        });
    }
    Ok(u16::try_from(at).unwrap_or(u16::MAX))
}

/// Where the peer has a contract's service, methods and events.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) service: u16,
    /// By place in the contract.
    pub(crate) methods: Vec<Result<u16, Error>>,
    /// By place in the contract.
    pub(crate) events: Vec<Result<u16, Error>>,
}

/// What to add to our clock to get the peer's, given what it showed between `before` and `after` of ours. [wire.clock]
///
/// Two processes usually read the very same clock, and then the offset is none; a different one (another time
/// namespace) shows as a reading outside the interval, and is known to within half of it.
pub(crate) const fn clock_offset(before: u64, theirs: u64, after: u64) -> u64 {
    if before <= theirs && theirs <= after {
        return 0;
    }
    theirs.wrapping_sub(before + (after - before) / 2)
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

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        Accept, Catalog, CatalogMember, CatalogService, Confirm, Hello, Terms, WIRE_VERSION,
        Welcome,
    };
    use super::{Limits, clock_offset};
    use crate::message::Refusal;

    fn hello() -> Hello {
        let terms = Terms {
            serializer: "json".into(),
            cipher: "none".into(),
            authorization: "none".into(),
        };
        Hello { version: WIRE_VERSION, clock: 0x0102, nonce: [0xA5; 32], terms, key: vec![7, 8] }
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn hello_is_frozen() {
        let mut bytes = Vec::new();
        hello().encode(&mut bytes);
        let mut expected = vec![1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0];
        expected.extend_from_slice(&[0xA5; 32]);
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"json");
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"none");
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(b"none");
        expected.extend_from_slice(&[2, 0, 0, 0, 7, 8]);
        assert_eq!(bytes, expected);
        assert_eq!(Hello::decode(&bytes), Ok(Ok(hello())));
    }

    #[test]
    fn every_message_comes_back_and_no_cut_one_does() {
        let accept = Accept { clock: 9, nonce: [3; 32], key: vec![1] };
        let method = CatalogMember { name: "add".into(), hash: 5, signature: "add() -> R".into() };
        let service = CatalogService {
            name: "Calc".into(),
            methods: vec![method.clone()],
            events: vec![method],
        };
        let catalog = Catalog { services: vec![service] };
        let confirm = Confirm {
            limits: Limits::default(),
            clock_offset: u64::MAX,
            proof: vec![3; 40],
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
        assert_eq!(clock_offset(100, 150, 200), 0);
        assert_eq!(clock_offset(100, 1150, 200), 1000);
        assert_eq!(clock_offset(1100, 150, 1200), 1000_u64.wrapping_neg());
    }
}
