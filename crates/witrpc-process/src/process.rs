//! One process: started, waited for and reaped by a thread of its own (W1).

use std::io;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use witrpc_core::{Error, fail_point};

use crate::connection::Connection;
use crate::output::{self, Output, Stream, Tail};
use crate::sandbox::{Confinement, Sandbox};
use crate::sys::{Killer, Leash, Offer, hand_over, prepare};

/// How long the last lines of a process that has ended are waited for, if a program that it has started still has its standard error.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Far more than starting a process takes, the user's hooks of the command included.
const STACK: usize = 512 << 10;

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerExit {
    /// The id that the process had.
    pub process_id: u32,
    /// Its status. `None` if that cannot be told, because other code of this process has waited for it.
    pub status: Option<ExitStatus>,
    /// The last lines that it has written to standard error, escaped line by line. Empty unless they were captured ([`Output::Tracing`]).
    pub stderr: String,
}

impl WorkerExit {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) worker: String,
    pub(crate) command: Command,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) connection: Connection,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// Who owns processes.
pub(crate) trait Owner: Send + Sync + 'static {
    /// A process was started. If it is not wanted any more, the owner kills it.
    fn own(&self, process: &Arc<Process>);

    /// The process has ended.
    fn ended(&self, exit: &WorkerExit);
}

/// A process that was started. Dropping it kills it (W2).
#[derive(Debug)]
pub(crate) struct Process {
    id: u32,
    /// The process that has started it: W3.
    host: u32,
    killer: Arc<Killer>,
    exit: watch::Receiver<Option<WorkerExit>>,
    pipes: Mutex<Pipes>,
    _leash: Leash,
}

/// Its pipes, if the host reads them itself.
#[derive(Debug, Default)]
struct Pipes {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Process {
    pub(crate) const fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn killer(&self) -> &Killer {
        &self.killer
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        if std::process::id() == self.host {
            self.killer.kill();
        }
    }

    /// Waits until it has ended and was reaped.
    pub(crate) async fn exited(&self) -> WorkerExit {
        let mut exit = self.exit.clone();
        let exited = exit.wait_for(Option::is_some).await;
        exited
            .ok()
            .and_then(|exit| exit.clone())
            .unwrap_or_else(|| unreachable!("the thread sends it before it ends"))
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<WorkerExit> {
        self.exit.borrow().clone()
    }

    pub(crate) fn take_stdout(&self) -> Option<ChildStdout> {
        self.pipes().stdout.take()
    }

    pub(crate) fn take_stderr(&self) -> Option<ChildStderr> {
        self.pipes().stderr.take()
    }

    fn pipes(&self) -> std::sync::MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exit().is_none() {
            self.kill();
        }
    }
}

/// Starts a process, on a thread of its own: making the region and forking may take a while, and the runtime has connections to serve.
///
/// # Errors
///
/// [`Error::Io`], which names the program if it cannot be started; what its sandbox says.
pub(crate) async fn launch(
    order: Order,
    owner: Arc<dyn Owner>,
) -> Result<(Arc<Process>, Offer), Error> {
    let (told, launched) = oneshot::channel();
    let work = move || {
        let Started { mut child, process, offer, exit, tail } = match start(order) {
            Ok(started) => started,
            Err(error) => return drop(told.send(Err(error))),
        };
        owner.own(&process);
        fail_point::at("worker.owned");
        let (killer, process_id) = (Arc::clone(&process.killer), process.id);
        // If nobody waits for it any more, the owner has it.
        drop(told.send(Ok((process, offer))));
        let status = killer.wait(&mut child);
        fail_point::at("worker.reaped");
        let stderr = tail.map(|tail| tail.take(LAST_WORDS)).unwrap_or_default();
        let ended = WorkerExit { process_id, status, stderr };
        // The owner first: whoever waits for the process finds it told.
        owner.ended(&ended);
        exit.send_replace(Some(ended));
        fail_point::at("worker.ended");
    };
    let thread = thread::Builder::new().name("witrpc-worker".to_owned()).stack_size(STACK);
    let spawned = thread.spawn(work);
    spawned.map_err(|error| Error::io("starting a thread that waits for a worker", &error))?;
    let panicked = |_| io::Error::other("the thread that starts workers has panicked");
    launched.await.map_err(panicked).map_err(|error| Error::io("starting a worker", &error))?
}

/// A standard input from which nothing can be read.
fn nothing() -> Stdio {
    #[cfg(unix)]
    if !std::path::Path::new("/dev/null").exists() {
        // In a container with no such file: a pipe at its end, if there can be one.
        return rustix::pipe::pipe().map_or_else(|_| Stdio::null(), |(reading, _)| reading.into());
    }
    Stdio::null()
}

struct Started {
    child: Child,
    process: Arc<Process>,
    offer: Offer,
    exit: watch::Sender<Option<WorkerExit>>,
    tail: Option<Tail>,
}

fn start(order: Order) -> Result<Started, Error> {
    let Order { worker, mut command, sandbox, connection, stdout, stderr } = order;
    let confinement = Confinement::of(&worker, sandbox.as_ref(), &command)?;
    command.stdin(nothing());
    let made = prepare(&mut command, &connection, confinement);
    let (offer, mut leash) = made.map_err(|error| {
        Error::io(format!("making the connection to the worker {worker:?}"), &error)
    })?;
    fail_point::at("worker.prepared");
    if stdout != Output::Inherited {
        command.stdout(Stdio::piped());
    }
    if stderr != Output::Inherited {
        command.stderr(Stdio::piped());
    }
    let spawned = command.spawn();
    let mut child = spawned.map_err(|error| {
        let program = command.get_program();
        Error::io(format!("starting the worker {worker:?}, the program {program:?}"), &error)
    })?;
    fail_point::at("worker.started");
    // It has copies of all that the worker inherits.
    drop(command);
    let id = child.id();
    let owned = Killer::of(&child).and_then(|killer| {
        fail_point::at("worker.bound");
        hand_over(&mut leash, &child).map(|()| killer)
    });
    let killer = owned.map_err(|error| {
        drop(child.kill());
        drop(child.wait());
        Error::io(format!("owning the process of the worker {worker:?}"), &error)
    })?;
    let mut pipes = Pipes { stdout: child.stdout.take(), stderr: child.stderr.take() };
    if stdout == Output::Tracing {
        let pipe = pipes.stdout.take();
        let _logged = pipe.and_then(|pipe| output::log(pipe, Stream::Stdout, worker.clone(), id));
    }
    let tail = match stderr {
        Output::Tracing => {
            let pipe = pipes.stderr.take();
            pipe.and_then(|pipe| output::log(pipe, Stream::Stderr, worker, id))
        }
        Output::Inherited | Output::Piped => None,
    };
    let (exit, exits) = watch::channel(None);
    let process = Process {
        id,
        host: std::process::id(),
        killer: Arc::new(killer),
        exit: exits,
        pipes: Mutex::new(pipes),
        _leash: leash,
    };
    Ok(Started { child, process: Arc::new(process), offer, exit, tail })
}
