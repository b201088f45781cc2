//! Descriptors in the values of events and in the items of streams, and what becomes of those that nobody takes.

use std::fs::File;
use std::io::{PipeReader, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use witrpc::transport::memory::MemoryTransport;
use witrpc::{
    Descriptor, Error, Event, EventError, Streaming, Subscription, WitClient, WitClientBuilder,
    WitServer, WitServerBuilder,
};

use super::descriptors::{gets_closed, is_closed, probe, started, text};
use super::roles::{Job, JobClient, JobServer, craft};
use super::{GUARD, Watched, test};
use crate::fixture::{alone, eventually};
use crate::system::descriptors;

/// What a subscriber, or a stream, may have that was not fetched.
const MOST: usize = 64;

type Opened = Subscription<(usize, Descriptor)>;

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("text {number}")).collect()
}

/// The next value, and what can be read from it.
async fn next(opened: &mut Opened) -> (usize, String) {
    let (number, pipe) = opened.next().await.unwrap().unwrap();
    (number, text(pipe).await)
}

/// Waits until a worker has no more descriptors than so many.
async fn has_closed(job: &JobClient, before: usize) {
    while job.descriptors().await.unwrap() > before {
        tokio::task::yield_now().await;
    }
}

/// Probes for a stream: they are made as it is polled, and what shows whether they were closed is kept.
#[derive(Clone, Default)]
struct Probes(Arc<Mutex<Vec<PipeReader>>>);

impl Probes {
    fn stream(&self) -> Streaming<Descriptor> {
        let kept = Arc::clone(&self.0);
        Streaming::iter(std::iter::repeat_with(move || {
            let (descriptor, pipe) = probe();
            kept.lock().unwrap().push(pipe);
            descriptor
        }))
    }

    fn made(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    async fn get_closed(&self, what: &str) {
        eventually(what, || self.0.lock().unwrap().iter().all(is_closed)).await;
    }
}

#[test]
fn values_of_events_have_descriptors_and_each_subscriber_gets_its_own() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let [mut first, mut second] = [job.opened().subscribe(), job.opened().subscribe()];
        job.publish(texts(3)).await.unwrap();
        for (number, expected) in texts(3).into_iter().enumerate() {
            assert_eq!(next(&mut first).await, (number, expected));
            // It is the same pipe, and was read.
            assert_eq!(next(&mut second).await, (number, String::new()));
        }
        // The worker reads on until all have closed their ends, and it has closed its own.
        let collecting = tokio::spawn(job.collect());
        for (subscriber, letter) in [(&mut first, "a"), (&mut second, "b")] {
            let (_, descriptor) = subscriber.next().await.unwrap().unwrap();
            let mut file = File::from(descriptor.take().await.unwrap());
            file.write_all(letter.as_bytes()).unwrap();
        }
        assert_eq!(collecting.await.unwrap().unwrap(), "ab");
    });
}

#[test]
fn items_of_streams_have_descriptors_both_ways() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let mut pipes = job.stream_pipes(texts(300)).await.unwrap();
        for expected in texts(300) {
            assert_eq!(text(pipes.next().await.unwrap().unwrap()).await, expected);
        }
        assert!(pipes.next().await.is_none());
        let pipes = texts(300).into_iter().map(|text| {
            let (reading, mut writing) = std::io::pipe().unwrap();
            writing.write_all(text.as_bytes()).unwrap();
            Descriptor::new(reading)
        });
        assert_eq!(job.read_stream(Streaming::iter(pipes)).await.unwrap(), texts(300));
    });
}

/// All of them are there before the first is taken: the sender does not have them any more.
#[test]
fn whoever_keeps_what_it_gets_keeps_it_in_its_own_process() {
    // It counts what the process has.
    if !alone() {
        return;
    }
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let (here, before) = (descriptors(), job.descriptors().await.unwrap());
        let mut pipes = job.stream_pipes(texts(200)).await.unwrap();
        let mut opened = job.opened().subscribe();
        let mut kept = Vec::new();
        while let Some(pipe) = pipes.next().await {
            kept.push(pipe.unwrap());
        }
        for round in 0..4 {
            job.publish(texts(MOST)).await.unwrap();
            for _ in 0..MOST {
                kept.push(opened.next().await.unwrap().unwrap().1);
            }
            assert_eq!(kept.len(), 200 + (round + 1) * MOST);
        }
        has_closed(&job, before).await;
        for (pipe, expected) in kept.drain(..200).zip(texts(200)) {
            assert_eq!(text(pipe).await, expected);
        }
        drop(kept);
        eventually("those that were not taken are closed", || descriptors() <= here).await;
    });
}

