use std::future::poll_fn;
use std::io;

use rustix::io::{FdFlags, fcntl_getfd};
use witrpc_core::WaitStrategy;
use witrpc_core::transport::{Channel, Wake};

use super::{Bequest, HostEnd, WorkerEnd, pair};
use crate::arena::TrustedPeer;

const SIZE: u64 = 64 << 10;

fn open() -> (Channel, Channel) {
    let (host, _, bequest) = pair(SIZE, 0).unwrap();
    let (worker, _) = bequest.keep().unwrap();
    let host = host.open(None, None, WaitStrategy::Park, Box::new(()), None).unwrap();
    let worker = worker.open(WaitStrategy::Park, Box::new(()), None).unwrap();
    (host, worker)
}

async fn wake(channel: &mut Channel) -> Wake {
    poll_fn(|cx| channel.waiter.poll_wake(cx)).await.unwrap()
}

#[tokio::test]
async fn records_cross_both_ways_and_the_end_of_one_side_is_noticed() {
    for host_ends in [false, true] {
        let (host, worker) = open();
        assert_eq!(worker.peer_process_id, Some(std::process::id()));
        let (mut from, mut to) = (host, worker);
        for _ in 0..2 {
            assert!(!to.receiver.arm().unwrap());
            assert!(from.sender.try_push(b"he", b"llo", 0).unwrap());
            from.sender.publish().unwrap();
            assert_eq!(wake(&mut to).await, Wake::Rung);
            assert_eq!(to.receiver.peek(&mut [0; 5]).unwrap(), Some(5));
            to.receiver.consume();
            std::mem::swap(&mut from, &mut to);
        }
        let (host, worker) = (from, to);
        let [gone, mut left] = if host_ends { [host, worker] } else { [worker, host] };
        drop(gone);
        // A notification that was noticed may still be in the pipe.
        while wake(&mut left).await != Wake::PeerGone {}
    }
}

#[test]
fn a_lifeline_ends_when_the_other_side_drops_its_end() {
    let (_host, lifeline, bequest) = pair(SIZE, 0).unwrap();
    let (_worker, theirs) = bequest.keep().unwrap();
    let waiting = std::thread::spawn(move || theirs.wait());
    drop(lifeline);
    waiting.join().unwrap().unwrap();
}

#[test]
fn descriptors_are_closed_on_exec_until_they_are_given() {
    let (host, _, bequest) = pair(SIZE, 0).unwrap();
    for descriptor in bequest.descriptors.iter().chain([&host.waiting]) {
        assert!(fcntl_getfd(descriptor).unwrap().contains(FdFlags::CLOEXEC));
    }
}

/// What takes over another list of descriptors, or another nonce.
fn refused(change: impl FnOnce(&mut Bequest)) -> io::ErrorKind {
    let (_host, _, mut bequest) = pair(SIZE, 0).unwrap();
    change(&mut bequest);
    bequest.keep().map(|_| ()).unwrap_err().kind()
}

#[test]
fn other_descriptors_are_refused() {
    let invalid = io::ErrorKind::InvalidData;
    assert_eq!(refused(|bequest| bequest.nonce[3] ^= 1), invalid);
    assert_eq!(refused(|bequest| bequest.descriptors.truncate(3)), invalid);
    for (one, other) in [(0, 1), (2, 3), (0, 3)] {
        assert_eq!(refused(|bequest| bequest.descriptors.swap(one, other)), invalid);
    }
    let another = pair(SIZE, 0).unwrap().2.descriptors.swap_remove(0);
    assert_eq!(refused(|bequest| bequest.descriptors[0] = another), invalid);
}

#[test]
#[cfg(target_os = "linux")]
fn a_region_whose_size_can_change_is_refused() {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt as _;

    // The same bytes in a file in memory without a seal, and in one that cannot have any.
    let bytes = |file: &OwnedFd| {
        let mut bytes = vec![0; 4096];
        let file = std::fs::File::from(file.try_clone().unwrap());
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let replace = |bequest: &mut Bequest, file: std::fs::File| {
        file.set_len(SIZE).unwrap();
        file.write_all_at(&bytes(&bequest.descriptors[0]), 0).unwrap();
        bequest.descriptors[0] = file.into();
    };
    let unsealed = || crate::sys::memory_file::make("region").unwrap();
    assert_eq!(refused(|bequest| replace(bequest, unsealed())), io::ErrorKind::InvalidData);
    let on_disk = || tempfile::tempfile_in(".").unwrap();
    let kind = refused(|bequest| replace(bequest, on_disk()));
    assert!(matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput), "{kind}");
    // With its seal it is a region like the first.
    let (_host, _, mut bequest) = pair(SIZE, 0).unwrap();
    replace(&mut bequest, unsealed());
    crate::sys::memory_file::seal(&bequest.descriptors[0]).unwrap();
    drop(bequest.keep().unwrap());
}

/// Whoever gets an end of a pipe must not be able to change how the other side's end behaves.
#[test]
#[cfg(target_os = "linux")]
fn a_side_that_makes_its_descriptors_block_changes_nothing_on_the_other_side() {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let (host, _, bequest) = pair(SIZE, 0).unwrap();
    for descriptor in &bequest.descriptors {
        fcntl_setfl(descriptor, OFlags::empty()).unwrap();
    }
    assert!(fcntl_getfl(&host.waiting).unwrap().contains(OFlags::NONBLOCK));
    // It notifies a worker that never looks, as often as it likes.
    for _ in 0..70_000 {
        crate::event::Notify::notify(&host.notifier).unwrap();
    }
}

