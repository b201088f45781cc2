//! A service as a connection sees it: descriptors, one call into it, and what comes back.
//!
//! `#[witrpc::service]` writes the implementations; nobody else needs to. What a service means is the user's.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::buffers;
use crate::call::Remote;
use crate::error::Error;
use crate::message::Content;
use crate::serializer::Codec;
use crate::sink::{Attached, EventSink};
use crate::wire::Put;

/// What a contract says, as the macro read it.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct ServiceDescriptor {
    /// The name on the wire.
    pub name: &'static str,
    /// The trait's documentation.
    pub docs: &'static str,
    /// Its methods; a method is called by its place here.
    pub methods: &'static [MethodDescriptor],
    /// Its events; an event is subscribed to by its place here.
    pub events: &'static [EventDescriptor],
}

/// One method of a contract.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct MethodDescriptor {
    /// Its name.
    pub name: &'static str,
    /// Its signature, for people.
    pub signature: &'static str,
    /// Its types, in a normal form: what both sides must agree on.
    pub types: &'static str,
    /// Its documentation.
    pub docs: &'static str,
    /// It blocks its thread, so it runs where that harms nobody.
    pub blocking: bool,
    /// Running it twice does no harm.
    pub idempotent: bool,
}

/// One event of a contract.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "written by generated code only")]
pub struct EventDescriptor {
    /// Its name.
    pub name: &'static str,
    /// Its name and type, for people.
    pub signature: &'static str,
    /// Its type, in a normal form: what both sides must agree on.
    pub types: &'static str,
    /// Its documentation.
    pub docs: &'static str,
}

impl EventDescriptor {
    /// The hash of the type that is compared at connect. [wire.signature]
    pub(crate) fn hash(&self) -> u64 {
        fnv1a(self.types.as_bytes())
    }
}

impl MethodDescriptor {
    /// The hash of the types that is compared at connect. [wire.signature]
    pub(crate) fn hash(&self) -> u64 {
        fnv1a(self.types.as_bytes())
    }
}

/// FNV-1a, 64 bit: fixed for ever, and all that telling two texts apart needs.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// A service: what `XServer` implements for the implementation of `X` that it wraps.
pub trait Service: Send + Sync + 'static {
    /// The contract.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Calls the method at `method` in [`ServiceDescriptor::methods`].
    #[doc(hidden)]
    fn call(&self, method: usize, request: Request) -> Dispatch;

    /// Attaches a subscriber to the event at `event` in [`ServiceDescriptor::events`].
    #[doc(hidden)]
    fn subscribe(&self, event: usize, sink: EventSink) -> Attached;
}

/// The client side of a contract: what `XClient` implements.
pub trait ServiceClient: Sized {
    /// The contract.
    fn descriptor() -> &'static ServiceDescriptor;

    /// Wraps a handle.
    #[doc(hidden)]
    fn from_remote(remote: Remote) -> Self;
}

/// What a method returns: a `Result` of a value and an error that both cross the connection.
#[diagnostic::on_unimplemented(
    message = "a service method must return a `Result` whose value and error can cross the connection",
    label = "this is not such a result",
    note = "return `witrpc::Result<T>`, or `Result<T, E>` with `E: Serialize + DeserializeOwned + From<witrpc::Error>`",
    note = "`T` must be `Serialize + DeserializeOwned + Send + 'static`"
)]
pub trait Outcome: Send + 'static {
    /// The value.
    type Value: Serialize + DeserializeOwned + Send + 'static;
    /// The error.
    type Error: Serialize + DeserializeOwned + From<Error> + Send + 'static;

    /// Makes the method's result.
    fn from_result(result: Result<Self::Value, Self::Error>) -> Self;

    /// Takes the method's result apart.
    ///
    /// # Errors
    ///
    /// The method's own.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

impl<T, E> Outcome for Result<T, E>
where
    T: Serialize + DeserializeOwned + Send + 'static,
    E: Serialize + DeserializeOwned + From<Error> + Send + 'static,
{
    type Value = T;
    type Error = E;

    fn from_result(result: Self) -> Self {
        result
    }

    fn into_result(self) -> Self {
        self
    }
}

