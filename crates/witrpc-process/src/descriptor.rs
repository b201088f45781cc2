//! [`Descriptor`]: a file descriptor as an argument or a result.
//!
//! In a message it is a pair: a ticket, and a stream. The receiver asks for the descriptor by reading the stream; then the sender sends it through
//! the socket pair ([`courier`](crate::courier)) and one empty item through the stream. So whatever ends a stream (a call that is cancelled or
//! refused, a receiver that is dropped, a connection that ends) also ends the sending of a descriptor, and closes the sender's.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use witrpc_core::{CloseReason, Error};
use witrpc_runtime::serde::{Deserialize, Deserializer, Serialize, Serializer};
use witrpc_runtime::{SideChannel, Streaming, side_channel};

use crate::courier::Courier;

/// How soon a full socket is tried again. Its other side reads at once whatever arrives, so it is hardly ever full.
const AGAIN: Duration = Duration::from_millis(1);
/// What a connection that cannot carry descriptors says.
const NOWHERE: &str =
    "this connection cannot carry descriptors: only the one between a Worker and its Agent can";

/// A file descriptor (a file, a socket, a pipe) that crosses between a host and its worker, as an argument or a result, or anywhere within one.
///
/// The receiver gets a copy by [`take`](Self::take). A worker that is permitted to open nothing can be given files so. It is not available on
/// Windows, and neither within events nor within the items of streams.
///
/// * A descriptor is closed on both sides when it is dropped there, and when its call is cancelled or refused, or its connection ends.
/// * It is sent when the receiver asks for it, and not before. The sender need not do anything for that, but must live until then.
/// * It can be sent once. Over other connections `take` is an error, which says so.
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
pub struct Descriptor {
    ticket: u64,
    /// `None` once it was received.
    own: Option<Arc<Mutex<Option<OwnedFd>>>>,
    stream: Streaming<()>,
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.own.is_some() { "local" } else { "remote" };
        f.debug_tuple("Descriptor").field(&kind).finish()
    }
}

impl Descriptor {
    /// Makes one that sends this descriptor.
    #[must_use]
    pub fn new(descriptor: impl Into<OwnedFd>) -> Self {
        static TICKETS: AtomicU64 = AtomicU64::new(0);
        let ticket = TICKETS.fetch_add(1, Ordering::Relaxed);
        let own = Arc::new(Mutex::new(Some(descriptor.into())));
        let sending = Sending { ticket, own: Arc::clone(&own), pause: None };
        Self { ticket, own: Some(own), stream: Streaming::try_new(sending) }
    }

    /// Takes the descriptor. If it was received, its sender is asked for it, which takes a moment. It is closed on exec.
    ///
    /// # Errors
    ///
    /// * [`Error::Fault`] if the connection cannot carry descriptors, or the sender cannot send it.
    /// * [`Error::Closed`] if the connection has ended.
    /// * [`Error::Io`] if this process has no descriptors left.
    pub async fn take(mut self) -> Result<OwnedFd, Error> {
        if let Some(own) = self.own.take() {
            let descriptor = own.lock().unwrap_or_else(PoisonError::into_inner).take();
            return descriptor.ok_or_else(|| Error::fault("the descriptor was already sent"));
        }
        let courier = self.stream.side_channel().and_then(courier);
        // Without one the sender says what is wrong, unless the connection has ended.
        let mut expected = courier.and_then(|courier| courier.expect(self.ticket));
        match self.stream.next().await {
            Some(sent) => sent?,
            None => return Err(Error::fault("the sender of a descriptor has ended its stream")),
        }
        let arrival = match &mut expected {
            Some(expected) => expected.arrives().await,
            None => None,
        };
        match arrival {
            Some(descriptor) => {
                descriptor.map_err(|error| Error::io("receiving a descriptor", &error))
            }
            None => Err(Error::Closed { reason: CloseReason::PeerGone, maybe_executed: true }),
        }
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

fn courier(side_channel: SideChannel) -> Option<Arc<Courier>> {
    side_channel.downcast().ok()
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.ticket, &self.stream).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (ticket, stream) = Deserialize::deserialize(deserializer)?;
        Ok(Self { ticket, own: None, stream })
    }
}

/// Sends a descriptor when it is first polled, and then one item. Dropping it closes the descriptor, unless its owner still has it.
struct Sending {
    ticket: u64,
    own: Arc<Mutex<Option<OwnedFd>>>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Stream for Sending {
    type Item = Result<(), Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(descriptor) = own.as_ref() else { return Poll::Ready(None) };
            let Some(courier) = side_channel().and_then(courier) else {
                drop(own.take());
                return Poll::Ready(Some(Err(Error::fault(NOWHERE))));
            };
            let sent = courier.try_send(self.ticket, descriptor.as_fd());
            if matches!(sent, Ok(false)) {
                drop(own);
                self.pause = Some(Box::pin(tokio::time::sleep(AGAIN)));
                continue;
            }
            // The other side has its own from now on.
            drop(own.take());
            let sent = sent.map_err(|error| Error::io("sending a descriptor", &error));
            return Poll::Ready(Some(sent.map(|_| ())));
        }
    }
}
