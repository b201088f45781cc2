//! Resources: what crosses through a transport's side channel, beside the messages. For crates above this one.
//!
//! In a message a resource is a stream. Its receiver *asks* for it by reading that stream. Then the sender's stream is polled, sends the
//! resource through the side channel, and yields one item. So whatever ends a stream also ends the sending of a resource.
//!
//! Arguments and results ask for a resource when the program does. An event's value, and an item of a stream, ask for theirs as soon as
//! they are taken: so what the sender has for a subscriber, or for a stream's reader, that keeps what it takes, is bounded
//! ([`unfetched`](crate::streams::unfetched)).

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::{Deserialize, Deserializer, Serializer};
use witrpc_core::values::attachments;
pub use witrpc_core::values::attachments::Resource;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::{Error, Result};

use crate::context::SideChannel;
use crate::link::reply::Reply;
use crate::streams::reader::StreamReader;
use crate::streams::sender::{Produce, Source};
use crate::streams::streaming::Encode;

/// A resource that these streams send, one to each peer; each yields one item. Over a connection without a side channel the sender gets
/// an error with this advice.
pub fn resource<S: Stream<Item = Result<()>> + Send + 'static>(
    stream: impl Fn() -> S + Send + Sync + 'static,
    advice: &'static str,
) -> Resource {
    Resource::new(move || Source(Box::new(Once::new(Encode::of(Box::pin(stream()))))), advice)
}

/// A stream of one item.
struct Once {
    stream: Encode<()>,
    is_over: bool,
}

impl Once {
    const fn new(stream: Encode<()>) -> Self {
        Self { stream, is_over: false }
    }
}

impl Produce for Once {
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        codec: &Codec,
    ) -> Poll<Option<std::result::Result<Content, Reply>>> {
        let item = ready!(self.stream.poll_item(cx, codec));
        self.is_over = true;
        Poll::Ready(item)
    }

    fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Writes a resource. `owner` is the address of the value that has it. `take(true)` takes it out of the value; `take(false)` leaves it
/// there, too.
///
/// # Errors
///
/// Why it cannot be sent there; the serializer's.
pub fn write_resource<S: Serializer>(
    owner: usize,
    take: impl FnOnce(bool) -> Option<Resource>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    attachments::write_resource(owner, take, serializer)
}

/// A resource of the peer's, within a message that was received. Dropping it ends its stream.
pub struct IncomingResource(StreamReader);

impl fmt::Debug for IncomingResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IncomingResource").field(&self.0).finish()
    }
}

impl IncomingResource {
    /// The side channel of the connection, as long as that lasts, and the id of the stream, as its sender knows it.
    #[must_use]
    pub fn side_channel(&self) -> Option<(SideChannel, u64)> {
        self.0.side_channel()
    }

    /// Whether it belongs to an event's value, or to an item of a stream: then it must be asked for at once.
    #[must_use]
    pub const fn is_of_value(&self) -> bool {
        self.0.is_of_value()
    }

    /// Asks the peer for it.
    pub fn ask(&self) {
        self.0.open();
    }

    /// Asks the peer for it, and waits until the peer has sent it, or has said why it cannot. `None` if its stream has ended. Cancel-safe.
    pub async fn crossed(&mut self) -> Option<Result<(), Error>> {
        poll_fn(|cx| self.0.poll(cx)).await.map(|item| item.map(drop))
    }
}

impl<'de> Deserialize<'de> for IncomingResource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let reader = attachments::read_stream(deserializer)?.into_inner::<StreamReader>();
        let Some(mut reader) = reader else { unreachable!("a message has no other") };
        reader.take_one_item();
        Ok(Self(reader))
    }
}
