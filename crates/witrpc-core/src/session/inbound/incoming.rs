//! [`Incoming`]: the decoded content of a frame, or the message that it completes.

use crate::error::Error;
use crate::limits::Pool;
use crate::session::ledger::Charge;
use crate::session::window::Window;
use crate::values::content::Content;
use crate::wire::frame::{Header, Kind, Nesting};
use crate::wire::message::{Head, LoanEntry};

/// The content of a frame, or the message that it completes.
#[derive(Debug)]
pub enum Incoming {
    /// A handshake message.
    Handshake {
        kind: Kind,
        head: Head,
        content: Content,
    },
    Request {
        id: u64,
        nesting: Nesting,
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
    /// The rest of this message will not arrive. `request` says whether it was a request.
    Aborted {
        id: u64,
        request: bool,
        /// What was lent with the part that has arrived.
        loans: Vec<LoanEntry>,
    },
    Credit(Pool, u64),
    /// A response of the peer waits for so much more credit.
    AnswerWaits(u64),
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
    /// An acknowledgement of values by a subscriber.
    EventAck {
        id: u32,
        values: u32,
    },
    /// The subscription was refused, or its event is gone.
    EventEnd {
        id: u64,
        reason: String,
    },
    /// The number of the subscription's next value.
    EventLag {
        id: u64,
        number: u64,
    },
    /// An item of a stream of the peer.
    StreamItem {
        id: u64,
        head: Head,
        content: Content,
        charge: Charge,
    },
    /// The end of a stream of the peer.
    StreamEnd {
        id: u64,
        head: Head,
        content: Content,
    },
    /// Credit for a stream of ours.
    StreamCredit {
        id: u64,
        items: u32,
        bytes: u64,
    },
    /// The peer cancels a stream of ours.
    StreamCancel(u64),
    /// The peer holds nothing more of this loan of ours.
    LoanReturn(u64),
    /// A chunk; its message is not complete.
    Part,
}

impl Incoming {
    /// For a complete message.
    pub(super) fn message(header: &Header, head: Head, content: Content, charge: Charge) -> Self {
        let id = header.id;
        match header.kind {
            Kind::Request => Self::Request { id, nesting: header.nesting, head, content, charge },
            Kind::Response => Self::Response { id, head, content, charge },
            Kind::Event => Self::Event { id, head, content, charge },
            Kind::StreamItem => Self::StreamItem { id, head, content, charge },
            Kind::StreamEnd => Self::StreamEnd { id, head, content },
            kind => Self::Handshake { kind, head, content },
        }
    }
}

pub(super) fn protocol(rule: &str) -> Error {
    Error::Protocol(rule.to_owned())
}
