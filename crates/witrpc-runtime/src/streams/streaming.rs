//! [`Streaming`]: a stream as an argument or a result, on either side of a connection or on none.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::mpsc;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::values::attachments;
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::status::Status;
use witrpc_core::{Error, Result};

use crate::link::fairness::{Step, poll_counted};
use crate::link::reply::Reply;
use crate::locks::{Mutex, Rank};
use crate::streams::reader::StreamReader;
use crate::streams::sender::{Produce, Source};

/// A stream of values, as an argument or a result of a method.
///
/// The sender makes it from any [`Stream`]. The receiver gets a `Streaming`, too. It is a [`Stream`] of [`Result`]s, and has a method
/// [`next`](Self::next), so no extension trait is needed. It can be anywhere within an argument or a result, but not within an event's value
/// or another stream's items. It can be sent once.
///
/// * It is lazy: the sender's stream is not polled before the receiver polls for the first time. After that, the sender is at most one
///   window ahead of the receiver (see [`with_window`](Self::with_window)). A reader that does not read stops only the sender of this stream.
/// * It outlives its call, and the call's deadline does not apply to it.
/// * Dropping it on one side drops it on the other.
/// * [`CallContext`](crate::CallContext) is set while a handler's stream is polled. That context has no deadline, and is cancelled when
///   the stream is.
/// * `None` means that the sender's stream is complete. After an error, only `None` follows. An error of the sender's stream arrives as
///   [`Error::Fault`], a panic in it as [`Error::Panicked`], an item that cannot be sent as [`Error::Serialize`] or [`Error::TooLarge`].
///   [`Error::Closed`] means that the connection was lost. It follows the items that arrived before. The stream does not continue on the
///   next connection.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use witrpc::{Result, Streaming};
///
/// #[witrpc::service]
/// trait Numbers {
///     async fn count(&self, to: u32) -> Result<Streaming<u32>>;
///     async fn sum(&self, numbers: Streaming<u32>) -> Result<u32>;
/// }
///
/// struct Local;
///
/// impl Numbers for Local {
///     async fn count(&self, to: u32) -> Result<Streaming<u32>> {
///         Ok(Streaming::iter(1..=to))
///     }
///
///     async fn sum(&self, mut numbers: Streaming<u32>) -> Result<u32> {
///         let mut sum = 0;
///         while let Some(number) = numbers.next().await {
///             sum += number?;
///         }
///         Ok(sum)
///     }
/// }
///
/// // With a `NumbersClient` it is the same.
/// let numbers = Local.count(4).await?;
/// assert_eq!(Local.sum(numbers).await?, 10);
/// # Ok::<(), witrpc::Error>(())
/// # }).unwrap();
/// ```
pub struct Streaming<T> {
    /// `None` once it has been sent. Within a lock because `Serialize` takes it out of a borrow.
    inner: Mutex<Option<Inner<T>>>,
    /// The items of `with_window`; 0 if it was not called.
    window: u32,
}

enum Inner<T> {
    /// The user's stream, which has not crossed a connection.
    Local(Pin<Box<dyn Stream<Item = Result<T>> + Send>>),
    Remote {
        reader: StreamReader,
        decode: fn(&Codec, Content) -> Result<T>,
    },
    /// The stream has ended.
    Ended,
}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.inner.lock() {
            Some(Inner::Local(_)) => "Streaming(local)",
            Some(Inner::Remote { .. }) => "Streaming(remote)",
            Some(Inner::Ended) => "Streaming(ended)",
            None => "Streaming(sent)",
        })
    }
}

impl<T: Send + 'static> Streaming<T> {
    /// Makes a stream that sends the items of `stream`.
    #[must_use]
    pub fn new(stream: impl Stream<Item = T> + Send + 'static) -> Self {
        Self::of(Box::pin(Fallible(Box::pin(stream))))
    }

    /// Makes a stream that sends the items of `stream`. The first error ends it, and is sent as its last item.
    #[must_use]
    pub fn try_new(stream: impl Stream<Item = Result<T>> + Send + 'static) -> Self {
        Self::of(Box::pin(stream))
    }

    /// Makes a stream that sends the items of an iterator.
    #[must_use]
    pub fn iter<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        Self::of(Box::pin(Iter(items.into_iter())))
    }

    fn of(stream: Pin<Box<dyn Stream<Item = Result<T>> + Send>>) -> Self {
        Self { inner: Mutex::new(Rank::Value, Some(Inner::Local(stream))), window: 0 }
    }
}

