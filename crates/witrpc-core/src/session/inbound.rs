//! The receiving half of a session: reads frames from the transport, opens and checks them, and reassembles messages.
//!
//! Pure: it holds the transport's receiver as a trait object, and neither waits, locks nor reads a clock. All input comes from an
//! untrusted peer. Every rule of `docs/wire.md` that the peer could break is checked; a violation is an [`Error::Protocol`].
//!
//! # Invariants
//!
//! - **N1** A section gets its final allocation, of its declared length, when its second chunk arrives. So it is never moved, and N2
//!   bounds it. A [reused](crate::values::spare) allocation may be a fourth larger. The allocation takes up memory as the section
//!   arrives: the system backs only pages that were written to. Each entry of a blob table that has arrived costs a length and a
//!   [`Bytes`](bytes::Bytes).
//! - **N2** The declared sizes of all messages that are being received, waiting or being handled are within the credit of their pool. An
//!   event or a stream item leaves that account when its window covers it.
//! - **N3** Before the session is open, only handshake messages are accepted, one at a time and of bounded size.

mod incoming;
mod partial;

pub use self::incoming::Incoming;
use self::incoming::protocol;

use std::sync::Arc;

use crate::error::Error;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::limits::{Limits, POOLS, Pool};
use crate::security::cipher::Opener;
use crate::session::inbound::partial::{Partial, Partials, Section};
use crate::session::ledger::{Charge, Ledger};
use crate::session::window::Window;
use crate::transport::RecordReceiver;
use crate::values::buffers;
use crate::values::content::Content;
use crate::wire::fields::{Fields, len_u64, u32_len};
use crate::wire::frame::{HEADER_LEN, Header, Kind};
use crate::wire::message::{HEAD_LEN, Head, MAX_STREAMS_OF_VALUE};
use crate::wire::status::text;

/// The largest handshake message: a catalog of some thousand methods.
const MAX_HANDSHAKE: u64 = 1 << 20;
/// The largest handshake message from a client: a token, and a catalog of some hundred methods.
const MAX_UNAUTHORIZED: u64 = 64 << 10;

/// Which messages this half accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Handshake messages up to this many bytes.
    Handshake(u64),
    Open,
}

/// The receiving half of a session.
pub struct Inbound {
    pub receiver: Box<dyn RecordReceiver>,
    opener: Option<Box<dyn Opener>>,
    phase: Phase,
    limits: Limits,
    partials: Partials,
    /// A long message has arrived since [`long_came`](Inbound::long_came) was last called.
    long_came: bool,
    /// The peer's credit, in bytes of each pool.
    credit: [u64; POOLS],
    /// Bytes ever charged to the peer, of each pool.
    charged: [u64; POOLS],
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
    /// A half that accepts handshake messages; from a client (`from_client`) only short ones.
    #[inline]
    pub fn new(
        receiver: Box<dyn RecordReceiver>,
        limits: Limits,
        ledger: Arc<Ledger>,
        from_client: bool,
    ) -> Self {
        Self {
            receiver,
            opener: None,
            phase: Phase::Handshake(if from_client { MAX_UNAUTHORIZED } else { MAX_HANDSHAKE }),
            credit: Pool::ALL.map(|pool| limits.credit(pool)),
            limits,
            partials: Partials::default(),
            long_came: false,
            charged: [0; POOLS],
            ledger,
        }
    }

    /// Opens all further frames with `opener`.
    #[inline]
    pub fn open_with(&mut self, opener: Box<dyn Opener>) {
        self.opener = Some(opener);
    }

    /// The handshake is over.
    #[inline]
    pub const fn open(&mut self) {
        self.phase = Phase::Open;
    }

    /// Whether a long message has arrived since the last call.
    #[inline]
    pub const fn long_came(&mut self) -> bool {
        std::mem::replace(&mut self.long_came, false)
    }

    /// The number of messages of which only a part has arrived.
    #[inline]
    pub fn partial_count(&self) -> usize {
        self.partials.len()
    }

    /// The bytes that are held of this pool. Read while messages end, it may be too high, but never too low.
    pub fn charged(&self, pool: Pool) -> u64 {
        // In this order: what moves from the one to the other meanwhile is not subtracted twice.
        let returnable = self.ledger.returnable(pool);
        let returned = self.ledger.returned(pool);
        self.charged[pool as usize].saturating_sub(returned).saturating_sub(returnable)
    }

