//! Workers, as far as they are the same on every system; `workers` has what only one system can show.
//!
//! A worker is this test binary once more, running [`role`] only; so is a host that is killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use witrpc::prelude::*;
use witrpc::{Error, Output, WorkerBuilder, WorkerState};

use crate::fixture::{Flavor, GUARD, block_on, runtime, watch};
use crate::system::started;

const ROLE: &str = "WITRPC_IT_LAUNCHED";
/// In front of what a host says.
const MARK: &str = "witrpc-launching ";

#[witrpc::service]
trait Task {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    async fn process(&self) -> witrpc::Result<u32>;
    /// Asks the host to double.
    async fn double(&self, number: i32) -> witrpc::Result<i32>;
    async fn leave(&self, status: i32) -> witrpc::Result<()>;
    async fn tick(&self) -> witrpc::Result<()>;
    #[event]
    fn ticked(&self) -> &Event<u32>;
}

#[witrpc::service]
trait Help {
    async fn double(&self, number: i32) -> witrpc::Result<i32>;
}

struct Helper;

impl Help for Helper {
    async fn double(&self, number: i32) -> witrpc::Result<i32> {
        Ok(2 * number)
    }
}

#[derive(Default)]
struct Tasks {
    ticked: Event<u32>,
}

impl Task for Tasks {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        Ok(a + b)
    }

    async fn process(&self) -> witrpc::Result<u32> {
        Ok(std::process::id())
    }

    async fn double(&self, number: i32) -> witrpc::Result<i32> {
        let help: HelpClient = CallContext::current().peer().get_service();
        help.double(number).await
    }

    async fn leave(&self, status: i32) -> witrpc::Result<()> {
        std::process::exit(status)
    }

    async fn tick(&self) -> witrpc::Result<()> {
        self.ticked.raise(std::process::id())
    }

    fn ticked(&self) -> &Event<u32> {
        &self.ticked
    }
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "launching::role", "--nocapture"]).env(ROLE, role);
    command
}

fn worker(role: &'static str) -> WorkerBuilder {
    let worker = Worker::new(move || command(role)).with_name(role).with_ready_timeout(GUARD);
    worker.with_service(HelpServer::new(Helper))
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    watch();
    match &*role {
        "works" => {
            let agent = Agent::from_env().unwrap().with_service(TaskServer::new(Tasks::default()));
            runtime(Flavor::MultiThread).block_on(agent.run()).unwrap();
        }
        "fails" => {
            eprintln!("out of luck");
            std::process::exit(3);
        }
        "hosts" => runtime(Flavor::MultiThread).block_on(async {
            let worker = worker("works").with_stdout(Output::Inherited).spawn().await.unwrap();
            println!("\n{MARK}{}", worker.process_id().unwrap());
            std::future::pending::<()>().await;
        }),
        _ => panic!("there is no role {role}"),
    }
    // The harness would print, and do more.
    std::process::exit(0);
}

#[test]
fn a_worker_is_called_calls_back_is_replaced_and_shut_down() {
    for flavor in [Flavor::MultiThread, Flavor::CurrentThread] {
        block_on(flavor, async {
            let policy = RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(1));
            let worker = worker("works").with_restart(policy).spawn().await.unwrap();
            let (task, mut state) = (worker.get_service::<TaskClient>(), worker.state());
            let first = task.process().await.unwrap();
            assert_eq!(Some(first), worker.process_id());
            assert_eq!(task.add(2, 3).await.unwrap(), 5);
            assert_eq!(task.double(21).await.unwrap(), 42);
            let mut ticked = task.ticked().subscribe();
            task.tick().await.unwrap();
            assert_eq!(ticked.next().await, Some(Ok(first)));
            let lost = task.leave(3).await.unwrap_err();
            assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
            let is_next = |state: &WorkerState| matches!(state, WorkerState::Running { process_id } if *process_id != first);
            state.wait_for(is_next).await.unwrap();
            assert_eq!(ticked.next().await, Some(Err(EventError::Reconnected)));
            let second = task.process().await.unwrap();
            assert_ne!(first, second);
            let exit = worker.shutdown(GUARD).await;
            assert!(exit.success() && exit.process_id == second, "{exit:?}");
            assert_eq!(*worker.state().borrow(), WorkerState::Exited);
        });
    }
}

/// There is nothing that another program could find or open.
#[test]
fn a_worker_has_no_endpoint() {
    block_on(Flavor::MultiThread, async {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_owned();
        let worker = Worker::new(move || {
            let mut command = command("works");
            command.env("WITRPC_DIR", &place);
            command
        });
        let worker = worker.with_service(HelpServer::new(Helper)).spawn().await.unwrap();
        assert_eq!(worker.get_service::<TaskClient>().double(4).await.unwrap(), 8);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(witrpc::endpoints().unwrap().iter().all(|found| !found.name.starts_with("worker")));
    });
}

#[test]
fn a_worker_that_ends_too_early_or_is_not_there_is_an_error_at_once() {
    block_on(Flavor::MultiThread, async {
        let Error::Exited { status, stderr, .. } = worker("fails").spawn().await.unwrap_err()
        else {
            panic!("it was another error")
        };
        assert_eq!((status.unwrap().code(), stderr.trim()), (Some(3), "out of luck"));
        let missing = Worker::new(|| Command::new("no-such-program-anywhere"));
        let error = missing.spawn().await.unwrap_err();
        let Error::Io { context, .. } = &error else { panic!("{error}") };
        assert!(context.contains("no-such-program-anywhere"), "{error}");
    });
}

/// Its standard output is its host's: that ends when both have ended.
#[test]
fn a_worker_does_not_outlive_a_host_that_is_killed() {
    let mut command = command("hosts");
    command.stdout(Stdio::piped());
    let mut host = started(|| command.spawn());
    let mut output = BufReader::new(host.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(MARK) {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the host has ended by itself");
    }
    host.kill().unwrap();
    host.wait().unwrap();
    let (ended, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        ended.send(output.read_to_end(&mut rest).map(drop)).unwrap();
    });
    waiting.recv_timeout(GUARD).expect("the worker goes on").unwrap();
}

#[test]
fn a_worker_ends_when_it_is_dropped_and_a_process_without_a_host_is_no_agent() {
    assert!(!Agent::is_announced());
    assert!(matches!(Agent::from_env().unwrap_err(), Error::Config { .. }));
    block_on(Flavor::MultiThread, async {
        let worker = worker("works").spawn().await.unwrap();
        let (task, mut state) = (worker.get_service::<TaskClient>(), worker.client().state());
        assert_eq!(task.add(1, 1).await.unwrap(), 2);
        drop(worker);
        state.wait_for(|state| *state != ClientState::Connected).await.unwrap();
        assert!(task.add(1, 1).await.is_err());
    });
}
