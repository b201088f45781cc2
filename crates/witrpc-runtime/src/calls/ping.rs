//! [`Ping`]: the future of a ping.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use witrpc_core::Error;
use witrpc_core::session::pending::CallId;

use crate::calls::callee::Callee;
use crate::calls::host::CallHost;
use crate::calls::making::MakesCalls;
use crate::link::fairness::{Step, poll_counted};
use crate::link::poller::Poll as Polling;
use crate::link::timers::Timer;

/// The future that [`WitClient::ping`](crate::WitClient::ping) returns. The ping is sent when it is first polled. The output is the
/// round-trip time.
#[must_use = "a ping is sent when it is awaited"]
pub struct Ping {
    callee: Arc<dyn Callee>,
    timeout: Option<Duration>,
    sent: Option<Sent>,
}

/// A ping in a connection's table; removed when dropped.
struct Sent {
    connection: Arc<dyn CallHost>,
    id: CallId,
    answered: bool,
    /// The busy-poll for the answer that was interrupted.
    polling: Option<Polling>,
    began: Instant,
    timer: Option<Timer>,
}

impl fmt::Debug for Ping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ping").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Ping {
    pub(crate) fn new(callee: Arc<dyn Callee>, timeout: Option<Duration>) -> Self {
        Self { callee, timeout, sent: None }
    }

    /// Sets a time limit that counts from the next poll. It replaces the client's.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        if let Some(sent) = &mut self.sent {
            sent.timer = None;
        }
        self
    }

    fn send(&self, cx: &Context<'_>) -> Result<Sent, Error> {
        let connection = self.callee.connection()?;
        let began = Instant::now();
        let id = connection.begin_ping(cx.waker())?;
        Ok(Sent { connection, id, answered: false, polling: None, began, timer: None })
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Duration, Error>> {
        let sent = match &mut self.sent {
            Some(sent) => sent,
            None => self.sent.insert(self.send(cx)?),
        };
        let answer = sent.connection.poll_answer(sent.id, &mut sent.polling, cx.waker());
        if let Some(answer) = answer {
            sent.answered = true;
            let took = sent.began.elapsed();
            self.sent = None;
            return Poll::Ready(answer.map(|_| took));
        }
        let Some(after) = self.timeout else { return Poll::Pending };
        // The caller may be polled outside any runtime; the connection's runtime has the timer.
        if sent.timer.is_none() {
            sent.timer = Timer::new(&sent.connection.link().runtime, after);
        }
        match sent.timer.as_mut().map(|timer| timer.poll(cx)) {
            Some(Poll::Ready(Ok(()))) => {
                self.sent = None;
                Poll::Ready(Err(Error::TimedOut { after }))
            }
            // The connection ends with its runtime, and wakes the ping then.
            _ => Poll::Pending,
        }
    }
}

impl Future for Ping {
    type Output = Result<Duration, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_counted(cx, Step::Message, |cx| self.poll_answer(cx), |_| 0)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.abandon_ping(self.id);
        }
    }
}
