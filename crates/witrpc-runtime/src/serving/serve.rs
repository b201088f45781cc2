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
use std::time::Duration;

use tokio::time::Instant;
use witrpc_core::Error;
use witrpc_core::contract::descriptor::MethodDescriptor;
use witrpc_core::session::outbound::{Outgoing, Withdrawn};
use witrpc_core::text::Escaped;
use witrpc_core::user_code::{Guarded, catch};
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::{Header, Kind, Nesting};
use witrpc_core::wire::message::Head;
use witrpc_core::wire::status::Status;

use crate::context::{CallContext, first_poll};
use crate::link::ending::Ends;
use crate::link::host::Request;
use crate::link::reply::Reply;
use crate::link::sending::Sends;
use crate::locks::assert_none_is_held;
use crate::serving::admission::{Pool, Refusal, Ticket};
use crate::serving::handling::{Handling, Ran, panicked};
use crate::serving::host::ServeHost;
use crate::serving::processors::Working;
use crate::serving::runs::Runs;
use crate::serving::service::{Dispatch, Request as ServiceRequest};
use crate::serving::services::{Entry, FirstPolls, Statistics};
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

/// A call that is served.
pub(crate) struct Accepted<'a> {
    entry: &'a Entry,
    method: &'static MethodDescriptor,
    polls: &'a FirstPolls,
    /// Whether its handler is polled in place.
    in_place: bool,
    deadline: Option<Instant>,
}

