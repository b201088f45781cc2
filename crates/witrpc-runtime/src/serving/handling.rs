//! A handler: its future, with all that is set around its polls, and how it runs once it was handed to the runtime.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::Span;
use witrpc_core::session::ledger::Charge;
use witrpc_core::text::Escaped;
use witrpc_core::user_code::Guarded;
use witrpc_core::values::loans::Loan;
use witrpc_core::wire::status::Status;

use crate::context::CallContext;
use crate::link::reply::Reply;
use crate::locks::assert_none_is_held;
use crate::serving::admission::{Admission, Begun, Refusal, Ticket};
use crate::serving::gate::Entering;
use crate::serving::runs::Runs;

/// A handler's future, with the context and span that are set around every poll. Never panics.
pub(crate) struct Handling {
    pub(super) future: Guarded<dyn Future<Output = Reply> + Send>,
    /// `None` during a poll, when it is the current context.
    pub(super) context: Option<CallContext>,
    pub(super) span: Span,
    pub(super) service: &'static str,
    pub(super) method: &'static str,
    /// The positions of service and method.
    pub(super) place: (u16, u16),
    /// The request's bytes stay on the peer's account until the handler has ended.
    pub(super) _charge: Charge,
    /// So are loans of which it has copies.
    pub(super) _loans: Option<Box<[Loan]>>,
}

/// How a handler ended that was handed over.
#[derive(Debug)]
pub(crate) enum Ran {
    /// It has answered. Of a call with a deadline, how long after it had begun.
    Answered(Reply, Option<Duration>),
    /// Its deadline passed. A blocking handler may have returned later.
    TimedOut,
    /// It never began.
    Refused(Refusal),
}

impl Handling {
    pub(super) fn context(&self) -> CallContext {
        let Some(context) = &self.context else { unreachable!("it is not being polled") };
        context.clone()
    }

    /// The names of service and method.
    pub(super) const fn names(&self) -> (&'static str, &'static str) {
        (self.service, self.method)
    }

    /// The deadline of its call, if it has one.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.context.as_ref()?.deadline()
    }

    /// Runs a handler once it is `ready` to. If it `has_begun` already, it goes on; else its call may be refused instead. `admission` is
    /// that of a task.
    pub(super) async fn run(
        self,
        has_begun: bool,
        ready: impl Future<Output = ()>,
        ticket: Ticket,
        runs: &Runs,
        admission: Option<&Admission>,
    ) -> Ran {
        let Some(deadline) = self.deadline() else {
            ready.await;
            drop(ticket);
            return Ran::Answered(Gated::new(self, admission).await, None);
        };
        // If it is not ready by then, it is late.
        drop(timeout_at(deadline, ready).await);
        let begun = match ticket.begin(runs, deadline, Instant::now()) {
            Err(refusal) if !has_begun => return Ran::Refused(refusal),
            begun => begun.ok(),
        };
        self.run_until(deadline, begun, admission).await
    }

    /// Runs it until its deadline.
    async fn run_until(
        self,
        deadline: Instant,
        begun: Option<Begun>,
        admission: Option<&Admission>,
    ) -> Ran {
        let (context, since) = (self.context(), Instant::now());
        let answered = timeout_at(deadline, Gated::new(self, admission)).await;
        let now = Instant::now();
        match answered {
            Ok(reply) if now < deadline => {
                if let Some(begun) = begun {
                    begun.end();
                }
                Ran::Answered(reply, Some(now.saturating_duration_since(since)))
            }
            // A blocking handler is not dropped at its deadline; what it returns later is discarded.
            _ => {
                context.cancel();
                Ran::TimedOut
            }
        }
    }
}

/// Polls a handler. While the runtime is busy, each poll but the first waits for a place in the run queue; the first has had one.
struct Gated<'a> {
    handling: Handling,
    admission: Option<&'a Admission>,
    is_first: bool,
    entering: Option<Entering>,
}

impl<'a> Gated<'a> {
    const fn new(handling: Handling, admission: Option<&'a Admission>) -> Self {
        Self { handling, admission, is_first: true, entering: None }
    }
}

impl Future for Gated<'_> {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let is_first = std::mem::take(&mut self.is_first);
        if self.entering.is_none() && !is_first {
            self.entering = self.admission.map(Admission::enter);
        }
        if let Some(entering) = &mut self.entering {
            let place = ready!(Pin::new(entering).poll(cx));
            self.entering = None;
            drop(place);
        }
        Pin::new(&mut self.handling).poll(cx)
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

pub(super) fn panicked(service: &str, method: &str, message: &str) -> Reply {
    tracing::error!(service, method, panic = %Escaped(message), "a handler panicked");
    Reply::text(Status::Panicked, message)
}
