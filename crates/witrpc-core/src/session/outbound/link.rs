//! Pushes frames to the transport: seals them, and adds their headers.

use zeroize::Zeroize;

use crate::error::Error;
use crate::security::cipher::Sealer;
use crate::session::outbound::outgoing::Outgoing;
use crate::transport::RecordSender;
use crate::wire::frame::{HEADER_LEN, Header};

/// The transport's sender, and the sealer.
pub(super) struct Link {
    pub(super) sender: Box<dyn RecordSender>,
    pub(super) sealer: Option<Box<dyn Sealer>>,
    /// The buffer in which a payload is sealed before it is copied to the ring; small enough to stay in the CPU cache.
    scratch: Vec<u8>,
    /// The room that the last frame that did not fit needs: its record, and the bytes to be left free.
    wanted: Option<(usize, usize)>,
    /// Whether the peer was asked to notify us of that room.
    armed: bool,
    /// Frames were pushed that are not published.
    unpublished: bool,
}

impl Link {
    pub(super) fn new(sender: Box<dyn RecordSender>) -> Self {
        let (scratch, wanted) = (Vec::new(), None);
        Self { sender, sealer: None, scratch, wanted, armed: false, unpublished: false }
    }

    pub(super) fn overhead(&self) -> usize {
        self.sealer.as_ref().map_or(0, |sealer| sealer.overhead())
    }

    /// Pushes one frame. If there is no room, notes what it needs (O5), and returns `false`.
    pub(super) fn push(
        &mut self,
        header: &Header,
        payload: &[u8],
        spare: usize,
    ) -> Result<bool, Error> {
        let head = header.encode();
        let len = HEADER_LEN + payload.len() + self.overhead();
        let pushed = match &mut self.sealer {
            None => self.sender.try_push(&head, payload, spare)?,
            Some(_) if !self.sender.has_room(len, spare)? => false,
            Some(sealer) => {
                self.scratch.clear();
                self.scratch.extend_from_slice(payload);
                let sealed = sealer.seal(&head, &mut self.scratch);
                sealed.map_err(|error| {
                    self.scratch.zeroize(); // It may be in clear.
                    Error::Protocol(error.to_string())
                })?;
                let pushed = self.sender.try_push(&head, &self.scratch, 0)?;
                debug_assert!(pushed, "room was just found, and only we fill it");
                pushed
            }
        };
        self.wanted = if pushed { None } else { Some((len, spare)) };
        self.unpublished |= pushed;
        Ok(pushed)
    }

    /// Makes all frames visible that were pushed.
    pub(super) fn publish(&mut self) -> Result<(), Error> {
        if self.unpublished {
            self.unpublished = false;
            self.sender.publish()?;
        }
        Ok(())
    }

    /// Whether frames were pushed that are not published.
    pub(super) const fn has_unpublished(&self) -> bool {
        self.unpublished
    }

    /// Pushes a small message, whole or not at all: so the peer never has only a part of it.
    pub(super) fn push_all(&mut self, message: &mut Outgoing) -> Result<bool, Error> {
        loop {
            let (header, payload) = message.chunk(usize::MAX);
            if !self.push(&header, payload, message.later_len())? {
                debug_assert!(
                    !message.started,
                    "room for all of it was found, and only we fill it"
                );
                return Ok(false);
            }
            let len = payload.len();
            if message.advance(len) {
                return Ok(true);
            }
        }
    }

    /// Forgets the frame that did not fit.
    pub(super) const fn want_nothing(&mut self) {
        self.wanted = None;
    }

    /// Whether a frame did not fit.
    pub(super) const fn wants_room(&self) -> bool {
        self.wanted.is_some()
    }

    /// Whether there is room for the frame that did not fit. From here on a task polls for room, and the peer need not notify us.
    pub(super) fn look_for_room(&mut self) -> Result<bool, Error> {
        let Some((len, spare)) = self.wanted else { return Ok(false) };
        if std::mem::take(&mut self.armed) {
            self.sender.disarm();
        }
        Ok(self.sender.has_room(len, spare)?)
    }

    /// Asks the peer to notify us once the frame fits. Returns `true`, and asks for nothing, if it fits already.
    pub(super) fn arm(&mut self) -> Result<bool, Error> {
        let Some((len, spare)) = self.wanted else { return Ok(false) };
        let fits = self.sender.arm(len, spare)?;
        self.armed = !fits;
        Ok(fits)
    }
}