#[test]
fn a_subscriber_that_does_not_take_its_values_costs_few_descriptors() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let before = job.descriptors().await.unwrap();
        let mut opened = job.opened().subscribe();
        job.publish(texts(300)).await.unwrap();
        let held = job.descriptors().await.unwrap() - before;
        assert!((MOST..=2 * MOST).contains(&held), "{held}");
        // What was sent; how many were dropped; and what waited.
        for number in 0..MOST {
            assert_eq!(next(&mut opened).await, (number, format!("text {number}")));
        }
        let lost = u64::try_from(300 - 2 * MOST).unwrap();
        assert_eq!(opened.next().await.unwrap().unwrap_err(), EventError::Lagged(lost));
        for number in 300 - MOST..300 {
            assert_eq!(next(&mut opened).await, (number, format!("text {number}")));
        }
        has_closed(&job, before).await;
        // Dropped unread, half of them before they were sent.
        job.publish(texts(300)).await.unwrap();
        assert!(job.descriptors().await.unwrap() > before + MOST / 2);
        drop(opened);
        has_closed(&job, before).await;
    });
}

#[test]
fn an_event_that_waits_loses_no_descriptor() {
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let before = job.descriptors().await.unwrap();
        let mut awaited = job.awaited().subscribe();
        let publishing = tokio::spawn(job.publish_and_wait(texts(1000)));
        for (number, expected) in texts(1000).into_iter().enumerate() {
            assert_eq!(next(&mut awaited).await, (number, expected));
        }
        publishing.await.unwrap().unwrap();
        has_closed(&job, before).await;
    });
}

#[test]
fn a_stream_waits_while_its_reader_leaves_descriptors() {
    test(async || {
        let (worker, job, bell) = started("serves").await;
        let probes = Probes::default();
        let getting = tokio::spawn(job.get_and_wait(probes.stream(), 100));
        eventually("it got some", || bell.rung.load(Ordering::SeqCst) == 1).await;
        let most = 100 + MOST;
        eventually("it is polled as far as it may", || probes.made() == most).await;
        for _ in 0..100 {
            job.add(1, 2).await.unwrap();
        }
        assert_eq!(probes.made(), most, "and no further");
        assert!(!probes.0.lock().unwrap().iter().any(is_closed));
        getting.abort();
        probes.get_closed("the stream was cancelled").await;
        // The worker dies.
        let probes = Probes::default();
        let getting = tokio::spawn(job.get_and_wait(probes.stream(), 1));
        eventually("it got one", || probes.made() == 1 + MOST).await;
        let watched = Watched::of(&worker);
        watched.signal(rustix::process::Signal::KILL);
        assert!(getting.await.unwrap().is_err());
        probes.get_closed("its reader was killed").await;
        watched.is_reaped().await;
    });
}

#[test]
fn a_subscriber_that_is_killed_leaves_no_descriptor() {
    test(async || {
        let (worker, job, bell) = started("serves").await;
        let watching = tokio::spawn(async move { job.watch_and_wait(10).await });
        eventually("it watches", || bell.rung.load(Ordering::SeqCst) == 1).await;
        eventually("it has subscribed", || bell.shown.subscriber_count() == 1).await;
        // Some are taken; some are there and not taken; some were sent and not fetched; and some wait.
        let probes = Probes::default();
        for _ in 0..MOST + 20 {
            let (descriptor, pipe) = probe();
            probes.0.lock().unwrap().push(pipe);
            bell.shown.raise(descriptor).unwrap();
        }
        eventually("it got ten", || bell.rung.load(Ordering::SeqCst) == 2).await;
        assert!(!probes.0.lock().unwrap().iter().any(is_closed));
        let watched = Watched::of(&worker);
        watched.signal(rustix::process::Signal::KILL);
        assert!(watching.await.unwrap().is_err());
        probes.get_closed("its subscriber was killed").await;
        eventually("nobody subscribes", || bell.shown.subscriber_count() == 0).await;
        watched.is_reaped().await;
    });
}

/// Values that were not taken are lost with their descriptors; those that were taken are there.
#[test]
fn a_sender_that_is_killed_leaves_what_was_fetched_and_nothing_else() {
    // It counts what the process has.
    if !alone() {
        return;
    }
    test(async || {
        let (worker, job, _) = started("serves").await;
        let before = descriptors();
        let mut opened = job.opened().subscribe();
        job.publish(texts(20)).await.unwrap();
        let mut kept = Vec::new();
        for _ in 0..10 {
            let (_, pipe) = opened.next().await.unwrap().unwrap();
            // Then it has come; and a clone has another one.
            drop(pipe.clone().take().await.unwrap());
            kept.push(pipe);
        }
        let watched = Watched::of(&worker);
        watched.signal(rustix::process::Signal::KILL);
        watched.is_reaped().await;
        for (pipe, expected) in kept.into_iter().zip(texts(20)) {
            assert_eq!(text(pipe).await, expected);
        }
        while let Some(Ok((_, pipe))) = opened.next().await {
            let gone = pipe.take().await.unwrap_err();
            assert!(matches!(gone, Error::Closed { .. }), "{gone}");
        }
        drop((opened, job, worker));
        eventually("the host has closed all", || descriptors() <= before).await;
    });
}

