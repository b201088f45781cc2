//! Descriptors that cross between a host and its worker, and are closed whatever becomes of them.

use std::io::{PipeReader, Read as _, Seek as _, Write as _};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use witrpc::{Descriptor, Error, WitClientBuilder, Worker};

use super::roles::{AbsentClient, Complaint, Doorbell, JobClient};
use super::{GUARD, Watched, test, with_bell, worker};
use crate::fixture::{alone, eventually};
use crate::system::descriptors;

/// A writing end to be sent, and the reading end, which shows whether anybody still has the other.
pub(super) fn probe() -> (Descriptor, PipeReader) {
    let (reading, writing) = std::io::pipe().unwrap();
    (Descriptor::new(writing), reading)
}

pub(super) fn is_closed(pipe: &PipeReader) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ends = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut ends, Some(&at_once)).unwrap();
    ends[0].revents().contains(PollFlags::HUP)
}

pub(super) async fn gets_closed(what: &str, pipe: &PipeReader) {
    eventually(&format!("{what}: it is closed"), || is_closed(pipe)).await;
}

pub(super) async fn text(descriptor: Descriptor) -> String {
    let file = std::fs::File::from(descriptor.take().await.unwrap());
    std::io::read_to_string(file).unwrap()
}

pub(super) async fn started(role: &'static str) -> (Worker, JobClient, Doorbell) {
    let (builder, bell) = with_bell(role);
    let worker = builder.spawn().await.unwrap();
    let job = worker.get_service();
    (worker, job, bell)
}

/// The file has no name, so there is nothing that the worker could open.
#[test]
fn a_worker_reads_a_file_that_only_its_host_can_open() {
    test(async || {
        let (worker, job, _) = started("serves").await;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"for your eyes only").unwrap();
        file.rewind().unwrap();
        assert_eq!(job.read(file.into()).await.unwrap(), "for your eyes only");
        assert!(worker.shutdown(GUARD).await.success());
    });
}

#[test]
fn descriptors_cross_as_results_and_as_errors_and_within_others() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let texts: Vec<_> = (0..20).map(|number| format!("text {number}")).collect();
        let mut pipes = job.pipes(texts.clone()).await.unwrap();
        // In any order.
        for expected in texts.iter().rev() {
            assert_eq!(text(pipes.pop().unwrap()).await, *expected);
        }
        let Err(Complaint::Written(letter)) = job.complain("too slow".to_owned()).await else {
            panic!("it did not complain")
        };
        assert_eq!(text(letter).await, "too slow");
        // The worker calls its host.
        assert_eq!(job.show_host("look".to_owned()).await.unwrap(), "look");
        // With another serializer, and sealed.
        let set = |client: WitClientBuilder| client.with_message_pack().with_encryption();
        let secret = worker("is_secret").with_client(set).spawn().await.unwrap();
        let pipes = secret.get_service::<JobClient>().pipes(vec!["hush".to_owned()]).await;
        assert_eq!(text(pipes.unwrap().pop().unwrap()).await, "hush");
    });
}

#[test]
fn a_descriptor_that_crosses_nothing_is_the_same() {
    test(async || {
        let (mut reading, writing) = std::io::pipe().unwrap();
        let file = std::fs::File::from(Descriptor::new(writing).take().await.unwrap());
        (&file).write_all(b"x").unwrap();
        drop(file);
        let mut text = String::new();
        reading.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let (unsent, pipe) = probe();
        assert!(!is_closed(&pipe));
        drop(unsent);
        assert!(is_closed(&pipe));
    });
}

