//! The header of a frame: its kind, the message to which it belongs, and the length of its payload.
//!
//! Pure: encodes to and decodes from bytes, and rejects what `docs/wire.md` does not allow. It does not know what a
//! payload means.

use crate::limits::Pool;
use crate::wire::fields::{Fields, Malformed};

/// Bytes of a frame header. [wire.frame]
pub const HEADER_LEN: usize = 16;

/// The key of a message among those of its direction: its kind and id.
pub type Key = (Kind, u64);

/// What a frame carries. [wire.frame.kind]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    // Handshake.
    Hello,
    Accept,
    Confirm,
    Welcome,
    Refuse,
    // Calls.
    Request,
    Response,
    Cancel,
    AbortRequest,
    AbortResponse,
    // Events.
    Event,
    Subscribe,
    Unsubscribe,
    EventAck,
    EventEnd,
    EventLag,
    // Streams.
    StreamItem,
    StreamEnd,
    StreamCredit,
    StreamCancel,
    // Loans.
    LoanReturn,
    // The connection.
    Credit,
    AnswerCredit,
    AnswerWaits,
    ItemCredit,
    Ping,
    Pong,
    Goodbye,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Hello => 0x01,
            Self::Accept => 0x02,
            Self::Confirm => 0x03,
            Self::Welcome => 0x04,
            Self::Refuse => 0x05,
            Self::Request => 0x10,
            Self::Response => 0x11,
            Self::Cancel => 0x12,
            Self::AbortRequest => 0x13,
            Self::AbortResponse => 0x14,
            Self::Event => 0x30,
            Self::Subscribe => 0x31,
            Self::Unsubscribe => 0x32,
            Self::EventAck => 0x33,
            Self::EventEnd => 0x34,
            Self::EventLag => 0x35,
            Self::StreamItem => 0x40,
            Self::StreamEnd => 0x41,
            Self::StreamCredit => 0x42,
            Self::StreamCancel => 0x43,
            Self::LoanReturn => 0x50,
            Self::Credit => 0x20,
            Self::AnswerCredit => 0x24,
            Self::AnswerWaits => 0x25,
            Self::ItemCredit => 0x26,
            Self::Ping => 0x21,
            Self::Pong => 0x22,
            Self::Goodbye => 0x23,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x01 => Self::Hello,
            0x02 => Self::Accept,
            0x03 => Self::Confirm,
            0x04 => Self::Welcome,
            0x05 => Self::Refuse,
            0x10 => Self::Request,
            0x11 => Self::Response,
            0x12 => Self::Cancel,
            0x13 => Self::AbortRequest,
            0x14 => Self::AbortResponse,
            0x30 => Self::Event,
            0x31 => Self::Subscribe,
            0x32 => Self::Unsubscribe,
            0x33 => Self::EventAck,
            0x34 => Self::EventEnd,
            0x35 => Self::EventLag,
            0x40 => Self::StreamItem,
            0x41 => Self::StreamEnd,
            0x42 => Self::StreamCredit,
            0x43 => Self::StreamCancel,
            0x50 => Self::LoanReturn,
            0x20 => Self::Credit,
            0x24 => Self::AnswerCredit,
            0x25 => Self::AnswerWaits,
            0x26 => Self::ItemCredit,
            0x21 => Self::Ping,
            0x22 => Self::Pong,
            0x23 => Self::Goodbye,
            _ => return None,
        })
    }

    /// Whether frames of this kind carry a message that may be cut into chunks; the others are whole, and short.
    #[inline]
    pub const fn is_message(self) -> bool {
        matches!(
            self,
            Self::Hello
                | Self::Accept
                | Self::Confirm
                | Self::Welcome
                | Self::Refuse
                | Self::Request
                | Self::Response
                | Self::Event
                | Self::StreamItem
                | Self::StreamEnd
        )
    }

    /// The pool from which messages of this kind take credit.
    #[inline]
    pub const fn pool(self) -> Pool {
        match self {
            Self::Response | Self::Event => Pool::Answers,
            Self::StreamItem | Self::StreamEnd => Pool::Items,
            _ => Pool::Requests,
        }
    }

    /// Whether these are the first messages of a connection.
    #[inline]
    pub const fn is_handshake(self) -> bool {
        matches!(self, Self::Hello | Self::Accept | Self::Confirm | Self::Welcome | Self::Refuse)
    }

    /// Whether frames of this kind belong to a stream, and come in its order.
    #[inline]
    pub const fn is_of_stream(self) -> bool {
        matches!(self, Self::StreamItem | Self::StreamEnd)
    }
}

/// How many calls a call is made within. The handler of a call waits for the calls that are nested in it, so these must not wait for
/// it: `session::pending` says how that is kept. [wire.nesting]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nesting {
    /// None: its caller serves no call.
    #[default]
    Outer,
    /// One: the handler of an outer call makes it.
    Nested,
    /// More.
    Deeper,
}

