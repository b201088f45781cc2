//! The sign of life on Windows: the pipe by which the two sides met stays open as long as both live. `[seg.windows.death]`
//!
//! tokio waits on it, together with everything else of its runtime. Nobody has the handles but the two processes: they
//! are not inherited, and there is no `fork`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use witrpc_core::text::Escaped;
use witrpc_core::transport::{TransportError, Waiter, Wake};

/// One end of the pipe, and what is still to be said through it.
#[derive(Debug)]
pub(crate) struct Line<P> {
    pipe: P,
    unsaid: Vec<u8>,
    /// Sticky: once gone, the peer stays gone.
    gone: bool,
}

impl<P: AsyncRead + AsyncWrite + Unpin> Line<P> {
    pub(crate) const fn new(pipe: P) -> Self {
        Self { pipe, unsaid: Vec::new(), gone: false }
    }

    pub(crate) const fn pipe(&self) -> &P {
        &self.pipe
    }

    /// Says it as soon as this is polled.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.unsaid.extend_from_slice(bytes);
    }

    /// Says what is to be said; pending as long as the runtime does not know that it can, which is not the peer's doing: the pipe
    /// has room for far more than is ever said.
    pub(crate) fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.gone && !self.unsaid.is_empty() {
            match ready!(Pin::new(&mut self.pipe).poll_write(cx, &self.unsaid)) {
                Ok(written) => drop(self.unsaid.drain(..written)),
                // What it said before it went can still be heard.
                Err(_) => self.unsaid.clear(),
            }
        }
        Poll::Ready(())
    }

    /// Says what is to be said, and hears what there is: 0 bytes are the end.
    pub(crate) fn poll_hear(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let _said = self.poll_say(cx);
        if self.gone {
            return Poll::Ready(Ok(0));
        }
        let mut into = ReadBuf::new(into);
        let Poll::Ready(read) = Pin::new(&mut self.pipe).poll_read(cx, &mut into) else {
            return Poll::Pending;
        };
        // However it ends: there is nothing to be learnt from the way.
        if let Err(error) = read {
            tracing::trace!(error = %Escaped(&error), "the other end of a pipe is gone");
        }
        self.gone = into.filled().is_empty();
        Poll::Ready(Ok(into.filled().len()))
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin + Send + 'static> Waiter for Line<P> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        // Once it serves a connection, nothing is said.
        let mut nothing = [0; 16];
        match self.poll_hear(cx, &mut nothing)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(Ok(Wake::PeerGone)),
            Poll::Ready(_) => Poll::Ready(Ok(Wake::Rung)),
        }
    }

    /// It stays with its runtime, to whose completion port the system has bound it, and wakes across.
    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        Ok(self)
    }
}
