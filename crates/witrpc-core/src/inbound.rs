//! The receiving half of a session: frames off the transport, opened, checked, and put together to messages.
//!
//! Pure: it holds the transport's receiver as a trait object, and neither waits, locks nor reads a clock. Everything
//! here comes from a peer that is not trusted: every rule of `docs/wire.md` that it could break is checked, and ends in
//! [`Error::Protocol`].
//!
//! # Invariants
//!
//! - **N1** What is allocated follows what has arrived: never more than twice of it, or [`FIRST_RESERVE`], and for all
//!   messages together [`AHEAD`] more; and for each entry of a blob table that has arrived, a length and a
//!   [`Bytes`](bytes::Bytes).
//! - **N2** The declared sizes of all messages being received, waiting and being handled are within `max_buffered`. An
//!   event, or a stream's item, leaves that account when its window takes it over.
//! - **N3** Before the session is open, only handshake messages are taken, one at a time and of bounded size.

mod partial;

use std::collections::HashMap;
use std::sync::Arc;

use self::partial::Partial;
use crate::buffers;
use crate::cipher::Opener;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Header, Kind};
use crate::ledger::{Charge, Ledger};
use crate::message::{Content, HEAD_LEN, Head, text};
use crate::options::Limits;
use crate::sink::Window;
use crate::transport::RecordReceiver;
use crate::wire::{Fields, len_u64, u32_len};

/// How much may be reserved for a section before more than its first chunk has arrived.
const FIRST_RESERVE: usize = 64 << 10;
/// How much may be reserved on the strength of declared lengths alone: enough for what is commonly sent to have its final
/// allocation from the start, instead of being moved as it grows.
const AHEAD: usize = 4 << 20;
/// The largest handshake message: a catalog of some thousand methods.
const MAX_HANDSHAKE: u64 = 1 << 20;
/// The largest handshake message from a client: a token, and a catalog of some hundred methods.
const MAX_UNAUTHORIZED: u64 = 64 << 10;

/// What a frame brought.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A handshake message.
    Handshake {
        kind: Kind,
        head: Head,
        content: Content,
    },
    Request {
        id: u64,
        head: Head,
        content: Content,
        charge: Charge,
    },
    Response {
        id: u64,
        head: Head,
        content: Content,
        charge: Charge,
    },
    /// The caller of this request is gone.
    Cancel(u64),
    /// The rest of this message will not come. `request` tells whose message it was.
    Aborted {
        id: u64,
        request: bool,
    },
    Credit(u64),
    Ping(u64),
    Pong(u64),
    Goodbye(String),
    /// A value of an event.
    Event {
        id: u64,
        head: Head,
        content: Content,
        charge: Charge,
    },
    Subscribe {
        id: u64,
        service: u16,
        event: u16,
        window: Window,
    },
    Unsubscribe(u64),
    /// The subscriber has taken values.
    EventAck {
        id: u32,
        values: u32,
    },
    /// The subscription was refused, or its event is gone.
    EventEnd {
        id: u64,
        reason: String,
    },
    /// An item of a stream of the peer's.
    StreamItem {
        id: u64,
        head: Head,
        content: Content,
        charge: Charge,
    },
    /// Nothing follows in a stream of the peer's.
    StreamEnd {
        id: u64,
        head: Head,
        content: Content,
    },
    /// The peer takes more of a stream.
    StreamCredit {
        id: u64,
        items: u32,
        bytes: u64,
    },
    /// The peer takes nothing more of a stream.
    StreamCancel(u64),
    /// A chunk; its message is not complete.
    Part,
}

impl Incoming {
    /// A message that is complete.
    fn message(header: &Header, head: Head, content: Content, charge: Charge) -> Self {
        let id = header.id;
        match header.kind {
            Kind::Request => Self::Request { id, head, content, charge },
            Kind::Response => Self::Response { id, head, content, charge },
            Kind::Event => Self::Event { id, head, content, charge },
            Kind::StreamItem => Self::StreamItem { id, head, content, charge },
            Kind::StreamEnd => Self::StreamEnd { id, head, content },
            kind => Self::Handshake { kind, head, content },
        }
    }
}