impl Nesting {
    /// The nesting of a call that the handler of a call with this nesting makes.
    #[must_use]
    #[inline]
    pub const fn within(self) -> Self {
        match self {
            Self::Outer => Self::Nested,
            Self::Nested | Self::Deeper => Self::Deeper,
        }
    }
}

/// A frame's header. [wire.frame]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// The first chunk of a message.
    pub first: bool,
    /// The last chunk of a message.
    pub last: bool,
    /// Of a request; otherwise `Outer`.
    pub nesting: Nesting,
    /// Bytes of the payload before sealing.
    pub len: u32,
    /// The message: a call's id, a ping's, or a number that the kind gives a meaning to.
    pub id: u64,
}

const FIRST: u8 = 0b01;
const LAST: u8 = 0b10;
const NESTED: u8 = 0b0100;
const DEEPER: u8 = 0b1000;

impl Header {
    /// The header of a frame that is no chunk.
    #[inline]
    pub const fn whole(kind: Kind, id: u64, len: u32) -> Self {
        Self { kind, first: true, last: true, nesting: Nesting::Outer, len, id }
    }

    #[inline]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind.code();
        let nesting = match self.nesting {
            Nesting::Outer => 0,
            Nesting::Nested => NESTED,
            Nesting::Deeper => DEEPER,
        };
        bytes[1] = u8::from(self.first) * FIRST + u8::from(self.last) * LAST + nesting;
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Rejects unknown kinds and flags, and a set reserved field: a later version announces itself in its hello.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let kind = Kind::from_code(fields.u8("frame kind")?).ok_or(Malformed("frame kind"))?;
        let flags = fields.u8("frame flags")?;
        let reserved = fields.u16("frame header")?;
        let nesting = match flags & !(FIRST | LAST) {
            0 => Nesting::Outer,
            NESTED if kind == Kind::Request => Nesting::Nested,
            DEEPER if kind == Kind::Request => Nesting::Deeper,
            _ => return Err(Malformed("frame flags")),
        };
        if reserved != 0 {
            return Err(Malformed("frame flags"));
        }
        let (first, last) = (flags & FIRST != 0, flags & LAST != 0);
        if !(kind.is_message() || first && last) {
            return Err(Malformed("frame flags"));
        }
        Ok(Self {
            kind,
            first,
            last,
            nesting,
            len: fields.u32("frame length")?,
            id: fields.u64("frame id")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Header;
    use super::{Kind, Nesting};

    const KINDS: [Kind; 27] = [
        Kind::Hello,
        Kind::Accept,
        Kind::Confirm,
        Kind::Welcome,
        Kind::Refuse,
        Kind::Request,
        Kind::Response,
        Kind::Cancel,
        Kind::AbortRequest,
        Kind::AbortResponse,
        Kind::Event,
        Kind::Subscribe,
        Kind::Unsubscribe,
        Kind::EventAck,
        Kind::EventEnd,
        Kind::EventLag,
        Kind::StreamItem,
        Kind::StreamEnd,
        Kind::StreamCredit,
        Kind::StreamCancel,
        Kind::Credit,
        Kind::AnswerCredit,
        Kind::AnswerWaits,
        Kind::ItemCredit,
        Kind::Ping,
        Kind::Pong,
        Kind::Goodbye,
    ];

    #[test]
    fn nested_request_is_frozen() {
        let header = |kind, nesting| Header { nesting, ..Header::whole(kind, 1 << 32 | 2, 24) };
        let bytes = header(Kind::Request, Nesting::Nested).encode();
        assert_eq!(bytes, [0x10, 7, 0, 0, 24, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
        for nesting in [Nesting::Nested, Nesting::Deeper] {
            let request = header(Kind::Request, nesting);
            assert_eq!(Header::decode(&request.encode()), Ok(request));
            for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Request) {
                assert!(Header::decode(&header(kind, nesting).encode()).is_err(), "{kind:?}");
            }
        }
        let mut both = bytes;
        both[1] |= 0b1100;
        assert!(Header::decode(&both).is_err());
    }

    #[test]
    fn every_kind_comes_back() {
        for kind in KINDS {
            let header = Header::whole(kind, 0x0102_0304_0506_0708, 9);
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }

    /// A frozen vector: what `docs/wire.md` shows.
    #[test]
    fn header_is_frozen() {
        let header = Header {
            kind: Kind::Response,
            first: true,
            last: false,
            nesting: Nesting::Outer,
            len: 0x0A0B,
            id: 0x1_0000_0002,
        };
        let bytes = [0x11, 0x01, 0, 0, 0x0B, 0x0A, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn what_is_not_in_the_table_is_rejected() {
        let good = Header::whole(Kind::Ping, 1, 0).encode();
        for (at, value) in [(0, 0), (0, 0x7F), (0, 0xFF), (1, 0), (1, 1), (1, 7), (2, 1), (3, 1)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Header::decode(&bad).is_err(), "byte {at} = {value}");
        }
    }
}
