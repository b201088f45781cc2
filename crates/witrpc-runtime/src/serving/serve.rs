//! Serving: from a request to its response.
//!
//! A handler is polled once in place, that is on the driver, and handed to the runtime if it is not ready. The handler of a slow method (two of
//! the last eight timed first polls took longer than `SLOW`) is handed over at once, and polled in place again now and then. No
//! handler is started while answers wait for a peer that does not read them. Every request is answered exactly once: by the task that
//! removes its entry from the table.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tracing::Span;
use witrpc_core::Error;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::outbound::{Outgoing, Withdrawn};
use witrpc_core::text::Escaped;
use witrpc_core::user_code::{Guarded, catch};
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::{Header, Kind, Nesting};
use witrpc_core::wire::status::Status;

use crate::context::{CallContext, first_poll};
use crate::link::ending::Ends;
use crate::link::host::Request;
use crate::link::reply::Reply;
use crate::link::sending::Sends;
use crate::locks::assert_none_is_held;
use crate::serving::host::ServeHost;
use crate::serving::service::{Dispatch, Request as ServiceRequest};
use crate::serving::table::{CancelOutcome, Continuation};
use crate::streams::producer::start_streams;
use crate::streams::writing::WritesStreams;

/// A first poll that takes longer than this delays other tasks noticeably.
const SLOW: Duration = Duration::from_micros(50);

/// Where a handler continues that is not ready at its first poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Task { has_begun: bool },
    Thread,
}

/// Operations on calls that the peer makes.
pub(crate) trait Serves: ServeHost {
    /// Checks that the peer may make this call. The peer cannot have read an answer that was not sent, so a call with such an answer counts
    /// as in flight.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it may not.
    fn admit(&self, id: u64, nesting: Nesting) -> Result<(), Error> {
        self.serving().admit(id, nesting, self.link().unsent_responses())
    }

    /// Puts a request aside that was read by a caller and not by the driver.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer may not make this call.
    fn take_in(&self, request: Request) -> Result<(), Error> {
        self.serving().take_in(request, self.link().unsent_responses())
    }

    /// Serves a request that is in place (`CallsTaken::begin_in_place`). Returns whether it was answered. Publishes the
    /// answer if `publish`. `spare` is the context of an earlier request.
    fn serve_in_place(
        self: &Arc<Self>,
        request: Request,
        publish: bool,
        spare: &mut Option<CallContext>,
    ) -> bool {
        if let Err(error) = self.serving().admit_in_place(
            request.id,
            request.nesting,
            self.link().unsent_responses(),
        ) {
            self.fail(&error);
            return false;
        }
        // The peer does not read its answers: let its requests wait, too, charged to its account.
        if self.link().is_backed_up() {
            self.serving().defer(request);
            return false;
        }
        self.serve_now(request, publish, spare)
    }

    /// Serves requests that were put aside, while there is room for answers.
    fn serve_put_aside(self: &Arc<Self>, spare: &mut Option<CallContext>) {
        while !self.link().is_backed_up() {
            let Some(request) = self.serving().next_deferred() else { return };
            self.serve_now(request, true, spare);
        }
    }

    fn serve_now(
        self: &Arc<Self>,
        request: Request,
        publish: bool,
        spare: &mut Option<CallContext>,
    ) -> bool {
        let Request { id, nesting, head, content, charge } = request;
        let Some((entry, method, polls)) = self.serving().services.find(&head) else {
            self.reply_in_place(id, Reply::text(Status::NoSuchMethod, ""), 0, publish);
            return true;
        };
        let deadline = match self.deadline(head.stamp) {
            Ok(deadline) => deadline,
            Err(Expired) => {
                self.reply_in_place(id, Reply::text(Status::TimedOut, ""), 0, publish);
                return true;
            }
        };
        let context = spare
            .take()
            .and_then(|spare| spare.renewed(deadline, nesting))
            .unwrap_or_else(|| self.context(deadline, nesting));
        let service = entry.service.descriptor().name;
        let span = tracing::debug_span!("call", service, method = method.name, id);
        let request = ServiceRequest { content, codec: self.link().codec.clone() };
        assert_none_is_held("a handler is made");
        let dispatch = catch(|| entry.service.call(usize::from(head.member), request));
        let future = match dispatch {
            Ok(Dispatch::Running(future)) => future,
            Ok(Dispatch::Ready(reply)) => {
                self.reply_in_place(id, reply, 0, publish);
                return true;
            }
            Err(message) => {
                self.reply_in_place(id, panicked(service, method.name, &message), 0, publish);
                return true;
            }
        };
        let mut handling = Handling {
            future: Guarded::new("a handler", future),
            context: Some(context),
            span,
            service,
            method: method.name,
            _charge: charge,
        };
        if method.blocking {
            return self.hand_over(id, handling, Next::Thread, publish);
        }
        let in_place = polls.in_place();
        if in_place {
            let began = polls.is_timed().then(Instant::now);
            let mut nobody = Context::from_waker(Waker::noop());
            let polled = first_poll(|| Pin::new(&mut handling).poll(&mut nobody));
            if let Some(began) = began {
                polls.note(began.elapsed() > SLOW);
            }
            if let Poll::Ready(reply) = polled {
                // The future, which may have held a clone of the context, has been dropped.
                let Handling { context, .. } = handling;
                let event = context.as_ref().map_or(0, |context| context.flush_events());
                self.reply_in_place(id, reply, event, publish);
                *spare = context;
                return true;
            }
        }
        self.hand_over(id, handling, Next::Task { has_begun: in_place }, publish)
    }

