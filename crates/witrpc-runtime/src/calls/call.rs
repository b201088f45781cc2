//! The caller's side of a call: a handle to a remote service, and the future of one answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::coop;
use tokio::time::Instant;
use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::session::pending::{Answer, CallId};
use witrpc_core::text::Escaped;
use witrpc_core::transport::BoxFuture;
use witrpc_core::values::attachments::{Arrived, Attachments, Written};
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::{Codec, SerializerError};
use witrpc_core::wire::frame::Nesting;
use witrpc_core::wire::status::{Status, status_error};
use witrpc_core::{CloseReason, Error};

use crate::calls::arguments::ArgumentsOf;
use crate::calls::callee::{Assigned, Awaited, Callee};
use crate::calls::host::CallHost;
use crate::calls::making::{BeginError, Lacks, MakesCalls, Needs};
use crate::calls::outcome::OutcomeOf;
use crate::calls::retry::Delays;
use crate::context::{CallContext, Inherited};
use crate::events::event::Event;
use crate::events::remote_event::RemoteEvent;
use crate::link::fairness::{SMALL_SIZE, Step};
use crate::link::poller::Poll as Polling;
use crate::link::timers::{Gone, Timer};
use crate::locks::assert_none_is_held;
use crate::streams::reader::StreamReader;
use crate::streams::writing::Refused;

/// A handle to a service on the other side, over the current connection. Generated clients wrap it.
#[doc(hidden)]
#[derive(Clone)]
pub struct Remote {
    callee: Arc<dyn Callee>,
    contract: Contract,
    timeout: Option<Duration>,
}

/// How a call names its method.
#[derive(Clone)]
enum Contract {
    /// From generated code.
    Known(&'static ServiceDescriptor),
    /// By the names of service and method.
    #[cfg(feature = "json")]
    Named(Arc<(String, String)>),
}

impl Contract {
    fn service(&self) -> &str {
        match self {
            Self::Known(descriptor) => descriptor.name,
            #[cfg(feature = "json")]
            Self::Named(names) => &names.0,
        }
    }

    fn method(&self, method: usize) -> &str {
        match self {
            Self::Known(descriptor) => descriptor.methods[method].name,
            #[cfg(feature = "json")]
            Self::Named(names) => &names.1,
        }
    }

    fn is_idempotent(&self, method: usize) -> bool {
        match self {
            Self::Known(descriptor) => descriptor.methods[method].idempotent,
            #[cfg(feature = "json")]
            Self::Named(_) => false,
        }
    }