/// What this half lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Handshake messages up to this many bytes.
    Handshake(u64),
    Open,
}

/// The receiving half of a session.
pub(crate) struct Inbound {
    pub(crate) receiver: Box<dyn RecordReceiver>,
    opener: Option<Box<dyn Opener>>,
    phase: Phase,
    limits: Limits,
    partials: HashMap<(Kind, u64), Partial>,
    /// What is left of [`AHEAD`]: the rest is with the partials.
    ahead: usize,
    /// Bytes ever charged to the peer.
    charged: u64,
    ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("phase", &self.phase)
            .field("partials", &self.partials.len())
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// A half that takes handshake messages; from a client (`from_client`) only short ones.
    pub(crate) fn new(
        receiver: Box<dyn RecordReceiver>,
        limits: Limits,
        ledger: Arc<Ledger>,
        from_client: bool,
    ) -> Self {
        Self {
            receiver,
            opener: None,
            phase: Phase::Handshake(if from_client { MAX_UNAUTHORIZED } else { MAX_HANDSHAKE }),
            limits,
            partials: HashMap::new(),
            ahead: AHEAD,
            charged: 0,
            ledger,
        }
    }

    /// From the next frame on, frames are opened.
    pub(crate) fn open_with(&mut self, opener: Box<dyn Opener>) {
        self.opener = Some(opener);
    }

    /// The handshake is over.
    pub(crate) const fn open(&mut self) {
        self.phase = Phase::Open;
    }

    /// Messages of which a part has arrived.
    pub(crate) fn partial_count(&self) -> usize {
        self.partials.len()
    }

