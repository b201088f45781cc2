//! Streams within a value, as far as a message knows them: what they are is the business of whoever puts them in and takes them out.

use std::any::Any;
use std::fmt;

/// A stream on its way to a connection.
pub struct OutgoingStream {
    stream: Box<dyn Any + Send>,
    window: u32,
}

impl OutgoingStream {
    /// A stream that lets its consumer be so many items behind; 0 if its sender does not say.
    pub fn new(stream: impl Any + Send, window: u32) -> Self {
        Self { stream: Box::new(stream), window }
    }

    /// The most items that it may be ahead of its consumer; 0 if its sender does not say.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// What was put in, if it is of this type.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        self.stream.downcast().ok().map(|stream| *stream)
    }
}

impl fmt::Debug for OutgoingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingStream").field("window", &self.window).finish_non_exhaustive()
    }
}

/// A stream that came with a message: what whoever reads it holds.
pub struct IncomingStream(Box<dyn Any + Send>);

impl IncomingStream {
    /// A stream that is read by this.
    pub fn new(handle: impl Any + Send) -> Self {
        Self(Box::new(handle))
    }

    /// What was put in, if it is of this type.
    #[must_use]
    pub fn into_inner<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|handle| *handle)
    }
}

impl IncomingStream {
    /// What was put in, if it is of this type.
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