#[test]
fn descriptors_are_closed_on_both_sides_whatever_becomes_of_their_call() {
    // It counts what the process has.
    if !alone() {
        return;
    }
    test(async || {
        let (worker, job, bell) = started("serves").await;
        // Received and dropped; dropped without having been received.
        let (descriptor, pipe) = probe();
        let reading = tokio::spawn(job.take_and_wait(descriptor));
        eventually("it was taken", || bell.rung.load(Ordering::SeqCst) == 1).await;
        assert!(!is_closed(&pipe), "the worker has it");
        reading.abort();
        gets_closed("its call is cancelled after it was taken", &pipe).await;
        let (descriptor, pipe) = probe();
        job.ignore(descriptor).await.unwrap();
        gets_closed("it is not taken", &pipe).await;
        let (descriptor, pipe) = probe();
        let holding = tokio::spawn(job.hold(descriptor));
        eventually("it is held", || bell.rung.load(Ordering::SeqCst) == 2).await;
        assert!(!is_closed(&pipe), "the host has it");
        holding.abort();
        gets_closed("its call is cancelled before it was taken", &pipe).await;
        // Refused; never sent.
        let (descriptor, pipe) = probe();
        let refused = worker.get_service::<AbsentClient>().take(descriptor).await.unwrap_err();
        assert!(matches!(refused, Error::NoSuchService { .. }), "{refused}");
        gets_closed("its call is refused", &pipe).await;
        let (descriptor, pipe) = probe();
        drop(job.ignore(descriptor));
        gets_closed("its call is not made", &pipe).await;
        // Both sides have as many as before, but for what a runtime keeps for itself.
        let (host, in_worker) = (descriptors(), job.descriptors().await.unwrap());
        for _ in 0..50 {
            job.ignore(probe().0).await.unwrap();
            drop(job.pipes(vec![String::new()]).await.unwrap());
        }
        eventually("the host has closed all", || descriptors() <= host).await;
        while job.descriptors().await.unwrap() > in_worker {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn descriptors_are_closed_when_their_receiver_dies() {
    test(async || {
        for taken in [false, true] {
            let (worker, job, bell) = started("serves").await;
            let (descriptor, pipe) = probe();
            let waiting = match taken {
                true => tokio::spawn(job.take_and_wait(descriptor)),
                false => tokio::spawn(job.hold(descriptor)),
            };
            eventually("it is there", || bell.rung.load(Ordering::SeqCst) == 1).await;
            // And one that the host has not taken.
            let theirs = job.pipes(vec!["late".to_owned()]).await.unwrap().pop().unwrap();
            let watched = Watched::of(&worker);
            watched.signal(rustix::process::Signal::KILL);
            assert!(waiting.await.unwrap().is_err());
            gets_closed("its worker was killed", &pipe).await;
            let gone = theirs.take().await.unwrap_err();
            assert!(matches!(gone, Error::Closed { .. }), "{gone}");
            watched.is_reaped().await;
        }
    });
}

#[test]
fn a_side_that_has_no_descriptors_left_says_so_and_goes_on() {
    test(async || {
        let (worker, job, _) = started("serves").await;
        job.leave_descriptors(0).await.unwrap();
        let (descriptor, pipe) = probe();
        let error = job.read(descriptor).await.unwrap_err().to_string();
        assert!(error.contains("no descriptors left"), "{error}");
        gets_closed("it was not received", &pipe).await;
        // Its own look for the lowest number finds none, so the limit is raised from outside.
        let pid = rustix::process::Pid::from_raw(worker.process_id().unwrap().cast_signed());
        let many = rustix::process::Rlimit { current: Some(1024), maximum: Some(1024) };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, many).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"again").unwrap();
        file.rewind().unwrap();
        assert_eq!(job.read(file.into()).await.unwrap(), "again");
    });
}

/// More at a time than a socket holds.
#[test]
fn a_thousand_descriptors_cross_at_once() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let reading: Vec<_> = (0..1000)
            .map(|number| {
                let (reading, mut writing) = std::io::pipe().unwrap();
                write!(writing, "{number}").unwrap();
                tokio::spawn(job.read(Descriptor::new(reading)))
            })
            .collect();
        for (number, reading) in reading.into_iter().enumerate() {
            assert_eq!(reading.await.unwrap().unwrap(), number.to_string());
        }
    });
}

#[test]
fn clones_and_received_descriptors_can_be_sent_on() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let (_other_worker, other, _) = started("serves").await;
        // From one worker to another, without the host having taken it; a clone has one of its own.
        let pipe = job.pipes(vec!["pass it on".to_owned()]).await.unwrap().pop().unwrap();
        let clone = pipe.clone();
        assert_eq!(other.read(pipe).await.unwrap(), "pass it on");
        assert_eq!(text(clone).await, "", "it was read to its end");
        // One of this process's own: each is sent once, and it is closed when the last is gone.
        let (descriptor, pipe) = probe();
        let [first, second] = [descriptor.clone(), descriptor];
        job.ignore(first.clone()).await.unwrap();
        assert!(!is_closed(&pipe));
        drop(first);
        job.ignore(second).await.unwrap();
        gets_closed("both are gone", &pipe).await;
    });
}

#[test]
fn descriptors_that_were_not_taken_end_with_their_worker() {
    test(async || {
        let worker = worker("serves").spawn().await.unwrap();
        let pipes = worker.get_service::<JobClient>().pipes(vec!["x".to_owned(); 3]).await.unwrap();
        drop(worker);
        for pipe in pipes {
            let gone = pipe.take().await.unwrap_err();
            assert!(matches!(gone, Error::Closed { .. }), "{gone}");
        }
    });
}