    /// Asserts N1.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check(&self) {
        let ahead = self.partials.values().map(Partial::check).sum::<usize>();
        assert_eq!(ahead + self.ahead, AHEAD);
    }

    /// Takes the next frame, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer broke a rule; the connection must end.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Error> {
        let mut head = [0; HEADER_LEN];
        let Some(record_len) = self.receiver.peek(&mut head)? else { return Ok(None) };
        let header = Header::decode(&head)?;
        let overhead = self.opener.as_ref().map_or(0, |opener| opener.overhead());
        if record_len != HEADER_LEN + u32_len(header.len) + overhead {
            return Err(protocol("a frame's length differs from its record's"));
        }
        self.check_phase(&header)?;
        let incoming = if header.kind.is_message() {
            self.take_chunk(&head, &header, overhead)
        } else {
            self.take_whole(&head, &header, overhead)
        };
        self.receiver.consume();
        incoming
    }

    /// Handshake first, then everything else. [wire.phase]
    fn check_phase(&self, header: &Header) -> Result<(), Error> {
        let handshake = header.kind.is_handshake();
        match self.phase {
            Phase::Handshake(_) if handshake || header.kind == Kind::Goodbye => Ok(()),
            Phase::Handshake(_) => Err(protocol("a frame before the handshake was over")),
            Phase::Open if handshake => Err(protocol("a handshake frame after the handshake")),
            Phase::Open => Ok(()),
        }
    }

    fn take_whole(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
    ) -> Result<Option<Incoming>, Error> {
        let mut payload = buffers::take();
        let payload_due = matches!(
            header.kind,
            Kind::Goodbye | Kind::Subscribe | Kind::EventEnd | Kind::StreamCredit
        );
        if header.len != 0 && !payload_due {
            return Err(protocol("a payload where none is due"));
        }
        self.read(head, header, overhead, &mut payload)?;
        let incoming = match header.kind {
            Kind::Cancel => Incoming::Cancel(header.id),
            Kind::Credit => Incoming::Credit(header.id),
            Kind::Ping => Incoming::Ping(header.id),
            Kind::Pong => Incoming::Pong(header.id),
            Kind::AbortRequest => self.abort(Kind::Request, header.id)?,
            Kind::AbortResponse => self.abort(Kind::Response, header.id)?,
            Kind::Subscribe => subscribe(header.id, &payload)?,
            Kind::Unsubscribe => Incoming::Unsubscribe(header.id),
            Kind::EventAck => event_ack(header.id),
            Kind::EventEnd => Incoming::EventEnd { id: header.id, reason: text(&payload) },
            Kind::StreamCredit => stream_credit(header.id, &payload)?,
            Kind::StreamCancel => Incoming::StreamCancel(header.id),
            _ => Incoming::Goodbye(text(&payload)),
        };
        buffers::give(payload);
        Ok(Some(incoming))
    }

    /// The rest of a message will not come. [wire.abort]
    fn abort(&mut self, kind: Kind, id: u64) -> Result<Incoming, Error> {
        let Some(partial) = self.partials.remove(&(kind, id)) else {
            return Err(protocol("an abort of a message that was not being sent"));
        };
        self.ahead += partial.ahead;
        Ok(Incoming::Aborted { id, request: kind == Kind::Request })
    }

    /// A chunk of a message that has begun, or its first. [wire.chunk]
    fn take_chunk(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
    ) -> Result<Option<Incoming>, Error> {
        let key = (header.kind, header.id);
        let mut partial = if header.first {
            if !self.partials.is_empty() && self.partials.contains_key(&key) {
                return Err(protocol("a message began twice"));
            }
            // N3: else what a client began and never ended would stay for as long as it is connected.
            if matches!(self.phase, Phase::Handshake(_)) && !self.partials.is_empty() {
                return Err(protocol("two handshake messages at a time"));
            }
            let (message, section) = self.begin(head, header, overhead)?;
            let mut charge = Charge::new(&self.ledger);
            let body = u64::from(message.body_len);
            self.charge(&mut charge, body, body + message.tables_len())?;
            if header.last && message.tables_len() == 0 {
                return self.take_plain(header, message, section, charge);
            }
            Partial::new(message, section, charge)
        } else {
            let Some(mut partial) = self.partials.remove(&key) else {
                return Err(protocol("a chunk of a message that had not begun"));
            };
            let target = partial.section(u32_len(header.len), overhead, &mut self.ahead)?;
            self.read(head, header, overhead, target)?;
            partial
        };
        self.settle(&mut partial)?;
        if header.last != partial.is_complete() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        if header.last {
            self.ahead += partial.ahead;
            return Ok(Some(partial.finish(header)?));
        }
        if self.partials.len() > u32_len(self.limits.max_in_flight) {
            return Err(protocol("more messages at a time than calls allowed"));
        }
        self.partials.insert(key, partial);
        Ok(Some(Incoming::Part))
    }

    /// A message that is one chunk, with nothing beside its body.
    fn take_plain(
        &self,
        header: &Header,
        head: Head,
        section: Vec<u8>,
        charge: Charge,
    ) -> Result<Option<Incoming>, Error> {
        if len_u64(section.len()) != head.first_section_len() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        let content = Content::received_plain(section, &head);
        Ok(Some(Incoming::message(header, head, content, charge)))
    }

    /// Reads the first chunk of a message, and checks its head.
    fn begin(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
    ) -> Result<(Head, Vec<u8>), Error> {
        if u32_len(header.len) < HEAD_LEN {
            return Err(protocol("a message shorter than its head"));
        }
        let mut section = buffers::take();
        self.read(head, header, overhead, &mut section)?;
        let message = Head::decode(&section)?;
        if len_u64(section.len()) > message.first_section_len() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        // [wire.streams]
        if message.stream_count > 0 && !matches!(header.kind, Kind::Request | Kind::Response) {
            return Err(protocol("a stream where there can be none"));
        }
        if let Phase::Handshake(max) = self.phase
            && message.first_section_len() > max
        {
            return Err(protocol("a handshake message that is too large"));
        }
        Ok((message, section))
    }

    /// Steps over what is complete, and reads the blob table once it is there.
    fn settle(&mut self, partial: &mut Partial) -> Result<(), Error> {
        if partial.blob_lens.is_none() && len_u64(partial.first.len()) == partial.first_len {
            let blobs = partial.read_table()?;
            let handshake = matches!(self.phase, Phase::Handshake(_));
            if handshake && partial.head.blob_count > 0 {
                return Err(protocol("a blob in the handshake"));
            }
            let size = u64::from(partial.head.body_len).saturating_add(blobs);
            self.charge(&mut partial.charge, size, blobs)?;
        }
        partial.step_blobs();
        Ok(())
    }

    /// Puts `bytes` on the peer's account, for a message of `size` so far. [wire.credit] [wire.size]
    fn charge(&mut self, charge: &mut Charge, size: u64, bytes: u64) -> Result<(), Error> {
        if matches!(self.phase, Phase::Handshake(_)) {
            return Ok(());
        }
        if size > self.limits.max_message_size {
            return Err(protocol("a message larger than max_message_size"));
        }
        self.charged = self.charged.saturating_add(bytes);
        if self.charged - self.ledger.returned() > self.limits.max_buffered {
            return Err(protocol("more bytes than there was credit for"));
        }
        charge.add(bytes);
        Ok(())
    }

    /// Appends the current record's payload to `out`, opened.
    fn read(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let from = out.len();
        self.receiver.append_to(HEADER_LEN, u32_len(header.len) + overhead, out);
        if let Some(opener) = &mut self.opener {
            opener.open(head, out, from).map_err(|e| Error::Protocol(e.to_string()))?;
        }
        Ok(())
    }
}