    fn route(&self, connection: &dyn CallHost, method: usize) -> Result<(u16, u16), Error> {
        match self {
            Self::Known(descriptor) => connection.calls().route(descriptor, method),
            #[cfg(feature = "json")]
            Self::Named(names) => connection.calls().route_by_name(&names.0, &names.1),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("service", &self.contract.service())
            .field("callee", &self.callee)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Remote {
    pub(crate) fn new(
        callee: Arc<dyn Callee>,
        descriptor: &'static ServiceDescriptor,
        timeout: Option<Duration>,
    ) -> Self {
        Self { callee, contract: Contract::Known(descriptor), timeout }
    }

    /// A method by its name.
    #[cfg(feature = "json")]
    pub(crate) fn named(
        callee: Arc<dyn Callee>,
        service: &str,
        method: &str,
        timeout: Option<Duration>,
    ) -> Self {
        let names = Arc::new((service.to_owned(), method.to_owned()));
        Self { callee, contract: Contract::Named(names), timeout }
    }

    /// The same, with a deadline for every call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self.clone() }
    }

    /// The contract's event at `index`.
    #[must_use]
    pub fn event<T>(&self, index: usize) -> Event<T> {
        match &self.contract {
            Contract::Known(descriptor) => Event::remote(RemoteEvent::new(
                Arc::clone(&self.callee).events(),
                descriptor,
                index,
            )),
            #[cfg(feature = "json")]
            Contract::Named(_) => unreachable!("generated code knows its contract"),
        }
    }

    /// The task of this waker has made so many calls that it yields to other tasks.
    fn has_yielded(&self, waker: &Waker) {
        if let Ok(connection) = self.callee.connection() {
            connection.calls().has_yielded(waker);
        }
    }

    /// A call that is sent when it is first polled.
    pub fn call<A, R>(
        &self,
        method: usize,
        args: &A,
        arguments: ArgumentsOf<A>,
        outcome: OutcomeOf<R>,
    ) -> Call<R> {
        self.call_encoded(method, outcome, &|codec, out| (arguments.encode)(codec, args, out))
    }

    /// The same, with arguments that `encode` writes.
    pub(crate) fn call_encoded<R>(
        &self,
        method: usize,
        outcome: OutcomeOf<R>,
        encode: &Encode<'_>,
    ) -> Call<R> {
        Call { untyped: self.untyped(method, encode), outcome }
    }

    fn untyped(&self, method: usize, encode: &Encode<'_>) -> UntypedCall {
        assert_none_is_held("arguments are serialized");
        let codec = self.callee.codec();
        let content = Content::write(buffers::take(), |out| encode(codec, out));
        let stage = match content {
            Ok(content) => Stage::New(content),
            Err(error) => Stage::Failed(Box::new(Error::Serialize {
                what: format!(
                    "the arguments of {}.{}",
                    self.contract.service(),
                    self.contract.method(method)
                ),
                serializer: codec.name().to_owned(),
                reason: error.to_string(),
            })),
        };
        // A stream cannot be sent twice, so such a call is not retried.
        let keeps = self.callee.retry().is_some()
            && matches!(&stage, Stage::New(content) if !content.has_streams());
        let (inherited, nesting) = CallContext::inherited();
        let bounds = inherited
            .map(|inherited| Box::new(Bounds { inherited: Some(inherited), ..Bounds::default() }));
        let remote = self.clone();
        let (kept, again, assigned) = (None, None, None);
        UntypedCall { remote, method, stage, bounds, nesting, keeps, kept, again, assigned }
    }
}

/// One call of a remote method: a future of the method's result. The call is sent when the future is first polled.
///
/// Dropping it cancels the call: a request that has not been sent is discarded, and a handler that is running is dropped at its next
/// `.await`. The future can be spawned as a task, and does not borrow the handle that made it.
#[must_use = "a call is sent when it is awaited"]
pub struct Call<R> {
    untyped: UntypedCall,
    outcome: OutcomeOf<R>,
}

/// Writes a call's arguments.
pub(crate) type Encode<'a> =
    dyn Fn(&Codec, &mut Vec<u8>) -> Result<Attachments<Written>, SerializerError> + 'a;

/// Reads a call's result, and stores it.
type Decode<'a> =
    dyn FnMut(&Codec, Status, &[u8], Attachments<Arrived>) -> Result<(), SerializerError> + 'a;

/// All of a call but the type of its result, so that it is compiled once, and not for each type.
struct UntypedCall {
    remote: Remote,
    method: usize,
    stage: Stage,
    /// What may end the call before it is answered, if anything does. Made when it is needed.
    bounds: Option<Box<Bounds>>,
    /// How many calls it is made within.
    nesting: Nesting,
    /// Whether it may be retried.
    keeps: bool,
    /// If so, its arguments, once it was sent.
    kept: Option<Box<Content>>,
    /// The state for retrying it, once it has failed.
    again: Option<Box<Again>>,
    /// Which of the callee's connections the call was sent over, if it has several.
    assigned: Option<Assigned>,
}

/// What may end a call before it is answered.
#[derive(Default)]
struct Bounds {
    /// What the call has of the handler that makes it.
    inherited: Option<Inherited>,
    /// The deadline, if the call has one and has not been answered at once.
    timer: Option<Timer>,
}

/// The state of a call that has failed and may be retried.
#[derive(Default)]
struct Again {
    /// What is left of the policy's delays.
    delays: Option<Delays>,
    /// The runtime whose timer the pause uses: that of the last connection.
    runtime: Option<Handle>,
    /// Why the connection ended over which an attempt may have been executed.
    begun: Option<CloseReason>,
    /// Why the last attempt failed.
    last: Option<Error>,
}

enum Stage {
    /// Its arguments could not be serialized.
    Failed(Box<Error>),
    New(Content),
    /// It waits for a connection.
    Waiting {
        awaited: Awaited,
        content: Content,
    },
    /// It waits for a place among the calls in flight, or for room in the sending queue.
    Queued {
        line: InLine,
        route: (u16, u16),
        content: Content,
    },
    Sent(InFlight),
    /// It failed, and will be retried.
    Paused(BoxFuture<'static, Result<(), Gone>>),
    Finished,
}

/// A call that waits for its places; leaves the lines when it is dropped.
struct InLine {
    connection: Arc<dyn CallHost>,
    needs: Needs,
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.connection.leave_lines(&mut self.needs);
    }
}

/// A call in a connection's table; cancelled when dropped.
struct InFlight {
    connection: Arc<dyn CallHost>,
    id: CallId,
    answered: bool,
    /// The busy-poll for the answer that was interrupted.
    polling: Option<Polling>,
}

impl InFlight {
    fn poll(&mut self, waker: &Waker) -> Option<Result<Answer, Error>> {
        let answer = self.connection.poll_answer(self.id, &mut self.polling, waker);
        self.answered = answer.is_some();
        answer
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.abandon(self.id);
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.untyped.name()).finish_non_exhaustive()
    }
}

impl<R> Call<R> {
    /// Sets a deadline that counts from the next poll. It replaces that of the handle and of the client.
    ///
    /// A call that a handler makes has no more time than the handler has left, unless it is [detached](Self::detached). A call that has no
    /// time at all fails without being sent.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        let call = &mut self.untyped;
        call.remote.timeout = Some(timeout);
        if let Some(bounds) = &mut call.bounds {
            bounds.timer = None;
        }
        if !matches!(call.stage, Stage::New(_)) {
            call.keep_within_inherited();
        }
        self
    }

