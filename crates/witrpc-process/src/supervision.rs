//! The task that owns a worker: it starts it, waits for its end, and replaces it as the policy says.
//!
//! [`Shared`] is what the [`Worker`](crate::Worker), the task and the threads of the processes have in common. Once it is `ending`, no
//! process survives: one that is registered later is killed at once.

use std::fmt;
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use witrpc_core::text::Escaped;
use witrpc_core::{CloseReason, Error, fail_point};
use witrpc_runtime::{ClientState, WitClient};

use crate::connection::Connection;
use crate::hang::{CallUnderWay, HangDetection, Seen};
use crate::output::Output;
use crate::process::{Order, Owner, Process, WorkerExit, launch};
use crate::restart::{History, Next};
use crate::sandbox::Sandbox;
use crate::seat::Seat;
use crate::sys;

/// Events that a subscriber may be behind.
const EVENTS: usize = 64;
/// How long a process may take to end once its connection has ended. Then it is killed.
const LINGER: Duration = Duration::from_secs(1);

/// The state of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// A process is being started, or has started and is not ready yet.
    #[default]
    Starting,
    /// The worker can be called.
    Running {
        /// The id of its process.
        process_id: u32,
    },
    /// The worker has ended and will be replaced, after a delay.
    Restarting {
        /// The number of this restart, counted from 1. It starts anew with the time of [`with_limit`](crate::RestartPolicy::with_limit).
        attempt: u32,
    },
    /// The worker has ended and is not replaced.
    Exited,
    /// The worker has ended, and is not replaced because it was replaced too often.
    GaveUp,
}

impl WorkerState {
    const fn is_final(self) -> bool {
        matches!(self, Self::Exited | Self::GaveUp)
    }
}

/// What happens to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerEvent {
    /// A process can be called, after the first one.
    Ready {
        /// Its id.
        process_id: u32,
    },
    /// A process has ended.
    Ended(WorkerExit),
    /// A process has not answered for as long as [`HangDetection::after`] says.
    Unresponsive {
        /// Its id.
        process_id: u32,
        /// The calls that were under way, the oldest first.
        calls: Vec<CallUnderWay>,
    },
    /// A process that was unresponsive has answered.
    Responsive {
        /// Its id.
        process_id: u32,
    },
}

/// How to start a process of the worker.
pub(crate) struct Plan {
    pub(crate) command: Box<dyn Fn() -> Command + Send + Sync>,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) connection: Connection,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) ready_timeout: Duration,
    pub(crate) hang_detection: Option<HangDetection>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("sandbox", &self.sandbox)
            .field("connection", &self.connection)
            .field("stdout", &self.stdout)
            .field("stderr", &self.stderr)
            .field("ready_timeout", &self.ready_timeout)
            .finish_non_exhaustive()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) worker: String,
    state: watch::Sender<WorkerState>,
    events: broadcast::Sender<WorkerEvent>,
    /// How the last process ended, once there will be no other.
    ended: watch::Sender<Option<WorkerExit>>,
    /// The time limit, once the worker is to be shut down.
    stop: watch::Sender<Option<Duration>>,
    inner: Mutex<Inner>,
    /// The host's process id: W3.
    host: u32,
}

#[derive(Debug)]
struct Inner {
    process: Option<Arc<Process>>,
    last: Option<WorkerExit>,
    ending: bool,
    /// Whether the task runs; if not, nobody else says that the worker has ended.
    supervised: bool,
}

