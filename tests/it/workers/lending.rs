//! What a host and its worker lend each other.

use rustix::process::Signal;
use witrpc::prelude::*;
use witrpc::{Agent, Load, RestartPolicy, Worker, WorkerBuilder};

use super::{Watched, restarts, test, worker};
use crate::fixture::{Flavor, GUARD, eventually, runtime};
use crate::lending::{Painter, StudioClient, StudioServer, seen};

/// What each side can lend.
const ARENA: usize = 1 << 20;

/// A worker with a studio.
pub(super) fn paint(trusts: bool) {
    runtime(Flavor::MultiThread).block_on(async {
        let agent = Agent::from_env().unwrap();
        let agent = if trusts {
            // SAFETY: the host is this test, which writes to nothing that it has lent.
            unsafe { agent.with_trusted_peer() }
        } else {
            agent
        };
        agent.with_service(StudioServer::new(Painter::default())).run().await.unwrap();
    });
}

/// A host's builder for it.
fn studio(host_trusts: bool, worker_trusts: bool) -> WorkerBuilder {
    let worker = worker(if worker_trusts { "paints_trusting" } else { "paints" });
    let worker = worker.with_lending(ARENA as u64);
    if host_trusts {
        // SAFETY: the worker is this test binary, which writes to nothing that it has lent.
        unsafe { worker.with_trusted_peer() }
    } else {
        worker
    }
}

async fn lent(worker: &Worker, len: usize, with: u8) -> Blob {
    let mut loan = worker.client().lend(len).await.unwrap();
    loan.fill(with);
    loan.freeze()
}

async fn all_is_back(worker: &Worker) {
    let is_back = |load: Load| load.memory.lent == 0 && load.memory.borrowed == 0;
    eventually("all memory is back", || is_back(worker.client().load())).await;
}

#[test]
fn a_host_and_its_worker_lend_each_other_whether_they_trust_or_not() {
    test(async || {
        for (host_trusts, worker_trusts) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let worker = studio(host_trusts, worker_trusts).spawn().await.unwrap();
            let studio = worker.get_service::<StudioClient>().with_timeout(GUARD);
            for len in [1, 5000, ARENA] {
                let blob = lent(&worker, len, 3).await;
                let there = studio.look(vec![blob.clone()]).await.unwrap();
                assert_eq!(there[0].1, 3 * len as u64);
                let back = studio.echo(blob.clone()).await.unwrap();
                assert_eq!(back, blob);
                let is_own = back.as_ptr() == blob.as_ptr();
                assert_eq!(is_own, worker_trusts, "it came back by reference");
                drop((blob, back));
                let (rendered, there) = studio.render(len, 7).await.unwrap();
                assert_eq!((seen(&rendered).1, there.1), (7 * len as u64, 7 * len as u64));
                // Read in place, or the copy of it: both go back.
                let there = studio.look(vec![rendered]).await.unwrap();
                assert_eq!(there[0].1, 7 * len as u64);
                all_is_back(&worker).await;
            }
            let mut frames = studio.frames(20, 50_000).await.unwrap();
            for number in 0..20 {
                assert_eq!(seen(&frames.next().await.unwrap().unwrap()).1, 50_000 * number);
            }
            let mut raised = studio.raised().subscribe();
            studio.raise(30_000, 1).await.unwrap();
            assert_eq!(seen(&raised.next().await.unwrap().unwrap()).1, 30_000);
            drop((frames, raised));
            all_is_back(&worker).await;
            assert!(worker.shutdown(GUARD).await.success());
        }
    });
}

#[test]
fn over_an_encrypted_connection_the_same_program_lends_nothing() {
    test(async || {
        let worker = super::worker("paints_encrypted").with_lending(ARENA as u64);
        let worker = worker.with_client(|client| client.with_encryption());
        let worker = worker.spawn().await.unwrap();
        let studio = worker.get_service::<StudioClient>().with_timeout(GUARD);
        let there = studio.look(vec![lent(&worker, 100_000, 3).await]).await.unwrap();
        assert_eq!(there[0].1, 300_000);
        let (rendered, _) = studio.render(100_000, 2).await.unwrap();
        assert_eq!(seen(&rendered).1, 200_000);
        all_is_back(&worker).await;
    });
}

/// A worker that encrypts.
pub(super) fn paint_encrypted() {
    runtime(Flavor::MultiThread).block_on(async {
        let agent = Agent::from_env().unwrap().with_server(|server| server.with_encryption());
        agent.with_service(StudioServer::new(Painter::default())).run().await.unwrap();
    });
}

#[test]
fn memory_of_a_worker_that_is_killed_stays_as_it_was_and_its_own_is_free_again() {
    test(async || {
        let worker = studio(true, true).with_restart(restarts(RestartPolicy::always()));
        let worker = worker.spawn().await.unwrap();
        let studio = worker.get_service::<StudioClient>().with_timeout(GUARD);
        let (rendered, _) = studio.render(100_000, 5).await.unwrap();
        let blob = lent(&worker, 100_000, 6).await;
        studio.keep(blob.clone()).await.unwrap();
        let hanging = tokio::spawn(studio.hang(lent(&worker, 100_000, 7).await));
        let busy = || worker.client().load().calls == 1;
        eventually("it hangs", busy).await;
        let watched = Watched::of(&worker);
        watched.signal(Signal::KILL);
        hanging.await.unwrap().unwrap_err();
        watched.is_reaped().await;
        eventually("another has its place", || {
            worker.client().is_connected() && worker.process_id() != Some(watched.process_id)
        })
        .await;
        assert_eq!(seen(&rendered).1, 500_000, "what it has lent");
        assert_eq!(seen(&blob).1, 600_000, "what it has borrowed");
        // The next one has arenas of its own, and gets copies of these.
        let there = studio.look(vec![rendered, blob]).await.unwrap();
        assert_eq!([there[0].1, there[1].1], [500_000, 600_000]);
        drop(lent(&worker, ARENA, 1).await);
        all_is_back(&worker).await;
    });
}
