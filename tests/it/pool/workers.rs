//! Pools of workers: started, replaced, grown, shrunk and ended. Whatever becomes of them, no process is left.
//!
//! A worker is a second instance of this test binary that runs only [`role`].

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use witrpc::prelude::*;
use witrpc::{CloseReason, Error, MemberRole, PoolBuilder, PoolState, WorkerBuilder};

use super::SHORT;
use crate::fixture::{Flavor, GUARD, block_on, eventually, poll_once, runtime, watch};
use crate::workers::Watched;

/// Tells a process its role.
const ROLE: &str = "WITRPC_IT_POOL";

/// What workers do.
#[witrpc::service]
trait Job {
    async fn process(&self) -> witrpc::Result<u32>;
    /// Tells its host, and waits until the host's gate is open for one. Returns its process.
    async fn hold(&self) -> witrpc::Result<u32>;
    #[witrpc(idempotent)]
    async fn hold_idempotent(&self) -> witrpc::Result<u32>;
    /// Ends the process.
    async fn leave(&self, status: i32) -> witrpc::Result<()>;
    /// Takes memory, and keeps it.
    async fn grow(&self, bytes: usize) -> witrpc::Result<u32>;
    async fn announce(&self, value: u32) -> witrpc::Result<u32>;
    /// Its process, again and again.
    async fn repeat(&self) -> witrpc::Result<Streaming<u32>>;
    #[event]
    fn announced(&self) -> &Event<u32>;
}

/// What hosts offer.
#[witrpc::service]
trait Bell {
    async fn hold(&self, process: u32) -> witrpc::Result<()>;
}

/// The host's.
#[derive(Clone, Debug)]
struct Gate {
    open: Arc<Semaphore>,
    /// The processes that have come.
    held: Arc<Mutex<Vec<u32>>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: Arc::new(Semaphore::new(0)), held: Arc::default() }
    }
}

impl Gate {
    fn held(&self) -> Vec<u32> {
        self.held.lock().unwrap().clone()
    }

    async fn has(&self, calls: usize) {
        eventually("the calls have begun", || self.held().len() == calls).await;
    }

    fn open(&self, calls: usize) {
        self.open.add_permits(calls);
    }
}

impl Bell for Gate {
    async fn hold(&self, process: u32) -> witrpc::Result<()> {
        self.held.lock().unwrap().push(process);
        self.open.acquire().await.map_err(Error::fault)?.forget();
        Ok(())
    }
}

/// The worker's.
#[derive(Default)]
struct Craft {
    announced: Event<u32>,
    kept: Mutex<Vec<u8>>,
}

impl Job for Craft {
    async fn process(&self) -> witrpc::Result<u32> {
        Ok(std::process::id())
    }

    async fn hold(&self) -> witrpc::Result<u32> {
        let bell: BellClient = CallContext::current().peer().get_service();
        bell.hold(std::process::id()).await?;
        Ok(std::process::id())
    }

    async fn hold_idempotent(&self) -> witrpc::Result<u32> {
        self.hold().await
    }

    async fn leave(&self, status: i32) -> witrpc::Result<()> {
        std::process::exit(status)
    }

    async fn grow(&self, bytes: usize) -> witrpc::Result<u32> {
        // Not zero, which takes none.
        self.kept.lock().unwrap().resize(bytes, 7);
        Ok(std::process::id())
    }

    async fn announce(&self, value: u32) -> witrpc::Result<u32> {
        self.announced.raise(value)?;
        Ok(std::process::id())
    }

    async fn repeat(&self) -> witrpc::Result<Streaming<u32>> {
        Ok(Streaming::iter(std::iter::repeat(std::process::id())))
    }

    fn announced(&self) -> &Event<u32> {
        &self.announced
    }
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    watch();
    match &*role {
        "serves" => {
            let agent = Agent::from_env().unwrap().with_service(JobServer::new(Craft::default()));
            runtime(Flavor::MultiThread).block_on(agent.run()).unwrap();
        }
        "fails" => std::process::exit(3),
        _ => panic!("there is no role {role}"),
    }
    // The harness would print, and do more.
    std::process::exit(0);
}

fn worker(role: &'static str, gate: &Gate) -> WorkerBuilder {
    let command = move || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "pool::workers::role", "--nocapture"]).env(ROLE, role);
        command
    };
    Worker::new(command)
        .with_ready_timeout(GUARD)
        .with_service(BellServer::new(gate.clone()))
        .with_restart(at_once(RestartPolicy::always()))
}

