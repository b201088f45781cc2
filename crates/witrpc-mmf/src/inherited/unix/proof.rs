//! Who the other side of a socket pair is, by what the system says. `[seg.inherited.credentials]`
//!
//! The socket pair names its maker, so the worker knows its host ([`HostProof`]). The host asks for the credentials of whoever sends the
//! first message ([`expect`]), which is the worker's before anything else ([`show`]). Whoever reads the host's end next, be it for a
//! descriptor or for these credentials, takes note of them under a lock ([`Known`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::net::SendFlags;
use witrpc_core::transport::{Credentials, PeerProof};

/// The first message: a number for which no descriptor comes, and nobody waits.
const SHOWN: u64 = u64::MAX;

#[cfg(not(target_vendor = "apple"))]
pub(super) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
pub(super) const SEND: SendFlags = SendFlags::DONTWAIT;

/// The credentials of the first message, once it was read: process, user and group.
pub(super) type Known = Arc<Mutex<Option<(u32, u32, u32)>>>;

pub(super) fn lock(known: &Known) -> MutexGuard<'_, Option<(u32, u32, u32)>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a host can prove about its worker.
#[derive(Debug)]
pub(super) struct WorkerProof {
    /// Not kept open: the worker ends when the host lets go of it, and the user may keep this for longer.
    socket: Weak<UnixStream>,
    known: Known,
    process_id: Option<u32>,
    pidfd: Option<Arc<OwnedFd>>,
}

impl WorkerProof {
    pub(super) const fn new(socket: Weak<UnixStream>, known: Known) -> Self {
        Self { socket, known, process_id: None, pidfd: None }
    }

    /// The worker is this process, which the host has started; and this is its pidfd.
    pub(super) fn of_process(self, process_id: Option<u32>, pidfd: Option<&OwnedFd>) -> Self {
        let pidfd = pidfd.and_then(|pidfd| pidfd.try_clone().ok()).map(Arc::new);
        Self { process_id, pidfd, ..self }
    }
}

impl PeerProof for WorkerProof {
    fn credentials(&self) -> Credentials {
        let mut proven = Credentials::default();
        let mut known = lock(&self.known);
        if known.is_none() {
            *known = self.socket.upgrade().and_then(|socket| system::peek(&socket));
        }
        // Its user is that of the message only if the process that was started has sent it.
        if let Some((process, user, group)) = *known {
            if self.process_id.is_none_or(|started| started == process) {
                proven = proven.with_user_id(user).with_group_id(group);
            }
        }
        drop(known);
        if let Some(process_id) = self.process_id {
            proven = proven.with_process_id(process_id);
        }
        match &self.pidfd {
            Some(pidfd) => proven.with_process_handle(Arc::clone(pidfd)),
            None => proven,
        }
    }
}

/// What a worker knows about its host.
#[derive(Debug)]
pub(super) struct HostProof(Credentials);

impl HostProof {
    /// The maker of this socket pair; and its pidfd, if it gave one.
    pub(super) fn of(socket: &UnixStream, pidfd: Option<&OwnedFd>) -> Self {
        let mut proven = Credentials::default();
        if let Some((process, user, group)) = system::maker(socket) {
            proven = proven.with_user_id(user).with_group_id(group);
            // 0 is a process in a namespace that this one cannot see.
            if process != 0 {
                proven = proven.with_process_id(process);
            }
        }
        let pidfd = pidfd.and_then(|pidfd| pidfd.try_clone().ok());
        Self(match pidfd {
            Some(pidfd) => proven.with_process_handle(Arc::new(pidfd)),
            None => proven,
        })
    }
}

impl PeerProof for HostProof {
    fn credentials(&self) -> Credentials {
        self.0.clone()
    }
}

/// Has the system attach credentials to all that comes out of this end.
///
/// # Errors
///
/// Whatever the system says.
pub(super) fn expect(socket: &UnixStream) -> io::Result<Known> {
    system::attach(socket)?;
    Ok(Known::default())
}

/// Sends the first message, to which the system attaches the credentials of this process.
///
/// # Errors
///
/// Whatever the system says, but for a host that is gone already: that is noticed elsewhere.
pub(super) fn show(socket: &UnixStream) -> io::Result<()> {
    use rustix::io::Errno;

    let mut nothing = rustix::net::SendAncillaryBuffer::default();
    let number = SHOWN.to_le_bytes();
    loop {
        let sent = rustix::net::sendmsg(socket, &[io::IoSlice::new(&number)], &mut nothing, SEND);
        match sent {
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) | Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) mod system {
    use std::io::{self, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixStream;

    use rustix::net::sockopt::{set_socket_passcred, socket_peercred};
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, UCred, recvmsg};

    fn ids(credentials: UCred) -> Option<(u32, u32, u32)> {
        let process = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()?;
        Some((process, credentials.uid.as_raw(), credentials.gid.as_raw()))
    }

    pub(super) fn attach(socket: &UnixStream) -> io::Result<()> {
        Ok(set_socket_passcred(socket, true)?)
    }

    pub(super) fn maker(socket: &UnixStream) -> Option<(u32, u32, u32)> {
        ids(socket_peercred(socket).ok()?)
    }

    /// The credentials that came with a message.
    pub(crate) fn of_message(message: &RecvAncillaryMessage<'_>) -> Option<(u32, u32, u32)> {
        match message {
            RecvAncillaryMessage::ScmCredentials(credentials) => ids(*credentials),
            _ => None,
        }
    }

    /// The credentials of the next message, which stays. A descriptor that comes with it stays, too.
    pub(super) fn peek(socket: &UnixStream) -> Option<(u32, u32, u32)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags).ok()?;
        ancillary.drain().find_map(|message| of_message(&message))
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) mod system {
    use std::io;
    use std::os::unix::net::UnixStream;

    use rustix::net::RecvAncillaryMessage;

    #[expect(clippy::unnecessary_wraps, reason = "other systems may refuse it")]
    pub(super) const fn attach(_socket: &UnixStream) -> io::Result<()> {
        Ok(())
    }

    pub(super) const fn maker(_socket: &UnixStream) -> Option<(u32, u32, u32)> {
        None
    }

    pub(crate) const fn of_message(_message: &RecvAncillaryMessage<'_>) -> Option<(u32, u32, u32)> {
        None
    }

    pub(super) const fn peek(_socket: &UnixStream) -> Option<(u32, u32, u32)> {
        None
    }
}
