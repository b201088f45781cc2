//! [`Descriptor`]: a file descriptor as an argument, a result, an error, an event's value or an item of a stream.
//!
//! In a message it is a resource (`witrpc_runtime::resource`): a stream. The receiver asks for the descriptor by reading the stream; then the
//! sender sends it through the socket pair ([`courier`](crate::courier)), with the stream's id, and one empty item through the stream. So
//! whatever ends a stream (a call that is cancelled or refused, a value that is dropped, a connection that ends) also ends the sending of
//! a descriptor, and closes the sender's.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use witrpc_core::transport::BoxFuture;
use witrpc_core::{CloseReason, Error};
use witrpc_runtime::serde::{Deserialize, Deserializer, Serialize, Serializer};
use witrpc_runtime::{
    IncomingResource, Resource, SideChannel, resource, side_channel, write_resource,
};

use crate::courier::{Courier, Expected};

/// How soon a full socket is tried again. Its other side reads at once whatever arrives, so it is hardly ever full.
const AGAIN: Duration = Duration::from_millis(1);
/// What a connection that cannot carry descriptors says.
const NOWHERE: &str = "this connection cannot carry descriptors: only the one between a Worker and its Agent can; start the other side \
                       as a Worker, or send what is in the file (a Blob, a Streaming), or its path";

/// A file descriptor (a file, a socket, a pipe) that crosses between a host and its worker: as an argument, a result, an error, an event's
/// value or an item of a stream, or anywhere within one.
///
/// The receiver gets a copy by [`take`](Self::take). A worker that is permitted to open nothing can be given files so. It is not available on
/// Windows.
///
/// * A descriptor is closed on both sides when it is dropped there, and when its call is cancelled or refused, its value or item is dropped, or
///   its connection ends.
/// * Within a call it is sent when the receiver takes it, and not before; within an event or a stream, when the receiver gets the value or item.
///   The sender need not do anything for that, but must live until then.
/// * A clone stands for the same descriptor, and each can be sent or taken once. Each subscriber of an event gets a descriptor of its own. (They
///   all stand for one open file, and share its position.)
/// * Up to 64 descriptors wait for a subscriber of an event that does not take its values, and 64 more in the backlog; then it
///   [overflows](witrpc_runtime::Overflow). A stream waits while its reader has left 64 descriptors of its items. One value or item has at most
///   64.
/// * Sending one over another connection is [`Error::Unsupported`] for a caller, and for `raise`. A handler that returns one there fails, and
///   its caller gets [`Error::Serialize`]; so does the reader of a stream. These say what to do.
///
/// ```
/// use std::fs::File;
/// use witrpc::{Descriptor, Result};
///
/// #[witrpc::service]
/// trait Parser {
///     async fn parse(&self, document: Descriptor) -> Result<usize>;
/// }
///
/// struct Sandboxed;
///
/// impl Parser for Sandboxed {
///     async fn parse(&self, document: Descriptor) -> Result<usize> {
///         let file = File::from(document.take().await?);
///         let text = std::io::read_to_string(file).map_err(witrpc::Error::fault)?;
///         Ok(text.lines().count())
///     }
/// }
///
/// async fn host(parser: ParserClient) -> Result<()> {
///     let document = File::open("/etc/hosts").map_err(witrpc::Error::fault)?;
///     println!("{} lines", parser.parse(document.into()).await?);
///     Ok(())
/// }
/// ```
pub struct Descriptor(Mutex<Option<Origin>>);

/// Where a descriptor comes from. Clones share it.
#[derive(Clone)]
enum Origin {
    Here(Arc<OwnedFd>),
    Peer(Arc<tokio::sync::Mutex<Fetch>>),
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &*self.origin() {
            Some(Origin::Here(_)) => "local",
            Some(Origin::Peer(_)) => "remote",
            None => "sent",
        };
        f.debug_tuple("Descriptor").field(&kind).finish()
    }
}

impl Clone for Descriptor {
    fn clone(&self) -> Self {
        let origin = self.origin().clone();
        Self(Mutex::new(origin))
    }
}

impl Descriptor {
    /// Makes one that sends this descriptor.
    #[must_use]
    pub fn new(descriptor: impl Into<OwnedFd>) -> Self {
        Self(Mutex::new(Some(Origin::Here(Arc::new(descriptor.into())))))
    }

    /// Takes the descriptor. If it was received, this waits until it has come, which takes a moment. It is closed on exec.
    ///
    /// # Errors
    ///
    /// * [`Error::Fault`] if it was sent, or its sender cannot send it.
    /// * [`Error::Closed`] if the connection has ended.
    /// * [`Error::Io`] if this process has no descriptors left.
    pub async fn take(self) -> Result<OwnedFd, Error> {
        let origin = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let origin = origin.ok_or_else(|| Error::fault("the descriptor was already sent"))?;
        let descriptor = origin.get().await?;
        // Another one, if a clone has it, too.
        Arc::try_unwrap(descriptor)
            .or_else(|shared| shared.try_clone())
            .map_err(|error| Error::io("duplicating a descriptor", &error))
    }

    fn origin(&self) -> MutexGuard<'_, Option<Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(descriptor: OwnedFd) -> Self {
        Self::new(descriptor)
    }
}

impl From<File> for Descriptor {
    fn from(file: File) -> Self {
        Self::new(file)
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let take = |once: bool| {
            let mut origin = self.origin();
            if once { origin.take() } else { origin.clone() }.map(Origin::into_resource)
        };
        write_resource(std::ptr::from_ref(self).addr(), take, serializer)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fetch = Fetch::new(IncomingResource::deserialize(deserializer)?);
        fetch.ask_if_due();
        Ok(Self(Mutex::new(Some(Origin::Peer(Arc::new(tokio::sync::Mutex::new(fetch)))))))
    }
}