fn at_once(policy: RestartPolicy) -> RestartPolicy {
    policy.with_initial_delay(Duration::from_millis(1))
}

fn pool(n: usize, gate: &Gate) -> PoolBuilder {
    let gate = gate.clone();
    Pool::of_workers(n, move || worker("serves", &gate))
}

/// Runs a test of a pool.
fn test(n: usize, set: impl Fn(PoolBuilder) -> PoolBuilder, body: impl AsyncFn(Pool, Gate)) {
    for flavor in [Flavor::MultiThread, Flavor::CurrentThread] {
        block_on(flavor, async {
            let gate = Gate::default();
            let pool = set(pool(n, &gate)).spawn().await.unwrap();
            body(pool, gate).await;
        });
    }
}

fn processes(state: &PoolState, role: MemberRole) -> Vec<u32> {
    let of_role = state.members.iter().filter(|member| member.role == role);
    of_role.filter_map(|member| member.process_id).collect()
}

fn active(pool: &Pool) -> Vec<u32> {
    processes(&pool.state(), MemberRole::Active)
}

fn all(pool: &Pool) -> Vec<Watched> {
    let members = pool.state().members;
    members.iter().filter_map(|member| member.process_id).map(Watched::new).collect()
}

fn hold(pool: &Pool, calls: usize) -> JoinSet<witrpc::Result<u32>> {
    let mut holds = JoinSet::new();
    for _ in 0..calls {
        holds.spawn(pool.get_service::<JobClient>().hold());
    }
    holds
}

async fn results(mut calls: JoinSet<witrpc::Result<u32>>) -> Vec<witrpc::Result<u32>> {
    let mut results = Vec::new();
    while let Some(result) = calls.join_next().await {
        results.push(result.unwrap());
    }
    results
}

