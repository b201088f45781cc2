//! A connection without traffic costs nothing: neither process makes a system call or gets a time slice.
//!
//! It is observed for `WITRPC_IDLE_SECS` seconds (default 2; the promise is for 10), in two ways: by the kernel's counters, and by
//! `strace` where that is installed and may attach.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::contract::CalcClient;
use crate::fixture::{Flavor, GUARD, block_on, files, private_directory};
use crate::peer::{Endpoint, Order, Part, Peer, Stage};

/// Whatever was still going on when it began is over once nothing has changed for this long.
const SETTLED: Duration = Duration::from_millis(200);

#[test]
fn an_idle_connection_makes_no_system_call() {
    connection_is_idle(Flavor::MultiThread);
}

#[test]
fn an_idle_connection_makes_no_system_call_on_one_thread() {
    connection_is_idle(Flavor::CurrentThread);
}

/// The client's part, in a child: some traffic, then silence until it is told otherwise, then some more.
pub(crate) async fn is_idle(mut stage: Stage) {
    let client = stage.client();
    client.connect(GUARD).await.unwrap();
    let calc: CalcClient = client.get_service();
    for round in 0..2 {
        for i in 0..1000 {
            assert_eq!(calc.add(i, round).await.unwrap(), i + round);
        }
        assert_eq!(calc.echo("e".repeat(3 << 20)).await.unwrap().len(), 3 << 20);
        stage.must(Order::Greet).await;
    }
}

fn connection_is_idle(flavor: Flavor) {
    let directory = private_directory();
    block_on(flavor, async {
        let mut server = Peer::start(&Part::host(directory.path(), flavor).unwatched());
        server.order(Order::Serve(Endpoint::default())).await.unwrap();
        let client = Part::player(directory.path(), flavor, "is_idle").unwatched();
        let mut client = Peer::start(&client);
        assert!(matches!(client.receive().await, Some(Order::Greet)), "the child failed");
        let processes = [server.id(), client.id()];
        counters_stand_still(&processes).await;
        let mut tracer = Tracer::attach(&processes).await;
        if let Some(tracer) = &mut tracer {
            tracer.stays_silent().await;
        }
        client.answer();
        assert!(matches!(client.receive().await, Some(Order::Greet)), "the child failed");
        if let Some(tracer) = tracer {
            assert!(tracer.has_seen_something(), "strace sees nothing at all");
        }
        client.answer();
        client.leaves().await;
        server.leaves().await;
    });
    assert_eq!(files(directory.path()), [""; 0], "left behind");
}

fn observed_for() -> Duration {
    let seconds = std::env::var("WITRPC_IDLE_SECS").map_or(2.0, |text| text.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

/// Waits until `look` has returned the same for a while.
async fn settled<T: PartialEq>(look: impl Fn() -> T) -> T {
    let deadline = Instant::now() + GUARD / 4;
    let mut before = look();
    loop {
        sleep(SETTLED).await;
        let now = look();
        if now == before {
            return now;
        }
        assert!(Instant::now() < deadline, "it is never idle");
        before = now;
    }
}

async fn counters_stand_still(processes: &[u32]) {
    let look = || processes.iter().map(|process| counters(*process)).collect::<Vec<_>>();
    let before = settled(look).await;
    sleep(observed_for()).await;
    assert_eq!(look(), before, "context switches and time of an idle connection");
}

/// Of every thread: its name, its context switches, and the processor time it has had.
fn counters(process: u32) -> Vec<(String, Vec<u64>)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut paths: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| counters_of_thread(path)).collect()
}

fn counters_of_thread(path: &Path) -> (String, Vec<u64>) {
    let status = fs::read_to_string(path.join("status")).unwrap();
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    let switches = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
    let mut counters: Vec<_> = switches.map(|(_, count)| number(count)).collect();
    assert_eq!(counters.len(), 2, "voluntary and not: {status}");
    let stat = fs::read_to_string(path.join("stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // Fields 14 and 15 of the whole line; the state behind the name is the third.
    counters.extend(fields.split_whitespace().skip(11).take(2).map(number));
    (fs::read_to_string(path.join("comm")).unwrap(), counters)
}

/// `strace`, attached to some processes and all their threads.
struct Tracer {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Tracer {
    /// `None` where there is no `strace`, or none that may attach.
    async fn attach(processes: &[u32]) -> Option<Self> {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new("strace");
        command.arg("-f").arg("-o").arg(output.path()).stderr(Stdio::null());
        for process in processes {
            command.arg("-p").arg(process.to_string());
        }
        let mut tracer = Self { child: command.spawn().ok()?, output };
        let deadline = Instant::now() + GUARD / 4;
        while !processes.iter().all(|process| tracer.traces(*process)) {
            if tracer.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "strace never attaches");
            sleep(Duration::from_millis(5)).await;
        }
        Some(tracer)
    }

    /// Whether it has attached to every thread of this process.
    fn traces(&self, process: u32) -> bool {
        let id = self.child.id().to_string();
        fs::read_dir(format!("/proc/{process}/task")).unwrap().all(|task| {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.unwrap().trim() == id
        })
    }

    /// Attaching interrupts waits, which begin anew. After that, not a line.
    async fn stays_silent(&self) {
        let before = settled(|| self.text()).await;
        sleep(observed_for()).await;
        let now = self.text();
        assert_eq!(now.strip_prefix(&before), Some(""), "system calls of an idle connection");
    }

    fn has_seen_something(&self) -> bool {
        self.text().lines().count() > 100
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output.path()).unwrap()).into_owned()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // A tracer that is killed leaves its tracees running.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