#[test]
fn streams_of_descriptors_that_are_dropped_unread_are_closed_on_both_sides() {
    // It counts what the process has.
    if !alone() {
        return;
    }
    test(async || {
        let (_worker, job, _) = started("serves").await;
        let (here, there) = (descriptors(), job.descriptors().await.unwrap());
        for read in [0, 1, 40] {
            let mut pipes = job.stream_pipes(texts(100)).await.unwrap();
            for _ in 0..read {
                drop(pipes.next().await.unwrap().unwrap());
            }
            drop(pipes);
            has_closed(&job, there).await;
            eventually("the host has closed all", || descriptors() <= here).await;
        }
        // A stream that is never read is never polled.
        let probes = Probes::default();
        let getting = tokio::spawn(job.get_and_wait(probes.stream(), 0));
        job.add(1, 2).await.unwrap();
        assert_eq!(probes.made(), 0);
        getting.abort();
    });
}

/// A server and its client within this process.
async fn without_side_channel() -> (WitServer, WitClient, Event<(usize, Descriptor)>) {
    let craft = craft();
    let opened = craft.opened().clone();
    let transport = MemoryTransport::new();
    let server = WitServerBuilder::new().with_service(JobServer::new(craft));
    let server = server.with_transport(transport.clone()).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    let client = WitClientBuilder::new().with_transport(transport).build().unwrap();
    client.connect(GUARD).await.unwrap();
    (server, client, opened)
}

fn advises(error: impl ToString) {
    let error = error.to_string();
    for part in ["cannot carry descriptors", "start the other side as a Worker", "its path"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_connection_that_cannot_carry_descriptors_says_so_to_whoever_sends_one() {
    test(async || {
        let (_server, client, opened) = without_side_channel().await;
        let job: JobClient = client.get_service();
        // A caller, before anything is sent.
        let (descriptor, pipe) = probe();
        let error = job.read(descriptor).await.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:#?}");
        assert!(error.is_surely_not_executed());
        advises(error);
        gets_closed("it was not sent", &pipe).await;
        // A handler: its call fails, and not only what its caller does with the result.
        let error = job.pipes(vec![String::new()]).await.unwrap_err();
        assert!(matches!(error, Error::Serialize { .. }), "{error:#?}");
        advises(error);
        // Whoever raises an event. Those within the process get it.
        let (mut here, mut there) = (opened.subscribe(), job.opened().subscribe());
        while opened.subscriber_count() < 2 {
            job.add(1, 2).await.unwrap();
        }
        let (descriptor, pipe) = probe();
        let error = opened.raise((7, descriptor)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:#?}");
        advises(error);
        let lagged = there.next().await.unwrap().unwrap_err();
        assert_eq!(lagged, EventError::Lagged(1));
        let (number, descriptor) = here.next().await.unwrap().unwrap();
        assert_eq!((number, is_closed(&pipe)), (7, false));
        drop(descriptor);
        gets_closed("its only subscriber has dropped it", &pipe).await;
        // A stream, which ends.
        let mut pipes = job.stream_pipes(texts(3)).await.unwrap();
        let error = pipes.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Serialize { .. }), "{error:#?}");
        advises(error);
        assert!(pipes.next().await.is_none());
        let probes = Probes::default();
        let error = job.read_stream(probes.stream()).await.unwrap_err();
        advises(error);
        probes.get_closed("it was not sent").await;
    });
}

#[test]
fn a_value_has_no_more_descriptors_than_it_may() {
    test(async || {
        let event = Event::new();
        let probes: Vec<_> = (0..=MOST).map(|_| probe()).collect();
        let (descriptors, pipes): (Vec<_>, Vec<_>) = probes.into_iter().unzip();
        // Of interest to nobody but a subscriber in another process.
        let mut here = event.subscribe();
        event.raise(descriptors).unwrap();
        assert_eq!(here.next().await.unwrap().unwrap().len(), MOST + 1);
        for pipe in pipes {
            gets_closed("it was taken, and dropped", &pipe).await;
        }
        let (_worker, job, _) = started("serves").await;
        let mut many = job.many().subscribe();
        let error = job.publish_many(MOST + 1).await.unwrap_err().to_string();
        assert!(error.contains("at most 64 descriptors"), "{error}");
        job.publish_many(MOST).await.unwrap();
        assert_eq!(many.next().await.unwrap().unwrap().len(), MOST);
    });
}