impl Origin {
    async fn get(self) -> Result<Arc<OwnedFd>, Error> {
        match self {
            Self::Here(descriptor) => Ok(descriptor),
            Self::Peer(fetch) => match Arc::try_unwrap(fetch) {
                // Nobody else has it, so `fetch` does not keep it either.
                Ok(fetch) => fetch.into_inner().fetch().await,
                Err(shared) => shared.lock().await.fetch().await,
            },
        }
    }

    fn into_resource(self) -> Resource {
        resource(move || Sending::new(self.clone()), NOWHERE)
    }
}

/// A descriptor that comes from the peer.
struct Fetch {
    resource: IncomingResource,
    /// `None` before it is asked for, and if the connection has ended.
    expected: Option<Expected>,
    /// The peer has said that it was sent.
    was_sent: bool,
    fetched: Option<Result<Arc<OwnedFd>, Error>>,
}

impl Fetch {
    const fn new(resource: IncomingResource) -> Self {
        Self { resource, expected: None, was_sent: false, fetched: None }
    }

    /// Asks for it now if it is not within a call: then it is not for this side to let the sender keep it.
    fn ask_if_due(&mut self) {
        if self.resource.is_of_value() {
            self.expect();
            self.resource.ask();
        }
    }

    /// Has the courier keep it for us, before it is asked for.
    fn expect(&mut self) {
        if self.expected.is_none() {
            let side_channel = self.resource.side_channel();
            let courier = side_channel.and_then(|(channel, id)| Some((courier(channel)?, id)));
            self.expected = courier.and_then(|(courier, id)| courier.expect(id));
        }
    }

    /// Waits for it. Cancel-safe.
    async fn fetch(&mut self) -> Result<Arc<OwnedFd>, Error> {
        if self.fetched.is_none() {
            let arrived = self.arrives().await.map(Arc::new);
            self.fetched = Some(arrived);
        }
        let Some(fetched) = &self.fetched else { unreachable!("it was fetched") };
        fetched.clone()
    }

    async fn arrives(&mut self) -> Result<OwnedFd, Error> {
        self.expect();
        while let Some(expected) = &mut self.expected {
            let arrival = tokio::select! {
                biased;
                // What has come is there, also if the connection ends before its sender can say so.
                arrival = expected.arrives() => arrival,
                sent = self.resource.crossed(), if !self.was_sent => {
                    was_sent(sent)?;
                    self.was_sent = true;
                    continue;
                }
            };
            match arrival {
                Some(descriptor) => {
                    return descriptor.map_err(|error| Error::io("receiving a descriptor", &error));
                }
                None => self.expected = None,
            }
        }
        // The connection has ended, which this says.
        if !self.was_sent {
            was_sent(self.resource.crossed().await)?;
        }
        Err(Error::Closed { reason: CloseReason::PeerGone, maybe_executed: true })
    }
}

fn was_sent(sent: Option<Result<(), Error>>) -> Result<(), Error> {
    sent.unwrap_or_else(|| Err(Error::fault("the sender of a descriptor has ended its stream")))
}

fn courier(side_channel: SideChannel) -> Option<Arc<Courier>> {
    side_channel.downcast().ok()
}

/// Sends a descriptor when it is first polled, and then one item. Dropping it closes the descriptor, unless somebody else has it, too.
enum Sending {
    /// It comes from another peer, perhaps.
    Fetching(BoxFuture<'static, Result<Arc<OwnedFd>, Error>>),
    Ready(Arc<OwnedFd>),
    Full(Arc<OwnedFd>, Pin<Box<tokio::time::Sleep>>),
    Over,
}

impl Sending {
    fn new(origin: Origin) -> Self {
        match origin {
            Origin::Here(descriptor) => Self::Ready(descriptor),
            Origin::Peer(_) => Self::Fetching(Box::pin(origin.get())),
        }
    }
}

impl Stream for Sending {
    type Item = Result<(), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &mut *self {
                Self::Fetching(fetching) => match ready!(fetching.as_mut().poll(cx)) {
                    Ok(descriptor) => *self = Self::Ready(descriptor),
                    Err(error) => {
                        *self = Self::Over;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                Self::Full(descriptor, pause) => {
                    ready!(pause.as_mut().poll(cx));
                    *self = Self::Ready(Arc::clone(descriptor));
                }
                Self::Ready(descriptor) => {
                    let sent = send(descriptor);
                    *self = match sent {
                        Ok(false) => {
                            let pause = Box::pin(tokio::time::sleep(AGAIN));
                            Self::Full(Arc::clone(descriptor), pause)
                        }
                        // The other side has its own from now on.
                        _ => Self::Over,
                    };
                    if !matches!(sent, Ok(false)) {
                        return Poll::Ready(Some(sent.map(|_| ())));
                    }
                }
                Self::Over => return Poll::Ready(None),
            }
        }
    }
}

/// Sends a descriptor with the id of the stream that is being polled. Returns `false` if there is no room at the moment.
fn send(descriptor: &OwnedFd) -> Result<bool, Error> {
    let side_channel = side_channel();
    let courier = side_channel.and_then(|(channel, id)| Some((courier(channel)?, id)));
    let (courier, id) = courier.ok_or_else(|| Error::fault(NOWHERE))?;
    let sent = courier.try_send(id, descriptor.as_fd());
    sent.map_err(|error| Error::io("sending a descriptor", &error))
}
