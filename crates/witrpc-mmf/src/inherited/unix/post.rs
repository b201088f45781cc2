//! Descriptors that cross a socket pair, each with a number. `[seg.inherited.descriptor]`

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, recvmsg, sendmsg,
};

use super::Lifeline;
use super::proof::{self, Known, SEND};
use crate::event::fifo::{self, Pipe};

/// Bytes of the number in front of each descriptor.
const NUMBER: usize = 8;

/// Sends descriptors.
#[derive(Debug)]
pub struct Outbox(UnixStream);

/// Receives descriptors.
#[derive(Debug)]
pub struct Inbox {
    socket: UnixStream,
    /// The same socket, watched by the runtime.
    readiness: Pipe,
    number: [u8; NUMBER],
    filled: usize,
    /// The one that came with these bytes.
    descriptor: Option<OwnedFd>,
    /// At the host's end: what its worker has shown.
    known: Option<Known>,
}

/// A descriptor that has arrived, with its number. `None` if this process had no room for it.
pub type Received = (u64, Option<OwnedFd>);

impl Lifeline {
    /// Opens both directions for descriptors. To be done once.
    ///
    /// # Errors
    ///
    /// If there is no tokio runtime with I/O; whatever else the system says.
    pub fn post(&self) -> io::Result<(Outbox, Inbox)> {
        let [outgoing, incoming] = [self.socket.try_clone()?, self.socket.try_clone()?];
        let readiness = fifo::register(incoming.try_clone()?.into())?;
        let inbox = Inbox {
            socket: incoming,
            readiness,
            number: [0; NUMBER],
            filled: 0,
            descriptor: None,
            known: self.known.clone(),
        };
        Ok((Outbox(outgoing), inbox))
    }
}

impl Outbox {
    /// Sends a copy of a descriptor. Returns `false` if there is no room at the moment.
    ///
    /// # Errors
    ///
    /// If the other side has ended; whatever else the system says.
    pub fn try_send(&self, number: u64, descriptor: impl AsFd) -> io::Result<bool> {
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let number = number.to_le_bytes();
        loop {
            return match sendmsg(&self.0, &[IoSlice::new(&number)], &mut ancillary, SEND) {
                Err(Errno::INTR) => continue,
                // The second: there are too many descriptors under way between processes of this user.
                Err(Errno::AGAIN | Errno::TOOMANYREFS) => Ok(false),
                Ok(NUMBER) => Ok(true),
                // The room of a socket is much larger, and a message of this size is not torn.
                Ok(_) => Err(io::ErrorKind::WriteZero.into()),
                Err(error) => Err(error.into()),
            };
        }
    }
}

impl Inbox {
    /// Waits for the next descriptor. `None` is the end of the other side. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub async fn receive(&mut self) -> io::Result<Option<Received>> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Received>>> {
        loop {
            match self.try_receive() {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(read) => {
                    self.filled += read;
                    if self.filled < NUMBER {
                        continue;
                    }
                    self.filled = 0;
                    let number = u64::from_le_bytes(self.number);
                    return Poll::Ready(Ok(Some((number, self.descriptor.take()))));
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
            // Forgotten first: what comes in between is reported anew.
            ready!(self.readiness.poll_read_ready(cx))?;
            self.readiness.forget_ready()?;
        }
    }

    /// Reads some of a number, and takes the descriptor that comes with it. More than one at a time are closed by the system.
    fn try_receive(&mut self) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); RECEIVED];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // Held until the credentials are known: whoever asks for them finds them here or in the socket.
        let mut known = self.known.as_ref().map(proof::lock);
        let mut into = [IoSliceMut::new(&mut self.number[self.filled..])];
        let received = recvmsg(&self.socket, &mut into, &mut ancillary, RECEIVE)?;
        for message in ancillary.drain() {
            if let (Some(known), Some(shown)) = (&mut known, proof::system::of_message(&message)) {
                known.get_or_insert(shown);
            }
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    mark(&descriptor)?;
                    self.descriptor = Some(descriptor);
                }
            }
        }
        Ok(received.bytes)
    }
}

/// The room for a descriptor, and for credentials.
#[cfg(target_os = "linux")]
const RECEIVED: usize = rustix::cmsg_space!(ScmRights(1), ScmCredentials(1));
#[cfg(not(target_os = "linux"))]
const RECEIVED: usize = rustix::cmsg_space!(ScmRights(1));

#[cfg(any(target_os = "linux", target_os = "android"))]
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT;

/// It is closed on exec already.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
const fn mark(_descriptor: &OwnedFd) -> rustix::io::Result<()> {
    Ok(())
}

/// Marks it as closed on exec.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn mark(descriptor: &OwnedFd) -> rustix::io::Result<()> {
    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)
}