impl Shared {
    pub(crate) fn new(worker: String) -> Arc<Self> {
        let inner = Inner { process: None, last: None, ending: false, supervised: true };
        Arc::new(Self {
            worker,
            state: watch::Sender::default(),
            events: broadcast::Sender::new(EVENTS),
            ended: watch::Sender::default(),
            stop: watch::Sender::default(),
            inner: Mutex::new(inner),
            host: std::process::id(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> watch::Receiver<WorkerState> {
        self.state.subscribe()
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<WorkerEvent> {
        self.events.subscribe()
    }

    fn tell(&self, event: WorkerEvent) {
        // An error means that nobody listens.
        drop(self.events.send(event));
    }

    fn show(&self, state: WorkerState) {
        self.state.send_if_modified(|shown| std::mem::replace(shown, state) != state);
    }

    /// The process that there is, or was last.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.inner().process.clone()
    }

    /// Waits until the worker has ended for good.
    pub(crate) async fn exited(&self) -> WorkerExit {
        let mut ended = self.ended.subscribe();
        let exit = ended.wait_for(Option::is_some).await;
        exit.ok()
            .and_then(|exit| exit.clone())
            .unwrap_or_else(|| unreachable!("the sender lives as long as `self`"))
    }

    /// Asks the task to shut down the worker.
    pub(crate) fn stop(&self, grace: Duration) {
        self.stop.send_replace(Some(grace));
    }

    /// Waits until the worker is to be shut down.
    async fn stopped(&self) -> Duration {
        let mut stop = self.stop.subscribe();
        let grace = stop.wait_for(Option::is_some).await;
        grace.ok().and_then(|grace| *grace).unwrap_or_default()
    }

    /// Kills whatever there is, and whatever comes. In a forked child, it does nothing.
    pub(crate) fn end(&self) {
        if std::process::id() != self.host {
            return;
        }
        let mut inner = self.inner();
        inner.ending = true;
        let process = inner.process.clone();
        drop(inner);
        if let Some(process) = process {
            process.kill();
        }
    }

    /// There will be no other process. Only the first one to say so is heard.
    fn finish(&self, exit: WorkerExit, state: WorkerState) {
        self.state.send_if_modified(|shown| {
            let is_first = !shown.is_final();
            if is_first {
                *shown = state;
            }
            is_first
        });
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(exit);
            is_first
        });
    }

    /// The task has gone.
    fn unsupervised(&self) {
        self.end();
        let mut inner = self.inner();
        inner.supervised = false;
        let (process, last) = (inner.process.clone(), inner.last.clone());
        drop(inner);
        // Or the thread of the process says it, which finds that nobody else does.
        let process_id = process.map(|process| process.id());
        let last = last.filter(|last| process_id.is_none_or(|id| id == last.process_id));
        if let Some(last) = last {
            self.finish(last, WorkerState::Exited);
        }
    }
}

impl Owner for Shared {
    fn own(&self, process: &Arc<Process>) {
        let mut inner = self.inner();
        let last = inner.process.replace(Arc::clone(process));
        let is_late = inner.ending;
        drop(inner);
        drop(last);
        if is_late {
            process.kill();
        }
    }

    fn ended(&self, exit: &WorkerExit) {
        let mut inner = self.inner();
        inner.last = Some(exit.clone());
        let supervised = inner.supervised;
        drop(inner);
        if !supervised {
            self.finish(exit.clone(), WorkerState::Exited);
        }
    }
}

/// Whether a connection to a process that ends fails with such an error: it says nothing that the exit does not say better. All others
/// are what the two processes have told each other.
const fn is_of_an_end(error: &Error) -> bool {
    matches!(
        error,
        Error::Closed { .. }
            | Error::NotRunning { .. }
            | Error::NotResponding { .. }
            | Error::TimedOut { .. }
            | Error::Io { .. }
    )
}

/// The task's data. Dropping it ends the worker.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: WitClient,
    pub(crate) seat: Seat,
    pub(crate) plan: Plan,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shared.unsupervised();
    }
}

impl Supervisor {
    /// Starts a process, and connects to it.
    ///
    /// # Errors
    ///
    /// Then there is no process.
    pub(crate) async fn start(&self, is_first: bool) -> Result<Arc<Process>, Error> {
        self.shared.show(WorkerState::Starting);
        let Plan { connection, stdout, stderr, ready_timeout, .. } = self.plan;
        let (worker, command) = (self.shared.worker.clone(), (self.plan.command)());
        let sandbox = self.plan.sandbox.clone();
        let order = Order { worker, command, sandbox, connection, stdout, stderr };
        let (process, offer) = launch(order, Arc::clone(&self.shared) as Arc<dyn Owner>).await?;
        self.seat.put(Arc::clone(&process), offer);
        let connecting = async {
            match is_first {
                true => self.client.connect(ready_timeout).await,
                false => self.client.reconnect(ready_timeout).await,
            }
        };
        let mut connecting = pin!(connecting);
        let connected = tokio::select! {
            biased;
            connected = &mut connecting => connected,
            _ = process.exited() => {
                // It may have said why before it ended: what it has sent is read first.
                self.seat.close();
                connecting.await
            }
        };
        let Err(error) = connected else {
            fail_point::at("worker.ready");
            self.shared.show(WorkerState::Running { process_id: process.id() });
            self.shared.tell(WorkerEvent::Ready { process_id: process.id() });
            tracing::info!(
                worker = self.shared.worker,
                process_id = process.id(),
                "the worker is ready"
            );
            return Ok(process);
        };
        self.seat.close();
        let was_there = process.exit().is_none();
        process.kill();
        let exit = process.exited().await;
        Err(match error {
            error if !is_of_an_end(&error) => error,
            _ if !was_there => self.exited(exit),
            Error::NotRunning { .. } | Error::TimedOut { .. } => {
                Error::TimedOut { after: ready_timeout }
            }
            error => error,
        })
    }

    fn exited(&self, exit: WorkerExit) -> Error {
        let WorkerExit { status, stderr, .. } = exit;
        Error::Exited { worker: self.shared.worker.clone(), status, stderr }
    }

