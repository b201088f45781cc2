//! Memory in which a host and its worker can lend payloads to each other: it is made for each process, and goes with it.

use std::time::Duration;

use witrpc::{Error, Pool, RestartPolicy, WorkerState};

use super::{Watched, restarts, sums_up, test, worker};
use crate::fixture::{GUARD, eventually};

const BYTES: u64 = 3 << 20;

/// The arenas that a process has mapped: their rights, inodes and sizes. This one has those of other tests, too.
fn arenas(process_id: u32) -> Vec<(String, u64, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{process_id}/maps")).unwrap_or_default();
    let arenas = maps.lines().filter(|line| line.contains("memfd:witrpc-arena"));
    let arenas = arenas.map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (from, to) = words[0].split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        (words[1].to_owned(), words[4].parse().unwrap(), to - from)
    });
    arenas.collect()
}

/// Those of a worker's connection: its own, and its host's; and, of the same two, how the host has them.
fn of_both(process_id: u32) -> [u64; 2] {
    let find = |arenas: &[(String, u64, u64)], rights| {
        let mut found = arenas.iter().filter(|(has, ..)| has == rights);
        let (_, inode, size) = found.next().unwrap();
        assert_eq!((*size, found.next()), (BYTES, None));
        *inode
    };
    let workers = arenas(process_id);
    let [own, hosts] = ["rw-s", "r--s"].map(|rights| find(&workers, rights));
    let mut here = arenas(std::process::id());
    here.retain(|(_, inode, _)| [own, hosts].contains(inode));
    assert_eq!(["r--s", "rw-s"].map(|rights| find(&here, rights)), [own, hosts]);
    [own, hosts]
}

fn is_gone(inodes: [u64; 2]) -> bool {
    arenas(std::process::id()).iter().all(|(_, inode, _)| !inodes.contains(inode))
}

#[test]
fn each_process_of_a_worker_gets_memory_to_lend_in_which_goes_with_it() {
    test(async || {
        let policy = restarts(RestartPolicy::always());
        // Whole pages are made of it.
        let worker = worker("serves").with_lending(BYTES - 1).with_restart(policy);
        let worker = worker.spawn().await.unwrap();
        let first = Watched::of(&worker);
        sums_up(&worker.get_service()).await;
        let of_the_first = of_both(first.process_id);
        first.signal(rustix::process::Signal::KILL);
        let is_replaced = || {
            let running = |id| id != first.process_id;
            matches!(*worker.state().borrow(), WorkerState::Running { process_id } if running(process_id))
        };
        eventually("it is replaced", is_replaced).await;
        eventually("the memory goes", || is_gone(of_the_first)).await;
        let of_the_second = of_both(worker.process_id().unwrap());
        assert!(of_the_second.iter().all(|inode| !of_the_first.contains(inode)));
        assert!(worker.shutdown(GUARD).await.success());
        drop(worker);
        eventually("the memory goes", || is_gone(of_the_second)).await;
    });
}

#[test]
fn a_worker_gets_no_memory_to_lend_in_unless_its_host_says_so() {
    test(async || {
        let worker = worker("serves").spawn().await.unwrap();
        assert_eq!(arenas(worker.process_id().unwrap()), []);
        assert!(worker.shutdown(Duration::from_secs(1)).await.success());
    });
}

#[test]
fn more_than_can_be_lent_is_an_error_that_names_the_bound() {
    test(async || {
        let error = worker("serves").with_lending((64 << 30) + 1).spawn().await.unwrap_err();
        assert!(matches!(&error, Error::Config { setting: "with_lending", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("68719476737") && text.contains("at most 68719476736"), "{text}");
        let error = Pool::of_workers(1, || worker("serves").with_lending(u64::MAX));
        let error = error.spawn().await.unwrap_err();
        assert!(matches!(&error, Error::Config { setting: "with_lending", .. }), "{error}");
    });
}
