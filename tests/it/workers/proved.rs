//! What the system proves to a host about its worker, and to a worker about its host.

use std::os::unix::process::CommandExt as _;

use rustix::process::{getegid, geteuid, getgid, getuid};
use witrpc::{Credentials, Descriptor, Worker};

use super::descriptors::{started, text};
use super::roles::JobClient;
use super::{GUARD, Watched, command, test};

fn of(worker: &Worker) -> Credentials {
    worker.client().peer().unwrap().credentials()
}

fn is_of_worker(proven: &Credentials, worker: &Worker) {
    assert_eq!(proven.process_id, worker.process_id());
    let user = (proven.user_id, proven.group_id);
    assert_eq!(user, (Some(getuid().as_raw()), Some(getgid().as_raw())));
}

#[test]
fn a_host_and_its_worker_know_each_other() {
    test(async || {
        let (worker, job, _) = started("serves").await;
        is_of_worker(&of(&worker), &worker);
        let user = (Some(geteuid().as_raw()), Some(getegid().as_raw()));
        let host = job.host().await.unwrap();
        assert_eq!(host, (Some(std::process::id()), user.0, user.1, true));
        // Also once descriptors have been read from the same socket.
        let pipe = job.pipes(vec!["x".to_owned()]).await.unwrap().pop().unwrap();
        assert_eq!(text(pipe).await, "x");
        is_of_worker(&of(&worker), &worker);
    });
}

/// They are read from the socket by whoever comes first.
#[test]
fn credentials_can_be_asked_for_at_any_time() {
    test(async || {
        let (worker, job, _) = started("serves").await;
        let asking: Vec<_> = (0..4)
            .map(|_| {
                let client = worker.client().clone();
                std::thread::spawn(move || client.peer().unwrap().credentials())
            })
            .collect();
        let pipes: Vec<Descriptor> = job.pipes(vec!["y".to_owned(); 5]).await.unwrap();
        for pipe in pipes {
            assert_eq!(text(pipe).await, "y");
        }
        for asked in asking {
            is_of_worker(&asked.join().unwrap(), &worker);
        }
    });
}

/// A pidfd names the process for as long as it is kept, whoever has its number by then.
#[test]
fn the_pidfd_of_a_worker_outlives_it() {
    test(async || {
        let (worker, _, _) = started("serves").await;
        let (proven, watched) = (of(&worker), Watched::of(&worker));
        let pidfd = proven.process_handle::<std::os::fd::OwnedFd>().unwrap();
        rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL).unwrap();
        watched.is_reaped().await;
        let gone = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        assert_eq!(gone, Err(rustix::io::Errno::SRCH));
    });
}

#[test]
fn a_worker_of_another_user_is_known_as_such() {
    if !geteuid().is_root() {
        return;
    }
    test(async || {
        let worker = Worker::new(|| {
            let mut command = command("serves");
            command.uid(65_534).gid(65_533);
            command
        });
        let worker = worker.spawn().await.unwrap();
        let proven = of(&worker);
        assert_eq!((proven.user_id, proven.group_id), (Some(65_534), Some(65_533)));
        assert_eq!(proven.process_id, worker.process_id());
        let host = worker.get_service::<JobClient>().host().await.unwrap();
        assert_eq!((host.0, host.1), (Some(std::process::id()), Some(0)));
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn whoever_keeps_a_peer_keeps_no_worker() {
    test(async || {
        let (worker, _, _) = started("serves").await;
        let (peer, watched) = (worker.client().peer().unwrap(), Watched::of(&worker));
        drop(worker);
        watched.is_reaped().await;
        assert_eq!(peer.credentials().process_id, Some(watched.process_id));
    });
}
