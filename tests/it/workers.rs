//! Workers: launched, called, owned and replaced; and what happens when a worker or its host ends.
//!
//! A worker is a second instance of this test binary that runs only [`roles::role`]. So is a host that is killed.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing_subscriber::layer::SubscriberExt as _;
use witrpc::prelude::*;
use witrpc::{
    Agent, CloseReason, Error, HangDetection, Output, RestartPolicy, Worker, WorkerBuilder,
    WorkerEvent, WorkerState,
};

use crate::fixture::{Flavor, GUARD, alone, block_on, eventually, poll_once, runtime};
use crate::tracing::Lines;

mod arenas;
mod descriptors;
mod lending;
mod proved;
mod pushed;
mod roles;

use roles::{BellServer, Doorbell, JobClient, ROLE};

/// In front of what a host that is killed says.
const MARK: &str = "witrpc-host ";
/// Limits the time in which something must not happen at once, and does not.
const SHORT: Duration = Duration::from_millis(200);

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "workers::roles::role", "--nocapture"]).env(ROLE, role);
    command
}

/// A worker that plays this role.
fn worker(role: &'static str) -> WorkerBuilder {
    Worker::new(move || command(role)).with_name(role).with_ready_timeout(GUARD)
}

/// The same, with a bell.
fn with_bell(role: &'static str) -> (WorkerBuilder, Doorbell) {
    let bell = Doorbell::default();
    (worker(role).with_service(BellServer::new(bell.clone())), bell)
}

fn restarts(policy: RestartPolicy) -> RestartPolicy {
    policy.with_initial_delay(Duration::from_millis(1))
}

/// A process, whoever's child it is.
pub(crate) struct Watched {
    pub(crate) process_id: u32,
    pidfd: OwnedFd,
}

impl Watched {
    pub(crate) fn new(process_id: u32) -> Self {
        let pid = Pid::from_raw(process_id.cast_signed()).unwrap();
        Self { process_id, pidfd: pidfd_open(pid, PidfdFlags::empty()).unwrap() }
    }

    fn of(worker: &Worker) -> Self {
        Self::new(worker.process_id().unwrap())
    }

    pub(crate) fn has_ended(&self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ends = [PollFd::new(&self.pidfd, PollFlags::IN)];
        poll(&mut ends, Some(&at_once)).unwrap() == 1
    }

    async fn ends(&self) {
        eventually("the process ends", || self.has_ended()).await;
    }

    /// And is no zombie.
    pub(crate) async fn is_reaped(&self) {
        self.ends().await;
        let path = format!("/proc/{}", self.process_id);
        eventually("it is reaped", || !std::path::Path::new(&path).exists()).await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }
}

async fn sums_up(job: &JobClient) {
    assert_eq!(job.add(20, 22).await.unwrap(), 42);
}

fn test(body: impl AsyncFn()) {
    for flavor in [Flavor::MultiThread, Flavor::CurrentThread] {
        block_on(flavor, body());
    }
}

#[test]
fn a_worker_is_launched_called_and_shut_down() {
    test(async || {
        let worker = worker("serves").spawn().await.unwrap();
        let watched = Watched::of(&worker);
        let job: JobClient = worker.get_service();
        sums_up(&job).await;
        assert_eq!(job.process().await.unwrap(), watched.process_id);
        assert_ne!(watched.process_id, std::process::id());
        let running = WorkerState::Running { process_id: watched.process_id };
        assert_eq!(*worker.state().borrow(), running);
        assert!(worker.client().ping().await.unwrap() < GUARD);
        let exit = worker.shutdown(GUARD).await;
        assert!(exit.success() && exit.process_id == watched.process_id, "{exit:?}");
        watched.is_reaped().await;
        assert_eq!(*worker.state().borrow(), WorkerState::Exited);
        assert_eq!((worker.process_id(), worker.exited().await), (None, exit.clone()));
        assert_eq!(worker.shutdown(GUARD).await, exit);
        let gone = job.add(1, 1).await.unwrap_err();
        assert!(gone.is_surely_not_executed(), "{gone}");
    });
}