    /// Frees the call from the deadline and the cancellation of the handler that makes it. Without this, a call that is made while a call
    /// is served has no more time than is left for that, and is cancelled when that is cancelled, wherever it goes: nobody waits for its
    /// answer after that. A handler that is dropped still drops the calls that it awaits itself.
    pub fn detached(mut self) -> Self {
        if let Some(bounds) = &mut self.untyped.bounds {
            bounds.inherited = None;
        }
        self
    }
}

impl<R> Future for Call<R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        let Self { untyped, outcome } = &mut *self;
        let mut result = None;
        let polled = untyped.poll(cx, &mut |codec, status, body, arrived| {
            result = Some((outcome.decode)(codec, status, body, arrived)?);
            Ok(())
        });
        Poll::Ready(match (ready!(polled), result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => unreachable!("a call that succeeds has decoded its result"),
            (Err(error), _) => (outcome.failed)(error),
        })
    }
}

impl UntypedCall {
    /// Whether it may end before it is answered.
    const fn is_limited(&self) -> bool {
        self.bounds.is_some() || self.remote.timeout.is_some()
    }

    fn inherited(&self) -> Option<&Inherited> {
        self.bounds.as_ref()?.inherited.as_ref()
    }

    /// Limits the call's time to what the handler that makes it has left.
    fn keep_within_inherited(&mut self) {
        let Some(until) = self.inherited().and_then(Inherited::deadline) else {
            return;
        };
        let left = until.saturating_duration_since(Instant::now());
        self.remote.timeout = Some(self.remote.timeout.map_or(left, |own| own.min(left)));
    }

    /// A call that has no time, or was cancelled already, is not sent at all.
    #[inline(never)]
    fn give_up_if_vain(&mut self) {
        self.keep_within_inherited();
        let error = if self.remote.timeout.is_some_and(|timeout| timeout.is_zero()) {
            Error::TimedOut { after: Duration::ZERO }
        } else if self.inherited().is_some_and(Inherited::is_cancelled) {
            Error::Cancelled
        } else {
            return;
        };
        self.stage = Stage::Failed(Box::new(error));
    }