    /// Hands a handler to the runtime. Returns whether it was answered instead.
    fn hand_over(self: &Arc<Self>, id: u64, handling: Handling, next: Next, publish: bool) -> bool {
        match (self.serving().insert(id, handling.context()), next) {
            (Continuation::Proceed, Next::Thread) => self.spawn_blocking(id, handling),
            (Continuation::Proceed, Next::Task { has_begun }) => {
                self.spawn(id, handling, has_begun)
            }
            (Continuation::Cancelled, _) => {
                drop(handling);
                self.reply(id, Reply::text(Status::Cancelled, ""), 0, publish);
                return true;
            }
            (Continuation::ConnectionEnded, _) => {}
        }
        false
    }

    /// Answers the request that is served in place. If a cancel has arrived meanwhile, the answer crosses it.
    fn reply_in_place(&self, id: u64, reply: Reply, event: u64, publish: bool) {
        self.reply(id, reply, event, publish);
        self.serving().end_in_place();
    }

    /// A request's deadline on tokio's clock.
    fn deadline(&self, stamp: u64) -> Result<Option<tokio::time::Instant>, Expired> {
        if stamp == 0 {
            return Ok(None);
        }
        let left = self.time_left(stamp).ok_or(Expired)?;
        // A deadline beyond the range of the clock counts as none.
        Ok(tokio::time::Instant::now().checked_add(Duration::from_nanos(left)))
    }

    /// Spawns a handler on the runtime. It is polled again at once there, so a wake-up that its first poll may have caused is not lost. A
    /// handler that was not polled yet waits for room first.
    fn spawn(self: &Arc<Self>, id: u64, handling: Handling, has_begun: bool) {
        let connection = Arc::clone(self);
        let task = self.link().runtime.spawn(async move {
            let context = handling.context();
            let room = async {
                if !has_begun {
                    connection.link().room().await;
                }
            };
            let reply = handling.within_deadline(room).await;
            connection.finish(id, reply, &context);
        });
        self.serving().set_task(id, task.abort_handle());
    }

    /// Runs a handler on the pool for blocking work.
    fn spawn_blocking(self: &Arc<Self>, id: u64, handling: Handling) {
        let connection = Arc::clone(self);
        let runtime = self.link().runtime.clone();
        let task = self.link().runtime.spawn_blocking(move || {
            let context = handling.context();
            // It does not wait for room, as it would block a thread of the pool that all clients share.
            let reply = runtime.block_on(handling.within_deadline(std::future::ready(())));
            connection.finish(id, reply, &context);
        });
        self.serving().set_task(id, task.abort_handle());
    }

    /// Answers a handler that was handed over, if its answer is still wanted.
    fn finish(self: &Arc<Self>, id: u64, reply: Reply, context: &CallContext) {
        if self.serving().finish(id) {
            let event = context.flush_events();
            self.reply(id, reply, event, true);
        }
        if self.serving().has_deferred() {
            self.link().wake_driver();
        }
    }

    /// Answers a request, after `event` has left.
    fn reply(&self, id: u64, reply: Reply, event: u64, publish: bool) {
        let (size, limit) = (reply.content.size(), self.link().peer_limits.max_message_size);
        let reply = if size > limit { Reply::too_large(size, limit) } else { reply };
        self.respond(id, reply.status, reply.content, event, publish);
    }