    /// Owns the worker until it has ended for good.
    pub(crate) async fn supervise(self, mut process: Arc<Process>, mut history: History) {
        loop {
            let end = tokio::select! {
                biased;
                grace = self.shared.stopped() => return self.shut_down(&process, grace).await,
                end = self.ends(&process) => end,
            };
            let mut end = end;
            process = loop {
                let exit = end.exit;
                tracing::warn!(
                    worker = self.shared.worker,
                    process_id = exit.process_id,
                    status = ?exit.status,
                    "the worker has ended"
                );
                self.shared.tell(WorkerEvent::Ended(exit.clone()));
                let state = match history.next(end.failed, Instant::now()) {
                    Next::Restart { delay, attempt } => {
                        self.shared.show(WorkerState::Restarting { attempt });
                        fail_point::at("worker.restarting");
                        let stopped = timeout(delay, self.shared.stopped()).await;
                        if stopped.is_ok() { WorkerState::Exited } else { WorkerState::Starting }
                    }
                    Next::End => WorkerState::Exited,
                    Next::GiveUp => WorkerState::GaveUp,
                };
                if state.is_final() {
                    return self.is_over(exit, state);
                }
                let started = tokio::select! {
                    biased;
                    _ = self.shared.stopped() => None,
                    started = self.start(false) => Some(started),
                };
                match started {
                    Some(Ok(process)) => break process,
                    Some(Err(error)) => {
                        tracing::warn!(
                            worker = self.shared.worker,
                            error = %Escaped(&error),
                            "the worker could not be started again"
                        );
                        let last = self.shared.inner().last.clone();
                        end = End { exit: last.unwrap_or(exit), failed: true };
                    }
                    None => return self.is_over_at_once(exit).await,
                }
            };
        }
    }

    /// Waits until a process has ended. One whose connection has ended is given a moment, and then killed.
    async fn ends(&self, process: &Process) -> End {
        let exited = tokio::select! {
            biased;
            exit = process.exited() => Some(exit),
            () = self.is_lost() => {
                let exited = timeout(LINGER, process.exited()).await;
                if exited.is_err() {
                    tracing::warn!(
                        worker = self.shared.worker,
                        process_id = process.id(),
                        "the worker's connection has ended, and its process has not: it is killed"
                    );
                }
                exited.ok()
            }
            () = self.hangs(process) => {
                tracing::warn!(
                    worker = self.shared.worker,
                    process_id = process.id(),
                    "the worker does not answer: it is killed"
                );
                None
            }
        };
        let (exit, was_killed) = match exited {
            Some(exit) => (exit, false),
            None => {
                process.kill();
                (process.exited().await, true)
            }
        };
        // Or the next connection would be taken for this one.
        drop(timeout(LINGER, self.is_lost()).await);
        End { failed: was_killed || !exit.success(), exit }
    }

    /// Completes when the process is to be killed because it does not answer.
    async fn hangs(&self, process: &Process) {
        let Some(detection) = self.plan.hang_detection else { return std::future::pending().await };
        let (mut seen, process_id) = (Seen::default(), process.id());
        loop {
            tokio::time::sleep(detection.pause()).await;
            let calls = self.client.calls_under_way();
            if seen.look(calls, Instant::now()).is_empty() {
                continue;
            }
            // One at a time: a worker that is stopped for a day must not find thousands.
            let mut ping = pin!(self.client.ping().with_timeout(Duration::MAX));
            let mut is_reported = false;
            let answer = loop {
                match timeout(detection.after, ping.as_mut()).await {
                    Ok(answer) => break answer,
                    Err(_) if detection.spares_debugged && sys::is_debugged(process_id) => {}
                    Err(_) if is_reported => {}
                    Err(_) => {
                        is_reported = true;
                        let calls = seen.look(self.client.calls_under_way(), Instant::now());
                        tracing::warn!(
                            worker = self.shared.worker,
                            process_id,
                            calls = calls.len(),
                            "the worker does not answer"
                        );
                        self.shared.tell(WorkerEvent::Unresponsive { process_id, calls });
                        if detection.kills {
                            return;
                        }
                    }
                }
            };
            if answer.is_err() {
                // The connection has ended, which others notice.
                return std::future::pending().await;
            }
            if is_reported {
                self.shared.tell(WorkerEvent::Responsive { process_id });
            }
        }
    }

    /// Waits until the connection has ended.
    async fn is_lost(&self) {
        let mut state = self.client.state();
        drop(state.wait_for(|state| *state != ClientState::Connected).await);
    }

    /// Ends the worker: by a goodbye, then by a signal, then at once.
    async fn shut_down(&self, process: &Process, grace: Duration) {
        self.client.disconnect().await;
        fail_point::at("worker.dismissed");
        let half = grace / 2;
        let exit = match timeout(half, process.exited()).await {
            Ok(exit) => exit,
            Err(_) => {
                process.killer().terminate();
                match timeout(half, process.exited()).await {
                    Ok(exit) => exit,
                    Err(_) => {
                        process.kill();
                        process.exited().await
                    }
                }
            }
        };
        self.is_over(exit, WorkerState::Exited);
    }

    /// Ends a process that is being started. `last` is how the one before ended.
    async fn is_over_at_once(&self, last: WorkerExit) {
        self.shared.end();
        let process = self.shared.process();
        let exit = match process {
            Some(process) => process.exited().await,
            None => last,
        };
        self.is_over(exit, WorkerState::Exited);
    }

    fn is_over(&self, exit: WorkerExit, state: WorkerState) {
        self.shared.end();
        self.client.end_subscriptions(&CloseReason::PeerGone);
        self.shared.finish(exit, state);
        fail_point::at("worker.over");
    }
}

/// How a process ended.
struct End {
    exit: WorkerExit,
    failed: bool,
}