    /// Whether it is about to send a large message.
    fn is_long(&self) -> bool {
        matches!(&self.stage, Stage::New(content) if content.size() > SMALL_SIZE)
    }

    fn name(&self) -> String {
        let contract = &self.remote.contract;
        format!("{}.{}", contract.service(), contract.method(self.method))
    }

    fn poll(&mut self, cx: &mut Context<'_>, decode: &mut Decode<'_>) -> Poll<Result<(), Error>> {
        // An answer is often there at the first poll: a task that makes one call after the other has to yield.
        let counted =
            if self.is_long() || Step::Message.is_counted() || !coop::has_budget_remaining() {
                let Poll::Ready(counted) = coop::poll_proceed(cx) else {
                    self.remote.has_yielded(cx.waker());
                    return Poll::Pending;
                };
                Some(counted)
            } else {
                None
            };
        if self.is_limited() && matches!(self.stage, Stage::New(_)) {
            self.give_up_if_vain();
        }
        let mut answer = None;
        let result = loop {
            let answered = match self.poll_answer(cx, &mut answer) {
                Poll::Ready(answered) => answered,
                Poll::Pending if !self.is_limited() => return Poll::Pending,
                Poll::Pending => Err(ready!(self.poll_end(cx))),
            };
            if self.keeps {
                self.note_end(answer.as_ref());
            }
            self.stage = Stage::Finished;
            let result = answered.and_then(|()| self.decode(&mut answer, decode));
            self.assigned = None;
            if let Err(error) = &result {
                self.log(error);
                if self.pause(error) {
                    answer = None;
                    continue;
                }
            }
            break result.map_err(|error| self.of_all_attempts(error));
        };
        if let Some(counted) = counted {
            counted.made_progress();
        }
        self.bounds = None;
        if self.keeps {
            if let Some(kept) = self.kept.take() {
                buffers::give(kept.into_buffer());
            }
            self.again = None;
        }
        Poll::Ready(result)
    }