/// [wire.subscribe]
fn subscribe(id: u64, payload: &[u8]) -> Result<Incoming, Error> {
    let mut fields = Fields::new(payload);
    let (service, event) = (fields.u16("subscribe")?, fields.u16("subscribe")?);
    let window = Window { values: fields.u32("subscribe")?, bytes: fields.u64("subscribe")? };
    fields.end("subscribe")?;
    if window.values == 0 || window.bytes == 0 {
        return Err(protocol("a subscription that can take nothing"));
    }
    Ok(Incoming::Subscribe { id, service, event, window })
}

/// [wire.stream.credit]
fn stream_credit(id: u64, payload: &[u8]) -> Result<Incoming, Error> {
    let mut fields = Fields::new(payload);
    let (items, bytes) = (fields.u32("stream credit")?, fields.u64("stream credit")?);
    fields.end("stream credit")?;
    Ok(Incoming::StreamCredit { id, items, bytes })
}

/// [wire.event.ack]: two numbers in one id.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of the id")]
const fn event_ack(id: u64) -> Incoming {
    Incoming::EventAck { id: id as u32, values: (id >> 32) as u32 }
}

fn protocol(rule: &str) -> Error {
    Error::Protocol(rule.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Incoming, Window, event_ack, stream_credit, subscribe};

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn subscribe_is_frozen() {
        let payload = [2, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0];
        let Incoming::Subscribe { id, service, event, window } = subscribe(5, &payload).unwrap()
        else {
            panic!("another frame")
        };
        assert_eq!((id, service, event), (5, 2, 1));
        assert_eq!(window, Window { values: 256, bytes: 1 << 16 });
        assert!(subscribe(5, &payload[1..]).is_err());
        assert!(subscribe(5, &[&payload[..], &[0]].concat()).is_err());
        for empty in [4..8, 8..16] {
            let mut payload = payload;
            payload[empty].fill(0);
            assert!(subscribe(5, &payload).is_err(), "a window of nothing");
        }
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn stream_credit_is_frozen() {
        let payload = [0, 1, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0];
        let Incoming::StreamCredit { id, items, bytes } = stream_credit(7, &payload).unwrap()
        else {
            panic!("another frame")
        };
        assert_eq!((id, items, bytes), (7, 256, 1 << 20));
        assert!(stream_credit(7, &payload[1..]).is_err());
        assert!(stream_credit(7, &[&payload[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_acknowledgement_is_two_numbers() {
        let Incoming::EventAck { id, values } = event_ack(7 << 32 | 9) else {
            panic!("another frame")
        };
        assert_eq!((id, values), (9, 7));
    }
}