#[test]
fn sizes_out_of_bounds_are_refused() {
    for (size, lending) in
        [(0, 0), (12_287, 0), ((64 << 30) + 1, 0), (12_288, (64 << 30) + 1), (12_288, u64::MAX)]
    {
        assert_eq!(
            pair(size, lending).map(|_| ()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
    let _ends: (HostEnd, WorkerEnd) = {
        let (host, _, bequest) = pair(12_288, 0).unwrap();
        (host, bequest.keep().unwrap().0)
    };
}

fn trusted() -> Option<TrustedPeer> {
    // Nothing here writes to what is lent.
    crate::arena::trusted()
}

/// Both channels of a connection with arenas.
fn lending(bytes: u64, trusted: Option<TrustedPeer>) -> [Channel; 2] {
    let (host, _, bequest) = pair(SIZE, bytes).unwrap();
    let (worker, _) = bequest.keep().unwrap();
    let host = host.open(None, None, WaitStrategy::Park, Box::new(()), trusted).unwrap();
    [host, worker.open(WaitStrategy::Park, Box::new(()), trusted).unwrap()]
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn both_sides_lend_to_each_other() {
    for trusted in [None, trusted()] {
        let [host, worker] = lending(100_000, trusted);
        for (from, to) in [(&host, &worker), (&worker, &host)] {
            let (own, peers) = (from.sender.arena().unwrap(), to.receiver.arena().unwrap());
            // Whole pages.
            assert_eq!((own.capacity(), peers.capacity()), (102_400, 102_400));
            let mut piece = own.allocate(100_000).unwrap();
            piece.bytes_mut().copy_from_slice(&[9; 100_000]);
            let lent = piece.freeze();
            let offset = own.locate(&lent).unwrap();
            let mut copy = Vec::new();
            peers.copy(offset, 100_000, &mut copy);
            assert!(copy == lent);
            let in_place = std::sync::Arc::clone(&peers);
            let in_place = in_place.in_place(offset, 100_000, std::sync::Arc::new(()));
            assert_eq!(in_place.is_some(), trusted.is_some());
            assert!(in_place.is_none_or(|there| there == lent));
        }
    }
}

#[tokio::test]
async fn without_memory_for_it_nothing_is_lent_and_the_advice_says_who_can_change_that() {
    for channel in lending(0, None) {
        let advice = channel.sender.arena().unwrap_err();
        assert!(advice.contains("WorkerBuilder::with_lending"), "{advice}");
        assert!(channel.receiver.arena().is_none());
    }
}

#[test]
fn where_the_worker_could_write_to_what_the_host_lends_the_host_must_trust_it() {
    use crate::arena::{Lendable, Readable};

    let open = || {
        let file = crate::sys::memory_file::make("arena").unwrap();
        file.set_len(4096).unwrap();
        let own = Lendable::map(&file, 4096, |_| Ok(false)).unwrap();
        Some(super::Lending { own, peers: Readable::map(&file, 4096).unwrap() })
    };
    let arenas = super::lending::arenas(open(), None);
    let advice = arenas.own.unwrap_err();
    assert!(advice.contains("WorkerBuilder::with_trusted_peer"), "{advice}");
    assert!(arenas.peers.is_some(), "it can read all the same");
    assert!(super::lending::arenas(open(), trusted()).own.is_ok());
}

/// What takes over arenas of 64 KiB after this change.
#[cfg(target_os = "linux")]
fn arenas_are_refused(change: impl FnOnce(&mut Bequest)) -> io::ErrorKind {
    let (_host, _, mut bequest) = pair(SIZE, SIZE).unwrap();
    change(&mut bequest);
    bequest.keep().map(|_| ()).unwrap_err().kind()
}

#[test]
#[cfg(target_os = "linux")]
fn arenas_that_are_not_what_was_announced_are_refused() {
    use crate::sys::memory_file;

    const HOSTS: usize = 4;
    const WORKERS: usize = 5;
    let invalid = io::ErrorKind::InvalidData;
    let file = |size, is_sealed| {
        let file = memory_file::make("arena").unwrap();
        file.set_len(size).unwrap();
        if is_sealed {
            memory_file::seal(&file).unwrap();
        }
        file
    };
    for which in [HOSTS, WORKERS] {
        let replace = |size, is_sealed| {
            move |it: &mut Bequest| it.descriptors[which] = file(size, is_sealed).into()
        };
        // Shorter, longer, and of a size that can change.
        assert_eq!(arenas_are_refused(replace(SIZE - 4096, true)), invalid);
        assert_eq!(arenas_are_refused(replace(0, true)), invalid);
        assert_eq!(arenas_are_refused(replace(SIZE + 4096, true)), invalid);
        assert_eq!(arenas_are_refused(replace(SIZE, false)), invalid);
        let kind = arenas_are_refused(|bequest| {
            let file = tempfile::tempfile_in(".").unwrap();
            file.set_len(SIZE).unwrap();
            bequest.descriptors[which] = file.into();
        });
        assert!(matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput), "{kind}");
        assert_eq!(arenas_are_refused(|bequest| bequest.descriptors.swap(which, 1)), invalid);
    }
    // Sizes that no arena has.
    for size in [1, SIZE - 1, SIZE + 4096, (64 << 30) + 4096, u64::MAX] {
        assert_eq!(arenas_are_refused(|bequest| bequest.arena_size = size), invalid, "{size}");
    }
    // The host's own cannot be mapped for writing, so it cannot be the worker's.
    let swapped = arenas_are_refused(|bequest| bequest.descriptors.swap(HOSTS, WORKERS));
    assert_eq!(swapped, io::ErrorKind::PermissionDenied);
}
