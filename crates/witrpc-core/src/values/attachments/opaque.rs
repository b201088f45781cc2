//! Type-erased streams within a message: `witrpc-runtime` puts them in and takes them out.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// A stream within a message that is to be sent.
pub struct OutgoingStream {
    source: Source,
    window: u32,
}

enum Source {
    Stream(Box<dyn Any + Send>),
    Resource(Resource),
}

/// What a stream stands for that cannot be written into a message: it crosses beside the messages, and the stream says when.
///
/// It can be sent to several peers, so events can have it, too.
#[derive(Clone)]
pub struct Resource {
    /// Makes the stream that sends it to one peer.
    stream: Arc<dyn Fn() -> Box<dyn Any + Send> + Send + Sync>,
    /// What is wrong with a connection over which it cannot cross, and what to do.
    advice: &'static str,
}

impl Resource {
    /// What the streams that `stream` makes send. A connection that has nothing beside its messages refuses it with this advice.
    pub fn new<T: Any + Send>(
        stream: impl Fn() -> T + Send + Sync + 'static,
        advice: &'static str,
    ) -> Self {
        Self { stream: Arc::new(move || Box::new(stream())), advice }
    }
}

impl OutgoingStream {
    /// A stream with this window, in items; 0 is the default.
    pub fn new(stream: impl Any + Send, window: u32) -> Self {
        Self { source: Source::Stream(Box::new(stream)), window }
    }

    /// The window, in items; 0 is the default.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// The same resource for another peer; `None` if it is a stream, which has one reader.
    #[must_use]
    pub fn copy(&self) -> Option<Self> {
        match &self.source {
            Source::Stream(_) => None,
            Source::Resource(resource) => Some(resource.clone().into()),
        }
    }

    /// What to tell whoever sends it over a connection that has nothing beside its messages, if it needs that.
    #[must_use]
    pub const fn advice(&self) -> Option<&'static str> {
        match &self.source {
            Source::Stream(_) => None,
            Source::Resource(resource) => Some(resource.advice),
        }
    }

    /// The stream that was put in, if it has this type.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        let stream = match self.source {
            Source::Stream(stream) => stream,
            Source::Resource(resource) => (resource.stream)(),
        };
        stream.downcast().ok().map(|stream| *stream)
    }
}

impl From<Resource> for OutgoingStream {
    /// One item says that it has crossed.
    fn from(resource: Resource) -> Self {
        Self { source: Source::Resource(resource), window: 1 }
    }
}

impl fmt::Debug for OutgoingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingStream").field("window", &self.window).finish_non_exhaustive()
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource").finish_non_exhaustive()
    }
}

/// A stream within a received message: the handle of its reader.
pub struct IncomingStream(Box<dyn Any + Send>);

impl IncomingStream {
    /// A stream that is read by this handle.
    pub fn new(handle: impl Any + Send) -> Self {
        Self(Box::new(handle))
    }

    /// The value that was put in, if it has this type.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|handle| *handle)
    }
}

impl IncomingStream {
    /// The value that was put in, if it has this type.
    #[must_use]
    pub fn inner_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.0.downcast_mut()
    }
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncomingStream")
    }
}