#[test]
fn workers_are_started_called_and_shut_down() {
    test(
        2,
        |builder| builder.with_spares(1),
        async |pool, gate| {
            let watched = all(&pool);
            assert_eq!((watched.len(), active(&pool).len()), (3, 2));
            let job: JobClient = pool.get_service();
            let mut called = BTreeSet::new();
            for _ in 0..4 {
                called.insert(job.process().await.unwrap());
            }
            assert_eq!(called, active(&pool).into_iter().collect());
            let holds = hold(&pool, 4);
            gate.has(4).await;
            let pool = Arc::new(pool);
            let shutting_down = tokio::spawn({
                let pool = Arc::clone(&pool);
                async move { pool.shutdown(GUARD).await }
            });
            eventually("it shuts down", || pool.state().is_shut_down).await;
            let refused = job.process().await.unwrap_err();
            let Error::Closed { reason: CloseReason::Local, maybe_executed: false } = refused
            else {
                panic!("{refused}")
            };
            gate.open(4);
            assert!(results(holds).await.iter().all(Result::is_ok));
            shutting_down.await.unwrap();
            assert!(watched.iter().all(Watched::has_ended));
            assert_eq!(pool.state().members, []);
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn a_shutdown_ends_with_its_grace_whatever_workers_do() {
    test(
        2,
        |builder| builder,
        async |pool, gate| {
            let watched = all(&pool);
            let holds = hold(&pool, 2);
            gate.has(2).await;
            watched[0].signal(Signal::STOP);
            pool.shutdown(SHORT).await;
            assert!(watched.iter().all(Watched::has_ended));
            assert!(results(holds).await.iter().all(Result::is_err));
        },
    );
}

#[test]
fn dropping_a_pool_ends_its_workers() {
    test(
        2,
        |builder| builder.with_spares(1),
        async |pool, gate| {
            let watched = all(&pool);
            let job: JobClient = pool.get_service();
            let holds = hold(&pool, 3);
            gate.has(3).await;
            drop(pool);
            for watched in &watched {
                watched.is_reaped().await;
            }
            assert!(results(holds).await.iter().all(Result::is_err));
            let refused = job.process().await.unwrap_err();
            assert!(matches!(refused, Error::Closed { maybe_executed: false, .. }), "{refused}");
        },
    );
}

#[test]
fn workers_end_with_the_runtime_of_their_pool() {
    let gate = Gate::default();
    let of_pool = runtime(Flavor::MultiThread);
    let pool = of_pool.block_on(pool(2, &gate).spawn()).unwrap();
    let watched = all(&pool);
    drop(of_pool);
    block_on(Flavor::CurrentThread, async {
        for watched in &watched {
            watched.is_reaped().await;
        }
        pool.shutdown(GUARD).await;
    });
}

#[test]
fn dropping_the_start_of_a_pool_ends_its_workers() {
    block_on(Flavor::MultiThread, async {
        let started = Arc::new(AtomicU32::new(0));
        let (gate, counted) = (Gate::default(), Arc::clone(&started));
        let make = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            worker("serves", &gate)
        };
        let mut spawning = Box::pin(Pool::of_workers(2, make).spawn());
        assert!(poll_once(spawning.as_mut()).is_pending());
        eventually("they are being started", || started.load(Ordering::SeqCst) == 3).await;
        let before = children();
        drop(spawning);
        eventually("none is left", || children().is_empty() || children().is_disjoint(&before))
            .await;
    });
}

/// The processes that this test's threads have started. Others may run meanwhile.
fn children() -> BTreeSet<u32> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.ok()?.path().join("children")).ok()
    };
    let ids = threads.filter_map(of).collect::<String>();
    let is_of_a_pool = |id: &u32| {
        let environ = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|text| text.starts_with(ROLE.as_bytes()))
    };
    ids.split_whitespace().map(|id| id.parse().unwrap()).filter(is_of_a_pool).collect()
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_its_calls_are_made_again_if_that_does_no_harm() {
    test(
        2,
        |builder| builder,
        async |pool, gate| {
            let job: JobClient = pool.get_service();
            for round in 0..3 {
                let before = gate.held().len();
                let idempotent = tokio::spawn(job.hold_idempotent());
                gate.has(before + 1).await;
                let dies = *gate.held().last().unwrap();
                // One more on each.
                let holds = hold(&pool, 2);
                gate.has(before + 3).await;
                let watched = Watched::new(dies);
                watched.signal(Signal::KILL);
                watched.is_reaped().await;
                gate.has(before + 4).await;
                let other = *gate.held().last().unwrap();
                assert_ne!(other, dies);
                gate.open(4);
                assert_eq!(idempotent.await.unwrap().unwrap(), other, "round {round}");
                let (done, lost): (Vec<_>, Vec<_>) =
                    results(holds).await.into_iter().partition(Result::is_ok);
                assert_eq!((done.len(), lost.len()), (1, 1), "{lost:?}");
                let lost = lost.into_iter().next().unwrap().unwrap_err();
                assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
                // What has not been given to anybody.
                gate.open.forget_permits(4);
                eventually("there is another one", || {
                    let state = pool.state();
                    let connected = state.members.iter().filter(|member| member.is_connected);
                    connected.count() == 2 && !active(&pool).contains(&dies)
                })
                .await;
            }
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn calls_wait_for_the_only_worker_to_be_replaced() {
    test(
        1,
        |builder| builder,
        async |pool, _| {
            let job: JobClient = pool.get_service();
            for _ in 0..3 {
                let before = job.process().await.unwrap();
                let lost = job.leave(1).await.unwrap_err();
                assert!(matches!(lost, Error::Closed { maybe_executed: true, .. }), "{lost}");
                let calls: Vec<_> = (0..10).map(|_| tokio::spawn(job.process())).collect();
                for call in calls {
                    assert_ne!(call.await.unwrap().unwrap(), before);
                }
            }
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn a_spare_takes_the_place_of_a_worker_that_dies() {
    block_on(Flavor::MultiThread, async {
        let gate = Gate::default();
        // It would take long until it is replaced.
        let late = RestartPolicy::always().with_initial_delay(2 * GUARD).with_max_delay(2 * GUARD);
        let make = move || worker("serves", &gate).with_restart(late.clone());
        let pool = Pool::of_workers(1, make).with_spares(2).spawn().await.unwrap();
        let mut announced = pool.subscribe(|job: &JobClient| job.announced());
        let job: JobClient = pool.get_service();
        let mut seen = BTreeSet::new();
        for value in 0..3 {
            let process = job.announce(value).await.unwrap();
            assert!(seen.insert(process));
            assert_eq!(active(&pool), [process]);
            let (index, item) = announced.next().await.unwrap();
            assert_eq!(item.unwrap(), value);
            let member = || pool.state().members.swap_remove(index);
            assert_eq!(member().process_id, Some(process));
            Watched::new(process).signal(Signal::KILL);
            eventually("that is noticed", || !member().is_connected).await;
            // And no other one is started instead.
            assert_eq!(pool.state().members.len(), 3);
        }
        // All are down: calls wait.
        let mut call = Box::pin(job.process());
        eventually("it waits", || {
            assert!(poll_once(call.as_mut()).is_pending());
            pool.state().waiting == 1
        })
        .await;
        pool.shutdown(GUARD).await;
        let refused = call.await.unwrap_err();
        assert!(matches!(refused, Error::Closed { maybe_executed: false, .. }), "{refused}");
    });
}

#[test]
fn a_pool_grows_with_its_calls_and_shrinks_when_they_are_done() {
    let set = |builder: PoolBuilder| {
        builder.with_min(0).with_max(3).with_idle_timeout(Duration::from_millis(40))
    };
    test(1, set, async |pool, gate| {
        assert_eq!(pool.state().members, []);
        for _ in 0..2 {
            let before = gate.held().len();
            let mut watched = Vec::new();
            let mut holds = JoinSet::new();
            for count in 1..=3 {
                holds.spawn(pool.get_service::<JobClient>().hold());
                gate.has(before + count).await;
                eventually("there are as many", || active(&pool).len() == count).await;
            }
            // No more than at most.
            let more = hold(&pool, 3);
            gate.has(before + 6).await;
            assert_eq!(active(&pool).len(), 3);
            watched.extend(all(&pool));
            gate.open(6);
            for result in results(holds).await.into_iter().chain(results(more).await) {
                result.unwrap();
            }
            for watched in &watched {
                watched.is_reaped().await;
            }
            eventually("none is left", || pool.state().members.is_empty()).await;
        }
        // Whatever becomes of a call that waited.
        let mut call = Box::pin(pool.get_service::<JobClient>().process());
        assert!(poll_once(call.as_mut()).is_pending());
        drop(call);
        pool.get_service::<JobClient>().process().await.unwrap();
        pool.shutdown(GUARD).await;
    });
}

#[test]
fn a_worker_with_as_many_calls_as_it_may_have_gets_no_more() {
    let set = |builder: PoolBuilder| builder.with_min(1).with_max(2).with_calls_per_worker(2);
    test(1, set, async |pool, gate| {
        let mut holds = hold(&pool, 9);
        for done in 0..5 {
            gate.has(4 + done).await;
            let state = pool.state();
            let in_flight: Vec<_> = state.members.iter().map(|member| member.in_flight).collect();
            assert_eq!((in_flight, state.waiting), (vec![2, 2], 5 - done));
            gate.open(1);
            holds.join_next().await.unwrap().unwrap().unwrap();
        }
        gate.has(9).await;
        // Those that wait make way if they are dropped, or kept without being polled.
        let mut late: Vec<_> =
            (0..3).map(|_| Box::pin(pool.get_service::<JobClient>().hold())).collect();
        for call in &mut late {
            assert!(poll_once(call.as_mut()).is_pending());
        }
        assert_eq!(pool.state().waiting, 3);
        drop(late.remove(0));
        gate.open(1);
        holds.join_next().await.unwrap().unwrap().unwrap();
        let mut last = late.pop().unwrap();
        eventually("it has begun", || {
            assert!(poll_once(last.as_mut()).is_pending());
            gate.held().len() == 10
        })
        .await;
        gate.open(4);
        last.await.unwrap();
        drop(late);
        assert!(results(holds).await.iter().all(Result::is_ok));
        pool.shutdown(GUARD).await;
    });
}

#[test]
fn a_worker_is_replaced_after_so_many_calls() {
    test(
        2,
        |builder| builder.with_retirement_after(5),
        async |pool, _| {
            let job: JobClient = pool.get_service();
            let mut seen = BTreeSet::new();
            let mut calls = 0;
            while seen.len() < 8 {
                seen.insert(job.process().await.unwrap());
                calls += 1;
            }
            assert!(calls >= 6 * 5, "{calls} calls for {} workers", seen.len());
            eventually("the others have ended", || pool.state().members.len() == 2).await;
            assert_eq!(active(&pool).len(), 2);
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn a_worker_that_occupies_too_much_memory_is_replaced() {
    const SIZE: u64 = 256 << 20;
    test(
        1,
        |builder| builder.with_retirement_above(SIZE),
        async |pool, _| {
            let job: JobClient = pool.get_service();
            let process = job.grow(1 << 20).await.unwrap();
            assert_eq!(job.grow(SIZE as usize + 1).await.unwrap(), process);
            Watched::new(process).is_reaped().await;
            assert_ne!(job.process().await.unwrap(), process);
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn the_streams_and_calls_of_a_worker_that_leaves_go_on() {
    test(
        1,
        |builder| builder.with_retirement_after(3),
        async |pool, gate| {
            let job: JobClient = pool.get_service();
            let mut stream = job.repeat().await.unwrap();
            let process = stream.next().await.unwrap().unwrap();
            let watched = Watched::new(process);
            let mut holds = hold(&pool, 1);
            gate.has(1).await;
            while job.process().await.unwrap() == process {}
            let leaving = || processes(&pool.state(), MemberRole::Leaving);
            assert_eq!(leaving(), [process]);
            gate.open(1);
            assert_eq!(holds.join_next().await.unwrap().unwrap().unwrap(), process);
            for _ in 0..1000 {
                assert_eq!(stream.next().await.unwrap().unwrap(), process);
            }
            drop(stream);
            watched.is_reaped().await;
            eventually("it has left", || leaving().is_empty()).await;
            pool.shutdown(GUARD).await;
        },
    );
}

#[test]
fn the_time_of_a_worker_that_leaves_is_limited() {
    let set = |builder: PoolBuilder| builder.with_retirement_after(1).with_drain_timeout(SHORT);
    test(1, set, async |pool, gate| {
        let holds = hold(&pool, 1);
        gate.has(1).await;
        Watched::new(gate.held()[0]).is_reaped().await;
        let cut = results(holds).await.pop().unwrap().unwrap_err();
        assert!(matches!(cut, Error::Closed { .. }), "{cut}");
        pool.shutdown(GUARD).await;
    });
}

/// While the program fails, calls fail; when it works again, they are answered.
#[test]
fn a_worker_that_was_given_up_is_replaced_by_another() {
    block_on(Flavor::MultiThread, async {
        let works = Arc::new(AtomicBool::new(true));
        let make = {
            let (gate, works) = (Gate::default(), Arc::clone(&works));
            move || {
                let role = if works.load(Ordering::SeqCst) { "serves" } else { "fails" };
                worker(role, &gate).with_restart(RestartPolicy::never())
            }
        };
        let pool = Pool::of_workers(1, make).spawn().await.unwrap();
        let job: JobClient = pool.get_service();
        let first = job.process().await.unwrap();
        drop(job.leave(0).await);
        let second = eventually_ok(&job).await;
        assert_ne!(second, first);
        works.store(false, Ordering::SeqCst);
        drop(job.leave(1).await);
        let mut none = None;
        while none.is_none() {
            none = job.process().await.err().filter(|error| !matches!(error, Error::Closed { .. }));
        }
        let none = none.unwrap();
        assert!(matches!(none, Error::NotConnected { .. }), "{none}");
        works.store(true, Ordering::SeqCst);
        assert_ne!(eventually_ok(&job).await, second);
        pool.shutdown(GUARD).await;
    });
}

async fn eventually_ok(job: &JobClient) -> u32 {
    loop {
        match job.process().await {
            Ok(process) => return process,
            Err(error) => assert!(error.is_surely_not_executed(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_cannot_be_started_is_refused_and_nothing_is_left() {
    block_on(Flavor::CurrentThread, async {
        let gate = Gate::default();
        let count = Arc::new(AtomicU32::new(0));
        let make = {
            let gate = gate.clone();
            move || match count.fetch_add(1, Ordering::SeqCst) {
                0..3 => worker("serves", &gate),
                _ => worker("fails", &gate),
            }
        };
        let failed = Pool::of_workers(3, make).spawn().await.unwrap_err();
        assert!(matches!(failed, Error::Exited { .. }), "{failed}");
        eventually("none is left", || children().is_empty()).await;
        type Set = fn(PoolBuilder) -> PoolBuilder;
        let settings: [(Set, &str); 5] = [
            (|pool| pool.with_max(0), "with_max"),
            (|pool| pool.with_max(1), "with_max"),
            (|pool| pool.with_calls_per_worker(0), "with_calls_per_worker"),
            (|pool| pool.with_retirement_after(0), "with_retirement_after"),
            (|pool| pool.with_min(3), "with_max"),
        ];
        for (set, named) in settings {
            let error = set(pool(2, &gate)).spawn().await.unwrap_err();
            assert!(matches!(error, Error::Config { setting, .. } if setting == named), "{error}");
        }
    });
    let mut spawning = Box::pin(pool(1, &Gate::default()).spawn());
    let std::task::Poll::Ready(Err(error)) = poll_once(spawning.as_mut()) else {
        panic!("it was started")
    };
    assert!(matches!(error, Error::NoRuntime { .. }), "{error}");
}