#[test]
fn a_worker_calls_its_host_back_and_may_do_so_before_it_is_called() {
    test(async || {
        let (builder, bell) = with_bell("rings_at_start");
        let worker = builder.spawn().await.unwrap();
        eventually("it rings", || bell.rung.load(Ordering::SeqCst) == 7).await;
        assert_eq!(worker.get_service::<JobClient>().ring(3).await.unwrap(), 10);
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_program_that_ends_before_it_is_ready_is_an_error_at_once() {
    test(async || {
        let error = worker("fails").spawn().await.unwrap_err();
        let Error::Exited { worker: name, status, stderr } = &error else { panic!("{error}") };
        assert_eq!((&**name, status.unwrap().code()), ("fails", Some(3)));
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!((lines.len(), lines[19]), (20, "line 29\\u{1b}[2J"));
        let text = error.to_string();
        assert!(
            text.contains("the worker \"fails\" ended before it was ready: exit status: 3"),
            "{text}"
        );
        assert!(text.ends_with("\n  | line 29\\u{1b}[2J"), "{text}");
        let Error::Exited { status, .. } = worker("succeeds").spawn().await.unwrap_err() else {
            panic!("it was no error")
        };
        assert!(status.unwrap().success());
        let killed = worker("is_killed").spawn().await.unwrap_err();
        assert!(killed.to_string().contains("signal: 9"), "{killed}");
    });
}

#[test]
fn a_program_that_cannot_be_started_is_the_systems_error_with_its_path() {
    test(async || {
        for (path, kind) in [
            ("/nowhere/to/be/found", std::io::ErrorKind::NotFound),
            ("/etc/passwd", std::io::ErrorKind::PermissionDenied),
        ] {
            let error = Worker::new(move || Command::new(path)).spawn().await.unwrap_err();
            let Error::Io { context, kind: found, .. } = &error else { panic!("{error}") };
            assert!(context.contains(path) && *found == kind, "{error}");
        }
    });
}

#[test]
fn a_program_that_does_not_become_ready_is_killed() {
    test(async || {
        let worker = worker("does_nothing").with_ready_timeout(SHORT);
        let error = worker.spawn().await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { after } if after == SHORT), "{error}");
    });
}

#[test]
fn settings_that_differ_are_named_and_the_worker_is_ended() {
    test(async || {
        let error = worker("speaks_postcard").spawn().await.unwrap_err();
        assert!(
            matches!(&error, Error::Incompatible(text) if text.contains("postcard")),
            "{error}"
        );
        let error = worker("serves").with_size(17).spawn().await.unwrap_err();
        assert!(matches!(&error, Error::Config { setting: "with_size", .. }), "{error}");
        let error = worker("serves").with_ready_timeout(Duration::ZERO).spawn().await.unwrap_err();
        assert!(matches!(&error, Error::Config { setting: "with_ready_timeout", .. }), "{error}");
    });
}

/// The host is so slow that the process has ended whenever it looks.
#[test]
fn what_a_process_has_said_before_it_ended_is_the_error() {
    const SLOW: &str = "WITRPC_SLOW_HOST=1";
    let marked = |entry: std::io::Result<std::fs::DirEntry>| {
        let environ = std::fs::read(entry.ok()?.path().join("environ")).ok()?;
        environ.split(|byte| *byte == 0).any(|text| text == SLOW.as_bytes()).then_some(())
    };
    // A zombie has no environment: the thread that reaps it needs another moment, of which nothing tells.
    let runs = || std::fs::read_dir("/proc").unwrap().any(|entry| marked(entry).is_some());
    block_on(Flavor::CurrentThread, async {
        let slow = || {
            let mut command = command("speaks_postcard");
            command.env("WITRPC_SLOW_HOST", "1");
            command
        };
        let mut spawning = std::pin::pin!(Worker::new(slow).with_ready_timeout(GUARD).spawn());
        let mut was_there = false;
        let error = std::future::poll_fn(|cx| {
            let polled = spawning.as_mut().poll(cx);
            was_there |= runs();
            for _ in 0..20 {
                if polled.is_pending() && was_there && runs() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            polled
        });
        let error = error.await.unwrap_err();
        assert!(matches!(&error, Error::Incompatible(_)), "{error}");
    });
}

#[test]
fn both_sides_may_encrypt_and_choose_a_serializer() {
    test(async || {
        let builder = worker("is_secret");
        let secret = builder.with_client(|client| client.with_message_pack().with_encryption());
        let secret = secret.spawn().await.unwrap();
        sums_up(&secret.get_service()).await;
        assert!(secret.shutdown(GUARD).await.success());
        // The worker does not encrypt.
        let encrypts = worker("serves").with_client(WitClientBuilder::with_encryption);
        let error = encrypts.spawn().await.unwrap_err();
        assert!(matches!(error, Error::Incompatible(_)), "{error}");
    });
}

#[test]
fn outside_of_a_runtime_nothing_is_started() {
    let mut spawning = Box::pin(worker("serves").spawn());
    let std::task::Poll::Ready(Err(error)) = poll_once(spawning.as_mut()) else {
        panic!("it was started")
    };
    assert!(matches!(error, Error::NoRuntime { .. }), "{error}");
}

#[test]
fn a_process_without_a_host_is_no_agent() {
    assert!(!Agent::is_announced());
    let error = Agent::from_env().unwrap_err();
    assert!(matches!(&error, Error::Config { setting: "Agent::from_env", .. }), "{error}");
}

/// Its host is there, and does not connect.
#[test]
fn an_agent_to_which_nobody_comes_gives_up() {
    let (_end, _lifeline, bequest) = witrpc_mmf::inherited::pair(64 << 10, 0).unwrap();
    let mut command = command("is_impatient");
    bequest.give(&mut command).unwrap();
    command.stdout(Stdio::null());
    let mut agent = command.spawn().unwrap();
    drop(command);
    assert_eq!(agent.wait().unwrap().code(), Some(7));
}

/// Among them a program that a worker starts, which finds the same environment.
#[test]
fn a_connection_is_taken_once_and_by_no_other_program() {
    test(async || {
        let worker = worker("starts_another").spawn().await.unwrap();
        sums_up(&worker.get_service()).await;
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn dropping_a_worker_ends_its_process_whatever_that_does() {
    test(async || {
        for role in ["serves", "serves_on_one_thread", "ignores_everything"] {
            let (builder, bell) = with_bell(role);
            let worker = builder.spawn().await.unwrap();
            let watched = Watched::of(&worker);
            let job: JobClient = worker.get_service();
            let stuck = tokio::spawn(job.block());
            eventually("it is stuck", || bell.rung.load(Ordering::SeqCst) == 1).await;
            if role == "serves" {
                watched.signal(Signal::STOP);
            }
            drop(worker);
            watched.is_reaped().await;
            let lost = stuck.await.unwrap().unwrap_err();
            assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
        }
    });
}

/// Also while it is being started.
#[test]
fn dropping_the_start_of_a_worker_ends_its_process() {
    test(async || {
        let mut spawning = Box::pin(worker("does_nothing").spawn());
        let children = || {
            let path = format!("/proc/{0}/task", std::process::id());
            let threads = std::fs::read_dir(path).unwrap().map(|thread| thread.unwrap().path());
            let of = |thread: std::path::PathBuf| {
                std::fs::read_to_string(thread.join("children")).unwrap_or_default()
            };
            threads
                .map(of)
                .collect::<String>()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = children();
        let mut began = None;
        eventually("it has started", || {
            assert!(poll_once(spawning.as_mut()).is_pending());
            began = children().into_iter().find(|child| !before.contains(child));
            began.is_some()
        })
        .await;
        drop(spawning);
        let path = format!("/proc/{}", began.unwrap());
        eventually("it is reaped", || !std::path::Path::new(&path).exists()).await;
    });
}

#[test]
fn a_worker_ends_when_its_runtime_does_and_is_reaped_without_one() {
    for dropped_first in [false, true] {
        let runtime = runtime(Flavor::MultiThread);
        let (worker, watched) = runtime.block_on(async {
            let worker = worker("serves").spawn().await.unwrap();
            let watched = Watched::of(&worker);
            (worker, watched)
        });
        let worker = if dropped_first {
            drop(worker);
            None
        } else {
            Some(worker)
        };
        drop(runtime);
        block_on(Flavor::CurrentThread, async {
            watched.is_reaped().await;
            // And on another runtime its end can be waited for.
            if let Some(worker) = worker {
                let exit = worker.exited().await;
                assert!(!exit.success() && exit.process_id == watched.process_id, "{exit:?}");
                assert_eq!(*worker.state().borrow(), WorkerState::Exited);
                assert_eq!(worker.shutdown(GUARD).await, exit);
            }
        });
    }
}

/// Its only thread is in a handler that never returns.
#[test]
fn a_worker_ends_with_a_host_that_is_killed() {
    test(async || {
        let mut host = command("hosts").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(host.stdout.take().unwrap()).lines();
        let said = tokio::task::spawn_blocking(move || {
            lines.find_map(|line| Some(line.ok()?.strip_prefix(MARK)?.to_owned()))
        });
        let process_id = said.await.unwrap().expect("the host has a worker");
        let watched = Watched::new(process_id.parse().unwrap());
        assert!(!watched.has_ended());
        host.kill().unwrap();
        host.wait().unwrap();
        watched.ends().await;
    });
}

#[test]
fn a_shutdown_ends_a_process_by_a_goodbye_then_by_signals() {
    use std::os::unix::process::ExitStatusExt as _;

    test(async || {
        for (role, signal) in [("outlives_its_connection", 15), ("ignores_everything", 9)] {
            let worker = worker(role).spawn().await.unwrap();
            let watched = Watched::of(&worker);
            let exit = worker.shutdown(2 * SHORT).await;
            assert_eq!(exit.status.unwrap().signal(), Some(signal), "{role}: {exit:?}");
            watched.is_reaped().await;
        }
    });
}

#[test]
fn a_worker_that_ends_is_not_replaced_unless_the_policy_says_so() {
    test(async || {
        for (policy, status) in [(RestartPolicy::never(), 5), (RestartPolicy::on_failure(), 0)] {
            let worker = worker("serves").with_restart(policy).spawn().await.unwrap();
            let job: JobClient = worker.get_service();
            let mut ticked = job.ticked().subscribe();
            job.tick(1).await.unwrap();
            assert_eq!(ticked.next().await, Some(Ok(1)));
            let lost = job.leave(status).await.unwrap_err();
            let gone = CloseReason::PeerGone;
            assert!(
                matches!(&lost, Error::Closed { reason, maybe_executed: true } if *reason == gone),
                "{lost}"
            );
            let exit = worker.exited().await;
            assert_eq!(exit.status.unwrap().code(), Some(status));
            assert_eq!(*worker.state().borrow(), WorkerState::Exited);
            // A subscription does not wait for a process that will not come.
            let end = ticked.next().await;
            assert!(matches!(end, Some(Err(EventError::Closed(_)))), "{end:?}");
        }
    });
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_handles_and_subscriptions_continue() {
    test(async || {
        let (builder, bell) = with_bell("serves");
        let worker =
            builder.with_restart(restarts(RestartPolicy::on_failure())).spawn().await.unwrap();
        let job: JobClient = worker.get_service();
        let mut ticked = job.ticked().subscribe();
        let mut processes = Vec::new();
        for round in 0..3 {
            let watched = Watched::of(&worker);
            processes.push(watched.process_id);
            job.tick(round).await.unwrap();
            assert_eq!(ticked.next().await, Some(Ok(round)));
            let waiting = tokio::spawn(job.wait());
            eventually("the call is under way", || bell.rung.load(Ordering::SeqCst) == round + 1)
                .await;
            let mut state = worker.state();
            watched.signal(Signal::KILL);
            let lost = waiting.await.unwrap().unwrap_err();
            let gone = CloseReason::PeerGone;
            assert!(
                matches!(&lost, Error::Closed { reason, maybe_executed: true } if *reason == gone),
                "{lost}"
            );
            watched.is_reaped().await;
            let is_next = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if *process_id != watched.process_id);
            state.wait_for(is_next).await.unwrap();
            assert_eq!(ticked.next().await, Some(Err(EventError::Reconnected)));
            sums_up(&job).await;
        }
        processes.dedup();
        assert_eq!(processes.len(), 3);
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_call_that_was_not_executed_is_retried_on_the_next_process() {
    test(async || {
        let worker = worker("serves")
            .with_restart(restarts(RestartPolicy::always()))
            .with_client(|client| client.with_retry_policy(|retry| retry.with_attempts(100)))
            .spawn()
            .await
            .unwrap();
        let job: JobClient = worker.get_service();
        let first = job.process().await.unwrap();
        job.leave(0).await.unwrap_err();
        let second = job.process().await.unwrap();
        assert_ne!(first, second);
    });
}

#[test]
fn a_worker_that_ends_again_and_again_is_given_up() {
    test(async || {
        let policy = restarts(RestartPolicy::on_failure()).with_limit(3, GUARD);
        let worker = worker("serves").with_restart(policy).spawn().await.unwrap();
        let (job, mut state) = (worker.get_service::<JobClient>(), worker.state());
        let mut processes = Vec::new();
        loop {
            let seen = *state.borrow_and_update();
            match seen {
                WorkerState::Running { process_id } if !processes.contains(&process_id) => {
                    processes.push(process_id);
                    job.leave(9).await.unwrap_err();
                }
                WorkerState::GaveUp => break,
                _ => state.changed().await.unwrap(),
            }
        }
        assert_eq!(processes.len(), 4);
        assert_eq!(worker.exited().await.status.unwrap().code(), Some(9));
        assert!(worker.process_id().is_none());
    });
}

/// The next one fails each time, and the first succeeded.
#[test]
fn a_worker_that_cannot_be_started_again_is_given_up() {
    use std::sync::atomic::AtomicU32;

    test(async || {
        let started = AtomicU32::new(0);
        let policy = restarts(RestartPolicy::always()).with_limit(2, GUARD);
        let worker = Worker::new(move || match started.fetch_add(1, Ordering::SeqCst) {
            // The first is asked for the name of its program.
            0 | 1 => command("serves"),
            2 => command("fails"),
            _ => Command::new("/nowhere/to/be/found"),
        });
        let worker = worker.with_ready_timeout(GUARD).with_restart(policy).spawn().await.unwrap();
        let mut state = worker.state();
        worker.get_service::<JobClient>().leave(0).await.unwrap_err();
        state.wait_for(|state| *state == WorkerState::GaveUp).await.unwrap();
        // Of the last process that there was.
        assert_eq!(worker.exited().await.status.unwrap().code(), Some(3));
    });
}

#[test]
fn a_process_whose_connection_has_ended_is_ended_and_replaced() {
    test(async || {
        let policy = restarts(RestartPolicy::on_failure());
        let worker = worker("breaks_off").with_restart(policy).spawn().await.unwrap();
        let (watched, job) = (Watched::of(&worker), worker.get_service::<JobClient>());
        let mut state = worker.state();
        job.break_off().await.ok();
        watched.is_reaped().await;
        let is_next = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if *process_id != watched.process_id);
        state.wait_for(is_next).await.unwrap();
        sums_up(&job).await;
    });
}

#[test]
fn a_shutdown_ends_a_worker_that_waits_for_its_restart() {
    test(async || {
        let policy =
            RestartPolicy::always().with_initial_delay(10 * GUARD).with_max_delay(10 * GUARD);
        let worker = worker("serves").with_restart(policy).spawn().await.unwrap();
        let mut state = worker.state();
        worker.get_service::<JobClient>().leave(4).await.unwrap_err();
        state.wait_for(|state| *state == WorkerState::Restarting { attempt: 1 }).await.unwrap();
        let exit = worker.shutdown(GUARD).await;
        assert_eq!(exit.status.unwrap().code(), Some(4));
        assert_eq!(*worker.state().borrow(), WorkerState::Exited);
    });
}

#[test]
fn a_worker_that_does_not_answer_is_reported_killed_and_replaced() {
    test(async || {
        let (builder, bell) = with_bell("serves_on_one_thread");
        let builder = builder.with_restart(restarts(RestartPolicy::on_failure()));
        let detection = HangDetection::after(SHORT).with_kill();
        let worker = builder.with_hang_detection(detection).spawn().await.unwrap();
        let (mut events, hung) = (worker.events(), Watched::of(&worker));
        let job: JobClient = worker.get_service();
        let stuck = tokio::spawn(job.block());
        eventually("it is stuck", || bell.rung.load(Ordering::SeqCst) == 1).await;
        let event = events.recv().await.unwrap();
        let WorkerEvent::Unresponsive { process_id, calls } = event else { panic!("{event:?}") };
        assert_eq!((process_id, calls.len()), (hung.process_id, 1));
        assert_eq!(calls[0].method, "Job.block");
        assert!(calls[0].running_for >= SHORT, "{calls:?}");
        let lost = stuck.await.unwrap().unwrap_err();
        assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
        hung.is_reaped().await;
        let ended = events.recv().await.unwrap();
        let killed = |event: &WorkerEvent| matches!(event, WorkerEvent::Ended(exit) if exit.process_id == hung.process_id && !exit.success());
        assert!(killed(&ended), "{ended:?}");
        let ready = events.recv().await.unwrap();
        assert!(
            matches!(ready, WorkerEvent::Ready { process_id } if process_id != hung.process_id)
        );
        sums_up(&job).await;
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn a_worker_that_does_not_answer_is_only_reported_unless_it_is_to_be_killed() {
    test(async || {
        let (builder, bell) = with_bell("serves");
        let builder = builder.with_hang_detection(HangDetection::after(SHORT));
        let worker = builder.spawn().await.unwrap();
        let (mut events, watched) = (worker.events(), Watched::of(&worker));
        let job: JobClient = worker.get_service();
        // A call that takes long is no hang.
        let waiting = tokio::spawn(job.wait());
        eventually("it is under way", || bell.rung.load(Ordering::SeqCst) == 1).await;
        assert!(tokio::time::timeout(3 * SHORT, events.recv()).await.is_err());
        watched.signal(Signal::STOP);
        let event = events.recv().await.unwrap();
        assert!(
            matches!(&event, WorkerEvent::Unresponsive { calls, .. } if calls[0].method == "Job.wait"),
            "{event:?}"
        );
        assert!(tokio::time::timeout(3 * SHORT, events.recv()).await.is_err(), "it is told once");
        watched.signal(Signal::CONT);
        let process_id = watched.process_id;
        assert_eq!(events.recv().await.unwrap(), WorkerEvent::Responsive { process_id });
        waiting.abort();
        sums_up(&job).await;
    });
}

#[test]
fn a_worker_that_is_not_called_is_not_pinged() {
    test(async || {
        let detection = HangDetection::after(SHORT).with_kill();
        let worker = worker("serves").with_hang_detection(detection).spawn().await.unwrap();
        let (mut events, watched) = (worker.events(), Watched::of(&worker));
        watched.signal(Signal::STOP);
        assert!(tokio::time::timeout(4 * SHORT, events.recv()).await.is_err());
        watched.signal(Signal::CONT);
        sums_up(&worker.get_service()).await;
        let none = HangDetection::after(Duration::ZERO);
        let error = self::worker("serves").with_hang_detection(none).spawn().await.unwrap_err();
        assert!(matches!(error, Error::Config { setting: "with_hang_detection", .. }), "{error}");
    });
}

#[test]
fn a_worker_that_a_debugger_stops_is_spared_if_its_host_says_so() {
    test(async || {
        let detection = HangDetection::after(SHORT).with_kill().except_under_debugger();
        let worker = worker("serves").with_hang_detection(detection).spawn().await.unwrap();
        let (mut events, watched) = (worker.events(), Watched::of(&worker));
        let process = watched.process_id.to_string();
        let mut debugger = Command::new("strace");
        debugger.args(["-f", "-o", "/dev/null", "-p", &process]).stderr(Stdio::null());
        let mut debugger = debugger.spawn().expect("strace is installed");
        let status = format!("/proc/{process}/status");
        let is_traced = || {
            let status = std::fs::read_to_string(&status).unwrap();
            status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        };
        eventually("it is traced", is_traced).await;
        watched.signal(Signal::STOP);
        let sum = tokio::spawn(worker.get_service::<JobClient>().add(20, 22));
        assert!(tokio::time::timeout(4 * SHORT, events.recv()).await.is_err());
        watched.signal(Signal::CONT);
        assert_eq!(sum.await.unwrap().unwrap(), 42);
        debugger.kill().unwrap();
        debugger.wait().unwrap();
        sums_up(&worker.get_service()).await;
    });
}

#[test]
fn what_a_worker_prints_is_logged_with_its_name() {
    if !alone() {
        return;
    }
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    block_on(Flavor::MultiThread, async {
        let worker = worker("serves").with_name("press").spawn().await.unwrap();
        worker.get_service::<JobClient>().print("good\x07 news".to_owned()).await.unwrap();
        for (level, stream) in [(tracing::Level::INFO, "stdout"), (tracing::Level::WARN, "stderr")]
        {
            eventually(stream, || {
                lines.has(level, &["worker=\"press\"", stream, "good\\u{7} news"])
            })
            .await;
        }
    });
}

#[test]
fn what_a_worker_prints_can_be_read_by_its_host() {
    test(async || {
        let builder = worker("serves").with_stdout(Output::Piped).with_stderr(Output::Piped);
        let worker = builder.spawn().await.unwrap();
        let (mut stdout, mut stderr) =
            (worker.take_stdout().unwrap(), worker.take_stderr().unwrap());
        assert!(worker.take_stdout().is_none() && worker.take_stderr().is_none());
        worker.get_service::<JobClient>().print("extra, extra".to_owned()).await.unwrap();
        assert!(worker.shutdown(GUARD).await.success());
        for pipe in [&mut stdout as &mut dyn std::io::Read, &mut stderr] {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            assert!(text.contains("extra, extra"), "{text}");
        }
    });
}

#[test]
fn what_a_worker_prints_goes_where_its_command_says() {
    test(async || {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (reading, writing) = (file.reopen().unwrap(), file.reopen().unwrap());
        let worker = Worker::new(move || {
            let mut command = command("serves");
            command.stdout(writing.try_clone().unwrap()).stderr(Stdio::null());
            command
        });
        let worker = worker.with_stdout(Output::Inherited).with_stderr(Output::Inherited);
        let worker = worker.with_ready_timeout(GUARD).spawn().await.unwrap();
        assert!(worker.take_stdout().is_none());
        worker.get_service::<JobClient>().print("late edition".to_owned()).await.unwrap();
        assert!(worker.shutdown(GUARD).await.success());
        let text = std::io::read_to_string(reading).unwrap();
        assert!(text.contains("late edition"), "{text}");
    });
}