impl<T> Streaming<T> {
    /// Sets how many items the sender can be ahead of the receiver. 0 counts as 1. Default 256.
    ///
    /// Either side can set it, and the smaller value applies. The sender can only lower the default. The receiver must set it before its
    /// first poll.
    ///
    /// There is also a window in bytes, of 1 MiB or less (see `with_max_buffered` on the builders). It allows one item for each 128 of its
    /// bytes, at most 8192 items. An item that is larger than the window is sent when nothing else of the stream is in flight.
    #[must_use]
    pub fn with_window(mut self, items: u32) -> Self {
        let items = items.max(1);
        let inner = self.inner.get_mut();
        if let Some(Inner::Remote { reader, .. }) = inner {
            reader.set_window(items);
        }
        self.window = items;
        self
    }

    /// Returns the next item. `None` means that no item follows. It is cancel-safe.
    ///
    /// Within a tokio task it takes part in cooperative scheduling, as tokio's channels do: it can be pending once even if an item is there.
    pub async fn next(&mut self) -> Option<Result<T>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let inner = self.inner.get_mut();
        let Some(inner) = inner else { return Poll::Ready(None) };
        let next = ready!(inner.poll(cx));
        if !matches!(next, Some(Ok(_))) {
            *inner = Inner::Ended;
        }
        Poll::Ready(next)
    }
}

#[cfg(all(feature = "json", any(test, fuzzing)))]
impl<T> Streaming<T> {
    /// The items that were not taken of a remote stream that has ended: those charged to the connection's account for messages, and
    /// those covered by the window.
    pub(crate) fn held_beyond_its_end(&self) -> Option<(Held, Held)> {
        match &*self.inner.lock() {
            Some(Inner::Remote { reader, .. }) => reader.held_beyond_its_end(),
            _ => None,
        }
    }
}

impl<T> Inner<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        match self {
            // The size of its items is not known here.
            Self::Local(stream) => {
                poll_counted(cx, Step::Message, |cx| stream.as_mut().poll_next(cx), |_| 0)
            }
            Self::Remote { reader, decode } => {
                let next = ready!(reader.poll(cx));
                Poll::Ready(next.map(|item| decode(reader.codec(), item?)))
            }
            Self::Ended => Poll::Ready(None),
        }
    }
}

impl<T> Stream for Streaming<T> {
    type Item = Result<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

/// Makes a stream of the values that are sent through the channel. It ends when all senders have been dropped.
impl<T: Send + 'static> From<mpsc::Receiver<T>> for Streaming<T> {
    fn from(receiver: mpsc::Receiver<T>) -> Self {
        Self::new(Received(receiver))
    }
}

struct Received<T>(mpsc::Receiver<T>);

impl<T> Stream for Received<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }
}

/// A stream that has no errors.
struct Fallible<S>(Pin<Box<S>>);

impl<S: Stream> Stream for Fallible<S> {
    type Item = Result<S::Item>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx).map(|item| item.map(Ok))
    }
}

struct Iter<I>(I);

/// The iterator is never pinned.
impl<I> Unpin for Iter<I> {}

impl<I: Iterator> Stream for Iter<I> {
    type Item = Result<I::Item>;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

/// A stream is serialized as a reference to its message's stream table; outside of a message that is an error.
impl<T: Serialize + 'static> Serialize for Streaming<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let take = || Some(Source::outgoing(Encode(self.inner.lock().take()?), self.window));
        attachments::write_stream(std::ptr::from_ref(self).addr(), take, serializer)
    }
}

impl<'de, T: DeserializeOwned + 'static> Deserialize<'de> for Streaming<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let reader = attachments::read_stream(deserializer)?.into_inner::<StreamReader>();
        let Some(reader) = reader else { unreachable!("a message has no other") };
        let inner = Inner::Remote { reader, decode: decode::<T> };
        Ok(Self { inner: Mutex::new(Rank::Value, Some(inner)), window: 0 })
    }
}

/// Serializes the items of a stream.
pub(super) struct Encode<T>(Inner<T>);

impl<T> Encode<T> {
    pub(super) fn of(stream: Pin<Box<dyn Stream<Item = Result<T>> + Send>>) -> Self {
        Self(Inner::Local(stream))
    }
}

impl<T: Serialize> Produce for Encode<T> {
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        codec: &Codec,
    ) -> Poll<Option<std::result::Result<Content, Reply>>> {
        Poll::Ready(match ready!(self.0.poll(cx)) {
            None => None,
            Some(Ok(item)) => {
                let content =
                    Content::write(buffers::take(), |out| codec.serialize_item(&item, out));
                Some(content.map_err(|e| Reply::text(Status::BadResult, &e.to_string())))
            }
            Some(Err(error)) => Some(Err(Reply::text(Status::Fault, &error.to_string()))),
        })
    }
}

fn decode<T: DeserializeOwned + 'static>(codec: &Codec, mut content: Content) -> Result<T> {
    let arrived = content.take_arrived();
    let item = codec.deserialize(content.body(), arrived);
    buffers::give(content.into_buffer());
    item.map_err(|reason| Error::Deserialize {
        what: "an item of a stream".to_owned(),
        serializer: codec.name().to_owned(),
        reason: reason.to_string(),
    })
}