    /// Advances the call through its stages, and stores the answer when it has arrived.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        answer: &mut Option<Answer>,
    ) -> Poll<Result<(), Error>> {
        loop {
            if let Stage::Sent(call) = &mut self.stage {
                let Some(outcome) = call.poll(cx.waker()) else { return Poll::Pending };
                *answer = Some(outcome?);
                return Poll::Ready(Ok(()));
            }
            match std::mem::replace(&mut self.stage, Stage::Finished) {
                Stage::Failed(error) => return Poll::Ready(Err(*error)),
                Stage::New(mut content) => {
                    let started = self.start(&mut content, cx.waker(), answer);
                    if self.keeps {
                        self.keep(content, answer.as_ref());
                    }
                    started?;
                }
                Stage::Waiting { mut awaited, content } => {
                    if awaited.until.as_mut().poll(cx).is_pending() {
                        self.stage = Stage::Waiting { awaited, content };
                        return Poll::Pending;
                    }
                    self.stage = Stage::New(content);
                }
                Stage::Queued { mut line, route, mut content } => {
                    let connection = Arc::clone(&line.connection);
                    let needs = std::mem::take(&mut line.needs);
                    let sent =
                        self.send(connection, route, &mut content, needs, cx.waker(), answer);
                    if self.keeps {
                        self.keep(content, answer.as_ref());
                    }
                    sent?;
                }
                Stage::Paused(mut pause) => {
                    let Poll::Ready(over) = pause.as_mut().poll(cx) else {
                        self.stage = Stage::Paused(pause);
                        return Poll::Pending;
                    };
                    self.resume(over)?;
                }
                Stage::Sent(_) | Stage::Finished => {
                    panic!("a call was polled after it had completed")
                }
            }
            if answer.is_some() {
                return Poll::Ready(Ok(()));
            }
            if let Stage::Sent(_) | Stage::Queued { .. } = self.stage {
                return Poll::Pending; // The answer was looked for already, or the waker is in a line.
            }
        }
    }

    /// A pause is over: the call begins once more.
    fn resume(&mut self, over: Result<(), Gone>) -> Result<(), Error> {
        let Some(again) = &mut self.again else { unreachable!("a pause is made from it") };
        let last = again.last.take();
        if let (Err(Gone), Some(last)) = (over, last) {
            // The runtime of the timer has ended, and with it the wait.
            again.delays = Some(Box::new(std::iter::empty()));
            return Err(last);
        }
        let kept = self.kept.take().map(|kept| *kept);
        self.stage = Stage::New(kept.unwrap_or_default());
        Ok(())
    }

    /// Keeps the content of a call that was sent, or has failed, and may be sent once more.
    fn keep(&mut self, content: Content, answer: Option<&Answer>) {
        if answer.is_some_and(|answer| answer.status == Status::Ok) {
            buffers::give(content.into_buffer());
        } else if matches!(self.stage, Stage::Sent(_) | Stage::Finished) {
            self.kept = Some(Box::new(content));
        }
    }

    /// Looks at the end of a call that may be retried.
    #[inline(never)]
    fn note_end(&mut self, answer: Option<&Answer>) {
        if let Stage::Sent(call) = &self.stage {
            let connection = Arc::clone(&call.connection);
            self.note_answer(answer, &*connection);
        }
    }

    /// Looks at the answer of a call that may be retried.
    #[inline(never)]
    fn note_answer(&mut self, answer: Option<&Answer>, connection: &dyn CallHost) {
        if answer.is_none_or(|answer| answer.status != Status::Ok) {
            self.note_runtime(connection);
        }
    }

    /// Notes on which runtime the call may be retried.
    #[cold]
    fn note_runtime(&mut self, connection: &dyn CallHost) {
        let again = self.again.get_or_insert_default();
        again.runtime = Some(connection.link().runtime.clone());
    }

    /// The error for the caller: it says whether any of the attempts may have been executed, not only the last.
    fn of_all_attempts(&mut self, error: Error) -> Error {
        let begun = self.again.as_mut().and_then(|again| again.begun.take());
        match (begun, error) {
            (Some(_), Error::Closed { reason, .. }) => {
                Error::Closed { reason, maybe_executed: true }
            }
            (Some(reason), error) if error.is_surely_not_executed() => {
                Error::Closed { reason, maybe_executed: true }
            }
            (_, error) => error,
        }
    }

    /// Whether a call that failed with this error is retried. If so, it now waits for its next attempt.
    fn pause(&mut self, error: &Error) -> bool {
        let idempotent = self.remote.contract.is_idempotent(self.method);
        let policy = self.remote.callee.retry().filter(|_| self.keeps);
        let Some(policy) = policy else { return false };
        if !policy.applies(error, idempotent) {
            return false;
        }
        let again = self.again.get_or_insert_default();
        if let Error::Closed { reason, maybe_executed: true } = error {
            again.begun = Some(reason.clone());
        }
        let delays = again.delays.get_or_insert_with(|| policy.delays());
        let Some(delay) = delays.next() else { return false };
        // Outside of any runtime, and before the first connection, there is no timer.
        let runtimes = [Handle::try_current().ok(), again.runtime.clone()];
        let timer = |runtime: Handle| Timer::new(&runtime, delay).map(|timer| (timer, runtime));
        let Some((mut timer, runtime)) = runtimes.into_iter().flatten().find_map(timer) else {
            return false;
        };
        tracing::debug!(?delay, "retrying the call");
        // After a lost connection, the next connection ends the pause early; after other errors the pause takes its full time.
        let lost = matches!(error, Error::Closed { .. } | Error::NotConnected { .. });
        let connected = lost.then(|| self.remote.callee.connected());
        self.stage = Stage::Paused(Box::pin(async move {
            let over = std::future::poll_fn(|cx| timer.poll(cx));
            match connected {
                None => over.await,
                Some(connected) => tokio::select! {
                    over = over => over,
                    () = connected => Ok(()),
                },
            }
        }));
        again.runtime = Some(runtime);
        again.last = Some(error.clone());
        true
    }

    /// Looks up the route, and sends the call if there is a place for it.
    fn start(
        &mut self,
        content: &mut Content,
        waker: &Waker,
        answer: &mut Option<Answer>,
    ) -> Result<(), Error> {
        let connection = match self.remote.callee.connection_for_call(&mut self.assigned) {
            Ok(connection) => connection,
            Err(error) => return self.wait_for_connection(content, error),
        };
        let route = self.remote.contract.route(&*connection, self.method)?;
        connection.link().lending.prepare(content);
        let (size, limit) = (content.size(), connection.link().peer_limits.max_message_size);
        if size > limit {
            let what = format!("the arguments of {}", self.name());
            return Err(Error::TooLarge { what, size, limit });
        }
        // Small messages need no room in the sending queue, as the in-flight limit bounds them.
        let bytes = if size <= SMALL_SIZE { 0 } else { size };
        let needs = Needs::new(self.nesting, bytes, self.keeps);
        self.send(connection, route, content, needs, waker, answer)
    }

    /// There is no connection for the call, which is this error unless one may come.
    #[cold]
    fn wait_for_connection(&mut self, content: &mut Content, error: Error) -> Result<(), Error> {
        let Some(awaited) = Arc::clone(&self.remote.callee).awaited() else { return Err(error) };
        self.stage = Stage::Waiting { awaited, content: std::mem::take(content) };
        Ok(())
    }

    fn send(
        &mut self,
        connection: Arc<dyn CallHost>,
        route: (u16, u16),
        content: &mut Content,
        mut needs: Needs,
        waker: &Waker,
        answer: &mut Option<Answer>,
    ) -> Result<(), Error> {
        let deadline = self.deadline(&*connection);
        match connection.begin_call(content, route, deadline, &mut needs, waker, answer) {
            Ok(id) => {
                tracing::trace!(
                    service = self.remote.contract.service(),
                    method = self.remote.contract.method(self.method),
                    "call"
                );
                if answer.is_none() {
                    let (answered, polling) = (false, None);
                    self.stage = Stage::Sent(InFlight { connection, id, answered, polling });
                } else if self.keeps {
                    self.note_answer(answer.as_ref(), &*connection);
                }
                Ok(())
            }
            Err(BeginError::NotYet) => {
                let line = InLine { connection, needs };
                self.stage = Stage::Queued { line, route, content: std::mem::take(content) };
                Ok(())
            }
            Err(error) => {
                if self.keeps {
                    self.note_runtime(&*connection);
                }
                Err(self.not_begun(error))
            }
        }
    }

    /// The error of a call that could not begin.
    #[cold]
    fn not_begun(&self, error: BeginError) -> Error {
        match error {
            BeginError::NotYet => unreachable!("it waits"),
            BeginError::Limit(lacks) => self.beyond_limit(lacks),
            BeginError::Failed(error) => error,
            BeginError::Closed(reason) => Error::Closed { reason, maybe_executed: false },
            BeginError::Refused(Refused::TooMany(reason)) => self.not_serialized(&reason),
            BeginError::Refused(Refused::NoSideChannel(advice)) => {
                let what = format!("the arguments of {}", self.name());
                Error::Unsupported { what, advice: advice.to_owned() }
            }
        }
    }

    /// The error of a call that must not wait.
    fn beyond_limit(&self, lacks: Lacks) -> Error {
        let (what, setting) = match lacks {
            Lacks::Place => ("place among the calls in flight", "the peer's with_max_in_flight"),
            Lacks::Room => ("room in the sending queue", "with_max_buffered"),
            Lacks::Credit => ("room at the peer", "the peer's with_max_buffered"),
        };
        let what =
            format!("there is no {what} for {}, which is nested too deeply to wait", self.name());
        Error::Limit { what, setting, maybe_executed: false }
    }

    fn not_serialized(&self, reason: &dyn fmt::Display) -> Error {
        Error::Serialize {
            what: format!("the arguments of {}", self.name()),
            serializer: self.remote.callee.codec().name().to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The deadline on the peer's clock; 0 is none.
    fn deadline(&self, connection: &dyn CallHost) -> u64 {
        let Some(timeout) = self.remote.timeout else { return 0 };
        let left = match self.bounds.as_ref().and_then(|bounds| bounds.timer.as_ref()) {
            Some(timer) => timer.deadline().saturating_duration_since(tokio::time::Instant::now()),
            None => timeout,
        };
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX / 2);
        connection.deadline_for_peer(left)
    }

    /// Completes when nobody waits for the answer any more.
    #[inline(never)]
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let after = self.remote.timeout.unwrap_or_default();
        let inherited = self.bounds.as_mut().and_then(|bounds| bounds.inherited.as_mut());
        if let Some(inherited) = inherited {
            if inherited.poll_cancelled(cx).is_ready() {
                // Whoever made the handler's call had the same deadline.
                let is_late = inherited.deadline().is_some_and(|at| at <= Instant::now());
                return Poll::Ready(if is_late {
                    Error::TimedOut { after }
                } else {
                    Error::Cancelled
                });
            }
        }
        self.poll_deadline(cx).map(|()| Error::TimedOut { after })
    }

    /// Completes when the deadline passes; never without one.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = self.remote.timeout else { return Poll::Pending };
        let runtime = match &self.stage {
            Stage::Queued { line, .. } => &line.connection.link().runtime,
            Stage::Sent(call) => &call.connection.link().runtime,
            Stage::Waiting { awaited, .. } => match &awaited.runtime {
                Some(runtime) => runtime,
                None => return Poll::Pending,
            },
            Stage::Paused(_) => {
                match self.again.as_ref().and_then(|again| again.runtime.as_ref()) {
                    Some(runtime) => runtime,
                    None => return Poll::Pending,
                }
            }
            _ => return Poll::Pending,
        };
        // The caller may be polled outside any runtime; the connection's runtime has the timer.
        let bounds = self.bounds.get_or_insert_default();
        if bounds.timer.is_none() {
            bounds.timer = Timer::new(runtime, timeout);
        }
        let polled = bounds.timer.as_mut().map_or(Poll::Pending, |timer| timer.poll(cx));
        match polled {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // The connection ends with its runtime, and wakes the call then.
            Poll::Ready(Err(Gone)) | Poll::Pending => Poll::Pending,
        }
    }

    fn decode(&self, answer: &mut Option<Answer>, decode: &mut Decode<'_>) -> Result<(), Error> {
        assert_none_is_held("a result is deserialized");
        let Some(Answer { status, content, .. }) = answer else { unreachable!("it has come") };
        let status = *status;
        let codec = self.remote.callee.codec();
        if let Some(error) = status_error(status, content.body(), codec.name(), || self.name()) {
            return Err(match error {
                Error::TimedOut { .. } => {
                    Error::TimedOut { after: self.remote.timeout.unwrap_or_default() }
                }
                error => error,
            });
        }
        let mut arrived = content.take_arrived();
        // As with subscriptions, the reader of a stream need not hold the client as well.
        for stream in arrived.iter_mut().flat_map(|arrived| arrived.incoming.iter_mut().flatten()) {
            if let Some(handle) = stream.inner_mut::<StreamReader>() {
                handle.keep(match &self.assigned {
                    Some(assigned) => Arc::clone(&assigned.0).kept_by_streams(),
                    None => Arc::clone(&self.remote.callee).kept_by_streams(),
                });
            }
        }
        let result = decode(codec, status, content.body(), arrived);
        buffers::give(std::mem::take(content).into_buffer());
        *answer = None; // Also returns its charge.
        result.map_err(|error| Error::Deserialize {
            what: format!("the result of {}", self.name()),
            serializer: codec.name().to_owned(),
            reason: error.to_string(),
        })
    }

    fn log(&self, error: &Error) {
        tracing::debug!(method = self.name(), error = %Escaped(&error), "the call failed");
    }
}
