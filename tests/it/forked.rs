//! A process that forks without `exec` while it has clients and servers. In the child they cannot be used, return errors that say so, and
//! do no harm. Tests in `witrpc-mmf` check that the child touches no region, pipe or file.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use tokio::runtime::Runtime;
use witrpc::Error;
use witrpc::prelude::*;

use crate::contract::{CalcClient, CalcServer, Calculator};
use crate::fixture::{Fixture, Flavor, GUARD, Security, alone, poll_once, runtime};

#[witrpc::service]
pub(crate) trait Bell {
    async fn ring(&self) -> witrpc::Result<()>;
    #[event]
    fn rung(&self) -> &Event<u32>;
}

#[derive(Default)]
struct Tower {
    rung: Event<u32>,
}

impl Bell for Tower {
    async fn ring(&self) -> witrpc::Result<()> {
        self.rung.raise(1)
    }

    fn rung(&self) -> &Event<u32> {
        &self.rung
    }
}

/// Forks. `None` is the child.
fn forked() -> Option<Pid> {
    // The harness, in the main thread, waits for this thread, and holds no lock meanwhile.
    let main = format!("/proc/self/task/{}/stat", std::process::id());
    while !std::fs::read_to_string(&main).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 2);
    // SAFETY: no other thread is in the middle of anything, so nothing is half done in the child.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    Pid::from_raw(child)
}

/// Ends the child once it has done this; what cannot be so is its exit status.
fn end_after(body: impl FnOnce()) -> ! {
    let done = catch_unwind(AssertUnwindSafe(body));
    // SAFETY: takes a number. What is to be done at the end of a test binary is the parent's.
    unsafe { libc::_exit(i32::from(done.is_err())) };
}

/// The child's status, if it has ended.
fn ended(child: Pid) -> Option<WaitStatus> {
    waitpid(Some(child), WaitOptions::NOHANG).unwrap().map(|(_, status)| status)
}

/// One endpoint of the process that forks, and a client of it.
struct Pair {
    server: WitServer,
    client: WitClient,
    calc: CalcClient,
    bell: BellClient,
    events: Subscription<u32>,
}

impl Pair {
    async fn of(fixture: &Fixture) -> Self {
        let server = fixture
            .bare_server_builder()
            .with_service(CalcServer::new(Calculator::default()))
            .with_service(BellServer::new(Tower::default()))
            .build()
            .unwrap();
        server.start_waiting_for_connection().await.unwrap();
        let client = fixture.client().await;
        let (calc, bell) = (client.get_service(), client.get_service::<BellClient>());
        let mut events = bell.rung().subscribe();
        bell.ring().await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap(), 1);
        Self { server, client, calc, bell, events }
    }

    /// A round of what it can do.
    async fn works(&mut self) {
        assert_eq!(self.calc.add(1, 2).await.unwrap(), 3);
        let text = "long ".repeat(100_000);
        assert_eq!(self.calc.echo(text.clone()).await.unwrap(), text);
        self.bell.ring().await.unwrap();
        assert_eq!(self.events.next().await.unwrap().unwrap(), 1);
    }
}

fn is_inherited(error: &Error) {
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    assert!(error.to_string().contains("this is a forked child: connect again"), "{error}");
}

fn within<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    runtime.block_on(async { tokio::time::timeout(GUARD, future).await.expect("it hangs") })
}

/// What a child may try with what it has inherited, in a runtime of its own.
fn tries_everything(pair: &mut Pair) {
    let own = runtime(Flavor::CurrentThread);
    for _ in 0..2 {
        is_inherited(&within(&own, pair.calc.add(1, 2)).unwrap_err());
        is_inherited(&within(&own, pair.calc.echo("long ".repeat(100_000))).unwrap_err());
    }
    assert!(within(&own, pair.events.next()).unwrap().is_err(), "the subscription has ended");
    assert!(!pair.client.is_connected());
    // As the error says; the parent goes on meanwhile, and lets it in.
    within(&own, pair.client.connect(GUARD)).unwrap();
    assert_eq!(within(&own, pair.calc.add(1, 2)).unwrap(), 3);
    within(&own, pair.client.disconnect());
}

#[test]
fn what_a_forked_child_inherits_is_refused_there_and_goes_on_here() {
    if !alone() {
        return;
    }
    let parents = runtime(Flavor::CurrentThread);
    let fixtures =
        [Security::None, Security::EncryptedWithToken].map(|s| Fixture::mmf().secured(s));
    let [mut plain, mut sealed] =
        parents.block_on(async { [Pair::of(&fixtures[0]).await, Pair::of(&fixtures[1]).await] });
    let pending = plain.calc.clone();
    let mut pending = Box::pin(async move { pending.wait().await });
    while parents.block_on(plain.calc.waiting()).unwrap() == 0 {
        assert!(poll_once(pending.as_mut()).is_pending());
    }

    let Some(child) = forked() else {
        end_after(|| {
            let own = runtime(Flavor::CurrentThread);
            is_inherited(&within(&own, pending).unwrap_err());
            tries_everything(&mut plain);
            tries_everything(&mut sealed);
            drop((plain, sealed, parents));
            std::mem::forget(fixtures); // Their directories are the parent's.
        })
    };
    // One that connects before it has used anything.
    let Some(second) = forked() else {
        end_after(|| {
            let own = runtime(Flavor::CurrentThread);
            for pair in [&plain, &sealed] {
                within(&own, pair.client.connect(GUARD)).unwrap();
                assert_eq!(within(&own, pair.calc.add(1, 2)).unwrap(), 3);
            }
            // The other way round: what drives them first.
            drop((parents, pending, plain, sealed));
            std::mem::forget(fixtures);
        })
    };

    within(&parents, async {
        for child in [child, second] {
            let status = loop {
                plain.works().await;
                sealed.works().await;
                if let Some(status) = ended(child) {
                    break status;
                }
            };
            assert_eq!(status.exit_status(), Some(0), "the child has said why");
        }
        assert_eq!(plain.calc.waiting().await.unwrap(), 1, "its call was not cancelled");
        plain.calc.open(1).await.unwrap();
        pending.await.unwrap();
        assert!(plain.server.client_count() > 0 && sealed.server.client_count() > 0);
        drop((plain, sealed));
    });
    drop(parents);
}