/// A call whose handler was handed to the runtime.
pub(crate) struct HandedOver {
    id: u64,
    /// Of service and method.
    names: (&'static str, &'static str),
    context: CallContext,
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
        let Accepted { entry, method, polls, in_place, deadline } = match self.accept(&head) {
            Ok(accepted) => accepted,
            Err(reply) => {
                self.reply_in_place(id, reply, 0, publish);
                return true;
            }
        };
        let context = spare
            .take()
            .and_then(|spare| spare.renewed(deadline, nesting))
            .unwrap_or_else(|| self.context(deadline, nesting));
        let service = entry.service.descriptor().name;
        let span = tracing::debug_span!("call", service, method = method.name, id);
        let loans = content.copied_loans();
        let request = ServiceRequest { content, codec: self.link().codec.clone() };
        assert_none_is_held("a handler is made");
        let dispatch = catch(|| entry.service.call(usize::from(head.member), request));
        let future = match dispatch {
            Ok(Dispatch::Running(future)) => future,
            ended => {
                let reply = not_running(ended, service, method.name);
                self.reply_in_place(id, reply, 0, publish);
                return true;
            }
        };
        let mut handling = Handling {
            future: Guarded::new("a handler", future),
            context: Some(context),
            span,
            service,
            method: method.name,
            place: (head.selector, head.member),
            _charge: charge,
            _loans: loans,
        };
        if method.blocking {
            return self.hand_over(id, handling, Next::Thread, publish);
        }
        if in_place {
            if let Poll::Ready(reply) = poll_in_place(&mut handling, polls, deadline.is_some()) {
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

    /// Checks whether a call is served: if there is such a method, if the peer may call it, and if it would not be late.
    ///
    /// # Errors
    ///
    /// The answer of a call that is not.
    #[inline]
    fn accept(&self, head: &Head) -> Result<Accepted<'_>, Reply> {
        let services = &self.serving().services;
        let Some((entry, method, statistics)) = services.find(head) else {
            return Err(Reply::text(Status::NoSuchMethod, ""));
        };
        let names = || (entry.service.descriptor().name, method.name);
        let permitted = services.authorize(self.caller(), entry, method.name);
        permitted.map_err(|reason| self.unauthorized(names(), &reason))?;
        let polls = &statistics.polls;
        let in_place = !method.blocking && polls.in_place();
        let deadline = if head.stamp == 0 {
            None
        } else {
            let pool = if method.blocking { Pool::Threads } else { Pool::Tasks };
            let admitted = self.admitted(head.stamp, pool, in_place, statistics);
            admitted.map_err(|refusal| self.refused(names(), refusal))?
        };
        Ok(Accepted { entry, method, polls, in_place, deadline })
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

    /// A request's deadline on tokio's clock, unless its call is refused.
    #[inline(never)]
    fn admitted(
        &self,
        stamp: u64,
        pool: Pool,
        in_place: bool,
        statistics: &Statistics,
    ) -> Result<Option<Instant>, Refusal> {
        let Some(left) = self.time_left(stamp).map(Duration::from_nanos) else {
            return Err(Refusal::EXPIRED);
        };
        let now = Instant::now();
        // One that will be ready at its first poll in place does not wait any more.
        if !in_place || statistics.polls.mostly_pending() {
            let admission = &self.serving().admission;
            if let Some(refusal) = admission.refusal(pool, &statistics.runs, left, now) {
                return Err(refusal);
            }
        }
        // A deadline beyond the range of the clock counts as none.
        Ok(now.checked_add(left))
    }

    /// The answer to a call that is refused.
    #[cold]
    fn refused(&self, (service, method): (&str, &str), refusal: Refusal) -> Reply {
        let Refusal { left, wait } = refusal;
        tracing::debug!(service, method, ?left, ?wait, "refused, as the answer would be late");
        if self.serving().knows_overloaded {
            Reply::overloaded(left, wait)
        } else {
            Reply::text(Status::TimedOut, "")
        }
    }

    /// The answer to a call that the peer may not make.
    #[cold]
    fn unauthorized(&self, (service, method): (&str, &str), reason: &str) -> Reply {
        tracing::debug!(service, method, reason = %Escaped(reason), "refused, as the caller may not make this call");
        if self.serving().knows_unauthorized {
            Reply::text(Status::Unauthorized, reason)
        } else {
            Reply::text(Status::BadArguments, &format!("unauthorized: {reason}"))
        }
    }

    /// Spawns a handler on the runtime. It is polled again at once there, so a wake-up that its first poll may have caused is not lost. A
    /// handler that was not polled yet waits for room first.
    fn spawn(self: &Arc<Self>, id: u64, handling: Handling, has_begun: bool) {
        let connection = Arc::clone(self);
        let ticket = self.join(Pool::Tasks, &handling);
        let entering = self.serving().admission.enter();
        let task = self.link().runtime.spawn(async move {
            let (link, admission) = (connection.link(), &connection.serving().admission);
            let ready = async {
                let mut place = entering.await;
                while !has_begun && link.is_backed_up() {
                    // It leaves the run queue to others.
                    drop(place);
                    link.room().await;
                    place = admission.enter().await;
                }
            };
            let call = HandedOver { id, names: handling.names(), context: handling.context() };
            let runs = connection.runs(&handling);
            let ran = handling.run(has_begun, ready, ticket, runs, Some(admission)).await;
            if let Ran::Answered(_, Some(time)) = &ran {
                runs.note(*time, Instant::now());
            }
            connection.finish(&call, ran);
        });
        self.serving().set_task(id, task.abort_handle());
    }

    /// Runs a handler on the pool for blocking work. It may be held back before that.
    fn spawn_blocking(self: &Arc<Self>, id: u64, handling: Handling) {
        let connection = Arc::clone(self);
        let ticket = self.join(Pool::Threads, &handling);
        let (admission, runs) = (&self.serving().admission, self.runs(&handling));
        let mut working = admission.work(runs);
        let left = handling.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let held = left.and_then(|left| admission.hold(runs, left));
        let runtime = &self.link().runtime;
        let task = if let Some(held) = held {
            runtime.spawn(async move {
                held.await;
                working.run(connection.runs(&handling));
                let runtime = connection.link().runtime.clone();
                let run = move || connection.run_blocking(id, handling, ticket, &working);
                drop(runtime.spawn_blocking(run));
            })
        } else {
            working.run(runs);
            runtime.spawn_blocking(move || connection.run_blocking(id, handling, ticket, &working))
        };
        self.serving().set_task(id, task.abort_handle());
    }

    /// Runs a handler on this thread. If its call is cancelled, it is dropped at its next await.
    fn run_blocking(
        self: &Arc<Self>,
        id: u64,
        handling: Handling,
        ticket: Ticket,
        working: &Working,
    ) {
        let call = HandedOver { id, names: handling.names(), context: handling.context() };
        // While it waited for a thread. It has been answered.
        if call.context.was_cancelled() {
            return;
        }
        let runs = self.runs(&handling);
        let measuring = handling.deadline().map(|_| working.measure());
        // It does not wait for room, as it would block a thread of the pool that all clients share.
        let running = handling.run(false, std::future::ready(()), ticket, runs, None);
        let ran = self.link().runtime.block_on(async {
            tokio::select! {
                biased;
                ran = running => Some(ran),
                () = call.context.cancelled() => None,
            }
        });
        let Some(ran) = ran else { return };
        if let (Ran::Answered(_, Some(time)), Some(measuring)) = (&ran, measuring) {
            runs.note(*time, Instant::now());
            working.note(&measuring, runs, *time);
        }
        self.finish(&call, ran);
    }

    /// A place in line for a handler that is handed over. Only one with a deadline reads the clock.
    fn join(&self, pool: Pool, handling: &Handling) -> Ticket {
        let now = handling.deadline().map(|_| Instant::now());
        self.serving().admission.join(pool, now)
    }

    /// How long the calls of a handler's method took.
    fn runs(&self, handling: &Handling) -> &Runs {
        let runs = self.serving().services.runs(handling.place);
        let Some(runs) = runs else { unreachable!("the method was found there") };
        runs
    }

    /// Answers a handler that was handed over, if its answer is still wanted.
    fn finish(self: &Arc<Self>, call: &HandedOver, ran: Ran) {
        if self.serving().finish(call.id) {
            let reply = match ran {
                Ran::Answered(reply, _) => reply,
                Ran::TimedOut => Reply::text(Status::TimedOut, ""),
                Ran::Refused(refusal) => self.refused(call.names, refusal),
            };
            let event = call.context.flush_events();
            self.reply(call.id, reply, event, true);
        }
        if self.serving().has_deferred() {
            self.link().wake_driver();
        }
        let admission = &self.serving().admission;
        if admission.is_busy() {
            self.link().receiving.hurry_driver();
            admission.drivers.hurry();
        }
    }

    /// Answers a request, after `event` has left.
    fn reply(&self, id: u64, mut reply: Reply, event: u64, publish: bool) {
        self.link().lending.prepare(&mut reply.content);
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

/// Polls a handler for the first time, on the driver.
#[inline]
fn poll_in_place(handling: &mut Handling, polls: &FirstPolls, has_deadline: bool) -> Poll<Reply> {
    let began = polls.is_timed().then(std::time::Instant::now);
    let mut nobody = Context::from_waker(Waker::noop());
    let polled = first_poll(|| Pin::new(handling).poll(&mut nobody));
    if let Some(began) = began {
        polls.note(began.elapsed() > SLOW);
    }
    if has_deadline {
        polls.note_pending(polled.is_pending());
    }
    polled
}

/// The answer of a call whose handler was not made.
#[cold]
fn not_running(ended: Result<Dispatch, String>, service: &str, method: &str) -> Reply {
    match ended {
        Ok(Dispatch::Ready(reply)) => reply,
        Ok(Dispatch::Running(_)) => unreachable!("it runs"),
        Err(message) => panicked(service, method, &message),
    }
}