    /// Sends the answer to a request, after the event `after_event` that its handler raised. `publish` may be false if more answers follow
    /// at once.
    fn respond(
        &self,
        id: u64,
        status: Status,
        mut content: Content,
        after_event: u64,
        publish: bool,
    ) {
        let mut opened = Vec::new();
        let (mut status, mut refused) = (status, None);
        let fields = (status.code(), 0, 0);
        self.with_outbound(|outbound| {
            // If nothing waits, `after_event` has been sent too.
            if outbound.push_through(Header::whole(Kind::Response, id, 0), &mut content, fields)? {
                buffers::give(std::mem::take(&mut content).into_buffer());
                if publish {
                    outbound.publish()?;
                }
                return Ok(false);
            }
            match self.announce_streams(outbound, &mut content) {
                Ok(added) => opened = added,
                Err(error) => {
                    status = Status::BadResult;
                    let reason = Content::plain(buffers::take(), error.to_string().as_bytes());
                    refused = Some((std::mem::replace(&mut content, reason), error));
                }
            }
            let content = std::mem::take(&mut content);
            let response = Outgoing::new(Kind::Response, id, content, (status.code(), 0, 0), None);
            outbound.push(response.after_event(after_event))?;
            let pumped = outbound.pump(publish);
            self.after_pump(pumped)
        });
        // The user's streams are dropped with no lock held.
        if let Some((_, error)) = refused {
            tracing::warn!(id, reason = %Escaped(&error), "the result of a call cannot be sent");
        }
        start_streams(self, opened, true);
    }

    /// The peer's caller is gone: stops the handler, or withdraws what was not sent of the response. [wire.cancel]
    fn handle_cancel(&self, id: u64) -> Result<(), Error> {
        match self.serving().cancel(id) {
            CancelOutcome::Stopped => {
                self.acknowledge_cancel(id);
                return Ok(());
            }
            CancelOutcome::PollerAnswers => return Ok(()),
            CancelOutcome::NotRunning => {}
        }
        let mut guard = self.link().sending.outbound.lock();
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

    /// The rest of a request will not arrive: answers it as cancelled.
    fn refuse_aborted(&self, id: u64) -> Result<(), Error> {
        // How far it was nested came with the chunks that were dropped: it counts as one of the calls with the wider limit.
        self.admit(id, Nesting::Deeper)?;
        self.acknowledge_cancel(id);
        Ok(())
    }

    fn acknowledge_cancel(&self, id: u64) {
        self.respond(id, Status::Cancelled, Content::default(), 0, true);
    }
}

impl<H: ServeHost> Serves for H {}

/// The deadline had passed before the handler was polled.
#[derive(Debug)]
pub(crate) struct Expired;

/// A handler's future, with the context and span that are set around every poll. Never panics.
pub(crate) struct Handling {
    future: Guarded<dyn Future<Output = Reply> + Send>,
    /// `None` during a poll, when it is the current context.
    context: Option<CallContext>,
    span: Span,
    service: &'static str,
    method: &'static str,
    /// The request's bytes stay on the peer's account until the handler has ended.
    _charge: Charge,
}

impl Handling {
    fn context(&self) -> CallContext {
        let Some(context) = &self.context else { unreachable!("it is not being polled") };
        context.clone()
    }

    /// Runs the handler once there is `room` for its answer.
    async fn within_deadline(self, room: impl Future<Output = ()>) -> Reply {
        let context = self.context();
        let reply = async {
            room.await;
            self.await
        };
        let Some(deadline) = context.deadline() else { return reply.await };
        let reply = tokio::time::timeout_at(deadline, reply).await;
        match reply {
            Ok(reply) if tokio::time::Instant::now() < deadline => reply,
            // A blocking handler is not dropped at its deadline; what it returns later is discarded.
            _ => {
                context.cancel();
                Reply::text(Status::TimedOut, "")
            }
        }
    }
}

impl Future for Handling {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        assert_none_is_held("a handler is polled");
        let this = &mut *self;
        let _span = this.span.enter();
        CallContext::swap_current(&mut this.context);
        let polled = this.future.poll(cx);
        CallContext::swap_current(&mut this.context);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(reply)) => {
                tracing::debug!(status = ?reply.status, "answered");
                Poll::Ready(reply)
            }
            Poll::Ready(Err(message)) => Poll::Ready(panicked(this.service, this.method, &message)),
        }
    }
}

fn panicked(service: &str, method: &str, message: &str) -> Reply {
    tracing::error!(service, method, panic = %Escaped(message), "a handler panicked");
    Reply::text(Status::Panicked, message)
}
