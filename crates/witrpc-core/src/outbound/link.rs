//! The transport's sending end as frames see it: sealed, and pushed with their header.

use crate::cipher::Sealer;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Header};
use crate::transport::RecordSender;

/// The transport's sender and what seals for it.
pub(super) struct Link {
    pub(super) sender: Box<dyn RecordSender>,
    pub(super) sealer: Option<Box<dyn Sealer>>,
    /// Where a payload is sealed before it is copied to the ring; small enough to stay in cache.
    scratch: Vec<u8>,
}

impl Link {
    pub(super) fn new(sender: Box<dyn RecordSender>) -> Self {
        Self { sender, sealer: None, scratch: Vec::new() }
    }

    pub(super) fn overhead(&self) -> usize {
        self.sealer.as_ref().map_or(0, |sealer| sealer.overhead())
    }

    /// Pushes one frame. Returns `false`, with the sender armed (O5), if there is no room.
    pub(super) fn push(
        &mut self,
        header: &Header,
        payload: &[u8],
        spare: usize,
    ) -> Result<bool, Error> {
        let head = header.encode();
        let len = HEADER_LEN + payload.len() + self.overhead();
        let Some(sealer) = &mut self.sealer else {
            if self.sender.try_push(&head, payload, spare)? {
                return Ok(true);
            }
            // What is there has to be visible before we sleep on room, or nobody makes any.
            self.sender.publish()?;
            return Ok(self.sender.arm(len, spare)? && self.sender.try_push(&head, payload, spare)?);
        };
        if !self.sender.has_room(len, spare)? {
            self.sender.publish()?;
            if !self.sender.arm(len, spare)? {
                return Ok(false);
            }
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(payload);
        sealer.seal(&head, &mut self.scratch).map_err(|e| Error::Protocol(e.to_string()))?;
        let pushed = self.sender.try_push(&head, &self.scratch, 0)?;
        debug_assert!(pushed, "room was just found, and only we fill it");
        Ok(pushed)
    }
}