    /// The memory of partial messages, and the bytes that are charged to the peer and not returned.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn held(&self) -> (Held, u64) {
        self.check();
        let partial = self.partials.values().map(Partial::held).sum();
        (partial, Pool::ALL.into_iter().map(|pool| self.charged(pool)).sum::<u64>())
    }

    /// Asserts N1.
    #[cfg(any(test, fuzzing, feature = "test-support"))]
    pub fn check(&self) {
        self.partials.values().for_each(Partial::check);
    }

    /// Takes the next frame, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer broke a rule; the connection must end.
    #[inline]
    pub fn receive(&mut self) -> Result<Option<Incoming>, Error> {
        let mut head = [0; HEADER_LEN];
        let Some(record_len) = self.receiver.peek(&mut head)? else { return Ok(None) };
        let header = Header::decode(&head)?;
        let overhead = self.opener.as_ref().map_or(0, |opener| opener.overhead());
        if record_len != HEADER_LEN + u32_len(header.len) + overhead {
            return Err(protocol("a frame's length differs from the length of its record"));
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
            Phase::Handshake(_) => Err(protocol("another frame before the end of the handshake")),
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
            Kind::Goodbye | Kind::Subscribe | Kind::EventEnd | Kind::EventLag | Kind::StreamCredit
        );
        if header.len != 0 && !payload_due {
            return Err(protocol("a payload in a frame of a kind that has none"));
        }
        self.read(head, header, overhead, &mut payload)?;
        let incoming = match header.kind {
            Kind::Cancel => Incoming::Cancel(header.id),
            Kind::Credit => Incoming::Credit(Pool::Requests, header.id),
            Kind::AnswerCredit => Incoming::Credit(Pool::Answers, header.id),
            Kind::ItemCredit => Incoming::Credit(Pool::Items, header.id),
            Kind::AnswerWaits => Incoming::AnswerWaits(header.id),
            Kind::Ping => Incoming::Ping(header.id),
            Kind::Pong => Incoming::Pong(header.id),
            Kind::AbortRequest => self.abort(Kind::Request, header.id)?,
            Kind::AbortResponse => self.abort(Kind::Response, header.id)?,
            Kind::Subscribe => subscribe(header.id, &payload)?,
            Kind::Unsubscribe => Incoming::Unsubscribe(header.id),
            Kind::EventAck => event_ack(header.id),
            Kind::EventEnd => Incoming::EventEnd { id: header.id, reason: text(&payload) },
            Kind::EventLag => event_lag(header.id, &payload)?,
            Kind::StreamCredit => stream_credit(header.id, &payload)?,
            Kind::StreamCancel => Incoming::StreamCancel(header.id),
            Kind::LoanReturn => Incoming::LoanReturn(header.id),
            _ => Incoming::Goodbye(text(&payload)),
        };
        buffers::give(payload);
        Ok(Some(incoming))
    }

    /// Handles an abort: the rest of a message will not arrive. [wire.abort]
    fn abort(&mut self, kind: Kind, id: u64) -> Result<Incoming, Error> {
        let Some(partial) = self.partials.take(&(kind, id)) else {
            return Err(protocol("an abort of a message that was not being sent"));
        };
        Ok(Incoming::Aborted { id, request: kind == Kind::Request, loans: partial.loans()? })
    }

    /// Handles the first or a further chunk of a message. [wire.chunk]
    fn take_chunk(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
    ) -> Result<Option<Incoming>, Error> {
        let key = (header.kind, header.id);
        let mut partial = if header.first {
            if self.partials.has(&key) {
                return Err(protocol("a message began twice"));
            }
            // N3: otherwise an unfinished handshake message would be held for as long as the client is connected.
            if matches!(self.phase, Phase::Handshake(_)) && !self.partials.is_empty() {
                return Err(protocol("two handshake messages at a time"));
            }
            let (message, section) = self.begin(head, header, overhead)?;
            let mut charge = Charge::new(&self.ledger, header.kind.pool());
            let size = message.size_without_blob_bytes();
            self.charge(&mut charge, size, size)?;
            if header.last && message.is_plain() {
                return self.take_plain(header, message, section, charge);
            }
            Box::new(Partial::new(header.nesting, message, section, charge))
        } else {
            let Some(mut partial) = self.partials.take(&key) else {
                return Err(protocol("a chunk of a message that had not begun"));
            };
            if partial.nesting != header.nesting {
                return Err(protocol("a chunk that is nested otherwise than its message"));
            }
            let target = partial.section(u32_len(header.len), overhead, &*self.receiver)?;
            self.read(head, header, overhead, target)?;
            partial
        };
        self.settle(&mut partial)?;
        if header.last != partial.is_complete() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        if header.last {
            self.long_came |= partial.is_long();
            return Ok(Some(partial.finish(header)?));
        }
        if self.partials.len() > u32_len(self.limits.max_in_flight) {
            return Err(protocol("more incomplete messages than max_in_flight allows"));
        }
        self.partials.put(key, partial);
        Ok(Some(Incoming::Part))
    }

    /// Handles a message that is one chunk, without attachments.
    fn take_plain(
        &self,
        header: &Header,
        head: Head,
        section: Section,
        charge: Charge,
    ) -> Result<Option<Incoming>, Error> {
        if len_u64(section.bytes.len()) != head.first_section_len() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        let content = Content::received_plain(section.into_bytes(), &head);
        Ok(Some(Incoming::message(header, head, content, charge)))
    }

    /// Reads the first chunk of a message, and checks its head.
    fn begin(
        &mut self,
        head: &[u8],
        header: &Header,
        overhead: usize,
    ) -> Result<(Head, Section), Error> {
        if u32_len(header.len) < HEAD_LEN {
            return Err(protocol("a message shorter than its head"));
        }
        let buffer = buffers::take_for(u32_len(header.len) + overhead);
        let mut section = Section::new(buffer, header.kind.is_handshake());
        self.read(head, header, overhead, &mut section.bytes)?;
        let message = Head::decode(&section.bytes)?;
        if len_u64(section.bytes.len()) > message.first_section_len() {
            return Err(protocol("a message's length differs from what it declared"));
        }
        // [wire.streams]
        let most_streams = match header.kind {
            Kind::Request | Kind::Response => u16::MAX,
            Kind::Event | Kind::StreamItem => MAX_STREAMS_OF_VALUE,
            _ => 0,
        };
        if message.stream_count > most_streams {
            return Err(protocol("more streams than a message of its kind can have"));
        }
        // [wire.extension]
        let may_have_extension =
            matches!(header.kind, Kind::Request | Kind::Response | Kind::Event | Kind::StreamItem);
        if message.extension_len > 0 && !may_have_extension {
            return Err(protocol("an extension in a message of a kind that has none"));
        }
        if let Phase::Handshake(max) = self.phase {
            if message.first_section_len() > max {
                return Err(protocol("a handshake message that is too large"));
            }
        }
        Ok((message, section))
    }

    /// Advances past complete sections, and reads the blob table once it is complete.
    fn settle(&mut self, partial: &mut Partial) -> Result<(), Error> {
        if partial.blob_lens.is_none() && len_u64(partial.first.bytes.len()) == partial.first_len {
            let blobs = partial.read_table()?;
            let handshake = matches!(self.phase, Phase::Handshake(_));
            if handshake && partial.head.blob_count > 0 {
                return Err(protocol("a blob in the handshake"));
            }
            let size = partial.head.size_without_blob_bytes().saturating_add(blobs);
            self.charge(&mut partial.charge, size, blobs)?;
        }
        partial.step_blobs();
        Ok(())
    }

    /// Charges `bytes` to the peer, for a message of `size` so far. [wire.credit] [wire.size]
    fn charge(&mut self, charge: &mut Charge, size: u64, bytes: u64) -> Result<(), Error> {
        if matches!(self.phase, Phase::Handshake(_)) {
            return Ok(());
        }
        if size > self.limits.max_message_size {
            return Err(protocol("a message larger than max_message_size"));
        }
        let pool = charge.pool();
        let charged = &mut self.charged[pool as usize];
        *charged = charged.saturating_add(bytes);
        if *charged - self.ledger.returned(pool) > self.credit[pool as usize] {
            return Err(protocol("more bytes of messages than the credit allows"));
        }
        charge.add(bytes);
        Ok(())
    }

    /// Appends the payload of the current record to `out`, and opens it there.
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
        return Err(protocol("a subscription with an empty window"));
    }
    Ok(Incoming::Subscribe { id, service, event, window })
}

/// [wire.event.lag]
fn event_lag(id: u64, payload: &[u8]) -> Result<Incoming, Error> {
    let mut fields = Fields::new(payload);
    let number = fields.u64("event lag")?;
    fields.end("event lag")?;
    Ok(Incoming::EventLag { id, number })
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

#[cfg(test)]
mod tests {
    use super::Incoming;
    use super::Window;
    use super::event_ack;
    use super::event_lag;
    use super::stream_credit;
    use super::subscribe;

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

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn event_lag_is_frozen() {
        let payload = [0xE8, 3, 0, 0, 0, 0, 0, 0];
        let Incoming::EventLag { id, number } = event_lag(5, &payload).unwrap() else {
            panic!("another frame")
        };
        assert_eq!((id, number), (5, 1000));
        assert!(event_lag(5, &payload[1..]).is_err());
        assert!(event_lag(5, &[&payload[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_acknowledgement_is_two_numbers() {
        let Incoming::EventAck { id, values } = event_ack(7 << 32 | 9) else {
            panic!("another frame")
        };
        assert_eq!((id, values), (9, 7));
    }
}
