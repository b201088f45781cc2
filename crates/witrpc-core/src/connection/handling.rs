//! What each kind of frame means to a connection.

use super::{Connection, lock};
use crate::error::{CloseReason, Error};
use crate::frame::Kind;
use crate::inbound::Incoming;
use crate::message::Content;
use crate::outbound::Withdrawn;
use crate::pending::{Answer, CallId, Completed};
use crate::served::{Job, Stopped};
use crate::service::Status;

/// What a drained frame asks of whoever drained it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    /// What the leader waits for: its answer, or something in its stream.
    Mine,
    /// A request to be served.
    Serve,
    /// Another caller was woken.
    Woke,
    Nothing,
}

/// Where a drained frame's values are put. They are not returned: being moved at every level is a good part of a small call's
/// time.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// The leader's.
    pub(super) answer: Option<Answer>,
    pub(super) job: Option<Job>,
}

/// What whoever drains waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mine {
    Nothing,
    Call(CallId),
    Stream(u64),
}

impl Connection {
    /// What a frame means. Requests are handed back: only the driver serves.
    pub(super) fn handle(
        &self,
        incoming: Incoming,
        mine: Mine,
        brought: &mut Brought,
    ) -> Result<Handled, Error> {
        match incoming {
            Incoming::Request { id, head, mut content, charge } => {
                self.adopt_streams(&mut content)?;
                brought.job = Some(Job { id, head, content, charge });
                return Ok(Handled::Serve);
            }
            Incoming::Response { id, head, mut content, charge } => {
                self.adopt_streams(&mut content)?;
                let Some(status) = Status::from_code(head.selector) else {
                    return Err(Error::Protocol("an unknown response status".to_owned()));
                };
                let answer = Answer { status, content, _charge: charge };
                return self.complete(CallId(id), answer, mine, true, brought);
            }
            Incoming::Aborted { id, request: false } => {
                let answer = Answer::empty(Status::Cancelled);
                return self.complete(CallId(id), answer, mine, true, brought);
            }
            Incoming::Aborted { id, request: true } => {
                self.admit(id)?;
                self.acknowledge_cancel(id);
            }
            Incoming::Cancel(id) => self.cancel_served(id)?,
            Incoming::Credit(bytes) => {
                self.send(|outbound| {
                    outbound.add_credit(bytes);
                    Ok(())
                });
            }
            Incoming::Ping(id) => self.send(|outbound| outbound.push_control(Kind::Pong, id)),
            Incoming::Pong(id) => {
                let answer = Answer::empty(Status::Ok);
                return self.complete(CallId(id), answer, mine, false, brought);
            }
            Incoming::Goodbye(reason) => {
                self.close(CloseReason::Peer(reason));
                self.wake_driver();
            }
            Incoming::Event { id, head, content, charge } => {
                self.handle_event(id, &head, content, charge)?;
                return Ok(Handled::Woke);
            }
            Incoming::Subscribe { id, service, event, window } => {
                self.handle_subscribe(id, (service, event), window)?;
            }
            Incoming::Unsubscribe(id) => self.handle_unsubscribe(id),
            Incoming::EventAck { id, values } => self.handle_event_ack(id, values)?,
            Incoming::EventEnd { id, reason } => self.handle_event_end(id, reason),
            of_stream @ (Incoming::StreamItem { .. }
            | Incoming::StreamEnd { .. }
            | Incoming::StreamCredit { .. }
            | Incoming::StreamCancel(_)) => return self.handle_stream(of_stream, mine),
            Incoming::Part => {}
            Incoming::Handshake { .. } => {
                return Err(Error::Protocol("a handshake frame after the handshake".to_owned()));
            }
        }
        Ok(Handled::Nothing)
    }

    fn handle_stream(&self, incoming: Incoming, mine: Mine) -> Result<Handled, Error> {
        match incoming {
            Incoming::StreamItem { id, head, content, charge } => {
                return self.handle_item(id, &head, content, charge, mine);
            }
            Incoming::StreamEnd { id, head, content } => {
                return self.handle_stream_end(id, &head, &content, mine);
            }
            Incoming::StreamCredit { id, items, bytes } => {
                self.handle_stream_credit(id, items, bytes)?;
            }
            Incoming::StreamCancel(id) => self.handle_stream_cancel(id)?,
            _ => {}
        }
        Ok(Handled::Nothing)
    }

    /// Hands an answer in: to a call, which so gives its place back, or to a ping, which has none.
    fn complete(
        &self,
        id: CallId,
        answer: Answer,
        mine: Mine,
        to_call: bool,
        brought: &mut Brought,
    ) -> Result<Handled, Error> {
        let mine = if let Mine::Call(mine) = mine { Some(mine) } else { None };
        let mut pending = lock(&self.pending);
        let completed = pending.complete(id, answer, mine, &mut brought.answer);
        if to_call && completed.is_ok() {
            self.give_place(pending);
        } else {
            drop(pending);
        }
        match completed {
            Ok(Completed::Mine) => Ok(Handled::Mine),
            Ok(Completed::Other(waker)) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(Handled::Woke)
            }
            Ok(Completed::Nobody) => Ok(Handled::Nothing),
            Err(_) => Err(Error::Protocol("an answer to a call that was not waiting".to_owned())),
        }
    }

    /// The peer's caller is gone: stops the handler, or takes the response back as far as it has not left. [wire.cancel]
    fn cancel_served(&self, id: u64) -> Result<(), Error> {
        match self.served.cancel(id) {
            Stopped::Now => {
                self.acknowledge_cancel(id);
                return Ok(());
            }
            Stopped::Soon => return Ok(()),
            Stopped::No => {}
        }
        let mut guard = lock(&self.outbound);
        let Some(outbound) = guard.as_mut() else { return Ok(()) };
        let (withdrawn, streams) = outbound.withdraw_response(id)?;
        drop(guard);
        self.withdraw_streams(streams);
        match withdrawn {
            Withdrawn::Unsent => self.acknowledge_cancel(id),
            Withdrawn::Partly => self.send(|_| Ok(())),
            // The answer crossed the cancel; it is the acknowledgement.
            Withdrawn::Sent => {}
        }
        Ok(())
    }

    fn acknowledge_cancel(&self, id: u64) {
        self.respond(id, Status::Cancelled, Content::default(), 0, true);
    }
}
