use std::future::poll_fn;
use std::io;

use rustix::io::{FdFlags, fcntl_getfd};
use witrpc_core::WaitStrategy;
use witrpc_core::transport::{Channel, Wake};

use super::{Bequest, HostEnd, WorkerEnd, pair};

const SIZE: u64 = 64 << 10;

fn open() -> (Channel, Channel) {
    let (host, _, bequest) = pair(SIZE).unwrap();
    let (worker, _) = bequest.keep().unwrap();
    let host = host.open(None, None, WaitStrategy::Park, Box::new(())).unwrap();
    let worker = worker.open(WaitStrategy::Park, Box::new(())).unwrap();
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
    let (_host, lifeline, bequest) = pair(SIZE).unwrap();
    let (_worker, theirs) = bequest.keep().unwrap();
    let waiting = std::thread::spawn(move || theirs.wait());
    drop(lifeline);
    waiting.join().unwrap().unwrap();
}

#[test]
fn descriptors_are_closed_on_exec_until_they_are_given() {
    let (host, _, bequest) = pair(SIZE).unwrap();
    for descriptor in bequest.descriptors.iter().chain([&host.waiting]) {
        assert!(fcntl_getfd(descriptor).unwrap().contains(FdFlags::CLOEXEC));
    }
}

/// What takes over another list of descriptors, or another nonce.
fn refused(change: impl FnOnce(&mut Bequest)) -> io::ErrorKind {
    let (_host, _, mut bequest) = pair(SIZE).unwrap();
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
    let another = pair(SIZE).unwrap().2.descriptors.swap_remove(0);
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
    let unsealed = || crate::sys::memory_file::make().unwrap();
    assert_eq!(refused(|bequest| replace(bequest, unsealed())), io::ErrorKind::InvalidData);
    let on_disk = || tempfile::tempfile_in(".").unwrap();
    let kind = refused(|bequest| replace(bequest, on_disk()));
    assert!(matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput), "{kind}");
    // With its seal it is a region like the first.
    let (_host, _, mut bequest) = pair(SIZE).unwrap();
    replace(&mut bequest, unsealed());
    crate::sys::memory_file::seal(&bequest.descriptors[0]).unwrap();
    drop(bequest.keep().unwrap());
}

/// Whoever gets an end of a pipe must not be able to change how the other side's end behaves.
#[test]
#[cfg(target_os = "linux")]
fn a_side_that_makes_its_descriptors_block_changes_nothing_on_the_other_side() {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let (host, _, bequest) = pair(SIZE).unwrap();
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
    for size in [0, 12_287, (64 << 30) + 1] {
        assert_eq!(pair(size).map(|_| ()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let _ends: (HostEnd, WorkerEnd) = {
        let (host, _, bequest) = pair(12_288).unwrap();
        (host, bequest.keep().unwrap().0)
    };
}
