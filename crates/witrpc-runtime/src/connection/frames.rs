//! Dispatches frames to the features of a connection. This is the only such table.

use witrpc_core::session::inbound::Incoming;
use witrpc_core::session::pending::Answer;
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::message::{Head, LoanEntry};
use witrpc_core::wire::status::Status;
use witrpc_core::{CloseReason, Error};

use crate::calls::host::CallHost;
use crate::calls::making::MakesCalls;
use crate::calls::unread::MakesWay;
use crate::events::host::EventHost;
use crate::events::publishing::Publishes;
use crate::events::subscribing::Subscribes;
use crate::link::ending::Ends;
use crate::link::host::{Drained, Handled, Request, Wanted};
use crate::link::sending::Sends;
use crate::serving::host::ServeHost;
use crate::serving::serve::Serves;
use crate::streams::adopting::AdoptsStreams;
use crate::streams::reading::ReadsStreams;
use crate::streams::writing::WritesStreams;

/// Hands a frame to its part. Requests are handed back: only the driver serves.
pub(super) fn handle<C: CallHost + ServeHost + EventHost>(
    connection: &C,
    incoming: Incoming,
    wanted: Wanted,
    drained: &mut Drained,
) -> Result<Handled, Error> {
    match incoming {
        // Calls taken.
        Incoming::Request { id, nesting, head, mut content, charge } => {
            adopt(connection, &mut content, false)?;
            drained.request = Some(Request { id, nesting, head, content, charge });
            return Ok(Handled::Serve);
        }
        Incoming::Aborted { id, request: true, loans } => aborted_request(connection, id, &loans)?,
        Incoming::Cancel(id) => connection.handle_cancel(id)?,
        // Calls made.
        Incoming::Response { id, head, mut content, charge } => {
            adopt(connection, &mut content, false)?;
            let answer = Answer { status: status(connection, &head)?, content, _charge: charge };
            return connection.handle_response(id, answer, wanted, drained);
        }
        Incoming::Aborted { id, request: false, loans } => {
            connection.link().return_loans(&loans)?;
            let answer = Answer::empty(Status::Cancelled);
            return connection.handle_response(id, answer, wanted, drained);
        }
        Incoming::AnswerWaits(missing) => connection.handle_answer_waits(missing),
        Incoming::Pong(id) => return connection.handle_pong(id, wanted, drained),
        // Events: of ours, and of the peer's.
        Incoming::Event { id, head, mut content, charge } => {
            adopt(connection, &mut content, true)?;
            return connection.handle_event(id, &head, content, charge).map(|()| Handled::Woke);
        }
        Incoming::EventLag { id, number } => {
            return connection.handle_event_lag(id, number).map(|()| Handled::Woke);
        }
        Incoming::EventEnd { id, reason } => connection.handle_event_end(id, reason),
        Incoming::Subscribe { id, service, event, window } => {
            connection.handle_subscribe(id, (service, event), window)?;
        }
        Incoming::Unsubscribe(id) => connection.handle_unsubscribe(id),
        Incoming::EventAck { id, values } => connection.handle_event_ack(id, values)?,
        // Streams: read here, and written.
        Incoming::StreamItem { id, head, mut content, charge } => {
            adopt(connection, &mut content, true)?;
            return connection.handle_item(id, &head, content, charge, wanted);
        }
        Incoming::StreamEnd { id, head, content } => {
            return connection.handle_stream_end(id, &head, &content, wanted);
        }
        Incoming::StreamCredit { id, items, bytes } => {
            connection.handle_stream_credit(id, items, bytes)?;
        }
        Incoming::StreamCancel(id) => connection.handle_stream_cancel(id)?,
        // The link.
        Incoming::Credit(pool, bytes) => connection.send(|outbound| {
            outbound.add_credit(pool, bytes);
            Ok(())
        }),
        Incoming::LoanReturn(loan) => connection.send(|outbound| outbound.loan_returned(loan)),
        Incoming::Ping(id) => connection.send(|o| o.push_answer(Kind::Pong, id, Vec::new())),
        Incoming::Goodbye(reason) => {
            connection.close(CloseReason::Peer(reason));
            connection.link().wake_driver();
        }
        Incoming::Part => {}
        Incoming::Handshake { .. } => {
            return Err(Error::Protocol("a handshake frame after the handshake".to_owned()));
        }
    }
    Ok(Handled::Nothing)
}

/// The rest of a request will not arrive.
fn aborted_request<C: ServeHost>(
    connection: &C,
    id: u64,
    loans: &[LoanEntry],
) -> Result<(), Error> {
    connection.link().return_loans(loans)?;
    connection.refuse_aborted(id)
}

/// Registers what has come with a message: streams, and loans.
#[inline]
fn adopt<C: CallHost>(connection: &C, content: &mut Content, of_value: bool) -> Result<(), Error> {
    if !content.has_attachments() {
        return Ok(());
    }
    connection.adopt_streams(content, of_value)?;
    connection.link().adopt_loans(content)
}

/// [wire.response.status]
fn status<C: ServeHost>(connection: &C, head: &Head) -> Result<Status, Error> {
    let serving = connection.serving();
    let is_known = |status: &Status| match *status {
        Status::Overloaded => serving.knows_overloaded,
        Status::Unauthorized => serving.knows_unauthorized,
        _ => true,
    };
    let unknown = || Error::Protocol("an unknown response status".to_owned());
    Status::from_code(head.selector).filter(is_known).ok_or_else(unknown)
}
