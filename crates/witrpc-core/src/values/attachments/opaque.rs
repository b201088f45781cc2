//! Type-erased streams within a message: `witrpc-runtime` puts them in and takes them out.

use std::any::Any;
use std::fmt;

/// A stream within a message that is to be sent.
pub struct OutgoingStream {
    stream: Box<dyn Any + Send>,
    window: u32,
}

impl OutgoingStream {
    /// A stream with this window, in items; 0 is the default.
    pub fn new(stream: impl Any + Send, window: u32) -> Self {
        Self { stream: Box::new(stream), window }
    }

    /// The window, in items; 0 is the default.
    #[must_use]
    pub const fn window(&self) -> u32 {
        self.window
    }

    /// The value that was put in, if it has this type.
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