/// How a response ends. [wire.response.status]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// A value follows.
    Ok,
    /// The method's own error follows.
    Fault,
    /// The handler panicked; its message follows.
    Panicked,
    /// It was cancelled; nothing follows.
    Cancelled,
    /// Its deadline passed; nothing follows.
    TimedOut,
    /// There is no such service or method.
    NoSuchMethod,
    /// The arguments are not what the method takes; the serializer's text follows.
    BadArguments,
    /// The result cannot be serialized; the serializer's text follows.
    BadResult,
    /// The result is larger than the caller takes; its size and the limit follow.
    TooLarge,
}

impl Status {
    const ALL: [Self; 9] = [
        Self::Ok,
        Self::Fault,
        Self::Panicked,
        Self::Cancelled,
        Self::TimedOut,
        Self::NoSuchMethod,
        Self::BadArguments,
        Self::BadResult,
        Self::TooLarge,
    ];

    pub(crate) const fn code(self) -> u16 {
        self as u16
    }

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// One call as it reaches a service: its arguments, not yet decoded.
#[doc(hidden)]
pub struct Request {
    pub(crate) content: Content,
    pub(crate) codec: Codec,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

impl Request {
    fn decode<A: DeserializeOwned + 'static>(mut self) -> (Result<A, Reply>, Codec) {
        let arrived = self.content.take_arrived();
        let args = self.codec.deserialize(self.content.body(), arrived);
        buffers::give(self.content.into_buffer());
        (args.map_err(|e| Reply::text(Status::BadArguments, &e.to_string())), self.codec)
    }
}

/// What a call came to.
#[doc(hidden)]
pub struct Reply {
    pub(crate) status: Status,
    pub(crate) content: Content,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Reply {
    /// A status and a text about it.
    pub(crate) fn text(status: Status, text: &str) -> Self {
        Self { status, content: Content::plain(buffers::take(), text.as_bytes()) }
    }

    /// The refusal of a result of `size` bytes where the caller takes `limit`.
    pub(crate) fn too_large(size: u64, limit: u64) -> Self {
        let mut body = Vec::new();
        body.put_u64(size);
        body.put_u64(limit);
        Self { status: Status::TooLarge, content: Content::plain(Vec::new(), &body) }
    }

    fn encode<R: Outcome>(codec: &Codec, outcome: R) -> Self {
        let (status, content) = match outcome.into_result() {
            Ok(value) => (Status::Ok, encode(codec, &value)),
            Err(error) => (Status::Fault, encode(codec, &error)),
        };
        match content {
            Ok(content) => Self { status, content },
            Err(error) => Self::text(Status::BadResult, &error),
        }
    }
}

fn encode<T: Serialize>(codec: &Codec, value: &T) -> Result<Content, String> {
    Content::write(buffers::take(), |out| codec.serialize(value, out)).map_err(|e| e.to_string())
}

/// A call under way, or answered at once.
#[doc(hidden)]
pub enum Dispatch {
    /// It never reached the service.
    Ready(Reply),
    /// The service is at it.
    Running(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
        })
    }
}

/// Decodes the arguments, runs the method, encodes its result.
#[doc(hidden)]
pub fn answer<A, R, F, Fut>(request: Request, run: F) -> Dispatch
where
    A: DeserializeOwned + 'static,
    R: Outcome,
    F: FnOnce(A) -> Fut,
    Fut: Future<Output = R> + Send + 'static,
{
    let (args, codec) = request.decode::<A>();
    match args {
        Err(reply) => Dispatch::Ready(reply),
        Ok(args) => {
            let outcome = run(args);
            Dispatch::Running(Box::pin(async move { Reply::encode(&codec, outcome.await) }))
        }
    }
}

/// The answer for a method that the service does not have.
#[doc(hidden)]
pub fn unknown_method(_request: Request) -> Dispatch {
    Dispatch::Ready(Reply::text(Status::NoSuchMethod, ""))
}

#[cfg(test)]
mod tests {
    use super::{Status, fnv1a};

    #[test]
    fn every_status_comes_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(status));
        }
        assert_eq!(Status::from_code(9), None);
    }

    /// Values published with the algorithm.
    #[test]
    fn hash_is_fnv1a() {
        assert_eq!(fnv1a(b""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_F739_67E8);
    }
}
