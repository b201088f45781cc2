//! Detects the peer's death on Windows: the pipe over which the two sides connected stays open as long as both live.
//! `[seg.windows.death]`
//!
//! tokio waits on the pipe, together with everything else of its runtime. Only the two processes have its handles: they are not
//! inherited, and there is no `fork`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use witrpc_core::text::Escaped;
use witrpc_core::transport::{TransportError, Waiter, Wake};

/// One end of the pipe, and bytes that are still to be written to it.
#[derive(Debug)]
pub(crate) struct PeerPipe<P> {
    pipe: P,
    unsent: Vec<u8>,
    /// Sticky: once gone, the peer stays gone.
    gone: bool,
}

impl<P: AsyncRead + AsyncWrite + Unpin> PeerPipe<P> {
    pub(crate) const fn new(pipe: P) -> Self {
        Self { pipe, unsent: Vec::new(), gone: false }
    }

    pub(crate) const fn pipe(&self) -> &P {
        &self.pipe
    }

    /// Queues bytes, which are written when this is polled.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Writes the queued bytes. Pending until the runtime reports that the pipe is writable; the peer cannot delay that, as the pipe has
    /// room for far more than is ever written.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.gone && !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.pipe).poll_write(cx, &self.unsent)) {
                Ok(written) => drop(self.unsent.drain(..written)),
                // What the peer wrote before it closed the pipe can still be read.
                Err(_) => self.unsent.clear(),
            }
        }
        Poll::Ready(())
    }

    /// Writes the queued bytes, and reads what has arrived; 0 bytes are the end of the pipe.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let _written = self.poll_write(cx);
        if self.gone {
            return Poll::Ready(Ok(0));
        }
        let mut into = ReadBuf::new(into);
        let Poll::Ready(read) = Pin::new(&mut self.pipe).poll_read(cx, &mut into) else {
            return Poll::Pending;
        };
        // Every error means the same: the peer is gone.
        if let Err(error) = read {
            tracing::trace!(error = %Escaped(&error), "the other end of a pipe is closed");
        }
        self.gone = into.filled().is_empty();
        Poll::Ready(Ok(into.filled().len()))
    }
}

impl<P: AsyncRead + AsyncWrite + Unpin + Send + 'static> Waiter for PeerPipe<P> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        // The peer writes nothing once the connection is open.
        let mut nothing = [0; 16];
        match self.poll_read(cx, &mut nothing)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(Ok(Wake::PeerGone)),
            Poll::Ready(_) => Poll::Ready(Ok(Wake::Rung)),
        }
    }

    /// The pipe stays with its runtime, to whose completion port the system has bound it, and wakes tasks of other runtimes.
    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        Ok(self)
    }
}
